"""One recorded session, replayed in twenty places that have nothing in common: the reports are the same."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from market import environment
from programs import run

pytestmark = pytest.mark.system

PLACES = 20
CI_PLACES = 6
AT_ONCE = 2
ZONES = (
    "UTC",
    "America/New_York",
    "America/St_Johns",  # half past
    "Asia/Kathmandu",  # a quarter to
    "Pacific/Chatham",
    "Pacific/Kiritimati",  # 14 hours ahead
    "Australia/Lord_Howe",  # daylight saving of half an hour
    "Africa/Casablanca",  # whose daylight saving is negative
    "EST5EDT,M3.2.0,M11.1.0",
    "<-12>12",
    "no/such/zone",
)
LOCALES = ("C", "C.UTF-8", "POSIX", "en_US.UTF-8", "tr_TR.UTF-8", "de_DE.UTF-8", "ja_JP.eucJP", "no_such")
"""Installed or not: what a process is told, and not what it makes of it."""


@attrs.frozen
class Place:
    """Where and how one replay runs."""

    cwd: Path
    file: str
    environ: dict[str, str]


def place(chance: random.Random, journal: Path, directory: Path) -> Place:
    """A working directory of some depth, and surroundings drawn by chance."""
    cwd = directory.joinpath(*(f"{chance.randrange(10**6)}" for _ in range(chance.randint(1, 4))))
    cwd.mkdir(parents=True)
    threads = str(chance.randint(1, 8))
    surroundings = {
        "PYTHONHASHSEED": str(chance.randrange(2**32)),
        "TZ": chance.choice(ZONES),
        "LC_ALL": chance.choice(LOCALES),
        "LANG": chance.choice(LOCALES),
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    file = os.path.relpath(journal, cwd) if chance.random() < 0.5 else str(journal)
    return Place(cwd, file, environment(**surroundings))


def record(directory: Path, *arguments: str) -> Path:
    """The demo's session up to wherever the arguments say."""
    ended = run("live", "--demo", "--speed", "max", "--journal-dir", directory, *arguments, limit_s=240)
    assert ended.code == 0, ended
    return directory / "2024-05-01.db"


def report(where: Place) -> dict[str, Any]:
    """What `replay --json` says there, without how long it took."""
    ended = run("replay", where.file, "--json", cwd=where.cwd, environ=where.environ)
    assert ended.code == 0, (where, ended)
    (told,) = ended.lines()
    del told["elapsed_s"]
    return told


def assert_replays_anywhere(journal: Path, directory: Path, count: int = PLACES) -> None:
    chance = random.Random(20240501)
    places = [place(chance, journal, directory) for _ in range(count)]
    assert len({where.environ["PYTHONHASHSEED"] for where in places}) == count
    with ThreadPoolExecutor(AT_ONCE) as pool:
        first, *others = pool.map(report, places)
    assert first["identical"]
    assert first["orders"] >= 5
    for where, told in zip(places[1:], others, strict=True):
        assert told == first, where


def test_a_session_replays_the_same_wherever_it_is_replayed(tmp_path: Path) -> None:
    journal = record(tmp_path / "journal", "--until", "2024-05-01T00:10:00Z")
    assert_replays_anywhere(journal, tmp_path / "places", CI_PLACES)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_whole_session_replays_the_same_wherever_it_is_replayed(tmp_path: Path) -> None:
    assert_replays_anywhere(record(tmp_path / "journal"), tmp_path / "places")
