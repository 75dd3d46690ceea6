"""Real trades through the real client: bars against another vendor's, and against an independent fold."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path

import databento as db
import numpy as np
import pytest
from market import MARKET_DATA, assert_replays, gateway, live, write_config

from actors.report import bars
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.bars import Bar

pytestmark = [
    pytest.mark.system,
    pytest.mark.real_data,
    pytest.mark.skipif(not MARKET_DATA.is_dir(), reason=f"real market data is not at {MARKET_DATA}"),
]

Ohlcv = tuple[int, int, int, int, int]
SCALE = 10**9


def recorded_session(
    directory: Path, file: str, product: str, root: str, *arguments: str, faults: str = ""
) -> list[Path]:
    """Run `live` over a recorded file; the session files in order."""
    directory.mkdir(exist_ok=True)
    contract_map = directory / "map.yml"
    contract_map.write_text(f"contracts: [{{symbol: {root}, databento: {{feed_symbol: {product}}}}}]\n")
    served = ["--speed", "max", *(["--faults", faults] if faults else [])]
    with gateway(str(MARKET_DATA / file), *served) as port:
        config = write_config(
            directory,
            port=port,
            contract_map=str(contract_map),
            strategy="{veto: false, warmup_bars: 2, pivot_gate: false}",
        )
        ended = live(config, *arguments)
        assert ended.returncode == 0, ended.stderr[-2000:]
    return sorted((directory / "journal").glob("*.db"))


def minutes(journals: list[Path], contract: str) -> dict[int, Bar]:
    """Closed minutes of one contract over several files, by their start; a repeated one fails."""
    found: dict[int, Bar] = {}
    for path in journals:
        with JournalFile(path, Codec()) as journal:
            for bar in bars(journal.envelopes(types={"SliceClosed"}), timeframe="1m", root=None):
                if bar.contract == contract:
                    assert bar.ts_start not in found, f"minute {bar.ts_start} closed twice"
                    found[bar.ts_start] = bar
    return found


def vendor_minutes(file: str, contract: str) -> dict[int, Ohlcv]:
    """The oracle's minutes of one contract, joined by symbol."""
    store = db.DBNStore.from_file(MARKET_DATA / file)
    ids = {int(i["symbol"]) for i in store.metadata.mappings[contract]}
    rows = store.to_ndarray()
    return {
        int(row["ts_event"]): tuple(int(row[name]) for name in ("open", "high", "low", "close", "volume"))
        for row in rows[np.isin(rows["instrument_id"], sorted(ids))]
    }


def count(journals: list[Path], kind: str) -> list[object]:
    events: list[object] = []
    for path in journals:
        with JournalFile(path, Codec()) as journal:
            events += [envelope.payload for envelope in journal.envelopes(types={kind})]
    return events


def test_gold_through_crashes_and_lost_connections_equals_the_vendors_minutes(tmp_path: Path) -> None:
    journals = recorded_session(
        tmp_path / "gold",
        "GC.trades.20131007.dbn.zst",
        "GC",
        "GC",
        *("--crash", "bars@400", "--crash", "execution@900:handled"),
        faults="fin@12000,rst@30000",
    )
    assert [path.name for path in journals] == ["2013-10-07.db", "2013-10-08.db"]
    statuses = Counter(event.status for event in count(journals, "FeedStatusChanged"))
    assert statuses["reconnecting"] == 2, "a FIN and an RST"
    assert Counter(event.actor for event in count(journals, "ActorCrashed")) == {"bars": 1, "execution": 1}

    ours, oracle = minutes(journals, "GCZ3"), vendor_minutes("GC.ohlcv-1m.20131007-11.dbn.zst", "GCZ3")
    last = max(ours)
    oracle = {start: row for start, row in oracle.items() if start <= last}
    assert sorted(ours) == sorted(oracle), "a minute is missing or too many"
    wrong_volume = [start for start, bar in ours.items() if bar.volume != oracle[start][4]]
    assert wrong_volume in ([], [last])
    equal = sum((b.open, b.high, b.low, b.close) == oracle[start][:4] for start, b in ours.items())
    assert equal / len(ours) >= 0.997, f"{equal} of {len(ours)} minutes equal in OHLC"

    # The daily break: no gold between 16:15 and 17:00 Chicago; the quarter hour after 16:00 is flagged.
    of_day = dt.datetime(2013, 10, 7, tzinfo=dt.UTC)
    clock = {start: dt.datetime.fromtimestamp(start // SCALE, dt.UTC) - of_day for start in ours}
    in_break = [
        start for start, at in clock.items() if dt.timedelta(hours=21, minutes=15) <= at < dt.timedelta(hours=22)
    ]
    assert in_break == []
    outside = {start for start, bar in ours.items() if bar.is_outside_hours}
    late = {s for s, at in clock.items() if dt.timedelta(hours=21) <= at < dt.timedelta(hours=21, minutes=15)}
    assert late
    assert outside == late
    for journal in journals:
        assert_replays(journal)


def independent_fold(trades: np.ndarray) -> dict[int, Ohlcv]:
    """Minutes by ts_recv, one trade at a time: nothing in common with the aggregator."""
    folded: dict[int, list[int]] = {}
    for trade in trades:
        price, size = int(trade["price"]), int(trade["size"])
        bar = folded.setdefault(int(trade["ts_recv"]) // (60 * SCALE) * 60 * SCALE, [price, price, price, price, 0])
        bar[1], bar[2], bar[3], bar[4] = max(bar[1], price), min(bar[2], price), price, bar[4] + size
    return {start: tuple(bar) for start, bar in folded.items()}


def test_nanosecond_stamps_and_repeated_records_fold_as_an_independent_fold_does(tmp_path: Path) -> None:
    file = "ESH4.trades.20231225.dbn.zst"
    journals = recorded_session(tmp_path / "es", file, "ES", "ES", "--crash", "feed@12", faults="rst@1500")
    trades = db.DBNStore.from_file(MARKET_DATA / file).to_ndarray()
    keys = Counter((int(t["instrument_id"]), int(t["ts_event"]), int(t["sequence"])) for t in trades)
    assert sum(number for number in keys.values() if number > 1) > 0, "the sample repeats records"
    recorded = sum(len(event.trades) for event in count(journals, "TradesReceived"))
    assert recorded == len(trades)
    ours = minutes(journals, "ESH4")
    assert {s: (b.open, b.high, b.low, b.close, b.volume) for s, b in ours.items()} == independent_fold(trades)
    assert sum(bar.trades for bar in ours.values()) == len(trades)
    for journal in journals:
        assert_replays(journal)
