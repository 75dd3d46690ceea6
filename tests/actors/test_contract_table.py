"""What `contracts` shows, from a record and the map."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from actors.carry import fresh_state
from actors.contract_table import ContractRow, contract_rows
from actors.main import cli
from adapters.calendar import CmeCalendar
from adapters.sqlite.journal import file_name
from domain.envelope import Envelope
from domain.errors import JournalUnreadable
from domain.events import RollDue
from domain.instruments import HELD_RANK, ResolvedContract
from domain.rolls import ContractVolume
from tests.builders import Record, opened_session, session_of, traded_root, write_journal

CALENDAR = CmeCalendar()
AT = dt.date(2024, 6, 10)
CONTRACTS = (
    ResolvedContract(root="ES", rank=0, raw_symbol="ESM4"),
    ResolvedContract(root="ES", rank=1, raw_symbol="ESU4"),
    ResolvedContract(root="ES", rank=HELD_RANK, raw_symbol="ESH4"),
    ResolvedContract(root="NQ", rank=0, raw_symbol=None),
    ResolvedContract(root="NQ", rank=1, raw_symbol=None),
)
VOLUMES = (ContractVolume(contract="ESM4", volume=7), ContractVolume(contract="ESU4", volume=5))
DUE = RollDue(
    root="ES", from_contract="ESM4", to_contract="ESU4", rule="volume", evidence="more", policy="close", close_ns=None
)


def record(*rolls: RollDue) -> list[Envelope]:
    written = Record()
    roots = (traded_root("ES"), traded_root("NQ", is_reference=True))
    for event in (
        opened_session(session=session_of("ES", "NQ"), contracts=CONTRACTS, mappings=CONTRACTS[:1], roots=roots),
        attrs.evolve(fresh_state(), volumes=VOLUMES),
        *rolls,
    ):
        written.put(event)
    return written.envelopes


def rows(*rolls: RollDue, at: dt.date = AT, **map_says: Any) -> list[ContractRow]:
    return contract_rows(record(*rolls), {"ES": traded_root("ES", **map_says)}, CALENDAR, at)


def test_a_root_is_shown_with_its_dates_and_the_rules_evidence() -> None:
    es, nq = (row.words() for row in rows())
    assert es == ("ES", "ESM4", "ESU4", "2024-06-18", "8", "close", "vendor: ES.v.0 is ESM4; also held: ESH4")
    assert nq == ("NQ", "-", "-", "not known", "-", "-", "vendor: not resolved")


def test_the_map_says_how_it_will_roll() -> None:
    (es, _) = rows(roll_rule="volume", roll_policy="hold_until_exit", last_trade_sessions=(("ESM2024", "2024-06-12"),))
    assert (es.policy, es.rule, es.days_to_roll) == ("hold_until_exit", "volume", 2)
    assert es.evidence == "contracts in the session before: ESU4 5, ESM4 7"
    (es, _) = rows(roll_rule="calendar", roll_sessions_before=7)
    assert es.days_to_roll == 2


def test_a_roll_that_is_due_is_told_by_its_own_evidence() -> None:
    assert rows(DUE)[0].words()[4:] == ("next open", "close", "volume: more; also held: ESH4")
    into_nothing = attrs.evolve(DUE, to_contract=None)
    assert rows(into_nothing)[0].words()[4] == "8"
    of_the_held = attrs.evolve(DUE, from_contract="ESH4", to_contract="ESM4")
    assert rows(of_the_held)[0].words()[4] == "8"


def test_a_date_after_the_last_trade_session_is_past() -> None:
    assert rows(at=dt.date(2024, 6, 19))[0].words()[4] == "past"


def test_a_file_without_a_session_is_no_table() -> None:
    with pytest.raises(JournalUnreadable):
        contract_rows([], {}, CALENDAR, AT)


# ---------------------------------------------------------------- the command


def asked(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["contracts", "--journal-dir", str(directory), *arguments])


def test_the_command_reads_the_newest_session_up_to_a_date(tmp_path: Path) -> None:
    write_journal(tmp_path / file_name("2024-05-01", 1), record())
    write_journal(tmp_path / file_name("2024-05-01", 2), record(DUE))
    shown = asked(tmp_path).output.splitlines()
    assert shown[0] == "as of 2024-05-01, from session 2024-05-01 (2024-05-01.2.db) and Databento_contract_map.yml"
    assert shown[1].split()[:3] == ["root", "active", "next"]
    assert "next open" in shown[2]
    told = json.loads(asked(tmp_path, "--at", "2024-05-02", "--json").output)
    assert (told["at"], told["session"], told["rows"][0]["active"]) == ("2024-05-02", "2024-05-01", "ESM4")


@pytest.mark.parametrize(("at", "what"), [("2024-04-30", "up to 2024-04-30"), ("soon", "'soon' is no date")])
def test_what_cannot_be_shown_is_refused_with_a_way_out(tmp_path: Path, at: str, what: str) -> None:
    write_journal(tmp_path / file_name("2024-05-01", 1), record())
    refused = asked(tmp_path, "--at", at)
    assert refused.exit_code == 2
    assert what in refused.output
    assert "fix:" in refused.output
