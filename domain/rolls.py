"""Rolls: which contract a root trades, and when it moves to the next.

A roll takes effect at a session's open only. It is decided at the open before: the rule of the
root says that it is due, positions in the old contract end by the root's policy, and the next
session trades the next contract. History across it is shifted by the journaled price difference
of the two contracts; without a known difference the root's history ends there and its warm-up
starts again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence

import attrs

from domain.gates import auto_close_deadline
from domain.ibs import StrategySettings
from domain.instruments import HELD_RANK, ContractName, ResolvedContract, TradedRoot, parse_contract
from domain.sessions import Session
from domain.units import HOUR, MINUTE, Nanos, Price

LAST_TRADE_RULE = "last_trade_session"
"""Stands in for the root's own rule where the contract must not be held any longer."""
LAST_TRADE_SESSIONS = 3
"""So many sessions before first notice or expiry, a contract is traded for the last time."""
_BEFORE_AUTO_CLOSE = HOUR
_AFTER_OPEN = MINUTE
"""Never in a session's first minute: its prices are those of nobody."""


@attrs.frozen(kw_only=True)
class RollSeam:
    """Where a root's history changes contracts: `difference` = new price - old price at `ts`."""

    root: str
    from_contract: str
    to_contract: str
    ts: Nanos
    difference: Price


@attrs.frozen(kw_only=True)
class ContractVolume:
    """Contracts traded in one session, as far as we have seen it."""

    contract: str
    volume: int


@attrs.frozen(kw_only=True)
class RollVerdict:
    """What the rule says at an open, and the numbers it has looked at."""

    is_due: bool
    rule: str
    evidence: str


# ------------------------------------------------------------- which contract


def front_contract(
    root: TradedRoot,
    date: dt.date,
    *,
    before: str | None,
    due_to: str | None,
    offered: Sequence[str | None],
    tradable: Collection[str],
) -> str | None:
    """The contract that a session trades.

    `before` is what the session before traded (None: the first one ever, or no longer to be had), `due_to` where its
    roll goes, `offered` the mappings of `ROOT.v.0` and `ROOT.v.1`, `tradable` what is not past its last trade session.
    Until a roll is due the vendor's mapping changes nothing, unless `before` must not be traded any more.
    """
    if due_to in tradable:
        return due_to
    if before in tradable:
        return before
    if before is None and offered[0] is None:
        return None
    # Never backwards: what the vendor ranks next may be the contract that was left.
    later = (raw for raw in offered if raw in tradable and (before is None or is_later(root, date, raw, before)))
    return next(later, before or offered[0])


def next_contract(root: TradedRoot, date: dt.date, front: str | None, offered: Sequence[str | None]) -> str | None:
    """What `front` would be rolled into: the first offered contract that expires later."""
    return next((raw for raw in offered if raw is not None and is_later(root, date, raw, front)), None)


def is_later(root: TradedRoot, date: dt.date, raw: str | None, than: str | None) -> bool:
    """Whether the contract `raw` expires after `than`; False where either is no contract of the data product."""
    one, other = (None if name is None else parse_contract(name, [root.data_product], date) for name in (raw, than))
    return one is not None and other is not None and _month(one) > _month(other)


def _month(name: ContractName) -> tuple[int, int]:
    return name.expiry.year, name.expiry.month


# -------------------------------------------------------------------- when


def judge_roll(
    root: TradedRoot,
    date: dt.date,
    *,
    front: ResolvedContract,
    following: ResolvedContract | None,
    mapped: str | None,
    volumes: Mapping[str, int],
) -> RollVerdict:
    """Whether `front` is left after the session of `date`.

    `following` is rank 1, `mapped` what `ROOT.v.0` means, `volumes` those of the session before by contract.
    """
    if front.last_trade_session is not None and date >= front.last_trade_session:
        evidence = f"last trade session of {front.raw_symbol} is {front.last_trade_session}"
        return RollVerdict(is_due=True, rule=LAST_TRADE_RULE, evidence=evidence)
    after = None if following is None else following.raw_symbol
    match root.roll_rule:
        case "volume":
            old, new = volumes.get(front.raw_symbol or "", 0), volumes.get(after or "", 0)
            is_due = new > old
            evidence = f"contracts in the session before: {after} {new}, {front.raw_symbol} {old}"
        case "calendar":
            is_due = front.roll_session is not None and date >= front.roll_session
            evidence = f"{front.raw_symbol} ends on {front.leave_date}, the roll is due on {front.roll_session}"
        case _:
            is_due = mapped is not None and mapped == after
            evidence = f"{root.data_product}.v.0 is {mapped}"
    if after is None:
        return RollVerdict(is_due=False, rule=root.roll_rule, evidence=f"{evidence}; no next contract is resolved")
    return RollVerdict(is_due=is_due, rule=root.roll_rule, evidence=evidence)


def close_time(
    root: TradedRoot, contract: ResolvedContract, session: Session, settings: StrategySettings
) -> Nanos | None:
    """When a position in `contract`, which is being left, is closed; None while the policy holds it.

    The hour before the auto-close begins it. A contract that the session does not trade any more, or must not,
    is closed as soon as the session's first minute is over; `hold_until_exit` waits for the last trade session.
    """
    if root.is_reference:
        return None
    hours = session.hours_of(root.root)
    first = Nanos(hours.open_ns + _AFTER_OPEN)
    last = contract.last_trade_session
    if last is not None and session.date > last:
        return first
    is_last = last is not None and session.date == last
    if root.roll_policy == "hold_until_exit" and not is_last:
        return None
    if contract.rank == HELD_RANK and root.roll_policy != "hold_until_exit":
        return first
    deadline = auto_close_deadline(settings, session.date, hours.close_ns)
    return max(first, Nanos(deadline - _BEFORE_AUTO_CLOSE))
