"""What a backtest is made of and what comes out: sessions of bars in, trades and decisions out.

A `MarketSession` is one session as `live` would open it: settings and contracts, each root's bars of the
contract that it trades, and the history before them at that contract's price level. It refuses to hold
anything that was not known when the session opened, but for the session's own bars.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import attrs
import numpy as np

from domain.bars import BAR_COLUMNS, BarTable
from domain.events import RollDue, RootMemory, SessionOpened, SignalEvaluated, VetoScored
from domain.history import Rows
from domain.instruments import ContractName
from domain.orders import Intent, Order
from domain.populations import CarriedPercentile
from domain.positions import Position
from domain.units import Nanos, Price
from domain.veto import VetoModel

START, END, OPEN, HIGH, LOW, CLOSE, VOLUME, TRADES = range(len(BAR_COLUMNS))
"""Columns of `Rows`."""
PRICES = slice(OPEN, CLOSE + 1)
NO_ROWS: Rows = np.zeros((0, len(BAR_COLUMNS)), np.int64)


@attrs.frozen(kw_only=True, eq=False)
class ContractMinutes:
    """Minute bars of one contract, oldest first, one per minute with a trade."""

    root: str
    raw_symbol: str
    name: ContractName
    rows: Rows


@attrs.frozen(kw_only=True, eq=False)
class RootBars:
    """One root's bars of one session's contract, and what is known before the session."""

    minutes: Rows = NO_ROWS
    hours: Rows = NO_ROWS
    """That end in the session's file: the last one may be cut by an early close."""
    days: Rows = NO_ROWS
    """The exchange session, when it has a trade; one row at most."""
    history: tuple[BarTable, ...] = ()
    """Completed hours and days before, at the price level of the session's contract."""
    rolled_from: str | None = None
    """The contract before, when the session trades another one."""
    difference: Price | None = None
    """New price less old one, of a roll; None: not known, so the history begins anew."""
    until_ns: Nanos | None = None
    """The root's last bar ends here, inside the session: nobody knows what came after."""


@attrs.frozen(kw_only=True)
class RecordedOutcome:
    """What became of an order in a recorded session: a fill (`price` and `ts`), or its end without one."""

    known_ns: Nanos
    """The end of the first slice after it on record; of the last ones when they were recorded."""
    price: Price | None = None
    ts: Nanos | None = None
    confirmed: Price | None = None
    """What a broker has reported of the fill; what was decided since was decided on `price`."""


OrderKey = tuple[str, Intent, Nanos]
"""Root, intent and decision: what an order is known by in two runs of one session."""


@attrs.frozen(kw_only=True, eq=False)
class MarketSession:
    """One session that is to be traded."""

    opened: SessionOpened
    bars: Mapping[str, RootBars]
    """By root, reference roots too."""
    models: Mapping[str, VetoModel] = attrs.field(factory=dict)
    """By root: what `opened.models` names, as far as it is to be had."""
    rolls: tuple[RollDue, ...] = ()
    """Contracts that this session is the last one of."""
    carried: tuple[CarriedPercentile, ...] | None = None
    """Percentile populations as a journal carried them into the session; None: they go on from the session before."""
    memories: tuple[RootMemory, ...] | None = None
    """What the strategy remembers of each root as a journal carried it; None as for `carried`."""
    positions: tuple[Position, ...] = ()
    """Held when the session opened, by a journal."""
    orders: tuple[Order, ...] = ()
    """Unfinished when the session opened, by a journal whose `outcomes` are taken."""
    is_continued: bool = False
    """A journal's later segment: not an open at which a roll takes effect."""
    until_ns: Nanos | None = None
    """The end of a journal's record: what the clock alone demands later is of its next segment."""
    late: frozenset[Nanos] = frozenset()
    """Ends of the slices that a journal's session had missed: nothing is entered on them."""
    outcomes: Mapping[OrderKey, Sequence[RecordedOutcome]] | None = None
    """Of a journal's orders, repeats in order; None: fills are made from bars."""

    @property
    def date(self) -> dt.date:
        return self.opened.session.date


@attrs.frozen(kw_only=True)
class BacktestTrade:
    """One entry and its exit. Prices are fills, slippage included; times are the starts of the bars they fell in."""

    root: str
    contract: str
    session: dt.date
    side: Literal["long", "short"]
    quantity: int
    """Contracts, positive."""
    decided_ns: Nanos
    """The end of the decision bar."""
    entry_ns: Nanos
    entry_price: Price
    exit_decided_ns: Nanos
    exit_ns: Nanos
    exit_price: Price
    exit_reason: str
    """stop, target, ibs, bar_stop, auto_close, roll …"""
    pnl: Decimal
    """Net of both commissions, in the product's currency."""
    ibs: float | None
    features: tuple[str, ...] = ()
    """Names of `values`; empty without the veto."""
    values: tuple[float, ...] = ()
    """The features at the decision bar."""
    probability: float | None = None
    threshold: float | None = None


@attrs.frozen(kw_only=True)
class BacktestCosts:
    """What a fill costs besides the commission, which is the root's."""

    slippage_ticks: int = 1
    """Of the tick of the product that is read, against us, on every market fill."""


@attrs.frozen(kw_only=True)
class BacktestResult:
    """Everything a backtest found, in order of time."""

    sessions: tuple[dt.date, ...]
    """In which any of the roots has traded on the exchange, those without a trade of ours too."""
    roots: tuple[str, ...]
    trades: tuple[BacktestTrade, ...]
    """By exit."""
    decisions: tuple[SignalEvaluated | VetoScored, ...]
    """One SignalEvaluated per root and decision bar, after its VetoScored where the model was asked."""
    rolls: tuple[RollDue, ...] = ()
    percentiles: tuple[CarriedPercentile, ...] = ()
    """Populations at the end, by root and base: what a bundle that is trained on these sessions begins with."""
    unfilled: int = 0
    """Entries whose order ended without a fill."""
    held: tuple[str, ...] = ()
    """Roots whose last entry is still held where the data end: it is no trade."""
