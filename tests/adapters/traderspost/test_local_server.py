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
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from adapters.traderspost.broker import Subscription
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
        ({"limitPrice": 1e300}, "invalid-limit-price"),
        ({"stopPrice": True}, "invalid-stop-price"),
        ({"orderType": "trailing_stop"}, "invalid-trailing-stop"),
        ({"action": "cancel", "sentiment": "flat"}, "invalid-sentiment-action"),
        ({"takeProfit": {}}, "invalid-take-profit"),
        ({"takeProfit": {"limitPrice": "5100"}}, "invalid-take-profit"),
        ({"takeProfit": {"amount": -1}}, "invalid-take-profit-amount"),
        ({"stopLoss": {"type": "mental"}}, "invalid-stop-loss-type"),
        ({"stopLoss": {"type": []}}, "invalid-stop-loss-type"),
        ({"stopLoss": {"type": "stop", "amount": "invalid"}}, "invalid-stop-loss-amount"),
        ({"stopLoss": "5000"}, "invalid-stop-loss"),
        ({"stopLoss": {"price": 5000}}, "invalid-stop-loss"),
        ({"extendedHours": 1}, "invalid-extended-hours"),
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
    ("change", "code"),
    [
        ({"action": "cancel", "quantityType": "fixed_quantity"}, "invalid-quantity-type-action"),
        ({"action": "add", "quantityType": "percent_of_position"}, "invalid-percent-of-position-action"),
    ],
)
def test_a_quantity_type_needs_an_action_that_has_a_quantity(change: dict[str, object], code: str) -> None:
    parsed = parse(json.dumps({"ticker": "MESM2024"} | change))
    assert isinstance(parsed, Parsed)
    judged = validate(parsed)
    assert isinstance(judged, Refusal)
    assert judged.code == code


@pytest.mark.parametrize(
    ("body", "code"),
    [("", "empty-json"), (" ", "empty-json")]
    + [(body, "invalid-payload") for body in ("ticker=MES", "[]", '"x"', "null", '{"a":NaN}', "[" * 9999)],
)
def test_what_is_no_json_object_is_refused_and_noted(body: str, code: str) -> None:
    with serving() as running:
        status, answer = send(running, body)
        assert (status, answer["success"], answer["messageCode"]) == (400, False, code)
        record = running.ledger().signals[""]
    assert (record.attempts, record.accepted, record.answers) == (1, 0, (code,))


@pytest.mark.parametrize("body", ['{"ticker":"MESM2024"}', '{"action":"buy","extras":{"signal_id":"half"}}'])
def test_a_body_with_half_of_it_is_an_invalid_payload(body: str) -> None:
    with serving() as running:
        assert send(running, body)[1]["messageCode"] == "invalid-payload"
        (record,) = running.ledger().signals.values()
    assert (record.attempts, record.accepted, record.answers) == (1, 0, ("invalid-payload",))


def test_a_probe_is_refused_as_documented_and_is_no_signal() -> None:
    with serving() as running:
        for body in ("{}", '{"probe":true,"extras":{"signal_id":"probe-1"}}'):
            status, answer = send(running, body)
            assert (status, answer["messageCode"]) == (400, "invalid-payload")
        ledger = running.ledger()
    assert (ledger.requests, ledger.probes, ledger.signals, ledger.fills) == (2, 2, {}, ())


def test_the_smallest_exit_is_taken_and_recorded_without_a_name() -> None:
    with serving() as running:
        send(running, ENTRY)
        assert send(running, '{"ticker":"MESM2024","action":"exit"}')[0] == 200
        ledger = running.ledger()
    assert ledger.positions == {}
    assert (ledger.signals[""].executions, ledger.signals[""].position_after) == (("closed",), 0)
    assert ledger.accounts["MESM2024"].unpriced_contracts == 0  # the entry's price is the last one known


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
        (json.dumps(EXIT | {"stopLoss": {"type": "stop", "stopPrice": 5000}}), "leg-on-exit"),
        (json.dumps(ENTRY | {"stopLoss": {"type": "stop", "percent": 1}}), "leg-not-absolute"),
        (json.dumps(ENTRY | {"stopLoss": {"stopPrice": 5000}}), "leg-not-absolute"),
        (json.dumps(ENTRY | {"takeProfit": {"amount": 5}}), "leg-not-absolute"),
        (json.dumps(ENTRY | {"orderType": "stop", "stopPrice": 5050}), "order-type-not-ours"),
        (json.dumps(ENTRY | {"quantityType": "dollar_amount"}), "quantity-type-not-ours"),
        (json.dumps({"ticker": "MESM2024", "action": "add"}), "action-not-ours"),
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
    bracket = {"stopLoss": {"type": "stop", "stopPrice": 4990.25}, "takeProfit": {"limitPrice": 5100}}
    clean = parse(json.dumps(ENTRY | {"quantityType": "fixed_quantity"} | bracket))
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


# ------------------------------------------------------------------------------------------------ paper broker


def test_positions_are_kept_per_contract() -> None:
    with serving() as running:
        send(running, ENTRY)
        send(running, ENTRY | {"ticker": "MESU2024", "quantity": 1})
        send(running, EXIT)
        assert running.ledger().positions == {"MESU2024": 1}


# -------------------------------------------------------------------------------------------------- faults


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


# --------------------------------------------------------------------------------------------- control routes


def control(running: LocalTradersPostThread, name: str, body: object = "") -> tuple[int, dict[str, object]]:
    text = body if isinstance(body, str) else json.dumps(body)
    status, _, answer = call(running.address, "POST", f"/__paper/{name}", text)
    return status, json.loads(answer)


BRACKET: dict[str, object] = {"stopLoss": {"type": "stop", "stopPrice": 5040}, "takeProfit": {"limitPrice": 5055}}


def test_an_exit_without_cancel_leaves_legs_that_later_open_a_position_and_the_ledger_says_so() -> None:
    with serving() as running:
        send(running, ENTRY | BRACKET)
        send(running, EXIT)
        orders = running.ledger().orders
        assert [(order.purpose, order.quantity, order.is_orphan) for order in orders] == [
            ("stop", -2, True),
            ("target", -2, True),
        ]
        assert running.ledger().incidents == ()
        answers = [control(running, "price", {"ticker": "MESM2024", "price": price}) for price in (5041, 5039.75)]
        assert answers == [(200, {"taken": 1, "has_traded": False}), (200, {"taken": 1, "has_traded": True})]
        ledger = running.ledger()
    assert ledger.positions == {"MESM2024": -2}
    (incident,) = ledger.incidents
    assert (incident.kind, incident.signal_id) == ("orphan_leg", "entry-1")
    assert ledger.orders == ()


def test_an_exit_with_cancel_leaves_nothing() -> None:
    with serving() as running:
        send(running, ENTRY | BRACKET)
        send(running, EXIT | {"cancel": True})
        control(running, "price", [{"ticker": "MESM2024", "price": price} for price in (5039, 5056)])
        ledger = running.ledger()
    assert (ledger.positions, ledger.orders, ledger.incidents, len(ledger.fills)) == ({}, (), (), 2)


def test_the_result_is_counted_in_dollars_where_the_value_of_a_point_is_known() -> None:
    with serving(point_values_usd={"MES": Decimal(5)}) as running:
        send(running, ENTRY)
        send(running, ENTRY | {"ticker": "XYZM2024", "quantity": 1})
        control(running, "price", {"ticker": "MESM2024", "price": 5046.25, "time": "2024-05-01T15:00:30Z"})
        ledger = json.loads(call(running.address, "GET", "/__paper/ledger")[2])
    account = ledger["accounts"]["MESM2024"]
    assert (account["quantity"], account["average_price"], account["last_price"]) == (2, "5045.25", "5046.25")
    assert (account["open_points"], account["open_usd"], account["realized_usd"]) == ("2.00", "10.00", "0")
    assert ledger["accounts"]["XYZM2024"]["realized_usd"] is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "7",
        [7],
        {"ticker": "MESM2024"},
        {"ticker": "MESM2024", "price": "5000"},
        {"ticker": 1, "price": 5000},
        {"ticker": "MESM2024", "price": 1e300},
        {"ticker": "MESM2024", "price": 5000, "time": "2024-05-01"},
        [{"ticker": "MESM2024", "price": 5000}, {}],
    ],
)
def test_a_price_that_is_not_understood_moves_nothing(body: object) -> None:
    with serving() as running:
        send(running, ENTRY | BRACKET)
        status, answer = control(running, "price", body)
        assert (status, list(answer)) == (400, ["error"])
        assert running.ledger().positions == {"MESM2024": 2}


def test_reset_forgets_all_but_the_faults() -> None:
    with serving(faults="429@2", per_minute=3) as running:
        assert [send(running, ENTRY)[0] for _ in range(3)] == [200, 429, 200]
        assert control(running, "reset")[0] == 200
        empty = running.ledger()
        assert (empty.requests, empty.signals, empty.positions, empty.fills) == (0, {}, {}, ())
        assert [send(running, ENTRY)[0] for _ in range(3)] == [200, 429, 200]


def test_faults_change_while_it_runs() -> None:
    with serving() as running:
        assert control(running, "faults", "429:7@entry*2, 500-before-accept@exit") == (
            200,
            {"faults": "429:7@entry*2, 500-before-accept@exit", "requests": 0},
        )
        assert [send(running, ENTRY)[0] for _ in range(3)] == [429, 429, 200]
        assert call(running.address, "POST", urlsplit(running.url).path, json.dumps(EXIT))[0] == 500
        status, answer = control(running, "faults", "boom@1")
        assert (status, answer["error"]) == (400, "'boom@1' is not a fault")
        assert call(running.address, "POST", urlsplit(running.url).path, json.dumps(EXIT))[0] == 500
        assert control(running, "faults")[0] == 200
        assert send(running, EXIT)[0] == 200
        assert running.ledger().signals["exit-1"].answers == ("500-before-accept", "500-before-accept", "accepted")


def test_a_server_that_is_down_resets_every_request_until_the_span_is_over() -> None:
    with serving() as running:
        running.set_faults("down@all")
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                send(running, ENTRY)
        assert running.ledger().signals == {}
        running.set_faults("down:600@5")
        assert send(running, ENTRY)[0] == 200
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                send(running, EXIT)
        assert running.ledger().positions == {"MESM2024": 2}
        running.set_faults("down:0.01@8")
        with pytest.raises(ConnectionResetError):
            send(running, EXIT)
        while running.ledger().positions:
            with suppress(ConnectionResetError):
                send(running, EXIT)


@pytest.mark.parametrize(
    ("fault", "executions", "position"),
    [
        ("no-trade", ("nothing: a fault, never executed",), 0),
        ("broker-reject", ("refused: by the broker",), 0),
        ("duplicate", ("opened", "added"), 4),
    ],
)
def test_what_goes_wrong_after_a_good_answer(fault: str, executions: tuple[str, ...], position: int) -> None:
    with serving(faults=f"{fault}@entry", subscription=Subscription(is_adding=True)) as running:
        status, answer = send(running, ENTRY)
        assert (status, answer["success"]) == (200, True)
        ledger = running.ledger()
    record = ledger.signals["entry-1"]
    assert (record.accepted, record.answers, record.executions) == (1, (fault,), executions)
    assert (record.position_after, ledger.positions.get("MESM2024", 0)) == (position, position)


def test_a_disabled_subscription_takes_everything_and_executes_nothing() -> None:
    with serving(subscription=Subscription(is_enabled=False)) as running:
        assert send(running, ENTRY)[0] == 200
        record = running.ledger().signals["entry-1"]
    assert (record.accepted, record.executions) == (1, ("nothing: the subscription is disabled",))


def test_an_entry_taken_twice_is_an_incident_and_an_exit_is_not() -> None:
    with serving() as running:
        for message in (ENTRY, ENTRY, EXIT, EXIT):
            send(running, message)
        assert [(found.kind, found.signal_id) for found in running.ledger().incidents] == [
            ("entry_accepted_twice", "entry-1")
        ]


def raced(seed: int) -> tuple[list[str], int]:
    """An entry and, fifteen seconds later, its exit: what happened, in order, and what is left."""
    with serving(clock="request", race_s=(0.0, 60.0), seed=seed) as running:
        send(running, ENTRY)
        send(running, EXIT | {"time": "2024-05-01T15:00:15Z"})
        assert running.ledger().signals["entry-1"].accepted == 1
        control(running, "price", {"ticker": "MNQM2024", "price": 1, "time": "2024-05-01T15:02:00Z"})
        ledger = running.ledger()
    assert ledger.pending == ()
    return [f"{fill.purpose} {fill.quantity}" for fill in ledger.fills] + [
        found.kind for found in ledger.incidents
    ], ledger.positions.get("MESM2024", 0)


def test_in_a_race_signals_overtake_each_other_and_equal_seeds_race_equally() -> None:
    ends = {seed: raced(seed) for seed in range(6)}
    assert {tuple(happened) for happened, _ in ends.values()} == {
        ("entry 2", "exit -2"),
        ("entry 2", "entry_after_exit"),
    }
    assert {position for _, position in ends.values()} == {0, 2}
    assert raced(3) == ends[3]


# ------------------------------------------------------------------------------------------------------- state


def test_positions_orders_and_limits_survive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "paper.json"
    options: dict[str, object] = {"clock": "request", "state": state, "per_minute": 3, "race_s": (0.0, 0.0)}
    with serving(**options) as running:
        send(running, ENTRY | BRACKET)
        send(running, ENTRY | {"ticker": "MNQM2024", "orderType": "limit", "limitPrice": 17_000, "cancelAfter": 60})
        before = running.ledger()
    with serving(**options) as running:
        assert running.ledger() == before
        assert send(running, EXIT | {"time": ENTRY["time"], "cancel": True})[0] == 200
        assert send(running, EXIT | {"time": ENTRY["time"]})[0] == 429
        after = running.ledger()
    assert after.positions == {}
    with serving(**options) as running:
        assert running.ledger() == after
    assert list(tmp_path.iterdir()) == [state]


def test_what_waits_for_its_execution_is_executed_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "paper.json"
    with serving(clock="request", state=state, race_s=(10.0, 20.0)) as running:
        send(running, ENTRY)
        assert running.ledger().pending == ("entry-1",)
    with serving(clock="request", state=state) as running:
        send(running, EXIT)
        assert [fill.signal_id for fill in running.ledger().fills] == ["entry-1", "exit-1"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"other": 1}', '{"clock":"system","version":2}', '{"clock":"request"}']
)
def test_a_state_file_that_is_not_ours_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    state = tmp_path / "paper.json"
    state.write_text(text)
    with pytest.raises(OperatorError, match="--state"):
        LocalTradersPost(state=state)
    assert state.read_text() == text


def test_a_state_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    running = LocalTradersPostThread(LocalTradersPost(state=tmp_path / "absent" / "paper.json"))
    with pytest.raises(OperatorError, match="No such file"):
        running.start()


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


def test_the_command_says_its_address_first_and_its_path_nowhere(tmp_path: Path) -> None:
    state = tmp_path / "paper.json"
    options = ["--uuid", "u", "--password", "hunter22", "--faults", "hang@9", "--state", str(state), "--adds"]
    path = "/trading/webhook/u/hunter22"
    with subprocess.Popen(
        [sys.executable, "-m", "actors.main", "--log-level", "debug", "traderspost", *options],
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
            assert [call(address, "POST", path, json.dumps(ENTRY))[0] for _ in range(2)] == [200, 200]
            assert call(address, "POST", "/trading/webhook/other/other", json.dumps(ENTRY))[0] == 404
            account = json.loads(call(address, "GET", "/__paper/ledger")[2])["accounts"]["MESM2024"]
            # The dollars per point are the contract map's.
            assert (account["quantity"], account["open_usd"]) == (4, "0.00")
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest == ""
    assert "hunter22" not in errors + state.read_text()
    assert "Traceback" not in errors
