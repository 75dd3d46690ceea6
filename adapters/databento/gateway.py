"""The local gateway: a loopback server that speaks the vendor's live protocol.

Serves recorded DBN files or the simulated market to the real `databento.Live`
client. It listens on 127.0.0.1 only, never connects anywhere, and is no relay of
the vendor's service.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import structlog

from adapters.databento.dbn_files import read_trades
from adapters.databento.gateway_faults import FaultKind, FaultPlan, parse_faults
from adapters.databento.gateway_feed import MAX_SPEED, Feed
from adapters.databento.gateway_session import GatewaySession
from adapters.databento.gateway_source import (
    GatewaySource,
    RecordedSource,
    SimulatedRoundTheClock,
    SimulatedSessions,
    rebased_to,
)
from adapters.databento.gateway_wire import END_OF_DATA
from adapters.databento.market_simulator import TRADES_PER_SESSION, SimulatedMarket, session_dates
from domain.errors import OperatorError
from domain.sessions import to_nanos
from domain.units import Nanos

__all__ = [
    "DEFAULT_SESSION",
    "END_OF_DATA",
    "HOST",
    "LOCAL_KEY",
    "MAX_SPEED",
    "Gateway",
    "GatewayRequest",
    "GatewayThread",
    "build_source",
    "parse_moment",
    "parse_speed",
    "run_gateway",
]

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
LOCAL_KEY = "db-local-gateway-not-a-secret-00"
"""The demo's key. It opens nothing but a loopback gateway."""
DEFAULT_SESSION = dt.date(2024, 5, 1)
NOW = "now"
_THREAD_START_TIMEOUT_S = 60.0


class Gateway:
    """The server. One event loop, any number of clients, one feed clock for all of them."""

    def __init__(
        self,
        source: GatewaySource,
        *,
        keys: Collection[str],
        speed: float = 1.0,
        faults: str = "",
        start_at_ns: Nanos | None = None,
        is_real_time: bool = False,
    ) -> None:
        """Prepare to serve `source`.

        `speed` is how many feed seconds pass per second (`MAX_SPEED`: as fast as clients
        read); `is_real_time` ties the feed's clock to the wall's instead. `start_at_ns` is
        where the clock starts (default: the first record's minute). Raises OperatorError
        for a nonsensical fault spec, speed or start, and for an empty key. Without `keys` any is accepted.
        """
        if not all(keys):
            raise OperatorError("an empty key is no key", where="--key", fix="give any text, or none", exit_code=2)
        if is_real_time and speed != 1.0:
            raise OperatorError("real time has one speed", where="--speed", fix="leave --speed out", exit_code=2)
        self._faults = FaultPlan(parse_faults(faults))
        self.feed = Feed(
            source,
            speed=speed,
            start_at_ns=start_at_ns,
            is_real_time=is_real_time,
            disturb=self._faults.disturb,
        )
        self.port = 0
        self._keys = tuple(keys)
        self._server: asyncio.Server | None = None
        self._sessions: dict[str, GatewaySession] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._restarting: asyncio.Task[None] | None = None
        self._connections = 0

    @property
    def records_sent(self) -> int:
        """Trades sent to all clients so far, replays included."""
        return self._faults.records_sent

    @property
    def client_count(self) -> int:
        """Connections open now."""
        return len(self._sessions)

    async def start(self, port: int = 0) -> Self:
        """Listen on `port` of 127.0.0.1 (0: any free one). Raises OperatorError when it is taken."""
        await self.feed.join()
        try:
            self._server = await asyncio.start_server(self._serve, HOST, port)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {HOST}:{port}: {error.strerror or error}",
                where="--port",
                fix="stop the program that uses the port, or choose another one (0: any free port)",
            ) from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def stop(self) -> None:
        """Close the port and drop every client. Safe to call twice."""
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        await self._close()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions.values()):
            session.abort()
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _restart(self, down_s: float) -> None:
        """What a client sees of a gateway process that ends and is started again `down_s` later."""
        self._restarting = asyncio.create_task(self._be_down(down_s))

    async def _be_down(self, down_s: float) -> None:
        await self._close()
        await asyncio.sleep(down_s)
        self.feed.begin()
        await self.start(self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        flaw = self._faults.at_accept()
        if flaw is FaultKind.CLOSE:
            writer.close()
            return
        session_id = f"local-{self._connections}"
        session = GatewaySession(
            reader,
            writer,
            session_id=session_id,
            feed=self.feed,
            keys=self._keys,
            faults=self._faults,
            flaw=flaw,
            restart=self._restart,
        )
        task = asyncio.current_task()
        assert task is not None, "a stream callback runs in a task"
        self._sessions[session_id] = session
        self._handlers.add(task)
        log.info("client connected", session_id=session_id)
        try:
            await session.run()
        except asyncio.CancelledError:
            log.debug("session cancelled", session_id=session_id)  # only stop() cancels
        finally:
            del self._sessions[session_id]
            self._handlers.discard(task)
            log.info("client disconnected", session_id=session_id, records_sent=self.records_sent)


class GatewayThread:
    """A gateway in a daemon thread with its own event loop, as a context manager.

    Entering starts it and raises what its start raised; leaving stops it.
    """

    def __init__(self, gateway: Gateway, *, port: int = 0) -> None:
        self.gateway = gateway
        self.port = port
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._is_ready.wait(_THREAD_START_TIMEOUT_S):
            raise TimeoutError("the gateway did not start")
        if self._failure is not None:
            raise self._failure
        self.port = self.gateway.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the gateway and wait for its thread. Safe to call twice."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_THREAD_START_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self.gateway.start(self.port)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits in __enter__
            self._failure = error
            return
        finally:
            self._is_ready.set()
        await self._stop.wait()
        await self.gateway.stop()


@attrs.frozen(kw_only=True)
class GatewayRequest:
    """What the command line asks the gateway to serve. Exactly one of files and `simulate`."""

    files: Sequence[Path] = ()
    simulate: bool = False
    seed: int = 1
    session: dt.date = DEFAULT_SESSION
    sessions: int = 1
    """Consecutive sessions to simulate, weekends skipped."""
    trades_per_session: int = TRADES_PER_SESSION
    speed: float | None = None
    """Feed seconds per second, `MAX_SPEED`, or None: 1, and the only choice in real time."""
    start_at: str | None = None
    """An ISO moment with zone, or `now` (with `simulate`: trades round the clock, in real time)."""
    rebase: str | None = None
    """`now` (with files): the first record's stamp becomes now, served in real time."""


def build_source(request: GatewayRequest) -> tuple[GatewaySource, bool]:
    """The source a request names, and whether it is served in real time.

    Raises OperatorError (exit code 2) for options that contradict each other and for bad files.
    """
    if bool(request.files) == request.simulate:
        raise _usage("give DBN files or --simulate, one of the two", "FILE")
    if request.rebase is not None and (request.simulate or request.rebase != NOW):
        raise _usage("--rebase takes `now`, and files", "--rebase")
    if request.rebase is not None and request.start_at is not None:
        raise _usage("--rebase now and --start-at exclude each other", "--rebase")
    if request.start_at == NOW and not request.simulate:
        raise _usage("--start-at now needs --simulate; for files use --rebase now", "--start-at")
    if request.sessions < 1 or request.trades_per_session < 1:
        raise _usage("at least one session and one trade are needed", "--sessions")
    if not request.simulate:
        recorded = read_trades(request.files)
        if request.rebase is not None:
            return rebased_to(recorded, Nanos(time.time_ns())), True
        return RecordedSource(recorded=recorded), False
    market = SimulatedMarket(request.seed, trades_per_session=request.trades_per_session)
    if request.start_at == NOW:
        return SimulatedRoundTheClock(market=market, start_ns=Nanos(time.time_ns())), True
    return SimulatedSessions(market=market, dates=session_dates(request.session, request.sessions)), False


def run_gateway(request: GatewayRequest, *, port: int = 0, key: str | None = None, faults: str = "") -> int:
    """Serve until SIGTERM or SIGINT; 0 then. The first line of stdout is the address.

    `key` is the one accepted; without it any is (nothing here is worth guarding, but a client's
    refusal can be tried). Blocks; call it in the main thread.
    Raises OperatorError for bad options, bad files and a port in use.
    """
    source, is_real_time = build_source(request)
    start_at_ns = None if request.start_at in (None, NOW) else parse_moment(str(request.start_at))
    gateway = Gateway(
        source,
        keys=() if key is None else (key,),
        speed=1.0 if request.speed is None else request.speed,
        faults=faults,
        start_at_ns=start_at_ns,
        is_real_time=is_real_time,
    )
    asyncio.run(_serve_until_signal(gateway, port))
    return 0


async def _serve_until_signal(gateway: Gateway, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if gateway.feed.source.made_of:
        log.warning("trades are made of bars: no record of what was traded", bars=gateway.feed.source.made_of)
    await gateway.start(port)
    print(f"{HOST}:{gateway.port}", flush=True)
    await stop.wait()
    await gateway.stop()


def parse_speed(text: str) -> float:
    """`60`, `1.5` or `max` as feed seconds per second. Raises OperatorError (exit code 2) otherwise."""
    if text == "max":
        return MAX_SPEED
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < MAX_SPEED:
        raise _usage(f"{text!r} is no speed: give a number above 0, or max", "--speed")
    return speed


def parse_moment(text: str) -> Nanos:
    """An ISO 8601 moment with a zone as UTC nanoseconds. Raises OperatorError (exit code 2) otherwise."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise _usage(f"{text!r} is no ISO moment", "--start-at") from error
    if moment.tzinfo is None:
        raise _usage(f"{text!r} has no zone: add Z or an offset", "--start-at")
    return to_nanos(moment)


def _usage(what: str, where: str) -> OperatorError:
    return OperatorError(what, where=where, fix="see gateway --help", exit_code=2)
