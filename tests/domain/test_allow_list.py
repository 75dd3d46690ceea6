"""Which instrument ids may become bars: exactly the outrights of known products, on exactly their dates."""

from __future__ import annotations

import csv
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.contract_map import load_contract_map
from domain.allow_list import AllowList, Listing, allow_list, outright
from domain.errors import OperatorError
from domain.instruments import Expiry, TradedRoot
from domain.sessions import to_nanos
from domain.units import Price
from tests.builders import traded_root

CHECKOUT = Path(__file__).parents[2]
REAL = CHECKOUT.parent / "shared" / "reference" / "databento_symbology_2025-10-22.csv"
DAY = dt.date(2013, 10, 7)
ES, GC, TLT = traded_root("ES"), traded_root("GC"), traded_root("TLT", data_product="ZB", is_reference=True)
ROOTS = (ES, GC, TLT)


def day(offset: int) -> dt.date:
    return DAY + dt.timedelta(days=offset)


def listed(instrument_id: int, raw_symbol: str, first: int = 0, last: int = 1, **more: Any) -> Listing:
    return Listing(instrument_id=instrument_id, raw_symbol=raw_symbol, start=day(first), end=day(last), **more)


def midday(offset: int) -> int:
    return to_nanos(dt.datetime.combine(day(offset), dt.time(12), tzinfo=dt.UTC))


def names(found: AllowList) -> list[tuple[str, str, int]]:
    return [(contract.root, contract.raw_symbol, contract.instrument_id) for contract in found.contracts]


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_file(), reason="real symbology not found: ../shared/reference")
def test_of_1763_real_ids_exactly_the_252_outrights_pass_each_to_its_root() -> None:
    rows = list(csv.DictReader(REAL.read_text().splitlines()))
    date = dt.date(2025, 10, 22)
    ids = np.array([int(row["instrument_id"]) for row in rows], np.uint32)
    roots = load_contract_map(CHECKOUT / "Data" / "Databento_contract_map.yml").roots
    found = allow_list(
        [
            Listing(instrument_id=int(key), raw_symbol=row["raw_symbol"], start=date, end=date + dt.timedelta(days=1))
            for key, row in zip(ids, rows, strict=True)
        ],
        roots,
    )
    assert (len(rows), len({int(key) for key in ids})) == (1763, 1763)
    expected = {
        (int(row["instrument_id"]), row["root_assigned_by_old_system"], row["raw_symbol"])
        for row in rows
        if row["kind"] == "outright"
    }
    assert len(expected) == 252
    assert {(c.instrument_id, c.root, c.raw_symbol) for c in found.contracts} == expected
    assert {c.root for c in found.contracts} == {root.root for root in roots}, "reference roots by the same rule"
    stamps = np.full(len(ids), to_nanos(dt.datetime(2025, 10, 22, 15, tzinfo=dt.UTC)), np.uint64)
    is_outright = np.array([row["kind"] == "outright" for row in rows])
    places = found.places(ids, stamps)
    assert ((places >= 0) == is_outright).all()
    assert [found.contracts[place].instrument_id for place in places[is_outright]] == ids[is_outright].tolist()


def test_spreads_strangers_and_other_classes_are_left_out() -> None:
    found = allow_list(
        [
            listed(1, "ESZ3"),
            listed(2, "ESZ3-ESH4"),
            listed(3, "ES:BF Z3-H4-M4"),
            listed(4, "NQZ3"),
            listed(5, "ESH4", instrument_class="S"),
            listed(6, "ESM4", instrument_class="F"),
            listed(7, "UD:1V: VT 1310"),
            listed(8, "ZBZ3"),
            listed(9, "TLTZ3"),
            listed(10, "ES.v.0"),
        ],
        ROOTS,
    )
    assert names(found) == [("ES", "ESZ3", 1), ("ES", "ESM4", 6), ("TLT", "ZBZ3", 8)]


def test_an_id_counts_on_its_own_dates_and_may_be_another_contract_on_others() -> None:
    found = allow_list([listed(7, "ESZ3", 0, 2), listed(7, "GCG4", 2, 3), listed(7, "GCG4-GCJ4", 3, 5)], ROOTS)
    meanings = [found.find(7, day(offset)) for offset in range(-1, 5)]
    assert [None if one is None else one.raw_symbol for one in meanings] == [None, "ESZ3", "ESZ3", "GCG4", None, None]
    stamps = np.array([midday(offset) for offset in range(-1, 5)], np.uint64)
    places = found.places(np.full(6, 7, np.uint32), stamps)
    assert places.tolist() == [-1, 0, 0, 1, -1, -1]
    start = to_nanos(dt.datetime.combine(day(2), dt.time(), tzinfo=dt.UTC))
    edge = found.places(np.full(2, 7, np.uint32), np.array([start - 1, start], np.uint64))
    assert edge.tolist() == [0, 1], "a date begins at midnight UTC"


def test_the_decade_is_that_of_the_listing() -> None:
    found = allow_list([listed(1, "GCZ3"), Listing(instrument_id=1, raw_symbol="GCZ3", start=dt.date(2023, 10, 9),
                        end=dt.date(2023, 10, 10))], ROOTS)  # fmt: skip
    assert [contract.name.expiry for contract in found.contracts] == [
        Expiry(year=2013, month=12),
        Expiry(year=2023, month=12),
    ]


@given(st.permutations([(1, "ESZ3"), (2, "ESH4"), (3, "GCZ3"), (4, "GCZ3-GCG4"), (1, "ESZ3")]))
def test_neither_order_nor_repetition_matters(rows: list[tuple[int, str]]) -> None:
    found = allow_list([listed(key, name) for key, name in rows], ROOTS)
    assert names(found) == [("ES", "ESZ3", 1), ("ES", "ESH4", 2), ("GC", "GCZ3", 3)]


@pytest.mark.parametrize(
    "other",
    [listed(7, "ESZ3-ESH4", 1, 3), listed(7, "ESH4", 0, 1), listed(7, "ESZ3-ESH4", 0, 5), listed(7, "X", 1, 2)],
)
def test_an_id_with_two_names_on_one_date_is_refused(other: Listing) -> None:
    with pytest.raises(OperatorError, match="instrument id 7 is both"):
        allow_list([listed(7, "ESZ3", 0, 2), other], ROOTS)


def test_two_names_of_an_id_that_is_no_contract_are_nobodys_business() -> None:
    assert allow_list([listed(7, "X", 0, 2), listed(7, "Y", 0, 2)], ROOTS).contracts == ()


def sized(root: TradedRoot, tick: str, multiplier: str) -> TradedRoot:
    spec = attrs.evolve(root.data_spec, tick_size=Price(int(Decimal(tick) * 10**9)), multiplier=Decimal(multiplier))
    return attrs.evolve(root, data_spec=spec)


def test_definitions_that_agree_with_the_contract_map_pass() -> None:
    yen = sized(traded_root("6J"), "0.0000005", "12500000")
    same = listed(1, "6JZ3", instrument_class="F", tick_size=Price(500), multiplier=Decimal("12500000.000000000"))
    assert names(allow_list([same, listed(2, "6JH4", instrument_class="F")], [yen])) == [
        ("6J", "6JZ3", 1),
        ("6J", "6JH4", 2),
    ]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"tick_size": Price(100_000_000)}, "the tick of ESZ3 is 0.1 by its definition of 2013-10-07, and 0.25 by"),
        ({"multiplier": Decimal(5)}, "the multiplier of ESZ3 is 5 by its definition of 2013-10-07, and 50 by"),
    ],
)
def test_a_definition_of_another_size_is_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OperatorError) as caught:
        allow_list([listed(1, "ESZ3", instrument_class="F", **more)], ROOTS)
    assert complaint in caught.value.what
    assert "`spec` of ES" in caught.value.fix
    assert caught.value.exit_code == 78


def test_a_spreads_tick_is_not_compared() -> None:
    spread = listed(1, "ESZ3-ESH4", instrument_class="S", tick_size=Price(50_000_000))
    assert allow_list([spread], ROOTS).contracts == ()


def test_a_root_is_known_by_the_product_that_is_read() -> None:
    found = outright("ZBZ3", ROOTS, DAY)
    assert found is not None
    assert (found[0].root, found[1].expiry) == ("TLT", Expiry(year=2013, month=12))
    assert outright("TLTZ3", ROOTS, DAY) is None
