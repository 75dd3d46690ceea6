"""What one root sees at the end of an hour of its own: where its bars and others' stand, and the values of features.

Whatever is not there, not complete, stale or undefined is *missing*, with its reason; nothing is filled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import attrs
import numpy as np

from domain.bar_window import BarWindow, Columns
from domain.bars import Timeframe
from domain.errors import OurError
from domain.features import (
    PAIR,
    PAIR_REACH,
    BarInput,
    Feature,
    PercentileBase,
    PercentileInput,
    features_of,
    unavailable,
)
from domain.populations import Population
from domain.units import HOUR, Nanos

CARRY_NS = Nanos(2 * HOUR)
"""How long another root's last close stands for hours without a trade."""
HOURS_PER_DAY = 24
"""A day bar is stale when more hour bars than this have started since it ended."""


class _Result(NamedTuple):
    value: float | None
    reason: str = ""
    is_carried: bool = False


class FeaturePlan(NamedTuple):
    """What a vector's names ask, by position; where a root's bars stand is found once for all that read them."""

    size: int
    of_one_root: tuple[tuple[BarInput, tuple[tuple[int, Feature], ...]], ...]
    """By what they read: the features of one root's bars."""
    others: tuple[tuple[int, str, Feature | None], ...]


@lru_cache(maxsize=64)
def plan_of(names: tuple[str, ...], version: str) -> FeaturePlan:
    """For vectors of these names. Raises OperatorError for an unknown version."""
    known = features_of(version)
    of_one_root: dict[BarInput, list[tuple[int, Feature]]] = {}
    others: list[tuple[int, str, Feature | None]] = []
    for position, name in enumerate(names):
        match known.get(name):
            case Feature(form="value", inputs=(BarInput() as source,)) as feature:
                of_one_root.setdefault(source, []).append((position, feature))
            case feature:
                others.append((position, name, feature))
    return FeaturePlan(
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
_OWN: Mapping[Timeframe, BarInput] = {
    "1h": BarInput(root=None, timeframe="1h"),
    "1d": BarInput(root=None, timeframe="1d"),
}


class FeatureView:
    """What one root sees at the end of an hour bar of its own, which ends at `ts`."""

    def __init__(
        self,
        root: str,
        windows: Mapping[tuple[str, Timeframe], BarWindow],
        populations: Mapping[str, Population],
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

    def evaluate(self, plan: FeaturePlan) -> tuple[list[float | None], dict[int, str], list[int]]:
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
