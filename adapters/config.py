"""The configuration of a live or paper session: one YAML file, overlays, the environment.

Maps merge key by key, lists and values replace; every value remembers where it came from
(`config show --sources`). Secrets come from elsewhere (`adapters.secret`) and are refused in these files.
What could lose money has no default: `account` must be written, `mode` is paper unless it says live, and
`mode: live` starts only with its limits and the operator's confirmation written out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import attrs

from adapters.config_checks import check_execution, check_start, is_loopback, latest_date
from adapters.config_file import (
    CALENDAR_OVERRIDES_FILE,
    CHECKOUT,
    CONFIG_VARIABLE,
    CONTRACT_MAP_FILE,
    MODELS_DIR,
    Mode,
    absolute,
    choice,
    chosen_roots,
    default_emergency_dir,
    default_history_dir,
    default_journal_dir,
    load_map,
    mode_of,
    optional_path,
    path_at,
    read_merged,
    required_feeds,
    section_of,
    strategy_of,
)
from adapters.config_places import (
    MarketPlaces,
    ModelPlaces,
    find_config,
    find_contract_map,
    find_journal_dir,
    find_market,
    find_model_places,
    find_service,
    shipped_market,
)
from adapters.contract_map import load_contract_map
from adapters.secret import (
    ALERTS_VARIABLE,
    DEAD_MAN_VARIABLE,
    KEY_VARIABLE,
    REDACTED,
    SECRET_VARIABLES,
    WEBHOOK_VARIABLE,
    Secret,
    secret_from,
)
from adapters.settings import (
    AlertSettings,
    FeedSettings,
    GoLive,
    read_alerts,
    read_feed,
    read_golive,
    read_risk,
)
from adapters.strategy_rows import source_of, strategy_rows
from adapters.yaml_source import (
    YamlMap,
    YamlValue,
    as_text,
)
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot
from domain.risk import RiskSettings

__all__ = [
    "CALENDAR_OVERRIDES_FILE",
    "CHECKOUT",
    "CONFIG_VARIABLE",
    "CONTRACT_MAP_FILE",
    "MODELS_DIR",
    "Config",
    "LoadedConfig",
    "MarketPlaces",
    "ModelPlaces",
    "config_digest",
    "demo_config",
    "describe",
    "find_config",
    "find_contract_map",
    "find_journal_dir",
    "find_market",
    "find_model_places",
    "find_service",
    "load_config",
    "shipped_market",
]

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
    required_reference_feeds: tuple[str, ...]
    """Such as `TLT_day`: without the last completed day bar of each nothing is entered."""
    shadow_models_dir: Path | None = None
    """Bundles that are scored and journaled beside those of `models_dir`, and never act."""
    definitions: Path | None = None
    emergency_dir: Path | None = None
    """Where the end of a session goes when the journal cannot be written; the demo has none."""
    history_dir: Path | None = None
    """Where stored history is; the demo makes its own."""
    golive: GoLive = GoLive()
    databento_key: Secret | None = None
    webhook_url: Secret | None = None
    alerts: AlertSettings = AlertSettings()
    alert_urls: Secret | None = None
    dead_man_url: Secret | None = None
    is_demo: bool = False


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration with the source of each value: `file:line:column`, by dotted key."""

    config: Config
    sources: Mapping[str, str]
    """Only keys that a file or a variable states; everything else is a default."""


def load_config(
    path: Path, overlays: Sequence[Path], environ: Mapping[str, str], *, today: dt.date | None = None
) -> LoadedConfig:
    """The configuration in `path` under `overlays`, the last one on top (YAML or JSON each).

    Relative paths belong to the file that names them; `today` judges the age of a confirmation.
    Raises OperatorError (exit 78) with file:line:column.
    """
    # Before anything is read that an error could quote.
    secrets = {name: secret_from(environ, name) for name in SECRET_VARIABLES}
    document = read_merged(path, overlays)
    check_execution(document)
    account = as_text(document.require("account", fix="write `account:` with the label of the account it trades"))
    mode = mode_of(document)
    clock = cast("ClockSource", choice(document, "clock", ("system", "feed"), "system"))
    map_path = path_at(document, "contract_map", CONTRACT_MAP_FILE)
    contract_map = load_map(document, map_path, environ)
    roots = chosen_roots(document, contract_map)
    feeds, feeds_source = required_feeds(document, roots, environ)
    config = Config(
        mode=mode,
        account=account,
        clock=clock,
        journal_dir=path_at(document, "journal_dir", default_journal_dir(path, mode)),
        emergency_dir=path_at(document, "emergency_dir", default_emergency_dir(path, mode)),
        models_dir=path_at(document, "models_dir", MODELS_DIR),
        shadow_models_dir=optional_path(document, "shadow_models_dir"),
        history_dir=path_at(document, "history_dir", default_history_dir(path)),
        contract_map=map_path,
        contract_map_digest=contract_map.digest,
        definitions=optional_path(document, "definitions"),
        feed=read_feed(section_of(document, "feed")),
        strategy=strategy_of(document, mode, contract_map),
        risk=read_risk(section_of(document, "risk")),
        roots=roots,
        required_reference_feeds=feeds,
        golive=read_golive(section_of(document, "golive")),
        databento_key=secrets[KEY_VARIABLE],
        webhook_url=secrets[WEBHOOK_VARIABLE],
        alerts=read_alerts(section_of(document, "alerts")),
        alert_urls=secrets[ALERTS_VARIABLE],
        dead_man_url=secrets[DEAD_MAN_VARIABLE],
    )
    check_start(config, document, contract_map, today or latest_date())
    sources = {**dict(_sources(document)), **contract_map.sources, **feeds_source}
    return LoadedConfig(config=config, sources=sources)


def demo_config(journal_dir: Path, environ: Mapping[str, str], *, contract_map: Path = CONTRACT_MAP_FILE) -> Config:
    """The demo: paper, simulated time, all roots of the map, no gateway yet (its port is found at start).

    A webhook URL is taken over only when it points to this machine; nobody is alerted.
    """
    roots = load_contract_map(contract_map, environ=environ)
    webhook_url = secret_from(environ, WEBHOOK_VARIABLE)
    if webhook_url is not None and not is_loopback(urlsplit(webhook_url.reveal()).hostname):
        webhook_url = None
    return Config(
        mode="paper",
        account="demo",
        clock="feed",
        journal_dir=absolute(journal_dir),
        models_dir=MODELS_DIR,
        contract_map=absolute(contract_map),
        contract_map_digest=roots.digest,
        feed=FeedSettings(),
        strategy=StrategySettings(),
        risk=RiskSettings(),
        roots=roots.roots,
        required_reference_feeds=required_feeds(None, roots.roots, environ)[0],
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
        "required_reference_feeds": config.required_reference_feeds,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=_decimal_text).encode()).hexdigest()


def describe(loaded: LoadedConfig) -> list[tuple[str, str, str]]:
    """(dotted key, value, source) for every value, secrets redacted, in the order of Data/live.example.yml."""
    config = loaded.config
    values: dict[str, object] = {
        "mode": config.mode,
        "account": config.account,
        "journal_dir": config.journal_dir,
        "emergency_dir": config.emergency_dir,
        "contract_map": config.contract_map,
        "definitions": config.definitions,
        "symbols": [root.root for root in config.roots if not root.is_reference],
        "required_reference_feeds": config.required_reference_feeds or "[]",
        "models_dir": config.models_dir,
        "shadow_models_dir": config.shadow_models_dir,
        "history_dir": config.history_dir,
        "clock": config.clock,
    }
    for section in ("feed", "strategy", "risk", "alerts", "golive"):
        if section == "strategy":
            values |= strategy_rows(config.strategy, loaded.sources)
            continue
        for key, value in attrs.asdict(getattr(config, section)).items():
            values[f"{section}.{key}"] = value
    for root in config.roots:
        if not root.is_reference:
            values[f"{root.root}.pair"] = root.pair
            values[f"{root.root}.commission_per_side"] = root.commission_per_side
    rows = [(key, _shown(value), source_of(key, loaded.sources)) for key, value in values.items()]
    secrets = {
        KEY_VARIABLE: config.databento_key,
        WEBHOOK_VARIABLE: config.webhook_url,
        ALERTS_VARIABLE: config.alert_urls,
        DEAD_MAN_VARIABLE: config.dead_man_url,
    }
    for name, secret in secrets.items():
        rows.append((name, "(not set)", "default") if secret is None else (name, REDACTED, secret.source))
    return rows


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
