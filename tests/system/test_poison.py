"""What fails again on each restart: one root leaves, or the program ends, or it goes on without as it was allowed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from in_this_process import envelopes
from journals import canonical, first_difference, not_decided_again, restarts, sent_otherwise_than_recorded
from test_crash_sweep import Run, run

from actors.faults import Crash, Faults
from actors.live import EXIT_SAFE_STOP
from actors.machines import MachineParts
from actors.supervisor import INTENSITY, POISON_AFTER
from actors.wiring import MACHINE_PARTS, parse_time
from adapters.backtrader.engine import build_engine
from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile

pytestmark = pytest.mark.system

POISON = parse_time("2024-04-30T22:12Z")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Crashes on purpose are said once each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("pykka").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("pykka").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def parts_with(strategy: type[IbsStrategy]) -> MachineParts:
    build: Any = partial(build_engine, strategy=strategy)
    return MachineParts(build_engine=build, build_payload=MACHINE_PARTS.build_payload)


# ---------------------------------------------------------------- of one root


class OneRoot(IbsStrategy):
    """Fails whenever something is held in ES, from a minute on."""

    def _look_for_exit(self, state: Any, holding: Any, bar: Any) -> None:
        if state.plan.root == "ES" and self._now >= POISON:
            raise ZeroDivisionError("no such bar")
        super()._look_for_exit(state, holding, bar)


ONE_ROOT = parts_with(OneRoot)


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("halted"), Faults(), machine_parts=ONE_ROOT)


def test_the_root_leaves_its_position_is_closed_and_the_others_go_on(halted: Run) -> None:
    record = envelopes(halted.journal)
    (at,) = [e for e in record if e.type == "RootHalted"]
    later = Counter((e.type, e.root) for e in record if e.seq > at.seq)
    assert later["SignalEvaluated", "ES"] == 0
    assert min(later["SignalEvaluated", root] for root in ("NQ", "GC", "CL")) > 10
    asked = [e.payload.reason for e in record if e.type == "OrderRequested" and e.root == "ES" and e.seq > at.seq]
    assert asked == ["root_halted"]
    assert later["FillAssumed", "ES"] == 1
    assert later["OrderRequested", "NQ"] > 1
    assert sent_otherwise_than_recorded(halted.journal, halted.accepted) == ""
    assert restarts(halted.journal) == Counter(), "nobody had to crash for it"


@pytest.mark.parametrize(
    "site", ["handled", *(pytest.param(s, marks=pytest.mark.soak) for s in ("before", "published"))]
)
def test_crashes_where_it_is_halted_change_nothing(site: Any, halted: Run, replayer: Executor, tmp_path: Path) -> None:
    (at,) = envelopes(halted.journal, "RootHalted")
    assert at.cause is not None
    faults = Faults([Crash("strategy", at.cause, site), Crash("execution", at.seq, site), Crash("bars", at.seq, site)])
    crashed = run(tmp_path, faults, machine_parts=ONE_ROOT)
    assert faults.left == ()
    assert crashed.accepted == halted.accepted
    assert first_difference(canonical(halted.journal), canonical(crashed.journal)) == ""
    assert replayer.submit(not_decided_again, crashed.journal, ONE_ROOT).result(60) == ""


def test_it_stays_halted_when_the_program_is_started_again(halted: Run, replayer: Executor, tmp_path: Path) -> None:
    run(tmp_path, Faults(), machine_parts=ONE_ROOT, until="2024-04-30T22:20Z")
    again = run(tmp_path, Faults(), machine_parts=ONE_ROOT)
    assert restarts(again.journal) == {"process": 1}
    decisions = ("SignalEvaluated", "RootHalted")
    both = [[e.raw for e in envelopes(each.journal, *decisions) if e.root == "ES"] for each in (halted, again)]
    assert both[0] == both[1]
    assert replayer.submit(not_decided_again, again.journal, ONE_ROOT).result(60) == ""


# ---------------------------------------------------------------- of nobody's


class Everyone(IbsStrategy):
    """The slice of one minute brings down the engine itself."""

    def next(self) -> None:
        super().next()
        if self._now == POISON:
            raise ZeroDivisionError("no such slice")


EVERYONE = parts_with(Everyone)


def test_what_poisons_an_actor_ends_the_program_and_is_skipped_only_when_that_is_allowed(
    replayer: Executor, tmp_path: Path
) -> None:
    stopped = run(tmp_path, Faults(), machine_parts=EVERYONE, exit_code=EXIT_SAFE_STOP)
    record = envelopes(stopped.journal)
    (poison,) = [e for e in record if e.type == "SliceClosed" and e.payload.ts == POISON]
    crashes = [e.payload.at_seq for e in record if e.type == "ActorCrashed"]
    assert crashes == [poison.seq] * (INTENSITY + 1)
    reason = next(e.payload.reason for e in record if e.type == "SafeStopRequested")
    assert reason.endswith(f"no such slice; {INTENSITY + 1} times at seq {poison.seq}, SliceClosed")

    run(tmp_path, Faults(), machine_parts=EVERYONE, skip_poison=("strategy",), until="2024-04-30T22:20Z")
    # Without the permission: what is on record is kept to.
    ended = run(tmp_path, Faults(), machine_parts=EVERYONE)
    record = envelopes(ended.journal)
    (skipped,) = [e for e in record if e.type == "MessageSkipped"]
    assert (skipped.payload.actor, skipped.payload.seq, skipped.payload.type) == ("strategy", poison.seq, "SliceClosed")
    assert sum(e.type == "ActorCrashed" for e in record) == INTENSITY + 1 + POISON_AFTER
    assert not [e for e in record if e.source == "strategy" and e.cause == poison.seq]
    later = [e for e in record if e.seq > skipped.seq]
    assert sum(e.type == "SignalEvaluated" for e in later) > 40
    rules = {e.payload.rule for e in later if e.type == "RiskDecided"}
    assert rules <= {"halted", ""}
    assert "halted" in rules, "nothing is entered"
    assert not [e for e in later if e.type == "OrderSubmitted" and e.payload.intent == "entry"]
    assert replayer.submit(not_decided_again, ended.journal, EVERYONE).result(60) == ""
    with JournalFile(ended.journal, Codec()) as journal:
        journal.verify()
