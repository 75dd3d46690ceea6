"""What the actors need from outside, as protocols. `actors.main` plugs the adapters in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import attrs

from domain.bars import BarTable
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed
from domain.events import (
    ContractRolled,
    Event,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
    RollDue,
    RootHalted,
    RootMemory,
    SessionOpened,
    ShadowScored,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
    VetoScored,
)
from domain.instruments import TradedRoot
from domain.populations import CarriedPercentile
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


@attrs.frozen(kw_only=True)
class Head:
    """Where a journal file ends."""

    seq: int
    hash: bytes
    status: Literal["open", "stopped", "closed", "recovered"]


class JournalWriter(Protocol):
    """Where sequenced events go to become durable."""

    def append(self, envelopes: Sequence[Envelope]) -> None:
        """Take one publish; it is never split across commits."""
        ...

    def pending(self) -> list[Envelope]:
        """A copy of what is not yet durable, oldest first."""
        ...

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        """Call `callback` once `seq` is durable (at once when it is already). Never after a failed commit."""
        ...

    @property
    def backlog(self) -> int:
        """How many events are not yet durable."""
        ...

    @property
    def stalled_s(self) -> float:
        """How long the oldest of them has been waiting."""
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


class JournalFile(JournalReader, Protocol):
    """One session file, open for reading."""

    path: Path

    def head(self) -> Head:
        """Last seq, its hash, and the file's status."""
        ...

    def verify(self) -> int:
        """Check every row and the head; the number of events. Raises JournalBroken, JournalUnreadable."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class RunningWriter(JournalWriter, Protocol):
    """A writer with a thread of its own."""

    def start(self) -> None:
        """Begin committing."""
        ...

    def fall_back(self) -> None:
        """The journal's disk has failed: make another file, where there is one, what `when_durable` waits for."""
        ...

    def stop(self, timeout_s: float = ...) -> None:
        """Commit what is pending and end. Raises JournalWriteFailed when a commit failed."""
        ...


@attrs.frozen(kw_only=True)
class JournalEntry:
    """One session file of a directory."""

    path: Path
    session: str
    segment: int


class JournalDirectory(Protocol):
    """Where the session files live. Holding one means being the only live process on it."""

    def entries(self) -> list[JournalEntry]:
        """Every session file, oldest first."""
        ...

    def open(self, path: Path, codec: Codec | None = None) -> JournalFile:
        """Open a file for reading, with `codec` instead of the directory's own. Raises JournalUnreadable."""
        ...

    def create(self, session: str, segment: int) -> Path:
        """An empty file. Raises OperatorError when it cannot be written."""
        ...

    def writer(
        self,
        path: Path,
        *,
        durable_seq: int,
        on_failure: Callable[[JournalWriteFailed], None],
        before_commit: Callable[[], None],
    ) -> RunningWriter:
        """The writer of a file that ends at `durable_seq`."""
        ...

    def seal(self, path: Path) -> str:
        """Make a closed file final. Returns its sha256, hex."""
        ...

    def remove(self, path: Path) -> None:
        """Delete a finished demo file, or one that holds nothing."""
        ...


class Calendar(Protocol):
    """Trading sessions of the exchange."""

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        """The session whose file holds `ts`: the first one that ends after it."""
        ...

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        """The session that ends on `date`. Raises OperatorError when there is none."""
        ...


@attrs.frozen(kw_only=True)
class Records:
    """Raw trade records in arrival order: concatenated 48-byte TradeMsg."""

    raw: bytes


@attrs.frozen(kw_only=True)
class Mapped:
    """The gateway said which instrument a subscribed symbol is. `ts` is the gateway's own clock."""

    symbol: str
    raw_symbol: str
    instrument_id: int
    ts: Nanos


@attrs.frozen(kw_only=True)
class Heartbeat:
    """Nothing else was sent for a while; `ts` is the gateway's clock."""

    ts: Nanos


@attrs.frozen(kw_only=True)
class Subscribed:
    """The gateway acknowledged a subscription."""


@attrs.frozen(kw_only=True)
class ReplayCompleted:
    """Everything since `start` has been sent again."""


@attrs.frozen(kw_only=True)
class DataExhausted:
    """The gateway serves recorded data and has no more; `ts` is the data's exclusive end."""

    ts: Nanos


@attrs.frozen(kw_only=True)
class SlowReader:
    """The gateway says we are behind, or that it has skipped records."""

    reason: str


@attrs.frozen(kw_only=True)
class Unresolved:
    """The gateway does not know a symbol that was subscribed, and goes on with the others; `reason` names it."""

    reason: str


@attrs.frozen(kw_only=True)
class Ended:
    """The connection is over, always the last item."""

    reason: str
    is_fatal: bool = False
    """It must not be retried: the gateway will not have us."""
    is_silence: bool = False
    """Nothing came for too long; our own watchdog ended it."""
    is_aged_out: bool = False
    """The vendor no longer holds what was asked for as a replay."""


FeedItem = Records | Mapped | Heartbeat | Subscribed | ReplayCompleted | DataExhausted | SlowReader | Unresolved | Ended


class FeedConnection(Protocol):
    """One live session with the gateway, from subscription to its end."""

    def take(self, timeout_s: float) -> list[FeedItem]:
        """What has arrived, oldest first; empty after `timeout_s` without anything."""
        ...

    def close(self) -> None:
        """End it without waiting. What is queued is dropped; nothing blocks."""
        ...


class FeedSource(Protocol):
    """The way to the market."""

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        """Which contract each continuous symbol means now, and the feed's own time.

        A symbol without a dot is a contract's own name. What the vendor cannot resolve is missing from the
        dict. Raises OperatorError when the gateway refuses us (78) or cannot be reached (69).
        """
        ...

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> FeedConnection:
        """Subscribe to trades of exactly these contracts, from `start_ns` on when given.

        Returns at once; failures arrive as `Ended`.
        """
        ...


class HeldBackError(Exception):
    """Raised by `MayWrite`: this message must not be written any more. Its text says why."""


MayWrite = Callable[[], Awaitable[object]]
"""Awaited just before the first byte is written. Raises HeldBackError."""


class Webhook(Protocol):
    """The way out: one attempt over HTTP."""

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        """Send the attempt's bytes once, when `may_write()` is done, and classify the answer.

        Connects meanwhile. Never raises for network trouble.
        """
        ...

    async def probe(self, submitted: ProbeSubmitted, may_write: MayWrite) -> ProbeAnswered:
        """Send a message that cannot trade; up when it is refused as such. Never raises for network trouble."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@attrs.frozen(kw_only=True)
class OrderMessage:
    """What is sent for a request."""

    ticker: str
    """The contract with its four-digit year."""
    body: str
    """JSON text, the same bytes on every attempt."""
    fallback: str = ""
    """Of an exit: the least that closes the position."""


class OrderPayload(Protocol):
    """Builds the message that is sent for a request."""

    def __call__(self, request: OrderRequested, opened: SessionOpened) -> OrderMessage:
        """Raises OurError for a request that cannot be said without changing its meaning."""
        ...


Decision = VetoScored | SignalEvaluated | ShadowScored | RootHalted | OrderRequested
"""What a trading engine answers with."""


class TradingEngine(Protocol):
    """The strategy inside Backtrader's Cerebro, one slice at a time; the StrategyActor's machine drives it.

    Built by an `EngineFactory` for one session: warmed up on completed bars without
    decisions, holding the carried positions and unfinished orders, and armed. A root whose
    evaluation raises is halted, and every other one goes on.
    """

    def step(self, closed: SliceClosed, *, is_late: bool = False) -> tuple[Decision, ...]:
        """One turn of the engine: every root's evaluation, then requests, exits first, entries by rank.

        A late slice (from a replay after an outage) updates everything and causes no entry; an exit that it
        makes due is asked for in the first slice that is not late.
        """
        ...

    def on_clock(self, ts: Nanos) -> tuple[Decision, ...]:
        """Exits that the clock alone demands at `ts` (the auto-close), needing neither bar nor feed."""
        ...

    def notify(self, event: Event) -> None:
        """An order's event (refused, accepted, rejected, ambiguous, expired, filled) for the broker inside, or a
        RootReset: what is known of the root's bars is forgotten.
        """
        ...

    def next_deadline(self) -> Nanos | None:
        """The next moment at which `on_clock` has something to do, or None."""
        ...

    def memories(self) -> tuple[RootMemory, ...]:
        """What must be carried into the next file, in order of root."""
        ...

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """What the models' percentile populations have taken in, for the next file."""
        ...


class EngineFactory(Protocol):
    """Builds the engine of one session."""

    def __call__(
        self,
        opened: SessionOpened,
        carried: StateCarried | None,
        tables: Sequence[BarTable],
        rolls: Sequence[RollDue | ContractRolled] = (),
    ) -> TradingEngine:
        """`tables`: completed hour and day bars per root, already adjusted for rolls, oldest first.

        `rolls`: those that took effect at this session's open, and those that are due at the next.
        """
        ...
