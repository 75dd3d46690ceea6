"""A configuration's document: its files merged, what its keys say, and what holds where a key says nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, cast

import attrs

from adapters.contract_map import ContractMap, load_contract_map
from adapters.environment import DEFAULT_FEEDS, FEEDS_VARIABLE, checked_feeds, feeds_from
from adapters.secret import refuse_secrets
from adapters.settings import read_strategy
from adapters.yaml_source import (
    YamlMap,
    YamlValue,
    as_choice,
    as_list,
    as_map,
    as_text,
    did_you_mean,
    merge,
    read_map,
    refuse,
)
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot

CHECKOUT = Path(__file__).resolve().parents[1]
"""The installed checkout: `Data/` is not part of a package."""
CONTRACT_MAP_FILE = CHECKOUT / "Data" / "Databento_contract_map.yml"
CALENDAR_OVERRIDES_FILE = CHECKOUT / "Data" / "calendar_overrides.yml"
MODELS_DIR = CHECKOUT / "models" / "bundles"
LIVE_PROTECTIVE_STOP = Decimal(2)
CONFIG_VARIABLE = "ROONEY_CONFIG"

_TOP_KEYS = (
    "mode",
    "account",
    "journal_dir",
    "emergency_dir",
    "contract_map",
    "definitions",
    "symbols",
    "required_reference_feeds",
    "models_dir",
    "shadow_models_dir",
    "history_dir",
    "feed",
    "clock",
    "execution",
    "strategy",
    "risk",
    "golive",
    "alerts",
)

Mode = Literal["paper", "live"]
MODES: tuple[Mode, ...] = ("paper", "live")


def read_checked(path: Path) -> YamlMap:
    """One file. Raises OperatorError (exit 78) for what is no YAML map, and for a secret in it."""
    document = read_map(path)
    refuse_secrets(document)
    return document


def read_merged(path: Path, overlays: Sequence[Path]) -> YamlMap:
    """The file under `overlays`, the last one on top. Raises OperatorError (exit 78), also for an unknown key."""
    document = read_checked(path)
    for overlay in overlays:
        document = merge(document, read_checked(overlay))
    document.refuse_unknown(_TOP_KEYS)
    return document


def section_of(document: YamlMap, key: str) -> YamlMap:
    """The map under `key`, empty where none is written."""
    value = document.get(key)
    return as_map(value) if value is not None else attrs.evolve(document, path=key, entries={}, keys_at={})


def choice(document: YamlMap, key: str, choices: Sequence[str], default: str) -> str:
    """One of `choices`."""
    value = document.get(key)
    return as_choice(value, choices) if value is not None else default


def mode_of(document: YamlMap) -> Mode:
    """Paper unless it says live."""
    return cast("Mode", choice(document, "mode", MODES, "paper"))


def path_at(document: YamlMap, key: str, default: Path) -> Path:
    """An absolute path; a relative one belongs to the file that names it."""
    value = document.get(key)
    return default if value is None else absolute(value.at.file.absolute().parent / Path(as_text(value)).expanduser())


def optional_path(document: YamlMap, key: str) -> Path | None:
    """The same, None where none is written."""
    return path_at(document, key, Path()) if document.get(key) is not None else None


def default_journal_dir(path: Path, mode: str) -> Path:
    """Each mode its own directory: live never shares one with paper or a demo."""
    return absolute(path).parent / "journal" / mode


def default_emergency_dir(path: Path, mode: str) -> Path:
    """Beside the configuration, and for each mode its own."""
    return absolute(path).parent / "emergency" / mode


def default_history_dir(path: Path) -> Path:
    """Bars are of the market: all modes and accounts share them."""
    return absolute(path).parent / "history"


def absolute(path: Path) -> Path:
    """Without following links."""
    return Path(os.path.abspath(path))


def find(document: YamlMap, key: str) -> YamlValue | None:
    """The value of a dotted key, when a file states it."""
    name, _, rest = key.partition(".")
    value = document.get(name)
    return value if not rest or value is None else find(as_map(value), rest)


def written(document: YamlMap, key: str) -> YamlValue:
    """The value of a dotted key for a message; the document when it is a default."""
    return find(document, key) or document


def strategy_of(document: YamlMap, mode: Mode, contract_map: ContractMap) -> StrategySettings:
    """With money, what is entered has a stop that does not need us, unless the file says otherwise."""
    traded = [root.root for root in contract_map.traded]
    protective_stop = LIVE_PROTECTIVE_STOP if mode == "live" else Decimal(0)
    return read_strategy(section_of(document, "strategy"), traded=traded, protective_stop=protective_stop)


def load_map(document: YamlMap, path: Path, environ: Mapping[str, str]) -> ContractMap:
    """The contract map in `path`. Raises OperatorError (exit 78) with file:line:column."""
    value = document.get("contract_map")
    if value is not None and not path.is_file():
        refuse(value, f"there is no file {path}", fix="a relative path starts at the file that names it")
    return load_contract_map(path, environ=environ)


def chosen_roots(document: YamlMap, contract_map: ContractMap) -> tuple[TradedRoot, ...]:
    """The named roots in the map's order (all traded without `symbols`), then every reference root."""
    value = document.get("symbols")
    if value is None:
        return contract_map.roots
    traded = [root.root for root in contract_map.traded]
    references = {root.root for root in contract_map.references}
    chosen: set[str] = set()
    for item in as_list(value):
        symbol = as_text(item)
        if symbol in references:
            refuse(item, f"{symbol} is a reference feed, not traded", fix="remove it: reference feeds are always read")
        if symbol not in traded:
            refuse(item, f"{symbol!r} is not a root of the contract map", fix=did_you_mean(symbol, traded))
        if symbol in chosen:
            refuse(item, f"{symbol} stands twice", fix="keep one of the two")
        chosen.add(symbol)
    if not chosen:
        refuse(value, "no symbol is named", fix="name at least one root, or remove the key to trade all")
    return tuple(root for root in contract_map.roots if root.is_reference or root.root in chosen)


def required_feeds(
    document: YamlMap | None, roots: Sequence[TradedRoot], environ: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The feeds, and where they are stated: the environment's, else the file's, else the default."""
    key, known = "required_reference_feeds", [root.root for root in roots]
    stated = feeds_from(environ, known)
    if stated is not None:
        return stated, {key: FEEDS_VARIABLE}
    value = document.get(key) if document is not None else None
    if value is None:
        # Of a map that does not read them too: then nothing is entered until it does, or the file says otherwise.
        return DEFAULT_FEEDS, {}
    names = [as_text(item) for item in as_list(value)]
    return checked_feeds(names, known, where=str(value.at)), {key: str(value.at)}
