"""The way out under faults and crashes: seeded scenarios, the local TradersPost's ledger as the judge.

The product's own parts (Execution in its actor, Sequencer, writer and file, HttpRunner, WebhookRouter) talk to a
local TradersPost over HTTP; strategy, market, operator and clock are played from the seed, in the scenario's own
time. A process dies by losing everything that is not committed, at a place that the seed names, and the next one
goes on from the file as a live start does. `run(seed)` does the same again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import random
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import attrs
import pykka

from actors.actor import Failed, MachineActor, Start
from actors.carry import fresh_state
from actors.clock import due_at
from actors.execution import Execution
from actors.faults import Faults
from actors.http_runner import HttpRunner
from actors.machines import MachineParts
from actors.recovery import Recovery
from actors.replay import RecallingCodec
from actors.sequencer import Sequencer
from adapters.sqlite.journal import JournalFile, create_journal
from adapters.sqlite.writer import Writer
from adapters.traderspost.ledger import LedgerSnapshot
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.payload import build_payload
from adapters.traderspost.router import Timeouts, WebhookRouter
from domain.bars import BarTable
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed, OurError
from domain.events import (
    HTTP_SOURCE,
    ActorRestarted,
    ClockTicked,
    CommandReceived,
    EntriesClosed,
    EntriesOpened,
    Event,
    FeedStatusChanged,
    OrderRejected,
    OrderRequested,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
    RiskDecided,
    SessionOpened,
    SliceClosed,
    StateCarried,
    TradesReceived,
)
from domain.ibs import StrategySettings
from domain.orders import Intent, Order, Side, signal_id
from domain.outbox import HARD_PROBE_AFTER, is_webhook_refused
from domain.ports import MayWrite, OrderMessage, TradingEngine
from domain.positions import Position
from domain.risk import RiskSettings
from domain.sessions import iso_utc
from domain.units import MINUTE, SECOND, Nanos, Price, price_to_decimal
from tests.builders import CODEC, IDS, PRICE, TICK, at, bar_of, mapped, opened_session, trades_of

PASSWORD = "c4naryc4naryc4naryc4naryc4nary99"
UUID = "5ca1ab1e-0000-4000-8000-00000000beef"
CONTRACTS = {"ES": "ESM4", "NQ": "NQM4", "GC": "GCM4"}
TICKERS = {"ES": "ESM2024", "NQ": "NQM2024", "GC": "GCM2024"}
BAR = Nanos(3 * MINUTE)
BARS = 4
TIMEOUTS = Timeouts(connect_s=1.0, read_s=0.3, total_s=1.0)
MOST_LIVES = 12
QUIET_LIMIT = Nanos(90 * MINUTE)
"""By then everything must be over once the faults have ended: an hour's limits, and the repeats after them."""

SERVER_FAULTS = (
    "429",
    "429:20",
    "500-before-accept",
    "500-after-accept",
    "hang",
    "delay:0.02",
    "rst-before-read",
    "rst-after-accept",
    "fin-after-accept",
    "redirect",
    "html-200",
    "truncated-200",
    "down",
    "no-trade",
    "broker-reject",
    "duplicate",
    "random",
)
LINE_FAULTS = ("refused", "password", "payload", "slow")
"""No connection; the wrong password; messages that TradersPost refuses; a connection that takes half a minute."""
FAULTS = ("none", *SERVER_FAULTS, *LINE_FAULTS)
NEVER_EXECUTED = ("no-trade", "broker-reject")
EXECUTED_OTHERWISE = (*NEVER_EXECUTED, "duplicate")
"""Nobody tells us of it: what is believed differs from what is held until the next full exit."""

Place = Literal["none", "event", "sending", "answered", "outcome"]
"""Where a process dies: once an event is sequenced and not yet committed; at a request, its intent on disk and
not a byte written; its answer read and nothing sequenced; its outcome sequenced and not committed."""
PLACES: tuple[Place, ...] = get_args(Place)

_T = TypeVar("_T")


class ProcessDied(Exception):
    """Raised in the threads of a process that is no more."""


# ---------------------------------------------------------------- the other side


class Judge:
    """A local TradersPost for many scenarios, and the market that its account trades in."""

    def __init__(self) -> None:
        self._server = LocalTradersPostThread(LocalTradersPost(uuid=UUID, password=PASSWORD, clock="request"))
        self._prices: list[str] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Judge:
        self._server.start()
        self._control = http.client.HTTPConnection(self._server.address)
        # A port that nobody listens on: held, so that nobody else will.
        self._unheard = socket_without_listener()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._unheard.close()
        self._server.stop()

    @property
    def urls(self) -> dict[str, str]:
        """The right address and those of the line's faults."""
        path = f"/trading/webhook/{UUID}/{PASSWORD}"
        nobody = f"127.0.0.1:{self._unheard.getsockname()[1]}"
        right = f"http://{self._server.address}{path}"
        return {"": right, "refused": f"http://{nobody}{path}", "password": right[:-1] + "x"}

    def reset(self, faults: str) -> None:
        self._prices = []
        self._post("/__paper/reset", "")
        self.set_faults(faults)

    def set_faults(self, faults: str) -> None:
        self._post("/__paper/faults", faults)

    def trade(self, root: str, ts: Nanos, price: Price) -> None:
        """A trade of the market; told before the next message arrives."""
        self._prices.append(f'{{"ticker":"{TICKERS[root]}","price":{price_to_decimal(price):f},"time":"{iso(ts)}"}}')

    def flush(self, now: Nanos) -> None:
        """Tell the account every trade so far, and what time it is."""
        with self._lock:
            told, self._prices = self._prices, []
            told.append(f'{{"ticker":"CLOCK","price":1,"time":"{iso(now)}"}}')
            self._post("/__paper/price", f"[{','.join(told)}]")

    def ledger(self, now: Nanos) -> LedgerSnapshot:
        self.flush(now)
        return self._server.ledger()

    def _post(self, path: str, body: str) -> None:
        self._control.request("POST", path, body)
        answer = self._control.getresponse()
        said = answer.read()
        assert answer.status == 200, said


def socket_without_listener() -> Any:
    import socket

    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def iso(ts: Nanos) -> str:
    """With milliseconds, as the messages say it."""
    whole = ts // SECOND * SECOND
    return f"{iso_utc(Nanos(whole))[:-1]}.{(ts - whole) // 1_000_000:03d}Z"


# ---------------------------------------------------------------- one process


@attrs.frozen(kw_only=True)
class Crash:
    """The process dies at the `at`-th event or request of its life."""

    place: Place
    at: int


@attrs.frozen(kw_only=True)
class Sent:
    """A message at the moment its first byte may be written."""

    ts: Nanos
    signal_id: str
    attempt: int
    intent: str
    root: str
    body: str
    expires_ns: Nanos | None
    is_on_disk: bool
    life: int


class MortalWriter:
    """Implements `ports.JournalWriter`: commits until its process dies, and then lets go of whoever waits for it."""

    def __init__(
        self,
        path: Path,
        *,
        durable_seq: int,
        is_dead: Callable[[], bool],
        on_failure: Callable[[JournalWriteFailed], None],
    ) -> None:
        self._is_dead = is_dead
        self._waiting: dict[int, Callable[[], None]] = {}
        self._numbers = 0
        self._lock = threading.Lock()
        self.writer = Writer(path, durable_seq=durable_seq, on_failure=on_failure, before_commit=self._before_commit)

    def _before_commit(self) -> None:
        if self._is_dead():
            raise sqlite3.OperationalError("the process has died")

    def append(self, envelopes: Sequence[Envelope]) -> None:
        self.writer.append(envelopes)

    def pending(self) -> list[Envelope]:
        return self.writer.pending()

    @property
    def backlog(self) -> int:
        return self.writer.backlog

    @property
    def stalled_s(self) -> float:
        return self.writer.stalled_s

    def when_durable(self, seq: int, callback: Callable[[], None]) -> None:
        if self._is_dead():
            callback()
            return
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._waiting[number] = callback
        self.writer.when_durable(seq, lambda: self._call(number))

    def release(self) -> None:
        """Nobody of a dead process waits."""
        for number in tuple(self._waiting):
            self._call(number)

    def _call(self, number: int) -> None:
        with self._lock:
            callback = self._waiting.pop(number, None)
        if callback is not None:
            callback()


class Line:
    """Implements `ports.Webhook`: the product's router, on a line that may be down, and the place of some deaths."""

    def __init__(self, scenario: Scenario, life: Life) -> None:
        self._scenario, self._life = scenario, life
        self._routers = {
            name: WebhookRouter(url, is_live=False, timeouts=TIMEOUTS) for name, url in scenario.judge.urls.items()
        }
        self._file: sqlite3.Connection | None = None
        self._requests = 0

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        return await self._deliver(self._router.post, submitted, may_write)

    async def probe(self, submitted: ProbeSubmitted, may_write: MayWrite) -> ProbeAnswered:
        return await self._deliver(self._router.probe, submitted, may_write)

    async def close(self) -> None:
        for router in self._routers.values():
            await router.close()
        if self._file is not None:
            self._file.close()

    @property
    def _router(self) -> WebhookRouter:
        return self._routers.get(self._scenario.line_fault, self._routers[""])

    async def _deliver(
        self,
        deliver: Callable[[Any, MayWrite], Awaitable[_T]],
        submitted: OrderSubmitted | ProbeSubmitted,
        ready: MayWrite,
    ) -> _T:
        self._requests += 1
        number = self._requests

        async def may_write() -> None:
            if self._scenario.line_fault == "slow" and not self._life.is_simulated:
                self._scenario.now = Nanos(self._scenario.now + 31 * SECOND)
            await ready()
            self._life.live_on()
            if isinstance(submitted, OrderSubmitted):
                self._note(submitted)
            self._life.reach("sending", number)
            self._scenario.judge.flush(self._scenario.now)

        self._life.live_on()
        came_of_it = await deliver(submitted, may_write)
        self._life.reach("answered", number)
        return came_of_it

    def _note(self, submitted: OrderSubmitted) -> None:
        self._scenario.sent.append(
            Sent(
                # What a dead process had not on disk the simulated market says again, at its own time.
                ts=self._life.sequencer.now_ns if self._life.is_simulated else self._scenario.now,
                signal_id=submitted.signal_id,
                attempt=submitted.attempt,
                intent=submitted.intent,
                root=submitted.root,
                body=submitted.body,
                expires_ns=submitted.expires_ns,
                is_on_disk=self._is_on_disk(submitted),
                life=self._life.number,
            )
        )

    def _is_on_disk(self, submitted: OrderSubmitted) -> bool:
        if self._file is None:
            self._file = sqlite3.connect(f"file:{self._scenario.path}?mode=ro", uri=True)
        rows = self._file.execute("SELECT payload FROM events WHERE type = 'OrderSubmitted' ORDER BY seq DESC LIMIT 40")
        wanted = submitted.signal_id, submitted.attempt
        return any((said["signal_id"], said["attempt"]) == wanted for said in map(json.loads, (row[0] for row in rows)))


@attrs.frozen(kw_only=True)
class OnlyExecution(MachineParts):
    """Strategy and bars are played."""

    def factories(self) -> dict[str, Callable[[], Any]]:
        return {Execution.name: lambda: Execution(self.build_payload)}


class Life:
    """One process on the scenario's file, from its start to its end or death; as `actors.live` wires it."""

    def __init__(self, scenario: Scenario, number: int, crash: Crash | None) -> None:
        self.number = number
        self.is_simulated = scenario.is_simulated
        self._scenario = scenario
        self._crash = crash
        self._outcomes = 0
        self._died = threading.Event()
        codec = RecallingCodec(CODEC)
        recovery = Recovery(scenario.parts, codec)
        with contextlib.closing(JournalFile(scenario.path, codec)) as journal:
            self.first_seq = journal.head().seq
            self.writer = MortalWriter(
                scenario.path,
                durable_seq=self.first_seq,
                is_dead=self._died.is_set,
                on_failure=self._on_write_failure,
            )
            self.sequencer = Sequencer(
                writer=self.writer,
                codec=CODEC,
                subscribers=[(Execution.name, Execution.kinds)],
                is_simulated=scenario.is_simulated,
                now=lambda: scenario.now,
            )
            self.runner = HttpRunner(
                sequencer=self.sequencer,
                webhook=Line(scenario, self),
                is_simulated=scenario.is_simulated,
                now=lambda: scenario.now,
                faults=Faults(),
                on_failure=self._on_runner_failure,
            )
            self.sequencer.observe(self.runner.watch)
            self.sequencer.restore(journal, recovery.fold)
        self.sequencer.observe(self._watch)
        self._recovered = recovery.take(Execution.name)
        if self.first_seq and not self._recovered.seq:
            scenario.violate("replay", "the machine does not recover from its own record")
        self.machine: Any = self._recovered.machine

    @property
    def is_dead(self) -> bool:
        return self._died.is_set()

    def start(self) -> None:
        self.writer.writer.start()
        self.runner.start()
        left_in_flight = self.sequencer.attempts_in_flight()
        self.sequencer.on_submitted(self.runner.begin)
        if self.first_seq:
            restarted = ActorRestarted(actor="process", incarnation=self.number, at_seq=self.first_seq)
            self.sequencer.publish(restarted, source="supervisor")
        self._actor: pykka.ActorRef[Any] = MachineActor.start(
            recovered=self._recovered,
            name=Execution.name,
            sequencer=self.sequencer,
            open_journal=lambda: JournalFile(self._scenario.path, CODEC),
            report=self._report,
            faults=Faults(),
        )
        self._actor.tell(Start())
        self._idle()
        self.runner.forget(left_in_flight, self._died.is_set)
        self.quiet()

    def publish(self, event: Event, *, source: str, ts: Nanos) -> int:
        """Sequence one event from outside, let everything that it causes happen; returns its seq."""
        (envelope,) = self.sequencer.publish(event, source=source, ts=ts)
        self.quiet()
        return envelope.seq

    def quiet(self) -> None:
        try:
            self.sequencer.wait_quiet(self._died.is_set, timeout_s=20)
        except OurError as error:
            self._scenario.violate("rest", str(error))
            self.die()

    def _idle(self) -> None:
        idle = threading.Event()
        self.sequencer.when_idle(idle.set)
        while not idle.wait(0.05) and not self.is_dead:
            pass

    # ------------------------------------------------------------- death

    def reach(self, place: Place, number: int) -> None:
        """Die here when it is the place; nothing goes on in a dead process."""
        if self._crash is not None and self._crash.place == place and number >= self._crash.at:
            self.die()
        self.live_on()

    def live_on(self) -> None:
        if self.is_dead:
            raise ProcessDied

    def die(self) -> None:
        self._died.set()
        self.writer.release()
        self.sequencer.wake()

    def _watch(self, envelope: Envelope) -> None:
        """Under the sequencer's lock: whoever waits is told by it."""
        crash = self._crash
        self._outcomes += envelope.source == HTTP_SOURCE
        if crash is None or self.is_dead:
            return
        is_event = crash.place == "event" and envelope.seq >= self.first_seq + crash.at
        if is_event or (crash.place == "outcome" and self._outcomes >= crash.at):
            self._died.set()
            self.writer.release()

    def end(self) -> None:
        """The threads end; of a dead process nothing more is committed or sent."""
        self.runner.stop()
        self._actor.stop(block=True)
        with contextlib.suppress(JournalWriteFailed):
            self.writer.writer.stop()

    def _on_write_failure(self, error: JournalWriteFailed) -> None:
        if not self.is_dead:
            self._scenario.violate("writer", repr(error))
            self.die()

    def _on_runner_failure(self, error: BaseException) -> None:
        if not isinstance(error, ProcessDied):
            self._scenario.violate("runner", repr(error))
            self.die()

    def _report(self, failed: Failed) -> None:
        if not self.is_dead:
            self._scenario.violate("machine", f"died at {failed.at_seq}: {failed.error!r}")
            self.die()


# ---------------------------------------------------------------- the scenario


@attrs.frozen(kw_only=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    detail: str


@attrs.frozen(kw_only=True)
class Lived:
    """What a scenario came to."""

    seed: int
    fault: str
    spec: str
    place: Place
    deaths: int
    requests: int
    sent: Counter[str]
    """By intent."""
    violations: tuple[Violation, ...]

    def __str__(self) -> str:
        found = "\n".join(f"  {violation.invariant}: {violation.detail}" for violation in self.violations)
        return (
            f"seed {self.seed} ({self.fault}: {self.spec!r}, dies at: {self.place}):\n{found}\n"
            f"  again: python -c \"import sys; sys.path.insert(0, 'tests/system'); "
            f'import outbox_scenarios as s; print(s.run({self.seed}))"'
        )


@attrs.frozen(kw_only=True)
class Input:
    """An event from outside, to be sequenced again when a death has taken it."""

    event: Event
    source: str
    ts: Nanos


class Scenario:
    """Plays one seed."""

    def __init__(self, seed: int, judge: Judge, directory: Path) -> None:
        self.seed = seed
        self.judge = judge
        self._random = random.Random(f"outbox {seed}")
        self.fault = FAULTS[seed % len(FAULTS)]
        self.place: Place = PLACES[seed // len(FAULTS) % len(PLACES)]
        self.is_simulated = seed // len(FAULTS) // len(PLACES) % 2 == 0 and self.fault != "slow"
        self.path = directory / f"{seed}.db"
        shutil.copyfile(empty_journal(), self.path)
        self.parts = OnlyExecution(build_engine=no_engine, build_payload=self._payload)
        self.line_fault = ""
        self.now = at(60)
        self.sent: list[Sent] = []
        self.violations: list[Violation] = []
        self._prices = dict.fromkeys(CONTRACTS, PRICE)
        self._ticks = 0
        self._last_tick = Nanos(0)
        self._log: list[tuple[int, Input]] = []
        """(seq in the file, input) of what was sequenced."""
        self._missed: list[TradesReceived] = []
        self._is_feed_up = True
        self._decisions = 0
        self.spec = self._draw_faults()
        self._life: Life | None = None
        self._lives = 0

    def run(self) -> Lived:
        with self.playing(self.spec if self.fault in SERVER_FAULTS else ""):
            self._open_by_draw()
            for number in range(BARS):
                self._bar(number)
            self.settle()
        return Lived(
            seed=self.seed,
            fault=self.fault,
            spec=self.spec,
            place=self.place,
            deaths=self._lives - 1,
            requests=self.judge.ledger(self.now).requests,
            sent=Counter(sent.intent for sent in self.sent),
            violations=tuple(dict.fromkeys(self.violations)),
        )

    @contextlib.contextmanager
    def playing(self, faults: str = "") -> Iterator[None]:
        """From the first process to the judgement."""
        self.judge.reset(faults)
        self._life = self._start()
        try:
            yield
        finally:
            positions, orders = self.life.machine.positions, self.life.machine.orders
            self.life.end()
        check(self, positions, orders)
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    def violate(self, invariant: str, detail: str) -> None:
        self.violations.append(Violation(invariant=invariant, detail=detail))

    def record(self) -> list[Envelope]:
        """What is sequenced, once it is on file."""
        if not self.life.is_dead:
            is_written = threading.Event()
            self.life.sequencer.when_durable(self.life.sequencer.seq, is_written.set)
            is_written.wait(10)
        with contextlib.closing(JournalFile(self.path, CODEC)) as journal:
            return list(journal.envelopes())

    # ------------------------------------------------------------- the plan

    def _draw_faults(self) -> str:
        draw, kind = self._random, self.fault
        if kind in LINE_FAULTS or kind == "none":
            return f"{kind}@bar{draw.randrange(BARS)}"
        if kind == "random":
            return f"random:0.4:{self.seed}"
        first = draw.randint(1, 6)
        if kind == "hang":
            return draw.choice((f"hang@{first}", "hang@exit*1", "hang@entry*1"))
        if kind in NEVER_EXECUTED:
            # On both sendings of an exit it would be a TradersPost that never closes: no client could mend that.
            return draw.choice((f"{kind}@exit*1", f"{kind}@entry"))
        spans = [f"{kind}@{first}", f"{kind}@{first}-{first + draw.randint(1, 4)}"]
        if kind not in ("rst-before-read", "down"):
            spans += [f"{kind}@entry*1", f"{kind}@exit*1", f"{kind}@exit*3", f"{kind}@entry", f"{kind}@exit"]
        return draw.choice(spans)

    def _payload(self, request: OrderRequested, opened: SessionOpened) -> OrderMessage:
        """The product's message; with the fault `payload` every other one is one that TradersPost refuses."""
        message = build_payload(request, opened)
        if self.fault != "payload" or int(request.signal_id, 16) % 2:
            return message
        return attrs.evolve(message, body=message.body.replace('"orderType":"', '"orderType":"un'))

    def _draw_crash(self) -> Crash | None:
        draw = self._random
        if self.place == "none" or self._lives > draw.randint(1, 3):
            return None
        return Crash(place=self.place, at=draw.randint(15, 150) if self.place == "event" else draw.randint(1, 5))

    # ------------------------------------------------------------- processes

    def _start(self) -> Life:
        self._lives += 1
        if self._lives > MOST_LIVES:
            raise AssertionError(f"seed {self.seed} dies again and again: {self.violations}")
        life = Life(self, self._lives, self._draw_crash())
        life.start()
        return life

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    def put(self, event: Event, *, source: str = "feed", ts: Nanos | None = None) -> None:
        """An event from outside, and again after every death that takes it."""
        waiting = deque([Input(event=event, source=source, ts=self.now if ts is None else ts)])
        while waiting:
            if self.life.is_dead:
                waiting.extendleft(reversed(self._after_death()))
            if not self.life.is_dead and waiting:
                one = waiting.popleft()
                self._log.append((self.life.publish(one.event, source=one.source, ts=one.ts), one))
        while self.life.is_dead:
            for one in self._after_death():
                self.put(one.event, source=one.source, ts=one.ts)

    def _after_death(self) -> list[Input]:
        """A new process; returns what the last one had taken in and not committed."""
        self.life.end()
        with contextlib.closing(JournalFile(self.path, CODEC)) as journal:
            head = journal.head().seq
        lost = [one for seq, one in self._log if seq > head]
        self._log = [(seq, one) for seq, one in self._log if seq <= head]
        downtime = 0 if self.is_simulated else self._random.choice((0, 0, 20, 90, 400))
        self.now = Nanos(self.now + downtime * SECOND)
        self._life = self._start()
        if downtime:
            # A strategy that starts again enters on no old bar, and decides its exits anew.
            lost = [one for one in lost if not isinstance(one.event, OrderRequested)]
        return lost

    # ------------------------------------------------------------- market and clock

    def open(self, opened: SessionOpened, carried: StateCarried | None = None) -> None:
        """The opening events; every contract is mapped and the feed live."""
        events: list[Event] = [opened, carried or fresh_state(), *(mapped(contract) for contract in IDS)]
        for event in events:
            self.put(event, source="session")
        self.put(FeedStatusChanged(status="live", reason="subscribed"))

    def _open_by_draw(self) -> None:
        draw = self._random
        risk = RiskSettings(
            max_positions=draw.randint(1, 3),
            max_contracts=draw.randint(2, 5),
            daily_loss_usd=draw.choice((None, Decimal(400))),
            daily_loss_action=draw.choice(("flatten", "block")),
            stale_flatten_s=draw.choice((None, 90)),
        )
        self.open(opened_session(risk=risk, strategy=StrategySettings(veto=False, cancel_after_s=60)))

    def _bar(self, number: int) -> None:
        """One decision and the five minutes after it."""
        if self.fault in LINE_FAULTS and self.spec.endswith(str(number)):
            self.line_fault = self.fault
        self.close_bar()
        self._decide()
        end = Nanos(at(60) + (number + 1) * BAR)
        while self.now < end:
            self.let_pass(self._random.choice((2, 15, 30, 40)))
            self._disturb()
        if self.line_fault and self._random.random() < 0.7:
            self.line_fault = ""
        self._compare()

    def let_pass(self, seconds: int, ticks: int | None = None) -> None:
        """Time passes, then every root trades, `ticks` away from its last trade."""
        self.advance(Nanos(self.now + seconds * SECOND))
        rows: list[tuple[str, Nanos, int, int]] = []
        for root, contract in CONTRACTS.items():
            moved = self._random.choice((-9, -3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 9)) if ticks is None else ticks
            self._prices[root] = Price(self._prices[root] + moved * TICK)
            rows.append((contract, self.now, (self._prices[root] - PRICE) // TICK, 1))
            self.judge.trade(root, self.now, self._prices[root])
        batch = TradesReceived(trades=trades_of(*rows))
        if self._is_feed_up:
            self.put(batch)
        else:
            self._missed.append(batch)

    def advance(self, until: Nanos) -> None:
        """Let time pass: a tick at each deadline on the way, and one at its end."""
        while (deadline := self.life.sequencer.next_deadline()) is not None:
            due = due_at(deadline, self._last_tick)
            if due > until:
                break
            self._tick(max(due, self.now))
        self._tick(max(until, self.now))

    def _tick(self, ts: Nanos) -> None:
        self._ticks += 1
        if self._ticks > 5_000:
            raise AssertionError(f"seed {self.seed}: the clock does not get on, at {iso(ts)}")
        self.now = self._last_tick = ts
        self.put(ClockTicked(ts=ts, watermark=ts))

    def close_bar(self) -> None:
        bars = (bar_of(CONTRACTS[root], start=self.now, close=self._prices[root]) for root in CONTRACTS)
        self.put(SliceClosed(ts=self.now, minutes=tuple(bars)), source="bars")

    def _disturb(self) -> None:
        """The feed, the operator and the supervisor."""
        draw = self._random.random()
        if not self._is_feed_up:
            if draw < 0.4:
                self._feed_returns()
        elif draw < 0.05:
            self._is_feed_up = False
            self.put(FeedStatusChanged(status="reconnecting", reason="FIN"))
        elif draw < 0.08:
            self.put(EntriesClosed(reason="stall"), source="supervisor")
            self.advance(Nanos(self.now + 5 * SECOND))
            self.put(EntriesOpened(reason="caught up"), source="supervisor")
        elif draw < 0.12:
            self._command()
        elif draw < 0.16:
            self._decide()

    def _feed_returns(self) -> None:
        """What was missed is sent again, and then the feed is live."""
        for batch in self._missed:
            self.put(batch)
        self._missed = []
        self._is_feed_up = True
        self.put(FeedStatusChanged(status="live", reason="subscribed"))

    def _command(self) -> None:
        draw = self._random
        root = draw.choice(("", *CONTRACTS))
        match draw.choice(("flatten", "kill", "kill all", "halt", "resolve", "stop")):
            case "flatten":
                commands = [CommandReceived(command="flatten", argument=root)]
            case "kill" | "kill all" as kill:
                commands = [
                    CommandReceived(command="kill", argument=kill[5:]),
                    CommandReceived(command="resume"),
                ]
            case "halt":
                commands = [CommandReceived(command="halt"), CommandReceived(command="resume")]
            case "stop":
                commands = [CommandReceived(command="stop", argument="flatten")]
            case _:
                unknown = [held.root for held in self.life.machine.positions if held.is_unknown]
                # The operator looks at the broker's screen, and says what is there.
                screen = self.judge.ledger(self.now)
                commands = [
                    CommandReceived(
                        command="resolve",
                        argument=known,
                        quantity=screen.positions.get(TICKERS[known], 0),
                        reason="seen",
                    )
                    for known in unknown
                    if not [o for o in screen.orders if o.ticker == TICKERS[known]] and not screen.pending
                ]
        for command in commands:
            self.put(command, source="operator")
            self.advance(Nanos(self.now + draw.choice((1, 10, 40)) * SECOND))

    # ------------------------------------------------------------- the strategy

    def _decide(self) -> None:
        """Exits first, then entries, as a slice does it."""
        requests = [request for root in CONTRACTS for request in self._decide_root(root)]
        for request in sorted(requests, key=lambda request: request.intent != "exit"):
            self.put(request, source="strategy")

    def _decide_root(self, root: str) -> Iterator[OrderRequested]:
        draw = self._random
        held = next((held for held in self.life.machine.positions if held.root == root), None)
        orders = [order for order in self.life.machine.orders if order.root == root]
        is_leaving = any(order.intent == "exit" and order.filled_ns is None for order in orders)
        is_entering = any(order.intent == "entry" for order in orders) and held is None
        if held is not None and (not is_leaving or draw.random() < 0.2):
            what = draw.choice(("hold", "exit", "reverse"))
            if what != "hold":
                yield self.exit_of(held)
            if what == "reverse" and not held.is_unknown:
                yield self._entry(root, "sell" if held.quantity > 0 else "buy")
        elif held is None and not is_entering and not is_leaving and draw.random() < 0.75:
            yield self._entry(root, draw.choice(("buy", "sell")))

    def exit_of(self, held: Position) -> OrderRequested:
        """A full exit, decided now."""
        return self._request(
            held.root,
            held.contract,
            "exit",
            "sell" if held.quantity > 0 else "buy",
            abs(held.quantity),
            entry_signal_id=held.entry_signal_id,
            cancels_working=held.has_legs,
        )

    def _entry(self, root: str, side: Side) -> OrderRequested:
        draw = self._random
        sign = 1 if side == "buy" else -1
        price = self._prices[root]
        more: dict[str, Any] = {"quantity": draw.randint(1, 2)}
        match draw.choice(("market", "limit", "bracket")):
            case "limit":
                more |= {"order_type": "limit", "limit_price": Price(price - sign * draw.randint(0, 4) * TICK)}
            case "bracket":
                away = draw.randint(4, 12) * TICK
                more |= {"stop_price": Price(price - sign * away), "target_price": Price(price + sign * away)}
            case _:
                pass
        return self.entry(root, side, **more)

    def entry(self, root: str, side: Side = "buy", **more: Any) -> OrderRequested:
        """A market entry of one contract, decided now, to be changed by keyword."""
        return self._request(root, f"{root}M4", "entry", side, **more)

    def _request(
        self, root: str, contract: str, intent: Intent, side: Side, quantity: int = 1, **more: Any
    ) -> OrderRequested:
        self._decisions += 1
        values: dict[str, Any] = {"order_type": "market", "limit_price": None, "reason": "scenario", "bar_ns": BAR}
        return OrderRequested(
            root=root,
            signal_id=signal_id(
                session="2024-05-01",
                strategy=f"scenario {self.seed}",
                root=root,
                contract=contract,
                intent=intent,
                side=side,
                decided_ns=self.now,
                ordinal=self._decisions,
            ),
            contract=contract,
            intent=intent,
            side=side,
            quantity=quantity,
            reference_price=self._prices.get(root, PRICE),
            decided_ns=self.now,
            **(values | more),
        )

    # ------------------------------------------------------------- the end

    def settle(self) -> None:
        """The faults end; whatever is held is left; time goes on until all is over."""
        self.judge.set_faults("")
        self.line_fault = ""
        self.put(CommandReceived(command="resume"), source="operator")
        if not self._is_feed_up:
            self._feed_returns()
        limit = Nanos(self.now + QUIET_LIMIT)
        while self.now < limit and (self.life.machine.positions or self.life.machine.orders):
            leaving = {o.root for o in self.life.machine.orders if o.intent == "exit" and o.filled_ns is None}
            for held in self.life.machine.positions:
                if held.root not in leaving and not held.is_unknown:
                    self.put(self.exit_of(held), source="strategy")
            self.let_pass(30)
        if self.now >= limit:
            left = [(order.root, order.intent, order.state.value, order.attempt) for order in self.life.machine.orders]
            self.violate("I2", f"not over after {QUIET_LIMIT // MINUTE} min: {left} {self.life.machine.positions}")
        self.let_pass(30)
        self._compare()

    def _compare(self) -> None:
        """Where nothing is under way or unknown, what is believed is what is held."""
        if self.fault in EXECUTED_OTHERWISE or not self._is_feed_up or self.life.is_dead:
            return
        machine, ledger = self.life.machine, self.judge.ledger(self.now)
        under_way = {order.root for order in machine.orders}
        for root, ticker in TICKERS.items():
            held = next((held for held in machine.positions if held.root == root), None)
            # A leg is filled at a touch there, and here when it is traded through.
            if root in under_way or (held is not None and (held.is_unknown or held.has_legs)):
                continue
            believed, real = 0 if held is None else held.quantity, ledger.positions.get(ticker, 0)
            if believed != real:
                self.violate("belief", f"{root} at {iso(self.now)}: {believed} believed, {real} held")


def no_engine(opened: SessionOpened, carried: StateCarried | None, tables: Sequence[BarTable]) -> TradingEngine:
    raise OurError("strategy and bars are played")


@cache
def empty_journal() -> Path:
    path = Path(tempfile.mkdtemp()) / "empty.db"
    create_journal(path)
    return path


# ---------------------------------------------------------------- the judgement


def check(scenario: Scenario, positions: tuple[Position, ...], orders: tuple[Order, ...]) -> None:
    """I1 to I9 on what the ledger, the line and the file hold once all is over."""
    record = scenario.record()
    ledger = scenario.judge.ledger(scenario.now)
    _judge_ledger(scenario, ledger, record)
    _judge_line(scenario, record)
    _judge_record(scenario, record, positions, orders)
    secrets = (PASSWORD.encode(), UUID.encode())
    files = b"".join(path.read_bytes() for path in scenario.path.parent.glob(f"{scenario.path.name}*"))
    if any(secret in files for secret in secrets):
        scenario.violate("I7", "the webhook's path is in the journal")


def _judge_ledger(scenario: Scenario, ledger: LedgerSnapshot, record: list[Envelope]) -> None:
    requests = {e.payload.signal_id: e.payload for e in record if isinstance(e.payload, OrderRequested)}
    submitted = Counter(e.payload.signal_id for e in record if isinstance(e.payload, OrderSubmitted))
    for signal, seen in ledger.signals.items():
        if not signal:
            continue  # the least exit, which has no id
        request = requests.get(signal)
        if request is None:
            scenario.violate("disk", f"{signal} arrived and was never decided on file")
            continue
        if request.intent == "entry" and seen.accepted > 1:
            scenario.violate("I1", f"entry {signal} was accepted {seen.accepted} times: {seen.answers}")
        if seen.attempts > submitted[signal]:
            scenario.violate("disk", f"{signal} arrived {seen.attempts} times, {submitted[signal]} are on file")
        if seen.lint and scenario.fault != "payload":
            scenario.violate("lint", f"{signal}: {seen.lint}")
        if "too-many-requests" in seen.answers:
            scenario.violate("limiter", f"{signal}: {seen.answers}")
    for incident in ledger.incidents:
        name = {"exit_of_newer": "I9", "entry_after_exit": "I4", "entry_accepted_twice": "I1"}.get(
            incident.kind, "legs"
        )
        scenario.violate(name, f"{incident.kind} {incident.ticker} {incident.signal_id}: {incident.detail}")
    if ledger.positions:
        scenario.violate("I2", f"held at the end: {dict(ledger.positions)}")
    if ledger.orders or ledger.pending:
        scenario.violate("I2", f"left working: {ledger.orders} {ledger.pending}")


def _judge_line(scenario: Scenario, record: list[Envelope]) -> None:
    refused: dict[str, list[Nanos]] = {}
    unwanted: set[tuple[str, str]] = set()
    outcomes = {
        (e.payload.signal_id, e.payload.attempt): e.payload for e in record if isinstance(e.payload, OrderRejected)
    }
    seen: Counter[tuple[str, int]] = Counter()
    for sent in scenario.sent:
        what = f"{sent.intent} {sent.signal_id}, attempt {sent.attempt}, at {iso(sent.ts)}"
        seen[sent.signal_id, sent.attempt] += 1
        if seen[sent.signal_id, sent.attempt] > 1:
            scenario.violate("once", f"{what} was written again")
        if not sent.is_on_disk:
            scenario.violate("disk", f"{what} was written before its intent was on disk")
        if sent.expires_ns is not None and sent.ts >= sent.expires_ns:
            scenario.violate("I3", f"{what} was written after its limit {iso(sent.expires_ns)}")
        # Once after the wait, and once more when a probe has just been answered.
        recent = [ts for ts in refused.get(sent.signal_id, []) if ts > sent.ts - HARD_PROBE_AFTER]
        if len(recent) > 2:
            scenario.violate("I6", f"{what} was refused with the webhook {len(recent)} times in the minute before")
        if (sent.signal_id, sent.body) in unwanted:
            scenario.violate("I6", f"{what} is the message that was refused before")
        outcome = outcomes.get((sent.signal_id, sent.attempt))
        if outcome is not None and not is_webhook_refused(outcome.http_status, outcome.code):
            unwanted.add((sent.signal_id, sent.body))
        if outcome is not None and is_webhook_refused(outcome.http_status, outcome.code):
            refused.setdefault(sent.signal_id, []).append(sent.ts)
            if sent.intent == "entry" and any(
                later.signal_id == sent.signal_id and later.attempt > sent.attempt for later in scenario.sent
            ):
                scenario.violate("I6", f"{what} was sent again after the webhook was refused")


def _judge_record(
    scenario: Scenario, record: list[Envelope], positions: tuple[Position, ...], orders: tuple[Order, ...]
) -> None:
    """The file decides everything again; on the way, limits and order of decisions."""
    again = Execution(scenario.parts.build_payload)
    decided = {(e.cause, e.idx): e.payload for e in record if e.source == Execution.name}
    expected: dict[tuple[int | None, int], Event] = {}
    requests: dict[str, OrderRequested] = {}
    latest: dict[str, str] = {}
    """The newest allowed signal of each root."""
    risk = RiskSettings()
    for envelope in record:
        event = envelope.payload
        match event:
            case SessionOpened():
                risk = event.risk
            case OrderRequested():
                requests[event.signal_id] = event
            case RiskDecided(is_allowed=True):
                latest[event.root] = event.signal_id
            case OrderSubmitted(intent="entry") if latest[event.root] != event.signal_id:
                scenario.violate("I4", f"entry {event.signal_id} was submitted after {latest[event.root]} was decided")
            case _:
                pass
        if envelope.type in again.kinds:
            expected |= {(envelope.seq, idx): one for idx, one in enumerate(again.handle(envelope))}
            if envelope.type == "OrderRequested" and event.intent == "entry":  # type: ignore[union-attr]
                _judge_limits(scenario, again, risk, envelope)
    if expected != decided:
        keys = [key for key in expected.keys() | decided.keys() if expected.get(key) != decided.get(key)]
        key = min(keys, key=lambda key: (key[0] or 0, key[1]))
        scenario.violate("replay", f"{key} is {decided.get(key)}, now {expected.get(key)}")
    if (again.positions, again.orders) != (positions, orders):
        scenario.violate("replay", f"{positions} {orders} are {again.positions} {again.orders} by the file")


def _judge_limits(scenario: Scenario, machine: Execution, risk: RiskSettings, envelope: Envelope) -> None:
    """I5, by what is believed: what is held or may be, and what is being entered."""
    occupied = {held.root: abs(held.quantity) for held in machine.positions}
    for order in machine.orders:
        if order.intent == "entry":
            occupied[order.root] = max(occupied.get(order.root, 0), order.quantity)
    if len(occupied) > risk.max_positions or sum(occupied.values()) > risk.max_contracts:
        scenario.violate("I5", f"{occupied} after {envelope.seq}, limits {risk.max_positions} and {risk.max_contracts}")


# ---------------------------------------------------------------- running


class LogWatch(logging.Handler):
    """Everything that is logged, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter().format(record)
        if PASSWORD in text or UUID in text:
            self.leaks.append(record.name)


@contextlib.contextmanager
def court() -> Iterator[Callable[[int], Scenario]]:
    """One server and one directory for many scenarios, each by its seed; 0 is one without faults and deaths."""
    # A commit takes less than one millisecond there instead of ten: what is tested is the order of things.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory, Judge() as judge:
        yield lambda seed: Scenario(seed, judge, Path(directory))


@contextlib.contextmanager
def scenarios() -> Iterator[Callable[[int], Lived]]:
    """Run seeds, one after the other, against one server."""
    with court() as scenario_of:
        watch = LogWatch()
        logging.getLogger().addHandler(watch)

        def play(seed: int) -> Lived:
            lived = scenario_of(seed).run()
            if watch.leaks:
                leak = Violation(invariant="I7", detail=f"the webhook's path is in the log of {watch.leaks}")
                lived, watch.leaks = attrs.evolve(lived, violations=(*lived.violations, leak)), []
            return lived

        try:
            yield play
        finally:
            logging.getLogger().removeHandler(watch)


def run(seed: int) -> Lived:
    """One scenario by itself."""
    with scenarios() as play:
        return play(seed)
