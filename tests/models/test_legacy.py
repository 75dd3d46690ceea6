"""The predecessor's descriptions and pickles: what becomes a bundle, and what is refused before it is run."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from domain.errors import OperatorError
from domain.features import unavailable
from models import BundleRefused, Manifest, load_model_bundle
from models.legacy import differing_params, read_legacy, read_pickle, write_legacy
from models.manifest import UNKNOWN

DESCRIPTIONS = Path(__file__).parents[3] / "shared" / "reference" / "bundles"
FEATURES = ("ibs_pct", "es_hourly_return", "nq_hourly_return", "daily_rsi_len_14")
DESCRIBED: dict[str, Any] = {
    "Symbol": "ES",
    "Sharpe": 0.94,
    "Prod_Threshold": 0.55,
    "Params": {"n_estimators": 7, "max_depth": 3, "n_jobs": -1, "random_state": 42},
    "Features": list(FEATURES),
}


@pytest.fixture(scope="module")
def rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(200, len(FEATURES)))


@pytest.fixture(scope="module")
def forest(rows: np.ndarray[Any, Any]) -> RandomForestClassifier:
    wins = (rows[:, 0] + rows[:, 1] > 0).astype(int)
    return RandomForestClassifier(7, max_depth=3, random_state=42).fit(rows, wins)


def described(tmp_path: Path, name: str = "ES_best.json", **changes: Any) -> Path:
    path = tmp_path / name
    fields = {key: value for key, value in (DESCRIBED | changes).items() if value is not ...}
    path.write_text(json.dumps(fields))
    return path


def pickled(tmp_path: Path, model: object) -> tuple[Path, str]:
    path = tmp_path / "ES_rf_model.pkl"
    joblib.dump(model, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(of: Any, *arguments: Any) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        of(*arguments)
    return caught.value


# ------------------------------------------------------------ descriptions


def test_a_description_says_what_it_says_and_leaves_the_rest_unknown(tmp_path: Path) -> None:
    found = read_legacy(described(tmp_path, Deflated_Sharpe=None))
    assert (found.root, found.feature_set, found.features, found.threshold) == ("ES", "legacy-1", FEATURES, 0.55)
    assert found.metrics == {"claimed": {"Sharpe": 0.94, "Deflated_Sharpe": None}}
    assert (found.params["max_depth"], found.seed, found.market) == (3, 42, "recorded")
    unknown = (found.training_start, found.training_end, found.data_digest, found.signal_product)
    assert unknown == (UNKNOWN,) * 4
    assert found.trained_until_ns == 0


def test_not_a_number_is_none(tmp_path: Path) -> None:
    path = described(tmp_path)
    text = path.read_text()
    for number in ("NaN", "-Infinity", "1e999"):
        path.write_text(text.replace("0.94", number))
        assert read_legacy(path).metrics == {"claimed": {"Sharpe": None}}


@pytest.mark.parametrize("root", ["es", "../ES", "/tmp/ES", "E\0", "ES\n", ""])
def test_a_symbol_that_is_no_root_never_becomes_a_path(tmp_path: Path, root: str) -> None:
    error = refusal(read_legacy, described(tmp_path, "any.json", Symbol=root))
    assert "do not name one root" in error.what


def test_the_file_names_the_root_where_the_description_does_not(tmp_path: Path) -> None:
    assert read_legacy(described(tmp_path, "6E_best.json", Symbol=...)).root == "6E"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"Symbol": "NQ"}, "do not name one root"),
        ({"Symbol": 5}, "do not name one root"),
        ({"Features": ...}, "Features, Prod_Threshold or Params is missing"),
        ({"Prod_Threshold": ...}, "Features, Prod_Threshold or Params is missing"),
        ({"Params": []}, "Features, Prod_Threshold or Params is missing"),
        ({"Features": []}, "features"),
        ({"Features": "ibs_pct"}, "features"),
        ({"Features": ["ibs_pct", "ibs_pct"]}, "twice ibs_pct"),
        ({"Features": ["ibs_pct", 5]}, "features"),
        ({"Prod_Threshold": "0.5"}, "is not a number"),
        ({"Prod_Threshold": None}, "is not a number"),
        ({"Prod_Threshold": True}, "is not a number"),
        ({"Prod_Threshold": 0}, "threshold 0"),
        ({"Prod_Threshold": 55}, "threshold 55"),
        ({"Params": {"random_state": "x"}}, "seed"),
    ],
)
def test_a_description_with_a_mistake_is_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    error = refusal(read_legacy, described(tmp_path, **changes))
    assert what in error.what, error
    assert error.where == str(tmp_path / "ES_best.json")


def nested(depth: int) -> str:
    return json.dumps(DESCRIBED | {"Deep": 0}).replace('"Deep": 0', f'"Deep": {"[" * depth}{"]" * depth}')


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is no JSON"),
        ("[]", "no description"),
        ("", "is no JSON"),
        *((nested(depth), "nested") for depth in (30, 400, 100_000)),
    ],
    ids=["cut", "list", "empty", "deep", "deeper", "deepest"],
)
def test_what_is_no_description_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "ES_best.json"
    path.write_text(text)
    assert what in refusal(read_legacy, path).what
    assert "cannot be read" in refusal(read_legacy, tmp_path / "absent.json").what


def test_a_git_lfs_pointer_is_named_with_the_way_to_the_file(tmp_path: Path) -> None:
    digest = "ab" * 32
    pointer = tmp_path / "ES_rf_model.pkl"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 51234567\n")
    for error in (refusal(read_legacy, pointer), refusal(read_pickle, pointer, digest, 4)):
        assert "git-LFS pointer for the file with sha256 " + digest in error.what
        assert "git lfs pull --include 'ES_rf_model.pkl'" in error.fix
        assert error.exit_code == 2


@pytest.mark.real_data
@pytest.mark.skipif(not DESCRIPTIONS.is_dir(), reason="needs the predecessor's descriptions in ../shared/reference")
@pytest.mark.parametrize("root", ["6A", "6B", "6E", "CL", "ES", "GC", "HG", "NG", "NQ", "RTY", "SI", "YM"])
def test_every_description_of_the_predecessor_becomes_a_bundle_that_is_refused_for_what_it_lacks(
    tmp_path: Path, root: str
) -> None:
    found = read_legacy(DESCRIPTIONS / f"{root}_best.json")
    assert (found.root, len(found.features)) == (root, 30)
    write_legacy(found, None, tmp_path)
    path = tmp_path / root / "manifest.yml"
    assert Manifest.of_yaml(path.read_bytes(), path).description == found
    with pytest.raises(BundleRefused) as caught:
        load_model_bundle(root, tmp_path)
    lacking = [name for name in found.features if unavailable(name) is not None]
    assert caught.value.reason == ("unknown_feature" if lacking else "missing")
    assert all(repr(name) in caught.value.what for name in lacking)
    of_vix = {name for name in found.features if name.startswith("vix_")} | {"value_pct", "prev_day_pctxvalue"}
    assert of_vix & set(found.features) <= set(lacking)
    # In which the predecessor's reference says so: 6E, NG, NQ and YM do not read VIX at all.
    assert bool(of_vix & set(found.features)) is (root not in ("6E", "NG", "NQ", "YM"))


# ----------------------------------------------------------------- pickles


def test_a_pinned_pickle_becomes_the_forest_that_is_scored(
    tmp_path: Path, forest: RandomForestClassifier, rows: np.ndarray[Any, Any]
) -> None:
    found = read_legacy(described(tmp_path))
    write_legacy(found, read_pickle(*pickled(tmp_path, forest), len(FEATURES)), tmp_path / "out")
    bundle = load_model_bundle("ES", tmp_path / "out")
    assert [bundle.probability(row) for row in rows] == forest.predict_proba(rows)[:, 1].tolist()
    assert {name: len(values) for name, values in bundle.populations.items()} == {"ibs": 0}
    assert bundle.load_estimator().n_estimators == 7


class Bomb:
    """Says when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def test_nothing_of_a_pickle_is_run_before_its_digest_matches(tmp_path: Path) -> None:
    path, digest = pickled(tmp_path, Bomb(tmp_path / "exploded"))
    for wrong in ("00" * 32, digest[:-1], digest[:-1] + "g", ""):
        assert refusal(read_pickle, path, wrong, 4).exit_code == 2
    assert not (tmp_path / "exploded").exists()
    assert "holds a NoneType" in refusal(read_pickle, path, digest, 4).what
    assert (tmp_path / "exploded").exists()  # the bomb would have gone off


def test_a_pickle_that_is_no_forest_of_these_features_is_refused(
    tmp_path: Path, forest: RandomForestClassifier, rows: np.ndarray[Any, Any]
) -> None:
    trees = ExtraTreesClassifier(2).fit(rows, rows[:, 0] > 0)
    for model, what in (
        ({"model": forest}, "holds a dict"),
        (trees, "holds a ExtraTreesClassifier"),
        (RandomForestClassifier(), "a forest of none features"),
        (RandomForestClassifier(2).fit(rows[:, :3], rows[:, 0] > 0), "a forest of 3 features, the description names 4"),
    ):
        assert what in refusal(read_pickle, *pickled(tmp_path, model), 4).what
    path = tmp_path / "half.pkl"
    path.write_bytes(pickle.dumps(forest)[:400])
    assert "cannot be read" in refusal(read_pickle, path, hashlib.sha256(path.read_bytes()).hexdigest(), 4).what


def test_a_pickle_of_another_scikit_learn_is_refused(tmp_path: Path, forest: RandomForestClassifier) -> None:
    state = pickle.loads(pickle.dumps(forest)).__dict__
    assert "_sklearn_version" not in state
    raw = pickle.dumps(forest)
    from sklearn import __version__

    other = "0" + __version__[1:]
    path = tmp_path / "old.pkl"
    path.write_bytes(raw.replace(__version__.encode(), other.encode()))
    error = refusal(read_pickle, path, hashlib.sha256(path.read_bytes()).hexdigest(), 4)
    assert error.what == f"scikit-learn {other} wrote it, this is {__version__}"


def test_a_forest_of_more_than_two_classes_or_other_columns_is_refused(
    tmp_path: Path, rows: np.ndarray[Any, Any]
) -> None:
    import pandas as pd

    found = read_legacy(described(tmp_path))
    three = RandomForestClassifier(2).fit(rows, np.arange(len(rows)) % 3)
    assert "cannot be scored" in refusal(write_legacy, found, three, tmp_path / "out").what
    named = RandomForestClassifier(2).fit(pd.DataFrame(rows, columns=list(FEATURES[::-1])), rows[:, 0] > 0)
    assert "in another order" in refusal(write_legacy, found, named, tmp_path / "out").what
    vix = read_legacy(described(tmp_path, Features=[*FEATURES[:3], "vix_daily_return"]))
    assert "vix_daily_return" in refusal(write_legacy, vix, three, tmp_path / "out").what


def test_parameters_that_are_not_the_forests_are_told(tmp_path: Path, forest: RandomForestClassifier) -> None:
    assert differing_params(read_legacy(described(tmp_path)), forest) == {}
    other = read_legacy(described(tmp_path, Params={"max_depth": 9, "n_jobs": 5, "unheard_of": 1}))
    assert differing_params(other, forest) == {"max_depth": (9, 3)}
