"""Fifty dates of 2023 to 2027, their hours in UTC as a person works them out from the exchange's rules.

Nothing here is computed from the program or its library: open and closes are literals. The equity
index column is what the exchange published (docs/sessions.md). Of the other
columns only single dates are known (2024-11-28, 2025-01-09, 2025-01-20, currencies on 2024-01-15);
the rest is what the program assumes, and journals as unverified.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import databento as db
import pytest

from adapters.calendar import CmeCalendar
from adapters.contract_map import load_contract_map
from domain.errors import OperatorError
from domain.instruments import TradedRoot
from domain.sessions import to_nanos

CHECKOUT = Path(__file__).parents[2]
MARKET_DATA = CHECKOUT.parent / "shared" / "market"
COLUMNS = (("ES", "NQ", "RTY", "YM"), ("GC", "SI", "HG", "PL", "CL", "NG"), ("6A", "6B", "6E", "6C", "6J"), ("TLT",))
"""Equity index; metals and energy; currencies; Treasury bonds."""

TABLE = """
# date       open of the day before   equity metals currencies bonds; - is no session
# Clocks go forward: the Friday before, the Monday after.
2023-03-10   2023-03-09T23:00         22:00 22:00 22:00 22:00
2023-03-13   2023-03-12T22:00         21:00 21:00 21:00 21:00
2024-03-08   2024-03-07T23:00         22:00 22:00 22:00 22:00
2024-03-11   2024-03-10T22:00         21:00 21:00 21:00 21:00
2025-03-07   2025-03-06T23:00         22:00 22:00 22:00 22:00
2025-03-10   2025-03-09T22:00         21:00 21:00 21:00 21:00
2026-03-06   2026-03-05T23:00         22:00 22:00 22:00 22:00
2026-03-09   2026-03-08T22:00         21:00 21:00 21:00 21:00
2027-03-12   2027-03-11T23:00         22:00 22:00 22:00 22:00
2027-03-15   2027-03-14T22:00         21:00 21:00 21:00 21:00
# Clocks go back.
2023-11-03   2023-11-02T22:00         21:00 21:00 21:00 21:00
2023-11-06   2023-11-05T23:00         22:00 22:00 22:00 22:00
2024-11-01   2024-10-31T22:00         21:00 21:00 21:00 21:00
2024-11-04   2024-11-03T23:00         22:00 22:00 22:00 22:00
2025-10-31   2025-10-30T22:00         21:00 21:00 21:00 21:00
2025-11-03   2025-11-02T23:00         22:00 22:00 22:00 22:00
2026-10-30   2026-10-29T22:00         21:00 21:00 21:00 21:00
2026-11-02   2026-11-01T23:00         22:00 22:00 22:00 22:00
2027-11-05   2027-11-04T22:00         21:00 21:00 21:00 21:00
2027-11-08   2027-11-07T23:00         22:00 22:00 22:00 22:00
# Good Friday: with the jobs report of 1 to 7 April a morning, else closed.
2023-04-07   2023-04-06T22:00         13:15 -     15:15 15:15
2024-03-29   -                        -     -     -     -
2025-04-18   -                        -     -     -     -
2026-04-03   2026-04-02T22:00         13:15 -     15:15 15:15
2027-03-26   -                        -     -     -     -
# The day of mourning for President Carter.
2025-01-09   2025-01-08T23:00         14:30 22:00 22:00 18:15
# Thanksgiving and the Friday after it.
2023-11-23   2023-11-22T23:00         18:00 19:30 22:00 18:00
2023-11-24   2023-11-23T23:00         18:15 18:45 18:15 18:15
2024-11-28   2024-11-27T23:00         18:00 19:30 22:00 18:00
2024-11-29   2024-11-28T23:00         18:15 18:45 18:15 18:15
2025-11-27   2025-11-26T23:00         18:00 19:30 22:00 18:00
2025-11-28   2025-11-27T23:00         18:15 18:45 18:15 18:15
2026-11-26   2026-11-25T23:00         18:00 19:30 22:00 18:00
2026-11-27   2026-11-26T23:00         18:15 18:45 18:15 18:15
2027-11-25   2027-11-24T23:00         18:00 19:30 22:00 18:00
2027-11-26   2027-11-25T23:00         18:15 18:45 18:15 18:15
# Christmas Eve and Day (in 2027 observed on Friday the 24th), and the day after the one of 2023.
2023-12-25   -                        -     -     -     -
2023-12-26   2023-12-25T23:00         22:00 22:00 22:00 22:00
2024-12-24   2024-12-23T23:00         18:15 18:45 18:15 18:15
2024-12-25   -                        -     -     -     -
2025-12-24   2025-12-23T23:00         18:15 18:45 18:15 18:15
2025-12-25   -                        -     -     -     -
2026-12-24   2026-12-23T23:00         18:15 18:45 18:15 18:15
2026-12-25   -                        -     -     -     -
2027-12-24   -                        -     -     -     -
# New Year, Martin Luther King's day twice, and Independence Day with its eve.
2024-01-01   -                        -     -     -     -
2024-01-15   2024-01-14T23:00         18:00 19:30 22:00 18:00
2025-01-20   2025-01-19T23:00         18:00 19:30 22:00 18:00
2024-07-03   2024-07-02T22:00         17:15 21:00 21:00 21:00
2024-07-04   2024-07-03T22:00         17:00 18:30 21:00 17:00
"""
ROWS = [line.split() for line in TABLE.strip().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def roots() -> tuple[TradedRoot, ...]:
    return load_contract_map(CHECKOUT / "Data" / "Databento_contract_map.yml").roots


@pytest.fixture(scope="module")
def calendar() -> CmeCalendar:
    return CmeCalendar()


def utc(text: str) -> int:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def test_the_table_has_fifty_dates() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS) == 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_product_opens_and_closes_as_the_table_says(calendar, roots, row: list[str]) -> None:
    date, open_, *closes = row
    if open_ == "-":
        for column in COLUMNS:
            with pytest.raises(OperatorError, match=f"{date} has no session"):
                calendar.session_on(dt.date.fromisoformat(date), [root for root in roots if root.root in column])
        return
    session = calendar.session_on(dt.date.fromisoformat(date), roots)
    expected = {
        # Without a session the hours are empty.
        root: (utc(open_), utc(open_) if close == "-" else utc(f"{date}T{close}"))
        for column, close in zip(COLUMNS, closes, strict=True)
        for root in column
    }
    found = {h.root: (h.open_ns, h.close_ns) for h in session.hours if h.root in expected}
    assert found == expected
    assert session.open_ns == utc(open_)
    assert session.end_ns == max(close for _, close in expected.values()), "the file ends with the last of them"
    assert {hours.root for hours in session.hours if hours.is_verified} == set(COLUMNS[0])


def test_products_without_a_session_of_their_own_wait_for_the_next(calendar, roots) -> None:
    metals = [root for root in roots if root.root in ("GC", "SI")]
    session = calendar.session_of(utc("2026-04-03T12:00"), metals)
    assert session.date == dt.date(2026, 4, 6)
    assert session.start_ns == utc("2026-04-02T21:00")


@pytest.mark.real_data
def test_real_euro_trades_lie_in_the_hours_also_on_a_holiday(calendar, roots) -> None:
    path = MARKET_DATA / "6E.ohlcv-1m.20240101-20240116.dbn.zst"
    if not path.exists():
        pytest.skip(f"real market data not found: ../shared/market/{path.name}")
    euro = [root for root in roots if root.root == "6E"]
    seen: dict[dt.date, list[int]] = {}
    for ts in db.DBNStore.from_file(path).to_ndarray()["ts_event"].tolist():
        session = calendar.session_of(ts, euro)
        assert session.open_ns <= ts < session.end_ns
        seen.setdefault(session.date, []).append(ts)
    # The market's last minute is the calendar's on every whole session, Martin Luther King's day included.
    whole = sorted(seen)[:-1]
    assert dt.date(2024, 1, 15) in whole
    for date in whole:
        session = calendar.session_on(date, euro)
        assert (seen[date][0], seen[date][-1]) == (session.open_ns, session.end_ns - 60 * 10**9)
