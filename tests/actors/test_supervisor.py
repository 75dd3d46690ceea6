"""The supervisor with real actors that fail in every way: in a start, at work, and the supervisor itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from actors.actor import Failed, RecoveryDivergedError, Start, SupervisedActor
from actors.carry import fresh_state
from actors.health import OWED_CLOSES_ENTRIES, OWED_STOPS, STALL_CLOSES_ENTRIES_S, STALL_STOPS_S, judge_backlog
from actors.sequencer import Sequencer
from actors.supervisor import (
    BACKOFF_CAP_S,
    BACKOFF_FIRST_S,
    INTENSITY,
    INTENSITY_WINDOW_S,
    POISON_AFTER,
    TOTAL_INTENSITY,
    Begin,
    ChildSpec,
    Look,
    Release,
    Supervisor,
    backoff_s,
)
from adapters.memory import MemoryJournal
from domain.envelope import Envelope
from domain.events import ClockTicked, CommandReceived, Event, TradesReceived
from tests.builders import CODEC, Record, at, request_of, trades_of

LIMIT_S = 30.0
SHUTDOWN_S = 2 * LIMIT_S
AFTER_BACKOFF_S = 0.15
"""Longer than what the tests that use it make the supervisor wait."""


class Trial:
    """A supervisor over children of the test's making."""

    def __init__(self, gone_after_s: float = 0.0, **children: Callable[[Trial], pykka.ActorRef[Any]]) -> None:
        self.journal = MemoryJournal()
        self.stopped = threading.Event()
        self.reasons: list[str] = []
        self.born: list[str] = []
        """By name, each child that has taken its first message."""
        self.sequencer = Sequencer(
            writer=self.journal, codec=CODEC, subscribers=(), is_simulated=False, now=lambda: at(0)
        )
        self.refs: dict[str, pykka.ActorRef[Any]] = {}
        self.later_s = 0.0
        """How far the supervisor's clock has been put on."""
        self.ref = Supervisor.start(
            specs=[self._spec(name, start) for name, start in children.items()],
            sequencer=self.sequencer,
            on_safe_stop=self._on_safe_stop,
            gone_after_s=gone_after_s,
            now_s=lambda: time.monotonic() + self.later_s,
        )

    def _spec(self, name: str, start: Callable[[Trial], pykka.ActorRef[Any]]) -> ChildSpec:
        def started() -> pykka.ActorRef[Any]:
            self.refs[name] = start(self)
            return self.refs[name]

        return ChildSpec(
            name=name,
            start=started,
            restart="transient" if name == "feed" else "permanent",
            poison="skip" if name == "allowed" else "stop",
            shutdown_s=SHUTDOWN_S,
            followers={"bars": ("strategy",), "leader": ("one", "other")}.get(name, ()),
        )

    def _on_safe_stop(self, reason: str) -> None:
        self.reasons.append(reason)
        self.stopped.set()

    def begin(self, *names: str) -> None:
        for name in names:
            self.ref.tell(Begin(name))
        self.settle()

    def settle(self) -> None:
        """Everything told to the supervisor until now has been handled."""
        self.ref.ask(Start(), timeout=LIMIT_S)

    def crash(self, actor: str, in_hand: Envelope | None = None) -> None:
        self.ref.tell(Failed(actor, 7, ValueError("planned"), in_hand=in_hand))

    def record(self, type: str) -> list[Any]:
        return [envelope.payload for envelope in self.journal.envelopes() if envelope.type == type]

    def count(self, type: str) -> int:
        return len(self.record(type))

    def await_restarts(self, *names: str) -> None:
        """Wait until these restarts, in this order, are all there are."""
        end = threading.Event()
        for _ in range(int(LIMIT_S * 100)):
            if len(self.record("ActorRestarted")) >= len(names):
                break
            end.wait(0.01)
        self.settle()
        assert [restarted.actor for restarted in self.record("ActorRestarted")] == list(names)


@pytest.fixture(autouse=True)
def no_actor_is_left() -> Iterator[None]:
    yield
    pykka.ActorRegistry.stop_all()


class Child(SupervisedActor):
    """Fails at its first message when it is to, as a catch-up may; at others it does what they say."""

    def __init__(self, trial: Trial, name: str = "child", error: BaseException | None = None) -> None:
        super().__init__(name, self._tell)
        self._error = error
        self._trial = trial

    def _tell(self, report: Any) -> None:
        if self._trial.ref.is_alive():
            self._trial.ref.tell(report)

    def receive(self, message: Any) -> None:
        if self._error is not None:
            raise self._error
        if callable(message):
            message()
        else:
            self._trial.born.append(self.name)


def child(name: str, error: BaseException | None = None) -> Callable[[Trial], pykka.ActorRef[Any]]:
    return lambda trial: Child.start(trial, name, error)


def raise_(error: BaseException) -> None:
    raise error


# ---------------------------------------------------------------- in a start


@pytest.mark.parametrize("error", [RuntimeError("no memory"), SystemExit("no memory")])
def test_a_child_that_cannot_be_started_is_tried_again_and_then_ends_the_process(error: BaseException) -> None:
    trial = Trial(child=lambda trial: raise_(error))  # type: ignore[arg-type, return-value]  # it never returns
    trial.begin("child")
    assert trial.stopped.wait(LIMIT_S)
    assert trial.reasons == [f"child crashed {INTENSITY + 1} times in 60 s: {type(error).__name__}: no memory"]
    assert trial.count("ActorCrashed") == INTENSITY + 1
    assert trial.count("ActorRestarted") == 0


@pytest.mark.parametrize("error", [ValueError("poison"), SystemExit(3)])
def test_a_child_that_fails_in_its_first_message_ends_the_process_in_the_end(error: BaseException) -> None:
    trial = Trial(child=child("child", error))
    trial.begin("child")
    assert trial.stopped.wait(LIMIT_S)
    assert f"crashed {INTENSITY + 1} times" in trial.reasons[0]
    assert trial.count("ActorRestarted") == INTENSITY


class DeadOnArrival(Child):
    """Pykka logs what `on_start` raises and tells nobody."""

    def on_start(self) -> None:
        raise ValueError("on_start")


def test_a_child_that_dies_in_on_start_is_missed_and_started_again() -> None:
    lives: list[type[Child]] = [DeadOnArrival, Child]
    trial = Trial(child=lambda trial: lives.pop(0).start(trial))
    trial.begin("child")
    trial.refs["child"].actor_stopped.wait(LIMIT_S)
    trial.ref.tell(Look())
    trial.ref.tell(Look())
    trial.await_restarts("child")
    assert trial.reasons == []
    assert trial.count("ActorCrashed") == 1


# ---------------------------------------------------------------- at work


def test_a_child_that_recovers_goes_on() -> None:
    trial = Trial(child=child("child"))
    trial.begin("child")
    trial.refs["child"].tell(lambda: raise_(SystemExit(1)))
    trial.await_restarts("child")
    assert trial.record("ActorCrashed")[0].error == "ActorExitError: child asked the process to exit"
    trial.refs["child"].ask(Start(), timeout=LIMIT_S)
    assert (trial.born, trial.reasons) == (["child"] * 3, [])


def test_only_those_that_follow_a_child_are_started_again_with_it_and_after_it() -> None:
    trial = Trial(**{name: child(name) for name in ("roll", "bars", "strategy", "execution", "feed")})
    trial.begin("roll", "bars", "strategy", "execution", "feed")
    before = dict(trial.refs)
    trial.refs["bars"].tell(lambda: raise_(ValueError("planned")))
    trial.await_restarts("bars", "strategy")
    assert [name for name in trial.refs if trial.refs[name] != before[name]] == ["bars", "strategy"]
    assert not before["strategy"].is_alive(), "there is one of each"
    trial.refs["strategy"].tell(lambda: raise_(ValueError("planned")))
    trial.await_restarts("bars", "strategy", "strategy")
    assert trial.count("ActorCrashed") == 2, "who is renewed with another has not crashed"


def test_a_follower_that_crashes_while_its_leader_is_restarted_is_not_started_twice() -> None:
    trial = Trial(bars=child("bars"), strategy=child("strategy"))
    trial.begin("bars", "strategy")
    inbox = trial.refs["strategy"].actor_inbox

    def fail_when_asked_to_stop() -> None:
        while not inbox.qsize():  # type: ignore[attr-defined]  # Pykka's is queue.Queue
            time.sleep(0.001)
        raise ValueError("planned")

    trial.refs["strategy"].tell(fail_when_asked_to_stop)
    trial.refs["bars"].tell(lambda: raise_(ValueError("planned")))
    trial.await_restarts("bars", "strategy")
    time.sleep(AFTER_BACKOFF_S)
    trial.await_restarts("bars", "strategy")
    alive = [ref for ref in pykka.ActorRegistry.get_by_class(Child) if ref.is_alive()]
    assert len(alive) == 2
    assert trial.reasons == []


def test_a_follower_that_waits_to_be_restarted_is_not_started_twice() -> None:
    trial = Trial(bars=child("bars"), strategy=child("strategy"))
    trial.begin("bars", "strategy")
    for _ in range(4):
        trial.crash("strategy")  # its wait is long now
    trial.crash("bars")
    trial.await_restarts("bars", "strategy")
    time.sleep(AFTER_BACKOFF_S)
    trial.await_restarts("bars", "strategy")


class Held(Trial):
    """A leader has died, and both of its followers are still at work when they are asked to stop."""

    def __init__(self) -> None:
        super().__init__(**{name: child(name) for name in ("leader", "one", "other", "bystander")})
        self.begin("leader", "one", "other", "bystander")
        self.before = dict(self.refs)
        self.may_end = {name: threading.Event() for name in ("one", "other")}
        at_work = threading.Barrier(3)
        for name, may_end in self.may_end.items():
            self.refs[name].tell(lambda may_end=may_end: (at_work.wait(LIMIT_S), may_end.wait(LIMIT_S)))
        at_work.wait(LIMIT_S)
        self.refs["leader"].tell(lambda: raise_(ValueError("planned")))
        for name in self.may_end:
            inbox, limit = self.refs[name].actor_inbox, time.monotonic() + LIMIT_S
            while not inbox.qsize():  # type: ignore[attr-defined]  # Pykka's is queue.Queue
                assert time.monotonic() < limit, f"{name} was not asked to stop"
                time.sleep(0.001)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    for may_end in held.may_end.values():
        may_end.set()


def test_while_a_follower_stops_another_child_is_restarted_and_it_follows_when_it_has(held: Held) -> None:
    held.refs["bystander"].tell(lambda: raise_(ValueError("planned")))
    held.await_restarts("bystander")
    held.may_end["other"].set()
    held.before["other"].actor_stopped.wait(LIMIT_S)
    held.ref.tell(Look())
    held.await_restarts("bystander")
    held.may_end["one"].set()
    held.await_restarts("bystander", "leader", "one", "other")
    alive = pykka.ActorRegistry.get_by_class(Child)
    assert sorted(map(str, alive)) == sorted(str(ref) for ref in held.refs.values()), "there is one of each"
    assert held.reasons == []


def test_while_a_follower_stops_the_process_can_be_ended(held: Held) -> None:
    for number in range(TOTAL_INTENSITY):
        held.crash(("bystander", "one", "other")[number % 3])
    held.settle()
    assert held.reasons[0].startswith("the actors together crashed")
    assert held.ref.stop(timeout=LIMIT_S)


@pytest.mark.parametrize(("ends", "hangs"), [("one", "other"), ("other", "one")])
def test_a_follower_that_hangs_ends_the_process(ends: str, hangs: str, held: Held) -> None:
    held.ref.tell(Look())
    held.settle()
    assert held.reasons == []
    held.later_s = SHUTDOWN_S
    held.may_end[ends].set()
    held.before[ends].actor_stopped.wait(LIMIT_S)
    for _ in range(3):
        held.ref.tell(Look())
    held.settle()
    assert held.reasons == [f"{hangs} did not stop within {SHUTDOWN_S:.0f} s"]
    assert held.count("ActorRestarted") == 0


def test_crashes_that_are_long_past_count_no_more() -> None:
    trial = Trial(child=child("child"))
    for _ in range(3):
        for _ in range(INTENSITY):
            trial.crash("child")
        trial.settle()
        trial.later_s += INTENSITY_WINDOW_S + LIMIT_S
    assert (trial.count("ActorCrashed"), trial.reasons) == (3 * INTENSITY, [])
    for _ in range(INTENSITY + 1):
        trial.crash("child")
    trial.settle()
    assert len(trial.reasons) == 1


def test_each_crash_in_the_window_is_waited_for_twice_as_long_up_to_a_limit_and_never_the_same() -> None:
    for crashes in range(1, 20):
        longest = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** (crashes - 1))
        waits = {backoff_s(crashes) for _ in range(100)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_a_recovery_that_differs_is_not_tried_again() -> None:
    trial = Trial(child=child("child", RecoveryDivergedError("seq 7")))
    trial.begin("child")
    assert trial.stopped.wait(LIMIT_S)
    assert (trial.count("ActorCrashed"), trial.count("ActorRestarted")) == (1, 0)


def test_many_children_that_crash_a_little_are_too_much_together() -> None:
    names = [f"child{number}" for number in range(4)]
    trial = Trial(**{name: child(name) for name in names})
    for number in range(TOTAL_INTENSITY + 1):
        trial.crash(names[number % len(names)])
    trial.settle()
    assert trial.reasons == [f"the actors together crashed {TOTAL_INTENSITY + 1} times in 60 s: ValueError: planned"]


def test_nobody_trades_without_a_supervisor() -> None:
    trial = Trial()
    trial.crash("unknown")
    assert trial.stopped.wait(LIMIT_S)
    assert trial.reasons[0].startswith("the supervisor itself failed: KeyError")


# ---------------------------------------------------------------- at the same event

TRADES, TICK = TradesReceived(trades=trades_of(("ESM4", at(0), 0, 1))), ClockTicked(ts=at(0), watermark=at(0))


@pytest.mark.parametrize(
    ("actor", "event", "times", "skipped"),
    [
        ("allowed", TRADES, POISON_AFTER, 1),
        ("allowed", TICK, POISON_AFTER, 1),
        ("allowed", TRADES, POISON_AFTER - 1, 0),
        ("child", TRADES, POISON_AFTER, 0),
        # What carries an order, or the state, never.
        ("allowed", request_of(), POISON_AFTER, 0),
        ("allowed", fresh_state(), POISON_AFTER, 0),
        ("allowed", CommandReceived(command="halt"), POISON_AFTER, 0),
    ],
)
def test_an_event_is_skipped_only_when_it_may_be_and_has_crashed_the_actor_again_and_again(
    actor: str, event: Event, times: int, skipped: int
) -> None:
    trial, poison = Trial(allowed=child("allowed"), child=child("child")), Record().put(event)
    for _ in range(times):
        trial.crash(actor, poison)
    trial.settle()
    said = [(each.actor, each.seq, each.error) for each in trial.record("MessageSkipped")]
    assert said == [(actor, poison.seq, "ValueError: planned")] * skipped


def test_crashes_at_different_events_are_no_poison() -> None:
    trial, record = Trial(allowed=child("allowed")), Record()
    one, other = record.put(TRADES), record.put(TRADES)
    for poison in (one, other, one, other, None):
        trial.crash("allowed", poison)
    trial.settle()
    assert trial.count("MessageSkipped") == 0


def test_a_safe_stop_names_the_event_that_was_the_poison() -> None:
    trial, poison = Trial(child=child("child")), Record().put(TRADES)
    for _ in range(INTENSITY + 1):
        trial.crash("child", poison)
    assert trial.stopped.wait(LIMIT_S)
    assert trial.reasons[0].endswith(f"ValueError: planned; {INTENSITY + 1} times at seq 1, TradesReceived")


# ---------------------------------------------------------------- in a stop


class FailsToStop(Child):
    def on_stop(self) -> None:
        raise ValueError("on_stop")


def test_a_permanent_child_that_ends_is_started_again_and_a_transient_one_has_done_its_work() -> None:
    trial = Trial(child=child("child"), feed=child("feed"))
    trial.begin("child", "feed")
    for name in ("feed", "child"):
        trial.refs[name].stop()
    trial.await_restarts("child")
    assert [crash.error for crash in trial.record("ActorCrashed")] == ["OurError: it ended without being asked to"]


class SlowToTell(Child):
    def on_stop(self) -> None:
        """Its word is on the way."""


def test_whoever_is_gone_and_has_still_to_say_why_has_crashed_once() -> None:
    trial = Trial(gone_after_s=LIMIT_S, child=lambda trial: SlowToTell.start(trial))
    trial.begin("child")
    ref = trial.refs["child"]
    ref.stop()
    for _ in range(3):
        trial.ref.tell(Look())
    trial.ref.tell(Failed("child", 7, ValueError("planned"), ref))
    trial.await_restarts("child")
    assert [crash.error for crash in trial.record("ActorCrashed")] == ["ValueError: planned"]


@pytest.mark.parametrize("is_released", [False, True])
def test_a_failure_in_on_stop_matters_only_to_who_is_still_needed(is_released: bool) -> None:
    lives: list[type[Child]] = [FailsToStop, Child]
    trial = Trial(feed=lambda trial: lives.pop(0).start(trial, "feed"))
    trial.begin("feed")
    if is_released:
        trial.ref.tell(Release("feed"))
    trial.refs["feed"].stop()
    trial.ref.tell(Look())
    trial.ref.tell(Look())
    trial.await_restarts(*([] if is_released else ["feed"]))
    assert trial.count("ActorCrashed") == (not is_released)


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
