"""JournalBroker: every event's meaning for an order, told through notify_order and notify_trade."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import backtrader as bt
import pytest

from adapters.backtrader.broker import JournalBroker, RequestNote
from adapters.backtrader.feeds import TIMEFRAMES, SliceFeed
from adapters.backtrader.stepper import StepCerebro
from domain.errors import OurError
from domain.events import (
    Event,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderSubmitted,
    RiskDecided,
)
from domain.orders import Intent, Order, OrderState
from domain.positions import Position, net_pnl
from domain.units import MINUTE, Nanos, Price

POINT = 1_000_000_000


class Desk(bt.Strategy):
    """Does what the test put on `todo` in its next turn and writes down what it is told."""

    def __init__(self) -> None:
        self.todo: list[Callable[[Any], Any]] = []
        self.told: list[tuple[Any, ...]] = []
        self.trades: list[tuple[Any, ...]] = []

    def notify_order(self, order: Any) -> None:
        self.told.append((order.info.get("signal_id"), order.getstatusname()))

    def notify_trade(self, trade: Any) -> None:
        self.trades.append((trade.status_names[trade.status], trade.size, trade.price, trade.pnl, trade.pnlcomm))

    def next(self) -> None:
        while self.todo:
            self.todo.pop(0)(self)


def request(intent: Intent, close: float = 100.0) -> RequestNote:
    return RequestNote(
        root="ES",
        contract="ESM4",
        intent=intent,
        reason="test",
        decided_ns=Nanos(0),
        bar_ns=MINUTE,
        price=Price(int(close * POINT)),
    )


class Floor:
    """One root, one minute feed, one broker; turns on demand."""

    def __init__(self, kit: SimpleNamespace) -> None:
        self.kit = kit
        self.now = kit.chicago(kit.MONDAY, 9)
        self.cerebro, self.broker = StepCerebro(stdstats=False), JournalBroker()
        self.cerebro.setbroker(self.broker)
        self.feed = SliceFeed(**TIMEFRAMES["1m"])
        self.cerebro.adddata(self.feed, name="ES@1m")
        self.broker.use_feed("ESM4", self.feed, multiplier=50.0, commission=1.25)
        self.cerebro.addstrategy(Desk)
        (self.desk,) = self.cerebro.open(exactbars=1)
        self.ordered = 0
        self.turn()

    def turn(self, *todo: Callable[[Any], Any]) -> None:
        self.now = Nanos(self.now + MINUTE)
        self.desk.todo.extend(todo)
        self.cerebro.step(self.now, [(self.feed, self.kit.bar("ES", self.now, (100, 101, 99, 100)))])

    def ask(self, intent: Intent, **fields: Any) -> str:
        """Ask for 2 contracts in a turn; returns the signal_id that the request was given."""
        side = (lambda s: s.buy(size=2, request=request(intent), **fields)) if intent == "entry" else None
        self.turn(side or (lambda s: s.sell(size=2, request=request(intent), **fields)))
        (order,) = self.broker.take_requests()
        self.ordered += 1
        signal_id = f"{intent}-{self.ordered}"
        self.broker.register(signal_id, order)
        return signal_id

    def apply(self, event: Event) -> None:
        self.broker.apply(event)

    def fill(self, signal_id: str, price: float, **changes: Any) -> FillAssumed:
        intent: Intent = "exit" if signal_id.startswith("exit") else "entry"
        fields: dict[str, Any] = {
            "root": "ES",
            "signal_id": signal_id,
            "contract": "ESM4",
            "intent": intent,
            "side": "buy" if intent == "entry" else "sell",
            "quantity": 2,
            "price": Price(int(price * POINT)),
            "ts": self.now,
            "rule": "next_trade",
            "pnl": None,
        }
        return FillAssumed(**(fields | changes))

    @property
    def size(self) -> int:
        return int(self.broker.getposition(self.feed).size)


@pytest.fixture
def floor(kit: SimpleNamespace) -> Floor:
    return Floor(kit)


def refused(id: str) -> RiskDecided:
    return RiskDecided(root="ES", signal_id=id, is_allowed=False, rule="kill_switch", detail="")


def allowed(id: str) -> RiskDecided:
    return RiskDecided(root="ES", signal_id=id, is_allowed=True, rule="", detail="")


def submitted(id: str) -> OrderSubmitted:
    return OrderSubmitted(root="ES", signal_id=id, attempt=1, ticker="", body="", body_sha256="")


def accepted(id: str) -> OrderAccepted:
    return OrderAccepted(root="ES", signal_id=id, attempt=1, http_status=200, external_id="")


def rejected(id: str) -> OrderRejected:
    return OrderRejected(root="ES", signal_id=id, attempt=1, http_status=400, code="", message="")


def ambiguous(id: str) -> OrderAmbiguous:
    return OrderAmbiguous(root="ES", signal_id=id, attempt=1, cause="reset")


def not_sent(id: str) -> OrderNotSent:
    return OrderNotSent(root="ES", signal_id=id, attempt=1, cause="refused")


def expired(id: str) -> OrderExpired:
    return OrderExpired(root="ES", signal_id=id, reason="time_limit")


LIMIT = {"exectype": bt.Order.Limit, "price": 99.5}


@pytest.mark.parametrize(
    ("fields", "events", "statuses"),
    [
        ({}, [refused], ["Rejected"]),
        ({}, [allowed], []),
        ({}, [allowed, submitted], ["Submitted"]),
        ({}, [allowed, submitted, accepted], ["Submitted", "Accepted"]),
        ({}, [allowed, submitted, rejected], ["Submitted", "Rejected"]),
        ({}, [allowed, submitted, not_sent], ["Submitted"]),
        ({}, [allowed, submitted, not_sent, expired], ["Submitted", "Expired"]),
        ({}, [allowed, expired], ["Expired"]),
        ({}, [allowed, submitted, ambiguous], ["Submitted", "Submitted"]),
        (LIMIT, [allowed, submitted, accepted, expired], ["Submitted", "Accepted", "Canceled"]),
        (LIMIT, [allowed, expired], ["Expired"]),
    ],
    ids=lambda value: "-".join(e.__name__ for e in value) if value and callable(next(iter(value))) else None,
)
def test_each_event_reaches_the_strategy_in_the_next_turn(
    floor: Floor, fields: dict[str, Any], events: list[Callable[[str], Event]], statuses: list[str]
) -> None:
    id = floor.ask("entry", **fields)
    for make in events:
        floor.apply(make(id))
    assert floor.desk.told == []
    floor.turn()
    assert floor.desk.told == [(id, status) for status in statuses]
    assert floor.desk.trades == []


def test_a_round_trip_completes_both_orders_and_opens_and_closes_one_trade(floor: Floor) -> None:
    entry = floor.ask("entry")
    for event in (allowed(entry), submitted(entry), accepted(entry), floor.fill(entry, 100.25)):
        floor.apply(event)
    assert floor.size == 2
    floor.turn()
    assert floor.desk.told == [(entry, "Submitted"), (entry, "Accepted"), (entry, "Completed")]
    assert floor.desk.trades == [("Open", 2, 100.25, 0.0, -2.5)]
    leave = floor.ask("exit")
    assert floor.broker.has_open_exit("ES")
    floor.apply(floor.fill(leave, 101.0))
    floor.turn()
    assert floor.size == 0
    assert not floor.broker.has_open_exit("ES")
    assert floor.desk.told[-1] == (leave, "Completed")
    status, size, _, pnl, net = floor.desk.trades[-1]
    assert (status, size, pnl) == ("Closed", 0, 0.75 * 2 * 50)
    assert Decimal(net) == net_pnl(
        entry=Price(100_250_000_000),
        exit=Price(101_000_000_000),
        quantity=2,
        multiplier=Decimal(50),
        commission_per_side=Decimal("1.25"),
    )
    assert floor.broker.getcash() == floor.broker.startingcash + net


def test_cash_is_never_zero_at_the_start(floor: Floor) -> None:
    assert floor.broker.getcash() == floor.broker.getvalue() == 1_000_000.0


def test_an_ambiguous_entry_is_held_unknown_and_its_own_fill_makes_it_known(floor: Floor) -> None:
    id = floor.ask("entry")
    floor.apply(submitted(id))
    floor.apply(ambiguous(id))
    held = floor.broker.positions["ES"]
    assert (held.quantity, held.is_unknown, floor.size) == (2, True, 2)
    floor.apply(floor.fill(id, 100.5))
    floor.turn()
    held = floor.broker.positions["ES"]
    assert (held.quantity, held.is_unknown, held.price, floor.size) == (2, False, 100_500_000_000, 2)
    assert floor.desk.trades == [("Open", 2, 100.5, 0.0, -2.5)]


@pytest.mark.parametrize("end", [rejected, expired])
def test_an_ambiguous_entry_that_never_was_leaves_nothing(floor: Floor, end: Callable[[str], Event]) -> None:
    id = floor.ask("entry")
    floor.apply(ambiguous(id))
    floor.apply(end(id))
    floor.turn()
    assert (floor.broker.positions, floor.size, floor.desk.trades) == ({}, 0, [])


def test_an_exit_that_fills_settles_an_ambiguous_entry_at_its_decision_price(floor: Floor) -> None:
    entry = floor.ask("entry")
    floor.apply(ambiguous(entry))
    leave = floor.ask("exit")
    floor.apply(floor.fill(leave, 102.0))
    floor.turn()
    assert (floor.broker.positions, floor.size) == ({}, 0)
    assert [told for told in floor.desk.told if told[1] == "Completed"] == [(entry, "Completed"), (leave, "Completed")]
    assert [trade[0] for trade in floor.desk.trades] == ["Open", "Closed"]
    assert floor.desk.trades[-1][3] == 2.0 * 2 * 50


def test_an_ambiguous_exit_changes_nothing_because_it_is_sent_again(floor: Floor) -> None:
    floor.apply(floor.fill(floor.ask("entry"), 100.0))
    leave = floor.ask("exit")
    told = list(floor.desk.told)
    floor.apply(ambiguous(leave))
    floor.turn()
    assert floor.desk.told == told
    assert floor.broker.has_open_exit("ES")
    assert floor.size == 2


def test_events_of_finished_and_of_unknown_orders_mean_nothing(floor: Floor) -> None:
    id = floor.ask("entry")
    floor.apply(refused(id))
    for event in (accepted(id), rejected("nobody's"), expired(id)):
        floor.apply(event)
    floor.turn()
    assert floor.desk.told == [(id, "Rejected")]


def test_a_fill_nobody_asked_for_moves_the_position_all_the_same(floor: Floor) -> None:
    floor.apply(floor.fill(floor.ask("entry"), 100.0))
    floor.apply(floor.fill("exit-by-operator", 100.5))
    floor.turn()
    assert floor.size == 0
    assert floor.desk.told[-1] == ("exit-by-operator", "Completed")
    assert [trade[0] for trade in floor.desk.trades] == ["Open", "Closed"]


@pytest.mark.parametrize("changes", [{"quantity": 1}, {"contract": "ESU4"}])
def test_a_fill_that_contradicts_its_order_is_a_bug(floor: Floor, changes: dict[str, Any]) -> None:
    id = floor.ask("entry")
    with pytest.raises(OurError, match="asked 2 ESM4"):
        floor.apply(floor.fill(id, 100.0, **changes))


def test_a_fill_in_a_contract_without_a_feed_is_a_bug(floor: Floor) -> None:
    with pytest.raises(OurError, match="no feed"):
        floor.apply(floor.fill("exit-9", 100.0, contract="ESU4"))


def test_one_signal_id_names_one_order(floor: Floor) -> None:
    id = floor.ask("entry")
    with pytest.raises(OurError, match="two orders"):
        floor.broker.register(id, object())


def test_a_request_can_be_withdrawn_in_its_own_turn_only(floor: Floor) -> None:
    def buy_and_cancel(desk: Any) -> None:
        desk.cancel(desk.buy(size=1, request=request("entry")))

    floor.turn(buy_and_cancel)
    assert floor.broker.take_requests() == []
    floor.turn()
    assert floor.desk.told == [(None, "Canceled")]
    id = floor.ask("entry")
    floor.turn(lambda desk: desk.cancel(floor.broker._orders[id]))
    floor.turn()
    assert len(floor.desk.told) == 1


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (OrderState.QUEUED, "Created"),
        (OrderState.SUBMITTED, "Submitted"),
        (OrderState.ACCEPTED, "Accepted"),
        (OrderState.AMBIGUOUS, "Submitted"),
    ],
)
def test_a_carried_order_stands_where_it_stood(floor: Floor, state: OrderState, status: str) -> None:
    carried = Order(
        signal_id="entry-0",
        root="ES",
        contract="ESM4",
        intent="entry",
        side="buy",
        quantity=2,
        order_type="limit",
        limit_price=Price(99 * POINT),
        reference_price=Price(99 * POINT),
        decided_ns=Nanos(0),
        expires_ns=None,
        ticker="",
        body="",
        state=state,
    )
    order = floor.broker.restore_order(carried, request("entry"))
    assert (order.getstatusname(), order.size, order.price) == (status, 2, 99.0)
    assert ("ES" in floor.broker.positions) is (state is OrderState.AMBIGUOUS)
    floor.apply(floor.fill("entry-0", 99.0))
    floor.turn()
    assert floor.size == 2
    assert floor.desk.told == [("entry-0", "Completed")]


def test_a_carried_position_closes_its_trade_with_both_commissions(floor: Floor) -> None:
    position = Position(
        root="ES",
        contract="ESM4",
        quantity=2,
        price=Price(90 * POINT),
        opened_ns=Nanos(floor.now - MINUTE),
        entry_signal_id="entry-0",
    )
    trade = floor.broker.restore_position(position)
    floor.desk._trades[trade.data][0].append(trade)
    floor.apply(floor.fill(floor.ask("exit"), 100.0))
    floor.turn()
    assert floor.desk.trades == [("Closed", 0, 90.0, 1000.0, 995.0)]


def test_finished_orders_are_forgotten(floor: Floor) -> None:
    for _ in range(50):
        floor.apply(refused(floor.ask("entry")))
    floor.turn()
    assert floor.broker._orders == {}
    assert not floor.broker.has_notifications
