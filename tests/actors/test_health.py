"""Health: what withholds the watchdog's food. The clock is the test's."""

from __future__ import annotations

import pytest

from actors.health import BETWEEN_LIMIT_S, BUSY_LIMIT_S, STALL_LIMIT_S, TICK_LIMIT_S, Health, Watchdog
from actors.sequencer import Sequencer
from adapters.memory import MemoryJournal
from domain.events import ClockTicked
from tests.builders import CODEC, at

TICK = ClockTicked(ts=at(0), watermark=at(0))


class Session:
    """A session that is looked at, and what came of it."""

    def __init__(self, *, is_simulated: bool = False) -> None:
        self.now_s = 1_000.0
        self.stalled_s = 0.0
        self.health = Health(now=lambda: self.now_s)
        self.sequencer = Sequencer(
            writer=MemoryJournal(),
            codec=CODEC,
            subscribers=(("strategy", frozenset({"ClockTicked"})),),
            is_simulated=is_simulated,
            now=lambda: at(0),
        )
        self.sequencer.observe(self.health.watch)
        self.health.attend(self.sequencer, stalled_s=lambda: self.stalled_s, is_simulated=is_simulated)
        self.food = 0
        self.told: list[str] = []
        self.watchdog = Watchdog(self.health, feed=self._feed, complain=self.told.append, interval_s=1.0)

    def _feed(self) -> None:
        self.food += 1

    def later(self, seconds: float) -> bool:
        """Whether the look after `seconds` has fed."""
        self.now_s += seconds
        before = self.food
        self.watchdog.look()
        return self.food > before


def test_a_machine_that_owes_an_answer_for_too_long_starves_the_watchdog_until_it_answers() -> None:
    session = Session()
    (asked,) = session.sequencer.publish(TICK, source="clock")
    assert session.later(0)
    assert session.later(BUSY_LIMIT_S)
    assert not session.later(1)
    assert not session.later(1)
    assert session.told == [f"strategy has owed an answer to seq 1 for {BUSY_LIMIT_S + 1:.0f} s"], "once"
    session.sequencer.complete("strategy", asked, (), None)
    assert session.later(1)


def test_a_machine_that_is_slow_and_goes_on_is_well() -> None:
    session = Session(is_simulated=True)
    session.sequencer.subscribe("strategy", lambda envelope: None)
    causes = [session.sequencer.publish(TICK, source="clock")[0] for _ in range(4)]
    for cause in causes:
        assert session.later(BUSY_LIMIT_S - 1)
        session.sequencer.complete("strategy", cause, (), None)


@pytest.mark.parametrize(("is_simulated", "is_well"), [(True, True), (False, False)])
def test_in_real_time_a_clock_that_stands_still_starves_it(is_simulated: bool, is_well: bool) -> None:
    session = Session(is_simulated=is_simulated)
    assert session.later(TICK_LIMIT_S)
    (tick,) = session.sequencer.publish(TICK, source="clock")
    session.sequencer.complete("strategy", tick, (), None)
    assert session.later(TICK_LIMIT_S)
    assert session.later(1) == is_well


def test_a_writer_that_stands_still_starves_it() -> None:
    session = Session()
    session.stalled_s = STALL_LIMIT_S + 1
    assert not session.later(0)
    assert "journal" in session.told[0]


def test_between_two_sessions_there_is_time_but_not_for_ever() -> None:
    session = Session()
    session.health.leave()
    assert session.later(BETWEEN_LIMIT_S)
    assert not session.later(1)
