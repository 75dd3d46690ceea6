"""Sessions, one after the other: the actors, the writer and the HTTP runner of each file.

`SessionRun` wires one file's parts, runs until something ends it, and closes them in order.
`run_live` goes from session to session until it is told to stop or the data is exhausted.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs
import pykka
import structlog

from actors.actor import Ended, Failed, MachineActor, SupervisedActor
from actors.alerts import Alerts
from actors.clock import RealTimeClock, RecordedClock
from actors.faults import Faults
from actors.feed import FeedActor, FeedFinished
from actors.feed_memory import FeedMemory
from actors.health import STALL_STOPS_S, Health, judge_backlog
from actors.heartbeat import Heartbeat
from actors.http_runner import HttpRunner
from actors.machines import SUBSCRIBERS, MachineParts, skips_of
from actors.opening import LivePlan, OpenedFile, Opener
from actors.operator import OperatorDesk
from actors.recovery import Recovery
from actors.replay import RecallingCodec
from actors.sequencer import Sequencer
from actors.status import Status
from actors.supervisor import Begin, ChildSpec, Look, Release, Supervisor
from actors.tally import Tally
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed, OperatorError
from domain.events import (
    ActorRestarted,
    EntriesClosed,
    EntriesOpened,
    SafeStopRequested,
    SessionClosed,
    SessionStopped,
)
from domain.ports import Codec, FeedSource, JournalDirectory, Webhook
from domain.units import Nanos

QUIESCE_S = 20.0
"""How long an orderly end waits for what is owed and in flight."""
EXIT_SAFE_STOP = 70
FOLLOWERS = {"bars": ("strategy",)}
"""Rest-for-one: who has acted on what a restarted actor said is renewed from the record with it."""
FAILURES_DEGRADE = 3
"""With money, after so many crashes and safe stops in a session nothing is entered until the operator says `resume`."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class LiveParts:
    """The adapters of a live run."""

    journals: JournalDirectory
    codec: Codec
    source: FeedSource
    make_webhook: Callable[[], Webhook]
    machine_parts: MachineParts
    now: Callable[[], Nanos]
    faults: Faults
    alerts: Alerts | None = None
    heartbeat: Heartbeat | None = None
    health: Health = attrs.Factory(Health)
    on_open: Callable[[], None] = lambda: None
    """Called when a session's machines have caught up and its feed is started."""
    desk: OperatorDesk = attrs.Factory(lambda: OperatorDesk(stop=lambda: None))


@attrs.frozen(kw_only=True)
class SessionEnd:
    """How a session file was left."""

    kind: Literal["closed", "stopped", "safe_stop"]
    reason: str
    is_exhausted: bool = False
    error: OperatorError | None = None


class SessionRun:
    """One session file, from its opening events to its end."""

    def __init__(
        self, *, plan: LivePlan, parts: LiveParts, file: OpenedFile, stopping: threading.Event, tally: Tally
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._file = file
        self._stopping = stopping
        self._tally = tally
        self._ended = threading.Event()
        self._halting = threading.Event()
        self._end: SessionEnd | None = None
        self._memory = FeedMemory()
        self._children: dict[str, pykka.ActorRef[Any]] = {}
        self._are_entries_open = True
        self._has_write_failed = False
        self._now = RecordedClock(parts.now)
        codec = RecallingCodec(parts.codec)
        journal = parts.journals.open(file.path, codec)
        self._recovery = Recovery(parts.machine_parts, codec, skips_of(journal))
        head = journal.head()
        self._writer = parts.journals.writer(
            file.path,
            durable_seq=head.seq,
            on_failure=self._on_write_failed,
            before_commit=parts.faults.pause,
        )
        self._sequencer = Sequencer(
            writer=self._writer,
            codec=parts.codec,
            subscribers=SUBSCRIBERS,
            is_simulated=plan.is_simulated,
            now=self._now,
        )
        self._sequencer.observe(self._memory.fold)
        self._status = Status(tally)
        self._sequencer.observe(self._status.fold)
        self._sequencer.observe(self._watch_entries)
        self._sequencer.observe(parts.health.watch)
        if parts.alerts is not None:
            self._sequencer.observe(parts.alerts.watch(tally, after=head.seq, stalled_s=lambda: self._writer.stalled_s))
        self._http = HttpRunner(
            sequencer=self._sequencer,
            webhook=parts.make_webhook(),
            is_simulated=plan.is_simulated,
            now=self._now,
            faults=parts.faults,
            on_failure=lambda error: self._finish(SessionEnd(kind="safe_stop", reason=f"HTTP runner: {error!r}")),
        )
        self._sequencer.observe(self._http.watch)
        self._sequencer.restore(journal, self._recovery.fold)
        journal.close()
        if not plan.is_simulated:
            self._now.go_on_from(max(self._sequencer.now_ns, file.recorded_ns))
        self._is_restart = head.seq > 0
        self._clock: RealTimeClock | None = None
        self._specs = self._child_specs()
        self._supervisor = Supervisor.start(
            specs=self._specs,
            sequencer=self._sequencer,
            on_safe_stop=lambda reason: self._finish(SessionEnd(kind="safe_stop", reason=reason)),
        )

    def run(self) -> SessionEnd:
        """Run to the end. Raises JournalWriteFailed when the file could not be written."""
        self._writer.start()
        self._http.start()
        self._parts.health.attend(
            self._sequencer, stalled_s=lambda: self._writer.stalled_s, is_simulated=self._plan.is_simulated
        )
        try:
            self._open()
            if self._parts.heartbeat is not None:
                self._parts.heartbeat.attend(self._status)
            self._parts.desk.attend(self._sequencer, self._status, lambda: self._writer.backlog)
            self._parts.on_open()
            while not self._ended.wait(0.2) and not self._stopping.is_set():
                self._supervise(Look())
        finally:
            end = self._close()
            self._parts.health.leave()
        return end

    # ------------------------------------------------------------- starting

    def _open(self) -> None:
        left_in_flight = self._sequencer.attempts_in_flight()
        self._sequencer.on_submitted(self._http.begin)
        if self._file.opening:
            self._sequencer.publish(*self._file.opening, source="session", ts=self._file.opened.session.start_ns)
        if self._is_restart:
            self._sequencer.publish(
                ActorRestarted(
                    actor="process",
                    incarnation=1 + self._tally.restarts["process"],
                    at_seq=self._sequencer.seq,
                    is_degraded=self._file.opened.mode == "live" and self._tally.failures >= FAILURES_DEGRADE,
                ),
                source="supervisor",
            )
        for name, _ in SUBSCRIBERS:
            self._supervise(Begin(name))
        self._wait_idle()
        self._http.forget(left_in_flight, self._ended.is_set)
        self._wait_idle()
        if not self._plan.is_simulated:
            self._clock = RealTimeClock(
                sequencer=self._sequencer,
                now=self._now,
                watermark=self._memory.watermark,
                each_look=self._guard_backlog,
                on_failure=lambda error: self._finish(SessionEnd(kind="safe_stop", reason=f"clock: {error!r}")),
            )
            self._clock.start()
        if not self._ended.is_set():
            self._supervise(Begin("feed"))

    def _wait_idle(self) -> None:
        """Until nothing is owed, and nobody's deadline is unknown: who owes nothing may still be catching up."""
        for when in (self._sequencer.when_caught_up, self._sequencer.when_idle):
            is_so = threading.Event()
            when(is_so.set)
            while not is_so.wait(0.05) and not self._ended.is_set() and not self._stopping.is_set():
                self._supervise(Look())

    def _child_specs(self) -> tuple[ChildSpec, ...]:
        """The tree, in the order in which it is started; docs/supervision.md draws it."""
        machines = tuple(
            ChildSpec(
                name=name,
                start=partial(self._start_machine, name),
                restart="permanent",
                shutdown_s=QUIESCE_S,
                followers=FOLLOWERS.get(name, ()),
                poison="skip" if name in self._plan.skip_poison else "stop",
            )
            for name, _ in SUBSCRIBERS
        )
        feed = ChildSpec(name="feed", start=self._start_feed, restart="transient", shutdown_s=QUIESCE_S)
        return (*machines, feed)

    def _start_machine(self, name: str) -> pykka.ActorRef[SupervisedActor]:
        ref: pykka.ActorRef[Any] = MachineActor.start(
            recovered=self._recovery.take(name),
            name=name,
            sequencer=self._sequencer,
            open_journal=lambda: self._parts.journals.open(self._file.path),
            report=self._supervise,
            faults=self._parts.faults,
        )
        self._children[name] = ref
        return ref

    def _start_feed(self) -> pykka.ActorRef[SupervisedActor]:
        ref: pykka.ActorRef[Any] = FeedActor.start(
            sequencer=self._sequencer,
            source=self._parts.source,
            opened=self._file.opened,
            memory=self._memory,
            clock=self._clock,
            now=self._now,
            until_ns=self._plan.until_ns,
            stopping=self._halting,
            on_finished=self._on_feed_finished,
            report=self._supervise,
            faults=self._parts.faults,
        )
        self._children["feed"] = ref
        return ref

    # ------------------------------------------------------------- what ends it

    def _supervise(self, message: Begin | Release | Look | Failed | Ended) -> None:
        # Nobody needs it when the session's end has stopped it, and its own failure is a safe stop.
        with contextlib.suppress(pykka.ActorDeadError):
            self._supervisor.tell(message)

    def _finish(self, end: SessionEnd) -> None:
        if self._end is None:
            self._end = end
        self._ended.set()

    def _on_feed_finished(self, finished: FeedFinished) -> None:
        kind: Literal["closed", "stopped"] = "closed" if finished.reason == "session_over" else "stopped"
        self._finish(
            SessionEnd(kind=kind, reason=finished.reason, is_exhausted=finished.is_exhausted, error=finished.error)
        )

    def _on_write_failed(self, error: JournalWriteFailed) -> None:
        log.critical("journal write failed", error=str(error))
        self._has_write_failed = True
        self._finish(SessionEnd(kind="safe_stop", reason=str(error)))

    def _watch_entries(self, envelope: Envelope) -> None:
        """What the record says about entries, a restart's included."""
        if envelope.type in ("EntriesClosed", "EntriesOpened"):
            self._are_entries_open = envelope.type == "EntriesOpened"

    def _guard_backlog(self) -> None:
        """In real time a slow disk or machine closes entries, and one that stands ends the process."""
        if self._halting.is_set():
            return  # nothing opens entries again while the session ends
        verdict, reason = judge_backlog(stalled_s=self._writer.stalled_s, owed=self._sequencer.owed)
        if verdict == "stop":
            self._finish(SessionEnd(kind="safe_stop", reason=reason))
        elif verdict == "close_entries" and self._are_entries_open:
            self._sequencer.publish(EntriesClosed(reason=reason), source="supervisor")
        elif verdict == "well" and not self._are_entries_open:
            self._sequencer.publish(EntriesOpened(reason="journal and machines have caught up"), source="supervisor")

    # ------------------------------------------------------------- closing

    def _close(self) -> SessionEnd:
        self._parts.desk.leave()
        end = self._end or SessionEnd(kind="stopped", reason="signal")
        self._halting.set()
        self._sequencer.wake()
        self._supervise(Release("feed"))
        self._stop_actor(self._children.get("feed"))
        if self._clock is not None and end.kind != "safe_stop":
            self._clock.stop()
        # Machines are supervised to the last: what the final tick asks of them must be answered.
        if end.kind != "safe_stop" and not self._quiesce():
            # Never sealed over an attempt whose outcome may still come.
            end = SessionEnd(kind="safe_stop", reason=f"the pipeline did not come to rest within {QUIESCE_S:.0f} s")
        if end.kind == "safe_stop":
            self._safe_stop(end.reason)
        self._stop_actor(self._supervisor)
        self._publish_end(end)
        for spec in self._specs:
            self._stop_actor(self._children.get(spec.name), spec.shutdown_s)
        self._http.stop()
        self._writer.stop()
        return end

    def _safe_stop(self, reason: str) -> None:
        """On record and on disk, in the emergency file if need be; then what the policy sends has its time to leave."""
        log.critical("safe stop", reason=reason)
        (stop,) = self._sequencer.publish(SafeStopRequested(reason=reason), source="supervisor")
        is_durable = threading.Event()
        self._writer.when_durable(stop.seq, is_durable.set)
        if not is_durable.wait(0 if self._has_write_failed else STALL_STOPS_S):
            self._writer.fall_back()
        if self._file.opened.risk.safestop_policy != "hold":
            self._quiesce()
            # What was not accepted is tried again while the clock goes on; in simulated time it stands.
            until_s = time.monotonic() + QUIESCE_S
            while self._clock is not None and self._has_unsent() and time.monotonic() < until_s:
                time.sleep(0.1)
        if self._clock is not None:
            self._clock.stop()

    def _has_unsent(self) -> bool:
        _, orders = self._status.open_of()
        return any(order.intent != "entry" and not order.is_accepted for order in orders)

    @staticmethod
    def _stop_actor(ref: pykka.ActorRef[Any] | None, timeout_s: float = QUIESCE_S) -> None:
        if ref is None or not ref.is_alive():
            return
        try:
            ref.stop(block=True, timeout=timeout_s)
        except (pykka.Timeout, pykka.ActorDeadError):
            # It is busy or died meanwhile; its thread is a daemon and its work is in the journal.
            log.warning("an actor did not stop in time", actor=str(ref))

    def _quiesce(self) -> bool:
        """Let the pipeline finish what it owes and what is in flight; False when it does not in time."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._sequencer.wake()

        timer = threading.Timer(QUIESCE_S, give_up)
        timer.daemon = True
        timer.start()
        is_quiet = self._sequencer.wait_quiet(is_late.is_set)
        timer.cancel()
        return is_quiet

    def _publish_end(self, end: SessionEnd) -> None:
        if end.kind == "closed":
            closed = SessionClosed(
                events=self._sequencer.seq,
                decisions=self._tally.decisions,
                orders=self._tally.orders,
                head=self._sequencer.head_hash.hex(),
            )
            self._sequencer.publish(closed, source="session")
            return
        positions = tuple(self._tally.positions[root] for root in sorted(self._tally.positions))
        self._sequencer.publish(SessionStopped(reason=end.reason, positions=positions), source="session")


@attrs.frozen(kw_only=True)
class LiveResult:
    """How a live run ended: its exit code, the files it wrote, each with its tally."""

    exit_code: int
    end: SessionEnd
    sessions: tuple[tuple[Path, Tally], ...]


def run_live(
    *,
    plan: LivePlan,
    parts: LiveParts,
    opener: Opener,
    stopping: threading.Event,
    on_session: Callable[[Path, Tally], None],
) -> LiveResult:
    """Run sessions until `stopping`, the end of the data, `plan.until_ns`, or a SafeStop.

    `on_session` is told of each file as it starts. Raises OperatorError when the feed or
    the configuration refuses us, JournalWriteFailed when the journal cannot be written.
    """
    sessions: list[tuple[Path, Tally]] = []
    file = opener.first()
    while True:
        tally = Tally()
        sessions.append((file.path, tally))
        on_session(file.path, tally)
        run = SessionRun(plan=plan, parts=parts, file=file, stopping=stopping, tally=tally)
        if not plan.is_simulated:
            _settle_heap()
        end = run.run()
        if end.error is not None:
            raise end.error
        if end.kind == "closed":
            sha256 = parts.journals.seal(file.path)
            log.info("session closed", file=file.path.name, sha256=sha256)
            if not end.is_exhausted and not stopping.is_set():
                file = opener.next_after(file.path, sha256)
                continue
        exit_code = EXIT_SAFE_STOP if end.kind == "safe_stop" else 0
        return LiveResult(exit_code=exit_code, end=end, sessions=tuple(sessions))


def _settle_heap() -> None:
    """Leave what lives now out of later collections: a full one, over every module, has held up an order by 0.13 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
