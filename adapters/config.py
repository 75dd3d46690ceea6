"""The configuration of a live or paper session: one YAML file, overlays, the environment.

Maps merge key by key, lists and values replace; every value remembers where it came from
(`config show --sources`). Secrets come from the environment only and are refused in a file.
What could lose money has no default: `account` must be written, `mode` is paper unless it says live.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import attrs

from adapters.contract_map import ContractMap, load_contract_map
from adapters.secret import KEY_VARIABLE, REDACTED, WEBHOOK_VARIABLE, Secret, refuse_secrets, secret_from
from adapters.settings import FeedSettings, read_feed, read_risk, read_strategy
from adapters.yaml_source import (
    YamlList,
    YamlMap,
    YamlScalar,
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
from domain.errors import OperatorError
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot
from domain.risk import RiskSettings

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
    "contract_map",
    "symbols",
    "models_dir",
    "feed",
    "clock",
    "execution",
    "strategy",
    "risk",
)
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]|0\.0\.0\.0")

Mode = Literal["paper", "live"]
ClockSource = Literal["system", "feed"]


@attrs.frozen(kw_only=True)
class Config:
    """A configuration that may start. Paths are absolute; `roots` are the chosen ones and all reference roots."""

    mode: Mode
    account: str
    clock: ClockSource
    journal_dir: Path
    models_dir: Path
    contract_map: Path
    contract_map_digest: str
    feed: FeedSettings
    strategy: StrategySettings
    risk: RiskSettings
    roots: tuple[TradedRoot, ...]
    databento_key: Secret | None = None
    webhook_url: Secret | None = None
    is_demo: bool = False


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration with the source of each value: `file:line:column`, by dotted key."""

    config: Config
    sources: Mapping[str, str]
    """Only keys that a file states; everything else is a default."""


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


def load_config(path: Path, overlays: Sequence[Path], environ: Mapping[str, str]) -> LoadedConfig:
    """The configuration in `path` under `overlays`, the last one on top (YAML or JSON each).

    Relative paths belong to the file that names them. Raises OperatorError (exit 78) with file:line:column.
    """
    document = _read_checked(path)
    for overlay in overlays:
        document = merge(document, _read_checked(overlay))
    document.refuse_unknown(_TOP_KEYS)
    _check_execution(document)
    account = as_text(document.require("account", fix="write `account:` with the label of the account it trades"))
    mode = cast("Mode", _choice(document, "mode", ("paper", "live"), "paper"))
    clock = cast("ClockSource", _choice(document, "clock", ("system", "feed"), "system"))
    map_path = _path(document, "contract_map", CONTRACT_MAP_FILE)
    contract_map = _load_map(document, map_path, environ)
    config = Config(
        mode=mode,
        account=account,
        clock=clock,
        # Each mode its own directory: live never shares one with paper or a demo.
        journal_dir=_path(document, "journal_dir", _absolute(path).parent / "journal" / mode),
        models_dir=_path(document, "models_dir", MODELS_DIR),
        contract_map=map_path,
        contract_map_digest=contract_map.digest,
        feed=read_feed(_section(document, "feed")),
        strategy=_strategy(_section(document, "strategy"), mode),
        risk=read_risk(_section(document, "risk")),
        roots=_chosen_roots(document, contract_map),
        databento_key=secret_from(environ, KEY_VARIABLE),
        webhook_url=secret_from(environ, WEBHOOK_VARIABLE),
    )
    _check_start(config, document)
    return LoadedConfig(config=config, sources=dict(_sources(document)))


def demo_config(journal_dir: Path, environ: Mapping[str, str], *, contract_map: Path = CONTRACT_MAP_FILE) -> Config:
    """The demo: paper, simulated time, all roots of the map, no gateway yet (its port is found at start).

    A webhook URL is taken over only when it points to this machine.
    """
    roots = load_contract_map(contract_map, environ=environ)
    webhook_url = secret_from(environ, WEBHOOK_VARIABLE)
    if webhook_url is not None and not _is_loopback(urlsplit(webhook_url.reveal()).hostname):
        webhook_url = None
    return Config(
        mode="paper",
        account="demo",
        clock="feed",
        journal_dir=_absolute(journal_dir),
        models_dir=MODELS_DIR,
        contract_map=_absolute(contract_map),
        contract_map_digest=roots.digest,
        feed=FeedSettings(),
        strategy=StrategySettings(),
        risk=RiskSettings(),
        roots=roots.roots,
        webhook_url=webhook_url,
        is_demo=True,
    )


def config_digest(config: Config) -> str:
    """sha256 of everything in `config` that a decision can depend on, 64 hexadecimal digits.

    Not of directories, gateway, port or secrets: the same session may go on from another place.
    """
    decisive = {
        "mode": config.mode,
        "account": config.account,
        "clock": config.clock,
        "is_demo": config.is_demo,
        "strategy": attrs.asdict(config.strategy),
        "risk": attrs.asdict(config.risk),
        "roots": [attrs.asdict(root) for root in config.roots],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=_decimal_text).encode()).hexdigest()


def describe(loaded: LoadedConfig) -> list[tuple[str, str, str]]:
    """(dotted key, value, source) for every value, secrets redacted, in the order of Data/live.example.yml."""
    config = loaded.config
    values: dict[str, object] = {
        "mode": config.mode,
        "account": config.account,
        "journal_dir": config.journal_dir,
        "contract_map": config.contract_map,
        "symbols": [root.root for root in config.roots if not root.is_reference],
        "models_dir": config.models_dir,
        "clock": config.clock,
    }
    for section in ("feed", "strategy", "risk"):
        for key, value in attrs.asdict(getattr(config, section)).items():
            values[f"{section}.{key}"] = value
    rows = [(key, _shown(value), loaded.sources.get(key, "default")) for key, value in values.items()]
    for name, secret in ((KEY_VARIABLE, config.databento_key), (WEBHOOK_VARIABLE, config.webhook_url)):
        rows.append((name, "(not set)" if secret is None else REDACTED, "environment"))
    return rows


# ---------------------------------------------------------------- sections


def _read_checked(path: Path) -> YamlMap:
    document = read_map(path)
    refuse_secrets(document)
    return document


def _section(document: YamlMap, key: str) -> YamlMap:
    value = document.get(key)
    return as_map(value) if value is not None else attrs.evolve(document, path=key, entries={}, keys_at={})


def _strategy(section: YamlMap, mode: Mode) -> StrategySettings:
    """With money, what is entered has a stop that does not need us, unless the file says otherwise."""
    settings = read_strategy(section)
    if mode == "live" and not settings.bracket and section.get("protective_stop") is None:
        return attrs.evolve(settings, protective_stop=LIVE_PROTECTIVE_STOP)
    return settings


def _choice(document: YamlMap, key: str, choices: Sequence[str], default: str) -> str:
    value = document.get(key)
    return as_choice(value, choices) if value is not None else default


def _path(document: YamlMap, key: str, default: Path) -> Path:
    value = document.get(key)
    return default if value is None else _absolute(value.at.file.absolute().parent / Path(as_text(value)).expanduser())


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _load_map(document: YamlMap, path: Path, environ: Mapping[str, str]) -> ContractMap:
    value = document.get("contract_map")
    if value is not None and not path.is_file():
        refuse(value, f"there is no file {path}", fix="a relative path starts at the file that names it")
    return load_contract_map(path, environ=environ)


def _chosen_roots(document: YamlMap, contract_map: ContractMap) -> tuple[TradedRoot, ...]:
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


# ------------------------------------------------------------------ checks


def _check_execution(document: YamlMap) -> None:
    """Nothing of execution is configured in a file: its URL is a credential."""
    value = document.get("execution")
    if value is None:
        return
    why = f"remove it: the webhook's URL comes from the environment, {WEBHOOK_VARIABLE}"
    if isinstance(value, YamlList) or (isinstance(value, YamlScalar) and not value.is_null):
        refuse(value, "nothing of it stands in a file", fix=why)  # without the value: it may be a credential
    section = as_map(value)
    for key, key_at in section.keys_at.items():
        raise OperatorError(f"unknown key 'execution.{key}'", where=str(key_at), fix=why)


def _check_start(config: Config, document: YamlMap) -> None:
    """What no single value can tell: combinations that must not start."""
    if config.feed.gateway is None and config.databento_key is None:
        raise OperatorError(
            "not set, and without feed.gateway the market comes from Databento",
            where=KEY_VARIABLE,
            fix=f"set {KEY_VARIABLE}, or name a local gateway under `feed:`",
        )
    if config.mode != "live":
        return
    if config.clock == "feed":
        refuse(document.entries["clock"], "mode: live runs on the system's clock", fix="write `clock: system`")
    if _is_loopback(config.feed.gateway):
        gateway = as_map(document.entries["feed"]).entries["gateway"]
        refuse(
            gateway,
            "mode: live must not trade what a local gateway plays",
            fix="remove feed.gateway, or write mode: paper",
        )
    for name, secret in ((KEY_VARIABLE, config.databento_key), (WEBHOOK_VARIABLE, config.webhook_url)):
        if secret is None:
            raise OperatorError(
                "not set, and mode: live needs it", where=name, fix=f"set {name}, or write `mode: paper`"
            )


def _is_loopback(host: str | None) -> bool:
    return host is not None and _LOOPBACK.fullmatch(host.lower()) is not None


# ------------------------------------------------------------------- values


def _sources(value: YamlValue) -> list[tuple[str, str]]:
    if isinstance(value, YamlMap):
        return [pair for inner in value.entries.values() for pair in _sources(inner)]
    return [(value.path, str(value.at))]


def _decimal_text(value: Any) -> str:
    """Equal numbers as equal text: 1, 1.0 and 1.00 are one configuration."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    raise TypeError(f"{type(value).__name__} has no stable text")


def _shown(value: object) -> str:
    match value:
        case None:
            return "(none)"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ", ".join(str(item) for item in value)
        case _:
            return str(value)
