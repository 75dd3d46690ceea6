"""Hours and sessions of recorded markets: the daily break and the equity halt of 2013, two contracts side by side.

The expected bars are made with pandas from the vendor's minutes or the trades themselves. In 2013 trading
ended at 16:15 in Chicago; the calendar's close is 16:00, so that quarter of an hour is flagged and belongs
to the next session (docs/sessions.md).
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import attrs
import databento as db
import numpy as np
import pandas as pd
import pytest

from actors.bars import BarAggregator
from actors.carry import fresh_state
from adapters.calendar import CmeCalendar
from adapters.databento.listings import listings_of
from adapters.products import PRODUCTS
from domain.allow_list import AllowList, allow_list
from domain.bars import Bar
from domain.events import ClockTicked, SliceClosed, SymbolMapped, TradesReceived
from domain.market import FRAME_LIMIT, TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.units import MINUTE, Nanos
from tests.builders import Record, opened_session, traded_root

MARKET_DATA = Path(__file__).parents[3] / "shared" / "market"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not MARKET_DATA.is_dir(), reason="real market data is not at ../shared/market"),
]
SATURDAY = 5
COLUMNS = ["open", "high", "low", "close", "volume"]


def read(file: str, root: str) -> tuple[np.ndarray, AllowList]:
    """A file's records and its contracts."""
    store = db.DBNStore.from_file(MARKET_DATA / file)
    return store.to_ndarray(), allow_list(listings_of(store.metadata), [traded_root(root)])


def trades_of_minutes(rows: np.ndarray) -> TradeArray:
    """Four trades for each minute bar: its open with all of the volume, its high, low and close."""
    made = np.zeros(4 * len(rows), TRADE_DTYPE)
    made["length"], made["action"], made["side"] = TRADE_LENGTH_WORDS, b"T", b"N"
    made["instrument_id"] = np.repeat(rows["instrument_id"], 4)
    made["ts_recv"] = made["ts_event"] = np.repeat(rows["ts_event"], 4)
    made["price"] = np.column_stack([rows[name] for name in COLUMNS[:4]]).ravel()
    made["size"][::4] = rows["volume"]
    return made[np.argsort(made["ts_recv"], kind="stable")]


def aggregated(trades: TradeArray, contracts: AllowList, product: str) -> list[SliceClosed]:
    """All slices, session by session, each file going on from the one before."""
    calendar, root = CmeCalendar(), traded_root(product, data_spec=PRODUCTS[product].spec)
    slices: list[SliceClosed] = []
    machine, at = BarAggregator(), 0
    while at < len(trades):
        session = calendar.session_of(Nanos(int(trades["ts_recv"][at])), [root])
        left, machine, record = machine.open_bars(), BarAggregator(), Record()
        carried = attrs.evolve(
            fresh_state(),
            open_minutes=left.minutes,
            open_hours=left.hours,
            open_days=left.days,
            watermark_ns=left.watermark_ns,
        )
        for event in (opened_session(session=session, roots=(root,)), carried):
            machine.handle(record.put(event))
        for one in contracts.contracts:
            mapped = SymbolMapped(root=product, contract=one.raw_symbol, rank=0, instrument_id=one.instrument_id)
            machine.handle(record.put(mapped))
        end = int(np.searchsorted(trades["ts_recv"], session.end_ns))
        for start in range(at, end, FRAME_LIMIT):
            machine.handle(record.put(TradesReceived(trades=trades[start : min(start + FRAME_LIMIT, end)])))
        closed = machine.handle(record.put(ClockTicked(ts=session.end_ns, watermark=session.end_ns)))
        slices += [one for one in closed if isinstance(one, SliceClosed)]
        at = end
    return slices


def frame_of(rows: np.ndarray, contracts: AllowList, prices: dict[str, str], volume: str, stamp: str) -> pd.DataFrame:
    """One line for each record: contract, time in Chicago, prices and volume."""
    names = {one.instrument_id: one.raw_symbol for one in contracts.contracts}
    columns = {name: rows[field].astype(np.int64) for name, field in prices.items()}
    frame = pd.DataFrame({"contract": [names[key] for key in rows["instrument_id"].tolist()], **columns})
    frame["volume"] = rows[volume].astype(np.int64)
    frame["at"] = pd.to_datetime(rows[stamp].astype(np.int64), utc=True).tz_convert("America/Chicago")
    return frame.sort_values("at", kind="stable")


def folded(frame: pd.DataFrame, by: pd.Series) -> dict[tuple[str, object], tuple[int, ...]]:
    """The bars of `frame` by contract and `by`."""
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    bars = frame.groupby([frame["contract"], by.rename("key")]).agg(how)
    return {key: tuple(int(row[name]) for name in COLUMNS) for key, row in bars.iterrows()}


def session_dates(frame: pd.DataFrame) -> pd.Series:
    """From 16:00 on it is the next day's session; from Friday 16:00 on Monday's."""
    date = (frame["at"].dt.tz_localize(None) + pd.Timedelta(hours=8)).dt.normalize()
    return (date + pd.to_timedelta((date.dt.day_of_week == SATURDAY) * 2, unit="D")).dt.date


def values(bar: Bar) -> tuple[int, ...]:
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)


def assert_hours_and_sessions(slices: list[SliceClosed], frame: pd.DataFrame) -> None:
    hours = {(bar.contract, pd.Timestamp(bar.ts_start, tz="UTC")): values(bar) for s in slices for bar in s.hours}
    assert hours == folded(frame, frame["at"].dt.tz_convert("UTC").dt.floor("h"))
    sessions = {
        (bar.contract, pd.Timestamp(bar.ts_end, tz="UTC").tz_convert("America/Chicago").date()): values(bar)
        for s in slices
        for bar in s.days
    }
    assert sessions == folded(frame, session_dates(frame))
    is_outside = {bar.ts_start for s in slices for bar in s.minutes if bar.is_outside_hours}
    quarter = frame["at"][(frame["at"].dt.hour == 16)].dt.floor("min")
    assert is_outside == {stamp.value for stamp in quarter}
    assert all(stamp.minute < 15 for stamp in quarter)


def silent(slices: list[SliceClosed], day: dt.date, start: str, end: str) -> bool:
    """Whether no minute begins between two times of a UTC day, though the ones around it have bars."""
    first, last = (pd.Timestamp(f"{day}T{time}", tz="UTC").value for time in (start, end))
    starts = {bar.ts_start for s in slices for bar in s.minutes}
    assert first - MINUTE in starts, "the market traded until then"
    return not any(first <= ts < last for ts in starts)


@pytest.mark.parametrize(
    ("file", "product", "days", "halt", "rest"),
    [
        ("ES.ohlcv-1m.20131006-11.dbn.zst", "ES", range(7, 11), ("20:15", "20:30"), ("21:15", "22:00")),
        ("GC.ohlcv-1m.20131007-11.dbn.zst", "GC", range(7, 11), None, ("21:15", "22:00")),
        # In December Chicago is an hour further from UTC; the 19th is not in the file.
        ("ES.ohlcv-1m.20131218-20.roll.dbn.zst", "ES", (18,), ("21:15", "21:30"), ("22:15", "23:00")),
    ],
    ids=["equity halt", "gold", "two contracts in a roll"],
)
def test_breaks_and_halts_leave_holes_and_every_hour_and_session_is_whole(
    file: str, product: str, days: range, halt: tuple[str, str] | None, rest: tuple[str, str]
) -> None:
    rows, contracts = read(file, product)
    slices = aggregated(trades_of_minutes(rows), contracts, product)
    frame = frame_of(rows, contracts, {name: name for name in COLUMNS[:4]}, "volume", "ts_event")
    minutes = {(bar.contract, pd.Timestamp(bar.ts_start, tz="UTC")): values(bar) for s in slices for bar in s.minutes}
    assert minutes == folded(frame, frame["at"].dt.tz_convert("UTC")), "the vendor's minutes come back"
    assert_hours_and_sessions(slices, frame)
    month = 12 if "201312" in file else 10
    for day in days:
        assert silent(slices, dt.date(2013, month, day), *rest)
        if halt is not None:
            assert silent(slices, dt.date(2013, month, day), *halt)
            # The hour around the halt is one bar, of the three quarters in which there was a market.
            end = pd.Timestamp(f"2013-{month}-{day}T{halt[0]}", tz="UTC").ceil("h")
            (closed,) = [s for s in slices if s.ts == end.value]
            assert "ESZ3" in {bar.contract for bar in closed.hours}
    assert len({bar.contract for s in slices for bar in s.minutes}) > 1, "each contract has bars of its own"


def test_hours_and_sessions_of_92267_real_gold_trades_are_those_of_pandas() -> None:
    parts, listings = [], []
    for day in ("07", "08"):
        store = db.DBNStore.from_file(MARKET_DATA / f"GC.trades.201310{day}.dbn.zst")
        parts.append(store.to_ndarray())
        listings += listings_of(store.metadata)
    trades, contracts = np.concatenate(parts), allow_list(listings, [traded_root("GC")])
    assert len(trades) == 92_267
    slices = aggregated(trades.view(TRADE_DTYPE), contracts, "GC")
    price = dict.fromkeys(COLUMNS[:4], "price")
    frame = frame_of(trades, contracts, price, "size", "ts_recv")
    assert_hours_and_sessions(slices, frame)
