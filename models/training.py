"""One root, from candidates to a forest with its threshold and what it was worth on sessions never looked at.

Everything is fixed on the sessions before the hold-out (`validation`, `search`); then the hold-out is looked
at once, with and without the veto. A model is *better than no veto* only when all of these hold there:

* enough trades pass to say anything,
* their net P&L is above that of all trades,
* the mean P&L of those that pass exceeds the mean of all by more than chance explains: the lower end of a
  99 % bootstrap interval over whole sessions is above 0. (Net P&L alone is no proof: where trades lose on
  average, letting fewer of them pass "wins" with any model.)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from domain.ibs import EntrySide
from domain.metrics import daily, deflated_sharpe, summary
from models.candidates import Candidates, Judging, Row
from models.forest import FlatForest
from models.search import Choice, Floats, choose, fitted, run_trials
from models.validation import Fold, Mask, TrainingPlan, splits_of

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

RESAMPLES = 2_000
CONFIDENCE = 0.99


@attrs.frozen(kw_only=True)
class Edge:
    """Mean P&L of the trades that pass less the mean of all, per trade, with its bootstrap interval."""

    value: float
    low: float
    high: float


@attrs.frozen(kw_only=True, eq=False)
class Trained:
    """A fitted forest with the threshold and the results that belong to it."""

    estimator: RandomForestClassifier
    """Has learned from all that had ended before the hold-out: what the hold-out shows is of this very forest."""
    params: Mapping[str, Any]
    threshold: float
    metrics: Mapping[str, Any]
    folds: tuple[Mapping[str, Any], ...]
    data_digest: str
    """Hex sha256 of the rows."""
    shortcomings: tuple[str, ...]
    """Why it is not better than no veto on the hold-out, in words; empty when it is."""
    choice: Choice
    hold_out: Fold
    unseen: Floats
    """The probability of each row of the hold-out; NaN elsewhere."""


def train(table: Candidates, plan: TrainingPlan, trials: list[Floats] | None = None) -> Trained:
    """Train one root. `trials`: the answers of `run_trials`; without them they are made here.

    Raises OperatorError (exit 2) when there are too few trades to learn from, to choose on or to test on.
    """
    splits = splits_of(table, plan)
    choice = choose(table, plan, trials or run_trials({table.root: table}, plan)[table.root])
    estimator = fitted(table, splits.hold_out, choice.params, plan.seed)
    unseen = np.full(len(table), np.nan)
    tested = splits.hold_out.tested
    unseen[tested] = estimator.predict_proba(table.values[tested])[:, 1]
    is_passed = unseen >= choice.threshold  # NaN passes nothing
    result = _with_and_without(table, tested, is_passed, splits.hold_out.days)
    edge = edge_of(table, tested, is_passed, splits.hold_out.days, plan.seed)
    shortcomings = _shortcomings(result, edge, plan)
    days = splits.hold_out.days
    tried = [level.sharpe for level in choice.tried if level.sharpe is not None]
    deflated = deflated_sharpe(daily(table.pnl[is_passed], table.sessions[is_passed], days), tried)
    folds = [
        {
            "fold": number,
            "from": _day(fold.days[0]),
            "learned_from": int(fold.learned.sum()),
            "threshold": "chosen on it",
            **_with_and_without(table, fold.tested, choice.unseen >= choice.threshold, fold.days),
        }
        for number, fold in enumerate(splits.folds, start=1)
    ]
    metrics = {
        "rows": len(table),
        "sessions": len(table.days),
        "forests_tried": len(plan.grid),
        "thresholds_tried": len(choice.tried),
        "hold_out": {
            "from": _day(days[0]),
            "to": _day(days[-1]),
            **result,
            "edge_per_trade": None if edge is None else _rounded(attrs.asdict(edge), 2),
            "deflated_sharpe": None if deflated is None else _rounded(attrs.asdict(deflated), 4),
        },
        "is_better_than_no_veto_on_hold_out": not shortcomings,
        "shortcomings": list(shortcomings),
    }
    return Trained(
        estimator=estimator,
        params=choice.params,
        threshold=choice.threshold,
        metrics=metrics,
        folds=tuple(folds),
        data_digest=table.digest,
        shortcomings=shortcomings,
        choice=choice,
        hold_out=splits.hold_out,
        unseen=unseen,
    )


def judging(trained: Trained, table: Candidates, side: EntrySide) -> Judging:
    """The veto that `trained` is, as a backtest asks it."""
    return Judging(
        root=table.root,
        features=table.features,
        side=side,
        digest=trained.data_digest,
        threshold=trained.threshold,
        forest=FlatForest.of(trained.estimator),
    )


def with_run(trained: Trained, rows: Sequence[Row]) -> Trained:
    """Say beside the rows that pass what the strategy made of the hold-out with the veto: `rows` are its trades.

    A trade that is kept away leaves its root free for an entry that is no candidate.
    """
    days = trained.hold_out.days
    seen = [row for row in rows if row.session.toordinal() in days]
    pnl = np.array([float(row.pnl) for row in seen])
    sessions = np.array([row.session.toordinal() for row in seen], np.int64)
    hold_out = {**trained.metrics["hold_out"], "run_with_veto": summary(pnl, sessions, days)}
    return attrs.evolve(trained, metrics={**trained.metrics, "hold_out": hold_out})


def edge_of(table: Candidates, tested: Mask, is_passed: Mask, days: npt.NDArray[np.int64], seed: int) -> Edge | None:
    """The edge per trade, with an interval from resampled sessions (their trades are not independent).

    None when nothing passes.
    """
    chosen = tested & is_passed
    if not chosen.any():
        return None
    of_days = np.stack(
        [
            daily(values, table.sessions[rows], days)
            for rows in (chosen, tested)
            for values in (table.pnl[rows], np.ones(int(rows.sum())))
        ]
    )  # P&L and count of those that pass, of all
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(days), np.full(len(days), 1 / len(days)), size=RESAMPLES)
    passed, passed_count, every, every_count = of_days @ drawn.T
    is_defined = passed_count > 0
    gains = passed[is_defined] / passed_count[is_defined] - every[is_defined] / every_count[is_defined]
    low, high = np.quantile(gains, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Edge(value=float(table.pnl[chosen].mean() - table.pnl[tested].mean()), low=float(low), high=float(high))


def _shortcomings(result: Mapping[str, Any], edge: Edge | None, plan: TrainingPlan) -> tuple[str, ...]:
    found = []
    passed, every = result["with_veto"], result["without_veto"]
    if passed["trades"] < plan.min_trades / 2:
        found.append(f"{passed['trades']} trades pass, too few to judge by")
    if passed["net_pnl"] <= every["net_pnl"]:
        found.append(f"net P&L {passed['net_pnl']:+,.2f} is not above {every['net_pnl']:+,.2f} without the veto")
    if edge is not None and edge.low <= 0:
        found.append(f"the edge per trade, {edge.value:+,.2f} ({edge.low:+,.2f} to {edge.high:+,.2f}), may be chance")
    return tuple(found)


def _with_and_without(table: Candidates, tested: Mask, is_passed: Mask, days: npt.NDArray[np.int64]) -> dict[str, Any]:
    chosen = tested & is_passed
    return {
        "without_veto": summary(table.pnl[tested], table.sessions[tested], days),
        "with_veto": summary(table.pnl[chosen], table.sessions[chosen], days),
    }


def _rounded(numbers: Mapping[str, Any], digits: int) -> dict[str, Any]:
    return {name: round(value, digits) for name, value in numbers.items()}


def _day(ordinal: np.int64) -> str:
    return dt.date.fromordinal(int(ordinal)).isoformat()
