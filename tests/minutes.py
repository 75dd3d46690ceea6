"""Minute bars of made-up markets as DBN files, for backtests and training."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import numpy as np
import zstandard
from databento_dbn import Metadata, OHLCVMsg, Schema, SType

from domain.sessions import to_nanos
from domain.units import HOUR, MINUTE

_DTYPE = np.dtype(OHLCVMsg._dtypes)
_TICK = 250_000_000
NEW_YORK = ZoneInfo("America/New_York")


def trading_hours(first: dt.date, sessions: int) -> list[int]:
    """The starts of the clock hours in which ES trades, 18:00 to 17:00 New York, from `first` on; no holidays."""
    hours: list[int] = []
    day = first
    while len(hours) < sessions * 23:
        if day.weekday() < 5:
            opens = to_nanos(dt.datetime.combine(day - dt.timedelta(days=1), dt.time(18), NEW_YORK))
            hours += [opens + number * HOUR for number in range(23)]
        day += dt.timedelta(days=1)
    return hours


def rebounds(hours: list[int], *, strength: float, seed: int) -> np.ndarray:
    """Rows (start, open, high, low, close, volume), a bar every five minutes: hours that fell far rise again.

    `strength` is how much of a far fall comes back in the next two hours, and of a small one goes on; 0 is a
    random walk.
    """
    chance = np.random.default_rng(seed)
    price, falls, rows = 4_000.0, [0.0, 0.0], []
    for start in hours:
        drift = sum(-fall * strength if fall < -10.5 else fall * strength for fall in falls if fall < 0) / 2
        begin = price
        for step in range(12):
            open_ = price
            inner = open_ + np.cumsum(chance.normal(drift / 12 / 4, 1.3, 4))
            price = float(inner[-1])
            path = np.round(np.append(open_, inner) * 4).astype(np.int64) * _TICK
            rows.append((start + step * 5 * MINUTE, path[0], path.max(), path.min(), path[-1], 10))
        falls = [price - begin, falls[0]]
    return np.array(rows, np.int64)


def write_minutes(path: Path, rows: np.ndarray, symbol: str = "ESZ4") -> Path:
    """`rows` of one contract as the vendor would deliver them (ohlcv-1m, zstd)."""
    records = np.zeros(len(rows), _DTYPE)
    records["length"], records["rtype"], records["publisher_id"], records["instrument_id"] = 14, 33, 1, 7
    for column, name in enumerate(("ts_event", "open", "high", "low", "close", "volume")):
        records[name] = rows[:, column]
    first, last = (dt.datetime.fromtimestamp(int(rows[at, 0]) // 10**9, dt.UTC).date() for at in (0, -1))
    fields: dict[str, Any] = {
        "dataset": "GLBX.MDP3",
        "start": int(rows[0, 0]),
        "end": int(rows[-1, 0]) + MINUTE,
        "stype_in": SType.RAW_SYMBOL,
        "stype_out": SType.INSTRUMENT_ID,
        "schema": Schema.OHLCV_1M,
        "symbols": [symbol],
        "mappings": [_Listed(symbol, [_Interval(first, last + dt.timedelta(days=1), "7")])],
    }
    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(Metadata(**fields).encode()) + records.tobytes()))
    return path


@attrs.frozen
class _Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@attrs.frozen
class _Listed:
    raw_symbol: str
    intervals: list[_Interval]
