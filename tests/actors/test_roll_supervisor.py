"""Which roots have moved to another contract since the session before."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.roll_supervisor import RollSupervisor
from domain.bars import BarTable
from domain.errors import OurError
from domain.events import ContractRolled, HistoryLoaded
from domain.instruments import ResolvedContract
from domain.rolls import RollSeam
from domain.units import Price
from tests.builders import Record, at, bar_of, opened_session, traded_root

ROOTS = ("ES", "NQ")


def resolved(**contracts: str | None) -> tuple[ResolvedContract, ...]:
    """Rank 0 of each root, and an ES of rank 1 that must never matter."""
    front = tuple(ResolvedContract(root=root, rank=0, raw_symbol=contracts.get(root)) for root in ROOTS)
    return (*front, ResolvedContract(root="ES", rank=1, raw_symbol="ESZ4"))


def history(*seams: RollSeam, **contracts: str) -> HistoryLoaded:
    tables = tuple(BarTable.of_bars(root, "1h", [bar_of(name)]) for root, name in sorted(contracts.items()))
    return HistoryLoaded(tables=tables, seams=seams)


def seam(before: str, after: str, difference: int) -> RollSeam:
    return RollSeam(root="ES", from_contract=before, to_contract=after, ts=at(0), difference=Price(difference))


def rolls(*, now: Any, history: HistoryLoaded, before: Any = ()) -> tuple[ContractRolled, ...]:
    machine, record = RollSupervisor(), Record()
    opened = opened_session(
        contracts=now, roots=(traded_root("ES", roll_rule="volume"), traded_root("NQ", roll_rule="vendor"))
    )
    carried = attrs.evolve(fresh_state(), contracts=before)
    answers = [machine.handle(record.put(event)) for event in (opened, history, carried)]
    assert answers[:2] == [(), ()]
    return answers[2]  # type: ignore[return-value]


def test_a_root_that_trades_what_it_traded_before_has_not_rolled() -> None:
    now = resolved(ES="ESM4", NQ="NQM4")
    assert rolls(now=now, history=history(ES="ESM4", NQ="NQM4"), before=now) == ()


def test_a_root_whose_front_contract_is_another_one_has_rolled() -> None:
    (rolled,) = rolls(now=resolved(ES="ESM4", NQ="NQM4"), history=history(), before=resolved(ES="ESH4", NQ="NQM4"))
    assert (rolled.root, rolled.from_contract, rolled.to_contract, rolled.rule) == ("ES", "ESH4", "ESM4", "volume")
    assert "ESH4" in rolled.evidence
    assert "ESM4" in rolled.evidence


@pytest.mark.parametrize(
    ("seams", "difference"),
    [
        ([seam("ESH4", "ESM4", 7)], 7),
        ([seam("ESH4", "ESM4", -7)], -7),
        ([seam("ESH4", "ESU4", 7), seam("ESZ3", "ESM4", 7), seam("ESM4", "ESH4", 7)], None),
        ([], None),
    ],
    ids=["up", "down", "other seams", "none"],
)
def test_the_difference_is_that_of_exactly_this_seam_or_unknown(seams: list[RollSeam], difference: int | None) -> None:
    (rolled,) = rolls(
        now=resolved(ES="ESM4", NQ="NQM4"), history=history(*seams, NQ="NQM4"), before=resolved(ES="ESH4", NQ="NQM4")
    )
    assert rolled.difference == difference


def test_on_the_first_day_the_history_tells_what_was_traded_before() -> None:
    (rolled,) = rolls(now=resolved(ES="ESM4", NQ="NQM4"), history=history(ES="ESH4", NQ="NQM4"))
    assert (rolled.root, rolled.from_contract) == ("ES", "ESH4")


def test_the_session_before_knows_better_than_the_history() -> None:
    now = resolved(ES="ESM4", NQ="NQM4")
    assert rolls(now=now, history=history(ES="ESH4", NQ="NQH4"), before=now) == ()


@pytest.mark.parametrize("before", [(), resolved(ES="ESH4", NQ=None)])
def test_what_is_not_resolved_today_or_was_not_before_is_no_roll(before: Any) -> None:
    assert rolls(now=resolved(ES=None, NQ="NQM4"), history=history(), before=before) == ()


def test_several_roots_roll_in_the_order_of_the_session() -> None:
    found = rolls(now=resolved(ES="ESM4", NQ="NQM4"), history=history(), before=resolved(ES="ESH4", NQ="NQH4"))
    assert [rolled.root for rolled in found] == ["ES", "NQ"]


def test_an_empty_table_says_nothing_about_the_contract() -> None:
    empty = HistoryLoaded(tables=(BarTable.of_bars("ES", "1h", []),))
    assert rolls(now=resolved(ES="ESM4", NQ="NQM4"), history=empty) == ()


def test_rolls_need_no_clock() -> None:
    assert RollSupervisor().next_deadline() is None


def test_a_state_before_its_session_is_our_error() -> None:
    with pytest.raises(OurError, match="before SessionOpened"):
        RollSupervisor().handle(Record().put(fresh_state()))
