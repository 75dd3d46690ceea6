"""A session is opened while our clock and the feed's time differ: what is held is watched, nothing else begins."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.machines import MachineParts
from actors.opening import CLOCK_TOLERANCE, EXIT_TRY_AGAIN, RECORDED_BEHIND, LivePlan, OpenedFile, Opener
from adapters.calendar import CmeCalendar
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile, file_name
from domain.errors import OperatorError
from domain.events import HistoryLoaded, OrderNotSent, SessionClosed, SessionOpened
from domain.ports import Mapped
from domain.sessions import to_nanos
from domain.units import HOUR, SECOND, Nanos
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, opened_session, write_journal

FEED = to_nanos(dt.datetime(2024, 5, 1, 22, 30, tzinfo=dt.UTC))
"""Half an hour into the session of May 2nd."""


@attrs.frozen
class Resolver:
    """A feed that says which contract ES is, and what time it is."""

    now: Nanos

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        return {"ES.v.0": Mapped(symbol="ES.v.0", raw_symbol="ESM4", instrument_id=1, ts=self.now)}, self.now

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> Any:
        raise AssertionError("an opening does not connect")


@attrs.define
class Desk:
    """A directory with the finished session of May 1st, or with nothing."""

    directory: Path
    parts: MachineParts
    journals: SqliteJournals
    clock: Nanos = Nanos(0)
    """The system's, as the process has read it."""
    true_clock: Nanos | None = None
    """What it is now, where it has been set meanwhile."""

    def leave(self, what: str) -> Path:
        """May 1st ends with nothing, with a position, or with an exit that waits to be sent again."""
        file = SessionFile(self.parts)
        if what != "nothing":
            file.trade(0)
            file.tick(1)
            file.answer()
        if what == "an exit":
            for minute in range(1, 5):
                file.trade(minute)
                file.tick(minute + 1)
            file.answer(OrderNotSent)
        file.put(SessionClosed(events=1, decisions=0, orders=0, head=""), source="session")
        return write_journal(self.directory / file_name("2024-05-01", 1), file.record.envelopes)

    def opener(self) -> Opener:
        opened = opened_session(clock="system")
        names = {field.name for field in attrs.fields(LivePlan)} & {field.name for field in attrs.fields(SessionOpened)}
        return Opener(
            plan=LivePlan(**{name: getattr(opened, name) for name in names}),
            journals=self.journals,
            calendar=CmeCalendar(),
            source=Resolver(FEED),
            parts_of=lambda opened: self.parts,
            load_history=lambda session: HistoryLoaded(tables=()),
            now=lambda: self.clock,
            read_clock=self._read_clock,
        )

    def _read_clock(self) -> None:
        self.clock = self.true_clock or self.clock


@pytest.fixture
def desk(tmp_path: Path, parts: MachineParts) -> Iterator[Desk]:
    desk = Desk(tmp_path, parts, SqliteJournals(tmp_path, CODEC))
    yield desk
    desk.journals.release()


WRONG = Nanos(CLOCK_TOLERANCE + SECOND)


@pytest.mark.parametrize(
    ("left", "skew"),
    [(None, WRONG), (None, Nanos(-54 * 365 * 24 * HOUR)), ("nothing", HOUR), ("nothing", Nanos(-WRONG))],
)
def test_without_anything_held_a_wrong_clock_is_waited_for(desk: Desk, left: str | None, skew: Nanos) -> None:
    if left is not None:
        desk.leave(left)
    desk.clock = Nanos(FEED + skew)
    with pytest.raises(OperatorError, match=r"(?s)clock: the feed's time is .*set the system's clock") as no:
        desk.opener().first()
    assert no.value.exit_code == EXIT_TRY_AGAIN, "a service manager starts it again"
    assert len(desk.journals.entries()) == (left is not None)


@pytest.mark.parametrize("left", [None, "an exit"])
def test_a_feed_of_another_day_is_recorded_and_never_traded_as_if_it_were_now(desk: Desk, left: str | None) -> None:
    if left is not None:
        desk.leave(left)
    desk.clock = Nanos(FEED + RECORDED_BEHIND + SECOND)
    with pytest.raises(OperatorError, match="set clock: feed") as no:
        desk.opener().first()
    # What is held waits for a clock that is set, and a service manager tries again meanwhile.
    assert no.value.exit_code == (78 if left is None else EXIT_TRY_AGAIN)


def opens_of(file: OpenedFile) -> tuple[str, int]:
    opened, _, carried = file.opening
    assert opened == file.opened
    return file.path.name, len(carried.positions) + len(carried.orders)  # type: ignore[union-attr]  # that event


@pytest.mark.parametrize(
    ("left", "skew"),
    [
        ("a position", Nanos(23 * HOUR)),
        ("a position", Nanos(-54 * 365 * 24 * HOUR)),
        ("an exit", WRONG),
        ("an exit", Nanos(-WRONG)),
    ],
)
def test_what_is_held_is_gone_on_with_in_the_session_that_the_feed_is_in(desk: Desk, left: str, skew: Nanos) -> None:
    """The clock that is 23 hours ahead stands in the one after it."""
    desk.leave(left)
    desk.clock = Nanos(FEED + skew)
    file = desk.opener().first()
    assert opens_of(file) == ("2024-05-02.db", 1 if left == "a position" else 2)
    assert file.recorded_ns == FEED, "a clock that is behind goes on from there"


def test_by_a_right_clock_only_what_waits_to_be_sent_says_where_time_goes_on(desk: Desk) -> None:
    """It was told to wait by the clock of that time, which may have been ahead."""
    desk.clock = Nanos(FEED + CLOCK_TOLERANCE)
    path = desk.leave("an exit")
    with JournalFile(path, CODEC) as journal:
        last = max(envelope.ts_ns for envelope in journal.envelopes())
    assert desk.opener().first().recorded_ns == last


def test_a_clock_that_was_set_while_the_program_ran_is_read_before_the_next_session(desk: Desk) -> None:
    path = desk.leave("nothing")
    desk.clock, desk.true_clock = Nanos(FEED + HOUR), FEED
    file = desk.opener().next_after(path, desk.journals.seal(path))
    assert (opens_of(file), file.recorded_ns) == (("2024-05-02.db", 0), 0)
