"""Shadow models beside the live ones, and feeds that entries wait for: what they record, and what they leave alone."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from actors.veto_models import record_of
from adapters.backtrader.engine import CerebroEngine, build_engine
from domain.events import RootReset, ShadowScored, SignalEvaluated, SliceClosed, VetoScored
from domain.ibs import StrategySettings
from domain.units import DAY, Nanos
from domain.veto import ModelRecord, Score
from models import ModelBundle
from tests.bundles import Meddling, small_bundle

DAYS = 3
ROOTS = ("ES", "GC", "NQ")
WIDE = StrategySettings(
    warmup_bars=1, pivot_gate=False, entry_ibs_high=1.0, exit_after_bars=1, entry_windows=("00:00-24:00",)
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("models"), "ES")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    features = ("ibs_pct", "es_hourly_return", "nq_hourly_return", "nq_daily_return")
    return small_bundle(tmp_path_factory.mktemp("models"), "ES", features=features, seed=5, threshold=0.52)


@pytest.fixture(scope="module")
def slices(kit: SimpleNamespace) -> list[SliceClosed]:
    minutes = kit.random_minutes(ROOTS, DAYS, seed=21)
    found: list[SliceClosed] = kit.slices_of(bars for index, bars in enumerate(minutes) if index % 12 in (3, 11))
    return found


def cut_of(kit: SimpleNamespace) -> Nanos:
    close: Nanos = kit.chicago(kit.MONDAY + dt.timedelta(days=DAYS - 2), 16)
    return close


def engine_of(
    kit: SimpleNamespace,
    slices: Sequence[SliceClosed],
    live: ModelBundle | None = None,
    shadow: Any = None,
    *,
    carried: Any = None,
    until: Nanos | None = None,
    without_days_of: str = "",
    **changes: Any,
) -> CerebroEngine:
    opened = kit.session_opened(ROOTS, date=kit.MONDAY + dt.timedelta(days=DAYS - 1), settings=WIDE)
    roots = tuple(attrs.evolve(root, is_reference=root.root == "NQ") for root in opened.roots)
    models, shadows = ({} if model is None else {"ES": model} for model in (live, shadow))
    records = [tuple(record_of(model) for model in of.values()) for of in (models, shadows)]
    opened = attrs.evolve(opened, roots=roots, models=records[0], shadows=records[1])
    tables = kit.tables_of([closed for closed in slices if closed.ts <= (until or cut_of(kit))])
    tables = [table for table in tables if (table.root, table.timeframe) != (without_days_of, "1d")]
    return build_engine(attrs.evolve(opened, **changes), carried, tables, models=models, shadows=shadows)


def play(kit: SimpleNamespace, engine: CerebroEngine, slices: Sequence[SliceClosed]) -> Any:
    journal = kit.Journal(engine)
    for closed in slices:
        if closed.ts > cut_of(kit):
            journal.close(closed)
    return journal


def shadows_of(journal: Any) -> list[ShadowScored]:
    return [event for event in journal.outputs if isinstance(event, ShadowScored)]


def others_of(journal: Any) -> list[Any]:
    return [event for event in journal.outputs if not isinstance(event, ShadowScored)]


@pytest.fixture(scope="module")
def alone(kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle) -> Any:
    journal = play(kit, engine_of(kit, slices, live), slices)
    assert journal.requests
    return journal


def test_a_shadow_is_on_record_after_each_evaluation_and_changes_nothing_else(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle, other: ModelBundle, alone: Any
) -> None:
    journal = play(kit, engine_of(kit, slices, live, other), slices)
    assert others_of(journal) == alone.outputs
    for before, event in zip([None, *journal.outputs], journal.outputs, strict=False):
        if isinstance(event, ShadowScored):
            assert isinstance(before, SignalEvaluated)
            assert (before.root, before.ts, event.digest) == ("ES", event.ts, other.digest)
    assert len(shadows_of(journal)) == sum(signal.root == "ES" for signal in journal.signals) > 20


def test_a_shadow_says_what_it_would_say_as_the_live_model(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle, other: ModelBundle
) -> None:
    acting = play(kit, engine_of(kit, slices, other), slices)
    shadows = {shadow.ts: shadow for shadow in shadows_of(play(kit, engine_of(kit, slices, live, other), slices))}
    assert len(acting.scores) > 20
    names = [field.name for field in attrs.fields(VetoScored)]
    for score in acting.scores:
        assert {name: getattr(shadows[score.ts], name) for name in names} == attrs.asdict(score)
        assert shadows[score.ts].reason == ("" if score.is_passed else "vetoed")
    assert Counter(shadow.is_passed for shadow in shadows.values()).keys() == {True, False}


def test_a_shadow_works_without_a_live_model_and_enters_nothing(
    kit: SimpleNamespace, slices: list[SliceClosed], other: ModelBundle
) -> None:
    journal = play(kit, engine_of(kit, slices, None, other), slices)
    assert any(shadow.is_passed for shadow in shadows_of(journal))
    assert not journal.requests


@pytest.mark.parametrize("side", ["long", "short"])
def test_a_shadow_of_one_side_says_nothing_of_the_other(
    kit: SimpleNamespace, slices: list[SliceClosed], other: ModelBundle, tmp_path: Any, side: Any
) -> None:
    strategy = attrs.evolve(WIDE, side=side, veto=False)
    of_side = small_bundle(tmp_path, "ES", side=side)
    said = shadows_of(play(kit, engine_of(kit, slices, None, of_side, strategy=strategy), slices))
    assert len(said) > 20
    assert all(shadow.probability is not None for shadow in said)
    mirrored = attrs.evolve(strategy, side="short" if side == "long" else "long")
    said = shadows_of(play(kit, engine_of(kit, slices, None, of_side, strategy=mirrored), slices))
    assert {(shadow.reason, shadow.detail) for shadow in said} == {("veto_model_side", f"trained on {side} entries")}


class NoNumber(Meddling):
    def score(self, values: Sequence[float]) -> Score:
        return Score(probability=math.nan, bias=0.5, contributions=(0.0,) * len(values))


def fail() -> None:
    raise ZeroDivisionError("no such leaf")


@pytest.mark.parametrize(
    ("broken", "detail"),
    [
        (lambda model: Meddling(model, fail), "ZeroDivisionError: no such leaf"),
        (NoNumber, "the model's answer is no number"),
    ],
)
def test_a_shadow_that_fails_is_a_failure_on_record_and_nothing_else(
    kit: SimpleNamespace, slices: list[SliceClosed], other: ModelBundle, alone: Any, *, broken: Any, detail: str
) -> None:
    live = small_bundle(other.directory.parent.parent / "live", "ES")
    engine = engine_of(kit, slices, live, broken(other))
    journal = play(kit, engine, slices)
    assert others_of(journal) == alone.outputs
    failed = shadows_of(journal)[-1]
    assert (failed.is_passed, failed.reason, failed.detail, failed.probability) == (False, "veto_failed", detail, None)
    assert engine.memories() == alone.engine.memories()


def test_a_refused_shadow_leaves_no_record_of_bars(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle, alone: Any
) -> None:
    refused = (ModelRecord(root="ES", refusal="changed"),)
    assert play(kit, engine_of(kit, slices, live, shadows=refused), slices).outputs == alone.outputs


def test_both_models_percentiles_go_on_in_the_next_file(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle, other: ModelBundle
) -> None:
    from actors.carry import fresh_state

    half = [closed for closed in slices if closed.ts <= cut_of(kit) + DAY // 2]
    rest = [closed for closed in slices if closed.ts > cut_of(kit) + DAY // 2]
    first = engine_of(kit, slices, live, other)
    play(kit, first, half)
    left = first.percentiles()
    assert {state.seed for state in left} == {live.digest, other.digest}
    carried = attrs.evolve(fresh_state(), percentiles=left)
    whole = {shadow.ts: shadow for shadow in shadows_of(play(kit, engine_of(kit, slices, live, other), slices))}
    for model, seeds in ((other, 2), (live, 1)):
        # The same model as live and shadow has one population, not one that counts everything twice.
        before = engine_of(kit, slices, live, model)
        play(kit, before, half)
        assert len({state.seed for state in before.percentiles()}) == len(before.percentiles()) == seeds
    second = kit.Journal(engine_of(kit, half, live, other, carried=carried, until=half[-1].ts))
    for closed in rest:
        second.close(closed)
    again = shadows_of(second)
    assert again[-1].probability is not None
    assert [attrs.asdict(shadow) for shadow in again] == [attrs.asdict(whole[shadow.ts]) for shadow in again]


# --------------------------------------------------------- required feeds


def reasons(journal: Any) -> set[str]:
    return {signal.reason for signal in journal.signals if signal.verdict == "refuse"}


def gate_of(signal: SignalEvaluated) -> Any:
    (gate,) = (gate for gate in signal.gates if gate.name == "reference_feeds")
    return gate


@pytest.mark.parametrize("names", [("NQ_day",), ("NQ_day", "GC_day")])
def test_entries_go_on_while_the_required_feeds_have_their_last_day(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle, alone: Any, names: tuple[str, ...]
) -> None:
    journal = play(kit, engine_of(kit, slices, live, required_reference_feeds=names), slices)
    assert journal.requests == alone.requests
    assert {gate_of(signal).value for signal in journal.signals} == {"there"}


def test_without_a_required_feeds_last_day_nothing_is_entered_and_the_feed_is_named(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle
) -> None:
    engine = engine_of(
        kit, slices, live, without_days_of="NQ", required_reference_feeds=("GC_day", "NQ_day", "TLT_day")
    )
    journal = play(kit, engine, slices)
    assert not journal.requests
    assert "reference_feed_missing:NQ_day" in reasons(journal)
    assert gate_of(journal.signals[0]).value == "NQ_day, TLT_day"


def test_a_day_of_two_sessions_ago_is_not_the_last_one(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle
) -> None:
    early = cut_of(kit) - DAY
    stale = [
        closed if closed.ts <= early else attrs.evolve(closed, days=tuple(b for b in closed.days if b.root != "NQ"))
        for closed in slices
    ]
    journal = play(kit, engine_of(kit, stale, live, required_reference_feeds=("NQ_day",)), stale)
    assert {gate_of(signal).is_passed for signal in journal.signals} == {False}


def test_a_feed_whose_bars_were_lost_is_missing_until_its_next_whole_day(
    kit: SimpleNamespace, slices: list[SliceClosed], live: ModelBundle
) -> None:
    engine = engine_of(kit, slices, live, required_reference_feeds=("NQ_day",))
    journal = kit.Journal(engine)
    today = [closed for closed in slices if closed.ts > cut_of(kit)]
    journal.tell(RootReset(root="NQ", since=today[0].ts, reason="gap"))
    for closed in today:
        journal.close(closed)
    assert {gate_of(signal).reason for signal in journal.signals} == {"reference_feed_missing:NQ_day"}
