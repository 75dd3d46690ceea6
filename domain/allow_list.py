"""The allow-list: which instrument ids are outright contracts of the universe, and on which dates.

A parent symbol (`ES.FUT`) is outrights and spreads under one product, and a spread's price
folded into an outright's bar is no price at all. So nothing is admitted by its product: an id
is, on dates on which it names exactly one contract of class future. Ids are reused on other
dates, hence (id, date). The same rule holds for traded and reference roots, live and history.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from domain.errors import OperatorError
from domain.instruments import ContractName, TradedRoot, parse_contract
from domain.sessions import to_nanos
from domain.units import Nanos, Price, price_to_decimal

FUTURE = "F"
"""DBN's letter for the class of outright futures; spreads of futures are S."""


@attrs.frozen(kw_only=True)
class Listing:
    """What an instrument id means on the UTC dates from `start` to `end` (exclusive).

    A file's mappings and a feed's say id, name and dates; a definition says the rest too.
    """

    instrument_id: int
    raw_symbol: str
    start: dt.date
    end: dt.date
    instrument_class: str | None = None
    tick_size: Price | None = None
    """`min_price_increment`."""
    multiplier: Decimal | None = None
    """`unit_of_measure_qty`: of a future, `contract_multiplier` is undefined."""


@attrs.frozen(kw_only=True)
class AllowedContract:
    """One outright contract of a root and the UTC dates, `end` exclusive, on which its id names it."""

    root: str
    name: ContractName
    raw_symbol: str
    instrument_id: int
    start: dt.date
    end: dt.date


@attrs.frozen(kw_only=True)
class AllowList:
    """What may become bars. Use `allow_list`."""

    contracts: tuple[AllowedContract, ...]
    """By root, expiry and date."""

    def find(self, instrument_id: int, date: dt.date) -> AllowedContract | None:
        """The contract that `instrument_id` names on the UTC `date`; None for everything else."""
        for contract in self.contracts:
            if contract.instrument_id == instrument_id and contract.start <= date < contract.end:
                return contract
        return None

    def places(self, ids: npt.NDArray[np.uint32], stamps: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """For each record (its id and its time in UTC nanoseconds) the place in `contracts`, -1 when not allowed."""
        found = np.full(len(ids), -1, np.int64)
        for place, contract in enumerate(self.contracts):
            at = np.flatnonzero(ids == contract.instrument_id)
            is_named = (stamps[at] >= _midnight(contract.start)) & (stamps[at] < _midnight(contract.end))
            found[at[is_named]] = place
        return found


def outright(
    raw_symbol: str, roots: Sequence[TradedRoot], date: dt.date, *, instrument_class: str | None = None
) -> tuple[TradedRoot, ContractName] | None:
    """The root whose data product `raw_symbol` is an outright contract of; None for spreads and strangers.

    `instrument_class` None: only the name is known, and its grammar decides alone.
    """
    by_product = {root.data_product: root for root in roots}
    name = _name(raw_symbol, instrument_class, by_product, date)
    return None if name is None else (by_product[name.product], name)


def _name(
    raw_symbol: str, instrument_class: str | None, products: Collection[str], date: dt.date
) -> ContractName | None:
    return parse_contract(raw_symbol, products, date) if instrument_class in (None, FUTURE) else None


def allow_list(listings: Iterable[Listing], roots: Sequence[TradedRoot]) -> AllowList:
    """The contracts of `roots` among `listings`.

    Raises OperatorError as `allowed` does, and when a definition's tick or multiplier is not the contract map's
    (ticks have changed over the years: for old data use mappings, which state none).
    """
    known = tuple(listings)
    found = allowed(known, {root.data_product: root.root for root in roots})
    for listing in known:
        named = outright(listing.raw_symbol, roots, listing.start, instrument_class=listing.instrument_class)
        if named is not None:
            _refuse_other_size(listing, named[0])
    return found


def allowed(listings: Iterable[Listing], products: Mapping[str, str]) -> AllowList:
    """The outrights among `listings` of `products`, each of which names its root.

    Raises OperatorError when an id of a contract names something else too on one date: its records could not be
    told apart.
    """
    known = sorted(set(listings), key=lambda one: (one.instrument_id, one.start, one.end, one.raw_symbol))
    contracts: dict[AllowedContract, None] = {}
    for listing in known:
        name = _name(listing.raw_symbol, listing.instrument_class, products, listing.start)
        if name is None:
            continue
        contract = AllowedContract(
            root=products[name.product],
            name=name,
            raw_symbol=listing.raw_symbol,
            instrument_id=listing.instrument_id,
            start=listing.start,
            end=listing.end,
        )
        contracts[contract] = None
    _refuse_double_meanings(known, {contract.instrument_id for contract in contracts})
    order = sorted(contracts, key=lambda c: (c.root, c.name.expiry.year, c.name.expiry.month, c.start, c.instrument_id))
    return AllowList(contracts=tuple(order))


def _refuse_other_size(listing: Listing, root: TradedRoot) -> None:
    """A wrong tick misplaces every limit price, a wrong multiplier makes every profit wrong."""
    spec = root.data_spec
    tick = None if listing.tick_size is None else price_to_decimal(listing.tick_size)
    for what, theirs, ours in (
        ("tick", tick, price_to_decimal(spec.tick_size)),
        ("multiplier", listing.multiplier, spec.multiplier),
    ):
        if theirs is not None and theirs != ours:
            raise OperatorError(
                f"the {what} of {listing.raw_symbol} is {theirs:f} by its definition of {listing.start}, "
                f"and {ours:f} by the contract map",
                where="contract map",
                fix=f"correct `spec` of {root.root} (a known product: adapters/products.py), "
                "or the definitions when they are of another time",
            )


def _refuse_double_meanings(known: Sequence[Listing], allowed_ids: Collection[int]) -> None:
    """`known` is sorted by start within an id."""
    furthest: dict[int, Listing] = {}
    for listing in known:
        if listing.instrument_id not in allowed_ids:
            continue
        before = furthest.get(listing.instrument_id)
        if before is not None and listing.start < before.end and listing.raw_symbol != before.raw_symbol:
            raise OperatorError(
                f"instrument id {listing.instrument_id} is both {before.raw_symbol} and {listing.raw_symbol} "
                f"on {listing.start}",
                where="symbology",
                fix="use the vendor's files as they were delivered, of one dataset",
            )
        if before is None or listing.end > before.end:
            furthest[listing.instrument_id] = listing


def _midnight(date: dt.date) -> Nanos:
    return to_nanos(dt.datetime.combine(date, dt.time(), tzinfo=dt.UTC))
