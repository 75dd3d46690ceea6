"""Prices of the simulated market: a function of seed, product and time, and of nothing else.

A price path is a sum of random piecewise-linear waves, one per time scale from 15
seconds to half a year, with amplitudes that grow like the square root of the scale
(as of a random walk) up to a month and no further (so that years away a price is
still near its level). Any moment can be asked for without walking there, which is
why history, sessions and real time always join. Only integer hashing and basic
arithmetic are used: the same prices on every machine.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt

from adapters.databento.simulated_products import (
    PRODUCTS,
    SESSION_HOURS,
    YEAR_S,
    SimulatedProduct,
    session_span,
)
from domain.instruments import ContractName
from domain.units import PRICE_SCALE, SECOND, Nanos

ANCHOR_DATE = dt.date(2024, 5, 1)
"""At the open of this session every front contract stands near its product's level."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]

_WAVES = 21
_SCALES_S = 15.0 * 2.0 ** np.arange(_WAVES)
_MONTH_S = 2.6e6
_INTRADAY = _SCALES_S <= 3_600.0
_DAY_PER_ROOT_SECOND = 1 / 620
"""Amplitude at a scale of one second that gives a day's change a standard deviation of 1."""
_SWING = np.where((_SCALES_S > 800) & (_SCALES_S < 4_000), 1.35, 1.0)
"""Extra weight of the waves of a quarter of an hour to an hour: hours that turn back on themselves."""
_UTC_HOURS = np.array([0, 3, 7, 9, 13, 14.5, 20, 22, 24], np.float64)
_LIVELINESS = np.array([0.75, 0.6, 0.9, 1.0, 1.3, 1.4, 1.2, 0.8, 0.75])
"""How strongly intraday waves swing at each hour (UTC): quiet in Asia, lively in New York."""


class SimulatedPrices:
    """The price paths of one seed."""

    def __init__(self, seed: int) -> None:
        shape = (len(PRODUCTS), _WAVES)
        words = np.random.SeedSequence([seed, 1]).generate_state(2 * shape[0] * shape[1], np.uint64)
        self._keys: WordArray = words[: shape[0] * shape[1]].astype(np.uint64).reshape(shape)
        # Shifted against each other, or the turning points of all waves would fall on the same moments.
        self._phases = (words[shape[0] * shape[1] :].reshape(shape) >> np.uint64(11)) / float(1 << 53)
        volatility = np.array([product.daily_volatility for product in PRODUCTS])
        growth = np.sqrt(np.minimum(_SCALES_S, _MONTH_S)) * _DAY_PER_ROOT_SECOND * _SWING
        self._amplitudes = volatility[:, np.newaxis] * growth
        anchor_ns = session_span(ANCHOR_DATE)[0]
        self._anchors = self._waves_at(anchor_ns)

    def path(
        self, product: SimulatedProduct, contract: ContractName, stamps: IntArray, clock_s: FloatArray
    ) -> FloatArray:
        """Prices (quote currency) of `contract` at `stamps` (UTC nanoseconds, ascending).

        `clock_s` is the price clock at each stamp: `wall_clock_s`, or seconds of trading
        from `session_clock_s`, in which nothing happens while the market is closed.
        """
        liveliness = _liveliness(stamps / SECOND)
        total = np.full(len(stamps), -self._anchors[product.index])
        for wave in range(_WAVES):
            places = clock_s / _SCALES_S[wave] + self._phases[product.index, wave]
            swing = self._swing(product.index, wave, places)
            total += swing * liveliness if _INTRADAY[wave] else swing
        decay = product.carry * (stamps - stamps[0]) / SECOND / YEAR_S
        premiums = product.premium(contract, Nanos(int(stamps[0]))) - decay
        return np.asarray(_grown(product.level, total) * premiums)

    def spots_at(self, ts: Nanos) -> FloatArray:
        """Every product's price at `ts` by the wall clock, in table order, before any contract's premium."""
        levels = np.array([product.level for product in PRODUCTS])
        return _grown(levels, self._waves_at(ts) - self._anchors)

    def _swing(self, product_index: int, wave: int, places: FloatArray) -> FloatArray:
        """One wave of one product at ascending `places`, counted in its scale."""
        key, floors = self._keys[product_index, wave], np.floor(places)
        knots = floors.astype(np.int64)
        if knots[-1] - knots[0] < len(places):
            values = _noise(key, np.arange(knots[0], knots[-1] + 2))
            left, right = values[knots - knots[0]], values[knots - knots[0] + 1]
        else:  # sparse samples of a fine wave: most of its knots are never asked for
            left, right = _noise(key, knots), _noise(key, knots + 1)
        return np.asarray((left + (right - left) * (places - floors)) * self._amplitudes[product_index, wave])

    def _waves_at(self, ts: Nanos) -> FloatArray:
        """The sum of all waves of each product at one moment."""
        seconds = ts / SECOND
        places = seconds / _SCALES_S + self._phases
        floors = np.floor(places)
        knots = floors.astype(np.int64)
        share = places - floors
        left, right = _noise(self._keys, knots), _noise(self._keys, knots + 1)
        values = left + (right - left) * share
        weights = np.where(_INTRADAY, _liveliness(np.array([seconds]))[0], 1.0)
        return np.asarray((values * self._amplitudes * weights).sum(axis=1))


def wall_clock_s(stamps: IntArray) -> FloatArray:
    """The price clock of a market that never closes."""
    return stamps / SECOND


def session_clock_s(date: dt.date) -> float:
    """The price clock at the open of the session of `date`: trading time, a minute for each break.

    Without it the prices would wander on through nights and weekends and open far away.
    """
    sessions = int(np.busday_count(ANCHOR_DATE, date))
    return session_span(ANCHOR_DATE)[0] / SECOND + sessions * (SESSION_HOURS * 3_600 + 60)


def ticks_of(product: SimulatedProduct, prices: FloatArray) -> FloatArray:
    """Prices in the product's ticks, not rounded."""
    return prices * (PRICE_SCALE / product.tick_size)


def _liveliness(seconds: FloatArray) -> FloatArray:
    return np.asarray(np.interp(seconds % 86_400 / 3_600, _UTC_HOURS, _LIVELINESS))


def _grown(level: float | FloatArray, change: FloatArray) -> FloatArray:
    """`level * e**change` to third order: positive for any change here, equal on every processor."""
    return np.asarray(level * (1 + change * (1 + change * (0.5 + change / 6))))


def _noise(key: WordArray | np.uint64, knots: IntArray) -> FloatArray:
    """A fixed, nearly normal number (mean 0, deviation 1) for each knot: splitmix64, four words summed."""
    with np.errstate(over="ignore"):
        mixed = key + knots.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    word = np.uint64(0xFFFF)
    total = sum((mixed >> np.uint64(shift)) & word for shift in (0, 16, 32, 48))
    # The sum of four even numbers below 2**16: mean 2 * 65535, deviation sqrt(4 / 12) * 65536.
    return (np.asarray(total, np.float64) - 131_070.0) / 37_837.2
