"""A small real veto for tests: a forest of a few trees, written and loaded as a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from domain.features import required_bases
from domain.veto import Score
from models import BundleDescription, ModelBundle, write_bundle

_SPREADS = {"price_usd": (900.0, 1200.0), "ibs_pct": (0.0, 1.0)}


def features_of(root: str) -> tuple[str, ...]:
    """What needs little history: two hours, two days, and the hours of NQ."""
    own = root.lower()
    return ("price_usd", f"{own}_hourly_return", "nq_hourly_return", f"{own}_daily_return", "ibs_pct")


def small_bundle(
    models_dir: Path, root: str = "ES", *, features: tuple[str, ...] = (), seed: int = 0, **changes: Any
) -> ModelBundle:
    """The bundle of `root` with a forest fitted on random rows; `changes` are the description's, or `populations`."""
    names = features or features_of(root)
    rng = np.random.default_rng([seed, *root.encode()])
    spreads = [_SPREADS.get(name, (-1.0, 1.0) if "daily" in name else (-0.15, 0.15)) for name in names]
    rows = np.column_stack([rng.uniform(low, high, 400) for low, high in spreads])
    trend = sum(column / high for column, (_, high) in zip(rows.T, spreads, strict=True) if high <= 1.0)
    wins = (trend + rng.normal(size=400) / 2 > np.median(trend)).astype(int)
    forest = RandomForestClassifier(15, max_depth=6, min_samples_leaf=4, random_state=seed).fit(rows, wins)
    populations = changes.pop("populations", None)
    if populations is None:
        populations = {base: rng.uniform(size=100) for base in required_bases(names, "v2")}
    values: dict[str, Any] = {
        "root": root,
        "signal_product": root,
        "market": "simulated",
        "feature_set": "v2",
        "features": names,
        "threshold": 0.5,
        "params": {},
        "training_start": "2024-01-01T00:00:00Z",
        "training_end": "2024-04-01T00:00:00Z",
        "data_digest": "ab" * 32,
        "label": "chance",
        "metrics": {},
        "folds": ({"fold": 1},),
        "command": "none",
        "seed": seed,
    }
    return write_bundle(
        BundleDescription(**(values | changes)), forest, populations, check_rows=rows, models_dir=models_dir
    )


class Meddling:
    """Implements `domain.veto.VetoModel`: a bundle that does something before it answers, by default nothing."""

    def __init__(self, model: ModelBundle, first: Callable[[], object] = lambda: None) -> None:
        self.model, self.first = model, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def score(self, values: Sequence[float]) -> Score:
        self.first()
        return self.model.score(tuple(values))
