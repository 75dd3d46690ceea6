"""`train ROOT --data FILE`: candidates from a backtest, which the future does not change, to a bundle or a refusal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market import MARKET_DATA
from programs import run
from sklearn.ensemble import RandomForestClassifier

from actors.wiring.backtest import read_minutes
from actors.wiring.training import TrainRequest, train_command
from actors.wiring.training_files import TrainingRun, asked_of
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from domain.backtest import CLOSE, PRICES, START
from domain.errors import OperatorError
from domain.events import SignalEvaluated
from domain.ibs import FeatureGate, StrategySettings
from domain.units import HOUR, MINUTE, PRICE_SCALE
from models.bundle import load_model_bundle
from models.candidates import Judging
from models.forest import FlatForest
from models.lookahead import refuse_lookahead, spread
from tests.minutes import rebounds, trading_hours, write_minutes

pytestmark = pytest.mark.system

FEATURES = ("es_hourly_return", "es_daily_return", "price_usd")
FIRST = dt.date(2023, 12, 18)


def file_of(path: Path, sessions: int, strength: float = 0, seed: int = 1) -> Path:
    return write_minutes(path, rebounds(trading_hours(FIRST, sessions), strength=strength, seed=seed))


def run_of(file: Path, features: Sequence[str] = FEATURES) -> TrainingRun:
    data = read_minutes([file], load_contract_map(CONTRACT_MAP_FILE).roots)
    return TrainingRun.of(data.roots[0], features, data, StrategySettings())


def request(tmp_path: Path, file: Path, **changes: Any) -> TrainRequest:
    asked: dict[str, Any] = {
        "roots": ("es",),
        "data": (file,),
        "demo": False,
        "config": None,
        "features": ("es_hourly_return", "ibs_pct", "price_usd"),
        "grid": "one",
        "search": "grid",
        "trials": None,
        "min_trades": 5,
        "leak_checks": 1,
        "force": False,
        "seed": 1,
        "sessions": 120,
        "models_dir": None,
        "work_dir": tmp_path / "work",
        "jobs": 1,
    }
    return TrainRequest(**asked | changes)


# -------------------------------------------------------------- candidates


@cache
def whole(directory: Path) -> tuple[TrainingRun, dict[int, tuple[float, ...]]]:
    run = run_of(file_of(directory / "whole.dbn.zst", 9))
    return run, asked_of(run.result())


@settings(max_examples=3, deadline=None)
@given(share=st.floats(0.4, 0.95))
def test_cutting_off_the_future_changes_no_vector_and_no_decision(
    share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run, asked = whole(tmp_path_factory.getbasetemp())
    moments = sorted(asked)
    cut = moments[int(len(moments) * share)]
    assert asked_of(run.until(cut).result()) == {ts: vector for ts, vector in asked.items() if ts <= cut}


@settings(max_examples=3, deadline=None)
@given(session=st.integers(1, 6))
def test_cutting_off_the_past_beyond_the_window_changes_no_vector(
    session: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two hours and two days are all that these features read; percentiles would read all there is."""
    run, asked = whole(tmp_path_factory.getbasetemp())
    begins = trading_hours(FIRST, 9)[23 * session]
    minutes = tuple(attrs.evolve(one, rows=one.rows[one.rows[:, START] >= begins]) for one in run.minutes)
    later = asked_of(attrs.evolve(run, minutes=minutes).result())
    assert len(later) > 20
    # The last entry says whether it entered, which the strategy's own warm-up decides too.
    assert {ts: vector[:-1] for ts, vector in later.items()} == {ts: asked[ts][:-1] for ts in later}


@pytest.mark.real_data
@pytest.mark.skipif(not MARKET_DATA.is_dir(), reason=f"real market data is not at {MARKET_DATA}")
def test_nor_does_it_in_a_real_market() -> None:
    """Two weeks of the euro: what was asked at every hour with two days before it."""
    file = MARKET_DATA / "6E.ohlcv-1m.20240101-20240116.dbn.zst"
    data = read_minutes([file], load_contract_map(CONTRACT_MAP_FILE).roots)
    features = ("6e_hourly_return", "6e_daily_return", "ibs_pct", "price_usd")
    run = TrainingRun.of(data.roots[0], features, data, StrategySettings())
    asked = asked_of(run.result())
    assert len(asked) > 150
    (cut,) = spread(sorted(asked), 1)
    refuse_lookahead("6E", (*run.features, "entry"), asked, {cut: asked_of(run.until(cut).result())})


def back_adjusted(run: TrainingRun) -> TrainingRun:
    """Prices at the level of the last close that there is: what a continuous series of a vendor looks like."""
    shifted = []
    for one in run.minutes:
        rows = one.rows.copy()
        rows[:, PRICES] += 5_000 * PRICE_SCALE - rows[-1, CLOSE]
        shifted.append(attrs.evolve(one, rows=rows))
    return attrs.evolve(run, minutes=tuple(shifted))


def test_bars_that_know_the_future_are_caught_and_the_feature_is_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run, _ = whole(tmp_path_factory.getbasetemp())
    asked = asked_of(back_adjusted(run).result())
    cut = sorted(asked)[len(asked) // 2]
    again = asked_of(back_adjusted(run.until(cut)).result())
    with pytest.raises(OperatorError, match=r"'(es_hourly_return|price_usd)' knows the future"):
        refuse_lookahead("ES", (*run.features, "entry"), asked, {cut: again})


def test_a_row_is_a_trade_with_its_vector_and_an_outcome_after_its_decision(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run, asked = whole(tmp_path_factory.getbasetemp())
    result = run.result()
    table = run.candidates(result)
    entered = [ts for ts, vector in asked.items() if vector[-1]]
    enters = [e.ts for e in result.decisions if isinstance(e, SignalEvaluated) and e.verdict == "enter"]
    assert entered == enters
    assert table.decided.tolist() == sorted(trade.decided_ns for trade in result.trades)
    assert set(table.decided.tolist()) <= set(entered)
    for place, ts in enumerate(table.decided.tolist()):
        assert tuple(table.values[place]) == asked[ts][:-1]
        assert table.exits[place] >= ts + MINUTE
        assert table.exits[place] - ts < 24 * HOUR
    assert table.pnl.tolist() == [float(trade.pnl) for trade in sorted(result.trades, key=lambda t: t.decided_ns)]
    assert table.values[0][2] > 1000, "price_usd"


def test_with_a_forest_the_strategy_makes_what_passes_and_what_the_others_had_kept_it_from(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run, _ = whole(tmp_path_factory.getbasetemp())
    table = run.candidates(run.result())
    forest = FlatForest.of(RandomForestClassifier(5, random_state=1).fit(table.values, table.wins))
    of_rows = forest.score_many(table.values)
    threshold = float(np.median(of_rows))
    model = Judging(root="ES", features=run.features, digest="five trees", threshold=threshold, forest=forest)
    made = run.play(model)
    assert all(forest.probability(row.values) >= threshold for row in made)
    times = {row.decided_ns for row in made}
    kept_away = set(table.decided[of_rows < threshold].tolist())
    assert kept_away, "every entry passes: the test shows nothing"
    assert not times & kept_away
    assert times - set(table.decided.tolist()), "nothing was entered in the place of another"


def test_what_a_gate_reads_is_there_though_no_feature_reads_it(tmp_path: Path) -> None:
    files = [
        write_minutes(tmp_path / f"{root}.dbn.zst", rebounds(trading_hours(FIRST, 5), strength=0, seed=1), f"{root}Z4")
        for root in ("ES", "NQ")
    ]
    data = read_minutes(files, load_contract_map(CONTRACT_MAP_FILE).roots)
    (root,) = (one for one in data.roots if one.root == "ES")
    gated = StrategySettings(gates=(FeatureGate(name="nq_hourly_return", low=-50, high=50),))
    entered = [
        [ts for ts, vector in asked_of(TrainingRun.of(root, FEATURES, data, own).result()).items() if vector[-1]]
        for own in (StrategySettings(), gated)
    ]
    assert entered[0] == entered[1] != []


# ------------------------------------------------------------- the command


def test_noise_is_refused_forced_and_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, config = file_of(tmp_path / "noise.dbn.zst", 36), tmp_path / "live.yml"
    config.write_text("mode: paper\naccount: nobody\nstrategy: {stop_pct: 0.8}\n")
    assert train_command(request(tmp_path, file, config=config)) == 1
    said = capsys.readouterr().out
    assert "no bundle: not better than no veto on the hold-out" in said
    assert not list((tmp_path / "work" / "bundles").iterdir())
    assert "no bundle was written" in (tmp_path / "work" / "ES.html").read_text()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "kept").iterdir()}
    assert len(kept) == 1 + 1 + 1, "the backtest, the run on cut data and the forest"

    assert train_command(request(tmp_path, file, config=config, force=True)) == 0
    assert capsys.readouterr().out.splitlines()[:2] == said.splitlines()[:2]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "kept").iterdir()} == kept
    bundle = load_model_bundle("ES", tmp_path / "work" / "bundles", signal_product="ES", allow_simulated=False)
    described = bundle.manifest.description
    assert described.metrics["is_better_than_no_veto_on_hold_out"] is False
    assert described.metrics["shortcomings"]
    assert described.metrics["strategy"] == {"stop_pct": "0.8"}
    assert "--config live.yml" in described.command
    assert described.training_start == "2023-12-15T22:00:00Z"
    assert len(bundle.populations["ibs"]) > 700
    assert "written all the same" in (tmp_path / "work" / "ES.html").read_text()


@pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed: pip install -e '.[search]'")
@pytest.mark.soak
def test_a_bundle_names_the_version_of_what_proposed_its_forest(tmp_path: Path) -> None:
    file = file_of(tmp_path / "bars.dbn.zst", 36)
    for search, grid in (("grid", "one"), ("optuna", None)):
        asked = request(tmp_path, file, force=True, search=search, grid=grid)
        assert train_command(attrs.evolve(asked, trials=None if grid else 1)) == 0
        libraries = load_model_bundle("ES", tmp_path / "work" / "bundles").manifest.libraries
        assert libraries.get("optuna") == (None if grid else metadata.version("optuna"))


def test_with_the_short_side_it_learns_of_shorts_and_the_bundle_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, config = file_of(tmp_path / "bars.dbn.zst", 24), tmp_path / "live.yml"
    config.write_text("mode: paper\naccount: nobody\nstrategy: {side: short, veto: false}\n")
    asked = request(tmp_path, file, config=config, force=True, min_trades=2, features=FEATURES)
    # The data as they were given, from where one is; of an absolute path the name.
    (tmp_path / "my history").mkdir()
    file_of(tmp_path / "my history" / "again.dbn.zst", 1)
    monkeypatch.chdir(tmp_path / "my history")
    given = (file, Path("../my history"), Path("."))
    assert train_command(attrs.evolve(asked, data=given)) == 0
    bundle = load_model_bundle("ES", tmp_path / "work" / "bundles", signal_product="ES")
    said = bundle.manifest.description.command
    assert "--data bars.dbn.zst --data '../my history' --data . --config live.yml" in said
    assert bundle.side == "short"
    run = attrs.evolve(run_of(file), settings=StrategySettings(side="short"))
    assert {trade.side for trade in run.result().trades} == {"short"}
    metrics = bundle.manifest.description.metrics
    assert metrics["strategy"] == {"side": "short"}
    # What the strategy makes of the hold-out with this bundle, asked as a backtest asks it.
    hold_out = metrics["hold_out"]
    pnl = [row.pnl for row in run.play(bundle) if row.session.isoformat() >= hold_out["from"]]
    told = hold_out["run_with_veto"]
    assert (told["trades"], told["net_pnl"]) == (len(pnl), float(sum(pnl)))
    assert pnl


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": ()}, "nothing to learn from"),
        ({"demo": True}, "--demo trains every root"),
        ({"demo": True, "roots": (), "data": ()}, "--demo has features and settings of its own"),
        ({"roots": ("XX",)}, "no traded root XX"),
        ({"trials": 5}, "a grid says how many forests it has"),
        ({"search": "optuna"}, "--grid says which forests are tried"),
        ({"search": "optuna", "grid": None, "demo": True, "roots": (), "data": (), "features": ()}, "one forest"),
        ({"data": (Path("none.dbn"),)}, "none.dbn"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=what) as caught:
        train_command(request(tmp_path, tmp_path / "missing.dbn", **changes))
    assert caught.value.exit_code == 2
    assert caught.value.fix


@pytest.mark.parametrize(
    ("place", "is_directory"), [("work/ES.html", True), ("work/kept", False), ("bundles/ES", False), ("work", False)]
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    place: str, is_directory: bool, tmp_path: Path
) -> None:
    """The file of bars is missing too: that would be found while it is read."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).mkdir() if is_directory else (tmp_path / place).touch()
    with pytest.raises(OperatorError) as caught:
        train_command(request(tmp_path, tmp_path / "missing.dbn", models_dir=tmp_path / "bundles"))
    assert caught.value.exit_code == 2
    assert caught.value.where.startswith(str(tmp_path / place))
    assert "-dir" in (caught.value.fix or "")


def test_a_gate_without_bars_and_what_keeps_every_entry_away_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = file_of(tmp_path / "few.dbn.zst", 1), tmp_path / "live.yml"
    config.write_text("mode: paper\naccount: nobody\nstrategy: {gates: {nq_hourly_return: default}}\n")
    with pytest.raises(OperatorError, match="the gates nq_hourly_return of ES") as caught:
        train_command(request(tmp_path, file, config=config))
    assert caught.value.exit_code == 2
    with pytest.raises(OperatorError, match=r"not a single entry in 1 sessions: .*warm_up_incomplete \d+"):
        train_command(request(tmp_path, file))
    assert "ES: the files hold ES, the contract map reads MES" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        ("{decision_timeframe: 1m, veto: false}", "ES decides on minutes"),
        ("{entry_order: limit, cancel_after_s: 30, warmup_bars: 20}", r"none of \d+ entries was filled"),
    ],
)
def test_a_strategy_that_nothing_can_be_learned_of_is_named(strategy: str, what: str, tmp_path: Path) -> None:
    file, config = file_of(tmp_path / "few.dbn.zst", 4), tmp_path / "live.yml"
    config.write_text(f"mode: paper\naccount: nobody\nstrategy: {strategy}\n")
    with pytest.raises(OperatorError, match=what) as caught:
        train_command(request(tmp_path, file, config=config))
    assert caught.value.exit_code == 2


def test_more_files_may_follow_the_first(tmp_path: Path) -> None:
    file = file_of(tmp_path / "few.dbn.zst", 1)
    with pytest.raises(OperatorError, match=r"none\.dbn"):
        train_command(request(tmp_path, file, roots=("es", "none.dbn")))


def test_a_directory_may_follow_the_first_unless_it_is_called_like_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = file_of(tmp_path / "few.dbn.zst", 1)
    for name in ("more", "es"):
        (tmp_path / name).mkdir()
    with pytest.raises(OperatorError, match="neither DBN files nor journals") as caught:
        train_command(request(tmp_path, file, roots=("es", "more")))
    assert caught.value.where == "more"
    with pytest.raises(OperatorError, match="no traded root NONE"):
        train_command(request(tmp_path, file, roots=("es", "none")))


@pytest.mark.parametrize(
    ("features", "what"),
    [
        (("es_hourly_retrun",), "did you mean 'es_hourly_return'"),
        (("vix_regime",), "VIX"),
        (("price_usd", "ibs_pct", "price_usd"), "'price_usd' is named twice"),
        (("nq_hourly_return",), "nothing to compute nq_hourly_return from"),
        (("daily_rsi_len_14",), "not a single entry in .* veto_input_missing: .*daily_rsi_len_14"),
    ],
)
def test_features_that_the_files_cannot_supply_are_named(features: tuple[str, ...], what: str, tmp_path: Path) -> None:
    file = file_of(tmp_path / "few.dbn.zst", 4)
    with pytest.raises(OperatorError, match=what) as caught:
        train_command(request(tmp_path, file, features=features))
    assert caught.value.exit_code == 2


@pytest.mark.soak
@pytest.mark.parametrize(("strength", "code"), [(1.5, 0), (0, 1)])
def test_an_edge_in_the_bars_is_found_on_the_hold_out_and_noise_is_not(
    strength: float, code: int, tmp_path: Path
) -> None:
    file = file_of(tmp_path / "bars.dbn.zst", 240, strength=strength)
    for name in ("one", "other"):
        ended = run(
            "train", "ES", "--data", file, "--features", "es_hourly_return,ibs_pct,price_usd",
            "--work-dir", tmp_path / name, limit_s=1200,
        )  # fmt: skip
        assert ended.code == code, ended
    if code == 0:
        one, other = (load_model_bundle("ES", tmp_path / name / "bundles") for name in ("one", "other"))
        assert one.digest == other.digest
        edge = one.manifest.description.metrics["hold_out"]["edge_per_trade"]
        assert edge["low"] > 0
        assert np.isfinite(edge["high"])
