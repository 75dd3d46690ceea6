"""The engine over a roll: positions closed by name, held in their own contract, or opened again."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

from actors.carry import fresh_state
from actors.strategy import adjusted_tables
from adapters.backtrader.engine import CerebroEngine, build_engine
from domain.bars import BarTable
from domain.events import ContractRolled, RollDue, RootMemory, SignalEvaluated, SliceClosed, StateCarried
from domain.ibs import StrategySettings
from domain.positions import Position
from domain.units import HOUR, MINUTE, Nanos, Price

SETTINGS = StrategySettings(veto=False, warmup_bars=1, pivot_gate=False)
ENTRY, MID, TOP = (100, 101, 99, 99), (100, 101, 99, 100), (100, 101, 99, 101)


def due(close_ns: Nanos | None, *, contract: str = "NQM4") -> RollDue:
    return RollDue(
        root="NQ",
        from_contract=contract,
        to_contract="NQU4",
        rule="vendor",
        evidence="",
        policy="close",
        close_ns=close_ns,
    )


def rolled(difference: int | None = 100 * 10**9) -> ContractRolled:
    return ContractRolled(
        root="NQ", from_contract="NQH4", to_contract="NQM4", rule="vendor", evidence="", difference=difference
    )


def held(kit: SimpleNamespace, contract: str, price: float, **state: Any) -> StateCarried:
    position = Position(
        root="NQ",
        contract=contract,
        quantity=1,
        price=Price(int(price * 1e9)),
        opened_ns=kit.chicago(kit.MONDAY - dt.timedelta(days=3), 12),
        entry_signal_id="before",
    )
    return attrs.evolve(fresh_state(), previous_session="2024-04-26", positions=(position,), **state)


def engine_of(
    kit: SimpleNamespace, carried: StateCarried, *rolls: Any, policy: Any = "close", tables: Any = ()
) -> CerebroEngine:
    opened = kit.session_opened(("NQ",), settings=SETTINGS)
    roots = tuple(attrs.evolve(root, roll_policy=policy) for root in opened.roots)
    return build_engine(attrs.evolve(opened, roots=roots), carried, tables, rolls)


def minute(kit: SimpleNamespace, end: Nanos, close: float, contract: str) -> SliceClosed:
    return SliceClosed(ts=end, minutes=(kit.bar("NQ", end, (close,) * 4, contract=contract),))


def hour(kit: SimpleNamespace, end: Nanos, ohlc: tuple[float, ...]) -> SliceClosed:
    return SliceClosed(ts=end, hours=(kit.bar("NQ", end, ohlc, length=HOUR),))


def test_a_position_is_closed_by_the_clock_when_the_roll_says_so(kit: SimpleNamespace) -> None:
    close_ns = kit.chicago(kit.MONDAY, 14)
    engine = engine_of(kit, held(kit, "NQM4", 18_000), due(close_ns))
    assert engine.next_deadline() == close_ns
    assert engine.on_clock(Nanos(close_ns - 1)) == ()
    (request,) = engine.on_clock(close_ns)
    assert (request.contract, request.intent, request.reason, request.decided_ns) == ("NQM4", "exit", "roll", close_ns)


def test_a_rolls_close_starts_no_cooldown(kit: SimpleNamespace) -> None:
    close_ns = kit.chicago(kit.MONDAY, 14)
    opened = kit.session_opened(("NQ",), settings=attrs.evolve(SETTINGS, cooldown_bars=3))
    engine = build_engine(opened, held(kit, "NQM4", 18_000), [], (due(close_ns),))
    journal = kit.Journal(engine)
    (request,) = engine.on_clock(close_ns)
    journal.fill(request, Price(18_000 * 10**9), close_ns)
    (memory,) = engine.memories()
    assert (memory.last_exit_reason, memory.cooldown_left) == ("roll", 0)


def test_a_roll_that_waits_for_the_exit_closes_nothing_before_the_auto_close(kit: SimpleNamespace) -> None:
    engine = engine_of(kit, held(kit, "NQM4", 18_000), due(None))
    assert engine.next_deadline() == kit.chicago(kit.MONDAY, 15)


def test_an_old_contract_is_closed_by_its_own_time_and_the_new_one_is_not(kit: SimpleNamespace) -> None:
    first = Nanos(kit.chicago(kit.MONDAY - dt.timedelta(days=1), 17) + MINUTE)
    engine = engine_of(kit, held(kit, "NQH4", 18_000), due(first, contract="NQH4"))
    (request,) = engine.on_clock(first)
    assert (request.contract, request.reason) == ("NQH4", "roll")
    other = engine_of(kit, held(kit, "NQM4", 18_000), due(first, contract="NQH4"))
    assert other.on_clock(first) == ()


def test_an_exit_that_came_to_nothing_waits_for_the_first_minute_of_the_next_session(kit: SimpleNamespace) -> None:
    opens = kit.chicago(kit.MONDAY - dt.timedelta(days=1), 17)
    memory = RootMemory(root="NQ", bars_held=2, cooldown_left=0, last_exit_reason="roll")
    carried = held(kit, "NQH4", 18_000, memories=(memory,))
    engine = engine_of(kit, carried, due(Nanos(opens + MINUTE), contract="NQH4"))
    assert engine.on_clock(opens) == ()
    (request,) = engine.on_clock(Nanos(opens + MINUTE))
    assert (request.contract, request.reason) == ("NQH4", "roll")


def test_no_entry_is_made_that_the_roll_would_close_within_the_hour(kit: SimpleNamespace) -> None:
    close_ns = kit.chicago(kit.MONDAY, 14)
    for end, verdict in ((kit.chicago(kit.MONDAY, 13), "enter"), (close_ns, "refuse")):
        engine = engine_of(kit, fresh_state(), due(close_ns))
        signal, *_ = engine.step(hour(kit, end, ENTRY))
        assert isinstance(signal, SignalEvaluated)
        assert (signal.verdict, signal.reason) == (verdict, "" if verdict == "enter" else "near_auto_close")


@pytest.mark.parametrize("gap", [100, -100])
def test_a_roll_gap_fires_no_stop_and_no_target(kit: SimpleNamespace, gap: int) -> None:
    """A hundred points of the NQ are two stops away, and no one has lost them."""
    tight = attrs.evolve(SETTINGS, stop_pct=Decimal("0.25"), target_pct=Decimal("0.25"))  # 45 points
    opened = kit.session_opened(("NQ",), settings=tight)
    at = kit.chicago(kit.MONDAY, 8)
    engine = build_engine(opened, held(kit, "NQH4", 18_000), [], (rolled(gap * 10**9),))
    assert engine.step(minute(kit, at, 18_000 + gap, "NQM4")) == ()
    assert engine.step(minute(kit, Nanos(at + MINUTE), 18_000, "NQH4")) == ()
    (request,) = engine.step(minute(kit, Nanos(at + 2 * MINUTE), 17_955, "NQH4"))
    assert (request.contract, request.reason, request.reference_price) == ("NQH4", "stop", 17_955 * 10**9)


def test_history_goes_on_over_the_gap_as_if_there_were_none(kit: SimpleNamespace) -> None:
    """A pivot made in the old contract stands where the new one's prices are."""
    settings = attrs.evolve(SETTINGS, pivot_gate=True, pivot_strength=1)
    start = kit.chicago(kit.MONDAY - dt.timedelta(days=1), 9)
    shapes = [(100, 103, 99, 100), (100, 105, 98, 100), (100, 103, 99, 100), (100, 102, 99, 100)]
    bars = [
        kit.bar("NQ", Nanos(start + i * HOUR), shape, length=HOUR, contract="NQH4") for i, shape in enumerate(shapes)
    ]
    old = BarTable.of_bars("NQ", "1h", bars)
    moved = attrs.evolve(old, contracts=("NQM4",) * 4, data=np.array(old.data))
    moved.data[:, 2:6] += 100 * 10**9
    opened = kit.session_opened(("NQ",), settings=settings)
    end = kit.chicago(kit.MONDAY, 9)
    gates = []
    for tables in ([moved], adjusted_tables((old,), [rolled()]), adjusted_tables((old,), [rolled(None)])):
        signal, *_ = build_engine(opened, fresh_state(), tables).step(hour(kit, end, (200, 201, 199, 199)))
        assert isinstance(signal, SignalEvaluated)
        gates.append([(gate.name, gate.value) for gate in signal.gates if gate.name in ("pivot", "warm_up")])
    assert gates[0] == gates[1] == [("warm_up", "5 of 1"), ("pivot", "198.0 <= 199.0 <= 205.0")]
    assert gates[2] == [("warm_up", "1 of 1"), ("pivot", None)]  # without a difference it begins anew


# ---------------------------------------------------------------- opened again


def closed_for_a_roll(**changes: Any) -> StateCarried:
    memory = RootMemory(root="NQ", bars_held=0, cooldown_left=0, last_exit_reason="roll")
    return attrs.evolve(fresh_state(), previous_session="2024-04-26", memories=(attrs.evolve(memory, **changes),))


def first_bar(kit: SimpleNamespace, engine: CerebroEngine, ohlc: tuple[float, ...] = MID) -> list[Any]:
    out = engine.step(hour(kit, kit.chicago(kit.MONDAY, 9), ohlc))
    return [getattr(event, "verdict", None) or event.reason for event in out] + [
        event.reason for event in out if isinstance(event, SignalEvaluated)
    ]


def test_what_was_closed_for_a_roll_is_opened_again_at_the_first_decision_bar_outside_the_band(
    kit: SimpleNamespace,
) -> None:
    engine = engine_of(kit, closed_for_a_roll(), rolled(), policy="close_and_reopen")
    signal, request = engine.step(hour(kit, kit.chicago(kit.MONDAY, 9), MID))
    assert isinstance(signal, SignalEvaluated)
    assert [(gate.name, gate.is_passed) for gate in signal.gates if gate.name in ("ibs_band", "reopen")] == [
        ("reopen", True)
    ]
    assert (signal.verdict, request.intent, request.reason, request.contract) == ("enter", "entry", "reopen", "NQM4")


@pytest.mark.parametrize(
    ("policy", "changes", "rolls", "refused"),
    [
        ("close", {}, (rolled(),), (MID, "ibs_outside_band")),
        ("close_and_reopen", {}, (), (MID, "ibs_outside_band")),
        ("close_and_reopen", {"last_exit_reason": "ibs"}, (rolled(),), (MID, "ibs_outside_band")),
        ("close_and_reopen", {"cooldown_left": 1}, (rolled(),), (MID, "cooldown")),
        ("close_and_reopen", {}, (rolled(),), (TOP, "exit_band")),
        ("close_and_reopen", {}, (rolled(),), ((100, 100, 100, 100), "zero_range")),
    ],
    ids=["other policy", "no roll", "own exit", "another gate", "it would leave", "says nothing"],
)
def test_it_is_not_opened_again(
    kit: SimpleNamespace, policy: Any, changes: Any, rolls: Any, refused: tuple[Any, str]
) -> None:
    ohlc, reason = refused
    engine = engine_of(kit, closed_for_a_roll(**changes), *rolls, policy=policy)
    assert first_bar(kit, engine, ohlc) == ["refuse", reason]


def test_the_wish_lasts_for_one_bar_and_one_session(kit: SimpleNamespace) -> None:
    engine = engine_of(kit, closed_for_a_roll(), rolled(), policy="close_and_reopen")
    assert first_bar(kit, engine, TOP) == ["refuse", "exit_band"]
    (signal,) = engine.step(hour(kit, kit.chicago(kit.MONDAY, 10), MID))
    assert isinstance(signal, SignalEvaluated)
    assert signal.reason == "ibs_outside_band"
    assert [memory.last_exit_reason for memory in engine.memories()] == [""]
    # A segment of the session that closed it still knows.
    same = attrs.evolve(closed_for_a_roll(), previous_session=kit.MONDAY.isoformat())
    assert [memory.last_exit_reason for memory in engine_of(kit, same).memories()] == ["roll"]
