"""A market made of bars, a session to trade it in, and a journal that fills orders like a backtest."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import backtrader as bt
import pytest

from adapters.backtrader.engine import CerebroEngine
from adapters.backtrader.feeds import TIMEFRAMES, BarFeed, feed_name
from adapters.backtrader.ibs_strategy import IbsStrategy
from adapters.backtrader.roots import RootPlan
from domain.bars import Bar, BarTable, Timeframe, merge_bars
from domain.events import (
    Event,
    FillAssumed,
    OrderAccepted,
    OrderRequested,
    OrderSubmitted,
    RiskDecided,
    SessionOpened,
    SignalEvaluated,
    SliceClosed,
    VetoScored,
)
from domain.gates import auto_close_deadline
from domain.ibs import StrategySettings
from domain.instruments import ContractSpec, ResolvedContract, TradedRoot
from domain.ports import Decision
from domain.risk import RiskSettings
from domain.sessions import EXCHANGE_ZONE, Session, SessionHours, local_time, to_nanos
from domain.units import HOUR, MINUTE, Nanos, Price

ROOTS = ("ES", "NQ", "GC", "CL", "6E", "RTY", "YM", "SI", "HG", "NG", "6A", "6B")
MONDAY = dt.date(2024, 4, 29)
TICK = Price(250_000_000)

SETTINGS = StrategySettings(veto=False, warmup_bars=12, pivot_strength=2)


def contract_of(root: str) -> str:
    return f"{root}M4"


def traded_root(root: str, **changes: Any) -> TradedRoot:
    spec = ContractSpec(tick_size=TICK, multiplier=Decimal(50), currency="USD", exchange_calendar="CME")
    return TradedRoot(
        root=root,
        data_product=root,
        order_product=root,
        dataset="GLBX.MDP3",
        product_id=f"{root}.FUT",
        description=root,
        data_spec=spec,
        order_spec=spec,
        **changes,
    )


def chicago(date: dt.date, hour: int, minute: int = 0) -> Nanos:
    return to_nanos(dt.datetime.combine(date, dt.time(hour, minute), EXCHANGE_ZONE))


def session_on(date: dt.date, roots: Sequence[str]) -> Session:
    opens, closes = chicago(date - dt.timedelta(days=1), 17), chicago(date, 16)
    hours = tuple(SessionHours(root=root, open_ns=opens, close_ns=closes) for root in roots)
    return Session(
        date=date, start_ns=chicago(date - dt.timedelta(days=1), 16), open_ns=opens, end_ns=closes, hours=hours
    )


def session_opened(
    roots: Sequence[str] = ("ES",),
    *,
    date: dt.date = MONDAY,
    settings: StrategySettings = SETTINGS,
    contracts: dict[str, str] | None = None,
) -> SessionOpened:
    return SessionOpened(
        session=session_on(date, roots),
        segment=1,
        mode="paper",
        is_demo=True,
        account="test",
        clock="feed",
        seed=1,
        version="0",
        code_digest="",
        config_digest="",
        libraries={},
        strategy=settings,
        risk=RiskSettings(),
        roots=tuple(traded_root(root) for root in roots),
        contracts=tuple(
            ResolvedContract(root=root, rank=0, raw_symbol=(contracts or {}).get(root, contract_of(root)))
            for root in roots
        ),
        feed_start_ns=session_on(date, roots).open_ns,
    )


def bar(root: str, end: Nanos, prices: Sequence[float], *, length: int = MINUTE, contract: str = "") -> Bar:
    """A bar of (open, high, low, close) in points that ends at `end`."""
    open_, high, low, close = (Price(round(price * 1_000_000_000)) for price in prices)
    return Bar(
        root=root,
        contract=contract or contract_of(root),
        ts_start=Nanos(end - length),
        ts_end=end,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=10,
        trades=5,
    )


def random_minutes(roots: Sequence[str], days: int, *, seed: int = 7, is_sparse: bool = False) -> list[list[Bar]]:
    """Minute bars of consecutive sessions from MONDAY on, one list per minute with a trade; quarter-point ticks."""
    rng = random.Random(seed)
    price = {root: 1000.0 + 50 * i for i, root in enumerate(roots)}
    missing = {root: [0.02, 0.35, 0.10, 0.60, 0.0][i % 5] if is_sparse else 0.0 for i, root in enumerate(roots)}
    minutes = []
    for date in (MONDAY + dt.timedelta(days=day) for day in range(days)):
        for index in range(1, 23 * 60 + 1):
            end = Nanos(chicago(date - dt.timedelta(days=1), 17) + index * MINUTE)
            bars = []
            for root in roots:
                if rng.random() < missing[root]:
                    continue
                open_ = price[root]
                close = open_ + rng.choice((-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0))
                high = max(open_, close) + rng.choice((0.0, 0.25, 0.5))
                low = min(open_, close) - rng.choice((0.0, 0.25, 0.5))
                price[root] = close
                bars.append(bar(root, end, (open_, high, low, close)))
            if bars:
                minutes.append(bars)
    return minutes


def slices_of(minutes: Iterable[Sequence[Bar]]) -> list[SliceClosed]:
    """Minutes with the clock hours and session days they make, one slice per stamp."""
    at: dict[Nanos, dict[Timeframe, dict[str, Bar]]] = {}
    for bars in minutes:
        for minute in bars:
            local = local_time(minute.ts_start, EXCHANGE_ZONE)
            date = local.date() + dt.timedelta(days=local.hour >= 16)
            hour_start = Nanos(minute.ts_start - minute.ts_start % HOUR)
            spans: tuple[tuple[Timeframe, Nanos, Nanos], ...] = (
                ("1m", minute.ts_start, minute.ts_end),
                ("1h", hour_start, Nanos(hour_start + HOUR)),
                ("1d", chicago(date - dt.timedelta(days=1), 17), chicago(date, 16)),
            )
            for timeframe, start, end in spans:
                book = at.setdefault(end, {"1m": {}, "1h": {}, "1d": {}})[timeframe]
                first = book.get(minute.contract)
                grown = attrs.evolve(minute, ts_start=start, ts_end=end)
                book[minute.contract] = grown if first is None else merge_bars(first, grown)
    return [
        SliceClosed(
            ts=ts,
            minutes=_in_order(books["1m"].values()),
            hours=_in_order(books["1h"].values()),
            days=_in_order(books["1d"].values()),
        )
        for ts, books in sorted(at.items())
    ]


def _in_order(bars: Iterable[Bar]) -> tuple[Bar, ...]:
    return tuple(sorted(bars, key=lambda bar: (bar.root, bar.contract)))


def bars_by_feed(slices: Iterable[SliceClosed]) -> dict[tuple[str, Timeframe], list[Bar]]:
    bars: dict[tuple[str, Timeframe], list[Bar]] = {}
    for closed in slices:
        groups: tuple[tuple[Timeframe, tuple[Bar, ...]], ...] = (
            ("1m", closed.minutes),
            ("1h", closed.hours),
            ("1d", closed.days),
        )
        for timeframe, closing in groups:
            for item in closing:
                bars.setdefault((item.root, timeframe), []).append(item)
    return bars


def tables_of(slices: Iterable[SliceClosed], timeframes: Sequence[Timeframe] = ("1h", "1d")) -> list[BarTable]:
    return [
        BarTable.of_bars(root, timeframe, bars)
        for (root, timeframe), bars in sorted(bars_by_feed(slices).items())
        if timeframe in timeframes
    ]


def deadline_of(settings: StrategySettings) -> Callable[[str, Nanos], Nanos]:
    """The auto-close deadline by the calendar: sessions end at 16:00 in Chicago."""

    def deadline(root: str, ts: Nanos) -> Nanos:
        local = local_time(Nanos(ts - 1), EXCHANGE_ZONE)
        date = local.date() + dt.timedelta(days=local.hour >= 16)
        return auto_close_deadline(settings, date, chicago(date, 16))

    return deadline


def plain_cerebro(
    slices: Sequence[SliceClosed],
    roots: Sequence[str],
    *,
    settings: StrategySettings = SETTINGS,
    strategy: Any = IbsStrategy,
    cash: float = 1e9,
) -> Any:
    """A plain Cerebro with Backtrader's own broker over the same bars, ready to run."""
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(cash)
    bars = bars_by_feed(slices)
    timeframes: tuple[Timeframe, ...] = ("1m", "1h", "1d")
    for timeframe in timeframes:
        for root in roots:
            name = feed_name(root, timeframe)
            cerebro.adddata(BarFeed(bars=tuple(bars.get((root, timeframe), ())), **TIMEFRAMES[timeframe]), name=name)
            cerebro.broker.setcommission(commission=1.25, margin=1000.0, mult=50.0, name=name)
    plans = tuple(RootPlan(root=root, contract=contract_of(root), quantity=1, tick_size=TICK) for root in roots)
    cerebro.addstrategy(strategy, settings=settings, plans=plans, deadline_of=deadline_of(settings))
    return cerebro


class Journal:
    """Answers an engine's requests as Backtrader's broker would: filled at the contract's next open."""

    def __init__(self, engine: CerebroEngine) -> None:
        self.engine = engine
        self.outputs: list[Decision] = []
        self.fills: list[FillAssumed] = []
        self.given: list[Event] = []
        """Every slice and every order event, in the order the engine got them."""
        self._working: list[OrderRequested] = []

    def close(self, closed: SliceClosed) -> tuple[Decision, ...]:
        opens = {item.contract: item for item in closed.minutes}
        for request in tuple(self._working):
            if request.contract in opens:
                self._working.remove(request)
                self.fill(request, opens[request.contract].open, opens[request.contract].ts_start)
        self.given.append(closed)
        out = self.engine.step(closed)
        self.take(out)
        return out

    def take(self, out: Iterable[Decision]) -> None:
        for event in out:
            self.outputs.append(event)
            if isinstance(event, OrderRequested):
                self.accept(event)
                self._working.append(event)

    def accept(self, request: OrderRequested) -> None:
        key = {"root": request.root, "signal_id": request.signal_id}
        self.tell(RiskDecided(**key, is_allowed=True, rule="", detail=""))
        self.tell(OrderSubmitted(**key, attempt=1, ticker="", body="", body_sha256=""))
        self.tell(OrderAccepted(**key, attempt=1, http_status=200, external_id=""))

    def tell(self, event: Event) -> None:
        self.given.append(event)
        self.engine.notify(event)

    def fill(self, request: OrderRequested, price: Price, ts: Nanos) -> None:
        fill = FillAssumed(
            root=request.root,
            signal_id=request.signal_id,
            contract=request.contract,
            intent=request.intent,
            side=request.side,
            quantity=request.quantity,
            price=price,
            ts=ts,
            rule="next_trade",
            pnl=None,
        )
        self.fills.append(fill)
        self.tell(fill)

    @property
    def signals(self) -> list[SignalEvaluated]:
        return [event for event in self.outputs if isinstance(event, SignalEvaluated)]

    @property
    def scores(self) -> list[VetoScored]:
        return [event for event in self.outputs if isinstance(event, VetoScored)]

    @property
    def requests(self) -> list[OrderRequested]:
        return [event for event in self.outputs if isinstance(event, OrderRequested)]


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """Everything above, for tests in any module of this folder."""
    return SimpleNamespace(
        ROOTS=ROOTS,
        MONDAY=MONDAY,
        SETTINGS=SETTINGS,
        Journal=Journal,
        bar=bar,
        bars_by_feed=bars_by_feed,
        chicago=chicago,
        contract_of=contract_of,
        deadline_of=deadline_of,
        plain_cerebro=plain_cerebro,
        random_minutes=random_minutes,
        session_opened=session_opened,
        slices_of=slices_of,
        tables_of=tables_of,
        traded_root=traded_root,
    )
