"""The writer: whole publishes, in groups, and after a failure nothing more."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.sqlite.journal import JournalFile, create_journal
from adapters.sqlite.writer import COMMIT_INTERVAL_S, Writer
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed
from domain.events import ClockTicked, SessionClosed, SessionStopped
from tests.builders import CODEC, Record, at, opened_session, write_journal

PATIENCE_S = 20.0


class Trial:
    """A writer on a file of its own, and what became of it."""

    def __init__(self, path: Path, *, before_commit: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.record = Record()
        self.failures: list[JournalWriteFailed] = []
        self.failed = threading.Event()
        create_journal(path)
        self.writer = Writer(path, on_failure=self._on_failure, before_commit=before_commit)

    def _on_failure(self, error: JournalWriteFailed) -> None:
        self.failures.append(error)
        self.failed.set()

    def ticks(self, count: int) -> list[Envelope]:
        """One publish of `count` events."""
        return [self.record.put(ClockTicked(ts=at(0), watermark=at(0))) for _ in range(count)]

    def on_disk(self) -> int:
        with JournalFile(self.path, CODEC) as journal:
            count = journal.verify()
            assert journal.head().seq == count
            return count

    def barrier(self, seq: int) -> threading.Event:
        done = threading.Event()
        self.writer.when_durable(seq, done.set)
        return done


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    trial = Trial(tmp_path / "2024-05-01.db")
    yield trial
    if trial.writer._thread.is_alive():
        trial.writer.stop()


def test_what_is_appended_is_pending_until_it_is_on_disk(trial: Trial) -> None:
    envelopes = trial.ticks(3)
    trial.writer.append(envelopes)
    assert trial.writer.pending() == envelopes
    assert trial.writer.backlog == 3
    trial.writer.start()
    assert trial.barrier(3).wait(PATIENCE_S)
    assert (trial.writer.pending(), trial.writer.backlog, trial.writer.stalled_s) == ([], 0, 0.0)
    assert trial.on_disk() == 3


def test_a_barrier_that_is_passed_already_completes_at_once(trial: Trial) -> None:
    assert trial.barrier(0).is_set()
    trial.writer.start()
    trial.writer.append(trial.ticks(2))
    assert trial.barrier(2).wait(PATIENCE_S)
    assert trial.barrier(1).is_set()


def test_a_barrier_completes_only_after_its_commit(trial: Trial) -> None:
    seen: list[int] = []
    for _ in range(3):
        trial.writer.append(trial.ticks(1))
    done = threading.Event()
    for seq in (1, 2, 3):
        trial.writer.when_durable(seq, lambda: seen.append(trial.on_disk()))
    trial.writer.when_durable(3, done.set)
    assert not seen
    trial.writer.start()
    assert done.wait(PATIENCE_S)
    assert seen == [3, 3, 3]


def test_a_barrier_for_what_comes_later_waits_for_it(trial: Trial) -> None:
    trial.writer.start()
    late = trial.barrier(2)
    trial.writer.append(trial.ticks(1))
    assert trial.barrier(1).wait(PATIENCE_S)
    assert not late.is_set()
    trial.writer.append(trial.ticks(1))
    assert late.wait(PATIENCE_S)


def test_many_publishes_share_a_commit(tmp_path: Path) -> None:
    commits: list[int] = []
    trial = Trial(tmp_path / "2024-05-01.db", before_commit=lambda: commits.append(trial.writer.backlog))
    for _ in range(500):
        trial.writer.append(trial.ticks(1))
    trial.writer.start()
    trial.writer.stop()
    assert commits == [500]
    assert trial.on_disk() == 500


def test_a_publish_is_never_split_across_commits(tmp_path: Path) -> None:
    # A second thread publishes triples as fast as it can while commits are forced one after the other.
    heads: list[int] = []

    def look() -> None:
        with JournalFile(path, CODEC) as journal:
            heads.append(journal.head().seq)

    path = tmp_path / "2024-05-01.db"
    trial = Trial(path, before_commit=look)
    publishes = [trial.ticks(3) for _ in range(300)]
    trial.writer.start()
    thread = threading.Thread(target=lambda: [trial.writer.append(publish) for publish in publishes])
    thread.start()
    while thread.is_alive():
        trial.barrier(max(heads, default=0) + 1).wait(0.01)
    trial.writer.stop()
    assert trial.on_disk() == 900
    assert not [head for head in heads if head % 3]
    assert heads == sorted(set(heads))


def test_stopping_commits_what_is_pending(trial: Trial) -> None:
    trial.writer.start()
    trial.writer.append(trial.ticks(10))
    trial.writer.stop()
    assert trial.on_disk() == 10


def test_stopping_without_work_ends_at_once(trial: Trial) -> None:
    trial.writer.start()
    trial.writer.stop()
    assert trial.on_disk() == 0


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (SessionStopped(reason="signal"), "stopped"),
        (SessionClosed(events=1, decisions=0, orders=0, head=""), "closed"),
        (ClockTicked(ts=at(1), watermark=at(1)), "open"),
    ],
)
def test_the_head_tells_how_the_file_was_left(tmp_path: Path, last: object, status: str) -> None:
    record = Record()
    record.put(opened_session())
    record.put(last)  # type: ignore[arg-type]
    path = write_journal(tmp_path / "2024-05-01.db", record.envelopes)
    with JournalFile(path, CODEC) as journal:
        assert journal.head().status == status


def test_a_stopped_file_that_goes_on_is_open_again(tmp_path: Path) -> None:
    record = Record()
    record.put(SessionStopped(reason="signal"))
    path = write_journal(tmp_path / "2024-05-01.db", record.envelopes)
    writer = Writer(path, durable_seq=1, on_failure=lambda error: None)
    writer.append([record.put(ClockTicked(ts=at(1), watermark=at(1)))])
    writer.start()
    writer.stop()
    with JournalFile(path, CODEC) as journal:
        assert (journal.verify(), journal.head().status) == (2, "open")


# ---------------------------------------------------------------- failure


def assert_failed(trial: Trial, *, kept: int, publish: list[Envelope]) -> None:
    """The failed publish left nothing behind, completed nothing, and is told to whoever asks."""
    done = trial.barrier(publish[-1].seq)
    trial.writer.append(publish)
    assert trial.failed.wait(PATIENCE_S)
    assert len(trial.failures) == 1
    assert trial.writer.error is trial.failures[0]
    with pytest.raises(JournalWriteFailed, match="2024-05-01"):
        trial.writer.stop()
    assert not done.is_set()
    assert trial.on_disk() == kept
    # Nothing is tried again, and nobody is told otherwise later.
    trial.writer.append(trial.ticks(1))
    assert not trial.barrier(publish[-1].seq).is_set()
    assert trial.barrier(kept).is_set()
    assert trial.writer.pending()[0] is publish[0]
    assert trial.on_disk() == kept


def test_a_closed_file_fails_the_next_commit_and_keeps_the_last(trial: Trial) -> None:
    closed = trial.record.put(SessionClosed(events=0, decisions=0, orders=0, head=""))
    trial.writer.append([closed])
    trial.writer.start()
    assert trial.barrier(1).wait(PATIENCE_S)
    assert_failed(trial, kept=1, publish=trial.ticks(3))


def test_a_gap_fails_the_whole_publish(trial: Trial) -> None:
    trial.writer.start()
    trial.writer.append(trial.ticks(2))
    assert trial.barrier(2).wait(PATIENCE_S)
    first, _, third = trial.ticks(3)
    assert_failed(trial, kept=2, publish=[first, third])


FILL_THE_DISK = """
import pathlib, resource, sys, threading
from adapters.sqlite.writer import Writer
from domain.events import SafeStopRequested
from tests.builders import Record, create_journal

path, record, failed = pathlib.Path(sys.argv[1]), Record(), threading.Event()
create_journal(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # no file may grow beyond
writer = Writer(path, on_failure=lambda error: failed.set())
writer.start()
durable = 0
while not failed.is_set():
    publish = [record.put(SafeStopRequested(reason="x" * 2_000)) for _ in range(3)]
    done = threading.Event()
    writer.append(publish)
    writer.when_durable(publish[-1].seq, done.set)
    while not done.wait(0.05) and not failed.is_set():
        pass
    durable = publish[-1].seq if done.is_set() else durable
print(durable, publish[-1].seq, type(writer.error).__name__)
"""


def test_on_a_full_disk_what_was_committed_stays_and_nothing_after_it_is_promised(tmp_path: Path) -> None:
    path = tmp_path / "2024-05-01.db"
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    durable, asked, error = done.stdout.split()
    assert error == "JournalWriteFailed"
    assert 0 < int(durable) < int(asked)
    with JournalFile(path, CODEC) as journal:
        assert journal.verify() == int(durable)


def test_a_file_that_vanished_is_a_failure_too(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "2024-05-01.db")
    trial.path.unlink()
    trial.writer.append(trial.ticks(1))
    trial.writer.start()
    assert trial.failed.wait(PATIENCE_S)
    with pytest.raises(JournalWriteFailed):
        trial.writer.stop()


def test_whatever_ends_the_thread_is_a_failed_journal(tmp_path: Path) -> None:
    def break_down() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    trial = Trial(tmp_path / "2024-05-01.db", before_commit=break_down)
    trial.writer.start()
    assert_failed(trial, kept=0, publish=trial.ticks(1))


def test_time_does_not_pass_for_a_writer_without_work(trial: Trial) -> None:
    assert trial.writer.stalled_s == 0.0
    trial.writer.append(trial.ticks(1))
    threading.Event().wait(COMMIT_INTERVAL_S / 10)
    assert trial.writer.stalled_s > 0.0
    trial.writer.start()
    trial.writer.stop()
    assert trial.writer.stalled_s == 0.0
