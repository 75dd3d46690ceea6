"""Another program, other settings or another model in mid-session, while a position is held.

However the process ended, the next start goes on at its first try in a segment of its own: the position
is kept and leaves by the rules that now hold, nothing is sent twice, and every segment replays by the
program and the models that wrote it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import pytest
from forgery import changed_program
from in_this_process import envelopes
from market import CHECKOUT, WEBHOOK_PATH, command, environment, gateway, ledger, traderspost, write_config
from programs import run

from actors.live import EXIT_SAFE_STOP
from actors.supervisor import INTENSITY
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from tests.bundles import small_bundle

pytestmark = pytest.mark.system

Way = Literal["SIGTERM", "safe stop", "kill -9"]
Change = Literal["code", "threshold", "model"]
ROOT = "ES"
HELD_BARS = 4
"""Hours that a position is held, from the first one's end on: some 140 events each."""
UNTIL = "2024-05-01T07:30Z"
STRATEGY: dict[str, Any] = {
    "warmup_bars": 0,
    "pivot_gate": False,
    "entry_windows": ["00:00-24:00"],
    "entry_ibs_low": 0.0,
    "entry_ibs_high": 1.0,
    "exit_ibs_low": 1.0,
    "exit_after_bars": HELD_BARS,
    "stop_pct": 50,
    "target_pct": 50,
}
A_BAR_LATER = ("state.bars_held >= settings.exit_after_bars", "state.bars_held > settings.exit_after_bars")


@attrs.define
class Trading:
    """A paper session of one root, whose parts are exchanged between two processes."""

    directory: Path
    port: int
    address: str
    has_model: bool
    program: Path = CHECKOUT
    held_bars: int = HELD_BARS
    wrote: dict[str, Path] = attrs.Factory(dict)
    """By segment, the program that has written it."""

    def change(self, what: Change) -> None:
        match what:
            case "code":
                strategy = "adapters/backtrader/ibs_strategy.py"
                self.program = changed_program(self.directory / "program", strategy, A_BAR_LATER)
            case "threshold":
                self.held_bars += 2
            case "model":
                self.train(seed=2)

    def train(self, seed: int) -> None:
        """A veto that lets nearly everything pass, in place of the one before."""
        bundles, asked = self.directory / "bundles", ("price_usd", "ibs_pct")
        shutil.rmtree(bundles, ignore_errors=True)
        small_bundle(bundles, ROOT, features=asked, seed=seed, signal_product="MES", threshold=0.001)

    @property
    def segments(self) -> list[Path]:
        return sorted((self.directory / "journal").glob("*.db"), key=lambda path: (len(path.name), path.name))

    def run(self, way: Way | None = None, at: int = 0) -> None:
        """One process, ended that way when its segment holds event `at`; by itself without a way."""
        write_config(
            self.directory,
            port=self.port,
            roots=(ROOT,),
            strategy=json.dumps(STRATEGY | {"veto": self.has_model, "exit_after_bars": self.held_bars}),
            models_dir="bundles",
        )
        trouble = ["--crash", f"feed@{at}"] * (INTENSITY + 1) if way == "safe stop" else ["--jitter-ms", "2"]
        number = len(self.segments)
        process = subprocess.Popen(
            command("live", "--until", UNTIL, *(trouble if way else [])),
            cwd=self.directory,
            env=environment(
                PYTHONPATH=str(self.program), TRADERSPOST_WEBHOOK_URL=f"http://{self.address}{WEBHOOK_PATH}"
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            limit = time.monotonic() + 60
            while way in ("SIGTERM", "kill -9") and (len(self.segments) == number or last_seq(self.segments[-1]) < at):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < limit, "it did not get so far"
                time.sleep(0.01)
            if way in ("SIGTERM", "kill -9"):
                process.send_signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
            said, _ = process.communicate(timeout=100)
        finally:
            process.kill()
        expected = {"safe stop": EXIT_SAFE_STOP, "kill -9": -signal.SIGKILL}.get(way or "", 0)
        assert process.returncode == expected, said
        assert len(self.segments) == number + 1, "each start has a segment of its own"
        self.wrote[self.segments[-1].name] = self.program


@contextmanager
def trading(directory: Path, *, has_model: bool) -> Iterator[Trading]:
    with (
        gateway("--simulate", "--speed", "max", "--trades", "60000") as port,
        traderspost("--clock", "request") as address,
    ):
        session = Trading(directory, port, address, has_model)
        if has_model:
            session.train(seed=1)
        yield session


def last_seq(path: Path) -> int:
    with JournalFile(path, Codec()) as journal:
        return journal.head().seq


def held_at_the_end(path: Path) -> str:
    """The signal that opened what is held when a file ends; "" when nothing is."""
    (carried,) = [e.payload for e in envelopes(path, "StateCarried")]
    held = [position.entry_signal_id for position in carried.positions]
    for fill in envelopes(path, "FillAssumed"):
        held = [fill.payload.signal_id] if fill.payload.intent == "entry" else []
    return "".join(held)


def assert_survived(session: Trading) -> None:
    """One position was carried through, left as the last rules say, and nothing was sent otherwise than on record."""
    *left, last = session.segments
    (position,) = {held_at_the_end(path) for path in left}
    assert position, "nothing was held: the test shows too little"
    for path in session.segments[1:]:
        (carried,) = [e.payload for e in envelopes(path, "StateCarried")]
        assert [(held.entry_signal_id, held.is_unknown) for held in carried.positions] == [(position, False)]
    record = [e for path in session.segments for e in envelopes(path)]
    asked = [e.payload for e in record if e.type == "OrderRequested"]
    assert [order.intent for order in asked[:2]] == ["entry", "exit"]
    left_as = (asked[1].entry_signal_id, asked[1].reason, asked[1].bars_held)
    assert left_as == (position, "bar_stop", session.held_bars + (session.program != CHECKOUT))
    assert any(fill.payload.signal_id == asked[1].signal_id for fill in envelopes(last, "FillAssumed"))
    accepted = Counter(e.payload.signal_id for e in record if e.type == "OrderAccepted")
    seen = {signal_id: signal["accepted"] for signal_id, signal in ledger(session.address)["signals"].items()}
    assert seen == accepted
    assert len({order.signal_id for order in asked}) == len(asked)
    for path in session.segments:
        assert_replays(session, path)


def assert_replays(session: Trading, path: Path) -> None:
    """This segment, on its own, is what the program that wrote it decides."""
    alone = session.directory / f"alone-{path.stem}"
    alone.mkdir()
    for part in path.parent.glob(f"{path.name}*"):  # the WAL is a part of it
        shutil.copy(part, alone)
    if session.has_model:
        shutil.copytree(path.parent / "models", alone / "models")
    program = session.wrote[path.name]
    ended = run("replay", alone / path.name, "--json", cwd=alone, environ=environment(PYTHONPATH=str(program)))
    (told,) = ended.lines()
    assert (ended.code, told["code"], told["identical"]) == (0, "same", True), told
    assert all(model["used"] == model["recorded"] for model in told["models"])


def test_another_program_and_other_limits_go_on_with_what_a_killed_one_held(tmp_path: Path) -> None:
    with trading(tmp_path, has_model=False) as session:
        session.run("kill -9", at=450)
        session.change("code")
        session.change("threshold")
        session.run()
        assert_survived(session)


@pytest.mark.soak
def test_one_position_outlives_three_ends_and_three_changes(tmp_path: Path) -> None:
    with trading(tmp_path, has_model=True) as session:
        session.run("SIGTERM", at=450)
        session.change("code")
        session.run("safe stop", at=100)
        session.change("threshold")
        session.run("kill -9", at=100)
        session.change("model")
        session.run()
        assert_survived(session)


@pytest.mark.soak
@pytest.mark.parametrize("change", get_args(Change))
@pytest.mark.parametrize("way", get_args(Way))
def test_each_change_after_each_end_keeps_the_position(way: Way, change: Change, tmp_path: Path) -> None:
    with trading(tmp_path, has_model=True) as session:
        session.run(way, at=450)
        session.change(change)
        session.run()
        assert_survived(session)
