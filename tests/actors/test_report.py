"""A journal in words: where each order stands, why a bar was traded or not, what a session came to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import orjson
import pytest

from actors.machines import MachineParts
from actors.replay import Divergence, ReplayResult
from actors.report import (
    BAR_HEADER,
    RunningProgram,
    SegmentReplay,
    bar_row,
    bars,
    decisions,
    event_line,
    orders,
    replay_report,
    replay_words,
    summary,
)
from actors.tally import Tally
from actors.why import why
from domain.bars import Bar, BarTable
from domain.envelope import Envelope
from domain.events import (
    ActorRestarted,
    ClockTicked,
    CommandReceived,
    Event,
    FillAssumed,
    HistoryLoaded,
    LateTrade,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    RiskDecided,
    ShadowScored,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
    SymbolMapped,
    TradesReceived,
    VetoScored,
)
from domain.gates import Gate
from domain.positions import Position
from domain.units import HOUR, Nanos, Price
from domain.veto import Flip, ModelRecord
from tests.actors.session_file import SessionFile
from tests.builders import PRICE, TICK, Record, at, bar_of, opened_session, request_of, trades_of

GATES = (
    Gate(name="time_window", is_passed=True, value="10:00"),
    Gate(name="ibs_band", is_passed=False, value="0.5", reason="ibs_outside_band"),
    Gate(name="pivot", is_passed=False, value=None, reason="pivot_missing"),
)


def signal(root: str = "ES", **changes: Any) -> SignalEvaluated:
    values: dict[str, Any] = {
        "root": root,
        "contract": f"{root}M4",
        "ts": at(60),
        "bar_start": at(0),
        "close": PRICE,
        "ibs": 0.125,
        "gates": GATES,
        "probability": None,
        "threshold": None,
        "position": 0,
        "verdict": "refuse",
        "reason": "ibs_outside_band",
    }
    return SignalEvaluated(**(values | changes))


# ---------------------------------------------------------------- tables


def test_bars_are_told_in_the_order_in_which_they_closed() -> None:
    record = Record()
    minute, other, hour = bar_of(), bar_of("NQM4"), bar_of(length=HOUR)
    record.put(SliceClosed(ts=at(1), minutes=(minute, other)))
    record.put(SliceClosed(ts=at(60), hours=(hour,)))
    record.put(opened_session())
    found = {frame: list(bars(record.envelopes, timeframe=frame, root=None)) for frame in ("1m", "1h", "1d")}
    assert found == {"1m": [minute, other], "1h": [hour], "1d": []}
    assert list(bars(record.envelopes, timeframe="1m", root="NQ")) == [other]


def test_a_row_has_the_columns_of_the_header() -> None:
    bar: Bar = bar_of()
    row = dict(zip(BAR_HEADER, bar_row(bar), strict=True))
    assert row == {
        "ts_start_ns": bar.ts_start,
        "ts_end_ns": bar.ts_end,
        **{name: getattr(bar, name) for name in BAR_HEADER[2:]},
    }


def test_a_decision_is_told_with_every_gate() -> None:
    record = Record()
    envelope = record.put(signal())
    (line,) = decisions(record.envelopes)
    assert line["seq"] == envelope.seq
    assert (line["root"], line["verdict"], line["reason"]) == ("ES", "refuse", "ibs_outside_band")
    assert [gate["name"] for gate in line["gates"]] == ["time_window", "ibs_band", "pivot"]
    orjson.dumps(line)


def test_market_batches_and_history_are_told_by_their_counts(parts: MachineParts) -> None:
    table = BarTable.of_bars("ES", "1h", [bar_of(), bar_of()])
    file = SessionFile(parts, history=HistoryLoaded(tables=(table,), source="vendor"))
    file.trade(1)
    lines = [event_line(e, {"as": "given"}) for e in file.record.envelopes]
    payloads = {line["type"]: line["payload"] for line in lines}
    assert payloads["TradesReceived"] == {"trades": 1, "first_ts_recv": at(1), "last_ts_recv": at(1)}
    assert payloads["HistoryLoaded"] == {"source": "vendor", "bars": 2}
    assert payloads["SessionOpened"] == {"as": "given"}
    assert lines[0]["hash"] == file.record.envelopes[0].hash.hex()
    orjson.dumps(lines)


# ---------------------------------------------------------------- orders

OUTCOMES: dict[str, Event] = {
    "accepted": OrderAccepted(root="ES", signal_id="entry-1", attempt=1, http_status=200, external_id="x"),
    "rejected": OrderRejected(root="ES", signal_id="entry-1", attempt=1, http_status=400, code="c", message="m"),
    "ambiguous": OrderAmbiguous(root="ES", signal_id="entry-1", attempt=1, cause="timeout"),
    "queued": OrderNotSent(root="ES", signal_id="entry-1", attempt=1, cause="refused"),
}


def states(file: SessionFile) -> list[tuple[str, str, int]]:
    return [(line["signal_id"], line["state"], line["attempts"]) for line in orders(file.record.envelopes)]


def asked(parts: MachineParts) -> SessionFile:
    file = SessionFile(parts)
    file.put(request_of(), ts=at(60), source="strategy")
    return file


def test_an_order_whose_attempt_is_on_its_way_is_submitted(parts: MachineParts) -> None:
    assert states(asked(parts)) == [("entry-1", "submitted", 1)]


@pytest.mark.parametrize("state", sorted(OUTCOMES))
def test_an_order_stands_where_its_last_outcome_left_it(parts: MachineParts, state: str) -> None:
    file = asked(parts)
    file.put(OUTCOMES[state], source="execution.http", cause=file.record.envelopes[-1])
    assert states(file) == [("entry-1", state, 1)]


def test_a_filled_a_refused_and_an_expired_order_say_so(parts: MachineParts) -> None:
    file = asked(parts)
    file.answer()
    file.trade(61)
    file.put(request_of("late", root="NQ", contract="NQM4"), ts=at(63), source="strategy")
    file.put(request_of("slow", root="GC", contract="GCM4", decided_ns=at(63)), ts=at(63), source="strategy")
    file.answer(OrderNotSent)
    file.tick(64)
    assert states(file)[:3] == [("entry-1", "filled", 1), ("late", "refused", 0), ("slow", "expired", 1)]


def test_attempts_are_counted(parts: MachineParts) -> None:
    file = asked(parts)
    file.answer(OrderNotSent)
    file.tick(60 + 5 / 60)
    assert states(file) == [("entry-1", "submitted", 2)]


def test_an_order_is_followed_over_the_segments_of_its_session(parts: MachineParts) -> None:
    first = asked(parts)
    second = Record()
    second.put(OrderExpired(root="ES", signal_id="entry-1", reason="flat_after_exit"), source="execution")
    lines = list(orders([*first.record.envelopes, *second.envelopes]))
    assert [line["state"] for line in lines] == ["expired"]


def test_an_order_of_an_earlier_session_is_not_made_up() -> None:
    record = Record()
    record.put(OrderExpired(root="ES", signal_id="yesterday", reason="time_limit"), source="execution")
    assert list(orders(record.envelopes)) == []


# ---------------------------------------------------------------- why


def fill_of() -> FillAssumed:
    return FillAssumed(
        root="ES", signal_id="entry-1", contract="ESM4", intent="exit", side="sell", quantity=1, price=PRICE,
        ts=at(61), rule="next_trade", pnl=Decimal("-12.50"),
    )  # fmt: skip


def decided(*, request: OrderRequested | None = None, price: int = 0, **changes: Any) -> Record:
    """A bar with its trades, its slice, its decision and perhaps an order, in the words of one file."""
    record = Record()
    record.put(opened_session(), source="session")
    record.put(SymbolMapped(root="ES", contract="ESM4", rank=0, instrument_id=1), source="feed")
    batch = trades_of(("ESM4", at(59), price, 7), ("NQM4", at(59, 30), 99, 1))
    record.put(TradesReceived(trades=batch), source="feed", ts=at(59))
    late = trades_of(("ESM4", at(60, 5), 50, 1))
    record.put(TradesReceived(trades=late), source="feed", ts=at(60, 5))
    tick = record.put(ClockTicked(ts=at(60), watermark=at(60)), source="clock", ts=at(60, 6))
    closed = record.put(SliceClosed(ts=at(60), hours=(bar_of(length=HOUR),)), source="bars", cause=tick)
    record.put(signal(**changes), source="strategy", cause=closed)
    record.put(signal("NQ"), source="strategy", cause=closed, idx=1)
    if request is not None:
        record.put(request, source="strategy", cause=closed, idx=2)
    return record


def unasked(record: ModelRecord, scored: VetoScored) -> Flip | str | None:
    raise AssertionError("there is no score to explain")


def explained(envelopes: list[Envelope], ts: Nanos = at(60), root: str = "ES", flip: Flip | str | None = None) -> str:
    lines = why(envelopes, root, ts, nearest_flip=lambda record, scored: flip)
    assert lines is not None
    return "\n".join(lines)


def test_why_there_was_no_trade_names_every_gate_and_the_events_it_came_from() -> None:
    assert explained(decided().envelopes).splitlines() == [
        "ES ESM4, bar 2024-04-30T22:00:00Z to 2024-04-30T23:00:00Z (seq 7)",
        "  close 5000, IBS 0.1250, position 0",
        "  verdict: refuse (ibs_outside_band)",
        "  gates:",
        "    time_window        10:00                                    passed",
        "    ibs_band           0.5                                      REFUSED: ibs_outside_band",
        "    pivot              missing                                  REFUSED: pivot_missing",
        "  events:",
        "    seq 3 TradesReceived from feed: last trade 5000 x 7 at 2024-04-30T22:59:00Z",
        "    seq 5 ClockTicked from clock at 2024-04-30T23:00:06Z",
        "    seq 6 SliceClosed from bars at 2024-04-30T23:00:06Z",
        "    seq 7 SignalEvaluated from strategy: refuse",
    ]


@pytest.mark.parametrize(("ts", "is_found"), [(at(60), True), (at(0), True), (at(59), True), (Nanos(at(0) - 1), False)])
def test_a_bar_is_found_by_its_end_or_by_a_moment_in_it(ts: Nanos, is_found: bool) -> None:
    assert (why(decided().envelopes, "ES", ts, nearest_flip=unasked) is not None) == is_found


def test_a_bars_end_wins_over_the_bar_that_begins_then() -> None:
    record = decided()
    record.put(signal(ts=at(120), bar_start=at(60)), source="strategy")
    assert "(seq 7)" in explained(record.envelopes, at(60))
    assert "(seq 9)" in explained(record.envelopes, at(61))


def test_a_root_without_decisions_has_no_answer() -> None:
    assert why(decided().envelopes, "GC", at(60), nearest_flip=unasked) is None


MODEL = ModelRecord(
    root="ES", digest="ab" * 32, feature_set="v2", features=("price_usd", "nq_hourly_return", "ibs_pct"), threshold=0.5
)


def scored(**changes: Any) -> VetoScored:
    values: dict[str, Any] = {
        "root": "ES", "ts": at(60), "digest": MODEL.digest, "values": (5000.25, -0.0123456, 0.125),
        "carried": ("nq_hourly_return",), "probability": 0.25, "threshold": 0.5, "is_passed": False, "bias": 0.5,
        "contributions": (0.05, -0.4, 0.1),
    }  # fmt: skip
    return VetoScored(**(values | changes))


def judged(**changes: Any) -> Record:
    """A decision after its score; NQ has one in the same slice."""
    record = Record()
    record.put(opened_session(models=(attrs.evolve(MODEL, root="NQ"), MODEL)), source="session")
    tick = record.put(ClockTicked(ts=at(60), watermark=at(60)), source="clock", ts=at(60, 6))
    closed = record.put(SliceClosed(ts=at(60), hours=(bar_of(length=HOUR),)), source="bars", cause=tick)
    events = (scored(root="NQ", probability=0.75), signal("NQ"), scored(**changes), signal(probability=0.25))
    for idx, event in enumerate(events):
        record.put(event, source="strategy", cause=closed, idx=idx)
    return record


def test_a_veto_is_told_with_what_each_input_did_to_it_the_largest_first() -> None:
    text = explained(judged().envelopes).splitlines()
    start = next(index for index, line in enumerate(text) if "veto:" in line)
    assert text[start : start + 7] == [
        "  veto: probability 0.250000 of 0.500000 needed: vetoed (seq 6, model abababababab)",
        "    without any input                                   +0.500000",
        "    nq_hourly_return                       -0.0123456   -0.400000   last close stands, no trade since",
        "    ibs_pct                                     0.125   +0.100000",
        "    price_usd                                 5000.25   +0.050000",
        "    nearest flip: no single input could have turned it round",
        "  events:",
    ]


@pytest.mark.parametrize(
    ("gate", "changes", "told"),
    [
        (False, {"is_passed": True, "reason": ""}, "probability 0.625000 of 0.500000 needed: passed, unlike the veto"),
        (True, {"is_passed": True, "reason": ""}, "probability 0.625000 of 0.500000 needed: passed"),
        (False, {"probability": 0.25}, "probability 0.250000 of 0.500000 needed: vetoed"),
        (True, {"probability": 0.25}, "probability 0.250000 of 0.500000 needed: vetoed, unlike the veto"),
        (
            False,
            {"probability": None, "threshold": None, "reason": "veto_input_missing", "detail": "NQ 1h: no bars"},
            "not scored (veto_input_missing: NQ 1h: no bars)",
        ),
    ],
)
def test_why_tells_what_the_shadow_said(gate: bool, changes: dict[str, Any], told: str) -> None:
    record = Record()
    record.put(opened_session(models=(MODEL,)), source="session")
    closed = record.put(SliceClosed(ts=at(60), hours=(bar_of(length=HOUR),)), source="bars")
    gates = (Gate(name="veto", is_passed=gate, value="", reason=""),)
    record.put(signal(gates=gates), source="strategy", cause=closed)
    values: dict[str, Any] = {"is_passed": False, "reason": "vetoed", "probability": 0.625, "threshold": 0.5}
    shadow = ShadowScored(root="ES", ts=at(60), digest="cd" * 32, **(values | changes))
    record.put(shadow, source="strategy", cause=closed, idx=1)
    lines = explained(record.envelopes).splitlines()
    assert f"  shadow: {told} (seq 4, model cdcdcdcdcdcd; it never acts)" in lines


def test_a_score_that_passed_says_so() -> None:
    assert "probability 0.500000 of 0.500000 needed: passed" in explained(
        judged(probability=0.5, is_passed=True).envelopes
    )


@pytest.mark.parametrize(
    ("flip", "line"),
    [
        (
            Flip(feature="ibs_pct", value_now=0.125, value_needed=0.25, probability_then=0.625, distance=1.0),
            "nearest flip: ibs_pct above 0.25 instead of 0.125 would give 0.625000",
        ),
        (
            Flip(feature="ibs_pct", value_now=0.125, value_needed=0.0625, probability_then=0.5, distance=1.0),
            "nearest flip: ibs_pct below 0.0625 instead of 0.125 would give 0.500000",
        ),
        ("not known without the model abababababab", "nearest flip: not known without the model abababababab"),
        (None, "nearest flip: no single input could have turned it round"),
    ],
)
def test_what_would_have_turned_the_verdict_round_is_told_or_why_it_cannot_be(
    flip: Flip | str | None, line: str
) -> None:
    assert f"    {line}" in explained(judged().envelopes, flip=flip).splitlines()


def test_the_flip_is_asked_of_the_model_that_scored_the_bar() -> None:
    asked: list[tuple[ModelRecord, VetoScored]] = []
    why(judged().envelopes, "ES", at(60), nearest_flip=lambda record, scored: asked.append((record, scored)))
    assert asked == [(MODEL, scored())]


def test_a_decision_without_a_score_has_no_veto_to_tell() -> None:
    assert "veto:" not in explained(decided().envelopes)


def test_an_order_is_told_to_its_end() -> None:
    limit = request_of(order_type="limit", limit_price=Price(PRICE - TICK))
    record = decided(request=limit, verdict="enter", reason="")
    order = {"root": "ES", "signal_id": "entry-1"}
    for event, source in [
        (RiskDecided(**order, is_allowed=True, rule="", detail=""), "execution"),
        (OrderSubmitted(**order, attempt=1, ticker="ESM2024", body="{}", body_sha256=""), "execution"),
        (OrderNotSent(**order, attempt=1, cause="connection refused"), "execution.http"),
        (OrderSubmitted(**order, attempt=2, ticker="ESM2024", body="{}", body_sha256=""), "execution"),
        (OUTCOMES["rejected"], "execution.http"),
        (OrderExpired(root="NQ", signal_id="another", reason="time_limit"), "execution"),
        (OrderExpired(**order, reason="time_limit"), "execution"),
        (fill_of(), "execution"),
    ]:
        record.put(event, source=source)
    assert explained(record.envelopes).splitlines()[-8:] == [
        "    seq 9 OrderRequested from strategy: entry buy 1 ESM4 limit at 4999.75",
        "    seq 10 RiskDecided from execution: allowed",
        "    seq 11 OrderSubmitted from execution: attempt 1 for ESM2024",
        "    seq 12 OrderNotSent from execution.http: cause connection refused",
        "    seq 13 OrderSubmitted from execution: attempt 2 for ESM2024",
        "    seq 14 OrderRejected from execution.http: http_status 400, code c, message m",
        "    seq 16 OrderExpired from execution: time_limit",
        "    seq 17 FillAssumed from execution: assumed at 5000 by rule next_trade, net -12.50 USD",
    ]


def test_a_refusal_of_the_risk_gate_is_told_with_its_numbers() -> None:
    record = decided(request=request_of(), verdict="enter", reason="")
    refused = RiskDecided(
        root="ES", signal_id="entry-1", is_allowed=False, rule="max_positions", detail="4 of 4 in use"
    )
    record.put(refused, source="execution")
    assert explained(record.envelopes).endswith(
        "seq 10 RiskDecided from execution: refused by max_positions: 4 of 4 in use"
    )


def test_each_segment_explains_itself_though_all_count_from_one() -> None:
    first, second = decided(price=1), decided(price=2, ts=at(120), bar_start=at(60))
    both = [*first.envelopes, *second.envelopes]
    assert explained(both, at(60)) == explained(first.envelopes, at(60))
    assert explained(both, at(120)) == explained(second.envelopes, at(120))
    assert "last trade 5000.25" in explained(both, at(60))


# ---------------------------------------------------------------- the replay's report

RUNNING = RunningProgram(version="2", code_digest="code", libraries={"python": "3", "numpy": "2"})


def result(**changes: Any) -> ReplayResult:
    values: dict[str, Any] = {
        "events": 10, "inputs": 4, "compared": 6, "decisions": 2, "orders": 1, "divergence": None,
        "opened": opened_session(libraries={"python": "3", "numpy": "1"}),
    }  # fmt: skip
    return ReplayResult(**(values | changes))


DIVERGED = Divergence(
    seq=7, source="bars", cause=5, kind="differs", type="SliceClosed", recorded={"ts": 1, "minutes": []},
    replayed={"ts": 2, "minutes": []}, fields=("ts",),
)  # fmt: skip


def test_the_counts_of_all_segments_are_added() -> None:
    replayed = [SegmentReplay(name="a.db", result=result()), SegmentReplay(name="a.2.db", result=result(events=5))]
    report = replay_report(replayed, RUNNING, elapsed_s=1.23456)
    assert (report["events"], report["compared"], report["orders"]) == (15, 12, 2)
    assert (report["identical"], report["divergence"], report["elapsed_s"]) == (True, None, 1.235)
    orjson.dumps(report)


def test_the_report_says_what_recorded_and_what_replays() -> None:
    opened = opened_session(libraries={"python": "3", "numpy": "1"}, code_digest="other", version="1")
    same = result(opened=opened_session(libraries=RUNNING.libraries))
    segments = [SegmentReplay(name="a.db", result=result(opened=opened)), SegmentReplay(name="a.2.db", result=same)]
    report = replay_report(segments[::-1], RUNNING, elapsed_s=1)
    assert replay_report(segments, RUNNING, elapsed_s=1)["environment"] == report["environment"]
    assert (report["session"], report["code"]) == ("2024-05-01", "different")
    assert (report["recorded_version"], report["running_version"]) == ("1", "2")
    assert report["environment"] == {
        "python": {"recorded": "3", "running": "3"},
        "numpy": {"recorded": "1", "running": "2"},
    }
    words = "\n".join(replay_words(report))
    assert "decision code is not the one" in words
    assert "numpy 1 -> 2" in words
    assert "python" not in words


def with_models(*records: ModelRecord, used: dict[str, str]) -> SegmentReplay:
    opened = opened_session(libraries=RUNNING.libraries, models=records)
    return SegmentReplay(name="a.db", result=result(opened=opened), models=used)


def test_the_models_on_record_and_those_that_scored_are_told() -> None:
    refused = ModelRecord(root="GC", refusal="missing")
    nasdaq = attrs.evolve(MODEL, root="NQ")
    replayed = [
        with_models(MODEL, nasdaq, refused, used={"ES": MODEL.digest, "NQ": MODEL.digest}),
        with_models(MODEL, nasdaq, used={"ES": "cd" * 32}),
    ]
    report = replay_report(replayed, RUNNING, elapsed_s=1)
    assert report["models"] == [
        {"file": "a.db", "root": "ES", "recorded": MODEL.digest, "used": MODEL.digest},
        {"file": "a.db", "root": "NQ", "recorded": MODEL.digest, "used": MODEL.digest},
        {"file": "a.db", "root": "ES", "recorded": MODEL.digest, "used": "cd" * 32},
        {"file": "a.db", "root": "NQ", "recorded": MODEL.digest, "used": None},
    ]
    assert [line for line in replay_words(report) if "model" in line] == [
        "  another model of ES: a.db names abababababab, scored with cdcdcdcdcdcd",
        "  another model of NQ: a.db names abababababab, there is none",
    ]


def test_the_models_that_recorded_are_not_worth_a_word() -> None:
    report = replay_report([with_models(MODEL, used={"ES": MODEL.digest})], RUNNING, elapsed_s=1)
    assert not [line for line in replay_words(report) if "model" in line]


def test_a_divergence_is_told_with_its_file_and_field_by_field() -> None:
    opened = opened_session(libraries=RUNNING.libraries)
    replayed = [SegmentReplay(name="a.db", result=result(divergence=DIVERGED, opened=opened))]
    report = replay_report(replayed, RUNNING, elapsed_s=1)
    assert report["identical"] is False
    assert report["divergence"]["file"] == "a.db"
    assert replay_words(report)[:3] == [
        "session 2024-05-01: DIVERGED",
        "  first at seq 7 of a.db: SliceClosed from bars, cause 5: differs",
        "    ts: recorded 1, replayed 2",
    ]


def test_a_missing_event_is_told_whole() -> None:
    missing = attrs.evolve(DIVERGED, kind="not on record", recorded=None, fields=())
    report = replay_report([SegmentReplay(name="a.db", result=result(divergence=missing))], RUNNING, elapsed_s=1)
    assert "    recorded: None" in replay_words(report)


def test_an_empty_file_has_a_report_too() -> None:
    report = replay_report([SegmentReplay(name="a.db", result=result(opened=None))], RUNNING, elapsed_s=0)
    assert (report["session"], report["recorded_version"], report["code"]) == (None, None, "different")
    assert replay_words(report)


# ---------------------------------------------------------------- the summary


def tally_of(envelopes: list[Envelope]) -> Tally:
    tally = Tally()
    for envelope in envelopes:
        tally.fold(envelope)
    return tally


def test_a_session_that_did_nothing_says_so(parts: MachineParts) -> None:
    assert summary(tally_of(SessionFile(parts).record.envelopes)) == [
        "trades     0",
        "bars       0 minutes, 0 hours, 0 sessions",
        "decisions  0 (veto off)",
        "refusals   none",
        "orders     0 entries, 0 exits (none)",
        "answers    none",
        "P&L        +0.00 USD net, assumed fills, 0 closed trades",
        "restarts   none",
        "positions  none",
    ]


def test_the_summary_counts_what_the_session_came_to(parts: MachineParts) -> None:
    file = SessionFile(parts)
    for minute in range(5):
        file.trade(minute)
        file.tick(minute + 1)
        while file.unanswered():
            file.answer()
    file.trade(5)
    file.put(signal(), source="strategy")
    file.put(CommandReceived(command="kill", argument="entries"), source="operator")
    file.put(request_of("refused", root="NQ", contract="NQM4", decided_ns=at(5)), source="strategy")
    file.put(ActorRestarted(actor="bars", incarnation=2, at_seq=9), source="supervisor")
    lines = dict(line.split(maxsplit=1) for line in summary(tally_of(file.record.envelopes)))
    assert lines == {
        "trades": "6",
        "bars": "5 minutes, 0 hours, 0 sessions",
        "decisions": "1 (veto off)",
        "refusals": "ibs_outside_band 1, risk:kill_switch 1",
        "orders": "2 entries, 1 exits (minutes 1)",
        "answers": "OrderAccepted 3",
        "P&L": "-27.50 USD net, assumed fills, 1 closed trades",
        "restarts": "bars 1",
        "positions": "none",
    }


def test_trades_that_came_too_late_for_their_minute_are_counted() -> None:
    record = Record()
    for count in (1, 3):
        record.put(LateTrade(root="ES", contract="ESM4", minute_start=at(0), trades=count, volume=9), source="bars")
    assert summary(tally_of(record.envelopes))[0] == "trades     0, 4 late and in no bar"


def test_positions_that_are_left_open_are_named() -> None:
    position = Position(root="ES", contract="ESM4", quantity=-2, price=PRICE, opened_ns=at(0), entry_signal_id="s")
    record = Record()
    record.put(opened_session())
    record.put(
        StateCarried(
            previous_session=None,
            previous_segment=None,
            previous_head=None,
            previous_file_sha256=None,
            positions=(position,),
            realised_pnl=Decimal("-1234.5"),
        )
    )
    lines = summary(tally_of(record.envelopes))
    assert lines[-1] == "position   -2 ESM4 from 5000"
    assert "-1,234.50 USD" in "\n".join(lines)


def test_an_entry_that_may_have_been_received_is_among_the_positions_until_an_exit_has_filled() -> None:
    record = Record()
    record.put(opened_session())
    record.put(request_of("entry-1", decided_ns=at(5)), source="strategy")
    lost = OrderAmbiguous(root="ES", signal_id="entry-1", attempt=1, cause="read timeout")
    record.put(lost, source="execution.http")
    lines = summary(tally_of(record.envelopes))
    assert lines[-1] == "position   +1 ESM4 from 5000, UNKNOWN"
    assert "answers    OrderAmbiguous 1" in lines
    record.put(request_of("exit-1", intent="exit", decided_ns=at(6)), source="strategy")
    record.put(attrs.evolve(lost, signal_id="exit-1"), source="execution.http")
    assert summary(tally_of(record.envelopes))[-1] == "position   +1 ESM4 from 5000, UNKNOWN"
    record.put(attrs.evolve(fill_of(), signal_id="exit-1"), source="execution")
    assert summary(tally_of(record.envelopes))[-1] == "positions  none"
