"""The veto's words: a model, its record, a score and what it is made of, the verdict, the nearest flip.

A model answers with a probability; an entry passes when `probability >= threshold`.
This module refuses to be a model: the forest lives in `models`, and what it needs
from its caller is a vector in which nothing is missing (`unusable_features`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from domain.ibs import EntrySide
from domain.units import Nanos

FLOAT32_MAX = 3.4028234663852886e38
"""Largest value a forest can take: scikit-learn, and so the flat walk, compare in float32."""


@attrs.frozen(kw_only=True)
class Score:
    """A model's answer to one vector: `bias + sum(contributions) = probability` within 1e-12.

    `probability` is of a winning trade, in [0, 1]. `bias` is what the model says without
    looking at any feature; `contributions` has one number per feature, in the model's order:
    how far the splits on that feature moved the probability (Saabas' path decomposition).
    """

    probability: float
    bias: float
    contributions: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Verdict:
    """A probability against its threshold. Not a number passes nothing."""

    probability: float
    threshold: float

    @property
    def is_passed(self) -> bool:
        """True when the entry may go on: exactly on the threshold passes."""
        return self.probability >= self.threshold

    @property
    def margin(self) -> float:
        """Probability above (positive) or below (negative) the threshold."""
        return self.probability - self.threshold


@attrs.frozen(kw_only=True)
class Flip:
    """The smallest change of one feature, all others held, that turns the verdict round.

    `value_needed` is the nearest value a forest can tell apart (a float32) at which the
    verdict is the other one; `probability_then` is the probability there. Units differ from
    feature to feature, so features are compared by `distance`: the change divided by the
    spread of that feature's split points in the model.
    """

    feature: str
    value_now: float
    value_needed: float
    probability_then: float
    distance: float


@attrs.frozen(kw_only=True)
class ModelRecord:
    """Which model scores a root's entries in a session, or why none can: part of what a journal opens with."""

    root: str
    digest: str = ""
    """The model's; empty when it was refused."""
    feature_set: str = ""
    features: tuple[str, ...] = ()
    """In the order of a vector."""
    threshold: float | None = None
    refusal: str = ""
    """The reason's code; empty for a model that is used."""
    detail: str = attrs.field(default="", eq=False)
    """The refusal in words, such as the features that cannot be computed."""
    otherwise: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Parameters of the strategy that are others than in its training, each in words. They refuse nothing."""


class VetoModel(Protocol):
    """A model that can veto an entry of one root."""

    @property
    def root(self) -> str:
        """The root it was trained for."""
        ...

    @property
    def side(self) -> EntrySide:
        """Of the entries that it was trained on, and may be asked about."""
        ...

    @property
    def digest(self) -> str:
        """Hex sha256 that names the model and everything it was loaded from."""
        ...

    @property
    def feature_set(self) -> str:
        """Version of the feature registry that the names belong to."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of a vector."""
        ...

    @property
    def threshold(self) -> float:
        """The least probability that passes, in (0, 1)."""
        ...

    @property
    def populations(self) -> Mapping[str, Iterable[float]]:
        """Per percentile base that the features rank: its values at the end of training, ascending."""
        ...

    @property
    def trained_until_ns(self) -> Nanos:
        """Exclusive end of the bars in `populations`."""
        ...

    def score(self, vector: Sequence[float]) -> Score:
        """The score of a vector in the order of `features`. Raises OurError for one of another length or infinite."""
        ...


def unusable_features(features: Sequence[str], vector: Sequence[float]) -> tuple[str, ...]:
    """Names of the inputs that cannot be scored: NaN, infinite or beyond float32.

    Any of them refuses the entry (missing is veto): a forest would answer NaN with a guess.
    """
    return tuple(
        name
        for name, value in zip(features, vector, strict=True)
        # written so that NaN, which compares false with everything, counts as unusable
        if not -FLOAT32_MAX <= value <= FLOAT32_MAX
    )
