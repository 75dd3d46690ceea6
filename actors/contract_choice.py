"""Which contracts a new session trades and subscribes to, and how long each may be traded.

A function of the vendor's mappings at the open and of what the session before has left: the contract it traded
and the rolls it found due. What comes out is written into `SessionOpened`; nothing is asked again later.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import attrs
import structlog

from actors.carry import Inheritance
from domain.errors import OperatorError
from domain.expiry import leave_date
from domain.instruments import HELD_RANK, ResolvedContract, TradedRoot, parse_contract
from domain.ports import Calendar
from domain.rolls import LAST_TRADE_SESSIONS, front_contract, next_contract
from domain.sessions import Session, to_nanos
from domain.units import Nanos

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class SessionContracts:
    """What `SessionOpened` says of contracts."""

    contracts: tuple[ResolvedContract, ...]
    """Front and next of each root, and every other contract in which something is still held or ordered."""
    mappings: tuple[ResolvedContract, ...]
    """What ROOT.v.0 and ROOT.v.1 mean."""


def asked_symbols(roots: tuple[TradedRoot, ...], left: Inheritance | None) -> list[str]:
    """What the feed is asked for at an open: two mappings of each root, and the contracts that may go on."""
    symbols = [f"{root.data_product}.v.{rank}" for root in roots for rank in (0, 1)]
    return symbols + sorted(name for name in {*_fronts(left).values(), *_due(left).values()} if name is not None)


def choose_contracts(
    roots: tuple[TradedRoot, ...],
    session: Session,
    *,
    mapped: Mapping[str, str],
    left: Inheritance | None,
    calendar: Calendar,
) -> SessionContracts:
    """The session's contracts; `mapped` is the raw symbol of everything asked for that the feed knows.

    Raises OperatorError when no root has a front contract.
    """
    fronts, due = _fronts(left), _due(left)
    contracts, mappings = [], []
    for root in roots:
        offered = [_own(root, mapped.get(f"{root.data_product}.v.{rank}"), session.date) for rank in (0, 1)]
        mappings += [_resolved(root, rank, raw) for rank, raw in enumerate(offered)]
        before = _own(root, fronts.get(root.root), session.date)
        goes_on = before if before in mapped or offered[0] is None else None
        due_to = due.get((root.root, before)) if due.get((root.root, before)) in mapped else None
        named = {raw: dated(_resolved(root, 0, raw), root, calendar, session.date)
                 for raw in (goes_on, due_to, *offered) if raw is not None}  # fmt: skip
        tradable = {raw for raw, one in named.items()
                    if one.last_trade_session is None or session.date <= one.last_trade_session}  # fmt: skip
        front = front_contract(root, session.date, before=goes_on, due_to=due_to, offered=offered, tradable=tradable)
        following = next_contract(root, session.date, front, offered)
        for rank, raw in ((0, front), (1, following)):
            if raw is None and not root.is_reference:
                log.warning("symbol not resolved", root=root.root, rank=rank)
            contracts.append(_resolved(root, rank, None) if raw is None else attrs.evolve(named[raw], rank=rank))
        if front is not None and named[front].last_trade_session is None and not root.is_reference:
            log.warning("last trade session not known: no entries with mode live", root=root.root, contract=front)
        if front is not None and front not in tradable:
            log.warning("past its last trade session, and no later contract to trade", root=root.root, contract=front)
    if not any(c.raw_symbol is not None for c in contracts if c.rank == 0):
        raise OperatorError(
            f"the feed resolves none of {', '.join(root.data_product for root in roots)}",
            where="symbols",
            fix="check that the gateway's data holds the contract map's feed symbols",
        )
    held, by_name = _held_besides(contracts, left), {root.root: root for root in roots}
    # What is held in a root that is not traded any more is refused where the file is created.
    old = (dated(c, by_name[c.root], calendar, session.date) if c.root in by_name else c for c in held)
    return SessionContracts(contracts=(*contracts, *old), mappings=tuple(mappings))


def dated(contract: ResolvedContract, root: TradedRoot, calendar: Calendar, date: dt.date) -> ResolvedContract:
    """`contract` with the dates of the contract that is ordered for it, which has the same month."""
    name = None if contract.raw_symbol is None else parse_contract(contract.raw_symbol, [root.data_product], date)
    if name is None:
        return contract
    ordered = attrs.evolve(name, product=root.order_product)
    leaves = leave_date(root.order_product, name.expiry)
    stated = dict(root.last_trade_sessions).get(ordered.ticker)
    last = roll = None
    if leaves is not None:
        last = _sessions_before(calendar, root, leaves, LAST_TRADE_SESSIONS)
        if root.roll_rule == "calendar":
            roll = _sessions_before(calendar, root, leaves, root.roll_sessions_before)
    if stated is not None:
        last = dt.date.fromisoformat(stated)
    return attrs.evolve(contract, leave_date=leaves, last_trade_session=last, roll_session=roll)


def _sessions_before(calendar: Calendar, root: TradedRoot, date: dt.date, count: int) -> dt.date:
    noon = to_nanos(dt.datetime.combine(date, dt.time(12), dt.UTC))
    session = calendar.session_of(noon, [root])
    for _ in range(count):
        session = calendar.session_of(Nanos(session.start_ns - 1), [root])
    return session.date


def _fronts(left: Inheritance | None) -> dict[str, str | None]:
    return {} if left is None else {c.root: c.raw_symbol for c in left.opened.contracts if c.rank == 0}


def _due(left: Inheritance | None) -> dict[tuple[str, str | None], str | None]:
    """By root and contract: where the roll goes that was due in the session before."""
    rolls = () if left is None else left.carried.rolls
    return {(roll.root, roll.from_contract): roll.to_contract for roll in rolls}


def _own(root: TradedRoot, raw: str | None, date: dt.date) -> str | None:
    """`raw` where it is an outright contract of the root's data product."""
    return raw if raw is not None and parse_contract(raw, [root.data_product], date) is not None else None


def _resolved(root: TradedRoot, rank: int, raw: str | None) -> ResolvedContract:
    return ResolvedContract(root=root.root, rank=rank, raw_symbol=raw)


def _held_besides(contracts: list[ResolvedContract], left: Inheritance | None) -> list[ResolvedContract]:
    """An old contract stays subscribed while something is held in it: its own bars drive stops and fills."""
    if left is None:
        return []
    known = {contract.raw_symbol for contract in contracts}
    held = {p.contract: p.root for p in left.carried.positions} | {o.contract: o.root for o in left.carried.orders}
    return [
        ResolvedContract(root=held[contract], rank=HELD_RANK, raw_symbol=contract)
        for contract in sorted(held)
        if contract not in known
    ]
