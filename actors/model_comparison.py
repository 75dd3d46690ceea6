"""A root's shadow against its live model, over recorded sessions: what both said, and what is known of the money."""

from __future__ import annotations

from decimal import Decimal

import attrs

from domain.envelope import Envelope
from domain.events import FillAssumed, OrderRequested, SessionOpened, ShadowScored, VetoScored
from domain.units import Nanos

TYPES = frozenset({"SessionOpened", "VetoScored", "ShadowScored", "OrderRequested", "FillAssumed"})
"""What `fold` looks at."""


@attrs.frozen(kw_only=True)
class Trades:
    """Closed trades and their net P&L, by assumed fills."""

    count: int = 0
    pnl: Decimal = Decimal(0)

    def plus(self, pnl: Decimal) -> Trades:
        return Trades(count=self.count + 1, pnl=self.pnl + pnl)

    def __str__(self) -> str:
        return f"{self.count}, net {self.pnl:+,.2f} USD"


class Comparison:
    """Fold sessions in their order; only bars that the two digests scored count."""

    def __init__(self, root: str, *, live: str, shadow: str) -> None:
        self._root, self._live, self._shadow = root, live, shadow
        self.sessions: list[str] = []
        """ISO dates of those in which both scored a bar."""
        self.bars: dict[tuple[bool, bool], int] = dict.fromkeys(_KINDS, 0)
        """By (the live model passed, the shadow passed): decision bars."""
        self.not_scored = 0
        """Bars of the shadow on which one of the two had no answer."""
        self.trades = {True: Trades(), False: Trades()}
        """Of the live model's entries, by whether the shadow would have passed them."""
        self._session = ""
        self._scored: VetoScored | None = None
        self._passed: dict[Nanos, bool] = {}
        self._entered: dict[str, bool] = {}
        self._held: bool | None = None

    @property
    def count(self) -> int:
        """Decision bars that both scored."""
        return sum(self.bars.values())

    def fold(self, envelope: Envelope) -> None:
        match envelope.payload:
            case SessionOpened(session=session):
                self._session = session.date.isoformat()
            case VetoScored(root=self._root) as scored:
                self._scored = scored
            case ShadowScored(root=self._root, digest=self._shadow) as shadow:
                self._compare(shadow)
            case OrderRequested(root=self._root, intent="entry") as request if request.decided_ns in self._passed:
                self._entered[request.signal_id] = self._passed[request.decided_ns]
            case FillAssumed(root=self._root, intent="entry") as fill:
                self._held = self._entered.pop(fill.signal_id, None)
            case FillAssumed(root=self._root, intent="exit", pnl=pnl) if pnl is not None and self._held is not None:
                self.trades[self._held] = self.trades[self._held].plus(pnl)
                self._held = None
            case _:
                pass

    def _compare(self, shadow: ShadowScored) -> None:
        live = self._scored
        self._passed = {}
        if live is None or (live.ts, live.digest) != (shadow.ts, self._live) or shadow.probability is None:
            self.not_scored += 1
            return
        self.bars[live.is_passed, shadow.is_passed] += 1
        self._passed = {shadow.ts: shadow.is_passed}
        if self._session not in self.sessions:
            self.sessions.append(self._session)

    def words(self) -> list[str]:
        """The result in lines."""
        if not self.count:
            return [f"{self._root}: no session on file in which both scored a bar ({self.not_scored} not comparable)"]
        bars, flips = self.bars, self.bars[True, False] + self.bars[False, True]
        lines = [
            f"{self._root}: {self.count} decision bars scored by both in {len(self.sessions)} sessions, "
            f"{self.sessions[0]} to {self.sessions[-1]}; {self.not_scored} not comparable",
            f"  agree   {self.count - flips}: both pass {bars[True, True]}, both veto {bars[False, False]}",
            f"  differ  {flips}: only the live model passes {bars[True, False]}, only the shadow {bars[False, True]}",
            f"  trades  that the shadow would have made too: {self.trades[True]}",
            f"          that it would have vetoed: {self.trades[False]}",
        ]
        if bars[False, True]:
            lines.append(
                "          what it alone would have passed was never entered: nobody knows what it had come to"
            )
        return lines


_KINDS = ((True, True), (True, False), (False, True), (False, False))
