"""What `train` learns from besides DBN files: journals, the history store, and the reference feeds entries wait for."""

from __future__ import annotations

import datetime as dt
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner, Result

from actors.main import cli
from actors.recorded_sessions import READ, recorded_session
from actors.wiring.backtest import read_minutes
from actors.wiring.training_files import FileRequest, TrainingRun, file_material
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE, shipped_market
from adapters.contract_map import load_contract_map
from adapters.databento.history_store import HistoryStore
from adapters.databento.hour_files import contract_of, read_hours
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.backtest import END, START
from domain.bars import BarTable
from domain.events import RootReset, SliceClosed
from domain.history import Rows, Span
from domain.ibs import StrategySettings
from domain.units import HOUR, MINUTE, Nanos
from models.kept import KeptWork
from tests.adapters.databento.vendor_server import KEY, running_vendor
from tests.builders import Record, opened_session, write_journal
from tests.minutes import rebounds, trading_hours, write_minutes

pytestmark = pytest.mark.system

ROOTS = load_contract_map(CONTRACT_MAP_FILE).roots
GOLDEN = Path(__file__).parents[1] / "replay" / "sessions"
FIRST = dt.date(2023, 12, 18)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of --work-dir is where one is."""
    monkeypatch.chdir(tmp_path)


def bars_file(directory: Path, sessions: int, root: str = "ES", product: str = "ES") -> Path:
    rows = rebounds(trading_hours(FIRST, sessions), strength=0, seed=1)
    return write_minutes(directory / f"{root}.dbn.zst", rows, f"{product}Z4")


def write_journals(
    directory: Path, rows: Rows, *, is_demo: bool = False, resets: int = 0, lossy: dt.date = dt.date(2023, 12, 19)
) -> Path:
    """ESZ4's minutes as `live` would have closed them, a file for each session and two for the first one.

    `resets`: in the session `lossy` records are lost until so many minutes after its last segment's first bar.
    """
    calendar, starts, names = CmeCalendar(), rows[:, START], []
    directory.mkdir()
    ts = int(starts[0])
    while True:
        session = calendar.session_of(Nanos(ts), [ROOTS[0]])
        own = rows[(starts >= session.start_ns) & (starts < session.end_ns)]
        halves = np.array_split(own, 2 if not names else 1)
        is_last = session.end_ns > starts[-1]
        for segment, half in enumerate(halves, 1):
            record = Record()
            record.put(opened_session(session=session, segment=segment, is_demo=is_demo))
            for bar in BarTable(root="ES", timeframe="1m", contracts=("ESZ4",) * len(half), data=half).bars():
                record.put(SliceClosed(ts=bar.ts_end, minutes=(bar,)))
            if session.date == lossy and resets and half is halves[-1]:
                record.put(RootReset(root="ES", since=Nanos(int(half[0, START]) + resets * MINUTE), reason="lost"))
            names.append(f"{session.date}.db" if segment == 1 else f"{session.date}.{segment}.db")
            write_journal(directory / names[-1], record.envelopes)
        if is_last:
            return directory
        ts = int(starts[np.searchsorted(starts, session.end_ns)])


def rows_of(*paths: Path) -> Rows:
    (one,) = read_minutes(paths, ROOTS).minutes
    assert one.raw_symbol == "ESZ4"
    return one.rows


def train(tmp_path: Path, *arguments: Any) -> Result:
    asked = ["train", "ES", "--features", "es_hourly_return,ibs_pct,price_usd", "--grid", "one", "--min-trades", "2"]
    asked += ["--leak-checks", "1", "--jobs", "1", "--work-dir", str(tmp_path / "work"), *map(str, arguments)]
    return CliRunner().invoke(cli, asked)


# ------------------------------------------------------------------ journals


def test_a_journals_minutes_are_those_that_closed_live_of_every_contract() -> None:
    file = GOLDEN / "crashed" / "2024-05-01.db"
    found = read_minutes([file], ROOTS)
    assert not found.is_simulated
    with JournalFile(file, Codec()) as journal:
        live = recorded_session(journal.envelopes(types=set(READ)), with_fills=False)
    active = {one.raw_symbol: one.root for one in live.opened.contracts if one.rank == 0 and one.raw_symbol}
    of_active = {one.raw_symbol: one for one in found.minutes if one.raw_symbol in active}
    assert len(of_active) > 5
    for contract, one in of_active.items():
        assert one.root == active[contract]
        assert np.array_equal(one.rows, live.bars[one.root].minutes)
    demo = read_minutes([GOLDEN / "demo" / "2024-05-01.db"], ROOTS)
    assert demo.is_simulated
    assert {"MESM4", "MESU4"} <= {one.raw_symbol for one in demo.minutes}, "the next contract's too, for the roll"


def test_journals_train_what_the_same_bars_from_a_file_train(tmp_path: Path) -> None:
    """Six sessions are too few for a forest, in the same words: nothing that was kept of the file is run again."""
    file = bars_file(tmp_path, 6)
    rows = rows_of(file)
    journals = write_journals(tmp_path / "journal", rows)
    half = write_minutes(tmp_path / "half.dbn.zst", rows[: len(rows) // 2, [0, 2, 3, 4, 5, 6]])
    for paths in ([journals], [half, journals], [journals, file]):
        assert np.array_equal(rows_of(*paths), rows)
    assert np.array_equal(rows_of(journals / "2023-12-18.2.db"), rows_of(journals / "2023-12-18.db"))
    ended = [train(tmp_path, "--data", data) for data in (file, journals)]
    assert [one.exit_code for one in ended] == [2, 2]
    assert "fix: take more sessions" in ended[0].stderr
    assert ended[0].stderr == ended[1].stderr
    kept = list((tmp_path / "work" / "kept").iterdir())
    assert len(kept) == 2, "the backtest and the run on cut data"


def test_what_a_journal_has_lost_is_left_out_and_the_demos_market_is_called_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Live goes on without the hours and days that were cut short: none of them is made of what is left."""
    file = bars_file(tmp_path, 2)
    rows = rows_of(file)
    second = int(rows[23 * 12, START])
    last = write_journals(tmp_path / "last", rows, resets=90)
    assert np.array_equal(rows_of(last), rows[rows[:, START] < second])
    assert "2023-12-19.db: records of ES were lost; its bars of session 2023-12-19 are left out" in (
        capsys.readouterr().err
    )
    # In the second segment of the first session: what the first one holds goes too.
    first = write_journals(tmp_path / "first", rows, resets=90, lossy=FIRST)
    assert np.array_equal(rows_of(first), rows[rows[:, START] >= second])
    assert np.array_equal(rows_of(last, file), rows), "a file of these days fills the gap"
    demo = read_minutes([write_journals(tmp_path / "demo", rows, is_demo=True)], ROOTS)
    run_of = TrainingRun.of(demo.roots[0], ("price_usd",), demo, StrategySettings())
    assert run_of.market == "simulated"


@pytest.mark.parametrize("command", ["train", "backtest"])
def test_bars_of_a_roots_other_product_are_not_left_out_without_a_word(command: str, tmp_path: Path) -> None:
    file = bars_file(tmp_path, 1)
    rows = rows_of(file)[:, [0, 2, 3, 4, 5, 6]]
    micro = write_minutes(tmp_path / "micro.dbn.zst", rows[:30], "MESZ4")
    data = read_minutes([file, micro], ROOTS)
    assert [(one.raw_symbol, len(one.rows)) for one in data.minutes] == [("MESZ4", 30)]
    assert data.left_out == ((len(rows), "ES", "MES"),)
    more = ["--jobs", "1"] if command == "train" else ["--no-veto"]
    ended = CliRunner().invoke(cli, [command, "--data", str(file), "--data", str(micro), *more])
    assert f"{len(rows)} bars of ES left out: MES is read\n" in ended.stderr
    assert read_minutes([file], ROOTS).left_out == ()


# --------------------------------------------------------- the history store


def test_the_minutes_of_the_store_train_and_are_backtested_from_their_directory(tmp_path: Path) -> None:
    file = bars_file(tmp_path, 6)
    rows = rows_of(file)
    contract = contract_of("ESZ4", FIRST, ("ES",))
    assert contract is not None
    store = HistoryStore(tmp_path / "history" / "minutes", MINUTE)
    middle = int(rows[len(rows) // 2, START]) // HOUR * HOUR
    borders = (int(rows[0, START]) // HOUR * HOUR, middle, int(rows[-1, END]) // HOUR * HOUR + HOUR)
    for start, end in pairwise(borders):
        own = rows[(rows[:, START] >= start) & (rows[:, START] < end)]
        store.add("GLBX.MDP3", "ES", Span(start=Nanos(start), end=Nanos(end)), {contract: own})
    assert len(store.files("GLBX.MDP3", "ES")) == 2
    assert np.array_equal(rows_of(store.directory), rows)
    assert np.array_equal(store.read("GLBX.MDP3", "ES").contracts[0].data, rows)
    ended = CliRunner().invoke(cli, ["backtest", "--no-veto", "--json", "--data", str(store.directory)])
    assert ended.exit_code == 0, ended.output
    assert len(json.loads(ended.stdout)["trades"]) > 2


def test_minutes_are_fetched_beside_the_hours_and_are_what_the_vendor_has(tmp_path: Path) -> None:
    (tmp_path / "map.yml").write_text("contracts: [{symbol: ES}]\n")
    (tmp_path / "live.yml").write_text("mode: paper\naccount: nobody\ncontract_map: map.yml\nstrategy: {veto: false}\n")
    with running_vendor() as vendor:
        asked = ["history", "fetch", "--config", str(tmp_path / "live.yml"), "--gateway", vendor.address]
        asked += ["--since", "2024-06-26", "--yes", "--max-cost", "50"]
        for more in ([], ["--minutes"], ["--minutes"]):
            ended = CliRunner().invoke(cli, [*asked, *more], env={"DATABENTO_API_KEY": KEY})
            assert ended.exit_code == 0, ended.output
    assert "nothing to fetch" in ended.output
    minutes = tmp_path / "history" / "minutes"
    files = sorted(path.relative_to(minutes).as_posix() for path in minutes.rglob("*.zst"))
    assert files == [
        "GLBX.MDP3/MES/databento-20240626T00-20240701T00.dbn.zst",
        "GLBX.MDP3/MES/databento-20240701T00-20240701T13.dbn.zst",
    ]
    found = read_minutes([minutes], ROOTS)
    assert [one.raw_symbol for one in found.minutes] == ["MESM4", "MESU4"], "the spread of this server is left out"
    one = found.minutes[1]
    # 23 hours on three weekdays, 13 on Monday.
    assert len(one.rows) == (3 * 23 + 13) * 60
    assert set((one.rows[:, END] - one.rows[:, START]).tolist()) == {MINUTE}
    hours = read_hours(next((tmp_path / "history" / "GLBX.MDP3").rglob("*0626*.zst")), ("MES",))
    assert hours.schema == "ohlcv-1h"
    assert len(next(iter(hours.hours.values()))) == 3 * 23, "the hours for warm-up are where they were"


@pytest.mark.parametrize("command", ["train", "backtest"])
def test_a_directory_that_will_not_do_is_refused_with_what_to_do(command: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = CliRunner().invoke(cli, [command, "--data", str(tmp_path / "empty")])
    assert (ended.exit_code, "neither DBN files nor journals" in ended.stderr) == (2, True)
    rows = rows_of(bars_file(tmp_path, 1))
    contract = contract_of("ESZ4", FIRST, ("ES",))
    assert contract is not None
    start = Nanos(int(rows[0, START]))
    HistoryStore(tmp_path / "history").add("GLBX.MDP3", "ES", Span(start=start, end=Nanos(start + HOUR)), {})
    ended = CliRunner().invoke(cli, [command, "--data", str(tmp_path / "history")])
    assert (ended.exit_code, "history fetch --minutes" in ended.stderr) == (2, True)


# --------------------------------------------------- required reference feeds


def with_bond(directory: Path, sessions: int) -> tuple[Path, Path]:
    """ES, and the bond whose days entries wait for, which ends in the middle."""
    return bars_file(directory, sessions), bars_file(directory, sessions // 2, "TLT", "ZB")


def test_nothing_is_learned_of_entries_that_live_would_have_refused(tmp_path: Path) -> None:
    data = read_minutes(with_bond(tmp_path, 12), ROOTS)
    (root,) = (one for one in data.roots if one.root == "ES")
    every, waiting = (
        TrainingRun.of(root, ("price_usd",), data, StrategySettings(), feeds) for feeds in ((), ("TLT_day",))
    )
    assert {one.root for one in every.minutes} == {"ES"}
    assert {one.root for one in waiting.minutes} == {"ES", "TLT"}
    assert attrs.evolve(waiting, feeds=()).key() != waiting.key()
    calendar = CmeCalendar()
    last = max(one.rows[-1, END] for one in data.minutes if one.root == "TLT")
    # The bond's last day is there in the session after it, and in none later.
    until = calendar.session_of(calendar.session_of(Nanos(int(last) - 1), [root]).end_ns, [root]).date
    decided = [{trade.session for trade in run.result().trades} for run in (every, waiting)]
    places = attrs.evolve(shipped_market({}), required_reference_feeds=("TLT_day",))
    asked = FileRequest(
        traded=("ES",), data=with_bond(tmp_path, 12), features=("price_usd",), default=(), leak_checks=1, jobs=1
    )
    material = file_material(asked, places, KeptWork(tmp_path / "kept"))["ES"]
    assert material.strategy == {"required_reference_feeds": "TLT_day"}
    assert len(material.table) == len(waiting.result().trades)
    assert decided[1] == {date for date in decided[0] if FIRST < date <= until} != set()
    assert max(decided[0]) > until


def test_a_feed_that_was_asked_for_and_has_no_bar_is_an_error_and_the_default_one_a_word(tmp_path: Path) -> None:
    file, config = bars_file(tmp_path, 1), tmp_path / "live.yml"
    said = {}
    for stated in ("", "required_reference_feeds: [TLT_day]\n", "required_reference_feeds: []\n"):
        config.write_text(f"mode: paper\naccount: nobody\n{stated}")
        for command in ("train", "backtest"):
            jobs = ["--jobs", "1"] if command == "train" else []
            ended = CliRunner().invoke(cli, [command, "--data", str(file), "--config", str(config), *jobs])
            said[command, stated] = (ended.exit_code, ended.stderr)
    for (command, stated), (code, words) in said.items():
        if "TLT" in stated:
            assert code == 2
            assert "entries wait for TLT_day, and the data hold no bar of TLT: nothing would be entered" in words
            assert "\n  fix: give data of TLT too" in words
        else:
            assert code == (2 if command == "train" else 0), "one session is too little to learn from"
            assert ("entries do not wait for TLT_day" in words) == (not stated)
