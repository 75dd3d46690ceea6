"""When a minute is complete by the feed's own time, told in stamps and readings of our monotonic clock."""

from __future__ import annotations

import pytest

from actors.feed_time import GRACE, FeedTime
from domain.units import MINUTE, SECOND, Nanos
from tests.builders import at, trades_of

AHEAD = Nanos(1_700_000_000 * SECOND)
"""Our monotonic clock began long after 1970: it shows this much less than the feed's."""
LINE = Nanos(SECOND // 10)


def ours(ts: Nanos, *, late_s: float = 0) -> Nanos:
    """What our clock shows when something stamped `ts` arrives."""
    return Nanos(ts - AHEAD + LINE + int(late_s * SECOND))


def market(*seconds: float, late_s: float = 0) -> FeedTime:
    """A trade at each of these seconds after the open."""
    time = FeedTime()
    for second in seconds:
        time.traded(trades_of(("ESM4", at(0, second), 0, 1)), ours(at(0, second), late_s=late_s))
    return time


QUIET = (0, 10, 20, 30, 40, 50, 58)
BUSY = tuple(second / 2 for second in range(117))


def test_in_a_quiet_market_a_minute_closes_after_the_grace() -> None:
    time = market(*QUIET)
    assert time.complete_until(Nanos(ours(at(1)) + GRACE - 1)) < at(1)
    assert time.complete_until(Nanos(ours(at(1)) + GRACE)) >= at(1)


@pytest.mark.parametrize("late_s", [0, 20, -20, 3_600])
def test_our_clock_may_be_as_wrong_as_it_likes(late_s: float) -> None:
    time = market(*QUIET, late_s=late_s)
    assert time.complete_until(Nanos(ours(at(1), late_s=late_s) + GRACE - 1)) < at(1)
    assert time.complete_until(Nanos(ours(at(1), late_s=late_s) + GRACE)) >= at(1)


def test_a_busy_market_that_falls_silent_is_taken_for_a_stalled_line() -> None:
    time = market(*BUSY)
    assert time.complete_until(ours(at(5))) == at(0, 58)
    time.beat(at(1, 3), ours(at(1, 3)))
    assert time.complete_until(ours(at(1, 3))) == at(1, 3)


def test_a_stall_does_not_teach_that_silence_is_usual() -> None:
    """Its records come late, all at once; their stamps are as close as ever."""
    time = market(*BUSY)
    for second in BUSY:
        time.traded(trades_of(("ESM4", at(1, second), 0, 1)), ours(at(2, 30)))
    assert time.complete_until(ours(at(5))) == at(1, 58)


def test_a_silence_longer_than_the_gateway_allows_is_a_stalled_line() -> None:
    time = market(0, 25)
    for second in (30, 35, 40, 45, 50, 55):
        time.beat(at(0, second), ours(at(0, second)))
    assert time.complete_until(ours(at(1, 2))) == at(0, 55), "seven seconds, and a heartbeat comes every five"


def test_a_late_arrival_does_not_move_the_clocks_apart() -> None:
    time = market(*QUIET)
    time.traded(trades_of(("ESM4", at(0, 59), 0, 1)), ours(at(0, 59), late_s=8))
    assert time.complete_until(Nanos(ours(at(1)) + GRACE)) >= at(1)


def test_a_closed_market_is_no_silence_to_learn_from() -> None:
    time = market(0, 1, 3_600, 3_601)
    assert time.complete_until(ours(at(61))) == at(60, 1)


def test_a_new_connection_says_nothing_before_it_has_brought_something() -> None:
    time = market(*QUIET)
    time.connect()
    assert time.complete_until(Nanos(ours(at(1)) + MINUTE)) == 0


def test_what_was_long_ago_is_forgotten() -> None:
    time = market(*QUIET)
    for minute in range(10, 22):
        time.traded(trades_of(*(("ESM4", at(minute, second), 0, 1) for second in range(60))), ours(at(minute, 59)))
    assert time.complete_until(ours(at(22, 5))) == at(21, 59)
