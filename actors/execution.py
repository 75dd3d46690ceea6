"""ExecutionActor's machine: the risk gate, the outbox and the fills, all as events.

It decides what is sent and when; the HTTP runner does the sending and reports each
attempt's outcome as an event. One attempt per root is in flight at a time. An entry whose
outcome cannot be known is never sent again and occupies its root; an exit is.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal

import attrs

from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import (
    ClockTicked,
    CommandReceived,
    EntriesClosed,
    EntriesOpened,
    Event,
    FeedStatusChanged,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    RiskDecided,
    SessionOpened,
    StateCarried,
    SymbolMapped,
    TradesReceived,
)
from domain.instruments import TradedRoot
from domain.market import TradeArray
from domain.orders import Order, OrderState, backoff_ns
from domain.ports import OrderPayload
from domain.positions import Fill, Position, limit_fill, market_fill, net_pnl
from domain.risk import Allowed, KillSwitch, RiskState, judge_entry, judge_exit
from domain.units import SECOND, Nanos, Price

EXIT_BACKOFF_CAP_S = 30.0
NO_TRADE_LIMIT = Nanos(600 * SECOND)
"""An accepted market order without a trade of its contract for this long is assumed filled at the last close."""


class Execution:
    """Implements `domain.ports.Machine`."""

    name = "execution"
    kinds = frozenset(
        {
            "SessionOpened",
            "StateCarried",
            "SymbolMapped",
            "FeedStatusChanged",
            "TradesReceived",
            "ClockTicked",
            "OrderRequested",
            "OrderAccepted",
            "OrderRejected",
            "OrderAmbiguous",
            "OrderNotSent",
            "EntriesClosed",
            "EntriesOpened",
            "CommandReceived",
        }
    )

    def __init__(self, build_payload: OrderPayload) -> None:
        self._build_payload = build_payload
        self._opened: SessionOpened | None = None
        self._roots: dict[str, TradedRoot] = {}
        self._instrument_ids: dict[str, int] = {}
        self._orders: dict[str, Order] = {}
        """Every order that has not ended, oldest first."""
        self._positions: dict[str, Position] = {}
        self._realised_pnl = Decimal(0)
        self._kill_switch: KillSwitch = "off"
        self._is_feed_live = False
        self._are_entries_open = True

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        now = envelope.ts_ns
        match envelope.payload:
            case TradesReceived(trades=trades):
                return self._fill(trades)
            case ClockTicked(ts=ts):
                return self._on_clock(ts)
            case OrderRequested() as request:
                return self._on_request(request, now)
            case OrderAccepted() | OrderRejected() | OrderAmbiguous() | OrderNotSent() as outcome:
                return self._on_outcome(outcome, now)
            case event:
                self._remember(event)
        return ()

    def next_deadline(self) -> Nanos | None:
        """The next retry, time limit or cancellation."""
        deadlines = [deadline for order in self._orders.values() if (deadline := self._deadline_of(order)) is not None]
        return min(deadlines, default=None)

    @property
    def positions(self) -> tuple[Position, ...]:
        """What is held or may be held, in order of root."""
        return tuple(self._positions[root] for root in sorted(self._positions))

    @property
    def orders(self) -> tuple[Order, ...]:
        """Orders that have not ended, oldest first."""
        return tuple(self._orders.values())

    @property
    def realised_pnl(self) -> Decimal:
        """Net of commission, this session."""
        return self._realised_pnl

    @property
    def kill_switch(self) -> KillSwitch:
        """Where the operator has left it."""
        return self._kill_switch

    # ------------------------------------------------------------- opening

    def _remember(self, event: Event) -> None:
        match event:
            case SessionOpened() as opened:
                self._opened = opened
                self._roots = {root.root: root for root in opened.roots}
            case StateCarried() as carried:
                self._positions = {position.root: position for position in carried.positions}
                self._orders = {order.signal_id: order for order in carried.orders}
                self._realised_pnl = carried.realised_pnl
                self._kill_switch = carried.kill_switch
            case SymbolMapped(contract=contract, instrument_id=instrument_id):
                self._instrument_ids[contract] = instrument_id
            case FeedStatusChanged(status=status):
                self._is_feed_live = status == "live"
            case EntriesClosed():
                self._are_entries_open = False
            case EntriesOpened():
                self._are_entries_open = True
            case CommandReceived(command="kill", argument=argument):
                self._kill_switch = "all" if argument == "all" else "entries"
            case CommandReceived(command="enable"):
                self._kill_switch = "off"
            case _:
                pass

    # ------------------------------------------------------------- requests

    def _on_request(self, request: OrderRequested, now: Nanos) -> tuple[Event, ...]:
        if self._opened is None:
            raise OurError("an order came before SessionOpened")
        state = RiskState(
            kill_switch=self._kill_switch,
            is_feed_live=self._is_feed_live,
            are_entries_open=self._are_entries_open,
            occupied_roots=self._occupied_roots(),
        )
        if request.intent == "entry":
            age = now - request.decided_ns
            verdict = judge_entry(root=request.root, age_ns=age, state=state, settings=self._opened.risk)
        else:
            verdict = judge_exit(state=state)
        if not isinstance(verdict, Allowed):
            return (self._risk(request, is_allowed=False, rule=verdict.rule, detail=verdict.detail),)
        ticker, body = self._build_payload(request, self._opened)
        order = Order(
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
            expires_ns=self._time_limit(request),
            ticker=ticker,
            body=body,
        )
        self._orders[order.signal_id] = order.moved(OrderState.QUEUED)
        allowed = self._risk(request, is_allowed=True, rule="", detail="")
        return (allowed, *self._send_next(request.root, now))

    @staticmethod
    def _risk(request: OrderRequested, *, is_allowed: bool, rule: str, detail: str) -> RiskDecided:
        return RiskDecided(
            root=request.root, signal_id=request.signal_id, is_allowed=is_allowed, rule=rule, detail=detail
        )

    def _occupied_roots(self) -> frozenset[str]:
        entering = {order.root for order in self._orders.values() if order.intent == "entry"}
        return frozenset(entering | self._positions.keys())

    def _time_limit(self, request: OrderRequested) -> Nanos | None:
        """When an unsent entry expires: 30 s or a quarter of the decision bar. Exits never do."""
        if request.intent == "exit" or self._opened is None:
            return None
        limit = self._opened.risk.entry_time_limit_s * SECOND
        return Nanos(request.decided_ns + min(limit, request.bar_ns // 4))

    # ------------------------------------------------------------- sending

    def _send_next(self, root: str, now: Nanos) -> tuple[Event, ...]:
        """The next attempt for `root`, unless one is in flight; exits before entries."""
        waiting = [order for order in self._orders.values() if order.root == root]
        if any(order.state is OrderState.SUBMITTED for order in waiting):
            return ()
        due = [
            o for o in waiting if o.state is OrderState.QUEUED and o.not_before_ns <= now and self._may_leave(o, now)
        ]
        if not due:
            return ()
        first = min(due, key=lambda order: order.intent != "exit")
        order = attrs.evolve(first.moved(OrderState.SUBMITTED), attempt=first.attempt + 1)
        self._orders[order.signal_id] = order
        return (
            OrderSubmitted(
                root=root,
                signal_id=order.signal_id,
                attempt=order.attempt,
                ticker=order.ticker,
                body=order.body,
                body_sha256=hashlib.sha256(order.body.encode()).hexdigest(),
            ),
        )

    def _may_leave(self, order: Order, now: Nanos) -> bool:
        """Limit and switches are asked again before every attempt: what held at the request may be long ago."""
        if order.intent == "exit":
            return self._kill_switch != "all"
        is_in_time = order.expires_ns is None or now < order.expires_ns
        return is_in_time and self._kill_switch == "off" and self._are_entries_open and self._is_feed_live

    def _on_outcome(
        self, outcome: OrderAccepted | OrderRejected | OrderAmbiguous | OrderNotSent, now: Nanos
    ) -> tuple[Event, ...]:
        order = self._orders.get(outcome.signal_id)
        if order is None or order.attempt != outcome.attempt:
            raise OurError(f"an outcome for {outcome.signal_id}, attempt {outcome.attempt}, which is not open")
        match outcome:
            case OrderAccepted():
                order = attrs.evolve(order.moved(OrderState.ACCEPTED), accepted_ns=now)
            case OrderRejected():
                order = order.moved(OrderState.REJECTED)
            case OrderNotSent(retry_after_s=retry_after_s):
                order = self._queued_again(order, now, retry_after_s)
            case OrderAmbiguous() if order.intent == "exit":
                order = self._queued_again(order.moved(OrderState.AMBIGUOUS), now, None)
            case OrderAmbiguous():
                order = order.moved(OrderState.AMBIGUOUS)
                self._hold(order, price=order.reference_price, ts=now, is_unknown=True)
        self._keep(order)
        return self._send_next(order.root, now)

    def _queued_again(self, order: Order, now: Nanos, retry_after_s: float | None) -> Order:
        wait = backoff_ns(order.signal_id, order.attempt, cap_s=EXIT_BACKOFF_CAP_S)
        if retry_after_s is not None:
            wait = Nanos(max(wait, int(retry_after_s * SECOND)))
        return attrs.evolve(order.moved(OrderState.QUEUED), not_before_ns=Nanos(now + wait))

    def _keep(self, order: Order) -> None:
        if order.state.is_final:
            del self._orders[order.signal_id]
        else:
            self._orders[order.signal_id] = order

    # ------------------------------------------------------------- the clock

    def _deadline_of(self, order: Order) -> Nanos | None:
        if order.state is OrderState.QUEUED:
            if not self._may_leave(order, order.not_before_ns):
                return order.expires_ns  # held back: only its end is near
            return min(order.not_before_ns, order.expires_ns or order.not_before_ns)
        if order.state is OrderState.ACCEPTED:
            return self._cancel_ns(order) or self._no_trade_ns(order)
        return None

    @staticmethod
    def _no_trade_ns(order: Order) -> Nanos | None:
        """When an accepted market order is taken for filled although its contract has not traded since."""
        if order.order_type != "market" or order.accepted_ns is None:
            return None
        return Nanos(order.accepted_ns + NO_TRADE_LIMIT)

    def _cancel_ns(self, order: Order) -> Nanos | None:
        if order.order_type != "limit" or self._opened is None:
            return None
        return Nanos(order.decided_ns + self._opened.strategy.cancel_after_s * SECOND)

    def _on_clock(self, ts: Nanos) -> tuple[Event, ...]:
        events: list[Event] = []
        for order in tuple(self._orders.values()):
            cancel_ns, no_trade_ns = self._cancel_ns(order), self._no_trade_ns(order)
            if order.state is OrderState.ACCEPTED and no_trade_ns is not None and ts >= no_trade_ns:
                # The broker fills a market order also when our feed is silent: without this the
                # position would have neither stop nor auto-close.
                events += self._assume(order, Fill(price=order.reference_price, ts=ts, rule="no_trade"))
                continue
            if order.state is OrderState.QUEUED and order.expires_ns is not None and ts >= order.expires_ns:
                reason = "time_limit"
            elif order.state is OrderState.ACCEPTED and cancel_ns is not None and ts >= cancel_ns:
                reason = "cancel_after"
            else:
                continue
            self._keep(order.moved(OrderState.EXPIRED))
            events.append(OrderExpired(root=order.root, signal_id=order.signal_id, reason=reason))
        for root in sorted({order.root for order in self._orders.values() if order.state is OrderState.QUEUED}):
            events += self._send_next(root, ts)
        return tuple(events)

    # ------------------------------------------------------------- fills

    def _fill(self, trades: TradeArray) -> tuple[Event, ...]:
        working = [order for order in self._orders.values() if order.state is OrderState.ACCEPTED]
        fills: list[Event] = []
        for order in working:
            instrument_id = self._instrument_ids.get(order.contract)
            if instrument_id is None:
                continue
            of_contract = trades[trades["instrument_id"] == instrument_id]
            rule = limit_fill if order.order_type == "limit" else market_fill
            fill = rule(order, of_contract, tick_size=self._roots[order.root].data_spec.tick_size)
            if fill is not None:
                fills += self._assume(order, fill)
        return tuple(fills)

    def _assume(self, order: Order, fill: Fill) -> tuple[Event, ...]:
        self._keep(order.moved(OrderState.FILLED))
        pnl: Decimal | None = None
        ended: tuple[OrderExpired, ...] = ()
        if order.intent == "exit":
            pnl, ended = self._close_position(order, fill), self._end_ambiguous_entries(order.root)
        else:
            self._hold(order, price=fill.price, ts=fill.ts, is_unknown=False)
        filled = FillAssumed(
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
        return (filled, *ended)

    def _hold(self, order: Order, *, price: Price, ts: Nanos, is_unknown: bool) -> None:
        self._positions[order.root] = Position(
            root=order.root,
            contract=order.contract,
            quantity=order.quantity if order.side == "buy" else -order.quantity,
            price=price,
            opened_ns=ts,
            entry_signal_id=order.signal_id,
            is_unknown=is_unknown,
        )

    def _end_ambiguous_entries(self, root: str) -> tuple[OrderExpired, ...]:
        """After a full exit the root is flat, whatever its unknown entry had come to."""
        entries = [o for o in self._orders.values() if o.root == root and o.state is OrderState.AMBIGUOUS]
        for entry in entries:
            self._keep(entry.moved(OrderState.EXPIRED))
        return tuple(OrderExpired(root=root, signal_id=e.signal_id, reason="flat_after_exit") for e in entries)

    def _close_position(self, order: Order, fill: Fill) -> Decimal | None:
        position = self._positions.pop(order.root, None)
        if position is None:
            return None
        root = self._roots[order.root]
        pnl = net_pnl(
            entry=position.price,
            exit=fill.price,
            quantity=position.quantity,
            multiplier=root.order_spec.multiplier,
            commission_per_side=root.commission_per_side,
        )
        self._realised_pnl += pnl
        return pnl
