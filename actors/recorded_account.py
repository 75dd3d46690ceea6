"""Orders and positions as a file records them, for a program that would have decided otherwise.

A file that another program wrote is folded by this one's machines. Where its Execution no longer decides what is on
record (another wait, another rule), its own state is not what was sent and held: then this fold is gone on from. It
decides nothing. An entry that was not sent is not sent any more; an exit is.
"""

from __future__ import annotations

import attrs

from actors.account import Account
from actors.execution import order_of
from domain.envelope import Envelope
from domain.events import (
    HTTP_SOURCE,
    BreakerChanged,
    CommandReceived,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    PositionResolved,
    ProbeAnswered,
    ProbeSubmitted,
    RiskDecided,
    RiskTripped,
)
from domain.orders import Order, OrderState
from domain.ports import OrderPayload
from domain.positions import Position


class RecordedAccount:
    """Give it every event of a file; `account` is what the file leaves."""

    def __init__(self, build_payload: OrderPayload) -> None:
        self.account = Account()
        self._build_payload = build_payload
        self._requests: dict[str, OrderRequested] = {}

    def fold(self, envelope: Envelope) -> None:
        """Take in one event."""
        account, outbox = self.account, self.account.outbox
        account.now = envelope.ts_ns
        match envelope.payload:
            case OrderRequested() as request:
                self._requests[request.signal_id] = request
            case RiskDecided(is_allowed=True, signal_id=id) if id in self._requests:
                self._allow(self._requests[id])
            case OrderSubmitted() as submitted:
                outbox.take_over(submitted, account.now)
            case ProbeSubmitted(ordinal=ordinal):
                outbox.take_over_probe(ordinal, account.now)
            case ProbeAnswered() as answer:
                outbox.probe_answered(answer, account.now)
            case BreakerChanged(state=state):
                outbox.take_over_breaker(state, account.now)
            case OrderAccepted() | OrderRejected() | OrderAmbiguous() | OrderNotSent() as outcome:
                self._settle(outcome, is_attempt=envelope.source == HTTP_SOURCE)
            case OrderExpired() as expired:
                self._expire(expired)
            case FillAssumed() as fill:
                self._fill(fill)
            case PositionResolved(root=root, quantity=quantity):
                self._resolve(root, quantity)
            case RiskTripped(rule=rule):
                account.tripped = rule
            case CommandReceived(command=command, argument=argument):
                account.switches = account.switches.commanded(command, argument, account.roots)
            case event:
                account.remember(event)

    def _order(self, signal_id: str) -> Order | None:
        return next((order for order in self.account.outbox.orders if order.signal_id == signal_id), None)

    def _allow(self, request: OrderRequested) -> None:
        if request.intent == "exit" and self.account.may_be_working(request.root):
            request = attrs.evolve(request, cancels_working=True)
        message = self._build_payload(request, self.account.session)
        # What was never sent in its own file has no time left in the next, unless it is an exit.
        expires_ns = None if request.intent == "exit" else request.decided_ns
        self.account.outbox.add(order_of(request, message, expires_ns))

    def _settle(self, outcome: Outcome, *, is_attempt: bool) -> None:
        order = self._order(outcome.signal_id)
        if order is None:
            return
        if not is_attempt:  # Execution's own word of a limit entry whose time ended
            self.account.outbox.keep(attrs.evolve(order, state=OrderState.AMBIGUOUS))
            self._suspect(order)
            return
        self.account.has_traded |= isinstance(outcome, OrderAccepted | OrderAmbiguous)
        if order.state is not OrderState.SUBMITTED or order.attempt != outcome.attempt:
            return
        settled, _ = self.account.outbox.settle(outcome, self.account.now)
        if settled.state is OrderState.AMBIGUOUS:
            self._suspect(settled)
        elif settled.is_filling and settled.order_type == "limit":
            # Nobody looks at the trades here: it may have been filled by any of them.
            self.account.outbox.keep(attrs.evolve(settled, is_touched=True))

    def _suspect(self, order: Order) -> None:
        price = order.limit_price or order.reference_price
        self.account.holdings.hold(order, price=price, ts=self.account.now, is_unknown=True)

    def _expire(self, expired: OrderExpired) -> None:
        order, held = self._order(expired.signal_id), self.account.holdings.positions.get(expired.root)
        if order is not None and expired.reason == "nothing_held":
            self.account.outbox.keep_exit(attrs.evolve(order, filled_ns=self.account.now))
        elif order is not None:
            self.account.outbox.keep(attrs.evolve(order, state=OrderState.EXPIRED))
        if held is not None and held.is_unknown and held.entry_signal_id == expired.signal_id:
            del self.account.holdings.positions[expired.root]

    def _fill(self, fill: FillAssumed) -> None:
        order, positions = self._order(fill.signal_id), self.account.holdings.positions
        if fill.intent == "exit":
            positions.pop(fill.root, None)
            self.account.holdings.realised_pnl += fill.pnl or 0
            if order is not None:
                self.account.outbox.keep_exit(attrs.evolve(order, filled_ns=fill.ts))
            return
        positions[fill.root] = Position(
            root=fill.root,
            contract=fill.contract,
            quantity=fill.quantity if fill.side == "buy" else -fill.quantity,
            price=fill.price,
            opened_ns=fill.ts,
            entry_signal_id=fill.signal_id,
            stop_price=None if order is None else order.stop_price,
            target_price=None if order is None else order.target_price,
        )
        if order is not None:
            self.account.outbox.keep(attrs.evolve(order, state=OrderState.FILLED, filled_ns=fill.ts))

    def _resolve(self, root: str, quantity: int) -> None:
        self.account.unconfirmed -= {root}
        held = self.account.holdings.positions.get(root)
        if held is not None and held.quantity == quantity:
            return
        self.account.outbox.resolve(root)
        if held is not None and held.is_unknown:
            del self.account.holdings.positions[root]
