"""What the operator does behind the strategy's back: engine, Execution and the folds agree, and trading goes on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest

from actors.carry import fresh_state
from actors.in_process import InProcessSystem, accept
from actors.replay import replay
from actors.status import Status
from actors.tally import Tally
from actors.wiring import MACHINE_PARTS, parse_time
from actors.wiring.in_process import in_process_system
from adapters.sqlite.codec import Codec
from domain.events import CommandReceived, OrderAmbiguous, OrderSubmitted, Outcome
from domain.units import Nanos, float_to_price


def at(clock: str) -> Nanos:
    return parse_time(f"2024-05-01T{clock}Z")


class Trading:
    """One root, ES, entered at 14:00 and worked on by hand; the day goes on after it."""

    def __init__(self, *, is_ambiguous: bool = False, **settings: Any) -> None:
        self.is_ambiguous = is_ambiguous
        self.system: InProcessSystem = in_process_system(
            {"ES": "MESM4"}, answer=self.answer, warmup_bars=0, pivot_gate=False, **settings
        )
        self.fall("13")

    def answer(self, submitted: OrderSubmitted) -> Outcome:
        if self.is_ambiguous and submitted.intent == "entry":
            self.is_ambiguous = False
            return OrderAmbiguous(root="ES", signal_id=submitted.signal_id, attempt=1, cause="read timeout")
        return accept(submitted)

    def fall(self, hour: str) -> None:
        """An hour that closes on its low: bought, when nothing is held."""
        self.trade(f"{hour}:00:01", 5100.0)
        self.trade(f"{hour}:59:58", 5098.0)
        self.system.advance(at(f"{int(hour) + 1}:00:00"))
        self.trade(f"{int(hour) + 1}:00:01", 5098.0)

    def trade(self, clock: str, price: float) -> None:
        self.system.trade("MESM4", at(clock), float_to_price(price))

    def command(self, name: Any, argument: str = "", **fields: Any) -> None:
        self.system.publish(CommandReceived(command=name, argument=argument, **fields), source="operator")

    def resolve(self, quantity: int) -> None:
        self.command("resolve", "ES", quantity=quantity, reason="seen at the broker")

    def held(self) -> int:
        """What everyone believes, which must be the same."""
        execution: Any = self.system._machines["execution"]
        engine: Any = self.system._machines["strategy"]._engine  # type: ignore[attr-defined]
        engine.memories()  # tells the strategy what it has not been told yet
        tally, status = Tally(), Status()
        for envelope in self.system.envelopes():
            tally.fold(envelope)
            status.fold(envelope)
        holding = engine._strategy._roots["ES"].holding
        feed = engine._feeds.minutes["MESM4"]
        seen = {
            "execution": tuple((p.quantity, p.is_unknown) for p in execution.positions),
            "tally": tuple((p.quantity, p.is_unknown) for p in tally.positions.values()),
            "broker": tuple((p.quantity, p.is_unknown) for p in engine._broker.positions.values()),
            "strategy": () if holding is None else ((holding.quantity, holding.is_unknown),),
        }
        assert len(set(seen.values())) == 1, seen
        (believed,) = set(seen.values())
        quantity = believed[0][0] if believed else 0
        assert engine._broker.getposition(feed).size == quantity
        assert tally.realised_pnl == execution.realised_pnl
        assert {o.signal_id for o in status.open_of()[1]} == {o.signal_id for o in execution.orders}
        return quantity

    def count(self, type_: str) -> Counter[str]:
        return Counter(getattr(event, "intent", "") for event in self.system.events(type_))

    def assert_replays(self) -> None:
        result = replay(self.system.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True)
        assert result.divergence is None, result.divergence


def entered(**settings: Any) -> Trading:
    trading = Trading(**settings)
    assert trading.held() == 1
    return trading


def goes_on(trading: Trading) -> None:
    """The root is traded again, and the record decides itself again."""
    entries = trading.count("OrderRequested")["entry"]
    trading.fall("16")
    assert trading.count("OrderRequested")["entry"] == entries + 1
    assert trading.held() == 1
    trading.system.advance(at("19:59:00"))
    trading.trade("19:59:30", 5098.0)
    trading.system.advance(at("20:30:00"))
    trading.assert_replays()


def test_a_flatten_closes_and_the_root_is_traded_again() -> None:
    trading = entered()
    trading.command("flatten", "ES")
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    (closed,) = [fill for fill in trading.system.events("FillAssumed") if fill.intent == "exit"]
    assert (closed.quantity, closed.side) == (1, "sell")
    goes_on(trading)


def test_flattening_twice_in_one_moment_closes_once() -> None:
    trading = entered()
    for argument in ("ES", "", "ES"):
        trading.command("flatten", argument)
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    ids = [request.signal_id for request in trading.system.events("OrderRequested")]
    assert len(ids) == len(set(ids)) == 2
    assert trading.count("FillAssumed") == {"entry": 1, "exit": 1}
    goes_on(trading)


def test_a_flatten_of_nothing_that_is_known_is_sent_and_changes_nothing() -> None:
    trading = entered()
    trading.resolve(0)
    trading.command("flatten", "ES")
    assert trading.system.events("OrderRequested")[-1].is_flatten, "whichever side the broker holds"
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    goes_on(trading)


def test_a_position_that_was_resolved_flat_is_gone_with_its_result() -> None:
    trading = entered()
    trading.resolve(0)
    assert trading.held() == 0
    goes_on(trading)


@pytest.mark.parametrize("quantity", [3, -2])
def test_what_was_resolved_is_held_and_left_by_the_strategy(quantity: int) -> None:
    trading = entered()
    trading.resolve(quantity)
    assert trading.held() == quantity
    # Far enough for the target of the one and the stop of the other.
    trading.trade("14:20:00", 5160.0)
    trading.system.advance(at("14:21:00"))
    exits = [request for request in trading.system.events("OrderRequested") if request.intent == "exit"]
    assert [(e.reason, e.side, e.quantity) for e in exits] == [
        ("target", "sell", 3) if quantity > 0 else ("stop", "buy", 2)
    ]
    trading.trade("14:21:01", 5160.0)
    assert trading.held() == 0
    goes_on(trading)


def test_a_short_that_was_resolved_is_closed_by_the_deadline() -> None:
    trading = entered()
    trading.resolve(-1)
    trading.trade("19:50:00", 5098.0)
    trading.system.advance(at("20:00:01"))
    trading.trade("20:00:02", 5098.0)
    assert trading.held() == 0
    assert trading.system.events("OrderRequested")[-1].side == "buy"
    trading.assert_replays()


def test_a_position_may_be_resolved_where_nothing_was_held() -> None:
    trading = entered()
    trading.resolve(0)
    trading.resolve(2)
    trading.resolve(1)
    assert trading.held() == 1
    trading.command("flatten")
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    goes_on(trading)


@pytest.mark.parametrize("quantity", [0, 1, 2, -1])
def test_an_unknown_position_ends_with_what_the_operator_says(quantity: int) -> None:
    trading = Trading(is_ambiguous=True)
    assert trading.held() == 1
    trading.resolve(quantity)
    assert trading.held() == quantity
    execution: Any = trading.system._machines["execution"]
    assert not any(position.is_unknown for position in execution.positions)
    assert execution.realised_pnl == 0, "what never was has no result"
    if quantity:
        trading.command("flatten", "ES")
        trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    goes_on(trading)


def test_an_unknown_position_that_is_flattened_ends() -> None:
    trading = Trading(is_ambiguous=True)
    trading.command("flatten")
    assert not trading.system.events("OrderRequested")[-1].is_flatten, "the other side would not be ours"
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 0
    goes_on(trading)


def test_an_exit_on_its_way_closes_what_was_resolved_meanwhile() -> None:
    trading = entered()
    trading.command("flatten", "ES")  # accepted; filled by the next trade
    (exit_,) = [o for o in trading.system._machines["execution"].orders if o.intent == "exit"]  # type: ignore[attr-defined]
    trading.resolve(3)
    assert exit_.signal_id not in {o.signal_id for o in trading.system._machines["execution"].orders}  # type: ignore[attr-defined]
    trading.trade("14:10:00", 5099.0)
    assert trading.held() == 3, "nothing that was asked for before closes what was said after"
    trading.command("flatten", "ES")
    trading.trade("14:20:00", 5099.0)
    assert trading.held() == 0
    goes_on(trading)


def test_an_exit_that_only_waits_for_its_repeat_keeps_nobody_from_trading_after_a_restart() -> None:
    trading = entered()
    trading.command("flatten", "ES")
    trading.trade("14:00:30", 5099.0)
    (exit_,) = trading.system._machines["execution"].orders  # type: ignore[attr-defined]
    assert exit_.filled_ns is not None
    carried = attrs.evolve(fresh_state(), orders=(exit_,))
    (opened,) = trading.system.events("SessionOpened")
    engine: Any = MACHINE_PARTS.build_engine(opened, carried, ())
    assert engine._strategy._roots["ES"].order_ref is None, "no event will ever end it for the strategy"
