"""Each rule refuses with its own reason; no rule but the kill switch stops an exit."""

from __future__ import annotations

from itertools import product
from typing import Any

import attrs
import pytest

from domain.risk import Allowed, Refused, RiskSettings, RiskState, judge_entry, judge_exit
from domain.units import SECOND

CALM = RiskState(kill_switch="off", is_feed_live=True, are_entries_open=True, occupied_roots=frozenset({"NQ", "GC"}))
SETTINGS = RiskSettings(max_positions=3, entry_freshness_s=60)


def judge(age_ns: int = 0, **changes: Any) -> Allowed | Refused:
    return judge_entry(root="ES", age_ns=age_ns, state=attrs.evolve(CALM, **changes), settings=SETTINGS)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kill_switch": "entries"}, "kill_switch"),
        ({"kill_switch": "all"}, "kill_switch"),
        ({"are_entries_open": False}, "entries_closed"),
        ({"is_feed_live": False}, "feed_not_live"),
        ({"age_ns": 60 * SECOND + 1}, "stale_decision"),
        ({"occupied_roots": frozenset({"ES"})}, "root_occupied"),
        ({"occupied_roots": frozenset({"NQ", "GC", "CL"})}, "max_positions"),
    ],
)
def test_each_rule_refuses_an_entry_by_its_name(changes: dict[str, Any], rule: str) -> None:
    verdict = judge(**changes)
    assert isinstance(verdict, Refused)
    assert verdict.rule == rule
    assert verdict.detail


@pytest.mark.parametrize(
    "changes",
    [{}, {"age_ns": 60 * SECOND}, {"age_ns": -SECOND}, {"occupied_roots": frozenset()}],
    ids=["calm", "just fresh", "decided ahead of the clock", "flat"],
)
def test_an_entry_inside_every_limit_is_allowed(changes: dict[str, Any]) -> None:
    assert judge(**changes) == Allowed()


def test_the_refusal_names_the_numbers_it_saw() -> None:
    verdict = judge(occupied_roots=frozenset({"NQ", "GC", "CL"}))
    assert isinstance(verdict, Refused)
    assert verdict.detail == "3 of 3 positions in use"


def test_with_several_reasons_the_gravest_is_told() -> None:
    verdict = judge(10**15, kill_switch="all", are_entries_open=False, is_feed_live=False)
    assert isinstance(verdict, Refused)
    assert verdict.rule == "kill_switch"


@pytest.mark.parametrize(
    ("kill_switch", "is_feed_live", "are_entries_open", "occupied"),
    list(
        product(["off", "entries", "all"], [True, False], [True, False], [frozenset(), frozenset({"ES", "NQ", "GC"})])
    ),
)
def test_nothing_but_kill_all_refuses_an_exit(
    kill_switch: Any, is_feed_live: bool, are_entries_open: bool, occupied: frozenset[str]
) -> None:
    state = RiskState(
        kill_switch=kill_switch,
        is_feed_live=is_feed_live,
        are_entries_open=are_entries_open,
        occupied_roots=occupied,
    )
    verdict = judge_exit(state=state)
    assert isinstance(verdict, Refused) == (kill_switch == "all")


def test_a_verdict_is_no_truth_value() -> None:
    # Both are truthy: whoever asks `if verdict` must see it fail at once in review, not trade.
    assert type(judge()) is not type(judge(kill_switch="all"))
