"""Closes of our own: what limits of the account, an operator or a safe stop demand, without the strategy.

Each is an OrderRequested like the strategy's, so that the gate, the outbox and the record treat it the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.account import Account
from domain.events import Event, OrderRequested, PositionUnwatched, RiskTripped
from domain.orders import Order, Side
from domain.units import SECOND, Nanos, Price

UNWATCHED_AFTER = Nanos(30 * SECOND)
"""What is held in a market that has not been seen for this long is told to the operator."""
CLOSE_AGAIN = Nanos(300 * SECOND)
"""A close of our own that came to nothing is asked for again after this long."""


class Closes:
    """Part of the execution machine: reads its account, and remembers what it has asked for and told."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._asked: dict[str, Nanos] = {}
        """When a close was last asked for, by root."""
        self._told_unwatched: dict[str, Nanos] = {}
        """By root: the beginning of the blindness that was last told."""

    def forget_asked(self, *roots: str) -> None:
        """What has been asked for may be asked for again at once."""
        for root in roots:
            self._asked.pop(root, None)

    def deadlines(self) -> Iterator[Nanos]:
        """When something held is due to be closed, or to be told of."""
        for root in self._account.holdings.positions:
            for due, _ in self._due(root):
                yield max(due, self._may_ask_ns(root))
            since = self._untold_since(root)
            if since is not None:
                yield Nanos(since + UNWATCHED_AFTER)

    def on_clock(self, ts: Nanos) -> list[Event]:
        """What is due at `ts`."""
        events: list[Event] = []
        for root in sorted(self._account.holdings.positions):
            events += self._tell_unwatched(root, ts)
            reason = next((reason for due, reason in self._due(root) if ts >= due), None)
            if reason is not None and ts >= self._may_ask_ns(root):
                events += self.close(root, reason)
        return events

    def _due(self, root: str) -> Iterator[tuple[Nanos, str]]:
        """(when, why) of the closes that limits of the account demand for a held root."""
        if self._account.outbox.has_exit(root):
            return
        risk, held = self._account.session.risk, self._account.holdings.positions[root]
        if held.is_unknown and risk.unknown_policy == "flat":
            yield Nanos(held.opened_ns + risk.unknown_flat_after_s * SECOND), "unknown"
        unwatched = self._account.unwatched(root)
        if risk.stale_flatten_s is not None and unwatched is not None:
            yield Nanos(unwatched[0] + risk.stale_flatten_s * SECOND), "stale_feed"
        if root in self._account.halted:
            yield self._account.now, "root_halted"
        if self._account.tripped and risk.daily_loss_action == "flatten":
            yield self._account.now, self._account.tripped

    def _untold_since(self, root: str) -> Nanos | None:
        """Since when a held root is not watched, while that has not been told."""
        unwatched = self._account.unwatched(root)
        return None if unwatched is None or self._told_unwatched.get(root) == unwatched[0] else unwatched[0]

    def _tell_unwatched(self, root: str, ts: Nanos) -> list[Event]:
        unwatched, since = self._account.unwatched(root), self._untold_since(root)
        if unwatched is None or since is None or ts < since + UNWATCHED_AFTER:
            return []
        self._told_unwatched[root] = since
        held = self._account.holdings.positions[root]
        return [
            PositionUnwatched(
                root=root, contract=held.contract, quantity=held.quantity, since=since, reason=unwatched[1]
            )
        ]

    def _may_ask_ns(self, root: str) -> Nanos:
        """When a close of the position in `root` may be asked for, if it was asked for before."""
        asked = self._asked.get(root)
        if asked is None or asked < self._account.holdings.positions[root].opened_ns:
            return Nanos(0)
        return Nanos(asked + CLOSE_AGAIN)

    def watch_loss(self) -> list[Event]:
        """The daily stop, by the closes of the minute: realised and open, the worse case of what is unknown."""
        limit = self._account.session.risk.daily_loss_usd
        if limit is None or self._account.tripped or (pnl := self._account.holdings.worst_pnl()) > -limit:
            return []
        self._account.tripped = "daily_loss"
        action = self._account.session.risk.daily_loss_action
        tripped = RiskTripped(rule=self._account.tripped, detail=f"P&L {pnl} USD, limit -{limit}", action=action)
        return [tripped, *(self.close_all("daily_loss") if action == "flatten" else ())]

    def close_all(self, reason: str) -> list[Event]:
        """Close whatever is held, being entered, or perhaps held."""
        return [event for root in sorted(self._perhaps_held()) for event in self.close(root, reason)]

    def on_halt(self, root: str) -> list[Event]:
        """The strategy has given the root up: what it may hold is closed, unless that is under way."""
        if root not in self._perhaps_held() or self._account.outbox.has_exit(root):
            return []
        return self.close(root, "root_halted")

    def _perhaps_held(self) -> set[str]:
        entering = {order.root for order in self._account.outbox.orders if order.intent == "entry" and order.attempt}
        return self._account.holdings.positions.keys() | entering

    def on_safe_stop(self) -> list[Event]:
        """What the policy says becomes of working entries and positions."""
        policy = self._account.session.risk.safestop_policy
        if policy == "flatten":
            return self.close_all("safe_stop")
        return [] if policy == "hold" else [self._cancel(order) for order in self._cancellable()]

    def _cancellable(self) -> Iterator[Order]:
        """Working entries. Not where something is or may be held: its legs would be cancelled as well."""
        for order in self._account.outbox.orders:
            is_working = order.intent == "entry" and order.order_type == "limit" and order.is_filling
            has_legs = order.stop_price is not None or order.target_price is not None
            is_held = order.root in self._account.holdings.positions or (order.is_touched and has_legs)
            if is_working and not is_held:
                yield order

    def _cancel(self, order: Order) -> OrderRequested:
        return OrderRequested(
            root=order.root,
            signal_id=self._account.own_signal_id(order.root, order.contract, "cancel", order.side),
            contract=order.contract,
            intent="cancel",
            side=order.side,
            quantity=order.quantity,
            order_type="market",
            limit_price=None,
            reference_price=order.reference_price,
            decided_ns=self._account.now,
            bar_ns=Nanos(0),
            reason="safe_stop",
            entry_signal_id=order.signal_id,
            cancels_working=True,
        )

    def close(self, root: str, reason: str, contract: str | None = None) -> list[Event]:
        """Ask for a full exit of `root`: of the side that may be held, or of whichever is."""
        if self._asked.get(root) == self._account.now:
            return []  # Asked for twice in one moment (by a command and by a limit) it is one intent.
        self._asked[root] = self._account.now
        held = self._account.holdings.positions.get(root)
        entry = next((order for order in self._account.outbox.of_root(root) if order.intent == "entry"), None)
        if contract is None:
            known = held or entry
            contract = known.contract if known is not None else self._account.active.get(root)
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
            signal_id=self._account.own_signal_id(root, contract, "exit", side),
            contract=contract,
            intent="exit",
            side=side,
            quantity=abs(quantity) or 1,
            order_type="market",
            limit_price=None,
            reference_price=self._account.holdings.known_price(contract) or (Price(0) if held is None else held.price),
            decided_ns=self._account.now,
            bar_ns=Nanos(0),
            reason=reason,
            entry_signal_id=None if held is None else held.entry_signal_id,
            cancels_working=True,
            # What may not exist is closed on its side only: the other side would not be ours.
            is_flatten=held is None or not held.is_unknown,
        )
        return [request]
