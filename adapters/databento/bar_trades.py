"""Trades made of bars: what a recorded day of minutes can be played as where no trades were bought.

Each bar becomes up to four trades (open, the extreme that lies against the bar's direction, the other one, close),
spread over its interval; a price that repeats the one before is left out. Folded into bars again they give the same
open, high, low, close and volume. They are no record of what was traded: their order inside the bar, their moments
and their sizes are made up, and every one of them says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from databento_dbn import OHLCVMsg

from domain.market import TRADE_DTYPE, TRADE_LENGTH_WORDS, TRADE_RTYPE, TradeArray
from domain.units import HOUR, MINUTE, SECOND, Nanos

BAR_DTYPE = np.dtype(OHLCVMsg._dtypes)
MADE_UP_FLAGS = 0x08
"""DBN's F_BAD_TS_RECV, "ts_recv is not accurate", on every trade that was made of a bar; its side is N (none)."""
INTERVALS: dict[str, tuple[int, Nanos]] = {
    "ohlcv-1s": (32, SECOND),
    "ohlcv-1m": (33, MINUTE),
    "ohlcv-1h": (34, HOUR),
}
"""Record type and length of the schemas that can be turned into trades."""
_PLACES = np.array([0, 20, 40, 59])
"""Where in the interval the four trades lie, in sixtieths."""


def trades_of_bars(bars: npt.NDArray[np.void], interval: Nanos) -> TradeArray:
    """Records of TRADE_DTYPE, bar by bar, from records of BAR_DTYPE."""
    is_up = bars["close"] >= bars["open"]
    against, along = np.where(is_up, bars["low"], bars["high"]), np.where(is_up, bars["high"], bars["low"])
    prices = np.stack([bars["open"], against, along, bars["close"]], axis=1)
    is_kept = np.ones(prices.shape, bool)
    is_kept[:, 1:] = prices[:, 1:] != prices[:, :-1]
    count = is_kept.sum(axis=1)
    sizes = np.repeat(bars["volume"] // count, 4).reshape(-1, 4)
    sizes[:, 0] += bars["volume"] % count
    made = np.zeros(prices.shape, TRADE_DTYPE)
    made["length"], made["rtype"], made["action"], made["side"] = TRADE_LENGTH_WORDS, TRADE_RTYPE, b"T", b"N"
    made["publisher_id"] = bars["publisher_id"][:, None]
    made["instrument_id"] = bars["instrument_id"][:, None]
    made["ts_event"] = made["ts_recv"] = bars["ts_event"][:, None] + (interval // 60 * _PLACES).astype(np.uint64)
    made["price"], made["size"], made["flags"] = prices, sizes, MADE_UP_FLAGS
    return made[is_kept]
