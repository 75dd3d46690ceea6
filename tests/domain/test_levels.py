"""Stop, target, legs and size: exact, mirrored, and nothing where something is missing."""

from __future__ import annotations

from decimal import Decimal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ibs import StrategySettings
from domain.levels import (
    ATR_BARS,
    Distances,
    atr_gate,
    average_range,
    contracts_at_risk,
    distances,
    levels,
    resting_legs,
    size_gate,
)
from domain.units import Price, round_to_tick

TICK = Price(250_000_000)
POINT = 1_000_000_000
RANGES = StrategySettings(stop_atr=Decimal("1.5"), target_atr=Decimal("0.5"))


def test_distances_are_percentages_or_average_ranges() -> None:
    assert distances(Price(5_000 * POINT), StrategySettings(), None) == Distances(
        stop=Decimal(50 * POINT), target=Decimal(50 * POINT)
    )
    assert distances(Price(5_000 * POINT), RANGES, Price(8 * POINT)) == Distances(
        stop=Decimal(12 * POINT), target=Decimal(4 * POINT)
    )
    mixed = attrs.evolve(RANGES, target_atr=None, target_pct=Decimal(2))
    assert distances(Price(5_000 * POINT), mixed, Price(8 * POINT)).target == 100 * POINT


def test_without_an_average_range_a_position_is_left_by_the_percentages() -> None:
    assert distances(Price(-37 * POINT), RANGES, None).stop == Decimal("0.37") * POINT


def test_the_average_range_needs_its_whole_window_and_reads_no_more() -> None:
    closes = [Price((100 + i % 7) * POINT) for i in range(ATR_BARS + 50)]
    highs, lows = [Price(c + POINT) for c in closes], [Price(c - POINT) for c in closes]
    assert average_range(highs[1 - ATR_BARS :], lows[1 - ATR_BARS :], closes[1 - ATR_BARS :]) is None
    last = average_range(highs[-ATR_BARS:], lows[-ATR_BARS:], closes[-ATR_BARS:])
    assert last == average_range(highs, lows, closes)
    assert last is not None
    assert 2 * POINT < last < 8 * POINT
    flat = [Price(POINT)] * ATR_BARS
    assert average_range(flat, flat, flat) is None
    assert not atr_gate(None).is_passed
    assert atr_gate(last).is_passed


@given(price=st.integers(-(2**50), 2**50), stop=st.decimals(1, 2**40, places=3), target=st.decimals(1, 2**40, places=3))
def test_levels_of_a_short_are_the_mirror_and_decide_as_the_exact_ones(
    price: int, stop: Decimal, target: Decimal
) -> None:
    away = Distances(stop=stop, target=target)
    long, short = levels(Price(price), away, is_short=False), levels(Price(-price), away, is_short=True)
    assert short == (-long[0], -long[1])
    assert long[0] <= price - stop < long[0] + 1
    assert long[1] - 1 < price + target <= long[1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (StrategySettings(), {}),
        (StrategySettings(protective_stop=Decimal(2)), {"stop": 90}),
        (StrategySettings(bracket=True), {"stop": 95, "target": 101}),
    ],
)
def test_legs_rest_on_the_tick_beyond_the_levels(settings: StrategySettings, expected: dict[str, int]) -> None:
    close, away = Price(100 * POINT), Distances(stop=Decimal("4.9") * POINT, target=Decimal("0.85") * POINT)
    up = resting_legs(close, away, settings, TICK, is_short=False)
    down = resting_legs(Price(-close), away, settings, TICK, is_short=True)
    assert {name.removesuffix("_price"): price / POINT for name, price in up.items()} == pytest.approx(
        expected, abs=0.25
    )
    assert all(price % TICK == 0 for price in up.values())
    assert down == {name: -price for name, price in up.items()}


@pytest.mark.parametrize("is_short", [False, True])
@given(close=st.integers(-(2**40), 2**40), near=st.decimals("0.001", 2**30, places=3))
def test_no_leg_rests_at_the_price_that_is_asked(is_short: bool, close: int, near: Decimal) -> None:
    """Off the ordered product's grid too, and however near the level is."""
    legs = resting_legs(
        Price(close), Distances(stop=near, target=near), StrategySettings(bracket=True), TICK, is_short=is_short
    )
    asked, sign = round_to_tick(Price(close), TICK, up=is_short), -1 if is_short else 1
    assert sign * legs["stop_price"] < sign * asked < sign * legs["target_price"]


@pytest.mark.parametrize(
    ("stop_points", "risk", "cap", "contracts"),
    [("10", 500, 9, 10), ("10", 499, 99, 9), ("10", 49, 9, 0), ("0.25", 500, 7, 7), ("10.01", 100, 9, 1)],
)
def test_size_is_what_the_risk_allows_at_the_stop(stop_points: str, risk: int, cap: int, contracts: int) -> None:
    settings = StrategySettings(sizing="risk", risk_usd=Decimal(risk), max_size=cap)
    size = contracts_at_risk(Decimal(stop_points) * POINT, Decimal(5), settings)
    assert size == min(contracts, cap)
    assert size_gate(size).reason == ("" if size else "size_zero")


def test_nothing_is_sized_by_a_risk_that_nobody_stated() -> None:
    assert contracts_at_risk(Decimal(POINT), Decimal(5), StrategySettings(sizing="risk", max_size=3)) == 0
    assert contracts_at_risk(Decimal(0), Decimal(5), StrategySettings(risk_usd=Decimal(9), max_size=3)) == 0
