"""IbsStrategy in a plain Cerebro: each exit reason, each refusing gate, both decision timeframes.

A scenario is a list of decision bars (open, high, low, close) of ES. With hour bars
deciding, each becomes two minutes: the first one makes the range and ends on the open,
the hour's last one ends on the close. An order fills at the next minute's open.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.backtrader.roots import holding_at
from domain.bars import Bar
from domain.errors import OurError
from domain.events import SignalEvaluated
from domain.ibs import StrategySettings
from domain.units import HOUR, MINUTE, Nanos, Price

Ohlc = tuple[float, float, float, float]

ENTRY: Ohlc = (100, 101, 99, 99)  # IBS 0; the order fills at the next bar's open, 99
MID: Ohlc = (99, 99.5, 98.5, 99)  # IBS 0.5
STOP: Ohlc = (99, 99.25, 97.5, 98)  # 98 <= 98.01
TARGET: Ohlc = (99, 101.5, 98.5, 100)  # 100 >= 99.99
HIGH: Ohlc = (99, 99.5, 98.5, 99.5)  # IBS 1
LOW: Ohlc = (99, 101, 98.5, 98.5)  # IBS 0, above the stop
ABOVE: Ohlc = (100, 101, 99.5, 99.5)  # IBS 0, and never down at 99

SETTINGS = StrategySettings(veto=False, warmup_bars=1, pivot_gate=False)


class Recorder(IbsStrategy):
    """IbsStrategy, with what it was told about orders."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[tuple[str, str]] = []
        self.fills: list[tuple[str, str, Nanos, float, int | None]] = []

    def notify_order(self, order: Any) -> None:
        super().notify_order(order)
        note = order.info.request
        self.statuses.append((note.intent, order.getstatusname()))
        if order.status == order.Completed:
            self.fills.append((note.intent, note.reason, note.decided_ns, order.executed.price, note.bars_held))


class Scenario:
    """A run of a plain backtest over decision bars that start at `start`."""

    def __init__(
        self,
        kit: SimpleNamespace,
        bars: Sequence[Ohlc],
        settings: StrategySettings,
        *,
        start: Nanos | None = None,
        cash: float = 1e9,
        recorder: type[IbsStrategy] | None = None,
    ) -> None:
        self.length = HOUR if settings.decision_timeframe == "1h" else MINUTE
        self.start = kit.chicago(kit.MONDAY, 8) if start is None else start
        minutes = [[minute] for i, ohlc in enumerate(bars) for minute in self._minutes(kit, i, ohlc)]
        slices = kit.slices_of(minutes)
        cerebro = kit.plain_cerebro(slices, ("ES",), settings=settings, strategy=recorder or Recorder, cash=cash)
        # A day bar may be missing at the end: Backtrader needs one bar of every feed for runonce only.
        (self.strategy,) = cerebro.run(runonce=False, preload=False)

    def _minutes(self, kit: SimpleNamespace, index: int, ohlc: Ohlc) -> list[Bar]:
        end = self.end_of(index)
        if self.length == MINUTE:
            return [kit.bar("ES", end, ohlc)]
        open_, high, low, close = ohlc
        first = kit.bar("ES", Nanos(end - HOUR + MINUTE), (open_, high, low, open_))
        return [first, kit.bar("ES", end, (open_, max(open_, close), min(open_, close), close))]

    def end_of(self, index: int) -> Nanos:
        return Nanos(self.start + (index + 1) * self.length)

    @property
    def signals(self) -> list[SignalEvaluated]:
        signals: list[SignalEvaluated] = self.strategy.signals
        return signals

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(signal.verdict, signal.reason) for signal in self.signals]

    @property
    def exits(self) -> list[tuple[str, int, int | None]]:
        """(reason, index of the bar that decided, bars held) of every exit that filled."""
        return [
            (reason, (decided - self.start) // self.length - 1, held)
            for intent, reason, decided, _, held in self.strategy.fills
            if intent == "exit"
        ]


@pytest.fixture(params=["1h", "1m"])
def settings(request: pytest.FixtureRequest) -> StrategySettings:
    return attrs.evolve(SETTINGS, decision_timeframe=request.param)


# ------------------------------------------------------------------- exits


@pytest.mark.parametrize(
    ("bars", "exit"),
    [
        ([ENTRY, MID, STOP, MID], ("stop", 2, 1)),
        ([ENTRY, STOP, MID], ("stop", 1, 0)),
        ([ENTRY, MID, TARGET, MID], ("target", 2, 1)),
        ([ENTRY, MID, HIGH, MID], ("ibs", 2, 1)),
        ([ENTRY, HIGH, MID], ("ibs", 1, 0)),
        ([ENTRY, MID, MID, MID, MID, MID, MID], ("bar_stop", 4, 3)),
    ],
)
def test_each_exit_reason_comes_on_its_bar(
    kit: SimpleNamespace, settings: StrategySettings, bars: list[Ohlc], exit: tuple[str, int, int]
) -> None:
    run = Scenario(kit, bars, attrs.evolve(settings, exit_after_bars=3))
    reason, index, _ = exit
    assert run.exits == [exit]
    assert run.verdicts[0] == ("enter", "")
    assert run.verdicts[1:index] == [("hold", "")] * (index - 1)
    assert run.verdicts[index] == ("exit", reason)


def test_auto_close_comes_at_the_deadline(kit: SimpleNamespace, settings: StrategySettings) -> None:
    deadline = kit.chicago(kit.MONDAY, 15)  # 16:00 in New York
    length = HOUR if settings.decision_timeframe == "1h" else MINUTE
    settings = attrs.evolve(settings, no_entry_before_auto_close_s=length // 10**9, entry_windows=("00:00-24:00",))
    run = Scenario(kit, [ENTRY, MID, MID], settings, start=Nanos(deadline - 2 * length))
    assert run.exits == [("auto_close", 1, 0)]
    assert run.verdicts[1] == ("exit", "auto_close")


def test_the_deadline_is_earlier_when_the_session_is(kit: SimpleNamespace) -> None:
    settings = attrs.evolve(SETTINGS, auto_close_before_end_s=6 * 3600)  # 10:00 in Chicago
    run = Scenario(kit, [ENTRY, MID, MID], settings)
    assert run.verdicts[:2] == [("enter", ""), ("exit", "auto_close")]


def test_a_stop_is_seen_at_a_minute_close_inside_the_hour(kit: SimpleNamespace) -> None:
    # Filled at 99 by the next hour's first minute; the hour after opens at 97, its first minute's close.
    run = Scenario(kit, [ENTRY, MID, (97, 99, 96, 98.9), MID], SETTINGS)
    assert [exit[0] for exit in run.exits] == ["stop"]
    assert run.strategy.fills[1][2] == run.end_of(1) + MINUTE


def test_only_the_signal_bar_is_excluded_from_exits(kit: SimpleNamespace, settings: StrategySettings) -> None:
    everything_exits = attrs.evolve(settings, exit_ibs_low=0.0)
    run = Scenario(kit, [ENTRY, MID, MID], everything_exits)
    assert run.exits == [("ibs", 1, 0)]


def test_a_bar_without_range_is_no_exit_signal(kit: SimpleNamespace, settings: StrategySettings) -> None:
    everything_exits = attrs.evolve(settings, exit_ibs_low=0.0)
    run = Scenario(kit, [ENTRY, (99, 99, 99, 99), MID, MID], everything_exits)
    assert run.exits == [("ibs", 2, 1)]


@given(
    price=st.integers(-(10**14), 10**14),
    distance=st.integers(-3, 3),
    percent=st.decimals("0.01", "9", places=2),
)
def test_integer_levels_decide_as_the_exact_ones(price: int, distance: int, percent: Decimal) -> None:
    settings = attrs.evolve(SETTINGS, stop_pct=percent, target_pct=percent)
    holding = holding_at(
        Price(price), settings, contract="ESM4", quantity=1, opened_ns=Nanos(0), order_ref=None, is_unknown=False
    )
    size = abs(Decimal(price)) * percent / 100
    for level, close in ((holding.stop_at, holding.stop_at + distance), (holding.target_at, holding.target_at)):
        assert (close <= holding.stop_at) == (Decimal(close) <= price - size), level
    close = holding.target_at + distance
    assert (close >= holding.target_at) == (Decimal(close) >= price + size)


def test_the_levels_of_a_short_position_are_mirrored() -> None:
    long, short = (
        holding_at(
            Price(price), SETTINGS, contract="ESM4", quantity=held, opened_ns=Nanos(0), order_ref=None, is_unknown=False
        )
        for price, held in ((5_001, 1), (-5_001, -1))
    )
    assert (short.stop_at, short.target_at) == (-long.stop_at, -long.target_at)


def test_a_holding_of_nothing_is_refused() -> None:
    with pytest.raises(OurError, match="nothing"):
        holding_at(
            Price(1), SETTINGS, contract="ESM4", quantity=0, opened_ns=Nanos(0), order_ref=None, is_unknown=False
        )


# ----------------------------------------------------------------- refusals

RANGE: list[Ohlc] = [(105, 106, 104, 105), (105, 107, 103, 105), (105, 106, 104, 105)]


@pytest.mark.parametrize(
    ("refused", "changes", "bars"),
    [
        (("warm_up", "warm_up_incomplete"), {"warmup_bars": 2}, [ENTRY]),
        (("time_window", "outside_time_window"), {"entry_windows": ("00:00-01:00",)}, [ENTRY]),
        (("ibs_band", "ibs_outside_band"), {}, [MID]),
        (("ibs_band", "zero_range"), {"entry_ibs_high": 1.0}, [(99, 99, 99, 99)]),
        (("pivot", "pivot_missing"), {"pivot_gate": True}, [ENTRY]),
        (("pivot", "outside_pivot_range"), {"pivot_gate": True, "pivot_strength": 1}, [*RANGE, ENTRY]),
        (("near_auto_close", "near_auto_close"), {"no_entry_before_auto_close_s": 86_400}, [ENTRY]),
        (("position", "position_held"), {}, [ENTRY, LOW]),
        (("pending", "order_unfinished"), {"entry_order": "limit", "cancel_after_s": 9999}, [ENTRY, ABOVE]),
        (("cooldown", "cooldown"), {"cooldown_bars": 2}, [ENTRY, HIGH, LOW]),
        (("cooldown", "cooldown"), {"cooldown_after_stop_bars": 2}, [ENTRY, STOP, LOW]),
        (("veto", "veto_model_missing"), {"veto": True}, [ENTRY]),
    ],
)
def test_each_gate_refuses_alone(
    kit: SimpleNamespace,
    settings: StrategySettings,
    refused: tuple[str, str],
    changes: dict[str, Any],
    bars: list[Ohlc],
) -> None:
    run = Scenario(kit, bars, attrs.evolve(settings, **changes))
    last = run.signals[-1]
    assert [(gate.name, gate.reason) for gate in last.gates if not gate.is_passed] == [refused]
    # While a position is held an entry is out of the question: the bar is a hold, with no reason of its own.
    held = refused[0] == "position"
    assert (last.verdict, last.reason) == (("hold", "") if held else ("refuse", refused[1]))


def test_every_gate_is_evaluated_on_every_bar(kit: SimpleNamespace, settings: StrategySettings) -> None:
    run = Scenario(kit, [ENTRY, MID, TARGET, MID], attrs.evolve(settings, warmup_bars=99, veto=True))
    names = [
        "warm_up",
        "fresh",
        "session",
        "time_window",
        "ibs_band",
        "pivot",
        "near_auto_close",
        "position",
        "pending",
        "cooldown",
        "veto",
    ]
    assert [[gate.name for gate in signal.gates] for signal in run.signals] == [names] * 4
    assert {signal.verdict for signal in run.signals} == {"refuse"}


def test_the_window_looks_at_the_start_of_the_bar_in_new_york(kit: SimpleNamespace) -> None:
    at_nine = attrs.evolve(SETTINGS, entry_windows=("09:00-10:00",))
    run = Scenario(kit, [ENTRY], at_nine)  # 08:00-09:00 in Chicago starts at 09:00 in New York
    assert run.verdicts == [("enter", "")]
    assert (run.signals[0].bar_start, run.signals[0].ts) == (run.start, run.end_of(0))


def test_the_cooldown_counts_decision_bars(kit: SimpleNamespace, settings: StrategySettings) -> None:
    run = Scenario(kit, [ENTRY, HIGH, LOW, LOW, LOW], attrs.evolve(settings, cooldown_bars=2))
    assert run.verdicts[2:] == [("refuse", "cooldown"), ("refuse", "cooldown"), ("enter", "")]


def test_a_switched_off_veto_passes_and_says_so(kit: SimpleNamespace) -> None:
    gate = Scenario(kit, [ENTRY], SETTINGS).signals[0].gates[-1]
    assert (gate.name, gate.is_passed, gate.value) == ("veto", True, "off")


# ------------------------------------------------------------------ orders


def test_a_limit_entry_is_the_close_rounded_down_to_a_tick(kit: SimpleNamespace, settings: StrategySettings) -> None:
    settings = attrs.evolve(settings, entry_order="limit", entry_ibs_high=0.3)
    run = Scenario(kit, [(100, 101, 99, 99.1), (99.2, 99.5, 98.5, 99), MID], settings)
    assert run.strategy.fills[0][3] == 99.0


def test_a_limit_entry_that_is_not_reached_expires_and_blocks_no_longer(kit: SimpleNamespace) -> None:
    settings = attrs.evolve(SETTINGS, entry_order="limit", cancel_after_s=60)
    run = Scenario(kit, [ENTRY, ABOVE, (100.5, 101.5, 100.25, 100.25)], settings)
    assert run.strategy.statuses[:3] == [("entry", "Submitted"), ("entry", "Accepted"), ("entry", "Expired")]
    assert run.verdicts == [("enter", "")] * 3


def test_an_order_rejected_for_margin_blocks_no_longer(kit: SimpleNamespace, settings: StrategySettings) -> None:
    run = Scenario(kit, [ENTRY, LOW, LOW], settings, cash=10.0)
    assert ("entry", "Margin") in run.strategy.statuses
    assert run.verdicts == [("enter", "")] * 3


def test_settings_and_plans_are_required(kit: SimpleNamespace) -> None:
    cerebro = kit.plain_cerebro([], ("ES",), settings=None)
    with pytest.raises(OurError, match="needs settings"):
        cerebro.run()


class Late(Recorder):
    """Every slice comes from a replay."""

    def start(self) -> None:
        super().start()
        self.is_late = True


def test_a_late_slice_updates_everything_and_causes_no_entry(kit: SimpleNamespace, settings: StrategySettings) -> None:
    prompt, late = (Scenario(kit, [ENTRY, MID], settings, recorder=recorder) for recorder in (None, Late))
    assert prompt.verdicts[0] == ("enter", "")
    assert late.verdicts[0] == ("refuse", "missed_outage")
    assert [signal.ibs for signal in late.signals] == [signal.ibs for signal in prompt.signals]
