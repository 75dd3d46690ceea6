"""From recorded decisions to a bundle: rows, purged walk-forward, threshold, untouched hold-out.

The rows come from journals: a session is run with a model that lets every entry pass
(`PassEverything`), so that each row holds what the veto would have been asked, as the live
machines computed it, and what became of the entry by the live rules of fills and costs.

Order of time is kept everywhere: sessions are cut into blocks, a fold trains on what had
ended before its block began, the threshold is chosen on those folds alone, and the last
sessions are looked at once, when everything is fixed. A result that is no better than
"no veto" is reported as such.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from domain.envelope import Envelope
from domain.errors import OperatorError, OurError
from domain.events import FillAssumed, OrderRequested, SessionOpened, VetoScored
from domain.features import BASES, FEATURE_SET_VERSION
from domain.units import HOUR, Nanos
from domain.veto import Score

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TRADING_DAYS = 252
"""Sessions of a year, for the Sharpe ratio."""
LABEL = "1 when the trade's net P&L, with assumed fills one tick worse and both commissions, is above 0"


@attrs.frozen(kw_only=True)
class PassEverything:
    """A `VetoModel` that lets every entry pass; what it is asked stays on record for training."""

    root: str
    features: tuple[str, ...]
    feature_set: str = FEATURE_SET_VERSION
    digest: str = "passes everything"
    threshold: float = 0.5
    populations: Mapping[str, tuple[float, ...]] = attrs.field(factory=lambda: dict.fromkeys(BASES, ()))
    trained_until_ns: Nanos = Nanos(0)

    def score(self, vector: Sequence[float]) -> Score:
        return Score(probability=1.0, bias=1.0, contributions=(0.0,) * len(vector))


@attrs.frozen(kw_only=True)
class Row:
    """One entry: what the veto would have been asked, and what came of it."""

    root: str
    session: dt.date
    decided_ns: Nanos
    """The end of the decision bar."""
    exit_ns: Nanos
    """When the outcome was known."""
    values: tuple[float, ...]
    pnl: Decimal
    """Net, in the account's currency."""


def rows_of(envelopes: Iterable[Envelope]) -> list[Row]:
    """The closed trades of one session's record, in the order of their exits, with the vectors of their entries."""
    rows: list[Row] = []
    session = dt.date.min
    scored: dict[str, VetoScored] = {}
    entered: dict[str, VetoScored] = {}
    held: dict[str, VetoScored] = {}
    for envelope in envelopes:
        match envelope.payload:
            case SessionOpened() as opened:
                session = opened.session.date
            case VetoScored() as score:
                scored[score.root] = score
            case OrderRequested(intent="entry") as request:
                entered[request.signal_id] = scored[request.root]
            case FillAssumed(intent="entry") as fill:
                held[fill.root] = entered.pop(fill.signal_id)
            case FillAssumed(intent="exit", pnl=pnl) as fill if pnl is not None:
                score = held.pop(fill.root)
                rows.append(
                    Row(
                        root=fill.root,
                        session=session,
                        decided_ns=score.ts,
                        exit_ns=fill.ts,
                        values=score.values,
                        pnl=pnl,
                    )
                )
            case _:
                pass
    return rows


# ----------------------------------------------------------------- training


@attrs.frozen(kw_only=True)
class TrainingPlan:
    """How a root's forest is trained and its threshold found."""

    folds: int = 4
    hold_out_share: float = 0.25
    """Of the sessions, the last ones."""
    embargo_ns: Nanos = Nanos(HOUR)
    """Between the outcome of a row that a fold may learn from and the first decision it is tested on."""
    kept_share: float = 0.4
    """A threshold must let at least this share of the folds' trades pass."""
    params: Mapping[str, Any] = attrs.field(
        factory=lambda: {
            "n_estimators": 100,
            "max_depth": 4,
            "min_samples_leaf": 8,
            "max_features": "sqrt",
            "class_weight": None,
        }
    )
    seed: int = 1


@attrs.frozen(kw_only=True)
class Trained:
    """A fitted forest with the threshold and the results that belong to it."""

    estimator: RandomForestClassifier
    threshold: float
    metrics: Mapping[str, Any]
    folds: tuple[Mapping[str, Any], ...]
    data_digest: str
    """Hex sha256 of the rows."""


@attrs.frozen(kw_only=True)
class _Table:
    """Rows in columns, in the order of their decisions."""

    rows: tuple[Row, ...]
    values: npt.NDArray[np.float64]
    wins: npt.NDArray[np.int64]
    pnl: npt.NDArray[np.float64]
    decided: npt.NDArray[np.int64]
    exits: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    """Ordinals of the dates."""


def train(rows: Sequence[Row], sessions: Sequence[dt.date], plan: TrainingPlan) -> Trained:
    """Train one root. `sessions`: all that were run, ascending, those without a trade too.

    Raises OperatorError when there are too few trades to learn from or to test on.
    """
    table = _table_of(rows)
    held_out = math.ceil(len(sessions) * plan.hold_out_share)
    development, hold_out = sessions[:-held_out], sessions[-held_out:]
    blocks = np.array_split([day.toordinal() for day in development], plan.folds + 1)
    is_hold_out = table.sessions >= hold_out[0].toordinal()
    folds: list[dict[str, Any]] = []
    unseen = np.full(len(table.rows), np.nan)
    for number, block in enumerate(blocks[1:], start=1):
        tested = (table.sessions >= block[0]) & (table.sessions <= block[-1])
        learned = _learnable(table, tested, plan.embargo_ns)
        estimator = _fitted(table, learned, tested, plan)
        unseen[tested] = estimator.predict_proba(table.values[tested])[:, 1]
        begin = _day(block[0])
        folds.append({"fold": number, "from": begin, "learned_from": int(learned.sum()), "threshold": "chosen on it"})
    in_folds = ~np.isnan(unseen)
    threshold, tried = _threshold(unseen[in_folds], table.pnl[in_folds], plan.kept_share)
    for fold, block in zip(folds, blocks[1:], strict=True):
        tested = (table.sessions >= block[0]) & (table.sessions <= block[-1])
        fold.update(_with_and_without(table, tested, unseen >= threshold, block))
    estimator = _fitted(table, _learnable(table, is_hold_out, plan.embargo_ns), is_hold_out, plan)
    is_passed = np.zeros(len(table.rows), np.bool_)
    is_passed[is_hold_out] = estimator.predict_proba(table.values[is_hold_out])[:, 1] >= threshold
    days = np.array([day.toordinal() for day in hold_out])
    result = _with_and_without(table, is_hold_out, is_passed, days)
    metrics = {
        "rows": len(table.rows),
        "sessions": len(sessions),
        "thresholds_tried": tried,
        "hold_out": {"from": hold_out[0].isoformat(), "to": hold_out[-1].isoformat(), **result},
        "is_better_than_no_veto_on_hold_out": result["with_veto"]["net_pnl"] > result["without_veto"]["net_pnl"],
    }
    return Trained(
        estimator=estimator,
        threshold=threshold,
        metrics=metrics,
        folds=tuple(folds),
        data_digest=_digest(table),
    )


def _table_of(rows: Sequence[Row]) -> _Table:
    ordered = tuple(sorted(rows, key=lambda row: row.decided_ns))
    if not ordered:
        raise OperatorError("not a single trade to learn from", fix="take more sessions", exit_code=2)
    values = np.array([row.values for row in ordered], np.float64)
    if not np.isfinite(values).all():
        raise OurError("a row with a missing value")
    pnl = np.array([float(row.pnl) for row in ordered])
    return _Table(
        rows=ordered,
        values=values,
        wins=(pnl > 0).astype(np.int64),
        pnl=pnl,
        decided=np.array([row.decided_ns for row in ordered], np.int64),
        exits=np.array([row.exit_ns for row in ordered], np.int64),
        sessions=np.array([row.session.toordinal() for row in ordered], np.int64),
    )


def _learnable(table: _Table, tested: npt.NDArray[np.bool_], embargo_ns: int) -> npt.NDArray[np.bool_]:
    """What had ended, an embargo ago, when the first tested decision was made."""
    if not tested.any():
        raise OperatorError("a block of sessions without a trade", fix="take more sessions", exit_code=2)
    return np.asarray(table.exits + embargo_ns <= table.decided[tested].min())


def _fitted(
    table: _Table, learned: npt.NDArray[np.bool_], tested: npt.NDArray[np.bool_], plan: TrainingPlan
) -> RandomForestClassifier:
    from sklearn.ensemble import RandomForestClassifier

    if len(np.unique(table.wins[learned])) != 2:
        raise OperatorError("the trades before a block are all won or all lost", fix="take more sessions", exit_code=2)
    if (learned & tested).any():
        raise OurError("a row is learned from and tested on")
    estimator = RandomForestClassifier(**plan.params, random_state=plan.seed, n_jobs=1)
    return estimator.fit(table.values[learned], table.wins[learned])


def _threshold(
    probabilities: npt.NDArray[np.float64], pnl: npt.NDArray[np.float64], kept_share: float
) -> tuple[float, int]:
    """The best net P&L on the folds' trades among the twentieths that keep enough of them, and how many were tried.

    The threshold lies between two probabilities, where no trade stands on it.
    """
    steps = [share for share in np.arange(0.0, 1.0, 0.05) if 1 - share >= kept_share - 1e-9]
    levels = np.unique(np.quantile(probabilities, steps, method="lower"))
    ordered = np.unique(probabilities)
    between = [
        (ordered[np.searchsorted(ordered, level) - 1] + level) / 2 if level > ordered[0] else level / 2
        for level in levels
    ]
    results = [float(pnl[probabilities >= threshold].sum()) for threshold in between]
    return min(max(float(between[int(np.argmax(results))]), 1e-6), 1 - 1e-6), len(between)


def _with_and_without(
    table: _Table,
    tested: npt.NDArray[np.bool_],
    is_passed: npt.NDArray[np.bool_],
    days: npt.NDArray[np.int64],
) -> dict[str, Any]:
    return {
        "without_veto": _result(table, tested, days),
        "with_veto": _result(table, tested & is_passed, days),
    }


def _result(table: _Table, chosen: npt.NDArray[np.bool_], days: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Trades, net P&L, winners, profit factor, Sharpe of daily P&L (252 days), and drawdown; None where undefined."""
    pnl, on = table.pnl[chosen], table.sessions[chosen]
    daily = np.array([pnl[on == day].sum() for day in days])
    lost = -pnl[pnl < 0].sum()
    spread = float(daily.std(ddof=1)) if len(daily) > 1 else 0.0
    curve = np.cumsum(daily)
    return {
        "trades": len(pnl),
        "net_pnl": round(float(pnl.sum()), 2),
        "won_share": round(float((pnl > 0).mean()), 4) if len(pnl) else None,
        "profit_factor": round(float(pnl[pnl > 0].sum() / lost), 3) if lost > 0 else None,
        "sharpe": round(float(daily.mean()) / spread * math.sqrt(TRADING_DAYS), 3) if spread > 0 else None,
        "max_drawdown": round(float((np.maximum.accumulate(np.append(0.0, curve)) - np.append(0.0, curve)).max()), 2),
    }


def _digest(table: _Table) -> str:
    digest = hashlib.sha256()
    for array in (table.values, table.pnl, table.decided, table.exits):
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _day(ordinal: int) -> str:
    return dt.date.fromordinal(int(ordinal)).isoformat()
