"""Faults that a gateway injects on purpose: what kind, and after how many records.

A fault is named in a spec such as `fin@20000,rst@45000,close`. Each counted fault
strikes once in the gateway's life. A new kind is a new member of `FaultKind` and a
branch where the session carries it out.
"""

from __future__ import annotations

import enum
import re

import attrs

from domain.errors import OperatorError


class FaultKind(enum.Enum):
    """What goes wrong."""

    FIN = "fin"
    """The connection is closed in order, in mid-session, without an error."""
    RST = "rst"
    """The connection is reset; what the client has not read is lost."""
    HANG = "hang"
    """The connection stays open and says nothing any more, heartbeats included."""
    CLOSE = "close"
    """Every connection is closed as soon as it is accepted."""


COUNTED_KINDS = (FaultKind.FIN, FaultKind.RST, FaultKind.HANG)
_COUNTED = re.compile(r"([a-z]+)@(\d{1,15})")
_FIX = "write for example fin@20000,rst@45000,hang@60000 or close"


@attrs.frozen(kw_only=True)
class Fault:
    """One fault: after `at` trades sent in all (None for a fault of every connection)."""

    kind: FaultKind
    at: int | None = None


def parse_faults(spec: str) -> tuple[Fault, ...]:
    """The faults of a spec, sorted by their place; empty text means none.

    Raises OperatorError (exit code 2) for an unknown kind, a missing or needless count,
    a count of 0, or two faults at the same record.
    """
    faults = [_parse_one(token.strip(), spec) for token in spec.split(",")] if spec.strip() else []
    places = [fault.at for fault in faults]
    if len(set(places)) != len(places):
        raise _refused(f"two faults at one place in {spec!r}")
    return tuple(sorted(faults, key=lambda fault: fault.at or 0))


def _parse_one(token: str, spec: str) -> Fault:
    if token == FaultKind.CLOSE.value:
        return Fault(kind=FaultKind.CLOSE)
    match = _COUNTED.fullmatch(token)
    kinds = {kind.value: kind for kind in COUNTED_KINDS}
    if match is None or match[1] not in kinds or int(match[2]) == 0:
        raise _refused(f"{token!r} in {spec!r} is no fault")
    return Fault(kind=kinds[match[1]], at=int(match[2]))


def _refused(what: str) -> OperatorError:
    return OperatorError(what, where="--faults", fix=_FIX, exit_code=2)


class FaultPlan:
    """The faults still to come, counted over all connections of one gateway."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.closes_at_accept = any(fault.kind is FaultKind.CLOSE for fault in faults)
        self.records_sent = 0
        self._pending = [(fault.at, fault.kind) for fault in faults if fault.at is not None]

    def room(self, wanted: int) -> int:
        """How many of `wanted` records may be sent before the next fault strikes (at least 1)."""
        return min(wanted, self._pending[0][0] - self.records_sent) if self._pending else wanted

    def count(self, sent: int) -> FaultKind | None:
        """Count records that were sent; the fault that strikes now, if any."""
        self.records_sent += sent
        if self._pending and self.records_sent >= self._pending[0][0]:
            return self._pending.pop(0)[1]
        return None
