"""Where a configuration's things are, for commands that need neither its secrets nor that it may start."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from adapters.config_file import (
    CONFIG_VARIABLE,
    CONTRACT_MAP_FILE,
    MODELS_DIR,
    Mode,
    absolute,
    chosen_roots,
    default_emergency_dir,
    default_history_dir,
    default_journal_dir,
    load_map,
    mode_of,
    optional_path,
    path_at,
    read_checked,
    read_merged,
    required_feeds,
    strategy_of,
)
from adapters.contract_map import load_contract_map
from domain.errors import OperatorError
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot


def find_config(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """`--config`, else ROONEY_CONFIG, else ./live.yml. Raises OperatorError (exit 78) when there is none."""
    named = explicit or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE, "").strip() else None)
    if named is not None:
        return cwd / named.expanduser()
    if (cwd / "live.yml").is_file():
        return cwd / "live.yml"
    raise OperatorError(
        f"no configuration: {CONFIG_VARIABLE} is not set and there is no live.yml here",
        where=str(cwd),
        fix="try `live --demo`, which needs none; or copy Data/live.example.yml to live.yml, "
        f"name a file with --config, or set {CONFIG_VARIABLE}",
    )


def find_journal_dir(path: Path) -> Path:
    """Only where the journal of a configuration is: what is said to a running program needs none of its secrets.

    Raises OperatorError (exit 78) with file:line:column.
    """
    document = read_checked(path)
    return path_at(document, "journal_dir", default_journal_dir(path, mode_of(document)))


def find_service(path: Path) -> tuple[Mode, tuple[Path, ...]]:
    """The mode of the configuration in `path` and the directories that `live` writes to; its secrets are not needed.

    Raises OperatorError (exit 78) with file:line:column.
    """
    document = read_checked(path)
    mode = mode_of(document)
    journal_dir = path_at(document, "journal_dir", default_journal_dir(path, mode))
    return mode, (journal_dir, path_at(document, "emergency_dir", default_emergency_dir(path, mode)))


@attrs.frozen(kw_only=True)
class MarketPlaces:
    """What of a configuration says which history is wanted, and where it is."""

    roots: tuple[TradedRoot, ...]
    strategy: StrategySettings
    mode: Mode
    journal_dir: Path
    models_dir: Path
    history_dir: Path
    required_reference_feeds: tuple[str, ...]
    are_feeds_stated: bool
    """The file or the environment names them; else they are the default."""


def find_market(path: Path, overlays: Sequence[Path], environ: Mapping[str, str]) -> MarketPlaces:
    """What the history commands need of a configuration: none of its secrets, and not that it may start.

    Raises OperatorError (exit 78) with file:line:column.
    """
    document = read_merged(path, overlays)
    mode = mode_of(document)
    contract_map = load_map(document, path_at(document, "contract_map", CONTRACT_MAP_FILE), environ)
    feeds, stated = required_feeds(document, contract_map.roots, environ)
    return MarketPlaces(
        roots=chosen_roots(document, contract_map),
        strategy=strategy_of(document, mode, contract_map),
        mode=mode,
        journal_dir=path_at(document, "journal_dir", default_journal_dir(path, mode)),
        models_dir=path_at(document, "models_dir", MODELS_DIR),
        history_dir=path_at(document, "history_dir", default_history_dir(path)),
        required_reference_feeds=feeds,
        are_feeds_stated=bool(stated),
    )


def shipped_market(environ: Mapping[str, str]) -> MarketPlaces:
    """What comes with the program, where there is no configuration: its contract map, settings and bundles."""
    roots = load_contract_map(CONTRACT_MAP_FILE, environ=environ).roots
    here = Path.cwd() / "live.yml"
    feeds, stated = required_feeds(None, roots, environ)
    return MarketPlaces(
        roots=roots,
        strategy=StrategySettings(),
        mode="paper",
        journal_dir=default_journal_dir(here, "paper"),
        models_dir=MODELS_DIR,
        history_dir=default_history_dir(here),
        required_reference_feeds=feeds,
        are_feeds_stated=bool(stated),
    )


@attrs.frozen(kw_only=True)
class ModelPlaces:
    """Where a configuration's bundles are, and what they are held against."""

    mode: Mode
    roots: tuple[TradedRoot, ...]
    """All of the contract map: `symbols` does not matter here."""
    strategy: StrategySettings
    models_dir: Path
    shadow_models_dir: Path | None
    journal_dir: Path


def find_model_places(
    explicit: Path | None, overlays: Sequence[Path], environ: Mapping[str, str], *, models_dir: Path | None = None
) -> ModelPlaces:
    """The places of the configuration that `live` would find, else what comes with the program.

    `models_dir` instead of the configuration's. Raises OperatorError (exit 78) with file:line:column.
    """
    if explicit is None and not environ.get(CONFIG_VARIABLE, "").strip() and not (Path.cwd() / "live.yml").is_file():
        return ModelPlaces(
            mode="paper",
            roots=load_contract_map(CONTRACT_MAP_FILE, environ=environ).roots,
            strategy=StrategySettings(),
            models_dir=absolute(models_dir or MODELS_DIR),
            shadow_models_dir=None,
            journal_dir=Path.cwd() / "journal",
        )
    path = find_config(explicit, environ, Path.cwd())
    document = read_merged(path, overlays)
    mode = mode_of(document)
    contract_map = load_map(document, path_at(document, "contract_map", CONTRACT_MAP_FILE), environ)
    return ModelPlaces(
        mode=mode,
        roots=contract_map.roots,
        strategy=strategy_of(document, mode, contract_map),
        models_dir=absolute(models_dir) if models_dir is not None else path_at(document, "models_dir", MODELS_DIR),
        shadow_models_dir=optional_path(document, "shadow_models_dir"),
        journal_dir=path_at(document, "journal_dir", default_journal_dir(path, mode)),
    )


def find_contract_map(explicit: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The contract map that `live` would use: of the configuration it would find, else the shipped one.

    Raises OperatorError (exit 78) with file:line:column.
    """
    if explicit is None and not environ.get(CONFIG_VARIABLE, "").strip() and not (Path.cwd() / "live.yml").is_file():
        return CONTRACT_MAP_FILE
    document = read_checked(find_config(explicit, environ, Path.cwd()))
    return path_at(document, "contract_map", CONTRACT_MAP_FILE)
