"""`contracts`: the newest session's contracts and rolls, without the network."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import attrs
import click

from actors.contract_table import HEADER, contract_rows
from actors.wiring.reading import naming, open_segments
from adapters.calendar import CmeCalendar
from adapters.config import CALENDAR_OVERRIDES_FILE
from adapters.contract_map import load_contract_map
from adapters.sqlite.journal import journal_entries
from domain.errors import OperatorError

_WANTED = {"SessionOpened", "StateCarried", "RollDue"}


def contracts_command(directory: Path, contract_map: Path, *, at: str | None, as_json: bool) -> None:
    """Print the table as of `at` (an ISO date), or of the newest session. Raises OperatorError (exit 2)."""
    date = None if at is None else _date(at)
    entries = [e for e in journal_entries(directory) if date is None or e.session <= date.isoformat()]
    if not entries:
        raise OperatorError(
            "no session on file" if date is None else f"no session on file up to {date}",
            where=str(directory),
            fix="run `live` (or `live --demo`) once, or name the journal with --journal-dir",
            exit_code=2,
        )
    newest = entries[-1]
    date = date or dt.date.fromisoformat(newest.session)
    roots = {root.root: root for root in load_contract_map(contract_map).roots}
    envelopes = (envelope for segment in open_segments(newest.path) for envelope in segment.envelopes(types=_WANTED))
    with naming(newest.path):
        rows = contract_rows(envelopes, roots, CmeCalendar(CALENDAR_OVERRIDES_FILE), date)
    if as_json:
        told = {"at": str(date), "session": newest.session, "rows": [attrs.asdict(row) for row in rows]}
        click.echo(json.dumps(told, default=str))
        return
    click.echo(f"as of {date}, from session {newest.session} ({newest.path.name}) and {contract_map.name}")
    table = [HEADER, *(row.words() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADER))]
    for line in table:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(f"{text!r} is no date", where="--at", fix="write YYYY-MM-DD", exit_code=2) from error
