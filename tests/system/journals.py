"""Comparing two journals: what must be equal between two runs of the same market.

Supervision and status events may differ (a crash, a reconnect), and so may incarnations and
the seq numbers they shift. Everything else must be equal: type, source, order, cause, place,
payload byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.events import SUPERVISION_TYPES

Line = tuple[int, str, str, int | None, int, int, str | bytes]


def canonical(path: Path) -> list[Line]:
    """(seq, type, source, cause, idx, ts_ns, payload) of every event that must be equal, renumbered without gaps."""
    lines: list[Line] = []
    number: dict[int, int] = {}
    with JournalFile(path, Codec()) as journal:
        for envelope in journal.envelopes():
            if envelope.type in SUPERVISION_TYPES or envelope.type == "SessionClosed":
                continue
            number[envelope.seq] = len(lines) + 1
            cause = None if envelope.cause is None else number[envelope.cause]
            lines.append(
                (
                    len(lines) + 1,
                    envelope.type,
                    envelope.source,
                    cause,
                    envelope.idx,
                    envelope.ts_ns,
                    envelope.raw,
                )
            )
    return lines


def first_difference(one: list[Line], other: list[Line]) -> str:
    """Empty when equal; else the first line that differs, in words."""
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            return f"{_shown(ours)}\n{_shown(theirs)}"
    return "" if len(one) == len(other) else f"{len(one)} against {len(other)} events"


def _shown(line: Line) -> str:
    return str(tuple(f"<{len(v)} bytes>" if isinstance(v, bytes) else v for v in line))[:400]
