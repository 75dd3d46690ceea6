"""Trades in, closed bars out: each exactly once, the same however the trades were cut."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.bars import BarAggregator
from actors.carry import fresh_state
from domain.bars import Bar, merge_bars
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import ClockTicked, Event, LateTrade, SliceClosed, TradesReceived
from domain.market import TradeArray
from domain.sessions import hour_end
from domain.units import HOUR, MINUTE, Nanos, Price, floor_to
from tests.builders import CLOSE, IDS, OPEN, PRICE, TICK, Record, at, bar_of, mapped, opened_session, root_of, trades_of
from tests.builders import session_of as session

Row = tuple[str, Nanos, int, int]
"""(contract, ts_recv, ticks away from PRICE, size)"""


class Pipe:
    """A machine and the record that feeds it."""

    def __init__(self, **opened: Any) -> None:
        self.machine = BarAggregator()
        self.record = Record()
        self.put(opened_session(**opened))
        for contract in IDS:
            self.put(mapped(contract))

    def put(self, event: Event) -> tuple[Event, ...]:
        envelope: Envelope = self.record.put(event)
        return self.machine.handle(envelope)

    def trade(self, *rows: Row) -> tuple[Event, ...]:
        return self.put(TradesReceived(trades=trades_of(*rows)))

    def tick(self, watermark: Nanos) -> list[SliceClosed]:
        slices = self.put(ClockTicked(ts=watermark, watermark=watermark))
        assert all(isinstance(closed, SliceClosed) for closed in slices)
        return list(slices)  # type: ignore[arg-type]


def reference_bars(rows: list[Row]) -> dict[Nanos, tuple[Bar, ...]]:
    """Minute bars by their end, one trade at a time, as a person would write them down."""
    book: dict[tuple[Nanos, str, str], Bar] = {}
    for contract, ts, ticks, size in rows:
        start, price = floor_to(ts, MINUTE), Price(PRICE + ticks * TICK)
        key = (Nanos(start + MINUTE), root_of(contract), contract)
        one = bar_of(
            contract,
            start=start,
            open=price,
            high=price,
            low=price,
            close=price,
            volume=size,
            trades=1,
            is_outside_hours=not OPEN <= start < CLOSE,
        )
        book[key] = merge_bars(book[key], one) if key in book else one
    by_end: dict[Nanos, tuple[Bar, ...]] = defaultdict(tuple)
    for key in sorted(book):
        by_end[key[0]] += (book[key],)
    return by_end


ROWS = st.lists(
    st.tuples(
        st.sampled_from(sorted(IDS)),
        # Four hours around the session's close and its open: inside, on the edge and outside.
        st.sampled_from([OPEN - HOUR, OPEN, OPEN + HOUR, CLOSE - HOUR]).flatmap(
            lambda base: st.integers(0, int(HOUR) - 1).map(lambda offset: Nanos(base + offset))
        ),
        st.integers(-20, 20),
        st.integers(0, 2**32 - 1),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(ROWS, st.data())
def test_the_columnar_fold_is_the_fold_of_single_trades_in_any_batches(rows: list[Row], data: st.DataObject) -> None:
    pipe = Pipe()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=5)) | {0, len(rows)})
    for start, end in pairwise(cuts):
        assert pipe.trade(*rows[start:end]) == ()
    slices = pipe.tick(CLOSE)
    assert {s.ts: s.minutes for s in slices if s.minutes} == dict(reference_bars(rows))


@settings(max_examples=100)
@given(ROWS)
def test_hours_and_days_are_folds_of_the_minutes(rows: list[Row]) -> None:
    pipe = Pipe()
    if rows:
        pipe.trade(*rows)
    slices = pipe.tick(CLOSE)
    hours: dict[tuple[Nanos, str], Bar] = {}
    days: dict[str, Bar] = {}
    for bar in (bar for closed in slices for bar in closed.minutes):
        for book, key in ((hours, (hour_end(bar.ts_start, OPEN), bar.contract)), (days, bar.contract)):
            book[key] = merge_bars(book[key], bar) if key in book else bar  # type: ignore[index]
    found_hours = {(s.ts, bar.contract): bar for s in slices for bar in s.hours}
    found_days = {bar.contract: bar for s in slices for bar in s.days}
    assert set(found_hours) == set(hours)
    assert set(found_days) == set(days)
    for (end, contract), bar in found_hours.items():
        assert bar == attrs.evolve(hours[end, contract], ts_start=end - HOUR, ts_end=end)
    for contract, bar in found_days.items():
        start = min(OPEN, days[contract].ts_start)
        assert bar == attrs.evolve(days[contract], ts_start=start, ts_end=CLOSE)


@settings(max_examples=100)
@given(ROWS, st.lists(st.integers(0, int(CLOSE - OPEN)), max_size=4))
def test_every_trade_is_in_exactly_one_bar_or_late(rows: list[Row], watermarks: list[int]) -> None:
    pipe, slices, late = Pipe(), [], 0
    for place, row in enumerate(rows):
        late += sum(event.volume for event in pipe.trade(row) if isinstance(event, LateTrade))
        if place < len(watermarks):
            slices += pipe.tick(Nanos(OPEN + watermarks[place]))
    slices += pipe.tick(CLOSE)
    for timeframe in ("minutes", "hours", "days"):
        assert sum(bar.volume for s in slices for bar in getattr(s, timeframe)) + late == sum(row[3] for row in rows)
    stamps = [closed.ts for closed in slices]
    assert stamps == sorted(set(stamps)), "a slice goes out once and in order"


# ---------------------------------------------------------------- closing


def test_a_minute_closes_when_the_watermark_passes_its_end_and_not_before() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(0, 59), 0, 1))
    assert pipe.tick(at(0, 59.9)) == []
    (closed,) = pipe.tick(at(1))
    assert (closed.ts, len(closed.minutes)) == (at(1), 1)
    assert pipe.tick(at(1)) == []
    assert pipe.tick(at(5)) == []


def test_a_trade_on_the_boundary_belongs_to_the_minute_that_begins() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(0), 1, 1), ("ESM4", Nanos(at(1) - 1), 2, 1), ("ESM4", at(1), 3, 1))
    first, second = pipe.tick(at(2))
    assert (first.minutes[0].close, first.minutes[0].trades) == (PRICE + 2 * TICK, 2)
    assert (second.minutes[0].open, second.minutes[0].trades) == (PRICE + 3 * TICK, 1)


def test_an_empty_minute_makes_no_slice() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(0), 0, 1), ("ESM4", at(3), 0, 1))
    assert [closed.ts for closed in pipe.tick(at(10))] == [at(1), at(4)]


def test_a_root_without_a_trade_has_no_bar_in_anothers_slice() -> None:
    pipe = Pipe()
    pipe.trade(("NQM4", at(0), 0, 1), ("ESM4", at(0), 0, 1), ("ESM4", at(1), 0, 1))
    first, second = pipe.tick(at(2))
    assert [bar.contract for bar in first.minutes] == ["ESM4", "NQM4"]
    assert [bar.contract for bar in second.minutes] == ["ESM4"]


def test_an_hour_ends_on_the_grid_also_when_its_last_minutes_were_empty() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(5), 0, 7))
    (five,) = pipe.tick(at(59))
    (hour,) = pipe.tick(at(60))
    assert (five.hours, hour.minutes, hour.ts) == ((), (), at(60))
    assert hour.hours == (attrs.evolve(five.minutes[0], ts_start=OPEN, ts_end=at(60)),)


def test_the_last_minute_of_an_hour_closes_in_one_slice_with_it() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(59), 0, 7))
    (closed,) = pipe.tick(at(60))
    assert (len(closed.minutes), len(closed.hours), closed.days) == (1, 1, ())


def test_a_day_is_the_exchange_session_of_its_root() -> None:
    early = Nanos(CLOSE - 3 * HOUR)
    pipe = Pipe(session=session("ES", "GC", "NQ", GC=early))
    pipe.trade(("ESM4", at(1), 0, 1), ("GCM4", at(1), 0, 2))
    slices = pipe.tick(CLOSE)
    days = {bar.contract: (closed.ts, bar.ts_start, bar.ts_end) for closed in slices for bar in closed.days}
    assert days == {"GCM4": (early, OPEN, early), "ESM4": (CLOSE, OPEN, CLOSE)}


@pytest.mark.parametrize(
    ("ts", "is_outside"),
    [(Nanos(OPEN - 1), True), (OPEN, False), (Nanos(CLOSE - 1), False)],
    ids=["before the open", "at the open", "the last nanosecond"],
)
def test_a_minute_outside_its_roots_hours_is_flagged_up_to_the_day(ts: Nanos, is_outside: bool) -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", ts, 0, 1))
    slices = pipe.tick(CLOSE)
    flags = [bar.is_outside_hours for closed in slices for bar in (*closed.minutes, *closed.hours, *closed.days)]
    assert flags == [is_outside] * 3


def test_a_trade_after_an_early_close_is_barred_flagged_and_closed_with_the_file() -> None:
    early = Nanos(CLOSE - 3 * HOUR)
    pipe = Pipe(session=session("ES", "GC", "NQ", GC=early))
    pipe.trade(("GCM4", at(1), 0, 1))
    pipe.tick(early)
    pipe.trade(("GCM4", Nanos(early + MINUTE), 0, 5))
    slices = pipe.tick(CLOSE)
    (day,) = [bar for closed in slices for bar in closed.days]
    assert (day.is_outside_hours, day.ts_start, day.ts_end, day.volume) == (True, early, CLOSE, 5)


def test_two_contracts_of_one_root_have_bars_of_their_own() -> None:
    pipe = Pipe()
    pipe.trade(("ESU4", at(0), 9, 1), ("ESM4", at(0), 0, 1), ("ESU4", at(0, 1), 8, 1))
    (closed,) = pipe.tick(at(1))
    assert [(bar.contract, bar.open - PRICE, bar.trades) for bar in closed.minutes] == [
        ("ESM4", 0, 1),
        ("ESU4", 9 * TICK, 2),
    ]


# ---------------------------------------------------------------- arrival order, late trades


def test_open_and_close_are_first_and_last_in_arrival_not_by_stamp() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(0, 30), 3, 1), ("ESM4", at(0, 10), 1, 1), ("ESM4", at(0, 20), 2, 1))
    (closed,) = pipe.tick(at(1))
    bar = closed.minutes[0]
    assert (bar.open, bar.close) == (PRICE + 3 * TICK, PRICE + 2 * TICK)


def test_a_batch_that_jumps_back_over_a_boundary_is_sorted_into_its_minutes() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(1), 5, 1), ("ESM4", at(0, 59), 1, 1), ("ESM4", at(1, 1), 6, 1))
    first, second = pipe.tick(at(2))
    assert (first.minutes[0].trades, second.minutes[0].trades) == (1, 2)


def test_a_trade_for_a_closed_minute_is_late_and_edits_nothing() -> None:
    pipe = Pipe()
    pipe.trade(("ESM4", at(0), 0, 1))
    pipe.tick(at(1))
    rows = [("NQM4", at(0, 1), 0, 3), ("ESM4", at(0, 2), 9, 2), ("ESM4", at(0, 3), 9, 2), ("ESM4", at(1), 1, 1)]
    assert pipe.trade(*rows) == (
        LateTrade(root="ES", contract="ESM4", minute_start=at(0), trades=2, volume=4),
        LateTrade(root="NQ", contract="NQM4", minute_start=at(0), trades=1, volume=3),
    )
    (closed,) = pipe.tick(at(2))
    assert closed.minutes == (reference_bars(rows[3:])[at(2)][0],)


def test_a_watermark_in_mid_minute_makes_nothing_late() -> None:
    pipe = Pipe()
    pipe.tick(at(0, 59))
    assert pipe.trade(("ESM4", at(0), 0, 1)) == ()


def test_the_watermark_never_moves_back() -> None:
    pipe = Pipe()
    pipe.tick(at(5))
    pipe.tick(at(3))
    (late,) = pipe.trade(("ESM4", at(4), 0, 1))
    assert isinstance(late, LateTrade)


# ---------------------------------------------------------------- deadlines, restarts, refusals


def test_the_next_deadline_is_the_end_of_the_earliest_open_bar() -> None:
    pipe = Pipe()
    assert pipe.machine.next_deadline() is None
    pipe.trade(("ESM4", at(3), 0, 1))
    assert pipe.machine.next_deadline() == at(4)
    pipe.tick(at(4))
    assert pipe.machine.next_deadline() == at(60)
    pipe.tick(at(60))
    assert pipe.machine.next_deadline() == CLOSE
    pipe.tick(CLOSE)
    assert pipe.machine.next_deadline() is None


@settings(max_examples=60)
@given(ROWS, st.data())
def test_a_file_that_goes_on_in_mid_minute_closes_the_same_bars(rows: list[Row], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    watermark = data.draw(st.sampled_from([Nanos(OPEN - 2 * HOUR), at(30), at(61), at(119)]))
    undisturbed, before = Pipe(), Pipe()
    for pipe in (undisturbed, before):
        if cut:
            pipe.trade(*rows[:cut])
        pipe.tick(watermark)
    after = Pipe()
    left = before.machine.open_bars()
    after.put(
        attrs.evolve(
            fresh_state(),
            open_minutes=left.minutes,
            open_hours=left.hours,
            open_days=left.days,
            watermark_ns=left.watermark_ns,
        )
    )
    for pipe in (undisturbed, after):
        if cut < len(rows):
            pipe.trade(*rows[cut:])
    assert after.tick(CLOSE) == undisturbed.tick(CLOSE)
    assert after.machine.open_bars() == undisturbed.machine.open_bars()


def test_open_bars_are_told_in_order() -> None:
    pipe = Pipe()
    pipe.trade(("NQM4", at(1), 0, 1), ("ESM4", at(1), 0, 1), ("ESM4", at(0), 0, 1))
    left = pipe.machine.open_bars()
    assert [(bar.ts_start, bar.contract) for bar in left.minutes] == [(at(0), "ESM4"), (at(1), "ESM4"), (at(1), "NQM4")]


def test_a_trade_of_an_unknown_instrument_is_our_error() -> None:
    machine, record = BarAggregator(), Record()
    machine.handle(record.put(opened_session()))
    with pytest.raises(OurError, match="instrument 1 came before its SymbolMapped"):
        machine.handle(record.put(TradesReceived(trades=trades_of(("ESM4", at(0), 0, 1)))))


def test_a_trade_before_its_session_is_our_error() -> None:
    machine, record = BarAggregator(), Record()
    machine.handle(record.put(mapped("ESM4")))
    with pytest.raises(OurError, match="SessionOpened"):
        machine.handle(record.put(TradesReceived(trades=trades_of(("ESM4", at(0), 0, 1)))))


def test_volumes_do_not_overflow() -> None:
    pipe = Pipe()
    pipe.trade(*[("ESM4", at(0, second), 0, 2**32 - 1) for second in range(3)])
    (closed,) = pipe.tick(at(1))
    assert closed.minutes[0].volume == 3 * (2**32 - 1)


def test_the_batch_is_left_as_it_was() -> None:
    trades: TradeArray = trades_of(("ESM4", at(1), 0, 1), ("NQM4", at(0), 0, 1))
    before = np.array(trades)
    trades.setflags(write=False)
    Pipe().put(TradesReceived(trades=trades))
    assert np.array_equal(trades, before)
