"""Which file a start goes on with, as far as it depends on the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.machines import MachineParts
from actors.opening import LivePlan, OpenedFile, Opener
from adapters.calendar import CmeCalendar
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import file_name
from domain.events import SessionOpened, StateCarried
from domain.veto import ModelRecord
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, START, at, opened_session, write_journal

MODEL = ModelRecord(root="ES", digest="ab" * 32, feature_set="v2", features=("price_usd",), threshold=0.5)
REFUSED = ModelRecord(root="NQ", refusal="missing")


class Desk:
    """A journal directory with one unfinished file that was recorded with MODEL and REFUSED."""

    def __init__(self, directory: Path, parts: MachineParts) -> None:
        self.parts = parts
        file = SessionFile(parts, models=(MODEL, REFUSED))
        file.trade(0)
        file.tick(1)
        self.journals = SqliteJournals(directory, CODEC)
        self.path = write_journal(directory / file_name("2024-05-01", 1), file.record.envelopes)
        self.folded: list[SessionOpened] = []

    def start(self, *models: ModelRecord) -> OpenedFile:
        """Start the same program and settings with these models."""
        opened = opened_session()
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
