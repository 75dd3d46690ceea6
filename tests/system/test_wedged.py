"""What hangs instead of failing: the mailboxes that fill behind it, and the process that only another one can end."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from in_this_process import await_envelopes, envelopes, live_in_thread
from journals import not_decided_again, restarts
from market import command, environment
from programs import run
from test_real_time import QuietMarket, RoundTheClock

from actors.faults import Faults
from actors.health import OWED_STOPS
from actors.live import EXIT_SAFE_STOP
from actors.wiring import parse_time
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.ports import FeedItem, Mapped
from domain.units import MINUTE, Nanos

pytestmark = pytest.mark.system

LIMIT_S = 60.0


class Wedge(Faults):
    """Holds bars at its first event of the market until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def reach(self, actor: str, seq: int, site: Any) -> None:
        if actor == "bars" and site == "before" and seq > 5:
            self.may_go_on.wait(LIMIT_S)


class StormOfMappings(QuietMarket):
    """A vendor that names another instrument for the same contract again and again: each is a mapping and a reset."""

    def __init__(self) -> None:
        super().__init__()
        self.named = 0
        self.is_over = False

    def take(self, timeout_s: float) -> list[FeedItem]:
        items = super().take(0.0 if not self.is_over else timeout_s)
        if self.is_over or (not any(isinstance(item, Mapped) for item in items) and not self.named):
            return items
        storm: list[FeedItem] = [
            Mapped(symbol="MESM4", raw_symbol="MESM4", instrument_id=8 + number % 2, ts=Nanos(time.time_ns()))
            for number in range(self.named, self.named + 500)
        ]
        self.named += len(storm)
        return [*items, *storm]


def test_mailboxes_that_fill_stop_the_trading_and_lose_nothing(replayer: Executor, tmp_path: Path) -> None:
    started, wedge, storm = Nanos(time.time_ns()), Wedge(), StormOfMappings()
    journal = tmp_path / "journal" / f"{RoundTheClock(started).session_of(started, ()).date}.db"
    with LocalTradersPostThread(LocalTradersPost()) as server:
        how: dict[str, Any] = {
            "port": 0,
            "key": "db-wedge-key-of-the-tests-000",
            "calendar": RoundTheClock(started),
            "make_webhook": lambda: WebhookRouter(server.url, is_live=False),
            "roots": ("ES",),
            "clock": "system",
        }
        with live_in_thread(tmp_path, faults=wedge, source=storm, **how) as running:
            await_envelopes(journal, bool, LIMIT_S, "SafeStopRequested")
            storm.is_over = True
            wedge.may_go_on.set()
            assert running.result().exit_code == EXIT_SAFE_STOP
        flooded = envelopes(journal)
        with live_in_thread(tmp_path, source=QuietMarket(), **how) as running:
            await_envelopes(journal, lambda record: record[-1].payload.status == "live", LIMIT_S, "FeedStatusChanged")
            assert running.stop().exit_code == 0
    kinds = [e.type for e in flooded]
    assert kinds.index("EntriesClosed") < kinds.index("SafeStopRequested")
    stop = next(e for e in flooded if e.type == "SafeStopRequested")
    assert stop.payload.reason.startswith("the machines are ")
    assert stop.seq > OWED_STOPS
    ids = [e.payload.instrument_id for e in flooded if e.type == "SymbolMapped"]
    assert ids == [7, *(8 + number % 2 for number in range(len(ids) - 1))], "each mapping, in its order, once"
    assert Counter(kinds)["RootReset"] == len(ids) - 1
    assert restarts(journal) == {"process": 1}
    assert replayer.submit(not_decided_again, journal).result(LIMIT_S) == ""


def test_a_process_that_hangs_is_ended_by_its_watchdog_and_the_next_one_loses_nothing(
    replayer: Executor, tmp_path: Path
) -> None:
    """The test is systemd: it kills when no sign of life has come for WatchdogSec."""
    until = ("--until", "2024-04-30T22:40Z", "--demo", "--speed", "max")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(4)
        process = subprocess.Popen(
            command("live", *until, "--journal-dir", str(tmp_path / "journal"), "--crash", "strategy@40:wedge"),
            env=environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="4000000"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            told = _listen(manager)
            assert process.poll() is None, "it does not end by itself"
        finally:
            process.kill()
            code = process.wait(LIMIT_S)
    assert code == -signal.SIGKILL
    assert b"WATCHDOG=1" in told
    hangs = [line for line in told if b"not well" in line]
    assert b"strategy has owed an answer to seq 4" in hangs[0]
    ended = run("live", *until, "--journal-dir", tmp_path / "journal")
    assert ended.code == 0, ended.err
    (journal,) = (tmp_path / "journal").glob("*.db")
    assert restarts(journal) == {"process": 1}
    minutes = [e.payload.ts for e in envelopes(journal, "SliceClosed") if e.payload.minutes]
    first, last = (parse_time(f"2024-04-30T22:{minute:02d}Z") for minute in (1, 40))
    assert minutes == list(range(first, last + 1, MINUTE)), "each minute once"
    assert replayer.submit(not_decided_again, journal).result(LIMIT_S) == ""


def _listen(manager: socket.socket) -> Sequence[bytes]:
    """What the process tells its manager, until it has said nothing for WatchdogSec after its first sign of life."""
    told: list[bytes] = []
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            told.append(manager.recv(4096))
        except TimeoutError:
            if b"WATCHDOG=1" in told:
                return told
    raise AssertionError(f"the watchdog was fed all the time: {told[-5:]}")
