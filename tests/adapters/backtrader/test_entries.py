"""What may be entered: optional gates, sizes and ranges, roots with parameters of their own, what a session carries."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from adapters.backtrader.engine import CerebroEngine, build_engine
from domain.bars import BarTable
from domain.events import ContractRolled, OrderRequested, RootMemory, SignalEvaluated, SliceClosed
from domain.features import FEATURE_SET_VERSION, feature_names
from domain.ibs import FeatureGate, StrategySettings
from domain.levels import ATR_BARS
from domain.positions import Position
from domain.units import HOUR, MINUTE, Nanos, Price

POINT = 1_000_000_000
ENTRY = (100, 101, 99, 99)
TOP = (100, 101, 99, 101)
MID = (100, 101, 99, 100)
SETTINGS = StrategySettings(veto=False, warmup_bars=1, pivot_gate=False)
GATES = (FeatureGate(name="nq_hourly_return", low=-0.1, high=0.1), FeatureGate(name="ibs_pct", high=0.9))


def hour(kit: SimpleNamespace, hours: int, *ohlc: tuple[str, tuple[float, ...]]) -> SliceClosed:
    """A slice of hour bars that ends so many hours into Monday, New York less one."""
    end = kit.chicago(kit.MONDAY, hours)
    return SliceClosed(ts=end, hours=tuple(kit.bar(root, end, prices, length=HOUR) for root, prices in sorted(ohlc)))


def signals_of(out: Any) -> list[SignalEvaluated]:
    return [event for event in out if isinstance(event, SignalEvaluated)]


def requests_of(out: Any) -> list[OrderRequested]:
    return [event for event in out if isinstance(event, OrderRequested)]


# ------------------------------------------------------------------- gates


def test_gates_say_the_same_in_a_plain_backtest(kit: SimpleNamespace) -> None:
    roots = ("ES", "NQ")
    own = (("NQ", attrs.evolve(SETTINGS, gates=GATES[:1])),)
    settings = attrs.evolve(SETTINGS, gates=GATES, entry_ibs_high=0.6, roots=own)
    slices = kit.slices_of(kit.random_minutes(roots, 2, seed=3))
    cut = kit.chicago(kit.MONDAY, 16)
    (plain,) = kit.plain_cerebro(slices, roots, settings=settings).run()
    history = kit.tables_of([closed for closed in slices if closed.ts <= cut], ("1m", "1h", "1d"))
    date = kit.MONDAY + dt.timedelta(days=1)
    # Minutes are no history of a feature book.
    history = [table for table in history if table.timeframe != "1m"]
    journal = kit.Journal(build_engine(kit.session_opened(roots, date=date, settings=settings), None, history))
    for closed in slices:
        if closed.ts > cut:
            journal.close(closed)
    assert journal.signals == [signal for signal in plain.signals if signal.ts > cut]
    names = {signal.root: [gate.name for gate in signal.gates][4:8] for signal in journal.signals}
    assert names == {
        "ES": ["ibs_band", "pivot", "nq_hourly_return", "ibs_pct"],
        "NQ": ["ibs_band", "pivot", "nq_hourly_return", "near_auto_close"],
    }
    reasons = {gate.reason for signal in journal.signals for gate in signal.gates}
    assert {"nq_hourly_return_outside_band", "ibs_pct_outside_band"} <= reasons
    assert {"enter", "exit", "refuse"} <= {signal.verdict for signal in journal.signals}


def test_a_gate_without_its_bars_refuses_the_entry_and_no_exit(kit: SimpleNamespace) -> None:
    engine = build_engine(kit.session_opened(("ES",), settings=attrs.evolve(SETTINGS, gates=GATES)), None, [])
    (signal,) = engine.step(hour(kit, 9, ("ES", ENTRY)))
    assert isinstance(signal, SignalEvaluated)
    assert (signal.verdict, signal.reason) == ("refuse", "nq_hourly_return_missing")
    gates = {gate.name: (gate.is_passed, gate.value) for gate in signal.gates}
    assert gates["nq_hourly_return"] == (False, "NQ 1h: no bars")
    assert gates["ibs_pct"] == (False, "1.0")
    held = carried(kit, quantity=1)
    engine = build_engine(kit.session_opened(("ES",), settings=attrs.evolve(SETTINGS, gates=GATES)), held, [])
    _, left = engine.step(hour(kit, 9, ("ES", TOP)))
    assert (left.intent, left.reason) == ("exit", "ibs")


# ------------------------------------------------------------- ranges and size


def table(kit: SimpleNamespace, root: str, bars: int) -> BarTable:
    """Hours of a range of 4 points each, the last one right before Monday's session."""
    last = kit.chicago(kit.MONDAY - dt.timedelta(days=1), 17)
    ends = [Nanos(last - i * HOUR) for i in range(bars)][::-1]
    return BarTable.of_bars(root, "1h", [kit.bar(root, end, (100, 102, 98, 100), length=HOUR) for end in ends])


def engine_with(kit: SimpleNamespace, settings: StrategySettings, *, bars: int, state: Any = None) -> CerebroEngine:
    return build_engine(kit.session_opened(("ES",), settings=settings), state, [table(kit, "ES", bars)])


RANGES = attrs.evolve(SETTINGS, stop_atr=Decimal(1), target_atr=Decimal("0.5"), sizing="risk", max_size=9)


@pytest.mark.parametrize(
    ("bars", "risk", "reason", "quantity"),
    [
        (ATR_BARS, 1_000, "", 5),  # about 4 points of 50 USD at the stop
        (ATR_BARS, 10_000, "", 9),
        (ATR_BARS, 150, "size_zero", 0),
        (ATR_BARS - 2, 1_000, "atr_missing", 0),
    ],
)
def test_the_size_is_what_the_range_allows(
    kit: SimpleNamespace, bars: int, risk: int, reason: str, quantity: int
) -> None:
    engine = engine_with(kit, attrs.evolve(RANGES, risk_usd=Decimal(risk)), bars=bars)
    out = engine.step(hour(kit, 9, ("ES", ENTRY)))
    (signal,) = signals_of(out)
    assert signal.reason == reason
    assert [gate.name for gate in signal.gates][-3:] == ["atr", "size", "veto"]
    assert next(gate.value for gate in signal.gates if gate.name == "size") == str(quantity)
    assert [request.quantity for request in requests_of(out)] == ([quantity] if quantity else [])


@pytest.mark.parametrize(("side", "bar", "sign"), [("long", ENTRY, 1), ("short", TOP, -1)])
def test_a_position_keeps_the_range_of_its_entry_over_sessions(
    kit: SimpleNamespace, side: Any, bar: tuple[float, ...], sign: int
) -> None:
    settings = attrs.evolve(SETTINGS, side=side, stop_atr=Decimal(1), target_atr=Decimal(5))
    engine = engine_with(kit, settings, bars=ATR_BARS)
    (request,) = requests_of(engine.step(hour(kit, 9, ("ES", bar))))
    assert request.side == ("buy" if sign > 0 else "sell")
    (ordered,) = engine.memories()
    journal = kit.Journal(engine)
    journal.accept(request)
    journal.fill(request, Price(100 * POINT), Nanos(request.decided_ns + 1))
    (memory,) = engine.memories()
    assert memory.average_range == ordered.average_range
    assert memory.average_range is not None
    assert 3.5 * POINT < memory.average_range < 4 * POINT
    # The next engine has no bars to measure it on.
    state = carried(kit, quantity=sign, memories=(memory,))
    later = build_engine(kit.session_opened(("ES",), settings=settings), state, [])
    stop = 100 * POINT - sign * memory.average_range
    for away, count in ((sign, 0), (0, 1)):
        end = kit.chicago(kit.MONDAY, 9) + (1 - away * sign) * MINUTE
        close = (stop + away) / POINT
        minute = kit.bar("ES", Nanos(end), (close, close, close, close))
        assert len(requests_of(later.step(SliceClosed(ts=Nanos(end), minutes=(minute,))))) == count


# --------------------------------------------------------------- what is carried


def carried(kit: SimpleNamespace, *, quantity: int, **changes: Any) -> Any:
    position = Position(
        root="ES",
        contract="ESM4",
        quantity=quantity,
        price=Price(100 * POINT),
        opened_ns=kit.chicago(kit.MONDAY - dt.timedelta(days=3), 12),
        entry_signal_id="before",
    )
    return attrs.evolve(fresh_state(), positions=(position,), **changes)


def rolled() -> ContractRolled:
    return ContractRolled(
        root="ES", from_contract="ESH4", to_contract="ESM4", rule="vendor", evidence="", difference=Price(0)
    )


@pytest.mark.parametrize(
    ("was_short", "bar", "reason"), [(True, MID, ""), (False, MID, ""), (True, ENTRY, "exit_band")]
)
def test_a_roll_opens_the_side_again_that_it_has_closed(
    kit: SimpleNamespace, was_short: bool, bar: tuple[float, ...], reason: str
) -> None:
    memory = RootMemory(root="ES", bars_held=0, cooldown_left=0, last_exit_reason="roll", was_short=was_short)
    state = attrs.evolve(fresh_state(), previous_session="2024-04-26", memories=(memory,))
    opened = kit.session_opened(("ES",), settings=attrs.evolve(SETTINGS, side="both"))
    roots = tuple(attrs.evolve(root, roll_policy="close_and_reopen") for root in opened.roots)
    engine = build_engine(attrs.evolve(opened, roots=roots), state, [], (rolled(),))
    out = engine.step(hour(kit, 9, ("ES", bar)))
    assert [signal.reason for signal in signals_of(out)] == [reason]
    sides = [(request.reason, request.side) for request in requests_of(out)]
    assert sides == ([] if reason else [("reopen", "sell" if was_short else "buy")])
    assert [memory.was_short for memory in engine.memories()] == [was_short]


def test_every_feature_can_be_a_gate_and_each_verdict_stands_in_the_evaluation(kit: SimpleNamespace) -> None:
    names = feature_names(FEATURE_SET_VERSION)
    gates = tuple(FeatureGate(name=name, low=-1e12) for name in names)
    walk = random.Random(1)
    hours, days, price = [], [], 4_000
    for i in range(1_450, 0, -1):
        start = price
        price += walk.randint(-8, 8)
        ohlc = (start, max(start, price) + walk.randint(1, 4), min(start, price) - walk.randint(1, 4), price)
        end = kit.chicago(kit.MONDAY, 9)
        hours.append(attrs.evolve(kit.bar("ES", Nanos(end - i * HOUR), ohlc, length=HOUR), volume=100 + i % 17))
        date = kit.MONDAY - dt.timedelta(days=i)
        days.append(attrs.evolve(kit.bar("ES", kit.chicago(date, 16), ohlc, length=23 * HOUR), volume=100 + i % 13))
    history = [BarTable.of_bars("ES", "1h", hours), BarTable.of_bars("ES", "1d", days)]
    engine = build_engine(kit.session_opened(("ES",), settings=attrs.evolve(SETTINGS, gates=gates)), None, history)
    (signal,) = engine.step(hour(kit, 9, ("ES", (4_000, 4_004, 3_996, 3_996))))
    assert isinstance(signal, SignalEvaluated)
    verdicts = {gate.name: gate for gate in signal.gates}
    assert [gate.name for gate in signal.gates if gate.name in names] == list(names)
    # What reads other roots has no bars here; all else has a value.
    missing = {name for name in names if not verdicts[name].is_passed}
    assert all(verdicts[name].reason == f"{name}_missing" for name in missing)
    reasons = {name: str(verdicts[name].value) for name in missing}
    assert {name: why for name, why in reasons.items() if "no bars" not in why and "pair" not in why} == {}
    assert {"es_hourly_z_score", "rsi_len_14", "daily_rsi_len_14", "ibs_pct"} <= verdicts.keys() - missing
