"""Folds: no label that is learned from overlaps one that is tested, whatever the blocks' borders are."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import pairwise

import attrs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.errors import OperatorError
from domain.units import HOUR, Nanos
from models.candidates import Candidates, Row
from models.validation import GRIDS, Fold, TrainingPlan, splits_of

SESSIONS = [dt.date(2024, 1, 1) + dt.timedelta(days=number) for number in range(40)]


@st.composite
def tables(draw: st.DrawFn) -> Candidates:
    """Trades of many lengths, some over several sessions, decided at any hour."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.sampled_from([2, 30, 100]))
    rows = []
    for number, session in enumerate(SESSIONS):
        for hour in sorted(chance.choice(23, size=3, replace=False).tolist()):
            decided = (number * 24 + hour) * HOUR
            length = int(chance.integers(1, longest + 1)) * HOUR
            pnl = Decimal(1 if chance.random() < 0.5 else -1)
            rows.append(
                Row(
                    root="ES",
                    session=session,
                    decided_ns=Nanos(decided),
                    exit_ns=Nanos(decided + length),
                    values=(0.0,),
                    pnl=pnl,
                )
            )
    return Candidates.of(rows, features=["x"], sessions=SESSIONS)


def overlaps(table: Candidates, fold: Fold, embargo: int) -> bool:
    """By all pairs: a label that is learned from, with the embargo behind it, and one that is tested."""
    starts, ends = table.decided[fold.learned], table.exits[fold.learned] + embargo
    return bool(((starts[:, None] < table.exits[fold.tested]) & (ends[:, None] > table.decided[fold.tested])).any())


@settings(max_examples=40)
@given(table=tables(), embargo=st.sampled_from([0, HOUR, 24 * HOUR]))
def test_no_label_that_is_learned_from_overlaps_a_tested_one(table: Candidates, embargo: int) -> None:
    plan = TrainingPlan(embargo_ns=Nanos(embargo))
    try:
        splits = splits_of(table, plan)
    except OperatorError:
        assume(False)
    first_looked_at = table.decided[splits.hold_out.tested].min()
    for fold in (*splits.folds, splits.hold_out):
        assert not (fold.learned & fold.tested).any()
        assert not overlaps(table, fold, embargo)
        assert table.decided[fold.learned].max() < table.decided[fold.tested].min()
    for fold in splits.folds:
        assert (table.exits[fold.tested] + embargo <= first_looked_at).all(), "the threshold would see the hold-out"
    assert len(splits.hold_out.days) == 10
    assert not any((one.tested & other.tested).any() for one, other in pairwise(splits.folds))


def test_blocks_alone_would_not_do() -> None:
    """A trade over a block's border is learned from by a split at borders, and not by this one."""
    rows = [
        Row(
            root="ES",
            session=session,
            decided_ns=Nanos(24 * number * HOUR),
            exit_ns=Nanos((24 * number + 1) * HOUR),
            values=(0.0,),
            pnl=Decimal(number % 2),
        )
        for number, session in enumerate(SESSIONS)
    ]
    rows[5] = attrs.evolve(rows[5], exit_ns=Nanos(24 * 7 * HOUR))
    table = Candidates.of(rows, features=["x"], sessions=SESSIONS)
    fold = splits_of(table, TrainingPlan()).folds[0]
    assert fold.days[0] == SESSIONS[6].toordinal()
    assert table.sessions[5] < fold.days[0]
    assert not fold.learned[5]
    assert fold.learned[4]


def test_too_few_sessions_are_refused() -> None:
    row = Row(root="ES", session=SESSIONS[0], decided_ns=Nanos(0), exit_ns=Nanos(1), values=(0.0,), pnl=Decimal(1))
    with pytest.raises(OperatorError, match="ES: 4 sessions are too few"):
        splits_of(Candidates.of([row], features=["x"], sessions=SESSIONS[:4]), TrainingPlan())


def test_the_grids_hold_different_forests() -> None:
    for grid in GRIDS.values():
        assert len({tuple(sorted(params.items())) for params in grid}) == len(grid)
    assert [len(GRIDS[name]) for name in ("one", "small", "wide")] == [1, 4, 32]
