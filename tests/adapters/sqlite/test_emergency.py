"""The emergency file: a barrier when the journal's disk has failed, and the journal's end at the next start."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.emergency import FILE_NAME, RESERVED_BYTES, EmergencyFile
from adapters.sqlite.journal import JournalFile
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed, OperatorError
from domain.events import ClockTicked, SafeStopRequested, SessionStopped, TradesReceived
from domain.ports import RunningWriter
from tests.builders import CODEC, Record, at, opened_session, trades_of

PATIENCE_S = 20.0


class Disk:
    """A journal directory whose disk can be broken, and the session that is written to it."""

    def __init__(self, place: Path, *, is_empty: bool = True) -> None:
        self.journals = SqliteJournals(place / "journal", CODEC, emergency_dir=place / "emergency")
        self.file = place / "journal" / "2024-05-01.db"
        self.record = Record()
        self.is_broken = False
        self.failed = threading.Event()
        if is_empty:
            self.journals.create("2024-05-01", 1)
        self.writer: RunningWriter = self.journals.writer(
            self.file, durable_seq=0, on_failure=lambda error: self.failed.set(), before_commit=self._commit
        )

    def _commit(self) -> None:
        if self.is_broken:
            raise sqlite3.OperationalError("disk I/O error")

    def put(self, *events: ClockTicked | SafeStopRequested | SessionStopped) -> Envelope:
        envelopes = [self.record.put(event) for event in events]
        self.writer.append(envelopes)
        return envelopes[-1]

    def barrier(self, seq: int) -> threading.Event:
        done = threading.Event()
        self.writer.when_durable(seq, done.set)
        return done

    def broken_after_two(self) -> Envelope:
        """Two events on disk, a batch and a third event that did not get there; the third."""
        self.writer.start()
        self.writer.append([self.record.put(opened_session()), self.record.put(TICK)])
        assert self.barrier(2).wait(PATIENCE_S)
        self.is_broken = True
        self.writer.append([self.record.put(TradesReceived(trades=trades_of(("ESM4", at(1), 1, 2))))])
        left = self.put(TICK)
        assert self.failed.wait(PATIENCE_S)
        return left


TICK = ClockTicked(ts=at(0), watermark=at(0))


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes behind this offset fail, of any file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def on_file(path: Path) -> list[tuple[int, str]]:
    with JournalFile(path, CODEC) as journal:
        journal.verify()
        return [(envelope.seq, envelope.type) for envelope in journal.envelopes()]


def test_what_waits_for_a_failed_disk_goes_on_once_the_emergency_file_has_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    left = disk.broken_after_two()
    waiting = disk.barrier(left.seq)
    assert not waiting.is_set(), "durable before anything was written"
    disk.writer.fall_back()
    assert waiting.is_set()
    later = disk.put(SafeStopRequested(reason="disk"))
    assert disk.barrier(later.seq).is_set()
    lines = (tmp_path / "emergency" / FILE_NAME).read_bytes().partition(b"\0")[0].splitlines()
    assert len(lines) == 1 + 3, "it names the journal and holds what that lacks"


def test_the_next_start_takes_the_end_of_the_session_into_its_journal(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.put(SafeStopRequested(reason="disk"), SessionStopped(reason="disk", positions=()))
    disk.writer.stop()
    disk.journals.release()
    assert [seq for seq, _ in on_file(disk.file)] == [1, 2]

    again = Disk(tmp_path, is_empty=False)
    assert [type for _, type in on_file(disk.file)[2:]] == [
        "TradesReceived",
        "ClockTicked",
        "SafeStopRequested",
        "SessionStopped",
    ]
    with JournalFile(disk.file, CODEC) as journal:
        assert journal.head().status == "stopped"
    assert [path.name for path in sorted((tmp_path / "emergency").iterdir())] == [
        "2024-05-01.db.3.imported.jsonl",
        FILE_NAME,
    ]
    again.journals.release()
    Disk(tmp_path, is_empty=False).journals.release()  # nothing is taken in twice


def test_a_line_that_a_crash_has_cut_off_was_never_a_barrier(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.writer.stop()
    disk.journals.release()
    file = tmp_path / "emergency" / FILE_NAME
    whole = file.read_bytes().rstrip(b"\0")
    file.write_bytes(whole[:-5] + bytes(5))
    Disk(tmp_path, is_empty=False).journals.release()
    assert [seq for seq, _ in on_file(disk.file)] == [1, 2, 3]


def test_a_commit_that_reached_the_disk_after_all_is_not_repeated(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.writer.stop()
    disk.journals.release()
    file = tmp_path / "emergency" / FILE_NAME
    copy = file.read_bytes()
    Disk(tmp_path, is_empty=False).journals.release()
    before = on_file(disk.file)
    file.write_bytes(copy)
    Disk(tmp_path, is_empty=False).journals.release()
    assert on_file(disk.file) == before


@pytest.mark.parametrize("damage", ["journal", "line", "no line", "missing"])
def test_what_does_not_continue_the_journal_refuses_the_start(tmp_path: Path, damage: str) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.writer.stop()
    disk.journals.release()
    file = tmp_path / "emergency" / FILE_NAME
    match damage:
        case "journal":
            disk.file.unlink()
            Disk(tmp_path / "other").journals.release()
            (tmp_path / "other" / "journal" / "2024-05-01.db").rename(disk.file)
        case "line":
            file.write_bytes(file.read_bytes().replace(b"ClockTicked", b"EntriesOpen"))
        case "no line":
            file.write_bytes(file.read_bytes().replace(b'"ClockTicked"', b"ClockTicked"))
        case _:
            disk.file.unlink()
    with pytest.raises(OperatorError) as refused:
        Disk(tmp_path, is_empty=False)
    assert refused.value.exit_code == 78
    assert str(file) in str(refused.value)
    assert "compare with the broker" in refused.value.fix


def test_a_full_disk_is_no_reason_for_the_service_manager_to_give_up(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "first")
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.writer.stop()
    disk.journals.release()
    later = shutil.copytree(tmp_path / "first", tmp_path / "later")
    with no_file_beyond(1_000), pytest.raises(OperatorError, match="cannot be taken into") as refused:
        Disk(tmp_path / "first", is_empty=False)
    assert refused.value.exit_code == 70
    Disk(later, is_empty=False).journals.release()
    assert [seq for seq, _ in on_file(later / "journal" / disk.file.name)] == [1, 2, 3, 4]
    (imported,) = (later / "emergency").glob("*.imported.jsonl")
    assert imported.stat().st_size < 10_000, "the reserved room is the new file's"


def test_what_failed_half_way_stands_once_when_it_is_tried_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    written = (tmp_path / "emergency" / FILE_NAME).read_bytes().index(b"\0")
    stop = disk.put(TICK, SafeStopRequested(reason="disk"))
    with no_file_beyond(written + 300):
        assert not disk.barrier(stop.seq).is_set()
    reserved = (tmp_path / "emergency" / FILE_NAME).read_bytes()
    assert (len(reserved), reserved[written:].strip(b"\0")) == (RESERVED_BYTES, b""), "undone, and its room kept"
    assert disk.barrier(stop.seq).is_set()
    disk.writer.stop()
    disk.journals.release()
    Disk(tmp_path, is_empty=False).journals.release()
    assert [type for _, type in on_file(disk.file)[4:]] == ["ClockTicked", "SafeStopRequested"]


def test_one_process_holds_the_emergency_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with pytest.raises(OperatorError, match="another process holds"):
        EmergencyFile(tmp_path / "emergency", tmp_path / "journal")
    disk.journals.release()


def test_without_a_place_for_it_nothing_becomes_durable_any_more(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    left = disk.broken_after_two()
    waiting = disk.barrier(left.seq)
    disk.journals.release()  # the file is closed: writing to it fails like a disk
    disk.writer.fall_back()
    assert not waiting.is_set()
    with pytest.raises(JournalWriteFailed):
        disk.writer.stop()


def test_an_emergency_file_that_fails_later_completes_no_barrier(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.broken_after_two()
    disk.writer.fall_back()
    disk.journals.release()  # its disk has failed as well
    later = disk.put(SafeStopRequested(reason="disk"))
    assert not disk.barrier(later.seq).is_set()
    with pytest.raises(JournalWriteFailed, match="as well"):
        disk.writer.stop()
