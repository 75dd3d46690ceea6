from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
import re
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.config import (
    Config,
    LoadedConfig,
    config_digest,
    demo_config,
    describe,
    find_config,
    load_config,
)
from adapters.secret import Secret
from adapters.settings import (
    ALERT_READERS,
    GOLIVE_READERS,
    RISK_READERS,
    STRATEGY_READERS,
    AlertSettings,
    FeedSettings,
    GoLive,
)
from adapters.strategy_rows import source_of
from domain.errors import OperatorError
from domain.ibs import FeatureGate, StrategySettings
from domain.risk import RiskSettings

DATA = Path(__file__).parents[2] / "Data"
CANARY = "canary-7Qx2"
KEY = "db-" + CANARY.replace("-", "") + "0123456789abcdef"
URL = f"https://webhooks.traderspost.io/trading/webhook/11111111-2222/{CANARY}"
ENVIRON = {"DATABENTO_API_KEY": KEY, "TRADERSPOST_WEBHOOK_URL": URL}
MINIMAL = "account: test\n"
TODAY = dt.date(2026, 11, 20)
LIVE = """\
account: test
mode: live
symbols: [ES]
contract_map: margins.yml
risk:
  max_positions: 2
  max_contracts: 4
  max_margin_usd: 10000
  daily_loss_usd: 500
  stale_flatten_s: 300
  safestop_policy: flatten
golive: {checklist: 2026-11-01, account: test}
"""
"""All that `mode: live` wants to be written."""
MARGINS = "contracts: [{symbol: ES, spec: {initial_margin_usd: 2500}}, {symbol: GC}]\n"


def load(tmp_path: Path, text: str, *overlays: str, environ: dict[str, str] | None = None) -> LoadedConfig:
    paths = []
    (tmp_path / "margins.yml").write_text(MARGINS)
    for i, content in enumerate((text, *overlays)):
        path = tmp_path / f"{i}.yml"
        path.write_text(content)
        paths.append(path)
    return load_config(paths[0], paths[1:], ENVIRON if environ is None else environ, today=TODAY)


def refusal(tmp_path: Path, text: str, *overlays: str, environ: dict[str, str] | None = None) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        load(tmp_path, text, *overlays, environ=environ)
    assert caught.value.exit_code == 78
    assert caught.value.fix
    assert CANARY not in str(caught.value)
    return caught.value


# ----------------------------------------------------------------- accepted


def test_an_account_is_enough_and_everything_else_is_the_safe_default(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL).config
    assert (config.mode, config.account, config.clock, config.is_demo) == ("paper", "test", "system", False)
    assert config.strategy == StrategySettings()
    assert config.strategy.veto is True
    assert config.risk == RiskSettings()
    assert config.feed == FeedSettings(gateway=None, port=None, heartbeat_interval_s=5)
    assert config.journal_dir == tmp_path / "journal" / "paper"
    assert config.contract_map == DATA / "Databento_contract_map.yml"
    assert len(config.roots) == 19


def test_chosen_symbols_keep_the_maps_order_and_every_reference_root(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + "symbols: [GC, ES]\n").config
    assert [root.root for root in config.roots] == ["ES", "GC", "PL", "6C", "6J", "6M", "6N", "6S", "TLT"]


def test_the_example_loads_where_it_stands_and_copied_and_states_only_defaults(tmp_path: Path) -> None:
    in_place = load_config(DATA / "live.example.yml", [], ENVIRON).config
    shutil.copy(DATA / "live.example.yml", tmp_path / "live.yml")
    copied = load_config(tmp_path / "live.yml", [], ENVIRON).config
    plain = load(tmp_path, "account: my-account\n").config
    assert config_digest(in_place) == config_digest(copied) == config_digest(plain)
    assert copied == plain


def test_the_example_documents_every_key(tmp_path: Path) -> None:
    text = (DATA / "live.example.yml").read_text()
    described = {key for key, _, _ in describe(load(tmp_path, MINIMAL)) if not key.endswith(".commission_per_side")}
    commented = "emergency_dir|contract_map|definitions|models_dir|shadow_models_dir|history_dir|gateway|port"
    commented += "|max_margin_usd|daily_loss_usd|stale_flatten_s|golive"
    uncommented = re.sub(rf"(?m)^(\s*)# ({commented}):", r"\1\2:", text)
    uncommented = uncommented.replace("Data/Databento", f"{DATA}/Databento")
    loaded = load(tmp_path, uncommented)
    assert (loaded.config.feed.gateway, loaded.config.feed.port) == ("127.0.0.1", 13000)
    variables = {"DATABENTO_API_KEY", "TRADERSPOST_WEBHOOK_URL", "ALERT_URLS", "ALERT_DEADMAN_URL"}
    alternatives = {f"strategy.{key}" for key in ("stop_atr", "target_atr", "risk_usd", "max_size")}
    assert described - alternatives == set(loaded.sources) | variables
    assert all(variable in text for variable in variables)
    for key in (*alternatives, "strategy.gates", "strategy.roots"):
        assert f"  # {key.removeprefix('strategy.')}: " in text


def test_every_setting_has_a_reader_and_every_reader_a_setting() -> None:
    assert {*STRATEGY_READERS, "roots"} == {field.name for field in attrs.fields(StrategySettings)}
    assert set(RISK_READERS) == {field.name for field in attrs.fields(RiskSettings)}
    assert set(GOLIVE_READERS) == {field.name for field in attrs.fields(GoLive)}


def test_alerts_are_no_part_of_the_digest_and_their_addresses_are_in_no_text(tmp_path: Path) -> None:
    assert set(ALERT_READERS) == {field.name for field in attrs.fields(AlertSettings)}
    environ = {**ENVIRON, "ALERT_URLS": f"discord://1/{CANARY}", "ALERT_DEADMAN_URL": f"https://hc-ping.com/{CANARY}"}
    section = "alerts: {min_severity: critical, coalesce_s: 0, dead_man_s: 10}\n"
    loaded = load(tmp_path, MINIMAL + section, environ=environ)
    assert loaded.config.alerts == AlertSettings(min_severity="critical", coalesce_s=0, dead_man_s=10)
    assert loaded.config.alert_urls is not None
    assert CANARY not in repr(loaded) + repr(describe(loaded))
    assert config_digest(loaded.config) == config_digest(load(tmp_path, MINIMAL).config)
    for mistake in ("min_severity: loud", "coalesce_s: -1", "dead_man_s: 9", "urls: x"):
        assert "alerts." in refusal(tmp_path, f"{MINIMAL}alerts: {{{mistake}}}\n").what


CHANGED = {
    "name": ("mine", "mine"), "veto": ("false", False), "decision_timeframe": ("1m", "1m"),
    "entry_ibs_low": ("0.05", 0.05), "entry_ibs_high": ("0.3", 0.3), "exit_ibs_low": ("0.7", 0.7),
    "exit_ibs_high": ("0.9", 0.9), "pivot_gate": ("false", False), "pivot_strength": ("3", 3),
    "entry_windows": ('["01:00-02:00"]', ("01:00-02:00",)), "warmup_bars": ("0", 0),
    "stop_pct": ("0.75", Decimal("0.75")), "target_pct": ("2", Decimal("2")), "exit_after_bars": ("4", 4),
    "bracket": ("true", True), "protective_stop": ("3", Decimal(3)),
    "auto_close": ('"15:55"', "15:55"), "auto_close_before_end_s": ("600", 600),
    "no_entry_before_auto_close_s": ("60", 60), "cooldown_bars": ("1", 1), "cooldown_after_stop_bars": ("2", 2),
    "entry_order": ("limit", "limit"), "cancel_after_s": ("30", 30), "side": ("short", "short"),
    "stop_atr": ("1.5", Decimal("1.5")), "target_atr": ("0.5", Decimal("0.5")),
    "gates": ("{es_hourly_return: [-1, 1]}", (FeatureGate(name="es_hourly_return", low=-1.0, high=1.0),)),
    "sizing": ("risk", "risk"), "risk_usd": ("500", Decimal(500)), "max_size": ("3", 3),
}  # fmt: skip
WITH: dict[str, tuple[str, dict[str, object]]] = {
    # The veto needs hours and longs.
    "decision_timeframe": ("  veto: false\n", {"veto": False}),
    "side": ("  veto: false\n", {"veto": False}),
    "sizing": ("  risk_usd: 9\n  max_size: 2\n", {"risk_usd": Decimal(9), "max_size": 2}),
    "risk_usd": ("  sizing: risk\n  max_size: 2\n", {"sizing": "risk", "max_size": 2}),
    "max_size": ("  sizing: risk\n  risk_usd: 9\n", {"sizing": "risk", "risk_usd": Decimal(9)}),
}


@pytest.mark.parametrize("key", sorted(STRATEGY_READERS))
def test_each_strategy_key_reaches_its_field_and_changes_the_digest(tmp_path: Path, key: str) -> None:
    text, expected = CHANGED[key]
    others, defaults = WITH.get(key, ("", {}))
    plain = load(tmp_path, f"{MINIMAL}strategy:\n  name: ibs\n")
    loaded = load(tmp_path, f"{MINIMAL}strategy:\n  {key}: {text}\n{others}")
    assert loaded.config.strategy == attrs.evolve(StrategySettings(), **defaults, **{key: expected})
    assert type(getattr(loaded.config.strategy, key)) is type(expected)
    assert source_of(f"strategy.{key}", loaded.sources).rsplit(":", 1)[0] == f"{tmp_path}/0.yml:3"
    assert key == "gates" or loaded.sources[f"strategy.{key}"] == f"{tmp_path}/0.yml:3:{5 + len(key)}"
    assert config_digest(loaded.config) != config_digest(plain.config)


RISKS = {
    "max_positions": ("2", 2), "max_contracts": ("5", 5), "max_contracts_per_root": ("2", 2),
    "max_margin_usd": ("10000", Decimal(10_000)), "daily_loss_usd": ("500.5", Decimal("500.5")),
    "daily_loss_action": ("block", "block"), "max_entries_per_hour": ("6", 6),
    "price_band_pct": ("0.5", Decimal("0.5")), "last_minutes": ("0", 0), "entry_freshness_s": ("30", 30),
    "entry_time_limit_s": ("20", 20),
    "unknown_policy": ("hold", "hold"), "unknown_flat_after_s": ("90", 90), "stale_flatten_s": ("300", 300),
    "feed_lag_s": ("20", 20), "market_silent_s": ("300", 300), "quiet_root_s": ("900", 900),
    "safestop_policy": ("flatten", "flatten"), "reconcile_within_days": ("1", 1),
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(RISK_READERS))
def test_each_risk_key_reaches_its_field_and_changes_the_digest(tmp_path: Path, key: str) -> None:
    text, expected = RISKS[key]
    loaded = load(tmp_path, f"{MINIMAL}risk:\n  {key}: {text}\n")
    assert loaded.config.risk == attrs.evolve(RiskSettings(), **{key: expected})
    rows = {row[0]: row[1:] for row in describe(loaded)}
    assert rows[f"risk.{key}"] == (str(expected), f"{tmp_path}/0.yml:3:{5 + len(key)}")
    assert config_digest(loaded.config) != config_digest(load(tmp_path, MINIMAL).config)


def test_minutes_cannot_decide_with_the_veto(tmp_path: Path) -> None:
    for text in ("decision_timeframe: 1m", "veto: true\n  decision_timeframe: 1m"):
        with pytest.raises(OperatorError, match="the veto's features are of hour bars") as caught:
            load(tmp_path, f"{MINIMAL}strategy:\n  {text}\n")
        assert re.search(r"0\.yml:\d:23$", caught.value.where)


def test_relative_paths_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copy(DATA / "Databento_contract_map.yml", tmp_path / "b" / "map.yml")
    (tmp_path / "a" / "live.yml").write_text(MINIMAL + "journal_dir: out\nmodels_dir: ../bundles\n")
    (tmp_path / "b" / "over.yml").write_text("contract_map: map.yml\n")
    config = load_config(tmp_path / "a" / "live.yml", [tmp_path / "b" / "over.yml"], ENVIRON).config
    assert config.journal_dir == tmp_path / "a" / "out"
    assert config.models_dir == tmp_path / "bundles"
    assert config.contract_map == tmp_path / "b" / "map.yml"


def test_overlays_lie_in_order_and_each_value_knows_its_source(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        MINIMAL + "symbols: [ES, NQ]\nstrategy: {stop_pct: 2, veto: true}\n",
        "strategy:\n  stop_pct: 3\nsymbols: [GC]\n",
        "strategy:\n  stop_pct: 4\n",
    )
    assert (loaded.config.strategy.stop_pct, loaded.config.strategy.veto) == (Decimal(4), True)
    rows = {key: (value, source) for key, value, source in describe(loaded)}
    assert rows["strategy.stop_pct"] == ("4", f"{tmp_path}/2.yml:2:13")
    assert rows["strategy.veto"] == ("true", f"{tmp_path}/0.yml:3:31")
    assert rows["symbols"] == ("GC", f"{tmp_path}/1.yml:3:10")
    assert rows["strategy.target_pct"] == ("1", "default")
    assert rows["DATABENTO_API_KEY"] == ("***", "environment")


def test_an_overlay_may_be_json(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.yml", tmp_path / "overlay.json"
    base.write_text(MINIMAL)
    overlay.write_text(json.dumps({"risk": {"max_positions": 2}}))
    assert load_config(base, [overlay], ENVIRON).config.risk.max_positions == 2


def test_the_digest_is_of_decisions_not_of_places_or_spellings(tmp_path: Path) -> None:
    one = load(tmp_path, MINIMAL + "strategy: {stop_pct: 1.0}\njournal_dir: x\n").config
    other = load(tmp_path, MINIMAL + "feed: {gateway: localhost, port: 9}\n", environ={}).config
    assert config_digest(one) == config_digest(other)
    assert config_digest(one) != config_digest(attrs.evolve(one, account="other"))
    assert config_digest(one) != config_digest(attrs.evolve(one, roots=one.roots[1:]))
    assert re.fullmatch("[0-9a-f]{64}", config_digest(one))


# ------------------------------------------------------------------ refused

REFUSED = [
    ("mode: paper\n", "1:1", "account is missing", "account:"),
    ("", "1:1", "account is missing", "account:"),
    ("account: 12345\n", "1:10", "expected text, got '12345'", '"12345"'),
    ("account: test\nmod: live\n", "2:1", "unknown key 'mod'", "'mode'"),
    ("account: test\nmode: papr\n", "2:7", "expected paper or live, got 'papr'", "'paper'"),
    ("account: test\nclock: wall\n", "2:8", "expected system or feed, got 'wall'", "one of"),
    ("account: test\nsymbols: [ES, GCC]\n", "2:15", "'GCC' is not a root", "'GC'"),
    ("account: test\nsymbols: [ES, ES]\n", "2:15", "ES stands twice", "keep one"),
    ("account: test\nsymbols: [PL]\n", "2:11", "PL is a reference feed", "remove"),
    ("account: test\nsymbols: []\n", "2:10", "no symbol", "at least one"),
    ("account: test\nsymbols: ES\n", "2:10", "expected a list, got 'ES'", "[A, B]"),
    ("account: test\nsymbols: [NO]\n", "2:11", "boolean", '"NO"'),
    ("account: test\ncontract_map: nowhere.yml\n", "2:15", "there is no file", "relative path"),
    ("account: test\nfeed: {heartbeat_interval_s: ten}\n", "2:30", "expected a whole number, got 'ten'", "5 to 10"),
    ("account: test\nfeed: {heartbeat_interval_s: 4}\n", "2:30", "4 is out of range", "5 to 10"),
    ("account: test\nfeed: {heartbeat_interval_s: 11}\n", "2:30", "11 is out of range", "5 to 10"),
    ("account: test\nfeed: {gateway: 127.0.0.1}\n", "2:7", "gateway without port", "port:"),
    ("account: test\nfeed: {port: 80}\n", "2:14", "port without gateway", "gateway: 127"),
    ("account: test\nfeed: {gateway: 'h:80', port: 80}\n", "2:17", "not a host name", "feed.port"),
    ("account: test\nfeed: {gateway: h, port: 65536}\n", "2:26", "65536 is out of range", "65535"),
    ("account: test\nfeed: {gatway: h}\n", "2:8", "unknown key 'feed.gatway'", "'gateway'"),
    ("account: test\nfeed: 5\n", "2:7", "expected a mapping, got '5'", "key: value"),
    ("account: test\nstrategy: {vetoo: true}\n", "2:12", "unknown key 'strategy.vetoo'", "'veto'"),
    ("account: test\nstrategy: {veto: no}\n", "2:18", "boolean", "false"),
    ("account: test\nstrategy: {veto: 'false'}\n", "2:18", "the text 'false'", "without quotes"),
    ("account: test\nstrategy: {auto_close: 15:55}\n", "2:24", "base 60", '"15:55"'),
    ("account: test\nstrategy: {auto_close: '25:00'}\n", "2:24", "not a time", "HH:MM"),
    ("account: test\nstrategy: {stop_pct: 0}\n", "2:22", "0 is out of range", "0.001"),
    ("account: test\nstrategy: {stop_pct: -1}\n", "2:22", "-1 is out of range", "0.001"),
    ("account: test\nstrategy: {stop_pct: .nan}\n", "2:22", "expected a number, got '.nan'", "0.001"),
    ("account: test\nstrategy: {entry_ibs_high: 20}\n", "2:28", "20 is out of range", "0 to 1"),
    ("account: test\nstrategy: {entry_ibs_low: 0.5}\n", "2:27", "entry band 0.5 to 0.2 is empty", "exceed"),
    ("account: test\nstrategy: {entry_windows: [9-15]}\n", "2:28", "'9-15' is not a time window", "HH:MM-HH:MM"),
    ("account: test\nstrategy: {entry_windows: ['17:00-03:00']}\n", "2:28", "ends before it starts", "midnight"),
    ("account: test\nstrategy: {entry_windows: []}\n", "2:27", "without a window", "00:00-24:00"),
    ("account: test\nstrategy: {exit_after_bars: 1.5}\n", "2:29", "expected a whole number, got '1.5'", "1 to"),
    ("account: test\nrisk: {max_position: 4}\n", "2:8", "unknown key 'risk.max_position'", "'max_positions'"),
    ("account: test\nrisk: {max_positions: 0}\n", "2:23", "0 is out of range", "1 to"),
    ("account: test\nrisk: {max_contracts: 1.5}\n", "2:23", "expected a whole number, got '1.5'", "1 to 1000"),
    ("account: test\nrisk: {daily_loss_usd: -500}\n", "2:24", "-500 is out of range", "1 to"),
    ("account: test\nrisk: {daily_loss_usd: $500}\n", "2:24", "expected a number, got '$500'", "1 to"),
    ("account: test\nrisk: {daily_loss_usd:}\n", "2:23", "expected a number, got nothing", "1 to"),
    ("account: test\nrisk: {daily_loss_action: flat}\n", "2:27", "expected flatten or block", "'flatten'"),
    ("account: test\nrisk: {max_entries_per_hour: 451}\n", "2:30", "451 is out of range", "1 to 450"),
    ("account: test\nrisk: {price_band_pct: 0}\n", "2:24", "0 is out of range", "0.001"),
    ("account: test\nrisk: {unknown_policy: flatten}\n", "2:24", "expected flat or hold", "'flat'"),
    ("account: test\nrisk: {unknown_flat_after_s: 5}\n", "2:30", "5 is out of range", "15 to"),
    ("account: test\nrisk: {stale_flatten_s: 10}\n", "2:25", "10 is out of range", "30 to"),
    ("account: test\nrisk: {safestop_policy: off}\n", "2:25", "unquoted off is a boolean", "false"),
    ("account: test\nrisk: {reconcile_within_days: 0}\n", "2:31", "0 is out of range", "1 to 30"),
    ("account: test\ngolive: {checklist: yesterday}\n", "2:21", "'yesterday' is not a date", "YYYY-MM-DD"),
    ("account: test\ngolive: {checklist: 2026-13-01}\n", "2:21", "'2026-13-01' is not a date", "YYYY-MM-DD"),
    ("account: test\ngolive: {account: tost}\n", "2:19", "is for 'tost', and this account is 'test'", "this account"),
    ("account: test\ngolive: {hours_confirmed: [GCC]}\n", "2:27", "'GCC' is not a root", "'GC'"),
    ("account: test\ngolive: {hours_confirmed: GC}\n", "2:27", "list", "[A, B]"),
    ("account: test\ngolive: {checked: 2026-11-01}\n", "2:10", "unknown key 'golive.checked'", "'checklist'"),
    ("account: test\nmode: live\nclock: feed\n", "3:8", "system's clock", "clock: system"),
    ("account: test\nmode: live\nfeed: {gateway: 127.0.0.1, port: 1}\n", "3:17", "local gateway", "mode: paper"),
    ("account: test\nexecution: {retries: 3}\n", "2:13", "unknown key 'execution.retries'", "TRADERSPOST_WEBHOOK_URL"),
    ("account: test\naccount: more\n", "2:1", "duplicate key 'account'", "keep one"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_a_mistake_is_refused_where_it_stands(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    text, where, what, fix = case
    error = refusal(tmp_path, text)
    assert error.where == f"{tmp_path}/0.yml:{where}"
    assert what in error.what
    assert fix in error.fix


def test_a_mistake_in_an_overlay_names_the_overlay(tmp_path: Path) -> None:
    error = refusal(tmp_path, MINIMAL, "risk:\n  max_positions: many\n")
    assert error.where == f"{tmp_path}/1.yml:2:18"
    assert refusal(tmp_path, MINIMAL, "risks: {}\n").where == f"{tmp_path}/1.yml:1:1"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        load_config(tmp_path / "absent.yml", [], ENVIRON)
    assert caught.value.where == str(tmp_path / "absent.yml")


@pytest.mark.parametrize("environ", [{}, {"DATABENTO_API_KEY": " "}])
def test_without_a_local_gateway_the_key_is_needed(tmp_path: Path, environ: dict[str, str]) -> None:
    assert refusal(tmp_path, MINIMAL, environ=environ).where == "DATABENTO_API_KEY"


def test_paper_on_a_local_gateway_needs_no_secret(tmp_path: Path) -> None:
    paper = load(tmp_path, MINIMAL + "clock: feed\nfeed: {gateway: 127.0.0.1, port: 5}\n", environ={}).config
    assert (paper.databento_key, paper.webhook_url, paper.alert_urls) == (None, None, None)


# -------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "risk", "where", "what"),
    [
        (11, "{}", "1:1", "one order of ES is 11 contracts, more than risk.max_contracts_per_root 10"),
        (3, "{max_contracts_per_root: 2}", "4:32", "3 contracts, more than risk.max_contracts_per_root 2"),
        (3, "{max_contracts: 2}", "4:23", "3 contracts, more than risk.max_contracts 2"),
        (3, "{max_margin_usd: 7000}", "4:24", "7500 US dollars of margin, more than risk.max_margin_usd 7000"),
    ],
)
def test_a_root_whose_one_order_is_beyond_a_limit_is_refused(
    tmp_path: Path, size: int, risk: str, where: str, what: str
) -> None:
    roots = f"{{symbol: ES, size: {size}, spec: {{initial_margin_usd: 2500}}}}, {{symbol: GC, size: 50}}"
    (tmp_path / "sizes.yml").write_text(f"contracts: [{roots}]\n")
    error = refusal(tmp_path, f"{MINIMAL}symbols: [ES]\ncontract_map: sizes.yml\nrisk: {risk}\n")
    assert error.where == f"{tmp_path}/0.yml:{where}"
    assert what in error.what
    assert f"`size` of ES in {tmp_path}/sizes.yml" in error.fix


def test_a_limit_of_all_below_that_of_one_root_is_no_contradiction(tmp_path: Path) -> None:
    assert (
        load(tmp_path, MINIMAL + "risk: {max_contracts: 2, max_contracts_per_root: 5}\n").config.risk.max_contracts == 2
    )


# --------------------------------------------------------------------- live

LIVE_KEYS = (
    "risk.max_positions", "risk.max_contracts", "risk.max_margin_usd", "risk.daily_loss_usd", "risk.stale_flatten_s",
    "risk.safestop_policy", "golive.checklist", "golive.account", "DATABENTO_API_KEY", "TRADERSPOST_WEBHOOK_URL",
)  # fmt: skip


def lacking(error: OperatorError) -> list[str]:
    return re.findall(r"(?m)^    ([\w.]+) \(", error.what)


def test_live_protects_what_it_enters_with_a_resting_stop_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    def stop_of(text: str) -> Decimal:
        return load(tmp_path, text).config.strategy.protective_stop

    assert (stop_of(MINIMAL), stop_of(LIVE)) == (0, 2)
    assert stop_of(LIVE + "strategy: {protective_stop: 0}\n") == 0
    assert stop_of(LIVE + "strategy: {bracket: true}\n") == 0


def test_live_starts_when_everything_is_written(tmp_path: Path) -> None:
    live = load(tmp_path, LIVE).config
    assert (live.mode, live.golive) == ("live", GoLive(checklist=dt.date(2026, 11, 1), account="test"))
    assert live.golive.valid_until == dt.date(2027, 1, 30)
    assert live.webhook_url is not None
    assert live.webhook_url.reveal() == URL
    assert live.databento_key == Secret(KEY, name="DATABENTO_API_KEY")


def test_live_names_everything_that_is_missing_in_one_message(tmp_path: Path) -> None:
    error = refusal(tmp_path, "account: test\nmode: live\nrisk: {max_positions: 1}\n")
    assert lacking(error) == list(LIVE_KEYS[1:8])
    everything = refusal(tmp_path, "account: test\nmode: live\n", environ={})
    assert everything.where == f"{tmp_path}/0.yml:2:7"
    assert lacking(everything) == list(LIVE_KEYS)
    assert "Data/live.example.yml" in everything.fix
    assert "docs/go-live.md" in everything.fix


@pytest.mark.parametrize("key", LIVE_KEYS)
def test_a_default_is_nobodys_decision_in_live(tmp_path: Path, key: str) -> None:
    name = key.rpartition(".")[2]
    text = re.sub(rf"(?m)^  {name}: .*\n|(?<={{){name}: [^,}}]*, |, {name}: [^,}}]*(?=}})", "", LIVE)
    environ = {each: value for each, value in ENVIRON.items() if each != key}
    assert (text != LIVE) != (environ != ENVIRON)
    assert lacking(refusal(tmp_path, text, environ=environ)) == [key]


def test_what_live_wants_may_stand_in_an_overlay(tmp_path: Path) -> None:
    text = LIVE.replace("  daily_loss_usd: 500\n", "")
    assert load(tmp_path, text, "risk: {daily_loss_usd: 300}\n").config.risk.daily_loss_usd == 300


def test_a_margin_limit_without_margins_is_refused_in_live(tmp_path: Path) -> None:
    text = LIVE.replace("symbols: [ES]\n", "")
    error = refusal(tmp_path, text)
    assert error.what == "risk.max_margin_usd: the contract map has no initial_margin_usd of GC"
    assert error.where == f"{tmp_path}/0.yml:7:19"
    assert f"{tmp_path}/margins.yml" in error.fix
    assert load(tmp_path, text.replace("mode: live", "mode: paper")).config.risk.max_margin_usd == 10_000


METALS = f"""{MARGINS[:-3]}, spec: {{initial_margin_usd: 1500}}}}, {{symbol: SI}}]
reference_feeds: [{{symbol: PL}}]
"""


def test_live_trades_no_hours_that_nobody_checked(tmp_path: Path) -> None:
    (tmp_path / "metals.yml").write_text(METALS)
    text = LIVE.replace("symbols: [ES]", "symbols: [ES, GC]").replace("margins.yml", "metals.yml")
    error = refusal(tmp_path, text)
    assert "the trading hours of GC have not been checked against the exchange's" in error.what
    assert error.where == f"{tmp_path}/0.yml:2:7"
    assert "golive: {hours_confirmed: [GC]}" in error.fix
    assert "calendar_overrides.yml" in error.fix
    confirmed = "golive: {hours_confirmed: [GC, SI]}\n"
    config = load(tmp_path, text, confirmed).config
    assert config.golive.hours_confirmed == ("GC", "SI")
    other = refusal(tmp_path, text, "golive: {hours_confirmed: [SI]}\n")
    assert other.where == f"{tmp_path}/1.yml:1:27"
    assert "golive: {hours_confirmed: [SI, GC]}" in other.fix
    # Paper trades them as they are; and what is only read needs no confirmation.
    assert load(tmp_path, text.replace("mode: live", "mode: paper")).config.golive.hours_confirmed == ()
    assert load(tmp_path, text.replace("[ES, GC]", "[ES]")).config.mode == "live"


@pytest.mark.parametrize(
    ("date", "what"),
    [
        ("2026-11-20", None),
        ("2026-08-22", None),
        ("2026-11-21", "2026-11-21 is in the future"),
        ("2026-08-21", "2026-08-21 is 91 days ago, 90 at most"),
    ],
)
def test_a_confirmation_is_of_the_last_90_days(tmp_path: Path, date: str, what: str | None) -> None:
    text = LIVE.replace("2026-11-01", date)
    if what is None:
        load(tmp_path, text)
        return
    error = refusal(tmp_path, text)
    assert what in error.what
    assert error.where == f"{tmp_path}/0.yml:12:21"
    load(tmp_path, text.replace("mode: live", "mode: paper"))


def test_renewing_the_confirmation_goes_on_with_the_session(tmp_path: Path) -> None:
    renewed = load(tmp_path, LIVE.replace("2026-11-01", "2026-11-19")).config
    assert config_digest(renewed) == config_digest(load(tmp_path, LIVE).config)


# ------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"execution:\n  url: {URL}\n", "2:3"),
        (f"execution: {URL}\n", "1:12"),
        ("execution: {url: http://127.0.0.1:80/x}\n", "1:13"),
        (f"account: {URL}\n", "1:10"),
        (f"account: test\nfeed: {{api_key: {KEY}}}\n", "2:8"),
        (f"account: test\nDATABENTO_API_KEY: {KEY}\n", "2:1"),
        (f"account: {KEY}\n", "1:10"),
        (f"account: test\nsymbols: [ES, {KEY}]\n", "2:15"),
        (f"account: test\nexecution: {{password: {CANARY}}}\n", "2:13"),
    ],
)
def test_a_secret_in_a_file_is_refused_and_not_repeated(tmp_path: Path, text: str, where: str) -> None:
    for error in (refusal(tmp_path, text), refusal(tmp_path, MINIMAL, text)):
        assert error.where.endswith(f".yml:{where}")
        assert "environment" in error.fix


def test_an_execution_value_that_is_no_mapping_is_not_repeated(tmp_path: Path) -> None:
    assert refusal(tmp_path, f"account: a\nexecution: {CANARY}\n").where.endswith("0.yml:2:12")
    assert load(tmp_path, MINIMAL + "execution:\n").config.account == "test"


def test_no_text_form_of_a_configuration_holds_a_secret(tmp_path: Path) -> None:
    loaded = load(tmp_path, MINIMAL, environ={**ENVIRON, "ALERT_URLS": f"tgram://{CANARY}/1"})
    shown: list[Any] = [loaded, loaded.config, attrs.asdict(loaded), describe(loaded), f"{loaded.config.webhook_url}"]
    assert all(CANARY not in str(each) and CANARY not in repr(each) for each in shown)
    secret = loaded.config.webhook_url
    assert secret is not None
    for serialise in (json.dumps, pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            serialise(secret)


# ---------------------------------------------------------- finding, demo


def test_the_configuration_is_the_option_then_the_variable_then_live_yml(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(MINIMAL)
    named = {"ROONEY_CONFIG": "named.yml"}
    assert find_config(Path("/x/y.yml"), named, tmp_path) == Path("/x/y.yml")
    assert find_config(Path("y.yml"), named, tmp_path) == tmp_path / "y.yml"
    assert find_config(None, named, tmp_path) == tmp_path / "named.yml"
    assert find_config(None, {"ROONEY_CONFIG": ""}, tmp_path) == tmp_path / "live.yml"


def test_without_any_configuration_the_ways_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        find_config(None, {}, tmp_path)
    assert caught.value.exit_code == 78
    for word in ("ROONEY_CONFIG", "live.yml", "--demo", "Data/live.example.yml", "--config"):
        assert word in str(caught.value)


def test_the_demo_is_paper_in_simulated_time_with_the_veto(tmp_path: Path) -> None:
    demo = demo_config(tmp_path, {})
    assert (demo.mode, demo.account, demo.clock, demo.is_demo) == ("paper", "demo", "feed", True)
    assert demo.strategy == StrategySettings()
    assert len(demo.roots) == 19
    assert config_digest(demo) == config_digest(demo_config(tmp_path / "elsewhere", {"X": "y"}))


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("http://127.0.0.1:8080/trading/webhook/a/b", True),
        ("http://localhost:8080/trading/webhook/a/b", True),
        ("http://[::1]:8080/trading/webhook/a/b", True),
        (URL, False),
        ("http://127.0.0.1.example.com/trading/webhook/a/b", False),
    ],
)
def test_the_demo_takes_a_webhook_only_on_this_machine(tmp_path: Path, url: str, is_taken: bool) -> None:
    demo: Config = demo_config(tmp_path, {"TRADERSPOST_WEBHOOK_URL": url})
    assert (demo.webhook_url is not None) is is_taken
