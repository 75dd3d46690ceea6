"""The sessions of a backtest are those that `live` would open: contracts, history, and nothing of the future."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import attrs
import numpy as np
import pytest

from actors.backtest import market_sessions, run_sessions
from actors.backtest_report import backtest_page, backtest_report, backtest_words
from actors.recorded_sessions import READ, recorded_session
from actors.wiring.backtest import run_backtest, runners_of
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.backtest import (
    CLOSE,
    END,
    HIGH,
    LOW,
    OPEN,
    START,
    BacktestCosts,
    BacktestResult,
    ContractMinutes,
    MarketSession,
)
from domain.events import SignalEvaluated, VetoScored
from domain.history import Rows
from domain.ibs import StrategySettings
from domain.instruments import ContractName, TradedRoot, parse_contract
from domain.sessions import EXCHANGE_ZONE, to_nanos
from domain.units import HOUR, MINUTE, Nanos, Price
from models.candidates import PassEverything

CALENDAR = CmeCalendar()
ROOTS = {root.root: root for root in load_contract_map(CONTRACT_MAP_FILE).roots}
SETTINGS = StrategySettings(veto=False, warmup_bars=2, pivot_gate=False, entry_ibs_high=0.6)
GOLDEN = Path(__file__).parents[1] / "replay" / "sessions" / "crashed" / "2024-05-01.db"


def contract(raw: str, rows: Rows, root: str = "ES", year: int = 2024) -> ContractMinutes:
    name = parse_contract(raw, [ROOTS[root].data_product], dt.date(year, 1, 1))
    assert isinstance(name, ContractName)
    return ContractMinutes(root=root, raw_symbol=raw, name=name, rows=rows)


def minutes(dates: Sequence[dt.date], *, level: int, volume: int, seed: int = 1, count: int = 1_380) -> Rows:
    """Every fifth of the first `count` minutes of each session, on quarter points around `level`."""
    starts = np.concatenate(
        [np.arange(0, count, 5) * MINUTE + CALENDAR.session_on(date, [ROOTS["ES"]]).open_ns for date in dates]
    )
    rng = np.random.default_rng(seed)
    close = (level * 4 + np.cumsum(rng.integers(-3, 4, len(starts)))) * 250_000_000
    open_ = np.concatenate((close[:1], close[:-1]))
    size = np.full(len(starts), volume)
    high, low = np.maximum(open_, close) + 250_000_000, np.minimum(open_, close) - 250_000_000
    return np.column_stack((starts, starts + MINUTE, open_, high, low, close, size, size))


WEEK = [dt.date(2024, 1, 22) + dt.timedelta(days=day) for day in range(5)]


@pytest.fixture(scope="module")
def rolling() -> list[ContractMinutes]:
    """MESM4 trades more than MESH4 from Wednesday on, forty points above it."""
    old = np.concatenate([minutes([day], level=5_100, volume=9 if day < WEEK[2] else 2) for day in WEEK])
    new = np.array(old)
    new[:, OPEN : CLOSE + 1] += 40 * 10**9
    new[:, 6] = 5
    return [contract("MESH4", old), contract("MESM4", new)]


def sessions_of(data: Sequence[ContractMinutes], root: TradedRoot) -> list[MarketSession]:
    return list(market_sessions(data, roots=[root], settings=SETTINGS, calendar=CALENDAR))


@pytest.mark.parametrize("rule", ["vendor", "volume"])
def test_a_roll_is_due_the_session_after_the_volumes_and_in_effect_the_one_after_that(
    rolling: list[ContractMinutes], rule: str
) -> None:
    found = sessions_of(rolling, attrs.evolve(ROOTS["ES"], roll_rule=rule))
    fronts = [next(c.raw_symbol for c in one.opened.contracts if c.rank == 0) for one in found]
    assert [one.date for one in found] == WEEK
    assert fronts == ["MESH4", "MESH4", "MESH4", "MESH4", "MESM4"]
    assert [[roll.to_contract for roll in one.rolls] for one in found] == [[], [], [], ["MESM4"], []]
    bars = found[-1].bars["ES"]
    assert (bars.rolled_from, bars.difference) == ("MESH4", 40 * 10**9)
    hours = next(table for table in bars.history if table.timeframe == "1h")
    assert len(hours) == 4 * 23
    assert (hours.data[-1, CLOSE] - found[-2].bars["ES"].hours[-1, CLOSE]) == 40 * 10**9


def test_a_contract_is_left_before_its_expiry_whatever_it_trades() -> None:
    """MESH4 expires on 15 March 2024; its last session is the third before that."""
    week = [day + dt.timedelta(days=49) for day in WEEK]
    old = minutes(week, level=5_100, volume=9)
    found = sessions_of([contract("MESH4", old), contract("MESM4", np.array(old))], ROOTS["ES"])
    fronts = [next(c.raw_symbol for c in one.opened.contracts if c.rank == 0) for one in found]
    assert fronts == ["MESH4", "MESH4", "MESM4", "MESM4", "MESM4"]


def test_a_roll_goes_past_a_serial_month_that_hardly_trades() -> None:
    """Gold's February contract is left in January for April, which trades, not for March, which the files hold too."""
    days = [dt.date(2024, 1, day) for day in (24, 25, 26, 29)]
    rows = [minutes(days, level=2_000, volume=volume) for volume in (9, 1, 5)]
    chain = [contract(raw, each, root="GC") for raw, each in zip(("MGCG4", "MGCH4", "MGCJ4"), rows, strict=True)]
    found = sessions_of(chain, ROOTS["GC"])
    assert [roll.to_contract for one in found for roll in one.rolls] == ["MGCJ4"]
    assert found[-1].opened.contracts[0].raw_symbol == "MGCJ4"


def test_a_symbol_that_comes_again_ten_years_later_is_another_contract() -> None:
    decade = [dt.date(2014, 1, 21), dt.date(2014, 1, 22)]
    early, later = minutes(decade, level=1_800, volume=9), minutes(WEEK, level=5_100, volume=9)
    data = [
        contract("MESH4", early, year=2014),
        contract("MESM4", early[early[:, START] < early[-1, START]], year=2014),
        contract("MESH4", later),
    ]
    found = sessions_of(data, ROOTS["ES"])
    assert [one.date for one in found] == [*decade, *WEEK]
    assert {one.opened.contracts[0].raw_symbol for one in found} == {"MESH4"}
    lasts = [one.opened.contracts[0].last_trade_session for one in found]
    assert lasts == [dt.date(2014, 3, 18)] * 2 + [dt.date(2024, 3, 12)] * 5
    assert [len(table) for table in found[2].bars["ES"].history] == [0, 0]
    assert [len(table) for table in found[3].bars["ES"].history] == [23, 1]


def test_nothing_of_the_future_changes_what_was_decided(rolling: list[ContractMinutes]) -> None:
    end = CALENDAR.session_on(WEEK[2], [ROOTS["ES"]]).end_ns
    whole = run_backtest(rolling, roots=[ROOTS["ES"]], settings=SETTINGS, calendar=CALENDAR, models={})
    cut = [attrs.evolve(one, rows=one.rows[one.rows[:, END] <= end]) for one in rolling]
    early = run_backtest(cut, roots=[ROOTS["ES"]], settings=SETTINGS, calendar=CALENDAR, models={})
    assert early.trades
    assert early.trades == tuple(trade for trade in whole.trades if trade.exit_ns <= end)
    assert early.decisions == tuple(event for event in whole.decisions if event.ts <= end)
    assert whole.sessions == tuple(WEEK)


def test_a_position_is_not_closed_at_a_moment_that_the_files_do_not_reach(rolling: list[ContractMinutes]) -> None:
    """Those of another root may go on."""
    other = [contract("MNQH4", rolling[0].rows, root="NQ")]

    def run(rows: list[ContractMinutes]) -> BacktestResult:
        roots = [ROOTS["ES"], ROOTS["NQ"]]
        return run_backtest(rows + other, roots=roots, settings=SETTINGS, calendar=CALENDAR, models={}, traded=["ES"])

    trades = run(rolling).trades
    last = next(trade for trade in reversed(trades) if trade.exit_reason == "auto_close")
    cuts = {"just entered": last.entry_ns + 5 * MINUTE, "not yet": last.decided_ns}
    for name, cut in cuts.items():
        found = run([attrs.evolve(one, rows=one.rows[one.rows[:, END] <= cut]) for one in rolling])
        assert found.trades == tuple(trade for trade in trades if trade.exit_ns < last.entry_ns)
        assert found.held == (("ES",) if name == "just entered" else ())


def test_another_roots_days_are_at_the_level_of_its_new_contract_after_a_roll(rolling: list[ContractMinutes]) -> None:
    """A model that reads the days of ES and none of its hours, over the roll of ES."""
    data = [*rolling, contract("MNQM4", minutes(WEEK, level=17_000, volume=5, seed=2), "NQ")]
    result = run_backtest(
        data,
        roots=[ROOTS["ES"], ROOTS["NQ"]],
        settings=attrs.evolve(SETTINGS, veto=True),
        calendar=CALENDAR,
        models={"NQ": PassEverything(root="NQ", features=("es_daily_return",))},
        traded=["NQ"],
    )
    last = [event for event in result.decisions if isinstance(event, VetoScored)][-1]
    ends = [CALENDAR.session_on(date, [ROOTS["ES"]]).end_ns for date in WEEK]
    thursday, friday = (rolling[1].rows[rolling[1].rows[:, END] <= end][-1, CLOSE] for end in ends[-2:])
    assert last.ts == ends[-1]
    assert last.values == (pytest.approx(100 * (friday - thursday) / thursday, rel=1e-12),)


def test_entries_wait_for_the_required_feeds_as_live(rolling: list[ContractMinutes]) -> None:
    """The bond has bars until Tuesday: its last completed day is there on Tuesday and Wednesday."""
    bond = contract("ZBH4", minutes(WEEK[:2], level=120, volume=5, seed=2), "TLT")
    result = run_backtest(
        [*rolling, bond],
        roots=[ROOTS["ES"], ROOTS["TLT"]],
        settings=SETTINGS,
        calendar=CALENDAR,
        models={},
        required_reference_feeds=("TLT_day",),
    )
    opens = [CALENDAR.session_on(date, [ROOTS["ES"]]).open_ns for date in WEEK]
    reasons: list[set[str]] = [set() for _ in WEEK]
    for event in result.decisions:
        if isinstance(event, SignalEvaluated):
            day = sum(event.ts > opened for opened in opens) - 1
            reasons[day] |= {gate.reason for gate in event.gates if gate.name == "reference_feeds"}
    missing = {"reference_feed_missing:TLT_day"}
    assert reasons[1:] == [{""}, {""}, missing, missing]
    assert missing < reasons[0], "only its last bar sees the day that ends with it"
    assert {trade.session for trade in result.trades} <= set(WEEK[1:3])


def test_hours_and_days_are_those_of_the_live_aggregator() -> None:
    with JournalFile(GOLDEN, Codec()) as journal:
        live = recorded_session(journal.envelopes(types=set(READ)), with_fills=False)
    roots = live.opened.roots
    active = {one.root: one.raw_symbol for one in live.opened.contracts if one.rank == 0 and one.raw_symbol}
    names = {root.root: parse_contract(active[root.root], [root.data_product], live.date) for root in roots}
    data = [
        ContractMinutes(root=root, raw_symbol=active[root], name=name, rows=live.bars[root].minutes)
        for root, name in names.items()
        if name is not None
    ]
    (again,) = market_sessions(data, roots=roots, settings=SETTINGS, calendar=CALENDAR)
    assert again.opened.session == live.opened.session
    assert sum(len(live.bars[root].hours) for root in active) > 50
    for root in active:
        assert np.array_equal(again.bars[root].minutes, live.bars[root].minutes)
        assert np.array_equal(again.bars[root].hours, live.bars[root].hours)
        assert np.array_equal(again.bars[root].days, live.bars[root].days)


def test_an_hour_that_an_early_close_cuts_ends_in_the_next_sessions_file() -> None:
    """2013-11-29: the equity index closes at 12:15 Chicago time, gold at 12:45 or later."""
    date, monday = dt.date(2013, 11, 29), dt.date(2013, 12, 2)
    session = CALENDAR.session_on(date, [ROOTS["ES"]])
    assert session.end_ns == to_nanos(dt.datetime.combine(date, dt.time(12, 15), EXCHANGE_ZONE))
    rows = minutes([date], level=1_800, volume=3, count=(session.end_ns - session.open_ns) // MINUTE)
    rows = np.concatenate((rows, minutes([monday], level=1_800, volume=3, count=100)))
    first, second = sessions_of([contract("MESZ3", rows, year=2013)], ROOTS["ES"])
    assert first.bars["ES"].hours[-1, END] == session.end_ns - 15 * MINUTE
    assert second.bars["ES"].hours[0, START] == session.end_ns - 15 * MINUTE
    assert second.bars["ES"].hours[0, HIGH] > second.bars["ES"].hours[0, LOW]


def test_thanksgiving_week_ends_flat_before_every_close() -> None:
    """Each session rises to its end, so that nothing but the clock closes what is held."""
    dates = [dt.date(2013, 11, day) for day in (25, 26, 27, 28, 29)]
    held = attrs.evolve(SETTINGS, exit_ibs_low=1.0, exit_ibs_high=1.0, exit_after_bars=99)
    parts = []
    for date in dates:
        session = CALENDAR.session_on(date, [ROOTS["ES"]])
        parts.append(
            minutes([date], level=1_800, volume=3, seed=date.day, count=(session.end_ns - session.open_ns) // MINUTE)
        )
    result = run_backtest(
        [contract("MESZ3", np.concatenate(parts), year=2013)],
        roots=[ROOTS["ES"]],
        settings=held,
        calendar=CALENDAR,
        models={},
    )
    closes = {date: CALENDAR.session_on(date, [ROOTS["ES"]]).end_ns for date in dates}
    assert [closes[date] % (24 * HOUR) // MINUTE for date in dates][3] != closes[dates[0]] % (24 * HOUR) // MINUTE
    assert {trade.session for trade in result.trades if trade.exit_reason == "auto_close"} == set(dates)
    for trade in result.trades:
        assert trade.exit_ns < closes[trade.session] - 10 * MINUTE
        assert trade.exit_decided_ns <= closes[trade.session] - 15 * MINUTE
    assert result.decisions[-1].ts <= Nanos(closes[dates[-1]])


def test_a_trade_is_worth_what_the_contract_was_worth_in_its_session(rolling: list[ContractMinutes]) -> None:
    def roots_on(roots: Sequence[TradedRoot], date: dt.date) -> tuple[TradedRoot, ...]:
        spec = attrs.evolve(ROOTS["ES"].order_spec, multiplier=Decimal(50 if date < WEEK[3] else 5))
        return tuple(attrs.evolve(root, order_spec=spec) for root in roots)

    sessions = market_sessions(rolling, roots=[ROOTS["ES"]], settings=SETTINGS, calendar=CALENDAR, roots_on=roots_on)
    result = run_sessions(sessions, partial(runners_of, [ROOTS["ES"]], BacktestCosts()))
    assert {trade.session < WEEK[3] for trade in result.trades} == {True, False}
    for trade in result.trades:
        points = Decimal(trade.exit_price - trade.entry_price).scaleb(-9)
        assert trade.pnl == points * (50 if trade.session < WEEK[3] else 5) - Decimal("2.50")


def test_a_fill_is_worse_by_a_tick_of_what_is_read_as_live(rolling: list[ContractMinutes]) -> None:
    """Trades of 6E are read where M6E is ordered, whose tick is twice as large."""
    coarse = attrs.evolve(ROOTS["ES"].order_spec, tick_size=Price(2 * ROOTS["ES"].data_spec.tick_size))
    sessions = sessions_of(rolling, attrs.evolve(ROOTS["ES"], order_spec=coarse))
    trades = run_sessions(sessions, partial(runners_of, [ROOTS["ES"]], BacktestCosts())).trades
    opens = {(one.raw_symbol, row[START]): row[OPEN] for one in rolling for row in one.rows.tolist()}
    assert trades
    assert {trade.entry_price - opens[trade.contract, trade.entry_ns] for trade in trades} == {250_000_000}


def test_its_report_is_the_same_bytes_each_time_and_adds_up(rolling: list[ContractMinutes]) -> None:
    result = run_backtest(rolling, roots=[ROOTS["ES"]], settings=SETTINGS, calendar=CALENDAR, models={})
    how = {"fills": "bars", "slippage_ticks": 1}
    report = backtest_report(result, how)
    assert report["veto"] is False, "as the settings have it"
    net = sum(float(trade["net_pnl"]) for trade in report["trades"])
    assert report["portfolio"]["net_pnl"] == report["roots"]["ES"]["net_pnl"] == pytest.approx(net)
    assert report["portfolio"]["trades"] == len(result.trades) > 5
    assert (report["sessions"], report["from"], report["to"]) == (5, "2024-01-22", "2024-01-26")
    assert report["rolls"][0]["to"] == "MESM4"
    page = backtest_page(result, report)
    assert page == backtest_page(result, backtest_report(result, how))
    assert page.count("<polyline") == 2
    assert "http" not in page
    assert any(line.startswith("ES ") for line in backtest_words(report))
    nothing = backtest_report(attrs.evolve(result, sessions=(), trades=(), decisions=()), how)
    assert next(iter(backtest_words(nothing))).startswith("no session; ")
