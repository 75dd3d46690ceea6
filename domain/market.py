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
    """The largest ts_event of `trades` (at least one), each no later than its ts_recv.

    A stamp that is undefined or lies ahead of the record's arrival would put a feed's resume point behind records
    that have not come yet.
    """
    return Nanos(int(np.minimum(trades["ts_event"], trades["ts_recv"]).max()))


def with_arrival(trades: TradeArray) -> TradeArray:
    """`trades` with ts_event where ts_recv is undefined, without those that have neither: they belong to no minute."""
    is_undefined = trades["ts_recv"] == UNDEF_TIMESTAMP
    if not is_undefined.any():
        return trades
    stamped: TradeArray = trades[~is_undefined | (trades["ts_event"] != UNDEF_TIMESTAMP)]
    lacking = stamped["ts_recv"] == UNDEF_TIMESTAMP
    stamped["ts_recv"][lacking] = stamped["ts_event"][lacking]
    return stamped


def empty_trades() -> TradeArray:
    """No records."""
    return np.zeros(0, TRADE_DTYPE)
