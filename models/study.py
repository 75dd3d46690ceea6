"""A search without a grid: forests are proposed from what those before were worth on the folds, and all are counted.

A batch of `BATCH` is asked for before any of it is known, whatever runs in parallel, so that the number of
processes changes nothing. What a forest answers is kept as a grid's: a study that was interrupted, or is asked
to go on for longer, proposes the same again and finds it done. The hold-out is not touched here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from domain.errors import OperatorError
from models.candidates import Candidates
from models.kept import KeptWork
from models.search import Floats, run_trials, worth
from models.validation import TrainingPlan

BATCH = 4

Forest = Mapping[str, Any]
"""Parameters of scikit-learn's RandomForestClassifier."""


class Proposer(Protocol):
    """Where the next forests come from; equal answers give equal proposals."""

    def ask(self, count: int) -> Sequence[Forest]:
        """That many forests to try."""
        ...

    def tell(self, worths: Sequence[float]) -> None:
        """What those of the last `ask` were worth, in its order: more is better."""
        ...


def search(
    tables: Mapping[str, Candidates],
    plan: TrainingPlan,
    propose: Callable[[], Proposer],
    *,
    trials: int,
    kept: KeptWork | None = None,
    jobs: int = 1,
    done: Callable[[str], None] = lambda root: None,
) -> dict[str, tuple[TrainingPlan, list[Floats]]]:
    """By root: the plan with the forests that were tried as its grid, and the answer of each of them.

    `propose` is called once per root, `done(root)` after each trial. Raises OperatorError like `choose`.
    """
    proposers = {root: propose() for root in tables}
    grids: dict[str, list[Forest]] = {root: [] for root in tables}
    answers: dict[str, list[Floats]] = {root: [] for root in tables}
    for first in range(0, trials, BATCH):
        batch = {root: one.ask(min(BATCH, trials - first)) for root, one in proposers.items()}
        found = run_trials(tables, plan, grids=batch, kept=kept, jobs=jobs, done=done)
        for root, table in tables.items():
            proposers[root].tell([worth(table, plan, unseen) for unseen in found[root]])
            grids[root] += batch[root]
            answers[root] += found[root]
    return {root: (attrs.evolve(plan, grid=tuple(grids[root])), answers[root]) for root in tables}


class OptunaProposer:
    """Optuna's tree-structured Parzen estimator, drawn from `seed`; the first ten forests are random."""

    def __init__(self, seed: int) -> None:
        """Raises OperatorError (exit 2) where optuna is not installed."""
        try:
            import optuna
        except ImportError as error:
            raise OperatorError(
                "optuna is not installed",
                where="--search optuna",
                fix="python -m pip install -e '.[search]', or search a grid: --grid small",
                exit_code=2,
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        numbers = optuna.distributions.IntDistribution
        self._space = {
            "n_estimators": numbers(100, 300, step=100),
            "max_depth": numbers(2, 8),
            "min_samples_leaf": numbers(4, 64, log=True),
            "max_features": optuna.distributions.FloatDistribution(0.1, 1.0, step=0.1),
        }
        # Those of a batch that are not known yet count as bad: it is not the same forest four times.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: list[Any] = []

    def ask(self, count: int) -> Sequence[Forest]:
        self._asked = [self._study.ask(self._space) for _ in range(count)]
        return [
            {**trial.params, "max_features": round(trial.params["max_features"], 1), "class_weight": None}
            for trial in self._asked
        ]

    def tell(self, worths: Sequence[float]) -> None:
        for trial, value in zip(self._asked, worths, strict=True):
            self._study.tell(trial, value)
