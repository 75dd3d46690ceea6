"""What a session's opening still lacks of bars, and what it takes over besides stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from domain.bars import BAR_COLUMNS, Bar, BarTable, Timeframe
from domain.events import HistoryLoaded, SessionOpened, StateCarried
from domain.features import BASES, Requirement, required_inputs
from domain.instruments import ResolvedContract, pairs_of
from domain.levels import ATR_BARS
from domain.optional_gates import gate_inputs
from domain.populations import CarriedPercentile
from domain.sessions import Session
from domain.veto import ModelRecord

ExtendHistory = Callable[
    [HistoryLoaded, Session, Sequence[ResolvedContract], Sequence[ResolvedContract]], HistoryLoaded
]
"""(what the session before left, the session, its contracts, the contracts before) -> the same with stored bars."""


def as_left(
    history: HistoryLoaded, session: Session, contracts: Sequence[ResolvedContract], before: Sequence[ResolvedContract]
) -> HistoryLoaded:
    """No stored bars: the history as it was left."""
    return history


def lacking_inputs(
    models: Sequence[ModelRecord], tables: Sequence[BarTable], pairs: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """(root, what is too short in words) of each model that the history does not suffice for."""
    for model in models:
        pair = pairs.get(model.root)
        needs = required_inputs(model.features, model.feature_set, pair=pair) if not model.refusal else ()
        if short := _short(model.root, needs, tables):
            yield model.root, short


def lacking_gates(opened: SessionOpened, tables: Sequence[BarTable]) -> Iterator[tuple[str, str]]:
    """The same of each traded root whose optional gates the history does not suffice for."""
    pairs = pairs_of(opened.roots)
    for root in opened.roots:
        needs = () if root.is_reference else gate_inputs(opened.strategy.of(root.root), pair=pairs.get(root.root))
        if short := _short(root.root, needs, tables):
            yield root.root, short


def _short(root: str, needs: Iterable[Requirement], tables: Sequence[BarTable]) -> str:
    held = {(table.root, table.timeframe): len(table) for table in tables}
    longest: dict[tuple[str, Timeframe], int] = {}
    for need in needs:
        place = (need.root or root, need.timeframe)
        longest[place] = max(longest.get(place, 0), need.bars)
    return ", ".join(
        f"{read} {timeframe}: {held.get((read, timeframe), 0)} of {bars}"
        for (read, timeframe), bars in longest.items()
        if held.get((read, timeframe), 0) < bars
    )


def lacking_bars(opened: SessionOpened, tables: Sequence[BarTable]) -> Iterator[tuple[str, str]]:
    """(root, what is too short in words) of each traded root, for its model, its gates or its warm-up."""
    yield from lacking_inputs(opened.models, tables, pairs_of(opened.roots))
    yield from lacking_gates(opened, tables)
    scored = {model.root for model in opened.models}
    for root in opened.roots:
        settings = opened.strategy.of(root.root)
        wanted = settings.warmup_bars if root.root not in scored else 0
        wanted = max(wanted, ATR_BARS if settings.uses_atr else 0)
        need = Requirement(root=None, timeframe=settings.decision_timeframe, bars=wanted)
        is_read = not root.is_reference and settings.decision_timeframe != "1m"
        if is_read and (short := _short(root.root, [need], tables)):
            yield root.root, short


def without_overtaken(carried: StateCarried, history: HistoryLoaded, left: HistoryLoaded) -> StateCarried:
    """What was carried, without what stored bars say better.

    Bars that were open when the program was away are over. A percentile population that has taken in fewer
    bars than there are now begins again from its model's and takes in these.
    """
    tables = {(table.root, table.timeframe): table for table in history.tables if len(table)}
    for table in left.tables:
        if tables.get((table.root, table.timeframe)) is table:
            del tables[table.root, table.timeframe]
    ends = {place: table.data[:, BAR_COLUMNS.index("ts_end")] for place, table in tables.items()}

    def is_over(bar: Bar, timeframe: Timeframe) -> bool:
        stored = ends.get((bar.root, timeframe))
        return stored is not None and bar.ts_end <= stored[-1]

    def is_poor(population: CarriedPercentile) -> bool:
        base = BASES.get(population.base)
        stored = None if base is None else ends.get((population.root, base.timeframe))
        return stored is not None and population.added_count < int((stored <= population.through_ns).sum())

    return attrs.evolve(
        carried,
        open_hours=tuple(bar for bar in carried.open_hours if not is_over(bar, "1h")),
        open_days=tuple(bar for bar in carried.open_days if not is_over(bar, "1d")),
        percentiles=tuple(population for population in carried.percentiles if not is_poor(population)),
    )
