"""Prices and returns: where the close stands, how far it came, in units of what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.bar_window import LOOKBACK, Along, Columns
from domain.features.entry import GATES, PAIR, BarInput, Feature, entry
from domain.indicators import SMALLEST_DENOMINATOR, safe_div, sigma, sma, z
from domain.units import PRICE_SCALE


@Along
def order_price(bars: Columns) -> Sequence[float]:
    """C in quote currency: what a limit entry asks and a market entry refers to.

    The same float as `units.price_to_float` of the integer close.
    """
    prices: list[float] = (bars.close[:, -1] / PRICE_SCALE).tolist()
    return prices


def percent_return(bars: Columns) -> float | None:
    """100 (C0 − C1)/C1 over the window: from its first close to its last."""
    last, first = float(bars.close[-1]), float(bars.close[0])
    return safe_div(100.0 * (last - first), first)


def percent_above(hours: Columns, days: Columns) -> float | None:
    """100 (C − Cd)/Cd, Cd the close of the last completed day."""
    last, day = float(hours.close[-1]), float(days.close[-1])
    return safe_div(100.0 * (last - day), day)


@Along
def cross_z(bars: Columns) -> Sequence[float | None]:
    """(C − SMA20)/σ252.

    The predecessor divided by max(σ, 1e-12); here a σ below 1e-12 is missing, as for every denominator.
    """
    return z(bars.close, mean_over=20, sigma_over=LOOKBACK)


@Along
def price_z(bars: Columns) -> Sequence[float | None]:
    """(C − SMA20)/σ20."""
    return z(bars.close, mean_over=20, sigma_over=20)


def distance_z(bars: Columns) -> float | None:
    """(C − SMA20)/σ20(ΔC)."""
    close = bars.close
    return safe_div(-sma(close - close[-1], 20), sigma(close[1:] - close[:-1]))


@Along
def momentum_z(bars: Columns) -> Sequence[float | None]:
    """The z20 of C0 − C3."""
    return z(bars.close[:, 3:] - bars.close[:, :-3], mean_over=20, sigma_over=20)


def directional_drift(bars: Columns) -> float | None:
    """The n-bar return ÷ the sample σ of its n one-bar returns."""
    before = bars.close[:-1]
    if float(np.abs(before).min()) < SMALLEST_DENOMINATOR:
        return None
    returns = (bars.close[1:] - before) / before
    whole = safe_div(float(bars.close[-1] - before[0]), float(before[0]))
    return safe_div(whole, sigma(returns, sample=True))


def pair_z(own: Columns, pair: Columns) -> float | None:
    """The z20 of C − C of the pair at the same bars."""
    return z((own.close - pair.close)[None], mean_over=20, sigma_over=20)[0]


# fmt: off
ENTRIES: tuple[Feature, ...] = (
    entry("price_usd", order_price, 1, "1h", "quote currency", label="order price"),
    entry("prev_bar_pct", percent_return, 2, "1h", "percent", label="return of the bar", band=(-1, 1)),
    entry("prev_day_pct", percent_return, 2, "1d", "percent", label="return of the day", band=(-2, 2)),
    entry("return_4", percent_return, 5, "1h", "percent", label="return of 4 bars", parameter="4", band=(-1, 1),
          source=GATES),
    entry("daily_return_4", percent_return, 5, "1d", "percent", label="return of 4 days", parameter="4", band=(-1, 1),
          source=GATES),
    entry("price_above_prev_daily_close", percent_above, 1, "1h", "percent",
          label="price above the previous daily close", joined=BarInput(root=None, timeframe="1d"), band=(0, None),
          source=GATES),
    entry("z_score", price_z, 20, "1h", "sigmas", label="price z-score", parameter="20", band=(-2, 2)),
    entry("price_z_score_daily", price_z, 20, "1d", "sigmas", label="daily price z-score", parameter="20",
          band=(-2, 2)),
    entry("dist_z", distance_z, 21, "1h", "sigmas", label="distance from SMA20", parameter="20", band=(None, -1.5)),
    entry("distance_z_entry_daily", distance_z, 21, "1d", "sigmas", label="daily distance from SMA20", parameter="20",
          band=(None, -1.5)),
    entry("mom3_z", momentum_z, 23, "1h", "sigmas", label="momentum of 3 bars", parameter="3/20", band=(None, -1.5)),
    entry("momentum_z_entry_daily", momentum_z, 23, "1d", "sigmas", label="momentum of 3 days", parameter="3/20",
          band=(None, -1.5)),
    entry("hourly_directional_draft", directional_drift, 51, "1h", "sigmas", label="directional drift",
          parameter="50", band=(-2, 2)),
    entry("hourly_directional_drift", directional_drift, 51, "1h", "sigmas", label="directional drift",
          parameter="50", band=(-2, 2)),
    entry("daily_directional_drift", directional_drift, 21, "1d", "sigmas", label="daily directional drift",
          parameter="20", band=(-2, 2)),
    entry("pair_z", pair_z, 20, "1h", "sigmas", label="z-score of the difference to the pair", parameter="20",
          band=(-2, 2), joined=BarInput(root=PAIR, timeframe="1h")),
    entry("pair_z_score_daily", pair_z, 20, "1d", "sigmas", label="daily z-score of the difference to the pair",
          parameter="20", band=(-2, 2), joined=BarInput(root=PAIR, timeframe="1d")),
)
# fmt: on


def cross(root: str) -> tuple[Feature, ...]:
    """What every instrument of the universe gives to all the others (and to itself), each under two names."""
    entries = []
    for timeframe, span in (("1h", "hourly"), ("1d", "daily")):
        for kind, function, window, unit, limit in (
            ("return", percent_return, 2, "percent", 1.0),
            ("z_score", cross_z, LOOKBACK, "sigmas", 2.0),
        ):
            for name in (kind, f"{kind.removesuffix('_score')}_pipeline"):
                entries.append(
                    entry(
                        f"{root.lower()}_{span}_{name}",
                        function,
                        window,
                        "1h" if timeframe == "1h" else "1d",
                        unit,
                        label=f"{root} {span} {kind.replace('_', '-')}",
                        parameter="20/252" if kind == "z_score" else "",
                        band=(-limit, limit),
                        root=root,
                    )
                )
    return tuple(entries)
