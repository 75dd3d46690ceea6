"""A session file: what SQLite itself refuses, what `verify` finds, and that reading changes nothing."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.sqlite import journal as journal_module
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import (
    JournalFile,
    create_journal,
    file_name,
    file_sha256,
    journal_entries,
    seal,
    segments_of,
    to_row,
)
from adapters.sqlite.schema import APPLICATION_ID, FORMAT_VERSION, INSERT_EVENT
from domain.envelope import Envelope
from domain.errors import JournalBroken, JournalError, JournalUnreadable, OperatorError
from domain.events import (
    ActorCrashed,
    ClockTicked,
    FillAssumed,
    OrderAccepted,
    OrderSubmitted,
    SessionClosed,
    SignalEvaluated,
    SliceClosed,
    TradesReceived,
)
from domain.gates import Gate
from domain.units import HOUR, Nanos
from tests.builders import CODEC, PRICE, Record, at, bar_of, opened_session, request_of, trades_of, write_journal

NAME = "2024-05-01.db"


def session_record() -> Record:
    """A little of everything: seven events."""
    record = Record()
    record.put(opened_session(), source="session")
    record.put(TradesReceived(trades=trades_of(("ESM4", at(0), 0, 1))), source="feed", ts=at(0))
    tick = record.put(ClockTicked(ts=at(60), watermark=at(60)), source="feed", ts=at(60))
    closed = record.put(
        SliceClosed(ts=at(60), minutes=(bar_of(start=at(59)),), hours=(bar_of(length=HOUR),)), source="bars", cause=tick
    )
    record.put(
        SignalEvaluated(
            root="ES",
            contract="ESM4",
            ts=at(60),
            bar_start=at(0),
            close=PRICE,
            ibs=0.5,
            gates=(Gate(name="cooldown", is_passed=True, value="0"),),
            probability=None,
            threshold=None,
            position=0,
            verdict="enter",
            reason="",
        ),
        source="strategy",
        cause=closed,
    )
    request = record.put(request_of(), source="strategy", cause=closed, idx=1, corr=6)
    record.put(submitted(), source="execution", cause=request, corr=6)
    return record


def submitted(signal_id: str = "entry-1", attempt: int = 1) -> OrderSubmitted:
    return OrderSubmitted(
        root="ES", signal_id=signal_id, attempt=attempt, ticker="ESM2024", body="{}", body_sha256="0" * 64
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_journal(tmp_path / NAME, session_record().envelopes)


def raw(path: Path) -> sqlite3.Connection:
    """A connection that knows nothing of our rules but what the file itself enforces."""
    return sqlite3.connect(path, isolation_level=None)


# ---------------------------------------------------------------- what the file itself refuses


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE events SET source = 'x' WHERE seq = 3", "append-only"),
        ("UPDATE events SET payload = '{}'", "append-only"),
        ("DELETE FROM events WHERE seq = 7", "append-only"),
        ("DELETE FROM events", "append-only"),
        ("DELETE FROM head", "only moves forward"),
        ("UPDATE head SET seq = 3", "only moves forward"),
        ("INSERT INTO head VALUES (2, 0, x'00', 'open')", "CHECK"),
        ("UPDATE head SET status = 'finished'", "CHECK"),
        ("UPDATE head SET seq = 'eight'", "cannot store TEXT"),
    ],
)
def test_history_cannot_be_changed_with_any_sqlite_tool(path: Path, sql: str, message: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=message):
        raw(path).execute(sql)


def row_after(path: Path, **changes: object) -> tuple[object, ...]:
    """The next row of the file, with columns exchanged."""
    envelope = session_record().put(ClockTicked(ts=at(61), watermark=at(61)), source="feed")
    row = dict(zip(journal_module._COLUMNS.split(", "), to_row(envelope), strict=True))
    return tuple((row | changes).values())


def test_the_next_row_fits(path: Path) -> None:
    raw(path).execute(INSERT_EVENT, row_after(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq": 9}, "must follow"),
        ({"seq": 7}, "must follow"),
        ({"seq": 0}, "must follow"),
        ({"seq": None}, "must follow"),
        ({"ts_ns": "noon"}, "cannot store TEXT"),
        ({"source": None}, "NOT NULL"),
        ({"payload": None}, "NOT NULL"),
        ({"hash": "text"}, "cannot store TEXT"),
        ({"ts_event": 1.5}, "cannot store REAL"),
    ],
)
def test_a_row_that_leaves_a_gap_or_has_a_wrong_type_is_refused(
    path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=message):
        raw(path).execute(INSERT_EVENT, row_after(path, **changes))


def appended(path: Path, put: Callable[[Record], Envelope]) -> None:
    raw(path).execute(INSERT_EVENT, to_row(put(session_record())))


@pytest.mark.parametrize(
    "put",
    [
        lambda r: r.put(SliceClosed(ts=at(61)), source="bars", cause=r.envelopes[2]),
        lambda r: r.put(request_of(), source="strategy", cause=r.envelopes[2]),
        lambda r: r.put(submitted(), source="execution", cause=r.envelopes[4]),
    ],
    ids=["a second answer to one cause", "a second order with one signal_id", "one attempt twice"],
)
def test_what_may_be_said_only_once_is_refused_the_second_time(path: Path, put: Callable[[Record], Envelope]) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        appended(path, put)


@pytest.mark.parametrize(
    "put",
    [
        lambda r: r.put(SliceClosed(ts=at(61)), source="bars", cause=r.envelopes[2], idx=1),
        lambda r: r.put(request_of("entry-2"), source="strategy", cause=r.envelopes[2]),
        lambda r: r.put(submitted(attempt=2), source="execution", cause=r.envelopes[4]),
        lambda r: r.put(ClockTicked(ts=at(60), watermark=at(60)), source="feed"),
    ],
    ids=["another place in the answer", "another signal", "another attempt", "the market may repeat itself"],
)
def test_what_differs_in_its_key_is_taken(path: Path, put: Callable[[Record], Envelope]) -> None:
    appended(path, put)


def test_a_closed_session_takes_no_more_events(tmp_path: Path) -> None:
    record = session_record()
    record.put(SessionClosed(events=7, decisions=1, orders=1, head=""), source="session")
    path = write_journal(tmp_path / NAME, record.envelopes)
    late = record.put(ClockTicked(ts=at(61), watermark=at(61)), source="feed")
    with pytest.raises(sqlite3.IntegrityError, match="closed"):
        raw(path).execute(INSERT_EVENT, to_row(late))
    with pytest.raises(sqlite3.IntegrityError, match="only moves forward"):
        raw(path).execute("UPDATE head SET status = 'open'")


def test_every_table_is_strict_and_the_file_says_what_it_is(path: Path) -> None:
    connection = raw(path)
    strict = {name: is_strict for _, name, kind, _, _, is_strict in connection.execute("PRAGMA table_list")
              if kind == "table" and not name.startswith("sqlite_")}  # fmt: skip
    assert strict == {"events": 1, "head": 1}
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ---------------------------------------------------------------- reading


def test_what_was_written_is_read_back(path: Path) -> None:
    with JournalFile(path, CODEC) as journal:
        found = list(journal.envelopes())
    assert [to_row(e) for e in found] == [to_row(e) for e in session_record().envelopes]
    assert [e.payload for e in found] == [e.payload for e in session_record().envelopes]


@pytest.mark.parametrize(
    ("question", "seqs"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"after": 5}, [6, 7]),
        ({"until": 2}, [1, 2]),
        ({"after": 2, "until": 4}, [3, 4]),
        ({"after": 7}, []),
        ({"types": {"ClockTicked", "SessionOpened"}}, [1, 3]),
        ({"types": set()}, []),
        # What a machine reads to catch up: its inputs, and what it said itself.
        ({"types": {"ClockTicked"}, "source": "strategy"}, [3, 5, 6]),
        ({"types": {"ClockTicked"}, "source": "strategy", "after": 3, "until": 5}, [5]),
    ],
)
def test_a_reader_gets_what_it_asks_for(path: Path, question: dict[str, object], seqs: list[int]) -> None:
    with JournalFile(path, CODEC) as journal:
        assert [e.seq for e in journal.envelopes(**question)] == seqs  # type: ignore[arg-type]


def test_counts_and_head(path: Path) -> None:
    with JournalFile(path, CODEC) as journal:
        assert (journal.count(), journal.count("OrderRequested", "OrderSubmitted"), journal.count("None")) == (7, 2, 0)
        head = journal.head()
    assert (head.seq, head.hash, head.status) == (7, session_record().envelopes[-1].hash, "open")


def view(path: Path, sql: str) -> list[tuple[object, ...]]:
    with JournalFile(path, CODEC) as journal:
        return list(journal.query(sql))


def test_the_view_of_bars_has_a_row_per_bar(path: Path) -> None:
    minute, hour = bar_of(start=at(59)), bar_of(length=HOUR)
    columns = "seq, timeframe, ts_start_ns, ts_end_ns, root, contract, open, high, low, close, volume, trades"
    rows = view(path, f"SELECT {columns} FROM bars ORDER BY timeframe DESC")
    assert rows == [
        (4, frame, b.ts_start, b.ts_end, "ES", "ESM4", b.open, b.high, b.low, b.close, b.volume, b.trades)
        for frame, b in (("1m", minute), ("1h", hour))
    ]


def test_the_view_of_decisions_has_the_whole_answer(path: Path) -> None:
    ((seq, ts, root, verdict, gates),) = view(path, "SELECT seq, ts_ns, root, verdict, gates FROM decisions")
    assert (seq, ts, root, verdict) == (5, at(60), "ES", "enter")
    assert json.loads(str(gates)) == [{"name": "cooldown", "is_passed": True, "value": "0", "reason": ""}]


def test_the_view_of_orders_tells_an_orders_life(tmp_path: Path) -> None:
    record = session_record()
    attempt = record.envelopes[-1]
    accepted = OrderAccepted(root="ES", signal_id="entry-1", attempt=1, http_status=200, external_id="x")
    record.put(accepted, source="execution.http", cause=attempt)
    record.put(
        FillAssumed(
            root="ES",
            signal_id="entry-1",
            contract="ESM4",
            intent="entry",
            side="buy",
            quantity=1,
            price=PRICE,
            ts=at(61),
            rule="next_trade",
            pnl=None,
        ),
        source="execution",
    )
    path = write_journal(tmp_path / NAME, record.envelopes)
    assert view(path, "SELECT seq, type, root, signal_id, attempt FROM orders ORDER BY seq") == [
        (6, "OrderRequested", "ES", "entry-1", None),
        (7, "OrderSubmitted", "ES", "entry-1", 1),
        (8, "OrderAccepted", "ES", "entry-1", 1),
        (9, "FillAssumed", "ES", "entry-1", None),
    ]


def test_the_view_of_restarts_names_actor_and_error(tmp_path: Path) -> None:
    record = session_record()
    record.put(ActorCrashed(actor="bars", at_seq=3, error="KeyError: 7"), source="supervisor")
    path = write_journal(tmp_path / NAME, record.envelopes)
    rows = view(path, "SELECT seq, type, actor, at_seq, error FROM restarts")
    assert rows == [(8, "ActorCrashed", "bars", 3, "KeyError: 7")]


def test_readers_cannot_write(path: Path) -> None:
    with JournalFile(path, CODEC) as journal, pytest.raises(JournalUnreadable, match="readonly"):
        list(journal.query("DROP TRIGGER events_no_update"))


def test_a_reader_sees_what_was_committed_while_it_was_open(path: Path) -> None:
    with JournalFile(path, CODEC) as journal:
        assert journal.count() == 7
        appended(path, lambda r: r.put(ClockTicked(ts=at(61), watermark=at(61)), source="feed"))
        assert journal.count() == 8


# ---------------------------------------------------------------- verify


def tamper(path: Path, *statements: str) -> None:
    """Change a file as someone would who drops the triggers first."""
    connection = raw(path)
    triggers = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for sql in (*(f"DROP TRIGGER {name}" for name in triggers), *statements):
        connection.execute(sql)
    connection.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_who_stops_reading_may_close_the_file_first(path: Path) -> None:
    with JournalFile(path, CODEC) as journal:
        reading = journal.envelopes()
        assert next(reading).seq == 1
    del reading


def test_an_untouched_file_verifies_and_says_how_many_events_it_holds(path: Path) -> None:
    with JournalFile(path, CODEC) as journal:
        assert journal.verify() == 7


SWAP = (
    "UPDATE events SET seq = 100 WHERE seq = 2",
    "UPDATE events SET seq = 2 WHERE seq = 3",
    "UPDATE events SET seq = 3 WHERE seq = 100",
)
INSERTED = (
    "INSERT INTO events SELECT {seq}, ts_ns, ts_event, type, version, 'x', 0, NULL, 0, corr, root, payload, hash "
    "FROM events WHERE seq = 3"
)


@pytest.mark.parametrize(
    ("statements", "seq"),
    [
        (["UPDATE events SET payload = replace(payload, 'ESM4', 'ESU4') WHERE seq = 6"], 6),
        (["UPDATE events SET ts_ns = ts_ns + 1 WHERE seq = 1"], 1),
        (["UPDATE events SET ts_event = NULL WHERE seq = 2"], 2),
        (["UPDATE events SET root = '' WHERE seq = 3"], 3),
        (["UPDATE events SET cause = 2 WHERE seq = 4"], 4),
        (["UPDATE events SET incarnation = 9 WHERE seq = 5"], 5),
        (["UPDATE events SET hash = zeroblob(32) WHERE seq = 4"], 4),
        (["UPDATE events SET payload = CAST(payload AS BLOB) WHERE seq = 3"], 3),
        (["DELETE FROM events WHERE seq = 1"], 1),
        (["DELETE FROM events WHERE seq = 4"], 4),
        (["DELETE FROM events WHERE seq = 7"], 7),
        (["DELETE FROM events WHERE seq > 4"], 5),
        (["DELETE FROM events"], 1),
        ([INSERTED.format(seq=8)], 8),
        ([INSERTED.format(seq=0)], 1),
        (
            ["UPDATE events SET seq = -seq WHERE seq > 3", "UPDATE events SET seq = 1 - seq WHERE seq < 0",
             INSERTED.format(seq=4), "UPDATE head SET seq = 8"],
            4,
        ),
        (SWAP, 2),
        (["UPDATE head SET seq = 6"], 8),
        (["UPDATE head SET seq = 8"], 8),
        (["UPDATE head SET hash = zeroblob(32)"], 8),
        (
            ["DELETE FROM events WHERE seq = 7", "UPDATE head SET seq = 6"],
            7,
        ),
    ],
    ids=[
        "payload", "time", "market time", "root", "cause", "incarnation", "hash", "text made a blob", "first deleted",
        "middle deleted", "last deleted", "tail cut", "emptied", "appended", "put in front", "inserted", "swapped",
        "head behind", "head ahead", "head of another chain", "tail cut and head moved, not its hash",
    ],
)  # fmt: skip
def test_verify_names_the_first_seq_that_is_wrong(path: Path, statements: list[str], seq: int) -> None:
    tamper(path, *statements)
    with JournalFile(path, CODEC) as journal, pytest.raises(JournalBroken) as broken:
        journal.verify()
    assert broken.value.seq == seq
    assert str(seq) in str(broken.value) or str(seq - 1) in str(broken.value)


def test_a_head_that_was_deleted_is_unreadable(path: Path) -> None:
    tamper(path, "DELETE FROM head")
    with JournalFile(path, CODEC) as journal, pytest.raises(JournalUnreadable, match="head is missing"):
        journal.verify()


# ---------------------------------------------------------------- files that are no journals


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(JournalUnreadable, match="no such file"):
        JournalFile(tmp_path / NAME, CODEC)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + bytes(84)])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(JournalUnreadable, match=NAME):
        JournalFile(path, CODEC)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    raw(path).execute("CREATE TABLE events (seq)")
    with pytest.raises(JournalUnreadable, match="not a journal of this program"):
        JournalFile(path, CODEC)


def test_a_newer_format_is_refused_naming_both(path: Path) -> None:
    raw(path).execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    with pytest.raises(JournalUnreadable, match=f"format {FORMAT_VERSION + 1} is newer .*{FORMAT_VERSION}"):
        JournalFile(path, CODEC)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_an_error_at_every_length(path: Path, kept: float) -> None:
    seal(path)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(JournalError), JournalFile(path, CODEC) as journal:
        journal.verify()


def test_a_row_of_an_unknown_type_is_unreadable_when_it_is_reached(path: Path) -> None:
    tamper(path, "UPDATE events SET type = 'Unheard' WHERE seq = 4")
    with JournalFile(path, CODEC) as journal, pytest.raises(JournalUnreadable, match="Unheard"):
        list(journal.envelopes())


# ---------------------------------------------------------------- creating and sealing


def test_a_journal_is_not_created_over_another_file(path: Path) -> None:
    before = file_sha256(path)
    with pytest.raises(OperatorError, match="exists already"):
        create_journal(path)
    assert file_sha256(path) == before


def test_creating_leaves_one_file_and_replaces_what_a_dead_process_left_half(tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.new").write_bytes(b"half")
    (tmp_path / f".{NAME}.new-wal").write_bytes(b"half")
    create_journal(tmp_path / NAME)
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]
    with JournalFile(tmp_path / NAME, CODEC) as journal:
        assert journal.verify() == 0


def test_where_nothing_can_be_created_the_operator_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot create the journal") as refused:
        create_journal(tmp_path / "file" / NAME)
    assert refused.value.exit_code == 70, "a service manager tries again"


def test_a_sealed_file_is_one_file_that_nobody_may_write_and_reading_leaves_as_it_is(path: Path) -> None:
    digest = seal(path)
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    with JournalFile(path, CODEC) as journal:
        assert journal.verify() == 7
        assert len(list(journal.envelopes())) == 7
        assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert file_sha256(path) == digest


def test_reading_an_unsealed_file_changes_none_of_its_bytes(path: Path) -> None:
    # Rows that are still in the WAL, as a killed process leaves them.
    writer = raw(path)
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute(INSERT_EVENT, to_row(session_record().put(ClockTicked(ts=at(61), watermark=at(61)), source="feed")))
    before = path.read_bytes()
    with JournalFile(path, CODEC) as journal:
        assert journal.count() == 8
    assert path.read_bytes() == before
    writer.close()


def test_sealing_twice_is_nothing(path: Path) -> None:
    assert seal(path) == seal(path) == file_sha256(path)


def test_sealing_waits_for_a_reader(path: Path) -> None:
    journal = JournalFile(path, CODEC)
    journal.verify()
    threading.Timer(0.2, journal.close).start()
    seal(path)
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]


# ---------------------------------------------------------------- directories


@pytest.mark.parametrize(("segment", "name"), [(1, "2024-05-01.db"), (2, "2024-05-01.2.db"), (11, "2024-05-01.11.db")])
def test_a_segments_name_carries_its_number_from_the_second_on(segment: int, name: str) -> None:
    assert file_name("2024-05-01", segment) == name


def test_files_are_found_in_the_order_of_sessions_and_segments(tmp_path: Path) -> None:
    names = [
        "2024-04-30.db", "2024-05-01.db", "2024-05-01.2.db", "2024-05-01.9.db", "2024-05-01.10.db", "2024-05-02.db",
    ]  # fmt: skip
    others = ["2024-05-01.1.db", "2024-05-01.02.db", "2024-05-01.db-wal", "notes.db", ".2024-05-01.db.new", "README.md"]
    for name in reversed(names + others):
        (tmp_path / name).write_text("")
    assert [entry.path.name for entry in journal_entries(tmp_path)] == names
    assert [path.name for path in segments_of(tmp_path / "2024-05-01.9.db")] == names[1:5]


def test_a_file_under_a_name_of_its_own_is_a_session_of_one_segment(tmp_path: Path) -> None:
    assert segments_of(tmp_path / "copy.db") == [tmp_path / "copy.db"]
    assert segments_of(tmp_path / NAME) == [tmp_path / NAME]
    assert journal_entries(tmp_path / "nowhere") == []


def test_a_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    first = SqliteJournals(tmp_path, CODEC)
    with pytest.raises(OperatorError, match="another process is live"):
        SqliteJournals(tmp_path, CODEC)
    first.release()
    SqliteJournals(tmp_path, CODEC).release()


def test_a_holder_that_died_holds_nothing(tmp_path: Path) -> None:
    hold = (
        "import os, pathlib, sys; from adapters.sqlite.directory import SqliteJournals; "
        "SqliteJournals(pathlib.Path(sys.argv[1]), None); os._exit(9)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", hold, str(tmp_path)], cwd=root, check=False).returncode == 9
    SqliteJournals(tmp_path, CODEC).release()


def test_a_directory_that_cannot_be_made_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot write here"):
        SqliteJournals(tmp_path / "file" / "journal", CODEC)


def test_a_directory_creates_opens_seals_and_removes_its_files(tmp_path: Path) -> None:
    journals = SqliteJournals(tmp_path, CODEC)
    path = journals.create("2024-05-01", 2)
    assert [(entry.session, entry.segment) for entry in journals.entries()] == [("2024-05-01", 2)]
    with journals.open(path) as journal:
        assert journal.head().seq == 0
    assert journals.seal(path) == file_sha256(path)
    journals.remove(path)
    assert journals.entries() == []
    journals.release()


def test_stamps_that_fill_the_column_survive(tmp_path: Path) -> None:
    record = Record()
    record.put(ClockTicked(ts=Nanos(2**63 - 1), watermark=Nanos(0)), ts=Nanos(2**63 - 1))
    path = write_journal(tmp_path / NAME, record.envelopes)
    with JournalFile(path, CODEC) as journal:
        assert next(journal.envelopes()).ts_event == 2**63 - 1
