"""Every actor crashed at every event that it handles, one crash to a run: the same decisions and orders each time.

A run is the whole program inside this process: the real client over TCP, aiohttp to a local
TradersPost, SQLite on disk. It takes half a second, so that hundreds of runs are minutes.
"""

from __future__ import annotations

import logging
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
from in_this_process import envelopes, live_in_thread
from journals import Line, canonical, first_difference, not_decided_again, restarts, sent_otherwise_than_recorded
from market import KEY
from short_session import MARKET, PRODUCTS, REJECTED, STRATEGY, UNTIL

from actors.faults import Crash, Faults, InjectedCrash, Site
from actors.live import FOLLOWERS
from actors.machines import SUBSCRIBERS
from actors.wiring import parse_time
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayThread
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter
from domain.market import TRADE_DTYPE
from domain.ports import FeedConnection, FeedItem, FeedSource, Mapped, Records, ReplayCompleted
from domain.risk import RiskSettings
from domain.units import Nanos

pytestmark = pytest.mark.system

SITES: tuple[Site, ...] = ("before", "handled", "published")
FEED_PUBLISHES = frozenset({"SymbolMapped", "FeedStatusChanged", "TradesReceived", "ClockTicked"})
HANDLES = {**dict(SUBSCRIBERS), "feed": FEED_PUBLISHES}
"""What each actor can crash at: what it handles; the feed, what it publishes."""
CI_SAMPLE = 14
CALENDAR = CmeCalendar()


@attrs.frozen
class Run:
    """What a run leaves behind."""

    journal: Path
    accepted: dict[str, int]
    """By signal, how often TradersPost took it."""


def run(
    directory: Path,
    faults: Faults,
    *,
    gateway_faults: str = "",
    queue_limit: int = 65_536,
    watch: Callable[[FeedSource], FeedSource] = lambda source: source,
    until: str = UNTIL,
    exit_code: int = 0,
    **more: Any,
) -> Run:
    """The short session, with a gateway and a TradersPost of its own."""
    with (
        GatewayThread(Gateway(MARKET, keys=(KEY,), speed=MAX_SPEED, faults=gateway_faults)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request", unavailable_roots=(REJECTED,))) as server,
        live_in_thread(
            directory,
            port=gateway.port,
            key=KEY,
            calendar=CALENDAR,
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=tuple(PRODUCTS),
            faults=faults,
            risk=RiskSettings(max_positions=2),
            until_ns=parse_time(until),
            queue_limit=queue_limit,
            watch=watch,
            **STRATEGY,
            **more,
        ) as running,
    ):
        assert running.result().exit_code == exit_code
        accepted = {signal: record.accepted for signal, record in server.ledger().signals.items()}
    (journal,) = (directory / "journal").glob("*.db")
    return Run(journal, accepted)


def crash_points(journal: Path) -> list[Crash]:
    """Each actor at each event that it handles, the site going round with the event.

    But at the session's end: it is the last event, and nobody is supervised any more.
    """
    return [
        Crash(actor, envelope.seq, SITES[envelope.seq % len(SITES)])
        for envelope in envelopes(journal)
        for actor, kinds in HANDLES.items()
        if envelope.type in kinds and envelope.type != "SessionStopped"
    ]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of runs would say hundreds of times that an actor crashed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("pykka").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("pykka").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("undisturbed"), Faults())


def test_the_short_session_holds_what_a_crash_could_spoil(undisturbed: Run) -> None:
    record = envelopes(undisturbed.journal)
    crashes = crash_points(undisturbed.journal)
    events = len({crash.seq for crash in crashes})
    print(f"\n{len(crashes)} places to crash at {events} events of {len(record)}")
    assert events >= 300
    types = Counter(e.type for e in record)
    assert min(types[t] for t in ("OrderAccepted", "OrderRejected", "OrderExpired", "FillAssumed")) >= 5, types
    assert {e.payload.reason for e in record if e.type == "OrderRequested"} >= {"ibs", "stop", "bar_stop"}
    assert {e.payload.rule for e in record if e.type == "RiskDecided"} == {"", "max_positions"}
    assert {e.payload.rule for e in record if e.type == "FillAssumed"} == {"traded_through", "next_trade"}
    assert set(undisturbed.accepted.values()) == {0, 1, 2}
    assert sent_otherwise_than_recorded(undisturbed.journal, undisturbed.accepted) == ""


@pytest.mark.parametrize("number", range(5))
def test_random_pauses_do_not_change_a_byte(number: int, undisturbed: Run, tmp_path: Path) -> None:
    jittered = run(tmp_path, Faults(jitter_s=0.002))
    assert first_difference(canonical(undisturbed.journal), canonical(jittered.journal)) == ""
    heads = []
    for path in (undisturbed.journal, jittered.journal):
        with JournalFile(path, Codec()) as journal:
            heads.append(journal.head())
    assert heads[0] == heads[1]
    assert jittered.accepted == undisturbed.accepted


# ---------------------------------------------------------------- the sweep


def trouble(crash: Crash, undisturbed: Run, lines: list[Line], directory: Path) -> tuple[Run, str]:
    """Run with this crash; what was not as it should be."""
    faults = Faults([crash])
    crashed = run(directory, faults)
    record = envelopes(crashed.journal)
    places = [(e.payload.actor, e.payload.at_seq) for e in record if e.type == "ActorCrashed"]
    if faults.left or places != [(crash.actor, crash.seq)]:
        return crashed, f"it did not crash there: {places}"
    is_over = [e.type for e in record[-2:]] == ["ActorCrashed", "SessionStopped"]  # nobody needs it any more
    if restarts(crashed.journal) != dict.fromkeys((crash.actor, *FOLLOWERS.get(crash.actor, ())), 1) and not is_over:
        return crashed, f"it did not come back once: {restarts(crashed.journal)}"
    if crashed.accepted != undisturbed.accepted:
        return crashed, "TradersPost took other orders, or one twice"
    return crashed, first_difference(lines, canonical(crashed.journal))


def sweep(crashes: Sequence[Crash], undisturbed: Run, directory: Path, replayer: Executor) -> None:
    """One run for each crash, the replays beside them; what went wrong is told at the end."""
    lines = canonical(undisturbed.journal)
    found: list[tuple[Crash, str]] = []
    replays: list[tuple[Crash, Path, Future[str]]] = []
    for crash in crashes:
        where = directory / f"{crash.actor}-{crash.seq}-{crash.site}"
        crashed, what = trouble(crash, undisturbed, lines, where)
        found += [(crash, what)] if what else []
        replays.append((crash, where, replayer.submit(not_decided_again, crashed.journal)))
    for crash, where, replay in replays:
        what = replay.result(60)
        if what:
            found.append((crash, f"replay: {what}"))
        else:
            shutil.rmtree(where)
    counts = Counter((crash.actor, crash.site) for crash in crashes)
    events = len({crash.seq for crash in crashes})
    print(f"\n{len(crashes)} crashes at {events} events: {', '.join(f'{a} {s} {n}' for (a, s), n in counts.items())}")
    assert found == []


def test_a_crash_at_any_of_a_sample_of_places_changes_nothing(
    undisturbed: Run, replayer: Executor, tmp_path: Path
) -> None:
    crashes = crash_points(undisturbed.journal)
    of_roll = [crash for crash in crashes if crash.actor == "roll"]  # handles the opening events only
    others = [crash for crash in crashes if crash.actor != "roll"]
    chosen = random.Random(1).sample(others, CI_SAMPLE - len(of_roll))
    sweep([*of_roll, *chosen], undisturbed, tmp_path, replayer)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("actor", HANDLES)
def test_a_crash_at_every_event_that_an_actor_handles_changes_nothing(
    actor: str, undisturbed: Run, replayer: Executor, tmp_path: Path
) -> None:
    crashes = [crash for crash in crash_points(undisturbed.journal) if crash.actor == actor]
    sweep(crashes, undisturbed, tmp_path, replayer)


# ---------------------------------------------------------------- crashes while the gateway repeats


class Watched:
    """The real source and its connections; it sees whether the gateway repeats what it has sent before."""

    def __init__(self) -> None:
        self._source: FeedSource | None = None
        self._connection: FeedConnection | None = None
        self.connections = 0
        self.repeated = 0
        """Records taken from the second connection, the one after the loss, before its replay was over."""
        self.is_repeating = False

    def over(self, source: FeedSource) -> FeedSource:
        self._source = source
        return self

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        assert self._source is not None
        return self._source.resolve(symbols)

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> FeedConnection:
        assert self._source is not None
        self._connection = self._source.connect(raw_symbols, start_ns)
        self.connections += 1
        self._is_completed = False
        self.is_repeating = self.connections == 2
        return self

    def take(self, timeout_s: float) -> list[FeedItem]:
        assert self._connection is not None
        # One look may bring the whole replay and its end: what is made of it belongs to the replay.
        self.is_repeating = self.is_repeating and not self._is_completed
        items = self._connection.take(timeout_s)
        self._is_completed = any(isinstance(item, ReplayCompleted) for item in items)
        if self.is_repeating:
            self.repeated += sum(len(item.raw) // TRADE_DTYPE.itemsize for item in items if isinstance(item, Records))
        return items

    def close(self) -> None:
        assert self._connection is not None
        self._connection.close()


class CrashWhileRepeating(Faults):
    """The feed crashes at its `nth` publish while the gateway repeats records after a lost connection."""

    def __init__(self, watched: Watched, nth: int, site: Site) -> None:
        super().__init__()
        self._watched = watched
        self._nth = nth
        self._site = site

    def reach(self, actor: str, seq: int, site: Site) -> None:
        if actor == "feed" and site == self._site and self._watched.is_repeating:
            self._nth -= 1
            if self._nth == 0:
                raise InjectedCrash(f"planned crash of feed at {seq} ({site}), in a replay")


@pytest.mark.parametrize(
    "place",
    [("fin@5000", 1, "published"), ("rst@5000", 1, "handled"), ("rst@5000", 2, "before"), ("rst@5000", 3, "published")],
)
def test_a_feed_that_dies_while_the_gateway_repeats_loses_and_doubles_nothing(
    place: tuple[str, int, Site], undisturbed: Run, replayer: Executor, tmp_path: Path
) -> None:
    """Its first publish then says that the feed is live, the next ones are batches of repeated records."""
    lost, nth, site = place
    watched = Watched()
    crashed = run(
        tmp_path,
        CrashWhileRepeating(watched, nth, site),
        gateway_faults=lost,
        queue_limit=16,
        watch=watched.over,
    )
    assert watched.connections == 3, "one connection was lost, one died with the feed"
    assert nth == 1 or watched.repeated, "no batch of the replay had come"
    assert restarts(crashed.journal) == {"feed": 1}
    assert first_difference(canonical(undisturbed.journal), canonical(crashed.journal)) == ""
    assert crashed.accepted == undisturbed.accepted
    assert replayer.submit(not_decided_again, crashed.journal).result(60) == ""


class SlowToCatchUp(Faults):
    """Bars catch up when the feed has begun, or when half a second has shown that the feed waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.caught_up: list[str] = []
        self._has_begun = threading.Event()

    def reach(self, actor: str, seq: int, site: Site) -> None:
        if site != "catch_up":
            return
        if actor == "feed":
            self._has_begun.set()
        elif actor == "bars":
            self._has_begun.wait(0.5)
        self.caught_up.append(actor)


def test_the_feed_begins_when_the_last_machine_has_caught_up_also_one_that_owes_nothing(
    undisturbed: Run, tmp_path: Path
) -> None:
    """Before, its deadline is not known, and the market would pass it by."""
    run(tmp_path, Faults(), until="2024-04-30T22:20Z")
    faults = SlowToCatchUp()
    again = run(tmp_path, faults)
    assert set(faults.caught_up[:-1]) == {"roll", "bars", "strategy", "execution"}
    assert faults.caught_up[-1] == "feed"
    decided = [
        [e.raw for e in envelopes(each.journal, "SignalEvaluated", "OrderRequested")] for each in (undisturbed, again)
    ]
    assert decided[0] == decided[1]
