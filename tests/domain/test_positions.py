"""The fill machine and the one place where money is computed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import OurError
from domain.orders import Order, OrderState
from domain.positions import Fill, limit_fill, market_fill, net_pnl
from domain.units import Nanos, Price
from tests.builders import PRICE, TICK, at, trades_of

ACCEPTED = at(10)


def accepted(side: str = "buy", limit_ticks: int | None = None, **changes: Any) -> Order:
    """An order accepted ten minutes after the open; `limit_ticks` away from PRICE."""
    values: dict[str, Any] = {
        "signal_id": "s",
        "root": "ES",
        "contract": "ESM4",
        "intent": "entry",
        "side": side,
        "quantity": 1,
        "order_type": "market" if limit_ticks is None else "limit",
        "limit_price": None if limit_ticks is None else Price(PRICE + limit_ticks * TICK),
        "reference_price": PRICE,
        "decided_ns": at(9),
        "expires_ns": None,
        "ticker": "ESM2024",
        "body": "{}",
        "state": OrderState.ACCEPTED,
        "accepted_ns": ACCEPTED,
    }
    return Order(**(values | changes))


def trades(*rows: tuple[float, int]) -> Any:
    """(seconds after the acceptance, ticks away from PRICE)."""
    return trades_of(*(("ESM4", at(10, seconds), ticks, 1) for seconds, ticks in rows))


@pytest.mark.parametrize(
    ("side", "rows", "expected"),
    [
        ("buy", [(1, 4)], (5, 1)),  # one tick adverse
        ("sell", [(1, 4)], (3, 1)),
        ("buy", [(0, 4)], (5, 0)),  # the moment of the acceptance counts
        ("buy", [(-1, 9), (1, 4), (2, 7)], (5, 1)),  # the first one after it
        ("buy", [(-2, 9), (-1, 4)], None),
        ("buy", [], None),
        ("buy", [(2, 7), (1, 4)], (8, 2)),  # arrival order, as the market told it
    ],
)
def test_a_market_order_fills_at_the_first_trade_after_its_acceptance(
    side: str, rows: list[tuple[float, int]], expected: tuple[int, int] | None
) -> None:
    fill = market_fill(accepted(side), trades(*rows), tick_size=TICK)
    if expected is None:
        assert fill is None
    else:
        ticks, seconds = expected
        assert fill == Fill(price=Price(PRICE + ticks * TICK), ts=at(10, seconds), rule="next_trade")


@pytest.mark.parametrize(
    ("side", "rows", "fills_at_s"),
    [
        ("buy", [(1, 0)], None),  # a touch is no fill
        ("buy", [(1, -1)], 1),
        ("buy", [(1, 1), (2, 0), (3, -5)], 3),
        ("sell", [(1, 0)], None),
        ("sell", [(1, 1)], 1),
        ("sell", [(1, -1)], None),
        ("buy", [(-1, -3), (1, 0)], None),  # before the acceptance
        ("buy", [(-1, -3), (0, -3)], 0),
        ("buy", [], None),
    ],
)
def test_a_limit_order_fills_at_its_limit_when_a_trade_goes_through_it(
    side: str, rows: list[tuple[float, int]], fills_at_s: int | None
) -> None:
    fill = limit_fill(accepted(side, 0), trades(*rows), tick_size=TICK)
    expected = None if fills_at_s is None else Fill(price=PRICE, ts=at(10, fills_at_s), rule="traded_through")
    assert fill == expected


@given(
    st.sampled_from(["buy", "sell"]),
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-3, 3)), max_size=12),
)
def test_no_fill_is_better_than_the_market_or_before_the_acceptance(side: str, rows: list[tuple[int, int]]) -> None:
    seen = trades(*rows)
    for fill in (
        market_fill(accepted(side), seen, tick_size=TICK),
        limit_fill(accepted(side, 0), seen, tick_size=TICK),
    ):
        if fill is not None:
            assert fill.ts >= ACCEPTED
            at_fill = [int(p) for p, ts in zip(seen["price"], seen["ts_recv"], strict=True) if ts == fill.ts]
            worse = [fill.price - p if side == "buy" else p - fill.price for p in at_fill]
            assert max(worse) >= TICK


def test_an_order_that_was_not_accepted_cannot_fill() -> None:
    with pytest.raises(OurError, match="before it is accepted"):
        market_fill(accepted(accepted_ns=None), trades((1, 0)), tick_size=TICK)
    with pytest.raises(OurError, match="no accepted limit order"):
        limit_fill(attrs.evolve(accepted("buy", 0), accepted_ns=None), trades((1, 0)), tick_size=TICK)
    with pytest.raises(OurError, match="no accepted limit order"):
        limit_fill(accepted(), trades((1, 0)), tick_size=TICK)


@pytest.mark.parametrize(
    ("entry", "exit", "quantity", "multiplier", "commission", "net"),
    [
        ("5000", "5010", 1, "50", "1.25", "497.5"),
        ("5000", "4990", 1, "50", "1.25", "-502.5"),
        ("5000", "4990", -1, "50", "1.25", "497.5"),  # a short gains when the price falls
        ("5000", "5000", 2, "50", "1.25", "-5.00"),
        ("2000.1", "2000.3", 3, "100", "0", "60"),
        ("0.0067505", "0.0067500", 1, "12500000", "1.25", "-8.75"),  # the yen: seven decimals
        ("-37.63", "-37.62", 1, "1000", "0", "10"),  # crude in April 2020
    ],
)
def test_net_pnl_of_known_trades(
    *, entry: str, exit: str, quantity: int, multiplier: str, commission: str, net: str
) -> None:
    found = net_pnl(
        entry=Price(int(Decimal(entry).scaleb(9))),
        exit=Price(int(Decimal(exit).scaleb(9))),
        quantity=quantity,
        multiplier=Decimal(multiplier),
        commission_per_side=Decimal(commission),
    )
    assert found == Decimal(net)


def test_times_of_fills_are_the_trades_own() -> None:
    fill = market_fill(accepted(), trades((1.5, 0)), tick_size=TICK)
    assert fill is not None
    assert fill.ts == Nanos(ACCEPTED + 1_500_000_000)
