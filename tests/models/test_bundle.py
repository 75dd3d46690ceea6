"""Bundles: written, loaded, refused with a reason, and never unpickled before their digest is checked."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import joblib
import numpy as np
import pytest
import yaml
from sklearn.ensemble import RandomForestClassifier

from domain.errors import OperatorError, OurError
from models import (
    BundleDescription,
    BundleRefused,
    FlatForest,
    ForestRefused,
    ModelBundle,
    load_model_bundle,
    strategy_kwargs_from_bundle,
    write_bundle,
)
from models.manifest import entries_of

FEATURES = ("ibs_pct", "volz_pct", "6a_hourly_return")
RNG = np.random.default_rng(1)
X = RNG.normal(size=(200, 3))
Y = (X[:, 0] + RNG.normal(size=200) > 0).astype(int)
DESCRIPTION = BundleDescription(
    root="ES",
    signal_product="ES",
    market="simulated",
    feature_set="v2",
    features=FEATURES,
    threshold=0.55,
    params={"n_estimators": 7, "max_depth": None, "max_samples": np.float64(0.66), "class_weight": "balanced"},
    training_start="2023-01-01T00:00:00Z",
    training_end="2024-01-01T00:00:00Z",
    data_digest="ab" * 32,
    label="net P&L > 0 after 2 × 1.25 USD",
    metrics={"hold_out": {"trades": np.int64(31), "profit_factor": None, "sharpe": -0.1}},
    folds=({"fold": 1, "trades": 12}, {"fold": 2, "trades": 9}),
    command="python -m actors.main train --demo",
    seed=42,
)
POPULATIONS = {"volz": [0.5, -1.0, 0.25], "ibs": X[:, 1]}


def fitted(seed: int = 0, n_jobs: int = 1) -> RandomForestClassifier:
    return RandomForestClassifier(7, random_state=seed, n_jobs=n_jobs).fit(X, Y)


def write(models_dir: Path, estimator: Any = None, **changes: Any) -> ModelBundle:
    description = attrs.evolve(DESCRIPTION, **changes)
    return write_bundle(description, estimator or fitted(), POPULATIONS, check_rows=X, models_dir=models_dir)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models_dir = tmp_path_factory.mktemp("models")
    write(models_dir)
    return models_dir


@pytest.fixture
def models_dir(original: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    shutil.copytree(original / "ES", tmp_path / "ES")
    return tmp_path


def refusal(models_dir: Path, root: str = "ES", **options: Any) -> BundleRefused:
    with pytest.raises(BundleRefused) as caught:
        load_model_bundle(root, models_dir, **options)
    return caught.value


def rewrite_manifest(models_dir: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = models_dir / "ES" / "manifest.yml"
    fields = yaml.safe_load(path.read_bytes())
    change(fields)
    path.write_text(yaml.safe_dump(fields, sort_keys=False))


def plant(models_dir: Path, name: str, raw: bytes) -> None:
    """Replace a file and its digest in the manifest: another bundle, consistent in itself."""
    (models_dir / "ES" / name).write_bytes(raw)
    rewrite_manifest(models_dir, lambda fields: fields["files"].update({name: hashlib.sha256(raw).hexdigest()}))


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


# -------------------------------------------------------- written and loaded


def test_a_loaded_bundle_scores_the_estimators_bits_with_its_explanation(original: Path) -> None:
    bundle = load_model_bundle("ES", original, signal_product="ES")
    expected = fitted().predict_proba(X)[:, 1]
    for row, probability in zip(X[:50], expected, strict=False):
        score = bundle.score(tuple(row))
        assert score.probability == probability == bundle.probability(row)
        assert abs(score.bias + sum(score.contributions) - probability) <= 1e-12
        flip = bundle.nearest_flip(tuple(row))
        assert flip is None or flip.feature in FEATURES
    assert any(bundle.nearest_flip(tuple(row)) for row in X[:5])


def test_what_was_described_comes_back(original: Path) -> None:
    bundle = load_model_bundle("ES", original)
    expected = attrs.evolve(
        DESCRIPTION,
        params={**DESCRIPTION.params, "max_samples": 0.66},
        metrics={"hold_out": {"trades": 31, "profit_factor": None, "sharpe": -0.1}},
    )
    assert bundle.manifest.description == expected
    assert (bundle.root, bundle.features, bundle.threshold) == ("ES", FEATURES, 0.55)
    assert {name: list(values) for name, values in bundle.populations.items()} == {
        "ibs": sorted(X[:, 1]),
        "volz": [-1.0, 0.25, 0.5],
    }
    with pytest.raises(ValueError, match="read-only"):
        bundle.populations["ibs"][0] = 0.0


def test_the_digest_is_the_manifests_and_the_manifest_names_every_file(original: Path) -> None:
    directory = original / "ES"
    bundle = load_model_bundle("ES", original)
    raw = (directory / "manifest.yml").read_bytes()
    assert bundle.digest == hashlib.sha256(raw).hexdigest()
    fields = yaml.safe_load(raw)
    names = {path.name for path in directory.iterdir()} - {"manifest.yml"}
    assert names == set(fields["files"]) == {"forest.npz", "model.joblib", "populations.npz"}
    for name in names:
        assert fields["files"][name] == hashlib.sha256((directory / name).read_bytes()).hexdigest()
    assert fields["libraries"]["scikit-learn"]
    first = ["format_version", "root", "signal_product", "market", "side", "feature_set", "features", "threshold"]
    assert list(fields)[:8] == first


def test_the_same_training_writes_the_same_bytes(original: Path, tmp_path: Path) -> None:
    write(tmp_path)
    for path in sorted((original / "ES").iterdir()):
        assert (tmp_path / "ES" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_bundle_replaces_the_one_before(models_dir: Path) -> None:
    before = load_model_bundle("ES", models_dir)
    after = write(models_dir, fitted(1), threshold=0.6)
    assert (after.threshold, after.digest == before.digest) == (0.6, False)
    assert not list((models_dir / "ES").glob("*.tmp"))


def test_a_bundle_without_percentile_features_has_no_populations(tmp_path: Path) -> None:
    description = attrs.evolve(DESCRIPTION, features=("price_usd", "es_hourly_return", "6a_hourly_return"))
    assert write_bundle(description, fitted(), {}, check_rows=X, models_dir=tmp_path).populations == {}


def test_the_strategys_parameters_are_exactly_three(original: Path) -> None:
    bundle = load_model_bundle("ES", original)
    assert strategy_kwargs_from_bundle(bundle) == {"ml_model": bundle, "ml_features": FEATURES, "ml_threshold": 0.55}


def test_loading_and_scoring_need_no_scikit_learn(original: Path) -> None:
    code = (
        "import sys; from models import load_model_bundle;"
        f"load_model_bundle('ES', {str(original)!r}).score((0.0, 0.0, 0.0));"
        "sys.exit('sklearn' in sys.modules or 'joblib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_estimator_comes_back_with_one_job(tmp_path: Path) -> None:
    estimator = fitted(n_jobs=2)
    loaded = write(tmp_path, estimator).load_estimator()
    assert (loaded.n_jobs, estimator.n_jobs) == (1, 2)
    assert np.array_equal(loaded.predict_proba(X), fitted().predict_proba(X))


def test_an_estimator_stored_with_more_jobs_comes_back_with_one(models_dir: Path, tmp_path: Path) -> None:
    joblib.dump(fitted(n_jobs=2), tmp_path / "two")
    plant(models_dir, "model.joblib", (tmp_path / "two").read_bytes())
    assert load_model_bundle("ES", models_dir).load_estimator().n_jobs == 1


# ----------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["manifest.yml", "forest.npz", "model.joblib", "populations.npz"])
def test_a_missing_file_is_refused(models_dir: Path, name: str) -> None:
    (models_dir / "ES" / name).unlink()
    refused = refusal(models_dir)
    assert (refused.reason, refused.where) == ("missing", str(models_dir / "ES" / name))
    assert isinstance(refused, OperatorError)
    assert "veto" in refused.fix


@pytest.mark.parametrize("root", ["NQ", "", "..", "ES/../ES", "es"])
def test_a_root_without_a_bundle_is_refused(models_dir: Path, root: str) -> None:
    assert refusal(models_dir, root).reason == "missing"


@pytest.mark.parametrize("name", ["forest.npz", "model.joblib", "populations.npz"])
@pytest.mark.parametrize("at", [0, 100, -1])
def test_one_changed_byte_is_refused_before_anything_is_read(models_dir: Path, name: str, at: int) -> None:
    path = models_dir / "ES" / name
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    refused = refusal(models_dir)
    assert (refused.reason, refused.where) == ("changed", str(path))


def test_a_planted_pickle_never_runs(models_dir: Path, tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", models_dir / "ES" / "model.joblib"
    loaded_before = load_model_bundle("ES", models_dir)
    joblib.dump(Bomb(marker), path)
    assert refusal(models_dir).reason == "changed"
    with pytest.raises(BundleRefused) as caught:
        loaded_before.load_estimator()
    assert caught.value.reason == "changed"
    assert not marker.exists()
    joblib.load(path)
    assert marker.exists()  # it would have


def test_a_planted_pickle_with_its_digest_is_another_bundle_that_scores_without_running_it(
    models_dir: Path, tmp_path: Path
) -> None:
    marker, planted = tmp_path / "it ran", tmp_path / "planted"
    joblib.dump(Bomb(marker), planted)
    before = load_model_bundle("ES", models_dir)
    plant(models_dir, "model.joblib", planted.read_bytes())
    after = load_model_bundle("ES", models_dir)
    assert after.score((0.0, 0.0, 0.0)) == before.score((0.0, 0.0, 0.0))
    assert after.digest != before.digest
    assert not marker.exists()


MANIFESTS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("format_version", lambda m: m.update(format_version=2)),
    ("format_version", lambda m: m.update(format_version="1")),
    ("format_version", lambda m: m.update(format_version=True)),
    ("format_version", lambda m: m.update(format_version=99, something_new=1)),
    ("malformed", lambda m: m.pop("format_version")),
    ("feature_set_version", lambda m: m.update(feature_set="v9")),
    ("root_mismatch", lambda m: m.update(root="NQ")),
    ("duplicate_feature", lambda m: m.update(features=["ibs_pct", "volz_pct", "ibs_pct"])),
    ("threshold_unparsable", lambda m: m.update(threshold="0,55")),
    ("threshold_unparsable", lambda m: m.update(threshold="0.55")),
    ("threshold_unparsable", lambda m: m.update(threshold=None)),
    ("threshold_unparsable", lambda m: m.update(threshold=True)),
    ("threshold_unparsable", lambda m: m.update(threshold=[0.55])),
    ("threshold_out_of_range", lambda m: m.update(threshold=0)),
    ("threshold_out_of_range", lambda m: m.update(threshold=1.0)),
    ("threshold_out_of_range", lambda m: m.update(threshold=55)),
    ("threshold_out_of_range", lambda m: m.update(threshold=-0.1)),
    ("threshold_out_of_range", lambda m: m.update(threshold=float("nan"))),
    ("malformed", lambda m: m.update(treshold=0.5)),
    ("malformed", lambda m: m.pop("threshold")),
    ("malformed", lambda m: m.update(features="ibs_pct")),
    ("malformed", lambda m: m.update(features=[])),
    ("malformed", lambda m: m.update(features=["a", "b", 3])),
    ("malformed", lambda m: m.update(features=["ibs_pct", "volz_pct"])),  # the forest has three
    ("malformed", lambda m: m.update(root=6)),
    ("malformed", lambda m: m.update(market="paper")),
    ("malformed", lambda m: m.update(side="sideways")),
    ("malformed", lambda m: m.pop("market")),
    ("malformed", lambda m: m.update(label="")),
    ("malformed", lambda m: m.update(seed="1")),
    ("malformed", lambda m: m.update(params=[])),
    ("malformed", lambda m: m["metrics"].update(on=dt.date(2024, 1, 1))),
    ("malformed", lambda m: m["metrics"].update({dt.date(2024, 1, 1): 1})),
    ("malformed", lambda m: m["params"].update(ratio=float("nan"))),
    ("malformed", lambda m: m.update(training_window={"start": "2023-01-01"})),
    ("malformed", lambda m: m["training_window"].update(end="2024-01-01T00:00:00")),  # of which zone
    ("malformed", lambda m: m["training_window"].update(end="the end")),
    ("malformed", lambda m: m["populations"].update(kind="trades")),
    ("malformed", lambda m: m["files"].pop("model.joblib")),
    ("malformed", lambda m: m["files"].update({"../x": "0"})),
    ("malformed", lambda m: m["libraries"].pop("scikit-learn")),
    ("malformed", lambda m: m["libraries"].update({"scikit-learn": 1.9})),
    ("malformed", lambda m: m["libraries"].update({"optuna": 5.0})),
    ("malformed", lambda m: m["libraries"].update({"hyperopt": "5.0"})),
    ("changed", lambda m: m["files"].update({"forest.npz": "0" * 64})),
]


@pytest.mark.parametrize(("reason", "change"), MANIFESTS)
def test_a_wrong_manifest_is_refused_with_its_reason(
    models_dir: Path, reason: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    rewrite_manifest(models_dir, lambda fields: None)
    load_model_bundle("ES", models_dir)  # rewriting alone is harmless
    rewrite_manifest(models_dir, change)
    refused = refusal(models_dir)
    assert refused.reason == reason
    assert refused.what
    assert refused.fix


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"threshold: 0.55", b"threshold: 0.55\nthreshold: 0.01"),
        (b"threshold: 0.55", b"threshold: [0.55"),
        (b"seed: 42", b"seed: !!python/object/apply:os.getcwd []"),
        (b"seed: 42", b"seed: 2024-13-45"),
        (b"format_version: 1", b"- 1"),
        (b"format_version: 1", b"\xff\xfe"),
        pytest.param(b"seed: 42", b"seed: " + b"[" * 500 + b"]" * 500, id="nested"),
        # The C loader would overflow the stack and end the process.
        pytest.param(b"seed: 42", b"seed: " + b"[" * 60_000 + b"]" * 60_000, id="nested until a crash"),
        pytest.param(
            b"metrics:\n",
            b"metrics:\n  deep: " + b"[" * 5000 + b"]" * 5000 + b"\n",
            id="nested where nobody looks",
        ),
    ],
)
def test_a_manifest_that_is_not_plain_yaml_is_refused(models_dir: Path, old: bytes, new: bytes) -> None:
    path = models_dir / "ES" / "manifest.yml"
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    assert refusal(models_dir).reason == "malformed"


def test_an_unparsable_threshold_is_not_read_as_something_else(models_dir: Path) -> None:
    path = models_dir / "ES" / "manifest.yml"
    for text in (b"0,55", b"55%", b"off", b"5e-1"):  # YAML 1.1: a text, a text, false, a text
        path.write_bytes(path.read_bytes().replace(b"threshold: 0.55", b"threshold: " + text))
        assert refusal(models_dir).reason == "threshold_unparsable"
        path.write_bytes(path.read_bytes().replace(b"threshold: " + text, b"threshold: 0.55"))


def test_an_unknown_feature_is_refused_by_name(models_dir: Path) -> None:
    rewrite_manifest(models_dir, lambda fields: fields.update(features=["ibs_pct", "volume", "vix_daily_return"]))
    refused = refusal(models_dir)
    assert refused.reason == "unknown_feature"
    assert "'volume'" in refused.what
    assert "VIX" in refused.what
    assert "ibs_pct' " not in refused.what


def test_a_percentile_without_its_population_is_refused(models_dir: Path) -> None:
    rewrite_manifest(models_dir, lambda fields: fields.update(features=["ibs_pct", "dvolz_pct", "6a_hourly_return"]))
    refused = refusal(models_dir)
    assert refused.reason == "population_missing"
    assert "dvolz" in refused.what


def test_a_manifest_that_does_not_say_a_side_is_of_long_entries(models_dir: Path) -> None:
    rewrite_manifest(models_dir, lambda fields: fields.pop("side"))
    assert load_model_bundle("ES", models_dir).side == "long"
    rewrite_manifest(models_dir, lambda fields: fields.update(side="short"))
    assert load_model_bundle("ES", models_dir).side == "short"


@pytest.mark.parametrize("entered", ["long", "short", "both"])
@pytest.mark.parametrize("trained", ["long", "short", "both"])
def test_a_model_is_taken_for_the_side_that_it_was_trained_on_and_for_no_other(
    models_dir: Path, trained: str, entered: Any
) -> None:
    """A model of both is none of one, nor the reverse."""
    rewrite_manifest(models_dir, lambda fields: fields.update(side=trained))
    if trained == entered:
        assert load_model_bundle("ES", models_dir, side=entered).side == trained
        return
    refused = refusal(models_dir, side=entered)
    assert refused.reason == "side"
    assert f"trained on {entries_of(trained)}, and ES enters {entries_of(entered)}" in refused.what  # type: ignore[arg-type]
    assert "train the root" in (refused.fix or "")


def test_a_bundle_of_another_product_is_refused(original: Path) -> None:
    assert refusal(original, signal_product="MES").reason == "product_mismatch"


def test_the_predecessors_feature_set_loads(models_dir: Path) -> None:
    rewrite_manifest(models_dir, lambda fields: fields.update(feature_set="legacy-1"))
    assert load_model_bundle("ES", models_dir).features == FEATURES


@pytest.mark.parametrize("name", ["forest.npz", "populations.npz"])
@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 no archive", b"\x80\x04N."])
def test_a_file_of_the_right_digest_and_no_content_is_refused(models_dir: Path, name: str, raw: bytes) -> None:
    plant(models_dir, name, raw)
    assert refusal(models_dir).reason == "malformed"


@pytest.mark.parametrize("values", [[2.0, 1.0], [np.nan], [[1.0]], [1], np.array([None])])
def test_a_population_that_cannot_rank_is_refused(models_dir: Path, tmp_path: Path, values: Any) -> None:
    np.savez(tmp_path / "bad.npz", ibs=np.asarray(values))
    plant(models_dir, "populations.npz", (tmp_path / "bad.npz").read_bytes())
    assert refusal(models_dir).reason == "malformed"


# ------------------------------------------------------------ the estimator


def estimator_refusal(models_dir: Path) -> str:
    bundle = load_model_bundle("ES", models_dir)
    assert bundle.score((0.0, 0.0, 0.0)).probability >= 0  # what is wrong with the estimator is not the score's
    with pytest.raises(BundleRefused) as caught:
        bundle.load_estimator()
    return caught.value.reason


def test_an_estimator_of_another_scikit_learn_is_refused(models_dir: Path) -> None:
    installed = load_model_bundle("ES", models_dir).manifest.libraries["scikit-learn"]
    major, minor = installed.split(".")[:2]
    rewrite_manifest(models_dir, lambda fields: fields["libraries"].update({"scikit-learn": f"{major}.{minor}.99"}))
    assert load_model_bundle("ES", models_dir).load_estimator().n_jobs == 1
    rewrite_manifest(models_dir, lambda f: f["libraries"].update({"scikit-learn": f"{major}.{int(minor) + 1}.0"}))
    assert estimator_refusal(models_dir) == "library_version"


def test_a_version_is_compared_before_anything_is_unpickled(models_dir: Path, tmp_path: Path) -> None:
    marker, planted = tmp_path / "it ran", tmp_path / "planted"
    joblib.dump(Bomb(marker), planted)
    plant(models_dir, "model.joblib", planted.read_bytes())
    rewrite_manifest(models_dir, lambda fields: fields["libraries"].update({"scikit-learn": "0.22.1"}))
    assert estimator_refusal(models_dir) == "library_version"
    assert not marker.exists()


@pytest.mark.parametrize("raw", [b"", b"garbage", b"\x80\x04cno_such_module\nThing\n."])
def test_an_estimator_that_cannot_be_read_is_refused(models_dir: Path, raw: bytes) -> None:
    plant(models_dir, "model.joblib", raw)
    assert estimator_refusal(models_dir) == "estimator_unreadable"


@pytest.mark.parametrize("other", [fitted(9), {"not": "an estimator"}])
def test_an_estimator_that_is_not_the_scored_forest_is_refused(models_dir: Path, tmp_path: Path, other: Any) -> None:
    joblib.dump(other, tmp_path / "other")
    plant(models_dir, "model.joblib", (tmp_path / "other").read_bytes())
    assert estimator_refusal(models_dir) == "estimator_differs"


def test_a_removed_estimator_is_refused(models_dir: Path) -> None:
    bundle = load_model_bundle("ES", models_dir)
    (models_dir / "ES" / "model.joblib").unlink()
    with pytest.raises(BundleRefused) as caught:
        bundle.load_estimator()
    assert caught.value.reason == "missing"


# ------------------------------------------------------ refused when written


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"threshold": 1.5}, BundleRefused),
        ({"features": ("a", "b", "b")}, BundleRefused),
        ({"features": ("a", "b")}, BundleRefused),
        ({"root": "../ES"}, BundleRefused),
        ({"label": ""}, BundleRefused),
        ({"metrics": {"sharpe": float("nan")}}, OurError),
        ({"metrics": {"when": object()}}, OurError),
    ],
)
def test_what_could_not_be_loaded_is_not_written(
    models_dir: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    before = {path.name: path.read_bytes() for path in (models_dir / "ES").iterdir()}
    with pytest.raises(error):
        write(models_dir, fitted(1), **changes)
    assert {path.name: path.read_bytes() for path in (models_dir / "ES").iterdir()} == before


def test_a_forest_of_three_classes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ForestRefused):
        write(tmp_path, RandomForestClassifier(3, n_jobs=1).fit(X, np.arange(200) % 3))
    assert not list(tmp_path.iterdir())


def test_columns_of_other_names_are_not_written(tmp_path: Path) -> None:
    import pandas as pd

    estimator = RandomForestClassifier(3, n_jobs=1, random_state=0)
    estimator.fit(pd.DataFrame(X, columns=list(reversed(FEATURES))), Y)
    with pytest.raises(OurError, match="columns"):
        write(tmp_path, estimator)
    estimator.fit(pd.DataFrame(X, columns=list(FEATURES)), Y)
    assert write(tmp_path, estimator).load_estimator().feature_names_in_.tolist() == list(FEATURES)


def test_a_walk_of_other_bits_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = FlatForest.of(fitted())
    other = attrs.evolve(flat, value=np.clip(np.nextafter(flat.value, 1), 0, 1))
    monkeypatch.setattr(FlatForest, "of", lambda estimator: other)
    with pytest.raises(OurError, match="bits"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_a_bundle_that_is_refused(models_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "new", fitted(1))
    shutil.copy(tmp_path / "new/ES/forest.npz", models_dir / "ES")  # the manifest comes last
    assert refusal(models_dir).reason == "changed"
