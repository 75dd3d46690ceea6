"""Comparing two journals: what must be equal between two runs of the same market.

Supervision and status events may differ (a crash, a reconnect), and so may incarnations and
the seq numbers they shift. Everything else must be equal: type, source, order, cause, place,
payload byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from actors.machines import MachineParts, skips_of
from actors.replay import replay
from actors.wiring import MACHINE_PARTS
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.events import SUPERVISION_TYPES, OrderAccepted, OrderAmbiguous, OrderRequested

Line = tuple[int, str, str, int | None, int, int, str | bytes]


def canonical(path: Path) -> list[Line]:
    """(seq, type, source, cause, idx, ts_ns, payload) of every event that must be equal, renumbered without gaps."""
    lines: list[Line] = []
    number: dict[int, int] = {}
    with JournalFile(path, Codec()) as journal:
        # Rows and not envelopes: bytes are compared, nothing needs to be decoded.
        for row in journal.query("SELECT seq, type, source, cause, idx, ts_ns, payload FROM events ORDER BY seq"):
            seq, type_, source, cause, *rest = row
            if type_ in SUPERVISION_TYPES or type_ == "SessionClosed":
                continue
            number[seq] = len(lines) + 1
            lines.append((len(lines) + 1, type_, source, None if cause is None else number[cause], *rest))
    return lines


def first_difference(one: list[Line], other: list[Line]) -> str:
    """Empty when equal; else the first line that differs, in words."""
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            return f"{_shown(ours)}\n{_shown(theirs)}"
    return "" if len(one) == len(other) else f"{len(one)} against {len(other)} events"


def _shown(line: Line) -> str:
    return str(tuple(f"<{len(v)} bytes>" if isinstance(v, bytes) else v for v in line))[:400]


def restarts(path: Path) -> Counter[str]:
    """How often each actor was restarted, by the record."""
    with JournalFile(path, Codec()) as journal:
        return Counter(e.payload.actor for e in journal.envelopes(types={"ActorRestarted"}))


def not_decided_again(path: Path, parts: MachineParts = MACHINE_PARTS) -> str:
    """Verify and replay a file that was left in order: empty when identical, else the first difference.

    Replay forbids the outside world to its whole process: call it where nothing else runs.
    """
    with JournalFile(path, Codec()) as journal:
        journal.verify()
        result = replay(journal.envelopes(), parts=parts, codec=Codec(), is_finished=True, skips=skips_of(journal))
    return "" if result.divergence is None else str(result.divergence)


def sent_otherwise_than_recorded(path: Path, accepted: Mapping[str, int]) -> str:
    """The first order that TradersPost has taken more often than the record says, or an entry more than once; else "".

    An exit is sent a second time after it was accepted, and again while nobody knows whether it was.
    """
    intents: dict[str, str] = {}
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    with JournalFile(path, Codec()) as journal:
        for envelope in journal.envelopes(types={"OrderRequested", "OrderAccepted", "OrderAmbiguous"}):
            match envelope.payload:
                case OrderRequested(signal_id=signal_id, intent=intent):
                    intents[signal_id] = intent
                case OrderAccepted(signal_id=signal_id):
                    known[signal_id] += 1
                case OrderAmbiguous(signal_id=signal_id):
                    unknown[signal_id] += 1
    for signal_id, times in accepted.items():
        if not signal_id:
            continue  # a probe or the least that closes a position: they name no order
        most = 1 if intents[signal_id] == "entry" else known[signal_id] + unknown[signal_id]
        if not known[signal_id] <= times <= most:
            return f"{intents[signal_id]} {signal_id} was taken {times} times, {known[signal_id]} on record"
    return ""
