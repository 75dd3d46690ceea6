"""`backtest`: over a journal it decides what was decided live, over real bars it explains every decision bar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from forgery import Forger
from market import MARKET_DATA
from programs import run, without_key

from actors.main import cli
from actors.recorded_sessions import READ, recorded_session
from actors.veto_models import find_models
from actors.wiring.backtest import over_journals, read_minutes, run_backtest
from actors.wiring.backtest_journals import market_of_journals
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.backtest import BacktestResult
from domain.events import FillAssumed, SignalEvaluated, VetoScored
from domain.gates import Gate
from domain.ibs import StrategySettings
from domain.veto import ModelRecord
from tests.bundles import small_bundle

pytestmark = pytest.mark.system

SESSIONS = Path(__file__).parents[1] / "replay" / "sessions"
GOLDEN = SESSIONS / "crashed" / "2024-05-01.db"
OWN_STATE = {"position", "pending", "cooldown"}
"""Gates that depend on what was filled."""


def again(file: Path, *, with_fills: bool) -> BacktestResult:
    with JournalFile(file, Codec()) as journal:
        session = recorded_session(journal.envelopes(types=set(READ)), with_fills=with_fills)
    return over_journals([attrs.evolve(session, models=find_models(session.opened.models, file.parent))])


def live(file: Path, *types: str) -> list[Any]:
    with JournalFile(file, Codec()) as journal:
        return [envelope.payload for envelope in journal.envelopes(types=set(types))]


def independent(signal: SignalEvaluated) -> tuple[Any, ...]:
    gates: list[Gate] = [gate for gate in signal.gates if gate.name not in OWN_STATE]
    return signal.root, signal.ts, signal.close, signal.ibs, gates, signal.probability, signal.threshold


@pytest.mark.parametrize("with_fills", [False, True], ids=["bars", "recorded"])
@pytest.mark.parametrize("session", ["crashed", "demo"])
def test_over_a_journals_bars_every_decision_has_the_features_and_gates_of_the_live_one(
    session: str, with_fills: bool
) -> None:
    """The demo's first hours, whose features are those of a long history, and a session that crashed often."""
    file = SESSIONS / session / "2024-05-01.db"
    found = again(file, with_fills=with_fills).decisions
    recorded = live(file, "SignalEvaluated", "VetoScored")
    for kind in (SignalEvaluated, VetoScored):
        ours = [event for event in found if isinstance(event, kind)]
        theirs = sorted((e for e in recorded if isinstance(e, kind)), key=lambda e: (e.ts, e.root))
        assert len(ours) > 10
        if kind is VetoScored:
            assert ours == theirs
        elif with_fills:
            assert ours == theirs, "what depends on a position too"
        else:
            assert [independent(e) for e in ours] == [independent(e) for e in theirs]  # type: ignore[arg-type]


def test_with_the_recorded_fills_the_trades_are_the_live_ones() -> None:
    held: dict[str, FillAssumed] = {}
    trades = []
    for fill in live(GOLDEN, "FillAssumed"):
        if fill.intent == "entry":
            held[fill.root] = fill
        else:
            entry = held.pop(fill.root)
            trades.append((fill.root, entry.ts, entry.price, fill.ts, fill.price, fill.pnl))
    found = again(GOLDEN, with_fills=True).trades
    assert len(trades) > 3
    assert sorted(trades) == sorted(
        (trade.root, trade.entry_ns, trade.entry_price, trade.exit_ns, trade.exit_price, trade.pnl) for trade in found
    )
    assert all(len(trade.values) == len(trade.features) > 0 for trade in found)


def test_what_is_still_held_where_the_record_ends_is_named() -> None:
    file = SESSIONS / "demo" / "2024-05-01.db"
    fills = live(file, "FillAssumed")
    left = {fill.root for fill in fills if fill.intent == "exit"}
    held = sorted({fill.root for fill in fills} - left)
    assert held
    assert list(again(file, with_fills=True).held) == held


def test_each_session_has_the_models_that_it_was_recorded_with() -> None:
    """One that was refused then is refused again, in the words of then, whatever the next session had."""
    with JournalFile(GOLDEN, Codec()) as journal:
        session = recorded_session(journal.envelopes(types=set(READ)), with_fills=False)
    models = find_models(session.opened.models, GOLDEN.parent)
    records = tuple(
        ModelRecord(root="ES", refusal="changed", detail="another file") if record.root == "ES" else record
        for record in session.opened.models
    )
    before = attrs.evolve(session, opened=attrs.evolve(session.opened, models=records), models=models)
    found = over_journals([before, attrs.evolve(session, models=models)], traded=["ES"]).decisions
    vetoes = [gate for event in found if isinstance(event, SignalEvaluated) for gate in event.gates[-1:]]
    half = len(vetoes) // 2
    assert half > 3
    assert {(gate.reason, gate.value) for gate in vetoes[:half]} == {("veto_model_changed", "another file")}
    assert any(gate.value is not None and " of " in gate.value for gate in vetoes[half:])


def test_models_that_are_given_score_a_session_that_had_none(tmp_path: Path) -> None:
    forger = Forger(GOLDEN)
    (opened,) = forger.of("SessionOpened")
    forger.change(opened, models=(ModelRecord(root="ES", refusal="missing"),))
    forger.rechain()
    journal = forger.save(tmp_path)
    for product, refusal in (("MES", None), ("ES", {"veto_model_product_mismatch"})):
        bundle = small_bundle(tmp_path / product, "ES", features=("price_usd",), signal_product=product)
        sessions = market_of_journals([journal], with_fills=False, with_veto=True, models_dir=tmp_path / product)
        decisions = over_journals(sessions, traded=["ES"]).decisions
        reasons = {event.gates[-1].reason for event in decisions if isinstance(event, SignalEvaluated)}
        scored = {event.digest for event in decisions if isinstance(event, VetoScored)}
        assert (scored, refusal or reasons) == (set() if refusal else {bundle.digest}, reasons)


def test_the_command_prints_a_table_an_object_and_a_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    said = run("backtest", "--data", GOLDEN, "--json", "--report", page, environ=without_key())
    report = json.loads(said.out)
    assert said.code == 0, said.err
    assert report["portfolio"]["trades"] == len(report["trades"]) > 3
    assert set(report["trades"][0]["features"])
    assert report["trades"][0]["probability"] >= report["trades"][0]["threshold"]
    assert page.read_text().startswith("<!doctype html>")
    one = run("backtest", "--data", GOLDEN, "--root", "es", "--fills", "recorded", "--no-veto", environ=without_key())
    assert one.code == 0, one.err
    assert "fills as recorded, veto off" in one.out
    assert "all" not in one.out.split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere.dbn"), "nowhere.dbn"),
        (("--data", GOLDEN, "bars.dbn"), "is a journal and bars.dbn is none"),
        (("--data", "bars.dbn", "--fills", "recorded"), "no recorded fills"),
        (("--data", GOLDEN, "--root", "PL"), "PL is not traded"),
        (("--data", GOLDEN, "--config", "live.yml"), "its own settings"),
        (("--data", GOLDEN, "--report", "nowhere/report.html"), "report.html"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_fix(
    arguments: tuple[Any, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(cli, ["backtest", *map(str, arguments)])
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert "\n  fix: " in ended.stderr


@pytest.mark.parametrize(
    ("file", "product", "contract", "sessions"),
    [
        ("ES.ohlcv-1m.20131006-11.dbn.zst", "ES", "ESZ3", 5),
        ("GC.ohlcv-1m.20131007-11.dbn.zst", "GC", "GCZ3", 5),
        ("ES.ohlcv-1m.20131218-20.roll.dbn.zst", "ES", "ESH4", 3),
        ("6E.ohlcv-1m.20240101-20240116.dbn.zst", "6E", "6EH4", 11),
    ],
    ids=["ES 2013", "GC 2013", "ES December 2013", "6E January 2024"],
)
@pytest.mark.real_data
@pytest.mark.skipif(not MARKET_DATA.is_dir(), reason=f"real market data is not at {MARKET_DATA}")
def test_every_decision_bar_of_real_bars_is_explained(file: str, product: str, contract: str, sessions: int) -> None:
    data = read_minutes([MARKET_DATA / file], load_contract_map(CONTRACT_MAP_FILE).roots)
    assert [root.data_product for root in data.roots] == [product]
    settings = StrategySettings(veto=False, warmup_bars=12, pivot_strength=2)
    calendar = CmeCalendar()
    result = run_backtest(data.minutes, roots=data.roots, settings=settings, calendar=calendar, models={})
    assert len(result.sessions) == sessions
    signals = [event for event in result.decisions if isinstance(event, SignalEvaluated)]
    assert {signal.contract for signal in signals} == {contract}
    rows = next(one.rows for one in data.minutes if one.raw_symbol == contract)
    hour = 3_600 * 10**9
    # One for each hour in which the contract traded, but for the last one, which the data may cut.
    expected = sorted({int(start) // hour * hour + hour for start in rows[:, 0]})
    assert [signal.ts for signal in signals] == expected[: len(signals)]
    assert len(expected) - len(signals) <= 1
    names = [gate.name for gate in signals[0].gates]
    for signal in signals:
        assert [gate.name for gate in signal.gates] == names
        refused = [gate.reason for gate in signal.gates if not gate.is_passed]
        assert signal.verdict in ("hold", "exit") or (signal.verdict == "enter") == (not refused)
        assert signal.verdict != "refuse" or signal.reason in refused
    # What is entered as the data end has no bar to be filled in.
    entered = [signal for signal in signals if signal.verdict == "enter" and signal.ts < rows[-1, 1]]
    assert len(entered) == len(result.trades) > 0
    for trade in result.trades:
        session = calendar.session_on(trade.session, data.roots)
        assert session.open_ns < trade.entry_ns < trade.exit_ns < session.end_ns - 300 * 10**9
