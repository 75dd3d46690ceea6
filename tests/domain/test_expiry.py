"""First notice days and expiries against dates that the exchange has kept."""

from __future__ import annotations

import datetime as dt

import pytest

from adapters.products import PRODUCTS
from domain.expiry import leave_date
from domain.instruments import Expiry

KNOWN = [
    ("ES", 2013, 12, "2013-12-20"),
    ("ES", 2008, 3, "2008-03-20"),  # the third Friday was Good Friday
    ("MES", 2026, 6, "2026-06-18"),  # the third Friday is Juneteenth
    ("GC", 2013, 12, "2013-11-29"),
    ("MGC", 2024, 6, "2024-05-31"),
    ("ZB", 2024, 3, "2024-02-29"),
    ("MHG", 2022, 9, "2022-08-29"),
    ("MHG", 2023, 6, "2023-05-26"),  # over Memorial Day
    ("CL", 2020, 5, "2020-04-21"),
    ("CL", 2024, 1, "2023-12-19"),  # the 25th is Christmas: counted from the 22nd
    ("CL", 2024, 6, "2024-05-21"),  # the 25th is a Saturday
    ("MCL", 2024, 6, "2024-05-20"),
    ("NG", 2024, 4, "2024-03-26"),  # Good Friday is the month's last weekday
    ("MNG", 2024, 6, "2024-05-28"),
    ("6E", 2023, 6, "2023-06-16"),  # over Juneteenth
    ("M6E", 2024, 6, "2024-06-17"),
    ("6C", 2024, 3, "2024-03-19"),
]


@pytest.mark.parametrize(("product", "year", "month", "date"), KNOWN)
def test_a_contract_must_be_left_by_its_first_notice_or_expiry(product: str, year: int, month: int, date: str) -> None:
    assert leave_date(product, Expiry(year=year, month=month)) == dt.date.fromisoformat(date)


def test_every_known_product_has_a_rule_and_others_have_none() -> None:
    june = Expiry(year=2024, month=6)
    assert [code for code in PRODUCTS if leave_date(code, june) is None] == []
    assert leave_date("XX", june) is None


@pytest.mark.parametrize("year", range(2010, 2041))
def test_it_is_a_weekday_of_the_delivery_month_or_the_one_before(year: int) -> None:
    for product in PRODUCTS:
        for month in range(1, 13):
            date = leave_date(product, Expiry(year=year, month=month))
            assert date is not None
            assert date.weekday() < 5
            assert (year * 12 + month) - (date.year * 12 + date.month) in (0, 1)
