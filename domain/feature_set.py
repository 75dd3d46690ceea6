"""What features read and the formulas they apply: windows of completed bars, pure functions of them.

A function gets a `Columns` of exactly as many bars as its registry entry says
(`domain.features`) and returns a number, or None for "missing". Bars of hours and
of days are the same to it: which timeframe and which root it reads is the
registry's. Prices are in 1e-9 of the quote currency, held as float64: whole numbers,
exact up to nine million. Differences of prices are therefore exact, equal ranges tie
in every percentile, and what rests on differences keeps its bits when a roll shifts
the history. Only `order_price` and what is stated in points is scaled back.

Source of every formula: the design's strategy.md §3; indicators as in `domain.indicators`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt

from domain.errors import OurError
from domain.indicators import (
    SMALLEST_DENOMINATOR,
    Column,
    adx,
    atr,
    ema,
    psar,
    rsi,
    safe_div,
    sigma,
    sma,
    sma_series,
    strictly_below,
    z,
)
from domain.units import HOUR, PRICE_SCALE

LONGEST_CLOSURE = 98 * HOUR
"""No exchange holiday keeps a market shut for longer: a longer pause between two bars is data that is not there."""
LOOKBACK = 252
"""Bars of the long windows: z-scores, ATR percentile. A year of days."""


@attrs.frozen(kw_only=True, eq=False)
class Columns:
    """Completed bars of one root and timeframe, oldest first; prices in 1e-9, volume in contracts."""

    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column


class Windowed(Protocol):
    """A function of exactly the last `window` bars: a feature of one input, or a percentile's base."""

    @property
    def function(self) -> Callable[..., float | None]: ...

    @property
    def window(self) -> int: ...


class BarWindow:
    """The last bars of one root and timeframe in columns: at least `capacity` of them once there were as many.

    Filled from the left; when full, the last `capacity` move to the front: O(1) per bar on average.
    """

    def __init__(self, name: str, capacity: int) -> None:
        self._name, self._capacity = name, capacity
        self.count = 0
        """Bars held now."""
        self._prices_and_volume = np.empty((5, 2 * capacity))
        self._starts = np.empty(2 * capacity, np.int64)
        self._ends = np.empty(2 * capacity, np.int64)
        self._memo: dict[tuple[object, int], float | None] = {}
        self.last_end = 0
        """The end of the last bar; 0 before the first."""
        self._continuous_from = 0
        """The start of the first bar after the last pause longer than LONGEST_CLOSURE."""

    def append(self, start: int, end: int, values: Sequence[int]) -> None:
        if end <= self.last_end:
            raise OurError(f"{self._name}: a bar that ends at {end} after one that ends at {self.last_end}")
        if self.count == 2 * self._capacity:
            self._compact()
        if self.last_end and start - self.last_end > LONGEST_CLOSURE:
            self._continuous_from = start
        at = self.count
        self._prices_and_volume[:, at] = values
        self._starts[at], self._ends[at] = start, end
        self.count, self.last_end = at + 1, end
        self._memo.clear()

    def extend(self, rows: npt.NDArray[np.int64]) -> None:
        """Append rows of a BarTable that no population needs one by one."""
        if len(rows) == 0:
            return
        ends = rows[:, 1]
        if int(ends[0]) <= self.last_end or not (ends[1:] > ends[:-1]).all():
            raise OurError(f"{self._name}: the history's bars are not in order after {self.last_end}")
        before = np.concatenate(([self.last_end or int(rows[0, 0])], ends[:-1]))
        pauses = np.flatnonzero(rows[:, 0] - before > LONGEST_CLOSURE)
        if len(pauses):
            self._continuous_from = int(rows[pauses[-1], 0])
        rows = rows[-self._capacity :]
        if self.count + len(rows) > 2 * self._capacity:
            self._compact()
        place = slice(self.count, self.count + len(rows))
        self._prices_and_volume[:, place] = rows[:, 2:7].T
        self._starts[place], self._ends[place] = rows[:, 0], rows[:, 1]
        self.count, self.last_end = place.stop, int(ends[-1])
        self._memo.clear()

    def _compact(self) -> None:
        kept = slice(max(0, self.count - self._capacity), self.count)
        count = kept.stop - kept.start
        self._prices_and_volume[:, :count] = self._prices_and_volume[:, kept].copy()
        self._starts[:count], self._ends[:count] = self._starts[kept].copy(), self._ends[kept].copy()
        self.count = count

    def has_hole(self, count: int, bars: int) -> bool:
        """Whether the last `bars` of the first `count` bars lie on both sides of a pause no market makes."""
        first = count - bars
        return first >= 0 and int(self._starts[first]) < self._continuous_from

    def until(self, ts: int) -> int:
        """How many of the bars held had ended by `ts`."""
        if self.last_end <= ts:
            return self.count
        return int(np.searchsorted(self._ends[: self.count], ts, "right"))

    def end_of(self, count: int) -> int:
        return int(self._ends[count - 1])

    def start_of(self, count: int) -> int:
        return int(self._starts[count - 1])

    def started_since(self, ts: int, count: int) -> int:
        """How many of the first `count` bars started at `ts` or later."""
        return count - int(np.searchsorted(self._starts[:count], ts, "left"))

    def value(self, of: Windowed) -> float | None:
        """`of`'s function on the last bars; None when they are too few or it is undefined there.

        Remembered until the next bar: daily values and other roots' are asked for many times.
        """
        key = (of.function, of.window)
        if key not in self._memo:
            self._memo[key] = self.value_at(of, self.count, 0)
        return self._memo[key]

    def value_at(self, of: Windowed, count: int, carried: int) -> float | None:
        """The same of the first `count` bars, followed by `carried` bars that repeat the last close."""
        real = of.window - carried
        if count < real:
            return None
        columns = self._prices_and_volume[:, count - real : count]
        if carried:
            last = np.array([[columns[3, -1]]] * 4 + [[0.0]])
            columns = np.hstack((columns, np.repeat(last, carried, axis=1)))
        open_, high, low, close, volume = columns
        value = of.function(Columns(open=open_, high=high, low=low, close=close, volume=volume))
        return value if value is not None and math.isfinite(value) else None


# ----------------------------------------------------------------- formulas


def percent_return(bars: Columns) -> float | None:
    """100 (C0 - C1)/C1, percent. Window 2."""
    last, before = float(bars.close[-1]), float(bars.close[-2])
    return safe_div(100.0 * (last - before), before)


def z_score(bars: Columns) -> float | None:
    """(C - SMA20)/σ252, in sigmas. Window 252.

    The predecessor divided by max(σ, 1e-12); here a σ below 1e-12 is missing, as for every denominator.
    """
    return z(bars.close, mean_over=20, sigma_over=LOOKBACK)


def order_price(bars: Columns) -> float:
    """The close of the decision bar in quote currency: what a limit entry asks and a market entry refers to.

    Window 1. The same float as `units.price_to_float` of the integer close.
    """
    return float(bars.close[-1]) / PRICE_SCALE


def bar_strength(bars: Columns) -> float:
    """IBS = (C - L)/(H - L), 0-1; 0.5 without a range. Window 1. The bits of `ibs.internal_bar_strength`."""
    high, low, close = float(bars.high[-1]), float(bars.low[-1]), float(bars.close[-1])
    return min(1.0, max(0.0, (close - low) / (high - low))) if high > low else 0.5


def rsi_5(bars: Columns) -> float | None:
    """Wilder's RSI of 5, 0-100."""
    return rsi(bars.close, 5)


def rsi_14(bars: Columns) -> float | None:
    """Wilder's RSI of 14, 0-100."""
    return rsi(bars.close, 14)


def adx_14(bars: Columns) -> float | None:
    """Wilder's ADX of 14, 0-100."""
    return adx(bars.high, bars.low, 14)


def volume_z(bars: Columns) -> float | None:
    """The z over 252 of SMA5(volume), in sigmas. Window 256."""
    return z(sma_series(bars.volume, 5), mean_over=LOOKBACK, sigma_over=LOOKBACK)


def atr_z(bars: Columns) -> float | None:
    """The z over the last 252 of Wilder's ATR5, in sigmas."""
    return z(atr(bars.high, bars.low, bars.close, 5), mean_over=LOOKBACK, sigma_over=LOOKBACK)


def atr_percentile(bars: Columns) -> float:
    """100 × how many of the last 252 values of ATR14 (its own included) lie strictly below the last, ÷ 252: 0-100."""
    return strictly_below(atr(bars.high, bars.low, bars.close, 14)[-LOOKBACK:])


def ma_spread(bars: Columns) -> float:
    """|EMA20 - EMA50|, points of the quote currency."""
    # An EMA moves with its level: taken of differences, a flat window gives exactly 0.
    differences = bars.close - bars.close[-1]
    return abs(float(ema(differences, 20)[-1]) - float(ema(differences, 50)[-1])) / PRICE_SCALE


def ma_slope(bars: Columns) -> float | None:
    """(EMA20 - EMA20 five bars ago)/ATR14, in average ranges."""
    means = ema(bars.close - bars.close[-1], 20)
    return safe_div(float(means[-1] - means[-6]), float(atr(bars.high, bars.low, bars.close, 14)[-1]))


def distance_z(bars: Columns) -> float | None:
    """(C - SMA20)/σ20(ΔC), in sigmas of one bar's change. Window 21."""
    close = bars.close
    return safe_div(-sma(close - close[-1], 20), sigma(close[1:] - close[:-1]))


def directional_drift(bars: Columns) -> float | None:
    """The return over the window ÷ the sample σ of its one-bar returns, in sigmas. Window n + 1."""
    before = bars.close[:-1]
    if float(np.abs(before).min()) < SMALLEST_DENOMINATOR:
        return None
    returns = (bars.close[1:] - before) / before
    whole = safe_div(float(bars.close[-1] - before[0]), float(before[0]))
    return safe_div(whole, sigma(returns, sample=True))


def parabolic_distance(bars: Columns) -> float:
    """C - SAR(.02, .2), points of the quote currency; above 0 in a rising trend."""
    # The SAR moves with its level, as an EMA does.
    return (0.0 - psar(bars.high - bars.close[-1], bars.low - bars.close[-1])) / PRICE_SCALE


def rank(percentile: float) -> float:
    """The percentile itself, (0, 1]."""
    return percentile


def rank_product(*percentiles: float) -> float:
    """The product of percentiles (never of the raw values), (0, 1]."""
    return math.prod(percentiles)
