"""The simulated market's products: levels, ticks, expiries and when each moves to its next contract.

The numbers are those of spring 2024, rounded; they make a market to test with and
are no source for contract specifications, which live in the contract map.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import attrs

from adapters.databento.symbology import Instrument
from domain.instruments import MONTH_CODES, ContractName, Expiry
from domain.sessions import EXCHANGE_ZONE, to_nanos
from domain.units import SECOND, Nanos, Price

SESSION_HOURS = 23
_OPEN = dt.time(17)
_CLOSE = dt.time(16)
_TO_MIDNIGHT = dt.timedelta(hours=7)
"""Moves 17:00, where a session begins, to midnight: the shifted date names the session."""
_SATURDAY = 5
OLD_CONTRACT_DAYS = 5
"""Calendar days that a contract goes on trading after its product has rolled out of it."""
YEAR_S = 365.25 * 86_400


@attrs.frozen(kw_only=True)
class SimulatedProduct:
    """One product of the simulated universe."""

    index: int
    """Its place in the table: part of every seed and instrument id, so the table only grows at its end."""
    root: str
    product: str
    level: float
    """Price of the front contract when the session of 2024-05-01 opens."""
    tick_size: Price
    months: str
    """Delivery months, CME letters."""
    roll_days: int
    """The roll is at the open of the first session on or after this many days before the delivery month."""
    daily_volatility: float
    """Standard deviation of a day's relative price change."""
    carry: float
    """Relative premium of a contract per year to its delivery (negative: backwardation)."""
    weight: float
    """Share of the market's trades."""
    is_reference: bool = False

    def contracts(self, date: dt.date) -> tuple[ContractName, ContractName]:
        """The front and the next contract of the session of `date`."""
        upcoming = self._contracts_from(date)
        front = next(contract for contract in upcoming if date < self.roll_date(contract))
        return front, next(upcoming)

    def traded_contracts(self, date: dt.date) -> tuple[ContractName, ...]:
        """Front, next and, for some days after a roll, the contract that was left."""
        front, following = self.contracts(date)
        old, _ = self.contracts(date - dt.timedelta(days=OLD_CONTRACT_DAYS))
        return (front, following) if old == front else (front, following, old)

    def roll_date(self, contract: ContractName) -> dt.date:
        """From the first session on or after this date, `contract` is no longer the front."""
        first = dt.date(contract.expiry.year, contract.expiry.month, 1)
        return first - dt.timedelta(days=self.roll_days)

    def instrument(self, contract: ContractName) -> Instrument:
        """The contract's stable instrument id (100,000 + product + months since 2000) and name."""
        months = (contract.expiry.year - 2000) * 12 + contract.expiry.month
        return Instrument(instrument_id=100_000 + self.index * 1_000 + months, raw_symbol=contract.raw_symbol)

    def premium(self, contract: ContractName, at_ns: Nanos) -> float:
        """The contract's price relative to the product's spot at `at_ns`."""
        delivery = dt.datetime(contract.expiry.year, contract.expiry.month, 15, tzinfo=dt.UTC)
        return 1.0 + self.carry * (to_nanos(delivery) - at_ns) / SECOND / YEAR_S

    def _contracts_from(self, date: dt.date) -> Iterator[ContractName]:
        year, month = date.year, date.month
        while True:
            if MONTH_CODES[month - 1] in self.months:
                yield ContractName(product=self.product, expiry=Expiry(year=year, month=month))
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)


_QUARTERS, _METALS, _GOLD, _EVERY, _PLATINUM = "HMUZ", "HKNUZ", "GJMQVZ", MONTH_CODES, "FJNV"

# root, product, level, tick in 1e-9, months, days of the roll before the delivery month,
# daily volatility, carry per year, weight, reference. Copper alone rolls at the open of 2024-05-01.
_TABLE = (
    ("ES", "MES", 5060.0, 250_000_000, _QUARTERS, -12, 0.010, 0.045, 0.200, False),
    ("NQ", "MNQ", 17_600.0, 250_000_000, _QUARTERS, -12, 0.013, 0.045, 0.240, False),
    ("RTY", "M2K", 1985.0, 100_000_000, _QUARTERS, -12, 0.014, 0.045, 0.050, False),
    ("YM", "MYM", 37_990.0, 1_000_000_000, _QUARTERS, -12, 0.009, 0.045, 0.050, False),
    ("GC", "MGC", 2310.0, 100_000_000, _GOLD, 8, 0.011, 0.050, 0.100, False),
    ("SI", "SIL", 26.6, 5_000_000, _METALS, 8, 0.020, 0.050, 0.030, False),
    ("HG", "MHG", 4.55, 500_000, _METALS, 0, 0.015, 0.025, 0.015, False),
    ("CL", "MCL", 81.0, 10_000_000, _EVERY, 18, 0.020, -0.060, 0.090, False),
    ("NG", "MNG", 1.95, 1_000_000, _EVERY, 10, 0.035, 0.250, 0.020, False),
    ("6A", "M6A", 0.6480, 100_000, _QUARTERS, -14, 0.007, 0.006, 0.015, False),
    ("6B", "M6B", 1.2500, 100_000, _QUARTERS, -14, 0.006, 0.001, 0.012, False),
    ("6E", "M6E", 1.0680, 100_000, _QUARTERS, -14, 0.006, 0.015, 0.030, False),
    ("PL", "PL", 945.0, 100_000_000, _PLATINUM, 8, 0.014, 0.040, 0.012, True),
    ("6C", "6C", 0.7270, 100_000, _QUARTERS, -14, 0.005, 0.005, 0.030, True),
    ("6J", "6J", 0.0064, 500, _QUARTERS, -14, 0.007, 0.050, 0.040, True),
    ("6M", "6M", 0.0585, 10_000, _QUARTERS, -14, 0.008, -0.060, 0.012, True),
    ("6N", "6N", 0.5890, 100_000, _QUARTERS, -14, 0.007, 0.001, 0.012, True),
    ("6S", "6S", 1.0930, 100_000, _QUARTERS, -14, 0.006, 0.040, 0.015, True),
    ("TLT", "ZB", 114.0, 31_250_000, _QUARTERS, 3, 0.008, -0.015, 0.060, True),
)

PRODUCTS = tuple(
    SimulatedProduct(
        index=index,
        root=root,
        product=product,
        level=level,
        tick_size=Price(tick),
        months=months,
        roll_days=roll_days,
        daily_volatility=volatility,
        carry=carry,
        weight=weight,
        is_reference=is_reference,
    )
    for index, (root, product, level, tick, months, roll_days, volatility, carry, weight, is_reference) in enumerate(
        _TABLE
    )
)


def simulated_tick(instrument: Instrument) -> Price:
    """The tick size of a simulated instrument, by its id."""
    return PRODUCTS[(instrument.instrument_id - 100_000) // 1_000].tick_size


def session_span(date: dt.date) -> tuple[Nanos, Nanos]:
    """Open (17:00 Chicago of the day before) and close (16:00) of a simulated session; no holidays."""
    opens = dt.datetime.combine(date - dt.timedelta(days=1), _OPEN, EXCHANGE_ZONE)
    return to_nanos(opens), to_nanos(dt.datetime.combine(date, _CLOSE, EXCHANGE_ZONE))


def session_date(ts: Nanos) -> dt.date:
    """The session that `ts` belongs to; between a close and the next open, the one that closed.

    From Friday 17:00 on it is Monday's.
    """
    local = dt.datetime.fromtimestamp(ts // SECOND, tz=EXCHANGE_ZONE).replace(tzinfo=None)
    date = (local + _TO_MIDNIGHT).date()
    return date + dt.timedelta(days=max(0, 7 - date.weekday())) if date.weekday() >= _SATURDAY else date


def is_session_date(date: dt.date) -> bool:
    """Whether a simulated session ends on `date`."""
    return date.weekday() < _SATURDAY


def sessions_before(date: dt.date, count: int) -> list[dt.date]:
    """The last `count` sessions before `date`, in order."""
    found: list[dt.date] = []
    while len(found) < count:
        date -= dt.timedelta(days=1)
        if is_session_date(date):
            found.append(date)
    return found[::-1]
