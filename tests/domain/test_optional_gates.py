"""Optional gates: a band or a choice, and what is missing fails by its name."""

from __future__ import annotations

import pytest

from domain.feature_book import FeatureVector
from domain.gates import Gate
from domain.ibs import FeatureGate, StrategySettings
from domain.optional_gates import feature_gates, gate_inputs
from domain.units import Nanos


def judged(gate: FeatureGate, value: float | None) -> Gate:
    vector = FeatureVector(
        root="ES",
        ts=Nanos(0),
        version="v2",
        names=(gate.name,),
        values=(value,),
        missing=(gate.name,) if value is None else (),
        reasons=("ES 1h: 3 of 5 bars",) if value is None else (),
        carried=(),
    )
    (verdict,) = feature_gates([gate], vector)
    return verdict


@pytest.mark.parametrize(
    ("low", "high", "value", "passes"),
    [
        (1.0, 2.0, 1.0, True),
        (1.0, 2.0, 2.0, True),
        (1.0, 2.0, 0.999, False),
        (1.0, 2.0, 2.001, False),
        (None, -1.5, -1.5, True),
        (None, -1.5, -1.4, False),
        (3.0, None, 9e9, True),
        (3.0, None, 2.0, False),
        (1.0, 2.0, float("nan"), False),
        (None, 2.0, float("nan"), False),
    ],
)
def test_a_band_holds_its_ends(low: float | None, high: float | None, value: float, *, passes: bool) -> None:
    verdict = judged(FeatureGate(name="rsi_len_14", low=low, high=high), value)
    assert (verdict.name, verdict.is_passed, verdict.value) == ("rsi_len_14", passes, repr(value))
    assert verdict.reason == ("" if passes else "rsi_len_14_outside_band")


def test_a_choice_holds_its_values_and_shows_words() -> None:
    gate = FeatureGate(name="day_of_week", allowed=(0.0, 1.0))
    assert judged(gate, 1.0) == Gate(name="day_of_week", is_passed=True, value="tue")
    assert judged(gate, 4.0) == Gate(name="day_of_week", is_passed=False, value="fri", reason="day_of_week_not_allowed")


def test_what_is_missing_fails_and_says_why() -> None:
    gate = FeatureGate(name="rsi_len_14", low=0.0, high=100.0)
    expected = Gate(name="rsi_len_14", is_passed=False, value="ES 1h: 3 of 5 bars", reason="rsi_len_14_missing")
    assert judged(gate, None) == expected
    (verdict,) = feature_gates([gate], "ES 1h: no bars")
    assert (verdict.is_passed, verdict.value, verdict.reason) == (False, "ES 1h: no bars", "rsi_len_14_missing")


def test_gates_need_the_bars_of_their_features_and_none_need_none() -> None:
    assert gate_inputs(StrategySettings()) == ()
    gates = (FeatureGate(name="rsi_len_14"), FeatureGate(name="nq_hourly_return"))
    needs = {(need.root, need.timeframe): need.bars for need in gate_inputs(StrategySettings(gates=gates))}
    assert needs == {(None, "1h"): 300, ("NQ", "1h"): 2}
