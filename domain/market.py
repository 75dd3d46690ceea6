"""Market records as they are on the wire, in columns.

A trade is never a Python object on the hot path: records stay in numpy arrays of
Databento's own layout (`TradeMsg`, 48 bytes, little-endian), from the socket to
the journal and into the bars.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domain.units import UNDEF_TIMESTAMP, Nanos

TRADE_DTYPE = np.dtype(
    [
        ("length", "u1"),
        ("rtype", "u1"),
        ("publisher_id", "<u2"),
        ("instrument_id", "<u4"),
        ("ts_event", "<u8"),
        ("price", "<i8"),
        ("size", "<u4"),
        ("action", "S1"),
        ("side", "S1"),
        ("flags", "u1"),
        ("depth", "u1"),
        ("ts_recv", "<u8"),
        ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
)
"""Databento DBN `TradeMsg`: prices 1e-9, stamps UTC nanoseconds, `length` in units of 4 bytes."""

TRADE_RTYPE = 0
TRADE_LENGTH_WORDS = TRADE_DTYPE.itemsize // 4

FRAME_LIMIT = 4096
"""Records of one `TradesReceived` at most: 11.2 B/trade in the journal, 29.8 when cut every 100 ms."""

TradeArray = npt.NDArray[np.void]
"""A one-dimensional array of TRADE_DTYPE."""


def trades_from_bytes(raw: bytes) -> TradeArray:
    """The records of `raw` (concatenated 48-byte TradeMsg), read-only, without a copy.

    Raises ValueError when `raw` does not hold whole records.
    """
    if len(raw) % TRADE_DTYPE.itemsize:
        raise ValueError(f"{len(raw)} bytes are not whole records of {TRADE_DTYPE.itemsize}")
    return np.frombuffer(raw, TRADE_DTYPE)


def last_event_time(trades: TradeArray) -> Nanos:
    """The largest ts_event of `trades` (at least one); where the vendor left it undefined, ts_recv stands in."""
    stamps = np.where(trades["ts_event"] == UNDEF_TIMESTAMP, trades["ts_recv"], trades["ts_event"])
    return Nanos(int(stamps.max()))


def empty_trades() -> TradeArray:
    """No records."""
    return np.zeros(0, TRADE_DTYPE)
