"""A journal's file as the market of a backtest: its bars, contracts and history, and what became of its orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from actors.strategy import adjusted_tables
from domain.backtest import MarketSession, OrderKey, RecordedOutcome, RootBars
from domain.bars import Bar, BarTable
from domain.envelope import Envelope
from domain.errors import JournalUnreadable
from domain.events import (
    ContractRolled,
    FillAssumed,
    FillConfirmed,
    HistoryLoaded,
    OrderExpired,
    OrderRejected,
    OrderRequested,
    RiskDecided,
    RollDue,
    SessionOpened,
    SliceClosed,
    StateCarried,
)
from domain.history import Rows
from domain.orders import Order
from domain.units import SECOND, Nanos, Price

READ = frozenset(
    {
        "SessionOpened",
        "HistoryLoaded",
        "StateCarried",
        "ContractRolled",
        "RollDue",
        "SliceClosed",
        "OrderRequested",
        "RiskDecided",
        "OrderRejected",
        "OrderExpired",
        "FillAssumed",
        "SessionStopped",
        "SessionClosed",
    }
)
"""Types of the events that are looked at."""


@attrs.define
class _Found:
    confirmed: Mapping[str, Price]
    opened: SessionOpened | None = None
    history: HistoryLoaded = attrs.field(factory=lambda: HistoryLoaded(tables=()))
    carried: StateCarried | None = None
    orders: list[Order] = attrs.field(factory=list)
    """Taken over unfinished."""
    rolled: list[ContractRolled] = attrs.field(factory=list)
    due: list[RollDue] = attrs.field(factory=list)
    slices: list[SliceClosed] = attrs.field(factory=list)
    late: set[Nanos] = attrs.field(factory=set)
    requests: dict[str, OrderKey] = attrs.field(factory=dict)
    """By signal id."""
    outcomes: dict[OrderKey, list[RecordedOutcome]] = attrs.field(factory=dict)
    since_slice: list[tuple[OrderKey, RecordedOutcome]] = attrs.field(factory=list)
    """Ends of orders that no slice has come after."""


def confirmed_fills(envelopes: Iterable[Envelope]) -> dict[str, Price]:
    """What a broker has reported, by signal id: often on record in a later session than the fill."""
    payloads = (envelope.payload for envelope in envelopes)
    return {each.signal_id: each.price for each in payloads if isinstance(each, FillConfirmed)}


def recorded_session(
    envelopes: Iterable[Envelope], *, with_fills: bool, confirmed: Mapping[str, Price] = MappingProxyType({})
) -> MarketSession:
    """The session of one file. `with_fills`: its orders end as they did, otherwise as the bars say.

    `confirmed`: the `confirmed_fills` of this file and of those after it.
    Raises JournalUnreadable for a file that does not begin with SessionOpened.
    """
    found, until = _Found(confirmed=confirmed), Nanos(0)
    for envelope in envelopes:
        _take(found, envelope)
        until = envelope.ts_ns
    for key, outcome in found.since_slice:
        found.outcomes[key].append(outcome)
    opened, carried = found.opened, found.carried
    if opened is None or carried is None:
        raise JournalUnreadable("the file holds no session")
    return MarketSession(
        opened=opened,
        bars=_bars(found, opened),
        rolls=tuple(found.due),
        carried=carried.percentiles,
        memories=carried.memories,
        positions=carried.positions,
        orders=tuple(found.orders) if with_fills else (),
        is_continued=carried.previous_session == opened.session.date.isoformat(),
        until_ns=until,
        late=frozenset(found.late),
        outcomes=found.outcomes if with_fills else None,
    )


def _take(found: _Found, envelope: Envelope) -> None:
    match envelope.payload:
        case SliceClosed() as closed:
            found.slices.append(closed)
            # What is on record before the slice is known in it, whatever the clock said: as it was live.
            for key, outcome in found.since_slice:
                found.outcomes[key].append(attrs.evolve(outcome, known_ns=closed.ts))
            found.since_slice.clear()
            opened = found.opened
            if opened is not None and envelope.ts_ns - closed.ts > opened.risk.entry_freshness_s * SECOND:
                found.late.add(closed.ts)
        case OrderRequested() as request:
            _await(found, request)
        case FillAssumed(signal_id=signal_id) as fill:
            confirmed = found.confirmed.get(signal_id)
            outcome = RecordedOutcome(known_ns=envelope.ts_ns, price=fill.price, ts=fill.ts, confirmed=confirmed)
            _end(found, signal_id, outcome)
        case RiskDecided(is_allowed=False, signal_id=signal_id):
            _end(found, signal_id, RecordedOutcome(known_ns=envelope.ts_ns))
        case OrderRejected(signal_id=signal_id) | OrderExpired(signal_id=signal_id):
            _end(found, signal_id, RecordedOutcome(known_ns=envelope.ts_ns))
        case SessionOpened() as opened:
            found.opened = opened
        case HistoryLoaded() as history:
            found.history = history
        case StateCarried() as carried:
            found.carried = carried
            # An exit that only waits for its repeat is over.
            found.orders += [each for each in carried.orders if not each.state.is_final and each.filled_ns is None]
            for order in found.orders:
                _await(found, order)
        case ContractRolled() as rolled:
            found.rolled.append(rolled)
        case RollDue() as due:
            found.due.append(due)
        case _:
            pass


def _await(found: _Found, order: OrderRequested | Order) -> None:
    key = (order.root, order.intent, order.decided_ns)
    found.requests[order.signal_id] = key
    found.outcomes.setdefault(key, [])


def _end(found: _Found, signal_id: str, outcome: RecordedOutcome) -> None:
    """The end of an order that is waited for; only the first one counts (an exit is sent once more)."""
    key = found.requests.pop(signal_id, None)
    if key is not None:
        found.since_slice.append((key, outcome))


def _bars(found: _Found, opened: SessionOpened) -> dict[str, RootBars]:
    """Of each root's active contract, as the engine reads them."""
    active = {c.root: c.raw_symbol for c in opened.contracts if c.rank == 0 and c.raw_symbol is not None}
    rolled = {roll.root: roll.from_contract for roll in found.rolled}
    tables = adjusted_tables(found.history.tables, found.rolled)
    bars = {}
    for root, contract in active.items():
        close_ns = opened.session.hours_of(root).close_ns
        bars[root] = RootBars(
            minutes=_rows(root, (bar for closed in found.slices for bar in closed.minutes if bar.contract == contract)),
            hours=_rows(root, (bar for closed in found.slices for bar in closed.hours if bar.contract == contract)),
            days=_rows(
                root,
                (
                    bar
                    for closed in found.slices
                    for bar in closed.days
                    if bar.contract == contract and bar.ts_end == close_ns
                ),
            ),
            history=tuple(table for table in tables if table.root == root),
            rolled_from=rolled.get(root),
        )
    return bars


def _rows(root: str, bars: Iterable[Bar]) -> Rows:
    return BarTable.of_bars(root, "1m", bars).data
