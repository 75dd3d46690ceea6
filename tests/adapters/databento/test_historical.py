"""The Historical API's client against a server that answers like the vendor's, over HTTP."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from adapters.databento.historical import HistoricalData, Listing, Patience, contracts_in, months_of
from adapters.databento.hour_files import read_hours
from domain.errors import OperatorError
from domain.history import Span
from domain.sessions import iso_utc, to_nanos
from domain.units import Nanos
from tests.adapters.databento.vendor_server import KEY, PRICE_PER_BAR, ROLL, Vendor, cut, running_vendor, status

DATASET = "GLBX.MDP3"
QUICK = Patience(attempts=3, first_s=0.01, longest_s=0.05)


def moment(text: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


JUNE = Span(start=moment("2024-06-03"), end=moment("2024-06-05"))


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with running_vendor() as vendor:
        yield vendor


@pytest.fixture
def waits() -> list[str]:
    return []


@pytest.fixture
def data(vendor: Vendor, waits: list[str]) -> HistoricalData:
    return HistoricalData(KEY, gateway=vendor.address, patience=QUICK, on_wait=waits.append)


def fetch(data: HistoricalData, place: Path) -> Span:
    return data.download(DATASET, ["MESM4", "MESU4"], JUNE, place / "next.part", ("MES",))


def test_what_there_is_and_what_it_costs(data: HistoricalData) -> None:
    assert iso_utc(data.available_until(DATASET)) == "2024-07-01T13:30:00Z"
    # Two contracts and the spread of this server, 23 hours on each of two days.
    assert data.cost(DATASET, ["MESM4", "MESU4"], JUNE) == Decimal(str(PRICE_PER_BAR * 3 * 46))


def test_the_first_two_contracts_of_each_day_by_name(data: HistoricalData) -> None:
    listings = data.listings(DATASET, ["MES"], dt.date(2024, 6, 1), dt.date(2024, 7, 2))
    assert sorted((each.raw_symbol, str(each.start), str(each.end)) for each in listings["MES"]) == [
        ("MESM4", "2024-06-01", str(ROLL)),
        ("MESM4", str(ROLL), "2024-07-02"),
        ("MESU4", "2024-06-01", str(ROLL)),
        ("MESU4", str(ROLL), "2024-07-02"),
    ]


def test_a_month_wants_what_comes_to_the_front_within_a_week_of_it() -> None:
    listings = [
        Listing(raw_symbol="MESM4", start=dt.date(2024, 3, 15), end=dt.date(2024, 6, 4)),
        Listing(raw_symbol="MESU4", start=dt.date(2024, 6, 4), end=dt.date(2024, 9, 15)),
    ]
    may, june = months_of(Span(start=moment("2024-05-01"), end=moment("2024-06-10")))
    april = Span(start=moment("2024-04-01"), end=moment("2024-05-01"))
    assert contracts_in(listings, april) == ["MESM4"]
    assert contracts_in(listings, may) == ["MESM4", "MESU4"]
    assert contracts_in(listings, june) == ["MESM4", "MESU4"]


def test_hours_come_whole_and_the_spread_stays_out(data: HistoricalData, tmp_path: Path) -> None:
    assert fetch(data, tmp_path) == JUNE
    found = read_hours(tmp_path / "next.part", ("MES",))
    assert {contract.raw_symbol: len(rows) for contract, rows in found.hours.items()} == {"MESM4": 46, "MESU4": 46}
    assert found.foreign == 46


@pytest.mark.parametrize(
    "faults",
    [
        [status(429, "too_many_requests", Retry_After="0.03")],
        [status(503), status(500)],
        [cut(0.5)],
        [cut(0.9, is_reset=True)],
        [cut(0.01)],
        [cut(0.0), status(408)],
    ],
    ids=["429", "5xx twice", "cut in order", "reset", "cut in the metadata", "empty, then 408"],
)
def test_what_passes_is_tried_again_and_the_file_is_whole(
    faults: list[Callable[..., bool]], vendor: Vendor, data: HistoricalData, waits: list[str], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    fetch(data, whole)
    vendor.faults = [("timeseries.get_range", fault) for fault in faults]
    assert fetch(data, tmp_path) == JUNE
    assert (tmp_path / "next.part").read_bytes() == (whole / "next.part").read_bytes()
    assert len(waits) == len(faults)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (status(401, "auth_authentication_failed"), (78, 1, "the key is refused")),
        (status(403, "license_not_found"), (78, 1, "license_not_found")),
        (status(422, "symbology_invalid_request"), (78, 1, "symbology_invalid_request")),
        (status(429), (75, 3, "429")),
        (status(504), (75, 3, "504")),
        (cut(0.9), (75, 3, "not whole|broke off")),
    ],
    ids=["401", "403", "422", "429", "504", "cut"],
)
def test_what_does_not_pass_is_said_with_its_exit_code(
    fault: Callable[..., bool], expected: tuple[int, int, str], vendor: Vendor, data: HistoricalData, tmp_path: Path
) -> None:
    exit_code, requests, words = expected
    vendor.faults = [("timeseries.get_range", fault)] * 3
    with pytest.raises(OperatorError, match=words) as refused:
        fetch(data, tmp_path)
    assert (refused.value.exit_code, vendor.asked["timeseries.get_range"]) == (exit_code, requests)


def test_a_wrong_key_is_refused_and_not_repeated(vendor: Vendor) -> None:
    data = HistoricalData("db-another-key-0000000000000000", gateway=vendor.address, patience=QUICK)
    with pytest.raises(OperatorError, match="the key is refused") as refused:
        data.available_until(DATASET)
    assert (refused.value.exit_code, vendor.asked.total()) == (78, 1)
    assert "db-another" not in str(refused.value)


def test_nobody_there_is_another_matter_than_trouble(waits: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    data = HistoricalData(KEY, gateway=f"http://127.0.0.1:{port}", patience=QUICK, on_wait=waits.append)
    with pytest.raises(OperatorError, match="cannot be reached") as refused:
        data.available_until(DATASET)
    assert (refused.value.exit_code, len(waits)) == (69, 2)


def test_a_key_goes_to_the_vendor_or_to_this_machine() -> None:
    with pytest.raises(OperatorError, match="not on this machine"):
        HistoricalData(KEY, gateway="http://hist.example.com")
