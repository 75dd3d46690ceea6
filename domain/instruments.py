"""Roots, contracts and their specifications.

A *root* is a product as the strategy names it (`ES`); a *contract* is one expiry
of the product that is read and ordered (`MESM4`). Contract names are parsed
against the known roots only: a root may hold digits (`6E`, `M2K`), and `6J` + `J`
reads two ways without the list. The decade of a one-digit year comes from the
session date, never from the clock: GCZ3 in October 2013 is December 2013.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Literal

import attrs

from domain.units import Price

MONTH_CODES = "FGHJKMNQUVXZ"
"""Futures month letters, January to December (CME)."""


@attrs.frozen(kw_only=True)
class Expiry:
    """A contract's delivery month."""

    year: int
    month: int

    @property
    def month_code(self) -> str:
        return MONTH_CODES[self.month - 1]


@attrs.frozen(kw_only=True)
class ContractName:
    """A parsed contract: the product it belongs to and its delivery month."""

    product: str
    expiry: Expiry

    @property
    def raw_symbol(self) -> str:
        """The exchange's short name, one-digit year: `MESM4`."""
        return f"{self.product}{self.expiry.month_code}{self.expiry.year % 10}"

    @property
    def ticker(self) -> str:
        """TradersPost's name, four-digit year: `MESM2024`."""
        return f"{self.product}{self.expiry.month_code}{self.expiry.year}"


def parse_contract(raw_symbol: str, products: Collection[str], session_date: dt.date) -> ContractName | None:
    """The outright contract that `raw_symbol` names, or None.

    None for spreads, user-defined instruments and products that are not in
    `products`: whatever is not an outright of a known product must never be
    folded into its bars.
    """
    for product in sorted(products, key=len, reverse=True):
        if not raw_symbol.startswith(product):
            continue
        rest = raw_symbol[len(product) :]
        if len(rest) in (2, 3) and rest[0] in MONTH_CODES and rest[1:].isdecimal() and rest[1:].isascii():
            year = _full_year(int(rest[1:]), len(rest) - 1, session_date.year)
            return ContractName(product=product, expiry=Expiry(year=year, month=MONTH_CODES.index(rest[0]) + 1))
    return None


def _full_year(digits: int, width: int, session_year: int) -> int:
    """The year ending in `digits` that lies from one year back to the far end of the listing."""
    modulus: int = 10**width
    candidate = session_year - session_year % modulus + digits
    # A contract trades until it expires: one year back covers a file read just after New Year.
    if candidate < session_year - 1:
        candidate += modulus
    elif candidate >= session_year - 1 + modulus:
        candidate -= modulus
    return candidate


@attrs.frozen(kw_only=True)
class ContractSpec:
    """What one contract of a product is worth and how its price moves.

    `multiplier` is quote currency per point and contract; `tick_size * multiplier`
    is the tick's value. Source: the exchange's product pages, per product, never
    "a tenth of the full size" (SIL is a fifth of SI).
    """

    tick_size: Price
    multiplier: Decimal
    currency: str
    exchange_calendar: str
    initial_margin_usd: Decimal | None = None

    @property
    def tick_value(self) -> Decimal:
        return Decimal(self.tick_size).scaleb(-9) * self.multiplier


@attrs.frozen(kw_only=True)
class DatedSpec:
    """A product's spec from a session on, until the next one."""

    valid_from: dt.date
    """The first session that it holds in; `dt.date.min` for one that has always held."""
    spec: ContractSpec


def spec_on(specs: Sequence[DatedSpec], date: dt.date) -> ContractSpec:
    """The spec of the session `date`, of `specs` in their order; before the first one that one.

    A product that was not listed yet has no other: recorded days may be ordered in it all the same, on paper.
    """
    held = [dated for dated in specs if dated.valid_from <= date]
    return (held or specs[:1])[-1].spec


RollRule = Literal["vendor", "volume", "calendar"]
RollPolicy = Literal["close", "close_and_reopen", "hold_until_exit"]
ROLL_SESSIONS_BEFORE = 5


@attrs.frozen(kw_only=True)
class TradedRoot:
    """One root of the universe that is traded, or read for reference only.

    `data_product` is what is subscribed (`MES`), `order_product` what is sent to
    TradersPost. They are the same, or declared as a pair with both specs.
    """

    root: str
    data_product: str
    order_product: str
    dataset: str
    product_id: str
    description: str
    data_spec: ContractSpec
    order_spec: ContractSpec
    is_reference: bool = False
    optimized: bool = False
    roll_rule: str = "vendor"
    """`RollRule`: the mapping of ROOT.v.0, our own volumes of the session before, or sessions before expiry."""
    roll_policy: RollPolicy = "close"
    """What becomes of a position in a contract that is left."""
    roll_sessions_before: int = ROLL_SESSIONS_BEFORE
    """Of the rule `calendar`: that many sessions before first notice or expiry the roll is due."""
    last_trade_sessions: tuple[tuple[str, str], ...] = ()
    """(ordered contract with its four-digit year, ISO date): stated instead of computed."""
    quantity: int = 1
    commission_per_side: Decimal = Decimal("1.25")
    pair: str | None = None


def pairs_of(roots: Iterable[TradedRoot]) -> dict[str, str]:
    """The pair map: the root that each root's pair features read, of those that have one."""
    return {root.root: root.pair for root in roots if root.pair is not None}


HELD_RANK = -1
"""Rank of a contract that is subscribed only because something is still held in it."""


@attrs.frozen(kw_only=True)
class ResolvedContract:
    """Which contract a continuous symbol meant when the session opened."""

    root: str
    rank: int
    """0 is the contract that is traded, 1 the next one: bars and volumes for the roll, never signals."""
    raw_symbol: str | None
    """None when the vendor could not resolve it (blocks only the roll when rank is 1)."""
    instrument_id: int | None = None
    leave_date: dt.date | None = None
    """First notice day or expiry of the *ordered* contract, the earlier; None when no rule is known."""
    last_trade_session: dt.date | None = None
    """The last session in which it may be traded or held."""
    roll_session: dt.date | None = None
    """With the rule `calendar`: from this session's open on the roll is due."""
