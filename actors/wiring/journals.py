"""`journal verify | repair | archive`: whether session files are what was written, and keeping them so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from adapters.sqlite.archive import archive, open_target
from adapters.sqlite.audit import Audited, audit, audit_file
from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import journal_entries
from adapters.sqlite.repair import Repair, repair, replace
from domain.errors import OperatorError

EXIT_BROKEN = 1
EXIT_UNREADABLE = 2
ORDER_EVENTS = ("OrderSubmitted", "OrderAccepted", "OrderAmbiguous", "FillAssumed", "FillConfirmed", "PositionResolved")
"""What a person needs to know of the missing part: they may have changed what is held."""


def verify_command(path: Path) -> int:
    """Check a directory, or a file with the other segments of its session."""
    codec = Codec()
    if path.is_dir():
        files = list(journal_entries(path))
        if not files:
            raise OperatorError("no session files here", where=str(path), fix="name a journal directory or a file")
        return _tell(audit(path, codec))
    entry = next((entry for entry in journal_entries(path.parent) if entry.path == path), None)
    return _tell([audit_file(path, codec)] if entry is None else audit(path.parent, codec, session=entry.session))


def repair_command(file: Path, target: Path | None, *, is_replacing: bool) -> int:
    """Keep what is provably good; 0 when nothing was wrong, 1 when something is missing."""
    codec = Codec()
    held = SqliteJournals(file.parent, codec) if is_replacing else None
    try:
        target = target or file.with_name(f"{file.name.removesuffix('.db')}.recovered.db")
        repaired = repair(file, target, codec)
        if repaired is None:
            click.echo(f"{file.name}: nothing is wrong with it; nothing was written")
            return 0
        quarantined = replace(file, repaired.path) if is_replacing else None
    finally:
        if held is not None:
            held.release()
    click.echo("\n".join(_repair_words(file, repaired, quarantined)))
    return EXIT_BROKEN


def archive_command(directory: Path, target: str, *, keep_sessions: int | None) -> None:
    """Copy, verify, and remove what may go."""
    place = open_target(target)
    for kept in archive(directory, place, Codec(), keep_sessions=keep_sessions):
        click.echo(f"{kept.path.name}: {kept.did}")


def _repair_words(file: Path, repaired: Repair, quarantined: Path | None) -> Iterator[str]:
    yield f"{file.name}: {repaired.problem}"
    yield f"  kept       seq 1 to {repaired.kept}, in {file if quarantined else repaired.path}, status recovered"
    end = "an unknown end: its head cannot be read" if repaired.last_seq is None else f"seq {repaired.last_seq}"
    yield f"  missing    seq {repaired.kept + 1} to {end}"
    if repaired.lost:
        counts = Counter(lost.type for lost in repaired.lost).most_common()
        yield f"  readable   {len(repaired.lost)} of the missing, unproven: {', '.join(f'{n} {t}' for t, n in counts)}"
    for lost in repaired.lost:
        if lost.type in ORDER_EVENTS:
            yield f"  order      seq {lost.seq} {lost.type} {lost.payload!s}"
    if quarantined:
        yield f"  damaged    moved to {quarantined}"
        yield "the next start opens a new segment; compare positions with the broker's before entries are allowed"
    else:
        yield f"{file.name} is as it was; `--replace` puts the new file in its place"


def _tell(audited: Iterable[Audited]) -> int:
    worst = 0
    for found in audited:
        for problem in found.problems:
            click.echo(f"error: {found.path}: {problem}\n  fix: {_fix(found)}", err=True)
        if found.problems:
            worst = EXIT_UNREADABLE if found.is_unreadable and worst != EXIT_BROKEN else EXIT_BROKEN
        elif found.status == "quarantined":
            click.echo(f"{found.path.name}: not looked into, status quarantined")
        else:
            attested = ", attested by the next file" if found.is_attested else ""
            held = f"{found.events} events, chain and head hold{attested}, status {found.status}"
            click.echo(f"{found.path.name}: {held}")
    return worst


def _fix(found: Audited) -> str:
    copy = "restore it from the archive or another copy"
    if found.is_unreadable:
        return f"check the path; a newer file needs the program that wrote it, a damaged one has to come back: {copy}"
    if found.broken_seq is None:
        return f"trust neither of the two before they are compared with another copy; {copy}"
    return f"trust nothing from seq {found.broken_seq} on; {copy}, or take what is provably good with `journal repair`"
