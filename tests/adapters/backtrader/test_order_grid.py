"""Bars of one product, orders in another: prices are asked on the grid of what is ordered."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace

import attrs

from adapters.backtrader.engine import build_engine
from domain.ibs import StrategySettings
from domain.units import Price

COARSE = Price(2_000_000_000)
"""Of what is ordered; what is read ticks by quarters."""


def test_a_limit_and_a_stop_lie_on_the_ordered_products_grid(kit: SimpleNamespace) -> None:
    settings = StrategySettings(
        veto=False, warmup_bars=1, pivot_gate=False, entry_ibs_high=1.0, entry_windows=("00:00-24:00",),
        entry_order="limit", protective_stop=Decimal(1),
    )  # fmt: skip
    opened = kit.session_opened(("ES",), settings=settings)
    (root,) = opened.roots
    ordered = attrs.evolve(root, order_product="XX", order_spec=attrs.evolve(root.order_spec, tick_size=COARSE))
    journal = kit.Journal(build_engine(attrs.evolve(opened, roots=(ordered,)), None, ()))
    for closed in kit.slices_of(kit.random_minutes(("ES",), 1, seed=4)[:600]):
        journal.close(closed)
    entries = [request for request in journal.requests if request.intent == "entry"]
    assert any(request.reference_price % COARSE for request in entries)
    for request in entries:
        assert request.limit_price % COARSE == 0
        assert request.stop_price % COARSE == 0
        # Bought no higher than the close that decided it, and no further below than one tick.
        assert 0 <= request.reference_price - request.limit_price < COARSE
