"""The exchange's calendar: when each session opens and ends, in UTC nanoseconds.

`pandas_market_calendars` "CME Globex Equity" under two layers: corrections where the
library is known to be wrong (`market-data.md` section 6), then the operator's file
(`Data/calendar_overrides.yml`). Globex runs 17:00 to 16:00 Chicago time; a session is named
by the date it ends, and its file begins where the session before ended, so the weekend is
Monday's. In 2013 gold traded until 16:15: those trades belong to the next session's file.

Hours are checked for equity index products only. Every other product gets the same hours
marked `is_verified=False`, unless the operator's file speaks for it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from adapters.products import DEFAULT_PRODUCT, EQUITY_CALENDAR
from adapters.yaml_source import YamlMap, YamlValue, as_text, as_time, did_you_mean, read_map, refuse
from domain.errors import OperatorError
from domain.instruments import TradedRoot
from domain.sessions import EXCHANGE_ZONE, Session, SessionHours, local_time, to_nanos
from domain.units import Nanos

VERIFIED_CALENDARS = frozenset({EQUITY_CALENDAR})
"""Checked on 50 dates of 2023 to 2026 against the exchange's notices."""

_OPEN = dt.time(17, 0)
_DAY = dt.timedelta(days=1)
_FRIDAY = 4
_JOBS_REPORT_DAYS = range(1, 8)
_GOOD_FRIDAY_CLOSE = dt.time(8, 15)
_KNOWN_CLOSES: Mapping[dt.date, dt.time] = MappingProxyType(
    {dt.date(2025, 1, 9): dt.time(8, 30)}  # national day of mourning for President Carter
)
_SEARCH_DAYS = 14
"""No closure of the exchange has lasted this long."""


@attrs.frozen(kw_only=True)
class DayOverride:
    """What the operator says of one date. `close` None with `is_closed` False: only `root_closes` are changed."""

    is_closed: bool = False
    close: dt.time | None = None
    root_closes: Mapping[str, dt.time] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _Day:
    """One trading day; `is_stated` when the operator gave its close for every product."""

    date: dt.date
    open_ns: Nanos
    close_ns: Nanos
    is_stated: bool
    root_closes: Mapping[str, Nanos]

    def hours_of(self, root: TradedRoot) -> SessionHours:
        stated = self.root_closes.get(root.root)
        is_verified = root.data_spec.exchange_calendar in VERIFIED_CALENDARS
        return SessionHours(
            root=root.root,
            open_ns=self.open_ns,
            close_ns=self.close_ns if stated is None else stated,
            is_verified=is_verified or self.is_stated or stated is not None,
        )

    def end_of(self, roots: Sequence[TradedRoot]) -> Nanos:
        """The last close of any of `roots`."""
        return max((self.hours_of(root).close_ns for root in roots), default=self.close_ns)


class CmeCalendar:
    """`domain.ports.Calendar` for CME Globex. The first call of a year loads pandas (about a second)."""

    def __init__(self, overrides: Path | None = None) -> None:
        """`overrides`: the operator's file. Raises OperatorError with file:line:column when it is wrong."""
        self._overrides = load_overrides(overrides) if overrides is not None else {}
        self._years: dict[int, Mapping[dt.date, _Day]] = {}
        self._last: tuple[tuple[TradedRoot, ...], Session] | None = None

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        """The session whose file holds `ts`: the first one that ends after it."""
        universe, last = tuple(roots), self._last
        if last is not None and last[0] == universe and last[1].start_ns <= ts < last[1].end_ns:
            return last[1]
        for day in self._days_from(local_time(ts, EXCHANGE_ZONE).date()):
            if day.end_of(universe) > ts:
                session = self._session(day, universe)
                self._last = (universe, session)
                return session
        raise AssertionError("unreachable: _days_from ends by raising")

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        """The session that ends on `date`. Raises OperatorError when there is none."""
        day = self._year(date.year).get(date)
        if day is None:
            following = next(self._days_from(date)).date
            raise OperatorError(
                f"{date} has no session ({date:%A})",
                where="CME calendar",
                fix=f"the next session ends on {following}; calendar_overrides.yml can state a close for {date}",
            )
        return self._session(day, tuple(roots))

    def _session(self, day: _Day, roots: tuple[TradedRoot, ...]) -> Session:
        return Session(
            date=day.date,
            start_ns=self._day_before(day.date).end_of(roots),
            open_ns=day.open_ns,
            end_ns=day.end_of(roots),
            hours=tuple(day.hours_of(root) for root in roots),
        )

    def _days_from(self, date: dt.date) -> Iterator[_Day]:
        """Trading days on and after `date`. Raises OperatorError instead of ending."""
        for offset in range(_SEARCH_DAYS):
            day = self._find(date + offset * _DAY)
            if day is not None:
                yield day
        raise _no_session_near(date)

    def _day_before(self, date: dt.date) -> _Day:
        for offset in range(1, _SEARCH_DAYS):
            day = self._find(date - offset * _DAY)
            if day is not None:
                return day
        raise _no_session_near(date)

    def _find(self, date: dt.date) -> _Day | None:
        return self._year(date.year).get(date)

    def _year(self, year: int) -> Mapping[dt.date, _Day]:
        days = self._years.get(year)
        if days is None:
            days = self._years[year] = self._load(year)
        return days

    def _load(self, year: int) -> Mapping[dt.date, _Day]:
        """The year's trading days: the library's, corrected, then the operator's."""
        closes: dict[dt.date, dt.datetime] = {
            date: close for date, close in _library_closes(year).items() if not _is_wrongly_open(date, close)
        }
        for date, time in _KNOWN_CLOSES.items():
            if date.year == year:
                closes[date] = _moment(date, time)
        stated = {date: override for date, override in self._overrides.items() if date.year == year}
        for date, override in stated.items():
            if override.is_closed:
                closes.pop(date, None)
            elif override.close is not None:
                closes[date] = _moment(date, override.close)
            elif date not in closes:
                closes[date] = _moment(date, max(override.root_closes.values()))
        return {date: _day(date, close, stated.get(date)) for date, close in sorted(closes.items())}


# ------------------------------------------------------------ the library


def _library_closes(year: int) -> dict[dt.date, dt.datetime]:
    # pandas costs most of a second; commands that never ask for a session must not pay it.
    import pandas_market_calendars

    calendar: Any = pandas_market_calendars.get_calendar(EQUITY_CALENDAR)
    schedule = calendar.schedule(f"{year}-01-01", f"{year}-12-31")
    return {
        date.date(): close.to_pydatetime() for date, close in zip(schedule.index, schedule["market_close"], strict=True)
    }


def _is_wrongly_open(date: dt.date, close: dt.datetime) -> bool:
    """Good Friday: the library always has an 08:15 close; the exchange opens only for the jobs report of 1-7 April."""
    is_good_friday = date.weekday() == _FRIDAY and close.astimezone(EXCHANGE_ZONE).time() == _GOOD_FRIDAY_CLOSE
    return is_good_friday and not (date.month == 4 and date.day in _JOBS_REPORT_DAYS)


def _day(date: dt.date, close: dt.datetime, override: DayOverride | None) -> _Day:
    return _Day(
        date=date,
        # Stated here and not read: an added date has no open in the library (the tests compare all others).
        open_ns=to_nanos(_moment(date - _DAY, _OPEN)),
        close_ns=to_nanos(close),
        is_stated=override is not None and override.close is not None,
        root_closes={
            root: to_nanos(_moment(date, time)) for root, time in (override.root_closes if override else {}).items()
        },
    )


def _moment(date: dt.date, time: dt.time) -> dt.datetime:
    return dt.datetime.combine(date, time, tzinfo=EXCHANGE_ZONE)


def _no_session_near(date: dt.date) -> OperatorError:
    return OperatorError(
        f"no session within {_SEARCH_DAYS} days of {date}",
        where="CME calendar",
        fix="check the date, and calendar_overrides.yml for too many closed days",
    )


# --------------------------------------------------------- the operator's file


def load_overrides(path: Path) -> Mapping[dt.date, DayOverride]:
    """Dates to what the operator says of them; an empty file is an empty mapping.

    `"2025-01-09": closed`, `"08:30"` (every product), or `{GC: "13:30"}` (these roots only).
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
    text = as_text(value)
    if text == "closed":
        return DayOverride(is_closed=True)
    if ":" not in text:
        refuse(value, f"{text!r} is neither `closed` nor a time", fix=f'{did_you_mean(text, ["closed"])} or "HH:MM"')
    return DayOverride(close=_close_time(value))


def _close_time(value: YamlValue) -> dt.time:
    time = dt.time.fromisoformat(as_time(value))
    if time >= _OPEN:
        refuse(value, f"{time:%H:%M} is after the next open (17:00)", fix="state the close in Chicago time")
    return time
