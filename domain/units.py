"""Units of the system: time as UTC nanoseconds, prices as integers of 1e-9.

Both are Databento's own units, so a price or a stamp is never converted on its
way from the wire to the journal. Floats appear only at Backtrader's door
(`price_to_float`) and come back exactly through `float_to_price`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NewType

Nanos = NewType("Nanos", int)
"""Nanoseconds since 1970-01-01 UTC (a moment) or a length of time in nanoseconds."""

Price = NewType("Price", int)
"""A price, or a difference of prices, in units of 1e-9 of the quote currency."""

SECOND = Nanos(1_000_000_000)
MINUTE = Nanos(60 * SECOND)
HOUR = Nanos(60 * MINUTE)
DAY = Nanos(24 * HOUR)

PRICE_SCALE = 1_000_000_000
UNDEF_PRICE = 2**63 - 1
"""Databento's mark for "no price"."""
UNDEF_TIMESTAMP = 2**64 - 1
"""Databento's mark for "no stamp"."""


def floor_to(ts: Nanos, step: Nanos) -> Nanos:
    """The last multiple of `step` at or before `ts`."""
    return Nanos(ts - ts % step)


def price_to_float(price: Price) -> float:
    """The price in quote currency. Exact both ways for |price| <= 2.25 million (2**51 / 1e9)."""
    return price / PRICE_SCALE


def float_to_price(value: float) -> Price:
    """The integer price nearest to `value` (the inverse of `price_to_float`)."""
    return Price(round(value * PRICE_SCALE))


def price_to_decimal(price: Price) -> Decimal:
    """The price as an exact decimal, without trailing zeros beyond the integer part."""
    value = Decimal(price).scaleb(-9).normalize()
    # normalize() writes 4000 as 4E+3; the wire wants fixed decimals.
    exponent = value.as_tuple().exponent
    return value.quantize(Decimal(1)) if isinstance(exponent, int) and exponent > 0 else value


def decimal_to_price(value: Decimal) -> Price:
    """The price of an exact decimal. Raises ValueError when 1e-9 cannot hold it."""
    scaled = value.scaleb(9)
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{value} has more than nine decimals")
    return Price(int(scaled))


def round_to_tick(price: Price, tick_size: Price, *, up: bool) -> Price:
    """`price` rounded to a multiple of `tick_size`, towards plus infinity when `up`.

    Buys round down and sells round up, so a rounded limit is never worse than the asked one.
    """
    lower = price - price % tick_size
    return Price(lower if lower == price or not up else lower + tick_size)
