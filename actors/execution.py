"""ExecutionActor's machine: the risk gate, the outbox, the fills and the operator's commands, all as events.

It decides what is sent and when; the HTTP runner does the sending and reports each attempt's
outcome as an event. An entry whose outcome cannot be known is never sent again and occupies its
root; an exit is. What it wants to close on its own (a limit of the account, the operator, a
position nobody can be sure of) it asks for like the strategy does: with an OrderRequested.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

import attrs

from actors.holdings import Holdings
from actors.outbox import Outbox
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    ClockTicked,
    CommandReceived,
    EntriesClosed,
    EntriesOpened,
    Event,
    FeedStatusChanged,
    FillAssumed,
    HistoryLoaded,
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
    RiskTripped,
    SafeStopRequested,
    SessionOpened,
    SessionReconciled,
    SessionStopped,
    SliceClosed,
    StateCarried,
    SymbolMapped,
    TradesReceived,
)
from domain.instruments import TradedRoot
from domain.market import TradeArray
from domain.orders import Intent, Order, OrderState, Side, signal_id
from domain.outbox import OutboxMemory
from domain.ports import OrderPayload
from domain.positions import Fill, Position, is_limit_touched, leg_fill, limit_fill, market_fill
from domain.risk import Allowed, EntryQuestion, RiskState, Switches, judge_entry, judge_exit
from domain.units import SECOND, Nanos, Price

NO_TRADE_LIMIT = Nanos(600 * SECOND)
"""An accepted market order without a trade of its contract for this long is assumed filled at the last close."""
CLOSE_AGAIN = Nanos(300 * SECOND)
"""A close of our own that came to nothing is asked for again after this long."""


class Execution:
    """Implements `domain.ports.Machine`."""

    name = "execution"
    kinds = frozenset(
        {
            "SessionOpened",
            "HistoryLoaded",
            "StateCarried",
            "SymbolMapped",
            "FeedStatusChanged",
            "TradesReceived",
            "SliceClosed",
            "ClockTicked",
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
            "SessionStopped",
            "SafeStopRequested",
        }
    )

    def __init__(self, build_payload: OrderPayload) -> None:
        self._build_payload = build_payload
        self._opened: SessionOpened | None = None
        self._roots: dict[str, TradedRoot] = {}
        self._active: dict[str, str] = {}
        """The traded contract by root."""
        self._instrument_ids: dict[str, int] = {}
        self._holdings = Holdings()
        self._outbox = Outbox()
        self._switches = Switches()
        self._is_feed_live = False
        self._feed_down_ns: Nanos | None = None
        self._are_entries_open = True
        self._tripped = ""
        self._was_stopped = True
        """The program's last end was in order."""
        self._unconfirmed: frozenset[str] = frozenset()
        self._unreconciled: tuple[str, ...] = ()
        self._has_traded = False
        self._asked_to_close: dict[str, Nanos] = {}
        """When a close of our own was last asked for, by root."""
        self._own_ordinals: dict[tuple[str, str, Intent, Side], tuple[Nanos, int]] = {}
        self._is_stopping = False
        """`stop` was commanded: nothing is entered while the rest is brought to its end."""
        self._now = Nanos(0)

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        self._now = now = envelope.ts_ns
        events: list[Event]
        match envelope.payload:
            case TradesReceived(trades=trades):
                events = self._fill(trades)
            case SliceClosed() as closed:
                self._holdings.mark(closed.minutes)
                events = self._watch_loss()
            case ClockTicked(ts=ts):
                self._now = ts
                events = self._on_clock(ts)
            case OrderRequested() as request:
                events = self._on_request(request, now)
            case OrderAccepted() | OrderRejected() | OrderAmbiguous() | OrderNotSent() as outcome:
                # A limit entry that was touched becomes ambiguous by our own word: that one is no attempt's outcome.
                events = self._on_outcome(outcome, now) if envelope.source == HTTP_SOURCE else []
            case ProbeAnswered() as answer:
                events = self._outbox.probe_answered(answer, now)
            case CommandReceived() as command:
                events = self._on_command(command)
            case SafeStopRequested():
                self._are_entries_open = False
                events = self._close_all("safe_stop") if self._session.risk.safestop_policy == "flatten" else []
            case SessionOpened() | StateCarried() as opening:
                self._remember(opening)
                return ()  # nothing is sent before the session's rolls are known
            case event:
                self._remember(event)
                events = []
        return (*events, *self._outbox.send_due(self._now, self._may_leave))

    def next_deadline(self) -> Nanos | None:
        """The next retry, time limit, cancellation, repeat, probe, or close of our own."""
        if self._opened is None:
            return None
        return min(self._deadlines(), default=None)

    # ------------------------------------------------------------- what is carried and shown

    @property
    def positions(self) -> tuple[Position, ...]:
        """What is held or may be held, in order of root."""
        return self._holdings.in_order()

    @property
    def orders(self) -> tuple[Order, ...]:
        """Orders that have not ended, oldest first."""
        return self._outbox.orders

    @property
    def realised_pnl(self) -> Decimal:
        """Net of commission, this session."""
        return self._holdings.realised_pnl

    @property
    def switches(self) -> Switches:
        """Where the operator has left them."""
        return self._switches

    @property
    def outbox_memory(self) -> OutboxMemory:
        """Limits and breaker, for the next file."""
        return self._outbox.memory

    @property
    def tripped(self) -> str:
        """The rule that has ended this session's entries, or empty."""
        return self._tripped

    @property
    def unconfirmed(self) -> frozenset[str]:
        """Roots whose position a crash left to be confirmed."""
        return self._unconfirmed

    @property
    def has_traded(self) -> bool:
        """An order of this file may have reached TradersPost."""
        return self._has_traded

    @property
    def unreconciled(self) -> tuple[str, ...]:
        """Sessions before this file with orders that no report was compared with."""
        return self._unreconciled

    # ------------------------------------------------------------- opening

    def _remember(self, event: Event) -> None:
        match event:
            case SessionOpened() as opened:
                self._opened = opened
                self._roots = {root.root: root for root in opened.roots}
                traded = {root.root for root in opened.roots if not root.is_reference}
                front = (c for c in opened.contracts if c.rank == 0 and c.root in traded)
                self._active = {c.root: c.raw_symbol for c in front if c.raw_symbol}
                self._holdings.use(opened.roots)
                self._switches = Switches(is_enabled=opened.mode != "live")
            case HistoryLoaded(tables=tables):
                self._holdings.use_history(tables)
            case StateCarried() as carried:
                self._take_over(carried)
            case SymbolMapped(contract=contract, instrument_id=instrument_id):
                self._instrument_ids[contract] = instrument_id
            case FeedStatusChanged(status=status):
                self._is_feed_live = status == "live"
                self._feed_down_ns = None if self._is_feed_live else self._feed_down_ns or self._now
                if status == "gap":
                    self._lose_sight()
            case EntriesClosed():
                self._are_entries_open = False
            case EntriesOpened():
                self._are_entries_open = True
            case SessionStopped():
                self._was_stopped = True
            case ActorRestarted(actor="process"):
                self._after_restart()
            case SessionReconciled(session=session):
                self._unreconciled = tuple(date for date in self._unreconciled if date != session)
            case _:
                pass

    def _lose_sight(self) -> None:
        """Trades are missing for good: a limit entry that was working may have been filled by one of them."""
        for order in self._outbox.orders:
            if order.is_filling and order.order_type == "limit":
                self._outbox.keep(attrs.evolve(order, is_touched=True))

    def _take_over(self, carried: StateCarried) -> None:
        self._holdings.restore(carried.positions, carried.realised_pnl)
        self._outbox.restore(carried.orders, carried.outbox, self._now)
        self._switches = carried.switches or self._switches
        self._tripped = carried.tripped
        self._unconfirmed = frozenset(carried.unconfirmed)
        self._unreconciled = carried.unreconciled
        self._was_stopped = False

    def _after_restart(self) -> None:
        """With money, nobody enters after a crash before the operator has looked at what is held."""
        if not self._was_stopped and self._opened is not None and self._opened.mode == "live":
            entering = {order.root for order in self._outbox.orders if order.intent == "entry"}
            self._unconfirmed |= self._holdings.positions.keys() | entering
        self._was_stopped = self._is_stopping = False
        self._are_entries_open = True

    @property
    def _session(self) -> SessionOpened:
        if self._opened is None:
            raise OurError("the session has not been opened")
        return self._opened

    # ------------------------------------------------------------- requests

    def _on_request(self, request: OrderRequested, now: Nanos) -> list[Event]:
        if request.intent == "entry":
            verdict = judge_entry(self._question(request, now), state=self._risk_state(), settings=self._session.risk)
        else:
            verdict = judge_exit(switches=self._switches)
        if not isinstance(verdict, Allowed):
            return [_decided(request, is_allowed=False, rule=verdict.rule, detail=verdict.detail)]
        if request.intent == "exit" and self._may_be_working(request.root):
            request = attrs.evolve(request, cancels_working=True)
        message = self._build_payload(request, self._session)
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
            ticker=message.ticker,
            body=message.body,
            fallback=message.fallback,
            stop_price=request.stop_price,
            target_price=request.target_price,
            cancels_working=request.cancels_working,
            is_flatten=request.is_flatten,
        )
        return [_decided(request, is_allowed=True), *self._outbox.add(order)]

    def _may_be_working(self, root: str) -> bool:
        """A limit entry, or the legs of one: an exit that left it there would be followed by a position."""
        entries = (order for order in self._outbox.of_root(root) if order.intent == "entry" and order.attempt)
        return any(
            order.order_type == "limit" or order.stop_price is not None or order.target_price is not None
            for order in entries
        )

    def _question(self, request: OrderRequested, now: Nanos) -> EntryQuestion:
        return EntryQuestion(
            root=request.root,
            quantity=request.quantity,
            price=request.reference_price if request.limit_price is None else request.limit_price,
            last_price=self._holdings.last_price(request.contract),
            age_ns=now - request.decided_ns,
            to_close_ns=self._session.session.hours_of(request.root).close_ns - now,
            margin_usd=self._holdings.margin_of(request.root, request.quantity),
            is_active_contract=self._active.get(request.root) == request.contract,
            reverses=self._is_reversal(request),
        )

    def _is_reversal(self, request: OrderRequested) -> bool:
        """The other side of a position whose full exit the same decision has asked for."""
        held = self._holdings.positions.get(request.root)
        is_other_side = held is not None and not held.is_unknown and (held.quantity > 0) == (request.side == "sell")
        exits = (o for o in self._outbox.of_root(request.root) if o.intent == "exit")
        return is_other_side and any(order.decided_ns == request.decided_ns for order in exits)

    def _risk_state(self) -> RiskState:
        occupied = {root: abs(held.quantity) for root, held in self._holdings.positions.items()}
        for order in self._outbox.orders:
            if order.intent == "entry":
                occupied[order.root] = max(order.quantity, occupied.get(order.root, 0))
        margins = (self._holdings.margin_of(root, contracts) for root, contracts in occupied.items())
        return RiskState(
            switches=self._switches,
            is_feed_live=self._is_feed_live,
            are_entries_open=self._are_entries_open and not self._is_stopping,
            breaker=self._outbox.breaker,
            tripped=self._tripped,
            occupied=occupied,
            unknown_roots=frozenset(root for root, held in self._holdings.positions.items() if held.is_unknown),
            unconfirmed=self._unconfirmed,
            unreconciled_days=self._unreconciled_days(),
            margin_usd=sum((margin for margin in margins if margin is not None), Decimal(0)),
            entries_last_hour=self._outbox.entries_last_hour(self._now),
        )

    def _unreconciled_days(self) -> int:
        if self._session.mode != "live" or not self._unreconciled:
            return 0
        return (self._session.session.date - dt.date.fromisoformat(min(self._unreconciled))).days

    def _time_limit(self, request: OrderRequested) -> Nanos | None:
        """When an unsent entry expires: 30 s or a quarter of the decision bar. Exits never do."""
        if request.intent == "exit":
            return None
        limit = request.bar_ns // 4
        if not self._is_reversal(request):
            # A reversal's exit is repeated first, and the ticker left alone for a while.
            limit = min(limit, self._session.risk.entry_time_limit_s * SECOND)
        return Nanos(request.decided_ns + limit)

    # ------------------------------------------------------------- sending

    def _may_leave(self, order: Order) -> bool:
        """Limit and switches are asked again before every attempt: what held at the request may be long ago."""
        if order.intent == "exit":
            return self._switches.kill != "all"
        is_in_time = order.expires_ns is None or self._now < order.expires_ns
        return (
            is_in_time
            and self._switches.kill == "off"
            and self._are_entries_open
            and not self._is_stopping
            and self._is_feed_live
            and self._outbox.breaker == "closed"
            and not self._tripped
            and order.root not in self._holdings.positions
        )

    def _on_outcome(self, outcome: Outcome, now: Nanos) -> list[Event]:
        order, events = self._outbox.settle(outcome, now)
        self._has_traded |= isinstance(outcome, OrderAccepted | OrderAmbiguous)
        if order.state is OrderState.AMBIGUOUS:
            self._holdings.hold(order, price=order.reference_price, ts=now, is_unknown=True)
        if isinstance(outcome, OrderAccepted) and order.cancels_working:
            events += self._cancel_working(order)
        return events

    def _cancel_working(self, order: Order) -> Iterator[OrderExpired]:
        """An exit that cancels has ended the limit entry that was working before it, unless that was touched."""
        for entry in self._outbox.of_root(order.root):
            is_working = entry.intent == "entry" and entry.order_type == "limit" and entry.is_filling
            if is_working and not entry.is_touched:
                yield self._outbox.expire(entry, "cancelled_by_exit")

    # ------------------------------------------------------------- the clock

    def _deadlines(self) -> Iterator[Nanos]:
        yield from self._outbox.deadlines(self._now, self._may_leave)
        for order in self._outbox.orders:
            if order.is_filling:
                ends = self._cancel_ns(order) or _no_trade_ns(order)
                if ends is not None:
                    yield ends
        for root in self._holdings.positions:
            for due, _ in self._closes_due(root):
                yield max(due, self._may_ask_ns(root))

    def _cancel_ns(self, order: Order) -> Nanos | None:
        if order.order_type != "limit" or order.accepted_ns is None:
            return None
        # TradersPost counts from when it got the order, which may have been tried for half a minute.
        return Nanos(order.accepted_ns + self._session.strategy.cancel_after_s * SECOND)

    def _on_clock(self, ts: Nanos) -> list[Event]:
        events: list[Event] = []
        if not self._is_feed_live and self._feed_down_ns is None:
            self._feed_down_ns = ts  # A feed that never comes up says nothing.
        for order in self._outbox.orders:
            if order.is_filling:
                events += self._end_waiting(order, ts)
        events += self._outbox.on_clock(ts)
        for root in sorted(self._holdings.positions):
            reason = next((reason for due, reason in self._closes_due(root) if ts >= due), None)
            if reason is not None and ts >= self._may_ask_ns(root):
                events += self._close(root, reason)
        return events

    def _end_waiting(self, order: Order, ts: Nanos) -> list[Event]:
        """An accepted order that nothing has filled for as long as it may work."""
        cancel_ns, no_trade_ns = self._cancel_ns(order), _no_trade_ns(order)
        if no_trade_ns is not None and ts >= no_trade_ns:
            # The broker fills a market order also when our feed is silent: without this the
            # position would have neither stop nor auto-close.
            return self._assume(order, Fill(price=order.reference_price, ts=ts, rule="no_trade"))
        if cancel_ns is None or ts < cancel_ns:
            return []
        if not order.is_touched and self._is_feed_live:
            return [self._outbox.expire(order, "cancel_after")]
        self._outbox.keep(order.moved(OrderState.AMBIGUOUS))
        self._holdings.hold(order, price=order.limit_price or order.reference_price, ts=ts, is_unknown=True)
        cause = "its price was touched and not traded through when its time ended: it may have been filled"
        if not order.is_touched:
            cause = "the feed was not live when its time ended: it may have been filled"
        return [OrderAmbiguous(root=order.root, signal_id=order.signal_id, attempt=order.attempt, cause=cause)]

    # ------------------------------------------------------------- closes of our own

    def _closes_due(self, root: str) -> Iterator[tuple[Nanos, str]]:
        """(when, why) of the closes that limits of the account demand for a held root."""
        if self._outbox.has_exit(root):
            return
        risk, held = self._session.risk, self._holdings.positions[root]
        if held.is_unknown and risk.unknown_policy == "flat":
            yield Nanos(held.opened_ns + risk.unknown_flat_after_s * SECOND), "unknown"
        if risk.stale_flatten_s is not None and self._feed_down_ns is not None:
            yield Nanos(self._feed_down_ns + risk.stale_flatten_s * SECOND), "stale_feed"
        if self._tripped and risk.daily_loss_action == "flatten":
            yield self._now, self._tripped

    def _may_ask_ns(self, root: str) -> Nanos:
        """When a close of the position in `root` may be asked for, if it was asked for before."""
        asked = self._asked_to_close.get(root)
        if asked is None or asked < self._holdings.positions[root].opened_ns:
            return Nanos(0)
        return Nanos(asked + CLOSE_AGAIN)

    def _watch_loss(self) -> list[Event]:
        """The daily stop, by the closes of the minute: realised and open, the worse case of what is unknown."""
        limit = self._session.risk.daily_loss_usd
        if limit is None or self._tripped or (pnl := self._holdings.worst_pnl()) > -limit:
            return []
        self._tripped = "daily_loss"
        action = self._session.risk.daily_loss_action
        tripped = RiskTripped(rule=self._tripped, detail=f"P&L {pnl} USD, limit -{limit}", action=action)
        return [tripped, *(self._close_all("daily_loss") if action == "flatten" else ())]

    def _close_all(self, reason: str) -> list[Event]:
        """Close whatever is held, being entered, or perhaps held."""
        entering = {order.root for order in self._outbox.orders if order.intent == "entry" and order.attempt}
        roots = sorted(self._holdings.positions.keys() | entering)
        return [event for root in roots for event in self._close(root, reason)]

    def _close(self, root: str, reason: str, contract: str | None = None) -> list[Event]:
        """Ask for a full exit of `root`: of the side that may be held, or of whichever is."""
        if self._asked_to_close.get(root) == self._now:
            return []  # The same moment makes the same signal_id: it is one intent.
        self._asked_to_close[root] = self._now
        held = self._holdings.positions.get(root)
        entry = next((order for order in self._outbox.of_root(root) if order.intent == "entry"), None)
        if contract is None:
            known = held or entry
            contract = known.contract if known is not None else self._active.get(root)
        if contract is None:
            return []
        quantity = 0
        if held is not None:
            quantity = held.quantity
        elif entry is not None:
            quantity = entry.quantity if entry.side == "buy" else -entry.quantity
        side: Side = "buy" if quantity < 0 else "sell"
        request = OrderRequested(
            root=root,
            signal_id=self._own_signal_id(root, contract, "exit", side),
            contract=contract,
            intent="exit",
            side=side,
            quantity=abs(quantity) or 1,
            order_type="market",
            limit_price=None,
            reference_price=self._holdings.known_price(contract) or (Price(0) if held is None else held.price),
            decided_ns=self._now,
            bar_ns=Nanos(0),
            reason=reason,
            entry_signal_id=None if held is None else held.entry_signal_id,
            cancels_working=True,
            # What may not exist is closed on its side only: the other side would not be ours.
            is_flatten=held is None or not held.is_unknown,
        )
        return [request]

    # ------------------------------------------------------------- the operator

    def _on_command(self, command: CommandReceived) -> list[Event]:
        root = command.argument
        self._switches = self._switches.commanded(command.command, root, self._roots)
        match command.command:
            case "resume":
                self._asked_to_close.clear()  # what the kill switch has kept back may be asked for at once
                return []
            case "flatten" if root:
                return self._close(root, "operator")
            case "flatten":
                return self._close_all("operator")
            case "stop":
                self._is_stopping = True
                return self._close_all("operator") if root == "flatten" else []
            case "resolve":
                return self._resolve(root, command.quantity or 0, command.reason)
            case _:
                return []

    def _resolve(self, root: str, quantity: int, reason: str) -> list[Event]:
        """What the operator says is held, is held: orders that were unsettled end, the difference is a fill.

        Nothing happens where no price of the position is known.
        """
        if any(o.state is OrderState.SUBMITTED and o.intent == "entry" for o in self._outbox.of_root(root)):
            return []  # Whether it is received is known in seconds, and the operator cannot have counted it.
        held = self._holdings.positions.get(root)
        contract = held.contract if held is not None else self._active.get(root)
        if contract is None:
            self._unconfirmed -= {root}
            return []
        price = self._holdings.known_price(contract) or (held.price if held is not None else None)
        if price is None and quantity:
            return []
        self._unconfirmed -= {root}
        self._asked_to_close.pop(root, None)
        price = price or Price(0)
        events: list[Event] = [
            PositionResolved(root=root, contract=contract, quantity=quantity, price=price, reason=reason)
        ]
        if held is not None and held.quantity == quantity:
            entry = next((o for o in self._outbox.orders if o.signal_id == held.entry_signal_id), None)
            if held.is_unknown and entry is not None:
                # The entry whose outcome nobody knew was filled.
                events += self._assume(entry, Fill(price=held.price, ts=self._now, rule="resolved"))
            return events
        events += self._outbox.resolve(root)
        if held is not None and held.is_unknown:
            del self._holdings.positions[root]  # Nothing was closed: it has never been there.
        elif held is not None:
            pnl = self._holdings.close(root, price)
            events.append(self._resolved_fill(held, "exit", held.quantity, price, pnl))
        if quantity:
            side: Side = "buy" if quantity > 0 else "sell"
            opened = Position(
                root=root,
                contract=contract,
                quantity=quantity,
                price=price,
                opened_ns=self._now,
                entry_signal_id=self._own_signal_id(root, contract, "entry", side),
            )
            self._holdings.positions[root] = opened
            events.append(self._resolved_fill(opened, "entry", quantity, price, None))
        return events

    def _resolved_fill(
        self, position: Position, intent: Intent, quantity: int, price: Price, pnl: Decimal | None
    ) -> FillAssumed:
        side: Side = "buy" if (quantity > 0) == (intent == "entry") else "sell"
        is_entry = intent == "entry"
        id = (
            position.entry_signal_id
            if is_entry
            else self._own_signal_id(position.root, position.contract, intent, side)
        )
        return FillAssumed(
            root=position.root,
            signal_id=id,
            contract=position.contract,
            intent=intent,
            side=side,
            quantity=abs(quantity),
            price=price,
            ts=self._now,
            rule="resolved",
            pnl=pnl,
        )

    def _own_signal_id(self, root: str, contract: str, intent: Intent, side: Side) -> str:
        """The id of what this machine decides itself; in one moment it may do so more than once."""
        key = (root, contract, intent, side)
        moment, ordinal = self._own_ordinals.get(key, (None, 0))
        ordinal = ordinal + 1 if moment == self._now else 0
        self._own_ordinals[key] = (self._now, ordinal)
        return signal_id(
            session=self._session.session.date.isoformat(),
            strategy="execution",
            root=root,
            contract=contract,
            intent=intent,
            side=side,
            decided_ns=self._now,
            ordinal=ordinal,
        )

    # ------------------------------------------------------------- fills

    def _fill(self, trades: TradeArray) -> list[Event]:
        events: list[Event] = []
        for order in self._outbox.orders:
            of_contract = self._trades_of(order.contract, trades) if order.is_filling else None
            if of_contract is None:
                continue
            tick_size = self._roots[order.root].data_spec.tick_size
            rule = limit_fill if order.order_type == "limit" else market_fill
            fill = rule(order, of_contract, tick_size=tick_size)
            if fill is not None:
                events += self._assume(order, fill)
            elif not order.is_touched and is_limit_touched(order, of_contract):
                self._outbox.keep(attrs.evolve(order, is_touched=True))
        for held in self._holdings.in_order():
            of_contract = self._trades_of(held.contract, trades) if held.has_legs and not held.is_unknown else None
            if of_contract is not None:
                events += self._take_leg(held, of_contract)
        return events

    def _trades_of(self, contract: str, trades: TradeArray) -> TradeArray | None:
        instrument_id = self._instrument_ids.get(contract)
        return None if instrument_id is None else trades[trades["instrument_id"] == instrument_id]

    def _assume(self, order: Order, fill: Fill) -> list[Event]:
        if order.intent == "entry":
            self._outbox.keep(attrs.evolve(order, filled_ns=fill.ts).moved(OrderState.FILLED))
            self._holdings.hold(order, price=fill.price, ts=fill.ts, is_unknown=False)
            return [_filled(order, fill, None)]
        self._outbox.keep_exit(attrs.evolve(order, filled_ns=fill.ts))
        unsettled = [o for o in self._outbox.of_root(order.root) if o.state is OrderState.AMBIGUOUS]
        held = self._holdings.positions.get(order.root)
        side: Side = "sell" if held is not None and held.quantity > 0 else "buy"
        if held is None or (order.side != side and not order.is_flatten):
            return [OrderExpired(root=order.root, signal_id=order.signal_id, reason="nothing_held")]
        pnl = self._holdings.close(order.root, fill.price)
        # All of it, also when the operator has resolved another quantity since the exit was asked for.
        filled = attrs.evolve(_filled(order, fill, pnl), side=side, quantity=abs(held.quantity))
        # After a full exit the root is flat, whatever its unknown entry had come to.
        return [filled, *(self._outbox.expire(entry, "flat_after_exit") for entry in unsettled)]

    def _take_leg(self, held: Position, trades: TradeArray) -> list[Event]:
        """A leg that rests at the broker was traded through: closed, by rule, and whatever is left of it cancelled."""
        fill = leg_fill(held, trades, tick_size=self._roots[held.root].data_spec.tick_size)
        if fill is None:
            return []
        side: Side = "sell" if held.quantity > 0 else "buy"
        filled = FillAssumed(
            root=held.root,
            signal_id=self._own_signal_id(held.root, held.contract, "entry", side),
            contract=held.contract,
            intent="exit",
            side=side,
            quantity=abs(held.quantity),
            price=fill.price,
            ts=fill.ts,
            rule=fill.rule,
            pnl=self._holdings.close(held.root, fill.price),
        )
        return [filled, *self._close(held.root, fill.rule, held.contract)]


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
