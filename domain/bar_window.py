"""Windows of completed bars: what every feature reads.

A function of the registry (`domain.features`) gets a `Columns` of exactly as many bars as its
entry says and returns a number, or None for "missing"; one that is `Along` takes the windows of
several roots at once. Bars of hours and of days are the same to it: which timeframe and which root
it reads is the registry's. Prices are in 1e-9 of the quote currency, held as float64: whole
numbers, exact up to nine million. Differences of prices are therefore exact, equal ranges tie in
every percentile, and what rests on differences keeps its bits when a roll shifts the history. Only
what is stated in points or as a price is scaled back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Protocol

import attrs
import numpy as np
import numpy.typing as npt

from domain.errors import OurError
from domain.indicators import Column, Rows, atr, last_atr
from domain.units import HOUR

Instants = npt.NDArray[np.int64]

LONGEST_CLOSURE = 98 * HOUR
"""No exchange holiday keeps a market shut for longer: a longer pause between two bars is data that is not there."""
LOOKBACK = 252
"""Bars of the long windows: z-scores, ATR percentile. A year of days."""


@attrs.define(init=False, eq=False)
class Columns:
    """Completed bars of one root and timeframe, oldest first; prices in 1e-9, volume in contracts.

    What several features compute of the same window is computed once. (There is one for every window of every bar:
    made by hand it costs a tenth of a frozen class.)

    For a formula that is `Along`: of several roots, a row each; then without `start`.
    """

    start: Instants
    """The bars' starts, ns."""
    open: Rows
    high: Rows
    low: Rows
    close: Rows
    volume: Rows
    _atr: dict[int, Rows] = attrs.field(init=False, repr=False)
    _last_atr: dict[int, Column] = attrs.field(init=False, repr=False)

    def __init__(  # noqa: PLR0917 - by position: by name the call itself would cost more than the rest
        self, start: Instants, open: Rows, high: Rows, low: Rows, close: Rows, volume: Rows
    ) -> None:
        self.start, self.open, self.high, self.low, self.close, self.volume = start, open, high, low, close, volume
        self._atr, self._last_atr = {}, {}

    def last(self, bars: int) -> Columns:
        """The last `bars` of them, of rows without `start`."""
        columns = (self.open, self.high, self.low, self.close, self.volume)
        return Columns(self.start, *[column[:, -bars:] for column in columns])

    def atr(self, n: int) -> Rows:
        """`indicators.atr` of the whole window."""
        if n not in self._atr:
            self._atr[n] = atr(self.high, self.low, self.close, n)
        return self._atr[n]

    def last_atr(self, n: int) -> Column:
        """The last of `atr`."""
        if n not in self._last_atr:
            self._last_atr[n] = last_atr(self.high, self.low, self.close, n)
        return self._last_atr[n]


class Along:
    """A formula that runs along the last axis: of one window, or of the windows of several roots at once.

    `of_many` gives each row's value; it is, to the bit, what the row gives alone.
    """

    __name__: str

    def __init__(self, of_many: Callable[[Columns], Sequence[float | None]]) -> None:
        self.of_many = of_many
        update_wrapper(self, of_many)

    def __reduce__(self) -> str:
        return self.of_many.__qualname__  # where a decorator leaves it

    def __call__(self, bars: Columns) -> float | None:
        prices_and_volume = np.array((bars.open, bars.high, bars.low, bars.close, bars.volume))
        (value,) = self.of_many(_rows_of((prices_and_volume,)))
        return value


class Windowed(Protocol):
    """A function of exactly the last `window` bars: a feature of one input, or a percentile's base."""

    @property
    def function(self) -> Callable[..., float | None]: ...

    @property
    def window(self) -> int: ...


class Fellows:
    """Windows of several roots. What is `Along` and asked of one is computed for all that end with it."""

    def __init__(self) -> None:
        self._windows: list[BarWindow] = []
        self._longest = 0
        """Of the windows that were asked for."""
        self._rows: dict[tuple[int, int], tuple[list[BarWindow], Columns]] = {}
        """By the windows' end and length: those that are there, and their bars. Until one of them changes."""

    def join(self, window: BarWindow) -> None:
        self._windows.append(window)

    def leave(self, window: BarWindow) -> None:
        self._windows.remove(window)
        self.forget()

    def forget(self) -> None:
        self._rows.clear()

    def rows(self, end: int, bars: int) -> tuple[list[BarWindow], Columns]:
        """The windows whose last bar ends at `end` that hold `bars`, and a row of their last `bars` for each."""
        place = (end, bars)
        if place not in self._rows:
            windows = [window for window in self._windows if window.last_end == end and window.count >= bars]
            self._longest = max(self._longest, bars)
            # Copied once for all lengths, where all have the longest.
            if bars < self._longest <= min(window.count for window in windows):
                columns = self.rows(end, self._longest)[1].last(bars)
            else:
                columns = _rows_of([window.prices_and_volume(bars) for window in windows])
            self._rows[place] = windows, columns
        return self._rows[place]


class BarWindow:
    """The last bars of one root and timeframe in columns: at least `capacity` of them once there were as many.

    Filled from the left; when full, the last `capacity` move to the front: O(1) per bar on average.
    """

    def __init__(self, name: str, capacity: int, fellows: Fellows | None = None) -> None:
        self.name, self._capacity = name, capacity
        self._fellows = Fellows() if fellows is None else fellows
        self._fellows.join(self)
        self.count = 0
        """Bars held now."""
        self._prices_and_volume = np.empty((5, 2 * capacity))
        self._starts = np.empty(2 * capacity, np.int64)
        self._ends = np.empty(2 * capacity, np.int64)
        self._values: dict[tuple[object, int, int, int], float | None] = {}
        self._columns: dict[tuple[int, int, int], Columns] = {}
        self.last_end = 0
        """The end of the last bar; 0 before the first."""
        self._continuous_from = 0
        """The start of the first bar after the last pause longer than LONGEST_CLOSURE."""

    def leave(self) -> None:
        """Nothing is computed with its fellows any more."""
        self._fellows.leave(self)

    def append(self, start: int, end: int, values: Sequence[int]) -> None:
        if end <= self.last_end:
            raise OurError(f"{self.name}: a bar that ends at {end} after one that ends at {self.last_end}")
        if self.count == 2 * self._capacity:
            self._compact()
        if self.last_end and start - self.last_end > LONGEST_CLOSURE:
            self._continuous_from = start
        at = self.count
        self._prices_and_volume[:, at] = values
        self._starts[at], self._ends[at] = start, end
        self.count, self.last_end = at + 1, end
        self._forget()

    def extend(self, rows: npt.NDArray[np.int64]) -> None:
        """Append rows of a BarTable that no population needs one by one."""
        if len(rows) == 0:
            return
        ends = rows[:, 1]
        if int(ends[0]) <= self.last_end or not (ends[1:] > ends[:-1]).all():
            raise OurError(f"{self.name}: the history's bars are not in order after {self.last_end}")
        before = np.concatenate(([self.last_end or int(rows[0, 0])], ends[:-1]))
        pauses = np.flatnonzero(rows[:, 0] - before > LONGEST_CLOSURE)
        if len(pauses):
            self._continuous_from = int(rows[pauses[-1], 0])
        rows = rows[-self._capacity :]
        if self.count + len(rows) > 2 * self._capacity:
            self._compact()
        place = slice(self.count, self.count + len(rows))
        self._prices_and_volume[:, place] = rows[:, 2:7].T
        self._starts[place], self._ends[place] = rows[:, 0], rows[:, 1]
        self.count, self.last_end = place.stop, int(ends[-1])
        self._forget()

    def shift(self, difference: int) -> None:
        """Add `difference` to every price: the bars at another contract's level."""
        self._prices_and_volume[:4, : self.count] += difference
        self._forget()

    def _compact(self) -> None:
        kept = slice(max(0, self.count - self._capacity), self.count)
        count = kept.stop - kept.start
        self._prices_and_volume[:, :count] = self._prices_and_volume[:, kept].copy()
        self._starts[:count], self._ends[:count] = self._starts[kept].copy(), self._ends[kept].copy()
        self.count = count

    @property
    def has_pauses(self) -> bool:
        """Whether any of its bars came after one."""
        return self._continuous_from > 0

    def has_hole(self, count: int, bars: int) -> bool:
        """Whether the last `bars` of the first `count` bars lie on both sides of a pause no market makes."""
        if not self.has_pauses:
            return False
        first = count - bars
        return first >= 0 and int(self._starts[first]) < self._continuous_from

    def until(self, ts: int) -> int:
        """How many of the bars held had ended by `ts`."""
        if self.last_end <= ts:
            return self.count
        return int(self._ends[: self.count].searchsorted(ts, "right"))

    def end_of(self, count: int) -> int:
        if count == self.count:
            return self.last_end
        return int(self._ends[count - 1])

    def start_of(self, count: int) -> int:
        return int(self._starts[count - 1])

    def started_since(self, ts: int, count: int) -> int:
        """How many of the first `count` bars started at `ts` or later."""
        return count - int(self._starts[:count].searchsorted(ts, "left"))

    def spans(self, count: int, bars: int) -> tuple[Instants, Instants]:
        """Starts and ends of the last `bars` of the first `count` bars."""
        place = slice(count - bars, count)
        return self._starts[place], self._ends[place]

    def value(self, of: Windowed, count: int, carried: int = 0) -> float | None:
        """`of`'s function on the last of the first `count` bars, followed by `carried` that repeat the last close.

        None when they are too few or it is undefined there. Remembered until the next bar: daily values
        and other roots' are asked for many times.
        """
        key = (of.function, of.window, count, carried)
        try:
            return self._values[key]
        except KeyError:
            pass
        if isinstance(of.function, Along) and of.window <= count == self.count and not carried:
            windows, rows = self._fellows.rows(self.last_end, of.window)
            for window, value in zip(windows, of.function.of_many(rows), strict=True):
                window._remember((of.function, of.window, window.count, 0), value)
        else:
            columns = self.last(of.window, count, carried)
            self._remember(key, None if columns is None else of.function(columns))
        return self._values[key]

    def _remember(self, key: tuple[object, int, int, int], value: float | None) -> None:
        self._values[key] = value if value is not None and math.isfinite(value) else None

    def prices_and_volume(self, bars: int) -> npt.NDArray[np.float64]:
        """The last `bars` bars: open, high, low, close and volume, a row each."""
        return self._prices_and_volume[:, self.count - bars : self.count]

    def last(self, bars: int, count: int, carried: int = 0) -> Columns | None:
        """`bars` columns as `value` takes them, None when they are too few.

        Remembered too: features of one window share what they compute of it.
        """
        key = (bars, count, carried)
        if key not in self._columns:
            real = bars - carried
            if count < real:
                return None
            place = slice(count - real, count)
            prices_and_volume, starts = self._prices_and_volume[:, place], self._starts[place]
            if carried:
                last = np.array([[prices_and_volume[3, -1]]] * 4 + [[0.0]])
                prices_and_volume = np.hstack((prices_and_volume, np.repeat(last, carried, axis=1)))
                starts = np.append(starts, np.repeat(starts[-1:], carried))
            self._columns[key] = _columns(starts, prices_and_volume)
        return self._columns[key]

    def chosen(self, places: npt.NDArray[np.intp]) -> Columns:
        """The bars at these places, in their order."""
        return _columns(self._starts[places], self._prices_and_volume[:, places])

    def _forget(self) -> None:
        self._values.clear()
        self._columns.clear()
        self._fellows.forget()


def _rows_of(windows: Sequence[npt.NDArray[np.float64]]) -> Columns:
    """Columns of as many rows as there are windows."""
    rows = windows[0][:, None] if len(windows) == 1 else np.stack(windows, axis=1)
    return _columns(np.empty((len(windows), 0), np.int64), rows)


def _columns(starts: Instants, prices_and_volume: npt.NDArray[np.float64]) -> Columns:
    rows = prices_and_volume
    return Columns(starts, rows[0], rows[1], rows[2], rows[3], rows[4])
