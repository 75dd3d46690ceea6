"""A root that the strategy gives up: the account closes what it holds, enters nothing more, and remembers."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import pytest

from actors.carry import carry_forward, fresh_state
from actors.in_process import InProcessSystem
from actors.machines import MachineParts, MachineSet
from actors.replay import replay
from actors.wiring import MACHINE_PARTS, parse_time
from actors.wiring.in_process import in_process_system
from adapters.backtrader.engine import build_engine
from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.memory import MemoryJournal
from adapters.sqlite.codec import Codec
from domain.events import CommandReceived, OrderRequested, RiskDecided, RootHalted
from domain.ports import Head
from domain.risk import RiskSettings
from domain.units import SECOND, Nanos, float_to_price
from tests.actors.session_file import SessionFile
from tests.actors.test_execution import Desk, types

HALTED = RootHalted(root="ES", error="ZeroDivisionError: no such bar")


def refusals(events: Any) -> list[str]:
    return [event.rule for event in events if isinstance(event, RiskDecided) and not event.is_allowed]


def closes(events: Any) -> list[tuple[str, str]]:
    return [(event.root, event.reason) for event in events if isinstance(event, OrderRequested)]


# ---------------------------------------------------------------- the account


def test_what_is_held_is_closed_and_nothing_is_entered_until_the_operator_enables_it() -> None:
    desk = Desk()
    desk.hold()
    (request,) = desk.put(HALTED)
    assert (request.intent, request.reason, request.is_flatten) == ("exit", "root_halted", True)
    desk.put(request)
    assert refusals(desk.request("entry-2")) == ["not_enabled"]
    assert refusals(desk.request("nq-1", root="NQ", contract="NQM4")) == [], "another root goes on"
    desk.put(CommandReceived(command="enable", argument="ES"))
    assert "not_enabled" not in refusals(desk.request("entry-3"))


def test_without_a_position_nothing_is_sent() -> None:
    assert Desk().put(HALTED) == ()


def test_an_entry_on_its_way_is_closed_whatever_becomes_of_it() -> None:
    desk = Desk()
    desk.request()
    (request,) = desk.put(HALTED)
    assert (request.intent, request.side, request.reason) == ("exit", "sell", "root_halted")


def test_a_close_that_is_refused_is_asked_for_again() -> None:
    desk = Desk()
    desk.hold()
    desk.put(CommandReceived(command="kill", argument="all"))
    (request,) = desk.put(HALTED)
    assert refusals(desk.put(request)) == ["kill_switch"]
    desk.put(CommandReceived(command="resume"))
    assert closes(desk.tick(Nanos(desk.now + SECOND))) == [("ES", "root_halted")]


def test_an_exit_that_is_under_way_is_enough() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    assert desk.put(HALTED) == ()


# ---------------------------------------------------------------- the whole system


class Planted(IbsStrategy):
    """Fails at every bar of ES at which something is held."""

    def _look_for_exit(self, state: Any, holding: Any, bar: Any) -> None:
        if state.plan.root == "ES":
            raise ZeroDivisionError("no such bar")
        super()._look_for_exit(state, holding, bar)


PARTS = MachineParts(build_engine=partial(build_engine, strategy=Planted), build_payload=MACHINE_PARTS.build_payload)


def session(parts: MachineParts, seed: int = 0) -> InProcessSystem:
    """Seven hours of two roots that are bought whenever they are not held."""
    system = in_process_system(
        {"ES": "MESM4", "NQ": "MNQM4"},
        parts=parts,
        seed=seed,
        warmup_bars=0,
        pivot_gate=False,
        entry_ibs_high=1.0,
        exit_after_bars=1,
        risk=RiskSettings(market_silent_s=3_600),
    )
    for hour in range(13, 20):
        for minute in range(0, 60, 7):
            for place, contract in enumerate(("MESM4", "MNQM4")):
                price = float_to_price(5000.0 + 100 * place - minute % 5)
                system.trade(contract, parse_time(f"2024-05-01T{hour}:{minute:02d}:{10 + place:02d}Z"), price)
    system.advance(parse_time("2024-05-01T20:00:00Z"))
    return system


def of(system: InProcessSystem, root: str, *types: str) -> list[Any]:
    return [e.payload for e in system.envelopes() if e.root == root and e.type in types]


@pytest.fixture(scope="module")
def halted() -> InProcessSystem:
    return session(PARTS)


def test_the_position_is_closed_through_the_outbox_and_the_other_root_decides_as_ever(
    halted: InProcessSystem,
) -> None:
    assert halted.events("RootHalted") == [HALTED]
    es = [(e.intent, e.reason) for e in of(halted, "ES", "OrderRequested")]
    assert es == [("entry", "ibs"), ("exit", "root_halted")]
    assert [e.rule for e in of(halted, "ES", "FillAssumed")] == ["next_trade"] * 2
    assert len(of(halted, "ES", "SignalEvaluated")) == 1
    undisturbed, kinds = session(MACHINE_PARTS), ("SignalEvaluated", "OrderRequested", "FillAssumed")
    assert of(halted, "NQ", *kinds) == of(undisturbed, "NQ", *kinds)
    assert len(of(halted, "NQ", "OrderRequested")) >= 4


@pytest.mark.parametrize("seed", range(1, 4))
def test_every_seed_halts_the_same_and_it_replays(seed: int, halted: InProcessSystem) -> None:
    def rows(system: InProcessSystem) -> list[Any]:
        return [(e.seq, e.cause, e.type, e.raw) for e in system.envelopes() if e.type != "SessionOpened"]

    again = session(PARTS, seed)
    assert rows(again) == rows(halted)
    assert replay(again.envelopes(), parts=PARTS, codec=Codec(), is_finished=True).divergence is None
    sound = replay(again.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True).divergence
    assert sound is not None, "a program without the fault decides otherwise, and replay says so"


def test_a_later_segment_of_the_session_goes_on_without_it_and_the_next_session_with_it_disabled(
    halted: InProcessSystem,
) -> None:
    journal = MemoryJournal()
    journal.append(list(halted.envelopes()))
    head = Head(seq=1, hash=b"", status="stopped")
    for sha256, remembered in ((None, ("ES",)), ("0" * 64, ())):
        carried = carry_forward(journal, head, MachineSet(PARTS), file_sha256=sha256).carried
        assert carried.halted == remembered
        assert carried.switches is not None
        assert carried.switches.disabled_roots == ("ES",)


def test_what_is_still_held_is_closed_in_the_next_session(parts: MachineParts) -> None:
    file = SessionFile(parts)
    file.trade(0)
    file.tick(1)
    file.answer()
    file.trade(1, 4)
    file.put(CommandReceived(command="kill", argument="all"), source="operator")
    file.put(HALTED, source="strategy")
    head = Head(seq=1, hash=b"", status="closed")
    carried = carry_forward(file.journal(), head, MachineSet(parts), file_sha256="0" * 64).carried
    assert ([held.root for held in carried.positions], carried.halted) == (["ES"], ("ES",))
    desk = Desk(carried=carried)
    desk.put(CommandReceived(command="resume"))
    assert closes(desk.tick(Nanos(desk.now + SECOND))) == [("ES", "root_halted")]


def test_an_entry_that_had_not_left_does_not_leave_any_more() -> None:
    for halted, sent in (((), ["OrderSubmitted"]), (("ES",), [])):
        desk = Desk(carried=attrs.evolve(fresh_state(), halted=halted))
        assert types(desk.request()) == ["RiskDecided", *sent]
