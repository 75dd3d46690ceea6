"""A backtest of one root: its sessions one after the other, each in a plain Cerebro with Backtrader's own broker.

As live, a Cerebro is built for every session and warmed up on the history before it, and what the strategy
remembers goes on to the next. The strategy is the live one; orders fill in the bar after the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import backtrader as bt

from adapters.backtrader.backtest_brokers import NextBarBroker, RecordedBroker
from adapters.backtrader.broker import RequestNote, carried_note
from adapters.backtrader.feeds import TIMEFRAMES, feed_name
from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.backtrader.roots import RootPlan, plans_of
from adapters.backtrader.tape import NO_TRADE_LIMIT, Tape, TapeFeed
from domain.backtest import (
    CLOSE,
    END,
    HIGH,
    LOW,
    BacktestCosts,
    BacktestTrade,
    MarketSession,
    RootBars,
)
from domain.bars import Bar, BarTable, Timeframe
from domain.events import RootMemory, SignalEvaluated, VetoScored
from domain.features import Requirement, required_inputs
from domain.gates import auto_close_deadline
from domain.history import Rows
from domain.instruments import TradedRoot, pairs_of
from domain.optional_gates import gate_inputs, gate_names
from domain.orders import Order
from domain.populations import CarriedPercentile
from domain.positions import net_pnl
from domain.reference_feeds import ReferenceFeeds
from domain.scorer import Scorer
from domain.units import DAY, Nanos, Price, float_to_price
from domain.veto import VetoModel

Listener = Callable[[SignalEvaluated | VetoScored], None]


class RootBacktest:
    """One root over consecutive sessions. What is decided goes to `listener`, in order."""

    def __init__(self, root: TradedRoot, *, listener: Listener, costs: BacktestCosts) -> None:
        self._root = root
        self._listener, self._costs = listener, costs
        self._scorer: Scorer | None = None
        self._features: tuple[str, ...] = ()
        """Of the session's model."""
        self._memory: RootMemory | None = None
        self._entered: dict[Nanos, tuple[tuple[str, ...], VetoScored]] = {}
        """By decision: what the model had said of an entry, and the names of what it was asked."""
        self._scored: VetoScored | None = None
        self._entry: _Fill | None = None
        self._asked: RequestNote | None = None
        """Of the last order: a journal's next file may hold its end."""
        self.unfilled = 0
        """Entries whose order ended without a fill."""

    def run(self, market: MarketSession) -> tuple[BacktestTrade, ...]:
        """Trade one session; the trades that ended in it. Nothing where the session has no contract of the root."""
        if market.memories is not None and not self._is_carried(market):
            self._entry = None
        plan = next((plan for plan in plans_of(market.opened, None) if plan.root == self._root.root), None)
        bars = market.bars.get(self._root.root)
        if plan is None or bars is None:
            return ()
        strategy = self._trade(market, plan, bars)
        (self._memory,) = strategy.memories()
        self._asked = strategy.asked or self._asked
        self.unfilled += strategy.unfilled
        return tuple(trade for fill in strategy.fills if (trade := self._settle(fill, market)) is not None)

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """The populations as the last session has left them."""
        return () if self._scorer is None else self._scorer.percentiles()

    @property
    def is_holding(self) -> bool:
        """The last entry has not been left."""
        return self._entry is not None

    # ------------------------------------------------------------- one session

    def _is_carried(self, market: MarketSession) -> bool:
        """A journal's file holds the last entry: sessions may be left out before it, and live it may have ended.

        Recorded fills have its very time; those of the bars are near.
        """
        entry, tolerance = self._entry, 0 if market.outcomes is not None else NO_TRADE_LIMIT
        return entry is not None and any(
            (position.root, position.contract) == (self._root.root, entry.note.contract)
            and position.quantity * entry.quantity > 0
            and abs(position.opened_ns - entry.ts) <= tolerance
            for position in market.positions
        )

    def _trade(self, market: MarketSession, plan: RootPlan, bars: RootBars) -> _SessionStrategy:
        opened, root = market.opened, plan.root
        settings = opened.strategy.of(root)
        deadline = auto_close_deadline(settings, market.date, opened.session.hours_of(root).close_ns)
        closes = {
            roll.from_contract: roll.close_ns
            for roll in market.rolls
            if roll.root == root and roll.close_ns is not None
        }
        minutes, clock, decisions = (TapeFeed(**TIMEFRAMES[timeframe]) for timeframe in ("1m", "1m", "1h"))
        # As live: fills are made from the trades that are read, whatever product is ordered.
        tick_size = next(one for one in opened.roots if one.root == root).data_spec.tick_size
        broker = NextBarBroker(settings=settings, tick_size=tick_size, costs=self._costs)
        if market.outcomes is not None:
            broker = RecordedBroker(market.outcomes, settings=settings, tick_size=tick_size)

        def begin(strategy: _SessionStrategy) -> Tape:
            self._restore(strategy, market, plan.contract, bars)
            if isinstance(broker, RecordedBroker):
                broker.take_up = strategy.take_up
            minutes.tape = broker.tape = tape = Tape(
                minutes=bars.minutes,
                hours=bars.hours,
                clocks=sorted({deadline, *closes.values(), *_last_outcomes(root, market)}),
                feeds=(minutes, clock, decisions),
                watcher=strategy,
                is_every_minute=settings.decision_timeframe == "1m",
                until=bars.until_ns if market.until_ns is None else market.until_ns,
            )
            return tape

        feeder = self._feeder(market)
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.broker = broker
        cerebro.adddata(minutes, name=feed_name(root, "1m"))
        cerebro.adddata(clock, name=f"{root}@clock")
        cerebro.adddata(decisions, name=feed_name(root, "1h"))
        cerebro.addstrategy(
            _SessionStrategy,
            settings=opened.strategy,
            plans=(plan,),
            deadline_of=lambda root, ts: deadline,
            roll_closes=closes,
            listener=self._heard,
            scorer=self._scorer,
            feeds=feeder.required if opened.required_reference_feeds else None,
            begin=begin,
            feeder=feeder,
            late=market.late,
        )
        (strategy,) = cerebro.run()
        feeder.feed(opened.session.end_ns)
        found: _SessionStrategy = strategy
        return found

    def _restore(self, strategy: _SessionStrategy, market: MarketSession, contract: str, bars: RootBars) -> None:
        """As the engine of a session does it when it opens."""
        root, timeframe = self._root.root, market.opened.strategy.of(self._root.root).decision_timeframe
        strategy.begin_at(market.opened.session.start_ns)
        for table in bars.history:
            if table.timeframe == timeframe:
                strategy.warm_up(root, *(table.data[:, column].tolist() for column in (HIGH, LOW, CLOSE)))
        memories = (self._memory,) if market.memories is None else market.memories
        memory = next((memory for memory in memories if memory is not None and memory.root == root), None)
        # What is held or ordered in an older contract has no bars here.
        for position in market.positions:
            if position.contract == contract:
                strategy.restore_position(position, None, None if memory is None else memory.average_range)
        strategy.carried = tuple(
            (order, self._note_of(order, memory, market)) for order in market.orders if order.contract == contract
        )
        if memory is not None:
            strategy.restore_memory(memory)
        if market.is_continued:
            return
        if bars.rolled_from is not None and self._root.roll_policy == "close_and_reopen":
            strategy.may_reopen(root)
        strategy.forget_roll_exits()

    def _note_of(self, order: Order, memory: RootMemory | None, market: MarketSession) -> RequestNote:
        """As it was asked in a file before, or what the journal has carried of it."""
        asked = self._asked
        if asked is not None and (asked.intent, asked.decided_ns) == (order.intent, order.decided_ns):
            return asked
        return carried_note(order, memory, market.opened.strategy.of(order.root))

    def _feeder(self, market: MarketSession) -> _Feeder:
        """The session's; a scorer goes on from the session before, where nothing was carried in."""
        opened, root = market.opened, self._root.root
        days_since, pairs, settings = opened.session.start_ns - DAY, pairs_of(opened.roots), opened.strategy.of(root)
        record = next((one for one in opened.models if one.root == root), None)
        model = market.models.get(root) if settings.veto and record is not None and not record.refusal else None
        self._features = () if model is None else tuple(model.features)
        inputs = _inputs_of(root, model, gate_inputs(settings, pair=pairs.get(root)), pairs.get(root))
        if self._scorer is None or market.carried is not None:
            self._scorer = Scorer(
                {} if model is None else {root: model},
                refusals={} if record is None or not record.refusal else {root: record.refusal},
                details={} if record is None or not record.detail else {root: record.detail},
                gates={root: gate_names(settings)},
                carried=market.carried or (),
                tables=[table for table in _tables(market) if (table.root, table.timeframe) in inputs],
                days_since=days_since,
                pairs=pairs,
            )
        else:
            rolled = {root: bars.difference for root, bars in market.bars.items() if bars.rolled_from is not None}
            self._scorer.open_session(days_since, rolled)
        return _Feeder(self._scorer, inputs, market)

    # ------------------------------------------------------------- what comes out

    def _heard(self, event: SignalEvaluated | VetoScored) -> None:
        if isinstance(event, VetoScored):
            self._scored = event
        elif event.verdict == "enter":
            scored = self._scored
            if scored is not None and scored.ts == event.ts:
                self._entered[event.ts] = (self._features, scored)
        self._listener(event)

    def _settle(self, fill: _Fill, market: MarketSession) -> BacktestTrade | None:
        """The trade that `fill` ends; None for an entry."""
        if fill.note.intent == "entry":
            self._entry = fill
            return None
        entry, self._entry = self._entry, None
        if entry is None:
            return None  # carried in by a journal, and entered in no file of this run
        features, scored = self._entered.pop(entry.note.decided_ns, ((), None))
        # The session's own: what a contract is worth has changed over the years.
        root = next(root for root in market.opened.roots if root.root == self._root.root)
        return BacktestTrade(
            root=self._root.root,
            contract=fill.note.contract,
            session=market.date,
            side="long" if entry.quantity > 0 else "short",
            quantity=abs(entry.quantity),
            decided_ns=entry.note.decided_ns,
            entry_ns=entry.ts,
            entry_price=entry.price,
            exit_decided_ns=fill.note.decided_ns,
            exit_ns=fill.ts,
            exit_price=fill.price,
            exit_reason=fill.note.reason,
            pnl=net_pnl(
                entry=entry.price,
                exit=fill.price,
                quantity=entry.quantity,
                multiplier=root.order_spec.multiplier,
                commission_per_side=root.commission_per_side,
            ),
            ibs=entry.note.ibs,
            features=features,
            values=() if scored is None else scored.values,
            probability=entry.note.probability,
            threshold=entry.note.threshold,
        )


def _last_outcomes(root: str, market: MarketSession) -> set[Nanos]:
    """When a journal says what became of orders after the last bar: the next file goes on from there."""
    bars = market.bars[root]
    last = max((int(rows[-1, END]) for rows in (bars.minutes, bars.hours) if len(rows)), default=0)
    found = (one for key, outcomes in (market.outcomes or {}).items() if key[0] == root for one in outcomes)
    return {outcome.known_ns for outcome in found if outcome.known_ns > last}


# ------------------------------------------------------------------ its parts


@attrs.frozen(kw_only=True)
class _Fill:
    """A completed order."""

    note: RequestNote
    quantity: int
    """Signed."""
    price: Price
    ts: Nanos


class _SessionStrategy(IbsStrategy):
    """The strategy of one session and root: says when it is watching, and keeps what was filled."""

    params: Any = (("begin", None), ("feeder", None), ("late", frozenset()))

    def start(self) -> None:
        (self._state,) = self._states
        self._market_order: int | None = None
        self.fills: list[_Fill] = []
        self.unfilled = 0
        self.asked: RequestNote | None = None
        """Of the last order."""
        self.carried: tuple[tuple[Order, RequestNote], ...] = ()
        """Unfinished when the session opened, until they are placed."""
        self._tape: Tape = self.p.begin(self)

    def next(self) -> None:
        self.is_late = self._tape.now in self.p.late
        self.p.feeder.feed(self._tape.now)
        super().next()

    def take_up(self) -> None:
        """Place what a journal had left unfinished."""
        carried, self.carried = self.carried, ()
        for order, note in carried:
            trade = self.buy if order.side == "buy" else self.sell
            placed = trade(data=self._state.minutes[order.contract].data, size=order.quantity, request=note)
            held = self._state.holding
            if order.intent == "entry" and held is not None and held.is_unknown:
                # It may have been filled, and counts as held until its end is known.
                self._state.holding = attrs.evolve(held, order_ref=placed.ref)
            else:
                self._state.await_order(placed.ref, note.intent, note.average_range)

    @property
    def is_watching(self) -> bool:
        """A position or an order is open."""
        return bool(self.carried) or self._state.holding is not None or self._state.order_ref is not None

    @property
    def market_order(self) -> int | None:
        """The number of an unfinished market order."""
        return self._market_order if self._market_order == self._state.order_ref else None

    def buy(self, **how: Any) -> Any:
        return self._placed(super().buy(**how))

    def sell(self, **how: Any) -> Any:
        return self._placed(super().sell(**how))

    def _placed(self, order: Any) -> Any:
        self.asked = order.info.request
        if order.exectype == bt.Order.Market:
            self._market_order = order.ref
        return order

    def notify_order(self, order: Any) -> None:
        super().notify_order(order)
        if order.alive():
            return
        note: RequestNote = order.info.request
        if order.status == order.Completed:
            confirmed: Price | None = order.info.get("confirmed")
            self.fills.append(
                _Fill(
                    note=note,
                    quantity=round(order.executed.size),
                    price=float_to_price(order.executed.price) if confirmed is None else confirmed,
                    ts=self._fill_time(order),
                )
            )
        elif note.intent == "entry":
            self.unfilled += 1


class _Feeder:
    """Gives the scorer a session's bars as they end."""

    def __init__(self, scorer: Scorer, inputs: frozenset[tuple[str, Timeframe]], market: MarketSession) -> None:
        self._scorer = scorer
        self.required = ReferenceFeeds(
            market.opened.required_reference_feeds,
            tables=_tables(market),
            session_start=market.opened.session.start_ns,
        )
        read = inputs | {(root, "1d") for root in self.required.roots}
        tables = [
            (root, timeframe, rows)
            for root, bars in market.bars.items()
            for timeframe, rows in _closing(bars)
            if (root, timeframe) in read
        ]
        # As in a slice: hours first, in order of root.
        self._due = sorted(
            (end, timeframe == "1d", root, table, row)
            for table, (root, timeframe, rows) in enumerate(tables)
            for row, end in enumerate(rows[:, END].tolist())
        )
        self._tables = [(root, rows) for root, _, rows in tables]
        self._next = 0

    def feed(self, until: int) -> None:
        """The bars that have ended by `until`."""
        while self._next < len(self._due) and (end := self._due[self._next][0]) <= until:
            hours: list[Bar] = []
            days: list[Bar] = []
            while self._next < len(self._due) and self._due[self._next][0] == end:
                _, is_day, _, table, row = self._due[self._next]
                (days if is_day else hours).append(_bar(*self._tables[table], row))
                self._next += 1
            self._scorer.add_hours(hours)
            for bar in days:
                self.required.add_day(bar)
                self._scorer.add_day(bar)


def _bar(root: str, rows: Rows, row: int) -> Bar:
    start, end, open_, high, low, close, volume, trades = rows[row].tolist()
    return Bar(
        root=root,
        contract="",
        ts_start=start,
        ts_end=end,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        trades=trades,
    )


def _closing(bars: RootBars) -> tuple[tuple[Timeframe, Rows], ...]:
    return ("1h", bars.hours), ("1d", bars.days)


def _tables(market: MarketSession) -> Sequence[BarTable]:
    return [table for bars in market.bars.values() for table in bars.history]


def _inputs_of(
    root: str, model: VetoModel | None, gates: Sequence[Requirement], pair: str | None
) -> frozenset[tuple[str, Timeframe]]:
    """The bars that features are made of, and the root's own, which say what is out of date."""
    if model is None and not gates:
        return frozenset()
    own: set[tuple[str, Timeframe]] = {(root, "1h"), (root, "1d")}
    needs = () if model is None else required_inputs(model.features, model.feature_set, pair=pair)
    return frozenset(own | {(need.root or root, need.timeframe) for need in (*needs, *gates)})
