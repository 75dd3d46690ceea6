"""A TradersPost on loopback: the same route, checks, bodies and codes, a paper broker, and a ledger that judges.

It is what paper mode sends to and what every test of the way out talks to. It never
listens anywhere but on 127.0.0.1 and never writes its own path to a log.

    POST /trading/webhook/{uuid}/{password}     as TradersPost
    GET  /__paper/ledger, /__paper/health       ours
    POST /__paper/price                         a trade of the market, or a list of them
    POST /__paper/faults                        another plan of faults
    POST /__paper/reset                         forget all but the faults
"""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import secrets
import signal
import sys
import threading
import time
import uuid as uuid_module
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import attrs
import orjson
from aiohttp import web

from adapters.traderspost.answers import html, refusal, reset, spoil, success, too_many
from adapters.traderspost.broker import SECOND_NS, Fills, Subscription
from adapters.traderspost.faults import BEFORE_READ, Fault, FaultPlan, parse_faults
from adapters.traderspost.ledger import Ledger, LedgerSnapshot
from adapters.traderspost.ledger_file import SavedState, load_state, save_state
from adapters.traderspost.rate_limit import SlidingLimit
from adapters.traderspost.schema import Refusal, Signal, is_price, lint, moment_ns, parse, validate
from domain.errors import OperatorError, OurError

LOOPBACK = "127.0.0.1"
BODY_LIMIT_BYTES = 65_536
START_LIMIT_S = 10.0

_NOT_PLAYED = {"no-trade": "nothing: a fault, never executed", "broker-reject": "refused: by the broker"}


@attrs.frozen(kw_only=True)
class PriceSeen:
    """One trade of the market as it was fed. `time_ns` None: now."""

    ticker: str
    price: Decimal
    time_ns: int | None


class LocalTradersPost:
    """One server with one webhook, inside the running event loop.

    `clock="request"` measures limits, delays and expiries in the messages' own `time` and the
    fed trades' (simulated time), `"system"` in real time. A `uuid` or `password` of None is drawn
    at random. `fills="feed"` makes market orders wait for the next price of their ticker. `race_s`
    (shortest, longest) delays each execution by a span drawn from `seed`: executions may overtake
    each other. What is accepted without a delay is executed before it is answered.
    `point_values_usd` are dollars per point and contract by order product, for the ledger's results.
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
        subscription: Subscription | None = None,
        fills: Fills = "signal",
        race_s: tuple[float, float] = (0.0, 0.0),
        seed: int = 1,
        point_values_usd: Mapping[str, Decimal] | None = None,
        state: Path | None = None,
    ) -> None:
        """Raises OperatorError for faults that do not parse and for a state file that cannot be used."""
        self._uuid = uuid if uuid is not None else str(uuid_module.uuid4())
        self._password = password if password is not None else secrets.token_hex(16)
        self._clock = clock
        self._unavailable = frozenset(unavailable_roots)
        self._limits = (per_minute, per_hour)
        self._subscription = subscription or Subscription()
        self._fills = fills
        self._race_s = race_s
        self._seed = seed
        self._point_values_usd = point_values_usd or {}
        self._state = state
        self.set_faults(faults)
        self._go_on_from(load_state(state, clock=clock) if state else SavedState(clock=clock))
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

    @property
    def shown_path(self) -> str:
        """The webhook's path as it may be printed: a password of one's own may not."""
        is_demo = (self._uuid, self._password) == ("demo", "demo")
        return f"/trading/webhook/{'demo/demo' if is_demo else 'UUID/PASSWORD'}"

    def ledger(self) -> LedgerSnapshot:
        """What it has seen and done so far. Call it in the server's own thread."""
        self._ledger.advance(self._now_ns(None))
        return self._ledger.snapshot()

    def set_faults(self, faults: FaultPlan | str) -> None:
        """Play these from now on. Raises OperatorError, and changes nothing, for a text that does not parse."""
        self._faults = parse_faults(faults) if isinstance(faults, str) else faults
        self._down_until_s = 0.0

    async def start(self, port: int = 0) -> None:
        """Listen on `port` (0: any free one). Raises OperatorError (78) when it, or the state file, cannot be had."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_post("/trading/webhook/{uuid}/{password}", self._on_webhook)
        app.router.add_get("/__paper/ledger", self._on_ledger)
        app.router.add_get("/__paper/health", self._on_health)
        app.router.add_post("/__paper/price", self._on_price)
        app.router.add_post("/__paper/faults", self._on_faults)
        app.router.add_post("/__paper/reset", self._on_reset)
        # No access log: it would hold the path. Cancellation frees a hanging handler when its client has gone.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
            # Written before the first request, so that a place that cannot be written refuses to start.
            self._save()
        except OperatorError:
            await runner.cleanup()
            raise
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
        return _ours(200, self.ledger().as_dict())

    async def _on_health(self, request: web.Request) -> web.Response:
        return _ours(200, {"status": "ok", "requests": self._ledger.state.requests, "clock": self._clock})

    async def _on_price(self, request: web.Request) -> web.Response:
        prices = _prices(await request.text())
        if isinstance(prices, str):
            return _ours(400, {"error": prices})
        has_traded = False
        for seen in prices:
            has_traded = self._trade_seen(seen) or has_traded
        if has_traded:
            self._save()
        return _ours(200, {"taken": len(prices), "has_traded": has_traded})

    async def _on_faults(self, request: web.Request) -> web.Response:
        spec = await request.text()
        try:
            self.set_faults(spec)
        except OperatorError as error:
            return _ours(400, {"error": error.what, "fix": error.fix})
        return _ours(200, {"faults": spec.strip(), "requests": self._ordinal})

    async def _on_reset(self, request: web.Request) -> web.Response:
        self._go_on_from(SavedState(clock=self._clock))
        self._save()
        return _ours(200, {"status": "reset"})

    async def _on_webhook(self, request: web.Request) -> web.StreamResponse:
        self._ordinal += 1
        self._ledger.state.requests += 1
        fault = self._faults.of_request(self._ordinal)
        if self._is_unread(fault):
            return reset(request)
        text = (await request.read()).decode("utf-8", errors="replace")
        if not hmac.compare_digest(request.match_info["uuid"].encode(), self._uuid.encode()):
            return refusal(Refusal(code="webhook-not-found", message="Webhook not found."), status=404)
        if not hmac.compare_digest(request.match_info["password"].encode(), self._password.encode()):
            return refusal(Refusal(code="invalid-password", message="Password is invalid."))
        response, played = self._judge(text, fault)
        return await spoil(request, played, response, self._closing) if played else response

    def _is_unread(self, fault: Fault | None) -> bool:
        now_s = time.monotonic()
        if fault is not None and fault.kind == "down" and fault.seconds is not None:
            self._down_until_s = max(self._down_until_s, now_s + fault.seconds)
        return now_s < self._down_until_s or (fault is not None and fault.kind in BEFORE_READ)

    def _judge(self, text: str, fault: Fault | None) -> tuple[web.Response, Fault | None]:
        """(the right answer, the fault that spoils it) to a message that came through the right address.

        Acceptance, execution and the state file are one step: nothing here awaits.
        """
        parsed = parse(text)
        judged = parsed if isinstance(parsed, Refusal) else validate(parsed, self._unavailable)
        now_ns = self._now_ns(None if isinstance(parsed, Refusal) else parsed.time_ns)
        self._ledger.advance(now_ns)
        signal_id: str | None
        if isinstance(parsed, Refusal):
            signal_id, attempt = "", self._ledger.note_attempt("", "", text, ())
        elif parsed.is_probe:
            self._ledger.state.probes += 1
            signal_id, attempt = None, 0
        else:
            signal_id = parsed.signal_id
            attempt = self._ledger.note_attempt(signal_id, str(parsed.fields.get("ticker", "")), text, lint(parsed))
        if fault is None and isinstance(judged, Signal):
            fault = self._faults.of_signal(judged.root, judged.intent, attempt)
        early = self._refuse_early(fault, now_ns)
        if early is not None:
            answer, response = early
            fault = None
        elif isinstance(judged, Refusal):
            answer, response = judged.code, refusal(judged)
        else:
            answer, response = fault.kind if fault else "accepted", success(text, attempt)
            self._accept(signal_id or "", attempt, judged, fault, now_ns)
        if signal_id is not None:
            self._ledger.note_answer(signal_id, answer)
        self._save()
        return response, fault

    def _refuse_early(self, fault: Fault | None, now_ns: int) -> tuple[str, web.Response] | None:
        """What is answered whatever the message says: (name for the ledger, answer), or None."""
        if not self._limit.try_pass(now_ns):
            return "too-many-requests", too_many(None)
        match fault.kind if fault else None:
            case "429":
                return "429", too_many(fault.seconds if fault else None)
            case "500-before-accept":
                return "500-before-accept", html(500)
            case "redirect":
                # To itself: a client that follows it posts the order again, and the ledger shows it.
                return "redirect", web.Response(status=307, headers={"Location": self.url})
            case _:
                return None

    def _accept(self, signal_id: str, attempt: int, signal: Signal, fault: Fault | None, now_ns: int) -> None:
        # A function of the message and its attempt: what else is sent does not change how long this one takes.
        draw = random.Random(f"{self._seed}:{signal_id}:{attempt}")
        times = 2 if fault and fault.kind == "duplicate" else 1
        dues_ns = [now_ns + int(draw.uniform(*self._race_s) * SECOND_NS) for _ in range(times)]
        why_not = _NOT_PLAYED.get(fault.kind, "") if fault else ""
        self._ledger.accept(signal_id, signal, dues_ns, now_ns, why_not=why_not)

    # -------------------------------------------------------------- state

    def _go_on_from(self, saved: SavedState) -> None:
        self._ledger = Ledger(self._subscription, self._fills, self._point_values_usd, saved.ledger)
        per_minute, per_hour = self._limits
        self._limit = SlidingLimit(per_minute=per_minute, per_hour=per_hour, passed_ns=saved.passed_ns)
        self._seen_ns = saved.seen_ns
        self._ordinal = 0

    def _save(self) -> None:
        if self._state is not None:
            save_state(
                self._state,
                SavedState(
                    clock=self._clock,
                    ledger=self._ledger.state,
                    passed_ns=self._limit.passed_ns,
                    seen_ns=self._seen_ns,
                ),
            )

    def _now_ns(self, said_ns: int | None) -> int:
        """The server's time, which never runs backwards; `said_ns` is that of a message or a trade."""
        now_ns = time.time_ns() if self._clock == "system" else said_ns
        self._seen_ns = max(self._seen_ns, now_ns or 0)
        return self._seen_ns

    def _trade_seen(self, seen: PriceSeen) -> bool:
        now_ns = self._now_ns(seen.time_ns)
        # In simulated time a late trade keeps its own, and fills nothing that was placed after it.
        ts_ns = now_ns if self._clock == "system" or seen.time_ns is None else seen.time_ns
        return self._ledger.trade_seen(seen.ticker, seen.price, ts_ns)


def _prices(text: str) -> list[PriceSeen] | str:
    """The trades in a request's JSON, or what is wrong with it."""
    try:
        said = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):
        return "not JSON"
    seen = []
    for item in said if isinstance(said, list) else [said]:
        match item:
            case {"ticker": str(ticker), "price": price} if is_price(price):
                time_ns = moment_ns(item["time"]) if "time" in item else None
                if "time" in item and time_ns is None:
                    return "time is ISO-8601 with a zone"
                seen.append(PriceSeen(ticker=ticker, price=Decimal(price), time_ns=time_ns))
            case _:
                return 'write {"ticker": "MESM2024", "price": 5045.25, "time": "2024-05-01T15:00:00Z"}; time may lack'
    return seen


def _ours(status: int, said: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(said, default=_plain), content_type="application/json")


def _plain(value: Any) -> str:
    """Decimals as fixed text: JSON's numbers would become floats at the reader."""
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no JSON form")


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

    def set_faults(self, faults: FaultPlan | str) -> None:
        """Play these from the next request on. Raises OperatorError for a text that does not parse."""
        self._server.set_faults(faults)

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


def run_traderspost(server: LocalTradersPost, port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, in the main thread; the first line on stdout is `127.0.0.1:PORT`.

    Raises OperatorError for a port in use and for a state file that cannot be written (78).
    """
    asyncio.run(_serve(server, port))


async def _serve(server: LocalTradersPost, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await server.start(port)
    print(server.address, flush=True)
    print(f"POST to http://{server.address}{server.shown_path}", file=sys.stderr, flush=True)
    await stopped.wait()
    await server.stop()
