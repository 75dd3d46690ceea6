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
from domain.sessions import STRATEGY_ZONE, SessionHours, local_time, to_nanos
from domain.units import SECOND, Nanos, Price, price_to_float
from domain.veto import Verdict


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


def session_gate(bar_start: Nanos, bar_end: Nanos, hours: SessionHours | None) -> Gate:
    """Passes when the bar lies inside its root's hours of the session; without hours (a backtest) always.

    An early close off the hour leaves an hour bar that ends when the market is shut: at its end nothing can be filled.
    """
    passed = hours is None or (hours.open_ns <= bar_start and bar_end <= hours.close_ns)
    value, reason = ("inside", "") if passed else ("outside", "outside_session")
    return Gate(name="session", is_passed=passed, value=value, reason=reason)


def is_in_band(ibs: Ibs, low: float, high: float, *, is_short: bool) -> bool:
    """The IBS lies in [low, high], for a short in the mirrored band. A bar without range lies in none."""
    return not ibs.is_zero_range and low <= ibs.of_side(is_short=is_short) <= high


def side_gate(*, is_short: bool) -> Gate:
    """Says which side the other gates were asked for, where a short may be entered."""
    return Gate(name="side", is_passed=True, value="short" if is_short else "long")


def ibs_gate(ibs: Ibs, low: float, high: float, *, is_short: bool = False) -> Gate:
    """Passes when the bar's IBS lies in [low, high], for a short in the mirrored band."""
    passed = is_in_band(ibs, low, high, is_short=is_short)
    reason = "" if passed else ("zero_range" if ibs.is_zero_range else "ibs_outside_band")
    return Gate(name="ibs_band", is_passed=passed, value=repr(ibs.value), reason=reason)


def reopen_gate(ibs: Ibs, exit_low: float, exit_high: float, *, is_short: bool = False) -> Gate:
    """In place of the band, where a roll has closed a position: passes unless this bar would have been an exit."""
    passed = not ibs.is_zero_range and not is_in_band(ibs, exit_low, exit_high, is_short=is_short)
    reason = "" if passed else ("zero_range" if ibs.is_zero_range else "exit_band")
    return Gate(name="reopen", is_passed=passed, value=repr(ibs.value), reason=reason)


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


def auto_close_deadline(settings: StrategySettings, session_date: dt.date, close_ns: Nanos) -> Nanos:
    """When a position must be closed: `auto_close` of New York on the session's date, or
    `auto_close_before_end_s` before `close_ns` (the root's close), the earlier.

    Raises OperatorError when the setting is not a time of day.
    """
    try:
        hour, minute = divmod(_minute_of_day(settings.auto_close), 60)
        moment = dt.datetime.combine(session_date, dt.time(hour, minute), STRATEGY_ZONE)
    except ValueError as error:
        raise OperatorError(f"auto_close {settings.auto_close!r} is not a time", fix='write "HH:MM"') from error
    return Nanos(min(to_nanos(moment), close_ns - settings.auto_close_before_end_s * SECOND))


def near_auto_close_gate(ts: Nanos, deadline: Nanos | None, settings: StrategySettings) -> Gate:
    """Passes while `no_entry_before_auto_close_s` or more are left; the value is the seconds left.

    Exactly the limit passes, so that the bar that starts in the window's last hour may enter.
    """
    if deadline is None:
        return Gate(name="near_auto_close", is_passed=False, value=None, reason="auto_close_unknown")
    left_s = (deadline - ts) // SECOND
    passed = left_s >= settings.no_entry_before_auto_close_s
    return Gate(name="near_auto_close", is_passed=passed, value=str(left_s), reason="" if passed else "near_auto_close")


def position_gate(quantity: int, *, is_unknown: bool) -> Gate:
    """Passes without a position. One that may or may not exist (UNKNOWN) counts as held."""
    passed = quantity == 0 and not is_unknown
    reason = "" if passed else ("position_unknown" if is_unknown else "position_held")
    return Gate(name="position", is_passed=passed, value=str(quantity), reason=reason)


def pending_gate(intent: str | None) -> Gate:
    """Passes while no order of the root is unfinished; `intent` is that order's."""
    passed = intent is None
    return Gate(name="pending", is_passed=passed, value=intent or "none", reason="" if passed else "order_unfinished")


def cooldown_gate(bars_left: int) -> Gate:
    """Passes once the decision bars to wait after an exit have closed."""
    passed = bars_left <= 0
    return Gate(name="cooldown", is_passed=passed, value=str(bars_left), reason="" if passed else "cooldown")


def reference_gate(missing: Sequence[str]) -> Gate:
    """Passes while no required reference feed lacks its last completed day bar; the reason names the first."""
    passed = not missing
    reason = "" if passed else f"reference_feed_missing:{missing[0]}"
    return Gate(name="reference_feeds", is_passed=passed, value=", ".join(missing) or "there", reason=reason)


VETO_OFF = Gate(name="veto", is_passed=True, value="off")


def veto_gate(verdict: Verdict) -> Gate:
    """Passes when the model's probability is at or above the threshold."""
    passed = verdict.is_passed
    value = f"{verdict.probability!r} of {verdict.threshold!r}"
    return Gate(name="veto", is_passed=passed, value=value, reason="" if passed else "vetoed")


def unscored_gate(reason: str, detail: str | None = None) -> Gate:
    """Refuses the entry that no model could score: missing is veto."""
    return Gate(name="veto", is_passed=False, value=detail, reason=reason)


def freshness_gate(*, is_late: bool, is_whole: bool = True) -> Gate:
    """Fails when the slice was made from replayed or late data, or the bar lacks records that were lost:
    what it shows is not the market.
    """
    if is_late:
        return Gate(name="fresh", is_passed=False, value="late", reason="missed_outage")
    if not is_whole:
        return Gate(name="fresh", is_passed=False, value="not whole", reason="gap_in_bar")
    return Gate(name="fresh", is_passed=True, value="fresh")


def first_refusal(gates: Sequence[Gate]) -> Gate | None:
    """The first gate that refused, in the order of evaluation, or None.

    `fresh` comes before all: of a bar that was missed, nothing else is the reason.
    """
    refused = [gate for gate in gates if not gate.is_passed]
    return next((gate for gate in refused if gate.name == "fresh"), refused[0] if refused else None)
