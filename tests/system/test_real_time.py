"""Real time: the clock closes bars, the network never delays them, and the record replays."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import pytest
from in_this_process import await_envelopes, envelopes, live_in_thread
from market import assert_replays

from actors.faults import Crash
from adapters.databento.gateway import Gateway, GatewayRequest, GatewayThread, build_source
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import Timeouts, WebhookRouter
from domain.envelope import Envelope
from domain.events import OrderSubmitted, SliceClosed
from domain.instruments import TradedRoot
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS
from domain.ports import FeedItem, Heartbeat, Mapped, Records, ReplayCompleted
from domain.sessions import Session, SessionHours
from domain.units import HOUR, MINUTE, Nanos, floor_to

pytestmark = pytest.mark.system

KEY = "db-real-time-key-of-the-tests"


@attrs.frozen
class RoundTheClock:
    """A session from an hour ago to tomorrow: the hour at which the test runs must not matter."""

    started_ns: Nanos

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        start, end = Nanos(self.started_ns - HOUR), Nanos(self.started_ns + 23 * HOUR)
        date = dt.datetime.fromtimestamp(self.started_ns / 1e9, dt.UTC).date() + dt.timedelta(days=1)
        hours = tuple(SessionHours(root=root.root, open_ns=start, close_ns=end) for root in roots)
        return Session(date=date, start_ns=start, open_ns=start, end_ns=end, hours=hours)

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        return self.session_of(self.started_ns, roots)


def live_slices(record: list[Envelope], since: Nanos) -> list[Envelope]:
    return [e for e in record if isinstance(e.payload, SliceClosed) and e.payload.ts > since]


def test_a_webhook_that_never_answers_delays_no_bar_and_the_record_replays(tmp_path: Path) -> None:
    source, is_real_time = build_source(GatewayRequest(simulate=True, start_at="now"))
    never = ",".join(f"hang@{number}" for number in range(1, 60))
    patient = Timeouts(connect_s=3, read_s=150, total_s=160)
    started = Nanos(time.time_ns())
    server = LocalTradersPostThread(LocalTradersPost(faults=never))
    server.start()
    with (
        GatewayThread(Gateway(source, keys=(KEY,), is_real_time=is_real_time)) as gateway,
        live_in_thread(
            tmp_path,
            port=gateway.port,
            key=KEY,
            calendar=RoundTheClock(started),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False, timeouts=patient),
            roots=("ES", "GC", "6E"),
            clock="system",
            crashes=(Crash("bars", 40), Crash("strategy", 60), Crash("execution", 80), Crash("feed", 30)),
            decision_timeframe="1m",
            entry_ibs_high=0.95,
            entry_windows=("00:00-24:00",),
            no_entry_before_auto_close_s=0,
        ) as running,
    ):
        journal = tmp_path / "journal" / f"{RoundTheClock(started).session_of(started, ()).date}.db"
        # A minute closes, an entry is sent and hangs; the next minute must close while it does.
        submitted = await_envelopes(journal, bool, 150, "OrderSubmitted")
        first = submitted[0]
        assert isinstance(first.payload, OrderSubmitted)
        await_envelopes(
            journal,
            lambda record: any(e.seq > first.seq for e in live_slices(record, Nanos(first.ts_ns))),
            90,
            "SliceClosed",
        )
        server.stop()
        assert running.stop().exit_code == 0
    record = envelopes(journal)
    outcome = next(e for e in record if e.source == "execution.http" and e.cause == first.seq)
    assert outcome.type == "OrderAmbiguous"
    meanwhile = [e for e in live_slices(record, Nanos(first.ts_ns)) if first.seq < e.seq < outcome.seq]
    assert meanwhile, "no minute closed while the request hung"
    restarted = {e.payload.actor for e in record if e.type == "ActorRestarted"}
    assert restarted == {"bars", "strategy", "execution", "feed"}
    starts = [(b.contract, b.ts_start) for e in record if e.type == "SliceClosed" for b in e.payload.minutes]
    assert len(starts) == len(set(starts)), "a minute closed twice"
    assert_replays(journal)


@attrs.frozen
class TwoSessions:
    """A session that ends at `end_ns`, and the one after it."""

    end_ns: Nanos

    def session_of(self, ts: Nanos, roots: Sequence[TradedRoot]) -> Session:
        start, end = Nanos(self.end_ns - HOUR), self.end_ns
        if ts >= self.end_ns:
            start, end = self.end_ns, Nanos(self.end_ns + 24 * HOUR)
        hours = tuple(SessionHours(root=root.root, open_ns=start, close_ns=end) for root in roots)
        date = dt.date(2024, 5, 1) if end == self.end_ns else dt.date(2024, 5, 2)
        return Session(date=date, start_ns=start, open_ns=start, end_ns=end, hours=hours)

    def session_on(self, date: dt.date, roots: Sequence[TradedRoot]) -> Session:
        return self.session_of(Nanos(self.end_ns - 1), roots)


class QuietMarket:
    """A feed that trades three times and then only says that it is alive. Implements both feed ports."""

    def __init__(self) -> None:
        self._items: list[FeedItem] = []

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        now = Nanos(time.time_ns())
        return {"MES.v.0": Mapped(symbol="MES.v.0", raw_symbol="MESM4", instrument_id=7, ts=now)}, now

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> QuietMarket:
        now = Nanos(time.time_ns())
        trades = np.zeros(3, TRADE_DTYPE)
        trades["length"], trades["instrument_id"], trades["size"] = TRADE_LENGTH_WORDS, 7, 1
        trades["price"] = [5_000 * 10**9, 5_001 * 10**9, 4_999 * 10**9]
        trades["ts_event"] = trades["ts_recv"] = [now, now + 1, now + 2]
        mapped = Mapped(symbol="MESM4", raw_symbol="MESM4", instrument_id=7, ts=now)
        self._items = [mapped, ReplayCompleted(), Records(raw=trades.tobytes())]
        return self

    def take(self, timeout_s: float) -> list[FeedItem]:
        items, self._items = self._items, []
        if not items:
            time.sleep(timeout_s)
        return items or [Heartbeat(ts=Nanos(time.time_ns()))]

    def close(self) -> None:
        self._items = []


def test_a_session_closes_in_a_quiet_market_and_the_next_one_opens(tmp_path: Path) -> None:
    """At the close trading stops: nothing but the gateway's clock says that the session is over."""
    end = Nanos(floor_to(Nanos(time.time_ns()), MINUTE) + MINUTE)
    if end - time.time_ns() < 15 * 10**9:
        end = Nanos(end + MINUTE)
    with (
        LocalTradersPostThread(LocalTradersPost()) as server,
        live_in_thread(
            tmp_path,
            port=0,
            key=KEY,
            calendar=TwoSessions(end),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES",),
            clock="system",
            source=QuietMarket(),
        ) as running,
    ):
        first, second = (tmp_path / "journal" / f"2024-05-0{day}.db" for day in (1, 2))
        await_envelopes(second, bool, 120, "FeedStatusChanged")
        assert running.stop().exit_code == 0
    assert envelopes(first)[-1].type == "SessionClosed"
    (day,) = [bar for e in envelopes(first, "SliceClosed") for bar in e.payload.days]
    assert (day.open, day.high, day.low, day.close, day.trades) == (
        5_000 * 10**9,
        5_001 * 10**9,
        4_999 * 10**9,
        4_999 * 10**9,
        3,
    )
    for journal in (first, second):
        assert_replays(journal)
