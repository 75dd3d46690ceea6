"""The flat forest against scikit-learn, bit for bit; contributions, flips and the file."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor

from domain.errors import OurError
from domain.veto import Flip, Verdict, unusable_features
from models import walk
from models.forest import FlatForest, ForestRefused, _walk

N_FEATURES = 8
NAMES = tuple(f"f{i}" for i in range(N_FEATURES))

KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    # parameters, missing values in training
    "depth 5": ({"max_depth": 5}, False),
    "depth 5, missing": ({"max_depth": 5}, True),
    "unbounded": ({}, False),
    "unbounded, missing": ({}, True),
    "weights": (
        {"max_depth": 5, "class_weight": "balanced_subsample", "max_samples": 0.66, "max_features": "log2"},
        True,
    ),
    "unbounded, weights": ({"class_weight": "balanced_subsample", "max_samples": 0.5, "min_samples_leaf": 5}, False),
    "no bootstrap": ({"max_depth": 7, "bootstrap": False, "max_features": 0.3, "class_weight": {0: 0.3, 1: 7.0}}, True),
    "stumps": ({"max_depth": 1}, False),
    "entropy": ({"criterion": "entropy", "max_leaf_nodes": 9}, True),
}


def training(*, missing: bool, seed: int = 5, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Features of unlike scales: normal, percentile-like, coarse, of a price's size, tiny."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, N_FEATURES))
    x[:, 1] = rng.uniform(size=n)
    x[:, 2] = rng.integers(0, 4, size=n)
    x[:, 3] = 4000 + rng.integers(0, 400, size=n) / 4
    x[:, 4] *= 1e-7
    y = (x[:, 0] + x[:, 1] + (x[:, 2] == 2) + rng.normal(size=n) > 1).astype(int)
    if missing:
        x[rng.uniform(size=x.shape) < 0.15] = np.nan
        x[y == 1, 5] = np.where(rng.uniform(size=(y == 1).sum()) < 0.8, np.nan, x[y == 1, 5])
    return x, y


@cache
def fitted(kind: str, n_estimators: int = 40) -> RandomForestClassifier:
    params, missing = KINDS[kind]
    x, y = training(missing=missing)
    return RandomForestClassifier(n_estimators, random_state=3, n_jobs=1, **params).fit(x, y)


@pytest.fixture(scope="module", params=KINDS)
def estimator(request: pytest.FixtureRequest) -> RandomForestClassifier:
    return fitted(request.param)


@pytest.fixture(scope="module")
def forest(estimator: RandomForestClassifier) -> FlatForest:
    return FlatForest.of(estimator)


@pytest.fixture(scope="module")
def rows(estimator: RandomForestClassifier) -> np.ndarray:
    return rows_of_every_kind(estimator)


def splits(estimator: RandomForestClassifier) -> list[tuple[int, float]]:
    """(feature, threshold) of every inner node."""
    found = []
    for tree in (each.tree_ for each in estimator.estimators_):
        inner = tree.children_left >= 0
        found += zip(tree.feature[inner].tolist(), tree.threshold[inner].tolist(), strict=True)
    return found


def rows_of_every_kind(estimator: RandomForestClassifier, seed: int = 11) -> np.ndarray:
    """Ordinary rows, missing values, and values on, just beside and within float32's rounding of a threshold."""
    rng = np.random.default_rng(seed)
    ordinary = training(missing=False, seed=seed, n=1000)[0]
    holed = training(missing=True, seed=seed + 1, n=1000)[0]
    near = np.repeat(ordinary, 2, axis=0)
    all_splits = [split for split in splits(estimator) if np.isfinite(split[1])]
    nudges: list[Callable[[float], float]] = [
        float,
        lambda t: float(np.float32(t)),
        lambda t: float(np.nextafter(np.float32(t), np.float32(np.inf))),
        lambda t: float(np.nextafter(np.float32(t), np.float32(-np.inf))),
        lambda t: float(np.nextafter(t, np.inf)),
        lambda t: float(np.nextafter(t, -np.inf)),
        lambda t: (float(np.float32(t)) + float(np.nextafter(np.float32(t), np.float32(np.inf)))) / 2,
    ]
    for row in near:
        for feature in range(N_FEATURES):
            if rng.uniform() < 0.7:
                mine = [t for f, t in all_splits if f == feature] or [0.0]
                row[feature] = nudges[rng.integers(len(nudges))](mine[rng.integers(len(mine))])
    near[::5][rng.uniform(size=near[::5].shape) < 0.2] = np.nan
    extreme = rng.choice([3.4e38, -3.4e38, 0.0, -0.0, 1e-45, -1e-300, np.nan, 1.0], size=(300, N_FEATURES))
    return np.concatenate([ordinary, holed, near, extreme, np.full((1, N_FEATURES), np.nan)])


def bits(values: np.ndarray) -> list[str]:
    return [float(value).hex() for value in values]


# ------------------------------------------------------------- bit equality


@pytest.fixture
def compiled_walk() -> ModuleType:
    if find_spec("numba") is None:
        pytest.skip("numba is not installed (the extra `fast`)")
    from models import compiled_walk

    return compiled_walk


def test_the_compiled_walk_gives_the_bits_of_the_other(
    forest: FlatForest, rows: np.ndarray, compiled_walk: ModuleType
) -> None:
    for row in rows:
        sides = forest._sides(row)
        total, credited = walk.credits(forest._nodes, sides)
        compiled_total, compiled_credited = compiled_walk.credits(forest._nodes, sides)
        assert (
            compiled_walk.leaf_sum(forest._nodes, sides)
            == compiled_total
            == total
            == walk.leaf_sum(forest._nodes, sides)
        )
        assert compiled_credited.tobytes() == credited.tobytes()


def test_a_forest_scores_with_the_compiled_walk_where_it_can(forest: FlatForest, compiled_walk: ModuleType) -> None:
    assert _walk() is compiled_walk
    before = len(compiled_walk.leaf_sum.signatures), len(compiled_walk.credits.signatures)
    forest.explain([0.0] * N_FEATURES)
    forest.probability([0.0] * N_FEATURES)
    after = len(compiled_walk.leaf_sum.signatures), len(compiled_walk.credits.signatures)
    assert before == after == (1, 1)  # nothing was compiled for a score


@pytest.mark.filterwarnings("ignore:invalid value encountered in reduce")  # scikit-learn sums 3.4e38 to look for NaN
def test_every_row_scores_the_bits_of_predict_proba(
    estimator: RandomForestClassifier, forest: FlatForest, rows: np.ndarray
) -> None:
    assert len(rows) > 4000
    expected = estimator.predict_proba(rows)[:, 1]
    assert len(set(expected)) > 20  # not a forest that says one thing
    assert bits(forest.score_many(rows)) == bits(expected)


def test_rows_on_thresholds_would_notice_another_comparison(forest: FlatForest, rows: np.ndarray) -> None:
    """The rows above reach what they are for: `<` instead of `<=` changes some of them."""
    strict = attrs.evolve(
        forest, threshold=np.where(np.isposinf(forest.threshold), np.inf, np.nextafter(forest._cuts, -np.inf))
    )
    rows = rows[2000:4000]
    assert bits(strict.score_many(rows)) != bits(forest.score_many(rows))


def test_missing_values_go_where_training_sent_them() -> None:
    estimator = fitted("unbounded, missing")
    went = np.concatenate([tree.tree_.missing_go_to_left for tree in estimator.estimators_])
    assert 0 < went.sum() < len(went)
    assert any(np.isposinf(threshold) for _, threshold in splits(estimator))  # a split on "is missing" alone


def test_the_sum_is_in_tree_order_and_another_order_has_other_bits() -> None:
    estimator = fitted("unbounded, weights")
    asked = training(missing=False, seed=9, n=300)[0]
    per_tree = np.array([tree.predict_proba(asked.astype(np.float32))[:, 1] for tree in estimator.estimators_])
    scored = bits(FlatForest.of(estimator).score_many(asked))
    assert scored == bits(per_tree.cumsum(axis=0)[-1] / len(per_tree))
    assert scored != bits(per_tree[::-1].cumsum(axis=0)[-1] / len(per_tree))


def test_a_forest_of_leaves_answers_its_bias() -> None:
    x, y = np.zeros((20, 2)), np.arange(20) % 2
    estimator = RandomForestClassifier(3, random_state=0, n_jobs=1).fit(x, y)
    forest = FlatForest.of(estimator)
    score = forest.explain([7.0, -1.0])
    assert forest.depth == 0
    assert score.probability == score.bias == estimator.predict_proba([[7.0, -1.0]])[0, 1]
    assert score.contributions == (0.0, 0.0)
    assert forest.nearest_flip([7.0, -1.0], 0.99, ("a", "b")) is None


@pytest.mark.parametrize(
    "vector", [[1.0] * (N_FEATURES - 1), [], [[1.0] * N_FEATURES], [np.inf] + [0.0] * 7, [0.0] * 7 + [1e39]]
)
def test_a_vector_that_scikit_learn_would_refuse_is_refused(vector: list[Any]) -> None:
    with pytest.raises(OurError, match="vector"):
        FlatForest.of(fitted("stumps", 3)).probability(vector)


# ------------------------------------------------------------ contributions


def test_bias_and_contributions_sum_to_the_probability(forest: FlatForest, rows: np.ndarray) -> None:
    for row in rows[::7]:
        score = forest.explain(row)
        assert score.probability == forest.probability(row)
        assert abs(score.bias + sum(score.contributions) - score.probability) <= 1e-12


def test_contributions_are_the_steps_along_each_path() -> None:
    estimator = fitted("weights", 20)
    forest = FlatForest.of(estimator)
    for row in training(missing=True, seed=21, n=40)[0]:
        expected = np.zeros(N_FEATURES)
        for each in estimator.estimators_:
            path = each.decision_path(row[None].astype(np.float32)).indices
            share = each.tree_.value[:, 0, 1]
            for parent, child in itertools.pairwise(path):
                expected[each.tree_.feature[parent]] += (share[child] - share[parent]) / 20
        assert np.allclose(forest.explain(row).contributions, expected, rtol=0, atol=1e-14)
    assert forest.explain(row).bias == pytest.approx(
        np.mean([each.tree_.value[0, 0, 1] for each in estimator.estimators_]), abs=1e-15
    )


# -------------------------------------------------------------------- flips


@cache
def spread_of(estimator: RandomForestClassifier, feature: int) -> float:
    cuts = [float32_at_most(t) for f, t in splits(estimator) if f == feature and np.isfinite(t)]
    low, high = np.percentile(cuts, (25, 75))
    return (high - low) or (max(cuts) - min(cuts)) or abs(cuts[0]) or 1.0


def float32_at_most(value: float) -> float:
    near = np.float32(value)
    return float(near if float(near) <= value else np.nextafter(near, np.float32(-np.inf)))


def flips_by_trying(
    estimator: RandomForestClassifier, row: np.ndarray, threshold: float
) -> list[tuple[float, int, float]]:
    """(distance, feature, value) of every flip, trying both sides of each split of the forest in scikit-learn."""
    tried = []
    for feature, cut in sorted({(f, float32_at_most(t)) for f, t in splits(estimator) if np.isfinite(t)}):
        beyond = float(np.nextafter(np.float32(cut), np.float32(np.inf)))
        for value in (cut, beyond):
            tried.append((abs(value - row[feature]) / spread_of(estimator, feature), feature, value))
    tried = [each for each in tried if not np.isnan(each[0])]
    if not tried:
        return []
    rows = np.repeat(row[None], len(tried), axis=0)
    for i, (_, feature, value) in enumerate(tried):
        rows[i, feature] = value
    passed = estimator.predict_proba(np.concatenate([row[None], rows]))[:, 1] >= threshold
    return sorted(each for each, now in zip(tried, passed[1:], strict=True) if now != passed[0])


def check_flip(estimator: RandomForestClassifier, row: np.ndarray, threshold: float, flip: Flip | None) -> None:
    expected = flips_by_trying(estimator, row, threshold)
    if flip is None:
        assert expected == []
        return
    assert (flip.distance, flip.feature, flip.value_needed) == (
        expected[0][0],
        NAMES[expected[0][1]],
        expected[0][2],
    )
    changed = row.copy()
    changed[NAMES.index(flip.feature)] = flip.value_needed
    before, then = estimator.predict_proba(np.stack([row, changed]))[:, 1]
    assert flip.value_now == row[NAMES.index(flip.feature)]
    assert flip.probability_then == then
    assert (before >= threshold) != (then >= threshold)


@pytest.mark.parametrize("kind", ["depth 5", "weights", "unbounded, missing"])
def test_the_nearest_flip_flips_and_nothing_nearer_does(kind: str) -> None:
    estimator = fitted(kind, 8)
    forest = FlatForest.of(estimator)
    found = 0
    for row in rows_of_every_kind(estimator)[::500]:
        for threshold in (0.55, forest.probability(row) or 0.5):
            flip = forest.nearest_flip(row, threshold, NAMES)
            check_flip(estimator, row, threshold, flip)
            found += flip is not None
    assert found > 8


def test_a_probability_exactly_on_the_threshold_is_decided_by_the_sum_in_tree_order() -> None:
    """Thresholds that a change of one feature meets to the last bit: another order of summing misses some."""
    estimator = fitted("unbounded, weights", 12)
    forest = FlatForest.of(estimator)
    met = 0
    for row in training(missing=False, seed=31, n=15)[0]:
        up = forest.nearest_flip(row, forest.probability(row) + 0.02, NAMES)
        if up is None:
            continue
        flip = forest.nearest_flip(row, up.probability_then, NAMES)
        assert flip is not None
        assert flip.distance <= up.distance  # `up` itself passes
        met += flip == up
        check_flip(estimator, row, up.probability_then, flip)
    assert met > 3


def test_no_single_feature_can_flip_a_threshold_out_of_reach() -> None:
    row = training(missing=False)[0][0]
    assert FlatForest.of(fitted("depth 5")).nearest_flip(row, 0.9999, NAMES) is None


def test_the_same_flip_comes_out_every_time(forest: FlatForest) -> None:
    row = training(missing=False, seed=2)[0][1]
    assert len({forest.nearest_flip(row, 0.5, NAMES) for _ in range(5)}) == 1


# --------------------------------------------------------------------- laws

CELL = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 0.1, 0.30000001, 16777217.0, -1e-9, float("nan")])


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=6, max_size=24),
    asked=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=8),
    params=st.fixed_dictionaries(
        {
            "random_state": st.integers(0, 9),
            "max_depth": st.sampled_from([1, 2, 3, None]),
            "class_weight": st.sampled_from([None, "balanced_subsample"]),
            "bootstrap": st.booleans(),
        }
    ),
    threshold=st.sampled_from([0.25, 0.5, 0.6]),
)
def test_small_forests_of_any_shape_keep_the_laws(
    cells: list[list[float]], asked: list[list[float]], params: dict[str, Any], threshold: float
) -> None:
    x = np.array(cells)
    y = np.arange(len(x)) % 2
    estimator = RandomForestClassifier(5, n_jobs=1, **params).fit(x, y)
    forest = FlatForest.of(estimator)
    rows = np.array(asked + cells)
    assert bits(forest.score_many(rows)) == bits(estimator.predict_proba(rows)[:, 1])
    assert FlatForest.from_npz(forest.to_npz()) == forest
    for row in np.array(asked):
        score = forest.explain(row)
        assert abs(score.bias + sum(score.contributions) - score.probability) <= 1e-12
        check_flip(estimator, row, threshold, forest.nearest_flip(row, threshold, NAMES[:3]))


def test_a_verdict_passes_on_the_threshold_and_never_on_nothing() -> None:
    assert Verdict(probability=0.55, threshold=0.55).is_passed
    assert not Verdict(probability=np.nextafter(0.55, 0), threshold=0.55).is_passed
    assert not Verdict(probability=float("nan"), threshold=0.55).is_passed
    assert Verdict(probability=0.5, threshold=0.75).margin == -0.25


def test_what_cannot_be_scored_is_named() -> None:
    vector = (1.0, float("nan"), float("inf"), 3.5e38, -3.4e38, float("-inf"))
    assert unusable_features("abcdef", vector) == ("b", "c", "d", "f")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        unusable_features("ab", (1.0,))


# ----------------------------------------------------------------- the file


def test_a_saved_and_loaded_forest_is_the_same(
    estimator: RandomForestClassifier, forest: FlatForest, rows: np.ndarray
) -> None:
    raw = forest.to_npz()
    loaded = FlatForest.from_npz(raw)
    assert loaded == forest
    assert loaded.to_npz() == raw == FlatForest.of(estimator).to_npz()
    assert bits(loaded.score_many(rows[::20])) == bits(forest.score_many(rows[::20]))
    assert loaded != FlatForest.of(fitted("stumps", 2))


def test_nobody_can_write_into_a_forest(forest: FlatForest) -> None:
    for array in (forest.feature, forest.threshold, forest.left, forest.missing_goes_right, forest.value):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def changed_file(**changes: Any) -> bytes:
    with np.load(io.BytesIO(FlatForest.of(fitted("depth 5", 3)).to_npz())) as file:
        arrays = dict(file)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name].copy())
    raw = io.BytesIO()
    np.savez(raw, **arrays)
    return raw.getvalue()


def put(index: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a file",
        FlatForest.of(fitted("stumps", 2)).to_npz()[:-40],
        changed_file(value=None),
        changed_file(shape=None),
        changed_file(shape=lambda a: a[:1]),
        changed_file(shape=put(0, 0)),
        changed_file(shape=put(0, 4)),
        changed_file(shape=put(1, 2)),
        changed_file(feature=put(0, -1)),
        changed_file(feature=put(0, N_FEATURES)),
        changed_file(feature=lambda a: a[:-1]),
        changed_file(feature=lambda a: a.astype(float)),
        changed_file(feature=lambda a: a.astype(object)),
        changed_file(left=put(0, 1)),
        changed_file(left=put(3, 0)),
        changed_file(left=put(-1, 0)),
        changed_file(threshold=put(0, np.nan)),
        changed_file(threshold=put(-1, 0.5)),
        changed_file(missing_goes_right=put(-1, True)),
        changed_file(value=put(0, np.nan)),
        changed_file(value=put(0, 1.5)),
    ],
)
def test_a_file_that_is_no_walkable_forest_is_refused(raw: bytes) -> None:
    with pytest.raises(ForestRefused):
        FlatForest.from_npz(raw)


def test_an_unchanged_file_passes_the_same_checks() -> None:
    assert FlatForest.from_npz(changed_file()).n_trees == 3


# --------------------------------------------------------------- refusals


def refused_estimators() -> dict[str, Any]:
    x, y = training(missing=False, n=60)
    few = {"n_estimators": 2, "random_state": 0, "n_jobs": 1}
    return {
        "three classes": RandomForestClassifier(**few).fit(x, np.arange(60) % 3),
        "one class": RandomForestClassifier(**few).fit(x, np.zeros(60, int)),
        "classes 1 and 2": RandomForestClassifier(**few).fit(x, y + 1),
        "classes -1 and 1": RandomForestClassifier(**few).fit(x, 2 * y - 1),
        "classes of text": RandomForestClassifier(**few).fit(x, y.astype(str)),
        "two outputs": RandomForestClassifier(**few).fit(x, np.stack([y, y], axis=1)),
        "monotonic": RandomForestClassifier(**few, monotonic_cst=[1] + [0] * 7).fit(x, y),
        "not fitted": RandomForestClassifier(**few),
        "a regressor": RandomForestRegressor(**few).fit(x, y),
        "extra trees": ExtraTreesClassifier(**few).fit(x, y),
        "nothing": None,
    }


@pytest.mark.parametrize("name", refused_estimators())
def test_a_forest_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ForestRefused):
        FlatForest.of(refused_estimators()[name])


def test_importing_the_package_does_not_import_scikit_learn() -> None:
    code = "import models, sys; sys.exit('sklearn' in sys.modules or 'joblib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
