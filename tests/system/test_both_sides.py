"""A veto of both sides: trained on entries of both, it judges both in a backtest and in a session."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from market import environment, gateway, only_journal, write_config
from programs import run

from actors.main import cli
from actors.wiring.backtest import read_minutes, run_backtest
from actors.wiring.training import TrainRequest, train_command
from actors.wiring.training_files import FileRequest, _features
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.errors import OperatorError
from domain.events import SignalEvaluated, VetoScored
from domain.ibs import StrategySettings
from models.bundle import ModelBundle, load_model_bundle
from models.candidates import SIDE_FEATURE
from tests.minutes import rebounds, trading_hours, write_minutes

pytestmark = pytest.mark.system

FEATURES = ("es_hourly_return", "ibs_pct", SIDE_FEATURE)
CONFIG = "mode: paper\naccount: nobody\nstrategy: {side: both}\n"


def request(place: Path, **changes: Any) -> TrainRequest:
    asked: dict[str, Any] = {
        "roots": ("ES",),
        "data": (place / "bars.dbn.zst",),
        "demo": False,
        "config": place / "both.yml",
        "features": FEATURES,
        "grid": "one",
        "search": "grid",
        "trials": None,
        "min_trades": 2,
        "leak_checks": 0,
        "force": True,
        "seed": 1,
        "sessions": 0,
        "models_dir": place / "bundles",
        "work_dir": place / "work",
        "jobs": 1,
    }
    return TrainRequest(**asked | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars of the product that the contract map reads, and the bundle that is trained on them."""
    directory = tmp_path_factory.mktemp("both")
    rows = rebounds(trading_hours(dt.date(2023, 12, 18), 15), strength=0, seed=1)
    write_minutes(directory / "bars.dbn.zst", rows, "MESZ4")
    (directory / "both.yml").write_text(CONFIG)
    assert train_command(request(directory)) == 0
    return directory


@pytest.fixture(scope="module")
def bundle(place: Path) -> ModelBundle:
    return load_model_bundle("ES", place / "bundles", signal_product="MES", side="both")


def sides_judged(events: list[SignalEvaluated | VetoScored]) -> dict[str, set[str]]:
    """By side: what the veto said of the entries that it was asked about."""
    scored = {event.ts for event in events if isinstance(event, VetoScored)}
    judged: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event, SignalEvaluated) and event.ts in scored:
            side = next(str(gate.value) for gate in event.gates if gate.name == "side")
            judged.setdefault(side, set()).update(gate.reason for gate in event.gates if gate.name == "veto")
    return judged


def test_it_learns_from_entries_of_both_sides_and_its_bundle_says_so(bundle: ModelBundle) -> None:
    said = bundle.manifest.description
    assert (said.side, said.features, said.metrics["strategy"]) == ("both", FEATURES, {"side": "both"})


def test_in_a_backtest_it_judges_both_and_both_are_entered(place: Path, bundle: ModelBundle) -> None:
    data = read_minutes([place / "bars.dbn.zst"], load_contract_map(CONTRACT_MAP_FILE).roots)
    result = run_backtest(
        data.minutes,
        roots=data.roots,
        settings=StrategySettings(side="both"),
        calendar=CmeCalendar(),
        models={"ES": bundle},
    )
    assert {trade.side for trade in result.trades} == {"long", "short"}
    at = bundle.features.index(SIDE_FEATURE)
    for trade in result.trades:
        assert trade.probability is not None
        assert (trade.values[at] > 0.5) is (trade.side == "short"), "what tells the sides apart"
    judged = sides_judged(list(result.decisions))
    assert judged.keys() == {"long", "short"}
    assert set().union(*judged.values()) <= {"", "vetoed"}


def test_in_a_session_it_judges_both_and_a_model_of_one_side_none(
    place: Path, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NQ has the model of another training, which knows longs alone."""
    one = place / "bundles" / "NQ"
    one.mkdir(exist_ok=True)
    for path in bundle.directory.iterdir():
        text = path.read_bytes()
        if path.name == "manifest.yml":
            text = text.replace(b"root: ES", b"root: NQ").replace(b"product: MES", b"product: MNQ")
            text = text.replace(b"side: both", b"side: long", 1)
        (one / path.name).write_bytes(text)
    with gateway("--simulate", "--speed", "max", "--trades", "20000") as port:
        write_config(
            place,
            port=port,
            roots=("ES", "NQ"),
            strategy="{side: both, warmup_bars: 0, pivot_gate: false, no_entry_before_auto_close_s: 1800}",
            models_dir="bundles",
        )
        ended = run("live", "--until", "2024-05-01T05:10Z", cwd=place, environ=environment())
    assert ended.code == 0, ended
    said = [line for line in ended.log() if line.get("root") == "ES" and "other parameters" in line["event"]]
    assert [words.split()[0] for words in said[0]["otherwise"]] == ["pivot_gate", "no_entry_before_auto_close_s"]
    with JournalFile(only_journal(place), Codec()) as journal:
        events: Any = [e.payload for e in journal.envelopes(types={"SignalEvaluated", "VetoScored"})]
    of_root = {root: [event for event in events if event.root == root] for root in ("ES", "NQ")}
    judged = sides_judged(of_root["ES"])
    assert judged.keys() == {"long", "short"}
    assert set().union(*judged.values()) <= {"", "vetoed"}
    vetoes = {gate.reason for event in of_root["NQ"] for gate in event.gates if gate.name == "veto"}
    assert vetoes == {"veto_model_side"}
    monkeypatch.chdir(place)
    shown = CliRunner().invoke(cli, ["status"]).output
    assert "model      NQ: refused (side): trained on long entries, and NQ enters long and short entries" in shown


def test_features_that_tell_no_side_are_refused_and_the_default_ones_get_one(place: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="ES enters both sides, and none of these features tells them") as caught:
        train_command(request(place, features=("es_hourly_return", "ibs_pct"), work_dir=tmp_path))
    assert (caught.value.exit_code, "add ibs" in (caught.value.fix or "")) == (2, True)
    (root,) = (one for one in load_contract_map(CONTRACT_MAP_FILE).roots if one.root == "ES")
    default = ("es_hourly_return", "nq_hourly_return")
    wanted = FileRequest(traded=(), data=(), features=(), default=default, leak_checks=0, jobs=1)
    assert _features(wanted, root, {"ES"}, "both") == ("es_hourly_return", SIDE_FEATURE)
    assert _features(wanted, root, {"ES"}, "short") == ("es_hourly_return",)
