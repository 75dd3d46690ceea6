"""Positions as a fold of fills, and the one fill machine for paper and live.

TradersPost reports no fills. What is held is therefore *assumed* by a named rule
until a broker's report or the operator confirms it. Prices are integers; money is
Decimal and computed in one place.
"""

from __future__ import annotations

from decimal import Decimal

import attrs
import numpy as np

from domain.errors import OurError
from domain.market import TradeArray
from domain.orders import Order
from domain.units import Nanos, Price


@attrs.frozen(kw_only=True)
class Position:
    """What is held in one root. `quantity` is signed contracts; `price` the entry fill."""

    root: str
    contract: str
    quantity: int
    price: Price
    opened_ns: Nanos
    entry_signal_id: str
    is_unknown: bool = False
    """True while an ambiguous entry may or may not have been executed."""
    stop_price: Price | None = None
    target_price: Price | None = None
    """Legs that rest at the broker."""

    @property
    def has_legs(self) -> bool:
        """Something may be working at the broker for this position."""
        return self.stop_price is not None or self.target_price is not None


@attrs.frozen(kw_only=True)
class Fill:
    """An assumed fill: the price by rule, and the time of the trade that made it."""

    price: Price
    ts: Nanos
    rule: str


def market_fill(order: Order, trades: TradeArray, *, tick_size: Price) -> Fill | None:
    """First trade of the contract received at or after the acceptance, one tick adverse.

    `trades` are the contract's records of one batch sequenced after the acceptance.
    """
    if order.accepted_ns is None:
        raise OurError(f"order {order.signal_id} cannot fill before it is accepted")
    index = int(np.argmax(trades["ts_recv"] >= order.accepted_ns)) if len(trades) else 0
    if not len(trades) or trades["ts_recv"][index] < order.accepted_ns:
        return None
    adverse = tick_size if order.side == "buy" else -tick_size
    return Fill(
        price=Price(int(trades["price"][index]) + adverse), ts=Nanos(int(trades["ts_recv"][index])), rule="next_trade"
    )


def limit_fill(order: Order, trades: TradeArray, *, tick_size: Price) -> Fill | None:
    """Filled at the limit once a trade goes at least one tick through it; a touch is no fill."""
    if order.accepted_ns is None or order.limit_price is None:
        raise OurError(f"order {order.signal_id} is no accepted limit order")
    if order.side == "buy":
        through = trades["price"] <= order.limit_price - tick_size
    else:
        through = trades["price"] >= order.limit_price + tick_size
    hits = np.flatnonzero(through & (trades["ts_recv"] >= order.accepted_ns))
    if not len(hits):
        return None
    return Fill(price=order.limit_price, ts=Nanos(int(trades["ts_recv"][hits[0]])), rule="traded_through")


def is_limit_touched(order: Order, trades: TradeArray) -> bool:
    """True when a trade since it was sent was at the limit or better: the queue decided, and nobody tells us.

    From the sending on and not from the acceptance: the answer takes its time, the market does not wait for it.
    """
    since_ns = order.accepted_ns if order.sent_ns is None else order.sent_ns
    if since_ns is None or order.limit_price is None:
        return False
    prices = trades["price"][trades["ts_recv"] >= since_ns]
    return bool((prices <= order.limit_price).any() if order.side == "buy" else (prices >= order.limit_price).any())


def leg_fill(position: Position, trades: TradeArray, *, tick_size: Price) -> Fill | None:
    """The first resting leg traded through by a tick or more: the stop one tick adverse, the target at its price.

    `trades` are the contract's records of one batch. A trade before the entry's own fill is none of it.
    """
    is_long = position.quantity > 0
    sign = 1 if is_long else -1
    is_after = trades["ts_recv"] > position.opened_ns
    gain = sign * trades["price"]
    hits: list[tuple[int, Price, str]] = []
    if (stop := position.stop_price) is not None:
        at = np.flatnonzero((gain <= sign * stop - tick_size) & is_after)
        hits += [(int(index), Price(stop - sign * tick_size), "stop_leg") for index in at[:1]]
    if (target := position.target_price) is not None:
        at = np.flatnonzero((gain >= sign * target + tick_size) & is_after)
        hits += [(int(index), target, "target_leg") for index in at[:1]]
    if not hits:
        return None
    index, price, rule = min(hits)
    return Fill(price=price, ts=Nanos(int(trades["ts_recv"][index])), rule=rule)


def net_pnl(
    *,
    entry: Price,
    exit: Price,
    quantity: int,
    multiplier: Decimal,
    commission_per_side: Decimal,
) -> Decimal:
    """Points x multiplier x contracts - 2 x commission x contracts, in quote currency; `quantity` signed."""
    points = Decimal(exit - entry).scaleb(-9)
    return points * multiplier * quantity - 2 * commission_per_side * abs(quantity)
