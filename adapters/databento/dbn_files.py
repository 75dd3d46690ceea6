"""Recorded trades: DBN files as one sorted array, and the symbols they were asked for.

Any DBN version, compressed or not, with or without ts_out. Bars become trades that say
so (`bar_trades`), definitions are kept beside them; a file of another schema, or one of
mixed records, is refused. The raw
bytes are taken instead of `DBNStore.to_ndarray()`, which returns garbage for ts_out
files and changes a global of the library when it meets mixed records.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import attrs
import numpy as np
import zstandard
from databento_dbn import DBNError, InstrumentDefMsg, Metadata, Schema, TradeMsg

from adapters.databento.bar_trades import BAR_DTYPE, INTERVALS, trades_of_bars
from adapters.databento.definitions import definitions_in, products_of
from adapters.databento.symbology import MappedSymbol, RecordedSymbology
from domain.errors import OperatorError, OurError
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TRADE_RTYPE, TradeArray, empty_trades
from domain.units import DAY, SECOND, UNDEF_TIMESTAMP

VENDOR_TRADE_DTYPE = np.dtype(TradeMsg._dtypes)
"""Taken once, at import: reading a mixed file through the library alters the list it is made from."""
TS_OUT_TRADE_DTYPE = np.dtype([*((name, TRADE_DTYPE[name]) for name in TRADE_DTYPE.names or ()), ("ts_out", "<u8")])
"""A trade with the gateway's send time behind it: 56 bytes, `length` two words more."""

if VENDOR_TRADE_DTYPE != TRADE_DTYPE:
    raise OurError(f"databento_dbn lays trades out as {VENDOR_TRADE_DTYPE}, this program as {TRADE_DTYPE}")

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DBN_MAGIC = b"DBN"
_DBN_PREFIX = 8
"""Magic, version byte and the length of the metadata."""


@attrs.frozen(kw_only=True, eq=False)
class RecordedTrades:
    """The trades of one or more files and what their symbols meant."""

    dataset: str
    trades: TradeArray
    """Sorted by ts_recv; records with an equal stamp keep the order of the files and in them."""
    symbology: RecordedSymbology
    definitions: Mapping[int, bytes] = attrs.Factory(dict)
    """By instrument id, the last one of the files: InstrumentDefMsg, DBN version 3."""
    made_of: str = ""
    """The schema of the bars that trades were made of; empty when all are recorded ones."""


@attrs.frozen(kw_only=True, eq=False)
class _File:
    path: Path
    metadata: Metadata
    trades: TradeArray
    definitions: list[InstrumentDefMsg] = attrs.Factory(list)

    @property
    def has_bars(self) -> bool:
        return str(self.metadata.schema) in INTERVALS


def read_trades(paths: Iterable[Path]) -> RecordedTrades:
    """The trades of `paths`, merged by ts_recv (stable: ties keep the order of the paths).

    Raises OperatorError (exit code 2) for a file that is missing, corrupt, empty, cut
    off, of another schema or of another dataset than the first, when one
    instrument id means different contracts in the data that was read, and when one has both trades and bars.
    """
    files = [_read_file(path) for path in paths]
    if not files:
        raise OperatorError("no DBN file given", where="FILE", fix="name at least one file", exit_code=2)
    dataset = files[0].metadata.dataset
    for file in files:
        if file.metadata.dataset != dataset:
            raise _refused(
                file.path,
                f"dataset {file.metadata.dataset}, not {dataset} as the files before it",
                "serve one dataset at a time",
            )
    merged = np.concatenate([file.trades for file in files]) if len(files) > 1 else files[0].trades
    if not len(merged):
        raise _refused(files[0].path, "no file holds trades or bars", "add a file of the schema trades")
    _refuse_both(files)
    if not bool(np.all(merged["ts_recv"][:-1] <= merged["ts_recv"][1:])):
        merged = merged[np.argsort(merged["ts_recv"], kind="stable")]
    definitions = [definition for file in files for definition in file.definitions]
    mappings = {mapping for file in files for mapping in mappings_of(file.metadata)}
    named = {mapping.symbol for mapping in mappings}
    mappings |= {_named_by(d) for d in definitions if d.raw_symbol not in named}
    # The library hands the mappings out in the order of a hash map: another one in each process.
    known = tuple(sorted(mappings, key=lambda m: (m.symbol, m.start, m.instrument_id)))
    _refuse_reused_ids(known)
    return RecordedTrades(
        dataset=dataset,
        trades=merged,
        symbology=RecordedSymbology(mappings=known, volumes=_volumes(merged), products=products_of(definitions)),
        definitions={d.instrument_id: bytes(d) for d in definitions},
        made_of=", ".join(sorted({str(file.metadata.schema) for file in files if file.has_bars})),
    )


def _read_file(path: Path) -> _File:
    """One file's metadata and records, in the file's order."""
    data = decompressed(path)
    if len(data) < _DBN_PREFIX or data[:3] != _DBN_MAGIC:
        raise _refused(path, "not a DBN file", "give a file as Databento delivers it (.dbn or .dbn.zst)")
    body = _DBN_PREFIX + int.from_bytes(data[4:8], "little")
    try:
        metadata = Metadata.decode(data[:body])
    except DBNError as error:
        raise _refused(path, f"corrupt DBN metadata: {error}", "download the file again") from error
    schema, records = str(metadata.schema), memoryview(data)[body:]
    if metadata.schema == Schema.DEFINITION:
        return _File(path=path, metadata=metadata, trades=empty_trades(), definitions=_definitions(path, data))
    if schema in INTERVALS:
        return _File(path=path, metadata=metadata, trades=_bars(path, records, schema))
    if metadata.schema != Schema.TRADES:
        fix = f"request trades, definition or one of {', '.join(INTERVALS)}"
        raise _refused(path, f"schema {metadata.schema or 'mixed'}, not trades", fix)
    return _File(path=path, metadata=metadata, trades=_trades(path, records, has_ts_out=bool(metadata.ts_out)))


def decompressed(path: Path) -> bytes:
    """The bytes of a DBN file, zstd or not. Raises OperatorError (exit code 2)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "check the path") from error
    if not data:
        raise _refused(path, "the file is empty", "download the file again")
    if data[:4] != _ZSTD_MAGIC:
        return data
    frames = []
    while data:
        # One frame after another: a recording may hold many, and only `eof` tells a cut one from a whole one.
        decoder = zstandard.ZstdDecompressor().decompressobj()
        try:
            frames.append(decoder.decompress(data))
        except zstandard.ZstdError as error:
            raise _refused(path, f"corrupt zstd data: {error}", "download the file again") from error
        if not decoder.eof:
            raise _refused(path, "the zstd data is cut off", "download the file again")
        data = decoder.unused_data
    return b"".join(frames)


def _trades(path: Path, body: memoryview, *, has_ts_out: bool) -> TradeArray:
    layout = TS_OUT_TRADE_DTYPE if has_ts_out else TRADE_DTYPE
    if len(body) == 0:
        raise _refused(path, "the file holds no record", "request a span with trades")
    if len(body) % layout.itemsize:
        raise _refused(path, "the records are cut off or of mixed types", "download the file again, trades only")
    records = np.frombuffer(body, layout)
    is_trade = (records["length"] == layout.itemsize // 4) & (records["rtype"] == TRADE_RTYPE)
    if not bool(is_trade.all()):
        raise _refused(path, "records of other types among the trades", "request the schema trades")
    if not has_ts_out:
        return records
    trades = np.empty(len(records), TRADE_DTYPE)
    for name in TRADE_DTYPE.names or ():
        trades[name] = records[name]
    trades["length"] = TRADE_LENGTH_WORDS
    return trades


def _bars(path: Path, body: memoryview, schema: str) -> TradeArray:
    rtype, interval = INTERVALS[schema]
    if not len(body) or len(body) % BAR_DTYPE.itemsize:
        raise _refused(path, "no bars, cut off, or with ts_out", "download the file again, from the historical API")
    bars = np.frombuffer(body, BAR_DTYPE)
    if not bool((bars["rtype"] == rtype).all()):
        raise _refused(path, "records of other types among the bars", f"request the schema {schema}")
    return trades_of_bars(bars, interval)


def _definitions(path: Path, data: bytes) -> list[InstrumentDefMsg]:
    try:
        return definitions_in(data)
    except (DBNError, ValueError) as error:
        raise _refused(path, f"corrupt definitions: {error}", "download the file again") from error


def _named_by(definition: InstrumentDefMsg) -> MappedSymbol:
    """A definition as the mapping of its UTC date, for files that map none of their symbols."""
    stamp = definition.ts_recv if definition.ts_recv != UNDEF_TIMESTAMP else definition.ts_event
    date = dt.datetime.fromtimestamp(stamp // SECOND, tz=dt.UTC).date()
    end = date + dt.timedelta(days=1)
    return MappedSymbol(symbol=definition.raw_symbol, instrument_id=definition.instrument_id, start=date, end=end)


def _refuse_both(files: Collection[_File]) -> None:
    """Trades and bars of one instrument would count every contract twice."""
    bars, trades = (
        {int(key) for file in files if file.has_bars is is_bars for key in np.unique(file.trades["instrument_id"])}
        for is_bars in (True, False)
    )
    if bars & trades:
        raise OperatorError(
            f"instrument id {min(bars & trades)} has both trades and bars",
            where="FILE",
            fix="leave the bars out: trades are better",
            exit_code=2,
        )


def mappings_of(metadata: Metadata) -> list[MappedSymbol]:
    """What a file's header says of its symbols, in no order."""
    found = []
    for symbol_in, intervals in metadata.mappings.items():
        for interval in intervals:
            if not interval["symbol"]:
                continue  # the vendor's mark for "not listed in this interval"
            ends = (interval["symbol"], symbol_in)
            symbol, instrument_id = ends if str(metadata.stype_in) == "instrument_id" else ends[::-1]
            found.append(
                MappedSymbol(
                    symbol=symbol,
                    instrument_id=int(instrument_id),
                    start=interval["start_date"],
                    end=interval["end_date"],
                )
            )
    return found


def _refuse_reused_ids(mappings: Collection[MappedSymbol]) -> None:
    """Ids are unique per date only; records carry no name, so two meanings cannot be told apart."""
    meaning: dict[int, MappedSymbol] = {}
    for mapping in mappings:
        other = meaning.setdefault(mapping.instrument_id, mapping)
        is_alias = "." in other.symbol or "." in mapping.symbol
        if other.symbol != mapping.symbol and not is_alias:
            raise OperatorError(
                f"instrument id {mapping.instrument_id} is {other.symbol} from {other.start}"
                f" and {mapping.symbol} from {mapping.start}",
                where="FILE",
                fix="serve these files one after the other",
                exit_code=2,
            )


def _volumes(trades: TradeArray) -> dict[dt.date, dict[int, int]]:
    """Contracts traded per UTC date and instrument id."""
    days = trades["ts_recv"].astype(np.int64) // DAY
    volumes: dict[dt.date, dict[int, int]] = {}
    for day in np.unique(days).tolist():
        of_day = trades[days == day]
        ids, slots = np.unique(of_day["instrument_id"], return_inverse=True)
        totals = np.bincount(slots, weights=of_day["size"], minlength=len(ids))
        date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
        volumes[date] = {int(key): int(total) for key, total in zip(ids, totals, strict=True)}
    return volumes


def _refused(path: Path, what: str, fix: str) -> OperatorError:
    return OperatorError(what, where=str(path), fix=fix, exit_code=2)
