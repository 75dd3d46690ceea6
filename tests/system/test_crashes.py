"""Each actor crashed in mid-session, at every place where it matters: nothing is lost, doubled or decided otherwise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from journals import canonical, first_difference
from market import assert_replays, trial_session

from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    journal, _ = trial_session(tmp_path_factory.mktemp("undisturbed"))
    return journal


def restarts(journal: Path) -> Counter[str]:
    """How often each actor was restarted, by the record."""
    with JournalFile(journal, Codec()) as file:
        return Counter(e.payload.actor for e in file.envelopes(types={"ActorRestarted"}))


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


@pytest.mark.parametrize("place", PLANS)
def test_a_crash_changes_no_decision_and_sends_no_order_twice(place: str, undisturbed: Path, tmp_path: Path) -> None:
    plan, expected = PLANS[place]
    crashes = [argument for crash in plan.split() for argument in ("--crash", crash)]
    journal, accepted = trial_session(tmp_path, *crashes)
    assert first_difference(canonical(undisturbed), canonical(journal)) == ""
    assert max(accepted.values()) == 1
    assert restarts(journal) == expected
    assert_replays(journal)
