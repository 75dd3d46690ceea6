"""Feeds of completed bars: `SliceFeed` for the stepped engine, `BarFeed` for a plain backtest.

Backtrader's stamps are close times, naive, in the exchange's local time (it cannot
carry a zone without pytz). CME's clock changes fall into the weekend close; a market
that trades through them repeats an hour of stamps, which `nanos_of` can tell apart.
Prices become floats here and nowhere else. Both feeds have a line `length_s`, the
bar's length in seconds: Backtrader keeps only its end, and the first or last hour of
a session may be short.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import backtrader as bt

from domain.bars import Bar, Timeframe
from domain.errors import OurError
from domain.sessions import EXCHANGE_ZONE, to_nanos
from domain.units import PRICE_SCALE, SECOND, Nanos, float_to_price

TIMEFRAMES: dict[Timeframe, dict[str, Any]] = {
    "1m": {"timeframe": bt.TimeFrame.Minutes, "compression": 1},
    "1h": {"timeframe": bt.TimeFrame.Minutes, "compression": 60},
    "1d": {"timeframe": bt.TimeFrame.Days, "compression": 1},
}
"""Backtrader's words for a timeframe: keyword arguments of every feed."""

_SECONDS_PER_DAY = 86_400
_DAY_ONE = dt.datetime(1, 1, 1)  # noqa: DTZ001 - Backtrader counts naive local days from here


def feed_name(root: str, timeframe: Timeframe, contract: str | None = None) -> str:
    """`ES@1m`; `ES@1m:MESM4` for a contract that is held after its root has rolled away from it."""
    return f"{root}@{timeframe}" + (f":{contract}" if contract else "")


def stamp_of(ts: Nanos) -> float:
    """Backtrader's number (days since year 1) of `ts` in naive exchange time, cut to the microsecond."""
    seconds, nanos = divmod(ts, SECOND)
    local = dt.datetime.fromtimestamp(seconds, EXCHANGE_ZONE).replace(microsecond=nanos // 1000, tzinfo=None)
    return float(bt.date2num(local))


def nanos_of(stamp: float, *, after: Nanos | None = None) -> Nanos:
    """The UTC nanoseconds of a stamp on a whole second.

    In autumn an hour of stamps means two moments: the first one, unless that is not later than `after`.
    """
    naive = _DAY_ONE + dt.timedelta(seconds=round(stamp * _SECONDS_PER_DAY) - _SECONDS_PER_DAY)
    ts = to_nanos(naive.replace(tzinfo=EXCHANGE_ZONE))
    if after is not None and ts <= after:
        return max(ts, to_nanos(naive.replace(tzinfo=EXCHANGE_ZONE, fold=1)))
    return ts


class _ClosedBars(bt.feed.DataBase):  # type: ignore[misc]  # backtrader has no types
    """What both feeds share: the extra line, and how a bar is written into the lines."""

    lines: Any = ("length_s",)

    def _write(self, stamp: float, ts: Nanos, bar: Bar) -> None:
        lines = self.lines
        lines.datetime[0] = stamp
        lines.open[0] = bar.open / PRICE_SCALE
        lines.high[0] = bar.high / PRICE_SCALE
        lines.low[0] = bar.low / PRICE_SCALE
        lines.close[0] = bar.close / PRICE_SCALE
        lines.volume[0] = bar.volume
        lines.openinterest[0] = 0.0
        lines.length_s[0] = (ts - bar.ts_start) / SECOND


class BarFeed(_ClosedBars):
    """A list of bars for `cerebro.run()`; `bars` oldest first."""

    params = (("bars", ()),)

    def start(self) -> None:
        super().start()
        bars: Sequence[Bar] = self.p.bars
        self._left: Iterator[Bar] = iter(bars)

    def _load(self) -> bool:
        bar = next(self._left, None)
        if bar is None:
            return False
        self._write(stamp_of(bar.ts_end), bar.ts_end, bar)
        return True


class SliceFeed(_ClosedBars):
    """Holds at most one bar, the one of the running turn. Only `StepCerebro` fills it."""

    def start(self) -> None:
        super().start()
        self._pending: tuple[float, Nanos, Bar] | None = None
        aliases = (alias for alias in self.getlinealiases() if alias != "datetime")
        self._ticks = [(f"tick_{alias}", getattr(self.lines, alias)) for alias in aliases]

    def __len__(self) -> int:
        # Backtrader's answer, which it asks three objects for: a strategy wants it of every feed, three times a turn.
        length: int = self.line.lencount
        return length

    def _tick_fill(self, force: bool = False) -> None:
        # What Backtrader's does, which looks up every line by its name for every bar.
        if force or self.tick_close is None:
            for name, line in self._ticks:
                setattr(self, name, line[0])
            self.tick_last = self.tick_close

    def offer(self, stamp: float, ts: Nanos, bar: Bar) -> None:
        """The bar of the coming turn. Raises OurError when there is one already."""
        if self._pending is not None:
            raise OurError(f"{self._name} got two bars in the slice at {ts}")
        self._pending = (stamp, ts, bar)

    @property
    def has_bar(self) -> bool:
        """A bar is waiting for its turn."""
        return self._pending is not None

    def islive(self) -> bool:
        return True  # preload and runonce are off

    def haslivedata(self) -> bool:
        return True  # nobody waits for a queue

    def do_qcheck(self, onoff: bool, qlapse: float) -> None:
        """Nothing to wait for."""

    def _load(self) -> bool | None:
        if self._pending is None:
            return None
        stamp, ts, bar = self._pending
        self._pending = None
        self._write(stamp, ts, bar)
        return True


def bar_of_lines(root: str, lines: Any, ts: Nanos) -> Bar:
    """The bar that ended at `ts` and stands in a feed's lines. Its contract and its number of trades are not kept."""
    return Bar(
        root=root,
        contract="",
        ts_start=Nanos(ts - round(lines.length_s[0] * SECOND)),
        ts_end=ts,
        open=float_to_price(lines.open[0]),
        high=float_to_price(lines.high[0]),
        low=float_to_price(lines.low[0]),
        close=float_to_price(lines.close[0]),
        volume=round(lines.volume[0]),
        trades=0,
    )
