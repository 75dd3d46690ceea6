"""What a file leaves to the next one for its rolls: volumes, common minutes, and what was due."""

from __future__ import annotations

from typing import Any

import attrs

from actors.carry import fresh_state
from actors.roll_memory import RollMemory
from domain.events import RollDue, SliceClosed, StateCarried
from domain.instruments import ResolvedContract
from domain.rolls import ContractVolume, RollSeam
from domain.units import Price
from tests.builders import PRICE, Record, at, bar_of, opened_session

PAIR = (
    ResolvedContract(root="ES", rank=0, raw_symbol="ESM4"),
    ResolvedContract(root="ES", rank=1, raw_symbol="ESU4"),
    ResolvedContract(root="NQ", rank=0, raw_symbol="NQM4"),
    ResolvedContract(root="NQ", rank=1, raw_symbol=None),
)
DUE = RollDue(
    root="ES", from_contract="ESM4", to_contract="ESU4", rule="volume", evidence="", policy="close", close_ns=at(60)
)


def seam(minute: int, difference: int, *, to: str = "ESU4") -> RollSeam:
    return RollSeam(root="ES", from_contract="ESM4", to_contract=to, ts=at(minute), difference=Price(difference))


def remembered(*events: Any, carried: StateCarried | None = None) -> RollMemory:
    memory, record = RollMemory(), Record()
    for event in (opened_session(contracts=PAIR), carried or fresh_state(), *events):
        memory.fold(record.put(event))
    return memory


def minute(number: int, **closes: int) -> SliceClosed:
    bars = (bar_of(name, start=at(number - 1), close=Price(PRICE + away)) for name, away in sorted(closes.items()))
    return SliceClosed(ts=at(number), minutes=tuple(bars))


def test_volumes_are_summed_by_contract_and_the_last_common_minute_is_kept() -> None:
    memory = remembered(
        minute(1, ESM4=0, ESU4=5, NQM4=9), minute(2, ESM4=1, ESU4=8), minute(3, ESM4=4), minute(4, ESU4=3)
    )
    assert {item.contract: item.volume for item in memory.volumes} == {"ESM4": 30, "ESU4": 30, "NQM4": 10}
    assert memory.seams == (seam(2, 7),)
    assert memory.rolls == ()


def test_a_held_contract_counts_for_nothing() -> None:
    assert remembered(minute(1, ESH4=0)).volumes == ()


def test_a_segment_goes_on_from_the_one_before_and_a_session_starts_anew() -> None:
    carried = attrs.evolve(
        fresh_state(),
        previous_session="2024-05-01",
        volumes=(ContractVolume(contract="ESM4", volume=7),),
        seams=(seam(-1, 3),),
    )
    assert remembered(minute(1, ESM4=0), carried=carried).volumes == (ContractVolume(contract="ESM4", volume=17),)
    before = attrs.evolve(carried, previous_session="2024-04-30")
    assert remembered(minute(1, ESM4=0), carried=before).volumes == (ContractVolume(contract="ESM4", volume=10),)


def test_an_older_common_minute_stays_until_there_is_a_newer_one_of_the_same_two_contracts() -> None:
    carried = attrs.evolve(fresh_state(), seams=(seam(-1, 3),))
    assert remembered(minute(1, ESM4=0), carried=carried).seams == (seam(-1, 3),)
    assert remembered(minute(1, ESM4=0, ESU4=5), carried=carried).seams == (seam(1, 5),)
    assert remembered(carried=attrs.evolve(carried, seams=(seam(-1, 3, to="ESZ4"),))).seams == ()


def test_what_was_due_is_carried() -> None:
    assert remembered(DUE, minute(1, ESM4=0)).rolls == (DUE,)
