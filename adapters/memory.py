"""Stand-ins without a disk, for driving the system in one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from domain.envelope import Envelope


class MemoryJournal:
    """Implements `domain.ports.JournalWriter` and `JournalReader`: what is appended is durable at once."""

    backlog = 0
    stalled_s = 0.0

    def __init__(self) -> None:
        self._envelopes: list[Envelope] = []

    def append(self, envelopes: Sequence[Envelope]) -> None:
        self._envelopes.extend(envelopes)

    def pending(self) -> list[Envelope]:
        return []

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        callback()

    def envelopes(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
    ) -> Iterator[Envelope]:
        for envelope in self._envelopes[after : len(self._envelopes) if until is None else until]:
            if types is None or envelope.type in types or envelope.source == source:
                yield envelope
