"""CerebroEngine: a deterministic function of slices, clocks and order events, equal to a plain backtest."""

from __future__ import annotations

import datetime as dt
import gc
import tracemalloc
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from adapters.backtrader.engine import build_engine
from adapters.backtrader.ibs_strategy import IbsStrategy
from domain.bars import Bar, BarTable
from domain.errors import OperatorError, OurError
from domain.events import (
    OrderAmbiguous,
    OrderRejected,
    OrderRequested,
    RiskDecided,
    RootMemory,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
)
from domain.ibs import StrategySettings
from domain.orders import Order, OrderState, signal_id
from domain.positions import Position, net_pnl
from domain.sessions import to_nanos
from domain.units import HOUR, MINUTE, Nanos, Price

SETTINGS = StrategySettings(veto=False, warmup_bars=1, pivot_gate=False)
ENTRY = (100, 101, 99, 99)
MID = (99, 99.5, 98.5, 99)


class Recorder(IbsStrategy):
    """The plain backtest's strategy, with the orders that filled."""

    def __init__(self) -> None:
        super().__init__()
        self.filled: list[tuple[Any, ...]] = []

    def notify_order(self, order: Any) -> None:
        super().notify_order(order)
        if order.status == order.Completed:
            note = order.info.request
            self.filled.append((note.decided_ns, note.intent != "exit", note.root, note.reason, order.executed.price))


def tuesday(kit: SimpleNamespace) -> dt.date:
    date: dt.date = kit.MONDAY + dt.timedelta(days=1)
    return date


# -------------------------------------------------- equal to a plain backtest


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("timeframe", ["1h", "1m"])
def test_the_engine_decides_and_trades_as_a_plain_backtest(
    kit: SimpleNamespace, timeframe: Any, is_sparse: bool
) -> None:
    roots, settings = ("ES", "GC"), attrs.evolve(kit.SETTINGS, decision_timeframe=timeframe)
    slices = kit.slices_of(kit.random_minutes(roots, 2, seed=3, is_sparse=is_sparse))
    cut = kit.chicago(kit.MONDAY, 16)
    (plain,) = kit.plain_cerebro(slices, roots, settings=settings, strategy=Recorder).run()
    history = kit.tables_of([closed for closed in slices if closed.ts <= cut], ("1m", "1h", "1d"))
    journal = kit.Journal(build_engine(kit.session_opened(roots, date=tuesday(kit), settings=settings), None, history))
    for closed in slices:
        if closed.ts > cut:
            journal.close(closed)
    wanted = [signal for signal in plain.signals if signal.ts > cut]
    assert len(wanted) == (46 if timeframe == "1h" else sum(len(c.minutes) for c in slices if c.ts > cut))
    assert {signal.verdict for signal in wanted} == {"enter", "exit", "hold", "refuse"}
    assert journal.signals == wanted
    filled = sorted(row[:4] for row in plain.filled if row[0] > cut)
    assert filled == sorted((r.decided_ns, r.intent != "exit", r.root, r.reason) for r in journal.requests)
    assert sorted(row[4] for row in plain.filled if row[0] > cut) == sorted(f.price / 1e9 for f in journal.fills)


def test_what_no_position_decides_is_the_same_without_any_fill(kit: SimpleNamespace) -> None:
    roots = ("ES", "NQ")
    slices = kit.slices_of(kit.random_minutes(roots, 1))
    (plain,) = kit.plain_cerebro(slices, roots).run()
    engine = build_engine(kit.session_opened(roots), None, [])
    signals = []
    for closed in slices:
        for event in engine.step(closed):
            if isinstance(event, SignalEvaluated):
                signals.append(event)
            else:
                engine.notify(refusal(event))
    alike = [(s.root, s.contract, s.ts, s.bar_start, s.close, s.ibs, s.gates[:5]) for s in signals]
    assert alike == [(s.root, s.contract, s.ts, s.bar_start, s.close, s.ibs, s.gates[:5]) for s in plain.signals]
    assert {s.position for s in signals} == {0}
    assert {s.position for s in plain.signals} == {0, 1}


# ------------------------------------------------------------- deterministic


def test_a_rebuilt_engine_given_the_same_answers_the_same(kit: SimpleNamespace) -> None:
    opened = kit.session_opened(("ES", "NQ"), settings=attrs.evolve(kit.SETTINGS, decision_timeframe="1m"))
    journal = kit.Journal(build_engine(opened, None, []))
    for closed in kit.slices_of(kit.random_minutes(("ES", "NQ"), 1)[:400]):
        journal.close(closed)
    again, outputs = build_engine(opened, None, []), []
    for event in journal.given:
        if isinstance(event, SliceClosed):
            outputs += again.step(event)
        else:
            again.notify(event)
    assert len(journal.requests) > 50
    assert outputs == journal.outputs
    assert again.memories() == journal.engine.memories()
    assert again.next_deadline() == journal.engine.next_deadline()


def test_two_engines_in_turn_answer_as_each_alone(kit: SimpleNamespace) -> None:
    opened = kit.session_opened(("ES", "NQ"), settings=attrs.evolve(kit.SETTINGS, decision_timeframe="1m"))
    markets = [kit.slices_of(kit.random_minutes(("ES", "NQ"), 1, seed=seed)[:400]) for seed in (1, 2)]
    alone = [kit.Journal(build_engine(opened, None, [])) for _ in markets]
    for journal, slices in zip(alone, markets, strict=True):
        for closed in slices:
            journal.close(closed)
    pair = [kit.Journal(build_engine(opened, None, [])) for _ in markets]
    for both in zip(*markets, strict=True):
        for journal, closed in zip(pair, both, strict=True):
            journal.close(closed)
    assert [journal.outputs for journal in pair] == [journal.outputs for journal in alone]
    assert alone[0].outputs != alone[1].outputs


@pytest.mark.parametrize("cut", [300, 481, 600, 777, 1001])
def test_an_engine_that_goes_on_from_carried_state_decides_as_one_that_never_stopped(
    kit: SimpleNamespace, cut: int
) -> None:
    roots = ("ES", "NQ")
    settings = attrs.evolve(kit.SETTINGS, cooldown_bars=1, cooldown_after_stop_bars=2, warmup_bars=3)
    opened = kit.session_opened(roots, settings=settings)
    slices = kit.slices_of(kit.random_minutes(roots, 1, seed=5))
    whole = kit.Journal(build_engine(opened, None, []))
    for closed in slices[:cut]:
        whole.close(closed)
    carried = carry(kit, whole)
    resumed = kit.Journal(build_engine(opened, carried, kit.tables_of(slices[:cut])))
    assert resumed.engine.memories() == whole.engine.memories()
    resumed._working = list(whole._working)
    before = len(whole.outputs)
    for closed in slices[cut:]:
        whole.close(closed)
        resumed.close(closed)
    assert resumed.outputs == whole.outputs[before:]


def carry(kit: SimpleNamespace, journal: Any) -> StateCarried:
    """What a session's end would carry: positions and orders as the events left them."""
    orders = tuple(
        Order(
            signal_id=request.signal_id,
            root=request.root,
            contract=request.contract,
            intent=request.intent,
            side=request.side,
            quantity=request.quantity,
            order_type=request.order_type,
            limit_price=request.limit_price,
            reference_price=request.reference_price,
            decided_ns=request.decided_ns,
            expires_ns=None,
            ticker="",
            body="",
            state=OrderState.ACCEPTED,
        )
        for request in journal._working
    )
    return StateCarried(
        previous_session=None,
        previous_segment=None,
        previous_head=None,
        previous_file_sha256=None,
        positions=tuple(journal.engine._broker.positions.values()),
        orders=orders,
        memories=journal.engine.memories(),
    )


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(46, 46), (60, 60), (90, 90)],
    ids=["still the first 01:46", "the second 01:00", "the second 01:30"],
)
def test_an_engine_anchored_inside_the_repeated_autumn_hour_knows_which_of_the_two_it_is(
    kit: SimpleNamespace, minutes: int, expected: int
) -> None:
    """On 3 November 2024 01:00-02:00 in Chicago begins at 06:00Z and again at 07:00Z; the anchor is at 01:45."""
    one = to_nanos(dt.datetime(2024, 11, 3, 6, tzinfo=dt.UTC))
    before = [kit.bar("ES", Nanos(one + i * MINUTE), ENTRY) for i in (44, 45)]
    settings = attrs.evolve(SETTINGS, decision_timeframe="1m", entry_windows=("00:00-24:00",))
    opened = kit.session_opened(("ES",), date=dt.date(2024, 11, 3), settings=settings)
    engine = build_engine(opened, None, [BarTable.of_bars("ES", "1m", before)])
    end = Nanos(one + minutes * MINUTE)
    (signal, *_) = engine.step(SliceClosed(ts=end, minutes=(kit.bar("ES", end, ENTRY),)))
    assert (signal.ts, signal.bar_start) == (one + expected * MINUTE, one + (expected - 1) * MINUTE)


# -------------------------------------------------------------- one situation


class Situation:
    """ES alone: an engine that has just entered or not, moved by hand."""

    def __init__(self, kit: SimpleNamespace, settings: StrategySettings = SETTINGS, **build: Any) -> None:
        self.kit = kit
        self.opened = build.pop("opened", None) or kit.session_opened(("ES",), settings=settings)
        self.engine = build_engine(self.opened, build.pop("carried", None), build.pop("tables", []))
        self.journal = kit.Journal(self.engine)
        self.now = kit.chicago(kit.MONDAY, 8)

    def minute(self, close: float, *, contract: str = "ESM4") -> tuple[Any, ...]:
        self.now = Nanos(self.now + MINUTE)
        bar = self.kit.bar("ES", self.now, (close, close, close, close), contract=contract)
        return self.engine.step(SliceClosed(ts=self.now, minutes=(bar,)))

    def hour(self, ohlc: tuple[float, ...]) -> tuple[Any, ...]:
        self.now = Nanos(self.now - self.now % HOUR + HOUR)
        bar = self.kit.bar("ES", self.now, ohlc, length=HOUR)
        return self.engine.step(SliceClosed(ts=self.now, hours=(bar,)))

    def enter(self) -> OrderRequested:
        signal, request = self.hour(ENTRY)
        assert signal.verdict == "enter"
        self.journal.accept(request)
        return request

    def hold(self, price: float = 99) -> OrderRequested:
        request = self.enter()
        self.journal.fill(request, Price(int(price * 1e9)), Nanos(self.now + 1))
        return request


def refusal(request: OrderRequested) -> RiskDecided:
    return RiskDecided(
        root=request.root, signal_id=request.signal_id, is_allowed=False, rule="kill_switch", detail="all"
    )


def rejection(request: OrderRequested) -> OrderRejected:
    return OrderRejected(
        root=request.root, signal_id=request.signal_id, attempt=1, http_status=400, code="", message=""
    )


def ambiguity(request: OrderRequested) -> OrderAmbiguous:
    return OrderAmbiguous(root=request.root, signal_id=request.signal_id, attempt=1, cause="reset")


def test_an_entry_request_says_what_was_decided(kit: SimpleNamespace) -> None:
    at = Situation(kit, attrs.evolve(SETTINGS, entry_order="limit"))
    signal, request = at.hour((100, 101, 99, 99.1))
    assert (signal.ts, signal.bar_start, signal.verdict) == (at.now, at.now - HOUR, "enter")
    assert request == OrderRequested(
        root="ES",
        signal_id=signal_id(
            session="2024-04-29",
            strategy="ibs",
            root="ES",
            contract="ESM4",
            intent="entry",
            side="buy",
            decided_ns=at.now,
            ordinal=0,
        ),
        contract="ESM4",
        intent="entry",
        side="buy",
        quantity=1,
        order_type="limit",
        limit_price=Price(99_000_000_000),
        reference_price=Price(99_100_000_000),
        decided_ns=at.now,
        bar_ns=HOUR,
        reason="ibs",
        ibs=signal.ibs,
    )


@pytest.mark.parametrize(
    ("settings", "legs"),
    [
        ({}, (None, None)),
        # 99.1 less 1 % is 98.109, on the grid of 0.25 the tick below; plus 2 % is 101.082, the tick above.
        ({"bracket": True, "target_pct": Decimal(2)}, (Price(98_000_000_000), Price(101_250_000_000))),
        ({"protective_stop": Decimal(2)}, (Price(97_000_000_000), None)),
        ({"protective_stop": Decimal(2), "bracket": True}, (Price(98_000_000_000), Price(100_250_000_000))),
    ],
    ids=["none", "bracket", "protective stop", "a bracket has its own stop"],
)
def test_legs_rest_at_the_broker_and_the_exit_cancels_them(
    kit: SimpleNamespace, settings: dict[str, Any], legs: tuple[Price | None, Price | None]
) -> None:
    at = Situation(kit, attrs.evolve(SETTINGS, **settings))
    _, request = at.hour((100, 101, 99, 99.1))
    assert (request.stop_price, request.target_price, request.cancels_working) == (*legs, False)
    at.journal.fill(request, Price(99_100_000_000), at.now)
    (leave,) = at.minute(90)
    assert (leave.stop_price, leave.cancels_working) == (None, legs != (None, None))


def test_an_exit_that_comes_to_nothing_is_asked_for_ever_more_rarely(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.hold(99)
    asked = []
    for minute in range(200):
        events = at.minute(90)
        for request in events:
            if isinstance(request, OrderRequested):
                asked.append(minute)
                at.engine.notify(refusal(request))
    assert asked[:8] == [0, 1, 3, 7, 15, 31, 63, 123], "a minute, twice as long each time, at most an hour"


def test_an_exit_request_names_its_entry_and_its_assumed_pnl(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    entry = at.hold(99)
    (request,) = at.minute(97.5)
    assert (request.intent, request.side, request.reason, request.bar_ns) == ("exit", "sell", "stop", MINUTE)
    assert (request.entry_signal_id, request.bars_held) == (entry.signal_id, 0)
    assert (request.reference_price, request.decided_ns) == (97_500_000_000, at.now)
    assert request.pnl_assumed == net_pnl(
        entry=Price(99_000_000_000),
        exit=Price(97_500_000_000),
        quantity=1,
        multiplier=Decimal(50),
        commission_per_side=Decimal("1.25"),
    )
    assert isinstance(request.pnl_assumed, Decimal)


def test_a_bar_that_closed_before_the_fill_is_no_reason_to_leave(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    request = at.enter()
    late = Nanos(at.now + MINUTE + 1)
    at.journal.fill(request, Price(99_000_000_000), late)
    assert at.minute(90) == ()
    assert at.minute(90)[0].reason == "stop"


def test_one_exit_at_a_time_and_the_reason_stays_until_it_has_filled(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.hold(99)
    (stop,) = at.minute(97)
    at.engine.notify(refusal(stop))
    (again,) = at.minute(99)  # the price is back; the exit is still due
    assert (again.reason, again.signal_id != stop.signal_id) == ("stop", True)
    assert at.minute(90) == ()  # unfinished
    (signal,) = at.hour(MID)
    assert (signal.verdict, signal.position) == ("hold", 1)
    at.journal.fill(again, Price(99_000_000_000), at.now)
    at.minute(99)
    assert at.engine.memories() == (RootMemory(root="ES", bars_held=0, cooldown_left=0, last_exit_reason="stop"),)
    assert at.engine.next_deadline() is None


def test_an_ambiguous_entry_blocks_entries_and_still_leaves(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    entry = at.enter()
    at.engine.notify(ambiguity(entry))
    (signal,) = at.hour((99, 100, 98.5, 98.5))
    refused = {gate.name: gate.reason for gate in signal.gates if not gate.is_passed}
    assert (signal.verdict, refused) == ("hold", {"position": "position_unknown"})
    (request,) = at.minute(97)
    assert (request.reason, request.entry_signal_id) == ("stop", entry.signal_id)
    at.journal.fill(request, Price(97_000_000_000), at.now)
    signal, again = at.hour(ENTRY)
    assert (signal.verdict, signal.position, again.intent) == ("enter", 0, "entry")


def test_a_rejected_entry_frees_the_root(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.engine.notify(rejection(at.enter()))
    signal, _ = at.hour(ENTRY)
    assert signal.verdict == "enter"


def test_an_unfinished_entry_blocks_the_root(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.enter()
    (signal,) = at.hour(ENTRY)
    assert (signal.verdict, signal.reason) == ("refuse", "order_unfinished")


# -------------------------------------------------------------- the auto-close


def test_the_auto_close_needs_neither_bar_nor_turn(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    deadline = kit.chicago(kit.MONDAY, 15)
    assert at.engine.next_deadline() is None
    entry = at.hold()  # the strategy has not even been told of the fill
    assert at.engine.next_deadline() == deadline
    assert at.engine.on_clock(Nanos(deadline - 1)) == ()
    (request,) = at.engine.on_clock(deadline)
    assert (request.reason, request.decided_ns, request.bar_ns) == ("auto_close", deadline, 0)
    assert request.entry_signal_id == entry.signal_id
    assert at.engine.on_clock(Nanos(deadline + HOUR)) == ()
    assert at.engine.next_deadline() is None


def test_a_rejected_auto_close_is_repeated_a_minute_later_under_a_new_id(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.hold()
    deadline = kit.chicago(kit.MONDAY, 15)
    (first,) = at.engine.on_clock(Nanos(deadline + 5))
    assert first.decided_ns == deadline
    at.engine.notify(rejection(first))
    again = Nanos(deadline + 5 + MINUTE)
    assert at.engine.next_deadline() == again
    assert at.engine.on_clock(Nanos(again - 1)) == ()
    (second,) = at.engine.on_clock(again)
    assert (second.decided_ns, second.signal_id != first.signal_id) == (again, True)
    at.journal.fill(second, Price(99_000_000_000), again)
    assert at.engine.next_deadline() is None
    assert at.engine.memories()[0].last_exit_reason == "auto_close"


# ------------------------------------------------------- roots and contracts


def test_exits_come_first_then_entries_by_root(kit: SimpleNamespace) -> None:
    roots = ("NQ", "GC", "ES")
    engine = build_engine(kit.session_opened(roots, settings=SETTINGS), None, [])
    journal, end = kit.Journal(engine), Nanos(kit.chicago(kit.MONDAY, 9))

    def hour(end: Nanos, ohlc: dict[str, tuple[float, ...]]) -> tuple[Any, ...]:
        bars = tuple(kit.bar(root, end, ohlc[root], length=HOUR) for root in sorted(ohlc))
        return engine.step(SliceClosed(ts=end, hours=bars))

    _, request = hour(end, {"NQ": ENTRY})
    journal.accept(request)
    journal.fill(request, Price(99_000_000_000), end)
    out = hour(Nanos(end + HOUR), {"NQ": (99, 99.5, 98.5, 99.5), "GC": ENTRY, "ES": ENTRY})
    assert [(type(event).__name__, event.root) for event in out] == [
        ("SignalEvaluated", "ES"),
        ("SignalEvaluated", "GC"),
        ("SignalEvaluated", "NQ"),
        ("OrderRequested", "NQ"),
        ("OrderRequested", "ES"),
        ("OrderRequested", "GC"),
    ]
    assert [event.intent for event in out[3:]] == ["exit", "entry", "entry"]
    assert [memory.root for memory in engine.memories()] == ["ES", "GC", "NQ"]


def held_over_a_roll(kit: SimpleNamespace, **changes: Any) -> StateCarried:
    position = Position(
        root="ES",
        contract="ESH4",
        quantity=1,
        price=Price(95_000_000_000),
        opened_ns=kit.chicago(kit.MONDAY - dt.timedelta(days=3), 12),
        entry_signal_id="before",
    )
    memory = RootMemory(root="ES", bars_held=2, cooldown_left=0, last_exit_reason="")
    return StateCarried(
        previous_session=None,
        previous_segment=None,
        previous_head=None,
        previous_file_sha256=None,
        positions=(attrs.evolve(position, **changes),),
        memories=(memory,),
    )


def test_a_position_held_over_a_roll_leaves_in_its_own_contract(kit: SimpleNamespace) -> None:
    at = Situation(kit, carried=held_over_a_roll(kit))
    assert at.minute(90) == ()  # the new contract's price is no stop
    (request,) = at.minute(94.05, contract="ESH4")  # alone in its slice
    assert (request.contract, request.reason, request.bars_held) == ("ESH4", "stop", 2)
    assert (request.reference_price, request.entry_signal_id) == (94_050_000_000, "before")
    at.journal.fill(request, Price(94_000_000_000), at.now)
    signal, entry = at.hour(ENTRY)
    assert (signal.position, entry.contract) == (0, "ESM4")


def test_the_bars_of_the_active_contract_still_count_for_a_held_one(kit: SimpleNamespace) -> None:
    at = Situation(kit, attrs.evolve(SETTINGS, exit_after_bars=3), carried=held_over_a_roll(kit))
    signal, request = at.hour(MID)
    assert (signal.contract, signal.verdict, signal.reason) == ("ESM4", "exit", "bar_stop")
    # No bar of the held contract has come: the entry's price is the last that is known of it.
    assert (request.contract, request.reference_price, request.bars_held) == ("ESH4", 95_000_000_000, 3)


def test_the_auto_close_works_before_the_first_bar(kit: SimpleNamespace) -> None:
    at = Situation(kit, carried=held_over_a_roll(kit, contract="ESM4"))
    (request,) = at.engine.on_clock(kit.chicago(kit.MONDAY, 15))
    assert (request.contract, request.reason) == ("ESM4", "auto_close")


def test_a_slice_of_others_is_no_turn(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    assert at.minute(100, contract="ESU4") == ()
    assert at.engine.step(SliceClosed(ts=at.now)) == ()


def test_references_and_unresolved_roots_are_not_traded(kit: SimpleNamespace) -> None:
    opened = kit.session_opened(("ES", "NQ", "GC"), settings=SETTINGS)
    roots = tuple(attrs.evolve(root, is_reference=root.root == "GC") for root in opened.roots)
    contracts = tuple(c if c.root != "NQ" else attrs.evolve(c, raw_symbol=None) for c in opened.contracts)
    opened = attrs.evolve(opened, roots=roots, contracts=contracts)
    engine = build_engine(opened, None, kit.tables_of(kit.slices_of(kit.random_minutes(("ES", "NQ", "GC"), 1)[:70])))
    end = kit.chicago(kit.MONDAY, 9)
    bars = tuple(kit.bar(root, end, ENTRY, length=HOUR) for root in ("ES", "GC", "NQ"))
    out = engine.step(SliceClosed(ts=end, hours=bars))
    assert [event.root for event in out] == ["ES", "ES"]
    with pytest.raises(OperatorError, match="ES, which this session does not trade"):
        build_engine(kit.session_opened(("NQ",)), held_over_a_roll(kit), [])


def test_history_warms_up_without_deciding(kit: SimpleNamespace) -> None:
    slices = kit.slices_of(kit.random_minutes(("ES",), 1))
    settings = attrs.evolve(kit.SETTINGS, warmup_bars=24)
    opened = kit.session_opened(("ES",), date=tuesday(kit), settings=settings)
    at = Situation(kit, opened=opened, tables=kit.tables_of(slices))
    at.now = kit.chicago(kit.MONDAY, 17)
    signal = at.hour(ENTRY)[0]
    warm_up = next(gate for gate in signal.gates if gate.name == "warm_up")
    assert (warm_up.is_passed, warm_up.value) == (True, "24 of 24")


def test_a_broken_engine_says_so_on_every_door(kit: SimpleNamespace) -> None:
    at = Situation(kit)
    at.hold()
    bar = kit.bar("ES", at.now, MID)
    with pytest.raises(OurError, match="two bars"):
        at.engine.step(SliceClosed(ts=at.now, minutes=(bar, bar)))
    for call in (
        lambda: at.minute(100),
        lambda: at.engine.step(SliceClosed(ts=at.now)),
        lambda: at.engine.on_clock(at.now),
        lambda: at.engine.notify(SliceClosed(ts=at.now)),
    ):
        with pytest.raises(OurError, match="rebuild it from the journal"):
            call()


# -------------------------------------------------------------------- memory


def test_memory_does_not_grow_with_the_session(kit: SimpleNamespace) -> None:
    """6,000 minutes that enter and leave all the time leave nothing behind."""
    settings = attrs.evolve(SETTINGS, decision_timeframe="1m", entry_windows=("00:00-24:00",), exit_after_bars=2)
    journal = kit.Journal(build_engine(kit.session_opened(("ES",), settings=settings), None, []))
    journal.outputs = journal.fills = journal.given = Sink()
    start = kit.chicago(kit.MONDAY - dt.timedelta(days=30), 17)
    shapes = [ENTRY, MID, (99, 99.5, 98.5, 99.5), MID]

    def bars(i: int) -> tuple[Bar, ...]:
        return (kit.bar("ES", Nanos(start + i * MINUTE), shapes[i % 4]),)

    def run(first: int, last: int) -> tuple[float, int]:
        for i in range(first, last):
            journal.close(SliceClosed(ts=Nanos(start + i * MINUTE), minutes=bars(i)))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 1e6, len(gc.get_objects())

    # Not the resident memory: what other tests have left in this process moves that by more.
    tracemalloc.start()
    try:
        before_mb, before_objects = run(1, 2_000)
        after_mb, after_objects = run(2_000, 8_000)
    finally:
        tracemalloc.stop()
    assert journal.outputs.taken > 15_000
    assert after_objects - before_objects < 200
    assert after_mb - before_mb < 0.1


class Sink(list[Any]):
    """Counts what it is given and keeps nothing."""

    taken = 0

    def append(self, item: Any) -> None:
        self.taken += 1
