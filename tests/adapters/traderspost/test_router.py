"""The way out against real sockets: every answer and every kind of silence, and the credential stays inside."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web

from adapters.traderspost.local_server import LocalTradersPost
from adapters.traderspost.router import Answer, Timeouts, WebhookRouter, classify
from adapters.traderspost.webhook_url import parse_webhook_url
from domain.errors import OperatorError, OurError
from domain.events import OrderAccepted, OrderAmbiguous, OrderNotSent, OrderRejected, OrderSubmitted, Outcome

CANARY = "c4naryc4naryc4naryc4naryc4nary99"
UUID = "0b5cf3a2-1111-4222-8333-944445555666"
SHORT = Timeouts(connect_s=0.5, read_s=0.3, total_s=1.0)
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
    """The intent is on disk already."""


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


def raw_server(reply: bytes | None) -> Outcome:
    """One post to a bare socket that reads the request, writes `reply` and closes."""

    async def run() -> Outcome:
        async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if reply is not None:
                writer.write(reply)
            writer.close()

        server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await post_to(f"http://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}")

    return asyncio.run(run())


# ------------------------------------------------------------------------------------------ before it may


def test_the_connection_is_made_at_once_and_nothing_is_written_before_it_may_be() -> None:
    async def run() -> tuple[Outcome, list[str]]:
        log: list[str] = []
        connected = asyncio.Event()

        async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            log.append("connected")
            connected.set()
            await reader.readexactly(1)
            log.append("read")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"success":true}')
            writer.close()

        async def may_write() -> None:
            await connected.wait()
            await asyncio.sleep(0.1)
            log.append("may")

        server = await asyncio.start_server(on_connect, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            router = WebhookRouter(f"http://127.0.0.1:{port}/trading/webhook/{UUID}/{CANARY}", is_live=False)
            try:
                return await router.post(submitted(), may_write), log
            finally:
                await router.close()

    outcome, log = asyncio.run(run())
    assert log == ["connected", "may", "read"]
    assert isinstance(outcome, OrderAccepted)


def test_an_attempt_that_may_never_be_written_is_provably_not_sent() -> None:
    async def run() -> tuple[Outcome, LocalTradersPost]:
        server = LocalTradersPost(uuid=UUID, password=CANARY)
        await server.start()
        router = WebhookRouter(server.url, is_live=False, timeouts=SHORT)
        try:
            return await router.post(submitted(), asyncio.Event().wait), server
        finally:
            await router.close()
            await server.stop()

    outcome, server = asyncio.run(run())
    assert isinstance(outcome, OrderNotSent)
    assert server.ledger().requests == 0


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


def test_the_no_trade_probe_is_answered_invalid_payload() -> None:
    outcome, _ = against(body="{}")
    assert isinstance(outcome, OrderRejected)
    assert outcome.code == "invalid-payload"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/trading/webhook/{UUID}/wrong", 400, "invalid-password"),
        (f"/trading/webhook/unknown/{CANARY}", 404, "http-404"),
    ],
)
def test_a_wrong_address_is_rejected(path: str, status: int, code: str) -> None:
    outcome, server = against(path=path)
    assert isinstance(outcome, OrderRejected)
    assert (outcome.http_status, outcome.code) == (status, code)
    assert server.ledger().signals == {}


def test_a_redirect_is_not_followed_and_posted_once() -> None:
    outcome, server = against("redirect@1")
    assert isinstance(outcome, OrderRejected)
    assert (outcome.http_status, outcome.code) == (307, "redirect")
    assert server.ledger().requests == 1
    assert server.ledger().signals["s1"].accepted == 0


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


def test_a_connection_that_cannot_be_made_in_time_is_provably_not_sent() -> None:
    with socket.socket() as full:
        # A listener that never accepts, its queue filled: the handshake does not complete.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}/trading/webhook/{UUID}/{CANARY}"
            outcome = asyncio.run(post_to(url, timeouts=Timeouts(connect_s=0.3, read_s=5, total_s=5)))
        finally:
            for filler in fillers:
                filler.close()
    assert isinstance(outcome, OrderNotSent)
    assert "ConnectionTimeoutError" in outcome.cause


class FailingRouter(WebhookRouter):
    """A router whose HTTP client fails with `error`, before or after its headers-sent trace."""

    def __init__(self, error: Exception, *, is_headers_sent: bool) -> None:
        super().__init__(f"http://127.0.0.1:9/trading/webhook/{UUID}/{CANARY}", is_live=False)
        self._error, self._is_headers_sent = error, is_headers_sent

    async def _send(self, body: bytes, proof: Any) -> Answer:
        proof.is_headers_sent = self._is_headers_sent
        raise self._error


REFUSED = aiohttp.ClientConnectorError(SimpleNamespace(host=CANARY, port=9, ssl=False), OSError(111, CANARY))


@pytest.mark.parametrize(
    ("error", "is_headers_sent", "kind", "words"),
    [
        (REFUSED, False, OrderNotSent, "no connection (ClientConnectorError, ECONNREFUSED)"),
        (aiohttp.ConnectionTimeoutError(CANARY), False, OrderNotSent, "no connection (ConnectionTimeoutError)"),
        (aiohttp.ServerDisconnectedError(CANARY), False, OrderNotSent, "before the headers (ServerDisconnectedError)"),
        (aiohttp.ClientOSError(104, CANARY), False, OrderNotSent, "before the headers (ClientOSError, ECONNRESET)"),
        (TimeoutError(CANARY), False, OrderNotSent, "before the headers (TimeoutError)"),
        (aiohttp.ServerDisconnectedError(CANARY), True, OrderAmbiguous, "(ServerDisconnectedError)"),
        (aiohttp.ClientOSError(104, CANARY), True, OrderAmbiguous, "(ClientOSError, ECONNRESET)"),
        (aiohttp.SocketTimeoutError(CANARY), True, OrderAmbiguous, "(SocketTimeoutError)"),
        (aiohttp.ClientPayloadError(CANARY), True, OrderAmbiguous, "(ClientPayloadError)"),
        (TimeoutError(CANARY), True, OrderAmbiguous, "(TimeoutError)"),
        (BrokenPipeError(32, CANARY), True, OrderAmbiguous, "(BrokenPipeError, EPIPE)"),
    ],
)
def test_each_failure_with_and_without_the_proof(
    error: Exception, is_headers_sent: bool, kind: type, words: str
) -> None:
    outcome = asyncio.run(FailingRouter(error, is_headers_sent=is_headers_sent).post(submitted(), at_once))
    assert type(outcome) is kind
    assert isinstance(outcome, OrderNotSent | OrderAmbiguous)
    assert words in outcome.cause
    assert CANARY not in repr(outcome)


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
    assert server.ledger().signals["s1"].accepted == 0


# --------------------------------------------------------------------------------- classification, as a table

JSON_OK = b'{"success":true,"id":"x"}'
JSON_NO = b'{"success":false,"messageCode":"invalid-action","message":"m"}'
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
        (401, JSON_NO, OrderRejected, "http-401"),
        (403, HTML, OrderRejected, "http-403"),
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
    ],
)
def test_retry_after_in_both_forms(retry_after: str | None, date: str | None, seconds: float | None) -> None:
    answer = Answer(status=429, retry_after=retry_after, date=date, body=None)
    outcome = classify(submitted(), answer, parse_webhook_url(REAL, mode="live"))
    assert isinstance(outcome, OrderNotSent)
    assert outcome.retry_after_s == seconds


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
