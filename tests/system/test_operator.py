"""The operator at a running process: its own commands, over its own socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from in_this_process import envelopes
from market import assert_replays, gateway, only_journal, write_config
from programs import Ended, Running, assert_refused, run, started, without_key

from actors.main import cli
from adapters.operator_socket import NAME, ask
from domain.errors import OperatorError
from domain.events import CommandReceived, FillAssumed, SessionStopped
from domain.sessions import iso_utc
from domain.units import Price, price_to_decimal

pytestmark = pytest.mark.system

STRATEGY = (
    "{veto: false, warmup_bars: 0, pivot_gate: false, decision_timeframe: 1m, entry_windows: ['00:00-24:00'], "
    "no_entry_before_auto_close_s: 0, entry_ibs_high: 0.7, exit_ibs_low: 0.999, exit_ibs_high: 0.9991, "
    "exit_after_bars: 500}"
)

REST = ["flatten", "flatten", "resolve", "resolve", "resume", "stop"]


class Program:
    """A session of the simulated market in a process of its own, and what is said to it."""

    def __init__(self, directory: Path, running: Running) -> None:
        self.directory, self.running = directory, running
        self.journals = directory / "journal"
        running.wait_until(lambda: (self.journals / NAME).exists())

    def type(self, *arguments: str | Path) -> Ended:
        """A command as the operator types it, without any secret in the environment."""
        return run(*arguments, "--config", self.directory / "live.yml", environ=without_key())

    def type_here(self, *arguments: str | Path) -> Result:
        """The same in this process, where nothing depends on its being one of its own."""
        return CliRunner().invoke(cli, [*map(str, arguments), "--journal-dir", str(self.journals)])

    def say(self, command: str, argument: str = "", **fields: object) -> str:
        """The same by its message: quicker."""
        return "\n".join(ask(self.journals, {"command": command, "argument": argument, **fields})["text"])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.journals, {"command": "status"})["status"]
        return found

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        self.running.wait_until(lambda: holds(self.status()))
        return self.status()


def held(found: dict[str, Any]) -> set[str]:
    return {row["root"] for row in found["positions"] if not row["unknown"]}


def report_of(journal: Path, path: Path) -> Path:
    """What TradersPost would export: every fill a tick worse than assumed."""
    lines = ["ticker,action,status,filled quantity,average fill price,filled at,extras.signal_id"]
    for envelope in envelopes(journal, "FillAssumed"):
        fill = envelope.payload
        assert isinstance(fill, FillAssumed)
        price = price_to_decimal(Price(fill.price + (1 if fill.side == "buy" else -1) * 250_000_000))
        when = iso_utc(fill.ts)
        lines.append(f'MESM2024,{fill.side},filled,{fill.quantity},"{price:,}",{when},{fill.signal_id}')
    path.write_text("\n".join(lines))
    return path


def test_an_operator_halts_flattens_resolves_reconciles_and_stops_and_the_record_replays(tmp_path: Path) -> None:
    with gateway("--simulate", "--speed", "240", "--trades", "400000") as port:
        config = write_config(tmp_path, port=port, roots=("ES", "NQ"), strategy=STRATEGY)
        with started("live", "--config", config, cwd=tmp_path) as running:
            program = Program(tmp_path, running)
            assert "roots not enabled: NQ" in program.say("disable", "nq")
            with pytest.raises(OperatorError, match="'EX' is no root of this session\n  fix: did you mean ES"):
                program.say("enable", "EX")
            program.wait_until(lambda found: held(found) == {"ES"})
            assert "halted" in program.type("halt").out
            (row,) = program.status()["positions"]
            assert (row["contract"], row["quantity"], row["known"]) == ("MESM4", 1, "assumed by rule next_trade")

            report = report_of(only_journal(tmp_path), tmp_path / "fills.csv")
            reconciled = program.type("reconcile", report)
            assert reconciled.code == 0, reconciled
            assert "+1.00 ticks, +1.25 USD worse" in reconciled.out
            assert "confirmed by traderspost: fills.csv" in program.status()["positions"][0]["known"]

            program.say("kill", "all")
            with pytest.raises(OperatorError, match="no exit was sent, ES: kill switch is all"):
                program.say("flatten", "ES")
            program.say("resume")
            program.say("halt")
            assert "ES: exit of MESM4 asked for" in program.say("flatten", "ES")
            program.wait_until(lambda found: not found["positions"])
            unsure = program.type_here("flatten")
            assert (unsure.exit_code, "nobody is there to confirm it\n  fix: add --yes" in unsure.output) == (2, True)
            assert "nothing is held" in program.say("flatten")
            with pytest.raises(OperatorError, match="needs a whole number of contracts and a reason"):
                program.say("resolve", "ES", quantity=2)
            assert "ES: +2 (seen)" in program.say("resolve", "ES", quantity=2, reason="seen")
            assert program.status()["positions"][0]["known"] == "said by the operator (resolve)"
            program.say("resolve", "es", quantity=0, reason="it was another account's")
            assert program.status()["positions"] == []

            program.say("resume")
            program.wait_until(lambda found: held(found) == {"ES"})
            shown = program.type("status").out
            assert "MESM4 (ES) from" in shown
            assert "switches   enabled, not NQ; not halted; kill off" in shown
            said = program.type("stop", "--flatten", "--yes")
            assert said.code == 0, said
            assert "nothing is held, no order is open" in said.out
            assert said.out.endswith("it has ended\n")
            assert running.process.wait(30) == 0
    journal = only_journal(tmp_path)
    record = envelopes(journal)
    commands = [envelope.payload.command for envelope in record if isinstance(envelope.payload, CommandReceived)]
    assert commands == ["disable", "halt", "kill", "flatten", "resume", "halt", *REST]
    said_by = {e.type: e.source for e in record if e.type in ("CommandReceived", "FillConfirmed", "SessionReconciled")}
    assert said_by == dict.fromkeys(("CommandReceived", "FillConfirmed", "SessionReconciled"), "operator")
    last = record[-1].payload
    assert isinstance(last, SessionStopped)
    assert last.positions == ()
    assert not (tmp_path / "journal" / NAME).exists()
    assert_replays(journal)
    # Nothing runs any more: what is on record can be seen all the same, and nothing is added to it.
    assert "positions  none" in program.type_here("positions").output
    again = program.type_here("reconcile", report)
    assert (again.exit_code, "no program is running here: nothing was recorded" in again.output) == (1, True)
    assert "DIFFERS: ES exit sell 1 MESM4" in again.output, "the report is older than the session's end"
    assert_refused(program.type("kill"), 69, "no program is running here")
