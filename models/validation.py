"""Order of time: which rows a forest may learn from, which it is tested on, and which are looked at once.

Sessions are cut into blocks. A fold is tested on one block and learns from the rows before it whose label
had ended an embargo before the first tested decision (purged walk-forward: López de Prado, *Advances in
Financial Machine Learning*, 2018, ch. 7). What is compared are the labels' own intervals, never the blocks'
borders: a position held over a border belongs to neither side. The last sessions are the hold-out; rows whose
label reaches into it are neither learned from nor validated on.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from domain.errors import OperatorError
from domain.units import HOUR, Nanos
from models.candidates import Candidates

Mask = npt.NDArray[np.bool_]
"""One truth value per row of the candidates."""


def _grid(**choices: tuple[Any, ...]) -> tuple[Mapping[str, Any], ...]:
    common = {"max_features": "sqrt", "class_weight": None}
    forests = (dict(zip(choices, chosen, strict=True)) for chosen in product(*choices.values()))
    return tuple({**chosen, **(common | chosen)} for chosen in forests)


GRIDS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "one": _grid(n_estimators=(100,), max_depth=(4,), min_samples_leaf=(8,)),
    "small": _grid(n_estimators=(100,), max_depth=(3, 5), min_samples_leaf=(8, 24)),
    "wide": _grid(
        n_estimators=(300,), max_depth=(2, 3, 4, 6), min_samples_leaf=(5, 10, 20, 40), max_features=("sqrt", 0.5)
    ),
}
"""Forests to try, by name: parameters of scikit-learn's RandomForestClassifier."""


@attrs.frozen(kw_only=True)
class TrainingPlan:
    """How a root's forest is searched and its threshold found."""

    folds: int = 4
    hold_out_share: float = 0.25
    """Of the sessions, the last ones."""
    embargo_ns: Nanos = Nanos(HOUR)
    """Between the outcome of a row that may be learned from and the first decision that is tested."""
    kept_share: float = 0.4
    """A threshold must let at least this share of the validation's trades pass …"""
    min_trades: int = 30
    """… and at least so many; the hold-out must show half as many for a model to be trusted."""
    grid: tuple[Mapping[str, Any], ...] = GRIDS["small"]
    seed: int = 1


@attrs.frozen(kw_only=True, eq=False)
class Fold:
    """Rows to learn from and rows to test on."""

    days: npt.NDArray[np.int64]
    """The sessions of the block that is tested."""
    learned: Mask
    tested: Mask


@attrs.frozen(kw_only=True, eq=False)
class Splits:
    """The folds, oldest first, and the hold-out (its `learned`: all that the final forest learns from)."""

    folds: tuple[Fold, ...]
    hold_out: Fold


def splits_of(table: Candidates, plan: TrainingPlan) -> Splits:
    """Raises OperatorError (exit 2) where a part has no trade, or one to learn from was only won or only lost."""
    held_out = math.ceil(len(table.days) * plan.hold_out_share)
    development, last = table.days[:-held_out], table.days[-held_out:]
    blocks = np.array_split(development, plan.folds + 1)
    if any(len(block) == 0 for block in blocks):
        raise _too_little(table, f"{len(table.days)} sessions are too few")
    in_hold_out = table.sessions >= last[0]
    hold_out = _fold(table, last, in_hold_out, plan.embargo_ns)
    is_settled = table.exits + plan.embargo_ns <= table.decided[in_hold_out].min()
    folds = []
    for block in blocks[1:]:
        tested = (table.sessions >= block[0]) & (table.sessions <= block[-1]) & is_settled
        folds.append(_fold(table, block, tested, plan.embargo_ns))
    return Splits(folds=tuple(folds), hold_out=hold_out)


def _fold(table: Candidates, days: npt.NDArray[np.int64], tested: Mask, embargo_ns: int) -> Fold:
    if not tested.any():
        first, last = (dt.date.fromordinal(int(day)) for day in (days[0], days[-1]))
        raise _too_little(table, f"no trade in the sessions from {first} to {last}")
    # What was decided earlier and had ended by the first tested decision overlaps no tested label.
    learned = table.exits + embargo_ns <= table.decided[tested].min()
    if len(np.unique(table.wins[learned])) != 2:
        raise _too_little(table, "the trades before a block are all won or all lost")
    return Fold(days=days, learned=learned, tested=tested)


def _too_little(table: Candidates, what: str) -> OperatorError:
    return OperatorError(what, where=table.root, fix="take more sessions", exit_code=2)
