"""The feed's own time in real time, also between two of its records: when a minute is complete.

A minute is complete when a record or a heartbeat of a later one has come. Between them our clock may say
so too, by the feed's time and not by its own: what arrives is stamped by the exchange, and the smallest
difference to our monotonic clock in the last ten minutes is skew and line together, however wrong the
system's clock is. A line that has stalled looks like a quiet market; the records tell the two apart,
since a stall delays them and does not change their stamps. So our clock is believed only while the
silence is no longer than one that the market itself has made in the last ten minutes, and no longer
than the gateway lets pass without a heartbeat.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from domain.market import TradeArray
from domain.units import MINUTE, SECOND, Nanos

GRACE = Nanos(2 * SECOND)
"""How long after its end a minute closes by our clock: what came later than this was late."""
LONGEST_SILENCE = Nanos(30 * SECOND)
"""A longer one is no market's but a closed one's, or a lost connection's: heartbeats are never further apart."""
JITTER = Nanos(SECOND // 2)
"""A heartbeat may come this much later than the ones before it."""
WINDOW_MINUTES = 10


class _Greatest:
    """The greatest value of the last ten minutes, kept by the minute."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int]] = deque()

    def add(self, value: int, now: Nanos) -> None:
        minute = now // MINUTE
        if self._minutes and self._minutes[-1][0] == minute:
            value = max(value, self._minutes.pop()[1])
        self._minutes.append((minute, value))
        while self._minutes[0][0] <= minute - WINDOW_MINUTES:
            self._minutes.popleft()

    def value(self) -> int | None:
        return max((value for _, value in self._minutes), default=None)


class FeedTime:
    """Outlives connections. `now` is everywhere our monotonic clock."""

    def __init__(self) -> None:
        self.seen = Nanos(0)
        """The newest stamp that this connection has brought."""
        self._last_record: int | None = None
        self._ahead = _Greatest()
        """Feed time minus ours."""
        self._silences = _Greatest()
        """Between two records."""
        self._beats = _Greatest()
        """Before a heartbeat."""

    def connect(self) -> None:
        """A new connection has brought nothing yet."""
        self.seen, self._last_record = Nanos(0), None

    def beat(self, ts: Nanos, now: Nanos) -> None:
        """A heartbeat has come."""
        if 0 < ts - self.seen <= LONGEST_SILENCE:
            self._beats.add(ts - self.seen, now)
        self._heard(ts, now)

    def traded(self, trades: TradeArray, now: Nanos) -> None:
        """Records have come (at least one)."""
        stamps = trades["ts_recv"].astype(np.int64)
        gaps = np.diff(stamps, prepend=stamps[0] if self._last_record is None else self._last_record)
        gaps = gaps[gaps <= LONGEST_SILENCE]
        if len(gaps):
            self._silences.add(int(gaps.max()), now)
        self._last_record = int(stamps[-1])
        self._heard(Nanos(self._last_record), now)

    def complete_until(self, now: Nanos) -> Nanos:
        """Minutes that end by then are complete."""
        ahead, longest, beat = self._ahead.value(), self._silences.value(), self._beats.value()
        if ahead is None or longest is None:
            return self.seen
        if now + ahead - self.seen > (longest if beat is None else min(longest, beat + JITTER)):
            return self.seen
        return max(self.seen, Nanos(now + ahead - GRACE))

    def _heard(self, ts: Nanos, now: Nanos) -> None:
        self.seen = max(self.seen, ts)
        self._ahead.add(ts - now, now)
