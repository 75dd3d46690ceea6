"""The total order: one number for every event, every debt paid once, and a join without a gap."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.sequencer import Sequencer, Subscription
from adapters.memory import MemoryJournal
from adapters.sqlite.journal import JournalFile, create_journal
from adapters.sqlite.writer import Writer
from domain.envelope import GENESIS, Envelope, chain_hash
from domain.errors import OurError
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    ClockTicked,
    EntriesClosed,
    EntriesOpened,
    Event,
    OrderAccepted,
    OrderExpired,
    OrderSubmitted,
    SafeStopRequested,
)
from domain.ports import JournalWriter
from domain.units import SECOND, Nanos
from tests.builders import CODEC, at, request_of

PATIENCE_S = 20.0
TICK = ClockTicked(ts=at(1), watermark=at(1))


def sequencer_of(
    *subscribers: tuple[str, set[str]], writer: JournalWriter | None = None, is_simulated: bool = True, now: int = 0
) -> Sequencer:
    return Sequencer(
        writer=writer or MemoryJournal(),
        codec=CODEC,
        subscribers=[(name, frozenset(kinds)) for name, kinds in subscribers],
        is_simulated=is_simulated,
        now=lambda: Nanos(now),
    )


def row(envelope: Envelope) -> tuple[object, ...]:
    return envelope.seq, envelope.source, envelope.cause, envelope.idx, envelope.corr, envelope.raw


# ---------------------------------------------------------------- one order


def test_many_threads_share_one_order_without_gap_and_everyone_sees_it() -> None:
    journal = MemoryJournal()
    sequencer = sequencer_of(("one", {"ClockTicked"}), ("two", {"ClockTicked"}), writer=journal, is_simulated=False)
    mailboxes: dict[str, list[int]] = {"one": [], "two": []}
    for name, mailbox in mailboxes.items():
        sequencer.subscribe(name, lambda envelope, box=mailbox: box.append(envelope.seq))

    def publish() -> None:
        for _ in range(200):
            sequencer.publish(TICK, TICK, source="feed")

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = list(range(1, 8 * 200 * 2 + 1))
    assert [envelope.seq for envelope in journal.envelopes()] == expected
    assert mailboxes == {"one": expected, "two": expected}


def test_one_publish_keeps_its_events_together() -> None:
    journal = MemoryJournal()
    sequencer = sequencer_of(writer=journal)
    threads = [
        threading.Thread(target=lambda: [sequencer.publish(TICK, TICK, TICK, source="feed") for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [envelope.idx for envelope in journal.envelopes()] == [0, 1, 2] * 400


def test_every_event_is_a_link_of_the_chain() -> None:
    journal = MemoryJournal()
    sequencer = sequencer_of(writer=journal)
    for ts in (at(1), at(2)):
        sequencer.publish(ClockTicked(ts=ts, watermark=ts), source="feed", ts=ts)
    before = GENESIS
    for envelope in journal.envelopes():
        columns = attrs.asdict(envelope, recurse=False, filter=lambda field, _: field.name not in ("hash", "payload"))
        assert envelope.hash == chain_hash(before, **columns)
        before = envelope.hash
    assert sequencer.head_hash == before


@pytest.mark.parametrize(
    ("is_simulated", "stamps", "expected"),
    [
        (True, [at(1), at(3), at(2), None], [at(1), at(3), at(3), at(3)]),  # never backwards
        (False, [at(1), None], [at(1), at(5)]),  # without a stamp the system clock's
    ],
)
def test_time_only_moves_forward(is_simulated: bool, stamps: list[Nanos | None], expected: list[Nanos]) -> None:
    sequencer = sequencer_of(is_simulated=is_simulated, now=at(5))
    assert [sequencer.publish(TICK, source="feed", ts=ts)[0].ts_ns for ts in stamps] == expected


def test_an_event_that_cannot_be_journaled_takes_no_number() -> None:
    sequencer = sequencer_of()
    with pytest.raises(OurError):
        sequencer.publish(TICK, request_of(ibs=float("nan")), source="strategy")
    assert sequencer.seq == 0
    assert sequencer.publish(TICK, source="feed")[0].seq == 1


# ---------------------------------------------------------------- joining


class Joining:
    """A file that is being written while someone subscribes again and again."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "2024-05-01.db"
        create_journal(self.path)
        self.writer = Writer(self.path, on_failure=lambda error: None)
        self.sequencer = sequencer_of(("late", {"ClockTicked"}), writer=self.writer)
        self.were_pending = self.were_delivered = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Joining:
        self.writer.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.writer.stop()

    def _publish(self) -> None:
        while not self._is_over.is_set():
            envelopes = self.sequencer.publish(TICK, TICK, source="feed")
            if envelopes[0].seq % 8 == 1:
                # Forces a commit: the list must lose its rows while others subscribe.
                self.writer.when_durable(envelopes[-1].seq, lambda: None)
            if self.writer.backlog > 200:
                time.sleep(0.0005)

    def join(self) -> list[int]:
        """The seqs that one subscriber gets: file, list, mailbox; of the file the last hundred."""
        mailbox: list[int] = []
        subscription = self.sequencer.subscribe("late", lambda envelope: mailbox.append(envelope.seq))
        pending = [envelope.seq for envelope in subscription.pending]
        until = pending[0] - 1 if pending else subscription.cut
        with JournalFile(self.path, CODEC) as journal:
            sql = "SELECT seq FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"
            on_file = [seq for (seq,) in journal.query(sql, (max(0, until - 100), until))]
        assert len(on_file) == min(100, until)
        self.were_pending += bool(pending)
        self.were_delivered += bool(mailbox)
        return [*on_file, *pending, *mailbox]


def test_four_thousand_joins_of_a_journal_being_written_miss_nothing_and_see_nothing_twice(tmp_path: Path) -> None:
    with Joining(tmp_path) as joining:
        joins = [joining.join() for _ in range(4_000)]
    assert not [seqs for seqs in joins if any(later - seq != 1 for seq, later in pairwise(seqs))]
    # Each place was met: rows on file, rows on their way to it, and rows that came meanwhile.
    assert joining.were_pending > 100
    assert joining.were_delivered > 100


def test_a_new_incarnation_takes_over_the_deliveries() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    old: list[int] = []
    new: list[int] = []
    first = sequencer.subscribe("bars", lambda envelope: old.append(envelope.seq))
    sequencer.publish(TICK, source="feed")
    second = sequencer.subscribe("bars", lambda envelope: new.append(envelope.seq))
    sequencer.publish(TICK, source="feed")
    assert (old, new) == ([1], [2])
    assert (first.incarnation, second.incarnation) == (1, 2)
    assert (first.cut, second.cut, second.answered) == (0, 1, 0)


# ---------------------------------------------------------------- debts

Answerer = Callable[[Envelope], tuple[Event, ...]]


def restarted(name: str) -> Answerer:
    return lambda e: (ActorRestarted(actor=name, incarnation=1, at_seq=e.seq),)


MACHINES: dict[str, tuple[set[str], Answerer]] = {
    # Two answer the same tick, one with two events; a third races both into a fourth.
    "a": ({"ClockTicked"}, lambda e: (EntriesClosed(reason=f"a{e.seq}"), EntriesOpened(reason=f"a{e.seq}"))),
    "b": ({"ClockTicked", "EntriesOpened"}, lambda e: (EntriesClosed(reason=f"b{e.seq}"),)),
    "c": ({"ClockTicked", "EntriesClosed"}, restarted("c")),
    "d": ({"ActorRestarted", "EntriesOpened"}, lambda e: (SafeStopRequested(reason=f"d{e.seq}"),)),
}


class Rig:
    """Machines driven by hand over one sequencer: whoever is told to takes its next envelope."""

    def __init__(self, journal: MemoryJournal, *, is_simulated: bool = True) -> None:
        self.journal = journal
        self.sequencer = sequencer_of(
            *((name, kinds) for name, (kinds, _) in MACHINES.items()), writer=journal, is_simulated=is_simulated
        )
        self.mailboxes: dict[str, deque[Envelope]] = {}

    def restore(self) -> Rig:
        self.sequencer.restore(self.journal)
        return self.join()

    def join(self) -> Rig:
        for name, (kinds, _) in MACHINES.items():
            mailbox: deque[Envelope] = deque()
            subscription: Subscription = self.sequencer.subscribe(name, mailbox.append)
            backlog = self.journal.envelopes(after=subscription.answered, until=subscription.cut, types=kinds)
            mailbox.extendleft(reversed(list(backlog)))
            self.mailboxes[name] = mailbox
        return self

    def take_over(self) -> Rig:
        """Go on with machines that have been given the whole file: all that they owe is handed in at once."""
        self.sequencer.restore(self.journal)
        end = self.sequencer.seq
        self.join()
        for name, mailbox in self.mailboxes.items():
            owed = [mailbox.popleft() for _ in range(len(mailbox)) if mailbox[0].seq <= end]
            answers = [(envelope, MACHINES[name][1](envelope)) for envelope in owed]
            self.sequencer.complete_until(name, end, answers, None)
        return self

    def ready(self) -> list[str]:
        return [name for name, mailbox in self.mailboxes.items() if mailbox]

    def take(self, name: str) -> None:
        envelope = self.mailboxes[name].popleft()
        self.sequencer.complete(name, envelope, MACHINES[name][1](envelope), None)

    def drain(self, choose: Callable[[list[str]], str] = lambda names: names[0]) -> None:
        while names := self.ready():
            self.take(choose(names))

    def tick(self) -> None:
        self.sequencer.publish(TICK, source="feed", ts=TICK.ts)

    def rows(self) -> list[tuple[object, ...]]:
        return [row(envelope) for envelope in self.journal.envelopes()]


def undisturbed(ticks: int) -> Rig:
    rig = Rig(MemoryJournal()).join()
    for _ in range(ticks):
        rig.tick()
    rig.drain()
    return rig


def interleavings(counts: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Every order in which the subscribers can take their envelopes, each in its own order."""
    names = [name for name, left in counts.items() if left]
    if not names:
        yield ()
    for name in names:
        for rest in interleavings(counts | {name: counts[name] - 1}):
            yield (name, *rest)


def test_in_simulated_time_the_order_in_which_actors_answer_does_not_matter() -> None:
    # a, b and c answer two ticks each, in each of the 90 possible orders.
    expected = undisturbed(2).rows()
    orders = list(interleavings({"a": 2, "b": 2, "c": 2}))
    assert len(orders) == 90
    for order in orders:
        rig = Rig(MemoryJournal()).join()
        rig.tick()
        rig.tick()
        for name in order:
            rig.take(name)
        rig.drain()
        assert rig.rows() == expected


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_whoever_is_faster_the_journal_is_the_same(random: object) -> None:
    rig = Rig(MemoryJournal()).join()
    for _ in range(3):
        rig.tick()
    rig.drain(random.choice)  # type: ignore[attr-defined]
    assert rig.rows() == undisturbed(3).rows()


def test_answers_are_admitted_by_cause_then_rank_then_place() -> None:
    answers = [e for e in undisturbed(2).journal.envelopes() if e.cause is not None]
    ranks = list(MACHINES)
    places = [(e.cause, ranks.index(e.source), e.idx) for e in answers]
    assert places == sorted(places)


def test_in_real_time_answers_are_sequenced_as_they_arrive() -> None:
    rig = Rig(MemoryJournal(), is_simulated=False).join()
    rig.tick()
    for name in ("c", "b", "a"):
        rig.take(name)
    assert [row[1] for row in rig.rows()] == ["feed", "c", "b", "a", "a"]


@pytest.mark.parametrize("is_simulated", [True, False])
def test_it_is_quiet_only_when_everyone_has_answered_everything(is_simulated: bool) -> None:
    rig = Rig(MemoryJournal(), is_simulated=is_simulated).join()
    rig.tick()
    while names := rig.ready():
        idle: list[int] = []
        rig.sequencer.when_idle(lambda seen=idle: seen.append(1))
        assert not idle
        rig.take(names[-1])
    assert idle
    assert rig.sequencer.wait_quiet(lambda: False, timeout_s=0.01)


def test_an_answer_without_outputs_is_an_answer() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("bars", tick, (), None)
    assert sequencer.seq == 1
    assert sequencer.wait_quiet(lambda: False, timeout_s=0.01)


@pytest.mark.parametrize("is_simulated", [True, False])
def test_handing_in_an_answer_twice_is_nothing(is_simulated: bool) -> None:
    once, twice = (Rig(MemoryJournal(), is_simulated=is_simulated).join() for _ in range(2))
    for rig in (once, twice):
        rig.tick()
        rig.tick()
    for name in ("a", "b", "c"):
        # An incarnation that dies after handing in is followed by one that hands in the same.
        envelope = twice.mailboxes[name][0]
        for rig in (once, twice):
            rig.take(name)
        twice.sequencer.complete(name, envelope, MACHINES[name][1](envelope), None)
    once.drain()
    twice.drain()
    assert once.rows() == twice.rows()


@pytest.mark.parametrize("is_simulated", [True, False])
def test_an_answer_to_everything_pays_also_where_it_is_empty(is_simulated: bool) -> None:
    journal = MemoryJournal()
    first = sequencer_of(("bars", {"ClockTicked"}), writer=journal)
    _, last = (first.publish(TICK, source="feed")[0] for _ in range(2))
    sequencer = sequencer_of(("bars", {"ClockTicked"}), writer=journal, is_simulated=is_simulated)
    sequencer.restore(journal)
    sequencer.subscribe("bars", lambda envelope: None)
    sequencer.complete_until("bars", 2, [(last, (SafeStopRequested(reason="x"),))], at(7))
    assert [(e.source, e.cause) for e in journal.envelopes(after=2)] == [("bars", 2)]
    assert sequencer.next_deadline() == at(7)
    assert sequencer.wait_quiet(lambda: False, timeout_s=0.01)
    sequencer.complete_until("bars", 2, [(last, (SafeStopRequested(reason="x"),))], at(7))
    assert sequencer.seq == 3


def test_nothing_is_owed_for_events_that_no_one_takes() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    sequencer.publish(SafeStopRequested(reason="x"), source="supervisor")
    assert sequencer.wait_quiet(lambda: False, timeout_s=0.01)


@pytest.mark.parametrize(
    ("go_on", "begin"),
    [(Rig.restore, 1), (Rig.take_over, 2)],  # taken over after 1, the first tick is answered before the second comes
)
def test_after_every_prefix_of_a_journal_the_rest_is_decided_as_if_nothing_had_happened(
    go_on: Callable[[Rig], Rig], begin: int
) -> None:
    whole = list(undisturbed(2).journal.envelopes())
    rows = [row(envelope) for envelope in whole]
    # One publish is never split: a process can only have died between two of them.
    ends = [end for end in range(begin, len(whole) + 1) if end == len(whole) or whole[end].idx == 0]
    assert len(ends) > 15
    for end in ends:
        journal = MemoryJournal()
        journal.append(whole[:end])
        rig = go_on(Rig(journal))
        if end == 1:
            rig.tick()  # the second tick had not come
        rig.drain()
        assert rig.rows() == rows, f"after seq {end}"
        assert rig.sequencer.wait_quiet(lambda: False, timeout_s=0.01)


@pytest.mark.parametrize("end", [1, 4, 8])
def test_a_restored_sequencer_goes_on_in_number_time_chain_and_incarnation(end: int) -> None:
    whole = list(undisturbed(2).journal.envelopes())
    journal = MemoryJournal()
    journal.append(whole[:end])
    sequencer = Rig(journal).sequencer
    sequencer.restore(journal)
    assert (sequencer.seq, sequencer.head_hash, sequencer.now_ns) == (end, whole[end - 1].hash, TICK.ts)
    recorded = max((e.incarnation for e in whole[:end] if e.source == "a"), default=0)
    assert sequencer.subscribe("a", lambda envelope: None).incarnation == recorded + 1


# ---------------------------------------------------------------- attempts in flight


def submitted(signal_id: str = "entry-1") -> OrderSubmitted:
    return OrderSubmitted(root="ES", signal_id=signal_id, attempt=1, ticker="ESM2024", body="{}", body_sha256="")


ACCEPTED = OrderAccepted(root="ES", signal_id="entry-1", attempt=1, http_status=200, external_id="x")


def test_an_attempt_is_in_flight_until_its_outcome_is_settled() -> None:
    sequencer = sequencer_of()
    sent: list[int] = []
    sequencer.on_submitted(lambda envelope: sent.append(envelope.seq))
    (attempt,) = sequencer.publish(submitted(), source="execution")
    assert sent == [attempt.seq]
    assert sequencer.attempts_in_flight() == [attempt]
    with pytest.raises(OurError, match=r"in flight: \[1\]"):
        sequencer.wait_quiet(lambda: False, timeout_s=0.01)
    sequencer.publish(ACCEPTED, source=HTTP_SOURCE, cause=attempt)
    assert sequencer.attempts_in_flight() == [attempt]  # on record, not yet on disk
    sequencer.attempt_settled(attempt.seq)
    assert sequencer.wait_quiet(lambda: False, timeout_s=0.01)


@pytest.mark.parametrize(("is_answered", "left"), [(False, [1]), (True, [])])
def test_a_restored_attempt_is_in_flight_when_it_has_no_outcome(is_answered: bool, left: list[int]) -> None:
    journal = MemoryJournal()
    sequencer = sequencer_of(writer=journal)
    (attempt,) = sequencer.publish(submitted(), source="execution")
    if is_answered:
        sequencer.publish(ACCEPTED, source=HTTP_SOURCE, cause=attempt)
    again = sequencer_of(writer=journal)
    sent: list[int] = []
    again.on_submitted(lambda envelope: sent.append(envelope.seq))
    again.restore(journal)
    assert [envelope.seq for envelope in again.attempts_in_flight()] == left
    assert not sent  # never sent again by itself


# ---------------------------------------------------------------- waiting


def test_whoever_never_answers_is_named() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}), ("strategy", {"ClockTicked"}))
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("bars", tick, (), None)
    with pytest.raises(OurError, match="1 owed by strategy"):
        sequencer.wait_quiet(lambda: False, timeout_s=0.01)


def test_a_wait_ends_when_the_last_debt_is_paid() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    (tick,) = sequencer.publish(TICK, source="feed")
    threading.Timer(0.02, sequencer.complete, ("bars", tick, (), None)).start()
    assert sequencer.wait_quiet(lambda: False, timeout_s=PATIENCE_S)


def test_a_wait_ends_when_a_stop_is_asked_for() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    sequencer.publish(TICK, source="feed")
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        sequencer.wake()

    threading.Timer(0.02, stop).start()
    assert not sequencer.wait_quiet(stopping.is_set, timeout_s=PATIENCE_S)


def test_idle_callbacks_are_called_once_each() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}))
    calls: list[str] = []
    sequencer.when_idle(lambda: calls.append("at once"))
    (tick,) = sequencer.publish(TICK, source="feed")
    for name in ("first", "second"):
        sequencer.when_idle(lambda name=name: calls.append(name))
    assert calls == ["at once"]
    sequencer.complete("bars", tick, (), None)
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("bars", tick, (), None)
    assert calls == ["at once", "first", "second"]


def test_the_next_deadline_is_the_earliest_that_anyone_asked_for() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}), ("strategy", {"ClockTicked"}))
    assert sequencer.next_deadline() is None
    sequencer.caught_up("bars", at(5))
    sequencer.caught_up("strategy", at(7))
    assert (sequencer.next_deadline(), sequencer.next_deadline(besides="bars")) == (at(5), at(7))
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("bars", tick, (), None)
    assert sequencer.next_deadline() == at(7)
    sequencer.complete("strategy", tick, (), Nanos(at(7) + SECOND))
    assert sequencer.next_deadline() == at(7) + SECOND


def test_in_simulated_time_a_deadline_counts_only_when_its_answer_is_admitted() -> None:
    sequencer = sequencer_of(("bars", {"ClockTicked"}), ("strategy", {"ClockTicked"}))
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("strategy", tick, (), at(3))
    assert sequencer.next_deadline() is None
    sequencer.complete("bars", tick, (), None)
    assert sequencer.next_deadline() == at(3)


# ---------------------------------------------------------------- workflows


def test_an_orders_events_share_the_number_of_its_request_and_others_inherit_their_causes() -> None:
    journal = MemoryJournal()
    sequencer = sequencer_of(("strategy", {"ClockTicked"}), ("execution", {"OrderRequested"}), writer=journal)
    (tick,) = sequencer.publish(TICK, source="feed")
    sequencer.complete("strategy", tick, (EntriesOpened(reason="x"), request_of("s1")), None)
    request = list(journal.envelopes())[-1]
    sequencer.complete("execution", request, (submitted("s1"),), None)
    attempt = list(journal.envelopes())[-1]
    sequencer.publish(attrs.evolve(ACCEPTED, signal_id="s1"), source=HTTP_SOURCE, cause=attempt)
    assert [(e.type, e.corr) for e in journal.envelopes()] == [
        ("ClockTicked", None),
        ("EntriesOpened", 1),
        ("OrderRequested", 3),
        ("OrderSubmitted", 3),
        ("OrderAccepted", 3),
    ]
    # A later process still knows the workflow, also for an event that another cause brings.
    again = sequencer_of(writer=journal)
    again.restore(journal)
    (tick,) = again.publish(TICK, source="feed")
    expired = OrderExpired(root="ES", signal_id="s1", reason="time_limit")
    assert again.publish(expired, source="execution", cause=tick)[0].corr == 3


def test_observers_see_every_event_the_restored_ones_too() -> None:
    journal = MemoryJournal()
    sequencer_of(writer=journal).publish(TICK, TICK, source="feed")
    seen: list[int] = []
    sequencer = sequencer_of(writer=journal)
    sequencer.observe(lambda envelope: seen.append(envelope.seq))
    sequencer.restore(journal)
    sequencer.publish(TICK, source="feed")
    assert seen == [1, 2, 3]
