"""The envelope: an event with its place in the total order."""

from __future__ import annotations

import hashlib

import attrs

from domain.events import ClockTicked, Event, FillAssumed, SliceClosed, TradesReceived
from domain.market import last_event_time
from domain.units import Nanos

GENESIS = bytes(32)
"""The chain's value before the first event of a file."""


@attrs.frozen(kw_only=True, eq=False)
class Envelope:
    """`payload` at `seq` of a session file.

    ts_ns is the moment it was sequenced (feed time with `clock: feed`); ts_event the market's
    own time of what it tells; cause the seq it answers (None: from outside); idx its place among
    the answers of one source to one cause; corr the seq that opened the workflow.
    """

    seq: int
    ts_ns: Nanos
    ts_event: Nanos | None
    type: str
    version: int
    source: str
    incarnation: int
    cause: int | None
    idx: int
    corr: int | None
    root: str | None
    payload: Event
    raw: str | bytes = attrs.field(repr=False)
    """The encoded payload as it is in the journal."""
    hash: bytes = attrs.field(repr=False)


def event_time(event: Event) -> Nanos | None:
    """The market's own time of `event`, where it has one."""
    match event:
        case TradesReceived(trades=trades):
            return last_event_time(trades)
        case SliceClosed(ts=ts) | FillAssumed(ts=ts) | ClockTicked(ts=ts):
            return ts
        case _:
            return None


def chain_hash(
    previous: bytes,
    *,
    seq: int,
    ts_ns: int,
    ts_event: int | None,
    type: str,
    version: int,
    source: str,
    incarnation: int,
    cause: int | None,
    idx: int,
    corr: int | None,
    root: str | None,
    raw: str | bytes,
) -> bytes:
    """sha256(previous + every column, each prefixed by its length): 32 bytes.

    Length prefixes keep ("ab", "c") and ("a", "bc") apart; a NULL is a length of its own, and
    the mark after the length is `:` for text and numbers, `!` for a BLOB.
    """
    digest = hashlib.sha256(previous)
    for value in (seq, ts_ns, ts_event, type, version, source, incarnation, cause, idx, corr, root, raw):
        if value is None:
            digest.update(b"-1:")
            continue
        data = value if isinstance(value, bytes) else str(value).encode()
        digest.update(b"%d!" % len(data) if isinstance(value, bytes) else b"%d:" % len(data))
        digest.update(data)
    return digest.digest()
