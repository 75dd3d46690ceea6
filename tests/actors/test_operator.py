"""The desk: what becomes of a request, and what is refused before anything is on record."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from actors.carry import fresh_state
from actors.commands import _status_words
from actors.main import cli
from actors.operator import OperatorDesk
from actors.sequencer import Sequencer
from actors.status import Status
from adapters.memory import MemoryJournal
from domain.errors import OperatorError
from domain.events import CommandReceived, FeedStatusChanged, FillConfirmed, SessionReconciled
from domain.units import Nanos
from domain.veto import ModelRecord
from tests.builders import CODEC, PRICE, START, Record, opened_session, traded_root

GOLDEN = Path(__file__).parents[1] / "replay" / "sessions" / "crashed" / "2024-05-01.db"


class Office:
    """A desk, and a session without machines: nothing is owed, everything is durable at once."""

    def __init__(self) -> None:
        self.journal, self.status, self.stops = MemoryJournal(), Status(), 0
        self.desk = OperatorDesk(self.stop, patience_s=0.2)
        self.sequencer = Sequencer(
            writer=self.journal, codec=CODEC, subscribers=(), is_simulated=True, now=lambda: Nanos(0)
        )
        self.sequencer.observe(self.status.fold)
        roots = (traded_root("ES"), traded_root("NQ"), traded_root("ZN", is_reference=True))
        self.sequencer.publish(opened_session(roots=roots), source="session", ts=START)

    def stop(self) -> None:
        self.stops += 1

    def attend(self) -> None:
        self.desk.attend(self.sequencer, self.status, lambda: 7)

    def ask(self, command: str, argument: str = "", **fields: Any) -> Any:
        return self.desk.handle({"command": command, "argument": argument, **fields})

    def recorded(self) -> list[Any]:
        return [e.payload for e in self.journal.envelopes() if e.source == "operator"]


@pytest.fixture
def office() -> Office:
    office = Office()
    office.attend()
    return office


def test_status_says_what_is_to_be_known_of_a_model() -> None:
    said, status = ("stop_pct 1 in training, 2 now",), Status()
    models = (
        ModelRecord(root="ES", digest="ab" * 32, threshold=0.5, otherwise=said),
        ModelRecord(root="GC", refusal="side", detail="trained on long entries, and GC enters both"),
        ModelRecord(root="NQ", digest="cd" * 32, threshold=0.5),
    )
    status.fold(Record().put(opened_session(models=models), ts=START))
    found = status.snapshot()
    assert found["models"] == {"ES": list(said), "GC": ["refused (side): trained on long entries, and GC enters both"]}
    words = _status_words(found)
    assert f"model      ES: {said[0]}" in words
    assert sum(line.startswith("model ") for line in words) == 2


@pytest.mark.parametrize(
    ("mode", "session", "blocks"),
    [
        ("live", "2024-04-27", ["not enabled", "to be reconciled: 2024-04-27"]),
        ("live", "2024-04-28", ["not enabled"]),
        ("paper", "2024-04-27", []),
    ],
)
def test_status_names_the_session_that_was_not_reconciled_in_time(mode: str, session: str, blocks: list[str]) -> None:
    record, status = Record(), Status()
    status.fold(record.put(opened_session(mode=mode), ts=START))
    status.fold(record.put(attrs.evolve(fresh_state(), unreconciled=("2024-04-30", session))))
    status.fold(record.put(FeedStatusChanged(status="live", reason="subscribed")))
    assert status.blocks() == blocks
    status.fold(record.put(SessionReconciled(session=session, source="r.csv", fills=1, differences=0)))
    assert status.blocks() == [block for block in blocks if session not in block]


def test_positions_of_a_file_need_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROONEY_CONFIG", raising=False)
    result = CliRunner().invoke(cli, ["positions", str(GOLDEN)])
    assert (result.exit_code, result.output.splitlines()[0]) == (
        0,
        "session 2024-05-01 (paper, account system-test), at 2024-05-01T21:00:00Z",
    )


def test_a_command_is_one_event_and_the_answer_names_it_and_what_it_left(office: Office) -> None:
    answer = office.ask("disable", "es")
    assert office.recorded() == [CommandReceived(command="disable", argument="ES")]
    assert (answer["seq"], answer["switches"]["disabled_roots"]) == (2, ["ES"])
    assert answer["text"] == [
        "seq 2: disable ES",
        "entries are kept away: the feed is not live",
        "roots not enabled: ES",
    ]


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        ({"command": "enable", "argument": "EE"}, "'EE' is no root of this session\n  fix: did you mean ES"),
        ({"command": "flatten", "argument": "ZN"}, "'ZN' is no root of this session"),
        ({"command": "flatten", "argument": ["ES"]}, "is no text"),
        ({"command": "kill", "argument": "ES"}, "kill takes no 'ES'"),
        ({"command": "halt", "argument": "ES"}, "halt takes no 'ES'"),
        ({"command": "sell", "argument": "ES"}, "unknown command 'sell'"),
        ({}, "unknown command None"),
        ({"command": "resolve", "argument": "ES", "quantity": 1.0, "reason": "x"}, "a whole number"),
        ({"command": "resolve", "argument": "ES", "quantity": 1, "reason": " "}, "and a reason"),
        (
            {"command": "reconcile", "fills": [{}], "differences": 0, "session": "s", "source": "s"},
            "no.* reconciliation",
        ),
    ],
)
def test_what_is_refused_leaves_no_event(office: Office, request_: dict[str, Any], what: str) -> None:
    with pytest.raises(OperatorError, match=what) as refused:
        office.desk.handle(request_)
    assert refused.value.exit_code == 2
    assert office.recorded() == []


def test_what_no_machine_has_resolved_is_not_called_resolved(office: Office) -> None:
    with pytest.raises(OperatorError, match="seq 2: nothing was resolved") as refused:
        office.ask("resolve", "ES", quantity=1, reason="seen")
    assert refused.value.exit_code == 1


def test_nothing_follows_the_end_of_a_session(office: Office) -> None:
    office.desk.leave()
    with pytest.raises(OperatorError, match="no session is open") as refused:
        office.ask("kill")
    assert refused.value.exit_code == 75
    assert office.recorded() == []


def test_between_two_sessions_a_command_waits_for_the_next_one() -> None:
    office = Office()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(office.ask("kill", "all")))
    asking.start()
    time.sleep(0.02)
    office.attend()
    asking.join()
    assert answers[0]["switches"]["kill"] == "all"


def test_stop_is_on_record_before_the_process_is_told(office: Office) -> None:
    assert office.ask("stop")["left"] == []
    assert office.ask("stop", flatten=True)["text"][-1] == "nothing is held, no order is open"
    assert (office.stops, [event.argument for event in office.recorded()]) == (2, ["", "flatten"])


def test_a_stop_that_could_close_nothing_is_refused(office: Office) -> None:
    office.ask("kill", "all")
    with pytest.raises(OperatorError, match="kill all keeps exits back"):
        office.ask("stop", flatten=True)
    assert office.stops == 0
    office.ask("stop")
    assert office.stops == 1


def test_a_reconciliation_is_its_fills_and_one_event(office: Office) -> None:
    fill = {"root": "ES", "signal_id": "entry-1", "quantity": 1, "price": PRICE, "assumed": None}
    office.ask("reconcile", session="2024-05-01", source="r.csv", fills=[fill], differences=3)
    assert office.recorded() == [
        FillConfirmed(root="ES", signal_id="entry-1", quantity=1, price=PRICE, assumed=None, source="r.csv"),
        SessionReconciled(session="2024-05-01", source="r.csv", fills=1, differences=3),
    ]


def test_status_is_the_fold_and_the_process(office: Office) -> None:
    found = office.ask("status")["status"]
    assert (found["session"], found["seq"], found["process"]["backlog"]) == ("2024-05-01", 1, 7)
    assert found["entries_blocked_by"] == ["the feed is not live"]
