"""The group `journal`: session files. `main` adds the commands that print their events."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def journal() -> None:
    """Look into session files, all segments of a session together; verify, repair and archive them."""


@journal.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check a session's FILE, or a directory with the links between its files. Exit 0 clean, 1 broken, 2 unreadable."""
    from actors.wiring.journals import verify_command

    sys.exit(verify_command(path))


@journal.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Path(path_type=Path), help="The new file. Default: FILE.recovered.db.")
@click.option("--replace", is_flag=True, help="Move FILE to quarantine/ and put the new file in its place.")
def repair(file: Path, target: Path | None, *, replace: bool) -> None:
    """Write what is provably good of FILE to a new file, and say what is missing. FILE is only read.

    Exit 0 when nothing is wrong or all was kept, else 1.
    """
    from actors.wiring.journals import repair_command

    if replace and target is not None:
        raise click.UsageError("--to or --replace, not both")
    sys.exit(repair_command(file, target, is_replacing=replace))


@journal.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("target")
@click.option(
    "--keep-sessions",
    type=click.IntRange(1),
    help="Then remove files of older sessions, each only after its copy was read back. Default: keep all.",
)
def archive(directory: Path, target: str, keep_sessions: int | None) -> None:
    """Copy a journal DIRECTORY's finished files, with their models, to TARGET: a directory or an fsspec URL.

    Every copy is read back and compared. The newest sealed file and what comes after it always stay.
    """
    from actors.wiring.journals import archive_command

    archive_command(directory, target, keep_sessions=keep_sessions)
