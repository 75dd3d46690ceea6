"""What was done to a session file or to the program is found, and the first event that no longer fits is named.

Damage breaks the hash chain and is refused. A forgery has its chain made good: `replay` checks
that chain first, so whatever it reports here is what only deciding again could tell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from forgery import Forger, changed_program
from market import CHECKOUT, environment
from programs import Ended, assert_refused, run

from adapters.sqlite.codec import Codec
from domain.events import SessionClosed
from domain.units import Price

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety minutes of the demo: one decision of every root, five requests, four of them sent and filled."""
    directory = tmp_path_factory.mktemp("session")
    ended = run("live", "--demo", "--speed", "max", "--until", "2024-04-30T23:30Z", "--journal-dir", directory)
    assert ended.code == 0, ended
    return directory / "2024-05-01.db"


def replay(journal: Path, *arguments: str, program: Path = CHECKOUT) -> Ended:
    """`replay` of a file by the program in a checkout."""
    return run("replay", journal, *arguments, cwd=journal.parent, environ=environment(PYTHONPATH=str(program)))


def report(journal: Path, program: Path = CHECKOUT) -> dict[str, Any]:
    """`replay --json`, its exit code being the one that belongs to its verdict."""
    ended = replay(journal, "--json", program=program)
    (told,) = ended.lines()
    assert ended.code == (0 if told["identical"] else 1)
    return told


def divergence(forger: Forger, directory: Path) -> dict[str, Any]:
    """What a replay finds once the forger has made the chain good."""
    forger.rechain()
    found: dict[str, Any] = report(forger.save(directory))["divergence"]
    assert found, "nothing was found"
    return found


def test_a_file_that_was_written_again_as_it_was_is_clean_and_identical(session: Path, tmp_path: Path) -> None:
    """Without its forgeries the forger forges nothing: what the tests below find is what they did."""
    forger = Forger(session)
    head = dict(forger.head)
    forger.rechain()
    assert forger.head == head
    copy = forger.save(tmp_path)
    assert run("journal", "verify", copy).code == 0
    assert (report(copy)["identical"], report(copy)["code"]) == (True, "same")


# ---------------------------------------------------------------- a decision, edited

EDITS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ContractRolled": lambda event: {"difference": event.difference + 1},
    "SliceClosed": lambda event: {"minutes": event.minutes[1:]},
    "VetoScored": lambda event: {"probability": math.nextafter(event.probability, 1)},
    "SignalEvaluated": lambda event: {"ibs": event.ibs / 2, "verdict": "hold"},
    "OrderRequested": lambda event: {"quantity": event.quantity + 1},
    "RiskDecided": lambda event: {"is_allowed": not event.is_allowed},
    "OrderSubmitted": lambda event: {"body": event.body.replace("buy", "sell")},
    "FillAssumed": lambda event: {"price": Price(event.price + 1)},
}


@pytest.mark.parametrize("type_", EDITS)
def test_an_edited_decision_is_named_with_its_fields(type_: str, session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    row = forger.of(type_)[-1]
    truth, edit = row["payload"], EDITS[type_](forger.event(row))
    forger.change(row, **edit)
    damaged = forger.save(tmp_path / "damaged")
    assert_refused(replay(damaged), 2, str(damaged), f"seq {row['seq']}: the hash chain does not hold")
    found = divergence(forger, tmp_path / "forged")
    assert (found["seq"], found["type"], found["kind"]) == (row["seq"], type_, "differs")
    assert set(found["fields"]) == set(edit)
    assert (found["recorded"], found["replayed"]) == (json.loads(row["payload"]), json.loads(truth))


def test_the_same_values_in_other_bytes_are_another_payload(session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    row = forger.of("FillAssumed")[0]
    row["payload"] = row["payload"].replace(":", ": ", 1)
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["kind"], found["fields"]) == (row["seq"], "differs", [])


# ---------------------------------------------------------------- an input, edited


def dearer(forger: Forger) -> None:
    """The first trade of the session, one dollar dearer."""
    row = forger.of("TradesReceived")[0]
    trades = forger.event(row).trades.copy()
    trades["price"][0] += 10**9
    forger.change(row, trades=trades)


def unlive(forger: Forger) -> None:
    """The feed was not live."""
    forger.change(forger.of("FeedStatusChanged")[0], status="stale")


def tighter(forger: Forger) -> None:
    """The account was allowed a position less."""
    row = forger.of("SessionOpened")[0]
    risk = forger.event(row).risk
    forger.change(row, risk=attrs.evolve(risk, max_positions=risk.max_positions - 1))


@pytest.mark.parametrize(
    ("edit", "first", "fields"),
    [
        (dearer, ("SliceClosed", 0), ["minutes"]),
        (unlive, ("RiskDecided", 0), ["is_allowed", "rule", "detail"]),
        (tighter, ("RiskDecided", -1), ["is_allowed", "rule", "detail"]),
    ],
)
def test_of_an_edited_input_the_first_decision_that_no_longer_follows_is_named(
    edit: Callable[[Forger], None], first: tuple[str, int], fields: list[str], session: Path, tmp_path: Path
) -> None:
    forger = Forger(session)
    edit(forger)
    type_, place = first
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"], found["kind"]) == (forger.of(type_)[place]["seq"], type_, "differs")
    assert found["fields"] == fields


# ---------------------------------------------------------------- rows that are not where they were


def without_the_30th(forger: Forger) -> None:
    del forger.rows[29]


def renumbered_without_the_30th(forger: Forger) -> None:
    del forger.rows[29]
    for seq, row in enumerate(forger.rows, start=1):
        row["seq"] = seq


def exchanged(forger: Forger) -> None:
    forger.rows[39]["seq"], forger.rows[40]["seq"] = 41, 40


def without_the_end(forger: Forger) -> None:
    del forger.rows[300:]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_the_30th, "seq 30 is missing, 31 follows"),
        (renumbered_without_the_30th, "seq 30: the hash chain does not hold"),
        (exchanged, "seq 40: the hash chain does not hold"),
        (without_the_end, "the last event is 300"),
    ],
)
def test_damage_to_the_rows_is_refused_at_its_seq(
    damage: Callable[[Forger], None], said: str, session: Path, tmp_path: Path
) -> None:
    forger = Forger(session)
    damage(forger)
    damaged = forger.save(tmp_path)
    assert_refused(run("journal", "verify", damaged), 1, str(damaged), said)
    assert_refused(replay(damaged), 2, str(damaged), said)


def test_half_a_file_is_refused(session: Path, tmp_path: Path) -> None:
    damaged = Forger(session).save(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert_refused(replay(damaged), 2, str(damaged), "malformed")


@pytest.mark.parametrize("type_", ["SliceClosed", "SignalEvaluated", "FillAssumed"])
def test_a_decision_that_was_taken_out_is_named_with_its_cause(type_: str, session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    row = forger.of(type_)[0]
    forger.rows.remove(row)
    found = divergence(forger, tmp_path)
    assert (found["kind"], found["type"], found["seq"]) == ("not on record", type_, row["cause"])
    assert found["replayed"] == json.loads(row["payload"])


def test_of_an_answer_of_the_broker_that_was_taken_out_the_fill_is_named(session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    accepted = forger.of("OrderAccepted")[0]
    fill = next(row for row in forger.of("FillAssumed") if row["corr"] == accepted["corr"])
    forger.rows.remove(accepted)
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"], found["kind"]) == (fill["seq"], "FillAssumed", "not decided again")


def test_of_a_minute_that_was_taken_out_with_its_slice_the_next_slice_is_named(session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    tick = forger.of("ClockTicked")[10]
    forger.rows = [row for row in forger.rows if tick["seq"] not in (row["seq"], row["cause"])]
    after = forger.of("SliceClosed")[10]
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"], found["kind"]) == (after["seq"], "SliceClosed", "differs")
    assert found["fields"] == ["ts", "minutes"]


def test_an_event_that_can_no_longer_be_handled_is_named(session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    forger.rows.remove(forger.of("SymbolMapped")[0])
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"]) == (forger.of("TradesReceived")[0]["seq"], "TradesReceived")
    assert "its handling failed" in found["kind"]
    assert "came before its SymbolMapped" in found["kind"]


@pytest.mark.parametrize("type_", ["SignalEvaluated", "RiskDecided", "FillAssumed"])
def test_two_decisions_that_changed_places_are_out_of_order(type_: str, session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    one = forger.of(type_)[0]
    other = forger.rows[one["seq"]]
    assert (one["source"], one["cause"]) == (other["source"], other["cause"]), "these are no pair"
    forger.swap(one, other)
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"], found["kind"]) == (one["seq"], type_, "out of order")


# ---------------------------------------------------------------- what no replay can tell


def another_number(forger: Forger) -> None:
    """The broker's own number of an order."""
    forger.change(forger.of("OrderAccepted")[0], external_id="another")


def other_sequence_numbers(forger: Forger) -> None:
    """A column of the trades that no bar is made of."""
    row = forger.of("TradesReceived")[0]
    trades = forger.event(row).trades.copy()
    trades["sequence"] += 1
    forger.change(row, trades=trades)


def answers_exchanged(forger: Forger) -> None:
    """The order in which the broker answered for two roots."""
    forger.swap(*forger.of("OrderAccepted")[:2])


def an_earlier_end(forger: Forger) -> None:
    """An unfinished file as it was at an earlier moment."""
    del forger.rows[300:]
    forger.head["status"] = "open"


def without_its_last_answer(forger: Forger) -> None:
    """A machine's last decision in an unfinished file: it may not have been written yet."""
    forger.rows.remove(forger.of("SliceClosed")[-1])


def finished_after(forger: Forger, seq: int) -> None:
    """Called finished at an earlier end, with the event that says so."""
    end = forger.of("SessionStopped")[-1] | {"type": "SessionClosed"}
    closed = SessionClosed(events=seq, decisions=1, orders=1, head="")
    forger.rows[seq:] = [end | {"payload": Codec().encode(closed)}]
    forger.head["status"] = "closed"


def an_earlier_end_called_final(forger: Forger) -> None:
    """An earlier end at which nothing is owed, called finished."""
    finished_after(forger, forger.of("FillAssumed")[-1]["seq"])


@pytest.mark.parametrize(
    "edit",
    [
        another_number,
        other_sequence_numbers,
        answers_exchanged,
        an_earlier_end,
        without_its_last_answer,
        an_earlier_end_called_final,
    ],
)
def test_what_no_decision_depends_on_can_be_forged(
    edit: Callable[[Forger], None], session: Path, tmp_path: Path
) -> None:
    """The limit of all this: the record need only be one from which its decisions follow.

    What tells such a forgery is what the forger cannot reach: a copy elsewhere, or the next
    file's `previous_head` and `previous_file_sha256`.
    """
    forger = Forger(session)
    edit(forger)
    forger.rechain()
    assert forger.head["hash"] != Forger(session).head["hash"]
    assert report(forger.save(tmp_path))["identical"]


def test_a_file_that_is_only_called_finished_is_refused(session: Path, tmp_path: Path) -> None:
    """The head's status is hashed by nobody, but it is that of the last event."""
    forger = Forger(session)
    forger.head["status"] = "closed"
    damaged = forger.save(tmp_path)
    said = "the head says closed, the last event is SessionStopped"
    assert_refused(run("journal", "verify", damaged), 1, str(damaged), said)
    assert_refused(replay(damaged), 2, str(damaged), said)


def test_a_finished_file_must_hold_every_answer_to_its_last_event(session: Path, tmp_path: Path) -> None:
    forger = Forger(session)
    last = forger.of("ClockTicked")[-1]
    finished_after(forger, last["seq"])
    found = divergence(forger, tmp_path)
    assert (found["seq"], found["type"], found["kind"]) == (last["seq"], "SliceClosed", "not on record")


# ---------------------------------------------------------------- another program

REWRITES: dict[str, tuple[str, str, str, str, int, str]] = {
    "a bar's close": ("actors/bars.py", "close=Price(close)", "close=Price(open_)", "SliceClosed", 0, "minutes"),
    "the IBS": (
        "domain/ibs.py",
        "value, mirrored = (close - low)",
        "value, mirrored = (high - close)",
        "SignalEvaluated",
        0,
        "ibs",
    ),
    "the last bit of a score, as another library's sum would have it": (
        "models/forest.py",
        "probability=float(total) / self.n_trees",
        "probability=float(np.nextafter(float(total) / self.n_trees, 1))",
        "VetoScored",
        0,
        "probability",
    ),
    "the risk gate": (
        "domain/risk.py",
        "len(occupied) >= ",
        "len(occupied) + 1 >= ",
        "RiskDecided",
        -1,
        "is_allowed",
    ),
    "a message": (
        "adapters/traderspost/payload.py",
        "fixed_quantity",
        "percent_of_equity",
        "OrderSubmitted",
        0,
        "body",
    ),
    "a fill": ("domain/positions.py", "adverse = tick_size", "adverse = 2 * tick_size", "FillAssumed", 0, "price"),
}


@pytest.mark.parametrize("what", REWRITES)
def test_a_program_that_decides_otherwise_is_found_and_called_another(what: str, session: Path, tmp_path: Path) -> None:
    file, old, new, type_, place, field = REWRITES[what]
    program = changed_program(tmp_path / "program", file, (old, new))
    row = Forger(session).of(type_)[place]
    ended = replay(session, program=program)
    assert ended.code == 1
    first, where, *lines = ended.out.splitlines()
    assert first == "session 2024-05-01: DIVERGED"
    told = f"  first at seq {row['seq']} of 2024-05-01.db: {type_} from {row['source']}, cause {row['cause']}: differs"
    assert where == told
    assert any(line.startswith(f"    {field}: recorded ") for line in lines)
    assert lines[-1] == "  the decision code is not the one that recorded this session"


def test_another_default_is_another_program_but_the_settings_are_on_record(session: Path, tmp_path: Path) -> None:
    """With this one the demo would have entered elsewhere; a replay takes what the session was opened with."""
    change = ("entry_ibs_high: float = 0.2", "entry_ibs_high: float = 0.9")
    told = report(session, program=changed_program(tmp_path / "program", "domain/ibs.py", change))
    assert (told["identical"], told["code"]) == (True, "different")


# ---------------------------------------------------------------- a decision that looks at the world


def test_a_look_at_the_clock_is_named_with_the_event_in_whose_handling_it_fell(session: Path, tmp_path: Path) -> None:
    case = "case ClockTicked(ts=ts, watermark=watermark):\n"
    planted = (case, f"{case}                import time; time.time_ns()\n")
    told = report(session, program=changed_program(tmp_path / "program", "actors/bars.py", planted))
    found = told["divergence"]
    assert (found["seq"], found["type"]) == (Forger(session).of("ClockTicked")[0]["seq"], "ClockTicked")
    assert found["kind"] == "its handling touched the outside world: time.time_ns was called in a replay"
    assert told["code"] == "different"


def test_a_look_that_the_guard_cannot_see_differs_in_what_it_decides(session: Path, tmp_path: Path) -> None:
    """The guard replaces functions in their modules: one that was imported by name before is beyond it."""
    planted = changed_program(
        tmp_path / "program",
        "domain/positions.py",
        ("from decimal import Decimal\n", "from decimal import Decimal\nfrom time import time_ns\n"),
        ('ts=Nanos(int(trades["ts_recv"][index])), rule="next_trade"', 'ts=Nanos(time_ns()), rule="next_trade"'),
    )
    found = report(session, program=planted)["divergence"]
    assert (found["seq"], found["type"]) == (Forger(session).of("FillAssumed")[0]["seq"], "FillAssumed")
    assert (found["kind"], found["fields"]) == ("differs", ["ts"])
