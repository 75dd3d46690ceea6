"""The search: trials in parallel give what they give alone, finished ones are not run again, changed ones are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from models.kept import KeptWork
from models.search import choose, run_trials, trial_key
from models.training import train
from tests.trades import FOREST, PLAN, market, table_of

GRID: tuple[Mapping[str, Any], ...] = tuple({**FOREST, "max_depth": depth} for depth in (1, 3))
SEARCHED = attrs.evolve(PLAN, grid=GRID)
TABLES = {root: attrs.evolve(table_of(market(edge=25, seed=seed)), root=root) for root, seed in (("ES", 1), ("NQ", 2))}


@pytest.mark.soak  # two processes that import scikit-learn: six seconds of CPU
def test_processes_change_nothing_and_neither_does_company() -> None:
    alone = run_trials({"ES": TABLES["ES"]}, SEARCHED)
    together = run_trials(TABLES, SEARCHED, jobs=2)
    assert list(together) == ["ES", "NQ"]
    for one, other in zip(alone["ES"], together["ES"], strict=True):
        assert np.array_equal(one, other, equal_nan=True)


class _InterruptedError(Exception):
    pass


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    kept = KeptWork(tmp_path / "trials")
    done: list[str] = []

    def interrupt(root: str) -> None:
        done.append(root)
        if len(done) == 3:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        run_trials(TABLES, SEARCHED, kept=kept, done=interrupt)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    assert len(finished) == 3
    resumed = run_trials(TABLES, SEARCHED, kept=kept)
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items()), "a finished trial was run again"
    assert len(list((tmp_path / "trials").iterdir())) == 4
    fresh = run_trials(TABLES, SEARCHED)
    for root, trials in fresh.items():
        for one, other in zip(trials, resumed[root], strict=True):
            assert np.array_equal(one, other, equal_nan=True)


def test_a_kept_trial_is_used_as_it_is_and_a_damaged_one_is_run_again(tmp_path: Path) -> None:
    kept, table = KeptWork(tmp_path), TABLES["ES"]
    (honest,) = run_trials({"ES": table}, PLAN, kept=kept)["ES"]
    kept.put(trial_key(table, PLAN, FOREST), {"unseen": np.zeros(len(table))})
    assert not run_trials({"ES": table}, PLAN, kept=kept)["ES"][0].any()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert np.array_equal(run_trials({"ES": table}, PLAN, kept=kept)["ES"][0], honest, equal_nan=True)


def test_nothing_is_found_that_other_code_has_kept(tmp_path: Path) -> None:
    table, key = TABLES["ES"], trial_key(TABLES["ES"], PLAN, FOREST)
    KeptWork(tmp_path, salt="one").put(key, {"unseen": np.zeros(len(table))})
    assert KeptWork(tmp_path, salt="one").get(key) is not None
    assert KeptWork(tmp_path, salt="other").get(key) is None
    assert run_trials({"ES": table}, PLAN, kept=KeptWork(tmp_path, salt="other"))["ES"][0].any()


def test_the_key_names_all_that_a_trial_depends_on() -> None:
    table = TABLES["ES"]
    keys = {
        trial_key(table, PLAN, FOREST),
        trial_key(TABLES["NQ"], PLAN, FOREST),
        trial_key(attrs.evolve(table, days=table.days[1:]), PLAN, FOREST),
        trial_key(table, attrs.evolve(PLAN, seed=4), FOREST),
        trial_key(table, attrs.evolve(PLAN, folds=3), FOREST),
        trial_key(table, attrs.evolve(PLAN, hold_out_share=0.3), FOREST),
        trial_key(table, attrs.evolve(PLAN, embargo_ns=0), FOREST),
        trial_key(table, PLAN, GRID[0]),
    }
    assert len(keys) == 8
    assert trial_key(table, attrs.evolve(PLAN, min_trades=5), FOREST) in keys  # that is for the choice alone


def test_the_best_on_the_folds_is_chosen_and_everything_that_was_tried_is_counted() -> None:
    table = TABLES["ES"]
    choice = choose(table, SEARCHED, run_trials({"ES": table}, SEARCHED)["ES"])
    best = max(level.net_pnl for level in choice.tried)
    assert [params for params, _ in choice.of_forests] == list(GRID)
    assert (choice.params, best) == max(choice.of_forests, key=lambda forest: forest[1])
    tested = ~np.isnan(choice.unseen)
    passed = tested & (choice.unseen >= choice.threshold)
    assert table.pnl[passed].sum() == pytest.approx(best)
    assert len(choice.tried) > len(choice.levels) > 5
    assert choice.levels[0].trades == tested.sum(), "no veto is one of what is tried"
    trained = train(table, SEARCHED)
    assert trained.params == choice.params
    assert trained.metrics["thresholds_tried"] == len(choice.tried)
    assert trained.metrics["forests_tried"] == 2
