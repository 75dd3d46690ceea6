"""Each rule refuses with its own reason; no rule but the kill switch stops an exit."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.risk import Allowed, EntryQuestion, Refused, RiskSettings, RiskState, Switches, judge_entry, judge_exit
from domain.units import SECOND, Price

PRICE = Price(5_000 * 10**9)
CALM = RiskState(
    switches=Switches(),
    is_feed_live=True,
    are_entries_open=True,
    breaker="closed",
    tripped="",
    occupied={"NQ": 1, "GC": 2},
    session_date=dt.date(2024, 6, 18),
    is_live=False,
    unknown_roots=frozenset(),
    unconfirmed=frozenset(),
    unreconciled_days=0,
    margin_usd=Decimal(30_000),
    entries_last_hour=3,
)
QUESTION = EntryQuestion(
    root="ES",
    quantity=2,
    price=PRICE,
    last_price=PRICE,
    age_ns=0,
    to_close_ns=3600 * SECOND,
    margin_usd=Decimal(20_000),
    is_active_contract=True,
    last_trade_session=dt.date(2024, 6, 18),
    to_roll_close_ns=1,
    reverses=False,
)
SETTINGS = RiskSettings(
    max_positions=3,
    max_contracts=5,
    max_contracts_per_root=2,
    max_margin_usd=Decimal(50_000),
    max_entries_per_hour=4,
    price_band_pct=Decimal("0.5"),
    last_minutes=5,
    entry_freshness_s=60,
    reconcile_within_days=3,
)


def judge(asked: dict[str, Any] | None = None, **state: Any) -> Allowed | Refused:
    return judge_entry(attrs.evolve(QUESTION, **asked or {}), state=attrs.evolve(CALM, **state), settings=SETTINGS)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"switches": Switches(kill="entries")}, "kill_switch"),
    ({}, {"switches": Switches(kill="all")}, "kill_switch"),
    ({}, {"session_date": dt.date(2024, 6, 19)}, "last_trade_session"),
    ({"last_trade_session": None}, {"is_live": True}, "last_trade_session"),
    ({"to_roll_close_ns": 0}, {}, "roll_pending"),
    ({}, {"switches": Switches(is_halted=True)}, "halted"),
    ({}, {"switches": Switches(is_enabled=False)}, "not_enabled"),
    ({}, {"switches": Switches(disabled_roots=("ES",))}, "not_enabled"),
    ({}, {"unconfirmed": frozenset({"GC"})}, "unconfirmed"),
    ({}, {"unreconciled_days": 4}, "unreconciled"),
    ({}, {"are_entries_open": False}, "entries_closed"),
    ({}, {"is_feed_live": False}, "feed_not_live"),
    ({}, {"breaker": "open"}, "breaker"),
    ({}, {"breaker": "hard_open"}, "breaker"),
    ({"age_ns": 60 * SECOND + 1}, {}, "stale_decision"),
    ({"is_active_contract": False}, {}, "contract"),
    ({"to_close_ns": 300 * SECOND - 1}, {}, "near_close"),
    ({"to_close_ns": -SECOND}, {}, "near_close"),
    ({"price": Price(PRICE + PRICE // 200 + 1)}, {}, "price_band"),
    ({"price": Price(PRICE - PRICE // 200 - 1)}, {}, "price_band"),
    ({"price": Price(1), "last_price": Price(0)}, {}, "price_band"),
    ({"price": PRICE, "last_price": Price(-PRICE)}, {}, "price_band"),
    ({}, {"tripped": "daily_loss"}, "daily_loss"),
    ({}, {"unknown_roots": frozenset({"ES"}), "occupied": {"ES": 1}}, "unknown_position"),
    ({}, {"occupied": {"ES": 1}}, "root_occupied"),
    ({}, {"occupied": {"NQ": 1, "GC": 1, "CL": 1}}, "max_positions"),
    ({"quantity": 3}, {}, "max_contracts_per_root"),
    ({}, {"occupied": {"NQ": 4}}, "max_contracts"),
    ({"margin_usd": Decimal("20000.01")}, {}, "margin"),
    ({"margin_usd": None}, {}, "margin"),
    ({}, {"entries_last_hour": 4}, "max_entries_per_hour"),
]


@pytest.mark.parametrize(("asked", "state", "rule"), REFUSED)
def test_each_rule_refuses_an_entry_by_its_name(asked: dict[str, Any], state: dict[str, Any], rule: str) -> None:
    verdict = judge(asked, **state)
    assert isinstance(verdict, Refused)
    assert verdict.rule == rule
    assert verdict.detail


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        ({}, {}),
        ({"age_ns": 60 * SECOND}, {}),
        ({"age_ns": -SECOND}, {}),
        ({"to_close_ns": None}, {}),
        ({"to_close_ns": 300 * SECOND}, {}),
        ({"price": Price(PRICE + PRICE // 200)}, {}),
        ({"last_price": None}, {}),
        ({"price": Price(-PRICE), "last_price": Price(-PRICE)}, {}),
        ({}, {"switches": Switches(disabled_roots=("NQ",))}),
        ({}, {"unreconciled_days": 3}),
        ({}, {"unknown_roots": frozenset({"GC"})}),
        ({"reverses": True}, {"occupied": {"ES": 2, "NQ": 1, "GC": 1}}),
    ],
)
def test_an_entry_inside_every_limit_is_allowed(asked: dict[str, Any], state: dict[str, Any]) -> None:
    assert judge(asked, **state) == Allowed()


def test_the_refusal_names_the_numbers_it_saw() -> None:
    verdict = judge(occupied={"NQ": 1, "GC": 1, "CL": 1})
    assert isinstance(verdict, Refused)
    assert verdict.detail == "3 of 3 positions in use"


def test_with_several_reasons_the_gravest_is_told() -> None:
    verdict = judge({"age_ns": 10**15}, switches=Switches(kill="all"), are_entries_open=False, is_feed_live=False)
    assert isinstance(verdict, Refused)
    assert verdict.rule == "kill_switch"


def test_without_a_margin_limit_no_margin_is_needed() -> None:
    settings = attrs.evolve(SETTINGS, max_margin_usd=None)
    assert judge_entry(attrs.evolve(QUESTION, margin_usd=None), state=CALM, settings=settings) == Allowed()


def test_nothing_but_kill_all_refuses_an_exit() -> None:
    # It is shown nothing else: no limit, no line, no clock.
    for kill in ("off", "entries", "all"):
        switches = Switches(kill=kill, is_halted=True, is_enabled=False, disabled_roots=("ES",))  # type: ignore[arg-type]
        assert isinstance(judge_exit(switches=switches), Refused) == (kill == "all")


@given(st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.integers(1, 3)), max_size=40))
def test_whatever_is_asked_in_whatever_order_the_limits_hold(asked: list[tuple[str, int]]) -> None:
    occupied: dict[str, int] = {}
    for root, quantity in asked:
        margin = Decimal(7_000) * quantity
        question = attrs.evolve(QUESTION, root=root, quantity=quantity, margin_usd=margin)
        state = attrs.evolve(
            CALM, occupied=dict(occupied), margin_usd=Decimal(7_000) * sum(occupied.values()), entries_last_hour=0
        )
        if isinstance(judge_entry(question, state=state, settings=SETTINGS), Allowed):
            occupied[root] = quantity
    assert len(occupied) <= SETTINGS.max_positions
    assert sum(occupied.values()) <= SETTINGS.max_contracts
    assert all(quantity <= SETTINGS.max_contracts_per_root for quantity in occupied.values())
    assert 7_000 * sum(occupied.values()) <= (SETTINGS.max_margin_usd or 0)


def test_a_verdict_is_no_truth_value() -> None:
    # Both are truthy: whoever asks `if verdict` must see it fail at once in review, not trade.
    assert type(judge()) is not type(judge(switches=Switches(kill="all")))
