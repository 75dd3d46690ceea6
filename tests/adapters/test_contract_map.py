from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from adapters import products
from adapters.contract_map import ContractMap, load_contract_map
from adapters.yaml_source import read_map
from domain.errors import OperatorError

SHIPPED = Path(__file__).parents[2] / "Data" / "Databento_contract_map.yml"

# Written here from the exchange's specifications, not taken from the code:
# root, product, tick, tick value in US dollars, multiplier, pair.
TRADED = [
    ("ES", "MES", "0.25", "1.25", "5", "NQ"),
    ("NQ", "MNQ", "0.25", "0.5", "2", "ES"),
    ("RTY", "M2K", "0.1", "0.5", "5", "YM"),
    ("YM", "MYM", "1", "0.5", "0.5", "RTY"),
    ("GC", "MGC", "0.1", "1", "10", "SI"),
    ("SI", "SIL", "0.005", "5", "1000", "GC"),
    ("HG", "MHG", "0.0005", "1.25", "2500", "SI"),
    ("CL", "MCL", "0.01", "1", "100", "NG"),
    ("NG", "MNG", "0.001", "1", "1000", "CL"),
    ("6A", "M6A", "0.0001", "1", "10000", "6E"),
    ("6B", "M6B", "0.0001", "0.625", "6250", "6E"),
    ("6E", "M6E", "0.0001", "1.25", "12500", "6A"),
]
REFERENCES = [
    ("PL", "PL", "0.1", "5"),
    ("6C", "6C", "0.00005", "5"),
    ("6J", "6J", "0.0000005", "6.25"),
    ("6M", "6M", "0.00001", "5"),
    ("6N", "6N", "0.00005", "5"),
    ("6S", "6S", "0.00005", "6.25"),
    ("TLT", "ZB", "0.03125", "31.25"),
]
FULL_SIZE = [
    ("ES", "0.25", "12.5"), ("NQ", "0.25", "5"), ("RTY", "0.1", "5"), ("YM", "1", "5"), ("GC", "0.1", "10"),
    ("SI", "0.005", "25"), ("HG", "0.0005", "12.5"), ("CL", "0.01", "10"), ("NG", "0.001", "10"),
    ("6A", "0.00005", "5"), ("6B", "0.0001", "6.25"), ("6E", "0.00005", "6.25"),
]  # fmt: skip


def load(tmp_path: Path, text: str, name: str = "map.yml", **environ: str) -> ContractMap:
    path = tmp_path / name
    path.write_text(text)
    return load_contract_map(path, environ=environ)


def refusal(tmp_path: Path, text: str, name: str = "map.yml", **environ: str) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        load(tmp_path, text, name, **environ)
    assert caught.value.exit_code == 78
    return caught.value


def test_the_shipped_map_trades_twelve_micros_with_the_exchanges_specs() -> None:
    rows = [
        (r.root, r.data_product, r.data_spec.tick_size, r.data_spec.tick_value, r.data_spec.multiplier, r.pair)
        for r in load_contract_map(SHIPPED).traded
    ]
    assert rows == [
        (root, product, int(Decimal(tick) * 10**9), Decimal(value), Decimal(multiplier), pair)
        for root, product, tick, value, multiplier, pair in TRADED
    ]


def test_the_shipped_map_reads_seven_reference_roots_and_trades_none_of_them() -> None:
    shipped = load_contract_map(SHIPPED)
    assert [(r.root, r.data_product, r.data_spec.tick_size, r.data_spec.tick_value) for r in shipped.references] == [
        (root, code, int(Decimal(tick) * 10**9), Decimal(value)) for root, code, tick, value in REFERENCES
    ]
    assert len(shipped.roots) == 19


def test_data_and_order_product_are_the_same_in_the_shipped_map() -> None:
    for root in load_contract_map(SHIPPED).roots:
        assert (root.order_product, root.order_spec) == (root.data_product, root.data_spec)
        assert (root.dataset, root.product_id) == ("GLBX.MDP3", f"{root.data_product}.FUT")


@pytest.mark.parametrize(("code", "tick", "value"), FULL_SIZE)
def test_full_size_products_have_their_own_specs(code: str, tick: str, value: str) -> None:
    spec = products.PRODUCTS[code].spec
    assert (spec.tick_size, spec.tick_value) == (int(Decimal(tick) * 10**9), Decimal(value))


def test_a_short_map_is_filled_and_says_the_same_as_the_long_one(tmp_path: Path) -> None:
    short = "contracts:\n" + "".join(
        f"  - symbol: {root}\n    optimized: {str(root not in ('6B', '6E')).lower()}\n" for root, *_ in TRADED
    )
    short += "reference_feeds:\n" + "".join(f"  - symbol: {root}\n" for root, *_ in REFERENCES)
    assert load(tmp_path, short) == load_contract_map(SHIPPED)


def test_a_map_of_one_full_size_product_needs_two_lines(tmp_path: Path) -> None:
    (gold,) = load(tmp_path, "contracts:\n  - symbol: GC\n    databento: {feed_symbol: GC}\n").roots
    assert (gold.data_product, gold.order_product, gold.product_id) == ("GC", "GC", "GC.FUT")
    assert gold.data_spec.tick_value == 10
    assert gold.commission_per_side == Decimal("1.25")
    assert gold.pair is None  # silver is not in this map


def test_json_says_the_same_as_yaml(tmp_path: Path) -> None:
    as_json = json.dumps(yaml.safe_load(SHIPPED.read_text()), indent="\t")
    assert load(tmp_path, as_json, "map.json") == load_contract_map(SHIPPED)


def test_comments_and_order_of_keys_do_not_change_the_digest_but_a_size_does(tmp_path: Path) -> None:
    one = load(tmp_path, "contracts:\n  - {symbol: GC, size: 1}\n")
    same = load(tmp_path, "# gold\ncontracts:\n  - {size: 1, symbol: GC, spec: {multiplier: 10.0}}\n")
    other = load(tmp_path, "contracts:\n  - {symbol: GC, size: 2}\n")
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert len(one.digest) == 64


def test_a_declared_pair_reads_one_product_and_orders_another(tmp_path: Path) -> None:
    text = """contracts:
  - symbol: ES
    databento: {feed_symbol: ES}
    tradovate_symbol: MES
    order_spec: {tick_size: 0.25, multiplier: 5}
"""
    (root,) = load(tmp_path, text).roots
    assert (root.data_spec.multiplier, root.order_spec.multiplier) == (50, 5)
    assert root.description.startswith("Micro E-mini S&P")


def test_a_root_of_ones_own_needs_a_whole_spec(tmp_path: Path) -> None:
    text = """contracts:
  - symbol: ZC
    spec: {tick_size: 0.25, multiplier: 50, currency: USD, exchange_calendar: CME Globex Equity, %s}
"""
    (root,) = load(tmp_path, text % "initial_margin_usd: 1200.50").roots
    assert (root.data_product, root.data_spec.tick_value) == ("ZC", Decimal("12.5"))
    assert root.data_spec.initial_margin_usd == Decimal("1200.50")
    error = refusal(tmp_path, (text % "").replace("multiplier: 50, ", ""))
    assert (error.where, error.what) == (f"{tmp_path}/map.yml:3:11", "contracts[0].spec.multiplier is missing")


def test_commission_is_the_roots_own_else_the_environments_else_the_default(tmp_path: Path) -> None:
    text = "contracts:\n  - {symbol: GC, commission_per_side: 0.9}\n  - symbol: SI\n"
    assert [r.commission_per_side for r in load(tmp_path, text).roots] == [Decimal("0.9"), Decimal("1.25")]
    with_environment = load(tmp_path, text, COMMISSION_PER_SIDE="2.40")
    assert [r.commission_per_side for r in with_environment.roots] == [Decimal("0.9"), Decimal("2.40")]


@pytest.mark.parametrize("text", ["-1", "free", "nan", "inf", "1,25"])
def test_a_commission_that_is_not_an_amount_is_refused(tmp_path: Path, text: str) -> None:
    error = refusal(tmp_path, "contracts:\n  - symbol: GC\n", COMMISSION_PER_SIDE=text)
    assert error.where == "COMMISSION_PER_SIDE"
    assert "unset it" in error.fix


REFUSED = [
    ("reference_feeds: []\n", "1:1", "contracts is missing", "symbol: ROOT"),
    ("contracts: []\n", "1:12", "no root is traded", "symbol: ROOT"),
    ("contracts:\n  - size: 1\n", "2:5", "contracts[0].symbol is missing", "symbol: ES"),
    ("contracts:\n  - symbol: ZQ9\n", "2:13", "ZQ9 is not a known root and has no spec", "spec:"),
    ("contracts:\n  - symbol: RTYY\n", "2:13", "RTYY is not a known root", "'RTY'"),
    ("contracts:\n  - symbol: es\n", "2:13", "'es' is not a symbol", "capitals"),
    ("contracts:\n  - symbol: NO\n", "2:13", "boolean", '"NO"'),
    ("contracts:\n  - {symbol: ES, databento: {feed_symbol: MESS}}\n", "2:43", "MESS is not a known product", "'MES'"),
    ("contracts:\n  - {symbol: ES, tradovate_symbol: MNQ}\n", "2:36", "MNQ is a product of NQ", "ES, MES"),
    ("contracts:\n  - {symbol: ES, databento: {feed_symbl: MES}}\n", "2:30", "unknown key", "'feed_symbol'"),
    ("contracts:\n  - {symbol: ES, sise: 2}\n", "2:18", "unknown key 'contracts[0].sise'", "'size'"),
    ("contracts:\n  - {symbol: ES, size: ten}\n", "2:24", "expected a whole number, got 'ten'", "from 1"),
    ("contracts:\n  - {symbol: ES, size: 0}\n", "2:24", "0 is out of range", "from 1"),
    ("contracts:\n  - {symbol: ES, commission_per_side: -1}\n", "2:39", "-1 is out of range", "from 0"),
    ("contracts:\n  - {symbol: ES, spec: {multiplier: 50}}\n", "2:37", "MES has 5", "write 5 or remove"),
    ("contracts:\n  - {symbol: ES, spec: {tick_size: 0.1}}\n", "2:36", "MES has 0.25", "write 0.25"),
    ("contracts:\n  - {symbol: ES, spec: {currency: EUR}}\n", "2:35", "EUR", "USD"),
    ("contracts:\n  - {symbol: ES, spec: {exchange_calendar: CMES}}\n", "2:44", "CMES", "CME Globex Equity"),
    (
        "contracts:\n  - {symbol: GC, spec: {exchange_calendar: CME Globex Equity}}\n",
        "2:44",
        "CMEGlobex_Metals",
        "write CME",
    ),
    ("contracts:\n  - {symbol: ES, roll: {rule: volum}}\n", "2:31", "volum", "'volume'"),
    ("contracts:\n  - {symbol: ES, roll: {policy: hold}}\n", "2:33", "hold", "hold_until_exit"),
    ("contracts:\n  - {symbol: ES, roll: {sessions_before: 4}}\n", "2:42", "vendor does not look", "calendar"),
    ("contracts:\n  - {symbol: ES, roll: {rule: calendar, sessions_before: 2}}\n", "2:58", "out of range", "from 3"),
    ("contracts:\n  - {symbol: ES, roll: {last_trade_session: {ESZ2025: 2025-12-15}}}\n", "2:46", "of MES", "MESZ2025"),
    ("contracts:\n  - {symbol: ES, roll: {last_trade_session: {MESZ5: 2025-12-15}}}\n", "2:46", "'MESZ5'", "MESZ2025"),
    ("contracts:\n  - {symbol: ES, roll: {last_trade_session: {MESZ2025: 15.12.}}}\n", "2:56", "not a date", "YYYY"),
    ("contracts:\n  - {symbol: ES, pair: GC}\n", "2:24", "GC is not a root of this map", "one of: ES"),
    ("contracts:\n  - {symbol: ES, pair: ES}\n", "2:24", "own pair", "another root"),
    ("contracts:\n  - symbol: ES\n  - symbol: ES\n", "3:13", "ES stands twice, first at line 2", "keep one"),
    ("contracts:\n  - symbol: GC\nreference_feeds:\n  - symbol: GC\n", "4:13", "GC stands twice", "keep one"),
    ("contracts:\n  - symbol: GC\n  - {symbol: GC2, databento: {feed_symbol: MGC}}\n", "3:44", "product of GC", "'GC'"),
    ("contracts:\n  - symbol: GC\nreference_feeds:\n  - {symbol: PL, size: 1}\n", "4:18", "unknown key", "one of"),
    ("contracts:\n  - {symbol: ES, order_spec: {multiplier: 5}}\n", "2:30", "both read and ordered", "remove"),
]


@pytest.mark.parametrize(("text", "where", "what", "fix"), REFUSED)
def test_a_map_with_a_mistake_is_refused_at_its_place(
    tmp_path: Path, text: str, where: str, what: str, fix: str
) -> None:
    error = refusal(tmp_path, text)
    assert error.where == f"{tmp_path}/map.yml:{where}"
    assert what in error.what
    assert fix in error.fix


def test_the_predecessors_pairs_of_unlike_products_are_refused_until_declared(tmp_path: Path) -> None:
    text = "contracts:\n  - symbol: HG\n    tradovate_symbol: QC\n    databento: {feed_symbol: MHG}\n"
    error = refusal(tmp_path, text)
    assert error.where == f"{tmp_path}/map.yml:3:23"
    assert "order_spec" in error.fix
    (root,) = load(tmp_path, text + "    order_spec: {tick_size: 0.002, multiplier: 12500}\n").roots
    assert root.order_spec.tick_value == 25


def test_a_wrong_declared_order_spec_is_refused(tmp_path: Path) -> None:
    text = "contracts:\n  - symbol: HG\n    tradovate_symbol: QC\n    databento: {feed_symbol: MHG}\n"
    error = refusal(tmp_path, text + "    order_spec: {multiplier: 25000}\n")
    assert error.where == f"{tmp_path}/map.yml:5:30"
    assert "QC has 12500" in error.what


def test_the_shipped_map_states_every_spec_in_full() -> None:
    entries = read_map(SHIPPED).entries
    for section in ("contracts", "reference_feeds"):
        for entry in entries[section].items:
            assert set(entry.entries["spec"].entries) == {"tick_size", "multiplier", "currency", "exchange_calendar"}


def test_a_root_states_how_it_rolls(tmp_path: Path) -> None:
    text = (
        "contracts:\n  - symbol: ES\n    roll:\n      rule: calendar\n      policy: hold_until_exit\n"
        "      sessions_before: 8\n      last_trade_session: {MESZ2013: 2013-12-19}\n  - symbol: GC\n"
    )
    stated, left_out = load(tmp_path, text).roots
    assert (stated.roll_rule, stated.roll_policy, stated.roll_sessions_before) == ("calendar", "hold_until_exit", 8)
    assert stated.last_trade_sessions == (("MESZ2013", "2013-12-19"),)
    assert (left_out.roll_rule, left_out.roll_policy, left_out.last_trade_sessions) == ("vendor", "close", ())


def test_a_root_without_a_known_expiry_cannot_roll_by_the_calendar(tmp_path: Path) -> None:
    text = "contracts:\n  - symbol: XX\n    roll: {rule: calendar}\n    spec: {tick_size: 1, multiplier: 1,"
    error = refusal(tmp_path, text + " currency: USD, exchange_calendar: CME Globex Equity}\n")
    assert "it is not known when XX expires" in error.what
