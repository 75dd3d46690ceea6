"""What must hold after a simulated session, whatever happened in it: order, decisions, orders, replay.

I1 to I9 are those of docs/execution.md and docs/simulation.md; each check names the one it found broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.execution import Execution
from actors.machines import MachineParts
from actors.replay import RecallingCodec, replay
from adapters.traderspost.ledger import LedgerSnapshot
from adapters.traderspost.simulated import CANARY, SimulatedAccount
from domain.envelope import GENESIS, Envelope, chain_hash
from domain.events import (
    SUPERVISION_TYPES,
    OrderAccepted,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    ProbeAnswered,
    RiskDecided,
    SessionOpened,
    TradesReceived,
)
from domain.market import TradeArray
from domain.outbox import ALL_PER_HOUR, ALL_PER_MINUTE, ENTRIES_PER_MINUTE, HARD_PROBE_AFTER, is_webhook_refused
from domain.ports import Codec
from domain.units import HOUR, MINUTE, Nanos

Violate = Callable[[str, str], None]

_COLUMNS = (
    "seq",
    "ts_ns",
    "ts_event",
    "type",
    "version",
    "source",
    "incarnation",
    "cause",
    "idx",
    "corr",
    "root",
    "raw",
)
_ONCE_EACH = {"SignalEvaluated": ("root", "ts"), "OrderRequested": ("signal_id",), "RiskDecided": ("signal_id",)}
INCIDENTS = {"exit_of_newer": "I9", "entry_after_exit": "I4", "entry_accepted_twice": "I1"}


def check_order(rows: Sequence[Envelope], violate: Violate) -> None:
    """Numbers without a gap, the hash chain, time that never steps back, every answer to something before it."""
    previous, last_ns = GENESIS, 0
    for expected, row in enumerate(rows, start=1):
        if row.seq != expected:
            violate("order", f"seq {row.seq} stands where {expected} should")
            return
        if chain_hash(previous, **{name: getattr(row, name) for name in _COLUMNS}) != row.hash:
            violate("order", f"the hash chain does not hold at seq {row.seq}")
            return
        if row.ts_ns < last_ns or (row.cause is not None and row.cause >= row.seq):
            violate("order", f"seq {row.seq} is before its time or its cause")
        previous, last_ns = row.hash, row.ts_ns
    if not rows or rows[-1].type != "SessionClosed":
        violate("order", "the file does not end with its session's close")


def check_once(rows: Sequence[Envelope], tape: TradeArray, violate: Violate) -> None:
    """No decision twice, no record of the market twice or not at all."""
    answers = Counter((row.source, row.cause, row.idx) for row in rows if row.cause is not None)
    for place in (place for place, count in answers.items() if count > 1):
        violate("once", f"{place} is answered more than once")
    decided = Counter(
        (row.type, *(getattr(row.payload, name) for name in _ONCE_EACH[row.type]))
        for row in rows
        if row.type in _ONCE_EACH
    )
    for decision in (decision for decision, count in decided.items() if count > 1):
        violate("once", f"{decision} is decided more than once")
    batches = [row.payload.trades for row in rows if isinstance(row.payload, TradesReceived)]
    seen = np.concatenate(batches) if batches else tape[:0]
    if Counter(record.tobytes() for record in seen) != Counter(record.tobytes() for record in tape):
        violate("once", f"{len(seen)} records of the market are on file, {len(tape)} were sent")


def check_account(
    account: SimulatedAccount, ledger: LedgerSnapshot, rows: Sequence[Envelope], violate: Violate
) -> None:
    """What TradersPost took, and what it holds at the end."""
    intents = {row.payload.signal_id: row.payload.intent for row in rows if isinstance(row.payload, OrderRequested)}
    submitted = Counter(row.payload.signal_id for row in rows if isinstance(row.payload, OrderSubmitted))
    for signal, seen in ledger.signals.items():
        if not signal:
            continue  # the least exit, which has no id
        if signal not in intents or seen.attempts > submitted[signal]:
            violate("disk", f"{signal} arrived {seen.attempts} times, {submitted[signal]} are on file")
        elif intents[signal] == "entry" and seen.accepted > 1:
            violate("I1", f"entry {signal} was accepted {seen.accepted} times: {seen.answers}")
        if seen.lint:
            violate("lint", f"{signal}: {seen.lint}")
    for incident in ledger.incidents:
        if incident.kind in INCIDENTS:
            violate(
                INCIDENTS[incident.kind], f"{incident.kind} {incident.ticker} {incident.signal_id}: {incident.detail}"
            )
    if ledger.positions or ledger.orders or ledger.pending:
        violate("I2", f"left at the end: {dict(ledger.positions)} {ledger.orders} {ledger.pending}")


def check_line(account: SimulatedAccount, rows: Sequence[Envelope], violate: Violate) -> None:
    """Every message at the moment it was written: on disk, in time, once, within the limits, not what was refused."""
    refusals = {
        (row.payload.signal_id, row.payload.attempt): (row.ts_ns, row.payload)
        for row in rows
        if isinstance(row.payload, OrderRejected)
    }
    answers = [row.ts_ns for row in rows if _is_answer(row)]
    written: set[tuple[str, int]] = set()
    unwanted: set[tuple[str, str]] = set()
    for sent in account.sent:
        what = f"{sent.intent} {sent.signal_id}, attempt {sent.attempt}, at {sent.ts}"
        if not sent.is_durable:
            violate("disk", f"{what} was written before its intent was on disk")
        if (sent.signal_id, sent.attempt) in written:
            violate("once", f"{what} was written again")
        if sent.expires_ns is not None and sent.ts >= sent.expires_ns:
            violate("I3", f"{what} was written after its limit {sent.expires_ns}")
        if (sent.signal_id, sent.body) in unwanted:
            violate("I6", f"{what} is the message that was refused before")
        refused_ns, before = refusals.get((sent.signal_id, sent.attempt - 1), (Nanos(0), None))
        if before is not None and is_webhook_refused(before.http_status, before.code):
            # The wait ends early when TradersPost has answered something else as itself.
            is_early = sent.ts < refused_ns + HARD_PROBE_AFTER
            if is_early and not any(refused_ns <= ts <= sent.ts for ts in answers):
                violate("I6", f"{what} follows a refusal of the webhook at {refused_ns}")
        written.add((sent.signal_id, sent.attempt))
        _, refusal = refusals.get((sent.signal_id, sent.attempt), (Nanos(0), None))
        if refusal is not None and not is_webhook_refused(refusal.http_status, refusal.code):
            unwanted.add((sent.signal_id, sent.body))
    times = [sent.ts for sent in account.sent]
    entries = [sent.ts for sent in account.sent if sent.intent == "entry"]
    for count, limit, window in (
        (_most_within(times, MINUTE), ALL_PER_MINUTE, "minute"),
        (_most_within(times, HOUR), ALL_PER_HOUR, "hour"),
        (_most_within(entries, MINUTE), ENTRIES_PER_MINUTE, "minute, entries"),
    ):
        if count > limit:
            violate("I5", f"{count} messages within one {window}, limit {limit}")


def _is_answer(row: Envelope) -> bool:
    """TradersPost has answered as itself."""
    match row.payload:
        case OrderRejected(http_status=status, code=code):
            return not is_webhook_refused(status, code)
        case ProbeAnswered(is_up=is_up):
            return is_up
        case event:
            return isinstance(event, OrderAccepted)


def _most_within(times: Sequence[Nanos], window: Nanos) -> int:
    return max((sum(1 for later in times[i:] if later < ts + window) for i, ts in enumerate(times)), default=0)


def check_record(rows: Sequence[Envelope], parts: MachineParts, codec: Codec, violate: Violate) -> None:
    """The file decides everything again, and keeps to the account's limits on the way."""
    latest: dict[str, str] = {}
    """The newest allowed signal of each root."""
    for row in rows:
        match row.payload:
            case RiskDecided(is_allowed=True, root=root, signal_id=signal):
                latest[root] = signal
            case OrderSubmitted(intent="entry", root=root, signal_id=signal) if latest.get(root) != signal:
                violate("I4", f"entry {signal} was submitted after {latest.get(root)} was decided")
            case _:
                pass
    if any(CANARY in (row.raw if isinstance(row.raw, str) else "") for row in rows):
        violate("I7", "the webhook's path is in the journal")
    found = replay(rows, parts=parts, codec=RecallingCodec(codec), is_finished=True).divergence
    if found is not None:
        violate("replay", f"{found.kind} at seq {found.seq}: {found.type} from {found.source} {found.fields}")


def check_belief(rows: Sequence[Envelope], machine: Execution, violate: Violate) -> None:
    """I5 by what is believed, held or being entered; and at the end nothing is."""
    risk: Any = None
    for row in rows:
        if isinstance(row.payload, SessionOpened):
            risk = row.payload.risk
        if row.type not in machine.kinds:
            continue
        machine.handle(row)
        if row.type != "OrderRequested":
            continue
        occupied = {held.root: abs(held.quantity) for held in machine.positions}
        for order in machine.orders:
            if order.intent == "entry":
                occupied[order.root] = max(occupied.get(order.root, 0), order.quantity)
        if len(occupied) > risk.max_positions or sum(occupied.values()) > risk.max_contracts:
            violate("I5", f"{occupied} at seq {row.seq}, limits {risk.max_positions} and {risk.max_contracts}")
    if machine.positions or machine.orders:
        violate("I2", f"believed at the end: {machine.positions} {machine.orders}")


def check_twin(rows: Sequence[Envelope], undisturbed: Sequence[Envelope], violate: Violate) -> None:
    """In simulated time a session with crashes is the one without, but for what says that there were crashes.

    Source by source: the outcomes that a dead process owes are written together.
    """
    ours, theirs = _told(rows), _told(undisturbed)
    for source in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(source, []), theirs.get(source, [])
        place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        if place is not None:
            violate("crashless", f"{source}, event {place}: {one[place]} without crashes is {other[place]}")
        elif len(one) != len(other):
            violate("crashless", f"{source}: {len(one)} events, without crashes {len(other)}")


def _told(rows: Sequence[Envelope]) -> dict[str, list[tuple[str, str | bytes]]]:
    told: dict[str, list[tuple[str, str | bytes]]] = {}
    for row in rows:
        if row.type not in SUPERVISION_TYPES and row.type != "SessionClosed":
            told.setdefault(row.source, []).append((row.type, row.raw))
    return told
