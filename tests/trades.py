"""Trades of a made-up market, for training: the first of three inputs is worth something, or nothing is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from domain.units import HOUR, Nanos
from models.candidates import Candidates, Row
from models.validation import TrainingPlan

DAY = 24 * HOUR
SESSIONS = [dt.date(2024, 1, 1) + dt.timedelta(days=number) for number in range(60)]
FEATURES = ("skill", "noise", "more_noise")
FOREST = {"n_estimators": 10, "max_depth": 3, "min_samples_leaf": 5}
PLAN = TrainingPlan(grid=(FOREST,), seed=3)


def market(edge: float, seed: int = 0, trades: int = 8, drift: float = -3) -> list[Row]:
    """Trades of every session, an hour each; the first input is worth `edge` USD per unit, the rest is noise."""
    chance = np.random.default_rng(seed)
    rows = []
    for number, session in enumerate(SESSIONS):
        for trade in range(trades):
            values = chance.normal(size=3)
            pnl = edge * values[0] + chance.normal() * 20 + drift
            decided = number * DAY + trade * HOUR
            rows.append(
                Row(
                    root="ES",
                    session=session,
                    decided_ns=Nanos(decided),
                    exit_ns=Nanos(decided + HOUR),
                    values=tuple(values.tolist()),
                    pnl=Decimal(str(round(pnl, 2))),
                )
            )
    return rows


def table_of(rows: Sequence[Row]) -> Candidates:
    return Candidates.of(rows, features=FEATURES, sessions=SESSIONS)
