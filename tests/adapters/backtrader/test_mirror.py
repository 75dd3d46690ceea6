"""The mirror law: on prices turned upside down (K - P), a short decides exactly as the long does on the prices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from adapters.backtrader.engine import build_engine
from domain.bars import Bar
from domain.events import OrderRequested, SignalEvaluated, SliceClosed
from domain.ibs import StrategySettings
from domain.levels import ATR_BARS
from domain.units import Price

TICK = 250_000_000
MINUTES = ATR_BARS + 150
BASE = StrategySettings(
    veto=False,
    decision_timeframe="1m",
    warmup_bars=20,
    pivot_strength=2,
    entry_windows=("00:00-24:00",),
    exit_after_bars=6,
    no_entry_before_auto_close_s=0,
    auto_close_before_end_s=60,
)
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""A smaller market is no simpler to read, and finding one takes minutes."""
OTHER = {"long": "short", "both": "both"}


def mirrored(bars: Sequence[Bar], level: int) -> tuple[Bar, ...]:
    return tuple(
        attrs.evolve(
            bar,
            open=Price(level - bar.open),
            high=Price(level - bar.low),
            low=Price(level - bar.high),
            close=Price(level - bar.close),
        )
        for bar in bars
    )


def upside_down(slices: Iterable[SliceClosed], level: int) -> list[SliceClosed]:
    return [
        attrs.evolve(
            closed,
            minutes=mirrored(closed.minutes, level),
            hours=mirrored(closed.hours, level),
            days=mirrored(closed.days, level),
        )
        for closed in slices
    ]


def played(kit: SimpleNamespace, slices: Sequence[SliceClosed], strategy: StrategySettings) -> Any:
    """The first bars are history: as many as the average range needs."""
    opened = kit.session_opened(("ES", "NQ"), settings=strategy)
    # Coarse, so that what is sent is rounded.
    spec = attrs.evolve(opened.roots[0].data_spec, tick_size=Price(3 * TICK))
    roots = tuple(attrs.evolve(root, data_spec=spec) for root in opened.roots)
    history = kit.tables_of(slices[:ATR_BARS], ("1m",))
    journal = kit.Journal(build_engine(attrs.evolve(opened, roots=roots), None, history))
    for closed in slices[ATR_BARS:]:
        journal.close(closed)
    return journal


def decision(signal: SignalEvaluated) -> tuple[object, ...]:
    gates = [(gate.name, gate.is_passed, gate.reason) for gate in signal.gates if gate.name != "side"]
    return (signal.root, signal.ts, gates, abs(signal.position), signal.verdict, signal.reason)


def request(order: OrderRequested, level: int, *, is_mirror: bool) -> tuple[object, ...]:
    """An order as the other market sees it."""

    def at(price: Price | None) -> int | None:
        return price if price is None or not is_mirror else level - price

    side = order.side if not is_mirror else {"buy": "sell", "sell": "buy"}[order.side]
    prices = (order.limit_price, order.reference_price, order.stop_price, order.target_price)
    return (
        *(order.root, order.intent, side, order.quantity, order.order_type, order.decided_ns, order.reason),
        *map(at, prices),
        *(order.bars_held, order.pnl_assumed, order.cancels_working),
    )


@st.composite
def strategies(draw: st.DrawFn) -> tuple[StrategySettings, int]:
    """A long strategy and the level of the mirror: where percentages are of prices, only 0 keeps them."""
    in_ranges = draw(st.booleans())
    level = draw(st.integers(1, 20_000)) * 3 * TICK if in_ranges else 0
    exits: dict[str, Decimal] = (
        {"stop_atr": Decimal("1.5"), "target_atr": Decimal("0.7")}
        if in_ranges
        else {"stop_pct": Decimal("0.13"), "target_pct": Decimal("0.09")}
    )
    high = draw(st.sampled_from((0.2, 0.4)))
    strategy = attrs.evolve(
        BASE,
        side=draw(st.sampled_from(("long", "both"))),
        entry_ibs_high=high,
        exit_ibs_low=1.0 - high,
        pivot_gate=draw(st.booleans()),
        entry_order=draw(st.sampled_from(("market", "limit"))),
        bracket=draw(st.booleans()),
        protective_stop=draw(st.sampled_from((Decimal(0), Decimal("1.7")))),
        cooldown_after_stop_bars=2,
        sizing=draw(st.sampled_from(("fixed", "risk"))),
        risk_usd=Decimal(170),
        max_size=5,
        **exits,
    )
    return strategy, level


@settings(max_examples=3, deadline=None, phases=UNSHRUNK)
@given(chosen=strategies(), seed=st.integers(0, 1_000))
def test_a_short_on_mirrored_prices_decides_as_the_long(
    kit: SimpleNamespace, chosen: tuple[StrategySettings, int], seed: int
) -> None:
    check_mirror(kit, *chosen, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=100, deadline=None, phases=UNSHRUNK)
@given(chosen=strategies(), seed=st.integers(0, 1_000))
def test_a_short_decides_as_the_long_in_many_markets(
    kit: SimpleNamespace, chosen: tuple[StrategySettings, int], seed: int
) -> None:
    check_mirror(kit, *chosen, seed)


def check_mirror(kit: SimpleNamespace, strategy: StrategySettings, level: int, seed: int) -> None:
    slices = kit.slices_of(kit.random_minutes(("ES", "NQ"), 1, seed=seed)[:MINUTES])
    long = played(kit, slices, strategy)
    short = played(kit, upside_down(slices, level), attrs.evolve(strategy, side=OTHER[strategy.side]))
    assert [decision(signal) for signal in short.signals] == [decision(signal) for signal in long.signals]
    expected = [request(order, level, is_mirror=False) for order in long.requests]
    assert [request(order, level, is_mirror=True) for order in short.requests] == expected
    assert [fill.price for fill in long.fills] == [level - fill.price for fill in short.fills]
    assert long.requests


def test_a_short_is_left_for_each_reason_that_a_long_is(kit: SimpleNamespace) -> None:
    strategy = attrs.evolve(BASE, side="short", pivot_gate=False, stop_pct=Decimal("0.12"), target_pct=Decimal("0.12"))
    slices = kit.slices_of(kit.random_minutes(("ES", "NQ"), 1)[:MINUTES])
    short = played(kit, slices, strategy)
    exits = [order for order in short.requests if order.intent == "exit"]
    assert {order.reason for order in exits} == {"stop", "target", "ibs", "bar_stop"}
    assert {order.side for order in exits} == {"buy"}
    entries = [order for order in short.requests if order.intent == "entry"]
    assert {order.side for order in entries} == {"sell"}
    assert all(order.ibs is not None and order.ibs >= 0.8 for order in entries)


@pytest.mark.parametrize(("side", "sides"), [("long", {"buy"}), ("short", {"sell"}), ("both", {"buy", "sell"})])
def test_only_the_configured_side_is_entered(kit: SimpleNamespace, side: Any, sides: set[str]) -> None:
    slices = kit.slices_of(kit.random_minutes(("ES", "NQ"), 1)[: ATR_BARS + 60])
    journal = played(kit, slices, attrs.evolve(BASE, side=side, pivot_gate=False))
    assert {order.side for order in journal.requests if order.intent == "entry"} == sides
    named = {gate.value for signal in journal.signals for gate in signal.gates if gate.name == "side"}
    if side != "both":
        assert {memory.was_short for memory in journal.engine.memories()} == {side == "short"}
    assert named == {"long": set(), "short": {"short"}, "both": {"long", "short"}}[side]
