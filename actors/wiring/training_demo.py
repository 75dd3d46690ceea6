"""What `train --demo` learns from: sessions of the simulated market, run through the live machines."""

from __future__ import annotations

import datetime as dt
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any

import click
import numpy as np

from actors.wiring.in_process import in_process_system
from adapters.calendar import CmeCalendar
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.databento.demo_history import demo_history
from adapters.databento.market_simulator import SimulatedMarket
from adapters.databento.simulated_prices import ANCHOR_DATE
from domain.errors import OperatorError
from domain.feature_book import FeatureBook
from domain.features import FEATURE_SET_VERSION, required_bases
from domain.instruments import TradedRoot
from domain.market import FRAME_LIMIT, TradeArray
from domain.risk import RiskSettings
from domain.sessions import iso_utc
from domain.units import MINUTE, Nanos
from models.candidates import Candidates, Material, PassEverything, Row, rows_of
from models.validation import GRIDS, TrainingPlan

FEATURES = (
    "volume_z_percentile",
    "volz_pct",
    "rsixvolz",
    "ibsxvolz",
    "tlt_daily_z_score",
    "6b_daily_return",
    "ma_spread_ribbon_tightness",
    "ma_spread_daily_ribbon_tightness",
    "distance_z_entry_daily",
    "6c_daily_return",
    "ibs_pct",
    "6a_hourly_return",
    "rsi_len_14",
    "atr_z_percentile",
    "6s_hourly_return",
    "price_usd",
    "atrz_pct",
    "nq_daily_z_score",
    "ma_slope_fast",
    "6a_daily_return",
    "daily_directional_drift",
    "hourly_atr_percentile",
    "cl_hourly_z_score",
    "tlt_hourly_z_score",
    "adx_value",
    "daily_rsi_len_14",
    "nq_daily_return",
    "parabolic_sar_distance",
)
"""What the predecessor's ES model read, without its two inputs from VIX, in its order."""


PLAN = TrainingPlan(grid=GRIDS["one"], min_trades=1)
"""One forest: in a random market there is nothing to search for."""


def demo_material(*, seed: int, sessions: int, jobs: int) -> dict[str, Material]:
    """By traded root of the demo: the candidates of the last `sessions` sessions before the demo's.

    Raises OperatorError (exit 2) when a root has not a single trade.
    """
    market = SimulatedMarket(seed)
    roots = load_contract_map(CONTRACT_MAP_FILE).roots
    dates = _sessions_before(ANCHOR_DATE, sessions, roots)
    rows = _rows(market, dates, roots, jobs)
    populations = _populations(market, [root.root for root in roots if not root.is_reference])
    calendar = CmeCalendar()
    return {
        root.root: Material(
            table=Candidates.of([row for row in rows if row.root == root.root], features=FEATURES, sessions=dates),
            signal_product=root.data_product,
            market="simulated",
            populations=populations[root.root],
            training_start=iso_utc(calendar.session_on(dates[0], (root,)).open_ns),
            training_end=iso_utc(calendar.session_on(dates[-1], (root,)).end_ns),
        )
        for root in roots
        if not root.is_reference
    }


def _sessions_before(end: dt.date, count: int, roots: Sequence[TradedRoot]) -> list[dt.date]:
    """The last `count` sessions before `end`, ascending; holidays of the exchange are left out."""
    calendar = CmeCalendar()
    found: list[dt.date] = []
    day = end
    while len(found) < count:
        day -= dt.timedelta(days=1)
        try:
            session = calendar.session_on(day, roots)
        except OperatorError:
            continue
        if all(hours.close_ns == session.end_ns for hours in session.hours):
            found.append(day)
    return found[::-1]


def _rows(market: SimulatedMarket, dates: Sequence[dt.date], roots: Sequence[TradedRoot], jobs: int) -> list[Row]:
    from joblib import Parallel, delayed

    work = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_session_rows)(market.seed, date, tuple(roots)) for date in dates
    )
    rows: list[Row] = []
    with click.progressbar(work, length=len(dates), label="sessions", file=sys.stderr) as done:
        for found in done:
            rows += found
    return rows


def _session_rows(seed: int, date: dt.date, roots: Sequence[TradedRoot]) -> list[Row]:
    """One session with the veto's inputs on record: every entry passes, and no limit on positions keeps one away."""
    market = SimulatedMarket(seed)
    opens = CmeCalendar().session_on(date, roots).open_ns
    fronts = {root.root: market.continuous(f"{root.data_product}.v.0", opens) for root in roots}
    contracts = {root: front for root, front in fronts.items() if front is not None}
    system = in_process_system(
        {root: front.raw_symbol for root, front in contracts.items()},
        session=date,
        risk=RiskSettings(max_positions=len(roots)),
        history=demo_history(market, date),
        models={
            root.root: PassEverything(root=root.root, features=FEATURES) for root in roots if not root.is_reference
        },
    )
    ids = {front.instrument_id: system.instrument_id(front.raw_symbol) for front in contracts.values()}
    trades = market.session_trades(date)
    # The simulated market knows no early close: what comes after it is not of this session.
    for batch in _batches(trades[trades["ts_recv"] < system.end_ns], ids):
        system.advance(Nanos(int(batch["ts_recv"][0])), until_before=True)
        system.trades(batch)
    system.advance(system.end_ns)
    return rows_of(system.envelopes())


def _batches(trades: TradeArray, ids: dict[int, int]) -> Iterator[TradeArray]:
    """The traded contracts' records under the system's ids, cut at minutes and at the size of a frame."""
    chosen = trades[np.isin(trades["instrument_id"], sorted(ids))]
    theirs = np.array(sorted(ids), np.uint32)
    ours = np.array([ids[id] for id in sorted(ids)], np.uint32)
    chosen["instrument_id"] = ours[np.searchsorted(theirs, chosen["instrument_id"])]
    minutes = chosen["ts_recv"].astype(np.int64) // MINUTE
    for minute in np.split(chosen, np.flatnonzero(np.diff(minutes)) + 1):
        for start in range(0, len(minute), FRAME_LIMIT):
            yield minute[start : start + FRAME_LIMIT]


def _populations(market: SimulatedMarket, roots: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per root and percentile base its values over the history that ends where the training does."""
    bases = required_bases(FEATURES, FEATURE_SET_VERSION)
    book = FeatureBook(bases=dict.fromkeys(roots, bases))
    book.load(demo_history(market, ANCHOR_DATE).tables)
    populations: dict[str, dict[str, Any]] = {root: {} for root in roots}
    for state in book.percentiles():
        populations[state.root][state.base] = np.frombuffer(b64decode(state.added), "<f8")
    return populations
