"""Files and sessions: sealing, going on in the next one, segments."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from market import STRATEGY, assert_replays, gateway, live, only_journal, replay, traderspost, write_config

from adapters.databento.market_simulator import SimulatedMarket, session_dates
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, file_sha256
from domain.events import HistoryLoaded, SessionOpened, StateCarried

pytestmark = pytest.mark.system

TRADES = 60_000
FIRST_SESSION = "2024-05-02"


def events_of(path: Path, *types: str) -> list[object]:
    with JournalFile(path, Codec()) as journal:
        return [envelope.payload for envelope in journal.envelopes(types=set(types))]


def traded(paths: list[Path]) -> int:
    return sum(len(event.trades) for path in paths for event in events_of(path, "TradesReceived"))


def test_a_session_is_sealed_and_the_next_goes_on_without_a_trade_lost_or_doubled(tmp_path: Path) -> None:
    served = ("--simulate", "--speed", "max", "--trades", str(TRADES), "--session", FIRST_SESSION, "--sessions", "2")
    with gateway(*served) as port:
        config = write_config(tmp_path, port=port, roots=("ES", "GC"), strategy=STRATEGY)
        ended = live(config)
    assert ended.returncode == 0, ended.stderr[-2000:]
    paths = sorted((tmp_path / "journal").glob("*.db"))
    assert [path.name for path in paths] == ["2024-05-02.db", "2024-05-03.db"]

    market = SimulatedMarket(1, trades_per_session=TRADES)
    dates = session_dates(dt.date.fromisoformat(FIRST_SESSION), 2)
    (first, second) = (events_of(path, "SessionOpened")[0] for path in paths)
    assert isinstance(first, SessionOpened)
    assert isinstance(second, SessionOpened)
    wanted = {
        mapped.instrument_id
        for path in paths
        for mapped in events_of(path, "SymbolMapped")  # type: ignore[attr-defined]
    }
    sent = sum(int(np.isin(market.session_trades(d)["instrument_id"], sorted(wanted)).sum()) for d in dates)
    assert traded(paths) == sent

    (carried,) = events_of(paths[1], "StateCarried")
    (history,) = events_of(paths[1], "HistoryLoaded")
    assert isinstance(carried, StateCarried)
    assert isinstance(history, HistoryLoaded)
    assert carried.previous_file_sha256 == file_sha256(paths[0])
    assert carried.previous_session == "2024-05-02"
    assert second.session.start_ns == first.session.end_ns
    tables = {(table.root, table.timeframe): table for table in history.tables}
    assert len(tables["ES", "1h"]) == 23
    assert len(tables["ES", "1d"]) == 1
    for path in paths:
        assert path.stat().st_mode & 0o222 == 0, "a sealed file is read-only"
        assert_replays(path)


def test_changed_settings_open_a_segment_that_goes_on_from_the_fold(tmp_path: Path) -> None:
    with (
        gateway("--simulate", "--speed", "max", "--trades", "120000") as port,
        traderspost("--clock", "request") as address,
    ):
        config = write_config(tmp_path, port=port, strategy=STRATEGY)
        assert live(config, "--until", "2024-05-01T01:10:00Z", webhook=address).returncode == 0
        write_config(tmp_path, port=port, strategy=STRATEGY, risk="{max_positions: 2}")
        ended = live(config, "--until", "2024-05-01T02:10:00Z", webhook=address)
        assert ended.returncode == 0, ended.stderr[-2000:]
    with (
        gateway("--simulate", "--speed", "max", "--trades", "120000") as port,
        traderspost("--clock", "request") as address,
    ):
        whole = write_config(tmp_path / "whole", port=port, strategy=STRATEGY)
        assert live(whole, "--until", "2024-05-01T02:10:00Z", webhook=address).returncode == 0
    paths = sorted((tmp_path / "journal").glob("*.db"), key=lambda path: len(path.name))
    assert [path.name for path in paths] == ["2024-05-01.db", "2024-05-01.2.db"]
    assert traded(paths) == traded([only_journal(tmp_path / "whole")])
    (stopped,) = events_of(paths[0], "SessionStopped")
    (carried,) = events_of(paths[1], "StateCarried")
    assert isinstance(carried, StateCarried)
    assert carried.positions == stopped.positions  # type: ignore[attr-defined]
    assert carried.positions, "nothing was held: the test shows too little"
    assert carried.open_hours
    report = replay(paths[0])
    assert report.returncode == 0, report.stdout
