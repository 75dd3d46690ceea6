"""The feature book: bounded windows of completed bars, percentile populations, and vectors from both.

One path for live, backtest and training: bars in, one `FeatureVector` per decision bar
out. A window holds a fixed number of bars however long the history; populations grow
(`domain.populations`). What a root sees at a decision bar is `domain.feature_view`.

It refuses to fill: what is not there, not complete, stale or undefined is *missing*,
with its reason, and the veto then refuses the entry. Bars must be of the traded contract
only, and the caller leaves out day bars made of stray trades after a root's close.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import cast

import attrs
import numpy as np

from domain.bar_window import BarWindow, Fellows
from domain.bars import Bar, BarTable, Timeframe
from domain.errors import OurError
from domain.feature_view import FeatureView, plan_of
from domain.features import BASES, FEATURES, BarInput
from domain.populations import CarriedPercentile, Population
from domain.units import Nanos, Price

_SLACK = 48
"""Bars kept beyond the longest window: those of other roots that the deciding root has not reached yet."""


@attrs.frozen(kw_only=True)
class FeatureVector:
    """The features of one root at its last completed hour bar, in the order of `names`."""

    root: str
    ts: Nanos
    """The bar's end."""
    version: str
    names: tuple[str, ...]
    values: tuple[float | None, ...]
    missing: tuple[str, ...]
    """Names without a value. Any of them is a veto."""
    reasons: tuple[str, ...]
    """Why, for each of `missing`."""
    carried: tuple[str, ...]
    """Names in which another root's last close stands for hours without a trade."""

    def complete(self) -> tuple[float, ...]:
        """The values when none is missing. Raises OurError otherwise."""
        if None in self.values:
            raise OurError(f"{self.root}: {', '.join(self.missing)} missing")
        return cast("tuple[float, ...]", self.values)


class FeatureBook:
    """Windows and populations of every root. `bases` says which populations a root keeps (`required_bases`),
    `pairs` which root its pair features read.
    """

    def __init__(
        self,
        *,
        bases: Mapping[str, Collection[str]],
        days_since: int = 0,
        pairs: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._days_since = days_since
        self._pairs = dict(pairs)
        self._populations: dict[str, dict[str, Population]] = {
            root: {name: Population(BASES[name]) for name in sorted(names)} for root, names in sorted(bases.items())
        }
        self._windows: dict[tuple[str, Timeframe], BarWindow] = {}
        self._fellows: dict[Timeframe, Fellows] = {timeframe: Fellows() for timeframe in _TIMEFRAMES}
        """Windows of the roots in `bases`, which are mostly asked for the same."""
        self._views: dict[str, FeatureView] = {}
        """What roots see, until the next bar comes."""
        self._unranked: list[tuple[str, Nanos]] = []
        """Roots and the end of their bar that populations of other roots' bars have not taken: at its end the
        others may still come. All ends are the same."""

    # ------------------------------------------------------------ bars in

    def add_hours(self, bars: Sequence[Bar]) -> None:
        """Take the hour bars that closed together, one of a root, each once, in order.

        The same as each alone; what populations rank is computed for all of them at once. Raises OurError for one
        that is not after its root's last, when the others are taken.
        """
        taken: list[Bar] = []
        failed: OurError | None = None
        for bar in bars:
            try:
                self._append(bar.root, "1h", bar.ts_start, bar.ts_end, _values_of(bar))
                taken.append(bar)
            except OurError as error:
                failed = failed or error
        for bar in taken:
            self._rank(bar.root, "1h", bar.ts_end)
        if failed is not None:
            raise failed

    def add_day(self, bar: Bar) -> None:
        """Take a completed day bar, once, in order. Raises OurError for one not after the last."""
        self._append(bar.root, "1d", bar.ts_start, bar.ts_end, _values_of(bar))
        self._rank(bar.root, "1d", bar.ts_end)

    def forget(self, root: str) -> None:
        """The windows of `root` start anew. Its populations stay: they are what was seen, not a run of bars."""
        self._settle()
        self._views.clear()
        for timeframe in _TIMEFRAMES:
            window = self._windows.pop((root, timeframe), None)
            if window is not None:
                window.leave()

    def open_session(self, days_since: int, rolled: Mapping[str, Price | None]) -> None:
        """Go on into another session: what a book made anew from the adjusted history would hold.

        `rolled`: the price differences of the roots that trade another contract from now on; None where it is not
        known, and the root's bars begin anew.
        """
        self._days_since = days_since
        for root, difference in rolled.items():
            if difference is None:
                self.forget(root)
                continue
            for timeframe in _TIMEFRAMES:
                if (root, timeframe) in self._windows:
                    self._windows[root, timeframe].shift(difference)

    def load(self, tables: Sequence[BarTable]) -> None:
        """Take completed hour and day bars, adjusted for rolls: the same as adding each bar, all roots' in turn.

        A population takes only bars after those it holds, so history may overlap carried state. Where a root
        ranks what its pair shows, both roots' hours must be in the same call.
        """
        joined = self._joined_roots()
        rows: list[tuple[int, int, list[int]]] = []
        for position, table in enumerate(tables):
            if table.timeframe == "1m":
                raise OurError(f"{table.root}: a feature book holds hours and days, not minutes")
            if not len(table):
                continue
            due = self._due(table.root, table.timeframe)
            if table.timeframe == "1h" and table.root in joined:
                count = 0
            else:
                count = len(table) if not due else _rows_held(table, due)
            self._views.clear()
            self._window(table.root, table.timeframe).extend(table.data[:count])
            rows += [(row[1], position, row) for row in table.data[count:].tolist()]
        rows.sort(key=lambda row: row[:2])
        for end, closed in groupby(rows, key=itemgetter(0)):
            places = [(tables[position], row) for _, position, row in closed]
            for table, (start, _, *values, _) in places:
                self._append(table.root, table.timeframe, start, end, values)
            for table, _ in places:
                self._rank(table.root, table.timeframe, end)

    def _joined_roots(self) -> set[str]:
        """Roots with a population of another root's bars, and those others."""
        readers = {root for root, kept in self._populations.items() if any(not p.base.is_own for p in kept.values())}
        return readers | {self._pairs[root] for root in readers if root in self._pairs}

    def _append(self, root: str, timeframe: Timeframe, start: int, end: int, values: Sequence[int]) -> None:
        if self._unranked and timeframe == "1h" and end > self._unranked[-1][1]:
            self._settle()
        self._views.clear()
        self._window(root, timeframe).append(start, end, values)

    def _rank(self, root: str, timeframe: Timeframe, end: int) -> None:
        """Let the populations have the root's bar that ends at `end`, its last one."""
        window = self._windows[root, timeframe]
        for population in self._due(root, timeframe):
            if end <= population.ranked_ns:
                continue
            if population.base.is_own:
                population.take(window.value(population.base, window.count), Nanos(end))
            elif (root, end) not in self._unranked:
                self._unranked.append((root, Nanos(end)))

    def _settle(self) -> None:
        """Rank what other roots' bars show at the bars that are over."""
        for root, end in self._unranked:
            view = self._view(root, end)
            for population in self._populations[root].values():
                if not population.base.is_own and end > population.ranked_ns:
                    population.take(view.of_bars(population.base).value, end)
        self._unranked.clear()

    def _view(self, root: str, ts: Nanos | None = None) -> FeatureView:
        view = self._views.get(root)
        hours = self._windows.get((root, "1h"))
        if hours is None:
            raise OurError(f"{root} has no completed hour bar")
        ts = Nanos(hours.last_end) if ts is None else ts
        if view is None or view.ts != ts:
            kept, pair = self._populations.get(root, {}), self._pairs.get(root)
            view = FeatureView(root, self._windows, kept, days_since=self._days_since, pair=pair, ts=ts)
            self._views[root] = view
        return view

    def _window(self, root: str, timeframe: Timeframe) -> BarWindow:
        key = (root, timeframe)
        if key not in self._windows:
            fellows = self._fellows[timeframe] if root in self._populations else None
            self._windows[key] = BarWindow(f"{root} {timeframe}", _TIMEFRAMES[timeframe], fellows)
        return self._windows[key]

    def _due(self, root: str, timeframe: Timeframe) -> list[Population]:
        kept = self._populations.get(root, {})
        return [population for population in kept.values() if population.base.timeframe == timeframe]

    # ----------------------------------------------------- percentile state

    def seed_population(self, root: str, base: str, values: Sequence[float], *, seed: str, through_ns: Nanos) -> None:
        """Start a population from a bundle's: ascending `values` of the bars up to `through_ns`.

        `seed` names it, so that carried state is only joined to what it grew from. Before the
        root's bars. Raises OurError otherwise, or for values that are not ascending or not finite.
        """
        population = self._untouched(root, base)
        if not all(map(math.isfinite, values)) or list(values) != sorted(values):
            raise OurError(f"{root} {base}: a population's values must be finite and ascending")
        population.start(values, seed=seed, through_ns=through_ns)

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """What the next session needs besides the bars and the seeds, by root and base."""
        self._settle()
        return tuple(
            population.carried(root) for root, kept in self._populations.items() for population in kept.values()
        )

    def restore(self, carried: Sequence[CarriedPercentile]) -> tuple[CarriedPercentile, ...]:
        """Go on from what a session left, after the seeds and before any bar of these roots.

        Returns what was not taken: state of a root or base that is not kept, or grown from another seed.
        """
        refused = []
        for state in carried:
            kept = self._populations.get(state.root, {})
            if state.base not in kept or kept[state.base].seed != state.seed:
                refused.append(state)
            else:
                self._untouched(state.root, state.base).resume(state)
        return tuple(refused)

    def _untouched(self, root: str, base: str) -> Population:
        population = self._populations.get(root, {}).get(base)
        if population is None:
            raise OurError(f"the book keeps no population {base} of {root}")
        if (root, population.base.timeframe) in self._windows:
            raise OurError(f"{root}: percentile state must come before the bars")
        return population

    # ---------------------------------------------------------- vectors out

    def has_hours(self, root: str) -> bool:
        """Whether the root has a completed hour bar, without which there is no vector."""
        return (root, "1h") in self._windows

    def vector(self, root: str, names: Sequence[str], version: str) -> FeatureVector:
        """The features at the root's last completed hour bar, from bars that had ended by then.

        Raises OurError without such a bar, OperatorError for an unknown version.
        """
        names = tuple(names)
        plan = plan_of(names, version)
        self._settle()
        view = self._view(root)
        values, reasons, carried = view.evaluate(plan)
        missing = sorted(reasons)
        return FeatureVector(
            root=root,
            ts=view.ts,
            version=version,
            names=names,
            values=tuple(values),
            missing=tuple([names[position] for position in missing]),
            reasons=tuple([reasons[position] for position in missing]),
            carried=tuple([names[position] for position in sorted(carried)]),
        )


def _values_of(bar: Bar) -> tuple[int, int, int, int, int]:
    return bar.open, bar.high, bar.low, bar.close, bar.volume


def _longest(timeframe: Timeframe) -> int:
    windows = [base.window for base in BASES.values() if base.timeframe == timeframe]
    for feature in FEATURES.values():
        windows += [
            feature.window
            for source in feature.inputs
            if isinstance(source, BarInput) and source.timeframe == timeframe
        ]
    return max(windows)


# `legacy-1` reads hours through windows that the hourly names of `v2` have too.
_TIMEFRAMES: dict[Timeframe, int] = {"1h": _longest("1h") + _SLACK, "1d": _longest("1d") + _SLACK}


def _rows_held(table: BarTable, due: Sequence[Population]) -> int:
    """How many of the table's first rows no population has to look at.

    Those a population holds it does not rank again, but its percentile needs the last one's value.
    """
    ends = table.data[:, 1]
    count = int(np.searchsorted(ends, min(population.held_ns for population in due), "right"))
    is_last_ranked = all(population.ranked_ns >= ends[-1] for population in due)
    return count if is_last_ranked or count < len(table) else count - 1
