"""Plugs the adapters into the actors: what each command of `main` runs.

Together with `main` the only place where actors and adapters meet.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import click
import structlog

from actors.carry import fresh_state
from actors.faults import Faults, parse_crash
from actors.in_process import Answer, InProcessSystem, accept
from actors.live import LiveParts, LiveResult, run_live
from actors.machines import MachineParts
from actors.opening import LivePlan, Opener, opening_of
from actors.progress import Progress
from actors.replay import replay
from actors.report import RunningProgram, SegmentReplay, replay_report, replay_words, summary
from actors.tally import Tally
from actors.veto_models import LoadedModels, find_models, keep, load_models, record_of
from adapters.backtrader.engine import build_engine
from adapters.calendar import CmeCalendar
from adapters.clock import SystemClock
from adapters.config import (
    CALENDAR_OVERRIDES_FILE,
    CHECKOUT,
    CONTRACT_MAP_FILE,
    Config,
    config_digest,
    demo_config,
    describe,
    find_config,
    load_config,
)
from adapters.contract_map import load_contract_map
from adapters.log import configure_logging, register_secret, set_log_session
from adapters.memory import MemoryJournal
from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile, segments_of
from adapters.traderspost.payload import build_payload
from domain.errors import JournalBroken, JournalUnreadable, OperatorError
from domain.events import HistoryLoaded, SessionOpened, VetoScored
from domain.ibs import StrategySettings
from domain.instruments import ResolvedContract
from domain.ports import FeedSource
from domain.risk import RiskSettings
from domain.sessions import Session, to_nanos
from domain.units import Nanos
from domain.veto import Flip, ModelRecord, VetoModel

VERSION = "0.1.0"
DECISION_CODE = (
    "domain",
    "actors/bars.py",
    "actors/execution.py",
    "actors/machines.py",
    "actors/roll_supervisor.py",
    "actors/strategy.py",
    "adapters/backtrader",
    "adapters/traderspost/payload.py",
    "models/forest.py",
)
"""The files that a decision can depend on: their digest tells whether a file may be continued."""
LIBRARIES = ("attrs", "backtrader", "databento", "numpy", "pandas", "pykka", "scikit-learn")
DEMO_SPEED = "2000"

log = structlog.get_logger()


def machine_parts(models: Mapping[str, VetoModel]) -> MachineParts:
    """What the machines are built with; `models` by root."""
    return MachineParts(build_engine=partial(build_engine, models=models), build_payload=build_payload)


MACHINE_PARTS = machine_parts({})
"""Without models: with `veto: true` nothing is entered."""


def code_digest() -> str:
    """sha256 over the decision code's file names and contents, hex."""
    digest = hashlib.sha256()
    for name in DECISION_CODE:
        place = CHECKOUT / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(CHECKOUT).as_posix()}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def parse_time(text: str, *, where: str = "") -> Nanos:
    """An ISO 8601 moment, UTC without a zone. Raises OperatorError (exit 2), naming `where`, for anything else."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(
            f"{text!r} is no ISO 8601 time", where=where, fix="write it like 2024-05-01T14:00Z", exit_code=2
        ) from error
    return to_nanos(moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC))


# ---------------------------------------------------------------- live


@attrs.frozen(kw_only=True)
class LiveRequest:
    """The options of `live`, as given."""

    log_level: str
    demo: bool
    config: Path | None
    overlay: tuple[Path, ...]
    speed: str | None
    until: str | None
    journal_dir: Path | None
    seed: int
    crash: tuple[str, ...]
    jitter_ms: float


def live_command(request: LiveRequest) -> int:
    """Run `live`; the exit code."""
    configure_logging(request.log_level, stream=sys.stderr)
    faults = Faults([parse_crash(text) for text in request.crash], jitter_s=request.jitter_ms / 1000)
    until_ns = None if request.until is None else parse_time(request.until, where="--until")
    config = _config_of(request)
    for secret in (config.databento_key, config.webhook_url):
        if secret is not None:
            register_secret(secret)
    models = LoadedModels(bundles={}, records=())
    if config.strategy.veto:
        models = load_models(config.roots, config.models_dir)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    plan = LivePlan(
        mode=config.mode,
        is_demo=config.is_demo,
        account=config.account,
        clock=config.clock,
        seed=request.seed,
        roots=config.roots,
        strategy=config.strategy,
        risk=config.risk,
        version=VERSION,
        code_digest=code_digest(),
        config_digest=config_digest(config),
        libraries=library_versions(),
        models=models.records,
        until_ns=until_ns,
    )
    with ExitStack() as stack:
        codec = Codec()
        make_webhook = _webhook_maker(config, stack)
        journals = SqliteJournals(config.journal_dir, codec)
        stack.callback(journals.release)
        keep(models.bundles.values(), config.journal_dir)
        source, load_history = _market(config, request, stack, stopping.is_set)
        parts = LiveParts(
            journals=journals,
            codec=codec,
            source=source,
            make_webhook=make_webhook,
            machine_parts=machine_parts(models.bundles),
            now=SystemClock().now_ns,
            faults=faults,
        )
        opener = Opener(
            plan=plan,
            journals=journals,
            calendar=CmeCalendar(CALENDAR_OVERRIDES_FILE),
            source=source,
            parts_of=lambda opened: machine_parts(find_models(opened.models, config.journal_dir)),
            load_history=load_history,
            now=parts.now,
        )
        result = _run(plan, parts, opener, stopping)
    _print_summary(result)
    for crash in faults.left:
        click.echo(f"planned crash did not happen: {crash.actor}@{crash.seq}", err=True)
    return result.exit_code


def _run(plan: LivePlan, parts: LiveParts, opener: Opener, stopping: threading.Event) -> LiveResult:
    progress = Progress(sys.stderr)

    def on_session(path: Path, tally: Tally) -> None:
        set_log_session(path.name.removesuffix(".db"))
        progress.show(tally)

    progress.start()
    try:
        return run_live(plan=plan, parts=parts, opener=opener, stopping=stopping, on_session=on_session)
    finally:
        progress.stop()


def _print_summary(result: LiveResult) -> None:
    for path, tally in result.sessions:
        click.echo(f"{path}")
        for line in summary(tally):
            click.echo(f"  {line}")
    click.echo(f"{result.end.kind}: {result.end.reason}")


def _config_of(request: LiveRequest) -> Config:
    if request.demo:
        if request.config is not None or request.overlay:
            raise OperatorError(
                "the demo has its own configuration",
                where="--demo",
                fix="leave --config and --overlay out",
                exit_code=2,
            )
        _demo_speed(request)  # refused before anything is begun
        return demo_config(request.journal_dir or Path.cwd() / "journal", os.environ)
    if request.speed is not None:
        log.warning("the gateway sets the speed: --speed is for --demo", speed=request.speed)
    path = find_config(request.config, os.environ, Path.cwd())
    config = load_config(path, request.overlay, os.environ).config
    if request.journal_dir is not None:
        config = attrs.evolve(config, journal_dir=request.journal_dir.absolute())
    return config


def _market(
    config: Config, request: LiveRequest, stack: ExitStack, is_stopping: Callable[[], bool]
) -> tuple[FeedSource, Any]:
    from adapters.databento.live import DatabentoSource

    if config.is_demo:
        return _demo_market(config, request, stack)
    if config.databento_key is None:
        raise OperatorError(
            "no API key", where="DATABENTO_API_KEY", fix="export it (for the local gateway: the key it accepts)"
        )
    source = DatabentoSource(
        key=config.databento_key.reveal(),
        dataset=_dataset(config),
        gateway=config.feed.gateway,
        port=config.feed.port,
        heartbeat_interval_s=config.feed.heartbeat_interval_s,
        is_stopping=is_stopping,
    )
    return source, lambda session: HistoryLoaded(tables=())


def _demo_speed(request: LiveRequest) -> float:
    from adapters.databento.gateway import parse_speed

    return parse_speed(request.speed or DEMO_SPEED)


def _demo_market(config: Config, request: LiveRequest, stack: ExitStack) -> tuple[FeedSource, Any]:
    from adapters.databento.demo_history import demo_history
    from adapters.databento.gateway import (
        HOST,
        LOCAL_KEY,
        Gateway,
        GatewayRequest,
        GatewayThread,
        build_source,
    )
    from adapters.databento.live import DatabentoSource
    from adapters.databento.market_simulator import SimulatedMarket

    feed, _ = build_source(GatewayRequest(simulate=True, seed=request.seed))
    server = stack.enter_context(GatewayThread(Gateway(feed, keys=(LOCAL_KEY,), speed=_demo_speed(request))))
    market = SimulatedMarket(request.seed)

    def load_history(session: Session) -> HistoryLoaded:
        return demo_history(market, session.date)

    source = DatabentoSource(
        key=LOCAL_KEY,
        dataset=_dataset(config),
        gateway=HOST,
        port=server.port,
        heartbeat_interval_s=config.feed.heartbeat_interval_s,
    )
    return source, load_history


def _dataset(config: Config) -> str:
    datasets = sorted({root.dataset for root in config.roots})
    if len(datasets) != 1:
        raise OperatorError(
            f"one dataset per process, not {', '.join(datasets)}",
            where=str(config.contract_map),
            fix="run a process per dataset",
        )
    return datasets[0]


def _webhook_maker(config: Config, stack: ExitStack) -> Any:
    from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
    from adapters.traderspost.router import WebhookRouter

    if config.webhook_url is not None:
        url = config.webhook_url.reveal()
    else:
        # Paper mode without a URL: our own TradersPost, in the time that the session keeps.
        clock: Any = "request" if config.clock == "feed" else "system"
        url = stack.enter_context(LocalTradersPostThread(LocalTradersPost(clock=clock))).url
    router = WebhookRouter(url, is_live=config.mode == "live")
    log.info("orders go to", webhook=repr(router))
    return lambda: WebhookRouter(url, is_live=config.mode == "live")


# ---------------------------------------------------------------- in process


def in_process_system(
    contracts: Mapping[str, str],
    *,
    session: dt.date = dt.date(2024, 5, 1),
    risk: RiskSettings | None = None,
    history: HistoryLoaded | None = None,
    models: Mapping[str, VetoModel] | None = None,
    seed: int = 0,
    answer: Answer = accept,
    **strategy: Any,
) -> InProcessSystem:
    """A paper session in one thread: `contracts` by root (`{"ES": "MESM4"}`), strategy parameters by name.

    The veto is on with `models` only, and without `history` there is none.
    """
    traded = load_contract_map(CONTRACT_MAP_FILE).roots
    roots = tuple(root for root in traded if root.root in contracts)
    opened = SessionOpened(
        session=CmeCalendar().session_on(session, roots),
        segment=1,
        mode="paper",
        is_demo=False,
        account="in-process",
        clock="feed",
        seed=seed,
        version=VERSION,
        code_digest=code_digest(),
        config_digest="",
        libraries={},
        strategy=StrategySettings(**{"veto": models is not None, **strategy}),
        risk=risk or RiskSettings(),
        roots=roots,
        contracts=tuple(ResolvedContract(root=root, rank=0, raw_symbol=raw) for root, raw in contracts.items()),
        feed_start_ns=Nanos(0),
        models=tuple(record_of(model) for model in (models or {}).values()),
    )
    journal = MemoryJournal()
    return InProcessSystem(
        opened=opened,
        carried=fresh_state(),
        history=history or HistoryLoaded(tables=()),
        parts=machine_parts(models or {}),
        codec=Codec(),
        writer=journal,
        reader=journal,
        seed=seed,
        answer=answer,
    )


# ---------------------------------------------------------------- servers


def gateway_command(log_level: str, **options: Any) -> int:
    """Run the gateway until a signal; the exit code."""
    from adapters.databento.gateway import GatewayRequest, parse_speed, run_gateway

    configure_logging(log_level, stream=sys.stderr)
    trades = {} if options["trades"] is None else {"trades_per_session": options["trades"]}
    request = GatewayRequest(
        files=options["files"],
        simulate=options["simulate"],
        seed=options["seed"],
        session=_date(options["session"]),
        sessions=options["sessions"],
        speed=None if options["speed"] is None else parse_speed(options["speed"]),
        start_at=options["start_at"],
        rebase=options["rebase"],
        **trades,
    )
    return run_gateway(request, port=options["port"], key=options["key"], faults=options["faults"])


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(f"{text!r} is no date", where="--session", fix="write 2024-05-01", exit_code=2) from error


def traderspost_command(log_level: str, **options: Any) -> None:
    """Run the local TradersPost until a signal."""
    from adapters.traderspost.local_server import run_traderspost

    configure_logging(log_level, stream=sys.stderr)
    run_traderspost(
        options["port"],
        uuid=options["uuid"],
        password=options["password"],
        clock=options["clock"],
        unavailable_roots=options["unavailable"],
        faults=options["faults"],
    )


# ---------------------------------------------------------------- reading


def open_segments(file: Path) -> Iterator[JournalFile]:
    """Every segment of the session that `file` belongs to, one open at a time."""
    codec = Codec()
    for path in segments_of(file):
        with JournalFile(path, codec) as journal:
            yield journal


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """What is wrong with a journal is told with the file it is wrong in."""
    try:
        yield
    except JournalBroken as error:
        raise JournalBroken(f"{file}: {error}", seq=error.seq) from error
    except JournalUnreadable as error:
        if str(file) in str(error):
            raise
        raise JournalUnreadable(f"{file}: {error}") from error


def describe_config(path: Path | None, overlays: tuple[Path, ...]) -> list[tuple[str, str, str]]:
    """(key, value, source) of the configuration that `live` would use."""
    found = find_config(path, os.environ, Path.cwd())
    return describe(load_config(found, overlays, os.environ))


def replay_command(file: Path, *, as_json: bool, until: int | None, models_dir: Path | None) -> int:
    """Replay every segment of a session; 0 identical, 1 diverged. `models_dir`: score with these bundles instead.

    Raises JournalUnreadable (exit 2) for a file that is not the record any more.
    """
    started_s = time.perf_counter()
    codec = Codec()
    paths = segments_of(file)
    replayed: list[SegmentReplay] = []
    for path in paths:
        with JournalFile(path, codec) as journal, naming(path):
            try:
                journal.verify()
            except JournalBroken as error:
                raise JournalUnreadable(str(error)) from error
            models = find_models(opening_of(journal).models, path.parent, models_dir)
            result = replay(
                journal.envelopes(),
                parts=machine_parts(models),
                codec=codec,
                is_finished=journal.head().status == "closed",
                until=until if path == paths[-1] else None,
            )
        digests = {root: bundle.digest for root, bundle in models.items()}
        replayed.append(SegmentReplay(name=path.name, result=result, models=digests))
        if result.divergence is not None:
            break
    opened = replayed[-1].result.opened
    running = RunningProgram(version=VERSION, code_digest=code_digest(), libraries=library_versions())
    report = replay_report(replayed, running, opened, elapsed_s=time.perf_counter() - started_s)
    click.echo(json.dumps(report) if as_json else "\n".join(replay_words(report)))
    return 0 if report["identical"] else 1


def nearest_flip(file: Path, record: ModelRecord, scored: VetoScored) -> Flip | str | None:
    """What would have turned the verdict round; a text says why it cannot be told, None that no single input could.

    Costs milliseconds a feature, which is why it is computed when asked for and not recorded.
    """
    model = find_models([record], file.parent).get(record.root)
    if model is None or model.digest != scored.digest:
        return f"not known without the model {scored.digest[:12]}"
    return model.nearest_flip(scored.values)
