"""What the journal knows about the feed, and what a resumed feed must not take twice.

`FeedMemory` outlives the FeedActor: it is the fold that a restarted actor, a restarted
process and the next session's file go on from. `ReplayFilter` takes out of a replay what
is on file already.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Collection

import numpy as np

from domain.envelope import Envelope
from domain.events import (
    ClockTicked,
    FeedStatusChanged,
    RootStatusChanged,
    StateCarried,
    SymbolMapped,
    TradesReceived,
)
from domain.market import TradeArray, empty_trades, last_event_time, trades_from_bytes
from domain.units import SECOND, Nanos

OVERLAP = Nanos(2 * SECOND)
"""How far before the last journaled record a resumed session starts: ts_event can be out of order."""


class FeedMemory:
    """What the journal says about the feed: the fold that a resumed connection starts from."""

    def __init__(self) -> None:
        self.ts_event: Nanos | None = None
        """The largest ts_event on record."""
        self.mapped: dict[str, SymbolMapped] = {}
        self.ids: set[int] = set()
        """Every instrument id that was ever mapped in this file: a contract may get another one in mid-session."""
        self.last_tick = Nanos(0)
        self.watermark = Nanos(0)
        self.status: str = "reconnecting"
        self.unmapped_roots: set[str] = set()
        """Roots that the feed goes on without."""
        self.has_records = False
        self._tail: deque[tuple[Nanos, TradeArray]] = deque()
        """The last batches, each with its largest ts_event."""

    def fold(self, envelope: Envelope) -> None:
        """Take in one event; cheap, and called under the sequencer's lock."""
        match envelope.payload:
            case TradesReceived(trades=trades):
                # The envelope's own ts_event is the batch's largest: looked for once, when it was sequenced.
                self._remember(trades, envelope.ts_event or last_event_time(trades))
            case ClockTicked(ts=ts, watermark=watermark):
                self.last_tick, self.watermark = max(self.last_tick, ts), max(self.watermark, watermark)
            case SymbolMapped() as mapped:
                self.mapped[mapped.contract] = mapped
                self.ids.add(mapped.instrument_id)
            case FeedStatusChanged(status=status):
                self.status = status
            case RootStatusChanged(root=root, status=status) if envelope.source == "feed":
                (self.unmapped_roots.add if status == "stale" else self.unmapped_roots.discard)(root)
            case StateCarried(resume_ts_event=ts_event, resume_records=records, watermark_ns=watermark):
                self.watermark = watermark
                if ts_event is not None:
                    self.ts_event = ts_event
                    self._tail.append((ts_event, trades_from_bytes(base64.b64decode(records))))
            case _:
                pass

    def _remember(self, trades: TradeArray, ts_event: Nanos) -> None:
        self.has_records = True
        self.ts_event = max(self.ts_event or Nanos(0), ts_event)
        self._tail.append((ts_event, trades))
        # Twice the overlap, so that a record whose ts_event came early is still here.
        while len(self._tail) > 1 and self._tail[0][0] < self.ts_event - 2 * OVERLAP:
            self._tail.popleft()

    def overlap(self) -> TradeArray:
        """Every record on file that a replay from `resume_ns` may send again."""
        if self.ts_event is None or not self._tail:
            return empty_trades()
        tail = np.concatenate([trades for _, trades in self._tail])
        return tail[tail["ts_event"] >= self.ts_event - OVERLAP]

    def resume_ns(self) -> Nanos | None:
        """Where to start the next connection, or None before the first record."""
        return None if self.ts_event is None else Nanos(self.ts_event - OVERLAP)


class ReplayFilter:
    """Drops from a replay what the journal already holds: by the multiset of whole records.

    (instrument_id, ts_event, sequence) is not unique on CME, so a set would lose real trades.
    """

    def __init__(self, journaled: TradeArray, start_ns: Nanos) -> None:
        self._expected = Counter(record.tobytes() for record in journaled)
        self.start_ns = start_ns

    def drop_known(self, trades: TradeArray) -> TradeArray:
        """`trades` without what is expected as a repetition."""
        if not self._expected:
            return trades
        is_new = np.ones(len(trades), bool)
        for index in range(len(trades)):
            key = trades[index].tobytes()
            if self._expected.get(key, 0) > 0:
                self._expected[key] -= 1
                is_new[index] = False
        self._expected = +self._expected
        return trades[is_new]

    def finish(self, subscribed: Collection[int]) -> int:
        """The replay is over: what comes now is new, also when it looks the same.

        Returns how many records on file of these instrument ids should have come again and did not. A replay that
        leaves out what we have may have left out what we lack. Not counted is what has no clear stamp.
        """
        left = trades_from_bytes(b"".join(self._expected.elements()))
        self._expected.clear()
        has_stamp = (left["ts_event"] >= self.start_ns) & (left["ts_event"] <= left["ts_recv"])
        return int(np.count_nonzero(has_stamp & np.isin(left["instrument_id"], sorted(subscribed))))
