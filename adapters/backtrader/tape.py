"""The turns of one root's session in a plain `cerebro.run()`: bars only where something can happen.

Every decision bar is a turn. A minute is one only while a position or an order is open: nothing in the
strategy looks at any other. Two moments need no bar, as live: the auto-close (or a roll's close), and a
market order that no trade has filled for `NO_TRADE_LIMIT`, which then fills at the last close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from adapters.backtrader.feeds import _ClosedBars, stamp_of
from domain.backtest import CLOSE, END, OPEN, START
from domain.history import Rows
from domain.units import MINUTE, PRICE_SCALE, SECOND, Nanos

NO_TRADE_LIMIT = Nanos(600 * SECOND)
"""As in execution: an order without a trade for this long is taken for filled."""

_NEVER = Nanos(2**63 - 1)

_Row = Sequence[int]
"""start, end, open, high, low, close, volume, …"""


class Watcher(Protocol):
    """Who says whether minutes matter: the strategy of one root."""

    @property
    def is_watching(self) -> bool:
        """A position or an order is open."""
        ...

    @property
    def market_order(self) -> int | None:
        """The number of an unfinished market order."""
        ...


class TapeFeed(_ClosedBars):
    """Holds at most one bar, the one of the running turn; only a `Tape` fills it."""

    def start(self) -> None:
        super().start()
        self.pending: tuple[float, _Row] | None = None
        self.tape: Tape | None = None
        """Of the feed that begins every turn, the first one in Backtrader's order; None in the others."""
        self.is_over = False
        lines = self.lines
        self._columns = (lines.open, lines.high, lines.low, lines.close)
        self._ticks = [
            (f"tick_{alias}", getattr(lines, alias)) for alias in self.getlinealiases() if alias != "datetime"
        ]

    def islive(self) -> bool:
        return True  # preload and runonce are off: a bar may depend on what the strategy did

    def haslivedata(self) -> bool:
        return True  # nobody waits for a queue

    def do_qcheck(self, onoff: bool, qlapse: float) -> None:
        """Nothing to wait for."""

    def __len__(self) -> int:
        length: int = self.line.lencount
        return length

    def _tick_fill(self, force: bool = False) -> None:
        for name, line in self._ticks:
            setattr(self, name, line[0])
        self.tick_last = self.tick_close

    def next(self, datamaster: Any = None, ticks: bool = True) -> bool | None:
        """The bar of this turn; None without one, False when the session is over."""
        if datamaster is None and self.tape is not None:
            self.tape.advance()
        if self.pending is None:
            return False if self.is_over else None
        stamp, row = self.pending
        self.pending = None
        self.forward()
        lines = self.lines
        lines.datetime[0] = stamp
        for line, price in zip(self._columns, row[2:6], strict=True):
            line[0] = price / PRICE_SCALE
        lines.volume[0] = row[6]
        lines.openinterest[0] = 0.0
        lines.length_s[0] = (row[1] - row[0]) / SECOND
        return True


class Tape:
    """One root's session. `minutes` and `hours` end ascending; `clocks` are moments that need no bar, ascending."""

    def __init__(
        self,
        *,
        minutes: Rows,
        hours: Rows,
        clocks: Sequence[Nanos],
        feeds: tuple[TapeFeed, TapeFeed, TapeFeed],
        watcher: Watcher,
        is_every_minute: bool,
        until: Nanos | None = None,
    ) -> None:
        """`feeds`: minutes, clock, hours. `is_every_minute`: minutes decide too. `until`: later turns have a bar."""
        self._minutes, self._minute_ends = minutes, np.ascontiguousarray(minutes[:, END])
        self._hours, self._hour_ends = hours, hours[:, END].tolist()
        self._until = _NEVER if until is None else until
        self._clocks = tuple(ts for ts in clocks if ts <= self._until)
        self._minute_feed, self._clock_feed, self._hour_feed = feeds
        self._watcher, self._is_every_minute = watcher, is_every_minute
        self._minute = self._hour = self._clock = 0
        """The first one of each that is not over."""
        self.now = 0
        """The running turn."""
        self.is_untraded = False
        """The running turn is the end of the time that a market order waits for a trade."""
        self._order: tuple[int, int] | None = None
        """The unfinished market order and when it was asked for."""
        self._untraded_at: int | None = None

    def advance(self) -> None:
        """Give the feeds the bars of the next turn, or end them."""
        is_awake = self._is_every_minute or self._watcher.is_watching
        turn = self._awake() if is_awake else self._asleep()
        if turn is None:
            for feed in (self._minute_feed, self._clock_feed, self._hour_feed):
                feed.is_over = True
            return
        ts, minute = turn
        if minute is None and self.now == 0:
            # A position carried into the session may have to be left before a minute: an order needs a bar.
            first = self._minutes[:1, OPEN] if len(self._minutes) else self._hours[:1, OPEN]
            minute = _flat(ts, int(first[0]) if len(first) else 0)
        stamp = stamp_of(Nanos(ts))
        if self._hour < len(self._hour_ends) and self._hour_ends[self._hour] == ts:
            self._hour_feed.pending = (stamp, self._hours[self._hour].tolist())
            self._hour += 1
        if minute is not None:
            self._minute_feed.pending = (stamp, minute)
        elif self._hour_feed.pending is None:
            self._clock_feed.pending = (stamp, _flat(ts, 0))
        self.now, self.is_untraded = ts, self._untraded_at == ts

    def _asleep(self) -> tuple[int, _Row] | None:
        """The next decision bar, with the minute that it ends with: an order is placed on a feed that has a bar."""
        self._order = self._untraded_at = None
        if self._hour == len(self._hour_ends):
            return None
        ts = self._hour_ends[self._hour]
        self._minute = int(np.searchsorted(self._minute_ends, ts, "right"))
        last = self._minutes[self._minute - 1] if self._minute else self._hours[self._hour]
        return ts, last.tolist() if last[END] == ts and self._minute else _flat(ts, int(last[CLOSE]))

    def _awake(self) -> tuple[int, _Row | None] | None:
        """Whatever comes first; ties are one turn."""
        candidates = []
        has_minute = self._minute < len(self._minutes)
        if has_minute:
            candidates.append(int(self._minute_ends[self._minute]))
        if self._hour < len(self._hour_ends):
            candidates.append(self._hour_ends[self._hour])
        while self._clock < len(self._clocks) and self._clocks[self._clock] <= self.now:
            self._clock += 1
        if self._clock < len(self._clocks) and self._watcher.is_watching:
            candidates.append(self._clocks[self._clock])
        self._untraded_at = self._untraded()
        if self._untraded_at is not None:
            candidates.append(self._untraded_at)
        if not candidates:
            return None
        ts = min(candidates)
        if has_minute and self._minute_ends[self._minute] == ts:
            self._minute += 1
            return ts, self._minutes[self._minute - 1].tolist()
        return ts, None

    def _untraded(self) -> int | None:
        """When a market order is taken for filled, which has no trade by then."""
        ref = self._watcher.market_order
        if ref is None:
            self._order = None
            return None
        if self._order is None or self._order[0] != ref:
            self._order = (ref, self.now)
        ts = self._order[1] + NO_TRADE_LIMIT
        if not self.now < ts <= self._until:
            return None  # given once; a recorded order has not taken it
        is_traded = self._minute < len(self._minutes) and self._minutes[self._minute, START] <= ts
        return None if is_traded else ts


def _flat(end: int, price: int) -> _Row:
    return (end - MINUTE, end, price, price, price, price, 0, 0)
