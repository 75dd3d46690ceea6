"""What a model was trained under against what it is asked under: told, and nothing refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from domain.ibs import FeatureGate, StrategySettings
from models.manifest import BundleDescription
from models.parameters import COMPARED, NOT_ON_RECORD, otherwise_than_trained
from tests.bundles import small_bundle

GATE = FeatureGate(name="rsi_len_14", low=40.0, high=60.0)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> BundleDescription:
    place: Path = tmp_path_factory.mktemp("bundles")
    return small_bundle(place, market="recorded", metrics={"strategy": {}}).manifest.description


def trained_with(description: BundleDescription, **strategy: str) -> BundleDescription:
    return attrs.evolve(description, metrics={"strategy": strategy})


@pytest.mark.parametrize(
    ("recorded", "now", "told"),
    [
        ({}, {}, ()),
        ({"stop_pct": "0.8"}, {"stop_pct": Decimal("0.80")}, ()),
        ({"stop_pct": "0.8"}, {}, ("stop_pct 0.8 in training, 1 now",)),
        ({}, {"stop_atr": Decimal("1.5")}, ("stop_atr None in training, 1.5 now",)),
        ({"stop_atr": "1.5"}, {"stop_atr": Decimal("1.50")}, ()),
        ({}, {"exit_ibs_low": 0.7, "pivot_gate": False}, ("pivot_gate True", "exit_ibs_low 0.8")),
        ({"gates": str((GATE,))}, {"gates": (GATE,)}, ()),
        ({}, {"gates": (GATE,)}, ("gates other than in training",)),
        # Neither what is sent, nor how much, nor what rests at the broker is of the label.
        (
            {"name": "a", "sizing": "risk", "max_size": "3"},
            {"bracket": True, "protective_stop": Decimal(2), "warmup_bars": 5, "veto": False},
            (),
        ),
    ],
)
def test_what_is_otherwise_is_told_once_with_both_values(
    description: BundleDescription, recorded: dict[str, str], now: dict[str, Any], told: tuple[str, ...]
) -> None:
    found = otherwise_than_trained(trained_with(description, **recorded), StrategySettings(**now))
    assert len(found) == len(told)
    for words, beginning in zip(found, told, strict=True):
        assert words.startswith(beginning)


def test_every_compared_parameter_is_one_and_is_noticed(description: BundleDescription) -> None:
    defaults = {field.name: field.default for field in attrs.fields(StrategySettings)}
    for name in COMPARED:
        recorded = trained_with(description, **{name: "something else"})
        (words,) = otherwise_than_trained(recorded, StrategySettings())
        assert words.startswith(f"{name} ")
        assert name in defaults


def test_a_bundle_that_does_not_say_is_told_where_it_is_no_demo(description: BundleDescription) -> None:
    silent = attrs.evolve(description, metrics={})
    assert otherwise_than_trained(silent, StrategySettings()) == (NOT_ON_RECORD,)
    simulated = attrs.evolve(silent, market="simulated")
    assert otherwise_than_trained(simulated, StrategySettings()) == ()
    (words,) = otherwise_than_trained(simulated, StrategySettings(stop_pct=Decimal(2)))
    assert words == "stop_pct 1 in training, 2 now"
