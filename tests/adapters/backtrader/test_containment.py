"""A root whose evaluation raises leaves the engine; what every other root decides does not change."""

from __future__ import annotations

from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from adapters.backtrader.engine import build_engine
from adapters.backtrader.ibs_strategy import IbsStrategy
from domain.events import OrderRequested, RootHalted, SignalEvaluated, SliceClosed, StateCarried
from domain.units import Nanos

ROOTS = ("ES", "GC")
MINUTES = 375
"""At their end both are held."""


class AtWork(IbsStrategy):
    """Fails at the first bar of ES after its first fill: something is held, half the work is done."""

    def _decide(self, state: Any, bar: Any) -> None:
        super()._decide(state, bar)
        if state.plan.root == "ES" and state.holding is not None:
            raise ZeroDivisionError("no such bar")


class AtAnEntry(IbsStrategy):
    """Fails when ES has just asked for its entry."""

    def _request_entry(self, state: Any, *arguments: Any) -> None:
        super()._request_entry(state, *arguments)
        if state.plan.root == "ES":
            raise ZeroDivisionError("no such bar")


class AtAFill(IbsStrategy):
    """Fails when ES is told of its first fill."""

    def _open(self, state: Any, *arguments: Any, **how: Any) -> None:
        super()._open(state, *arguments, **how)
        if state.plan.root == "ES":
            raise ZeroDivisionError("no such bar")


class AtTheClock(IbsStrategy):
    """Fails when the clock asks ES to close."""

    def _look_at_clock(self, state: Any, ts: Nanos) -> None:
        if state.plan.root == "ES" and ts >= self.deadline_of("ES", ts):
            raise ZeroDivisionError("no such bar")
        super()._look_at_clock(state, ts)


PLANTED = (AtWork, AtAnEntry, AtAFill, AtTheClock)


@cache
def market(make: Any, slices_of: Any) -> list[SliceClosed]:
    found: list[SliceClosed] = slices_of(make(ROOTS, 1)[:MINUTES])
    return found


def slices(kit: SimpleNamespace) -> list[SliceClosed]:
    return market(kit.random_minutes, kit.slices_of)


def engine_of(
    kit: SimpleNamespace, strategy: Any, carried: StateCarried | None = None, *, roots: tuple[str, ...] = ROOTS
) -> Any:
    settings = attrs.evolve(kit.SETTINGS, decision_timeframe="1m", exit_after_bars=3)
    return build_engine(kit.session_opened(roots, settings=settings), carried, [], strategy=strategy)


def run(kit: SimpleNamespace, strategy: Any) -> Any:
    """All minutes, then the auto-close."""
    journal = kit.Journal(engine_of(kit, strategy))
    for closed in slices(kit):
        journal.close(closed)
    journal.take(journal.engine.on_clock(kit.chicago(kit.MONDAY, 15, 50)))
    return journal


def of(journal: Any, root: str) -> list[Any]:
    return [event for event in journal.outputs if event.root == root]


@pytest.fixture(scope="module")
def undisturbed(kit: SimpleNamespace) -> Any:
    return run(kit, IbsStrategy)


@pytest.mark.parametrize("planted", PLANTED)
def test_one_root_is_halted_once_and_the_other_decides_as_ever(
    planted: Any, kit: SimpleNamespace, undisturbed: Any
) -> None:
    journal = run(kit, planted)
    (halted,) = [event for event in journal.outputs if isinstance(event, RootHalted)]
    assert halted == RootHalted(root="ES", error="ZeroDivisionError: no such bar")
    assert of(journal, "GC") == of(undisturbed, "GC")
    assert sum(isinstance(event, OrderRequested) for event in of(journal, "GC")) > 20
    ours, theirs = of(journal, "ES"), of(undisturbed, "ES")
    assert ours[-1] is halted, "nothing of it is evaluated or asked for afterwards"
    assert ours[:-2] == theirs[: len(ours) - 2], "until then it has decided as ever"


class WithAnAddress(IbsStrategy):
    """Fails with words that are others in every process."""

    def _decide(self, state: Any, bar: Any) -> None:
        raise ValueError(f"{object()} is no bar")


def test_what_is_said_of_it_is_the_same_in_every_process(kit: SimpleNamespace) -> None:
    journal = kit.Journal(engine_of(kit, WithAnAddress, roots=("ES",)))
    journal.close(slices(kit)[0])
    assert journal.outputs == [RootHalted(root="ES", error="ValueError: <object object> is no bar")]


def test_half_an_evaluation_asks_for_nothing(kit: SimpleNamespace) -> None:
    journal = run(kit, AtAnEntry)
    assert [request for request in journal.requests if request.root == "ES"] == []
    assert of(journal, "ES")[-2].verdict == "refuse"


def test_a_position_that_is_left_to_the_account_has_no_deadline_here(kit: SimpleNamespace) -> None:
    deadlines = []
    for strategy in (IbsStrategy, AtAFill):
        journal = kit.Journal(engine_of(kit, strategy, roots=("ES",)))
        coming = iter(slices(kit))
        while not journal.fills:
            journal.close(next(coming))
        journal.engine.memories()  # the strategy is told of the fill
        deadlines.append(journal.engine.next_deadline())
    assert deadlines == [kit.chicago(kit.MONDAY, 15), None]


@pytest.mark.parametrize("planted", PLANTED)
def test_an_engine_rebuilt_and_fed_the_same_halts_the_same(planted: Any, kit: SimpleNamespace) -> None:
    journal, again = run(kit, planted), engine_of(kit, planted)
    outputs: list[Any] = []
    for event in journal.given:
        outputs += again.step(event) if isinstance(event, SliceClosed) else again.notify(event) or ()
    outputs += again.on_clock(kit.chicago(kit.MONDAY, 15, 50))
    assert outputs == journal.outputs


def test_a_root_that_was_halted_before_stays_so(kit: SimpleNamespace) -> None:
    carried = StateCarried(
        previous_session=kit.MONDAY.isoformat(),
        previous_segment=1,
        previous_head=None,
        previous_file_sha256=None,
        halted=("ES", "YM"),
    )
    engine = engine_of(kit, IbsStrategy, carried)
    outputs = [event for closed in slices(kit)[:50] for event in engine.step(closed)]
    assert {event.root for event in outputs if isinstance(event, SignalEvaluated)} == {"GC"}


def test_in_a_backtest_it_ends_the_run(kit: SimpleNamespace) -> None:
    settings = attrs.evolve(kit.SETTINGS, decision_timeframe="1m", exit_after_bars=3)
    build = partial(kit.plain_cerebro, slices(kit), ROOTS, settings=settings)
    with pytest.raises(ZeroDivisionError):
        build(strategy=AtWork).run()


class NoMemory(IbsStrategy):
    def _decide(self, state: Any, bar: Any) -> None:
        raise MemoryError


def test_the_trouble_of_the_process_is_not_the_roots(kit: SimpleNamespace) -> None:
    with pytest.raises(MemoryError):
        run(kit, NoMemory)
