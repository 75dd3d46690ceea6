"""Sends what the ExecutionActor has submitted and journals what came of each attempt.

It belongs to the process, not to the actor: it is handed every attempt by the
sequencer, so an outcome is journaled also while the actor is dead, and only the death of
the process makes an attempt ambiguous. Nothing is sent before its intent is on disk.

In real time attempts of different roots run in parallel. In simulated time one request
is sent at a time, only when nothing is owed, and stays in flight until its outcome is
durable: the market waits for it, so its place in the journal does not depend on the network.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from actors.faults import Faults
from actors.sequencer import Sequencer
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    CommandReceived,
    Event,
    OrderAmbiguous,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
    SafeStopRequested,
    StateCarried,
)
from domain.ports import HeldBackError, Webhook
from domain.risk import KillSwitch, Switches
from domain.units import Nanos

DRAIN_LIMIT_S = 13.0
"""Longer than one attempt can take (12 s)."""


class HttpRunner:
    """An event loop in a thread of its own around a `Webhook`."""

    def __init__(
        self,
        *,
        sequencer: Sequencer,
        webhook: Webhook,
        is_simulated: bool,
        now: Callable[[], Nanos],
        faults: Faults,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._sequencer = sequencer
        self._webhook = webhook
        self._is_simulated = is_simulated
        self._faults = faults
        self._on_failure = on_failure
        self._now = now
        self._kill: KillSwitch = "off"
        self._is_ending = False
        """By a safe stop."""
        self._begun: set[int] = set()
        """Seqs."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-runner", daemon=True)
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait for what is on its way, close the connections, end the thread."""
        asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def watch(self, envelope: Envelope) -> None:
        """Note the operator's kill switch and a safe stop: the last thing that is asked before a byte is written."""
        match envelope.payload:
            case CommandReceived(command="kill", argument=argument):
                self._kill = "all" if "all" in (argument, self._kill) else "entries"
            case CommandReceived(command="resume"):
                self._kill = "off"
            case StateCarried(switches=Switches(kill=kill)):
                self._kill = kill
            case SafeStopRequested():
                self._is_ending = True  # no entry leaves, also none that only waits for the disk
            case ActorRestarted(actor="process"):
                self._is_ending = False  # the stop on record was an earlier process's
            case _:
                pass

    def begin(self, envelope: Envelope) -> None:
        """Send the attempt or probe in `envelope`. Beginning it twice is nothing."""
        if envelope.seq in self._begun:
            return
        self._begun.add(envelope.seq)
        # The commit begins now, not when the loop gets to it.
        durable = self._event(lambda done: self._sequencer.when_durable(envelope.seq, done))
        self._loop.call_soon_threadsafe(self._create_task, envelope, durable)

    def forget(self, envelopes: list[Envelope], is_stopping: Callable[[], bool]) -> None:
        """Journal attempts of a dead process as ambiguous: whether they were received cannot be known."""
        for envelope in envelopes:
            outcome = _unknown(envelope.payload)
            (recorded,) = self._sequencer.publish(outcome, source=HTTP_SOURCE, cause=envelope)
            is_durable = threading.Event()
            self._sequencer.when_durable(recorded.seq, is_durable.set)
            while not is_durable.wait(0.1):
                if is_stopping():
                    return
            self._sequencer.attempt_settled(envelope.seq)

    # --------------------------------------------------------------- in the loop

    def _create_task(self, envelope: Envelope, durable: asyncio.Event) -> None:
        task = self._loop.create_task(self._run(envelope, durable))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self, envelope: Envelope, durable: asyncio.Event) -> None:
        if not self._is_simulated:
            await self._send(envelope, durable)
            return
        async with self._one_at_a_time:
            await self._until(self._sequencer.when_idle)
            # Before the connection is made: how long the disk takes must not decide what is recorded.
            await durable.wait()
            recorded = await self._send(envelope, durable)
            await self._until(lambda done: self._sequencer.when_durable(recorded.seq, done))
            self._sequencer.attempt_settled(envelope.seq)
            # Everyone has handled this outcome before the next request leaves.
            await self._until(self._sequencer.when_idle)

    async def _send(self, envelope: Envelope, durable: asyncio.Event) -> Envelope:
        async def may_write() -> None:
            await durable.wait()
            self._look_once_more(envelope.payload)

        await self._pause()
        outcome: Outcome | ProbeAnswered
        match envelope.payload:
            case OrderSubmitted() as submitted:
                outcome = await self._webhook.post(submitted, may_write)
            case ProbeSubmitted() as submitted:
                outcome = await self._webhook.probe(submitted, may_write)
            case other:
                raise OurError(f"{other!r} is nothing that is sent")
        await self._pause()
        (recorded,) = self._sequencer.publish(outcome, source=HTTP_SOURCE, cause=envelope)
        if not self._is_simulated:
            self._sequencer.attempt_settled(envelope.seq)
        return recorded

    def _look_once_more(self, submitted: Event) -> None:
        """The disk and the connection have taken their time. Raises HeldBackError when it is too late."""
        if not isinstance(submitted, OrderSubmitted):
            return
        if self._kill == "all" or (self._kill == "entries" and submitted.intent == "entry"):
            raise HeldBackError(f"kill switch is {self._kill}")
        if self._is_ending and submitted.intent == "entry":
            raise HeldBackError("the program ends itself")
        is_late = submitted.expires_ns is not None and self._now() >= submitted.expires_ns
        if is_late and not self._is_simulated:
            raise HeldBackError("its time limit has passed")

    async def _until(self, register: Callable[[Callable[[], None]], None]) -> None:
        """Await a callback that another thread will call."""
        await self._event(register).wait()

    def _event(self, register: Callable[[Callable[[], None]], None]) -> asyncio.Event:
        """An event of the loop, set by a callback that another thread will call."""
        event = asyncio.Event()

        def call_back() -> None:
            self._loop.call_soon_threadsafe(event.set)

        register(call_back)
        return event

    async def _pause(self) -> None:
        await asyncio.sleep(self._faults.pause_s())

    async def _drain(self) -> None:
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=DRAIN_LIMIT_S)
        # What is left waits for a disk that will not come, or for an answer: the next start
        # finds the attempt without an outcome and knows it for ambiguous.
        for task in tuple(self._tasks):
            task.cancel()
        await self._webhook.close()


def _unknown(submitted: Event) -> OrderAmbiguous | ProbeAnswered:
    """What becomes of an attempt or a probe whose process has died."""
    cause = "the process ended before the outcome was on disk"
    match submitted:
        case OrderSubmitted():
            return OrderAmbiguous(
                root=submitted.root, signal_id=submitted.signal_id, attempt=submitted.attempt, cause=cause
            )
        case ProbeSubmitted():
            return ProbeAnswered(ordinal=submitted.ordinal, is_up=False, detail=cause)
        case other:
            raise OurError(f"{other!r} is nothing that is sent")
