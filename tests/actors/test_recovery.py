"""At a start of the process each machine stands where its record ends, and owes what is not on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import pytest

from actors.bars import BarAggregator
from actors.execution import Execution
from actors.machines import SUBSCRIBERS, MachineParts
from actors.recovery import Recovery
from actors.replay import RecallingCodec
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import FillAssumed, SliceClosed
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, at

NAMES = tuple(name for name, _ in SUBSCRIBERS)


@pytest.fixture
def file(parts: MachineParts) -> SessionFile:
    """An entry that was filled, and an exit that was sent."""
    file = SessionFile(parts)
    for minute in range(1, 7):
        file.trade(minute + 0.5, ticks=minute)
        file.tick(minute + 1)
        if file.unanswered():
            file.answer()
    assert any(envelope.type == "FillAssumed" for envelope in file.record.envelopes)
    return file


def recovery_of(parts: MachineParts, envelopes: Iterable[Envelope]) -> Recovery:
    recovery = Recovery(parts, RecallingCodec(CODEC))
    for envelope in envelopes:
        recovery.fold(envelope)
    return recovery


def changed(envelopes: Sequence[Envelope], type_: type, **fields: Any) -> list[Envelope]:
    """`envelopes` with the first event of `type_` altered."""
    first = next(envelope for envelope in envelopes if isinstance(envelope.payload, type_))
    altered = attrs.evolve(first, payload=attrs.evolve(first.payload, **fields))
    return [altered if envelope is first else envelope for envelope in envelopes]


def test_the_machines_stand_at_the_end_of_the_file(file: SessionFile, parts: MachineParts) -> None:
    recovery = recovery_of(parts, file.record.envelopes)
    recovered = {name: recovery.take(name) for name in NAMES}
    assert {name: (one.seq, one.owed) for name, one in recovered.items()} == dict.fromkeys(
        NAMES, (len(file.record.envelopes), ())
    )
    execution, bars = recovered["execution"].machine, recovered["bars"].machine
    assert isinstance(execution, Execution)
    assert isinstance(bars, BarAggregator)
    assert (execution.positions, execution.orders) == (
        file.machines.execution.positions,
        file.machines.execution.orders,
    )
    assert bars.open_bars() == file.machines.bars.open_bars()


def test_wherever_the_file_ends_what_is_missing_is_owed(file: SessionFile, parts: MachineParts) -> None:
    whole = file.record.envelopes
    owing = set()
    for end in range(1, len(whole)):
        if whole[end].idx:
            continue  # one publish is never split
        recovery = recovery_of(parts, whole[:end])
        for name in NAMES:
            recovered = recovery.take(name)
            rest = [e for e in whole[end:] if e.source == name and e.cause is not None and e.cause <= end]
            owed = [(cause.seq, event) for cause, events in recovered.owed for event in events]
            assert (recovered.seq, owed) == (end, [(e.cause, e.payload) for e in rest])
            owing |= {name for _ in owed}
    assert owing == {"bars", "strategy", "execution"}


def test_a_machine_that_decides_otherwise_than_its_record_starts_anew(file: SessionFile, parts: MachineParts) -> None:
    whole = file.record.envelopes
    recovery = recovery_of(parts, changed(whole, FillAssumed, ts=at(99)))
    assert {name: recovery.take(name).seq for name in NAMES if name != "strategy"} == {
        "roll": len(whole),
        "bars": len(whole),
        "execution": 0,
    }
    assert recovery_of(parts, changed(whole, SliceClosed, ts=at(99))).take("bars").seq == 0


def test_a_machine_whose_record_lacks_a_decision_starts_anew(file: SessionFile, parts: MachineParts) -> None:
    first = next(envelope for envelope in file.record.envelopes if envelope.type == "SliceClosed")
    recovery = recovery_of(parts, [envelope for envelope in file.record.envelopes if envelope is not first])
    assert recovery.take("bars").seq == 0


def test_a_machine_that_fails_starts_anew_and_no_other_does(file: SessionFile, parts: MachineParts) -> None:
    def refuse(*_: object) -> Any:
        raise OurError("no engine today")

    recovery = recovery_of(attrs.evolve(parts, build_engine=refuse), file.record.envelopes)
    end = len(file.record.envelopes)
    assert {name: recovery.take(name).seq for name in NAMES} == {
        "roll": end,
        "bars": end,
        "strategy": 0,
        "execution": end,
    }
