"""Which roots have moved to another contract since the session before, and which will at the next open."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.roll_supervisor import RollSupervisor
from domain.bars import BarTable
from domain.errors import OurError
from domain.events import ContractRolled, HistoryLoaded, RollDue, StateCarried
from domain.instruments import HELD_RANK, ResolvedContract
from domain.rolls import ContractVolume, RollSeam
from domain.units import HOUR, Nanos, Price
from tests.builders import CLOSE, Record, at, bar_of, opened_session, traded_root

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


# ---------------------------------------------------------------- what is due at the next open

LAST = dt.date(2024, 5, 1)
FRONT = ResolvedContract(root="ES", rank=0, raw_symbol="ESM4", last_trade_session=dt.date(2024, 6, 18))
NEXT = ResolvedContract(root="ES", rank=1, raw_symbol="ESU4")
OLD = ResolvedContract(root="ES", rank=HELD_RANK, raw_symbol="ESH4", last_trade_session=LAST)


def due(
    *contracts: ResolvedContract, mapped: str | None = "ESM4", carried: StateCarried | None = None, **root: Any
) -> tuple[Any, ...]:
    machine, record = RollSupervisor(), Record()
    opened = opened_session(
        contracts=contracts,
        mappings=(ResolvedContract(root="ES", rank=0, raw_symbol=mapped),),
        roots=(traded_root("ES", **root),),
    )
    events = (opened, HistoryLoaded(tables=()), carried or attrs.evolve(fresh_state(), contracts=contracts))
    return [machine.handle(record.put(event)) for event in events][-1]


def test_a_mapping_that_has_moved_makes_the_roll_due_and_changes_nothing_yet() -> None:
    assert due(FRONT, NEXT) == ()
    assert due(FRONT, NEXT, mapped="ESU4") == (
        RollDue(
            root="ES",
            from_contract="ESM4",
            to_contract="ESU4",
            rule="vendor",
            evidence="ES.v.0 is ESU4",
            policy="close",
            close_ns=Nanos(CLOSE - 2 * HOUR),
        ),
    )


def test_our_own_volumes_are_those_that_were_carried() -> None:
    volumes = (ContractVolume(contract="ESM4", volume=1), ContractVolume(contract="ESU4", volume=2))
    carried = attrs.evolve(fresh_state(), contracts=(FRONT, NEXT), volumes=volumes)
    assert due(FRONT, NEXT, roll_rule="volume") == ()
    (found,) = due(FRONT, NEXT, roll_rule="volume", carried=carried)
    assert (found.rule, found.to_contract) == ("volume", "ESU4")


def test_a_contract_in_its_last_trade_session_is_left_even_into_nothing() -> None:
    front = attrs.evolve(FRONT, last_trade_session=LAST)
    (found,) = due(front, attrs.evolve(NEXT, raw_symbol=None), roll_policy="hold_until_exit")
    assert (found.rule, found.to_contract) == ("last_trade_session", None)
    assert found.close_ns == CLOSE - 2 * HOUR


def test_an_old_contract_is_held_by_policy_until_its_own_last_trade_session() -> None:
    (found,) = due(FRONT, NEXT, OLD, roll_policy="hold_until_exit")
    assert (found.from_contract, found.to_contract, found.rule, found.close_ns) == (
        "ESH4",
        "ESM4",
        "held",
        CLOSE - 2 * HOUR,
    )
    later = attrs.evolve(OLD, last_trade_session=dt.date(2024, 5, 2))
    assert due(FRONT, NEXT, later, roll_policy="hold_until_exit") == ()


def test_an_earlier_segment_of_the_session_has_decided_already() -> None:
    decided = due(FRONT, NEXT, mapped="ESU4")
    carried = attrs.evolve(fresh_state(), previous_session="2024-05-01", contracts=(FRONT, NEXT), rolls=decided)
    assert due(FRONT, NEXT, mapped="ESM4", carried=carried) == decided
    assert due(FRONT, NEXT, mapped="ESU4", carried=attrs.evolve(carried, rolls=())) == ()


def test_what_was_due_takes_effect_with_its_evidence_and_the_difference_of_the_last_common_minute() -> None:
    decided = due(FRONT, NEXT, mapped="ESU4")
    carried = attrs.evolve(
        fresh_state(),
        previous_session="2024-04-30",
        contracts=(FRONT, NEXT),
        rolls=decided,
        seams=(seam("ESM4", "ESU4", 9),),
    )
    (rolled,) = due(attrs.evolve(NEXT, rank=0), carried=carried, mapped="ESU4", roll_rule="volume")
    assert (rolled.from_contract, rolled.to_contract, rolled.difference) == ("ESM4", "ESU4", 9)
    assert (rolled.rule, rolled.evidence) == ("vendor", "ES.v.0 is ESU4")
