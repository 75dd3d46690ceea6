"""The operator's commands at the machine, and the fold that shows what the machine believes."""

from __future__ import annotations

import random
from collections import deque
from decimal import Decimal
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.execution import Execution
from actors.recorded_account import RecordedAccount
from actors.status import Status
from domain.envelope import Envelope
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    ClockTicked,
    CommandReceived,
    Event,
    FeedStatusChanged,
    FillAssumed,
    OrderAccepted,
    OrderAmbiguous,
    OrderNotSent,
    OrderRejected,
    OrderRequested,
    PositionResolved,
    ProbeAnswered,
    ProbeSubmitted,
    SliceClosed,
    TradesReceived,
)
from domain.orders import OrderState
from domain.risk import RiskSettings, Switches
from domain.units import MINUTE, SECOND, Nanos, Price
from tests.actors.test_execution import DECIDED, Desk, payload_of, types
from tests.builders import IDS, PRICE, TICK, Record, at, bar_of, mapped, opened_session, request_of, trades_of


def say(desk: Desk, command: Any, argument: str = "", **fields: Any) -> tuple[Event, ...]:
    """A command, and what it leads to: the machine's own requests are handed back to it."""
    events = desk.put(CommandReceived(command=command, argument=argument, **fields))
    more = [desk.put(event, source="execution") for event in events if isinstance(event, OrderRequested)]
    return (*events, *(event for answer in more for event in answer))


def resolve(desk: Desk, quantity: int, root: str = "ES") -> tuple[Event, ...]:
    return say(desk, "resolve", root, quantity=quantity, reason="seen")


def close(desk: Desk, ticks: int, contract: str = "ESM4") -> None:
    """A minute that closes `ticks` from PRICE."""
    desk.put(SliceClosed(ts=desk.now, minutes=(bar_of(contract, close=Price(PRICE + ticks * TICK)),)))


# ---------------------------------------------------------------- switches


def test_with_money_nothing_is_entered_before_it_is_enabled() -> None:
    desk = Desk(mode="live")
    assert [e.rule for e in desk.request()] == ["not_enabled"]  # type: ignore[union-attr]
    say(desk, "enable", "ES")
    assert types(desk.request("entry-2")) == ["RiskDecided", "OrderSubmitted"]
    (refused,) = desk.request("nq", root="NQ", contract="NQM4")
    assert refused.rule == "not_enabled", "one root was enabled, and no other"  # type: ignore[union-attr]
    say(desk, "enable")
    assert types(desk.request("nq-2", root="NQ", contract="NQM4")) == ["RiskDecided", "OrderSubmitted"]


@pytest.mark.parametrize(
    ("said", "switches"),
    [
        ([("disable", "")], Switches(is_enabled=False)),
        ([("disable", ""), ("enable", "")], Switches()),
        ([("disable", "NQ"), ("disable", "ES")], Switches(disabled_roots=("ES", "NQ"))),
        ([("disable", "NQ"), ("disable", "ES"), ("enable", "ES")], Switches(disabled_roots=("NQ",))),
        ([("disable", "NQ"), ("enable", "")], Switches()),
        ([("disable", ""), ("enable", "NQ")], Switches(disabled_roots=("ES", "GC"))),
        ([("halt", ""), ("kill", "all")], Switches(is_halted=True, kill="all")),
        ([("halt", ""), ("kill", ""), ("resume", "")], Switches()),
        ([("flatten", ""), ("stop", "")], Switches()),
    ],
)
def test_switches_are_where_the_operator_left_them(said: list[tuple[str, str]], switches: Switches) -> None:
    desk = Desk()
    for command, argument in said:
        say(desk, command, argument)
    assert desk.machine.switches == switches


@pytest.mark.parametrize(
    ("command", "rule"), [("halt", "halted"), ("disable", "not_enabled"), ("stop", "entries_closed")]
)
def test_entries_end_and_exits_go_on(command: str, rule: str) -> None:
    desk = Desk()
    desk.hold()
    say(desk, command)
    (refused,) = desk.request("nq", root="NQ", contract="NQM4")
    assert refused.rule == rule  # type: ignore[union-attr]
    assert types(desk.leave()) == ["RiskDecided", "OrderSubmitted"]


def test_an_entry_that_waits_is_not_sent_any_more_after_stop() -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    say(desk, "stop")
    assert types(desk.tick(Nanos(DECIDED + 30 * SECOND))) == ["OrderExpired"]


def test_a_stop_is_of_the_process_that_was_stopped() -> None:
    desk = Desk()
    say(desk, "stop")
    desk.put(ActorRestarted(actor="process", incarnation=1, at_seq=1))
    assert types(desk.request()) == ["RiskDecided", "OrderSubmitted"]


# ---------------------------------------------------------------- flatten


def test_flatten_asks_for_an_exit_of_everything_held_or_being_entered() -> None:
    desk = Desk()
    desk.hold("ES")
    desk.hold("NQ", side="sell")
    desk.request("entry-GC", root="GC", contract="GCM4")
    events = say(desk, "flatten")
    requests = [event for event in events if isinstance(event, OrderRequested)]
    assert [(r.root, r.side, r.quantity, r.reason) for r in requests] == [
        ("ES", "sell", 1, "operator"),
        ("GC", "sell", 1, "operator"),
        ("NQ", "buy", 1, "operator"),
    ]
    assert all(r.is_flatten and r.cancels_working for r in requests)
    assert types(events).count("OrderSubmitted") == 2, "GC waits for the outcome of its entry"


def test_flatten_of_nothing_asks_for_nothing_and_of_a_root_all_the_same() -> None:
    desk = Desk()
    assert say(desk, "flatten") == ()
    assert types(say(desk, "flatten", "ES")) == ["OrderRequested", "RiskDecided", "OrderSubmitted"]


def test_what_was_resolved_after_a_close_can_be_closed_in_the_same_moment_under_another_name() -> None:
    desk = Desk()
    desk.hold()
    first = say(desk, "flatten", "ES")[0]
    assert say(desk, "flatten", "ES") == (), "one moment, one intent"
    resolve(desk, 2)
    second = say(desk, "flatten", "ES")[0]
    assert isinstance(first, OrderRequested)
    assert isinstance(second, OrderRequested)
    assert (second.quantity, first.signal_id != second.signal_id) == (2, True)


def test_flatten_under_kill_all_is_refused_and_goes_through_after_resume() -> None:
    desk = Desk()
    desk.hold()
    say(desk, "kill", "all")
    assert types(say(desk, "flatten")) == ["OrderRequested", "RiskDecided"]
    say(desk, "resume")
    assert types(say(desk, "flatten")) == ["OrderRequested", "RiskDecided", "OrderSubmitted"]


# ---------------------------------------------------------------- resolve


def test_resolve_flat_ends_what_is_held_at_the_last_price() -> None:
    desk = Desk()
    desk.hold()  # at one tick above PRICE
    close(desk, 5)
    resolved, fill = resolve(desk, 0)
    assert isinstance(resolved, PositionResolved)
    assert isinstance(fill, FillAssumed)
    assert (fill.intent, fill.side, fill.quantity, fill.rule) == ("exit", "sell", 1, "resolved")
    assert fill.pnl == desk.machine.realised_pnl == Decimal("47.5")  # 4 ticks of 12.50, less 2.50
    assert desk.machine.positions == ()


@pytest.mark.parametrize("quantity", [3, -2])
def test_resolve_replaces_what_was_believed(quantity: int) -> None:
    desk = Desk()
    desk.hold()
    assert types(resolve(desk, quantity)) == ["PositionResolved", "FillAssumed", "FillAssumed"]
    (held,) = desk.machine.positions
    assert (held.quantity, held.is_unknown) == (quantity, False)


def test_resolve_of_what_is_believed_changes_nothing() -> None:
    desk = Desk()
    desk.hold()
    before = desk.machine.positions
    assert types(resolve(desk, 1)) == ["PositionResolved"]
    assert desk.machine.positions == before


def test_a_position_without_any_price_cannot_be_resolved() -> None:
    desk = Desk()
    assert resolve(desk, 2) == ()
    assert desk.machine.positions == ()
    assert types(resolve(desk, 0)) == ["PositionResolved"]
    close(desk, 0)
    assert types(resolve(desk, 2)) == ["PositionResolved", "FillAssumed"]


@pytest.mark.parametrize(
    ("quantity", "kinds"),
    [
        (1, ["PositionResolved", "FillAssumed"]),
        (0, ["PositionResolved", "OrderExpired"]),
        (2, ["PositionResolved", "OrderExpired", "FillAssumed"]),
    ],
)
def test_an_unknown_entry_ends_with_what_is_said(quantity: int, kinds: list[str]) -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderAmbiguous)
    close(desk, -40)  # it would have lost 500 USD
    assert types(resolve(desk, quantity)) == kinds
    assert [held.quantity for held in desk.machine.positions] == ([quantity] if quantity else [])
    assert desk.machine.realised_pnl == 0, "what never was has no result"
    assert desk.machine.orders == ()


def test_nothing_decided_before_touches_what_was_resolved_after() -> None:
    desk = Desk()
    desk.hold()
    close(desk, 0)
    desk.leave()
    desk.answer(OrderAccepted, "exit-1")
    desk.trade(at(120, 1))
    assert desk.is_open("exit-1"), "its repeat is due in 20 s"
    resolve(desk, 2)
    assert desk.machine.orders == ()
    assert desk.tick(at(121)) == ()
    assert [held.quantity for held in desk.machine.positions] == [2]


def test_an_exit_in_flight_closes_all_of_what_was_resolved_or_none_of_it() -> None:
    for quantity, rest, kind in ((3, [], "FillAssumed"), (-2, [-2], "OrderExpired")):
        desk = Desk()
        desk.hold()
        desk.leave()  # sells, to be flat: it cannot close a short
        resolve(desk, quantity)
        desk.answer(OrderAccepted, "exit-1")
        (event,) = desk.trade(at(120, 1))
        assert type(event).__name__ == kind
        assert [held.quantity for held in desk.machine.positions] == rest
        assert not isinstance(event, FillAssumed) or event.quantity == quantity


def test_resolve_confirms_a_root_after_a_crash() -> None:
    carried = attrs.evolve(fresh_state(), unconfirmed=("ES", "NQ"), switches=Switches())
    desk = Desk(mode="live", carried=carried)
    resolve(desk, 0)
    (refused,) = desk.request()
    assert refused.rule == "unconfirmed"  # type: ignore[union-attr]
    resolve(desk, 0, "NQ")
    assert types(desk.request("entry-2")) == ["RiskDecided", "OrderSubmitted"]


# ---------------------------------------------------------------- the fold


class Walk:
    """The machine and the fold over one record; the machine's own requests come back to it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine, self.status, self.record = Execution(payload_of), Status(), Record()
        self.recorded = RecordedAccount(payload_of)
        self.now, self.count = at(60), 0
        self.probes: deque[int] = deque()
        risk = RiskSettings(max_positions=3, unknown_policy=self.random.choice(("flat", "hold")))
        self.put(opened_session(risk=risk))
        self.put(fresh_state())
        for contract in IDS:
            self.put(mapped(contract))
        self.put(FeedStatusChanged(status="live", reason=""))

    def put(self, event: Event, source: str = "test", cause: Envelope | None = None) -> None:
        queue: deque[tuple[Event, str, Envelope | None]] = deque([(event, source, cause)])
        while queue:
            put, source, cause = queue.popleft()
            envelope = self.record.put(put, source=source, cause=cause, ts=self.now)
            self.status.fold(envelope)
            self.recorded.fold(envelope)
            if isinstance(put, ProbeSubmitted):
                self.probes.append(put.ordinal)
            if envelope.type in self.machine.kinds:
                queue.extend((answer, "execution", envelope) for answer in self.machine.handle(envelope))

    def step(self) -> None:
        chance, root = self.random, self.random.choice(("ES", "NQ"))
        self.now = Nanos(self.now + chance.choice((0, 1, 20, 40)) * SECOND)
        match chance.randrange(10):
            case 0 | 1:
                self.request(root)
            case 2 | 3 | 4:
                self.answer()
            case 5:
                self.put(TradesReceived(trades=trades_of((f"{root}M4", self.now, chance.randint(-9, 9), 1))))
            case 6:
                self.put(SliceClosed(ts=self.now, minutes=(bar_of(f"{root}M4"),)))
            case 7 | 8:
                self.put(ClockTicked(ts=self.now, watermark=self.now))
            case _:
                self.command(root)

    def request(self, root: str) -> None:
        self.count += 1
        intent = self.random.choice(("entry", "exit"))
        limit = {"order_type": "limit", "limit_price": PRICE} if intent == "entry" and self.count % 3 == 0 else {}
        self.put(
            request_of(
                f"{intent}-{self.count}", root=root, contract=f"{root}M4", intent=intent, decided_ns=self.now, **limit
            ),
            source="strategy",
        )

    def answer(self) -> None:
        chance = self.random
        open_ = [order for order in self.machine.orders if order.state is OrderState.SUBMITTED]
        if self.probes and (not open_ or chance.random() < 0.3):
            self.put(ProbeAnswered(ordinal=self.probes.popleft(), is_up=chance.random() < 0.5, detail=""), HTTP_SOURCE)
        elif open_:
            order = chance.choice(open_)
            common: Any = {"root": order.root, "signal_id": order.signal_id, "attempt": order.attempt}
            outcomes: list[Event] = [
                OrderAccepted(**common, http_status=200, external_id=""),
                OrderAccepted(**common, http_status=200, external_id=""),
                OrderNotSent(**common, cause="refused"),
                OrderNotSent(**common, cause="429", is_throttled=True, retry_after_s=chance.choice((None, 3.0))),
                OrderAmbiguous(**common, cause="reset"),
                OrderRejected(**common, http_status=400, code=chance.choice(("no", "invalid-password")), message=""),
            ]
            self.put(chance.choice(outcomes), HTTP_SOURCE)

    def command(self, root: str) -> None:
        name: Any = self.random.choice(("flatten", "resolve", "resolve", "halt", "kill", "resume", "resume", "disable"))
        quantity = self.random.randint(-1, 2) if name == "resolve" else None
        argument = root if name in ("flatten", "resolve", "disable") else self.random.choice(("", "all"))
        self.put(
            CommandReceived(command=name, argument="" if name in ("halt", "resume") else argument, quantity=quantity)
        )

    def assert_agrees(self) -> None:
        machine = self.machine
        positions, orders = self.status.open_of()
        believed = {(p.root, p.quantity, p.is_unknown) for p in machine.positions}
        assert {(p.root, p.quantity, p.is_unknown) for p in positions} == believed
        assert {o.signal_id: (o.state, o.attempt, o.is_filled) for o in orders} == {
            o.signal_id: (o.state, o.attempt, o.filled_ns is not None) for o in machine.orders
        }
        due = {o.signal_id: o.next_ns for o in orders if o.attempt}
        for order in machine.orders:
            if order.attempt and order.state in (OrderState.QUEUED, OrderState.ACCEPTED):
                assert due[order.signal_id] == (order.repeat_ns if order.accepted_ns else order.not_before_ns)
        shown = self.status.snapshot()
        assert (
            Switches(
                kill=shown["switches"]["kill"],
                is_halted=shown["switches"]["halted"],
                is_enabled=shown["switches"]["enabled"],
                disabled_roots=tuple(shown["switches"]["disabled_roots"]),
            )
            == machine.switches
        )
        assert shown["breaker"] == machine.account.outbox.memory.breaker
        assert Decimal(shown["realised_pnl"]) == machine.realised_pnl.quantize(Decimal("0.01"))
        self.assert_is_on_record()
        sent = [ts for ts, _ in machine.account.outbox.memory.sent]
        assert shown["limiter"]["last_minute"] == sum(ts > self.record.envelopes[-1].ts_ns - MINUTE for ts in sent)

    def assert_is_on_record(self) -> None:
        """What the next file would be left by the record alone is what the machine would leave it."""
        ours, theirs = self.machine.account, self.recorded.account
        assert theirs.holdings.in_order() == ours.holdings.in_order()
        assert theirs.holdings.realised_pnl == ours.holdings.realised_pnl
        assert theirs.outbox.memory == ours.outbox.memory
        assert (theirs.switches, theirs.has_traded) == (ours.switches, ours.has_traded)
        never_sent = {"expires_ns": None, "is_touched": False, "paged_ns": None, "filled_ns": None}
        orders = [[attrs.evolve(o, **never_sent) for o in side.outbox.orders] for side in (theirs, ours)]
        assert orders[0] == orders[1]
        filled = [[o.filled_ns is not None for o in side.outbox.orders] for side in (theirs, ours)]
        assert filled[0] == filled[1]


@pytest.mark.parametrize("seed", range(8))
def test_the_fold_shows_what_the_machine_believes(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(250):
        walk.step()
        walk.assert_agrees()
    asked = [e.payload.signal_id for e in walk.record.envelopes if isinstance(e.payload, OrderRequested)]
    assert len(asked) == len(set(asked)), "an id names one request"
    seen = {envelope.type for envelope in walk.record.envelopes}
    assert {"FillAssumed", "OrderExpired", "OrderSubmitted", "PositionResolved"} <= seen
