"""`backtest` over journals of several files: one course of time, whatever their names and places are."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from market import environment, gateway, write_config
from programs import run

from actors.main import cli
from actors.wiring.backtest import over_journals
from actors.wiring.backtest_journals import market_of_journals
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.backtest import BacktestResult
from domain.events import FillAssumed, FillConfirmed, SessionOpened, StateCarried
from domain.units import DAY, Price
from tests.builders import Record, write_journal

pytestmark = pytest.mark.system

FIRST, SECOND = "2024-05-01.db", "2024-05-01.2.db"
ROOTS = ("ES", "NQ", "GC", "CL", "6E", "YM")
STRATEGY = "{veto: false, decision_timeframe: 1m, warmup_bars: 0, pivot_gate: false, no_entry_before_auto_close_s: 0}"
GOLDEN = Path(__file__).parents[1] / "replay" / "sessions" / "crashed" / FIRST


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a session that was stopped while orders were under way, and went on with another limit."""
    directory = tmp_path_factory.mktemp("two")
    with gateway("--simulate", "--speed", "max", "--trades", "40000") as port:
        write_config(directory, port=port, roots=ROOTS, strategy=STRATEGY, risk="{max_positions: 6}")
        (directory / "over.yml").write_text("risk: {max_positions: 5}\n")
        for more, until in (((), "2024-04-30T22:09Z"), (("--overlay", "over.yml"), "2024-04-30T22:15Z")):
            ended = run("live", "--until", until, *more, cwd=directory, environ=environment())
            assert ended.code == 0, ended
    return directory / "journal"


def recorded(*files: Path, types: set[str]) -> list[Any]:
    found: list[Any] = []
    for file in files:
        with JournalFile(file, Codec()) as journal:
            found += [envelope.payload for envelope in journal.envelopes(types=types)]
    return found


def backtest(*files: Path, root: str | None = None) -> BacktestResult:
    sessions = market_of_journals(files, with_fills=True, with_veto=True, models_dir=None)
    return over_journals(sessions, traded=None if root is None else [root])


@cache
def opening() -> tuple[SessionOpened, StateCarried]:
    """Of the golden session."""
    opened, carried = recorded(GOLDEN, types={"SessionOpened", "StateCarried"})
    return opened, carried


def test_an_order_asked_in_one_segment_and_filled_in_the_next_is_the_live_trade(two: Path) -> None:
    files = (two / FIRST, two / SECOND)
    fills = recorded(*files, types={"FillAssumed"})
    entries: dict[str, FillAssumed] = {}
    trades = []
    for fill in fills:
        if fill.intent == "entry":
            entries[fill.root] = fill
        else:
            entry = entries.pop(fill.root)
            trades.append((fill.root, entry.ts, entry.price, fill.ts, fill.price, fill.pnl))
    (carried,) = recorded(two / SECOND, types={"StateCarried"})
    filled_later = {fill.signal_id for fill in recorded(two / SECOND, types={"FillAssumed"})}
    intents = {order.intent for order in carried.orders if order.signal_id in filled_later}
    assert intents == {"entry", "exit"}, "nothing was under way: the test shows too little"

    result = backtest(files[0])  # the second comes with it
    assert sorted(trades) == sorted(
        (trade.root, trade.entry_ns, trade.entry_price, trade.exit_ns, trade.exit_price, trade.pnl)
        for trade in result.trades
    )
    assert result.held == tuple(sorted(entries))
    asked = {(one.root, one.intent, one.decided_ns): one for one in recorded(*files, types={"OrderRequested"})}
    for trade in result.trades:
        assert trade.ibs == asked[trade.root, "entry", trade.decided_ns].ibs
        assert trade.exit_reason == asked[trade.root, "exit", trade.exit_decided_ns].reason
    signals = sorted(recorded(*files, types={"SignalEvaluated"}), key=lambda event: (event.ts, event.root))
    assert list(result.decisions) == signals, "the gates that depend on a position too"


def test_the_later_segment_alone_goes_on_from_what_it_took_over(two: Path, tmp_path: Path) -> None:
    alone = shutil.copy(two / SECOND, tmp_path / "alone.db")
    whole = {(trade.root, trade.exit_ns): trade for trade in backtest(two / FIRST).trades}
    (carried,) = recorded(alone, types={"StateCarried"})
    taken_over = {order.decided_ns for order in carried.orders if order.intent == "entry"}
    found = [trade for trade in backtest(alone).trades if trade.decided_ns in taken_over]
    assert found
    assert found == [attrs.evolve(whole[trade.root, trade.exit_ns], ibs=None) for trade in found]


def confirming(path: Path, *fills: FillConfirmed) -> Path:
    """The record of a later session, in which the fills of the first were compared with a broker's report."""
    opened, carried = opening()
    session = attrs.evolve(
        opened.session,
        date=dt.date(2024, 5, 2),
        **{name: getattr(opened.session, name) + DAY for name in ("start_ns", "open_ns", "end_ns")},
        hours=tuple(
            attrs.evolve(hours, open_ns=hours.open_ns + DAY, close_ns=hours.close_ns + DAY)
            for hours in opened.session.hours
        ),
    )
    record = Record()
    for event in (attrs.evolve(opened, session=session), carried, *fills):
        record.put(event, ts=session.open_ns)
    return write_journal(path, record.envelopes)


def test_a_brokers_price_is_the_trades_and_decides_nothing(tmp_path: Path) -> None:
    """The confirmation is on record a session later."""
    fill = next(fill for fill in recorded(GOLDEN, types={"FillAssumed"}) if fill.intent == "exit")
    before = backtest(GOLDEN, root=fill.root)
    (mine,) = (trade for trade in before.trades if (trade.root, trade.exit_ns) == (fill.root, fill.ts))
    spec = next(root for root in opening()[0].roots if root.root == fill.root)
    better = Price(fill.price + 3 * spec.order_spec.tick_size)
    told = FillConfirmed(
        root=fill.root, signal_id=fill.signal_id, quantity=1, price=better, assumed=fill.price, source="report.csv"
    )
    result = backtest(confirming(tmp_path / "2024-05-02.db", told), GOLDEN, root=fill.root)
    gain = Decimal(3) * spec.order_spec.tick_value * mine.quantity
    after = {(trade.root, trade.exit_ns): trade for trade in result.trades}
    assert after.pop((mine.root, mine.exit_ns)) == attrs.evolve(mine, exit_price=better, pnl=mine.pnl + gain)
    assert sorted(after) == sorted((one.root, one.exit_ns) for one in before.trades if one != mine)
    assert result.decisions == before.decisions


# ------------------------------------------------------------ order of time


def refused(*arguments: object) -> str:
    """What `backtest` says where it ends with 2 and a fix."""
    ended = CliRunner().invoke(cli, ["backtest", *map(str, arguments)])
    assert ended.exit_code == 2, ended.output
    assert "\n  fix: " in ended.stderr
    return ended.stderr


def test_journals_are_taken_in_order_of_time_and_not_of_path(two: Path, tmp_path: Path) -> None:
    """The next session lies in a directory that sorts first, the first segment under a name that sorts last."""
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
    later = confirming(tmp_path / "a" / "2024-05-02.db")
    second = shutil.copy(two / SECOND, tmp_path / "b" / "one.db")
    first = shutil.copy(two / FIRST, tmp_path / "c" / "two.db")
    sessions = market_of_journals([later, second, first, first], with_fills=False, with_veto=True, models_dir=None)
    assert [(one.date.day, one.opened.segment) for one in sessions] == [(1, 1), (1, 2), (2, 1)]


def test_sessions_that_are_no_one_course_of_time_are_refused(two: Path, tmp_path: Path) -> None:
    other = shutil.copy(GOLDEN, tmp_path / FIRST)
    third = tmp_path / "third.db"
    record = Record()
    with JournalFile(two / SECOND, Codec()) as journal:
        first_events: list[Any] = [envelope.payload for envelope in journal.envelopes(until=3)]
    for event in (attrs.evolve(first_events[0], segment=3), *first_events[1:]):
        record.put(event)
    write_journal(third, record.envelopes)
    first = shutil.copy(two / FIRST, tmp_path / "first.db")
    second = shutil.copy(two / SECOND, tmp_path / "second.db")
    for files, words in (
        ((two / FIRST, other), f"segment 1 of session 2024-05-01 is in {two / FIRST} too"),
        ((other, second), "it does not go on from"),
        ((first, third), f"segment 3 of session 2024-05-01 follows {first}"),
    ):
        assert words in refused("--data", *files)
    opened, carried = opening()
    record = Record()
    record.put(attrs.evolve(opened, session=attrs.evolve(opened.session, date=dt.date(2024, 5, 3))))
    record.put(carried)
    late = write_journal(tmp_path / "late.db", record.envelopes)
    assert "they overlap" in refused("--data", late, GOLDEN)


# ---------------------------------------------------------- before the work


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """The data are none: that would be found while they are read."""
    (tmp_path / "file").touch()
    ended = refused("--data", tmp_path / "none.dbn", "--report", tmp_path / "file" / "report.html")
    assert "report.html" in ended
    assert "--report" in ended


@pytest.mark.parametrize("before", [None, "kept"])
def test_the_report_of_a_run_that_was_refused_is_as_before(before: str | None, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    if before is not None:
        page.write_text(before)
    assert "none.dbn" in refused("--data", tmp_path / "none.dbn", "--report", page)
    assert (page.read_text() if page.exists() else None) == before
