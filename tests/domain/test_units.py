"""Prices and stamps are integers; what leaves them and comes back is the same number."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.units import (
    HOUR,
    MINUTE,
    SECOND,
    Nanos,
    Price,
    decimal_to_price,
    float_to_price,
    floor_to,
    price_to_decimal,
    price_to_float,
    round_to_tick,
)

PRICES = st.integers(-(2**63), 2**63 - 1).map(Price)
TICKS = st.sampled_from([Price(value) for value in (1, 5, 50_000, 100_000, 250_000_000, 1_000_000_000, 5_000_000_000)])


@given(st.integers(-(2**51), 2**51).map(Price))
def test_a_price_survives_the_way_through_a_float(price: Price) -> None:
    assert float_to_price(price_to_float(price)) == price


@given(PRICES)
def test_a_price_survives_the_way_through_a_decimal(price: Price) -> None:
    assert decimal_to_price(price_to_decimal(price)) == price


@given(PRICES)
def test_a_decimal_price_has_no_positive_exponent_and_no_trailing_zeros(price: Price) -> None:
    text = f"{price_to_decimal(price):f}"
    assert "E+" not in str(price_to_decimal(price))
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (0, "0"),
        (4_000_000_000_000, "4000"),
        (5_027_250_000_000, "5027.25"),
        (500, "0.0000005"),
        (-30_000_000, "-0.03"),
    ],
)
def test_decimals_of_known_prices(price: int, text: str) -> None:
    assert f"{price_to_decimal(Price(price)):f}" == text


@pytest.mark.parametrize("text", ["0.0000000001", "1.2345678905", "NaN"])
def test_a_decimal_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than nine decimals"):
        decimal_to_price(Decimal(text))


@given(PRICES, TICKS)
def test_rounding_to_a_tick_moves_less_than_a_tick_and_never_the_wrong_way(price: Price, tick: Price) -> None:
    lower, upper = round_to_tick(price, tick, up=False), round_to_tick(price, tick, up=True)
    assert lower % tick == upper % tick == 0
    assert price - tick < lower <= price <= upper < price + tick


@given(st.integers(-(2**62), 2**62).map(Nanos), st.sampled_from([SECOND, MINUTE, HOUR]))
def test_the_floor_is_the_last_multiple_at_or_before(ts: Nanos, step: Nanos) -> None:
    floor = floor_to(ts, step)
    assert floor % step == 0
    assert floor <= ts < floor + step
