"""Recorded files are read to the byte, or refused with the file's name and a remedy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import databento as db
import databento_dbn
import numpy as np
import pytest
import zstandard
from databento_dbn import Metadata, Schema, SType

from adapters.databento.dbn_files import TS_OUT_TRADE_DTYPE, read_trades
from domain.errors import OperatorError
from domain.market import TRADE_DTYPE, TradeArray
from domain.units import Nanos

START = 1_381_104_000_000_000_000  # 2013-10-07T00:00Z
DAY = dt.date(2013, 10, 7)
AT = Nanos(START)


@attrs.frozen
class Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@attrs.frozen
class Listed:
    raw_symbol: str
    intervals: list[Interval]


def shared_market(name: str) -> Path:
    """A file of the shared market data; skips the test, saying so, where it is absent."""
    path = Path(__file__).resolve().parents[4] / "shared" / "market" / name
    if not path.exists():
        pytest.skip(f"real market data not found: ../shared/market/{name}")
    return path


def header(symbols: Mapping[str, Sequence[tuple[str, int, int]]], **changes: Any) -> bytes:
    """DBN metadata; symbols map to (out symbol, first day, last day exclusive), days counted from DAY."""
    listed = [
        Listed(name, [Interval(DAY + dt.timedelta(days=a), DAY + dt.timedelta(days=b), out) for out, a, b in spans])
        for name, spans in symbols.items()
    ]
    fields: dict[str, Any] = {
        "dataset": "GLBX.MDP3", "start": START, "stype_in": SType.RAW_SYMBOL, "stype_out": SType.INSTRUMENT_ID,
        "schema": Schema.TRADES, "symbols": list(symbols), "mappings": listed, "end": START + 1, "ts_out": False,
    }  # fmt: skip
    return bytes(Metadata(**{**fields, **changes}).encode())


def trades(stamps: Sequence[int], ids: Sequence[int], sizes: Sequence[int] | None = None) -> TradeArray:
    made = np.zeros(len(stamps), TRADE_DTYPE)
    made["length"], made["publisher_id"], made["action"], made["side"] = 12, 1, b"T", b"A"
    made["ts_recv"] = made["ts_event"] = START + np.array(stamps)
    made["instrument_id"] = ids
    made["price"] = 1_300_000_000_000
    made["size"] = 1 if sizes is None else sizes
    made["sequence"] = np.arange(len(stamps))
    return made


GOLD = {name: [(str(key), 0, 2)] for name, key in
        (("GCV3", 10), ("GCZ3", 12), ("GCG4", 14), ("GCJ4", 16), ("GCZ3-GCG4", 99), ("GCXXX", 98))}  # fmt: skip
GOLD_TRADES = trades([1, 2, 3, 4, 5, 6], [10, 12, 14, 16, 99, 98], [5, 50, 2, 7, 900, 900])


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    path = tmp_path / "gold.dbn"
    path.write_bytes(header(GOLD) + GOLD_TRADES.tobytes())
    return path


def test_the_records_layout_is_the_librarys() -> None:
    assert np.dtype(databento_dbn.TradeMsg._dtypes) == TRADE_DTYPE


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_reads_the_same(tmp_path: Path, version: int) -> None:
    path = tmp_path / "v.dbn"
    path.write_bytes(header(GOLD, version=version) + GOLD_TRADES.tobytes())
    read = read_trades([path])
    assert read.trades.tobytes() == GOLD_TRADES.tobytes()
    assert read.dataset == "GLBX.MDP3"
    assert read.symbology.resolve("raw_symbol", "GCZ3", AT)[0].instrument_id == 12


def test_compressed_files_read_the_same_in_one_frame_or_many(tmp_path: Path, gold: Path) -> None:
    raw, pack = gold.read_bytes(), zstandard.ZstdCompressor().compress
    one, many = tmp_path / "one.dbn.zst", tmp_path / "many.dbn.zst"
    one.write_bytes(pack(raw))
    many.write_bytes(pack(raw[:-96]) + pack(raw[-96:-48]) + pack(raw[-48:]))
    for path in (one, many):
        assert read_trades([path]).trades.tobytes() == GOLD_TRADES.tobytes()


def test_ts_out_is_taken_off(tmp_path: Path) -> None:
    with_ts_out = np.zeros(len(GOLD_TRADES), TS_OUT_TRADE_DTYPE)
    for name in TRADE_DTYPE.names or ():
        with_ts_out[name] = GOLD_TRADES[name]
    with_ts_out["length"], with_ts_out["ts_out"] = 14, 7
    path = tmp_path / "out.dbn"
    path.write_bytes(header(GOLD, ts_out=True) + with_ts_out.tobytes())
    assert read_trades([path]).trades.tobytes() == GOLD_TRADES.tobytes()


def test_files_merge_by_arrival_and_ties_keep_the_order_of_the_files(tmp_path: Path) -> None:
    first, second = trades([1, 5, 5], [12, 12, 12]), trades([0, 5, 9], [14, 14, 14])
    paths = [tmp_path / "a.dbn", tmp_path / "b.dbn"]
    for path, records in zip(paths, (first, second), strict=True):
        path.write_bytes(header(GOLD) + records.tobytes())
    merged = read_trades(paths).trades
    assert (merged["ts_recv"] - START).tolist() == [0, 1, 5, 5, 5, 9]
    assert merged["instrument_id"].tolist() == [14, 12, 12, 12, 14, 14]


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [("GC.v.0", "GCZ3"), ("GC.v.1", "GCG4"), ("GC.v.2", "GCJ4"), ("GC.v.3", "GCV3"), ("GC.v.4", None),
     ("GC.n.0", "GCZ3"), ("GC.c.0", "GCV3"), ("GC.c.3", "GCJ4"), ("GC.x.0", None), ("G.v.0", None), ("GC.v", None)],
)  # fmt: skip
def test_continuous_ranks_by_volume_then_next_expiry_or_by_expiry(
    gold: Path, symbol: str, expected: str | None
) -> None:
    found = read_trades([gold]).symbology.resolve("continuous", symbol, AT)
    assert [instrument.raw_symbol for instrument in found] == ([] if expected is None else [expected])


def test_without_a_later_expiry_rank_one_is_the_next_by_volume(tmp_path: Path) -> None:
    path = tmp_path / "last.dbn"
    path.write_bytes(header(GOLD) + trades([1, 2, 3], [16, 12, 10], [9, 3, 5]).tobytes())
    symbology = read_trades([path]).symbology
    assert [symbology.resolve("continuous", f"GC.v.{rank}", AT)[0].raw_symbol for rank in (0, 1, 2)] == [
        "GCJ4", "GCV3", "GCZ3"]  # fmt: skip


def test_a_parent_is_outrights_and_spreads_and_nothing_else(gold: Path) -> None:
    symbology = read_trades([gold]).symbology
    names = [instrument.raw_symbol for instrument in symbology.resolve("parent", "GC.FUT", AT)]
    assert names == ["GCG4", "GCJ4", "GCV3", "GCZ3", "GCZ3-GCG4"]
    assert symbology.resolve("parent", "GC", AT) == symbology.resolve("parent", "GC.OPT", AT) == ()


def test_raw_symbols_ids_and_all_symbols_resolve(gold: Path) -> None:
    symbology = read_trades([gold]).symbology
    assert symbology.resolve("raw_symbol", "GCZ3-GCG4", AT)[0].instrument_id == 99
    assert symbology.resolve("instrument_id", "14", AT)[0].raw_symbol == "GCG4"
    assert len(symbology.resolve("raw_symbol", "ALL_SYMBOLS", AT)) == len(GOLD)
    assert symbology.resolve("raw_symbol", "ESZ3", AT) == symbology.resolve("smart", "GCZ3", AT) == ()


def test_an_interval_ends_before_its_end_date(tmp_path: Path) -> None:
    path = tmp_path / "moved.dbn"
    path.write_bytes(header({"GCZ3": [("12", 0, 1), ("13", 1, 2)]}) + trades([1], [12]).tobytes())
    symbology = read_trades([path]).symbology
    day = 86_400 * 10**9
    found = [symbology.resolve("raw_symbol", "GCZ3", Nanos(START + shift))[0].instrument_id
             for shift in (-day, 0, day - 1, day, 9 * day)]  # fmt: skip
    assert found == [12, 12, 12, 13, 13]


def test_a_file_asked_for_continuous_symbols_answers_with_ids(tmp_path: Path) -> None:
    path = tmp_path / "continuous.dbn"
    metadata = header({"GC.v.0": [("12", 0, 1)]}, stype_in=SType.CONTINUOUS)
    path.write_bytes(metadata + trades([1], [12]).tobytes())
    (found,) = read_trades([path]).symbology.resolve("continuous", "GC.v.0", AT)
    assert (found.instrument_id, found.raw_symbol) == (12, "12")


def corrupt_frame(raw: bytes) -> bytes:
    packed = bytearray(zstandard.ZstdCompressor().compress(raw))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda raw: b"", "empty"),
        (lambda raw: b"not a DBN file at all", "not a DBN file"),
        (lambda raw: raw[:40], "corrupt DBN metadata"),
        (lambda raw: raw[:-7], "cut off"),
        (lambda raw: raw[: -6 * 48], "no record"),
        (lambda raw: zstandard.ZstdCompressor().compress(raw)[:-9], "cut off"),
        (corrupt_frame, "corrupt zstd"),
        (lambda raw: raw[:-48] + bytes([12, 33]) + raw[-46:], "other types"),
    ],
    ids=["empty", "other", "metadata", "records", "none", "frame", "zstd", "mixed"],
)
def test_bad_files_are_refused_by_name(gold: Path, damage: Callable[[bytes], bytes], complaint: str) -> None:
    gold.write_bytes(damage(gold.read_bytes()))
    with pytest.raises(OperatorError, match=complaint) as refusal:
        read_trades([gold])
    assert refusal.value.exit_code == 2
    assert refusal.value.where == str(gold)
    assert refusal.value.fix


def test_missing_files_other_schemas_and_other_datasets_are_refused(tmp_path: Path, gold: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"):
        read_trades([tmp_path / "nowhere.dbn"])
    with pytest.raises(OperatorError, match="no DBN file"):
        read_trades([])
    bars, other = tmp_path / "bars.dbn", tmp_path / "other.dbn"
    bars.write_bytes(header(GOLD, schema=Schema.OHLCV_1D))
    with pytest.raises(OperatorError, match="schema ohlcv-1d"):
        read_trades([bars])
    other.write_bytes(header(GOLD, dataset="XNAS.ITCH") + GOLD_TRADES.tobytes())
    with pytest.raises(OperatorError, match=r"dataset XNAS\.ITCH"):
        read_trades([gold, other])


def test_an_id_with_two_meanings_is_refused(tmp_path: Path, gold: Path) -> None:
    other = tmp_path / "later.dbn"
    other.write_bytes(header({"SIZ3": [("12", 3, 4)]}) + trades([1], [12]).tobytes())
    with pytest.raises(OperatorError, match="instrument id 12"):
        read_trades([gold, other])


@pytest.mark.real_data
def test_real_gold_days_read_to_the_record_and_december_leads() -> None:
    paths = [shared_market(f"GC.trades.201310{day}.dbn.zst") for day in ("07", "08")]
    read = read_trades(paths)
    assert len(read.trades) == 40_045 + 52_222
    at = Nanos(int(read.trades["ts_recv"][0]))
    names = [read.symbology.resolve("continuous", f"GC.v.{rank}", at)[0].raw_symbol for rank in (0, 1)]
    assert names == ["GCZ3", "GCG4"]
    assert len(read.symbology.resolve("parent", "GC.FUT", at)) == 11


@pytest.mark.real_data
def test_real_es_equals_what_the_vendors_reader_gives() -> None:
    path = shared_market("ESH4.trades.20231225.dbn.zst")
    theirs = db.DBNStore.from_file(path).to_ndarray()
    arrived = theirs[np.argsort(theirs["ts_recv"], kind="stable")]
    assert read_trades([path]).trades.tobytes() == arrived.tobytes()
