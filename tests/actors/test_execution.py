"""The outbox: what is sent, when, how often, and what is believed to be held."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.execution import Execution
from actors.outbox import EXIT_BACKOFF_CAP_S
from domain.errors import OurError
from domain.events import (
    HTTP_SOURCE,
    ClockTicked,
    CommandReceived,
    EntriesClosed,
    EntriesOpened,
    Event,
    ExitOverdue,
    FeedStatusChanged,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    RiskDecided,
    SessionOpened,
    TradesReceived,
)
from domain.ibs import StrategySettings
from domain.orders import OrderState, backoff_ns
from domain.outbox import TICKER_GAP
from domain.ports import OrderMessage
from domain.positions import Position
from domain.risk import RiskSettings, Switches
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price
from tests.builders import IDS, PRICE, TICK, Record, at, mapped, opened_session, request_of, trades_of

DECIDED = at(60)
"""Entries of `request_of` are decided an hour after the open; they may be sent for 30 s."""


def payload_of(request: OrderRequested, opened: SessionOpened) -> OrderMessage:
    body = {"signal": request.signal_id, "session": opened.session.date.isoformat(), "action": request.side}
    fallback = "" if request.intent == "entry" else "exit!"
    return OrderMessage(ticker=f"{request.root}M2024", body=json.dumps(body), fallback=fallback)


class Desk:
    """The machine at the keyboard: say what happens and when, see what it answers."""

    def __init__(self, *, is_live: bool = True, carried: Any = None, **opened: Any) -> None:
        self.machine = Execution(payload_of)
        self.record = Record()
        self.now = at(0)
        self.put(opened_session(**opened))
        self.put(carried or fresh_state())
        for contract in IDS:
            self.put(mapped(contract))
        if is_live:
            self.put(FeedStatusChanged(status="live", reason="subscribed"))

    def put(self, event: Event, ts: Nanos | None = None, *, source: str = "test") -> tuple[Event, ...]:
        self.now = self.now if ts is None else ts
        return self.machine.handle(self.record.put(event, ts=self.now, source=source))

    def request(self, signal_id: str = "entry-1", *, ts: Nanos = DECIDED, **changes: Any) -> tuple[Event, ...]:
        return self.put(request_of(signal_id, **changes), ts)

    def tick(self, ts: Nanos) -> tuple[Event, ...]:
        return self.put(ClockTicked(ts=ts, watermark=ts), ts)

    def trade(self, ts: Nanos, ticks: int = 0, contract: str = "ESM4") -> tuple[Event, ...]:
        return self.put(TradesReceived(trades=trades_of((contract, ts, ticks, 1))), ts)

    def answer(self, outcome: type[Outcome], signal_id: str = "entry-1", *, attempt: int = 1, **fields: Any) -> Any:
        values: dict[str, Any] = {
            OrderAccepted: {"http_status": 200, "external_id": "x"},
            OrderRejected: {"http_status": 400, "code": "invalid-quantity", "message": "no"},
            OrderAmbiguous: {"cause": "read timeout"},
            OrderNotSent: {"cause": "connection refused"},
        }[outcome]
        root = self.order(signal_id).root
        return self.put(
            outcome(root=root, signal_id=signal_id, attempt=attempt, **(values | fields)), source=HTTP_SOURCE
        )

    def order(self, signal_id: str = "entry-1") -> Any:
        return next(order for order in self.machine.orders if order.signal_id == signal_id)

    def is_open(self, signal_id: str = "entry-1") -> bool:
        return any(order.signal_id == signal_id for order in self.machine.orders)

    def hold(self, root: str = "ES", side: str = "buy") -> None:
        """An entry, filled a second after the decision."""
        contract, signal_id = f"{root}M4", f"entry-{root}"
        self.request(signal_id, root=root, contract=contract, side=side)
        self.answer(OrderAccepted, signal_id)
        (fill,) = self.trade(Nanos(DECIDED + SECOND), contract=contract)
        assert isinstance(fill, FillAssumed)

    def leave(self, signal_id: str = "exit-1", *, ts: Nanos = at(120), **changes: Any) -> tuple[Event, ...]:
        """Ask for an exit."""
        return self.request(signal_id, ts=ts, intent="exit", decided_ns=ts, reason="target", **changes)


def submitted(signal_id: str = "entry-1", attempt: int = 1, *, side: str = "buy", root: str = "ES") -> OrderSubmitted:
    """An attempt of an entry decided at `DECIDED`, or of an exit: they sell here."""
    body = json.dumps({"signal": signal_id, "session": "2024-05-01", "action": side})
    is_entry = signal_id.startswith(("entry", "nq"))
    return OrderSubmitted(
        root=root,
        signal_id=signal_id,
        attempt=attempt,
        ticker=f"{root}M2024",
        body=body,
        body_sha256=hashlib.sha256(body.encode()).hexdigest(),
        intent="entry" if is_entry else "exit",
        expires_ns=Nanos(DECIDED + 30 * SECOND) if is_entry else None,
    )


def allowed(signal_id: str = "entry-1", root: str = "ES") -> RiskDecided:
    return RiskDecided(root=root, signal_id=signal_id, is_allowed=True, rule="", detail="")


def types(events: tuple[Event, ...]) -> list[str]:
    return [type(event).__name__ for event in events]


# ---------------------------------------------------------------- requests


def test_an_allowed_entry_is_submitted_at_once() -> None:
    assert Desk().request() == (allowed(), submitted())


@pytest.mark.parametrize(
    ("prepare", "rule"),
    [
        (lambda desk: desk.put(CommandReceived(command="kill", argument="entries")), "kill_switch"),
        (lambda desk: desk.put(CommandReceived(command="kill", argument="all")), "kill_switch"),
        (lambda desk: desk.put(CommandReceived(command="kill")), "kill_switch"),
        (lambda desk: desk.put(EntriesClosed(reason="stall")), "entries_closed"),
        (lambda desk: desk.put(FeedStatusChanged(status="stale", reason="slow")), "feed_not_live"),
        (lambda desk: desk.put(FeedStatusChanged(status="reconnecting", reason="FIN")), "feed_not_live"),
        (lambda desk: desk.hold("ES"), "root_occupied"),
        (lambda desk: (desk.hold("NQ"), desk.hold("GC")), "max_positions"),
    ],
    ids=["kill entries", "kill all", "kill", "entries closed", "stale", "reconnecting", "held", "positions"],
)
def test_a_refused_entry_is_one_event_with_its_rule_and_nothing_is_sent(prepare: Any, rule: str) -> None:
    desk = Desk(risk=RiskSettings(max_positions=2))
    prepare(desk)
    (refused,) = desk.request()
    assert isinstance(refused, RiskDecided)
    assert (refused.is_allowed, refused.rule, refused.signal_id) == (False, rule, "entry-1")
    assert refused.detail
    assert not desk.is_open()


def test_before_the_feed_is_live_there_is_no_entry() -> None:
    (refused,) = Desk(is_live=False).request()
    assert isinstance(refused, RiskDecided)
    assert refused.rule == "feed_not_live"


def test_an_old_decision_is_no_entry() -> None:
    (refused,) = Desk().request(ts=Nanos(DECIDED + 61 * SECOND))
    assert isinstance(refused, RiskDecided)
    assert refused.rule == "stale_decision"


@pytest.mark.parametrize(
    "undo",
    [
        (CommandReceived(command="kill", argument="all"), CommandReceived(command="resume")),
        (EntriesClosed(reason="stall"), EntriesOpened(reason="caught up")),
        (FeedStatusChanged(status="stale", reason=""), FeedStatusChanged(status="live", reason="")),
    ],
    ids=["enable", "entries opened", "live again"],
)
def test_what_closed_entries_can_open_them_again(undo: tuple[Event, Event]) -> None:
    desk = Desk()
    for event in undo:
        desk.put(event)
    assert desk.request() == (allowed(), submitted())


def test_an_entry_under_way_occupies_its_root_and_counts_as_a_position() -> None:
    desk = Desk(risk=RiskSettings(max_positions=1))
    desk.request("first")
    (same,) = desk.request("second")
    (other,) = desk.request("third", root="NQ", contract="NQM4")
    assert (same.rule, other.rule) == ("root_occupied", "max_positions")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("closing", "is_sent"),
    [
        (CommandReceived(command="kill", argument="entries"), True),
        (EntriesClosed(reason="stall"), True),
        (FeedStatusChanged(status="gap", reason=""), True),
        (CommandReceived(command="kill", argument="all"), False),
    ],
)
def test_an_exit_passes_whatever_is_closed_but_kill_all(closing: Event, is_sent: bool) -> None:
    desk = Desk()
    desk.hold()
    desk.put(closing)
    events = desk.leave()
    assert types(events) == (["RiskDecided", "OrderSubmitted"] if is_sent else ["RiskDecided"])


def test_an_exit_long_after_its_decision_is_still_sent() -> None:
    desk = Desk()
    desk.hold()
    assert types(desk.request("x", intent="exit", ts=at(300))) == ["RiskDecided", "OrderSubmitted"]


def test_an_order_before_its_session_is_our_error() -> None:
    with pytest.raises(OurError, match="not been opened"):
        Execution(payload_of).handle(Record().put(request_of()))


# ---------------------------------------------------------------- outcomes and retries


@pytest.mark.parametrize("outcome", [OrderAccepted, OrderAmbiguous])
def test_an_entry_that_was_or_may_have_been_received_is_never_sent_again(outcome: type[Outcome]) -> None:
    desk = Desk()
    desk.request()
    assert desk.answer(outcome) == ()
    for minutes in range(61, 180):
        assert "OrderSubmitted" not in types(desk.tick(at(minutes)))


def test_a_rejected_entry_frees_its_root() -> None:
    desk = Desk()
    desk.request()
    assert desk.answer(OrderRejected) == ()
    assert not desk.is_open()
    assert types(desk.request("entry-2")) == ["RiskDecided"], "rapid signals of one ticker have no order"
    due = Nanos(DECIDED + TICKER_GAP)
    assert desk.machine.next_deadline() == due
    assert desk.tick(due) == (submitted("entry-2"),)


def test_an_entry_that_was_not_sent_is_tried_again_after_its_backoff_with_the_same_bytes() -> None:
    desk = Desk()
    desk.request()
    assert desk.answer(OrderNotSent) == ()
    due = Nanos(DECIDED + backoff_ns("entry-1", 1))
    assert desk.machine.next_deadline() == due
    assert desk.tick(Nanos(due - 1)) == ()
    assert desk.tick(due) == (submitted(attempt=2),)
    assert desk.machine.next_deadline() is None


def test_retries_wait_longer_each_time() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    for attempt in range(1, 9):
        desk.answer(OrderNotSent, "exit-1", attempt=attempt)
        wait = backoff_ns("exit-1", attempt, cap_s=EXIT_BACKOFF_CAP_S)
        assert wait <= EXIT_BACKOFF_CAP_S * SECOND
        due = Nanos(desk.now + wait)
        assert desk.order("exit-1").not_before_ns == due
        assert submitted("exit-1", attempt + 1, side="sell") not in desk.tick(Nanos(due - 1))
        assert submitted("exit-1", attempt + 1, side="sell") in desk.tick(due)


def test_an_answer_that_names_a_time_is_waited_for_that_long() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    desk.answer(OrderNotSent, "exit-1", retry_after_s=45.5)
    assert desk.machine.next_deadline() == at(120, 45.5)


def test_an_ambiguous_exit_is_sent_again() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    assert desk.answer(OrderAmbiguous, "exit-1") == ()
    due = desk.machine.next_deadline()
    assert due is not None
    assert desk.tick(due) == (submitted("exit-1", 2, side="sell"),)


def test_an_exit_is_never_given_up() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    attempts, pages, probes = 1, 0, 0
    while desk.now < at(120 + 8 * 60):  # all night long
        if desk.order("exit-1").state is OrderState.SUBMITTED:
            desk.answer(OrderNotSent, "exit-1", attempt=attempts)
        due = desk.machine.next_deadline()
        assert due is not None
        events = types(desk.tick(max(due, desk.now)))
        attempts, pages = attempts + events.count("OrderSubmitted"), pages + events.count("ExitOverdue")
        if "ProbeSubmitted" in events:
            probes += 1
            desk.put(ProbeAnswered(ordinal=probes, is_up=False, detail="no connection"), source=HTTP_SOURCE)
    assert attempts > 700
    assert pages == 8 * 12, "the operator is told every five minutes"
    assert desk.order("exit-1").attempt == attempts


@pytest.mark.parametrize(("signal_id", "attempt"), [("entry-1", 2), ("entry-2", 1)])
def test_an_outcome_of_no_open_attempt_is_our_error(signal_id: str, attempt: int) -> None:
    desk = Desk()
    desk.request()
    outcome = OrderAccepted(root="ES", signal_id=signal_id, attempt=attempt, http_status=200, external_id="")
    with pytest.raises(OurError, match="not open"):
        desk.put(outcome, source=HTTP_SOURCE)


def test_an_outcome_after_the_outcome_is_our_error() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAccepted)
    with pytest.raises(OurError, match="not open"):
        desk.answer(OrderAmbiguous)


# ---------------------------------------------------------------- one at a time


def test_one_attempt_per_root_is_in_flight_and_others_do_not_wait() -> None:
    desk = Desk()
    desk.hold()
    assert types(desk.leave("exit-1")) == ["RiskDecided", "OrderSubmitted"]
    assert types(desk.leave("exit-2")) == ["RiskDecided"]
    assert desk.order("exit-1").is_superseded
    assert types(desk.request("nq", root="NQ", contract="NQM4", ts=at(120), decided_ns=at(120))) == [
        "RiskDecided",
        "OrderSubmitted",
    ]
    assert desk.tick(at(121)) == ()
    superseded = OrderExpired(root="ES", signal_id="exit-1", reason="superseded")
    assert desk.answer(OrderRejected, "exit-1") == (superseded, submitted("exit-2", side="sell"))


def test_an_exit_takes_the_place_of_an_entry_that_waits() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    superseded = OrderExpired(root="ES", signal_id="entry-1", reason="superseded")
    events = desk.leave("exit-1", ts=Nanos(DECIDED + SECOND // 4))
    assert events == (allowed("exit-1"), superseded, submitted("exit-1", side="sell"))


def test_an_entry_in_flight_when_its_exit_was_decided_is_not_tried_again() -> None:
    desk = Desk()
    desk.request()
    desk.leave("exit-1", ts=Nanos(DECIDED + SECOND // 4))
    superseded = OrderExpired(root="ES", signal_id="entry-1", reason="superseded")
    assert desk.answer(OrderNotSent) == (superseded, submitted("exit-1", side="sell"))


# ---------------------------------------------------------------- limits and switches at the outbox


@pytest.mark.parametrize(("bar", "limit_s"), [(HOUR, 30), (MINUTE, 15), (Nanos(2 * MINUTE), 30)])
def test_an_unsent_entry_expires_at_thirty_seconds_or_a_quarter_of_its_bar(bar: Nanos, limit_s: int) -> None:
    desk = Desk()
    desk.request(bar_ns=bar)
    desk.answer(OrderNotSent, retry_after_s=600.0)
    limit = Nanos(DECIDED + limit_s * SECOND)
    assert desk.machine.next_deadline() == limit
    assert desk.tick(Nanos(limit - 1)) == ()
    assert desk.tick(limit) == (OrderExpired(root="ES", signal_id="entry-1", reason="time_limit"),)
    assert not desk.is_open()
    assert desk.machine.next_deadline() is None


def test_an_entry_that_is_allowed_after_its_limit_is_not_sent() -> None:
    # Fresh enough for the gate (60 s), too late for the wire (30 s).
    desk = Desk()
    late = Nanos(DECIDED + 45 * SECOND)
    assert desk.request(ts=late) == (allowed(),)
    assert desk.tick(late) == (OrderExpired(root="ES", signal_id="entry-1", reason="time_limit"),)


def test_an_entry_waits_until_its_roots_exit_is_over_and_expires_meanwhile() -> None:
    desk = Desk()
    desk.hold()
    desk.leave("exit-1")
    desk.answer(OrderAccepted, "exit-1")
    desk.trade(at(120, 1))
    assert desk.request("entry-2", ts=at(120, 2), decided_ns=at(120, 2)) == (allowed("entry-2"),)
    assert desk.tick(at(120, 20)) == (submitted("exit-1", 2, side="sell"),), "its repeat"
    assert desk.answer(OrderAccepted, "exit-1", attempt=2) == ()
    assert desk.tick(at(120, 32)) == (OrderExpired(root="ES", signal_id="entry-2", reason="time_limit"),)


CLOSINGS = [
    (CommandReceived(command="kill", argument="entries"), CommandReceived(command="resume")),
    (EntriesClosed(reason="stall"), EntriesOpened(reason="fine")),
    (FeedStatusChanged(status="stale", reason=""), FeedStatusChanged(status="live", reason="")),
]


@pytest.mark.parametrize(("closing", "opening"), CLOSINGS, ids=["kill", "entries closed", "feed stale"])
def test_a_switch_holds_a_waiting_entry_back_until_it_expires(closing: Event, opening: Event) -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    desk.put(closing)
    limit = Nanos(DECIDED + 30 * SECOND)
    assert desk.machine.next_deadline() == limit
    assert desk.tick(Nanos(limit - 1)) == ()
    assert types(desk.tick(limit)) == ["OrderExpired"]


@pytest.mark.parametrize(("closing", "opening"), CLOSINGS, ids=["kill", "entries closed", "feed stale"])
def test_a_waiting_entry_goes_on_when_the_switch_is_undone_in_time(closing: Event, opening: Event) -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    desk.put(closing)
    desk.tick(Nanos(DECIDED + 10 * SECOND))
    assert desk.put(opening) == (submitted(attempt=2),)


def test_kill_all_holds_a_waiting_exit_back_and_enable_lets_it_go() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    desk.answer(OrderNotSent, "exit-1")
    desk.put(CommandReceived(command="kill", argument="all"))
    overdue = ExitOverdue(root="ES", signal_id="exit-1", attempts=1, since_ns=at(120))
    assert desk.machine.next_deadline() == at(125)
    assert desk.tick(at(180)) == (overdue,)
    assert desk.put(CommandReceived(command="resume")) == (submitted("exit-1", 2, side="sell"),)


def test_the_kill_switch_is_where_the_operator_left_it() -> None:
    desk = Desk()
    seen = [desk.machine.switches.kill]
    for command, argument in [("kill", ""), ("kill", "all"), ("resume", ""), ("kill", "")]:
        desk.put(CommandReceived(command=command, argument=argument))  # type: ignore[arg-type]
        seen.append(desk.machine.switches.kill)
    assert seen == ["off", "entries", "all", "off", "entries"]


# ---------------------------------------------------------------- limit orders

LIMIT = {"order_type": "limit", "limit_price": PRICE}


def test_a_limit_order_is_cancelled_after_its_time() -> None:
    desk = Desk(strategy=StrategySettings(veto=False, cancel_after_s=60))
    desk.request(**LIMIT)
    desk.answer(OrderAccepted)
    cancel = Nanos(DECIDED + 60 * SECOND)
    assert desk.machine.next_deadline() == cancel
    assert desk.tick(Nanos(cancel - 1)) == ()
    assert desk.tick(cancel) == (OrderExpired(root="ES", signal_id="entry-1", reason="cancel_after"),)
    assert desk.trade(Nanos(cancel + SECOND), -9) == ()
    assert desk.machine.positions == ()


@pytest.mark.parametrize(("ticks", "left"), [(9, "OrderExpired"), (0, "OrderAmbiguous"), (-1, "FillAssumed")])
def test_in_real_time_a_limit_order_ends_only_when_its_last_trades_are_on_record(ticks: int, left: str) -> None:
    """A minute's trades come when it is over: at the order's own end they are still on their way."""
    desk = Desk(strategy=StrategySettings(veto=False, cancel_after_s=20), clock="system")
    desk.request(**LIMIT)
    desk.answer(OrderAccepted)
    minute_end = Nanos(DECIDED + MINUTE)
    assert desk.machine.next_deadline() == minute_end
    cancelled = Nanos(DECIDED + 20 * SECOND)
    assert desk.put(ClockTicked(ts=cancelled, watermark=DECIDED), cancelled) == ()
    rows = (("ESM4", Nanos(cancelled - SECOND), ticks, 1), ("ESM4", Nanos(cancelled + SECOND), -9, 1))
    events = desk.put(TradesReceived(trades=trades_of(*rows)), minute_end)
    assert types((*events, *desk.tick(minute_end))) == [left]


@pytest.mark.parametrize(("passed_s", "left"), [(-1, "OrderExpired"), (1, "OrderAmbiguous")])
def test_a_limit_order_may_be_filled_before_its_acceptance_is_known(passed_s: int, left: str) -> None:
    desk = Desk(strategy=StrategySettings(veto=False, cancel_after_s=60))
    desk.request(**LIMIT)
    assert desk.trade(Nanos(DECIDED + passed_s * SECOND), -9) == ()
    desk.now = Nanos(DECIDED + 2 * SECOND)
    desk.answer(OrderAccepted)
    assert types(desk.tick(Nanos(DECIDED + 62 * SECOND))) == [left]


@pytest.mark.parametrize(("ticks", "is_filled"), [(0, False), (-1, True)])
def test_a_limit_order_fills_through_its_limit_and_not_at_a_touch(ticks: int, is_filled: bool) -> None:
    desk = Desk()
    desk.request(**LIMIT)
    desk.answer(OrderAccepted)
    fills = desk.trade(Nanos(DECIDED + SECOND), ticks)
    assert bool(fills) == is_filled
    assert not is_filled or fills[0].price == PRICE  # type: ignore[union-attr]


def test_an_accepted_market_order_whose_contract_does_not_trade_is_assumed_filled_at_the_last_close() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAccepted)
    deadline = desk.machine.next_deadline()
    assert deadline is not None
    assert desk.tick(Nanos(deadline - 1)) == ()
    (fill,) = desk.tick(deadline)
    assert (fill.rule, fill.price, fill.ts) == ("no_trade", request_of().reference_price, deadline)
    assert [position.root for position in desk.machine.positions] == ["ES"], "without it there is no auto-close"
    assert desk.machine.next_deadline() is None


# ---------------------------------------------------------------- fills and money


def test_an_entry_fills_at_the_next_trade_one_tick_adverse_and_is_held() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAccepted)
    ts = Nanos(DECIDED + SECOND)
    assert desk.trade(ts, 4) == (
        FillAssumed(
            root="ES",
            signal_id="entry-1",
            contract="ESM4",
            intent="entry",
            side="buy",
            quantity=1,
            price=Price(PRICE + 5 * TICK),
            ts=ts,
            rule="next_trade",
            pnl=None,
        ),
    )
    assert desk.machine.positions == (
        Position(
            root="ES",
            contract="ESM4",
            quantity=1,
            price=Price(PRICE + 5 * TICK),
            opened_ns=ts,
            entry_signal_id="entry-1",
        ),
    )
    assert desk.machine.orders == ()
    assert desk.trade(Nanos(ts + SECOND)) == ()


@pytest.mark.parametrize(
    ("contract", "ts"), [("NQM4", Nanos(DECIDED + SECOND)), ("ESU4", Nanos(DECIDED + SECOND)), ("ESM4", DECIDED - 1)]
)
def test_another_contract_or_an_earlier_trade_fills_nothing(contract: str, ts: int) -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAccepted)
    assert desk.trade(Nanos(ts), contract=contract) == ()


def test_nothing_fills_before_it_is_accepted() -> None:
    desk = Desk()
    desk.request()
    assert desk.trade(Nanos(DECIDED + SECOND)) == ()


@pytest.mark.parametrize(
    ("side", "exit_side", "exit_ticks", "pnl"),
    [
        # In at +1 tick, out at +10 - 1: 8 ticks of 0.25 x 50 USD, less 2 x 1.25.
        ("buy", "sell", 10, "97.5"),
        ("buy", "sell", -10, "-152.5"),
        ("sell", "buy", -10, "97.5"),
        ("sell", "buy", 10, "-152.5"),
    ],
)
def test_an_exit_closes_the_position_and_tells_the_net_result(
    side: str, exit_side: str, exit_ticks: int, pnl: str
) -> None:
    desk = Desk()
    desk.hold(side=side)
    desk.leave(side=exit_side)
    desk.answer(OrderAccepted, "exit-1")
    (fill,) = desk.trade(at(120, 1), exit_ticks)
    assert isinstance(fill, FillAssumed)
    assert fill.pnl == Decimal(pnl)
    assert desk.machine.realised_pnl == Decimal(pnl)
    assert desk.machine.positions == ()


def test_results_add_up_over_the_session() -> None:
    desk = Desk()
    for number in range(3):
        ts = at(120 + 10 * number)
        desk.request(f"in-{number}", ts=ts, decided_ns=ts)
        desk.answer(OrderAccepted, f"in-{number}")
        desk.trade(Nanos(ts + SECOND))
        desk.leave(f"out-{number}", ts=Nanos(ts + MINUTE))
        desk.answer(OrderAccepted, f"out-{number}")
        desk.trade(Nanos(ts + MINUTE + SECOND))
        desk.tick(Nanos(ts + MINUTE + 20 * SECOND))
        desk.answer(OrderAccepted, f"out-{number}", attempt=2)
    assert desk.machine.realised_pnl == 3 * (Decimal("-25") - Decimal("2.5"))


def test_an_exit_of_nothing_ends_without_a_result() -> None:
    desk = Desk()
    desk.leave()
    desk.answer(OrderAccepted, "exit-1")
    assert desk.trade(at(120, 1)) == (OrderExpired(root="ES", signal_id="exit-1", reason="nothing_held"),)
    assert desk.machine.realised_pnl == 0


def test_two_orders_fill_in_one_batch_each_from_its_own_contract() -> None:
    desk = Desk()
    desk.request()
    desk.request("nq", root="NQ", contract="NQM4")
    desk.answer(OrderAccepted)
    desk.answer(OrderAccepted, "nq")
    ts = Nanos(DECIDED + SECOND)
    batch = TradesReceived(trades=trades_of(("NQM4", ts, 3, 1), ("ESM4", ts, 7, 1)))
    fills = desk.put(batch, ts)
    assert [(f.contract, f.price) for f in fills] == [  # type: ignore[union-attr]
        ("ESM4", PRICE + 8 * TICK),
        ("NQM4", PRICE + 4 * TICK),
    ]
    assert [position.root for position in desk.machine.positions] == ["ES", "NQ"]


# ---------------------------------------------------------------- unknown


def unknown_desk() -> Desk:
    desk = Desk()
    desk.request()
    desk.answer(OrderAmbiguous)
    return desk


def test_an_ambiguous_entry_is_held_as_unknown_and_occupies_its_root() -> None:
    desk = unknown_desk()
    (position,) = desk.machine.positions
    assert (position.is_unknown, position.quantity, position.price) == (True, 1, PRICE)
    (refused,) = desk.request("entry-2")
    assert refused.rule == "unknown_position"  # type: ignore[union-attr]
    assert desk.trade(Nanos(DECIDED + SECOND)) == ()


def test_after_a_full_exit_an_unknown_entry_has_ended() -> None:
    desk = unknown_desk()
    desk.leave()
    desk.answer(OrderAccepted, "exit-1")
    fill, ended = desk.trade(at(120, 1))
    assert isinstance(fill, FillAssumed)
    assert ended == OrderExpired(root="ES", signal_id="entry-1", reason="flat_after_exit")
    assert desk.machine.positions == ()
    assert desk.tick(at(120, 20)) == (submitted("exit-1", 2, side="sell"),)
    assert desk.answer(OrderAccepted, "exit-1", attempt=2) == ()
    assert desk.machine.orders == ()
    assert types(desk.request("entry-2", ts=at(121), decided_ns=at(121))) == ["RiskDecided", "OrderSubmitted"]


# ---------------------------------------------------------------- going on from another file


def test_carried_positions_orders_result_and_switch_are_gone_on_with() -> None:
    before = Desk()
    before.hold("NQ")
    before.request()
    before.answer(OrderNotSent)
    carried = attrs.evolve(
        fresh_state(),
        positions=before.machine.positions,
        orders=before.machine.orders,
        realised_pnl=Decimal("12.5"),
        switches=Switches(kill="entries"),
        outbox=before.machine.account.outbox.memory,
    )
    after = Desk(carried=carried)
    assert after.machine.positions == before.machine.positions
    assert after.machine.orders == before.machine.orders
    assert (after.machine.realised_pnl, after.machine.switches.kill) == (Decimal("12.5"), "entries")
    after.put(CommandReceived(command="resume"))
    assert after.tick(Nanos(DECIDED + 5 * SECOND)) == (submitted(attempt=2),)


def test_a_carried_exit_is_answered_like_any_other() -> None:
    before = Desk()
    before.hold()
    before.leave()
    before.answer(OrderAccepted, "exit-1")
    after = Desk(carried=attrs.evolve(fresh_state(), positions=before.machine.positions, orders=before.machine.orders))
    fill, repeat = after.trade(at(121), 10)
    assert isinstance(fill, FillAssumed)
    assert fill.pnl == Decimal("97.5")
    assert repeat == submitted("exit-1", 2, side="sell")


def test_the_machine_is_a_function_of_its_events() -> None:
    first = unknown_desk()
    again = Execution(payload_of)
    outputs = [again.handle(envelope) for envelope in first.record.envelopes]
    assert again.orders == first.machine.orders
    assert again.positions == first.machine.positions
    assert [event for events in outputs for event in events] == [allowed(), submitted()]
    assert again.orders[0].state is OrderState.AMBIGUOUS
