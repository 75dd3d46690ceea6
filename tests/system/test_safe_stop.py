"""Safe stops of the running system: what each policy sends, also when the journal itself has failed."""

from __future__ import annotations

import json
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from in_this_process import await_envelopes, envelopes, live_in_thread
from market import assert_replays
from test_clock_jumps import trading
from test_outage import LOW, MIDDLE, Market, at

from actors.faults import Crash, Faults
from actors.live import EXIT_SAFE_STOP, FAILURES_DEGRADE
from actors.supervisor import INTENSITY
from actors.wiring import parse_time
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.risk import RiskSettings

pytestmark = pytest.mark.system

KEY = "db-loopback-key-of-the-tests-00"
NEVER_LEAVES: dict[str, Any] = {
    "entry_ibs_high": 1.0,
    "exit_ibs_low": 1.0,
    "stop_pct": Decimal(50),
    "target_pct": Decimal(50),
    "exit_after_bars": 1_000,
}


class FailingDisk(Faults):
    """The journal's disk, which fails when told to."""

    is_broken = False

    def pause(self) -> None:
        if self.is_broken and threading.current_thread().name == "journal-writer":
            raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("policy", ["flatten", pytest.param("hold", marks=pytest.mark.soak)])
def test_a_failed_journal_still_lets_the_policy_act_and_the_next_start_knows_of_it(tmp_path: Path, policy: Any) -> None:
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=20_000))
    disk, server = FailingDisk(), LocalTradersPost(clock="request")
    risk = RiskSettings(safestop_policy=policy)
    journal = tmp_path / "journal" / "2024-05-01.db"
    places: dict[str, Any] = {"key": KEY, "calendar": CmeCalendar(), "roots": ("ES",), "risk": risk}
    places |= {"emergency_dir": tmp_path / "emergency"} | NEVER_LEAVES
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=4_000)) as gateway,
        LocalTradersPostThread(server) as address,
    ):

        def webhook() -> WebhookRouter:
            return WebhookRouter(address.url, is_live=False)

        with live_in_thread(tmp_path, port=gateway.port, make_webhook=webhook, faults=disk, **places) as running:
            await_envelopes(journal, bool, 60, "FillAssumed")
            disk.is_broken = True
            assert running.result().exit_code == EXIT_SAFE_STOP
        assert not envelopes(journal, "SafeStopRequested"), "the disk had failed"
        until = parse_time("2024-05-01T01:30Z")
        with live_in_thread(tmp_path, port=gateway.port, make_webhook=webhook, until_ns=until, **places) as running:
            running.result()
    record = envelopes(journal)
    with JournalFile(journal, Codec()) as file:
        file.verify()
    stops = [e for e in record if e.type == "SafeStopRequested"]
    assert ["disk I/O error" in e.payload.reason for e in stops] == [True]
    asked = [e for e in record if e.type == "OrderRequested" and e.payload.reason == "safe_stop"]
    assert [e.cause for e in asked] == ([stops[0].seq] if policy == "flatten" else [])
    filled = {e.payload.signal_id for e in record if e.type == "FillAssumed"}
    assert {e.payload.signal_id for e in asked} <= filled, "what was sent from the emergency file closed the position"
    assert_replays(journal)


def test_cancel_only_takes_a_working_entry_back_from_the_broker(tmp_path: Path) -> None:
    market, disk, server = Market(), FailingDisk(), LocalTradersPost(clock="request")
    risk = RiskSettings(price_band_pct=Decimal(100), safestop_policy="cancel_only")
    places: dict[str, Any] = {"emergency_dir": tmp_path / "emergency", "risk": risk}
    places |= {"entry_order": "limit", "cancel_after_s": 600}
    with trading(tmp_path, market, server, faults=disk, exit_code=EXIT_SAFE_STOP, **places) as run:
        run.await_type("FeedStatusChanged", status="live")
        market.trade(at(0), ES=LOW, GC=MIDDLE)
        market.trade(at(1), ES=(5_002.0,), GC=MIDDLE)
        run.await_type("OrderAccepted")
        disk.is_broken = True
        market.trade(at(2), GC=MIDDLE)
    sent = server.ledger()
    actions = [json.loads(signal.last_body)["action"] for signal in sent.signals.values()]
    assert actions == ["buy", "cancel"], "and no exit: nothing is held"
    with trading(tmp_path, market, server, **places) as run:
        run.await_type("SafeStopRequested")
    record = envelopes(run.journal)
    asked = {e.payload.signal_id: e.payload.intent for e in record if e.type == "OrderRequested"}
    assert asked == dict(zip(sent.signals, ("entry", "cancel"), strict=True))
    expired = {e.payload.signal_id: e.payload.reason for e in record if e.type == "OrderExpired"}
    assert expired == dict(zip(sent.signals, ("cancelled_by_exit", "cancel_sent"), strict=True))
    assert_replays(run.journal)


@pytest.mark.parametrize("mode", ["live", pytest.param("paper", marks=pytest.mark.soak)])
def test_with_money_the_start_after_three_failures_is_degraded(tmp_path: Path, mode: Any) -> None:
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=2_000))
    crashes = tuple(Crash("feed", 1) for _ in range(INTENSITY + 1))
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
    ):
        for _ in range(FAILURES_DEGRADE + 1):
            with live_in_thread(
                tmp_path,
                port=gateway.port,
                key=KEY,
                calendar=CmeCalendar(),
                make_webhook=lambda: WebhookRouter(server.url, is_live=False),
                roots=("ES",),
                mode=mode,
                crashes=crashes,
            ) as running:
                assert running.result().exit_code == EXIT_SAFE_STOP
    starts = [e.payload for e in envelopes(tmp_path / "journal" / "2024-05-01.db", "ActorRestarted")]
    degraded = [start.is_degraded for start in starts if start.actor == "process"]
    assert degraded == [False] * (FAILURES_DEGRADE - 1) + [mode == "live"]
