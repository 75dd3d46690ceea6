"""Alert channels against real servers on loopback: the good, the dead, the hanging; and no address in any text."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
from click.testing import CliRunner, Result

from actors.alert_words import Alert, Severity
from actors.main import cli
from actors.wiring.alerts import running_alerts
from adapters import log
from adapters.alerts import AppriseChannel, DeadManPing, alert_channels
from adapters.config import Config, demo_config, load_config
from adapters.secret import Secret, redact, register_secret
from domain.errors import OperatorError

CHECKOUT = Path(__file__).resolve().parents[2]
CANARY = "canary7Qx2"


@pytest.fixture(autouse=True)
def logged() -> Iterator[io.StringIO]:
    """Everything logged in a test; the process is left as it was."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    stream = io.StringIO()
    log.configure_logging("debug", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    log._State.secrets = ()


class Service:
    """An HTTP service on loopback that keeps what it is sent and answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[dict[str, Any]] = []
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer()

            def do_GET(self) -> None:
                service.asked.append(self.path)
                self._answer()

            def _answer(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    """A place that refuses connections, and is nobody else's meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def channels(text: str, min_severity: Any = "info") -> list[AppriseChannel]:
    return alert_channels(Secret(text, name="ALERT_URLS"), min_severity=min_severity)


def config_of(tmp_path: Path, alerts: str = "", **environ: str) -> Config:
    path = tmp_path / "live.yml"
    path.write_text(f"account: trial\n{alerts}")
    return load_config(path, (), {"DATABENTO_API_KEY": "x" * 32, **environ}).config


# ---------------------------------------------------------------- channels


def test_a_message_arrives_with_title_text_and_severity() -> None:
    with Service() as service:
        (channel,) = channels(f"json://{service.place}/")
        assert channel.kind == "JSON"
        for severity, expected in (("info", "info"), ("warning", "warning"), ("critical", "failure")):
            assert channel.send(title="Rooney", body="ES <b> & 1\nnext", severity=severity)  # type: ignore[arg-type]
            assert service.got[-1]["type"] == expected
    assert (service.got[-1]["title"], service.got[-1]["message"]) == ("Rooney", "ES <b> & 1\nnext")


def test_addresses_are_apart_by_commas_or_space_and_a_comma_inside_one_is_its_own() -> None:
    text = " json://127.0.0.1:1/a , critical=json://127.0.0.1:2\nWARNING=mailto://u:p@example.com?to=a@b.com,c@d.com,"
    found = channels(text, "warning")
    assert [(channel.kind, channel.min_severity) for channel in found] == [
        ("JSON", "warning"),
        ("JSON", "critical"),
        ("E-Mail", "warning"),
    ]
    assert len(found[2]._plugin) == 2


@pytest.mark.parametrize(
    "text", [f"nosuch://{CANARY}", CANARY, f"json://127.0.0.1, discord://{CANARY}", f"urgent={CANARY}"]
)
def test_what_apprise_does_not_know_is_refused_and_not_repeated(text: str, logged: io.StringIO) -> None:
    with pytest.raises(OperatorError) as caught:
        channels(text)
    assert (caught.value.exit_code, caught.value.where) == (78, "ALERT_URLS")
    assert CANARY not in str(caught.value) + logged.getvalue()


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_a_refusal_is_false_and_its_log_holds_no_address(status: int, logged: io.StringIO) -> None:
    with Service(status) as service:
        (channel,) = channels(f"json://user:{CANARY}@{service.place}/{CANARY}?+X-Token={CANARY}")
        assert not channel.send(title="t", body="b", severity="critical")
    assert "Failed to send" in logged.getvalue()
    assert CANARY not in logged.getvalue()


def test_nobody_there_is_false_and_its_log_holds_no_address(logged: io.StringIO) -> None:
    with nobody() as place:
        (channel,) = channels(f"json://{place}/{CANARY}")
        assert not channel.send(title="t", body="b", severity="critical")
    assert logged.getvalue()
    assert CANARY not in logged.getvalue()


def test_no_secret_and_no_webhook_leaves_in_a_text() -> None:
    register_secret(Secret(f"db-{CANARY}", name="DATABENTO_API_KEY"))
    url = "https://webhooks.traderspost.io/trading/webhook/1111/2222"
    with Service() as service:
        (channel,) = channels(f"json://{service.place}/{CANARY}")
        channel.send(title=f"db-{CANARY}", body=f"cannot reach {url} as db-{CANARY} via {CANARY}", severity="info")
    sent = json.dumps(service.got)
    assert CANARY not in sent
    assert "1111" not in sent
    assert "https://webhooks.traderspost.io/trading/webhook/***" in sent


@pytest.mark.parametrize(
    ("url", "secrets", "harmless"),
    [
        (f"discord://123456789/{CANARY}", ("123456789", CANARY), ()),
        (f"tgram://123456789:{CANARY}/-100200300", ("123456789", CANARY), ()),
        (f"mailto://someone:{CANARY}@mail.example.com?smtp=x", ("someone", CANARY), ("mail.example.com", "example")),
        (f"slack://{CANARY}A/{CANARY}B/{CANARY}C", (f"{CANARY}A", f"{CANARY}B", f"{CANARY}C"), ()),
        (f"https://hc-ping.com/{CANARY}?pass={CANARY}Q", (CANARY, f"{CANARY}Q"), ("hc-ping.com",)),
        (f"json://127.0.0.1:8000/{CANARY}", (CANARY,), ("127.0.0.1",)),
    ],
)
def test_each_part_of_an_address_is_a_secret_but_a_hosts_name(
    url: str, secrets: tuple[str, ...], harmless: tuple[str, ...]
) -> None:
    register_secret(Secret(f"critical={url}", name="ALERT_URLS"))
    for part in secrets:
        assert part not in redact(f"https://api.example.org/bot{part}/send failed")
    for part in harmless:
        assert redact(f"at {part} now") == f"at {part} now"


# ---------------------------------------------------------------- the dead man


@pytest.mark.parametrize("status", [200, 404, 500])
def test_the_dead_man_is_asked_once_and_a_failure_is_a_line_without_the_address(
    status: int, logged: io.StringIO
) -> None:
    with Service(status) as service:
        DeadManPing(Secret(f"http://{service.place}/{CANARY}", name="ALERT_DEADMAN_URL"))()
    assert service.asked == [f"/{CANARY}"]
    assert ("ping failed" in logged.getvalue()) == (status != 200)
    assert CANARY not in logged.getvalue()


def test_a_dead_man_who_is_not_there_is_a_line(logged: io.StringIO) -> None:
    with nobody() as place:
        DeadManPing(Secret(f"http://{place}/{CANARY}", name="ALERT_DEADMAN_URL"))()
    assert "ping failed" in logged.getvalue()
    assert CANARY not in logged.getvalue()


@pytest.mark.parametrize("url", ["file:///etc/passwd", CANARY, "https://"])
def test_the_dead_man_lives_at_an_http_address(url: str) -> None:
    with pytest.raises(OperatorError, match="ALERT_DEADMAN_URL") as caught:
        DeadManPing(Secret(url, name="ALERT_DEADMAN_URL"))
    assert CANARY not in str(caught.value)


# ---------------------------------------------------------------- a live run's


def _end_with_an_error(config: Config) -> None:
    with running_alerts(config) as alerts:
        assert alerts is not None
        for severity in get_args(Severity):
            alerts.tell(Alert(severity, severity, f"about {severity}"))
        raise OperatorError("the feed refuses us")


def test_an_error_that_ends_the_program_is_told_to_the_channels_that_take_it(tmp_path: Path) -> None:
    with Service() as everyone, Service() as pager, Service() as dead_man:
        config = config_of(
            tmp_path,
            "alerts: {min_severity: warning, coalesce_s: 0, dead_man_s: 10}\n",
            ALERT_URLS=f"json://{everyone.place} critical=json://{pager.place}",
            ALERT_DEADMAN_URL=f"http://{dead_man.place}/{CANARY}",
        )
        with pytest.raises(OperatorError):
            _end_with_an_error(config)
    texts = [[message["message"][10:] for message in service.got] for service in (everyone, pager)]
    ended = "the program ended with an error: the feed refuses us"
    assert sorted(texts[0]) == ["about critical", "about warning", ended]
    assert sorted(texts[1]) == ["about critical", ended]
    assert {message["title"] for message in pager.got} == {"Rooney paper trial: critical"}
    assert not dead_man.asked


def test_without_addresses_nothing_runs_and_a_demo_alerts_nobody(tmp_path: Path) -> None:
    environ = {"ALERT_URLS": "json://127.0.0.1:1", "ALERT_DEADMAN_URL": "http://127.0.0.1:1"}
    for config in (config_of(tmp_path), demo_config(tmp_path, environ)):
        with running_alerts(config) as alerts:
            assert alerts is None


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=60
    )


def test_live_without_alerts_imports_no_apprise() -> None:
    code = """
import sys
from pathlib import Path
import actors.wiring.live
from actors.wiring.alerts import running_alerts
from adapters.config import demo_config
with running_alerts(demo_config(Path("x"), {})):
    print("apprise" in sys.modules)
"""
    assert run(code).stdout.strip() == "False"


TRICKLE = """
import socket, sys, threading, time
from adapters.alerts import alert_channels
from adapters.secret import Secret, redact, register_secret
from actors.alert_words import Alert, Severity
from actors.main import cli
from actors.alerts import Alerts

server = socket.create_server(("127.0.0.1", 0))

def trickle():
    while True:
        connection, _ = server.accept()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9999\\r\\n\\r\\n")
        while True:  # each byte in time for any timeout of a read
            connection.sendall(b"x")
            time.sleep(0.2)

threading.Thread(target=trickle, daemon=True).start()
urls = Secret(f"json://127.0.0.1:{server.getsockname()[1]}/canary7Qx2", name="ALERT_URLS")
alerts = Alerts(alert_channels(urls, min_severity="info"), title="t", coalesce_s=0, send_limit_s=0.3)
alerts.start()
for number in range(5):
    alerts.tell(Alert("critical", str(number), "text"))
time.sleep(0.5)
alerts.stop(limit_s=0.5)
print("stopped")
"""


def test_a_channel_that_never_ends_its_answer_does_not_keep_the_process_alive() -> None:
    ended = run(TRICKLE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "stopped"
    assert CANARY not in ended.stdout + ended.stderr


# ---------------------------------------------------------------- alerts test


def alerts_test(urls: str) -> Result:
    return CliRunner().invoke(cli, ["alerts", "test"], env={"ALERT_URLS": urls})


def test_alerts_test_sends_each_severity_to_each_channel_and_says_which_failed() -> None:
    with Service() as service, nobody() as place:
        well = f"json://{service.place}/{CANARY}"
        ended = alerts_test(f"{well}, critical=json://{place}/{CANARY}")
        assert ended.exit_code == 69
        assert [line.split() for line in ended.stdout.splitlines()] == [
            *(["1", "JSON", severity, "sent"] for severity in ("info", "warning", "critical")),
            *(["2", "JSON", severity, "NOT", "SENT"] for severity in ("info", "warning", "critical")),
        ]
        assert [message["type"] for message in service.got] == ["info", "warning", "failure"]
        assert "Connection error" in ended.stderr
        assert CANARY not in ended.output
        assert alerts_test(well).exit_code == 0


def test_alerts_test_without_addresses_says_what_to_set() -> None:
    ended = alerts_test("")
    assert ended.exit_code == 78
    assert "ALERT_URLS" in ended.stderr
