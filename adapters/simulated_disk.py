"""A disk that a simulation can stop at any moment: rows are durable after a commit, and lost before.

`SimulatedFile` is what survives a process; `SimulatedDisk` is one process's writer on it, without a
thread: whoever drives the simulation says when a commit happens, and whether it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import attrs

from domain.envelope import GENESIS, Envelope
from domain.errors import JournalWriteFailed
from domain.ports import Codec, Head


class SimulatedFile:
    """One session file. What is read from it has been through the codec, as from a real one."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.rows: list[Envelope] = []
        """Durable, oldest first; their payloads are never looked at."""

    def reader(self, codec: Codec | None = None) -> SimulatedReader:
        """The file, open for reading."""
        return SimulatedReader(self.rows, codec or self._codec)


class SimulatedReader:
    """Implements `domain.ports.JournalFile`."""

    path = Path("simulated.db")

    def __init__(self, rows: list[Envelope], codec: Codec) -> None:
        self._rows = rows
        self._codec = codec

    def head(self) -> Head:
        if not self._rows:
            return Head(seq=0, hash=GENESIS, status="open")
        last = self._rows[-1]
        return Head(seq=last.seq, hash=last.hash, status="closed" if last.type == "SessionClosed" else "open")

    def close(self) -> None:
        """Nothing is held."""

    def envelopes(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
    ) -> Iterator[Envelope]:
        for row in self._rows[after : len(self._rows) if until is None else until]:
            if types is None or row.type in types or row.source == source:
                yield attrs.evolve(row, payload=self._codec.decode(row.type, row.version, row.raw))


class SimulatedDisk:
    """Implements `domain.ports.JournalWriter` for one process.

    `on_append` is called with every publish, before it is taken: a process may die there.
    """

    stalled_s = 0.0

    def __init__(self, file: SimulatedFile, *, on_append: Callable[[Sequence[Envelope]], None]) -> None:
        self._file = file
        self._on_append = on_append
        self._pending: list[Envelope] = []
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self.failure: JournalWriteFailed | None = None

    def append(self, envelopes: Sequence[Envelope]) -> None:
        self._on_append(envelopes)
        self._pending.extend(envelopes)

    def pending(self) -> list[Envelope]:
        return list(self._pending)

    @property
    def backlog(self) -> int:
        return len(self._pending)

    @property
    def durable_seq(self) -> int:
        """The last seq on disk."""
        return len(self._file.rows)

    @property
    def has_work(self) -> bool:
        """There is something to commit, and a commit has not failed."""
        return bool(self._pending) and self.failure is None

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        if seq <= self.durable_seq:
            callback()
        else:
            self._waiting.append((seq, callback))

    def commit(self) -> None:
        """Make durable what is pending; nothing after a failure. Then tell those who wait."""
        if self.failure is not None:
            return
        self._file.rows.extend(self._pending)
        self._pending.clear()
        due = [callback for seq, callback in self._waiting if seq <= self.durable_seq]
        self._waiting = [entry for entry in self._waiting if entry[0] > self.durable_seq]
        for callback in due:
            callback()

    def fail(self) -> None:
        """The next commit fails, and with it all that would follow."""
        self.failure = JournalWriteFailed("the simulated disk is full")
