"""Orders out, by a real router, writer and server: nothing leaves before its intent is on disk."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.faults import Faults
from actors.http_runner import HttpRunner
from actors.sequencer import HTTP_SOURCE, Sequencer
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile, create_journal
from adapters.sqlite.writer import Writer
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.events import ActorRestarted, OrderSubmitted, SafeStopRequested, SessionStopped
from domain.units import Nanos
from tests.builders import CODEC

BODY = (
    '{"ticker":"MESM2024","action":"buy","sentiment":"bullish","quantity":1,'
    '"signalPrice":5045.25,"extras":{"signal_id":"s1"}}'
)
SUBMITTED = OrderSubmitted(root="ES", signal_id="s1", attempt=1, ticker="MESM2024", body=BODY, body_sha256="")


@pytest.mark.parametrize("is_simulated", [False, True])
def test_no_request_is_received_before_its_intent_is_committed(tmp_path: Path, is_simulated: bool) -> None:
    path = tmp_path / "session.db"
    create_journal(path)
    may_commit = threading.Event()
    failures: list[BaseException] = []
    writer = Writer(path, on_failure=failures.append, before_commit=may_commit.wait)
    sequencer = Sequencer(writer=writer, codec=CODEC, subscribers=[], is_simulated=is_simulated, now=lambda: Nanos(0))
    local = LocalTradersPost()
    server = LocalTradersPostThread(local)
    server.start()
    runner = HttpRunner(
        sequencer=sequencer,
        webhook=WebhookRouter(server.url, is_live=False),
        is_simulated=is_simulated,
        now=lambda: Nanos(0),
        faults=Faults(),
        on_failure=failures.append,
    )
    sequencer.on_submitted(runner.begin)
    writer.start()
    runner.start()
    try:
        sequencer.publish(SUBMITTED, source="execution")
        time.sleep(0.3)
        before = local.ledger().requests
        may_commit.set()
        assert sequencer.wait_quiet(lambda: False)
        assert (before, local.ledger().requests) == (0, 1)
    finally:
        may_commit.set()
        runner.stop()
        writer.stop()
        server.stop()
    assert not failures
    with_outcome = [envelope for envelope in JournalFile(path, CODEC).envelopes() if envelope.source == HTTP_SOURCE]
    assert [(envelope.type, envelope.cause) for envelope in with_outcome] == [("OrderAccepted", 1)]


@pytest.mark.parametrize(
    ("intent", "requests", "outcome"), [("entry", 0, "OrderNotSent"), ("exit", 1, "OrderAccepted")]
)
def test_of_what_waits_for_a_failed_disk_a_safe_stop_lets_only_exits_go(
    tmp_path: Path, intent: Any, requests: int, outcome: str
) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    journals = SqliteJournals(tmp_path / "journal", CODEC, emergency_dir=tmp_path / "emergency")
    path, failed, failures = journals.create("2024-05-01", 1), threading.Event(), list[BaseException]()
    writer = journals.writer(path, durable_seq=0, on_failure=lambda error: failed.set(), before_commit=fail)
    sequencer = Sequencer(writer=writer, codec=CODEC, subscribers=[], is_simulated=False, now=lambda: Nanos(0))
    local = LocalTradersPost()
    with LocalTradersPostThread(local) as server:
        runner = HttpRunner(
            sequencer=sequencer,
            webhook=WebhookRouter(server.url, is_live=False),
            is_simulated=False,
            now=lambda: Nanos(0),
            faults=Faults(),
            on_failure=failures.append,
        )
        sequencer.on_submitted(runner.begin)
        sequencer.observe(runner.watch)
        writer.start()
        runner.start()
        sequencer.publish(attrs.evolve(SUBMITTED, intent=intent), source="execution")
        assert failed.wait(20)
        sequencer.publish(SafeStopRequested(reason="disk"), source="supervisor")
        assert local.ledger().requests == 0, "sent before anything was on a disk"
        writer.fall_back()
        assert sequencer.wait_quiet(lambda: False)
        runner.stop()
        writer.stop()
    journals.release()
    assert not failures
    assert local.ledger().requests == requests
    SqliteJournals(tmp_path / "journal", CODEC, emergency_dir=tmp_path / "emergency").release()
    assert [e.type for e in JournalFile(path, CODEC).envelopes()] == ["OrderSubmitted", "SafeStopRequested", outcome]


def test_an_entry_leaves_again_after_the_restart_that_follows_a_safe_stop(tmp_path: Path) -> None:
    path, failures = tmp_path / "session.db", list[BaseException]()
    create_journal(path)
    left = Writer(path, on_failure=failures.append)
    before = Sequencer(writer=left, codec=CODEC, subscribers=[], is_simulated=False, now=lambda: Nanos(0))
    left.start()
    before.publish(SafeStopRequested(reason="disk"), source="supervisor")
    before.publish(SessionStopped(reason="disk", positions=()), source="session")
    left.stop()

    writer = Writer(path, durable_seq=2, on_failure=failures.append)
    sequencer = Sequencer(writer=writer, codec=CODEC, subscribers=[], is_simulated=False, now=lambda: Nanos(0))
    local = LocalTradersPost()
    with LocalTradersPostThread(local) as server:
        runner = HttpRunner(
            sequencer=sequencer,
            webhook=WebhookRouter(server.url, is_live=False),
            is_simulated=False,
            now=lambda: Nanos(0),
            faults=Faults(),
            on_failure=failures.append,
        )
        sequencer.observe(runner.watch)
        with JournalFile(path, CODEC) as journal:
            sequencer.restore(journal)
        sequencer.on_submitted(runner.begin)
        writer.start()
        runner.start()
        sequencer.publish(ActorRestarted(actor="process", incarnation=1, at_seq=2), source="supervisor")
        sequencer.publish(SUBMITTED, source="execution")
        assert sequencer.wait_quiet(lambda: False)
        runner.stop()
        writer.stop()
    assert (local.ledger().requests, failures) == (1, [])
