"""One seed, one journal: whatever the threads, the network and the disk do meanwhile.

The market of these runs makes two actors answer one tick (a limit order expires on a
decision bar) and holds several requests with a rejection in one slice: without ranked
admission and one request at a time, these are the places where runs differ.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from journals import canonical, first_difference, sent_otherwise_than_recorded
from market import assert_replays, trial_session

from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    journal, accepted = trial_session(tmp_path_factory.mktemp("undisturbed"))
    assert sent_otherwise_than_recorded(journal, accepted) == ""
    return journal


def test_the_market_holds_what_would_show_a_race(undisturbed: Path) -> None:
    answers: dict[int, set[str]] = {}
    requests: Counter[int] = Counter()
    rejected = 0
    with JournalFile(undisturbed, Codec()) as journal:
        ticks = {e.seq for e in journal.envelopes(types={"ClockTicked"})}
        for envelope in journal.envelopes():
            if envelope.cause in ticks:
                answers.setdefault(envelope.cause, set()).add(envelope.source)
            if envelope.type == "OrderRequested" and envelope.cause is not None:
                requests[envelope.cause] += 1
            rejected += envelope.type == "OrderRejected"
    assert {"bars", "execution"} in answers.values(), "no tick was answered by two actors"
    assert max(requests.values()) >= 3, "no slice held several requests"
    assert rejected >= 1, "nothing was rejected"


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 2, 3))])
def test_random_pauses_everywhere_change_nothing(number: int, undisturbed: Path, tmp_path: Path) -> None:
    journal, _ = trial_session(tmp_path, "--jitter-ms", "3")
    assert first_difference(canonical(undisturbed), canonical(journal)) == ""
    assert_replays(journal)


def test_the_speed_of_the_feed_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    journal, _ = trial_session(tmp_path, speed="2000")
    assert first_difference(canonical(undisturbed), canonical(journal)) == ""
    assert_replays(journal)
