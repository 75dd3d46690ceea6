"""Indicators against hand-computed tables and against plain loops that share no line with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import indicators
from domain.indicators import (
    Column,
    atr,
    average_rank,
    ema,
    psar,
    safe_div,
    sigma,
    sma,
    sma_series,
    true_range,
    wilder,
)

NAN, INF = float("nan"), float("inf")

# ----------------------------------------------------- of one row, not of many


def rsi(close: Column, n: int) -> float | None:
    return indicators.rsi(close[None], n)[0]


def adx(high: Column, low: Column, n: int) -> float | None:
    return indicators.adx(high[None], low[None], n)[0]


def z(values: Column, *, mean_over: int, sigma_over: int) -> float | None:
    return indicators.z(values[None], mean_over=mean_over, sigma_over=sigma_over)[0]


def strictly_below(values: Column) -> float:
    return indicators.strictly_below(values[None])[0]


# ------------------------------------------------------------ plain references


def plain_smoothed(values: Sequence[float], n: int, alpha: float) -> list[float]:
    result = [fmean(values[:n])]
    for value in values[n:]:
        result.append(result[-1] + alpha * (value - result[-1]))
    return result


def plain_rsi(close: Sequence[float], n: int) -> float | None:
    gain = loss = 0.0
    for i in range(1, len(close)):
        up, down = max(close[i] - close[i - 1], 0.0), max(close[i - 1] - close[i], 0.0)
        weight = 1 / n
        if i <= n:
            gain, loss = gain + up * weight, loss + down * weight
        else:
            gain, loss = gain * (n - 1) / n + up * weight, loss * (n - 1) / n + down * weight
    if gain + loss == 0:
        return None
    return 100.0 if loss == 0 else 100 - 100 / (1 + gain / loss)


def plain_true_range(high: Sequence[float], low: Sequence[float], close: Sequence[float]) -> list[float]:
    return [
        max(high[i] - low[i], abs(high[i] - close[i - 1]), abs(low[i] - close[i - 1])) for i in range(1, len(close))
    ]


def plain_adx(high: Sequence[float], low: Sequence[float], close: Sequence[float], n: int) -> float:
    """With both indicators divided by the true range, as Wilder writes them."""
    plus, minus = [], []
    for i in range(1, len(high)):
        up, down = high[i] - high[i - 1], low[i - 1] - low[i]
        plus.append(up if up > down and up > 0 else 0.0)
        minus.append(down if down > up and down > 0 else 0.0)
    ranges = plain_smoothed(plain_true_range(high, low, close), n, 1 / n)
    index = []
    for p, m, r in zip(plain_smoothed(plus, n, 1 / n), plain_smoothed(minus, n, 1 / n), ranges, strict=True):
        plus_di, minus_di = 100 * p / r, 100 * m / r
        index.append(100 * abs(plus_di - minus_di) / (plus_di + minus_di))
    return plain_smoothed(index, n, 1 / n)[-1]


def plain_psar(high: Sequence[float], low: Sequence[float]) -> float:
    """Both trends written out, in the manner of TA-Lib."""
    is_long = not (low[0] - low[1] > max(0.0, high[1] - high[0]))
    sar, extreme, speed = (low[0], high[1], 0.02) if is_long else (high[0], low[1], 0.02)
    shown = sar
    for i in range(1, len(high)):
        if is_long and low[i] <= sar:
            is_long, shown = False, max(extreme, high[i - 1], high[i])
            sar, extreme, speed = shown, low[i], 0.02
        elif not is_long and high[i] >= sar:
            is_long, shown = True, min(extreme, low[i - 1], low[i])
            sar, extreme, speed = shown, high[i], 0.02
        else:
            shown = sar
            if is_long and high[i] > extreme:
                extreme, speed = high[i], min(speed + 0.02, 0.2)
            if not is_long and low[i] < extreme:
                extreme, speed = low[i], min(speed + 0.02, 0.2)
        sar += speed * (extreme - sar)
        sar = min(sar, low[i - 1], low[i]) if is_long else max(sar, high[i - 1], high[i])
    return shown


@st.composite
def bars(draw: st.DrawFn, least: int = 40, most: int = 700) -> tuple[Column, Column, Column]:
    """High, low and close of a random walk on a tick grid, each bar's range holding its close."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(least, most))
    level, tick = draw(st.sampled_from([(5e12, 2.5e8), (6.7e6, 500.0), (7e10, 1e7)]))
    close = level + tick * np.cumsum(rng.integers(-9, 10, n))
    return close + tick * rng.integers(0, 6, n), close - tick * rng.integers(0, 6, n), close


# -------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"),
    [
        (1.0, 4.0, 0.25),
        (1.0, -4.0, -0.25),
        (0.0, 5.0, 0.0),
        (1.0, 1e-12, 1e12),
        (1.0, 9.9e-13, None),
        (1.0, -9.9e-13, None),
        (1.0, 0.0, None),
        (0.0, 0.0, None),
        (1.0, None, None),
        (None, 1.0, None),
        (1.0, NAN, None),
        (1.0, INF, None),
        (1.0, -INF, None),
        (NAN, 1.0, None),
        (INF, 1.0, None),
        (1e308, 1e-3, None),
    ],
)
def test_a_quotient_without_a_meaning_is_missing_and_never_zero(
    numerator: float | None, denominator: float | None, quotient: float | None
) -> None:
    assert safe_div(numerator, denominator) == quotient


def test_means_and_deviations_by_hand() -> None:
    values = np.array([100.0, 2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert sma(values, 8) == 5.0
    assert sma_series(values, 8).tolist() == [fmean(values[:8]), 5.0]
    assert sigma(values[1:]) == 2.0
    assert sigma(values[1:], sample=True) == pytest.approx(math.sqrt(32 / 7), rel=1e-15)
    assert z(values, mean_over=8, sigma_over=8) == 2.0
    assert z(values, mean_over=2, sigma_over=8) == 0.5


def test_smoothing_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 8.0, 4.0])
    assert ema(values, 3).tolist() == pytest.approx([2.0, 5.0, 4.5], rel=1e-15)
    assert wilder(values, 2).tolist() == pytest.approx([1.5, 2.25, 5.125, 4.5625], rel=1e-15)


@pytest.mark.parametrize(
    ("close", "value"),
    [
        ([10, 11, 10, 12], 100 * 1.25 / 1.5),
        ([10, 11, 12, 13], 100.0),
        ([13, 12, 11, 10], 0.0),
        ([10, 10, 10, 10], None),
    ],
)
def test_rsi_of_two_by_hand(close: list[float], value: float | None) -> None:
    assert rsi(np.array(close, float), 2) == (None if value is None else pytest.approx(value, rel=1e-14))


def test_the_true_range_knows_gaps() -> None:
    high, low, close = (np.array(c, float) for c in ([5, 9, 4, 6], [3, 8, 2, 5], [4, 8, 3, 5]))
    assert true_range(high, low, close).tolist() == [5.0, 6.0, 3.0]
    assert atr(high, low, close, 2).tolist() == pytest.approx([5.5, 4.25])


def test_the_sar_rises_under_a_trend_and_turns_at_its_extreme() -> None:
    high, low = np.array([10.0, 11.0, 12.0, 13.0, 9.0]), np.array([9.0, 10.0, 11.0, 12.0, 8.0])
    assert psar(high[:3], low[:3]) == pytest.approx(9.0)  # 9.04, held under the low of two bars before
    assert psar(high[:4], low[:4]) == pytest.approx(9.0 + 0.04 * (12.0 - 9.0))
    assert psar(high, low) == 13.0


def test_the_adx_of_a_steady_trend_is_100_and_of_a_standstill_missing() -> None:
    steady = np.arange(60.0)
    assert adx(steady + 1, steady, 14) == pytest.approx(100.0, rel=1e-14)
    assert adx(np.ones(60), np.zeros(60), 14) is None


def test_a_flat_window_has_no_z_score_however_high_it_lies() -> None:
    for level in (0.0, 6.7e6, 4e13, 0.1, 1 / 3):
        assert sigma(np.full(252, level)) == 0.0
        assert z(np.full(252, level), mean_over=20, sigma_over=252) is None


def test_too_short_a_window_is_a_bug() -> None:
    short = np.ones(13)
    for call in (lambda: sma(short, 14), lambda: ema(short, 14), lambda: rsi(short, 14), lambda: adx(short, short, 14)):
        with pytest.raises(ValueError, match="are needed"):
            call()


@pytest.mark.parametrize(
    ("values", "percent"), [([1, 2, 3, 4], 75.0), ([4, 3, 2, 1], 0.0), ([2, 1, 2, 2], 25.0), ([5], 0.0)]
)
def test_strictly_below_counts_neither_ties_nor_itself(values: list[float], percent: float) -> None:
    assert strictly_below(np.array(values, float)) == percent


@pytest.mark.parametrize(
    ("population", "value", "rank"),
    [
        ([5.0], 5.0, 1.0),
        ([1.0, 2.0, 3.0], 1.0, 1 / 3),
        ([1.0, 2.0, 2.0, 3.0], 2.0, 2.5 / 4),
        ([2.0, 2.0, 2.0], 2.0, 2 / 3),
        ([1.0, 3.0], 2.0, 2 / 3),
        ([], 2.0, 1.0),
    ],
)
def test_the_average_rank(population: list[float], value: float, rank: float) -> None:
    assert average_rank(population, value) == rank


# ---------------------------------------------------------------------- laws


@given(bars(), st.sampled_from([5, 14, 20]))
@settings(max_examples=60, deadline=None)
def test_indicators_are_what_plain_loops_say(walk: tuple[Column, Column, Column], n: int) -> None:
    high, low, close = walk
    h, lo, c = high.tolist(), low.tolist(), close.tolist()
    assert rsi(close, n) == pytest.approx(plain_rsi(c, n), rel=1e-9)
    assert ema(close, n).tolist() == pytest.approx(plain_smoothed(c, n, 2 / (n + 1)), rel=1e-11)
    assert atr(high, low, close, n).tolist() == pytest.approx(
        plain_smoothed(plain_true_range(h, lo, c), n, 1 / n), rel=1e-11
    )
    assert adx(high, low, n) == pytest.approx(plain_adx(h, lo, c, n), rel=1e-9)
    assert psar(high, low) == pytest.approx(plain_psar(h, lo), rel=1e-14)
    assert sigma(close) == pytest.approx(pstdev(c), rel=1e-9)
    assert sigma(close, sample=True) == pytest.approx(stdev(c), rel=1e-9)
    assert z(close, mean_over=n, sigma_over=len(c)) == pytest.approx(
        (c[-1] - fmean(c[-n:])) / pstdev(c), rel=1e-9, abs=1e-12
    )


@given(bars(), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_the_same_window_gives_the_same_bits_wherever_it_lies(walk: tuple[Column, Column, Column], before: int) -> None:
    """A view into a longer history, at any alignment, and a fresh copy."""
    moved = [np.concatenate((np.full(before, 7.0), column, [9.0]))[before:-1] for column in walk]
    for indicator in (
        lambda h, lo, c: rsi(c, 14),
        lambda h, lo, c: adx(h, lo, 14),
        lambda h, lo, c: psar(h, lo),
        lambda h, lo, c: ema(c, 20).tobytes(),
        lambda h, lo, c: atr(h, lo, c, 14).tobytes(),
        lambda h, lo, c: z(c, mean_over=20, sigma_over=len(c)),
    ):
        assert indicator(*moved) == indicator(*walk)


@given(bars(), st.integers(-(10**13), 10**13))
@settings(max_examples=40, deadline=None)
def test_a_shift_of_whole_prices_changes_no_bit_of_what_rests_on_differences(
    walk: tuple[Column, Column, Column], difference: int
) -> None:
    high, low, close = walk
    h, lo, c = (column + difference for column in walk)
    assert rsi(c, 14) == rsi(close, 14)
    assert adx(h, lo, 14) == adx(high, low, 14)
    assert atr(h, lo, c, 14).tobytes() == atr(high, low, close, 14).tobytes()
    assert z(c, mean_over=20, sigma_over=len(c)) == z(close, mean_over=20, sigma_over=len(close))


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60))
def test_the_average_rank_is_what_counting_says(values: list[float]) -> None:
    value = values[-1]
    ranks = [i for i, other in enumerate(sorted(values), 1) if other == value]
    assert average_rank(sorted(values), value) == (ranks[0] + ranks[-1]) / 2 / len(values)
