"""Time for the machines in real time, which outlives every actor.

It publishes `ClockTicked` when the feed moves the watermark (in the feed's thread: a minute closes
without a change of threads), and from a thread of its own when a machine's deadline is due and at
every minute. In simulated time there is no such clock: the feed ticks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from actors.sequencer import Sequencer
from domain.events import ClockTicked
from domain.units import MINUTE, SECOND, Nanos, floor_to

LEVEL_INTERVAL = SECOND
"""A deadline that stays in the past (level-triggered) is ticked this often."""
LONGEST_SLEEP_S = 0.25
"""Deadlines move while the thread sleeps; it looks again at least this often."""

log = structlog.get_logger()


def due_at(deadline: Nanos, last_tick: Nanos) -> Nanos:
    """When `deadline` wants its next tick, given the last one."""
    return deadline if deadline > last_tick else Nanos(last_tick + LEVEL_INTERVAL)


class RecordedClock:
    """The system clock in nanoseconds, but never before what is on record.

    One that stands there at a start is wrong, or was when the record was made. What waits on record (an exit
    to be sent again) would wait until it had caught up: time goes on from the record instead, for this file.
    """

    def __init__(self, now: Callable[[], Nanos]) -> None:
        self._now = now
        self._ahead = Nanos(0)

    def __call__(self) -> Nanos:
        return Nanos(self._now() + self._ahead)

    def go_on_from(self, recorded: Nanos) -> None:
        """`recorded` is the time of the last event, or the feed's where that is known better."""
        self._ahead = Nanos(max(0, recorded - self._now()))
        if self._ahead > SECOND:
            log.warning("the clock stands before the record or the feed's time", behind_s=self._ahead // SECOND)


class RealTimeClock:
    """Ticks until stopped. `now` is the system clock in nanoseconds."""

    def __init__(
        self,
        *,
        sequencer: Sequencer,
        now: Callable[[], Nanos],
        watermark: Nanos,
        each_look: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._sequencer = sequencer
        self._now = now
        self._each_look = each_look
        self._on_failure = on_failure
        self._changed = threading.Condition()
        """Held while a tick gets its time and its place, so that both grow together."""
        self._watermark = watermark
        self._last_tick = Nanos(0)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def advance(self, watermark: Nanos) -> None:
        """Minutes up to `watermark` may close: ticks when it has moved. Called by the feed, after their records."""
        with self._changed:
            if watermark > self._watermark:
                self._tick(watermark)

    def _run(self) -> None:
        try:
            self._tick_until_stopped()
        except BaseException as error:
            # Without ticks there is no auto-close: the process must not go on as if nothing were wrong.
            self._on_failure(error)
            raise

    def _tick_until_stopped(self) -> None:
        while True:
            with self._changed:
                if self._is_stopping:
                    return
                wait_s = self._until_due_s(self._now())
                if wait_s > 0:
                    self._changed.wait(min(wait_s, LONGEST_SLEEP_S))
                else:
                    self._tick(self._watermark)
            self._each_look()

    def _tick(self, watermark: Nanos) -> None:
        now = self._now()
        self._sequencer.publish(ClockTicked(ts=now, watermark=watermark), source="clock")
        self._watermark, self._last_tick = watermark, now

    def _until_due_s(self, now: Nanos) -> float:
        due = floor_to(self._last_tick, MINUTE) + MINUTE
        # A bar's end waits for the watermark, and the watermark ticks by itself.
        deadline = self._sequencer.next_deadline(besides="bars")
        if deadline is not None:
            due = min(due, due_at(deadline, self._last_tick))
        return (due - now) / SECOND
