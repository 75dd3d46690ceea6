"""The contract map: which product is read and which is ordered for each root.

`Data/Databento_contract_map.yml` (or JSON of the same shape). What a short map leaves out
comes from `products`; what it states must agree with them, because a wrong multiplier once
made every profit ten times too large. A root that is not in the table needs a whole `spec`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

import attrs

from adapters.environment import COMMISSION_VARIABLE, DEFAULT_COMMISSION, Pair, commission_from, pairs_from
from adapters.products import CALENDARS, DEFAULT_PAIR, DEFAULT_PRODUCT, PRODUCTS, products_of
from adapters.yaml_source import (
    YamlMap,
    YamlValue,
    as_choice,
    as_decimal,
    as_flag,
    as_list,
    as_map,
    as_text,
    as_whole,
    did_you_mean,
    read_map,
    refuse,
)
from domain.errors import OperatorError
from domain.expiry import leave_date
from domain.instruments import (
    ROLL_SESSIONS_BEFORE,
    ContractSpec,
    Expiry,
    RollPolicy,
    RollRule,
    TradedRoot,
    parse_contract,
)
from domain.rolls import LAST_TRADE_SESSIONS
from domain.units import decimal_to_price

DATASET = "GLBX.MDP3"
ROLL_RULES = get_args(RollRule)
ROLL_POLICIES = get_args(RollPolicy)

_REFERENCE_KEYS = ("symbol", "databento", "roll", "spec")
_CONTRACT_KEYS = (
    *_REFERENCE_KEYS,
    "tradovate_symbol",
    "tradovate_description",
    "optimized",
    "order_spec",
    "size",
    "commission_per_side",
    "pair",
)
_DATABENTO_KEYS = ("dataset", "feed_symbol", "product_id")
_SPEC_KEYS = ("tick_size", "multiplier", "currency", "exchange_calendar", "initial_margin_usd")
_CODE = re.compile(r"[A-Z0-9]{1,6}")
_YEAR = re.compile(r"\d{4}$", re.ASCII)
_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class ContractMap:
    """Traded roots in the map's order, then reference roots; `digest` is a sha256 of what they say.

    The digest is taken from the resolved roots: comments, order of keys and spelled-out defaults do not change it.
    """

    roots: tuple[TradedRoot, ...]
    digest: str
    sources: Mapping[str, str] = attrs.field(eq=False)
    """Where `ROOT.pair` and `ROOT.commission_per_side` of each traded root come from, but for defaults."""

    @property
    def traded(self) -> tuple[TradedRoot, ...]:
        return tuple(root for root in self.roots if not root.is_reference)

    @property
    def references(self) -> tuple[TradedRoot, ...]:
        return tuple(root for root in self.roots if root.is_reference)


def load_contract_map(path: Path, *, environ: Mapping[str, str] = _NO_ENVIRONMENT) -> ContractMap:
    """The map in `path`, YAML or JSON. Raises OperatorError with file:line:column.

    `environ` may hold COMMISSION_PER_SIDE, for roots without a commission of their own, and PAIR_MAP or
    PAIR_MAP_PATH, which win over the map's pairs.
    """
    document = read_map(path)
    document.refuse_unknown(("contracts", "reference_feeds"))
    contracts_at = document.require("contracts", fix="add `contracts:` with one `- symbol: ROOT` per root")
    contracts = [as_map(item) for item in as_list(contracts_at)]
    if not contracts:
        refuse(contracts_at, "no root is traded", fix="add at least one `- symbol: ROOT`")
    feeds_at = document.get("reference_feeds")
    feeds = [as_map(item) for item in as_list(feeds_at)] if feeds_at is not None else []
    commission = commission_from(environ)
    read = [(entry, _traded(entry, DEFAULT_COMMISSION if commission is None else commission)) for entry in contracts]
    read += [(entry, _reference(entry)) for entry in feeds]
    _refuse_doubles(read)
    names = [root.root for _, root in read]
    pairs = pairs_from(environ, traded=names[: len(contracts)], known=names)
    roots = tuple(
        attrs.evolve(root, pair=pairs[root.root].root if root.root in pairs else _pair(entry, root, names))
        for entry, root in read
    )
    sources = _sources(read[: len(contracts)], pairs, has_commission=commission is not None)
    return ContractMap(roots=roots, digest=_digest(roots), sources=sources)


# ------------------------------------------------------------------ entries


def _traded(entry: YamlMap, commission: Decimal) -> TradedRoot:
    entry.refuse_unknown(_CONTRACT_KEYS)
    root = _code(entry.require("symbol", fix="name the root: `symbol: ES`"))
    feed = _read_feed(entry, root)
    order_at = entry.get("tradovate_symbol")
    order_product = _code(order_at) if order_at is not None else feed.product
    data_spec = _spec(root, feed.product, feed.product_at, entry.get("spec"), "spec")
    order_spec = data_spec
    order_spec_at = entry.get("order_spec")
    if order_product != feed.product:
        order_spec = _spec(root, order_product, order_at or entry, order_spec_at, "order_spec")
        if order_spec_at is None and _size_of(order_spec) != _size_of(data_spec):
            refuse(
                order_at or entry,
                f"orders go to {order_product} but data come from {feed.product}, a contract of another size",
                fix=f"order {feed.product}, or declare the pair: add `order_spec:` with the "
                f"tick_size and multiplier of {order_product}",
            )
    elif order_spec_at is not None:
        refuse(order_spec_at, f"{order_product} is both read and ordered", fix="remove order_spec, `spec` holds both")
    size_at, commission_at = entry.get("size"), entry.get("commission_per_side")
    description_at, optimized_at = entry.get("tradovate_description"), entry.get("optimized")
    known = PRODUCTS.get(order_product)
    own_commission = as_decimal(commission_at, low=Decimal(0), high=Decimal(1000)) if commission_at else commission
    return TradedRoot(
        root=root,
        data_product=feed.product,
        order_product=order_product,
        dataset=feed.dataset,
        product_id=feed.product_id,
        description=as_text(description_at) if description_at else (known.description if known else order_product),
        data_spec=data_spec,
        order_spec=order_spec,
        optimized=as_flag(optimized_at) if optimized_at else False,
        **_roll(entry, order_product),
        quantity=as_whole(size_at, low=1, high=1000) if size_at else 1,
        commission_per_side=own_commission,
    )


def _reference(entry: YamlMap) -> TradedRoot:
    entry.refuse_unknown(_REFERENCE_KEYS)
    root = _code(entry.require("symbol", fix="name the root: `symbol: PL`"))
    feed = _read_feed(entry, root)
    spec = _spec(root, feed.product, feed.product_at, entry.get("spec"), "spec")
    known = PRODUCTS.get(feed.product)
    return TradedRoot(
        root=root,
        data_product=feed.product,
        order_product=feed.product,
        dataset=feed.dataset,
        product_id=feed.product_id,
        description=known.description if known else feed.product,
        data_spec=spec,
        order_spec=spec,
        is_reference=True,
        **_roll(entry, feed.product),
    )


@attrs.frozen(kw_only=True)
class _FeedLine:
    """What is subscribed for a root; `product_at` is the value to blame when the product is wrong."""

    product: str
    product_at: YamlValue
    dataset: str
    product_id: str


def _read_feed(entry: YamlMap, root: str) -> _FeedLine:
    section_at = entry.get("databento")
    section = as_map(section_at) if section_at is not None else None
    if section is not None:
        section.refuse_unknown(_DATABENTO_KEYS)
    product_at = section.get("feed_symbol") if section is not None else None
    # Without a feed symbol the product that is ordered is the one that is read.
    product_at = product_at or entry.get("tradovate_symbol")
    product = _code(product_at) if product_at is not None else DEFAULT_PRODUCT.get(root, root)
    dataset_at = section.get("dataset") if section is not None else None
    id_at = section.get("product_id") if section is not None else None
    return _FeedLine(
        product=product,
        product_at=product_at or entry.entries["symbol"],
        dataset=as_text(dataset_at) if dataset_at is not None else DATASET,
        product_id=as_text(id_at) if id_at is not None else f"{product}.FUT",
    )


_ROLL_KEYS = ("rule", "policy", "sessions_before", "last_trade_session")
_MAX_SESSIONS_BEFORE = 40


def _roll(entry: YamlMap, product: str) -> dict[str, Any]:
    """The `roll` fields of a root whose orders go to `product`."""
    section_at = entry.get("roll")
    if section_at is None:
        return {}
    section = as_map(section_at)
    section.refuse_unknown(_ROLL_KEYS)
    rule_at, policy_at = section.get("rule"), section.get("policy")
    before_at, last_at = section.get("sessions_before"), section.get("last_trade_session")
    rule = as_choice(rule_at, ROLL_RULES) if rule_at is not None else "vendor"
    if rule_at is not None and rule == "calendar" and leave_date(product, Expiry(year=2024, month=6)) is None:
        refuse(rule_at, f"it is not known when {product} expires", fix="use the rule vendor or volume")
    if before_at is not None and rule != "calendar":
        refuse(before_at, f"the rule {rule} does not look at sessions", fix="remove it, or write `rule: calendar`")
    before = ROLL_SESSIONS_BEFORE
    if before_at is not None:
        # Later than the last trade session no rule selects.
        before = as_whole(before_at, low=LAST_TRADE_SESSIONS, high=_MAX_SESSIONS_BEFORE)
    return {
        "roll_rule": rule,
        "roll_policy": cast("RollPolicy", as_choice(policy_at, ROLL_POLICIES)) if policy_at is not None else "close",
        "roll_sessions_before": before,
        "last_trade_sessions": _last_trade_sessions(as_map(last_at), product) if last_at is not None else (),
    }


def _last_trade_sessions(section: YamlMap, product: str) -> tuple[tuple[str, str], ...]:
    """What the map states by ordered contract, such as `MESZ2025: 2025-12-15`."""
    return tuple((_ticker(key, section, product), _date(at)) for key, at in section.entries.items())


def _ticker(key: str, section: YamlMap, product: str) -> str:
    name = parse_contract(key[:-4] + key[-1:], [product], dt.date(int(key[-4:]), 1, 1)) if _YEAR.search(key) else None
    if name is None or name.ticker != key:
        raise OperatorError(
            f"{key!r} is no contract of {product}",
            where=str(section.keys_at[key]),
            fix=f"write the ordered contract with its four-digit year: {product}Z2025",
        )
    return key


def _date(value: YamlValue) -> str:
    text = as_text(value)
    try:
        is_date = dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        is_date = False
    if not is_date:
        refuse(value, f"{text!r} is not a date", fix="write the session's date as YYYY-MM-DD")
    return text


def _pair(entry: YamlMap, root: TradedRoot, names: Sequence[str]) -> str | None:
    pair_at = entry.get("pair")
    if pair_at is None:
        default = DEFAULT_PAIR.get(root.root)
        return default if default in names and not root.is_reference else None
    pair = _code(pair_at)
    if pair == root.root:
        refuse(pair_at, f"{pair} cannot be its own pair", fix="name another root of this map")
    if pair not in names:
        refuse(pair_at, f"{pair} is not a root of this map", fix=did_you_mean(pair, names))
    return pair


# -------------------------------------------------------------------- specs


def _spec(root: str, product: str, product_at: YamlValue, spec_at: YamlValue | None, key: str) -> ContractSpec:
    """The spec of `product`: the table's, confirmed or completed by the map's, or the map's alone for a new root."""
    declared = as_map(spec_at) if spec_at is not None else None
    if declared is not None:
        declared.refuse_unknown(_SPEC_KEYS)
    known = PRODUCTS.get(product)
    if known is not None and known.root != root:
        refuse(product_at, f"{product} is a product of {known.root}, not of {root}", fix=_choices(root))
    if known is None and root in DEFAULT_PRODUCT:
        refuse(product_at, f"{product} is not a known product of {root}", fix=_choices(root, near=product))
    if known is None:
        if declared is None:
            fix = f"{did_you_mean(root, DEFAULT_PRODUCT)} (or describe a new root in `{key}:`)"
            refuse(product_at, f"{root} is not a known root and has no {key}", fix=fix)
        return _declared_spec(declared)
    return known.spec if declared is None else _confirmed_spec(product, known.spec, declared)


def _declared_spec(section: YamlMap) -> ContractSpec:
    def required(key: str) -> YamlValue:
        return section.require(key, fix=f"a root outside the product table needs {', '.join(_SPEC_KEYS[:4])}")

    return ContractSpec(
        tick_size=decimal_to_price(_positive(required("tick_size"))),
        multiplier=_positive(required("multiplier")),
        currency=_currency(required("currency")),
        exchange_calendar=as_choice(required("exchange_calendar"), CALENDARS),
        initial_margin_usd=_margin(section),
    )


def _confirmed_spec(product: str, known: ContractSpec, section: YamlMap) -> ContractSpec:
    """`known` with the map's margin. Raises OperatorError when the map contradicts the table."""
    tick_at, multiplier_at, currency_at = (section.get(key) for key in ("tick_size", "multiplier", "currency"))
    if tick_at is not None and decimal_to_price(_positive(tick_at)) != known.tick_size:
        _refuse_contradiction(tick_at, product, Decimal(known.tick_size).scaleb(-9).normalize())
    if multiplier_at is not None and _positive(multiplier_at) != known.multiplier:
        _refuse_contradiction(multiplier_at, product, known.multiplier)
    if currency_at is not None and _currency(currency_at) != known.currency:
        _refuse_contradiction(currency_at, product, known.currency)
    calendar_at = section.get("exchange_calendar")
    # Another group's calendar would pass for checked hours.
    if calendar_at is not None and as_choice(calendar_at, CALENDARS) != known.exchange_calendar:
        _refuse_contradiction(calendar_at, product, known.exchange_calendar)
    return attrs.evolve(known, initial_margin_usd=_margin(section))


def _refuse_contradiction(value: YamlValue, product: str, right: object) -> None:
    right = f"{right:f}" if isinstance(right, Decimal) else right
    refuse(
        value,
        f"{product} has {right}, as the exchange publishes it",
        fix=f"write {right} or remove the line; when the exchange has changed its product, change adapters/products.py",
    )


def _size_of(spec: ContractSpec) -> tuple[int, Decimal, str]:
    return spec.tick_size, spec.multiplier, spec.currency


def _positive(value: YamlValue) -> Decimal:
    """A number above zero that nine decimals hold."""
    number = as_decimal(value, low=Decimal("1E-9"), high=Decimal("1E9"))
    if number != number.quantize(Decimal("1E-9")):
        refuse(value, f"{number} has more than nine decimals", fix="prices are kept in units of 1e-9")
    return number


def _margin(section: YamlMap) -> Decimal | None:
    value = section.get("initial_margin_usd")
    return as_decimal(value, low=Decimal(0), high=Decimal("1E7")) if value is not None else None


def _currency(value: YamlValue) -> str:
    text = as_text(value)
    if text != "USD":
        # Profit and loss are one sum; a second currency would need a rate that nobody supplies.
        refuse(value, f"currency {text!r} is not supported", fix="write USD")
    return text


def _code(value: YamlValue) -> str:
    text = as_text(value)
    if not _CODE.fullmatch(text):
        refuse(value, f"{text!r} is not a symbol", fix="write capitals and digits, without month or suffix: MES")
    return text


def _choices(root: str, near: str = "") -> str:
    codes = products_of(root)
    if not codes:
        return f"{did_you_mean(root, DEFAULT_PRODUCT)} (as `symbol`)"
    return did_you_mean(near, codes) if near else f"one of: {', '.join(codes)}"


# ------------------------------------------------------------- the whole map


def _refuse_doubles(read: Sequence[tuple[YamlMap, TradedRoot]]) -> None:
    """A root stands once, and a product belongs to one root: a trade must never count twice."""
    roots: dict[str, YamlMap] = {}
    products: dict[str, str] = {}
    for entry, root in read:
        symbol_at = entry.entries["symbol"]
        if root.root in roots:
            line = roots[root.root].at.line
            refuse(symbol_at, f"{root.root} stands twice, first at line {line}", fix="keep one of the two")
        if root.data_product in products:
            owner = products[root.data_product]
            refuse(symbol_at, f"{root.data_product} is already read for {owner}", fix="give each root its own product")
        roots[root.root] = entry
        products[root.data_product] = root.root


def _sources(
    read: Sequence[tuple[YamlMap, TradedRoot]], pairs: Mapping[str, Pair], *, has_commission: bool
) -> dict[str, str]:
    sources = {}
    for entry, root in read:
        stated = {key: value for key in ("pair", "commission_per_side") if (value := entry.get(key)) is not None}
        if has_commission:
            sources[f"{root.root}.commission_per_side"] = COMMISSION_VARIABLE
        sources |= {f"{root.root}.{key}": str(value.at) for key, value in stated.items()}
        if root.root in pairs:
            sources[f"{root.root}.pair"] = pairs[root.root].source
    return sources


def _digest(roots: Sequence[TradedRoot]) -> str:
    rows = [attrs.asdict(root) for root in roots]
    text = json.dumps(rows, sort_keys=True, default=lambda number: f"{number.normalize():f}")
    return hashlib.sha256(text.encode()).hexdigest()
