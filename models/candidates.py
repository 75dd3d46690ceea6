"""What a veto learns from: every entry that the strategy would have made, and what came of it.

The entries come from runs in which a model lets everything pass (`PassEverything`), so that a row
holds what the veto would have been asked, as the machines computed it at the decision bar, and the
outcome by the live rules of fills and costs. One position per root at a time: an entry that was not
made because another was still open is no row.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import attrs
import numpy as np
import numpy.typing as npt

from domain.envelope import Envelope
from domain.errors import OperatorError, OurError
from domain.events import FillAssumed, OrderRequested, SessionOpened, VetoScored
from domain.features import BASES, FEATURE_SET_VERSION
from domain.ibs import EntrySide
from domain.units import Nanos
from domain.veto import Score, VetoModel
from models.forest import FlatForest

LABEL = "1 when the trade's net P&L, with assumed fills one tick worse and both commissions, is above 0"

SIDE_FEATURE = "ibs"
"""Tells the sides apart where both are entered: their bands have no IBS in common."""


@attrs.frozen(kw_only=True)
class PassEverything:
    """A `VetoModel` that lets every entry pass; what it is asked stays on record for training."""

    root: str
    features: tuple[str, ...]
    side: EntrySide = "long"
    feature_set: str = FEATURE_SET_VERSION
    digest: str = "passes everything"
    threshold: float = 0.5
    populations: Mapping[str, tuple[float, ...]] = attrs.field(factory=lambda: dict.fromkeys(BASES, ()))
    trained_until_ns: Nanos = Nanos(0)

    def score(self, vector: Sequence[float]) -> Score:
        return Score(probability=1.0, bias=1.0, contributions=(0.0,) * len(vector))


@attrs.frozen(kw_only=True)
class Judging(PassEverything):
    """The same with a forest: what it gives less than `threshold` is kept away. Its percentiles begin with the run."""

    forest: FlatForest

    def score(self, vector: Sequence[float]) -> Score:
        return self.forest.explain(vector)


@attrs.frozen(kw_only=True)
class Row:
    """One entry: what the veto would have been asked, and what came of it."""

    root: str
    session: dt.date
    decided_ns: Nanos
    """The end of the decision bar."""
    exit_ns: Nanos
    """When the outcome was known: the label is made of what happened in [decided_ns, exit_ns]."""
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


# ----------------------------------------------------------------- the table


@attrs.frozen(kw_only=True, eq=False)
class Candidates:
    """Rows of one root in columns, in the order of their decisions (`of` makes and checks them)."""

    root: str
    features: tuple[str, ...]
    """What the columns of `values` are called."""
    days: npt.NDArray[np.int64]
    """All sessions that were run, those without an entry too: ordinals of their dates, ascending."""
    values: npt.NDArray[np.float64]
    """Shape (rows, features); nothing is missing."""
    pnl: npt.NDArray[np.float64]
    decided: npt.NDArray[np.int64]
    exits: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    """The day of each row, one of `days`."""

    @classmethod
    def of(cls, rows: Sequence[Row], *, features: Sequence[str], sessions: Sequence[dt.date]) -> Candidates:
        """Raises OperatorError without any row, OurError for rows that cannot be: see the checks."""
        ordered = sorted(rows, key=lambda row: row.decided_ns)
        if not ordered:
            raise OperatorError("not a single trade to learn from", fix="take more sessions", exit_code=2)
        table = cls(
            root=ordered[0].root,
            features=tuple(features),
            days=np.array([day.toordinal() for day in sessions], np.int64),
            values=np.array([row.values for row in ordered], np.float64).reshape(len(ordered), -1),
            pnl=np.array([float(row.pnl) for row in ordered]),
            decided=np.array([row.decided_ns for row in ordered], np.int64),
            exits=np.array([row.exit_ns for row in ordered], np.int64),
            sessions=np.array([row.session.toordinal() for row in ordered], np.int64),
        )
        if table.values.shape[1] != len(table.features):
            raise OurError(f"rows of {table.values.shape[1]} values under {len(table.features)} names")
        if not np.isfinite(table.values).all():
            raise OurError("a row with a missing value")
        if (table.exits <= table.decided).any():
            raise OurError("an outcome that was known at its decision")
        if not np.isin(table.sessions, table.days).all() or (np.diff(table.days) <= 0).any():
            raise OurError("a row of a session that was not run, or sessions out of order")
        return table

    def __len__(self) -> int:
        return len(self.pnl)

    @property
    def wins(self) -> npt.NDArray[np.int64]:
        """The label: net P&L above 0."""
        return (self.pnl > 0).astype(np.int64)

    @property
    def digest(self) -> str:
        """Hex sha256 of the rows."""
        digest = hashlib.sha256()
        for array in (self.values, self.pnl, self.decided, self.exits):
            digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


@attrs.frozen(kw_only=True, eq=False)
class Material:
    """What one root is trained on, and what a bundle says of it."""

    table: Candidates
    signal_product: str
    market: Literal["recorded", "simulated"]
    side: EntrySide = "long"
    populations: Mapping[str, npt.ArrayLike]
    """Per percentile base that the features rank: its values at the end of the training window."""
    training_start: str
    training_end: str
    """ISO 8601; start inclusive, end exclusive."""
    strategy: Mapping[str, str] = attrs.field(factory=dict)
    """Parameters of the strategy that are not the defaults: the veto has learned of its entries with these."""
    play: Callable[[VetoModel], Sequence[Row]] | None = None
    """The trades of the strategy with a model on the same bars; None where they cannot be run again."""
