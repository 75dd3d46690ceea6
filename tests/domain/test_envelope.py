"""The hash chain: every column counts, and no two rows can be mistaken for each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from domain.envelope import GENESIS, chain_hash, event_time
from domain.events import ClockTicked, Event, FillAssumed, SafeStopRequested, SliceClosed, TradesReceived
from tests.builders import PRICE, at, trades_of

NUMBER = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "seq": NUMBER,
    "ts_ns": NUMBER,
    "ts_event": st.none() | NUMBER,
    "type": TEXT,
    "version": NUMBER,
    "source": TEXT,
    "incarnation": NUMBER,
    "cause": st.none() | NUMBER,
    "idx": NUMBER,
    "corr": st.none() | NUMBER,
    "root": st.none() | TEXT,
    "raw": TEXT | st.binary(max_size=12),
}
ROWS = st.fixed_dictionaries(COLUMNS)
SOME: dict[str, Any] = {
    "seq": 1, "ts_ns": 2, "ts_event": None, "type": "ClockTicked", "version": 1, "source": "feed", "incarnation": 0,
    "cause": None, "idx": 0, "corr": None, "root": None, "raw": "{}",
}  # fmt: skip


def typed(row: dict[str, Any]) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in row.values()]


@given(ROWS, ROWS)
def test_different_rows_have_different_hashes(first: dict[str, Any], second: dict[str, Any]) -> None:
    assume(typed(first) != typed(second))
    assert chain_hash(GENESIS, **first) != chain_hash(GENESIS, **second)


@given(ROWS, st.sampled_from(sorted(COLUMNS)), st.data())
def test_every_column_counts(row: dict[str, Any], name: str, data: st.DataObject) -> None:
    other = row | {name: data.draw(COLUMNS[name])}
    assert (chain_hash(GENESIS, **other) == chain_hash(GENESIS, **row)) == (typed(other) == typed(row))


@given(TEXT, TEXT, st.integers(0, 12))
def test_text_cannot_move_from_one_column_to_the_next(first: str, second: str, cut: int) -> None:
    joined = first + second
    moved = SOME | {"type": joined[:cut], "source": joined[cut:]}
    row = SOME | {"type": first, "source": second}
    assume(typed(moved) != typed(row))
    # Neighbours in the digest are put side by side: version is the only column between them.
    assert chain_hash(GENESIS, **moved) != chain_hash(GENESIS, **row)


@pytest.mark.parametrize("text", ["", "-1:", "None", "0"])
def test_a_null_is_no_text(text: str) -> None:
    assert chain_hash(GENESIS, **(SOME | {"root": text})) != chain_hash(GENESIS, **SOME)


def test_a_blob_is_no_text_of_the_same_bytes() -> None:
    assert chain_hash(GENESIS, **(SOME | {"raw": b"{}"})) != chain_hash(GENESIS, **SOME)


def test_the_chain_depends_on_what_came_before() -> None:
    first = chain_hash(GENESIS, **SOME)
    assert len(first) == 32
    assert chain_hash(first, **SOME) != first


TRADES = trades_of(("ESM4", at(3), 0, 1), ("ESM4", at(1), 0, 1))
FILL = FillAssumed(
    root="ES", signal_id="s", contract="ESM4", intent="entry", side="buy", quantity=1, price=PRICE, ts=at(7),
    rule="next_trade", pnl=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (TradesReceived(trades=TRADES), at(3)),
        (SliceClosed(ts=at(5)), at(5)),
        (ClockTicked(ts=at(6), watermark=at(5)), at(6)),
        (FILL, at(7)),
        (SafeStopRequested(reason="disk"), None),
    ],
)
def test_the_markets_own_time_of_an_event(event: Event, expected: int | None) -> None:
    assert event_time(event) == expected
