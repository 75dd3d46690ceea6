"""Volatility and volume: ranges, bands and contracts against what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.bar_window import LOOKBACK, Along, Columns
from domain.features.entry import GATES, Feature, entry
from domain.indicators import (
    SMALLEST_DENOMINATOR,
    quotients,
    safe_div,
    sigma,
    sma,
    sma_series,
    strictly_below,
    true_range,
    z,
)

QUIET = 0.7
"""ATR10/ATR100 below this is a compressed range."""
_STREAK_DECAY = 0.9048374180359595
"""exp(-1/10), written out: `exp` is not the same on every machine."""


@Along
def volume_z(bars: Columns) -> Sequence[float | None]:
    """The z over 252 of SMA5(volume)."""
    return z(sma_series(bars.volume, 5), mean_over=LOOKBACK, sigma_over=LOOKBACK)


@Along
def atr_z(bars: Columns) -> Sequence[float | None]:
    """The z over 252 of ATR5."""
    return z(bars.atr(5), mean_over=LOOKBACK, sigma_over=LOOKBACK)


@Along
def range_ratio(bars: Columns) -> Sequence[float | None]:
    """TR/ATR20."""
    last = true_range(bars.high[:, -2:], bars.low[:, -2:], bars.close[:, -2:])
    return quotients(last[:, 0], bars.last_atr(20))


@Along
def range_compression(bars: Columns) -> Sequence[float | None]:
    """(H − L)/ATR14."""
    return quotients(bars.high[:, -1] - bars.low[:, -1], bars.last_atr(14))


@Along
def atr_percentile(bars: Columns) -> Sequence[float]:
    """100 × how many of the last 252 values of ATR14 lie strictly below the last, ÷ 252."""
    return strictly_below(bars.atr(14)[:, -LOOKBACK:])


def band_position(bars: Columns) -> float | None:
    """(C − lower)/(upper − lower), bands SMA20 ± 2 σ20: 0 on the lower, 1 on the upper."""
    width = 4.0 * sigma(bars.close)
    return safe_div(-sma(bars.close - bars.close[-1], 20) + width / 2.0, width)


def band_width(bars: Columns) -> float | None:
    """(upper − lower)/SMA20, bands SMA20 ± 2 σ20."""
    return safe_div(4.0 * sigma(bars.close), sma(bars.close, 20))


def compression(bars: Columns) -> float | None:
    """TWRC = max(0, (0.7 − r)/0.7) × (1 − exp(−streak/10)), r = ATR10/ATR100, streak = bars in a row with r < 0.7."""
    slow = bars.atr(100)
    if float(slow.min()) < SMALLEST_DENOMINATOR:
        return None
    ratios = bars.atr(10)[-len(slow) :] / slow
    loud = np.flatnonzero(ratios >= QUIET)
    streak = len(ratios) - (int(loud[-1]) + 1 if len(loud) else 0)
    decay = 1.0
    for _ in range(streak):
        decay *= _STREAK_DECAY
    return max(0.0, (QUIET - float(ratios[-1])) / QUIET) * (1.0 - decay)


# fmt: off
ENTRIES: tuple[Feature, ...] = (
    entry("volz", volume_z, 256, "1h", "sigmas", label="volume z-score", parameter="5/252", band=(-2, 2)),
    entry("dvolz", volume_z, 256, "1d", "sigmas", label="daily volume z-score", parameter="5/252", band=(-2, 2)),
    entry("atrz", atr_z, 360, "1h", "sigmas", label="ATR z-score", parameter="5/252", band=(-2, 2)),
    entry("datrz", atr_z, 360, "1d", "sigmas", label="daily ATR z-score", parameter="5/252", band=(-2, 2)),
    entry("tratr", range_ratio, 430, "1h", "average ranges", label="true range", parameter="20", band=(1.2, None)),
    entry("range_compression_atr", range_compression, 300, "1h", "average ranges", label="range", parameter="14",
          band=(None, 0.5)),
    entry("daily_range_compression", range_compression, 300, "1d", "average ranges", label="daily range",
          parameter="14", band=(None, 0.5)),
    entry("hourly_atr_percentile", atr_percentile, 600, "1h", "0-100", label="ATR percentile", parameter="14/252",
          band=(0, 100)),
    entry("daily_atr_percentile", atr_percentile, 500, "1d", "0-100", label="daily ATR percentile",
          parameter="14/252", band=(0, 100)),
    entry("bb", band_position, 20, "1h", "band widths", label="position in the Bollinger bands", parameter="20/2",
          band=(None, 0), source=GATES),
    entry("daily_bb", band_position, 20, "1d", "band widths", label="daily position in the Bollinger bands",
          parameter="20/2", band=(1, None), source=GATES),
    entry("bollinger_bandwidth", band_width, 20, "1h", "of the mean", label="width of the Bollinger bands",
          parameter="20/2", band=(0, 1)),
    entry("bollinger_bandwidth_daily", band_width, 20, "1d", "of the mean",
          label="daily width of the Bollinger bands", parameter="20/2", band=(0, 1)),
    entry("twrc", compression, 1400, "1h", "0-1", label="time-weighted range compression", parameter="10/100/0.7/10",
          band=(0.5, None), source=GATES),
)
# fmt: on
