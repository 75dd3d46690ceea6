"""The one thread that writes a session file.

It owns the only read-write connection and commits whole publishes in groups: at most
20 times a second, or at once when someone waits for a barrier. Rows leave its list
only after their commit, so the list and the file together are always the journal. A
failed commit is final: nothing is retried on that connection, no barrier completes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.sqlite.journal import status_after, to_row
from adapters.sqlite.schema import MOVE_HEAD, ROWS_PER_INSERT, insert_events
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed

COMMIT_INTERVAL_S = 0.05
CHECKPOINT_PAGES = 4000
"""The WAL is folded back into the file after this many pages of 4 KiB, within the commit that reaches them."""
EARLY_CHECKPOINT_PAGES = 2000
"""From here on it is folded back between two commits, where no order waits for it: 64 ms were measured."""
PAGE_BYTES = 4096
PAGES_PER_COMMIT = 12
"""Table, indexes and head, beside the payloads; an estimate."""


class Writer:
    """Implements `domain.ports.JournalWriter` on a file that exists already."""

    def __init__(
        self,
        path: Path,
        *,
        durable_seq: int = 0,
        on_failure: Callable[[JournalWriteFailed], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._on_failure = on_failure
        self._before_commit = before_commit
        self._changed = threading.Condition()
        self._pending: list[Envelope] = []
        self._pending_since = 0.0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._durable_seq = durable_seq
        self._pages = 0
        """In the WAL, about, since it was folded back."""
        self._is_stopping = False
        self.error: JournalWriteFailed | None = None
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Commit what is pending and end the thread. Raises JournalWriteFailed when a commit failed."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self.error is not None:
            raise self.error
        if self._thread.is_alive():
            raise JournalWriteFailed(f"the writer did not finish within {timeout_s:.0f} s")

    def fall_back(self) -> None:
        """Without an emergency file (`emergency`) there is nothing to fall back on."""

    def append(self, envelopes: Sequence[Envelope]) -> None:
        """Take one publish; it will be in one commit. Called under the sequencer's lock."""
        with self._changed:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.extend(envelopes)

    def pending(self) -> list[Envelope]:
        """A copy of what is not yet on disk, oldest first."""
        with self._changed:
            return list(self._pending)

    @property
    def backlog(self) -> int:
        """How many events wait for their commit."""
        return len(self._pending)

    @property
    def stalled_s(self) -> float:
        """How long the oldest pending event has been waiting."""
        with self._changed:
            return time.monotonic() - self._pending_since if self._pending else 0.0

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        """Call `callback` once `seq` is on disk: at once, or from the writer's thread after its commit."""
        with self._changed:
            if seq > self._durable_seq:
                self._waiting.append((seq, callback))
                self._changed.notify_all()
                return
        callback()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self._path, isolation_level=None)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            while self._await_work():
                self._commit(connection)
                self._fold_back(connection)
        except BaseException as error:
            # Whatever ended this thread, nothing more becomes durable: say so before anything else.
            self.error = JournalWriteFailed(f"{self._path}: {error}")
            self._on_failure(self.error)
            if not isinstance(error, sqlite3.Error):
                raise
        finally:
            if connection is not None:
                connection.close()

    def _await_work(self) -> bool:
        """Sleep until there is something to commit and it is time; False when all is done."""
        with self._changed:
            # It looks by itself, and is not woken by what comes: that would be one more thread in the way of an order.
            while not (self._waiting and self._pending) and not self._is_stopping:
                if not self._changed.wait(COMMIT_INTERVAL_S) and self._pending:
                    break
            return bool(self._pending)

    def _commit(self, connection: sqlite3.Connection) -> None:
        self._before_commit()
        rows = self.pending()
        last = rows[-1]
        connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), ROWS_PER_INSERT):
            some = rows[start : start + ROWS_PER_INSERT]
            connection.execute(insert_events(len(some)), [value for envelope in some for value in to_row(envelope)])
        is_closed = any(envelope.type == "SessionClosed" for envelope in rows)
        connection.execute(MOVE_HEAD, (last.seq, last.hash, status_after(last.type, is_closed=is_closed)))
        connection.execute("COMMIT")
        with self._changed:
            del self._pending[: len(rows)]
            self._pending_since = time.monotonic()
            self._durable_seq = last.seq
            due = [callback for seq, callback in self._waiting if seq <= last.seq]
            self._waiting = [entry for entry in self._waiting if entry[0] > last.seq]
        self._pages += PAGES_PER_COMMIT + sum(len(envelope.raw) for envelope in rows) // PAGE_BYTES
        for callback in due:
            callback()

    def _fold_back(self, connection: sqlite3.Connection) -> None:
        """Move the WAL into the file when it has grown and nobody waits for a commit."""
        if self._pages < EARLY_CHECKPOINT_PAGES or self._waiting:
            return
        self._pages = 0
        # As within a commit, a failure here is none of the journal's: everything is in the WAL.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
