"""The contracts of a session: mappings, what is carried, and the dates of what is ordered."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import pytest

from actors.carry import Inheritance, fresh_state
from actors.contract_choice import asked_symbols, choose_contracts, dated
from adapters.calendar import CmeCalendar
from domain.errors import OperatorError
from domain.events import HistoryLoaded, RollDue
from domain.instruments import HELD_RANK, ResolvedContract, TradedRoot
from domain.positions import Position
from tests.builders import OPEN, PRICE, opened_session, session_of, traded_root

CALENDAR = CmeCalendar()
ES = traded_root("ES", data_product="ES", order_product="MES")
MAPPED = {"ES.v.0": "ESM4", "ES.v.1": "ESU4", "ESM4": "ESM4", "ESH4": "ESH4"}
DUE = RollDue(
    root="ES", from_contract="ESM4", to_contract="ESU4", rule="volume", evidence="", policy="close", close_ns=None
)


def left_with(front: str, *rolls: RollDue, **carried: Any) -> Inheritance:
    contracts = (ResolvedContract(root="ES", rank=0, raw_symbol=front),)
    return Inheritance(
        opened=opened_session(contracts=contracts, roots=(ES,)),
        carried=attrs.evolve(fresh_state(), contracts=contracts, rolls=rolls, **carried),
        history=HistoryLoaded(tables=()),
    )


def chosen(
    mapped: dict[str, str], left: Inheritance | None = None, root: TradedRoot = ES
) -> list[tuple[int, str | None]]:
    found = choose_contracts((root,), session_of("ES"), mapped=mapped, left=left, calendar=CALENDAR)
    return [(contract.rank, contract.raw_symbol) for contract in found.contracts]


def test_the_first_session_trades_what_the_vendor_ranks_first() -> None:
    assert chosen(MAPPED) == [(0, "ESM4"), (1, "ESU4")]


def test_a_mapping_that_has_moved_is_written_down_and_not_followed() -> None:
    mapped = {**MAPPED, "ES.v.0": "ESU4", "ES.v.1": "ESZ4"}
    found = choose_contracts((ES,), session_of("ES"), mapped=mapped, left=left_with("ESM4"), calendar=CALENDAR)
    assert [c.raw_symbol for c in found.contracts] == ["ESM4", "ESU4"]
    assert [c.raw_symbol for c in found.mappings] == ["ESU4", "ESZ4"]


def test_the_session_after_a_roll_was_due_trades_the_next_contract() -> None:
    mapped = {**MAPPED, "ESU4": "ESU4"}
    assert chosen(mapped, left_with("ESM4", DUE)) == [(0, "ESU4"), (1, None)]
    assert chosen({**mapped, "ES.v.1": "ESZ4"}, left_with("ESM4", DUE)) == [(0, "ESU4"), (1, "ESZ4")]


def test_a_roll_out_of_another_contract_moves_nothing() -> None:
    mapped = {**MAPPED, "ESU4": "ESU4"}
    assert chosen(mapped, left_with("ESM4", attrs.evolve(DUE, from_contract="ESH4")))[0] == (0, "ESM4")
    assert chosen(mapped, left_with("ESM4", attrs.evolve(DUE, to_contract=None)))[0] == (0, "ESM4")


def test_the_last_trade_session_itself_is_still_traded() -> None:
    stated = attrs.evolve(ES, last_trade_sessions=(("MESM2024", "2024-05-01"),))
    assert chosen(MAPPED, left_with("ESM4"), stated)[0] == (0, "ESM4")
    over = attrs.evolve(ES, last_trade_sessions=(("MESM2024", "2024-04-30"),))
    assert chosen({**MAPPED, "ESU4": "ESU4"}, left_with("ESM4"), over)[0] == (0, "ESU4")


def test_after_a_pause_a_contract_past_its_last_trade_session_is_left_at_once() -> None:
    assert chosen(MAPPED, left_with("ESH4")) == [(0, "ESM4"), (1, "ESU4")]


def test_a_contract_that_the_feed_does_not_have_is_not_waited_for() -> None:
    mapped = {"ES.v.0": "ESM4", "ES.v.1": "ESU4"}
    assert chosen(mapped, left_with("ESU4"))[0] == (0, "ESM4")
    assert chosen({}, left_with("ESU4"))[0] == (0, "ESU4")  # a feed that knows nothing now may know it later


def test_spreads_and_other_products_are_no_contracts() -> None:
    assert chosen({"ES.v.0": "ESM4", "ES.v.1": "ESM4-ESU4"}) == [(0, "ESM4"), (1, None)]
    with pytest.raises(OperatorError, match="resolves none of ES"):
        chosen({"ES.v.0": "NQM4"})


def test_what_is_held_in_an_old_contract_stays_subscribed_with_its_dates() -> None:
    position = Position(root="ES", contract="ESH4", quantity=1, price=PRICE, opened_ns=OPEN, entry_signal_id="before")
    left = left_with("ESM4", positions=(position,))
    found = choose_contracts((ES,), session_of("ES"), mapped=MAPPED, left=left, calendar=CALENDAR)
    assert (found.contracts[-1].rank, found.contracts[-1].raw_symbol) == (HELD_RANK, "ESH4")
    assert found.contracts[-1].last_trade_session == dt.date(2024, 3, 12)


def test_what_is_held_in_a_root_that_is_not_traded_any_more_does_not_stand_in_the_way_of_saying_so() -> None:
    position = Position(root="NQ", contract="NQH4", quantity=1, price=PRICE, opened_ns=OPEN, entry_signal_id="before")
    assert chosen(MAPPED, left_with("ESM4", positions=(position,)))[-1] == (HELD_RANK, "NQH4")


def test_the_feed_is_asked_for_mappings_and_for_what_may_go_on() -> None:
    assert asked_symbols((ES,), None) == ["ES.v.0", "ES.v.1"]
    assert asked_symbols((ES,), left_with("ESM4", DUE)) == ["ES.v.0", "ES.v.1", "ESM4", "ESU4"]


def dates(root: TradedRoot, raw: str) -> tuple[str, str, str]:
    contract = dated(ResolvedContract(root=root.root, rank=0, raw_symbol=raw), root, CALENDAR, dt.date(2024, 5, 1))
    return str(contract.leave_date), str(contract.last_trade_session), str(contract.roll_session)


def test_a_contract_has_the_dates_of_the_one_that_is_ordered() -> None:
    crude = traded_root("CL", order_product="MCL")
    assert dates(crude, "CLM4") == ("2024-05-20", "2024-05-15", "None")
    assert dates(attrs.evolve(crude, order_product="CL"), "CLM4") == ("2024-05-21", "2024-05-16", "None")
    assert dates(traded_root("XX"), "XXM4") == ("None", "None", "None")


def test_sessions_are_counted_over_weekends_and_holidays() -> None:
    gold = traded_root("GC", roll_rule="calendar", roll_sessions_before=5)
    # Globex trades on Memorial Day, Monday the 27th.
    assert dates(gold, "GCM4") == ("2024-05-31", "2024-05-28", "2024-05-24")


def test_the_contract_map_knows_better() -> None:
    stated = attrs.evolve(ES, last_trade_sessions=(("MESM2024", "2024-06-03"), ("MESM2034", "2034-06-01")))
    assert dates(stated, "ESM4") == ("2024-06-21", "2024-06-03", "None")
