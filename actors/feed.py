"""FeedActor: the market's way into the journal, without loss and without duplicates.

It owns one connection at a time. What has arrived is *held* until a batch is complete:
4,096 records, or all before the next minute or deadline. What is held and not yet
published when a connection or the actor dies is dropped and fetched again: the resume
point is what the journal holds (`FeedMemory`), never what was seen.

In simulated time (`clock: feed`) the feed is also the clock, and publishes the next thing
only when nothing is owed and nothing is in flight. In real time it publishes as minutes
pass and moves the watermark up to which minutes may close (`FeedTime`).

What it cannot get is said: the whole feed's status, a root that is not mapped, and for each
root whose bars lack records a `RootReset`.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import attrs
import numpy as np
import structlog

from actors.actor import Report, Start, SupervisedActor
from actors.clock import RealTimeClock, due_at
from actors.faults import Faults
from actors.feed_memory import FeedMemory, ReplayFilter
from actors.feed_time import FeedTime
from actors.sequencer import Sequencer
from domain.errors import OperatorError, OurError
from domain.events import (
    ClockTicked,
    Event,
    FeedStatusChanged,
    RootReset,
    RootStatusChanged,
    SessionOpened,
    SymbolMapped,
    TradesReceived,
)
from domain.instruments import ResolvedContract
from domain.market import FRAME_LIMIT, TradeArray, empty_trades, trades_from_bytes, with_arrival
from domain.ports import (
    DataExhausted,
    Ended,
    FeedConnection,
    FeedItem,
    FeedSource,
    Heartbeat,
    Mapped,
    Records,
    ReplayCompleted,
    SlowReader,
    Subscribed,
    Unresolved,
)
from domain.units import MINUTE, SECOND, Nanos, floor_to

REPLAY_WINDOW = Nanos(23 * 3600 * SECOND + 55 * 60 * SECOND)
"""Databento replays the last 24 hours; asked for more it sends nothing."""
FRESH_LAG = Nanos(3 * SECOND)
"""A feed whose last record is no older than this is not behind."""
STRANGERS_LIMIT = 100_000
"""Records of unknown ids that are kept, the last ones."""
MAPPING_PATIENCE_S = 10.0
"""A contract that is not mapped by then does without; every other root goes on."""
TAKE_TIMEOUT_S = 0.1
BACKOFF_FIRST_S = 0.2
BACKOFF_CAP_S = 30.0

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class FeedFinished:
    """Why the feed has nothing more to do in this session."""

    reason: Literal["session_over", "exhausted", "until", "refused"]
    is_exhausted: bool = False
    """The feed has no more data at all."""
    error: OperatorError | None = None


class _Pump:
    """Tells the actor to look at its connection again."""


class FeedActor(SupervisedActor):
    """One session's feed; restarted, it resumes from `memory`."""

    def __init__(
        self,
        *,
        sequencer: Sequencer,
        source: FeedSource,
        opened: SessionOpened,
        memory: FeedMemory,
        clock: RealTimeClock | None,
        now: Callable[[], Nanos],
        until_ns: Nanos | None,
        stopping: threading.Event,
        on_finished: Callable[[FeedFinished], None],
        report: Report,
        faults: Faults,
    ) -> None:
        super().__init__("feed", report)
        self._sequencer = sequencer
        self._source = source
        self._opened = opened
        self._memory = memory
        self._clock = clock
        self._now = now
        self._stopping = stopping
        self._on_finished = on_finished
        self._faults = faults
        self._end_ns = min(opened.session.end_ns, until_ns or opened.session.end_ns)
        self._until_ns = until_ns if until_ns is not None and until_ns < opened.session.end_ns else None
        self._contracts = {c.raw_symbol: c for c in opened.contracts if c.raw_symbol is not None}
        self._connection: FeedConnection | None = None
        self._filter = ReplayFilter(empty_trades(), Nanos(0))
        self._held = empty_trades()
        self._unmapped: set[str] = set()
        """Contracts that are traded and not mapped yet: nothing is published before they are."""
        self._strangers = empty_trades()
        """Records of ids that no mapping has named yet."""
        self._foreign: set[int] = set()
        """Ids that the feed has named as something else, such as the spreads of a parent symbol."""
        self._is_replaying = False
        self._exhausted_ns: Nanos | None = None
        self._time = FeedTime()
        self._connected_s = 0.0
        self._mapped_ns = Nanos(0)
        """The gateway's time of the last mapping."""
        self._lost_after: Nanos | None = None
        """Records after this moment are lost, and the next connection says until when."""
        self._newest: Nanos | None = None
        """Stamp of the last record of this look at the connection."""
        self._is_flushing = False
        self._failures = 0
        self._is_finished = False

    def receive(self, message: Any) -> None:
        if isinstance(message, Start):
            if self._stopping.is_set():
                return
            # Everyone else recovers first: in simulated time nothing may be owed when the market moves.
            if self._clock is None and not self._sequencer.wait_quiet(self._stopping.is_set):
                return
            self._faults.reach("feed", self._sequencer.seq + 1, "catch_up")
            if self._memory.status == "live":
                self._publish(FeedStatusChanged(status="reconnecting", reason="the feed was restarted"))
            self._connect(with_replay=True)
        elif not self._is_finished and not self._stopping.is_set():
            self._pump()
        if self._is_finished:
            self.stop()
        elif not self._stopping.is_set():
            self.actor_ref.tell(_Pump())

    def on_stop(self) -> None:
        self._disconnect()
        super().on_stop()

    def on_failure(self, *failure: Any) -> None:
        try:
            self._disconnect()
        finally:
            super().on_failure(*failure)

    # ------------------------------------------------------------- connection

    def _connect(self, *, with_replay: bool) -> None:
        start = self._memory.resume_ns()
        self._held = empty_trades()
        self._strangers = empty_trades()
        self._unmapped = {raw for raw, contract in self._contracts.items() if contract.rank == 0}
        self._exhausted_ns = None
        self._time.connect()
        self._connected_s = time.monotonic()
        start_ns = self._opened.feed_start_ns if start is None else start
        if self._clock is not None and with_replay and start_ns < (oldest := Nanos(self._now() - REPLAY_WINDOW)):
            reason = "the last record is older than the vendor's replay"
            # After a weekend too, but then nothing has traded since.
            if resets := self._resets(start_ns, oldest, reason):
                self._publish(FeedStatusChanged(status="gap", reason=reason), *resets)
            start_ns = oldest
        self._filter = ReplayFilter(self._memory.overlap() if with_replay else empty_trades(), start_ns)
        self._is_replaying = with_replay
        self._connection = self._source.connect(sorted(self._contracts), start_ns if with_replay else None)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reconnect(self, ended: Ended) -> None:
        self._disconnect()
        if ended.is_fatal:
            what = f"the gateway refuses us for good: {ended.reason}"
            self._publish(FeedStatusChanged(status="stale", reason=what))
            error = OperatorError(
                what,
                where="feed",
                fix="check DATABENTO_API_KEY, its entitlement to the dataset and the symbols, and start again: the "
                "session goes on from its journal. What is held stays held meanwhile",
            )
            self._finish(FeedFinished(reason="refused", error=error))
            return
        if ended.is_aged_out:
            # Backfill needs the vendor's history; until then the gap is on record and bars miss it.
            self._publish(FeedStatusChanged(status="gap", reason=ended.reason))
            self._lost_after = self._memory.ts_event or self._opened.feed_start_ns
        elif self._memory.status in ("live", "stale"):
            self._publish(FeedStatusChanged(status="reconnecting", reason=ended.reason))
        log.warning("the feed's connection ended", reason=ended.reason, failures=self._failures)
        cap = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        if not self._stopping.wait(BACKOFF_FIRST_S + random.uniform(0.0, cap)):
            self._connect(with_replay=not ended.is_aged_out)

    def _pump(self) -> None:
        if self._connection is None:
            raise OurError("the feed was pumped without a connection")
        ended = None
        self._newest = None
        for item in self._connection.take(TAKE_TIMEOUT_S):
            ended = self._take(item) or ended
        self._do_without_unmapped()
        if self._clock is None:
            self._drain_simulated()
        else:
            self._drain_real(self._clock)
        if ended is not None and not self._is_finished and not self._stopping.is_set():
            self._reconnect(ended)

    def _take(self, item: FeedItem) -> Ended | None:
        match item:
            case Records(raw=raw):
                self._hold(self._filter.drop_known(with_arrival(trades_from_bytes(raw))))
            case Mapped():
                self._map(item)
            case Unresolved(reason=reason):
                self._give_up(reason)
            case ReplayCompleted():
                self._check_seam()
                self._is_replaying, self._newest = False, None
                self._go_live()
            case DataExhausted(ts=ts):
                self._exhausted_ns = ts
            case Heartbeat(ts=ts):
                # During a replay the gateway's clock is ahead of what it still has to send.
                self._failures = 0
                if not self._is_replaying:
                    self._time.beat(ts, Nanos(time.monotonic_ns()))
            case SlowReader(reason=reason):
                # In simulated time the market waits for us: being behind is how it should be.
                if self._clock is not None and self._memory.status == "live":
                    self._publish(FeedStatusChanged(status="stale", reason=reason))
            case Ended():
                return item
            case Subscribed():
                pass
        return None

    def _check_seam(self) -> None:
        """The vendor says that a replay is complete; what we have and it left out says otherwise."""
        if missing := self._filter.finish(self._memory.ids):
            reason = f"the replay left out {missing} records that are on file: others may be missing too"
            resets = self._resets(self._filter.start_ns, self._mapped_ns, reason)
            self._publish(FeedStatusChanged(status="gap", reason=reason), *resets)

    def _hold(self, fresh: TradeArray) -> None:
        """Keep records, in the order of arrival, until their batch is complete."""
        if self._foreign:
            fresh = fresh[~np.isin(fresh["instrument_id"], sorted(self._foreign))]
        if not len(fresh):
            return
        # A gateway that accepts, says hello and ends is not better than one that refuses: only news are progress.
        self._failures = 0
        if self._clock is not None:
            self._time.traded(fresh, Nanos(time.monotonic_ns()))
            self._newest = Nanos(int(fresh["ts_recv"][-1]))
        self._held = np.concatenate((self._held, fresh)) if len(self._held) else fresh

    def _map(self, mapped: Mapped) -> None:
        contract = self._contracts.get(mapped.raw_symbol)
        if contract is None:
            self._foreign.add(mapped.instrument_id)
            self._strangers = self._strangers[self._strangers["instrument_id"] != mapped.instrument_id]
            return
        self._mapped_ns = mapped.ts
        self._foreign.discard(mapped.instrument_id)
        self._unmapped.discard(mapped.raw_symbol)
        known = self._memory.mapped.get(mapped.raw_symbol)
        if known is None or known.instrument_id != mapped.instrument_id:
            self._publish_mapping(_symbol_mapped(contract, mapped), known, mapped.ts)
            is_ours = self._strangers["instrument_id"] == mapped.instrument_id
            # They came before everything that is held now.
            self._held = np.concatenate((self._strangers[is_ours], self._held))
            self._strangers = self._strangers[~is_ours]
        if contract.rank == 0 and contract.root in self._memory.unmapped_roots:
            self._publish(RootStatusChanged(root=contract.root, status="live", reason=""))
        if not self._unmapped:
            self._go_live()

    def _publish_mapping(self, mapped: SymbolMapped, known: SymbolMapped | None, ts: Nanos) -> None:
        """A contract that is another instrument from now on: its bars until then are another's."""
        if known is None or mapped.rank != 0:
            self._publish(mapped)
            return
        self._flush()
        since = self._sequencer.now_ns if self._clock is None else max(self._now(), ts)
        reason = f"{mapped.contract} is instrument {mapped.instrument_id}, was {known.instrument_id}"
        self._publish(mapped, RootReset(root=mapped.root, since=since, reason=reason))

    def _flush(self) -> None:
        """Publish what has come before a mapping changes, whether its batch is complete or not."""
        if self._clock is None:
            self._is_flushing = True
            self._drain_simulated()
            self._is_flushing = False
        else:
            self._drain_real(self._clock)
            while len(self._held):
                first = Nanos(int(self._held["ts_recv"][0]))
                self._publish_held(self._count_before(Nanos(floor_to(first, MINUTE) + MINUTE)))

    def _do_without_unmapped(self) -> None:
        """A root whose contract the gateway does not map is stale; the others must not wait for it."""
        fronts = {raw for raw, contract in self._contracts.items() if contract.rank == 0}
        if not self._unmapped or self._unmapped == fronts:
            return
        if self._clock is None:
            is_over = len(self._held) > 0 or self._exhausted_ns is not None
        else:
            is_over = time.monotonic() - self._connected_s > MAPPING_PATIENCE_S
        if is_over:
            self._do_without(self._unmapped, "is not mapped by the gateway")

    def _give_up(self, reason: str) -> None:
        """The gateway says that it does not know a symbol."""
        log.error("the gateway does not know a symbol: nothing of it will come", reason=reason)
        if unknown := self._unmapped & set(re.findall(r"\w+", reason)):
            self._do_without(unknown, "is not known to the gateway")

    def _do_without(self, missing: set[str], why: str) -> None:
        self._unmapped = self._unmapped - missing
        for raw in sorted(missing):
            root = self._contracts[raw].root
            if root not in self._memory.unmapped_roots:
                self._publish(RootStatusChanged(root=root, status="stale", reason=f"{raw} {why}"))
        self._go_live()

    def _resets(self, before: Nanos, since: Nanos, reason: str) -> list[RootReset]:
        """Of each root that was open at some time between the last record and the first one after it."""
        roots = sorted({contract.root for contract in self._contracts.values() if contract.rank == 0})
        hours = [self._opened.session.hours_of(root) for root in roots]
        return [
            RootReset(root=of_root.root, since=since, reason=reason)
            for of_root in hours
            if of_root.open_ns < since and before < of_root.close_ns
        ]

    def _go_live(self) -> None:
        """Entries are allowed once every symbol is mapped and, in real time, the replay is done."""
        if self._unmapped or (self._is_replaying and self._clock is not None) or self._memory.status == "live":
            return
        resets: list[RootReset] = []
        if self._lost_after is not None:
            resets = self._resets(self._lost_after, self._mapped_ns, "records since the last one are lost")
            self._lost_after = None
        self._publish(*resets, FeedStatusChanged(status="live", reason="subscribed"))

    # ------------------------------------------------------------- publishing

    def _publish(self, *events: Event, ts: Nanos | None = None) -> None:
        self.at_seq = self._sequencer.seq + 1
        self._faults.pause()
        self._faults.reach("feed", self.at_seq, "before")
        self._faults.reach("feed", self.at_seq, "handled")
        self._sequencer.publish(*events, source="feed", ts=ts if self._clock is None else None)
        self._faults.reach("feed", self.at_seq, "published")

    def _publish_held(self, count: int) -> None:
        batch, self._held = self._held[:count], self._held[count:]
        if not self._memory.ids.issuperset(batch["instrument_id"].tolist()):
            is_known = np.isin(batch["instrument_id"], sorted(self._memory.ids))
            self._keep_nameless(batch[~is_known])
            batch = batch[is_known]
        if len(batch):
            self._publish(TradesReceived(trades=batch), ts=Nanos(int(batch["ts_recv"].max())))

    def _keep_nameless(self, strangers: TradeArray) -> None:
        """Records that no mapping has named yet: never dropped without need, and they hold up nobody else."""
        is_nameless = ~np.isin(strangers["instrument_id"], sorted(self._foreign))
        self._strangers = np.concatenate((self._strangers, strangers[is_nameless]))[-STRANGERS_LIMIT:]

    def _count_before(self, limit: Nanos) -> int:
        """How many held records come before the first one at or after `limit`; FRAME_LIMIT at most."""
        # What is held behind a full queue can be many minutes: only what can be published next is looked at.
        is_later = self._held["ts_recv"][:FRAME_LIMIT] >= limit
        return int(np.argmax(is_later)) if is_later.any() else len(is_later)

    def _finish(self, finished: FeedFinished) -> None:
        self._is_finished = True
        self._disconnect()
        self._on_finished(finished)

    # ------------------------------------------------------------- simulated time

    def _drain_simulated(self) -> None:
        """Publish what is complete, each batch and tick only when the pipeline is quiet."""
        while not self._unmapped and self._sequencer.wait_quiet(self._stopping.is_set):
            if not self._step_simulated():
                return

    def _step_simulated(self) -> bool:
        """One batch or one tick; False when more data is needed, or none will come."""
        first = Nanos(int(self._held["ts_recv"][0])) if len(self._held) else self._exhausted_ns
        if first is None:
            return False
        horizon = min(first, self._end_ns)
        deadline = self._sequencer.next_deadline()
        due = None if deadline is None else due_at(deadline, self._memory.last_tick)
        if due is not None and due <= horizon:
            self._tick(due)
            return True
        if first >= self._end_ns or not len(self._held):
            return self._end_simulated(horizon)
        limit = min(floor_to(first, MINUTE) + MINUTE, self._end_ns, due or self._end_ns)
        before = self._count_before(Nanos(limit))
        is_last = self._exhausted_ns is not None or self._is_flushing
        if before < len(self._held) or before == FRAME_LIMIT or is_last:
            self._publish_held(before)
            return True
        return False

    def _tick(self, ts: Nanos) -> None:
        self._publish(ClockTicked(ts=ts, watermark=floor_to(ts, MINUTE)), ts=ts)

    def _end_simulated(self, end: Nanos) -> bool:
        if self._memory.last_tick < end:
            self._tick(end)
            return True
        is_over = end >= self._opened.session.end_ns
        is_exhausted = not len(self._held)
        if is_over:
            self._finish(FeedFinished(reason="session_over", is_exhausted=is_exhausted))
        else:
            self._finish(FeedFinished(reason="exhausted" if is_exhausted else "until", is_exhausted=is_exhausted))
        return False

    # ------------------------------------------------------------- real time

    def _drain_real(self, clock: RealTimeClock) -> None:
        """Publish the minutes that are complete and move the watermark past them.

        Complete by the feed's own time, so that neither a wrong clock of ours nor a stalled line cuts a bar short.
        """
        if self._unmapped:
            return
        self._refuse_past_data()
        now, end = self._now(), self._opened.session.end_ns
        self._watch_lag(now)
        is_running = self._memory.status == "live" and not self._is_replaying
        seen = self._time.complete_until(Nanos(time.monotonic_ns())) if is_running else self._time.seen
        watermark = min(floor_to(seen, MINUTE), end)
        while len(self._held):
            first = Nanos(int(self._held["ts_recv"][0]))
            minute_end = Nanos(floor_to(first, MINUTE) + MINUTE)
            before = self._count_before(minute_end)
            if first >= end or (before < FRAME_LIMIT and minute_end > watermark):
                break
            self._publish_held(before)
        clock.advance(watermark)
        if watermark >= end:
            self._finish(FeedFinished(reason="session_over"))
        elif self._until_ns is not None and now >= self._until_ns:
            self._finish(FeedFinished(reason="until"))
        elif self._exhausted_ns is not None and not len(self._held):
            self._finish(FeedFinished(reason="exhausted", is_exhausted=True))

    def _watch_lag(self, now: Nanos) -> None:
        """`stale` is a feed whose records come late by our clock, until what arrives is recent again.

        Or early: how old a decision is cannot be told by a clock that stands.
        """
        if self._is_replaying or self._unmapped:
            return
        limit = self._opened.risk.feed_lag_s * SECOND
        if self._memory.status == "stale" and -limit <= now - self._time.seen < FRESH_LAG:
            self._publish(FeedStatusChanged(status="live", reason="caught up"))
        elif self._memory.status == "live" and self._newest is not None and abs(lag := now - self._newest) > limit:
            how = f"{lag / SECOND:.0f} s late by" if lag > 0 else f"{-lag / SECOND:.0f} s ahead of"
            self._publish(FeedStatusChanged(status="stale", reason=f"records come {how} our clock"))

    def _refuse_past_data(self) -> None:
        is_first = self._memory.ts_event is None
        if (
            is_first
            and len(self._held)
            and int(self._held["ts_recv"][0]) < self._opened.session.start_ns - 3600 * SECOND
        ):
            error = OperatorError(
                "the feed sends recorded data, and clock is system",
                where="clock",
                fix="set clock: feed to run a past day, or start the gateway with --rebase now",
            )
            self._finish(FeedFinished(reason="refused", error=error))
            self._held = empty_trades()


def _symbol_mapped(contract: ResolvedContract, mapped: Mapped) -> SymbolMapped:
    return SymbolMapped(
        root=contract.root,
        contract=mapped.raw_symbol,
        rank=contract.rank,
        instrument_id=mapped.instrument_id,
    )
