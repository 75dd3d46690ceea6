"""What the gate says to entries around a roll: refusals by name, and no exit is ever refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from domain.events import RollDue
from domain.instruments import ResolvedContract
from domain.units import Nanos
from tests.actors.test_execution import DECIDED, Desk, types


def desk_with(last: dt.date | None, **opened: Any) -> Desk:
    front = ResolvedContract(root="ES", rank=0, raw_symbol="ESM4", last_trade_session=last)
    return Desk(contracts=(front,), **opened)


def entry(desk: Desk) -> tuple[str, str]:
    decided: Any = desk.request()[0]
    return decided.rule, decided.detail


@pytest.mark.parametrize(("last", "rule"), [("2024-05-01", ""), ("2024-04-30", "last_trade_session")])
def test_no_entry_in_a_contract_after_its_last_trade_session(last: str, rule: str) -> None:
    assert entry(desk_with(dt.date.fromisoformat(last)))[0] == rule


def test_with_money_a_contract_whose_end_nobody_knows_is_not_entered() -> None:
    assert entry(desk_with(None))[0] == ""
    live = desk_with(None, mode="live")
    live.machine.account.switches = live.machine.account.switches.commanded("enable", "", ("ES",))
    rule, detail = entry(live)
    assert rule == "last_trade_session"
    assert "contract map" in detail


@pytest.mark.parametrize(("close_ns", "rule"), [(DECIDED, "roll_pending"), (Nanos(DECIDED + 1), ""), (None, "")])
def test_no_entry_once_positions_are_closed_for_a_roll(close_ns: Nanos | None, rule: str) -> None:
    desk = desk_with(dt.date(2024, 6, 18))
    due = RollDue(
        root="ES", from_contract="ESM4", to_contract="ESU4", rule="v", evidence="", policy="close", close_ns=close_ns
    )
    assert desk.put(due) == ()
    assert entry(desk)[0] == rule


def test_an_exit_passes_when_its_contract_must_not_be_held_any_more() -> None:
    desk = desk_with(dt.date(2024, 4, 30))
    assert types(desk.leave()) == ["RiskDecided", "OrderSubmitted"]
