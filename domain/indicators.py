"""Indicators: pure functions of float64 columns, oldest value first.

Each uses all of the array it is given and nothing else, so the caller's window is
part of the definition. The same array gives the same bits: sums run in numpy's
fixed order (never through BLAS), recursions as one sequential scan. They are
indifferent to the unit of price. Conventions: sigma is population unless
said otherwise; RSI, ATR and ADX are Wilder's (*New Concepts in Technical Trading
Systems*, 1978), seeded by a simple mean; an EMA has alpha = 2/(n + 1) and is seeded
by the SMA of its first n values.

They refuse to guess: a division by nothing is `None` ("missing"), never 0, and an
array shorter than the definition needs is a ValueError.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

SMALLEST_DENOMINATOR = 1e-12


def safe_div(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient, or None when either side is missing, not finite, or |denominator| < 1e-12."""
    if numerator is None or denominator is None or not abs(denominator) >= SMALLEST_DENOMINATOR:
        return None  # `not >=` is also true of NaN
    if math.isinf(denominator):
        return None
    quotient = numerator / denominator
    return quotient if math.isfinite(quotient) else None


def _require(values: Column, count: int) -> None:
    if len(values) < count:
        raise ValueError(f"{len(values)} values where {count} are needed")


# ------------------------------------------------------------------- moments


def sma(values: Column, n: int) -> float:
    """The mean of the last `n` values, in their unit."""
    _require(values, n)
    return float(np.add.reduce(values[-n:])) / n


def sma_series(values: Column, n: int) -> Column:
    """The mean of each `n` consecutive values: len - n + 1 of them."""
    _require(values, n)
    count = len(values) - n + 1
    total = values[:count].copy()
    for i in range(1, n):
        total += values[i : i + count]
    return total / n


def sigma(values: Column, *, sample: bool = False) -> float:
    """The standard deviation of all values: ÷ n, or ÷ (n - 1) for a sample.

    Taken of the differences from the last value, so that a high level costs no precision
    and a flat window gives exactly 0.
    """
    _require(values, 2 if sample else 1)
    return _sigma_of_differences(values - values[-1], sample=sample)


def _sigma_of_differences(differences: Column, *, sample: bool = False) -> float:
    n = len(differences)
    deviations = differences - float(np.add.reduce(differences)) / n
    return math.sqrt(float(np.add.reduce(deviations * deviations)) / (n - 1 if sample else n))


def z(values: Column, *, mean_over: int, sigma_over: int) -> float | None:
    """(last - mean of the last `mean_over`) / population sigma of the last `sigma_over`; None when flat."""
    _require(values, max(mean_over, sigma_over))
    differences = values - values[-1]
    return safe_div(-sma(differences, mean_over), _sigma_of_differences(differences[-sigma_over:]))


# ---------------------------------------------------------------- recursions


@lru_cache(maxsize=64)
def _powers(decay: float, count: int) -> Column:
    """decay^1 ... decay^count, by successive multiplication: `pow` is not the same on every machine."""
    powers = np.multiply.accumulate(np.full(count, decay))
    powers.flags.writeable = False
    return powers


def _smoothed(values: Column, n: int, alpha: float, decay: float) -> Column:
    """The recursion y = decay * y' + alpha * x from the mean of the first `n` values on: len - n + 1 values.

    As one scan, y_k = decay^k (seed + alpha * sum_j x_j / decay^j): thirty times faster than a
    loop and as exact (the terms grow geometrically, so rounding stays relative to the last ones).
    The powers stay inside float64 for windows of thousands of bars with n >= 5.
    """
    _require(values, n)
    seed = float(np.add.reduce(values[:n])) / n
    powers = _powers(decay, len(values) - n)
    smoothed = np.empty(len(values) - n + 1)
    smoothed[0] = seed
    smoothed[1:] = powers * (seed + alpha * np.add.accumulate(values[n:] / powers))
    return smoothed


def _last_smoothed(values: Column, n: int, alpha: float, decay: float) -> float:
    """The last of `_smoothed`, bit for bit, at half its cost."""
    _require(values, n)
    seed = float(np.add.reduce(values[:n])) / n
    if len(values) == n:
        return seed
    powers = _powers(decay, len(values) - n)
    return float(powers[-1]) * (seed + alpha * float(np.add.accumulate(values[n:] / powers)[-1]))


def ema(values: Column, n: int) -> Column:
    """The exponential mean after each value from the n-th on; alpha = 2/(n + 1), seeded by their SMA."""
    return _smoothed(values, n, 2.0 / (n + 1), (n - 1.0) / (n + 1))


def wilder(values: Column, n: int) -> Column:
    """Wilder's smoothing, alpha = 1/n, after each value from the n-th on; seeded by their simple mean."""
    return _smoothed(values, n, 1.0 / n, (n - 1.0) / n)


def last_ema(values: Column, n: int) -> float:
    """The last of `ema`."""
    return _last_smoothed(values, n, 2.0 / (n + 1), (n - 1.0) / (n + 1))


def _last_wilder(values: Column, n: int) -> float:
    return _last_smoothed(values, n, 1.0 / n, (n - 1.0) / n)


def rsi(close: Column, n: int) -> float | None:
    """Wilder's Relative Strength Index of all changes, 0-100: 100 * gain/(gain + loss). None without any change."""
    changes = close[1:] - close[:-1]
    gain = _last_wilder(np.maximum(changes, 0.0), n)
    loss = _last_wilder(np.maximum(-changes, 0.0), n)
    return safe_div(100.0 * gain, gain + loss)


def true_range(high: Column, low: Column, close: Column) -> Column:
    """max(H - L, |H - C1|, |L - C1|) from the second bar on: len - 1 of them."""
    before = close[:-1]
    return np.maximum(high[1:], before) - np.minimum(low[1:], before)


def atr(high: Column, low: Column, close: Column, n: int) -> Column:
    """Wilder's Average True Range after each bar from the (n + 1)-th on: len - n of them.

    Taken of the differences from the last range, so that equal ranges give exactly equal
    averages: rounding must not rank one above the other.
    """
    ranges = true_range(high, low, close)
    averages: Column = wilder(ranges - ranges[-1], n) + ranges[-1]
    return averages


def adx(high: Column, low: Column, n: int) -> float | None:
    """Wilder's Average Directional Index of the last bar, 0-100; needs 2n bars.

    DX = 100 |+DI - -DI| / (+DI + -DI); the smoothed true range is in every term and cancels.
    None when some DX has no directional movement at all under it.
    """
    _require(high, 2 * n)
    up, down = high[1:] - high[:-1], low[:-1] - low[1:]
    plus = wilder(np.where((up > down) & (up > 0.0), up, 0.0), n)
    minus = wilder(np.where((down > up) & (down > 0.0), down, 0.0), n)
    movement = plus + minus
    if float(movement.min()) < SMALLEST_DENOMINATOR:
        return None
    return _last_wilder(100.0 * np.abs(plus - minus) / movement, n)


def psar(high: Column, low: Column, *, step: float = 0.02, limit: float = 0.2) -> float:
    """Wilder's Parabolic SAR that applies to the last bar, in the unit of price; needs 2 bars.

    The first trend falls when the second bar's downward movement is the larger and positive, as
    in TA-Lib. A falling trend is the rising one of the mirrored prices: the loop knows one rule.
    """
    _require(high, 2)
    rising = (low.tolist(), high.tolist())
    falling = ((-high).tolist(), (-low).tolist())
    is_up = not (low[0] - low[1] > max(0.0, high[1] - high[0]))
    floors, tops = rising if is_up else falling
    sar, extreme, speed = floors[0], tops[1], step
    current = sar
    for i in range(1, len(floors)):
        floor = floors[i]
        if floor <= sar:
            is_up = not is_up
            floors, tops = rising if is_up else falling
            floor = floors[i]
            sar = min(-extreme, floors[i - 1], floor)
            extreme, speed = tops[i], step
            current = sar
        else:
            current = sar
            top = tops[i]
            if top > extreme:
                extreme, speed = top, min(speed + step, limit)
        sar += speed * (extreme - sar)
        # Never beyond the last two lows. (Comparisons: calling min() costs more than all the rest of the loop.)
        if sar > floor:  # noqa: PLR1730
            sar = floor
        if sar > floors[i - 1]:  # noqa: PLR1730
            sar = floors[i - 1]
    return float(current if is_up else -current)


# --------------------------------------------------------------------- ranks


def strictly_below(values: Column) -> float:
    """100 * (how many of all values lie strictly below the last) / (how many there are), 0-100."""
    _require(values, 1)
    return 100.0 * int(np.count_nonzero(values < values[-1])) / len(values)


def average_rank(population: Sequence[float], value: float) -> float:
    """(first rank + last rank)/2 ÷ count of `value` in the ascending `population`, in (0, 1].

    A value that is not in it is ranked as if it had just been inserted.
    """
    below, through = bisect_left(population, value), bisect_right(population, value)
    if below == through:
        return (below + 1) / (len(population) + 1)
    return (below + 1 + through) / 2 / len(population)
