"""A replay decides everything again and names the first place where it decides otherwise."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import orjson
import pytest

from actors.machines import MachineParts
from actors.replay import Divergence, RecallingCodec, ReplayResult, replay
from domain.envelope import Envelope
from domain.events import OrderAccepted, SliceClosed
from domain.units import Price
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, Record, at, bar_of


def recorded(parts: MachineParts) -> list[Envelope]:
    """Two roots trade five minutes each: entries, fills, exits, hours."""
    file = SessionFile(parts)
    for minute in range(5):
        for contract in ("ESM4", "NQM4"):
            file.trade(minute, minute, contract)
        file.tick(minute + 1)
        for _ in file.unanswered():
            file.answer(OrderAccepted)
    file.trade(5)
    file.tick(60)
    return file.record.envelopes


def rewritten(envelopes: list[Envelope], change: Callable[[Envelope], Envelope | None]) -> list[Envelope]:
    """The record with envelopes exchanged, or left out; the numbers stay."""
    return [changed for envelope in envelopes if (changed := change(envelope)) is not None]


def with_payload(envelope: Envelope, **changes: object) -> Envelope:
    payload = attrs.evolve(envelope.payload, **changes)
    return attrs.evolve(envelope, payload=payload, raw=CODEC.encode(payload))


def run(
    envelopes: list[Envelope], parts: MachineParts, *, is_finished: bool = True, until: int | None = None
) -> ReplayResult:
    return replay(envelopes, parts=parts, codec=CODEC, is_finished=is_finished, until=until)


def diverged(envelopes: list[Envelope], parts: MachineParts, *, is_finished: bool = True) -> Divergence:
    found = run(envelopes, parts, is_finished=is_finished).divergence
    assert found is not None
    return found


def first(envelopes: list[Envelope], kind: str) -> Envelope:
    return next(envelope for envelope in envelopes if envelope.type == kind)


def test_a_record_that_was_left_alone_replays_identically_and_everything_is_counted(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    result = run(envelopes, parts)
    assert result.divergence is None
    ours = [e for e in envelopes if e.source in ("roll", "bars", "strategy", "execution")]
    assert (result.events, result.inputs, result.compared) == (
        len(envelopes),
        len(envelopes) - len(ours),
        len(ours),
    )
    assert {"SliceClosed", "OrderRequested", "RiskDecided", "OrderSubmitted", "FillAssumed"} <= {e.type for e in ours}
    assert result.orders == 4
    assert result.opened == envelopes[0].payload


def test_a_payload_that_differs_is_told_with_both_and_field_by_field(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, "FillAssumed")
    true = target.payload.price  # type: ignore[union-attr]
    forged = rewritten(envelopes, lambda e: with_payload(e, price=Price(1), rule="gut") if e is target else e)
    found = diverged(forged, parts)
    assert (found.seq, found.source, found.cause, found.kind) == (target.seq, "execution", target.cause, "differs")
    assert found.type == "FillAssumed"
    assert found.fields == ("price", "rule")
    assert (found.recorded["price"], found.replayed["price"]) == (1, true)


def test_the_first_difference_is_the_one_that_is_told(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    forged = rewritten(envelopes, lambda e: with_payload(e, rule="gut") if e.type == "FillAssumed" else e)
    assert diverged(forged, parts).seq == first(envelopes, "FillAssumed").seq


def test_another_type_in_the_same_place_differs(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, "RiskDecided")
    forged = SliceClosed(ts=at(1))
    exchanged = attrs.evolve(target, type="SliceClosed", payload=forged, raw=CODEC.encode(forged))
    found = diverged(rewritten(envelopes, lambda e: exchanged if e is target else e), parts)
    kind = "differs: RiskDecided was decided instead"
    assert (found.seq, found.kind, found.type, found.fields) == (target.seq, kind, "SliceClosed", ())
    assert found.replayed["is_allowed"] is True


def test_an_event_that_is_not_decided_again_is_told(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    last = envelopes[-1]
    record = Record()
    record.envelopes = list(envelopes)
    tick = first(envelopes, "ClockTicked")
    record.put(SliceClosed(ts=at(99), minutes=(bar_of(),)), source="bars", cause=tick, idx=7)
    found = diverged(record.envelopes, parts)
    assert (found.seq, found.kind, found.replayed) == (last.seq + 1, "not decided again", None)
    assert found.recorded["ts"] == at(99)


@pytest.mark.parametrize("kind", ["SliceClosed", "OrderRequested", "OrderSubmitted", "FillAssumed"])
def test_a_decision_that_is_not_on_record_is_told_with_its_cause(parts: MachineParts, kind: str) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, kind)
    found = diverged(rewritten(envelopes, lambda e: None if e is target else e), parts)
    assert (found.kind, found.type, found.source) == ("not on record", kind, target.source)
    assert (found.seq, found.cause) == (target.cause, target.cause)
    assert found.recorded is None
    assert found.replayed == orjson.loads(target.raw)


def test_of_a_missing_decision_and_what_followed_from_it_the_missing_one_is_told(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    missing = first(envelopes, "FillAssumed")
    later = [e for e in envelopes if e.type == "FillAssumed"][-1]
    forged = rewritten(
        envelopes,
        lambda e: None if e is missing else with_payload(e, rule="gut") if e is later else e,
    )
    found = diverged(forged, parts)
    assert (found.kind, found.cause) == ("not on record", missing.cause)


def test_a_difference_before_a_missing_decision_is_told_first(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    earlier = first(envelopes, "RiskDecided")
    missing = [e for e in envelopes if e.type == "FillAssumed"][-1]
    forged = rewritten(
        envelopes, lambda e: None if e is missing else with_payload(e, detail="?") if e is earlier else e
    )
    assert (diverged(forged, parts).kind, diverged(forged, parts).seq) == ("differs", earlier.seq)


def ends(envelopes: list[Envelope]) -> list[int]:
    """Where a process can have died: between two publishes."""
    return [end for end in range(1, len(envelopes)) if envelopes[end].idx == 0]


def test_an_unfinished_file_may_lack_the_last_decisions_wherever_it_ends(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    for end in ends(envelopes):
        assert run(envelopes[:end], parts, is_finished=False).divergence is None, end


def test_a_finished_file_may_not(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    tick = first(envelopes, "ClockTicked")
    found = diverged(envelopes[: tick.seq], parts)
    assert (found.kind, found.type, found.cause) == ("not on record", "SliceClosed", tick.seq)


def test_an_unfinished_file_may_not_lack_a_decision_in_its_middle(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, "RiskDecided")
    forged = rewritten(envelopes, lambda e: None if e.cause == target.cause and e.source == "execution" else e)
    assert diverged(forged, parts, is_finished=False).kind in ("not on record", "not decided again", "differs")


def test_until_stops_after_its_seq_and_expects_nothing_beyond(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    for end in ends(envelopes):
        result = run(envelopes, parts, until=end)
        assert (result.events, result.divergence) == (end, None)
    last = [e for e in envelopes if e.type == "FillAssumed"][-1]
    forged = rewritten(envelopes, lambda e: with_payload(e, rule="gut") if e is last else e)
    assert run(forged, parts, until=last.seq - 1).divergence is None
    assert run(forged, parts, until=last.seq).divergence is not None


def test_a_decision_that_lost_its_cause_is_no_decision(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, "SliceClosed")
    found = diverged(rewritten(envelopes, lambda e: attrs.evolve(e, cause=None) if e is target else e), parts)
    # Missing where it belongs, and made by nothing where it stands: either is the truth.
    assert found.source == "bars"
    assert (found.kind, found.seq) in [("not on record", target.cause), ("not decided again", target.seq)]


def test_what_is_not_compared_may_differ(parts: MachineParts) -> None:
    # seq apart: stamps, incarnations and hashes tell when and by whom, not what.
    envelopes = [
        attrs.evolve(e, incarnation=e.incarnation + 5, hash=b"x") if e.cause is not None else e for e in recorded(parts)
    ]
    assert run(envelopes, parts).divergence is None


def test_an_empty_file_replays_to_nothing(parts: MachineParts) -> None:
    result = run([], parts)
    assert (result.events, result.divergence, result.opened) == (0, None, None)


def test_a_record_of_an_older_version_is_compared_after_its_upcast(parts: MachineParts) -> None:
    envelopes = recorded(parts)
    target = first(envelopes, "RiskDecided")
    # Version 0 stood for the same decision in other bytes.
    old = attrs.evolve(target, version=0, raw="{}")
    assert run(rewritten(envelopes, lambda e: old if e is target else e), parts).divergence is None
    other = attrs.evolve(old, payload=attrs.evolve(target.payload, detail="?"))
    assert diverged(rewritten(envelopes, lambda e: other if e is target else e), parts).seq == target.seq


# ------------------------------------------------------------- without decoding


def test_expected_bytes_are_the_very_event_once_and_everything_else_is_decoded(parts: MachineParts) -> None:
    codec, target = RecallingCodec(CODEC), first(recorded(parts), "FillAssumed")
    event, raw = attrs.evolve(target.payload), target.raw
    assert codec.encode(event) == raw
    assert isinstance(raw, str)
    edited = CODEC.encode(attrs.evolve(event, rule="gut"))
    assert codec.decode("FillAssumed", target.version, edited) == attrs.evolve(event, rule="gut")
    again = codec.decode("FillAssumed", target.version, raw)
    assert again is event
    later = codec.decode("FillAssumed", target.version, raw)
    assert later == event
    assert later is not event
