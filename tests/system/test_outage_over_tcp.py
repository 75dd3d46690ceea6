"""An outage across an exit bar, in real time, over the real client: minutes of waiting for minutes to pass."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from in_this_process import await_envelopes, envelopes, live_in_thread
from market import assert_replays
from test_real_time import KEY, RoundTheClock

from adapters.databento.gateway import HOST, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.events import FillAssumed, OrderRequested, SignalEvaluated
from domain.risk import RiskSettings
from domain.units import MINUTE, SECOND, Nanos, floor_to

pytestmark = [pytest.mark.system, pytest.mark.soak]

FRESH_S = 5


class Relay:
    """A line to the gateway that can be cut and restored."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_up = True
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._is_up = False
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        self._is_up = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self._is_up:
                    client.close()
                    continue
                gateway = socket.create_connection((HOST, self._target))
                self._sockets += (client, gateway)
                for source, target in ((client, gateway), (gateway, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def sleep_until(ts: int) -> None:
    time.sleep(max(0.0, (ts - time.time_ns()) / SECOND))


def test_an_outage_over_an_exit_bar_closes_on_return_over_the_real_client(tmp_path: Path) -> None:
    source, is_real_time = build_source(GatewayRequest(simulate=True, start_at="now"))
    started = Nanos(time.time_ns())
    with (
        LocalTradersPostThread(LocalTradersPost()) as server,
        GatewayThread(Gateway(source, keys=(KEY,), is_real_time=is_real_time)) as gateway,
        contextlib.closing(Relay(gateway.port)) as relay,
        live_in_thread(
            tmp_path,
            port=relay.port,
            key=KEY,
            calendar=RoundTheClock(started),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES", "GC"),
            clock="system",
            risk=RiskSettings(max_positions=1, entry_freshness_s=FRESH_S),
            decision_timeframe="1m",
            entry_ibs_high=0.95,
            exit_ibs_low=2.0,
            exit_ibs_high=2.0,
            exit_after_bars=1,
            entry_windows=("00:00-24:00",),
            no_entry_before_auto_close_s=0,
        ) as running,
    ):
        journal = tmp_path / "journal" / f"{RoundTheClock(started).session_of(started, ()).date}.db"
        fill = await_envelopes(journal, bool, 240, "FillAssumed")[0].payload
        assert isinstance(fill, FillAssumed)
        exit_bar_ends = Nanos(floor_to(fill.ts, MINUTE) + 2 * MINUTE)
        sleep_until(exit_bar_ends - 10 * SECOND)
        relay.cut()
        sleep_until(exit_bar_ends + 15 * SECOND)
        relay.restore()
        await_envelopes(journal, lambda found: any(e.payload.intent == "exit" for e in found), 150, "OrderRequested")
        assert running.stop().exit_code == 0
    record = envelopes(journal)
    by_seq = {envelope.seq: envelope for envelope in record}
    signals = [e.payload for e in record if isinstance(e.payload, SignalEvaluated)]
    said = {(s.root, s.ts): (s.verdict, s.reason) for s in signals}
    other = "GC" if fill.root == "ES" else "ES"
    assert said[fill.root, exit_bar_ends] == ("hold", "bar_stop")
    assert said[other, exit_bar_ends] == ("refuse", "missed_outage")
    asked = [(by_seq[e.cause or 0], e.payload) for e in record if isinstance(e.payload, OrderRequested)]
    ages = [closed.ts_ns - closed.payload.ts for closed, _ in asked]
    assert max(ages) <= FRESH_S * SECOND, "nothing was asked for in a late slice"
    ((closed, left),) = [(closed, request) for closed, request in asked if request.intent == "exit"]
    assert (left.root, closed.payload.ts > exit_bar_ends) == (fill.root, True)
    assert_replays(journal)
