"""When the market is silent, and when a root has stopped."""

from __future__ import annotations

from typing import Any

import pytest

from domain.events import MarketStatusChanged, RootStatusChanged
from domain.market_watch import MarketWatch
from domain.sessions import Session
from domain.units import HOUR, MINUTE, Nanos
from tests.builders import CLOSE, OPEN, at, bar_of, opened_session, session_of


def watch_of(*, session: Session | None = None, clock: str = "system") -> MarketWatch:
    watch = MarketWatch(opened_session(session=session or session_of(), clock=clock))
    watch.note_feed(is_live=True, now=at(0))
    return watch


def minutes_of(watch: MarketWatch, contract: str, first: int, last: int, *, every: int = 1) -> list[Any]:
    """Minute bars that end at first, first + every … up to last."""
    changes = []
    for minute in range(first, last + 1, every):
        changes += watch.note_minutes(at(minute), [bar_of(contract, start=at(minute - 1))])
    return changes


# ---------------------------------------------------------------- the whole market


def test_the_market_is_silent_after_its_limit_and_said_once_until_the_next_trade() -> None:
    watch = watch_of()
    watch.note_trades(at(10))
    assert watch.look(at(11, 59)) == []
    assert watch.look(at(12)) == [MarketStatusChanged(status="market_silent", since=at(10))]
    assert watch.look(at(13)) == []
    assert watch.note_trades(at(14)) == [MarketStatusChanged(status="trading", since=at(14))]
    assert watch.note_trades(at(15)) == []


def test_silence_counts_from_the_open_and_ends_with_the_last_close() -> None:
    early = Nanos(CLOSE - HOUR)
    watch = watch_of(session=session_of(ES=early, NQ=early, GC=early))
    watch.note_trades(Nanos(OPEN - 30 * MINUTE))
    assert watch.look(at(1, 59)) == []
    assert watch.look(at(2)) != []
    watch.note_trades(Nanos(early - MINUTE))
    assert watch.look(Nanos(early + 30 * MINUTE)) == []


def test_silence_of_a_feed_that_is_not_live_says_nothing_and_counts_from_its_return() -> None:
    watch = watch_of()
    watch.note_trades(at(10))
    watch.note_feed(is_live=False, now=at(11))
    assert watch.look(at(60)) == []
    watch.note_feed(is_live=True, now=at(60))
    assert watch.look(at(61)) == []
    assert watch.look(at(62)) != []


def test_in_simulated_time_a_lost_connection_changes_nothing() -> None:
    watch = watch_of(clock="feed")
    watch.note_trades(at(10))
    watch.note_feed(is_live=False, now=at(11))
    watch.note_feed(is_live=True, now=at(11))
    assert watch.look(at(12)) == [MarketStatusChanged(status="market_silent", since=at(10))]


# ---------------------------------------------------------------- one root


def test_a_root_that_usually_trades_and_has_stopped_is_stale_until_it_trades() -> None:
    watch = watch_of()
    assert minutes_of(watch, "GCM4", 1, 60) == []
    assert minutes_of(watch, "ESM4", 61, 69) == []
    stale = RootStatusChanged(root="GC", status="stale", reason="no trade for 600 s")
    assert minutes_of(watch, "ESM4", 70, 75) == [stale]
    assert minutes_of(watch, "GCM4", 76, 76) == [RootStatusChanged(root="GC", status="live", reason="")]


@pytest.mark.parametrize("every", [3, 7])
def test_a_thin_root_is_not_judged_by_its_silence(every: int) -> None:
    watch = watch_of()
    minutes_of(watch, "GCM4", 1, 120, every=every)
    assert minutes_of(watch, "ESM4", 121, 180) == []


def test_where_nothing_trades_no_root_has_stopped_alone() -> None:
    """Slices tell of a root's silence, and without a trade anywhere there is none."""
    watch = watch_of()
    minutes_of(watch, "GCM4", 1, 60)
    minutes_of(watch, "ESM4", 1, 60)
    assert minutes_of(watch, "ESM4", 200, 200) == [
        RootStatusChanged(root="GC", status="stale", reason="no trade for 8400 s")
    ]


def test_after_its_own_close_a_root_is_not_missed() -> None:
    watch = watch_of(session=session_of(ES=CLOSE, NQ=CLOSE, GC=at(65)))
    minutes_of(watch, "GCM4", 1, 60)
    assert minutes_of(watch, "ESM4", 61, 120) == []


def test_the_next_contract_is_not_the_root() -> None:
    watch = watch_of()
    minutes_of(watch, "ESU4", 1, 60)
    assert minutes_of(watch, "GCM4", 61, 120) == []
