"""The trading engine of one session: stepped Cerebro, journal-driven broker, IBS strategy.

Implements `domain.ports.TradingEngine`; `build_engine` is the `EngineFactory`. It is
a function of what it was built from and of the slices, clocks and order events it was
given, in their order: rebuilt and fed the same again, it answers the same.

Only bars of a root's active contract (rank 0) reach the root's feeds. A position or
an order carried in an older contract has a minute feed of its own, which drives its
stops and takes its exit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import attrs

from adapters.backtrader.broker import JournalBroker, RequestNote, carried_note
from adapters.backtrader.feeds import TIMEFRAMES, SliceFeed, feed_name
from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.backtrader.roots import RootPlan, plans_of
from adapters.backtrader.shadow import Signal, with_shadows
from adapters.backtrader.stepper import StepCerebro
from domain.bars import BAR_COLUMNS, Bar, BarTable, Timeframe
from domain.events import (
    ContractRolled,
    Event,
    OrderRequested,
    RollDue,
    RootHalted,
    RootMemory,
    RootReset,
    SessionOpened,
    ShadowScored,
    SliceClosed,
    StateCarried,
)
from domain.gates import auto_close_deadline
from domain.instruments import pairs_of
from domain.optional_gates import gate_names
from domain.orders import OrderState, Side, signal_id
from domain.populations import CarriedPercentile
from domain.ports import Decision
from domain.positions import Position, net_pnl
from domain.reference_feeds import ReferenceFeeds
from domain.scorer import Scorer
from domain.units import DAY, MINUTE, Nanos, Price, float_to_price
from domain.veto import ModelRecord, VetoModel

_TIMEFRAMES: tuple[Timeframe, ...] = ("1m", "1h", "1d")


@attrs.frozen(kw_only=True)
class _Feeds:
    """The engine's feeds, per timeframe by contract."""

    minutes: dict[str, SliceFeed]
    hours: dict[str, SliceFeed]
    days: dict[str, SliceFeed]


class CerebroEngine:
    """Backtrader's Cerebro as a `TradingEngine`. Use `build_engine`.

    Any exception in a turn leaves it unusable: every later call raises OurError.
    """

    def __init__(
        self,
        opened: SessionOpened,
        plans: Sequence[RootPlan],
        scorer: Scorer | None,
        rolls: Sequence[RollDue | ContractRolled] = (),
        *,
        feeds: ReferenceFeeds | None = None,
        shadow: Scorer | None = None,
        strategy: type[IbsStrategy] = IbsStrategy,
    ) -> None:
        self._session = opened.session.date.isoformat()
        self._scorer, self._shadow, self._required = scorer, shadow, feeds
        self._shadows = {record.root: record.digest for record in opened.shadows if not record.refusal}
        self._active = {c.root: c.raw_symbol for c in opened.contracts if c.rank == 0}
        self._closes = {hours.root: hours.close_ns for hours in opened.session.hours}
        self._settings = opened.strategy
        self._roots = {root.root: root for root in opened.roots}
        self._deadlines = {
            plan.root: auto_close_deadline(
                opened.strategy.of(plan.root), opened.session.date, opened.session.hours_of(plan.root).close_ns
            )
            for plan in plans
        }
        self._roll_closes = {
            roll.from_contract: roll.close_ns
            for roll in rolls
            if isinstance(roll, RollDue) and roll.close_ns is not None
        }
        self._signals: list[Signal] = []
        self._last_close: dict[str, Price] = {}
        self._whole_from: dict[str, Nanos] = {}
        """By root that was reset: bars that start earlier lack records."""
        self._ordinals: dict[tuple[str, str, str], tuple[Nanos, int]] = {}
        self._cerebro = StepCerebro(stdstats=False)
        self._broker = JournalBroker()
        self._cerebro.setbroker(self._broker)
        self._feeds = self._add_feeds(plans)
        self._cerebro.addstrategy(
            strategy,
            settings=opened.strategy,
            plans=tuple(plans),
            deadline_of=lambda root, _: self._deadlines[root],
            roll_closes=self._roll_closes,
            listener=self._signals.append,
            feeds=feeds,
            on_failure=self._halt,
            scorer=scorer,
        )
        (self._strategy,) = self._cerebro.open(exactbars=1)

    # --------------------------------------------------- TradingEngine

    def step(self, closed: SliceClosed, *, is_late: bool = False) -> tuple[Decision, ...]:
        """One turn: every root's evaluation in order of root, then requests, exits first, entries by rank.

        A slice without a bar of an active or held contract is no turn and gives ().
        """
        self._feed_readers(closed)
        bars = self._bars_of(closed)
        if not bars:
            self._cerebro.require_usable()
            return ()
        self._strategy.is_late = is_late
        self._cerebro.step(closed.ts, bars)
        self._trim()
        return self._decided()

    def on_clock(self, ts: Nanos) -> tuple[Decision, ...]:
        """Exits due at `ts`: the auto-close from its deadline on, and repeats of exits that ended unfilled."""
        if not self._broker.positions:
            self._cerebro.require_usable()
            return ()
        self._deliver()
        with self._cerebro.pinned():
            self._strategy.on_clock(ts)
        return self._decided()

    def notify(self, event: Event) -> None:
        """Move the order that `event` is about (the strategy learns of it in the next turn), or reset a root."""
        self._cerebro.require_usable()
        if isinstance(event, RootReset):
            self.reset(event)
            for reader in self._readers():
                reader.forget(event.root)
            return
        with self._cerebro.pinned():
            self._broker.apply(event)

    def next_deadline(self) -> Nanos | None:
        """The next auto-close or roll's close (or its repetition) of a position that no exit is under way for."""
        due = [
            max(
                min(self._deadlines[root], self._roll_closes.get(held.contract, self._deadlines[root])),
                self._strategy.exit_retry_ns(root),
            )
            for root, held in self._broker.positions.items()
            if not self._broker.has_open_exit(root) and not self._strategy.is_halted(root)
        ]
        return Nanos(min(due)) if due else None

    def memories(self) -> tuple[RootMemory, ...]:
        """What must be carried, in order of root; counts everything that was notified."""
        self._deliver()
        memories: tuple[RootMemory, ...] = self._strategy.memories()
        return memories

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """What the models' percentile populations have taken in, for the next file."""
        live = () if self._scorer is None else self._scorer.percentiles()
        shadow = () if self._shadow is None else self._shadow.percentiles()
        # A population is named by the model it grew from: the same model twice has one.
        known = {(state.root, state.base, state.seed) for state in live}
        return live + tuple(state for state in shadow if (state.root, state.base, state.seed) not in known)

    def close(self) -> None:
        """End the engine. Nothing is sent and nothing is flushed."""
        self._cerebro.close()

    # ---------------------------------------------------------- turns

    def _readers(self) -> tuple[Scorer | ReferenceFeeds, ...]:
        return tuple(reader for reader in (self._scorer, self._shadow, self._required) if reader is not None)

    def _feed_readers(self, closed: SliceClosed) -> None:
        """Whole hours and days of every root's active contract, those of reference roots too."""
        readers = self._readers()
        if readers and closed.hours:
            hours = [bar for bar in closed.hours if self._is_read(bar)]
            for reader in readers:
                if isinstance(reader, Scorer):
                    reader.add_hours(hours)
        for bar in closed.days:
            # Trades after a root's close make a bar too, but no exchange session.
            if self._is_read(bar) and bar.ts_end == self._closes[bar.root]:
                for reader in readers:
                    reader.add_day(bar)

    def _is_read(self, bar: Bar) -> bool:
        return self._active.get(bar.root) == bar.contract and bar.ts_start >= self._whole_from.get(bar.root, 0)

    def _bars_of(self, closed: SliceClosed) -> list[tuple[SliceFeed, Bar]]:
        bars: list[tuple[SliceFeed, Bar]] = []
        for feeds, closing in (
            (self._feeds.minutes, closed.minutes),
            (self._feeds.hours, closed.hours),
            (self._feeds.days, closed.days),
        ):
            for bar in closing:
                feed = feeds.get(bar.contract)
                if feed is not None:
                    self._last_close[bar.contract] = bar.close
                    bars.append((feed, bar))
        return bars

    def _deliver(self) -> None:
        if self._broker.has_notifications:
            self._cerebro.deliver()
            self._trim()

    def _trim(self) -> None:
        """Forget finished orders and trades, which Backtrader keeps for ever."""
        strategy = self._strategy
        if strategy._orders:
            strategy._orders.clear()
            for trades_by_id in strategy._trades.values():
                for trades in trades_by_id.values():
                    del trades[:-1]

    def _halt(self, root: str, error: Exception) -> None:
        """The root is left to the account, which closes what it holds: half an evaluation asks for nothing."""
        self._broker.withdraw(root)
        # An object's address in its words is another one in every process: replay would find another event.
        words = re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")
        self._signals.append(RootHalted(root=root, error=words))

    # -------------------------------------------------------- requests

    def _decided(self) -> tuple[Decision, ...]:
        signals: tuple[Signal | ShadowScored, ...] = tuple(self._signals)
        if self._shadow is not None:
            signals = tuple(with_shadows(self._signals, self._shadow, self._shadows, self._settings))
        self._signals.clear()
        return (*signals, *self._requested())

    def _requested(self) -> tuple[OrderRequested, ...]:
        orders = self._broker.take_requests()
        if not orders:
            return ()
        orders.sort(key=_rank)
        return tuple(self._request_of(order) for order in orders)

    def _request_of(self, order: Any) -> OrderRequested:
        note: RequestNote = order.info.request
        side: Side = "buy" if order.isbuy() else "sell"
        id = signal_id(
            session=self._session,
            strategy=self._settings.of(note.root).name,
            root=note.root,
            contract=note.contract,
            intent=note.intent,
            side=side,
            decided_ns=note.decided_ns,
            ordinal=self._next_ordinal(note),
        )
        self._broker.register(id, order)
        held = self._broker.positions.get(note.root) if note.intent == "exit" else None
        last_close = self._last_close.get(note.contract, note.price)
        is_limit = order.exectype == order.Limit
        return OrderRequested(
            root=note.root,
            signal_id=id,
            contract=note.contract,
            intent=note.intent,
            side=side,
            quantity=abs(int(order.size)),
            order_type="limit" if is_limit else "market",
            limit_price=float_to_price(order.price) if is_limit else None,
            reference_price=last_close,
            decided_ns=note.decided_ns,
            bar_ns=note.bar_ns,
            reason=note.reason,
            ibs=note.ibs,
            probability=note.probability,
            threshold=note.threshold,
            entry_signal_id=None if held is None else held.entry_signal_id,
            bars_held=note.bars_held,
            pnl_assumed=None if held is None else self._pnl(held, last_close),
            stop_price=note.stop_price,
            target_price=note.target_price,
            cancels_working=held is not None and held.has_legs,
        )

    def _next_ordinal(self, note: RequestNote) -> int:
        # One entry per root, contract and intent: an older decision never comes again.
        key = (note.root, note.contract, note.intent)
        decided, ordinal = self._ordinals.get(key, (None, 0))
        ordinal = ordinal + 1 if decided == note.decided_ns else 0
        self._ordinals[key] = (note.decided_ns, ordinal)
        return ordinal

    def _pnl(self, held: Position, price: Price) -> Decimal:
        root = self._roots[held.root]
        return net_pnl(
            entry=held.price,
            exit=price,
            quantity=held.quantity,
            multiplier=root.order_spec.multiplier,
            commission_per_side=root.commission_per_side,
        )

    # --------------------------------------------------------- opening

    def _add_feeds(self, plans: Sequence[RootPlan]) -> _Feeds:
        of_contract: dict[Timeframe, dict[str, SliceFeed]] = {timeframe: {} for timeframe in _TIMEFRAMES}
        for timeframe in _TIMEFRAMES:
            for plan in plans:
                feed = self._add_feed(feed_name(plan.root, timeframe), timeframe)
                of_contract[timeframe][plan.contract] = feed
        for plan in plans:
            for contract in plan.held_contracts:
                of_contract["1m"][contract] = self._add_feed(feed_name(plan.root, "1m", contract), "1m")
            for contract in (plan.contract, *plan.held_contracts):
                root = self._roots[plan.root]
                self._broker.use_feed(
                    contract,
                    of_contract["1m"][contract],
                    multiplier=float(root.order_spec.multiplier),
                    commission=float(root.commission_per_side),
                )
        return _Feeds(minutes=of_contract["1m"], hours=of_contract["1h"], days=of_contract["1d"])

    def _add_feed(self, name: str, timeframe: Timeframe) -> SliceFeed:
        feed = SliceFeed(**TIMEFRAMES[timeframe])
        self._cerebro.adddata(feed, name=name)
        return feed

    def reset(self, reset: RootReset) -> None:
        """The strategy's windows of the root start anew, and bars that are not whole stay out of every window."""
        self._whole_from[reset.root] = reset.since
        self._strategy.forget_before(reset.root, reset.since)

    def warm_up(self, tables: Sequence[BarTable], plans: Sequence[RootPlan]) -> Nanos:
        """Fill the strategy's windows with completed bars; returns the last stamp (0 without bars).

        Not through Cerebro: its lines hold one bar (exactbars=1), and thousands of turns would change nothing else.
        """
        active = {plan.root: plan.contract for plan in plans}
        last: dict[str, int] = {}
        for table in tables:
            if table.root not in active or not len(table):
                continue
            rows = table.data[:, [BAR_COLUMNS.index(name) for name in ("ts_end", "high", "low", "close")]]
            end, close = int(rows[-1, 0]), int(rows[-1, 3])
            if end >= last.get(table.root, 0):
                # The tables are shifted to the active contract's level, whichever contract a row names.
                last[table.root], self._last_close[active[table.root]] = end, Price(close)
            if table.timeframe == self._settings.of(table.root).decision_timeframe:
                self._strategy.warm_up(table.root, *rows[:, 1:].T.tolist())
        return Nanos(max(last.values(), default=0))

    def anchor(self, ts: Nanos, plans: Sequence[RootPlan], carried: StateCarried | None) -> None:
        """Give every minute feed one bar of the last known price: Backtrader cannot order on an empty feed.

        No decision sees it; where no price is known at all it is 0 and only marks the time.
        """
        known = dict(self._last_close)
        for position in carried.positions if carried else ():
            known.setdefault(position.contract, position.price)
        self._strategy.is_armed = False
        self._strategy.begin_at(ts)
        bars = []
        for plan in plans:
            for contract in (plan.contract, *plan.held_contracts):
                bar = _flat_bar(plan.root, contract, ts, known.get(contract, Price(0)))
                bars.append((self._feeds.minutes[contract], bar))
        self._cerebro.step(ts, bars)

    def arm(self, carried: StateCarried | None) -> None:
        """Take up what was carried and let the strategy decide from now on."""
        if carried is not None:
            with self._cerebro.pinned():
                self._restore(carried)
            for root in carried.halted:
                self._strategy.halt(root)
        self._strategy.is_armed = True

    def reopen(self, rolls: Sequence[RollDue | ContractRolled]) -> None:
        """Let what was closed for a roll that has taken effect be entered again, where the policy says so."""
        rolled = {roll.root for roll in rolls if isinstance(roll, ContractRolled)}
        for root in self._deadlines:
            if root in rolled and self._roots[root].roll_policy == "close_and_reopen":
                self._strategy.may_reopen(root)
        self._strategy.forget_roll_exits()

    def _restore(self, carried: StateCarried) -> None:
        memories = {memory.root: memory for memory in carried.memories}
        unsettled = {order.signal_id for order in carried.orders if order.state is OrderState.AMBIGUOUS}
        for position in carried.positions:
            trade = self._broker.restore_position(position)
            if position.entry_signal_id not in unsettled:
                # Backtrader closes this trade when the exit fills; an unsettled entry opens its own.
                self._strategy._trades[trade.data][0].append(trade)
                self._strategy.restore_position(position, None, _range_of(memories.get(position.root)))
        for order in carried.orders:
            if order.state.is_final or order.filled_ns is not None:
                continue  # an exit that only waits for its repeat is over for the strategy
            memory = memories.get(order.root)
            restored = self._broker.restore_order(order, carried_note(order, memory, self._settings.of(order.root)))
            if order.intent == "entry" and order.state is OrderState.AMBIGUOUS:
                self._strategy.restore_position(self._broker.positions[order.root], restored.ref, _range_of(memory))
            else:
                self._strategy.restore_order(restored)
        for memory in carried.memories:
            if memory.root in self._deadlines:
                self._strategy.restore_memory(memory)


def build_engine(
    opened: SessionOpened,
    carried: StateCarried | None,
    tables: Sequence[BarTable],
    rolls: Sequence[RollDue | ContractRolled] = (),
    *,
    models: Mapping[str, VetoModel] = MappingProxyType({}),
    shadows: Mapping[str, VetoModel] = MappingProxyType({}),
    strategy: type[IbsStrategy] = IbsStrategy,
) -> CerebroEngine:
    """The engine of one session: warmed up on `tables` without decisions, holding what was carried, armed.

    `rolls` says which positions are closed for a roll, and which were and may be opened again in the new contract.
    `models` by root: what `opened.models` names, as far as this process has it; `shadows` what `opened.shadows` names.
    Raises OperatorError when a carried position or order is in a root the session does not trade.
    """
    plans = plans_of(opened, carried)
    names, start = opened.required_reference_feeds, opened.session.start_ns
    traded = [root.root for root in opened.roots if not root.is_reference]
    gates = {root: asked for root in traded if (asked := gate_names(opened.strategy.of(root)))}
    is_scored = bool(gates) or any(opened.strategy.of(root).veto for root in traded)
    engine = CerebroEngine(
        opened,
        plans,
        _scorer_of(opened, opened.models, carried, tables, models, gates=gates) if is_scored else None,
        rolls,
        feeds=ReferenceFeeds(names, tables=tables, session_start=start) if names else None,
        shadow=_scorer_of(opened, opened.shadows, carried, tables, shadows) if opened.shadows else None,
        strategy=strategy,
    )
    for reset in carried.resets if carried else ():
        engine.reset(reset)  # the tables hold whole bars only
    last = engine.warm_up(tables, plans)
    engine.anchor(max(last, opened.session.start_ns), plans, carried)
    engine.arm(carried)
    if carried is not None and carried.previous_session != opened.session.date.isoformat():
        engine.reopen(rolls)
    return engine


def _scorer_of(
    opened: SessionOpened,
    records: Sequence[ModelRecord],
    carried: StateCarried | None,
    tables: Sequence[BarTable],
    models: Mapping[str, VetoModel],
    *,
    gates: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Scorer:
    used = {record.root for record in records if not record.refusal}
    return Scorer(
        {root: model for root, model in models.items() if root in used},
        refusals={record.root: record.refusal for record in records if record.refusal},
        details={record.root: record.detail for record in records if record.detail},
        gates=gates,
        carried=() if carried is None else carried.percentiles,
        tables=tables,
        # The session starts where the one before ended; a product that closed earlier that day is still of it.
        days_since=opened.session.start_ns - DAY,
        pairs=pairs_of(opened.roots),
    )


def _range_of(memory: RootMemory | None) -> Price | None:
    return None if memory is None else memory.average_range


def _flat_bar(root: str, contract: str, ts: Nanos, price: Price) -> Bar:
    return Bar(
        root=root,
        contract=contract,
        ts_start=Nanos(ts - MINUTE),
        ts_end=ts,
        open=price,
        high=price,
        low=price,
        close=price,
        volume=0,
        trades=0,
    )


def _rank(order: Any) -> tuple[bool, float, str]:
    """Exits first, in order of root; then entries by probability over threshold, then root."""
    note: RequestNote = order.info.request
    if note.intent == "exit" or note.probability is None or note.threshold is None:
        return (note.intent != "exit", 0.0, note.root)
    return (True, note.threshold - note.probability, note.root)
