"""`models.walk` as machine code: the same comparisons, the same sums in the same order, the same bits.

Needs numba (the extra `fast`), which by default keeps to IEEE arithmetic: nothing is fused or reordered. With the
signatures given, importing compiles (about a second of CPU) and no score ever waits for a compiler. Nothing is cached
on disk: most of that second is spent anyway, numba refuses to cache where neither the package nor the home directory
can be written (a hardened service), and it would run machine code from a file that nobody has checked. Bounds are
not checked here: a `FlatForest` checked its arrays when it was made, and checks each row's length.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from models.walk import FloatArray, Nodes, SingleArray


def _read_only(kind: types.Type) -> types.Array:
    return types.Array(kind, 1, "C", readonly=True)


_INDICES, _SINGLES, _FLOATS = _read_only(types.intp), _read_only(types.float32), _read_only(types.float64)
_UNSIGNED = np.uintp
"""An index that cannot be negative: numba need not look whether it counts from the end (half the time)."""
_NODES = types.NamedTuple((_INDICES, _INDICES, _SINGLES, _INDICES, _FLOATS, types.intp, types.intp), Nodes)


@njit([types.float64(_NODES, _SINGLES)])  # type: ignore[untyped-decorator]
def leaf_sum(nodes: Nodes, sides: SingleArray) -> float:
    """See `walk.leaf_sum`."""
    total = 0.0
    for root in range(nodes.n_trees):
        at = _UNSIGNED(root)
        for _ in range(nodes.depth):
            goes_right = sides[_UNSIGNED(nodes.asked[at])] > nodes.limit[at]
            at = _UNSIGNED(nodes.left[at]) + _UNSIGNED(goes_right)
        total += nodes.value[at]
    return total


@njit([types.Tuple((types.float64, types.float64[::1]))(_NODES, _SINGLES)])  # type: ignore[untyped-decorator]
def credits(nodes: Nodes, sides: SingleArray) -> tuple[float, FloatArray]:
    """See `walk.credits`."""
    total = 0.0
    sums = np.zeros(len(sides) // 2)
    for root in range(nodes.n_trees):
        at = _UNSIGNED(root)
        for _ in range(nodes.depth):
            goes_right = sides[_UNSIGNED(nodes.asked[at])] > nodes.limit[at]
            child = _UNSIGNED(nodes.left[at]) + _UNSIGNED(goes_right)
            sums[_UNSIGNED(nodes.feature[at])] += nodes.value[child] - nodes.value[at]
            at = child
        total += nodes.value[at]
    return total, sums
