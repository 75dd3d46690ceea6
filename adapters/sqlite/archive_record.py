"""`archived.jsonl` beside the session files: which of them were copied elsewhere and verified there.

One JSON object a line, appended and synced after the copy was read back: `file`, `sha256` (of its
bytes), `target` (without credentials). The last line of a file counts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs

from domain.errors import OperatorError

NAME = "archived.jsonl"


@attrs.frozen(kw_only=True)
class Archived:
    """One file's line."""

    file: str
    sha256: str
    target: str


def archived(directory: Path) -> dict[str, Archived]:
    """The record by file name; empty without one. Raises OperatorError for a line that is none."""
    path = directory / NAME
    found = {}
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), start=1):
        try:
            entry = Archived(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise OperatorError(
                f"no line of an archive's record: {error}", where=f"{path}:{number}", fix="remove this line"
            ) from error
        found[entry.file] = entry
    return found


def record_archived(directory: Path, entry: Archived) -> None:
    """Append a line, and wait for the disk."""
    with (directory / NAME).open("a") as file:
        file.write(json.dumps(attrs.asdict(entry)) + "\n")
        file.flush()
        os.fsync(file.fileno())
