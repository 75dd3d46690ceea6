"""The simulated market's history as the session's own: adjusted bars of the contract it left off with."""

from __future__ import annotations

import datetime as dt

import numpy as np

from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.simulated_history import BarColumns, ContractChange
from domain.bars import BAR_COLUMNS, BarTable, Timeframe
from domain.events import HistoryLoaded
from domain.rolls import RollSeam

_PRICES = tuple(BAR_COLUMNS.index(name) for name in ("open", "high", "low", "close"))


def demo_history(market: SimulatedMarket, session: dt.date) -> HistoryLoaded:
    """Two years of day bars and three months of hour bars before `session`.

    Older contracts are shifted to the last one; a roll at the session's own open is a seam,
    for the RollSupervisor to act on.
    """
    tables: list[BarTable] = []
    seams: list[RollSeam] = []
    for root in market.history(session):
        at_open = [change for change in root.rolls if change.session == session]
        before = [change for change in root.rolls if change.session < session]
        tables += (_table(root.root, "1h", root.hours, before), _table(root.root, "1d", root.days, before))
        seams += (
            RollSeam(
                root=root.root,
                from_contract=change.old,
                to_contract=change.new,
                ts=change.last_common_ns,
                difference=change.difference,
            )
            for change in at_open
        )
    return HistoryLoaded(tables=tuple(tables), seams=tuple(seams), source="simulated market")


def _table(root: str, timeframe: Timeframe, bars: BarColumns, rolls: list[ContractChange]) -> BarTable:
    data = np.column_stack([getattr(bars, name) for name in BAR_COLUMNS]).astype(np.int64)
    ends = data[:, BAR_COLUMNS.index("ts_end")]
    for roll in rolls:
        older = ends <= roll.last_common_ns
        for column in _PRICES:
            data[older, column] += roll.difference
    last = bars.contract[-1] if bars.contract else ""
    return BarTable(root=root, timeframe=timeframe, contracts=(last,) * len(data), data=data)
