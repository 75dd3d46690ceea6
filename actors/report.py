"""A journal in words and tables: bars, decisions, orders, the summary, what a replay found.

Reads envelopes, writes nothing. Every answer names the seq it comes from, so that it can
be looked up in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs

from actors.replay import ReplayResult
from actors.tally import Tally
from domain.bars import Bar, Timeframe
from domain.envelope import Envelope
from domain.events import (
    FillAssumed,
    HistoryLoaded,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    RiskDecided,
    SessionOpened,
    SignalEvaluated,
    SliceClosed,
    TradesReceived,
)
from domain.sessions import iso_utc
from domain.units import price_to_decimal

BAR_HEADER = ("ts_start_ns", "ts_end_ns", "root", "contract", "open", "high", "low", "close", "volume", "trades")

_OUTCOME_STATES = {
    "OrderAccepted": "accepted",
    "OrderRejected": "rejected",
    "OrderAmbiguous": "ambiguous",
    "OrderNotSent": "queued",
}


def bars(envelopes: Iterable[Envelope], *, timeframe: Timeframe, root: str | None) -> Iterator[Bar]:
    """Closed bars in the order in which they closed."""
    for envelope in envelopes:
        if isinstance(envelope.payload, SliceClosed):
            closed = envelope.payload
            for bar in {"1m": closed.minutes, "1h": closed.hours, "1d": closed.days}[timeframe]:
                if root is None or bar.root == root:
                    yield bar


def bar_row(bar: Bar) -> tuple[int | str, ...]:
    """The bar in the columns of BAR_HEADER."""
    return (
        bar.ts_start,
        bar.ts_end,
        bar.root,
        bar.contract,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.trades,
    )


def event_line(envelope: Envelope, payload: Any) -> dict[str, Any]:
    """The envelope as one JSON object; `payload` is its JSON form, market batches by their counts."""
    match envelope.payload:
        case TradesReceived(trades=trades):
            payload = {
                "trades": len(trades),
                "first_ts_recv": int(trades["ts_recv"][0]),
                "last_ts_recv": int(trades["ts_recv"][-1]),
            }
        case HistoryLoaded(tables=tables, source=source):
            payload = {"source": source, "bars": sum(len(table) for table in tables)}
        case _:
            pass
    return {
        "seq": envelope.seq,
        "ts_ns": envelope.ts_ns,
        "ts_event": envelope.ts_event,
        "type": envelope.type,
        "version": envelope.version,
        "source": envelope.source,
        "incarnation": envelope.incarnation,
        "cause": envelope.cause,
        "idx": envelope.idx,
        "corr": envelope.corr,
        "root": envelope.root,
        "payload": payload,
        "hash": envelope.hash.hex(),
    }


def decisions(envelopes: Iterable[Envelope]) -> Iterator[dict[str, Any]]:
    """One object per decision bar and root."""
    for envelope in envelopes:
        if isinstance(envelope.payload, SignalEvaluated):
            signal = envelope.payload
            yield {
                "seq": envelope.seq,
                "ts_ns": signal.ts,
                "root": signal.root,
                "contract": signal.contract,
                "ibs": signal.ibs,
                "gates": [attrs.asdict(gate) for gate in signal.gates],
                "probability": signal.probability,
                "threshold": signal.threshold,
                "verdict": signal.verdict,
                "reason": signal.reason,
            }


def orders(envelopes: Iterable[Envelope]) -> Iterator[dict[str, Any]]:
    """One object per order, in the order of their requests, with the state at the end of the file."""
    lines: dict[str, dict[str, Any]] = {}
    for envelope in envelopes:
        match envelope.payload:
            case OrderRequested() as request:
                lines[request.signal_id] = {
                    "signal_id": request.signal_id,
                    "root": request.root,
                    "contract": request.contract,
                    "intent": request.intent,
                    "side": request.side,
                    "quantity": request.quantity,
                    "state": "requested",
                    "attempts": 0,
                }
                continue
            case RiskDecided(signal_id=signal_id, is_allowed=is_allowed):
                change: dict[str, Any] = {"state": "queued" if is_allowed else "refused"}
            case OrderSubmitted(signal_id=signal_id, attempt=attempt):
                change = {"state": "submitted", "attempts": attempt}
            case OrderExpired(signal_id=signal_id):
                change = {"state": "expired"}
            case FillAssumed(signal_id=signal_id):
                change = {"state": "filled"}
            case OrderAccepted() | OrderRejected() | OrderAmbiguous() | OrderNotSent() as outcome:
                signal_id = outcome.signal_id
                change = {"state": _OUTCOME_STATES[envelope.type]}
            case _:
                continue
        line = lines.get(signal_id)
        if line is not None:
            # A filled exit is sent once more: that changes nothing but the number of attempts.
            line |= {"attempts": change.get("attempts", line["attempts"])} if line["state"] == "filled" else change
    yield from lines.values()


# ---------------------------------------------------------------- replay


@attrs.frozen(kw_only=True)
class SegmentReplay:
    """One file of a session and its replay."""

    name: str
    result: ReplayResult
    models: Mapping[str, str] = attrs.field(factory=dict)
    """Digest by root of what scored in the replay."""


@attrs.frozen(kw_only=True)
class RunningProgram:
    """What replays: to be held against what recorded."""

    version: str
    code_digest: str
    libraries: Mapping[str, str]


def replay_report(replayed: Sequence[SegmentReplay], running: RunningProgram, *, elapsed_s: float) -> dict[str, Any]:
    """The replay of a session as one JSON object."""
    totals = {
        name: sum(getattr(segment.result, name) for segment in replayed)
        for name in ("events", "inputs", "compared", "decisions", "orders")
    }
    last = replayed[-1]
    divergence = None
    if last.result.divergence is not None:
        divergence = {"file": last.name, **attrs.asdict(last.result.divergence)}
    opens = [segment.result.opened for segment in replayed if segment.result.opened is not None]
    # Of several segments the one that was recorded with other libraries, if there is one.
    opened = opens[-1] if opens else None
    same = running.libraries if opens else {}
    recorded = next((one.libraries for one in opens if dict(one.libraries) != dict(running.libraries)), same)
    return {
        "session": None if opened is None else opened.session.date.isoformat(),
        **totals,
        "identical": divergence is None,
        "divergence": divergence,
        "models": [
            {"file": segment.name, "root": root, "recorded": recorded_digest, "used": used}
            for segment in replayed
            for root, recorded_digest, used in _models_of(segment)
        ],
        "code": "same" if opens and all(one.code_digest == running.code_digest for one in opens) else "different",
        "environment": {
            name: {"recorded": recorded.get(name), "running": running.libraries.get(name)}
            for name in sorted({*recorded, *running.libraries})
        },
        "recorded_version": None if opened is None else opened.version,
        "running_version": running.version,
        "elapsed_s": round(elapsed_s, 3),
    }


def _models_of(segment: SegmentReplay) -> Iterator[tuple[str, str, str | None]]:
    """(root, recorded digest, digest that scored in the replay or None) of each model on record."""
    opened = segment.result.opened
    for record in () if opened is None else opened.models:
        if not record.refusal:
            yield record.root, record.digest, segment.models.get(record.root)


def replay_words(report: Mapping[str, Any]) -> list[str]:
    """The same for a person."""
    counts = (
        f"{report['events']:,} events, {report['inputs']:,} inputs, {report['compared']:,} compared, "
        f"{report['decisions']:,} decisions, {report['orders']:,} orders, {report['elapsed_s']:.1f} s"
    )
    if report["identical"]:
        lines = [f"session {report['session']}: identical", f"  {counts}"]
    else:
        found = report["divergence"]
        lines = [
            f"session {report['session']}: DIVERGED",
            f"  first at seq {found['seq']} of {found['file']}: {found['type']} from {found['source']}, "
            f"cause {found['cause']}: {found['kind']}",
        ]
        lines += [f"    {line}" for line in _field_lines(found)]
        lines.append(f"  {counts}")
    if report["code"] == "different":
        lines.append("  the decision code is not the one that recorded this session")
    swapped = [model for model in report["models"] if model["recorded"] != model["used"]]
    for model in swapped:
        used = "there is none" if model["used"] is None else f"scored with {model['used'][:12]}"
        lines.append(f"  another model of {model['root']}: {model['file']} names {model['recorded'][:12]}, {used}")
    changed = [
        f"{name} {version['recorded']} -> {version['running']}"
        for name, version in report["environment"].items()
        if version["recorded"] != version["running"]
    ]
    if changed:
        lines.append(f"  libraries differ: {', '.join(changed)}")
    return lines


def _field_lines(found: Mapping[str, Any]) -> Iterator[str]:
    recorded, replayed = found["recorded"], found["replayed"]
    if found["fields"]:
        for name in found["fields"]:
            yield f"{name}: recorded {recorded.get(name)!r}, replayed {replayed.get(name)!r}"
    else:
        yield f"recorded: {recorded}"
        yield f"replayed: {replayed}"


# ---------------------------------------------------------------- summary


def _has_veto(opened: SessionOpened) -> bool:
    return any(opened.strategy.of(root.root).veto for root in opened.roots if not root.is_reference)


def summary(tally: Tally) -> list[str]:
    """What the session came to, for a person."""
    veto = "on" if tally.opened is None or _has_veto(tally.opened) else "off"
    counts = tally.bars
    lines = [
        f"trades     {tally.trades:,}" + (f", {tally.late:,} late and in no bar" if tally.late else ""),
        f"bars       {counts['1m']:,} minutes, {counts['1h']:,} hours, {counts['1d']:,} sessions",
        f"decisions  {tally.decisions:,} (veto {veto})",
        f"refusals   {_listed(tally.refusals)}",
        f"orders     {tally.entries} entries, {sum(tally.exits.values())} exits ({_listed(tally.exits)})",
        f"answers    {_listed(tally.outcomes)}",
        f"P&L        {_money(tally.realised_pnl)} net, assumed fills, {tally.closed_trades} closed trades",
        f"restarts   {_listed(tally.restarts)}",
    ]
    lines[4:4] = [f"vetoed     {line}" for line in _vetoed(tally)]
    if not tally.positions:
        lines.append("positions  none")
    for root in sorted(tally.positions):
        position = tally.positions[root]
        unknown = ", UNKNOWN" if position.is_unknown else ""
        price = price_to_decimal(position.price)
        lines.append(f"position   {position.quantity:+d} {position.contract} from {price}{unknown}")
    return lines


def _vetoed(tally: Tally) -> Iterator[str]:
    """The last entries that the veto alone kept away, with the inputs that spoke most against each."""
    models = {} if tally.opened is None else {record.root: record for record in tally.opened.models}
    for scored in tally.vetoed:
        rows = zip(scored.contributions, models[scored.root].features, scored.values, strict=True)
        against = sorted(row for row in rows if row[0] < 0)[:2]
        reasons = ", ".join(f"{name} {value:.4g} ({contribution:+.3f})" for contribution, name, value in against)
        yield (
            f"{scored.root} {iso_utc(scored.ts)}: {scored.probability:.3f} of {scored.threshold:.3f} needed"
            f"{f', most against it: {reasons}' if reasons else ''}"
        )


def _listed(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))) or "none"


def _money(value: Decimal) -> str:
    return f"{value:+,.2f} USD"
