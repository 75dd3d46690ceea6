"""What the local TradersPost saw and did: the judge of every test, and a paper broker's book.

HTTP acceptance and execution are two things, as at the real one: a 200 is followed by
an execution that may come later and may do nothing (flat on flat, a second buy while long).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import attrs

from adapters.traderspost.broker import Book, Broker, Done, Fill, Fills, Incident, Purpose, RestingType, Subscription
from adapters.traderspost.schema import Signal


@attrs.frozen(kw_only=True)
class SignalRecord:
    """One `signal_id` as the server saw it; "" holds all messages without one."""

    signal_id: str
    ticker: str
    attempts: int = 0
    """Requests that were read, whatever came of them."""
    accepted: int = 0
    """Requests that were taken for execution, whatever was answered."""
    answers: tuple[str, ...] = ()
    """Per attempt `accepted`, the code of the refusal (spoiled by a fault or not), or the name of the fault played."""
    executions: tuple[str, ...] = ()
    """What each execution did to the position. One that still waits is not here yet."""
    position_after: int | None = None
    """Signed contracts of the ticker after the last execution; None before any."""
    first_body: str = ""
    last_body: str = ""
    lint: tuple[str, ...] = ()
    """What we forbid ourselves although TradersPost takes it, without repeats."""


@attrs.frozen(kw_only=True)
class Account:
    """One ticker that was traded. Points are price units times contracts, dollars where its value per point is known.

    Open results are taken at the last price that was fed or said; None where a price is not known.
    """

    quantity: int
    average_price: Decimal | None
    last_price: Decimal | None
    realized_points: Decimal
    unpriced_contracts: int
    """Closed contracts that are missing in the realized result: nobody said a price."""
    open_points: Decimal | None
    realized_usd: Decimal | None
    open_usd: Decimal | None


@attrs.frozen(kw_only=True)
class OpenOrder:
    """An order that rests at the broker. An orphan is a leg that would not close what its own entry opened."""

    ticker: str
    purpose: Purpose
    type: RestingType
    quantity: int
    price: Decimal
    signal_id: str
    expires_ns: int | None
    is_orphan: bool


@attrs.frozen(kw_only=True)
class LedgerSnapshot:
    """The ledger at one moment."""

    requests: int
    """Webhook requests seen, with those that were reset before they were read."""
    probes: int
    """Bodies without ticker and action: no signals, not in `signals`."""
    signals: Mapping[str, SignalRecord]
    positions: Mapping[str, int]
    """Signed contracts by ticker, without flat ones."""
    accounts: Mapping[str, Account]
    orders: tuple[OpenOrder, ...]
    pending: tuple[str, ...]
    """Signals that were accepted and wait for their execution, in the order of acceptance."""
    fills: tuple[Fill, ...]
    incidents: tuple[Incident, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON; prices and amounts are still Decimals."""
        return attrs.asdict(self)


@attrs.define(kw_only=True)
class LedgerState:
    """All that the ledger remembers: plain values, so that it can be written down."""

    requests: int = 0
    probes: int = 0
    records: dict[str, SignalRecord] = attrs.field(factory=dict)
    book: Book = attrs.field(factory=Book)


class Ledger:
    """Records and the broker's account, changed by one thread only."""

    def __init__(
        self,
        subscription: Subscription | None = None,
        fills: Fills = "signal",
        point_values_usd: Mapping[str, Decimal] | None = None,
        state: LedgerState | None = None,
    ) -> None:
        """`point_values_usd`: dollars per point and contract, by order product."""
        self._subscription = subscription or Subscription()
        self._point_values_usd = point_values_usd or {}
        self.state = state or LedgerState()
        self._broker = Broker(self._subscription, fills, self.state.book)

    def note_attempt(self, signal_id: str, ticker: str, body: str, lints: tuple[str, ...]) -> int:
        """Record that a message was read; returns how many times this signal has been, from 1."""
        records = self.state.records
        record = records.get(signal_id) or SignalRecord(signal_id=signal_id, ticker=ticker, first_body=body)
        records[signal_id] = attrs.evolve(
            record,
            attempts=record.attempts + 1,
            last_body=body,
            lint=record.lint + tuple(fault for fault in dict.fromkeys(lints) if fault not in record.lint),
        )
        return records[signal_id].attempts

    def note_answer(self, signal_id: str, answer: str) -> None:
        """Record what the attempt just noted came to."""
        record = self.state.records[signal_id]
        self.state.records[signal_id] = attrs.evolve(record, answers=(*record.answers, answer))

    def accept(self, signal_id: str, signal: Signal, dues_ns: Sequence[int], now_ns: int, *, why_not: str = "") -> None:
        """Take `signal`: it is executed at each of `dues_ns`, or never, for the reason `why_not`."""
        record = self.state.records[signal_id]
        if signal.intent == "entry" and signal_id and record.accepted:
            self._broker.note("entry_accepted_twice", signal_id, signal.ticker, now_ns, f"{record.accepted + 1} times")
        self.state.records[signal_id] = attrs.evolve(record, accepted=record.accepted + 1)
        if not self._subscription.is_enabled:
            why_not = "nothing: the subscription is disabled"
        if why_not:
            position = self._broker.holding(signal.ticker).quantity
            self._note_done((Done(signal_id=signal_id, what=why_not, position_after=position),))
        else:
            for due_ns in dues_ns:
                self._broker.accept(signal_id, signal, due_ns)
        self.advance(now_ns)

    def advance(self, now_ns: int) -> None:
        """Let happen what has fallen due by `now_ns`."""
        self._note_done(self._broker.advance(now_ns))

    def trade_seen(self, ticker: str, price: Decimal, ts_ns: int) -> bool:
        """A trade of the market in `ticker`; whether the account did anything at it."""
        fills = len(self.state.book.fills)
        done = self._broker.trade_seen(ticker, price, ts_ns)
        self._note_done(done)
        return bool(done) or len(self.state.book.fills) > fills

    def snapshot(self) -> LedgerSnapshot:
        """The ledger as it is now."""
        book, state = self.state.book, self.state
        return LedgerSnapshot(
            requests=state.requests,
            probes=state.probes,
            signals=dict(state.records),
            positions={ticker: held.quantity for ticker, held in book.holdings.items() if held.quantity},
            accounts={ticker: self._account(ticker) for ticker in book.holdings},
            orders=tuple(
                OpenOrder(
                    ticker=order.ticker,
                    purpose=order.purpose,
                    type=order.type,
                    quantity=order.quantity,
                    price=order.price,
                    signal_id=order.source.signal_id,
                    expires_ns=order.expires_ns,
                    is_orphan=order.is_orphan(self._broker.holding(order.ticker)),
                )
                for order in book.orders
            ),
            pending=tuple(accepted.signal_id for accepted in book.pending),
            fills=tuple(book.fills),
            incidents=tuple(book.incidents),
        )

    def _note_done(self, executed: Sequence[Done]) -> None:
        for done in executed:
            record = self.state.records[done.signal_id]
            self.state.records[done.signal_id] = attrs.evolve(
                record, executions=(*record.executions, done.what), position_after=done.position_after
            )

    def _account(self, ticker: str) -> Account:
        held, last = self._broker.holding(ticker), self.state.book.prices.get(ticker)
        open_points: Decimal | None = Decimal(0)
        if held.quantity:
            entry = held.average_price
            open_points = None if last is None or entry is None else (last - entry) * held.quantity + 0
        # Order product, month letter and four digits of the year.
        value_usd = self._point_values_usd.get(ticker[:-5])
        return Account(
            quantity=held.quantity,
            average_price=held.average_price,
            last_price=last,
            realized_points=held.realized_points,
            unpriced_contracts=held.unpriced_contracts,
            open_points=open_points,
            realized_usd=None if value_usd is None else held.realized_points * value_usd,
            open_usd=None if value_usd is None or open_points is None else open_points * value_usd,
        )
