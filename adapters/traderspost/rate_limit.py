"""TradersPost's limits per webhook: so many requests in any minute and in any hour."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

MINUTE_NS = 60_000_000_000
HOUR_NS = 60 * MINUTE_NS


class SlidingLimit:
    """Counts what it let pass in the last minute and hour of the time it is given."""

    def __init__(self, *, per_minute: int, per_hour: int, passed_ns: Iterable[int] = ()) -> None:
        """`passed_ns` are the times of requests that passed before, oldest first."""
        self._limits = ((MINUTE_NS, per_minute), (HOUR_NS, per_hour))
        self._passed: deque[int] = deque(passed_ns)

    @property
    def passed_ns(self) -> list[int]:
        """When requests passed in the last hour, oldest first."""
        return list(self._passed)

    def try_pass(self, now_ns: int) -> bool:
        """Whether a request at `now_ns` passes; the caller's time never runs backwards."""
        while self._passed and self._passed[0] <= now_ns - HOUR_NS:
            self._passed.popleft()
        for span_ns, limit in self._limits:
            if sum(1 for passed in self._passed if passed > now_ns - span_ns) >= limit:
                return False
        self._passed.append(now_ns)
        return True
