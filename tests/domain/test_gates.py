"""Entry gates as tables; pivots against a brute-force reading of their definition."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import OperatorError
from domain.gates import (
    VETO_OFF,
    Gate,
    TimeWindow,
    auto_close_deadline,
    cooldown_gate,
    first_refusal,
    ibs_gate,
    last_pivot_high,
    last_pivot_low,
    near_auto_close_gate,
    parse_window,
    pending_gate,
    pivot_gate,
    position_gate,
    session_gate,
    time_gate,
    unscored_gate,
    veto_gate,
    warmup_gate,
)
from domain.ibs import Ibs, StrategySettings, internal_bar_strength
from domain.sessions import SessionHours, to_nanos
from domain.units import HOUR, SECOND, Nanos, Price
from domain.veto import Verdict

NEW_YORK = ZoneInfo("America/New_York")
DEFAULT = tuple(parse_window(text) for text in StrategySettings().entry_windows)

# ---------------------------------------------------------------- time windows


def new_york(text: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=NEW_YORK))


def utc(text: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("00:00-15:00", 0, 900), ("17:00-24:00", 1020, 1440), ("9:30-9:31", 570, 571), (" 09:30 - 16:00 ", 570, 960)],
)
def test_a_window_is_read_in_minutes_of_the_day(text: str, start: int, end: int) -> None:
    assert parse_window(text) == TimeWindow(start_minute=start, end_minute=end)


@pytest.mark.parametrize(
    "text",
    ["", "9-10", "09:00", "09:00-08:00", "09:00-09:00", "22:00-02:00", "09:00-24:01", "09:60-10:00", "9:0-10:00",
     "-1:00-02:00", "09:00-10:00-11:00", "nine-ten", "09:00:00-10:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_a_fix(text: str) -> None:
    with pytest.raises(OperatorError, match="fix"):
        parse_window(text)


@pytest.mark.parametrize(
    ("moment", "is_passed"),
    [
        ("2024-05-01T00:00", True),
        ("2024-05-01T14:59", True),
        ("2024-05-01T15:00", False),  # the end is exclusive
        ("2024-05-01T16:59", False),
        ("2024-05-01T17:00", True),  # the start is inclusive
        ("2024-05-01T23:59", True),
    ],
)
def test_the_bar_must_start_inside_a_window(moment: str, is_passed: bool) -> None:
    gate = time_gate(new_york(moment), DEFAULT)
    assert (gate.is_passed, gate.value) == (is_passed, moment[-5:])
    assert gate.reason == ("" if is_passed else "outside_time_window")


@pytest.mark.parametrize(
    ("moment", "value", "is_passed"),
    [
        # The week before and after New York moves its clocks forward, 10 March 2024 ...
        ("2024-03-08T19:59", "14:59", True),
        ("2024-03-08T20:00", "15:00", False),
        ("2024-03-11T18:59", "14:59", True),
        ("2024-03-11T19:00", "15:00", False),
        # ... on the day itself 02:00 does not exist ...
        ("2024-03-10T06:59", "01:59", True),
        ("2024-03-10T07:00", "03:00", True),
        # ... and back, 3 November 2024: 01:30 comes twice.
        ("2024-11-01T18:59", "14:59", True),
        ("2024-11-01T19:00", "15:00", False),
        ("2024-11-04T19:59", "14:59", True),
        ("2024-11-04T20:00", "15:00", False),
        ("2024-11-03T05:30", "01:30", True),
        ("2024-11-03T06:30", "01:30", True),
    ],
)
def test_windows_keep_new_york_time_in_the_weeks_when_clocks_change(moment: str, value: str, is_passed: bool) -> None:
    gate = time_gate(utc(moment), DEFAULT)
    assert (gate.value, gate.is_passed) == (value, is_passed)


def test_without_windows_no_bar_may_enter() -> None:
    assert not time_gate(new_york("2024-05-01T10:00"), ()).is_passed


# ---------------------------------------------------------------- IBS


@pytest.mark.parametrize(
    ("high", "low", "close", "expected"),
    [
        (110, 100, 100, Ibs(value=0.0, mirrored=1.0)),
        (110, 100, 110, Ibs(value=1.0, mirrored=0.0)),
        (110, 100, 102, Ibs(value=0.2, mirrored=0.8)),
        (110, 100, 108, Ibs(value=0.8, mirrored=0.2)),
        (110, 100, 95, Ibs(value=0.0, mirrored=1.0)),
        (110, 100, 115, Ibs(value=1.0, mirrored=0.0)),
        (100, 100, 100, Ibs(value=0.5, is_zero_range=True)),
    ],
)
def test_ibs_of_known_bars(high: int, low: int, close: int, expected: Ibs) -> None:
    assert internal_bar_strength(high=Price(high), low=Price(low), close=Price(close)) == expected


@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3))
def test_ibs_lies_between_zero_and_one(prices: list[int]) -> None:
    low, close, high = sorted(prices)
    assert 0.0 <= internal_bar_strength(high=Price(high), low=Price(low), close=Price(close)).value <= 1.0


@pytest.mark.parametrize(
    ("ibs", "reason"),
    [
        (Ibs(value=0.0), ""),
        (Ibs(value=0.2), ""),
        (Ibs(value=0.20000000000000004), "ibs_outside_band"),
        (Ibs(value=1.0), "ibs_outside_band"),
        (Ibs(value=0.1, is_zero_range=True), "zero_range"),
    ],
)
def test_the_ibs_band_holds_both_its_ends(ibs: Ibs, reason: str) -> None:
    gate = ibs_gate(ibs, 0.0, 0.2)
    assert (gate.is_passed, gate.reason, gate.value) == (not reason, reason, repr(ibs.value))


# ---------------------------------------------------------------- pivots

SERIES = st.lists(st.integers(0, 6).map(Price), max_size=16)
STRENGTH = st.integers(1, 4)


def is_pivot_high(values: list[Price], place: int, strength: int) -> bool:
    """The definition, word for word: above all before, at or above all after."""
    before, after = values[max(0, place - strength) : place], values[place + 1 : place + 1 + strength]
    is_whole = len(before) == len(after) == strength
    return is_whole and all(values[place] > v for v in before) and all(values[place] >= v for v in after)


@given(SERIES, STRENGTH)
def test_the_last_pivot_high_is_the_last_bar_that_fits_the_definition(highs: list[Price], strength: int) -> None:
    fitting = [value for place, value in enumerate(highs) if is_pivot_high(highs, place, strength)]
    assert last_pivot_high(highs, strength) == (fitting[-1] if fitting else None)


@given(SERIES, STRENGTH)
def test_a_pivot_low_is_a_pivot_high_upside_down(lows: list[Price], strength: int) -> None:
    mirrored = last_pivot_high([Price(-value) for value in lows], strength)
    assert last_pivot_low(lows, strength) == (None if mirrored is None else -mirrored)


@pytest.mark.parametrize(
    ("highs", "expected"),
    [
        ([1, 3, 1], 3),
        ([1, 3, 3], 3),  # an equal bar after does not spoil it
        ([3, 3, 1], None),  # an equal bar before does
        ([1, 3], None),  # not confirmed yet
        ([3, 1, 1], None),
        ([1, 5, 1, 3, 1], 3),
    ],
)
def test_ties_and_edges_of_a_pivot_of_strength_one(highs: list[int], expected: int | None) -> None:
    assert last_pivot_high([Price(high) for high in highs], 1) == expected


@pytest.mark.parametrize(
    ("close", "reason"), [(4, "outside_pivot_range"), (5, ""), (9, ""), (10, ""), (11, "outside_pivot_range")]
)
def test_the_close_must_lie_between_the_pivots_ends_included(close: int, reason: str) -> None:
    highs = [Price(value) for value in (8, 10, 8)]
    lows = [Price(value) for value in (6, 5, 6)]
    gate = pivot_gate(Price(close), highs, lows, 1)
    assert (gate.is_passed, gate.reason) == (not reason, reason)


@pytest.mark.parametrize(("highs", "lows"), [([8, 10, 8], [1, 1, 1]), ([1, 1, 1], [6, 5, 6]), ([], [])])
def test_a_missing_pivot_refuses_and_says_so(highs: list[int], lows: list[int]) -> None:
    gate = pivot_gate(Price(7), [Price(h) for h in highs], [Price(low) for low in lows], 1)
    assert gate == Gate(name="pivot", is_passed=False, value=None, reason="pivot_missing")


# ---------------------------------------------------------------- the auto-close


@pytest.mark.parametrize(
    ("auto_close", "close", "deadline"),
    [
        ("16:00", "2024-05-01T17:00", "2024-05-01T16:00"),
        ("16:00", "2024-05-01T16:00", "2024-05-01T15:45"),
        ("16:50", "2024-05-01T17:00", "2024-05-01T16:45"),
        ("16:00", "2024-05-01T13:00", "2024-05-01T12:45"),  # an early close
    ],
)
def test_the_auto_close_is_its_time_of_day_or_a_while_before_the_close(
    auto_close: str, close: str, deadline: str
) -> None:
    settings = StrategySettings(auto_close=auto_close)
    assert auto_close_deadline(settings, dt.date(2024, 5, 1), new_york(close)) == new_york(deadline)


@pytest.mark.parametrize("text", ["", "sixteen", "24:00", "16", "16:60"])
def test_an_auto_close_that_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="auto_close"):
        auto_close_deadline(StrategySettings(auto_close=text), dt.date(2024, 5, 1), new_york("2024-05-01T17:00"))


@pytest.mark.parametrize(
    ("left", "value", "is_passed"),
    [(HOUR, "3600", True), (HOUR - 1, "3599", False), (HOUR + SECOND, "3601", True), (-SECOND, "-1", False)],
)
def test_entries_end_a_while_before_the_auto_close_the_limit_included(left: int, value: str, is_passed: bool) -> None:
    deadline = new_york("2024-05-01T16:00")
    gate = near_auto_close_gate(Nanos(deadline - left), deadline, StrategySettings())
    assert (gate.value, gate.is_passed) == (value, is_passed)


def test_an_unknown_auto_close_refuses() -> None:
    assert near_auto_close_gate(Nanos(0), None, StrategySettings()).reason == "auto_close_unknown"


# ---------------------------------------------------------------- the session


@pytest.mark.parametrize(
    ("start", "end", "is_passed"),
    [
        ("2024-07-02T22:00", "2024-07-02T23:00", True),  # the first hour
        ("2024-07-03T16:00", "2024-07-03T17:00", True),  # the last whole one before an early close at 12:15 in Chicago
        ("2024-07-03T16:15", "2024-07-03T17:15", True),  # both ends are included
        ("2024-07-03T17:00", "2024-07-03T18:00", False),  # at its end the market is shut
        ("2024-07-02T21:59", "2024-07-02T22:59", False),
    ],
)
def test_the_bar_must_lie_inside_its_roots_hours_of_the_session(start: str, end: str, is_passed: bool) -> None:
    hours = SessionHours(root="ES", open_ns=utc("2024-07-02T22:00"), close_ns=utc("2024-07-03T17:15"))
    gate = session_gate(utc(start), utc(end), hours)
    expected = (is_passed, "inside", "") if is_passed else (is_passed, "outside", "outside_session")
    assert (gate.is_passed, gate.value, gate.reason) == expected
    assert session_gate(utc(start), utc(end), None).is_passed  # a backtest over many sessions


# ---------------------------------------------------------------- the small ones


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (warmup_gate(59, StrategySettings()), "warm_up_incomplete"),
        (warmup_gate(60, StrategySettings()), ""),
        (position_gate(0, is_unknown=False), ""),
        (position_gate(-1, is_unknown=False), "position_held"),
        (position_gate(0, is_unknown=True), "position_unknown"),
        (position_gate(2, is_unknown=True), "position_unknown"),
        (pending_gate(None), ""),
        (pending_gate("exit"), "order_unfinished"),
        (cooldown_gate(0), ""),
        (cooldown_gate(1), "cooldown"),
        (VETO_OFF, ""),
        (veto_gate(Verdict(probability=0.5, threshold=0.5)), ""),
        (veto_gate(Verdict(probability=0.4999, threshold=0.5)), "vetoed"),
        (veto_gate(Verdict(probability=float("nan"), threshold=0.5)), "vetoed"),
        (unscored_gate("veto_model_missing"), "veto_model_missing"),
    ],
)
def test_a_gate_refuses_with_its_reason_or_passes_without_one(gate: Gate, reason: str) -> None:
    assert (gate.is_passed, gate.reason) == (not reason, reason)


def test_the_first_refusal_is_the_first_in_the_order_of_evaluation() -> None:
    passed, cooling, held = cooldown_gate(0), cooldown_gate(3), position_gate(1, is_unknown=False)
    assert first_refusal([passed, cooling, held]) is cooling
    assert first_refusal([passed, held, cooling]) is held
    assert first_refusal([passed]) is None
    assert first_refusal([]) is None


def test_settings_are_values() -> None:
    changed = attrs.evolve(StrategySettings(), stop_pct=Decimal("2"))
    assert changed != StrategySettings()
    assert attrs.evolve(changed, stop_pct=Decimal("1")) == StrategySettings()
