"""The search: every forest of the grid over the folds, its best threshold, and what has been tried in all.

A trial's answer is one probability per row of the folds, each from a forest that had learned only from what
had ended before. Trials of all roots run in parallel and are kept on disk as they finish, under a name made
of everything they depend on: a run that was interrupted goes on, and a changed input is never mistaken for
the old one. The hold-out is not touched here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from domain.errors import OperatorError, OurError
from domain.metrics import daily, sharpe
from models.candidates import Candidates
from models.kept import KeptWork, key_of
from models.validation import Fold, TrainingPlan, splits_of

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

Floats = npt.NDArray[np.float64]

_STEPS = tuple(step / 20 for step in range(20))
"""The shares of trades that a threshold may keep away."""


@attrs.frozen(kw_only=True)
class Level:
    """A threshold that was tried on the validation's trades."""

    threshold: float
    trades: int
    net_pnl: float
    sharpe: float | None
    """Of one day, not annualised."""


@attrs.frozen(kw_only=True, eq=False)
class Choice:
    """What the search has found, and all that it has tried on the way."""

    params: Mapping[str, Any]
    threshold: float
    unseen: Floats
    """The chosen trial's probability of each row of the folds; NaN elsewhere."""
    levels: tuple[Level, ...]
    """The chosen trial's thresholds, ascending."""
    tried: tuple[Level, ...]
    """Every threshold of every trial."""
    of_forests: tuple[tuple[Mapping[str, Any], float], ...]
    """Per forest of the grid its net P&L on the validation, at its best threshold."""


def fitted(table: Candidates, fold: Fold, params: Mapping[str, Any], seed: int) -> RandomForestClassifier:
    """A forest that has learned from the fold's rows; one thread, so that the same seed gives the same bits."""
    from joblib import parallel_config
    from sklearn.ensemble import RandomForestClassifier

    if (fold.learned & fold.tested).any():
        raise OurError("a row is learned from and tested on")
    estimator = RandomForestClassifier(**params, random_state=seed, n_jobs=1)
    # Its trees are joblib's work too: they stay here, wherever the forests go.
    with parallel_config(backend="sequential"):
        return estimator.fit(table.values[fold.learned], table.wins[fold.learned])


def trial(table: Candidates, folds: tuple[Fold, ...], params: Mapping[str, Any], seed: int) -> Floats:
    """The probability of each row that a fold tests; NaN elsewhere."""
    unseen = np.full(len(table), np.nan)
    for fold in folds:
        unseen[fold.tested] = fitted(table, fold, params, seed).predict_proba(table.values[fold.tested])[:, 1]
    return unseen


def choose(table: Candidates, plan: TrainingPlan, trials: list[Floats]) -> Choice:
    """The trial and threshold with the best net P&L on the validation; of equals the first, and the lowest.

    Raises OperatorError (exit 2) when there are fewer trades than `plan.min_trades` to choose on.
    """
    of_trials = [_levels(table, unseen, plan) for unseen in trials]
    best = [max(levels, key=lambda level: level.net_pnl) for levels in of_trials]
    place = max(range(len(best)), key=lambda number: best[number].net_pnl)
    return Choice(
        params=plan.grid[place],
        threshold=best[place].threshold,
        unseen=trials[place],
        levels=of_trials[place],
        tried=tuple(level for levels in of_trials for level in levels),
        of_forests=tuple((params, level.net_pnl) for params, level in zip(plan.grid, best, strict=True)),
    )


def worth(table: Candidates, plan: TrainingPlan, unseen: Floats) -> float:
    """A trial's net P&L on the validation at its best threshold: what trials are compared by.

    Raises OperatorError as `choose` does.
    """
    return max(level.net_pnl for level in _levels(table, unseen, plan))


def _levels(table: Candidates, unseen: Floats, plan: TrainingPlan) -> tuple[Level, ...]:
    """The twentieths of the validation's trades that keep enough of them; the first lets everything pass.

    A threshold lies between two probabilities, where no trade stands on it.
    """
    days = np.concatenate([fold.days for fold in splits_of(table, plan).folds])
    tested = ~np.isnan(unseen)
    probabilities, pnl, sessions = unseen[tested], table.pnl[tested], table.sessions[tested]
    if len(pnl) < plan.min_trades:
        raise OperatorError(
            f"{len(pnl)} trades to choose a threshold on, fewer than {plan.min_trades}",
            where=table.root,
            fix="take more sessions, or lower --min-trades and trust the result less",
            exit_code=2,
        )
    steps = [step for step in _STEPS if 1 - step >= plan.kept_share - 1e-9]
    ordered = np.unique(probabilities)
    levels = []
    for level in np.unique(np.quantile(probabilities, steps, method="lower")):
        below = ordered[np.searchsorted(ordered, level) - 1] if level > ordered[0] else 0.0
        threshold = min(max(float((below + level) / 2), 1e-6), 1 - 1e-6)
        is_passed = probabilities >= threshold
        if is_passed.sum() >= plan.min_trades or level == ordered[0]:
            levels.append(
                Level(
                    threshold=threshold,
                    trades=int(is_passed.sum()),
                    net_pnl=float(pnl[is_passed].sum()),
                    sharpe=sharpe(daily(pnl[is_passed], sessions[is_passed], days), 1),
                )
            )
    return tuple(levels)


# ------------------------------------------------------ many, with a memory


def run_trials(
    tables: Mapping[str, Candidates],
    plan: TrainingPlan,
    *,
    grids: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    kept: KeptWork | None = None,
    jobs: int = 1,
    done: Callable[[str], None] = lambda root: None,
) -> dict[str, list[Floats]]:
    """All trials of all roots, each root's in its grid's order; `done(root)` is called after each.

    `grids`: instead of the plan's, by root. What `kept` holds is not run again. Raises OperatorError like `splits_of`.
    """
    from joblib import Parallel, delayed

    grids = grids or dict.fromkeys(tables, plan.grid)
    folds = {root: splits_of(table, plan).folds for root, table in tables.items()}
    results: dict[tuple[str, int], Floats] = {}
    due = []
    for root, table in tables.items():
        for number, params in enumerate(grids[root]):
            found = kept.get(trial_key(table, plan, params)) if kept is not None else None
            if found is None:
                due.append((root, number))
            else:
                results[root, number] = found["unseen"]
                done(root)
    work = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_placed)((root, number), tables[root], folds[root], grids[root][number], plan.seed)
        for root, number in due
    )
    for (root, number), unseen in work:
        if kept is not None:
            kept.put(trial_key(tables[root], plan, grids[root][number]), {"unseen": unseen})
        results[root, number] = unseen
        done(root)
    return {root: [results[root, number] for number in range(len(grids[root]))] for root in tables}


def _placed(
    place: tuple[str, int], table: Candidates, folds: tuple[Fold, ...], params: Mapping[str, Any], seed: int
) -> tuple[tuple[str, int], Floats]:
    return place, trial(table, folds, params, seed)


def trial_key(table: Candidates, plan: TrainingPlan, params: Mapping[str, Any]) -> str:
    """Hex sha256 of what a trial's answer depends on beside the code: rows, folds, forest, seed, libraries."""
    return key_of(
        rows=table.digest,
        days=hashlib.sha256(table.days.tobytes() + table.sessions.tobytes()).hexdigest(),
        split=[plan.folds, plan.hold_out_share, plan.embargo_ns],
        params=dict(params),
        seed=plan.seed,
        libraries={name: importlib.metadata.version(name) for name in ("numpy", "scikit-learn")},
    )
