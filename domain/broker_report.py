"""What a broker says was filled and is held: the rows of a report, before they are held against the journal."""

from __future__ import annotations

from typing import Literal

import attrs

from domain.orders import Side
from domain.units import Nanos, Price

ReportKind = Literal["traderspost", "tradovate_fills", "tradovate_positions"]


@attrs.frozen(kw_only=True)
class BrokerFill:
    """One fill; an order may have several."""

    line: int
    symbol: str
    """As the broker writes it: `MESM4` or `MESM2024`."""
    side: Side | None
    """None where the report only says that a position was closed."""
    quantity: int
    price: Price
    ts: Nanos | None
    signal_id: str = ""
    """Ours, where the report carries it."""


@attrs.frozen(kw_only=True)
class BrokerPosition:
    """What is held of one contract; `quantity` is signed."""

    line: int
    symbol: str
    quantity: int


@attrs.frozen(kw_only=True)
class BrokerReport:
    """One file of a broker."""

    kind: ReportKind
    name: str
    fills: tuple[BrokerFill, ...] = ()
    positions: tuple[BrokerPosition, ...] = ()
    """The last row of each contract."""
