"""What one session file leaves to the next: a fold of the file through the same machines.

There is one way to know the state at the end of a file, whether the session ended, the
process was stopped, or the program changed in mid-session: replay it and ask.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from decimal import Decimal

import attrs
import numpy as np
import structlog

from actors.account import Account
from actors.bars import BarAggregator
from actors.execution import Execution
from actors.feed_memory import FeedMemory
from actors.machines import MachineSet
from actors.recorded_account import RecordedAccount
from actors.roll_memory import RollMemory
from actors.strategy import adjusted_tables
from domain.bars import Bar, BarTable, Timeframe
from domain.envelope import Envelope
from domain.errors import JournalUnreadable
from domain.events import ContractRolled, Event, HistoryLoaded, RootReset, SessionOpened, SliceClosed, StateCarried
from domain.history import MAX_DAYS, MAX_HOURS
from domain.orders import Order, OrderState
from domain.ports import Head, JournalReader
from domain.positions import Position
from domain.units import Nanos

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class Inheritance:
    """The opening events of the next file."""

    opened: SessionOpened
    """The file that was left."""
    carried: StateCarried
    history: HistoryLoaded
    recorded_ns: Nanos = Nanos(0)
    """The time of its last event."""


class _Followed:
    """The execution machine through a file, and whether it still decides what is on record.

    Another program wrote it, perhaps: what was sent and held is what the record says.
    """

    def __init__(self, machine: Execution) -> None:
        self._machine = machine
        self._expected: dict[tuple[int, int], Event] = {}
        self._answered = 0
        self._otherwise = ""
        """Where it first does not, and how; empty while it does."""

    def fold(self, envelope: Envelope, *, is_given: bool) -> None:
        """Take in one event; `is_given`: the machine is to handle it."""
        if self._otherwise:
            return
        if envelope.source == self._machine.name and envelope.cause is not None:
            self._answered = max(self._answered, envelope.cause)
            if self._expected.pop((envelope.cause, envelope.idx), None) != envelope.payload:
                self._otherwise = f"seq {envelope.seq}: it would not say this {envelope.type}"
                return
        if is_given:
            try:
                outputs = self._machine.handle(envelope)
            except Exception as error:  # noqa: BLE001 - it meets an order that it would not have sent
                self._otherwise = f"seq {envelope.seq}: {error!r}"
                return
            self._expected |= {(envelope.seq, idx): event for idx, event in enumerate(outputs)}

    def account(self, reader: JournalReader) -> Account:
        """What the file leaves. To be asked at its end."""
        unrecorded = min((cause for cause, _ in self._expected if cause <= self._answered), default=0)
        otherwise = self._otherwise or (unrecorded and f"seq {unrecorded}: it would say more of it")
        if not otherwise:
            return self._machine.account
        recorded = RecordedAccount(self._machine.build_payload)
        log.warning("this program decides otherwise: orders and positions are taken from the record", where=otherwise)
        for envelope in reader.envelopes():
            recorded.fold(envelope)
        return recorded.account


class _HistoryFold:
    """A file's own history plus the hour and day bars that closed in it, as far as they are whole."""

    def __init__(self) -> None:
        self.history = HistoryLoaded(tables=())
        self.rolls: list[ContractRolled] = []
        self.resets: dict[str, RootReset] = {}
        """By root, of earlier segments too: bars that start before are not handed on."""
        self._closed: dict[tuple[str, Timeframe, str], list[Bar]] = {}
        self._active: dict[str, str] = {}
        self._closes: dict[str, Nanos] = {}

    def fold(self, envelope: Envelope) -> None:
        match envelope.payload:
            case SessionOpened(contracts=contracts, session=session):
                self._active = {c.root: c.raw_symbol for c in contracts if c.rank == 0 and c.raw_symbol is not None}
                self._closes = {hours.root: hours.close_ns for hours in session.hours}
            case HistoryLoaded() as history:
                self.history = history
            case ContractRolled() as rolled:
                self.rolls.append(rolled)
            case StateCarried(resets=resets):
                self.resets |= {reset.root: reset for reset in resets}
            case RootReset() as reset:
                self._forget(reset)
            case SliceClosed(hours=hours, days=days):
                # Trades after a root's close make a bar too, but no exchange session.
                sessions = [bar for bar in days if bar.ts_end == self._closes.get(bar.root)]
                for timeframe, bars in (("1h", hours), ("1d", sessions)):
                    for bar in bars:
                        if self._active.get(bar.root) == bar.contract and self._is_whole(bar):
                            self._closed.setdefault((bar.root, timeframe, bar.contract), []).append(bar)  # type: ignore[arg-type]
            case _:
                pass

    def _forget(self, reset: RootReset) -> None:
        self.resets[reset.root] = reset
        tables = tuple(table for table in self.history.tables if table.root != reset.root)
        self.history = attrs.evolve(self.history, tables=tables)
        self._closed = {key: bars for key, bars in self._closed.items() if key[0] != reset.root}

    def _is_whole(self, bar: Bar) -> bool:
        reset = self.resets.get(bar.root)
        return reset is None or bar.ts_start >= reset.since

    def result(self) -> HistoryLoaded:
        """The history of the next file: older bars shifted over this file's rolls, then this file's."""
        tables = {(t.root, t.timeframe): t for t in adjusted_tables(self.history.tables, self.rolls)}
        for (root, timeframe, _), bars in sorted(self._closed.items()):
            added = BarTable.of_bars(root, timeframe, bars)
            older = tables.get((root, timeframe))
            tables[root, timeframe] = added if older is None else _joined(older, added)
        kept = (_last_rows(tables[key], MAX_HOURS if key[1] == "1h" else MAX_DAYS) for key in sorted(tables))
        return HistoryLoaded(tables=tuple(kept), source="journal")


def _joined(older: BarTable, newer: BarTable) -> BarTable:
    return attrs.evolve(
        older, contracts=older.contracts + newer.contracts, data=np.concatenate((older.data, newer.data))
    )


def _last_rows(table: BarTable, count: int) -> BarTable:
    return attrs.evolve(table, contracts=table.contracts[-count:], data=table.data[-count:])


def carry_forward(reader: JournalReader, head: Head, machines: MachineSet, *, file_sha256: str | None) -> Inheritance:
    """Fold one file. `file_sha256` is its digest when it is sealed. Raises JournalUnreadable when it is empty."""
    memory, history, rolls = FeedMemory(), _HistoryFold(), RollMemory()
    opened: SessionOpened | None = None
    recorded_ns = Nanos(0)
    followed = _Followed(machines.execution)
    for envelope in reader.envelopes():
        recorded_ns = envelope.ts_ns
        if isinstance(envelope.payload, SessionOpened):
            opened = envelope.payload
        memory.fold(envelope)
        history.fold(envelope)
        rolls.fold(envelope)
        takers = machines.takers(envelope)
        for machine in takers:
            if machine is not machines.execution:
                machine.handle(envelope)
        followed.fold(envelope, is_given=machines.execution in takers)
    if opened is None:
        raise JournalUnreadable("the file holds no session")
    carried = _state(opened, head, machines, followed.account(reader), memory, file_sha256=file_sha256)
    return Inheritance(
        opened=opened,
        carried=attrs.evolve(
            carried,
            rolls=rolls.rolls,
            volumes=rolls.volumes,
            seams=rolls.seams,
            resets=tuple(history.resets.values()) if file_sha256 is None else (),
        ),
        history=history.result(),
        recorded_ns=recorded_ns,
    )


def fold_history(reader: JournalReader) -> HistoryLoaded:
    """Only the history that a file would leave."""
    history = _HistoryFold()
    for envelope in reader.envelopes(types={"SessionOpened", "HistoryLoaded", "ContractRolled", "SliceClosed"}):
        history.fold(envelope)
    return history.result()


def _state(
    opened: SessionOpened,
    head: Head,
    machines: MachineSet,
    account: Account,
    memory: FeedMemory,
    *,
    file_sha256: str | None,
) -> StateCarried:
    bars: BarAggregator = machines.bars
    open_bars = bars.open_bars()
    is_same_session = file_sha256 is None
    return StateCarried(
        previous_session=opened.session.date.isoformat(),
        previous_segment=opened.segment,
        previous_head=head.hash.hex(),
        previous_file_sha256=file_sha256,
        positions=_with_unknown(account.holdings.in_order(), account.outbox.orders),
        orders=tuple(
            order
            for order in map(_left_behind, account.outbox.orders)
            if not (order.state.is_final or order.intent == "cancel")
        ),
        # A new session starts its day at zero; a new segment of the same one does not.
        realised_pnl=account.holdings.realised_pnl if is_same_session else Decimal(0),
        tripped=account.tripped if is_same_session else "",
        switches=account.switches,
        outbox=account.outbox.memory,
        halted=_halted(account, is_same_session=is_same_session),
        unconfirmed=tuple(sorted(_unconfirmed(opened, head, account))),
        unreconciled=_unreconciled(opened, account),
        open_minutes=open_bars.minutes,
        open_hours=open_bars.hours,
        open_days=open_bars.days,
        watermark_ns=open_bars.watermark_ns,
        memories=machines.strategy.memories(),
        percentiles=machines.strategy.percentiles(),
        contracts=opened.contracts,
        resume_ts_event=memory.ts_event,
        resume_records=base64.b64encode(memory.overlap().tobytes()).decode(),
    )


def _halted(account: Account, *, is_same_session: bool) -> tuple[str, ...]:
    """A new session evaluates every root again, but for one that is still to be closed: nobody else would do it."""
    left = {held.root for held in account.holdings.in_order()} | {order.root for order in account.outbox.orders}
    return tuple(sorted(root for root in account.halted if is_same_session or root in left))


def _left_behind(order: Order) -> Order:
    """An attempt that had no outcome in its own file will have none in the next: there it is ambiguous."""
    if order.state is not OrderState.SUBMITTED:
        return order
    if order.accepted_ns is not None:  # an exit's repeat
        accepted = order.moved(OrderState.ACCEPTED)
        return accepted if order.filled_ns is None else accepted.moved(OrderState.FILLED)
    if order.intent == "exit" and order.is_superseded:
        return order.moved(OrderState.EXPIRED)  # as its outcome would have ended it
    ambiguous = order.moved(OrderState.AMBIGUOUS)
    return ambiguous.moved(OrderState.QUEUED) if order.intent == "exit" else ambiguous


def _unconfirmed(opened: SessionOpened, head: Head, account: Account) -> set[str]:
    """With money, what a crashed process left is looked at by the operator before anything is entered."""
    unconfirmed = set(account.unconfirmed)
    if opened.mode == "live" and head.status == "open":
        unconfirmed |= {position.root for position in account.holdings.in_order()}
        unconfirmed |= {order.root for order in account.outbox.orders if order.intent == "entry"}
    if opened.mode == "live" and head.status == "recovered":
        # What came after its end may have opened or closed anything.
        unconfirmed |= {root.root for root in opened.roots if not root.is_reference}
    return unconfirmed


def _unreconciled(opened: SessionOpened, account: Account) -> tuple[str, ...]:
    """Sessions that have sent orders and were never compared with a broker's report, this one from now on."""
    date = opened.session.date.isoformat()
    if not account.has_traded or date in account.unreconciled:
        return account.unreconciled
    return (*account.unreconciled, date)


def _with_unknown(positions: Sequence[Position], orders: Sequence[Order]) -> tuple[Position, ...]:
    """The positions, and for every entry left behind the one that it may have opened."""
    suspected = [
        Position(
            root=order.root,
            contract=order.contract,
            quantity=order.quantity if order.side == "buy" else -order.quantity,
            price=order.reference_price,
            opened_ns=order.decided_ns,
            entry_signal_id=order.signal_id,
            is_unknown=True,
            stop_price=order.stop_price,
            target_price=order.target_price,
        )
        for order in orders
        if order.state is OrderState.SUBMITTED and order.intent == "entry"
    ]
    return tuple(sorted((*positions, *suspected), key=lambda position: position.root))


def fresh_state() -> StateCarried:
    """The state of the first session ever."""
    return StateCarried(previous_session=None, previous_segment=None, previous_head=None, previous_file_sha256=None)
