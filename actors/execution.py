"""ExecutionActor's machine: the risk gate, the outbox, the fills and the operator's commands, all as events.

It decides what is sent and when; the HTTP runner does the sending and reports each attempt's
outcome as an event. An entry whose outcome cannot be known is never sent again and occupies its
root; an exit is. What it wants to close on its own (a limit of the account, the operator, a
position nobody can be sure of) it asks for like the strategy does: with an OrderRequested.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import attrs

from actors.account import Account
from actors.closes import Closes
from domain.envelope import Envelope
from domain.events import (
    HTTP_SOURCE,
    ClockTicked,
    CommandReceived,
    Event,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    Outcome,
    PositionResolved,
    ProbeAnswered,
    RiskDecided,
    RollDue,
    RootHalted,
    SafeStopRequested,
    SessionOpened,
    SessionStopped,
    SliceClosed,
    StateCarried,
    TradesReceived,
)
from domain.market import TradeArray
from domain.orders import Intent, Order, OrderState, Side
from domain.ports import OrderMessage, OrderPayload
from domain.positions import Fill, Position, is_limit_touched, leg_fill, limit_fill, market_fill
from domain.risk import Allowed, Switches, judge_entry, judge_exit
from domain.units import MINUTE, SECOND, Nanos, Price

NO_TRADE_LIMIT = Nanos(600 * SECOND)
"""An accepted market order without a trade of its contract for this long is assumed filled at the last close."""
CANCEL_TRIED_FOR = Nanos(60 * SECOND)


class Execution:
    """Implements `domain.ports.Machine`."""

    name = "execution"
    kinds = frozenset(
        {
            "SessionOpened",
            "HistoryLoaded",
            "StateCarried",
            "RollDue",
            "SymbolMapped",
            "FeedStatusChanged",
            "RootStatusChanged",
            "MarketStatusChanged",
            "TradesReceived",
            "SliceClosed",
            "ClockTicked",
            "RootHalted",
            "OrderRequested",
            "OrderAccepted",
            "OrderRejected",
            "OrderAmbiguous",
            "OrderNotSent",
            "ProbeAnswered",
            "EntriesClosed",
            "EntriesOpened",
            "CommandReceived",
            "SessionReconciled",
            "ActorRestarted",
            "MessageSkipped",
            "SessionStopped",
            "SafeStopRequested",
        }
    )

    def __init__(self, build_payload: OrderPayload) -> None:
        self.build_payload = build_payload
        self.account = Account()
        self._closes = Closes(self.account)
        self._covered_ns = Nanos(0)
        """Every trade received before is on record: in real time a minute's trades come when it is over."""

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        self.account.now = now = envelope.ts_ns
        events: list[Event]
        match envelope.payload:
            case TradesReceived(trades=trades):
                events = self._fill(trades)
            case SliceClosed() as closed:
                self.account.holdings.mark(closed.minutes)
                events = self._closes.watch_loss()
            case ClockTicked(ts=ts, watermark=watermark):
                self.account.now = ts
                self._covered_ns = ts if self.account.session.clock == "feed" else watermark
                events = self._on_clock(ts)
            case OrderRequested() as request:
                events = self._on_request(request, now)
            case OrderAccepted() | OrderRejected() | OrderAmbiguous() | OrderNotSent() as outcome:
                # A limit entry that was touched becomes ambiguous by our own word: that one is no attempt's outcome.
                events = self._on_outcome(outcome, now) if envelope.source == HTTP_SOURCE else []
            case ProbeAnswered() as answer:
                events = self.account.outbox.probe_answered(answer, now)
            case CommandReceived() as command:
                events = self._on_command(command)
            case RootHalted(root=root) as halted:
                self.account.remember(halted)
                events = self._closes.on_halt(root)
            case SafeStopRequested():
                self.account.are_entries_open = False
                events = self._closes.on_safe_stop()
            case SessionOpened() | StateCarried() | RollDue() | SessionStopped() as bound:
                self.account.remember(bound)
                return ()  # nothing is sent before the session's rolls are known, nor behind its end
            case event:
                self.account.remember(event)
                events = []
        return (*events, *self.account.outbox.send_due(self.account.now, self.account.may_leave))

    def next_deadline(self) -> Nanos | None:
        """The next retry, time limit, cancellation, repeat, probe, or close of our own."""
        if self.account.opened is None:
            return None
        return min(self._deadlines(), default=None)

    # ------------------------------------------------------------- what is carried and shown

    @property
    def positions(self) -> tuple[Position, ...]:
        """What is held or may be held, in order of root."""
        return self.account.holdings.in_order()

    @property
    def orders(self) -> tuple[Order, ...]:
        """Orders that have not ended, oldest first."""
        return self.account.outbox.orders

    @property
    def realised_pnl(self) -> Decimal:
        """Net of commission, this session."""
        return self.account.holdings.realised_pnl

    @property
    def switches(self) -> Switches:
        """Where the operator has left them."""
        return self.account.switches

    # ------------------------------------------------------------- requests

    def _on_request(self, request: OrderRequested, now: Nanos) -> list[Event]:
        account = self.account
        if request.intent == "entry":
            verdict = judge_entry(
                account.question(request, now), state=account.risk_state(), settings=account.session.risk
            )
        else:
            verdict = judge_exit(switches=self.account.switches)
        if not isinstance(verdict, Allowed):
            return [_decided(request, is_allowed=False, rule=verdict.rule, detail=verdict.detail)]
        if request.intent == "exit" and self.account.may_be_working(request.root):
            request = attrs.evolve(request, cancels_working=True)
        message = self.build_payload(request, self.account.session)
        order = order_of(request, message, self._time_limit(request))
        return [_decided(request, is_allowed=True), *self.account.outbox.add(order)]

    def _time_limit(self, request: OrderRequested) -> Nanos | None:
        """When an unsent entry expires: 30 s or a quarter of the decision bar. Exits never do."""
        if request.intent == "exit":
            return None
        if request.intent == "cancel":
            return Nanos(request.decided_ns + CANCEL_TRIED_FOR)
        limit = request.bar_ns // 4
        if not self.account.is_reversal(request):
            # A reversal's exit is repeated first, and the ticker left alone for a while.
            limit = min(limit, self.account.session.risk.entry_time_limit_s * SECOND)
        return Nanos(request.decided_ns + limit)

    # ------------------------------------------------------------- sending

    def _on_outcome(self, outcome: Outcome, now: Nanos) -> list[Event]:
        order, events = self.account.outbox.settle(outcome, now)
        self.account.has_traded |= isinstance(outcome, OrderAccepted | OrderAmbiguous)
        if order.state is OrderState.AMBIGUOUS:
            self.account.holdings.hold(order, price=order.reference_price, ts=now, is_unknown=True)
        if isinstance(outcome, OrderAccepted) and order.cancels_working:
            events += self._cancel_working(order)
        return events

    def _cancel_working(self, order: Order) -> Iterator[OrderExpired]:
        """An exit that cancels has ended the limit entry that was working before it, unless that was touched."""
        for entry in self.account.outbox.of_root(order.root):
            is_working = entry.intent == "entry" and entry.order_type == "limit" and entry.is_filling
            if is_working and not entry.is_touched:
                yield self.account.outbox.expire(entry, "cancelled_by_exit")

    # ------------------------------------------------------------- the clock

    def _deadlines(self) -> Iterator[Nanos]:
        yield from self.account.outbox.deadlines(self.account.now, self.account.may_leave)
        for order in self.account.outbox.orders:
            if order.is_filling:
                ends = self._cancel_ns(order) or _no_trade_ns(order)
                if ends is not None:
                    # Not before its last trades can be on record.
                    yield ends if self.account.session.clock == "feed" else Nanos(-(-ends // MINUTE) * MINUTE)
        yield from self._closes.deadlines()

    def _cancel_ns(self, order: Order) -> Nanos | None:
        if order.order_type != "limit" or order.accepted_ns is None:
            return None
        # TradersPost counts from when it got the order, which may have been tried for half a minute.
        return Nanos(order.accepted_ns + self.account.session.strategy.of(order.root).cancel_after_s * SECOND)

    def _on_clock(self, ts: Nanos) -> list[Event]:
        events: list[Event] = []
        if not self.account.is_feed_live and self.account.feed_down_ns is None:
            self.account.feed_down_ns = ts  # A feed that never comes up says nothing.
        for order in self.account.outbox.orders:
            if order.is_filling:
                events += self._end_waiting(order, ts)
        events += self.account.outbox.on_clock(ts)
        return events + self._closes.on_clock(ts)

    def _end_waiting(self, order: Order, ts: Nanos) -> list[Event]:
        """An accepted order that nothing has filled for as long as it may work."""
        cancel_ns, no_trade_ns = self._cancel_ns(order), _no_trade_ns(order)
        if no_trade_ns is not None and ts >= no_trade_ns:
            # The broker fills a market order also when our feed is silent: without this the
            # position would have neither stop nor auto-close.
            return self._assume(order, Fill(price=order.reference_price, ts=ts, rule="no_trade"))
        if cancel_ns is None or ts < cancel_ns:
            return []
        if not order.is_touched and self.account.is_feed_live:
            if self._covered_ns < cancel_ns:
                return []  # A trade that filled it may still be on its way to us.
            return [self.account.outbox.expire(order, "cancel_after")]
        self.account.outbox.keep(order.moved(OrderState.AMBIGUOUS))
        self.account.holdings.hold(order, price=order.limit_price or order.reference_price, ts=ts, is_unknown=True)
        cause = "its price was touched and not traded through when its time ended: it may have been filled"
        if not order.is_touched:
            cause = "the feed was not live when its time ended: it may have been filled"
        return [OrderAmbiguous(root=order.root, signal_id=order.signal_id, attempt=order.attempt, cause=cause)]

    # ------------------------------------------------------------- the operator

    def _on_command(self, command: CommandReceived) -> list[Event]:
        root = command.argument
        self.account.switches = self.account.switches.commanded(command.command, root, self.account.roots)
        match command.command:
            case "resume":
                self._closes.forget_asked(
                    *self.account.roots
                )  # what the kill switch has kept back may be asked for at once
                return []
            case "flatten" if root:
                return self._closes.close(root, "operator")
            case "flatten":
                return self._closes.close_all("operator")
            case "stop":
                self.account.is_stopping = True
                return self._closes.close_all("operator") if root == "flatten" else []
            case "resolve":
                return self._resolve(root, command.quantity or 0, command.reason)
            case _:
                return []

    def _resolve(self, root: str, quantity: int, reason: str) -> list[Event]:
        """What the operator says is held, is held: orders that were unsettled end, the difference is a fill.

        Nothing happens where no price of the position is known.
        """
        if any(o.state is OrderState.SUBMITTED and o.intent == "entry" for o in self.account.outbox.of_root(root)):
            return []  # Whether it is received is known in seconds, and the operator cannot have counted it.
        held = self.account.holdings.positions.get(root)
        contract = held.contract if held is not None else self.account.active.get(root)
        if contract is None:
            self.account.unconfirmed -= {root}
            return []
        price = self.account.holdings.known_price(contract) or (held.price if held is not None else None)
        if price is None and quantity:
            return []
        self.account.unconfirmed -= {root}
        self._closes.forget_asked(root)
        price = price or Price(0)
        events: list[Event] = [
            PositionResolved(root=root, contract=contract, quantity=quantity, price=price, reason=reason)
        ]
        if held is not None and held.quantity == quantity:
            entry = next((o for o in self.account.outbox.orders if o.signal_id == held.entry_signal_id), None)
            if held.is_unknown and entry is not None:
                # The entry whose outcome nobody knew was filled.
                events += self._assume(entry, Fill(price=held.price, ts=self.account.now, rule="resolved"))
            return events
        events += self.account.outbox.resolve(root)
        if held is not None and held.is_unknown:
            del self.account.holdings.positions[root]  # Nothing was closed: it has never been there.
        elif held is not None:
            pnl = self.account.holdings.close(root, price)
            events.append(self._resolved_fill(held, "exit", price, pnl))
        if quantity:
            side: Side = "buy" if quantity > 0 else "sell"
            opened = Position(
                root=root,
                contract=contract,
                quantity=quantity,
                price=price,
                opened_ns=self.account.now,
                entry_signal_id=self.account.own_signal_id(root, contract, "entry", side),
            )
            self.account.holdings.positions[root] = opened
            events.append(self._resolved_fill(opened, "entry", price, None))
        return events

    def _resolved_fill(self, position: Position, intent: Intent, price: Price, pnl: Decimal | None) -> FillAssumed:
        """The fill that takes `position` in (an entry) or out (an exit)."""
        side: Side = "buy" if (position.quantity > 0) == (intent == "entry") else "sell"
        id = position.entry_signal_id
        if intent == "exit":
            id = self.account.own_signal_id(position.root, position.contract, intent, side)
        return FillAssumed(
            root=position.root,
            signal_id=id,
            contract=position.contract,
            intent=intent,
            side=side,
            quantity=abs(position.quantity),
            price=price,
            ts=self.account.now,
            rule="resolved",
            pnl=pnl,
        )

    # ------------------------------------------------------------- fills

    def _fill(self, trades: TradeArray) -> list[Event]:
        events: list[Event] = []
        for order in self.account.outbox.orders:
            may_work = order.is_filling or order.sent_ns is not None
            of_contract = self._trades_of(order.contract, trades) if may_work else None
            if of_contract is None:
                continue
            if (cancel_ns := self._cancel_ns(order)) is not None:
                of_contract = of_contract[of_contract["ts_recv"] < cancel_ns]
            fill = self._fill_of(order, of_contract)
            if fill is not None:
                events += self._assume(order, fill)
            elif order.intent == "entry" and not order.is_touched and is_limit_touched(order, of_contract):
                self.account.outbox.keep(attrs.evolve(order, is_touched=True))
        for held in self.account.holdings.in_order():
            of_contract = self._trades_of(held.contract, trades) if held.has_legs and not held.is_unknown else None
            if of_contract is not None:
                events += self._take_leg(held, of_contract)
        return events

    def _fill_of(self, order: Order, trades: TradeArray) -> Fill | None:
        if not order.is_filling:
            return None
        rule = limit_fill if order.order_type == "limit" else market_fill
        return rule(order, trades, tick_size=self.account.roots[order.root].data_spec.tick_size)

    def _trades_of(self, contract: str, trades: TradeArray) -> TradeArray | None:
        instrument_id = self.account.instrument_ids.get(contract)
        return None if instrument_id is None else trades[trades["instrument_id"] == instrument_id]

    def _assume(self, order: Order, fill: Fill) -> list[Event]:
        if order.intent == "entry":
            self.account.outbox.keep(attrs.evolve(order, filled_ns=fill.ts).moved(OrderState.FILLED))
            self.account.holdings.hold(order, price=fill.price, ts=fill.ts, is_unknown=False)
            return [_filled(order, fill, None)]
        self.account.outbox.keep_exit(attrs.evolve(order, filled_ns=fill.ts))
        unsettled = [o for o in self.account.outbox.of_root(order.root) if o.state is OrderState.AMBIGUOUS]
        held = self.account.holdings.positions.get(order.root)
        side: Side = "sell" if held is not None and held.quantity > 0 else "buy"
        if held is None or (order.side != side and not order.is_flatten):
            return [OrderExpired(root=order.root, signal_id=order.signal_id, reason="nothing_held")]
        pnl = self.account.holdings.close(order.root, fill.price)
        # All of it, also when the operator has resolved another quantity since the exit was asked for.
        filled = attrs.evolve(_filled(order, fill, pnl), side=side, quantity=abs(held.quantity))
        # After a full exit the root is flat, whatever its unknown entry had come to.
        return [filled, *(self.account.outbox.expire(entry, "flat_after_exit") for entry in unsettled)]

    def _take_leg(self, held: Position, trades: TradeArray) -> list[Event]:
        """A leg that rests at the broker was traded through: closed, by rule, and whatever is left of it cancelled."""
        fill = leg_fill(held, trades, tick_size=self.account.roots[held.root].data_spec.tick_size)
        if fill is None:
            return []
        side: Side = "sell" if held.quantity > 0 else "buy"
        filled = FillAssumed(
            root=held.root,
            signal_id=self.account.own_signal_id(held.root, held.contract, "entry", side),
            contract=held.contract,
            intent="exit",
            side=side,
            quantity=abs(held.quantity),
            price=fill.price,
            ts=fill.ts,
            rule=fill.rule,
            pnl=self.account.holdings.close(held.root, fill.price),
        )
        return [filled, *self._closes.close(held.root, fill.rule, held.contract)]


def order_of(request: OrderRequested, message: OrderMessage, expires_ns: Nanos | None) -> Order:
    """The order that a request becomes when it is allowed."""
    return Order(
        signal_id=request.signal_id,
        root=request.root,
        contract=request.contract,
        intent=request.intent,
        side=request.side,
        quantity=request.quantity,
        order_type=request.order_type,
        limit_price=request.limit_price,
        reference_price=request.reference_price,
        decided_ns=request.decided_ns,
        expires_ns=expires_ns,
        ticker=message.ticker,
        body=message.body,
        fallback=message.fallback,
        stop_price=request.stop_price,
        target_price=request.target_price,
        cancels_working=request.cancels_working,
        is_flatten=request.is_flatten,
    )


def _decided(request: OrderRequested, *, is_allowed: bool, rule: str = "", detail: str = "") -> RiskDecided:
    return RiskDecided(root=request.root, signal_id=request.signal_id, is_allowed=is_allowed, rule=rule, detail=detail)


def _filled(order: Order, fill: Fill, pnl: Decimal | None) -> FillAssumed:
    return FillAssumed(
        root=order.root,
        signal_id=order.signal_id,
        contract=order.contract,
        intent=order.intent,
        side=order.side,
        quantity=order.quantity,
        price=fill.price,
        ts=fill.ts,
        rule=fill.rule,
        pnl=pnl,
    )


def _no_trade_ns(order: Order) -> Nanos | None:
    """When an accepted market order is taken for filled although its contract has not traded since."""
    if order.order_type != "market" or order.accepted_ns is None:
        return None
    return Nanos(order.accepted_ns + NO_TRADE_LIMIT)
