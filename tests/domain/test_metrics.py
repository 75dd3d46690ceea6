"""Results of trades: against sums written out, and against the published example of the deflated Sharpe ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.metrics import (
    daily,
    deflated_sharpe,
    expected_maximum,
    max_drawdown,
    profit_factor,
    sharpe,
    sharpe_probability,
    summary,
)


def test_the_results_of_five_trades_by_hand() -> None:
    pnl = np.array([10.0, -4.0, 6.0, -8.0, 2.0])
    sessions, days = np.array([1, 1, 3, 4, 4]), np.array([1, 2, 3, 4])
    assert daily(pnl, sessions, days).tolist() == [6, 0, 6, -6]
    assert summary(pnl, sessions, days) == {
        "trades": 5,
        "net_pnl": 6.0,
        "won_share": 0.6,
        "profit_factor": 1.5,
        "sharpe": round(1.5 / math.sqrt(99 / 3) * math.sqrt(252), 3),
        "max_drawdown": 6.0,
    }


def test_what_is_undefined_is_none() -> None:
    nothing = np.zeros(0)
    result = summary(nothing, np.zeros(0, np.int64), np.array([1, 2]))
    assert (result["won_share"], result["profit_factor"], result["sharpe"]) == (None, None, None)
    assert profit_factor(np.array([1.0, 2.0])) is None
    assert sharpe(np.array([5.0])) is None
    assert deflated_sharpe(np.array([5.0, 5.0]), [0.1]) is None
    assert sharpe(np.full(63, -3.1)) is None  # of which numpy's mean is another float


def test_a_fall_from_the_start_is_a_drawdown() -> None:
    assert max_drawdown(np.array([-3.0, 1.0, -4.0, 9.0])) == 6.0


@pytest.mark.parametrize(("trials", "published"), [(100, 0.9004), (46, 0.9505)])
def test_the_published_example_of_the_deflated_sharpe_ratio(trials: int, published: float) -> None:
    """Bailey & López de Prado 2014, "A numerical example": 2.5 a year over five years of 250 days."""
    benchmark = expected_maximum(trials, 1 / (2 * 250))
    if trials == 100:
        assert benchmark == pytest.approx(0.1132, abs=5e-5)
    found = sharpe_probability(2.5 / math.sqrt(250), benchmark, days=1250, skewness=-3, kurtosis=10)
    assert found == pytest.approx(published, abs=5e-5)


@given(seed=st.integers(0, 10_000))
def test_more_trials_never_make_a_result_more_probable(seed: int) -> None:
    chance = np.random.default_rng(seed)
    per_day, tried = chance.normal(0.1, 1, 60), (chance.normal(size=20) / 8).tolist()
    one, all_of_them = deflated_sharpe(per_day, tried[:1]), deflated_sharpe(per_day, tried)
    assert one is not None
    assert all_of_them is not None
    assert one.benchmark == 0 <= all_of_them.benchmark
    assert all_of_them.probability <= one.probability
