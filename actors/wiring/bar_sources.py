"""Where minute bars come from: DBN files, session journals, and directories of either."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import attrs
import click

from actors.wiring.reading import naming
from adapters.databento.hour_files import contract_of, read_bars
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, journal_entries, segments_of
from domain.bars import Bar, BarTable
from domain.errors import JournalUnreadable, OperatorError
from domain.events import RootReset, SessionOpened, SliceClosed
from domain.history import ContractAt, Rows
from domain.units import MINUTE

JOURNAL = ".db"
_DBN = (".dbn", ".dbn.zst")


@attrs.frozen(kw_only=True, eq=False)
class FileMinutes:
    """The minute bars of one file."""

    rows: Mapping[ContractAt, Rows]
    foreign: int
    """Records of anything else than the contracts that were asked for."""
    is_simulated: bool = False
    """Of the demo's market."""
    session: dt.date | None = None
    """A journal's."""
    lossy: frozenset[str] = frozenset()
    """Roots of which this journal has lost records: none of the session's segments holds whole hours and days."""


def data_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """`paths`, with each directory's DBN files (at any depth, by name) and journals (oldest first) in its place.

    Raises OperatorError (exit 2) for a directory without any.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.rglob("*") if file.name.endswith(_DBN) and not file.name.startswith("."))
        found += [entry.path for entry in journal_entries(path)]
        if not found:
            raise OperatorError(
                "holds neither DBN files nor journals",
                where=str(path),
                fix="name files, a journal directory, or the minutes that `history fetch --minutes` has stored",
                exit_code=2,
            )
        files += found
    return tuple(files)


def with_segments(files: Sequence[Path]) -> tuple[Path, ...]:
    """`files`, and where one is a journal all segments of its session; none twice."""
    of_each = (segments_of(path) if path.suffix == JOURNAL else [path] for path in files)
    return tuple(dict.fromkeys(path for several in of_each for path in several))


def file_minutes(path: Path, products: Collection[str]) -> FileMinutes:
    """The minutes of `products` in a DBN file (ohlcv-1m or trades) or a journal.

    Raises OperatorError (exit 2) or a JournalError for a file that cannot be read.
    """
    if path.suffix == JOURNAL:
        return _journal_minutes(path, products)
    found = read_bars(path, products, MINUTE)
    return FileMinutes(rows=found.hours, foreign=found.foreign)


def _journal_minutes(path: Path, products: Collection[str]) -> FileMinutes:
    """The minutes that closed in one segment, of every contract that was read."""
    opened: SessionOpened | None = None
    lossy: set[str] = set()
    bars: dict[tuple[str, str], list[Bar]] = {}
    with JournalFile(path, Codec()) as journal, naming(path):
        journal.verify()
        for envelope in journal.envelopes(types={"SessionOpened", "SliceClosed", "RootReset"}):
            match envelope.payload:
                case SessionOpened():
                    opened = envelope.payload
                case SliceClosed(minutes=minutes):
                    for bar in minutes:
                        bars.setdefault((bar.root, bar.contract), []).append(bar)
                case RootReset(root=root):
                    lossy.add(root)
                case _:
                    pass
        if opened is None:
            raise JournalUnreadable("the file holds no session")
    rows: dict[ContractAt, Rows] = {}
    foreign = 0
    for (root, contract), found in bars.items():
        at = contract_of(contract, opened.session.date, products)
        if at is None:
            foreign += len(found)
        else:
            rows[at] = BarTable.of_bars(root, "1m", found).data
    date = opened.session.date
    for root in sorted(lossy):
        click.echo(f"{path}: records of {root} were lost; its bars of session {date} are left out", err=True)
    return FileMinutes(rows=rows, foreign=foreign, is_simulated=opened.is_demo, session=date, lossy=frozenset(lossy))
