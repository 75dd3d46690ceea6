"""Plugs the adapters into the actors: what each command of `main` runs.

Together with `main` the only place where actors and adapters meet. Here is what all commands
share; `live`, `in_process`, `servers`, `reading` and `training` are one command or kind each.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec

from actors.machines import MachineParts
from adapters.backtrader.engine import build_engine
from adapters.config import CHECKOUT
from adapters.traderspost.payload import build_payload
from domain.errors import OperatorError
from domain.sessions import to_nanos
from domain.units import Nanos
from domain.veto import VetoModel

VERSION = "0.1.0"
DECISION_CODE = (
    "domain",
    "actors/account.py",
    "actors/bars.py",
    "actors/closes.py",
    "actors/execution.py",
    "actors/holdings.py",
    "actors/machines.py",
    "actors/outbox.py",
    "actors/roll_supervisor.py",
    "actors/strategy.py",
    "adapters/backtrader",
    "adapters/traderspost/payload.py",
    "models/bundle.py",
    "models/compiled_walk.py",
    "models/forest.py",
    "models/manifest.py",
    "models/walk.py",
)
"""The files that a decision can depend on: their digest tells whether a file may be continued."""
LIBRARIES = ("attrs", "backtrader", "databento", "numpy", "pandas", "pykka", "scikit-learn")


def machine_parts(models: Mapping[str, VetoModel], shadows: Mapping[str, VetoModel] | None = None) -> MachineParts:
    """What the machines are built with; `models` by root, `shadows` beside them."""
    build = partial(build_engine, models=models, shadows=shadows or {})
    return MachineParts(build_engine=build, build_payload=build_payload)


MACHINE_PARTS = machine_parts({})
"""Without models: with `veto: true` nothing is entered."""


def code_digest(files: Sequence[str] = DECISION_CODE) -> str:
    """sha256 over the names and contents of files and of directories' modules, hex."""
    digest = hashlib.sha256()
    for name in files:
        place = CHECKOUT / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(CHECKOUT).as_posix()}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute.

    numba is one of them where it is installed: its machine code then computes the scores. Their bits are equal
    by test, but whoever looks for a divergence's reason has to see it, and a file is continued only by what began it.
    """
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
    if find_spec("numba") is not None:
        versions["numba"] = metadata.version("numba")
    return versions


def parse_time(text: str, *, where: str = "") -> Nanos:
    """An ISO 8601 moment, UTC without a zone. Raises OperatorError (exit 2), naming `where`, for anything else."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(
            f"{text!r} is no ISO 8601 time", where=where, fix="write it like 2024-05-01T14:00Z", exit_code=2
        ) from error
    return to_nanos(moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC))
