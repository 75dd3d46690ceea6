"""The progress of a live run: one line that rewrites itself on a terminal, elsewhere a line per hour of the feed."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from actors.tally import Tally
from domain.sessions import iso_utc
from domain.units import HOUR

INTERVAL_S = 0.5


class Progress:
    """Shows where the session is until stopped. Reads the tally; never touches it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._tally: Tally | None = None
        self._stopping = threading.Event()
        self._started_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def show(self, tally: Tally) -> None:
        """Follow this session from now on."""
        self._tally = tally

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _run(self) -> None:
        shown_hour = 0
        while not self._stopping.wait(INTERVAL_S):
            tally = self._tally
            if tally is None or not tally.feed_ns:
                continue
            hour = tally.feed_ns // HOUR
            if not self._is_terminal and hour == shown_hour:
                continue  # a log keeps every line: one in an hour of a session is enough
            shown_hour = hour
            line = (
                f"{iso_utc(tally.feed_ns)[:16]}Z  {tally.trades:>9,} trades  {tally.bars['1m']:>6,} minutes  "
                f"{tally.decisions:>4} decisions  {tally.entries + sum(tally.exits.values()):>3} orders  "
                f"{len(tally.positions)} positions  P&L {tally.realised_pnl:+,.2f}"
            )
            self._stream.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
            self._stream.flush()
