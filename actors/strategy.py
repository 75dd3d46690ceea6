"""StrategyActor's machine: slices into the engine, its decisions out.

The engine (Backtrader's Cerebro, stepped) is built from what the journal says and from
nothing else: settings, history shifted over rolls, what was carried. It is built with
the first event after the opening ones, so that the session's rolls are known.
"""

from __future__ import annotations

import attrs
import numpy as np

from domain.bars import BAR_COLUMNS, BarTable
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import (
    ClockTicked,
    ContractRolled,
    Event,
    HistoryLoaded,
    RollDue,
    RootMemory,
    SessionOpened,
    SliceClosed,
    StateCarried,
)
from domain.populations import CarriedPercentile
from domain.ports import EngineFactory, TradingEngine
from domain.units import SECOND, Nanos

_PRICES = slice(BAR_COLUMNS.index("open"), BAR_COLUMNS.index("close") + 1)


class Strategy:
    """Implements `domain.ports.Machine` around a `TradingEngine`."""

    name = "strategy"
    kinds = frozenset(
        {
            "SessionOpened",
            "HistoryLoaded",
            "StateCarried",
            "ContractRolled",
            "RollDue",
            "RootReset",
            "SliceClosed",
            "ClockTicked",
            "RiskDecided",
            "OrderSubmitted",
            "OrderAccepted",
            "OrderRejected",
            "OrderAmbiguous",
            "OrderNotSent",
            "OrderExpired",
            "FillAssumed",
        }
    )

    def __init__(self, build_engine: EngineFactory) -> None:
        self._build_engine = build_engine
        self._opened: SessionOpened | None = None
        self._history = HistoryLoaded(tables=())
        self._carried: StateCarried | None = None
        self._rolls: list[ContractRolled] = []
        self._due: list[RollDue] = []
        self._engine: TradingEngine | None = None

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        match envelope.payload:
            case SliceClosed() as closed:
                return self._ready().step(closed, is_late=self._is_late(envelope, closed))
            case ClockTicked(ts=ts):
                return self._ready().on_clock(ts)
            case SessionOpened() as opened:
                self._opened = opened
            case HistoryLoaded() as history:
                self._history = history
            case StateCarried() as carried:
                self._carried = carried
            case ContractRolled() as rolled:
                self._rolls.append(rolled)
            case RollDue() as due:
                self._due.append(due)
            case event:
                self._ready().notify(event)
        return ()

    def next_deadline(self) -> Nanos | None:
        """The engine's (an auto-close)."""
        return None if self._engine is None else self._engine.next_deadline()

    def memories(self) -> tuple[RootMemory, ...]:
        """What the next file must go on with."""
        return self._ready().memories()

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """What the models' percentile populations have taken in, for the next file."""
        return self._ready().percentiles()

    def _is_late(self, envelope: Envelope, closed: SliceClosed) -> bool:
        return self._opened is not None and envelope.ts_ns - closed.ts > self._opened.risk.entry_freshness_s * SECOND

    def _ready(self) -> TradingEngine:
        if self._engine is None:
            if self._opened is None:
                raise OurError("the market came before SessionOpened")
            self._engine = self._build_engine(
                self._opened,
                self._carried,
                adjusted_tables(self._history.tables, self._rolls),
                (*self._rolls, *self._due),
            )
        return self._engine


def adjusted_tables(tables: tuple[BarTable, ...], rolls: list[ContractRolled]) -> tuple[BarTable, ...]:
    """History as the new contracts would show it: shifted by each roll's difference, or cut where it is unknown."""
    adjusted = []
    for table in tables:
        rolled = next((roll for roll in rolls if roll.root == table.root), None)
        if rolled is None:
            adjusted.append(table)
        elif rolled.difference is None:
            adjusted.append(attrs.evolve(table, contracts=(), data=table.data[:0]))
        else:
            data = np.array(table.data)
            data[:, _PRICES] += rolled.difference
            adjusted.append(attrs.evolve(table, contracts=(rolled.to_contract,) * len(table), data=data))
    return tuple(adjusted)
