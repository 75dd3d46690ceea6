"""Whether the pipeline is well, seen from outside of it, and the watchdog that is fed only then.

A thread cannot be ended: an actor that hangs is mended by another process only. So whoever starts
the program (systemd) waits for a sign of life, and the sign is withheld when a machine owes an answer
for too long, the journal's writer stalls, time stands still, or no session is open. Nothing here
touches the session: it looks, tells, and lets the process be ended from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

import attrs
import structlog

from actors.sequencer import Sequencer
from domain.envelope import Envelope

BUSY_LIMIT_S = 60.0
"""A machine has this long for one event; catching up over a whole session takes seconds."""
STALL_LIMIT_S = 10.0
"""The writer's; a safe stop has begun long before, and this is for when it does not come to its end."""
TICK_LIMIT_S = 90.0
"""In real time the clock ticks at least every minute."""
BETWEEN_LIMIT_S = 600.0
"""Without a session: sealing one file, reading it, warming the next one up."""

STALL_CLOSES_ENTRIES_S = 0.25
STALL_STOPS_S = 2.0
OWED_CLOSES_ENTRIES = 2_000
"""Events that wait in the mailboxes: minutes of market. Nothing is ever dropped."""
OWED_STOPS = 20_000

log = structlog.get_logger()


def judge_backlog(*, stalled_s: float, owed: int) -> tuple[Literal["well", "close_entries", "stop"], str]:
    """What a disk or a machine that falls behind demands in real time, and why."""
    if stalled_s > STALL_STOPS_S:
        return "stop", f"the journal has not been written for {stalled_s:.1f} s"
    if owed > OWED_STOPS:
        return "stop", f"the machines are {owed} events behind"
    if stalled_s > STALL_CLOSES_ENTRIES_S:
        return "close_entries", "journal writer stalled"
    if owed > OWED_CLOSES_ENTRIES:
        return "close_entries", f"the machines are {owed} events behind"
    return "well", ""


@attrs.frozen
class _Attended:
    sequencer: Sequencer
    stalled_s: Callable[[], float]
    is_simulated: bool


class Health:
    """Looks at the session that runs. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, *, busy_limit_s: float = BUSY_LIMIT_S) -> None:
        self._now = now
        self._busy_limit_s = busy_limit_s
        self._session: _Attended | None = None
        self._since_s = now()
        """Of the session, or of the time without one."""
        self._ticked_s = now()
        self._debt: tuple[int, float] | None = None
        """The oldest cause that is owed an answer, and when it was first seen to be."""

    def attend(self, sequencer: Sequencer, *, stalled_s: Callable[[], float], is_simulated: bool) -> None:
        """From now on this session is looked at. `stalled_s`: the writer's."""
        self._since_s = self._ticked_s = self._now()
        self._debt = None
        self._session = _Attended(sequencer, stalled_s, is_simulated)

    def leave(self) -> None:
        """The session ends."""
        self._session, self._since_s = None, self._now()

    def watch(self, envelope: Envelope) -> None:
        """The observer of a session file: time goes on."""
        if envelope.type == "ClockTicked":
            self._ticked_s = self._now()

    def complaint(self) -> str:
        """What is wrong, empty when all is well. To be asked every few seconds: a debt is timed from look to look."""
        session, now = self._session, self._now()
        if session is None:
            waited_s = now - self._since_s
            return f"no session has been open for {waited_s:.0f} s" if waited_s > BETWEEN_LIMIT_S else ""
        owed = session.sequencer.oldest_debt()
        if owed is None or self._debt is None or self._debt[0] != owed[0]:
            self._debt = None if owed is None else (owed[0], now)
        elif now - self._debt[1] > self._busy_limit_s:
            return f"{', '.join(owed[1])} has owed an answer to seq {owed[0]} for {now - self._debt[1]:.0f} s"
        if (stalled_s := session.stalled_s()) > STALL_LIMIT_S:
            return f"the journal has not been written for {stalled_s:.0f} s"
        if not session.is_simulated and now - self._ticked_s > TICK_LIMIT_S:
            return f"the clock has not ticked for {now - self._ticked_s:.0f} s"
        return ""


class Watchdog:
    """Feeds, every `interval_s`, while there is nothing to complain of; tells each complaint once."""

    def __init__(
        self, health: Health, *, feed: Callable[[], None], complain: Callable[[str], None], interval_s: float
    ) -> None:
        self._health = health
        self._feed = feed
        self._complain = complain
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._is_well = True
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread: from here on whoever waits is told that the process ends."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        complaint = self._health.complaint()
        if not complaint:
            self._feed()
        elif self._is_well:
            log.critical("the watchdog is not fed any more", reason=complaint)
            self._complain(complaint)
        self._is_well = not complaint

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.look()
