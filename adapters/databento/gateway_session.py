"""One client's session at the gateway: authentication, subscriptions, replay, then the live stream.

Speaks the control lines and the order of records that the vendor's client expects;
which records there are and what time it is come from the feed. Requests that the
protocol rules out are answered with an error record, never ignored.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
import structlog
from databento_dbn import ErrorCode

from adapters.databento.gateway_faults import Fault, FaultKind, FaultPlan
from adapters.databento.gateway_feed import Feed, Pacer, Position
from adapters.databento.gateway_requests import (
    DEFINITION_SCHEMA,
    HEARTBEAT_DEFAULT_S,
    SCHEMA,
    RequestRefused,
    Subscription,
    parse_control_line,
    refusal_of,
    subscription_of,
)
from adapters.databento.gateway_wire import (
    END_OF_DATA,
    HEARTBEAT,
    INVALID_SUBSCRIPTION,
    REPLAY_COMPLETED,
    SKIPPED_RECORDS,
    SLOW_READER_WARNING,
    SUBSCRIPTION_ACK,
    SYMBOL_RESOLUTION_FAILED,
    Wire,
)
from adapters.databento.symbology import Instrument
from domain.market import TradeArray
from domain.units import DAY, SECOND, UNDEF_TIMESTAMP, Nanos, floor_to

log = structlog.get_logger(__name__)

LSG_VERSION = "0.7.2"

OTHER_DATASET = "XNAS.ITCH"
"""What a stream is headed as by the fault `metadata`."""
_GOING_ON = (4, 7)
"""Error codes behind which a session goes on: an unknown symbol, skipped records."""
_AUTH_TIMEOUT_S = 30.0
_HEARTBEAT_POLL_S = 0.25
_CHUNK = 1 << 15
"""Records per write (1.5 MB): large enough for no per-record cost, small enough to share the loop."""
_CLOCK_SKEW = Nanos(1 * SECOND)
"""A record's ts_recv may precede its ts_event by this much: two machines' clocks."""


class GatewaySession:
    """Serves one connection until either side closes it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        session_id: str,
        feed: Feed,
        keys: Collection[str],
        faults: FaultPlan,
        flaw: FaultKind | None,
        restart: Callable[[float], None],
    ) -> None:
        """`flaw` is wrong with this connection from its beginning; `restart` takes the whole gateway down (seconds)."""
        self._reader, self._writer = reader, writer
        self._id, self._feed, self._keys, self._faults = session_id, feed, keys, faults
        self._flaw, self._restart = flaw, restart
        self._mapped: list[tuple[str, str, Instrument]] = []
        """What the client was told, in that order."""
        self._streamed: list[Subscription] = []
        self._next_day_ns = Nanos(0)
        self._held_back: list[tuple[str, str, Instrument]] = []
        self._skipping = 0
        self._wire: Wire | None = None
        self._heartbeat_s = float(HEARTBEAT_DEFAULT_S)
        self._partial_symbols: list[str] = []
        self._subscriptions: list[Subscription] = []
        self._ids = np.zeros(0, np.uint32)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_started = False

    async def run(self) -> None:
        """Serve until the connection ends; a client that vanishes is not an error."""
        try:
            if self._flaw is FaultKind.MUTE:
                await self._reader.read()
                return
            wire = await self._authenticate()
            if wire is not None:
                self._wire = wire
                await self._control(wire)
        except (ConnectionError, TimeoutError) as error:
            log.debug("client gone", session_id=self._id, reason=str(error))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    # -- authentication ----------------------------------------------------------------

    async def _authenticate(self) -> Wire | None:
        """The wire of an accepted client; None when it was refused."""
        challenge = secrets.token_urlsafe(24)
        self._writer.write(f"lsg_version={LSG_VERSION}\ncram={challenge}\n".encode())
        line = await asyncio.wait_for(self._reader.readline(), _AUTH_TIMEOUT_S)
        request = parse_control_line(line)
        refusal = refusal_of(request, challenge, self._keys, self._feed.source.dataset)
        if refusal is not None:
            log.info("client refused", session_id=self._id, reason=refusal)
            await self._reply(f"success=0|error={refusal}\n")
            return None
        self._heartbeat_s = float(request.get("heartbeat_interval_s", HEARTBEAT_DEFAULT_S))
        await self._reply(f"success=1|session_id={self._id}\n")
        return Wire(
            self._writer,
            now_ns=lambda: self._feed.now_ns,
            has_ts_out=request.get("ts_out") == "1",
            is_compressed=request.get("compression") == "zstd",
        )

    async def _reply(self, line: str) -> None:
        self._writer.write(line.encode())
        await self._writer.drain()

    # -- control lines -----------------------------------------------------------------

    async def _control(self, wire: Wire) -> None:
        while line := await self._reader.readline():
            request = parse_control_line(line)
            try:
                if "start_session" in request:
                    self._start(wire)
                else:
                    self._subscribe(wire, request)
            except RequestRefused as refusal:
                log.info("request refused", session_id=self._id, reason=str(refusal))
                if not self._is_started:
                    wire.metadata(self._feed.source.dataset)
                wire.error(INVALID_SUBSCRIPTION, str(refusal))
                wire.fin()
                return

    def _start(self, wire: Wire) -> None:
        if self._is_started:
            raise RequestRefused("the session has started already")
        self._is_started = True
        self._tasks = [asyncio.create_task(self._stream(wire)), asyncio.create_task(self._heartbeats(wire))]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Reset a connection whose stream has died: the client would wait for it in vain."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, ConnectionError):
            log.error("session failed", session_id=self._id, exc_info=error)
        self.abort()

    def _subscribe(self, wire: Wire, request: Mapping[str, str]) -> None:
        self._partial_symbols += [symbol for symbol in request.get("symbols", "").split(",") if symbol]
        if request.get("is_last", "1") != "1":
            return
        symbols, self._partial_symbols = tuple(self._partial_symbols), []
        subscription = subscription_of(request, symbols)
        if self._is_started and subscription.start_ns is not None:
            raise RequestRefused("a replay (start=) must be asked for before the session starts")
        if self._is_started:
            self._activate(wire, subscription)
        else:
            self._subscriptions.append(subscription)

    def _activate(self, wire: Wire, subscription: Subscription) -> list[int]:
        """Acknowledge and map one subscription; the instrument ids it adds to the stream."""
        source, now_ns = self._feed.source, self._feed.now_ns
        wire.system(
            SUBSCRIPTION_ACK,
            f"Subscription request {subscription.id} for {subscription.schema} data succeeded"
            + (f" (trades made of {source.made_of})" if source.made_of and subscription.schema == SCHEMA else ""),
        )
        instruments: list[Instrument] = []
        for symbol in subscription.symbols:
            found = self._resolve(subscription, symbol, now_ns)
            if not found:
                wire.error(SYMBOL_RESOLUTION_FAILED, f"Failed to resolve symbol {symbol}")
            for instrument in found:
                mapping = (subscription.stype_in, symbol, instrument)
                if symbol == subscription.symbols[-1] and self._faults.holds_mapping_back:
                    self._held_back.append(mapping)
                else:
                    self._map(wire, mapping)
            instruments += found
        if subscription.schema == DEFINITION_SCHEMA:
            for instrument in dict.fromkeys(instruments):
                wire.record(source.definition(instrument, now_ns))
            if subscription.start_ns is not None:
                wire.system(REPLAY_COMPLETED, f"Finished {DEFINITION_SCHEMA} replay")
        if subscription.schema != SCHEMA:
            return []
        self._streamed.append(subscription)
        self._next_day_ns = Nanos(floor_to(now_ns, DAY) + DAY)
        ids = [instrument.instrument_id for instrument in instruments]
        self._ids = np.union1d(self._ids, np.array(ids, np.uint32))
        return ids

    def _resolve(self, subscription: Subscription, symbol: str, now_ns: Nanos) -> tuple[Instrument, ...]:
        """What a symbol means now and, but for continuous ones, has meant since the start of the replay."""
        source, moments = self._feed.source, [now_ns]
        if subscription.start_ns is not None and subscription.stype_in != "continuous":
            first = min(max(subscription.start_ns, source.span(0)[0]), now_ns)
            moments = [*range(first, now_ns, DAY), now_ns]
        found = (source.resolve(subscription.stype_in, symbol, Nanos(moment)) for moment in moments)
        return tuple(dict.fromkeys(instrument for instruments in found for instrument in instruments))

    def _map_again(self, wire: Wire, at_ns: Nanos) -> None:
        """At midnight UTC a symbol may get another instrument id. Continuous ones keep theirs, as at the vendor."""
        self._next_day_ns = Nanos(floor_to(at_ns, DAY) + DAY)
        for subscription in self._streamed:
            for symbol in subscription.symbols if subscription.stype_in != "continuous" else ():
                for instrument in self._feed.source.resolve(subscription.stype_in, symbol, at_ns):
                    if instrument.instrument_id not in self._ids:
                        self._map(wire, (subscription.stype_in, symbol, instrument))
                        self._ids = np.union1d(self._ids, np.array([instrument.instrument_id], np.uint32))

    def _map(self, wire: Wire, mapping: tuple[str, str, Instrument]) -> None:
        wire.mapping(*mapping)
        self._mapped.append(mapping)

    # -- the stream --------------------------------------------------------------------

    async def _stream(self, wire: Wire) -> None:
        """Metadata, acknowledgements and mappings, the replay, then the live records."""
        starts = [s.start_ns for s in self._subscriptions if s.start_ns is not None and s.schema == SCHEMA]
        if starts:
            await self._feed.catch_up(min(starts))
        position = await self._feed.join()
        wire.metadata(OTHER_DATASET if self._flaw is FaultKind.METADATA else self._feed.source.dataset)
        replay_from: dict[int, Nanos] = {}
        for subscription in self._subscriptions:
            ids = self._activate(wire, subscription)
            if subscription.start_ns is not None:
                for key in ids:
                    replay_from[key] = min(subscription.start_ns, replay_from.get(key, subscription.start_ns))
        if self._flaw is FaultKind.STALL:
            wire.hang()
            return
        if all(subscription.schema != SCHEMA for subscription in self._subscriptions):
            return  # heartbeats go on; the feed's clock does not move for those who take no trades
        if starts:
            if not await self._replay(wire, replay_from, min(starts), position):
                return
            wire.system(REPLAY_COMPLETED, f"Finished {SCHEMA} replay")
        await self._live(wire, position)

    async def _replay(self, wire: Wire, replay_from: Mapping[int, Nanos], start_ns: Nanos, end: Position) -> bool:
        """Send what lies from each instrument's start up to `end`; False when a fault ended the session."""
        ids = np.array(sorted(replay_from), np.uint32)
        starts = np.array([replay_from[int(key)] for key in ids] + [UNDEF_TIMESTAMP], np.uint64)
        first = Nanos(max(start_ns - _CLOCK_SKEW, 0))
        for number in range(self._feed.source.segment_at(first), end.segment + 1):
            if self._feed.is_past_end(number):
                break
            segment = await self._feed.load(number)
            index = segment.index_at(first)
            stop = end.offset if number == end.segment else len(segment.trades)
            while index < stop:
                chunk = segment.trades[index : min(stop, index + _CHUNK)]
                wanted = np.isin(chunk["instrument_id"], ids)
                if self._flaw is FaultKind.OMIT:
                    wanted &= np.arange(len(chunk)) % 10 > 0
                slots = np.where(wanted, np.searchsorted(ids, chunk["instrument_id"]), len(ids))
                sent, goes_on = self._send(wire, chunk, chunk["ts_event"] >= starts[slots])
                index += sent
                if not goes_on:
                    return False
                await wire.drain()
        return True

    async def _live(self, wire: Wire, position: Position) -> None:
        """Send records as they become due; after the last one say so, once."""
        feed, pacer = self._feed, Pacer(self._feed)
        while not feed.is_past_end(position.segment):
            start_ns, end_ns = feed.source.span(position.segment)
            if feed.now_ns < start_ns:
                feed.release(position, start_ns)
                pacer.jump_to(start_ns)
            if not await self._live_segment(wire, position, end_ns, pacer):
                return
            position = Position(position.segment + 1, 0)
            feed.release(position, end_ns)
        wire.system(HEARTBEAT, END_OF_DATA, ts_event=feed.end_ns)

    async def _live_segment(self, wire: Wire, position: Position, end_ns: Nanos, pacer: Pacer) -> bool:
        """Send the rest of one segment; False when a fault ended the session."""
        feed, number, index = self._feed, position.segment, position.offset
        segment = await feed.load(number)
        count = len(segment.trades)
        while True:
            due_ns = pacer.due_ns()
            due = count if due_ns is None else segment.index_at(due_ns)
            if index < due and segment.stamps[index] >= self._next_day_ns:
                self._map_again(wire, Nanos(int(segment.stamps[index])))
            chunk = segment.trades[index : min(due, index + _CHUNK, segment.index_at(self._next_day_ns))]
            goes_on = True
            if len(chunk):
                sent, goes_on = self._send(wire, chunk, np.isin(chunk["instrument_id"], self._ids))
                index += sent
            is_behind = due_ns is None or index < due
            clock_ns = Nanos(int(segment.stamps[index - 1])) if is_behind and index else due_ns
            if clock_ns is not None:
                feed.release(Position(number, index), min(clock_ns, end_ns))
            if not goes_on:
                return False
            await wire.drain()
            if index == count and (due_ns is None or due_ns >= end_ns):
                return True
            if due_ns is not None and index >= due:
                until_ns = Nanos(int(segment.stamps[index])) if index < count else end_ns
                await asyncio.sleep(pacer.wait_s(until_ns, due_ns))

    def _send(self, wire: Wire, chunk: TradeArray, wanted: np.typing.NDArray[np.bool_]) -> tuple[int, bool]:
        """Send the wanted records of a chunk, up to the next fault.

        Returns how much of the chunk is done with, and False when a fault ended the stream.
        """
        wanted = self._skipped(wire, wanted)
        is_all = bool(wanted.all())
        count = len(chunk) if is_all else int(np.count_nonzero(wanted))
        consumed = len(chunk)
        room = self._faults.room(count)
        if room < count:
            consumed = room if is_all else int(np.flatnonzero(wanted)[room - 1]) + 1
            chunk, wanted, count = chunk[:consumed], wanted[:consumed], room
        if count:
            chosen = chunk if is_all else chunk[wanted]
            if self._flaw is FaultKind.METADATA:
                chosen = chosen.copy()
                chosen["price"] *= 2
            wire.trades(chosen)
        fault = self._faults.count(count)
        return consumed, fault is None or self._goes_on_after(wire, fault)

    def _skipped(self, wire: Wire, wanted: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.bool_]:
        """`wanted` without what a skip leaves out; the client is told once all of it is left out."""
        if not self._skipping:
            return wanted
        left_out = np.flatnonzero(wanted)[: self._skipping]
        wanted = wanted.copy()
        wanted[left_out] = False
        self._skipping -= len(left_out)
        if not self._skipping:
            wire.error(SKIPPED_RECORDS, "Records were skipped: the client reads too slowly")
        return wanted

    def _goes_on_after(self, wire: Wire, fault: Fault) -> bool:
        """Carry a fault out; whether the stream goes on."""
        log.info("fault injected", session_id=self._id, fault=fault.kind.value, records_sent=self._faults.records_sent)
        match fault.kind:
            case FaultKind.RST:
                wire.rst()
            case FaultKind.HANG:
                wire.hang()
            case FaultKind.RESTART:
                self._restart(float(fault.amount))
            case FaultKind.ERROR:
                wire.error(ErrorCode(fault.amount), f"Injected error {fault.amount}")
                if fault.amount not in _GOING_ON:
                    wire.fin()
                return fault.amount in _GOING_ON
            case FaultKind.GARBAGE:
                wire.garbage()
                return True
            case FaultKind.SLOW:
                wire.system(SLOW_READER_WARNING, "The client reads too slowly")
                return True
            case FaultKind.SKIP:
                self._skipping = fault.amount
                return True
            case FaultKind.REMAP:
                for mapping in self._mapped:
                    wire.mapping(*mapping)
                return True
            case FaultKind.LATE:
                while self._held_back:
                    self._map(wire, self._held_back.pop(0))
                return True
            case _:
                wire.fin()
        return False

    async def _heartbeats(self, wire: Wire) -> None:
        """Heartbeats where nothing else was sent for the interval the client asked for."""
        while wire.is_open:
            await asyncio.sleep(_HEARTBEAT_POLL_S)
            is_due = time.monotonic() - wire.last_sent_s >= self._heartbeat_s
            # A client that does not read has bytes waiting: another record would tell it nothing.
            if is_due and not wire.has_unsent:
                wire.system(HEARTBEAT, "Heartbeat")
