"""Rolls from end to end: real client over loopback, files one after the other, each of which replays."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import databento as db
import numpy as np
import pytest
from in_this_process import envelopes, live_in_thread
from market import KEY, MARKET_DATA, assert_replays

from adapters.calendar import CmeCalendar
from adapters.contract_map import load_contract_map
from adapters.databento.dbn_files import RecordedTrades
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayThread
from adapters.databento.gateway_source import GatewaySource, RecordedSource, SimulatedSessions
from adapters.databento.market_simulator import SimulatedMarket, session_dates
from adapters.databento.symbology import Instrument, MappedSymbol, RecordedSymbology
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TRADE_RTYPE, TradeArray
from domain.sessions import to_nanos
from domain.units import Nanos

pytestmark = pytest.mark.system

ALWAYS_IN: dict[str, Any] = {
    "entry_windows": ("00:00-24:00",),
    "entry_ibs_high": 1.0,
    "exit_ibs_low": 2.0,
    "exit_ibs_high": 3.0,
    "exit_after_bars": 99,
    "stop_pct": Decimal(50),
    "target_pct": Decimal(50),
}
"""Enters when it may and leaves by the clock alone."""


def sessions(
    directory: Path, source: GatewaySource, contract_map: str, calendar: CmeCalendar, **strategy: Any
) -> list[Path]:
    """Run everything that `source` has; the session files in order."""
    path = directory / "map.yml"
    path.write_text(contract_map)
    universe = load_contract_map(path).roots
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            directory,
            port=gateway.port,
            key=KEY,
            calendar=calendar,
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=tuple(root.root for root in universe),
            universe=universe,
            **strategy,
        ) as running,
    ):
        assert running.result().exit_code == 0
    return sorted((directory / "journal").glob("*.db"))


def payloads(journal: Path, *types: str) -> list[Any]:
    return [envelope.payload for envelope in envelopes(journal, *types)]


def front(journal: Path) -> list[tuple[int, str | None]]:
    (opened,) = payloads(journal, "SessionOpened")
    return [(contract.rank, contract.raw_symbol) for contract in opened.contracts]


# ------------------------------------------------------------- the simulated market


class _CrudeOil(SimulatedMarket):
    """MCL alone, an hour or a few of each session: the last ones before the roll, the first ones after it."""

    def session_trades(self, date: dt.date) -> TradeArray:
        trades = super().session_trades(date)
        ids = [self.resolve("raw_symbol", raw, at_utc(13, 12))[0].instrument_id for raw in ("MCLM4", "MCLN4")]
        start, end = {13: (at_utc(13, 20), at_utc(13, 21)), 14: (at_utc(14, 16), at_utc(14, 21))}.get(
            date.day, (at_utc(14, 22), at_utc(15, 0))
        )
        is_kept = np.isin(trades["instrument_id"], ids) & (trades["ts_recv"] >= start) & (trades["ts_recv"] < end)
        return trades[is_kept]


def at_utc(day: int, hour: int) -> Nanos:
    return to_nanos(dt.datetime(2024, 5, day, hour, tzinfo=dt.UTC))


def test_a_held_position_is_closed_by_name_before_the_roll_and_opened_again_after_it(tmp_path: Path) -> None:
    market = _CrudeOil(1, trades_per_session=60_000)
    source = SimulatedSessions(market=market, dates=session_dates(dt.date(2024, 5, 13), 3))
    contract_map = "contracts: [{symbol: CL, roll: {policy: close_and_reopen}}]\n"
    before, rolling, after = sessions(tmp_path, source, contract_map, CmeCalendar(), **ALWAYS_IN)

    assert payloads(before, "RollDue", "ContractRolled") == []
    assert front(rolling) == [(0, "MCLM4"), (1, "MCLN4")]
    (due,) = payloads(rolling, "RollDue", "ContractRolled")
    assert (due.from_contract, due.to_contract, due.rule) == ("MCLM4", "MCLN4", "vendor")
    assert due.evidence == "MCL.v.0 is MCLN4"
    exits = [request for request in payloads(rolling, "OrderRequested") if request.intent == "exit"]
    assert [(request.contract, request.reason, request.decided_ns) for request in exits] == [
        ("MCLM4", "roll", due.close_ns)
    ]
    filled = payloads(rolling, "FillAssumed")
    assert [(fill.contract, fill.intent) for fill in filled] == [("MCLM4", "entry"), ("MCLM4", "exit")]

    assert front(after)[0] == (0, "MCLN4")
    (rolled,) = payloads(after, "ContractRolled")
    common = [slice_ for slice_ in payloads(rolling, "SliceClosed") if len(slice_.minutes) == 2][-1]
    old, new = (next(bar for bar in common.minutes if bar.contract == name) for name in ("MCLM4", "MCLN4"))
    assert (rolled.rule, rolled.evidence, rolled.difference) == (due.rule, due.evidence, new.close - old.close)
    entries = [request for request in payloads(after, "OrderRequested") if request.intent == "entry"]
    assert (entries[0].contract, entries[0].reason) == ("MCLN4", "reopen")
    assert_replays(after)


# ------------------------------------------------------------- ES in December 2013


@attrs.frozen(kw_only=True, eq=False)
class _Ranked(RecordedSource):
    """Recorded trades of a vendor that still ranks ESZ3 first: only our own volumes can tell that ESH4 leads."""

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        raw = {"ES.v.0": "ESZ3", "ES.v.1": "ESH4"}.get(symbol, symbol)
        return super().resolve("raw_symbol" if raw != symbol else stype_in, raw, at_ns)


def trades_of_bars(file: Path) -> RecordedTrades:
    """Each minute bar as four trades, open, high, low and close, that add up to its volume."""
    store = db.DBNStore.from_file(file)
    names = {int(spans[0]["symbol"]): raw for raw, spans in store.metadata.mappings.items()}
    bars = store.to_ndarray()
    trades: TradeArray = np.zeros(4 * len(bars), TRADE_DTYPE)
    trades["length"], trades["rtype"] = TRADE_LENGTH_WORDS, TRADE_RTYPE
    trades["action"], trades["side"] = b"T", b"N"
    for place, column in enumerate(("open", "high", "low", "close")):
        rows = trades[place::4]
        rows["price"], rows["instrument_id"] = bars[column], bars["instrument_id"]
        rows["ts_event"] = rows["ts_recv"] = bars["ts_event"] + np.uint64(place * 10**9)
    trades["size"][::4] = bars["volume"]
    mappings = tuple(
        MappedSymbol(symbol=raw, instrument_id=key, start=dt.date(2013, 12, 18), end=dt.date(2013, 12, 21))
        for key, raw in sorted(names.items())
    )
    trades = trades[trades["ts_recv"] < 1_387_508_400 * 10**9]  # 03:00 on the 20th: the roll is over
    in_order = trades[np.argsort(trades["ts_recv"], kind="stable")]
    return RecordedTrades(
        dataset="GLBX.MDP3", trades=in_order, symbology=RecordedSymbology(mappings=mappings, volumes={})
    )


@pytest.mark.real_data
@pytest.mark.skipif(not MARKET_DATA.is_dir(), reason=f"real market data is not at {MARKET_DATA}")
def test_the_volumes_of_the_18th_roll_the_december_contract(tmp_path: Path) -> None:
    source = _Ranked(recorded=trades_of_bars(MARKET_DATA / "ES.ohlcv-1m.20131218-20.roll.dbn.zst"))
    overrides = tmp_path / "calendar.yml"
    overrides.write_text(
        '"2013-12-18": "16:15"\n"2013-12-20": "16:15"\n'
    )  # in 2013 the exchange closed a quarter of an hour later
    contract_map = (
        "contracts:\n  - symbol: ES\n    databento: {feed_symbol: ES}\n"
        "    roll: {rule: volume, last_trade_session: {ESZ2013: 2013-12-19}}\n"
    )
    first, rolling, after = sessions(
        tmp_path, source, contract_map, CmeCalendar(overrides), **{**ALWAYS_IN, "entry_windows": ("17:00-24:00",)}
    )
    assert [path.name for path in (first, rolling, after)] == ["2013-12-18.db", "2013-12-19.db", "2013-12-20.db"]
    assert front(first) == front(rolling) == [(0, "ESZ3"), (1, "ESH4")]
    assert payloads(first, "RollDue", "ContractRolled") == []
    (due,) = payloads(rolling, "RollDue", "ContractRolled")
    (carried,) = payloads(rolling, "StateCarried")
    assert {item.contract: item.volume for item in carried.volumes} == {"ESZ3": 282_813, "ESH4": 2_253_915}
    assert (due.from_contract, due.to_contract) == ("ESZ3", "ESH4")

    assert front(after)[0] == (0, "ESH4")
    (rolled,) = payloads(after, "ContractRolled")
    assert rolled.difference == round((1805 - 1811.25) * 10**9)  # the closes of 23:59 on the 18th
    assert {bar.contract for slice_ in payloads(after, "SliceClosed") for bar in slice_.minutes} == {"ESH4"}
    assert {signal.contract for signal in payloads(after, "SignalEvaluated")} == {"ESH4"}
    assert_replays(after)
