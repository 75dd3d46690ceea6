"""Percentiles in an expanding population, and their products."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from domain.features.entry import DESIGN, BarInput, Feature, PercentileBase, PercentileInput

# fmt: off
SECOND_NAMES: Mapping[str, str] = MappingProxyType({
    "ibs": "ibs_percentile", "daily_ibs": "daily_ibs_percentile", "pair_ibs": "pair_ibs_percentile",
    "pair_z": "pair_z_percentile", "rsi": "rsi_percentile", "rsi_len2": "rsi_len_2_percentile",
    "rsi2": "secondary_rsi_percentile", "daily_rsi": "daily_rsi_percentile", "atrz": "atr_z_percentile",
    "volz": "volume_z_percentile", "datrz": "daily_atr_z_percentile", "dvolz": "daily_volume_z_percentile",
    "z_score": "price_z_percentile", "dist_z": "distance_z_percentile", "mom3_z": "momentum_z_percentile",
    "tratr": "tr_atr_percentile", "bb": "bb_percentile", "bear_count": "bear_count_percentile",
    "prev_day_pct": "prev_day_percentile", "prev_bar_pct": "prev_bar_percentile",
})
# fmt: on
"""Every base, and its percentile's name besides `<base>_pct`."""

PRODUCTS = (("ibs", "atrz"), ("ibs", "volz"), ("rsi", "atrz"), ("rsi", "volz"))


def rank(percentile: float) -> float:
    """(first rank + last rank)/2 ÷ count of the bar's value in the population, itself included."""
    return percentile


def rank_product(*percentiles: float) -> float:
    """The product of the percentiles, never of the raw values."""
    return math.prod(percentiles)


def bases(values: Iterable[Feature]) -> Mapping[str, PercentileBase]:
    """What percentiles rank, by name: features of the form `value`."""
    known = {feature.name: feature for feature in values}
    found = {}
    for name in SECOND_NAMES:
        feature = known[name]
        found[name] = PercentileBase(
            name=name,
            function=feature.function,
            window=feature.window,
            inputs=tuple(source for source in feature.inputs if isinstance(source, BarInput)),
            unit=feature.unit,
        )
    return MappingProxyType(found)


def percentiles(known: Mapping[str, PercentileBase], labels: Mapping[str, str]) -> tuple[Feature, ...]:
    """Every base's percentile under both names, and the products; `labels` by base."""
    single = [
        _of(name, (known[base],), f"percentile: {labels[base]}")
        for base, second in SECOND_NAMES.items()
        for name in (f"{base}_pct", second)
    ]
    products = [
        _of(
            "x".join(pair), tuple(known[base] for base in pair), f"product: {' × '.join(labels[base] for base in pair)}"
        )
        for pair in PRODUCTS
    ]
    return (*single, *products)


def _of(name: str, ranked: tuple[PercentileBase, ...], label: str) -> Feature:
    key = "x".join(base.name for base in ranked)
    is_product = len(ranked) > 1
    return Feature(
        name=name,
        function=rank_product if is_product else rank,
        window=max(base.window for base in ranked),
        inputs=tuple(PercentileInput(base=base.name) for base in ranked),
        unit="product of ranks (0, 1]" if is_product else "rank (0, 1]",
        source=DESIGN,
        key=key,
        output=f"own.percentile.{key}",
        form="product" if is_product else "percentile",
        parameter="",
        label=label,
    )
