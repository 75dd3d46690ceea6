"""Outages of the feed in real time, in a market whose trades and clock the test moves: the whole program around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from in_this_process import await_envelopes, envelopes, live_in_thread
from market import assert_replays
from test_real_time import RoundTheClock

from actors.wiring import parse_time
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.envelope import Envelope
from domain.events import SignalEvaluated
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS
from domain.ports import Ended, FeedItem, Mapped, Records, ReplayCompleted
from domain.risk import RiskSettings
from domain.units import HOUR, MINUTE, SECOND, Nanos

pytestmark = pytest.mark.system

START = parse_time("2024-05-01T14:00:00Z")
IDS = {"MESM4": 1, "MGCM4": 2}


def at(minute: int, second: float = 1) -> Nanos:
    return Nanos(START + minute * MINUTE + int(second * SECOND))


class Market:
    """Implements both feed ports: what has traded is sent, and sent again to whoever comes back."""

    def __init__(self, *unmapped: str) -> None:
        self.now = at(0)
        self.skew = Nanos(0)
        """Of the program's clock."""
        self.ids = dict(IDS)
        self._unmapped = unmapped
        self._is_up, self._is_aged_out = True, False
        self._trades: list[tuple[Nanos, bytes]] = []
        self._items: list[FeedItem] = []
        self._lock = threading.Lock()

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        names = {f"{contract[:3]}.v.0": contract for contract in self.ids}
        found = {symbol: names[symbol] for symbol in symbols if symbol in names}
        return {symbol: self._mapped(raw) for symbol, raw in found.items()}, self.now

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> Market:
        with self._lock:
            if not self._is_up:
                self._items = [Ended(reason="nobody there", is_aged_out=self._is_aged_out)]
                return self
            self._items = [self._mapped(raw) for raw in self.ids if raw not in self._unmapped]
            if start_ns is not None:
                again = b"".join(records for when, records in self._trades if when >= start_ns)
                self._items += [Records(raw=again), ReplayCompleted()]
        return self

    def take(self, timeout_s: float) -> list[FeedItem]:
        """A replay ends in a later look than it began in, as over a network."""
        with self._lock:
            completed = (n for n, item in enumerate(self._items) if n and isinstance(item, ReplayCompleted))
            count = next(completed, len(self._items))
            items, self._items = self._items[:count], self._items[count:]
        if not items:
            time.sleep(timeout_s / 10)
        return items

    def close(self) -> None:
        """A connection is not what is kept here."""

    def trade(self, when: Nanos, **prices: tuple[float, ...]) -> None:
        """It is `when`, and ES and GC trade at these prices."""
        records = b"".join(
            self._record(when, self.ids[{"ES": "MESM4", "GC": "MGCM4"}[root]], price)
            for root, of_root in prices.items()
            for price in of_root
        )
        with self._lock:
            self.now = when
            self._trades.append((when, records))
            if self._is_up:
                self._items.append(Records(raw=records))

    def fall(self, *, is_aged_out: bool = False) -> None:
        """The line goes down; what trades meanwhile is replayed, or lost for good."""
        with self._lock:
            self._is_up, self._is_aged_out = False, is_aged_out
            self._items.append(Ended(reason="reset", is_aged_out=is_aged_out))

    def rise(self) -> None:
        with self._lock:
            self._is_up = True

    def remap(self, contract: str, instrument_id: int) -> None:
        with self._lock:
            self.ids[contract] = instrument_id
            self._items.append(self._mapped(contract))

    def _mapped(self, raw: str) -> Mapped:
        return Mapped(symbol=raw, raw_symbol=raw, instrument_id=self.ids[raw], ts=self.now)

    @staticmethod
    def _record(when: Nanos, instrument_id: int, price: float) -> bytes:
        record = np.zeros(1, TRADE_DTYPE)
        record["length"], record["instrument_id"], record["size"] = TRADE_LENGTH_WORDS, instrument_id, 1
        record["price"], record["ts_event"], record["ts_recv"] = int(price * 10**9), when, when
        return record.tobytes()


LOW = (5_000.0, 5_001.0, 4_999.0)
"""IBS 0: bought."""
MIDDLE = (5_000.0, 5_001.0, 4_999.0, 5_000.0)


@attrs.frozen
class Running:
    market: Market
    journal: Path

    def await_type(self, type: str, count: int = 1, **fields: Any) -> list[Envelope]:
        def of(record: list[Envelope]) -> list[Envelope]:
            return [e for e in record if all(getattr(e.payload, name) == value for name, value in fields.items())]

        return of(await_envelopes(self.journal, lambda record: len(of(record)) >= count, 60, type))


@contextmanager
def running(tmp_path: Path, *unmapped: str, **strategy: Any) -> Iterator[Running]:
    """The program, in a session that began an hour before START; ended in order and replayed."""
    market, calendar = Market(*unmapped), RoundTheClock(START)
    journal = tmp_path / "journal" / f"{calendar.session_of(START, ()).date}.db"
    with (
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            tmp_path,
            port=0,
            key="",
            calendar=calendar,
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES", "GC"),
            clock="system",
            source=market,  # type: ignore[arg-type]
            now=lambda: Nanos(market.now + market.skew),
            risk=RiskSettings(max_positions=1, price_band_pct=Decimal(100)),
            decision_timeframe="1m",
            exit_after_bars=1,
            entry_windows=("00:00-24:00",),
            **strategy,
        ) as live,
    ):
        yield Running(market, journal)
        assert live.stop().exit_code == 0
    assert_replays(journal)


def test_an_outage_over_an_exit_bar_closes_on_return_and_the_entry_of_that_bar_is_not_sent(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        market = run.market
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted")
        market.trade(at(1, 20), ES=(5_000.0,))
        market.trade(at(2), ES=MIDDLE, GC=LOW)
        run.await_type("FillAssumed")
        run.await_type("SliceClosed", 2)
        market.fall()
        run.await_type("FeedStatusChanged", status="reconnecting")
        market.trade(at(3), ES=MIDDLE, GC=LOW)
        market.trade(at(4), ES=MIDDLE, GC=MIDDLE)
        market.now = at(5, 30)
        run.await_type("PositionUnwatched")
        market.rise()
        run.await_type("FeedStatusChanged", 2, status="live")
        market.trade(at(5, 31), ES=MIDDLE, GC=MIDDLE)
        market.trade(at(6), ES=MIDDLE, GC=MIDDLE)
        run.await_type("OrderAccepted", 2)
        market.trade(at(6, 20), ES=MIDDLE)
        market.trade(at(7), ES=MIDDLE)
        run.await_type("FillAssumed", intent="exit")
    record = envelopes(run.journal)
    by_seq = {envelope.seq: envelope for envelope in record}
    signals = [e.payload for e in record if isinstance(e.payload, SignalEvaluated)]
    said = {(s.root, (s.ts - START) // MINUTE): (s.verdict, s.reason) for s in signals}
    assert said["ES", 3] == ("hold", "bar_stop"), "due in a late slice, and waits"
    assert said["GC", 3] == said["GC", 4] == ("refuse", "missed_outage")
    requests = [e for e in record if e.type == "OrderRequested"]
    assert [(e.payload.root, e.payload.intent) for e in requests] == [("ES", "entry"), ("ES", "exit")]
    slice_of_exit = by_seq[requests[-1].cause or 0]
    assert slice_of_exit.ts_ns - slice_of_exit.payload.ts <= 60 * SECOND, "the first fresh slice"


def test_a_changed_mapping_resets_its_root_alone_and_the_old_ones_trades_are_in_no_bar_of_the_new(
    tmp_path: Path,
) -> None:
    with running(tmp_path, warmup_bars=2) as run:
        run.await_type("FeedStatusChanged", status="live")
        for minute in range(3):
            run.market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
            run.await_type("SliceClosed", minute)
        run.market.remap("MGCM4", 77)
        (reset,) = run.await_type("RootReset")
        run.market.trade(at(2, 30), ES=MIDDLE, GC=LOW)
        for minute in range(3, 7):
            run.market.trade(at(minute), ES=MIDDLE, GC=MIDDLE)
            run.await_type("SliceClosed", minute)
    assert (reset.payload.root, reset.payload.reason) == ("GC", "MGCM4 is instrument 77, was 2")
    record = envelopes(run.journal)
    bars = {(b.root, b.ts_start): b for e in record if e.type == "SliceClosed" for b in e.payload.minutes}
    assert (bars["GC", at(2, 0)].trades, bars["ES", at(2, 0)].trades) == (3, 8)
    signals = [e.payload for e in record if isinstance(e.payload, SignalEvaluated)]
    warm = {root: [s.gates[0].value for s in signals if s.root == root] for root in ("ES", "GC")}
    assert warm["ES"] == [f"{count} of 2" for count in range(1, 7)]
    assert warm["GC"] == [f"{count} of 2" for count in (1, 2, 0, 1, 2, 3)]
    reasons = [s.reason for s in signals if s.root == "GC"]
    assert reasons[2:4] == ["gap_in_bar", "warm_up_incomplete"]


def test_records_that_are_lost_for_good_reset_every_root_that_was_open(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.await_type("FeedStatusChanged", status="live")
        run.market.trade(at(0), ES=MIDDLE, GC=MIDDLE)
        run.market.trade(at(1), ES=MIDDLE, GC=MIDDLE)
        run.await_type("SliceClosed")
        run.market.fall(is_aged_out=True)
        run.await_type("FeedStatusChanged", status="gap")
        run.market.now = Nanos(START + 2 * HOUR + 30 * SECOND)
        run.market.rise()
        run.await_type("RootReset", 2)
        for minute in range(120, 124):
            run.market.trade(at(minute, 40), ES=LOW, GC=MIDDLE)
            run.await_type("SliceClosed", max(1, minute - 119))
    record = envelopes(run.journal)
    resets = [e.payload for e in record if e.type == "RootReset"]
    assert [(r.root, r.since) for r in resets] == [(root, START + 2 * HOUR + 30 * SECOND) for root in ("ES", "GC")]
    minutes = [b.ts_start for e in record if e.type == "SliceClosed" for b in e.payload.minutes if b.root == "ES"]
    assert minutes[:3] == [at(0, 0), at(120, 0), at(121, 0)], "the minute that the gap cut off is in no bar"
    after = [e.payload for e in record if isinstance(e.payload, SignalEvaluated) and e.payload.ts > at(1)]
    said = {(s.root, s.ts): s.reason for s in after}
    assert said["ES", at(121, 0)] == "gap_in_bar"
    assert said["ES", at(122, 0)] == ""


def test_a_root_that_the_gateway_does_not_map_is_stale_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path, "MGCM4") as run:
        (stale,) = run.await_type("RootStatusChanged")
        run.await_type("FeedStatusChanged", status="live")
        run.market.trade(at(0), ES=LOW)
        run.market.trade(at(1), ES=MIDDLE)
        run.await_type("OrderAccepted")
        run.market.remap("MGCM4", 2)
        run.await_type("RootStatusChanged", status="live")
    assert (stale.payload.root, stale.payload.reason) == ("GC", "MGCM4 is not mapped by the gateway")


def test_records_that_come_late_make_the_feed_stale_until_they_are_recent_again(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.await_type("FeedStatusChanged", status="live")
        for minute in range(2):
            run.market.trade(at(minute), ES=MIDDLE)
        run.await_type("SliceClosed")
        run.market.now = at(1, 30)
        with run.market._lock:
            run.market._items.append(Records(raw=run.market._record(at(1, 10), 1, 5_000.0)))
        (stale,) = run.await_type("FeedStatusChanged", status="stale")
        run.market.trade(at(1, 31), ES=MIDDLE)
        run.await_type("FeedStatusChanged", 2, status="live")
    assert stale.payload.reason == "records come 20 s late by our clock"
