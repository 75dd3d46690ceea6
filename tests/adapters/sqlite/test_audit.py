"""A directory of session files: what was done to one of them shows in it, or in what the next one says of it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.sqlite.archive_record import Archived, record_archived
from adapters.sqlite.audit import Audited, audit, audit_file
from adapters.sqlite.journal import JournalFile, create_journal, file_sha256
from domain.errors import OperatorError
from tests.adapters.sqlite.chains import Left, four_files, left_file, record_of
from tests.builders import CODEC, write_journal


def problems(directory: Path) -> dict[str, tuple[str, ...]]:
    return {found.path.name: found.problems for found in audit(directory, CODEC) if found.problems}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return four_files(tmp_path_factory.mktemp("written") / "journal")


@pytest.fixture
def files(written: list[Path], tmp_path: Path) -> list[Path]:
    """A copy of them, to be changed."""
    place = shutil.copytree(written[0].parent, tmp_path / "journal")
    return [place / path.name for path in written]


def change(path: Path, *statements: str) -> None:
    """As someone would who drops the triggers first."""
    path.chmod(0o644)
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for sql in (*(f"DROP TRIGGER {name}" for name in triggers), *statements):
        connection.execute(sql)
    connection.close()


def test_what_was_left_in_order_is_clean_and_attested_by_what_follows(files: list[Path]) -> None:
    found = list(audit(files[0].parent, CODEC))
    assert [f.path for f in found] == files
    assert [(f.status, f.is_attested, f.problems) for f in found] == [
        ("closed", True, ()), ("open", True, ()), ("closed", True, ()), ("open", False, ()),
    ]  # fmt: skip


def test_of_one_session_only_its_files_are_looked_at_and_nobody_asks_where_it_comes_from(files: list[Path]) -> None:
    files[0].unlink()
    change(files[3], "UPDATE events SET ts_ns = 0 WHERE seq = 5")
    found = list(audit(files[0].parent, CODEC, session="2024-05-02"))
    assert [(f.path, f.problems) for f in found] == [(files[1], ()), (files[2], ())]


CUT_BACK = (
    "DELETE FROM events WHERE seq > 5",
    "UPDATE head SET seq = 5, hash = (SELECT hash FROM events WHERE seq = 5), status = 'open'",
)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_cut_back_to_an_earlier_end_holds_alone_and_is_found_by_the_next(files: list[Path], place: int) -> None:
    change(files[place], *CUT_BACK)
    assert audit_file(files[place], CODEC).problems == ()
    assert problems(files[0].parent) == {
        files[place].name: (f"its end (seq 5) is not the one that {files[place + 1].name} follows",)
    }


def test_a_change_outside_the_rows_is_found_by_the_digest_in_the_next_file(files: list[Path]) -> None:
    change(files[2], "DROP VIEW bars")
    assert audit_file(files[2], CODEC).problems == ()
    assert problems(files[0].parent) == {files[2].name: ("its bytes are not those that 2024-05-03.db names (sha256)",)}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_that_was_taken_away_is_missed(files: list[Path], place: int) -> None:
    files[place].chmod(0o644)
    for path in files[0].parent.glob(f"{files[place].name}*"):
        path.unlink()
    ((name, (said,)),) = problems(files[0].parent).items()
    if place == 0:
        assert (name, said) == (
            files[1].name, "it follows 2024-05-01.db, which is neither here nor on record as archived",
        )  # fmt: skip
    else:
        told = f"{files[place + 1].name}, which stands after it, follows {files[place].name}"
        assert (name, said) == (files[place - 1].name, told)


def test_a_file_put_in_between_is_no_link(files: list[Path], tmp_path: Path) -> None:
    left_file(files[0].parent, None, day=1, segment=3)
    found = problems(files[0].parent)
    assert found == {
        "2024-05-02.2.db": ("2024-05-02.3.db, which stands after it, follows no file",),
        "2024-05-02.3.db": ("2024-05-03.db, which stands after it, follows 2024-05-02.2.db",),
    }


def test_two_files_that_changed_names_are_found(files: list[Path], tmp_path: Path) -> None:
    files[0].rename(tmp_path / "other")
    files[2].rename(files[0])
    (tmp_path / "other").rename(files[2])
    assert problems(files[0].parent)


def test_a_removed_file_that_is_on_record_as_archived_is_not_missed(files: list[Path]) -> None:
    entry = Archived(file=files[0].name, sha256=file_sha256(files[0]), target="elsewhere")
    record_archived(files[0].parent, entry)
    files[0].unlink()
    assert problems(files[0].parent) == {}
    record_archived(files[0].parent, Archived(file=files[0].name, sha256="00", target="elsewhere"))
    assert problems(files[0].parent) == {
        files[1].name: ("it follows another 2024-05-01.db than the one that was archived (sha256)",)
    }


def test_the_newest_sealed_file_is_attested_by_the_archive(tmp_path: Path) -> None:
    left_file(tmp_path, None)
    path = tmp_path / "2024-05-01.db"
    record_archived(tmp_path, Archived(file=path.name, sha256=file_sha256(path), target="elsewhere"))
    assert problems(tmp_path) == {}
    change(path, "DROP VIEW bars")
    assert problems(tmp_path) == {path.name: ("its bytes are not those that were archived (sha256)",)}


def test_a_record_of_the_archive_that_cannot_be_read_is_the_operators_to_mend(files: list[Path]) -> None:
    (files[0].parent / "archived.jsonl").write_text("{}\n")
    with pytest.raises(OperatorError, match=r"archived\.jsonl:1"):
        list(audit(files[0].parent, CODEC))


def test_a_file_without_its_first_commit_breaks_no_link(files: list[Path]) -> None:
    create_journal(files[0].parent / "2024-05-04.db")
    assert problems(files[0].parent) == {}


def test_a_finished_demo_that_begins_anew_breaks_no_link(tmp_path: Path) -> None:
    left_file(tmp_path, None)
    record = record_of(None, day=1)
    write_journal(tmp_path / "2024-05-02.db", record.envelopes)
    assert problems(tmp_path) == {"2024-05-01.db": ("2024-05-02.db, which stands after it, follows no file",)}


def test_a_status_that_is_not_that_of_the_last_event_is_found(files: list[Path]) -> None:
    change(files[3], "UPDATE head SET status = 'closed'")
    change(files[0], "UPDATE head SET status = 'open'")
    found = {f.path: f for f in audit(files[0].parent, CODEC)}
    assert found[files[3]].problems == ("the head says closed, the last event is ClockTicked (seq 8)",)
    assert found[files[0]].problems == ("the head says open, the last event is SessionClosed (seq 9)",)


# ---------------------------------------------------------------- single bits


def rows_of(path: Path) -> list[object]:
    """The rows as SQLite gives them, texts as bytes, up to where it gives no more, and what it says there."""
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda raw: ("text", raw)
    found: list[object] = []
    try:
        found.extend(connection.execute("SELECT * FROM events ORDER BY seq"))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        found.append(str(error))
    finally:
        connection.close()
    return found


def flipped(path: Path, bits: list[int], check: Callable[[int], None]) -> None:
    """Turn one bit of the file after the other, look, and turn it back."""
    path.chmod(0o644)
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            file.seek(bit // 8)
            byte = file.read(1)
            for value in (bytes([byte[0] ^ 1 << bit % 8]), byte):
                file.seek(bit // 8)
                file.write(value)
                if value != byte:
                    check(bit)


def flip_bits(path: Path, count: int) -> dict[str, int]:
    """`count` single bits of a sealed file that has a follower: what each was found by."""
    truth = rows_of(path)
    found_by = {"seq": 0, "digest": 0, "unreadable": 0}

    def check(bit: int) -> None:
        found: Audited = next(iter(audit(path.parent, CODEC, session=path.name[:10])))
        assert found.problems, f"bit {bit} was not found"
        rows = rows_of(path)
        first = next((i for i, row in enumerate(truth, start=1) if i > len(rows) or rows[i - 1] != row), None)
        if first is None and len(rows) > len(truth):
            first = len(truth) + 1
        if first is not None:
            # A row that was changed, or that SQLite cannot give: by its seq. Without any row: the file is none.
            said = found.problems[0]
            assert f"seq {first}" in said or (first == 1 and found.is_unreadable), (bit, first, said)
            found_by["seq" if not found.is_unreadable else "unreadable"] += 1
        else:
            found_by["digest"] += 1

    bits = random.Random(1).sample(range(path.stat().st_size * 8), count)
    flipped(path, bits, check)
    return found_by


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_flipped_bit_is_found_with_its_seq_or_by_the_digest_in_the_next_file(files: list[Path], count: int) -> None:
    found_by = flip_bits(files[0], count)
    print(found_by)
    assert min(found_by.values()) > 5


@pytest.mark.soak
def test_a_flipped_bit_of_a_whole_session_is_found_too(tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "replay" / "sessions" / "crashed" / "2024-05-01.db"
    sealed = Path(shutil.copy(golden, tmp_path))
    with JournalFile(sealed, CODEC) as journal:
        head = journal.head().hash.hex()
    left_file(tmp_path, Left(session="2024-05-01", segment=1, head=head, sha256=file_sha256(sealed)), day=1)
    found_by = flip_bits(sealed, 2_000)
    print(found_by)
    assert found_by["seq"] > 500
