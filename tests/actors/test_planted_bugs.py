"""Each invariant of a simulation can fail: bugs are planted in the parts, and a session that shows them is found.

The product has none of them. Each is one that somebody could write.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.execution import Execution
from actors.machines import MachineParts
from actors.outbox import Outbox
from actors.wiring import MACHINE_PARTS
from actors.wiring.simulate import Simulated, simulate
from actors.wiring.simulation_checks import INCIDENTS
from adapters.simulated_disk import SimulatedDisk
from adapters.traderspost.simulated import URL, SimulatedLine
from domain.envelope import Envelope
from domain.events import (
    ActorRestarted,
    EntriesClosed,
    Event,
    ExitOverdue,
    FillAssumed,
    OrderAmbiguous,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    SessionOpened,
)
from domain.orders import Order, OrderState
from domain.ports import HeldBackError, MayWrite, OrderMessage
from domain.risk import RiskState
from domain.units import SECOND, Nanos

FOUND_WITHIN = 1_000
CHECKS = "\n".join(
    (Path(__file__).parents[2] / "actors" / name).read_text()
    for name in ("simulation.py", "wiring/simulate.py", "wiring/simulation_checks.py")
)


# ---------------------------------------------------------------- in the journal


class NoBarrier(SimulatedDisk):
    """Says that everything is on disk."""

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        callback()


class ForgetfulDisk(SimulatedDisk):
    """Leaves the newest event out of what a catch-up is told is not on disk yet."""

    def pending(self) -> list[Envelope]:
        return super().pending()[:-1]


class DisorderlyDisk(SimulatedDisk):
    """Writes a commit's last two events in the wrong order."""

    def commit(self) -> None:
        self._pending[-2:] = reversed(self._pending[-2:])
        super().commit()


# ---------------------------------------------------------------- on the way out


class HastyLine(SimulatedLine):
    """Does not ask a last time whether a message may still be written, once its intent is on disk."""

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        async def anyway() -> None:
            with suppress(HeldBackError):
                await may_write()

        return await super().post(submitted, anyway)


class RetryingLine(SimulatedLine):
    """A client that tries again by itself."""

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        outcome = await super().post(submitted, may_write)
        return await super().post(submitted, may_write) if isinstance(outcome, OrderAmbiguous) else outcome


class TalkativeLine(SimulatedLine):
    """Says where it could not connect to."""

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        outcome = await super().post(submitted, may_write)
        return attrs.evolve(outcome, cause=f"{URL}: {outcome.cause}") if isinstance(outcome, OrderNotSent) else outcome


class FailingLine(SimulatedLine):
    """Raises what it should have told."""

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        outcome = await super().post(submitted, may_write)
        if isinstance(outcome, OrderAmbiguous):
            raise TimeoutError(outcome.cause)
        return outcome


# ---------------------------------------------------------------- in the outbox


class ResendingOutbox(Outbox):
    """Sends an entry again whose outcome nobody knows."""

    def _after_entry(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderAmbiguous):
            return self._queued(order, Nanos(now + SECOND)), []
        return super()._after_entry(order, outcome, now)


class ResigningOutbox(Outbox):
    """Gives up an exit whose outcome nobody knows."""

    def _after_exit(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderAmbiguous):
            return order.moved(OrderState.REJECTED), []
        return super()._after_exit(order, outcome, now)


class StubbornOutbox(Outbox):
    """Sends an entry again that was refused."""

    def _after_entry(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderRejected):
            return self._queued(order, Nanos(now + SECOND)), []
        return super()._after_entry(order, outcome, now)


class PileOutbox(Outbox):
    """Leaves what waits where it is when an exit comes."""

    def _supersede(self, older: Order) -> list[Event]:
        return []


class ImpatientOutbox(Outbox):
    """Lets an entry leave while an exit of its root is still to be repeated."""

    def _ready_ns(self, order: Order, of_root: list[Order]) -> Nanos | None:
        return super()._ready_ns(order, [order] if order.intent == "entry" else of_root)


class PoorOutbox(Outbox):
    """Has not thought of a throttled message."""

    def settle(self, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderNotSent) and outcome.is_throttled:
            raise NotImplementedError("429")
        return super().settle(outcome, now)


# ---------------------------------------------------------------- in execution


class Generous(Execution):
    """What is being entered takes no place yet."""

    def __init__(self, build_payload: Any) -> None:
        super().__init__(build_payload)
        known = self.account.risk_state

        def risk_state() -> RiskState:
            return attrs.evolve(
                known(), occupied={root: abs(held.quantity) for root, held in self.account.holdings.positions.items()}
            )

        self.account.risk_state = risk_state  # type: ignore[method-assign]


class Patient(Execution):
    """Its entries have no time limit."""

    def _time_limit(self, request: OrderRequested) -> Nanos | None:
        return None


class Worried(Execution):
    """Closes entries because an actor was restarted: the same in every replay, and no longer the same session."""

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        if isinstance(envelope.payload, ActorRestarted):
            self.account.remember(EntriesClosed(reason="a restart"))
        return super().handle(envelope)


class Chatty(Execution):
    """Says of each fill some thousand times that an exit is overdue."""

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        events = super().handle(envelope)
        again = [e for e in events if isinstance(e, FillAssumed)]
        overdue = (ExitOverdue(root=e.root, signal_id=e.signal_id, attempts=1, since_ns=e.ts) for e in again)
        return (*events, *itertools.chain.from_iterable(itertools.repeat(e, 1_500) for e in overdue))


_MADE = itertools.count()


def numbered_payload(request: OrderRequested, opened: SessionOpened) -> OrderMessage:
    """Puts into a message what no journal has told it: how many this process has made."""
    message = MACHINE_PARTS.build_payload(request, opened)
    body = json.loads(message.body)
    body["extras"]["number"] = next(_MADE)
    return attrs.evolve(message, body=json.dumps(body))


# ---------------------------------------------------------------- found


@attrs.frozen(kw_only=True)
class Planted(MachineParts):
    """The product's machines but for execution, or its outbox."""

    execution: type[Execution] = Execution
    outbox: Callable[[], Outbox] = Outbox

    def factories(self) -> dict[str, Callable[[], Any]]:
        return super().factories() | {Execution.name: self._execution}

    def _execution(self) -> Execution:
        machine = self.execution(self.build_payload)
        machine.account.outbox = self.outbox()
        return machine


def planted(**parts: Any) -> Simulated:
    known: dict[str, Any] = {"build_engine": MACHINE_PARTS.build_engine, "build_payload": MACHINE_PARTS.build_payload}
    return Simulated(machine_parts=Planted(**(known | parts)))


BUGS = (
    ("events in the wrong order", Simulated(disk=DisorderlyDisk), "order", 13),
    ("a client that retries", Simulated(line=RetryingLine), "once", 0),
    ("a dropped barrier", Simulated(disk=NoBarrier), "disk", 0),
    ("a resent entry", planted(outbox=ResendingOutbox), "I1", 2),
    ("an exit that is given up", planted(outbox=ResigningOutbox), "I2", 4),
    ("a limit that is not looked at again", Simulated(line=HastyLine), "I3", 20),
    ("an entry that outlives an exit", planted(execution=Patient, outbox=PileOutbox), "I4", 11),
    ("an entry that takes no place", planted(execution=Generous), "I5", 1),
    ("a refusal that is not taken", planted(outbox=StubbornOutbox), "I6", 5),
    ("an address in an error", Simulated(line=TalkativeLine), "I7", 0),
    ("an exit that closes a newer position", planted(outbox=ImpatientOutbox), "I9", 29),
    ("a count of the process, replayed", planted(build_payload=numbered_payload), "replay", 0),
    ("a count of the process, recovered", planted(build_payload=numbered_payload), "recovery", 1),
    ("a decision that a restart changes", planted(execution=Worried), "crashless", 1),
    ("a lost catch-up event", Simulated(disk=ForgetfulDisk), "rest", 6),
    ("a flood", planted(execution=Chatty), "memory", 5),
    ("an outcome that was not thought of", planted(outbox=PoorOutbox), "actor", 0),
    ("an error that is not told", Simulated(line=FailingLine), "runner", 0),
)
"""What is planted, what finds it, and the first seed in which it did."""


def first_found(parts: Simulated, invariant: str, seeds: Iterable[int]) -> int | None:
    for seed in seeds:
        if any(violation.invariant == invariant for violation in simulate(seed, parts=parts).violations):
            return seed
    return None


@pytest.mark.parametrize(("parts", "invariant", "seed"), [pytest.param(*bug[1:], id=bug[0]) for bug in BUGS])
def test_a_planted_bug_is_found(parts: Simulated, invariant: str, seed: int) -> None:
    """At the seed that has shown it, or, when the sessions have become others, at another."""
    assert first_found(parts, invariant, (seed, *range(FOUND_WITHIN))) is not None


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_planted_bug_is_found_within_a_thousand_seeds() -> None:
    found = {
        what: (invariant, first_found(parts, invariant, range(FOUND_WITHIN))) for what, parts, invariant, _ in BUGS
    }
    print("", *(f"{what}: {invariant} at seed {seed}" for what, (invariant, seed) in found.items()), sep="\n")
    assert None not in [seed for _, seed in found.values()]


def test_every_invariant_has_a_bug_that_breaks_it() -> None:
    """I8 is I1 and I2 with processes that die; `error` and `lint` are what no check has a word for."""
    written = set(re.findall(r'violate\(\s*"(\w+)"|_break\("(\w+)"', CHECKS))
    assert {name for pair in written for name in pair if name} | set(INCIDENTS.values()) == {
        *(invariant for _, _, invariant, _ in BUGS), "error", "lint",
    }  # fmt: skip
