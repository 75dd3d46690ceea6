"""A market and the feed that brings it, drawn from a seed: records, arrivals, lost connections.

The tape is fixed when it is drawn; connections serve it from where they are asked to. Nothing here
has a thread or a clock: what has arrived depends on `now`, or in simulated time on the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from domain.instruments import TradedRoot
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.ports import (
    DataExhausted,
    Ended,
    FeedItem,
    Heartbeat,
    Mapped,
    Records,
    ReplayCompleted,
    Subscribed,
)
from domain.units import MINUTE, SECOND, Nanos, Price

HEARTBEAT = Nanos(20 * SECOND)
TRANSIT = Nanos(3_000_000)
"""From the exchange's stamp to the vendor's."""


def draw_tape(draw: random.Random, roots: Sequence[TradedRoot], *, start: Nanos, end: Nanos, busy_s: int) -> TradeArray:
    """Trades of every root between two moments, in order of arrival; instrument ids count from 1.

    A walk in ticks that turns often, so that bars close on their lows and highs; after `busy_s` it is quiet.
    """
    rows: list[tuple[int, int, int]] = []
    for number, root in enumerate(roots):
        tick = root.data_spec.tick_size
        price = Price(draw.randint(15_000, 25_000) * tick)
        minute = start
        while minute < end:
            # Quiet at the end, and never silent: what is still to be filled waits for a trade.
            quiet = int((minute - start) // MINUTE % 3 == 0)
            is_busy = minute < start + busy_s * SECOND
            for _ in range(draw.choice((0, 1, 2, 3, 3)) if is_busy else quiet):
                price = Price(price + draw.choice((-9, -4, -2, -1, 0, 1, 2, 4, 9)) * tick)
                # A few records arrive in the first and last moments of a minute, where cuts are made.
                within = draw.choice((0, 1, MINUTE - 1, draw.randrange(MINUTE), draw.randrange(MINUTE)))
                rows.append((minute + within, 1 + number, price))
            minute = Nanos(minute + MINUTE)
    rows.sort()
    # Equal records are not one record: nothing tells two trades of one nanosecond apart.
    for place in sorted(draw.sample(range(len(rows)), min(2, len(rows))), reverse=True):
        rows.insert(place, rows[place])
    tape = np.zeros(len(rows), TRADE_DTYPE)
    tape["length"], tape["action"], tape["side"], tape["size"] = TRADE_LENGTH_WORDS, b"T", b"N", 1
    for name, column in (("ts_recv", 0), ("instrument_id", 1), ("price", 2)):
        tape[name] = [row[column] for row in rows]
    tape["ts_event"] = tape["ts_recv"] - TRANSIT
    return tape


@attrs.define
class SimulatedFeed:
    """Implements `domain.ports.FeedSource` on a tape. `now` is None in simulated time: then all is there at once."""

    tape: TradeArray
    symbols: Sequence[str]
    """In the order of their instrument ids, from 1."""
    end_ns: Nanos
    draw: random.Random
    now: Callable[[], Nanos] | None
    loss: float
    """How often, per look, a connection is lost."""
    is_calm: Callable[[], bool]
    """No connection is lost any more."""
    served: int = attrs.field(default=0, init=False)
    """How much of the tape any connection has sent: a replay is complete when it has come so far."""
    _last: SimulatedConnection | None = attrs.field(default=None, init=False)

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        return {}, Nanos(0)

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> SimulatedConnection:
        now = Nanos(0) if self.now is None else self.now()
        self._last = SimulatedConnection(self, now if start_ns is None else start_ns, now)
        return self._last

    def next_ns(self) -> Nanos:
        """When the last connection has something more."""
        return Nanos(0) if self._last is None else self._last.next_ns()


class SimulatedConnection:
    """Implements `domain.ports.FeedConnection`."""

    def __init__(self, feed: SimulatedFeed, start_ns: Nanos, now: Nanos) -> None:
        self._feed = feed
        self._next = int(np.argmax(feed.tape["ts_event"] >= start_ns)) if len(feed.tape) else 0
        if len(feed.tape) and feed.tape["ts_event"][-1] < start_ns:
            self._next = len(feed.tape)
        self._heartbeat = now
        self._is_greeted = self._is_over = False

    def next_ns(self) -> Nanos:
        """When something more arrives, in real time."""
        tape, heartbeat = self._feed.tape, Nanos(self._heartbeat + HEARTBEAT)
        if not self._is_greeted:
            return self._heartbeat
        return min(heartbeat, Nanos(int(tape["ts_recv"][self._next]))) if self._next < len(tape) else heartbeat

    def take(self, timeout_s: float) -> list[FeedItem]:
        """What has arrived; in simulated time a stretch of the tape."""
        feed = self._feed
        if self._is_over:
            return []
        if self._is_greeted and not feed.is_calm() and feed.draw.random() < feed.loss:
            self._is_over = True
            return [*self._arrived(), Ended(reason="connection lost")]
        items = [*self._greeting(), *self._arrived()]
        if feed.now is None and self._next == len(feed.tape):
            self._is_over = True
            items.append(DataExhausted(ts=feed.end_ns))
        return items

    def close(self) -> None:
        self._is_over = True

    def _greeting(self) -> list[FeedItem]:
        if self._is_greeted:
            return []
        self._is_greeted = True
        items: list[FeedItem] = [Subscribed()]
        items += [
            Mapped(symbol=symbol, raw_symbol=symbol, instrument_id=1 + number, ts=self._heartbeat)
            for number, symbol in enumerate(self._feed.symbols)
        ]
        return [*items, *self._arrived(), ReplayCompleted()]

    def _arrived(self) -> list[FeedItem]:
        feed = self._feed
        if feed.now is None:
            until = min(max(self._next + feed.draw.choice((1, 5, 40, 500)), feed.served), len(feed.tape))
        else:
            until = int(np.searchsorted(feed.tape["ts_recv"], feed.now(), side="right"))
        items: list[FeedItem] = []
        if until > self._next:
            items.append(Records(raw=feed.tape[self._next : until].tobytes()))
            self._next, feed.served = until, max(until, feed.served)
        if feed.now is not None and feed.now() >= self._heartbeat + HEARTBEAT:
            self._heartbeat = feed.now()
            items.append(Heartbeat(ts=self._heartbeat))
        return items
