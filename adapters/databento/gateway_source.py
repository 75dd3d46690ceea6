"""What a gateway serves: trades in segments of feed time, and the symbols they go by.

A segment is what is held in memory at once: all files, one simulated session, one
simulated minute. Sources are deterministic and know nothing of sockets or clocks.
"""

from __future__ import annotations

import datetime as dt
from typing import Protocol

import attrs
import numpy as np

from adapters.databento.dbn_files import RecordedTrades
from adapters.databento.definitions import definition_of
from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.simulated_products import session_span, simulated_tick
from adapters.databento.symbology import Instrument
from domain.errors import OperatorError
from domain.market import TradeArray
from domain.units import HOUR, MINUTE, Nanos, floor_to


class GatewaySource(Protocol):
    """Trades of consecutive segments, numbered from 0, each sorted by ts_recv."""

    @property
    def dataset(self) -> str:
        """The one dataset that may be asked for."""

    @property
    def made_of(self) -> str:
        """The schema of the bars that trades were made of; empty for trades."""

    @property
    def segment_count(self) -> int | None:
        """How many segments there are; None when they never end."""

    def span(self, segment: int) -> tuple[Nanos, Nanos]:
        """Start (inclusive, a whole minute) and end (exclusive) of a segment in feed time."""

    def segment_at(self, ts: Nanos) -> int:
        """The segment that holds `ts` or follows it; `segment_count` past the end."""

    def trades(self, segment: int) -> TradeArray:
        """The segment's records. May take a second: call it off the event loop."""

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        """The instruments that `symbol` means at feed time `at_ns`; empty when unknown."""

    def definition(self, instrument: Instrument, at_ns: Nanos) -> bytes:
        """The instrument's definition (DBN version 3), stated or made of its name at feed time `at_ns`."""


@attrs.frozen(kw_only=True, eq=False)
class RecordedSource:
    """The trades of DBN files as one segment, moved by `shift_ns` where a past day plays now."""

    recorded: RecordedTrades
    shift_ns: Nanos = Nanos(0)

    @property
    def dataset(self) -> str:
        return self.recorded.dataset

    @property
    def made_of(self) -> str:
        return self.recorded.made_of

    @property
    def segment_count(self) -> int:
        return 1

    def span(self, segment: int) -> tuple[Nanos, Nanos]:
        """The first record's minute to the minute after the last record."""
        stamps = self.recorded.trades["ts_recv"]
        first, last = Nanos(int(stamps[0])), Nanos(int(stamps[-1]))
        end = floor_to(last, MINUTE) + MINUTE
        return Nanos(floor_to(first, MINUTE) + self.shift_ns), Nanos(end + self.shift_ns)

    def segment_at(self, ts: Nanos) -> int:
        return 0 if ts < self.span(0)[1] else 1

    def trades(self, segment: int) -> TradeArray:
        if not self.shift_ns:
            return self.recorded.trades
        moved = self.recorded.trades.copy()
        for stamp in ("ts_event", "ts_recv"):
            moved[stamp] += np.uint64(self.shift_ns)
        return moved

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        return self.recorded.symbology.resolve(stype_in, symbol, Nanos(at_ns - self.shift_ns))

    def definition(self, instrument: Instrument, at_ns: Nanos) -> bytes:
        return self.recorded.definitions.get(instrument.instrument_id) or definition_of(instrument, at_ns)


def rebased_to(recorded: RecordedTrades, now_ns: Nanos) -> RecordedSource:
    """The recorded trades with their first second moved to the second after `now_ns`.

    Moved by whole seconds: sub-second spacing stays exact and nothing waits for a
    full minute. Minutes are therefore cut elsewhere than in the original.
    Raises OperatorError when the record lies in the future of `now_ns`.
    """
    second = 1_000_000_000
    first = int(recorded.trades["ts_recv"][0])
    shift = (now_ns // second + 1) * second - first // second * second
    if shift < 0:
        raise OperatorError(
            "the file's first record is later than now",
            where="--rebase now",
            fix="serve it without --rebase",
            exit_code=2,
        )
    return RecordedSource(recorded=recorded, shift_ns=Nanos(shift))


@attrs.frozen(kw_only=True, eq=False)
class SimulatedSessions:
    """Consecutive sessions of the simulated market, one segment each, with nothing between them."""

    market: SimulatedMarket
    dates: tuple[dt.date, ...]
    made_of: str = ""

    @property
    def dataset(self) -> str:
        return self.market.dataset

    @property
    def segment_count(self) -> int:
        return len(self.dates)

    def span(self, segment: int) -> tuple[Nanos, Nanos]:
        """The session's open and close."""
        return session_span(self.dates[segment])

    def segment_at(self, ts: Nanos) -> int:
        return sum(1 for date in self.dates if session_span(date)[1] <= ts)

    def trades(self, segment: int) -> TradeArray:
        return self.market.session_trades(self.dates[segment])

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        return self.market.resolve(stype_in, symbol, at_ns)

    def definition(self, instrument: Instrument, at_ns: Nanos) -> bytes:
        return definition_of(instrument, at_ns, simulated_tick(instrument))


@attrs.frozen(kw_only=True, eq=False)
class SimulatedRoundTheClock:
    """The simulated market without a session's end: one segment per minute, for real time.

    The first segment begins `look_back_ns` before `start_ns`, so that a replay has
    something to send; earlier than that there is nothing.
    """

    market: SimulatedMarket
    start_ns: Nanos
    look_back_ns: Nanos = Nanos(24 * HOUR)
    made_of: str = ""

    @property
    def dataset(self) -> str:
        return self.market.dataset

    @property
    def segment_count(self) -> None:
        return None

    def span(self, segment: int) -> tuple[Nanos, Nanos]:
        start = self._origin_ns + segment * MINUTE
        return Nanos(start), Nanos(start + MINUTE)

    def segment_at(self, ts: Nanos) -> int:
        return max(0, (ts - self._origin_ns) // MINUTE)

    def trades(self, segment: int) -> TradeArray:
        return self.market.trades_between(*self.span(segment))

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        return self.market.resolve(stype_in, symbol, at_ns)

    def definition(self, instrument: Instrument, at_ns: Nanos) -> bytes:
        return definition_of(instrument, at_ns, simulated_tick(instrument))

    @property
    def _origin_ns(self) -> Nanos:
        return floor_to(Nanos(self.start_ns - self.look_back_ns), MINUTE)
