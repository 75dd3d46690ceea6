"""The live connection: the vendor's protocol over TCP, against our gateway and against a scripted one."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from databento_dbn import UNDEF_TIMESTAMP, ErrorCode, ErrorMsg, Metadata, SType, SymbolMappingMsg, SystemCode, SystemMsg

from adapters.databento.gateway import LOCAL_KEY, MAX_SPEED, Gateway, GatewayThread
from adapters.databento.gateway_source import SimulatedSessions
from adapters.databento.live import DatabentoSource, LiveConnection
from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.simulated_products import PRODUCTS
from domain.errors import OperatorError
from domain.market import TRADE_DTYPE
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

DAY = dt.date(2024, 5, 1)
MARKET = SimulatedMarket(5, trades_per_session=20_000)
TRADES = MARKET.session_trades(DAY)
WAIT_S = 20.0
BYTES = TRADE_DTYPE.itemsize
READ_BYTES = 65_536
"""What the client reads at a time."""

RESET = struct.pack("ii", 1, 0)
METADATA = Metadata(
    dataset="GLBX.MDP3", start=1, stype_in=None, stype_out=SType.from_str("instrument_id"), schema=None, ts_out=False
).encode()


def system(code: str, text: str = "", ts: int = 7) -> bytes:
    return bytes(SystemMsg(ts_event=ts, msg=text, code=SystemCode.from_str(code)))


def error(code: str, text: str) -> bytes:
    return bytes(ErrorMsg(ts_event=7, err=text, is_last=True, code=ErrorCode.from_str(code)))


def mapping(symbol: str, raw_symbol: str, instrument_id: int) -> bytes:
    record = SymbolMappingMsg(
        publisher_id=0,
        instrument_id=instrument_id,
        ts_event=5,
        stype_in=SType.from_str("raw_symbol"),
        stype_in_symbol=symbol,
        stype_out=SType.from_str("raw_symbol"),
        stype_out_symbol=raw_symbol,
        start_ts=UNDEF_TIMESTAMP,
        end_ts=UNDEF_TIMESTAMP,
    )
    return bytes(record)


def trades(start: int, stop: int) -> bytes:
    return TRADES[start:stop].tobytes()


class ScriptedGateway:
    """Greets and authenticates every client, then does with its socket what `play` says, then closes it."""

    def __init__(self, play: Callable[[socket.socket], None], answer: bytes = b"success=1|session_id=1\n") -> None:
        self._play = play
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> ScriptedGateway:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave the thread in `accept`
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"lsg_version=1\ncram=abc\n")
            lines = client.makefile("rb")
            lines.readline()
            client.sendall(self._answer)
            # A client that leaves before it starts is the end of this thread, not a loop over empty lines.
            if any(line.startswith(b"start_session") for line in lines):
                self._play(client)


@contextlib.contextmanager
def connected(port: int, **options: Any) -> Iterator[LiveConnection]:
    connection = source_at(port, **{"heartbeat_interval_s": 30, **options}).connect(["ESM4"], None)
    try:
        yield connection
    finally:
        connection.close()


def source_at(port: int, **options: Any) -> DatabentoSource:
    fixed = {"key": LOCAL_KEY, "dataset": "GLBX.MDP3", "gateway": "127.0.0.1", "port": port}
    return DatabentoSource(**{**fixed, "heartbeat_interval_s": 5, **options})


def taken(connection: LiveConnection, last: type[FeedItem] = Ended) -> list[FeedItem]:
    """Everything up to the first item of type `last`, neighbouring records as one item."""
    items: list[FeedItem] = []
    deadline = time.monotonic() + WAIT_S
    while not (items and isinstance(items[-1], last)):
        assert time.monotonic() < deadline, items[-3:]
        items += connection.take(0.1)
    return merged(items)


def received(items: Sequence[FeedItem]) -> bytes:
    return b"".join(item.raw for item in items if isinstance(item, Records))


def merged(items: Sequence[FeedItem]) -> list[FeedItem]:
    found: list[FeedItem] = []
    raw: list[bytes] = []
    for item in items:
        if isinstance(item, Records):
            raw.append(item.raw)
            continue
        found += [Records(raw=b"".join(raw)), item] if raw else [item]
        raw = []
    assert not raw, "it does not end with records"
    return found


# ---------------------------------------------------------------- records and control records


MIXED = [
    (METADATA, None),
    (system("subscription_ack"), Subscribed()),
    (mapping("ESM4", "ESM4", 11), Mapped(symbol="ESM4", raw_symbol="ESM4", instrument_id=11, ts=Nanos(5))),
    (trades(0, 3), Records(raw=trades(0, 3))),
    (system("heartbeat", ts=9), Heartbeat(ts=Nanos(9))),
    (trades(3, 4), Records(raw=trades(3, 4))),
    (system("slow_reader_warning", "behind"), SlowReader(reason="behind")),
    (error("symbol_resolution_failed", "no such symbol"), Unresolved(reason="no such symbol")),
    (system("replay_completed"), ReplayCompleted()),
    (mapping("NQM4", "NQM4", 12), Mapped(symbol="NQM4", raw_symbol="NQM4", instrument_id=12, ts=Nanos(5))),
    (trades(4, 4000), Records(raw=trades(4, 4000))),
    (system("heartbeat", "End of data", ts=10), DataExhausted(ts=Nanos(10))),
]


@pytest.mark.parametrize("size", [1, 47, 49, 1000, 65_536, 1_000_000])
def test_control_records_keep_their_place_however_the_stream_is_cut(size: int) -> None:
    stream = b"".join(raw for raw, _ in MIXED)
    if size == 1:
        stream = stream[: stream.index(trades(4, 5)) + 5 * BYTES]  # a packet for each byte: not 200,000 of them

    def play(client: socket.socket) -> None:
        for start in range(0, len(stream), size):
            client.sendall(stream[start : start + size])

    expected = [item for _, item in MIXED if item is not None]
    if size == 1:
        expected[-2:] = [Records(raw=trades(4, 9))]
    with ScriptedGateway(play) as gateway, connected(gateway.port) as connection:
        assert taken(connection)[:-1] == expected


def test_a_lone_record_is_handed_over_at_once() -> None:
    may_send = threading.Semaphore(0)

    def play(client: socket.socket) -> None:
        client.sendall(METADATA)
        for number in range(20):
            may_send.acquire()
            client.sendall(trades(number, number + 1))
        may_send.acquire()

    with ScriptedGateway(play) as gateway, connected(gateway.port) as connection:
        for number in range(20):
            may_send.release()
            # The next one is sent only when this one is here: nothing waits for company.
            items: list[FeedItem] = []
            while not items:
                items = connection.take(WAIT_S)
            assert items == [Records(raw=trades(number, number + 1))]
        may_send.release()


def test_a_replay_and_what_follows_arrive_complete_and_in_order() -> None:
    source = SimulatedSessions(market=MARKET, dates=(DAY,))
    with GatewayThread(Gateway(source, keys=(LOCAL_KEY,), speed=MAX_SPEED)) as gateway:
        mapped = source_at(gateway.port).resolve([f"{product.product}.v.0" for product in PRODUCTS[:2]])[0].values()
        wanted = TRADES[np.isin(TRADES["instrument_id"], [item.instrument_id for item in mapped])]
        for start_ns in (int(wanted["ts_event"].min()), int(wanted["ts_event"][len(wanted) // 2])):
            connection = source_at(gateway.port).connect([item.raw_symbol for item in mapped], Nanos(start_ns))
            items = taken(connection, DataExhausted)
            connection.close()
            kinds = [type(item) for item in items]
            assert kinds[:3] == [Subscribed, Mapped, Mapped]
            assert kinds.count(ReplayCompleted) == 1
            assert received(items) == wanted[wanted["ts_event"] >= start_ns].tobytes()


def test_contracts_are_resolved_beside_the_vendors_mappings_and_unknown_ones_are_left_out() -> None:
    source = SimulatedSessions(market=MARKET, dates=(DAY,))
    with GatewayThread(Gateway(source, keys=(LOCAL_KEY,), speed=MAX_SPEED)) as gateway:
        mapped, _ = source_at(gateway.port, heartbeat_interval_s=1).resolve(["MES.v.0", "MESM4", "MESH1"])
    assert {symbol: item.raw_symbol for symbol, item in mapped.items()} == {"MES.v.0": "MESM4", "MESM4": "MESM4"}


# ---------------------------------------------------------------- a full queue


FLOOD = 30
"""Blocks of nearly a megabyte: more than the kernel's buffers take."""


def flood(sent: list[int]) -> Callable[[socket.socket], None]:
    block = trades(0, 20_000)

    def play(client: socket.socket) -> None:
        client.sendall(METADATA)
        for _ in range(FLOOD):
            client.sendall(block)
            sent.append(len(block))

    return play


def test_a_full_queue_stops_the_gateway_and_loses_nothing() -> None:
    sent: list[int] = []
    with ScriptedGateway(flood(sent)) as gateway, connected(gateway.port, queue_limit=16) as connection:
        first = connection.take(WAIT_S)
        settled = -1
        while settled != len(sent):
            settled = len(sent)
            time.sleep(0.5)
        assert settled < FLOOD, "the gateway could send everything: nothing is bounded"
        second = connection.take(WAIT_S)
        assert len(received(second)) <= 2 * READ_BYTES
        assert received([*first, *second, *taken(connection)]) == trades(0, 20_000) * FLOOD


def test_closing_with_a_full_queue_waits_for_nobody() -> None:
    sent: list[int] = []
    with ScriptedGateway(flood(sent)) as gateway:
        for _ in range(3):
            connection = source_at(gateway.port, queue_limit=16).connect(["ESM4"], None)
            assert connection.take(WAIT_S)
            time.sleep(0.2)
            start = time.monotonic()
            connection.close()
            assert time.monotonic() - start < 1.0
            assert connection.take(0.0) == []
        with connected(gateway.port) as connection:
            items = taken(connection)
    assert received(items) == trades(0, 20_000) * FLOOD


def test_a_closed_connection_leaves_no_thread_and_no_socket() -> None:
    gone = threading.Event()

    def play(client: socket.socket) -> None:
        client.sendall(METADATA + system("subscription_ack"))
        with contextlib.suppress(ConnectionError):
            while client.recv(1):
                pass
        gone.set()

    with ScriptedGateway(play) as gateway:
        before = sum(thread.name == "databento-session" for thread in threading.enumerate())
        with connected(gateway.port) as connection:
            assert taken(connection, Subscribed) == [Subscribed()]
        assert gone.wait(WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while sum(thread.name == "databento-session" for thread in threading.enumerate()) > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection.close()  # once more: it is harmless


# ---------------------------------------------------------------- how it ends


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def wrong(**changes: Any) -> bytes:
    fields = {"dataset": "GLBX.MDP3", "start": 1, "stype_in": None, "schema": None, "ts_out": False, **changes}
    return Metadata(stype_out=SType.from_str("instrument_id"), **fields).encode()


ENDS = [
    (b"", [Ended(reason="closed by the gateway")]),
    (error("auth_failed", "who are you"), [Ended(reason="who are you (auth failed)", is_fatal=True)]),
    (error("api_key_deactivated", "gone"), [Ended(reason="gone (api key deactivated)", is_fatal=True)]),
    (error("invalid_subscription", "no schema"), [Ended(reason="no schema (invalid subscription)", is_fatal=True)]),
    (error("connection_limit_exceeded", "ten"), [Ended(reason="ten (connection limit exceeded)")]),
    (error("internal_error", "our fault"), [Ended(reason="our fault (internal error)")]),
    (error("replay_data_aged_out", "old"), [Ended(reason="old (replay data aged out)", is_aged_out=True)]),
    (
        error("skipped_records_after_slow_reading", "12 skipped"),
        [
            SlowReader(reason="12 skipped"),
            Ended(reason="12 skipped (skipped records after slow reading)"),
        ],
    ),
]


@pytest.mark.parametrize(("last", "expected"), ENDS)
def test_the_end_comes_last_and_says_why(last: bytes, expected: list[FeedItem]) -> None:
    """Also where the gateway goes on behind an error: what comes after a hole must not be taken."""

    def play(client: socket.socket) -> None:
        client.sendall(METADATA + trades(0, 100) + last)
        if last:
            client.sendall(trades(100, 200))
            client.recv(1)

    with ScriptedGateway(play) as gateway, connected(gateway.port) as connection:
        assert taken(connection) == [Records(raw=trades(0, 100)), *expected]
        assert connection.take(0.0) == []


@pytest.mark.parametrize(
    ("header", "reason"),
    [(wrong(dataset="XNAS.ITCH"), "the stream is of XNAS.ITCH"),
     (wrong(ts_out=True), "the stream is of GLBX.MDP3 with ts_out")],
)  # fmt: skip
def test_a_stream_of_another_kind_than_asked_for_is_not_read(header: bytes, reason: str) -> None:
    with (
        ScriptedGateway(lambda client: client.sendall(header)) as gateway,
        connected(gateway.port) as connection,
    ):
        assert taken(connection) == [Ended(reason=reason)]


def test_a_record_cut_by_the_end_is_not_delivered() -> None:
    with (
        ScriptedGateway(lambda client: client.sendall(METADATA + trades(0, 2)[:-1])) as gateway,
        connected(gateway.port) as connection,
    ):
        assert taken(connection) == [Records(raw=trades(0, 1)), Ended(reason="closed by the gateway")]


@pytest.mark.parametrize(
    ("play", "part"),
    [
        (reset, "reset"),
        (lambda client: client.sendall(b"no DBN at all" * 10), ""),
        (lambda client: client.sendall(METADATA + bytes(64)), ""),
    ],
)
def test_a_reset_and_garbage_end_it_without_being_fatal(play: Callable[[socket.socket], None], part: str) -> None:
    with ScriptedGateway(play) as gateway, connected(gateway.port) as connection:
        (ended,) = taken(connection)
        assert isinstance(ended, Ended)
        assert part in ended.reason
        assert ended == Ended(reason=ended.reason)


@pytest.mark.parametrize(
    ("text", "is_fatal"),
    [("User authentication failed.", True), ("API key deactivated", True),
     ("A live data license is required to access GLBX.MDP3", True),
     ("Reached the open connection limit", False), ("Internal error", False)],
)  # fmt: skip
def test_a_refusal_is_final_where_only_the_operator_can_mend_it(text: str, is_fatal: bool) -> None:
    answer = f"success=0|error={text}\n".encode()
    with ScriptedGateway(lambda client: None, answer) as gateway, connected(gateway.port) as connection:
        assert taken(connection) == [Ended(reason=text, is_fatal=is_fatal)]


def test_nobody_there_and_a_door_that_closes_are_ends_that_may_be_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with connected(port) as connection:
        (ended,) = taken(connection)
        assert isinstance(ended, Ended)
        assert ended.reason.startswith("no connection: ")
    with socket.create_server(("127.0.0.1", 0)) as listener, connected(listener.getsockname()[1]) as connection:
        listener.accept()[0].close()
        assert taken(connection) == [Ended(reason="closed by the gateway")]


@pytest.mark.parametrize("said", [b"", METADATA, METADATA + system("subscription_ack")])
def test_silence_is_an_end_also_before_the_first_record(said: bytes) -> None:
    def play(client: socket.socket) -> None:
        client.sendall(said)
        client.recv(1)

    with (
        ScriptedGateway(play) as gateway,
        connected(gateway.port, heartbeat_interval_s=1, silence_margin_s=0.0) as connection,
    ):
        assert taken(connection)[-1] == Ended(reason="the gateway sent nothing for 1 s", is_silence=True)


def test_a_gateway_that_accepts_and_never_speaks_is_left() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connected(listener.getsockname()[1], heartbeat_interval_s=1, silence_margin_s=0.0) as connection,
    ):
        assert taken(connection) == [Ended(reason="the gateway sent nothing for 1 s", is_silence=True)]


def test_a_refusal_is_the_operators_to_mend() -> None:
    with (
        ScriptedGateway(lambda client: None, b"success=0|error=Authentication failed\n") as gateway,
        pytest.raises(OperatorError, match="refused us"),
    ):
        source_at(gateway.port).resolve(["ES.v.0"])
