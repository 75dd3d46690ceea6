"""A feature that knows the future is found and named before anything is learned from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from domain.errors import OperatorError
from domain.units import HOUR
from models.lookahead import Asked, refuse_lookahead, spread

CLOSES = np.random.default_rng(5).normal(size=60).cumsum() + 100
FEATURES = ("change", "suspect")


def vectors(suspect: Callable[[np.ndarray, int], float], closes: np.ndarray = CLOSES) -> Asked:
    """The vector of every hour from the second on; `suspect` is given all closes there are, and its place."""
    return {
        (place + 1) * HOUR: (float(closes[place] - closes[place - 1]), suspect(closes, place))
        for place in range(1, len(closes))
    }


def check(suspect: Callable[[np.ndarray, int], float], cuts: int = 3) -> None:
    asked = vectors(suspect)
    until = {cut: vectors(suspect, CLOSES[: cut // HOUR]) for cut in spread(sorted(asked), cuts)}
    refuse_lookahead("ES", FEATURES, asked, until)


def test_a_feature_of_the_past_passes() -> None:
    check(lambda closes, place: float(closes[: place + 1].mean()))


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(lambda closes, at: float(closes[min(at + 1, len(closes) - 1)]), id="the next bar"),
        pytest.param(lambda closes, at: float((closes[at] - closes.mean()) / closes.std()), id="a z of all data"),
        pytest.param(lambda closes, at: float((closes < closes[at]).mean()), id="a rank in all data"),
        pytest.param(lambda closes, at: float(closes[at] - closes[-1]), id="an adjustment backwards"),
        pytest.param(lambda closes, at: np.nextafter(closes[at], closes[-1]), id="one bit"),
    ],
)
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_planted_leak_is_named(leak: Callable[[np.ndarray, int], float], cuts: int) -> None:
    with pytest.raises(OperatorError, match="'suspect' knows the future") as caught:
        check(leak, cuts)
    assert caught.value.exit_code == 1
    assert caught.value.where == "ES"


def test_a_decision_that_needs_the_future_is_a_leak() -> None:
    asked = vectors(lambda closes, place: 0.0)
    with pytest.raises(OperatorError, match="only with the bars after"):
        refuse_lookahead("ES", FEATURES, asked, {30 * HOUR: {}})
    with pytest.raises(OperatorError, match="only without the bars after"):
        refuse_lookahead("ES", FEATURES, {}, {30 * HOUR: asked})


def test_the_cuts_are_spread_over_the_decisions() -> None:
    assert spread(range(12), 3) == (2, 6, 10)
    assert spread([5], 3) == (5,)
    assert spread([], 3) == ()
