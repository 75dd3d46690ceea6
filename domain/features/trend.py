"""Trend: moving averages, channels, the Parabolic SAR, efficiency of the path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.bar_window import Along, Columns
from domain.features.entry import GATES, WILDER, Feature, entry
from domain.indicators import Column, ema, last_ema, psar, quotients, safe_div
from domain.units import PRICE_SCALE


@Along
def ma_spread(bars: Columns) -> Sequence[float]:
    """|EMA20 − EMA50|."""
    # An EMA moves with its level: taken of differences, a flat window gives exactly 0.
    differences = bars.close - bars.close[:, -1:]
    spreads: list[float] = (np.abs(last_ema(differences, 20) - last_ema(differences, 50)) / PRICE_SCALE).tolist()
    return spreads


@Along
def ma_slope(bars: Columns) -> Sequence[float | None]:
    """(EMA20 − EMA20 five bars ago)/ATR14."""
    means = ema(bars.close - bars.close[:, -1:], 20)
    return quotients(means[:, -1] - means[:, -6], bars.last_atr(14))


def _above_ema(bars: Columns, n: int) -> Sequence[float]:
    distances: list[float] = ((0.0 - last_ema(bars.close - bars.close[:, -1:], n)) / PRICE_SCALE).tolist()
    return distances


@Along
def above_ema_8(bars: Columns) -> Sequence[float]:
    """C − EMA8."""
    return _above_ema(bars, 8)


@Along
def above_ema_20(bars: Columns) -> Sequence[float]:
    """C − EMA20."""
    return _above_ema(bars, 20)


@Along
def above_ema_50(bars: Columns) -> Sequence[float]:
    """C − EMA50."""
    return _above_ema(bars, 50)


@Along
def above_ema_200(bars: Columns) -> Sequence[float]:
    """C − EMA200."""
    return _above_ema(bars, 200)


def parabolic_distance(bars: Columns) -> float:
    """C − SAR(.02, .2); above 0 in a rising trend."""
    # The SAR moves with its level, as an EMA does.
    return (0.0 - psar(bars.high - bars.close[-1], bars.low - bars.close[-1])) / PRICE_SCALE


def _channel(bars: Columns) -> tuple[Column, Column]:
    """High and low of the 20 bars before the last."""
    return bars.high[:, -21:-1].max(axis=-1), bars.low[:, -21:-1].min(axis=-1)


@Along
def channel_proximity(bars: Columns) -> Sequence[float | None]:
    """min(|U − C|, |C − D|)/ATR14, U and D the high and the low of the 20 bars before."""
    (upper, lower), close = _channel(bars), bars.close[:, -1]
    return quotients(np.minimum(np.abs(upper - close), np.abs(close - lower)), bars.last_atr(14))


@Along
def channel_position(bars: Columns) -> Sequence[float | None]:
    """(C − D)/(U − D), U and D the high and the low of the 20 bars before: above 1 is a breakout."""
    upper, lower = _channel(bars)
    return quotients(bars.close[:, -1] - lower, upper - lower)


_SPIRAL = ((5, 0.5), (20, 0.25), (60, 0.125))
"""(bars, weight)."""


def spiral_efficiency(bars: Columns) -> float | None:
    """Σw·ER/Σw, ER = |C0 − Cn|/Σ|ΔC| over n = 5, 20, 60 bars, w = .5, .25, .125."""
    close = bars.close
    steps = np.abs(close[1:] - close[:-1])
    weighted = 0.0
    for n, weight in _SPIRAL:
        ratio = safe_div(abs(float(close[-1] - close[-1 - n])), float(np.add.reduce(steps[-n:])))
        if ratio is None:
            return None
        weighted += weight * ratio
    return weighted / sum(weight for _, weight in _SPIRAL)


# fmt: off
ENTRIES: tuple[Feature, ...] = (
    entry("ma_slope_fast", ma_slope, 300, "1h", "average ranges", label="slope of EMA20", parameter="20/5/14",
          band=(-1, 1)),
    entry("daily_slope_fast", ma_slope, 300, "1d", "average ranges", label="daily slope of EMA20",
          parameter="20/5/14", band=(-1, 1)),
    entry("ma_spread_ribbon_tightness", ma_spread, 600, "1h", "points", label="EMA spread", parameter="20/50",
          band=(0, 1)),
    entry("ma_spread_daily_ribbon_tightness", ma_spread, 300, "1d", "points", label="daily EMA spread",
          parameter="20/50", band=(0, 1)),
    entry("ema_8", above_ema_8, 300, "1h", "points", label="close above EMA8", parameter="8", band=(0, None),
          source=GATES),
    entry("ema_20", above_ema_20, 300, "1h", "points", label="close above EMA20", parameter="20", band=(0, None),
          source=GATES),
    entry("ema_50", above_ema_50, 600, "1h", "points", label="close above EMA50", parameter="50", band=(0, None),
          source=GATES),
    entry("ema_200", above_ema_200, 1400, "1h", "points", label="close above EMA200", parameter="200", band=(0, None),
          source=GATES),
    entry("daily_ema_20", above_ema_20, 300, "1d", "points", label="daily close above EMA20", parameter="20",
          band=(0, None), source=GATES),
    entry("daily_ema_50", above_ema_50, 300, "1d", "points", label="daily close above EMA50", parameter="50",
          band=(0, None), source=GATES),
    entry("daily_ema_200", above_ema_200, 500, "1d", "points", label="daily close above EMA200", parameter="200",
          band=(0, None), source=GATES),
    entry("parabolic_sar_distance", parabolic_distance, 200, "1h", "points", label="distance from the SAR",
          parameter=".02/.2", band=(-1, 1), source=WILDER),
    entry("parabolic_sar_distance_daily", parabolic_distance, 200, "1d", "points",
          label="daily distance from the SAR", parameter=".02/.2", band=(-1, 1), source=WILDER),
    entry("donchian_proximity_to_nearest_band", channel_proximity, 300, "1h", "average ranges",
          label="distance to the nearer channel line", parameter="20/14", band=(0, 1)),
    entry("donchian_proximity_daily_to_nearest_band", channel_proximity, 300, "1d", "average ranges",
          label="daily distance to the nearer channel line", parameter="20/14", band=(0, 1)),
    entry("donchian", channel_position, 21, "1h", "channel widths", label="position in the channel", parameter="20",
          source=GATES, band=(0, 1)),
    entry("daily_donchian", channel_position, 21, "1d", "channel widths", label="daily position in the channel",
          parameter="20", source=GATES, band=(0, 1)),
    entry("spiral_efficiency_ratio", spiral_efficiency, 61, "1h", "0-1", label="efficiency of the path",
          parameter="5/20/60", band=(0, 1)),
    entry("spiral_efficiency_ratio_daily", spiral_efficiency, 61, "1d", "0-1", label="daily efficiency of the path",
          parameter="5/20/60", band=(0, 1)),
)
# fmt: on
