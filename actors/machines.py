"""The four machines, in the order of their rank, and what they are built from.

The order is the order in which simulated time admits their answers to one cause, and it
never changes: it is part of what a journal means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import attrs

from actors.bars import BarAggregator
from actors.execution import Execution
from actors.roll_supervisor import RollSupervisor
from actors.strategy import Strategy
from domain.envelope import Envelope
from domain.events import Event, MessageSkipped
from domain.ports import EngineFactory, JournalReader, Machine, OrderPayload

SUBSCRIBERS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (machine.name, machine.kinds) for machine in (RollSupervisor, BarAggregator, Strategy, Execution)
)
"""(name, kinds) of every machine, in order of rank."""

Skips = Collection[tuple[str, int]]
"""(actor, seq) of the events that an actor goes on without."""


def skips_of(journal: JournalReader, pending: Iterable[Envelope] = ()) -> Skips:
    """What MessageSkipped says in a file and what is not in it yet, to be known before its first event is handled."""
    recorded = (envelope.payload for envelope in (*journal.envelopes(types={"MessageSkipped"}), *pending))
    return frozenset((event.actor, event.seq) for event in recorded if isinstance(event, MessageSkipped))


@attrs.frozen(kw_only=True)
class MachineParts:
    """The adapters that machines are built with."""

    build_engine: EngineFactory
    build_payload: OrderPayload

    def factories(self) -> dict[str, Callable[[], Machine]]:
        """How to make each machine anew, by name, in order of rank."""
        return {
            RollSupervisor.name: RollSupervisor,
            BarAggregator.name: BarAggregator,
            Strategy.name: lambda: Strategy(self.build_engine),
            Execution.name: lambda: Execution(self.build_payload),
        }


class MachineSet:
    """One of each machine, driven in one thread in order of rank."""

    def __init__(self, parts: MachineParts, skips: Skips = frozenset()) -> None:
        """`skips`: the file's, which the machines must not be given."""
        self._skips = skips
        self.roll = RollSupervisor()
        self.bars = BarAggregator()
        self.strategy = Strategy(parts.build_engine)
        self.execution = Execution(parts.build_payload)
        self._by_kind: dict[str, list[Machine]] = {}
        in_rank: tuple[Machine, ...] = (self.roll, self.bars, self.strategy, self.execution)
        for machine in in_rank:
            for kind in sorted(machine.kinds):
                self._by_kind.setdefault(kind, []).append(machine)

    def handle(self, envelope: Envelope) -> list[tuple[str, tuple[Event, ...]]]:
        """What each machine answers to `envelope`: (name, outputs), those without outputs left out."""
        answers = ((machine.name, machine.handle(envelope)) for machine in self.takers(envelope))
        return [(name, outputs) for name, outputs in answers if outputs]

    def takers(self, envelope: Envelope) -> list[Machine]:
        """The machines that are to be given `envelope`, in order of rank."""
        machines = self._by_kind.get(envelope.type, ())
        return [machine for machine in machines if (machine.name, envelope.seq) not in self._skips]
