"""The outbox: orders on their way, what is sent next, and what an answer leads to.

A part of the Execution machine: pure, told the time, and returning events. It knows nothing of
positions; who owns it says which orders may leave. One attempt per root is in flight; exits go
before entries, and an entry waits until its root's exits are over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import attrs

from domain.errors import OurError
from domain.events import (
    BreakerChanged,
    Event,
    ExitOverdue,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
)
from domain.orders import Order, OrderState, backoff_ns
from domain.outbox import (
    HARD_PROBE_AFTER,
    OVERDUE_AFTER,
    PROBE_BODY,
    REPEAT_AFTER,
    REPEAT_AFTER_CANCEL,
    TICKER_GAP,
    Breaker,
    BreakerState,
    Limiter,
    MessageKind,
    OutboxMemory,
    is_webhook_refused,
    throttled_until,
)
from domain.units import SECOND, Nanos

EXIT_BACKOFF_CAP_S = 30.0
_URGENCY: dict[MessageKind, int] = {"exit": 0, "retry": 1, "repeat": 2, "entry": 3, "probe": 4}

MayLeave = Callable[[Order], bool]


class Outbox:
    """Every order that has not ended, oldest first."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._limiter = Limiter()
        self._breaker = Breaker()
        self._probes = 0
        self._last_sent: dict[str, Nanos] = {}
        """By root."""
        self._last_before: Nanos | None = None
        """When an earlier file sent its last message, whichever its root was."""

    def restore(self, orders: tuple[Order, ...], memory: OutboxMemory, now: Nanos) -> None:
        """Go on with what an earlier file left."""
        self._orders = {order.signal_id: order for order in orders}
        self._limiter = Limiter(memory.sent)
        self._probes = memory.probes
        self._last_before = max((ts for ts, _ in memory.sent), default=None)
        if memory.breaker != "closed":
            self._breaker = Breaker(state=memory.breaker, probe_ns=now)

    @property
    def orders(self) -> tuple[Order, ...]:
        """Orders that have not ended, oldest first."""
        return tuple(self._orders.values())

    @property
    def memory(self) -> OutboxMemory:
        """What the next file goes on with."""
        return OutboxMemory(sent=self._limiter.sent, breaker=self._breaker.state, probes=self._probes)

    @property
    def breaker(self) -> BreakerState:
        """Entries leave only while it is closed."""
        return self._breaker.state

    def entries_last_hour(self, now: Nanos) -> int:
        """Entries sent in the hour before `now`."""
        return self._limiter.count_of("entry", now)

    def of_root(self, root: str) -> list[Order]:
        """Unended orders of `root`, oldest first."""
        return [order for order in self._orders.values() if order.root == root]

    def has_exit(self, root: str) -> bool:
        """True while an exit of `root` is neither filled nor ended."""
        return any(order.intent == "exit" and order.filled_ns is None for order in self.of_root(root))

    def keep(self, order: Order) -> None:
        """Take over `order` as it stands now; forget it when it has ended."""
        if order.state.is_final:
            self._orders.pop(order.signal_id, None)
        else:
            self._orders[order.signal_id] = order

    def expire(self, order: Order, reason: str) -> OrderExpired:
        """End `order`."""
        self.keep(order.moved(OrderState.EXPIRED))
        return OrderExpired(root=order.root, signal_id=order.signal_id, reason=reason)

    def resolve(self, root: str) -> list[Event]:
        """What `root` really holds is known: what waits for it ends. An attempt in flight can only be awaited."""
        events: list[Event] = []
        for order in self.of_root(root):
            if order.state is OrderState.SUBMITTED:
                self.keep(attrs.evolve(order, is_superseded=True))
            elif order.filled_ns is not None:
                self.keep_exit(attrs.evolve(order, repeat_ns=None))
            else:
                events.append(self.expire(order, "resolved"))
        return events

    # ------------------------------------------------------------- taking in

    def add(self, order: Order) -> list[Event]:
        """Take in an allowed order. An exit takes the place of everything of its root that waits."""
        events: list[Event] = []
        if order.intent == "exit":
            for older in self.of_root(order.root):
                events += self._supersede(older)
        self.keep(order.moved(OrderState.QUEUED))
        return events

    def _supersede(self, older: Order) -> list[Event]:
        match older.state:
            case OrderState.QUEUED if older.accepted_ns is None:
                return [self.expire(older, "superseded")]
            case OrderState.SUBMITTED:
                self.keep(attrs.evolve(older, is_superseded=True, repeat_ns=None))
            case OrderState.ACCEPTED if older.intent == "exit":
                self.keep_exit(attrs.evolve(older, repeat_ns=None))
            case _:
                pass
        return []

    def keep_exit(self, order: Order) -> None:
        """Keep an accepted exit; it is over when it is filled and nothing of it will be sent any more."""
        is_over = order.state is OrderState.ACCEPTED and order.filled_ns is not None and order.repeat_ns is None
        self.keep(order.moved(OrderState.FILLED) if is_over else order)

    # ------------------------------------------------------------- outcomes

    def settle(self, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        """The order after the outcome of its attempt, and what else follows. Raises OurError when none is open."""
        order = self._orders.get(outcome.signal_id)
        if order is None or order.attempt != outcome.attempt or order.state is not OrderState.SUBMITTED:
            raise OurError(f"an outcome for {outcome.signal_id}, attempt {outcome.attempt}, which is not open")
        events = self._judge_line(outcome, now)
        if order.accepted_ns is not None:
            order, more = self._after_repeat(order, outcome, now)
        elif order.intent == "exit":
            order, more = self._after_exit(order, outcome, now)
        elif order.intent == "cancel":
            order, more = self._after_cancel(order, outcome, now)
        else:
            order, more = self._after_entry(order, outcome, now)
        self.keep(order)
        return order, [*events, *more]

    def _after_entry(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        match outcome:
            case OrderAccepted():
                return attrs.evolve(order.moved(OrderState.ACCEPTED), accepted_ns=now), []
            case OrderRejected():
                return order.moved(OrderState.REJECTED), []
            case OrderAmbiguous():
                return order.moved(OrderState.AMBIGUOUS), []
            case OrderNotSent() if order.is_superseded:
                return _superseded(order)
            case OrderNotSent():
                return self._queued(order, retry_ns(outcome, now)), []

    def _after_exit(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        if isinstance(outcome, OrderAccepted):
            wait = REPEAT_AFTER_CANCEL if order.cancels_working else REPEAT_AFTER
            repeat_ns = None if order.is_superseded else Nanos(now + wait)
            return attrs.evolve(order.moved(OrderState.ACCEPTED), accepted_ns=now, repeat_ns=repeat_ns), []
        if order.is_superseded:
            return _superseded(order)
        match outcome:
            case OrderRejected(http_status=status, code=code) if is_webhook_refused(status, code):
                return self._queued(order, Nanos(now + HARD_PROBE_AFTER)), []
            case OrderRejected() if order.fallback and not order.is_last_try:
                # What was refused is not sent again; the least that closes the position is, once.
                return attrs.evolve(self._queued(order, now), body=order.fallback, is_last_try=True), []
            case OrderRejected():
                return order.moved(OrderState.REJECTED), []
            case OrderAmbiguous():
                return self._queued(order.moved(OrderState.AMBIGUOUS), retry_ns(outcome, now)), []
            case OrderNotSent():
                return self._queued(order, retry_ns(outcome, now)), []

    def _after_cancel(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        """Nothing rests on it: what it would have ended ends by its own cancelAfter."""
        match outcome:
            case OrderAccepted():
                ended = OrderExpired(root=order.root, signal_id=order.signal_id, reason="cancel_sent")
                return order.moved(OrderState.EXPIRED), [ended]
            case OrderRejected():
                return order.moved(OrderState.REJECTED), []
            case OrderAmbiguous():
                return self._queued(order.moved(OrderState.AMBIGUOUS), retry_ns(outcome, now)), []
            case OrderNotSent():
                return self._queued(order, retry_ns(outcome, now)), []

    def _after_repeat(self, order: Order, outcome: Outcome, now: Nanos) -> tuple[Order, list[Event]]:
        """An exit was accepted before: whatever may have been received of the repeat, it is over."""
        again = None
        if isinstance(outcome, OrderNotSent) and not order.is_superseded:
            again = retry_ns(outcome, now)
        order = attrs.evolve(order.moved(OrderState.ACCEPTED), repeat_ns=again)
        is_over = order.filled_ns is not None and again is None
        return (order.moved(OrderState.FILLED) if is_over else order), []

    @staticmethod
    def _queued(order: Order, not_before_ns: Nanos) -> Order:
        return attrs.evolve(order.moved(OrderState.QUEUED), not_before_ns=not_before_ns)

    # ------------------------------------------------------------- the breaker

    def _judge_line(self, outcome: Outcome, now: Nanos) -> list[Event]:
        """What an attempt's outcome says about the way to TradersPost."""
        match outcome:
            case OrderRejected(http_status=status, code=code) if is_webhook_refused(status, code):
                return self._to(self._breaker.refused(now), f"HTTP {status} {code}")
            case OrderAccepted() | OrderRejected():
                return self._closed(now, "TradersPost answers")
            case OrderNotSent(is_throttled=True) | OrderNotSent(is_held_back=True):
                return []
            case OrderAmbiguous(cause=cause) | OrderNotSent(cause=cause):
                return self._to(self._breaker.failed(now), cause)

    def probe_answered(self, answer: ProbeAnswered, now: Nanos) -> list[Event]:
        """A probe's outcome."""
        if answer.is_up:
            return self._closed(now, "the probe was answered")
        self._breaker = self._breaker.probe_failed(now)
        return []

    def _closed(self, now: Nanos, reason: str) -> list[Event]:
        """TradersPost answers as itself: what waited for a retry may go at once."""
        if self._breaker.state != "closed":
            for order in self.orders:
                if order.state is OrderState.QUEUED and order.attempt and order.not_before_ns > now:
                    self.keep(attrs.evolve(order, not_before_ns=now))
        return self._to(self._breaker.passed(), reason)

    def _to(self, breaker: Breaker, reason: str) -> list[Event]:
        is_changed = breaker.state != self._breaker.state
        self._breaker = breaker
        return [BreakerChanged(state=breaker.state, reason=reason)] if is_changed else []

    # ------------------------------------------------------------- sending

    def send_due(self, now: Nanos, may_leave: MayLeave) -> list[Event]:
        """The attempts that leave now, the most urgent first, and a probe when one is due."""
        events: list[Event] = []
        due = [order for root in sorted(self._roots()) if (order := self._next_of(root, now, may_leave)) is not None]
        # Who has waited longest comes first: a shared rate would else be used up by the first roots of the alphabet.
        for order in sorted(due, key=lambda order: (_URGENCY[_kind(order)], order.not_before_ns)):
            if self._limiter.free_at(_kind(order), now) <= now:
                events.append(self._submit(order, now))
        probe_ns = self._breaker.probe_ns
        if probe_ns is not None and probe_ns <= now and self._limiter.free_at("probe", now) <= now:
            self._limiter.note("probe", now)
            self._breaker, self._probes = self._breaker.probing(), self._probes + 1
            events.append(ProbeSubmitted(ordinal=self._probes, body=PROBE_BODY))
        return events

    def _roots(self) -> set[str]:
        return {order.root for order in self._orders.values()}

    def _next_of(self, root: str, now: Nanos, may_leave: MayLeave) -> Order | None:
        waiting = self.of_root(root)
        if any(order.state is OrderState.SUBMITTED for order in waiting):
            return None
        for order in sorted(waiting, key=lambda order: order.intent == "entry"):
            ready_ns = self._ready_ns(order, waiting)
            if ready_ns is not None and ready_ns <= now and may_leave(order):
                return order
        return None

    def _ready_ns(self, order: Order, of_root: list[Order]) -> Nanos | None:
        """The earliest moment of the next attempt, limits aside; None while there is none to come."""
        if order.state is OrderState.ACCEPTED:
            return order.repeat_ns
        if order.state is not OrderState.QUEUED:
            return None
        if order.intent != "entry":
            return order.not_before_ns
        if any(other.intent != "entry" for other in of_root):
            return None
        last = self._last_sent.get(order.root, self._last_before)
        if order.attempt or last is None:
            return order.not_before_ns
        return max(order.not_before_ns, Nanos(last + TICKER_GAP))

    def _submit(self, order: Order, now: Nanos) -> OrderSubmitted:
        self._limiter.note(_kind(order), now)
        self._last_sent[order.root] = now
        order = attrs.evolve(order.moved(OrderState.SUBMITTED), attempt=order.attempt + 1, sent_ns=now, repeat_ns=None)
        self.keep(order)
        return OrderSubmitted(
            root=order.root,
            signal_id=order.signal_id,
            attempt=order.attempt,
            ticker=order.ticker,
            body=order.body,
            body_sha256=hashlib.sha256(order.body.encode()).hexdigest(),
            intent=order.intent,
            expires_ns=order.expires_ns,
        )

    # ------------------------------------------------------------- what is on record

    def take_over(self, submitted: OrderSubmitted, now: Nanos) -> None:
        """An attempt that is on record, whoever decided it."""
        order = self._orders.get(submitted.signal_id)
        if order is None:
            return
        self._limiter.note(_kind(order), now)
        self._last_sent[order.root] = now
        self.keep(
            attrs.evolve(
                order,
                state=OrderState.SUBMITTED,
                attempt=submitted.attempt,
                sent_ns=now,
                repeat_ns=None,
                ticker=submitted.ticker,
                body=submitted.body,
                expires_ns=submitted.expires_ns,
                is_last_try=order.is_last_try or submitted.body == order.fallback,
            )
        )

    def take_over_probe(self, ordinal: int, now: Nanos) -> None:
        """A probe that is on record."""
        self._limiter.note("probe", now)
        self._probes = ordinal

    def take_over_breaker(self, state: BreakerState, now: Nanos) -> None:
        """What the record says of the breaker."""
        self._breaker = Breaker() if state == "closed" else Breaker(state=state, probe_ns=now)

    # ------------------------------------------------------------- the clock

    def on_clock(self, now: Nanos) -> list[Event]:
        """What time alone ends or demands: unsent entries past their limit, exits nobody accepts."""
        events: list[Event] = []
        for order in self.orders:
            if order.state is OrderState.QUEUED and order.expires_ns is not None and now >= order.expires_ns:
                events.append(self.expire(order, "time_limit"))
            elif (overdue_ns := _overdue_ns(order)) is not None and now >= overdue_ns:
                self.keep(attrs.evolve(order, paged_ns=now))
                events.append(
                    ExitOverdue(
                        root=order.root, signal_id=order.signal_id, attempts=order.attempt, since_ns=order.decided_ns
                    )
                )
        return events

    def deadlines(self, now: Nanos, may_leave: MayLeave) -> Iterator[Nanos]:
        """The moments at which `on_clock` or `send_due` have something to do."""
        for root in self._roots():
            waiting = self.of_root(root)
            is_busy = any(order.state is OrderState.SUBMITTED for order in waiting)
            for order in waiting:
                if order.state is OrderState.QUEUED and order.expires_ns is not None:
                    yield order.expires_ns
                if (overdue_ns := _overdue_ns(order)) is not None:
                    yield overdue_ns
                ready_ns = None if is_busy or not may_leave(order) else self._ready_ns(order, waiting)
                if ready_ns is not None:
                    yield self._limiter.free_at(_kind(order), max(ready_ns, now)) if ready_ns <= now else ready_ns
        if self._breaker.probe_ns is not None:
            yield max(self._breaker.probe_ns, self._limiter.free_at("probe", now))


def retry_ns(outcome: OrderAmbiguous | OrderNotSent, now: Nanos) -> Nanos:
    """When the attempt that came to `outcome` may be followed by another."""
    wait = backoff_ns(outcome.signal_id, outcome.attempt, cap_s=EXIT_BACKOFF_CAP_S)
    if isinstance(outcome, OrderNotSent) and outcome.is_throttled and outcome.retry_after_s is None:
        return throttled_until(outcome.signal_id, outcome.attempt, now)
    if isinstance(outcome, OrderNotSent) and outcome.retry_after_s is not None:
        wait = Nanos(max(wait, int(outcome.retry_after_s * SECOND)))
    return Nanos(now + wait)


def _superseded(order: Order) -> tuple[Order, list[Event]]:
    return order.moved(OrderState.EXPIRED), [
        OrderExpired(root=order.root, signal_id=order.signal_id, reason="superseded")
    ]


def _kind(order: Order) -> MessageKind:
    if order.intent == "entry":
        return "entry"
    if order.accepted_ns is not None:
        return "repeat"
    return "retry" if order.attempt else "exit"


def _overdue_ns(order: Order) -> Nanos | None:
    if order.intent != "exit" or order.accepted_ns is not None:
        return None
    return Nanos((order.paged_ns or order.decided_ns) + OVERDUE_AFTER)
