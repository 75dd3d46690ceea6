"""What the local TradersPost saw and did: the judge of every test, and a paper broker's positions.

HTTP acceptance and execution are two things, as at the real one: a 200 is followed by
an execution that may do nothing (flat on flat, a second buy while long).
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from adapters.traderspost.schema import Signal


@attrs.frozen(kw_only=True)
class SignalRecord:
    """One `signal_id` as the server saw it; "" holds all messages without one."""

    signal_id: str
    ticker: str
    attempts: int = 0
    """Requests that were read, whatever came of them."""
    accepted: int = 0
    """Requests that were taken for execution, whatever was answered."""
    answers: tuple[str, ...] = ()
    """Per attempt `accepted`, the code of the refusal, or the name of the fault played."""
    executions: tuple[str, ...] = ()
    """Per acceptance what it did to the position."""
    position_after: int | None = None
    """Signed contracts of the ticker after the last execution; None before any."""
    first_body: str = ""
    last_body: str = ""
    lint: tuple[str, ...] = ()
    """What we forbid ourselves although TradersPost takes it, without repeats."""


@attrs.frozen(kw_only=True)
class LedgerSnapshot:
    """The ledger at one moment."""

    requests: int
    """Webhook requests seen, with those that were reset before they were read."""
    signals: Mapping[str, SignalRecord]
    positions: Mapping[str, int]
    """Signed contracts by ticker, without flat ones."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "requests": self.requests,
            "signals": {key: attrs.asdict(record) for key, record in self.signals.items()},
            "positions": dict(self.positions),
        }


class Ledger:
    """Records and positions, in memory, changed by one thread only."""

    def __init__(self) -> None:
        self._records: dict[str, SignalRecord] = {}
        self._positions: dict[str, int] = {}
        self._requests = 0

    def next_ordinal(self) -> int:
        """Count one more webhook request: its number, from 1."""
        self._requests += 1
        return self._requests

    def note_attempt(self, signal_id: str, ticker: str, body: str, lints: tuple[str, ...]) -> int:
        """Record that a message was read; returns how many times this signal has been, from 1."""
        record = self._records.get(signal_id) or SignalRecord(signal_id=signal_id, ticker=ticker, first_body=body)
        record = attrs.evolve(
            record,
            attempts=record.attempts + 1,
            last_body=body,
            lint=record.lint + tuple(fault for fault in dict.fromkeys(lints) if fault not in record.lint),
        )
        self._records[signal_id] = record
        return record.attempts

    def note_answer(self, signal_id: str, answer: str) -> None:
        """Record what the attempt just noted came to."""
        record = self._records[signal_id]
        self._records[signal_id] = attrs.evolve(record, answers=(*record.answers, answer))

    def accept(self, signal_id: str, signal: Signal) -> None:
        """Take `signal` for execution and execute it."""
        before = self._positions.get(signal.ticker, 0)
        after, what = execute(signal, before)
        self._positions[signal.ticker] = after
        record = self._records[signal_id]
        self._records[signal_id] = attrs.evolve(
            record, accepted=record.accepted + 1, executions=(*record.executions, what), position_after=after
        )

    def snapshot(self) -> LedgerSnapshot:
        """The ledger as it is now."""
        return LedgerSnapshot(
            requests=self._requests,
            signals=dict(self._records),
            positions={ticker: held for ticker, held in self._positions.items() if held},
        )


def execute(signal: Signal, held: int) -> tuple[int, str]:
    """(position after, what happened) for `signal` while `held` signed contracts are open.

    As documented for a subscription with its default switches: no adding, reversals allowed.
    """
    quantity = signal.quantity if signal.quantity is not None else 1
    match signal.action, signal.sentiment:
        case ("buy", "bullish" | None):
            return _enter(held, quantity)
        case ("sell", "bearish" | None):
            return _enter(held, -quantity)
        case ("sell", "flat" | "bullish"):
            return _close(held, signal.quantity) if held > 0 else (held, "nothing: no long position")
        case ("buy", "flat" | "bearish"):
            return _close(held, signal.quantity) if held < 0 else (held, "nothing: no short position")
        case ("exit", _):
            return _close(held, signal.quantity) if held else (held, "nothing: flat")
        case ("add", _):
            return held, "nothing: add-to-position is off"
        case _:
            return held, "nothing: no working orders"


def _enter(held: int, wanted: int) -> tuple[int, str]:
    if held * wanted > 0:
        return held, "refused: position exists, add-to-position is off"
    return wanted, "reversed" if held else "opened"


def _close(held: int, quantity: int | None) -> tuple[int, str]:
    closed = abs(held) if quantity is None else min(quantity, abs(held))
    after = held - closed if held > 0 else held + closed
    return after, "reduced" if after else "closed"
