"""Recorded trades: DBN files as one sorted array, and the symbols they were asked for.

Any DBN version, compressed or not, with or without ts_out. It is a reader, not a
converter: a file of another schema, or one of mixed records, is refused. The raw
bytes are taken instead of `DBNStore.to_ndarray()`, which returns garbage for ts_out
files and changes a global of the library when it meets mixed records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import attrs
import numpy as np
import zstandard
from databento_dbn import DBNError, Metadata, Schema, TradeMsg

from adapters.databento.symbology import MappedSymbol, RecordedSymbology
from domain.errors import OperatorError, OurError
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TRADE_RTYPE, TradeArray

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


def read_trades(paths: Iterable[Path]) -> RecordedTrades:
    """The trades of `paths`, merged by ts_recv (stable: ties keep the order of the paths).

    Raises OperatorError (exit code 2) for a file that is missing, corrupt, empty, cut
    off, of another schema or of another dataset than the first, and when one
    instrument id means different contracts in the data that was read.
    """
    parts: list[TradeArray] = []
    mappings: list[MappedSymbol] = []
    dataset = ""
    for path in paths:
        metadata, trades = _read_file(path)
        if dataset and metadata.dataset != dataset:
            raise _refused(
                path, f"dataset {metadata.dataset}, not {dataset} as the files before it", "serve one dataset at a time"
            )
        dataset = metadata.dataset
        parts.append(trades)
        mappings += mappings_of(metadata)
    if not parts:
        raise OperatorError("no DBN file given", where="FILE", fix="name at least one file", exit_code=2)
    merged = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if not bool(np.all(merged["ts_recv"][:-1] <= merged["ts_recv"][1:])):
        merged = merged[np.argsort(merged["ts_recv"], kind="stable")]
    # The library hands the mappings out in the order of a hash map: another one in each process.
    known = tuple(sorted(set(mappings), key=lambda m: (m.symbol, m.start, m.instrument_id)))
    _refuse_reused_ids(known)
    symbology = RecordedSymbology(mappings=known, volumes=_volumes(merged))
    return RecordedTrades(dataset=dataset, trades=merged, symbology=symbology)


def _read_file(path: Path) -> tuple[Metadata, TradeArray]:
    """One file's metadata and trades, in the file's order."""
    data = _decompressed(path)
    if len(data) < _DBN_PREFIX or data[:3] != _DBN_MAGIC:
        raise _refused(path, "not a DBN file", "give a file as Databento delivers it (.dbn or .dbn.zst)")
    body = _DBN_PREFIX + int.from_bytes(data[4:8], "little")
    try:
        metadata = Metadata.decode(data[:body])
    except DBNError as error:
        raise _refused(path, f"corrupt DBN metadata: {error}", "download the file again") from error
    if metadata.schema != Schema.TRADES:
        raise _refused(path, f"schema {metadata.schema or 'mixed'}, not trades", "request the schema trades")
    return metadata, _trades(path, memoryview(data)[body:], has_ts_out=bool(metadata.ts_out))


def _decompressed(path: Path) -> bytes:
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


def _volumes(trades: TradeArray) -> dict[int, int]:
    ids, slots = np.unique(trades["instrument_id"], return_inverse=True)
    totals = np.bincount(slots, weights=trades["size"], minlength=len(ids))
    return {int(key): int(total) for key, total in zip(ids, totals, strict=True)}


def _refused(path: Path, what: str, fix: str) -> OperatorError:
    return OperatorError(what, where=str(path), fix=fix, exit_code=2)
