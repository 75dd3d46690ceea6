"""A broker whose truth is the journal: orders become requests, events become their fate.

`buy` and `sell` collect orders for the engine, which turns them into OrderRequested.
From then on only events move them (`apply`), and the strategy learns of it in the
next turn, through `notify_order` and `notify_trade`, as from any Backtrader broker:

| event | order status |
|---|---|
| (request) | Created |
| RiskDecided, refused | Rejected |
| OrderSubmitted | Submitted |
| OrderAccepted | Accepted (received, never a fill) |
| OrderRejected | Rejected |
| OrderExpired | Canceled for a working limit order, else Expired |
| OrderAmbiguous | unchanged; an entry is booked as held, UNKNOWN |
| OrderNotSent, RiskDecided allowed | unchanged |
| FillAssumed | Completed |

A fill that the strategy did not ask for (a resolved position, a flatten, a resting leg) is booked on an
order of its own, which the strategy is told of like of any other.

An ambiguous entry stays open in its last status (Margin would end it, and nothing has
ended): `info.is_ambiguous` tells the strategy, which blocks entries and still exits.
Its position counts as held at the decision's price until an event settles it.
It refuses to guess: a fill in a contract without a feed, or an entry's of another quantity
than was asked, is a bug.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import backtrader as bt

from adapters.backtrader.feeds import stamp_of
from domain.errors import OurError
from domain.events import (
    Event,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderRejected,
    OrderSubmitted,
    RiskDecided,
    RootMemory,
)
from domain.ibs import StrategySettings
from domain.orders import Intent, Order, OrderState
from domain.positions import Position
from domain.units import HOUR, MINUTE, Nanos, Price, price_to_float


@attrs.frozen(kw_only=True)
class RequestNote:
    """What the strategy says about an order, beyond Backtrader's own fields: `order.info.request`.

    `bar_ns` is the length of the deciding bar, 0 for a deadline; `price` the close it was decided on.
    """

    root: str
    contract: str
    intent: Intent
    reason: str
    decided_ns: Nanos
    bar_ns: Nanos
    price: Price
    ibs: float | None = None
    probability: float | None = None
    threshold: float | None = None
    bars_held: int | None = None
    stop_price: Price | None = None
    target_price: Price | None = None
    """Of an entry: legs that rest at the broker."""
    average_range: Price | None = None
    """Of an entry: what its stop or target is counted in."""


def carried_note(order: Order, memory: RootMemory | None, settings: StrategySettings) -> RequestNote:
    """The note of a carried order under its root's settings; an UNKNOWN entry is valued from the close that decided."""
    return RequestNote(
        root=order.root,
        contract=order.contract,
        intent=order.intent,
        reason=memory.last_exit_reason if memory is not None and order.intent == "exit" else "carried",
        decided_ns=order.decided_ns,
        bar_ns=HOUR if settings.decision_timeframe == "1h" else MINUTE,
        price=order.reference_price if order.limit_price is None else order.limit_price,
        bars_held=None if memory is None else memory.bars_held,
        stop_price=order.stop_price,
        target_price=order.target_price,
        average_range=memory.average_range if memory is not None and order.intent == "entry" else None,
    )


class JournalBroker(bt.BrokerBase):  # type: ignore[misc]  # backtrader has no types
    """Orders out as requests, positions and order statuses in from events.

    `cash` is what the account starts with; `getvalue` adds the realised net P&L. Neither
    decides anything: the risk gate does. Finished orders are forgotten, and what comes
    for one afterwards (a repeated exit's outcome) is ignored.
    """

    params = (("cash", 1_000_000.0),)

    def __init__(self) -> None:
        super().__init__()
        self.startingcash = float(self.p.cash)
        self._cash = self.startingcash
        self._feeds: dict[str, Any] = {}
        self._held: dict[str, Any] = {}
        self._orders: dict[str, Any] = {}
        self._requests: list[Any] = []
        self._notifications: deque[Any] = deque()
        self.positions: dict[str, Position] = {}
        """By root: what the events say is held."""

    def use_feed(self, contract: str, feed: Any, *, multiplier: float, commission: float) -> None:
        """Orders in `contract` are placed on `feed` (its minute bars). Call before the engine opens."""
        self._feeds[contract] = feed
        self.setcommission(
            commission=commission,
            margin=1.0,
            mult=multiplier,
            commtype=bt.CommInfoBase.COMM_FIXED,
            stocklike=False,
            name=feed._name,
        )

    # ---------------------------------------------------- Backtrader's side

    def getcash(self) -> float:
        return self._cash

    def getvalue(self, datas: Any = None) -> float:
        return self._cash

    def getposition(self, data: Any) -> Any:
        position = self._held.get(data._name)
        if position is None:
            position = self._held[data._name] = bt.Position()
        return position

    def get_notification(self) -> Any:
        return self._notifications.popleft() if self._notifications else None

    def orderstatus(self, order: Any) -> Any:
        return order.status

    def buy(self, owner: Any, data: Any, size: float, **fields: Any) -> Any:
        return self._create(bt.order.BuyOrder, owner, data, size, fields)

    def sell(self, owner: Any, data: Any, size: float, **fields: Any) -> Any:
        return self._create(bt.order.SellOrder, owner, data, size, fields)

    def cancel(self, order: Any) -> None:
        """Withdraw a request of this turn. What has been requested ends by events alone."""
        for waiting in self._requests:
            if waiting.ref == order.ref:
                self._requests.remove(waiting)
                waiting.cancel()
                self._notify(waiting)
                return

    def _create(self, kind: Any, owner: Any, data: Any, size: float, fields: dict[str, Any]) -> Any:
        own = {name: fields.pop(name, None) for name in ("price", "exectype")}
        order = kind(owner=owner, data=data, size=size, simulated=False, **own)
        order.addcomminfo(self.getcommissioninfo(data))
        order.addinfo(request=fields["request"])
        self._requests.append(order)
        return order

    # --------------------------------------------------- the journal's side

    @property
    def has_notifications(self) -> bool:
        """True while the strategy has not been told everything."""
        return bool(self._notifications)

    def withdraw(self, root: str) -> None:
        """Forget what has been asked for `root` since the last `take_requests`."""
        self._requests = [order for order in self._requests if order.info.request.root != root]

    def take_requests(self) -> list[Any]:
        """The orders created since the last call, in order of creation."""
        requests, self._requests = self._requests, []
        return requests

    def register(self, signal_id: str, order: Any) -> None:
        """From now on events of `signal_id` move `order`. Raises OurError when the id is taken."""
        if signal_id in self._orders:
            raise OurError(f"two orders with signal_id {signal_id}")
        order.addinfo(signal_id=signal_id)
        self._orders[signal_id] = order

    def has_open_exit(self, root: str) -> bool:
        """True while an exit of `root` is unfinished."""
        notes = (order.info.request for order in self._orders.values())
        return any(note.root == root and note.intent == "exit" for note in notes)

    def apply(self, event: Event) -> None:
        """What `event` means for an order. Events of other kinds and of unknown orders mean nothing."""
        if isinstance(event, FillAssumed):
            self._fill(self._orders.pop(event.signal_id, None), event)
            return
        order = self._orders.get(getattr(event, "signal_id", ""))
        if order is None:
            return
        match event:
            case OrderSubmitted():
                order.submit(self)
            case OrderAccepted():
                order.accept(self)
            case OrderAmbiguous():
                if order.info.request.intent == "exit":
                    return  # Execution sends it again: nothing has changed for the strategy.
                self._suspect(order)
            case RiskDecided(is_allowed=False) | OrderRejected():
                order.reject(self)
            case OrderExpired():
                is_working = order.status == order.Accepted and order.exectype == order.Limit
                order.status = order.Canceled if is_working else order.Expired
            case _:
                return
        if not order.alive():
            self._end(event.signal_id, order)
        self._notify(order)

    def _end(self, signal_id: str, order: Any) -> None:
        del self._orders[signal_id]
        position = self.positions.get(order.info.request.root)
        if position is not None and position.is_unknown and position.entry_signal_id == signal_id:
            del self.positions[position.root]
            self._held.pop(order.data._name)

    def _suspect(self, order: Any) -> None:
        """Book an ambiguous entry as held: the worse of the two cases."""
        note = order.info.request
        order.addinfo(is_ambiguous=True)
        self._book(
            Position(
                root=note.root,
                contract=note.contract,
                quantity=int(order.size),
                price=note.price,
                opened_ns=note.decided_ns,
                entry_signal_id=order.info.signal_id,
                is_unknown=True,
                stop_price=note.stop_price,
                target_price=note.target_price,
            )
        )

    def _book(self, position: Position) -> None:
        self.positions[position.root] = position
        self._held[self._feed_of(position.contract)._name] = bt.Position(
            position.quantity, price_to_float(position.price)
        )

    def _fill(self, order: Any, event: FillAssumed) -> None:
        order = self._adopt(event) if order is None else order
        note = order.info.request
        # An exit closes whatever is held, which the operator may have corrected since it was asked for.
        is_all = event.intent == "exit" or abs(order.size) == event.quantity
        if not is_all or note.contract != event.contract:
            raise OurError(f"order {event.signal_id} asked {order.size} {note.contract}, the fill says {event}")
        held = self.positions.get(event.root)
        if held is not None and held.is_unknown:
            self._settle(held, event)
        elif held is not None and event.intent == "entry":
            # An attempt that was on its way when the operator resolved its root: it takes the place of that.
            self._held.pop(self._feed_of(held.contract)._name)
        self._execute(order, event.quantity if event.side == "buy" else -event.quantity, event.ts, event.price)
        if event.intent == "exit":
            self.positions.pop(event.root, None)
            return
        self.positions[event.root] = Position(
            root=event.root,
            contract=event.contract,
            quantity=int(order.size),
            price=event.price,
            opened_ns=event.ts,
            entry_signal_id=event.signal_id,
            stop_price=note.stop_price,
            target_price=note.target_price,
        )

    def _settle(self, held: Position, event: FillAssumed) -> None:
        """End an UNKNOWN position: its own fill books it anew, an exit's fill means that it was there."""
        entry = self._orders.pop(held.entry_signal_id, None)
        if event.signal_id == held.entry_signal_id or entry is not None:
            self._held.pop(self._feed_of(held.contract)._name)
        if entry is not None:
            self._execute(entry, entry.size, held.opened_ns, held.price)

    def _execute(self, order: Any, size: int, ts: Nanos, at: Price) -> None:
        """Book the order's fill of `size` (signed) at `at`, as Backtrader's own broker does, and tell the strategy."""
        position, price, comm = self.getposition(order.data), price_to_float(at), order.comminfo
        entry_price = position.price
        psize, pprice, opened, closed = position.update(size, price)
        pnl = comm.profitandloss(-closed, entry_price, price)
        closed_commission, opened_commission = comm.getcommission(closed, price), comm.getcommission(opened, price)
        self._cash += pnl - closed_commission - opened_commission
        order.execute(
            stamp_of(ts),
            size,
            price,
            closed,
            comm.getvaluesize(closed, entry_price),
            closed_commission,
            opened,
            comm.getvaluesize(opened, price),
            opened_commission,
            comm.margin,
            pnl,
            psize,
            pprice,
        )
        order.completed()
        order.addinfo(fill_ns=ts)
        self._notify(order)

    def _adopt(self, event: FillAssumed) -> Any:
        """An order for a fill that the strategy did not ask for."""
        note = RequestNote(
            root=event.root,
            contract=event.contract,
            intent=event.intent,
            reason="external",
            decided_ns=event.ts,
            bar_ns=Nanos(0),
            price=event.price,
        )
        size = event.quantity if event.side == "buy" else -event.quantity
        return self._restored(note, size, None, event.signal_id)

    # ------------------------------------------------------ carried state

    def restore_position(self, position: Position) -> Any:
        """Hold a carried position; returns its open Backtrader trade, for the strategy's list."""
        self._book(position)
        feed = self._feed_of(position.contract)
        price = price_to_float(position.price)
        comm = self.getcommissioninfo(feed)
        trade = bt.Trade(
            data=feed,
            size=position.quantity,
            price=price,
            value=comm.getvaluesize(position.quantity, price),
            commission=comm.getcommission(position.quantity, price),
        )
        trade.isopen, trade.long, trade.status = True, position.quantity > 0, trade.Open
        trade.baropen, trade.dtopen = len(feed), stamp_of(position.opened_ns)
        return trade

    def restore_order(self, order: Order, note: RequestNote) -> Any:
        """Take up a carried, unfinished order where it stood."""
        size = order.quantity if order.side == "buy" else -order.quantity
        restored = self._restored(note, size, order.limit_price, order.signal_id)
        if order.state in (OrderState.SUBMITTED, OrderState.AMBIGUOUS):
            restored.submit(self)
        elif order.state is OrderState.ACCEPTED:
            restored.accept(self)
        self.register(order.signal_id, restored)
        if order.state is OrderState.AMBIGUOUS and order.intent == "entry":
            held = self.positions.get(order.root)
            if held is None:
                self._suspect(restored)
            restored.addinfo(is_ambiguous=True)
        return restored

    def _restored(self, note: RequestNote, size: int, limit: Price | None, signal_id: str) -> Any:
        feed = self._feed_of(note.contract)
        order = (bt.order.BuyOrder if size > 0 else bt.order.SellOrder)(
            owner=None,
            data=feed,
            size=abs(size),
            simulated=False,
            price=None if limit is None else price_to_float(limit),
            exectype=None if limit is None else bt.Order.Limit,
        )
        order.addcomminfo(self.getcommissioninfo(feed))
        order.addinfo(request=note, signal_id=signal_id)
        return order

    def _feed_of(self, contract: str) -> Any:
        feed = self._feeds.get(contract)
        if feed is None:
            raise OurError(f"no feed of the engine holds contract {contract}")
        return feed

    def _notify(self, order: Any) -> None:
        self._notifications.append(order.clone())
