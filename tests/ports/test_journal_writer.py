"""One suite for the journal on disk and its stand-in in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from adapters.memory import MemoryJournal
from adapters.sqlite.journal import JournalFile, create_journal
from adapters.sqlite.writer import Writer
from domain.envelope import Envelope
from domain.events import ClockTicked, EntriesClosed, SafeStopRequested
from domain.ports import JournalReader, JournalWriter
from tests.builders import CODEC, Record, at

PATIENCE_S = 20.0


@attrs.frozen
class Pair:
    """A journal's two ends."""

    writer: JournalWriter
    reader: JournalReader


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    if request.param == "memory":
        both = MemoryJournal()
        yield Pair(both, both)
        return
    path = tmp_path / "2024-05-01.db"
    create_journal(path)
    writer = Writer(path, on_failure=lambda error: None)
    writer.start()
    with JournalFile(path, CODEC) as reader:
        yield Pair(writer, reader)
    writer.stop()


@pytest.fixture
def envelopes() -> list[Envelope]:
    record = Record()
    tick = record.put(ClockTicked(ts=at(0), watermark=at(0)), source="feed")
    record.put(EntriesClosed(reason="a"), source="bars", cause=tick)
    record.put(SafeStopRequested(reason="b"), source="supervisor")
    record.put(ClockTicked(ts=at(1), watermark=at(1)), source="feed")
    return record.envelopes


def write(journal: Pair, envelopes: list[Envelope]) -> None:
    journal.writer.append(envelopes)
    done = threading.Event()
    journal.writer.when_durable(envelopes[-1].seq, done.set)
    assert done.wait(PATIENCE_S)


def test_what_is_not_pending_can_be_read(journal: Pair, envelopes: list[Envelope]) -> None:
    for envelope in envelopes:
        journal.writer.append([envelope])
        # The list first, then what is below it: together always the journal.
        pending = [e.seq for e in journal.writer.pending()]
        until = pending[0] - 1 if pending else envelope.seq
        on_file = [e.seq for e in journal.reader.envelopes(until=until)]
        assert [*on_file, *pending] == list(range(1, envelope.seq + 1))


def test_what_is_durable_is_no_longer_pending_and_calls_back_at_once(journal: Pair, envelopes: list[Envelope]) -> None:
    write(journal, envelopes)
    assert (journal.writer.pending(), journal.writer.backlog, journal.writer.stalled_s) == ([], 0, 0.0)
    calls: list[int] = []
    journal.writer.when_durable(2, lambda: calls.append(2))
    assert calls == [2]


@pytest.mark.parametrize(
    ("question", "seqs"),
    [
        ({}, [1, 2, 3, 4]),
        ({"after": 1, "until": 3}, [2, 3]),
        ({"after": 4}, []),
        ({"types": {"ClockTicked"}}, [1, 4]),
        ({"types": {"ClockTicked"}, "source": "bars"}, [1, 2, 4]),
        ({"types": set(), "source": "bars"}, [2]),
        ({"types": set()}, []),
    ],
)
def test_a_reader_gets_what_it_asks_for(
    journal: Pair, envelopes: list[Envelope], question: dict[str, object], seqs: list[int]
) -> None:
    write(journal, envelopes)
    found = list(journal.reader.envelopes(**question))  # type: ignore[arg-type]
    assert [envelope.seq for envelope in found] == seqs
    assert [envelope.payload for envelope in found] == [envelopes[seq - 1].payload for seq in seqs]
