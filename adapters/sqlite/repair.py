"""What is provably good of a damaged session file, in a new file; the damaged one is only read.

Provable is the beginning: from the first event as far as order and hash chain hold. What comes
after the first damage may be read, but nothing can go on from a file with a hole in it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import attrs

from adapters.sqlite.audit import QUARANTINE, audit_file
from adapters.sqlite.journal import JournalFile, Row, create_journal, sync_directory
from adapters.sqlite.schema import INSERT_EVENT, MOVE_HEAD
from domain.errors import JournalBroken, JournalUnreadable, OperatorError
from domain.ports import Codec

OPENING_EVENTS = 3
"""Without them there is no session: what it was opened with, its history, what it took over."""
ROWS_AT_ONCE = 1_000


@attrs.frozen(kw_only=True)
class Lost:
    """An event after the damage that can still be read, and is not proven to be what was written."""

    seq: int
    type: str
    payload: str | bytes


@attrs.frozen(kw_only=True)
class Repair:
    """What a repair kept and what it could not."""

    path: Path
    """The new file."""
    problem: str
    """Where and why the new file ends."""
    kept: int
    last_seq: int | None
    """Where the damaged file ended, as its head says; None when that cannot be read."""
    lost: tuple[Lost, ...]


def repair(path: Path, target: Path, codec: Codec) -> Repair | None:
    """Write what is provably good of `path` to `target`, status `recovered`; None when nothing is wrong with it.

    Raises JournalUnreadable when no journal can be seen in it at all, OperatorError when less than a
    session's opening is good or `target` exists.
    """
    found = audit_file(path, codec)
    if not found.problems:
        return None
    with JournalFile(path, codec) as journal:
        rows = _as_far_as_proven(journal)
        opening = list(islice(rows, OPENING_EVENTS))
        if len(opening) < OPENING_EVENTS:
            raise OperatorError(
                f"nothing that a session could go on from is provable ({found.problems[0]})",
                where=str(path),
                fix="restore it from the archive or another copy",
                exit_code=1,
            )
        create_journal(target)
        last = _write(target, chain(opening, rows))
        lost = tuple(_after(journal, last))
        return Repair(path=target, problem=found.problems[0], kept=last, last_seq=_head_seq(journal), lost=lost)


def replace(path: Path, repaired: Path) -> Path:
    """Put the damaged file with what belongs to it in quarantine, the repaired one in its place. Its new place.

    Only where no live process is (hold the directory). The damaged file stays under `path` until the
    repaired one takes its name, so a start in between finds the damage and refuses.
    """
    quarantine = path.parent / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    place = quarantine / path.name
    if place.exists():
        raise OperatorError(
            "there is one of this name already", where=str(place), fix="move it away; it is never replaced"
        )
    for suffix in ("-wal", "-journal", ""):
        if (source := Path(f"{path}{suffix}")).exists():
            shutil.copyfile(source, f"{place}{suffix}")
    sync_directory(quarantine)
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    repaired.replace(path)
    sync_directory(path.parent)
    return place


def _as_far_as_proven(journal: JournalFile) -> Iterator[Row]:
    try:
        yield from journal.proven()
    except (JournalBroken, JournalUnreadable):
        return


def _write(target: Path, rows: Iterator[Row]) -> int:
    """Append the rows and move the head; the last seq."""
    connection = sqlite3.connect(target, isolation_level=None)
    last = 0
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        while some := list(islice(rows, ROWS_AT_ONCE)):
            connection.executemany(INSERT_EVENT, some)
            last, digest = some[-1][0], some[-1][12]
            connection.execute(MOVE_HEAD, (last, digest, "recovered"))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise OperatorError(
            f"cannot write the repaired file: {error}", where=str(target), fix="check the disk's space"
        ) from error
    finally:
        connection.close()
    return last


def _after(journal: JournalFile, last: int) -> Iterator[Lost]:
    """What can be read behind the damage, asked for one by one: a damaged page hides only its own rows."""
    seq, end = last, _head_seq(journal) or last
    while seq < end:
        seq += 1
        try:
            rows = list(journal.query("SELECT type, payload FROM events WHERE seq = ?", (seq,)))
        except JournalUnreadable:
            continue
        for type_, payload in rows:
            if isinstance(payload, str | bytes):
                yield Lost(seq=seq, type=str(type_), payload=payload)


def _head_seq(journal: JournalFile) -> int | None:
    try:
        return journal.head().seq
    except JournalUnreadable:
        return None
