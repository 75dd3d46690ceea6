"""The `feed`, `strategy`, `risk`, `alerts` and `golive` sections of a configuration, read into typed settings.

One line per field: the key in YAML is the field's name, its reader says what is accepted.
Fields that a file leaves out keep the domain's defaults, which are the safe ones.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Literal, get_args

import attrs

from adapters.yaml_source import (
    YamlMap,
    YamlValue,
    as_choice,
    as_decimal,
    as_flag,
    as_list,
    as_text,
    as_time,
    as_whole,
    refuse,
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
    "veto": as_flag,
    "decision_timeframe": partial(as_choice, choices=("1h", "1m")),
    "entry_ibs_low": _ibs,
    "entry_ibs_high": _ibs,
    "exit_ibs_low": _ibs,
    "exit_ibs_high": _ibs,
    "pivot_gate": as_flag,
    "pivot_strength": _whole(1, 100),
    "entry_windows": _windows,
    "warmup_bars": _whole(0, 10_000),
    "stop_pct": _percent,
    "target_pct": _percent,
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


def read_strategy(section: YamlMap) -> StrategySettings:
    """The strategy's parameters. Raises OperatorError with file:line:column."""
    settings = StrategySettings(**_read(section, STRATEGY_READERS))
    for name in ("entry", "exit"):
        low, high = getattr(settings, f"{name}_ibs_low"), getattr(settings, f"{name}_ibs_high")
        if low > high:
            blamed = section.get(f"{name}_ibs_high") or section.get(f"{name}_ibs_low") or section
            refuse(blamed, f"the {name} band {low} to {high} is empty", fix=f"{name}_ibs_low must not exceed the high")
    if settings.veto and settings.decision_timeframe != "1h":
        blamed = section.get("decision_timeframe") or section
        refuse(blamed, "the veto's features are of hour bars", fix="write `veto: false`, or let hours decide")
    return settings


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
