"""The exchange's calendar: when each session opens and ends, in UTC nanoseconds.

Hours come from `pandas_market_calendars`, a calendar per group of products, under two layers:
corrections where the library is known to be wrong (docs/sessions.md), then the
operator's file (`Data/calendar_overrides.yml`). Globex runs 17:00 to 16:00 Chicago time; a session
is named by the date it ends, and its file begins where the session before ended, so the weekend
is Monday's. In 2013 trading went on until 16:15: those trades belong to the next session's file.

Hours of equity index products are checked. Those of the others are right on the single dates that
are known (2024-11-28, 2025-01-09, and 6E by its own trades on 2024-01-15) and are marked
`is_verified=False`, unless the operator's file speaks for them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from adapters.products import (
    CALENDARS,
    DEFAULT_PRODUCT,
    ENERGY_CALENDAR,
    EQUITY_CALENDAR,
    METALS_CALENDAR,
    RATES_CALENDAR,
    VERIFIED_CALENDARS,
)
from adapters.yaml_source import YamlMap, YamlValue, as_text, as_time, did_you_mean, read_map, refuse
from domain.errors import OperatorError
from domain.instruments import TradedRoot
from domain.sessions import EXCHANGE_ZONE, Session, SessionHours, local_time, to_nanos
from domain.units import Nanos

_OPEN = dt.time(17, 0)
_REGULAR_CLOSE = dt.time(16, 0)
_DAY = dt.timedelta(days=1)
_FRIDAY = 4
_JOBS_REPORT_DAYS = range(1, 8)
_GOOD_FRIDAY_CLOSE = dt.time(8, 15)
_METALS_HALF_DAY = {METALS_CALENDAR: dt.time(12, 45), ENERGY_CALENDAR: dt.time(12, 45)}
_KNOWN_CLOSES: Mapping[dt.date, Mapping[str, dt.time]] = MappingProxyType(
    {
        # Day of mourning for President Carter, by the exchange's notice; all others kept their hours.
        dt.date(2025, 1, 9): {EQUITY_CALENDAR: dt.time(8, 30), RATES_CALENDAR: dt.time(12, 15)},
        # The library has the half day of Christmas Eve in 2026 only, and the one after Thanksgiving in that
        # year an hour late (13:45 is New York's time). Not confirmed by the exchange: the earlier one is safe.
        dt.date(2024, 12, 24): _METALS_HALF_DAY,
        dt.date(2025, 12, 24): _METALS_HALF_DAY,
        dt.date(2026, 11, 27): _METALS_HALF_DAY,
    }
)
_SEARCH_DAYS = 14
"""No closure of the exchange has lasted this long."""


@attrs.frozen(kw_only=True)
class DayOverride:
    """What the operator says of one date. `close` None with `is_closed` False: only `root_closes` are changed."""

    is_closed: bool = False
    close: dt.time | None = None
    root_closes: Mapping[str, dt.time | None] = attrs.field(factory=dict)
    """None: this root has no session."""


@attrs.frozen(kw_only=True)
class _Day:
    """One trading day; `is_stated` when the operator gave its close for every product."""

    date: dt.date
    open_ns: Nanos
    closes: Mapping[str, Nanos]
    """By the library's calendar; a product whose calendar is missing has no session."""
    is_stated: bool
    root_closes: Mapping[str, Nanos | None]

    def hours_of(self, root: TradedRoot) -> SessionHours:
        close_ns = self.close_of(root)
        is_verified = root.data_spec.exchange_calendar in VERIFIED_CALENDARS
        return SessionHours(
            root=root.root,
            open_ns=self.open_ns,
            # Without a session the hours are empty: nothing lies inside them.
            close_ns=self.open_ns if close_ns is None else close_ns,
            is_verified=is_verified or self.is_stated or root.root in self.root_closes,
        )

    def close_of(self, root: TradedRoot) -> Nanos | None:
        if root.root in self.root_closes:
            return self.root_closes[root.root]
        return self.closes.get(root.data_spec.exchange_calendar)

    def end_of(self, roots: Sequence[TradedRoot]) -> Nanos | None:
        """The last close of any of `roots`; None when none of them has a session."""
        return max((close for root in roots if (close := self.close_of(root)) is not None), default=None)


class CmeCalendar:
    """`domain.ports.Calendar` for CME Globex. The first call of a year loads pandas (about a second)."""

    def __init__(self, overrides: Path | None = None) -> None:
        """`overrides`: the operator's file. Raises OperatorError with file:line:column when it is wrong."""
        self._overrides = load_overrides(overrides) if overrides is not None else {}
        self._found: dict[dt.date, _Day | None] = {}
        self._last: tuple[tuple[TradedRoot, ...], Session] | None = None

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        """The session whose file holds `ts`: the first one that ends after it."""
        universe, last = tuple(roots), self._last
        if last is not None and last[0] == universe and last[1].start_ns <= ts < last[1].end_ns:
            return last[1]
        for day, end in self._days(local_time(ts, EXCHANGE_ZONE).date(), _DAY, universe):
            if end > ts:
                session = self._session(day, end, universe)
                self._last = (universe, session)
                return session
        raise AssertionError("unreachable: _days ends by raising")

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        """The session that ends on `date`. Raises OperatorError when there is none."""
        universe = tuple(roots)
        day, end = next(self._days(date, _DAY, universe))
        if day.date != date:
            raise OperatorError(
                f"{date} has no session ({date:%A})",
                where="CME calendar",
                fix=f"the next session ends on {day.date}; calendar_overrides.yml can state a close for {date}",
            )
        return self._session(day, end, universe)

    def _session(self, day: _Day, end_ns: Nanos, roots: tuple[TradedRoot, ...]) -> Session:
        _, end_before = next(self._days(day.date - _DAY, -_DAY, roots))
        return Session(
            date=day.date,
            start_ns=end_before,
            open_ns=day.open_ns,
            end_ns=end_ns,
            hours=tuple(day.hours_of(root) for root in roots),
        )

    def _days(self, date: dt.date, step: dt.timedelta, roots: tuple[TradedRoot, ...]) -> Iterator[tuple[_Day, Nanos]]:
        """Days on which any of `roots` trades, and their ends, from `date` on. Ends by raising OperatorError."""
        for offset in range(_SEARCH_DAYS):
            day = self._find(date + offset * step)
            end = None if day is None else day.end_of(roots)
            if day is not None and end is not None:
                yield day, end
        raise OperatorError(
            f"no session within {_SEARCH_DAYS} days of {date}",
            where="CME calendar",
            fix="check the date, and calendar_overrides.yml for too many closed days",
        )

    def _find(self, date: dt.date) -> _Day | None:
        if date not in self._found:
            self._found[date] = _day(date, self._overrides.get(date))
        return self._found[date]


def _day(date: dt.date, override: DayOverride | None) -> _Day | None:
    """The trading day: the library's, corrected, then the operator's. None when nobody trades."""
    closes = _corrected_closes(date)
    if override is None:
        override = DayOverride(is_closed=not closes)
    if override.is_closed:
        return None
    if override.close is not None:
        closes = dict.fromkeys(CALENDARS, override.close)
    return _Day(
        date=date,
        # Stated here and not read: an added date has no open in the library (the tests compare all others).
        open_ns=to_nanos(_moment(date - _DAY, _OPEN)),
        closes={name: to_nanos(_moment(date, time)) for name, time in closes.items()},
        is_stated=override.close is not None,
        root_closes={
            root: None if time is None else to_nanos(_moment(date, time)) for root, time in override.root_closes.items()
        },
    )


# ------------------------------------------------------------ the library


def _corrected_closes(date: dt.date) -> dict[str, dt.time]:
    """The Chicago time of each calendar's close; a calendar without a session is missing."""
    index_close = _library_closes(EQUITY_CALENDAR, date.year).get(date)
    if index_close is None or _is_wrongly_open(date, index_close):
        return {}
    # When the index keeps its hours all products do, in the library since June 2015: it need not be asked
    # for each of them, at a tenth of a second for a calendar and year.
    if index_close == _REGULAR_CLOSE:
        closes = dict.fromkeys(CALENDARS, index_close)
    else:
        closes = {n: close for n in CALENDARS if (close := _library_closes(n, date.year).get(date)) is not None}
    return {**closes, **_KNOWN_CLOSES.get(date, {})}


@cache
def _library_closes(name: str, year: int) -> Mapping[dt.date, dt.time]:
    # pandas costs most of a second; commands that never ask for a session must not pay it.
    import pandas_market_calendars

    calendar: Any = pandas_market_calendars.get_calendar(name)
    schedule = calendar.schedule(f"{year}-01-01", f"{year}-12-31", tz=EXCHANGE_ZONE)
    return {day.date(): close.time() for day, close in schedule["market_close"].items()}


def _is_wrongly_open(date: dt.date, index_close: dt.time) -> bool:
    """Good Friday: the library always has an 08:15 close; the exchange opens only for the jobs report of 1-7 April."""
    is_good_friday = date.weekday() == _FRIDAY and index_close == _GOOD_FRIDAY_CLOSE
    return is_good_friday and not (date.month == 4 and date.day in _JOBS_REPORT_DAYS)


def _moment(date: dt.date, time: dt.time) -> dt.datetime:
    return dt.datetime.combine(date, time, tzinfo=EXCHANGE_ZONE)


# --------------------------------------------------------- the operator's file


def load_overrides(path: Path) -> Mapping[dt.date, DayOverride]:
    """Dates to what the operator says of them; an empty file is an empty mapping.

    `"2025-01-09": closed`, `"08:30"` (every product), or `{GC: "13:30", CL: closed}` (these roots only).
    """
    document = read_map(path)
    return {
        _session_date(key, document): _override(_session_date(key, document), value)
        for key, value in document.entries.items()
    }


def _session_date(key: str, document: YamlMap) -> dt.date:
    try:
        date = dt.date.fromisoformat(key)
    except ValueError:
        date = None
    # The library also reads 20240501: two spellings of one date would hide a duplicate.
    if date is None or date.isoformat() != key:
        raise OperatorError(f"{key!r} is not a date", where=str(document.keys_at[key]), fix="write YYYY-MM-DD")
    if date.weekday() > _FRIDAY:
        raise OperatorError(
            f"{key} is a {date:%A}, on which no session ends",
            where=str(document.keys_at[key]),
            fix="a session is named by the date it ends: Sunday evening belongs to Monday",
        )
    return date


def _override(date: dt.date, value: YamlValue) -> DayOverride:
    if isinstance(value, YamlMap):
        if not value.entries:
            refuse(value, "says nothing", fix='write `closed`, a time such as "12:00", or remove the date')
        value.refuse_unknown(tuple(DEFAULT_PRODUCT))
        return DayOverride(root_closes={root: _close_time(at) for root, at in value.entries.items()})
    close = _close_time(value)
    return DayOverride(is_closed=close is None, close=close)


def _close_time(value: YamlValue) -> dt.time | None:
    """None: closed all day."""
    text = as_text(value)
    if text == "closed":
        return None
    if ":" not in text:
        refuse(value, f"{text!r} is neither `closed` nor a time", fix=f'{did_you_mean(text, ["closed"])} or "HH:MM"')
    time = dt.time.fromisoformat(as_time(value))
    if time >= _OPEN:
        refuse(value, f"{time:%H:%M} is after the next open (17:00)", fix="state the close in Chicago time")
    return time
