"""What a gateway has released so far, and what time it is in its feed.

Three clocks. With `speed` N the feed runs N times as fast as the wall, with
`MAX_SPEED` as fast as clients read; in both it stands still while no session
streams. In real time the feed's clock is the wall's. This module owns no socket.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import attrs
import numpy as np
import numpy.typing as npt

from adapters.databento.gateway_source import GatewaySource
from domain.errors import OperatorError
from domain.market import TradeArray
from domain.sessions import iso_utc
from domain.units import MINUTE, SECOND, Nanos, floor_to

MAX_SPEED = math.inf
POLL_S = 0.05
"""A record that is due waits this long at most."""
_SHORTEST_SLEEP_S = 0.001
_CACHED_SEGMENTS = 2
_REPLAY_AHEAD = Nanos(2 * MINUTE)
"""How far past a start that lies ahead of the clock the clock is set: see `Feed.catch_up`."""


class Position(NamedTuple):
    """The next record to release: its segment and its place in it. Ordered in feed time."""

    segment: int
    offset: int


@attrs.frozen(kw_only=True, eq=False)
class Segment:
    """A segment's records, with the ts_recv column contiguous for searching."""

    trades: TradeArray
    stamps: npt.NDArray[np.uint64]

    def index_at(self, ts: Nanos) -> int:
        """The index of the first record received at `ts` or later."""
        return int(np.searchsorted(self.stamps, np.uint64(max(ts, 0)), side="left"))


class Feed:
    """A source under one clock, shared by all sessions of a gateway."""

    def __init__(
        self,
        source: GatewaySource,
        *,
        speed: float,
        start_at_ns: Nanos | None = None,
        is_real_time: bool = False,
        disturb: Callable[[int, TradeArray], TradeArray] = lambda segment, trades: trades,
    ) -> None:
        if not speed > 0:
            raise OperatorError(f"speed {speed} is not above 0", where="--speed", fix="give 1, 60 or max", exit_code=2)
        self.source = source
        self.speed = speed
        self.is_real_time = is_real_time
        self._start_ns = source.span(0)[0] if start_at_ns is None else start_at_ns
        self._disturb = disturb
        self.begin()
        self._segments: dict[int, Segment] = {}
        self._loading = asyncio.Lock()
        if start_at_ns is not None:
            self._refuse_outside(start_at_ns)

    def begin(self) -> None:
        """Forget what was released, as a gateway that is started does."""
        self.position = Position(0, 0)
        self._clock_ns = self._start_ns

    @property
    def now_ns(self) -> Nanos:
        """The feed's time."""
        return Nanos(time.time_ns()) if self.is_real_time else self._clock_ns

    @property
    def end_ns(self) -> Nanos | None:
        """The exclusive end of the data; None when it never ends."""
        count = self.source.segment_count
        return None if count is None else self.source.span(count - 1)[1]

    async def load(self, segment: int) -> Segment:
        """The records of a segment; the last few stay in memory."""
        async with self._loading:
            found = self._segments.get(segment)
            if found is None:
                trades = await asyncio.to_thread(lambda: self._disturb(segment, self.source.trades(segment)))
                found = Segment(trades=trades, stamps=np.ascontiguousarray(trades["ts_recv"]))
                self._segments[segment] = found
                while len(self._segments) > _CACHED_SEGMENTS:
                    del self._segments[next(iter(self._segments))]
            return found

    async def seek(self, ts: Nanos) -> Position:
        """The position of the first record received at `ts` or later."""
        segment = self.source.segment_at(ts)
        if self.is_past_end(segment):
            return Position(segment, 0)
        return Position(segment, (await self.load(segment)).index_at(ts))

    def is_past_end(self, segment: int) -> bool:
        """Whether the data ends before `segment`."""
        count = self.source.segment_count
        return count is not None and segment >= count

    async def join(self) -> Position:
        """Where a session that starts now begins: everything before is the past."""
        if self.is_real_time or self.position == Position(0, 0):
            self.position = max(self.position, await self.seek(self.now_ns))
        return self.position

    async def catch_up(self, start_ns: Nanos) -> None:
        """Move a simulated clock that is behind a replay's start past it.

        A client that resumes at 12:00 from a gateway that has just been started anew was
        served up to 12:00 by the gateway before it. Its replay must reach beyond what it
        has (the clients' overlap is seconds), or it would meet those records as new ones.
        """
        if self.is_real_time or start_ns <= self._clock_ns:
            return
        clock_ns = Nanos(floor_to(start_ns, MINUTE) + _REPLAY_AHEAD)
        if self.end_ns is not None:
            clock_ns = min(clock_ns, self.end_ns)
        self.release(await self.seek(clock_ns), clock_ns)

    def release(self, position: Position, clock_ns: Nanos) -> None:
        """Note that everything before `position` has been sent by the feed's time `clock_ns`."""
        self.position = max(self.position, position)
        self._clock_ns = max(self._clock_ns, clock_ns)

    def _refuse_outside(self, start_at_ns: Nanos) -> None:
        start_ns, end_ns = self.source.span(0)[0], self.end_ns
        if start_at_ns < start_ns or (end_ns is not None and start_at_ns >= end_ns):
            raise OperatorError(
                f"{iso_utc(start_at_ns)} is outside the data",
                where="--start-at",
                fix=f"give a moment from {iso_utc(start_ns)}" + (f" to {iso_utc(end_ns)}" if end_ns else ""),
                exit_code=2,
            )


class Pacer:
    """Tells one session up to which feed time records are due."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.jump_to(feed.now_ns)

    def jump_to(self, feed_ns: Nanos) -> None:
        """Count from `feed_ns` on, from now on: skips the time between two segments."""
        self._feed_ns = feed_ns
        self._wall_ns = time.monotonic_ns()

    def due_ns(self) -> Nanos | None:
        """Records received before this are due; None when all are."""
        if self._feed.is_real_time:
            return self._feed.now_ns
        if self._feed.speed == MAX_SPEED:
            return None
        return Nanos(self._feed_ns + int((time.monotonic_ns() - self._wall_ns) * self._feed.speed))

    def wait_s(self, until_ns: Nanos, due_ns: Nanos) -> float:
        """How long to sleep before looking whether `until_ns` is due."""
        speed = 1.0 if self._feed.is_real_time else self._feed.speed
        return min(POLL_S, max(_SHORTEST_SLEEP_S, (until_ns - due_ns) / SECOND / speed))
