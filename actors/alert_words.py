"""What the operator is told of a session, from its events alone: for each event its severity, its key and its words.

A fold without thread or channel; `actors.alerts` delivers. Every event type stands in `TOLD` or,
with the reason, in `SILENT`. Three rules hold for all: an acceptance is never called a fill, what the
program will do by itself is said where the operator might act too, and the end of a trouble has the
severity of the trouble, so that who was told of the one is told of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs

from actors.tally import Tally
from domain.envelope import Envelope
from domain.events import (
    ActorCrashed,
    ActorRestarted,
    BreakerChanged,
    CommandReceived,
    ContractRolled,
    EntriesClosed,
    EntriesOpened,
    ExitOverdue,
    FeedStatusChanged,
    FillAssumed,
    MarketStatusChanged,
    MessageSkipped,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderRejected,
    OrderRequested,
    PositionResolved,
    PositionUnwatched,
    RiskTripped,
    RollDue,
    RootHalted,
    RootReset,
    RootStatusChanged,
    SafeStopRequested,
    SessionClosed,
    SessionReconciled,
    SessionStopped,
    StateCarried,
)
from domain.orders import Order
from domain.positions import Position
from domain.sessions import iso_utc
from domain.units import price_to_decimal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""In order of rank."""


@attrs.frozen
class Alert:
    """One thing to tell. Alerts with the same `key` within the window become one message."""

    severity: Severity
    key: str
    text: str


class Teller:
    """Folds one session file; `tally` has folded each event before."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._orders: dict[str, OrderRequested | Order] = {}
        self._troubles: dict[str, Severity] = {}
        self._accepted: set[str] = set()

    def tell(self, envelope: Envelope) -> Alert | None:
        """What `envelope` says to the operator, or None."""
        if isinstance(envelope.payload, OrderRequested):
            self._orders[envelope.payload.signal_id] = envelope.payload
        words = TOLD.get(envelope.type)
        return None if words is None else words(self, envelope.payload)

    @property
    def is_live(self) -> bool:
        """Real money."""
        return self.tally.opened is not None and self.tally.opened.mode == "live"

    def carry(self, orders: Iterable[Order]) -> None:
        """Orders that the session before has left."""
        self._orders |= {order.signal_id: order for order in orders}

    def is_entry(self, signal_id: str) -> bool:
        """True for an unknown order too: it is the more dangerous case."""
        order = self._orders.get(signal_id)
        return order is None or order.intent == "entry"

    def is_cancel(self, signal_id: str) -> bool:
        """A safe stop's `cancel_only`."""
        order = self._orders.get(signal_id)
        return order is not None and order.intent == "cancel"

    def accept(self, signal_id: str) -> None:
        """The order has been accepted."""
        self._accepted.add(signal_id)

    def is_repeat(self, signal_id: str) -> bool:
        """An accepted exit is sent once more; what becomes of that changes nothing."""
        return signal_id in self._accepted and not self.is_entry(signal_id)

    def order(self, root: str, signal_id: str) -> str:
        """An order in words."""
        order = self._orders.get(signal_id)
        if order is None:
            return f"{root} order {signal_id[:12]}"
        return f"{root} {order.intent}, {order.side} {order.quantity} {order.contract}"

    def trouble(self, key: str, severity: Severity, text: str) -> Alert:
        """A condition that lasts until it is `over`."""
        self._troubles[key] = severity
        return Alert(severity, key, text)

    def over(self, key: str, text: str) -> Alert | None:
        """The end of a trouble; nothing when there was none."""
        severity = self._troubles.pop(key, None)
        return None if severity is None else Alert(severity, key, text)


# ----------------------------------------------------------------- orders


def _accepted(teller: Teller, event: OrderAccepted) -> Alert | None:
    if teller.is_repeat(event.signal_id):
        return None
    teller.accept(event.signal_id)
    return Alert("info", "OrderAccepted", f"{teller.order(event.root, event.signal_id)}: accepted, not a fill")


def _rejected(teller: Teller, event: OrderRejected) -> Alert | None:
    if teller.is_repeat(event.signal_id):
        return None
    order = teller.order(event.root, event.signal_id)
    text = f"{order}: rejected, nothing was traded (HTTP {event.http_status}, {event.code}: {event.message})"
    if teller.is_entry(event.signal_id):
        return Alert("warning", f"OrderRejected {event.root}", text)
    if teller.is_cancel(event.signal_id):
        return Alert("warning", f"OrderRejected {event.root}", f"{text}. The entry ends by its own time limit")
    return Alert("critical", f"OrderRejected {event.root}", f"{text}. The position is held until an exit is accepted")


def _ambiguous(teller: Teller, event: OrderAmbiguous) -> Alert | None:
    if teller.is_repeat(event.signal_id):
        return None
    order = f"{teller.order(event.root, event.signal_id)}: may or may not be live, do not resend ({event.cause})"
    again = (
        "a cancel again for a minute" if teller.is_cancel(event.signal_id) else "an exit again until one is accepted"
    )
    key = f"OrderAmbiguous {event.root}"
    if not teller.is_entry(event.signal_id):
        return Alert("warning", key, f"{order}. The program itself sends {again}")
    does = f"The program never sends it again, counts it as held and enters nothing in {event.root}"
    risk = None if teller.tally.opened is None else teller.tally.opened.risk
    if risk is not None and risk.unknown_policy == "flat":
        ends = f"closes it on its side after {risk.unknown_flat_after_s} s unless you resolve it before"
    else:
        ends = "waits until you resolve it (unknown_policy: hold)"
    return Alert("critical", key, f"{order}. {does}; it {ends}")


def _expired(teller: Teller, event: OrderExpired) -> Alert:
    return Alert(
        "info", "OrderExpired", f"{teller.order(event.root, event.signal_id)}: ended without a fill ({event.reason})"
    )


def _overdue(teller: Teller, event: ExitOverdue) -> Alert:
    return Alert(
        "critical",
        f"ExitOverdue {event.root}",
        f"{teller.order(event.root, event.signal_id)}: not accepted in {event.attempts} attempts since "
        f"{iso_utc(event.since_ns)}. The position may be open: look at the broker. The program goes on trying",
    )


def _breaker(teller: Teller, event: BreakerChanged) -> Alert | None:
    match event.state:
        case "closed":
            return teller.over("breaker", f"TradersPost answers again ({event.reason}): entries may leave")
        case "open":
            text = f"TradersPost does not answer ({event.reason}): no entries, exits are still tried"
            return teller.trouble("breaker", "warning", text)
        case "hard_open":
            text = f"TradersPost refuses the webhook itself ({event.reason}): no entries, exits are tried slowly"
            return teller.trouble("breaker", "critical", f"{text}. Check the address and the password")


# -------------------------------------------------------- risk, positions


def _tripped(teller: Teller, event: RiskTripped) -> Alert:
    closes = ", closing what is held" if event.action == "flatten" else ""
    text = f"limit {event.rule} reached ({event.detail}): no entries until the session ends{closes}"
    return Alert("critical", f"RiskTripped {event.rule}", text)


def _filled(teller: Teller, event: FillAssumed) -> Alert:
    pnl = "" if event.pnl is None else f", P&L {event.pnl:+,.2f}"
    return Alert(
        "info",
        "FillAssumed",
        f"{event.root} {event.intent}, {event.side} {event.quantity} {event.contract} at "
        f"{price_to_decimal(event.price)}: assumed by rule {event.rule}, not a broker's report{pnl}",
    )


def _resolved(teller: Teller, event: PositionResolved) -> Alert:
    held = f"{event.quantity:+d} {event.contract}" if event.quantity else "flat"
    return Alert("info", "PositionResolved", f"{event.root}: the operator says {held} ({event.reason})")


def _reconciled(teller: Teller, event: SessionReconciled) -> Alert:
    return Alert(
        "warning" if event.differences else "info",
        "SessionReconciled",
        f"session {event.session} compared with {event.source}: {event.fills} fills, {event.differences} differences",
    )


def _carried(teller: Teller, event: StateCarried) -> Alert | None:
    teller.carry(event.orders)
    texts = []
    if event.positions:
        texts.append(f"positions carried into this session: {_held(event.positions)}")
    if event.tripped:
        texts.append(f"no entries in this session: limit {event.tripped} was reached")
    if event.unconfirmed:
        texts.append(f"to be confirmed by you after a crash: {', '.join(event.unconfirmed)}")
    if event.unreconciled:
        texts.append(f"not compared with a broker's report: sessions {', '.join(event.unreconciled)}")
    if not texts:
        return None
    return Alert("critical" if event.unconfirmed else "warning", "StateCarried", "; ".join(texts))


def _roll_due(teller: Teller, event: RollDue) -> Alert:
    goes = f"goes on in {event.to_contract} at the next open" if event.to_contract else "has no next contract yet"
    closes = "held until its own exit" if event.close_ns is None else f"closed at {iso_utc(event.close_ns)}"
    return Alert(
        "info",
        "RollDue",
        f"{event.root} leaves {event.from_contract} and {goes}, by rule {event.rule} ({event.evidence}); "
        f"a position is {closes}",
    )


def _rolled(teller: Teller, event: ContractRolled) -> Alert:
    rule = f"by rule {event.rule} ({event.evidence})"
    return Alert(
        "info", "ContractRolled", f"{event.root} rolls from {event.from_contract} to {event.to_contract} {rule}"
    )


# ------------------------------------------------------------ the program


def _feed(teller: Teller, event: FeedStatusChanged) -> Alert | None:
    if event.status == "live":
        return teller.over("feed", f"feed live again ({event.reason})")
    means = "records are missing for good" if event.status == "gap" else "no entries until it is live again"
    return teller.trouble("feed", "warning", f"feed {event.status} ({event.reason}): {means}")


def _root_status(teller: Teller, event: RootStatusChanged) -> Alert | None:
    key = f"root {event.root}"
    if event.status == "live":
        return teller.over(key, f"{event.root} is live again")
    return teller.trouble(key, "warning", f"{event.root} is stale ({event.reason}): nothing that reads it is entered")


def _market_status(teller: Teller, event: MarketStatusChanged) -> Alert | None:
    if event.status == "trading":
        return teller.over("market", "the market trades again")
    text = f"no trade in any root since {iso_utc(event.since)}: no entries until the next one; perhaps a halt"
    return teller.trouble("market", "warning", text)


def _reset(teller: Teller, event: RootReset) -> Alert:
    text = f"{event.root}: bars begun before {iso_utc(event.since)} are not whole ({event.reason})"
    does = "No entries that read it until it has the bars it needs again; positions and exits stay"
    return Alert("warning", "RootReset", f"{text}. {does}")


def _halted(teller: Teller, event: RootHalted) -> Alert:
    text = f"evaluating {event.root} failed ({event.error}): it trades nothing more in this session"
    does = f"What it holds is closed; its entries stay disabled until `enable {event.root}`. Other roots go on"
    return Alert("critical", f"RootHalted {event.root}", f"{text}. {does}")


def _unwatched(teller: Teller, event: PositionUnwatched) -> Alert:
    text = f"{event.quantity:+d} {event.contract} is held and its market not seen since {iso_utc(event.since)}"
    risk = None if teller.tally.opened is None else teller.tally.opened.risk
    limit = None if risk is None else risk.stale_flatten_s
    ends = "nothing closes it before the auto-close" if limit is None else f"it is closed after {limit} s of that"
    return Alert(
        "critical", f"PositionUnwatched {event.root}", f"{text} ({event.reason}): its stop stands still; {ends}"
    )


def _crashed(teller: Teller, event: ActorCrashed) -> Alert:
    return Alert("warning", f"actor {event.actor}", f"actor {event.actor} crashed at seq {event.at_seq}: {event.error}")


def _restarted(teller: Teller, event: ActorRestarted) -> Alert:
    if event.actor != "process":
        text = f"actor {event.actor} goes on as incarnation {event.incarnation}"
        return Alert("warning", f"actor {event.actor}", text)
    text = f"the program was started again in mid-session (start {event.incarnation}); what it told last may be lost"
    if teller.tally.positions:
        text += f". Positions: {_held(teller.tally.positions.values())}"
    if event.is_degraded:
        text += ". It has failed so often in this session that entries are HALTED: find out why, then `resume`"
    return Alert("critical" if event.is_degraded else "warning", "actor process", text)


def _skipped(teller: Teller, event: MessageSkipped) -> Alert:
    text = f"actor {event.actor} goes on without seq {event.seq} ({event.type}), as you allowed: {event.error}"
    does = "Entries are HALTED until `resume`: look at what that event was first. Exits still leave"
    return Alert("critical", f"MessageSkipped {event.actor}", f"{text}. {does}")


def _entries_closed(teller: Teller, event: EntriesClosed) -> Alert:
    return teller.trouble("entries", "warning", f"no entries: {event.reason}. Exits still leave")


def _entries_opened(teller: Teller, event: EntriesOpened) -> Alert | None:
    return teller.over("entries", f"entries allowed again: {event.reason}")


def _command(teller: Teller, event: CommandReceived) -> Alert:
    quantity = "" if event.quantity is None else f" {event.quantity:+d}"
    words = f"{event.command} {event.argument}".rstrip() + quantity
    return Alert("warning", "CommandReceived", f"operator's command: {words}{event.reason and f' ({event.reason})'}")


def _safe_stop(teller: Teller, event: SafeStopRequested) -> Alert:
    return Alert("critical", "SafeStopRequested", f"safe stop, the program ends itself: {event.reason}")


def _stopped(teller: Teller, event: SessionStopped) -> Alert:
    text = f"stopped in mid-session ({event.reason})"
    if not event.positions:
        return Alert("info", "SessionStopped", f"{text}, no positions open")
    text += f". POSITIONS LEFT OPEN, nothing watches them: {_held(event.positions)}"
    return Alert("critical" if teller.is_live else "warning", "SessionStopped", text)


def _closed(teller: Teller, event: SessionClosed) -> Alert:
    tally = teller.tally
    session = "" if tally.opened is None else f" {tally.opened.session.date}"
    return Alert(
        "info",
        "SessionClosed",
        f"session{session} closed: {event.decisions} decisions, {tally.entries} entries, "
        f"{sum(tally.exits.values())} exits, {tally.closed_trades} closed trades, P&L {tally.realised_pnl:+,.2f} net "
        f"by assumed fills, {tally.restarts.total()} restarts",
    )


def _held(positions: Iterable[Position]) -> str:
    return ", ".join(
        f"{position.quantity:+d} {position.contract}{' UNKNOWN' if position.is_unknown else ''}"
        for position in sorted(positions, key=lambda position: position.root)
    )


TOLD: Mapping[str, Callable[[Teller, Any], Alert | None]] = {
    "OrderAccepted": _accepted,
    "OrderRejected": _rejected,
    "OrderAmbiguous": _ambiguous,
    "OrderExpired": _expired,
    "ExitOverdue": _overdue,
    "BreakerChanged": _breaker,
    "RiskTripped": _tripped,
    "FillAssumed": _filled,
    "PositionResolved": _resolved,
    "SessionReconciled": _reconciled,
    "StateCarried": _carried,
    "RollDue": _roll_due,
    "ContractRolled": _rolled,
    "FeedStatusChanged": _feed,
    "RootStatusChanged": _root_status,
    "MarketStatusChanged": _market_status,
    "RootReset": _reset,
    "RootHalted": _halted,
    "PositionUnwatched": _unwatched,
    "ActorCrashed": _crashed,
    "ActorRestarted": _restarted,
    "MessageSkipped": _skipped,
    "EntriesClosed": _entries_closed,
    "EntriesOpened": _entries_opened,
    "CommandReceived": _command,
    "SafeStopRequested": _safe_stop,
    "SessionStopped": _stopped,
    "SessionClosed": _closed,
}
"""By event type."""

SILENT: Mapping[str, str] = {
    "SessionOpened": "what it carries and how it ends is told",
    "HistoryLoaded": "the log says what is lacking",
    "TradesReceived": "the market",
    "SymbolMapped": "the market",
    "ClockTicked": "the dead-man ping says that time goes on",
    "SliceClosed": "the market",
    "LateTrade": "the market",
    "SignalEvaluated": "`why` answers",
    "VetoScored": "`why` answers",
    "ShadowScored": "nothing acts on it; `why` answers",
    "OrderRequested": "what becomes of it is told",
    "RiskDecided": "a refusal is the gate at work; `journal orders` has it",
    "OrderSubmitted": "its outcome is told",
    "OrderNotSent": "it is tried again; OrderExpired, ExitOverdue or BreakerChanged tells when that fails",
    "ProbeSubmitted": "BreakerChanged tells what probes find",
    "ProbeAnswered": "BreakerChanged tells what probes find",
    "FillConfirmed": "SessionReconciled sums up",
}
"""Event types that are not told, each with the reason."""
