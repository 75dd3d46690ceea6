"""The local store of history: bars in DBN files, one per product and span, that any DBN tool opens.

    history/GLBX.MDP3/MES/databento-20240401T00-20240501T00.dbn.zst

The name says which whole hours (UTC) the file was asked for and where it came from; an hour without a
record had no trade. Files are put in place whole, and never changed: what overlaps is settled in reading.
Hours warm sessions up; minutes, for training and backtests, are a store of their own (`MINUTES`) beside them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import attrs
import numpy as np

from adapters.databento.hour_files import bars_file, read_bars
from domain.errors import OperatorError
from domain.history import ContractAt, ContractHours, Rows, Span, StoredHours
from domain.sessions import to_nanos
from domain.units import HOUR, SECOND, Nanos

MINUTES = "minutes"
"""The directory, in that of the hours, of a store of minutes."""
Source = Literal["databento", "dbn"]
"""Fetched from the vendor, or imported. Where both hold an hour, the first counts."""

_STAMP = "%Y%m%dT%H"
_NAME = re.compile(rf"({'|'.join(get_args(Source))})-(\d{{8}}T\d\d)-(\d{{8}}T\d\d)\.dbn\.zst")
_PART = ".part"


@attrs.frozen(kw_only=True)
class StoredFile:
    """One file of the store."""

    path: Path
    span: Span
    source: Source


class HistoryStore:
    """A directory of history. Reading needs no lock: files only appear whole."""

    def __init__(self, directory: Path, length: Nanos = HOUR) -> None:
        """`length`: of the bars, an hour or a minute; spans are of whole hours all the same."""
        self.directory = directory
        self._length = length

    def files(self, dataset: str, product: str) -> list[StoredFile]:
        """The product's files, the vendor's own first, then by span.

        Raises OperatorError for a file that is none of the store's.
        """
        found = []
        for path in sorted((self.directory / dataset / product).glob("*")):
            if path.name.endswith(_PART) or path.name.startswith("."):
                continue  # of a fetch that did not come to its end, or of whoever shows directories
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise OperatorError(
                    "not a file of the history store",
                    where=str(path),
                    fix="take it away, and use `history import` for files of your own",
                )
            span = Span(start=_moment(match[2]), end=_moment(match[3]))
            source: Source = "databento" if match[1] == "databento" else "dbn"
            found.append(StoredFile(path=path, span=span, source=source))
        return sorted(found, key=lambda file: (get_args(Source).index(file.source), file.span.start, file.span.end))

    def fetched(self, dataset: str, product: str) -> tuple[Span, ...]:
        """The hours that the vendor has answered for. What was imported may be of some contracts only."""
        return _merged([file.span for file in self.files(dataset, product) if file.source == "databento"])

    def read(self, dataset: str, product: str, since: int = 0) -> StoredHours:
        """One product's files that reach beyond `since`. Raises OperatorError for a damaged one."""
        files = [file for file in self.files(dataset, product) if file.span.end > since]
        try:
            hours = _bars_of(files, product, self._length)
        except OperatorError:
            if all(file.path.exists() for file in files):
                raise
            return self.read(dataset, product, since)  # a fetch has just joined them
        names = sorted({contract.name for contract in hours}, key=lambda name: (name.expiry.year, name.expiry.month))
        return StoredHours(
            contracts=tuple(
                # A contract may be written with one digit of its year or two.
                ContractHours(contract=name, data=_once([rows for c, rows in hours.items() if c.name == name]))
                for name in names
            ),
            covered=_merged([file.span for file in files]),
            sources=tuple(source for source in get_args(Source) if any(file.source == source for file in files)),
        )

    def add(self, dataset: str, product: str, span: Span, hours: Mapping[ContractAt, Rows]) -> Path:
        """Write imported hours of `span`; those of another import of the same span stay.

        Raises OperatorError when it cannot.
        """
        same = [file for file in self.files(dataset, product) if (file.source, file.span) == ("dbn", span)]
        held = _bars_of(same, product, self._length)
        joined = held | {
            contract: _once([rows, held[contract]] if contract in held else [rows]) for contract, rows in hours.items()
        }
        return self._write(dataset, product, span, joined, "dbn")

    def join(self, dataset: str, product: str) -> None:
        """Make one file of what has been fetched of a month in parts, so that frequent fetches do not add up.

        Raises OperatorError when it cannot.
        """
        months: dict[str, list[StoredFile]] = {}
        for file in self.files(dataset, product):
            if file.source == "databento":
                months.setdefault(_text(file.span.start)[:6], []).append(file)
        for files in months.values():
            spans = _merged([file.span for file in files])
            if len(files) == 1 or len(spans) > 1:
                continue
            bars = _bars_of(files, product, self._length)
            whole = self._write(dataset, product, spans[0], bars, "databento")
            for file in files:
                if file.path != whole:
                    file.path.unlink()

    def _write(self, dataset: str, product: str, span: Span, hours: Mapping[ContractAt, Rows], source: Source) -> Path:
        part = self.part(dataset, product)
        with _writing(part):
            part.write_bytes(bars_file(dataset, span, hours, self._length))
        return self.keep(part, span, source)

    def part(self, dataset: str, product: str) -> Path:
        """Where to write a file that is not whole yet; nothing lies there. Raises OperatorError."""
        part = self.directory / dataset / product / f"next{_PART}"
        with _writing(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
        return part

    def keep(self, part: Path, span: Span, source: Source) -> Path:
        """Take a whole file into the store: from now on it is read, and not fetched again. Raises OperatorError."""
        path = part.with_name(f"{source}-{_text(span.start)}-{_text(span.end)}.dbn.zst")
        with _writing(path):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who writes. Raises OperatorError when another process does."""
        with _writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OperatorError(
                    "another process writes history here",
                    where=str(self.directory),
                    fix="wait for its end",
                    exit_code=75,
                ) from error
            yield


def lacking_spans(wanted: Span, covered: Sequence[Span]) -> list[Span]:
    """The parts of `wanted` that `covered` (ascending, disjoint) leaves out."""
    lacking, start = [], wanted.start
    for span in covered:
        if span.start > start:
            lacking.append(Span(start=start, end=min(span.start, wanted.end)))
        start = max(start, span.end)
        if start >= wanted.end:
            break
    else:
        lacking.append(Span(start=start, end=wanted.end))
    return [span for span in lacking if span.start < span.end]


def _bars_of(files: Sequence[StoredFile], product: str, length: Nanos) -> dict[ContractAt, Rows]:
    """The bars of all `files`; of one that several hold, the first file's."""
    parts: dict[ContractAt, list[Rows]] = {}
    for file in files:
        for contract, rows in read_bars(file.path, (product,), length).hours.items():
            is_inside = (rows[:, 0] >= file.span.start) & (rows[:, 0] < file.span.end)
            parts.setdefault(contract, []).append(rows[is_inside])
    return {contract: _once(found) for contract, found in parts.items()}


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(start=merged[-1].start, end=max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return tuple(merged)


def _once(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts by time; of a bar that several hold, the first part's."""
    rows = np.concatenate(parts)
    _, first = np.unique(rows[:, 0], return_index=True)
    return rows[first]


def _text(ts: Nanos) -> str:
    return dt.datetime.fromtimestamp(ts // SECOND, dt.UTC).strftime(_STAMP)


def _moment(text: str) -> Nanos:
    return to_nanos(dt.datetime.strptime(text, _STAMP).replace(tzinfo=dt.UTC))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperatorError(
            f"cannot be written: {error.strerror}", where=str(path), fix="see that history_dir is writable"
        ) from error
