"""The simulated market's laws: one seed is one market, and its shape is that of a real feed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from adapters.databento.market_simulator import SimulatedMarket, session_dates
from adapters.databento.simulated_history import RootHistory
from adapters.databento.simulated_prices import SimulatedPrices, wall_clock_s
from adapters.databento.simulated_products import PRODUCTS, session_date, session_span
from domain.errors import OperatorError
from domain.market import TRADE_DTYPE, TradeArray
from domain.units import HOUR, MINUTE, SECOND, Nanos

DAY = dt.date(2024, 5, 1)
OPEN, CLOSE = session_span(DAY)
TRADED = ("MES", "MNQ", "M2K", "MYM", "MGC", "SIL", "MHG", "MCL", "MNG", "M6A", "M6B", "M6E")
REFERENCES = ("PL", "6C", "6J", "6M", "6N", "6S", "ZB")


@pytest.fixture(scope="module")
def market() -> SimulatedMarket:
    return SimulatedMarket(11)


@pytest.fixture(scope="module")
def trades(market: SimulatedMarket) -> TradeArray:
    return market.session_trades(DAY)


@pytest.fixture(scope="module")
def history(market: SimulatedMarket) -> dict[str, RootHistory]:
    return {found.product: found for found in market.history(DAY)}


def of_contract(market: SimulatedMarket, trades: TradeArray, symbol: str, at_ns: Nanos = OPEN) -> TradeArray:
    instrument = market.continuous(symbol, at_ns)
    assert instrument is not None
    found: TradeArray = trades[trades["instrument_id"] == instrument.instrument_id]
    return found


def by_product(trades: TradeArray) -> Iterator[tuple[int, TradeArray]]:
    for product in PRODUCTS:
        yield product.tick_size, trades[(trades["instrument_id"] - 100_000) // 1_000 == product.index]


def test_one_seed_is_one_market_whatever_is_asked_first(trades: TradeArray) -> None:
    other = SimulatedMarket(11)
    other.session_trades(dt.date(2024, 5, 3))
    other.history(dt.date(2024, 5, 2))
    assert other.session_trades(DAY).tobytes() == trades.tobytes()


def test_other_seeds_and_other_dates_are_other_markets(trades: TradeArray) -> None:
    assert SimulatedMarket(12).session_trades(DAY)[:100].tobytes() != trades[:100].tobytes()
    next_day = SimulatedMarket(11).session_trades(dt.date(2024, 5, 2))
    assert next_day["price"][:100].tobytes() != trades["price"][:100].tobytes()


def test_records_are_the_vendors_trades_in_order_of_arrival(trades: TradeArray) -> None:
    assert trades.dtype == TRADE_DTYPE
    assert set(trades["length"].tolist()) == {12}
    assert set(trades["rtype"].tolist()) == {0}
    assert set(trades["action"].tolist()) == {b"T"}
    assert set(trades["side"].tolist()) == {b"A", b"B", b"N"}
    assert bool(np.all(trades["ts_recv"][1:] >= trades["ts_recv"][:-1]))
    assert bool(np.all(trades["ts_recv"] > trades["ts_event"]))
    assert bool(np.all(trades["sequence"][1:] >= trades["sequence"][:-1]))
    assert 1 <= trades["size"].min() <= trades["size"].max() <= 200


def test_every_trade_lies_inside_the_session_and_the_last_ones_at_its_end(trades: TradeArray) -> None:
    assert trades["ts_event"].min() >= OPEN
    assert trades["ts_recv"].max() < CLOSE
    assert trades["ts_recv"].max() > CLOSE - 5 * SECOND
    assert trades["ts_recv"].min() < OPEN + 10 * SECOND


@pytest.mark.parametrize("count", [50_000, 1_000_000])
def test_a_session_has_about_as_many_trades_as_asked(count: int) -> None:
    made = len(SimulatedMarket(1, trades_per_session=count).session_trades(DAY))
    assert 0.9 * count < made < 1.1 * count


def test_prices_are_ticks_near_their_level(trades: TradeArray) -> None:
    for (tick, records), product in zip(by_product(trades), PRODUCTS, strict=True):
        prices = records["price"]
        assert len(prices) > 1_000, product.product
        assert not np.any(prices % tick), product.product
        assert 0.8 * product.level < prices.min() / 1e9 < prices.max() / 1e9 < 1.25 * product.level
        assert np.max(np.abs(np.diff(np.sort(prices)))) < 0.05 * prices.min(), product.product


def test_both_contracts_of_every_product_trade_and_the_next_one_little(
    market: SimulatedMarket, trades: TradeArray
) -> None:
    for product in (*TRADED, *REFERENCES):
        front = of_contract(market, trades, f"{product}.v.0")
        following = of_contract(market, trades, f"{product}.v.1")
        assert 0.02 < len(following) / len(front) < 0.07, product
        assert following["price"].mean() != front["price"].mean()


def test_fills_of_one_order_share_their_stamps_and_some_records_repeat(trades: TradeArray) -> None:
    same = trades["ts_event"][1:] == trades["ts_event"][:-1]
    assert 0.3 < same.mean() < 0.8
    repeated = np.flatnonzero(trades[1:] == trades[:-1])
    assert 5 < len(repeated) < 0.001 * len(trades)


def test_some_events_arrive_out_of_order(trades: TradeArray) -> None:
    backwards = np.diff(trades["ts_event"].astype(np.int64)) < 0
    assert 0 < backwards.sum() < 0.01 * len(trades)
    latency = trades["ts_recv"] - trades["ts_event"]
    assert 20_000 < np.median(latency) < 1_000_000
    assert latency.max() < 50_000_000


def test_asia_is_quiet_and_new_york_is_busy(trades: TradeArray) -> None:
    hours = np.bincount(((trades["ts_recv"] - np.uint64(OPEN)) // np.uint64(HOUR)).astype(np.int64), minlength=23)
    assert hours[15] + hours[16] > 4 * (hours[3] + hours[4])
    assert hours[9] > 1.5 * hours[5]


def test_quiet_roots_have_empty_minutes_and_holes_of_several(market: SimulatedMarket, trades: TradeArray) -> None:
    minutes = np.unique(of_contract(market, trades, "M6B.v.0")["ts_recv"] // np.uint64(MINUTE))
    assert len(minutes) < 1_000
    assert np.diff(minutes).max() >= 5
    busy = np.unique(of_contract(market, trades, "MNQ.v.0")["ts_recv"] // np.uint64(MINUTE))
    assert len(busy) > 1_200


def test_at_least_one_stretch_of_two_minutes_is_silent_in_every_root(trades: TradeArray) -> None:
    gaps = np.diff(trades["ts_recv"].astype(np.int64))
    assert 120 * SECOND < gaps.max() < 600 * SECOND


def test_some_roots_move_more_than_a_percent_and_not_all(market: SimulatedMarket, trades: TradeArray) -> None:
    ranges = []
    for product in TRADED:
        prices = of_contract(market, trades, f"{product}.v.0")["price"]
        ranges.append(prices.max() / prices.min() - 1)
    assert sum(moved > 0.01 for moved in ranges) >= 4
    assert max(ranges) < 0.12


def test_hours_often_close_at_an_extreme(history: dict[str, RootHistory]) -> None:
    for product in TRADED:
        hours = history[product].hours
        spread = np.maximum(hours.high - hours.low, 1)
        strength = (hours.close - hours.low) / spread
        assert (strength <= 0.2).mean() > 0.2, product
        assert (strength >= 0.8).mean() > 0.2, product


def test_history_is_three_months_of_hours_and_two_years_of_sessions(history: dict[str, RootHistory]) -> None:
    assert sorted(history) == sorted([*TRADED, *REFERENCES])
    assert history["ZB"].root == "TLT"
    for found in history.values():
        assert len(found.hours.ts_start) == 61 * 23 == len(found.hours.contract)
        assert len(found.days.ts_start) == 504 == len(found.days.contract)
        assert set((found.hours.ts_end - found.hours.ts_start).tolist()) == {HOUR}
        assert set((found.days.ts_end - found.days.ts_start).tolist()) == {23 * HOUR}
        for bars in (found.hours, found.days):
            assert bool(np.all(np.diff(bars.ts_start) > 0))
            assert bool(np.all(bars.low <= np.minimum(bars.open, bars.close)))
            assert bool(np.all(bars.high >= np.maximum(bars.open, bars.close)))
            assert bars.low.min() > 0
            assert bars.volume.min() > 0
            assert bool(np.all(bars.volume >= bars.trades))


def test_day_bars_are_the_fold_of_the_hours_they_cover(history: dict[str, RootHistory]) -> None:
    found = history["MCL"]
    assert found.days.high[-1] == found.hours.high[-23:].max()
    assert found.days.close[-2] == found.hours.close[-24]
    assert found.days.ts_start[-61] == found.hours.ts_start[0]


def test_history_joins_the_first_trade(
    market: SimulatedMarket, trades: TradeArray, history: dict[str, RootHistory]
) -> None:
    for product in TRADED:
        found = history[product]
        first = int(of_contract(market, trades, f"{product}.v.0")["price"][0])
        rolled = [change.difference for change in found.rolls if change.session == DAY]
        close = int(found.hours.close[-1]) + sum(rolled)
        assert abs(first / close - 1) < 0.006, product
        assert found.hours.ts_end[-1] == OPEN - HOUR


def test_sessions_join_each_other(market: SimulatedMarket, trades: TradeArray) -> None:
    monday = market.session_trades(dt.date(2024, 5, 6))
    friday = market.session_trades(dt.date(2024, 5, 3))
    last = int(of_contract(market, friday, "MES.v.0")["price"][-1])
    first = int(of_contract(market, monday, "MES.v.0")["price"][0])
    assert abs(first / last - 1) < 0.004


def test_prices_in_history_are_those_of_the_contract_named(history: dict[str, RootHistory]) -> None:
    found = history["MNG"]
    for change in found.rolls[:-1]:
        days = found.days
        place = days.contract.index(change.new)
        assert days.contract[place - 1] == change.old
        assert days.ts_end[place - 1] == change.last_common_ns
    assert history["MES"].rolls[-1].old == "MESH4"
    assert history["MES"].rolls[-1].difference > 0


def test_copper_alone_rolls_and_only_at_the_open_of_the_first_of_may(
    market: SimulatedMarket, history: dict[str, RootHistory]
) -> None:
    def front(at_ns: int) -> str:
        instrument = market.continuous("MHG.v.0", Nanos(at_ns))
        assert instrument is not None
        return instrument.raw_symbol

    assert [front(OPEN - 1), front(OPEN)] == ["MHGK4", "MHGN4"]
    assert [found.product for found in history.values() if found.rolls[-1].session == DAY] == ["MHG"]
    assert history["MHG"].hours.contract[-1] == "MHGK4"
    for product in PRODUCTS:
        fronts = {product.contracts(dt.date(2024, 4, 29) + dt.timedelta(days=i))[0] for i in range(5)}
        assert len(fronts) == (2 if product.product == "MHG" else 1)


def test_the_contract_that_was_left_trades_on_for_some_days(market: SimulatedMarket, trades: TradeArray) -> None:
    (old,) = market.resolve("raw_symbol", "MHGK4", OPEN)
    assert (trades["instrument_id"] == old.instrument_id).sum() > 100
    assert market.resolve("raw_symbol", "MHGK4", session_span(dt.date(2024, 5, 20))[0]) == ()


@pytest.mark.parametrize(
    ("product", "front", "following"),
    [("MES", "MESM4", "MESU4"), ("MGC", "MGCM4", "MGCQ4"), ("SIL", "SILN4", "SILU4"), ("MCL", "MCLM4", "MCLN4"),
     ("MNG", "MNGM4", "MNGN4"), ("M6E", "M6EM4", "M6EU4"), ("PL", "PLN4", "PLV4"), ("ZB", "ZBM4", "ZBU4"),
     ("MHG", "MHGN4", "MHGU4")],
)  # fmt: skip
def test_contracts_follow_the_products_month_cycle(
    market: SimulatedMarket, product: str, front: str, following: str
) -> None:
    names = [market.resolve("continuous", f"{product}.v.{rank}", OPEN)[0].raw_symbol for rank in (0, 1)]
    assert names == [front, following]
    parent = market.resolve("parent", f"{product}.FUT", OPEN)
    assert [instrument.raw_symbol for instrument in parent][:2] == names


@pytest.mark.parametrize(
    ("stype_in", "symbol"),
    [("continuous", "ES.v.0"), ("continuous", "MES.v.2"), ("continuous", "MES.x.0"), ("continuous", "MES"),
     ("raw_symbol", "MESX4"), ("raw_symbol", "NOPE"), ("parent", "MES"), ("parent", "ES.FUT"),
     ("instrument_id", "1"), ("smart", "MESM4")],
)  # fmt: skip
def test_unknown_symbols_mean_nothing(market: SimulatedMarket, stype_in: str, symbol: str) -> None:
    assert market.resolve(stype_in, symbol, OPEN) == ()


def test_sessions_skip_weekends_and_follow_daylight_saving() -> None:
    assert session_dates(dt.date(2024, 5, 3), 2) == (dt.date(2024, 5, 3), dt.date(2024, 5, 6))
    with pytest.raises(OperatorError, match="Saturday"):
        session_dates(dt.date(2024, 5, 4), 1)
    assert session_span(dt.date(2024, 3, 8))[0] % (24 * HOUR) == 23 * HOUR
    assert session_span(dt.date(2024, 3, 11))[0] % (24 * HOUR) == 22 * HOUR


@pytest.mark.parametrize(
    ("moment", "date"),
    [("2024-04-30T21:59:59+00:00", "2024-04-30"), ("2024-04-30T22:00:00+00:00", "2024-05-01"),
     ("2024-05-03T22:00:00+00:00", "2024-05-06"), ("2024-05-05T12:00:00+00:00", "2024-05-06"),
     ("2024-05-03T20:59:00+00:00", "2024-05-03")],
)  # fmt: skip
def test_a_moment_belongs_to_the_session_that_opened_last(moment: str, date: str) -> None:
    stamp = int(dt.datetime.fromisoformat(moment).timestamp()) * SECOND
    assert session_date(Nanos(stamp)) == dt.date.fromisoformat(date)


def test_round_the_clock_any_cut_gives_the_same_trades() -> None:
    market = SimulatedMarket(3)
    saturday = Nanos(int(dt.datetime(2026, 3, 7, 12, tzinfo=dt.UTC).timestamp()) * SECOND)
    end = Nanos(saturday + 3 * MINUTE)
    whole = market.trades_between(saturday, end)
    cuts = [saturday, Nanos(saturday + 17 * SECOND), Nanos(saturday + 61 * SECOND), end]
    parts = [market.trades_between(a, b) for a, b in pairwise(cuts)]
    assert b"".join(part.tobytes() for part in parts) == whole.tobytes()
    assert len(whole) > 300
    assert bool(np.all(whole["ts_recv"][1:] >= whole["ts_recv"][:-1]))
    assert whole["ts_recv"].min() >= saturday
    assert whole["ts_recv"].max() < end
    assert len(market.trades_between(saturday, saturday)) == 0
    for tick, records in by_product(whole):
        assert not np.any(records["price"] % tick)


def test_history_round_the_clock_joins_the_trades_round_the_clock() -> None:
    market = SimulatedMarket(3)
    day = dt.date(2026, 3, 10)
    close = session_span(dt.date(2026, 3, 9))[1]
    trades = market.trades_between(close, Nanos(close + MINUTE))
    for found in market.history(day, round_the_clock=True):
        if found.product in ("MES", "MNQ", "MGC", "MCL"):
            first = of_contract(market, trades, f"{found.product}.v.0", close)["price"][0]
            assert abs(int(first) / int(found.hours.close[-1]) - 1) < 0.002, found.product


def test_the_two_ways_to_ask_for_a_price_agree() -> None:
    prices = SimulatedPrices(5)
    stamps = np.array([OPEN + i * 7 * SECOND for i in range(50)])
    for product in PRODUCTS:
        contract = product.contracts(DAY)[0]
        path = prices.path(product, contract, stamps, wall_clock_s(stamps))
        spots = [prices.spots_at(Nanos(int(ts)))[product.index] * product.premium(contract, Nanos(int(ts)))
                 for ts in stamps]  # fmt: skip
        assert np.allclose(path, spots, rtol=1e-12)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(OperatorError, match="--seed"):
        SimulatedMarket(-1)
