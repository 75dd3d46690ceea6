"""Degraded starts: with money, repeated failures of the process end entries until the operator says so."""

from __future__ import annotations

from actors.account import Account
from actors.status import Status
from actors.tally import Tally
from domain.events import ActorRestarted, CommandReceived, MessageSkipped, RootHalted, SafeStopRequested, SessionStopped
from domain.risk import Switches
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
