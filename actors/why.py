"""Why did it trade, why did it not: one decision of a journal in words, with what it rested on and what came of it.

Reads envelopes, writes nothing. Every line names the seq that it comes from, so that it can be looked up in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from domain.envelope import Envelope
from domain.events import (
    FillAssumed,
    OrderExpired,
    OrderRequested,
    OrderSubmitted,
    RiskDecided,
    SessionOpened,
    ShadowScored,
    SignalEvaluated,
    SymbolMapped,
    TradesReceived,
    VetoScored,
)
from domain.sessions import iso_utc
from domain.units import Nanos, price_to_decimal
from domain.veto import Flip, ModelRecord

NearestFlip = Callable[[ModelRecord, VetoScored], Flip | str | None]
"""What would have turned a verdict round; a text says why it cannot be told, None that no single input could."""


def why(envelopes: Iterable[Envelope], root: str, ts: Nanos, *, nearest_flip: NearestFlip) -> list[str] | None:
    """The decision of `root` whose bar ends at `ts` or holds it, in words; None when there is none."""
    record = list(envelopes)  # all segments of a session, each counting from 1
    found = [e for e in record if isinstance(e.payload, SignalEvaluated) and e.root == root]
    chosen = next((e for e in found if _signal(e).ts == ts), None) or next(
        (e for e in found if _signal(e).bar_start <= ts < _signal(e).ts), None
    )
    if chosen is None:
        return None
    signal = _signal(chosen)
    lines = [
        f"{root} {signal.contract}, bar {iso_utc(signal.bar_start)} to {iso_utc(signal.ts)} (seq {chosen.seq})",
        f"  close {price_to_decimal(signal.close)}, IBS {signal.ibs:.4f}, position {signal.position}",
        f"  verdict: {signal.verdict}{f' ({signal.reason})' if signal.reason else ''}",
        "  gates:",
    ]
    for gate in signal.gates:
        mark = "passed" if gate.is_passed else f"REFUSED: {gate.reason}"
        lines.append(f"    {gate.name:<18} {gate.value if gate.value is not None else 'missing':<40} {mark}")
    segment = _segment_of(record, chosen)
    lines += _veto(segment, chosen, nearest_flip)
    lines += _shadow(segment, chosen)
    lines.append("  events:")
    lines += [f"    {line}" for line in _chain(record, segment, chosen)]
    return lines


def _veto(segment: list[Envelope], chosen: Envelope, nearest_flip: NearestFlip) -> Iterator[str]:
    """The score behind the veto's gate: what each input did to it, the largest first, and the nearest flip."""
    signal = _signal(chosen)
    answers = [e for e in segment if e.cause == chosen.cause and e.root == signal.root]
    found = next((e for e in answers if isinstance(e.payload, VetoScored)), None)
    opened = segment[0].payload
    if found is None or not isinstance(found.payload, VetoScored) or not isinstance(opened, SessionOpened):
        return
    scored = found.payload
    record = next(record for record in opened.models if record.root == signal.root)
    verdict = "passed" if scored.is_passed else "vetoed"
    yield (
        f"  veto: probability {scored.probability:.6f} of {scored.threshold:.6f} needed: {verdict} "
        f"(seq {found.seq}, model {scored.digest[:12]})"
    )
    yield f"    {'without any input':<34} {'':>14}   {scored.bias:+.6f}"
    rows = zip(record.features, scored.values, scored.contributions, strict=True)
    for name, value, contribution in sorted(rows, key=lambda row: -abs(row[2])):
        flag = "   last close stands, no trade since" if name in scored.carried else ""
        yield f"    {name:<34} {value:>14.6g}   {contribution:+.6f}{flag}"
    flip = nearest_flip(record, scored)
    if isinstance(flip, Flip):
        yield (
            f"    nearest flip: {flip.feature} {'above' if flip.value_needed > flip.value_now else 'below'} "
            f"{flip.value_needed:.6g} instead of {flip.value_now:.6g} would give {flip.probability_then:.6f}"
        )
    else:
        yield f"    nearest flip: {flip or 'no single input could have turned it round'}"


def _shadow(segment: list[Envelope], chosen: Envelope) -> Iterator[str]:
    """What the root's shadow said of the same bar, and whether it would have been the same verdict."""
    signal = _signal(chosen)
    answers = [e for e in segment if e.cause == chosen.cause and e.root == signal.root]
    found = next((e for e in answers if isinstance(e.payload, ShadowScored)), None)
    if found is None or not isinstance(found.payload, ShadowScored):
        return
    scored = found.payload
    live = next((gate.is_passed for gate in signal.gates if gate.name == "veto"), scored.is_passed)
    verdict = ("passed" if scored.is_passed else "vetoed") + ("" if live == scored.is_passed else ", unlike the veto")
    if scored.probability is None or scored.threshold is None:
        told = f"not scored ({scored.reason}: {scored.detail})"
    else:
        told = f"probability {scored.probability:.6f} of {scored.threshold:.6f} needed: {verdict}"
    yield f"  shadow: {told} (seq {found.seq}, model {scored.digest[:12]}; it never acts)"


def _signal(envelope: Envelope) -> SignalEvaluated:
    signal = envelope.payload
    if not isinstance(signal, SignalEvaluated):
        raise TypeError(envelope.type)
    return signal


def _chain(record: list[Envelope], segment: list[Envelope], chosen: Envelope) -> Iterator[str]:
    """From the bar's last trade over the slice and the decision to the order's end."""
    signal = _signal(chosen)
    by_seq = {envelope.seq: envelope for envelope in segment}
    trade = _last_trade(segment, signal, before=chosen.seq)
    if trade is not None:
        yield trade
    causes = []
    cause = chosen.cause
    while cause is not None and cause in by_seq:
        causes.append(by_seq[cause])
        cause = by_seq[cause].cause
    for envelope in reversed(causes):
        yield f"seq {envelope.seq} {envelope.type} from {envelope.source} at {iso_utc(envelope.ts_ns)}"
    yield f"seq {chosen.seq} SignalEvaluated from {chosen.source}: {signal.verdict}"
    requests = [
        e
        for e in segment
        if isinstance(e.payload, OrderRequested) and e.cause == chosen.cause and e.root == signal.root
    ]
    workflows = {e.payload.signal_id for e in requests if isinstance(e.payload, OrderRequested)}
    for envelope in record:
        if getattr(envelope.payload, "signal_id", None) in workflows:
            yield f"seq {envelope.seq} {envelope.type} from {envelope.source}: {_in_words(envelope)}"


def _segment_of(record: list[Envelope], chosen: Envelope) -> list[Envelope]:
    """The file that `chosen` is in: every segment counts from 1 again."""
    start, is_found = 0, False
    for index, envelope in enumerate(record):
        if index and envelope.seq <= record[index - 1].seq:
            if is_found:
                return record[start:index]
            start = index
        is_found = is_found or envelope is chosen
    return record[start:]


def _last_trade(record: list[Envelope], signal: SignalEvaluated, *, before: int) -> str | None:
    ids = {
        e.payload.instrument_id
        for e in record
        if isinstance(e.payload, SymbolMapped)
        if e.payload.contract == signal.contract
    }
    for envelope in reversed([e for e in record if e.seq < before]):
        if isinstance(envelope.payload, TradesReceived):
            trades = envelope.payload.trades
            # Of this bar or before it: in real time the next minute's trades may be on file already.
            mine = np.flatnonzero(np.isin(trades["instrument_id"], sorted(ids)) & (trades["ts_recv"] < signal.ts))
            if len(mine):
                trade = trades[mine[-1]]
                price = price_to_decimal(trade["price"].item())
                return (
                    f"seq {envelope.seq} TradesReceived from {envelope.source}: last trade {price} x {trade['size']}"
                    f" at {iso_utc(Nanos(int(trade['ts_recv'])))}"
                )
    return None


def _in_words(envelope: Envelope) -> str:
    match envelope.payload:
        case OrderRequested() as request:
            limit = "" if request.limit_price is None else f" at {price_to_decimal(request.limit_price)}"
            return f"{request.intent} {request.side} {request.quantity} {request.contract} {request.order_type}{limit}"
        case RiskDecided(is_allowed=True):
            return "allowed"
        case RiskDecided(rule=rule, detail=detail):
            return f"refused by {rule}: {detail}"
        case OrderSubmitted(attempt=attempt, ticker=ticker):
            return f"attempt {attempt} for {ticker}"
        case FillAssumed() as fill:
            pnl = "" if fill.pnl is None else f", net {fill.pnl} USD"
            return f"assumed at {price_to_decimal(fill.price)} by rule {fill.rule}{pnl}"
        case OrderExpired(reason=reason):
            return reason
        case event:
            return ", ".join(
                f"{name} {value}"
                for name in ("http_status", "code", "message", "cause", "external_id")
                if (value := getattr(event, name, None))
            )
