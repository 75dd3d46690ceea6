"""What may be entered at a decision bar: its side, its size, every gate but the veto, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from adapters.backtrader.broker import RequestNote
from adapters.backtrader.roots import WINDOW_BARS, DecisionBar, RootState
from domain.events import VetoScored
from domain.feature_book import FeatureVector
from domain.gates import (
    Gate,
    cooldown_gate,
    freshness_gate,
    ibs_gate,
    is_in_band,
    near_auto_close_gate,
    pending_gate,
    pivot_gate,
    position_gate,
    reference_gate,
    reopen_gate,
    session_gate,
    side_gate,
    time_gate,
    warmup_gate,
)
from domain.levels import Distances, atr_gate, contracts_at_risk, distances, resting_legs, size_gate
from domain.optional_gates import feature_gates
from domain.scorer import Judgement
from domain.units import Nanos, Price


@attrs.frozen(kw_only=True)
class Candidate:
    """The entry that a decision bar would make, and what its gates say of it."""

    is_short: bool
    quantity: int
    away: Distances
    average_range: Price | None
    gates: tuple[Gate, ...]


def candidate_of(
    state: RootState,
    bar: DecisionBar,
    *,
    values: FeatureVector | str,
    deadline: Nanos | None,
    is_late: bool,
    missing_feeds: Sequence[str] | None,
) -> Candidate:
    """Judge the entry at `bar`: `values` of the optional gates, `deadline` at which it would be closed anyway.

    `missing_feeds` of those that entries wait for; None where they wait for none.
    """
    settings, is_short = state.settings, _is_short(state, bar)
    average = state.average_range()
    away = distances(bar.close, settings, average)
    quantity = _quantity(state, away, is_known=average is not None or settings.stop_atr is None)
    sized = (
        *((atr_gate(average),) if settings.uses_atr else ()),
        *((size_gate(quantity),) if settings.sizing == "risk" else ()),
    )
    gates = (
        warmup_gate(state.completed, settings),
        freshness_gate(is_late=is_late, is_whole=bar.is_whole),
        session_gate(bar.start, bar.end, state.plan.hours),
        time_gate(bar.start, state.windows),
        *(() if settings.side == "long" else (side_gate(is_short=is_short),)),
        _band(state, bar, is_short=is_short),
        _pivot(state, bar),
        *feature_gates(settings.gates, values),
        near_auto_close_gate(bar.end, deadline, settings),
        _position(state),
        pending_gate(state.order_intent),
        cooldown_gate(state.cooldown_left),
        *(() if missing_feeds is None else (reference_gate(missing_feeds),)),
        *sized,
    )
    return Candidate(is_short=is_short, quantity=quantity, away=away, average_range=average, gates=gates)


def entry_note(state: RootState, bar: DecisionBar, candidate: Candidate, judgement: Judgement) -> RequestNote:
    """What is said of the entry that `candidate` has become."""
    plan = state.plan
    return RequestNote(
        root=plan.root,
        contract=plan.contract,
        intent="entry",
        reason="reopen" if state.is_reopening else "ibs",
        decided_ns=bar.end,
        bar_ns=state.decision_ns,
        price=bar.close,
        ibs=bar.ibs.value,
        probability=None if judgement.score is None else judgement.score.probability,
        threshold=judgement.threshold,
        average_range=candidate.average_range,
        **resting_legs(bar.close, candidate.away, state.settings, plan.tick_size, is_short=candidate.is_short),
    )


def scored_of(root: str, judgement: Judgement) -> VetoScored | None:
    """The record of the model's answer; None where it could not be asked."""
    vector, score, threshold = judgement.vector, judgement.score, judgement.threshold
    if vector is None or score is None or threshold is None:
        return None
    return VetoScored(
        root=root,
        ts=vector.ts,
        digest=judgement.digest,
        values=vector.complete(),
        carried=vector.carried,
        probability=score.probability,
        threshold=threshold,
        is_passed=judgement.gate.is_passed,
        bias=score.bias,
        contributions=score.contributions,
    )


def _quantity(state: RootState, away: Distances, *, is_known: bool) -> int:
    plan, settings = state.plan, state.settings
    if settings.sizing == "fixed":
        return plan.quantity
    if not is_known or plan.multiplier is None:
        return 0
    return contracts_at_risk(away.stop, plan.multiplier, settings)


def _is_short(state: RootState, bar: DecisionBar) -> bool:
    """The side that the bar speaks for; with both allowed and neither band met, the long one is explained."""
    settings = state.settings
    if settings.side != "both":
        return settings.side == "short"
    if state.is_reopening:
        return state.was_short
    return is_in_band(bar.ibs, settings.entry_ibs_low, settings.entry_ibs_high, is_short=True)


def _band(state: RootState, bar: DecisionBar, *, is_short: bool) -> Gate:
    settings = state.settings
    if state.is_reopening:
        return reopen_gate(bar.ibs, settings.exit_ibs_low, settings.exit_ibs_high, is_short=is_short)
    return ibs_gate(bar.ibs, settings.entry_ibs_low, settings.entry_ibs_high, is_short=is_short)


def _pivot(state: RootState, bar: DecisionBar) -> Gate:
    if not state.settings.pivot_gate:
        return Gate(name="pivot", is_passed=True, value="off")
    highs, lows = list(state.highs)[-WINDOW_BARS:], list(state.lows)[-WINDOW_BARS:]
    return pivot_gate(bar.close, highs, lows, state.settings.pivot_strength)


def _position(state: RootState) -> Gate:
    held = state.holding
    return position_gate(0 if held is None else held.quantity, is_unknown=held is not None and held.is_unknown)
