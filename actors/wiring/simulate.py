"""`simulate`: sessions drawn from seeds, with everything that can go wrong, each judged when it is over.

A scenario is one session of three roots on minute decisions with the gates wide open. The seed draws
the market, the settings, the faults, every crash and every choice of the scheduler; the same seed
gives the same chain head.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import sys
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import attrs
import click

from actors.carry import fresh_state
from actors.execution import Execution
from actors.faults import ACTORS, Crash, Faults
from actors.machines import MachineParts
from actors.simulation import run_world
from actors.simulation_world import Deaths, Input, Place, ScenarioBroken, World
from actors.wiring import MACHINE_PARTS, VERSION, code_digest
from actors.wiring.simulation_checks import (
    check_account,
    check_belief,
    check_line,
    check_once,
    check_order,
    check_record,
    check_twin,
)
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.log import configure_logging
from adapters.simulated_disk import SimulatedDisk, SimulatedFile
from adapters.simulated_feed import SimulatedFeed, draw_tape
from adapters.sqlite.codec import Codec
from adapters.traderspost.simulated import FAULTS, FaultWindow, SimulatedAccount, SimulatedLine
from domain.envelope import Envelope
from domain.errors import OperatorError
from domain.events import (
    HTTP_SOURCE,
    CommandReceived,
    EntriesClosed,
    EntriesOpened,
    Event,
    HistoryLoaded,
    OrderSubmitted,
    SessionOpened,
)
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract, TradedRoot, parse_contract
from domain.ports import Codec as CodecPort
from domain.risk import RiskSettings
from domain.sessions import Session, SessionHours, to_nanos
from domain.units import MINUTE, SECOND, Nanos

DATE = dt.date(2024, 5, 1)
OPEN = to_nanos(dt.datetime(2024, 5, 1, 18, tzinfo=dt.UTC))
BUSY = Nanos(9 * MINUTE)
"""Entries, faults and crashes; then what is held is closed, and nothing fails any more."""
LENGTH = Nanos(20 * MINUTE)
SIDES: tuple[Literal["long", "short", "both"], ...] = ("long", "short", "both")
"""What is entered, by the seed."""
CONTRACTS = {"ES": "MESM4", "NQ": "MNQM4", "GC": "MGCM4"}
PROGRESS_EVERY = 100
TROUBLE = ("http", "process", "actor", "disk", "feed", "operator")
"""What `--faults` chooses from."""


@attrs.frozen(kw_only=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    detail: str


@attrs.frozen(kw_only=True)
class Lived:
    """What a scenario came to."""

    seed: int
    clock: str
    head: str
    """Hex chain head of its journal."""
    events: int
    orders: int
    messages: int
    processes: int
    crashes: int
    faults: tuple[str, ...]
    violations: tuple[Violation, ...]


@attrs.frozen(kw_only=True)
class Simulated:
    """The components of a scenario; a test that plants a bug passes its own."""

    machine_parts: MachineParts = MACHINE_PARTS
    disk: Callable[..., SimulatedDisk] = SimulatedDisk
    line: Callable[..., SimulatedLine] = SimulatedLine


def simulate(seed: int, *, trouble: Collection[str] = TROUBLE, parts: Simulated | None = None) -> Lived:
    """Play the scenario of `seed` with the kinds of `trouble`, and judge it."""
    return _Scenario(seed, trouble, parts or Simulated()).run()


def parse_trouble(text: str) -> tuple[str, ...]:
    """`all`, `none`, or kinds of TROUBLE with commas between. Raises OperatorError (exit 2) for anything else."""
    chosen = {"all": TROUBLE, "none": ()}.get(text, tuple(text.split(",")))
    if unknown := [kind for kind in chosen if kind not in TROUBLE]:
        raise OperatorError(
            f"{unknown[0]!r} is no kind of fault",
            where="--faults",
            fix=f"write all, none, or some of {', '.join(TROUBLE)} with commas between",
            exit_code=2,
        )
    return chosen


def simulate_command(*, seed: int, count: int, faults: str, as_json: bool) -> int:
    """Play `count` scenarios from `seed` on. Exit code 0, or 1 when an invariant did not hold."""
    configure_logging("error", stream=sys.stderr)
    trouble = parse_trouble(faults)
    broken = events = 0
    for played, one in enumerate(range(seed, seed + count), start=1):
        lived = simulate(one, trouble=trouble)
        events += lived.events
        broken += bool(lived.violations)
        if as_json:
            click.echo(json.dumps(attrs.asdict(lived)))
        for violation in lived.violations if not as_json else ():
            again = f"python -m actors.main simulate --seed {one} --faults {faults}"
            click.echo(f"seed {one}: {violation.invariant}: {violation.detail}\n  again: {again}")
        if played % PROGRESS_EVERY == 0 and played < count:
            click.echo(f"{played} of {count} scenarios, {broken} with violations", err=True)
        if count == 1 and not as_json:
            click.echo(
                f"seed {one}: clock {lived.clock}, {lived.events} events, {lived.orders} orders, "
                f"{lived.messages} messages, {lived.processes} processes, {lived.crashes} crashes of actors, "
                f"faults: {', '.join(lived.faults) or 'none'}\n  chain head {lived.head}"
            )
    click.echo(f"{count} scenarios, {events} events, {broken} with violations", err=as_json)
    return 1 if broken else 0


@cache
def _codec() -> Codec:
    return Codec()


@cache
def _roots() -> tuple[TradedRoot, ...]:
    return tuple(root for root in load_contract_map(CONTRACT_MAP_FILE).roots if root.root in CONTRACTS)


@cache
def _digest() -> str:
    return code_digest()


class _Scenario:
    """Draws everything from one seed."""

    def __init__(self, seed: int, trouble: Collection[str], parts: Simulated) -> None:
        self._seed = seed
        self._trouble = trouble
        self._parts = parts
        self._draw = random.Random(f"scenario {seed}")
        self._found: list[Violation] = []
        self._opened = self._draw_opening()
        self._tape = draw_tape(self._draw, _roots(), start=OPEN, end=Nanos(OPEN + LENGTH), busy_s=BUSY // SECOND)
        self._windows = self._draw_windows()
        self._inputs = self._draw_inputs()
        self._deaths, self._crashes = self._draw_deaths()
        self._loss = self._draw.choice((0.0, 0.02, 0.2)) if "feed" in trouble else 0.0

    def run(self) -> Lived:
        rows, account, world = self._play(deaths=self._deaths, crashes=self._crashes, loss=self._loss, told={})
        if not self._found:  # else it was not played to its end
            try:
                self._judge(rows, account)
            except Exception as error:  # noqa: BLE001 - a record that cannot even be judged is a finding as well
                self._violate("error", repr(error))
        return Lived(
            seed=self._seed,
            clock=self._opened.clock,
            head=rows[-1].hash.hex() if rows else "",
            events=len(rows),
            orders=sum(row.type == "OrderRequested" for row in rows),
            messages=len(account.sent),
            processes=world.processes,
            crashes=sum(row.type == "ActorCrashed" for row in rows),
            faults=tuple(dict.fromkeys(account.played)),
            violations=tuple(dict.fromkeys(self._found)),
        )

    # ------------------------------------------------------------- playing

    def _play(
        self, *, deaths: Deaths, crashes: Sequence[Crash], loss: float, told: dict[Any, Any]
    ) -> tuple[list[Envelope], SimulatedAccount, World]:
        opened, codec = self._opened, _codec()
        file = SimulatedFile(codec)
        symbols = [c.raw_symbol for c in opened.contracts if c.raw_symbol is not None]
        account = SimulatedAccount(
            seed=self._seed, windows=self._windows, tape=self._tape, tickers=dict(enumerate(map(_ticker, symbols), 1))
        )
        calm = Nanos(OPEN + BUSY)

        def open_journal(other: CodecPort | None) -> Any:
            return file.reader(other)

        def webhook(process: Place) -> SimulatedLine:
            return self._parts.line(
                account,
                now=lambda: process.now,
                pass_time=process.pass_time,
                is_waited_for=opened.clock == "system",
                reach=process.reach,
                is_durable=lambda submitted: _is_on_file(file, submitted),
                told=told,
            )

        world = World(
            random=random.Random(f"scheduler {self._seed}"),
            opened=opened,
            opening=(opened, HistoryLoaded(tables=()), fresh_state()),
            machine_parts=self._parts.machine_parts,
            codec=codec,
            open_journal=open_journal,
            make_disk=lambda on_append: self._parts.disk(file, on_append=on_append),
            make_webhook=webhook,
            market=SimulatedFeed(
                tape=self._tape,
                symbols=symbols,
                end_ns=opened.session.end_ns,
                draw=random.Random(f"feed {self._seed}"),
                now=None if opened.clock == "feed" else lambda: world.now,
                loss=loss,
                is_calm=lambda: world.now >= calm,
            ),
            inputs=self._inputs,
            faults=Faults(crashes),
            deaths=deaths,
            now=OPEN,
            violate=self._violate,
        )
        try:
            run_world(world)
        except ScenarioBroken:
            pass  # its violation is noted
        except Exception as error:  # noqa: BLE001 - whatever a scenario finds, the next seed is played
            self._violate("error", repr(error))
        return file.rows, account, world

    def _violate(self, invariant: str, detail: str) -> None:
        self._found.append(Violation(invariant=invariant, detail=detail))

    # ------------------------------------------------------------- judging

    def _judge(self, rows: list[Envelope], account: SimulatedAccount) -> None:
        violate, parts = self._violate, self._parts.machine_parts
        check_order(rows, violate)
        check_once(rows, self._tape, violate)
        ledger = account.snapshot(Nanos(self._opened.session.end_ns + MINUTE))
        check_account(account, ledger, rows, violate)
        check_line(account, rows, violate)
        record = list(file_of(rows).envelopes())
        check_record(record, parts, _codec(), violate)
        machine = parts.factories()[Execution.name]()
        check_belief(record, machine, violate)  # type: ignore[arg-type]  # that machine
        # Every second one: it is as long again.
        if self._opened.clock == "feed" and self._seed % 4 == 1:
            outcomes = {_attempt_of(row): row.payload for row in rows if row.source == HTTP_SOURCE}
            undisturbed, _, _ = self._play(deaths=Deaths(), crashes=(), loss=0.0, told=outcomes)
            check_twin(rows, undisturbed, violate)

    # ------------------------------------------------------------- drawing

    def _draw_opening(self) -> SessionOpened:
        draw, roots = self._draw, _roots()
        hours = tuple(SessionHours(root=root.root, open_ns=OPEN, close_ns=Nanos(OPEN + LENGTH)) for root in roots)
        session = Session(
            date=DATE, start_ns=Nanos(OPEN - MINUTE), open_ns=OPEN, end_ns=Nanos(OPEN + LENGTH), hours=hours
        )
        return SessionOpened(
            session=session,
            segment=1,
            mode="paper",
            is_demo=False,
            account="simulation",
            clock="feed" if self._seed % 2 else "system",
            seed=self._seed,
            version=VERSION,
            code_digest=_digest(),
            config_digest="",
            libraries={},
            strategy=StrategySettings(
                veto=False,
                side=SIDES[self._seed % len(SIDES)],
                decision_timeframe="1m",
                entry_ibs_high=draw.choice((0.4, 0.7)),
                exit_ibs_low=draw.choice((0.6, 0.9)),
                exit_after_bars=draw.randint(1, 3),
                pivot_gate=False,
                warmup_bars=0,
                entry_windows=("00:00-24:00",),
                stop_pct=Decimal(draw.choice(("0.02", "0.1"))),
                target_pct=Decimal(draw.choice(("0.02", "0.1"))),
                bracket=draw.random() < 0.3,
                auto_close_before_end_s=(LENGTH - BUSY) // SECOND,
                no_entry_before_auto_close_s=0,
                entry_order=draw.choice(("market", "market", "limit")),
                cancel_after_s=draw.choice((20, 60)),
            ),
            risk=RiskSettings(
                max_positions=draw.randint(1, 3),
                max_contracts=draw.randint(2, 4),
                daily_loss_usd=draw.choice((None, Decimal(40))),
                daily_loss_action=draw.choice(("flatten", "block")),
                stale_flatten_s=draw.choice((None, 60)),
                unknown_flat_after_s=draw.choice((20, 60)),
            ),
            roots=roots,
            contracts=tuple(
                ResolvedContract(root=root.root, rank=0, raw_symbol=CONTRACTS[root.root]) for root in roots
            ),
            feed_start_ns=session.start_ns,
        )

    def _moment(self) -> Nanos:
        return Nanos(OPEN + self._draw.randrange(BUSY))

    def _draw_windows(self) -> list[FaultWindow]:
        draw = self._draw
        windows = []
        for _ in range(draw.choice((0, 1, 1, 2, 3)) if "http" in self._trouble else 0):
            start = self._moment()
            kinds = tuple(draw.sample(FAULTS, draw.randint(1, 4)))
            end = min(Nanos(OPEN + BUSY), Nanos(start + draw.choice((20, 90, 400)) * SECOND))
            windows.append(FaultWindow(start=start, end=end, rate=draw.choice((0.3, 0.7, 1.0)), kinds=kinds))
        return windows

    def _draw_inputs(self) -> tuple[Input, ...]:
        draw, inputs = self._draw, []
        count = draw.choice((0, 0, 1, 2)) if "operator" in self._trouble else 0
        kinds = ["flatten", "kill", "kill all", "halt", "disable"]
        if self._opened.clock == "system":
            kinds.append("entries")  # a stalled writer closes entries in real time only, until the next process
        for start in sorted(self._moment() for _ in range(count)):
            root = draw.choice(("", *CONTRACTS))
            events: tuple[Event, ...] = {
                "flatten": (CommandReceived(command="flatten", argument=root),),
                "kill": (CommandReceived(command="kill", argument=""), CommandReceived(command="resume")),
                "kill all": (CommandReceived(command="kill", argument="all"), CommandReceived(command="resume")),
                "halt": (CommandReceived(command="halt"), CommandReceived(command="resume")),
                "disable": (CommandReceived(command="disable", argument=root), CommandReceived(command="enable")),
                "entries": (EntriesClosed(reason="stall"), EntriesOpened(reason="caught up")),
            }[draw.choice(kinds)]
            ts = start
            for event in events:
                source = "supervisor" if isinstance(event, EntriesClosed | EntriesOpened) else "operator"
                inputs.append(Input(ts=ts, source=source, event=event))
                ts = Nanos(ts + draw.choice((1, 20, 90)) * SECOND)
        # In the order of their moments, and each pair in its own.
        return tuple(sorted(inputs, key=lambda one: one.ts))

    def _draw_deaths(self) -> tuple[Deaths, list[Crash]]:
        draw = self._draw
        processes = tuple(draw.randint(1, 900) for _ in range(draw.choice((0, 1, 1, 2, 3))))
        failing = draw.randint(1, 150) if draw.random() < 0.15 else 0
        crashes = [
            Crash(
                draw.choice(ACTORS), draw.randint(4, 200), draw.choice(("before", "handled", "published", "catch_up"))
            )
            for _ in range(draw.choice((0, 0, 1, 2, 4)))
        ]
        return (
            Deaths(
                processes=processes if "process" in self._trouble else (),
                failing_commit=failing if "disk" in self._trouble else 0,
            ),
            crashes if "actor" in self._trouble else [],
        )


def file_of(rows: list[Envelope]) -> Any:
    """`rows` as they are read from a file."""
    file = SimulatedFile(_codec())
    file.rows = rows
    return file.reader()


def _ticker(raw_symbol: str) -> str:
    name = parse_contract(raw_symbol, [root.order_product for root in _roots()], DATE)
    assert name is not None
    return name.ticker


def _is_on_file(file: SimulatedFile, submitted: OrderSubmitted) -> bool:
    return any(row.payload == submitted for row in reversed(file.rows) if row.type == "OrderSubmitted")


def _attempt_of(row: Envelope) -> tuple[str, int]:
    outcome: Any = row.payload
    return ("probe", outcome.ordinal) if row.type == "ProbeAnswered" else (outcome.signal_id, outcome.attempt)
