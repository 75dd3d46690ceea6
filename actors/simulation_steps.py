"""The product's sequencer, HTTP runner and clock without their threads: each step is taken when it is told to."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable

from actors.clock import RealTimeClock
from actors.http_runner import HttpRunner
from actors.sequencer import Sequencer
from domain.units import SECOND, Nanos


class SteppedSequencer(Sequencer):
    """In one thread nobody else makes it quiet: who waits lets the others run."""

    pace: Callable[[], None]
    """Let the others run."""
    on_barrier: Callable[[], None]
    """Somebody waits for the disk."""

    def wait_quiet(self, is_stopping: Callable[[], bool], timeout_s: float = 0.0) -> bool:
        self.pace()
        return self.is_quiet()

    def is_quiet(self) -> bool:
        """Raises OurError when something is owed or in flight."""
        return super().wait_quiet(lambda: False, 0.0)

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        super().when_durable(seq, callback)
        self.on_barrier()


class SteppedRunner(HttpRunner):
    """Its loop turns when it is told to."""

    def turn(self) -> None:
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    @property
    def future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def drop(self) -> None:
        """The process is over: what was on its way is nobody's."""
        self._cancel()
        self.turn()  # what was begun becomes a task, and never starts
        while self._tasks:
            self._cancel()
            self.turn()
        self._loop.close()

    def _cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


class SteppedClock(RealTimeClock):
    """Looks when it is told to."""

    def look(self) -> None:
        if self._until_due_s(self._now()) <= 0:
            self._tick(self._watermark)

    def due_ns(self) -> Nanos:
        return Nanos(self._now() + max(1, math.ceil(self._until_due_s(self._now()) * SECOND)))


class SteppedStopping(threading.Event):
    """Whoever waits for the end of the process lets time pass, and does not block."""

    def __init__(self, rest: Callable[[], None]) -> None:
        super().__init__()
        self._rest = rest

    def wait(self, timeout: float | None = None) -> bool:
        self._rest()
        return self.is_set()
