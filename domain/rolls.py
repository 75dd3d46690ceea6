"""Rolls: which contract a root trades, and when it moved to the next.

A roll takes effect at a session's open only. History across it is shifted by the
journaled price difference of the two contracts; without a known difference the
root's history ends there and its warm-up starts again.
"""

from __future__ import annotations

import attrs

from domain.units import Nanos, Price


@attrs.frozen(kw_only=True)
class RollSeam:
    """Where a root's history changes contracts: `difference` = new price - old price at `ts`."""

    root: str
    from_contract: str
    to_contract: str
    ts: Nanos
    difference: Price
