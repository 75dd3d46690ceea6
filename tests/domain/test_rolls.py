"""Which contract is next, when it is time for it, and when a position must end."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs
import pytest

from domain.ibs import StrategySettings
from domain.instruments import HELD_RANK, ResolvedContract
from domain.rolls import close_time, front_contract, judge_roll, next_contract
from domain.units import HOUR, MINUTE, Nanos
from tests.builders import CLOSE, DATE, OPEN, session_of, traded_root

ES = traded_root("ES")


def front_of(before: str | None, *offered: str | None, due_to: str | None = None, past: str = "") -> str | None:
    tradable = {raw for raw in (before, due_to, *offered) if raw not in (None, past)}
    return front_contract(ES, DATE, before=before, due_to=due_to, offered=offered, tradable=tradable)


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        (front_of("ESH4", "ESM4", "ESH4"), "ESH4"),
        (front_of("ESH4", "ESM4", "ESH4", due_to="ESM4"), "ESM4"),
        (front_of("ESH4", "ESM4", "ESU4", due_to="ESM4", past="ESM4"), "ESH4"),
        (front_of(None, "ESM4", "ESU4"), "ESM4"),
        (front_of(None, "ESH4", "ESM4", past="ESH4"), "ESM4"),
        (front_of("ESH4", "ESH4", "ESM4", past="ESH4"), "ESM4"),
        (front_of("ESM4", "ESH4", None, past="ESM4"), "ESM4"),
        (front_of("ESH4", None, None, past="ESH4"), "ESH4"),
        (front_of(None, None, "ESM4"), None),
    ],
    ids=[
        "the vendor's mapping alone moves nothing",
        "what was due takes effect",
        "not into a contract that must not be traded",
        "the first session takes the mapping",
        "unless that must not be traded any more",
        "nor does a session go on beyond the last trade session",
        "but never backwards",
        "and without another one it stays, refused by the gate",
        "rank 1 stands in for nothing",
    ],
)
def test_the_front_contract(chosen: str | None, wanted: str | None) -> None:
    assert chosen == wanted


@pytest.mark.parametrize(
    ("front", "offered", "wanted"),
    [
        ("ESM4", ("ESM4", "ESU4"), "ESU4"),
        ("ESH4", ("ESM4", "ESU4"), "ESM4"),
        ("ESM4", ("ESM4", "ESH4"), None),
        ("ESM4", (None, None), None),
        ("ESZ4", ("ESZ4", "ESH5"), "ESH5"),
        (None, ("ESM4", "ESU4"), None),
    ],
)
def test_the_next_contract_expires_later(
    front: str | None, offered: tuple[str | None, ...], wanted: str | None
) -> None:
    assert next_contract(ES, DATE, front, offered) == wanted


def verdict(rule: str, *, after: str | None = "ESU4", mapped: str | None = "ESM4", **front: Any) -> tuple[Any, ...]:
    volumes = front.pop("volumes", {})
    said = judge_roll(
        attrs.evolve(ES, roll_rule=rule),
        DATE,
        front=ResolvedContract(root="ES", rank=0, raw_symbol="ESM4", **front),
        following=ResolvedContract(root="ES", rank=1, raw_symbol=after),
        mapped=mapped,
        volumes=volumes,
    )
    return said.is_due, said.rule, said.evidence


DAY = dt.timedelta(days=1)


@pytest.mark.parametrize("rule", ["vendor", "volume", "calendar"])
def test_no_rule_selects_a_contract_beyond_its_last_trade_session(rule: str) -> None:
    is_due, named, evidence = verdict(rule, last_trade_session=DATE)
    assert (is_due, named) == (True, "last_trade_session")
    assert evidence == "last trade session of ESM4 is 2024-05-01"
    assert verdict(rule, after=None, last_trade_session=DATE)[0]
    assert verdict(rule, last_trade_session=DATE + DAY)[:2] == (False, rule)


def test_the_vendors_rule_follows_the_mapping_one_session_later() -> None:
    assert verdict("vendor", mapped="ESU4") == (True, "vendor", "ES.v.0 is ESU4")
    assert verdict("vendor", mapped="ESM4") == (False, "vendor", "ES.v.0 is ESM4")
    assert verdict("vendor", mapped="ESH4")[0] is False
    assert verdict("vendor", mapped=None)[0] is False


@pytest.mark.parametrize(
    ("volumes", "is_due"),
    [({"ESM4": 282_813, "ESU4": 2_253_915}, True), ({"ESM4": 5, "ESU4": 5}, False), ({}, False), ({"ESU4": 1}, True)],
)
def test_the_volume_rule_compares_what_we_have_counted(volumes: dict[str, int], is_due: bool) -> None:
    found, _, evidence = verdict("volume", volumes=volumes)
    assert found is is_due
    assert f"ESU4 {volumes.get('ESU4', 0)}, ESM4 {volumes.get('ESM4', 0)}" in evidence


def test_the_calendar_rule_knows_its_session_or_is_never_due() -> None:
    assert verdict("calendar", roll_session=DATE)[0] is True
    assert verdict("calendar", roll_session=DATE + DAY)[0] is False
    assert verdict("calendar")[0] is False


@pytest.mark.parametrize("rule", ["vendor", "volume", "calendar"])
def test_an_unresolved_next_contract_blocks_the_roll_alone(rule: str) -> None:
    is_due, _, evidence = verdict(rule, after=None, mapped=None, roll_session=DATE, volumes={"": 9})
    assert is_due is False
    assert evidence.endswith("no next contract is resolved")


AN_HOUR_BEFORE = Nanos(CLOSE - 2 * HOUR)
"""The auto-close is at 16:00 New York, an hour before the close."""
FIRST = Nanos(OPEN + MINUTE)


@pytest.mark.parametrize(
    ("policy", "rank", "days_left", "wanted"),
    [
        ("close", 0, 5, AN_HOUR_BEFORE),
        ("close_and_reopen", 0, 5, AN_HOUR_BEFORE),
        ("hold_until_exit", 0, 5, None),
        ("hold_until_exit", HELD_RANK, 5, None),
        ("hold_until_exit", HELD_RANK, 0, AN_HOUR_BEFORE),
        ("hold_until_exit", 0, 0, AN_HOUR_BEFORE),
        ("hold_until_exit", HELD_RANK, -1, FIRST),
        ("close", HELD_RANK, 5, FIRST),
        ("close", 0, -1, FIRST),
    ],
)
def test_a_position_ends_before_the_roll_and_never_in_the_first_minute(
    policy: Any, rank: int, days_left: int, wanted: Nanos | None
) -> None:
    contract = ResolvedContract(root="ES", rank=rank, raw_symbol="ESM4", last_trade_session=DATE + days_left * DAY)
    root = attrs.evolve(ES, roll_policy=policy)
    assert close_time(root, contract, session_of("ES"), StrategySettings()) == wanted


def test_a_session_that_is_over_within_the_hour_still_has_its_first_minute() -> None:
    contract = ResolvedContract(root="ES", rank=0, raw_symbol="ESM4")
    session = session_of("ES", ES=Nanos(OPEN + HOUR))
    assert close_time(ES, contract, session, StrategySettings()) == FIRST


def test_nothing_is_held_in_a_reference_root() -> None:
    contract = ResolvedContract(root="ES", rank=0, raw_symbol="ESM4", last_trade_session=DATE)
    assert close_time(attrs.evolve(ES, is_reference=True), contract, session_of("ES"), StrategySettings()) is None
