"""A broker's CSV: whichever way it is written, or refused with its line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from adapters.broker_csv import read_report
from domain.broker_report import BrokerFill, BrokerPosition, BrokerReport
from domain.errors import OperatorError
from domain.sessions import to_nanos
from domain.units import Price

UTC = ZoneInfo("UTC")
FILLS = (
    "_id,_timestamp,_action,_qty,_price,Fill ID,Order ID,Timestamp,Date,Account,B/S,Quantity,Price,Contract,Product\n"
    '1,2024-05-01 14:00:01.250Z,0,2,5000.25,1,2,05/01/2024 09:00:01,5/1/24,A1, Buy,2,"5,000.25",MESM4,MES\n'
    '3,2024-05-01 15:00:00.000Z,1,2,5001.5,3,4,05/01/2024 10:00:00,5/1/24,A1, Sell,2,"5,001.50",MESM4,MES\n'
)
POSITIONS = (
    "Position ID,Timestamp,Trade Date,Net Pos,Net Price,Bought,Contract,Product\n"
    "1,05/01/2024 09:00:01,2024-05-01,2,5000.25,2,MESM4,MES\n"
    "1,05/01/2024 10:00:00,2024-05-01,0,,2,MESM4,MES\n"
    "2,05/01/2024 11:00:00,2024-05-01,-1,2300.0,2,MGCM4,MGC\n"
)


def read(tmp_path: Path, text: str | bytes, zone: ZoneInfo = UTC, **columns: str) -> BrokerReport:
    path = tmp_path / "report.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_report(path, columns, zone)


def test_tradovates_fills_are_read_by_their_own_columns(tmp_path: Path) -> None:
    report = read(tmp_path, FILLS)
    assert report.kind == "tradovate_fills"
    when = to_nanos(dt.datetime(2024, 5, 1, 14, 0, 1, 250_000, dt.UTC))
    assert report.fills[0] == BrokerFill(
        line=2, symbol="MESM4", side="buy", quantity=2, price=Price(5_000_250_000_000), ts=when
    )
    assert [fill.side for fill in report.fills] == ["buy", "sell"]


def test_tradovates_positions_are_the_last_of_each_contract(tmp_path: Path) -> None:
    report = read(tmp_path, POSITIONS)
    assert (report.kind, report.fills) == ("tradovate_positions", ())
    assert report.positions == (
        BrokerPosition(line=3, symbol="MESM4", quantity=0),
        BrokerPosition(line=4, symbol="MGCM4", quantity=-1),
    )


@pytest.mark.parametrize(
    ("header", "cell"),
    [("extras.signal_id", "abc"), ("Extras", '"{""signal_id"": ""abc"", ""env"": ""live""}"')],
)
def test_traderspost_is_known_by_our_signal_id(tmp_path: Path, header: str, cell: str) -> None:
    report = read(
        tmp_path,
        f"Ticker,Action,Status,Filled Quantity,Average Fill Price,Filled At,{header}\n"
        f"MESM2024,exit,filled,1,5000.5,2024-05-01T14:00:01Z,{cell}\n"
        f"MESM2024,buy,rejected,1,5000.5,,{cell}\n"
        f"MESM2024,buy,filled,0,,,{cell}\n",
    )
    assert report.kind == "traderspost"
    (fill,) = report.fills
    assert (fill.signal_id, fill.symbol, fill.side, fill.quantity) == ("abc", "MESM2024", None, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";").replace("5;000", "5,000").replace("5;001", "5,001"),
        lambda text: text + "\n,,,,,,,,,,,,,,\n",
        lambda text: text.replace('"5,000.25"', "$5000.25").replace("MESM4", " mesm4 "),
    ],
    ids=["BOM", "CRLF", "semicolons", "empty lines", "dollars and blanks"],
)
def test_the_same_fills_however_they_are_written(tmp_path: Path, change: object) -> None:
    assert callable(change)
    assert read(tmp_path, change(FILLS)) == read(tmp_path, FILLS)


def test_stamps_without_a_zone_are_in_the_zone_that_is_named(tmp_path: Path) -> None:
    # What the export says beside its own UTC stamp: 09:00 in Chicago is 14:00 UTC in May.
    local = read(tmp_path, FILLS, ZoneInfo("America/Chicago"), time="Timestamp")
    assert [fill.ts for fill in local.fills] == [
        to_nanos(dt.datetime(2024, 5, 1, 14, 0, 1, tzinfo=dt.UTC)),
        to_nanos(dt.datetime(2024, 5, 1, 15, tzinfo=dt.UTC)),
    ]
    assert read(tmp_path, FILLS, ZoneInfo("America/Chicago")) == read(tmp_path, FILLS), "a stamp with a zone keeps it"


def test_columns_may_be_named(tmp_path: Path) -> None:
    text = "what,when,how many,way,at\nMESM4,2024-05-01T14:00:01Z,2,B,5000.25\n"
    report = read(tmp_path, text, symbol="What", time="when", quantity="how many", side="way", price="at")
    assert [(f.symbol, f.side, f.quantity) for f in report.fills] == [("MESM4", "buy", 2)]


@pytest.mark.parametrize(
    ("text", "columns", "what"),
    [
        (FILLS.replace('"5,001.50"', '"5001,50"'), {}, r"report.csv:3: price: '5001,50' is no number\n  fix: a point"),
        (FILLS.replace(" Sell", " Sold!"), {}, r"report.csv:3: 'sold!' is no side"),
        (FILLS.replace("Sell,2,", "Sell,1.5,"), {}, r"report.csv:3: quantity: 1.5 is no count"),
        (FILLS.replace("2024-05-01 15:00:00.000Z", "noon"), {}, r"report.csv:3: 'noon' is no time"),
        (FILLS.replace("2024-05-01 15:00:00.000Z", ""), {}, r"report.csv:3: a fill without a time"),
        (FILLS.replace(",MES\n3", ",MES,more\n3"), {}, r"report.csv:2: 16 columns, the header has 15"),
        (FILLS + '4,"2024', {}, r"report.csv:4: no CSV"),
        (FILLS.replace("Contract", "Thing"), {}, r"report.csv:1: no column for symbol\n  fix: name it: --map symbol="),
        (FILLS, {"price": "Prize"}, r"report.csv:1: no column 'Prize'\n  fix: did you mean 'Price'"),
        (FILLS, {"prize": "Price"}, r"--map: there is no 'prize'\n  fix: did you mean 'price'"),
        ("", {}, r"report.csv:1: it is empty"),
        (FILLS.encode().replace(b"A1", b"\xff1", 1), {}, r"report.csv:2: no UTF-8 text"),
        ("extras,ticker,quantity,price\nx,MESM4,1,1\n", {}, r"report.csv:2: extras is no JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, columns: dict[str, str], what: str
) -> None:
    with pytest.raises(OperatorError, match=what) as refused:
        read(tmp_path, text, **columns)
    assert refused.value.exit_code == 2


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        read_report(tmp_path / "none.csv", {}, UTC)
