"""The same ticks and the same rule in NautilusTrader 1.221. Run by the bench in an environment of its own.

    build/peer/.venv/bin/python tests/bench/peer_nautilus.py TICKS.npz

Prints one JSON line: CPU, wall and peak memory of `run()`, the bars it made and the orders it sent.
Imports nothing of ours. Ticks carry ts_recv as both of the peer's stamps, because our minutes are cut
by it; making the ticks and adding them to the engine is not timed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import DataEngineConfig, LoggingConfig, StrategyConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import Bar, BarType, TradeTick
from nautilus_trader.model.enums import AccountType, AggressorSide, AssetClass, BarAggregation, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, TradeId, TraderId, Venue
from nautilus_trader.model.instruments import FuturesContract
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

VENUE = Venue("GLBX")
SIDES = {"B": AggressorSide.BUYER, "A": AggressorSide.SELLER, "N": AggressorSide.NO_AGGRESSOR}
MINUTE_NS = 60 * 1_000_000_000
TEN_YEARS_NS = 10 * 365 * 86_400 * 1_000_000_000


class IbsConfig(StrategyConfig, frozen=True):
    """Which instruments are read, which of them are traded, and the two bands."""

    instruments: list[str]
    traded: list[str]
    entry_ibs: float
    exit_ibs: float


class HourlyIbs(Strategy):
    """Buys at the close of an hour near its low, sells at the close of one near its high."""

    def __init__(self, config: IbsConfig) -> None:
        super().__init__(config)
        self.minutes: list[Bar] = []
        self.hours: list[Bar] = []
        self._traded = set(config.traded)
        self._held: set[str] = set()

    def on_start(self) -> None:
        for instrument in self.config.instruments:
            self.subscribe_bars(BarType.from_str(f"{instrument}-1-MINUTE-LAST-INTERNAL"))
            self.subscribe_bars(BarType.from_str(f"{instrument}-1-HOUR-LAST-INTERNAL@1-MINUTE-INTERNAL"))

    def on_bar(self, bar: Bar) -> None:
        if bar.bar_type.spec.aggregation != BarAggregation.HOUR:
            self.minutes.append(bar)
            return
        self.hours.append(bar)
        name = str(bar.bar_type.instrument_id)
        high, low = float(bar.high), float(bar.low)
        if name not in self._traded or high <= low:
            return
        ibs = (float(bar.close) - low) / (high - low)
        if name not in self._held and ibs <= self.config.entry_ibs:
            self._order(bar, OrderSide.BUY)
            self._held.add(name)
        elif name in self._held and ibs >= self.config.exit_ibs:
            self._order(bar, OrderSide.SELL)
            self._held.discard(name)

    def _order(self, bar: Bar, side: OrderSide) -> None:
        self.submit_order(self.order_factory.market(bar.bar_type.instrument_id, side, Quantity.from_int(1)))


def contract(raw: dict[str, Any], first_ns: int) -> FuturesContract:
    """The instrument, with the tick size that its prices are multiples of."""
    increment = Price.from_str(raw["tick_size"])
    return FuturesContract(
        instrument_id=InstrumentId(Symbol(raw["symbol"]), VENUE),
        raw_symbol=Symbol(raw["symbol"]),
        asset_class=AssetClass.INDEX,
        currency=USD,
        price_precision=increment.precision,
        price_increment=increment,
        multiplier=Quantity.from_int(1),
        lot_size=Quantity.from_int(1),
        underlying=raw["root"],
        activation_ns=0,
        expiration_ns=first_ns + TEN_YEARS_NS,
        ts_event=0,
        ts_init=0,
    )


def ticks(records: Any, contracts: dict[int, FuturesContract]) -> list[TradeTick]:
    """One object per trade: what the engine takes."""
    made, prices, sizes = [], {}, {}
    columns = (records[name].tolist() for name in ("instrument_id", "price", "size", "side", "ts_recv"))
    for number, (id_, raw_price, size, side, ts) in enumerate(zip(*columns, strict=True)):
        instrument = contracts[id_]
        key = (raw_price, instrument.price_precision)
        price = prices.get(key)
        if price is None:
            price = prices[key] = Price(raw_price / 1e9, instrument.price_precision)
        quantity = sizes.get(size)
        if quantity is None:
            quantity = sizes[size] = Quantity.from_int(size)
        aggressor = SIDES[side.decode()]
        made.append(TradeTick(instrument.id, price, quantity, aggressor, TradeId(str(number)), ts, ts))
    return made


def after(last: TradeTick, ts: int) -> TradeTick:
    """One tick behind the session: only data moves the engine's clock past the end of the last bars."""
    return TradeTick(last.instrument_id, last.price, last.size, last.aggressor_side, TradeId("end"), ts, ts)


def row(bar: Bar) -> tuple[Any, ...]:
    """A bar as the other side writes it: symbol, end, prices in 1e-9, contracts."""
    prices = (int(price.as_decimal() * 10**9) for price in (bar.open, bar.high, bar.low, bar.close))
    # An hour made of minutes is closed 15 microseconds late, so that its last minute is in.
    end = bar.ts_event - bar.ts_event % MINUTE_NS
    return (bar.bar_type.instrument_id.symbol.value, end, *prices, int(bar.volume.as_decimal()))


def described(bars: list[Bar]) -> dict[str, Any]:
    """How many, and a digest of all values in order of (symbol, end)."""
    rows = sorted(row(bar) for bar in bars)
    return {"count": len(rows), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def main(path: Path) -> None:
    """Load, run, report."""
    file = np.load(path)
    records, facts = file["records"], json.loads(str(file["facts"]))
    first_ns = int(records["ts_recv"][0])
    contracts = {raw["instrument_id"]: contract(raw, first_ns) for raw in facts["contracts"]}
    engine = BacktestEngine(
        BacktestEngineConfig(
            trader_id=TraderId("BENCH-001"),
            logging=LoggingConfig(bypass_logging=True),
            # A minute without a trade makes no bar, as on our side.
            data_engine=DataEngineConfig(time_bars_build_with_no_updates=False),
        )
    )
    engine.add_venue(
        VENUE,
        OmsType.NETTING,
        AccountType.MARGIN,
        [Money(100_000_000, USD)],
        base_currency=USD,
        trade_execution=True,
    )
    for instrument in contracts.values():
        engine.add_instrument(instrument)
    made = ticks(records, contracts)
    made.append(after(made[-1], facts["end_ns"] + MINUTE_NS // 2))
    engine.add_data(made, sort=True)
    strategy = HourlyIbs(
        IbsConfig(
            instruments=[str(instrument.id) for instrument in contracts.values()],
            traded=[f"{symbol}.{VENUE}" for symbol in facts["traded"]],
            entry_ibs=facts["entry_ibs"],
            exit_ibs=facts["exit_ibs"],
        )
    )
    engine.add_strategy(strategy)
    count = len(records)
    del records, file, made
    gc.collect()
    before_s, started_s = time.process_time(), time.perf_counter()
    engine.run()
    cpu_s, wall_s = time.process_time() - before_s, time.perf_counter() - started_s
    if len(sys.argv) > 2:  # every bar, to see where a difference lies
        Path(sys.argv[2]).write_text(json.dumps([sorted(map(row, strategy.minutes)), sorted(map(row, strategy.hours))]))
    print(
        json.dumps(
            {
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "trades": count,
                "minutes": described(strategy.minutes),
                "hours": described(strategy.hours),
                "orders": len(engine.cache.orders()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
