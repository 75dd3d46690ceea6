"""What a backtest costs: twelve roots of minute bars, against plain Backtrader with `resampledata`."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from typing import Any

from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch

ROOTS = ("ES", "NQ", "RTY", "YM", "GC", "SI", "HG", "CL", "NG", "6A", "6B", "6E")
SESSIONS = 5
FIRST = dt.date(2024, 3, 4)
TICK = 250_000_000


def prepare_backtest(scale: Scale) -> Facts:
    """How many sessions; the bars are drawn anew in each side, from one seed."""
    return {"sessions": max(2, round(SESSIONS * scale.repeats))}


def _market(sessions: int) -> tuple[list[Any], list[Any], Any]:
    """Minutes without a gap of one contract per root, the roots, and the calendar."""
    import attrs
    import numpy as np

    from adapters.calendar import CmeCalendar
    from adapters.config import CONTRACT_MAP_FILE
    from adapters.contract_map import load_contract_map
    from domain.backtest import ContractMinutes
    from domain.instruments import ContractName, Expiry
    from domain.units import MINUTE, Nanos

    calendar = CmeCalendar()
    chosen = [root for root in load_contract_map(CONTRACT_MAP_FILE).roots if root.root in ROOTS]
    # One tick for all: a tick decides nothing here.
    roots = [attrs.evolve(root, data_spec=attrs.evolve(root.data_spec, tick_size=TICK)) for root in chosen]
    starts, session = [], calendar.session_on(FIRST, roots)
    for _ in range(sessions):
        hours = session.hours[0]
        starts.append(np.arange(hours.open_ns, hours.close_ns, MINUTE))
        session = calendar.session_of(Nanos(session.end_ns), roots)
    start = np.concatenate(starts)
    minutes = []
    for number, root in enumerate(roots):
        rng = np.random.default_rng(number)
        close = TICK * (4_000 + 100 * number + np.cumsum(rng.integers(-4, 5, len(start))))
        open_ = np.concatenate((close[:1], close[:-1]))
        high = np.maximum(open_, close) + TICK * rng.integers(0, 3, len(start))
        low = np.minimum(open_, close) - TICK * rng.integers(0, 3, len(start))
        size = rng.integers(1, 200, len(start))
        rows = np.column_stack((start, start + MINUTE, open_, high, low, close, size, size))
        name = ContractName(product=root.data_product, expiry=Expiry(year=2025, month=12))
        minutes.append(ContractMinutes(root=root.root, raw_symbol=name.raw_symbol, name=name, rows=rows))
    return minutes, roots, calendar


def _settings() -> Any:
    from domain.ibs import StrategySettings

    return StrategySettings(veto=False)


def backtest_work(facts: Facts) -> Side:
    """`run_backtest`, from the minutes to the trades."""
    from actors.wiring.backtest import run_backtest
    from domain.backtest import BacktestCosts

    minutes, roots, calendar = _market(facts["sessions"])
    calendar.session_on(FIRST, roots)
    with Stopwatch() as watch:
        result = run_backtest(
            minutes,
            roots=roots,
            settings=_settings(),
            calendar=calendar,
            models={},
            costs=BacktestCosts(slippage_ticks=0),
        )
    fills = sorted(
        fill
        for trade in result.trades
        for fill in (
            (trade.entry_ns, trade.root, "entry", trade.entry_price),
            (trade.exit_ns, trade.root, trade.exit_reason, trade.exit_price),
        )
    )
    return _side(watch, len(result.decisions), fills)


def backtest_reference(facts: Facts) -> Side:
    """A plain `cerebro.run()`: minute feeds, hours by `resampledata`, the same strategy, Backtrader's own broker."""
    import backtrader as bt

    from adapters.backtrader.feeds import TIMEFRAMES, BarFeed, feed_name
    from adapters.backtrader.ibs_strategy import IbsStrategy
    from adapters.backtrader.roots import DecisionBar, RootPlan
    from domain.bars import BarTable
    from domain.gates import auto_close_deadline
    from domain.ibs import internal_bar_strength
    from domain.units import HOUR, Nanos, float_to_price

    minutes, roots, calendar = _market(facts["sessions"])
    settings, fills, decisions = _settings(), [], []
    ends, deadlines, hours = [], {}, {}
    ts, last = int(minutes[0].rows[0, 0]), int(minutes[0].rows[-1, 0])
    while ts <= last:
        session = calendar.session_of(Nanos(ts), roots)
        ends.append(session.end_ns)
        deadlines[session.end_ns] = auto_close_deadline(settings, session.date, session.end_ns)
        hours[session.end_ns] = session.hours[0]
        ts = session.end_ns

    def deadline_of(root: str, at: Nanos) -> Nanos:
        return deadlines[ends[bisect_left(ends, at)]]

    class Reference(IbsStrategy):
        """Backtrader's resampled hours have no line for a length: they are all an hour long here."""

        def _take_bar(self, state: Any) -> DecisionBar:
            lines = state.decisions.data.lines
            high, low, close = (float_to_price(line[0]) for line in (lines.high, lines.low, lines.close))
            state.highs.append(high)
            state.lows.append(low)
            state.completed += 1
            ibs = internal_bar_strength(high=high, low=low, close=close)
            return DecisionBar(start=Nanos(self._now - HOUR), end=self._now, close=close, ibs=ibs)

        def notify_order(self, order: Any) -> None:
            super().notify_order(order)
            if order.status == order.Completed:
                note = order.info.request
                what = "entry" if note.intent == "entry" else note.reason
                fills.append((self._fill_time(order), note.root, what, float_to_price(order.executed.price)))

    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1e15)
    cerebro.broker.setcommission(margin=1.0, commtype=bt.CommInfoBase.COMM_FIXED, stocklike=False)
    plans = []
    with Stopwatch() as watch:
        feeds = []
        for one in minutes:
            table = BarTable(root=one.root, timeframe="1m", contracts=(one.raw_symbol,) * len(one.rows), data=one.rows)
            feed = BarFeed(bars=table.bars(), **TIMEFRAMES["1m"])
            cerebro.adddata(feed, name=feed_name(one.root, "1m"))
            feeds.append((one.root, feed))
            plans.append(RootPlan(root=one.root, contract=one.raw_symbol, quantity=1, tick_size=TICK))
        for root, feed in feeds:
            cerebro.resampledata(feed, name=feed_name(root, "1h"), **TIMEFRAMES["1h"])
        cerebro.addstrategy(
            Reference, settings=settings, plans=tuple(plans), deadline_of=deadline_of, listener=decisions.append
        )
        cerebro.run()
    return _side(watch, len(decisions), sorted(fills))


def _side(watch: Stopwatch, decisions: int, fills: list[Any]) -> Side:
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer={"decisions": decisions, "fills": fills})


BACKTEST = Benchmark(
    name="backtest",
    prepare=prepare_backtest,
    work=backtest_work,
    reference=backtest_reference,
    rows=(
        Row(
            name="backtest",
            title="a backtest of 12 roots of minute bars, against plain Backtrader with `resampledata`",
            figure=lambda work, reference: reference.cpu_s / work.cpu_s,
            unit="x less",
            required=2,
            goal=10,
            is_more_better=True,
        ),
    ),
    note="equal decisions and fills; minutes without a gap, where both fold the same hours",
)
