"""Half an hour of four products, decided minute by minute: short enough to be run hundreds of times.

It holds entries, exits, stops, expired limits, rejections and refusals: more than 300 events that actors handle.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

from actors.wiring import parse_time
from adapters.databento.gateway import DEFAULT_SESSION
from adapters.databento.gateway_source import SimulatedSessions
from adapters.databento.market_simulator import SimulatedMarket
from domain.market import TradeArray
from domain.units import MINUTE

UNTIL = "2024-04-30T22:30Z"
PRODUCTS = {"ES": "MES", "NQ": "MNQ", "GC": "MGC", "CL": "MCL"}
REJECTED = "MCL"
STRATEGY: dict[str, Any] = {
    "decision_timeframe": "1m",
    "entry_windows": ("00:00-24:00",),
    "no_entry_before_auto_close_s": 0,
    "entry_ibs_high": 0.6,
    "exit_ibs_low": 0.6,
    "exit_after_bars": 2,
    "stop_pct": Decimal("0.03"),
    "entry_order": "limit",
}


class _ShortMarket(SimulatedMarket):
    """The simulated market, made once and cut to what the session needs."""

    @cache  # noqa: B019  (one market for all tests)
    def session_trades(self, date: dt.date) -> TradeArray:
        trades, until = super().session_trades(date), parse_time(UNTIL)
        symbols = [f"{product}.v.{rank}" for product in PRODUCTS.values() for rank in (0, 1)]
        ids = [instrument.instrument_id for s in symbols for instrument in self.resolve("continuous", s, until)]
        return trades[np.isin(trades["instrument_id"], ids) & (trades["ts_recv"] < until + MINUTE)]


MARKET = SimulatedSessions(market=_ShortMarket(1, trades_per_session=600_000), dates=(DEFAULT_SESSION,))
