"""What the veto adds to a decision: twelve vectors of thirty features, twelve scores, on record."""

from __future__ import annotations

import gc
import hashlib
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.main import COLLECT_AFTER
from tests.bench.engine_rows import TURNS_REPEATED, plain_cerebros, prepare_forest, read_slices
from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch
from tests.bench.replay_rows import prepare_day

if TYPE_CHECKING:
    from domain.bars import BarTable

HISTORY_HOURS, HISTORY_DAYS = 700, 400
# fmt: off
NAMES = (
    "volume_z_percentile", "volz_pct", "rsixvolz", "ibsxvolz", "ng_daily_z_score", "6b_daily_return",
    "ma_spread_ribbon_tightness", "ma_spread_daily_ribbon_tightness", "distance_z_entry_daily", "6e_daily_return",
    "ibs_pct", "6a_hourly_return", "rsi_len_14", "atr_z_percentile", "gc_hourly_return", "price_usd", "atrz_pct",
    "nq_daily_z_score", "ma_slope_fast", "6a_daily_return", "daily_directional_drift", "hourly_atr_percentile",
    "cl_hourly_z_score", "ng_hourly_z_score", "adx_value", "daily_rsi_len_14", "nq_daily_return",
    "parabolic_sar_distance", "donchian_proximity_to_nearest_band", "pair_z_pct",
)
# fmt: on
"""The ES model's 28, reading traded roots where it reads others, and two more."""


def prepare_decision(scale: Scale) -> Facts:
    """The recorded day and the fitted forest."""
    return {**prepare_day(scale), **prepare_forest(scale)}


def decision_work(facts: Facts) -> Side:
    """The session's engine with a model for every root: one turn for each hour of the day."""
    slices, engines = _scoring(facts, TURNS_REPEATED)
    gc.set_threshold(COLLECT_AFTER)  # as the program does
    with Stopwatch() as watch:
        given = [[event for closed in slices for event in engine.step(closed)] for engine in engines]
    return _side(watch, len(slices), [_scores(events) for events in given])


def decision_reference(facts: Facts) -> Side:
    """Plain next mode without features or veto on the same hours, and the same vectors' scores."""
    slices, (engine,) = _scoring(facts, 1)
    found = _scores([event for closed in slices for event in engine.step(closed)])
    opened, _ = read_slices(facts)
    cerebros = plain_cerebros(opened, slices, [[] for _ in range(TURNS_REPEATED)])
    forest = _forest(facts)
    gc.set_threshold(COLLECT_AFTER)
    with Stopwatch() as watch:
        scored = []
        for cerebro in cerebros:
            cerebro.run(runonce=False, preload=False)
            scored.append([(place, values, forest.explain(values).probability.hex()) for place, values, _ in found])
    return _side(watch, len(slices), scored)


def _scoring(facts: Facts, count: int) -> tuple[list[Any], list[Any]]:
    """Slices that close an hour, and engines that have their history and score every root."""
    import attrs

    from adapters.backtrader.engine import build_engine
    from domain.veto import ModelRecord
    from models.candidates import PassEverything

    @attrs.frozen(kw_only=True)
    class Model(PassEverything):
        forest: Any

        def score(self, vector: Any) -> Any:
            return self.forest.explain(vector)

    opened, slices = read_slices(facts)
    forest = _forest(facts)
    roots = [root.root for root in opened.roots if not root.is_reference]
    models = {root: Model(root=root, features=NAMES, forest=forest) for root in roots}
    records = tuple(ModelRecord(root=root, digest=model.digest, features=NAMES) for root, model in models.items())
    opened = attrs.evolve(opened, strategy=attrs.evolve(opened.strategy, veto=True), models=records)
    tables = [table for root in roots for table in _history(root, opened.session.start_ns)]
    return (
        [closed for closed in slices if closed.hours],
        [build_engine(opened, None, tables, models=models) for _ in range(count)],
    )


def _history(root: str, start_ns: int) -> tuple[BarTable, BarTable]:
    from domain.units import DAY, HOUR
    from tests.domain.test_feature_book import walk

    hours = [(start_ns - n * HOUR, start_ns - (n - 1) * HOUR) for n in range(HISTORY_HOURS, 0, -1)]
    days = [(start_ns - n * DAY, start_ns - n * DAY + 23 * HOUR) for n in range(HISTORY_DAYS, 0, -1)]
    return walk(root, "1h", hours, 1), walk(root, "1d", days, 1)


def _forest(facts: Facts) -> Any:
    from models.forest import FlatForest

    estimator, rows = pickle.loads(Path(facts["forest"]).read_bytes())
    forest = FlatForest.of(estimator)
    forest.explain(rows[0])  # whatever it keeps from its first call on
    return forest


def _scores(events: list[Any]) -> list[tuple[str, tuple[float, ...], str]]:
    from domain.events import VetoScored

    return [
        (f"{event.root} {event.ts}", event.values, event.probability.hex())
        for event in events
        if isinstance(event, VetoScored)
    ]


def _side(watch: Stopwatch, turns: int, scored: list[list[tuple[str, tuple[float, ...], str]]]) -> Side:
    digests = {hashlib.sha256(json.dumps(scores).encode()).hexdigest() for scores in scored}
    return Side(
        cpu_s=watch.cpu_s / turns / TURNS_REPEATED,
        wall_s=watch.wall_s / turns / TURNS_REPEATED,
        answer={"turns": turns, "scores": len(scored[0]), "sha256": sorted(digests)},
    )


DECISION = Benchmark(
    name="decision",
    prepare=prepare_decision,
    work=decision_work,
    reference=decision_reference,
    rows=(
        Row(
            name="decision",
            title="a decision bar of 12 roots with 30 features and the veto (900 trees, depth 5), "
            "against a plain Cerebro turn and twelve scores",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=3,
            goal=2,
        ),
    ),
    note="equal probabilities; times are of one turn, in which every root's hour closes",
)
