"""The whole system in one thread with simulated time: for tests, trials and simulation.

The same machines and the same sequencer as live, without actors, sockets or disk. A seeded
scheduler decides which machine takes its next envelope; whatever it picks, simulated time
admits the answers in the same order, so every seed gives the same journal.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from actors.clock import due_at
from actors.machines import MachineParts
from actors.sequencer import Sequencer
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import (
    HTTP_SOURCE,
    ClockTicked,
    Event,
    FeedStatusChanged,
    HistoryLoaded,
    OrderAccepted,
    OrderSubmitted,
    Outcome,
    SessionOpened,
    StateCarried,
    SymbolMapped,
    TradesReceived,
)
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.ports import Codec, JournalReader, JournalWriter, Machine
from domain.units import MINUTE, Nanos, Price, floor_to

Answer = Callable[[OrderSubmitted], Outcome]
"""What the broker says to an attempt."""


def accept(submitted: OrderSubmitted) -> Outcome:
    """The friendliest broker."""
    return OrderAccepted(
        root=submitted.root,
        signal_id=submitted.signal_id,
        attempt=submitted.attempt,
        http_status=200,
        external_id=f"in-process-{submitted.signal_id[:8]}",
    )


class InProcessSystem:
    """One session. Publish market events; everything they cause has happened when the call returns."""

    def __init__(
        self,
        *,
        opened: SessionOpened,
        carried: StateCarried,
        history: HistoryLoaded,
        parts: MachineParts,
        codec: Codec,
        writer: JournalWriter,
        reader: JournalReader,
        seed: int = 0,
        answer: Answer = accept,
    ) -> None:
        self._random = random.Random(seed)
        self._reader = reader
        self._answer = answer
        self._last_tick = Nanos(0)
        self._machines: dict[str, Machine] = {name: make() for name, make in parts.factories().items()}
        self._mailboxes: dict[str, deque[Envelope]] = {name: deque() for name in self._machines}
        self._sequencer = Sequencer(
            writer=writer,
            codec=codec,
            subscribers=[(name, machine.kinds) for name, machine in self._machines.items()],
            is_simulated=True,
            now=lambda: Nanos(0),
        )
        for name, mailbox in self._mailboxes.items():
            self._sequencer.subscribe(name, mailbox.append)
        self.end_ns = opened.session.end_ns
        self._ids = {c.raw_symbol: 1 + i for i, c in enumerate(opened.contracts) if c.raw_symbol is not None}
        self.publish(opened, history, carried, source="session", ts=opened.session.start_ns)
        for contract in opened.contracts:
            if contract.raw_symbol is not None:
                mapped = SymbolMapped(
                    root=contract.root,
                    contract=contract.raw_symbol,
                    rank=contract.rank,
                    instrument_id=self._ids[contract.raw_symbol],
                )
                self.publish(mapped)
        self.publish(FeedStatusChanged(status="live", reason="in process"))

    # ------------------------------------------------------------- input

    def publish(self, *events: Event, source: str = "feed", ts: Nanos | None = None) -> None:
        """Sequence events from outside and let the machines answer until nothing is owed or in flight."""
        self._sequencer.publish(*events, source=source, ts=ts)
        self._run()

    def trade(self, contract: str, ts: Nanos, price: Price, size: int = 1) -> None:
        """One trade of `contract` at `ts`, after every tick that is due before it."""
        self.advance(ts, until_before=True)
        record = np.zeros(1, TRADE_DTYPE)
        record["length"], record["action"], record["side"] = TRADE_LENGTH_WORDS, b"T", b"N"
        record["instrument_id"], record["price"], record["size"] = self._ids[contract], price, size
        record["ts_event"] = record["ts_recv"] = ts
        self.trades(record)

    def instrument_id(self, contract: str) -> int:
        """The id under which records of `contract` are taken."""
        return self._ids[contract]

    def trades(self, records: TradeArray) -> None:
        """One batch as it is; the caller keeps to the minute boundaries."""
        self.publish(TradesReceived(trades=records), ts=Nanos(int(records["ts_recv"].max())))

    def advance(self, ts: Nanos, *, until_before: bool = False) -> None:
        """Let time pass to `ts`: a tick at each deadline on the way, and one at `ts` itself."""
        while (deadline := self._sequencer.next_deadline()) is not None:
            due = due_at(deadline, self._last_tick)
            if due > ts:
                break
            self._tick(due)
        if not until_before and self._last_tick < ts:
            self._tick(ts)

    # ------------------------------------------------------------- output

    def envelopes(self) -> Iterator[Envelope]:
        """The journal so far."""
        return self._reader.envelopes()

    def events(self, type: str) -> list[Any]:
        """Payloads of one type, in order."""
        return [envelope.payload for envelope in self.envelopes() if envelope.type == type]

    # ------------------------------------------------------------- private

    def _tick(self, ts: Nanos) -> None:
        self._last_tick = ts
        self.publish(ClockTicked(ts=ts, watermark=floor_to(ts, MINUTE)), ts=ts)

    def _run(self) -> None:
        """Deliver in an order of the seed's choosing; then one attempt's outcome; until all is quiet."""
        while True:
            waiting = [name for name, mailbox in self._mailboxes.items() if mailbox]
            if waiting:
                self._deliver(self._random.choice(waiting))
            elif attempts := self._sequencer.attempts_in_flight():
                self._send(attempts[0])
            else:
                return

    def _deliver(self, name: str) -> None:
        machine, envelope = self._machines[name], self._mailboxes[name].popleft()
        outputs = machine.handle(envelope)
        self._sequencer.complete(name, envelope, outputs, machine.next_deadline())

    def _send(self, attempt: Envelope) -> None:
        if not isinstance(attempt.payload, OrderSubmitted):
            raise OurError(f"{attempt.type} is no attempt")
        self._sequencer.publish(self._answer(attempt.payload), source=HTTP_SOURCE, cause=attempt)
        self._sequencer.attempt_settled(attempt.seq)
