"""The veto at work: bars of every root in, a judgement of one root's candidate entry out.

One path for live, replay, backtest and training: a feature book holds the bars, each
root's model names the features it wants, and whatever keeps it from being asked (no
model, a refused one, a missing input) refuses the entry with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from domain.bars import Bar, BarTable
from domain.feature_book import FeatureBook, FeatureVector
from domain.features import FEATURE_SET_VERSION, required_bases
from domain.gates import Gate, unscored_gate, veto_gate
from domain.ibs import EntrySide
from domain.populations import CarriedPercentile
from domain.units import Nanos, Price
from domain.veto import Score, Verdict, VetoModel, unusable_features

_T = TypeVar("_T")
_ALL = ""
"""In place of a root: all of them."""


@attrs.frozen(kw_only=True)
class Judgement:
    """The veto's gate, and the score behind it when there is one."""

    gate: Gate
    digest: str = ""
    vector: FeatureVector | None = None
    score: Score | None = None
    threshold: float | None = None


class Scorer:
    """Models by root over one feature book. Use it in journal order: a bar first, then its judgement."""

    def __init__(
        self,
        models: Mapping[str, VetoModel],
        *,
        thresholds: Mapping[str, float] | None = None,
        refusals: Mapping[str, str] | None = None,
        gates: Mapping[str, Sequence[str]] | None = None,
        details: Mapping[str, str] | None = None,
        carried: Sequence[CarriedPercentile] = (),
        tables: Sequence[BarTable] = (),
        days_since: int = 0,
        pairs: Mapping[str, str] | None = None,
    ) -> None:
        """`thresholds`: instead of the models' own, by root. `refusals`: why a root has no model, by root;
        `details`: the same in words. `gates`: the features of each root's optional gates.
        `carried`: the session before's `percentiles()`; what grew from another model is left out.
        `tables`: completed hours and days, adjusted for rolls. `days_since`: a last completed day that
        had ended by then is out of date. `pairs`: the root that a root's pair features read.
        """
        self._models = dict(sorted(models.items()))
        self._thresholds = {root: model.threshold for root, model in self._models.items()} | dict(thresholds or {})
        self._refusals, self._details = dict(refusals or {}), dict(details or {})
        self._gates = dict(gates or {})
        bases = {
            root: (*self._bases_of_model(root), *required_bases(self._gates.get(root, ()), FEATURE_SET_VERSION))
            for root in sorted({*self._models, *self._gates})
        }
        self._book = FeatureBook(bases=bases, days_since=days_since, pairs=pairs or {})
        self._failed: dict[str, str] = {}
        """By root what its features or its score raised: it enters nothing more, and everybody else goes on.
        A bar or a history that could not be taken leaves a hole for whoever reads it: that is for _ALL."""
        self._guarded(_ALL, self._fill, carried, tables)

    def _bases_of_model(self, root: str) -> tuple[str, ...]:
        model = self._models.get(root)
        return () if model is None else required_bases(model.features, model.feature_set)

    def _fill(self, carried: Sequence[CarriedPercentile], tables: Sequence[BarTable]) -> None:
        for root, model in self._models.items():
            for base in self._bases_of_model(root):
                values = [float(value) for value in model.populations[base]]
                self._book.seed_population(
                    root, base, values, seed=model.digest, through_ns=Nanos(model.trained_until_ns if values else 0)
                )
        self._book.restore(carried)
        self._book.load(tables)

    def add_hours(self, bars: Sequence[Bar]) -> None:
        """Take the completed hour bars of roots' active contracts that closed together."""
        self._guarded(_ALL, self._book.add_hours, bars)

    def add_day(self, bar: Bar) -> None:
        """Take a completed day bar of a root's active contract."""
        self._guarded(_ALL, self._book.add_day, bar)

    def forget(self, root: str) -> None:
        """The root's bars until now are not whole: what reads them is missing until there are enough again."""
        self._guarded(_ALL, self._book.forget, root)

    def open_session(self, days_since: int, rolled: Mapping[str, Price | None]) -> None:
        """Go on into another session, as `FeatureBook.open_session` does."""
        self._guarded(_ALL, self._book.open_session, days_since, rolled)

    def gate_values(self, root: str, bar_end: Nanos) -> FeatureVector | str:
        """The features of the root's gates at the hour bar that ends at `bar_end`, or why there are none.

        Never raises, and what fails here costs the root its entries alone.
        """
        place = f"{root} gates"
        values = None
        if not self._failed.keys() & {place, _ALL}:
            values = self._guarded(place, self._gate_values, root, bar_end)
        return (self._failed.get(_ALL) or self._failed[place]) if values is None else values

    def _gate_values(self, root: str, bar_end: Nanos) -> FeatureVector | str:
        if not self._book.has_hours(root):
            return f"{root} 1h: no bars"
        vector = self._book.vector(root, self._gates.get(root, ()), FEATURE_SET_VERSION)
        return vector if vector.ts == bar_end else f"{root}: the features stand at another bar"

    def judge(self, root: str, bar_end: Nanos, *, side: EntrySide = "long") -> Judgement:
        """What the root's model says of the hour bar that ends at `bar_end`, which must have been added.

        `side`: of the entries that the root makes; a model that was trained on others judges none of them,
        however it was loaded. Never raises: an exit of any root must not depend on it.
        """
        judgement = None
        if not self._failed.keys() & {root, _ALL}:
            judgement = self._guarded(root, self._judge, root, bar_end, side)
        if judgement is None:
            why = self._failed.get(_ALL) or self._failed[root]
            return Judgement(gate=unscored_gate("veto_failed", why))
        return judgement

    def _guarded(self, root: str, work: Callable[..., _T], *arguments: object) -> _T | None:
        try:
            return work(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this root its entries and no more
            self._failed.setdefault(root, f"{type(error).__name__}: {error}")
            return None

    def _judge(self, root: str, bar_end: Nanos, side: EntrySide) -> Judgement:
        model = self._models.get(root)
        if model is None:
            reason = f"veto_model_{self._refusals.get(root, 'missing')}"
            return Judgement(gate=unscored_gate(reason, self._details.get(root)))
        if model.side != side:
            return Judgement(gate=unscored_gate("veto_model_side", f"trained on {model.side} entries"))
        threshold = self._thresholds[root]
        if not self._book.has_hours(root):
            gate = unscored_gate("veto_input_missing", f"{root} 1h: no bars")
            return Judgement(gate=gate, digest=model.digest, threshold=threshold)
        vector = self._book.vector(root, model.features, model.feature_set)
        if detail := _why_not_scored(vector, bar_end):
            return Judgement(gate=unscored_gate("veto_input_missing", detail), digest=model.digest, threshold=threshold)
        score = model.score(vector.complete())
        return Judgement(
            gate=veto_gate(Verdict(probability=score.probability, threshold=threshold)),
            digest=model.digest,
            vector=vector,
            score=score,
            threshold=threshold,
        )

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        """What the next session needs besides the bars and the models."""
        return self._guarded(_ALL, self._book.percentiles) or ()


def _why_not_scored(vector: FeatureVector, bar_end: Nanos) -> str:
    """In words; empty when nothing stands in the way."""
    if vector.ts != bar_end:
        return f"{vector.root}: the features stand at another bar"
    if vector.missing:
        # Each reason once, with the features it concerns.
        names: dict[str, list[str]] = {}
        for name, reason in zip(vector.missing, vector.reasons, strict=True):
            names.setdefault(reason, []).append(name)
        return "; ".join(f"{reason} ({', '.join(of)})" for reason, of in names.items())
    unusable = unusable_features(vector.names, vector.complete())
    return f"out of range: {', '.join(unusable)}" if unusable else ""
