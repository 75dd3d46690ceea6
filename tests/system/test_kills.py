"""kill -9 at any moment: the next start goes on as if nothing had happened, but for what cannot be known.

An attempt on record without an outcome is ambiguous. An entry is then never sent again and its root
UNKNOWN; an exit is sent again; every other root does as if nothing had happened. Gateway and
TradersPost outlive the program, and every root may hold a position: no limit is shared.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Literal

import attrs
import pytest
import short_session
from in_this_process import envelopes
from journals import canonical, first_difference, not_decided_again, restarts, sent_otherwise_than_recorded
from market import (
    KEY,
    REJECTED,
    STRATEGY,
    WEBHOOK_PATH,
    command,
    environment,
    live,
    wait_for,
    write_config,
)

from actors.machines import MachineSet
from actors.wiring import MACHINE_PARTS
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.databento.gateway_source import GatewaySource
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from adapters.traderspost.ledger import LedgerSnapshot, SignalRecord
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from domain.envelope import Envelope
from domain.events import HTTP_SOURCE
from domain.positions import Position

pytestmark = pytest.mark.system

Place = Literal["event", "sending", "arrived", "answered", "written"]
"""An event on disk; or a request: which TradersPost has not got, whose answer is not passed on, whose answer
was read, whose outcome is on disk."""
OUTCOMES = ("OrderAccepted", "OrderRejected", "OrderNotSent", "OrderAmbiguous")


@attrs.frozen
class Kill:
    """One kill: when the file holds event `at`, or at the `at`-th request of this process."""

    place: Place
    at: int


@attrs.frozen
class Death:
    """What a killed process left."""

    kill: Kill
    open_attempts: frozenset[str]
    """Signals whose attempt is on disk without an outcome."""
    arrived: frozenset[str]
    """Those of them that TradersPost has read."""
    answered: str | None
    """The signal whose answer the process had read when it was killed."""

    @property
    def is_unwritten_answer(self) -> bool:
        """An outcome was received and never committed."""
        return self.answered in self.open_attempts


class Relay:
    """Stands before TradersPost, sees how far each request has come, and calls `kill` at the chosen place."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._chosen: tuple[Kill, Callable[[], object]] | None = None
        self._requests = 0
        self._under_way = 0
        self.reached: str | None = None
        """The signal at which `kill` was called."""
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                relay._under_way += 1
                try:
                    relay._pass_on(self)
                except ConnectionError:
                    self.close_connection = True  # the program was killed meanwhile
                finally:
                    relay._under_way -= 1

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def choose(self, kill: Kill, carry_out: Callable[[], object]) -> None:
        self._requests, self.reached, self._chosen = 0, None, (kill, carry_out)

    def settle(self) -> None:
        """Wait until what the killed program has sent has reached TradersPost."""
        time.sleep(0.1)
        while self._under_way:
            time.sleep(0.01)

    @contextmanager
    def running(self) -> Iterator[Relay]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        signal_id = json.loads(body).get("extras", {}).get("signal_id", "")  # a probe and a fallback name none
        self._requests += 1
        if self._kills("sending", signal_id):
            return
        upstream = http.client.HTTPConnection(self._upstream, timeout=10)
        upstream.request("POST", request.path, body, {"Content-Type": "application/json"})
        answer = upstream.getresponse()
        said = answer.read()
        upstream.close()
        if self._kills("arrived", signal_id):
            return
        request.send_response(answer.status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)
        # The program closes each connection once it has read the answer to its end.
        request.rfile.read(1)
        self._kills("answered", signal_id)
        self._kills("written", signal_id)

    def _kills(self, place: Place, signal_id: str) -> bool:
        if self._chosen is None or self._chosen[0] != Kill(place, self._requests):
            return False
        (_, carry_out), self._chosen, self.reached = self._chosen, None, signal_id
        carry_out()
        return True


@attrs.frozen(kw_only=True)
class Plan:
    """The session that is run: as many positions as roots, so that no root takes another's place."""

    source: GatewaySource
    strategy: str
    roots: tuple[str, ...] = ()
    until: str | None = None

    def write(self, directory: Path, port: int) -> Path:
        limit = f"{{max_positions: {len(self.roots) or 12}}}"
        return write_config(directory, port=port, roots=self.roots, strategy=self.strategy, risk=limit)


SHORT = Plan(
    source=short_session.MARKET,
    roots=tuple(short_session.PRODUCTS),
    until=short_session.UNTIL,
    strategy=json.dumps(
        {"veto": False, "warmup_bars": 0, "pivot_gate": False}
        # Fewer orders, so that there are moments without one.
        | (short_session.STRATEGY | {"entry_ibs_high": 0.2, "exit_ibs_low": 0.8, "exit_after_bars": 8}),
        default=float,
    ),
)
LOAD = attrs.evolve(
    SHORT,
    strategy=json.dumps({"veto": False, "warmup_bars": 0, "pivot_gate": False} | short_session.STRATEGY, default=float),
)
"""The same market with as many orders as it gives."""
WHOLE = Plan(source=build_source(GatewayRequest(simulate=True))[0], strategy=STRATEGY)
"""The demo's session: its seed and its market."""


@attrs.frozen
class Lived:
    """A session from its start to its end, whatever was done to its processes."""

    journal: Path
    record: list[Envelope]
    seen: Mapping[str, SignalRecord]
    """What TradersPost saw of each signal."""
    deaths: tuple[Death, ...]

    @property
    def accepted(self) -> dict[str, int]:
        return {signal_id: record.accepted for signal_id, record in self.seen.items()}

    @property
    def positions(self) -> tuple[Position, ...]:
        """What execution believes to hold at the end."""
        machines = MachineSet(MACHINE_PARTS)
        for envelope in self.record:
            machines.handle(envelope)
        return machines.execution.positions

    def events(self, *types: str, root: str | None = None) -> list[Envelope]:
        return [e for e in self.record if e.type in types and root in (None, e.root)]

    def signals(self, intent: str) -> set[str]:
        return {e.payload.signal_id for e in self.events("OrderRequested") if e.payload.intent == intent}

    def market(self) -> tuple[bytes, list[str | bytes]]:
        """Every trade and every closed bar: batches may be cut elsewhere, by other orders' deadlines."""
        trades = b"".join(e.payload.trades.tobytes() for e in self.events("TradesReceived"))
        return trades, [e.raw for e in self.events("SliceClosed")]

    def story(self, root: str) -> list[tuple[str, str, str | bytes]]:
        """What was decided, sent and filled in one root."""
        sources = ("strategy", "execution", "execution.http")
        return [(e.type, e.source, e.raw) for e in self.record if e.root == root and e.source in sources]


def lived(
    directory: Path, plan: Plan, kills: Iterable[Kill] = (), *, is_enough: Callable[[Death], bool] = lambda death: False
) -> Lived:
    """Run the session, kill its process at each of `kills` (until one `is_enough`) and start it again."""
    deaths: list[Death] = []
    ending = () if plan.until is None else ("--until", plan.until)
    server = LocalTradersPost(clock="request", unavailable_roots=(REJECTED,), uuid="demo", password="demo")
    journal = directory / "journal" / "2024-05-01.db"
    with (
        GatewayThread(Gateway(plan.source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(server) as traderspost,
        Relay(traderspost.address).running() as relay,
    ):
        config = plan.write(directory, gateway.port)
        # The pauses leave room to be killed between any two steps.
        arguments = command("live", "--config", str(config), *ending, "--jitter-ms", "2")
        for kill in kills:
            before = traderspost.ledger()
            process = subprocess.Popen(
                arguments,
                env=environment(TRADERSPOST_WEBHOOK_URL=f"http://{relay.address}{WEBHOOK_PATH}"),
                cwd=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                relay.choose(kill, partial(carry_out, kill, process, journal))
                if kill.place == "event":
                    wait_for(journal)
                    carry_out(kill, process, journal)
                assert process.wait(120) == -signal.SIGKILL, "it ended before it could be killed"
            finally:
                process.kill()
            relay.settle()
            opened = open_attempts(journal)
            now = traderspost.ledger()
            arrived = frozenset(signal_id for signal_id in opened if read(now, signal_id) > read(before, signal_id))
            deaths.append(Death(kill, opened, arrived, relay.reached if kill.place == "answered" else None))
            if is_enough(deaths[-1]):
                break
        ended = live(config, *ending, webhook=relay.address)
        assert ended.returncode == 0, ended.stderr[-2000:]
    return Lived(journal, envelopes(journal), server.ledger().signals, tuple(deaths))


def read(ledger: LedgerSnapshot, signal_id: str) -> int:
    """How often TradersPost has read this signal."""
    return ledger.signals[signal_id].attempts if signal_id in ledger.signals else 0


def carry_out(kill: Kill, process: subprocess.Popen[bytes], journal: Path) -> None:
    """Kill, once the file holds what the kill waits for."""
    while process.poll() is None and (
        (kill.place == "event" and last_seq(journal) < kill.at) or (kill.place == "written" and open_attempts(journal))
    ):
        time.sleep(0.002)
    process.kill()


def last_seq(path: Path) -> int:
    with JournalFile(path, Codec()) as journal:
        return journal.head().seq


def open_attempts(path: Path) -> frozenset[str]:
    """Signals whose last attempt has no outcome on disk."""
    opened: dict[str, bool] = {}
    for envelope in envelopes(path, "OrderSubmitted", *OUTCOMES):
        opened[envelope.payload.signal_id] = envelope.type == "OrderSubmitted"
    return frozenset(signal_id for signal_id, is_open in opened.items() if is_open)


# ---------------------------------------------------------------- what must hold afterwards


def check(killed: Lived, undisturbed: Lived, replayer: Executor) -> None:
    """Equal to the undisturbed session; where an attempt lacked its outcome, in everything but that root."""
    assert replayer.submit(not_decided_again, killed.journal).result(120) == ""
    if killed.record[-1].type == "SessionStopped":
        assert killed.record[-1].payload.positions == killed.positions
    # A limit entry that was touched when its time ended is ambiguous too, by execution's own word.
    lost = [e for e in killed.events("OrderAmbiguous") if e.source == HTTP_SOURCE]
    assert {e.payload.signal_id for e in lost} == {s for death in killed.deaths for s in death.open_attempts}
    sent_again = {e.payload.signal_id for e in lost} & killed.signals("exit")
    assert sent_otherwise_than_recorded(killed.journal, killed.accepted) == ""
    ours, theirs = canonical(killed.journal), canonical(undisturbed.journal)
    if not lost:
        assert first_difference(theirs, ours) == ""
        assert killed.accepted == undisturbed.accepted
        return
    before = next(n for n, line in enumerate(ours) if line[1:3] == ("OrderAmbiguous", HTTP_SOURCE))
    assert first_difference(theirs[:before], ours[:before]) == ""
    assert killed.market() == undisturbed.market()
    roots = {e.root for e in killed.events("SignalEvaluated")}
    for root in roots - {e.root for e in lost}:
        assert killed.story(str(root)) == undisturbed.story(str(root)), root
    for attempt in lost:
        if attempt.payload.signal_id in sent_again:
            assert_sent_again(killed, attempt)
        else:
            assert_unknown_until_flat(killed, attempt)


def assert_unknown_until_flat(killed: Lived, lost: Envelope) -> None:
    """An ambiguous entry is never sent again, and blocks entries and counts as held until an exit has filled."""
    signal_id, root = lost.payload.signal_id, lost.root
    entries = killed.signals("entry")
    sent = [e for e in killed.events("OrderSubmitted", root=root) if e.payload.signal_id in entries]
    assert [e.payload.signal_id for e in sent].count(signal_id) == 1
    assert signal_id not in killed.seen or killed.seen[signal_id].attempts == 1
    ended = [e for e in killed.events("OrderExpired", root=root) if e.payload.signal_id == signal_id]
    unknown = range(lost.seq, ended[0].seq if ended else killed.record[-1].seq)
    assert not [e for e in sent if e.seq in unknown]
    if ended:
        (fill,) = [e for e in killed.events("FillAssumed", root=root) if e.seq in unknown]
        assert (fill.payload.intent, fill.cause, fill.payload.pnl is None) == ("exit", ended[0].cause, False)
        assert ended[0].payload.reason == "flat_after_exit"
    else:
        (position,) = [position for position in killed.positions if position.root == root]
        assert (position.is_unknown, position.entry_signal_id) == (True, signal_id)


def assert_sent_again(killed: Lived, lost: Envelope) -> None:
    """An ambiguous exit is sent again, byte for byte, or a newer one is; what arrives twice finds nothing to close."""
    newer = [
        e for e in killed.events("OrderSubmitted", root=lost.root) if e.seq > lost.seq and e.payload.intent == "exit"
    ]
    ended = {e.payload.signal_id: e.payload.reason for e in killed.events("OrderExpired", root=lost.root)}
    if newer and ended.get(lost.payload.signal_id) == "superseded":
        return
    tries = [e for e in killed.events("OrderSubmitted") if e.payload.signal_id == lost.payload.signal_id]
    assert [e.payload.attempt for e in tries] == list(range(1, len(tries) + 1))
    accepted = [e for e in killed.events("OrderAccepted") if e.payload.signal_id == lost.payload.signal_id]
    # What was accepted before has only lost its repeat, which may have been received.
    has_only_lost_its_repeat = bool(accepted) and accepted[0].seq < lost.seq
    # What is lost when the feed has come to its end is left to the next start.
    is_left = lost.ts_ns == max(e.ts_ns for e in killed.record)
    assert tries[-1].seq > lost.seq or has_only_lost_its_repeat or is_left
    seen = killed.seen[lost.payload.signal_id]
    assert {e.payload.body for e in tries} == {seen.first_body} == {seen.last_body}
    assert all(what.startswith("nothing") for what in seen.executions[1:])


def told(deaths: Sequence[Death]) -> str:
    """Both kinds, counted."""
    unsettled = [death for death in deaths if death.open_attempts]
    lost, arrived = sum(len(d.open_attempts) for d in deaths), sum(len(d.arrived) for d in deaths)
    return (
        f"{len(deaths)} kills: {len(deaths) - len(unsettled)} with every outcome on disk, {len(unsettled)} without "
        f"({sum(d.is_unwritten_answer for d in deaths)} between an answer and its commit); "
        f"{lost} ambiguous attempts, {lost - arrived} of which never arrived"
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return lived(tmp_path_factory.mktemp("undisturbed"), SHORT)


def test_a_process_killed_between_two_orders_goes_on_as_if_nothing_had_happened(
    undisturbed: Lived, replayer: Executor, tmp_path: Path
) -> None:
    """In the longest stretch without an order, a tenth of a second: a kill that comes too late is tried again."""
    orders = [e.seq for e in undisturbed.record if e.type.startswith("Order")]
    quiet = max(pairwise(orders), key=lambda stretch: stretch[1] - stretch[0])
    request = sum(e.seq < quiet[1] for e in undisturbed.events("OrderSubmitted"))
    for number in range(4):
        killed = lived(tmp_path / str(number), SHORT, [Kill("written", request)])
        check(killed, undisturbed, replayer)
        if not killed.deaths[0].open_attempts:
            break
    print(told(killed.deaths))
    assert first_difference(canonical(undisturbed.journal), canonical(killed.journal)) == ""
    assert restarts(killed.journal) == {"process": 1}
    assert KEY.encode() not in killed.journal.read_bytes()


@pytest.mark.parametrize(("intent", "which"), [("entry", -1), pytest.param("exit", 0, marks=pytest.mark.soak)])
def test_an_order_that_never_left_is_not_known_to_have_never_left(
    intent: str, which: int, undisturbed: Lived, replayer: Executor, tmp_path: Path
) -> None:
    """The last entry stays UNKNOWN to the end, and the end says so; the first exit has time to be sent again."""
    requests = [e.payload.signal_id for e in undisturbed.events("OrderSubmitted")]
    signal_id = [request for request in requests if request in undisturbed.signals(intent)][which]
    killed = lived(tmp_path, SHORT, [Kill("sending", requests.index(signal_id) + 1)])
    print(told(killed.deaths))
    (death,) = killed.deaths
    assert signal_id in death.open_attempts
    assert not death.arrived
    check(killed, undisturbed, replayer)
    left = {position.entry_signal_id for position in killed.record[-1].payload.positions if position.is_unknown}
    assert left == ({signal_id} if intent == "entry" else set())


def test_an_answer_that_was_read_and_not_committed_is_not_known_to_the_next_process(
    undisturbed: Lived, replayer: Executor, tmp_path: Path
) -> None:
    """A commit takes milliseconds: the kill is tried at one answer after the other."""
    kills = [Kill("answered", 5), *[Kill("answered", 1)] * 9]
    killed = lived(tmp_path, SHORT, kills, is_enough=lambda death: death.is_unwritten_answer)
    print(told(killed.deaths))
    assert killed.deaths[-1].is_unwritten_answer
    assert killed.deaths[-1].answered in killed.deaths[-1].arrived
    check(killed, undisturbed, replayer)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_kills_at_random_moments_under_order_load(replayer: Executor, tmp_path: Path) -> None:
    undisturbed = lived(tmp_path / "undisturbed", LOAD)
    attempts, events = len(undisturbed.events("OrderSubmitted")), len(undisturbed.record)
    chance = random.Random(50)
    deaths: list[Death] = []
    for number in range(100):
        if number % 2:
            kill = Kill("event", chance.randrange(50, events - 50))
        else:
            kill = Kill(chance.choice(("sending", "arrived", "answered")), chance.randint(1, attempts))
        killed = lived(tmp_path / str(number), LOAD, [kill])
        check(killed, undisturbed, replayer)
        deaths += killed.deaths
    print(f"\n{attempts} attempts in {events} events; {told(deaths)}")
    assert any(death.arrived for death in deaths)
    assert any(death.is_unwritten_answer for death in deaths)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_kills_of_a_whole_session_change_nothing_that_can_be_known(replayer: Executor, tmp_path: Path) -> None:
    whole = lived(tmp_path / "undisturbed", WHOLE)
    chance = random.Random(20240501)
    seqs = chance.sample(range(50, len(whole.record) - 100), 11)
    requests = chance.sample(range(1, len(whole.events("OrderSubmitted")) + 1), 9)
    places: tuple[Place, ...] = ("sending", "arrived", "answered")
    kills = [Kill("event", seq) for seq in seqs] + [Kill(places[n % 3], at) for n, at in enumerate(requests)]
    deaths: list[Death] = []
    for number, kill in enumerate(kills):
        killed = lived(tmp_path / str(number), WHOLE, [kill])
        check(killed, whole, replayer)
        assert {position.root for position in killed.positions} <= {"CL"}, "whose broker refuses exits too"
        deaths += killed.deaths
    print(f"\n{told(deaths)}")
    again_and_again = lived(tmp_path / "again", WHOLE, [Kill("event", seq) for seq in sorted(seqs[:5])])
    check(again_and_again, whole, replayer)
    print(told(again_and_again.deaths))
    assert {bool(death.open_attempts) for death in deaths} == {True, False}
    assert any(death.is_unwritten_answer for death in deaths)
