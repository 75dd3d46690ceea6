"""Bars are a fold: however the trades are cut, the bar is the same."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.bars import BAR_COLUMNS, Bar, BarTable, merge_bars
from domain.market import TRADE_DTYPE, TradeArray, empty_trades, trades_from_bytes
from domain.units import HOUR, MINUTE, Nanos, Price
from tests.builders import OPEN, bar_of


def array_of(rows: list[tuple[int, int]]) -> TradeArray:
    trades = np.zeros(len(rows), TRADE_DTYPE)
    trades["price"] = [price for price, _ in rows]
    trades["size"] = [size for _, size in rows]
    return trades


TRADES = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 2**32 - 1)), min_size=1, max_size=40)


def fold(rows: list[tuple[int, int]], *, is_outside_hours: bool = False) -> Bar:
    """The bar of these prices and sizes, as a person would count it."""
    prices = [Price(price) for price, _ in rows]
    return Bar(
        root="ES",
        contract="ESM4",
        ts_start=OPEN,
        ts_end=Nanos(OPEN + MINUTE),
        open=prices[0],
        high=max(prices),
        low=min(prices),
        close=prices[-1],
        volume=sum(size for _, size in rows),
        trades=len(rows),
        is_outside_hours=is_outside_hours,
    )


@given(TRADES, st.data())
def test_trades_folded_in_any_pieces_make_the_same_bar(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)), max_size=6)) | {0, len(rows)})
    pieces = [fold(rows[start:end]) for start, end in pairwise(cuts)]
    assert reduce(merge_bars, pieces) == fold(rows)


@given(TRADES, TRADES, TRADES)
def test_merging_does_not_depend_on_which_pair_is_merged_first(
    first: list[tuple[int, int]], second: list[tuple[int, int]], third: list[tuple[int, int]]
) -> None:
    a, b, c = fold(first), fold(second), fold(third)
    assert merge_bars(merge_bars(a, b), c) == merge_bars(a, merge_bars(b, c))


@pytest.mark.parametrize(("first", "second", "both"), [(True, False, True), (False, True, True), (False, False, False)])
def test_one_trade_outside_hours_flags_the_whole_bar(first: bool, second: bool, both: bool) -> None:
    merged = merge_bars(fold([(1, 1)], is_outside_hours=first), fold([(2, 1)], is_outside_hours=second))
    assert merged.is_outside_hours is both


def test_a_merged_bar_keeps_the_span_of_the_first() -> None:
    hour, minute = bar_of(length=HOUR), bar_of(start=Nanos(OPEN + MINUTE))
    merged = merge_bars(hour, minute)
    assert (merged.ts_start, merged.ts_end) == (hour.ts_start, hour.ts_end)


@given(st.lists(TRADES, max_size=5))
def test_a_table_gives_its_bars_back(pieces: list[list[tuple[int, int]]]) -> None:
    bars = [fold(rows) for rows in pieces]
    table = BarTable.of_bars("ES", "1m", bars)
    assert list(table.bars()) == bars
    assert len(table) == len(bars)
    assert table.data.shape == (len(bars), len(BAR_COLUMNS))


def test_a_table_whose_contracts_and_rows_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match="ES 1h"):
        BarTable(root="ES", timeframe="1h", contracts=("ESM4", "ESM4"), data=np.zeros((1, 8), np.int64))


def test_tables_are_equal_by_content() -> None:
    bars = [bar_of(), bar_of(start=Nanos(OPEN + MINUTE), close=Price(5))]
    assert BarTable.of_bars("ES", "1m", bars) == BarTable.of_bars("ES", "1m", bars)
    assert BarTable.of_bars("ES", "1m", bars) != BarTable.of_bars("ES", "1m", bars[:1])
    assert BarTable.of_bars("ES", "1m", bars[:1]) != BarTable.of_bars("ES", "1m", bars[1:])


def test_records_are_read_from_bytes_whole_or_not_at_all() -> None:
    trades = array_of([(1, 2), (3, 4)])
    assert np.array_equal(trades_from_bytes(trades.tobytes()), trades)
    assert len(trades_from_bytes(b"")) == len(empty_trades()) == 0
    with pytest.raises(ValueError, match="whole records"):
        trades_from_bytes(trades.tobytes()[:-1])


def test_a_record_is_databentos_forty_eight_bytes() -> None:
    assert TRADE_DTYPE.itemsize == 48
