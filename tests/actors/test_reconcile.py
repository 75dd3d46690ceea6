"""Assumed fills against a broker's report: what is confirmed, at which cost, and what differs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.reconcile import Reconciliation, SessionFills, reconcile
from domain.broker_report import BrokerFill, BrokerPosition, BrokerReport
from domain.events import FillAssumed
from domain.positions import Position
from domain.units import DAY, MINUTE, SECOND, Nanos, Price
from tests.builders import CLOSE, PRICE, TICK, Record, at, opened_session, traded_root

MES = traded_root("ES", order_product="MES")
"""Read as ES, ordered as MES."""


def assumed(signal_id: str, ts: Nanos, **changes: Any) -> FillAssumed:
    intent = "exit" if signal_id.startswith("exit") else "entry"
    values: dict[str, Any] = {
        "root": "ES",
        "signal_id": signal_id,
        "contract": "ESM4",
        "intent": intent,
        "side": "sell" if intent == "exit" else "buy",
        "quantity": 2,
        "price": PRICE,
        "ts": ts,
        "rule": "next_trade",
        "pnl": Decimal(0) if intent == "exit" else None,
    }
    return FillAssumed(**(values | changes))


ENTRY, EXIT = assumed("entry-1", at(60)), assumed("exit-1", at(120))


def session_of(*fills: FillAssumed, held: int = 0) -> SessionFills:
    record, session = Record(), SessionFills()
    carried = fresh_state()
    if held:
        position = Position(
            root="ES", contract="ESM4", quantity=held, price=PRICE, opened_ns=at(0), entry_signal_id="before"
        )
        carried = attrs.evolve(carried, positions=(position,))
    roots = (MES, traded_root("NQ"), traded_root("GC"))
    for event in (opened_session(roots=roots), carried, *fills):
        session.fold(record.put(event))
    return session


def fill(
    ts: Nanos | None, side: Any = "buy", *, ticks: int = 0, quantity: int = 2, id: str = "", **changes: Any
) -> Any:
    values: dict[str, Any] = {
        "line": 2,
        "symbol": "MESM4",
        "side": side,
        "quantity": quantity,
        "price": Price(PRICE + ticks * TICK),
        "ts": ts,
        "signal_id": id,
    }
    return BrokerFill(**(values | changes))


def compare(session: SessionFills, *fills: BrokerFill) -> Reconciliation:
    kind: Any = "traderspost" if any(each.signal_id for each in fills) else "tradovate_fills"
    return reconcile(session, BrokerReport(kind=kind, name="r.csv", fills=fills))


def test_fills_are_confirmed_with_their_slippage() -> None:
    result = compare(
        session_of(ENTRY, EXIT),
        fill(Nanos(at(60) + SECOND), ticks=1),  # a tick worse
        fill(Nanos(at(120) - SECOND), "sell", ticks=3),  # three ticks better
    )
    assert result.differences == ()
    assert [(one.slippage_ticks, one.slippage_usd) for one in result.confirmed] == [
        (Decimal(1), Decimal("25.00")),  # 0.25 x 50 x 2
        (Decimal(-3), Decimal("-75.00")),
    ]
    assert result.request()["fills"][0] == {
        "root": "ES",
        "signal_id": "entry-1",
        "quantity": 2,
        "price": PRICE + TICK,
        "assumed": PRICE,
    }
    assert "+1.00 ticks, +25.00 USD worse" in "\n".join(result.words())


def test_parts_of_an_order_are_one_fill_at_their_mean_price() -> None:
    (one,) = compare(session_of(ENTRY), fill(at(60), quantity=1), fill(at(61), quantity=1, ticks=1)).confirmed
    assert (one.quantity, one.price, one.slippage_ticks) == (2, PRICE + TICK // 2, Decimal("0.50"))


@pytest.mark.parametrize("symbol", ["MESM4", "MESM24", "MESM2024"])
def test_our_signal_id_is_enough_whatever_the_time_and_the_year_are_written_like(symbol: str) -> None:
    result = compare(
        session_of(ENTRY, EXIT),
        fill(None, id="entry-1", symbol=symbol),
        fill(Nanos(at(60) - DAY), None, id="exit-1", symbol=symbol),
    )
    assert (len(result.confirmed), result.differences) == (2, ())


def test_a_fill_of_another_signal_is_not_ours_however_near() -> None:
    result = compare(session_of(ENTRY), fill(at(60), id="somebody's"))
    assert result.confirmed == ()
    missing, unknown, *_ = result.differences
    assert missing.startswith("ES entry buy 2 ESM4 at 5000")
    assert "was never assumed" in unknown


@pytest.mark.parametrize(
    ("fills", "differences"),
    [
        ([], ["the report has none of it", "+2 here, +0 at the broker"]),
        ([fill(at(60), quantity=1)], ["the report has 1 of it", "+2 here, +1 at the broker"]),
        ([fill(at(60), quantity=3)], ["buy 1 MESM4 at 5000", "+2 here, +3 at the broker"]),
        ([fill(Nanos(at(60) + 31 * MINUTE))], ["none of it", "was never assumed"]),
        ([fill(at(60)), fill(at(61), symbol="ZNM4")], ["no contract of this session"]),
        ([fill(at(60)), fill(at(90), "sell")], ["sell 2 MESM4", "+2 here, +0 at the broker"]),
    ],
)
def test_what_differs_is_listed(fills: list[BrokerFill], differences: list[str]) -> None:
    found = compare(session_of(ENTRY), *fills).differences
    assert len(found) == len(differences), found
    for wanted, line in zip(differences, found, strict=True):
        assert wanted in line


def test_what_was_carried_in_counts_and_other_sessions_do_not() -> None:
    session = session_of(assumed("exit-9", at(10), quantity=1), held=1)
    result = compare(session, fill(at(10), "sell", quantity=1), fill(Nanos(CLOSE + DAY)))
    assert (result.differences, result.ignored) == ((), 1)


def test_a_leg_is_found_under_its_entrys_id_and_a_resolved_fill_needs_none() -> None:
    leg = assumed("exit-own", at(90), rule="stop_leg")
    again = assumed("entry-own", at(100), rule="resolved")
    result = compare(
        session_of(ENTRY, leg, again), fill(at(60), id="entry-1"), fill(at(91), "sell", id="entry-1", ticks=-1)
    )
    assert [one.fill.signal_id for one in result.confirmed] == ["entry-1", "exit-own"]
    assert result.differences == ("position ES M2024: +2 here, +0 at the broker",)


@pytest.mark.parametrize(
    ("quantity", "symbol", "differs"),
    [(2, "MESM4", []), (0, "MESM4", ["+2 here, +0 at the broker"]), (2, "MESU4", ["M2024: +2 here", "U2024: +0 here"])],
)
def test_positions_are_compared_by_contract(quantity: int, symbol: str, differs: list[str]) -> None:
    positions = (BrokerPosition(line=2, symbol=symbol, quantity=quantity),)
    result = reconcile(session_of(ENTRY), BrokerReport(kind="tradovate_positions", name="p", positions=positions))
    assert len(result.differences) == len(differs)
    assert all(wanted in line for wanted, line in zip(differs, result.differences, strict=True))
