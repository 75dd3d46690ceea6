"""The program as a service: what it tells its manager, and that a hanging machine ends its signs of life."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from in_this_process import await_envelopes, live_in_thread
from market import environment
from programs import run

from actors.faults import Faults
from actors.health import BUSY_LIMIT_S, Health
from actors.main import cli
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter

pytestmark = pytest.mark.system

KEY = "db-loopback-key-of-the-tests-00"


def test_a_run_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environ = environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        until = "2024-04-30T23:10Z"
        arguments = ("--demo", "--speed", "max", "--journal-dir", tmp_path / "journal", "--until", until)
        told: list[bytes] = []

        def listen() -> None:
            while b"STOPPING=1" not in told:
                told.append(manager.recv(4096))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        ended = run("live", *arguments, environ=environ)
        assert ended.code == 0, ended.err
        listener.join(20)
    assert told[-1] == b"STOPPING=1"
    assert b"WATCHDOG=1" in told
    assert b"READY=1\nSTATUS=a session is open" in told


class Wedge(Faults):
    """Holds the strategy at an event until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()

    def reach(self, actor: str, seq: int, site: Any) -> None:
        if actor == "strategy" and seq > 40:
            self.is_reached.set()
            self.may_go_on.wait(60)


def test_a_machine_that_hangs_ends_the_signs_of_life(tmp_path: Path) -> None:
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=20_000))
    now_s = [0.0]
    health, wedge = Health(now=lambda: now_s[0]), Wedge()
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            tmp_path,
            port=gateway.port,
            key=KEY,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES",),
            faults=wedge,
            health=health,
        ) as running,
    ):
        assert wedge.is_reached.wait(60)
        (journal,) = (tmp_path / "journal").glob("*.db")
        await_envelopes(journal, lambda record: len(record) > 40, 60)
        assert health.complaint() == ""
        now_s[0] += BUSY_LIMIT_S + 1
        assert health.complaint().startswith("strategy has owed an answer to seq 4")
        wedge.may_go_on.set()
        running.stop()


def test_the_unit_is_printed_and_nothing_is_installed(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text("account: test\nsymbols: [ES]\n")
    printed = run("install-service", "--print", "--user", "trader", cwd=tmp_path)
    assert printed.code == 0, printed.err
    assert f"--config {tmp_path}/live.yml" in printed.out
    assert "User=trader" in printed.out
    assert "\n#LoadCredential=TRADERSPOST_WEBHOOK_URL" in printed.out, "paper needs none"
    assert f"ReadWritePaths={tmp_path}/journal/paper {tmp_path}/emergency/paper" in printed.out
    without = CliRunner().invoke(cli, ["install-service"])
    assert without.exit_code == 2
    assert "--print" in without.output
