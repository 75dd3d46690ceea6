"""The command line, and the only module that names adapters.

Everything heavy is imported inside the command that needs it: `--help` answers at once.
Exit codes: 0 done, 1 diverged or broken, 2 usage or unreadable, 69 feed unreachable,
70 safe stop, 75 try again, 78 configuration. What is said to a running program is in `actors.commands`.
"""

from __future__ import annotations

import difflib
import gc
import json
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from actors.backtest_commands import backtest
from actors.commands import COMMANDS
from actors.feature_commands import features
from actors.history_commands import history
from actors.journal_commands import journal
from actors.model_commands import models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domain.envelope import Envelope

EXIT_UNREADABLE = 2
PORT = click.IntRange(0, 65_535)
SEED = click.IntRange(0, 2**32 - 1)
COLLECT_AFTER = 100_000
"""New objects between two looks for garbage. What imports and a session make mostly stays: at Python's 700 the looking
is a tenth of a start's time."""
_FIX_UNREADABLE = (
    "check the path; a newer file needs the program that wrote it, a damaged one has to come back from a copy"
)
_FIX_BROKEN = "restore the file from a copy, or see what `journal repair` can keep"
_WRITE_FAILED = (
    "What was committed before is safe, and nothing was sent after it.\n"
    "  fix: see that the disk is there, writable and has space; the next start continues the session"
)


class _Group(click.Group):
    """Turns the project's errors into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from domain.errors import JournalBroken, JournalError, JournalWriteFailed, OperatorError

        try:
            return super().invoke(ctx)
        except OperatorError as error:
            _fail(str(error), error.exit_code)
        except JournalBroken as error:
            _fail(f"{error}\n  fix: trust nothing from seq {error.seq} on; {_FIX_BROKEN}", 1)
        except JournalError as error:
            _fail(f"{error}\n  fix: {_FIX_UNREADABLE}", EXIT_UNREADABLE)
        except JournalWriteFailed as error:
            _fail(f"{error}\n  {_WRITE_FAILED}", 70)


def _fail(message: str, exit_code: int) -> NoReturn:
    from adapters.secret import redact

    click.echo(f"error: {redact(message)}", err=True)
    sys.exit(exit_code)


@click.group(cls=_Group)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.pass_context
def cli(ctx: click.Context, log_level: str) -> None:
    """Rooney: futures trading whose every session replays bit for bit."""
    gc.set_threshold(COLLECT_AFTER)
    ctx.obj = log_level


# ---------------------------------------------------------------- live


@cli.command()
@click.option("--demo", is_flag=True, help="Simulated market and a local TradersPost: one session, about a minute.")
@click.option("--config", type=click.Path(path_type=Path), help="Default: $ROONEY_CONFIG, else ./live.yml.")
@click.option("--overlay", type=click.Path(path_type=Path), multiple=True, help="Merged over the config, in order.")
@click.option("--speed", help="Demo only: feed seconds per second, or max.")
@click.option("--until", help="Stop at this moment of feed time (ISO 8601 with zone).")
@click.option("--journal-dir", type=click.Path(path_type=Path), help="Instead of the config's journal_dir.")
@click.option("--seed", type=SEED, default=1, show_default=True, help="Seed of the simulated market.")
@click.option("--crash", multiple=True, metavar="ACTOR@SEQ", help="Crash this actor once, on purpose.")
@click.option(
    "--skip-poison",
    multiple=True,
    type=click.Choice(["bars", "strategy"]),
    help="Let this actor go on without an event of the market that crashes it each time; entries are then halted.",
)
@click.option("--jitter-ms", type=click.FloatRange(0, 1000), default=0.0, help="Random pauses in every actor: a trial.")
@click.pass_obj
def live(log_level: str, /, **options: Any) -> None:
    """Trade: the feed into the journal, decisions out to TradersPost."""
    from actors.wiring.live import LiveRequest, live_command

    sys.exit(live_command(LiveRequest(log_level=log_level, **options)))


@cli.command("golive-test")
@click.argument("contract")
@click.option("--config", type=click.Path(path_type=Path), help="Default: as for live.")
@click.option("--overlay", type=click.Path(path_type=Path), multiple=True)
@click.option("--price", required=True, help="The contract's last price: some brokers need it with the order.")
@click.option("--i-know-this-sends-an-order", is_flag=True, help="Without it: show the messages, send nothing.")
@click.option("--yes", metavar="CONTRACT", help="The contract once more, instead of typing it.")
@click.pass_obj
def golive_test(log_level: str, /, **options: Any) -> None:
    """Buy one CONTRACT (MESM4) in TradersPost's paper account, and sell it again."""
    from actors.wiring.golive import GoliveRequest, golive_command

    sys.exit(golive_command(GoliveRequest(log_level=log_level, **options)))


# ---------------------------------------------------------------- replay


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--until", type=click.IntRange(1), metavar="SEQ", help="Compare up to this seq (of the last segment).")
@click.option(
    "--models-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Score with these bundles, not the recorded ones.",
)
def replay(file: Path, as_json: bool, until: int | None, models_dir: Path | None) -> None:
    """Decide a recorded session again and compare. Exit 0 identical, 1 diverged, 2 unreadable."""
    from actors.wiring.reading import replay_command

    sys.exit(replay_command(file, as_json=as_json, until=until, models_dir=models_dir))


@cli.command()
@click.option("--seed", type=SEED, required=True, help="Draws everything; the same seed plays the same again.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="This seed and those after it.")
@click.option(
    "--faults", default="all", show_default=True, help="all, none, or some of http,process,actor,disk,feed,operator."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per scenario.")
def simulate(seed: int, count: int, faults: str, as_json: bool) -> None:
    """Play sessions with faults and crashes in one thread. Exit 0 all invariants held, 1 one did not."""
    from actors.wiring.simulate import simulate_command

    sys.exit(simulate_command(seed=seed, count=count, faults=faults, as_json=as_json))


# ---------------------------------------------------------------- training


@cli.command()
@click.argument("roots", nargs=-1, metavar="[ROOT]...")
@click.option("--data", type=click.Path(path_type=Path), multiple=True, metavar="FILE...", help="DBN or journals.")
@click.option("--demo", is_flag=True, help="On the simulated market, for the roots of the demo.")
@click.option("--config", type=click.Path(path_type=Path), help="Default: as for live, else the shipped settings.")
@click.option("--features", default="", metavar="NAME,NAME...", help="Default: the demo's, as far as the files go.")
@click.option("--grid", type=click.Choice(["one", "small", "wide"]), help="Forests to try. Default: small.")
@click.option("--search", type=click.Choice(["grid", "optuna"]), default="grid", show_default=True)
@click.option("--trials", type=click.IntRange(1), help="Forests that --search optuna tries. Default: 40.")
@click.option("--min-trades", type=click.IntRange(1), default=30, show_default=True, help="That a threshold leaves.")
@click.option("--leak-checks", type=click.IntRange(1), default=3, show_default=True, help="Runs on cut data, per root.")
@click.option("--force", is_flag=True, help="Write bundles that are not better than no veto too.")
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of the forests, and the demo's market.")
@click.option("--sessions", type=click.IntRange(10), default=120, show_default=True, help="Demo only: before its own.")
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path),
    help="For the bundles. Default: WORK_DIR/bundles; demo: models/bundles.",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    default="training",
    show_default=True,
    help="For the cards and what is finished.",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one per core.")
@click.option("--dask", metavar="ADDRESS", help="The workers of this Dask scheduler instead of processes here.")
def train(*, features: str, **options: Any) -> None:
    """Train the veto of each ROOT and report it on sessions that it has not seen.

    Exit 0 when every bundle was written, 1 when one was refused, 2 for data that will not do.
    """
    from actors.wiring.training import TrainRequest, train_command

    names = tuple(name.strip() for name in features.split(",") if name.strip())
    sys.exit(train_command(TrainRequest(features=names, **options)))


# ---------------------------------------------------------------- servers


@cli.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--simulate", is_flag=True, help="Serve the simulated market instead of files.")
@click.option("--port", type=PORT, default=0, help="0: any free port.")
@click.option("--speed", help="Feed seconds per second (1, 60, …), or max. Default 1.")
@click.option("--start-at", help="ISO moment with zone, or now (with --simulate: real time, round the clock).")
@click.option("--rebase", metavar="now", help="now: shift the files' stamps to the present, play them in real time.")
@click.option("--key", help="The one API key that is accepted; any, without it.")
@click.option("--seed", type=SEED, default=1, show_default=True)
@click.option("--session", default="2024-05-01", show_default=True, help="First simulated session.")
@click.option("--sessions", type=int, default=1, show_default=True, help="How many sessions in a row.")
@click.option("--trades", type=int, help="Simulated trades per session.")
@click.option("--faults", default="", help="For trials: fin@20000,rst@45000,restart@60000:3,duplicate:2 …")
@click.pass_obj
def gateway(log_level: str, /, **options: Any) -> None:
    """Serve recorded or simulated trades over Databento's live protocol, on loopback.

    FILE is DBN as Databento delivers it: trades, or bars (ohlcv-1s, -1m, -1h) that are turned into trades, and
    definitions beside them. All kinds of --faults: docs/gateway.md.
    """
    from actors.wiring.servers import gateway_command

    sys.exit(gateway_command(log_level, **options))


@cli.command()
@click.option("--port", type=PORT, default=0, help="0: any free port.")
@click.option("--uuid", default="demo", show_default=True)
@click.option("--password", default="demo", show_default=True)
@click.option("--clock", type=click.Choice(["system", "request"]), default="system", help="request: simulated time.")
@click.option("--unavailable", multiple=True, metavar="ROOT", help="A product that the broker account does not offer.")
@click.option("--fills", type=click.Choice(["signal", "feed"]), default="signal", help="feed: POST /__paper/price.")
@click.option(
    "--state", type=click.Path(path_type=Path, dir_okay=False), help="Keep ledger and positions in this file."
)
@click.option("--disabled", is_flag=True, help="The subscription takes signals and executes none.")
@click.option("--adds", is_flag=True, help="The subscription adds to a position.")
@click.option("--no-reversals", is_flag=True, help="The subscription only closes at a signal for the other side.")
@click.option("--sides", type=click.Choice(["both", "long", "short"]), default="both", help="Of the subscription.")
@click.option("--cancels-orders", is_flag=True, help="The subscription cancels working orders before every signal.")
@click.option(
    "--cancel-wait", type=click.FloatRange(0, 600), default=0.0, help="Seconds; the real one waits up to 120."
)
@click.option("--race", default="0", metavar="SECONDS|MIN-MAX", help="Execute after a delay drawn from this span.")
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of --race.")
@click.option("--faults", default="", help="For trials: hang@3, 429@exit*2, 500-after-accept@MES, random:0.2:7 ...")
@click.pass_obj
def traderspost(log_level: str, /, **options: Any) -> None:
    """Serve TradersPost's webhook on loopback: a paper broker with a ledger at /__paper/ledger."""
    from actors.wiring.servers import traderspost_command

    traderspost_command(log_level, **options)


# ---------------------------------------------------------------- journal


@journal.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--type", "type_", help="Only events of this type.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines (the default).")
def events(file: Path, type_: str | None, as_json: bool) -> None:  # JSON lines are the only form
    """Envelopes with their payloads; market batches by their counts."""
    from actors.report import event_line
    from domain.events import EVENT_TYPES

    if type_ is not None and type_ not in EVENT_TYPES:
        close = difflib.get_close_matches(type_, EVENT_TYPES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(sorted(EVENT_TYPES))}"
        _fail(f"--type: no event type is called {type_!r}\n  fix: {hint}", EXIT_UNREADABLE)
    for envelope in _envelopes(file, types=None if type_ is None else {type_}):
        payload = json.loads(envelope.raw) if isinstance(envelope.raw, str) else None
        click.echo(json.dumps(event_line(envelope, payload)))


@journal.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--root", help="Only this root.")
@click.option("--timeframe", type=click.Choice(["1m", "1h", "1d"]), default="1m", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header (the default).")
def bars(file: Path, root: str | None, timeframe: Any, as_csv: bool) -> None:  # CSV is the only form
    """Closed bars; prices are integers of 1e-9."""
    from actors.report import BAR_HEADER, bar_row
    from actors.report import bars as closed_bars

    closed = closed_bars(
        _envelopes(file, types={"SliceClosed"}), timeframe=timeframe, root=None if root is None else root.upper()
    )
    first = next(closed, None)  # before the header: an unreadable file prints nothing
    click.echo(",".join(BAR_HEADER))
    for bar in () if first is None else chain((first,), closed):
        click.echo(",".join(map(str, bar_row(bar))))


@journal.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON lines (the default).")
def decisions(file: Path, as_json: bool) -> None:  # JSON lines are the only form
    """One line per decision bar and root: IBS, every gate, verdict and reason."""
    from actors.report import decisions as decided

    for line in decided(_envelopes(file, types={"SignalEvaluated"})):
        click.echo(json.dumps(line))


@journal.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON lines (the default).")
def orders(file: Path, as_json: bool) -> None:  # JSON lines are the only form
    """One line per order with its state at the end of the file."""
    from actors.report import orders as placed

    for line in placed(_envelopes(file)):
        click.echo(json.dumps(line))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("root")
@click.argument("time")
def why(file: Path, root: str, time: str) -> None:
    """Why ROOT traded or did not at TIME (ISO 8601; UTC without a zone): the bar that ends then or holds it."""
    from actors.why import why as explain
    from actors.wiring import parse_time
    from actors.wiring.reading import nearest_flip

    lines = explain(
        _envelopes(file), root.upper(), parse_time(time, where="TIME"), nearest_flip=partial(nearest_flip, file)
    )
    if lines is None:
        _fail(f"{file}: no decision of {root} at {time}\n  fix: see `journal decisions {file} --json`", 1)
    click.echo("\n".join(lines))


def _envelopes(file: Path, types: set[str] | None = None) -> Iterator[Envelope]:
    from actors.wiring.reading import naming, open_segments

    for segment in open_segments(file):
        with naming(segment.path):
            yield from segment.envelopes(types=types)


# ---------------------------------------------------------------- config


@cli.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Default: as for live.")
@click.option("--overlay", type=click.Path(path_type=Path), multiple=True)
@click.option("--sources", is_flag=True, help="Where each value came from.")
def show(config_path: Path | None, overlay: tuple[Path, ...], sources: bool) -> None:
    """Every value that would be used; secrets are never shown."""
    from actors.wiring.reading import describe_config

    for key, value, source in describe_config(config_path, overlay):
        click.echo(f"{key:<36} {value:<40} {source}" if sources else f"{key:<36} {value}")


@cli.command()
@click.option("--at", metavar="DATE", help="As of this date. Default: the newest session on file.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Default: as for live, else ./journal.")
@click.option("--journal-dir", type=click.Path(path_type=Path), help="Instead of the config's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def contracts(at: str | None, config_path: Path | None, journal_dir: Path | None, as_json: bool) -> None:
    """Active and next contract of each root, days to the roll, last trade session, and why."""
    from actors.commands import journal_directory
    from actors.wiring.contracts import contracts_command
    from adapters.config import find_contract_map

    contract_map = find_contract_map(config_path)
    contracts_command(journal_directory(config_path, journal_dir), contract_map, at=at, as_json=as_json)


# ---------------------------------------------------------------- alerts


@cli.group()
def alerts() -> None:
    """Messages to the operator (ALERT_URLS)."""


@alerts.command("test")
@click.pass_obj
def alerts_test(log_level: str, /) -> None:
    """Send one message of each severity to each channel. Exit 0 when all were taken, else 69."""
    from actors.wiring.alerts import alerts_test_command

    sys.exit(alerts_test_command(log_level))


# ---------------------------------------------------------------- service


@cli.command("install-service")
@click.option("--print", "is_printed", is_flag=True, help="Print the systemd unit (the only thing it does).")
@click.option("--config", type=click.Path(path_type=Path), help="Default: as for live.")
@click.option("--user", help="Whom the service runs as. Default: you.")
def install_service(is_printed: bool, config: Path | None, user: str | None) -> None:
    """The systemd unit that runs `live` as a service: docs/deployment.md."""
    from actors.wiring.service import install_service_command

    if not is_printed:
        raise click.UsageError("this program changes nothing of the system: read what --print prints, then install it")
    install_service_command(config, user)


for command in (*COMMANDS, backtest, features, history, journal, models):
    cli.add_command(command)

if __name__ == "__main__":
    cli()
