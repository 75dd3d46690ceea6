"""The way from the gateway's socket to the journal, and nothing behind it: real client, real feed, our gateway.

A `Bridge` runs one FeedActor on one journal in memory, in simulated time or in real time. A second run on the same
journal is what a restarted process is.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np

from actors.actor import Ended, Start
from actors.clock import RealTimeClock
from actors.faults import Faults
from actors.feed import FeedActor, FeedFinished
from actors.feed_memory import FeedMemory
from actors.sequencer import Sequencer
from adapters.databento.dbn_files import RecordedTrades
from adapters.databento.gateway import LOCAL_KEY, MAX_SPEED, Gateway, GatewayThread
from adapters.databento.gateway_source import GatewaySource, RecordedSource
from adapters.databento.live import DatabentoSource
from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.symbology import MappedSymbol, RecordedSymbology
from adapters.memory import MemoryJournal
from adapters.sqlite.codec import Codec
from domain.envelope import Envelope
from domain.events import Event, FeedStatusChanged, SessionOpened, SymbolMapped, TradesReceived
from domain.instruments import ResolvedContract
from domain.market import TradeArray
from domain.units import HOUR, MINUTE, Nanos
from tests.builders import DATE, OPEN, opened_session, session_of

CONTRACTS = {"ES": "MESM4", "NQ": "MNQM4", "GC": "MGCM4"}
WAIT_S = 60.0


_SIMULATED = SimulatedMarket(5, trades_per_session=300_000)
IDS = {raw: _SIMULATED.resolve("raw_symbol", raw, OPEN)[0].instrument_id for raw in CONTRACTS.values()}


@cache
def market() -> TradeArray:
    """Ten thousand trades of three contracts in four busy minutes, sorted by ts_recv; some come late."""
    trades = _SIMULATED.session_trades(DATE)
    trades = trades[np.isin(trades["instrument_id"], sorted(IDS.values()))][:10_000]
    for stamp in ("ts_event", "ts_recv"):
        trades[stamp] = OPEN + (trades[stamp] - np.uint64(OPEN)) // 20
    return trades


def recorded(trades: TradeArray, mappings: Sequence[MappedSymbol] = ()) -> RecordedSource:
    """The trades as files would give them."""
    always = {"start": dt.date(2024, 4, 30), "end": dt.date(2024, 5, 2)}
    known = tuple(mappings) or tuple(MappedSymbol(symbol=raw, instrument_id=key, **always) for raw, key in IDS.items())
    symbology = RecordedSymbology(mappings=known, volumes={})
    return RecordedSource(recorded=RecordedTrades(dataset="GLBX.MDP3", trades=trades, symbology=symbology))


def gateway_of(
    source: GatewaySource | None = None,
    *,
    port: int = 0,
    faults: str = "",
    is_real_time: bool = False,
    speed: float = MAX_SPEED,
) -> GatewayThread:
    speed = 1.0 if is_real_time else speed
    served = source or recorded(market())
    gateway = Gateway(served, keys=(LOCAL_KEY,), speed=speed, faults=faults, is_real_time=is_real_time)
    return GatewayThread(gateway, port=port)


def now_ns() -> Nanos:
    return Nanos(time.time_ns())


@attrs.define
class Bridge:
    """One process's feed. `journal` may hold what an earlier one has left."""

    port: int
    journal: MemoryJournal = attrs.Factory(MemoryJournal)
    queue_limit: int = 65_536
    is_real_time: bool = False
    opens_now: bool = False
    """In real time the session opens with the run, instead of long before."""
    next_contracts: tuple[str, ...] = ()
    """Roots whose contract is the next one: its mapping is not waited for."""
    finished: FeedFinished | None = None
    failures: list[Any] = attrs.Factory(list)

    def run(
        self, until: Callable[[Bridge], bool] = lambda bridge: False, *, limit_s: float = WAIT_S
    ) -> FeedFinished | None:
        """Run to the feed's end, or until `until` holds after an event: as a process that is killed."""
        memory, done, stopping = FeedMemory(), threading.Event(), threading.Event()
        sequencer = Sequencer(
            writer=self.journal, codec=Codec(), subscribers=(), is_simulated=not self.is_real_time, now=now_ns
        )
        sequencer.observe(memory.fold)
        sequencer.restore(self.journal)
        opened = self._opened()
        if not sequencer.seq:
            sequencer.publish(opened, source="session", ts=opened.session.start_ns)

        def watch(_: Envelope) -> None:
            if until(self):
                stopping.set()
                done.set()

        sequencer.observe(watch)

        def finish(finished: FeedFinished) -> None:
            self.finished = finished
            done.set()

        def fail(report: Any) -> None:
            if not isinstance(report, Ended):  # the feed's own end is told through `finish`
                self.failures.append(report)
                done.set()

        clock = None
        if self.is_real_time:
            clock = RealTimeClock(
                sequencer=sequencer,
                now=now_ns,
                watermark=memory.watermark,
                each_look=lambda: None,
                on_failure=self.failures.append,
            )
        feed = FeedActor.start(
            sequencer=sequencer,
            source=self.source(),
            opened=opened,
            memory=memory,
            clock=clock,
            now=now_ns,
            until_ns=None,
            stopping=stopping,
            on_finished=finish,
            report=fail,
            faults=Faults(()),
        )
        feed.tell(Start())
        try:
            assert done.wait(limit_s), f"the feed did not end; it said {self.statuses()}"
        finally:
            stopping.set()
            sequencer.wake()
            feed.stop(timeout=WAIT_S)
        assert not self.failures, self.failures
        return self.finished

    def _opened(self) -> SessionOpened:
        contracts = tuple(
            ResolvedContract(root=root, rank=int(root in self.next_contracts), raw_symbol=raw, instrument_id=None)
            for root, raw in CONTRACTS.items()
        )
        if not self.is_real_time:
            return opened_session(contracts=contracts)
        now = now_ns()
        session = attrs.evolve(session_of(), start_ns=Nanos(now - HOUR), end_ns=Nanos(now + HOUR))
        if self.opens_now:
            hours = tuple(attrs.evolve(each, open_ns=now, close_ns=session.end_ns) for each in session.hours)
            session = attrs.evolve(session, open_ns=now, hours=hours)
        return opened_session(contracts=contracts, session=session, feed_start_ns=Nanos(now - MINUTE))

    def source(self) -> DatabentoSource:
        return DatabentoSource(
            key=LOCAL_KEY,
            dataset="GLBX.MDP3",
            gateway="127.0.0.1",
            port=self.port,
            heartbeat_interval_s=1,
            silence_margin_s=0.5,
            queue_limit=self.queue_limit,
        )

    # ---------------------------------------------------------------- what is on file

    def events(self, kind: type[Event]) -> list[Any]:
        return [e.payload for e in self.journal.envelopes() if isinstance(e.payload, kind)]

    def count(self) -> int:
        return sum(len(batch.trades) for batch in self.events(TradesReceived))

    def trades(self) -> TradeArray:
        batches = self.events(TradesReceived)
        return np.concatenate([batch.trades for batch in batches]) if batches else market()[:0]

    def statuses(self) -> list[tuple[str, str]]:
        return [(event.status, event.reason) for event in self.events(FeedStatusChanged)]

    def mappings(self) -> list[tuple[str, int]]:
        return [(event.contract, event.instrument_id) for event in self.events(SymbolMapped)]
