"""Bars: the pure fold of trades into minutes, of minutes into hours and sessions.

A minute is `floor(ts_recv)` to the minute, start inclusive, end exclusive, like the
vendor's `ohlcv-1m`. Open and close are the first and last trade in arrival order;
one bar holds one contract. No trade, no bar.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs
import numpy as np
import numpy.typing as npt

from domain.units import Nanos, Price

Timeframe = Literal["1m", "1h", "1d"]


@attrs.frozen(kw_only=True)
class Bar:
    """Open, high, low, close (1e-9 prices), contracts traded and number of trades in [ts_start, ts_end)."""

    root: str
    contract: str
    ts_start: Nanos
    ts_end: Nanos
    open: Price
    high: Price
    low: Price
    close: Price
    volume: int
    trades: int
    is_outside_hours: bool = False
    """True when a trade of this bar lies outside the calendar's hours of its root."""


def merge_bars(first: Bar, second: Bar) -> Bar:
    """The bar over both, `second` being the later one of the same contract; the span is `first`'s."""
    # Written out: attrs.evolve would cost four times as much, twice for every minute of every contract.
    return Bar(
        root=first.root,
        contract=first.contract,
        ts_start=first.ts_start,
        ts_end=first.ts_end,
        open=first.open,
        high=first.high if first.high >= second.high else second.high,
        low=first.low if first.low <= second.low else second.low,
        close=second.close,
        volume=first.volume + second.volume,
        trades=first.trades + second.trades,
        is_outside_hours=first.is_outside_hours or second.is_outside_hours,
    )


BAR_COLUMNS = ("ts_start", "ts_end", "open", "high", "low", "close", "volume", "trades")


@attrs.frozen(kw_only=True)
class BarTable:
    """Bars of one root and timeframe in columns, oldest first: how history travels and is stored.

    `data` is int64 of shape (n, 8) in the order of BAR_COLUMNS; `contracts` names each row's contract.
    """

    root: str
    timeframe: Timeframe
    contracts: tuple[str, ...]
    data: npt.NDArray[np.int64] = attrs.field(eq=attrs.cmp_using(eq=np.array_equal), repr=lambda a: f"<{a.shape}>")

    def __attrs_post_init__(self) -> None:
        if self.data.shape != (len(self.contracts), len(BAR_COLUMNS)):
            raise ValueError(
                f"{self.root} {self.timeframe}: data is {self.data.shape}, contracts {len(self.contracts)}"
            )

    def __len__(self) -> int:
        return len(self.contracts)

    def bars(self) -> Iterable[Bar]:
        """Each row as a Bar, oldest first."""
        for contract, row in zip(self.contracts, self.data.tolist(), strict=True):
            start, end, open_, high, low, close, volume, trades = row
            yield Bar(
                root=self.root,
                contract=contract,
                ts_start=Nanos(start),
                ts_end=Nanos(end),
                open=Price(open_),
                high=Price(high),
                low=Price(low),
                close=Price(close),
                volume=volume,
                trades=trades,
            )

    @classmethod
    def of_bars(cls, root: str, timeframe: Timeframe, bars: Iterable[Bar]) -> BarTable:
        """The table of `bars`, oldest first. The flag for trades outside hours is not kept."""
        rows = list(bars)
        return cls(
            root=root,
            timeframe=timeframe,
            contracts=tuple(bar.contract for bar in rows),
            data=np.array([[getattr(bar, column) for column in BAR_COLUMNS] for bar in rows], np.int64).reshape(
                len(rows), len(BAR_COLUMNS)
            ),
        )
