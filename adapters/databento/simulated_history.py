"""Bars of the simulated market before a session: what a strategy warms up with.

Bars are samples of the same price paths that the sessions trade on, so history
joins the first trade. Each bar's prices are those of the contract it names,
unadjusted; the differences at the rolls are given beside them.
"""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import attrs
import numpy as np
import numpy.typing as npt

from adapters.databento.simulated_prices import (
    FloatArray,
    IntArray,
    SimulatedPrices,
    session_clock_s,
    ticks_of,
    wall_clock_s,
)
from adapters.databento.simulated_products import (
    SESSION_HOURS,
    SimulatedProduct,
    session_span,
    sessions_before,
)
from domain.instruments import ContractName
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price

HOUR_SESSIONS = 61
"""Three months: 1,403 hour bars."""
DAY_SESSIONS = 504
"""Two years of day bars."""
_HOUR_STEP = Nanos(2 * MINUTE)
_DAY_STEP = Nanos(20 * MINUTE)
_MEAN_SIZE = 1.8


@attrs.frozen(kw_only=True, eq=False)
class BarColumns:
    """Bars in columns of equal length, ascending. Stamps UTC nanoseconds, prices 1e-9."""

    ts_start: IntArray
    """Inclusive."""
    ts_end: IntArray
    """Exclusive: the bar's close time."""
    open: IntArray
    high: IntArray
    low: IntArray
    close: IntArray
    volume: IntArray
    trades: IntArray
    contract: tuple[str, ...]
    """The raw symbol (`MHGK4`) whose prices these are."""


@attrs.frozen(kw_only=True)
class ContractChange:
    """A roll: at the open of a session the root moved from one contract to the next."""

    session: dt.date
    old: str
    new: str
    last_common_ns: Nanos
    """End of the last minute before the roll, in which both traded."""
    difference: Price
    """Price of `new` less price of `old` then: add it to older bars to adjust them."""


@attrs.frozen(kw_only=True, eq=False)
class RootHistory:
    """What came before a session, for one root."""

    root: str
    product: str
    hours: BarColumns
    """On the session's grid, 17:00 to 16:00 Chicago: 23 bars a session."""
    days: BarColumns
    """One bar per session."""
    rolls: tuple[ContractChange, ...]
    """Rolls inside the two years, in order, the one at the open of the coming session included."""


def simulated_history(
    prices: SimulatedPrices,
    product: SimulatedProduct,
    before: dt.date,
    trades_per_session: float,
    *,
    round_the_clock: bool,
) -> RootHistory:
    """The history of `product` up to the open of the session of `before`."""
    market = _Paths(prices=prices, product=product, round_the_clock=round_the_clock)
    dates = sessions_before(before, DAY_SESSIONS)
    fronts = [product.contracts(date)[0] for date in dates]
    recent = len(dates) - HOUR_SESSIONS
    hours = _bars(market, dates[recent:], fronts[recent:], bars=SESSION_HOURS, step=_HOUR_STEP)
    older = _bars(market, dates[:recent], fronts[:recent], bars=1, step=_DAY_STEP)
    days = [np.concatenate(pair) for pair in zip(older, _daily(hours), strict=True)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([before.toordinal(), product.index])))
    hour_names = tuple(front.raw_symbol for front in fronts[recent:] for _ in range(SESSION_HOURS))
    return RootHistory(
        root=product.root,
        product=product.product,
        hours=_columns(hours, hour_names, rng, trades_per_session / SESSION_HOURS),
        days=_columns(days, tuple(front.raw_symbol for front in fronts), rng, trades_per_session),
        rolls=_rolls(market, [*dates, before]),
    )


@attrs.frozen(kw_only=True, eq=False)
class _Paths:
    """One product's prices, by the clock that the trades after the history will follow."""

    prices: SimulatedPrices
    product: SimulatedProduct
    round_the_clock: bool

    def ticks(self, contract: ContractName, dates: list[dt.date], offsets: IntArray) -> IntArray:
        """Prices in ticks at `offsets` (nanoseconds from the open, ascending) of each session: a row per session."""
        opens = np.array([session_span(date)[0] for date in dates])
        stamps = opens[:, np.newaxis] + offsets
        clock_s = wall_clock_s(stamps)
        if not self.round_the_clock:
            clock_s = np.array([session_clock_s(date) for date in dates])[:, np.newaxis] + offsets / SECOND
        path = self.prices.path(self.product, contract, stamps.reshape(-1), clock_s.reshape(-1))
        return np.round(ticks_of(self.product, path)).astype(np.int64).reshape(stamps.shape)


def _bars(
    market: _Paths, dates: list[dt.date], fronts: list[ContractName], *, bars: int, step: Nanos
) -> list[IntArray]:
    """Start, end, open, high, low and close of `bars` equal bars in each session."""
    length = SESSION_HOURS * HOUR // bars
    points = length // step
    offsets = np.arange(SESSION_HOURS * HOUR // step + 1) * step
    rows = [market.ticks(fronts[first], dates[first:last], offsets) for first, last in _runs(fronts)]
    # Each bar also has its end among its samples: its close is where the next one opens.
    members = np.arange(bars)[:, np.newaxis] * points + np.arange(points + 1)
    prices = np.concatenate(rows)[:, members].reshape(-1, points + 1) * market.product.tick_size
    opens = np.array([session_span(date)[0] for date in dates])
    starts = (opens[:, np.newaxis] + np.arange(bars) * length).reshape(-1)
    return [starts, starts + length, prices[:, 0], prices.max(axis=1), prices.min(axis=1), prices[:, -1]]


def _runs(fronts: list[ContractName]) -> list[tuple[int, int]]:
    """Ranges of consecutive sessions with the same front contract."""
    cuts = [i for i in range(1, len(fronts)) if fronts[i] != fronts[i - 1]]
    return list(zip([0, *cuts], [*cuts, len(fronts)], strict=True))


def _daily(hours: list[IntArray]) -> list[IntArray]:
    """Day bars folded from hour bars, so that both tell the same story."""
    starts, ends, opens, highs, lows, closes = (column.reshape(-1, SESSION_HOURS) for column in hours)
    return [starts[:, 0], ends[:, -1], opens[:, 0], highs.max(axis=1), lows.min(axis=1), closes[:, -1]]


def _columns(
    bars: list[IntArray], contracts: tuple[str, ...], rng: np.random.Generator, trades_per_bar: float
) -> BarColumns:
    starts, ends, opens, highs, lows, closes = bars
    activity: FloatArray = trades_per_bar * rng.lognormal(-0.125, 0.5, len(starts))
    trades: npt.NDArray[np.int64] = np.maximum(activity, 1).astype(np.int64)
    return BarColumns(
        ts_start=starts,
        ts_end=ends,
        open=opens,
        high=highs,
        low=lows,
        close=closes,
        volume=np.ceil(trades * _MEAN_SIZE).astype(np.int64),
        trades=trades,
        contract=contracts,
    )


def _rolls(market: _Paths, dates: list[dt.date]) -> tuple[ContractChange, ...]:
    changes = []
    close = np.array([SESSION_HOURS * HOUR])
    for earlier, date in pairwise(dates):
        old, new = market.product.contracts(earlier)[0], market.product.contracts(date)[0]
        if old != new:
            ticks = [int(market.ticks(contract, [earlier], close)[0, 0]) for contract in (old, new)]
            changes.append(
                ContractChange(
                    session=date,
                    old=old.raw_symbol,
                    new=new.raw_symbol,
                    last_common_ns=session_span(earlier)[1],
                    difference=Price((ticks[1] - ticks[0]) * market.product.tick_size),
                )
            )
    return tuple(changes)
