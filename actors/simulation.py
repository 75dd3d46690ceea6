"""One process of a simulation: the live program's own parts in one thread, stepped by a seeded scheduler.

Sequencer, actors with their catch-up, recovery, HTTP runner, feed and clock are the product's; disk,
network, market and time are played (`World`). Whatever could run next in a live process (an actor
with mail, the HTTP loop, a commit, a restart, time itself) is drawn. A process dies by `ProcessDied`
at any step; the next one goes on from what was durable, as a live start does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from actors.actor import Ended, Failed, MachineActor, Start, SupervisedActor
from actors.faults import InjectedCrash
from actors.feed import FeedActor, FeedFinished
from actors.feed_memory import FeedMemory
from actors.machines import SUBSCRIBERS
from actors.recovery import Recovered, Recovery
from actors.replay import RecallingCodec
from actors.simulation_steps import SteppedClock, SteppedRunner, SteppedSequencer, SteppedStopping
from actors.simulation_world import ProcessDied, ScenarioBroken, World
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import ActorCrashed, ActorRestarted, SessionClosed
from domain.ports import JournalFile
from domain.units import SECOND, Nanos

MOST_LOOPS = 16
"""Turns of the HTTP loop without any effect after which it waits for something else."""
MOST_MAIL = 500
MOST_BACKLOG = 2_000
MOST_STEPS = 60_000
"""Bounds of one process: beyond them something grows or circles that should not."""


def run_world(world: World) -> None:
    """Processes, one after the other, until one closes the session. Raises ScenarioBroken when it cannot go on."""
    while True:
        world.processes += 1
        process = Process(world)
        try:
            process.run()
        except ProcessDied:
            if world.open_journal(None).head().status == "closed":
                return
            if not world.is_simulated:
                world.now = Nanos(world.now + world.random.choice((0, 1, 10, 45)) * SECOND)
        else:
            return
        finally:
            process.end()


class Process:
    """From a start of the program to its end or death; wired as `actors.live` wires it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps = 0
        self._is_forgetting = False
        self._draw = world.random
        number = world.processes
        plan = world.deaths.processes
        self._dies_at = plan[number - 1] if number <= len(plan) else 0
        self._doomed: int | None = None
        self._error: BaseException | None = None
        self._finished: FeedFinished | None = None
        self._actors: dict[str, SupervisedActor] = {}
        self._incarnations: Counter[str] = Counter()
        self._restarts: list[Failed] = []
        self._sleepers: list[tuple[Nanos, asyncio.Future[None]]] = []
        self._loops = 0
        self._loops_at = 0
        self._feed_rests_until = world.now
        self._is_feed_due = True
        self._clock: SteppedClock | None = None
        self._inputs_seen = 0
        self._counts: Counter[str] = Counter()
        self._receivers = [(name, partial(self._receive, name)) for name, _ in SUBSCRIBERS]
        self._has_mail_or_restarts = False
        codec = RecallingCodec(world.codec)
        recovery = Recovery(world.machine_parts, codec)
        journal = world.open_journal(codec)
        self._first_seq = journal.head().seq
        self.disk = world.make_disk(self._on_append)
        self.sequencer = SteppedSequencer(
            writer=self.disk,
            codec=world.codec,
            subscribers=SUBSCRIBERS,
            is_simulated=world.is_simulated,
            now=lambda: world.now,
        )
        self.sequencer.pace = self.pace
        self.sequencer.on_barrier = self._on_barrier
        self.memory = FeedMemory()
        self.sequencer.observe(self.memory.fold)
        self.sequencer.observe(self._watch)
        self.runner = SteppedRunner(
            sequencer=self.sequencer,
            webhook=world.make_webhook(self),
            is_simulated=world.is_simulated,
            now=lambda: world.now,
            faults=world.faults,
            on_failure=self._on_runner_failure,
        )
        self.sequencer.observe(self.runner.watch)
        self.sequencer.restore(journal, recovery.fold)
        self._recovery = recovery
        self._stopping = SteppedStopping(self._rest_feed)

    @property
    def now(self) -> Nanos:
        """The time that what leaves the process is judged by."""
        return self.sequencer.now_ns if self.world.is_simulated else self.world.now

    def run(self) -> None:
        """To the session's end. Raises ProcessDied before it."""
        self._open()
        while self._finished is None:
            if self.world.is_simulated:
                self.pace()
                self._receive("feed")
            else:
                self._turn()
        self._close()

    def end(self) -> None:
        """Nothing of this process goes on."""
        self._stopping.set()
        self.runner.drop()

    # ------------------------------------------------------------- start and end

    def _open(self) -> None:
        world = self.world
        left_in_flight = self.sequencer.attempts_in_flight()
        self.sequencer.on_submitted(self.runner.begin)
        if self._first_seq:
            restarted = ActorRestarted(actor="process", incarnation=world.processes, at_seq=self._first_seq)
            self.sequencer.publish(restarted, source="supervisor")
        else:
            self.sequencer.publish(*world.opening, source="session", ts=world.opened.session.start_ns)
        for name, _ in SUBSCRIBERS:
            recovered = self._recovery.take(name)
            if self._first_seq and not recovered.seq:
                self._break("recovery", f"{name} does not recover from its own record")
            self._start_machine(name, recovered)
        self.pace(is_idle_enough=True)
        self._is_forgetting = True
        self.runner.forget(left_in_flight, lambda: False)
        self._is_forgetting = False
        self.pace(is_idle_enough=True)
        if not world.is_simulated:
            self._clock = SteppedClock(
                sequencer=self.sequencer,
                now=lambda: world.now,
                watermark=self.memory.watermark,
                each_look=lambda: None,
                on_failure=lambda error: None,
            )
        self._start_feed()

    def _close(self) -> None:
        if self.world.is_simulated:
            self.pace()
        while self._busy() or self.sequencer.attempts_in_flight():
            self._turn()
        try:
            self.sequencer.is_quiet()
        except OurError as error:
            self._break("rest", str(error))
        closed = SessionClosed(
            events=self.sequencer.seq,
            decisions=self._counts["SignalEvaluated"],
            orders=self._counts["OrderRequested"],
            head=self.sequencer.head_hash.hex(),
        )
        self.sequencer.publish(closed, source="session")
        while self.disk.has_work:
            self.commit()
        if self.disk.failure is not None:
            raise ProcessDied

    def _start_machine(self, name: str, recovered: Recovered) -> None:
        self._start(
            name,
            MachineActor(
                recovered=recovered,
                name=name,
                sequencer=self.sequencer,
                open_journal=self._open_journal,
                report=self._report,
                faults=self.world.faults,
            ),
        )

    def _start_feed(self) -> None:
        world = self.world
        self._is_feed_due = True
        self._start(
            "feed",
            FeedActor(
                sequencer=self.sequencer,
                source=world.market,
                opened=world.opened,
                memory=self.memory,
                clock=self._clock,
                now=lambda: world.now,
                until_ns=None,
                stopping=self._stopping,
                on_finished=self._on_finished,
                report=self._report,
                faults=world.faults,
            ),
        )

    def _start(self, name: str, actor: SupervisedActor) -> None:
        # Never `actor.start()`: its thread is ours. The mailbox and the reference are Pykka's own.
        self._actors[name] = actor
        self._incarnations[name] += 1
        actor.actor_ref.tell(Start())

    def _open_journal(self) -> JournalFile:
        """A catch-up reads the file: the writer may commit between its copy of the list and the reading."""
        if self._draw.random() < 0.5:
            self.commit()
        return self.world.open_journal(None)

    # ------------------------------------------------------------- the scheduler

    def pace(self, *, is_idle_enough: bool = False) -> None:
        """Run everyone but the feed until nothing is owed and, unless idle is enough, nothing is in flight."""
        while True:
            options = self._busy()
            if not self._has_mail_or_restarts and (is_idle_enough or not self.sequencer.attempts_in_flight()):
                if is_idle_enough or not self._give_input():
                    return
                continue
            if not options:
                self._wait_in_vain()
                return
            self._step(self._draw.choice(options))

    def _turn(self) -> None:
        """In real time: something that can run, or time passes."""
        options: list[Callable[[], None]] = self._busy()
        if self._has_mail("feed") and self._is_feed_due and self._finished is None:
            options.append(self._receive_feed)
        if options and self._draw.random() < 0.98:
            self._step(self._draw.choice(options))
        else:
            self._step(lambda: self._let_time_pass(is_busy=bool(options)))
        self._give_input()

    def _busy(self) -> list[Callable[[], None]]:
        """What could run now, the feed aside."""
        options: list[Callable[[], None]] = [receive for name, receive in self._receivers if self._has_mail(name)]
        if self._restarts:
            options.append(self._restart)
        self._has_mail_or_restarts = bool(options)
        if self._loops < MOST_LOOPS and self.sequencer.attempts_in_flight():
            options.append(self._turn_loop)
        if self.disk.has_work:
            options.append(self.commit)
        return options

    def _step(self, action: Callable[[], None]) -> None:
        self.reach()
        if action != self._turn_loop:
            self._loops = 0
        action()
        if self._error is not None:
            raise self._error

    def reach(self) -> None:
        """A moment at which the process may die."""
        self.steps += 1
        if self.steps == self._dies_at:
            raise ProcessDied
        if self._doomed is not None:
            self._doomed -= 1
            if self._doomed <= 0:
                raise ProcessDied
        if self.steps > MOST_STEPS:
            self._break("memory", f"no end after {MOST_STEPS} steps, at seq {self.sequencer.seq}")

    def _turn_loop(self) -> None:
        self._loops += 1
        self.runner.turn()
        if self.sequencer.seq != self._loops_at:
            self._loops, self._loops_at = 0, self.sequencer.seq

    def commit(self) -> None:
        """The writer commits, or fails to, and then for good."""
        if not self.disk.has_work:
            return
        self.reach()
        self.world.commits += 1
        if self.world.commits == self.world.deaths.failing_commit:
            self.disk.fail()
            # Live notices within moments, and what it publishes meanwhile is lost.
            self._doomed = self._draw.randint(1, 40)
        self.disk.commit()
        self.reach()

    def _on_barrier(self) -> None:
        if not self._is_forgetting:
            return
        self.commit()  # who forgets blocks until it is on disk
        if self.disk.failure is not None:
            raise ProcessDied  # a failed disk ends a live process here; nobody would wake this one

    def _wait_in_vain(self) -> None:
        """Nothing can run and something is in flight: the disk has failed, or nobody will ever answer."""
        if self.disk.failure is not None:
            raise ProcessDied
        flying = [envelope.seq for envelope in self.sequencer.attempts_in_flight()]
        self._break("rest", f"nothing can run, in flight: {flying}")

    def _give_input(self) -> bool:
        """The next input from outside, when its moment has come."""
        if self._inputs_seen == len(self.world.inputs):
            return False
        due = self.world.inputs[self._inputs_seen]
        if due.ts > self.now or self._finished is not None:
            return False
        self.sequencer.publish(due.event, source=due.source)
        return True

    # ------------------------------------------------------------- time

    async def pass_time(self, seconds: float) -> None:
        """Awaited by the network. In simulated time no time passes while a request is on its way."""
        if self.world.is_simulated or not seconds:
            await asyncio.sleep(0)
            return
        future = self.runner.future
        self._sleepers.append((Nanos(self.world.now + int(seconds * SECOND)), future))
        await future

    def _let_time_pass(self, *, is_busy: bool) -> None:
        world = self.world
        if is_busy:
            # Threads and commits take their time.
            world.now = Nanos(world.now + self._draw.choice((20_000, 1_000_000, 60_000_000, 400_000_000)))
        else:
            moments = [due for due, future in self._sleepers if not future.done()]
            moments.append(max(world.market.next_ns(), self._feed_rests_until))
            if self._clock is not None:
                moments.append(self._clock.due_ns())
            if self._inputs_seen < len(world.inputs):
                moments.append(world.inputs[self._inputs_seen].ts)
            world.now = max(Nanos(world.now + 1_000), min(moments))
        for due, future in self._sleepers:
            if due <= world.now and not future.done():
                future.set_result(None)
        self._sleepers = [(due, future) for due, future in self._sleepers if not future.done()]
        self._is_feed_due = world.now >= self._feed_rests_until
        if self._clock is not None and self._finished is None:
            self._clock.look()

    def _rest_feed(self) -> None:
        """The feed waits before it connects again."""
        self._feed_rests_until = Nanos(self.world.now + int(self._draw.uniform(0.2, 5.0) * SECOND))

    # ------------------------------------------------------------- actors

    def _has_mail(self, name: str) -> bool:
        actor = self._actors.get(name)
        if actor is None or actor.actor_stopped.is_set():
            return False
        # One thread: nobody puts anything in while this looks.
        size = len(actor.actor_inbox.queue)  # type: ignore[attr-defined]  # Pykka's is queue.Queue
        if size > MOST_MAIL:
            self._break("memory", f"{size} messages wait for {name}, limit {MOST_MAIL}")
        return size > 0

    def _receive_feed(self) -> None:
        self._is_feed_due = False
        self._receive("feed")

    def _receive(self, name: str) -> None:
        actor = self._actors[name]
        if actor.actor_stopped.is_set():
            return
        if not self._has_mail(name):
            self._break("rest", f"{name} has nothing to do and is not done")
        message = actor.actor_inbox.get().message
        try:
            actor.receive(message)
        except InjectedCrash as error:
            actor.actor_stopped.set()
            actor.on_failure(type(error), error, None)
        except Exception as error:  # noqa: BLE001 - the actor boundary
            self._break("actor", f"{name} died at {actor.at_seq}: {error!r}")

    def _report(self, failed: Failed | Ended) -> None:
        if isinstance(failed, Ended):
            return
        error = f"{type(failed.error).__name__}: {failed.error}"
        crashed = ActorCrashed(actor=failed.actor, at_seq=failed.at_seq, error=error)
        self.sequencer.publish(crashed, source="supervisor")
        self._restarts.append(failed)

    def _restart(self) -> None:
        failed = self._restarts.pop(0)
        if failed.actor == "feed":
            self._start_feed()
        else:
            self._start_machine(failed.actor, Recovered(machine=self.world.machine_parts.factories()[failed.actor]()))
        restarted = ActorRestarted(
            actor=failed.actor, incarnation=self._incarnations[failed.actor], at_seq=failed.at_seq
        )
        self.sequencer.publish(restarted, source="supervisor")

    # ------------------------------------------------------------- what is watched

    def _on_append(self, envelopes: Sequence[Envelope]) -> None:
        self.reach()
        if self.disk.backlog > MOST_BACKLOG:
            self._break("memory", f"{self.disk.backlog} events are not on disk, limit {MOST_BACKLOG}")

    def _watch(self, envelope: Envelope) -> None:
        self._counts[envelope.type] += 1
        inputs, seen = self.world.inputs, self._inputs_seen
        if seen < len(inputs) and envelope.payload == inputs[seen].event and envelope.source == inputs[seen].source:
            self._inputs_seen += 1

    def _on_finished(self, finished: FeedFinished) -> None:
        self._finished = finished

    def _on_runner_failure(self, error: BaseException) -> None:
        if not isinstance(error, ProcessDied | ScenarioBroken):
            self.world.violate("runner", repr(error))
            error = ScenarioBroken()
        self._error = error

    def _break(self, invariant: str, detail: str) -> NoReturn:
        self.world.violate(invariant, detail)
        raise ScenarioBroken
