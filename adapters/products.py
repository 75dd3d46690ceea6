"""The products this system knows: contract sizes and ticks as the exchange publishes them.

Data, not code: one line per product and change, dated, never "a tenth of the full size" (SIL is a fifth of
SI). Each line states the tick's value too, and `tick x multiplier = tick value` is checked
when the module is imported, so that a slip in one number cannot pass. Source: CME Group's
contract specification pages. Margins change too often to
stand here; a contract map may state them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

import attrs

from domain.errors import OurError
from domain.instruments import ContractSpec, DatedSpec, TradedRoot, spec_on
from domain.units import decimal_to_price

EQUITY_CALENDAR = "CME Globex Equity"
METALS_CALENDAR = "CMEGlobex_Metals"
ENERGY_CALENDAR = "CMEGlobex_EnergyAndMetals"
FX_CALENDAR = "CMEGlobex_FX"
RATES_CALENDAR = "CME Globex Interest Rate Products"
CALENDARS = (EQUITY_CALENDAR, METALS_CALENDAR, ENERGY_CALENDAR, FX_CALENDAR, RATES_CALENDAR)
"""Names of pandas_market_calendars."""
VERIFIED_CALENDARS = frozenset({EQUITY_CALENDAR})
"""Checked on 50 dates of 2023 to 2027; of the others only single dates are known (calendar.py)."""


@attrs.frozen(kw_only=True)
class Product:
    """One product of the exchange and the root under which the strategy knows it."""

    code: str
    root: str
    description: str
    specs: tuple[DatedSpec, ...]
    """Oldest first."""

    @property
    def spec(self) -> ContractSpec:
        """The one that holds today."""
        return self.specs[-1].spec


_ROWS = """
ES   ES   -           0.25       50        12.5    equity  E-mini S&P 500 (CME)
MES  ES   2019-05-06  0.25       5         1.25    equity  Micro E-mini S&P 500 (CME)
NQ   NQ   -           0.25       20        5       equity  E-mini Nasdaq-100 (CME)
MNQ  NQ   2019-05-06  0.25       2         0.5     equity  Micro E-mini Nasdaq-100 (CME)
RTY  RTY  -           0.1        50        5       equity  E-mini Russell 2000 (CME)
M2K  RTY  2019-05-06  0.1        5         0.5     equity  Micro E-mini Russell 2000 (CME)
YM   YM   -           1          5         5       equity  E-mini Dow $5 (CBOT)
MYM  YM   2019-05-06  1          0.5       0.5     equity  Micro E-mini Dow $0.50 (CBOT)
GC   GC   -           0.1        100       10      metals  Gold (COMEX)
MGC  GC   -           0.1        10        1       metals  Micro Gold (COMEX)
SI   SI   -           0.005      5000      25      metals  Silver (COMEX)
SIL  SI   -           0.005      1000      5       metals  Micro Silver, 1,000 oz (COMEX)
HG   HG   -           0.0005     25000     12.5    metals  Copper (COMEX)
MHG  HG   -           0.0005     2500      1.25    metals  Micro Copper (COMEX)
QC   HG   -           0.002      12500     25      metals  E-mini Copper (COMEX)
CL   CL   -           0.01       1000      10      energy  Crude Oil (NYMEX)
MCL  CL   2021-07-12  0.01       100       1       energy  Micro WTI Crude Oil (NYMEX)
NG   NG   -           0.001      10000     10      energy  Henry Hub Natural Gas (NYMEX)
MNG  NG   -           0.001      1000      1       energy  Micro Henry Hub Natural Gas (NYMEX)
QG   NG   -           0.005      2500      12.5    energy  E-mini Natural Gas (NYMEX)
6A   6A   -           0.0001     100000    10      fx      Australian Dollar (CME)
6A   6A   2020-11-23  0.00005    100000    5       fx      Australian Dollar (CME)
M6A  6A   -           0.0001     10000     1       fx      Micro Australian Dollar (CME)
6B   6B   -           0.0001     62500     6.25    fx      British Pound (CME)
M6B  6B   -           0.0001     6250      0.625   fx      Micro British Pound (CME)
6E   6E   -           0.0001     125000    12.5    fx      Euro FX (CME)
6E   6E   2016-01-11  0.00005    125000    6.25    fx      Euro FX (CME)
M6E  6E   -           0.0001     12500     1.25    fx      Micro Euro FX (CME)
PL   PL   -           0.1        50        5       metals  Platinum (NYMEX)
6C   6C   -           0.0001     100000    10      fx      Canadian Dollar (CME)
6C   6C   2016-07-11  0.00005    100000    5       fx      Canadian Dollar (CME)
6J   6J   -           0.0000005  12500000  6.25    fx      Japanese Yen (CME)
6M   6M   -           0.00001    500000    5       fx      Mexican Peso (CME)
6N   6N   -           0.0001     100000    10      fx      New Zealand Dollar (CME)
6N   6N   2021-08-16  0.00005    100000    5       fx      New Zealand Dollar (CME)
6S   6S   -           0.0001     125000    12.5    fx      Swiss Franc (CME)
6S   6S   2022-05-02  0.00005    125000    6.25    fx      Swiss Franc (CME)
ZB   TLT  -           0.03125    1000      31.25   rates   U.S. Treasury Bond (CBOT)
"""
"""code, root, first session (`-`: as far back as we look), tick size, multiplier, tick value, calendar, description.

The first of a product is its launch, where it is known; a later line is what the exchange changed.
"""

_CALENDAR_OF = {
    "equity": EQUITY_CALENDAR,
    "metals": METALS_CALENDAR,
    "energy": ENERGY_CALENDAR,
    "fx": FX_CALENDAR,
    "rates": RATES_CALENDAR,
}


def _products(rows: Sequence[str]) -> dict[str, Product]:
    found: dict[str, Product] = {}
    for row in rows:
        code, root, first, tick, multiplier, tick_value, calendar, description = row.split(maxsplit=7)
        spec = ContractSpec(
            tick_size=decimal_to_price(Decimal(tick)),
            multiplier=Decimal(multiplier),
            currency="USD",
            exchange_calendar=_CALENDAR_OF[calendar],
        )
        if spec.tick_value != Decimal(tick_value):
            raise OurError(f"{code}: tick {tick} x multiplier {multiplier} is not {tick_value}")
        before = found[code].specs if code in found else ()
        dated = DatedSpec(valid_from=dt.date.min if first == "-" else dt.date.fromisoformat(first), spec=spec)
        if before and dated.valid_from <= before[-1].valid_from:
            raise OurError(f"{code}: {first} is not after the line before")
        found[code] = Product(code=code, root=root, description=description, specs=(*before, dated))
    return found


PRODUCTS: Mapping[str, Product] = MappingProxyType(_products(_ROWS.strip().splitlines()))
"""Every known product by its code."""

DEFAULT_PRODUCT: Mapping[str, str] = MappingProxyType(
    {
        "ES": "MES", "NQ": "MNQ", "RTY": "M2K", "YM": "MYM", "GC": "MGC", "SI": "SIL", "HG": "MHG", "CL": "MCL",
        "NG": "MNG", "6A": "M6A", "6B": "M6B", "6E": "M6E",
        "PL": "PL", "6C": "6C", "6J": "6J", "6M": "6M", "6N": "6N", "6S": "6S", "TLT": "ZB",
    }
)  # fmt: skip
"""What a contract map that names only a root means: the micro of a traded root, the full size of a reference."""

DEFAULT_PAIR: Mapping[str, str] = MappingProxyType(
    {
        "ES": "NQ", "NQ": "ES", "RTY": "YM", "YM": "RTY", "GC": "SI", "SI": "GC", "HG": "SI", "CL": "NG", "NG": "CL",
        "6A": "6E", "6E": "6A", "6B": "6E",
    }
)  # fmt: skip
"""The pair map of `strategy.md` section 1."""


def products_of(root: str) -> tuple[str, ...]:
    """Codes of the known products of `root`, in the table's order; empty for an unknown root."""
    return tuple(code for code, product in PRODUCTS.items() if product.root == root)


def roots_on(roots: Sequence[TradedRoot], date: dt.date) -> tuple[TradedRoot, ...]:
    """The roots with the specs that their products had in the session `date`, the map's margins kept.

    Products outside the table keep what the map says.
    """
    return tuple(
        attrs.evolve(
            root,
            data_spec=_spec_on(root.data_product, root.data_spec, date),
            order_spec=_spec_on(root.order_product, root.order_spec, date),
        )
        for root in roots
    )


def _spec_on(code: str, spec: ContractSpec, date: dt.date) -> ContractSpec:
    product = PRODUCTS.get(code)
    if product is None:
        return spec
    return attrs.evolve(spec_on(product.specs, date), initial_margin_usd=spec.initial_margin_usd)
