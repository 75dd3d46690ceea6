"""The IBS strategy, long and short: the same class in the stepped engine and in a plain `cerebro.run()`.

It reads closed bars from its feeds (`ROOT@1m` and, with hour bars deciding, `ROOT@1h`),
keeps windows of its own (Backtrader's lines may hold one bar under exactbars=1), and
decides on integer prices, so that a backtest and the live engine give the same bits.
Orders go to the minute feed of the contract. On every decision bar of every root all
gates are evaluated and one SignalEvaluated is given to `listener`, after a VetoScored
where the root's model could be asked.

It knows neither journal nor broker: positions and unfinished orders are what
`notify_order` told. An exit that is due stays due until the position is closed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import backtrader as bt

from adapters.backtrader.broker import RequestNote
from adapters.backtrader.entries import Candidate, candidate_of, entry_note, scored_of
from adapters.backtrader.feeds import feed_name, nanos_of
from adapters.backtrader.own_scorer import OwnScorer
from adapters.backtrader.roots import DecisionBar, FeedReader, Holding, RootPlan, RootState, holding_at
from domain.errors import OurError
from domain.events import RootMemory, SignalEvaluated, Verdict, VetoScored
from domain.feature_book import FeatureVector
from domain.gates import VETO_OFF, auto_close_deadline, first_refusal, is_in_band, unscored_gate
from domain.ibs import StrategySettings, internal_bar_strength
from domain.optional_gates import gate_names
from domain.positions import Position
from domain.scorer import Judgement, Scorer
from domain.sessions import STRATEGY_ZONE, local_time, to_nanos
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price, float_to_price, price_to_float, round_to_tick
from domain.veto import VetoModel

EXIT_RETRY, EXIT_RETRY_CAP = MINUTE, HOUR
"""An exit that ended without a fill is asked for again after this long, then twice as long each time."""

Deadline = Callable[[str, Nanos], Nanos | None]
"""(root, ts) -> auto-close deadline of the session in which a bar ending at `ts` lies; None when unknown."""


class IbsStrategy(bt.Strategy):  # type: ignore[misc]  # backtrader has no types
    """Params: `settings` (StrategySettings), `plans` (a RootPlan per root), `deadline_of`, `roll_closes` (by contract
    that is left: when its position is closed), `listener`, `feeds` (the ReferenceFeeds that
    entries wait for, if any; the caller feeds them), and the veto.

    The veto is a `scorer` that the caller feeds, or a model of one root in `ml_model`, `ml_features`, `ml_threshold`
    (`models.strategy_kwargs_from_bundle`), which is then fed from every feed named `X@1h` or `X@1d`; `pairs` are the
    roots that pair features read, by root. With such a model alone, the other params have defaults: the root's feed is
    one contract, the settings are the default ones (of the model's side), and sessions end at 17:00 New York on every
    weekday (early closes are the calendar's: give `deadline_of`).

    Without a listener what is evaluated is kept in `signals`. Its feeds must be this
    package's. With `on_failure` (root, exception) a root whose evaluation raises is told of
    and never looked at again; without it, in a backtest, the exception ends the run.
    """

    params = (
        ("settings", None),
        ("plans", ()),
        ("deadline_of", None),
        ("roll_closes", None),
        ("listener", None),
        ("feeds", None),
        ("on_failure", None),
        ("scorer", None),
        ("ml_model", None),
        ("ml_features", ()),
        ("ml_threshold", None),
        ("pairs", None),
    )

    def __init__(self) -> None:
        model: VetoModel | None = self.p.ml_model
        if model is None and (self.p.settings is None or self.p.deadline_of is None or not self.p.plans):
            raise OurError("IbsStrategy needs settings, plans and deadline_of, or a model")
        self.settings: StrategySettings = self.p.settings or StrategySettings(
            side="long" if model is None else model.side
        )
        self.deadline_of: Deadline = self.p.deadline_of or self._weekday_deadline
        self._roll_closes: Mapping[str, Nanos] = self.p.roll_closes or {}
        self.signals: list[SignalEvaluated | VetoScored] = []
        self.is_armed = True
        """False while the engine gives feeds a bar that no decision may see."""
        self.is_late = False
        """Set by the engine for a slice from a replay; a plain backtest has none. Until a slice comes that is not,
        nothing but the auto-close is asked for."""
        self._listener: Callable[[SignalEvaluated | VetoScored], None] = self.p.listener or self.signals.append
        self._now = Nanos(0)
        plans: tuple[RootPlan, ...] = self.p.plans or (_only_plan(model),)
        self._roots = {plan.root: self._state_of(plan) for plan in sorted(plans, key=lambda plan: plan.root)}
        self._states = tuple(self._roots.values())
        self._scorer: Scorer | None = self.p.scorer
        self._own: OwnScorer | None = None
        gates = {root: gate_names(state.settings) for root, state in self._roots.items() if state.settings.gates}
        if model is not None or (gates and self._scorer is None):
            self._own = OwnScorer(
                self.datas,
                model,
                features=self.p.ml_features,
                threshold=self.p.ml_threshold,
                gates=gates,
                pairs=self.p.pairs or {},
            )
            self._scorer = self._own.scorer

    def _weekday_deadline(self, root: str, ts: Nanos) -> Nanos:
        # Six hours on, the evening's session lies in the day that names it.
        date = (local_time(ts, STRATEGY_ZONE) + dt.timedelta(hours=6)).date()
        close = to_nanos(dt.datetime.combine(date, dt.time(17), STRATEGY_ZONE))
        return auto_close_deadline(self.settings.of(root), date, close)

    def _state_of(self, plan: RootPlan) -> RootState:
        minutes = {plan.contract: FeedReader(self.getdatabyname(feed_name(plan.root, "1m")))}
        for contract in plan.held_contracts:
            minutes[contract] = FeedReader(self.getdatabyname(feed_name(plan.root, "1m", contract)))
        settings = self.settings.of(plan.root)
        if settings.decision_timeframe == "1m":
            return RootState(plan, settings, minutes, minutes[plan.contract])
        hours = FeedReader(self.getdatabyname(feed_name(plan.root, settings.decision_timeframe)))
        return RootState(plan, settings, minutes, hours)

    # ------------------------------------------------------------ one turn

    def prenext(self) -> None:
        # Backtrader waits for a bar of every feed; a root must not wait for another.
        self.next()

    def next(self) -> None:
        fresh: FeedReader | None = None
        for state in self._states:
            for feed in state.readers:
                if feed.poll():
                    fresh = feed
        if not self.is_armed:
            return
        if self._own is not None:
            scored = self._own.poll()
            fresh = fresh or scored
        stamp = self.lines.datetime[0] if fresh is None else fresh.stamp[0]
        self._now = nanos_of(stamp, after=self._now)
        if self._own is not None:
            self._own.take(self._now)
        for state in self._states:
            self._contained(state, self._evaluate)

    def _contained(self, state: RootState, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work` for one root. Its failure costs this root and no other, where the engine takes note of it."""
        if state.is_halted:
            return
        try:
            work(state, *arguments)
        except MemoryError:
            raise  # the process's own trouble: another incarnation decides
        except Exception as error:
            if self.p.on_failure is None:
                raise
            state.is_halted = True
            self.p.on_failure(state.plan.root, error)

    def _evaluate(self, state: RootState) -> None:
        bar = self._take_bar(state) if state.decisions.is_fresh else None
        if state.holding is not None:
            self._look_for_exit(state, state.holding, bar)
        if bar is not None:
            self._decide(state, bar)
        elif state.exit_due:
            self._request_exit(state, self._now, None)

    def _take_bar(self, state: RootState) -> DecisionBar:
        lines = state.decisions.data.lines
        high, low, close = float_to_price(lines.high[0]), float_to_price(lines.low[0]), float_to_price(lines.close[0])
        start = Nanos(self._now - round(lines.length_s[0] * SECOND))
        is_whole = start >= state.whole_from
        if is_whole:
            state.add(high, low, close)
        ibs = internal_bar_strength(high=high, low=low, close=close)
        return DecisionBar(start=start, end=self._now, close=close, ibs=ibs, is_whole=is_whole)

    def _decide(self, state: RootState, bar: DecisionBar) -> None:
        candidate = candidate_of(
            state,
            bar,
            values=self._gate_values(state, bar),
            deadline=self._entry_deadline(state, bar.end),
            is_late=self.is_late,
            missing_feeds=None if self.p.feeds is None else self.p.feeds.missing(),
        )
        judgement = self._judge(state, bar)
        gates = (*candidate.gates, judgement.gate)
        refusal = first_refusal(gates)
        holding = state.holding
        verdict: Verdict
        if state.exit_due and self._request_exit(state, self._now, bar):
            verdict, reason = "exit", state.exit_due
        elif holding is not None:
            verdict, reason = "hold", state.exit_due
        elif refusal is not None:
            verdict, reason = "refuse", refusal.reason
        else:
            verdict, reason = "enter", ""
            self._request_entry(state, bar, candidate, judgement)
        state.is_reopening = False
        if state.cooldown_left:
            state.cooldown_left -= 1
        self._listener(
            SignalEvaluated(
                root=state.plan.root,
                contract=state.plan.contract,
                ts=bar.end,
                bar_start=bar.start,
                close=bar.close,
                ibs=bar.ibs.value,
                gates=gates,
                probability=None if judgement.score is None else judgement.score.probability,
                threshold=judgement.threshold,
                position=0 if holding is None else holding.quantity,
                verdict=verdict,
                reason=reason,
            )
        )

    def _entry_deadline(self, state: RootState, ts: Nanos) -> Nanos | None:
        """When a position entered now would be closed whatever happens: the auto-close, or a roll before it."""
        deadline, closes = self.deadline_of(state.plan.root, ts), self._roll_closes.get(state.plan.contract)
        return deadline if deadline is None or closes is None else min(deadline, closes)

    def _gate_values(self, state: RootState, bar: DecisionBar) -> FeatureVector | str:
        if self._scorer is None or not state.settings.gates:
            return ""
        return self._scorer.gate_values(state.plan.root, bar.end)

    def _judge(self, state: RootState, bar: DecisionBar) -> Judgement:
        """The veto, also of a bar that another gate refuses: "why not" has to be answerable for all of them."""
        if not state.settings.veto:
            return Judgement(gate=VETO_OFF)
        if self._scorer is None:
            return Judgement(gate=unscored_gate("veto_model_missing"))
        root = state.plan.root
        judgement = self._scorer.judge(root, bar.end, side=state.settings.side)
        scored = scored_of(root, judgement)
        if scored is not None:
            self._listener(scored)
        return judgement

    # ---------------------------------------------------------------- exits

    def _look_for_exit(self, state: RootState, holding: Holding, bar: DecisionBar | None) -> None:
        """Make the first matching exit due. A bar that ended before the fill (the signal bar) is none of it."""
        is_later = self._now > holding.opened_ns
        if bar is not None and is_later and bar.start > holding.opened_ns:
            state.bars_held += 1
        if state.exit_due:
            return
        minute = state.minutes[holding.contract]
        if minute.is_fresh and is_later:
            close, sign = float_to_price(minute.close[0]), -1 if holding.is_short else 1
            if sign * close <= sign * holding.stop_at:
                state.exit_due = "stop"
            elif sign * close >= sign * holding.target_at:
                state.exit_due = "target"
        if bar is not None and is_later and not state.exit_due:
            settings = state.settings
            if is_in_band(bar.ibs, settings.exit_ibs_low, settings.exit_ibs_high, is_short=holding.is_short):
                state.exit_due = "ibs"
            elif state.bars_held >= settings.exit_after_bars:
                state.exit_due = "bar_stop"
        if not state.exit_due:
            self._look_at_clock(state, self._now)

    def _look_at_clock(self, state: RootState, ts: Nanos) -> None:
        deadline = self.deadline_of(state.plan.root, ts)
        closes = None if state.holding is None else self._roll_closes.get(state.holding.contract)
        if closes is not None and ts >= closes:
            state.exit_due = "roll"
        elif deadline is not None and ts >= deadline:
            state.exit_due = "auto_close"

    def on_clock(self, ts: Nanos) -> None:
        """Ask for the exits that the time alone demands: the auto-close needs neither bar nor feed."""
        for state in self._states:
            self._contained(state, self._exit_by_clock, ts)

    def _exit_by_clock(self, state: RootState, ts: Nanos) -> None:
        if state.holding is None:
            return
        if not state.exit_due:
            self._look_at_clock(state, ts)
        if state.exit_due:
            self._request_exit(state, ts, None)

    def is_halted(self, root: str) -> bool:
        """True when an evaluation of `root` has failed."""
        return self._roots[root].is_halted

    def halt(self, root: str) -> None:
        """An evaluation of `root` had failed before: go on without it."""
        if root in self._roots:
            self._roots[root].is_halted = True

    def exit_retry_ns(self, root: str) -> Nanos:
        """The earliest moment at which an exit of `root` may be asked for (again)."""
        return self._roots[root].exit_retry_ns

    def _request_exit(self, state: RootState, ts: Nanos, bar: DecisionBar | None) -> bool:
        """Close what is held, unless an order is unfinished, the last attempt is too recent, or the slice is late."""
        holding = state.holding
        if holding is None or state.order_ref is not None or ts < state.exit_retry_ns:
            return False
        reason, deadline = state.exit_due, self.deadline_of(state.plan.root, ts)
        if self.is_late and (deadline is None or ts < deadline):
            return False
        if reason == "auto_close":
            # The first one is decided by the deadline, a repeated one by the moment it is repeated.
            decided = ts if state.is_auto_close_asked or deadline is None else deadline
            state.is_auto_close_asked, bar_ns = True, Nanos(0)
        else:
            decided, bar_ns = ts, state.decision_ns if reason in ("ibs", "bar_stop") else MINUTE
        feed = state.minutes[holding.contract]
        note = RequestNote(
            root=state.plan.root,
            contract=holding.contract,
            intent="exit",
            reason=reason,
            decided_ns=decided,
            bar_ns=bar_ns,
            price=float_to_price(feed.close[0]),
            ibs=bar.ibs.value if bar is not None and reason == "ibs" else None,
            bars_held=state.bars_held,
        )
        state.exit_retry_ns = Nanos(ts + min(EXIT_RETRY << state.exit_asks, EXIT_RETRY_CAP))
        state.exit_asks += 1
        trade = self.buy if holding.is_short else self.sell
        order = trade(data=feed.data, size=abs(holding.quantity), request=note)
        state.await_order(order.ref, "exit")
        return True

    # -------------------------------------------------------------- entries

    def _request_entry(self, state: RootState, bar: DecisionBar, candidate: Candidate, judgement: Judgement) -> None:
        plan, settings, is_short = state.plan, state.settings, candidate.is_short
        note = entry_note(state, bar, candidate, judgement)
        how: dict[str, Any] = {}
        if settings.entry_order == "limit":
            limit = round_to_tick(bar.close, plan.tick_size, up=is_short)
            # `valid` is for a backtest's broker; live, the journal says when the order has ended.
            valid = dt.timedelta(seconds=settings.cancel_after_s)
            how = {"exectype": bt.Order.Limit, "price": price_to_float(limit), "valid": valid}
        feed = state.minutes[plan.contract]
        trade = self.sell if is_short else self.buy
        order = trade(data=feed.data, size=candidate.quantity, request=note, **how)
        state.await_order(order.ref, "entry", note.average_range)

    # -------------------------------------------------- what became of them

    def notify_order(self, order: Any) -> None:
        self._contained(self._roots[order.info.request.root], self._hear, order)

    def _hear(self, state: RootState, order: Any) -> None:
        note: RequestNote = order.info.request
        is_suspect = bool(order.info.get("is_ambiguous"))
        if order.alive():
            if is_suspect and note.intent == "entry" and order.ref == state.order_ref:
                # Held for all we know; the order no longer stands in the way of an exit.
                state.forget_order()
                self._open(state, order, note.decided_ns, note.price, is_unknown=True)
            return
        if order.ref == state.order_ref:
            state.forget_order()
        if order.status == order.Completed:
            if note.intent == "entry":
                self._open(state, order, self._fill_time(order), float_to_price(order.executed.price))
            else:
                state.leave(note.reason)
        elif state.holding is not None and state.holding.is_unknown and state.holding.order_ref == order.ref:
            state.forget_holding()

    def _fill_time(self, order: Any) -> Nanos:
        known: Nanos | None = order.info.get("fill_ns")
        # A backtest's broker fills inside a minute bar and stamps the fill with the bar's end.
        return Nanos(nanos_of(order.executed.dt) - MINUTE) if known is None else known

    def _open(self, state: RootState, order: Any, opened_ns: Nanos, price: Price, *, is_unknown: bool = False) -> None:
        note: RequestNote = order.info.request
        state.hold(
            holding_at(
                price,
                state.settings,
                contract=note.contract,
                quantity=int(order.size),
                opened_ns=opened_ns,
                order_ref=order.ref,
                is_unknown=is_unknown,
                # What someone else has entered is left where an entry of ours would be now.
                average_range=note.average_range or state.average_range(),
            )
        )

    # ------------------------------------------------- history, carried state

    def begin_at(self, ts: Nanos) -> None:
        """The moment before the first turn: it tells the two moments of a repeated autumn hour apart."""
        self._now = ts

    def forget_before(self, root: str, since: Nanos) -> None:
        """Decision bars of `root` that start before `since` are not whole; a root of references only has none."""
        if root in self._roots:
            self._roots[root].reset(since)

    def warm_up(self, root: str, highs: list[Price], lows: list[Price], closes: list[Price]) -> None:
        """Completed decision bars before the first one that decides, oldest first."""
        state = self._roots[root]
        for high, low, close in zip(highs, lows, closes, strict=True):
            state.add(high, low, close)

    def restore_position(self, position: Position, order_ref: int | None, average_range: Price | None = None) -> None:
        """Hold a carried position; `order_ref` is its entry's while that is still open (UNKNOWN)."""
        state = self._roots[position.root]
        state.hold(
            holding_at(
                position.price,
                state.settings,
                contract=position.contract,
                quantity=position.quantity,
                opened_ns=position.opened_ns,
                order_ref=order_ref,
                is_unknown=position.is_unknown,
                average_range=average_range or state.average_range(),
            )
        )

    def restore_order(self, order: Any) -> None:
        """Wait for a carried, unfinished order."""
        note: RequestNote = order.info.request
        self._roots[note.root].await_order(order.ref, note.intent, note.average_range)

    def may_reopen(self, root: str) -> None:
        """The root trades a new contract: what was closed for that may be entered again at its first decision bar."""
        state = self._roots[root]
        state.is_reopening = state.holding is None and state.last_exit_reason == "roll"

    def forget_roll_exits(self) -> None:
        """An exit for a roll is answered at the next open, or never; one that has not filled gets a new time there."""
        for state in self._states:
            if state.last_exit_reason == "roll":
                state.last_exit_reason = ""
            if state.exit_due == "roll":
                state.exit_due = ""

    def restore_memory(self, memory: RootMemory) -> None:
        """Take up what a root remembers; after its position."""
        self._roots[memory.root].restore(memory)

    def memories(self) -> tuple[RootMemory, ...]:
        """What must be carried, in order of root."""
        return tuple(state.memory() for state in self._states)


def _only_plan(model: VetoModel | None) -> RootPlan:
    if model is None:
        raise OurError("IbsStrategy needs plans")
    return RootPlan(root=model.root, contract=model.root, quantity=1, tick_size=Price(1))
