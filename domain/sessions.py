"""Trading sessions: named by the date they end, bounded by UTC stamps.

The hours come from a calendar adapter once, are written into `SessionOpened`, and
everything later (replay too) uses what was written. A session's file covers the
time from the previous session's end to its own end, so that a trade outside the
calendar's hours still has one place: the session whose end follows.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import attrs

from domain.units import HOUR, SECOND, Nanos

EXCHANGE_ZONE = ZoneInfo("America/Chicago")
"""CME Globex keeps Chicago time."""
STRATEGY_ZONE = ZoneInfo("America/New_York")
"""Every time-of-day gate of the strategy is in New York time."""


@attrs.frozen(kw_only=True)
class SessionHours:
    """One root's trading hours in one session, start inclusive, end exclusive."""

    root: str
    open_ns: Nanos
    close_ns: Nanos
    is_verified: bool = True
    """False when the calendar has not been checked for this product."""


@attrs.frozen(kw_only=True)
class Session:
    """One session: its date, the span of its file and the hours of each root."""

    date: dt.date
    start_ns: Nanos
    """The previous session's end: the first moment that belongs to this file."""
    open_ns: Nanos
    """The earliest open of any root."""
    end_ns: Nanos
    """The last close of any root: the file is sealed when the feed passes it."""
    hours: tuple[SessionHours, ...]

    def hours_of(self, root: str) -> SessionHours:
        """The hours of `root`. Raises KeyError for a root outside the session's universe."""
        for hours in self.hours:
            if hours.root == root:
                return hours
        raise KeyError(root)


def local_time(ts: Nanos, zone: ZoneInfo) -> dt.datetime:
    """`ts` as a zone-aware datetime, truncated to the microsecond."""
    seconds, nanos = divmod(ts, SECOND)
    return dt.datetime.fromtimestamp(seconds, tz=zone).replace(microsecond=nanos // 1000)


def to_nanos(moment: dt.datetime) -> Nanos:
    """The UTC nanoseconds of a zone-aware datetime (exact: no float on the way)."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a zone has no UTC stamp")
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return Nanos(((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1_000)


def iso_utc(ts: Nanos) -> str:
    """`ts` as `2024-05-01T20:00:00Z`, with the fraction only where there is one."""
    seconds, nanos = divmod(ts, SECOND)
    text = dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanos:09d}Z" if nanos else f"{text}Z"


def hour_end(ts: Nanos, session_open: Nanos) -> Nanos:
    """The end of the hour bar that holds `ts`, on the grid that starts at the session's open."""
    offset = (ts - session_open) % HOUR
    return Nanos(ts - offset + HOUR)
