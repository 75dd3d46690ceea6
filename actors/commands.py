"""Commands to the running program, and about what it holds: `main` adds them to its own.

They go over the socket in the journal directory. A command that stops trading must not wait for imports: nothing here
touches `actors.wiring`, which loads all of the system.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

ANSWER_S = 40.0
"""Longer than the desk waits for a session, the disk and the machines."""
ENDS_S = 60.0

Command = Callable[..., None]


def _where(command: Command) -> Command:
    """Give the command the options that say which program is meant."""
    config = click.option("--config", type=click.Path(path_type=Path), help="Default: as for live, else ./journal.")
    directory = click.option("--journal-dir", type=click.Path(path_type=Path), help="Instead of a config's.")
    return config(directory(command))


def _at(command: Command) -> Command:
    """Give the command the journal `directory` of the program that its options mean."""

    @_where
    @functools.wraps(command)
    def run(config: Path | None, journal_dir: Path | None, **options: Any) -> None:
        command(directory=journal_directory(config, journal_dir), **options)

    return run


def journal_directory(config: Path | None, journal_dir: Path | None) -> Path:
    """The journal directory that `live` would use, else that of a demo in the working directory."""
    if journal_dir is not None:
        return journal_dir.absolute()
    from adapters.config import CONFIG_VARIABLE, find_config, find_journal_dir

    demo = Path.cwd() / "journal"
    is_named = config is not None or os.environ.get(CONFIG_VARIABLE, "").strip()
    if not is_named and not (Path.cwd() / "live.yml").is_file() and demo.is_dir():
        return demo
    return find_journal_dir(find_config(config, os.environ, Path.cwd()))


def _say(directory: Path, timeout_s: float = ANSWER_S, /, **request: Any) -> Mapping[str, Any]:
    """Send a command, print the answer's text."""
    from adapters.operator_socket import ask

    answer = ask(directory, request, timeout_s=timeout_s)
    click.echo("\n".join(answer.get("text", ())))
    return answer


def _confirm(what: str, *, is_sure: bool) -> None:
    """Ask on a terminal; elsewhere --yes must have been given."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        from domain.errors import OperatorError

        raise OperatorError(f"{what}: nobody is there to confirm it", fix="add --yes", exit_code=2)
    click.confirm(f"{what}?", abort=True)


_YES = click.option("--yes", is_flag=True, help="Do not ask.")


# ---------------------------------------------------------------- switches


@click.command()
@click.argument("root", default="")
@_at
def enable(root: str, directory: Path) -> None:
    """Allow entries, of ROOT or of all. Kept over sessions and crashes."""
    _say(directory, command="enable", argument=root)


@click.command()
@click.argument("root", default="")
@_at
def disable(root: str, directory: Path) -> None:
    """No entries, of ROOT or of all. Exits go on."""
    _say(directory, command="disable", argument=root)


@click.command()
@_at
def halt(directory: Path) -> None:
    """No new entries until `resume`. Exits go on."""
    _say(directory, command="halt")


@click.command()
@_at
def resume(directory: Path) -> None:
    """End `halt` and `kill`."""
    _say(directory, command="resume")


@click.command()
@click.argument("scope", type=click.Choice(["all"]), required=False)
@_YES
@_at
def kill(scope: str | None, yes: bool, directory: Path) -> None:
    """Stop entries, those already allowed too; with `all` exits as well: what is held then stays held."""
    if scope is not None:
        _confirm("kill all: no exit leaves either, positions stay open", is_sure=yes)
    _say(directory, command="kill", argument=scope or "")


@click.command()
@click.argument("root", default="")
@_YES
@_at
def flatten(root: str, yes: bool, directory: Path) -> None:
    """Close what is held in ROOT, or everywhere. Entries stay allowed: `halt` first if they should not."""
    if not root:
        _confirm("flatten everything", is_sure=yes)
    _say(directory, command="flatten", argument=root)


@click.command()
@click.argument("root")
@click.argument("side", type=click.Choice(["flat", "long", "short"]))
@click.argument("quantity", type=click.IntRange(1), required=False)
@click.option("--reason", required=True, help="Goes on record: how you know.")
@_at
def resolve(*, root: str, side: str, quantity: int | None, reason: str, directory: Path) -> None:
    """Say what the broker really holds in ROOT: `resolve ES flat`, `resolve ES long 2`. Nothing is sent."""
    if (side == "flat") != (quantity is None):
        raise click.UsageError("flat takes no quantity; long and short need one")
    signed = 0 if quantity is None else quantity if side == "long" else -quantity
    _say(directory, command="resolve", argument=root, quantity=signed, reason=reason)


@click.command()
@click.option("--flatten", "is_flatten", is_flag=True, help="Close everything first, and wait for it.")
@_YES
@_at
def stop(is_flatten: bool, yes: bool, directory: Path) -> None:
    """End the process in order, as SIGTERM does; open positions stay unless --flatten. Exit 1 if something is left."""
    from actors.operator import STOP_LIMIT_S
    from adapters.operator_socket import is_running

    if is_flatten:
        _confirm("flatten everything and stop", is_sure=yes)
    answer = _say(directory, STOP_LIMIT_S + ANSWER_S, command="stop", flatten=is_flatten)
    limit = time.monotonic() + ENDS_S
    while (is_there := is_running(directory)) and time.monotonic() < limit:
        time.sleep(0.1)
    click.echo("it is still ending" if is_there else "it has ended")
    sys.exit(1 if answer["left"] or is_there else 0)


# ---------------------------------------------------------------- looking


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_at
def status(as_json: bool, directory: Path) -> None:
    """How the running program stands: feed, switches, positions, orders, limits. Without one, how it stood last."""
    from adapters.operator_socket import ask
    from adapters.status_file import read_status
    from domain.errors import OperatorError

    exit_code = 0
    try:
        answer = ask(directory, {"command": "status"}, timeout_s=ANSWER_S)["status"]
    except OperatorError as error:
        left = read_status(directory)
        if left is None:
            raise
        answer, exit_code = left, error.exit_code
        how = "left in order" if not left["running"] else f"written by process {left['pid']}, which does not answer"
        click.echo(f"{error.what}; as it stood at {left['written']}, {how}:", err=True)
    click.echo(json.dumps(answer) if as_json else "\n".join(_status_words(answer)))
    sys.exit(exit_code)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_where
def positions(file: Path | None, as_json: bool, config: Path | None, journal_dir: Path | None) -> None:
    """What is held by the record, and how that is known: of FILE, else of the last session. Nothing has to run."""
    from actors.status import Status
    from domain.events import EVENT_TYPES

    path = file or _last_file(journal_directory(config, journal_dir))
    shown = Status()
    _fold(path, shown.fold, set(EVENT_TYPES) - {"TradesReceived"})
    found = shown.snapshot()
    rows = found["positions"]
    if as_json:
        click.echo(json.dumps({name: found[name] for name in ("session", "mode", "account", "time")} | {"rows": rows}))
        return
    click.echo(f"session {found['session']} ({found['mode']}, account {found['account']}), at {found['time']}")
    click.echo("\n".join(_position_words(rows)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--session", help="The session it is of (ISO date). Default: the last one on file.")
@click.option("--map", "columns", multiple=True, metavar="NAME=HEADER", help="Another column, as in price='Avg Price'.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of stamps that name none.")
@click.option("--dry-run", is_flag=True, help="Compare only; nothing goes on record.")
@_at
def reconcile(
    *, file: Path, session: str | None, columns: tuple[str, ...], zone: str, dry_run: bool, directory: Path
) -> None:
    """Compare a session's assumed fills with a CSV of TradersPost or Tradovate. Exit 1 when they differ."""
    from actors.reconcile import SessionFills
    from actors.reconcile import reconcile as compare
    from adapters.broker_csv import read_report
    from adapters.operator_socket import is_running

    assumed = SessionFills()
    _fold(
        _last_file(directory, session),
        assumed.fold,
        {"SessionOpened", "StateCarried", "OrderRequested", "OrderAmbiguous", "OrderExpired", "FillAssumed"},
    )
    report = read_report(file, _columns(columns), _zone(zone))
    result = compare(assumed, report)
    click.echo("\n".join(result.words()))
    if dry_run:
        click.echo("dry run: nothing was recorded")
    elif report.kind == "tradovate_positions":
        click.echo("positions confirm no fills: nothing was recorded")
    elif not is_running(directory):
        click.echo("no program is running here: nothing was recorded")
    else:
        _say(directory, **result.request())
    sys.exit(1 if result.differences else 0)


# ---------------------------------------------------------------- private


def _last_file(directory: Path, session: str | None = None) -> Path:
    from adapters.sqlite.journal import journal_entries
    from domain.errors import OperatorError

    entries = [entry for entry in journal_entries(directory) if session in (None, entry.session)]
    if not entries:
        raise OperatorError(
            f"no journal of session {session}" if session else "no journal",
            where=str(directory),
            fix="name another --journal-dir or --config",
            exit_code=2,
        )
    return entries[-1].path


def _fold(file: Path, fold: Callable[[Any], None], types: set[str]) -> None:
    """Every segment of the file's session, events of `types` only."""
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile, segments_of

    codec = Codec()
    for path in segments_of(file):
        with JournalFile(path, codec) as journal:
            for envelope in journal.envelopes(types=types):
                fold(envelope)


def _columns(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if any(not separator for _, separator, _ in pairs):
        raise click.UsageError("--map takes NAME=HEADER")
    return {name.strip(): header for name, _, header in pairs}


def _zone(name: str) -> Any:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise click.UsageError(f"--zone: {name!r} is no time zone; write one like America/Chicago") from None


def _status_words(found: Mapping[str, Any]) -> list[str]:
    feed, switches, limiter = found["feed"], found["switches"], found["limiter"]
    process = found.get("process")
    running = "" if process is None else f", up {process['uptime_s']:.0f} s, {process['backlog']} events not on disk"
    is_on = "enabled" if switches["enabled"] else "NOT ENABLED"
    disabled = f", not {', '.join(switches['disabled_roots'])}" if switches["disabled_roots"] else ""
    blocked = ", ".join(found["entries_blocked_by"])
    why = f" ({feed['reason']})" if feed["reason"] else ""
    lines = [
        f"session    {found['session']} segment {found['segment']}, {found['mode']}, account {found['account']}",
        f"time       {found['time']} ({found['clock']}), seq {found['seq']}{running}",
        f"feed       {feed['status']}{why}; last record {feed['last_record']}, bar {feed['last_bar']},"
        f" decision {feed['last_decision']}",
        *(f"stale      {root}: {why}; nothing that reads it is entered" for root, why in feed["stale_roots"].items()),
        f"entries    {f'kept away: {blocked}' if blocked else 'allowed'}",
        *(f"model      {root}: {note}" for root, notes in found.get("models", {}).items() for note in notes),
        f"switches   {is_on}{disabled}; {'HALTED' if switches['halted'] else 'not halted'}; kill {switches['kill']}",
        f"breaker    {found['breaker']}; limit reached: {found['tripped'] or 'none'}",
        f"messages   {limiter['last_minute']} of {limiter['per_minute']} in the last minute,"
        f" {limiter['last_hour']} of {limiter['per_hour']} in the last hour",
        f"P&L        {found['realised_pnl']} USD realised, {found['open_pnl']} USD open, both assumed",
        f"restarts   {', '.join(f'{actor} {count}' for actor, count in found['restarts'].items()) or 'none'}",
    ]
    if found["unreconciled"]:
        lines.append(f"to be reconciled: {', '.join(found['unreconciled'])}")
    lines += _position_words(found["positions"])
    for order in found["orders"]:
        following = f", next {order['next_try']}" if order["next_try"] else ""
        lines.append(
            f"order      {order['intent']} {order['side']} {order['quantity']} {order['contract']} ({order['reason']}):"
            f" {order['state']}, attempt {order['attempt']}{following}"
        )
    return lines if found["orders"] else [*lines, "orders     none open"]


def _position_words(rows: list[dict[str, Any]]) -> list[str]:
    words = []
    for row in rows:
        marks = "".join(f" {mark.upper()}" for mark in ("unknown", "unconfirmed") if row[mark])
        value = "" if row["pnl"] is None else f", {row['pnl']} USD at {row['last_price']}"
        words.append(
            f"position   {row['quantity']:+d} {row['contract']} ({row['root']}) from {row['price']}"
            f" since {row['since']}{marks}{value}; {row['known']}"
        )
    return words or ["positions  none"]


COMMANDS: tuple[click.Command, ...] = (
    enable,
    disable,
    halt,
    resume,
    kill,
    flatten,
    resolve,
    stop,
    status,
    positions,
    reconcile,
)
