"""The strategy's parameters that a model has learned under, held against those that it is asked under.

A trader may change an exit on purpose, so a difference is told and refuses nothing. The side is not among them:
a model of another side is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import attrs

from domain.ibs import StrategySettings
from models.manifest import BundleDescription

COMPARED = (
    # which decision bars are entries
    *("entry_ibs_low", "entry_ibs_high", "pivot_gate", "pivot_strength", "gates", "entry_windows"),
    *("no_entry_before_auto_close_s", "cooldown_bars", "cooldown_after_stop_bars"),
    # what comes of them
    *("stop_pct", "target_pct", "stop_atr", "target_atr", "exit_ibs_low", "exit_ibs_high", "exit_after_bars"),
    *("auto_close", "auto_close_before_end_s", "entry_order", "cancel_after_s"),
)
"""Not: sizes, which change no label's sign, and what rests at the broker, which no training knows of."""

NOT_ON_RECORD = "the parameters that it was trained with are not on record"
_SHOWN = 40
"""Characters of a value that are told; longer ones are only said to differ."""


def otherwise_than_trained(description: BundleDescription, settings: StrategySettings) -> tuple[str, ...]:
    """Each parameter in words that `settings`, the root's, have otherwise; empty where all are the same.

    What is trained on a simulated market is trained with the program's own parameters where it does not say.
    """
    recorded: Any = description.metrics.get("strategy")
    if not isinstance(recorded, Mapping):
        if description.market == "recorded":
            return (NOT_ON_RECORD,)
        recorded = {}
    defaults = {field.name: field.default for field in attrs.fields(StrategySettings)}
    told = []
    for name in COMPARED:
        # Parameters that had their default are left out of the manifest.
        then, now = str(recorded.get(name, defaults[name])), str(getattr(settings, name))
        if not _is_same(then, now):
            is_short = max(len(then), len(now)) <= _SHOWN
            told.append(f"{name} {then} in training, {now} now" if is_short else f"{name} other than in training")
    return tuple(told)


def _is_same(then: str, now: str) -> bool:
    """1 and 1.0 are."""
    try:
        return then == now or Decimal(then) == Decimal(now)
    except InvalidOperation:
        return False
