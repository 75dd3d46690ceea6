"""A fitted Random Forest as flat arrays, walked in numpy: the veto's arithmetic.

`FlatForest.of` flattens scikit-learn's forest once; from then on `probability` gives
the very bits of `predict_proba` (n_jobs=1) without scikit-learn. What makes them equal:
the row is cast to float32 and compared with float64 thresholds, `<=` goes left, NaN goes
where `missing_go_to_left` says, leaf values are summed in the order of the trees and
divided once (sklearn/tree/_tree.pyx `_apply_dense`, ensemble/_forest.py `predict_proba`).
The walk itself is numpy's (`walk`), or with the extra `fast` machine code (`compiled_walk`): the same bits.

**Layout.** All trees in one array, level by level: roots first, in tree order, then every
level's children as adjacent pairs, so that a step is `left[node] + goes_right`. A leaf is
its own left child behind the threshold +inf: walking on stays there, and `depth` steps
finish all trees at once. A perfect tree per root would spare one lookup a level (12 % at
depth 5) and pay with memory at depth 8; one layout serves all depths. A row is laid out
twice, its missing values below everything and above everything, and a node reads the side on
which missing goes its way: a step asks nothing about NaN.

It refuses to be a general forest: two classes, 0 and 1, one output.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache, cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from domain.errors import OperatorError, OurError
from domain.veto import Flip, Score
from models import walk
from models.walk import FloatArray, IndexArray, Nodes, SingleArray

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

BoolArray = NDArray[np.bool_]

_SUM_ERROR = 1e-9
"""Far above the rounding of any sum of a forest's probabilities, far below a step between two of them."""


class ForestRefused(OperatorError):
    """A forest, or a file of one, that the flat walk must not score."""


def _same_array() -> Any:
    return attrs.cmp_using(eq=np.array_equal)


@attrs.frozen(kw_only=True)
class FlatForest:
    """A binary forest in flat arrays of one entry per node (see the module's docstring for the layout).

    Equal when every number is. Arrays are read-only; any thread may score.
    """

    n_trees: int
    n_features: int
    feature: IndexArray = attrs.field(eq=_same_array(), repr=False)
    """Which input the node compares; 0 at a leaf."""
    threshold: FloatArray = attrs.field(eq=_same_array(), repr=False)
    """x <= threshold goes left; +inf at a leaf, and where only a missing value goes right."""
    left: IndexArray = attrs.field(eq=_same_array(), repr=False)
    """The left child; the right one is next to it. A leaf names itself."""
    missing_goes_right: BoolArray = attrs.field(eq=_same_array(), repr=False)
    value: FloatArray = attrs.field(eq=_same_array(), repr=False)
    """Share of class 1 among the node's weighted training samples, in [0, 1]."""
    depth: int = attrs.field(init=False)
    """Steps from a root to the deepest leaf."""

    @depth.default
    def _checked_depth(self) -> int:
        return _checked_depth(self)

    def __attrs_post_init__(self) -> None:
        for array in (self.feature, self.threshold, self.left, self.missing_goes_right, self.value):
            array.setflags(write=False)
        _walk()  # compiled when a forest is made, never at a score

    @classmethod
    def of(cls, estimator: RandomForestClassifier) -> FlatForest:
        """Flatten a fitted RandomForestClassifier. Raises ForestRefused for one this walk does not reproduce."""
        trees = _trees_of(estimator)
        first = np.cumsum([0] + [tree.node_count for tree in trees])
        shift = np.repeat(first[:-1], np.diff(first))

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(tree, name) for tree in trees])

        old_left, old_right = joined("children_left"), joined("children_right")
        is_leaf = old_left < 0
        order = _level_order(first[:-1], old_left + shift, old_right + shift, is_leaf)
        new = np.empty(len(order), np.intp)
        new[order] = np.arange(len(order))
        values = np.concatenate([tree.value[:, 0, :] for tree in trees])
        if np.abs(values.sum(axis=1) - 1).max() > _SUM_ERROR:
            raise ForestRefused("node values are counts, not shares", fix="train with the pinned scikit-learn")
        leaf = is_leaf[order]
        return cls(
            n_trees=len(trees),
            n_features=int(estimator.n_features_in_),
            feature=np.where(leaf, 0, joined("feature")[order]).astype(np.intp),
            threshold=np.where(leaf, np.inf, joined("threshold")[order]),
            left=np.where(leaf, np.arange(len(order)), new[(old_left + shift)[order]]),
            missing_goes_right=~leaf & (joined("missing_go_to_left")[order] == 0),
            value=np.ascontiguousarray(values[order, 1]),
        )

    # ------------------------------------------------------------ scoring

    def probability(self, vector: ArrayLike) -> float:
        """Probability of class 1 for one row of `n_features` numbers: `predict_proba(row)[0, 1]`, bit for bit.

        NaN is a missing value. Raises OurError for another length, infinities and what float32 cannot hold
        (scikit-learn refuses those too).
        """
        return float(_walk().leaf_sum(self._nodes, self._sides(vector))) / self.n_trees

    def score_many(self, rows: ArrayLike) -> FloatArray:
        """`probability` of each row, shape (n,)."""
        return np.array([self.probability(row) for row in np.atleast_2d(np.asarray(rows))], dtype=np.float64)

    def explain(self, vector: ArrayLike) -> Score:
        """`probability` with its decomposition: each step of a path credits its feature with child - parent.

        Contributions are summed tree after tree, root to leaf, then divided by the number of trees.
        """
        total, sums = _walk().credits(self._nodes, self._sides(vector))
        return Score(
            probability=float(total) / self.n_trees,
            bias=self._bias,
            contributions=tuple((sums / self.n_trees).tolist()),
        )

    def nearest_flip(self, vector: ArrayLike, threshold: float, names: Sequence[str]) -> Flip | None:
        """The smallest change of one feature that turns `probability >= threshold` round (see `domain.veto.Flip`).

        Exact: with the others held, the probability is a step function of one feature, and all its steps are
        found by walking both sides of that feature's nodes. Ties go to the earlier feature, then to the
        smaller value. A missing feature is left alone: there is no distance from nothing.
        Features without any reachable split cannot flip anything. None when nothing can.
        """
        sides = self._sides(vector)
        now = np.asarray(vector, dtype=np.float64)
        is_passed = self.probability(vector) >= threshold
        feature, needed = _flip_candidates(self, sides, threshold, is_passed=is_passed)
        distance = np.abs(needed - now[feature]) / self._spreads[feature]
        for i in np.lexsort((needed, feature, distance)):
            changed = now.copy()
            changed[feature[i]] = needed[i]
            then = self.probability(changed)
            # Candidates within rounding of the threshold are decided here, by the real sum.
            if (then >= threshold) != is_passed:
                return Flip(
                    feature=names[feature[i]],
                    value_now=float(now[feature[i]]),
                    value_needed=float(needed[i]),
                    probability_then=then,
                    distance=float(distance[i]),
                )
        return None

    # ------------------------------------------------------------ the file

    def to_npz(self) -> bytes:
        """The forest as an uncompressed npz: the same forest gives the same bytes on every machine."""
        file = io.BytesIO()
        np.savez(
            file,
            allow_pickle=False,
            shape=np.array([self.n_trees, self.n_features], np.int64),
            feature=self.feature.astype(np.int32),
            threshold=self.threshold,
            left=self.left.astype(np.int32),
            missing_goes_right=self.missing_goes_right,
            value=self.value,
        )
        return file.getvalue()

    @classmethod
    def from_npz(cls, raw: bytes) -> FlatForest:
        """The forest of `to_npz`. Raises ForestRefused when the bytes are no such file or no walkable forest."""
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
                n_trees, n_features = (int(number) for number in arrays["shape"])
                return cls(
                    n_trees=n_trees,
                    n_features=n_features,
                    feature=arrays["feature"].astype(np.intp, casting="safe"),
                    threshold=arrays["threshold"].astype(np.float64, casting="safe"),
                    left=arrays["left"].astype(np.intp, casting="safe"),
                    missing_goes_right=arrays["missing_goes_right"].astype(np.bool_, casting="safe"),
                    value=arrays["value"].astype(np.float64, casting="safe"),
                )
        except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ForestRefused(f"not a forest file: {error}", fix="train the bundle again") from error

    # ------------------------------------------------------------- private

    @cached_property
    def _nodes(self) -> Nodes:
        only_missing_goes_right = self.missing_goes_right & np.isposinf(self.threshold)
        limit = np.where(only_missing_goes_right, np.finfo(np.float32).max, self._cuts).astype(np.float32)
        asked = self.feature + self.n_features * self.missing_goes_right
        for array in (limit, asked):
            array.setflags(write=False)
        return Nodes(self.feature, asked, limit, self.left, self.value, self.n_trees, self.depth)

    @cached_property
    def _bias(self) -> float:
        return walk.in_order(self.value[: self.n_trees]) / self.n_trees

    @cached_property
    def _cuts(self) -> FloatArray:
        """Each threshold as the largest float32 not above it: for a float32 `x <= cut` is `x <= threshold`."""
        rounded = self.threshold.astype(np.float32)
        above = rounded > self.threshold
        rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
        return rounded.astype(np.float64)

    @cached_property
    def _spreads(self) -> FloatArray:
        """Per feature the unit of a flip's distance: the interquartile range of its split points.

        Where that is 0 (few or equal splits): their range, else the size of the one split point, else 1.
        """
        spreads = np.ones(self.n_features)
        is_split = self.left != np.arange(len(self.left))
        for feature in range(self.n_features):
            cuts = self._cuts[is_split & (self.feature == feature)]
            cuts = cuts[np.isfinite(cuts)]
            if len(cuts):
                low, high = np.percentile(cuts, (25, 75))
                spreads[feature] = (high - low) or (cuts.max() - cuts.min()) or abs(cuts[0]) or 1.0
        return spreads

    def _sides(self, vector: ArrayLike) -> SingleArray:
        """The row as scikit-learn compares it (rounded to float32), twice: missing as -inf, then missing as +inf."""
        with np.errstate(over="ignore"):  # what overflows is refused below
            row = np.asarray(vector, dtype=np.float32)
        if row.shape != (self.n_features,):
            raise OurError(f"a vector of shape {row.shape} for a forest of {self.n_features} features")
        if np.isinf(row).any():
            raise OurError("a vector holds an infinity, or a number beyond float32")
        sides = np.empty((2, self.n_features), np.float32)
        np.fmax(row, -np.inf, out=sides[0])  # fmax and fmin prefer whatever is not NaN
        np.fmin(row, np.inf, out=sides[1])
        return sides.ravel()


@cache
def _walk() -> ModuleType:
    try:
        from models import compiled_walk
    except ImportError:  # the extra `fast` is not installed
        return walk
    return compiled_walk


# ------------------------------------------------------------- flattening


def _trees_of(estimator: RandomForestClassifier) -> list[Any]:
    from sklearn.ensemble import RandomForestClassifier as Accepted

    if not isinstance(estimator, Accepted) or not hasattr(estimator, "estimators_"):
        raise ForestRefused("not a fitted RandomForestClassifier", fix="fit one and pass it")
    if estimator.n_outputs_ != 1 or not np.array_equal(estimator.classes_, [0, 1]):
        raise ForestRefused(
            f"its classes are {estimator.classes_}, not 0 and 1", fix="label losing trades 0 and winning trades 1"
        )
    if estimator.monotonic_cst is not None:  # scikit-learn then refuses NaN, which this walk would answer
        raise ForestRefused("it was trained with monotonic constraints", fix="train without monotonic_cst")
    return [tree.tree_ for tree in estimator.estimators_]


def _level_order(
    roots: NDArray[Any], left: NDArray[Any], right: NDArray[Any], is_leaf: NDArray[Any]
) -> NDArray[np.intp]:
    """Old positions in their new order: the roots, then pair by pair each level's children."""
    levels = [roots.astype(np.intp)]
    while len(inner := levels[-1][~is_leaf[levels[-1]]]):
        levels.append(np.stack([left[inner], right[inner]], axis=1).ravel().astype(np.intp))
    return np.concatenate(levels)


def _checked_depth(forest: FlatForest) -> int:
    """The depth of a forest whose arrays keep the layout. Raises ForestRefused when they do not."""
    size = len(forest.left)
    arrays = (forest.feature, forest.threshold, forest.left, forest.missing_goes_right, forest.value)
    if forest.n_trees < 1 or forest.n_features < 1 or any(array.shape != (size,) for array in arrays):
        raise ForestRefused("its arrays do not belong together", fix="train the bundle again")
    if (
        ((forest.feature < 0) | (forest.feature >= forest.n_features)).any()
        or np.isnan(forest.threshold).any()
        or not ((forest.value >= 0) & (forest.value <= 1)).all()
    ):
        raise ForestRefused("a node holds an impossible number", fix="train the bundle again")
    start, end, depth = 0, forest.n_trees, 0
    while end <= size:
        level = np.arange(start, end)
        is_inner = forest.left[start:end] != level
        pairs = end + 2 * np.arange(is_inner.sum())
        leaf = level[~is_inner]
        if (
            not np.array_equal(forest.left[start:end][is_inner], pairs)
            or not np.isposinf(forest.threshold[leaf]).all()
            or forest.missing_goes_right[leaf].any()
        ):
            break
        if not len(pairs):
            if end != size:
                break
            return depth
        start, end, depth = end, end + 2 * len(pairs), depth + 1
    raise ForestRefused("its nodes are not in level order", fix="train the bundle again")


# ------------------------------------------------------------------- flips


def _flip_candidates(
    forest: FlatForest, sides: SingleArray, threshold: float, *, is_passed: bool
) -> tuple[IndexArray, FloatArray]:
    """(feature, value) of every step of every feature whose far side may have the other verdict.

    A value is the nearest float32 beyond the step. Sums here are not in tree order, so what lies
    within `_SUM_ERROR` of the threshold is a candidate too; the caller scores it.
    """
    varied, low, high, value, constant = _pieces(forest, sides)
    row = sides[: forest.n_features]
    features: list[IndexArray] = [np.empty(0, np.intp)]
    needed: list[FloatArray] = [np.empty(0)]
    for feature in np.flatnonzero(np.isfinite(row) & (np.bincount(varied, minlength=forest.n_features) > 0)):
        mine = varied == feature
        ends = np.concatenate([low[mine], high[mine]])
        cuts = np.unique(ends[np.isfinite(ends)])
        # Interval k is (cuts[k-1], cuts[k]]; a piece covers its first to its last interval.
        first, last = np.searchsorted(cuts, low[mine], "right"), np.searchsorted(cuts, high[mine], "left")
        size = len(cuts) + 2
        change = np.bincount(first, value[mine], size) - np.bincount(last + 1, value[mine], size)
        probability = (constant[feature] + change.cumsum()[:-1]) / forest.n_trees
        may_flip = ((probability >= threshold) != is_passed) | (np.abs(probability - threshold) <= _SUM_ERROR)
        here = int(np.searchsorted(cuts, row[feature], "left"))
        above = np.nextafter(cuts[here:].astype(np.float32), np.float32(np.inf)).astype(np.float64)
        values = np.concatenate([cuts[:here], above])[np.delete(may_flip, here)]
        needed.append(values[np.isfinite(values)])
        features.append(np.full(len(needed[-1]), feature, np.intp))
    return np.concatenate(features), np.concatenate(needed)


def _pieces(
    forest: FlatForest, sides: SingleArray
) -> tuple[IndexArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Every leaf that varying one feature can reach, for all features at once.

    Returns (varied feature, low, high, leaf value) per piece, the tree being there while
    low < x <= high (float32 bounds), and per feature the summed value of the trees it cannot move.
    """
    node = roots = np.arange(forest.n_trees)
    met = np.empty((forest.depth, forest.n_trees), np.intp)
    for level in range(forest.depth):
        met[level] = forest.feature.take(node)
        node = walk.step(forest._nodes, node, sides)
    settled = forest.value.take(node)
    # A feature moves a tree only if the row's own path meets it: otherwise the path never changes.
    varied, tree = np.divmod(np.unique(met * forest.n_trees + roots), forest.n_trees)
    constant = settled.sum() - np.bincount(varied, settled[tree], forest.n_features)
    node, low, high = tree, np.full(len(tree), -np.inf), np.full(len(tree), np.inf)
    for _ in range(forest.depth):
        feature, left, cut = forest.feature.take(node), forest.left.take(node), forest._cuts.take(node)
        is_own = feature == varied  # also at a leaf: behind +inf there is no right side
        onward = np.where(is_own, left, walk.step(forest._nodes, node, sides))
        to_left, to_right = ~is_own | (low < cut), is_own & (cut < high)
        node = np.concatenate([onward[to_left], left[to_right] + 1])
        varied = np.concatenate([varied[to_left], varied[to_right]])
        ceiling, floor = np.where(is_own, np.minimum(high, cut), high), np.maximum(low, cut)
        low = np.concatenate([low[to_left], floor[to_right]])
        high = np.concatenate([ceiling[to_left], high[to_right]])
    return varied, low, high, forest.value.take(node), constant
