"""A backtest looks at the minutes that matter only, and trades as if it looked at all of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from adapters.backtrader.backtest import RootBacktest
from adapters.backtrader.ibs_strategy import IbsStrategy
from domain.backtest import BacktestCosts, BacktestTrade, MarketSession, RecordedOutcome, RootBars
from domain.bars import BarTable
from domain.events import RollDue, SignalEvaluated, SliceClosed, VetoScored
from domain.ibs import StrategySettings
from domain.orders import Order, OrderState
from domain.positions import Position
from domain.units import HOUR, MINUTE, Nanos, float_to_price

WIDE = StrategySettings(
    veto=False,
    warmup_bars=1,
    pivot_gate=False,
    entry_ibs_high=0.6,
    exit_after_bars=3,
    stop_pct=Decimal("0.5"),
    target_pct=Decimal("0.7"),
)
FREE = BacktestCosts(slippage_ticks=0)


def market_of(
    kit: SimpleNamespace,
    slices: Sequence[SliceClosed],
    roots: Sequence[str],
    settings: StrategySettings = WIDE,
    **more: Any,
) -> MarketSession:
    """One session of `slices`."""
    bars = kit.bars_by_feed(slices)
    tables = {
        (root, tf): BarTable.of_bars(root, tf, bars.get((root, tf), ())).data for root in roots for tf in ("1m", "1h")
    }
    return MarketSession(
        opened=kit.session_opened(roots, settings=settings),
        bars={root: RootBars(minutes=tables[root, "1m"], hours=tables[root, "1h"]) for root in roots},
        **more,
    )


def run(
    market: MarketSession, root: str, costs: BacktestCosts = FREE
) -> tuple[tuple[BacktestTrade, ...], list[SignalEvaluated | VetoScored]]:
    heard: list[SignalEvaluated | VetoScored] = []
    (traded,) = (one for one in market.opened.roots if one.root == root)
    return RootBacktest(traded, listener=heard.append, costs=costs).run(market), heard


class Recording(IbsStrategy):
    """The strategy in a Cerebro that sees every minute."""

    def start(self) -> None:
        self.fills: list[tuple[str, str, Nanos, int]] = []

    def notify_order(self, order: Any) -> None:
        super().notify_order(order)
        if order.status == order.Completed:
            note = order.info.request
            price = float_to_price(order.executed.price)
            self.fills.append((note.root, note.intent, self._fill_time(order), price))


def fills_of(trades: Sequence[BacktestTrade]) -> list[tuple[str, str, Nanos, int]]:
    entries = [(trade.root, "entry", trade.entry_ns, trade.entry_price) for trade in trades]
    return sorted(entries + [(trade.root, "exit", trade.exit_ns, trade.exit_price) for trade in trades])


@pytest.mark.parametrize("timeframe", ["1h", "1m"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_it_trades_what_a_cerebro_with_every_minute_trades(
    kit: SimpleNamespace, is_sparse: bool, timeframe: Any
) -> None:
    roots = kit.ROOTS[:2]
    settings = attrs.evolve(WIDE, decision_timeframe=timeframe, cooldown_after_stop_bars=2)
    minutes = kit.random_minutes(roots, 1, seed=5, is_sparse=is_sparse)
    # Every third minute is enough of a day, and quicker.
    slices = kit.slices_of(minutes[::3] if timeframe == "1h" else minutes[:120])
    (plain,) = kit.plain_cerebro(slices, roots, settings=settings, strategy=Recording).run()
    market = market_of(kit, slices, roots, settings)
    found = [run(market, root) for root in roots]
    ended = max(closed.ts for closed in slices if closed.minutes)
    # What is held where the data ends is closed by the clock, which a plain Cerebro does not have.
    fills = [fill for trades, _ in found for fill in fills_of(trades) if fill[2] < ended]
    assert sorted(fills) == sorted(plain.fills)
    assert len(plain.fills) >= 6 if timeframe == "1m" else len(plain.fills) >= 12
    heard = sorted((event for _, events in found for event in events), key=lambda event: (event.ts, event.root))
    assert heard == sorted(plain.signals, key=lambda event: (event.ts, event.root))


def falling(kit: SimpleNamespace, ends: Sequence[Nanos]) -> list[SliceClosed]:
    """Minutes that end at `ends`, each a point lower: every hour closes near its low, and nothing is an exit."""
    prices = [(1_000.0 - i, 1_000.5 - i, 998.5 - i, 999.0 - i) for i in range(len(ends))]
    slices: list[SliceClosed] = kit.slices_of(
        [[kit.bar("ES", end, price)] for end, price in zip(ends, prices, strict=True)]
    )
    return slices


def last_close(slices: Sequence[SliceClosed]) -> int:
    return [bar for closed in slices for bar in closed.minutes][-1].close


HOLDING = attrs.evolve(WIDE, stop_pct=Decimal(50), target_pct=Decimal(50), exit_after_bars=99)


def test_a_fill_is_worse_by_the_slippage_and_the_result_net_of_both_commissions(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 200)])
    (trade,), _ = run(market_of(kit, slices, ["ES"], HOLDING), "ES", BacktestCosts(slippage_ticks=2))
    assert (trade.decided_ns, trade.entry_ns, trade.exit_reason) == (noon + HOUR, noon + HOUR, "auto_close")
    assert trade.entry_price == float_to_price(940.0 + 2 * 0.25)
    assert trade.exit_ns == kit.chicago(kit.MONDAY, 15)
    assert trade.exit_price == float_to_price(820.0 - 2 * 0.25)
    assert trade.pnl == Decimal("-121") * 50 - Decimal("2.50")


@pytest.mark.parametrize("last", ["14:00", "14:40"])
def test_without_a_bar_at_the_deadline_or_after_it_is_flat_before_the_close(kit: SimpleNamespace, last: str) -> None:
    """The bar that starts at 15:00 in New York is missing, and nothing trades any more."""
    noon = kit.chicago(kit.MONDAY, 12)
    hour, minute = map(int, last.split(":"))
    count = (hour - 12) * 60 + minute
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, count + 1)])
    (trade,), _ = run(market_of(kit, slices, ["ES"], HOLDING), "ES")
    assert trade.exit_reason == "auto_close"
    assert trade.exit_decided_ns == kit.chicago(kit.MONDAY, 15)  # 16:00 in New York
    assert trade.exit_ns == kit.chicago(kit.MONDAY, 15, 10)  # what live assumes of an order that nobody trades with
    assert trade.exit_price == last_close(slices)


def test_it_closes_at_the_deadline_though_the_next_trade_is_late(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    late = kit.chicago(kit.MONDAY, 15, 5)
    slices = falling(kit, [*(Nanos(noon + minute * MINUTE) for minute in range(1, 121)), late])
    (trade,), _ = run(market_of(kit, slices, ["ES"], HOLDING), "ES")
    assert (trade.exit_decided_ns, trade.exit_ns) == (kit.chicago(kit.MONDAY, 15), late - MINUTE)


def test_a_roll_closes_the_position_at_its_time(kit: SimpleNamespace) -> None:
    noon, closes = kit.chicago(kit.MONDAY, 12), kit.chicago(kit.MONDAY, 14)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 200)])
    roll = RollDue(
        root="ES",
        from_contract="ESM4",
        to_contract="ESU4",
        rule="volume",
        evidence="",
        policy="close",
        close_ns=closes,
    )
    (trade,), _ = run(market_of(kit, slices, ["ES"], HOLDING, rolls=(roll,)), "ES")
    assert (trade.exit_reason, trade.exit_decided_ns, trade.exit_ns) == ("roll", closes, closes)


@pytest.mark.parametrize(("low", "is_filled"), [(938.75, True), (939.0, False), (940.0, False)])
def test_a_limit_entry_needs_a_trade_through_its_price(kit: SimpleNamespace, low: float, is_filled: bool) -> None:
    """As live: the limit is the hour's close, and a touch is not enough."""
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 61)])
    limit = last_close(slices)
    assert limit == float_to_price(940.0)
    after = [
        kit.bar("ES", Nanos(noon + HOUR + minute * MINUTE), (945.0, 946.0, low + 1, 945.0)) for minute in range(1, 9)
    ]
    slices += kit.slices_of([[bar] for bar in after])
    (trades, heard) = run(market_of(kit, slices, ["ES"], attrs.evolve(HOLDING, entry_order="limit")), "ES")
    assert next(event.verdict for event in heard if isinstance(event, SignalEvaluated)) == "enter"
    assert [trade.entry_price for trade in trades] == ([limit] if is_filled else [])


def test_recorded_fills_replace_those_of_the_bars(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 200)])
    filled_ns = Nanos(noon + HOUR + 5 * MINUTE + 7)
    outcomes = {
        ("ES", "entry", Nanos(noon + HOUR)): [
            RecordedOutcome(known_ns=filled_ns, price=float_to_price(936.25), ts=filled_ns)
        ],
        ("ES", "exit", kit.chicago(kit.MONDAY, 15)): [
            RecordedOutcome(known_ns=kit.chicago(kit.MONDAY, 15, 2), price=float_to_price(900.0), ts=filled_ns)
        ],
    }
    (trade,), _ = run(market_of(kit, slices, ["ES"], HOLDING, outcomes=outcomes), "ES")
    assert (trade.entry_ns, trade.entry_price) == (filled_ns, float_to_price(936.25))
    assert trade.exit_price == float_to_price(900.0)


def test_an_order_that_the_record_does_not_know_waits_without_end_and_ends_nothing(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 200)])
    trades, heard = run(market_of(kit, slices, ["ES"], HOLDING, outcomes={}), "ES")
    assert not trades
    assert len(heard) == 4


def test_a_fill_on_record_after_the_last_bar_is_held_when_the_next_file_goes_on(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    filled_ns = Nanos(noon + HOUR + 7)
    outcome = RecordedOutcome(known_ns=filled_ns, price=float_to_price(936.25), ts=filled_ns)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 61)])
    outcomes = {("ES", "entry", Nanos(noon + HOUR)): [outcome]}
    market = market_of(kit, slices, ["ES"], HOLDING, outcomes=outcomes, until_ns=filled_ns)
    backtest = RootBacktest(kit.traded_root("ES"), listener=lambda event: None, costs=FREE)
    assert not backtest.run(market)
    assert backtest.is_holding


def test_the_clock_ends_with_the_record(kit: SimpleNamespace) -> None:
    """A position of a session that another file goes on with is not closed in this one."""
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 91)])
    backtest = RootBacktest(kit.traded_root("ES"), listener=lambda event: None, costs=FREE)
    assert not backtest.run(market_of(kit, slices, ["ES"], HOLDING, until_ns=Nanos(noon + 95 * MINUTE)))
    assert backtest.is_holding


def test_a_limit_order_ends_when_the_record_says_and_not_by_its_time(kit: SimpleNamespace) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 200)])
    filled_ns = Nanos(noon + HOUR + 3 * MINUTE)
    outcome = RecordedOutcome(known_ns=filled_ns, price=float_to_price(936.25), ts=filled_ns)
    limited = attrs.evolve(HOLDING, entry_order="limit", cancel_after_s=60)
    market = market_of(kit, slices, ["ES"], limited, outcomes={("ES", "entry", Nanos(noon + HOUR)): [outcome]})
    backtest = RootBacktest(kit.traded_root("ES"), listener=lambda event: None, costs=FREE)
    backtest.run(market)
    assert (backtest.is_holding, backtest.unfilled) == (True, 0)


@pytest.mark.parametrize("is_held", [True, False])
def test_what_is_held_or_ordered_in_an_older_contract_has_no_bars_and_is_left_out(
    kit: SimpleNamespace, is_held: bool
) -> None:
    noon = kit.chicago(kit.MONDAY, 12)
    ordered = Order(
        signal_id="before",
        root="ES",
        contract="ESH4",
        intent="exit",
        side="sell",
        quantity=1,
        order_type="market",
        limit_price=None,
        reference_price=float_to_price(1_000.0),
        decided_ns=kit.chicago(kit.MONDAY, 10),
        expires_ns=None,
        ticker="",
        body="",
        state=OrderState.ACCEPTED,
    )
    held = Position(
        root="ES",
        contract="ESH4",
        quantity=1,
        price=float_to_price(1_000.0),
        opened_ns=kit.chicago(kit.MONDAY, 10),
        entry_signal_id="before",
    )
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 100)])
    left = {"positions": (held,)} if is_held else {"orders": (ordered,), "outcomes": {}}
    _, heard = run(market_of(kit, slices, ["ES"], HOLDING, **left), "ES")
    assert [event.verdict for event in heard if isinstance(event, SignalEvaluated)][:1] == ["enter"]


def test_what_the_strategy_remembers_goes_on_to_the_next_session(kit: SimpleNamespace) -> None:
    settings = attrs.evolve(HOLDING, exit_after_bars=1, cooldown_bars=24)
    heard: list[SignalEvaluated | VetoScored] = []
    root = kit.traded_root("ES")
    backtest = RootBacktest(root, listener=heard.append, costs=FREE)
    left = []
    for day in range(2):
        date = kit.MONDAY + dt.timedelta(days=day)
        noon = kit.chicago(date, 8)
        slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 300)])
        market = market_of(kit, slices, ["ES"], settings)
        backtest.run(attrs.evolve(market, opened=kit.session_opened(["ES"], date=date, settings=settings)))
        gates = [event.gates for event in heard[-5:] if isinstance(event, SignalEvaluated)]
        left.append([next(gate.value for gate in each if gate.name == "cooldown") for each in gates])
    assert left[0][-1] != "0"
    assert int(str(left[1][0])) == int(str(left[0][-1])) - 1


def test_a_carried_position_is_closed_at_the_deadline_though_nothing_trades(kit: SimpleNamespace) -> None:
    held = Position(
        root="ES",
        contract="ESM4",
        quantity=1,
        price=float_to_price(1_000.0),
        opened_ns=kit.chicago(kit.MONDAY, 10),
        entry_signal_id="before",
    )
    late = [Nanos(kit.chicago(kit.MONDAY, 15, 30) + minute * MINUTE) for minute in range(1, 3)]
    market = market_of(kit, falling(kit, late), ["ES"], HOLDING, positions=(held,))
    trades, heard = run(market, "ES")
    assert not trades  # its entry is not of this session
    assert [event.position for event in heard if isinstance(event, SignalEvaluated)] == [0]


def held_since_monday(kit: SimpleNamespace, *, is_recorded: bool) -> RootBacktest:
    """A backtest that has entered long on Monday at 13:00 at 940, and holds it where the file ends."""
    noon = kit.chicago(kit.MONDAY, 12)
    slices = falling(kit, [Nanos(noon + minute * MINUTE) for minute in range(1, 91)])
    outcome = RecordedOutcome(known_ns=Nanos(noon + HOUR + MINUTE), price=float_to_price(940.0), ts=Nanos(noon + HOUR))
    outcomes = {("ES", "entry", Nanos(noon + HOUR)): [outcome]} if is_recorded else None
    market = market_of(kit, slices, ["ES"], HOLDING, memories=(), until_ns=Nanos(noon + 95 * MINUTE), outcomes=outcomes)
    backtest = RootBacktest(kit.traded_root("ES"), listener=lambda event: None, costs=FREE)
    assert not backtest.run(market)
    assert backtest.is_holding
    return backtest


def carried_in(kit: SimpleNamespace, *, later_ns: int = 0, price: float = 940.0, **more: Any) -> Position:
    """What is held since `later_ns` after Monday's entry."""
    position = Position(
        root="ES",
        contract="ESM4",
        quantity=1,
        price=float_to_price(price),
        opened_ns=Nanos(kit.chicago(kit.MONDAY, 13) + later_ns),
        entry_signal_id="entry-1",
    )
    return attrs.evolve(position, **more)


def thursday_with(kit: SimpleNamespace, *positions: Position, **more: Any) -> MarketSession:
    """A journal's file from 2000 upwards: the target of a long of 940, the stop of a short of 2000."""
    date, settings = kit.MONDAY + dt.timedelta(days=3), attrs.evolve(HOLDING, stop_pct=Decimal("0.5"))
    ends = [Nanos(kit.chicago(date, 12) + minute * MINUTE) for minute in range(1, 60)]
    prices = [(2_000.0 + i, 2_001.5 + i, 1_999.5 + i, 2_001.0 + i) for i in range(len(ends))]
    slices = kit.slices_of([[kit.bar("ES", end, price)] for end, price in zip(ends, prices, strict=True)])
    market = market_of(kit, slices, ["ES"], settings, memories=(), positions=positions, until_ns=ends[-1], **more)
    return attrs.evolve(market, opened=kit.session_opened(["ES"], date=date, settings=settings))


@pytest.mark.parametrize(
    "other",
    [None, {"quantity": -3, "price": 2_000.0}, {"contract": "ESH4"}, {"later_ns": 11 * MINUTE}],
    ids=["nothing", "short", "older contract", "later"],
)
def test_an_entry_that_a_journals_file_no_longer_holds_is_forgotten(
    kit: SimpleNamespace, other: dict[str, Any] | None
) -> None:
    """Sessions are left out between, an operator has closed it, or the bars' fills were not the live ones."""
    backtest = held_since_monday(kit, is_recorded=False)
    positions = () if other is None else (carried_in(kit, **other),)
    assert not backtest.run(thursday_with(kit, *positions))
    assert not backtest.is_holding


@pytest.mark.parametrize(("later_ns", "is_recorded"), [(0, False), (9 * MINUTE, False), (0, True), (1, True)])
def test_an_entry_that_a_journals_file_holds_is_the_trade_that_ends_in_it(
    kit: SimpleNamespace, later_ns: int, is_recorded: bool
) -> None:
    """The bars' fills are near the live ones; recorded ones are the same, or others."""
    backtest = held_since_monday(kit, is_recorded=is_recorded)
    thursday = kit.MONDAY + dt.timedelta(days=3)
    asked, filled_ns = kit.chicago(thursday, 12, 1), kit.chicago(thursday, 12, 3)
    outcome = RecordedOutcome(known_ns=filled_ns, price=float_to_price(2_003.0), ts=filled_ns)
    outcomes = {("ES", "exit", asked): [outcome]} if is_recorded else None
    found = backtest.run(thursday_with(kit, carried_in(kit, later_ns=later_ns), outcomes=outcomes))
    assert not backtest.is_holding
    told = [(trade.side, trade.session, trade.entry_ns, trade.entry_price, trade.exit_reason) for trade in found]
    entered = (kit.chicago(kit.MONDAY, 13), float_to_price(940.0))
    assert told == ([] if is_recorded and later_ns else [("long", thursday, *entered, "target")])
