"""What the Execution machine knows: the session, its account, and what stands in the way of an entry.

Settings, switches and lines are remembered from events; positions are `Holdings`, orders on their
way an `Outbox`. From these comes what the risk gate is shown.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import attrs

from actors.holdings import Holdings
from actors.outbox import Outbox
from domain.errors import OurError
from domain.events import (
    ActorRestarted,
    EntriesClosed,
    EntriesOpened,
    Event,
    FeedStatusChanged,
    HistoryLoaded,
    MarketStatusChanged,
    MessageSkipped,
    OrderRequested,
    RollDue,
    RootHalted,
    RootStatusChanged,
    SessionOpened,
    SessionReconciled,
    SessionStopped,
    StateCarried,
    SymbolMapped,
)
from domain.features import required_inputs
from domain.instruments import TradedRoot
from domain.optional_gates import gate_inputs
from domain.orders import Intent, Order, Side, signal_id
from domain.risk import EntryQuestion, RiskState, Switches
from domain.units import Nanos


class Account:
    """One session's account, in the hands of one machine."""

    def __init__(self) -> None:
        self.opened: SessionOpened | None = None
        self.roots: dict[str, TradedRoot] = {}
        self.active: dict[str, str] = {}
        """The traded contract by root."""
        self.last_trade_sessions: dict[str, dt.date | None] = {}
        """By contract of this session; None where it is not known."""
        self.roll_closes: dict[str, Nanos] = {}
        """When a position in a contract that is left is closed."""
        self.instrument_ids: dict[str, int] = {}
        self.holdings = Holdings()
        self.outbox = Outbox()
        self.switches = Switches()
        self.is_feed_live = False
        self.feed_down_ns: Nanos | None = None
        self.stale: dict[str, tuple[Nanos, str]] = {}
        """Roots whose market cannot be seen: since when, and why."""
        self.is_market_silent = False
        self.are_entries_open = True
        self.tripped = ""
        """The rule that has ended this session's entries, or empty."""
        self.was_stopped = True
        """The program's last end was in order."""
        self.is_stopping = False
        """`stop` was commanded: nothing is entered while the rest is brought to its end."""
        self.halted: frozenset[str] = frozenset()
        """Roots that the strategy cannot evaluate any more: theirs is closed here."""
        self.unconfirmed: frozenset[str] = frozenset()
        """Roots whose position a crash left to be confirmed."""
        self.unreconciled: tuple[str, ...] = ()
        """Sessions before this file with orders that no report was compared with."""
        self.has_traded = False
        """An order of this file may have reached TradersPost."""
        self.now = Nanos(0)
        self._own_ordinals: dict[tuple[str, str, Intent, Side], tuple[Nanos, int]] = {}

    # ------------------------------------------------------------- opening

    def remember(self, event: Event) -> None:
        match event:
            case SessionOpened() as opened:
                self.opened = opened
                self.roots = {root.root: root for root in opened.roots}
                traded = {root.root for root in opened.roots if not root.is_reference}
                front = (c for c in opened.contracts if c.rank == 0 and c.root in traded)
                self.active = {c.root: c.raw_symbol for c in front if c.raw_symbol}
                self.last_trade_sessions = {
                    c.raw_symbol: c.last_trade_session for c in opened.contracts if c.raw_symbol
                }
                self.holdings.use(opened.roots)
                self.switches = Switches(is_enabled=opened.mode != "live")
            case HistoryLoaded(tables=tables):
                self.holdings.use_history(tables)
            case StateCarried() as carried:
                self._take_over(carried)
            case RollDue(from_contract=contract, close_ns=close_ns) if close_ns is not None:
                self.roll_closes[contract] = close_ns
            case SymbolMapped(contract=contract, instrument_id=instrument_id):
                self.instrument_ids[contract] = instrument_id
            case FeedStatusChanged(status=status):
                self.is_feed_live = status == "live"
                self.feed_down_ns = None if self.is_feed_live else self.feed_down_ns or self.now
                if status == "gap":
                    self._lose_sight()
            case RootStatusChanged() as changed:
                self.stale.pop(changed.root, None)
                if changed.status == "stale":
                    self.stale[changed.root] = (self.now, changed.reason)
            case MarketStatusChanged(status=status):
                self.is_market_silent = status == "market_silent"
            case EntriesClosed():
                self.are_entries_open = False
            case EntriesOpened():
                self.are_entries_open = True
            case RootHalted(root=root):
                self.halted |= {root}
                self.switches = self.switches.commanded("disable", root, self.roots)
            case MessageSkipped():
                self.switches = attrs.evolve(self.switches, is_halted=True)
            case SessionStopped():
                self.was_stopped = True
            case ActorRestarted(actor="process", is_degraded=is_degraded):
                self._after_restart()
                if is_degraded:
                    self.switches = attrs.evolve(self.switches, is_halted=True)
            case SessionReconciled(session=session):
                self.unreconciled = tuple(date for date in self.unreconciled if date != session)
            case _:
                pass

    def _lose_sight(self) -> None:
        """Trades are missing for good: a limit entry that was working may have been filled by one of them."""
        for order in self.outbox.orders:
            if order.is_filling and order.order_type == "limit":
                self.outbox.keep(attrs.evolve(order, is_touched=True))

    def _take_over(self, carried: StateCarried) -> None:
        self.holdings.restore(carried.positions, carried.realised_pnl)
        self.outbox.restore(carried.orders, carried.outbox, self.now)
        self.switches = carried.switches or self.switches
        self.tripped = carried.tripped
        self.halted = frozenset(carried.halted)
        self.unconfirmed = frozenset(carried.unconfirmed)
        self.unreconciled = carried.unreconciled
        self.was_stopped = False

    def _after_restart(self) -> None:
        """With money, nobody enters after a crash before the operator has looked at what is held."""
        if not self.was_stopped and self.opened is not None and self.opened.mode == "live":
            entering = {order.root for order in self.outbox.orders if order.intent == "entry"}
            self.unconfirmed |= self.holdings.positions.keys() | entering
        self.was_stopped = self.is_stopping = False
        self.are_entries_open = True

    @property
    def session(self) -> SessionOpened:
        if self.opened is None:
            raise OurError("the session has not been opened")
        return self.opened

    def unwatched(self, root: str) -> tuple[Nanos, str] | None:
        """Since when, and why, the market of what is held in `root` cannot be seen; None when it can."""
        blind = [] if self.feed_down_ns is None else [(self.feed_down_ns, "the feed is not live")]
        if root in self.stale:
            blind.append(self.stale[root])
        return min(blind, default=None)

    def stale_input(self, root: str) -> str:
        """The first stale root that a decision on `root` reads, with its reason; empty when there is none."""
        if not self.stale:
            return ""
        model = next((model for model in self.session.models if model.root == root and not model.refusal), None)
        pair = self.roots[root].pair if root in self.roots else None
        inputs = gate_inputs(self.session.strategy.of(root), pair=pair)
        if model is not None:
            inputs += required_inputs(model.features, model.feature_set, pair=pair)
        reads = [root, *(need.root for need in inputs if need.root is not None)]
        return next((f"{read} is stale: {self.stale[read][1]}" for read in reads if read in self.stale), "")

    def may_be_working(self, root: str) -> bool:
        """A limit entry, or the legs of one: an exit that left it there would be followed by a position."""
        entries = (order for order in self.outbox.of_root(root) if order.intent == "entry" and order.attempt)
        return any(
            order.order_type == "limit" or order.stop_price is not None or order.target_price is not None
            for order in entries
        )

    def question(self, request: OrderRequested, now: Nanos) -> EntryQuestion:
        closes = self.roll_closes.get(request.contract)
        return EntryQuestion(
            root=request.root,
            quantity=request.quantity,
            price=request.reference_price if request.limit_price is None else request.limit_price,
            last_price=self.holdings.last_price(request.contract),
            age_ns=now - request.decided_ns,
            to_close_ns=self.session.session.hours_of(request.root).close_ns - now,
            margin_usd=self.holdings.margin_of(request.root, request.quantity),
            is_active_contract=self.active.get(request.root) == request.contract,
            last_trade_session=self.last_trade_sessions.get(request.contract),
            to_roll_close_ns=None if closes is None else closes - now,
            reverses=self.is_reversal(request),
            stale=self.stale_input(request.root),
        )

    def is_reversal(self, request: OrderRequested) -> bool:
        """The other side of a position whose full exit the same decision has asked for."""
        held = self.holdings.positions.get(request.root)
        is_other_side = held is not None and not held.is_unknown and (held.quantity > 0) == (request.side == "sell")
        exits = (o for o in self.outbox.of_root(request.root) if o.intent == "exit")
        return is_other_side and any(order.decided_ns == request.decided_ns for order in exits)

    def risk_state(self) -> RiskState:
        occupied = {root: abs(held.quantity) for root, held in self.holdings.positions.items()}
        for order in self.outbox.orders:
            if order.intent == "entry":
                occupied[order.root] = max(order.quantity, occupied.get(order.root, 0))
        margins = (self.holdings.margin_of(root, contracts) for root, contracts in occupied.items())
        return RiskState(
            switches=self.switches,
            is_feed_live=self.is_feed_live,
            are_entries_open=self.are_entries_open and not self.is_stopping,
            breaker=self.outbox.breaker,
            tripped=self.tripped,
            occupied=occupied,
            session_date=self.session.session.date,
            is_live=self.session.mode == "live",
            unknown_roots=frozenset(root for root, held in self.holdings.positions.items() if held.is_unknown),
            unconfirmed=self.unconfirmed,
            unreconciled_days=unreconciled_days(self.session, self.unreconciled),
            margin_usd=sum((margin for margin in margins if margin is not None), Decimal(0)),
            entries_last_hour=self.outbox.entries_last_hour(self.now),
            is_market_silent=self.is_market_silent,
        )

    def may_leave(self, order: Order) -> bool:
        """Limit and switches are asked again before every attempt: what held at the request may be long ago."""
        if order.intent != "entry":
            return self.switches.kill != "all"
        is_in_time = order.expires_ns is None or self.now < order.expires_ns
        return (
            is_in_time
            and self.switches.kill == "off"
            and self.are_entries_open
            and not self.is_stopping
            and self.is_feed_live
            and not self.is_market_silent
            and not self.stale_input(order.root)
            and self.outbox.breaker == "closed"
            and not self.tripped
            and order.root not in self.holdings.positions
            and order.root not in self.halted
        )

    def own_signal_id(self, root: str, contract: str, intent: Intent, side: Side) -> str:
        """The id of what this machine decides itself; in one moment it may do so more than once."""
        key = (root, contract, intent, side)
        moment, ordinal = self._own_ordinals.get(key, (None, 0))
        ordinal = ordinal + 1 if moment == self.now else 0
        self._own_ordinals[key] = (self.now, ordinal)
        return signal_id(
            session=self.session.session.date.isoformat(),
            strategy="execution",
            root=root,
            contract=contract,
            intent=intent,
            side=side,
            decided_ns=self.now,
            ordinal=ordinal,
        )


def unreconciled_days(session: SessionOpened, dates: tuple[str, ...]) -> int:
    """How old the oldest of `dates` is, sessions that no broker's report was compared with; 0 where no money is."""
    if session.mode != "live" or not dates:
        return 0
    return (session.session.date - dt.date.fromisoformat(min(dates))).days
