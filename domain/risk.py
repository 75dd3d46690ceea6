"""The risk gate: pure rules that allow or refuse an entry, each refusal with its reason.

No rule refuses an exit but the kill switch set to `all`. A verdict is a type of its
own, never a tuple used as a truth value (the predecessor's limit always allowed).
"""

from __future__ import annotations

from typing import Literal

import attrs

KillSwitch = Literal["off", "entries", "all"]


@attrs.frozen(kw_only=True)
class RiskSettings:
    """Limits of the account."""

    max_positions: int = 4
    """Roots held or being entered at the same time; UNKNOWN counts as held."""
    entry_freshness_s: int = 60
    """An entry is allowed only this long after its bar's end, by the record's own time."""
    entry_time_limit_s: int = 30
    """An entry not sent by then expires (never more than a quarter of the decision bar)."""


@attrs.frozen(kw_only=True)
class RiskState:
    """What the rules look at, taken at one moment."""

    kill_switch: KillSwitch
    is_feed_live: bool
    are_entries_open: bool
    occupied_roots: frozenset[str]
    """Held, being entered, or UNKNOWN."""


@attrs.frozen(kw_only=True)
class Allowed:
    """The order may be sent."""


@attrs.frozen(kw_only=True)
class Refused:
    """The order is not sent; `rule` is the rule's name, `detail` the numbers it saw."""

    rule: str
    detail: str


RiskVerdict = Allowed | Refused


def judge_entry(*, root: str, age_ns: int, state: RiskState, settings: RiskSettings) -> RiskVerdict:
    """The verdict on an entry for `root` whose decision is `age_ns` old. First refusal wins."""
    if state.kill_switch != "off":
        return Refused(rule="kill_switch", detail=f"kill switch is {state.kill_switch}")
    if not state.are_entries_open:
        return Refused(rule="entries_closed", detail="entries are closed")
    if not state.is_feed_live:
        return Refused(rule="feed_not_live", detail="the feed is not live")
    if age_ns > settings.entry_freshness_s * 1_000_000_000:
        return Refused(
            rule="stale_decision",
            detail=f"decided {age_ns / 1e9:.0f} s ago, limit {settings.entry_freshness_s} s",
        )
    if root in state.occupied_roots:
        return Refused(rule="root_occupied", detail=f"{root} is held, being entered or unknown")
    if len(state.occupied_roots) >= settings.max_positions:
        return Refused(
            rule="max_positions",
            detail=f"{len(state.occupied_roots)} of {settings.max_positions} positions in use",
        )
    return Allowed()


def judge_exit(*, state: RiskState) -> RiskVerdict:
    """The verdict on an exit: only `kill all` stops one."""
    if state.kill_switch == "all":
        return Refused(rule="kill_switch", detail="kill switch is all")
    return Allowed()
