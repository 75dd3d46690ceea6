"""The strategy section: optional gates, sides, sizing, and roots that have something of their own."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from adapters.config import LoadedConfig, config_digest, describe, load_config
from domain.errors import OperatorError
from domain.ibs import FeatureGate, StrategySettings

ENVIRON = {"DATABENTO_API_KEY": "db-0123456789"}


def load(tmp_path: Path, strategy: str, *, mode: str = "paper") -> LoadedConfig:
    path = tmp_path / "live.yml"
    path.write_text(f"account: test\nmode: {mode}\nstrategy:\n{strategy}")
    return load_config(path, [], ENVIRON)


def settings_of(tmp_path: Path, strategy: str) -> StrategySettings:
    return load(tmp_path, strategy).config.strategy


# ------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[40, 60.5]", {"low": 40.0, "high": 60.5}),
        ("{min: 40}", {"low": 40.0}),
        ("{max: -1.5}", {"high": -1.5}),
        ("{min: 1, max: 2}", {"low": 1.0, "high": 2.0}),
        ("{in: [1, 3]}", {"allowed": (1.0, 3.0)}),
    ],
)
def test_a_gate_is_a_band_or_a_choice(tmp_path: Path, written: str, expected: dict[str, object]) -> None:
    gates = settings_of(tmp_path, f"  gates: {{rsi_len_14: {written}}}\n").gates
    assert gates == (FeatureGate(name="rsi_len_14", **expected),)


def test_a_gate_that_is_only_switched_on_has_the_usual_band_and_one_that_is_off_is_none(tmp_path: Path) -> None:
    text = "  gates: {nq_hourly_return: default, gc_daily_z_score: true, es_hourly_return: false}\n"
    assert settings_of(tmp_path, text).gates == (
        FeatureGate(name="nq_hourly_return", low=-1.0, high=1.0),
        FeatureGate(name="gc_daily_z_score", low=-2.0, high=2.0),
    )


@pytest.mark.parametrize(
    ("strategy", "place", "words"),
    [
        ("  gates: {rsi_len14: [1, 2]}\n", "4:11", "did you mean 'rsi_len_14'"),
        ("  gates: {vix_hourly_return: [1, 2]}\n", "4:11", "needs VIX"),
        ("  gates: {rsi_len_14: [60, 40]}\n", "4:23", "is empty"),
        ("  gates: {rsi_len_14: {min: 60, max: 40}}\n", "4:23", "is empty"),
        ("  gates: {rsi_len_14: [1]}\n", "4:23", "two numbers"),
        ("  gates: {rsi_len_14: 3}\n", "4:23", "does not say"),
        ("  gates: {rsi_len_14: {}}\n", "4:23", "does not say"),
        ("  gates: {rsi_len_14: {in: []}}\n", "4:23", "does not say"),
        ("  gates: {day_of_week: []}\n", "4:24", "does not say"),
        ("  gates: {rsi_len_14: {low: 1}}\n", "4:24", "unknown key"),
        ("  gates: {rsi_len_14: [a, 2]}\n", "4:24", "expected a number"),
        ("  gates: {price_usd: default}\n", "4:22", "no usual band"),
        ("  veto: false\n  decision_timeframe: 1m\n  gates: {rsi_len_14: [1, 2]}\n", "5:23", "of hour bars"),
        ("  roots: {EZ: {side: long}}\n", "4:11", "unknown key 'strategy.roots.EZ'"),
        ("  roots: {TLT: {side: long}}\n", "4:11", "unknown key"),
        ("  roots: {ES: {stop_pc: 2}}\n", "4:16", "did you mean 'stop_pct'"),
        ("  roots: {ES: {roots: {}}}\n", "4:16", "unknown key"),
        ("  roots: {ES: {entry_ibs_low: 0.5}}\n", "4:31", "band 0.5 to 0.2 is empty"),
        ("  side: both\n  entry_ibs_high: 0.5\n", "5:19", "both sides"),
        ("  stop_pct: 1\n  stop_atr: 1\n", "5:13", "beside stop_pct"),
        ("  sizing: risk\n  max_size: 2\n", "4:11", "needs `risk_usd`"),
        ("  sizing: risk\n  risk_usd: 100\n", "4:11", "needs `max_size`"),
        ("  risk_usd: 100\n", "4:13", "is not used"),
        ("  sizing: risk\n  risk_usd: 100\n  max_size: 11\n", "", "one order of ES is 11 contracts"),
    ],
)
def test_what_is_wrong_is_refused_where_it_stands(tmp_path: Path, strategy: str, place: str, words: str) -> None:
    with pytest.raises(OperatorError) as caught:
        load(tmp_path, strategy)
    assert caught.value.exit_code == 78
    assert caught.value.where.endswith(f"live.yml:{place}" if place else "")
    assert words in f"{caught.value.what} {caught.value.fix}"


# ------------------------------------------------------------------- roots

OWN = """\
  veto: false
  stop_atr: 1.5
  cooldown_bars: 2
  gates: {rsi_len_14: [40, 60], nq_hourly_return: default}
  roots:
    ES: {stop_pct: 2, sizing: risk, risk_usd: 500, max_size: 3, gates: {rsi_len_14: false}}
    CL: {side: short, gates: {rsi_len_14: [0, 40]}}
"""


def test_a_root_inherits_what_it_does_not_write(tmp_path: Path) -> None:
    strategy = settings_of(tmp_path, OWN)
    common = attrs.evolve(strategy, roots=())
    assert strategy.of("GC") is strategy
    nq, rsi = FeatureGate(name="nq_hourly_return", low=-1.0, high=1.0), FeatureGate(name="rsi_len_14", low=0.0, high=40)
    assert strategy.of("ES") == attrs.evolve(
        common,
        stop_pct=Decimal(2),
        stop_atr=None,
        sizing="risk",
        risk_usd=Decimal(500),
        max_size=3,
        gates=(nq,),
    )
    assert strategy.of("CL") == attrs.evolve(common, side="short", gates=(rsi, nq))


def test_a_roots_fixed_size_takes_the_place_of_risk_sizing(tmp_path: Path) -> None:
    text = "  sizing: risk\n  risk_usd: 500\n  max_size: 3\n  roots: {ES: {sizing: fixed}, NQ: {max_size: 2}}\n"
    strategy = settings_of(tmp_path, text)
    assert (strategy.of("ES").sizing, strategy.of("ES").max_size) == ("fixed", None)
    assert (strategy.of("NQ").sizing, strategy.of("NQ").max_size, strategy.of("NQ").risk_usd) == ("risk", 2, 500)


def test_each_root_shows_what_it_has_of_its_own_and_where_that_stands(tmp_path: Path) -> None:
    rows = {key: (value, source) for key, value, source in describe(load(tmp_path, OWN))}
    own = {key: value for key, value in rows.items() if key.startswith("strategy.roots")}
    at = f"{tmp_path}/live.yml"
    assert own == {
        "strategy.roots.ES.stop_pct": ("2", f"{at}:9:20"),
        "strategy.roots.ES.stop_atr": ("(none)", "default"),
        "strategy.roots.ES.sizing": ("risk", f"{at}:9:31"),
        "strategy.roots.ES.risk_usd": ("500", f"{at}:9:47"),
        "strategy.roots.ES.max_size": ("3", f"{at}:9:62"),
        "strategy.roots.ES.gates.rsi_len_14": ("(none)", f"{at}:9:85"),
        "strategy.roots.CL.side": ("short", f"{at}:10:16"),
        "strategy.roots.CL.gates.rsi_len_14": ("0 to 40", f"{at}:10:43"),
    }
    assert rows["strategy.gates.rsi_len_14"] == ("40 to 60", f"{at}:7:23")


def test_what_a_root_has_of_its_own_changes_the_digest(tmp_path: Path) -> None:
    digests = {
        config_digest(load(tmp_path, f"  veto: true\n{text}").config)
        for text in ("", "  roots: {ES: {stop_pct: 2}}\n", "  roots: {NQ: {stop_pct: 2}}\n", "  roots: {}\n")
    }
    assert len(digests) == 3
