"""COMMISSION_PER_SIDE, PAIR_MAP, PAIR_MAP_PATH, REQUIRED_REFERENCE_FEEDS: what is accepted, what is refused and how."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from adapters.config import Config, LoadedConfig, config_digest, demo_config, describe, load_config
from domain.errors import OperatorError

MAP = """\
contracts:
  - {symbol: ES, commission_per_side: 0.85}
  - symbol: NQ
  - {symbol: HG, pair: SI}
  - symbol: SI
  - symbol: GC
reference_feeds:
  - symbol: PL
  - symbol: TLT
"""


def load(tmp_path: Path, text: str = "", *, contract_map: str = MAP, **environ: str) -> LoadedConfig:
    (tmp_path / "map.yml").write_text(contract_map)
    (tmp_path / "live.yml").write_text("account: test\ncontract_map: map.yml\n" + text)
    return load_config(tmp_path / "live.yml", [], {"DATABENTO_API_KEY": "db-" + "0" * 29, **environ})


def refusal(tmp_path: Path, text: str = "", **environ: str) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        load(tmp_path, text, **environ)
    assert caught.value.exit_code == 78
    assert caught.value.fix
    return caught.value


def rows(loaded: LoadedConfig) -> dict[str, tuple[str, str]]:
    return {key: (value, source) for key, value, source in describe(loaded)}


def pairs(config: Config) -> dict[str, str | None]:
    return {root.root: root.pair for root in config.roots if not root.is_reference}


# ------------------------------------------------------------- commission


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, "1.25"),
        ("", "1.25"),
        ("  ", "1.25"),
        ("0", "0"),
        ("0.62", "0.62"),
        (".5", "0.5"),
        (" 2.40 ", "2.4"),
        ("1000", "1000"),
    ],
)
def test_a_commission_is_the_roots_own_else_the_environments_else_the_default(
    tmp_path: Path, text: str | None, value: str
) -> None:
    loaded = load(tmp_path, **({} if text is None else {"COMMISSION_PER_SIDE": text}))
    found = {root.root: root.commission_per_side for root in loaded.config.roots}
    assert (found["ES"], found["NQ"]) == (Decimal("0.85"), Decimal(value))
    is_stated = text is not None and bool(text.strip())
    assert rows(loaded)["NQ.commission_per_side"][1] == ("COMMISSION_PER_SIDE" if is_stated else "default")
    assert rows(loaded)["ES.commission_per_side"] == ("0.85", f"{tmp_path}/map.yml:2:39")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-1.25", "never received"),
        ("-0.01", "never received"),
        ("1000.01", "out of range"),
        ("1,25", "not an amount"),
        ("$1.25", "not an amount"),
        ("1.25 USD", "not an amount"),
        ("nan", "not an amount"),
        ("inf", "not an amount"),
        ("1e1", "not an amount"),
        ("1_0", "not an amount"),
        ("+1", "not an amount"),
        ("free", "not an amount"),
    ],
)
def test_a_commission_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    error = refusal(tmp_path, COMMISSION_PER_SIDE=text)
    assert (error.where, why in error.what) == ("COMMISSION_PER_SIDE", True)


# -------------------------------------------------------------------- pairs

OWN = {"ES": "NQ", "NQ": "ES", "HG": "SI", "SI": "GC", "GC": "SI"}
"""The map's, and the defaults where it says nothing."""


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ("GC:PL", {"GC": "PL"}),
        ("GC:PL,HG:GC", {"GC": "PL", "HG": "GC"}),
        (" GC : PL , HG : GC ", {"GC": "PL", "HG": "GC"}),
        ('{"GC": "PL"}', {"GC": "PL"}),
        ('{"GC":"PL","HG":"GC"}', {"GC": "PL", "HG": "GC"}),
        ("{GC: PL}", {"GC": "PL"}),
    ],
)
def test_a_pair_map_changes_the_roots_it_names(tmp_path: Path, text: str, changed: dict[str, str]) -> None:
    loaded = load(tmp_path, PAIR_MAP=text)
    assert pairs(loaded.config) == OWN | changed
    for root in OWN:
        source = {"HG": f"{tmp_path}/map.yml:4:24"}.get(root, "default")
        assert rows(loaded)[f"{root}.pair"] == (({**OWN, **changed})[root], "PAIR_MAP" if root in changed else source)
    same = config_digest(loaded.config) == config_digest(load(tmp_path).config)
    assert same is (not changed)


@pytest.mark.parametrize("text", ['{"GC": "PL"}\n', "GC: PL\n", "GC:PL", "\nGC:PL\n\nHG:SI\n", "﻿GC:PL"])
def test_a_pair_map_in_a_file_wins(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(text, encoding="utf-8")
    loaded = load(tmp_path, PAIR_MAP="GC:HG", PAIR_MAP_PATH=str(path))
    assert pairs(loaded.config) == OWN | {"GC": "PL"}
    assert rows(loaded)["GC.pair"] == ("PL", f"PAIR_MAP_PATH {path}")


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("GC", "'GC' is no pair", "ES:NQ"),
        ("GC:", "'GC:' is no pair", "ES:NQ"),
        (":GC", "':GC' is no pair", "ES:NQ"),
        ("GC:PL:HG", "is no pair", "ES:NQ"),
        ("GC:PL,", "'' is no pair", "ES:NQ"),
        ("GC=PL", "is no pair", "ES:NQ"),
        ("GC:PL;HG:SI", "is no pair", "ES:NQ"),
        ('["GC"]', "is no pair", "ES:NQ"),
        ("GC:PL,GC:HG", "GC stands twice", "one of the two"),
        ('{"GC": "PL", "GC": "HG"}', "duplicate key 'GC'", "one of the two"),
        ("GC:GC", "GC cannot be its own pair", "another root"),
        ("GC:CL", "'CL' is not a root of the contract map", "one of"),
        ("gc:PL", "'gc' is not a traded root", "'GC'"),
        ("PL:GC", "'PL' is not a traded root", "one of"),
        ("MGC:PL", "'MGC' is not a traded root", "'GC'"),
        ('{"GC": ["PL"]}', "expected text, got a list", "after the colon"),
        ('{"GC": null}', "expected text, got nothing", "after the colon"),
        ('{"GC": 5}', "expected text, got '5'", "quote it"),
        ('{"GC": "PL"', "expected", "brackets"),
    ],
)
def test_a_pair_map_with_a_mistake_is_refused(tmp_path: Path, text: str, what: str, fix: str) -> None:
    error = refusal(tmp_path, PAIR_MAP=text)
    assert error.where.startswith("PAIR_MAP")
    assert (what in error.what, fix in error.fix) == (True, True), error


def test_a_pair_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "bytes", "."):
        error = refusal(tmp_path, PAIR_MAP="GC:HG", PAIR_MAP_PATH=str(tmp_path / name))
        assert error.where == f"PAIR_MAP_PATH {tmp_path / name}"
    (tmp_path / "pairs.json").write_text('{\n "GC" "PL"}')
    assert refusal(tmp_path, PAIR_MAP_PATH=str(tmp_path / "pairs.json")).where.endswith("pairs.json:2:7")


# -------------------------------------------------------------------- feeds


@pytest.mark.parametrize(
    ("variable", "written", "feeds", "source"),
    [
        (None, None, ("TLT_day",), "default"),
        ("", None, ("TLT_day",), "default"),
        (None, "[]", (), "live.yml:3:27"),
        (None, "[PL_day]", ("PL_day",), "live.yml:3:27"),
        (None, "[PL_day, TLT_day]", ("PL_day", "TLT_day"), "live.yml:3:27"),
        ("", "[PL_day]", ("PL_day",), "live.yml:3:27"),
        ("TLT_day", "[]", ("TLT_day",), "REQUIRED_REFERENCE_FEEDS"),
        ("[]", None, (), "REQUIRED_REFERENCE_FEEDS"),
        ("[]", "[PL_day]", (), "REQUIRED_REFERENCE_FEEDS"),
        ("PL_day", None, ("PL_day",), "REQUIRED_REFERENCE_FEEDS"),
        (" PL_day , TLT_day ", None, ("PL_day", "TLT_day"), "REQUIRED_REFERENCE_FEEDS"),
        ("ES_day", None, ("ES_day",), "REQUIRED_REFERENCE_FEEDS"),
    ],
)
def test_required_feeds_are_the_environments_else_the_files_else_tlt(
    tmp_path: Path, variable: str | None, written: str | None, feeds: tuple[str, ...], source: str
) -> None:
    text = "" if written is None else f"required_reference_feeds: {written}\n"
    loaded = load(tmp_path, text, **({} if variable is None else {"REQUIRED_REFERENCE_FEEDS": variable}))
    assert loaded.config.required_reference_feeds == feeds
    shown, where = rows(loaded)["required_reference_feeds"]
    assert (shown, where.endswith(source)) == (", ".join(feeds) or "[]", True)
    same = config_digest(loaded.config) == config_digest(load(tmp_path).config)
    assert same is (feeds == ("TLT_day",))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("TLT", "'TLT' is no reference feed"),
        ("TLT_hour", "'TLT_hour' is no reference feed"),
        ("tlt_day", "'tlt_day' is no reference feed"),
        ("TLT_day,", "'' is no reference feed"),
        (",", "'' is no reference feed"),
        ("none", "'none' is no reference feed"),
        ("TLT_day PL_day", "is no reference feed"),
        ("ZB_day", "ZB_day is required, and ZB is not read"),
        ("CL_day", "CL_day is required, and CL is not read"),
        ("TLT_day,TLT_day", "stands twice"),
    ],
)
def test_feeds_with_a_mistake_are_refused_in_the_environment_and_in_a_file(
    tmp_path: Path, text: str, what: str
) -> None:
    error = refusal(tmp_path, REQUIRED_REFERENCE_FEEDS=text)
    assert (error.where, what in error.what) == ("REQUIRED_REFERENCE_FEEDS", True)
    listed = ", ".join(f'"{name.strip()}"' for name in text.split(","))
    error = refusal(tmp_path, f"required_reference_feeds: [{listed}]\n")
    assert error.where.startswith(f"{tmp_path}/live.yml:3:")


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    for written in ("", " TLT_day", " {}"):
        error = refusal(tmp_path, f"required_reference_feeds:{written}\n")
        assert "expected a list" in error.what


def test_the_default_stands_also_where_the_map_reads_no_tlt(tmp_path: Path) -> None:
    assert load(tmp_path, contract_map="contracts: [{symbol: ES}]\n").config.required_reference_feeds == ("TLT_day",)


def test_the_demo_takes_them_from_the_environment_too(tmp_path: Path) -> None:
    environ = {"COMMISSION_PER_SIDE": "2", "PAIR_MAP": "ES:RTY", "REQUIRED_REFERENCE_FEEDS": "PL_day"}
    demo = demo_config(tmp_path, environ)
    assert demo.required_reference_feeds == ("PL_day",)
    assert {(root.pair, root.commission_per_side) for root in demo.roots if root.root == "ES"} == {("RTY", Decimal(2))}
    assert demo_config(tmp_path, {}).required_reference_feeds == ("TLT_day",)
