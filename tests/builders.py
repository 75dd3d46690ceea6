"""Sessions, trades and envelopes for tests: the smallest of each that is whole, to be changed by keyword."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import create_journal
from adapters.sqlite.writer import Writer
from domain.bars import Bar
from domain.envelope import GENESIS, Envelope, chain_hash, event_time
from domain.events import EVENT_VERSIONS, Event, OrderRequested, SessionOpened, SymbolMapped
from domain.ibs import StrategySettings
from domain.instruments import ContractSpec, ResolvedContract, TradedRoot
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TradeArray
from domain.risk import RiskSettings
from domain.sessions import Session, SessionHours, to_nanos
from domain.units import HOUR, MINUTE, Nanos, Price

CODEC = Codec()

DATE = dt.date(2024, 5, 1)
OPEN = to_nanos(dt.datetime(2024, 4, 30, 22, tzinfo=dt.UTC))
"""17:00 in Chicago."""
CLOSE = to_nanos(dt.datetime(2024, 5, 1, 21, tzinfo=dt.UTC))
START = Nanos(OPEN - HOUR)
TICK = Price(250_000_000)
PRICE = Price(5_000_000_000_000)

IDS = {"ESM4": 1, "ESU4": 2, "NQM4": 3, "GCM4": 4}
"""Instrument ids of the contracts that tests trade."""


def at(minutes: float, seconds: float = 0) -> Nanos:
    """That long after the session's open."""
    return Nanos(OPEN + int(minutes * MINUTE) + int(seconds * 1_000_000_000))


def root_of(contract: str) -> str:
    return contract[:2]


def session_of(*roots: str, **closes: Nanos) -> Session:
    """2024-05-01; `closes` names roots that close early."""
    hours = tuple(
        SessionHours(root=root, open_ns=OPEN, close_ns=closes.get(root, CLOSE)) for root in roots or ("ES", "NQ", "GC")
    )
    return Session(date=DATE, start_ns=START, open_ns=OPEN, end_ns=CLOSE, hours=hours)


def traded_root(root: str, **changes: Any) -> TradedRoot:
    spec = ContractSpec(tick_size=TICK, multiplier=Decimal(50), currency="USD", exchange_calendar="CME Globex Equity")
    values: dict[str, Any] = {
        "root": root,
        "data_product": root,
        "order_product": root,
        "dataset": "GLBX.MDP3",
        "product_id": f"{root}.FUT",
        "description": root,
        "data_spec": spec,
        "order_spec": spec,
    }
    return TradedRoot(**(values | changes))


def opened_session(**changes: Any) -> SessionOpened:
    values: dict[str, Any] = {
        "session": session_of(),
        "segment": 1,
        "mode": "paper",
        "is_demo": False,
        "account": "test",
        "clock": "feed",
        "seed": 1,
        "version": "0",
        "code_digest": "code",
        "config_digest": "config",
        "libraries": {"python": "3"},
        "strategy": StrategySettings(veto=False),
        "risk": RiskSettings(),
        "roots": tuple(traded_root(root) for root in ("ES", "NQ", "GC")),
        "contracts": tuple(
            ResolvedContract(
                root=root,
                rank=0,
                raw_symbol=f"{root}M4",
                instrument_id=IDS[f"{root}M4"],
                last_trade_session=dt.date(2024, 6, 18),
            )
            for root in ("ES", "NQ", "GC")
        ),
        "feed_start_ns": START,
    }
    return SessionOpened(**(values | changes))


def mapped(contract: str, *, rank: int = 0) -> SymbolMapped:
    return SymbolMapped(root=root_of(contract), contract=contract, rank=rank, instrument_id=IDS[contract])


def trades_of(*rows: tuple[str, Nanos, int, int]) -> TradeArray:
    """Records of (contract, ts_recv, ticks away from PRICE, size), in arrival order."""
    trades = np.zeros(len(rows), TRADE_DTYPE)
    for trade, (contract, ts, ticks, size) in zip(trades, rows, strict=True):
        trade["length"] = TRADE_LENGTH_WORDS
        trade["instrument_id"] = IDS[contract]
        trade["ts_event"] = trade["ts_recv"] = ts
        trade["price"] = PRICE + ticks * TICK
        trade["size"] = size
        trade["action"], trade["side"] = b"T", b"B"
    return trades


def bar_of(contract: str = "ESM4", *, start: Nanos = OPEN, length: Nanos = MINUTE, **changes: Any) -> Bar:
    values: dict[str, Any] = {
        "root": root_of(contract),
        "contract": contract,
        "ts_start": start,
        "ts_end": Nanos(start + length),
        "open": PRICE,
        "high": Price(PRICE + TICK),
        "low": Price(PRICE - TICK),
        "close": PRICE,
        "volume": 10,
        "trades": 5,
    }
    return Bar(**(values | changes))


def request_of(signal_id: str = "entry-1", **changes: Any) -> OrderRequested:
    """A market entry into ES decided an hour after the open; exits are sales."""
    values: dict[str, Any] = {
        "root": "ES",
        "signal_id": signal_id,
        "contract": "ESM4",
        "intent": "entry",
        "side": "sell" if changes.get("intent") == "exit" else "buy",
        "quantity": 1,
        "order_type": "market",
        "limit_price": None,
        "reference_price": PRICE,
        "decided_ns": at(60),
        "bar_ns": HOUR,
        "reason": "ibs",
    }
    return OrderRequested(**(values | changes))


class Record:
    """Writes a journal's envelopes: numbered, hashed, in memory."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self._ts = START

    def put(
        self,
        event: Event,
        *,
        source: str = "test",
        cause: Envelope | None = None,
        idx: int = 0,
        ts: Nanos | None = None,
        corr: int | None = None,
        incarnation: int = 0,
    ) -> Envelope:
        """Append `event`; without `ts` at the time of the one before."""
        self._ts = self._ts if ts is None else ts
        kind = type(event).__name__
        raw = CODEC.encode(event)
        columns: dict[str, Any] = {
            "seq": len(self.envelopes) + 1,
            "ts_ns": self._ts,
            "ts_event": event_time(event),
            "type": kind,
            "version": EVENT_VERSIONS[kind],
            "source": source,
            "incarnation": incarnation,
            "cause": None if cause is None else cause.seq,
            "idx": idx,
            "corr": corr,
            "root": getattr(event, "root", None),
            "raw": raw,
        }
        before = self.envelopes[-1].hash if self.envelopes else GENESIS
        envelope = Envelope(payload=event, hash=chain_hash(before, **columns), **columns)
        self.envelopes.append(envelope)
        return envelope


def write_journal(path: Path, envelopes: Sequence[Envelope]) -> Path:
    """A session file at `path` that holds `envelopes`, written by the real writer and left open."""
    create_journal(path)
    failures: list[Exception] = []
    writer = Writer(path, on_failure=failures.append)
    writer.append(envelopes)
    writer.start()
    writer.stop()
    assert not failures
    return path
