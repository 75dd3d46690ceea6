"""How a session stands now: positions, open orders, switches, what keeps entries away. A fold of the journal.

What `status`, `positions` and the operator's answers show. It is given every envelope (in a live run under the
sequencer's lock) and asked from other threads; it decides nothing, and no machine is ever looked into.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import attrs

from actors.account import unreconciled_days
from actors.outbox import retry_ns
from actors.tally import Tally
from domain.envelope import Envelope
from domain.events import (
    HTTP_SOURCE,
    BreakerChanged,
    CommandReceived,
    FeedStatusChanged,
    FillAssumed,
    FillConfirmed,
    MarketStatusChanged,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    PositionResolved,
    RiskDecided,
    RiskTripped,
    RootHalted,
    RootStatusChanged,
    SessionOpened,
    SessionReconciled,
    SliceClosed,
    StateCarried,
)
from domain.instruments import TradedRoot
from domain.orders import Intent, Order, OrderState, Side
from domain.outbox import (
    ALL_PER_HOUR,
    ALL_PER_MINUTE,
    HARD_PROBE_AFTER,
    REPEAT_AFTER,
    REPEAT_AFTER_CANCEL,
    BreakerState,
    Limiter,
    is_webhook_refused,
)
from domain.positions import Position, net_pnl
from domain.risk import Switches
from domain.sessions import iso_utc
from domain.units import MINUTE, SECOND, Nanos, Price, price_to_decimal
from domain.veto import ModelRecord

OVERDUE = Nanos(90 * SECOND)
"""A last record or bar older than this, in an open market, is told."""
_CAUSED = 512
"""Events of the execution machine that are kept to be looked up by the command that caused them."""


@attrs.define(kw_only=True)
class OpenOrder:
    """An order that has not ended, as far as its events tell."""

    signal_id: str
    root: str
    contract: str
    intent: Intent
    side: Side
    quantity: int
    reason: str
    cancels_working: bool
    state: OrderState = OrderState.REQUESTED
    attempt: int = 0
    next_ns: Nanos | None = None
    """Earliest next attempt (or repeat); None when none is to come."""
    is_accepted: bool = False
    is_filled: bool = False
    is_superseded: bool = False
    is_last_try: bool = False


class Status:
    """One session, over all of its files when they are folded one after the other."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._lock = threading.Lock()
        self._tally = tally or Tally()
        self._opened: SessionOpened | None = None
        self._roots: dict[str, TradedRoot] = {}
        self._seq = 0
        self._now = Nanos(0)
        self._switches = Switches()
        self._are_entries_open = True
        self._is_stopping = False
        self._was_stopped = True
        self._breaker: BreakerState = "closed"
        self._tripped = ""
        self._unconfirmed: frozenset[str] = frozenset()
        self._unreconciled: tuple[str, ...] = ()
        self._feed: FeedStatusChanged | None = None
        self._stale: dict[str, str] = {}
        """By root: why."""
        self._is_silent = False
        self._last_ns: dict[str, Nanos] = {}
        """Time of the last record, bar and decision."""
        self._last_price: dict[str, Price] = {}
        """By contract."""
        self._orders: dict[str, OpenOrder] = {}
        self._limiter = Limiter()
        self._known: dict[str, str] = {}
        """By root: how its position is known."""
        self._caused: deque[Envelope] = deque(maxlen=_CAUSED)
        self._folds: dict[str, Callable[[Envelope, Any], None]] = {
            "SessionOpened": self._open,
            "StateCarried": self._carry,
            "TradesReceived": lambda envelope, _: self._note("record", envelope.ts_event or envelope.ts_ns),
            "SliceClosed": self._mark,
            "SignalEvaluated": lambda _, signal: self._note("decision", signal.ts),
            "FeedStatusChanged": self._feed_changed,
            "RootStatusChanged": self._root_changed,
            "MarketStatusChanged": self._market_changed,
            "EntriesClosed": lambda *_: self._set_entries(False),
            "SafeStopRequested": lambda *_: self._set_entries(False),
            "EntriesOpened": lambda *_: self._set_entries(True),
            "CommandReceived": self._command,
            "RiskTripped": self._trip,
            "RootHalted": self._root_halted,
            "MessageSkipped": self._skip,
            "BreakerChanged": self._break,
            "ActorRestarted": self._restart,
            "SessionStopped": self._stopped,
            "SessionReconciled": self._reconciled,
            "OrderRequested": self._request,
            "RiskDecided": self._decide,
            "OrderSubmitted": self._submit,
            "OrderAccepted": self._outcome,
            "OrderRejected": self._outcome,
            "OrderAmbiguous": self._outcome,
            "OrderNotSent": self._outcome,
            "OrderExpired": self._expire,
            "FillAssumed": self._fill,
            "FillConfirmed": self._confirm,
            "PositionResolved": self._resolve,
            "ProbeSubmitted": lambda envelope, _: self._limiter.note("probe", envelope.ts_ns),
        }

    def fold(self, envelope: Envelope) -> None:
        """Take in one event."""
        with self._lock:
            self._seq, self._now = envelope.seq, envelope.ts_ns
            take = self._folds.get(envelope.type)
            if take is not None:
                take(envelope, envelope.payload)
            self._tally.fold(envelope)

    # ------------------------------------------------------------- what is asked

    @property
    def roots(self) -> tuple[str, ...]:
        """The roots that this session trades."""
        with self._lock:
            return tuple(root for root, spec in self._roots.items() if not spec.is_reference)

    def open_of(self, root: str = "") -> tuple[list[Position], list[OpenOrder]]:
        """Copies of what is held and of the orders that have not ended; of one root, or of all."""
        with self._lock:
            positions = [held for _, held in sorted(self._tally.positions.items())]
            orders = [attrs.evolve(order) for order in self._orders.values()]
        return [p for p in positions if root in ("", p.root)], [o for o in orders if root in ("", o.root)]

    def caused_by(self, seq: int) -> list[OrderRequested | PositionResolved]:
        """What the execution machine has answered to a recent event."""
        with self._lock:
            answers = [e.payload for e in self._caused if e.cause == seq]
        return [answer for answer in answers if isinstance(answer, OrderRequested | PositionResolved)]

    def refusal_of(self, signal_id: str) -> str:
        """Why a recent request was refused; empty when it was not."""
        with self._lock:
            decided = [e.payload for e in self._caused if isinstance(e.payload, RiskDecided)]
        return next((d.detail for d in decided if d.signal_id == signal_id and not d.is_allowed), "")

    def blocks(self) -> list[str]:
        """What keeps every entry away now, in words."""
        with self._lock:
            return list(self._blocks())

    def overdue(self, now: Nanos, since: Nanos) -> str:
        """What has not come for 90 s although some root is open, in words; empty when all is well.

        In real time only. `since`: when the process began to look.
        """
        with self._lock:
            opened = self._opened
            if opened is None or opened.clock != "system":
                return ""
            opens = [hours.open_ns for hours in opened.session.hours if hours.open_ns <= now < hours.close_ns]
            if not opens:
                return ""
            ages = {what: now - max(self._last_ns.get(what, 0), since, min(opens)) for what in ("record", "bar")}
        return ", ".join(f"no {what} for {age // SECOND} s" for what, age in ages.items() if age > OVERDUE)

    def snapshot(self) -> dict[str, Any]:
        """Everything, as one JSON object: prices are decimals in text, times ISO 8601 UTC, money USD in text."""
        with self._lock:
            opened, tally = self._opened, self._tally
            positions = [self._position_row(held) for _, held in sorted(tally.positions.items())]
            open_pnl = sum((Decimal(row["pnl"]) for row in positions if row["pnl"] is not None), Decimal(0))
            return {
                "session": None if opened is None else opened.session.date.isoformat(),
                "segment": None if opened is None else opened.segment,
                "mode": None if opened is None else ("demo" if opened.is_demo else opened.mode),
                "account": None if opened is None else opened.account,
                "clock": None if opened is None else opened.clock,
                "seq": self._seq,
                "time": iso_utc(self._now),
                "feed": {
                    "status": "none yet" if self._feed is None else self._feed.status,
                    "reason": "" if self._feed is None else self._feed.reason,
                    "stale_roots": dict(sorted(self._stale.items())),
                    "market_silent": self._is_silent,
                    **{f"last_{what}": _time(self._last_ns.get(what)) for what in ("record", "bar", "decision")},
                },
                "switches": {
                    "enabled": self._switches.is_enabled,
                    "disabled_roots": list(self._switches.disabled_roots),
                    "halted": self._switches.is_halted,
                    "kill": self._switches.kill,
                },
                "entries_blocked_by": list(self._blocks()),
                "breaker": self._breaker,
                "tripped": self._tripped,
                "unconfirmed": sorted(self._unconfirmed),
                "unreconciled": list(self._unreconciled),
                "models": {} if opened is None else dict(_model_notes(opened.models)),
                "positions": positions,
                "orders": [_order_row(order) for order in self._orders.values()],
                "realised_pnl": _money(tally.realised_pnl),
                "open_pnl": _money(open_pnl),
                "limiter": self._limiter_row(),
                "restarts": dict(sorted(tally.restarts.items())),
            }

    def _blocks(self) -> Iterator[str]:
        switches = self._switches
        if switches.kill != "off":
            yield f"kill switch is {switches.kill}"
        if switches.is_halted:
            yield "halted"
        if not switches.is_enabled:
            yield "not enabled"
        if self._unconfirmed:
            yield f"to be confirmed with resolve: {', '.join(sorted(self._unconfirmed))}"
        if self._opened is not None:
            days, limit = unreconciled_days(self._opened, self._unreconciled), self._opened.risk.reconcile_within_days
            if days > limit:
                yield f"to be reconciled: {min(self._unreconciled)}"
        if not self._are_entries_open:
            yield "the journal's writer or a machine is behind"
        if self._is_stopping:
            yield "stopping"
        if self._feed is None or self._feed.status != "live":
            yield "the feed is not live"
        if self._is_silent:
            yield "market_silent"
        if self._breaker != "closed":
            yield f"breaker is {self._breaker}"
        if self._tripped:
            yield self._tripped

    def _position_row(self, held: Position) -> dict[str, Any]:
        last, root = self._last_price.get(held.contract), self._roots[held.root]
        pnl = None
        if last is not None:
            pnl = net_pnl(
                entry=held.price,
                exit=last,
                quantity=held.quantity,
                multiplier=root.order_spec.multiplier,
                commission_per_side=root.commission_per_side,
            )
        return {
            "root": held.root,
            "contract": held.contract,
            "quantity": held.quantity,
            "price": str(price_to_decimal(held.price)),
            "since": iso_utc(held.opened_ns),
            "unknown": held.is_unknown,
            "unconfirmed": held.root in self._unconfirmed,
            "known": self._known.get(held.root, ""),
            "last_price": None if last is None else str(price_to_decimal(last)),
            "pnl": None if pnl is None else _money(pnl),
        }

    def _limiter_row(self) -> dict[str, int]:
        times = [ts for ts, _ in self._limiter.sent]
        return {
            "last_minute": sum(ts > self._now - MINUTE for ts in times),
            "per_minute": ALL_PER_MINUTE,
            "last_hour": sum(ts > self._now - 60 * MINUTE for ts in times),
            "per_hour": ALL_PER_HOUR,
        }

    # ------------------------------------------------------------- the session

    def _open(self, _: Envelope, opened: SessionOpened) -> None:
        self._opened = opened
        self._roots = {root.root: root for root in opened.roots}
        self._switches = Switches(is_enabled=opened.mode != "live")

    def _carry(self, envelope: Envelope, carried: StateCarried) -> None:
        self._switches = carried.switches or self._switches
        self._tripped = carried.tripped
        self._breaker = carried.outbox.breaker
        self._limiter = Limiter(carried.outbox.sent)
        self._unconfirmed = frozenset(carried.unconfirmed)
        self._unreconciled = carried.unreconciled
        self._are_entries_open, self._was_stopped, self._is_stopping = True, False, False
        self._orders = {order.signal_id: _carried(order, envelope.ts_ns) for order in carried.orders}
        for position in carried.positions:
            self._known.setdefault(position.root, f"carried from session {carried.previous_session}")

    def _note(self, what: str, ts: Nanos) -> None:
        self._last_ns[what] = ts

    def _mark(self, _: Envelope, closed: SliceClosed) -> None:
        self._note("bar", closed.ts)
        for bar in closed.minutes:
            self._last_price[bar.contract] = bar.close

    def _feed_changed(self, _: Envelope, changed: FeedStatusChanged) -> None:
        self._feed = changed

    def _root_changed(self, _: Envelope, changed: RootStatusChanged) -> None:
        self._stale.pop(changed.root, None)
        if changed.status == "stale":
            self._stale[changed.root] = changed.reason

    def _market_changed(self, _: Envelope, changed: MarketStatusChanged) -> None:
        self._is_silent = changed.status == "market_silent"

    def _set_entries(self, are_open: bool) -> None:
        self._are_entries_open = are_open

    def _command(self, _: Envelope, command: CommandReceived) -> None:
        self._switches = self._switches.commanded(command.command, command.argument, self._roots)
        self._is_stopping |= command.command == "stop"

    def _root_halted(self, _: Envelope, halted: RootHalted) -> None:
        self._switches = self._switches.commanded("disable", halted.root, self._roots)

    def _skip(self, *_: Any) -> None:
        self._switches = attrs.evolve(self._switches, is_halted=True)

    def _trip(self, _: Envelope, tripped: RiskTripped) -> None:
        self._tripped = tripped.rule

    def _break(self, envelope: Envelope, changed: BreakerChanged) -> None:
        if changed.state == "closed":
            for order in self._orders.values():
                if order.state is OrderState.QUEUED and order.attempt and order.next_ns is not None:
                    order.next_ns = min(order.next_ns, envelope.ts_ns)
        self._breaker = changed.state

    def _restart(self, _: Envelope, restarted: Any) -> None:
        if restarted.actor != "process":
            return
        if not self._was_stopped and self._opened is not None and self._opened.mode == "live":
            entering = {order.root for order in self._orders.values() if order.intent == "entry"}
            self._unconfirmed |= self._tally.positions.keys() | entering
        if restarted.is_degraded:
            self._switches = attrs.evolve(self._switches, is_halted=True)
        self._was_stopped = self._is_stopping = False
        self._are_entries_open = True

    def _stopped(self, *_: Any) -> None:
        self._was_stopped = True

    def _reconciled(self, _: Envelope, reconciled: SessionReconciled) -> None:
        self._unreconciled = tuple(date for date in self._unreconciled if date != reconciled.session)

    # ------------------------------------------------------------- orders

    def _request(self, envelope: Envelope, request: OrderRequested) -> None:
        self._orders[request.signal_id] = OpenOrder(
            signal_id=request.signal_id,
            root=request.root,
            contract=request.contract,
            intent=request.intent,
            side=request.side,
            quantity=request.quantity,
            reason=request.reason,
            cancels_working=request.cancels_working,
        )
        if envelope.source == "execution":
            self._caused.append(envelope)

    def _decide(self, envelope: Envelope, decided: RiskDecided) -> None:
        self._caused.append(envelope)
        order = self._orders.get(decided.signal_id)
        if order is None:
            return
        if not decided.is_allowed:
            del self._orders[order.signal_id]
            return
        order.state, order.next_ns = OrderState.QUEUED, envelope.ts_ns
        if order.intent == "exit":
            for older in [o for o in self._orders.values() if o.root == order.root and o is not order]:
                self._supersede(older)

    def _supersede(self, older: OpenOrder) -> None:
        """As the outbox does; what it ends, it says with an OrderExpired."""
        if older.state is OrderState.SUBMITTED:
            older.is_superseded = True
        elif older.state is OrderState.ACCEPTED and older.intent == "exit":
            older.next_ns = None
            self._end_when_over(older)

    def _submit(self, envelope: Envelope, submitted: OrderSubmitted) -> None:
        order = self._orders.get(submitted.signal_id)
        if order is None:
            return
        later = "repeat" if order.is_accepted else "retry"
        kind = "entry" if order.intent == "entry" else later if order.attempt else "exit"
        self._limiter.note(kind, envelope.ts_ns)  # type: ignore[arg-type]  # one of the literals
        order.state, order.attempt, order.next_ns = OrderState.SUBMITTED, submitted.attempt, None

    def _outcome(self, envelope: Envelope, outcome: Outcome) -> None:
        order, now = self._orders.get(outcome.signal_id), envelope.ts_ns
        if order is None:
            return
        if isinstance(outcome, OrderAmbiguous) and order.intent == "entry":
            order.state = OrderState.AMBIGUOUS
            self._known[order.root] = f"UNKNOWN: {outcome.cause}"
        if envelope.source != HTTP_SOURCE:
            return
        if order.is_accepted:
            is_again = isinstance(outcome, OrderNotSent) and not order.is_superseded
            order.state = OrderState.ACCEPTED
            order.next_ns = retry_ns(outcome, now) if is_again and isinstance(outcome, OrderNotSent) else None
            self._end_when_over(order)
            return
        match outcome:
            case OrderAccepted():
                order.state, order.is_accepted = OrderState.ACCEPTED, True
                if order.intent == "exit" and not order.is_superseded:
                    order.next_ns = Nanos(now + (REPEAT_AFTER_CANCEL if order.cancels_working else REPEAT_AFTER))
            case OrderNotSent() | OrderAmbiguous() if order.intent != "entry" or isinstance(outcome, OrderNotSent):
                order.state, order.next_ns = OrderState.QUEUED, retry_ns(outcome, now)
            case OrderRejected(http_status=status, code=code) if order.intent == "exit" and not order.is_superseded:
                order.state = OrderState.QUEUED
                if is_webhook_refused(status, code):
                    order.next_ns = Nanos(now + HARD_PROBE_AFTER)
                elif order.is_last_try:
                    del self._orders[order.signal_id]
                else:
                    order.next_ns, order.is_last_try = now, True
            case OrderRejected() if order.intent != "exit":
                del self._orders[order.signal_id]
            case _:
                pass

    def _expire(self, _: Envelope, expired: OrderExpired) -> None:
        order = self._orders.get(expired.signal_id)
        if order is None:
            return
        if expired.reason == "nothing_held":
            order.is_filled = True  # its repeat is sent all the same
            self._end_when_over(order)
        else:
            del self._orders[expired.signal_id]

    def _end_when_over(self, order: OpenOrder) -> None:
        if order.is_filled and order.state is OrderState.ACCEPTED and order.next_ns is None:
            del self._orders[order.signal_id]

    # ------------------------------------------------------------- positions

    def _fill(self, _: Envelope, fill: FillAssumed) -> None:
        if fill.intent == "entry":
            self._orders.pop(fill.signal_id, None)
            said = "said by the operator (resolve)" if fill.rule == "resolved" else f"assumed by rule {fill.rule}"
            self._known[fill.root] = said
            return
        self._known.pop(fill.root, None)
        if (order := self._orders.get(fill.signal_id)) is not None:
            order.is_filled = True
            self._end_when_over(order)

    def _confirm(self, _: Envelope, confirmed: FillConfirmed) -> None:
        held = self._tally.positions.get(confirmed.root)
        if held is not None and held.entry_signal_id == confirmed.signal_id:
            price = price_to_decimal(confirmed.price)
            self._known[held.root] = f"confirmed by {confirmed.source}: {confirmed.quantity} at {price}"

    def _resolve(self, envelope: Envelope, resolved: PositionResolved) -> None:
        self._caused.append(envelope)
        self._unconfirmed -= {resolved.root}
        held = self._tally.positions.get(resolved.root)
        if held is not None and held.quantity == resolved.quantity:
            self._known[held.root] = "said by the operator (resolve)"
            return
        for order in [o for o in self._orders.values() if o.root == resolved.root]:
            if order.state is OrderState.SUBMITTED:
                order.is_superseded = True
            elif order.is_filled:
                del self._orders[order.signal_id]


def _carried(order: Order, now: Nanos) -> OpenOrder:
    next_ns = order.repeat_ns if order.state is OrderState.ACCEPTED else order.not_before_ns or now
    return OpenOrder(
        signal_id=order.signal_id,
        root=order.root,
        contract=order.contract,
        intent=order.intent,
        side=order.side,
        quantity=order.quantity,
        reason="carried",
        cancels_working=order.cancels_working,
        state=order.state,
        attempt=order.attempt,
        next_ns=None if order.state is OrderState.AMBIGUOUS else next_ns,
        is_accepted=order.accepted_ns is not None,
        is_filled=order.filled_ns is not None,
        is_superseded=order.is_superseded,
        is_last_try=order.is_last_try,
    )


def _order_row(order: OpenOrder) -> dict[str, Any]:
    return {
        "root": order.root,
        "contract": order.contract,
        "intent": order.intent,
        "side": order.side,
        "quantity": order.quantity,
        "reason": order.reason,
        "state": "filled, to be repeated" if order.is_filled else order.state.value,
        "attempt": order.attempt,
        "next_try": _time(order.next_ns),
        "signal_id": order.signal_id,
    }


def _model_notes(records: Iterable[ModelRecord]) -> Iterator[tuple[str, list[str]]]:
    """By root what is to be known of its model: why it is refused, or what is otherwise than in its training."""
    for record in records:
        if record.refusal:
            yield record.root, [f"refused ({record.refusal}): {record.detail or 'nothing is entered'}"]
        elif record.otherwise:
            yield record.root, list(record.otherwise)


def _money(value: Decimal) -> str:
    return str(value.quantize(Decimal("0.01")))


def _time(ts: Nanos | None) -> str | None:
    return None if ts is None else iso_utc(ts)
