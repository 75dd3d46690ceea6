"""The paper broker: what a signal does to a position, what rests, what it fills, and what is an incident."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.traderspost.broker import SECOND_NS, Broker, Fills, Subscription, rule
from adapters.traderspost.schema import Signal

TICKER = "MESM2024"


def say(action: str, sentiment: str | None = None, quantity: int | None = None, **more: Any) -> Signal:
    return Signal(ticker=TICKER, root="MES", action=action, sentiment=sentiment, quantity=quantity, **more)


class Desk:
    """A broker and the names of what it did; one second passes per message."""

    def __init__(self, *, fills: Fills = "signal", **switches: Any) -> None:
        self.broker = Broker(Subscription(**switches), fills)
        self.now_ns = 0

    def send(self, name: str, signal: Signal, *, delay_s: int = 0) -> list[str]:
        self.now_ns += SECOND_NS
        self.broker.accept(name, signal, self.now_ns + delay_s * SECOND_NS)
        return [f"{done.signal_id}: {done.what}" for done in self.broker.advance(self.now_ns)]

    def trade(self, price: str, *, after_s: int = 1) -> list[str]:
        self.now_ns += after_s * SECOND_NS
        done = self.broker.trade_seen(TICKER, Decimal(price), self.now_ns)
        return [f"{done.signal_id}: {done.what}" for done in done]

    @property
    def held(self) -> int:
        return self.broker.holding(TICKER).quantity

    @property
    def fills(self) -> list[tuple[str, int, str]]:
        return [(fill.purpose, fill.quantity, str(fill.price)) for fill in self.broker.book.fills]

    @property
    def incidents(self) -> list[str]:
        return [incident.kind for incident in self.broker.book.incidents]


# ------------------------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("words", "held", "after", "what"),
    [
        (("buy", "bullish", 2), 0, 2, "opened"),
        (("buy", None, None), 0, 1, "opened"),
        (("buy", "bullish", 2), 1, 1, "refused: position exists"),
        (("buy", "bullish", 2), -3, 2, "reversed"),
        (("sell", "bearish", 2), 0, -2, "opened"),
        (("sell", "bearish", 2), -1, -1, "refused: position exists"),
        (("sell", "flat", None), 3, 0, "closed"),
        (("sell", "flat", 1), 3, 2, "reduced"),
        (("sell", "flat", 9), 3, 0, "closed"),
        (("sell", "flat", None), 0, 0, "nothing"),
        (("sell", "flat", None), -3, -3, "nothing"),
        (("buy", "flat", None), -3, 0, "closed"),
        (("buy", "flat", None), 3, 3, "nothing"),
        (("buy", "flat", None), 0, 0, "nothing"),
        (("buy", "bearish", None), -3, 0, "closed"),
        (("sell", "bullish", None), 3, 0, "closed"),
        (("exit", None, None), 3, 0, "closed"),
        (("exit", None, None), -3, 0, "closed"),
        (("exit", None, 1), -3, -2, "reduced"),
        (("exit", None, None), 0, 0, "nothing"),
        (("add", None, 1), 3, 3, "nothing: add-to-position is off"),
    ],
)
def test_positions_of_a_new_subscription(
    words: tuple[str, str | None, int | None], held: int, after: int, what: str
) -> None:
    closing, opening, said = rule(say(*words), held, Subscription())
    assert held + closing + opening == after
    assert said.startswith(what)


@pytest.mark.parametrize(
    ("switches", "words", "held", "after", "what"),
    [
        ({"is_adding": True}, ("buy", "bullish", 2), 1, 3, "added"),
        ({"is_adding": True}, ("sell", "bearish", 2), -1, -3, "added"),
        ({"is_adding": True}, ("add", None, 2), -1, -3, "added"),
        ({"is_adding": True}, ("add", None, 2), 0, 0, "nothing"),
        ({"is_reversing": False}, ("sell", "bearish", 2), 3, 0, "closed: side swapping is off"),
        ({"is_reversing": False}, ("sell", "bearish", 2), 0, -2, "opened"),
        ({"sides": "long"}, ("sell", "bearish", 2), 3, 0, "closed: long positions only"),
        ({"sides": "long"}, ("sell", "bearish", 2), 0, 0, "refused: long positions only"),
        ({"sides": "long"}, ("buy", "bullish", 2), 0, 2, "opened"),
        ({"sides": "short"}, ("buy", "bullish", 2), 0, 0, "refused: short positions only"),
        ({"sides": "short"}, ("sell", "flat", None), 2, 0, "closed"),
    ],
)
def test_positions_with_other_switches(
    switches: dict[str, Any], words: tuple[str, str | None, int | None], held: int, after: int, what: str
) -> None:
    closing, opening, said = rule(say(*words), held, Subscription(**switches))
    assert held + closing + opening == after
    assert said == what or said.startswith(f"{what}:")


# -------------------------------------------------------------------------------------------- limits and prices


def test_a_limit_order_rests_until_a_trade_is_at_or_through_its_price() -> None:
    desk = Desk()
    entry = say("buy", "bullish", 1, order_type="limit", limit_price=Decimal(5000), signal_price=Decimal(5000))
    assert desk.send("a", entry) == ["a: working: limit 5000"]
    desk.trade("5000.25")
    assert (desk.held, desk.fills) == (0, [])
    desk.trade("4999.75")
    assert (desk.held, desk.fills) == (1, [("entry", 1, "5000")])


def test_cancel_after_ends_a_limit_order() -> None:
    desk = Desk()
    desk.send("a", say("sell", "bearish", 1, order_type="limit", limit_price=Decimal(5000), cancel_after_s=60))
    desk.trade("5001", after_s=60)
    assert (desk.held, desk.broker.book.orders) == (0, [])


def test_a_limit_order_without_a_price_becomes_a_market_order() -> None:
    desk = Desk()
    desk.send("a", say("buy", "bullish", 1, order_type="limit", signal_price=Decimal(5000)))
    assert desk.fills == [("entry", 1, "5000")]


def test_a_limit_exit_never_opens() -> None:
    desk = Desk()
    desk.send("a", say("buy", "bullish", 2, signal_price=Decimal(5000)))
    desk.send("b", say("sell", "flat", order_type="limit", limit_price=Decimal(5010)))
    desk.send("c", say("exit", quantity=1))
    desk.trade("5010")
    assert desk.fills[-1] == ("exit", -1, "5010")
    desk.send("d", say("sell", "flat", order_type="limit", limit_price=Decimal(5010)))
    assert desk.held == 0


def test_what_is_not_played_is_refused() -> None:
    assert Desk().send("a", say("buy", "bullish", 1, order_type="trailing_stop")) == [
        "a: refused: trailing_stop orders are not played here"
    ]


def test_with_a_feed_a_market_order_waits_for_the_next_trade_of_its_ticker() -> None:
    desk = Desk(fills="feed")
    desk.trade("4990")
    assert desk.send("a", say("buy", "bullish", 1, signal_price=Decimal(5000))) == []
    assert desk.send("b", say("sell", "flat", signal_price=Decimal(5000))) == []
    desk.broker.trade_seen("MNQM2024", Decimal(1), desk.now_ns)
    assert desk.held == 0
    assert desk.trade("5003") == ["a: opened", "b: closed"]
    assert desk.fills == [("entry", 1, "5003"), ("exit", -1, "5003")]


def test_a_trade_before_the_acceptance_fills_nothing() -> None:
    desk = Desk(fills="feed")
    desk.send("a", say("buy", "bullish", 1))
    assert desk.broker.trade_seen(TICKER, Decimal(5000), desk.now_ns - 1) == ()
    assert desk.held == 0


def test_results_are_points_times_contracts_and_what_has_no_price_is_said() -> None:
    desk = Desk(is_adding=True)
    desk.send("a", say("buy", "bullish", 1, signal_price=Decimal(5000)))
    desk.send("b", say("buy", "bullish", 3, signal_price=Decimal(5004)))
    assert desk.broker.holding(TICKER).average_price == 5003
    desk.send("c", say("sell", "flat", 1, signal_price=Decimal("5001.5")))
    desk.send("d", say("sell", "bearish", 2, signal_price=Decimal(5005)))
    holding = desk.broker.holding(TICKER)
    assert (holding.quantity, holding.average_price, holding.realized_points) == (-2, Decimal(5005), Decimal("4.5"))
    unpriced = Desk()
    unpriced.send("a", say("buy", "bullish", 2))
    unpriced.send("b", say("exit"))
    holding = unpriced.broker.holding(TICKER)
    assert (holding.quantity, holding.realized_points, holding.unpriced_contracts) == (0, Decimal(0), 2)


# ---------------------------------------------------------------------------------------------------- brackets


def bracketed(**switches: Any) -> Desk:
    desk = Desk(**switches)
    legs = {"stop_loss": Decimal(4990), "take_profit": Decimal(5020)}
    desk.send("a", say("buy", "bullish", 2, signal_price=Decimal(5000), time_ns=100, **legs))
    assert len(desk.broker.book.orders) == 2
    return desk


@pytest.mark.parametrize(("price", "fill"), [("4989.5", ("stop", -2, "4989.5")), ("5021", ("target", -2, "5020"))])
def test_a_leg_closes_its_position_and_cancels_the_other(price: str, fill: tuple[str, int, str]) -> None:
    desk = bracketed()
    desk.trade("5005")
    desk.trade(price)
    assert (desk.held, desk.fills[-1], desk.broker.book.orders, desk.incidents) == (0, fill, [], [])


def test_a_plain_exit_leaves_the_legs_and_one_of_them_opens_a_position() -> None:
    desk = bracketed()
    desk.send("x", say("sell", "flat", time_ns=200))
    desk.trade("5020")
    assert (desk.held, desk.incidents) == (-2, ["orphan_leg"])


@pytest.mark.parametrize(
    ("switches", "message"),
    [({}, {"is_cancelling": True}), ({"is_cancelling": True}, {})],
)
def test_cancel_takes_the_legs_with_it(switches: dict[str, Any], message: dict[str, Any]) -> None:
    desk = bracketed(**switches)
    desk.send("x", say("sell", "flat", time_ns=200, **message))
    desk.trade("5020")
    desk.trade("4980")
    assert (desk.held, desk.broker.book.orders, desk.incidents) == (0, [], [])


def test_a_message_may_say_no_to_the_subscriptions_cancelling() -> None:
    desk = bracketed(is_cancelling=True)
    desk.send("x", say("sell", "flat", is_cancelling=False))
    assert len(desk.broker.book.orders) == 2


def test_an_exit_that_cancels_waits_for_the_cancelled_orders() -> None:
    desk = bracketed(cancel_wait_s=120.0)
    assert desk.send("x", say("sell", "flat", is_cancelling=True)) == []
    desk.trade("5001", after_s=119)
    assert (desk.held, len(desk.broker.book.orders)) == (2, 2)
    assert desk.trade("5001", after_s=1) == ["x: closed"]
    assert desk.broker.book.orders == []
    assert desk.send("y", say("exit", is_cancelling=True)) == ["y: nothing: flat"]


def test_the_leg_of_an_older_entry_that_closes_a_newer_one_is_an_orphan_too() -> None:
    desk = bracketed()
    desk.send("x", say("sell", "flat", time_ns=200))
    desk.send("b", say("buy", "bullish", 2, signal_price=Decimal(5000), time_ns=300))
    desk.trade("4990")
    assert (desk.held, desk.incidents) == (0, ["orphan_leg"])


def test_a_leg_larger_than_what_is_left_of_its_position_turns_it() -> None:
    desk = bracketed()
    desk.send("x", say("sell", "flat", 1, time_ns=200))
    desk.trade("4990")
    assert (desk.held, desk.incidents) == (-1, ["orphan_leg"])


def test_cancel_alone_cancels_and_trades_nothing() -> None:
    desk = bracketed()
    assert desk.send("c", say("cancel")) == ["c: cancelled 2"]
    assert desk.send("c", say("cancel")) == ["c: nothing: no working orders"]
    assert desk.held == 2


# ------------------------------------------------------------------------------------------------------- order


def test_an_entry_that_is_executed_after_a_later_exit_is_an_incident() -> None:
    desk = Desk()
    desk.send("a", say("buy", "bullish", 1, time_ns=100), delay_s=30)
    desk.send("x", say("sell", "flat", time_ns=200))
    desk.trade("5000", after_s=60)
    assert (desk.held, desk.incidents) == (1, ["entry_after_exit"])


def test_a_working_entry_that_fills_after_a_later_exit_is_an_incident() -> None:
    desk = Desk()
    desk.send("a", say("buy", "bullish", 1, order_type="limit", limit_price=Decimal(5000), time_ns=100))
    desk.send("x", say("exit", time_ns=200))
    desk.trade("5000")
    assert (desk.held, desk.incidents) == (1, ["entry_after_exit"])


@pytest.mark.parametrize(("decided_ns", "incidents"), [(100, ["exit_of_newer"]), (300, [])])
def test_an_exit_that_closes_what_was_opened_after_its_decision_is_an_incident(
    decided_ns: int, incidents: list[str]
) -> None:
    desk = Desk()
    desk.send("b", say("buy", "bullish", 1, time_ns=200))
    desk.send("x", say("exit", time_ns=decided_ns))
    assert (desk.held, desk.incidents) == (0, incidents)


def test_without_times_the_order_of_acceptance_decides() -> None:
    desk = Desk()
    desk.send("x", say("exit"), delay_s=30)
    desk.send("b", say("buy", "bullish", 1))
    desk.trade("5000", after_s=60)
    assert desk.incidents == ["exit_of_newer"]


MESSAGES = st.builds(
    say,
    action=st.sampled_from(["buy", "sell", "exit", "cancel", "add"]),
    sentiment=st.sampled_from(["bullish", "bearish", "flat", None]),
    quantity=st.none() | st.integers(1, 3),
    order_type=st.sampled_from(["market", "limit", "stop"]),
    limit_price=st.sampled_from([None, Decimal(99), Decimal(101)]),
    stop_price=st.sampled_from([None, Decimal(99), Decimal(101)]),
    signal_price=st.sampled_from([None, Decimal(100)]),
    stop_loss=st.sampled_from([None, Decimal(98)]),
    take_profit=st.sampled_from([None, Decimal(102)]),
    is_cancelling=st.sampled_from([None, True, False]),
    cancel_after_s=st.sampled_from([None, 5]),
)


@given(
    steps=st.lists(st.tuples(MESSAGES, st.integers(0, 5)) | st.integers(97, 103), max_size=20),
    fills=st.sampled_from(["signal", "feed"]),
    is_adding=st.booleans(),
    sides=st.sampled_from(["both", "long", "short"]),
)
def test_what_is_held_and_earned_is_the_sum_of_the_fills(
    steps: list[Any], fills: Fills, is_adding: bool, sides: str
) -> None:
    desk = Desk(fills=fills, is_adding=is_adding, sides=sides)
    for number, step in enumerate(steps):
        if isinstance(step, int):
            desk.trade(str(step))
        else:
            desk.send(str(number), step[0], delay_s=step[1])
    book, holding = desk.broker.book, desk.broker.holding(TICKER)
    assert sum(fill.quantity for fill in book.fills) == holding.quantity
    assert all(order.quantity for order in book.orders)
    if holding.quantity and holding.average_price is None:
        return
    if all(fill.price is not None for fill in book.fills):
        cash = -sum(fill.price * fill.quantity for fill in book.fills if fill.price is not None)
        worth = (holding.average_price or 0) * holding.quantity
        assert abs(cash + worth - holding.realized_points) < Decimal("1e-15")
    legs = [order for order in book.orders if order.is_leg]
    assert len({(order.source.number, order.purpose) for order in legs}) == len(legs)
