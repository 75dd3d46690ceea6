"""What a session has come to: the counts behind the summary and the progress line, a fold of the journal."""

from __future__ import annotations

from collections import Counter, deque
from decimal import Decimal

from domain.envelope import Envelope
from domain.events import (
    ActorRestarted,
    ClockTicked,
    FillAssumed,
    LateTrade,
    OrderAmbiguous,
    OrderExpired,
    OrderRequested,
    RiskDecided,
    SafeStopRequested,
    SessionOpened,
    SessionStopped,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
    TradesReceived,
    VetoScored,
)
from domain.orders import Order
from domain.positions import Position
from domain.units import Nanos


class Tally:
    """Counts of one session file."""

    def __init__(self) -> None:
        self.events = 0
        self.trades = 0
        self.late = 0
        """Trades that came for a minute that had closed: in the record, in no bar."""
        self.bars: Counter[str] = Counter()
        self.decisions = 0
        self.refusals: Counter[str] = Counter()
        """Entries that were not sent, by the reason: the first refusing gate, or `risk:` and the rule."""
        self.vetoed: deque[VetoScored] = deque(maxlen=3)
        """The last scores that alone kept an entry away."""
        self._scores: dict[str, VetoScored] = {}
        self.entries = 0
        self.exits: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        """Attempts' outcomes, by event type."""
        self.positions: dict[str, Position] = {}
        """Held or, after an ambiguous entry, perhaps held: UNKNOWN."""
        self._asked: dict[str, OrderRequested | Order] = {}
        self.realised_pnl = Decimal(0)
        self.closed_trades = 0
        self.restarts: Counter[str] = Counter()
        self._ends: Counter[str] = Counter()
        """Ends of the process on record, by event type."""
        self.feed_ns = Nanos(0)
        self.opened: SessionOpened | None = None

    @property
    def orders(self) -> int:
        """Requests of the strategy."""
        return self.entries + sum(self.exits.values())

    @property
    def failures(self) -> int:
        """How often the process has ended otherwise than it was told to: crashes, safe stops. Asked while none runs."""
        crashes = 1 + self.restarts["process"] - self._ends["SessionStopped"]
        return crashes + self._ends["SafeStopRequested"]

    def fold(self, envelope: Envelope) -> None:
        """Take in one event."""
        self.events += 1
        match envelope.payload:
            case TradesReceived(trades=trades):
                self.trades += len(trades)
            case LateTrade(trades=late):
                self.late += late
            case ClockTicked(ts=ts):
                self.feed_ns = ts
            case SliceClosed(minutes=minutes, hours=hours, days=days):
                self.bars.update({"1m": len(minutes), "1h": len(hours), "1d": len(days)})
            case VetoScored() as scored:
                self._scores[scored.root] = scored
            case SignalEvaluated(root=root, verdict=verdict, reason=reason):
                self.decisions += 1
                if verdict == "refuse":
                    self.refusals[reason] += 1
                if reason == "vetoed":
                    self.vetoed.append(self._scores[root])
            case OrderRequested(intent=intent, reason=reason) as request:
                if intent == "entry":
                    self.entries += 1
                    self._asked[request.signal_id] = request
                elif intent == "exit":
                    self.exits[reason] += 1
            case RiskDecided(is_allowed=False, rule=rule):
                self.refusals[f"risk:{rule}"] += 1
            case FillAssumed() as fill:
                self._fill(fill)
            case OrderExpired(root=root, signal_id=id):
                held = self.positions.get(root)
                if held is not None and held.is_unknown and held.entry_signal_id == id:
                    del self.positions[root]
            case ActorRestarted(actor=actor):
                self.restarts[actor] += 1
            case SessionStopped() | SafeStopRequested():
                self._ends[envelope.type] += 1
            case SessionOpened() as opened:
                self.opened = opened
            case OrderAmbiguous() as outcome:
                self.outcomes["OrderAmbiguous"] += 1
                self._suspect(outcome, envelope.ts_ns)
            case StateCarried(positions=positions, orders=orders, realised_pnl=pnl):
                self.positions = {position.root: position for position in positions}
                self._asked = {order.signal_id: order for order in orders if order.intent == "entry"}
                self.realised_pnl = pnl
            case _:
                if envelope.source == "execution.http":
                    self.outcomes[envelope.type] += 1

    def _fill(self, fill: FillAssumed) -> None:
        if fill.intent == "exit":
            self.positions.pop(fill.root, None)
            self.realised_pnl += fill.pnl or 0
            self.closed_trades += 1
            return
        self.positions[fill.root] = Position(
            root=fill.root,
            contract=fill.contract,
            quantity=fill.quantity if fill.side == "buy" else -fill.quantity,
            price=fill.price,
            opened_ns=fill.ts,
            entry_signal_id=fill.signal_id,
        )

    def _suspect(self, outcome: OrderAmbiguous, ts: Nanos) -> None:
        """An entry that may have been received counts as held, as in Execution; an exit changes nothing."""
        entry = self._asked.get(outcome.signal_id)
        if entry is not None:
            self.positions[entry.root] = Position(
                root=entry.root,
                contract=entry.contract,
                quantity=entry.quantity if entry.side == "buy" else -entry.quantity,
                price=entry.reference_price,
                opened_ns=ts,
                entry_signal_id=entry.signal_id,
                is_unknown=True,
            )
