"""Stored hours become one series, days are our own sessions, and a journal's bars stay what they are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bars import BarTable, Timeframe
from domain.events import HistoryLoaded
from domain.history import (
    MAX_DAYS,
    MAX_HOURS,
    ContractAt,
    ContractHours,
    RootHistory,
    Rows,
    Span,
    StoredHours,
    extended,
    missing_sessions,
    series_of,
)
from domain.instruments import parse_contract
from domain.sessions import Session, SessionHours
from domain.units import DAY, HOUR, Nanos
from tests.builders import OPEN

MONDAY = Nanos(OPEN - 2 * DAY)
"""Any open on the full hour: the calendar plays no part here."""


def sessions_from(count: int, *, close_hours: int = 23, first: int = 0) -> list[Session]:
    """Consecutive sessions that open a day apart; ES closes `close_hours` after its open."""
    found = []
    for number in range(first, first + count):
        opened, ended = Nanos(MONDAY + number * DAY), Nanos(MONDAY + number * DAY + 23 * HOUR)
        hours = SessionHours(root="ES", open_ns=opened, close_ns=Nanos(opened + close_hours * HOUR))
        found.append(
            Session(
                date=dt.date(2024, 4, 29) + dt.timedelta(days=number),
                start_ns=Nanos(opened - HOUR),
                open_ns=opened,
                end_ns=ended,
                hours=(hours,),
            )
        )
    return found


def contract(raw_symbol: str) -> ContractAt:
    name = parse_contract(raw_symbol, ("ES",), dt.date(2024, 5, 1))
    assert name is not None
    return ContractAt(raw_symbol=raw_symbol, name=name)


def rows_of(hours: Sequence[int], *, close: int = 100, volume: int = 10) -> Rows:
    """A bar in each of `hours` (counted from MONDAY) that closes at `close` plus its hour."""
    return np.array(
        [
            [MONDAY + h * HOUR, MONDAY + (h + 1) * HOUR, close, close + h + 5, close - 5, close + h, volume, 0]
            for h in hours
        ],
        np.int64,
    ).reshape(len(hours), 8)


def stored(contracts: Mapping[str, Rows], covered: tuple[int, int] = (-1, 1000)) -> StoredHours:
    span = Span(start=Nanos(MONDAY + covered[0] * HOUR), end=Nanos(MONDAY + covered[1] * HOUR))
    hours = [ContractHours(contract=contract(raw).name, data=rows) for raw, rows in contracts.items()]
    return StoredHours(contracts=tuple(hours), covered=(span,), sources=("databento",))


def es(contracts: Mapping[str, Rows], *, before: str = "", target: str = "", **changes: tuple[int, int]) -> RootHistory:
    return RootHistory(
        root="ES",
        stored=stored(contracts, **changes),
        before=contract(before) if before else None,
        target=contract(target) if target else None,
    )


def day(number: int) -> range:
    """The hours of a session."""
    return range(24 * number, 24 * number + 23)


def table(rows: Rows, timeframe: Timeframe = "1h", raw_symbol: str = "ESM4") -> BarTable:
    return BarTable(root="ES", timeframe=timeframe, contracts=(raw_symbol,) * len(rows), data=rows)


def joined(history: HistoryLoaded, root: RootHistory, session: Session, before: Sequence[Session]) -> HistoryLoaded:
    series = series_of(root, before)
    return extended(history, [] if series is None else [series], session)


def held(history: HistoryLoaded, timeframe: Timeframe) -> BarTable:
    (found,) = [table for table in history.tables if table.timeframe == timeframe]
    return found


# ---------------------------------------------------------------- days


def test_a_day_is_the_exchange_session_and_not_a_utc_day() -> None:
    series = series_of(es({"ESM4": rows_of([*day(0), *day(1)])}), sessions_from(2))
    assert series is not None
    assert series.days.tolist() == [
        [MONDAY, MONDAY + 23 * HOUR, 100, 100 + 22 + 5, 95, 122, 230, 0],
        [MONDAY + 24 * HOUR, MONDAY + 47 * HOUR, 100, 100 + 46 + 5, 95, 146, 230, 0],
    ]


def test_hours_after_a_roots_close_are_hours_and_of_no_day() -> None:
    series = series_of(es({"ESM4": rows_of(day(0))}), sessions_from(1, close_hours=20))
    assert series is not None
    assert len(series.hours) == 23
    assert series.days.tolist() == [[MONDAY, MONDAY + 20 * HOUR, 100, 124, 95, 119, 200, 0]]


def test_an_hour_before_the_open_widens_its_day() -> None:
    series = series_of(es({"ESM4": rows_of([-1, 0, 1])}), sessions_from(1))
    assert series is not None
    assert series.days[:, 0].tolist() == [MONDAY - HOUR]


@pytest.mark.parametrize("covered", [(1, 1000), (-1, 22)])
def test_a_session_that_was_not_asked_for_as_a_whole_makes_no_day(covered: tuple[int, int]) -> None:
    series = series_of(es({"ESM4": rows_of(day(0))}, covered=covered), sessions_from(1))
    assert series is not None
    assert len(series.days) == 0
    assert len(series.hours) == 23


# ---------------------------------------------------------------- rolls


def rolling() -> dict[str, Rows]:
    """ESM4 leads in the first two sessions, ESU4 thereafter; ESU4 closes 40 higher in each hour."""
    june = [rows_of(day(n), volume=v) for n, v in enumerate((90, 20, 5, 1))]
    september = [rows_of(day(n), close=140, volume=v) for n, v in enumerate((3, 80, 90, 90))]
    return {"ESM4": np.concatenate(june), "ESU4": np.concatenate(september)}


def test_the_front_is_what_traded_most_in_the_session_before() -> None:
    series = series_of(es(rolling()), sessions_from(4))
    assert series is not None
    assert [(ts, name.raw_symbol) for ts, name in series.fronts] == [
        (MONDAY - HOUR, "ESM4"),
        (MONDAY + 2 * DAY - HOUR, "ESU4"),
    ]


def test_older_contracts_are_shifted_by_the_last_common_hour() -> None:
    """Also where the next contract did not trade in the very last hour."""
    contracts = rolling()
    contracts["ESU4"] = contracts["ESU4"][contracts["ESU4"][:, 0] != MONDAY + 46 * HOUR]
    contracts["ESU4"][44, 5] += 7  # its close in the last hour of the second session that both have
    series = series_of(es(contracts), sessions_from(4))
    assert series is not None
    assert series.level.raw_symbol == "ESU4"
    assert series.hours[:23, 2].tolist() == [147] * 23
    assert series.hours[46:, 2].tolist() == [140] * 46
    assert series.days[:, 2].tolist() == [147, 147, 140, 140]


def test_the_journals_contract_gives_the_level_and_the_sessions_own_a_seam() -> None:
    series = series_of(es(rolling(), before="ESM4", target="ESU4"), sessions_from(4))
    assert series is not None
    assert set(series.hours[:, 2].tolist()) == {100}
    assert series.seam is not None
    assert (series.seam.from_contract, series.seam.to_contract, series.seam.difference) == ("ESM4", "ESU4", 40)


def test_a_contract_beyond_the_sessions_own_is_not_used() -> None:
    series = series_of(es(rolling(), target="ESM4"), sessions_from(4))
    assert series is not None
    assert [name.raw_symbol for _, name in series.fronts] == ["ESM4"]
    assert series.seam is None


def test_a_roll_at_the_sessions_own_open_is_a_seam() -> None:
    contracts = rolling()
    series = series_of(es(contracts, target="ESU4"), sessions_from(2))
    assert series is not None
    assert series.level.raw_symbol == "ESM4"
    assert series.seam is not None
    assert (series.seam.difference, series.seam.ts) == (40, MONDAY + 47 * HOUR)


def test_without_a_common_hour_the_older_part_is_left_out() -> None:
    contracts = {"ESM4": rows_of([*day(0), *day(1)]), "ESU4": rows_of([*day(2), *day(3)], close=140)}
    series = series_of(es(contracts), sessions_from(4))
    assert series is not None
    assert [name.raw_symbol for _, name in series.fronts] == ["ESU4"]
    assert len(series.hours) == 46
    assert series.broken == (contract("ESM4").name, contract("ESU4").name)
    # At the level of the old contract nothing of the new one can be told, and there is no seam.
    old = series_of(es(contracts, before="ESM4", target="ESU4"), sessions_from(4))
    assert old is not None
    assert (len(old.hours), old.seam) == (46, None)
    assert old.hours[0, 0] == MONDAY


def test_a_common_hour_of_long_ago_says_nothing() -> None:
    contracts = {"ESM4": rows_of([*day(0), *day(9)]), "ESU4": rows_of([*day(0), *day(10)], close=140)}
    series = series_of(es(contracts), sessions_from(11))
    assert series is not None
    assert [name.raw_symbol for _, name in series.fronts] == ["ESU4"]


# ---------------------------------------------------------------- joining


def test_nothing_reaches_into_the_session() -> None:
    *before, session = sessions_from(3)
    found = joined(HistoryLoaded(tables=()), es({"ESM4": rows_of(range(72))}), session, before)
    assert held(found, "1h").data[-1, 1] == session.start_ns
    assert held(found, "1d").data[-1, 1] == before[-1].end_ns
    assert found.source == "databento"


def test_a_session_that_begins_inside_an_hour_leaves_that_hour_to_the_feed() -> None:
    *before, session = sessions_from(2)
    session = attrs.evolve(session, start_ns=Nanos(session.start_ns - HOUR // 2))
    before = [attrs.evolve(before[0], end_ns=session.start_ns)]
    found = joined(HistoryLoaded(tables=()), es({"ESM4": rows_of(range(24))}), session, before)
    assert held(found, "1h").data[-1, 1] == MONDAY + 22 * HOUR


def test_the_journals_bars_stay_and_the_store_fills_around_them() -> None:
    *before, session = sessions_from(5)
    journal = rows_of([*day(1), *day(3)], close=1000)
    history = HistoryLoaded(tables=(table(journal),), source="journal")
    found = joined(history, es({"ESM4": rows_of(range(96))}, before="ESM4", target="ESM4"), session, before)
    hours = held(found, "1h").data
    assert (np.diff(hours[:, 0]) == HOUR).all()
    assert hours[0, 0] == MONDAY
    assert [row for row in hours.tolist() if row[2] == 1000] == journal.tolist()
    assert found.source == "journal+databento"


def test_a_bar_that_a_gap_has_cut_gives_way_to_the_whole_one() -> None:
    *before, session = sessions_from(2)
    journal = rows_of(day(0), close=1000)
    journal[5, 6] -= 1  # a trade is missing
    history = HistoryLoaded(tables=(table(journal),), source="journal")
    found = joined(history, es({"ESM4": rows_of(day(0))}, before="ESM4"), session, before)
    assert [n for n, row in enumerate(held(found, "1h").data.tolist()) if row[2] == 100] == [5]


def test_a_pause_is_filled_at_the_level_of_the_contract_before_it() -> None:
    """The journal ends with ESM4; while nobody was there the front has rolled, and the session trades ESU4."""
    *before, session = sessions_from(5)
    history = HistoryLoaded(tables=(table(rows_of(day(0), volume=90)),), source="journal")
    found = joined(history, es(rolling(), before="ESM4", target="ESU4"), session, before)
    hours = held(found, "1h")
    assert len(hours) == 92
    assert set(hours.data[:, 2].tolist()) == {100}
    assert set(hours.contracts) == {"ESM4"}
    (seam,) = found.seams
    assert (seam.from_contract, seam.to_contract, seam.difference) == ("ESM4", "ESU4", 40)
    assert missing_sessions(hours, before) == ()


def test_without_anything_new_the_history_is_the_same() -> None:
    *before, session = sessions_from(2)
    history = HistoryLoaded(tables=(table(rows_of(day(0))),), source="journal")
    nothing = es({"ESM4": rows_of([])}, before="ESM4", target="ESM4")
    assert joined(history, nothing, session, before) == history


def test_what_is_kept_is_bounded() -> None:
    *before, session = sessions_from(MAX_DAYS + 3)
    found = joined(
        HistoryLoaded(tables=()), es({"ESM4": rows_of(range(24 * len(before)))}, covered=(-1, 10**6)), session, before
    )
    assert (len(held(found, "1h")), len(held(found, "1d"))) == (MAX_HOURS, MAX_DAYS)
    assert held(found, "1d").data[-1, 1] == before[-1].end_ns


def test_sessions_without_a_bar_are_named() -> None:
    before = sessions_from(5)
    rows = rows_of([*day(1), *day(3)])
    assert [session.date.day for session in missing_sessions(table(rows), before)] == [1, 3]
    assert missing_sessions(None, before) == tuple(before)


BEFORE = st.lists(st.integers(0, 94), unique=True).map(sorted)
HOURS = st.lists(st.integers(0, 110), unique=True).map(sorted)


@settings(deadline=None, max_examples=60)
@given(journal=BEFORE, june=HOURS, september=HOURS, data=st.data())
def test_joined_bars_ascend_never_overlap_and_joining_again_changes_nothing(
    journal: list[int], june: list[int], september: list[int], data: st.DataObject
) -> None:
    *before, session = sessions_from(5)
    volumes = st.integers(1, 3)
    ours = rows_of(journal)
    ours[:, 6] = [data.draw(volumes) for _ in journal]
    history = HistoryLoaded(tables=(table(ours),) if journal else (), source="journal")
    root = es(
        {"ESM4": rows_of(june, volume=2), "ESU4": rows_of(september, close=140, volume=3)},
        before="ESM4" if journal else "",
        target="ESU4",
    )
    found = joined(history, root, session, before)
    for each in found.tables:
        assert (each.data[1:, 0] >= each.data[:-1, 1]).all()
        assert (each.data[:, 1] <= session.start_ns).all()
    if journal:
        stamps = {row[0] for row in held(found, "1h").data.tolist()}
        assert {row[0] for row in ours.tolist()} <= stamps
        assert joined(found, root, session, before) == found
