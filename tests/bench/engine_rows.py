"""What a decision costs: one score of the forest, one turn of the stepped Cerebro."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

from market import CHECKOUT

from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch
from tests.bench.replay_rows import prepare_day

TREES, DEPTH, FEATURES = 900, 5, 30
TRAINING_ROWS = 20_000
SCORED_ROWS, COMPARED_ROWS = 20_000, 30
TURNS_REPEATED = 5


# ---------------------------------------------------------------- the forest


def prepare_forest(scale: Scale) -> Facts:
    """A fitted forest and rows to score, some with missing values; made once."""
    import numpy as np
    import sklearn

    cache = CHECKOUT / "build" / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    trees = max(5, round(TREES * min(1.0, scale.repeats * 10)))
    place = cache / f"forest-{trees}-{sklearn.__version__}.pickle"
    if not place.is_file():
        from sklearn.ensemble import RandomForestClassifier

        print("training the forest (once)", file=sys.stderr, flush=True)
        rng = np.random.default_rng(1)
        inputs = rng.normal(size=(TRAINING_ROWS, FEATURES))
        signal = inputs[:, :5].sum(axis=1) + rng.normal(scale=2.0, size=TRAINING_ROWS)
        inputs[rng.random(inputs.shape) < 0.03] = np.nan
        forest = RandomForestClassifier(TREES if trees == TREES else trees, max_depth=DEPTH, random_state=1, n_jobs=1)
        forest.fit(inputs, (signal > 0).astype(int))
        rows = rng.normal(size=(SCORED_ROWS, FEATURES))
        rows[rng.random(rows.shape) < 0.03] = np.nan
        unfinished = place.with_suffix(".new")
        unfinished.write_bytes(pickle.dumps((forest, rows)))
        unfinished.rename(place)
    return {"forest": str(place), "rows": max(COMPARED_ROWS, round(SCORED_ROWS * scale.repeats))}


def forest_work(facts: Facts) -> Side:
    """`FlatForest.probability`, one row a call."""
    from models.forest import FlatForest

    estimator, rows = pickle.loads(Path(facts["forest"]).read_bytes())
    forest = FlatForest.of(estimator)
    forest.probability(rows[0])  # whatever it keeps from its first call on
    chosen = rows[: facts["rows"]]
    with Stopwatch() as watch:
        scores = [forest.probability(row) for row in chosen]
    return _per_row(watch, len(chosen), scores)


def forest_reference(facts: Facts) -> Side:
    """`predict_proba(row)` with n_jobs=1, one row a call."""
    estimator, rows = pickle.loads(Path(facts["forest"]).read_bytes())
    estimator.n_jobs = 1
    estimator.predict_proba(rows[:1])
    with Stopwatch() as watch:
        scores = [estimator.predict_proba(rows[i : i + 1])[0, 1] for i in range(COMPARED_ROWS)]
    return _per_row(watch, COMPARED_ROWS, scores)


def _per_row(watch: Stopwatch, count: int, scores: list[Any]) -> Side:
    bits = [float(score).hex() for score in scores[:COMPARED_ROWS]]
    return Side(cpu_s=watch.cpu_s / count, wall_s=watch.wall_s / count, answer=bits)


FOREST = Benchmark(
    name="forest",
    prepare=prepare_forest,
    work=forest_work,
    reference=forest_reference,
    rows=(
        Row(
            name="forest",
            title=f"forest score, {TREES} trees, depth {DEPTH}, {FEATURES} features, one row, "
            "against `predict_proba` (n_jobs=1)",
            figure=lambda work, reference: reference.cpu_s / work.cpu_s,
            unit="x less",
            required=500,
            goal=1_500,
            is_more_better=True,
        ),
    ),
    note="equal bits, rows with missing values among them; times are of one row",
)


# ---------------------------------------------------------------- Cerebro


def step_work(facts: Facts) -> Side:
    """The day's slices through the session's engine, one turn each."""
    from adapters.backtrader.engine import build_engine

    opened, slices = read_slices(facts)
    engines = [build_engine(opened, None, ()) for _ in range(TURNS_REPEATED)]
    given: list[list[Any]] = [[] for _ in engines]
    with Stopwatch() as watch:
        for engine, events in zip(engines, given, strict=True):
            for closed in slices:
                events.extend(engine.step(closed))
    return _per_turn(watch, len(slices), given)


def step_reference(facts: Facts) -> Side:
    """A plain `cerebro.run()` in next mode: the same strategy, feeds of the same bars, Backtrader's own broker."""
    opened, slices = read_slices(facts)
    given: list[list[Any]] = [[] for _ in range(TURNS_REPEATED)]
    cerebros = plain_cerebros(opened, slices, given)
    with Stopwatch() as watch:
        for cerebro in cerebros:
            cerebro.run(runonce=False, preload=False)
    return _per_turn(watch, len(slices), given)


def plain_cerebros(opened: Any, slices: list[Any], given: list[list[Any]]) -> list[Any]:
    """One for each list in `given`, which takes what the strategy says of the slices' bars."""
    import backtrader as bt

    from adapters.backtrader.feeds import TIMEFRAMES, BarFeed, feed_name
    from adapters.backtrader.ibs_strategy import IbsStrategy
    from adapters.backtrader.roots import plans_of
    from domain.gates import auto_close_deadline

    plans = plans_of(opened, None)
    deadlines = {
        plan.root: auto_close_deadline(
            opened.strategy, opened.session.date, opened.session.hours_of(plan.root).close_ns
        )
        for plan in plans
    }
    bars: dict[tuple[str, str], list[Any]] = {}
    for closed in slices:
        for timeframe, closing in (("1m", closed.minutes), ("1h", closed.hours), ("1d", closed.days)):
            for bar in closing:
                bars.setdefault((bar.contract, timeframe), []).append(bar)
    cerebros = []
    for events in given:
        cerebro = bt.Cerebro(stdstats=False)
        for timeframe in TIMEFRAMES:
            for plan in plans:
                feed = BarFeed(bars=tuple(bars.get((plan.contract, timeframe), ())), **TIMEFRAMES[timeframe])
                cerebro.adddata(feed, name=feed_name(plan.root, timeframe))
        cerebro.addstrategy(
            IbsStrategy,
            settings=opened.strategy,
            plans=plans,
            deadline_of=lambda root, _: deadlines[root],
            listener=events.append,
        )
        cerebros.append(cerebro)
    return cerebros


def read_slices(facts: Facts) -> tuple[Any, list[Any]]:
    """The session with a strategy that evaluates every hour and never enters, and the slices with a traded bar."""
    import attrs

    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile

    with JournalFile(Path(facts["journal"]), Codec()) as journal:
        found: list[Any] = [e.payload for e in journal.envelopes(types={"SessionOpened", "SliceClosed"})]
    opened, *slices = found
    opened = attrs.evolve(opened, strategy=attrs.evolve(opened.strategy, warmup_bars=1_000_000))
    traded = {contract.raw_symbol for contract in opened.contracts if contract.rank == 0}
    fronts = [
        attrs.evolve(
            closed,
            **{
                name: tuple(bar for bar in getattr(closed, name) if bar.contract in traded)
                for name in ("minutes", "hours", "days")
            },
        )
        for closed in slices
    ]
    return opened, [closed for closed in fronts if closed.minutes or closed.hours or closed.days]


def _per_turn(watch: Stopwatch, turns: int, given: list[list[Any]]) -> Side:
    digests = {hashlib.sha256(json.dumps([str(event) for event in events]).encode()).hexdigest() for events in given}
    return Side(
        cpu_s=watch.cpu_s / turns / TURNS_REPEATED,
        wall_s=watch.wall_s / turns / TURNS_REPEATED,
        answer={"turns": turns, "evaluated": len(given[0]), "sha256": sorted(digests)},
    )


STEP = Benchmark(
    name="step",
    prepare=prepare_day,
    work=step_work,
    reference=step_reference,
    rows=(
        Row(
            name="step",
            title="a Cerebro step, 12 roots with minute, hour and day bars, against plain next mode on the same bars",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=1.3,
            goal=1.1,
        ),
    ),
    note="equal evaluations; no orders; times are of one turn",
)
