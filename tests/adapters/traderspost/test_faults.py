"""The language of the local TradersPost's faults."""

from __future__ import annotations

import pytest

from adapters.traderspost.faults import RANDOM_KINDS, Fault, parse_faults
from adapters.traderspost.local_server import LocalTradersPost
from domain.errors import OperatorError


def test_a_specification_in_full() -> None:
    plan = parse_faults(
        "hang@3, 500-after-accept@5-7,delay:0.25@MES,429:7@12,rst-before-read@1,html-200@exit*2,no-trade@6E"
    )
    assert plan.of_request(3) == Fault(kind="hang", ordinals=(3, 3))
    assert [plan.of_request(number) is not None for number in (4, 5, 6, 7, 8)] == [False, True, True, True, False]
    assert plan.of_request(12) == Fault(kind="429", ordinals=(12, 12), seconds=7.0)
    assert plan.of_signal("MES", "exit", 1) == Fault(kind="delay", root="MES", seconds=0.25)
    assert plan.of_signal("6E", "entry", 9) == Fault(kind="no-trade", root="6E")
    found = [plan.of_signal("ES", "exit", attempt) for attempt in (1, 2, 3)]
    assert [fault and fault.kind for fault in found] == ["html-200", "html-200", None]
    assert plan.of_signal("ES", "entry", 1) is None
    assert parse_faults("") == parse_faults(" ") == parse_faults("")
    assert parse_faults("").of_request(1) is None


def test_all_means_every_request() -> None:
    plan = parse_faults("down:5@all")
    assert plan.of_request(1) == plan.of_request(10_000) == Fault(kind="down", ordinals=(1, None), seconds=5.0)


def test_a_random_plan_is_a_function_of_its_seed() -> None:
    played = [parse_faults("random:0.25:7").of_request(number) for number in range(1, 2001)]
    again = [parse_faults("random:0.25:7").of_request(number) for number in range(1, 2001)]
    other = [parse_faults("random:0.25:8").of_request(number) for number in range(1, 2001)]
    assert played == again != other
    kinds = [fault.kind for fault in played if fault]
    assert 400 < len(kinds) < 600
    assert set(kinds) == set(RANDOM_KINDS)
    chosen = parse_faults("hang@2,random:1:7:429+no-trade")
    assert {fault.kind for number in range(3, 50) if (fault := chosen.of_request(number))} == {"429", "no-trade"}
    assert chosen.of_request(2) == Fault(kind="hang", ordinals=(2, 2))
    assert parse_faults("random:0:7").of_request(1) is None


@pytest.mark.parametrize(
    "spec",
    [
        "hang",
        "hang@",
        "hang@0",
        "hang@-1",
        "hang@5-3",
        "hang@5-",
        "hang@mes",
        "hang@1,",
        "hang@1*2",
        "hang@all*2",
        "hang@exit*0",
        "hangs@1",
        "delay@1",
        "delay:-1@1",
        "delay:x@1",
        "delay:601@1",
        "429:9999@1",
        "hang:3@1",
        "rst-before-read@MES",
        "down@exit",
        "hang@1 500@2",
        "random",
        "random:0.5",
        "random:1.5:1",
        "random:x:1",
        "random:0.5:1:boom",
        "random:0.5:1:delay",
        "random:0.5:1@exit",
    ],
)
def test_what_is_not_understood_is_refused(spec: str) -> None:
    with pytest.raises(OperatorError, match="--faults"):
        parse_faults(spec)
    with pytest.raises(OperatorError):
        LocalTradersPost(faults=spec)
