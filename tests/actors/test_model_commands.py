"""`models …`: what is listed, shown and verified is what a start would make of it; import and promote lose nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import joblib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.ensemble import RandomForestClassifier

from actors.main import cli
from domain.events import FillAssumed, ShadowScored, VetoScored
from models import ModelBundle, load_model_bundle
from tests.builders import Record, at, opened_session, request_of, write_journal
from tests.bundles import small_bundle

FEATURES = ("ibs_pct", "es_hourly_return", "nq_hourly_return")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundles")
    said: dict[str, Any] = {"signal_product": "MES", "market": "recorded", "metrics": {"strategy": {}}}
    small_bundle(place / "live", "ES", features=FEATURES, **said)
    small_bundle(place / "live", "GC", features=("gc_hourly_return",), signal_product="GC")
    small_bundle(place / "shadow", "ES", features=FEATURES, **said, seed=3)
    return place


@pytest.fixture
def home(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, a live bundle and a shadow."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    text = "account: t\nmodels_dir: live\nshadow_models_dir: shadow\njournal_dir: journal\n"
    (tmp_path / "live.yml").write_text(text)
    (tmp_path / "journal").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROONEY_CONFIG", raising=False)
    return tmp_path


def models(*arguments: object, answer: str = "") -> Result:
    return CliRunner().invoke(cli, ["models", *map(str, arguments)], input=answer)


def bundle(home: Path, kind: str) -> ModelBundle:
    return load_model_bundle("ES", home / kind)


def rows() -> list[dict[str, Any]]:
    found = models("list", "--json")
    assert found.exit_code == 0, found.output
    return [json.loads(line) for line in found.output.splitlines()]


def tree(home: Path) -> dict[str, bytes]:
    """Without what reading an unsealed journal leaves beside it."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


# ----------------------------------------------------------------- looking


def test_the_list_says_of_each_bundle_what_a_start_would(home: Path) -> None:
    assert [(row["root"], row["kind"], row["state"]) for row in rows()] == [
        ("ES", "live", "used"),
        ("GC", "live", "product_mismatch"),
        ("ES", "shadow", "used"),
    ]
    lines = models("list").output.splitlines()
    assert lines[0].split()[:6] == ["root", "kind", "state", "signal", "set", "features"]
    assert lines[1].split() == [
        *("ES", "live", "used", "MES", "v2", "3", "0.5", "2024-04-01T00:00:00Z", "recorded"),
        bundle(home, "live").digest[:12],
    ]


def test_the_list_of_a_directory_without_bundles_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROONEY_CONFIG", raising=False)
    assert models("list", "--models-dir", "absent").output == f"no bundle in {tmp_path / 'absent'}\n"


def test_with_money_a_bundle_of_a_simulated_market_is_none_and_a_shadow_is_one(home: Path) -> None:
    (home / "live.yml").write_text((home / "live.yml").read_text() + "mode: live\n")
    small_bundle(home / "live", "ES", features=FEATURES, signal_product="MES")
    small_bundle(home / "shadow", "ES", features=FEATURES, signal_product="MES", seed=3)
    found = {(row["root"], row["kind"]): row["state"] for row in rows()}
    assert found == {("ES", "live"): "simulated_market", ("GC", "live"): "product_mismatch", ("ES", "shadow"): "used"}


def test_all_of_a_bundle_is_shown(home: Path) -> None:
    shown = models("show", "es").output
    found = bundle(home, "live")
    for text in (
        *("state            used", "signal product   MES; this configuration reads MES", found.digest),
        *(
            "long entries of a recorded market",
            "2024-01-01T00:00:00Z to 2024-04-01T00:00:00Z",
            "threshold        0.5",
            "folds            1",
        ),
        *found.manifest.files.values(),
        *(f"{position}  {name}" for position, name in enumerate(FEATURES, 1)),
    ):
        assert text in shown
    told = json.loads(models("show", "ES", "--json").output)
    assert (told["features"], told["unavailable"], told["files"]) == (list(FEATURES), {}, dict(found.manifest.files))
    assert bundle(home, "shadow").digest in models("show", "ES", "--shadow").output
    assert "product_mismatch: trained on GC, used on MGC" in models("show", "GC").output
    absent = models("show", "NQ")
    assert (absent.exit_code, "cannot be read" in absent.output) == (1, True)


def test_verify_names_what_is_wrong_and_exits_1(home: Path) -> None:
    good = models("verify", "ES", "--estimator")
    assert (good.exit_code, good.output) == (0, "ES    live   ok\nES    shadow ok\n")
    assert models("verify").exit_code == 1  # gold's product
    assert "REFUSED missing" in models("verify", "NQ").output
    forest = home / "live" / "ES" / "forest.npz"
    forest.write_bytes(forest.read_bytes() + b"x")
    spoiled = models("verify", "ES")
    assert (spoiled.exit_code, "ES    live   REFUSED changed: sha256 is" in spoiled.output) == (1, True)
    assert models("verify", "--models-dir", home / "nowhere", "--config", "live.yml").exit_code == 1


def test_a_model_of_one_side_is_refused_where_both_are_entered_and_asked(home: Path) -> None:
    config = (home / "live.yml").read_text()
    (home / "live.yml").write_text(config + "strategy: {roots: {ES: {side: both}}}\n")
    assert {(row["root"], row["kind"]): row["state"] for row in rows()}[("ES", "live")] == "side"
    ended = models("verify", "ES")
    refused = "ES    live   REFUSED side: trained on long entries, and ES enters long and short entries\n"
    assert (ended.exit_code, ended.output) == (1, f"{refused}ES    shadow ok\n")
    promoted = models("promote", "ES", "--force", "--yes")
    assert (promoted.exit_code, "trained on long entries" in promoted.output) == (78, True)
    assert "`side`" in promoted.output
    (home / "live.yml").write_text(config + "strategy: {roots: {ES: {side: both, veto: false}}}\n")
    assert models("verify", "ES").exit_code == 0


def test_what_is_otherwise_than_in_training_is_said_and_refuses_nothing(home: Path) -> None:
    (home / "live.yml").write_text((home / "live.yml").read_text() + "strategy: {stop_pct: 2}\n")
    words = "stop_pct 1 in training, 2 now"
    ended = models("verify", "ES")
    assert (ended.exit_code, ended.output.count(f"note: {words}\n")) == (0, 2)
    assert f"  otherwise        {words}\n" in models("show", "ES").output
    assert json.loads(models("show", "ES", "--json").output)["otherwise"] == [words]
    assert f"note: {words}\n" in models("promote", "ES", "--force", "--yes").output


def test_verify_compares_the_estimator_only_when_it_may_run_its_pickle(home: Path) -> None:
    path = home / "live" / "ES"
    joblib.dump(RandomForestClassifier(2).fit([[0.0] * 3, [1.0] * 3], [0, 1]), path / "model.joblib")
    digest = hashlib.sha256((path / "model.joblib").read_bytes()).hexdigest()
    manifest = (path / "manifest.yml").read_text()
    recorded = next(line.split()[-1] for line in manifest.splitlines() if "model.joblib:" in line)
    (path / "manifest.yml").write_text(manifest.replace(recorded, digest))
    assert digest != recorded
    assert models("verify", "ES").exit_code == 0
    assert "REFUSED estimator_differs" in models("verify", "ES", "--estimator").output


def test_versions_that_are_not_installed_are_a_note(home: Path) -> None:
    path = home / "live" / "ES" / "manifest.yml"
    path.write_text(path.read_text().replace("\n  joblib: ", "\n  optuna: 0.1.0\n  joblib: 0."))
    found = models("verify", "ES")
    assert found.exit_code == 0
    assert "note: trained with joblib 0." in found.output
    assert "note: trained with optuna 0.1.0, " in found.output


def test_a_manifest_without_a_signal_product_is_shown_and_never_used(home: Path) -> None:
    path = home / "live" / "ES" / "manifest.yml"
    path.write_text(path.read_text().replace("signal_product: MES\n", ""))
    assert rows()[0]["state"] == "product_mismatch"
    assert "trained on unknown, used on MES" in models("show", "ES").output
    assert load_model_bundle("ES", home / "live").threshold == 0.5  # for a replay, which holds it against nothing


# --------------------------------------------------------------- importing


def described(home: Path, **changes: Any) -> Path:
    path = home / "ES_best.json"
    fields = {"Symbol": "ES", "Prod_Threshold": 0.55, "Params": {"n_estimators": 3}, "Features": list(FEATURES)}
    path.write_text(json.dumps(fields | changes))
    return path


def pickled(home: Path) -> tuple[Path, str]:
    chance = np.random.default_rng(1)
    path = home / "ES_rf_model.pkl"
    joblib.dump(RandomForestClassifier(3, random_state=1).fit(chance.random((40, 3)), chance.integers(0, 2, 40)), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_description_alone_is_listed_and_refused(home: Path) -> None:
    ended = models("import", described(home), "--out", "new")
    assert ended.exit_code == 0, ended.output
    assert "entries are refused (veto_model_missing)" in ended.output
    (row,) = [json.loads(line) for line in models("list", "--json", "--models-dir", "new").output.splitlines()][:1]
    assert (row["state"], row["signal_product"], row["metrics"]) == ("missing", "ES", {"claimed": {}})
    assert sorted(path.name for path in (home / "new").rglob("*")) == ["ES", "manifest.yml"]


def test_a_model_is_imported_with_trust_and_its_digest(home: Path) -> None:
    path, digest = pickled(home)
    arguments = ("import", described(home), "--pickle", path, "--trust-pickle", "--sha256", digest)
    ended = models(*arguments, "--signal-product", "MES", "--out", "new")
    assert ended.exit_code == 0, ended.output
    assert models("verify", "ES", "--models-dir", "new", "--estimator").output.startswith("ES    live   ok")
    assert models(*arguments, "--out", "full").exit_code == 0
    # Without the word it was trained on the full size, which the micro's bars are not.
    assert "product_mismatch: trained on ES, used on MES" in models("verify", "ES", "--models-dir", "full").output


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("--pickle", "ES_rf_model.pkl"), "reading a pickle runs whatever it says"),
        (("--pickle", "ES_rf_model.pkl", "--trust-pickle"), "reading a pickle runs whatever it says"),
        (("--pickle", "ES_rf_model.pkl", "--sha256", "{digest}"), "reading a pickle runs whatever it says"),
        (("--pickle", "ES_rf_model.pkl", "--trust-pickle", "--sha256", "0" * 64), "sha256 is {digest}, not 000"),
        (("--pickle", "none.pkl", "--trust-pickle", "--sha256", "{digest}"), "cannot be read"),
        (("--trust-pickle",), "there is no pickle to trust"),
        (("--signal-product", "MNQ"), "MNQ is not a product of ES"),
        (("--out", "live"), "is there already"),
    ],
)
def test_a_refused_import_changes_nothing(home: Path, given: tuple[str, ...], what: str) -> None:
    _, digest = pickled(home)
    path = described(home)
    before = tree(home)
    ended = models("import", path, "--out", "new", *(text.replace("{digest}", digest) for text in given))
    assert (ended.exit_code, what.replace("{digest}", digest) in ended.output) == (2, True), ended.output
    assert tree(home) == before


def test_an_import_over_a_bundle_keeps_the_old_one(home: Path) -> None:
    old = bundle(home, "live")
    ended = models("import", described(home), "--out", "live", "--replace")
    assert ended.exit_code == 0, ended.output
    assert load_model_bundle("ES", home / "live" / "previous" / old.digest).digest == old.digest
    assert rows()[0]["state"] == "missing"
    assert {row["root"] for row in rows()} == {"ES", "GC"}  # `previous` is no root


# --------------------------------------------------------------- promoting


def session(home: Path, live: str, shadow: str) -> None:
    """Four bars: both pass (+50), only the live one (-20), only the shadow, one that the shadow could not score."""
    record = Record()
    record.put(opened_session(), source="session")
    bars = ((True, True, "50"), (True, False, "-20"), (False, True, ""), (True, None, "7"))
    for hour, (live_passes, shadow_passes, pnl) in enumerate(bars, 1):
        ts = at(60 * hour)
        score: dict[str, Any] = {"root": "ES", "ts": ts, "values": (), "carried": (), "bias": 0.5, "contributions": ()}
        score |= {"probability": 0.5, "threshold": 0.5}
        record.put(VetoScored(digest=live, is_passed=live_passes, **score))
        said = {"is_passed": bool(shadow_passes), "reason": "" if shadow_passes else "vetoed"}
        if shadow_passes is None:
            score |= {"probability": None, "threshold": None, "bias": None}
        record.put(ShadowScored(digest=shadow, **said, **score))
        if pnl:
            record.put(request_of(f"entry-{hour}", decided_ns=ts))
            fill = FillAssumed(
                root="ES", signal_id=f"entry-{hour}", contract="ESM4", intent="entry", side="buy", quantity=1, price=1,
                ts=ts, rule="", pnl=None,
            )  # fmt: skip
            record.put(fill)
            record.put(attrs.evolve(fill, signal_id=f"exit-{hour}", intent="exit", pnl=Decimal(pnl)))
    write_journal(home / "journal" / "2024-05-01.db", record.envelopes)


def test_promote_compares_and_moves_and_goes_back(home: Path) -> None:
    live, shadow = bundle(home, "live"), bundle(home, "shadow")
    session(home, live.digest, shadow.digest)
    ended = models("promote", "ES", "--yes")
    assert ended.exit_code == 0, ended.output
    assert ended.output.splitlines()[:6] == [
        "ES: 3 decision bars scored by both in 1 sessions, 2024-05-01 to 2024-05-01; 1 not comparable",
        "  agree   1: both pass 1, both veto 0",
        "  differ  2: only the live model passes 1, only the shadow 1",
        "  trades  that the shadow would have made too: 1, net +50.00 USD",
        "          that it would have vetoed: 1, net -20.00 USD",
        "          what it alone would have passed was never entered: nobody knows what it had come to",
    ]
    assert bundle(home, "live").digest == shadow.digest
    assert not (home / "shadow" / "ES").exists()
    kept = home / "live" / "previous" / live.digest
    assert load_model_bundle("ES", kept).digest == live.digest
    back = next(line for line in ended.output.splitlines() if line.startswith("back: models ")).split()[2:]
    assert models(*back, "--yes").exit_code == 0
    assert bundle(home, "live").digest == live.digest
    assert not kept.exists()
    assert load_model_bundle("ES", home / "live" / "previous" / shadow.digest).digest == shadow.digest


@pytest.mark.parametrize(
    ("case", "exit_code", "what"),
    [
        ("dry run", 0, "only the live model passes 1"),
        ("no session", 1, "not promoted: let it run as a shadow first"),
        ("another model's sessions", 1, "no session on file in which both scored a bar"),
        ("declined", 1, "put"),
        ("nobody to ask", 1, "Aborted!"),
        ("changed", 78, "sha256 is"),
        ("no shadow", 78, "cannot be read"),
        ("other product", 78, "trained on ES, used on MES"),
        ("the same", 78, "is this one already"),
    ],
)
def test_what_is_not_promoted_leaves_everything_in_its_place(home: Path, case: str, exit_code: int, what: str) -> None:
    live, shadow = bundle(home, "live").digest, bundle(home, "shadow").digest
    if case != "no session":
        session(home, live, "00" * 32 if case == "another model's sessions" else shadow)
    if case == "changed":
        (home / "shadow" / "ES" / "forest.npz").write_bytes(b"")
    elif case == "no shadow":
        shutil.rmtree(home / "shadow" / "ES")
    elif case == "other product":
        small_bundle(home / "shadow", "ES", features=FEATURES, signal_product="ES")
    elif case == "the same":
        shutil.copytree(home / "live" / "ES", home / "shadow" / "ES", dirs_exist_ok=True)
    before = tree(home)
    options = {"dry run": ["--dry-run"], "declined": [], "nobody to ask": []}.get(case, ["--yes"])
    ended = models("promote", "ES", *options, answer="n\n" if case == "declined" else "")
    assert (ended.exit_code, what in ended.output) == (exit_code, True), ended.output
    assert tree(home) == before


def test_force_promotes_what_was_never_compared(home: Path) -> None:
    shadow = bundle(home, "shadow").digest
    assert models("promote", "ES", "--force", "--yes").exit_code == 0
    assert bundle(home, "live").digest == shadow
