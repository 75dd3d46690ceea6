"""Stamps and local times, and the hour grid of a session."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.sessions import EXCHANGE_ZONE, STRATEGY_ZONE, hour_end, iso_utc, local_time, to_nanos
from domain.units import HOUR, Nanos
from tests.builders import CLOSE, OPEN, session_of

STAMPS = st.integers(0, 4_102_444_800 * 10**9).map(Nanos)  # to 2100


@given(STAMPS, st.sampled_from([EXCHANGE_ZONE, STRATEGY_ZONE, ZoneInfo("UTC")]))
def test_a_stamp_survives_any_zone_to_the_microsecond(ts: Nanos, zone: ZoneInfo) -> None:
    assert to_nanos(local_time(ts, zone)) == ts - ts % 1_000


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        to_nanos(dt.datetime(2024, 5, 1))  # noqa: DTZ001  # the point of the test


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T20:00:00+00:00", "2024-05-01T20:00:00Z"),
        ("2024-05-01T15:00:00-05:00", "2024-05-01T20:00:00Z"),
        ("2024-05-01T20:00:00.5+00:00", "2024-05-01T20:00:00.500000000Z"),
        ("1969-12-31T23:59:59+00:00", "1969-12-31T23:59:59Z"),
    ],
)
def test_a_stamp_is_written_in_utc_with_a_fraction_only_where_there_is_one(text: str, expected: str) -> None:
    assert iso_utc(to_nanos(dt.datetime.fromisoformat(text))) == expected


def test_a_single_nanosecond_is_not_lost_in_writing() -> None:
    assert iso_utc(Nanos(1)) == "1970-01-01T00:00:00.000000001Z"


@pytest.mark.parametrize(
    ("utc", "chicago", "new_york"),
    [
        ("2024-03-08T15:00+00:00", "09:00", "10:00"),  # both on winter time
        ("2024-03-11T15:00+00:00", "10:00", "11:00"),  # both on summer time
        ("2024-11-01T15:00+00:00", "10:00", "11:00"),
        ("2024-11-04T15:00+00:00", "09:00", "10:00"),
    ],
)
def test_local_times_follow_the_change_of_clocks(utc: str, chicago: str, new_york: str) -> None:
    ts = to_nanos(dt.datetime.fromisoformat(utc))
    found = [local_time(ts, zone).strftime("%H:%M") for zone in (EXCHANGE_ZONE, STRATEGY_ZONE)]
    assert found == [chicago, new_york]


@given(STAMPS, STAMPS)
def test_an_hour_of_the_grid_holds_its_stamp_start_inclusive(ts: Nanos, session_open: Nanos) -> None:
    end = hour_end(ts, session_open)
    assert end - HOUR <= ts < end
    assert (end - session_open) % HOUR == 0


def test_a_stamp_on_the_grid_begins_the_next_hour() -> None:
    assert hour_end(OPEN, OPEN) == OPEN + HOUR
    assert hour_end(Nanos(OPEN - 1), OPEN) == OPEN


def test_the_hours_of_a_root_are_its_own() -> None:
    early = Nanos(CLOSE - HOUR)
    session = session_of("ES", "GC", GC=early)
    assert session.hours_of("ES").close_ns == CLOSE
    assert session.hours_of("GC").close_ns == early


def test_a_root_outside_the_universe_has_no_hours() -> None:
    with pytest.raises(KeyError, match="CL"):
        session_of("ES").hours_of("CL")
