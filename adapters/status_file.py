"""The file in which a running program says how it stands: replaced as a whole, never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "status.json"


def write_status(directory: Path, document: Mapping[str, Any]) -> None:
    """Replace the file in `directory`. Raises OSError when it cannot be written."""
    path = directory / NAME
    # Beside it, so that the rename stays within one file system. Not forced to disk: the journal has the facts.
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document) + "\n")
    os.replace(unfinished, path)


def read_status(directory: Path) -> dict[str, Any] | None:
    """What was written last in `directory`; None when there is nothing, or nothing that can be read."""
    try:
        found = json.loads((directory / NAME).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
