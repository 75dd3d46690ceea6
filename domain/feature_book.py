"""The feature book: bounded windows of completed bars, percentile populations, and vectors from both.

One path for live, backtest and training: bars in, one `FeatureVector` per decision bar
out. A window holds a fixed number of bars however long the history; a population grows
by one float per bar (two copies of 8 bytes; a year of hours is about 90 KB per base and
root) and costs one binary search and one shift of memory per bar.

It refuses to fill: what is not there, not complete, stale or undefined is *missing*,
with its reason, and the veto then refuses the entry. Bars must be of the traded contract
only, and the caller leaves out day bars made of stray trades after a root's close.
"""

from __future__ import annotations

import math
from array import array
from base64 import b64decode, b64encode
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple, cast

import attrs
import numpy as np

from domain.bar_window import BarWindow, Columns, Fellows
from domain.bars import Bar, BarTable, Timeframe
from domain.errors import OurError
from domain.features import (
    BASES,
    FEATURES,
    PAIR,
    PAIR_REACH,
    BarInput,
    Feature,
    PercentileBase,
    PercentileInput,
    features_of,
    unavailable,
)
from domain.indicators import average_rank
from domain.units import HOUR, Nanos, Price

CARRY_NS = Nanos(2 * HOUR)
"""How long another root's last close stands for hours without a trade."""
HOURS_PER_DAY = 24
"""A day bar is stale when more hour bars than this have started since it ended."""

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
        self._populations: dict[str, dict[str, _Population]] = {
            root: {name: _Population(BASES[name]) for name in sorted(names)} for root, names in sorted(bases.items())
        }
        self._windows: dict[tuple[str, Timeframe], BarWindow] = {}
        self._fellows: dict[Timeframe, Fellows] = {timeframe: Fellows() for timeframe in _TIMEFRAMES}
        """Windows of the roots in `bases`, which are mostly asked for the same."""
        self._views: dict[str, _View] = {}
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

    def _view(self, root: str, ts: Nanos | None = None) -> _View:
        view = self._views.get(root)
        hours = self._windows.get((root, "1h"))
        if hours is None:
            raise OurError(f"{root} has no completed hour bar")
        ts = Nanos(hours.last_end) if ts is None else ts
        if view is None or view.ts != ts:
            kept, pair = self._populations.get(root, {}), self._pairs.get(root)
            view = _View(root, self._windows, kept, days_since=self._days_since, pair=pair, ts=ts)
            self._views[root] = view
        return view

    def _window(self, root: str, timeframe: Timeframe) -> BarWindow:
        key = (root, timeframe)
        if key not in self._windows:
            fellows = self._fellows[timeframe] if root in self._populations else None
            self._windows[key] = BarWindow(f"{root} {timeframe}", _TIMEFRAMES[timeframe], fellows)
        return self._windows[key]

    def _due(self, root: str, timeframe: Timeframe) -> list[_Population]:
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

    def _untouched(self, root: str, base: str) -> _Population:
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
        plan = _plan_of(names, version)
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


def _rows_held(table: BarTable, due: Sequence[_Population]) -> int:
    """How many of the table's first rows no population has to look at.

    Those a population holds it does not rank again, but its percentile needs the last one's value.
    """
    ends = table.data[:, 1]
    count = int(np.searchsorted(ends, min(population.held_ns for population in due), "right"))
    is_last_ranked = all(population.ranked_ns >= ends[-1] for population in due)
    return count if is_last_ranked or count < len(table) else count - 1


# -------------------------------------------------------------- populations


class _Population:
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
        added = np.frombuffer(b64decode(state.added), "<f8").tolist()
        self._added = array("d", added)
        self._sorted = array("d", sorted([*self._sorted, *added]))
        self._through_ns, self.ranked_ns, self._ranked = state.through_ns, state.ranked_ns, state.ranked


# ------------------------------------------------------------- evaluation


class _Result(NamedTuple):
    value: float | None
    reason: str = ""
    is_carried: bool = False


class _Plan(NamedTuple):
    """What a vector's names ask, by position; where a root's bars stand is found once for all that read them."""

    size: int
    of_one_root: tuple[tuple[BarInput, tuple[tuple[int, Feature], ...]], ...]
    """By what they read: the features of one root's bars."""
    others: tuple[tuple[int, str, Feature | None], ...]


@lru_cache(maxsize=64)
def _plan_of(names: tuple[str, ...], version: str) -> _Plan:
    known = features_of(version)
    of_one_root: dict[BarInput, list[tuple[int, Feature]]] = {}
    others: list[tuple[int, str, Feature | None]] = []
    for position, name in enumerate(names):
        match known.get(name):
            case Feature(form="value", inputs=(BarInput() as source,)) as feature:
                of_one_root.setdefault(source, []).append((position, feature))
            case feature:
                others.append((position, name, feature))
    return _Plan(
        size=len(names),
        of_one_root=tuple((source, tuple(features)) for source, features in of_one_root.items()),
        others=tuple(others),
    )


@attrs.define
class _Place:
    """Where one root and timeframe stands at the moment of decision."""

    name: str
    timeframe: Timeframe
    window: BarWindow
    count: int = 0
    """Its bars that had ended by then."""
    carried: int = 0
    """Hours since, for which its last close stands."""
    reason: str = ""
    """Why it cannot be used; empty when it can."""

    def obstacle(self, bars: int) -> str:
        """Why its last `bars` bars cannot be used; empty when they can (or are too few)."""
        if self.reason or not self.window.has_hole(self.count, bars):
            return self.reason
        return f"{self.name}: days without a bar inside the window"

    def value(self, of: Feature | PercentileBase) -> float | None:
        """What reads W of its bars; None when it is missing (`why`)."""
        carried = self.carried and min(self.carried, of.window - 1)
        if self.reason or self.window.has_hole(self.count, of.window - carried):
            return None
        return self.window.value(of, self.count, carried)

    def is_carried(self, of: Feature | PercentileBase) -> bool:
        """Whether one of the bars that it reads repeats a close."""
        return self.carried > 0 and of.window > 1

    def why(self, of: Feature | PercentileBase) -> str:
        """Why it is missing."""
        carried = min(self.carried, of.window - 1)
        return self.obstacle(of.window - carried) or _why(self.name, self.count + carried, of.window)


_NOTHING = BarWindow("", 0)
_OWN = {timeframe: BarInput(root=None, timeframe=timeframe) for timeframe in _TIMEFRAMES}


class _View:
    """What one root sees at the end of an hour bar of its own, which ends at `ts`."""

    def __init__(
        self,
        root: str,
        windows: Mapping[tuple[str, Timeframe], BarWindow],
        populations: Mapping[str, _Population],
        *,
        days_since: int,
        pair: str | None,
        ts: Nanos,
    ) -> None:
        self._days_since = days_since
        self._root, self._windows, self._populations = root, windows, populations
        self._hours = windows[root, "1h"]
        self._pair = pair
        self._places: dict[BarInput, _Place] = {}
        self._ranks: dict[str, _Result] = {}
        self._joined: dict[object, _Result] = {}
        self.ts = ts

    def evaluate(self, plan: _Plan) -> tuple[list[float | None], dict[int, str], list[int]]:
        """What is asked; why what is missing is so; what rests on carried closes: by position."""
        values: list[float | None] = [None] * plan.size
        reasons: dict[int, str] = {}
        carried: list[int] = []
        for source, features in plan.of_one_root:
            place = self._place_of(source)
            window, count = place.window, place.count
            is_plain = not (place.reason or place.carried or window.has_pauses)
            for position, feature in features:
                value = window.value(feature, count) if is_plain else place.value(feature)
                values[position] = value
                if value is None:
                    reasons[position] = place.why(feature)
                elif place.carried and place.is_carried(feature):
                    carried.append(position)
        for position, name, other in plan.others:
            values[position], reason, is_carried = self._of_more(other, name)
            if values[position] is None:
                reasons[position] = reason
            elif is_carried:
                carried.append(position)
        return values, reasons, carried

    def _of_more(self, feature: Feature | None, name: str) -> _Result:
        if feature is None:
            return _Result(None, unavailable(name) or "not in this feature set version")
        if feature.form == "value":
            return self.of_bars(feature)
        percentiles, is_carried = [], False
        for source in feature.inputs:
            if not isinstance(source, PercentileInput):
                raise OurError(f"{name}: bars and percentiles in one feature")
            result = self._ranks.get(source.base)
            if result is None:
                result = self._ranks[source.base] = self._percentile(source.base)
            if result.value is None:
                return result
            percentiles.append(result.value)
            is_carried |= result.is_carried
        return _Result(feature.function(*percentiles), "", is_carried)

    def of_bars(self, of: Feature | PercentileBase) -> _Result:
        """The value of what reads the bars of one root, or those and what is joined to them."""
        place = self._place_of(of.inputs[0])
        if len(of.inputs) == 1:
            return _of_place(of, place)
        key = (of.function, of.inputs)
        if key not in self._joined:
            self._joined[key] = _of_joined(of, place, self._place_of(of.inputs[1]))
        return self._joined[key]

    def _place_of(self, source: BarInput | PercentileInput) -> _Place:
        if not isinstance(source, BarInput):
            raise OurError(f"{source.base}: bars and percentiles in one feature")
        place = self._places.get(source)
        if place is None:
            place = self._places[source] = self._find(source)
        return place

    def _percentile(self, name: str) -> _Result:
        population = self._populations.get(name)
        if population is None:
            return _Result(None, f"the book keeps no population {name} of {self._root}")
        base = population.base
        place = self._place_of(_OWN[base.timeframe])
        if place.reason:
            return _Result(None, place.reason)
        if place.window.end_of(place.count) != population.ranked_ns:
            return _Result(None, f"{place.name}: the population {name} stands at another bar")
        if reason := place.obstacle(base.window):
            return _Result(None, reason)
        percentile = population.percentile()
        if base.is_own:
            why = "" if percentile is not None else _why(place.name, place.count, base.window)
            return _Result(percentile, why)
        value = self.of_bars(base)
        return value if value.value is None or percentile is None else value._replace(value=percentile)

    def _find(self, source: BarInput) -> _Place:
        root = self._root if source.root is None else self._pair if source.root == PAIR else source.root
        timeframe = source.timeframe
        if root is None:
            return _Place("", timeframe, _NOTHING, reason=f"{self._root} has no pair in the pair map")
        window = self._windows.get((root, timeframe))
        count = window.until(self.ts) if window is not None else 0
        if window is None or count == 0:
            return _Place(f"{root} {timeframe}", timeframe, _NOTHING, reason=f"{root} {timeframe}: no bars")
        name = window.name
        end = window.end_of(count)
        if timeframe == "1h":
            age = self.ts - end
            if age == 0:
                return _Place(name, timeframe, window, count)
            if age > CARRY_NS:
                return _Place(name, timeframe, window, reason=f"{name}: no trade for {age / HOUR:.1f} h")
            hours = self._hours.until(self.ts) - self._hours.until(end)
            return _Place(name, timeframe, window, count, hours)
        if end <= self._days_since:
            return _Place(name, timeframe, window, reason=f"{name}: lacks the last completed day")
        if root == self._root:
            hours = self._hours.started_since(end, self._hours.until(self.ts))
            return _Place(
                name, timeframe, window, count, reason=f"{name}: {hours} hours old" if hours > HOURS_PER_DAY else ""
            )
        own = self._place_of(_OWN["1d"])
        if own.reason:
            return _Place(name, timeframe, window, reason=own.reason)
        # Sessions of the same day overlap; days without a common moment are different days.
        is_behind = end <= own.window.start_of(own.count)
        return _Place(
            name, timeframe, window, count, reason=f"{name}: lacks the last completed day" if is_behind else ""
        )


def _of_place(of: Feature | PercentileBase, place: _Place) -> _Result:
    """The value of what reads W bars of one root."""
    value = place.value(of)
    return _Result(None, place.why(of)) if value is None else _Result(value, "", place.is_carried(of))


def _of_joined(of: Feature | PercentileBase, place: _Place, other: _Place) -> _Result:
    """The value of what reads W bars of one root and, at each of them, a bar of another."""
    if reason := place.obstacle(of.window) or other.reason:
        return _Result(None, reason)
    if place.count < of.window:
        return _Result(None, _why(place.name, place.count, of.window))
    joined = _joined_hours(of.window, place, other) or _joined_bars(of.window, place, other)
    if isinstance(joined, str):
        return _Result(None, joined)
    columns, is_carried = joined
    value = of.function(place.window.last(of.window, place.count), columns)
    if value is None or not math.isfinite(value):
        return _Result(None, _why(place.name, place.count, of.window))
    return _Result(value, "", is_carried)


def _joined_hours(bars: int, place: _Place, other: _Place) -> tuple[Columns, bool] | str | None:
    """What `_joined_bars` gives where each of the hours has a bar of both, as it mostly is; None where it has not."""
    if not place.timeframe == other.timeframe == "1h" or other.count < bars:
        return None
    (_, ends), (_, other_ends) = place.window.spans(place.count, bars), other.window.spans(other.count, bars)
    if ends.tobytes() != other_ends.tobytes():
        return None
    columns = other.window.last(bars, other.count)
    return None if columns is None else other.obstacle(bars) or (columns, False)


def _joined_bars(bars: int, place: _Place, other: _Place) -> tuple[Columns, bool] | str:
    """The other's bar at each of the last `bars` of `place`, and whether one of them had ended before; or why not."""
    reach = min(other.count, PAIR_REACH * bars)
    starts, ends = place.window.spans(place.count, bars)
    other_starts, other_ends = other.window.spans(other.count, reach)
    if place.timeframe == "1d":
        at = np.searchsorted(other_starts, ends, "left") - 1
        is_there = other_ends[at] > starts
    else:
        at = np.searchsorted(other_ends, ends, "right") - 1
        is_there = (ends - other_ends[at] <= CARRY_NS) | (other.timeframe == "1d")
    if not bool((is_there & (at >= 0)).all()):
        return f"{other.name}: not there at all of the {bars} bars"
    is_carried = other.timeframe == "1h" and bool((other_ends[at] < ends).any())
    at += other.count - reach
    return other.obstacle(other.count - int(at[0])) or (other.window.chosen(at), is_carried)


def _why(name: str, bars: int, window: int) -> str:
    return f"{name}: {bars} of {window} bars" if bars < window else f"{name}: undefined (a division by nothing)"
