"""The registry: which features there are, what they read, and the relations inside 100 real samples."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean, pstdev, stdev

import attrs
import numpy as np
import pytest

from domain.bar_window import Columns
from domain.errors import OperatorError
from domain.features import (
    BASES,
    FEATURE_SET_VERSION,
    FEATURES,
    LEGACY_VERSION,
    READ_HOURS,
    UNIVERSE,
    BarInput,
    PercentileInput,
    Requirement,
    feature_names,
    features_of,
    oscillators,
    patterns,
    percentiles,
    prices,
    required_bases,
    required_inputs,
    trend,
    unavailable,
    volatility,
)
from domain.ibs import internal_bar_strength
from domain.units import HOUR, Price, price_to_float

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"

ES_BUNDLE = [
    "volume_z_percentile",
    "volz_pct",
    "rsixvolz",
    "ibsxvolz",
    "tlt_daily_z_score",
    "6b_daily_return",
    "ma_spread_ribbon_tightness",
    "ma_spread_daily_ribbon_tightness",
    "distance_z_entry_daily",
    "6c_daily_return",
    "ibs_pct",
    "6a_hourly_return",
    "rsi_len_14",
    "atr_z_percentile",
    "6s_hourly_return",
    "price_usd",
    "atrz_pct",
    "nq_daily_z_score",
    "ma_slope_fast",
    "6a_daily_return",
    "daily_directional_drift",
    "hourly_atr_percentile",
    "cl_hourly_z_score",
    "tlt_hourly_z_score",
    "adx_value",
    "daily_rsi_len_14",
    "nq_daily_return",
    "parabolic_sar_distance",
]
"""The 28 of the ES bundle that need no VIX."""


def reference(name: str) -> Path:
    """A file of the shared reference data; skips the test, saying so, where it is absent."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"reference data not found: ../shared/reference/{name}")
    return path


def samples() -> list[dict[str, float]]:
    """The 100 real decisions, oldest first; only their numeric columns."""
    with reference("es_100_feature_vectors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(text) for name, text in row.items() if not name.endswith("_et")} for row in rows]


def columns(n: int, *, seed: int = 1, level: float = 5e12, tick: float = 2.5e8) -> Columns:
    rng = np.random.default_rng(seed)
    close = level + tick * np.cumsum(rng.integers(-9, 10, n))
    return Columns(
        start=HOUR * np.arange(n),
        open=close,
        high=close + tick * rng.integers(0, 6, n),
        low=close - tick * rng.integers(0, 6, n),
        close=close,
        volume=rng.integers(1, 9000, n).astype(float),
    )


def flat(n: int) -> Columns:
    price = np.full(n, 5e12)
    return Columns(start=HOUR * np.arange(n), open=price, high=price, low=price, close=price, volume=np.full(n, 10.0))


# ------------------------------------------------------------------ registry


def test_the_28_features_of_the_es_bundle_are_available_in_both_versions() -> None:
    assert len(ES_BUNDLE) == len(set(ES_BUNDLE)) == 28
    for version in (FEATURE_SET_VERSION, LEGACY_VERSION):
        assert set(ES_BUNDLE) <= set(feature_names(version))
    assert all(unavailable(name) is None for name in ES_BUNDLE)


def test_every_instrument_of_the_universe_gives_its_four_features() -> None:
    assert len(UNIVERSE) == 19
    for root in UNIVERSE:
        for span, timeframe in (("hourly", "1h"), ("daily", "1d")):
            for name, window in (("return", 2), ("z_score", 252)):
                feature = FEATURES[f"{root.lower()}_{span}_{name}"]
                assert feature.inputs == (BarInput(root=root, timeframe=timeframe),)
                assert feature.window == window


@pytest.mark.parametrize("name", ["vix_hourly_z_score", "vix_daily_return", "value", "value_pct", "prev_day_pctxvalue"])
def test_a_feature_that_needs_vix_is_known_and_unavailable(name: str) -> None:
    assert unavailable(name) == "needs VIX, which GLBX.MDP3 does not carry"
    assert name not in FEATURES


def test_an_unknown_feature_is_refused_with_the_nearest_name() -> None:
    assert unavailable("volz_pc") == "not in the feature registry; did you mean 'volz_pct'?"
    assert unavailable("phase_of_the_moon_today") == "not in the feature registry"
    with pytest.raises(OperatorError, match="'volz_pc': not in the feature registry; did you mean 'volz_pct'"):
        required_inputs(["volz_pc"], "v2")


@pytest.mark.parametrize("call", [feature_names, lambda version: required_inputs(["ibs_pct"], version)])
def test_an_unknown_version_is_refused(call: Callable[[str], object]) -> None:
    with pytest.raises(OperatorError, match=r"unknown feature set version 'v3'[\s\S]*legacy-1 or v2"):
        call("v3")


def test_every_entry_is_whole() -> None:
    for version in (FEATURE_SET_VERSION, LEGACY_VERSION):
        for name, feature in features_of(version).items():
            assert feature.name == name
            assert feature.window >= 1
            assert all((feature.inputs, feature.unit, feature.source, feature.key, feature.output, feature.label))
            ranked = [source for source in feature.inputs if isinstance(source, PercentileInput)]
            if ranked:
                assert feature.window == max(BASES[source.base].window for source in ranked)
            assert feature.form == ("value" if not ranked else "percentile" if len(ranked) == 1 else "product")


def test_what_the_es_bundle_needs() -> None:
    needs = {(need.root, need.timeframe): need.bars for need in required_inputs(ES_BUNDLE, "v2")}
    assert needs == {
        (None, "1h"): 600,
        (None, "1d"): 300,
        ("6A", "1h"): 2,
        ("6A", "1d"): 2,
        ("6B", "1d"): 2,
        ("6C", "1d"): 2,
        ("6S", "1h"): 2,
        ("CL", "1h"): 252,
        ("NQ", "1d"): 252,
        ("TLT", "1h"): 252,
        ("TLT", "1d"): 252,
    }
    assert required_bases(ES_BUNDLE, "v2") == ("atrz", "ibs", "rsi", "volz")
    assert required_inputs(["distance_z_entry_daily"], "legacy-1") == (Requirement(root=None, timeframe="1h", bars=21),)
    assert required_inputs([], "v2") == (Requirement(root=None, timeframe="1h", bars=1),)


def test_legacy_reads_hours_where_the_predecessor_did_and_nowhere_else() -> None:
    legacy = features_of(LEGACY_VERSION)
    assert {name for name in FEATURES if legacy[name] != FEATURES[name]} == set(READ_HOURS)
    assert len(READ_HOURS) == 11
    for name, hourly in READ_HOURS.items():
        assert {source.timeframe for source in FEATURES[name].inputs if isinstance(source, BarInput)} == {"1d"}
        daily, alias, spread = (attrs.asdict(entry) for entry in (FEATURES[name], legacy[name], legacy[hourly]))
        assert {field for field in alias if alias[field] != spread[field]} == {"name", "label"}
        assert (daily["function"], daily["unit"]) == (spread["function"], spread["unit"])


# ------------------------------------------------------------------ formulas


def test_returns_by_hand() -> None:
    bars = attrs.evolve(flat(2), close=np.array([4e12, 5e12]))
    assert prices.percent_return(bars) == 25.0
    assert prices.percent_return(attrs.evolve(bars, close=np.array([0.0, 5e12]))) is None
    assert prices.percent_return(attrs.evolve(bars, close=np.array([-4e10, -2e10]))) == -50.0


def test_z_scores_take_the_mean_of_20_and_the_sigma_of_252() -> None:
    bars = columns(252)
    close = [value / 1e9 for value in bars.close.tolist()]
    assert prices.cross_z(bars) == pytest.approx((close[-1] - fmean(close[-20:])) / pstdev(close), rel=1e-9)
    means = [fmean(bars.volume[i : i + 5]) for i in range(252)]
    long = columns(256)
    means = [fmean(long.volume[i : i + 5]) for i in range(252)]
    assert volatility.volume_z(long) == pytest.approx((means[-1] - fmean(means)) / pstdev(means), rel=1e-9)


def test_distance_and_drift_are_plain_statistics() -> None:
    bars = columns(21)
    close = [value / 1e9 for value in bars.close.tolist()]
    changes = [b - a for a, b in pairwise(close)]
    returns = [100 * (b - a) / a for a, b in pairwise(close)]
    assert prices.distance_z(bars) == pytest.approx((close[-1] - fmean(close[-20:])) / pstdev(changes), rel=1e-9)
    whole = 100 * (close[-1] - close[0]) / close[0]
    assert prices.directional_drift(bars) == pytest.approx(whole / stdev(returns), rel=1e-9)


def plain_ema(values: list[float], n: int) -> list[float]:
    result = [fmean(values[:n])]
    for value in values[n:]:
        result.append(result[-1] + 2 / (n + 1) * (value - result[-1]))
    return result


def plain_atr(bars: Columns, n: int) -> list[float]:
    high, low, close = (column.tolist() for column in (bars.high, bars.low, bars.close))
    ranges = [max(high[i], close[i - 1]) - min(low[i], close[i - 1]) for i in range(1, len(close))]
    result = [fmean(ranges[:n])]
    for value in ranges[n:]:
        result.append(result[-1] + (value - result[-1]) / n)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_recursive_features_are_what_plain_loops_say(seed: int) -> None:
    bars = columns(600, seed=seed)
    fast, slow = plain_ema(bars.close.tolist(), 20), plain_ema(bars.close.tolist(), 50)
    assert trend.ma_spread(bars) == pytest.approx(abs(fast[-1] - slow[-1]) / 1e9, rel=1e-8)
    ranges = plain_atr(bars, 14)
    assert trend.ma_slope(bars) == pytest.approx((fast[-1] - fast[-6]) / ranges[-1], rel=1e-8)
    below = sum(value < ranges[-1] for value in ranges[-252:])
    assert volatility.atr_percentile(bars) == 100 * below / 252
    short = plain_atr(bars, 5)[-252:]
    assert volatility.atr_z(bars) == pytest.approx((short[-1] - fmean(short)) / pstdev(short), rel=1e-8)


def test_points_are_points_of_the_quote_currency() -> None:
    rising = np.arange(200) * 1e9 + 5e12
    bars = Columns(start=HOUR * np.arange(200), open=rising, high=rising, low=rising - 1e9, close=rising, volume=rising)
    assert prices.order_price(bars) == 5199.0
    assert 1.0 < trend.parabolic_distance(bars) < 20.0
    assert trend.ma_spread(bars) == pytest.approx(15.0, rel=1e-3)  # an EMA of n lags a line by (n - 1)/2


@pytest.mark.parametrize("price", [5_027_250_000_000, 1_234_567, 67_105_500, -37_630_000_000])
def test_the_order_price_is_the_integer_close_as_a_float(price: int) -> None:
    assert prices.order_price(attrs.evolve(flat(1), close=np.array([float(price)]))) == price_to_float(Price(price))


@pytest.mark.parametrize(
    ("high", "low", "close"), [(9, 2, 4), (1_085_050_000, 1_084_950_000, 1_085_000_000), (5, 5, 5)]
)
def test_bar_strength_has_the_bits_of_the_decision(high: int, low: int, close: int) -> None:
    bars = Columns(
        start=np.zeros(1, np.int64), **{name: np.array([float(v)]) for name, v in _ohlcv(high, low, close).items()}
    )
    ibs = internal_bar_strength(high=Price(high), low=Price(low), close=Price(close))
    assert oscillators.bar_strength(bars) == ibs.value


def _ohlcv(high: int, low: int, close: int) -> Mapping[str, int]:
    return {"open": low, "high": high, "low": low, "close": close, "volume": 1}


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (prices.cross_z, None),
        (prices.price_z, None),
        (prices.momentum_z, None),
        (prices.distance_z, None),
        (prices.directional_drift, None),
        (prices.percent_return, 0.0),
        (oscillators.rsi_14, None),
        (oscillators.rsi_5, None),
        (oscillators.rsi_2, None),
        (oscillators.adx_14, None),
        (oscillators.bar_strength, 0.5),
        (volatility.volume_z, None),
        (volatility.atr_z, None),
        (volatility.range_ratio, None),
        (volatility.range_compression, None),
        (volatility.band_position, None),
        (volatility.band_width, 0.0),
        (volatility.compression, None),
        (volatility.atr_percentile, 0.0),
        (trend.ma_slope, None),
        (trend.ma_spread, 0.0),
        (trend.above_ema_8, 0.0),
        (trend.parabolic_distance, 0.0),
        (trend.channel_proximity, None),
        (trend.channel_position, None),
        (trend.spiral_efficiency, None),
        (patterns.above_pivot, None),
        (patterns.bear_count, 0.0),
        (patterns.bull_count, 0.0),
        (patterns.inside_bar, 1.0),
        (patterns.narrow_range, 0.0),
    ],
)
def test_a_market_that_stands_still_is_missing_wherever_the_formula_divides(
    function: Callable[[Columns], float | None], value: float | None
) -> None:
    assert function(flat(360)) == value


def test_products_multiply_percentiles() -> None:
    assert percentiles.rank_product(0.25, 0.5) == 0.125
    assert percentiles.rank(0.25) == 0.25


# --------------------------------------------------------------- real samples


@pytest.mark.real_data
def test_the_list_of_28_is_the_es_bundles_without_vix() -> None:
    features = json.loads(reference("bundles/ES_best.json").read_text())["Features"]
    assert [name for name in features if unavailable(name) is None] == ES_BUNDLE
    assert [name for name in features if unavailable(name)] == ["prev_day_pctxvalue", "vix_hourly_z_score"]


@pytest.mark.real_data
def test_products_are_products_of_percentiles_in_100_of_100_samples() -> None:
    rows = samples()
    assert len(rows) == 100
    for row in rows:
        assert percentiles.rank_product(row["ibs_pct"], row["volz_pct"]) == pytest.approx(row["ibsxvolz"], abs=1e-12)
        # The RSI percentile is no input of this model; what is left of the product is one, of two decimals.
        rsi_percentile = row["rsixvolz"] / row["volz_pct"]
        assert 0 < rsi_percentile <= 1 + 1e-12
        assert rsi_percentile == pytest.approx(round(rsi_percentile, 2), abs=1e-9)


@pytest.mark.real_data
def test_columns_are_equal_in_the_samples_exactly_where_legacy_calls_them_one_output() -> None:
    rows, legacy = samples(), features_of(LEGACY_VERSION)
    pairs = list(combinations(ES_BUNDLE, 2))
    equal = {(a, b) for a, b in pairs if all(row[a] == row[b] for row in rows)}
    assert equal == {(a, b) for a, b in pairs if legacy[a].output == legacy[b].output}
    assert equal == {
        ("volume_z_percentile", "volz_pct"),
        ("atr_z_percentile", "atrz_pct"),
        ("ma_spread_ribbon_tightness", "ma_spread_daily_ribbon_tightness"),
    }
    assert FEATURES["ma_spread_ribbon_tightness"].output != FEATURES["ma_spread_daily_ribbon_tightness"].output


@pytest.mark.real_data
def test_percentiles_of_the_samples_are_half_ranks_of_a_population_of_2k_minus_1() -> None:
    """Informative while half a rank is wider than the rounding to two decimals: the first 25 samples."""
    for k, row in enumerate(samples(), 1):
        n = 2 * k - 1
        for name in ("ibs_pct", "volz_pct", "atrz_pct"):
            assert 0 < row[name] <= 1
            assert k > 25 or any(abs(half / 2 / n - row[name]) <= 0.005 + 1e-9 for half in range(2, 2 * n + 1))


@pytest.mark.real_data
def test_the_atr_percentile_of_the_samples_counts_252_values() -> None:
    for row in samples():
        count = row["hourly_atr_percentile"] / 100 * 252
        assert abs(count - round(count)) <= 0.00005 * 252 + 1e-9
        assert 0 <= round(count) <= 251  # strictly below: it never counts itself


@pytest.mark.real_data
def test_ranges_of_the_samples() -> None:
    for row in samples():
        assert row["price_usd"] == row["price"]
        assert all(0 <= row[name] <= 100 for name in ("rsi_len_14", "daily_rsi_len_14", "adx_value"))
        assert row["ma_spread_ribbon_tightness"] >= 0
        assert all(math.isfinite(value) for value in row.values())
