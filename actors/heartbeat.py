"""The pipeline's own heartbeat: every few seconds it is written down how the session stands.

What is written is the session's `Status`, a fold, from a thread of its own: the record is never waited
for. Whoever supervises the process from outside sees in `written` that it lives, and in the times of the
last record, bar and decision that it works. What has stopped in an open market is told as an alert.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from actors.alert_words import Alert
from actors.status import Status
from domain.sessions import iso_utc
from domain.units import Nanos

INTERVAL_S = 2.0

log = structlog.get_logger()


class Heartbeat:
    """One process; each session attends in turn. `write` takes the document, `tell` an alert."""

    def __init__(
        self,
        *,
        write: Callable[[Mapping[str, Any]], None],
        now: Callable[[], Nanos],
        tell: Callable[[Alert], None] = lambda alert: None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._write = write
        self._now = now
        self._tell = tell
        self._interval_s = interval_s
        self._session: tuple[Status, Nanos] | None = None
        self._overdue = ""
        self._is_writable = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def attend(self, status: Status) -> None:
        """From now on this session is written down."""
        self._session = status, self._now()

    def stop(self) -> None:
        """Write for the last time that the process has ended in order."""
        self._stopping.set()
        self._thread.join()
        self.beat(is_running=False)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.beat(is_running=True)

    def beat(self, *, is_running: bool) -> None:
        """Look, tell and write once."""
        if self._session is None:
            return
        (status, since), now = self._session, self._now()
        overdue = status.overdue(now, since) if is_running else ""
        if bool(overdue) != bool(self._overdue):
            is_held = bool(status.open_of()[0])
            text = f"heartbeat: {overdue}" if overdue else "heartbeat: records and bars come again"
            self._tell(Alert("critical" if is_held else "warning", "heartbeat", text))
        self._overdue = overdue
        written = {"written": iso_utc(now), "pid": os.getpid(), "running": is_running, "overdue": overdue}
        try:
            self._write(written | status.snapshot())
            self._is_writable = True
        except OSError as error:
            if self._is_writable:
                log.warning("the heartbeat cannot be written", error=str(error))
            self._is_writable = False
