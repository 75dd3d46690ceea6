"""The emergency file: where events become durable when the journal cannot be written any more.

An append-only file on another path, one JSON line per event, fsynced. It is the barrier for what a
safe stop still sends (the exits of `flatten`), and the next start appends its rows to the journal
whose end they are: hash by hash, so that nothing is taken in that does not continue the record.
Its room is reserved when the process starts, because a full disk is what it is most likely for.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from adapters.sqlite.journal import TRY_AGAIN, Row, status_after, to_row
from adapters.sqlite.schema import INSERT_EVENT, MOVE_HEAD
from adapters.sqlite.writer import Writer
from domain.envelope import Envelope, chain_hash
from domain.errors import JournalWriteFailed, OperatorError

FILE_NAME = "emergency.jsonl"
RESERVED_BYTES = 8 * 1024 * 1024
"""More than what waits for a disk in the seconds before a safe stop, and the stop itself."""
_COLUMNS = ("seq", "ts_ns", "ts_event", "type", "version", "source", "incarnation", "cause", "idx", "corr", "root")
_PAYLOAD, _HASH = 11, 12
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Of a disk: the next start may find it otherwise, and something may be held meanwhile."""

log = structlog.get_logger()


class EmergencyFile:
    """`emergency.jsonl` in a directory of its own, held by one process; the rows of an earlier one are taken in first.

    Raises OperatorError: 78 when it cannot be written, is held by another process, or does not continue the journal;
    70 (a service manager tries again) where it is the disk, the journal's too, that fails.
    """

    def __init__(self, directory: Path, journal_dir: Path) -> None:
        self._path = directory / FILE_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = self._open()
            if (journal := self._journal_left()) is not None:
                self._take_in(journal_dir / journal)
                aside = self._path.with_name(f"{journal}.{self._rows_left()[0][0]}.imported.jsonl")
                os.ftruncate(self._fd, len(self._written()))  # its room is needed for the new one
                self._path.rename(aside)
                os.close(self._fd)
                log.warning("the end of a session was in the emergency file", journal=journal, kept_as=str(aside))
                self._fd = self._open()
            os.ftruncate(self._fd, 0)
            os.posix_fallocate(self._fd, 0, RESERVED_BYTES)
            _sync_directory(directory)
        except OSError as error:
            raise OperatorError(
                f"the emergency file cannot be written: {error.strerror}",
                where=str(self._path),
                fix="give emergency_dir a writable directory with 8 MiB of room, on another disk than the journal's",
                exit_code=TRY_AGAIN if error.errno in _MAY_PASS else 78,
            ) from error

    def begin(self, journal: str) -> None:
        """From now on it holds the end of `journal`."""
        self._write({"journal": journal})

    def append(self, envelopes: list[Envelope]) -> None:
        """Write, and wait for the disk. Raises OSError: then nothing of it counts, and it may be tried again."""
        place = os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            for envelope in envelopes:
                row: list[Any] = list(to_row(envelope))
                if isinstance(row[_PAYLOAD], bytes):
                    row[_PAYLOAD] = {"base64": base64.b64encode(row[_PAYLOAD]).decode()}
                row[_HASH] = row[_HASH].hex()
                self._write(row)
            os.fdatasync(self._fd)
        except OSError:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            os.lseek(self._fd, place, os.SEEK_SET)
            os.pwrite(self._fd, bytes(end - place), place)  # not cut off: a full disk would not give the room again
            raise

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._fd)

    # ------------------------------------------------------------- private

    def _open(self) -> int:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise OperatorError(
                "another process holds the emergency file",
                where=str(self._path),
                fix="give each process an emergency_dir of its own",
            ) from error
        return fd

    def _write(self, item: object) -> None:
        data = memoryview(json.dumps(item).encode() + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]

    def _written(self) -> bytes:
        return self._path.read_bytes().partition(b"\0")[0]

    def _lines(self) -> Iterator[Any]:
        """Complete lines; what a crash has cut off was never a barrier."""
        for number, line in enumerate(self._written().split(b"\n")[:-1], start=1):
            try:
                yield json.loads(line)
            except ValueError:
                self._refuse(f"line {number} of it cannot be read")

    def _journal_left(self) -> str | None:
        first = next(self._lines(), None)
        return None if first is None or not self._rows_left() else str(first["journal"])

    def _rows_left(self) -> list[Row]:
        return [_row(line) for line in self._lines() if isinstance(line, list)]

    def _take_in(self, journal: Path) -> None:
        """Append what `journal` lacks, in one commit."""
        if not journal.is_file():
            self._refuse(f"it holds the end of {journal.name}, which is not in {journal.parent}")
        connection = sqlite3.connect(journal, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            (seq, head) = connection.execute("SELECT seq, hash FROM head").fetchone()
            rows = self._rows_left()
            self._compare(connection, [row for row in rows if row[0] <= seq])
            lacking = [row for row in rows if row[0] > seq]
            for row in lacking:
                head = chain_hash(head, **dict(zip(_COLUMNS, row, strict=False)), raw=row[_PAYLOAD])  # type: ignore[arg-type]
                if head != row[_HASH]:
                    self._refuse(f"seq {row[0]} does not continue {journal.name}, which ends at {seq}")
            if lacking:
                connection.executemany(INSERT_EVENT, lacking)
                is_closed = any(row[3] == "SessionClosed" for row in lacking)
                connection.execute(MOVE_HEAD, (lacking[-1][0], head, status_after(lacking[-1][3], is_closed=is_closed)))
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # the disk, or somebody who holds the journal
            self._refuse(f"it cannot be taken into {journal.name}: {error}", exit_code=TRY_AGAIN)
        except sqlite3.Error as error:
            self._refuse(f"it cannot be taken into {journal.name}: {error}")
        finally:
            connection.close()

    def _compare(self, connection: sqlite3.Connection, rows: list[Row]) -> None:
        """A commit that was reported as failed may have reached the disk after all: then it says the same."""
        for row in rows:
            (recorded,) = connection.execute("SELECT hash FROM events WHERE seq = ?", (row[0],)).fetchone()
            if recorded != row[_HASH]:
                self._refuse(f"its seq {row[0]} is not the journal's")

    def _refuse(self, what: str, *, exit_code: int = 78) -> None:
        fix = "its lines say what was sent last: compare with the broker, then restore the journal or move it away"
        if exit_code == TRY_AGAIN:
            fix = "free space, or end what keeps the journal's disk from being written; then start again"
        raise OperatorError(what, where=str(self._path), fix=fix, exit_code=exit_code)


class EmergencyWriter(Writer):
    """The journal's writer, with the emergency file to fall back on."""

    def __init__(
        self,
        path: Path,
        *,
        emergency: EmergencyFile,
        durable_seq: int,
        on_failure: Callable[[JournalWriteFailed], None],
        before_commit: Callable[[], None],
    ) -> None:
        super().__init__(path, durable_seq=durable_seq, on_failure=on_failure, before_commit=before_commit)
        self._emergency = emergency
        self._fallen_back_at: int | None = None
        """The last seq in the emergency file."""

    def fall_back(self) -> None:
        """From now on the emergency file is the barrier; whoever waits for the journal's disk waits no longer."""
        with self._changed:
            self._fallen_back_at = self._durable_seq
            if not self._flush(self._path.name):
                self._fallen_back_at = None
                return
            due, self._waiting = self._waiting, []
        log.critical("the emergency file is the journal now", journal=self._path.name)
        for _, callback in due:
            callback()

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        with self._changed:
            if seq > self._durable_seq:
                if self._fallen_back_at is None:
                    self._waiting.append((seq, callback))
                    self._changed.notify_all()
                    return
                if not self._flush():
                    return
        callback()

    def stop(self, timeout_s: float = 30.0) -> None:
        if self._fallen_back_at is None:
            super().stop(timeout_s)
            return
        try:
            super().stop(1.0)
        except JournalWriteFailed as error:
            log.critical("the end of the session is in the emergency file", error=str(error))
        with self._changed:
            if not self._flush():
                raise JournalWriteFailed(f"{self._path}: the emergency file has failed as well")

    def _flush(self, begin: str = "") -> bool:
        """True when all that is pending is in the emergency file, after a first line that names the journal."""
        rows = [envelope for envelope in self._pending if envelope.seq > (self._fallen_back_at or 0)]
        try:
            if begin:
                self._emergency.begin(begin)
            if rows:
                self._emergency.append(rows)
                self._fallen_back_at = rows[-1].seq
        except OSError as error:
            log.critical("the emergency file cannot be written either", error=str(error))
            return False
        return True


def _row(line: list[Any]) -> Row:
    payload = line[_PAYLOAD]
    raw = base64.b64decode(payload["base64"]) if isinstance(payload, dict) else payload
    return (*line[:_PAYLOAD], raw, bytes.fromhex(line[_HASH]))


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
