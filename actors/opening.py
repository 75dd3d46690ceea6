"""Which file the process goes on with, and the events that a new file begins with.

An unfinished file of the same program, libraries, settings and models is continued; of
other ones, its session gets a new segment that starts from its fold; a finished one is
followed by the next session. Live, paper and demo files never mix in one directory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import structlog

from actors.carry import Inheritance, carry_forward, fresh_state
from actors.contract_choice import SessionContracts, asked_symbols, choose_contracts, dated
from actors.machines import MachineParts, MachineSet, skips_of
from actors.warm_up import ExtendHistory, as_left, lacking_bars, lacking_gates, lacking_inputs, without_overtaken
from domain.errors import JournalBroken, JournalUnreadable, OperatorError
from domain.events import Event, HistoryLoaded, SessionOpened, StateCarried
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot, pairs_of
from domain.ports import Calendar, FeedSource, JournalDirectory, JournalEntry, JournalFile
from domain.reference_feeds import ReferenceFeeds
from domain.risk import RiskSettings
from domain.sessions import Session, iso_utc
from domain.units import HOUR, SECOND, Nanos
from domain.veto import ModelRecord

CLOCK_TOLERANCE = Nanos(600 * SECOND)
"""With `clock: system` the feed's own time may differ by this much from ours."""
RECORDED_BEHIND = Nanos(24 * HOUR)
"""A feed that is so far behind is no live one, whatever our clock says."""
EXIT_TRY_AGAIN = 75

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class LivePlan:
    """What is run: settings and identity, without the places it touches."""

    mode: Literal["paper", "live"]
    is_demo: bool
    account: str
    clock: Literal["system", "feed"]
    seed: int
    roots: tuple[TradedRoot, ...]
    strategy: StrategySettings
    risk: RiskSettings
    version: str
    code_digest: str
    config_digest: str
    libraries: Mapping[str, str]
    models: tuple[ModelRecord, ...] = ()
    shadows: tuple[ModelRecord, ...] = ()
    required_reference_feeds: tuple[str, ...] = ()
    until_ns: Nanos | None = None
    skip_poison: tuple[str, ...] = ()
    """Actors that the operator lets go on without an event of the market that crashes them each time."""

    @property
    def is_simulated(self) -> bool:
        """All time is the feed's."""
        return self.clock == "feed"


@attrs.frozen(kw_only=True)
class OpenedFile:
    """A session file to run: continued (`opening` is empty) or new."""

    path: Path
    opened: SessionOpened
    opening: tuple[Event, ...] = ()
    recorded_ns: Nanos = Nanos(0)
    """Of a new file: its time is no earlier, whatever the system's clock says."""


@attrs.frozen(kw_only=True)
class Opener:
    """Decides on files for one process."""

    plan: LivePlan
    journals: JournalDirectory
    calendar: Calendar
    source: FeedSource
    parts_of: Callable[[SessionOpened], MachineParts]
    """The parts that fold a file: with the models it was recorded with."""
    load_history: Callable[[Session], HistoryLoaded]
    now: Callable[[], Nanos]
    read_clock: Callable[[], object] = lambda: None
    """Take the system's clock as it is now: `now` goes on from what it was at the start."""
    extend_history: ExtendHistory = as_left
    roots_on: Callable[[Sequence[TradedRoot], dt.date], tuple[TradedRoot, ...]] = lambda roots, _: tuple(roots)
    """The plan's roots with the specs of a session."""

    def first(self) -> OpenedFile:
        """The file to start with."""
        self._remove_unborn()
        entries = self.journals.entries()
        self._refuse_other_modes(entries)
        if not entries:
            return self._new_session(None)
        latest = entries[-1]
        self._verify(latest)
        opened, status = self._look(latest)
        if status == "closed":
            return self._after_closed(latest, opened)
        if status == "recovered":
            log.warning("the file was repaired and lacks its end: new segment", file=latest.path.name)
            return self._new_segment(latest)
        if self._is_same_program(opened) and self._gains_history(latest, opened):
            log.info("stored history has what this session lacks: new segment", session=latest.session)
            return self._new_segment(latest)
        if self._is_same_program(opened):
            log.info("continuing the unfinished session", file=latest.path.name, session=latest.session)
            return OpenedFile(path=latest.path, opened=opened)
        log.info("program, settings or models changed: new segment", session=latest.session, segment=latest.segment + 1)
        return self._new_segment(latest)

    def next_after(self, path: Path, file_sha256: str) -> OpenedFile:
        """The session after the sealed file at `path`."""
        self.read_clock()
        return self._new_session(self._inherit(path, file_sha256))

    # ------------------------------------------------------------- private

    def _look(self, entry: JournalEntry) -> tuple[SessionOpened, str]:
        journal = self.journals.open(entry.path)
        try:
            return opening_of(journal), journal.head().status
        finally:
            journal.close()

    def _verify(self, entry: JournalEntry) -> None:
        """Nothing is decided from a damaged record. Raises JournalBroken or JournalUnreadable."""
        journal = self.journals.open(entry.path)
        try:
            journal.verify()
        except JournalBroken as error:
            raise JournalBroken(f"{entry.path}: {error}", seq=error.seq) from error
        finally:
            journal.close()

    def _remove_unborn(self) -> None:
        """A process that died between creating a file and its first commit left nothing in it."""
        for entry in self.journals.entries()[-1:]:
            journal = self.journals.open(entry.path)
            is_empty = journal.head().seq == 0
            journal.close()
            if is_empty:
                log.info("removing an empty file", file=entry.path.name)
                self.journals.remove(entry.path)

    def _refuse_other_modes(self, entries: list[JournalEntry]) -> None:
        ours = (self.plan.mode, self.plan.is_demo, self.plan.account)
        for entry in entries:
            try:
                opened, _ = self._look(entry)
            except JournalUnreadable as error:
                if entry == entries[-1]:
                    raise
                # Nothing is decided from it, and what is held must not wait for it to come back from a copy.
                log.error("an older file cannot be read: see `journal verify`", file=entry.path.name, error=str(error))
                continue
            theirs = (opened.mode, opened.is_demo, opened.account)
            if theirs != ours:
                raise OperatorError(
                    f"{entry.path.name} is a {_label(*theirs)} file and this is a {_label(*ours)} run",
                    where=str(entry.path.parent),
                    fix="give each mode and account a journal_dir of its own",
                )

    def _is_same_program(self, opened: SessionOpened) -> bool:
        plan = self.plan
        # Libraries too: another numpy may give a score other last bits, and catching up compares all of them.
        theirs = (opened.code_digest, opened.config_digest, dict(opened.libraries), opened.models, opened.shadows)
        ours = (plan.code_digest, plan.config_digest, dict(plan.libraries), plan.models, plan.shadows)
        return (*theirs, opened.seed) == (*ours, plan.seed)

    def _after_closed(self, latest: JournalEntry, opened: SessionOpened) -> OpenedFile:
        if opened.is_demo:
            log.info("replacing the finished demo file", file=latest.path.name)
            for entry in self.journals.entries():
                if entry.session == latest.session:
                    self.journals.remove(entry.path)
            return self._new_session(None)
        return self._new_session(self._inherit(latest.path, self.journals.seal(latest.path)))

    def _inherit(self, path: Path, file_sha256: str | None) -> Inheritance:
        journal = self.journals.open(path)
        try:
            machines = MachineSet(self.parts_of(opening_of(journal)), skips_of(journal))
            return carry_forward(journal, journal.head(), machines, file_sha256=file_sha256)
        finally:
            journal.close()

    def _new_segment(self, latest: JournalEntry) -> OpenedFile:
        left = self._inherit(latest.path, None)
        opened = self._opened(
            session=left.opened.session,
            segment=latest.segment + 1,
            chosen=self._same_contracts(left.opened),
            feed_start_ns=left.opened.feed_start_ns,
        )
        return attrs.evolve(self._create(opened, left.history, left), recorded_ns=left.recorded_ns)

    def _same_contracts(self, before: SessionOpened) -> SessionContracts:
        """A session keeps its contracts; how long they may be traded the map may have stated meanwhile."""
        roots, date = {root.root: root for root in self.plan.roots}, before.session.date
        contracts = (dated(c, roots[c.root], self.calendar, date) if c.root in roots else c for c in before.contracts)
        return SessionContracts(contracts=tuple(contracts), mappings=before.mappings)

    def _new_session(self, left: Inheritance | None) -> OpenedFile:
        mapped, feed_now = self._resolve(left)
        is_clock_wrong = not self.plan.is_simulated and abs(feed_now - self.now()) > CLOCK_TOLERANCE
        if is_clock_wrong:
            self._bear_wrong_clock(feed_now, left)
        begin = feed_now
        if left is not None:
            begin = left.opened.session.end_ns
            if not self.plan.is_simulated:
                # After a pause of days the sessions in between are over: nothing will come for them.
                begin = max(begin, feed_now)
        session = self.calendar.session_of(begin, self.plan.roots)
        opened = self._opened(
            session=session,
            segment=1,
            chosen=choose_contracts(self.plan.roots, session, mapped=mapped, left=left, calendar=self.calendar),
            # Before any record is on file the feed begins here, or as far back as the vendor goes.
            feed_start_ns=session.start_ns,
        )
        history = left.history if left is not None else self.load_history(session)
        file = self._create(opened, history, left)
        # Neither a clock that is behind the feed nor one that was ahead of it keeps what is carried waiting.
        recorded_ns = left.recorded_ns if left is not None and left.carried.orders else Nanos(0)
        return attrs.evolve(file, recorded_ns=max(recorded_ns, feed_now) if is_clock_wrong else recorded_ns)

    def _bear_wrong_clock(self, feed_now: Nanos, left: Inheritance | None) -> None:
        """Go on for what is held: better watched by a wrong clock than by nobody. Raises OperatorError without it.

        By a clock that is ahead the feed is stale and nothing is entered; one that is behind is put on to the feed's.
        """
        clocks = f"the feed's time is {iso_utc(feed_now)}, the system's {iso_utc(self.now())}"
        is_holding = left is not None and bool(left.carried.positions or left.carried.orders)
        if feed_now < self.now() - RECORDED_BEHIND:
            fix = "set clock: feed to run recorded data, or start the gateway with --rebase now"
            raise OperatorError(
                clocks,
                where="clock",
                fix=f"{fix}; if the feed is live, set the system's clock",
                exit_code=EXIT_TRY_AGAIN if is_holding else 78,
            )
        if not is_holding:
            fix = "set the system's clock (chrony, timedatectl), or clock: feed for recorded data, and start again"
            raise OperatorError(clocks, where="clock", fix=fix, exit_code=EXIT_TRY_AGAIN)
        log.error("the system's clock is wrong: a session is opened for what is held", clocks=clocks)

    def _gains_history(self, latest: JournalEntry, opened: SessionOpened) -> bool:
        """Whether bars that the models or the warm-up wait for have been stored since the file began."""
        journal = self.journals.open(latest.path)
        try:
            first = {e.type: e.payload for e in journal.envelopes(until=3, types={"HistoryLoaded", "StateCarried"})}
        finally:
            journal.close()
        history, carried = first.get("HistoryLoaded"), first.get("StateCarried")
        if not isinstance(history, HistoryLoaded) or not isinstance(carried, StateCarried):
            return False
        lacking = tuple(lacking_bars(opened, history.tables))
        if not lacking:
            return False
        more = self.extend_history(history, opened.session, opened.contracts, carried.contracts)
        return tuple(lacking_bars(opened, more.tables)) != lacking

    def _create(self, opened: SessionOpened, history: HistoryLoaded, left: Inheritance | None) -> OpenedFile:
        carried = left.carried if left is not None else fresh_state()
        self._refuse_dropped_roots(carried)
        before = () if left is None else left.opened.contracts
        more = self.extend_history(history, opened.session, opened.contracts, before)
        carried, history = without_overtaken(carried, more, history), more
        path = self.journals.create(opened.session.date.isoformat(), opened.segment)
        log.info("session opened", session=opened.session.date.isoformat(), file=path.name, mode=opened.mode)
        tables = history.tables
        lacking_models = lacking_inputs(opened.models, tables, pairs_of(opened.roots))
        for root, lacking in (*lacking_models, *lacking_gates(opened, tables)):
            log.warning(
                "no entries of this root until it has the bars that its model or its gates read",
                root=root,
                lacking=lacking,
                fix="`history fetch` or `history import`, then start again",
            )
        start = opened.session.start_ns
        feeds = ReferenceFeeds(opened.required_reference_feeds, tables=history.tables, session_start=start)
        if missing := feeds.missing():
            log.warning(
                "no entries until these feeds have their last completed day",
                feeds=", ".join(missing),
                fix="`history fetch` or `history import`, or see required_reference_feeds in docs/configuration.md",
            )
        for position in carried.positions:
            log.warning("position carried", root=position.root, contract=position.contract, quantity=position.quantity)
        return OpenedFile(path=path, opened=opened, opening=(opened, history, carried))

    def _refuse_dropped_roots(self, carried: StateCarried) -> None:
        """What is held can be closed only through its root's settings."""
        traded = {root.root for root in self.plan.roots if not root.is_reference}
        left = {position.root for position in carried.positions} | {order.root for order in carried.orders}
        if dropped := sorted(left - traded):
            raise OperatorError(
                f"held or ordered, and not traded any more: {', '.join(dropped)}",
                where="symbols",
                fix="trade them until they are flat",
            )

    def _opened(
        self,
        *,
        session: Session,
        segment: int,
        chosen: SessionContracts,
        feed_start_ns: Nanos,
    ) -> SessionOpened:
        plan = self.plan
        return SessionOpened(
            session=session,
            segment=segment,
            mode=plan.mode,
            is_demo=plan.is_demo,
            account=plan.account,
            clock=plan.clock,
            seed=plan.seed,
            version=plan.version,
            code_digest=plan.code_digest,
            config_digest=plan.config_digest,
            libraries=dict(sorted(plan.libraries.items())),
            strategy=plan.strategy,
            risk=plan.risk,
            roots=self.roots_on(plan.roots, session.date),
            contracts=chosen.contracts,
            mappings=chosen.mappings,
            feed_start_ns=feed_start_ns,
            models=plan.models,
            shadows=plan.shadows,
            required_reference_feeds=plan.required_reference_feeds,
        )

    # ------------------------------------------------------------- contracts

    def _resolve(self, left: Inheritance | None) -> tuple[dict[str, str], Nanos]:
        """Raw symbol by symbol that was asked for, and the feed's time."""
        mapped, feed_now = self.source.resolve(asked_symbols(self.plan.roots, left))
        return {symbol: item.raw_symbol for symbol, item in mapped.items()}, feed_now


def opening_of(journal: JournalFile) -> SessionOpened:
    """The first event of a file. Raises JournalUnreadable when it is none."""
    first = next(iter(journal.envelopes(until=1)), None)
    if first is None or not isinstance(first.payload, SessionOpened):
        raise JournalUnreadable(f"{journal.path}: the first event is not SessionOpened")
    return first.payload


def _label(mode: str, is_demo: bool, account: str) -> str:
    return f"{'demo' if is_demo else mode} (account {account})"
