"""A session's assumed fills held against a broker's report.

A fill is found by our signal id where the report carries it, else by contract, side and time: the fills between two
minutes before the assumed one and half an hour after it, oldest first, until its quantity is reached. What differs is
listed and never mended: `resolve` does that, by the operator.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import attrs

from actors.tally import Tally
from domain.broker_report import BrokerFill, BrokerReport
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import FillAssumed, SessionOpened
from domain.instruments import Expiry, TradedRoot, parse_contract
from domain.orders import Side
from domain.sessions import iso_utc
from domain.units import MINUTE, Nanos, Price, price_to_decimal

BEFORE = Nanos(2 * MINUTE)
AFTER = Nanos(30 * MINUTE)
_LONG_YEAR = re.compile(r"(.+)\d\d(\d\d)$")
_OWN_RULES = ("resolved", "stop_leg", "target_leg")
"""Fills without an order of ours: no signal id of a report is theirs."""

_Contract = tuple[str, Expiry]


class SessionFills:
    """What a session has assumed: fold all of its files, one after the other."""

    def __init__(self) -> None:
        self.fills: list[FillAssumed] = []
        self.carried: Counter[_Contract] = Counter()
        """Signed contracts at the session's start."""
        self._opened: SessionOpened | None = None
        self._tally = Tally()

    def fold(self, envelope: Envelope) -> None:
        """Take in one event."""
        self._tally.fold(envelope)
        if isinstance(envelope.payload, SessionOpened):
            self._opened = envelope.payload
        elif isinstance(envelope.payload, FillAssumed):
            self.fills.append(envelope.payload)
        elif envelope.type == "StateCarried" and self.opened.segment == 1:
            self.carried = self.held()

    @property
    def opened(self) -> SessionOpened:
        """The session. Raises OurError before it was folded."""
        if self._opened is None:
            raise OurError("no session has been folded")
        return self._opened

    def held(self) -> Counter[_Contract]:
        """Signed contracts now; what is UNKNOWN is not counted."""
        known = [position for position in self._tally.positions.values() if not position.is_unknown]
        return Counter({self._key(position.contract): position.quantity for position in known})

    def of_data(self, contract: str) -> _Contract:
        """Root and delivery month of a contract as the feed names it."""
        return self._key(contract)

    def of_broker(self, symbol: str) -> _Contract | None:
        """Root and delivery month of what a broker writes `MESM4` or `MESM2024`; None when it is not ours."""
        match = _LONG_YEAR.match(symbol)
        short = match.expand(r"\1\2") if match and match[1][-1:].isalpha() else symbol
        return self._parsed(short, {root.order_product: root for root in self.opened.roots})

    def root(self, name: str) -> TradedRoot:
        """The specification of a root."""
        return next(root for root in self.opened.roots if root.root == name)

    def _key(self, contract: str) -> _Contract:
        found = self._parsed(contract, {root.data_product: root for root in self.opened.roots})
        if found is None:
            raise OurError(f"{contract} is no contract of this session")
        return found

    def _parsed(self, symbol: str, products: dict[str, TradedRoot]) -> _Contract | None:
        name = parse_contract(symbol, products, self.opened.session.date)
        return None if name is None else (products[name.product].root, name.expiry)


@attrs.frozen(kw_only=True)
class Confirmed:
    """An assumed fill and what the broker says of it."""

    fill: FillAssumed
    quantity: int
    price: Price
    """Weighted by quantity, to 1e-9."""
    slippage_ticks: Decimal
    """Against the assumption: positive is worse."""
    slippage_usd: Decimal


@attrs.frozen(kw_only=True)
class Reconciliation:
    """What a comparison came to."""

    session: str
    source: str
    confirmed: tuple[Confirmed, ...]
    differences: tuple[str, ...]
    ignored: int
    """Rows of other sessions."""

    def request(self) -> dict[str, Any]:
        """As it is sent to the running process."""
        fills = [
            {
                "root": one.fill.root,
                "signal_id": one.fill.signal_id,
                "quantity": one.quantity,
                "price": one.price,
                "assumed": one.fill.price,
            }
            for one in self.confirmed
        ]
        return {
            "command": "reconcile",
            "session": self.session,
            "source": self.source,
            "fills": fills,
            "differences": len(self.differences),
        }

    def words(self) -> list[str]:
        """For a person."""
        lines = [f"session {self.session}, {self.source}"]
        for one in self.confirmed:
            fill = one.fill
            lines.append(
                f"  {fill.root:<4} {fill.intent:<5} {fill.side:<4} {one.quantity} {fill.contract}"
                f" at {price_to_decimal(one.price)}, assumed {price_to_decimal(fill.price)} ({fill.rule}):"
                f" {one.slippage_ticks:+} ticks, {one.slippage_usd:+,.2f} USD worse"
            )
        total = sum((one.slippage_usd for one in self.confirmed), Decimal(0))
        other = f", {self.ignored} rows of other sessions" if self.ignored else ""
        lines.append(f"  {len(self.confirmed)} fills confirmed, {total:+,.2f} USD worse than assumed{other}")
        lines += [f"  DIFFERS: {difference}" for difference in self.differences]
        lines.append(f"  {len(self.differences) or 'no'} differences")
        return lines


@attrs.define
class _Left:
    """A broker's fill, and how much of it has not been found in an assumption."""

    fill: BrokerFill
    key: _Contract | None
    quantity: int


def reconcile(assumed: SessionFills, report: BrokerReport) -> Reconciliation:
    """Hold `report` against what the session has assumed."""
    session = assumed.opened.session
    ids = {fill.signal_id for fill in assumed.fills}
    rows, ignored = [], 0
    for row in report.fills:
        is_within = row.ts is None or session.start_ns <= row.ts < session.end_ns
        if is_within or row.signal_id in ids:
            rows.append(_Left(row, assumed.of_broker(row.symbol), row.quantity))
        else:
            ignored += 1
    confirmed: list[Confirmed] = []
    differences: list[str] = []
    if report.kind == "tradovate_positions":
        differences += _positions_that_differ(assumed, report)
    else:
        # Those that are found by their id first: what is left may belong to a fill without one.
        for fill in sorted(assumed.fills, key=lambda fill: (fill.rule in _OWN_RULES, fill.ts)):
            taken = _take(fill, assumed.of_data(fill.contract), rows)
            quantity = sum(count for count, _ in taken)
            if quantity:
                confirmed.append(_confirmed(fill, taken, assumed.root(fill.root)))
            if quantity != fill.quantity and (quantity or fill.rule != "resolved"):
                differences.append(f"{_named(fill)}: the report has {quantity or 'none'} of it")
        differences += _never_assumed(rows)
        differences += _ends_that_differ(assumed, rows, report.fills)
    return Reconciliation(
        session=session.date.isoformat(),
        source=f"{report.kind}: {report.name}",
        confirmed=tuple(sorted(confirmed, key=lambda one: one.fill.ts)),
        differences=tuple(differences),
        ignored=ignored,
    )


def _take(fill: FillAssumed, key: _Contract, rows: list[_Left]) -> list[tuple[int, Price]]:
    """(quantity, price) of the broker's fills that are this one, taken out of `rows`."""
    taken, missing = [], fill.quantity
    for row in sorted(rows, key=lambda row: row.fill.ts or 0):
        if missing and row.quantity and row.key == key and _is_of(fill, row.fill):
            count = min(missing, row.quantity)
            row.quantity -= count
            missing -= count
            taken.append((count, row.fill.price))
    return taken


def _is_of(fill: FillAssumed, row: BrokerFill) -> bool:
    if row.side not in (None, fill.side):
        return False
    if row.signal_id == fill.signal_id:
        return True
    # A bracket's leg may come under its entry's id.
    is_open = not row.signal_id or fill.rule in _OWN_RULES
    return is_open and row.ts is not None and fill.ts - BEFORE <= row.ts <= fill.ts + AFTER


def _confirmed(fill: FillAssumed, taken: list[tuple[int, Price]], root: TradedRoot) -> Confirmed:
    quantity = sum(count for count, _ in taken)
    price = Price(round(Decimal(sum(count * at for count, at in taken)) / quantity))
    worse = price - fill.price if fill.side == "buy" else fill.price - price
    spec = root.order_spec
    return Confirmed(
        fill=fill,
        quantity=quantity,
        price=price,
        slippage_ticks=(Decimal(worse) / spec.tick_size).quantize(Decimal("0.01")),
        slippage_usd=(Decimal(worse).scaleb(-9) * spec.multiplier * quantity).quantize(Decimal("0.01")),
    )


def _never_assumed(rows: Iterable[_Left]) -> Iterator[str]:
    for row in rows:
        if row.quantity:
            fill = row.fill
            when = "" if fill.ts is None else f" at {iso_utc(fill.ts)}"
            yield (
                f"line {fill.line}: {fill.side or 'exit'} {row.quantity} {fill.symbol} at"
                f" {price_to_decimal(fill.price)}{when} was never assumed"
                f"{'' if row.key else ' (no contract of this session)'}"
            )


def _ends_that_differ(assumed: SessionFills, rows: Iterable[_Left], fills: Iterable[BrokerFill]) -> Iterator[str]:
    """What the report's fills add up to from the session's start, where every one of them tells its side."""
    if any(fill.side is None for fill in fills):
        return
    broker = Counter(assumed.carried)
    for row in rows:
        if row.key is not None:
            broker[row.key] += _signed(row.fill.quantity, row.fill.side or "buy")
    yield from _between(assumed.held(), broker)


def _positions_that_differ(assumed: SessionFills, report: BrokerReport) -> Iterator[str]:
    broker: Counter[_Contract] = Counter()
    for position in report.positions:
        key = assumed.of_broker(position.symbol)
        if key is not None:
            broker[key] = position.quantity
        elif position.quantity:
            yield f"line {position.line}: {position.quantity:+d} {position.symbol} is no contract of this session"
    yield from _between(assumed.held(), broker)


def _between(ours: Counter[_Contract], broker: Counter[_Contract]) -> Iterator[str]:
    for root, expiry in sorted({*ours, *broker}, key=lambda key: (key[0], key[1].year, key[1].month)):
        here, there = ours[root, expiry], broker[root, expiry]
        if here != there:
            yield f"position {root} {expiry.month_code}{expiry.year}: {here:+d} here, {there:+d} at the broker"


def _signed(quantity: int, side: Side) -> int:
    return quantity if side == "buy" else -quantity


def _named(fill: FillAssumed) -> str:
    at = price_to_decimal(fill.price)
    return f"{fill.root} {fill.intent} {fill.side} {fill.quantity} {fill.contract} at {at}, {iso_utc(fill.ts)}"
