"""The product table against figures written here from the exchange's pages, not taken from the code."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from adapters.contract_map import load_contract_map
from adapters.products import PRODUCTS, _products, roots_on
from domain.errors import OurError
from domain.instruments import DatedSpec, spec_on

SHIPPED = Path(__file__).parents[2] / "Data" / "Databento_contract_map.yml"
TODAY = dt.date(2026, 11, 20)

# Product, tick, tick value in US dollars, value of a whole point.
FIGURES = [
    ("ES", "0.25", "12.5", "50"), ("MES", "0.25", "1.25", "5"),
    ("NQ", "0.25", "5", "20"), ("MNQ", "0.25", "0.5", "2"),
    ("RTY", "0.1", "5", "50"), ("M2K", "0.1", "0.5", "5"),
    ("YM", "1", "5", "5"), ("MYM", "1", "0.5", "0.5"),
    ("GC", "0.1", "10", "100"), ("MGC", "0.1", "1", "10"),
    ("SI", "0.005", "25", "5000"), ("SIL", "0.005", "5", "1000"),
    ("HG", "0.0005", "12.5", "25000"), ("MHG", "0.0005", "1.25", "2500"), ("QC", "0.002", "25", "12500"),
    ("CL", "0.01", "10", "1000"), ("MCL", "0.01", "1", "100"),
    ("NG", "0.001", "10", "10000"), ("MNG", "0.001", "1", "1000"), ("QG", "0.005", "12.5", "2500"),
    ("6A", "0.00005", "5", "100000"), ("M6A", "0.0001", "1", "10000"),
    ("6B", "0.0001", "6.25", "62500"), ("M6B", "0.0001", "0.625", "6250"),
    ("6E", "0.00005", "6.25", "125000"), ("M6E", "0.0001", "1.25", "12500"),
    ("PL", "0.1", "5", "50"), ("6C", "0.00005", "5", "100000"), ("6J", "0.0000005", "6.25", "12500000"),
    ("6M", "0.00001", "5", "500000"), ("6N", "0.00005", "5", "100000"), ("6S", "0.00005", "6.25", "125000"),
    ("ZB", "0.03125", "31.25", "1000"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "tick", "value", "point"), FIGURES)
def test_a_product_is_what_the_exchange_publishes(code: str, tick: str, value: str, point: str) -> None:
    spec = PRODUCTS[code].spec
    found = (spec.tick_size, spec.tick_value, spec.multiplier)
    assert found == (int(Decimal(tick) * 10**9), Decimal(value), Decimal(point))
    assert Decimal(tick) * spec.multiplier == Decimal(value)
    assert spec_on(PRODUCTS[code].specs, TODAY) == spec


def test_no_other_product_is_known() -> None:
    assert set(PRODUCTS) == {code for code, *_ in FIGURES}


# Product, the first session of the half tick, its value before and since: CME's report S-7425, its pages on reduced
# minimum price increments (FX) and the vendors' notices of them.
HALVED = [
    ("6E", dt.date(2016, 1, 11), "12.5", "6.25"),
    ("6C", dt.date(2016, 7, 11), "10", "5"),
    ("6A", dt.date(2020, 11, 23), "10", "5"),
    ("6N", dt.date(2021, 8, 16), "10", "5"),
    ("6S", dt.date(2022, 5, 2), "12.5", "6.25"),
]


@pytest.mark.parametrize(("code", "since", "before", "after"), HALVED)
def test_a_currencys_tick_is_that_of_the_session(code: str, since: dt.date, before: str, after: str) -> None:
    def tick_on(date: dt.date) -> tuple[int, Decimal]:
        spec = spec_on(PRODUCTS[code].specs, date)
        return spec.tick_size, spec.tick_value

    whole, half = (100_000, Decimal(before)), (50_000, Decimal(after))
    assert tick_on(dt.date(2013, 10, 9)) == tick_on(since - dt.timedelta(days=3)) == whole
    assert tick_on(since) == tick_on(TODAY) == half


def test_before_its_launch_a_product_has_its_first_spec() -> None:
    (launch,) = PRODUCTS["MES"].specs
    assert launch.valid_from == dt.date(2019, 5, 6)
    assert spec_on(PRODUCTS["MES"].specs, dt.date(2013, 10, 9)) == launch.spec


def test_the_last_of_several_changes_holds() -> None:
    spec = PRODUCTS["ES"].spec
    dated = [
        DatedSpec(valid_from=dt.date(2000 + i, 1, 1), spec=attrs.evolve(spec, multiplier=Decimal(i))) for i in (1, 5, 9)
    ]
    found = [spec_on(dated, dt.date(year, 1, day)).multiplier for year in (2001, 2005, 2009) for day in (1, 2)]
    assert found == [1, 1, 5, 5, 9, 9]
    assert spec_on(dated, dt.date(2004, 12, 31)).multiplier == 1


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (["ES ES - 0.25 50 12.6 equity x"], "tick 0.25 x multiplier 50 is not 12.6"),
        (["ES ES 2020-01-01 0.25 50 12.5 equity x", "ES ES 2020-01-01 0.5 50 25 equity x"], "not after"),
        (["ES ES 2020-01-01 0.25 50 12.5 equity x", "ES ES - 0.5 50 25 equity x"], "not after"),
    ],
)
def test_a_slip_in_the_table_cannot_pass(rows: list[str], what: str) -> None:
    with pytest.raises(OurError, match=what):
        _products(rows)


def test_a_sessions_roots_have_the_specs_of_its_date_and_the_maps_margins(tmp_path: Path) -> None:
    path = tmp_path / "map.yml"
    path.write_text(
        "contracts:\n  - symbol: 6E\n    databento: {feed_symbol: 6E}\n    tradovate_symbol: M6E\n"
        "    order_spec: {tick_size: 0.0001, multiplier: 12500, initial_margin_usd: 270}\n"
        "    spec: {initial_margin_usd: 2700}\n"
        "  - {symbol: ZC, spec: {tick_size: 0.25, multiplier: 50, currency: USD, exchange_calendar: CMEGlobex_FX}}\n"
    )
    now = load_contract_map(path).roots
    euro, corn = roots_on(now, dt.date(2013, 12, 2))
    assert (euro.data_spec.tick_size, euro.data_spec.initial_margin_usd) == (100_000, Decimal(2700))
    assert (euro.order_spec.tick_size, euro.order_spec.initial_margin_usd) == (100_000, Decimal(270))
    assert corn == now[1]
    assert roots_on(now, TODAY) == now
    shipped = load_contract_map(SHIPPED).roots
    assert roots_on(shipped, dt.date(2024, 5, 1)) == shipped
