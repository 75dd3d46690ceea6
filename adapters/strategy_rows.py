"""The strategy's parameters as `config show` prints them: those of all roots, then what single roots have alone."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from domain.ibs import FeatureGate, StrategySettings
from domain.optional_gates import WORDS


def strategy_rows(settings: StrategySettings, sources: Mapping[str, str]) -> dict[str, object]:
    """Every value by its dotted key. Of a root: what it writes itself, or has otherwise than the others."""
    rows = _rows("strategy", settings)
    for root, own in settings.roots:
        path = f"strategy.roots.{root}"
        of_all, of_root = _rows(path, settings), _rows(path, own)
        for key in [*of_root, *(key for key in of_all if key not in of_root)]:
            if source_of(key, sources) != "default" or of_root.get(key) != of_all.get(key):
                rows[key] = of_root.get(key)
    return rows


def source_of(key: str, sources: Mapping[str, str]) -> str:
    """Where a file states `key`, or the first of what is below it; `default` where none does."""
    below = (at for name, at in sources.items() if name.startswith((f"{key}.", f"{key}[")))
    return sources.get(key) or next(below, "default")


def _rows(path: str, settings: StrategySettings) -> dict[str, object]:
    rows: dict[str, object] = {}
    for field in attrs.fields(StrategySettings):
        value = getattr(settings, field.name)
        if field.name == "gates":
            rows |= {f"{path}.gates.{gate.name}": _band(gate) for gate in settings.gates}
        elif field.name != "roots":
            rows[f"{path}.{field.name}"] = value
    return rows


def _band(gate: FeatureGate) -> str:
    if gate.allowed:
        words = {number: word for word, number in WORDS.get(gate.name, {}).items()}
        return "one of " + ", ".join(words.get(value, f"{value:g}") for value in gate.allowed)
    if gate.high is None:
        return f"from {gate.low:g}"
    return f"to {gate.high:g}" if gate.low is None else f"{gate.low:g} to {gate.high:g}"
