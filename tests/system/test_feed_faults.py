"""A session through many random faults of its feed: the same trades, bars and decisions as without any.

The real client over TCP, all actors, real files. A run with faults is compared with one without, event by event; the
data of both hold byte-identical duplicates and records out of order.
"""

from __future__ import annotations

import datetime as dt
import random
import re
from collections import Counter
from concurrent.futures import Executor
from functools import cache
from pathlib import Path

import attrs
import numpy as np
import pytest
import short_session
from in_this_process import envelopes, live_in_thread
from journals import Line, canonical, first_difference, not_decided_again
from market import KEY, MARKET_DATA

from actors.wiring import parse_time
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.databento.dbn_files import read_trades
from adapters.databento.gateway import HOST, MAX_SPEED, Gateway, GatewayThread
from adapters.databento.gateway_faults import FaultPlan, parse_faults
from adapters.databento.gateway_source import GatewaySource, RecordedSource, SimulatedSessions
from adapters.databento.live import DatabentoSource
from adapters.databento.market_simulator import SimulatedMarket
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.market import TradeArray
from domain.units import Nanos

pytestmark = pytest.mark.system

DISTURBED = "duplicate:3,reorder:2"
QUICK = ("fin", "rst", "garbage", "error3", "error6", "skip", "remap", "slow", "metadata", "error4")
"""What is noticed at once."""
SILENT = ("hang", "mute", "stall", "restart")
"""What takes the watchdog or a new gateway."""
FAULTS = 12
TRADING = {"decision_timeframe": "1h", "warmup_bars": 2, "entry_ibs_high": 0.4, "exit_ibs_low": 0.6}


@attrs.frozen
class Trial:
    """A market, and what trades on it."""

    name: str
    source: GatewaySource
    roots: tuple[str, ...]
    strategy: dict[str, object]
    contract_map: Path = CONTRACT_MAP_FILE
    until: str | None = None


@attrs.frozen
class Run:
    journals: list[Path]
    records_sent: int

    def trades(self) -> TradeArray:
        batches = [e.payload.trades for path in self.journals for e in envelopes(path, "TradesReceived")]
        return np.concatenate(batches)

    def count(self, status: str) -> int:
        events = [e.payload for path in self.journals for e in envelopes(path, "FeedStatusChanged")]
        return Counter(event.status for event in events)[status]


def run(trial: Trial, directory: Path, faults: str = "") -> Run:
    spec = f"{DISTURBED},{faults}" if faults else DISTURBED
    gateway = Gateway(trial.source, keys=(KEY,), speed=MAX_SPEED, faults=spec)
    with GatewayThread(gateway) as served, LocalTradersPostThread(LocalTradersPost(clock="request")) as server:
        client = DatabentoSource(
            key=KEY,
            dataset="GLBX.MDP3",
            gateway=HOST,
            port=served.port,
            heartbeat_interval_s=1,
            silence_margin_s=1.0,
        )
        with live_in_thread(
            directory,
            port=served.port,
            key=KEY,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=trial.roots,
            contract_map=trial.contract_map,
            source=client,
            until_ns=None if trial.until is None else parse_time(trial.until),
            **trial.strategy,
        ) as running:
            assert running.result(280).exit_code == 0
    return Run(sorted((directory / "journal").glob("*.db")), gateway.records_sent)


def storm(seed: int, records: int, count: int, silent: int) -> str:
    """`count` faults at random places among `records`, `silent` of them of the slow kind."""
    chance = random.Random(seed)
    kinds = [*chance.choices(QUICK, k=count - silent), *chance.choices(SILENT, k=silent)]
    chance.shuffle(kinds)
    places = sorted(chance.sample(range(1, records), count))
    return ",".join(f"{kind}@{place}" for kind, place in zip(kinds, places, strict=True))


def served(trial: Trial, mapped: Run) -> TradeArray:
    """What the gateway had to send of the contracts that were mapped."""
    ids = {e.payload.instrument_id for path in mapped.journals for e in envelopes(path, "SymbolMapped")}
    trades = FaultPlan(parse_faults(DISTURBED)).disturb(0, trial.source.trades(0))
    until = Nanos(2**62) if trial.until is None else parse_time(trial.until)
    return trades[np.isin(trades["instrument_id"], sorted(ids)) & (trades["ts_recv"] < until)]


def compared(path: Path) -> list[Line]:
    """The file's lines, without the hash of the file before it: that one holds the feed's statuses too."""
    hashes = re.compile(r'"previous_(head|file_sha256)":"[0-9a-f]*"')
    return [
        (*line[:-1], hashes.sub("", line[-1]) if isinstance(line[-1], str) else line[-1]) for line in canonical(path)
    ]


def assert_untouched(trial: Trial, faults: str, calm: Run, through: Run, replayer: Executor) -> None:
    last = max(fault.at or 0 for fault in parse_faults(faults))
    assert through.records_sent >= last, "not every fault struck"
    assert np.array_equal(through.trades(), served(trial, through)), faults
    assert through.count("gap") == 0, faults
    assert [path.name for path in through.journals] == [path.name for path in calm.journals]
    for ours, theirs in zip(calm.journals, through.journals, strict=True):
        assert first_difference(compared(ours), compared(theirs)) == "", faults
    for path in through.journals:
        assert replayer.submit(not_decided_again, path).result() == "", faults


# ---------------------------------------------------------------- two seeds, on half an hour


@pytest.fixture(scope="module")
def half_an_hour() -> Trial:
    return Trial(
        name="short",
        source=short_session.MARKET,
        roots=tuple(short_session.PRODUCTS),
        strategy=short_session.STRATEGY,
        until=short_session.UNTIL,
    )


@pytest.fixture(scope="module")
def calm_half_hour(half_an_hour: Trial, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(half_an_hour, tmp_path_factory.mktemp("calm"))


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_at_random_places_change_nothing(
    seed: int, half_an_hour: Trial, calm_half_hour: Run, tmp_path: Path, replayer: Executor
) -> None:
    faults = storm(seed, calm_half_hour.records_sent, count=5, silent=0)
    through = run(half_an_hour, tmp_path, faults)
    assert_untouched(half_an_hour, faults, calm_half_hour, through, replayer)


# ---------------------------------------------------------------- forty thousand trades, twenty seeds


@cache
def trial(name: str, directory: Path) -> Trial:
    if name == "simulated":
        market = SimulatedMarket(1, trades_per_session=56_000)
        source = SimulatedSessions(market=market, dates=(dt.date(2024, 5, 1),))
        return Trial(name=name, source=source, roots=("ES", "NQ", "RTY", "YM", "GC", "SI", "CL"), strategy=TRADING)
    contract_map = directory / "map.yml"
    contract_map.write_text("contracts: [{symbol: GC, databento: {feed_symbol: GC}}]\n")
    recorded = read_trades([MARKET_DATA / "GC.trades.20131007.dbn.zst"])
    return Trial(
        name=name,
        source=RecordedSource(recorded=recorded),
        roots=("GC",),
        strategy=TRADING,
        contract_map=contract_map,
    )


_calm: dict[str, tuple[Trial, Run]] = {}
"""The undisturbed run of each market, made when it is first needed."""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["simulated", pytest.param("real", marks=pytest.mark.real_data)])
def test_forty_thousand_trades_through_twelve_faults(
    name: str, seed: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, replayer: Executor
) -> None:
    if name == "real" and not MARKET_DATA.is_dir():
        pytest.skip(f"real market data is not at {MARKET_DATA}")
    if name not in _calm:
        made = trial(name, tmp_path_factory.mktemp(name))
        _calm[name] = made, run(made, tmp_path_factory.mktemp(f"{name}-calm"))
    made, calm = _calm[name]
    faults = storm(seed, calm.records_sent, FAULTS + seed % 4, silent=2)
    through = run(made, tmp_path, faults)
    assert_untouched(made, faults, calm, through, replayer)
    print(
        f"{name} seed {seed}: {len(through.trades())} trades, {faults.count('@')} faults, "
        f"{through.count('reconnecting')} outages on record, {through.records_sent} records sent: identical"
    )
