"""Optional gates: features of the registry, each held against what the configuration allows.

All are off unless they are configured. A gate makes its feature computed, with the
definitions of this program's own feature set; a value that is missing fails its gate
and says why. What is a gate here needs no model, and what a model reads is no gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from domain.feature_book import FeatureVector
from domain.features import FEATURE_SET_VERSION, Requirement, required_inputs
from domain.gates import Gate
from domain.ibs import FeatureGate, StrategySettings

WORDS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "day_of_week": dict(zip(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), range(7), strict=True)),
        "month": dict(
            zip(
                ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
                range(1, 13),
                strict=True,
            )
        ),
    }
)
"""Values of features that come in steps, as people write them."""


def feature_gates(gates: Sequence[FeatureGate], vector: FeatureVector | str) -> tuple[Gate, ...]:
    """The verdict of each of `gates`; `vector` has a value for each in their order, or says why there is none."""
    if isinstance(vector, str):
        return tuple(_missing(gate, vector) for gate in gates)
    reasons = dict(zip(vector.missing, vector.reasons, strict=True))
    return tuple(
        _missing(gate, reasons[gate.name]) if value is None else _judged(gate, value)
        for gate, value in zip(gates, vector.values, strict=True)
    )


def _missing(gate: FeatureGate, why: str) -> Gate:
    return Gate(name=gate.name, is_passed=False, value=why, reason=f"{gate.name}_missing")


def _judged(gate: FeatureGate, value: float) -> Gate:
    if gate.allowed:
        is_passed = value in gate.allowed
    else:
        is_passed = (gate.low is None or gate.low <= value) and (gate.high is None or value <= gate.high)
    return Gate(
        name=gate.name, is_passed=is_passed, value=_shown(gate.name, value), reason="" if is_passed else _refused(gate)
    )


def _refused(gate: FeatureGate) -> str:
    return f"{gate.name}_not_allowed" if gate.allowed else f"{gate.name}_outside_band"


def _shown(name: str, value: float) -> str:
    return next((word for word, number in WORDS.get(name, {}).items() if number == value), repr(value))


def gate_names(settings: StrategySettings) -> tuple[str, ...]:
    """The features that are computed for gates, in the order in which they are asked."""
    return tuple(gate.name for gate in settings.gates)


def gate_inputs(settings: StrategySettings, *, pair: str | None = None) -> tuple[Requirement, ...]:
    """The completed bars that a root's gates need; none without gates. `pair` is the root that its pair gates read."""
    return required_inputs(gate_names(settings), FEATURE_SET_VERSION, pair=pair) if settings.gates else ()
