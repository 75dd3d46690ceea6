"""The live system run inside the test, so that a test can choose its parts: real client, real HTTP, real files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from actors.alerts import Alerts
from actors.faults import Crash, Faults
from actors.health import Health
from actors.live import LiveParts, LiveResult, run_live
from actors.machines import MachineParts
from actors.opening import LivePlan, Opener
from actors.warm_up import ExtendHistory, as_left
from actors.wiring import MACHINE_PARTS, VERSION, code_digest
from adapters.config import CONTRACT_MAP_FILE
from adapters.contract_map import load_contract_map
from adapters.databento.gateway import HOST
from adapters.databento.live import DatabentoSource
from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile
from domain.envelope import Envelope
from domain.events import HistoryLoaded
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot
from domain.ports import Calendar, FeedSource, Webhook
from domain.risk import RiskSettings
from domain.units import Nanos


@cache
def traded_roots(path: Path = CONTRACT_MAP_FILE) -> tuple[TradedRoot, ...]:
    """Read once: a test may run the program hundreds of times."""
    return load_contract_map(path).roots


class LiveInThread:
    """`run_live` in a thread; `stop` ends it in order and gives its result."""

    def __init__(self, run: Callable[[threading.Event], LiveResult]) -> None:
        self._stopping = threading.Event()
        self._result: LiveResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run: Callable[[threading.Event], LiveResult]) -> None:
        try:
            self._result = run(self._stopping)
        except BaseException as error:
            self._error = error
            raise

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self, limit_s: float = 120.0) -> LiveResult:
        """Wait for the end."""
        self._thread.join(limit_s)
        assert self._error is None, self._error
        assert self._result is not None, "the run did not end in time"
        return self._result

    def stop(self, limit_s: float = 60.0) -> LiveResult:
        self._stopping.set()
        return self.result(limit_s)


@contextmanager
def live_in_thread(
    directory: Path,
    *,
    port: int,
    key: str,
    calendar: Calendar,
    make_webhook: Callable[[], Webhook],
    roots: tuple[str, ...],
    contract_map: Path = CONTRACT_MAP_FILE,
    clock: Any = "feed",
    mode: Any = "paper",
    crashes: tuple[Crash, ...] = (),
    faults: Faults | None = None,
    risk: RiskSettings | None = None,
    alerts: Alerts | None = None,
    queue_limit: int = 65_536,
    until_ns: Nanos | None = None,
    now: Callable[[], Nanos] = lambda: Nanos(time.time_ns()),
    source: FeedSource | None = None,
    watch: Callable[[FeedSource], FeedSource] = lambda source: source,
    extend_history: ExtendHistory = as_left,
    universe: tuple[TradedRoot, ...] | None = None,
    emergency_dir: Path | None = None,
    health: Health | None = None,
    machine_parts: MachineParts = MACHINE_PARTS,
    skip_poison: tuple[str, ...] = (),
    config_digest: str = "",
    **strategy: Any,
) -> Iterator[LiveInThread]:
    """Run live over loopback with chosen parts until the block ends."""
    chosen = tuple(root for root in universe or traded_roots(contract_map) if root.root in roots)
    plan = LivePlan(
        mode=mode,
        is_demo=False,
        account="in-this-process",
        clock=clock,
        seed=1,
        roots=chosen,
        strategy=StrategySettings(**{"veto": False, "warmup_bars": 0, "pivot_gate": False, **strategy}),
        risk=risk or RiskSettings(),
        version=VERSION,
        code_digest=code_digest(),
        config_digest=config_digest,
        libraries={},
        until_ns=until_ns,
        skip_poison=skip_poison,
    )
    codec = Codec()
    journals = SqliteJournals(directory / "journal", codec, emergency_dir=emergency_dir)
    client = DatabentoSource(
        key=key, dataset="GLBX.MDP3", gateway=HOST, port=port, heartbeat_interval_s=5, queue_limit=queue_limit
    )
    source = watch(source or client)
    parts = LiveParts(
        journals=journals,
        codec=codec,
        source=source,
        make_webhook=make_webhook,
        machine_parts=machine_parts,
        now=now,
        faults=faults or Faults(crashes),
        alerts=alerts,
        health=health or Health(),
    )
    opener = Opener(
        plan=plan,
        journals=journals,
        calendar=calendar,
        source=source,
        parts_of=lambda opened: machine_parts,
        load_history=lambda session: HistoryLoaded(tables=()),
        now=parts.now,
        extend_history=extend_history,
    )
    running = LiveInThread(
        lambda stopping: run_live(
            plan=plan, parts=parts, opener=opener, stopping=stopping, on_session=lambda path, tally: None
        )
    )
    try:
        yield running
    finally:
        if running.is_running:
            running.stop()
        journals.release()


def envelopes(path: Path, *types: str) -> list[Envelope]:
    """What is on file now."""
    with JournalFile(path, Codec()) as journal:
        return list(journal.envelopes(types=set(types) if types else None))


def await_envelopes(
    path: Path, wanted: Callable[[list[Envelope]], bool], limit_s: float, *types: str
) -> list[Envelope]:
    """Read the file until `wanted` holds of its events of `types`."""
    end = time.monotonic() + limit_s
    while True:
        found = envelopes(path, *types) if path.exists() else []
        if wanted(found):
            return found
        assert time.monotonic() < end, f"not on file within {limit_s:.0f} s: {[e.type for e in found[-5:]]}"
        time.sleep(0.5)
