"""What is held, what it is worth, and what it has come to: the positions of the Execution machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from domain.bars import BAR_COLUMNS, Bar, BarTable
from domain.instruments import TradedRoot
from domain.orders import Order
from domain.positions import Position, net_pnl
from domain.units import Nanos, Price

_CLOSE = BAR_COLUMNS.index("close")


class Holdings:
    """Positions by root, the last price of each contract, and the session's realised P&L."""

    def __init__(self) -> None:
        self.positions: dict[str, Position] = {}
        self.realised_pnl = Decimal(0)
        self._roots: Mapping[str, TradedRoot] = {}
        self._last_price: dict[str, Price] = {}
        self._price_before: dict[str, Price] = {}

    def use(self, roots: Iterable[TradedRoot]) -> None:
        """The session's roots."""
        self._roots = {root.root: root for root in roots}

    def use_history(self, tables: Iterable[BarTable]) -> None:
        """The closes before this session."""
        for table in tables:
            if len(table):
                self._price_before[table.contracts[-1]] = Price(int(table.data[-1, _CLOSE]))

    def restore(self, positions: Iterable[Position], realised_pnl: Decimal) -> None:
        """Go on with what an earlier file left."""
        self.positions = {position.root: position for position in positions}
        self.realised_pnl = realised_pnl

    def mark(self, minutes: Iterable[Bar]) -> None:
        """Remember the closes of minutes that have ended."""
        for bar in minutes:
            self._last_price[bar.contract] = bar.close

    def last_price(self, contract: str) -> Price | None:
        """The last close of `contract` in this session."""
        return self._last_price.get(contract)

    def known_price(self, contract: str) -> Price | None:
        """The last close of `contract`, an earlier session's if need be."""
        return self._last_price.get(contract, self._price_before.get(contract))

    def in_order(self) -> tuple[Position, ...]:
        """Positions in order of root."""
        return tuple(self.positions[root] for root in sorted(self.positions))

    def hold(self, order: Order, *, price: Price, ts: Nanos, is_unknown: bool) -> None:
        """An entry was filled, or may have been."""
        self.positions[order.root] = Position(
            root=order.root,
            contract=order.contract,
            quantity=order.quantity if order.side == "buy" else -order.quantity,
            price=price,
            opened_ns=ts,
            entry_signal_id=order.signal_id,
            is_unknown=is_unknown,
            stop_price=order.stop_price,
            target_price=order.target_price,
        )

    def close(self, root: str, price: Price) -> Decimal | None:
        """The position of `root` ended at `price`: its net P&L; None when nothing was held."""
        position = self.positions.pop(root, None)
        if position is None:
            return None
        pnl = self._pnl(position, price)
        self.realised_pnl += pnl
        return pnl

    def worst_pnl(self) -> Decimal:
        """Realised and open P&L at the last prices; what may not be held counts only when it loses."""
        return self.realised_pnl + sum(
            (self._pnl(held, self._last_price.get(held.contract, held.price)) for held in self.positions.values()),
            Decimal(0),
        )

    def margin_of(self, root: str, contracts: int) -> Decimal | None:
        """Initial margin in USD; None when the contract map does not know it."""
        spec = self._roots[root].order_spec
        return None if spec.initial_margin_usd is None else spec.initial_margin_usd * contracts

    def _pnl(self, position: Position, price: Price) -> Decimal:
        root = self._roots[position.root]
        pnl = net_pnl(
            entry=position.price,
            exit=price,
            quantity=position.quantity,
            multiplier=root.order_spec.multiplier,
            commission_per_side=root.commission_per_side,
        )
        return min(pnl, Decimal(0)) if position.is_unknown else pnl
