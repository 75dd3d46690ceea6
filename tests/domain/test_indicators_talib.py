"""Indicators and what rests on them against TA-Lib, an independent implementation in C.

Largest relative differences after warm-up stand in docs/features.md; `-s` prints them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from domain.bar_window import Columns
from domain.features import trend, volatility
from domain.indicators import Column, atr, ema, psar
from tests.domain.test_features import columns
from tests.domain.test_indicators import adx, rsi

talib = pytest.importorskip("talib", reason="the dev extra's TA-Lib is not installed")

BARS, WARM_UP, SAMPLES = 1_200, 600, 30
LIMIT = 1e-9


@cache
def walks() -> tuple[Columns, ...]:
    """Random walks at the level and tick of ES, of 6E and of GC."""
    scales = ((5e12, 2.5e8), (1.1e9, 5e4), (2e12, 1e8))
    return tuple(columns(BARS, seed=seed, level=level, tick=tick) for seed, (level, tick) in enumerate(scales * 3))


def until(bars: Columns, count: int, window: int | None = None) -> Columns:
    place = slice(0 if window is None else count - window, count)
    return Columns(
        start=bars.start[place],
        open=bars.open[place],
        high=bars.high[place],
        low=bars.low[place],
        close=bars.close[place],
        volume=bars.volume[place],
    )


Ours = Callable[[Columns], float | None]
"""Of all bars until then: TA-Lib's recursions start at the first bar too."""
Theirs = Callable[[Columns], Column]
TABLE: dict[str, tuple[Ours, Theirs]] = {
    "RSI 14": (lambda b: rsi(b.close, 14), lambda b: talib.RSI(b.close, 14)),
    "RSI 5": (lambda b: rsi(b.close, 5), lambda b: talib.RSI(b.close, 5)),
    "ATR 14": (lambda b: float(atr(b.high, b.low, b.close, 14)[-1]), lambda b: talib.ATR(b.high, b.low, b.close, 14)),
    "ATR 5": (lambda b: float(atr(b.high, b.low, b.close, 5)[-1]), lambda b: talib.ATR(b.high, b.low, b.close, 5)),
    "ADX 14": (lambda b: adx(b.high, b.low, 14), lambda b: talib.ADX(b.high, b.low, b.close, 14)),
    "EMA 20": (lambda b: float(ema(b.close, 20)[-1]), lambda b: talib.EMA(b.close, 20)),
    "EMA 50": (lambda b: float(ema(b.close, 50)[-1]), lambda b: talib.EMA(b.close, 50)),
    "SAR .02/.2": (lambda b: psar(b.high, b.low), lambda b: talib.SAR(b.high, b.low, 0.02, 0.2)),
    "Bollinger width 20/2": (volatility.band_width, lambda b: _width(b.close)),
    "Bollinger position 20/2": (volatility.band_position, lambda b: _position(b.close)),
    "Donchian position 20": (trend.channel_position, lambda b: _channel(b)),
}
WINDOWS = {
    "RSI 14": 300,
    "RSI 5": 120,
    "ATR 14": 300,
    "ATR 5": 108,
    "ADX 14": 400,
    "EMA 20": 300,
    "EMA 50": 600,
    "SAR .02/.2": 200,
    "Bollinger width 20/2": 20,
    "Bollinger position 20/2": 20,
    "Donchian position 20": 21,
}
"""The registry's, of hours: what it leaves out of the past weighs less than 1e-9."""


def _width(close: Column) -> Column:
    upper, middle, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return (upper - lower) / middle


def _position(close: Column) -> Column:
    upper, _, lower = talib.BBANDS(close, 20, 2.0, 2.0)
    return (close - lower) / (upper - lower)


def _channel(bars: Columns) -> Column:
    upper, lower = np.roll(talib.MAX(bars.high, 20), 1), np.roll(talib.MIN(bars.low, 20), 1)
    return (bars.close - lower) / (upper - lower)


@pytest.mark.parametrize("is_windowed", [False, True], ids=["whole", "window"])
@pytest.mark.parametrize("name", TABLE)
def test_indicators_are_those_of_ta_lib(name: str, is_windowed: bool) -> None:
    """Of the whole past, as TA-Lib takes it, and of the window that the registry gives."""
    ours, theirs = TABLE[name]
    window = WINDOWS[name] if is_windowed or name.startswith("Bollinger") else None
    worst = 0.0
    for bars in walks():
        expected = theirs(bars)
        for count in np.linspace(WARM_UP, BARS, SAMPLES, dtype=int).tolist():
            value = ours(until(bars, count, window))
            assert value is not None
            worst = max(worst, abs(value - expected[count - 1]) / max(abs(expected[count - 1]), 1e-300))
    print(f"{name}: {worst:.1e}")
    assert worst < LIMIT
