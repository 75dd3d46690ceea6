"""What a gateway makes of files that are not trades: bars played as trades, definitions, spreads, a roll."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import databento as db
import numpy as np
import pytest
from databento_dbn import Compression, InstrumentClass, InstrumentDefMsg, Schema, SecurityUpdateAction, SystemCode

from adapters.databento.bar_trades import BAR_DTYPE, MADE_UP_FLAGS, trades_of_bars
from adapters.databento.dbn_files import read_trades
from adapters.databento.gateway import LOCAL_KEY, MAX_SPEED, Gateway, GatewayThread
from adapters.databento.gateway_source import GatewaySource, RecordedSource, SimulatedSessions
from adapters.databento.market_simulator import SimulatedMarket
from domain.errors import OperatorError
from domain.market import TRADE_DTYPE, TradeArray
from domain.sessions import to_nanos
from domain.units import MINUTE, Nanos
from tests.adapters.databento.test_dbn_files import START, header, shared_market, trades
from tests.adapters.databento.test_gateway import Client

SPREADS = ("GCZ3-GCG4", "GC:BF Z3-G4-J4")
SYMBOLS = {name: [(str(key), 0, 2)] for name, key in
           (("GCZ3", 12), ("GCG4", 14), (SPREADS[0], 99), (SPREADS[1], 97), ("OG1V3 C1300", 98))}  # fmt: skip
TRADES = trades([1, 2, 3, 4], [12, 14, 99, 97])


ADDED = SecurityUpdateAction.from_str("A")


def definition(raw: str, key: int, kind: str, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "publisher_id": 1, "instrument_id": key, "ts_event": START, "ts_recv": START, "min_price_increment": 10**8,
        "display_factor": 10**9, "raw_symbol": raw, "asset": "GC", "security_type": "FUT",
        "instrument_class": InstrumentClass.from_str(kind), "security_update_action": ADDED,
        "unit_of_measure_qty": 100 * 10**9,
    }  # fmt: skip
    return bytes(InstrumentDefMsg(**{**fields, **changes}))


DEFINITIONS = (
    definition("GCZ3", 12, "F", min_price_increment=1)
    + definition("GCZ3", 12, "F")
    + definition("GCG4", 14, "F")
    + definition(SPREADS[0], 99, "S")
    + definition(SPREADS[1], 97, "S")
    + definition("OG1V3 C1300", 98, "C")
)


@pytest.fixture
def gold(tmp_path: Path) -> list[Path]:
    """Trades in one file, their definitions in another."""
    traded, defined = tmp_path / "trades.dbn", tmp_path / "definitions.dbn"
    traded.write_bytes(header(SYMBOLS) + TRADES.tobytes())
    defined.write_bytes(header({}, schema=Schema.DEFINITION) + DEFINITIONS)
    return [traded, defined]


def serve(source: GatewaySource) -> GatewayThread:
    return GatewayThread(Gateway(source, keys=(LOCAL_KEY,), speed=MAX_SPEED))


def definitions_of(client: Client) -> list[Any]:
    return [record for record in client.records if isinstance(record, InstrumentDefMsg)]


def ask_for_definitions(source: GatewaySource, symbol: str, **options: Any) -> tuple[list[Any], Client]:
    """Every definition that a client gets for a parent symbol, replay asked for."""
    with serve(source) as gateway:
        client = Client(gateway.port, **options).start(symbol, schema="definition", start=0)
        client.wait_for(lambda c: bool(c.systems(SystemCode.REPLAY_COMPLETED)))
        client.close()
    return definitions_of(client), client


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize("options", [{}, {"compression": Compression.ZSTD}, {"ts_out": True}])
def test_definitions_of_a_second_file_are_served_as_they_are(gold: list[Path], options: dict[str, Any]) -> None:
    found, client = ask_for_definitions(RecordedSource(recorded=read_trades(gold)), "GC.FUT", **options)
    by_name = {record.raw_symbol: record for record in found}
    assert set(by_name) == {"GCZ3", "GCG4", *SPREADS}, "a parent is futures and spreads, and no option"
    assert {name for name, record in by_name.items() if str(record.instrument_class) == "F"} == {"GCZ3", "GCG4"}
    assert by_name["GCZ3"].min_price_increment == 10**8, "the last one counts"
    assert by_name["GCZ3"].unit_of_measure_qty == 100 * 10**9
    assert {mapping.stype_out_symbol for mapping in client.mappings} == set(by_name)
    assert not client.trades


def test_without_definitions_names_say_what_is_a_future(gold: list[Path]) -> None:
    found, _ = ask_for_definitions(RecordedSource(recorded=read_trades(gold[:1])), "GC.FUT")
    classes = {record.raw_symbol: (str(record.instrument_class), record.asset) for record in found}
    assert classes == {"GCZ3": ("F", "GC"), "GCG4": ("F", "GC"), **dict.fromkeys(SPREADS, ("S", "GC"))}


def test_the_simulated_market_defines_what_it_trades() -> None:
    source = SimulatedSessions(market=SimulatedMarket(5, trades_per_session=1_000), dates=(dt.date(2024, 5, 1),))
    found, _ = ask_for_definitions(source, "MCL.FUT")
    assert {(record.asset, str(record.instrument_class)) for record in found} == {("MCL", "F")}
    assert {record.min_price_increment for record in found} == {10_000_000}
    assert len(found) == 2


def test_definitions_and_trades_share_a_session(gold: list[Path]) -> None:
    with serve(RecordedSource(recorded=read_trades(gold))) as gateway:
        client = Client(gateway.port)
        client.subscribe("GC.FUT", schema="definition")
        client.start("GCZ3", "raw_symbol").wait_for_end()
        assert client.raw == TRADES[:1].tobytes()
        assert len(definitions_of(client)) == 4
        client.close()


def test_definitions_alone_are_no_market(gold: list[Path]) -> None:
    with pytest.raises(OperatorError, match="no file holds trades"):
        read_trades(gold[1:])


def test_symbols_that_only_a_definition_names_are_known(tmp_path: Path, gold: list[Path]) -> None:
    gold[0].write_bytes(header({"GCZ3": [("12", 0, 2)]}) + TRADES.tobytes())
    symbology = read_trades(gold).symbology
    assert [i.instrument_id for i in symbology.resolve("raw_symbol", "GCG4", Nanos(START))] == [14]


# ---------------------------------------------------------------- bars


def bars_of(rows: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    bars = np.zeros(len(rows), BAR_DTYPE)
    bars["length"], bars["rtype"], bars["instrument_id"] = BAR_DTYPE.itemsize // 4, 33, 12
    bars["ts_event"] = START + np.arange(len(rows)) * MINUTE
    for name, column in zip(("open", "high", "low", "close", "volume"), zip(*rows, strict=True), strict=True):
        bars[name] = column
    return bars


def folded(made: TradeArray) -> dict[tuple[int, int], tuple[int, ...]]:
    """Bars of trades, one trade at a time: by minute and instrument."""
    found: dict[tuple[int, int], list[int]] = {}
    for trade in made:
        price = int(trade["price"])
        key = (int(trade["ts_recv"]) // MINUTE * MINUTE, int(trade["instrument_id"]))
        bar = found.setdefault(key, [price, price, price, price, 0])
        bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
        bar[4] += int(trade["size"])
    return {key: tuple(bar) for key, bar in found.items()}


@pytest.mark.parametrize(
    ("bar", "prices"),
    [((10, 14, 8, 12, 9), [10, 8, 14, 12]), ((12, 14, 8, 10, 9), [12, 14, 8, 10]), ((10, 10, 10, 10, 3), [10]),
     ((10, 14, 10, 14, 3), [10, 14]), ((10, 12, 8, 10, 7), [10, 8, 12, 10]), ((10, 10, 8, 8, 1), [10, 8])],
)  # fmt: skip
def test_a_bar_becomes_its_four_prices_and_its_volume(bar: tuple[int, int, int, int, int], prices: list[int]) -> None:
    made = trades_of_bars(bars_of([bar]), MINUTE)
    assert made["price"].tolist() == prices
    assert int(made["size"].sum()) == bar[4]
    assert made["ts_recv"].tolist() == sorted(made["ts_recv"].tolist())
    assert set(made["flags"].tolist()) == {MADE_UP_FLAGS}
    assert set(made["side"].tolist()) == {b"N"}


def test_bars_are_served_as_trades_and_the_acknowledgement_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bars.dbn"
    bars = bars_of([(10, 14, 8, 12, 9), (12, 14, 8, 10, 9)])
    path.write_bytes(header(SYMBOLS, schema=Schema.OHLCV_1M) + bars.tobytes())
    with serve(RecordedSource(recorded=read_trades([path]))) as gateway:
        client = Client(gateway.port).start("GCZ3", "raw_symbol").wait_for_end()
        client.close()
    assert client.raw == trades_of_bars(bars, MINUTE).tobytes()
    (ack,) = client.systems(SystemCode.SUBSCRIPTION_ACK)
    assert ack.msg.endswith("(trades made of ohlcv-1m)")
    # A second of the files' own bars beside trades of the same instrument would double its volume.
    traded = tmp_path / "trades.dbn"
    traded.write_bytes(header(SYMBOLS) + TRADES.tobytes())
    with pytest.raises(OperatorError, match="has both trades and bars"):
        read_trades([path, traded])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [(lambda raw: raw[:-7], "cut off"), (lambda raw: raw[: -BAR_DTYPE.itemsize], "no bars"),
     (lambda raw: raw[: -BAR_DTYPE.itemsize] + TRADES[:2].tobytes()[: BAR_DTYPE.itemsize], "other types")],
    ids=["cut", "empty", "mixed"],
)  # fmt: skip
def test_bad_bars_are_refused_by_name(tmp_path: Path, damage: Any, complaint: str) -> None:
    path = tmp_path / "bars.dbn"
    path.write_bytes(damage(header(SYMBOLS, schema=Schema.OHLCV_1M) + bars_of([(10, 14, 8, 12, 9)]).tobytes()))
    with pytest.raises(OperatorError, match=complaint):
        read_trades([path])


@pytest.mark.real_data
def test_real_bars_come_back_from_the_trades_that_were_made_of_them() -> None:
    path = shared_market("ES.ohlcv-1m.20131218-20.roll.dbn.zst")
    rows = db.DBNStore.from_file(path).to_ndarray()
    columns = ("open", "high", "low", "close", "volume")
    expected = {(int(r["ts_event"]), int(r["instrument_id"])): tuple(int(r[c]) for c in columns) for r in rows}
    assert folded(read_trades([path]).trades) == expected


# ---------------------------------------------------------------- the front contract by date


def test_the_front_is_the_one_with_the_volume_of_the_day_before(tmp_path: Path) -> None:
    day = 86_400 * 10**9
    path = tmp_path / "roll.dbn"
    made = trades([1, 2, day + 1, day + 2, 2 * day + 1], [12, 14, 12, 14, 12], [50, 9, 20, 70, 5])
    path.write_bytes(header({name: [(key, 0, 4)] for name, key in (("GCZ3", "12"), ("GCG4", "14"))}) + made.tobytes())
    symbology = read_trades([path]).symbology
    fronts = [symbology.resolve("continuous", "GC.v.0", Nanos(START + n * day))[0].raw_symbol for n in range(4)]
    assert fronts == ["GCZ3", "GCZ3", "GCG4", "GCZ3"]


@pytest.mark.real_data
def test_real_december_gives_way_to_march() -> None:
    read = read_trades([shared_market("ES.ohlcv-1m.20131218-20.roll.dbn.zst")])
    noon = Nanos(to_nanos(dt.datetime(2013, 12, 19, 12, tzinfo=dt.UTC)))
    assert read.symbology.resolve("continuous", "ES.v.0", noon)[0].raw_symbol == "ESH4"
    assert len(read.symbology.resolve("parent", "ES.FUT", noon)) == 5
    assert set(read.trades["flags"].tolist()) == {MADE_UP_FLAGS}
    assert read.trades.dtype == TRADE_DTYPE
