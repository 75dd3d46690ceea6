"""The shell of the engine: when it is built, from what, and what it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.carry import fresh_state
from actors.strategy import Strategy, adjusted_tables
from domain.bars import BarTable
from domain.errors import OurError
from domain.events import (
    ClockTicked,
    ContractRolled,
    Event,
    FillAssumed,
    HistoryLoaded,
    OrderAccepted,
    OrderAmbiguous,
    OrderExpired,
    OrderNotSent,
    OrderRejected,
    OrderSubmitted,
    RiskDecided,
    SliceClosed,
)
from domain.risk import RiskSettings
from domain.units import HOUR, SECOND, Nanos, Price
from tests.builders import PRICE, Record, at, bar_of, opened_session, request_of


def table(root: str, *contracts: str, timeframe: Any = "1h") -> BarTable:
    bars = [
        bar_of(contract, start=Nanos(at(0) - (len(contracts) - i) * HOUR), length=HOUR, volume=i + 1)
        for i, contract in enumerate(contracts)
    ]
    return BarTable.of_bars(root, timeframe, bars)


def roll(root: str, to: str, difference: int | None) -> ContractRolled:
    return ContractRolled(
        root=root,
        from_contract=f"{root}H4",
        to_contract=to,
        rule="vendor",
        evidence="",
        difference=None if difference is None else Price(difference),
    )


# ---------------------------------------------------------------- history over rolls


def test_history_without_a_roll_is_left_as_it_is() -> None:
    tables = (table("ES", "ESM4"), table("NQ", "NQM4"))
    assert adjusted_tables(tables, []) == tables
    assert adjusted_tables(tables, [roll("GC", "GCM4", 5)]) == tables


@pytest.mark.parametrize("difference", [7_000_000_000, -7_000_000_000, 0])
def test_history_is_shifted_by_the_difference_of_the_contracts_prices_only(difference: int) -> None:
    before = table("ES", "ESH4", "ESH4")
    (after,) = adjusted_tables((before,), [roll("ES", "ESM4", difference)])
    for old, new in zip(before.bars(), after.bars(), strict=True):
        assert new.contract == "ESM4"
        for name in ("open", "high", "low", "close"):
            assert getattr(new, name) == getattr(old, name) + difference
        for name in ("ts_start", "ts_end", "volume", "trades"):
            assert getattr(new, name) == getattr(old, name)


def test_every_timeframe_of_the_root_is_shifted_and_no_other_root() -> None:
    tables = (table("ES", "ESH4"), table("ES", "ESH4", timeframe="1d"), table("NQ", "NQM4"))
    hours, days, other = adjusted_tables(tables, [roll("ES", "ESM4", 5)])
    assert {*hours.contracts, *days.contracts} == {"ESM4"}
    assert other == tables[2]


def test_where_the_difference_is_unknown_the_history_ends() -> None:
    (after,) = adjusted_tables((table("ES", "ESH4", "ESH4"),), [roll("ES", "ESM4", None)])
    assert (len(after), after.data.shape) == (0, (0, 8))


def test_the_journals_own_history_is_not_changed_by_the_shift() -> None:
    before = table("ES", "ESH4")
    copy = np.array(before.data)
    adjusted_tables((before,), [roll("ES", "ESM4", 5)])
    assert np.array_equal(before.data, copy)


# ---------------------------------------------------------------- the engine


class Stage:
    """A strategy machine and what it is fed."""

    def __init__(self, shop: Any, **opened: Any) -> None:
        self.machine = Strategy(shop)
        self.record = Record()
        self.opened = opened_session(**opened)

    def put(self, event: Event, ts: Nanos | None = None) -> tuple[Event, ...]:
        return self.machine.handle(self.record.put(event, ts=ts))

    def open(self, *rest: Event) -> None:
        for event in (self.opened, HistoryLoaded(tables=(table("ES", "ESH4"),)), fresh_state(), *rest):
            self.put(event)


CLOSED = SliceClosed(ts=at(1), minutes=(bar_of(),))


def test_the_engine_is_built_with_the_first_event_after_the_opening_so_that_rolls_are_known(shop: Any) -> None:
    stage = Stage(shop)
    stage.open(roll("ES", "ESM4", 1_000_000_000))
    assert shop.built == []
    assert stage.machine.next_deadline() is None
    stage.put(ClockTicked(ts=at(0), watermark=at(0)))
    (engine,) = shop.built
    assert engine.opened == stage.opened
    assert engine.carried == fresh_state()
    assert [bar.close for bar in engine.tables[0].bars()] == [PRICE + 1_000_000_000]


def test_it_is_built_once(shop: Any) -> None:
    stage = Stage(shop)
    stage.open()
    for minute in range(5):
        stage.put(ClockTicked(ts=at(minute), watermark=at(minute)))
        stage.put(CLOSED)
    assert len(shop.built) == 1


def test_what_the_engine_decides_is_what_the_machine_answers(shop: Any) -> None:
    stage = Stage(shop)
    stage.open()
    (request,) = stage.put(CLOSED, ts=at(1))
    assert (request.root, request.intent) == ("ES", "entry")  # type: ignore[union-attr]
    assert stage.put(CLOSED, ts=at(1)) == ()


@pytest.mark.parametrize(("delay_s", "late"), [(0, []), (60, []), (61, [at(1)])])
def test_a_slice_that_comes_long_after_its_end_is_told_to_be_late(shop: Any, delay_s: int, late: list[Nanos]) -> None:
    stage = Stage(shop, risk=RiskSettings(entry_freshness_s=60))
    stage.open()
    stage.put(CLOSED, ts=Nanos(at(1) + delay_s * SECOND))
    assert shop.built[0].late == late


ORDER = {"root": "ES", "signal_id": "s"}
FILL = FillAssumed(
    root="ES", signal_id="s", contract="ESM4", intent="entry", side="buy", quantity=1, price=PRICE, ts=at(1),
    rule="next_trade", pnl=None,
)  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        RiskDecided(**ORDER, is_allowed=True, rule="", detail=""),
        OrderSubmitted(**ORDER, attempt=1, ticker="", body="", body_sha256=""),
        OrderAccepted(**ORDER, attempt=1, http_status=200, external_id=""),
        OrderRejected(**ORDER, attempt=1, http_status=400, code="", message=""),
        OrderAmbiguous(**ORDER, attempt=1, cause=""),
        OrderNotSent(**ORDER, attempt=1, cause=""),
        OrderExpired(**ORDER, reason=""),
        FILL,
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_fate_of_an_order_is_told_to_the_engine(shop: Any, event: Event) -> None:
    assert type(event).__name__ in Strategy.kinds
    stage = Stage(shop)
    stage.open()
    assert stage.put(event) == ()
    assert shop.built[0].heard == [event]
    assert stage.machine.next_deadline() == shop.built[0].closing


def test_memories_and_percentiles_are_the_engines_also_before_anything_happened(shop: Any) -> None:
    stage = Stage(shop)
    stage.open()
    assert stage.machine.memories() == stage.machine.percentiles() == ()
    stage.put(CLOSED)
    assert [memory.root for memory in stage.machine.memories()] == ["ES"]
    assert stage.machine.percentiles() == shop.built[0].percentiles() != ()


@pytest.mark.parametrize("event", [CLOSED, ClockTicked(ts=at(0), watermark=at(0)), FILL])
def test_a_market_before_its_session_is_our_error(shop: Any, event: Event) -> None:
    with pytest.raises(OurError, match="before SessionOpened"):
        Strategy(shop).handle(Record().put(event))


def test_requests_of_others_are_not_for_the_strategy() -> None:
    assert type(request_of()).__name__ not in Strategy.kinds
