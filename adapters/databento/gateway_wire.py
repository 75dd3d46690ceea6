"""One connection's outgoing half: DBN records to bytes on a socket.

Honours what the client asked for at authentication (zstd, ts_out) and keeps the
time of the last byte, by which heartbeats are due. It decides nothing about what
is sent or when.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import zstandard
from databento_dbn import UNDEF_TIMESTAMP, ErrorCode, ErrorMsg, Metadata, SType, SymbolMappingMsg, SystemCode, SystemMsg

from adapters.databento.dbn_files import TS_OUT_TRADE_DTYPE
from adapters.databento.symbology import Instrument
from domain.market import TRADE_DTYPE, TradeArray
from domain.units import Nanos

# Through from_str: the library's stubs type the members of its enums as plain int and str.
HEARTBEAT = SystemCode.from_str("heartbeat")
SUBSCRIPTION_ACK = SystemCode.from_str("subscription_ack")
REPLAY_COMPLETED = SystemCode.from_str("replay_completed")
SYMBOL_RESOLUTION_FAILED = ErrorCode.from_str("symbol_resolution_failed")
INVALID_SUBSCRIPTION = ErrorCode.from_str("invalid_subscription")
SKIPPED_RECORDS = ErrorCode.from_str("skipped_records_after_slow_reading")
SLOW_READER_WARNING = SystemCode.from_str("slow_reader_warning")
_INSTRUMENT_ID = SType.from_str("instrument_id")
_RAW_SYMBOL = SType.from_str("raw_symbol")

END_OF_DATA = "End of data"
"""Text of the heartbeat-coded SystemMsg that ends the data; its ts_event is the data's exclusive end."""
ERROR_TEXT_LIMIT = 300
"""Characters of an ErrorMsg's text; the record holds 302 bytes with its final zero."""
_TS_OUT_WORDS = 2
_WRITE_BUFFER_BYTES = 1 << 20


class Wire:
    """Writes records to one client. Everything sent after `hang`, `fin` or `rst` is dropped."""

    def __init__(
        self, writer: asyncio.StreamWriter, *, now_ns: Callable[[], Nanos], has_ts_out: bool, is_compressed: bool
    ) -> None:
        self._transport = cast("asyncio.Transport", writer.transport)
        self._writer = writer
        self._now_ns = now_ns
        self._has_ts_out = has_ts_out
        self._compressor = zstandard.ZstdCompressor(level=1).compressobj() if is_compressed else None
        self._is_mute = False
        self.last_sent_s = time.monotonic()
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether what is written can still reach the client."""
        return not self._is_mute and not self._transport.is_closing()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait for the client to read."""
        return self._transport.get_write_buffer_size() > 0

    def metadata(self, dataset: str) -> None:
        """The header of the stream; `start` is the feed's time now."""
        header = Metadata(
            dataset=dataset,
            start=self._now_ns(),
            stype_in=None,
            stype_out=_INSTRUMENT_ID,
            schema=None,
            ts_out=self._has_ts_out,
        )
        self._write(header.encode())

    def mapping(self, stype_in: str, symbol: str, instrument: Instrument) -> None:
        """Say which instrument a subscribed symbol means."""
        record = SymbolMappingMsg(
            publisher_id=0,
            instrument_id=instrument.instrument_id,
            ts_event=self._now_ns(),
            stype_in=SType.from_str(stype_in),
            stype_in_symbol=symbol,
            stype_out=_RAW_SYMBOL,
            stype_out_symbol=instrument.raw_symbol,
            start_ts=UNDEF_TIMESTAMP,
            end_ts=UNDEF_TIMESTAMP,
        )
        self.record(bytes(record))

    def system(self, code: SystemCode, message: str, ts_event: Nanos | None = None) -> None:
        """A system message, stamped with the feed's time unless `ts_event` says otherwise."""
        stamp = self._now_ns() if ts_event is None else ts_event
        self.record(bytes(SystemMsg(ts_event=stamp, msg=message, code=code)))

    def error(self, code: ErrorCode, message: str) -> None:
        """An error message. Whether the connection survives it is the caller's to decide."""
        text = message[:ERROR_TEXT_LIMIT]
        self.record(bytes(ErrorMsg(ts_event=self._now_ns(), err=text, is_last=True, code=code)))

    def trades(self, trades: TradeArray) -> None:
        """Contiguous records of TRADE_DTYPE, as they are."""
        self._write(self._stamped(trades) if self._has_ts_out else _bytes_of(trades))

    def garbage(self) -> None:
        """Bytes that no decoder takes for a record: one of length 0, past any compression."""
        self._writer.write(bytes(64))

    async def drain(self) -> None:
        """Wait until the client has read enough. Raises ConnectionError when it is gone."""
        # drain() alone never yields while the kernel takes everything, and the other tasks would starve.
        await asyncio.sleep(0)
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        await self._writer.drain()

    def hang(self) -> None:
        """Keep the connection and send nothing any more."""
        self._is_mute = True

    def fin(self) -> None:
        """Close in order: what was written is delivered first."""
        self._writer.close()

    def rst(self) -> None:
        """Reset: what the client's kernel has not taken is lost."""
        connection = self._writer.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def record(self, raw: bytes) -> None:
        """One record as it is, with ts_out where the client asked for it."""
        if self._has_ts_out:
            raw = bytes([raw[0] + _TS_OUT_WORDS]) + raw[1:] + self._now_ns().to_bytes(8, "little")
        self._write(raw)

    def _stamped(self, trades: TradeArray) -> memoryview:
        stamped = np.empty(len(trades), TS_OUT_TRADE_DTYPE)
        for name in TRADE_DTYPE.names or ():
            stamped[name] = trades[name]
        stamped["length"] += _TS_OUT_WORDS
        stamped["ts_out"] = self._now_ns()
        return _bytes_of(stamped)

    def _write(self, data: bytes | memoryview) -> None:
        if not self.is_open:
            return
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        self._writer.write(data)
        self.last_sent_s = time.monotonic()


def _bytes_of(records: TradeArray) -> memoryview:
    """The records' memory, not a copy."""
    return records.view(np.uint8).data
