"""Each actor crashed in mid-session, at every place where it matters: nothing is lost, doubled or decided otherwise."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from in_this_process import envelopes, live_in_thread
from journals import canonical, first_difference, restarts, sent_otherwise_than_recorded
from market import KEY, assert_replays, trial_session

from actors.faults import Crash
from actors.wiring import parse_time
from adapters.calendar import CmeCalendar
from adapters.databento.gateway import MAX_SPEED, Gateway, GatewayRequest, GatewayThread, build_source
from adapters.databento.market_simulator import SimulatedMarket
from adapters.traderspost.local_server import LocalTradersPost, LocalTradersPostThread
from adapters.traderspost.router import WebhookRouter

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    journal, _ = trial_session(tmp_path_factory.mktemp("undisturbed"))
    return journal


# Feed: at its first publish from SEQ on. Roll handles the opening events only.
PLANS = {
    "before handling": (
        "roll@1 bars@300 strategy@420 execution@500 feed@360",
        {"roll": 1, "bars": 1, "strategy": 1, "execution": 1, "feed": 1},
    ),
    "after handling": (
        "roll@1:handled bars@330:handled strategy@450:handled execution@520:handled feed@280:handled",
        {"roll": 1, "bars": 1, "strategy": 1, "execution": 1, "feed": 1},
    ),
    "after publishing": (
        "roll@1:published bars@310:published strategy@430:published execution@510:published feed@370:published",
        {"roll": 1, "bars": 1, "strategy": 1, "execution": 1, "feed": 1},
    ),
    "in the catch-up after a crash": (
        "bars@300 bars@200:catch_up strategy@420 strategy@250:catch_up execution@500 execution@260:catch_up "
        "feed@380 feed@300:catch_up",
        {"bars": 2, "strategy": 2, "execution": 2, "feed": 2},
    ),
    "two at the same place": (
        "bars@400 bars@400 strategy@401 strategy@401 execution@402 execution@402 feed@403 feed@403",
        {"bars": 2, "strategy": 2, "execution": 2, "feed": 2},
    ),
}


# Single crashes after handling and after publishing are in the sample of test_crash_sweep.
@pytest.mark.parametrize(
    "place",
    [pytest.param(p, marks=pytest.mark.soak if p in ("after handling", "after publishing") else ()) for p in PLANS],
)
def test_a_crash_changes_no_decision_and_sends_no_order_twice(place: str, undisturbed: Path, tmp_path: Path) -> None:
    plan, expected = PLANS[place]
    crashes = [argument for crash in plan.split() for argument in ("--crash", crash)]
    journal, accepted = trial_session(tmp_path, *crashes)
    assert first_difference(canonical(undisturbed), canonical(journal)) == ""
    assert sent_otherwise_than_recorded(journal, accepted) == ""
    assert Counter(e.payload.actor for e in envelopes(journal, "ActorCrashed")) == expected
    assert all(restarts(journal)[actor] >= expected[actor] for actor in expected), "strategy is renewed with bars too"
    assert_replays(journal)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(60))
def test_crashes_at_random_places_change_nothing(seed: int, undisturbed: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    actors = chance.sample(("bars", "strategy", "execution", "feed"), chance.randint(1, 4))
    sites = ("before", "handled", "published")
    plan = [f"{actor}@{chance.randrange(1, 1100)}:{chance.choice(sites)}" for actor in actors]
    journal, accepted = trial_session(tmp_path, *(argument for crash in plan for argument in ("--crash", crash)))
    assert first_difference(canonical(undisturbed), canonical(journal)) == "", plan
    assert sent_otherwise_than_recorded(journal, accepted) == ""
    assert_replays(journal)


def test_a_feed_that_dies_with_a_full_queue_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """A closed queue must let its producer go: all clients of the process share one loop thread."""
    source, _ = build_source(GatewayRequest(simulate=True, trades_per_session=60_000))
    until = parse_time("2024-05-01T01:00:00Z")
    with (
        GatewayThread(Gateway(source, keys=(KEY,), speed=MAX_SPEED)) as gateway,
        LocalTradersPostThread(LocalTradersPost(clock="request")) as server,
        live_in_thread(
            tmp_path,
            port=gateway.port,
            key=KEY,
            calendar=CmeCalendar(),
            make_webhook=lambda: WebhookRouter(server.url, is_live=False),
            roots=("ES", "NQ", "GC"),
            crashes=(Crash("feed", 100), Crash("feed", 200, "published"), Crash("feed", 300)),
            queue_limit=16,
            until_ns=until,
        ) as running,
    ):
        assert running.result().exit_code == 0
    (journal,) = (tmp_path / "journal").glob("*.db")
    ids = {e.payload.instrument_id for e in envelopes(journal, "SymbolMapped")}
    market = SimulatedMarket(1, trades_per_session=60_000).session_trades(dt.date(2024, 5, 1))
    sent = market[np.isin(market["instrument_id"], sorted(ids)) & (market["ts_recv"] < until)]
    recorded = np.concatenate([e.payload.trades for e in envelopes(journal, "TradesReceived")])
    assert np.array_equal(recorded, sent)
    assert restarts(journal) == {"feed": 3}
    assert_replays(journal)
