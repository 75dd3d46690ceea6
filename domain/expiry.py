"""When a contract must have been left: its first notice day or its expiry, whichever comes first.

Rules per ordered product as CME Group's contract specifications state them, in business days
of the exchange. They are the conventions, not the exchange's calendar of the day: it may move
a date by notice, and the contract map states what differs (`roll: last_trade_session`).
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Callable, Iterator

from domain.instruments import Expiry

_DAY = dt.timedelta(days=1)
_MONDAY, _WEDNESDAY, _THURSDAY, _FRIDAY, _SATURDAY = 0, 2, 3, 4, 5


def leave_date(product: str, expiry: Expiry) -> dt.date | None:
    """min(first notice day, last trading day) of the product's contract; None for a product without a rule here."""
    rule = _RULES.get(product)
    return None if rule is None else rule(expiry.year, expiry.month)


# ---------------------------------------------------------------- the rules


def _third_friday(year: int, month: int) -> dt.date:
    """Cash settled on the third Friday; the business day before where that is a holiday."""
    return _business_day_until(_nth(year, month, _FRIDAY, 3))


def _before_third_wednesday(days: int) -> Callable[[int, int], dt.date]:
    """Currencies: so many business days before the third Wednesday."""
    return lambda year, month: _business_days_before(_nth(year, month, _WEDNESDAY, 3), days)


def _end_of_month_before(nth_last: int) -> Callable[[int, int], dt.date]:
    """The n-th last business day of the month before delivery: a first notice day is its last one."""
    return lambda year, month: _business_days_before(dt.date(year, month, 1), nth_last)


def _crude_oil(days: int) -> Callable[[int, int], dt.date]:
    """So many business days before the 25th of the month before delivery, or before the business day before that."""

    def rule(year: int, month: int) -> dt.date:
        before = dt.date(year, month, 1) - _DAY
        return _business_days_before(_business_day_until(before.replace(day=25)), days)

    return rule


_FIRST_NOTICE = _end_of_month_before(1)
_RULES: dict[str, Callable[[int, int], dt.date]] = {
    **dict.fromkeys(("ES", "MES", "NQ", "MNQ", "RTY", "M2K", "YM", "MYM"), _third_friday),
    **dict.fromkeys(("GC", "MGC", "SI", "SIL", "HG", "PL", "ZB"), _FIRST_NOTICE),
    # Settled in cash, two business days before the full size's first notice.
    **dict.fromkeys(("MHG", "QC"), _end_of_month_before(3)),
    "CL": _crude_oil(3),
    "MCL": _crude_oil(4),
    "NG": _end_of_month_before(3),
    **dict.fromkeys(("MNG", "QG"), _end_of_month_before(4)),
    **dict.fromkeys(("6A", "M6A", "6B", "M6B", "6E", "M6E", "6J", "6M", "6N", "6S"), _before_third_wednesday(2)),
    "6C": _before_third_wednesday(1),
}

# ---------------------------------------------------------- business days


def _business_days_before(date: dt.date, count: int) -> dt.date:
    """The `count`-th business day before `date`, which is not counted itself."""
    for _ in range(count):
        date = _business_day_until(date - _DAY)
    return date


def _business_day_until(date: dt.date) -> dt.date:
    """`date`, or the last business day before it."""
    while date.weekday() >= _SATURDAY or date in _holidays(date.year):
        date -= _DAY
    return date


def _holidays(year: int) -> Iterator[dt.date]:
    """Weekdays on which the exchange settles nothing, though Globex may trade for some hours."""
    new_year = dt.date(year, 1, 1)
    if new_year.weekday() != _SATURDAY:  # a Saturday's is not kept on the Friday, which ends the year before
        yield _observed(new_year)
    yield _nth(year, 1, _MONDAY, 3)
    yield _nth(year, 2, _MONDAY, 3)
    yield _easter(year) - 2 * _DAY
    yield _nth(year, 6, _MONDAY, 1) - 7 * _DAY  # the last one of May
    if year >= 2022:
        yield _observed(dt.date(year, 6, 19))
    yield _observed(dt.date(year, 7, 4))
    yield _nth(year, 9, _MONDAY, 1)
    yield _nth(year, 11, _THURSDAY, 4)
    yield _observed(dt.date(year, 12, 25))


def _observed(date: dt.date) -> dt.date:
    """A Saturday's holiday is kept on the Friday before, a Sunday's on the Monday after."""
    return date + {_SATURDAY: -1, _SATURDAY + 1: 1}.get(date.weekday(), 0) * _DAY


def _nth(year: int, month: int, weekday: int, count: int) -> dt.date:
    first, _ = calendar.monthrange(year, month)
    return dt.date(year, month, 1 + (weekday - first) % 7 + 7 * (count - 1))


def _easter(year: int) -> dt.date:
    """Easter Sunday of the Gregorian calendar (Meeus, Astronomical Algorithms, chapter 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return dt.date(year, month, day + 1)
