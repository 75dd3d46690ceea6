"""A directory of session files, held by one live process at a time."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO

from adapters.sqlite.emergency import EmergencyFile, EmergencyWriter
from adapters.sqlite.journal import JournalFile, create_journal, file_name, journal_entries, seal
from adapters.sqlite.writer import Writer
from domain.errors import JournalUnreadable, JournalWriteFailed, OperatorError
from domain.ports import Codec, JournalEntry


class SqliteJournals:
    """Implements `domain.ports.JournalDirectory`.

    The directory is locked until `release` or the end of the process (flock: a crash frees it).
    Raises OperatorError when another live process holds it or it cannot be written.
    """

    def __init__(self, directory: Path, codec: Codec, *, emergency_dir: Path | None = None) -> None:
        """With `emergency_dir`, what a failed writer left there is taken into its journal first."""
        self._directory = directory
        self._codec = codec
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (directory / ".lock").open("w")
        except OSError as error:
            raise OperatorError(
                f"cannot write here: {error.strerror}",
                where=str(directory),
                fix="give journal_dir a writable directory",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise OperatorError(
                "another process is live on this journal directory",
                where=str(directory),
                fix="stop it first, or give this one a journal_dir of its own",
            ) from error
        for hot in directory.glob("*.db-journal"):
            _roll_back(hot.with_name(hot.name.removesuffix("-journal")))

        self._emergency = None if emergency_dir is None else EmergencyFile(emergency_dir, directory)

    def release(self) -> None:
        """Let another process be live here."""
        if self._emergency is not None:
            self._emergency.close()
        self._lock.close()

    def entries(self) -> list[JournalEntry]:
        return journal_entries(self._directory)

    def open(self, path: Path, codec: Codec | None = None) -> JournalFile:
        return JournalFile(path, codec or self._codec)

    def create(self, session: str, segment: int) -> Path:
        path = self._directory / file_name(session, segment)
        create_journal(path)
        return path

    def writer(
        self,
        path: Path,
        *,
        durable_seq: int,
        on_failure: Callable[[JournalWriteFailed], None],
        before_commit: Callable[[], None],
    ) -> Writer:
        if self._emergency is None:
            return Writer(path, durable_seq=durable_seq, on_failure=on_failure, before_commit=before_commit)
        return EmergencyWriter(
            path,
            emergency=self._emergency,
            durable_seq=durable_seq,
            on_failure=on_failure,
            before_commit=before_commit,
        )

    def seal(self, path: Path) -> str:
        return seal(path)

    def remove(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


def _roll_back(path: Path) -> None:
    """Undo a sealing that a power cut interrupted: readers may not write, and could not open the file."""
    path.chmod(0o644)
    connection = sqlite3.connect(path)
    try:
        connection.execute("SELECT count(*) FROM head").fetchone()
    except sqlite3.Error as error:
        raise JournalUnreadable(f"{path}: {error}") from error
    finally:
        connection.close()
