"""TradersPost's limits per webhook: so many requests in any minute and in any hour."""

from __future__ import annotations

from collections import deque

MINUTE_NS = 60_000_000_000
HOUR_NS = 60 * MINUTE_NS


class SlidingLimit:
    """Counts what it let pass in the last minute and hour of the time it is given."""

    def __init__(self, *, per_minute: int, per_hour: int) -> None:
        self._limits = ((MINUTE_NS, per_minute), (HOUR_NS, per_hour))
        self._passed: deque[int] = deque()
        self._now_ns = 0

    def try_pass(self, ts_ns: int | None) -> bool:
        """Whether a request at `ts_ns` passes; None, or a time that runs backwards, is the latest seen."""
        self._now_ns = max(self._now_ns, ts_ns or 0)
        while self._passed and self._passed[0] <= self._now_ns - HOUR_NS:
            self._passed.popleft()
        for span_ns, limit in self._limits:
            if sum(1 for passed in self._passed if passed > self._now_ns - span_ns) >= limit:
                return False
        self._passed.append(self._now_ns)
        return True
