from __future__ import annotations

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from adapters.calendar import CmeCalendar
from adapters.contract_map import load_contract_map
from adapters.products import CALENDARS
from domain.errors import OperatorError
from domain.instruments import TradedRoot
from domain.sessions import iso_utc, to_nanos
from domain.units import MINUTE, Nanos

DATA = Path(__file__).parents[2] / "Data"
CHICAGO = ZoneInfo("America/Chicago")


@pytest.fixture(scope="module")
def roots() -> tuple[TradedRoot, ...]:
    return load_contract_map(DATA / "Databento_contract_map.yml").roots


@pytest.fixture(scope="module")
def index_roots(roots: tuple[TradedRoot, ...]) -> tuple[TradedRoot, ...]:
    return tuple(root for root in roots if root.root in ("ES", "NQ", "RTY", "YM"))


@pytest.fixture(scope="module")
def calendar() -> CmeCalendar:
    return CmeCalendar(DATA / "calendar_overrides.yml")


def utc(text: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def chicago(date: str, time: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(f"{date}T{time}").replace(tzinfo=CHICAGO))


# Of the equity index products: the session's date, its file's start, its open and its end, in UTC, worked out by hand.
SESSIONS = [
    ("2024-05-01", "2024-04-30T21:00", "2024-04-30T22:00", "2024-05-01T21:00"),
    ("2024-05-06", "2024-05-03T21:00", "2024-05-05T22:00", "2024-05-06T21:00"),  # the weekend is Monday's
    ("2024-04-01", "2024-03-28T21:00", "2024-03-31T22:00", "2024-04-01T21:00"),  # after a closed Good Friday
    ("2026-04-03", "2026-04-02T21:00", "2026-04-02T22:00", "2026-04-03T13:15"),  # Good Friday with jobs report
    ("2025-04-21", "2025-04-17T21:00", "2025-04-20T22:00", "2025-04-21T21:00"),
    ("2025-01-09", "2025-01-08T22:00", "2025-01-08T23:00", "2025-01-09T14:30"),  # day of mourning, 08:30 CT
    ("2025-01-10", "2025-01-09T14:30", "2025-01-09T23:00", "2025-01-10T22:00"),
    ("2024-11-28", "2024-11-27T22:00", "2024-11-27T23:00", "2024-11-28T18:00"),  # Thanksgiving, 12:00 CT
    ("2024-11-29", "2024-11-28T18:00", "2024-11-28T23:00", "2024-11-29T18:15"),  # 12:15 CT
    ("2024-12-26", "2024-12-24T18:15", "2024-12-25T23:00", "2024-12-26T22:00"),
    ("2024-01-02", "2023-12-29T22:00", "2024-01-01T23:00", "2024-01-02T22:00"),  # across a year
    # Clocks go forward on 2024-03-10, back on 2024-11-03: 16:00 CT is 22:00, then 21:00 UTC, and the reverse.
    ("2024-03-08", "2024-03-07T22:00", "2024-03-07T23:00", "2024-03-08T22:00"),
    ("2024-03-11", "2024-03-08T22:00", "2024-03-10T22:00", "2024-03-11T21:00"),
    ("2024-11-01", "2024-10-31T21:00", "2024-10-31T22:00", "2024-11-01T21:00"),
    ("2024-11-04", "2024-11-01T21:00", "2024-11-03T23:00", "2024-11-04T22:00"),
    ("2013-10-07", "2013-10-04T21:00", "2013-10-06T22:00", "2013-10-07T21:00"),
    ("2013-10-08", "2013-10-07T21:00", "2013-10-07T22:00", "2013-10-08T21:00"),
]


@pytest.mark.parametrize("case", SESSIONS, ids=lambda case: case[0])
def test_a_session_has_its_span(calendar, index_roots, case: tuple[str, str, str, str]) -> None:
    date, start, open_, end = case
    session = calendar.session_on(dt.date.fromisoformat(date), index_roots)
    assert (session.start_ns, session.open_ns, session.end_ns) == (utc(start), utc(open_), utc(end))
    assert [hours.root for hours in session.hours] == [root.root for root in index_roots]
    assert {(hours.open_ns, hours.close_ns) for hours in session.hours} == {(utc(open_), utc(end))}


@pytest.mark.parametrize("case", SESSIONS, ids=lambda case: case[0])
def test_every_moment_of_a_span_belongs_to_that_session(calendar, index_roots, case: tuple[str, str, str, str]) -> None:
    date, start, open_, end = case
    expected = calendar.session_on(dt.date.fromisoformat(date), index_roots)
    for moment in (utc(start), utc(open_) - MINUTE, utc(open_), utc(end) - 1):
        assert calendar.session_of(Nanos(moment), index_roots) == expected, iso_utc(Nanos(moment))
    assert calendar.session_of(Nanos(utc(start) - 1), index_roots).date < expected.date
    assert calendar.session_of(utc(end), index_roots).date > expected.date


@pytest.mark.parametrize(
    ("date", "following"),
    [
        ("2024-03-29", "2024-04-01"),  # Good Friday in March
        ("2025-04-18", "2025-04-21"),  # Good Friday after 7 April
        ("2027-03-26", "2027-03-29"),
        ("2024-12-25", "2024-12-26"),
        ("2024-01-01", "2024-01-02"),
        ("2024-05-04", "2024-05-06"),
        ("2024-05-05", "2024-05-06"),
    ],
)
def test_a_date_without_a_session_names_the_next_one(calendar, roots, date: str, following: str) -> None:
    with pytest.raises(OperatorError) as caught:
        calendar.session_on(dt.date.fromisoformat(date), roots)
    assert date in caught.value.what
    assert following in caught.value.fix


def test_gold_after_sixteen_oclock_in_2013_lands_in_the_next_session(calendar, roots) -> None:
    session = calendar.session_of(chicago("2013-10-07", "16:10"), roots)
    assert session.date == dt.date(2013, 10, 8)
    assert session.open_ns > chicago("2013-10-07", "16:10")


def test_sessions_of_four_years_touch_and_open_when_the_library_says(calendar, index_roots) -> None:
    import pandas_market_calendars

    library = pandas_market_calendars.get_calendar("CME Globex Equity")
    for year in (2008, 2013, 2024, 2027):
        end = None
        for row in library.schedule(f"{year}-01-01", f"{year}-12-31").itertuples():
            date = row.Index.date()
            if date in {dt.date(2008, 3, 21), dt.date(2013, 3, 29), dt.date(2024, 3, 29), dt.date(2027, 3, 26)}:
                continue  # Good Fridays without a jobs report
            session = calendar.session_on(date, index_roots)
            assert session.open_ns == to_nanos(row.market_open.to_pydatetime()), date
            assert session.end_ns == to_nanos(row.market_close.to_pydatetime()), date
            assert end is None or session.start_ns == end, date
            end = session.end_ns


def test_on_days_with_regular_hours_of_the_index_no_other_calendar_has_special_ones() -> None:
    import pandas_market_calendars

    closes = [
        pandas_market_calendars.get_calendar(name)
        .schedule("2015-06-01", "2027-12-31", tz=CHICAGO)["market_close"]
        .map(lambda close: close.time())
        for name in CALENDARS
    ]
    index = closes[CALENDARS.index("CME Globex Equity")]
    for other in closes:
        assert set(other.reindex(index.index[index == dt.time(16)])) == {dt.time(16)}
        assert set(other.index) <= set(index.index)


def test_only_equity_index_hours_are_verified(calendar, roots) -> None:
    session = calendar.session_on(dt.date(2024, 5, 1), roots)
    assert [hours.root for hours in session.hours if hours.is_verified] == ["ES", "NQ", "RTY", "YM"]


def test_another_universe_is_not_answered_from_the_cache(calendar, roots) -> None:
    moment = chicago("2024-05-01", "10:00")
    assert len(calendar.session_of(moment, roots).hours) == len(roots)
    assert [hours.root for hours in calendar.session_of(moment, roots[:1]).hours] == ["ES"]


def overridden(tmp_path: Path, text: str) -> CmeCalendar:
    path = tmp_path / "overrides.yml"
    path.write_text(text)
    return CmeCalendar(path)


def test_an_override_closes_a_day_and_its_time_goes_to_the_next(tmp_path: Path, roots) -> None:
    calendar = overridden(tmp_path, "2024-05-01: closed\n")
    session = calendar.session_of(chicago("2024-05-01", "10:00"), roots)
    assert (session.date, session.start_ns) == (dt.date(2024, 5, 2), chicago("2024-04-30", "16:00"))


def test_an_overridden_close_holds_for_every_product_and_counts_as_verified(tmp_path: Path, roots) -> None:
    session = overridden(tmp_path, '2024-05-01: "11:30"\n').session_on(dt.date(2024, 5, 1), roots)
    assert session.end_ns == chicago("2024-05-01", "11:30")
    assert all(hours.is_verified for hours in session.hours)


def test_an_override_adds_a_session_that_the_calendar_has_not(tmp_path: Path, roots) -> None:
    session = overridden(tmp_path, '2024-03-29: "08:15"\n').session_on(dt.date(2024, 3, 29), roots)
    assert (session.open_ns, session.end_ns) == (chicago("2024-03-28", "17:00"), chicago("2024-03-29", "08:15"))


def test_roots_may_close_apart_and_the_file_ends_with_the_last_of_them(tmp_path: Path, roots) -> None:
    calendar = overridden(tmp_path, '2024-11-28: {GC: "13:00", 6E: "15:00", CL: closed}\n')
    four = [root for root in roots if root.root in ("ES", "GC", "CL", "6E", "6B")]
    session = calendar.session_on(dt.date(2024, 11, 28), four)
    assert session.hours_of("ES").close_ns == chicago("2024-11-28", "12:00")
    assert (session.hours_of("GC").close_ns, session.hours_of("GC").is_verified) == (
        chicago("2024-11-28", "13:00"),
        True,
    )
    assert session.hours_of("CL").close_ns == session.hours_of("CL").open_ns == session.open_ns, "no session of its own"
    assert session.hours_of("6B").is_verified is False
    assert session.end_ns == session.hours_of("6B").close_ns == chicago("2024-11-28", "16:00")
    assert calendar.session_on(dt.date(2024, 11, 29), four).start_ns == session.end_ns
    # Without the pound the euro is the last, then gold; crude alone has no session to be in.
    for left, last in ((["ES", "GC", "CL", "6E"], "15:00"), (["ES", "GC", "CL"], "13:00")):
        found = calendar.session_on(dt.date(2024, 11, 28), [root for root in four if root.root in left])
        assert found.end_ns == chicago("2024-11-28", last)
    crude = [root for root in four if root.root == "CL"]
    assert calendar.session_of(chicago("2024-11-28", "10:00"), crude).date == dt.date(2024, 11, 29)


def test_a_root_that_is_given_hours_has_a_session_where_its_calendar_has_none(tmp_path: Path, roots) -> None:
    calendar = overridden(tmp_path, '2026-04-03: {GC: "09:00"}\n2024-12-25: {ES: "12:00"}\n')
    good_friday = calendar.session_on(dt.date(2026, 4, 3), roots)
    assert good_friday.hours_of("GC").close_ns == chicago("2026-04-03", "09:00")
    assert good_friday.hours_of("SI").close_ns == good_friday.open_ns
    christmas = calendar.session_on(dt.date(2024, 12, 25), roots)
    assert christmas.end_ns == christmas.hours_of("ES").close_ns == chicago("2024-12-25", "12:00")
    assert {h.root for h in christmas.hours if h.close_ns > h.open_ns} == {"ES"}


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ("2024-05-01: 12:00\n", "1:13", "base 60", '"12:00"'),
        ("2024-05-01: close\n", "1:13", "'close' is neither", "'closed'"),
        ('2024-05-01: "18:00"\n', "1:13", "after the next open", "Chicago"),
        ('2024-05-01: "8:15"\n', "1:13", "not a time", "HH:MM"),
        ("2024-05-01: closed\n2024-13-01: closed\n", "2:1", "not a date", "YYYY-MM-DD"),
        ("2024-05-04: closed\n", "1:1", "Saturday", "Monday"),
        ("2024-05-01: closed\n2024-05-01: closed\n", "2:1", "duplicate", "keep one"),
        ('2024-05-01: {GCC: "13:30"}\n', "1:14", "unknown key", "'GC'"),
        ("2024-05-01: {}\n", "1:13", "says nothing", "closed"),
        ("2024-05-01: off\n", "1:13", "boolean", '"off"'),
    ],
)
def test_an_override_with_a_mistake_is_refused_at_its_place(tmp_path, text, where, what, fix) -> None:
    with pytest.raises(OperatorError) as caught:
        overridden(tmp_path, text)
    assert caught.value.where == f"{tmp_path}/overrides.yml:{where}"
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_one_date_written_twice_in_two_ways_is_a_duplicate(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="not a date") as caught:
        overridden(tmp_path, '2024-05-01: closed\n2024-5-1: "12:00"\n')
    assert caught.value.where == f"{tmp_path}/overrides.yml:2:1"


def test_without_an_override_file_the_calendar_stands_alone(roots) -> None:
    assert CmeCalendar().session_on(dt.date(2024, 5, 1), roots).end_ns == chicago("2024-05-01", "16:00")
