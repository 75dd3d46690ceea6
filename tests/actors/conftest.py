"""A trading engine of a few lines: what the machines around it do is seen without Backtrader."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from actors.machines import MachineParts
from domain.bars import BarTable
from domain.events import (
    ContractRolled,
    Event,
    OrderRequested,
    RollDue,
    RootMemory,
    SessionOpened,
    SignalEvaluated,
    SliceClosed,
    StateCarried,
)
from domain.populations import CarriedPercentile
from domain.ports import OrderMessage
from domain.units import HOUR, SECOND, Nanos
from tests.builders import request_of


@attrs.define
class StandInEngine:
    """Implements `domain.ports.TradingEngine`: enters a root at its first minute, leaves it at its fourth.

    `heard` is what it was told, `late` the slices it was told are late.
    """

    opened: SessionOpened
    carried: StateCarried | None
    tables: tuple[BarTable, ...]
    heard: list[Event] = attrs.Factory(list)
    late: list[Nanos] = attrs.Factory(list)
    seen: dict[str, int] = attrs.Factory(dict)
    closing: Nanos | None = None
    rolls: tuple[RollDue | ContractRolled, ...] = ()

    def step(self, closed: SliceClosed, *, is_late: bool = False) -> tuple[SignalEvaluated | OrderRequested, ...]:
        self.late += [closed.ts] if is_late else []
        requests = []
        for bar in closed.minutes:
            count = self.seen[bar.root] = self.seen.get(bar.root, 0) + 1
            if count in (1, 4):
                intent = "entry" if count == 1 else "exit"
                requests.append(
                    request_of(
                        f"{intent}-{bar.root}-{closed.ts}",
                        root=bar.root,
                        contract=bar.contract,
                        intent=intent,
                        reference_price=bar.close,
                        decided_ns=closed.ts,
                        bar_ns=HOUR,
                        reason="minutes",
                    )
                )
        return tuple(requests)

    def on_clock(self, ts: Nanos) -> tuple[OrderRequested, ...]:
        return ()

    def notify(self, event: Event) -> None:
        self.heard.append(event)
        self.closing = Nanos(self.opened.session.end_ns - 900 * SECOND)

    def next_deadline(self) -> Nanos | None:
        return self.closing

    def memories(self) -> tuple[RootMemory, ...]:
        return tuple(
            RootMemory(root=root, bars_held=count, cooldown_left=0, last_exit_reason="")
            for root, count in sorted(self.seen.items())
        )

    def percentiles(self) -> tuple[CarriedPercentile, ...]:
        return tuple(
            CarriedPercentile(
                root=root, base="ibs", seed="", through_ns=Nanos(0), ranked_ns=Nanos(0), ranked=count / 4, added=""
            )
            for root, count in sorted(self.seen.items())
        )


class EngineShop:
    """Builds stand-ins and keeps what it built."""

    def __init__(self) -> None:
        self.built: list[StandInEngine] = []

    def __call__(
        self,
        opened: SessionOpened,
        carried: StateCarried | None,
        tables: Sequence[BarTable],
        rolls: Sequence[RollDue | ContractRolled] = (),
    ) -> StandInEngine:
        self.built.append(StandInEngine(opened, carried, tuple(tables), rolls=tuple(rolls)))
        return self.built[-1]


def payload_of(request: OrderRequested, opened: SessionOpened) -> OrderMessage:
    """The smallest message."""
    return OrderMessage(ticker=f"{request.root}M2024", body=f'{{"signal":"{request.signal_id}"}}')


@pytest.fixture
def shop() -> EngineShop:
    return EngineShop()


@pytest.fixture
def parts(shop: EngineShop) -> MachineParts:
    return MachineParts(build_engine=shop, build_payload=payload_of)
