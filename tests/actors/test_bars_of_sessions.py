"""Minutes, hours and sessions over special weeks, against a fold that shares nothing with the program.

The weeks' closes are literals, hours are clock hours in Chicago, and the expected bars are made trade
by trade. The program goes through the same trades file by file, restarted at arbitrary moments.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import attrs
import numpy as np
import pytest

from actors.bars import BarAggregator
from actors.carry import fresh_state
from adapters.calendar import CmeCalendar
from adapters.contract_map import load_contract_map
from domain.bars import Bar
from domain.events import ClockTicked, LateTrade, SliceClosed, SymbolMapped, TradesReceived
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.sessions import Session
from domain.units import HOUR, MINUTE, Nanos
from tests.builders import Record, opened_session

CHICAGO = ZoneInfo("America/Chicago")
CALENDAR = CmeCalendar()
ROOTS = tuple(
    root
    for root in load_contract_map(Path(__file__).parents[2] / "Data" / "Databento_contract_map.yml").roots
    if root.root in ("ES", "GC", "6E", "TLT")
)
CONTRACTS = {1: ("ES", "MESU4"), 2: ("ES", "MESZ4"), 3: ("GC", "MGCZ4"), 4: ("6E", "M6EU4"), 5: ("TLT", "ZBU4")}
"""By instrument id; the bond is a reference root."""

# Sessions in their order with the closes that are not 16:00 in Chicago; None: this root has no session.
WEEKS: dict[str, list[tuple[str, dict[str, str | None]]]] = {
    "clocks go forward": [("2024-03-07", {}), ("2024-03-08", {}), ("2024-03-11", {}), ("2024-03-12", {})],
    "clocks go back": [("2024-10-31", {}), ("2024-11-01", {}), ("2024-11-04", {}), ("2024-11-05", {})],
    "Thanksgiving": [
        ("2024-11-27", {}),
        ("2024-11-28", {"ES": "12:00", "GC": "13:30", "TLT": "12:00"}),
        ("2024-11-29", {"ES": "12:15", "GC": "12:45", "6E": "12:15", "TLT": "12:15"}),
        ("2024-12-02", {}),
    ],
    "Good Friday without a session": [("2024-03-28", {}), ("2024-04-01", {})],
    "Good Friday with the jobs report": [
        ("2026-04-02", {}),
        ("2026-04-03", {"ES": "08:15", "GC": None, "6E": "10:15", "TLT": "10:15"}),
        ("2026-04-06", {}),
    ],
    "Christmas": [
        ("2024-12-23", {}),
        ("2024-12-24", {"ES": "12:15", "GC": "12:45", "6E": "12:15", "TLT": "12:15"}),
        ("2024-12-26", {}),
    ],
    "day of mourning": [("2025-01-08", {}), ("2025-01-09", {"ES": "08:30", "TLT": "12:15"}), ("2025-01-10", {})],
}


@attrs.frozen(order=True)
class Trade:
    ts: int
    instrument_id: int
    price: int
    size: int


def chicago(date: dt.date, time: str) -> int:
    moment = dt.datetime.fromisoformat(f"{date}T{time}").replace(tzinfo=CHICAGO)
    return round(moment.timestamp()) * 10**9


@attrs.frozen
class Day:
    """A session as a person writes it down."""

    date: dt.date
    open: int
    closes: dict[str, int | None]

    @property
    def end(self) -> int:
        return max(close for close in self.closes.values() if close is not None)


def days_of(week: str) -> list[Day]:
    found = []
    for text, special in WEEKS[week]:
        date = dt.date.fromisoformat(text)
        closes = {root.root: special.get(root.root, "16:00") for root in ROOTS}
        found.append(
            Day(
                date,
                chicago(date - dt.timedelta(days=1), "17:00"),
                {root: None if at is None else chicago(date, at) for root, at in closes.items()},
            )
        )
    return found


def trades_in(days: list[Day], seed: int, per_hour: float) -> list[Trade]:
    """Inside hours, on their edges, and a few outside; most minutes are empty, and many hours too."""
    rng, found = random.Random(seed), []
    for day in days:
        for key, (root, _) in CONTRACTS.items():
            close = day.closes[root] or day.open
            edges = {day.open, close - 1, close, day.end - 1, day.end, day.open - 1, day.open - HOUR // 2}
            at = [rng.randrange(day.open, close) for _ in range(int(per_hour * (close - day.open) / HOUR))]
            at += [day.open + rng.randrange(23) * HOUR + rng.choice((-1, 0, 1)) for _ in range(4)]
            at += rng.sample(sorted(edges), 3)
            at += [ts + rng.randrange(MINUTE) for ts in at[:5]]
            found += [Trade(ts, key, rng.randrange(1, 10**6), rng.randrange(1, 50)) for ts in at]
    return sorted(one for one in found if days[0].open - HOUR < one.ts < days[-1].end)


Span = tuple[str, int, int]
"""(contract, start, end)"""
Values = tuple[int, int, int, int, int, int, bool]
"""Open, high, low, close, volume, trades, whether any was outside the hours of its root."""


Book = dict[Span, Values]


def reference(days: list[Day], trades: list[Trade]) -> tuple[Book, Book, Book]:
    """Minutes, hours and days by their span."""
    books: tuple[dict[Span, list[Trade]], ...] = ({}, {}, {})
    outside: set[Trade] = set()
    firsts: dict[tuple[str, int], int] = {}
    for trade in trades:
        root, contract = CONTRACTS[trade.instrument_id]
        day = next(day for day in days if trade.ts < day.end)
        close = day.closes[root]
        minute = trade.ts // MINUTE * MINUTE
        local = dt.datetime.fromtimestamp(trade.ts // 10**9, CHICAGO)
        hour = round(local.replace(minute=0, second=0).timestamp()) * 10**9
        if close is None or not day.open <= minute < close:
            outside.add(trade)
        if close is not None and minute < close:
            start, end = day.open, close
        else:
            start, end = (day.open if close is None else close), day.end
        start = firsts.setdefault((contract, end), min(start, minute))
        for book, span in zip(books, ((minute, minute + MINUTE), (hour, hour + HOUR), (start, end)), strict=True):
            book.setdefault((contract, *span), []).append(trade)
    minutes, hours, sessions = (
        {
            span: (
                rows[0].price,
                max(row.price for row in rows),
                min(row.price for row in rows),
                rows[-1].price,
                sum(row.size for row in rows),
                len(rows),
                any(row in outside for row in rows),
            )
            for span, rows in book.items()
        }
        for book in books
    )
    return minutes, hours, sessions


def array_of(trades: list[Trade]) -> TradeArray:
    made = np.zeros(len(trades), TRADE_DTYPE)
    made["length"], made["action"], made["side"] = TRADE_LENGTH_WORDS, b"T", b"N"
    made["ts_recv"] = made["ts_event"] = [trade.ts for trade in trades]
    made["instrument_id"] = [trade.instrument_id for trade in trades]
    made["price"], made["size"] = [trade.price for trade in trades], [trade.size for trade in trades]
    return made


class Program:
    """The aggregator through several files, and from one process to the next in the middle of a file."""

    def __init__(self) -> None:
        self.slices: list[SliceClosed] = []
        self.late: list[LateTrade] = []
        self._machine = BarAggregator()
        self._session: Session | None = None

    def open(self, session: Session) -> None:
        """The next file, or the same one again: what is open is carried over."""
        left, self._session = self._machine.open_bars(), session
        self._machine = BarAggregator()
        record = Record()
        self._machine.handle(record.put(opened_session(session=session, roots=ROOTS)))
        carried = attrs.evolve(
            fresh_state(),
            open_minutes=left.minutes,
            open_hours=left.hours,
            open_days=left.days,
            watermark_ns=left.watermark_ns,
        )
        self._machine.handle(record.put(carried))
        for key, (root, contract) in CONTRACTS.items():
            self._machine.handle(record.put(SymbolMapped(root=root, contract=contract, rank=0, instrument_id=key)))
        self._record = record

    def restart(self) -> None:
        assert self._session is not None
        self.open(self._session)

    def put(self, event: TradesReceived | ClockTicked) -> None:
        for output in self._machine.handle(self._record.put(event)):
            if isinstance(output, SliceClosed):
                self.slices.append(output)
            else:
                assert isinstance(output, LateTrade)
                self.late.append(output)

    def tick(self, ts: int) -> None:
        self.put(ClockTicked(ts=Nanos(ts), watermark=Nanos(ts // MINUTE * MINUTE)))

    def bars(self, timeframe: str) -> Iterator[tuple[int, Bar]]:
        for closed in self.slices:
            for bar in getattr(closed, timeframe):
                yield closed.ts, bar

    def book(self, timeframe: str) -> Book:
        found: Book = {}
        for ts, b in self.bars(timeframe):
            span = (b.contract, b.ts_start, b.ts_end)
            assert ts == b.ts_end, "a bar closes at its end"
            assert span not in found, "each bar closes once"
            found[span] = (b.open, b.high, b.low, b.close, b.volume, b.trades, b.is_outside_hours)
        return found


@pytest.mark.parametrize("per_hour", [0.2, 4], ids=["quiet", "busy"])
@pytest.mark.parametrize("week", WEEKS)
def test_every_bar_of_a_special_week_is_an_independent_folds(week: str, per_hour: float) -> None:
    days, rng = days_of(week), random.Random(len(week))
    trades = trades_in(days, seed=len(week), per_hour=per_hour)
    program, left = Program(), trades
    for day in days:
        session = CALENDAR.session_of(Nanos(day.open), ROOTS)
        assert session.date == day.date
        program.open(session)
        own, left = [t for t in left if t.ts < day.end], [t for t in left if t.ts >= day.end]
        while own:
            cut = rng.randrange(1, 12)
            batch, own = own[:cut], own[cut:]
            program.put(TradesReceived(trades=array_of(batch)))
            if rng.random() < 0.3:
                program.restart()  # in the middle of a minute, an hour and a session
            # Up to the next trade time may pass, and no further.
            program.tick(rng.randrange(batch[-1].ts, (own[0].ts if own else day.end) + 1))
        program.tick(day.end)
    last = days[-1].end
    program.tick(last + HOUR)  # an hour that an early close cuts off ends with the clock
    minutes, hours, sessions = reference(days, trades)
    assert program.book("minutes") == minutes
    assert program.book("hours") == hours
    assert program.book("days") == sessions
    assert program.late == []
    stamps = [closed.ts for closed in program.slices]
    assert stamps == sorted(set(stamps)), "each slice once, in order, over all files"
    is_reference = {bar.root for _, bar in program.bars("days")} & {r.root for r in ROOTS if r.is_reference}
    assert is_reference == {"TLT"}


def test_an_hour_that_an_early_close_cuts_off_ends_with_the_clock_in_the_next_file() -> None:
    program = Program()
    friday, monday = (CALENDAR.session_on(dt.date.fromisoformat(date), ROOTS) for date in ("2024-11-29", "2024-12-02"))
    program.open(friday)
    program.put(TradesReceived(trades=array_of([Trade(chicago(friday.date, "12:10"), 3, 7, 1)])))
    program.tick(friday.end_ns)
    assert [bar.ts_end for _, bar in program.bars("days")] == [chicago(friday.date, "12:45")]
    assert list(program.bars("hours")) == []
    program.open(monday)
    program.put(TradesReceived(trades=array_of([Trade(monday.open_ns, 3, 9, 1)])))
    program.tick(monday.open_ns + MINUTE)
    assert [(bar.ts_end, bar.close) for _, bar in program.bars("hours")] == [(chicago(friday.date, "13:00"), 7)]
    program.tick(monday.open_ns + HOUR)
    assert [bar.close for _, bar in program.bars("hours")] == [7, 9]


def test_a_trade_on_a_day_without_a_session_is_no_session_of_its_root() -> None:
    session = CALENDAR.session_on(dt.date(2026, 4, 3), ROOTS)
    for at in (session.open_ns - MINUTE, session.open_ns + MINUTE):
        program = Program()
        program.open(session)
        program.put(TradesReceived(trades=array_of([Trade(at, 3, 7, 1)])))
        program.tick(session.end_ns)
        ((_, day),) = program.bars("days")
        assert day.ts_end == session.end_ns != session.hours_of("GC").close_ns
        assert day.is_outside_hours


def test_what_a_closed_minute_gets_late_is_on_record_also_after_a_restart() -> None:
    session = CALENDAR.session_on(dt.date(2024, 11, 29), ROOTS)
    program = Program()
    program.open(session)
    at = chicago(session.date, "11:30")
    program.put(TradesReceived(trades=array_of([Trade(at, 1, 5, 2)])))
    program.tick(at + MINUTE)
    program.restart()
    # One for the minute that is closed, one for an empty one before it, one in time.
    late = [Trade(at + 1, 1, 9, 3), Trade(at - 1, 3, 9, 4), Trade(at + MINUTE, 1, 6, 1)]
    program.put(TradesReceived(trades=array_of(late)))
    program.tick(session.end_ns)
    assert {(trade.contract, trade.minute_start, trade.volume) for trade in program.late} == {
        ("MESU4", at, 3),
        ("MGCZ4", at - MINUTE, 4),
    }
    assert [(bar.contract, bar.volume) for _, bar in program.bars("minutes")] == [("MESU4", 2), ("MESU4", 1)]
    assert [(bar.contract, bar.volume) for _, bar in program.bars("days")] == [("MESU4", 3)]
