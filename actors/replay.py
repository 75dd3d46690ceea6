"""Replay: the recorded inputs through the same machines, in one thread, compared event by event.

Every event that a machine recorded must be decided again: same cause, same place, same
payload byte for byte. Nothing is sent, no socket is opened, the file is read only. The
first difference is reported with both payloads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from actors.guards import OutsideWorldError, outside_world_forbidden
from actors.machines import SUBSCRIBERS, MachineParts, MachineSet, Skips
from domain.envelope import Envelope, event_time
from domain.events import EVENT_VERSIONS, Event, SessionOpened
from domain.ports import Codec

_MACHINES = frozenset(name for name, _ in SUBSCRIBERS)


@attrs.frozen(kw_only=True)
class Divergence:
    """The first place where the machines decided otherwise than the record."""

    seq: int
    """The recorded event; for a missing one, its cause."""
    source: str
    cause: int | None
    kind: str
    """`differs`, `not decided again`, `out of order`, `not on record`, or why the event could not be handled."""
    type: str
    recorded: Any
    """The payload on record, as JSON values; None when there is none."""
    replayed: Any
    fields: tuple[str, ...]
    """Names of the payload's fields that differ."""


@attrs.frozen(kw_only=True)
class ReplayResult:
    """What a replay of one session file came to."""

    events: int
    inputs: int
    compared: int
    decisions: int
    orders: int
    divergence: Divergence | None
    opened: SessionOpened | None
    """The file's first event: what was run, and with which code and libraries."""


class RecallingCodec:
    """A codec that need not read again what it has just written: bytes that a replay expects are its own event.

    Read a journal through it, and each decision that is on record byte for byte costs no decoding.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._expected: dict[tuple[str, int, str], Event] = {}

    def encode(self, event: Event) -> str | bytes:
        raw = self._codec.encode(event)
        if isinstance(raw, str):
            name = type(event).__name__
            self._expected[name, EVENT_VERSIONS[name], raw] = event
        return raw

    def decode(self, type: str, version: int, raw: str | bytes) -> Event:
        known = self._expected.pop((type, version, raw), None) if isinstance(raw, str) else None
        return self._codec.decode(type, version, raw) if known is None else known


@attrs.frozen
class _Decided:
    """What a machine has decided, and its form in the journal."""

    event: Event
    raw: str | bytes


class _Expected:
    """What the machines have decided and the record has not shown yet."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._events: dict[tuple[str, int, int], _Decided] = {}
        self._last: dict[str, tuple[int, int]] = {}
        """(cause, idx) of each machine's last decision on record."""

    def add(self, source: str, cause: int, outputs: tuple[Event, ...]) -> None:
        for idx, event in enumerate(outputs):
            self._events[source, cause, idx] = _Decided(event, self._codec.encode(event))

    def take(self, envelope: Envelope) -> _Decided | None:
        return self._events.pop((envelope.source, envelope.cause or 0, envelope.idx), None)

    def is_in_order(self, envelope: Envelope) -> bool:
        """A machine answers cause after cause: its decisions stand on record by (cause, idx), whatever lies between."""
        place = (envelope.cause or 0, envelope.idx)
        before = self._last.get(envelope.source, (0, 0))
        self._last[envelope.source] = place
        return place >= before

    def missing(self, *, is_finished: bool) -> tuple[str, int, _Decided] | None:
        """The earliest decision that the record should hold and does not.

        A file that was cut off may end before the last decisions of each machine.
        """
        for (source, cause, _), decided in sorted(self._events.items(), key=lambda item: item[0][1:]):
            if is_finished or cause <= self._last.get(source, (0, 0))[0]:
                return source, cause, decided
        return None


def replay(
    envelopes: Iterable[Envelope],
    *,
    parts: MachineParts,
    codec: Codec,
    is_finished: bool,
    until: int | None = None,
    skips: Skips = frozenset(),
) -> ReplayResult:
    """Re-decide a file. `is_finished`: the file was left in order, so nothing may be missing at its end.

    `skips` are the file's own (`skips_of`): what an actor had gone on without.

    `until` stops after that seq (nothing is expected beyond it). Clock, randomness, environment and
    sockets raise meanwhile: a decision that needs them is a divergence.
    """
    replayer = _Replayer(parts, codec, skips)
    divergence: Divergence | None = None
    with outside_world_forbidden():
        for envelope in envelopes:
            if until is not None and envelope.seq > until:
                is_finished = False
                break
            divergence = replayer.step(envelope)
            if divergence is not None:
                break
        divergence = replayer.earlier_of(divergence, is_finished=is_finished)
    return ReplayResult(**replayer.counts, divergence=divergence, opened=replayer.opened)


class _Replayer:
    """The machines and what they have decided so far."""

    def __init__(self, parts: MachineParts, codec: Codec, skips: Skips) -> None:
        self.counts = {"events": 0, "inputs": 0, "compared": 0, "decisions": 0, "orders": 0}
        self.opened: SessionOpened | None = None
        self._machines = MachineSet(parts, skips)
        self._expected = _Expected(codec)

    def step(self, envelope: Envelope) -> Divergence | None:
        """Compare a decision, or take an input; then let the machines answer it."""
        self._count(envelope)
        if envelope.source in _MACHINES:
            is_in_order = self._expected.is_in_order(envelope)
            divergence = _compare(envelope, self._expected.take(envelope))
            if divergence is not None:
                return divergence
            if not is_in_order:
                return _not_handled(envelope, "out of order")
        try:
            answers = self._machines.handle(envelope)
        except OutsideWorldError as error:
            return _not_handled(envelope, f"its handling touched the outside world: {error}")
        except Exception as error:  # noqa: BLE001 - what was altered may do anything to a machine
            return _not_handled(envelope, f"its handling failed: {type(error).__name__}: {error}")
        for source, outputs in answers:
            self._expected.add(source, envelope.seq, outputs)
        return None

    def earlier_of(self, found: Divergence | None, *, is_finished: bool) -> Divergence | None:
        """`found`, or a decision missing on the record before it."""
        # An event that nobody decides again mostly answers one that is itself not on record.
        is_orphan = found is not None and found.kind == "not decided again"
        missing = self._expected.missing(is_finished=is_orphan or (is_finished and found is None))
        if missing is None:
            return found
        source, cause, decided = missing
        if found is not None and cause >= (found.cause or found.seq):
            return found
        return Divergence(
            seq=cause,
            source=source,
            cause=cause,
            kind="not on record",
            type=type(decided.event).__name__,
            recorded=None,
            replayed=_plain(decided.raw),
            fields=(),
        )

    def _count(self, envelope: Envelope) -> None:
        self.counts["events"] += 1
        self.counts["compared" if envelope.source in _MACHINES else "inputs"] += 1
        self.counts["decisions"] += envelope.type == "SignalEvaluated"
        self.counts["orders"] += envelope.type == "OrderRequested"
        if isinstance(envelope.payload, SessionOpened):
            self.opened = envelope.payload


def _compare(envelope: Envelope, again: _Decided | None) -> Divergence | None:
    if again is None:
        return _diverged(envelope, "not decided again", None)
    name = type(again.event).__name__
    if name != envelope.type:
        return _diverged(envelope, f"differs: {name} was decided instead", again.raw)
    if envelope.version == EVENT_VERSIONS[envelope.type]:
        is_same = again.raw == envelope.raw
    else:
        is_same = again.event == envelope.payload  # written by an older version: equal once upcast
    return _compare_columns(envelope, again.event) if is_same else _diverged(envelope, "differs", again.raw)


def _compare_columns(envelope: Envelope, again: Event) -> Divergence | None:
    """What the journal repeats of a payload in columns of their own, for its tables and views."""
    recorded = {"root": envelope.root, "ts_event": envelope.ts_event}
    replayed = {"root": getattr(again, "root", None), "ts_event": event_time(again)}
    if recorded == replayed:
        return None
    return attrs.evolve(
        _not_handled(envelope, "differs in its columns"),
        recorded=recorded,
        replayed=replayed,
        fields=tuple(name for name in recorded if recorded[name] != replayed[name]),
    )


def _not_handled(envelope: Envelope, kind: str) -> Divergence:
    return Divergence(
        seq=envelope.seq,
        source=envelope.source,
        cause=envelope.cause,
        kind=kind,
        type=envelope.type,
        recorded=None,
        replayed=None,
        fields=(),
    )


def _diverged(envelope: Envelope, kind: str, again: str | bytes | None) -> Divergence:
    recorded, replayed = _plain(envelope.raw), None if again is None else _plain(again)
    fields: tuple[str, ...] = ()
    if isinstance(recorded, dict) and isinstance(replayed, dict) and kind == "differs":
        names = [*recorded, *(name for name in replayed if name not in recorded)]
        fields = tuple(name for name in names if recorded.get(name) != replayed.get(name))
    return Divergence(
        seq=envelope.seq,
        source=envelope.source,
        cause=envelope.cause,
        kind=kind,
        type=envelope.type,
        recorded=recorded,
        replayed=replayed,
        fields=fields,
    )


def _plain(raw: str | bytes) -> Any:
    import orjson

    return orjson.loads(raw) if isinstance(raw, str) else f"<{len(raw)} bytes>"
