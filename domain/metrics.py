"""What a list of trades was worth: the results that backtests, training and reports share.

Money in the account's currency, per trade or per session; a session without a trade counts as a
day with 0. A year has 252 sessions. Where a number is undefined (no loss, no spread, no trade) it
is None, never infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

TRADING_DAYS = 252
"""Sessions of a year, for the Sharpe ratio."""

Money = npt.NDArray[np.float64]

_ROUNDING = 1e-12
_EULER = 0.5772156649015329
_NORMAL = NormalDist()


def daily(pnl: Money, sessions: npt.NDArray[np.int64], days: npt.NDArray[np.int64]) -> Money:
    """Net P&L of each of `days` (ascending): the sum of the trades whose session it is."""
    sums = np.zeros(len(days))
    np.add.at(sums, np.searchsorted(days, sessions), pnl)
    return sums


def profit_factor(pnl: Money) -> float | None:
    """What the winners won ÷ what the losers lost; None when nothing was lost."""
    lost = -float(pnl[pnl < 0].sum())
    return float(pnl[pnl > 0].sum()) / lost if lost > 0 else None


def sharpe(per_day: Money, periods: int = TRADING_DAYS) -> float | None:
    """Mean ÷ sample σ × √periods, nothing deducted for a riskless rate; `periods=1` is one day's own."""
    if len(per_day) < 2:
        return None
    mean, spread = float(per_day.mean()), float(per_day.std(ddof=1))
    # Equal days have no spread, but a rounding of their mean.
    return mean / spread * math.sqrt(periods) if spread > _ROUNDING * abs(mean) else None


def equity(per_day: Money) -> Money:
    """The running sum, from 0 before the first day: one point more than days."""
    return np.append(0.0, np.cumsum(per_day))


def max_drawdown(per_day: Money) -> float:
    """The deepest fall of the running sum below its highest point so far, the 0 before the first day included."""
    curve = equity(per_day)
    return float((np.maximum.accumulate(curve) - curve).max())


def summary(pnl: Money, sessions: npt.NDArray[np.int64], days: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Trades, net P&L, winners, profit factor, Sharpe of daily P&L (252 days), and drawdown, rounded for people."""
    per_day = daily(pnl, sessions, days)
    return {
        "trades": len(pnl),
        "net_pnl": round(float(pnl.sum()), 2),
        "won_share": round(float((pnl > 0).mean()), 4) if len(pnl) else None,
        "profit_factor": _rounded(profit_factor(pnl)),
        "sharpe": _rounded(sharpe(per_day)),
        "max_drawdown": round(max_drawdown(per_day), 2),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


# ------------------------------------------------------ the deflated Sharpe


@attrs.frozen(kw_only=True)
class DeflatedSharpe:
    """A Sharpe ratio against the best that `trials` attempts without any skill would have shown."""

    probability: float
    """That the true Sharpe ratio lies above `benchmark`, in [0, 1]."""
    benchmark: float
    """The expected maximum of the trials' Sharpe ratios, annualised with 252 days."""
    trials: int


def deflated_sharpe(per_day: Money, trials: Sequence[float]) -> DeflatedSharpe | None:
    """The deflated Sharpe ratio of `per_day`, given the one-day Sharpe ratios of all that was tried.

    Bailey & López de Prado, "The Deflated Sharpe Ratio", Journal of Portfolio Management 40(5), 2014,
    94-107. With N trials of variance V, T days, skewness g3 and kurtosis g4 of the days (3 is normal):

        SR0 = √V · ((1 - γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e)))        γ: Euler-Mascheroni
        DSR = Φ((SR - SR0) √(T - 1) / √(1 - g3 SR + (g4 - 1)/4 SR²))

    Trials that resemble each other count as many: the result is then too strict, never too kind.
    One trial has nothing to deflate (SR0 = 0: the probabilistic Sharpe ratio). None when days have no spread.
    """
    ratio = sharpe(per_day, 1)
    if ratio is None or not trials:
        return None
    centred = per_day - per_day.mean()
    sigma = float(np.sqrt((centred**2).mean()))
    benchmark = expected_maximum(len(trials), float(np.var(trials, ddof=1)) if len(trials) > 1 else 0.0)
    probability = sharpe_probability(
        ratio,
        benchmark,
        days=len(per_day),
        skewness=float((centred**3).mean()) / sigma**3,
        kurtosis=float((centred**4).mean()) / sigma**4,
    )
    return DeflatedSharpe(probability=probability, benchmark=benchmark * math.sqrt(TRADING_DAYS), trials=len(trials))


def expected_maximum(trials: int, variance: float) -> float:
    """SR0: the largest of `trials` Sharpe ratios without skill, expected; 0 for a single one."""
    if trials < 2:
        return 0.0
    typical, tail = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - _EULER) * typical + _EULER * tail)


def sharpe_probability(ratio: float, benchmark: float, *, days: int, skewness: float, kurtosis: float) -> float:
    """The probability that the true one-day Sharpe ratio lies above `benchmark` (formula of `deflated_sharpe`)."""
    # Not below 0 for moments of a sample (kurtosis >= skewness² + 1), but 0 for two values alone.
    variance = max(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2, 1e-12)
    return _NORMAL.cdf((ratio - benchmark) * math.sqrt(days - 1) / math.sqrt(variance))
