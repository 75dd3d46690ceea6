"""A row's way through all trees of a forest, in numpy; `compiled_walk` has the same two functions as machine code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SingleArray = NDArray[np.float32]
IndexArray = NDArray[np.intp]


class Nodes(NamedTuple):
    """A forest as a walk reads it: read-only arrays of one entry per node, the roots first (see `models.forest`)."""

    feature: IndexArray
    asked: IndexArray
    """The entry of a row's sides that the node compares."""
    limit: SingleArray
    """Beyond it the row goes right."""
    left: IndexArray
    value: FloatArray
    n_trees: int
    depth: int


def step(nodes: Nodes, at: IndexArray, sides: SingleArray) -> IndexArray:
    """The children to which the nodes `at` send the row."""
    goes_right = sides.take(nodes.asked.take(at)) > nodes.limit.take(at)
    return nodes.left.take(at) + goes_right


def leaf_sum(nodes: Nodes, sides: SingleArray) -> float:
    """The values of the leaves that the row reaches, added tree after tree."""
    at = np.arange(nodes.n_trees)
    for _ in range(nodes.depth):
        at = step(nodes, at, sides)
    return in_order(nodes.value.take(at))


def credits(nodes: Nodes, sides: SingleArray) -> tuple[float, FloatArray]:
    """`leaf_sum`, and per feature (half as many as `sides`) the sum of child - parent over its steps.

    Added tree after tree, root to leaf.
    """
    at = np.arange(nodes.n_trees)
    value = nodes.value[: nodes.n_trees]
    credited = np.empty((nodes.n_trees, nodes.depth), np.intp)
    steps = np.empty((nodes.n_trees, nodes.depth))
    for level in range(nodes.depth):
        credited[:, level] = nodes.feature.take(at)
        at = step(nodes, at, sides)
        reached = nodes.value.take(at)
        np.subtract(reached, value, out=steps[:, level])  # 0 for a tree already at its leaf
        value = reached
    sums = np.bincount(credited.ravel(), weights=steps.ravel(), minlength=len(sides) // 2).astype(
        np.float64, copy=False
    )
    return in_order(value), sums


def in_order(values: FloatArray) -> float:
    """Their sum, one by one as scikit-learn adds tree after tree; sum() adds pairwise: other bits."""
    return float(values.cumsum()[-1])
