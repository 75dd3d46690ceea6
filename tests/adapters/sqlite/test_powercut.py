"""Power cuts and failing syncs under the real writer: what was acknowledged is there, and the file is a prefix."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile, file_sha256, journal_entries
from domain.errors import JournalError
from tests.adapters.sqlite.powercut import Op, cuts, read_trace, shim, under_shim
from tests.builders import CODEC

CHECKOUT = Path(__file__).parents[3]

WRITE_SESSIONS = """
import os, pathlib, random, sys, threading
from adapters.sqlite.directory import SqliteJournals
from domain.events import SafeStopRequested, SessionClosed
from tests.builders import CODEC, Record

directory, publishes, size = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance, journals = random.Random(1), SqliteJournals(directory, CODEC)
acks = os.open(directory / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in (1, 2):
    path, record, failed = journals.create(f"2024-05-0{number}", 1), Record(), threading.Event()
    writer = journals.writer(path, durable_seq=0, on_failure=lambda error: failed.set(), before_commit=lambda: None)
    writer.start()
    for place in range(publishes):
        texts = [chance.randbytes(chance.randrange(size) // 2).hex() for _ in range(chance.randint(1, 4))]
        events = [SafeStopRequested(reason=text) for text in texts]
        if place == publishes - 1:
            events.append(SessionClosed(events=0, decisions=0, orders=0, head=""))
        publish = [record.put(event) for event in events]
        done = threading.Event()
        writer.append(publish)
        writer.when_durable(publish[-1].seq, done.set)
        while not done.wait(0.01) and not failed.is_set():
            pass
        if failed.is_set():
            sys.exit(f"failed {place}")
        last = publish[-1]
        os.write(acks, f"{path.name} {last.seq} {last.hash.hex()}\\n".encode())
    writer.stop()
    os.write(acks, f"{path.name} sealed {journals.seal(path)}\\n".encode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim(tmp_path_factory.mktemp("shim"))


def write_sessions(library: Path, place: Path, *, publishes: int, size: int, **more: str) -> tuple[str, list[Op]]:
    """Run the program that writes two sessions; what it said at its end, and its trace."""
    directory, trace = place / "journal", place / "trace"
    directory.mkdir(parents=True)
    ended = subprocess.run(
        [sys.executable, "-c", WRITE_SESSIONS, str(directory), str(publishes), str(size)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), **under_shim(library, directory, trace, **more)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return ended.stderr.strip(), read_trace(trace)


def acknowledged(ops: list[Op], point: int) -> tuple[dict[str, int], dict[str, str], list[str]]:
    """What was acknowledged before `point`: last seq by file, sha256 by sealed file; and all lines."""
    acks = next((op.inode for op in ops if op.kind == "C" and op.path.endswith("/acks")), None)
    lines = [op.data.decode().split() for op in ops[:point] if op.kind == "W" and op.inode == acks]
    seqs = {name: int(seq) for name, seq, _ in lines if seq != "sealed"}
    sealed = {name: digest for name, seq, digest in lines if seq == "sealed"}
    return seqs, sealed, [" ".join(line) for line in lines]


def truth_of(directory: Path) -> dict[str, list[bytes]]:
    """The hash after each seq, from 0, of every file."""
    truth = {}
    for entry in journal_entries(directory):
        with JournalFile(entry.path, CODEC) as journal:
            truth[entry.path.name] = [bytes(32), *(row[12] for row in journal.proven())]
    return truth


@pytest.mark.parametrize(
    ("publishes", "size", "count"),
    [(25, 3_000, 80), pytest.param(400, 3_000, 2_000, marks=pytest.mark.soak),
     # The log grows beyond what is folded back into the file while the session runs.
     pytest.param(250, 60_000, 500, marks=pytest.mark.soak)],
)  # fmt: skip
def test_after_a_power_cut_every_acknowledged_row_is_there_and_the_file_is_a_prefix(
    library: Path, tmp_path: Path, publishes: int, size: int, count: int
) -> None:
    said, ops = write_sessions(library, tmp_path, publishes=publishes, size=size)
    assert said == ""
    truth = truth_of(tmp_path / "journal")
    points = random.Random(2).choices(range(len(ops) + 1), k=count)
    # Creating and sealing are few operations, and the most delicate: a cut around each, several times.
    seals = [at for at, op in enumerate(ops, start=1) if b" sealed " in op.data]
    points += [min(point, len(ops)) for at in seals for point in range(at - 12, at + 12)] * (1 + count // 500)
    lost = 0
    for point, disk in cuts(ops, tmp_path / "journal", tmp_path / "disks", points, seed=3):
        seqs, sealed, _ = acknowledged(ops, point)
        SqliteJournals(disk, CODEC).release()  # as the next start does, before anything is read
        for name, digest in sealed.items():
            assert file_sha256(disk / name) == digest, f"{name} after {point} operations"
        found = {entry.path.name: entry.path for entry in journal_entries(disk)}
        assert found.keys() >= seqs.keys(), f"a file is not there after {point} operations"
        for name, path in found.items():
            with JournalFile(path, CODEC) as journal:
                events, head = journal.verify(), journal.head()
            assert events >= seqs.get(name, 0), f"{name} lost what was acknowledged, after {point} operations"
            assert head.hash == truth[name][events]
            lost += events < len(truth[name]) - 1
    print(f"{len(ops)} operations, {count} cuts, {lost} files without their end")
    assert lost > count / 10


def test_the_shim_finds_a_writer_that_does_not_wait_for_the_disk(library: Path, tmp_path: Path) -> None:
    """What the test above would say of a journal without its syncs: rows that were acknowledged are lost."""
    _, ops = write_sessions(library, tmp_path, publishes=25, size=3_000)
    careless = [op for op in ops if op.kind != "S"]
    lost = 0
    for point, disk in cuts(careless, tmp_path / "journal", tmp_path / "disks", list(range(200, 400, 10)), seed=3):
        seqs, _, _ = acknowledged(careless, point)
        for name, seq in seqs.items():
            try:
                with JournalFile(disk / name, CODEC) as journal:
                    lost += journal.verify() < seq
            except JournalError:
                lost += 1
    assert lost > 0


# ---------------------------------------------------------------- the disk says no


def test_at_whichever_sync_the_disk_fails_nothing_is_acknowledged_that_is_not_there(
    library: Path, tmp_path: Path
) -> None:
    assert_failed_syncs_are_told(library, tmp_path, [2, 14, 40])


@pytest.mark.soak
def test_at_every_sync_of_two_sessions_the_disk_may_fail(library: Path, tmp_path: Path) -> None:
    assert_failed_syncs_are_told(library, tmp_path, range(1, 90))


def assert_failed_syncs_are_told(library: Path, place: Path, calls: Iterable[int]) -> None:
    told = Counter[str]()
    for call in calls:
        said, ops = write_sessions(library, place / str(call), publishes=25, size=3_000, CUT_FAIL_SYNC=str(call))
        # Power goes at once: only what was synced is left.
        for _, disk in cuts(ops, place / str(call) / "journal", place / str(call) / "disk", [len(ops)], seed=call):
            SqliteJournals(disk, CODEC).release()
            seqs, _, _ = acknowledged(ops, len(ops))
            for name, seq in seqs.items():
                with JournalFile(disk / name, CODEC) as journal:
                    assert journal.verify() >= seq, f"{name} after sync {call} failed"
        # A failed checkpoint loses nothing (its rows are in the log) and is done again: the program goes on.
        how = re.search(r"^failed|domain\.errors\.(OperatorError|JournalWriteFailed)|^$", said)
        assert how, said
        told[how[0] or "went on"] += 1
    print(dict(told))


def test_a_read_only_directory_is_refused_with_what_to_do(library: Path, tmp_path: Path) -> None:
    said, _ = write_sessions(library, tmp_path, publishes=1, size=100, CUT_READ_ONLY="1")
    assert "OperatorError" in said
    assert "cannot write here: Read-only file system\n  fix: give journal_dir a writable directory" in said
