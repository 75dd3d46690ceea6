"""Entry gates: pure tests of one decision bar, each with its value and its verdict.

A gate that lacks its input fails and says so. Every gate is evaluated on every
decision bar, also when an earlier one has refused: "why did it not trade" must
always have the whole answer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import attrs

from domain.errors import OperatorError
from domain.ibs import Ibs, StrategySettings
from domain.sessions import STRATEGY_ZONE, local_time
from domain.units import Nanos, Price, price_to_float


@attrs.frozen(kw_only=True)
class Gate:
    """One gate's verdict. `value` is what was tested, in the gate's own terms; None when it was missing."""

    name: str
    is_passed: bool
    value: str | None
    reason: str = ""
    """Why it refused; empty when passed."""


@attrs.frozen(kw_only=True)
class TimeWindow:
    """Minutes of the New York day, start inclusive, end exclusive."""

    start_minute: int
    end_minute: int


def parse_window(text: str) -> TimeWindow:
    """`"17:00-24:00"` as a window. Raises OperatorError for anything else."""
    try:
        start, end = (_minute_of_day(part) for part in text.split("-"))
    except ValueError as error:
        raise OperatorError(f"{text!r} is not a time window", fix='write "HH:MM-HH:MM", up to 24:00') from error
    if not start < end:
        raise OperatorError(f"time window {text!r} ends before it starts", fix="split it at midnight")
    return TimeWindow(start_minute=start, end_minute=end)


def _minute_of_day(text: str) -> int:
    hours, minutes = text.strip().split(":")
    value = int(hours) * 60 + int(minutes)
    if not (len(minutes) == 2 and 0 <= int(minutes) < 60 and 0 <= value <= 1440):
        raise ValueError(text)
    return value


def time_gate(bar_start: Nanos, windows: Sequence[TimeWindow]) -> Gate:
    """Passes when the bar *starts* inside a window of New York time."""
    local = local_time(bar_start, STRATEGY_ZONE)
    minute = local.hour * 60 + local.minute
    passed = any(window.start_minute <= minute < window.end_minute for window in windows)
    value = dt.time(local.hour, local.minute).isoformat("minutes")
    return Gate(name="time_window", is_passed=passed, value=value, reason="" if passed else "outside_time_window")


def ibs_gate(ibs: Ibs, low: float, high: float) -> Gate:
    """Passes when the bar's IBS lies in [low, high]. A bar without range never passes."""
    passed = not ibs.is_zero_range and low <= ibs.value <= high
    reason = "" if passed else ("zero_range" if ibs.is_zero_range else "ibs_outside_band")
    return Gate(name="ibs_band", is_passed=passed, value=repr(ibs.value), reason=reason)


def last_pivot_high(highs: Sequence[Price], strength: int) -> Price | None:
    """The latest high strictly above the `strength` bars before it and at or above the `strength` after."""
    for i in range(len(highs) - 1 - strength, strength - 1, -1):
        if highs[i] > max(highs[i - strength : i]) and highs[i] >= max(highs[i + 1 : i + 1 + strength]):
            return highs[i]
    return None


def last_pivot_low(lows: Sequence[Price], strength: int) -> Price | None:
    """The mirror of `last_pivot_high`."""
    for i in range(len(lows) - 1 - strength, strength - 1, -1):
        if lows[i] < min(lows[i - strength : i]) and lows[i] <= min(lows[i + 1 : i + 1 + strength]):
            return lows[i]
    return None


def pivot_gate(close: Price, highs: Sequence[Price], lows: Sequence[Price], strength: int) -> Gate:
    """Passes when last pivot low <= close <= last pivot high ("inside range")."""
    low, high = last_pivot_low(lows, strength), last_pivot_high(highs, strength)
    if low is None or high is None:
        return Gate(name="pivot", is_passed=False, value=None, reason="pivot_missing")
    passed = low <= close <= high
    value = f"{price_to_float(low)} <= {price_to_float(close)} <= {price_to_float(high)}"
    return Gate(name="pivot", is_passed=passed, value=value, reason="" if passed else "outside_pivot_range")


def warmup_gate(completed_bars: int, settings: StrategySettings) -> Gate:
    """Passes when the root has seen enough completed decision bars."""
    passed = completed_bars >= settings.warmup_bars
    value = f"{completed_bars} of {settings.warmup_bars}"
    return Gate(name="warm_up", is_passed=passed, value=value, reason="" if passed else "warm_up_incomplete")


def first_refusal(gates: Sequence[Gate]) -> Gate | None:
    """The first gate that refused, in the order of evaluation, or None."""
    return next((gate for gate in gates if not gate.is_passed), None)
