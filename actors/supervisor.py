"""Supervisor: restarts crashed actors from the journal, and stops the process when that is safer.

Children are addressed by name: a Pykka ref is one incarnation. One that fails, in a start and in a
catch-up too, is started again alone, after a wait that doubles with each crash in the window and is
short again once the window is empty. More than `INTENSITY` crashes of one child within
`INTENSITY_WINDOW_S`, more than `TOTAL_INTENSITY` of all, a recovery that differs from the record, or
the supervisor's own failure is a SafeStop: a system that cannot agree with its own journal, or has
nobody to watch it, must not trade. What hangs instead of failing is the watchdog's (`health`).
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import attrs
import pykka
import structlog

from actors.actor import Failed, RecoveryDivergedError, Start, SupervisedActor
from actors.sequencer import Sequencer
from domain.events import ActorCrashed, ActorRestarted

INTENSITY = 5
TOTAL_INTENSITY = 15
INTENSITY_WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.01
BACKOFF_CAP_S = 5.0
"""Small against the window: waiting must not hide an actor that crashes again and again."""

StartChild = Callable[[], pykka.ActorRef[SupervisedActor]]
"""Starts one incarnation of a child."""

log = structlog.get_logger()


@attrs.frozen
class _Restart:
    actor: str
    at_seq: int


class Supervisor(pykka.ThreadingActor):
    """One-for-one supervision of `children`; `on_safe_stop` ends the process in order."""

    use_daemon_thread = True

    def __init__(
        self,
        *,
        children: Mapping[str, StartChild],
        sequencer: Sequencer,
        on_safe_stop: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._children = children
        self._sequencer = sequencer
        self._on_safe_stop = on_safe_stop
        self._crashes: dict[str, deque[float]] = {name: deque() for name in children}
        self._all_crashes: deque[float] = deque()
        self._incarnations = dict.fromkeys(children, 1)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Failed):
            self._on_failed(message)
        elif isinstance(message, _Restart):
            self._restart(message)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_safe_stop(f"the supervisor itself failed: {exception_value!r}")

    def _on_failed(self, failed: Failed) -> None:
        error = f"{type(failed.error).__name__}: {failed.error}"
        log.error("actor crashed", actor=failed.actor, seq=failed.at_seq, error=error)
        self._sequencer.publish(
            ActorCrashed(actor=failed.actor, at_seq=failed.at_seq, error=error), source="supervisor"
        )
        if isinstance(failed.error, RecoveryDivergedError):
            self._on_safe_stop(f"{failed.actor} recovered otherwise than its record: {failed.error}")
            return
        of_child = _note(self._crashes[failed.actor])
        of_all = _note(self._all_crashes)
        if of_child > INTENSITY or of_all > TOTAL_INTENSITY:
            who, times = (failed.actor, of_child) if of_child > INTENSITY else ("the actors together", of_all)
            self._on_safe_stop(f"{who} crashed {times} times in {INTENSITY_WINDOW_S:.0f} s: {error}")
            return
        delay_s = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** (of_child - 1)) * random.uniform(0.5, 1.0)
        threading.Timer(delay_s, _tell_if_alive, (self.actor_ref, _Restart(failed.actor, failed.at_seq))).start()

    def _restart(self, restart: _Restart) -> None:
        self._incarnations[restart.actor] += 1
        try:
            self._children[restart.actor]().tell(Start())
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting is one more of its crashes
            self._on_failed(Failed(restart.actor, restart.at_seq, error))
            return
        self._sequencer.publish(
            ActorRestarted(actor=restart.actor, incarnation=self._incarnations[restart.actor], at_seq=restart.at_seq),
            source="supervisor",
        )


def _note(crashes: deque[float]) -> int:
    """One more crash; how many there were in the window."""
    crashes.append(time.monotonic())
    while crashes[0] < crashes[-1] - INTENSITY_WINDOW_S:
        crashes.popleft()
    return len(crashes)


def _tell_if_alive(ref: pykka.ActorRef[Any], message: object) -> None:
    if ref.is_alive():
        ref.tell(message)
