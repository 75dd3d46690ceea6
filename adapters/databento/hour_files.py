"""DBN files of trades or bars as hour or minute bars of single outright contracts, and such bars as a DBN file.

Clock hours in UTC: sessions open on the full hour, so they are the hours of the session's grid. Only
outrights of known products come through, each by its instrument id on the dates on which the file says
so: spreads, user-defined instruments and products that nobody asked for never do.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import zstandard
from databento_dbn import DBNError, Metadata, OHLCVMsg, Schema, SType

from adapters.databento.dbn_files import decompressed
from adapters.databento.listings import listings_of
from domain.allow_list import allowed
from domain.errors import OperatorError
from domain.history import ContractAt, Rows, Span
from domain.instruments import parse_contract
from domain.market import TRADE_DTYPE, TRADE_RTYPE
from domain.units import DAY, HOUR, MINUTE, UNDEF_PRICE, UNDEF_TIMESTAMP, Nanos

OHLCV_DTYPE = np.dtype(OHLCVMsg._dtypes)
OHLCV_1M_RTYPE, OHLCV_1H_RTYPE = 33, 34
_PUBLISHER_GLBX = 1


@attrs.frozen
class _Layout:
    """How a schema's records lie, and what of a bar they are. `length`: time in one record (0: a moment)."""

    dtype: np.dtype[np.void]
    rtype: int
    stamp: str
    length: Nanos
    columns: tuple[str, str, str, str, str]


_BAR = ("open", "high", "low", "close", "volume")
_LAYOUTS: Mapping[str, _Layout] = {
    "trades": _Layout(TRADE_DTYPE, TRADE_RTYPE, "ts_recv", Nanos(1), ("price", "price", "price", "price", "size")),
    "ohlcv-1m": _Layout(OHLCV_DTYPE, OHLCV_1M_RTYPE, "ts_event", MINUTE, _BAR),
    "ohlcv-1h": _Layout(OHLCV_DTYPE, OHLCV_1H_RTYPE, "ts_event", HOUR, _BAR),
}
SCHEMAS = tuple(_LAYOUTS)


@attrs.frozen(kw_only=True, eq=False)
class FileHours:
    """The whole hours of one file."""

    dataset: str
    schema: str
    hours: Mapping[ContractAt, Rows]
    """By contract, in order of their names. `trades` is 0 where the file does not count them."""
    covered: Span
    """The whole hours inside the file's span; empty (start = end) when it holds none."""
    foreign: int
    """Records of anything else: spreads, other products, ids without a name on that date."""


def read_hours(path: Path, products: Collection[str]) -> FileHours:
    """The hours of the outrights of `products` in a DBN file of trades, ohlcv-1m or ohlcv-1h, compressed or not.

    Raises OperatorError (exit code 2) for a file that is missing, corrupt, cut off or of another schema.
    """
    return read_bars(path, products, HOUR)


def read_bars(path: Path, products: Collection[str], length: Nanos) -> FileHours:
    """As `read_hours`, but bars of `length`, a minute or an hour.

    A file that begins or ends inside an hour lacks that hour; a minute is taken as it is, as a feed's would be.
    Raises OperatorError (exit code 2) too for a file whose own bars are longer.
    """
    data = decompressed(path)
    metadata, body = _metadata(path, data)
    layout = _LAYOUTS[str(metadata.schema)]
    if layout.length > length:
        fix = "request ohlcv-1m or trades; `history fetch --minutes` does"
        raise _refused(path, f"schema {metadata.schema}, which has no minutes", fix)
    records = _records(path, memoryview(data)[body:], layout, has_ts_out=bool(metadata.ts_out))
    if layout.dtype == TRADE_DTYPE:
        records = records[records["price"] != UNDEF_PRICE]
    stamps = records[layout.stamp].astype(np.int64)
    covered = _covered(metadata, stamps, layout.length, length)
    contracts = allowed(listings_of(metadata), {product: product for product in products})
    places = contracts.places(records["instrument_id"], stamps)
    parts: dict[ContractAt, list[npt.NDArray[np.intp]]] = defaultdict(list)
    for place, contract in enumerate(contracts.contracts):
        parts[ContractAt(raw_symbol=contract.raw_symbol, name=contract.name)].append(np.flatnonzero(places == place))
    hours = {}
    for at in sorted(parts, key=lambda at: at.raw_symbol):
        own = np.sort(np.concatenate(parts[at]))
        hours[at] = _fold(records[own], stamps[own], layout, covered, length)
    return FileHours(
        dataset=metadata.dataset,
        schema=str(metadata.schema),
        hours=hours,
        covered=covered,
        foreign=int((places < 0).sum()),
    )


def contract_of(symbol: str, date: dt.date, products: Collection[str]) -> ContractAt | None:
    """The contract of one of `products` that the vendor's `symbol` names on `date`; None for anything else."""
    name = parse_contract(symbol, products, date)
    return None if name is None else ContractAt(raw_symbol=symbol, name=name)


def bars_file(dataset: str, covered: Span, bars: Mapping[ContractAt, Rows], length: Nanos = HOUR) -> bytes:
    """A DBN file of bars of `length`, an hour or a minute, compressed, as the vendor would deliver it.

    Instrument ids are counted from 1.
    """
    first, last = (dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC).date() for ns in (covered.start, covered.end))
    listed, parts = [], []
    for number, (contract, rows) in enumerate(bars.items(), 1):
        interval = _Interval(first, last + dt.timedelta(days=1), str(number))
        listed.append(_Listed(contract.raw_symbol, [interval]))
        records = np.zeros(len(rows), OHLCV_DTYPE)
        records["length"] = OHLCV_DTYPE.itemsize // 4
        records["rtype"] = OHLCV_1M_RTYPE if length == MINUTE else OHLCV_1H_RTYPE
        records["publisher_id"], records["instrument_id"] = _PUBLISHER_GLBX, number
        for column, name in enumerate(("ts_event", None, *_BAR)):
            if name is not None:
                records[name] = rows[:, column]
        parts.append(records)
    merged = np.concatenate(parts) if parts else np.zeros(0, OHLCV_DTYPE)
    # The library's types name text where its encoder wants its enumerations, and dicts where it wants objects.
    fields: dict[str, Any] = {
        "dataset": dataset,
        "start": covered.start,
        "end": covered.end,
        "stype_in": SType.RAW_SYMBOL,
        "stype_out": SType.INSTRUMENT_ID,
        "schema": Schema.OHLCV_1M if length == MINUTE else Schema.OHLCV_1H,
        "symbols": [each.raw_symbol for each in listed],
        "mappings": listed,
    }
    body = merged[np.argsort(merged["ts_event"], kind="stable")].tobytes()
    packed: bytes = zstandard.ZstdCompressor().compress(bytes(Metadata(**fields).encode()) + body)
    return packed


@attrs.frozen
class _Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@attrs.frozen
class _Listed:
    raw_symbol: str
    intervals: list[_Interval]


def _metadata(path: Path, data: bytes) -> tuple[Metadata, int]:
    """The metadata and where the records begin."""
    if data[:3] != b"DBN" or len(data) < 8:
        raise _refused(path, "not a DBN file", "give a file as Databento delivers it (.dbn or .dbn.zst)")
    body = 8 + int.from_bytes(data[4:8], "little")
    try:
        metadata = Metadata.decode(data[:body])
    except DBNError as error:
        raise _refused(path, f"corrupt DBN metadata: {error}", "download the file again") from error
    if str(metadata.schema) not in _LAYOUTS:
        raise _refused(path, f"schema {metadata.schema or 'mixed'}", f"request one of {', '.join(SCHEMAS)}")
    return metadata, body


def _records(path: Path, body: memoryview, layout: _Layout, *, has_ts_out: bool) -> npt.NDArray[np.void]:
    dtype = layout.dtype
    if has_ts_out:
        dtype = np.dtype([*((name, dtype[name]) for name in dtype.names or ()), ("ts_out", "<u8")])
    if len(body) % dtype.itemsize:
        raise _refused(path, "the records are cut off or of mixed types", "download the file again")
    records = np.frombuffer(body, dtype)
    if not bool(((records["length"] == dtype.itemsize // 4) & (records["rtype"] == layout.rtype)).all()):
        raise _refused(path, "records of other types among the bars", "request one schema per file")
    return records


def _covered(metadata: Metadata, stamps: npt.NDArray[np.int64], record: Nanos, length: Nanos) -> Span:
    """Whole hours only: one that begins before the file does, or ends after it, would be half a bar."""
    end = metadata.end
    if end in (None, 0, UNDEF_TIMESTAMP):
        end = int(stamps.max()) + 1 if len(stamps) else metadata.start
    if length == MINUTE:
        return Span(start=Nanos(metadata.start // length * length), end=Nanos(-(-int(end) // length) * length))
    start = -(-metadata.start // length) * length
    stop = -(-int(end) // record) * record // length * length
    return Span(start=Nanos(start), end=Nanos(max(start, stop)))


def _fold(
    records: npt.NDArray[np.void], stamps: npt.NDArray[np.int64], layout: _Layout, covered: Span, length: Nanos
) -> Rows:
    """Bars of `length`: open and close are the first and last record in it, in arrival order for trades."""
    is_inside = (stamps >= covered.start) & (stamps < covered.end)
    records, hours = records[is_inside], stamps[is_inside] // length
    if not len(records):
        return np.zeros((0, 8), np.int64)
    # Bars of a file may come in any order; trades keep theirs inside the hour.
    order = np.argsort(hours if layout.dtype == TRADE_DTYPE else stamps[is_inside], kind="stable")
    records, hours = records[order], hours[order]
    first = np.flatnonzero(np.concatenate(([True], hours[1:] != hours[:-1])))
    after = np.append(first[1:], len(hours))
    open_, high, low, close, volume = (records[name].astype(np.int64) for name in layout.columns)
    counts = after - first if layout.dtype == TRADE_DTYPE else np.zeros(len(first), np.int64)
    return np.column_stack(
        (
            hours[first] * length,
            hours[first] * length + length,
            open_[first],
            np.maximum.reduceat(high, first),
            np.minimum.reduceat(low, first),
            close[after - 1],
            np.add.reduceat(volume, first),
            counts,
        )
    )


def _midnight(date: dt.date) -> int:
    return (date - dt.date(1970, 1, 1)).days * DAY


def _refused(path: Path, what: str, fix: str) -> OperatorError:
    return OperatorError(what, where=str(path), fix=fix, exit_code=2)
