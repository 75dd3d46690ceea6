"""A session file whose machine answers are put on record as they fall: a live run without threads."""

from __future__ import annotations

from typing import Any

from actors.carry import fresh_state
from actors.machines import MachineParts, MachineSet
from adapters.memory import MemoryJournal
from domain.envelope import Envelope
from domain.events import (
    ClockTicked,
    Event,
    FeedStatusChanged,
    HistoryLoaded,
    OrderAccepted,
    Outcome,
    TradesReceived,
)
from domain.units import Nanos
from tests.builders import IDS, Record, at, mapped, opened_session, trades_of


class SessionFile:
    """Begins with the opening events, every contract mapped, and a live feed."""

    def __init__(self, parts: MachineParts, *, history: HistoryLoaded | None = None, **opened: Any) -> None:
        self.parts = parts
        self.record = Record()
        self.machines = MachineSet(parts)
        for event in (opened_session(**opened), history or HistoryLoaded(tables=()), fresh_state()):
            self.put(event)
        for contract in IDS:
            self.put(mapped(contract))
        self.put(FeedStatusChanged(status="live", reason="subscribed"))

    def put(self, event: Event, ts: Nanos | None = None, source: str = "feed", cause: Envelope | None = None) -> None:
        """Append `event` and everything that the machines make of it."""
        waiting = [self.record.put(event, ts=ts, source=source, cause=cause)]
        for envelope in waiting:
            for name, outputs in self.machines.handle(envelope):
                waiting += [
                    self.record.put(output, source=name, cause=envelope, idx=idx) for idx, output in enumerate(outputs)
                ]

    def trade(self, minutes: float, ticks: int = 0, contract: str = "ESM4") -> None:
        self.put(TradesReceived(trades=trades_of((contract, at(minutes), ticks, 1))), ts=at(minutes))

    def tick(self, minutes: float) -> None:
        self.put(ClockTicked(ts=at(minutes), watermark=at(minutes)), ts=at(minutes))

    def unanswered(self) -> list[Envelope]:
        """Attempts without an outcome, oldest first."""
        answered = {e.cause for e in self.record.envelopes if e.source == "execution.http"}
        return [e for e in self.record.envelopes if e.type == "OrderSubmitted" and e.seq not in answered]

    def answer(self, outcome: type[Outcome] = OrderAccepted, **fields: Any) -> None:
        """The outcome of the oldest unanswered attempt."""
        attempt = self.unanswered()[0]
        values = {"http_status": 200, "external_id": "x"} if outcome is OrderAccepted else {"cause": "timeout"}
        order = attempt.payload
        event = outcome(root=order.root, signal_id=order.signal_id, attempt=order.attempt, **(values | fields))
        self.put(event, source="execution.http", cause=attempt)

    def journal(self) -> MemoryJournal:
        """The file as a reader gets it."""
        journal = MemoryJournal()
        journal.append(self.record.envelopes)
        return journal
