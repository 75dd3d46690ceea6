"""What an operator, a disk and a network can do to the program: a clear message, the right exit code, nothing lost."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from databento_dbn import InstrumentClass, InstrumentDefMsg, Metadata, Schema, SecurityUpdateAction, SType
from journals import sent_otherwise_than_recorded
from market import KEY, MARKET_DATA, WEBHOOK_PATH, environment, gateway, ledger, traderspost, write_config
from programs import WEBHOOK_SECRET, Ended, assert_refused, run, snapshot, started, without_key

pytestmark = pytest.mark.system

HEADER = "mode: paper\naccount: a\nclock: feed\njournal_dir: journal\n"
LOCAL = "feed: {gateway: 127.0.0.1, port: 9}\n"
REAL_URL = f"https://webhooks.traderspost.io/trading/webhook/0123-4567/{WEBHOOK_SECRET}"
OTHER_URL = f"https://orders.example.com/trading/webhook/0123-4567/{WEBHOOK_SECRET}"
OTHER_KEY = "db-another-key-of-the-tests-0000"
TRADE_BYTES = 48
NEVER_REACHED = "gateway.invalid"
"""A name that cannot exist (RFC 2606): nobody is called even if a check should fail."""


def live_config(directory: Path) -> str:
    """A configuration with everything that `mode: live` wants written, and its contract map beside it."""
    (directory / "map.yml").write_text("contracts: [{symbol: ES, spec: {initial_margin_usd: 2500}}]\n")
    risk = (
        "{max_positions: 1, max_contracts: 1, max_margin_usd: 2500, daily_loss_usd: 100, stale_flatten_s: 300, "
        "safestop_policy: hold}"
    )
    return (
        f"mode: live\naccount: a\njournal_dir: journal\ncontract_map: map.yml\nrisk: {risk}\n"
        f"golive: {{checklist: {dt.datetime.now(dt.UTC).date()}, account: a}}\n"
        f"feed: {{gateway: {NEVER_REACHED}, port: 9}}\n"
    )


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfinished demo file of twenty minutes."""
    directory = tmp_path_factory.mktemp("short")
    ended = run("live", "--demo", "--speed", "max", "--until", "2024-04-30T22:20Z", "--journal-dir", directory)
    assert ended.code == 0, ended
    return directory / "2024-05-01.db"


@pytest.fixture(scope="module")
def simulated() -> Iterator[int]:
    """The port of a gateway with a simulated market."""
    with gateway("--simulate", "--speed", "max") as port:
        yield port


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "Usage: "),
        ("lives", "No such command 'lives'"),
        ("live --fast", "No such option"),
        ("--log-level loud live", "'loud' is not one of"),
        ("live --demo --config x.yml", "--demo: the demo has its own configuration"),
        ("live --demo --speed fast", "--speed: 'fast' is no speed"),
        ("live --demo --until tomorrow", "--until: 'tomorrow' is no ISO 8601 time"),
        ("live --demo --crash everyone@3", "--crash: 'everyone@3' is no planned crash"),
        ("live --demo --seed -1", "'--seed'"),
        ("live --demo --jitter-ms -1", "'--jitter-ms'"),
        ("replay", "Missing argument 'FILE'"),
        ("replay x.db --until 0", "'--until'"),
        ("journal bars x.db --timeframe 5m", "'5m' is not one of"),
        ("journal events x.db --type SliceClose", "did you mean SliceClosed?"),
        ("why x.db ES yesterday", "TIME: 'yesterday' is no ISO 8601 time"),
        ("gateway", "give DBN files or --simulate"),
        ("gateway --simulate --port 70000", "'--port'"),
        ("gateway --simulate --faults boom@1", "--faults: 'boom@1'"),
        ("gateway --simulate --start-at 2030-01-01T00:00Z", "--start-at:"),
        ("traderspost --port -1", "'--port'"),
        ("traderspost --faults boom@1", "--faults: 'boom@1'"),
        ("traderspost --race 9-3", "--race: '9-3'"),
    ],
)
def test_a_usage_error_exits_2_and_says_what(arguments: str, said: str, tmp_path: Path) -> None:
    ended = run(*arguments.split(), cwd=tmp_path)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""
    assert not any(tmp_path.iterdir()), "a refused command left something behind"


# ---------------------------------------------------------------- configuration


def test_without_a_configuration_it_names_every_way_to_one(tmp_path: Path) -> None:
    ended = run("live", cwd=tmp_path, environ=without_key())
    assert_refused(ended, 78, "ROONEY_CONFIG", "--config", "live.yml", "--demo", "Data/live.example.yml")


def test_definitions_that_contradict_the_contract_map_refuse_the_start(tmp_path: Path) -> None:
    metadata = Metadata(
        dataset="GLBX.MDP3", start=1, end=None, stype_in=SType.PARENT, stype_out=SType.INSTRUMENT_ID,
        schema=Schema.DEFINITION, symbols=["MGC.FUT"], mappings=[],
    )  # fmt: skip
    gold = InstrumentDefMsg(
        publisher_id=1, instrument_id=7, ts_event=1, ts_recv=1_714_521_600 * 10**9, display_factor=10**9,
        raw_symbol="MGCM4", asset="MGC", security_type="FUT", instrument_class=InstrumentClass.FUTURE,
        security_update_action=SecurityUpdateAction.ADD, min_price_increment=10**8, unit_of_measure_qty=100 * 10**9,
    )  # fmt: skip
    (tmp_path / "definitions.dbn").write_bytes(bytes(metadata.encode()) + bytes(gold))
    (tmp_path / "live.yml").write_text(HEADER + LOCAL + "definitions: definitions.dbn\n")
    ended = run("live", cwd=tmp_path)
    assert_refused(
        ended, 78, "the multiplier of MGCM4 is 100", "2024-05-01, and 10 by the contract map", "`spec` of GC"
    )
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("mode: paper\nclock: feed\n" + LOCAL, ("live.yml:1:1: account is missing",)),
        (HEADER + LOCAL + "symbols: [GC, GCC]\n", ("live.yml:6:15:", "'GCC'", "did you mean 'GC'?")),
        (HEADER + LOCAL + "risk: {max_positions: many}\n", ("live.yml:6:23: risk.max_positions", "'many'")),
        (HEADER + LOCAL + "strategy: {veto: 1}\n", ("live.yml:6:18: strategy.veto", "true or false")),
        (HEADER + LOCAL + "contract_map: no.yml\n", ("live.yml:6:15:", "there is no file")),
        (HEADER + LOCAL + "symbols: [GC\n", ("live.yml:7:1:",)),
        (HEADER + LOCAL + f"execution: {{url: {OTHER_URL}}}\n", ("live.yml:6:", "TRADERSPOST_WEBHOOK_URL")),
        (HEADER, ("live.yml", "DATABENTO_API_KEY")),
        ("mode: live\naccount: a\n" + LOCAL, ("live.yml:3:17:", "local gateway")),
    ],
)
def test_a_wrong_configuration_is_refused_at_its_place(text: str, fragments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(text)
    key = {} if "DATABENTO_API_KEY" in fragments else {"DATABENTO_API_KEY": KEY}
    wanted = tuple(fragment for fragment in fragments if fragment != "live.yml" or key)
    assert_refused(run("live", cwd=tmp_path, environ=without_key(**key)), 78, *wanted)
    assert not (tmp_path / "journal").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(HEADER + LOCAL)
    assert_refused(run("live", "--config", "no.yml", cwd=tmp_path), 78, str(tmp_path / "no.yml"))
    assert_refused(run("live", "--overlay", "over.yml", cwd=tmp_path), 78, "over.yml")
    elsewhere = {"cwd": tmp_path, "environ": without_key(ROONEY_CONFIG="env.yml")}
    assert_refused(run("config", "show", **elsewhere), 78, str(tmp_path / "env.yml"))


def test_config_show_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(HEADER + LOCAL)
    (tmp_path / "over.yml").write_text("risk:\n  max_positions: 2\n")
    environ = environment(TRADERSPOST_WEBHOOK_URL=OTHER_URL)
    ended = run("config", "show", "--sources", "--overlay", "over.yml", cwd=tmp_path, environ=environ)
    assert ended.code == 0
    assert re.search(r"risk\.max_positions +2 .*over\.yml:2:18", ended.out)
    assert re.search(r"risk\.entry_freshness_s +60 +default", ended.out)
    assert re.search(r"TRADERSPOST_WEBHOOK_URL +\*\*\* +environment", ended.out)


@pytest.mark.parametrize(
    ("config", "url", "said"),
    [
        (HEADER + LOCAL, REAL_URL, "mode: paper must not send to the real TradersPost"),
        (HEADER + LOCAL, f"http://127.0.0.1:9/{WEBHOOK_SECRET}", "is not a webhook address"),
        ("", OTHER_URL, "mode: live sends to"),
        ("", "", "live needs what is not written:\n    TRADERSPOST_WEBHOOK_URL ("),
    ],
)
def test_orders_never_leave_for_the_wrong_place(config: str, url: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(config or live_config(tmp_path))
    ended = run("live", cwd=tmp_path, environ=environment(TRADERSPOST_WEBHOOK_URL=url))
    assert_refused(ended, 78, f"TRADERSPOST_WEBHOOK_URL: {said}" if url else said)
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "this is what would be"),
        (("--i-know-this-sends-an-order",), "the contract was not confirmed"),
        (("--i-know-this-sends-an-order", "--yes", "MES"), "the contract was not confirmed"),
    ],
)
def test_the_golive_test_sends_nothing_that_was_not_asked_for_twice(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Nobody listens at the address: a message that was sent would be told of."""
    (tmp_path / "live.yml").write_text("mode: paper\naccount: a\njournal_dir: journal\n" + LOCAL)
    year = dt.datetime.now(dt.UTC).year + 1
    url = f"http://127.0.0.1:9/trading/webhook/some-uuid/{WEBHOOK_SECRET}"
    ended = run(
        "golive-test", f"MESZ{year % 10}", "--price", "5045.25", *options,
        cwd=tmp_path, environ=environment(TRADERSPOST_WEBHOOK_URL=url),
    )  # fmt: skip
    assert_refused(ended, 2, "nothing was sent", said)
    assert f"ticker    MESZ{year}\n" in ended.out
    assert not (tmp_path / "journal").exists()


def test_the_golive_test_sends_to_a_paper_account_only(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(live_config(tmp_path))
    environ = environment(TRADERSPOST_WEBHOOK_URL=REAL_URL)
    ended = run("golive-test", "MESZ9", "--price", "5045", cwd=tmp_path, environ=environ)
    assert_refused(ended, 78, "golive.paper_account: mode: live, and nothing says")


# ---------------------------------------------------------------- places and ports


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_refused(run("gateway", "--simulate", "--port", port), 78, f"127.0.0.1:{port}", "already in use")
        assert_refused(run("traderspost", "--port", port), 78, f"127.0.0.1:{port}", "already in use")


def test_a_journal_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "journal"):
        assert_refused(run("live", "--demo", "--journal-dir", place), 78, str(place), "journal_dir")


@pytest.mark.parametrize("command", ["gateway --simulate", "traderspost"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_servers_say_their_address_first_and_stop_in_order(command: str, number: int) -> None:
    with started(*command.split()) as server:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.first_line())
        assert server.signal(number).code == 0


# ---------------------------------------------------------------- the feed


def test_a_wrong_key_is_refused(simulated: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, port=simulated)
    ended = run("live", "--config", config, environ=without_key(DATABENTO_API_KEY=OTHER_KEY))
    assert_refused(ended, 78, "the gateway refused us", "DATABENTO_API_KEY")
    assert OTHER_KEY not in ended.err
    assert_refused(run("live", "--config", config, environ=without_key()), 78, "DATABENTO_API_KEY: no API key")


def test_recorded_data_is_refused_on_the_systems_clock(simulated: int, tmp_path: Path) -> None:
    ended = run("live", "--config", write_config(tmp_path, port=simulated, clock="system"))
    assert_refused(ended, 78, "clock: the feed's time is 2024-04-30T22:00", "clock: feed", "--rebase now")
    assert not list(tmp_path.rglob("*.db"))


def test_nothing_listens_at_the_gateways_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        port = int(freed.getsockname()[1])
    ended = run("live", "--config", write_config(tmp_path, port=port))
    assert_refused(ended, 69, f"127.0.0.1:{port}: no answer from the feed", "feed.gateway and feed.port")


def test_a_gateway_that_closes_at_once(tmp_path: Path) -> None:
    """The client does not notice and waits for its own time limit, once for each of our attempts."""
    with gateway("--simulate", "--faults", "close") as port:
        ended = run("live", "--config", write_config(tmp_path, port=port), limit_s=100)
    assert_refused(ended, 69, f"127.0.0.1:{port}: no answer from the feed", "feed.gateway and feed.port")
    assert not list(tmp_path.rglob("*.db"))


def with_a_strange_record(data: bytes) -> bytes:
    plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 28)
    return plain[:-TRADE_BYTES] + b"\x00" + plain[-TRADE_BYTES + 1 :]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (None, "No such file or directory"),
        (lambda data: b"", "the file is empty"),
        (lambda data: b"no trades at all" * 100, "not a DBN file"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (with_a_strange_record, "records of other types"),
    ],
)
def test_a_broken_dbn_file_is_refused(damage: Callable[[bytes], bytes] | None, said: str, tmp_path: Path) -> None:
    source = MARKET_DATA / "GC.trades.20131007.dbn.zst"
    file = tmp_path / "GC.dbn.zst"
    if damage is not None:
        if not source.is_file():
            pytest.skip(f"{source} is not here")
        file.write_bytes(damage(source.read_bytes()))
    assert_refused(run("gateway", file), 2, str(file), said)


# ---------------------------------------------------------------- journals


def change(file: Path, *statements: str) -> None:
    """Change what no command changes: the guards are taken away first."""
    with contextlib.closing(sqlite3.connect(file)) as base:
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            base.execute(statement)
        base.commit()
        base.execute("PRAGMA journal_mode = DELETE")


def cut(file: Path) -> None:
    change(file)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


UNREADABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda file: file.unlink(), "no such file"),
    "garbage": (lambda file: file.write_bytes(b"no journal" * 500), "not a database"),
    "empty": (lambda file: file.write_bytes(b""), "not a journal"),
    "cut off": (cut, "malformed"),
    "another database": (lambda file: change(file, "PRAGMA application_id = 1"), "not a journal"),
    "newer": (lambda file: change(file, "PRAGMA user_version = 99"), "format 99 is newer"),
}


def copied(journal: Path, directory: Path) -> Path:
    for path in journal.parent.glob("2024-05-01.db*"):
        shutil.copy(path, directory)
    return directory / journal.name


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_journal_that_cannot_be_read_exits_2(name: str, short: Path, tmp_path: Path) -> None:
    damage, said = UNREADABLE[name]
    file = copied(short, tmp_path)
    change(file)  # the WAL goes into the file, so that nothing is left beside it
    damage(file)
    for command in (("replay", file), ("journal", "verify", file), ("why", file, "ES", "2024-05-01T00:00Z")):
        assert_refused(run(*command), 2, str(file), said)


@pytest.mark.parametrize("command", [("backtest",), ("train", "ES")])
def test_bars_of_a_journal_whose_chain_is_broken_are_not_used(
    command: tuple[str, ...], short: Path, tmp_path: Path
) -> None:
    file = copied(short, tmp_path)
    change(file, "UPDATE events SET ts_ns = ts_ns + 1 WHERE seq = 5")
    assert_refused(run(*command, "--data", file, cwd=tmp_path), 1, str(file), "seq 5: the hash chain does not hold")


def test_no_header_of_a_table_comes_from_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "2024-05-01.db"
    bars = run("journal", "bars", file)
    assert_refused(bars, 2, str(file), "no such file")
    assert bars.out == ""


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE events SET ts_ns = ts_ns + 1 WHERE seq = 20", 20),
        ("DELETE FROM events WHERE seq = 30", 30),
        ("DELETE FROM events WHERE seq > 40", 41),
        ("UPDATE events SET version = 99 WHERE seq = 10", 10),
    ],
)
def test_a_broken_chain_is_found_at_its_seq(statement: str, seq: int, short: Path, tmp_path: Path) -> None:
    file = copied(short, tmp_path)
    change(file, statement)
    verified = run("journal", "verify", file)
    assert_refused(verified, 1, str(file), f"from seq {seq} on")
    assert_refused(run("replay", file), 2, str(file))


def test_a_corrupt_file_in_the_journal_directory_is_left_alone(simulated: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, port=simulated)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "2024-04-30.db").write_bytes(b"no journal" * 500)
    before = snapshot(tmp_path / "journal")
    assert_refused(run("live", "--config", config), 2, "2024-04-30.db")
    assert snapshot(tmp_path / "journal") == before


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_a_demo_file_in_the_directory_of_another_mode_is_refused(mode: str, short: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, port=9)
    environ = environment()
    if mode == "live":
        config.write_text(live_config(tmp_path))
        environ = environment(TRADERSPOST_WEBHOOK_URL=REAL_URL)
    (tmp_path / "journal").mkdir()
    copied(short, tmp_path / "journal")
    before = snapshot(tmp_path / "journal")
    ended = run("live", "--config", config, environ=environ)
    assert_refused(ended, 78, "2024-05-01.db is a demo", f"this is a {mode}", "journal_dir of its own")
    assert snapshot(tmp_path / "journal") == before


# ---------------------------------------------------------------- ends in mid-session


def test_a_paper_file_is_no_place_for_a_demo(simulated: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, port=simulated)
    assert run("live", "--config", config, "--until", "2024-04-30T22:05Z").code == 0
    before = snapshot(tmp_path / "journal")
    ended = run("live", "--demo", "--journal-dir", tmp_path / "journal")
    assert_refused(ended, 78, "is a paper", "this is a demo")
    assert snapshot(tmp_path / "journal") == before


def has_position(journal: Path) -> bool:
    if not journal.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as base:
        return bool(base.execute("SELECT count(*) FROM events WHERE type = 'FillAssumed'").fetchone()[0])


def assert_stopped_in_order(ended: Ended, journal: Path) -> None:
    """The end is on record and printed, open positions included."""
    assert ended.code == 0
    assert ended.out.endswith("stopped: signal\n")
    last = run("journal", "events", journal).lines()[-1]
    assert (last["type"], last["payload"]["reason"]) == ("SessionStopped", "signal")
    positions = last["payload"]["positions"]
    assert len(re.findall(r"^  position   [+-]\d+ ", ended.out, re.MULTILINE)) == len(positions)
    for position in positions:
        assert f"position   {position['quantity']:+d} {position['contract']} from " in ended.out
    assert run("journal", "verify", journal).code == 0


def test_sigint_stops_in_order(tmp_path: Path) -> None:
    journal = tmp_path / "2024-05-01.db"
    with started("live", "--demo", "--journal-dir", tmp_path) as running:
        running.wait_until(journal.exists)
        assert_stopped_in_order(running.signal(signal.SIGINT), journal)


def test_sigterm_in_mid_session_stops_in_order_and_the_next_start_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "2024-05-01.db"
    with started("live", "--demo", "--speed", "4000", "--journal-dir", tmp_path) as running:
        running.wait_until(journal.exists)
        second = run("live", "--demo", "--journal-dir", tmp_path)
        assert_refused(second, 78, str(tmp_path), "another process is live")
        running.wait_until(lambda: has_position(journal))
        ended = running.signal(signal.SIGTERM)
    assert "\n  position   " in ended.out
    assert_stopped_in_order(ended, journal)
    continued = run("live", "--demo", "--speed", "max", "--until", "2024-05-01T02:10Z", "--journal-dir", tmp_path)
    assert (continued.code, continued.logged("continuing the unfinished session")) == (0, True)
    assert run("replay", journal).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB, more than half of which the kept models take."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "rooney-test", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing_that_was_committed(small_disk: Path, tmp_path: Path) -> None:
    """Nothing was sent without being on disk; on a bigger disk the session goes on, and no entry is sent twice."""

    def demo(place: Path, *more: str) -> Ended:
        return run("live", "--demo", "--speed", "max", "--journal-dir", place, *more, environ=environ)

    with traderspost("--clock", "request") as address:
        environ = environment(TRADERSPOST_WEBHOOK_URL=f"http://{address}{WEBHOOK_PATH}")
        ended = demo(small_disk)
        assert_refused(ended, 70, str(small_disk), "disk is full", "committed before is safe", "space")
        assert "2024-05-01.db" in snapshot(small_disk)
        full = small_disk / "2024-05-01.db"
        assert run("journal", "verify", full).code == 0
        kept = run("journal", "events", full).lines()
        submitted = {line["payload"]["signal_id"] for line in kept if line["type"] == "OrderSubmitted"}
        assert kept
        assert set(ledger(address)["signals"]) <= submitted

        assert demo(small_disk).code == 70, "the disk is as full as before"

        bigger = Path(shutil.copytree(small_disk, tmp_path / "bigger")) / "2024-05-01.db"
        continued = demo(bigger.parent, "--until", "2024-05-01T01:10Z")
        assert (continued.code, continued.logged("continuing the unfinished session")) == (0, True), continued.err
        accepted = {signal: record["accepted"] for signal, record in ledger(address)["signals"].items()}
    whole = run("journal", "events", bigger).lines()
    # The disk may fill up between an attempt and its outcome: an exit is then sent again, an entry never.
    assert sent_otherwise_than_recorded(bigger, accepted) == ""
    assert whole[: len(kept)] == kept
    assert len(whole) > len(kept)
    assert run("replay", bigger).code == 0
