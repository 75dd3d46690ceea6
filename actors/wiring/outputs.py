"""Where a command will write is looked at before its work begins: hours of it must not end in a refusal."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from domain.errors import OperatorError


def check_directory(directory: Path, option: str) -> None:
    """Make `directory` where it is missing. Raises OperatorError (exit 2) when nothing can be written in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise unwritable(directory, error, f"give {option} a writable directory") from error


def check_file(path: Path, option: str) -> None:
    """What is in the file stays there. Raises OperatorError (exit 2) when `path` cannot be written."""
    # A link whose target is missing stays: what is made and taken away again is the target.
    target = Path(os.path.realpath(path))
    is_new = not target.exists()
    try:
        target.open("ab").close()
        if is_new:
            target.unlink()
    except OSError as error:
        raise unwritable(path, error, f"name another file with {option}") from error


def unwritable(path: Path, error: OSError, fix: str) -> OperatorError:
    """The refusal of a place that cannot be written."""
    return OperatorError(f"cannot be written: {error.strerror or error}", where=str(path), fix=fix, exit_code=2)
