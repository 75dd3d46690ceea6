"""The system's own clock: the only place that reads it for the machines' time."""

from __future__ import annotations

import time

from domain.units import Nanos


class SystemClock:
    """Wall-clock time; with `clock: feed` nobody asks it."""

    def now_ns(self) -> Nanos:
        """UTC nanoseconds since 1970, as the operating system has them (it may step)."""
        return Nanos(time.time_ns())
