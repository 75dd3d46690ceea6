"""The registry: every feature a bundle may name, with all that defines its value.

name -> a pure function, its inputs (which root, which timeframe, or a percentile),
the window W, unit and source. W is part of the definition: the function is given
exactly the last W completed bars, and with fewer the feature is missing. Recursive
indicators start at the window's first bar, so W is chosen long enough that what
came before weighs less than 1e-9, and it is the same in training and live. Two stand
out: 300 days leave the seed of the daily EMA50 4e-5 of its weight, and the Parabolic
SAR forgets by reversals, not by weight (200 hours: no difference in 474 trials).

A bundle declares its feature set version. In `v2` (ours) daily means daily; in
`legacy-1` the names that the predecessor computed from hours in its training read
hours again. A name that is not here, or that needs what the exchange does not
carry, is refused with its reason (`unavailable`), never filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

import attrs

from domain import feature_set as formula
from domain.bars import Timeframe
from domain.errors import OperatorError
from domain.feature_set import Columns

FEATURE_SET_VERSION = "v2"
LEGACY_VERSION = "legacy-1"

# fmt: off
UNIVERSE = (
    "ES", "NQ", "RTY", "YM", "GC", "SI", "HG", "CL", "NG", "6A", "6B", "6E", "PL", "6C", "6J", "6M", "6N", "6S", "TLT",
)
# fmt: on
"""Roots that cross-instrument features read. TLT is the name under which ZB is read."""

_DESIGN = "strategy.md §3"


@attrs.frozen(kw_only=True)
class BarInput:
    """The last W completed bars of one root."""

    root: str | None
    """None is the root that decides."""
    timeframe: Timeframe


@attrs.frozen(kw_only=True)
class PercentileInput:
    """The percentile of the deciding root's last bar in the population of a base."""

    base: str


@attrs.frozen(kw_only=True)
class PercentileBase:
    """What a percentile ranks: one value per completed bar of the root, inserted once."""

    name: str
    function: Callable[[Columns], float | None]
    window: int
    timeframe: Timeframe
    unit: str


@attrs.frozen(kw_only=True)
class Feature:
    """One feature: its value is `function` of its inputs, in their order.

    A bar input arrives as `Columns` of `window` bars, a percentile as a float in (0, 1]
    (its window is then the longest of its bases).
    """

    name: str
    function: Callable[..., float | None]
    window: int
    inputs: tuple[BarInput | PercentileInput, ...]
    unit: str
    source: str
    key: str
    """The family: features of one key differ in root, timeframe or form."""
    output: str
    """The quantity: features with the same output are aliases, equal in every vector."""
    form: Literal["value", "percentile", "product"]
    parameter: str
    """The lengths inside the formula, for people; empty without any."""
    label: str


@attrs.frozen(kw_only=True)
class Requirement:
    """Completed bars without which some feature is missing; `root` None is the root that decides."""

    root: str | None
    timeframe: Timeframe
    bars: int


# ---------------------------------------------------------------- the table

BASES: Mapping[str, PercentileBase] = MappingProxyType(
    {
        base.name: base
        for base in (
            PercentileBase(name="ibs", function=formula.bar_strength, window=1, timeframe="1h", unit="0-1"),
            PercentileBase(name="rsi", function=formula.rsi_5, window=120, timeframe="1h", unit="0-100"),
            PercentileBase(name="volz", function=formula.volume_z, window=256, timeframe="1h", unit="sigmas"),
            PercentileBase(name="atrz", function=formula.atr_z, window=360, timeframe="1h", unit="sigmas"),
            PercentileBase(name="dvolz", function=formula.volume_z, window=256, timeframe="1d", unit="sigmas"),
            PercentileBase(name="datrz", function=formula.atr_z, window=360, timeframe="1d", unit="sigmas"),
        )
    }
)
"""What percentiles rank, by name."""

_SPANS: tuple[tuple[Timeframe, str], ...] = (("1h", "hourly"), ("1d", "daily"))
_WILDERS = (formula.rsi_14, formula.adx_14, formula.parabolic_distance)


_Formula = Callable[[Columns], float | None]


_Row = tuple[str, _Formula, int, Timeframe, str, str, str]
"""Name, function, window, timeframe, unit, parameter, label."""


def _of_bars(row: _Row, root: str | None = None) -> Feature:
    name, function, window, timeframe, unit, parameter, label = row
    return Feature(
        name=name,
        function=function,
        window=window,
        inputs=(BarInput(root=root, timeframe=timeframe),),
        unit=unit,
        source=f"{_DESIGN}; Wilder 1978" if function in _WILDERS else _DESIGN,
        key=function.__name__,
        output=f"{(root or 'own').lower()}.{timeframe}.{function.__name__}",
        form="value",
        parameter=parameter,
        label=label,
    )


def _of_percentiles(name: str, *bases: str, label: str) -> Feature:
    is_product = len(bases) > 1
    return Feature(
        name=name,
        function=formula.rank_product if is_product else formula.rank,
        window=max(BASES[base].window for base in bases),
        inputs=tuple(PercentileInput(base=base) for base in bases),
        unit="product of ranks (0, 1]" if is_product else "rank (0, 1]",
        source=_DESIGN,
        key="x".join(bases),
        output="own.percentile." + "x".join(bases),
        form="product" if is_product else "percentile",
        parameter="",
        label=label,
    )


def _cross(root: str) -> tuple[Feature, ...]:
    """The four features that every instrument of the universe gives to all the others (and to itself)."""
    rows: list[_Row] = []
    for timeframe, span in _SPANS:
        name = f"{root.lower()}_{span}"
        rows.append((f"{name}_return", formula.percent_return, 2, timeframe, "percent", "", f"{root} {span} return"))
        rows.append((f"{name}_z_score", formula.z_score, 252, timeframe, "sigmas", "20/252", f"{root} {span} z-score"))
    return tuple(_of_bars(row, root) for row in rows)


_ROWS: tuple[_Row, ...] = (
    ("price_usd", formula.order_price, 1, "1h", "quote currency", "", "order price"),
    ("rsi_len_14", formula.rsi_14, 300, "1h", "0-100", "14", "RSI"),
    ("daily_rsi_len_14", formula.rsi_14, 300, "1d", "0-100", "14", "daily RSI"),
    ("adx_value", formula.adx_14, 400, "1h", "0-100", "14", "ADX"),
    ("ma_slope_fast", formula.ma_slope, 300, "1h", "average ranges", "20/5/14", "slope of EMA20"),
    ("ma_spread_ribbon_tightness", formula.ma_spread, 600, "1h", "points", "20/50", "EMA spread"),
    ("ma_spread_daily_ribbon_tightness", formula.ma_spread, 300, "1d", "points", "20/50", "daily EMA spread"),
    ("distance_z_entry_daily", formula.distance_z, 21, "1d", "sigmas", "20", "daily distance from SMA20"),
    ("daily_directional_drift", formula.directional_drift, 21, "1d", "sigmas", "20", "daily directional drift"),
    ("hourly_atr_percentile", formula.atr_percentile, 600, "1h", "0-100", "14/252", "ATR percentile"),
    ("parabolic_sar_distance", formula.parabolic_distance, 200, "1h", "points", ".02/.2", "distance from the SAR"),
)

_RANKED = (
    _of_percentiles("ibs_pct", "ibs", label="IBS percentile"),
    _of_percentiles("volz_pct", "volz", label="volume z percentile"),
    _of_percentiles("volume_z_percentile", "volz", label="volume z percentile"),
    _of_percentiles("atrz_pct", "atrz", label="ATR z percentile"),
    _of_percentiles("atr_z_percentile", "atrz", label="ATR z percentile"),
    _of_percentiles("dvolz_pct", "dvolz", label="daily volume z percentile"),
    _of_percentiles("daily_volume_z_percentile", "dvolz", label="daily volume z percentile"),
    _of_percentiles("daily_atr_z_percentile", "datrz", label="daily ATR z percentile"),
    _of_percentiles("ibsxvolz", "ibs", "volz", label="IBS × volume z"),
    _of_percentiles("rsixvolz", "rsi", "volz", label="RSI × volume z"),
)


def _table() -> Mapping[str, Feature]:
    features = [*(_of_bars(row) for row in _ROWS), *_RANKED]
    for root in UNIVERSE:
        features += _cross(root)
    return MappingProxyType({feature.name: feature for feature in features})


FEATURES: Mapping[str, Feature] = _table()
"""Version `v2`, by name."""

_READ_HOURS: Mapping[str, int] = MappingProxyType(
    {"ma_spread_daily_ribbon_tightness": FEATURES["ma_spread_ribbon_tightness"].window, "distance_z_entry_daily": 21}
)
"""Daily names that were numerically the hourly value in the predecessor's training, with the hourly window."""


def _on_hours(feature: Feature, window: int) -> Feature:
    return attrs.evolve(
        feature,
        window=window,
        inputs=(BarInput(root=None, timeframe="1h"),),
        output=f"own.1h.{feature.key}",
        label=f"{feature.label} (hourly in {LEGACY_VERSION})",
    )


_VERSIONS: Mapping[str, Mapping[str, Feature]] = MappingProxyType(
    {
        FEATURE_SET_VERSION: FEATURES,
        LEGACY_VERSION: MappingProxyType(
            {
                name: _on_hours(feature, _READ_HOURS[name]) if name in _READ_HOURS else feature
                for name, feature in FEATURES.items()
            }
        ),
    }
)

# ------------------------------------------------------------------ queries


def features_of(version: str) -> Mapping[str, Feature]:
    """The features of a feature set version, by name. Raises OperatorError for an unknown version."""
    try:
        return _VERSIONS[version]
    except KeyError as error:
        known = " or ".join(sorted(_VERSIONS))
        raise OperatorError(f"unknown feature set version {version!r}", fix=f"the bundle must say {known}") from error


def feature_names(version: str) -> tuple[str, ...]:
    """Every name that the version can compute, sorted. Raises OperatorError for an unknown version."""
    return tuple(sorted(features_of(version)))


def unavailable(name: str) -> str | None:
    """Why no version can compute `name`, or None when one can (every version has the same names)."""
    if name in FEATURES:
        return None
    if name.startswith("vix_") or name in ("value", "value_pct", "prev_day_pctxvalue"):
        return "needs VIX, which GLBX.MDP3 does not carry"
    close = get_close_matches(name, FEATURES, n=1)
    return "not in the feature registry" + (f"; did you mean {close[0]!r}?" if close else "")


def required_inputs(names: Iterable[str], version: str) -> tuple[Requirement, ...]:
    """The completed bars that `names` need: the longest window per root and timeframe, the deciding root first.

    Raises OperatorError for an unknown version or an unavailable name.
    """
    longest: dict[tuple[str, Timeframe], int] = {}
    for feature in _chosen(names, version):
        for source in feature.inputs:
            if isinstance(source, PercentileInput):
                base = BASES[source.base]
                place, window = ("", base.timeframe), base.window
            else:
                place, window = (source.root or "", source.timeframe), feature.window
            longest[place] = max(longest.get(place, 0), window)
    # Every vector is of an hour bar, also one of daily features alone.
    longest.setdefault(("", "1h"), 1)
    return tuple(
        Requirement(root=root or None, timeframe=timeframe, bars=longest[root, timeframe])
        for root, timeframe in sorted(longest)
    )


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
