"""Late slices and lost records in the engine: exits that wait, entries that are refused, windows that start anew."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from adapters.backtrader.engine import build_engine
from domain.events import OrderRequested, RootReset, SignalEvaluated, SliceClosed
from domain.ibs import StrategySettings
from domain.units import HOUR, MINUTE, Nanos
from tests.bundles import small_bundle

SETTINGS = StrategySettings(veto=False, warmup_bars=1, pivot_gate=False)
LOW = (100.0, 101.0, 99.0, 99.0)
HIGH = (99.0, 101.0, 99.0, 101.0)


class Outage:
    """ES is held, GC is flat; hours are given in time or late."""

    def __init__(self, kit: SimpleNamespace) -> None:
        self.kit = kit
        self.journal = kit.Journal(build_engine(kit.session_opened(("ES", "GC"), settings=SETTINGS), None, []))
        self.now = kit.chicago(kit.MONDAY, 8)
        (request,) = (e for e in self.hour({"ES": LOW}) if isinstance(e, OrderRequested))
        self.journal.accept(request)
        self.journal.fill(request, self.bar("ES", LOW, HOUR).close, Nanos(self.now + 1))

    def bar(self, root: str, ohlc: tuple[float, ...], length: int) -> Any:
        return self.kit.bar(root, self.now, ohlc, length=length)

    def hour(self, bars: dict[str, tuple[float, ...]], *, is_late: bool = False) -> tuple[Any, ...]:
        self.now = Nanos(self.now - self.now % HOUR + HOUR)
        closed = SliceClosed(ts=self.now, hours=tuple(self.bar(root, ohlc, HOUR) for root, ohlc in bars.items()))
        out: tuple[Any, ...] = self.journal.engine.step(closed, is_late=is_late)
        return out

    def minute(self, root: str, price: float, *, is_late: bool = False) -> tuple[Any, ...]:
        self.now = Nanos(self.now + MINUTE)
        bar = self.bar(root, (price,) * 4, MINUTE)
        out: tuple[Any, ...] = self.journal.engine.step(SliceClosed(ts=self.now, minutes=(bar,)), is_late=is_late)
        return out


def test_an_exit_hour_that_was_missed_closes_on_return_and_its_entry_is_not_made(kit: SimpleNamespace) -> None:
    at = Outage(kit)
    held, missed = at.hour({"ES": HIGH, "GC": LOW}, is_late=True)
    assert (held.root, held.verdict, held.reason) == ("ES", "hold", "ibs")
    assert (missed.root, missed.verdict, missed.reason) == ("GC", "refuse", "missed_outage")
    assert at.minute("GC", 99.0, is_late=True) == ()
    assert at.journal.engine.on_clock(at.now) == (), "the clock goes on during a replay"
    (request,) = at.minute("GC", 99.0)
    assert (request.root, request.intent, request.reason) == ("ES", "exit", "ibs")


def test_a_stop_that_was_touched_in_an_outage_stays_although_the_price_is_back(kit: SimpleNamespace) -> None:
    at = Outage(kit)
    assert at.minute("ES", 90.0, is_late=True) == ()
    assert at.minute("ES", 99.0, is_late=True) == ()
    (request,) = at.minute("ES", 99.0)
    assert (request.intent, request.reason) == ("exit", "stop")


def test_the_auto_close_waits_for_no_slice(kit: SimpleNamespace) -> None:
    at = Outage(kit)
    assert at.minute("ES", 90.0, is_late=True) == ()
    (request,) = at.journal.engine.on_clock(kit.chicago(kit.MONDAY, 15))
    assert (request.intent, request.reason) == ("exit", "stop")


def test_missed_bars_count_for_the_windows(kit: SimpleNamespace) -> None:
    at = Outage(kit)
    at.hour({"GC": LOW}, is_late=True)
    (signal, _) = at.hour({"GC": LOW})
    assert (signal.verdict, signal.gates[0].value) == ("enter", "2 of 1")


# ---------------------------------------------------------------- resets


def test_a_reset_starts_the_root_anew_and_leaves_every_other_as_it_was(kit: SimpleNamespace) -> None:
    settings = attrs.evolve(SETTINGS, warmup_bars=4, entry_ibs_high=0.5)
    slices = kit.slices_of(kit.random_minutes(("ES", "GC"), 1, seed=3))
    middle = kit.chicago(kit.MONDAY, 3) + 20 * MINUTE
    runs = []
    for is_reset in (False, True):
        journal = kit.Journal(build_engine(kit.session_opened(("ES", "GC"), settings=settings), None, []))
        for closed in slices:
            if is_reset and closed.ts == middle:
                journal.engine.notify(RootReset(root="GC", since=middle, reason="test"))
            journal.close(closed)
        runs.append(journal)
    plain, reset = runs

    def of_root(journal: Any, root: str) -> list[Any]:
        return [event for event in journal.outputs if event.root == root]

    assert any(isinstance(event, OrderRequested) for event in of_root(plain, "ES"))
    assert of_root(reset, "ES") == of_root(plain, "ES")
    signals = [event for event in of_root(reset, "GC") if isinstance(event, SignalEvaluated) and event.ts >= middle]
    warm_up, fresh = zip(*(signal.gates[:2] for signal in signals[:5]), strict=True)
    assert [gate.value for gate in warm_up] == [f"{count} of 4" for count in range(5)]
    assert [gate.reason for gate in fresh] == ["gap_in_bar", "", "", "", ""]


def test_a_reset_keeps_the_position_and_its_exits(kit: SimpleNamespace) -> None:
    at = Outage(kit)
    at.journal.engine.notify(RootReset(root="ES", since=at.now, reason="test"))
    (request,) = at.minute("ES", 90.0)
    assert (request.intent, request.reason, request.quantity) == ("exit", "stop", 1)


def test_bars_of_before_a_carried_reset_are_not_whole_in_the_next_segment(kit: SimpleNamespace) -> None:
    now = kit.chicago(kit.MONDAY, 9)
    reset = RootReset(root="ES", since=Nanos(now - 20 * MINUTE), reason="test")
    hour = SliceClosed(ts=now, hours=(kit.bar("ES", now, LOW, length=HOUR),))
    for resets, reason in (((reset,), "gap_in_bar"), ((), "")):
        carried = attrs.evolve(fresh_state(), resets=resets)
        engine = build_engine(kit.session_opened(("ES",), settings=SETTINGS), carried, [])
        assert engine.step(hour)[0].reason == reason


def test_who_reads_a_root_that_was_reset_lacks_its_input(
    kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from actors.veto_models import record_of

    model = small_bundle(tmp_path_factory.mktemp("models"), "ES", features=("ibs_pct", "nq_daily_return"))
    wide = attrs.evolve(SETTINGS, veto=True, entry_ibs_high=1.0, entry_windows=("00:00-24:00",))
    slices = kit.slices_of(kit.random_minutes(("ES", "NQ"), 3, seed=5))
    cut = kit.chicago(kit.MONDAY + dt.timedelta(days=1), 16)
    opened = kit.session_opened(("ES", "NQ"), date=kit.MONDAY + dt.timedelta(days=2), settings=wide)
    engine = build_engine(
        attrs.evolve(opened, models=(record_of(model),)),
        None,
        kit.tables_of([closed for closed in slices if closed.ts <= cut]),
        models={"ES": model},
    )
    hours = [closed for closed in slices if closed.ts > cut and closed.hours]

    def veto_of(closed: SliceClosed) -> Any:
        events = (event for event in engine.step(closed) if isinstance(event, SignalEvaluated))
        return next(event for event in events if event.root == "ES").gates[-1]

    assert veto_of(hours[0]).reason != "veto_input_missing"
    engine.notify(RootReset(root="NQ", since=hours[0].ts, reason="test"))
    after = veto_of(hours[1])
    assert (after.reason, after.value) == ("veto_input_missing", "NQ 1d: no bars (nq_daily_return)")
