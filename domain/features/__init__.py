"""The registry: every feature a bundle or a gate may name, with all that defines its value.

name -> a pure function, its inputs (which root, which timeframe, or a percentile),
the window W, unit and source. W is part of the definition: the function is given
exactly the last W completed bars, and with fewer the feature is missing. Recursive
indicators start at the window's first bar, so W is chosen long enough that what
came before weighs less than 1e-9, as far as the bars that history keeps go (1,500 hours,
504 days), and it is the same in training and live. Where that is not reached:

* EMA50 of 300 days: the seed keeps 4e-5 of its weight; EMA200 of 1,400 hours 6e-6, of 500 days 5e-2;
* ATR100 of 1,400 hours: 2e-6; ATR14 at the far end of 252 days: 3e-8;
* the Parabolic SAR forgets by reversals, not by weight (200 hours: no difference in 474 trials).

A bundle declares its feature set version. In `v2` (ours) daily means daily; in
`legacy-1` the names that the predecessor computed from hours in its training read
hours again. A name that is not here, or that needs what the exchange does not
carry, is refused with its reason (`unavailable`), never filled.

One module per family: `prices`, `oscillators`, `volatility`, `trend`, `patterns`, `percentiles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

import attrs

from domain.bars import Timeframe
from domain.errors import OperatorError
from domain.features import oscillators, patterns, percentiles, prices, trend, volatility
from domain.features.entry import (
    PAIR,
    PAIR_REACH,
    Band,
    BarInput,
    Feature,
    PercentileBase,
    PercentileInput,
    Requirement,
)

__all__ = (
    "BASES",
    "FEATURES",
    "FEATURE_SET_VERSION",
    "LEGACY_VERSION",
    "PAIR",
    "PAIR_REACH",
    "READ_HOURS",
    "UNAVAILABLE",
    "UNIVERSE",
    "VERSIONS",
    "Band",
    "BarInput",
    "Feature",
    "PercentileBase",
    "PercentileInput",
    "Requirement",
    "feature_names",
    "features_of",
    "required_bases",
    "required_inputs",
    "unavailable",
)

FEATURE_SET_VERSION = "v2"
LEGACY_VERSION = "legacy-1"

# fmt: off
UNIVERSE = (
    "ES", "NQ", "RTY", "YM", "GC", "SI", "HG", "CL", "NG", "6A", "6B", "6E", "PL", "6C", "6J", "6M", "6N", "6S", "TLT",
)
# fmt: on
"""Roots that cross-instrument features read. TLT is the name under which ZB is read."""

_NO_VIX = "needs VIX, which GLBX.MDP3 does not carry"

# ---------------------------------------------------------------- the table

_VALUES = (
    *prices.ENTRIES,
    *oscillators.ENTRIES,
    *volatility.ENTRIES,
    *trend.ENTRIES,
    *patterns.ENTRIES,
)

BASES: Mapping[str, PercentileBase] = percentiles.bases(_VALUES)
"""What percentiles rank, by name."""

FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        feature.name: feature
        for feature in (
            *_VALUES,
            *percentiles.percentiles(BASES, {value.name: value.label for value in _VALUES}),
            *(feature for root in UNIVERSE for feature in prices.cross(root)),
        )
    }
)
"""Version `v2`, by name."""

UNAVAILABLE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        (
            "prev_day_pctxvalue",
            "value",
            "value_pct",
            "value_percentile",
            *(f"vix_{span}_{name}" for span in ("daily", "hourly") for name in ("return", "z_score")),
            *(f"vix_{span}_{name}" for span in ("daily", "hourly") for name in ("return_pipeline", "z_pipeline")),
            "vix_regime",
        ),
        _NO_VIX,
    )
)
"""Names that are known and that no version computes, with the reason."""

READ_HOURS: Mapping[str, str] = MappingProxyType(
    {
        "bollinger_bandwidth_daily": "bollinger_bandwidth",
        "distance_z_entry_daily": "dist_z",
        "donchian_proximity_daily_to_nearest_band": "donchian_proximity_to_nearest_band",
        "ma_spread_daily_ribbon_tightness": "ma_spread_ribbon_tightness",
        "momentum_z_entry_daily": "mom3_z",
        "pair_ibs_daily": "pair_ibs",
        "pair_z_score_daily": "pair_z",
        "parabolic_sar_distance_daily": "parabolic_sar_distance",
        "price_z_score_daily": "z_score",
        "secondary_rsi_entry_daily": "rsi2",
        "spiral_efficiency_ratio_daily": "spiral_efficiency_ratio",
    }
)
"""Daily names that were numerically the hourly value in the predecessor's training, with the hourly name."""


def _on_hours(name: str) -> Feature:
    hourly = FEATURES[READ_HOURS[name]]
    label = f"{FEATURES[name].label} (hourly in {LEGACY_VERSION})"
    return attrs.evolve(hourly, name=name, label=label)


VERSIONS: Mapping[str, Mapping[str, Feature]] = MappingProxyType(
    {
        FEATURE_SET_VERSION: FEATURES,
        LEGACY_VERSION: MappingProxyType(
            {name: _on_hours(name) if name in READ_HOURS else feature for name, feature in FEATURES.items()}
        ),
    }
)

# ------------------------------------------------------------------ queries


def features_of(version: str) -> Mapping[str, Feature]:
    """The features of a feature set version, by name. Raises OperatorError for an unknown version."""
    try:
        return VERSIONS[version]
    except KeyError as error:
        known = " or ".join(sorted(VERSIONS))
        raise OperatorError(f"unknown feature set version {version!r}", fix=f"the bundle must say {known}") from error


def feature_names(version: str) -> tuple[str, ...]:
    """Every name that the version can compute, sorted. Raises OperatorError for an unknown version."""
    return tuple(sorted(features_of(version)))


def unavailable(name: str) -> str | None:
    """Why no version can compute `name`, or None when one can (every version has the same names)."""
    if name in FEATURES:
        return None
    if name in UNAVAILABLE:
        return UNAVAILABLE[name]
    close = get_close_matches(name, (*FEATURES, *UNAVAILABLE), n=1)
    return "not in the feature registry" + (f"; did you mean {close[0]!r}?" if close else "")


def required_inputs(names: Iterable[str], version: str, *, pair: str | None = None) -> tuple[Requirement, ...]:
    """The completed bars that `names` need: the longest window per root and timeframe, the deciding root first.

    `pair` is the root that the pair map gives to the deciding one; without it, what reads the pair needs bars
    of a root called PAIR. Raises OperatorError for an unknown version or an unavailable name.
    """
    longest: dict[tuple[str, Timeframe], int] = {}
    for feature in _chosen(names, version):
        for source in feature.inputs:
            of: Feature | PercentileBase = BASES[source.base] if isinstance(source, PercentileInput) else feature
            for place, bars in _bars_of(of, pair):
                longest[place] = max(longest.get(place, 0), bars)
    # Every vector is of an hour bar, also one of daily features alone.
    longest.setdefault(("", "1h"), 1)
    return tuple(
        Requirement(root=root or None, timeframe=timeframe, bars=longest[root, timeframe])
        for root, timeframe in sorted(longest)
    )


def _bars_of(of: Feature | PercentileBase, pair: str | None) -> Iterable[tuple[tuple[str, Timeframe], int]]:
    for position, source in enumerate(of.inputs):
        if isinstance(source, BarInput):
            root = pair if source.root == PAIR and pair else source.root
            yield (root or "", source.timeframe), of.window * (PAIR_REACH if position else 1)


def required_bases(names: Iterable[str], version: str) -> tuple[str, ...]:
    """The percentile bases that `names` rank, sorted. Raises OperatorError like `required_inputs`."""
    sources = (source for feature in _chosen(names, version) for source in feature.inputs)
    return tuple(sorted({source.base for source in sources if isinstance(source, PercentileInput)}))


def _chosen(names: Iterable[str], version: str) -> list[Feature]:
    known = features_of(version)
    chosen = []
    for name in names:
        if (reason := unavailable(name)) is not None:
            raise OperatorError(
                f"feature {name!r}: {reason}", fix="remove it from the bundle, which means training again"
            )
        chosen.append(known[name])
    return chosen
