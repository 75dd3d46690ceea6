"""The system in one thread: what the README shows, and that the seed does not matter."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path

import attrs
import pytest

from actors.in_process import InProcessSystem
from actors.replay import Divergence, RecallingCodec, ReplayResult, replay
from actors.veto_models import keep, record_of
from actors.wiring import MACHINE_PARTS, machine_parts, parse_time
from actors.wiring.in_process import in_process_system
from actors.wiring.reading import nearest_flip, replay_command
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import file_name
from domain.envelope import Envelope
from domain.events import OrderNotSent, OrderRejected, OrderSubmitted, Outcome
from domain.risk import RiskSettings
from domain.units import float_to_price
from domain.veto import Flip
from models import ModelBundle
from tests.builders import write_journal
from tests.bundles import small_bundle

SPARSE = RiskSettings(market_silent_s=3_600)
"""Minutes without a trade are how these markets are."""


def test_an_hour_that_closes_on_its_low_is_bought() -> None:
    system = in_process_system({"ES": "MESM4"}, warmup_bars=0, pivot_gate=False)
    system.trade("MESM4", parse_time("2024-05-01T13:00:01Z"), float_to_price(5100.00))
    system.trade("MESM4", parse_time("2024-05-01T13:59:58Z"), float_to_price(5090.00))
    system.advance(parse_time("2024-05-01T14:00:00Z"))
    (request,) = system.events("OrderRequested")
    assert (request.intent, request.side, request.contract) == ("entry", "buy", "MESM4")


def test_an_hour_that_an_early_close_cuts_off_is_not_bought() -> None:
    system = in_process_system({"ES": "MESU4"}, session=dt.date(2024, 7, 3), warmup_bars=0, pivot_gate=False)
    for hour, minute in (("16", "58"), ("17", "14")):  # the market closes at 17:15
        system.trade("MESU4", parse_time(f"2024-07-03T{hour}:00:01Z"), float_to_price(5100.00))
        system.trade("MESU4", parse_time(f"2024-07-03T{hour}:{minute}:58Z"), float_to_price(5090.00))
    system.advance(parse_time("2024-07-03T18:00:00Z"))
    whole, cut_off = system.events("SignalEvaluated")
    assert [next(g for g in s.gates if g.name == "session").is_passed for s in (whole, cut_off)] == [True, False]
    assert (cut_off.bar_start, cut_off.ts) == (parse_time("2024-07-03T17:00:00Z"), parse_time("2024-07-03T18:00:00Z"))
    assert (cut_off.ibs, cut_off.verdict, cut_off.reason) == (0.0, "refuse", "outside_session")
    assert system.events("OrderRequested") == []


def refuse_the_nasdaq_and_lose_every_first_attempt(submitted: OrderSubmitted) -> Outcome:
    common = {"root": submitted.root, "signal_id": submitted.signal_id, "attempt": submitted.attempt}
    if submitted.root == "NQ":
        return OrderRejected(**common, http_status=400, code="ticker-does-not-exist", message="")
    if submitted.attempt == 1:
        return OrderNotSent(**common, cause="connection refused")
    from actors.in_process import accept

    return accept(submitted)


@pytest.mark.parametrize("seed", range(8))
def test_every_seed_gives_the_same_journal_and_it_replays(seed: int) -> None:
    journals = []
    for chosen in (0, seed):
        system = in_process_system(
            {"ES": "MESM4", "NQ": "MNQM4", "RTY": "M2KM4", "YM": "MYMM4"},
            seed=chosen,
            answer=refuse_the_nasdaq_and_lose_every_first_attempt,
            warmup_bars=0,
            pivot_gate=False,
            entry_order="limit",
            cancel_after_s=3600,
            risk=SPARSE,
        )
        for hour in range(13, 20):
            for minute in range(0, 60, 7):
                for place, contract in enumerate(("MESM4", "MNQM4", "M2KM4", "MYMM4")):
                    ts = parse_time(f"2024-05-01T{hour}:{minute:02d}:{10 + place:02d}Z")
                    # Odd hours close on their low; even ones fall on through the limit and then rise, or
                    # (the Dow) rise at once, so that its limit is never met and expires on a decision bar.
                    points = -minute if hour % 2 else minute if place == 3 else -66 + 2 * max(0, minute - 14)
                    system.trade(contract, ts, float_to_price(5000.0 + 100 * place + points))
        system.advance(parse_time("2024-05-01T20:00:00Z"))
        journals.append([(e.seq, e.cause, e.type, e.raw) for e in system.envelopes() if e.type != "SessionOpened"])
        kinds = {envelope.type for envelope in system.envelopes()}
        assert {"OrderRequested", "OrderRejected", "OrderNotSent", "OrderExpired", "FillAssumed"} <= kinds
        result = replay(system.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True)
        assert result.divergence is None
        assert result.compared > 100
    assert journals[0] == journals[1]


FEATURES = ("es_hourly_return", "nq_hourly_return", "ibs_pct", "price_usd")


def judged_session(model: ModelBundle) -> InProcessSystem:
    """Seven hours of ES and NQ; ES enters where its model lets it, NQ has no model."""
    system = in_process_system(
        {"ES": "MESM4", "NQ": "MNQM4"},
        models={"ES": model},
        warmup_bars=0,
        pivot_gate=False,
        entry_ibs_high=1.0,
        exit_after_bars=1,
        risk=SPARSE,
    )
    chance = random.Random(5)
    for hour in range(13, 20):
        for minute in range(0, 60, 6):
            for contract in ("MESM4", "MNQM4"):
                ts = parse_time(f"2024-05-01T{hour}:{minute:02d}:0{1 + (contract == 'MNQM4')}Z")
                system.trade(contract, ts, float_to_price(5000.0 + chance.randint(-24, 24) / 4))
    system.advance(parse_time("2024-05-01T20:00:00Z"))
    return system


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp("models"), features=FEATURES)


@pytest.fixture(scope="module")
def judged(model: ModelBundle) -> InProcessSystem:
    return judged_session(model)


def divergence_with(judged: InProcessSystem, models: dict[str, ModelBundle]) -> Divergence | None:
    parts = machine_parts(models)
    return replay(judged.envelopes(), parts=parts, codec=Codec(), is_finished=True).divergence


def test_a_session_with_a_veto_names_its_model_and_replays_identically(
    judged: InProcessSystem, model: ModelBundle
) -> None:
    (opened,) = judged.events("SessionOpened")
    assert opened.strategy.veto is True
    assert opened.models == (record_of(model),)
    scores = judged.events("VetoScored")
    assert [(scored.root, scored.digest) for scored in scores] == [("ES", model.digest)] * 6
    assert {scored.is_passed for scored in scores} == {True, False}
    assert {request.root for request in judged.events("OrderRequested")} == {"ES"}
    assert judged.events("FillAssumed")
    refusals = {signal.gates[-1].reason for signal in judged.events("SignalEvaluated") if signal.root == "NQ"}
    assert refusals == {"veto_model_missing"}
    assert divergence_with(judged, {"ES": model}) is None


def test_another_model_diverges_at_the_first_score(judged: InProcessSystem, tmp_path: Path) -> None:
    other = small_bundle(tmp_path, features=FEATURES, seed=1)
    found = divergence_with(judged, {"ES": other})
    first = next(envelope for envelope in judged.envelopes() if envelope.type == "VetoScored")
    assert found is not None
    assert (found.seq, found.kind, found.type) == (first.seq, "differs", "VetoScored")
    assert {"digest", "probability"} <= set(found.fields)
    assert (found.recorded["digest"], found.replayed["digest"]) == (first.payload.digest, other.digest)  # type: ignore[union-attr]


def test_without_the_model_the_first_decision_that_knew_it_diverges(judged: InProcessSystem, tmp_path: Path) -> None:
    found = divergence_with(judged, {})
    assert found is not None
    assert (found.kind, found.type) == ("differs", "SignalEvaluated")  # the first hour had no return yet
    assert [recorded["gates"][-1]["reason"] for recorded in (found.recorded, found.replayed)] == [
        "veto_input_missing",
        "veto_model_missing",
    ]
    at_once = judged_session(small_bundle(tmp_path, features=("ibs_pct", "price_usd")))
    found = divergence_with(at_once, {})
    assert found is not None
    # In the place of the score the decision itself is made, without one.
    assert (found.kind, found.type) == ("differs: SignalEvaluated was decided instead", "VetoScored")
    assert found.recorded["probability"] is not None
    assert found.replayed["gates"][-1]["reason"] == "veto_model_missing"


def read_through(codec: Codec | RecallingCodec, envelopes: list[Envelope], model: ModelBundle) -> ReplayResult:
    """A replay that reads each envelope's bytes when it comes to them, as from a file."""
    read = (attrs.evolve(e, payload=codec.decode(e.type, e.version, e.raw)) for e in envelopes)
    return replay(read, parts=machine_parts({"ES": model}), codec=codec, is_finished=True)


@pytest.mark.parametrize("edited", ["", "VetoScored", "SignalEvaluated", "SliceClosed", "FillAssumed", "ClockTicked"])
def test_a_replay_that_recalls_what_it_decided_comes_to_the_same(
    judged: InProcessSystem, model: ModelBundle, edited: str
) -> None:
    envelopes = list(judged.envelopes())
    if edited:
        place = max(index for index, envelope in enumerate(envelopes) if envelope.type == edited)
        raw = envelopes[place].raw
        assert isinstance(raw, str)
        fields = json.loads(raw)
        *_, name = (name for name, value in fields.items() if isinstance(value, int) and value > 10**9)
        changed = json.dumps(fields | {name: fields[name] - 60_000_000_000}, separators=(",", ":"))
        envelopes[place] = attrs.evolve(envelopes[place], raw=changed)
    plain = read_through(Codec(), envelopes, model)
    assert read_through(RecallingCodec(Codec()), envelopes, model) == plain
    assert (plain.divergence is None) == (not edited)


def test_a_file_is_replayed_with_the_models_kept_beside_it_or_with_others(
    judged: InProcessSystem, model: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal").mkdir()
    file = write_journal(tmp_path / "journal" / file_name("2024-05-01", 1), list(judged.envelopes()))
    keep([model], file.parent)
    assert replay_command(file, as_json=True, until=None, models_dir=None) == 0
    named = {"file": file.name, "root": "ES", "recorded": model.digest}
    assert json.loads(capsys.readouterr().out)["models"] == [{**named, "used": model.digest}]
    other = small_bundle(tmp_path / "others", features=FEATURES, seed=1)
    assert replay_command(file, as_json=True, until=None, models_dir=tmp_path / "others") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["models"] == [{**named, "used": other.digest}]
    assert report["divergence"]["type"] == "VetoScored"


def test_the_nearest_flip_is_the_recorded_models_or_not_known(
    judged: InProcessSystem, model: ModelBundle, tmp_path: Path
) -> None:
    file, record, scores = tmp_path / "2024-05-01.db", record_of(model), judged.events("VetoScored")
    keep([model], tmp_path)
    flips = [nearest_flip(file, record, scored) for scored in scores]
    assert flips == [model.nearest_flip(scored.values) for scored in scores]
    assert any(isinstance(flip, Flip) for flip in flips)
    unknown = f"not known without the model {model.digest[:12]}"
    assert nearest_flip(tmp_path / "elsewhere" / file.name, attrs.evolve(record, root="ZZ"), scores[0]) == unknown
    # Another model in the place of the recorded one explains nothing.
    other = small_bundle(tmp_path / "others", features=FEATURES, seed=1)
    keep([other], tmp_path)
    assert nearest_flip(file, record_of(other), scores[0]) == unknown
