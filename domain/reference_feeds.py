"""Feeds that entries wait for: `TLT_day` is the last completed day bar of the root TLT."""

from __future__ import annotations

from collections.abc import Sequence

from domain.bars import BAR_COLUMNS, Bar, BarTable
from domain.units import DAY, Nanos

_END = BAR_COLUMNS.index("ts_end")


class ReferenceFeeds:
    """Which of the required feeds lack their last completed day. Use it in journal order."""

    def __init__(self, names: Sequence[str], *, tables: Sequence[BarTable], session_start: Nanos) -> None:
        """`tables`: completed days before the session, which starts where the one before ended."""
        self._root_of = {name: name.removesuffix("_day") for name in names}
        # A product that closed earlier on that day is still of it.
        self._since = session_start - DAY
        self._ends = {
            table.root: int(table.data[-1, _END]) for table in tables if table.timeframe == "1d" and len(table)
        }

    @property
    def roots(self) -> tuple[str, ...]:
        """Whose day bars are waited for."""
        return tuple(self._root_of.values())

    def add_day(self, bar: Bar) -> None:
        """Take a completed day bar of a root's active contract."""
        self._ends[bar.root] = bar.ts_end

    def forget(self, root: str) -> None:
        """The root's bars until now are not whole."""
        self._ends.pop(root, None)

    def missing(self) -> tuple[str, ...]:
        """The feeds that are missing, in the order in which they were named."""
        return tuple(name for name, root in self._root_of.items() if self._ends.get(root, 0) <= self._since)
