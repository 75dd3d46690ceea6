"""Replay: the recorded inputs through the same machines, in one thread, compared event by event.

Every event that a machine recorded must be decided again: same cause, same place, same
payload byte for byte. Nothing is sent, no socket is opened, the file is read only. The
first difference is reported with both payloads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from actors.machines import SUBSCRIBERS, MachineParts, MachineSet
from domain.envelope import Envelope
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
    """`differs`, `not decided again` or `not on record`."""
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


class _Expected:
    """What the machines have decided and the record has not shown yet."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, int, int], Event] = {}
        self._last_cause: dict[str, int] = {}

    def add(self, source: str, cause: int, outputs: tuple[Event, ...]) -> None:
        for idx, event in enumerate(outputs):
            self._events[source, cause, idx] = event

    def take(self, envelope: Envelope) -> Event | None:
        cause = envelope.cause or 0
        self._last_cause[envelope.source] = cause
        return self._events.pop((envelope.source, cause, envelope.idx), None)

    def missing(self, *, is_finished: bool) -> tuple[str, int, Event] | None:
        """The earliest decision that the record should hold and does not.

        A file that was cut off may end before the last decisions of each machine.
        """
        for (source, cause, _), event in sorted(self._events.items(), key=lambda item: item[0][1:]):
            if is_finished or cause <= self._last_cause.get(source, 0):
                return source, cause, event
        return None


def replay(
    envelopes: Iterable[Envelope], *, parts: MachineParts, codec: Codec, is_finished: bool, until: int | None = None
) -> ReplayResult:
    """Re-decide a file. `is_finished`: the file was left in order, so nothing may be missing at its end.

    `until` stops after that seq (nothing is expected beyond it).
    """
    machines, expected = MachineSet(parts), _Expected()
    counts = {"events": 0, "inputs": 0, "compared": 0, "decisions": 0, "orders": 0}
    divergence: Divergence | None = None
    opened: SessionOpened | None = None
    for envelope in envelopes:
        if until is not None and envelope.seq > until:
            is_finished = False
            break
        counts["events"] += 1
        if isinstance(envelope.payload, SessionOpened):
            opened = envelope.payload
        counts["decisions"] += envelope.type == "SignalEvaluated"
        counts["orders"] += envelope.type == "OrderRequested"
        if envelope.source in _MACHINES:
            counts["compared"] += 1
            divergence = _compare(envelope, expected.take(envelope), codec)
            if divergence is not None:
                break
        else:
            counts["inputs"] += 1
        for source, outputs in machines.handle(envelope):
            expected.add(source, envelope.seq, outputs)
    missing = expected.missing(is_finished=is_finished and divergence is None)
    if missing is not None and (divergence is None or missing[1] < (divergence.cause or divergence.seq)):
        source, cause, event = missing
        divergence = Divergence(
            seq=cause,
            source=source,
            cause=cause,
            kind="not on record",
            type=type(event).__name__,
            recorded=None,
            replayed=_plain(codec.encode(event)),
            fields=(),
        )
    return ReplayResult(**counts, divergence=divergence, opened=opened)


def _compare(envelope: Envelope, again: Event | None, codec: Codec) -> Divergence | None:
    if again is None:
        return _diverged(envelope, "not decided again", None)
    if type(again).__name__ == envelope.type:
        if envelope.version == EVENT_VERSIONS[envelope.type]:
            if codec.encode(again) == envelope.raw:
                return None
        elif again == envelope.payload:
            return None  # written by an older version: equal once upcast
    return _diverged(envelope, "differs", codec.encode(again))


def _diverged(envelope: Envelope, kind: str, again: str | bytes | None) -> Divergence:
    recorded, replayed = _plain(envelope.raw), None if again is None else _plain(again)
    fields: tuple[str, ...] = ()
    if isinstance(recorded, dict) and isinstance(replayed, dict):
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
