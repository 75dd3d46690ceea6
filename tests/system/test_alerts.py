"""Alerts of a whole session: everything once, restarts included, and a dead channel that nobody notices."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from in_this_process import envelopes, live_in_thread
from short_session import MARKET, PRODUCTS, REJECTED, STRATEGY, UNTIL

from actors.alerts import Alerts
from actors.wiring import parse_time
from adapters.alerts import alert_channels
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayThread
from adapters.secret import Secret
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.units import MINUTE
from tests.adapters.test_alerts import Service, nobody

pytestmark = pytest.mark.system

KEY = "db-alerts-key-of-the-tests-000000"


def run(directory: Path, urls: str, *, minutes_before_end: int = 0) -> Path:
    """The short session, or its beginning, or the rest of it; its journal."""
    alerts = Alerts(
        alert_channels(Secret(urls, name="ALERT_URLS"), min_severity="info"), title="Rooney paper", coalesce_s=0
    )
    alerts.start()
    with (
        GatewayThread(Gateway(MARKET, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request", unavailable_roots=(REJECTED,))) as server,
        live_in_thread(
            directory,
            port=gateway.port,
            key=KEY,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=tuple(PRODUCTS),
            alerts=alerts,
            until_ns=parse_time(UNTIL) - minutes_before_end * MINUTE,
            **STRATEGY,
        ) as running,
    ):
        assert running.result().exit_code == 0
    alerts.stop()
    (journal,) = (directory / "journal").glob("*.db")
    return journal


def said(service: Service) -> Counter[str]:
    """How often each kind of thing was told."""
    counts: Counter[str] = Counter()
    for message in service.got:
        lines = message["message"].splitlines()
        kind = next((kind for kind in ("assumed by rule", "rejected") if kind in lines[0]), "")
        for line in lines:
            assert "earlier alerts were dropped" not in line
            times = re.search(r"\(x(\d+), last \S+\)$|^and (\d+) more$", line)
            counts[kind] += 1 if times is None else int(times[1] or times[2])
    return counts


def test_a_session_and_its_restart_tell_each_event_once_while_another_channel_is_dead(tmp_path: Path) -> None:
    with nobody() as place, Service() as first, Service() as second:
        journal = run(tmp_path, f"json://{first.place} json://{place}", minutes_before_end=10)
        cut = envelopes(journal)[-1].seq
        assert run(tmp_path, f"json://{second.place}") == journal
    record = envelopes(journal)
    for service, part in ((first, record[:cut]), (second, record[cut:])):
        told = said(service)
        for type, words in (("FillAssumed", "assumed by rule"), ("OrderRejected", "rejected")):
            count = sum(envelope.type == type for envelope in part)
            assert told[words] == count > 0
    assert any("started again" in message["message"] for message in second.got)
