"""Session files: creating, reading, verifying and sealing them, and finding them in a directory.

A file is `2024-05-01.db`, its later segments `2024-05-01.2.db` and so on. Only the
`Writer` (in `writer`) ever changes one; everyone else opens it read-only.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import time
import urllib.parse
from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from adapters.sqlite.schema import APPLICATION_ID, FORMAT_VERSION, TABLES, TRIGGERS, VIEWS
from domain.envelope import GENESIS, Envelope, chain_hash
from domain.errors import JournalBroken, JournalUnreadable, JournalWriteFailed, OperatorError
from domain.ports import Codec, Head, JournalEntry
from domain.units import Nanos

_NAME = re.compile(r"^(?P<session>\d{4}-\d{2}-\d{2})(?:\.(?P<segment>[2-9]|[1-9]\d+))?\.db$")
TRY_AGAIN = 70
"""The exit code of what may have passed at the next start: between two sessions something may be held."""
SEAL_PATIENCE_S = 10.0
_COLUMNS = "seq, ts_ns, ts_event, type, version, source, incarnation, cause, idx, corr, root, payload, hash"

_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises; the second, where its schema is no text any more."""

Row = tuple[int, Nanos, Nanos | None, str, int, str, int, int | None, int, int | None, str | None, str | bytes, bytes]
"""One row of `events`, columns in the table's order."""


def file_name(session: str, segment: int) -> str:
    """`2024-05-01.db` for the first segment, `2024-05-01.2.db` for the second."""
    return f"{session}.db" if segment == 1 else f"{session}.{segment}.db"


def journal_entries(directory: Path) -> list[JournalEntry]:
    """Every session file of `directory`, oldest first."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.match(path.name)
        if match:
            found.append(JournalEntry(path=path, session=match["session"], segment=int(match["segment"] or 1)))
    return sorted(found, key=lambda entry: (entry.session, entry.segment))


def segments_of(path: Path) -> list[Path]:
    """All segments of the session that `path` belongs to, in order; just `path` under a name of its own."""
    match = _NAME.match(path.name)
    if match is None:
        return [path]
    return [entry.path for entry in journal_entries(path.parent) if entry.session == match["session"]] or [path]


def create_journal(path: Path) -> None:
    """Write an empty journal file. Raises OperatorError when it exists or cannot be written."""
    import sqlite_utils

    if path.exists():
        raise OperatorError(f"{path.name} exists already", where=str(path), fix="continue it, or move it away")
    # Under its own name only when complete: a process that dies here leaves no half journal.
    unfinished = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{unfinished}{suffix}").unlink(missing_ok=True)
        database = sqlite_utils.Database(sqlite3.connect(unfinished, isolation_level=None))
        connection = database.conn
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {TABLES} {TRIGGERS} COMMIT;")
        for name, sql in VIEWS.items():
            database.create_view(name, sql)
        connection.execute("INSERT INTO head VALUES (1, 0, ?, 'open')", (GENESIS,))
        # Last, so that nothing of the file is in a WAL that the renaming would leave behind.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        unfinished.rename(path)
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise OperatorError(
            f"cannot create the journal: {error}",
            where=str(path),
            fix="check the directory's permissions and space",
            exit_code=TRY_AGAIN,
        ) from error


def to_row(envelope: Envelope) -> Row:
    """The envelope as a row of `events`."""
    return (
        envelope.seq,
        envelope.ts_ns,
        envelope.ts_event,
        envelope.type,
        envelope.version,
        envelope.source,
        envelope.incarnation,
        envelope.cause,
        envelope.idx,
        envelope.corr,
        envelope.root,
        envelope.raw,
        envelope.hash,
    )


class JournalFile:
    """One session file, read-only. Implements `domain.ports.JournalReader`.

    Raises JournalUnreadable when it is no journal, is cut off, or of a newer format.
    """

    def __init__(self, path: Path, codec: Codec) -> None:
        self.path = path
        self._codec = codec
        if not path.is_file():
            what = "is a directory, give one of its files" if path.is_dir() else "no such file"
            raise JournalUnreadable(f"{path}: {what}")
        uri = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro"
        try:
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            application, version = (
                self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]
                for pragma in ("application_id", "user_version")
            )
        except _UNREADABLE as error:
            raise JournalUnreadable(f"{path}: {error}") from error
        # A damaged text must reach the chain, which names its seq; SQLite's own module would only refuse it.
        self._connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        if application != APPLICATION_ID:
            raise JournalUnreadable(f"{path}: not a journal of this program")
        if version > FORMAT_VERSION:
            raise JournalUnreadable(f"{path}: format {version} is newer than this program's ({FORMAT_VERSION})")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def head(self) -> Head:
        """Last seq, its hash, and the file's status."""
        row = self._rows("SELECT seq, hash, status FROM head")
        for seq, digest, status in row:
            return Head(seq=seq, hash=digest, status=status)
        raise JournalUnreadable(f"{self.path}: the head is missing")

    def envelopes(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
    ) -> Iterator[Envelope]:
        """Those with after < seq <= until and (type in `types` or of `source`), in order of seq."""
        for row in self._select(after, until, types, source):
            yield self._envelope(row)

    def count(self, *types: str) -> int:
        """How many events the file holds, of `types` if any are named."""
        where = f"WHERE type IN ({','.join('?' * len(types))})" if types else ""
        return int(next(count for (count,) in self._rows(f"SELECT count(*) FROM events {where}", types)))

    def query(self, sql: str, parameters: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
        """Rows of a read-only query (the views, mostly)."""
        yield from self._rows(sql, parameters)

    def proven(self) -> Iterator[Row]:
        """The rows from the first on, while order and chain hold.

        Raises JournalBroken at the first that is wrong and JournalUnreadable where SQLite cannot
        go on, both naming the seq.
        """
        previous, expected = GENESIS, 1
        with closing(self._rows(f"SELECT {_COLUMNS} FROM events ORDER BY seq")) as rows:
            while True:
                try:
                    row = next(rows, None)
                except JournalUnreadable as error:
                    raise JournalUnreadable(f"{error}, in reading seq {expected}") from error
                if row is None:
                    return
                seq = row[0]
                if seq != expected:
                    raise JournalBroken(f"seq {expected} is missing, {seq} follows", seq=expected)
                if _row_hash(previous, row) != row[12]:
                    raise JournalBroken(f"seq {seq}: the hash chain does not hold", seq=seq)
                yield row
                previous, expected = row[12], expected + 1

    def verify(self) -> int:
        """Check order, chain and head row by row; the number of events.

        Raises JournalBroken naming the first seq that is wrong, JournalUnreadable when
        SQLite itself cannot read the file.
        """
        self._connection.execute("BEGIN")  # one state of the file, also while it is being written
        try:
            return self._verify()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _verify(self) -> int:
        count, digest, last, is_closed = 0, GENESIS, "", False
        for row in self.proven():
            count, digest, last = row[0], row[12], row[3]
            is_closed |= last == "SessionClosed"
        head = self.head()
        if (head.seq, head.hash) != (count, digest):
            raise JournalBroken(f"the head says {head.seq}, the last event is {count}", seq=count + 1)
        if head.status not in ("recovered", status_after(last, is_closed=is_closed)):
            raise JournalBroken(
                f"the head says {head.status}, the last event is {last or 'none'} (seq {count})", seq=count + 1
            )
        return count

    # ----------------------------------------------------------- private

    def _select(
        self, after: int, until: int | None, types: Collection[str] | None, source: str | None
    ) -> Iterator[Row]:
        where, parameters = ["seq > ?"], [after]
        if until is not None:
            where.append("seq <= ?")
            parameters.append(until)
        if types is not None:
            marks = ",".join("?" * len(types))
            where.append(f"(type IN ({marks}) OR source = ?)")
        sql = f"SELECT {_COLUMNS} FROM events WHERE {' AND '.join(where)} ORDER BY seq"
        chosen: tuple[object, ...] = (*parameters, *(sorted(types) if types is not None else ()))
        return self._rows(sql, (*chosen, source or "") if types is not None else chosen)

    def _rows(self, sql: str, parameters: tuple[object, ...] = ()) -> Generator[tuple]:  # type: ignore[type-arg]  # columns differ per query
        try:
            # Not `yield from`: who stops reading would close the cursor too, of a journal that may be closed by then.
            for row in self._connection.execute(sql, parameters):  # noqa: UP028
                yield row
        except _UNREADABLE as error:
            raise JournalUnreadable(f"{self.path}: {error}") from error

    def _envelope(self, row: Row) -> Envelope:
        seq, ts_ns, ts_event, type_, version, source, incarnation, cause, idx, corr, root, raw, digest = row
        return Envelope(
            seq=seq,
            ts_ns=ts_ns,
            ts_event=ts_event,
            type=type_,
            version=version,
            source=source,
            incarnation=incarnation,
            cause=cause,
            idx=idx,
            corr=corr,
            root=root,
            payload=self._codec.decode(type_, version, raw),
            raw=raw,
            hash=digest,
        )


def status_after(last: str, *, is_closed: bool) -> str:
    """The head's status after a commit that ends in an event of type `last`; a close is final wherever it stands."""
    return "closed" if is_closed else "stopped" if last == "SessionStopped" else "open"


def _row_hash(previous: bytes, row: Row) -> bytes | None:
    """The hash that belongs to the row; None for a text that is none (nothing has its hash)."""
    seq, ts_ns, ts_event, type_, version, source, incarnation, cause, idx, corr, root, raw, _ = row
    try:
        return chain_hash(
            previous,
            seq=seq,
            ts_ns=ts_ns,
            ts_event=ts_event,
            type=type_,
            version=version,
            source=source,
            incarnation=incarnation,
            cause=cause,
            idx=idx,
            corr=corr,
            root=root,
            raw=raw,
        )
    except UnicodeEncodeError:
        return None


def seal(path: Path) -> str:
    """Make a closed file final: one file without WAL, read-only. Returns the file's own sha256 (hex).

    Readers are waited for; OperatorError when one keeps the file open, JournalWriteFailed when the
    disk does not take it. Sealing twice is nothing.
    """
    try:
        _leave_wal(path)
        path.chmod(0o444)
        # The next file will name these bytes: SQLite's own journal must not come back after a power cut.
        sync_directory(path.parent)
        return file_sha256(path)
    except (OSError, sqlite3.Error) as error:
        raise JournalWriteFailed(f"{path}: cannot be sealed: {error}") from error


def _leave_wal(path: Path) -> None:
    patience = time.monotonic() + SEAL_PATIENCE_S
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        while not _left_wal(connection):
            if time.monotonic() > patience:
                raise OperatorError(
                    "cannot be sealed while another program reads it",
                    where=str(path),
                    fix="end that program; the session is complete, and the next start seals it",
                    exit_code=TRY_AGAIN,
                )
            time.sleep(0.05)
    finally:
        connection.close()


def sync_directory(directory: Path) -> None:
    """Wait until the names in it are on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _left_wal(connection: sqlite3.Connection) -> bool:
    """Fold the WAL into the file; False when a reader stands in the way (no busy timeout covers that)."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return bool(connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0] == "delete")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False


def file_sha256(path: Path) -> str:
    """The sha256 of the file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
