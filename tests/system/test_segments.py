"""A session stopped in its middle gets a new segment exactly when another program or other settings go on with it.

What a new segment takes over from the fold of the one before is in test_sessions.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from forgery import Forger, changed_program
from market import CHECKOUT, command, environment, gateway, write_config
from programs import Ended, events, run

from tests.bundles import small_bundle

pytestmark = pytest.mark.system

STRATEGY = "{veto: false, decision_timeframe: 1m, warmup_bars: 0, pivot_gate: false, no_entry_before_auto_close_s: 0}"
ONE = ["2024-05-01.db"]
TWO = ["2024-05-01.db", "2024-05-01.2.db"]
THREE = [*TWO, "2024-05-01.3.db"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a paper session that was stopped in order after twenty minutes; its gateway goes on."""
    directory = tmp_path_factory.mktemp("stopped")
    with gateway("--simulate", "--speed", "max", "--trades", "60000") as port:
        write_config(directory, port=port, roots=("ES", "GC"), strategy=STRATEGY)
        ended = start(directory, until="2024-04-30T22:20Z")
        assert ended.logged("session opened")
        assert "orders     0 entries" not in ended.out, "nothing was decided: the tests show too little"
        yield directory


@pytest.fixture
def mine(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that directory, to go on in."""
    return shutil.copytree(stopped, tmp_path / "mine")


def start(directory: Path, *arguments: str | Path, until: str, program: Path = CHECKOUT) -> Ended:
    """`live` in a directory, by the program in a checkout, until a moment."""
    environ = environment(PYTHONPATH=str(program))
    ended = run("live", "--until", until, *arguments, cwd=directory, environ=environ)
    assert ended.code == 0, ended
    return ended


def segments(directory: Path) -> list[str]:
    """The names of a directory's session files, in order."""
    return [path.name for path in sorted((directory / "journal").glob("*.db"), key=lambda path: len(path.name))]


def assert_replays(directory: Path, segment: str, program: Path) -> None:
    """This segment, on its own, is what this program decides."""
    alone = directory / f"alone-{segment}"
    alone.mkdir(exist_ok=True)
    for path in (directory / "journal").glob(f"{segment}*"):  # the WAL is a part of it
        shutil.copy(path, alone)
    ended = run("replay", alone / segment, "--json", cwd=alone, environ=environment(PYTHONPATH=str(program)))
    (told,) = ended.lines()
    assert (ended.code, told["code"]) == (0, "same"), told
    assert told["decisions"] > 0


def commented(directory: Path, file: str) -> Path:
    """The same program but for one comment."""
    line = "from __future__ import annotations\n"
    return changed_program(directory, file, (line, f"{line}# As before.\n"))


# ---------------------------------------------------------------- the code


def test_the_same_program_goes_on_in_the_same_file_from_wherever_it_is_run(mine: Path, tmp_path: Path) -> None:
    assert start(mine, until="2024-04-30T22:30Z").logged("continuing the unfinished session")
    elsewhere = commented(tmp_path / "program", "actors/report.py")  # nothing that decides
    assert start(mine, until="2024-04-30T22:40Z", program=elsewhere).logged("continuing the unfinished session")
    assert segments(mine) == ONE
    assert_replays(mine, ONE[0], CHECKOUT)
    assert_replays(mine, ONE[0], elsewhere)


@pytest.mark.parametrize(
    ("type_", "fields", "machines"),
    # Who decides on forged bars decides otherwise too, and the first to say so stops the start.
    [("SliceClosed", {"minutes": ()}, ("bars", "strategy")), ("SignalEvaluated", {"reason": "forged"}, ("strategy",))],
)
def test_a_machine_that_decides_otherwise_than_its_record_stops_the_start(
    type_: str, fields: dict[str, object], machines: tuple[str, ...], mine: Path, tmp_path: Path
) -> None:
    journal = mine / "journal" / ONE[0]
    forger = Forger(journal)
    forged = next(row for row in forger.of(type_) if forger.event(row) != attrs.evolve(forger.event(row), **fields))
    forger.change(forged, **fields)
    forger.rechain()
    saved = forger.save(tmp_path / "forged")
    for path in journal.parent.glob(f"{ONE[0]}*"):
        path.unlink()
    shutil.copy(saved, journal)
    going_on = command("live", "--until", "2024-04-30T22:30Z")
    ended = subprocess.run(going_on, cwd=mine, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 70
    stopped = re.search(r"safe_stop: (\w+) recovered otherwise than its record: (.*)", ended.stdout)
    assert stopped is not None
    assert stopped[1] in machines
    assert stopped[1] != machines[0] or stopped[2].startswith(f"{machines[0]}: seq {forged['seq']} is {type_}")


@pytest.mark.parametrize(
    "file", ["domain/gates.py", pytest.param("adapters/backtrader/stepper.py", marks=pytest.mark.soak)]
)
def test_every_change_of_the_decision_code_opens_a_segment(file: str, mine: Path, tmp_path: Path) -> None:
    """A comment is enough: nobody judges whether a change matters. Nor is a program that was here before known."""
    other = commented(tmp_path / "program", file)
    assert start(mine, until="2024-04-30T22:30Z", program=other).logged(
        "program, settings or models changed: new segment"
    )
    assert segments(mine) == TWO
    assert start(mine, until="2024-04-30T22:40Z", program=other).logged("continuing the unfinished session")
    assert segments(mine) == TWO
    start(mine, until="2024-04-30T22:50Z")
    assert segments(mine) == THREE
    for segment, program in zip(THREE, (CHECKOUT, other, CHECKOUT), strict=True):
        assert_replays(mine, segment, program)


# ---------------------------------------------------------------- the settings

SAME_VALUES = (
    "strategy: {stop_pct: 1.00, target_pct: 1, entry_ibs_low: 0, exit_ibs_high: 1, "
    'auto_close: "16:00", entry_windows: ["00:00-15:00", "17:00-24:00"]}\n'
    "risk: {max_positions: 4}\n"
    "symbols: [GC, ES]\n"
)


@pytest.mark.parametrize(
    ("overlay", "arguments", "expected"),
    [
        (SAME_VALUES, (), ONE),
        ("feed: {heartbeat_interval_s: 6}\n", (), ONE),
        ("risk: {max_positions: 3}\n", (), TWO),
        pytest.param("strategy: {stop_pct: 1.01}\n", (), TWO, marks=pytest.mark.soak),
        pytest.param("{}\n", ("--seed", "2"), TWO, marks=pytest.mark.soak),
    ],
    ids=["the same values", "another heartbeat", "another limit", "another stop", "another seed"],
)
def test_only_other_values_open_a_segment(
    overlay: str, arguments: tuple[str, ...], expected: list[str], mine: Path
) -> None:
    (mine / "over.yml").write_text(overlay)
    start(mine, "--overlay", "over.yml", *arguments, until="2024-04-30T22:30Z")
    assert segments(mine) == expected
    for segment in expected:
        assert_replays(mine, segment, CHECKOUT)


# ---------------------------------------------------------------- the models

ASKED = ("price_usd", "ibs_pct", "es_hourly_return", "6c_hourly_return")


def test_another_model_opens_a_segment_and_each_replays_with_its_own(tmp_path: Path) -> None:
    """The bundles are replaced in place, as a training does: what the first segment needs is kept beside it."""
    bundles = tmp_path / "bundles"

    def train(seed: int) -> dict[str, str]:
        products = (("ES", "MES"), ("GC", "MGC"))
        return {
            root: small_bundle(bundles, root, features=ASKED, seed=seed, signal_product=product).digest
            for root, product in products
        }

    first = train(1)
    with gateway("--simulate", "--speed", "max", "--trades", "60000") as port:
        write_config(
            tmp_path,
            port=port,
            roots=("ES", "GC"),
            strategy="{warmup_bars: 0, pivot_gate: false}",
            models_dir="bundles",
        )
        start(tmp_path, until="2024-05-01T02:10Z")
        moved = shutil.copytree(bundles, tmp_path / "moved")
        (tmp_path / "over.yml").write_text("models_dir: moved\n")
        elsewhere = start(tmp_path, "--overlay", "over.yml", until="2024-05-01T03:10Z")
        assert elsewhere.logged("continuing the unfinished session"), "the same models from another place"
        shutil.rmtree(moved)
        second = train(2)
        assert start(tmp_path, until="2024-05-01T06:10Z").logged("program, settings or models changed: new segment")
    assert segments(tmp_path) == TWO
    ended = run("replay", tmp_path / "journal" / ONE[0], "--json", cwd=tmp_path)
    (told,) = ended.lines()
    assert told["identical"] is True
    digests = [(model["file"], model["root"], model["recorded"]) for model in told["models"]]
    assert digests == [
        (file, root, digest)
        for file, models in zip(TWO, (first, second), strict=True)
        for root, digest in sorted(models.items())
    ]
    assert all(model["used"] == model["recorded"] for model in told["models"])


def test_a_swapped_model_is_named_with_the_first_score_it_changes(tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundles", "ES", features=ASKED, seed=1, signal_product="MES")
    small_bundle(tmp_path / "others", "ES", features=ASKED, seed=2, signal_product="MES")
    with gateway("--simulate", "--speed", "max", "--trades", "60000") as port:
        write_config(
            tmp_path, port=port, roots=("ES",), strategy="{warmup_bars: 0, pivot_gate: false}", models_dir="bundles"
        )
        start(tmp_path, until="2024-05-01T02:10Z")
    journal = tmp_path / "journal" / ONE[0]
    scored = events(journal, "VetoScored")
    ended = run("replay", journal, "--models-dir", tmp_path / "others", "--json")
    (told,) = ended.lines()
    assert (ended.code, told["divergence"]["seq"], told["divergence"]["type"]) == (1, scored[0]["seq"], "VetoScored")
    assert {"digest", "probability", "contributions"} <= set(told["divergence"]["fields"])
    assert told["divergence"]["recorded"]["probability"] == scored[0]["payload"]["probability"]
    words = run("replay", journal, "--models-dir", tmp_path / "others")
    assert "another model of ES: 2024-05-01.db names" in words.out
    shutil.rmtree(tmp_path / "journal" / "models")
    alone = run("replay", journal)
    assert alone.code == 1
    assert "another model of ES" in alone.out, "without the kept copy the program's own bundle scores, and is caught"
