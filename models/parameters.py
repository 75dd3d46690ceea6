"""The strategy's parameters that a model has learned under, held against those that it is asked under.

A trader may change an exit on purpose, so a difference is told and refuses nothing. The side is not among them:
a model of another side is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import attrs

from domain.ibs import FeatureGate, StrategySettings
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
_ASKED_WHERE = {
    "pivot_strength": ("pivot_gate", "True"),
    "stop_pct": ("stop_atr", "None"),
    "target_pct": ("target_atr", "None"),
    "cancel_after_s": ("entry_order", "limit"),
}
"""A parameter without effect unless another one is so, in training or now."""
_GATE = re.compile(r"FeatureGate\(name='(\w+)', low=([^,]+), high=([^,]+), allowed=\(([^)]*)\)\)")
"""As attrs prints one."""


def otherwise_than_trained(description: BundleDescription, settings: StrategySettings) -> tuple[str, ...]:
    """Each parameter in words that `settings`, the root's, have otherwise; empty where all are the same.

    What is trained on a simulated market is trained with the program's own parameters where it does not say.
    """
    recorded: Any = description.metrics.get("strategy")
    if not isinstance(recorded, Mapping):
        if description.market == "recorded":
            return (NOT_ON_RECORD,)
        recorded = {}
    then = _words_of(StrategySettings()) | {name: _read(str(text)) for name, text in recorded.items()}
    now = _words_of(settings)
    told = []
    for name in COMPARED:
        asked = _ASKED_WHERE.get(name)
        if asked is not None and asked[1] not in (then[asked[0]], now[asked[0]]):
            continue
        if not _is_same(then[name], now[name]):
            is_short = max(len(then[name]), len(now[name])) <= _SHOWN
            words = f"{then[name]} in training, {now[name]} now" if is_short else "other than in training"
            told.append(f"{name} {words}")
    return tuple(told)


def recorded_parameters(settings: StrategySettings) -> dict[str, str]:
    """What a manifest says of `settings`, one root's: in words, without what has its default."""
    values = ((field, getattr(settings, field.name)) for field in attrs.fields(StrategySettings))
    return {field.name: _words(value) for field, value in values if value != field.default}


def _words_of(settings: StrategySettings) -> dict[str, str]:
    return {field.name: _words(getattr(settings, field.name)) for field in attrs.fields(StrategySettings)}


def _words(value: object) -> str:
    """In which order gates and windows stand changes nothing."""
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(sorted(_gate(one) if isinstance(one, FeatureGate) else str(one) for one in value)) or "none"


def _gate(gate: FeatureGate) -> str:
    """`name:low:high:allowed`."""
    low, high = ("" if end is None else str(end) for end in (gate.low, gate.high))
    return f"{gate.name}:{low}:{high}:{'|'.join(sorted(map(str, gate.allowed)))}"


def _read(text: str) -> str:
    """The words of a manifest; an older one has windows and gates as Python prints a tuple of them."""
    if not text.startswith("("):
        return text
    gates = tuple(
        f"{name}:{low}:{high}:{'|'.join(sorted(re.findall(r'[^, ]+', allowed)))}".replace("None", "")
        for name, low, high, allowed in _GATE.findall(text)
    )
    return _words(gates or tuple(re.findall(r"'(.*?)'", text)))


def _is_same(then: str, now: str) -> bool:
    """1 and 1.0 are."""
    try:
        return then == now or Decimal(then) == Decimal(now)
    except InvalidOperation:
        return False
