"""The alphabet of the journal: everything any actor acts on is one of these.

Events are facts in the past tense, immutable, with integer prices (1e-9) and UTC
nanoseconds. `@event` registers a class under its name with the version its payload
has in the journal; a changed payload bumps the version and brings an upcaster.

Who produces what: feed (market), bars (SliceClosed, LateTrade, what has stopped trading), roll
(RollDue, ContractRolled), strategy (VetoScored, SignalEvaluated, ShadowScored, RootHalted, OrderRequested), execution
(RiskDecided, RiskTripped, PositionUnwatched, OrderSubmitted, OrderExpired, FillAssumed, probes, the breaker;
requests of its own to flatten), execution.http (what an attempt or a probe came to), supervisor (crashes,
restarts), session (opening and end), operator (commands, reconciliation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal, TypeVar

import attrs
import numpy as np

from domain.bars import Bar, BarTable
from domain.gates import Gate
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract, RollPolicy, TradedRoot
from domain.market import TradeArray
from domain.orders import Intent, Order, OrderType, Side
from domain.outbox import BreakerState, OutboxMemory
from domain.populations import CarriedPercentile
from domain.positions import Position
from domain.risk import Command, RiskSettings, Switches
from domain.rolls import ContractVolume, RollSeam
from domain.sessions import Session
from domain.units import Nanos, Price
from domain.veto import ModelRecord

EVENT_TYPES: dict[str, type] = {}
"""Every event class by its name in the journal."""
EVENT_VERSIONS: dict[str, int] = {}
"""The payload version that this code writes."""

_T = TypeVar("_T", bound=type)


def event(*, version: int = 1) -> Callable[[_T], _T]:
    """Register an event class under its own name with its payload version."""

    def register(cls: _T) -> _T:
        EVENT_TYPES[cls.__name__] = cls
        EVENT_VERSIONS[cls.__name__] = version
        return cls

    return register


# ---------------------------------------------------------------- session


@event()
@attrs.frozen(kw_only=True)
class SessionOpened:
    """The first event of a file: everything its decisions depend on besides the market.

    `code_digest` is the sha256 of the program's own decision code, `config_digest` of the
    settings below; replay builds its machines from this event and the models it names.
    """

    session: Session
    segment: int
    mode: Literal["paper", "live"]
    is_demo: bool
    account: str
    clock: Literal["system", "feed"]
    seed: int
    version: str
    code_digest: str
    config_digest: str
    libraries: Mapping[str, str]
    strategy: StrategySettings
    risk: RiskSettings
    roots: tuple[TradedRoot, ...]
    contracts: tuple[ResolvedContract, ...]
    feed_start_ns: Nanos
    """Where the feed is asked to begin before any record is on file."""
    models: tuple[ModelRecord, ...] = ()
    """Of each traded root, in order; empty without the veto."""
    shadows: tuple[ModelRecord, ...] = ()
    """Models that are scored beside those and never act, of the roots that have one."""
    required_reference_feeds: tuple[str, ...] = ()
    """Such as `TLT_day`: entries wait for the last completed day bar of each."""
    mappings: tuple[ResolvedContract, ...] = ()
    """What ROOT.v.0 and ROOT.v.1 meant when the session opened: evidence for a roll, not what is traded."""


@attrs.frozen(kw_only=True)
class RootMemory:
    """What the strategy remembers of one root beyond its bars."""

    root: str
    bars_held: int
    """Decision bars closed since the fill bar; 0 on the fill bar or without a position."""
    cooldown_left: int
    last_exit_reason: str
    average_range: Price | None = None
    """At the decision of the entry that is held or under way, where its stop or target is counted in it."""
    was_short: bool = False
    """The side of the position that was closed last."""


@event()
@attrs.frozen(kw_only=True)
class RollDue:
    """Decided at a session's open: the session is the last in which `root` trades `from_contract`, or holds it.

    `to_contract` is traded from the next open on; None where none is resolved and the old one must be left anyway.
    """

    root: str
    from_contract: str
    to_contract: str | None
    rule: str
    """The root's rule, `last_trade_session`, or `held`: a position that outlived its contract's turn."""
    evidence: str
    policy: RollPolicy
    close_ns: Nanos | None
    """When a position in `from_contract` is closed; None while the policy holds it."""


@event()
@attrs.frozen(kw_only=True)
class RootReset:
    """Bars of `root` that start before `since` are not whole: its open bars, windows and feature inputs start anew.

    Positions and exits stay; entries wait until the counts of bars are reached again.
    """

    root: str
    since: Nanos
    reason: str


@event()
@attrs.frozen(kw_only=True)
class StateCarried:
    """What the session before (or its earlier segment) left: the last opening event of a file."""

    previous_session: str | None
    previous_segment: int | None
    previous_head: str | None
    """Hex chain head of the file before."""
    previous_file_sha256: str | None
    positions: tuple[Position, ...] = ()
    orders: tuple[Order, ...] = ()
    realised_pnl: Decimal = Decimal(0)
    """Of this session only: zero unless an earlier segment of the same session has traded."""
    switches: Switches | None = None
    """None in the first session ever: `mode: live` then starts disabled."""
    outbox: OutboxMemory = OutboxMemory()
    tripped: str = ""
    """The rule that has ended the entries of this session."""
    unconfirmed: tuple[str, ...] = ()
    """Roots whose position a crash left to be confirmed by the operator."""
    unreconciled: tuple[str, ...] = ()
    """Sessions (ISO dates) with orders that no broker's report has been compared with."""
    open_minutes: tuple[Bar, ...] = ()
    open_hours: tuple[Bar, ...] = ()
    open_days: tuple[Bar, ...] = ()
    watermark_ns: Nanos = Nanos(0)
    memories: tuple[RootMemory, ...] = ()
    percentiles: tuple[CarriedPercentile, ...] = ()
    """What the models' percentile populations have taken in since the end of training."""
    contracts: tuple[ResolvedContract, ...] = ()
    """The contracts that the session before traded."""
    rolls: tuple[RollDue, ...] = ()
    """Due at the open of the session before; of an earlier segment: of this session."""
    volumes: tuple[ContractVolume, ...] = ()
    """Of the session before, front and next contract of each root; of an earlier segment: of this one so far."""
    seams: tuple[RollSeam, ...] = ()
    """Front and next contract of each root at the last minute in which both traded."""
    resume_ts_event: Nanos | None = None
    resume_records: str = ""
    """Base64 of the raw records with ts_event >= resume_ts_event - 2 s: what a replay repeats."""
    resets: tuple[RootReset, ...] = ()
    """Of this session's earlier segments, the last one of each root."""
    halted: tuple[str, ...] = ()
    """Roots whose evaluation has failed in an earlier segment of this session, or that have not been closed since."""


@event()
@attrs.frozen(kw_only=True)
class HistoryLoaded:
    """Completed hour and day bars that warm the strategy up, so that the file replays alone."""

    tables: tuple[BarTable, ...]
    seams: tuple[RollSeam, ...] = ()
    """Where the tables' last contract is not the one the session trades."""
    source: str = "none"


@event()
@attrs.frozen(kw_only=True)
class SessionStopped:
    """The process stopped in order in mid-session; the file goes on at the next start."""

    reason: str
    positions: tuple[Position, ...] = ()
    """Left open on purpose."""


@event()
@attrs.frozen(kw_only=True)
class SessionClosed:
    """The last event of a finished session: what the file holds."""

    events: int
    decisions: int
    orders: int
    head: str
    """Hex chain head before this event."""


# ----------------------------------------------------------------- market


@event()
@attrs.frozen(kw_only=True)
class TradesReceived:
    """A batch of raw trade records in arrival order, cut at minute boundaries and 4,096 records."""

    trades: TradeArray = attrs.field(eq=attrs.cmp_using(eq=np.array_equal), repr=lambda a: f"<{len(a)} trades>")


@event()
@attrs.frozen(kw_only=True)
class SymbolMapped:
    """The vendor's id of a contract for this session."""

    root: str
    contract: str
    rank: int
    instrument_id: int


@event()
@attrs.frozen(kw_only=True)
class FeedStatusChanged:
    """The feed's condition; entries are allowed only while it is `live`.

    `gap`: records between the last one on file and now cannot be had any more.
    """

    status: Literal["live", "reconnecting", "stale", "gap"]
    reason: str


@event()
@attrs.frozen(kw_only=True)
class RootStatusChanged:
    """One root's condition: nothing that reads a `stale` one is entered. `reason` is empty when it is live again."""

    root: str
    status: Literal["live", "stale"]
    reason: str


@event()
@attrs.frozen(kw_only=True)
class MarketStatusChanged:
    """`market_silent`: the feed is live, the market is open, and no root has traded since `since`.

    An exchange halt looks like this: heartbeats go on. The next trade ends it.
    """

    status: Literal["trading", "market_silent"]
    since: Nanos


@event()
@attrs.frozen(kw_only=True)
class ClockTicked:
    """Time for the machines: `ts` drives deadlines, minutes close up to `watermark`."""

    ts: Nanos
    watermark: Nanos


@event()
@attrs.frozen(kw_only=True)
class SliceClosed:
    """The bars that closed at `ts`, one slice per stamp: each tuple in order of root, then contract."""

    ts: Nanos
    minutes: tuple[Bar, ...] = ()
    hours: tuple[Bar, ...] = ()
    days: tuple[Bar, ...] = ()


@event()
@attrs.frozen(kw_only=True)
class LateTrade:
    """Trades for a minute that had already closed: recorded, never an edit of the bar."""

    root: str
    contract: str
    minute_start: Nanos
    trades: int
    volume: int


# -------------------------------------------------------------- decisions

Verdict = Literal["enter", "exit", "hold", "refuse"]


@event()
@attrs.frozen(kw_only=True)
class SignalEvaluated:
    """One root's decision bar: IBS, every gate's value and verdict, and why there was no trade.

    `ts` is the bar's end, `bar_start` its start. `reason` is the exit's reason, or the first
    refusing gate's, or empty when it entered.
    """

    root: str
    contract: str
    ts: Nanos
    bar_start: Nanos
    close: Price
    ibs: float
    gates: tuple[Gate, ...]
    probability: float | None
    threshold: float | None
    position: int
    verdict: Verdict
    reason: str


@event()
@attrs.frozen(kw_only=True)
class VetoScored:
    """What a root's model said at one decision bar: `bias + sum(contributions) = probability` within 1e-12.

    Only where no input was missing. `values` and `contributions` are in the order of the model's
    features, which `SessionOpened.models` names. It comes right before the bar's SignalEvaluated.
    """

    root: str
    ts: Nanos
    """The bar's end."""
    digest: str
    """Of the model that scored."""
    values: tuple[float, ...]
    carried: tuple[str, ...]
    """Features in which another root's last close stands for hours without a trade."""
    probability: float
    threshold: float
    is_passed: bool
    bias: float
    contributions: tuple[float, ...]


@event()
@attrs.frozen(kw_only=True)
class ShadowScored:
    """What a root's shadow model said at one decision bar, right after the bar's SignalEvaluated. Nothing acts on it.

    Of every decision bar: where it could not score, `reason` and `detail` say why and the numbers are missing.
    """

    root: str
    ts: Nanos
    """The bar's end."""
    digest: str
    """Of the shadow."""
    is_passed: bool
    reason: str
    """As the veto's gate would refuse; empty when it passes."""
    detail: str = ""
    probability: float | None = None
    threshold: float | None = None
    values: tuple[float, ...] = ()
    """In the order of the model's features, which `SessionOpened.shadows` names; the contributions too."""
    carried: tuple[str, ...] = ()
    bias: float | None = None
    contributions: tuple[float, ...] = ()


@event()
@attrs.frozen(kw_only=True)
class RootHalted:
    """Evaluating `root` raised `error`: nothing more is evaluated of it in this session, and what it holds is closed.

    Every other root goes on. Its entries stay disabled until the operator says `enable`.
    """

    root: str
    error: str


@event()
@attrs.frozen(kw_only=True)
class OrderRequested:
    """The strategy wants a trade. `reference_price` is the last close; `reason` says why."""

    root: str
    signal_id: str
    contract: str
    intent: Intent
    side: Side
    quantity: int
    order_type: OrderType
    limit_price: Price | None
    reference_price: Price
    decided_ns: Nanos
    """End of the bar, or the deadline, that decided it: the payload's `time`."""
    bar_ns: Nanos
    """Length of the decision bar (0 for a deadline)."""
    reason: str
    ibs: float | None = None
    probability: float | None = None
    threshold: float | None = None
    entry_signal_id: str | None = None
    bars_held: int | None = None
    pnl_assumed: Decimal | None = None
    stop_price: Price | None = None
    """Of an entry: a protective stop that rests at the broker."""
    target_price: Price | None = None
    """Of an entry: a target that rests at the broker."""
    cancels_working: bool = False
    """Of an exit: legs of a bracket may be working, and are cancelled with it."""
    is_flatten: bool = False
    """Of an exit: whichever side is held (an operator, a limit of the account), not the known side only."""


@event()
@attrs.frozen(kw_only=True)
class RiskDecided:
    """The gate's answer to a request; a refusal names its rule and the numbers it saw."""

    root: str
    signal_id: str
    is_allowed: bool
    rule: str
    detail: str


# -------------------------------------------------------------- execution


@event()
@attrs.frozen(kw_only=True)
class RiskTripped:
    """A limit of the account was reached: no entries until the session ends; `flatten` closes what is held."""

    rule: str
    detail: str
    action: Literal["flatten", "block"]


@event()
@attrs.frozen(kw_only=True)
class PositionUnwatched:
    """The market of what is held in `root` has not been seen since `since`: its stops and exits stand still."""

    root: str
    contract: str
    quantity: int
    """Signed contracts."""
    since: Nanos
    reason: str


@event()
@attrs.frozen(kw_only=True)
class OrderSubmitted:
    """An attempt that may leave the process once this event is on disk. `body` is sent byte for byte."""

    root: str
    signal_id: str
    attempt: int
    ticker: str
    body: str
    body_sha256: str
    intent: Intent = "entry"
    expires_ns: Nanos | None = None
    """An entry's limit: looked at once more just before the write."""


@event()
@attrs.frozen(kw_only=True)
class OrderAccepted:
    """TradersPost answered 2xx `success: true`: received, not filled."""

    root: str
    signal_id: str
    attempt: int
    http_status: int
    external_id: str


@event()
@attrs.frozen(kw_only=True)
class OrderRejected:
    """TradersPost refused the message: nothing was traded. `code` is its messageCode."""

    root: str
    signal_id: str
    attempt: int
    http_status: int
    code: str
    message: str


@event()
@attrs.frozen(kw_only=True)
class OrderAmbiguous:
    """The attempt may or may not have been received."""

    root: str
    signal_id: str
    attempt: int
    cause: str


@event()
@attrs.frozen(kw_only=True)
class OrderNotSent:
    """The attempt provably never reached TradersPost, or was answered 429: it may be tried again."""

    root: str
    signal_id: str
    attempt: int
    cause: str
    retry_after_s: float | None = None
    is_throttled: bool = False
    """Answered 429: TradersPost is well, we are too fast."""
    is_held_back: bool = False
    """We did not write it: its limit or a kill had come before the first byte."""


@event()
@attrs.frozen(kw_only=True)
class OrderExpired:
    """The order ended without a fill: its time limit or its cancelAfter passed."""

    root: str
    signal_id: str
    reason: str


@event()
@attrs.frozen(kw_only=True)
class ExitOverdue:
    """An exit has not been accepted for minutes: said again every five."""

    root: str
    signal_id: str
    attempts: int
    since_ns: Nanos
    """When it was decided."""


@event()
@attrs.frozen(kw_only=True)
class ProbeSubmitted:
    """A message that cannot trade, to learn whether TradersPost answers again. Sent once it is on disk."""

    ordinal: int
    body: str


@event()
@attrs.frozen(kw_only=True)
class ProbeAnswered:
    """`is_up`: it was refused as a message that cannot trade must be."""

    ordinal: int
    is_up: bool
    detail: str


@event()
@attrs.frozen(kw_only=True)
class BreakerChanged:
    """Entries leave only while it is closed. `hard_open`: the webhook itself is refused (password, address)."""

    state: BreakerState
    reason: str


@event()
@attrs.frozen(kw_only=True)
class FillAssumed:
    """A fill by rule, not by a broker's report. `quantity` is unsigned; `ts` is the trade's ts_recv."""

    root: str
    signal_id: str
    contract: str
    intent: Intent
    side: Side
    quantity: int
    price: Price
    ts: Nanos
    rule: str
    pnl: Decimal | None
    """Net P&L of the closed position; None for an entry."""


# ------------------------------------------------------- rolls, supervision


@event()
@attrs.frozen(kw_only=True)
class ContractRolled:
    """From this session on `root` trades `to_contract`. `difference` shifts older bars; None: history ends."""

    root: str
    from_contract: str
    to_contract: str
    rule: str
    evidence: str
    difference: Price | None


@event()
@attrs.frozen(kw_only=True)
class ActorCrashed:
    """An actor died while handling `at_seq`."""

    actor: str
    at_seq: int
    error: str


@event()
@attrs.frozen(kw_only=True)
class ActorRestarted:
    """A new incarnation caught up to `at_seq` and goes on. Actor `process` is the whole program."""

    actor: str
    incarnation: int
    at_seq: int
    is_degraded: bool = False
    """Of the process, with money: it failed so often in this session that entries are halted until `resume`."""


@event()
@attrs.frozen(kw_only=True)
class MessageSkipped:
    """`actor` goes on without the event at `seq`, which crashed it each time; so does every replay.

    The operator had allowed it. Entries are halted until `resume`: what is decided from here on lacks that event.
    """

    actor: str
    seq: int
    type: str
    error: str


@event()
@attrs.frozen(kw_only=True)
class EntriesClosed:
    """No entries until `EntriesOpened` (a stalled writer, an operator)."""

    reason: str


@event()
@attrs.frozen(kw_only=True)
class EntriesOpened:
    """Entries are allowed again."""

    reason: str


@event()
@attrs.frozen(kw_only=True)
class SafeStopRequested:
    """The process ends itself because going on would be less safe."""

    reason: str


@event()
@attrs.frozen(kw_only=True)
class CommandReceived:
    """An operator's command, effective from its place in the journal on.

    | command | argument |
    |---|---|
    | `enable`, `disable` | a root, or "" for all: entries, kept over sessions and crashes |
    | `halt`, `resume` | entries, all of them; kept over sessions and crashes too |
    | `kill` | "" stops entries, those already allowed too; "all" stops exits as well; `resume` ends both |
    | `flatten` | a root, or "" for all |
    | `stop` | "flatten", or "" to leave positions as they are |
    | `resolve` | a root; `quantity` is what the broker really holds, signed, 0 for flat |
    """

    command: Command
    argument: str = ""
    quantity: int | None = None
    reason: str = ""


@event()
@attrs.frozen(kw_only=True)
class PositionResolved:
    """The operator said what is held; it ends UNKNOWN and every order of the root that was unsettled."""

    root: str
    contract: str
    quantity: int
    """Signed contracts; 0 is flat."""
    price: Price
    """The last one known of the contract: what a difference is booked at."""
    reason: str


@event()
@attrs.frozen(kw_only=True)
class FillConfirmed:
    """A broker's report of a fill that had been assumed. It decides nothing."""

    root: str
    signal_id: str
    quantity: int
    price: Price
    assumed: Price | None
    source: str


@event()
@attrs.frozen(kw_only=True)
class SessionReconciled:
    """A session's fills were compared with a broker's report."""

    session: str
    source: str
    fills: int
    differences: int


Event = (
    SessionOpened
    | StateCarried
    | HistoryLoaded
    | SessionStopped
    | SessionClosed
    | TradesReceived
    | SymbolMapped
    | FeedStatusChanged
    | ClockTicked
    | SliceClosed
    | LateTrade
    | RootReset
    | RootStatusChanged
    | MarketStatusChanged
    | SignalEvaluated
    | VetoScored
    | ShadowScored
    | RootHalted
    | OrderRequested
    | RiskDecided
    | RiskTripped
    | PositionUnwatched
    | OrderSubmitted
    | OrderAccepted
    | OrderRejected
    | OrderAmbiguous
    | OrderNotSent
    | OrderExpired
    | ExitOverdue
    | ProbeSubmitted
    | ProbeAnswered
    | BreakerChanged
    | FillAssumed
    | RollDue
    | ContractRolled
    | ActorCrashed
    | ActorRestarted
    | MessageSkipped
    | EntriesClosed
    | EntriesOpened
    | SafeStopRequested
    | CommandReceived
    | PositionResolved
    | FillConfirmed
    | SessionReconciled
)

Outcome = OrderAccepted | OrderRejected | OrderAmbiguous | OrderNotSent
"""What an attempt can come to."""

HTTP_SOURCE = "execution.http"
"""Source of what an attempt or a probe has come to; its cause is what was sent."""
SUPERVISION_TYPES = frozenset(
    {"ActorCrashed", "ActorRestarted", "FeedStatusChanged", "MessageSkipped", "SafeStopRequested", "SessionStopped"}
)
"""Events about the running of the program: they may differ between two runs of the same market."""
