"""Internal Bar Strength and the parameters of the strategy built on it.

IBS = (close - low) / (high - low), in [0, 1]: 0 closes on the low, 1 on the high.
A short is the mirror of a long: its bands are held against the mirrored IBS, (high - close) / (high - low).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import attrs

from domain.units import Price

EntrySide = Literal["long", "short", "both"]


@attrs.frozen(kw_only=True)
class Ibs:
    """An IBS value; a bar without range is 0.5 and flagged."""

    value: float
    is_zero_range: bool = False
    mirrored: float = 0.5
    """The IBS of the bar upside down: not 1 - value, whose last bit would cut the two sides differently."""

    def of_side(self, *, is_short: bool) -> float:
        """What the bands of that side are held against."""
        return self.mirrored if is_short else self.value


def internal_bar_strength(*, high: Price, low: Price, close: Price) -> Ibs:
    """The IBS of one bar, computed from integers so that every machine gives the same bits."""
    if high <= low:
        return Ibs(value=0.5, is_zero_range=True)
    value, mirrored = (close - low) / (high - low), (high - close) / (high - low)
    return Ibs(value=min(1.0, max(0.0, value)), mirrored=min(1.0, max(0.0, mirrored)))


@attrs.frozen(kw_only=True)
class FeatureGate:
    """An optional gate: one feature of the registry, and what its value may be for an entry.

    A band (low <= value <= high, None is open) or, for what comes in steps, the values that are allowed.
    """

    name: str
    low: float | None = None
    high: float | None = None
    allowed: tuple[float, ...] = ()


@attrs.frozen(kw_only=True)
class StrategySettings:
    """Parameters of the IBS strategy; a band is low <= value <= high, percentages are of the fill price."""

    name: str = "ibs"
    side: EntrySide = "long"
    """What is entered. The bands are a long's; a short has them mirrored (entry 0.8-1.0, exit 0-0.2)."""
    veto: bool = True
    """Score every candidate entry with the Random Forest; without a bundle there is no entry."""
    decision_timeframe: Literal["1h", "1m"] = "1h"
    """Hour bars decide. `1m` is for trials in real time, where no one waits for an hour."""
    entry_ibs_low: float = 0.0
    entry_ibs_high: float = 0.2
    exit_ibs_low: float = 0.8
    exit_ibs_high: float = 1.0
    pivot_gate: bool = True
    pivot_strength: int = 5
    """Bars on each side that a pivot must exceed."""
    gates: tuple[FeatureGate, ...] = ()
    """Optional gates, each a feature and what it may be."""
    entry_windows: tuple[str, ...] = ("00:00-15:00", "17:00-24:00")
    """New York time of the bar's start, end exclusive."""
    warmup_bars: int = 60
    """Completed decision bars a root needs before it may enter."""
    stop_pct: Decimal = Decimal("1")
    target_pct: Decimal = Decimal("1")
    stop_atr: Decimal | None = None
    target_atr: Decimal | None = None
    """In place of the percentage: this many times ATR14 of the decision bars at the entry's decision."""
    sizing: Literal["fixed", "risk"] = "fixed"
    """`fixed`: the contract map's `size`. `risk`: as many contracts as lose `risk_usd` at the stop."""
    risk_usd: Decimal | None = None
    max_size: int | None = None
    """The most contracts that `sizing: risk` asks for; both are written or it does not start."""
    bracket: bool = False
    """Let stop and target rest at the broker too, measured from the decision's close."""
    protective_stop: Decimal = Decimal(0)
    """Without a bracket: a stop that rests at the broker, this many times `stop_pct` away; 0 is none."""
    exit_after_bars: int = 8
    """Bar stop: at the close of this many decision bars after the fill bar."""
    auto_close: str = "16:00"
    """New York time; the deadline is this or `auto_close_before_end_s` before the close, the earlier."""
    auto_close_before_end_s: int = 900
    no_entry_before_auto_close_s: int = 3600
    cooldown_bars: int = 0
    cooldown_after_stop_bars: int = 0
    entry_order: Literal["market", "limit"] = "market"
    cancel_after_s: int = 60
    """A limit entry that has not filled by then is cancelled."""
    roots: tuple[tuple[str, StrategySettings], ...] = ()
    """Roots with parameters of their own, complete; every other root has these."""

    def of(self, root: str) -> StrategySettings:
        """The parameters of one root."""
        return next((settings for name, settings in self.roots if name == root), self)

    def without_veto(self) -> StrategySettings:
        """The same with the veto off, of every root."""
        roots = tuple((name, attrs.evolve(settings, veto=False)) for name, settings in self.roots)
        return attrs.evolve(self, veto=False, roots=roots)

    @property
    def uses_atr(self) -> bool:
        """An entry needs the Average True Range."""
        return self.stop_atr is not None or self.target_atr is not None
