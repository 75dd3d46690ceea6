"""Which file a start goes on with, as far as it depends on the models."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog

from actors.machines import MachineParts
from actors.opening import LivePlan, OpenedFile, Opener
from actors.warm_up import lacking_inputs
from adapters.calendar import CmeCalendar
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import file_name
from adapters.sqlite.repair import repair, replace
from domain.bars import BarTable, Timeframe
from domain.errors import JournalBroken
from domain.events import SessionOpened, StateCarried
from domain.units import HOUR, Nanos
from domain.veto import ModelRecord
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, START, at, bar_of, opened_session, write_journal

MODEL = ModelRecord(root="ES", digest="ab" * 32, feature_set="v2", features=("price_usd",), threshold=0.5)
REFUSED = ModelRecord(root="NQ", refusal="missing")


class Desk:
    """A journal directory with one unfinished file that was recorded with MODEL and REFUSED."""

    def __init__(self, directory: Path, parts: MachineParts, **changes: Any) -> None:
        self.parts = parts
        file = SessionFile(parts, models=(MODEL, REFUSED), **changes)
        file.trade(0)
        file.tick(1)
        self.journals = SqliteJournals(directory, CODEC)
        self.path = write_journal(directory / file_name("2024-05-01", 1), file.record.envelopes)
        self.folded: list[SessionOpened] = []

    def start(self, *models: ModelRecord, **changes: Any) -> OpenedFile:
        """Start the same program and settings with these models."""
        opened = opened_session(**changes)
        names = {field.name for field in attrs.fields(LivePlan)} & {field.name for field in attrs.fields(SessionOpened)}
        plan = LivePlan(**{name: getattr(opened, name) for name in names - {"models"}}, models=models)
        nothing: Any = None  # an unfinished session asks neither the feed nor the vendor
        return Opener(
            plan=plan,
            journals=self.journals,
            calendar=CmeCalendar(),
            source=nothing,
            parts_of=self.parts_of,
            load_history=nothing,
            now=lambda: START,
        ).first()

    def parts_of(self, opened: SessionOpened) -> MachineParts:
        self.folded.append(opened)
        return self.parts


@pytest.fixture
def desk(tmp_path: Path, parts: MachineParts) -> Iterator[Desk]:
    desk = Desk(tmp_path, parts)
    yield desk
    desk.journals.release()


def test_with_the_same_models_the_file_goes_on(desk: Desk) -> None:
    file = desk.start(MODEL, REFUSED)
    assert (file.path, file.opening, file.opened.segment) == (desk.path, (), 1)
    assert desk.folded == []


@pytest.mark.parametrize(
    "models",
    [
        (attrs.evolve(MODEL, digest="cd" * 32), REFUSED),
        (ModelRecord(root="ES", refusal="changed"), REFUSED),
        (MODEL, attrs.evolve(MODEL, root="NQ")),
        (),
    ],
    ids=["replaced", "now refused", "one more", "veto off"],
)
def test_with_other_models_the_session_gets_a_new_segment(desk: Desk, models: tuple[ModelRecord, ...]) -> None:
    file = desk.start(*models)
    assert file.path.name == file_name("2024-05-01", 2)
    opened, _, carried = file.opening
    assert opened == file.opened
    assert (file.opened.segment, file.opened.models) == (2, models)
    # The fold of the old file is made with the models that the old file names.
    assert [folded.models for folded in desk.folded] == [(MODEL, REFUSED)]
    assert isinstance(carried, StateCarried)
    assert [state.root for state in carried.percentiles] == ["ES"]
    assert carried.watermark_ns == at(1)


def test_with_another_shadow_the_session_gets_a_new_segment_and_the_new_shadow_is_on_record(desk: Desk) -> None:
    file = desk.start(MODEL, REFUSED, shadows=(attrs.evolve(MODEL, digest="cd" * 32),))
    assert (file.opened.segment, file.opened.shadows) == (2, (attrs.evolve(MODEL, digest="cd" * 32),))


def test_with_other_libraries_the_session_gets_a_new_segment(desk: Desk) -> None:
    """Another numpy may give a score other last bits."""
    file = desk.start(MODEL, REFUSED, libraries={"python": "3", "numpy": "9"})
    assert (file.path.name, file.opened.segment) == (file_name("2024-05-01", 2), 2)
    assert dict(file.opened.libraries) == {"python": "3", "numpy": "9"}


def table_of(root: str, timeframe: Timeframe, bars: int) -> BarTable:
    found = [bar_of(f"{root}M4", start=Nanos(START + hour * HOUR), length=HOUR) for hour in range(bars)]
    return BarTable.of_bars(root, timeframe, found)


def test_exactly_the_inputs_that_are_too_short_are_named() -> None:
    features = ("price_usd", "es_hourly_return", "es_daily_return", "nq_hourly_z_score")
    models = (attrs.evolve(MODEL, features=features), attrs.evolve(MODEL, root="GC"), REFUSED)
    tables = [table_of("ES", "1h", 2), table_of("ES", "1d", 1), table_of("NQ", "1h", 251), table_of("NQ", "1d", 9)]
    short = dict(lacking_inputs(models, tables, {}))
    assert short.keys() == {"ES", "GC"}
    assert set(short["ES"].split(", ")) == {"ES 1d: 1 of 2", "NQ 1h: 251 of 252"}
    assert short["GC"] == "GC 1h: 0 of 1"
    enough = [table_of("ES", "1h", 2), table_of("ES", "1d", 2), table_of("NQ", "1h", 252), table_of("GC", "1h", 1)]
    assert list(lacking_inputs(models, enough, {})) == []


def test_what_the_models_lack_is_said_when_a_session_opens(desk: Desk) -> None:
    with structlog.testing.capture_logs() as logs:
        desk.start(attrs.evolve(MODEL, features=("price_usd", "es_daily_return")), REFUSED)
    warnings = [(entry["root"], entry["lacking"]) for entry in logs if "lacking" in entry]
    assert warnings == [("ES", "ES 1h: 0 of 1, ES 1d: 0 of 2")]


# ---------------------------------------------------------------- damage


def damage(path: Path) -> None:
    """A row that is not what was written, as someone would leave it who drops the triggers first."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute("UPDATE events SET ts_ns = ts_ns + 1 WHERE seq = 5")
    connection.close()


def test_a_damaged_file_is_not_gone_on_with(desk: Desk) -> None:
    damage(desk.path)
    with pytest.raises(JournalBroken, match=r"2024-05-01\.db: seq 5"):
        desk.start(MODEL, REFUSED)


@pytest.mark.parametrize("content", [b"", b"nothing of ours" * 1_000])
def test_an_older_file_that_cannot_be_read_keeps_nobody_from_what_is_held(desk: Desk, content: bytes) -> None:
    desk.path.with_name("2024-04-30.db").write_bytes(content)
    assert desk.start(MODEL, REFUSED).path == desk.path


@pytest.mark.parametrize(("mode", "unconfirmed"), [("paper", ()), ("live", ("ES", "GC", "NQ"))])
def test_a_repaired_file_gets_a_segment_and_with_money_the_operator_is_asked(
    tmp_path: Path, parts: MachineParts, mode: str, unconfirmed: tuple[str, ...]
) -> None:
    desk = Desk(tmp_path, parts, mode=mode)
    damage(desk.path)
    found = repair(desk.path, tmp_path / "new", CODEC)
    assert found is not None
    replace(desk.path, found.path)
    file = desk.start(MODEL, REFUSED, mode=mode)
    desk.journals.release()
    assert file.path.name == file_name("2024-05-01", 2)
    carried = file.opening[2]
    assert isinstance(carried, StateCarried)
    assert carried.unconfirmed == unconfirmed
