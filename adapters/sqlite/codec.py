"""Payloads: JSON text for everything a person or a SQLite tool may ask for, columns for the rest.

Three forms. Market batches are one zstd frame of raw DBN records each; history is one
zstd frame of a JSON header line and int64 columns; every other event is JSON text whose
keys are the event's fields. The law: decode(encode(event)) == event, bit for bit.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable
from decimal import Decimal
from itertools import groupby
from typing import Any, get_args

import cattrs
import numpy as np
import orjson
import zstandard
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from adapters.sqlite.upcasters import upcast
from domain.bars import BAR_COLUMNS, BarTable, Timeframe
from domain.errors import JournalUnreadable, OurError
from domain.events import EVENT_TYPES, EVENT_VERSIONS, Event, HistoryLoaded, TradesReceived
from domain.market import trades_from_bytes
from domain.rolls import RollSeam

ZSTD_LEVEL = 3
MAX_FRAME_BYTES = 64 << 20
"""No payload unpacks to more; a larger claim is a corrupt frame."""


_COLUMNAR = (TradesReceived, HistoryLoaded)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise OurError(f"{value} cannot be journaled")
    return value


def _finite_text(value: Decimal) -> str:
    if not value.is_finite():
        raise OurError(f"{value} cannot be journaled")
    return str(value)


def _finite_decimal(value: Any, _: Any) -> Decimal:
    number = Decimal(_exactly(str)(value, None))
    if not number.is_finite():
        raise ValueError(f"{value} is no amount")
    return number


def _exactly(*kinds: type) -> Callable[[Any, Any], Any]:
    """A hook that takes a JSON value as it is: cattrs would make `"false"` true and null a text."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"{value!r} is no {kinds[0].__name__}")
        return kinds[0](value)

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False, forbid_extra_keys=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_unstructure_hook(float, _finite)
    converter.register_unstructure_hook(Decimal, _finite_text)
    converter.register_structure_hook(Decimal, _finite_decimal)
    converter.register_unstructure_hook(dt.date, dt.date.isoformat)
    converter.register_structure_hook(dt.date, lambda value, _: dt.date.fromisoformat(value))
    return converter


class Codec:
    """Implements `domain.ports.Codec`. Safe to share between threads."""

    def __init__(self) -> None:
        self._converter = _make_converter()
        self._local = threading.local()
        for cls in EVENT_TYPES.values():
            if cls in _COLUMNAR:
                continue
            # Generated once, up front: two threads must not race to build the same function.
            self._converter.register_unstructure_hook(cls, make_dict_unstructure_fn(cls, self._converter))
            self._converter.register_structure_hook(cls, make_dict_structure_fn(cls, self._converter))

    def encode(self, event: Event) -> str | bytes:
        """The payload as it is written. Raises OurError for NaN and infinity."""
        match event:
            case TradesReceived(trades=trades):
                return self._compress(trades.tobytes())
            case HistoryLoaded():
                return self._compress(self._history_bytes(event))
            case _:
                return orjson.dumps(self._converter.unstructure(event)).decode()

    def decode(self, type: str, version: int, raw: str | bytes) -> Event:
        """The event of `raw`. Raises JournalUnreadable when it is unknown, newer, or malformed."""
        cls = EVENT_TYPES.get(type)
        if cls is None:
            raise JournalUnreadable(f"event type {type!r} is unknown to this program")
        try:
            if isinstance(raw, bytes):
                return self._decode_columns(type, version, raw)
            if cls in _COLUMNAR:
                raise ValueError("columns are not text")
            payload = upcast(type, version, orjson.loads(raw), to=EVENT_VERSIONS[type])
            event: Event = self._converter.structure(payload, cls)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,  # cattrs asks a number or a list for its keys
            ArithmeticError,
            zstandard.ZstdError,
            cattrs.errors.CattrsError,
        ) as error:
            raise JournalUnreadable(f"{type}: malformed payload ({error})") from error
        return event

    def _decode_columns(self, type: str, version: int, raw: bytes) -> Event:
        if version > EVENT_VERSIONS[type]:
            raise JournalUnreadable(f"{type} is version {version}; this program knows {EVENT_VERSIONS[type]}")
        if type == "TradesReceived":
            return TradesReceived(trades=trades_from_bytes(self._decompress(raw)))
        if type == "HistoryLoaded":
            return self._history_of(self._decompress(raw))
        raise JournalUnreadable(f"{type} has no column form")

    # ------------------------------------------------------------ columns

    def _history_bytes(self, history: HistoryLoaded) -> bytes:
        header: dict[str, Any] = {
            "source": history.source,
            "seams": self._converter.unstructure(history.seams),
            "tables": [
                {
                    "root": table.root,
                    "timeframe": table.timeframe,
                    "contracts": [[name, len(list(run))] for name, run in groupby(table.contracts)],
                }
                for table in history.tables
            ],
        }
        columns = b"".join(np.ascontiguousarray(table.data.T, "<i8").tobytes() for table in history.tables)
        return orjson.dumps(header) + b"\n" + columns

    def _history_of(self, data: bytes) -> HistoryLoaded:
        line, _, columns = data.partition(b"\n")
        header = orjson.loads(line)
        tables, offset, width = [], 0, len(BAR_COLUMNS)
        for entry in header["tables"]:
            contracts = tuple(name for name, count in entry["contracts"] for _ in range(count))
            size = len(contracts) * width
            block = np.frombuffer(columns, "<i8", size, offset).reshape(width, len(contracts))
            offset += size * 8
            if entry["timeframe"] not in get_args(Timeframe):
                raise ValueError(f"{entry['timeframe']!r} is no timeframe")
            tables.append(BarTable(root=entry["root"], timeframe=entry["timeframe"], contracts=contracts, data=block.T))
        if offset != len(columns):
            raise ValueError(f"{len(columns) - offset} bytes beyond the last table")
        return HistoryLoaded(
            tables=tuple(tables),
            seams=self._converter.structure(header["seams"], tuple[RollSeam, ...]),
            source=header["source"],
        )

    # zstandard's contexts are not safe to share between threads.

    def _compress(self, data: bytes) -> bytes:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        packed: bytes = self._local.compressor.compress(data)
        return packed

    def _decompress(self, raw: bytes) -> bytes:
        if not hasattr(self._local, "decompressor"):
            self._local.decompressor = zstandard.ZstdDecompressor()
        # The library honours a limit only where the frame does not state its size; ours always do.
        if zstandard.frame_content_size(raw) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of more than {MAX_FRAME_BYTES} bytes")
        data: bytes = self._local.decompressor.decompress(raw, max_output_size=MAX_FRAME_BYTES, allow_extra_data=False)
        return data
