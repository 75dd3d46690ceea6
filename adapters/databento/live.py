"""The live feed: one fresh `databento.Live` per connection, and our own supervision of it.

The client reconnects after some ends and not after others, forgets `start` when it does, and
one slow callback holds up every client of the process (they share one loop thread). So a
connection here is used once: its callbacks only enqueue, its queue is bounded and can be
closed, and any end, error or silence becomes an `Ended` for the feed to act on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import databento as db
import structlog
from databento_dbn import ErrorCode, ErrorMsg, SymbolMappingMsg, SystemCode, SystemMsg, TradeMsg

from adapters.databento.gateway_session import END_OF_DATA
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
)
from domain.units import Nanos

SCHEMA = "trades"
MAPPING_SCHEMA = "ohlcv-1d"
"""What a resolution subscribes to: it brings the same mappings without a flood of trades."""
QUEUE_LIMIT = 65_536
"""Items between the client's thread and the feed; then the callback blocks and TCP slows the gateway."""
SILENCE_MARGIN_S = 5.0
"""Without anything for a heartbeat interval and this, the connection is taken for dead."""
RESOLVE_TIMEOUT_S = 20.0
RESOLVE_ATTEMPTS = 4
SILENT_ATTEMPTS = 2
"""A gateway that accepts and says nothing is asked no more often than this."""
FATAL_CODES = frozenset({ErrorCode.AUTH_FAILED, ErrorCode.API_KEY_DEACTIVATED, ErrorCode.INVALID_SUBSCRIPTION})
REFUSAL_MARK = "authentication failed"
"""In the client's text when the gateway does not accept the key (a silent one "timed out" and may answer later)."""

log = structlog.get_logger()


class _Queue:
    """A bounded queue whose producer never blocks once it is closed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[bytes | FeedItem] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.last_put_s = time.monotonic()

    def put(self, item: bytes | FeedItem) -> None:
        """Append; wait while full. Discards when closed."""
        if self._is_closed:
            return
        self._items.append(item)
        if 1 < len(self._items) < self._limit:
            return  # someone has notified or is about to: no lock on the hot path
        with self._changed:
            self._changed.notify_all()
            while len(self._items) >= self._limit and not self._is_closed:
                self._changed.wait()

    def take(self, timeout_s: float) -> list[bytes | FeedItem]:
        """Everything queued, or nothing after `timeout_s`."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout_s)
            # Popped one by one: the producer may be appending at this moment, without the lock.
            items = [self._items.popleft() for _ in range(len(self._items))]
            if items:
                self.last_put_s = time.monotonic()
            self._changed.notify_all()
        return items

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()


class LiveConnection:
    """Implements `domain.ports.FeedConnection` with one `databento.Live`."""

    def __init__(
        self,
        *,
        client: db.Live,
        dataset: str,
        schema: str,
        symbols: Sequence[str],
        stype_in: str,
        start_ns: Nanos | None,
        heartbeat_interval_s: int,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._client = client
        self._dataset = dataset
        self._schema = schema
        self._symbols = list(symbols)
        self._stype_in = stype_in
        self._start_ns = start_ns
        self._silence_s = heartbeat_interval_s + SILENCE_MARGIN_S
        self._queue = _Queue(queue_limit)
        self._is_over = False
        self._fatal_reason = ""
        self._is_aged_out = False
        threading.Thread(target=self._run, name="databento-session", daemon=True).start()

    def take(self, timeout_s: float) -> list[FeedItem]:
        items: list[FeedItem] = []
        raw: list[bytes] = []
        for item in self._queue.take(timeout_s):
            if isinstance(item, bytes):
                raw.append(item)
                continue
            if raw:
                items.append(Records(raw=b"".join(raw)))
                raw = []
            items.append(item)
        if raw:
            items.append(Records(raw=b"".join(raw)))
        if not items and not self._is_over and time.monotonic() - self._queue.last_put_s > self._silence_s:
            self._is_over = True
            return [Ended(reason=f"the gateway sent nothing for {self._silence_s:.0f} s", is_silence=True)]
        self._is_over = self._is_over or any(isinstance(item, Ended) for item in items)
        return items

    def close(self) -> None:
        # Closed before it is terminated: an old callback blocked on a full queue would hold up
        # the loop thread that the next connection needs.
        self._queue.close()
        threading.Thread(target=self._terminate, name="databento-terminate", daemon=True).start()

    # ------------------------------------------------------------- the session's own thread

    def _run(self) -> None:
        reason, is_fatal = "closed by the gateway", False
        try:
            self._client.add_callback(self._on_record)
            self._client.subscribe(
                self._dataset, self._schema, self._symbols, stype_in=self._stype_in, start=self._start_ns
            )
            if self._queue.is_closed():
                # Given up while it was connecting: nobody would ever end it.
                self._client.terminate()
                return
            self._client.start()
            if self._queue.is_closed():
                self._client.terminate()
            self._client.block_for_close()
        except db.BentoError as error:
            # The client has one exception for everything; only its text tells a refusal from a lost line.
            reason = str(error) or "the client gave no reason"
            is_fatal = REFUSAL_MARK in reason.lower()
        except (ValueError, OSError) as error:
            reason = f"the client failed: {error}"
        if self._fatal_reason:
            reason, is_fatal = self._fatal_reason, True
        self._queue.put(Ended(reason=reason, is_fatal=is_fatal, is_aged_out=self._is_aged_out))

    def _terminate(self) -> None:
        try:
            self._client.terminate()
        except ValueError:
            return  # it never connected: there is nothing to end

    def _on_record(self, record: Any) -> None:
        """Called in the client's loop thread for every record: it only enqueues."""
        if type(record) is TradeMsg:
            self._queue.put(bytes(record))
        elif isinstance(record, SymbolMappingMsg):
            self._queue.put(
                Mapped(
                    symbol=record.stype_in_symbol,
                    raw_symbol=record.stype_out_symbol,
                    instrument_id=record.instrument_id,
                    ts=Nanos(record.ts_event),
                )
            )
        elif isinstance(record, SystemMsg):
            self._on_system(record)
        elif isinstance(record, ErrorMsg):
            self._on_error(record)

    def _on_system(self, record: SystemMsg) -> None:
        match record.code:
            case SystemCode.SUBSCRIPTION_ACK:
                self._queue.put(Subscribed())
            case SystemCode.REPLAY_COMPLETED:
                self._queue.put(ReplayCompleted())
            case SystemCode.SLOW_READER_WARNING:
                self._queue.put(SlowReader(reason=record.msg))
            case _ if record.msg == END_OF_DATA:
                self._queue.put(DataExhausted(ts=Nanos(record.ts_event)))
            case _:
                self._queue.put(Heartbeat(ts=Nanos(record.ts_event)))

    def _on_error(self, record: ErrorMsg) -> None:
        if record.code in FATAL_CODES:
            self._fatal_reason = record.err
        elif record.code == ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING:
            self._queue.put(SlowReader(reason=record.err))
        elif record.code == ErrorCode.REPLAY_DATA_AGED_OUT:
            self._is_aged_out = True
        else:
            log.warning("the gateway reports an error", error=record.err)


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
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._key = key
        self._is_stopping = is_stopping
        self._dataset = dataset
        self._gateway = gateway
        self._port = port
        self._heartbeat_interval_s = heartbeat_interval_s
        self._queue_limit = queue_limit

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        """Ask with a short session of its own. Raises OperatorError: 78 when refused, 69 when unreachable."""
        reason, silent = "", 0
        for attempt in range(RESOLVE_ATTEMPTS):
            time.sleep(0.5 * attempt)
            connection = self._connection(MAPPING_SCHEMA, symbols, "continuous", None)
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

    def _connection(self, schema: str, symbols: Sequence[str], stype_in: str, start_ns: Nanos | None) -> LiveConnection:
        options: dict[str, Any] = {} if self._port is None else {"port": self._port}
        client = db.Live(
            key=self._key,
            gateway=self._gateway,
            reconnect_policy="none",
            slow_reader_behavior="warn",
            heartbeat_interval_s=self._heartbeat_interval_s,
            **options,
        )
        return LiveConnection(
            client=client,
            dataset=self._dataset,
            schema=schema,
            symbols=symbols,
            stype_in=stype_in,
            start_ns=start_ns,
            heartbeat_interval_s=self._heartbeat_interval_s,
            queue_limit=self._queue_limit,
        )


def _collect_mappings(
    connection: LiveConnection, count: int, is_stopping: Callable[[], bool]
) -> tuple[dict[str, Mapped], Ended | None]:
    """Mappings until all came, the first trade or heartbeat shows that no more will, or the end."""
    mapped: dict[str, Mapped] = {}
    deadline = time.monotonic() + RESOLVE_TIMEOUT_S
    while len(mapped) < count and time.monotonic() < deadline and not is_stopping():
        for item in connection.take(0.2):
            if isinstance(item, Mapped):
                mapped[item.symbol] = item
            elif isinstance(item, Ended):
                return mapped, item
            elif mapped and isinstance(item, Records | Heartbeat | DataExhausted):
                return mapped, None
    return mapped, None
