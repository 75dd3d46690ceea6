"""Stepped Cerebro is Cerebro: the same turns, orders and bars, one slice at a time."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import backtrader as bt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.backtrader.feeds import TIMEFRAMES, BarFeed, SliceFeed, nanos_of, stamp_of
from adapters.backtrader.stepper import StepCerebro
from domain.bars import Bar
from domain.errors import OurError
from domain.events import SliceClosed
from domain.sessions import EXCHANGE_ZONE, to_nanos
from domain.units import MINUTE, SECOND, Nanos

FEEDS = ("1m", "1h", "1d")


class Probe(bt.Strategy):
    """Trades hour bars by their IBS with indicators running, and writes down all it sees."""

    params = (("roots", ()),)

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.orders_seen: list[tuple[Any, ...]] = []
        self.seen = dict.fromkeys((data._name for data in self.datas), 0)
        # Backtrader's runonce fails where a feed has fewer bars than an indicator's period.
        self.mean = [bt.ind.SMA(data.close, period=3) for data in self.datas if not data._name.endswith("1d")]

    def notify_order(self, order: Any) -> None:
        done = order.executed
        self.orders_seen.append(
            (self.datetime[0], order.ref, order.data._name, order.getstatusname(), order.size, done.price, done.dt)
        )

    def notify_trade(self, trade: Any) -> None:
        self.orders_seen.append((self.datetime[0], trade.ref, trade.data._name, trade.status, trade.pnl))

    def prenext(self) -> None:
        self.next()

    def next(self) -> None:
        for data in self.datas:
            if len(data) == self.seen[data._name]:
                continue
            self.seen[data._name] = len(data)
            high, low, close = data.high[0], data.low[0], data.close[0]
            self.rows.append(
                (data._name, data.datetime[0], data.open[0], high, low, close, data.volume[0], data.length_s[0])
            )
            minute = self.getdatabyname(data._name.replace("1h", "1m"))
            if not data._name.endswith("1h") or high <= low:
                continue
            held = self.getposition(minute).size
            if (close - low) / (high - low) < 0.3 and not held:
                self.buy(data=minute, size=1)
            elif (close - low) / (high - low) > 0.7 and held:
                self.close(data=minute)


def plain(kit: SimpleNamespace, slices: Sequence[SliceClosed], roots: Sequence[str], **options: Any) -> Any:
    bt.Order.refbasis, bt.Trade.refbasis = itertools.count(1), itertools.count(1)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1e9)
    bars = kit.bars_by_feed(slices)
    for timeframe in FEEDS:
        for root in roots:
            cerebro.adddata(
                BarFeed(bars=tuple(bars[root, timeframe]), **TIMEFRAMES[timeframe]), name=f"{root}@{timeframe}"
            )
    cerebro.addstrategy(Probe, roots=tuple(roots))
    return cerebro.run(**options)[0]


class Stepped:
    """A stepped engine with Backtrader's own broker."""

    def __init__(self, roots: Sequence[str], strategy: type = Probe, **options: Any) -> None:
        self.cerebro = StepCerebro(stdstats=False)
        self.cerebro.broker.setcash(1e9)
        self.feeds: dict[tuple[str, str], SliceFeed] = {}
        for timeframe in FEEDS:
            for root in roots:
                feed = self.feeds[root, timeframe] = SliceFeed(**TIMEFRAMES[timeframe])
                self.cerebro.adddata(feed, name=f"{root}@{timeframe}")
        self.cerebro.addstrategy(strategy)
        (self.strategy,) = self.cerebro.open(**options)

    def step(self, closed: SliceClosed) -> None:
        self.cerebro.step(closed.ts, list(self._pairs(closed)))

    def _pairs(self, closed: SliceClosed) -> Iterator[tuple[SliceFeed, Bar]]:
        for timeframe, bars in zip(FEEDS, (closed.minutes, closed.hours, closed.days), strict=True):
            for bar in bars:
                yield self.feeds[bar.root, timeframe], bar


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_stepped_equals_a_plain_run_order_for_order_and_bar_for_bar(kit: SimpleNamespace, is_sparse: bool) -> None:
    roots = kit.ROOTS[:2]
    slices = kit.slices_of(kit.random_minutes(roots, 2, is_sparse=is_sparse))
    runs = [plain(kit, slices, roots, **options) for options in ({}, {"runonce": False, "preload": False})]
    for exactbars in (0, 1):
        stepped = Stepped(roots, exactbars=exactbars)
        for closed in slices:
            stepped.step(closed)
        stepped.cerebro.close()
        for run in runs:
            assert len(run.orders_seen) > 60
            assert stepped.strategy.orders_seen == run.orders_seen
            assert stepped.strategy.rows == run.rows
            assert stepped.strategy.broker.getvalue() == run.broker.getvalue()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.sampled_from(["ES", "NQ", "GC"])), min_size=1, max_size=150), st.integers(0, 99))
def test_whichever_minutes_are_missing_stepped_equals_plain(
    kit: SimpleNamespace, present: list[set[str]], seed: int
) -> None:
    roots = ("ES", "NQ", "GC")
    # Every root trades in the last minute: Backtrader rejects a feed without any bar.
    minutes = kit.random_minutes(roots, 1, seed=seed)[: len(present) + 1]
    kept = [
        [bar for bar in bars if bar.root in want] for bars, want in zip(minutes, [*present, set(roots)], strict=True)
    ]
    slices = kit.slices_of(bars for bars in kept if bars)
    stepped = Stepped(roots, exactbars=1)
    for closed in slices:
        stepped.step(closed)
    run = plain(kit, slices, roots, runonce=False, preload=False)
    assert stepped.strategy.rows == run.rows
    assert stepped.strategy.orders_seen == run.orders_seen


def test_two_engines_in_turn_number_and_trade_as_each_alone(kit: SimpleNamespace) -> None:
    roots = kit.ROOTS[:2]
    markets = [kit.slices_of(kit.random_minutes(roots, 1, seed=seed)[:500]) for seed in (1, 2)]
    alone = []
    for slices in markets:
        engine = Stepped(roots)
        for closed in slices:
            engine.step(closed)
        alone.append(engine.strategy.orders_seen)
    pair = [Stepped(roots), Stepped(roots)]
    theirs = (bt.Order.refbasis, bt.Trade.refbasis)
    for both in zip(*markets, strict=True):
        for engine, closed in zip(pair, both, strict=True):
            engine.step(closed)
    assert [engine.strategy.orders_seen for engine in pair] == alone
    assert alone[0] != alone[1]
    assert (bt.Order.refbasis, bt.Trade.refbasis) == theirs


def test_an_empty_turn_is_refused_and_harms_nothing(kit: SimpleNamespace) -> None:
    engine = Stepped(("ES",))
    (closed,) = kit.slices_of(kit.random_minutes(("ES",), 1)[:1])[:1]
    with pytest.raises(OurError, match="without a bar"):
        engine.cerebro.step(closed.ts, [])
    engine.step(closed)
    assert len(engine.strategy.rows) == 1


def test_two_bars_for_one_feed_make_the_engine_unusable(kit: SimpleNamespace) -> None:
    engine = Stepped(("ES",))
    closed = kit.slices_of(kit.random_minutes(("ES",), 1)[:1])[0]
    feed = engine.feeds["ES", "1m"]
    with pytest.raises(OurError, match="two bars"):
        engine.cerebro.step(closed.ts, [(feed, closed.minutes[0]), (feed, closed.minutes[0])])
    with pytest.raises(OurError, match="rebuild it from the journal"):
        engine.step(closed)


def test_an_exception_inside_a_turn_makes_the_engine_unusable(kit: SimpleNamespace) -> None:
    class Failing(Probe):
        def next(self) -> None:
            raise ZeroDivisionError

    theirs = bt.Order.refbasis
    engine = Stepped(("ES",), strategy=Failing)
    first, second = kit.slices_of(kit.random_minutes(("ES",), 1)[:2])[:2]
    with pytest.raises(ZeroDivisionError):
        engine.step(first)
    assert bt.Order.refbasis is theirs
    with pytest.raises(OurError, match="rebuild it from the journal"):
        engine.step(second)
    with pytest.raises(OurError, match="rebuild it from the journal"):
        engine.cerebro.deliver()


def test_a_stepped_cerebro_needs_feeds_and_takes_slice_feeds_only() -> None:
    with pytest.raises(OurError, match="at least one feed"):
        StepCerebro(stdstats=False).open()
    cerebro = StepCerebro(stdstats=False)
    cerebro.adddata(BarFeed(bars=(), **TIMEFRAMES["1m"]), name="ES@1m")
    with pytest.raises(OurError, match="SliceFeeds only"):
        cerebro.open()


@given(st.integers(1_357_000_000, 1_893_000_000))
def test_a_stamp_on_a_whole_second_comes_back(seconds: int) -> None:
    ts = Nanos(seconds * SECOND)
    assert nanos_of(stamp_of(ts), after=Nanos(ts - 1)) == ts


def test_stamps_are_naive_chicago_close_times(kit: SimpleNamespace) -> None:
    stamp = bt.num2date(stamp_of(kit.chicago(dt.date(2024, 5, 1), 16)))
    assert (stamp.isoformat(), stamp.tzinfo) == ("2024-05-01T16:00:00", None)


def test_the_repeated_hour_of_autumn_goes_forward() -> None:
    start = to_nanos(dt.datetime(2024, 11, 3, 1, 0, tzinfo=EXCHANGE_ZONE))
    minutes = [Nanos(start + i * MINUTE) for i in range(180)]
    seen, last = [], Nanos(0)
    for ts in minutes:
        last = nanos_of(stamp_of(ts), after=last)
        seen.append(last)
    assert seen == minutes
