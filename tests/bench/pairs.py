"""Two sides, run in turn: work, reference, work, reference … and what their pairs say.

A figure is the median of paired ratios of CPU time. Wall time is kept beside it and decides
nothing: the machine is not ours alone. Nothing is compared in speed before both sides have given
the same answer. This module knows no benchmark and starts no process.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import attrs

PAIRS = 5
ATTEMPTS = 3
SPREAD_LIMIT = 0.10
"""A run whose A-to-A spread is larger is discarded and made again, `ATTEMPTS` times at most."""

Role = Literal["work", "reference"]
Facts = Mapping[str, Any]
"""What `prepare` hands to both sides: JSON values, mostly paths."""


class UnequalResultsError(Exception):
    """The two sides did not compute the same: their speed means nothing."""


@attrs.frozen(kw_only=True)
class Side:
    """One run of one side."""

    cpu_s: float
    """User and system time of everything that was measured; a latency's side gives its median instead."""
    wall_s: float
    answer: Any = None
    """What it computed, as JSON values: equal on both sides of a pair."""
    peak_mb: float | None = None
    figures: Mapping[str, float] = MappingProxyType({})
    """Whatever else is worth printing."""


@attrs.frozen(kw_only=True)
class Row:
    """A budget: what is taken from a pair, and what it must reach."""

    name: str
    title: str
    figure: Callable[[Side, Side], float]
    """(work, reference) -> the number; a ratio, mostly."""
    unit: str
    required: float
    goal: float
    is_more_better: bool = False
    is_timed: bool = True
    """False for bytes: they are no less sure in a run that was not calm."""

    def meets(self, value: float, limit: float) -> bool:
        """Whether `value` is at the limit or better."""
        return value >= limit if self.is_more_better else value <= limit


@attrs.frozen(kw_only=True)
class Benchmark:
    """A pair of sides and the rows that are read off it.

    `prepare`, `work` and `reference` each run in a process of their own. `skip` gives a reason
    why it cannot run here.
    """

    name: str
    prepare: Callable[[Scale], Facts]
    work: Callable[[Facts], Side]
    reference: Callable[[Facts], Side]
    rows: tuple[Row, ...]
    skip: Callable[[], str | None] = lambda: None
    pairs: int = PAIRS
    note: str = ""
    """What the two sides are, for the reader of the table."""
    is_equality_checked: bool = True


@attrs.frozen(kw_only=True)
class Scale:
    """How much of everything: the whole protocol, or a quick look while working on one row."""

    trades: int
    roots: int
    repeats: float = 1.0
    """Share of the full number of repetitions inside a side."""


FULL = Scale(trades=5_000_000, roots=12)
QUICK = Scale(trades=200_000, roots=12, repeats=0.1)


@attrs.frozen(kw_only=True)
class Measured:
    """Every pair of one run."""

    pairs: tuple[tuple[Side, Side], ...]
    attempts: int

    @property
    def spread(self) -> float:
        """A-to-A: largest less smallest CPU time of the same side, over their median; of both sides the larger."""
        return max(_spread([pair[side].cpu_s for pair in self.pairs]) for side in (0, 1))

    def value(self, row: Row) -> float:
        """The median over the pairs."""
        return statistics.median(row.figure(work, reference) for work, reference in self.pairs)

    def median(self, role: Role, of: Callable[[Side], float]) -> float:
        """The median of something of one side."""
        return statistics.median(of(pair[0 if role == "work" else 1]) for pair in self.pairs)


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values) if min(values) > 0 else 0.0


def measure(
    benchmark: Benchmark,
    run: Callable[[Role], Side],
    *,
    pairs: int | None = None,
    attempts: int = ATTEMPTS,
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Alternate the sides; discard and repeat while the spread is too large, and keep the calmest run.

    Raises UnequalResultsError at the first pair whose answers differ, before any ratio is taken.
    """
    best: Measured | None = None
    for attempt in range(1, attempts + 1):
        taken = []
        for number in range(pairs or benchmark.pairs):
            work, reference = run("work"), run("reference")
            if benchmark.is_equality_checked and work.answer != reference.answer:
                raise UnequalResultsError(
                    f"{benchmark.name}, pair {number + 1}: {_cut(work.answer)} is not {_cut(reference.answer)}"
                )
            taken.append((work, reference))
            say(f"  {number + 1}: {work.cpu_s:.4g} against {reference.cpu_s:.4g} s CPU")
        measured = Measured(pairs=tuple(taken), attempts=attempt)
        best = measured if best is None or measured.spread < best.spread else best
        if measured.spread <= SPREAD_LIMIT:
            break
        say(f"  A-to-A spread {measured.spread:.0%}: discarded" if attempt < attempts else "")
    assert best is not None, "at least one attempt"
    return attrs.evolve(best, attempts=attempt)


def _cut(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) < 300 else f"{text[:300]}…"


class Stopwatch:
    """CPU (user and system, children included once they have ended) and wall of a `with` block."""

    def __init__(self, *, with_children: bool = False) -> None:
        self._whose = (resource.RUSAGE_SELF, *((resource.RUSAGE_CHILDREN,) if with_children else ()))
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> Self:
        self._cpu_s, self._wall_s = self._used(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_s, self.wall_s = self._used() - self._cpu_s, time.perf_counter() - self._wall_s

    def _used(self) -> float:
        used = [resource.getrusage(who) for who in self._whose]
        return sum(one.ru_utime + one.ru_stime for one in used)
