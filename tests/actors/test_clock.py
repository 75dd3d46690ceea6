"""Real time: a minute closes in the feed's thread, and no tick is older than the one before it."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

from actors.clock import RealTimeClock
from actors.sequencer import Sequencer
from adapters.memory import MemoryJournal
from domain.events import ClockTicked
from domain.units import MINUTE, Nanos
from tests.builders import CODEC

START = Nanos(1_000 * MINUTE)


def ticks_of(journal: MemoryJournal) -> list[ClockTicked]:
    return [e.payload for e in journal.envelopes() if isinstance(e.payload, ClockTicked)]


def clock_of(journal: MemoryJournal) -> RealTimeClock:
    began = time.monotonic_ns()

    def now() -> Nanos:
        # A minute passes in a twentieth of a second.
        return Nanos(START + (time.monotonic_ns() - began) * 1200)

    sequencer = Sequencer(writer=journal, codec=CODEC, subscribers=[], is_simulated=False, now=now)
    return RealTimeClock(
        sequencer=sequencer, now=now, watermark=START, each_look=lambda: None, on_failure=lambda error: None
    )


def test_a_watermark_that_moves_ticks_before_advance_returns_and_one_that_stands_does_not() -> None:
    journal = MemoryJournal()
    clock = clock_of(journal)
    clock.advance(START)
    assert ticks_of(journal) == []
    clock.advance(Nanos(START + MINUTE))
    clock.advance(Nanos(START + MINUTE))
    assert [tick.watermark for tick in ticks_of(journal)] == [START + MINUTE]


def test_ticks_of_both_threads_grow_in_time_and_watermark() -> None:
    journal = MemoryJournal()
    clock = clock_of(journal)
    clock.start()
    feeds = [threading.Thread(target=_advance, args=(clock, first)) for first in range(2)]
    for feed in feeds:
        feed.start()
    for feed in feeds:
        feed.join()
    advanced = len(ticks_of(journal))
    while len(ticks_of(journal)) < advanced + 3:
        time.sleep(0.01)
    clock.stop()
    ticks = ticks_of(journal)
    assert ticks[-1].watermark == START + 599 * MINUTE
    for earlier, later in pairwise(ticks):
        assert earlier.ts <= later.ts
        assert earlier.watermark <= later.watermark


def _advance(clock: RealTimeClock, first: int) -> None:
    for minutes in range(first, 600, 2):
        clock.advance(Nanos(START + minutes * MINUTE))
        time.sleep(0.0005)
