"""Faults that a gateway injects on purpose: what goes wrong, and after how many records.

A specification is a list such as `fin@20000,rst@45000,restart@60000:3,duplicate:2`. Each counted fault strikes
once in the gateway's life. A new kind is a new member of `FaultKind` and a branch where the session carries it out.
"""

from __future__ import annotations

import enum
import re

import attrs
import numpy as np

from domain.errors import OperatorError
from domain.market import TradeArray


class FaultKind(enum.Enum):
    """What goes wrong."""

    FIN = "fin"
    """The connection is closed in order, in mid-session, without an error."""
    RST = "rst"
    """The connection is reset; what the client has not read is lost."""
    HANG = "hang"
    """The connection stays open and says nothing any more, heartbeats included."""
    GARBAGE = "garbage"
    """Bytes that are no records."""
    ERROR = "error"
    """An error record of the code behind the word (`error3@N`); after 4 and 7 the session goes on, else a FIN comes."""
    SLOW = "slow"
    """The warning that the client reads too slowly."""
    SKIP = "skip"
    """The next records are left out and then reported as skipped (error 7), as for a reader too slow."""
    REMAP = "remap"
    """Every mapping once more, unchanged."""
    LATE = "late"
    """The mapping of the last symbol that was subscribed comes only now, after records of it."""
    RESTART = "restart"
    """The gateway drops all connections, is down for some seconds and begins anew with its data."""
    MUTE = "mute"
    """A FIN, and the next connection is accepted and never spoken to. Without a count: every connection."""
    STALL = "stall"
    """A FIN, and the next connection is answered and mapped, but hangs before its first record."""
    OMIT = "omit"
    """A FIN, and the next connection's replay leaves out a tenth of its records and is declared complete."""
    METADATA = "metadata"
    """A FIN, and the next connection's stream is headed as another dataset's, with other prices."""
    CLOSE = "close"
    """Every connection is closed as soon as it is accepted."""
    DUPLICATE = "duplicate"
    """This percentage of the records comes twice, byte for byte."""
    REORDER = "reorder"
    """This percentage of the records changes places with its neighbour: ts_event goes back, ts_recv does not."""


_ALWAYS = (FaultKind.CLOSE, FaultKind.MUTE)
_SHARES = (FaultKind.DUPLICATE, FaultKind.REORDER)
NEXT_CONNECTION = (FaultKind.MUTE, FaultKind.STALL, FaultKind.OMIT, FaultKind.METADATA)
"""They end a connection and show at the one after it."""
_AMOUNTS = {FaultKind.SKIP: 100, FaultKind.RESTART: 1}
"""What may follow a colon, and its default: records, seconds."""
_COUNTED = re.compile(r"([a-z]+)([1-8]?)@(\d{1,15})(?::(\d{1,6}))?")
_SHARE = re.compile(r"([a-z]+):(\d{1,2})")
_FIX = "write for example fin@20000,rst@45000,error3@50000,restart@60000:3,duplicate:2; docs/gateway.md has all kinds"


@attrs.frozen(kw_only=True)
class Fault:
    """One fault: after `at` trades sent in all (None: of every connection, or of the data)."""

    kind: FaultKind
    at: int | None = None
    amount: int = 0
    """The error's code, the records skipped, the seconds down, the percentage."""


def parse_faults(spec: str) -> tuple[Fault, ...]:
    """The faults of a spec, sorted by their place; empty text means none.

    Raises OperatorError (exit code 2) for an unknown kind, a missing or needless count,
    a count of 0, or two faults at the same record.
    """
    faults = [_parse_one(token.strip(), spec) for token in spec.split(",")] if spec.strip() else []
    places = [fault.at or fault.kind for fault in faults]
    if len(set(places)) != len(places):
        raise _refused(f"two faults at one place in {spec!r}")
    return tuple(sorted(faults, key=lambda fault: fault.at or 0))


def _parse_one(token: str, spec: str) -> Fault:
    kinds = {kind.value: kind for kind in FaultKind}
    if kinds.get(token) in _ALWAYS:
        return Fault(kind=kinds[token])
    if (share := _SHARE.fullmatch(token)) is not None and kinds.get(share[1]) in _SHARES and int(share[2]):
        return Fault(kind=kinds[share[1]], amount=int(share[2]))
    match = _COUNTED.fullmatch(token)
    kind = None if match is None else kinds.get(match[1])
    if match is None or kind in (None, FaultKind.CLOSE, *_SHARES) or not int(match[3]):
        raise _refused(f"{token!r} in {spec!r} is no fault")
    code, amount = match[2], match[4]
    if bool(code) != (kind is FaultKind.ERROR) or (amount is not None and kind not in _AMOUNTS):
        raise _refused(f"{token!r} in {spec!r} is no fault")
    return Fault(kind=kind, at=int(match[3]), amount=int(code or amount or _AMOUNTS.get(kind, 0)))


def _refused(what: str) -> OperatorError:
    return OperatorError(what, where="--faults", fix=_FIX, exit_code=2)


class FaultPlan:
    """The faults still to come, counted over all connections of one gateway."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.records_sent = 0
        self._pending = [(fault.at, fault) for fault in faults if fault.at is not None]
        self._every = {fault.kind for fault in faults if fault.at is None}
        self._shares = {fault.kind: fault.amount / 100 for fault in faults if fault.kind in _SHARES}
        self._next: list[FaultKind] = []

    def at_accept(self) -> FaultKind | None:
        """What goes wrong with the connection that has just been accepted."""
        for kind in _ALWAYS:
            if kind in self._every:
                return kind
        return self._next.pop(0) if self._next else None

    @property
    def holds_mapping_back(self) -> bool:
        """Whether a late mapping is still to come."""
        return any(fault.kind is FaultKind.LATE for _, fault in self._pending)

    def room(self, wanted: int) -> int:
        """How many of `wanted` records may be sent before the next fault strikes (at least 1)."""
        return min(wanted, self._pending[0][0] - self.records_sent) if self._pending else wanted

    def count(self, sent: int) -> Fault | None:
        """Count records that were sent; the fault that strikes now, if any."""
        self.records_sent += sent
        if not self._pending or self.records_sent < self._pending[0][0]:
            return None
        _, fault = self._pending.pop(0)
        if fault.kind in NEXT_CONNECTION:
            self._next.append(fault.kind)
        return fault

    def disturb(self, segment: int, trades: TradeArray) -> TradeArray:
        """The segment's records as they are served: the same at every call, so that a replay repeats them."""
        rng = np.random.default_rng([segment, len(trades)])
        if share := self._shares.get(FaultKind.REORDER):
            trades = _reordered(trades, rng.random(len(trades)) < share)
        if share := self._shares.get(FaultKind.DUPLICATE):
            trades = np.repeat(trades, np.where(rng.random(len(trades)) < share, 2, 1))
        return trades


def _reordered(trades: TradeArray, is_chosen: np.typing.NDArray[np.bool_]) -> TradeArray:
    """The chosen records in their successors' places and the other way round; ts_recv stays with the place."""
    is_chosen[-1:] = False
    is_chosen[1:] &= ~is_chosen[:-1]
    first = np.flatnonzero(is_chosen)
    order = np.arange(len(trades))
    order[first], order[first + 1] = first + 1, first
    moved = trades[order]
    moved["ts_recv"] = trades["ts_recv"]
    return moved
