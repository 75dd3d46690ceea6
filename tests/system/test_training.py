"""`train --demo`: the live machines on simulated sessions, and bundles that load."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from programs import assert_refused, run

from actors.wiring import parse_time
from actors.wiring.in_process import in_process_system
from actors.wiring.training_demo import FEATURES
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from domain.units import MINUTE, Nanos, float_to_price
from models.bundle import BUNDLES, load_model_bundle
from models.candidates import PassEverything, rows_of

pytestmark = pytest.mark.system

TRADED = [root for root in load_contract_map(CONTRACT_MAP_FILE).roots if not root.is_reference]


def test_a_row_holds_what_the_veto_was_asked_and_what_became_of_the_entry() -> None:
    model = PassEverything(root="ES", features=("price_usd", "ibs_pct"))
    system = in_process_system({"ES": "MESM4"}, models={"ES": model}, warmup_bars=0, pivot_gate=False)
    start = parse_time("2024-05-01T13:00:00Z")
    for minute, price in enumerate([5100, *[5099] * 58, 5090, *[5091] * 5, 5150]):
        system.trade("MESM4", Nanos(start + minute * MINUTE + 1), float_to_price(price))
    system.trade("MESM4", Nanos(start + 67 * MINUTE), float_to_price(5151))
    (row,) = rows_of(system.envelopes())
    entry, exit_ = system.events("FillAssumed")
    assert (row.root, row.session, row.decided_ns) == ("ES", dt.date(2024, 5, 1), start + 60 * MINUTE)
    assert row.values == (5090.0, 1.0)
    assert entry.ts > row.decided_ns
    assert row.exit_ns == exit_.ts
    assert row.pnl == exit_.pnl > 0


@pytest.mark.parametrize("root", TRADED, ids=lambda root: root.root)
def test_the_demos_bundles_load_and_say_how_they_were_made(root: object) -> None:
    bundle = load_model_bundle(root.root, signal_product=root.data_product)  # type: ignore[attr-defined]
    said = bundle.manifest.description
    assert bundle.features == FEATURES
    assert said.command == "python -m actors.main train --demo --seed 1 --sessions 120"
    assert said.market == "simulated"
    hold_out = said.metrics["hold_out"]
    assert hold_out["without_veto"]["trades"] >= hold_out["with_veto"]["trades"] > 0
    better = hold_out["with_veto"]["net_pnl"] > hold_out["without_veto"]["net_pnl"]
    assert said.metrics["is_better_than_no_veto_on_hold_out"] is better
    estimator = bundle.load_estimator()
    row = [0.5] * len(FEATURES)
    assert bundle.probability(row) == estimator.predict_proba([row])[0, 1]


def test_without_the_demo_it_says_what_is_missing() -> None:
    assert_refused(run("train"), 2, "--demo")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(run("train", "--demo", "--models-dir", tmp_path / "file"), 2, str(tmp_path / "file"))
    assert run("train", "--demo", "--jobs", "0").code == 2
    assert run("replay", "any.db", "--models-dir", tmp_path / "nowhere").code == 2


@pytest.mark.soak
def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        ended = run("train", "--demo", "--sessions", "12", "--models-dir", tmp_path / name, limit_s=600)
        assert ended.code == 0, ended
    for root in TRADED:
        for file in ("manifest.yml", "forest.npz", "populations.npz"):
            one, other = ((tmp_path / name / root.root / file).read_bytes() for name in ("one", "other"))
            assert one == other, (root.root, file)
    assert not (BUNDLES / "one").exists()
