"""`live`: the configuration, the market, the way out, and the session between them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import structlog

from actors.faults import Faults, parse_crash
from actors.heartbeat import Heartbeat
from actors.live import LiveParts, LiveResult, run_live
from actors.opening import LivePlan, Opener
from actors.operator import OperatorDesk
from actors.progress import Progress
from actors.report import summary
from actors.tally import Tally
from actors.veto_models import LoadedModels, find_models, keep, load_models, load_shadows
from actors.warm_up import ExtendHistory, as_left
from actors.wiring import VERSION, code_digest, library_versions, machine_parts, parse_time
from actors.wiring.alerts import running_alerts
from actors.wiring.service import running_service
from adapters.calendar import CmeCalendar
from adapters.clock import SystemClock
from adapters.config import (
    CALENDAR_OVERRIDES_FILE,
    Config,
    config_digest,
    demo_config,
    find_config,
    load_config,
)
from adapters.log import configure_logging, redact_tracebacks, set_log_session
from adapters.operator_socket import OperatorServer
from adapters.products import roots_on
from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.status_file import write_status
from domain.allow_list import allow_list
from domain.errors import OperatorError
from domain.events import HistoryLoaded
from domain.ports import Calendar, FeedSource
from domain.sessions import Session
from domain.units import Nanos

DEMO_SPEED = "2000"
M_ARENA_MAX = -8
"""glibc's name for how many heaps there are."""

log = structlog.get_logger()


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
    skip_poison: tuple[str, ...]
    jitter_ms: float


def live_command(request: LiveRequest) -> int:
    """Run `live`; the exit code."""
    _share_one_heap()
    redact_tracebacks()
    configure_logging(request.log_level, stream=sys.stderr)
    faults = Faults([parse_crash(text) for text in request.crash], jitter_s=request.jitter_ms / 1000)
    until_ns = None if request.until is None else parse_time(request.until, where="--until")
    config = _config_of(request)
    _check_definitions(config)
    if config.mode == "live":
        log.info("checklist of TradersPost's settings", valid_until=str(config.golive.valid_until))
    models, shadows = _models_of(config)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    plan = _plan_of(config, request, models, shadows, until_ns)
    with ExitStack() as stack:
        alerts = stack.enter_context(running_alerts(config))
        service = stack.enter_context(running_service(alerts))
        codec = Codec()
        make_webhook = _webhook_maker(config, stack)
        journals = SqliteJournals(config.journal_dir, codec, emergency_dir=config.emergency_dir)
        stack.callback(journals.release)
        desk = OperatorDesk(stop=stopping.set)
        operator = OperatorServer(config.journal_dir, desk.handle)
        operator.start()
        stack.callback(operator.close)
        clock = SystemClock()
        heartbeat = Heartbeat(
            write=partial(write_status, config.journal_dir),
            now=clock.now_ns,
            tell=alerts.tell if alerts is not None else lambda alert: None,
        )
        heartbeat.start()
        stack.callback(heartbeat.stop)
        keep((*models.bundles.values(), *shadows.bundles.values()), config.journal_dir)
        source, load_history = _market(config, request, stack, stopping.is_set)
        parts = LiveParts(
            journals=journals,
            codec=codec,
            source=source,
            make_webhook=make_webhook,
            machine_parts=machine_parts(models.bundles, shadows.bundles),
            now=clock.now_ns,
            faults=faults,
            alerts=alerts,
            heartbeat=heartbeat,
            health=service.health,
            on_open=service.on_open,
            desk=desk,
        )
        calendar = CmeCalendar(CALENDAR_OVERRIDES_FILE)
        opener = Opener(
            plan=plan,
            journals=journals,
            calendar=calendar,
            source=source,
            parts_of=lambda opened: machine_parts(
                find_models(opened.models, config.journal_dir), find_models(opened.shadows, config.journal_dir)
            ),
            load_history=load_history,
            now=parts.now,
            read_clock=clock.read,
            roots_on=roots_on,
            extend_history=_stored_history(config, calendar),
        )
        result = _run(plan, parts, opener, stopping)
    _print_summary(result)
    for crash in faults.left:
        click.echo(f"planned crash did not happen: {crash.actor}@{crash.seq}", err=True)
    return result.exit_code


def _models_of(config: Config) -> tuple[LoadedModels, LoadedModels]:
    """The models, and their shadows."""
    models = shadows = LoadedModels()
    if scored := [root for root in config.roots if config.strategy.of(root.root).veto]:
        models = load_models(scored, config.models_dir, for_money=config.mode == "live", strategy=config.strategy)
    if config.shadow_models_dir is not None:
        shadows = load_shadows(config.roots, config.shadow_models_dir, config.strategy)
    return models, shadows


def _plan_of(
    config: Config, request: LiveRequest, models: LoadedModels, shadows: LoadedModels, until_ns: Nanos | None
) -> LivePlan:
    return LivePlan(
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
        shadows=shadows.records,
        required_reference_feeds=config.required_reference_feeds,
        until_ns=until_ns,
        skip_poison=request.skip_poison,
    )


def _share_one_heap() -> None:
    """Each session has threads of its own, and glibc would give each a heap that the next session's do not fill up.

    Measured (docs/supervision.md): memory grows by more than 1 MiB a day with them, by less than half with one.
    """
    with suppress(OSError, AttributeError):  # not everywhere is glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


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
        place = request.journal_dir.absolute()
        # Two journals never share an emergency file: a start takes in what is there as its own.
        emergency_dir = None if config.emergency_dir is None else config.emergency_dir / place.name
        config = attrs.evolve(config, journal_dir=place, emergency_dir=emergency_dir)
    return config


def _check_definitions(config: Config) -> None:
    """Refuse to start when the exchange's definitions contradict the contract map, for what is read and ordered."""
    if config.definitions is None:
        return
    from adapters.databento.listings import read_definitions

    ordered = [attrs.evolve(root, data_product=root.order_product, data_spec=root.order_spec) for root in config.roots]
    listings = read_definitions(config.definitions)
    defined = {c.root for roots in (config.roots, ordered) for c in allow_list(listings, roots).contracts}
    if lacking := [root.root for root in config.roots if root.root not in defined]:
        log.warning("no definition of these roots: their specs were not compared", roots=lacking)


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


def _stored_history(config: Config, calendar: Calendar) -> ExtendHistory:
    if config.history_dir is None:
        return as_left  # the demo's is made up
    from actors.wiring.history import StoredHistory
    from adapters.databento.history_store import HistoryStore

    return StoredHistory(store=HistoryStore(config.history_dir), roots=config.roots, calendar=calendar)


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
    from adapters.traderspost.router import WebhookRouter

    if config.webhook_url is not None:
        url = config.webhook_url.reveal()
    else:
        from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread

        # Paper mode without a URL: our own TradersPost, in the time that the session keeps.
        clock: Any = "request" if config.clock == "feed" else "system"
        url = stack.enter_context(LocalTradersPostThread(LocalTradersPost(clock=clock))).url
    router = WebhookRouter(url, is_live=config.mode == "live")
    log.info("orders go to", webhook=repr(router))
    return lambda: WebhookRouter(url, is_live=config.mode == "live")
