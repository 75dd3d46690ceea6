"""Indicators: pure functions of float64 columns, oldest value first.

Each uses all of the array it is given and nothing else, so the caller's window is
part of the definition. The same array gives the same bits: sums run in numpy's
fixed order (never through BLAS), recursions as one sequential scan. Whatever takes
`Rows` runs along the last axis: of many arrays of one length it gives for each the
bits that it gives for it alone. They are indifferent to the unit of price.
Conventions: sigma is population unless said otherwise; RSI, ATR and ADX are Wilder's
(*New Concepts in Technical Trading Systems*, 1978), seeded by a simple mean; an EMA has
alpha = 2/(n + 1) and is seeded by the SMA of its first n values.

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
"""(W,)"""
Rows = npt.NDArray[np.float64]
"""Columns of several roots: (roots, W). What gives an array takes one column (W,) too; what gives a list does not."""

SMALLEST_DENOMINATOR = 1e-12


def safe_div(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient, or None when either side is missing, not finite, or |denominator| < 1e-12."""
    if numerator is None or denominator is None or not abs(denominator) >= SMALLEST_DENOMINATOR:
        return None  # `not >=` is also true of NaN
    if math.isinf(denominator):
        return None
    quotient = numerator / denominator
    return quotient if math.isfinite(quotient) else None


def quotients(numerators: Column, denominators: Column) -> list[float | None]:
    """`safe_div` of each pair."""
    return [safe_div(*pair) for pair in zip(numerators.tolist(), denominators.tolist(), strict=True)]


def _require(values: Rows, count: int) -> None:
    if values.shape[-1] < count:
        raise ValueError(f"{values.shape[-1]} values where {count} are needed")


# ------------------------------------------------------------------- moments


def sma(values: Column, n: int) -> float:
    """The mean of the last `n` values, in their unit."""
    _require(values, n)
    return float(np.add.reduce(values[-n:])) / n


def sma_series(values: Rows, n: int) -> Rows:
    """The mean of each `n` consecutive values: W - n + 1 of them."""
    _require(values, n)
    count = values.shape[-1] - n + 1
    total = values[..., :count].copy()
    for i in range(1, n):
        total += values[..., i : i + count]
    return total / n


def sigma(values: Column, *, sample: bool = False) -> float:
    """The standard deviation of all values: ÷ n, or ÷ (n - 1) for a sample.

    Taken of the differences from the last value, so that a high level costs no precision
    and a flat window gives exactly 0.
    """
    _require(values, 2 if sample else 1)
    differences = values - values[-1]
    n = len(differences)
    deviations = differences - sma(differences, n)
    return math.sqrt(float(np.add.reduce(deviations * deviations)) / (n - 1 if sample else n))


def z(values: Rows, *, mean_over: int, sigma_over: int) -> list[float | None]:
    """Of each row (last - mean of the last `mean_over`) / population sigma of the last `sigma_over`; None when flat."""
    _require(values, max(mean_over, sigma_over))
    # Differences from the last value, as in `sigma`.
    differences = values - values[..., -1:]
    spread = differences[..., -sigma_over:]
    centre = _means(spread)
    mean = centre if mean_over == sigma_over else _means(differences[..., -mean_over:])
    deviations = spread - centre
    sigmas = np.sqrt(_means(deviations * deviations))
    return quotients(-mean[..., 0], sigmas[..., 0])


def _means(values: Rows) -> Rows:
    """The mean of each row, as a row of one."""
    means: Rows = np.add.reduce(values, axis=-1, keepdims=True) / values.shape[-1]
    return means


# ---------------------------------------------------------------- recursions


@lru_cache(maxsize=64)
def _powers(decay: float, count: int) -> Column:
    """decay^1 ... decay^count, by successive multiplication: `pow` is not the same on every machine."""
    powers = np.multiply.accumulate(np.full(count, decay))
    powers.flags.writeable = False
    return powers


def _smoothed(values: Rows, n: int, alpha: float, decay: float) -> Rows:
    """The recursion y = decay * y' + alpha * x from the mean of the first `n` values on: W - n + 1 values.

    As one scan, y_k = decay^k (seed + alpha * sum_j x_j / decay^j): thirty times faster than a
    loop and as exact (the terms grow geometrically, so rounding stays relative to the last ones).
    The powers stay inside float64 for windows of thousands of bars with n >= 5.
    """
    _require(values, n)
    count = values.shape[-1] - n
    powers, seed = _powers(decay, count), _means(values[..., :n])
    smoothed = np.empty((*values.shape[:-1], count + 1))
    smoothed[..., :1] = seed
    scanned = np.add.accumulate(values[..., n:] / powers, axis=-1)
    scanned *= alpha
    scanned += seed
    np.multiply(powers, scanned, out=smoothed[..., 1:])
    return smoothed


def _last_smoothed(values: Rows, n: int, alpha: float, decay: float) -> Column:
    """The last of `_smoothed`, bit for bit, at half its cost."""
    _require(values, n)
    seed = _means(values[..., :n])[..., 0]
    count = values.shape[-1] - n
    if count == 0:
        return seed
    powers = _powers(decay, count)
    last: Column = powers[-1] * (seed + alpha * np.add.accumulate(values[..., n:] / powers, axis=-1)[..., -1])
    return last


def ema(values: Rows, n: int) -> Rows:
    """The exponential mean after each value from the n-th on; alpha = 2/(n + 1), seeded by their SMA."""
    return _smoothed(values, n, 2.0 / (n + 1), (n - 1.0) / (n + 1))


def wilder(values: Rows, n: int) -> Rows:
    """Wilder's smoothing, alpha = 1/n, after each value from the n-th on; seeded by their simple mean."""
    return _smoothed(values, n, 1.0 / n, (n - 1.0) / n)


def last_ema(values: Rows, n: int) -> Column:
    """The last of `ema`."""
    return _last_smoothed(values, n, 2.0 / (n + 1), (n - 1.0) / (n + 1))


def _last_wilder(values: Rows, n: int) -> Column:
    return _last_smoothed(values, n, 1.0 / n, (n - 1.0) / n)


def rsi(close: Rows, n: int) -> list[float | None]:
    """Wilder's Relative Strength Index of each row, 0-100: 100 * gain/(gain + loss). None without any change."""
    changes = close[..., 1:] - close[..., :-1]
    gain = _last_wilder(np.maximum(changes, 0.0), n)
    loss = _last_wilder(np.maximum(-changes, 0.0), n)
    return quotients(100.0 * gain, gain + loss)


def true_range(high: Rows, low: Rows, close: Rows) -> Rows:
    """max(H - L, |H - C1|, |L - C1|) from the second bar on: W - 1 of them."""
    before = close[..., :-1]
    return np.maximum(high[..., 1:], before) - np.minimum(low[..., 1:], before)


def atr(high: Rows, low: Rows, close: Rows, n: int) -> Rows:
    """Wilder's Average True Range after each bar from the (n + 1)-th on: W - n of them.

    Taken of the differences from the last range, so that equal ranges give exactly equal
    averages: rounding must not rank one above the other.
    """
    ranges = true_range(high, low, close)
    last = ranges[..., -1:]
    averages: Rows = wilder(ranges - last, n) + last
    return averages


def last_atr(high: Rows, low: Rows, close: Rows, n: int) -> Column:
    """The last of `atr`."""
    ranges = true_range(high, low, close)
    average: Column = _last_wilder(ranges - ranges[..., -1:], n) + ranges[..., -1]
    return average


def adx(high: Rows, low: Rows, n: int) -> list[float | None]:
    """Wilder's Average Directional Index of each row's last bar, 0-100; needs 2n bars.

    DX = 100 |+DI - -DI| / (+DI + -DI); the smoothed true range is in every term and cancels.
    None when some DX has no directional movement at all under it.
    """
    _require(high, 2 * n)
    up = np.maximum(high[..., 1:] - high[..., :-1], 0.0)
    down = np.maximum(low[..., :-1] - low[..., 1:], 0.0)
    # Of each bar the larger movement alone, and neither where they are equal.
    plus, minus = wilder(up * (up > down), n), wilder(down * (down > up), n)
    movement = plus + minus
    is_still = movement.min(axis=-1) < SMALLEST_DENOMINATOR
    index = _last_wilder(100.0 * np.abs(plus - minus) / np.maximum(movement, SMALLEST_DENOMINATOR), n)
    return [None if still else value for still, value in zip(is_still.tolist(), index.tolist(), strict=True)]


def psar(high: Column, low: Column, *, step: float = 0.02, limit: float = 0.2) -> float:
    """Wilder's Parabolic SAR that applies to the last bar, in the unit of price; needs 2 bars.

    The first trend falls when the second bar's downward movement is the larger and positive, as
    in TA-Lib. A falling trend is the rising one of the mirrored prices: the loop knows one rule.
    """
    _require(high, 2)
    highs, lows = high.tolist(), low.tolist()
    is_up = not (lows[0] - lows[1] > max(0.0, highs[1] - highs[0]))
    floor_before, top_before = (lows[0], highs[0]) if is_up else (-highs[0], -lows[0])
    sar, extreme, speed = floor_before, highs[1] if is_up else -lows[1], step
    current = sar
    # Comparisons below: calling min() costs more than all the rest of the loop.
    for low_now, high_now in zip(lows[1:], highs[1:], strict=True):
        floor, top = (low_now, high_now) if is_up else (-high_now, -low_now)
        if floor <= sar:
            is_up = not is_up
            floor, top, floor_before = -top, -floor, -top_before
            current = sar = min(-extreme, floor_before, floor)
            extreme, speed = top, step
        else:
            current = sar
            if top > extreme:
                extreme = top
                speed += step
                if speed > limit:  # noqa: PLR1730
                    speed = limit
        sar += speed * (extreme - sar)
        # Never beyond the last two lows.
        if sar > floor:  # noqa: PLR1730
            sar = floor
        if sar > floor_before:  # noqa: PLR1730
            sar = floor_before
        floor_before, top_before = floor, top
    return float(current if is_up else -current)


# --------------------------------------------------------------------- ranks


def strictly_below(values: Rows) -> list[float]:
    """Of each row 100 * (how many of its values lie strictly below the last) / (how many there are), 0-100."""
    _require(values, 1)
    counts = np.count_nonzero(values < values[..., -1:], axis=-1)
    return [100.0 * count / values.shape[-1] for count in counts.tolist()]


def average_rank(population: Sequence[float], value: float) -> float:
    """(first rank + last rank)/2 ÷ count of `value` in the ascending `population`, in (0, 1].

    A value that is not in it is ranked as if it had just been inserted.
    """
    below, through = bisect_left(population, value), bisect_right(population, value)
    if below == through:
        return (below + 1) / (len(population) + 1)
    return (below + 1 + through) / 2 / len(population)
