"""Supervisor: starts the actors from their specs, starts them again from the journal, and ends what that cannot mend.

Children are addressed by name: a Pykka ref is one incarnation. One that fails, in a start and in a
catch-up too, or ends without having been asked to, is started again after a wait that doubles with each
crash in the window and is short again once the window is empty; those that follow it are started again
after it (rest-for-one), all others go on (one-for-one). Nobody is waited for: what takes its time (a wait, a
follower that stops) comes back as a message. More than `INTENSITY` crashes of one child within
`INTENSITY_WINDOW_S`, more than `TOTAL_INTENSITY` of all, a recovery that differs from the record, a
follower that does not stop, or the supervisor's own failure is a SafeStop: a system that cannot agree with
its own journal, or has nobody to watch it, must not trade. What hangs instead of failing is the watchdog's
(`health`).
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

import attrs
import pykka
import structlog

from actors.actor import Ended, Failed, RecoveryDivergedError, Start, SupervisedActor
from actors.sequencer import Sequencer
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import ActorCrashed, ActorRestarted, MessageSkipped

INTENSITY = 5
TOTAL_INTENSITY = 15
INTENSITY_WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.01
BACKOFF_CAP_S = 5.0
"""Small against the window: waiting must not hide an actor that crashes again and again."""
GONE_AFTER_S = 2.0
"""Whoever fails is gone before it says so, and on a busy machine its word takes a while."""
POISON_AFTER = 3
"""An event that has crashed an actor so often in a row is what is wrong."""
SKIPPABLE = frozenset({"TradesReceived", "SliceClosed", "ClockTicked"})
"""The market and the time. Never what opens a session or carries an order, its outcome, or a command."""

StartChild = Callable[[], pykka.ActorRef[SupervisedActor]]
"""Starts one incarnation of a child."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class ChildSpec:
    """How one child is started, ended, and started again."""

    name: str
    start: StartChild
    restart: Literal["permanent", "transient"]
    """`permanent`: again however it ended. `transient`: it may end when its work is done."""
    shutdown_s: float
    """It has this long to stop when it is asked to."""
    followers: tuple[str, ...] = ()
    """Acted on what it said: started again after it, in this order."""
    poison: Literal["stop", "skip"] = "stop"
    """An event that crashes it each time ends the process; or it goes on without, where the operator has said so."""


@attrs.frozen
class Begin:
    """Start the child for the first time."""

    actor: str


@attrs.frozen
class Release:
    """The child is ended by somebody else now, and not started again."""

    actor: str


@attrs.frozen
class Look:
    """See whether a child is gone without a word: Pykka tells nobody of a failure in `on_start` or `on_stop`."""


@attrs.frozen
class _Restart:
    actor: str
    at_seq: int


@attrs.frozen
class _Leaving:
    """An incarnation that has been asked to stop; `then` goes on when it has."""

    ref: pykka.ActorRef[SupervisedActor]
    until_s: float
    then: _Restart


@attrs.define
class _Child:
    spec: ChildSpec
    ref: pykka.ActorRef[SupervisedActor] | None = None
    """Its last incarnation; None while there is none."""
    incarnation: int = 0
    crashes: deque[float] = attrs.field(factory=deque)
    restart: _Restart | None = None
    """What is waited for before it is started again."""
    leaving: _Leaving | None = None
    """Its last incarnation, while that still works off its mail."""
    poison: tuple[int, int] = (0, 0)
    """The event that it last died of, and how often in a row."""
    gone_since_s: float | None = None
    """When a look first found it gone, while nothing has been heard of it."""
    is_released: bool = False


class Supervisor(pykka.ThreadingActor):
    """Supervises the children of `specs`; `on_safe_stop` ends the process in order."""

    use_daemon_thread = True

    def __init__(
        self,
        *,
        specs: Sequence[ChildSpec],
        sequencer: Sequencer,
        on_safe_stop: Callable[[str], None],
        gone_after_s: float = GONE_AFTER_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._now_s = now_s
        self._gone_after_s = gone_after_s
        self._children = {spec.name: _Child(spec) for spec in specs}
        self._sequencer = sequencer
        self._on_safe_stop = on_safe_stop
        self._all_crashes: deque[float] = deque()

    def on_receive(self, message: Any) -> None:
        match message:
            case Begin(actor=actor):
                self._start(self._children[actor], self._sequencer.seq)
            case Release(actor=actor):
                self._children[actor].is_released = True
            case Failed():
                self._on_failed(message)
            case Ended():
                self._on_ended(message)
            case Look():
                self._look()
            case _Restart():
                self._restart(message)
            case _:
                pass
        self._see_off()

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_safe_stop(f"the supervisor itself failed: {exception_value!r}")

    # ------------------------------------------------------------- what has ended

    def _on_failed(self, failed: Failed) -> None:
        child = self._children[failed.actor]
        error = f"{type(failed.error).__name__}: {failed.error}"
        log.error("actor crashed", actor=failed.actor, seq=failed.at_seq, error=error)
        self._sequencer.publish(
            ActorCrashed(actor=failed.actor, at_seq=failed.at_seq, error=error), source="supervisor"
        )
        if isinstance(failed.error, RecoveryDivergedError):
            self._on_safe_stop(f"{failed.actor} recovered otherwise than its record: {failed.error}")
            return
        if child.is_released or (failed.ref is not None and failed.ref != child.ref):
            return  # of an incarnation that has its successor, or needs none
        child.ref = None
        culprit = self._culprit(child, failed.in_hand, error)
        of_child = _note(child.crashes, self._now_s())
        of_all = _note(self._all_crashes, self._now_s())
        if of_child > INTENSITY or of_all > TOTAL_INTENSITY:
            who, times = (failed.actor, of_child) if of_child > INTENSITY else ("the actors together", of_all)
            self._on_safe_stop(f"{who} crashed {times} times in {INTENSITY_WINDOW_S:.0f} s: {error}{culprit}")
            return
        child.restart = _Restart(failed.actor, failed.at_seq)
        threading.Timer(backoff_s(of_child), _tell_if_alive, (self.actor_ref, child.restart)).start()

    def _culprit(self, child: _Child, in_hand: Envelope | None, error: str) -> str:
        """In words, an event that it has died of again and again; empty when there is none. It may be skipped."""
        if in_hand is None:
            return ""
        seq, times = child.poison
        times = times + 1 if seq == in_hand.seq else 1
        child.poison = in_hand.seq, times
        if times == POISON_AFTER and child.spec.poison == "skip" and in_hand.type in SKIPPABLE:
            skipped = MessageSkipped(actor=child.spec.name, seq=in_hand.seq, type=in_hand.type, error=error)
            self._sequencer.publish(skipped, source="supervisor")
        return f"; {times} times at seq {in_hand.seq}, {in_hand.type}" if times >= POISON_AFTER else ""

    def _on_ended(self, ended: Ended) -> None:
        child = self._children[ended.actor]
        if ended.ref != child.ref or child.is_released:
            return
        if child.spec.restart == "permanent":
            self._on_failed(Failed(ended.actor, ended.at_seq, OurError("it ended without being asked to"), ended.ref))
        else:
            child.ref = None

    def _look(self) -> None:
        now = self._now_s()
        for child in self._children.values():
            if child.ref is None or child.ref.is_alive() or child.is_released:
                child.gone_since_s = None
            elif child.gone_since_s is None:
                child.gone_since_s = now
            elif now - child.gone_since_s >= self._gone_after_s:
                child.gone_since_s = None
                self._on_failed(Failed(child.spec.name, self._sequencer.seq, OurError("it is gone without a word")))

    # ------------------------------------------------------------- starting

    def _restart(self, restart: _Restart) -> None:
        child = self._children[restart.actor]
        if child.restart is not restart or child.is_released:
            return  # it has been started as a follower meanwhile
        followers = [self._children[name] for name in child.spec.followers]
        for follower in reversed(followers):
            self._ask_to_stop(follower, restart)
        if any(follower.leaving is not None for follower in followers):
            return  # the last of them to stop brings it here again
        for each in (child, *followers):
            each.restart = None
            if not self._start(each, restart.at_seq):
                return  # its own restart is on its way
            self._sequencer.publish(
                ActorRestarted(actor=each.spec.name, incarnation=each.incarnation, at_seq=restart.at_seq),
                source="supervisor",
            )

    def _start(self, child: _Child, at_seq: int) -> bool:
        child.incarnation += 1
        try:
            child.ref = child.spec.start()
            child.ref.tell(Start())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever keeps it from starting is one more of its crashes
            self._on_failed(Failed(child.spec.name, at_seq, error))
            return False
        return True

    def _ask_to_stop(self, child: _Child, then: _Restart) -> None:
        """Let it finish its mail and end. It is started again by `then`, and not by a crash of its own."""
        ref, child.ref, child.restart = child.ref, None, None
        if ref is not None and ref.is_alive():
            ref.stop(block=False)
            child.leaving = _Leaving(ref, self._now_s() + child.spec.shutdown_s, then)

    def _see_off(self) -> None:
        """Go on with what waits for a child that has stopped by now; one that does not is the end."""
        for child in self._children.values():
            leaving = child.leaving
            if leaving is None:
                continue
            if not leaving.ref.is_alive():
                child.leaving = None
                self._restart(leaving.then)
            elif self._now_s() >= leaving.until_s:
                child.leaving = None
                self._children[leaving.then.actor].restart = None  # nobody is started beside it
                self._on_safe_stop(f"{child.spec.name} did not stop within {child.spec.shutdown_s:.0f} s")


def backoff_s(crashes: int) -> float:
    """How long it is waited after the last of so many crashes in the window; drawn, so that no two keep step."""
    return min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** (crashes - 1)) * random.uniform(0.5, 1.0)


def _note(crashes: deque[float], now_s: float) -> int:
    """One more crash; how many there were in the window."""
    crashes.append(now_s)
    while crashes[0] < crashes[-1] - INTENSITY_WINDOW_S:
        crashes.popleft()
    return len(crashes)


def _tell_if_alive(ref: pykka.ActorRef[Any], message: object) -> None:
    if ref.is_alive():
        ref.tell(message)
