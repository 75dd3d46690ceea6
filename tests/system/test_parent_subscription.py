"""A parent symbol is outrights and spreads: through the real client, only the session's contracts become bars."""

from __future__ import annotations

import csv
import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import pytest
from databento_dbn import Metadata, Schema, SType
from in_this_process import envelopes, live_in_thread, traded_roots
from market import CHECKOUT, KEY

from adapters.calendar import CmeCalendar
from adapters.databento.gateway import HOST, MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.databento.live import SCHEMA, LiveConnection
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.allow_list import AllowList, Listing, allow_list
from domain.instruments import ResolvedContract
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.ports import DataExhausted, FeedConnection, FeedItem, FeedSource, Mapped, Records
from domain.sessions import to_nanos
from domain.units import MINUTE, Nanos

REAL = CHECKOUT.parent / "shared" / "reference" / "databento_symbology_2025-10-22.csv"
pytestmark = [
    pytest.mark.system,
    pytest.mark.real_data,
    pytest.mark.skipif(not REAL.is_file(), reason="real symbology not found: ../shared/reference"),
]

DATE = dt.date(2025, 10, 22)
AT = to_nanos(dt.datetime(2025, 10, 22, 15, tzinfo=dt.UTC))
PARENTS = tuple(f"{root.data_product}.FUT" for root in traded_roots())
RENAMED = (42004164, "MESZ5-MESH6", Nanos(AT + 2 * MINUTE))
ROUNDS = 5
"""Every instrument trades this often, a minute apart."""


@attrs.frozen
class _Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@attrs.frozen
class _Mapping:
    raw_symbol: str
    intervals: list[_Interval]


@attrs.frozen
class Market:
    """A recorded day in which all 1,763 instruments traded, and what the table says of them."""

    path: Path
    trades: TradeArray
    outrights: dict[int, str]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    rows = list(csv.DictReader(REAL.read_text().splitlines()))
    ids = np.array([int(row["instrument_id"]) for row in rows])
    shuffled = np.random.default_rng(7).permuted(np.tile(ids, (ROUNDS, 1)), axis=1)
    trades = np.zeros(shuffled.size, TRADE_DTYPE)
    trades["length"], trades["action"], trades["side"] = TRADE_LENGTH_WORDS, b"T", b"N"
    trades["instrument_id"] = shuffled.ravel()
    steps = np.arange(len(ids)) * 30_000_000
    trades["ts_recv"] = trades["ts_event"] = AT + (np.arange(ROUNDS)[:, None] * MINUTE + steps).ravel()
    outrights = {int(row["instrument_id"]): row["raw_symbol"] for row in rows if row["kind"] == "outright"}
    is_outright = np.isin(trades["instrument_id"], sorted(outrights))
    # A spread trades around zero, and far more of it: one that leaked could not be overlooked.
    trades["price"] = np.where(is_outright, 100_000_000_000, -30_000_000)
    trades["size"] = np.where(is_outright, 1 + trades["instrument_id"] % 7, 1_000_000)
    metadata = Metadata(
        dataset="GLBX.MDP3",
        start=AT,
        end=AT + ROUNDS * MINUTE,
        stype_in=SType.PARENT,
        stype_out=SType.INSTRUMENT_ID,
        schema=Schema.TRADES,
        symbols=list(PARENTS),
        mappings=[
            _Mapping(row["raw_symbol"], [_Interval(DATE, DATE + dt.timedelta(days=1), row["instrument_id"])])
            for row in rows
        ],
        ts_out=False,
    )
    path = tmp_path_factory.mktemp("parents") / "day.dbn"
    path.write_bytes(bytes(metadata.encode()) + trades.tobytes())
    return Market(path, trades, outrights)


def gateway(market: Market) -> GatewayThread:
    source, _ = build_source(GatewayRequest(files=[market.path]))
    return GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED))


def connect(port: int, start_ns: Nanos | None) -> LiveConnection:
    return LiveConnection(
        key=KEY,
        gateway=HOST,
        port=port,
        dataset="GLBX.MDP3",
        schema=SCHEMA,
        symbols=PARENTS,
        stype_in="parent",
        start_ns=start_ns,
        heartbeat_interval_s=5,
    )


class ParentSource:
    """Implements `domain.ports.FeedSource`: asks for the contracts by their parents, as nobody should have to."""

    def __init__(self, client: FeedSource, port: int) -> None:
        self._client = client
        self._port = port

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        return self._client.resolve(symbols)

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> FeedConnection:
        return connect(self._port, start_ns)


class RenamedConnection:
    """A connection that names an id something else in mid-stream, right before the first record of `at_ns`."""

    def __init__(self, connection: FeedConnection, instrument_id: int, raw_symbol: str, at_ns: Nanos) -> None:
        self._connection = connection
        self._mapped = Mapped(symbol="renamed", raw_symbol=raw_symbol, instrument_id=instrument_id, ts=at_ns)
        self._is_due = True

    def take(self, timeout_s: float) -> list[FeedItem]:
        items: list[FeedItem] = []
        for item in self._connection.take(timeout_s):
            if isinstance(item, Records) and self._is_due:
                stamps = np.frombuffer(item.raw, TRADE_DTYPE)["ts_recv"]
                cut = int(np.searchsorted(stamps, self._mapped.ts)) * TRADE_DTYPE.itemsize
                if cut < len(item.raw):
                    self._is_due = False
                    items += [Records(raw=item.raw[:cut]), self._mapped, Records(raw=item.raw[cut:])]
                    continue
            items.append(item)
        return items

    def close(self) -> None:
        self._connection.close()


class RenamingSource(ParentSource):
    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> FeedConnection:
        return RenamedConnection(super().connect(raw_symbols, start_ns), *RENAMED)


def allowed(items: Sequence[FeedItem]) -> AllowList:
    tomorrow = DATE + dt.timedelta(days=1)
    mapped = [item for item in items if isinstance(item, Mapped)]
    return allow_list(
        [Listing(instrument_id=m.instrument_id, raw_symbol=m.raw_symbol, start=DATE, end=tomorrow) for m in mapped],
        traded_roots(),
    )


def test_of_everything_that_all_parents_bring_exactly_the_252_outrights_are_allowed(market: Market) -> None:
    items: list[FeedItem] = []
    with gateway(market) as server:
        connection = connect(server.port, Nanos(AT))
        deadline = time.monotonic() + 30
        while not any(isinstance(item, DataExhausted) for item in items):
            assert time.monotonic() < deadline, items[-3:]
            items += connection.take(0.1)
        connection.close()
    found = allowed(items)
    assert {c.instrument_id: c.raw_symbol for c in found.contracts} == market.outrights
    raw = b"".join(item.raw for item in items if isinstance(item, Records))
    arrived = np.frombuffer(raw, TRADE_DTYPE)
    assert len(np.unique(arrived["instrument_id"])) > 1_700, "the parents brought spreads too"
    admitted = arrived[found.places(arrived["instrument_id"], arrived["ts_recv"]) >= 0]
    expected = market.trades[np.isin(market.trades["instrument_id"], sorted(market.outrights))]
    assert admitted.tobytes() == expected.tobytes()


def session(directory: Path, market: Market, source: type[ParentSource]) -> Path:
    """The journal of the day, run with `source` in the client's place."""
    with (
        gateway(market) as server,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as broker,
        live_in_thread(
            directory,
            port=server.port,
            key=KEY,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(broker.url, is_live=False),
            roots=tuple(root.root for root in traded_roots()),
            watch=lambda client: source(client, server.port),
        ) as running,
    ):
        assert running.result().exit_code == 0
    (journal,) = (directory / "journal").glob("*.db")
    return journal


def journaled_trades(journal: Path) -> TradeArray:
    return np.concatenate([e.payload.trades for e in envelopes(journal, "TradesReceived")])  # type: ignore[union-attr]


def contracts_of(journal: Path) -> list[ResolvedContract]:
    """What the session trades or watches; of some roots the vendor's second contract expires before the first."""
    (opened,) = (e.payload for e in envelopes(journal, "SessionOpened"))
    return [contract for contract in opened.contracts if contract.raw_symbol is not None]  # type: ignore[union-attr]


def test_a_session_on_parents_journals_and_bars_its_own_contracts_alone(tmp_path: Path, market: Market) -> None:
    journal = session(tmp_path, market, ParentSource)
    mapped = {e.payload.instrument_id: e.payload.contract for e in envelopes(journal, "SymbolMapped")}  # type: ignore[union-attr]
    contracts = contracts_of(journal)
    assert sum(contract.rank == 0 for contract in contracts) == len(PARENTS), "19 products"
    assert sorted(mapped.values()) == sorted(contract.raw_symbol for contract in contracts), "their front and next"
    assert mapped.items() <= market.outrights.items()

    own = market.trades[np.isin(market.trades["instrument_id"], sorted(mapped))]
    assert journaled_trades(journal).tobytes() == own.tobytes()

    found: dict[tuple[str, int], tuple[int, int]] = {}
    for envelope in envelopes(journal, "SliceClosed"):
        for bar in envelope.payload.minutes:  # type: ignore[union-attr]
            found[bar.contract, bar.ts_start] = (bar.low, bar.volume)
    expected = {
        (mapped[int(t["instrument_id"])], int(t["ts_recv"]) // MINUTE * MINUTE): (int(t["price"]), int(t["size"]))
        for t in own
    }
    assert found == expected


def test_an_id_that_comes_to_mean_a_spread_is_not_folded_from_then_on(tmp_path: Path, market: Market) -> None:
    renamed, _, since = RENAMED
    journal = session(tmp_path, market, RenamingSource)
    journaled = journaled_trades(journal)
    own = journaled[journaled["instrument_id"] == renamed]
    assert len(own) == 2
    assert own["ts_recv"].max() < since
    assert len(np.unique(journaled[journaled["ts_recv"] >= since]["instrument_id"])) == len(contracts_of(journal)) - 1
