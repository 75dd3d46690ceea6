"""The system's own clock: the only place that reads it for the machines' time."""

from __future__ import annotations

import time

from domain.units import Nanos


class SystemClock:
    """Wall-clock time that never steps by itself: read, then carried on by the machine's uptime.

    A step of the system's clock (a late NTP correction) must not stop deadlines or fire them
    all at once. Suspended time counts. With `clock: feed` nobody asks it.
    """

    def __init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Take the system's clock as it is now. Between two sessions, where a start would do the same."""
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now_ns(self) -> Nanos:
        """UTC nanoseconds since 1970."""
        return Nanos(self._offset_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME))
