"""A whole directory of session files: every file, and every link from a file to the one before it.

A file alone cannot show that it was cut back to an earlier end, exchanged for another, or changed
outside its rows; the file that follows names its last hash and, once it is sealed, its sha256.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from adapters.sqlite.archive_record import archived
from adapters.sqlite.journal import JournalFile, file_name, file_sha256, journal_entries
from domain.errors import JournalBroken, JournalUnreadable
from domain.events import SessionOpened, StateCarried
from domain.ports import Codec, Head, JournalEntry

QUARANTINE = "quarantine"
"""Directory beside the session files, where `journal repair --replace` puts what it replaced."""


@attrs.frozen(kw_only=True)
class Audited:
    """What was found out about one file. It is clean when `problems` is empty."""

    path: Path
    events: int = 0
    status: str = "unreadable"
    problems: tuple[str, ...] = ()
    is_unreadable: bool = False
    """SQLite cannot read it, or it is no journal of this program."""
    broken_seq: int | None = None
    """Of a readable file: from here on its rows are not what was written."""
    is_attested: bool = False
    """The file that follows names this one's last hash or digest, and it is the one that is here."""


def audit_file(path: Path, codec: Codec) -> Audited:
    """One file alone: order, chain and head."""
    try:
        with JournalFile(path, codec) as journal:
            events, status = journal.verify(), journal.head().status
    except JournalBroken as error:
        return Audited(path=path, status="broken", problems=(str(error),), broken_seq=error.seq)
    except JournalUnreadable as error:
        return Audited(path=path, problems=(str(error).removeprefix(f"{path}: "),), is_unreadable=True)
    return Audited(path=path, events=events, status=status)


def audit(directory: Path, codec: Codec, *, session: str | None = None) -> Iterator[Audited]:
    """Every file of the directory, oldest first, then what lies in quarantine; or the files of one session.

    A file's links are those to it: what the next file says of it, and the record of the archive. Only
    of a whole directory is asked where its oldest file comes from.
    """
    entries = journal_entries(directory)
    followers: list[JournalEntry | None] = [*entries[1:], None]
    record = archived(directory)
    for place, (entry, follower) in enumerate(zip(entries, followers, strict=True)):
        if session is not None and entry.session != session:
            continue
        found = audit_file(entry.path, codec)
        problems = list(found.problems)
        if not problems:
            if (kept := record.get(entry.path.name)) and kept.sha256 != file_sha256(entry.path):
                problems.append("its bytes are not those that were archived (sha256)")
            if follower is not None:
                problems += _link(entry, follower, codec)
        if place == 0 and session is None:
            problems += _beginning(entry, {name: kept.sha256 for name, kept in record.items()}, codec)
        is_attested = follower is not None and not problems
        yield attrs.evolve(found, problems=tuple(problems), is_attested=is_attested)
    if session is None:
        for path in sorted((directory / QUARANTINE).glob("*.db")):
            yield Audited(path=path, status="quarantined")


def _said(path: Path, codec: Codec) -> tuple[SessionOpened, StateCarried] | None:
    """What a file says of the one before it; None when it cannot be read (which is a problem of its own)."""
    opened = carried = None
    try:
        with JournalFile(path, codec) as journal:
            for envelope in journal.envelopes(until=3, types={"SessionOpened", "StateCarried"}):
                match envelope.payload:
                    case SessionOpened() as payload:
                        opened = payload
                    case StateCarried() as payload:
                        carried = payload
                    case _:
                        pass
    except JournalUnreadable:
        return None
    return None if opened is None or carried is None else (opened, carried)


def _named(carried: StateCarried) -> str | None:
    if carried.previous_session is None or carried.previous_segment is None:
        return None
    return file_name(carried.previous_session, carried.previous_segment)


def _link(entry: JournalEntry, follower: JournalEntry, codec: Codec) -> Iterator[str]:
    """What the follower says that is not so."""
    said, name = _said(follower.path, codec), follower.path.name
    if said is None:
        # Died before its first commit, or damaged; damage to the file itself is told with that file.
        if not _is_unborn(follower.path, codec):
            yield f"{name}, which follows, does not say what it follows"
        return
    opened, carried = said
    if (named := _named(carried)) != entry.path.name:
        if named is not None or not opened.is_demo:
            yield f"{name}, which stands after it, follows {named or 'no file'}"
        return
    with JournalFile(entry.path, codec) as journal:
        head = journal.head()
    if carried.previous_head != head.hash.hex():
        yield f"its end (seq {head.seq}) is not the one that {name} follows"
    elif carried.previous_file_sha256 not in (None, file_sha256(entry.path)):
        yield f"its bytes are not those that {name} names (sha256)"


def _beginning(entry: JournalEntry, sha256s: dict[str, str], codec: Codec) -> Iterator[str]:
    """The oldest file follows none, or one that was archived before it was removed."""
    said = _said(entry.path, codec)
    if said is None or (named := _named(said[1])) is None:
        return
    if named not in sha256s:
        yield f"it follows {named}, which is neither here nor on record as archived"
    elif said[1].previous_file_sha256 not in (None, sha256s[named]):
        yield f"it follows another {named} than the one that was archived (sha256)"


def _is_unborn(path: Path, codec: Codec) -> bool:
    try:
        with JournalFile(path, codec) as journal:
            head: Head = journal.head()
    except JournalUnreadable:
        return False
    return head.seq == 0
