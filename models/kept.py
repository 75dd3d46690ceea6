"""Finished work in a directory, so that an interrupted training goes on where it was.

Each piece is a file of arrays under a name made of everything it depends on; one that cannot be read counts as
none. Nothing here is trusted further than that: no pickle is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


def key_of(**said: Any) -> str:
    """Hex sha256 of what the work depends on: plain data by name."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class KeptWork:
    """Arrays by key (`key_of`), one file each."""

    def __init__(self, directory: Path, salt: str = "") -> None:
        """`salt`: what all of the work depends on, such as a digest of the code; none is found under another one."""
        self._directory, self._salt = directory, salt

    def get(self, key: str) -> Arrays | None:
        """The arrays of that key; None when there are none, or their file is damaged."""
        try:
            with np.load(io.BytesIO(self._path(key).read_bytes()), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            return None

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep them; whole or not at all."""
        self._directory.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **dict(arrays))
        written = self._path(key).with_suffix(".tmp")
        written.write_bytes(file.getvalue())
        written.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(f'{self._salt}:{key}'.encode()).hexdigest()}.npz"
