"""The table of `contracts`: what is traded, what comes next, when and why, from one session's record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from actors.contract_choice import dated
from actors.roll_supervisor import roll_verdict
from domain.envelope import Envelope
from domain.errors import JournalUnreadable
from domain.events import RollDue, SessionOpened, StateCarried
from domain.instruments import HELD_RANK, ResolvedContract, TradedRoot
from domain.ports import Calendar

HEADER = ("root", "active", "next", "last trade", "days to roll", "policy", "why")


@attrs.frozen(kw_only=True)
class ContractRow:
    """One root. `days_to_roll` are calendar days until a rule or the last trade session ends the active contract."""

    root: str
    active: str | None
    next: str | None
    last_trade_session: dt.date | None
    days_to_roll: int | None
    is_due: bool
    """Decided: the next session trades `next`."""
    policy: str
    rule: str
    evidence: str
    held: tuple[str, ...]
    """Older contracts that stay subscribed for a position or an order."""

    def words(self) -> tuple[str, ...]:
        """The row as text, in the order of HEADER."""
        days = "-" if self.days_to_roll is None else "past" if self.days_to_roll < 0 else str(self.days_to_roll)
        days = "next open" if self.is_due else days
        held = f"; also held: {', '.join(self.held)}" if self.held else ""
        last = "not known" if self.last_trade_session is None else str(self.last_trade_session)
        why = f"{self.rule}: {self.evidence}{held}"
        return self.root, self.active or "-", self.next or "-", last, days, self.policy, why


def contract_rows(
    envelopes: Iterable[Envelope], roots: Mapping[str, TradedRoot], calendar: Calendar, at: dt.date
) -> list[ContractRow]:
    """Rows of the session on record, its last segment; how a root rolls is taken from `roots`, where it is there."""
    opened: SessionOpened | None = None
    carried: StateCarried | None = None
    due: list[RollDue] = []
    for envelope in envelopes:
        match envelope.payload:
            case SessionOpened() as opened:
                due.clear()
            case StateCarried() as carried:
                pass
            case RollDue() as roll:
                due.append(roll)
            case _:
                pass
    if opened is None or carried is None:
        raise JournalUnreadable("the file holds no session")
    now = tuple(roots.get(root.root, root) for root in opened.roots)
    by_name = {root.root: root for root in now}
    contracts = tuple(dated(c, by_name[c.root], calendar, opened.session.date) for c in opened.contracts)
    opened = attrs.evolve(opened, contracts=contracts)
    return [_row(root, opened, carried, due, at) for root in now]


def _row(
    root: TradedRoot, opened: SessionOpened, carried: StateCarried, rolls: Sequence[RollDue], at: dt.date
) -> ContractRow:
    own = [contract for contract in opened.contracts if contract.root == root.root]
    front, following = (next((c for c in own if c.rank == rank), None) for rank in (0, 1))
    active = None if front is None else front.raw_symbol
    due = next((roll for roll in rolls if roll.root == root.root and roll.from_contract == active), None)
    verdict = roll_verdict(root, opened, carried)
    ends = [] if front is None else [date for date in (front.last_trade_session, front.roll_session) if date]
    return ContractRow(
        root=root.root,
        active=active,
        next=None if following is None else following.raw_symbol,
        last_trade_session=None if front is None else front.last_trade_session,
        days_to_roll=(min(ends) - at).days if ends else None,
        is_due=due is not None and due.to_contract is not None,
        policy="-" if root.is_reference else root.roll_policy,
        rule=due.rule if due is not None else root.roll_rule,
        evidence=due.evidence if due is not None else "not resolved" if verdict is None else verdict.evidence,
        held=tuple(_held(own)),
    )


def _held(contracts: Sequence[ResolvedContract]) -> Iterator[str]:
    return (c.raw_symbol for c in contracts if c.rank == HELD_RANK and c.raw_symbol is not None)
