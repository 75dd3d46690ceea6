"""A TradersPost on loopback: the same route, checks, bodies and codes, and a ledger that judges.

It is what paper mode sends to and what every test of the way out talks to. It never
listens anywhere but on 127.0.0.1 and never writes its own path to a log.

    POST /trading/webhook/{uuid}/{password}     as TradersPost
    GET  /__paper/ledger, /__paper/health       ours
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import signal
import socket
import struct
import sys
import threading
import time
import uuid as uuid_module
from collections.abc import Collection
from hashlib import sha256
from types import TracebackType
from typing import Literal, Self

import orjson
from aiohttp import web

from adapters.traderspost.faults import Fault, FaultPlan, parse_faults
from adapters.traderspost.ledger import Ledger, LedgerSnapshot
from adapters.traderspost.rate_limit import SlidingLimit
from adapters.traderspost.schema import Parsed, Refusal, Signal, lint, parse, validate
from domain.errors import OperatorError, OurError

LOOPBACK = "127.0.0.1"
BODY_LIMIT_BYTES = 65_536
START_LIMIT_S = 10.0


class LocalTradersPost:
    """One server with one webhook, inside the running event loop.

    `clock="request"` measures the rate limits in the requests' own `time` (simulated time),
    `"system"` in real time. A `uuid` or `password` of None is drawn at random.
    """

    def __init__(
        self,
        *,
        uuid: str | None = None,
        password: str | None = None,
        clock: Literal["request", "system"] = "system",
        unavailable_roots: Collection[str] = (),
        faults: FaultPlan | str = "",
        per_minute: int = 60,
        per_hour: int = 500,
    ) -> None:
        """Raises OperatorError for a fault specification that does not parse."""
        self._uuid = uuid if uuid is not None else str(uuid_module.uuid4())
        self._password = password if password is not None else secrets.token_hex(16)
        self._clock = clock
        self._unavailable = frozenset(unavailable_roots)
        self._faults = parse_faults(faults) if isinstance(faults, str) else faults
        self._limit = SlidingLimit(per_minute=per_minute, per_hour=per_hour)
        self._ledger = Ledger()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port: int | None = None

    def __repr__(self) -> str:
        return f"LocalTradersPost({self.address if self._port else 'not started'})"

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`. Raises OurError before `start`."""
        if self._port is None:
            raise OurError("the local TradersPost has not been started")
        return f"{LOOPBACK}:{self._port}"

    @property
    def url(self) -> str:
        """The webhook's address: a credential, as the real one."""
        return f"http://{self.address}/trading/webhook/{self._uuid}/{self._password}"

    def ledger(self) -> LedgerSnapshot:
        """What it has seen so far. Call it in the server's own thread."""
        return self._ledger.snapshot()

    async def start(self, port: int = 0) -> None:
        """Listen on `port` (0: any free one). Raises OperatorError (78) when it cannot be had."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_post("/trading/webhook/{uuid}/{password}", self._on_webhook)
        app.router.add_get("/__paper/ledger", self._on_ledger)
        app.router.add_get("/__paper/health", self._on_health)
        # No access log: it would hold the path. Cancellation frees a hanging handler when its client has gone.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror or type(error).__name__}",
                where="local TradersPost",
                fix="end the program that holds the port, or choose another (0: any free one)",
                exit_code=78,
            ) from error
        self._runner, self._port = runner, runner.addresses[0][1]

    async def stop(self) -> None:
        """Answer nothing more and close every connection, hanging ones too."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ------------------------------------------------------------- routes

    async def _on_ledger(self, request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.ledger().as_dict()), content_type="application/json")

    async def _on_health(self, request: web.Request) -> web.Response:
        body = {"status": "ok", "requests": self.ledger().requests, "clock": self._clock}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _on_webhook(self, request: web.Request) -> web.StreamResponse:
        ordinal = self._ledger.next_ordinal()
        fault = self._faults.of_ordinal(ordinal)
        if fault is not None and fault.kind == "rst-before-read":
            return _reset(request)
        text = (await request.read()).decode("utf-8", errors="replace")
        if not hmac.compare_digest(request.match_info["uuid"].encode(), self._uuid.encode()):
            return _refusal(Refusal(code="webhook-not-found", message="Webhook not found."), status=404)
        if not hmac.compare_digest(request.match_info["password"].encode(), self._password.encode()):
            return _refusal(Refusal(code="invalid-password", message="Password is invalid."))
        return await self._on_signal(request, text, fault)

    async def _on_signal(self, request: web.Request, text: str, fault: Fault | None) -> web.StreamResponse:
        """Judge a message that came through the right address. Acceptance is never split by an await."""
        parsed = parse(text)
        if isinstance(parsed, Refusal):
            self._ledger.note_attempt("", "", text, ())
            self._ledger.note_answer("", parsed.code)
            return _refusal(parsed)
        signal_id = parsed.signal_id
        attempt = self._ledger.note_attempt(signal_id, str(parsed.fields.get("ticker", "")), text, lint(parsed))
        judged = validate(parsed, self._unavailable)
        if fault is None and isinstance(judged, Signal):
            fault = self._faults.of_root(judged.root)
        early = self._refuse_early(parsed, fault)
        if early is not None:
            answer, response = early
            self._ledger.note_answer(signal_id, answer)
            return response
        if isinstance(judged, Refusal):
            self._ledger.note_answer(signal_id, judged.code)
            return _refusal(judged)
        self._ledger.accept(signal_id, judged)
        self._ledger.note_answer(signal_id, fault.kind if fault else "accepted")
        success = _success(text, attempt)
        return await self._spoil(request, fault, success) if fault else _json(200, success)

    def _refuse_early(self, parsed: Parsed, fault: Fault | None) -> tuple[str, web.Response] | None:
        """What is answered before the message is judged: (name for the ledger, answer), or None."""
        now_ns = parsed.time_ns if self._clock == "request" else time.monotonic_ns()
        if not self._limit.try_pass(now_ns):
            return "too-many-requests", _too_many(None)
        match fault.kind if fault else None:
            case "429":
                return "429", _too_many(fault.seconds if fault else None)
            case "500-before-accept":
                return "500-before-accept", _html(500)
            case "redirect":
                # To itself: a client that follows it posts the order again, and the ledger shows it.
                return "redirect", web.Response(status=307, headers={"Location": self.url})
            case _:
                return None

    async def _spoil(self, request: web.Request, fault: Fault, success: bytes) -> web.StreamResponse:
        """Answer an accepted message as `fault` wants it."""
        match fault.kind:
            case "hang":
                await self._closing.wait()
                return _reset(request)
            case "delay":
                await asyncio.sleep(fault.seconds or 0.0)
            case "500-after-accept":
                return _html(500)
            case "rst-after-accept":
                return _reset(request)
            case "fin-after-accept":
                if request.transport is not None:
                    request.transport.close()
            case "html-200":
                return _html(200)
            case "truncated-200":
                return await _truncated(request, success)
            case "429" | "500-before-accept" | "redirect" | "rst-before-read":
                raise OurError(f"{fault.kind} is played before acceptance")
        return _json(200, success)


def _success(text: str, attempt: int) -> bytes:
    """The documented answer; ids are digests of the message, so that equal runs give equal journals."""
    digest = sha256(f"{attempt}:{text}".encode()).hexdigest()
    signal_uuid, log_uuid = uuid_module.UUID(digest[:32]), uuid_module.UUID(digest[32:])
    return f'{{"success":true,"id":"{signal_uuid}","logId":"{log_uuid}","payload":{text}}}'.encode()


def _refusal(refusal: Refusal, *, status: int = 400) -> web.Response:
    body = {"success": False, "messageCode": refusal.code, "message": refusal.message}
    return _json(status, orjson.dumps(body))


def _too_many(retry_after_s: float | None) -> web.Response:
    response = _refusal(Refusal(code="too-many-requests", message="Too many requests."), status=429)
    if retry_after_s is not None:
        response.headers["Retry-After"] = f"{retry_after_s:.0f}"
    return response


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _html(status: int) -> web.Response:
    return web.Response(status=status, text="<html><body>An error page.</body></html>", content_type="text/html")


async def _truncated(request: web.Request, success: bytes) -> web.StreamResponse:
    """Promise all of `success`, send half of it, close."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(success))})
    await response.prepare(request)
    await response.write(success[: len(success) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.Request) -> web.Response:
    """Close the connection with RST instead of FIN; the response returned goes nowhere."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(status=500)


class LocalTradersPostThread:
    """`server` in a daemon thread with a loop of its own: `with LocalTradersPostThread(server) as running`."""

    def __init__(self, server: LocalTradersPost | None = None, *, port: int = 0) -> None:
        self._server = server or LocalTradersPost()
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-traderspost", daemon=True)
        self._is_running = False

    @property
    def url(self) -> str:
        """The webhook's address: a credential, as the real one."""
        return self._server.url

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return self._server.address

    def ledger(self) -> LedgerSnapshot:
        """What the server has seen so far; also after it has stopped."""
        if not self._is_running:
            return self._server.ledger()
        return asyncio.run_coroutine_threadsafe(self._snapshot(), self._loop).result(START_LIMIT_S)

    def start(self) -> Self:
        """Listen. Raises OperatorError as `LocalTradersPost.start` does; call it once."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._server.start(self._port), self._loop).result(START_LIMIT_S)
        except BaseException:
            self._end_loop()
            raise
        self._is_running = True
        return self

    def stop(self) -> None:
        """Close every connection and end the thread. Does nothing when it is not running."""
        if not self._is_running:
            return
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(START_LIMIT_S)
        self._is_running = False
        self._end_loop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def _snapshot(self) -> LedgerSnapshot:
        return self._server.ledger()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_LIMIT_S)
        self._loop.close()


def run_traderspost(
    port: int = 0,
    *,
    uuid: str = "demo",
    password: str = "demo",
    clock: Literal["request", "system"] = "system",
    unavailable_roots: Collection[str] = (),
    faults: str = "",
) -> None:
    """Serve until SIGTERM or SIGINT, in the main thread; the first line on stdout is `127.0.0.1:PORT`.

    Raises OperatorError for a port in use (78) and for a fault that does not parse (2).
    """
    server = LocalTradersPost(
        uuid=uuid, password=password, clock=clock, unavailable_roots=unavailable_roots, faults=faults
    )
    # A password of one's own is not printed.
    asyncio.run(_serve(server, port, "demo/demo" if (uuid, password) == ("demo", "demo") else "UUID/PASSWORD"))


async def _serve(server: LocalTradersPost, port: int, path_hint: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await server.start(port)
    print(server.address, flush=True)
    print(f"POST to http://{server.address}/trading/webhook/{path_hint}", file=sys.stderr, flush=True)
    await stopped.wait()
    await server.stop()
