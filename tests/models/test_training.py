"""Training: order of time is kept, the hold-out is looked at once, and an edge is found where there is one."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import attrs
import numpy as np
import pytest

from domain.errors import OperatorError, OurError
from domain.units import HOUR, Nanos
from models.training import PassEverything, Row, TrainingPlan, train

DAY = 24 * HOUR
FIRST = dt.date(2024, 1, 1)
SESSIONS = [FIRST + dt.timedelta(days=number) for number in range(60)]
PLAN = TrainingPlan(params={"n_estimators": 30, "max_depth": 3, "min_samples_leaf": 5}, seed=3)


def market(edge: float, seed: int = 0, trades: int = 8) -> list[Row]:
    """Trades of every session; the first of three inputs is worth `edge` USD per unit, the rest is noise."""
    chance = np.random.default_rng(seed)
    rows = []
    for number, session in enumerate(SESSIONS):
        for trade in range(trades):
            values = chance.normal(size=3)
            pnl = edge * values[0] + chance.normal() * 20 - 3
            decided = number * DAY + trade * HOUR
            rows.append(
                Row(
                    root="ES",
                    session=session,
                    decided_ns=Nanos(decided),
                    exit_ns=Nanos(decided + HOUR),
                    values=tuple(values.tolist()),
                    pnl=Decimal(str(round(pnl, 2))),
                )
            )
    return rows


def hold_out(rows: list[Row], **plan: Any) -> dict[str, Any]:
    result: dict[str, Any] = train(rows, SESSIONS, attrs.evolve(PLAN, **plan)).metrics["hold_out"]
    return result


def test_a_planted_edge_is_found_on_sessions_that_were_never_seen() -> None:
    result = hold_out(market(edge=25))
    assert result["with_veto"]["net_pnl"] > result["without_veto"]["net_pnl"] + 500
    assert result["with_veto"]["trades"] < result["without_veto"]["trades"] == 15 * 8
    assert result["with_veto"]["won_share"] > result["without_veto"]["won_share"] + 0.1


def test_noise_gives_no_edge() -> None:
    gains = []
    for seed in range(8):
        result = hold_out(market(edge=0, seed=seed))
        # per trade, or fewer losing trades alone would look like skill
        with_veto, without = result["with_veto"], result["without_veto"]
        gains.append(with_veto["net_pnl"] / with_veto["trades"] - without["net_pnl"] / without["trades"])
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(len(gains)) + 1


def test_what_happens_in_the_hold_out_changes_neither_forest_nor_threshold() -> None:
    rows = market(edge=25)
    begin = SESSIONS[-15]
    turned = [attrs.evolve(row, pnl=-row.pnl) if row.session >= begin else row for row in rows]
    one, other = train(rows, SESSIONS, PLAN), train(turned, SESSIONS, PLAN)
    probe = np.random.default_rng(9).normal(size=(200, 3))
    assert one.threshold == other.threshold
    assert np.array_equal(one.estimator.predict_proba(probe), other.estimator.predict_proba(probe))
    assert one.metrics["hold_out"] != other.metrics["hold_out"]


def test_a_fold_learns_only_from_what_had_ended_an_embargo_before_it() -> None:
    rows = market(edge=5)
    last_before = max(row.decided_ns for row in rows if row.session < SESSIONS[9])
    late = [
        attrs.evolve(row, exit_ns=Nanos(row.exit_ns + 2 * DAY)) if row.decided_ns == last_before else row
        for row in rows
    ]
    counts = [fold["learned_from"] for fold in train(rows, SESSIONS, PLAN).folds]
    assert counts == [9 * 8, 18 * 8, 27 * 8, 36 * 8]
    assert train(late, SESSIONS, PLAN).folds[0]["learned_from"] == 9 * 8 - 1
    embargoed = train(rows, SESSIONS, attrs.evolve(PLAN, embargo_ns=Nanos(17 * HOUR)))
    assert embargoed.folds[0]["learned_from"] == 9 * 8 - 1


def test_the_threshold_lets_enough_trades_pass_and_no_trade_stands_on_it() -> None:
    rows = market(edge=25)
    trained = train(rows, SESSIONS, PLAN)
    passed = sum(fold["with_veto"]["trades"] for fold in trained.folds)
    assert passed >= 0.4 * sum(fold["without_veto"]["trades"] for fold in trained.folds)
    assert 0 < trained.threshold < 1
    probabilities = trained.estimator.predict_proba(np.array([row.values for row in rows]))[:, 1]
    assert trained.threshold not in probabilities


def test_the_same_rows_in_any_order_train_the_same() -> None:
    rows = market(edge=25)
    one, other = train(rows, SESSIONS, PLAN), train(rows[::-1], SESSIONS, PLAN)
    assert (one.threshold, one.metrics, one.folds, one.data_digest) == (
        other.threshold,
        other.metrics,
        other.folds,
        other.data_digest,
    )
    assert one.data_digest != train(market(edge=24), SESSIONS, PLAN).data_digest


def test_the_results_add_up() -> None:
    rows = market(edge=10)
    result = hold_out(rows)["without_veto"]
    tested = [float(row.pnl) for row in rows if row.session >= SESSIONS[-15]]
    daily = np.array(tested).reshape(15, 8).sum(axis=1)
    curve = np.concatenate([[0], np.cumsum(daily)])
    assert result["trades"] == len(tested)
    assert result["net_pnl"] == pytest.approx(sum(tested), abs=0.01)
    assert result["won_share"] == pytest.approx(np.mean(np.array(tested) > 0), abs=1e-4)
    won, lost = sum(p for p in tested if p > 0), -sum(p for p in tested if p < 0)
    assert result["profit_factor"] == pytest.approx(won / lost, abs=1e-3)
    assert result["sharpe"] == pytest.approx(daily.mean() / daily.std(ddof=1) * 252**0.5, abs=1e-3)
    assert result["max_drawdown"] == pytest.approx(max(max(curve[: i + 1]) - curve[i] for i in range(16)), abs=0.01)


@pytest.mark.parametrize(
    "rows",
    [[], market(edge=1)[:16], [attrs.evolve(row, pnl=Decimal(1)) for row in market(edge=1)]],
    ids=["no trade", "two sessions with trades", "nothing was lost"],
)
def test_too_little_to_learn_from_is_refused(rows: list[Row]) -> None:
    with pytest.raises(OperatorError, match="take more sessions"):
        train(rows, SESSIONS, PLAN)


def test_a_row_with_a_missing_value_is_a_bug() -> None:
    rows = market(edge=1)
    rows[3] = attrs.evolve(rows[3], values=(1.0, float("nan"), 1.0))
    with pytest.raises(OurError, match="missing"):
        train(rows, SESSIONS, PLAN)


def test_the_model_of_training_lets_everything_pass() -> None:
    score = PassEverything(root="ES", features=("ibs_pct", "price_usd")).score((0.1, 2.0))
    assert score.probability >= PassEverything(root="ES", features=()).threshold
    assert score.bias + sum(score.contributions) == score.probability
