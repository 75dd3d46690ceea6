"""What a session's opening still lacks of bars, and what it takes over besides stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from domain.bars import BAR_COLUMNS, Bar, BarTable, Timeframe
from domain.events import HistoryLoaded, SessionOpened, StateCarried
from domain.feature_book import CarriedPercentile
from domain.features import BASES, required_inputs
from domain.instruments import ResolvedContract, pairs_of
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
    held = {(table.root, table.timeframe): len(table) for table in tables}
    for model in models:
        needs: dict[tuple[str, Timeframe], int] = {}
        pair = pairs.get(model.root)
        for need in required_inputs(model.features, model.feature_set, pair=pair) if not model.refusal else ():
            place = (need.root or model.root, need.timeframe)
            needs[place] = max(needs.get(place, 0), need.bars)
        short = [
            f"{root} {timeframe}: {held.get((root, timeframe), 0)} of {bars}"
            for (root, timeframe), bars in needs.items()
            if held.get((root, timeframe), 0) < bars
        ]
        if short:
            yield model.root, ", ".join(short)


def lacking_bars(opened: SessionOpened, tables: Sequence[BarTable]) -> Iterator[tuple[str, str]]:
    """(root, what is too short in words) of each traded root, for its model or for its warm-up."""
    held = {(table.root, table.timeframe): len(table) for table in tables}
    yield from lacking_inputs(opened.models, tables, pairs_of(opened.roots))
    wanted, timeframe = opened.strategy.warmup_bars, opened.strategy.decision_timeframe
    for root in opened.roots if timeframe != "1m" and not opened.models else ():
        if not root.is_reference and held.get((root.root, timeframe), 0) < wanted:
            yield root.root, f"{root.root} {timeframe}: {held.get((root.root, timeframe), 0)} of {wanted}"


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
