"""Whether the market trades: a fold of trades and slices, per root and as a whole.

A root has *stopped* when it usually trades and has not for long, while others do. The whole market is
*silent* when nothing trades although the feed is live and the market open. A thin root is never judged
by its silence: a minute without a trade is how it usually is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from domain.bars import Bar
from domain.events import MarketStatusChanged, RootStatusChanged, SessionOpened
from domain.units import HOUR, SECOND, Nanos

USUALLY = 30
"""A root usually trades when the hour before its last minute bar holds at least so many of them."""


class MarketWatch:
    """One session's market, in the hands of one machine."""

    def __init__(self, opened: SessionOpened) -> None:
        self._session, self._risk = opened.session, opened.risk
        self._is_simulated = opened.clock == "feed"
        self._front = {c.raw_symbol for c in opened.contracts if c.rank == 0}
        self._minutes: dict[str, deque[Nanos]] = {}
        """By root: ends of its front contract's minute bars, of one hour."""
        self._stopped: set[str] = set()
        self._live_since: Nanos | None = None
        self._last_trade = Nanos(0)
        self._is_silent = False

    def note_feed(self, *, is_live: bool, now: Nanos) -> None:
        """The connection's status: while it is not live, silence says nothing about the market.

        Simulated time stands still meanwhile: there a lost connection must change no decision.
        """
        if self._is_simulated:
            self._live_since = Nanos(0)
        else:
            self._live_since = now if is_live else None

    def note_trades(self, last: Nanos) -> list[MarketStatusChanged]:
        """Records up to `last`."""
        self._last_trade = last
        if not self._is_silent:
            return []
        self._is_silent = False
        return [MarketStatusChanged(status="trading", since=last)]

    def note_minutes(self, ts: Nanos, bars: Iterable[Bar]) -> list[RootStatusChanged]:
        """The minute bars that closed at `ts`: which roots trade again, and which have stopped meanwhile."""
        changes = []
        for bar in bars:
            if bar.contract not in self._front:
                continue
            minutes = self._minutes.setdefault(bar.root, deque())
            minutes.append(ts)
            while minutes[0] <= ts - HOUR:
                minutes.popleft()
            if bar.root in self._stopped:
                self._stopped.discard(bar.root)
                changes.append(RootStatusChanged(root=bar.root, status="live", reason=""))
        for root, minutes in self._minutes.items():
            if root not in self._stopped and self._has_stopped(root, minutes, ts):
                self._stopped.add(root)
                reason = f"no trade for {(ts - minutes[-1]) // SECOND} s"
                changes.append(RootStatusChanged(root=root, status="stale", reason=reason))
        return changes

    def look(self, ts: Nanos) -> list[MarketStatusChanged]:
        """Whether nothing has traded for too long at `ts`, in a root that is open."""
        if self._is_silent or self._live_since is None:
            return []
        since = max(self._last_trade, self._live_since)
        limit = self._risk.market_silent_s * SECOND
        if not any(max(since, hours.open_ns) + limit <= ts < hours.close_ns for hours in self._session.hours):
            return []
        self._is_silent = True
        return [MarketStatusChanged(status="market_silent", since=since)]

    def _has_stopped(self, root: str, minutes: deque[Nanos], ts: Nanos) -> bool:
        is_quiet = ts - minutes[-1] >= self._risk.quiet_root_s * SECOND
        return is_quiet and len(minutes) >= USUALLY and ts <= self._session.hours_of(root).close_ns
