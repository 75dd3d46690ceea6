"""The live feed: one session of the vendor's protocol per connection, and our own supervision of it.

`databento.Live` reconnects after some ends and not after others, forgets `start` when it does,
runs all clients of the process in one thread, and spends 2 µs of Python on each record. The
protocol under it, which is public, does none of that. A connection here has a thread and a loop
of its own and is used once: what it reads goes read by read into a bounded queue that can be
closed, and any end, error or silence becomes an `Ended` for the feed to act on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from databento import BentoError
from databento.live.protocol import DatabentoLiveProtocol
from databento.live.session import DEFAULT_REMOTE_PORT
from databento_dbn import (
    DBNDecoder,
    DBNRecord,
    ErrorCode,
    ErrorMsg,
    Metadata,
    SymbolMappingMsg,
    SystemCode,
    SystemMsg,
    TradeMsg,
)

from adapters.databento.gateway_wire import END_OF_DATA
from domain.errors import OperatorError
from domain.ports import (
    DataExhausted,
    Ended,
    FeedItem,
    Heartbeat,
    Mapped,
    Records,
    ReplayCompleted,
    SlowReader,
    Subscribed,
    Unresolved,
)
from domain.units import Nanos

SCHEMA = "trades"
MAPPING_SCHEMA = "ohlcv-1d"
"""What a resolution subscribes to: it brings the same mappings without a flood of trades."""
QUEUE_LIMIT = 65_536
"""Records between the session's thread and the feed; then it reads no more and TCP slows the gateway."""
CONNECT_TIMEOUT_S = 10.0
AUTHENTICATION_TIMEOUT_S = 30.0
SILENCE_MARGIN_S = 5.0
"""Without anything for a heartbeat interval and this, the connection is taken for dead: counted from its first moment
on, so that a gateway that accepts and never speaks is noticed too."""
RESOLVE_TIMEOUT_S = 20.0
RESOLVE_ATTEMPTS = 4
SILENT_ATTEMPTS = 2
"""A gateway that accepts and says nothing is asked no more often than this."""
FATAL_CODES = frozenset({ErrorCode.AUTH_FAILED, ErrorCode.API_KEY_DEACTIVATED, ErrorCode.INVALID_SUBSCRIPTION})
"""What no reconnect mends. Every other error that ends a session is tried again, for as long as it takes."""
REFUSAL_MARKS = ("authentication failed", "deactivated", "license", "entitle", "not authorized")
"""In the text of a refused authentication, which has no code, when the operator must act. Any other refusal (too many
connections, an error of theirs) is tried again: a program that holds positions must not give up too easily."""

log = structlog.get_logger()


class _Queue:
    """What was read and not taken yet. Who puts never blocks: it is told when to stop reading."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: list[bytes | FeedItem] = []
        self._count = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self.last_taken_s = time.monotonic()

    def put(self, items: Sequence[bytes | FeedItem], count: int) -> bool:
        """Append what `count` records became. True: it is full, read no more. Discards when closed."""
        with self._changed:
            if self._is_closed:
                return False
            self._items += items
            self._count += count
            self._changed.notify()
            return self._count >= self._limit

    def take(self, timeout_s: float) -> tuple[list[bytes | FeedItem], bool]:
        """Everything queued, or nothing after `timeout_s`; and whether it was full until now."""
        with self._changed:
            # Records of which nothing is kept (metadata) wake nobody, unless reading stopped for them.
            self._changed.wait_for(lambda: bool(self._items) or self._count >= self._limit, timeout_s)
            items, self._items = self._items, []
            was_full = self._count >= self._limit
            self._count = 0
            if items:
                self.last_taken_s = time.monotonic()
        return items, was_full

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._items = []


class _Protocol(DatabentoLiveProtocol):
    """The vendor's session, whose records are handed over by the read and not one by one.

    The vendor's code speaks the control lines and decodes. Overridden are asyncio's two methods
    alone, and they do something else only once the gateway has accepted the key.
    """

    def __init__(
        self,
        *,
        key: str,
        dataset: str,
        heartbeat_interval_s: int,
        on_read: Callable[[Sequence[DBNRecord | Metadata]], None],
    ) -> None:
        super().__init__(key, dataset, heartbeat_interval_s=heartbeat_interval_s, slow_reader_behavior="warn")
        self._on_read = on_read
        self._read_buffer = bytearray()
        self._decoder = DBNDecoder()

    def get_buffer(self, sizehint: int) -> bytearray:
        self._read_buffer = super().get_buffer(sizehint)
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.authenticated.done():
            self._on_read(self._decoder.write_and_decode(bytes(memoryview(self._read_buffer)[:nbytes])))
        else:
            super().buffer_updated(nbytes)


class LiveConnection:
    """Implements `domain.ports.FeedConnection` with one session of the vendor's protocol."""

    def __init__(
        self,
        *,
        key: str,
        gateway: str,
        port: int,
        dataset: str,
        schema: str,
        symbols: Sequence[str],
        stype_in: str,
        start_ns: Nanos | None,
        heartbeat_interval_s: int,
        queue_limit: int = QUEUE_LIMIT,
        silence_margin_s: float = SILENCE_MARGIN_S,
        raw_symbols: Sequence[str] = (),
    ) -> None:
        self._key = key
        self._gateway = gateway
        self._port = port
        self._dataset = dataset
        self._schema = schema
        self._symbols = list(symbols)
        self._raw_symbols = list(raw_symbols)
        self._stype_in = stype_in
        self._start_ns = start_ns
        self._heartbeat_interval_s = heartbeat_interval_s
        self._silence_s = heartbeat_interval_s + silence_margin_s
        self._queue = _Queue(queue_limit)
        self._is_over = False
        self._end_reason = ""
        """What the gateway said that ends the session; nothing after it is delivered."""
        self._is_refused = False
        self._is_aged_out = False
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.new_event_loop()
        self._session = self._loop.create_task(self._converse())
        threading.Thread(target=self._run, name="databento-session", daemon=True).start()

    def take(self, timeout_s: float) -> list[FeedItem]:
        queued, was_full = self._queue.take(timeout_s)
        if was_full:
            self._ask(self._resume)
        items: list[FeedItem] = []
        raw: list[bytes] = []
        for item in queued:
            if isinstance(item, bytes):
                raw.append(item)
                continue
            if raw:
                items.append(Records(raw=b"".join(raw)))
                raw = []
            items.append(item)
        if raw:
            items.append(Records(raw=b"".join(raw)))
        if not items and not self._is_over and time.monotonic() - self._queue.last_taken_s > self._silence_s:
            self._is_over = True
            return [Ended(reason=f"the gateway sent nothing for {self._silence_s:.0f} s", is_silence=True)]
        self._is_over = self._is_over or any(isinstance(item, Ended) for item in items)
        return items

    def close(self) -> None:
        self._queue.close()
        self._ask(self._session.cancel)

    def _ask(self, callback: Callable[[], object]) -> None:
        # The loop is closed when the session has ended by itself: then there is nothing to ask for.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    # ------------------------------------------------------------- the session's own thread

    def _run(self) -> None:
        try:
            reason = self._loop.run_until_complete(self._session)
        except asyncio.CancelledError:
            return
        except BentoError as error:
            reason = str(error) or "the gateway gave no reason"
        except OSError as error:
            reason = f"no connection: {str(error) or 'timed out'}"
        except ValueError as error:
            reason = f"the client failed: {error}"
        finally:
            self._loop.close()
        # The client has one exception for every refusal: only its text tells a wrong key.
        is_fatal = self._is_refused or any(mark in reason.lower() for mark in REFUSAL_MARKS)
        self._queue.put([Ended(reason=reason, is_fatal=is_fatal, is_aged_out=self._is_aged_out)], 1)

    async def _converse(self) -> str:
        """The whole session; why it ended."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, protocol = await self._loop.create_connection(
                lambda: _Protocol(
                    key=self._key,
                    dataset=self._dataset,
                    heartbeat_interval_s=self._heartbeat_interval_s,
                    on_read=self._on_read,
                ),
                self._gateway,
                self._port,
            )
        self._transport = transport
        # Waited for, never awaited: a cancelled await would cancel the protocol's own futures.
        authenticated, disconnected = protocol.authenticated, protocol.disconnected
        either: tuple[asyncio.Future[Any], ...] = (authenticated, disconnected)
        try:
            await asyncio.wait(either, timeout=AUTHENTICATION_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if authenticated.done():
                authenticated.result()
                protocol.subscribe(self._schema, self._symbols, self._stype_in, start=self._start_ns, subscription_id=0)
                if self._raw_symbols:
                    protocol.subscribe(self._schema, self._raw_symbols, "raw_symbol", subscription_id=1)
                protocol.start()
                await asyncio.wait([disconnected])
            elif not disconnected.done():
                return "the gateway did not answer the authentication"
            error = disconnected.exception()
            if self._end_reason:
                return self._end_reason
            return "closed by the gateway" if error is None else str(error) or type(error).__name__
        finally:
            transport.abort()
            await asyncio.wait([disconnected])

    def _resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _on_read(self, records: Sequence[DBNRecord | Metadata]) -> None:
        items: list[bytes | FeedItem] = []
        for kind, run in itertools.groupby(records, type):
            if self._has_ended():
                break
            if kind is TradeMsg:
                items.append(b"".join(map(bytes, run)))
            else:
                items += filter(None, map(self._control, itertools.takewhile(lambda _: not self._has_ended(), run)))
        is_full = self._queue.put(items, len(records))
        if self._transport is not None and self._has_ended():
            self._transport.abort()
        elif self._transport is not None and is_full:
            self._transport.pause_reading()

    def _has_ended(self) -> bool:
        return bool(self._end_reason)

    def _control(self, record: DBNRecord | Metadata) -> FeedItem | None:
        """What a record other than a trade says, if the feed must know."""
        if isinstance(record, SymbolMappingMsg):
            return Mapped(
                symbol=record.stype_in_symbol,
                raw_symbol=record.stype_out_symbol,
                instrument_id=record.instrument_id,
                ts=Nanos(record.ts_event),
            )
        if isinstance(record, SystemMsg):
            return _of_system(record)
        if isinstance(record, ErrorMsg):
            return self._of_error(record)
        if isinstance(record, Metadata) and (record.dataset != self._dataset or record.ts_out):
            # Records of another layout or another market must not pass for ours.
            self._end_reason = f"the stream is of {record.dataset}{' with ts_out' if record.ts_out else ''}"
        return None

    def _of_error(self, record: ErrorMsg) -> FeedItem | None:
        """A symbol that is unknown leaves the others alone; every other error ends the session here.

        Also those after which a gateway would go on: behind skipped records (7) a hole would be taken for the
        market's silence, and the next session's replay brings them.
        """
        if record.code == ErrorCode.SYMBOL_RESOLUTION_FAILED:
            return Unresolved(reason=record.err)
        log.warning("the gateway reports an error", error=record.err, code=str(record.code))
        self._end_reason = f"{record.err} ({str(record.code).replace('_', ' ')})"
        self._is_refused = record.code in FATAL_CODES
        self._is_aged_out = record.code == ErrorCode.REPLAY_DATA_AGED_OUT
        if record.code == ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING:
            return SlowReader(reason=record.err)
        return None


def _of_system(record: SystemMsg) -> FeedItem:
    match record.code:
        case SystemCode.SUBSCRIPTION_ACK:
            return Subscribed()
        case SystemCode.REPLAY_COMPLETED:
            return ReplayCompleted()
        case SystemCode.SLOW_READER_WARNING:
            return SlowReader(reason=record.msg)
        case _ if record.msg == END_OF_DATA:
            return DataExhausted(ts=Nanos(record.ts_event))
        case _:
            return Heartbeat(ts=Nanos(record.ts_event))


class DatabentoSource:
    """Implements `domain.ports.FeedSource`. Without `gateway`, Databento's own is used."""

    def __init__(
        self,
        *,
        key: str,
        dataset: str,
        gateway: str | None,
        port: int | None,
        heartbeat_interval_s: int,
        queue_limit: int = QUEUE_LIMIT,
        silence_margin_s: float = SILENCE_MARGIN_S,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._key = key
        self._is_stopping = is_stopping
        self._dataset = dataset
        self._gateway = gateway
        self._port = port
        self._heartbeat_interval_s = heartbeat_interval_s
        self._queue_limit = queue_limit
        self._silence_margin_s = silence_margin_s

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        """Ask with a short session of its own. Raises OperatorError: 78 when refused, 69 when unreachable."""
        continuous = [symbol for symbol in symbols if "." in symbol]
        raw = [symbol for symbol in symbols if "." not in symbol]
        reason, silent = "", 0
        for attempt in range(RESOLVE_ATTEMPTS):
            time.sleep(0.5 * attempt)
            connection = self._connection(MAPPING_SCHEMA, continuous, "continuous", None, raw)
            try:
                mapped, ended = _collect_mappings(connection, len(symbols), self._is_stopping)
            finally:
                connection.close()
            if mapped:
                return mapped, max(item.ts for item in mapped.values())
            if self._is_stopping():
                raise OperatorError("stopped while waiting for the feed", where="feed", exit_code=0)
            if ended is not None and ended.is_fatal:
                raise OperatorError(
                    f"the gateway refused us: {ended.reason}",
                    where="feed",
                    fix="check DATABENTO_API_KEY and that it is entitled to the dataset",
                )
            reason = ended.reason if ended is not None else f"no symbol was mapped within {RESOLVE_TIMEOUT_S:.0f} s"
            log.warning("the feed did not answer", reason=reason, attempt=attempt + 1)
            silent += ended is None or ended.is_silence
            if silent >= SILENT_ATTEMPTS:
                break
        raise OperatorError(
            f"no answer from the feed: {reason}",
            where=f"{self._gateway or 'Databento'}:{self._port or 'default port'}",
            fix="check feed.gateway and feed.port, that the gateway runs, and that it knows the symbols",
            exit_code=69,
        )

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> LiveConnection:
        return self._connection(SCHEMA, raw_symbols, "raw_symbol", start_ns)

    def _connection(
        self,
        schema: str,
        symbols: Sequence[str],
        stype_in: str,
        start_ns: Nanos | None,
        raw_symbols: Sequence[str] = (),
    ) -> LiveConnection:
        return LiveConnection(
            key=self._key,
            gateway=self._gateway or f"{self._dataset.lower().replace('.', '-')}.lsg.databento.com",
            port=self._port or DEFAULT_REMOTE_PORT,
            dataset=self._dataset,
            schema=schema,
            symbols=symbols,
            stype_in=stype_in,
            start_ns=start_ns,
            heartbeat_interval_s=self._heartbeat_interval_s,
            queue_limit=self._queue_limit,
            silence_margin_s=self._silence_margin_s,
            raw_symbols=raw_symbols,
        )


def _collect_mappings(
    connection: LiveConnection, count: int, is_stopping: Callable[[], bool]
) -> tuple[dict[str, Mapped], Ended | None]:
    """Mappings until all are answered, the first trade or heartbeat shows that no more will be, or the end."""
    mapped: dict[str, Mapped] = {}
    unresolved: list[str] = []
    deadline = time.monotonic() + RESOLVE_TIMEOUT_S
    while len(mapped) + len(unresolved) < count and time.monotonic() < deadline and not is_stopping():
        for item in connection.take(0.2):
            if isinstance(item, Mapped):
                mapped[item.symbol] = item
            elif isinstance(item, Unresolved):
                unresolved.append(item.reason)
            elif isinstance(item, Ended):
                return mapped, item
            elif mapped and isinstance(item, Records | Heartbeat | DataExhausted):
                return mapped, None
    return mapped, Ended(reason=unresolved[0]) if unresolved else None
