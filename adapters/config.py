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
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import attrs

from adapters.contract_map import ContractMap, load_contract_map
from adapters.environment import DEFAULT_FEEDS, FEEDS_VARIABLE, checked_feeds, feeds_from
from adapters.products import VERIFIED_CALENDARS
from adapters.secret import (
    ALERTS_VARIABLE,
    DEAD_MAN_VARIABLE,
    KEY_VARIABLE,
    REDACTED,
    SECRET_VARIABLES,
    WEBHOOK_VARIABLE,
    Secret,
    refuse_secrets,
    secret_from,
)
from adapters.settings import (
    CHECKLIST_VALID,
    AlertSettings,
    FeedSettings,
    GoLive,
    read_alerts,
    read_feed,
    read_golive,
    read_risk,
    read_strategy,
)
from adapters.strategy_rows import source_of, strategy_rows
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
_LIVE_NEEDS = {
    "risk.max_positions": "roots held at the same time",
    "risk.max_contracts": "contracts held at the same time",
    "risk.max_margin_usd": "initial margin of all of them, US dollars",
    "risk.daily_loss_usd": "the session's loss that ends its entries, US dollars",
    "risk.stale_flatten_s": "seconds without a live feed after which positions are closed",
    "risk.safestop_policy": "hold, cancel_only or flatten: what is sent when the process ends itself",
    "golive.checklist": "the day you went through the checklist of docs/go-live.md, YYYY-MM-DD",
    "golive.account": "the account it was for: the label under `account:`",
}
"""What `mode: live` wants written in a file: a default is nobody's decision."""
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]|0\.0\.0\.0")

Mode = Literal["paper", "live"]
MODES: tuple[Mode, ...] = ("paper", "live")
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
    document = _read_checked(path)
    return _path(document, "journal_dir", _default_journal_dir(path, _choice(document, "mode", MODES, "paper")))


def find_service(path: Path) -> tuple[Mode, tuple[Path, ...]]:
    """The mode of the configuration in `path` and the directories that `live` writes to; its secrets are not needed.

    Raises OperatorError (exit 78) with file:line:column.
    """
    document = _read_checked(path)
    mode = cast("Mode", _choice(document, "mode", MODES, "paper"))
    journal_dir = _path(document, "journal_dir", _default_journal_dir(path, mode))
    return mode, (journal_dir, _path(document, "emergency_dir", _default_emergency_dir(path, mode)))


@attrs.frozen(kw_only=True)
class MarketPlaces:
    """What of a configuration says which history is wanted, and where it is."""

    roots: tuple[TradedRoot, ...]
    strategy: StrategySettings
    mode: Mode
    journal_dir: Path
    models_dir: Path
    history_dir: Path


def find_market(path: Path, overlays: Sequence[Path], environ: Mapping[str, str]) -> MarketPlaces:
    """What the history commands need of a configuration: none of its secrets, and not that it may start.

    Raises OperatorError (exit 78) with file:line:column.
    """
    document = _read_merged(path, overlays)
    mode = cast("Mode", _choice(document, "mode", MODES, "paper"))
    contract_map = _load_map(document, _path(document, "contract_map", CONTRACT_MAP_FILE), environ)
    return MarketPlaces(
        roots=_chosen_roots(document, contract_map),
        strategy=_strategy(document, mode, contract_map),
        mode=mode,
        journal_dir=_path(document, "journal_dir", _default_journal_dir(path, mode)),
        models_dir=_path(document, "models_dir", MODELS_DIR),
        history_dir=_path(document, "history_dir", _default_history_dir(path)),
    )


@attrs.frozen(kw_only=True)
class ModelPlaces:
    """Where a configuration's bundles are, and what they are held against."""

    mode: Mode
    roots: tuple[TradedRoot, ...]
    """All of the contract map: `symbols` does not matter here."""
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
            models_dir=_absolute(models_dir or MODELS_DIR),
            shadow_models_dir=None,
            journal_dir=Path.cwd() / "journal",
        )
    path = find_config(explicit, environ, Path.cwd())
    document = _read_merged(path, overlays)
    mode = cast("Mode", _choice(document, "mode", MODES, "paper"))
    return ModelPlaces(
        mode=mode,
        roots=_load_map(document, _path(document, "contract_map", CONTRACT_MAP_FILE), environ).roots,
        models_dir=_absolute(models_dir) if models_dir is not None else _path(document, "models_dir", MODELS_DIR),
        shadow_models_dir=_optional_path(document, "shadow_models_dir"),
        journal_dir=_path(document, "journal_dir", _default_journal_dir(path, mode)),
    )


def find_contract_map(explicit: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The contract map that `live` would use: of the configuration it would find, else the shipped one.

    Raises OperatorError (exit 78) with file:line:column.
    """
    if explicit is None and not environ.get(CONFIG_VARIABLE, "").strip() and not (Path.cwd() / "live.yml").is_file():
        return CONTRACT_MAP_FILE
    document = _read_checked(find_config(explicit, environ, Path.cwd()))
    return _path(document, "contract_map", CONTRACT_MAP_FILE)


def load_config(
    path: Path, overlays: Sequence[Path], environ: Mapping[str, str], *, today: dt.date | None = None
) -> LoadedConfig:
    """The configuration in `path` under `overlays`, the last one on top (YAML or JSON each).

    Relative paths belong to the file that names them; `today` judges the age of a confirmation.
    Raises OperatorError (exit 78) with file:line:column.
    """
    # Before anything is read that an error could quote.
    secrets = {name: secret_from(environ, name) for name in SECRET_VARIABLES}
    document = _read_merged(path, overlays)
    _check_execution(document)
    account = as_text(document.require("account", fix="write `account:` with the label of the account it trades"))
    mode = cast("Mode", _choice(document, "mode", MODES, "paper"))
    clock = cast("ClockSource", _choice(document, "clock", ("system", "feed"), "system"))
    map_path = _path(document, "contract_map", CONTRACT_MAP_FILE)
    contract_map = _load_map(document, map_path, environ)
    roots = _chosen_roots(document, contract_map)
    feeds, feeds_source = _required_feeds(document, roots, environ)
    config = Config(
        mode=mode,
        account=account,
        clock=clock,
        journal_dir=_path(document, "journal_dir", _default_journal_dir(path, mode)),
        emergency_dir=_path(document, "emergency_dir", _default_emergency_dir(path, mode)),
        models_dir=_path(document, "models_dir", MODELS_DIR),
        shadow_models_dir=_optional_path(document, "shadow_models_dir"),
        history_dir=_path(document, "history_dir", _default_history_dir(path)),
        contract_map=map_path,
        contract_map_digest=contract_map.digest,
        definitions=_optional_path(document, "definitions"),
        feed=read_feed(_section(document, "feed")),
        strategy=_strategy(document, mode, contract_map),
        risk=read_risk(_section(document, "risk")),
        roots=roots,
        required_reference_feeds=feeds,
        golive=read_golive(_section(document, "golive")),
        databento_key=secrets[KEY_VARIABLE],
        webhook_url=secrets[WEBHOOK_VARIABLE],
        alerts=read_alerts(_section(document, "alerts")),
        alert_urls=secrets[ALERTS_VARIABLE],
        dead_man_url=secrets[DEAD_MAN_VARIABLE],
    )
    _check_start(config, document, contract_map, today or _latest_date())
    sources = {**dict(_sources(document)), **contract_map.sources, **feeds_source}
    return LoadedConfig(config=config, sources=sources)


def demo_config(journal_dir: Path, environ: Mapping[str, str], *, contract_map: Path = CONTRACT_MAP_FILE) -> Config:
    """The demo: paper, simulated time, all roots of the map, no gateway yet (its port is found at start).

    A webhook URL is taken over only when it points to this machine; nobody is alerted.
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
        required_reference_feeds=_required_feeds(None, roots.roots, environ)[0],
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


# ---------------------------------------------------------------- sections


def _read_checked(path: Path) -> YamlMap:
    document = read_map(path)
    refuse_secrets(document)
    return document


def _read_merged(path: Path, overlays: Sequence[Path]) -> YamlMap:
    document = _read_checked(path)
    for overlay in overlays:
        document = merge(document, _read_checked(overlay))
    document.refuse_unknown(_TOP_KEYS)
    return document


def _section(document: YamlMap, key: str) -> YamlMap:
    value = document.get(key)
    return as_map(value) if value is not None else attrs.evolve(document, path=key, entries={}, keys_at={})


def _strategy(document: YamlMap, mode: Mode, contract_map: ContractMap) -> StrategySettings:
    """With money, what is entered has a stop that does not need us, unless the file says otherwise."""
    traded = [root.root for root in contract_map.traded]
    protective_stop = LIVE_PROTECTIVE_STOP if mode == "live" else Decimal(0)
    return read_strategy(_section(document, "strategy"), traded=traded, protective_stop=protective_stop)


def _choice(document: YamlMap, key: str, choices: Sequence[str], default: str) -> str:
    value = document.get(key)
    return as_choice(value, choices) if value is not None else default


def _path(document: YamlMap, key: str, default: Path) -> Path:
    value = document.get(key)
    return default if value is None else _absolute(value.at.file.absolute().parent / Path(as_text(value)).expanduser())


def _optional_path(document: YamlMap, key: str) -> Path | None:
    return _path(document, key, Path()) if document.get(key) is not None else None


def _default_journal_dir(path: Path, mode: str) -> Path:
    """Each mode its own directory: live never shares one with paper or a demo."""
    return _absolute(path).parent / "journal" / mode


def _default_emergency_dir(path: Path, mode: str) -> Path:
    return _absolute(path).parent / "emergency" / mode


def _default_history_dir(path: Path) -> Path:
    """Bars are of the market: all modes and accounts share them."""
    return _absolute(path).parent / "history"


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


def _required_feeds(
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


def _check_start(config: Config, document: YamlMap, contract_map: ContractMap, today: dt.date) -> None:
    """What no single value can tell: combinations that must not start."""
    _check_sizes(config, document)
    if config.mode == "live":
        _check_live(config, document, today)
    elif config.feed.gateway is None and config.databento_key is None:
        raise OperatorError(
            "not set, and without feed.gateway the market comes from Databento",
            where=KEY_VARIABLE,
            fix=f"set {KEY_VARIABLE}, or name a local gateway under `feed:`",
        )
    known = [root.root for root in contract_map.roots]
    for root in config.golive.hours_confirmed:
        if root not in known:
            refuse(
                _written(document, "golive.hours_confirmed"),
                f"{root!r} is not a root of the contract map",
                fix=did_you_mean(root, known),
            )
    if config.golive.account not in (None, config.account):
        refuse(
            _written(document, "golive.account"),
            f"the confirmation is for {config.golive.account!r}, and this account is {config.account!r}",
            fix="go through the checklist of docs/go-live.md for this account, and write its label and the day",
        )


def _check_sizes(config: Config, document: YamlMap) -> None:
    """A root whose one order is beyond a limit would be refused all day: that is a mistake, not a limit."""
    risk = config.risk
    for root in config.roots:
        if root.is_reference:
            continue
        quantity = config.strategy.of(root.root).max_size or root.quantity
        margin = quantity * (root.order_spec.initial_margin_usd or 0)
        for key, size, what in (
            ("max_contracts_per_root", quantity, "contracts"),
            ("max_contracts", quantity, "contracts"),
            ("max_margin_usd", margin, "US dollars of margin"),
        ):
            limit = getattr(risk, key)
            if limit is not None and size > limit:
                refuse(
                    _written(document, f"risk.{key}"),
                    f"one order of {root.root} is {size} {what}, more than risk.{key} {limit}",
                    fix=f"lower `size` of {root.root} in {config.contract_map} (`max_size` with risk sizing), "
                    f"raise the limit, or leave {root.root} out of `symbols`",
                )


def _check_live(config: Config, document: YamlMap, today: dt.date) -> None:
    """What must be there, and right, before an order can cost money."""
    if config.clock == "feed":
        refuse(document.entries["clock"], "mode: live runs on the system's clock", fix="write `clock: system`")
    if _is_loopback(config.feed.gateway):
        refuse(
            _written(document, "feed.gateway"),
            "mode: live must not trade what a local gateway plays",
            fix="remove feed.gateway, or write mode: paper",
        )
    lacking = [f"{key} ({what})" for key, what in _LIVE_NEEDS.items() if _find(document, key) is None]
    for name, secret in ((KEY_VARIABLE, config.databento_key), (WEBHOOK_VARIABLE, config.webhook_url)):
        if secret is None:
            lacking.append(f"{name} (a secret: environment, {name}_FILE or systemd credential)")
    if lacking:
        refuse(
            document.entries["mode"],
            "live needs what is not written:" + "".join(f"\n    {each}" for each in lacking),
            fix="write each (Data/live.example.yml shows how, docs/go-live.md what to choose), or write `mode: paper`",
        )
    _check_margins(config, document)
    _check_hours(config, document)
    assert config.golive.checklist is not None  # it does not lack
    _check_age(config.golive.checklist, _written(document, "golive.checklist"), today)


def _check_margins(config: Config, document: YamlMap) -> None:
    unknown = [r.root for r in config.roots if not r.is_reference and not r.order_spec.initial_margin_usd]
    if unknown:
        refuse(
            _written(document, "risk.max_margin_usd"),
            f"the contract map has no initial_margin_usd of {', '.join(unknown)}",
            fix=f"write the broker's margin per contract into {config.contract_map}: "
            "`spec: {initial_margin_usd: 2500}` (`order_spec` where another product is ordered)",
        )


def _check_hours(config: Config, document: YamlMap) -> None:
    """Auto-close is counted from a root's close: a wrong one leaves a position in a shut market."""
    confirmed = config.golive.hours_confirmed
    open_questions = [
        root.root
        for root in config.roots
        if not root.is_reference
        and root.data_spec.exchange_calendar not in VERIFIED_CALENDARS
        and root.root not in confirmed
    ]
    if open_questions:
        names = ", ".join(open_questions)
        all_of_them = ", ".join([*confirmed, *open_questions])
        refuse(
            _find(document, "golive.hours_confirmed") or document.entries["mode"],
            f"the trading hours of {names} have not been checked against the exchange's",
            fix="compare docs/configuration.md, Calendar, with the exchange's holiday hours, correct what differs in "
            f"{CALENDAR_OVERRIDES_FILE}, and write `golive: {{hours_confirmed: [{all_of_them}]}}`; "
            "or leave them out of `symbols`",
        )


def _check_age(confirmed: dt.date, value: YamlValue, today: dt.date) -> None:
    if confirmed > today:
        refuse(value, f"{confirmed} is in the future", fix="write the day on which you went through the checklist")
    if today - confirmed > CHECKLIST_VALID:
        refuse(
            value,
            f"{confirmed} is {(today - confirmed).days} days ago, {CHECKLIST_VALID.days} at most",
            fix="go through the checklist of docs/go-live.md again, and write the day",
        )


def _latest_date() -> dt.date:
    """Today where it is latest: a date written anywhere is not in the future."""
    return (dt.datetime.now(dt.UTC) + dt.timedelta(hours=14)).date()


def _find(document: YamlMap, key: str) -> YamlValue | None:
    """The value of a dotted key, when a file states it."""
    name, _, rest = key.partition(".")
    value = document.get(name)
    return value if not rest or value is None else _find(as_map(value), rest)


def _written(document: YamlMap, key: str) -> YamlValue:
    """The value of a dotted key for a message; the document when it is a default."""
    return _find(document, key) or document


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
