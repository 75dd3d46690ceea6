"""A scorer that a plain Cerebro feeds: hours and days of its own feeds named `X@1h` and `X@1d`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.backtrader.feeds import bar_of_lines
from adapters.backtrader.roots import FeedReader
from domain.errors import OurError
from domain.scorer import Scorer
from domain.units import Nanos
from domain.veto import VetoModel


class OwnScorer:
    """A model of one root, the features of gates, or both, on the feeds of this Cerebro."""

    def __init__(
        self,
        feeds: Iterable[Any],
        model: VetoModel | None,
        *,
        features: Sequence[str],
        threshold: float | None,
        gates: Mapping[str, Sequence[str]],
        pairs: Mapping[str, str],
    ) -> None:
        if model is not None and tuple(features or model.features) != tuple(model.features):
            raise OurError(f"ml_features are not those of the model of {model.root}")
        thresholds = {} if model is None or threshold is None else {model.root: float(threshold)}
        self.scorer = Scorer(
            {} if model is None else {model.root: model}, thresholds=thresholds, gates=gates, pairs=pairs
        )
        self._inputs: list[tuple[str, FeedReader, bool]] = []
        """Root, feed, and whether its bars are hours, not days."""
        self._fresh: list[tuple[str, FeedReader, bool]] = []
        for data in feeds:
            root, _, timeframe = data._name.partition("@")
            if timeframe in ("1h", "1d"):
                self._inputs.append((root, FeedReader(data), timeframe == "1h"))

    def poll(self) -> FeedReader | None:
        """Once a turn: a feed that has a bar in it, if one has."""
        self._fresh = [each for each in self._inputs if each[1].poll()]
        return self._fresh[0][1] if self._fresh else None

    def take(self, now: Nanos) -> None:
        """The bars that ended at `now`, before anything is decided on them."""
        bars = [(bar_of_lines(root, feed.data.lines, now), is_hour) for root, feed, is_hour in self._fresh]
        self.scorer.add_hours([bar for bar, is_hour in bars if is_hour])
        for bar, is_hour in bars:
            if not is_hour:
                self.scorer.add_day(bar)
