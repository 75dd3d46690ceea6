"""The veto in the engine and in a plain Cerebro: one score per decision, the same bits, and no entry without it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import backtrader as bt
import pytest

from actors.veto_models import record_of
from adapters.backtrader.engine import CerebroEngine, build_engine
from adapters.backtrader.feeds import TIMEFRAMES, BarFeed, feed_name
from adapters.backtrader.ibs_strategy import IbsStrategy
from domain.bars import Bar
from domain.errors import OurError
from domain.events import (
    OrderRequested,
    RiskDecided,
    SessionOpened,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
    VetoScored,
)
from domain.ibs import StrategySettings
from domain.units import DAY, HOUR, Nanos
from domain.veto import ModelRecord
from models import ModelBundle, strategy_kwargs_from_bundle
from tests.bundles import Meddling, small_bundle

DAYS = 4
"""Three sessions of history and the one that is traded; NQ is read only."""
ROOTS = ("ES", "GC", "NQ")
WIDE = StrategySettings(
    warmup_bars=1, pivot_gate=False, entry_ibs_high=1.0, exit_after_bars=1, entry_windows=("00:00-24:00",)
)
"""Whatever the model lets through enters."""


@pytest.fixture(scope="module")
def es(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("models"), "ES")


@pytest.fixture(scope="module")
def gc(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    features = ("nq_daily_return", "gc_hourly_return", "ibs_pct")
    return small_bundle(tmp_path_factory.mktemp("models"), "GC", features=features, threshold=0.45)


@pytest.fixture(scope="module")
def slices(kit: SimpleNamespace) -> list[SliceClosed]:
    """A few minutes of every hour."""
    minutes = kit.random_minutes(ROOTS, DAYS, seed=21)
    found: list[SliceClosed] = kit.slices_of(bars for index, bars in enumerate(minutes) if index % 12 in (3, 11))
    return found


def cut_of(kit: SimpleNamespace) -> Nanos:
    """The end of the last session but one."""
    close: Nanos = kit.chicago(kit.MONDAY + dt.timedelta(days=DAYS - 2), 16)
    return close


def opened_of(kit: SimpleNamespace, *models: ModelBundle, settings: StrategySettings = WIDE) -> SessionOpened:
    opened: SessionOpened = kit.session_opened(ROOTS, date=kit.MONDAY + dt.timedelta(days=DAYS - 1), settings=settings)
    roots = tuple(attrs.evolve(root, is_reference=root.root == "NQ") for root in opened.roots)
    return attrs.evolve(opened, roots=roots, models=tuple(record_of(model) for model in models))


def engine_of(
    kit: SimpleNamespace, history: Iterable[SliceClosed], *models: ModelBundle, **opened: Any
) -> CerebroEngine:
    tables = kit.tables_of([closed for closed in history if closed.ts <= cut_of(kit)])
    session = attrs.evolve(opened_of(kit, *models), **opened)
    return build_engine(session, None, tables, models={model.root: model for model in models})


def run(kit: SimpleNamespace, slices: Sequence[SliceClosed], *models: ModelBundle, **opened: Any) -> Any:
    """The last session, traded."""
    journal = kit.Journal(engine_of(kit, slices, *models, **opened))
    for closed in slices:
        if closed.ts > cut_of(kit):
            journal.close(closed)
    return journal


@pytest.fixture(scope="module")
def session(kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle) -> Any:
    return run(kit, slices, es, gc)


def without(slices: Iterable[SliceClosed], root: str, *, start: int, end: int) -> list[SliceClosed]:
    """The market in which `root` is silent in hours that end in (start, end]."""
    return [
        attrs.evolve(
            closed,
            minutes=tuple(bar for bar in closed.minutes if bar.root != root or not start < bar.ts_end <= end),
            hours=tuple(bar for bar in closed.hours if bar.root != root or not start < bar.ts_end <= end),
        )
        for closed in slices
    ]


def veto_of(signal: SignalEvaluated) -> Any:
    gate = signal.gates[-1]
    assert gate.name == "veto"
    return gate


# ------------------------------------------------------------------- failures


def refuse_to_answer() -> None:
    raise ZeroDivisionError("no such leaf")


def test_a_model_that_raises_keeps_no_stop_exit_from_being_asked_for(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle
) -> None:
    model = Meddling(es)
    settings = attrs.evolve(WIDE, exit_ibs_low=2.0, exit_ibs_high=2.0, exit_after_bars=99)
    journal = kit.Journal(engine_of(kit, slices, model, gc, strategy=settings))  # type: ignore[arg-type]
    ahead = iter(closed for closed in slices if closed.ts > cut_of(kit))
    while not any(fill.root == "ES" for fill in journal.fills):
        journal.close(next(ahead))
    model.first = refuse_to_answer
    hour = next(closed for closed in ahead if {bar.root for bar in closed.hours} >= {"ES", "GC"})
    low = kit.bar("ES", hour.ts, (1.0, 1.0, 1.0, 1.0))
    others = tuple(bar for bar in hour.minutes if bar.root != "ES")
    out = journal.close(attrs.evolve(hour, minutes=(low, *others)))
    (signal,) = (event for event in out if isinstance(event, SignalEvaluated) and event.root == "ES")
    assert (veto_of(signal).reason, veto_of(signal).value) == ("veto_failed", "ZeroDivisionError: no such leaf")
    assert (signal.verdict, signal.reason, signal.probability) == ("exit", "stop", None)
    assert [(r.root, r.intent, r.reason) for r in out if isinstance(r, OrderRequested) and r.root == "ES"] == [
        ("ES", "exit", "stop")
    ]
    assert [event.root for event in out if isinstance(event, VetoScored)] == ["GC"]


@pytest.mark.parametrize(("since", "is_stale"), [(1, False), (-1, True), (0, True)])  # 0: the day before the last one
def test_the_last_completed_day_must_have_ended_in_the_day_before_the_session(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, since: int, is_stale: bool
) -> None:
    """The engine says since when. The last whole day is on no record, its hours neither: they make no day old."""
    opened = opened_of(kit, es)
    ended = opened.session.start_ns - DAY
    first = next(closed for closed in slices if closed.ts > cut_of(kit) and closed.hours)
    tables = []
    for table in kit.tables_of([closed for closed in slices if closed.ts <= ended]):
        data = table.data.copy()
        if table.timeframe == "1d":
            data[-1, 1] = ended + since
        tables.append(attrs.evolve(table, data=data))
    engine = build_engine(opened, None, tables, models={"ES": es})
    signal = next(e for e in engine.step(first) if isinstance(e, SignalEvaluated) and e.root == "ES")
    assert ("ES 1d: lacks the last completed day" in (veto_of(signal).value or "")) is is_stale


# --------------------------------------------------------------------- scores


def test_each_decision_has_its_score_right_before_it(session: Any, es: ModelBundle, gc: ModelBundle) -> None:
    models = {"ES": es, "GC": gc}
    decided = [event for event in session.outputs if not isinstance(event, OrderRequested)]
    assert len(decided) == 2 * 2 * 23
    for scored, signal in zip(decided[::2], decided[1::2], strict=True):
        assert isinstance(scored, VetoScored)
        assert isinstance(signal, SignalEvaluated)
        assert (scored.root, scored.ts) == (signal.root, signal.ts)
        assert (scored.probability, scored.threshold) == (signal.probability, signal.threshold)
        model = models[scored.root]
        again = model.score(scored.values)
        assert (scored.digest, scored.threshold) == (model.digest, model.threshold)
        assert (scored.probability, scored.bias, scored.contributions) == (
            again.probability,
            again.bias,
            again.contributions,
        )
        assert abs(scored.bias + sum(scored.contributions) - scored.probability) <= 1e-12
        assert scored.is_passed == veto_of(signal).is_passed == (scored.probability >= scored.threshold)
        assert veto_of(signal).value == f"{scored.probability!r} of {scored.threshold!r}"


def test_only_what_the_model_lets_through_enters_and_leaving_is_not_its_matter(session: Any) -> None:
    verdicts = {(signal.verdict, veto_of(signal).is_passed) for signal in session.signals}
    assert {("enter", True), ("refuse", False), ("exit", True), ("exit", False)} <= verdicts
    assert ("enter", False) not in verdicts
    assert sum(signal.reason == "vetoed" for signal in session.signals) > 5
    entered = {(signal.root, signal.ts) for signal in session.signals if signal.verdict == "enter"}
    assert {(r.root, r.decided_ns) for r in session.requests if r.intent == "entry"} == entered


def test_a_request_carries_its_score(session: Any) -> None:
    scores = {(scored.root, scored.ts): scored for scored in session.scores}
    for request in session.requests:
        scored = scores.get((request.root, request.decided_ns)) if request.intent == "entry" else None
        assert request.probability == (None if scored is None else scored.probability)
        assert request.threshold == (None if scored is None else scored.threshold)
    assert {request.intent for request in session.requests} == {"entry", "exit"}


def test_of_two_entries_the_one_further_over_its_threshold_comes_first(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle
) -> None:
    """Every order is refused, so that both roots ask again in each hour that their models let through."""
    engine, both = engine_of(kit, slices, es, gc), []
    for closed in slices:
        if closed.ts > cut_of(kit):
            requests = [event for event in engine.step(closed) if isinstance(event, OrderRequested)]
            for request in requests:
                no = RiskDecided(root=request.root, signal_id=request.signal_id, is_allowed=False, rule="", detail="")
                engine.notify(no)
            both += [requests] if len(requests) == 2 else []
    margins = [[request.probability - request.threshold for request in requests] for requests in both]
    assert all(first >= second for first, second in margins)
    assert {requests[0].root for requests in both} == {"ES", "GC"}
    # The higher probability is not always the one further over its threshold.
    assert any(first.probability < second.probability for first, second in both)


def test_the_bars_of_a_root_that_is_only_read_reach_the_features(
    kit: SimpleNamespace, slices: list[SliceClosed], session: Any, es: ModelBundle
) -> None:
    bars = kit.bars_by_feed(slices)
    closes = {bar.ts_end: bar.close for bar in bars["NQ", "1h"]}
    returns = {later: 100.0 * (closes[later] - closes[before]) / closes[before] for before, later in pairwise(closes)}
    place = es.features.index("nq_hourly_return")
    scored = [found for found in session.scores if found.root == "ES"]
    assert {found.ts: found.values[place] for found in scored} == {found.ts: returns[found.ts] for found in scored}
    days = [bar.close for bar in bars["ES", "1d"]][:3]
    assert scored[0].values[es.features.index("es_daily_return")] == 100.0 * (days[2] - days[1]) / days[1]


def test_a_silent_hour_is_flagged_and_a_third_one_is_missing(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle
) -> None:
    morning = kit.chicago(kit.MONDAY + dt.timedelta(days=DAYS - 1), 8)
    journal = run(kit, without(slices, "NQ", start=morning, end=morning + 3 * HOUR), es)
    signals = {(signal.ts - morning) // HOUR: signal for signal in journal.signals if signal.root == "ES"}
    scores = {(scored.ts - morning) // HOUR: scored for scored in journal.scores}
    assert [scores[hour].carried for hour in range(3)] == [(), ("nq_hourly_return",), ("nq_hourly_return",)]
    assert 3 not in scores
    gate, threshold = veto_of(signals[3]), signals[3].threshold
    assert (gate.is_passed, gate.reason) == (False, "veto_input_missing")
    assert gate.value == "NQ 1h: no trade for 3.0 h (nq_hourly_return)"
    assert (signals[3].probability, threshold) == (None, es.threshold)
    assert scores[4].carried == ()


def test_trades_after_a_roots_close_make_no_day_for_its_features(
    kit: SimpleNamespace, slices: list[SliceClosed], gc: ModelBundle
) -> None:
    """NQ closes at noon; what still trades then makes a day bar of its own, at the end of the file."""
    opened = opened_of(kit, gc)
    noon = kit.chicago(kit.MONDAY + dt.timedelta(days=DAYS - 1), 12)
    hours = tuple(attrs.evolve(hours, close_ns=noon) if hours.root == "NQ" else hours for hours in opened.session.hours)
    session = attrs.evolve(opened.session, hours=hours)

    def scores(*days: Nanos) -> list[VetoScored]:
        engine, found = engine_of(kit, slices, gc, session=session), []
        for closed in slices:
            if closed.ts > cut_of(kit):
                added = tuple(
                    kit.bar("NQ", end, (900.0, 900.0, 900.0, 900.0), length=HOUR) for end in days if end == closed.ts
                )
                out = engine.step(attrs.evolve(closed, days=added))
                found += [event for event in out if isinstance(event, VetoScored)]
        return found

    plain = scores()
    assert len(plain) == 23
    assert scores(Nanos(noon + HOUR)) == plain
    with_the_day = scores(noon)
    place = gc.features.index("nq_daily_return")
    changed = [found.ts for found, before in zip(with_the_day, plain, strict=True) if found != before]
    assert changed == [found.ts for found in plain if found.ts >= noon]
    assert with_the_day[-1].values[place] != plain[-1].values[place]


def test_bars_of_a_contract_that_is_not_traded_reach_no_feature(
    kit: SimpleNamespace, slices: list[SliceClosed], session: Any, es: ModelBundle, gc: ModelBundle
) -> None:
    engine, found = engine_of(kit, slices, es, gc), []
    for closed in slices:
        if closed.ts > cut_of(kit):
            next_ones = [attrs.evolve(bar, contract=f"{bar.root}U4", close=bar.low) for bar in closed.hours]
            out = engine.step(attrs.evolve(closed, hours=(*closed.hours, *next_ones)))
            found += [event for event in out if isinstance(event, VetoScored)]
    assert found == session.scores


# ----------------------------------------------------------- without a model


def test_a_root_whose_model_is_refused_or_absent_enters_nothing(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle
) -> None:
    records = (record_of(es), ModelRecord(root="GC", refusal="changed"))
    for models, reasons in (
        ((es, gc), {"ES": "", "GC": "veto_model_changed"}),
        ((gc,), {"ES": "veto_model_missing", "GC": "veto_model_changed"}),
    ):
        journal = run(kit, slices, *models, models=records)
        found = {signal.root: veto_of(signal).reason for signal in journal.signals if not veto_of(signal).value}
        assert found == {root: reason for root, reason in reasons.items() if reason}
        assert {request.root for request in journal.requests} == {
            root for root, reason in reasons.items() if not reason
        }
        assert {scored.root for scored in journal.scores} == {request.root for request in journal.requests}


def test_without_the_veto_nothing_is_scored(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle
) -> None:
    journal = run(kit, slices, es, gc, strategy=attrs.evolve(WIDE, veto=False))
    assert journal.scores == []
    assert {(veto_of(signal).value, signal.probability, signal.threshold) for signal in journal.signals} == {
        ("off", None, None)
    }
    assert journal.engine.percentiles() == ()


# -------------------------------------------------------------- determinism


def test_a_rebuilt_engine_answers_the_same(
    kit: SimpleNamespace, slices: list[SliceClosed], session: Any, es: ModelBundle, gc: ModelBundle
) -> None:
    again, outputs = engine_of(kit, slices, es, gc), []
    for event in session.given:
        if isinstance(event, SliceClosed):
            outputs += again.step(event)
        else:
            again.notify(event)
    assert outputs == session.outputs
    assert again.percentiles() == session.engine.percentiles()


@pytest.mark.parametrize("hour", [1, 9, 22])
def test_what_an_engine_carries_scores_on_as_if_it_had_never_stopped(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, gc: ModelBundle, hour: int
) -> None:
    """With a history of thirty hours only: what came before is in the populations that travel."""
    stop = cut_of(kit) + (hour + 1) * HOUR
    whole = engine_of(kit, slices, es, gc)
    for closed in slices:
        if cut_of(kit) < closed.ts <= stop:
            whole.step(closed)
    carried = StateCarried(
        previous_session=None,
        previous_segment=None,
        previous_head=None,
        previous_file_sha256=None,
        percentiles=whole.percentiles(),
    )
    tables = [
        attrs.evolve(table, contracts=table.contracts[-30:], data=table.data[-30:])
        for table in kit.tables_of([closed for closed in slices if closed.ts <= stop])
    ]
    models, opened = {"ES": es, "GC": gc}, opened_of(kit, es, gc)
    rest = [closed for closed in slices if closed.ts > stop]

    def scores(engine: CerebroEngine) -> list[VetoScored]:
        return [event for closed in rest for event in engine.step(closed) if isinstance(event, VetoScored)]

    resumed = build_engine(opened, carried, tables, models=models)
    assert resumed.percentiles() == whole.percentiles()
    expected = scores(whole)
    assert len(expected) == 2 * (22 - hour + 1 - (hour == 0))
    assert scores(resumed) == expected
    assert resumed.percentiles() == whole.percentiles()
    assert scores(build_engine(opened, None, tables, models=models)) != expected


# -------------------------------------------------------------- a plain Cerebro


def one_contract(slices: Iterable[SliceClosed]) -> list[SliceClosed]:
    """The same market with feeds of one contract, named like its root."""

    def named(bars: tuple[Bar, ...]) -> tuple[Bar, ...]:
        return tuple(attrs.evolve(bar, contract=bar.root) for bar in bars)

    return [
        attrs.evolve(closed, minutes=named(closed.minutes), hours=named(closed.hours), days=named(closed.days))
        for closed in slices
    ]


def plain_run(kit: SimpleNamespace, slices: Sequence[SliceClosed], roots: Sequence[str], **kwargs: Any) -> Any:
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1e9)
    bars = kit.bars_by_feed(slices)
    for root in roots:
        for timeframe, words in TIMEFRAMES.items():
            feed = BarFeed(bars=tuple(bars.get((root, timeframe), ())), **words)
            cerebro.adddata(feed, name=feed_name(root, timeframe))
            cerebro.broker.setcommission(commission=1.25, margin=1000.0, mult=50.0, name=feed_name(root, timeframe))
    cerebro.addstrategy(IbsStrategy, **kwargs)
    return cerebro.run()[0]


@pytest.mark.parametrize(("lacks", "scores"), [("nothing", 23), ("three hours of NQ", 22)])
def test_a_plain_cerebro_with_the_bundle_alone_decides_as_the_engine(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle, lacks: str, scores: int
) -> None:
    night, market = cut_of(kit) + 4 * HOUR, one_contract(slices)
    if lacks == "three hours of NQ":
        market = without(market, "NQ", start=night, end=night + 3 * HOUR)
    plain = plain_run(kit, market, ("ES", "NQ"), **strategy_kwargs_from_bundle(es))
    journal = run(
        kit,
        market,
        es,
        strategy=StrategySettings(),
        contracts=tuple(attrs.evolve(c, raw_symbol=c.root) for c in opened_of(kit).contracts),
    )
    wanted = [event for event in plain.signals if event.ts > cut_of(kit)]
    assert len(wanted) == 23 + scores
    verdicts = {signal.verdict for signal in wanted if isinstance(signal, SignalEvaluated)}
    assert verdicts == {"enter", "exit", "hold", "refuse"}
    decided = [event for event in journal.outputs if not isinstance(event, OrderRequested) and event.root == "ES"]
    for ours, theirs in zip(decided, wanted, strict=True):
        assert attrs.asdict(ours) == attrs.asdict(theirs)


def test_a_plain_cerebro_with_a_bundle_of_shorts_enters_shorts(
    kit: SimpleNamespace, slices: list[SliceClosed], tmp_path: Path
) -> None:
    bundle = small_bundle(tmp_path, "ES", side="short", threshold=0.01)
    strategy = plain_run(kit, slices, ("ES", "NQ"), **strategy_kwargs_from_bundle(bundle))
    entered = [event for event in strategy.signals if isinstance(event, SignalEvaluated) and event.verdict == "enter"]
    assert entered
    assert all(event.ibs >= 0.8 and event.probability is not None for event in entered)


def test_a_plain_cerebro_is_told_the_pair(kit: SimpleNamespace, slices: list[SliceClosed], tmp_path: Path) -> None:
    kwargs = strategy_kwargs_from_bundle(small_bundle(tmp_path, "ES", features=("pair_ibs", "es_hourly_return")))
    told = plain_run(kit, slices, ("ES", "NQ"), pairs={"ES": "NQ"}, **kwargs)
    assert any(isinstance(event, VetoScored) for event in told.signals)
    alone = plain_run(kit, slices, ("ES", "NQ"), **kwargs)
    assert veto_of(alone.signals[-1]).value == "ES has no pair in the pair map (pair_ibs)"


def test_another_vector_than_the_models_is_refused(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle
) -> None:
    for features in (es.features[:-1], es.features[::-1]):
        kwargs = {**strategy_kwargs_from_bundle(es), "ml_features": features}
        with pytest.raises(OurError, match="not those of the model of ES"):
            plain_run(kit, slices[:50], ("ES",), **kwargs)


def test_the_threshold_can_be_overridden(kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle) -> None:
    kwargs = strategy_kwargs_from_bundle(es)
    probabilities = []
    for threshold in (0.2, 0.8):
        strategy = plain_run(kit, slices, ("ES", "NQ"), **{**kwargs, "ml_threshold": threshold})
        scores = [event for event in strategy.signals if isinstance(event, VetoScored)]
        assert {scored.threshold for scored in scores} == {threshold}
        assert {scored.is_passed == (scored.probability >= threshold) for scored in scores} == {True}
        probabilities.append([scored.probability for scored in scores])
    assert probabilities[0] == probabilities[1]
    alone = plain_run(kit, slices, ("ES", "NQ"), ml_model=es)
    assert {event.threshold for event in alone.signals if isinstance(event, VetoScored)} == {es.threshold}


def test_without_its_reference_feed_a_plain_cerebro_enters_nothing(
    kit: SimpleNamespace, slices: list[SliceClosed], es: ModelBundle
) -> None:
    strategy = plain_run(kit, slices, ("ES",), **strategy_kwargs_from_bundle(es))
    assert {signal.verdict for signal in strategy.signals} == {"refuse"}
    assert veto_of(strategy.signals[-1]).value == "NQ 1h: no bars (nq_hourly_return)"
