"""Sessions drawn from seeds: the invariants hold, a seed plays the same again, and planted bugs are found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from actors.execution import Execution
from actors.machines import MachineParts
from actors.main import cli
from actors.outbox import Outbox
from actors.wiring import MACHINE_PARTS
from actors.wiring.simulate import Lived, Simulated, simulate
from adapters.simulated_disk import SimulatedDisk
from domain.envelope import Envelope
from domain.events import Event, OrderAmbiguous, Outcome
from domain.orders import Order
from domain.units import SECOND, Nanos

CI_SEEDS = range(1, 251)
SOAK_SEEDS = range(int(os.environ.get("ROONEY_SOAK_SEEDS", "10000")))
FOUND_WITHIN = 1_000


def assert_all_hold(seeds: range) -> list[Lived]:
    lived = [simulate(seed) for seed in seeds]
    broken = [one for one in lived if one.violations]
    assert not broken, f"{len(broken)} of {len(lived)}:\n" + "\n".join(
        f"seed {one.seed}: {violation.invariant}: {violation.detail}"
        for one in broken[:5]
        for violation in one.violations
    )
    return lived


def test_the_invariants_hold_whatever_a_seed_draws() -> None:
    lived = assert_all_hold(CI_SEEDS)
    # What was drawn is worth playing: both clocks, crashes of both kinds, faults, orders.
    assert {one.clock for one in lived} == {"system", "feed"}
    assert sum(one.processes > 1 for one in lived) > len(lived) // 3
    assert sum(one.crashes for one in lived) > len(lived) // 3
    assert len({fault for one in lived for fault in one.faults}) > 10
    assert sum(one.messages for one in lived) > 4 * len(lived)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("seed", [3074, 8478])
def test_a_disk_that_fails_while_a_process_starts_ends_that_process(seed: int) -> None:
    lived = simulate(seed)
    assert (lived.violations, lived.processes > 2) == ((), True)


@pytest.mark.soak
@pytest.mark.timeout(14_400)
def test_the_invariants_hold_in_ten_thousand_scenarios() -> None:
    lived = assert_all_hold(SOAK_SEEDS)
    print(
        f"\n{len(lived)} scenarios, {sum(one.events for one in lived)} events, "
        f"{sum(one.messages for one in lived)} messages, {sum(one.processes - 1 for one in lived)} deaths, "
        f"{sum(one.crashes for one in lived)} crashes of actors"
    )


@pytest.mark.parametrize("seed", [7, 8, 33])
def test_a_seed_gives_the_same_chain_head_again(seed: int) -> None:
    assert simulate(seed) == simulate(seed)
    assert simulate(seed).head != simulate(seed + 2).head


# ---------------------------------------------------------------- planted bugs


class NoBarrier(SimulatedDisk):
    """Says that everything is on disk."""

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        callback()


class ForgetfulDisk(SimulatedDisk):
    """Leaves the newest event out of what a catch-up is told is not on disk yet."""

    def pending(self) -> list[Envelope]:
        return super().pending()[:-1]


class ResendingOutbox(Outbox):
    """Sends an entry again whose outcome nobody knows."""

    def _after_entry(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderAmbiguous):
            return self._queued(order, Nanos(now + SECOND)), []
        return super()._after_entry(order, outcome, now)


class ImpatientOutbox(Outbox):
    """Lets an entry leave while an exit of its root is still to be repeated."""

    def _ready_ns(self, order: Order, of_root: list[Order]) -> Nanos | None:
        return super()._ready_ns(order, [order] if order.intent == "entry" else of_root)


@attrs.frozen(kw_only=True)
class WithOutbox(MachineParts):
    """The product's machines but for the outbox."""

    outbox: Callable[[], Outbox]

    def factories(self) -> dict[str, Callable[[], Any]]:
        return super().factories() | {Execution.name: self._execution}

    def _execution(self) -> Execution:
        machine = Execution(self.build_payload)
        machine.account.outbox = self.outbox()
        return machine


def with_outbox(outbox: Callable[[], Outbox]) -> Simulated:
    parts = WithOutbox(
        build_engine=MACHINE_PARTS.build_engine, build_payload=MACHINE_PARTS.build_payload, outbox=outbox
    )
    return Simulated(machine_parts=parts)


@pytest.mark.parametrize(
    ("planted", "invariant"),
    [
        pytest.param(Simulated(disk=NoBarrier), "disk", id="a dropped barrier"),
        pytest.param(Simulated(disk=ForgetfulDisk), "rest", id="a lost catch-up event"),
        pytest.param(with_outbox(ResendingOutbox), "I1", id="a resent entry"),
        pytest.param(with_outbox(ImpatientOutbox), "I9", id="an exit that closes a newer position"),
    ],
)
def test_a_planted_bug_is_found(planted: Simulated, invariant: str) -> None:
    for seed in range(FOUND_WITHIN):
        if any(violation.invariant == invariant for violation in simulate(seed, parts=planted).violations):
            print(f"\nfound at seed {seed}")
            return
    raise AssertionError(f"not found in {FOUND_WITHIN} seeds")


# ---------------------------------------------------------------- the command


def test_the_command_plays_seeds_and_says_what_came_of_them() -> None:
    result = CliRunner().invoke(cli, ["simulate", "--seed", "7", "--count", "2", "--json"])
    assert result.exit_code == 0, result.output
    played = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["seed"], one["head"]) for one in played] == [(seed, simulate(seed).head) for seed in (7, 8)]
    assert "2 scenarios" in result.stderr


def test_without_faults_nothing_dies_and_with_an_unknown_one_nothing_is_played() -> None:
    one = simulate(7, trouble=())
    assert (one.processes, one.crashes, one.faults, one.violations) == (1, 0, (), ())
    result = CliRunner().invoke(cli, ["simulate", "--seed", "7", "--faults", "htttp"])
    assert result.exit_code == 2
    assert "some of http,process" in result.stderr.replace(", ", ",")
