"""What one file leaves to the next, told by its own fold."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import attrs
import pytest

from actors.carry import Inheritance, carry_forward, fresh_state
from actors.machines import MachineParts, MachineSet
from adapters.memory import MemoryJournal
from domain.bars import BarTable
from domain.envelope import Envelope
from domain.errors import JournalUnreadable
from domain.events import (
    HTTP_SOURCE,
    ClockTicked,
    CommandReceived,
    ContractRolled,
    Event,
    FillAssumed,
    HistoryLoaded,
    OrderAccepted,
    OrderAmbiguous,
    OrderNotSent,
    OrderSubmitted,
    Outcome,
    SliceClosed,
    StateCarried,
)
from domain.history import MAX_DAYS, MAX_HOURS
from domain.market import trades_from_bytes
from domain.orders import OrderState
from domain.ports import Head
from domain.risk import Switches
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price
from tests.actors.session_file import SessionFile
from tests.builders import CLOSE, OPEN, PRICE, TICK, Record, at, bar_of, opened_session, request_of, session_of


def leave(file: SessionFile, *, file_sha256: str | None = None) -> Inheritance:
    """What the next file inherits; `file_sha256` when this one is sealed."""
    last = file.record.envelopes[-1]
    head = Head(seq=last.seq, hash=last.hash, status="open")
    return carry_forward(file.journal(), head, MachineSet(file.parts), file_sha256=file_sha256)


def entered(parts: MachineParts) -> SessionFile:
    """A file in which ES has been asked for, and no outcome has come."""
    file = SessionFile(parts)
    file.trade(0)
    file.tick(1)
    return file


def test_a_file_without_a_session_leaves_nothing(parts: MachineParts) -> None:
    with pytest.raises(JournalUnreadable, match="no session"):
        carry_forward(MemoryJournal(), Head(seq=0, hash=b"", status="open"), MachineSet(parts), file_sha256=None)


def test_the_next_file_knows_which_file_it_follows(parts: MachineParts) -> None:
    file = entered(parts)
    left = leave(file, file_sha256="ab" * 32)
    assert left.opened == file.record.envelopes[0].payload
    assert left.carried.previous_session == "2024-05-01"
    assert left.carried.previous_segment == 1
    assert left.carried.previous_head == file.record.envelopes[-1].hash.hex()
    assert left.carried.previous_file_sha256 == "ab" * 32
    assert left.carried.contracts == left.opened.contracts


# ---------------------------------------------------------------- positions, orders, money


def test_positions_memories_and_the_kill_switch_go_on(parts: MachineParts) -> None:
    file = entered(parts)
    file.answer()
    file.trade(1, 4)
    file.put(CommandReceived(command="kill", argument="entries"), source="operator")
    carried = leave(file).carried
    (position,) = carried.positions
    assert (position.root, position.quantity, position.price) == ("ES", 1, PRICE + 5 * TICK)
    assert carried.orders == ()
    assert carried.switches is not None
    assert carried.switches.kill == "entries"
    assert [memory.root for memory in carried.memories] == ["ES"]
    assert [(state.root, state.ranked) for state in carried.percentiles] == [("ES", 0.25)]


@pytest.mark.parametrize(("file_sha256", "pnl"), [(None, Decimal("-27.5")), ("00", Decimal(0))])
def test_the_result_goes_on_within_a_session_and_starts_anew_in_the_next(
    parts: MachineParts, file_sha256: str | None, pnl: Decimal
) -> None:
    file = entered(parts)
    file.answer()
    for minute in range(1, 5):
        file.trade(minute)
        file.tick(minute + 1)
    file.answer()
    file.trade(6)
    assert leave(file, file_sha256=file_sha256).carried.realised_pnl == pnl


@pytest.mark.parametrize(
    ("outcome", "state", "is_unknown"),
    [
        (OrderAccepted, OrderState.ACCEPTED, None),
        (OrderNotSent, OrderState.QUEUED, None),
        (OrderAmbiguous, OrderState.AMBIGUOUS, True),
        # Without an outcome in its own file it will have none in the next.
        (None, OrderState.AMBIGUOUS, True),
    ],
)
def test_an_unfinished_entry_goes_on_as_what_is_known_of_it(
    parts: MachineParts, outcome: type[Outcome] | None, state: OrderState, is_unknown: bool | None
) -> None:
    file = entered(parts)
    if outcome is not None:
        file.answer(outcome)
    carried = leave(file).carried
    (order,) = carried.orders
    assert (order.state, order.attempt) == (state, 1)
    assert [position.is_unknown for position in carried.positions] == ([] if is_unknown is None else [is_unknown])
    assert is_unknown is None or carried.positions[0].price == order.reference_price


def test_an_exit_that_was_in_flight_is_sent_again_in_the_next_file(parts: MachineParts) -> None:
    file = entered(parts)
    file.answer()
    for minute in range(1, 5):
        file.trade(minute)
        file.tick(minute + 1)
    left = leave(file)
    (order,) = left.carried.orders
    assert (order.intent, order.state, order.attempt) == ("exit", OrderState.QUEUED, 1)
    (position,) = left.carried.positions
    assert not position.is_unknown
    machines, record = MachineSet(parts), Record()
    for event in (left.opened, left.history, left.carried):
        machines.handle(record.put(event))
    answers = machines.handle(record.put(ClockTicked(ts=at(6), watermark=at(6)), ts=at(6)))
    ((attempt,),) = [outputs for name, outputs in answers if name == "execution"]
    assert (attempt.signal_id, attempt.attempt) == (order.signal_id, 2)  # type: ignore[union-attr]


def by_another_program(file: SessionFile, minutes: float, event: Event) -> Envelope:
    """On record as that program's Execution, or as the outcome of its attempt; no machine of ours has said it."""
    now = at(minutes)
    if isinstance(event, OrderAccepted | OrderNotSent):
        return file.record.put(event, ts=now, source=HTTP_SOURCE, cause=file.record.envelopes[-1])
    tick = file.record.put(ClockTicked(ts=now, watermark=at(1)), ts=now)
    return file.record.put(event, ts=now, source="execution", cause=tick)


def test_what_another_program_has_sent_and_held_is_gone_on_with_as_it_is_on_record(parts: MachineParts) -> None:
    """It tried again at once, where ours waits, and fills by another rule."""
    file = entered(parts)
    file.answer(OrderNotSent, cause="refused")
    (first,) = [e.payload for e in file.record.envelopes if isinstance(e.payload, OrderSubmitted)]
    by_another_program(file, 1.001, attrs.evolve(first, attempt=2))
    accepted = OrderAccepted(root="ES", signal_id=first.signal_id, attempt=2, http_status=200, external_id="x")
    by_another_program(file, 1.002, accepted)
    fill = FillAssumed(
        root="ES",
        signal_id=first.signal_id,
        contract="ESM4",
        intent="entry",
        side="buy",
        quantity=1,
        price=Price(PRICE + 40 * TICK),
        ts=at(1.01),
        rule="another",
        pnl=None,
    )
    by_another_program(file, 1.01, fill)
    for digest in (None, "00"):
        carried = leave(file, file_sha256=digest).carried
        (held,) = carried.positions
        assert (held.quantity, held.price, held.is_unknown) == (1, fill.price, False)
        assert carried.orders == ()
        assert [kind for _, kind in carried.outbox.sent] == ["entry", "entry"]
    assert [memory.root for memory in leave(file).carried.memories] == ["ES"]


def test_an_exit_that_another_program_has_repeated_earlier_is_over(parts: MachineParts) -> None:
    file = entered(parts)
    file.answer()
    for minute in range(1, 5):
        file.trade(minute)
        file.tick(minute + 1)
    file.answer()
    file.trade(5.05)
    (*_, leaving) = [e.payload for e in file.record.envelopes if isinstance(e.payload, OrderSubmitted)]
    by_another_program(file, 5.1, attrs.evolve(leaving, attempt=2))
    again = OrderAccepted(root="ES", signal_id=leaving.signal_id, attempt=2, http_status=200, external_id="x")
    by_another_program(file, 5.11, again)
    carried = leave(file, file_sha256="00").carried
    assert (carried.positions, carried.orders) == ((), ())


# ---------------------------------------------------------------- bars


def test_open_bars_and_the_watermark_go_on(parts: MachineParts) -> None:
    file = SessionFile(parts)
    file.trade(0)
    file.tick(1)
    file.trade(61)
    file.tick(61)
    file.trade(62)
    carried = leave(file).carried
    assert [bar.ts_start for bar in carried.open_minutes] == [at(61), at(62)]
    assert carried.open_hours == ()  # the first hour closed, the second has no closed minute yet
    assert [bar.volume for bar in carried.open_days] == [1]
    assert carried.watermark_ns == at(61)


def test_a_feed_resumes_from_the_last_two_seconds(parts: MachineParts) -> None:
    file = SessionFile(parts)
    for seconds in (0, 1, 2, 3.5):
        file.trade(seconds / 60)
    carried = leave(file).carried
    assert carried.resume_ts_event == at(0, 3.5)
    repeated = trades_from_bytes(base64.b64decode(carried.resume_records))
    assert repeated["ts_event"].tolist() == [at(0, 2), at(0, 3.5)]


def test_a_file_without_trades_has_nothing_to_resume(parts: MachineParts) -> None:
    carried = leave(SessionFile(parts)).carried
    assert (carried.resume_ts_event, carried.resume_records) == (None, "")


# ---------------------------------------------------------------- history


def table(root: str, contract: str, count: int, timeframe: Any = "1h") -> BarTable:
    bars = [bar_of(contract, start=Nanos(at(0) - (count - i) * HOUR), length=HOUR, volume=i) for i in range(count)]
    return BarTable.of_bars(root, timeframe, bars)


def test_the_next_history_is_the_old_one_and_this_files_bars(parts: MachineParts) -> None:
    file = SessionFile(parts, history=HistoryLoaded(tables=(table("ES", "ESM4", 2), table("NQ", "NQM4", 1))))
    file.trade(0)
    file.tick(60)
    file.trade(70)
    file.tick(120)
    history = leave(file).history
    assert [(t.root, t.timeframe, len(t)) for t in history.tables] == [("ES", "1h", 4), ("NQ", "1h", 1)]
    starts = [bar.ts_start for bar in history.tables[0].bars()]
    assert starts == sorted(starts)
    assert starts[-2:] == [at(0), at(60)]
    assert history.source == "journal"
    assert history.seams == ()


def test_only_the_contract_that_is_traded_makes_history(parts: MachineParts) -> None:
    file = SessionFile(parts)
    file.trade(0, contract="ESU4")
    file.trade(0, contract="ESM4")
    file.tick(60)
    (hours,) = leave(file).history.tables
    assert hours.contracts == ("ESM4",)


def test_trades_after_a_roots_close_make_no_day_of_history(parts: MachineParts) -> None:
    file = SessionFile(parts, session=session_of(ES=at(120)))
    file.trade(30)
    file.trade(30, contract="NQM4")
    file.tick(121)
    file.trade(150, 9)
    file.tick((CLOSE - OPEN) // MINUTE)
    days = {t.root: [bar.ts_end for bar in t.bars()] for t in leave(file).history.tables if t.timeframe == "1d"}
    assert days == {"ES": [at(120)], "NQ": [CLOSE]}
    closed = [e.payload.days for e in file.record.envelopes if isinstance(e.payload, SliceClosed)]
    assert sum(bar.root == "ES" for bars in closed for bar in bars) == 2


def test_older_bars_are_shifted_over_this_files_roll_and_this_files_are_not(parts: MachineParts) -> None:
    file = SessionFile(parts, history=HistoryLoaded(tables=(table("ES", "ESH4", 1),)))
    rolled = [e for e in file.record.envelopes if e.type == "ContractRolled"]
    assert [e.payload.difference for e in rolled] == [None]  # type: ignore[union-attr]
    file.trade(0)
    file.tick(60)
    (hours,) = leave(file).history.tables
    assert hours.contracts == ("ESM4",)  # without a difference the old bars end at the roll


def test_a_known_difference_keeps_the_older_bars(parts: MachineParts) -> None:
    journal, record = MemoryJournal(), Record()
    record.put(opened_session())
    record.put(HistoryLoaded(tables=(table("ES", "ESH4", 1),)))
    state = record.put(fresh_state())
    rolled = ContractRolled(
        root="ES", from_contract="ESH4", to_contract="ESM4", rule="vendor", evidence="", difference=Price(5 * TICK)
    )
    record.put(rolled, source="roll", cause=state)
    record.put(SliceClosed(ts=at(60), hours=(bar_of(length=HOUR),)), source="bars")
    journal.append(record.envelopes)
    head = Head(seq=5, hash=record.envelopes[-1].hash, status="open")
    (hours,) = carry_forward(journal, head, MachineSet(parts), file_sha256=None).history.tables
    assert hours.contracts == ("ESM4", "ESM4")
    assert [bar.close for bar in hours.bars()] == [PRICE + 5 * TICK, PRICE]


def test_history_does_not_grow_for_ever(parts: MachineParts) -> None:
    old = HistoryLoaded(tables=(table("ES", "ESM4", MAX_HOURS), table("ES", "ESM4", MAX_DAYS + 3, "1d")))
    file = SessionFile(parts, history=old)
    file.trade(0)
    file.tick(60)
    history = {t.timeframe: t for t in leave(file).history.tables}
    assert (len(history["1h"]), len(history["1d"])) == (MAX_HOURS, MAX_DAYS)
    rows = list(history["1h"].bars())
    assert (rows[0].volume, rows[-1].ts_start) == (1, at(0))


def test_what_is_carried_is_a_fold_so_the_same_file_leaves_the_same(parts: MachineParts) -> None:
    file = entered(parts)
    assert leave(file).carried == leave(file).carried
    assert leave(file).history == leave(file).history


def test_a_file_that_goes_on_from_nothing_leaves_a_state_like_a_fresh_one(parts: MachineParts) -> None:
    carried = leave(SessionFile(parts)).carried
    names = {field.name for field in attrs.fields(StateCarried) if not field.name.startswith("previous_")}
    differing = {name for name in names if getattr(carried, name) != getattr(fresh_state(), name)}
    # The switches as they stand: in the first session ever the mode decides.
    assert differing == {"contracts", "switches"}
    assert carried.switches == Switches()


def test_the_request_of_an_order_that_is_over_is_not_carried(parts: MachineParts) -> None:
    file = entered(parts)
    file.put(request_of("late", root="NQ", contract="NQM4", decided_ns=Nanos(at(1) - 61 * SECOND)), source="strategy")
    assert [order.root for order in leave(file).carried.orders] == ["ES"]
