"""No entry twice, no exit lost, nothing late, nothing unrecorded: whatever TradersPost, the line or the disk do.

The invariants I1 to I9 over faults x intents x deaths (`outbox_scenarios`), then the cases that have names.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace

import attrs
import pytest
from outbox_scenarios import CONTRACTS, FAULTS, PLACES, Lived, Scenario, court, scenarios

from actors.carry import carry_forward, fresh_state
from actors.execution import Execution
from actors.machines import MachineParts, MachineSet
from adapters.backtrader.broker import RequestNote
from adapters.backtrader.engine import _rank
from adapters.sqlite.journal import JournalFile
from adapters.traderspost.payload import build_payload
from domain.envelope import Envelope
from domain.events import (
    ClockTicked,
    CommandReceived,
    FeedStatusChanged,
    OrderAccepted,
    OrderAmbiguous,
    OrderSubmitted,
    RiskDecided,
    RiskTripped,
)
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract
from domain.outbox import ALL_PER_HOUR, ALL_PER_MINUTE, FREE_RETRIES, RESERVED_PER_HOUR, RETRIES_PER_MINUTE
from domain.positions import Position
from domain.risk import RiskSettings
from domain.units import HOUR, MINUTE, SECOND, Nanos, Price
from tests.actors.conftest import EngineShop
from tests.builders import CODEC, PRICE, TICK, Record, at, opened_session, request_of, session_of, traded_root

pytestmark = pytest.mark.system

CROSS = len(FAULTS) * len(PLACES)
"""Seeds of which each has another pair of fault and place of death."""
CHUNKS = 3


def assert_all_hold(seeds: range) -> None:
    """Play the seeds; what is violated is shown with what reproduces it, the counts per fault in any case."""
    lived: list[Lived] = []
    with scenarios() as play:
        lived += [play(seed) for seed in seeds]
    print(f"\n{'fault':<18} scenarios deaths requests entries exits violations")
    for fault in FAULTS:
        of_fault = [one for one in lived if one.fault == fault]
        sent = sum((one.sent for one in of_fault), Counter[str]())
        print(
            f"{fault:<18} {len(of_fault):>9} {sum(one.deaths for one in of_fault):>6}"
            f" {sum(one.requests for one in of_fault):>8} {sent['entry']:>7} {sent['exit']:>5}"
            f" {sum(len(one.violations) for one in of_fault):>10}"
        )
    broken = [one for one in lived if one.violations]
    assert not broken, f"{len(broken)} of {len(lived)}:\n" + "\n".join(str(one) for one in broken[:5])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_invariants_hold_whatever_fails_and_wherever_it_dies(chunk: int) -> None:
    assert_all_hold(range(chunk, CROSS, CHUNKS))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_invariants_hold_in_thousands_of_scenarios() -> None:
    assert_all_hold(range(20 * CROSS))


# ---------------------------------------------------------------- the cases that have names


@pytest.fixture(scope="module")
def scenario_of() -> Iterator[Callable[[int], Scenario]]:
    with court() as of_seed:
        yield of_seed


@pytest.fixture
def scenario(scenario_of: Callable[[int], Scenario]) -> Iterator[Scenario]:
    one = scenario_of(0)
    yield one
    assert not one.violations


def test_an_ambiguous_entry_was_executed_and_then_the_feed_dies(scenario: Scenario) -> None:
    risk = RiskSettings(unknown_flat_after_s=60)
    with scenario.playing("rst-after-accept@1"):
        scenario.open(opened_session(risk=risk))
        scenario.put(scenario.entry("ES"), source="strategy")
        assert scenario.judge.ledger(scenario.now).positions == {"ESM2024": 1}
        assert scenario.life.machine.positions[0].is_unknown
        scenario.put(FeedStatusChanged(status="reconnecting", reason="FIN"))
        scenario.advance(Nanos(scenario.now + (risk.unknown_flat_after_s - 1) * SECOND))
        assert scenario.judge.ledger(scenario.now).positions == {"ESM2024": 1}
        scenario.advance(Nanos(scenario.now + SECOND))
        assert scenario.judge.ledger(scenario.now).positions == {}
        scenario.settle()


@pytest.mark.parametrize("is_feed_lost", [False, True])
def test_a_market_that_runs_away_from_a_limit_entry_leaves_nothing(scenario: Scenario, is_feed_lost: bool) -> None:
    with scenario.playing("429:20@1"):
        scenario.open(opened_session(strategy=StrategySettings(veto=False, cancel_after_s=60)))
        scenario.put(scenario.entry("ES", order_type="limit", limit_price=Price(PRICE - TICK)), source="strategy")
        scenario.let_pass(20, ticks=2)
        assert len(scenario.judge.ledger(scenario.now).orders) == 1
        if is_feed_lost:
            scenario.put(FeedStatusChanged(status="reconnecting", reason="FIN"))
        for _ in range(20):
            scenario.let_pass(10, ticks=3)
        if is_feed_lost:
            scenario.put(FeedStatusChanged(status="live", reason="subscribed"))
        assert not scenario.judge.ledger(scenario.now).orders
        scenario.let_pass(10, ticks=-100)  # and back, through the limit
        scenario.settle()
        ledger = scenario.judge.ledger(scenario.now)
        assert (ledger.positions, ledger.fills, ledger.orders) == ({}, (), ())
        assert not scenario.life.machine.positions


def test_a_limit_entry_is_awaited_as_long_as_it_works_at_the_broker(scenario: Scenario) -> None:
    """It was accepted 20 s after its decision: TradersPost cancels it 60 s after that."""
    with scenario.playing("429:20@1"):
        scenario.open(opened_session(strategy=StrategySettings(veto=False, cancel_after_s=60)))
        scenario.put(scenario.entry("ES", order_type="limit", limit_price=Price(PRICE - TICK)), source="strategy")
        scenario.let_pass(70, ticks=1)
        scenario.let_pass(5, ticks=-9)
        assert scenario.judge.ledger(scenario.now).positions == {"ESM2024": 1}
        assert [held.quantity for held in scenario.life.machine.positions] == [1]
        scenario.settle()


@pytest.mark.parametrize("status", ["reconnecting", "gap"])
def test_a_limit_entry_that_nobody_watched_may_have_been_filled(scenario: Scenario, status: str) -> None:
    with scenario.playing():
        scenario.open(opened_session(strategy=StrategySettings(veto=False, cancel_after_s=60)))
        scenario.put(scenario.entry("ES", order_type="limit", limit_price=Price(PRICE - TICK)), source="strategy")
        scenario.put(FeedStatusChanged(status=status, reason="FIN"))  # type: ignore[arg-type]
        scenario.judge.trade("ES", Nanos(scenario.now + SECOND), Price(PRICE - 9 * TICK))
        if status == "gap":
            scenario.put(FeedStatusChanged(status="live", reason="subscribed"))
        scenario.advance(Nanos(scenario.now + 70 * SECOND))
        assert [held.is_unknown for held in scenario.life.machine.positions] == [True]
        scenario.put(FeedStatusChanged(status="live", reason="subscribed"))
        scenario.settle()
        assert scenario.judge.ledger(scenario.now).positions == {}


def test_an_exit_of_an_unknown_limit_entry_cancels_what_may_be_working(scenario: Scenario) -> None:
    with scenario.playing("500-after-accept@1"):
        scenario.open(opened_session(strategy=StrategySettings(veto=False, cancel_after_s=600)))
        scenario.put(scenario.entry("ES", order_type="limit", limit_price=Price(PRICE - 9 * TICK)), source="strategy")
        (unknown,) = scenario.life.machine.positions
        scenario.put(scenario.exit_of(unknown), source="strategy")
        assert scenario.judge.ledger(scenario.now).orders == ()
        scenario.let_pass(10, ticks=-20)
        scenario.settle()


def test_two_reasons_to_close_at_one_moment_are_one_exit(scenario: Scenario) -> None:
    """Their requests would have one id, which the journal refuses."""
    with scenario.playing():
        scenario.open(opened_session())
        scenario.put(scenario.entry("ES"), source="strategy")
        scenario.let_pass(20, ticks=0)
        scenario.put(CommandReceived(command="flatten", argument="ES"), source="operator")
        scenario.put(CommandReceived(command="stop", argument="flatten"), source="operator")
        scenario.let_pass(10, ticks=0)
        assert scenario.judge.ledger(scenario.now).positions == {}
        scenario.settle()


ROOTS = ("ES", "NQ", "GC", "CL", "6E", "RTY", "YM", "SI", "HG", "NG", "6A", "6B")
TWELVE = {
    "session": session_of(*ROOTS),
    "roots": tuple(traded_root(root) for root in ROOTS),
    "contracts": tuple(
        ResolvedContract(root=root, rank=0, raw_symbol=f"{root}M4", instrument_id=100 + number)
        for number, root in enumerate(ROOTS)
    ),
}


def test_after_an_hour_without_traderspost_the_first_exit_passes_at_once(scenario: Scenario) -> None:
    """Twelve positions; eleven exits are tried all the time, the twelfth is decided when it is over."""
    held = tuple(
        Position(
            root=root, contract=f"{root}M4", quantity=1, price=PRICE, opened_ns=at(30), entry_signal_id=f"of {root}"
        )
        for root in ROOTS
    )
    with scenario.playing():
        scenario.open(
            opened_session(**TWELVE, risk=RiskSettings(max_positions=12)), attrs.evolve(fresh_state(), positions=held)
        )
        scenario.line_fault = "refused"
        start = scenario.now
        for position in held[:-1]:
            scenario.put(scenario.exit_of(position), source="strategy")
        scenario.advance(Nanos(start + HOUR))
        assert scenario.judge.ledger(scenario.now).requests == 0
        tried = [one.payload for one in scenario.record() if isinstance(one.payload, OrderSubmitted)]
        times = [
            envelope.ts_ns for envelope in scenario.record() if envelope.type in ("OrderSubmitted", "ProbeSubmitted")
        ]
        assert {submitted.root for submitted in tried if submitted.attempt > 3} == set(ROOTS[:-1])
        assert most_within(times, MINUTE) <= ALL_PER_MINUTE
        assert most_within(times, HOUR) <= ALL_PER_HOUR - RESERVED_PER_HOUR
        retries = [envelope.ts_ns for envelope in scenario.record() if is_retry(envelope)]
        assert most_within(retries[FREE_RETRIES:], MINUTE) <= RETRIES_PER_MINUTE
        scenario.line_fault = ""
        scenario.put(scenario.exit_of(held[-1]), source="strategy")
        (last,) = [sent for sent in scenario.sent if sent.root == ROOTS[-1]]
        assert last.ts == scenario.now == start + HOUR
        for _ in range(60):
            scenario.advance(Nanos(scenario.now + 30 * SECOND))
        assert not scenario.life.machine.positions


def is_retry(envelope: Envelope) -> bool:
    return isinstance(envelope.payload, OrderSubmitted) and envelope.payload.attempt > 1


def most_within(times: list[Nanos], window: Nanos) -> int:
    """How many of `times` (oldest first) lie in the fullest window."""
    return max((sum(1 for later in times[i:] if later < ts + window) for i, ts in enumerate(times)), default=0)


def test_a_webhook_that_hangs_delays_no_other_root(scenario: Scenario) -> None:
    scenario.is_simulated = False
    with scenario.playing("hang@ES"):
        scenario.open(opened_session())
        for root in CONTRACTS:
            scenario.life.sequencer.publish(scenario.entry(root), source="strategy")
        scenario.life.quiet()
        outcomes = [envelope for envelope in scenario.record() if envelope.source == "execution.http"]
        assert [(type(one.payload), one.root) for one in outcomes[2:]] == [(OrderAmbiguous, "ES")]
        assert {(type(one.payload), one.root) for one in outcomes[:2]} == {(OrderAccepted, "NQ"), (OrderAccepted, "GC")}
        scenario.judge.set_faults("")
        scenario.settle()


@pytest.mark.parametrize("fault", ["", "rst-after-accept@1"])
def test_the_daily_stop_counts_what_is_open_and_what_is_unknown_and_outlives_the_process(
    scenario: Scenario, fault: str
) -> None:
    risk = RiskSettings(daily_loss_usd=Decimal(400), unknown_policy="hold")
    with scenario.playing(fault):
        scenario.open(opened_session(risk=risk))
        scenario.put(scenario.entry("ES"), source="strategy")
        scenario.let_pass(10, ticks=0)
        scenario.let_pass(10, ticks=-20)  # 20 ticks of 12.50 USD, and the commission
        scenario.close_bar()
        assert scenario.life.machine.account.tripped == ""
        scenario.let_pass(10, ticks=-20)
        scenario.close_bar()
        assert scenario.life.machine.account.tripped == "daily_loss"
        (tripped,) = [envelope.payload for envelope in scenario.record() if envelope.type == "RiskTripped"]
        assert isinstance(tripped, RiskTripped)
        assert tripped.action == "flatten"
        scenario.life.die()
        scenario.put(ClockTicked(ts=scenario.now, watermark=scenario.now))
        assert scenario.life.machine.account.tripped == "daily_loss"
        refused = scenario.entry("NQ")
        scenario.put(refused, source="strategy")
        answers = [e.payload for e in scenario.record() if isinstance(e.payload, RiskDecided)]
        assert [answer.rule for answer in answers if answer.signal_id == refused.signal_id] == ["daily_loss"]
        scenario.settle()
        with JournalFile(scenario.path, CODEC) as journal:
            parts = MachineParts(build_engine=EngineShop(), build_payload=build_payload)
            segment, tomorrow = (
                carry_forward(journal, journal.head(), MachineSet(parts), file_sha256=sha256).carried
                for sha256 in (None, "of a sealed file")
            )
        assert (segment.tripped, tomorrow.tripped, tomorrow.realised_pnl) == ("daily_loss", "", Decimal(0))
        assert segment.realised_pnl < 0


def test_twelve_signals_of_one_slice_have_the_same_winners_in_any_order() -> None:
    """By probability over threshold, then root: two of them find a slot."""
    record = Record()
    opening = [
        record.put(opened_session(**TWELVE, risk=RiskSettings(max_positions=2))),
        record.put(fresh_state()),
        record.put(FeedStatusChanged(status="live", reason="subscribed")),
    ]
    edges = (0.01, 0.02, 0.09, 0.03, 0.0, 0.01, 0.05, 0.02, 0.09, 0.01, 0.09, 0.04)
    requests = {
        root: record.put(request_of(f"entry-{root}", root=root, contract=f"{root}M4"), ts=at(60)) for root in ROOTS
    }
    orders = [
        SimpleNamespace(
            info=SimpleNamespace(
                request=RequestNote(
                    root=root,
                    contract=f"{root}M4",
                    intent="entry",
                    reason="ibs",
                    decided_ns=at(60),
                    bar_ns=HOUR,
                    price=PRICE,
                    probability=0.5 + edge,
                    threshold=0.5,
                )
            )
        )
        for root, edge in zip(ROOTS, edges, strict=True)
    ]
    shuffle = random.Random(1).shuffle
    for _ in range(1_000):
        shuffle(orders)
        machine = Execution(build_payload)
        for envelope in opening:
            machine.handle(envelope)
        winners = []
        for order in sorted(orders, key=_rank):
            decided, *_ = machine.handle(requests[order.info.request.root])
            assert isinstance(decided, RiskDecided)
            winners += [decided.root] if decided.is_allowed else []
        assert winners == ["6A", "GC"], "of three equals the first two by name"
