"""What a model was trained under against what it is asked under: told, and nothing refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from domain.ibs import FeatureGate, StrategySettings
from models.manifest import BundleDescription
from models.parameters import COMPARED, NOT_ON_RECORD, otherwise_than_trained, recorded_parameters
from tests.bundles import small_bundle

GATE = FeatureGate(name="rsi_len_14", low=40.0, high=60.0)
STEPS = FeatureGate(name="weekday", allowed=(3.0, 1.0))
OPEN = FeatureGate(name="ibs", high=0.2)


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
        ({}, {"gates": (GATE,)}, ("gates none in training, rsi_len_14:40.0:60.0: now",)),
        ({}, {"gates": (GATE, STEPS, OPEN)}, ("gates other than in training",)),
        # What has no effect on either side is no difference; on one side it is.
        ({"stop_atr": "1.5", "stop_pct": "0.8"}, {"stop_atr": Decimal("1.5")}, ()),
        ({"target_atr": "2"}, {"target_atr": Decimal(2), "target_pct": Decimal(3)}, ()),
        ({"stop_atr": "1.5", "stop_pct": "0.8"}, {}, ("stop_pct 0.8", "stop_atr 1.5")),
        ({}, {"target_atr": Decimal(2), "target_pct": Decimal(3)}, ("target_pct 1", "target_atr None")),
        ({}, {"cancel_after_s": 30}, ()),
        ({"entry_order": "limit"}, {"cancel_after_s": 30}, ("entry_order limit", "cancel_after_s 60")),
        ({"entry_order": "limit"}, {"entry_order": "limit", "cancel_after_s": 30}, ("cancel_after_s 60",)),
        ({"pivot_gate": "False"}, {"pivot_gate": False, "pivot_strength": 7}, ()),
        ({"pivot_gate": "False"}, {"pivot_strength": 7}, ("pivot_gate False", "pivot_strength 5")),
        # Manifests of before have tuples as Python prints them.
        ({"gates": str((GATE, STEPS, OPEN))}, {"gates": (OPEN, GATE, STEPS)}, ()),
        ({"gates": str((GATE, STEPS))}, {"gates": (GATE,)}, ("gates rsi_len_14:40.0:60.0:, weekday:::1.0|3.0 in",)),
        ({"entry_windows": "('17:00-24:00', '00:00-15:00')"}, {}, ()),
        ({"entry_windows": "('09:00-15:00',)"}, {}, ("entry_windows 09:00-15:00 in training, 00:00-15:00, 17:",)),
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


def test_what_a_manifest_says_is_what_it_was_trained_with_in_any_order(description: BundleDescription) -> None:
    windows = ("18:00-23:00", "01:00-04:00")
    settings = StrategySettings(gates=(GATE, STEPS, OPEN), entry_windows=windows, stop_pct=Decimal("0.8"))
    said = recorded_parameters(settings)
    assert said == {
        "gates": "ibs::0.2:, rsi_len_14:40.0:60.0:, weekday:::1.0|3.0",
        "entry_windows": "01:00-04:00, 18:00-23:00",
        "stop_pct": "0.8",
    }
    trained = trained_with(description, **said)
    turned = attrs.evolve(settings, gates=settings.gates[::-1], entry_windows=windows[::-1])
    assert otherwise_than_trained(trained, settings) == otherwise_than_trained(trained, turned) == ()
    for gates in ((GATE, STEPS), (GATE, attrs.evolve(STEPS, allowed=(1.0,)), OPEN), (GATE, STEPS, GATE)):
        (words,) = otherwise_than_trained(trained, attrs.evolve(settings, gates=gates))
        assert words == "gates other than in training"


def test_every_compared_parameter_is_one_and_is_noticed(description: BundleDescription) -> None:
    defaults = {field.name: field.default for field in attrs.fields(StrategySettings)}
    for name in COMPARED:
        # A limit's time is no parameter of market orders, which are the default.
        settings = StrategySettings(entry_order="limit" if name == "cancel_after_s" else "market")
        recorded = trained_with(description, **{"entry_order": settings.entry_order, name: "something else"})
        (words,) = otherwise_than_trained(recorded, settings)
        assert words.startswith(f"{name} ")
        assert name in defaults


def test_a_bundle_that_does_not_say_is_told_where_it_is_no_demo(description: BundleDescription) -> None:
    silent = attrs.evolve(description, metrics={})
    assert otherwise_than_trained(silent, StrategySettings()) == (NOT_ON_RECORD,)
    simulated = attrs.evolve(silent, market="simulated")
    assert otherwise_than_trained(simulated, StrategySettings()) == ()
    (words,) = otherwise_than_trained(simulated, StrategySettings(stop_pct=Decimal(2)))
    assert words == "stop_pct 1 in training, 2 now"
