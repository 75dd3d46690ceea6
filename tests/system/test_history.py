"""`history fetch | status | import` as they are typed, against a server that answers like the vendor's."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from in_this_process import envelopes, live_in_thread, traded_roots
from market import assert_replays, command, environment, only_journal

from actors.main import cli
from actors.wiring import parse_time
from actors.wiring.history import StoredHistory
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.databento.history_store import HistoryStore
from adapters.databento.hour_files import contract_of
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.history import Span
from domain.units import HOUR
from tests.adapters.databento.test_historical import moment
from tests.adapters.databento.vendor_server import KEY, Vendor, running_vendor, stall, status

pytestmark = pytest.mark.system

CONFIG = """
mode: paper
account: history-test
contract_map: map.yml
strategy: {veto: false}
"""


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with running_vendor() as vendor:
        yield vendor


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "map.yml").write_text("contracts: [{symbol: ES}]\n")
    (tmp_path / "live.yml").write_text(CONFIG)
    return tmp_path


def run(place: Path, *arguments: str, key: str = KEY) -> Result:
    """`history` with these arguments, in this process."""
    return CliRunner().invoke(
        cli, ["history", arguments[0], "--config", str(place / "live.yml"), *arguments[1:]],
        env={"DATABENTO_API_KEY": key}, catch_exceptions=False,
    )  # fmt: skip


def fetch(place: Path, vendor: Vendor, *arguments: str, key: str = KEY) -> Result:
    return run(place, "fetch", "--gateway", vendor.address, "--since", "2024-05-20", *arguments, key=key)


def stored(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "history").rglob("*.zst"))


WHOLE = [
    "databento-20240520T00-20240601T00.dbn.zst",
    "databento-20240601T00-20240701T00.dbn.zst",
    "databento-20240701T00-20240701T13.dbn.zst",
]


def test_the_cost_is_shown_and_nothing_is_fetched_before_it_is_confirmed(place: Path, vendor: Vendor) -> None:
    for arguments in ((), ("--yes",), ("--yes", "--max-cost", "0.5")):
        refused = fetch(place, vendor, *arguments)
        assert refused.exit_code == 2
        # Two contracts and this server's spread: 23 hours on each weekday but the last, which has 13.
        assert "ES    MES       3 files  2024-05-20T00:00:00Z to 2024-07-01T13:00:00Z      2.1090 USD" in refused.output
        assert "in all          3 files" in refused.output
    assert "2.1090 USD is more than 0.5 USD; nothing was fetched" in refused.output
    assert vendor.asked["timeseries.get_range"] == 0


def test_what_was_fetched_is_not_fetched_again(place: Path, vendor: Vendor) -> None:
    first = fetch(place, vendor, "--yes", "--max-cost", "5")
    assert (first.exit_code, stored(place)) == (0, WHOLE)
    assert [symbols for symbols, _, _ in vendor.downloads] == ["MESM4,MESU4"] * 3
    again = fetch(place, vendor, "--yes", "--max-cost", "5")
    assert (again.exit_code, again.output) == (0, "nothing to fetch: the store has it all\n")
    earlier = run(
        place, "fetch", "--gateway", vendor.address, "--since", "2024-05-13", "--yes", "--max-cost", "5", "--root", "ES"
    )
    assert earlier.exit_code == 0
    assert vendor.downloads[3:] == [("MESM4,MESU4", moment("2024-05-13"), moment("2024-05-20"))]


def test_a_fetch_that_broke_off_goes_on_where_it_was(place: Path, vendor: Vendor) -> None:
    vendor.faults = [("timeseries.get_range", lambda *_: False), ("timeseries.get_range", status(402, "no_funds"))]
    broken = fetch(place, vendor, "--yes", "--max-cost", "5")
    assert (broken.exit_code, stored(place)) == (78, WHOLE[:1])
    assert "no_funds" in broken.output
    assert KEY not in broken.output
    assert fetch(place, vendor, "--yes", "--max-cost", "5").exit_code == 0
    assert stored(place) == WHOLE
    assert [start for _, start, _ in vendor.downloads] == [
        moment("2024-05-20"), moment("2024-06-01"), moment("2024-07-01")
    ]  # fmt: skip


def test_a_killed_fetch_leaves_no_half_file_behind(place: Path, vendor: Vendor) -> None:
    reached, released = threading.Event(), threading.Event()
    vendor.faults = [("timeseries.get_range", lambda *_: False), ("timeseries.get_range", stall(reached, released))]
    arguments = ["--config", str(place / "live.yml"), "--gateway", vendor.address, "--since", "2024-05-20"]
    process = subprocess.Popen(
        command("history", "fetch", *arguments, "--yes", "--max-cost", "5"),
        env=environment(DATABENTO_API_KEY=KEY), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert reached.wait(60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        released.set()
    assert stored(place) == WHOLE[:1]
    assert fetch(place, vendor, "--yes", "--max-cost", "5").exit_code == 0
    assert stored(place) == WHOLE
    assert not list((place / "history").rglob("*.part"))


@pytest.mark.parametrize(("key", "words"), [("", "no API key"), ("db-wrong-key-00000000000000000000", "is refused")])
def test_without_a_good_key_nothing_is_asked_twice(place: Path, vendor: Vendor, key: str, words: str) -> None:
    refused = fetch(place, vendor, key=key)
    assert (refused.exit_code, words in refused.output) == (78, True)
    assert vendor.asked.total() <= 1
    assert not key or key not in refused.output


def test_a_root_that_is_not_read_is_refused(place: Path, vendor: Vendor) -> None:
    refused = fetch(place, vendor, "--root", "XX")
    assert (refused.exit_code, vendor.asked.total()) == (2, 0)


def test_status_says_what_there_is_and_what_a_model_needs(place: Path, vendor: Vendor) -> None:
    assert fetch(place, vendor, "--yes", "--max-cost", "5").exit_code == 0
    with_veto = place / "veto.yml"
    with_veto.write_text("strategy: {veto: true}\n")
    found = run(place, "status", "--json", "--overlay", str(with_veto), "--at", "2024-07-01T14:00Z")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    es = next(row for row in report["roots"] if row["root"] == "ES")
    assert (report["session"], report["source"]) == ("2024-07-01", "databento")
    assert es["hours"]["to"] == "2024-06-28T21:00:00Z"
    assert es["days"]["bars"] == 29
    assert es["contracts"] == ["MESM4", "MESU4"]
    assert es["stored"] == [["2024-05-20T00:00:00Z", "2024-07-01T13:00:00Z"]]
    (model,) = report["models"]
    need = {"root": "ES", "timeframe": "1d", "needs": 300, "has": es["days"]["bars"]}
    assert need in model["features"]["ma_spread_daily_ribbon_tightness"]
    assert "ma_spread_daily_ribbon_tightness" in model["lacking"]
    assert "rsi_len_14" not in model["lacking"]
    words = run(place, "status", "--overlay", str(with_veto), "--at", "2024-07-01T14:00Z").output
    assert "ES    MES " in words
    assert "ES 1d: 29 of 300" in words
    assert run(place, "status").exit_code == 0


def test_an_import_takes_what_the_contract_map_reads_and_says_what_it_left(place: Path, vendor: Vendor) -> None:
    other = place / "other"
    other.mkdir()
    for name in ("map.yml", "live.yml"):
        (other / name).write_bytes((place / name).read_bytes())
    assert fetch(other, vendor, "--yes", "--max-cost", "5").exit_code == 0
    (may, *_) = sorted((other / "history").rglob("*.zst"))
    imported = run(place, "import", str(may))
    assert imported.exit_code == 0
    assert "MES 460 hours of 2 contracts, 2024-05-20T00:00:00Z to 2024-06-01T00:00:00Z" in imported.output
    assert "230 records of spreads and other instruments left out" in imported.output
    assert stored(place) == ["dbn-20240520T00-20240601T00.dbn.zst"]
    (place / "map.yml").write_text("contracts: [{symbol: GC}]\n")
    refused = run(place, "import", str(may))
    assert (refused.exit_code, "names no outright of MGC" in refused.output) == (2, True)
    assert run(place, "import", str(place / "absent.dbn")).exit_code == 2


def test_a_session_opens_with_the_store_decides_on_it_and_replays(tmp_path: Path) -> None:
    """Hours before the session from the store, from its start on from the feed, none twice."""
    begins = parse_time("2024-04-30T21:00:00Z")
    stamps = begins + np.arange(-100, 3) * HOUR  # the last three are the feed's
    rows = np.column_stack([stamps, stamps + HOUR, *[np.full(103, 5000 * 10**9)] * 4, np.full(103, 9), stamps * 0])
    contract = contract_of("MESM4", dt.date(2024, 5, 1), ("MES",))
    assert contract is not None
    store = HistoryStore(tmp_path / "history")
    store.add("GLBX.MDP3", "MES", Span(start=stamps[0], end=stamps[-1] + HOUR), {contract: rows})
    calendar = CmeCalendar()
    roots = tuple(root for root in traded_roots() if root.root == "ES")
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=20_000))
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            tmp_path,
            port=gateway.port,
            key=KEY,
            calendar=calendar,
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES",),
            until_ns=parse_time("2024-05-01T00:05:00Z"),
            extend_history=StoredHistory(store=store, roots=roots, calendar=calendar),
            warmup_bars=60,
        ) as running,
    ):
        assert running.result().exit_code == 0
    journal = only_journal(tmp_path)
    (history,) = [e.payload for e in envelopes(journal, "HistoryLoaded")]
    (hours,) = [table for table in history.tables if table.timeframe == "1h"]
    assert (history.source, len(hours)) == ("dbn", 100)
    assert np.array_equal(hours.data, rows[:100])
    decided = [e.payload for e in envelopes(journal, "SignalEvaluated")]
    assert [signal.bar_start for signal in decided] == [begins + HOUR, begins + 2 * HOUR]
    assert [(gate.name, gate.is_passed) for gate in (signal.gates[0] for signal in decided)] == [("warm_up", True)] * 2
    assert_replays(journal)
