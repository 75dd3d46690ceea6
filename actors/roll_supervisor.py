"""RollSupervisor's machine: says at a session's open which roots have moved to another contract.

The session's contracts were resolved before it opened and are in `SessionOpened`. A root
that traded another contract before has rolled; the price difference that shifts its older
bars comes with the history, and where it is unknown the history ends at the roll.
"""

from __future__ import annotations

from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import ContractRolled, Event, HistoryLoaded, SessionOpened, StateCarried
from domain.units import Nanos


class RollSupervisor:
    """Implements `domain.ports.Machine`."""

    name = "roll"
    kinds = frozenset({"SessionOpened", "HistoryLoaded", "StateCarried"})

    def __init__(self) -> None:
        self._opened: SessionOpened | None = None
        self._history = HistoryLoaded(tables=())

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        match envelope.payload:
            case SessionOpened() as opened:
                self._opened = opened
            case HistoryLoaded() as history:
                self._history = history
            case StateCarried() as carried:
                return self._rolls(carried)
            case _:
                pass
        return ()

    def next_deadline(self) -> Nanos | None:
        """None: rolls take effect at a session's open only."""
        return None

    def _rolls(self, carried: StateCarried) -> tuple[ContractRolled, ...]:
        if self._opened is None:
            raise OurError("StateCarried came before SessionOpened")
        before = {table.root: table.contracts[-1] for table in self._history.tables if len(table)}
        before |= {c.root: c.raw_symbol for c in carried.contracts if c.rank == 0 and c.raw_symbol is not None}
        differences = {
            (seam.root, seam.from_contract, seam.to_contract): seam.difference for seam in self._history.seams
        }
        rules = {root.root: root.roll_rule for root in self._opened.roots}
        return tuple(
            ContractRolled(
                root=contract.root,
                from_contract=before[contract.root],
                to_contract=contract.raw_symbol,
                rule=rules[contract.root],
                evidence=f"{contract.root}.v.0 is {contract.raw_symbol}, was {before[contract.root]}",
                difference=differences.get((contract.root, before[contract.root], contract.raw_symbol)),
            )
            for contract in self._opened.contracts
            if contract.rank == 0
            and contract.raw_symbol is not None
            and before.get(contract.root, contract.raw_symbol) != contract.raw_symbol
        )
