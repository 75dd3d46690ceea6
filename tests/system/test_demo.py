"""The demo session, from the command to every view of its journal."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from journals import sent_otherwise_than_recorded
from market import WEBHOOK_PATH, ledger, traderspost
from programs import Ended, events, run, script, snapshot, without_key

from actors.report import BAR_HEADER
from models import load_model_bundle

pytestmark = pytest.mark.system

COMMANDS = (
    "",
    "live",
    "golive-test",
    "replay",
    "simulate",
    "backtest",
    "train",
    "gateway",
    "traderspost",
    "why",
    "config",
    "config show",
    "contracts",
    "features",
    "alerts",
    "alerts test",
    "install-service",
    "enable",
    "disable",
    "halt",
    "resume",
    "kill",
    "flatten",
    "resolve",
    "stop",
    "status",
    "positions",
    "reconcile",
    "history",
    "history status",
    "history import",
    "history fetch",
    "journal",
    "journal verify",
    "journal repair",
    "journal archive",
    "journal events",
    "journal bars",
    "journal decisions",
    "journal orders",
    "models",
    "models list",
    "models show",
    "models verify",
    "models import",
    "models promote",
)
HEAVY = ("pandas", "sklearn", "backtrader", "databento", "numpy", "aiohttp", "sqlite_utils")
PROGRESS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ +[\d,]+ trades +[\d,]+ minutes +\d+ decisions +\d+ orders ")


@attrs.frozen
class Demo:
    """The demo that all tests here look at."""

    ended: Ended
    journal: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One whole session, run once for all workers. Nothing is configured, the key included: the demo needs none."""
    base = tmp_path_factory.getbasetemp()
    cwd = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    cwd.mkdir(exist_ok=True)
    said = cwd / "said.json"
    with (cwd / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            ended = run("live", "--demo", "--speed", "max", cwd=cwd, environ=without_key(), limit_s=240)
            assert ended.code == 0, ended.err[-2000:]
            said.write_text(json.dumps(attrs.asdict(ended)))
    return Demo(Ended(**json.loads(said.read_text())), cwd / "journal" / "2024-05-01.db")


@pytest.fixture(scope="session")
def decided(demo: Demo) -> list[dict[str, Any]]:
    """The lines of `journal decisions`."""
    return run("journal", "decisions", demo.journal, "--json").lines()


@pytest.fixture(scope="session")
def orders(demo: Demo) -> list[dict[str, Any]]:
    """The lines of `journal orders`."""
    return run("journal", "orders", demo.journal, "--json").lines()


def iso(ts_ns: int) -> str:
    return datetime.fromtimestamp(ts_ns // 10**9, UTC).isoformat().replace("+00:00", "Z")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- the session


def test_the_session_is_one_sealed_file_named_by_its_date(demo: Demo) -> None:
    assert sorted(snapshot(demo.journal.parent)) == ["2024-05-01.db", "status.json"]
    assert not demo.journal.stat().st_mode & 0o222
    assert str(demo.journal) in demo.ended.out
    assert demo.ended.out.endswith("closed: session_over\n")


def test_the_market_makes_it_trade(demo: Demo) -> None:
    requested = [line["payload"] for line in events(demo.journal, "OrderRequested")]
    intents = Counter(request["intent"] for request in requested)
    assert intents["entry"] >= 10
    assert len({request["reason"] for request in requested if request["intent"] == "exit"}) >= 3
    gates = {e["payload"]["reason"] for e in events(demo.journal, "SignalEvaluated") if e["payload"]["reason"]}
    assert len(gates) >= 3
    refused = [e["payload"] for e in events(demo.journal, "RiskDecided") if not e["payload"]["is_allowed"]]
    assert {decision["rule"] for decision in refused} == {"max_positions"}


def test_the_summary_says_what_the_session_came_to(demo: Demo, decided: list[Any], orders: list[Any]) -> None:
    shown = dict(line.strip().split(maxsplit=1) for line in demo.ended.out.splitlines()[1:-1])
    refused = Counter(line["reason"] for line in decided if line["verdict"] == "refuse")
    exits = Counter(
        e["payload"]["reason"] for e in events(demo.journal, "OrderRequested") if e["payload"]["intent"] == "exit"
    )
    assert re.fullmatch(r"[\d,]+ minutes, [\d,]+ hours, [\d,]+ sessions", shown["bars"])
    assert shown["decisions"] == f"{len(decided)} (veto on)"
    assert refused["vetoed"] >= 3
    for reason, count in refused.items():
        assert f"{reason} {count}" in shown["refusals"]
    last = [line for line in decided if line["reason"] == "vetoed"][-3:]
    vetoed = [line.split() for line in demo.ended.out.splitlines() if line.startswith("  vetoed ")]
    assert [line[1:3] for line in vetoed] == [[line["root"], f"{iso(line['ts_ns'])}:"] for line in last]
    assert f"risk:max_positions {sum(line['state'] == 'refused' for line in orders)}" in shown["refusals"]
    entries = sum(line["intent"] == "entry" for line in orders)
    assert shown["orders"].startswith(f"{entries} entries, {len(orders) - entries} exits")
    for reason, count in exits.items():
        assert f"{reason} {count}" in shown["orders"]
    assert shown["answers"] == f"OrderAccepted {sum(line['attempts'] for line in orders)}"
    pnl = sum(float(e["payload"]["pnl"] or 0) for e in events(demo.journal, "FillAssumed"))
    assert shown["P&L"].startswith(f"{pnl:+,.2f} USD")
    assert (shown["restarts"], shown["positions"]) == ("none", "none")


def test_the_journal_names_the_models_and_they_are_kept_beside_it(demo: Demo) -> None:
    (opened,) = events(demo.journal, "SessionOpened")
    assert opened["payload"]["strategy"]["veto"] is True
    assert (opened["payload"]["mode"], opened["payload"]["is_demo"]) == ("paper", True)
    models = opened["payload"]["models"]
    assert [model["root"] for model in models] == [root["root"] for root in opened["payload"]["roots"] if root["pair"]]
    for model in models:
        bundle = load_model_bundle(model["root"], demo.journal.parent / "models" / model["digest"])
        assert (bundle.digest, list(bundle.features)) == (model["digest"], model["features"])
        assert bundle.digest == load_model_bundle(model["root"]).digest


def test_every_decision_is_scored_and_the_veto_decides_the_entries(demo: Demo, decided: list[dict[str, Any]]) -> None:
    scored = {(e["payload"]["ts"], e["root"]): e for e in events(demo.journal, "VetoScored")}
    assert list(scored) == [(line["ts_ns"], line["root"]) for line in decided]
    for line in decided:
        score = scored[line["ts_ns"], line["root"]]
        said = score["payload"]
        assert score["seq"] == line["seq"] - 1
        assert (said["probability"], said["threshold"]) == (line["probability"], line["threshold"])
        assert abs(said["bias"] + sum(said["contributions"]) - said["probability"]) <= 1e-12
        assert said["is_passed"] == (said["probability"] >= said["threshold"])
        gates = {gate["name"]: gate["is_passed"] for gate in line["gates"]}
        assert gates["veto"] == said["is_passed"]
        if line["verdict"] == "enter":
            assert all(gates.values())
        if line["reason"] == "vetoed":
            assert [name for name, is_passed in gates.items() if not is_passed] == ["veto"]
    assert {said["payload"]["is_passed"] for said in scored.values()} == {True, False}


def test_entries_of_one_slice_go_by_how_far_they_pass(demo: Demo) -> None:
    slices: dict[int, list[float]] = {}
    for e in events(demo.journal, "OrderRequested"):
        if e["payload"]["intent"] == "entry":
            slices.setdefault(e["cause"], []).append(e["payload"]["probability"] - e["payload"]["threshold"])
    assert max(map(len, slices.values())) >= 3
    assert all(margins == sorted(margins, reverse=True) for margins in slices.values())


def test_without_a_terminal_progress_and_log_are_plain_lines(demo: Demo) -> None:
    lines = demo.ended.err.splitlines()
    progress = [line for line in lines if PROGRESS.match(line)]
    assert len(progress) >= 2
    for line in demo.ended.log():
        assert {"event", "level", "timestamp", "session", "seq"} <= set(line)
    assert len(progress) + len(demo.ended.log()) == len(lines)


# ---------------------------------------------------------------- replay and verify


def test_verify_finds_nothing(demo: Demo) -> None:
    ended = run("journal", "verify", demo.journal)
    assert ended.code == 0
    assert ended.out.endswith("chain and head hold, status closed\n")


def test_replay_is_identical_and_reports_every_key(demo: Demo, decided: list[Any], orders: list[Any]) -> None:
    before, files = digest(demo.journal), sorted(path.name for path in demo.journal.parent.iterdir())
    ended = run("replay", demo.journal, "--json")
    assert ended.code == 0
    (report,) = ended.lines()
    assert list(report) == [
        "session",
        "events",
        "inputs",
        "compared",
        "decisions",
        "orders",
        "identical",
        "divergence",
        "models",
        "code",
        "environment",
        "recorded_version",
        "running_version",
        "elapsed_s",
    ]
    assert (report["session"], report["identical"], report["divergence"]) == ("2024-05-01", True, None)
    assert (report["decisions"], report["orders"]) == (len(decided), len(orders))
    assert report["inputs"] + report["compared"] == report["events"]
    assert report["compared"] > 1_000
    assert len(report["models"]) == 12
    assert all(model["used"] == model["recorded"] for model in report["models"])
    assert digest(demo.journal) == before
    assert sorted(path.name for path in demo.journal.parent.iterdir()) == files


def test_replay_in_words_up_to_a_seq(demo: Demo) -> None:
    ended = run("replay", demo.journal, "--until", "400")
    assert ended.code == 0
    assert ended.out.startswith("session 2024-05-01: identical\n  400 events,")


def test_replay_opens_no_socket(demo: Demo) -> None:
    source = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(event)
sys.addaudithook(refuse)
from actors.main import cli
cli(["replay", sys.argv[1], "--until", "400", "--json"])
"""
    ended = script(source, demo.journal)
    assert (ended.code, json.loads(ended.out)["identical"]) == (0, True)


# ---------------------------------------------------------------- the journal's views


def test_events_of_one_type_and_of_all(demo: Demo) -> None:
    everything = run("journal", "events", demo.journal).lines()
    assert [line["seq"] for line in everything] == list(range(1, len(everything) + 1))
    batches = [line for line in everything if line["type"] == "TradesReceived"]
    assert batches == events(demo.journal, "TradesReceived")
    assert set(batches[0]["payload"]) == {"trades", "first_ts_recv", "last_ts_recv"}
    trades = sum(batch["payload"]["trades"] for batch in batches)
    assert f"  trades     {trades:,}\n" in demo.ended.out


@pytest.mark.parametrize(("timeframe", "seconds"), [("1m", 60), ("1h", 3600), ("1d", 0)])
def test_bars_are_csv_with_whole_prices(demo: Demo, timeframe: str, seconds: int) -> None:
    ended = run("journal", "bars", demo.journal, "--timeframe", timeframe, "--csv")
    header, *rows = csv.reader(io.StringIO(ended.out))
    assert tuple(header) == BAR_HEADER
    assert rows
    for row in rows:
        start, end, low, high = int(row[0]), int(row[1]), int(row[6]), int(row[5])
        assert end - start == seconds * 10**9 or timeframe == "1d"
        assert low <= min(int(row[4]), int(row[7])) <= max(int(row[4]), int(row[7])) <= high
        assert int(row[8]) >= int(row[9]) >= 1
    word = {"1m": "minutes", "1h": "hours", "1d": "sessions"}[timeframe]
    assert f"{len(rows):,} {word}" in demo.ended.out


def test_bars_of_one_root(demo: Demo) -> None:
    whole = run("journal", "bars", demo.journal, "--timeframe", "1h").out.splitlines()
    of_gold = run("journal", "bars", demo.journal, "--timeframe", "1h", "--root", "gc").out.splitlines()
    assert of_gold == [line for line in whole if line == whole[0] or line.split(",")[2] == "GC"]
    assert len(of_gold) > 10


def test_decisions_have_the_documented_keys(decided: list[dict[str, Any]]) -> None:
    for line in decided:
        assert list(line) == [
            "seq",
            "ts_ns",
            "root",
            "contract",
            "ibs",
            "gates",
            "probability",
            "threshold",
            "verdict",
            "reason",
        ]
        assert {"name", "is_passed", "value", "reason"} == set(line["gates"][0])
    # one line per decision bar and root
    assert len({(line["ts_ns"], line["root"]) for line in decided}) == len(decided)
    assert len({line["root"] for line in decided}) == 12


def test_orders_have_the_documented_keys(orders: list[dict[str, Any]]) -> None:
    keys = ["signal_id", "root", "contract", "intent", "side", "quantity", "state", "attempts"]
    assert all(list(line) == keys for line in orders)
    assert len({line["signal_id"] for line in orders}) == len(orders)
    assert {line["state"] for line in orders} <= {"filled", "refused", "accepted"}
    assert all((line["attempts"] == 0) == (line["state"] == "refused") for line in orders)


# ---------------------------------------------------------------- why


def test_why_a_bar_was_entered(demo: Demo, decided: list[dict[str, Any]]) -> None:
    filled = {e["root"]: e for e in reversed(events(demo.journal, "FillAssumed")) if e["payload"]["intent"] == "entry"}
    line = next(line for line in decided if line["verdict"] == "enter" and line["root"] in filled)
    ended = run("why", demo.journal, line["root"], iso(line["ts_ns"]))
    assert ended.code == 0
    assert "verdict: enter\n" in ended.out
    assert "REFUSED" not in ended.out
    for gate in line["gates"]:
        assert gate["name"] in ended.out
    chain = re.findall(r"seq (\d+) (\w+) from", ended.out)
    assert [int(seq) for seq, _ in chain] == sorted(int(seq) for seq, _ in chain)
    assert [name for _, name in chain] == [
        "TradesReceived",
        "ClockTicked",
        "SliceClosed",
        "SignalEvaluated",
        "OrderRequested",
        "RiskDecided",
        "OrderSubmitted",
        "OrderAccepted",
        "FillAssumed",
    ]


def test_why_a_bar_was_refused_by_a_gate(demo: Demo, decided: list[dict[str, Any]]) -> None:
    line = next(line for line in decided if line["reason"] == "outside_pivot_range")
    inside_the_bar = iso(line["ts_ns"] - 60 * 10**9)
    ended = run("why", demo.journal, line["root"].lower(), inside_the_bar.removesuffix("Z"))
    assert ended.code == 0
    assert "verdict: refuse (outside_pivot_range)" in ended.out
    assert re.search(r"pivot .* REFUSED: outside_pivot_range", ended.out)
    assert "OrderRequested" not in ended.out


def test_why_a_bar_was_vetoed_names_every_input_and_the_nearest_flip(demo: Demo, decided: list[dict[str, Any]]) -> None:
    flips = set()
    for line in [line for line in decided if line["reason"] == "vetoed"][:6]:
        ended = run("why", demo.journal, line["root"], iso(line["ts_ns"]))
        assert "verdict: refuse (vetoed)" in ended.out
        assert f"probability {line['probability']:.6f} of {line['threshold']:.6f} needed: vetoed" in ended.out
        shown = re.findall(r"^    (\w+) +([-\d.e+]+)   ([-+]\d\.\d{6})", ended.out, re.MULTILINE)
        assert {name for name, _, _ in shown} == set(load_model_bundle(line["root"]).features)
        sizes = [abs(float(contribution)) for _, _, contribution in shown]
        assert sizes == sorted(sizes, reverse=True)
        flips.add("no single input" in ended.out)
        if found := re.search(r"nearest flip: (\w+) (above|below) .* would give ([\d.]+)", ended.out):
            assert float(found[3]) >= line["threshold"] - 1e-6
        else:
            assert "nearest flip: no single input could have turned it round" in ended.out
    assert False in flips, "none of the first six could have been turned round by one input"


def test_why_a_bar_was_refused_by_risk(demo: Demo) -> None:
    refusal = next(e for e in events(demo.journal, "RiskDecided") if not e["payload"]["is_allowed"])
    ended = run("why", demo.journal, refusal["root"], iso(refusal["ts_ns"]))
    assert ended.code == 0
    assert "verdict: enter\n" in ended.out
    assert f"seq {refusal['seq']} RiskDecided from execution: refused by max_positions: 4 of 4" in ended.out
    assert "OrderSubmitted" not in ended.out


def test_why_of_a_bar_that_is_not_there(demo: Demo) -> None:
    ended = run("why", demo.journal, "ES", "2020-01-02T14:00Z")
    assert ended.code == 1
    assert "no decision of ES at 2020-01-02T14:00Z\n  fix: " in ended.err


# ---------------------------------------------------------------- the next demo


def test_the_next_demo_replaces_a_finished_file_and_continues_an_unfinished_one(demo: Demo, tmp_path: Path) -> None:
    """Its orders go to the TradersPost that the environment names, because that one is on loopback."""
    directory = tmp_path / "journal"
    directory.mkdir()
    journal = Path(shutil.copy2(demo.journal, directory))
    finished = digest(journal)
    with traderspost("--clock", "request") as address:
        environ = without_key(TRADERSPOST_WEBHOOK_URL=f"http://{address}{WEBHOOK_PATH}")

        def again(until: str) -> Ended:
            ended = run("live", "--demo", "--speed", "max", "--until", until, cwd=tmp_path, environ=environ)
            assert (ended.code, ended.out.splitlines()[-1]) == (0, "stopped: until")
            return ended

        assert again("2024-04-30T23:05Z").logged("replacing the finished demo file")
        assert digest(journal) != finished
        first = run("journal", "events", journal).lines()
        assert first[-1]["type"] == "SessionStopped"

        continued = again("2024-05-01T00:05Z")
        assert continued.logged("continuing the unfinished session")
        seen = ledger(address)
    assert sorted(snapshot(directory)) == ["2024-05-01.db", "status.json"]
    whole = run("journal", "events", journal).lines()
    assert whole[: len(first)] == first
    assert len(whole) > len(first)
    assert "restarts   process 1\n" in continued.out
    placed = run("journal", "orders", journal).lines()
    assert {line["signal_id"] for line in placed if line["attempts"]} == set(seen["signals"])
    assert len(seen["signals"]) >= 2
    accepted = {signal_id: record["accepted"] for signal_id, record in seen["signals"].items()}
    assert sent_otherwise_than_recorded(journal, accepted) == ""
    assert run("replay", journal).code == 0


# ---------------------------------------------------------------- help


def test_help_of_every_command_loads_nothing_heavy() -> None:
    source = """
import contextlib, io, json, sys
from actors.main import cli
pages = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        cli([*command.split(), "--help"], prog_name="rooney", standalone_mode=False)
    pages[command] = out.getvalue()
print(json.dumps({"pages": pages, "loaded": sorted(sys.modules)}))
"""
    ended = script(source, json.dumps(COMMANDS))
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert not set(HEAVY) & set(found["loaded"])
    for command, page in found["pages"].items():
        assert page.startswith(f"Usage: rooney {command}".rstrip()), page
    for flag in ("--demo", "--config", "--overlay", "--speed", "--until", "--journal-dir", "--seed", "--crash"):
        assert flag in found["pages"]["live"]


def test_the_commands_are_all_there() -> None:
    """A command that `COMMANDS` does not name would have no test of its help."""
    from actors.main import cli

    found = {""}
    for name, command in cli.commands.items():
        found.add(name)
        found |= {f"{name} {inner}" for inner in getattr(command, "commands", {})}
    assert found == set(COMMANDS)
