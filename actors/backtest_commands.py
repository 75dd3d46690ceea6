"""The command `backtest`. `main` adds it to its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--data", "data", required=True, multiple=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="")
@click.option("--root", "roots", multiple=True, metavar="ROOT", help="Trade this root only (may be repeated).")
@click.option(
    "--fills",
    type=click.Choice(["bars", "recorded"]),
    default="bars",
    show_default=True,
    help="bars: the next bar's open; recorded: as a session's journal has them.",
)
@click.option(
    "--slippage", type=click.IntRange(0, 100), default=1, show_default=True, help="Ticks against us, of market fills."
)
@click.option("--no-veto", is_flag=True, help="Trade every candidate, without the models.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with every trade.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a page (HTML) here.")
@click.option("--config", type=click.Path(path_type=Path), help="Default: as for live, else the shipped settings.")
@click.option("--overlay", type=click.Path(path_type=Path), multiple=True, help="Merged over the config, in order.")
@click.option(
    "--models-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Score with these bundles. Default: the config's; of a journal the recorded ones.",
)
def backtest(data: tuple[Path, ...], more: tuple[Path, ...], **options: Any) -> None:
    """Trade recorded bars with the live strategy, features and models, in a plain Cerebro.

    FILE is DBN (ohlcv-1m or trades, of several days and roots), a session's journal, or a directory of either.
    """
    from actors.wiring.backtest import BacktestRequest, backtest_command

    backtest_command(BacktestRequest(data=(*data, *more), **options))
