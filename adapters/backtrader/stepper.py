"""Cerebro in lock step: one slice, one turn of Backtrader's own loop.

`run()` starts everything and calls `_runnext`; we leave it there through a private
exception, before its stop code, with the engine parked. Each `step` then calls the
original `_runnext` again and lets exactly one turn of its loop through. No thread,
no polling, no copied engine code.

A turn without a bar is refused: Backtrader would ask the wall clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import backtrader as bt

from adapters.backtrader.feeds import SliceFeed, stamp_of
from domain.bars import Bar
from domain.errors import OurError
from domain.units import Nanos


class _Parked(Exception):
    """Leaves `run()` once everything is started."""


class StepCerebro(bt.Cerebro):  # type: ignore[misc]  # backtrader has no types
    """A Cerebro that is opened once and then stepped.

    Orders and trades are numbered by counters of this engine, swapped into
    Backtrader's class-level ones around every turn: two engines in one process
    number theirs as if they were alone.
    """

    datas: list[SliceFeed]

    def open(self, **options: Any) -> Any:
        """Start feeds, broker and strategies and park. `options` are `run`'s; returns the strategies."""
        if not self.datas or not all(isinstance(data, SliceFeed) for data in self.datas):
            raise OurError("a stepped Cerebro needs at least one feed, and takes SliceFeeds only")
        self._is_parking = True
        self._is_usable = False
        self._turns_left = 0
        self._counters = (itertools.count(1), itertools.count(1))
        with self.pinned():
            try:
                self.run(**options)
            except _Parked:
                self._is_parking = False
        self._is_usable = True
        return self.runningstrats

    def step(self, ts: Nanos, bars: Iterable[tuple[SliceFeed, Bar]]) -> None:
        """One turn at `ts` with these bars, at most one per feed.

        Raises OurError without a bar, and after any exception in an earlier turn: the
        engine then stands in the middle of a turn and must be rebuilt from the journal.
        """
        self.require_usable()
        self._is_usable = False
        stamp = stamp_of(ts)
        is_empty = True
        for feed, bar in bars:
            feed.offer(stamp, ts, bar)
            is_empty = False
        if is_empty:
            self._is_usable = True
            raise OurError(f"an engine turn at {ts} without a bar")
        self._event_stop = False
        self._turns_left = 1
        # The loop asks each of its feeds half a dozen questions a turn; one without a bar has nothing to answer.
        every_feed, self.datas = self.datas, [feed for feed in self.datas if feed.has_bar]
        try:
            with self.pinned():
                super()._runnext(self.runningstrats)
        finally:
            self.datas = every_feed
        self._is_usable = True

    def deliver(self) -> None:
        """Hand what the broker has to say to the strategies now, without a turn of the loop."""
        self.require_usable()
        self._is_usable = False
        with self.pinned():
            self._brokernotify()
            for strategy in self.runningstrats:
                strategy._notify()
                strategy.clear()
        self._is_usable = True

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Number orders and trades with this engine's own counters inside."""
        theirs = (bt.Order.refbasis, bt.Trade.refbasis)
        bt.Order.refbasis, bt.Trade.refbasis = self._counters
        try:
            yield
        finally:
            bt.Order.refbasis, bt.Trade.refbasis = theirs

    def require_usable(self) -> None:
        """Raises OurError when the engine was left in the middle of a turn."""
        if not self._is_usable:
            raise OurError("the engine failed in an earlier turn: rebuild it from the journal")

    def close(self) -> None:
        """Stop strategies, broker and feeds. Nothing is drained: no partial bar is flushed."""
        self._is_usable = False
        for strategy in self.runningstrats:
            strategy._stop()
        self._broker.stop()
        for data in self.datas:
            data.stop()

    def _runnext(self, runstrats: Any) -> None:
        if self._is_parking:
            raise _Parked
        super()._runnext(runstrats)

    def _storenotify(self) -> None:
        # The first call of every turn; `_runnext` tests _event_stop on its next line.
        super()._storenotify()
        if self._turns_left == 0:
            self._event_stop = True
        else:
            self._turns_left -= 1
