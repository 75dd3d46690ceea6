"""A process that runs for weeks: what it holds does not grow from session to session."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
from market import KEY, STRATEGY, WEBHOOK_PATH, gateway, traderspost, write_config
from week import live

from adapters.sqlite.writer import CHECKPOINT_PAGES

pytestmark = [pytest.mark.system, pytest.mark.soak]

SESSIONS = 10
SETTLED = 2
"""Sessions after which everything has been loaded and every cache is full."""
MOST_GROWTH = 2**20
"""Bytes per simulated day."""
MOST_WAL = 4 * CHECKPOINT_PAGES * 4096


@pytest.mark.timeout(3600)
def test_a_week_in_one_process_leaves_nothing_behind(replayer: Executor, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("memory, threads and descriptors are read from /proc")
    served = ("--simulate", "--speed", "max", "--trades", "120000", "--sessions", str(SESSIONS))
    with gateway(*served) as port, traderspost("--clock", "request") as address:
        config = write_config(tmp_path, port=port, strategy=STRATEGY, risk="{max_positions: 6}")
        environ = {"DATABENTO_API_KEY": KEY, "TRADERSPOST_WEBHOOK_URL": f"http://{address}{WEBHOOK_PATH}"}
        lived = replayer.submit(live, config, environ).result()
    assert lived.exit_code == 0
    for reading in lived.readings:
        held = f"{reading.threads} threads, {reading.descriptors} descriptors"
        print(f"\n{reading.file}: {reading.rss_bytes / 2**20:.1f} MiB, {held}", end="")
    assert len(lived.readings) == SESSIONS
    settled = lived.readings[SETTLED:]
    growth = np.polyfit(range(len(settled)), [reading.rss_bytes for reading in settled], 1)[0]
    print(f"\n{growth / 2**20:.2f} MiB a day, write-ahead log at most {lived.wal_bytes / 2**20:.1f} MiB")
    assert growth < MOST_GROWTH
    assert lived.wal_bytes < MOST_WAL
    # One more of each may be there when it is read: a look at the journal, a timer.
    assert max(reading.threads for reading in settled) <= lived.readings[0].threads + 1
    assert max(reading.descriptors for reading in settled) <= lived.readings[0].descriptors + 1
