"""What a replay may not touch, and that a planted touch is found with its event."""

from __future__ import annotations

import datetime as dt
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.bars import BarAggregator
from actors.guards import OutsideWorldError, outside_world_forbidden
from actors.machines import MachineParts, MachineSet, Skips
from actors.replay import replay
from actors.wiring import MACHINE_PARTS, machine_parts, parse_time
from actors.wiring.in_process import in_process_system
from adapters.sqlite.codec import Codec
from domain.units import float_to_price
from tests.bundles import Meddling, small_bundle

TOUCHES: dict[str, Callable[[], object]] = {
    "time.time_ns": lambda: time.time_ns(),  # looked up when it is called
    "time.time": lambda: time.time(),
    "time.monotonic": lambda: time.monotonic(),
    "datetime.now": lambda: dt.datetime.now(dt.UTC),
    "datetime.utcnow": lambda: dt.datetime.utcnow(),  # noqa: DTZ003  (it is what must raise)
    "random.random": lambda: random.random(),
    "numpy.random.default_rng": lambda: np.random.default_rng(),
    "uuid.uuid4": lambda: uuid.uuid4(),
    "os.urandom": lambda: os.urandom(4),
    "os.environ": lambda: os.environ.get("HOME"),
    "socket.socket": lambda: socket.socket(),
}


@pytest.mark.parametrize("name", TOUCHES)
def test_inside_the_guard_the_outside_world_raises_and_after_it_all_is_as_before(name: str) -> None:
    with outside_world_forbidden(), pytest.raises(OutsideWorldError, match=name.rpartition(".")[2].split("_")[0]):
        TOUCHES[name]()
    result = TOUCHES[name]()
    if isinstance(result, socket.socket):
        result.close()


def test_dates_still_compute_inside_the_guard() -> None:
    before = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    with outside_world_forbidden():
        moment = dt.datetime.fromtimestamp(0, dt.UTC)
        assert isinstance(before, dt.datetime)
        assert isinstance(moment, dt.datetime)
        assert (before - moment).days == 19844


def test_a_wall_clock_read_planted_in_a_machine_is_named_with_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    system = in_process_system({"ES": "MESM4"}, warmup_bars=0, pivot_gate=False)
    system.trade("MESM4", parse_time("2024-05-01T13:00:01Z"), float_to_price(5100.0))
    system.advance(parse_time("2024-05-01T14:00:00Z"))
    tick = next(e for e in system.envelopes() if e.type == "ClockTicked")

    class Planted(BarAggregator):
        def next_deadline(self) -> None:
            return None

        def handle(self, envelope):  # type: ignore[no-untyped-def]
            if envelope.type == "ClockTicked":
                time.time_ns()
            return super().handle(envelope)

    def planted(self: MachineSet, parts: MachineParts, skips: Skips = frozenset()) -> None:
        original(self, parts, skips)
        self.bars = Planted()
        for machines in self._by_kind.values():
            machines[:] = [self.bars if isinstance(m, BarAggregator) else m for m in machines]

    # The one patch of our own code in these tests: a bug has to be planted somewhere.
    original = MachineSet.__init__
    monkeypatch.setattr(MachineSet, "__init__", planted)
    result = replay(system.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True)
    assert result.divergence is not None
    assert result.divergence.seq == tick.seq
    assert "time.time_ns" in result.divergence.kind


def test_a_model_that_reads_the_clock_is_named_and_not_taken_for_one_that_failed(tmp_path: Path) -> None:
    """The judge swallows every error of a model; this one it must not."""
    model = Meddling(small_bundle(tmp_path, features=("price_usd", "ibs_pct")), time_of_day)
    system = in_process_system({"ES": "MESM4"}, models={"ES": model}, warmup_bars=0, pivot_gate=False)
    system.trade("MESM4", parse_time("2024-05-01T13:00:01Z"), float_to_price(5100.0))
    system.advance(parse_time("2024-05-01T14:00:00Z"))
    assert len(system.events("VetoScored")) == 1
    parts = machine_parts({"ES": model})
    found = replay(system.envelopes(), parts=parts, codec=Codec(), is_finished=True).divergence
    assert found is not None
    assert found.kind == "its handling touched the outside world: time.time_ns was called in a replay"
    assert found.type == "SliceClosed"


def time_of_day() -> int:
    return time.time_ns()
