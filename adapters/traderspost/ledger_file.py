"""The ledger in a file, so that a paper broker's positions survive a restart of its server.

One JSON object, replaced as a whole: what lies there is always one complete state. Only the
last RECORDS_LIMIT signals and fills are kept; positions and working orders always are.
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import cattrs
import orjson
from cattrs.errors import CattrsError

from adapters.traderspost.ledger import LedgerState
from domain.errors import OperatorError

VERSION = 1
RECORDS_LIMIT = 2_000


@attrs.define(kw_only=True)
class SavedState:
    """What a server goes on from: its ledger, what its rate limit has let pass, and the time it has reached."""

    version: int = VERSION
    clock: str
    """Whose time the stamps are; another clock cannot go on from them."""
    ledger: LedgerState = attrs.field(factory=LedgerState)
    passed_ns: list[int] = attrs.field(factory=list)
    seen_ns: int = 0


def load_state(path: Path, *, clock: str) -> SavedState:
    """What is saved at `path`; empty when there is no such file.

    Raises OperatorError for a file that cannot be read, is not one of ours, or was written with another clock.
    """
    try:
        saved = _CONVERTER.structure(orjson.loads(path.read_bytes()), SavedState)
    except FileNotFoundError:
        return SavedState(clock=clock)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, CattrsError) as e:
        raise _unusable(path, e) from e
    if saved.version != VERSION:
        raise _unusable(path, ValueError(f"version {saved.version}, not {VERSION}"))
    if saved.clock != clock:
        raise _unusable(path, ValueError(f"it was written with --clock {saved.clock}"))
    return saved


def save_state(path: Path, saved: SavedState) -> None:
    """Replace the file at `path`; it is on disk when this returns. Raises OperatorError when it cannot be written."""
    ledger = saved.ledger
    book = attrs.evolve(
        ledger.book,
        fills=ledger.book.fills[-RECORDS_LIMIT:],
        incidents=ledger.book.incidents[-RECORDS_LIMIT:],
    )
    records = ledger.records
    # Those that wait for their execution are noted in their records when it comes.
    waiting = {accepted.signal_id for accepted in book.pending}
    if len(records) > RECORDS_LIMIT:
        kept = {*list(records)[-RECORDS_LIMIT:], *waiting}
        records = {key: record for key, record in records.items() if key in kept}
    plain = _CONVERTER.unstructure(attrs.evolve(saved, ledger=attrs.evolve(ledger, book=book, records=records)))
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(orjson.dumps(plain))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _unusable(path, error) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: Exception) -> OperatorError:
    said = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return OperatorError(
        f"{path} cannot be used: {said}",
        where="--state",
        fix="name a file that this program has written, or a new one in a directory that can be written",
    )


def _decimal(value: Any, _: Any) -> Decimal:
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{value} is no price")
    return number


_CONVERTER = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
_CONVERTER.register_structure_hook(Decimal, _decimal)
_CONVERTER.register_unstructure_hook(Decimal, str)
