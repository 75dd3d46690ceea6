"""The shell around a machine: take from the mailbox, handle, hand in the outputs. Nothing else.

A shell's first message is its catch-up: a new machine reads the journal from the first
event, compares what it decides with what its earlier incarnation recorded, and hands in
what that one still owed. A machine that decides otherwise than its record is not restarted:
the journal would no longer be the session. At a start of the process the machine has done
most of this already (`actors.recovery`), and its catch-up begins where that ended.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import attrs
import pykka

from actors.faults import Faults
from actors.machines import Skips, skips_of
from actors.recovery import Recovered
from actors.sequencer import Sequencer
from domain.envelope import Envelope
from domain.errors import OurError
from domain.events import Event
from domain.ports import JournalFile


class RecoveryDivergedError(OurError):
    """A restarted machine decided otherwise than the record."""


class ActorExitError(OurError):
    """Something inside an actor asked the whole process to exit."""


@attrs.frozen
class Start:
    """The first message of every actor."""


@attrs.frozen
class Failed:
    """Told to the supervisor by a dying actor."""

    actor: str
    at_seq: int
    error: BaseException
    ref: pykka.ActorRef[Any] | None = None
    """The incarnation that died; None where there is none yet."""
    in_hand: Envelope | None = None
    """The event that it died of: handled and not answered yet."""


@attrs.frozen
class Ended:
    """Told to the supervisor by an actor that has stopped without a failure."""

    actor: str
    at_seq: int
    ref: pykka.ActorRef[Any]


Report = Callable[[Failed | Ended], None]


class SupervisedActor(pykka.ThreadingActor):
    """An actor that reports its own end. `at_seq` is where it was.

    It begins with its first message and not in `on_start`, where a failure would be told to nobody.
    """

    use_daemon_thread = True

    def __init__(self, name: str, report: Report) -> None:
        super().__init__()
        self.name = name
        self.at_seq = 0
        self.in_hand: Envelope | None = None
        self._report = report

    def on_receive(self, message: Any) -> None:
        try:
            self.receive(message)
        except (SystemExit, KeyboardInterrupt) as error:
            # Pykka would stop every actor of the process without a word.
            raise ActorExitError(f"{self.name} asked the process to exit") from error

    def receive(self, message: Any) -> None:
        """Handle one message."""
        raise OurError(f"{self.name} cannot take {message!r}")

    def on_stop(self) -> None:
        self._report(Ended(self.name, self.at_seq, self.actor_ref))

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        error = exception_value or OurError("unknown failure")
        self._report(Failed(self.name, self.at_seq, error, self.actor_ref, self.in_hand))


def deliver_to(ref: pykka.ActorRef[Any]) -> Callable[[Envelope], None]:
    """A delivery that a dead actor does not disturb: its catch-up will read what it missed."""

    def deliver(envelope: Envelope) -> None:
        try:
            ref.tell(envelope)
        except pykka.ActorDeadError:
            return

    return deliver


class MachineActor(SupervisedActor):
    """Drives one machine from its mailbox."""

    def __init__(
        self,
        *,
        recovered: Recovered,
        name: str,
        sequencer: Sequencer,
        open_journal: Callable[[], JournalFile],
        report: Report,
        faults: Faults,
    ) -> None:
        super().__init__(name, report)
        self._recovered = recovered
        self._sequencer = sequencer
        self._open_journal = open_journal
        self._faults = faults
        self._machine = recovered.machine
        self._skips: Skips = frozenset()

    def receive(self, message: Any) -> None:
        if isinstance(message, Start):
            self._catch_up()
        else:
            self._handle(message)

    def _handle(self, envelope: Envelope) -> None:
        self.at_seq = envelope.seq
        self._faults.pause()
        self._faults.reach(self.name, envelope.seq, "before")
        self.in_hand = envelope
        outputs = self._machine.handle(envelope)
        self._faults.reach(self.name, envelope.seq, "handled")
        self._sequencer.complete(self.name, envelope, outputs, self._machine.next_deadline())
        self.in_hand = None
        self._faults.reach(self.name, envelope.seq, "published")

    def _catch_up(self) -> None:
        subscription = self._sequencer.subscribe(self.name, deliver_to(self.actor_ref))
        recovered_until = self._recovered.seq
        if recovered_until:
            self.at_seq = recovered_until
            self._faults.reach(self.name, recovered_until, "catch_up")
            self._sequencer.complete_until(
                self.name, recovered_until, self._recovered.owed, self._machine.next_deadline()
            )
        pending = subscription.pending
        on_file_until = pending[0].seq - 1 if pending else subscription.cut
        expected: dict[tuple[int, int], Event] = {}
        # Closed at once, also when this catch-up crashes: an open reader would keep the file from being sealed.
        with contextlib.closing(self._open_journal()) as journal:
            # What lets it go on without an event stands behind that event.
            self._skips = skips_of(journal, pending)
            on_file = journal.envelopes(
                after=recovered_until, until=on_file_until, types=self._machine.kinds, source=self.name
            )
            for envelope in itertools.chain(on_file, pending):
                self._recover(envelope, subscription.answered, expected)
        if expected:
            raise RecoveryDivergedError(f"{self.name}: {len(expected)} recovered events are not on record")
        self._sequencer.caught_up(self.name, self._machine.next_deadline())

    def _recover(self, envelope: Envelope, answered: int, expected: dict[tuple[int, int], Event]) -> None:
        if envelope.source == self.name and envelope.cause is not None:
            again = expected.pop((envelope.cause, envelope.idx), None)
            if again != envelope.payload:
                raise RecoveryDivergedError(f"{self.name}: seq {envelope.seq} is {envelope.payload}, now {again}")
        if envelope.type not in self._machine.kinds:
            return
        self.at_seq = envelope.seq
        self._faults.reach(self.name, envelope.seq, "catch_up")
        is_skipped = (self.name, envelope.seq) in self._skips
        if is_skipped and envelope.seq > answered:
            self._sequencer.complete(self.name, envelope, (), self._machine.next_deadline())
        if is_skipped:
            return
        if envelope.seq > answered:
            self._handle(envelope)
            return
        outputs = self._machine.handle(envelope)
        expected.update({(envelope.seq, idx): event for idx, event in enumerate(outputs)})
