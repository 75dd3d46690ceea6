"""The subscription and the account behind the local TradersPost: positions, working orders, fills, incidents.

A signal that was accepted waits here until it is due and then does what TradersPost would
have a broker do: nothing, a trade, a working order, a bracket. Time and prices are
arguments: no clock, no randomness, no I/O. What went wrong for the account, whoever is to
blame, is an `Incident`: the judge of the tests reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Literal

import attrs

from adapters.traderspost.schema import Signal

Fills = Literal["signal", "feed"]
"""`signal`: a market order trades at once at its own signalPrice. `feed`: at the next price of its ticker."""

Purpose = Literal["entry", "exit", "stop", "target"]
"""What an order is for; `stop` and `target` are the legs of a bracket: one cancels the other."""
RestingType = Literal["limit", "stop"]

SECOND_NS = 1_000_000_000


@attrs.frozen(kw_only=True)
class Subscription:
    """The switches of a strategy subscription, with the values that a new one has."""

    is_enabled: bool = True
    is_adding: bool = False
    """Add to position: a second buy while long is more, not refused."""
    is_reversing: bool = True
    """Side swapping: a buy while short opens a long. Without it, it only closes the short."""
    sides: Literal["both", "long", "short"] = "both"
    is_cancelling: bool = False
    """Order cancelling: every message acts as if it said `cancel: true`. Off for new strategies since 2026-03."""
    cancel_wait_s: float = 0.0
    """How long TradersPost waits for cancelled orders (up to 120 s) before it goes on with the message."""


@attrs.frozen(kw_only=True)
class Accepted:
    """A signal taken for execution; `number` counts acceptances, from 1."""

    number: int
    signal_id: str
    signal: Signal
    due_ns: int

    def is_before(self, other: Accepted) -> bool:
        """Whether it was decided earlier: by the messages' own `time`, else by acceptance."""
        ours, theirs = self.signal.time_ns, other.signal.time_ns
        if ours is not None and theirs is not None and ours != theirs:
            return ours < theirs
        return self.number < other.number


@attrs.frozen(kw_only=True)
class Holding:
    """One ticker of the account. Points are price units times contracts."""

    quantity: int = 0
    """Signed contracts."""
    average_price: Decimal | None = None
    """Of the open contracts; None when flat, and after a fill without a known price."""
    realized_points: Decimal = Decimal(0)
    unpriced_contracts: int = 0
    """Closed contracts that are missing in `realized_points`: one of their prices was not known."""
    opened_by: Accepted | None = None
    """What made it this side; None when flat, or when it was a leg."""


@attrs.frozen(kw_only=True)
class WorkingOrder:
    """An order that rests at the broker until a price touches it, it expires or it is cancelled."""

    purpose: Purpose
    type: RestingType
    ticker: str
    quantity: int
    """Signed contracts."""
    price: Decimal
    placed_ns: int
    expires_ns: int | None
    source: Accepted

    @property
    def is_leg(self) -> bool:
        return self.purpose in ("stop", "target")

    def is_touched(self, price: Decimal) -> bool:
        """Whether a trade at `price` fills it: at its price or through it."""
        is_below = self.quantity > 0 if self.type == "limit" else self.quantity < 0
        return price <= self.price if is_below else price >= self.price

    def is_orphan(self, holding: Holding) -> bool:
        """A leg that would not close what its own entry opened: no position, too small a one, or a later one."""
        return self.is_leg and (
            holding.quantity * self.quantity >= 0
            or abs(self.quantity) > abs(holding.quantity)
            or (holding.opened_by is not None and holding.opened_by.number > self.source.number)
        )


@attrs.frozen(kw_only=True)
class Fill:
    """A trade of the account. `price` None: market order of a ticker whose price nobody has said."""

    ticker: str
    signal_id: str
    purpose: Purpose
    quantity: int
    price: Decimal | None
    ts_ns: int
    position_after: int


IncidentKind = Literal["orphan_leg", "entry_after_exit", "exit_of_newer", "entry_accepted_twice"]
"""`orphan_leg`: a leg left working has opened, turned or closed what it was not for. `entry_after_exit`: an entry
traded after an exit that was decided later. `exit_of_newer`: an exit closed what was opened after its decision.
`entry_accepted_twice`: the same entry was taken a second time."""


@attrs.frozen(kw_only=True)
class Incident:
    """Something that must not happen to an account."""

    kind: IncidentKind
    ticker: str
    signal_id: str
    ts_ns: int
    detail: str


@attrs.frozen(kw_only=True)
class Done:
    """What came of an accepted signal, once it was executed."""

    signal_id: str
    what: str
    position_after: int


@attrs.define(kw_only=True)
class Book:
    """All that the account remembers: plain values, so that it can be written down."""

    accepted: int = 0
    pending: list[Accepted] = attrs.field(factory=list)
    holdings: dict[str, Holding] = attrs.field(factory=dict)
    orders: list[WorkingOrder] = attrs.field(factory=list)
    fills: list[Fill] = attrs.field(factory=list)
    incidents: list[Incident] = attrs.field(factory=list)
    prices: dict[str, Decimal] = attrs.field(factory=dict)
    """The last price of each ticker, fed or said by a signal."""
    exits: dict[str, Accepted] = attrs.field(factory=dict)
    """The latest decided exit of each ticker that was executed."""


class Broker:
    """Executes accepted signals on a `Book`."""

    def __init__(self, subscription: Subscription, fills: Fills, book: Book | None = None) -> None:
        self._subscription = subscription
        self._fills = fills
        self.book = book or Book()

    def accept(self, signal_id: str, signal: Signal, due_ns: int) -> None:
        """Take `signal` for execution at `due_ns`; later when it waits for cancelled orders, or for a price."""
        book = self.book
        book.accepted += 1
        if self._cancels(signal) and any(order.ticker == signal.ticker for order in book.orders):
            due_ns += int(self._subscription.cancel_wait_s * SECOND_NS)
        book.pending.append(Accepted(number=book.accepted, signal_id=signal_id, signal=signal, due_ns=due_ns))

    def advance(self, now_ns: int) -> tuple[Done, ...]:
        """Execute what is due by now and needs no price, in the order in which it fell due."""
        needs_price = self._fills == "feed"
        return self._run(now_ns, lambda accepted: not needs_price or accepted.signal.action == "cancel")

    def trade_seen(self, ticker: str, price: Decimal, ts_ns: int) -> tuple[Done, ...]:
        """A trade of the market: it fills what waits for it and the working orders that it touches."""
        book = self.book
        done = self.advance(ts_ns)
        book.prices[ticker] = price
        done += self._run(ts_ns, lambda accepted: accepted.signal.ticker == ticker)
        for order in tuple(book.orders):
            # A leg may have been cancelled by its sibling a moment ago.
            if order in book.orders and order.ticker == ticker and order.placed_ns <= ts_ns and order.is_touched(price):
                self._fill(order, price, ts_ns)
        return done

    def holding(self, ticker: str) -> Holding:
        """What is held in `ticker`; flat when it was never traded."""
        return self.book.holdings.get(ticker) or Holding()

    def note(self, kind: IncidentKind, signal_id: str, ticker: str, ts_ns: int, detail: str) -> None:
        """Record an incident."""
        self.book.incidents.append(Incident(kind=kind, ticker=ticker, signal_id=signal_id, ts_ns=ts_ns, detail=detail))

    # ------------------------------------------------------------- execution

    def _run(self, now_ns: int, is_ready: Callable[[Accepted], bool]) -> tuple[Done, ...]:
        ready = [accepted for accepted in self.book.pending if accepted.due_ns <= now_ns and is_ready(accepted)]
        done = []
        for accepted in sorted(ready, key=lambda accepted: (accepted.due_ns, accepted.number)):
            self._expire(accepted.due_ns)
            self.book.pending.remove(accepted)
            # What waited for a price trades when the price comes, not when it fell due.
            what = self._execute(accepted, now_ns if self._fills == "feed" else accepted.due_ns)
            position = self.holding(accepted.signal.ticker).quantity
            done.append(Done(signal_id=accepted.signal_id, what=what, position_after=position))
        self._expire(now_ns)
        return tuple(done)

    def _execute(self, accepted: Accepted, ts_ns: int) -> str:
        signal = accepted.signal
        cancelled = self._cancel(signal.ticker) if self._cancels(signal) else 0
        if signal.action == "cancel":
            return f"cancelled {cancelled}" if cancelled else "nothing: no working orders"
        before = self.holding(signal.ticker)
        closing, opening, what = rule(signal, before.quantity, self._subscription)
        if signal.intent == "exit":
            self._note_exit(accepted, before, closing, ts_ns)
        if signal.order_type not in ("market", "limit", "stop") and (closing or opening):
            return f"refused: {signal.order_type} orders are not played here"
        resting = signal.resting
        parts: tuple[tuple[Purpose, int], ...] = (("exit", closing), ("entry", opening))
        for purpose, quantity in parts:
            if not quantity:
                continue
            if resting is None:
                self._trade(accepted, purpose, quantity, self._market_price(signal), ts_ns)
            else:
                what = f"working: {resting[0]} {resting[1]}"
                self._rest(accepted, purpose, quantity, resting, ts_ns)
        return what

    def _market_price(self, signal: Signal) -> Decimal | None:
        if self._fills == "signal" and signal.signal_price is not None:
            self.book.prices[signal.ticker] = signal.signal_price
        return self.book.prices.get(signal.ticker)

    def _fill(self, order: WorkingOrder, price: Decimal, ts_ns: int) -> None:
        """`order` trades: a limit at its own price, a stop at the price that touched it."""
        self.book.orders.remove(order)
        before = self.holding(order.ticker)
        quantity = order.quantity
        if order.purpose == "exit":
            # What it was for may be closed already: an exit never opens.
            quantity = max(-abs(before.quantity), min(abs(before.quantity), quantity))
            if before.quantity * quantity >= 0:
                return
        if order.is_leg:
            self._cancel_legs(order.source)
            if order.is_orphan(before):
                self.note(
                    "orphan_leg",
                    order.source.signal_id,
                    order.ticker,
                    ts_ns,
                    f"{order.purpose} at {order.price}: {before.quantity:+d} became {before.quantity + quantity:+d}",
                )
        self._trade(order.source, order.purpose, quantity, order.price if order.type == "limit" else price, ts_ns)

    def _trade(self, source: Accepted, purpose: Purpose, quantity: int, price: Decimal | None, ts_ns: int) -> None:
        ticker = source.signal.ticker
        holding = _after(self.holding(ticker), quantity, price, source if purpose == "entry" else None)
        self.book.holdings[ticker] = holding
        self.book.fills.append(
            Fill(
                ticker=ticker,
                signal_id=source.signal_id,
                purpose=purpose,
                quantity=quantity,
                price=price,
                ts_ns=ts_ns,
                position_after=holding.quantity,
            )
        )
        if purpose != "entry":
            return
        later = self.book.exits.get(ticker)
        if later is not None and source.is_before(later):
            self.note(
                "entry_after_exit",
                source.signal_id,
                ticker,
                ts_ns,
                f"{quantity:+d} after {later.signal_id or 'an exit'}",
            )
        signal = source.signal
        if signal.stop_loss is not None:
            self._rest(source, "stop", -quantity, ("stop", signal.stop_loss), ts_ns)
        if signal.take_profit is not None:
            self._rest(source, "target", -quantity, ("limit", signal.take_profit), ts_ns)

    def _note_exit(self, accepted: Accepted, before: Holding, closing: int, ts_ns: int) -> None:
        ticker, opener = accepted.signal.ticker, before.opened_by
        if closing and opener is not None and accepted.is_before(opener):
            self.note(
                "exit_of_newer", accepted.signal_id, ticker, ts_ns, f"{closing:+d} of {opener.signal_id or 'an entry'}"
            )
        latest = self.book.exits.get(ticker)
        if latest is None or latest.is_before(accepted):
            self.book.exits[ticker] = accepted

    # ---------------------------------------------------------- working orders

    def _rest(
        self, source: Accepted, purpose: Purpose, quantity: int, resting: tuple[RestingType, Decimal], ts_ns: int
    ) -> None:
        cancel_after_s = None if purpose in ("stop", "target") else source.signal.cancel_after_s
        self.book.orders.append(
            WorkingOrder(
                purpose=purpose,
                type=resting[0],
                ticker=source.signal.ticker,
                quantity=quantity,
                price=resting[1],
                placed_ns=ts_ns,
                expires_ns=None if cancel_after_s is None else ts_ns + cancel_after_s * SECOND_NS,
                source=source,
            )
        )

    def _cancels(self, signal: Signal) -> bool:
        said = signal.is_cancelling
        return signal.action == "cancel" or (self._subscription.is_cancelling if said is None else said)

    def _cancel(self, ticker: str) -> int:
        left = [order for order in self.book.orders if order.ticker != ticker]
        count = len(self.book.orders) - len(left)
        self.book.orders = left
        return count

    def _cancel_legs(self, source: Accepted) -> None:
        self.book.orders = [
            order for order in self.book.orders if not order.is_leg or order.source.number != source.number
        ]

    def _expire(self, now_ns: int) -> None:
        self.book.orders = [o for o in self.book.orders if o.expires_ns is None or o.expires_ns > now_ns]


def rule(signal: Signal, held: int, subscription: Subscription) -> tuple[int, int, str]:
    """(contracts to close, contracts to open, what is said of it) while `held` signed contracts are open."""
    quantity = signal.quantity if signal.quantity is not None else 1
    match signal.action, signal.sentiment:
        case ("buy", "bullish" | None):
            return _enter(held, quantity, subscription)
        case ("sell", "bearish" | None):
            return _enter(held, -quantity, subscription)
        case ("sell", "flat" | "bullish"):
            return _close(held, signal.quantity) if held > 0 else (0, 0, "nothing: no long position")
        case ("buy", "flat" | "bearish"):
            return _close(held, signal.quantity) if held < 0 else (0, 0, "nothing: no short position")
        case ("exit", _):
            return _close(held, signal.quantity) if held else (0, 0, "nothing: flat")
        case ("add", _) if not subscription.is_adding:
            return 0, 0, "nothing: add-to-position is off"
        case ("add", _) if held:
            return 0, quantity if held > 0 else -quantity, "added"
        case _:
            return 0, 0, "nothing: flat"


def _enter(held: int, wanted: int, subscription: Subscription) -> tuple[int, int, str]:
    if held * wanted > 0:
        if subscription.is_adding:
            return 0, wanted, "added"
        return 0, 0, "refused: position exists, add-to-position is off"
    if subscription.sides != "both" and (wanted > 0) != (subscription.sides == "long"):
        return -held, 0, f"{'closed' if held else 'refused'}: {subscription.sides} positions only"
    if held and not subscription.is_reversing:
        return -held, 0, "closed: side swapping is off"
    return -held, wanted, "reversed" if held else "opened"


def _close(held: int, quantity: int | None) -> tuple[int, int, str]:
    closed = abs(held) if quantity is None else min(quantity, abs(held))
    return -closed if held > 0 else closed, 0, "reduced" if closed < abs(held) else "closed"


def _after(before: Holding, quantity: int, price: Decimal | None, opener: Accepted | None) -> Holding:
    """`before` and a trade of `quantity` signed contracts at `price`."""
    held, after = before.quantity, before.quantity + quantity
    if held * quantity > 0:
        average = None
        if before.average_price is not None and price is not None:
            average = (before.average_price * held + price * quantity) / after
        return attrs.evolve(before, quantity=after, average_price=average)
    closed = min(abs(held), abs(quantity))
    realized, unpriced = before.realized_points, before.unpriced_contracts
    if closed and (price is None or before.average_price is None):
        unpriced += closed
    elif closed and price is not None and before.average_price is not None:
        realized += (price - before.average_price) * (closed if held > 0 else -closed)
    is_same_side = held * after > 0
    return Holding(
        quantity=after,
        average_price=before.average_price if is_same_side else price if after else None,
        realized_points=realized,
        unpriced_contracts=unpriced,
        opened_by=before.opened_by if is_same_side else opener if after else None,
    )
