"""From the record that closes a slice to the first byte of the order's POST, in real time, after 50 ms of idleness.

The whole live program runs in this process around a feed and a clock of the bench: minutes pass as fast
as they are asked for. The webhook's server is a process of its own that stamps the first byte it receives
(CLOCK_MONOTONIC is one clock for all processes). Every second minute closes on its low and is bought, the
next ones close on their high until it is sold.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from market import WEBHOOK_PATH

from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch

SAMPLES = 100
IDLE_S = 0.05
POST_LIMIT_S = 0.75
REPEAT_LIMIT_S = 5.0
ANSWER_S = 0.02
"""The answer is on record before the clock jumps on: an exit's repetition counts from it."""
WARM_UP = 10
MINUTE_NS = 60_000_000_000
START = "2024-04-30T23:00:00Z"
CONTRACT, INSTRUMENT = "MESM4", 1
LOW, MIDDLE, HIGH = 5_000_000_000_000, 5_005_000_000_000, 5_010_000_000_000

_SERVER = r"""
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
answer = b'{"success":true,"id":"x"}'
head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        data = connection.recv(65536)
        stamp = time.monotonic_ns()
        if not data:
            break
        while True:
            top, _, body = data.partition(b"\r\n\r\n")
            lines = [line.lower().split(b":") for line in top.split(b"\r\n")]
            length = next((int(line[1]) for line in lines if line[0] == b"content-length"), 0)
            if b"\r\n\r\n" in data and len(body) >= length:
                break
            data += connection.recv(65536)
        connection.sendall(head + answer)
        print(stamp, flush=True)
"""
"""One connection at a time; a line with the stamp of each request's first byte."""


def prepare_latency(scale: Scale) -> Facts:
    """How many samples."""
    return {"samples": max(10, round(SAMPLES * scale.repeats))}


# ---------------------------------------------------------------- the two sides


def latency_work(facts: Facts) -> Side:
    """The product's way: batch, bars, strategy, risk, two publishes, barrier, POST."""
    from actors.main import COLLECT_AFTER
    from adapters.log import configure_logging

    configure_logging("error", stream=sys.stderr)
    gc.set_threshold(COLLECT_AFTER)  # as the program does
    with Stopwatch() as watch, _server() as server, tempfile.TemporaryDirectory() as place:
        taken = _LiveRun(Path(place), server).samples(facts["samples"] + WARM_UP)
    return _side(taken[WARM_UP:], watch)


def latency_reference(facts: Facts) -> Side:
    """One FULL commit of a row and one aiohttp POST of an order's size, a connection each as the product's."""
    with Stopwatch() as watch, _server() as server, tempfile.TemporaryDirectory() as place:
        taken = asyncio.run(_bare_samples(Path(place), server, facts["samples"] + WARM_UP))
    return _side(taken[WARM_UP:], watch)


def _side(taken_ns: Sequence[int], watch: Stopwatch) -> Side:
    ordered = sorted(taken_ns)
    p50, p99 = statistics.median(ordered) / 1e9, ordered[int(len(ordered) * 0.99)] / 1e9
    return Side(
        cpu_s=p50,
        wall_s=watch.wall_s,
        answer=len(ordered),
        figures={"p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3, "samples": len(ordered)},
    )


async def _bare_samples(directory: Path, server: _Server, count: int) -> list[int]:
    import aiohttp

    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, payload TEXT NOT NULL)")
    taken = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for number in range(count):
            await asyncio.sleep(IDLE_S)
            started_ns = time.monotonic_ns()
            connection.execute("INSERT INTO events VALUES (?, ?)", (number, "x" * 500))
            async with session.post(server.url, data=b"x" * 500) as answer:
                await answer.read()
            taken.append(server.stamp(POST_LIMIT_S) - started_ns)
    connection.close()
    return taken


# ---------------------------------------------------------------- the webhook's server


class _Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.url = f"http://127.0.0.1:{self._lines.readline().strip()}{WEBHOOK_PATH}"
        self._stamps: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._lines:
            self._stamps.put(int(line))

    def stamp(self, limit_s: float) -> int:
        """When the next request's first byte came. Raises queue.Empty when none does."""
        return self._stamps.get(timeout=limit_s)


@contextlib.contextmanager
def _server() -> Iterator[_Server]:
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    try:
        yield _Server(process)
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- the live program around our feed


class _Market:
    """FeedSource and FeedConnection in one, and the clock: time is where the last record put it, and goes on."""

    def __init__(self, start_ns: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self._start_ns = start_ns
        self._set(start_ns)
        self._sequence = 0

    def _set(self, now_ns: int) -> None:
        self._at = (now_ns, time.monotonic_ns())

    def now(self) -> Any:
        at, since = self._at
        return at + time.monotonic_ns() - since

    def trade(self, ts: int, price: int) -> int:
        """Deliver one trade at `ts`, which becomes the present; when it was handed over."""
        import numpy as np

        from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS
        from domain.ports import Records

        self._sequence += 1
        record = np.zeros(1, TRADE_DTYPE)
        record["length"], record["action"], record["side"], record["size"] = TRADE_LENGTH_WORDS, b"T", b"N", 1
        record["instrument_id"], record["price"], record["sequence"] = INSTRUMENT, price, self._sequence
        record["ts_event"] = record["ts_recv"] = ts
        raw = record.tobytes()
        self._set(ts)
        started_ns = time.monotonic_ns()
        self._queue.put(Records(raw=raw))
        return started_ns

    # FeedSource

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Any], Any]:
        return {symbol: self._mapped(symbol) for symbol in symbols if symbol.endswith(".0")}, self._start_ns

    def connect(self, raw_symbols: Sequence[str], start_ns: Any) -> Any:
        from domain.ports import ReplayCompleted, Subscribed

        for item in (Subscribed(), self._mapped(CONTRACT), ReplayCompleted()):
            self._queue.put(item)
        return self

    def _mapped(self, symbol: str) -> Any:
        from domain.ports import Mapped
        from domain.units import Nanos

        return Mapped(symbol=symbol, raw_symbol=CONTRACT, instrument_id=INSTRUMENT, ts=Nanos(self._start_ns))

    # FeedConnection

    def take(self, timeout_s: float) -> list[Any]:
        try:
            items = [self._queue.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def close(self) -> None:
        """Nothing is open."""


class _LiveRun:
    """`run_live` in real time, in a thread."""

    def __init__(self, directory: Path, server: _Server) -> None:
        from actors.wiring import parse_time

        self._directory, self._server = directory, server
        self._market = _Market(parse_time(START))
        self._minute = parse_time(START) // MINUTE_NS

    def samples(self, count: int) -> list[int]:
        """Nanoseconds of `count` orders."""
        stopping = threading.Event()
        thread = threading.Thread(target=self._run, args=(stopping,), daemon=True)
        thread.start()
        taken: list[int] = []
        is_held = is_repeat_due = False
        self._market.trade(self._minute * MINUTE_NS, MIDDLE)
        time.sleep(1.0)  # until the feed is live: what came before decides nothing
        while len(taken) < count:
            assert thread.is_alive(), "the live program ended"
            latency_ns = self._one_minute(HIGH if is_held else LOW, is_repeat_due=is_repeat_due)
            is_repeat_due = is_held and latency_ns is not None
            if latency_ns is not None:
                taken.append(latency_ns)
                is_held = not is_held
        stopping.set()
        thread.join(30.0)
        return taken

    def _one_minute(self, close: int, *, is_repeat_due: bool) -> int | None:
        """Let a minute close at `close`; how long its order took, None when there was none.

        The exit of the minute before is sent a second time 20 s after it was accepted: that is waited for.
        """
        start = self._minute * MINUTE_NS
        for second, price in ((10, LOW), (30, HIGH), (50, close)):
            self._market.trade(start + second * 1_000_000_000, price)
            time.sleep(0.002)
            if second == 30 and is_repeat_due:
                self._server.stamp(REPEAT_LIMIT_S)
        time.sleep(IDLE_S)
        self._minute += 1
        started_ns = self._market.trade(self._minute * MINUTE_NS + 1_000_000, MIDDLE)
        try:
            latency_ns = self._server.stamp(POST_LIMIT_S) - started_ns
        except queue.Empty:
            return None
        time.sleep(ANSWER_S)
        return latency_ns

    def _run(self, stopping: threading.Event) -> None:
        from actors.faults import Faults
        from actors.live import LiveParts, run_live
        from actors.opening import LivePlan, Opener
        from actors.wiring import MACHINE_PARTS, VERSION, code_digest
        from adapters.calendar import CmeCalendar
        from adapters.config import CONTRACT_MAP_FILE
        from adapters.contract_map import load_contract_map
        from adapters.sqlite.codec import Codec
        from adapters.sqlite.directory import SqliteJournals
        from adapters.traderspost.router import WebhookRouter
        from domain.events import HistoryLoaded
        from domain.ibs import StrategySettings
        from domain.risk import RiskSettings

        roots = tuple(root for root in load_contract_map(CONTRACT_MAP_FILE).roots if root.root == "ES")
        settings = StrategySettings(
            veto=False,
            decision_timeframe="1m",
            warmup_bars=0,
            pivot_gate=False,
            entry_windows=("00:00-24:00",),
            no_entry_before_auto_close_s=0,
        )
        plan = LivePlan(
            mode="paper",
            is_demo=False,
            account="bench",
            clock="system",
            seed=1,
            roots=roots,
            strategy=settings,
            risk=RiskSettings(),
            version=VERSION,
            code_digest=code_digest(),
            config_digest="",
            libraries={},
        )
        codec = Codec()
        journals = SqliteJournals(self._directory / "journal", codec)
        source: Any = self._market
        parts = LiveParts(
            journals=journals,
            codec=codec,
            source=source,
            make_webhook=lambda: WebhookRouter(self._server.url, is_live=False),
            machine_parts=MACHINE_PARTS,
            now=self._market.now,
            faults=Faults(()),
        )
        opener = Opener(
            plan=plan,
            journals=journals,
            calendar=CmeCalendar(),
            source=source,
            parts_of=lambda opened: MACHINE_PARTS,
            load_history=lambda session: HistoryLoaded(tables=()),
            now=parts.now,
        )
        run_live(plan=plan, parts=parts, opener=opener, stopping=stopping, on_session=lambda path, tally: None)
        journals.release()


LATENCY = Benchmark(
    name="latency",
    prepare=prepare_latency,
    work=latency_work,
    reference=latency_reference,
    rows=(
        Row(
            name="latency",
            title="slice-closing record to the first byte of the POST, after 50 ms idle, against one FULL commit "
            "and one aiohttp POST, p50",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=3,
            goal=2,
        ),
        Row(
            name="latency-p99",
            title="the same, p99",
            figure=lambda work, reference: work.figures["p99_ms"] / reference.figures["p99_ms"],
            unit="x",
            required=3,
            goal=2,
        ),
    ),
    # Wall time: many short turns, so that what else the machine does falls on both sides.
    pairs=10,
    note="equal numbers of orders; wall clock, so the machine has to be quiet",
)
