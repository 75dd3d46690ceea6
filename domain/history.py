"""History before a session: stored hours of single contracts as one series, with days, joined to a journal's.

The contract of a past session is the one that traded most in the session before it, never an
earlier expiry than the last. Older contracts are shifted by the difference of both closes in
their last common hour; where there is none, the older part is left out rather than guessed.
Days are exchange sessions folded from hours, never a vendor's UTC day. Nothing reaches beyond
the session's start: from there on the bars are the feed's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import attrs
import numpy as np
import numpy.typing as npt

from domain.bars import BAR_COLUMNS, BarTable, Timeframe
from domain.events import HistoryLoaded
from domain.instruments import ContractName
from domain.rolls import RollSeam
from domain.sessions import Session
from domain.units import DAY, HOUR, Nanos, Price

MAX_HOURS = 1_500
"""Hour bars of history kept per root: about three months of sessions."""
MAX_DAYS = 504
"""Day bars kept per root: two years."""
COMMON_WITHIN = Nanos(7 * DAY)
"""A common hour further back than this says nothing about the difference at a roll."""

Rows = npt.NDArray[np.int64]
"""Bars in columns, shape (n, 8) in the order of BAR_COLUMNS, oldest first."""
Stamps = npt.NDArray[np.int64]

_START, _END, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _TRADES = range(len(BAR_COLUMNS))
_PRICES = slice(_OPEN, _CLOSE + 1)
_NO_ROWS: Rows = np.zeros((0, len(BAR_COLUMNS)), np.int64)
_CAPS: Mapping[Timeframe, int] = {"1h": MAX_HOURS, "1d": MAX_DAYS}


@attrs.frozen(kw_only=True)
class Span:
    """A stretch of time, start inclusive, end exclusive."""

    start: Nanos
    end: Nanos


@attrs.frozen(kw_only=True, eq=False)
class ContractHours:
    """Hour bars of one contract, unadjusted, one per UTC clock hour with a trade."""

    contract: ContractName
    data: Rows


@attrs.frozen(kw_only=True, eq=False)
class StoredHours:
    """What a store holds of one product."""

    contracts: tuple[ContractHours, ...] = ()
    """By expiry."""
    covered: tuple[Span, ...] = ()
    """The hours that were asked for, ascending and disjoint: one without a bar had no trade."""
    sources: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ContractAt:
    """A contract and the raw symbol under which the journal knows it."""

    raw_symbol: str
    name: ContractName

    @classmethod
    def of(cls, name: ContractName) -> ContractAt:
        return cls(raw_symbol=name.raw_symbol, name=name)


@attrs.frozen(kw_only=True, eq=False)
class RootHistory:
    """What the coming session's history of one root is made of."""

    root: str
    stored: StoredHours
    before: ContractAt | None = None
    """The contract whose prices the journal's bars are shifted to."""
    target: ContractAt | None = None
    """The contract that the session trades; None when nobody knows."""


@attrs.frozen(kw_only=True, eq=False)
class Series:
    """One root's stored bars at the price level of one contract."""

    root: str
    sources: tuple[str, ...]
    level: ContractAt
    hours: Rows
    days: Rows
    fronts: tuple[tuple[Nanos, ContractName], ...]
    """From which moment on which contract's bars these are."""
    seam: RollSeam | None
    """To the session's contract; None when that is `level`, or when no difference is known."""
    broken: tuple[ContractName, ContractName] | None
    """Two contracts without a common hour: what is stored before the change is not in the series."""


# ------------------------------------------------------------------ joining


def extended(history: HistoryLoaded, found: Sequence[Series], session: Session) -> HistoryLoaded:
    """`history` (a journal's, or empty) with what `found` has before `session`; the same when nothing is new.

    A journal's bar stays unless the vendor counted more contracts in the same stretch: then a gap or a
    late start has cut it.
    """
    tables = {(table.root, table.timeframe): table for table in history.tables}
    seams = {seam.root: seam for seam in history.seams}
    sources = history.source.split("+") if any(map(len, history.tables)) else []
    for series in found:
        of_timeframe: tuple[tuple[Timeframe, Rows], ...] = (("1h", series.hours), ("1d", series.days))
        for timeframe, rows in of_timeframe:
            own = tables.get((series.root, timeframe))
            joined = _joined(own, series, timeframe, rows[rows[:, _END] <= session.start_ns])
            if joined is not None:
                tables[series.root, timeframe] = joined
                sources += [source for source in series.sources if source not in sources]
        if series.seam is not None:
            seams.setdefault(series.root, series.seam)
    return HistoryLoaded(
        tables=tuple(tables[key] for key in sorted(tables)),
        seams=tuple(seams[root] for root in sorted(seams)),
        source="+".join(sources) or history.source,
    )


def missing_sessions(table: BarTable | None, sessions: Sequence[Session]) -> tuple[Session, ...]:
    """Of `sessions` those after the table's first bar in which it has none; all of them without a bar."""
    if table is None or not len(table):
        return tuple(sessions)
    first = int(table.data[0, _START])
    return tuple(
        session
        for session in sessions
        if session.end_ns > first and not len(_between(table.data, session.start_ns, session.end_ns))
    )


def _joined(own: BarTable | None, series: Series, timeframe: Timeframe, stored: Rows) -> BarTable | None:
    """The journal's table with what it lacks of the `stored` rows; None when it lacks none of them."""
    journal = _NO_ROWS if own is None else own.data
    fresh, kept = _lacking(journal, stored)
    names = [*(() if own is None else own.contracts), *[series.level.raw_symbol] * len(fresh)]
    rows = np.concatenate((journal, fresh))
    # Of what is replaced no row is left; of the rest the last ones.
    places = np.concatenate((np.flatnonzero(kept), np.arange(len(journal), len(rows))))
    places = places[np.argsort(rows[places, _END])][-_CAPS[timeframe] :]
    if not (places >= len(journal)).any():
        return None
    contracts = tuple(names[place] for place in places.tolist())
    return BarTable(root=series.root, timeframe=timeframe, contracts=contracts, data=rows[places])


def _lacking(journal: Rows, stored: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """The stored rows that the journal does not have, and which of its own rows stay."""
    kept = np.ones(len(journal), bool)
    if not len(journal):
        return stored, kept
    last = len(journal) - 1
    at = np.minimum(np.searchsorted(journal[:, _END], stored[:, _START], "right"), last)
    overlaps = (journal[at, _START] < stored[:, _END]) & (journal[at, _END] > stored[:, _START])
    is_same = overlaps & (journal[at, _END] == stored[:, _END])
    is_cut = is_same & (stored[:, _VOLUME] > journal[at, _VOLUME])
    kept[at[is_cut]] = False
    return stored[~overlaps | is_cut], kept


# --------------------------------------------------------------- one series


def series_of(root: RootHistory, sessions: Sequence[Session]) -> Series | None:
    """The stored bars of `sessions` at the level of the journal's contract, else of the last session's own.

    None when nothing is stored, or nothing whose level is known. No contract beyond the session's own is used.
    """
    if not sessions:
        return None
    wanted = [at.name for at in (root.before, root.target) if at is not None]
    latest = max(map(_expiry, wanted), default=None)
    contracts = [c for c in root.stored.contracts if latest is None or _expiry(c.contract) <= latest]
    end = sessions[-1].end_ns
    chains = _chains(contracts, sessions)
    for chain in reversed(chains):
        level = ContractAt.of(chain.last.contract) if root.before is None else root.before
        base = chain.reach(level.name, contracts, end)
        if base is not None:
            break
    else:
        return None
    place = chains.index(chain)
    broken = (chains[place - 1].last.contract, chain.pieces[0].hours.contract) if place else None
    grid = _Grid.of(root.root, sessions)
    hours, days = [], []
    for piece in chain.pieces:
        rows = np.array(_between(piece.hours.data, grid.starts[piece.first], grid.ends[piece.last]))
        rows[:, _PRICES] += base.offset - chain.levels[piece.hours.contract].offset
        hours.append(rows)
        days.append(grid.days_of(rows, piece, root.stored.covered))
    return Series(
        root=root.root,
        sources=root.stored.sources,
        broken=broken,
        level=level,
        hours=np.concatenate(hours),
        days=np.concatenate(days),
        fronts=tuple((Nanos(int(grid.starts[p.first])), p.hours.contract) for p in chain.pieces),
        seam=_seam(root, level, base, None if root.target is None else chain.reach(root.target.name, contracts, end)),
    )


def _seam(root: RootHistory, level: ContractAt, base: _Level, wanted: _Level | None) -> RollSeam | None:
    if root.target is None or root.target.name == level.name or wanted is None:
        return None
    return RollSeam(
        root=root.root,
        from_contract=level.raw_symbol,
        to_contract=root.target.raw_symbol,
        ts=max(base.at, wanted.at),
        difference=Price(wanted.offset - base.offset),
    )


@attrs.frozen(eq=False)
class _Piece:
    """Consecutive sessions with one front contract: their indices, `last` inclusive."""

    hours: ContractHours
    first: int
    last: int


@attrs.frozen
class _Level:
    """A contract's price over that of its chain's first one, in the common hour that ended at `at`."""

    offset: int
    at: Nanos


@attrs.frozen(eq=False)
class _Chain:
    """Pieces whose prices can be told at each other's level."""

    pieces: list[_Piece]
    levels: dict[ContractName, _Level]

    @property
    def last(self) -> ContractHours:
        return self.pieces[-1].hours

    def reach(self, wanted: ContractName, contracts: Sequence[ContractHours], end: Nanos) -> _Level | None:
        """The level of `wanted`, when it is in the chain or has traded beside its last contract before `end`."""
        if wanted in self.levels:
            return self.levels[wanted]
        other = next((c for c in contracts if c.contract == wanted), None)
        return None if other is None else self.next_level(other, end)

    def next_level(self, other: ContractHours, before: Nanos) -> _Level | None:
        """The level of `other` by its last common hour with the last piece, which must not be long before `before`."""
        ours, theirs = self.last.data, other.data
        common, ours_at, theirs_at = np.intersect1d(ours[:, _END], theirs[:, _END], True, return_indices=True)
        place = int(np.searchsorted(common, before, "right")) - 1
        if place < 0 or common[place] < before - COMMON_WITHIN:
            return None
        difference = int(theirs[theirs_at[place], _CLOSE] - ours[ours_at[place], _CLOSE])
        return _Level(self.levels[self.last.contract].offset + difference, Nanos(int(common[place])))


def _chains(contracts: Sequence[ContractHours], sessions: Sequence[Session]) -> list[_Chain]:
    """The front contracts in order of time; a new chain begins where a difference is not known."""
    chains: list[_Chain] = []
    for piece in _pieces(contracts, sessions):
        level = chains[-1].next_level(piece.hours, sessions[piece.first].start_ns) if chains else None
        if level is None:
            chains.append(_Chain([], {}))
            level = _Level(0, sessions[piece.first].start_ns)
        chains[-1].pieces.append(piece)
        chains[-1].levels[piece.hours.contract] = level
    return chains


def _pieces(contracts: Sequence[ContractHours], sessions: Sequence[Session]) -> Iterator[_Piece]:
    fronts = _fronts(contracts, sessions)
    cuts = [n for n in range(len(fronts)) if n == 0 or fronts[n] != fronts[n - 1]]
    for first, after in pairwise([*cuts, len(fronts)]):
        column = fronts[first]
        if column is not None:
            yield _Piece(contracts[column], first, after - 1)


def _fronts(contracts: Sequence[ContractHours], sessions: Sequence[Session]) -> list[int | None]:
    """The place in `contracts` of each session's front; None before the first bar."""
    starts = np.array([session.start_ns for session in sessions], np.int64)
    volumes = np.zeros((len(sessions), len(contracts)), np.int64)
    for column, contract in enumerate(contracts):
        rows = _between(contract.data, starts[0], sessions[-1].end_ns)
        np.add.at(volumes[:, column], np.searchsorted(starts, rows[:, _START], "right") - 1, rows[:, _VOLUME])
    fronts: list[int | None] = []
    front: int | None = None
    for number, own in enumerate(volumes):
        before = volumes[number - 1] if number and volumes[number - 1].any() else own
        if before.any():
            front = max(front or 0, int(np.argmax(before)))
        if front is not None and own.any() and not own[front]:
            front = max(front, int(np.argmax(own)))  # after days without data, or an expiry: what trades now
        fronts.append(front)
    return fronts


@attrs.frozen(eq=False)
class _Grid:
    """The sessions of one root in columns: file span, open and close."""

    starts: Stamps
    ends: Stamps
    opens: Stamps
    closes: Stamps

    @classmethod
    def of(cls, root: str, sessions: Sequence[Session]) -> _Grid:
        hours = [session.hours_of(root) for session in sessions]
        return cls(
            starts=np.array([session.start_ns for session in sessions], np.int64),
            ends=np.array([session.end_ns for session in sessions], np.int64),
            opens=np.array([each.open_ns for each in hours], np.int64),
            closes=np.array([each.close_ns for each in hours], np.int64),
        )

    def days_of(self, hours: Rows, piece: _Piece, covered: Sequence[Span]) -> Rows:
        """A row for each of the piece's sessions that is covered from open to close and has a bar.

        As the aggregator does it: what trades after the root's close is of no session.
        """
        at = slice(piece.first, piece.last + 1)
        opens, closes = self.opens[at], self.closes[at]
        first = np.searchsorted(hours[:, _START], self.starts[at])
        after = np.searchsorted(hours[:, _START], closes)
        is_whole = [
            any(s.start <= o - o % HOUR and c <= s.end for s in covered) for o, c in zip(opens, closes, strict=True)
        ]
        has_bars = np.array(is_whole) & (after > first)
        if not has_bars.any():
            return _NO_ROWS
        first, after = first[has_bars], after[has_bars]
        ranges = np.column_stack((first, after)).ravel()
        padded = np.concatenate((hours, hours[-1:]))  # a range may end behind the last row
        return np.column_stack(
            (
                np.minimum(opens[has_bars], hours[first, _START]),
                closes[has_bars],
                hours[first, _OPEN],
                np.maximum.reduceat(padded[:, _HIGH], ranges)[::2],
                np.minimum.reduceat(padded[:, _LOW], ranges)[::2],
                hours[after - 1, _CLOSE],
                np.add.reduceat(padded[:, _VOLUME], ranges)[::2],
                np.add.reduceat(padded[:, _TRADES], ranges)[::2],
            )
        )


def _between(rows: Rows, start: int, end: int) -> Rows:
    """The rows that start in [start, end)."""
    first, after = np.searchsorted(rows[:, _START], (start, end))
    return rows[first:after]


def _expiry(contract: ContractName) -> tuple[int, int]:
    return contract.expiry.year, contract.expiry.month
