"""RollSupervisor's machine: at a session's open, which roots have moved, and which will at the next.

Everything it looks at is in the opening events: the vendor's mappings and the contracts with their dates in
`SessionOpened`; the volumes and the minutes that both contracts traded in, and the rolls that were due, in
`StateCarried`. A roll that is due is decided once; the next file's contracts follow it.
"""

from __future__ import annotations

from collections.abc import Iterator

from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import ContractRolled, Event, HistoryLoaded, RollDue, SessionOpened, StateCarried
from domain.instruments import HELD_RANK, ResolvedContract, TradedRoot
from domain.rolls import RollVerdict, close_time, judge_roll
from domain.units import Nanos


class RollSupervisor:
    """Implements `domain.ports.Machine`."""

    name = "roll"
    kinds = frozenset({"SessionOpened", "HistoryLoaded", "StateCarried"})

    def __init__(self) -> None:
        self._opened: SessionOpened | None = None
        self._history = HistoryLoaded(tables=())

    def handle(self, envelope: Envelope) -> tuple[Event, ...]:
        match envelope.payload:
            case SessionOpened() as opened:
                self._opened = opened
            case HistoryLoaded() as history:
                self._history = history
            case StateCarried() as carried:
                if self._opened is None:
                    raise OurError("StateCarried came before SessionOpened")
                return (*_rolled(self._opened, self._history, carried), *_due(self._opened, carried))
            case _:
                pass
        return ()

    def next_deadline(self) -> Nanos | None:
        """None: rolls are decided and take effect at a session's open only."""
        return None


def roll_verdict(root: TradedRoot, opened: SessionOpened, carried: StateCarried) -> RollVerdict | None:
    """What the rule of `root` says of its front contract in this session; None without a front contract."""
    front = _ranked(opened.contracts, root.root, 0)
    if front is None or front.raw_symbol is None:
        return None
    mapped = _ranked(opened.mappings, root.root, 0)
    return judge_roll(
        root,
        opened.session.date,
        front=front,
        following=_ranked(opened.contracts, root.root, 1),
        mapped=None if mapped is None else mapped.raw_symbol,
        volumes={item.contract: item.volume for item in carried.volumes},
    )


def _ranked(contracts: tuple[ResolvedContract, ...], root: str, rank: int) -> ResolvedContract | None:
    return next((c for c in contracts if c.root == root and c.rank == rank), None)


def _due(opened: SessionOpened, carried: StateCarried) -> Iterator[RollDue]:
    """What this session is the last one of. An earlier segment of the session has decided it already."""
    if carried.previous_session == opened.session.date.isoformat():
        yield from carried.rolls
        return
    for root in opened.roots:
        front, following = (_ranked(opened.contracts, root.root, rank) for rank in (0, 1))
        verdict = roll_verdict(root, opened, carried)
        if front is None or verdict is None:
            continue
        if verdict.is_due:
            after = None if following is None else following.raw_symbol
            yield from _left(root, opened, front, after, verdict)
        for contract in opened.contracts:
            if contract.root == root.root and contract.rank == HELD_RANK:
                evidence = f"{contract.raw_symbol} is held or ordered, {front.raw_symbol} is traded"
                held = RollVerdict(is_due=True, rule="held", evidence=evidence)
                yield from _left(root, opened, contract, front.raw_symbol, held)


def _left(
    root: TradedRoot, opened: SessionOpened, contract: ResolvedContract, after: str | None, verdict: RollVerdict
) -> Iterator[RollDue]:
    close_ns = close_time(root, contract, opened.session, opened.strategy.of(root.root))
    if contract.raw_symbol is None or (contract.rank == HELD_RANK and close_ns is None):
        return
    yield RollDue(
        root=root.root,
        from_contract=contract.raw_symbol,
        to_contract=after,
        rule=verdict.rule,
        evidence=verdict.evidence,
        policy=root.roll_policy,
        close_ns=close_ns,
    )


def _rolled(opened: SessionOpened, history: HistoryLoaded, carried: StateCarried) -> Iterator[ContractRolled]:
    """The roots that trade another contract than before; on the first day the history tells what that was."""
    before = {table.root: table.contracts[-1] for table in history.tables if len(table)}
    before |= {c.root: c.raw_symbol for c in carried.contracts if c.rank == 0 and c.raw_symbol is not None}
    differences = {
        (seam.root, seam.from_contract, seam.to_contract): seam.difference
        for seam in (*history.seams, *carried.seams)
    }  # fmt: skip
    due = {(roll.root, roll.from_contract, roll.to_contract): roll for roll in carried.rolls}
    for root in opened.roots:
        front = _ranked(opened.contracts, root.root, 0)
        after = None if front is None else front.raw_symbol
        old = before.get(root.root)
        if after is None or old is None or old == after:
            continue
        mapped = _ranked(opened.mappings, root.root, 0)
        roll = due.get((root.root, old, after))
        now = after if mapped is None else mapped.raw_symbol
        yield ContractRolled(
            root=root.root,
            from_contract=old,
            to_contract=after,
            rule=root.roll_rule if roll is None else roll.rule,
            evidence=f"{root.root}.v.0 is {now}, was {old}" if roll is None else roll.evidence,
            difference=differences.get((root.root, old, after)),
        )
