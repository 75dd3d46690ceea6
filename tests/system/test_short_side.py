"""Short positions through the whole system: decided, sent over HTTP, filled, closed; the mirror of the long."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

from actors.in_process import InProcessSystem, accept
from actors.replay import replay
from actors.wiring import MACHINE_PARTS, parse_time
from actors.wiring.in_process import in_process_system
from adapters.sqlite.codec import Codec
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from domain.bars import Bar, BarTable
from domain.events import HistoryLoaded, OrderAccepted, OrderAmbiguous, OrderRejected, OrderSubmitted, Outcome
from domain.levels import ATR_BARS
from domain.risk import RiskSettings
from domain.units import MINUTE, SECOND, Nanos, Price

pytestmark = pytest.mark.system

OPEN = parse_time("2024-05-01T06:00:00Z")
MINUTES = 80
TICK = 250_000_000
MIRROR = 40_800 * TICK
RISK = RiskSettings(market_silent_s=3_600, price_band_pct=Decimal(50))
STRATEGY: dict[str, Any] = {
    "decision_timeframe": "1m",
    "warmup_bars": 5,
    "pivot_gate": False,
    "entry_windows": ("00:00-24:00",),
    "stop_atr": Decimal("1.5"),
    "target_atr": Decimal("0.8"),
    "exit_after_bars": 5,
    "auto_close": "03:25",
    "no_entry_before_auto_close_s": 60,
}
WAYS: dict[str, dict[str, Any]] = {
    "market": {},
    "limit": {"entry_order": "limit"},
    "bracket": {"bracket": True},
    "protective stop": {"protective_stop": Decimal("1.6")},
}


def minutes_before(walk: random.Random, *, is_mirror: bool) -> HistoryLoaded:
    """As many bars as the average range needs."""
    bars, ticks = [], 20_400
    for minute in range(-ATR_BARS, 0):
        prices = [ticks := ticks + walk.randint(-4, 4) for _ in range(4)]
        if is_mirror:
            prices = [MIRROR // TICK - price for price in prices]
        at = Nanos(OPEN + minute * MINUTE)
        first, high, low, last = (Price(price * TICK) for price in (prices[0], max(prices), min(prices), prices[-1]))
        bars.append(
            Bar(
                root="ES",
                contract="MESM4",
                ts_start=at,
                ts_end=Nanos(at + MINUTE),
                open=first,
                high=high,
                low=low,
                close=last,
                volume=4,
                trades=4,
            )
        )
    return HistoryLoaded(tables=(BarTable.of_bars("ES", "1m", bars),))


def played(*, is_mirror: bool, answer: Any = accept, **strategy: Any) -> InProcessSystem:
    """A walk of ES, four trades a minute, or the same upside down."""
    walk, ticks = random.Random(3), 20_400
    history = minutes_before(walk, is_mirror=is_mirror)
    system = in_process_system({"ES": "MESM4"}, risk=RISK, history=history, answer=answer, **(STRATEGY | strategy))
    for minute in range(MINUTES):
        for second in (1, 15, 30, 50):
            ticks += walk.randint(-4, 4)
            price = Price(MIRROR - ticks * TICK if is_mirror else ticks * TICK)
            system.trade("MESM4", Nanos(OPEN + minute * MINUTE + second * SECOND), price)
    system.advance(parse_time("2024-05-01T07:40:00Z"))
    return system


def told(system: InProcessSystem, *, is_mirror: bool) -> list[tuple[object, ...]]:
    """What became of every order, as a long's market shows it."""

    def at(price: Price | None) -> int | None:
        return price if price is None or not is_mirror else MIRROR - price

    events: list[tuple[object, ...]] = []
    for name, event in ((envelope.type, envelope.payload) for envelope in system.envelopes()):
        if name not in ("RiskDecided", "OrderSubmitted", "OrderExpired", "OrderAmbiguous", "FillAssumed"):
            continue
        values = {field: getattr(event, field, None) for field in ("intent", "is_allowed", "rule", "reason", "ts")}
        sides = {"buy": "sell", "sell": "buy"} if is_mirror else {}
        side = getattr(event, "side", None)
        events.append(
            (name, values, sides.get(side, side), at(getattr(event, "price", None)), getattr(event, "pnl", None))
        )
    return events


@pytest.mark.parametrize("way", ["limit", "bracket"])
def test_a_short_is_sent_filled_and_closed_as_the_long_upside_down(way: str) -> None:
    long = played(is_mirror=False, **WAYS[way])
    short = played(is_mirror=True, side="short", **WAYS[way])
    expected = told(long, is_mirror=False)
    assert told(short, is_mirror=True) == expected
    fills = Counter((fill.intent, fill.side, fill.rule) for fill in short.events("FillAssumed"))
    assert fills["entry", "sell", "traded_through" if way == "limit" else "next_trade"] > 1
    assert all(side == ("sell" if intent == "entry" else "buy") for intent, side, _ in fills)
    if way == "bracket":
        assert {"stop_leg", "target_leg"} <= {rule for _, _, rule in fills}
    result = replay(short.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True)
    assert result.divergence is None


class Line:
    """Every attempt as a POST to a local TradersPost; what it says is the outcome."""

    def __init__(self, server: LocalTradersPostThread, *, lost: int = -1) -> None:
        self._path, self._lost = urlsplit(server.url).path, lost
        self._connection = http.client.HTTPConnection(server.address)
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, submitted: OrderSubmitted) -> Outcome:
        self._connection.request("POST", self._path, submitted.body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        self.bodies.append(json.loads(submitted.body))
        common = {"root": submitted.root, "signal_id": submitted.signal_id, "attempt": submitted.attempt}
        if len(self.bodies) - 1 == self._lost:
            return OrderAmbiguous(**common, cause="read timeout")
        if answer.status != 200:
            return OrderRejected(**common, http_status=answer.status, code=said["messageCode"], message="")
        return OrderAccepted(**common, http_status=200, external_id=said["id"])


@pytest.mark.parametrize("way", ["market", "protective stop", "bracket"])
def test_traderspost_takes_what_a_short_sends_and_ends_flat(way: str) -> None:
    with LocalTradersPostThread(LocalTradersPost(clock="request")) as server:
        line = Line(server)
        system = played(is_mirror=True, side="short", answer=line, **WAYS[way])
        ledger = server.ledger()
    assert system.events("OrderRejected") == []
    entries = [body for body in line.bodies if body["extras"]["intent"] == "entry"]
    exits = [body for body in line.bodies if body["extras"]["intent"] == "exit"]
    assert {(body["action"], body["sentiment"]) for body in entries} == {("sell", "bearish")}
    # A leg that was traded through is followed by an `exit` with cancel, which closes whatever is left.
    assert {(body["action"], body.get("sentiment")) for body in exits} <= {("buy", "flat"), ("exit", None)}
    for body in entries:
        stop, target, price = body.get("stopLoss"), body.get("takeProfit"), body["signalPrice"]
        assert (stop is not None, target is not None) == (way in ("bracket", "protective stop"), way == "bracket")
        assert stop is None or stop["stopPrice"] > price
        assert target is None or target["limitPrice"] < price
    assert {fill.position_after for fill in ledger.fills} <= {-1, 0}
    assert ledger.positions == {}
    assert not ledger.incidents
    assert len(ledger.fills) > 4


def test_a_short_entry_without_an_answer_is_closed_on_its_own_side() -> None:
    """UNKNOWN: it was executed, and the flat that ends it buys without ever opening a long."""
    with LocalTradersPostThread(LocalTradersPost(clock="request")) as server:
        line = Line(server, lost=0)
        system = played(is_mirror=True, side="short", answer=line)
        ledger = server.ledger()
    entry, flat = line.bodies[:2]
    assert (entry["action"], flat["action"], flat["sentiment"]) == ("sell", "buy", "flat")
    assert flat["extras"]["exit_reason"] in ("unknown", "stop", "target", "ibs", "bar_stop")
    assert "quantity" not in flat
    assert {fill.position_after for fill in ledger.fills} <= {-1, 0}
    assert ledger.positions == {}
    assert not ledger.incidents
    assert system.events("FillAssumed")


def test_the_daily_loss_of_a_short_closes_it() -> None:
    risk = attrs.evolve(RISK, daily_loss_usd=Decimal(60))
    strategy = STRATEGY | {
        "side": "short",
        "auto_close": "16:00",
        "stop_atr": None,
        "target_atr": None,
        "exit_after_bars": 500,
    }
    system = in_process_system({"ES": "MESM4"}, risk=risk, **(strategy | {"exit_ibs_low": 1.0}))
    for minute in range(120):
        for second, ticks in ((1, 0), (15, -2), (30, 2), (50, 2)):  # each minute closes on its high, above the last
            price = Price((20_400 + minute + ticks) * TICK)
            system.trade("MESM4", Nanos(OPEN + minute * MINUTE + second * SECOND), price)
    (tripped,) = system.events("RiskTripped")
    assert tripped.rule == "daily_loss"
    entry, left = system.events("FillAssumed")
    assert (entry.side, left.side, left.intent) == ("sell", "buy", "exit")
    assert left.pnl == Decimal(entry.price - left.price).scaleb(-9) * 5 - 2 * Decimal("1.25")
    assert left.pnl <= -60
