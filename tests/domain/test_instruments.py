"""The grammar of contract names, against known products and the session's date."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.instruments import MONTH_CODES, ContractName, ContractSpec, Expiry, parse_contract
from domain.units import Price

PRODUCTS = ("ES", "MES", "GC", "CL", "6E", "6J", "M2K", "HG", "ZB", "B")
Y2013, Y2024 = dt.date(2013, 10, 9), dt.date(2024, 5, 1)


@pytest.mark.parametrize(
    ("raw", "session", "product", "year", "month"),
    [
        ("GCZ3", Y2013, "GC", 2013, 12),
        ("GCZ3", dt.date(2023, 10, 9), "GC", 2023, 12),
        ("6EH4", dt.date(2013, 12, 19), "6E", 2014, 3),
        ("CLZ5", Y2024, "CL", 2025, 12),
        ("CLZ4", Y2024, "CL", 2024, 12),
        ("CLZ3", Y2024, "CL", 2023, 12),  # just expired: a file read after New Year
        ("CLZ2", Y2024, "CL", 2032, 12),  # crude is listed nine years out
        ("ESH0", dt.date(2019, 12, 20), "ES", 2020, 3),
        ("ESZ9", dt.date(2020, 1, 2), "ES", 2019, 12),
        ("ESZ9", dt.date(2021, 1, 4), "ES", 2029, 12),
        ("ESZ24", Y2024, "ES", 2024, 12),
        ("ESZ05", Y2024, "ES", 2105, 12),
        ("ESZ23", Y2024, "ES", 2023, 12),
        ("ESH00", dt.date(2099, 12, 20), "ES", 2100, 3),
        ("M2KU4", Y2024, "M2K", 2024, 9),
        ("MESM4", Y2024, "MES", 2024, 6),
        # J is April as well as a letter of the yen's root.
        ("6JJ4", Y2024, "6J", 2024, 4),
    ],
)
def test_an_outright_names_its_product_and_delivery_month(
    raw: str, session: dt.date, product: str, year: int, month: int
) -> None:
    name = parse_contract(raw, PRODUCTS, session)
    assert name == ContractName(product=product, expiry=Expiry(year=year, month=month))


@pytest.mark.parametrize(
    "raw",
    [
        "ESH4-ESM4",
        "GC:BF M4-Q4-V4",
        "UD:1V: VT 2404305",
        "UD:ESM4",
        "ES.v.0",
        "ES.FUT",
        "ESA4",
        "ESm4",
        "ES",
        "ESM",
        "ESM444",
        "ESM4 ",
        " ESM4",
        "ESM4 C5000",
        "ESM٤",
        "ESM²",
        "ESM-4",
        "NQM4",
        "",
    ],
)
def test_what_is_no_outright_of_a_known_product_is_no_contract(raw: str) -> None:
    assert parse_contract(raw, PRODUCTS, Y2024) is None


def test_without_the_list_of_products_one_text_reads_two_ways() -> None:
    # `6J` + April 2024, or a product `6` + month J + year `J4`: only the list knows.
    assert parse_contract("6JJ4", ["6J"], Y2024) is not None
    assert parse_contract("6JJ4", ["6"], Y2024) is None
    assert parse_contract("6J4", ["6J"], Y2024) is None
    assert parse_contract("6J4", ["6"], Y2024) == ContractName(product="6", expiry=Expiry(year=2024, month=4))


@pytest.mark.parametrize("products", [("B", "BZ"), ("BZ", "B")])
def test_the_order_of_the_product_list_does_not_matter(products: tuple[str, ...]) -> None:
    assert parse_contract("BZZ4", products, Y2024) == ContractName(product="BZ", expiry=Expiry(year=2024, month=12))
    assert parse_contract("BZ4", products, Y2024) == ContractName(product="B", expiry=Expiry(year=2024, month=12))


@st.composite
def listed(draw: st.DrawFn) -> tuple[ContractName, dt.date]:
    session = draw(st.dates(dt.date(2010, 1, 1), dt.date(2110, 12, 31)))
    year = draw(st.integers(session.year - 1, session.year + 8))
    return ContractName(
        product=draw(st.sampled_from(PRODUCTS)), expiry=Expiry(year=year, month=draw(st.integers(1, 12)))
    ), session


@given(listed())
def test_every_listed_contract_is_read_back_from_its_short_name(case: tuple[ContractName, dt.date]) -> None:
    name, session = case
    assert parse_contract(name.raw_symbol, PRODUCTS, session) == name


@given(listed())
def test_every_listed_contract_is_read_back_from_its_two_digit_name(case: tuple[ContractName, dt.date]) -> None:
    name, session = case
    raw = f"{name.product}{name.expiry.month_code}{name.expiry.year % 100:02d}"
    assert parse_contract(raw, PRODUCTS, session) == name


def test_traderspost_is_told_the_full_year() -> None:
    name = parse_contract("MESM4", PRODUCTS, Y2024)
    assert name is not None
    assert (name.raw_symbol, name.ticker) == ("MESM4", "MESM2024")


def test_the_month_letters_are_those_of_the_exchange() -> None:
    assert [Expiry(year=2024, month=month).month_code for month in range(1, 13)] == list(MONTH_CODES)


@pytest.mark.parametrize(
    ("tick", "multiplier", "value"),
    [(250_000_000, "50", "12.5"), (250_000_000, "5", "1.25"), (100_000_000, "100", "10"), (50_000, "125000", "6.25")],
)
def test_a_tick_is_worth_its_size_times_the_multiplier(tick: int, multiplier: str, value: str) -> None:
    spec = ContractSpec(
        tick_size=Price(tick), multiplier=Decimal(multiplier), currency="USD", exchange_calendar="CME Globex Equity"
    )
    assert spec.tick_value == Decimal(value)
