"""Copies of finished session files elsewhere, and what may then be removed here.

A copy counts when it was read back and its sha256 is that of the file. Nothing else is ever removed,
nor the newest sealed file and what comes after it: the next session opens from them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from adapters.sqlite.archive_record import Archived, archived, record_archived
from adapters.sqlite.audit import audit
from adapters.sqlite.journal import JournalFile, file_sha256, journal_entries, seal, sync_directory
from domain.errors import OperatorError
from domain.ports import Codec, JournalEntry

CHUNK = 1 << 20


class Target(Protocol):
    """Where copies go."""

    name: str
    """For the record and for messages: without credentials."""

    def sha256(self, name: str) -> str | None:
        """Of what is kept there under `name`, read now; None when there is nothing."""
        ...

    def put(self, source: Path, name: str) -> None:
        """Copy, over what is there."""
        ...


def open_target(text: str) -> Target:
    """A directory, or what an fsspec URL names. Raises OperatorError when the URL cannot be used."""
    return _Remote(text) if "://" in text else _Directory(Path(text))


class _Directory:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = str(directory.resolve())

    def sha256(self, name: str) -> str | None:
        path = self._directory / name
        return file_sha256(path) if path.is_file() else None

    def put(self, source: Path, name: str) -> None:
        path = self._directory / name
        unfinished = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as original, unfinished.open("wb") as copy:
                shutil.copyfileobj(original, copy, CHUNK)
                copy.flush()
                os.fsync(copy.fileno())
            unfinished.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            raise OperatorError(
                f"cannot be written: {error.strerror}", where=str(path), fix="check the directory and its space"
            ) from error


class _Remote:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise OperatorError(
                "a URL needs the library fsspec, which is not installed",
                where=self.name,
                fix="install the extra `archive`, or name a directory",
            ) from error
        try:
            self._fs, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise OperatorError(f"cannot be used: {error}", where=self.name, fix="check the URL") from error

    def sha256(self, name: str) -> str | None:
        digest = hashlib.sha256()
        try:
            self._fs.invalidate_cache()
            with self._fs.open(self._path(name), "rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def put(self, source: Path, name: str) -> None:
        path = self._path(name)
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(source), path)
        except OSError as error:
            raise OperatorError(
                f"cannot be written: {error}", where=f"{self.name}/{name}", fix="check the URL and its rights"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


@attrs.frozen(kw_only=True)
class Kept:
    """What became of one file."""

    path: Path
    did: str
    """`copied`, `verified` (it was there already), `removed`, or why it was left alone."""


def archive(directory: Path, target: Target, codec: Codec, *, keep_sessions: int | None = None) -> Iterator[Kept]:
    """Copy every file that nobody will write again, with the models it names; then remove what may go.

    `keep_sessions`: sessions that stay, counted from the newest; None keeps all. Raises OperatorError
    before anything is copied when a file is not what was written, and at a copy that is not its original.
    """
    if broken := next((found for found in audit(directory, codec) if found.problems), None):
        raise OperatorError(
            f"a damaged journal is not archived: {broken.problems[0]}",
            where=str(broken.path),
            fix="see `journal verify`",
            exit_code=1,
        )
    entries, before = journal_entries(directory), archived(directory)
    safe = []
    for entry in entries:
        if not _is_finished(entry, entries, codec):
            yield Kept(path=entry.path, did="left alone: the session goes on in it, or the next start seals it")
            continue
        # A segment that was left in mid-session is in WAL mode, one file only once it is folded.
        sha256 = file_sha256(entry.path) if _is_sealed(entry.path) else seal(entry.path)
        for model in _models(directory, entry, codec):
            _copied(model, model.relative_to(directory).as_posix(), target)
        if entry.path.name not in before and target.sha256(entry.path.name) not in (None, sha256):
            raise OperatorError(
                "another file of this name is there, which this directory has not put there: it is never replaced",
                where=f"{target.name}/{entry.path.name}",
                fix="give each journal directory a target of its own",
            )
        did = _copied(entry.path, entry.path.name, target)
        record_archived(directory, Archived(file=entry.path.name, sha256=sha256, target=target.name))
        safe.append(entry)
        yield Kept(path=entry.path, did=did)
    for entry in _removable(entries, safe, keep_sessions, codec):
        # Asked of the copy, not of the record: this is the last moment at which it can be missed.
        if target.sha256(entry.path.name) != file_sha256(entry.path):
            raise OperatorError("its copy is not there any more", where=str(entry.path), fix="archive it again")
        entry.path.unlink()
        yield Kept(path=entry.path, did="removed")


def _is_sealed(path: Path) -> bool:
    return not path.stat().st_mode & 0o222 and not Path(f"{path}-wal").exists()


def _is_finished(entry: JournalEntry, entries: list[JournalEntry], codec: Codec) -> bool:
    """Sealed, or left behind by a later file that has begun: nobody writes to it again."""
    later = entries[entries.index(entry) + 1 :]
    return _is_sealed(entry.path) or any(_head(after, codec)[0] > 0 for after in later)


def _head(entry: JournalEntry, codec: Codec) -> tuple[int, str]:
    with JournalFile(entry.path, codec) as journal:
        head = journal.head()
    return head.seq, head.status


def _models(directory: Path, entry: JournalEntry, codec: Codec) -> Iterator[Path]:
    """The bundles' files: a session replays only with the models and shadows it was recorded with."""
    with JournalFile(entry.path, codec) as journal:
        (opened,) = journal.envelopes(until=1)
    for model in (*getattr(opened.payload, "models", ()), *getattr(opened.payload, "shadows", ())):
        if model.digest:
            bundle = directory / "models" / model.digest / model.root
            yield from sorted(path for path in bundle.rglob("*") if path.is_file())


def _copied(path: Path, name: str, target: Target) -> str:
    wanted = file_sha256(path)
    if target.sha256(name) == wanted:
        return "verified"
    target.put(path, name)
    if target.sha256(name) != wanted:
        raise OperatorError(
            "the copy is not the original (sha256)",
            where=f"{target.name}/{name}",
            fix="check that place, and try again",
        )
    return "copied"


def _removable(
    entries: list[JournalEntry], safe: list[JournalEntry], keep_sessions: int | None, codec: Codec
) -> list[JournalEntry]:
    """Archived files of old sessions, oldest first without a gap, up to the newest sealed one (which stays)."""
    if keep_sessions is None:
        return []
    sessions = sorted({entry.session for entry in entries})
    kept = set(sessions[-keep_sessions:])
    closed = [entry for entry in entries if _head(entry, codec)[1] == "closed"]
    newest = closed[-1] if closed else entries[0]
    removable = []
    for entry in entries:
        if entry.session in kept or entry == newest or entry not in safe:
            break
        removable.append(entry)
    return removable
