"""The local TradersPost: its answers, its limits, its ledger, its faults, and the process around it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adapters.traderspost.faults import Fault, parse_faults
from adapters.traderspost.ledger import execute
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.schema import Parsed, Refusal, Signal, lint, parse, validate
from domain.errors import OperatorError, OurError

ROOT = Path(__file__).parents[3]
ENTRY: dict[str, object] = {
    "ticker": "MESM2024",
    "action": "buy",
    "sentiment": "bullish",
    "quantity": 2,
    "signalPrice": 5045.25,
    "time": "2024-05-01T15:00:00Z",
    "extras": {"signal_id": "entry-1"},
}
EXIT: dict[str, object] = {
    "ticker": "MESM2024",
    "action": "sell",
    "sentiment": "flat",
    "signalPrice": 5045.25,
    "time": "2024-05-01T15:01:00Z",
    "extras": {"signal_id": "exit-1"},
}


@contextmanager
def serving(**options: object) -> Iterator[LocalTradersPostThread]:
    with LocalTradersPostThread(LocalTradersPost(**options)) as running:  # type: ignore[arg-type]
        yield running


def call(address: str, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """One request by the standard library's client: not the one the router uses."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def send(running: LocalTradersPostThread, message: dict[str, object] | str) -> tuple[int, dict[str, object]]:
    body = message if isinstance(message, str) else json.dumps(message)
    status, _, answer = call(running.address, "POST", urlsplit(running.url).path, body)
    return status, json.loads(answer)


# ------------------------------------------------------------------------------------------------- answers


def test_a_signal_is_received_executed_and_on_the_ledger() -> None:
    with serving() as running:
        status, answer = send(running, ENTRY)
        assert status == 200
        assert set(answer) == {"success", "id", "logId", "payload"}
        assert answer["success"] is True
        assert answer["payload"] == ENTRY
        assert send(running, EXIT)[0] == 200
        ledger = running.ledger()
    assert ledger.requests == 2
    assert ledger.positions == {}
    entry, closed = ledger.signals["entry-1"], ledger.signals["exit-1"]
    assert (entry.attempts, entry.accepted, entry.executions, entry.position_after) == (1, 1, ("opened",), 2)
    assert (closed.attempts, closed.accepted, closed.executions, closed.position_after) == (1, 1, ("closed",), 0)
    assert json.loads(entry.first_body) == ENTRY
    assert entry.lint == closed.lint == ()


def test_a_repeated_signal_is_taken_again_and_the_ledger_counts_it() -> None:
    with serving() as running:
        first = send(running, ENTRY)[1]["id"]
        second = send(running, json.dumps(ENTRY, indent=1))[1]["id"]
        record = running.ledger().signals["entry-1"]
    assert first != second
    assert (record.attempts, record.accepted, record.position_after) == (2, 2, 2)
    assert record.executions == ("opened", "refused: position exists, add-to-position is off")
    assert record.first_body != record.last_body


def test_equal_requests_get_equal_ids_in_two_runs_so_that_journals_can_be_compared() -> None:
    ids = []
    for _ in range(2):
        with serving() as running:
            ids.append([send(running, ENTRY)[1]["id"], send(running, ENTRY)[1]["id"]])
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ticker": "ESU6"}, "ticker-does-not-exist"),
        ({"ticker": "ES1!"}, "ticker-does-not-exist"),
        ({"ticker": "ES"}, "ticker-does-not-exist"),
        ({"ticker": "MESM24"}, "ticker-does-not-exist"),
        ({"ticker": "mesm2024"}, "ticker-does-not-exist"),
        ({"ticker": "MESA2024"}, "ticker-does-not-exist"),
        ({"ticker": 7}, "ticker-does-not-exist"),
        ({"ticker": ""}, "empty-ticker-name"),
        ({"action": "hold"}, "invalid-action"),
        ({"action": None}, "invalid-action"),
        ({"sentiment": "up"}, "invalid-sentiment"),
        ({"action": "exit"}, "invalid-sentiment-action"),
        ({"action": "add"}, "invalid-sentiment-action"),
        ({"quantity": 0}, "invalid-quantity"),
        ({"quantity": -1}, "invalid-quantity"),
        ({"quantity": 1.5}, "invalid-quantity"),
        ({"quantity": True}, "invalid-quantity"),
        ({"quantity": "two"}, "invalid-quantity"),
        ({"quantity": 1e300}, "invalid-quantity"),
        ({"quantityType": "lots"}, "invalid-quantity-type"),
        ({"orderType": "iceberg"}, "invalid-order-type"),
        ({"limitPrice": "5000"}, "invalid-limit-price"),
        ({"signalPrice": None}, "invalid-signal-price"),
        ({"timeInForce": 1}, "invalid-time-in-force"),
        ({"timeInForce": "week"}, "invalid-time-in-force"),
        ({"time": "2024-05-01T15:00:00"}, "invalid-time"),
        ({"time": 1714575600}, "invalid-time"),
        ({"cancelAfter": 0}, "invalid-cancel-after"),
        ({"cancel": "yes"}, "invalid-cancel"),
        ({"ignoreTradingWindows": 1}, "invalid-ignore-trading-windows"),
        ({"takeProfit": {}}, "invalid-take-profit"),
        ({"stopLoss": {"type": "mental"}}, "invalid-stop-loss"),
        ({"extras": "x"}, "invalid-extras"),
    ],
)
def test_refusals_of_the_schema(change: dict[str, object], code: str) -> None:
    parsed = parse(json.dumps(ENTRY | change))
    assert isinstance(parsed, Parsed)
    judged = validate(parsed)
    assert isinstance(judged, Refusal)
    assert judged.code == code


@pytest.mark.parametrize(
    "body",
    ["", "ticker=MES", "[]", '"x"', "null", "{}", '{"ticker":"MESM2024"}', '{"action":"buy"}', '{"a":NaN}', "[" * 9999],
)
def test_a_body_without_ticker_and_action_is_an_invalid_payload(body: str) -> None:
    with serving() as running:
        status, answer = send(running, body)
        assert (status, answer["success"], answer["messageCode"]) == (400, False, "invalid-payload")
        record = running.ledger().signals[""]
    assert (record.attempts, record.accepted, record.answers) == (1, 0, ("invalid-payload",))


@pytest.mark.parametrize(
    "message",
    [
        ENTRY,
        EXIT,
        {"ticker": "6EZ2024", "action": "exit", "cancel": True},
        {"ticker": "M2KH2025", "action": "sell", "sentiment": "short", "quantity": "3"},
        ENTRY | {"stopLoss": {"type": "stop", "stopPrice": 4990.25}, "takeProfit": {"limitPrice": 5100}},
        ENTRY | {"orderType": "limit", "limitPrice": 5045.25, "timeInForce": "day", "cancelAfter": 60},
        ENTRY | {"time": "2024-05-01T10:00:00.5-05:00"},
    ],
)
def test_what_is_documented_passes(message: dict[str, object]) -> None:
    parsed = parse(json.dumps(message))
    assert isinstance(parsed, Parsed)
    assert isinstance(validate(parsed), Signal)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (json.dumps(ENTRY | {"note": 1}), "unknown-field:note"),
        (json.dumps(ENTRY | {"extras": {}}), "no-signal-id"),
        (json.dumps({key: value for key, value in ENTRY.items() if key != "signalPrice"}), "no-signal-price"),
        (json.dumps({key: value for key, value in ENTRY.items() if key != "time"}), "no-time"),
        (json.dumps(ENTRY | {"orderType": "limit"}), "limit-without-price"),
        (json.dumps(ENTRY | {"sentiment": "bearish"}), "sentiment-against-action"),
        (json.dumps(ENTRY | {"ignoreTradingWindows": True}), "entry-ignores-windows"),
        (json.dumps(EXIT | {"quantity": 1}), "quantity-on-full-exit"),
        (json.dumps(ENTRY | {"quantity": "2"}), "quantity-as-text"),
        (json.dumps(ENTRY | {"signalPrice": 5e-07}), "exponent:5e-07"),
        (json.dumps(ENTRY)[:-1] + ',"action":"buy"}', "duplicate-key"),
        (json.dumps(ENTRY | {"extras": {"signal_id": "x", "long": "x" * 1100}}), "extras-too-long"),
    ],
)
def test_what_we_forbid_ourselves_is_taken_and_noted(text: str, fault: str) -> None:
    with serving() as running:
        assert send(running, text)[0] == 200
        (record,) = running.ledger().signals.values()
    assert fault in record.lint
    assert record.accepted == 1
    clean = parse(json.dumps(ENTRY))
    assert isinstance(clean, Parsed)
    assert lint(clean) == ()


def test_the_address_is_checked() -> None:
    with serving(uuid="u-1", password="secret-1") as running:
        for path, status, code in (
            ("/trading/webhook/other/secret-1", 404, "webhook-not-found"),
            ("/trading/webhook/u-1/other", 400, "invalid-password"),
        ):
            answered, _, body = call(running.address, "POST", path, json.dumps(ENTRY))
            assert (answered, json.loads(body)["messageCode"]) == (status, code)
        assert call(running.address, "GET", "/trading/webhook/u-1/secret-1")[0] == 405
        assert call(running.address, "POST", "/elsewhere", "{}")[0] == 404
        assert running.ledger().signals == {}
        assert "secret-1" not in repr(running.ledger())


def test_roots_that_the_account_does_not_offer_do_not_exist() -> None:
    with serving(unavailable_roots=("MES",)) as running:
        assert send(running, ENTRY)[1]["messageCode"] == "ticker-does-not-exist"
        assert send(running, ENTRY | {"ticker": "MNQM2024"})[0] == 200


# -------------------------------------------------------------------------------------------------- limits


def minute(n: int, second: int = 0) -> str:
    return f"2024-05-01T{15 + n // 60:02d}:{n % 60:02d}:{second:02d}Z"


def test_sixty_a_minute_slide_in_the_requests_own_time() -> None:
    with serving(clock="request") as running:
        assert [send(running, ENTRY | {"time": minute(0, n)})[0] for n in range(60)] == [200] * 60
        status, answer = send(running, ENTRY | {"time": minute(0, 59)})
        assert (status, answer["success"], answer["messageCode"]) == (429, False, "too-many-requests")
        assert send(running, ENTRY | {"time": minute(1, 0)})[0] == 200  # the first has left the window
        assert send(running, ENTRY | {"time": minute(1, 0)})[0] == 429
        assert send(running, ENTRY | {"time": minute(0, 0)})[0] == 429  # time never runs backwards
        record = running.ledger().signals["entry-1"]
    assert (record.attempts, record.accepted) == (64, 61)


def test_the_hours_limit_holds_too() -> None:
    with serving(clock="request", per_minute=60, per_hour=5) as running:
        assert [send(running, ENTRY | {"time": minute(n)})[0] for n in range(7)] == [200] * 5 + [429] * 2
        assert send(running, ENTRY | {"time": minute(60)})[0] == 200


def test_a_request_without_a_time_of_its_own_counts_at_the_latest_seen() -> None:
    timeless = {key: value for key, value in ENTRY.items() if key != "time"}
    with serving(clock="request", per_minute=2) as running:
        assert [send(running, ENTRY | {"time": minute(n)})[0] for n in (0, 0, 5)] == [200] * 3
        assert [send(running, timeless)[0] for _ in range(2)] == [200, 429]


def test_in_real_time_the_requests_stamps_do_not_matter() -> None:
    with serving(clock="system", per_minute=3) as running:
        assert [send(running, ENTRY | {"time": minute(n)})[0] for n in range(5)] == [200] * 3 + [429] * 2


# --------------------------------------------------------------------------------------------- position engine


@pytest.mark.parametrize(
    ("say", "held", "after", "what"),
    [
        (("buy", "bullish", 2), 0, 2, "opened"),
        (("buy", None, None), 0, 1, "opened"),
        (("buy", "bullish", 2), 1, 1, "refused"),
        (("buy", "bullish", 2), -3, 2, "reversed"),
        (("sell", "bearish", 2), 0, -2, "opened"),
        (("sell", "bearish", 2), -1, -1, "refused"),
        (("sell", "flat", None), 3, 0, "closed"),
        (("sell", "flat", 1), 3, 2, "reduced"),
        (("sell", "flat", 9), 3, 0, "closed"),
        (("sell", "flat", None), 0, 0, "nothing"),
        (("sell", "flat", None), -3, -3, "nothing"),
        (("buy", "flat", None), -3, 0, "closed"),
        (("buy", "flat", None), 3, 3, "nothing"),
        (("buy", "flat", None), 0, 0, "nothing"),
        (("exit", None, None), 3, 0, "closed"),
        (("exit", None, None), -3, 0, "closed"),
        (("exit", None, None), 0, 0, "nothing"),
        (("add", None, 1), 3, 3, "nothing"),
        (("cancel", None, None), 3, 3, "nothing"),
    ],
)
def test_positions(say: tuple[str, str | None, int | None], held: int, after: int, what: str) -> None:
    action, sentiment, quantity = say
    result, text = execute(
        Signal(ticker="MESM2024", root="MES", action=action, sentiment=sentiment, quantity=quantity), held
    )
    assert result == after
    assert text.startswith(what)


def test_positions_are_kept_per_contract() -> None:
    with serving() as running:
        send(running, ENTRY)
        send(running, ENTRY | {"ticker": "MESU2024", "quantity": 1})
        send(running, EXIT)
        assert running.ledger().positions == {"MESU2024": 1}


# -------------------------------------------------------------------------------------------------- faults


def test_a_fault_specification_in_full() -> None:
    plan = parse_faults("hang@3, 500-after-accept@5,delay:0.25@MES,429:7@12,rst-before-read@1")
    assert plan.of_ordinal(3) == Fault(kind="hang", ordinal=3)
    assert plan.of_ordinal(12) == Fault(kind="429", ordinal=12, seconds=7.0)
    assert plan.of_root("MES") == Fault(kind="delay", root="MES", seconds=0.25)
    assert plan.of_ordinal(4) is plan.of_root("ES") is None
    assert parse_faults("").faults == parse_faults(" ").faults == ()


@pytest.mark.parametrize(
    "spec",
    [
        "hang",
        "hang@",
        "hang@0",
        "hang@-1",
        "hang@mes",
        "hang@1,",
        "hangs@1",
        "delay@1",
        "delay:-1@1",
        "delay:x@1",
        "delay:601@1",
        "429:9999@1",
        "hang:3@1",
        "rst-before-read@MES",
        "hang@1 500@2",
    ],
)
def test_a_fault_that_is_not_understood_is_refused(spec: str) -> None:
    with pytest.raises(OperatorError, match="--faults"):
        parse_faults(spec)
    with pytest.raises(OperatorError):
        LocalTradersPost(faults=spec)


def test_faults_hit_their_request_and_no_other() -> None:
    with serving(faults="500-before-accept@2,html-200@MNQ") as running:
        path = urlsplit(running.url).path
        statuses = [call(running.address, "POST", path, json.dumps(ENTRY))[0] for _ in range(3)]
        other = json.dumps(ENTRY | {"ticker": "MNQM2024", "extras": {"signal_id": "nq"}})
        html = call(running.address, "POST", path, other)
        ledger = running.ledger()
    assert statuses == [200, 500, 200]
    assert html[0] == 200
    assert html[1]["Content-Type"].startswith("text/html")
    assert ledger.signals["entry-1"].answers == ("accepted", "500-before-accept", "accepted")
    assert (ledger.signals["nq"].accepted, ledger.signals["nq"].answers) == (1, ("html-200",))


def test_a_reset_is_a_reset_and_not_an_end() -> None:
    with serving(faults="rst-after-accept@1,rst-before-read@2,fin-after-accept@3") as running:
        for expected in (ConnectionResetError, ConnectionResetError, http.client.RemoteDisconnected):
            with pytest.raises(expected) as caught:
                send(running, ENTRY)
            assert caught.type is expected
        record = running.ledger().signals["entry-1"]
        assert running.ledger().requests == 3
    assert record.answers == ("rst-after-accept", "fin-after-accept")


def test_a_hanging_request_hangs_until_the_server_stops_and_holds_up_no_other() -> None:
    ended = threading.Event()
    with serving(faults="hang@1") as running:

        def hang() -> None:
            with pytest.raises(OSError):  # noqa: PT011  reset or remote end closed, both of them OSErrors
                send(running, ENTRY)
            ended.set()

        waiting = threading.Thread(target=hang, daemon=True)
        waiting.start()
        while running.ledger().requests < 1:
            assert waiting.is_alive()
        assert send(running, EXIT)[0] == 200
        assert not ended.is_set()
    assert ended.wait(5)


# -------------------------------------------------------------------------------------------- ledger over HTTP


def test_the_ledger_and_the_health_are_readable_over_http() -> None:
    with serving(clock="request", uuid="u-1", password="secret-1") as running:
        send(running, ENTRY)
        status, headers, body = call(running.address, "GET", "/__paper/ledger")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
        seen = json.loads(body)
        assert seen["positions"] == {"MESM2024": 2}
        assert seen["signals"]["entry-1"]["accepted"] == 1
        assert b"secret-1" not in body
        health = json.loads(call(running.address, "GET", "/__paper/health")[2])
        assert health == {"status": "ok", "requests": 1, "clock": "request"}


# --------------------------------------------------------------------------------------------- running it


def test_it_listens_on_loopback_only_with_a_path_of_its_own_each_time() -> None:
    with serving() as one, serving() as two:
        assert one.address.startswith("127.0.0.1:")
        assert urlsplit(one.url).path != urlsplit(two.url).path
        assert urlsplit(one.url).path.split("/")[-1] not in repr(one) + repr(one._server)
        port = int(one.address.split(":")[1])
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", port))  # free: the server took 127.0.0.1 and not every address


def test_the_thread_ends_and_its_ledger_stays() -> None:
    before = threading.active_count()
    with serving() as running:
        send(running, ENTRY)
        assert threading.active_count() > before
    running.stop()
    assert threading.active_count() == before
    assert running.ledger().signals["entry-1"].accepted == 1
    with pytest.raises(OSError, match="refused"):
        send(running, ENTRY)


def test_an_address_before_the_start_is_a_bug() -> None:
    with pytest.raises(OurError):
        _ = LocalTradersPost().url


def test_a_port_in_use_is_the_operators_to_mend() -> None:
    with serving() as running:
        second = LocalTradersPostThread(port=int(running.address.split(":")[1]))
        with pytest.raises(OperatorError, match="in use") as caught:
            second.start()
        assert caught.value.exit_code == 78
        assert send(running, ENTRY)[0] == 200


PROGRAM = "from adapters.traderspost.local_server import run_traderspost; run_traderspost(0{})"


@pytest.mark.parametrize(
    ("number", "arguments", "path"),
    [
        (signal.SIGTERM, "", "/trading/webhook/demo/demo"),
        (signal.SIGINT, ', uuid="u", password="hunter22", faults="hang@2"', "/trading/webhook/u/hunter22"),
    ],
)
def test_the_process_says_its_address_first_and_ends_on_a_signal(
    number: signal.Signals, arguments: str, path: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removesuffix("\n")
            assert address.startswith("127.0.0.1:")
            assert address.split(":")[1].isdecimal()
            assert call(address, "POST", path, json.dumps(ENTRY))[0] == 200
            assert call(address, "POST", "/trading/webhook/other/other", json.dumps(ENTRY))[0] == 404
            process.send_signal(number)
            rest, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest == ""
    assert "hunter22" not in errors
    assert "Traceback" not in errors
