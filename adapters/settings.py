"""The `feed`, `strategy`, `risk`, `alerts` and `golive` sections of a configuration, read into typed settings.

One line per field: the key in YAML is the field's name, its reader says what is accepted.
Fields that a file leaves out keep the domain's defaults, which are the safe ones.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Literal, get_args

import attrs

from adapters.gate_settings import read_gates
from adapters.yaml_source import (
    YamlMap,
    YamlScalar,
    YamlValue,
    as_choice,
    as_decimal,
    as_flag,
    as_list,
    as_map,
    as_text,
    as_time,
    as_whole,
    merge,
    refuse,
    without,
)
from domain.errors import OperatorError
from domain.gates import parse_window
from domain.ibs import StrategySettings
from domain.risk import RiskSettings

_FEED_KEYS = ("gateway", "port", "heartbeat_interval_s")
Reader = Callable[[YamlValue], Any]
Severity = Literal["info", "warning", "critical"]


def _whole(low: int, high: int) -> Reader:
    return partial(as_whole, low=low, high=high)


def _percent(value: YamlValue) -> Decimal:
    """Above 0: a stop of 0 % would close every position on its first bar, a band of 0 % refuse every entry."""
    return as_decimal(value, low=Decimal("0.001"), high=Decimal(100))


def _ranges(value: YamlValue) -> Decimal:
    """Average True Ranges, above 0."""
    return as_decimal(value, low=Decimal("0.01"), high=Decimal(100))


def _usd(value: YamlValue) -> Decimal:
    """An amount above zero: a loss is written without a sign."""
    return as_decimal(value, low=Decimal(1), high=Decimal(1_000_000_000))


def _date(value: YamlValue) -> dt.date:
    text = as_text(value)
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        refuse(value, f"{text!r} is not a date", fix="write YYYY-MM-DD")


def _ibs(value: YamlValue) -> float:
    return float(as_decimal(value, low=Decimal(0), high=Decimal(1)))


def _windows(value: YamlValue) -> tuple[str, ...]:
    windows = []
    for item in as_list(value):
        text = as_text(item)
        try:
            parse_window(text)
        except OperatorError as error:
            refuse(item, error.what, fix=error.fix)
        windows.append(text)
    if not windows:
        refuse(value, "without a window nothing is ever entered", fix='write ["00:00-24:00"] for the whole day')
    return tuple(windows)


STRATEGY_READERS: Mapping[str, Reader] = {
    "name": as_text,
    "side": partial(as_choice, choices=("long", "short", "both")),
    "veto": as_flag,
    "decision_timeframe": partial(as_choice, choices=("1h", "1m")),
    "entry_ibs_low": _ibs,
    "entry_ibs_high": _ibs,
    "exit_ibs_low": _ibs,
    "exit_ibs_high": _ibs,
    "pivot_gate": as_flag,
    "pivot_strength": _whole(1, 100),
    "gates": read_gates,
    "entry_windows": _windows,
    "warmup_bars": _whole(0, 10_000),
    "stop_pct": _percent,
    "target_pct": _percent,
    "stop_atr": _ranges,
    "target_atr": _ranges,
    "sizing": partial(as_choice, choices=("fixed", "risk")),
    "risk_usd": _usd,
    "max_size": _whole(1, 1_000),
    "bracket": as_flag,
    "protective_stop": partial(as_decimal, low=Decimal(0), high=Decimal(100)),
    "exit_after_bars": _whole(1, 1_000),
    "auto_close": as_time,
    "auto_close_before_end_s": _whole(60, 43_200),
    "no_entry_before_auto_close_s": _whole(0, 86_400),
    "cooldown_bars": _whole(0, 1_000),
    "cooldown_after_stop_bars": _whole(0, 1_000),
    "entry_order": partial(as_choice, choices=("market", "limit")),
    "cancel_after_s": _whole(1, 3_600),
}
RISK_READERS: Mapping[str, Reader] = {
    "max_positions": _whole(1, 100),
    "max_contracts": _whole(1, 1_000),
    "max_contracts_per_root": _whole(1, 1_000),
    "max_margin_usd": _usd,
    "daily_loss_usd": _usd,
    "daily_loss_action": partial(as_choice, choices=("flatten", "block")),
    "max_entries_per_hour": _whole(1, 450),  # the most that TradersPost is ever sent
    "price_band_pct": _percent,
    "last_minutes": _whole(0, 240),
    "entry_freshness_s": _whole(1, 3_600),
    "entry_time_limit_s": _whole(1, 900),
    "unknown_policy": partial(as_choice, choices=("flat", "hold")),
    "unknown_flat_after_s": _whole(15, 3_600),  # TradersPost keeps no order among signals closer than that
    "stale_flatten_s": _whole(30, 86_400),  # a reconnection takes up to half a minute
    "feed_lag_s": _whole(5, 300),
    "market_silent_s": _whole(30, 3_600),
    "quiet_root_s": _whole(120, 7_200),
    "safestop_policy": partial(as_choice, choices=("hold", "cancel_only", "flatten")),
    "reconcile_within_days": _whole(1, 30),
}
GOLIVE_READERS: Mapping[str, Reader] = {
    "checklist": _date,
    "account": as_text,
    "paper_account": as_flag,
    "hours_confirmed": lambda value: tuple(as_text(item) for item in as_list(value)),
}
CHECKLIST_VALID = dt.timedelta(days=90)
"""Settings of TradersPost are changed by hand, and no API shows them: they are looked at again after this time."""
ALERT_READERS: Mapping[str, Reader] = {
    "min_severity": partial(as_choice, choices=get_args(Severity)),
    "coalesce_s": _whole(0, 600),
    "dead_man_s": _whole(10, 3_600),
}


@attrs.frozen(kw_only=True)
class AlertSettings:
    """How the operator is told; where to is a secret."""

    min_severity: Severity = "info"
    """From here on alerts go to the URLs that name no severity of their own."""
    coalesce_s: int = 30
    """Alerts with the same key within this window become one message."""
    dead_man_s: int = 60
    """Between two pings while all is well."""


@attrs.frozen(kw_only=True)
class FeedSettings:
    """Where the market comes from; without `gateway` it is Databento's own."""

    gateway: str | None = None
    port: int | None = None
    heartbeat_interval_s: int = 5


@attrs.frozen(kw_only=True)
class GoLive:
    """What the operator has confirmed (docs/go-live.md); nothing here decides anything."""

    checklist: dt.date | None = None
    """The day on which every line of the checklist was looked at."""
    account: str | None = None
    """The account it was looked at for, by the same label as the configuration's."""
    paper_account: bool = False
    """The webhook belongs to a paper account at TradersPost: `golive-test` may send to it in `mode: live`."""
    hours_confirmed: tuple[str, ...] = ()
    """Roots whose trading hours, which this program has not checked, the operator compared with the exchange's."""

    @property
    def valid_until(self) -> dt.date | None:
        """The last day on which `mode: live` starts with this confirmation."""
        return self.checklist and self.checklist + CHECKLIST_VALID


def read_strategy(section: YamlMap, *, traded: Collection[str], protective_stop: Decimal) -> StrategySettings:
    """The strategy's parameters, and those of roots with some of their own, which inherit the rest.

    `traded`: the roots that may be named. `protective_stop` where none is written and there is no bracket.
    Raises OperatorError with file:line:column.
    """
    common = without(section, "roots")
    own = as_map(section.entries["roots"]) if "roots" in section.entries else without(section, *section.entries)
    own.refuse_unknown(traded)
    return attrs.evolve(
        _strategy_of(common, protective_stop),
        roots=tuple(
            (root, _strategy_of(_inherited(common, as_map(value)), protective_stop))
            for root, value in own.entries.items()
        ),
    )


_INSTEAD: Mapping[str, tuple[str, ...]] = {
    "stop_pct": ("stop_atr",),
    "stop_atr": ("stop_pct",),
    "target_pct": ("target_atr",),
    "target_atr": ("target_pct",),
}
"""What a root writes in place of what all roots have."""


def _inherited(common: YamlMap, own: YamlMap) -> YamlMap:
    replaced = [rival for key in own.entries for rival in _INSTEAD.get(key, ())]
    sizing = own.get("sizing")
    if isinstance(sizing, YamlScalar) and sizing.text == "fixed":
        replaced += ["risk_usd", "max_size"]
    merged = merge(without(common, *replaced), own)
    return attrs.evolve(merged, at=own.at, path=own.path)


def _strategy_of(section: YamlMap, protective_stop: Decimal) -> StrategySettings:
    values = {"protective_stop": protective_stop} | _read(section, STRATEGY_READERS)
    settings = StrategySettings(**values)
    if settings.bracket and "protective_stop" not in section.entries:
        settings = attrs.evolve(settings, protective_stop=Decimal(0))
    _check_strategy(section, settings)
    return settings


def _check_strategy(section: YamlMap, settings: StrategySettings) -> None:
    """What no single value can tell."""
    for name in ("entry", "exit"):
        low, high = getattr(settings, f"{name}_ibs_low"), getattr(settings, f"{name}_ibs_high")
        if low > high:
            blamed = section.get(f"{name}_ibs_high") or section.get(f"{name}_ibs_low") or section
            refuse(blamed, f"the {name} band {low} to {high} is empty", fix=f"{name}_ibs_low must not exceed the high")
    for percent, ranges in (("stop_pct", "stop_atr"), ("target_pct", "target_atr")):
        if percent in section.entries and ranges in section.entries:
            refuse(section.entries[ranges], f"stands beside {percent}", fix="keep one of the two")
    if settings.decision_timeframe != "1h":
        blamed = section.get("decision_timeframe") or section
        if settings.veto:
            refuse(blamed, "the veto's features are of hour bars", fix="write `veto: false`, or let hours decide")
        if settings.gates:
            refuse(blamed, "the gates' features are of hour bars", fix="remove `gates`, or let hours decide")
    _check_side(section, settings)
    _check_sizing(section, settings)


def _check_side(section: YamlMap, settings: StrategySettings) -> None:
    if settings.side == "both" and settings.entry_ibs_low <= 0.5 <= settings.entry_ibs_high:
        blamed = section.get("entry_ibs_high") or section.get("entry_ibs_low") or section
        fix = "keep the band on one side of 0.5"
        refuse(blamed, "a bar of IBS 0.5 would be in the band of both sides", fix=fix)


def _check_sizing(section: YamlMap, settings: StrategySettings) -> None:
    for key in ("risk_usd", "max_size"):
        if settings.sizing == "risk" and key not in section.entries:
            refuse(section.entries["sizing"], f"risk sizing needs `{key}`", fix=f"write `{key}:` beside it")
        if settings.sizing == "fixed" and key in section.entries:
            fix = "write `sizing: risk` beside it, or remove it"
            refuse(section.entries[key], "is not used: every order has the contract map's size", fix=fix)


def read_risk(section: YamlMap) -> RiskSettings:
    """The account's limits. Raises OperatorError with file:line:column."""
    return RiskSettings(**_read(section, RISK_READERS))


def read_golive(section: YamlMap) -> GoLive:
    """The operator's confirmation. Raises OperatorError with file:line:column."""
    return GoLive(**_read(section, GOLIVE_READERS))


def read_alerts(section: YamlMap) -> AlertSettings:
    """How the operator is told. Raises OperatorError with file:line:column."""
    return AlertSettings(**_read(section, ALERT_READERS))


def read_feed(section: YamlMap) -> FeedSettings:
    """Where the market comes from. Raises OperatorError with file:line:column."""
    section.refuse_unknown(_FEED_KEYS)
    gateway_at, port_at, heartbeat_at = (section.get(key) for key in _FEED_KEYS)
    gateway = as_text(gateway_at) if gateway_at is not None else None
    if gateway_at is not None and gateway is not None and gateway.count(":") == 1:
        refuse(gateway_at, f"{gateway!r} is not a host name", fix="write the port under feed.port")
    if gateway_at is not None and port_at is None:
        refuse(section, "gateway without port", fix="add `port:`; the gateway prints it in its first line")
    if port_at is not None and gateway_at is None:
        refuse(port_at, "port without gateway", fix="add `gateway: 127.0.0.1`, or remove the port")
    return FeedSettings(
        gateway=gateway,
        port=as_whole(port_at, low=1, high=65_535) if port_at is not None else None,
        heartbeat_interval_s=as_whole(heartbeat_at, low=5, high=10) if heartbeat_at is not None else 5,
    )


def _read(section: YamlMap, readers: Mapping[str, Reader]) -> dict[str, Any]:
    section.refuse_unknown(tuple(readers))
    return {key: readers[key](value) for key, value in section.entries.items()}
