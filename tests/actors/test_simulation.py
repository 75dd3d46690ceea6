"""Sessions drawn from seeds: the invariants hold, and a seed plays the same again."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from actors.main import cli
from actors.wiring.simulate import Lived, simulate

CI_SEEDS = range(1, 201)
SOAK_SEEDS = range(int(os.environ.get("ROONEY_SOAK_SEEDS", "10000")))


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
