"""A seeded market: the trades of whole sessions, and of any moment round the clock.

Everything is a function of the seed, the product and the date: no state, no clock,
no order of calls. It imitates the shape of a real feed (bursts, fills that share a
stamp, repeated and late records, silence) and makes no claim about real prices.
"""

from __future__ import annotations

import datetime as dt

import attrs
import numpy as np
import numpy.typing as npt

from adapters.databento.simulated_history import RootHistory, simulated_history
from adapters.databento.simulated_prices import FloatArray, IntArray, SimulatedPrices, session_clock_s, ticks_of
from adapters.databento.simulated_products import (
    PRODUCTS,
    SESSION_HOURS,
    SimulatedProduct,
    is_session_date,
    session_date,
    session_span,
)
from adapters.databento.symbology import Instrument
from domain.errors import OperatorError
from domain.instruments import ContractName, parse_contract
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray, empty_trades
from domain.units import MINUTE, SECOND, Nanos, floor_to

DATASET = "GLBX.MDP3"
TRADES_PER_SESSION = 300_000
FILLS_PER_EVENT = 2.2
"""Mean number of records that one aggressive order leaves."""

_SESSION_S = SESSION_HOURS * 3_600
_CELL_S = 10
_CELLS = _SESSION_S // _CELL_S
_CELLS_PER_MINUTE = 6
_PATH_STEP_S = 5
_QUIET_WEIGHT = 0.02
"""Products with a smaller share of the trades also have holes of several minutes."""
_NEXT_SHARE, _OLD_SHARE = 0.04, 0.10
_LAST_EVENT = 50_000_000
_LATENCY_LIMIT = 40_000_000
"""Nanoseconds: the last event before the close is at -50 ms, so that even its ts_recv is inside."""
_REPEATED_SHARE = 2e-4

# First numbers of the seeds, so that no two uses of one seed share a stream of random numbers.
_STREAM_SESSION, _STREAM_SILENCE, _STREAM_SEQUENCE, _STREAM_CLOCK = 2, 3, 4, 5


@attrs.frozen(kw_only=True)
class _Listing:
    """A contract that trades in a session, and its share of the product's trades."""

    product: SimulatedProduct
    contract: ContractName
    share: float


@attrs.frozen(kw_only=True, eq=False)
class _Events:
    """Aggressive orders of one contract: one row each, before their fills are written out."""

    stamps: IntArray
    ticks: FloatArray
    """The mid price in ticks, not rounded."""
    fills: IntArray


class SimulatedMarket:
    """The market of one seed. Safe to use from several threads: it keeps no state."""

    dataset = DATASET

    def __init__(self, seed: int, *, trades_per_session: int = TRADES_PER_SESSION) -> None:
        """A market of about `trades_per_session` records per session, all products together."""
        if seed < 0:
            raise OperatorError(f"seed {seed} is negative", where="--seed", fix="give 0 or more", exit_code=2)
        self.seed = seed
        self.trades_per_session = trades_per_session
        self._prices = SimulatedPrices(seed)
        self._total_weight = sum(product.weight for product in PRODUCTS)

    def session_trades(self, date: dt.date) -> TradeArray:
        """All trades of the session that ends on `date`, sorted by ts_recv.

        Raises OperatorError (exit code 2) when no session ends on that date.
        """
        _require_session(date)
        silence = _cells_of_silence(self._rng(_STREAM_SILENCE, date.toordinal()))
        parts = []
        for product in PRODUCTS:
            for listing in _listings(product, date):
                instrument = product.instrument(listing.contract)
                rng = self._rng(_STREAM_SESSION, date.toordinal(), instrument.instrument_id)
                events = self._session_events(rng, listing, date, silence)
                parts.append(_records(rng, product, instrument, events))
        return self._sequenced(np.concatenate(parts), self._rng(_STREAM_SEQUENCE, date.toordinal()))

    def trades_between(self, start_ns: Nanos, end_ns: Nanos) -> TradeArray:
        """Trades with ts_recv from `start_ns` to `end_ns` (exclusive), any day and hour, at constant intensity.

        Made minute by minute, so the cost is that of the minutes touched.
        """
        minutes = range(floor_to(start_ns, MINUTE), end_ns, MINUTE)
        parts = [self._minute_trades(Nanos(minute)) for minute in minutes]
        trades = np.concatenate(parts) if parts else empty_trades()
        first, last = np.searchsorted(trades["ts_recv"], np.array([start_ns, end_ns], np.uint64))
        return trades[first:last]

    def history(self, before: dt.date, *, round_the_clock: bool = False) -> tuple[RootHistory, ...]:
        """Hour bars of three months and day bars of two years up to the session of `before`, per root.

        They join the prices of `session_trades`, or with `round_the_clock` those of `trades_between`.
        Raises OperatorError (exit code 2) when no session ends on that date.
        """
        _require_session(before)
        return tuple(
            simulated_history(self._prices, product, before, self._trades_of(product), round_the_clock=round_the_clock)
            for product in PRODUCTS
        )

    def continuous(self, symbol: str, at_ns: Nanos) -> Instrument | None:
        """The contract that `MES.v.0` (v, n or c; rank 0 or 1) means at `at_ns`; None when unknown.

        A roll takes effect at the open of a session, never inside one.
        """
        parts = symbol.split(".")
        product = _PRODUCTS_BY_NAME.get(parts[0])
        if product is None or len(parts) != 3 or parts[1] not in ("v", "n", "c") or parts[2] not in ("0", "1"):
            return None
        return product.instrument(product.contracts(session_date(at_ns))[int(parts[2])])

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        """The instruments that a symbol of any supported type means at `at_ns`; empty when unknown."""
        if stype_in == "continuous":
            found = self.continuous(symbol, at_ns)
            return () if found is None else (found,)
        date = session_date(at_ns)
        if stype_in == "parent":
            parent = _PRODUCTS_BY_NAME.get(symbol.removesuffix(".FUT")) if symbol.endswith(".FUT") else None
            return () if parent is None else _traded(parent, date)
        traded = tuple(instrument for product in PRODUCTS for instrument in _traded(product, date))
        if stype_in == "instrument_id":
            return tuple(i for i in traded if str(i.instrument_id) == symbol)
        if stype_in != "raw_symbol":
            return ()
        if symbol == "ALL_SYMBOLS":
            return traded
        name = parse_contract(symbol, _PRODUCTS_BY_NAME, date)
        return () if name is None else tuple(i for i in traded if i.raw_symbol == name.raw_symbol)

    def _rng(self, *words: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *words])))

    def _trades_of(self, product: SimulatedProduct) -> float:
        """Expected trades of a product's session."""
        return self.trades_per_session * product.weight / self._total_weight

    def _session_events(
        self, rng: np.random.Generator, listing: _Listing, date: dt.date, silence: npt.NDArray[np.bool_]
    ) -> _Events:
        """The orders of one contract in one session."""
        product = listing.product
        fills = _fills(rng, max(4, int(self._trades_of(product) * listing.share)))
        closed = silence | _holes(rng) if product.weight < _QUIET_WEIGHT else silence
        offsets = np.sort(_event_offsets(rng, len(fills), closed))
        is_open = ~closed[offsets // (_CELL_S * SECOND)]
        start_ns, _ = session_span(date)
        stamps, fills = start_ns + offsets[is_open], fills[is_open]
        steps = np.arange(0, _SESSION_S + 1, _PATH_STEP_S)
        clock_s = np.asarray(session_clock_s(date) + steps, np.float64)
        grid = start_ns + steps * SECOND
        mids = np.interp(stamps, grid, self._prices.path(product, listing.contract, grid, clock_s))
        return _Events(stamps=stamps, ticks=ticks_of(product, mids), fills=fills)

    def _minute_trades(self, minute_ns: Nanos) -> TradeArray:
        """The trades received in one minute round the clock."""
        rng = self._rng(_STREAM_CLOCK, minute_ns // MINUTE)
        date = session_date(minute_ns)
        spots = np.stack([self._prices.spots_at(minute_ns), self._prices.spots_at(Nanos(minute_ns + MINUTE))])
        parts = []
        for product in PRODUCTS:
            front, following = product.contracts(date)
            rate = self._trades_of(product) / FILLS_PER_EVENT / _SESSION_S * 60
            for contract, share in ((front, 1 - _NEXT_SHARE), (following, _NEXT_SHARE)):
                count = int(rng.poisson(rate * share))
                if count:
                    # Received inside the minute even with the longest latency, so that minutes do not overlap.
                    stamps = minute_ns + np.sort(rng.integers(0, MINUTE - _LAST_EVENT, count))
                    mids = spots[0, product.index] + np.diff(spots[:, product.index]) * (stamps - minute_ns) / MINUTE
                    ticks = ticks_of(product, mids * product.premium(contract, minute_ns))
                    events = _Events(stamps=stamps, ticks=ticks, fills=rng.geometric(1 / FILLS_PER_EVENT, count))
                    parts.append(_records(rng, product, product.instrument(contract), events))
        if not parts:
            return empty_trades()
        return self._sequenced(np.concatenate(parts), rng, first=minute_ns // MINUTE % 100_000 * 40_000)

    def _sequenced(self, trades: TradeArray, rng: np.random.Generator, first: int = 0) -> TradeArray:
        """Sorted by arrival, numbered, and with a few records repeated byte for byte."""
        trades = trades[np.argsort(trades["ts_recv"], kind="stable")]
        numbers = first + np.cumsum(rng.integers(1, 9, len(trades)))
        trades["sequence"] = (numbers % 2**32).astype(np.uint32)
        repeats = 1 + (rng.random(len(trades)) < _REPEATED_SHARE)
        return np.repeat(trades, repeats)


_PRODUCTS_BY_NAME = {product.product: product for product in PRODUCTS}


def session_dates(first: dt.date, count: int) -> tuple[dt.date, ...]:
    """`count` consecutive sessions from `first`, weekends skipped. OperatorError for a weekend's date."""
    _require_session(first)
    days = (first + dt.timedelta(days=offset) for offset in range(2 * count + 2))
    return tuple(day for day in days if is_session_date(day))[:count]


def _require_session(date: dt.date) -> None:
    if not is_session_date(date):
        raise OperatorError(
            f"no session ends on {date}, a {date:%A}", where="--session", fix="give a weekday", exit_code=2
        )


def _traded(product: SimulatedProduct, date: dt.date) -> tuple[Instrument, ...]:
    return tuple(product.instrument(contract) for contract in product.traded_contracts(date))


def _listings(product: SimulatedProduct, date: dt.date) -> list[_Listing]:
    """The contracts that trade; the one that was left only exists for some days after a roll."""
    shares = (1 - _NEXT_SHARE, _NEXT_SHARE, _OLD_SHARE)
    pairs = zip(product.traded_contracts(date), shares, strict=False)
    return [_Listing(product=product, contract=contract, share=share) for contract, share in pairs]


def _fills(rng: np.random.Generator, trades: int) -> IntArray:
    """Fills of each event, about `trades` in all."""
    return np.asarray(rng.geometric(1 / FILLS_PER_EVENT, max(1, round(trades / FILLS_PER_EVENT))), np.int64)


def _cells_of_silence(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Where no product trades at all: one stretch of three to five minutes in the Asian hours."""
    cells = np.zeros(_CELLS, np.bool_)
    first = int(rng.integers(3 * 360, 7 * 360))
    cells[first : first + int(rng.integers(18, 31))] = True
    return cells


def _holes(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Where a quiet product does not trade: some stretches of three to twelve minutes."""
    cells = np.zeros(_CELLS, np.bool_)
    for first in rng.integers(360, _CELLS - 360, int(rng.integers(4, 9))):
        cells[first : first + int(rng.integers(18, 73))] = True
    return cells


def _event_offsets(rng: np.random.Generator, count: int, closed: npt.NDArray[np.bool_]) -> IntArray:
    """Nanoseconds after the open of `count` events: parents by the day's intensity, children in bursts."""
    minutes = rng.gamma(3.0, 1 / 3, _CELLS // _CELLS_PER_MINUTE)
    rates = _INTENSITY * np.repeat(minutes, _CELLS_PER_MINUTE) * rng.gamma(2.0, 0.5, _CELLS)
    rates[closed] = 0.0
    reached = np.concatenate([[0.0], np.cumsum(rates)])
    parents = np.interp(rng.random(count // 2 + 1) * reached[-1], reached, np.arange(_CELLS + 1) * float(_CELL_S))
    seconds = parents[rng.integers(0, len(parents), count)] + rng.exponential(0.15, count)
    offsets = (seconds * SECOND).astype(np.int64)
    return np.asarray(np.minimum(offsets, _SESSION_S * SECOND - _LAST_EVENT))


def _day_shape() -> FloatArray:
    """Intensity per cell: quiet in Asia, peaks at the open, London, New York, the cash close and the end."""
    hours = (np.arange(_CELLS) + 0.5) * _CELL_S / 3_600
    shape = 0.25 + 1.5 * np.exp(-hours / 0.1)
    for centre, width, height in ((9.5, 1.2, 0.35), (15.6, 0.7, 2.2), (18.0, 2.5, 1.0), (21.9, 0.15, 1.2)):
        shape += height * np.exp(-(((hours - centre) / width) ** 2))
    shape[-3:] += 4.0
    return shape


_INTENSITY = _day_shape()


def _records(
    rng: np.random.Generator, product: SimulatedProduct, instrument: Instrument, events: _Events
) -> TradeArray:
    """Events written out as fills. `sequence` is left to whoever merges the contracts."""
    count = len(events.stamps)
    row = np.repeat(np.arange(count), events.fills)
    within = np.arange(len(row)) - np.repeat(np.cumsum(events.fills) - events.fills, events.fills)
    is_buy = rng.random(count) < 0.5
    # A buyer pays the tick above the mid, a seller gets the one below; large orders walk through the book.
    walk = np.where(is_buy[row], 1, -1) * (within // 4)
    ticks = np.floor(events.ticks).astype(np.int64)[row] + is_buy[row] + walk
    latency = 30_000 + rng.lognormal(10.8, 0.9, count)
    latency = np.where(rng.random(count) < 1e-3, latency * 50, latency)
    received = events.stamps + np.minimum(latency, _LATENCY_LIMIT).astype(np.int64)
    trades = np.zeros(len(row), TRADE_DTYPE)
    trades["length"] = TRADE_LENGTH_WORDS
    trades["publisher_id"] = 1
    trades["instrument_id"] = instrument.instrument_id
    trades["ts_event"] = events.stamps[row]
    trades["price"] = np.maximum(ticks, 1) * product.tick_size
    trades["size"] = np.minimum(rng.geometric(0.55, len(row)), 200)
    trades["action"] = b"T"
    trades["side"] = np.where(is_buy, b"B", b"A")[row]
    trades["side"][rng.random(len(row)) < 2e-3] = b"N"
    trades["ts_recv"] = received[row]
    trades["ts_in_delta"] = rng.integers(12_500, 19_000, count)[row]
    return trades
