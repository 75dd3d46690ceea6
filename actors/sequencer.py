"""The total order: every event gets its place here, under one lock.

`publish` numbers and hashes events, hands them to the journal's writer and puts them in
the subscribers' mailboxes before anyone else can publish, so mailbox order is journal
order. Dispatch does not wait for the disk; effects do (`when_durable`).

The sequencer also keeps what every subscriber *owes*: an event of its kinds is owed an
answer until the subscriber hands in its outputs (`complete`), also when there are none.
The debt survives the subscriber's death and is settled by its catch-up.

Two ways to admit outputs. In real time they are sequenced as they arrive: what happened
first is the record. In simulated time they are admitted in the order (seq of the cause,
rank of the subscriber), whoever was faster, so that equal inputs give equal journals.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from domain.envelope import GENESIS, Envelope, chain_hash, event_time
from domain.errors import OurError
from domain.events import EVENT_VERSIONS, HTTP_SOURCE, Event
from domain.ports import Codec, JournalReader, JournalWriter
from domain.units import Nanos

Deliver = Callable[[Envelope], None]

ATTEMPTS = ("OrderSubmitted", "ProbeSubmitted")
"""What leaves the process; in flight until its outcome is on record."""
QUIET_TIMEOUT_S = 120.0
"""A debt older than this in simulated time is a deadlock, not patience."""
MAX_BACKLOG = 20_000
"""In simulated time the market waits while more events than this are not yet on disk."""


@attrs.define
class _Subscriber:
    name: str
    kinds: frozenset[str]
    deliver: Deliver | None = None
    incarnation: int = 0
    done: int = 0
    """Last seq it has answered; in simulated time, whose answer has been admitted."""
    deadline: Nanos | None = None


@attrs.frozen
class _Answer:
    cause: Envelope | None
    """Needed where there are outputs."""
    outputs: Sequence[tuple[Event, str | bytes]]
    deadline: Nanos | None


@attrs.define
class _Debt:
    cause: int
    """The seq that is owed an answer."""
    owing: list[_Subscriber]
    """Those who have not been admitted yet, in order of rank."""


@attrs.frozen(kw_only=True)
class Subscription:
    """The cut at which a subscriber joined: what is on file below `pending`, then `pending`, then its mailbox."""

    cut: int
    pending: list[Envelope]
    answered: int
    """Events up to this seq have been answered by an earlier incarnation."""
    incarnation: int


class Sequencer:
    """Numbers events; `subscribers` are (name, kinds) in order of rank."""

    def __init__(
        self,
        *,
        writer: JournalWriter,
        codec: Codec,
        subscribers: Sequence[tuple[str, frozenset[str]]],
        is_simulated: bool,
        now: Callable[[], Nanos],
    ) -> None:
        self._writer = writer
        self._codec = codec
        self._is_simulated = is_simulated
        self._now = now
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._seq = 0
        self._hash = GENESIS
        self._ts = Nanos(0)
        self._workflows: dict[str, int] = {}
        self._subscribers = {name: _Subscriber(name, kinds) for name, kinds in subscribers}
        self._by_kind: dict[str, list[_Subscriber]] = {}
        for subscriber in self._subscribers.values():
            for kind in sorted(subscriber.kinds):
                self._by_kind.setdefault(kind, []).append(subscriber)
        self._debts: deque[_Debt] = deque()
        self._answers: dict[tuple[int, str], _Answer] = {}
        self._in_flight: dict[int, Envelope] = {}
        self._when_idle: list[Callable[[], None]] = []
        self._catching_up = set(self._subscribers)
        """Who has not caught up since the process started: their deadlines are not known."""
        self._when_caught_up: list[Callable[[], None]] = []
        self._on_submitted: Deliver = lambda envelope: None
        self._observers: list[Deliver] = []

    # ---------------------------------------------------------------- setting up

    def restore(self, reader: JournalReader, *onlookers: Deliver) -> None:
        """Go on after the last event of a file: head, time, debts, attempts without an outcome.

        The observers and `onlookers` are shown every event of the file.
        """
        owed = []
        for envelope in reader.envelopes():
            self._seq, self._hash = envelope.seq, envelope.hash
            self._ts = max(self._ts, envelope.ts_ns)
            if (workflow := getattr(envelope.payload, "signal_id", None)) is not None and envelope.corr is not None:
                self._workflows.setdefault(workflow, envelope.corr)
            if envelope.type in ATTEMPTS:
                self._in_flight[envelope.seq] = envelope
            elif envelope.source == HTTP_SOURCE and envelope.cause is not None:
                self._in_flight.pop(envelope.cause, None)
            if (answerer := self._subscribers.get(envelope.source)) is not None and envelope.cause is not None:
                answerer.done = max(answerer.done, envelope.cause)
                answerer.incarnation = max(answerer.incarnation, envelope.incarnation)
            if envelope.type in self._by_kind:
                owed.append((envelope.seq, envelope.type))
            for observer in (*self._observers, *onlookers):
                observer(envelope)
        # Only now is each subscriber's last answer known; what comes after it is owed again.
        for seq, kind in owed:
            self._owe(seq, kind)

    def on_submitted(self, begin: Deliver) -> None:
        """Hand every attempt and probe to `begin` as it is sequenced (the HTTP runner, which outlives its actor)."""
        self._on_submitted = begin

    def observe(self, observer: Deliver) -> None:
        """Call `observer` with every envelope, restored ones too, under the lock: it must only fold or count."""
        self._observers.append(observer)

    def subscribe(self, name: str, deliver: Deliver) -> Subscription:
        """Join at a cut: deliveries after it go to `deliver`, the backlog is the caller's to read.

        The writer's list is copied under the lock and *before* the file is read: rows leave the
        list only after their commit, so nothing can fall between the two.
        """
        with self._lock:
            subscriber = self._subscribers[name]
            subscriber.deliver = deliver
            subscriber.incarnation += 1
            return Subscription(
                cut=self._seq,
                pending=self._writer.pending(),
                answered=subscriber.done,
                incarnation=subscriber.incarnation,
            )

    # ---------------------------------------------------------------- publishing

    @property
    def seq(self) -> int:
        """The last seq given out."""
        return self._seq

    @property
    def head_hash(self) -> bytes:
        """The hash of the last event."""
        return self._hash

    @property
    def now_ns(self) -> Nanos:
        """The time of the last event."""
        return self._ts

    def publish(
        self, *events: Event, source: str, cause: Envelope | None = None, ts: Nanos | None = None
    ) -> tuple[Envelope, ...]:
        """Sequence events that answer no debt: the market, an outcome, supervision. One publish, one commit.

        `ts` is the feed's time in simulated time; in real time the clock decides.
        """
        encoded = [(event, self._codec.encode(event)) for event in events]
        with self._lock:
            self._advance_time(ts)
            envelopes = self._put(encoded, source=source, cause=cause, incarnation=0)
            self._changed.notify_all()
        return envelopes

    def complete(self, name: str, cause: Envelope, events: Sequence[Event], deadline: Nanos | None) -> None:
        """Hand in the answer of subscriber `name` to `cause`. Handing it in twice is nothing."""
        encoded = [(event, self._codec.encode(event)) for event in events]
        with self._lock:
            subscriber = self._subscribers[name]
            key = (cause.seq, name)
            if cause.seq <= subscriber.done or key in self._answers:
                return
            self._answers[key] = _Answer(cause, encoded, deadline)
            if self._is_simulated:
                self._admit_in_rank()
            else:
                self._advance_time(None)
                self._admit(next(d for d in self._debts if d.cause == cause.seq), subscriber)
                self._forget_paid()
            self._settle()

    def complete_until(
        self,
        name: str,
        until: int,
        answers: Sequence[tuple[Envelope, Sequence[Event]]],
        deadline: Nanos | None,
    ) -> None:
        """Hand in everything that `name` owes up to seq `until`: its `answers`, and nothing where there is none."""
        encoded = {
            cause.seq: (cause, [(event, self._codec.encode(event)) for event in events]) for cause, events in answers
        }
        with self._lock:
            subscriber = self._subscribers[name]
            owed = [debt for debt in self._debts if debt.cause <= until and subscriber in debt.owing]
            for debt in owed:
                cause, outputs = encoded.get(debt.cause, (None, []))
                self._answers[debt.cause, name] = _Answer(cause, outputs, deadline)
            if self._is_simulated:
                self._admit_in_rank()
            else:
                self._advance_time(None)
                for debt in owed:
                    self._admit(debt, subscriber)
                self._forget_paid()
            self._settle()

    def caught_up(self, name: str, deadline: Nanos | None) -> None:
        """After a catch-up without debts: the machine's deadline as it stands now."""
        with self._lock:
            self._subscribers[name].deadline = deadline
            self._catching_up.discard(name)
            if not self._catching_up:
                callbacks, self._when_caught_up = self._when_caught_up, []
                for callback in callbacks:
                    callback()
            self._changed.notify_all()

    def attempt_settled(self, attempt_seq: int) -> None:
        """The attempt's outcome is durable: it is no longer in flight."""
        with self._lock:
            self._in_flight.pop(attempt_seq, None)
            self._settle()

    def attempts_in_flight(self) -> list[Envelope]:
        """Sent attempts without a durable outcome, oldest first."""
        with self._lock:
            return list(self._in_flight.values())

    @property
    def owed(self) -> int:
        """How many events are owed an answer."""
        return len(self._debts)

    def oldest_debt(self) -> tuple[int, tuple[str, ...]] | None:
        """The oldest event that is owed an answer, and by whom; None when nothing is."""
        with self._lock:
            if not self._debts:
                return None
            cause, owing = self._debts[0].cause, self._debts[0].owing
            # In simulated time an answer may be there and wait for another's.
            return cause, tuple(each.name for each in owing if (cause, each.name) not in self._answers)

    # ---------------------------------------------------------------- waiting

    def when_caught_up(self, callback: Callable[[], None]) -> None:
        """Call `callback` once every subscriber has caught up since the start. It must not publish itself."""
        with self._lock:
            if self._catching_up:
                self._when_caught_up.append(callback)
                return
        callback()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once nothing is owed (at once when nothing is). It must not publish itself."""
        with self._lock:
            if self._debts:
                self._when_idle.append(callback)
                return
        callback()

    def wait_quiet(self, is_stopping: Callable[[], bool], timeout_s: float = QUIET_TIMEOUT_S) -> bool:
        """Block until nothing is owed and nothing is in flight. False when `is_stopping` became true first.

        Raises OurError after `timeout_s` without any change: someone owes and never answers.
        """
        while self._writer.backlog > MAX_BACKLOG and not is_stopping():
            is_written = threading.Event()
            self._writer.when_durable(self._seq, is_written.set)
            is_written.wait(1.0)
        with self._changed:
            while self._debts or self._in_flight:
                if is_stopping():
                    return False
                if not self._changed.wait(timeout_s):
                    raise OurError(f"not quiet for {timeout_s:.0f} s: {self._describe_debts()}")
        return not is_stopping()

    def wake(self) -> None:
        """Make waiters look again (a stop was asked for)."""
        with self._changed:
            self._changed.notify_all()

    def next_deadline(self, *, besides: str = "") -> Nanos | None:
        """The earliest deadline any subscriber (but `besides`) has asked for."""
        with self._lock:
            subscribers = tuple(self._subscribers.values())
            deadlines = [s.deadline for s in subscribers if s.deadline is not None and s.name != besides]
        return min(deadlines, default=None)

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        """Call `callback` once `seq` is on disk. Nothing may leave the process before its intent is."""
        self._writer.when_durable(seq, callback)

    # ---------------------------------------------------------------- private, under the lock

    def _advance_time(self, ts: Nanos | None) -> None:
        if ts is None and not self._is_simulated:
            ts = self._now()
        self._ts = max(self._ts, ts or self._ts)

    def _admit_in_rank(self) -> None:
        """Sequence the answers that are due next: the oldest debt first, within it by rank."""
        while self._debts and (self._debts[0].cause, self._debts[0].owing[0].name) in self._answers:
            debt = self._debts[0]
            self._admit(debt, debt.owing[0])
            self._forget_paid()

    def _admit(self, debt: _Debt, subscriber: _Subscriber) -> None:
        answer = self._answers.pop((debt.cause, subscriber.name))
        debt.owing.remove(subscriber)
        subscriber.done = debt.cause
        subscriber.deadline = answer.deadline
        if answer.outputs:
            self._put(answer.outputs, source=subscriber.name, cause=answer.cause, incarnation=subscriber.incarnation)

    def _forget_paid(self) -> None:
        while self._debts and not self._debts[0].owing:
            self._debts.popleft()

    def _settle(self) -> None:
        """Tell those who wait for quiet."""
        if not self._debts:
            callbacks, self._when_idle = self._when_idle, []
            for callback in callbacks:
                callback()
        self._changed.notify_all()

    def _put(
        self, encoded: Sequence[tuple[Event, str | bytes]], *, source: str, cause: Envelope | None, incarnation: int
    ) -> tuple[Envelope, ...]:
        envelopes = tuple(
            self._seal(event, raw, source=source, cause=cause, idx=idx, incarnation=incarnation)
            for idx, (event, raw) in enumerate(encoded)
        )
        self._writer.append(envelopes)
        for envelope in envelopes:
            if envelope.type in ATTEMPTS:
                self._in_flight[envelope.seq] = envelope
            self._owe(envelope.seq, envelope.type)
            self._dispatch(envelope)
        return envelopes

    def _seal(
        self, event: Event, raw: str | bytes, *, source: str, cause: Envelope | None, idx: int, incarnation: int
    ) -> Envelope:
        """Give the event its number, its workflow and its link in the chain."""
        self._seq += 1
        kind = type(event).__name__
        columns: dict[str, Any] = {
            "seq": self._seq,
            "ts_ns": self._ts,
            "ts_event": event_time(event),
            "type": kind,
            "version": EVENT_VERSIONS[kind],
            "source": source,
            "incarnation": incarnation,
            "cause": None if cause is None else cause.seq,
            "idx": idx,
            "corr": self._workflow_of(event, cause),
            "root": getattr(event, "root", None),
            "raw": raw,
        }
        self._hash = chain_hash(self._hash, **columns)
        return Envelope(payload=event, hash=self._hash, **columns)

    def _workflow_of(self, event: Event, cause: Envelope | None) -> int | None:
        """An order's events share the seq of its request; others inherit from their cause."""
        order = getattr(event, "signal_id", None)
        if order is not None:
            return self._workflows.setdefault(order, self._seq)
        return None if cause is None else cause.corr or cause.seq

    def _owe(self, seq: int, kind: str) -> None:
        owing = [subscriber for subscriber in self._by_kind.get(kind, ()) if seq > subscriber.done]
        if owing:
            self._debts.append(_Debt(seq, owing))

    def _dispatch(self, envelope: Envelope) -> None:
        for subscriber in self._by_kind.get(envelope.type, ()):
            if subscriber.deliver is not None:
                subscriber.deliver(envelope)
        if envelope.type in ATTEMPTS:
            self._on_submitted(envelope)
        for observer in self._observers:
            observer(envelope)

    def _describe_debts(self) -> str:
        debts = [f"{debt.cause} owed by {', '.join(s.name for s in debt.owing)}" for debt in list(self._debts)[:3]]
        return "; ".join([*debts, f"in flight: {sorted(self._in_flight)}"])
