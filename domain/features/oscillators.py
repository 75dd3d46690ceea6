"""Oscillators between fixed bounds: IBS, RSI, ADX; of the root itself and of its pair."""

from __future__ import annotations

from collections.abc import Sequence

from domain.bar_window import Along, Columns
from domain.features.entry import PAIR, WILDER, Feature, entry
from domain.indicators import adx, rsi


@Along
def bar_strength(bars: Columns) -> Sequence[float]:
    """IBS = (C − L)/(H − L) of the last bar; 0.5 without a range.

    The bits of `ibs.internal_bar_strength`.
    """
    return _strength_of(bars, -1)


@Along
def bar_strength_before(bars: Columns) -> Sequence[float]:
    """IBS of the bar before the last."""
    return _strength_of(bars, -2)


def _strength_of(bars: Columns, at: int) -> list[float]:
    prices = zip(bars.high[:, at].tolist(), bars.low[:, at].tolist(), bars.close[:, at].tolist(), strict=True)
    return [min(1.0, max(0.0, (close - low) / (high - low))) if high > low else 0.5 for high, low, close in prices]


@Along
def rsi_2(bars: Columns) -> Sequence[float | None]:
    """Wilder's RSI of 2."""
    return rsi(bars.close, 2)


@Along
def rsi_5(bars: Columns) -> Sequence[float | None]:
    """Wilder's RSI of 5."""
    return rsi(bars.close, 5)


@Along
def rsi_14(bars: Columns) -> Sequence[float | None]:
    """Wilder's RSI of 14."""
    return rsi(bars.close, 14)


@Along
def adx_14(bars: Columns) -> Sequence[float | None]:
    """Wilder's ADX of 14."""
    return adx(bars.high, bars.low, 14)


_SCALE = "0-100"

# fmt: off
ENTRIES: tuple[Feature, ...] = (
    entry("ibs", bar_strength, 1, "1h", "0-1", label="IBS", band=(0, 0.2)),
    entry("prev_ibs", bar_strength_before, 2, "1h", "0-1", label="previous IBS", band=(0.8, 1)),
    entry("daily_ibs", bar_strength, 1, "1d", "0-1", label="daily IBS", band=(0, 0.2)),
    entry("prev_daily_ibs", bar_strength_before, 2, "1d", "0-1", label="previous daily IBS", band=(0.8, 1)),
    entry("pair_ibs", bar_strength, 1, "1h", "0-1", label="IBS of the pair", root=PAIR, band=(0, 0.2)),
    entry("pair_ibs_daily", bar_strength, 1, "1d", "0-1", label="daily IBS of the pair", root=PAIR, band=(0, 0.2)),
    entry("rsi", rsi_5, 120, "1h", _SCALE, label="RSI of 5", parameter="5", band=(40, 60), source=WILDER),
    entry("rsi_len2", rsi_2, 40, "1h", _SCALE, label="RSI of 2", parameter="2", band=(0, 40), source=WILDER),
    entry("rsi_len_14", rsi_14, 300, "1h", _SCALE, label="RSI", parameter="14", band=(40, 60), source=WILDER),
    entry("daily_rsi", rsi_5, 120, "1d", _SCALE, label="daily RSI of 5", parameter="5", band=(0, 40), source=WILDER),
    entry("daily_rsi_len2", rsi_2, 40, "1d", _SCALE, label="daily RSI of 2", parameter="2", band=(0, 40),
          source=WILDER),
    entry("daily_rsi_len_14", rsi_14, 300, "1d", _SCALE, label="daily RSI", parameter="14", band=(40, 60),
          source=WILDER),
    entry("rsi2", rsi_14, 300, "1h", _SCALE, label="RSI of the pair", parameter="14", band=(0, 40), root=PAIR,
          source=WILDER),
    entry("secondary_rsi_entry_daily", rsi_14, 300, "1d", _SCALE, label="daily RSI of the pair", parameter="14",
          band=(0, 40), root=PAIR, source=WILDER),
    entry("adx_value", adx_14, 400, "1h", _SCALE, label="ADX", parameter="14", band=(20, 40), source=WILDER),
    entry("daily_adx_value", adx_14, 400, "1d", _SCALE, label="daily ADX", parameter="14", band=(20, 40),
          source=WILDER),
)
# fmt: on
