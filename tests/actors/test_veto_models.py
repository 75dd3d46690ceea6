"""Bundles of a session: refused before it opens, kept beside its journal, found again for its replay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog

from actors.veto_models import KEPT, find_models, keep, load_models, load_shadows, record_of
from domain.errors import OperatorError
from domain.ibs import StrategySettings
from domain.veto import ModelRecord
from models import ModelBundle, load_model_bundle
from tests.builders import traded_root
from tests.bundles import features_of, small_bundle

ROOT = "ZZ"
"""No root of ours: the program's own bundles, the last resort of a search, cannot hold it."""


def bundle_of(models_dir: Path, seed: int = 0) -> ModelBundle:
    return small_bundle(models_dir, ROOT, features=features_of("ES"), seed=seed)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models_dir = tmp_path_factory.mktemp("bundles")
    bundle_of(models_dir)
    return models_dir


@pytest.fixture
def models_dir(original: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    shutil.copytree(original, tmp_path / "bundles")
    return tmp_path / "bundles"


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal"


# -------------------------------------------------------------------- loading


@pytest.mark.parametrize(("common", "own", "is_scored"), [("1h", "1m", False), ("1m", "1h", True)])
def test_a_shadow_is_of_a_root_that_decides_on_hours_whatever_the_others_do(
    common: Any, own: Any, is_scored: bool, models_dir: Path
) -> None:
    settings = StrategySettings(veto=False, decision_timeframe=own)
    strategy = attrs.evolve(settings, decision_timeframe=common, roots=((ROOT, settings),))
    assert set(load_shadows([traded_root(ROOT)], models_dir, strategy).bundles) == ({ROOT} if is_scored else set())


def test_each_traded_root_has_its_model_or_the_reason_why_not(models_dir: Path) -> None:
    roots = [traded_root("NQ"), traded_root(ROOT), traded_root("TLT", is_reference=True)]
    with structlog.testing.capture_logs() as logs:
        loaded = load_models(roots, models_dir, for_money=False)
    bundle = load_model_bundle(ROOT, models_dir)
    assert {root: found.digest for root, found in loaded.bundles.items()} == {ROOT: bundle.digest}
    assert loaded.records == (
        ModelRecord(root="NQ", refusal="missing"),
        ModelRecord(
            root=ROOT, digest=bundle.digest, feature_set="v2", features=features_of("ES"), threshold=bundle.threshold
        ),
    )
    assert [(entry["log_level"], entry["root"]) for entry in logs] == [("warning", "NQ")]


def test_a_changed_file_is_refused(models_dir: Path) -> None:
    (models_dir / ROOT / "forest.npz").write_bytes(b"something else")
    assert load_models([traded_root(ROOT)], models_dir, for_money=False).records == (
        ModelRecord(root=ROOT, refusal="changed"),
    )


def test_a_model_of_another_product_is_refused(models_dir: Path) -> None:
    loaded = load_models([traded_root(ROOT, data_product="MZZ")], models_dir, for_money=False)
    assert loaded.records == (ModelRecord(root=ROOT, refusal="product_mismatch"),)
    assert loaded.bundles == {}


@pytest.mark.parametrize(("market", "refusal"), [("simulated", "simulated_market"), ("recorded", "")])
def test_for_money_only_a_model_of_a_recorded_market_is_taken(tmp_path: Path, market: str, refusal: str) -> None:
    bundle = small_bundle(tmp_path, ROOT, features=features_of("ES"), market=market)
    assert load_models([traded_root(ROOT)], tmp_path, for_money=False).records == (record_of(bundle),)
    loaded = load_models([traded_root(ROOT)], tmp_path, for_money=True)
    assert loaded.records == (ModelRecord(root=ROOT, refusal=refusal) if refusal else record_of(bundle),)
    assert set(loaded.bundles) == (set() if refusal else {ROOT})


@pytest.mark.parametrize(("side", "refusal"), [("long", ""), ("short", "side"), ("both", "side")])
def test_a_model_of_another_side_than_the_roots_is_refused_when_it_is_loaded(
    models_dir: Path, side: Any, refusal: str
) -> None:
    strategy = StrategySettings(roots=((ROOT, StrategySettings(side=side)),))
    (record,) = load_models([traded_root(ROOT)], models_dir, for_money=False, strategy=strategy).records
    assert record.refusal == refusal
    assert bool(record.digest) is not bool(refusal)
    assert not refusal or "trained on long entries, and ZZ enters" in record.detail


def test_other_parameters_than_in_training_are_said_at_the_start_and_on_record_and_refuse_nothing(
    models_dir: Path,
) -> None:
    changed = StrategySettings(roots=((ROOT, StrategySettings(exit_after_bars=4)),))
    with structlog.testing.capture_logs() as logs:
        loaded = load_models([traded_root(ROOT)], models_dir, for_money=False, strategy=changed)
    words = ("exit_after_bars 8 in training, 4 now",)
    assert set(loaded.bundles) == {ROOT}
    assert [record.otherwise for record in loaded.records] == [words]
    assert [(entry["log_level"], entry["root"], entry["otherwise"]) for entry in logs] == [("warning", ROOT, words)]
    with structlog.testing.capture_logs() as logs:
        same = load_models([traded_root(ROOT)], models_dir, for_money=False, strategy=StrategySettings())
    assert not logs
    assert same.records == loaded.records, "it opens no segment: the configuration's digest does"


# -------------------------------------------------------------------- keeping


def kept_at(journal_dir: Path, bundle: ModelBundle) -> Path:
    return journal_dir / KEPT / bundle.digest / ROOT


def test_what_is_kept_is_the_bundle_once(models_dir: Path, journal_dir: Path) -> None:
    bundle = load_model_bundle(ROOT, models_dir)
    keep([bundle], journal_dir)
    place = kept_at(journal_dir, bundle)
    assert load_model_bundle(ROOT, place.parent).digest == bundle.digest
    before = {path.name: path.stat() for path in place.iterdir()}
    assert set(before) == {"manifest.yml", "forest.npz", "populations.npz", "model.joblib"}
    keep([bundle], journal_dir)
    assert {path.name: path.stat().st_ino for path in place.iterdir()} == {n: s.st_ino for n, s in before.items()}
    newer = bundle_of(models_dir, seed=1)
    keep([newer], journal_dir)
    assert {path.name for path in (journal_dir / KEPT).iterdir()} == {bundle.digest, newer.digest}


def test_a_copy_that_was_cut_off_is_made_again(models_dir: Path, journal_dir: Path) -> None:
    bundle = load_model_bundle(ROOT, models_dir)
    unfinished = kept_at(journal_dir, bundle).with_name(f"{ROOT}.tmp")
    unfinished.mkdir(parents=True)
    (unfinished / "manifest.yml").write_bytes(b"half of i")
    (unfinished / "stray").touch()
    keep([bundle], journal_dir)
    place = kept_at(journal_dir, bundle)
    assert [path.name for path in place.parent.iterdir()] == [ROOT]
    assert load_model_bundle(ROOT, place.parent).digest == bundle.digest
    assert not (place / "stray").exists()


def block(journal_dir: Path, bundle: ModelBundle) -> str:
    (journal_dir / KEPT).touch()
    return "Not a directory"


def spoil(journal_dir: Path, bundle: ModelBundle) -> str:
    """A file of the bundle is gone since it was loaded."""
    (bundle.directory / "forest.npz").unlink()
    return "No such file"


@pytest.mark.parametrize("hinder", [block, spoil])
def test_a_model_that_cannot_be_kept_stops_the_start(
    models_dir: Path, journal_dir: Path, hinder: Callable[[Path, ModelBundle], str]
) -> None:
    bundle = load_model_bundle(ROOT, models_dir)
    reason = hinder(journal_dir, bundle)
    with pytest.raises(OperatorError, match=f"cannot be kept here: .*{reason}"):
        keep([bundle], journal_dir)
    assert not kept_at(journal_dir, bundle).exists()


# -------------------------------------------------------------------- finding


def test_a_session_finds_the_model_it_was_decided_with(models_dir: Path, journal_dir: Path) -> None:
    first = load_model_bundle(ROOT, models_dir)
    keep([first], journal_dir)
    second = bundle_of(models_dir, seed=1)
    assert second.digest != first.digest
    found = find_models([record_of(first)], journal_dir)
    assert (found[ROOT].digest, found[ROOT].directory) == (first.digest, kept_at(journal_dir, first))


def test_a_directory_that_is_named_wins_over_what_was_kept(models_dir: Path, journal_dir: Path, tmp_path: Path) -> None:
    first = load_model_bundle(ROOT, models_dir)
    keep([first], journal_dir)
    second = bundle_of(models_dir, seed=1)
    assert find_models([record_of(first)], journal_dir, models_dir)[ROOT].digest == second.digest
    assert find_models([record_of(first)], journal_dir, tmp_path / "empty") == {}
    assert find_models([record_of(first)], journal_dir, models_dir, {ROOT: "NOPE"}) == {}
    assert find_models([record_of(first)], journal_dir, None, {ROOT: "NOPE"})[ROOT].digest == first.digest, (
        "the recorded"
    )


def test_a_model_that_is_not_to_be_had_is_left_out(models_dir: Path, journal_dir: Path) -> None:
    bundle = load_model_bundle(ROOT, models_dir)
    assert find_models([record_of(bundle)], journal_dir) == {}
    keep([bundle], journal_dir)
    records = [ModelRecord(root=ROOT, refusal="changed"), attrs.evolve(record_of(bundle), digest="00" * 32)]
    assert find_models(records, journal_dir) == {}
    (kept_at(journal_dir, bundle) / "forest.npz").unlink()
    assert find_models([record_of(bundle)], journal_dir) == {}


def test_a_kept_bundle_of_another_digest_is_not_found_and_replaced(models_dir: Path, journal_dir: Path) -> None:
    """Whole in itself, but not what its directory says."""
    bundle = load_model_bundle(ROOT, models_dir)
    place = kept_at(journal_dir, bundle)
    impostor = bundle_of(place.parent, seed=1)
    assert load_model_bundle(ROOT, place.parent).digest == impostor.digest != bundle.digest
    assert find_models([record_of(bundle)], journal_dir) == {}
    keep([bundle], journal_dir)
    assert load_model_bundle(ROOT, place.parent).digest == bundle.digest
    assert find_models([record_of(bundle)], journal_dir)[ROOT].digest == bundle.digest


def test_a_bundle_that_has_changed_since_it_was_loaded_stops_the_start(models_dir: Path, journal_dir: Path) -> None:
    bundle = load_model_bundle(ROOT, models_dir)
    bundle_of(models_dir, seed=1)
    with pytest.raises(OperatorError, match="it has changed since it was loaded"):
        keep([bundle], journal_dir)
