"""Recorded sessions that later programs must decide again (`sessions/`), or at least read (`older/`)."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from golden import fold
from programs import run

from adapters.sqlite.schema import FORMAT_VERSION
from adapters.sqlite.upcasters import UPCASTERS
from domain.events import EVENT_VERSIONS

HERE = Path(__file__).resolve().parent
CURRENT = sorted((HERE / "sessions").glob("*/*.db"))
OLDER = sorted((HERE / "older").glob("*/*.db"))


def copied(path: Path, directory: Path) -> Path:
    """A copy with its models: reading an unsealed file leaves others beside it."""
    shutil.copytree(path.parent, directory / "session")
    return directory / "session" / path.name


def test_there_are_two_and_they_are_small() -> None:
    assert [path.parent.name for path in CURRENT] == ["crashed", "demo"]
    assert all(path.stat().st_size < 1_000_000 for path in CURRENT)


def test_every_format_and_every_older_payload_has_a_session_and_a_way_to_the_present() -> None:
    """A new format or version of an event brings a recorded session of the old one, and a step in `upcasters.py`."""
    formats, versions = set(), set()
    for path in CURRENT + OLDER:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as base:
            formats.add(base.execute("PRAGMA user_version").fetchone()[0])
            versions.update(base.execute("SELECT DISTINCT type, version FROM events"))
    assert formats == set(range(1, FORMAT_VERSION + 1))
    older = {(type_, version) for type_, newest in EVENT_VERSIONS.items() for version in range(1, newest)}
    assert older == set(UPCASTERS)
    assert older <= versions


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.parent.name)
def test_a_recorded_session_is_decided_again(path: Path, tmp_path: Path) -> None:
    ended = run("replay", copied(path, tmp_path), "--json")
    assert ended.code == 0, ended
    report = json.loads(ended.out)
    assert report["identical"] is True
    assert report["compared"] > 100
    assert all(model["used"] == model["recorded"] for model in report["models"])
    assert {model["root"] for model in report["models"]} >= {"ES", "CL", "GC"}


@pytest.mark.parametrize("path", CURRENT + OLDER, ids=lambda path: f"{path.parent.parent.name}-{path.parent.name}")
def test_a_recorded_session_verifies_and_folds_to_what_it_did(path: Path, tmp_path: Path) -> None:
    expected = json.loads((path.parent / "expected.json").read_text())
    assert fold(copied(path, tmp_path)) == expected


def test_they_hold_what_they_are_kept_for() -> None:
    expected = {path.parent.name: json.loads((path.parent / "expected.json").read_text()) for path in CURRENT}
    for name, types in (
        ("demo", {"HistoryLoaded", "ContractRolled", "VetoScored", "OrderRequested", "FillAssumed"}),
        (
            "crashed",
            {"VetoScored", "OrderExpired", "OrderRejected", "FillAssumed", "ActorRestarted", "SessionClosed"},
        ),
    ):
        assert types <= set(expected[name]["events"]), name
    assert expected["crashed"]["status"] == "closed"
    assert expected["crashed"]["events"]["ActorRestarted"] >= 5
