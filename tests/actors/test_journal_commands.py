"""`journal verify | repair | archive` as a person runs them: what they say, what they leave, their exit codes."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from actors.main import cli
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile, file_sha256
from domain.veto import ModelRecord
from tests.adapters.sqlite.chains import four_files, left_file
from tests.builders import CODEC

NAMES = ["2024-05-01.db", "2024-05-02.db", "2024-05-02.2.db", "2024-05-03.db"]

MODEL = ModelRecord(root="ES", digest="ab" * 32, feature_set="v2", features=("price_usd",), threshold=0.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_files(tmp_path_factory.mktemp("written") / "journal")[0].parent


@pytest.fixture
def journal(written: Path, tmp_path: Path) -> Path:
    """A directory of four files, to be changed."""
    return shutil.copytree(written, tmp_path / "journal")


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["journal", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def change(path: Path, *statements: str) -> None:
    path.chmod(0o644)
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for sql in (*(f"DROP TRIGGER {name}" for name in triggers), *statements):
        connection.execute(sql)
    connection.close()


# ---------------------------------------------------------------- verify


def test_a_directory_where_a_file_is_wanted_is_called_one(journal: Path) -> None:
    result = call("events", journal)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        2,
        f"error: {journal}: is a directory, give one of its files",
    )


def test_a_clean_directory_is_told_file_by_file(journal: Path) -> None:
    result = call("verify", journal)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "2024-05-01.db: 9 events, chain and head hold, attested by the next file, status closed",
        "2024-05-02.db: 8 events, chain and head hold, attested by the next file, status open",
        "2024-05-02.2.db: 9 events, chain and head hold, attested by the next file, status closed",
        "2024-05-03.db: 8 events, chain and head hold, status open",
    ]


def test_everything_that_is_wrong_is_told_and_the_rest_is_looked_at(journal: Path) -> None:
    change(journal / NAMES[0], "UPDATE events SET ts_ns = 0 WHERE seq = 5")
    change(journal / NAMES[2], "DROP VIEW bars")
    result = call("verify", journal)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [NAMES[1], NAMES[3]]
    assert f"{NAMES[0]}: seq 5: the hash chain does not hold\n  fix: trust nothing from seq 5 on" in result.stderr
    assert f"{NAMES[2]}: its bytes are not those that 2024-05-03.db names (sha256)\n  fix: " in result.stderr


def test_of_a_file_its_session_is_looked_at_with_what_follows(journal: Path) -> None:
    result = call("verify", journal / NAMES[1])
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == NAMES[1:3]
    change(journal / NAMES[2], "DROP VIEW bars")
    assert call("verify", journal / NAMES[1]).exit_code == 1
    assert call("verify", journal / NAMES[0]).exit_code == 0


def test_a_directory_without_session_files_is_refused(tmp_path: Path) -> None:
    result = call("verify", tmp_path)
    assert (result.exit_code, "no session files here" in result.stderr) == (78, True)


# ---------------------------------------------------------------- repair


def test_nothing_is_written_where_nothing_is_wrong(journal: Path) -> None:
    result = call("repair", journal / NAMES[3])
    assert (result.exit_code, result.stdout) == (0, "2024-05-03.db: nothing is wrong with it; nothing was written\n")
    assert not list(journal.glob("*recovered*"))


def test_a_repair_keeps_the_provable_beginning_and_says_what_is_missing(journal: Path) -> None:
    damaged = journal / NAMES[3]
    change(damaged, "UPDATE events SET ts_ns = 0 WHERE seq = 6")
    before = file_sha256(damaged)
    result = call("repair", damaged)
    assert result.exit_code == 1
    new = journal / "2024-05-03.recovered.db"
    assert result.stdout.splitlines() == [
        "2024-05-03.db: seq 6: the hash chain does not hold",
        f"  kept       seq 1 to 5, in {new}, status recovered",
        "  missing    seq 6 to seq 8",
        "  readable   3 of the missing, unproven: 3 ClockTicked",
        "2024-05-03.db is as it was; `--replace` puts the new file in its place",
    ]
    assert file_sha256(damaged) == before
    with JournalFile(damaged, CODEC) as old, JournalFile(new, CODEC) as repaired:
        assert (repaired.verify(), repaired.head().status) == (5, "recovered")
        assert [e.raw for e in repaired.envelopes()] == [e.raw for e in old.envelopes(until=5)]
    assert call("verify", new).stdout == "2024-05-03.recovered.db: 5 events, chain and head hold, status recovered\n"
    again = call("repair", damaged)
    assert (again.exit_code, "exists already" in again.stderr) == (78, True)


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("DELETE FROM events WHERE seq = 7", 6),
        ("UPDATE events SET payload = CAST(x'7bff7d' AS TEXT) WHERE seq = 7", 6),
        ("UPDATE head SET seq = 99", 8),
        ("DELETE FROM head", 8),
    ],
)
def test_whatever_the_damage_what_is_before_it_is_kept(journal: Path, statement: str, kept: int) -> None:
    change(journal / NAMES[3], statement)
    assert f"kept       seq 1 to {kept}," in call("repair", journal / NAMES[3], "--to", journal / "new").stdout
    with JournalFile(journal / "new", CODEC) as repaired:
        assert repaired.verify() == kept


def test_a_damaged_page_hides_only_its_own_rows(journal: Path) -> None:
    damaged = journal / NAMES[3]
    columns = "ts_ns, ts_event, type, version, source, incarnation, cause, idx, corr, root"
    filler = (
        "INSERT INTO events SELECT {n}, {columns}, 'row {n},' || hex(zeroblob(1500)), hash FROM events WHERE seq = 8"
    )
    fillers = [filler.format(n=n, columns=columns) for n in range(9, 14)]
    change(damaged, *fillers, "UPDATE head SET seq = 13", "PRAGMA journal_mode=DELETE")
    content = bytearray(damaged.read_bytes())
    page = content.index(b"row 11,") // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    damaged.write_bytes(content)
    repaired = call("repair", damaged, "--to", journal / "new").stdout.splitlines()
    assert repaired[1].startswith("  kept       seq 1 to 8,")
    assert repaired[3] == "  readable   4 of the missing, unproven: 4 ClockTicked"


@pytest.mark.parametrize("statement", ["UPDATE events SET ts_ns = 1 WHERE seq = 2", "DROP TABLE events"])
def test_less_than_an_opening_is_nothing_to_go_on_from(journal: Path, statement: str) -> None:
    change(journal / NAMES[3], statement)
    result = call("repair", journal / NAMES[3])
    assert (result.exit_code, "provable" in result.stderr) == (1, True)
    assert not list(journal.glob("*recovered*"))


def test_a_replaced_file_goes_into_quarantine_as_it_was(journal: Path) -> None:
    damaged = journal / NAMES[3]
    change(damaged, "UPDATE events SET ts_ns = 0 WHERE seq = 6", "PRAGMA journal_mode=DELETE")
    before = file_sha256(damaged)
    result = call("repair", damaged, "--replace")
    assert result.exit_code == 1
    assert file_sha256(journal / "quarantine" / NAMES[3]) == before
    verified = call("verify", journal)
    assert verified.exit_code == 0
    assert verified.stdout.splitlines()[-2:] == [
        "2024-05-03.db: 5 events, chain and head hold, status recovered",
        "2024-05-03.db: not looked into, status quarantined",
    ]
    change(damaged, "UPDATE events SET ts_ns = 0 WHERE seq = 4")
    again = call("repair", damaged, "--replace")
    assert (again.exit_code, "it is never replaced" in again.stderr) == (78, True)


def test_nothing_is_replaced_beside_a_live_process(journal: Path) -> None:
    change(journal / NAMES[3], "UPDATE events SET ts_ns = 0 WHERE seq = 6")
    live = SqliteJournals(journal, CODEC)
    result = call("repair", journal / NAMES[3], "--replace")
    live.release()
    assert (result.exit_code, "another process is live" in result.stderr) == (78, True)
    assert not (journal / "quarantine").exists()


# ---------------------------------------------------------------- archive


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.db"))


def with_models(journal: Path) -> Path:
    bundle = journal / "models" / MODEL.digest / MODEL.root
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    return bundle / "manifest.json"


def test_finished_files_are_copied_and_verified_and_all_is_kept(journal: Path, tmp_path: Path) -> None:
    result = call("archive", journal, tmp_path / "archive")
    assert result.exit_code == 0, result.output
    left = "2024-05-03.db: left alone: the session goes on in it, or the next start seals it"
    assert result.stdout.splitlines() == [*(f"{name}: copied" for name in NAMES[:3]), left]
    assert names(journal) == sorted(NAMES)
    assert names(tmp_path / "archive") == sorted(NAMES[:3])
    for name in NAMES[:3]:
        assert file_sha256(tmp_path / "archive" / name) == file_sha256(journal / name)
    assert call("verify", journal).exit_code == 0
    assert call("verify", tmp_path / "archive").exit_code == 0
    again = call("archive", journal, tmp_path / "archive")
    assert again.stdout.splitlines() == [*(f"{name}: verified" for name in NAMES[:3]), left]


@pytest.mark.parametrize("kind", ["models", "shadows"])
def test_the_models_that_a_session_names_go_with_it(tmp_path: Path, kind: str) -> None:
    left_file(tmp_path / "journal", None, **{kind: (MODEL,)})
    manifest = with_models(tmp_path / "journal")
    assert call("archive", tmp_path / "journal", tmp_path / "archive").exit_code == 0
    assert (tmp_path / "archive" / manifest.relative_to(tmp_path / "journal")).read_text() == "{}"


def test_a_copy_that_was_damaged_is_made_again(journal: Path, tmp_path: Path) -> None:
    call("archive", journal, tmp_path / "archive")
    copy = tmp_path / "archive" / NAMES[0]
    copy.write_bytes(copy.read_bytes()[:-1])
    assert call("archive", journal, tmp_path / "archive").stdout.startswith(f"{NAMES[0]}: copied\n")
    assert file_sha256(copy) == file_sha256(journal / NAMES[0])


def test_what_another_journal_has_put_there_is_never_replaced(journal: Path, tmp_path: Path) -> None:
    assert call("archive", journal, tmp_path / "archive", "--keep-sessions", "1").exit_code == 0
    kept = file_sha256(tmp_path / "archive" / NAMES[0])
    left_file(tmp_path / "other", None, account="another")
    result = call("archive", tmp_path / "other", tmp_path / "archive")
    assert (result.exit_code, "a target of its own" in result.stderr) == (78, True)
    assert file_sha256(tmp_path / "archive" / NAMES[0]) == kept


def test_a_damaged_journal_is_neither_archived_nor_removed(journal: Path, tmp_path: Path) -> None:
    change(journal / NAMES[0], "UPDATE events SET ts_ns = 0 WHERE seq = 5")
    result = call("archive", journal, tmp_path / "archive", "--keep-sessions", "1")
    assert (result.exit_code, "a damaged journal is not archived: seq 5" in result.stderr) == (1, True)
    assert names(journal) == sorted(NAMES)
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (3, NAMES),
        (2, NAMES[1:]),
        # The next session opens from the newest sealed file: it stays whatever was asked.
        (1, NAMES[2:]),
    ],
)
def test_only_archived_files_of_older_sessions_are_removed(
    journal: Path, tmp_path: Path, keep: int, kept: list[str]
) -> None:
    result = call("archive", journal, tmp_path / "archive", "--keep-sessions", str(keep))
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if "removed" in line] == [
        f"{name}: removed" for name in NAMES if name not in kept
    ]
    assert names(journal) == sorted(kept)
    assert names(tmp_path / "archive") == sorted(NAMES[:3])
    # What was removed is on record, so that it is not missed.
    assert call("verify", journal).exit_code == 0
    assert call("archive", journal, tmp_path / "archive", "--keep-sessions", str(keep)).exit_code == 0


def test_where_the_archive_cannot_be_written_nothing_is_removed(journal: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file")
    result = call("archive", journal, tmp_path / "archive", "--keep-sessions", "1")
    assert (result.exit_code, "cannot be written" in result.stderr) == (78, True)
    assert names(journal) == sorted(NAMES)


def test_a_url_needs_fsspec_and_says_so_without_it(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)  # as where it is not installed
    result = call("archive", journal, f"file://someone:secret@{tmp_path}/archive")
    assert result.exit_code == 78
    assert "needs the library fsspec" in result.stderr
    assert "extra `archive`" in result.stderr
    assert "secret" not in result.stderr


def test_a_url_is_as_good_as_a_directory_where_fsspec_is(journal: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="archiving to a URL needs the extra `archive` (fsspec)")
    result = call("archive", journal, f"file://{tmp_path}/archive", "--keep-sessions", "1")
    assert result.exit_code == 0, result.output
    assert names(journal) == sorted(NAMES[2:])
    assert names(tmp_path / "archive") == sorted(NAMES[:3])
    assert call("verify", tmp_path / "archive").exit_code == 0
    result = call("archive", journal, "nowhere://x/y")
    assert (result.exit_code, "cannot be used" in result.stderr) == (78, True)
