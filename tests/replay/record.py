"""Record the golden sessions anew: `python tests/replay/record.py` (see README.md for when that is right)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "tests" / "system")]

from golden import fold  # noqa: E402
from market import REJECTED, gateway, live, only_journal, traderspost, write_config  # noqa: E402
from programs import run  # noqa: E402

from adapters.log import configure_logging  # noqa: E402
from models import BundleDescription, write_bundle  # noqa: E402

SESSIONS = HERE / "sessions"
FEATURES = ("ibs_pct", "price_usd", "es_hourly_return", "6c_hourly_return")
"""Inputs that a session without history can compute after two hours."""
ROOTS = ("ES", "CL", "GC")


def record_demo(directory: Path) -> None:
    """The demo up to its first vetoed and its first filled entry."""
    ended = run("live", "--demo", "--speed", "max", "--until", "2024-04-30T23:05:00Z", cwd=directory)
    assert ended.code == 0, ended.err
    keep(only_journal(directory), "demo")


def record_crashed(directory: Path) -> None:
    """A thin market for a whole session, with crashes, a rejected product and a stop in the middle."""
    for root in ROOTS:
        small_bundle(root, directory / "bundles")
    crashes = ("bars@300", "strategy@500:handled", "execution@600:published", "feed@700", "strategy@400:catch_up")
    with (
        gateway("--simulate", "--speed", "max", "--trades", "7000") as port,
        traderspost("--clock", "request", "--unavailable", REJECTED) as address,
    ):
        config = write_config(
            directory,
            port=port,
            roots=ROOTS,
            models_dir=str(directory / "bundles"),
            strategy="{warmup_bars: 2, pivot_gate: false, entry_ibs_high: 0.4, exit_ibs_low: 0.6, entry_order: limit, "
            "cancel_after_s: 3600}",
        )
        arguments = [argument for crash in crashes for argument in ("--crash", crash)]
        ended = live(config, "--until", "2024-05-01T14:10:00Z", *arguments, webhook=address)
        assert ended.returncode == 0, ended.stderr
        ended = live(config, webhook=address)
        assert ended.returncode == 0, ended.stderr
    keep(only_journal(directory), "crashed")


def small_bundle(root: str, models_dir: Path) -> None:
    """A forest of random rows: it has nothing to say about any market, and says it in every branch."""
    from sklearn.ensemble import RandomForestClassifier

    chance = np.random.default_rng(sum(root.encode()))
    rows = chance.normal(size=(300, len(FEATURES))) * [0.3, 50, 0.2, 0.2] + [0.5, 100, 0, 0]
    wins = (rows[:, 2] + chance.normal(size=300) * 0.2 > 0).astype(int)
    write_bundle(
        BundleDescription(
            root=root,
            signal_product={"ES": "MES", "CL": "MCL", "GC": "MGC"}[root],
            market="simulated",
            feature_set="v2",
            features=FEATURES,
            threshold=0.45,
            params={"n_estimators": 12, "max_depth": 3},
            training_start="2024-01-01T00:00:00Z",
            training_end="2024-04-30T21:00:00Z",
            data_digest="00" * 32,
            label="random",
            metrics={},
            folds=(),
            command="python tests/replay/record.py",
            seed=1,
        ),
        RandomForestClassifier(12, max_depth=3, random_state=1, n_jobs=1).fit(rows, wins),
        {"ibs": chance.random(50)},
        check_rows=rows,
        models_dir=models_dir,
    )


def keep(journal: Path, name: str) -> None:
    """Put the file and the bundles that the program does not bring where the tests look for them."""
    place = SESSIONS / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copyfile(journal, place / journal.name)
    if name != "demo":
        shutil.copytree(journal.parent / "models", place / "models")
    (place / "expected.json").write_text(json.dumps(fold(place / journal.name), indent=1) + "\n")
    print(f"{name}: {(place / journal.name).stat().st_size:,} bytes, {fold(place / journal.name)}")


if __name__ == "__main__":
    import tempfile

    configure_logging("error", stream=sys.stderr)
    for record in (record_demo, record_crashed):
        with tempfile.TemporaryDirectory() as directory:
            record(Path(directory))
