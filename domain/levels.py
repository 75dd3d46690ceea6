"""Stop, target and size of a position: where it is left, and how many contracts that allows.

Both sides by one rule: a short is computed as the long of the mirrored prices, so that
the two cut at the same bits. Distances are exact decimals in units of Price; they are
rounded once, to the integer that decides as the exact level would.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import attrs
import numpy as np

from domain.gates import Gate
from domain.ibs import StrategySettings
from domain.indicators import atr
from domain.units import Price, price_to_float, round_to_tick

ATR_LENGTH = 14
ATR_BARS = 300
"""The average's window, as the registry's: what came before weighs less than 1e-9."""


@attrs.frozen(kw_only=True)
class Distances:
    """How far stop and target lie from a price, above zero."""

    stop: Decimal
    target: Decimal


def average_range(highs: Sequence[Price], lows: Sequence[Price], closes: Sequence[Price]) -> Price | None:
    """Wilder's ATR14 of exactly the last ATR_BARS bars; None with fewer, or when nothing has moved."""
    if len(closes) < ATR_BARS:
        return None
    high, low, close = (np.array(list(values)[-ATR_BARS:], np.float64) for values in (highs, lows, closes))
    return Price(round(float(atr(high, low, close, ATR_LENGTH)[-1]))) or None


def distances(price: Price, settings: StrategySettings, average: Price | None) -> Distances:
    """Of a position at `price`. `average` is the range at its entry; without one the percentages stand in."""
    percent = abs(Decimal(price)) / 100  # of the size: prices have been negative (CL, April 2020)

    def one(percentage: Decimal, ranges: Decimal | None) -> Decimal:
        return percent * percentage if ranges is None or average is None else average * ranges

    return Distances(
        stop=one(settings.stop_pct, settings.stop_atr), target=one(settings.target_pct, settings.target_atr)
    )


def levels(price: Price, away: Distances, *, is_short: bool) -> tuple[Price, Price]:
    """(stop, target) of a position at `price`, as integers that decide as the exact ones would."""
    sign = -1 if is_short else 1
    stop = (sign * price - away.stop).to_integral_value(ROUND_FLOOR)
    target = (sign * price + away.target).to_integral_value(ROUND_CEILING)
    return Price(sign * int(stop)), Price(sign * int(target))


def resting_legs(
    close: Price, away: Distances, settings: StrategySettings, tick_size: Price, *, is_short: bool
) -> dict[str, Price]:
    """What rests at the broker beside an entry; the fill is not known yet, so from the close.

    Rounded away from the price that is asked, and a tick from it at least: TradersPost takes no leg at that price.
    """
    sign = -1 if is_short else 1
    asked = round_to_tick(Price(sign * close), tick_size, up=False)
    stop = away.stop if settings.bracket else away.stop * settings.protective_stop
    legs = {}
    if stop:
        level = round_to_tick(Price(int((sign * close - stop).to_integral_value(ROUND_FLOOR))), tick_size, up=False)
        legs["stop_price"] = Price(sign * min(level, asked - tick_size))
    if settings.bracket:
        level = round_to_tick(
            Price(int((sign * close + away.target).to_integral_value(ROUND_FLOOR))), tick_size, up=True
        )
        legs["target_price"] = Price(sign * max(level, asked + tick_size))
    return legs


def atr_gate(average: Price | None) -> Gate:
    """Passes when the range that stop or target are counted in is known; the value is in points."""
    if average is None:
        return Gate(name="atr", is_passed=False, value=None, reason="atr_missing")
    return Gate(name="atr", is_passed=True, value=repr(price_to_float(average)))


def contracts_at_risk(stop: Decimal, multiplier: Decimal, settings: StrategySettings) -> int:
    """floor(risk_usd / (points to the stop x multiplier)), at most `max_size`; 0 is none."""
    if settings.risk_usd is None or settings.max_size is None:
        return 0
    loss = stop.scaleb(-9) * multiplier
    return min(settings.max_size, int(settings.risk_usd // loss)) if loss > 0 else 0


def size_gate(contracts: int) -> Gate:
    """Passes when the risk allows a contract."""
    passed = contracts > 0
    return Gate(name="size", is_passed=passed, value=str(contracts), reason="" if passed else "size_zero")
