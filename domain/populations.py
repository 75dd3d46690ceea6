"""Percentile populations: every value a base has had at a root's completed bars, in order, and what is carried of them.

A population grows by one float per bar (two copies of 8 bytes; a year of hours is about 90 KB per base and root) and
costs one binary search and one shift of memory per bar.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from bisect import insort
from collections.abc import Iterable

import attrs
import numpy as np

from domain.features import PercentileBase
from domain.indicators import average_rank
from domain.units import Nanos


@attrs.frozen(kw_only=True)
class CarriedPercentile:
    """One percentile population as it travels into the next session: what was added to its seed."""

    root: str
    base: str
    seed: str
    """Names the population it started from (a bundle's digest); empty when it started empty."""
    through_ns: Nanos
    """The end of the last bar in the population."""
    ranked_ns: Nanos
    """The end of the bar that `ranked` belongs to; 0 before the first."""
    ranked: float | None
    """The base's value at that bar; None when it was undefined."""
    added: str
    """Base64 of the values added since, little-endian float64, in the order of their bars."""

    @property
    def added_count(self) -> int:
        """How many values that is."""
        return len(b64decode(self.added)) // 8


class Population:
    """One expanding, sorted population of one base."""

    def __init__(self, base: PercentileBase) -> None:
        self.base = base
        self.seed = ""
        self.ranked_ns = Nanos(0)
        self._through_ns = Nanos(0)
        self._ranked: float | None = None
        self._sorted = array("d")
        self._added = array("d")

    @property
    def held_ns(self) -> Nanos:
        """The end of the last bar that needs no ranking any more, but for its own percentile."""
        return self._through_ns

    def start(self, values: Iterable[float], *, seed: str, through_ns: Nanos) -> None:
        """Begin with a bundle's values, ascending."""
        self.seed, self._through_ns = seed, through_ns
        self._sorted, self._added = array("d", values), array("d")

    def take(self, value: float | None, end: Nanos) -> None:
        """The base's value at the bar that ends at `end`; inserted unless the population holds that bar already."""
        self.ranked_ns, self._ranked = end, value
        if end <= self._through_ns:
            return
        self._through_ns = end
        if value is not None:
            insort(self._sorted, value)
            self._added.append(value)

    def percentile(self) -> float | None:
        """Of the bar that ends at `ranked_ns`; None when its value is undefined."""
        return None if self._ranked is None else average_rank(self._sorted, self._ranked)

    def carried(self, root: str) -> CarriedPercentile:
        """What grew since `start`, and where it stands."""
        return CarriedPercentile(
            root=root,
            base=self.base.name,
            seed=self.seed,
            through_ns=self._through_ns,
            ranked_ns=self.ranked_ns,
            ranked=self._ranked,
            added=b64encode(np.array(self._added, "<f8").tobytes()).decode("ascii"),
        )

    def resume(self, state: CarriedPercentile) -> None:
        """Go on from there, after the same `start`."""
        added = np.frombuffer(b64decode(state.added), "<f8").tolist()
        self._added = array("d", added)
        self._sorted = array("d", sorted([*self._sorted, *added]))
        self._through_ns, self.ranked_ns, self._ranked = state.through_ns, state.ranked_ns, state.ranked
