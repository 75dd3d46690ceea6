"""The life of an order: every step that the table does not hold is a bug, and refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import OurError
from domain.orders import FINAL_STATES, TRANSITIONS, Order, OrderState, backoff_ns, signal_id
from domain.units import SECOND, Nanos, Price

# The table once more, as docs and design tell it; the code's must be this one.
ALLOWED = {
    ("requested", "refused"),
    ("requested", "queued"),
    ("queued", "submitted"),
    ("queued", "expired"),
    ("submitted", "accepted"),
    ("submitted", "rejected"),
    ("submitted", "ambiguous"),
    ("submitted", "queued"),
    ("submitted", "expired"),
    ("accepted", "filled"),
    ("accepted", "expired"),
    ("accepted", "submitted"),
    ("accepted", "ambiguous"),
    ("ambiguous", "queued"),
    ("ambiguous", "expired"),
    ("ambiguous", "filled"),
}


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "signal_id": "s",
        "root": "ES",
        "contract": "ESM4",
        "intent": "entry",
        "side": "buy",
        "quantity": 1,
        "order_type": "market",
        "limit_price": None,
        "reference_price": Price(0),
        "decided_ns": Nanos(0),
        "expires_ns": None,
        "ticker": "ESM2024",
        "body": "{}",
    }
    return Order(**(values | changes))


@pytest.mark.parametrize(("before", "after"), list(product(OrderState, OrderState)))
def test_an_order_moves_only_along_the_table(before: OrderState, after: OrderState) -> None:
    if (before.value, after.value) in ALLOWED:
        assert order(state=before).moved(after).state is after
    else:
        with pytest.raises(OurError, match=f"{before.value} cannot become {after.value}"):
            order(state=before).moved(after)


def test_every_state_has_its_row_and_only_final_ones_are_dead_ends() -> None:
    assert set(TRANSITIONS) == set(OrderState)
    assert {state for state, after in TRANSITIONS.items() if not after} == FINAL_STATES
    assert {state for state in OrderState if state.is_final} == FINAL_STATES


def test_moving_changes_nothing_but_the_state() -> None:
    before = order(state=OrderState.QUEUED, attempt=3)
    assert attrs.evolve(before.moved(OrderState.SUBMITTED), state=OrderState.QUEUED) == before


# ---------------------------------------------------------------- identity

DECIDED: dict[str, Any] = {
    "session": "2024-05-01",
    "strategy": "ibs",
    "root": "ES",
    "contract": "ESM4",
    "intent": "entry",
    "side": "buy",
    "decided_ns": Nanos(1),
    "ordinal": 0,
}


def test_the_same_decision_has_the_same_identity_for_ever() -> None:
    # A journal of last year holds this very text: it may never change.
    assert signal_id(**DECIDED) == "cbcfab8f83362438d7af3291fc925275"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("session", "2024-05-02"),
        ("strategy", "other"),
        ("root", "NQ"),
        ("contract", "ESU4"),
        ("intent", "exit"),
        ("side", "sell"),
        ("decided_ns", Nanos(2)),
        ("ordinal", 1),
    ],
)
def test_whatever_was_decided_otherwise_is_another_signal(name: str, other: Any) -> None:
    assert signal_id(**(DECIDED | {name: other})) != signal_id(**DECIDED)


def test_neighbouring_parts_cannot_be_confused() -> None:
    assert signal_id(**(DECIDED | {"root": "E", "contract": "SESM4"})) != signal_id(**DECIDED)
    assert signal_id(**(DECIDED | {"decided_ns": Nanos(11), "ordinal": 0})) != signal_id(
        **(DECIDED | {"decided_ns": Nanos(1), "ordinal": 10})
    )


# ---------------------------------------------------------------- backoff


@given(st.text(max_size=40), st.integers(1, 100_000), st.floats(0.1, 60.0))
def test_a_wait_is_exponential_capped_and_between_half_and_whole(signal: str, attempt: int, cap_s: float) -> None:
    whole = min(cap_s, 2.0 ** min(attempt - 1, 64)) * SECOND
    assert 0.5 * whole - 1 <= backoff_ns(signal, attempt, cap_s=cap_s) <= whole


def test_an_exit_that_has_been_tried_all_day_still_has_a_wait() -> None:
    # 2 ** 1024 does not fit a float; at the cap that is reached after seven hours.
    assert 15 * SECOND <= backoff_ns("exit", 5_000) <= 30 * SECOND


def test_a_wait_depends_on_order_and_attempt_alone() -> None:
    assert backoff_ns("a", 4) == backoff_ns("a", 4)
    assert len({backoff_ns(signal, 9) for signal in "abcdefgh"}) == 8
