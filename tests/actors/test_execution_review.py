"""Corners of Execution that a review found: moments that coincide, restarts in the wrong place, an operator's word."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.carry import carry_forward, fresh_state
from actors.execution import Execution
from actors.faults import Crash
from actors.live import EXIT_SAFE_STOP
from actors.machines import MachineParts, MachineSet
from actors.opening import LivePlan, Opener
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import file_name
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.payload import build_payload
from adapters.traderspost.router import WebhookRouter
from domain.bars import BarTable
from domain.errors import OperatorError
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    ClockTicked,
    CommandReceived,
    FillAssumed,
    HistoryLoaded,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    PositionResolved,
    SafeStopRequested,
    SessionOpened,
    SessionStopped,
    SliceClosed,
    StateCarried,
)
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract
from domain.orders import OrderState
from domain.outbox import TICKER_GAP
from domain.ports import Head
from domain.positions import Position
from domain.risk import RiskSettings
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price
from tests.actors.session_file import SessionFile
from tests.actors.test_execution import DECIDED, Desk, submitted, types
from tests.builders import (
    CODEC,
    PRICE,
    START,
    TICK,
    Record,
    at,
    bar_of,
    mapped,
    opened_session,
    request_of,
    traded_root,
    write_journal,
)
from tests.system.in_this_process import envelopes, live_in_thread

HELD = Position(root="ES", contract="ESM4", quantity=1, price=PRICE, opened_ns=at(1), entry_signal_id="earlier")


def asked(events: Any) -> list[OrderRequested]:
    return [event for event in events if isinstance(event, OrderRequested)]


def resolve(quantity: int, root: str = "ES") -> CommandReceived:
    return CommandReceived(command="resolve", argument=root, quantity=quantity, reason="looked")


# ---------------------------------------------------------------- closes of our own


def test_two_closes_in_one_moment_are_one_intent() -> None:
    """Their signal_id would be the same, and the journal takes each only once."""
    desk = Desk()
    desk.hold()
    flatten = CommandReceived(command="flatten", argument="ES")
    (request,) = desk.put(flatten, at(70))
    assert isinstance(request, OrderRequested)
    assert desk.put(flatten) == ()
    assert desk.put(CommandReceived(command="flatten")) == ()
    (again,) = desk.put(flatten, Nanos(at(70) + 1))
    assert isinstance(again, OrderRequested)
    assert again.signal_id != request.signal_id


@pytest.mark.parametrize(("side", "exit_side"), [("buy", "sell"), ("sell", "buy")])
def test_a_close_of_an_entry_on_its_way_is_of_its_side_and_size(side: str, exit_side: str) -> None:
    desk = Desk()
    desk.request(side=side, quantity=3)
    (close,) = asked(desk.put(CommandReceived(command="flatten")))
    assert (close.side, close.quantity) == (exit_side, 3)
    desk.put(close, source="execution")
    desk.answer(OrderAccepted)
    desk.answer(OrderAccepted, close.signal_id)
    _, leaving = desk.trade(Nanos(DECIDED + SECOND))
    assert isinstance(leaving, FillAssumed)
    assert (leaving.side, leaving.quantity) == (exit_side, 3)
    assert desk.machine.positions == ()


def test_an_unknown_position_is_closed_in_time_although_the_one_before_was_closed_by_us_as_well() -> None:
    desk = Desk(risk=RiskSettings(unknown_flat_after_s=60))
    desk.hold()
    (close,) = desk.put(CommandReceived(command="flatten", argument="ES"), at(61))
    desk.put(close, source="execution")
    (order,) = desk.machine.orders
    desk.answer(OrderAccepted, order.signal_id)
    desk.trade(at(61, 1))
    desk.tick(at(63, 15))
    desk.answer(OrderAccepted, order.signal_id, attempt=2)
    assert desk.machine.orders == ()
    desk.request("entry-2", ts=at(63, 40), decided_ns=at(63, 40))
    desk.answer(OrderAmbiguous, "entry-2")
    due = at(64, 40)
    assert desk.machine.next_deadline() == due
    assert [request.reason for request in asked(desk.tick(due))] == ["unknown"]


def test_a_close_that_came_to_nothing_is_asked_for_again_and_not_at_every_tick() -> None:
    desk = Desk(risk=RiskSettings(unknown_flat_after_s=60))
    desk.request()
    desk.answer(OrderAmbiguous)
    desk.put(CommandReceived(command="kill", argument="all"))
    first = Nanos(DECIDED + MINUTE)
    (request,) = asked(desk.tick(first))
    assert types(desk.put(request, source="execution")) == ["RiskDecided"]
    again = Nanos(first + 300 * SECOND)
    assert desk.machine.next_deadline() == again
    assert asked(desk.tick(Nanos(again - 1))) == []
    assert len(asked(desk.tick(again))) == 1


def test_a_reference_root_cannot_be_flattened_or_resolved() -> None:
    """Its order cannot be said to TradersPost: trying would kill the actor, at every recovery again."""
    roots = (traded_root("ES"), traded_root("NQ", is_reference=True))
    fronts = tuple(ResolvedContract(root=root, rank=0, raw_symbol=f"{root}M4") for root in ("ES", "NQ"))
    desk = Desk(roots=roots, contracts=fronts)
    desk.machine._build_payload = build_payload
    for command in (CommandReceived(command="flatten", argument="NQ"), resolve(1, "NQ"), resolve(1, "XX")):
        assert desk.put(command) == ()
    (request,) = asked(desk.put(CommandReceived(command="flatten", argument="ES")))
    assert types(desk.put(request, source="execution")) == ["RiskDecided", "OrderSubmitted"]


def test_a_feed_that_never_comes_up_closes_what_was_carried() -> None:
    carried = attrs.evolve(fresh_state(), positions=(HELD,))
    desk = Desk(is_live=False, carried=carried, risk=RiskSettings(stale_flatten_s=120))
    assert desk.tick(at(60)) == ()
    assert desk.machine.next_deadline() == at(60, 30)
    assert types(desk.tick(at(60, 30))) == ["PositionUnwatched"]
    assert desk.machine.next_deadline() == at(62)
    assert [request.reason for request in asked(desk.tick(at(62)))] == ["stale_feed"]


# ---------------------------------------------------------------- switches


def test_kill_does_not_loosen_kill_all() -> None:
    desk = Desk()
    desk.hold()
    desk.put(CommandReceived(command="kill", argument="all"))
    desk.put(CommandReceived(command="kill"))
    assert desk.machine.switches.kill == "all"
    assert types(desk.leave()) == ["RiskDecided"]


def test_after_a_safe_stop_no_waiting_entry_leaves_until_the_process_is_back() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    desk.put(SafeStopRequested(reason="disk"))
    assert desk.tick(Nanos(DECIDED + 10 * SECOND)) == ()
    restarted = ActorRestarted(actor="process", incarnation=2, at_seq=1)
    assert desk.put(restarted) == (submitted(attempt=2),)


# ---------------------------------------------------------------- limit orders


def test_a_limit_order_works_as_long_as_traderspost_lets_it() -> None:
    """Its cancelAfter runs from when the order got there, which may be a retry."""
    desk = Desk(strategy=StrategySettings(veto=False, cancel_after_s=60))
    desk.request(order_type="limit", limit_price=PRICE)
    desk.answer(OrderNotSent)
    accepted = Nanos(DECIDED + 10 * SECOND)
    desk.tick(accepted)
    desk.answer(OrderAccepted, attempt=2)
    assert desk.tick(Nanos(DECIDED + 60 * SECOND)) == ()
    assert desk.machine.next_deadline() == accepted + 60 * SECOND
    (fill,) = desk.trade(Nanos(DECIDED + 65 * SECOND), -1)
    assert isinstance(fill, FillAssumed)


# ---------------------------------------------------------------- resolve


def test_resolving_an_unknown_position_to_flat_books_no_loss() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAmbiguous)
    desk.put(SliceClosed(ts=at(61), minutes=(bar_of(close=Price(PRICE - 40 * TICK)),)), at(61))
    events = desk.put(resolve(0))
    assert types(events) == ["PositionResolved", "OrderExpired"]
    assert desk.machine.positions == ()
    assert desk.machine.realised_pnl == 0


def test_a_position_that_the_operator_names_before_the_first_bar_is_valued_at_an_earlier_close() -> None:
    """At a price of zero the first minute would trip the daily stop."""
    machine, record = Execution(build_payload), Record()
    history = HistoryLoaded(tables=(BarTable.of_bars("ES", "1h", [bar_of(start=at(-60), length=HOUR)]),))
    risk = RiskSettings(daily_loss_usd=Decimal(1000))
    for event in (opened_session(risk=risk), history, fresh_state(), mapped("ESM4")):
        machine.handle(record.put(event))
    resolved, fill = machine.handle(record.put(resolve(-1)))
    assert isinstance(resolved, PositionResolved)
    assert isinstance(fill, FillAssumed)
    assert resolved.price == fill.price == PRICE
    assert machine.handle(record.put(SliceClosed(ts=at(1), minutes=(bar_of(),)), ts=at(1))) == ()


def test_a_root_left_to_be_confirmed_can_be_confirmed_when_it_is_not_traded_any_more() -> None:
    desk = Desk(carried=attrs.evolve(fresh_state(), unconfirmed=("CL",)))
    (refused,) = desk.request()
    assert refused.rule == "unconfirmed"  # type: ignore[union-attr]
    desk.put(resolve(0, "CL"))
    assert types(desk.request("entry-2")) == ["RiskDecided", "OrderSubmitted"]


def test_an_outcome_may_still_come_after_its_root_was_resolved() -> None:
    for outcome in (OrderAccepted, OrderRejected, OrderAmbiguous, OrderNotSent):
        desk = Desk()
        desk.hold()
        desk.leave()
        desk.put(resolve(0))
        assert desk.machine.positions == ()
        desk.answer(outcome, "exit-1")


# ---------------------------------------------------------------- over a new file


@pytest.fixture
def filled_exit(parts: MachineParts) -> SessionFile:
    """An exit that was filled and whose repeat is on its way."""
    file = SessionFile(parts)
    file.put(request_of(decided_ns=at(0)), at(0), source="strategy")
    file.answer()
    file.trade(1)
    file.put(request_of("exit-1", intent="exit", decided_ns=at(2)), at(2), source="strategy")
    file.answer()
    file.trade(2.1)
    file.put(ClockTicked(ts=at(2.5), watermark=at(0)), at(2.5))  # no minute closes: the strategy decides nothing
    assert [e.payload.attempt for e in file.unanswered()] == [2]  # type: ignore[union-attr]
    return file


def carried_by(file: SessionFile, file_sha256: str | None = None) -> StateCarried:
    head = Head(seq=len(file.record.envelopes), hash=file.record.envelopes[-1].hash, status="stopped")
    return carry_forward(file.journal(), head, MachineSet(file.parts), file_sha256=file_sha256).carried


def test_a_filled_exit_whose_repeat_was_on_its_way_is_over_and_blocks_nothing(filled_exit: SessionFile) -> None:
    carried = carried_by(filled_exit)
    assert carried.orders == ()
    desk = Desk(carried=carried)
    assert types(desk.request("entry-2")) == ["RiskDecided", "OrderSubmitted"]


@pytest.mark.parametrize("word", [resolve(2), CommandReceived(command="flatten", argument="ES")])
def test_a_superseded_exit_in_flight_is_not_sent_again_by_the_next_file(
    parts: MachineParts, word: CommandReceived
) -> None:
    file = SessionFile(parts)
    file.put(request_of(decided_ns=at(0)), at(0), source="strategy")
    file.answer()
    file.trade(1)
    file.put(request_of("exit-1", intent="exit", decided_ns=at(2)), at(2), source="strategy")
    file.put(word, at(2.1), source="operator")
    carried = carried_by(file)
    assert "exit-1" not in [order.signal_id for order in carried.orders]
    assert len(carried.orders) == (1 if word.command == "flatten" else 0)


def test_nothing_is_sent_behind_the_end_of_a_session() -> None:
    desk = Desk()
    desk.hold()
    desk.leave()
    desk.answer(OrderNotSent, "exit-1")
    assert desk.put(SessionStopped(reason="signal", positions=()), at(121)) == ()
    assert types(desk.put(ActorRestarted(actor="process", incarnation=1, at_seq=9))) == ["OrderSubmitted"]


def test_the_gap_between_messages_holds_over_a_new_file(filled_exit: SessionFile) -> None:
    desk = Desk(carried=carried_by(filled_exit))
    decided = at(2.6)
    assert types(desk.request("entry-2", ts=decided, decided_ns=decided)) == ["RiskDecided"]
    assert desk.machine.next_deadline() == at(2.5) + TICKER_GAP


def test_a_session_that_traded_in_an_earlier_segment_only_is_to_be_reconciled(filled_exit: SessionFile) -> None:
    first = carried_by(filled_exit)
    second = SessionFile(filled_exit.parts, segment=2)
    second.put(first, source="session")
    second.tick(3)
    assert carried_by(second, "00").unreconciled == ("2024-05-01",)


def test_legs_of_an_entry_left_in_flight_are_carried_with_what_it_may_have_opened(parts: MachineParts) -> None:
    file = SessionFile(parts)
    stop = Price(PRICE - 40 * TICK)
    file.put(request_of(decided_ns=at(0), stop_price=stop), at(0), source="strategy")
    (position,) = carried_by(file).positions
    assert (position.is_unknown, position.stop_price) == (True, stop)


def test_a_root_that_is_held_cannot_be_dropped_from_the_settings(parts: MachineParts, tmp_path: Path) -> None:
    """Nothing could close it: its exit has no settings to be said in."""
    file = SessionFile(parts)
    file.put(request_of(decided_ns=at(0)), at(0), source="strategy")
    file.answer()
    file.trade(1)
    write_journal(tmp_path / file_name("2024-05-01", 1), file.record.envelopes)
    opened = opened_session(roots=(traded_root("NQ"), traded_root("ES", is_reference=True)), config_digest="other")
    names = {field.name for field in attrs.fields(LivePlan)} & {field.name for field in attrs.fields(SessionOpened)}
    nothing: Any = None  # an unfinished session asks neither the feed nor the vendor
    opener = Opener(
        plan=LivePlan(**{name: getattr(opened, name) for name in names}),
        journals=SqliteJournals(tmp_path, CODEC),
        calendar=CmeCalendar(),
        source=nothing,
        parts_of=lambda _: parts,
        load_history=nothing,
        now=lambda: START,
    )
    with pytest.raises(OperatorError, match="not traded any more: ES"):
        opener.first()


def test_a_carried_attempt_without_outcome_is_not_counted_twice(parts: MachineParts) -> None:
    file = SessionFile(parts)
    file.put(request_of(decided_ns=at(0)), at(0), source="strategy")
    carried = carried_by(file)
    assert [order.state for order in carried.orders] == [OrderState.AMBIGUOUS]
    desk = Desk(carried=carried)
    (request,) = asked(desk.tick(at(2)))
    attempts = [e for e in desk.put(request, source="execution") if isinstance(e, OrderSubmitted)]
    outcome = OrderAccepted(root="ES", signal_id=request.signal_id, attempt=1, http_status=200, external_id="")
    desk.put(outcome, source=HTTP_SOURCE)
    assert [attempt.intent for attempt in attempts] == ["exit"]
    assert types(desk.trade(at(3))) == ["FillAssumed", "OrderExpired"]
    assert desk.machine.positions == ()


# ---------------------------------------------------------------- the end of a process


@pytest.mark.system
def test_a_safe_stop_that_flattens_waits_for_its_exits_before_it_is_stopped(tmp_path: Path) -> None:
    key = "db-loopback-key-of-the-tests-00"
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=20_000))
    with (
        GatewayThread(Gateway(source, keys=(key,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            tmp_path,
            port=gateway.port,
            key=key,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES",),
            crashes=tuple(Crash("feed", seq) for seq in range(100, 106)),
            risk=RiskSettings(safestop_policy="flatten"),
        ) as running,
    ):
        assert running.result().exit_code == EXIT_SAFE_STOP
    (journal,) = (tmp_path / "journal").glob("*.db")
    record = [envelope.type for envelope in envelopes(journal)]
    assert record[record.index("SafeStopRequested") :] == [
        "SafeStopRequested",
        "OrderRequested",
        "RiskDecided",
        "OrderSubmitted",
        "OrderAccepted",
        "SessionStopped",
    ]


@pytest.mark.parametrize(
    ("policy", "legs", "touched", "sent"),
    [
        ("cancel_only", {}, False, ["cancel"]),
        ("cancel_only", {}, True, ["cancel"]),
        ("cancel_only", {"stop_price": Price(PRICE - TICK)}, True, []),
        ("hold", {}, False, []),
        ("flatten", {}, False, ["exit"]),
    ],
)
def test_a_safe_stop_cancels_what_works_and_leaves_legs_of_what_may_be_held(
    policy: Any, legs: Any, touched: bool, sent: list[str]
) -> None:
    desk = Desk(risk=RiskSettings(safestop_policy=policy), strategy=StrategySettings(veto=False, cancel_after_s=60))
    desk.request(order_type="limit", limit_price=PRICE, **legs)
    desk.answer(OrderAccepted)
    if touched:
        desk.trade(Nanos(DECIDED + SECOND))
    requests = asked(desk.put(SafeStopRequested(reason="disk")))
    assert [request.intent for request in requests] == sent


def test_a_cancel_ends_the_entry_once_it_is_accepted_and_is_tried_for_a_minute() -> None:
    risk = RiskSettings(safestop_policy="cancel_only")
    desk = Desk(risk=risk, strategy=StrategySettings(veto=False, cancel_after_s=600))
    desk.request(order_type="limit", limit_price=PRICE)
    desk.answer(OrderAccepted)
    (request,) = asked(desk.put(SafeStopRequested(reason="disk")))
    _, attempt = desk.put(request, source="execution")
    assert isinstance(attempt, OrderSubmitted)
    assert attempt.intent == "cancel"
    assert desk.answer(OrderNotSent, request.signal_id) == ()
    assert types(desk.tick(Nanos(DECIDED + 10 * SECOND))) == ["OrderSubmitted"]
    ended = desk.answer(OrderAccepted, request.signal_id, attempt=2)
    assert [(e.signal_id == request.signal_id, e.reason) for e in ended if isinstance(e, OrderExpired)] == [
        (True, "cancel_sent"),
        (False, "cancelled_by_exit"),
    ]
    assert desk.machine.orders == ()
    assert desk.machine.positions == ()
