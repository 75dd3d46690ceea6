"""What the actors need from outside, as protocols. `actors.main` plugs the adapters in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from domain.bars import BarTable
from domain.envelope import Envelope
from domain.events import (
    Event,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    RootMemory,
    SessionOpened,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
)
from domain.instruments import TradedRoot
from domain.sessions import Session
from domain.units import Nanos


class Machine(Protocol):
    """A deterministic function of the journal: no clock, no I/O, no randomness, no thread.

    `kinds` are the event types it is given, in journal order; `handle` returns what it
    decided, which becomes events with this envelope as their cause.
    """

    name: str
    kinds: frozenset[str]

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        """The events that `envelope` causes."""
        ...

    def next_deadline(self) -> Nanos | None:
        """The next moment at which this machine needs a ClockTicked, or None."""
        ...


class Codec(Protocol):
    """Events to their form in the journal and back."""

    def encode(self, event: Event) -> str | bytes:
        """JSON text, or bytes for columns. Raises OurError on NaN or infinity."""
        ...

    def decode(self, type: str, version: int, raw: str | bytes) -> Event:
        """The event, upcast to the running version. Raises JournalUnreadable when newer or malformed."""
        ...


class JournalReader(Protocol):
    """Envelopes from a journal, oldest first."""

    def envelopes(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
    ) -> Iterator[Envelope]:
        """Those with after < seq <= until and (type in types or of `source`)."""
        ...


class Calendar(Protocol):
    """Trading sessions of the exchange."""

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        """The session whose file holds `ts`: the first one that ends after it."""
        ...

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        """The session that ends on `date`. Raises OperatorError when there is none."""
        ...


class Webhook(Protocol):
    """The way out: one attempt over HTTP."""

    async def post(self, submitted: OrderSubmitted) -> Outcome:
        """Send the attempt's bytes once and classify the answer. Never raises for network trouble."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class OrderPayload(Protocol):
    """Builds the message that is sent for a request."""

    def __call__(self, request: OrderRequested, opened: SessionOpened) -> tuple[str, str]:
        """(ticker, body): the contract with its four-digit year, and the JSON text to send."""
        ...


class TradingEngine(Protocol):
    """The strategy inside Backtrader's Cerebro, one slice at a time; the StrategyActor's machine drives it.

    Built by an `EngineFactory` for one session: warmed up on completed bars without
    decisions, holding the carried positions and unfinished orders, and armed.
    """

    def step(self, closed: SliceClosed) -> tuple[SignalEvaluated | OrderRequested, ...]:
        """One turn of the engine: every root's evaluation, then requests, exits first, entries by rank."""
        ...

    def on_clock(self, ts: Nanos) -> tuple[OrderRequested, ...]:
        """Exits that the clock alone demands at `ts` (the auto-close), needing neither bar nor feed."""
        ...

    def notify(self, event: Event) -> None:
        """An order's event (refused, accepted, rejected, ambiguous, expired, filled) for the broker inside."""
        ...

    def next_deadline(self) -> Nanos | None:
        """The next moment at which `on_clock` has something to do, or None."""
        ...

    def memories(self) -> tuple[RootMemory, ...]:
        """What must be carried into the next file, in order of root."""
        ...


class EngineFactory(Protocol):
    """Builds the engine of one session."""

    def __call__(
        self, opened: SessionOpened, carried: StateCarried | None, tables: Sequence[BarTable]
    ) -> TradingEngine:
        """`tables`: completed hour and day bars per root, already adjusted for rolls, oldest first."""
        ...
