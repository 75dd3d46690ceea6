"""One session gives way to the next in a process that goes on: sealed, carried and opened while the market trades.

Nothing that arrives meanwhile is lost or doubled: both files together hold the market's own records, and their bars
are those of a fold of these. A process that dies on the way leaves to the next start what is still to be done.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_this_process import LiveInThread, await_envelopes, envelopes, live_in_thread
from journals import canonical, first_difference
from market import (
    KEY,
    STRATEGY,
    WEBHOOK_PATH,
    assert_replays,
    command,
    environment,
    gateway,
    live,
    traderspost,
    write_config,
)
from test_real_time import TwoSessions

from actors.wiring import parse_time
from adapters.databento.gateway import Gateway, GatewayRequest, GatewayThread, build_source
from adapters.databento.market_simulator import SimulatedMarket
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, file_sha256
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.market import TradeArray
from domain.units import HOUR, MINUTE, Nanos, floor_to

pytestmark = pytest.mark.system

NAMES = ("2024-05-01.db", "2024-05-02.db")


@contextmanager
def rolling(directory: Path, gateway: Gateway, end_ns: Nanos, **more: Any) -> Iterator[LiveInThread]:
    """The program over the real client and gateway, in two sessions, the first of which ends at `end_ns`."""
    with (
        GatewayThread(gateway) as thread,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            directory,
            port=thread.port,
            key=KEY,
            calendar=TwoSessions(end_ns),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES", "GC"),
            decision_timeframe="1m",
            entry_windows=("00:00-24:00",),
            **more,
        ) as running,
    ):
        yield running


def assert_nothing_lost_or_doubled(directory: Path, tape: TradeArray) -> None:
    """The files hold the records of `tape` once each, in their order, and the bars of their fold."""
    first, second = (directory / "journal" / name for name in NAMES)
    record = [*envelopes(first), *envelopes(second)]
    contracts = {e.payload.instrument_id: e.payload.contract for e in record if e.type == "SymbolMapped"}
    tape = tape[np.isin(tape["instrument_id"], sorted(contracts))]
    on_file = np.concatenate([e.payload.trades for e in record if e.type == "TradesReceived"])
    assert len(on_file) == len(tape)
    assert on_file.tobytes() == tape.tobytes()
    ends = max(e.payload.ts for e in record if e.type == "SliceClosed")
    expected: dict[tuple[str, int], list[int]] = {}
    for trade in tape[tape["ts_recv"] < ends]:
        price, size = int(trade["price"]), int(trade["size"])
        place = contracts[int(trade["instrument_id"])], int(floor_to(Nanos(int(trade["ts_recv"])), MINUTE))
        bar = expected.setdefault(place, [price, price, price, price, 0, 0])
        bar[1:] = [max(bar[1], price), min(bar[2], price), price, bar[4] + size, bar[5] + 1]
    bars = [bar for e in record if e.type == "SliceClosed" for bar in e.payload.minutes]
    assert len(bars) == len(expected)
    for bar in bars:
        found = [bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades]
        assert found == expected[bar.contract, bar.ts_start], bar
    (carried,) = [e.payload for e in envelopes(second, "StateCarried")]
    assert carried.previous_file_sha256 == file_sha256(first)
    for path in (first, second):
        assert_replays(path)


def test_what_arrives_while_a_file_is_sealed_and_the_next_opens_is_there_once(tmp_path: Path) -> None:
    market = build_source(GatewayRequest(simulate=True, trades_per_session=60_000))[0]
    end, until = parse_time("2024-04-30T22:40Z"), parse_time("2024-04-30T23:10Z")
    with rolling(tmp_path, Gateway(market, keys=(KEY,), speed=1_000), end, until_ns=until) as running:
        assert running.result().exit_code == 0
    tape = market.trades(0)
    assert_nothing_lost_or_doubled(tmp_path, tape[tape["ts_recv"] < until])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_so_it_is_in_real_time(tmp_path: Path) -> None:
    source, is_real_time = build_source(GatewayRequest(simulate=True, start_at="now"))
    end = Nanos(floor_to(Nanos(time.time_ns()), MINUTE) + 2 * MINUTE)
    second = tmp_path / "journal" / NAMES[1]
    with rolling(tmp_path, Gateway(source, keys=(KEY,), is_real_time=is_real_time), end, clock="system") as running:
        await_envelopes(second, bool, 300, "SliceClosed")
        assert running.stop().exit_code == 0
    watermark = max(e.payload.watermark for e in envelopes(second, "ClockTicked"))
    tape = SimulatedMarket(1).trades_between(Nanos(end - HOUR), watermark)
    assert_nothing_lost_or_doubled(tmp_path, tape)


# ---------------------------------------------------------------- a process that dies on the way


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_process_killed_between_two_sessions_leaves_the_same_files(tmp_path: Path) -> None:
    served = ("--simulate", "--speed", "max", "--trades", "60000", "--session", "2024-05-02", "--sessions", "2")
    names, chance, found = ("2024-05-02.db", "2024-05-03.db"), random.Random(1), set()

    def directory(number: int) -> Path:
        return tmp_path / str(number)

    for number in range(9):
        with gateway(*served) as port, traderspost("--clock", "request") as address:
            config = write_config(directory(number), port=port, roots=("ES", "GC"), strategy=STRATEGY)
            if number:
                found.add(kill_at_the_end(config, address, names, chance.uniform(0, 0.3), is_next_open=number % 2 == 0))
            ended = live(config, webhook=address)
            assert ended.returncode == 0, ended.stderr[-2000:]
        for name in names:
            undisturbed, killed = (canonical(place / "journal" / name) for place in (directory(0), directory(number)))
            assert first_difference(undisturbed, killed) == "", f"{name} of run {number}"
    print(f"\nkilled while the files were {sorted(found)}")
    assert len(found) > 1


def kill_at_the_end(
    config: Path, address: str, names: tuple[str, str], after_s: float, *, is_next_open: bool
) -> tuple[str, bool]:
    """Kill `live` that long after its first session has closed, or after the next one's file has been made.

    Returns whether the first file was sealed then, and whether the next was there.
    """
    first, second = (config.parent / "journal" / name for name in names)
    process = subprocess.Popen(
        command("live", "--config", str(config)),
        env=environment(TRADERSPOST_WEBHOOK_URL=f"http://{address}{WEBHOOK_PATH}"),
        cwd=config.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not (second.exists() if is_next_open else is_closed(first)):
            time.sleep(0.01)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL, "it ended before it could be killed"
    finally:
        process.kill()
    return ("closed" if first.stat().st_mode & 0o222 else "sealed", second.exists())


def is_closed(path: Path) -> bool:
    if not path.exists():
        return False
    with JournalFile(path, Codec()) as journal:
        return journal.head().status == "closed"
