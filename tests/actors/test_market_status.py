"""Status, staleness and resets as the machines act on them: bars, gate, positions, and what the next file gets."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest

from actors.carry import carry_forward
from actors.machines import MachineParts, MachineSet
from domain.bars import BarTable
from domain.events import (
    FeedStatusChanged,
    HistoryLoaded,
    MarketStatusChanged,
    OrderNotSent,
    OrderRequested,
    PositionUnwatched,
    RiskDecided,
    RootReset,
    RootStatusChanged,
    SliceClosed,
)
from domain.features import required_inputs
from domain.ibs import StrategySettings
from domain.ports import Head
from domain.risk import RiskSettings
from domain.units import HOUR, SECOND, Nanos
from domain.veto import ModelRecord
from tests.actors.session_file import SessionFile
from tests.actors.test_execution import DECIDED, Desk
from tests.builders import at, bar_of, opened_session

GC_STALE = RootStatusChanged(root="GC", status="stale", reason="the gateway does not map GCM4")
GC_LIVE = RootStatusChanged(root="GC", status="live", reason="")
SILENT = MarketStatusChanged(status="market_silent", since=at(58))
TRADING = MarketStatusChanged(status="trading", since=at(59))
READS_GC = ModelRecord(root="ES", digest="x", feature_set="v2", features=("gc_daily_return",), threshold=0.5)


def verdict(desk: Desk, signal_id: str = "entry-1", **changes: Any) -> tuple[bool, str, str]:
    decided = desk.request(signal_id, **changes)[0]
    assert isinstance(decided, RiskDecided)
    return decided.is_allowed, decided.rule, decided.detail


# ---------------------------------------------------------------- the gate


def test_a_stale_root_blocks_its_dependents_only() -> None:
    assert {need.root for need in required_inputs(READS_GC.features, "v2")} == {None, "GC"}
    for models, is_allowed in (((), True), ((READS_GC,), False)):
        desk = Desk(models=models, strategy=StrategySettings())
        desk.put(GC_STALE)
        why = "GC is stale: the gateway does not map GCM4"
        assert verdict(desk) == ((True, "", "") if is_allowed else (False, "stale_root", why))
        assert verdict(desk, "gc", root="GC", contract="GCM4")[:2] == (False, "stale_root")
        assert verdict(desk, "nq", root="NQ", contract="NQM4")[0]
        desk.put(GC_LIVE)
        assert verdict(desk, "gc again", root="GC", contract="GCM4")[0]


def test_a_stale_pair_blocks_what_reads_the_pair() -> None:
    reads_pair = attrs.evolve(READS_GC, features=("pair_ibs_pct",))
    for pair, is_allowed in (("GC", False), ("NQ", True)):
        roots = tuple(attrs.evolve(r, pair=pair) if r.root == "ES" else r for r in opened_session().roots)
        desk = Desk(models=(reads_pair,), strategy=StrategySettings(), roots=roots)
        desk.put(GC_STALE)
        assert verdict(desk)[0] == is_allowed


def test_a_silent_market_lets_nothing_in_and_ends_with_the_next_trade() -> None:
    desk = Desk()
    desk.put(SILENT)
    assert verdict(desk)[:2] == (False, "market_silent")
    desk.put(TRADING)
    assert verdict(desk, "entry-2")[0]


@pytest.mark.parametrize("trouble", [None, SILENT, attrs.evolve(GC_STALE, root="ES")])
def test_an_entry_that_waits_does_not_leave_meanwhile(trouble: Any) -> None:
    desk = Desk()
    desk.request()
    desk.answer(OrderNotSent)
    if trouble is not None:
        desk.put(trouble)
    again = [type(event).__name__ for event in desk.tick(Nanos(DECIDED + 20 * SECOND))]
    assert again == (["OrderSubmitted"] if trouble is None else [])


def test_an_exit_needs_no_market() -> None:
    desk = Desk()
    desk.hold()
    desk.put(SILENT)
    desk.put(attrs.evolve(GC_STALE, root="ES"))
    assert [type(event).__name__ for event in desk.leave()] == ["RiskDecided", "OrderSubmitted"]


# ---------------------------------------------------------------- what is held


@pytest.mark.parametrize(
    ("trouble", "end", "why"),
    [
        (attrs.evolve(GC_STALE, root="ES"), attrs.evolve(GC_LIVE, root="ES"), "the gateway does not map GCM4"),
        (
            FeedStatusChanged(status="reconnecting", reason="reset"),
            FeedStatusChanged(status="live", reason="subscribed"),
            "the feed is not live",
        ),
    ],
    ids=["root", "feed"],
)
def test_a_position_that_is_not_watched_is_told_at_30_s_and_closed_at_its_limit(
    trouble: Any, end: Any, why: str
) -> None:
    desk = Desk(risk=RiskSettings(stale_flatten_s=120))
    desk.hold()
    desk.put(trouble, at(70))
    assert desk.machine.next_deadline() == at(70, 30)
    assert desk.tick(at(70, 29)) == ()
    told = PositionUnwatched(root="ES", contract="ESM4", quantity=1, since=at(70), reason=why)
    assert desk.tick(at(70, 30)) == (told,)
    assert desk.tick(at(70, 31)) == (), "once"
    assert desk.machine.next_deadline() == at(72)
    (request, *_) = desk.tick(at(72))
    assert isinstance(request, OrderRequested)
    assert (request.intent, request.reason) == ("exit", "stale_feed")
    desk.put(end, at(73))
    desk.put(trouble, at(80))
    assert any(isinstance(event, PositionUnwatched) for event in desk.tick(at(81))), "a new blindness is told anew"


def test_a_stale_root_in_which_nothing_is_held_is_nobodys_trouble() -> None:
    desk = Desk(risk=RiskSettings(stale_flatten_s=120))
    desk.hold()
    desk.put(GC_STALE, at(70))
    assert desk.tick(at(75)) == ()


# ---------------------------------------------------------------- bars


def events_of(file: SessionFile, *types: type) -> list[Any]:
    return [e.payload for e in file.record.envelopes if isinstance(e.payload, types)]


def test_a_reset_drops_what_is_open_of_that_root_only(parts: MachineParts) -> None:
    file = SessionFile(parts)
    for minute in (1, 2, 40):
        for contract in ("ESM4", "GCM4"):
            file.trade(minute, minute, contract)
        if minute == 2:
            file.put(RootReset(root="GC", since=at(2.5), reason="test"), ts=at(2.5))
    file.tick(60)
    minutes = [(bar.contract, bar.ts_start) for closed in events_of(file, SliceClosed) for bar in closed.minutes]
    assert minutes == [("ESM4", at(m)) for m in (1, 2)] + [("ESM4", at(40)), ("GCM4", at(40))]
    hours = {bar.contract: bar.trades for closed in events_of(file, SliceClosed) for bar in closed.hours}
    assert hours == {"ESM4": 3, "GCM4": 1}


def test_silence_is_said_before_the_slice_that_ends_it_and_only_in_an_open_market(parts: MachineParts) -> None:
    file = SessionFile(parts)
    file.tick(1)
    assert events_of(file, MarketStatusChanged) == []
    file.tick(3)
    file.trade(3.5)
    file.tick(4)
    assert [type(event).__name__ for event in events_of(file, MarketStatusChanged, SliceClosed)] == [
        "MarketStatusChanged",
        "MarketStatusChanged",
        "SliceClosed",
    ]
    assert [event.status for event in events_of(file, MarketStatusChanged)] == ["market_silent", "trading"]


# ---------------------------------------------------------------- the next file


def left_by(file: SessionFile, *, file_sha256: str | None) -> Any:
    last = file.record.envelopes[-1]
    head = Head(seq=last.seq, hash=last.hash, status="open")
    return carry_forward(file.journal(), head, MachineSet(file.parts), file_sha256=file_sha256)


@pytest.mark.parametrize("file_sha256", [None, "ab" * 32])
def test_the_next_file_gets_no_bar_that_is_not_whole(parts: MachineParts, file_sha256: str | None) -> None:
    file = SessionFile(parts)
    reset = RootReset(root="GC", since=at(90), reason="a gap")
    for hour in range(4):
        for contract in ("ESM4", "GCM4"):
            file.trade(60 * hour + 50, 0, contract)
        if hour == 1:
            file.put(reset, ts=at(110))
            file.trade(115, 0, "GCM4")
    file.tick(240)
    left = left_by(file, file_sha256=file_sha256)
    hours = {table.root: table.data[:, 0].tolist() for table in left.history.tables if table.timeframe == "1h"}
    assert hours == {"ES": [at(60 * hour) for hour in range(4)], "GC": [at(120), at(180)]}
    assert left.carried.resets == ((reset,) if file_sha256 is None else ())
    assert all(left.carried.resets == () or bar.ts_start < reset.since for bar in left.carried.open_days)


def test_older_history_ends_at_a_reset(parts: MachineParts) -> None:
    tables = tuple(
        BarTable.of_bars(root, "1h", [bar_of(f"{root}M4", start=Nanos(at(0) - 2 * HOUR), length=HOUR)])
        for root in ("ES", "GC")
    )
    file = SessionFile(parts, history=HistoryLoaded(tables=tables))
    file.put(RootReset(root="GC", since=at(10), reason="a gap"), ts=at(10))
    left = left_by(file, file_sha256=None)
    assert [table.root for table in left.history.tables] == ["ES"]
    assert left.carried.realised_pnl == Decimal(0)
