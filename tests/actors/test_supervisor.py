"""The supervisor with real actors that fail in every way: in a start, at work, and the supervisor itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from actors.actor import Failed, Start, SupervisedActor
from actors.health import OWED_CLOSES_ENTRIES, OWED_STOPS, STALL_CLOSES_ENTRIES_S, STALL_STOPS_S, judge_backlog
from actors.sequencer import Sequencer
from actors.supervisor import INTENSITY, TOTAL_INTENSITY, Supervisor
from adapters.memory import MemoryJournal
from tests.builders import CODEC, at

LIMIT_S = 30.0


class Trial:
    """A supervisor over children of the test's making."""

    def __init__(self, **children: Callable[[Trial], pykka.ActorRef[Any]]) -> None:
        self.journal = MemoryJournal()
        self.stopped = threading.Event()
        self.reasons: list[str] = []
        sequencer = Sequencer(writer=self.journal, codec=CODEC, subscribers=(), is_simulated=False, now=lambda: at(0))
        self.ref = Supervisor.start(
            children={name: lambda start=start: start(self) for name, start in children.items()},
            sequencer=sequencer,
            on_safe_stop=self._on_safe_stop,
        )

    def _on_safe_stop(self, reason: str) -> None:
        self.reasons.append(reason)
        self.stopped.set()

    def crash(self, actor: str) -> None:
        self.ref.tell(Failed(actor, 7, ValueError("planned")))

    def count(self, type: str) -> int:
        return sum(envelope.type == type for envelope in self.journal.envelopes())


@pytest.fixture(autouse=True)
def no_actor_is_left() -> Iterator[None]:
    yield
    pykka.ActorRegistry.stop_all()


class Fragile(SupervisedActor):
    """Fails at its first message, as a catch-up may."""

    def __init__(self, trial: Trial, error: BaseException | None) -> None:
        super().__init__("fragile", trial.ref.tell)
        self._error = error
        self._trial = trial

    def receive(self, message: Any) -> None:
        if self._error is not None:
            raise self._error
        self._trial.stopped.set()


def never_starts(trial: Trial) -> pykka.ActorRef[Any]:
    raise RuntimeError("no memory")


def test_a_child_that_cannot_be_started_is_tried_again_and_then_ends_the_process() -> None:
    trial = Trial(fragile=never_starts)
    trial.crash("fragile")
    assert trial.stopped.wait(LIMIT_S)
    assert trial.reasons == [f"fragile crashed {INTENSITY + 1} times in 60 s: RuntimeError: no memory"]
    assert trial.count("ActorCrashed") == INTENSITY + 1
    assert trial.count("ActorRestarted") == 0


@pytest.mark.parametrize("error", [ValueError("poison"), SystemExit(3)])
def test_a_child_that_fails_in_its_first_message_ends_the_process_in_the_end(error: BaseException) -> None:
    trial = Trial(fragile=lambda trial: Fragile.start(trial, error))
    trial.crash("fragile")
    assert trial.stopped.wait(LIMIT_S)
    assert f"crashed {INTENSITY + 1} times" in trial.reasons[0]
    assert trial.count("ActorRestarted") == INTENSITY


def test_a_child_that_recovers_goes_on() -> None:
    trial = Trial(fragile=lambda trial: Fragile.start(trial, None))
    trial.crash("fragile")
    assert trial.stopped.wait(LIMIT_S), "it has taken its first message"
    assert trial.reasons == []


def test_many_children_that_crash_a_little_are_too_much_together() -> None:
    names = [f"child{number}" for number in range(4)]
    trial = Trial(**dict.fromkeys(names, lambda trial: Fragile.start(trial, None)))
    for number in range(TOTAL_INTENSITY + 1):
        trial.crash(names[number % len(names)])
    trial.ref.ask(Start(), timeout=LIMIT_S)
    assert trial.reasons == [f"the actors together crashed {TOTAL_INTENSITY + 1} times in 60 s: ValueError: planned"]


def test_nobody_trades_without_a_supervisor() -> None:
    trial = Trial()
    trial.crash("unknown")
    assert trial.stopped.wait(LIMIT_S)
    assert trial.reasons[0].startswith("the supervisor itself failed: KeyError")


@pytest.mark.parametrize(
    ("stalled_s", "owed", "verdict"),
    [
        (0.0, 0, "well"),
        (STALL_CLOSES_ENTRIES_S, OWED_CLOSES_ENTRIES, "well"),
        (STALL_CLOSES_ENTRIES_S + 0.01, 0, "close_entries"),
        (0.0, OWED_CLOSES_ENTRIES + 1, "close_entries"),
        (STALL_STOPS_S + 0.01, 0, "stop"),
        (0.0, OWED_STOPS + 1, "stop"),
    ],
)
def test_who_falls_behind_closes_entries_and_then_stops_the_trading(stalled_s: float, owed: int, verdict: str) -> None:
    judged, reason = judge_backlog(stalled_s=stalled_s, owed=owed)
    assert judged == verdict
    assert bool(reason) == (verdict != "well")
