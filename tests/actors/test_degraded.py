"""Degraded starts: with money, repeated failures of the process end entries until the operator says so."""

from __future__ import annotations

import pytest

from actors.account import Account
from actors.status import Status
from actors.tally import Tally
from actors.wiring import parse_time
from actors.wiring.in_process import in_process_system
from domain.events import ActorRestarted, CommandReceived, MessageSkipped, RootHalted, SafeStopRequested, SessionStopped
from domain.risk import Switches
from domain.units import float_to_price
from tests.builders import Record, opened_session

STOPPED = SessionStopped(reason="signal", positions=())


def restarted(**changes: object) -> ActorRestarted:
    return ActorRestarted(actor="process", incarnation=2, at_seq=1, **changes)  # type: ignore[arg-type]


def test_crashes_and_safe_stops_are_failures_and_orderly_ends_are_none() -> None:
    tally, record = Tally(), Record()
    tally.fold(record.put(opened_session()))
    assert tally.failures == 1, "it has ended without a word"
    tally.fold(record.put(STOPPED))
    assert tally.failures == 0
    tally.fold(record.put(restarted()))
    assert tally.failures == 1
    for event in (SafeStopRequested(reason="disk"), STOPPED):
        tally.fold(record.put(event))
    assert tally.failures == 1
    for _ in range(2):
        tally.fold(record.put(restarted()))
    assert tally.failures == 3


def test_a_degraded_start_halts_entries_until_resume() -> None:
    account, status, record = Account(), Status(), Record()
    for event in (opened_session(mode="live"), restarted(is_degraded=True)):
        account.remember(event)
        status.fold(record.put(event))
    assert account.switches.is_halted
    assert "halted" in status.blocks()
    resume = CommandReceived(command="resume")
    status.fold(record.put(resume))
    assert "halted" not in status.blocks()
    assert not account.switches.commanded("resume", "", ()).is_halted


def test_the_status_knows_of_every_entry_that_the_account_will_refuse() -> None:
    account, status, record = Account(), Status(), Record()
    for event in (
        opened_session(),
        RootHalted(root="ES", error="ZeroDivisionError: no such bar"),
        MessageSkipped(actor="bars", seq=2, type="TradesReceived", error="ValueError: odd"),
    ):
        account.remember(event)
        status.fold(record.put(event))
    assert account.switches == Switches(is_halted=True, disabled_roots=("ES",))
    assert "halted" in status.blocks()
    assert status.snapshot()["switches"]["disabled_roots"] == ["ES"]


@pytest.mark.parametrize(("bars", "reason"), [(1, "bar_stop"), (1_000, "auto_close")])
def test_after_a_degraded_start_what_is_held_leaves_by_every_rule_and_nothing_is_entered(
    bars: int, reason: str
) -> None:
    system = in_process_system(
        {"ES": "MESM4", "NQ": "MNQM4"}, warmup_bars=0, pivot_gate=False, exit_ibs_low=1.0, exit_after_bars=bars
    )

    def hour(start: int, contract: str, first: float, last: float) -> None:
        system.trade(contract, parse_time(f"2024-05-01T{start}:00:01Z"), float_to_price(first))
        system.trade(contract, parse_time(f"2024-05-01T{start}:59:58Z"), float_to_price(last))

    hour(13, "MESM4", 5100.00, 5090.00)
    system.trade("MESM4", parse_time("2024-05-01T14:00:01Z"), float_to_price(5091.00))
    assert [fill.intent for fill in system.events("FillAssumed")] == ["entry"]
    system.publish(restarted(is_degraded=True), source="supervisor")
    hour(14, "MNQM4", 18_100.00, 18_000.00)
    hour(15, "MESM4", 5092.00, 5091.00)
    hour(19, "MESM4", 5092.00, 5091.00)
    system.trade("MESM4", parse_time("2024-05-01T20:00:01Z"), float_to_price(5091.00))
    requests = {request.signal_id: request for request in system.events("OrderRequested")}
    refused = [(requests[d.signal_id].root, d.rule) for d in system.events("RiskDecided") if not d.is_allowed]
    assert set(refused) == {("NQ", "halted")}
    sent = [requests[accepted.signal_id] for accepted in system.events("OrderAccepted")]
    assert {(request.intent, request.reason) for request in sent} == {("entry", "ibs"), ("exit", reason)}
    assert [fill.intent for fill in system.events("FillAssumed")] == ["entry", "exit"]
