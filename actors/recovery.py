"""Recovery of a file at a start of the process: all machines, in one reading, each compared with its own record.

The sequencer reads the file anyway (`Sequencer.restore`), and the machines look on. One that fails
or decides otherwise than its record is left out: its actor then catches up from the first event, as
after any later crash, and fails there, where it is supervised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import attrs

from actors.machines import MachineParts, Skips
from actors.replay import RecallingCodec
from domain.envelope import Envelope
from domain.events import Event
from domain.ports import Machine


@attrs.frozen(kw_only=True)
class Recovered:
    """A machine that has been given its events up to `seq` and agrees with its record there. A new one, by default."""

    machine: Machine
    seq: int = 0
    owed: Sequence[tuple[Envelope, tuple[Event, ...]]] = ()
    """(cause, outputs) of what it decided after its last answer on record, oldest first."""


@attrs.define
class _Recovering:
    name: str
    machine: Machine
    answered: int = 0
    """The cause of its last answer on record."""
    expected: dict[tuple[int, int], tuple[Envelope, Event]] = attrs.field(factory=dict)
    """By (cause, idx): what it decided and the record has not shown yet."""
    is_lost: bool = False


class Recovery:
    """The machines of a file. Read it through `codec`: what they have just decided is then not decoded again."""

    def __init__(self, parts: MachineParts, codec: RecallingCodec, skips: Skips = frozenset()) -> None:
        self._skips = skips
        self._factories = parts.factories()
        self._codec = codec
        self._seq = 0
        self._recovering: dict[str, _Recovering] = {}
        for name, make in self._factories.items():
            with contextlib.suppress(Exception):  # as above: its actor is made where that is supervised
                self._recovering[name] = _Recovering(name, make())

    def fold(self, envelope: Envelope) -> None:
        """Take in the next event of the file."""
        self._seq = envelope.seq
        for one in self._recovering.values():
            if not one.is_lost:
                one.is_lost = not self._is_recovered(one, envelope)

    def take(self, name: str) -> Recovered:
        """Hand over the machine `name`, once; a new one afterwards, or if it could not be recovered."""
        one = self._recovering.pop(name, None)
        if one is None or one.is_lost or any(cause <= one.answered for cause, _ in one.expected):
            return Recovered(machine=self._factories[name]())
        owed: dict[int, tuple[Envelope, tuple[Event, ...]]] = {}
        for cause, event in one.expected.values():
            owed[cause.seq] = cause, (*owed.get(cause.seq, (cause, ()))[1], event)
        return Recovered(machine=one.machine, seq=self._seq, owed=tuple(owed.values()))

    def _is_recovered(self, one: _Recovering, envelope: Envelope) -> bool:
        if envelope.source == one.name and envelope.cause is not None:
            one.answered = max(one.answered, envelope.cause)
            again = one.expected.pop((envelope.cause, envelope.idx), None)
            if again is None or again[1] != envelope.payload:
                return False
        if envelope.type in one.machine.kinds and (one.name, envelope.seq) not in self._skips:
            try:
                for idx, event in enumerate(one.machine.handle(envelope)):
                    self._codec.encode(event)
                    one.expected[envelope.seq, idx] = envelope, event
            except Exception:  # noqa: BLE001 - its actor fails at the same event again, and says so
                return False
        return True
