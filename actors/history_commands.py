"""The group `history`: bars before the first session, and after a pause. `main` adds it to its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from adapters.config import MarketPlaces

Command = Callable[..., None]


def _at(command: Command) -> Command:
    """Give the command the `places` that its options mean."""

    @click.option("--config", type=click.Path(path_type=Path), help="Default: $ROONEY_CONFIG, else ./live.yml.")
    @click.option("--overlay", type=click.Path(path_type=Path), multiple=True, help="Merged over the config, in order.")
    @wraps(command)
    def run(config: Path | None, overlay: tuple[Path, ...], **options: Any) -> None:
        from adapters.config import find_config, find_market
        from adapters.log import configure_logging, redact_tracebacks

        redact_tracebacks()
        configure_logging(click.get_current_context().find_root().obj, stream=sys.stderr)
        places = find_market(find_config(config, os.environ, Path.cwd()), overlay, os.environ)
        command(places=places, **options)

    return run


@click.group()
def history() -> None:
    """Bars that warm a session up: stored in `history_dir`, taken at a session's opening."""


@history.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the counts of each feature.")
@click.option("--at", help="As a session open then would find it (ISO 8601). Default: now.")
@_at
def status(*, as_json: bool, at: str | None, places: MarketPlaces) -> None:
    """What there is of each root, and what its model needs. Exit 0 when every model has its bars, else 1."""
    from actors.wiring.history import status_command

    sys.exit(status_command(places, at=at, as_json=as_json))


@history.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_at
def import_(*, files: tuple[Path, ...], places: MarketPlaces) -> None:
    """Take DBN FILES (trades, ohlcv-1m, ohlcv-1h; zstd or not) into the store."""
    from actors.wiring.history import import_command

    sys.exit(import_command(places, files))


def _usd(_: click.Context, __: click.Parameter, text: str | None) -> Decimal | None:
    try:
        amount = None if text is None else Decimal(text)
    except InvalidOperation as error:
        raise click.BadParameter("an amount in US dollars, such as 12.50") from error
    if amount is not None and not (amount.is_finite() and amount >= 0):
        raise click.BadParameter("an amount in US dollars, such as 12.50")
    return amount


@history.command()
@click.option("--root", multiple=True, help="Only this root; repeat it for more. Default: all that the config reads.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day, UTC. Default: 504 sessions back.")
@click.option("--days", type=click.IntRange(1, 3650), help="Instead of --since: this many days back.")
@click.option("--yes", is_flag=True, help="Do not ask; needs --max-cost.")
@click.option("--max-cost", callback=_usd, metavar="USD", help="Fetch nothing when it would cost more.")
@click.option("--minutes", is_flag=True, help="Minutes instead, for `train` and `backtest`; sessions use hours.")
@click.option("--gateway", metavar="URL", help="For trials: a server on this machine instead of Databento's.")
@_at
def fetch(*, since: Any, days: int | None, places: MarketPlaces, **options: Any) -> None:
    """Fetch bars that the store lacks from Databento, after showing what they cost."""
    from actors.wiring.history_fetch import FetchRequest, fetch_command

    if since is not None and days is not None:
        raise click.UsageError("--since or --days, not both")
    sys.exit(fetch_command(places, FetchRequest(since=since and since.date(), days=days, **options)))
