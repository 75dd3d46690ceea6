"""Directories of sealed session files, each naming the one before it, as the program leaves them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import attrs

from adapters.sqlite.journal import file_name, seal
from domain.events import ClockTicked, HistoryLoaded, SessionClosed, StateCarried, TradesReceived
from domain.units import MINUTE, Nanos
from tests.builders import DATE, Record, at, opened_session, session_of, trades_of, write_journal


@attrs.frozen(kw_only=True)
class Left:
    """What one file hands on to the next."""

    session: str
    segment: int
    head: str
    sha256: str | None


def record_of(left: Left | None, *, day: int = 0, segment: int = 1, ticks: int = 4, **opened: Any) -> Record:
    """A session of a few rows that says what it follows."""
    record = Record()
    session = attrs.evolve(session_of(), date=DATE + dt.timedelta(days=day))
    record.put(opened_session(session=session, segment=segment, **opened), source="session")
    record.put(HistoryLoaded(tables=()), source="session")
    record.put(
        StateCarried(
            previous_session=left and left.session,
            previous_segment=left and left.segment,
            previous_head=left and left.head,
            previous_file_sha256=left and left.sha256,
        ),
        source="session",
    )
    record.put(TradesReceived(trades=trades_of(("ESM4", at(0), 0, 1))), source="feed", ts=at(0))
    for minute in range(ticks):
        ts = Nanos(at(0) + minute * MINUTE)
        record.put(ClockTicked(ts=ts, watermark=ts), source="feed", ts=ts)
    return record


def left_file(
    directory: Path, left: Left | None, *, day: int = 0, segment: int = 1, is_closed: bool = True, **opened: Any
) -> Left:
    """Write one file of the directory and seal it, or leave it in mid-session."""
    record = record_of(left, day=day, segment=segment, **opened)
    if is_closed:
        record.put(SessionClosed(events=len(record.envelopes), decisions=0, orders=0, head=""), source="session")
    session = (DATE + dt.timedelta(days=day)).isoformat()
    path = write_journal(directory / file_name(session, segment), record.envelopes)
    sha256 = seal(path) if is_closed else None
    return Left(session=session, segment=segment, head=record.envelopes[-1].hash.hex(), sha256=sha256)


def four_files(directory: Path) -> list[Path]:
    """Three sessions, the second in two segments: 05-01, 05-02 (left), 05-02.2, 05-03; the last one unfinished."""
    directory.mkdir(exist_ok=True)
    left = left_file(directory, None)
    left = left_file(directory, left, day=1, is_closed=False)
    left = left_file(directory, left, day=1, segment=2)
    left_file(directory, left, day=2, is_closed=False)
    return [directory / name for name in ("2024-05-01.db", "2024-05-02.db", "2024-05-02.2.db", "2024-05-03.db")]
