"""The pipeline's heartbeat: what is overdue, what is told of it, and the file that is never half written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.alert_words import Alert
from actors.heartbeat import Heartbeat
from actors.status import Status
from adapters.status_file import NAME, read_status, write_status
from domain.events import FeedStatusChanged, RootStatusChanged, SliceClosed, StateCarried, TradesReceived
from domain.positions import Position
from domain.units import HOUR, SECOND, Nanos
from tests.builders import CLOSE, OPEN, PRICE, Record, at, bar_of, opened_session, trades_of


def status_of(*events: Any, **opened: Any) -> Status:
    record, status = Record(), Status()
    for event in (opened_session(**({"clock": "system"} | opened)), *events):
        status.fold(record.put(event))
    return status


def batch(minutes: float) -> TradesReceived:
    return TradesReceived(trades=trades_of(("ESM4", at(minutes), 0, 1)))


def closed(minutes: int) -> SliceClosed:
    return SliceClosed(ts=at(minutes), minutes=(bar_of(start=at(minutes - 1)),))


RUNNING = (batch(10), closed(10))


@pytest.mark.parametrize(
    ("events", "now", "since", "words"),
    [
        (RUNNING, at(11, 30), OPEN, ""),
        (RUNNING, at(11, 31), OPEN, "no record for 91 s, no bar for 91 s"),
        ((batch(12), closed(10)), at(12, 10), OPEN, "no bar for 130 s"),
        (RUNNING, at(60), at(59), ""),
        ((), at(1, 30), Nanos(OPEN - HOUR), ""),
        ((), at(1, 31), Nanos(OPEN - HOUR), "no record for 91 s, no bar for 91 s"),
        (RUNNING, CLOSE, OPEN, ""),
        (RUNNING, Nanos(OPEN - SECOND), Nanos(OPEN - HOUR), ""),
    ],
    ids=["fresh", "old", "no bar", "just started", "just opened", "since the open", "closed", "before the open"],
)
def test_a_record_and_a_bar_are_due_every_90_s_of_an_open_market(
    events: tuple[Any, ...], now: Nanos, since: Nanos, words: str
) -> None:
    assert status_of(*events).overdue(now, since) == words


def test_simulated_time_owes_nothing_to_our_clock() -> None:
    assert status_of(*RUNNING, clock="feed").overdue(at(60), OPEN) == ""


class Ward:
    """A heartbeat whose beats the test gives."""

    def __init__(self, status: Status) -> None:
        self.now = at(10)
        self.documents: list[Mapping[str, Any]] = []
        self.told: list[Alert] = []
        self.beats = Heartbeat(write=self.documents.append, now=lambda: self.now, tell=self.told.append)
        self.beats.attend(status)

    def beat(self, now: Nanos) -> Mapping[str, Any]:
        self.now = now
        self.beats.beat(is_running=True)
        return self.documents[-1]


def test_what_is_overdue_is_told_once_and_so_is_its_end() -> None:
    status = status_of(*RUNNING)
    ward = Ward(status)
    for minute in (11, 12, 13):
        ward.beat(at(minute))
    record = Record()
    for event in (batch(14), closed(14)):
        status.fold(record.put(event))
    ward.beat(at(14))
    assert [(alert.severity, alert.text) for alert in ward.told] == [
        ("warning", "heartbeat: no record for 120 s, no bar for 120 s"),
        ("warning", "heartbeat: records and bars come again"),
    ]


def test_with_a_position_it_is_critical() -> None:
    held = Position(root="ES", contract="ESM4", quantity=1, price=PRICE, opened_ns=at(0), entry_signal_id="e")
    carried = StateCarried(
        previous_session=None, previous_segment=None, previous_head=None, previous_file_sha256=None, positions=(held,)
    )
    ward = Ward(status_of(carried, *RUNNING))
    document = ward.beat(at(20))
    assert ward.told[0].severity == "critical"
    assert [row["root"] for row in document["positions"]] == ["ES"]


def test_it_says_when_it_was_written_and_how_every_root_stands() -> None:
    live = FeedStatusChanged(status="live", reason="subscribed")
    stale = RootStatusChanged(root="GC", status="stale", reason="no trade for 600 s")
    document = Ward(status_of(live, stale, *RUNNING)).beat(at(10, 5))
    assert (document["written"], document["running"], document["seq"]) == ("2024-04-30T22:10:05Z", True, 5)
    assert document["feed"]["last_record"] == document["feed"]["last_bar"] == "2024-04-30T22:10:00Z"
    assert document["feed"]["stale_roots"] == {"GC": "no trade for 600 s"}


def test_a_disk_that_is_full_costs_the_heartbeat_and_nothing_else() -> None:
    def fail(document: Mapping[str, Any]) -> None:
        raise OSError("no space left on device")

    beats = Heartbeat(write=fail, now=lambda: at(10), interval_s=0.001)
    beats.attend(status_of(*RUNNING))
    beats.start()
    beats.stop()


def test_the_file_is_replaced_as_a_whole_and_says_at_the_end_that_it_is_over(tmp_path: Path) -> None:
    beats = Heartbeat(write=lambda document: write_status(tmp_path, document), now=lambda: at(10), interval_s=0.001)
    beats.attend(status_of(*RUNNING))
    beats.start()
    while (first := read_status(tmp_path)) is None:
        pass
    for _ in range(200):
        assert read_status(tmp_path) is not None, "half a file was read"
    beats.stop()
    last = read_status(tmp_path)
    assert last is not None
    assert (first["running"], last["running"]) == (True, False)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("content", ["", "[1]", '{"written": '])
def test_what_is_no_status_is_none(tmp_path: Path, content: str) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / NAME).write_text(content)
    assert read_status(tmp_path) is None
