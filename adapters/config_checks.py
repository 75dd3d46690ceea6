"""What no single value of a configuration can tell: combinations that must not start."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from adapters.config_file import CALENDAR_OVERRIDES_FILE, find, written
from adapters.contract_map import ContractMap
from adapters.products import VERIFIED_CALENDARS
from adapters.secret import KEY_VARIABLE, WEBHOOK_VARIABLE
from adapters.settings import CHECKLIST_VALID
from adapters.yaml_source import YamlList, YamlMap, YamlScalar, YamlValue, as_map, did_you_mean, refuse
from domain.errors import OperatorError

if TYPE_CHECKING:
    from adapters.config import Config

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


def check_execution(document: YamlMap) -> None:
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


def check_start(config: Config, document: YamlMap, contract_map: ContractMap, today: dt.date) -> None:
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
                written(document, "golive.hours_confirmed"),
                f"{root!r} is not a root of the contract map",
                fix=did_you_mean(root, known),
            )
    if config.golive.account not in (None, config.account):
        refuse(
            written(document, "golive.account"),
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
                    written(document, f"risk.{key}"),
                    f"one order of {root.root} is {size} {what}, more than risk.{key} {limit}",
                    fix=f"lower `size` of {root.root} in {config.contract_map} (`max_size` with risk sizing), "
                    f"raise the limit, or leave {root.root} out of `symbols`",
                )


def _check_live(config: Config, document: YamlMap, today: dt.date) -> None:
    """What must be there, and right, before an order can cost money."""
    if config.clock == "feed":
        refuse(document.entries["clock"], "mode: live runs on the system's clock", fix="write `clock: system`")
    if is_loopback(config.feed.gateway):
        refuse(
            written(document, "feed.gateway"),
            "mode: live must not trade what a local gateway plays",
            fix="remove feed.gateway, or write mode: paper",
        )
    lacking = [f"{key} ({what})" for key, what in _LIVE_NEEDS.items() if find(document, key) is None]
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
    _check_age(config.golive.checklist, written(document, "golive.checklist"), today)


def _check_margins(config: Config, document: YamlMap) -> None:
    unknown = [r.root for r in config.roots if not r.is_reference and not r.order_spec.initial_margin_usd]
    if unknown:
        refuse(
            written(document, "risk.max_margin_usd"),
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
            find(document, "golive.hours_confirmed") or document.entries["mode"],
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


def latest_date() -> dt.date:
    """Today where it is latest: a date written anywhere is not in the future."""
    return (dt.datetime.now(dt.UTC) + dt.timedelta(hours=14)).date()


def is_loopback(host: str | None) -> bool:
    """Whether `host` is a name that this machine has for itself."""
    return host is not None and _LOOPBACK.fullmatch(host.lower()) is not None
