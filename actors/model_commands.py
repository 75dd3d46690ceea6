"""The group `models`: the veto's bundles. `main` adds it to its own.

Exit codes: 0 done, 1 a bundle is refused, not there or not promoted, 2 what was to be imported is not usable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from adapters.config import ModelPlaces

Command = Callable[..., None]


def _at(command: Command) -> Command:
    """Give the command the `places` that its options mean."""

    @click.option("--config", type=click.Path(path_type=Path), help="Default: as for live, else what comes with it.")
    @click.option("--overlay", type=click.Path(path_type=Path), multiple=True, help="Merged over the config, in order.")
    @click.option("--models-dir", type=click.Path(path_type=Path), help="Instead of the config's models_dir.")
    @wraps(command)
    def run(config: Path | None, overlay: tuple[Path, ...], models_dir: Path | None, **options: Any) -> None:
        from adapters.config import find_model_places
        from adapters.log import redact_tracebacks

        redact_tracebacks()
        command(places=find_model_places(config, overlay, os.environ, models_dir=models_dir), **options)

    return run


@click.group()
def models() -> None:
    """The veto's models: bundles in `models_dir`, shadows in `shadow_models_dir`."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per bundle.")
@_at
def list_(*, as_json: bool, places: ModelPlaces) -> None:
    """One line per bundle: used or why not, signal product, features, threshold, training window."""
    from actors.wiring.models import list_command

    list_command(places, as_json=as_json)


@models.command()
@click.argument("root")
@click.option("--shadow", is_flag=True, help="The one in shadow_models_dir.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_at
def show(*, root: str, shadow: bool, as_json: bool, places: ModelPlaces) -> None:
    """All of ROOT's bundle: features, threshold, training, metrics, digests. Exit 1 when there is none to show."""
    from actors.wiring.models import show_command

    sys.exit(show_command(places, root.upper(), is_shadow=shadow, as_json=as_json))


@models.command()
@click.argument("roots", nargs=-1)
@click.option("--estimator", is_flag=True, help="Also read the estimator (runs its pickle) and compare it.")
@_at
def verify(*, roots: tuple[str, ...], estimator: bool, places: ModelPlaces) -> None:
    """Check digests, features, forest and versions of ROOTS, or of all. Exit 0 when each may be used, else 1."""
    from actors.wiring.models import verify_command

    sys.exit(verify_command(places, [root.upper() for root in roots], with_estimator=estimator))


@models.command("import")
@click.argument("description", type=click.Path(path_type=Path))
@click.option("--pickle", type=click.Path(path_type=Path), help="The model. Reading it runs what it says.")
@click.option("--trust-pickle", is_flag=True, help="You know where it comes from. Needs --sha256.")
@click.option("--sha256", metavar="HEX", help="What the pickle's digest must be, from who gave it to you.")
@click.option("--signal-product", metavar="CODE", help="Whose bars it was trained on. Default: the full-size product.")
@click.option("--out", type=click.Path(path_type=Path), help="Directory for ROOT's bundle. Default: ./models-imported.")
@click.option("--replace", is_flag=True, help="Replace ROOT's bundle there; the old one is kept.")
def import_(*, description: Path, out: Path | None, **options: Any) -> None:
    """Make a bundle of the predecessor's DESCRIPTION (<ROOT>_best.json), with its pickled model or without.

    Without a model it can be looked at, and refuses entries.
    """
    from actors.wiring.models import ImportRequest, import_command
    from adapters.log import redact_tracebacks

    redact_tracebacks()
    out = (out or Path("models-imported")).absolute()
    import_command(ImportRequest(description=description, out=out, **options))


@models.command()
@click.argument("root")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Instead of the config's shadow_models_dir.")
@click.option("--journal-dir", type=click.Path(path_type=Path), help="Sessions to compare in. Default: the config's.")
@click.option("--dry-run", is_flag=True, help="Compare only.")
@click.option("--force", is_flag=True, help="Also when no session has scored both: such as to go back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_at
def promote(*, root: str, yes: bool, places: ModelPlaces, **options: Any) -> None:
    """Compare ROOT's shadow with its live bundle over recorded sessions, and put it in the live one's place.

    The old one is kept under `previous/` in models_dir. Exit 0 promoted (or compared), 1 not.
    """
    from actors.wiring.models import PromoteRequest, promote_command

    def confirm(text: str) -> bool:
        return yes or click.confirm(text, err=True)

    sys.exit(promote_command(places, PromoteRequest(root=root.upper(), confirm=confirm, **options)))
