"""The judge's laws: missing is veto and says why; a population is its model's, and travels with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from domain.bars import BarTable
from domain.feature_book import FeatureBook
from domain.gates import Gate
from domain.ibs import EntrySide, internal_bar_strength
from domain.indicators import average_rank
from domain.scorer import Judgement, Scorer
from domain.units import HOUR, Nanos, Price
from models import ModelBundle
from tests.builders import bar_of
from tests.bundles import Meddling, small_bundle
from tests.domain.test_feature_book import DAYS, HOURS, add, cut, day_open, last_of, market, slices

END = Nanos(day_open(DAYS - 1) + HOURS * HOUR)
"""The end of the last hour."""
TABLES = [market(is_gappy=False)[root, timeframe] for root in ("ES", "NQ") for timeframe in ("1h", "1d")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Of the same root, with another forest, population and end of training."""
    end = str(np.datetime64(day_open(DAYS - 4), "ns").astype("datetime64[s]")) + "Z"
    return small_bundle(tmp_path_factory.mktemp("other"), seed=1, training_end=end)


def scorer_of(model: ModelBundle, tables: Iterable[BarTable] = TABLES, **options: Any) -> Scorer:
    return Scorer({model.root: model}, tables=list(tables), **options)


def until(ts: int, *, after: int = 0) -> list[BarTable]:
    return [cut(table, after=after, until=ts) for table in TABLES]


def judgements(scorer: Scorer, *, after: int) -> list[Judgement]:
    """Of every later hour of ES, bar by bar."""
    found = []
    for ts, bars in slices(until(END, after=after)):
        add(scorer, bars)  # type: ignore[arg-type]  # takes hours and days like a book
        if any(bar.root == "ES" and timeframe == "1h" for timeframe, bar in bars):
            found.append(scorer.judge("ES", Nanos(ts)))
    return found


# ------------------------------------------------------------------- verdicts


def test_without_a_model_there_is_no_entry(bundle: ModelBundle) -> None:
    refused = Judgement(gate=Gate(name="veto", is_passed=False, value=None, reason="veto_model_missing"))
    assert scorer_of(bundle).judge("NQ", END) == refused
    assert Scorer({}).judge("ES", END) == refused


def test_a_refused_model_is_told_with_its_reason() -> None:
    judged = Scorer({}, refusals={"ES": "changed"}).judge("ES", END)
    assert (judged.gate.is_passed, judged.gate.reason) == (False, "veto_model_changed")
    assert (judged.digest, judged.vector, judged.score, judged.threshold) == ("", None, None, None)


def test_the_models_answer_to_the_books_vector_is_the_verdict(bundle: ModelBundle) -> None:
    book = FeatureBook(bases={"ES": ("ibs",)})
    book.seed_population(
        "ES", "ibs", bundle.populations["ibs"].tolist(), seed=bundle.digest, through_ns=bundle.trained_until_ns
    )
    book.load(TABLES)
    vector = book.vector("ES", bundle.features, "v2")
    score = bundle.score(vector.complete())
    judged = scorer_of(bundle).judge("ES", END)
    assert (judged.vector, judged.score, judged.digest, judged.threshold) == (vector, score, bundle.digest, 0.5)
    assert judged.gate.value == f"{score.probability!r} of 0.5"
    verdicts = [found.gate for found in judgements(scorer_of(bundle, until(day_open(DAYS - 3))), after=END - 72 * HOUR)]
    assert {(gate.is_passed, gate.reason) for gate in verdicts} == {(True, ""), (False, "vetoed")}


def test_a_model_judges_entries_of_its_own_side_only(bundle: ModelBundle, tmp_path: Path) -> None:
    of_shorts = small_bundle(tmp_path, side="short")
    of_both = small_bundle(tmp_path / "both", side="both")
    expected = scorer_of(bundle).judge("ES", END).score
    assert expected is not None
    sides: tuple[EntrySide, ...] = ("long", "short", "both")
    for model in (bundle, of_shorts, of_both):
        for side in sides:
            judged = scorer_of(model).judge("ES", END, side=side)
            if side == model.side:
                assert judged.score == expected
            else:
                assert (judged.gate.is_passed, judged.gate.reason) == (False, "veto_model_side")
                assert judged.gate.value == f"trained on {model.side} entries"
                assert judged.score is None


@pytest.mark.parametrize(("step", "is_passed"), [(-np.inf, True), (0, True), (np.inf, False)])
def test_exactly_on_the_threshold_passes(bundle: ModelBundle, step: float, is_passed: bool) -> None:
    score = scorer_of(bundle).judge("ES", END).score
    assert score is not None
    threshold = float(np.nextafter(score.probability, step)) if step else score.probability
    judged = scorer_of(bundle, thresholds={"ES": threshold}).judge("ES", END)
    assert (judged.gate.is_passed, judged.threshold, judged.score) == (is_passed, threshold, score)
    assert bundle.threshold == 0.5  # the caller's came before the model's


# -------------------------------------------------------------------- missing


def test_every_reason_is_told_once_with_its_features(tmp_path: Path) -> None:
    names = ("nq_hourly_return", "es_daily_return", "price_usd", "nq_hourly_z_score", "ibs_pct", "es_daily_z_score")
    model = small_bundle(tmp_path, features=names)
    days = last_of(market(is_gappy=False)["ES", "1d"], 1)
    judged = scorer_of(model, [market(is_gappy=False)["ES", "1h"], days]).judge("ES", END)
    assert (judged.gate.is_passed, judged.gate.reason) == (False, "veto_input_missing")
    assert judged.gate.value == (
        "NQ 1h: no bars (nq_hourly_return, nq_hourly_z_score); "
        "ES 1d: 1 of 2 bars (es_daily_return); ES 1d: 1 of 252 bars (es_daily_z_score)"
    )
    assert (judged.vector, judged.score) == (None, None)
    assert (judged.digest, judged.threshold) == (model.digest, 0.5)


def test_features_of_another_bar_are_missing(bundle: ModelBundle) -> None:
    for ts in (END - HOUR, END + HOUR):
        judged = scorer_of(bundle).judge("ES", Nanos(ts))
        assert (judged.gate.reason, judged.score) == ("veto_input_missing", None)
        assert judged.gate.value == "ES: the features stand at another bar"


def test_a_value_that_a_forest_cannot_take_is_missing(bundle: ModelBundle) -> None:
    scorer = scorer_of(bundle)
    beyond = Price(10**60)
    scorer.add_hours([bar_of(start=END, length=HOUR, open=beyond, high=beyond, low=beyond, close=beyond)])
    nasdaq = attrs.evolve(bar_of("NQM4", start=END, length=HOUR), root="NQ")
    scorer.add_hours([nasdaq])
    judged = scorer.judge("ES", Nanos(END + HOUR))
    assert (judged.gate.is_passed, judged.gate.reason, judged.score) == (False, "veto_input_missing", None)
    assert judged.gate.value == "out of range: price_usd, es_hourly_return"


# ------------------------------------------------------------------- failures


def refuse_to_answer() -> None:
    raise ZeroDivisionError("no such leaf")


def break_the_score(scorer: Scorer, model: Meddling) -> None:
    model.first = refuse_to_answer


def break_the_features(scorer: Scorer, model: Meddling) -> None:
    """The square of its difference is beyond a float."""
    beyond = Price(10**200)
    scorer.add_hours([bar_of(start=END, length=HOUR, open=beyond, high=beyond, low=beyond, close=beyond)])


@pytest.mark.parametrize(
    ("hinder", "error"),
    [
        (break_the_score, "ZeroDivisionError: no such leaf"),
        (break_the_features, "FloatingPointError: "),
    ],
)
def test_an_exception_costs_its_root_the_entries_from_then_on_and_no_other_root(
    tmp_path: Path, hinder: Callable[[Scorer, Meddling], None], error: str
) -> None:
    model = Meddling(small_bundle(tmp_path, features=("price_usd", "es_hourly_z_score", "ibs_pct")))
    nasdaq = small_bundle(tmp_path, "NQ", features=("nq_hourly_return", "ibs_pct"))
    scorer = Scorer({"ES": model, "NQ": nasdaq}, tables=TABLES)
    with np.errstate(over="raise"):
        assert scorer.judge("ES", END).score is not None
        hinder(scorer, model)
        failed = scorer.judge("ES", Nanos(END + HOUR) if hinder is break_the_features else END)
    assert (failed.gate.is_passed, failed.gate.reason) == (False, "veto_failed")
    assert (failed.gate.value or "").startswith(error)
    assert (failed.digest, failed.vector, failed.score) == ("", None, None)
    model.first = lambda: None  # it would answer again
    for start in (END + HOUR, END + 2 * HOUR):
        for contract in ("ESM4", "NQM4"):
            scorer.add_hours([bar_of(contract, start=Nanos(start), length=HOUR)])
        assert scorer.judge("ES", Nanos(start + HOUR)) == failed
        assert scorer.judge("NQ", Nanos(start + HOUR)).score is not None


def test_a_history_that_cannot_be_taken_costs_the_entries_and_not_the_engine(tmp_path: Path) -> None:
    """Built with the engine, which every exit needs."""
    nasdaq = small_bundle(tmp_path, "NQ", features=("nq_hourly_return", "ibs_pct"))
    scorer = Scorer({"NQ": nasdaq}, tables=[*TABLES, *TABLES])
    failed = scorer.judge("NQ", END)
    assert failed.gate.reason == "veto_failed"
    assert "history's bars are not in order" in (failed.gate.value or "")
    assert [state.root for state in scorer.percentiles()] == ["NQ"]


def test_a_bar_that_cannot_be_taken_costs_every_root_its_entries(tmp_path: Path) -> None:
    """Whoever reads it would read past a hole; nobody raises."""
    nasdaq = small_bundle(tmp_path, "NQ", features=("nq_hourly_return", "ibs_pct"))
    scorer = Scorer({"NQ": nasdaq}, tables=TABLES)
    assert scorer.judge("NQ", END).score is not None
    scorer.add_hours([bar_of(start=Nanos(END - 5 * HOUR), length=HOUR)])
    failed = scorer.judge("NQ", END)
    assert failed.gate.reason == "veto_failed"
    assert (failed.gate.value or "").startswith("OurError: ES 1h: a bar that ends at ")


# ---------------------------------------------------------------- populations


def test_a_percentile_ranks_among_the_models_population_and_the_bars_since_training(other: ModelBundle) -> None:
    judged = scorer_of(other).judge("ES", END)
    since = cut(market(is_gappy=False)["ES", "1h"], after=other.trained_until_ns)
    bars = [internal_bar_strength(high=bar.high, low=bar.low, close=bar.close).value for bar in since.bars()]
    assert len(bars) == 4 * HOURS
    population = sorted([*other.populations["ibs"].tolist(), *bars])
    assert judged.vector is not None
    assert judged.vector.values[-1] == average_rank(population, bars[-1])


@pytest.mark.parametrize("kept", [2, 30, 10_000])
def test_what_is_carried_goes_on_as_if_nothing_had_ended(bundle: ModelBundle, kept: int) -> None:
    """However little history the next session gets: the populations need none of it."""
    split = day_open(DAYS - 2)
    whole = scorer_of(bundle, until(split))
    left = whole.percentiles()
    assert [(state.root, state.base, state.seed) for state in left] == [("ES", "ibs", bundle.digest)]
    history = [last_of(table, kept) for table in until(split)]
    resumed = scorer_of(bundle, history, carried=left)
    assert resumed.percentiles() == left
    expected = judgements(whole, after=split)
    assert judgements(resumed, after=split) == expected
    assert resumed.percentiles() == whole.percentiles()
    if kept < 100:
        assert judgements(scorer_of(bundle, history), after=split) != expected


def test_the_state_of_another_model_is_left_out_and_the_population_made_anew(
    bundle: ModelBundle, other: ModelBundle
) -> None:
    split = day_open(DAYS - 2)
    before = scorer_of(bundle, until(split))
    changed = scorer_of(other, until(split), carried=before.percentiles())
    always = scorer_of(other, until(split))
    assert changed.percentiles() == always.percentiles()
    expected = judgements(always, after=split)
    assert judgements(changed, after=split) == expected
    assert judgements(before, after=split) != expected


def test_state_of_a_root_without_a_model_is_left_out(bundle: ModelBundle) -> None:
    left = [attrs.evolve(state, root="GC") for state in scorer_of(bundle).percentiles()]
    assert scorer_of(bundle, carried=left).percentiles() == scorer_of(bundle).percentiles()


def test_history_that_a_roll_has_cut_leaves_the_populations(bundle: ModelBundle) -> None:
    left = scorer_of(bundle).percentiles()
    cut_off = [attrs.evolve(table, contracts=(), data=table.data[:0]) for table in TABLES]
    scorer = scorer_of(bundle, cut_off, carried=left)
    assert scorer.percentiles() == left
    scorer.add_hours([bar_of(start=END, length=HOUR)])
    value = scorer.judge("ES", Nanos(END + HOUR)).gate.value
    assert value is not None
    assert "ES 1h: 1 of 2 bars (es_hourly_return)" in value
    assert "ibs_pct" not in value


def test_thresholds_and_populations_are_each_models_own(bundle: ModelBundle, tmp_path: Path) -> None:
    nasdaq = small_bundle(tmp_path, "NQ", features=("nq_hourly_return", "ibs_pct"), threshold=0.25)
    scorer = Scorer({"NQ": nasdaq, "ES": bundle}, tables=TABLES, thresholds={"ES": 0.75})
    assert [scorer.judge(root, END).threshold for root in ("ES", "NQ")] == [0.75, 0.25]
    assert [(state.root, state.seed) for state in scorer.percentiles()] == [
        ("ES", bundle.digest),
        ("NQ", nasdaq.digest),
    ]
