"""The way out against real sockets: every answer and every kind of silence, and the credential stays inside."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable

import aiohttp
import attrs
import pytest
from aiohttp import web

from adapters.traderspost.local_server import LocalTradersPost
from adapters.traderspost.router import Answer, Timeouts, WebhookRouter, classify
from adapters.traderspost.webhook_url import parse_webhook_url
from domain.errors import OperatorError, OurError
from domain.events import (
    OrderAccepted,
    OrderAmbiguous,
    OrderNotSent,
    OrderRejected,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
)
from domain.outbox import PROBE_BODY, is_webhook_refused
from domain.ports import HeldBackError

CANARY = "c4naryc4naryc4naryc4naryc4nary99"
UUID = "0b5cf3a2-1111-4222-8333-944445555666"
SHORT = Timeouts(connect_s=0.5, read_s=0.3, total_s=1.0)
BRISK = Timeouts(connect_s=1.0, read_s=0.2, total_s=1.0)
REAL = f"https://webhooks.traderspost.io/trading/webhook/{UUID}/{CANARY}"
BODY = {
    "ticker": "MESM2024",
    "action": "buy",
    "sentiment": "bullish",
    "quantity": 1,
    "signalPrice": 5045.25,
    "time": "2024-05-01T15:00:00Z",
    "extras": {"signal_id": "s1"},
}


def submitted(body: str | None = None) -> OrderSubmitted:
    text = json.dumps(BODY) if body is None else body
    digest = hashlib.sha256(text.encode()).hexdigest()
    return OrderSubmitted(root="ES", signal_id="s1", attempt=2, ticker="MESM2024", body=text, body_sha256=digest)


async def at_once() -> None:
    """Nothing to wait for before the write."""


async def post_to(url: str, *, body: str | None = None, timeouts: Timeouts = SHORT) -> Outcome:
    router = WebhookRouter(url, is_live=False, timeouts=timeouts)
    try:
        return await router.post(submitted(body), at_once)
    finally:
        await router.close()


def against(faults: str = "", *, body: str | None = None, path: str | None = None) -> tuple[Outcome, LocalTradersPost]:
    """One post to a local TradersPost playing `faults`."""

    async def run() -> tuple[Outcome, LocalTradersPost]:
        server = LocalTradersPost(uuid=UUID, password=CANARY, faults=faults)
        await server.start()
        try:
            url = server.url if path is None else f"http://{server.address}{path}"
            return await post_to(url, body=body), server
        finally:
            await server.stop()

    return asyncio.run(run())


def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Outcome:
    """One post to a server that answers as `handler` does."""

    async def run() -> Outcome:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await post_to(f"http://127.0.0.1:{runner.addresses[0][1]}/trading/webhook/{UUID}/{CANARY}")
        finally:
            await runner.cleanup()

    return asyncio.run(run())


Step = bytes | float | str
"""Write bytes, wait seconds, `read` the request's head, close with `fin` or `rst`."""


def rst(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def play(steps: tuple[Step, ...], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        for step in steps:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case float():
                    await asyncio.sleep(step)
                case "read":
                    await reader.readuntil(b"\r\n\r\n")
                case "rst":
                    rst(writer)
                case _:
                    writer.close()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()  # the client has gone


async def at_script(
    steps: tuple[Step, ...],
    ask: Callable[[WebhookRouter], Awaitable[Outcome | ProbeAnswered]],
    *,
    scheme: str = "http",
    timeouts: Timeouts = BRISK,
) -> Outcome | ProbeAnswered:
    """What `ask` gets from a bare socket that does `steps` on every connection."""

    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await play(steps, reader, writer)

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"{scheme}://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}"
    router = WebhookRouter(url, is_live=False, timeouts=timeouts)
    try:
        return await ask(router)
    finally:
        await router.close()
        server.close()


def scripted(*steps: Step, scheme: str = "http", timeouts: Timeouts = BRISK) -> Outcome:
    """One post to a bare socket that does `steps`."""

    async def ask(router: WebhookRouter) -> Outcome:
        return await router.post(submitted(), at_once)

    outcome = asyncio.run(at_script(steps, ask, scheme=scheme, timeouts=timeouts))
    assert not isinstance(outcome, ProbeAnswered)
    return outcome


def raw_server(reply: bytes | None) -> Outcome:
    """One post to a bare socket that reads the request, writes `reply` and closes."""
    return scripted("read", *([] if reply is None else [reply]), "fin")


# ------------------------------------------------------------------------------------------------ accepted


def test_success_is_accepted_with_their_id_and_the_bytes_arrive_unchanged() -> None:
    text = (
        '{ "ticker":"MESM2024" ,\t"action":"exit","signalPrice":0.0000005,"extras":{"signal_id":"s1","n":"\\u00e4"} }'
    )
    outcome, server = against(body=text)
    assert isinstance(outcome, OrderAccepted)
    assert (outcome.root, outcome.signal_id, outcome.attempt, outcome.http_status) == ("ES", "s1", 2, 200)
    assert len(outcome.external_id) == 36
    record = server.ledger().signals["s1"]
    assert record.last_body == text
    assert (record.attempts, record.accepted) == (1, 1)


def test_the_request_is_json_and_follows_no_environment_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(method=request.method, type=request.headers["Content-Type"], path=request.path)
        return web.json_response({"success": True, "id": 17})

    outcome = answering(handler)
    assert isinstance(outcome, OrderAccepted)
    assert outcome.external_id == "17"
    assert seen == {"method": "POST", "type": "application/json", "path": f"/trading/webhook/{UUID}/{CANARY}"}


# ------------------------------------------------------------------------------------------------ rejected


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ticker": "ESU6"}, "ticker-does-not-exist"),
        ({"action": "hold"}, "invalid-action"),
        ({"quantity": 0}, "invalid-quantity"),
        ({"action": "exit"}, "invalid-sentiment-action"),
        ({"timeInForce": 1}, "invalid-time-in-force"),
    ],
)
def test_a_refused_payload_is_rejected_with_their_code(change: dict[str, object], code: str) -> None:
    outcome, server = against(body=json.dumps(BODY | change))
    assert isinstance(outcome, OrderRejected)
    assert (outcome.http_status, outcome.code) == (400, code)
    assert outcome.message
    assert server.ledger().signals["s1"].accepted == 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/trading/webhook/{UUID}/wrong", 400, "invalid-password"),
        (f"/trading/webhook/unknown/{CANARY}", 404, "webhook-not-found"),
    ],
)
def test_a_wrong_address_is_rejected(path: str, status: int, code: str) -> None:
    outcome, server = against(path=path)
    assert isinstance(outcome, OrderRejected)
    assert (outcome.http_status, outcome.code) == (status, code)
    assert is_webhook_refused(outcome.http_status, outcome.code)
    assert server.ledger().signals == {}


def test_a_redirect_is_not_followed_and_posted_once() -> None:
    outcome, server = against("redirect@1")
    assert isinstance(outcome, OrderRejected)
    assert (outcome.http_status, outcome.code) == (307, "redirect")
    assert is_webhook_refused(outcome.http_status, outcome.code)
    assert server.ledger().requests == 1
    assert server.ledger().signals["s1"].accepted == 0


def test_the_librarys_own_way_posts_a_redirected_order_again() -> None:
    """The reason for the one above."""

    async def run() -> int:
        server = LocalTradersPost(uuid=UUID, password=CANARY, faults="redirect@1")
        await server.start()
        try:
            async with aiohttp.ClientSession() as session, session.post(server.url, json=BODY) as response:
                await response.read()
            return server.ledger().signals["s1"].attempts
        finally:
            await server.stop()

    assert asyncio.run(run()) == 2


# -------------------------------------------------------------------------------------- ambiguous, not sent


@pytest.mark.parametrize(
    "faults",
    [
        "hang@1",
        "delay:0.6@MES",
        "rst-after-accept@1",
        "fin-after-accept@1",
        "500-after-accept@1",
        "html-200@1",
        "truncated-200@1",
    ],
)
def test_whatever_goes_wrong_after_acceptance_is_ambiguous(faults: str) -> None:
    outcome, server = against(faults)
    assert isinstance(outcome, OrderAmbiguous)
    record = server.ledger().signals["s1"]
    assert (record.attempts, record.accepted, record.position_after) == (1, 1, 1)


@pytest.mark.parametrize("faults", ["rst-before-read@1", "500-before-accept@1"])
def test_what_looks_the_same_without_acceptance_is_ambiguous_too(faults: str) -> None:
    outcome, server = against(faults)
    assert isinstance(outcome, OrderAmbiguous)
    assert all(record.accepted == 0 for record in server.ledger().signals.values())


@pytest.mark.parametrize("reply", [None, b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"])
def test_a_connection_that_breaks_in_the_answer_is_ambiguous(reply: bytes | None) -> None:
    assert isinstance(raw_server(reply), OrderAmbiguous)


def test_a_refusal_whose_body_breaks_off_is_still_a_refusal() -> None:
    outcome = raw_server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{")
    assert isinstance(outcome, OrderRejected)
    assert outcome.code == "http-400"


def test_an_endless_answer_is_cut_off() -> None:
    huge = b'{"success":true,"id":"1","x":"' + b"x" * 100_000 + b'"}'
    outcome = raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(huge), huge))
    assert isinstance(outcome, OrderAmbiguous)


def test_a_refused_connection_is_provably_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        port = unused.getsockname()[1]
        outcome = asyncio.run(post_to(f"http://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}"))
    assert isinstance(outcome, OrderNotSent)
    assert "ECONNREFUSED" in outcome.cause
    assert outcome.retry_after_s is None
    assert not outcome.is_throttled


def at_full_listener(timeouts: Timeouts) -> Outcome:
    """One post to a listener that never accepts, its queue filled: the handshake does not complete."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}/trading/webhook/{UUID}/{CANARY}"
            return asyncio.run(post_to(url, timeouts=timeouts))
        finally:
            for filler in fillers:
                filler.close()


def test_a_connection_that_cannot_be_made_in_time_is_provably_not_sent() -> None:
    outcome = at_full_listener(Timeouts(connect_s=0.3, read_s=5, total_s=5))
    assert isinstance(outcome, OrderNotSent)
    assert "ConnectionTimeoutError" in outcome.cause


def test_an_attempt_whose_time_is_over_before_a_connection_is_provably_not_sent() -> None:
    outcome = at_full_listener(Timeouts(connect_s=5, read_s=5, total_s=0.3))
    assert isinstance(outcome, OrderNotSent)
    assert "TimeoutError" in outcome.cause


def test_a_name_that_is_not_found_is_provably_not_sent() -> None:
    outcome = asyncio.run(post_to(f"http://nowhere.invalid:9/trading/webhook/{UUID}/{CANARY}"))
    assert isinstance(outcome, OrderNotSent)
    assert "ClientConnectorDNSError" in outcome.cause or "ConnectionTimeoutError" in outcome.cause


def test_a_tls_handshake_that_stalls_is_provably_not_sent() -> None:
    outcome = scripted(2.0, scheme="https", timeouts=SHORT)
    assert isinstance(outcome, OrderNotSent)
    assert "ConnectionTimeoutError" in outcome.cause


OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n{"success":true,"id":"x"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (("rst",), "no answer after sending"),
        (("fin",), "no answer after sending"),
        ((0.05, "rst"), "no answer after sending"),
        ((0.05, "fin"), "no answer after sending"),
        (("read", "rst"), "no answer after sending"),
        (("read", "fin"), "no answer after sending"),
        (("read", 2.0), "no answer after sending (SocketTimeoutError)"),
        (("read", b"HTTP/1.1 2", "rst"), "no answer after sending"),
        (("read", b"HTTP/1.1 2", 2.0), "no answer after sending (SocketTimeoutError)"),
        (("read", HEAD, 2.0), "no answer after sending (SocketTimeoutError)"),
        # a head that comes byte by byte outlives the read limit, not the total one
        (("read", *(step for byte in HEAD for step in (bytes([byte]), 0.1))), "no answer after sending"),
        (("read", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "fin"), "no answer after sending"),
        (("read", b"220 mail.example ESMTP\r\n", 2.0), "no answer after sending"),
        # only what follows an interim answer is one
        (("read", b"HTTP/1.1 100 Continue\r\n\r\n", "fin"), "no answer after sending"),
        (("read", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 2.0), "no answer after sending"),
        (("read", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "fin"), "HTTP 101 after sending"),
        # a 200 whose body does not come to its end
        (("read", HEAD + b"Content-Length: 25\r\n\r\n", "rst"), "HTTP 200 without"),
        (("read", HEAD + b"Content-Length: 25\r\n\r\n", 2.0), "HTTP 200 without"),
        (("read", OK[:-1], "fin"), "HTTP 200 without"),
        # what is not HTTP in or after the body
        (("read", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "fin"), "no answer after sending"),
        (("read", OK + b"more than was promised", "fin"), "no answer after sending"),
        (
            ("read", HEAD + b"Content-Encoding: gzip\r\nContent-Length: 25\r\n\r\n" + OK[-25:], "fin"),
            "HTTP 200 without",
        ),
        (("read", OK[:-25], *(step for byte in OK[-25:] for step in (bytes([byte]), 0.1))), "HTTP 200 without"),
        (("read", HEAD + b"\r\n<html>", "fin"), "HTTP 200 without"),
    ],
)
def test_every_silence_after_the_headers_is_ambiguous(steps: tuple[Step, ...], words: str) -> None:
    outcome = scripted(*steps)
    assert isinstance(outcome, OrderAmbiguous)
    assert words in outcome.cause
    assert CANARY not in repr(outcome)


@pytest.mark.parametrize(
    "steps",
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n", 0.05, OK),
        (OK[:30], 0.05, OK[30:]),
        # a body slower than the read limit in all, but never between two reads
        (OK[:-25], *(step for byte in OK[-25:] for step in (bytes([byte]), 0.02))),
    ],
)
def test_a_whole_answer_counts_however_it_comes(steps: tuple[Step, ...]) -> None:
    outcome = scripted("read", *steps, "fin", timeouts=Timeouts(read_s=0.3))
    assert isinstance(outcome, OrderAccepted)
    assert outcome.external_id == "x"


def test_a_refusal_before_the_body_was_read_is_a_refusal() -> None:
    outcome = scripted(
        "read", b'HTTP/1.1 400 Bad Request\r\nContent-Length: 32\r\n\r\n{"messageCode":"invalid-action"}', 0.1, "rst"
    )
    assert isinstance(outcome, OrderRejected)
    assert outcome.code == "invalid-action"


def test_each_attempt_has_a_connection_of_its_own_and_takes_no_cookie() -> None:
    heads: list[bytes] = []

    async def run() -> list[Outcome]:
        async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\nConnection: keep-alive\r\n", 1))
            await reader.read()  # until the client closes: it must, although we would keep the connection
            writer.close()

        server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        router = WebhookRouter(f"http://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}", is_live=False)
        try:
            return [await router.post(submitted(), at_once) for _ in range(3)]
        finally:
            await router.close()
            server.close()

    assert [type(outcome) for outcome in asyncio.run(run())] == [OrderAccepted] * 3
    assert len(heads) == 3
    assert not any(b"cookie" in head.lower() for head in heads)


def test_a_failed_tls_handshake_is_provably_not_sent() -> None:
    async def run() -> Outcome:
        server = LocalTradersPost(uuid=UUID, password=CANARY)
        await server.start()
        try:
            return await post_to(server.url.replace("http:", "https:"))
        finally:
            await server.stop()

    assert isinstance(asyncio.run(run()), OrderNotSent)


@pytest.mark.parametrize(
    ("faults", "retry_after_s"), [("429@1", None), ("429:7@1", 7.0), ("429:0@MES", 0.0), ("429:600@1", 300.0)]
)
def test_too_many_requests_may_be_tried_again(faults: str, retry_after_s: float | None) -> None:
    outcome, server = against(faults)
    assert isinstance(outcome, OrderNotSent)
    assert outcome.retry_after_s == retry_after_s
    assert outcome.is_throttled
    assert server.ledger().signals["s1"].accepted == 0


# ------------------------------------------------------------------------------------------ before the write


class Listener:
    """A server that notes what it is sent, answers once a request is complete, and sees the client close."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while chunk := await reader.read(65_536):
            self.received += chunk
            if self.received.endswith(b"}"):
                writer.write(OK)
        self.ended.set()
        writer.close()


async def posting(listener: Listener, may_write: Callable[[], Awaitable[None]], timeouts: Timeouts = SHORT) -> Outcome:
    """One post to `listener`; returns when the connection is closed, before the router is."""
    server = await asyncio.start_server(listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}"
    router = WebhookRouter(url, is_live=False, timeouts=timeouts)
    try:
        outcome = await router.post(submitted(), may_write)
        await asyncio.wait_for(listener.ended.wait(), 5)
        return outcome
    finally:
        await router.close()
        server.close()


def test_nothing_is_written_before_it_may_be_and_the_connection_is_made_meanwhile() -> None:
    async def run() -> tuple[Outcome, Listener, list[tuple[int, int]]]:
        listener = Listener()
        seen: list[tuple[int, int]] = []

        async def may_write() -> None:
            await asyncio.sleep(0.1)
            seen.append((listener.connections, len(listener.received)))

        return await posting(listener, may_write), listener, seen

    outcome, listener, seen = asyncio.run(run())
    assert isinstance(outcome, OrderAccepted)
    assert seen == [(1, 0)]
    assert listener.received.endswith(json.dumps(BODY).encode())


def test_what_is_held_back_is_never_written_and_leaves_no_connection() -> None:
    async def run() -> tuple[Outcome, Listener]:
        listener = Listener()

        async def may_write() -> None:
            await asyncio.sleep(0.05)
            raise HeldBackError("its time limit has passed")

        return await posting(listener, may_write), listener

    outcome, listener = asyncio.run(run())
    assert isinstance(outcome, OrderNotSent)
    assert (outcome.is_held_back, outcome.is_throttled) == (True, False)
    assert outcome.cause == "held back: its time limit has passed"
    assert listener.received == b""


def test_a_wait_for_the_disk_that_outlasts_the_limit_is_provably_not_sent() -> None:
    async def run() -> tuple[Outcome, Listener]:
        listener = Listener()

        async def may_write() -> None:
            await asyncio.sleep(5)

        return await posting(listener, may_write), listener

    outcome, listener = asyncio.run(run())
    assert isinstance(outcome, OrderNotSent)
    assert not outcome.is_held_back
    assert listener.received == b""


# --------------------------------------------------------------------------------- classification, as a table

JSON_OK = b'{"success":true,"id":"x"}'
JSON_NO = b'{"success":false,"messageCode":"invalid-action","message":"m"}'
NO_ENTRY = b'{"success":false,"messageCode":"invalid-ip-address","message":"m"}'
HTML = b"<html>"


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (200, JSON_OK, OrderAccepted, "x"),
        (202, JSON_OK, OrderAccepted, "x"),
        (200, b'{"success":true}', OrderAccepted, ""),
        (200, JSON_NO, OrderRejected, "invalid-action"),
        (200, b'{"success":false}', OrderRejected, "success-false"),
        (200, b'{"success":"true","id":"x"}', OrderAmbiguous, None),
        (200, b'{"id":"x"}', OrderAmbiguous, None),
        (200, b"[]", OrderAmbiguous, None),
        (200, b"", OrderAmbiguous, None),
        (200, None, OrderAmbiguous, None),
        (204, b"", OrderAmbiguous, None),
        (301, HTML, OrderRejected, "redirect"),
        (308, JSON_OK, OrderRejected, "redirect"),
        (400, JSON_NO, OrderRejected, "invalid-action"),
        (400, HTML, OrderRejected, "http-400"),
        (400, b'{"messageCode":"<b>oh no</b>"}', OrderRejected, "http-400"),
        (400, b'{"messageCode":{"a":1}}', OrderRejected, "http-400"),
        (401, JSON_NO, OrderRejected, "invalid-action"),
        (401, HTML, OrderRejected, "http-401"),
        (403, HTML, OrderRejected, "http-403"),
        (403, NO_ENTRY, OrderRejected, "invalid-ip-address"),
        (400, NO_ENTRY, OrderRejected, "invalid-ip-address"),
        (404, HTML, OrderRejected, "http-404"),
        (413, HTML, OrderRejected, "http-413"),
        (408, HTML, OrderAmbiguous, None),
        (429, HTML, OrderNotSent, None),
        (500, JSON_OK, OrderAmbiguous, None),
        (502, HTML, OrderAmbiguous, None),
        (599, JSON_NO, OrderAmbiguous, None),
    ],
)
def test_what_each_answer_means(status: int, body: bytes | None, kind: type, detail: str | None) -> None:
    answer = Answer(status=status, retry_after=None, date=None, body=body)
    outcome = classify(submitted(), answer, parse_webhook_url(REAL, mode="live"))
    assert type(outcome) is kind
    assert (outcome.root, outcome.signal_id, outcome.attempt) == ("ES", "s1", 2)
    if isinstance(outcome, OrderAccepted):
        assert outcome.external_id == detail
    if isinstance(outcome, OrderRejected):
        assert outcome.code == detail


NOON = "Wed, 01 May 2024 12:00:00 GMT"


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        (None, NOON, None),
        ("0", None, 0.0),
        (" 12 ", None, 12.0),
        ("1.5", None, 1.5),
        ("-3", None, 0.0),
        ("301", None, 300.0),
        ("999999999999", None, 300.0),
        ("nan", None, None),
        ("inf", None, None),
        ("soon", None, None),
        ("1e3", None, None),
        ("Wed, 01 May 2024 12:00:30 GMT", NOON, 30.0),
        ("Wed, 01 May 2024 11:00:00 GMT", NOON, 0.0),
        ("Wed, 01 May 2024 12:00:30 GMT", None, None),
        ("Wed, 01 May 2024 12:00:30 -0000", NOON, None),
        ("Wed, 01 May 99999999999999999999 12:00:30 GMT", NOON, None),
        ("Wed, 01 May 2024 12:00:30 GMT", "Wed, 01 May 2024 12:00:00 +99999999999999999999", None),
    ],
)
def test_retry_after_in_both_forms(retry_after: str | None, date: str | None, seconds: float | None) -> None:
    answer = Answer(status=429, retry_after=retry_after, date=date, body=None)
    outcome = classify(submitted(), answer, parse_webhook_url(REAL, mode="live"))
    assert isinstance(outcome, OrderNotSent)
    assert outcome.retry_after_s == seconds


# --------------------------------------------------------------------------------------------------- probe


PROBE = ProbeSubmitted(ordinal=3, body=PROBE_BODY)


async def ask_probe(router: WebhookRouter) -> ProbeAnswered:
    return await router.probe(PROBE, at_once)


def probe_at(*steps: Step) -> ProbeAnswered:
    """One probe to a bare socket that does `steps`."""
    answered = asyncio.run(at_script(steps, ask_probe))
    assert isinstance(answered, ProbeAnswered)
    assert answered.ordinal == 3
    assert len(answered.detail) < 120
    assert CANARY not in repr(answered)
    assert UUID not in repr(answered)
    return answered


def answer_of(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_a_probe_of_the_local_traderspost_is_up_and_trades_nothing() -> None:
    async def run() -> tuple[ProbeAnswered, LocalTradersPost]:
        server = LocalTradersPost(uuid=UUID, password=CANARY)
        await server.start()
        router = WebhookRouter(server.url, is_live=False, timeouts=SHORT)
        try:
            return await router.probe(PROBE, at_once), server
        finally:
            await router.close()
            await server.stop()

    answered, server = asyncio.run(run())
    assert answered == ProbeAnswered(ordinal=3, is_up=True, detail="HTTP 400 invalid-payload")
    assert server.ledger().positions == {}
    assert server.ledger().signals == {}
    assert server.ledger().probes == 1


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        (400, b'{"success":false,"messageCode":"invalid-password"}', "HTTP 400 invalid-password"),
        (400, b'{"success":false,"messageCode":"empty-json"}', "HTTP 400 empty-json"),
        (400, b"<html>", "HTTP 400 without a code of TradersPost"),
        (400, b'{"success":false,"messageCode":"%s"}' % CANARY.encode(), "HTTP 400 without a code of TradersPost"),
        (404, b'{"success":false,"messageCode":"not-found"}', "HTTP 404 not-found"),
        (403, b'{"success":false,"messageCode":"invalid-payload"}', "HTTP 403 invalid-payload"),
        (429, b'{"success":false,"messageCode":"too-many-requests"}', "HTTP 429 too-many-requests"),
        (200, b'{"success":true,"id":"x"}', "HTTP 200 took the probe for an order"),
        (200, b'{"success":false,"messageCode":"invalid-payload"}', "HTTP 200 invalid-payload"),
        (200, b"<html>", "HTTP 200 without a code of TradersPost"),
        (307, b"", "HTTP 307 without a code of TradersPost"),
        (500, b'{"messageCode":"invalid-payload"}', "HTTP 500 invalid-payload"),
        (503, b"<html>", "HTTP 503 without a code of TradersPost"),
    ],
)
def test_any_other_answer_to_a_probe_is_not_up(status: int, body: bytes, detail: str) -> None:
    answered = probe_at("read", answer_of(status, body), "fin")
    assert (answered.is_up, answered.detail) == (False, detail)


@pytest.mark.parametrize("steps", [("rst",), ("read", "fin"), ("read", 2.0), ("read", b"HTTP/1.1 4", "rst")])
def test_a_probe_without_an_answer_is_not_up(steps: tuple[Step, ...]) -> None:
    answered = probe_at(*steps)
    assert not answered.is_up
    assert "no answer after sending" in answered.detail


def test_a_probe_without_a_connection_is_not_up() -> None:
    async def run() -> ProbeAnswered:
        router = WebhookRouter(f"http://127.0.0.1:9/trading/webhook/{UUID}/{CANARY}", is_live=False)
        try:
            return await router.probe(PROBE, at_once)
        finally:
            await router.close()

    answered = asyncio.run(run())
    assert not answered.is_up
    assert "ECONNREFUSED" in answered.detail


# ------------------------------------------------------------------------------------------------- address


@pytest.mark.parametrize(
    "text",
    [
        REAL,
        f"  {REAL}\n",
        REAL.replace("https://webhooks", "https://WEBHOOKS"),
        REAL.replace(".io/", ".io:443/"),
    ],
)
def test_live_takes_the_real_host_and_paper_refuses_it(text: str) -> None:
    assert parse_webhook_url(text, mode="live").origin == "https://webhooks.traderspost.io"
    with pytest.raises(OperatorError, match="mode: paper"):
        parse_webhook_url(text, mode="paper")


@pytest.mark.parametrize(
    "text",
    [
        REAL.replace("https", "http"),
        REAL.replace(".io/", ".io:8443/"),
        REAL.replace(".io/", ".io./"),
        REAL.replace("webhooks.", ""),
        REAL.replace(".io/", ".io.example.com/"),
        f"http://127.0.0.1:8080/trading/webhook/{UUID}/{CANARY}",
    ],
)
def test_live_refuses_every_other_host(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_webhook_url(text, mode="live")
    with pytest.raises(OperatorError):
        WebhookRouter(text, is_live=True)


@pytest.mark.parametrize("host", ["webhooks.traderspost.io.", "traderspost.io", "app.TradersPost.io"])
def test_paper_refuses_every_spelling_of_the_real_domain(host: str) -> None:
    with pytest.raises(OperatorError, match="mode: paper"):
        parse_webhook_url(f"http://{host}/trading/webhook/{UUID}/{CANARY}", mode="paper")


@pytest.mark.parametrize(
    "text",
    [
        "",
        CANARY,
        f"/trading/webhook/{UUID}/{CANARY}",
        f"ftp://127.0.0.1/trading/webhook/{UUID}/{CANARY}",
        f"http:///trading/webhook/{UUID}/{CANARY}",
        f"http://127.0.0.1/trading/webhook/{CANARY}",
        f"http://127.0.0.1/trading/webhook/{UUID}/{CANARY}/",
        f"http://127.0.0.1/trading/webhook/{UUID}/{CANARY}?x=1",
        f"http://127.0.0.1/trading/webhook/{UUID}/{CANARY}#x",
        f"http://user:{CANARY}@127.0.0.1/trading/webhook/{UUID}/{CANARY}",
        f"http://127.0.0.1:99999/trading/webhook/{UUID}/{CANARY}",
        f"http://127.0.0.1:{CANARY}/trading/webhook/{UUID}/{CANARY}",
        f"http://[::1/trading/webhook/{UUID}/{CANARY}",
        f"http://{'a' * 64}.example/trading/webhook/{UUID}/{CANARY}",
        f"http://127.0.0.1\\@webhooks.traderspost.io/trading/webhook/{UUID}/{CANARY}",
        f"http://127.0.0.1/trading/webhook/{UUID}/{CANARY} x",
        f"http://127.0.0.1/trading/webhook/{UUID}/%2e%2e{CANARY}",
        f"http://127.0.0.1/trading/webhook/ü/{CANARY}",
    ],
)
@pytest.mark.parametrize("mode", ["paper", "live"])
def test_a_malformed_address_is_refused_without_quoting_it(text: str, mode: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_webhook_url(text, mode=mode)  # type: ignore[arg-type]
    assert caught.value.where == "TRADERSPOST_WEBHOOK_URL"
    assert caught.value.exit_code == 78
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None
    assert CANARY not in shown


# -------------------------------------------------------------------------------------------------- canary


def test_the_credential_is_in_no_outcome_log_repr_or_exception(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    async def echo(request: web.Request) -> web.Response:
        said = {"success": False, "messageCode": CANARY, "message": f"bad {request.path} {CANARY}", "id": CANARY}
        return web.json_response(said, status=400)

    async def echo_ok(request: web.Request) -> web.Response:
        return web.json_response({"success": True, "id": f"{UUID}-{CANARY}"})

    try:
        faults = ("", "hang@1", "rst-after-accept@1", "fin-after-accept@1", "500-after-accept@1", "html-200@1")
        for fault in (*faults, "truncated-200@1", "redirect@1", "429@1", "rst-before-read@1", "delay:0.6@1"):
            outcome, server = against(fault)
            texts += [repr(outcome), repr(attrs.asdict(outcome)), repr(server), repr(server.ledger())]
        texts += [repr(answering(echo)), repr(answering(echo_ok)), repr(raw_server(b"nonsense\r\n\r\n"))]
        router = WebhookRouter(f"http://127.0.0.1:9/trading/webhook/{UUID}/{CANARY}", is_live=False)
        texts += [repr(router), str(router), f"{router}", repr(router._url), str(router._url), f"{router._url}"]
        texts.append(repr(asyncio.run(post_to(f"http://127.0.0.1:9/trading/webhook/{UUID}/{CANARY}"))))
    finally:
        logging.getLogger().removeHandler(handler)
    everything = "\n".join(texts) + stream.getvalue() + "".join(str(record.__dict__) for record in caplog.records)
    assert CANARY not in everything
    assert UUID not in everything
    assert len(texts) > 40


def test_the_librarys_own_exception_does_carry_the_credential() -> None:
    """The reason for all of the above: without it the canary test could not fail."""

    async def run() -> str:
        server = LocalTradersPost(uuid=UUID, password=CANARY, faults="500-after-accept@1")
        await server.start()
        try:
            async with aiohttp.ClientSession() as session, session.post(server.url, json=BODY) as response:
                response.raise_for_status()
        except aiohttp.ClientResponseError as error:
            return str(error)
        finally:
            await server.stop()
        return ""

    assert CANARY in asyncio.run(run())


# --------------------------------------------------------------------------------------------------- others


def test_posts_run_side_by_side_and_one_hanging_ticker_delays_no_other() -> None:
    async def run() -> tuple[list[Outcome], list[str]]:
        server = LocalTradersPost(uuid=UUID, password=CANARY, faults="hang@MES")
        await server.start()
        router = WebhookRouter(server.url, is_live=False, timeouts=SHORT)
        order: list[str] = []

        async def one(ticker: str) -> Outcome:
            outcome = await router.post(submitted(json.dumps(BODY | {"ticker": ticker})), at_once)
            order.append(ticker)
            return outcome

        try:
            outcomes = await asyncio.gather(one("MESM2024"), one("MNQM2024"), one("MYMM2024"))
        finally:
            await router.close()
            await server.stop()
        return list(outcomes), order

    outcomes, order = asyncio.run(run())
    assert [type(outcome) for outcome in outcomes] == [OrderAmbiguous, OrderAccepted, OrderAccepted]
    assert order[-1] == "MESM2024"


def test_a_closed_router_refuses_to_post() -> None:
    async def run() -> None:
        router = WebhookRouter(f"http://127.0.0.1:9/trading/webhook/{UUID}/{CANARY}", is_live=False)
        await router.close()
        await router.post(submitted(), at_once)

    with pytest.raises(OurError, match="closed"):
        asyncio.run(run())


def test_a_cancelled_post_has_no_outcome() -> None:
    async def run() -> None:
        server = LocalTradersPost(uuid=UUID, password=CANARY, faults="hang@1")
        await server.start()
        router = WebhookRouter(server.url, is_live=False, timeouts=SHORT)
        task = asyncio.create_task(router.post(submitted(), at_once))
        await asyncio.sleep(0.1)
        task.cancel()
        try:
            await task
        finally:
            await router.close()
            await server.stop()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
