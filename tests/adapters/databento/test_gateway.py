"""The local gateway, driven by the vendor's own client over loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import databento as db
import numpy as np
import pytest
from databento.common.error import BentoError
from databento_dbn import Compression, ErrorCode, SystemCode

from adapters.databento.dbn_files import RecordedTrades, read_trades
from adapters.databento.gateway import (
    END_OF_DATA,
    LOCAL_KEY,
    MAX_SPEED,
    Gateway,
    GatewayRequest,
    GatewayThread,
    build_source,
    parse_moment,
    parse_speed,
)
from adapters.databento.gateway_faults import Fault, FaultKind, parse_faults
from adapters.databento.gateway_source import RecordedSource, SimulatedRoundTheClock, SimulatedSessions, rebased_to
from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.simulated_products import PRODUCTS, session_span
from adapters.databento.symbology import MappedSymbol, RecordedSymbology
from domain.errors import OperatorError
from domain.market import TRADE_DTYPE, TradeArray
from domain.units import MINUTE, SECOND, Nanos

ROOT = Path(__file__).resolve().parents[3]
DAY = dt.date(2024, 5, 1)
OPEN, CLOSE = session_span(DAY)
WAIT_S = 20.0
PARENTS = [f"{product.product}.FUT" for product in PRODUCTS]
CRAWL = 1e-6
"""A speed at which no second record becomes due within a test."""

MARKET = SimulatedMarket(5, trades_per_session=20_000)
SOURCE = SimulatedSessions(market=MARKET, dates=(DAY,))


@pytest.fixture(scope="module")
def trades() -> TradeArray:
    return MARKET.session_trades(DAY)


class Client:
    """The real `databento.Live`, with everything it delivers kept in order."""

    def __init__(self, port: int, *, key: str = LOCAL_KEY, heartbeat_s: int = 5, **options: Any) -> None:
        self.live = db.Live(key=key, gateway="127.0.0.1", port=port, heartbeat_interval_s=heartbeat_s, **options)
        self.records: list[Any] = []
        self.end: BentoError | None = None
        self._arrived = threading.Condition()
        self.live.add_callback(self._keep)

    def _keep(self, record: Any) -> None:
        with self._arrived:
            self.records.append(record)
            self._arrived.notify_all()

    def subscribe(self, symbols: Sequence[str] | str, stype_in: str = "parent", **options: Any) -> None:
        options = {"dataset": "GLBX.MDP3", "schema": "trades", **options}
        self.live.subscribe(symbols=symbols, stype_in=stype_in, **options)

    def start(self, symbols: Sequence[str] | str = PARENTS, stype_in: str = "parent", **options: Any) -> Client:
        self.subscribe(symbols, stype_in, **options)
        self.live.start()
        return self

    def wait_for(self, is_it: Callable[[Client], bool]) -> Client:
        with self._arrived:
            assert self._arrived.wait_for(lambda: is_it(self), WAIT_S), f"never seen in {self.records[-3:]}"
        return self

    def wait_for_end(self) -> Client:
        return self.wait_for(lambda c: bool(c.records) and getattr(c.records[-1], "msg", "") == END_OF_DATA)

    def wait_until_closed(self) -> Client:
        done = threading.Event()

        def wait() -> None:
            try:
                self.live.block_for_close(timeout=WAIT_S)
            except BentoError as error:
                self.end = error
            done.set()

        threading.Thread(target=wait, daemon=True).start()
        assert done.wait(WAIT_S), "the connection never ended"
        return self

    @property
    def trades(self) -> list[Any]:
        return [record for record in self.records if isinstance(record, db.TradeMsg)]

    @property
    def raw(self) -> bytes:
        return b"".join(bytes(record) for record in self.trades)

    @property
    def mappings(self) -> list[Any]:
        return [record for record in self.records if isinstance(record, db.SymbolMappingMsg)]

    @property
    def errors(self) -> list[Any]:
        return [record for record in self.records if isinstance(record, db.ErrorMsg)]

    def systems(self, code: Any) -> list[Any]:
        return [r for r in self.records if isinstance(r, db.SystemMsg) and r.code == code]

    def close(self) -> None:
        self.live.terminate()


def serve(source: Any = SOURCE, *, speed: float = MAX_SPEED, **options: Any) -> GatewayThread:
    return GatewayThread(Gateway(source, keys=(LOCAL_KEY,), speed=speed, **options))


def delivered(client: Client) -> TradeArray:
    return np.frombuffer(client.raw, TRADE_DTYPE)


# -- the protocol ----------------------------------------------------------------------


def test_every_record_arrives_unchanged_and_in_order(trades: TradeArray) -> None:
    with serve() as gateway:
        client = Client(gateway.port).start().wait_for_end()
        assert client.raw == trades.tobytes()
        assert gateway.gateway.records_sent == len(trades)
        client.close()


def test_a_session_opens_with_the_feeds_time_an_ack_and_a_mapping_per_instrument() -> None:
    with serve() as gateway:
        client = Client(gateway.port).start().wait_for_end()
        assert client.live.metadata is not None
        assert client.live.metadata.start == OPEN
        first, second = client.records[:2]
        assert (first.code, first.ts_event) == (SystemCode.SUBSCRIPTION_ACK, OPEN)
        assert first.msg == "Subscription request 0 for trades data succeeded"
        assert (second.stype_in_symbol, second.stype_out_symbol) == ("MES.FUT", "MESM4")
        assert {mapping.ts_event for mapping in client.mappings} == {OPEN}
        assert {m.instrument_id for m in client.mappings} >= set(delivered(client)["instrument_id"].tolist())
        assert len(client.mappings) == 2 * len(PRODUCTS) + 1  # copper's old contract trades on
        kinds = [type(record).__name__ for record in client.records]
        assert kinds.index("TradeMsg") > max(i for i, kind in enumerate(kinds) if kind == "SymbolMappingMsg")
        client.close()


def test_the_data_ends_once_with_its_exclusive_end_and_heartbeats_follow() -> None:
    with serve() as gateway:
        client = Client(gateway.port, heartbeat_s=1).start().wait_for_end()
        client.wait_for(lambda c: getattr(c.records[-1], "msg", "") == "Heartbeat")
        ends = [record for record in client.systems(SystemCode.HEARTBEAT) if record.msg == END_OF_DATA]
        assert [end.ts_event for end in ends] == [CLOSE]
        assert client.records[-1].ts_event == CLOSE
        client.close()


def test_heartbeats_come_in_feed_time_and_only_in_silence() -> None:
    with serve(speed=CRAWL) as gateway:
        client = Client(gateway.port, heartbeat_s=1).start()
        client.wait_for(lambda c: len(c.systems(SystemCode.HEARTBEAT)) == 2)
        beats = client.systems(SystemCode.HEARTBEAT)
        assert all(OPEN <= beat.ts_event < OPEN + SECOND for beat in beats)
        assert client.trades == []
        client.close()


@pytest.mark.parametrize(
    ("key", "dataset", "complaint"),
    [("db-wrong-key-of-the-same-length0", "GLBX.MDP3", "User authentication failed"),
     (LOCAL_KEY[:-6] + "x" + LOCAL_KEY[-5:], "GLBX.MDP3", "User authentication failed"),
     (LOCAL_KEY, "XNAS.ITCH", "Dataset XNAS.ITCH is not served here")],
)  # fmt: skip
def test_a_wrong_key_or_dataset_is_refused(key: str, dataset: str, complaint: str) -> None:
    with serve() as gateway, pytest.raises(BentoError, match=complaint):
        Client(gateway.port, key=key).subscribe("MES.v.0", "continuous", dataset=dataset)


@pytest.mark.parametrize(
    ("stype_in", "symbol", "contract"),
    [("continuous", "MHG.v.0", "MHGN4"), ("continuous", "MHG.v.1", "MHGU4"), ("raw_symbol", "MHGK4", "MHGK4"),
     ("instrument_id", "100294", "MESM4")],
)  # fmt: skip
def test_a_symbol_yields_its_contract_and_no_other(
    trades: TradeArray, stype_in: str, symbol: str, contract: str
) -> None:
    with serve() as gateway:
        client = Client(gateway.port).start(symbol, stype_in).wait_for_end()
        (mapping,) = client.mappings
        assert (mapping.stype_in_symbol, mapping.stype_out_symbol) == (symbol, contract)
        expected = trades[trades["instrument_id"] == mapping.instrument_id]
        assert client.raw == expected.tobytes()
        assert len(expected) > 0
        client.close()


def test_unknown_symbols_are_named_and_the_session_goes_on() -> None:
    with serve() as gateway:
        client = Client(gateway.port).start(["MES.v.0", "ZZ.v.0"], "continuous").wait_for_end()
        (error,) = client.errors
        assert error.code == ErrorCode.SYMBOL_RESOLUTION_FAILED
        assert "ZZ.v.0" in error.err
        assert len(client.trades) > 100
        client.close()


def test_subscriptions_in_chunks_are_acknowledged_once() -> None:
    unknown = [f"ZZ{number}" for number in range(1_100)]
    with serve() as gateway:
        client = Client(gateway.port).start([*unknown, "MESM4"], "raw_symbol").wait_for_end()
        assert len(client.systems(SystemCode.SUBSCRIPTION_ACK)) == 1
        assert len(client.errors) == len(unknown)
        assert [mapping.stype_out_symbol for mapping in client.mappings] == ["MESM4"]
        client.close()


def test_zstd_and_ts_out_carry_the_same_records(trades: TradeArray) -> None:
    with serve() as gateway:
        packed = Client(gateway.port, compression=Compression.ZSTD).start(start=0).wait_for_end()
        assert packed.raw == trades.tobytes()
        stamped = Client(gateway.port, ts_out=True).start(start=0).wait_for_end()
        assert {record.ts_out for record in stamped.trades} == {CLOSE}
        assert [r.ts_event for r in stamped.trades] == trades["ts_event"].tolist()
        assert [r.sequence for r in stamped.trades] == trades["sequence"].tolist()
        for client in (packed, stamped):
            client.close()


@pytest.mark.parametrize(
    ("request_options", "complaint"),
    [({"schema": "ohlcv-1m"}, "serves the schemas trades and definition, not ohlcv-1m"),
     ({"stype_in": "smart"}, "stype_in smart is not one of"),
     ({"snapshot": True}, "no snapshot")],
)  # fmt: skip
def test_what_is_not_served_is_refused_in_words(request_options: dict[str, Any], complaint: str) -> None:
    with serve() as gateway:
        client = Client(gateway.port)
        client.subscribe("MESM4", **{"stype_in": "raw_symbol", **request_options})
        client.wait_until_closed()
        assert complaint in str(client.end)
        assert [error.code for error in client.errors] == [ErrorCode.INVALID_SUBSCRIPTION]


def test_a_subscription_may_follow_the_start_but_not_a_replay() -> None:
    with serve(speed=CRAWL) as gateway:
        client = Client(gateway.port).start("MES.v.0", "continuous").wait_for(lambda c: len(c.mappings) == 1)
        client.subscribe("MNQ.v.0", "continuous")
        client.wait_for(lambda c: len(c.mappings) == 2)
        client.subscribe("MGC.v.0", "continuous", start=OPEN)
        client.wait_until_closed()
        assert "before the session starts" in str(client.end)


# -- clock, replay, resume -------------------------------------------------------------


def test_a_replay_is_everything_from_its_start_and_is_declared_complete(trades: TradeArray) -> None:
    start = int(trades["ts_event"][len(trades) // 2])
    with serve() as gateway:
        Client(gateway.port).start().wait_for_end().close()
        client = Client(gateway.port).start(start=start).wait_for_end()
        assert client.raw == trades[trades["ts_event"] >= start].tobytes()
        (completed,) = client.systems(SystemCode.REPLAY_COMPLETED)
        assert client.records.index(completed) > client.records.index(client.trades[-1])
        assert client.live.metadata is not None
        assert client.live.metadata.start == CLOSE
        client.close()


def test_each_subscription_is_replayed_from_its_own_start(trades: TradeArray) -> None:
    half = int(trades["ts_event"][len(trades) // 2])
    with serve() as gateway:
        Client(gateway.port).start().wait_for_end().close()
        client = Client(gateway.port)
        client.subscribe("MES.v.0", "continuous", start=0)
        client.start("MNQ.v.0", "continuous", start=half).wait_for_end()
        es, nq = (mapping.instrument_id for mapping in client.mappings)
        ids = trades["instrument_id"]
        wanted = (ids == es) | ((ids == nq) & (trades["ts_event"] >= half))
        assert client.raw == trades[wanted].tobytes()
        client.close()


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_after_a_broken_connection_a_replay_closes_the_gap(trades: TradeArray, kind: str) -> None:
    with serve(faults=f"{kind}@5000") as gateway:
        first = Client(gateway.port).start().wait_until_closed()
        assert first.raw == trades[: len(first.trades)].tobytes()
        if kind == "fin":
            assert len(first.trades) == 5_000
            assert first.end is None
        second = Client(gateway.port).start(start=0).wait_for_end()
        assert second.raw == trades.tobytes()
        completed = second.records.index(second.systems(SystemCode.REPLAY_COMPLETED)[0])
        assert sum(isinstance(record, db.TradeMsg) for record in second.records[:completed]) == 5_000
        second.close()


def test_faults_strike_once_each_counted_over_all_connections(trades: TradeArray) -> None:
    with serve(faults="fin@3000, fin@7000") as gateway:
        counts, arrived = [], b""
        for _ in range(2):
            client = Client(gateway.port).start().wait_until_closed()
            counts.append(len(client.trades))
            arrived += client.raw
        last = Client(gateway.port).start().wait_for_end()
        # Without start= each connection goes on where the one before it ended.
        assert counts == [3_000, 4_000]
        assert arrived + last.raw == trades.tobytes()
        last.close()


def test_a_fault_counts_what_was_sent_not_what_was_read(trades: TradeArray) -> None:
    with serve(faults="fin@700") as gateway:
        first = Client(gateway.port).start("MES.v.0", "continuous").wait_until_closed()
        assert len(first.trades) == 700
        rest = Client(gateway.port).start("MES.v.0", "continuous").wait_for_end()
        front = trades[trades["instrument_id"] == rest.mappings[0].instrument_id]
        assert first.raw + rest.raw == front.tobytes()
        assert gateway.gateway.records_sent == len(front)
        rest.close()


def test_the_feed_stands_still_while_nobody_listens() -> None:
    with serve(speed=2_000.0) as gateway:
        client = Client(gateway.port).start().wait_for(lambda c: len(c.trades) > 50)
        client.close()
        feed = gateway.gateway.feed
        deadline = time.monotonic() + WAIT_S
        while gateway.gateway.client_count and time.monotonic() < deadline:
            time.sleep(0.01)
        stopped = feed.now_ns
        time.sleep(0.3)
        assert OPEN < feed.now_ns == stopped < CLOSE


def test_a_paced_session_delivers_the_same_records_as_one_without_pause(trades: TradeArray) -> None:
    with serve(speed=100_000.0) as gateway:
        client = Client(gateway.port).start().wait_for_end()
        assert client.raw == trades.tobytes()
        client.close()


def test_what_lies_before_start_at_is_only_replayed(trades: TradeArray) -> None:
    middle = Nanos(OPEN + 12 * 60 * MINUTE)
    is_later = trades["ts_recv"] >= middle
    with serve(start_at_ns=middle) as gateway:
        client = Client(gateway.port).start().wait_for_end()
        assert client.raw == trades[is_later].tobytes()
        assert client.live.metadata is not None
        assert client.live.metadata.start == middle
        client.close()
    with serve(start_at_ns=middle, speed=CRAWL) as gateway:
        client = Client(gateway.port).start(start=0)
        client.wait_for(lambda c: bool(c.systems(SystemCode.REPLAY_COMPLETED)))
        assert client.raw == trades[~is_later].tobytes()
        client.close()


def test_a_replay_from_the_future_moves_a_simulated_clock_behind_it(trades: TradeArray) -> None:
    start = OPEN + 600 * MINUTE + SECOND
    with serve(speed=CRAWL) as gateway:
        client = Client(gateway.port).start(start=start)
        client.wait_for(lambda c: bool(c.systems(SystemCode.REPLAY_COMPLETED)))
        clock = OPEN + 602 * MINUTE
        wanted = (trades["ts_event"] >= start) & (trades["ts_recv"] < clock)
        assert client.raw == trades[wanted].tobytes()
        assert client.live.metadata is not None
        assert client.live.metadata.start == clock
        client.close()


def test_consecutive_sessions_are_one_stream_with_one_end() -> None:
    dates = (dt.date(2024, 5, 3), dt.date(2024, 5, 6))
    with serve(SimulatedSessions(market=MARKET, dates=dates), speed=1_000_000.0) as gateway:
        client = Client(gateway.port).start().wait_for_end()
        ids = np.unique(delivered(client)["instrument_id"])
        expected = np.concatenate([MARKET.session_trades(date) for date in dates])
        assert client.raw == expected[np.isin(expected["instrument_id"], ids)].tobytes()
        assert client.records[-1].ts_event == session_span(dates[1])[1]
        client.close()


# -- faults and bad input --------------------------------------------------------------


def test_a_hanging_gateway_says_nothing_and_takes_the_next_client(trades: TradeArray) -> None:
    with serve(faults="hang@1000") as gateway:
        client = Client(gateway.port, heartbeat_s=1).start().wait_for(lambda c: len(c.trades) == 1_000)
        seen = len(client.records)
        time.sleep(1.6)
        assert len(client.records) == seen
        assert client.live.is_connected()
        other = Client(gateway.port).start().wait_for_end()
        assert other.raw == trades[1_000:].tobytes()
        for each in (client, other):
            each.close()


def test_a_gateway_may_close_every_connection_at_once() -> None:
    with serve(faults="close") as gateway:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_S) as connection:
                assert connection.recv(100) == b""


def test_a_reset_reaches_the_client_as_a_reset() -> None:
    with serve(faults="rst@10") as gateway:
        client = Client(gateway.port).start().wait_until_closed()
        assert "reset" in str(client.end).lower()


@pytest.mark.parametrize("line", [b"garbage\n", b"\xff\xfe\n", b"auth=|dataset=GLBX.MDP3\n", b"no end of line"])
def test_a_stranger_is_turned_away(line: bytes) -> None:
    with serve() as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_S) as connection:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(4_096):
                answer += part
        assert b"success=1" not in answer
        client = Client(gateway.port).start("MESM4", "raw_symbol").wait_for_end()
        assert client.trades
        client.close()


def test_fault_specs_are_read_strictly() -> None:
    assert parse_faults("") == ()
    spec = "rst@45000, fin@20000,close, error3@7,restart@9:30,restart@11,skip@8:12,mute,mute@5,reorder:2"
    assert parse_faults(spec) == (
        Fault(kind=FaultKind.CLOSE),
        Fault(kind=FaultKind.MUTE),
        Fault(kind=FaultKind.REORDER, amount=2),
        Fault(kind=FaultKind.MUTE, at=5),
        Fault(kind=FaultKind.ERROR, at=7, amount=3),
        Fault(kind=FaultKind.SKIP, at=8, amount=12),
        Fault(kind=FaultKind.RESTART, at=9, amount=30),
        Fault(kind=FaultKind.RESTART, at=11, amount=1),
        Fault(kind=FaultKind.FIN, at=20_000),
        Fault(kind=FaultKind.RST, at=45_000),
    )


@pytest.mark.parametrize(
    "spec",
    ["fin", "fin@", "fin@0", "fin@-1", "FIN@5", "close@5", "fin@5,", "fin@5,rst@5", "error@5", "error9@5", "fin1@5",
     "fin@5:2", "duplicate", "duplicate:0", "duplicate:100", "duplicate@5", "fin:3", "error3", "reorder:1,reorder:2"],
)  # fmt: skip
def test_nonsense_in_a_fault_spec_is_refused(spec: str) -> None:
    with pytest.raises(OperatorError, match="--faults"):
        parse_faults(spec)


def test_a_port_in_use_is_the_operators_to_mend() -> None:
    with serve() as gateway:
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{gateway.port}") as refusal:
            GatewayThread(Gateway(SOURCE, keys=(LOCAL_KEY,)), port=gateway.port).__enter__()
        assert refusal.value.exit_code == 78


@pytest.mark.parametrize(
    "options", [{"keys": ("",)}, {"speed": 0.0}, {"start_at_ns": OPEN - 1}, {"start_at_ns": CLOSE},
                {"faults": "nonsense"}, {"is_real_time": True, "speed": 2.0}]
)  # fmt: skip
def test_a_gateway_that_cannot_serve_refuses_to_exist(options: dict[str, Any]) -> None:
    with pytest.raises(OperatorError):
        Gateway(SOURCE, **{"keys": (LOCAL_KEY,), **options})


def test_without_a_key_of_its_own_a_gateway_takes_any() -> None:
    with GatewayThread(Gateway(SOURCE, keys=(), speed=MAX_SPEED)) as gateway:
        client = Client(gateway.port, key="db-whatever-the-client-has-00").start("MES.v.0", "continuous")
        client.wait_for(lambda c: bool(c.mappings))
        client.close()


# -- real time -------------------------------------------------------------------------


def test_round_the_clock_trades_come_when_they_are_due_and_never_end() -> None:
    market = SimulatedMarket(5, trades_per_session=3_000_000)
    source = SimulatedRoundTheClock(market=market, start_ns=Nanos(time.time_ns()))
    with serve(source, speed=1.0, is_real_time=True) as gateway:
        began = time.time_ns() - 30 * SECOND
        client = Client(gateway.port).start("MES.v.0", "continuous", start=began)
        client.wait_for(lambda c: bool(c.systems(SystemCode.REPLAY_COMPLETED)))
        replayed = len(client.trades)
        client.wait_for(lambda c: len(c.trades) > replayed + 5)
        until = int(client.trades[-1].ts_recv)
        client.close()
    assert until <= time.time_ns()
    # Mapped and replayed from another minute than the source's first, so the cut must not matter.
    expected = market.trades_between(Nanos(began - MINUTE), Nanos(until + 1))
    expected = expected[expected["instrument_id"] == client.mappings[0].instrument_id]
    expected = expected[expected["ts_event"] >= began]
    arrived = client.raw[: expected.nbytes]
    assert replayed > 20
    assert arrived == expected.tobytes()


def recorded(stamps: Sequence[int]) -> RecordedTrades:
    made = np.zeros(len(stamps), TRADE_DTYPE)
    made["length"], made["action"], made["instrument_id"] = 12, b"T", 7
    made["ts_recv"] = made["ts_event"] = stamps
    mapping = MappedSymbol(symbol="GCZ3", instrument_id=7, start=dt.date(2013, 10, 7), end=dt.date(2013, 10, 8))
    symbology = RecordedSymbology(mappings=(mapping,), volumes={})
    return RecordedTrades(dataset="GLBX.MDP3", trades=made, symbology=symbology)


def test_a_rebased_file_plays_now_and_ends() -> None:
    first = 1_381_104_000_250_000_000
    source = rebased_to(recorded([first, first + 10**8, first + 11 * 10**8]), Nanos(time.time_ns()))
    with serve(source, speed=1.0, is_real_time=True) as gateway:
        client = Client(gateway.port).start("GC.v.0", "continuous").wait_for(lambda c: len(c.trades) == 3)
        stamps = [record.ts_recv for record in client.trades]
        assert abs(stamps[0] - time.time_ns()) < 60 * SECOND
        assert stamps[0] % SECOND == first % SECOND
        assert [stamp - stamps[0] for stamp in stamps] == [0, 10**8, 11 * 10**8]
        assert client.mappings[0].stype_out_symbol == "GCZ3"
        client.close()


def test_a_files_clock_starts_at_its_first_minute_and_ends_with_its_last() -> None:
    base = 1_381_104_000_000_000_000
    source = RecordedSource(recorded=recorded([base + 90 * SECOND, base + 200 * SECOND]))
    with serve(source) as gateway:
        client = Client(gateway.port).start("GCZ3", "raw_symbol").wait_for_end()
        assert client.live.metadata is not None
        assert client.live.metadata.start == base + MINUTE
        assert client.records[-1].ts_event == base + 4 * MINUTE
        client.close()


@pytest.mark.real_data
def test_a_real_gold_day_arrives_as_recorded() -> None:
    path = ROOT.parent / "shared" / "market" / "GC.trades.20131007.dbn.zst"
    if not path.exists():
        pytest.skip("real market data not found: ../shared/market/GC.trades.20131007.dbn.zst")
    read = read_trades([path])
    with serve(RecordedSource(recorded=read), faults="rst@9000,fin@20000") as gateway:
        for _ in range(2):
            Client(gateway.port).start("GC.v.0", "continuous").wait_until_closed()
        client = Client(gateway.port).start("GC.v.0", "continuous", start=0).wait_for_end()
        assert client.mappings[0].stype_out_symbol == "GCZ3"
        front = read.trades[read.trades["instrument_id"] == client.mappings[0].instrument_id]
        assert client.raw == front.tobytes()
        client.close()


# -- the command -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_options",
    [{}, {"files": [Path("a.dbn")], "simulate": True}, {"simulate": True, "rebase": "now"},
     {"files": [Path("a.dbn")], "rebase": "then"}, {"files": [Path("a.dbn")], "start_at": "now"},
     {"files": [Path("a.dbn")], "start_at": "now", "rebase": "now"}, {"simulate": True, "sessions": 0},
     {"simulate": True, "session": dt.date(2024, 5, 4)}],
)  # fmt: skip
def test_options_that_contradict_each_other_are_usage_errors(request_options: dict[str, Any]) -> None:
    with pytest.raises(OperatorError) as refusal:
        build_source(GatewayRequest(**request_options))
    assert refusal.value.exit_code == 2


def test_speeds_and_moments_are_read_strictly() -> None:
    assert [parse_speed(text) for text in ("1", "0.5", "max")] == [1.0, 0.5, MAX_SPEED]
    assert parse_moment("2024-04-30T17:00:00-05:00") == parse_moment("2024-04-30T22:00:00Z") == OPEN
    for bad in ("0", "-1", "nan", "inf", "fast", ""):
        with pytest.raises(OperatorError):
            parse_speed(bad)
    for bad in ("2024-04-30T22:00:00", "yesterday"):
        with pytest.raises(OperatorError):
            parse_moment(bad)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_process_prints_its_address_first_and_stops_on_a_signal(stop: signal.Signals) -> None:
    code = (
        "from adapters.databento.gateway import *\n"
        "raise SystemExit(run_gateway(GatewayRequest(simulate=True, trades_per_session=5000, speed=MAX_SPEED)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().partition(":")
        assert host == "127.0.0.1"
        client = Client(int(port)).start().wait_for_end()
        assert client.trades
        process.send_signal(stop)
        assert process.wait(WAIT_S) == 0
        client.wait_until_closed()
    finally:
        process.kill()
        process.communicate()


def test_stopping_drops_clients_and_frees_the_port() -> None:
    async def run() -> int:
        gateway = await Gateway(SOURCE, keys=(LOCAL_KEY,), speed=CRAWL).start()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        assert (await reader.readline()).startswith(b"lsg_version=")
        await gateway.stop()
        await gateway.stop()
        try:
            rest = await reader.read()
        except ConnectionResetError:
            rest = b""
        writer.close()
        assert b"success" not in rest
        again = await Gateway(SOURCE, keys=(LOCAL_KEY,)).start(gateway.port)
        port = again.port
        await again.stop()
        return port - gateway.port

    assert asyncio.run(run()) == 0
