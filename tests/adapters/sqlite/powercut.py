"""Disks that a power cut may leave, built from what a process asked of its own (`powercut.c`).

Strict, as POSIX is: a file's bytes are safe when the file was synced, a name when its directory was.
Of what was not, each sector of 512 bytes of each write may be there or not, and the names that
changed are there up to some point, in their order (file systems keep a journal of names).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest

SECTOR = 512


@attrs.frozen
class Op:
    """One record of the trace."""

    kind: str
    inode: int
    offset: int
    path: str
    data: bytes


def shim(directory: Path) -> Path:
    """The compiled shim; skips where there is no C compiler or no preloading."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("simulated power cuts need a C compiler (cc) and Linux's LD_PRELOAD")
    target = directory / "powercut.so"
    source = Path(__file__).with_name("powercut.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source, "-ldl", "-lpthread"], check=True)
    return target


def under_shim(library: Path, directory: Path, trace: Path, **more: str) -> Mapping[str, str]:
    """Variables that record what is done below `directory` in `trace`."""
    return {"LD_PRELOAD": str(library), "CUT_DIR": f"{directory}", "CUT_TRACE": str(trace), **more}


def read_trace(trace: Path) -> list[Op]:
    ops = []
    with trace.open("rb") as file:
        while line := file.readline():
            kind, inode, offset, length, path = line.decode().rstrip("\n").split(" ", 4)
            ops.append(Op(kind, int(inode), int(offset), path, file.read(int(length))))
    return ops


class Disk:
    """What is safe and what is not, as the trace goes on."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._safe: dict[int, bytearray] = {}
        self._loose: dict[int, list[Op]] = {}
        self._names: dict[str, int] = {}
        self._moves: list[Op] = []

    def apply(self, op: Op) -> None:
        match op.kind:
            case "W" | "T":
                self._loose.setdefault(op.inode, []).append(op)
            case "S":
                content = self._safe.setdefault(op.inode, bytearray())
                for loose in self._loose.pop(op.inode, []):
                    _change(content, loose)
            case "C":
                # Linux may give a number again once its file is gone.
                self._safe[op.inode] = bytearray()
                self._loose.pop(op.inode, None)
                self._moves.append(op)
            case "R" | "U":
                self._moves.append(op)
            case "D":
                for move in self._moves:
                    _move(self._names, move)
                self._moves.clear()
            case _:
                pass

    def after_cut(self, target: Path, chance: random.Random) -> None:
        """Write one of the disks that a cut at this moment may leave."""
        names = dict(self._names)
        for move in self._moves[: chance.randint(0, len(self._moves))]:
            _move(names, move)
        keep = chance.choice([0.0, 0.5, 0.9, 1.0])
        for path, inode in names.items():
            content = bytearray(self._safe.get(inode, b""))
            for op in self._loose.get(inode, ()):
                _change_in_part(content, op, keep, chance)
            place = target / Path(path).relative_to(self._base)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def _move(names: dict[str, int], op: Op) -> None:
    if op.kind == "C":
        names[op.path] = op.inode
    elif op.kind == "U":
        names.pop(op.path, None)
    elif op.path in names:
        names[op.data.decode()] = names.pop(op.path)


def _change(content: bytearray, op: Op) -> None:
    if op.kind == "T":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
        return
    content.extend(bytes(max(0, op.offset - len(content))))
    content[op.offset : op.offset + len(op.data)] = op.data


def _change_in_part(content: bytearray, op: Op, keep: float, chance: random.Random) -> None:
    if op.kind == "T" or keep == 1.0:
        if chance.random() <= keep:
            _change(content, op)
        return
    start = 0
    while start < len(op.data):
        end = min(len(op.data), (op.offset + start) // SECTOR * SECTOR + SECTOR - op.offset)
        if chance.random() < keep:
            _change(content, Op("W", op.inode, op.offset + start, "", op.data[start:end]))
        start = end


def cuts(ops: list[Op], base: Path, target: Path, points: list[int], seed: int) -> Iterator[tuple[int, Path]]:
    """(how many operations were done, a disk that a cut then leaves), for each of `points` in order."""
    disk, chance, done = Disk(base), random.Random(seed), 0
    for number, point in enumerate(sorted(points)):
        for op in ops[done:point]:
            disk.apply(op)
        done = point
        place = target / str(number)
        place.mkdir(parents=True)
        disk.after_cut(place, chance)
        yield point, place
        shutil.rmtree(place)
