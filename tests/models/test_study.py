"""A search without a grid: what is proposed, told and counted; with optuna where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from domain.errors import OperatorError
from models.kept import KeptWork
from models.search import choose, run_trials, worth
from models.study import BATCH, OptunaProposer, search
from models.training import train
from tests.trades import FOREST, PLAN, market, table_of

TABLES = {root: attrs.evolve(table_of(market(edge=25, seed=seed)), root=root) for root, seed in (("ES", 1), ("NQ", 2))}
HAS_OPTUNA = find_spec("optuna") is not None
needs_optuna = pytest.mark.skipif(not HAS_OPTUNA, reason="optuna is not installed: pip install -e '.[search]'")


class Climber:
    """Leaf sizes around the best so far, drawn from a seed: what comes next depends on what was told."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(7)
        self._best = (-np.inf, 30)
        self.asked: list[Sequence[Mapping[str, Any]]] = []
        self.told: list[Sequence[float]] = []

    def ask(self, count: int) -> Sequence[Mapping[str, Any]]:
        sizes = np.clip(self._best[1] + self._chance.integers(-12, 13, count), 1, None).tolist()
        self.asked.append([{**FOREST, "min_samples_leaf": size} for size in sizes])
        return self.asked[-1]

    def tell(self, worths: Sequence[float]) -> None:
        self.told.append(worths)
        for forest, value in zip(self.asked[-1], worths, strict=True):
            self._best = max(self._best, (value, forest["min_samples_leaf"]))


def test_every_forest_is_told_what_it_was_worth_on_the_folds_and_is_counted() -> None:
    climbers: list[Climber] = []

    def propose() -> Climber:
        climbers.append(Climber())
        return climbers[-1]

    done: list[str] = []
    found = search(TABLES, PLAN, propose, trials=BATCH + 1, done=done.append)
    assert (done.count("ES"), done.count("NQ")) == (BATCH + 1, BATCH + 1)
    climber, table, (plan, trials) = climbers[1], TABLES["NQ"], found["NQ"]
    assert [len(batch) for batch in climber.asked] == [BATCH, 1]
    assert [*plan.grid] == [forest for batch in climber.asked for forest in batch]
    told = [value for worths in climber.told for value in worths]
    # What it was told is what a grid of the same forests finds.
    assert told == [worth(table, plan, unseen) for unseen in run_trials({"NQ": table}, plan)["NQ"]]
    assert told == [value for _, value in choose(table, plan, trials).of_forests]
    trained = train(table, plan, trials)
    assert trained.metrics["forests_tried"] == BATCH + 1
    assert trained.metrics["thresholds_tried"] == len(trained.choice.tried) > 5 * (BATCH + 1)
    assert trained.metrics["hold_out"]["deflated_sharpe"]["trials"] == len(trained.choice.tried)


class _InterruptedError(Exception):
    pass


def assert_goes_on(propose: Any, tmp_path: Path) -> None:
    """Interrupted after five trials and run again, it finds what an undisturbed search finds; so does a longer one."""
    kept, done = KeptWork(tmp_path / "kept"), []

    def interrupt(root: str) -> None:
        done.append(root)
        if len(done) == BATCH + 1:
            raise _InterruptedError

    table = {"ES": TABLES["ES"]}
    with pytest.raises(_InterruptedError):
        search(table, PLAN, propose, trials=2 * BATCH, kept=kept, done=interrupt)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert 0 < len(finished) <= BATCH + 1
    plan, trials = search(table, PLAN, propose, trials=2 * BATCH, kept=kept)["ES"]
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items()), "a finished trial was run again"
    undisturbed, answers = search(table, PLAN, propose, trials=2 * BATCH)["ES"]
    assert plan.grid == undisturbed.grid
    for one, other in zip(trials, answers, strict=True):
        assert np.array_equal(one, other, equal_nan=True)
    longer, _ = search(table, PLAN, propose, trials=2 * BATCH + 1, kept=kept)["ES"]
    assert longer.grid[: 2 * BATCH] == plan.grid


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    assert_goes_on(Climber, tmp_path)


@pytest.mark.skipif(HAS_OPTUNA, reason="optuna is installed")
def test_without_optuna_it_says_how_to_install_it() -> None:
    with pytest.raises(OperatorError, match="optuna is not installed") as caught:
        OptunaProposer(1)
    assert caught.value.exit_code == 2
    assert ".[search]" in caught.value.fix


@needs_optuna
@pytest.mark.soak
def test_optunas_study_goes_on_where_it_was(tmp_path: Path) -> None:
    assert_goes_on(lambda: OptunaProposer(3), tmp_path)


@needs_optuna
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_optuna_recovers_a_planted_edge_whatever_the_processes_and_refuses_noise() -> None:
    table, noise = {"ES": TABLES["ES"]}, {"ES": table_of(market(edge=0, seed=1))}
    one, other, of_noise = (
        train(rows["ES"], *search(rows, PLAN, lambda: OptunaProposer(PLAN.seed), trials=12, jobs=jobs)["ES"])
        for rows, jobs in ((table, 1), (table, 2), (noise, 1))
    )
    assert (one.params, one.threshold, one.metrics) == (other.params, other.threshold, other.metrics)
    assert one.shortcomings == ()
    assert one.metrics["hold_out"]["edge_per_trade"]["low"] > 0
    assert one.metrics["forests_tried"] == 12
    assert of_noise.shortcomings
    assert OptunaProposer(4).ask(3) != OptunaProposer(5).ask(3)
