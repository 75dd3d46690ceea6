"""A system clock that is wrong by an hour, in real time: decisions keep the feed's time, entries wait, exits leave.

The program's own clock never steps within a session (`adapters.clock`): a wrong one is met where a session begins.
What the parts behind it make of a clock that does step is shown here too.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from in_this_process import envelopes, live_in_thread
from market import assert_replays, environment
from test_outage import LOW, MIDDLE, START, Market, Running, at
from test_real_time import RoundTheClock, TwoSessions

from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.events import SignalEvaluated
from domain.instruments import TradedRoot
from domain.ports import Calendar
from domain.risk import RiskSettings
from domain.sessions import Session, SessionHours
from domain.units import HOUR, MINUTE, Nanos

pytestmark = pytest.mark.system

DAY = Nanos(24 * HOUR)


@contextmanager
def trading(
    directory: Path,
    market: Market,
    server: LocalTradersPost,
    calendar: Calendar = RoundTheClock(START),
    *,
    segment: str = "",
    exit_code: int = 0,
    **more: Any,
) -> Iterator[Running]:
    """The program in this market, decided minute by minute; ended in order, or by itself with `exit_code`."""
    chosen: dict[str, Any] = {
        "risk": RiskSettings(price_band_pct=Decimal(100), stale_flatten_s=60),
        "decision_timeframe": "1m",
        "exit_after_bars": 1,
        "entry_windows": ("00:00-24:00",),
    }
    with (
        LocalTradersPostThread(server) as address,
        live_in_thread(
            directory,
            port=0,
            key="",
            calendar=calendar,
            make_webhook=lambda: WebhookRouter(address.url, is_live=False),
            roots=("ES", "GC"),
            clock="system",
            source=market,  # type: ignore[arg-type]
            now=lambda: Nanos(market.now + market.skew),
            config_digest=segment,
            **chosen | more,
        ) as live,
    ):
        yield Running(market, directory / "journal" / f"{calendar.session_of(START, ()).date}{segment}.db")
        ended = live.result() if exit_code else live.stop()
        assert ended.exit_code == exit_code


@pytest.mark.parametrize(
    "skew",
    [pytest.param(HOUR, id="an hour ahead", marks=pytest.mark.soak), pytest.param(Nanos(-HOUR), id="an hour behind")],
)
def test_while_the_clock_is_wrong_nothing_is_entered_and_an_exit_leaves(skew: Nanos, tmp_path: Path) -> None:
    market, server = Market(), LocalTradersPost(clock="request")
    with trading(tmp_path, market, server) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
        market.trade(at(1, 20), ES=(5_000.0,))
        market.trade(at(1, 50), ES=MIDDLE, GC=LOW)
        market.skew = skew
        for minute in range(2, 6):
            market.trade(at(minute), ES=MIDDLE, GC=LOW)
            run.await_type("SliceClosed", minute)
        run.await_type("OrderAccepted", 2)
    record = envelopes(run.journal)
    (stale,) = [e.payload for e in record if e.type == "FeedStatusChanged" and e.payload.status == "stale"]
    assert stale.reason == f"records come 3600 s {'late by' if skew > 0 else 'ahead of'} our clock"
    sent = [(e.payload.root, e.payload.intent) for e in record if e.type == "OrderSubmitted"]
    assert sent == [("ES", "entry"), ("ES", "exit")], "GC was to be entered at the end of every minute"
    assert not server.ledger().positions
    minutes = {
        (s.root, (s.ts - START) // MINUTE) for s in (e.payload for e in record) if isinstance(s, SignalEvaluated)
    }
    assert minutes == {(root, minute) for root in ("ES", "GC") for minute in range(1, 6)}, "decided by the feed's time"
    seen = server.ledger().signals
    assert {signal_id: signal.accepted for signal_id, signal in seen.items()} == {
        e.payload.signal_id: 1 for e in record if e.type == "OrderAccepted"
    }
    assert [e.ts_ns for e in record] == sorted(e.ts_ns for e in record)
    assert_replays(run.journal)


def test_an_exit_is_retried_by_a_process_whose_clock_stands_an_hour_before_the_record(tmp_path: Path) -> None:
    market = Market()
    with trading(tmp_path, market, LocalTradersPost(clock="request")) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
        market.trade(at(1, 20), ES=(5_000.0,))
        market.trade(at(2), GC=MIDDLE)
        run.await_type("FillAssumed")
    market.skew = Nanos(-HOUR)
    with trading(tmp_path, market, LocalTradersPost(clock="request", faults="500-before-accept@1")) as run:
        run.await_type("FeedStatusChanged", 2, status="live")
        market.trade(at(2, 30), ES=MIDDLE, GC=MIDDLE)
        market.trade(at(3), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAmbiguous")
        market.trade(at(3, 20), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted", 2)
    tries = [e.payload for e in envelopes(run.journal, "OrderSubmitted") if e.payload.intent == "exit"]
    assert [attempt.attempt for attempt in tries] == [1, 2]
    assert_replays(run.journal)


def test_an_exit_on_record_does_not_wait_in_a_new_segment_either(tmp_path: Path) -> None:
    market = Market()
    with trading(tmp_path, market, LocalTradersPost(clock="request", faults="500-before-accept@exit")) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
        market.trade(at(1, 20), ES=(5_000.0,))
        market.trade(at(2), ES=MIDDLE, GC=MIDDLE)
        run.await_type("FillAssumed")
        market.trade(at(3), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAmbiguous")
    market.skew = Nanos(-HOUR)
    with trading(tmp_path, market, LocalTradersPost(clock="request"), segment=".2") as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(3, 40), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
    assert_replays(run.journal)


@pytest.mark.soak
def test_a_clock_that_jumps_over_the_sessions_end_does_not_end_it_while_the_feed_goes_on(tmp_path: Path) -> None:
    market, calendar = Market(), TwoSessions(at(10, 0))
    with trading(tmp_path, market, LocalTradersPost(clock="request"), calendar) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=MIDDLE, GC=MIDDLE)
        market.skew = HOUR
        for minute in range(1, 10):
            market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
            run.await_type("SliceClosed", minute)
        market.skew = Nanos(0)  # else the program ends there: nothing is held
        market.trade(at(10, 5), ES=MIDDLE, GC=MIDDLE)
        run.await_type("SessionClosed")
    (day,) = [bar for e in envelopes(run.journal, "SliceClosed") for bar in e.payload.days if bar.root == "ES"]
    assert day.trades == 10 * len(MIDDLE)
    assert_replays(run.journal)


@attrs.frozen
class Days:
    """Sessions one after the other, that of 2024-05-01 ending at `end_ns`."""

    end_ns: Nanos

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        return self._session((ts - self.end_ns) // DAY + 1, roots)

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        return self._session((date - dt.date(2024, 5, 1)).days, roots)

    def _session(self, number: int, roots: Sequence[TradedRoot]) -> Session:
        start, end = Nanos(self.end_ns + (number - 1) * DAY), Nanos(self.end_ns + number * DAY)
        hours = tuple(SessionHours(root=root.root, open_ns=start, close_ns=end) for root in roots)
        date = dt.date(2024, 5, 1) + dt.timedelta(days=number)
        return Session(date=date, start_ns=start, open_ns=start, end_ns=end, hours=hours)


def test_what_is_held_goes_into_the_next_session_by_a_wrong_clock_and_leaves_there(tmp_path: Path) -> None:
    """Without it the program ends with 75, and nobody watches the position until the clock is set."""
    market, calendar = Market(), Days(at(30, 0))
    server = LocalTradersPost(clock="request", faults="500-before-accept@2")
    bounds = {"auto_close_before_end_s": 60, "no_entry_before_auto_close_s": 0, "exit_after_bars": 1_000}
    with trading(tmp_path, market, server, calendar, **bounds) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
        market.trade(at(1, 20), ES=(5_000.0,))
        market.trade(at(2), ES=MIDDLE, GC=MIDDLE)
        run.await_type("FillAssumed")
        market.skew = HOUR
        market.trade(at(30, 5), ES=MIDDLE, GC=LOW)
        run.await_type("SessionClosed")
        later = attrs.evolve(run, journal=run.journal.with_name("2024-05-02.db"))
        for minute in range(31, 34):
            market.trade(at(minute), ES=MIDDLE, GC=LOW)
            later.await_type("SliceClosed", minute - 30)
        later.await_type("OrderAccepted")
    left, record = envelopes(run.journal), envelopes(later.journal)
    assert [e.payload.cause for e in left if e.type == "OrderAmbiguous"] == ["HTTP 500 after sending"]
    assert {e.payload.intent for e in record if e.type == "OrderSubmitted"} == {"exit"}
    assert not server.ledger().positions
    for journal in (run.journal, later.journal):
        assert_replays(journal)


def closed_minutes(journal: Path) -> dict[str, list[int]]:
    """By root: the minutes after START whose bars have closed, one after the other."""
    found: dict[str, list[int]] = {}
    for closed in (e.payload for e in envelopes(journal, "SliceClosed")):
        for bar in closed.minutes:
            found.setdefault(bar.root, []).append((bar.ts_start - START) // MINUTE)
    return found


def test_a_session_that_ended_while_the_process_was_down_is_replayed_whole(tmp_path: Path) -> None:
    """The feed ends a session, not our clock: what it still has to replay is lost to nobody."""
    market, calendar, server = Market(), Days(at(30, 0)), LocalTradersPost(clock="request")
    with trading(tmp_path, market, server, calendar) as run:
        run.await_type("FeedStatusChanged", status="live")
        for minute in range(2):
            market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
        run.await_type("SliceClosed")
    for minute in [*range(2, 30), 36]:
        market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
    with trading(tmp_path, market, server, calendar) as run:
        later = attrs.evolve(run, journal=run.journal.with_name("2024-05-02.db"))
        later.await_type("FeedStatusChanged", status="live")
        market.trade(at(37), ES=MIDDLE, GC=MIDDLE)
        later.await_type("SliceClosed")
    assert closed_minutes(run.journal) == {root: list(range(30)) for root in ("ES", "GC")}
    assert not envelopes(run.journal, "RootReset")
    (history,) = (e.payload for e in envelopes(later.journal, "HistoryLoaded"))
    assert {(table.root, table.timeframe) for table in history.tables} >= {("ES", "1d"), ("GC", "1d")}
    for journal in (run.journal, later.journal):
        assert_replays(journal)


def test_a_clock_that_says_that_the_session_is_over_ends_none(tmp_path: Path) -> None:
    market, calendar, server = Market(), Days(at(30, 0)), LocalTradersPost(clock="request")
    with trading(tmp_path, market, server, calendar) as run:
        run.await_type("FeedStatusChanged", status="live")
        for minute in range(2):
            market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
        run.await_type("SliceClosed")
    market.skew = HOUR
    with trading(tmp_path, market, server, calendar) as run:
        for minute in range(2, 6):
            market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
            run.await_type("SliceClosed", minute)
    assert closed_minutes(run.journal)["ES"] == list(range(5))
    assert not envelopes(run.journal, "SessionClosed")
    assert not envelopes(run.journal, "RootReset")
    assert_replays(run.journal)


# ---------------------------------------------------------------- the program's own clock

JUMP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
/* The system's clock stands an hour later from the second time on that it is asked. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *), asked;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(clock, now);
    if (clock == CLOCK_REALTIME && asked++) now->tv_sec += HOURS * 3600;
    return rc;
}
"""


JUMPED = """
import time
from adapters.clock import SystemClock
clock = SystemClock()
print(time.time_ns() - clock.now_ns())
clock.read()
print(time.time_ns() - clock.now_ns())
"""


@pytest.mark.parametrize("hours", [1, pytest.param(-1, marks=pytest.mark.soak)])
def test_the_programs_clock_does_not_follow_a_step_of_the_systems(hours: int, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("a stepping clock needs a C compiler (cc) and Linux's LD_PRELOAD")
    (tmp_path / "jump.c").write_text(JUMP)
    library = tmp_path / "jump.so"
    source = [tmp_path / "jump.c", "-ldl"]
    subprocess.run([compiler, "-shared", "-fPIC", f"-DHOURS={hours}", "-o", library, *source], check=True)
    ended = subprocess.run(
        [sys.executable, "-c", JUMPED],
        env=environment(LD_PRELOAD=str(library)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [round(int(line) / HOUR) for line in ended.stdout.split()] == [hours, 0], "it does when it is read again"
