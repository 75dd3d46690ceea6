"""The bytes of an order's message, as tables; judged by a schema that shares no code with the builder."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.traderspost.payload import build_payload, encode
from adapters.traderspost.schema import Parsed, Signal, lint, parse, validate
from domain.errors import OurError
from domain.events import OrderRequested, SessionOpened
from domain.ibs import StrategySettings
from domain.instruments import ContractSpec, ResolvedContract, TradedRoot
from domain.risk import RiskSettings
from domain.sessions import Session, to_nanos
from domain.units import MINUTE, Nanos, Price

# --------------------------------------- an independent reading of the documentation: a table and a tokenizer

TICKER = re.compile(r"^[A-Z0-9]{1,3}[FGHJKMNQUVXZ]20[0-9]{2}$")
TIME = re.compile(r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{3})?Z$")
PLAIN_NUMBER = re.compile(r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$")
STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
NUMBER_LITERAL = re.compile(r"-?\d[0-9.eE+-]*")

FIELDS = {
    "ticker": str,
    "action": str,
    "sentiment": str,
    "quantity": int,
    "quantityType": str,
    "orderType": str,
    "limitPrice": (int, float),
    "signalPrice": (int, float),
    "timeInForce": str,
    "cancelAfter": int,
    "cancel": bool,
    "ignoreTradingWindows": bool,
    "time": str,
    "extras": dict,
}
VALUES = {
    "action": {"buy", "sell", "exit"},
    "sentiment": {"bullish", "bearish", "flat"},
    "quantityType": {"fixed_quantity"},
    "orderType": {"market", "limit"},
    "timeInForce": {"day", "gtc", "gtd", "opg", "cls", "ioc", "fok"},
}
ENTRY = {("buy", "bullish"), ("sell", "bearish")}
FULL_EXIT = {("sell", "flat"), ("buy", "flat")}


def schema_faults(text: str) -> list[str]:
    """Everything in `text` that the documentation, or our table of what we send, does not allow."""
    bare = STRING_LITERAL.sub('""', text)
    found = [f"number {n}" for n in NUMBER_LITERAL.findall(bare) if not PLAIN_NUMBER.match(n)]
    found += ["NaN"] if "NaN" in bare or "Infinity" in bare else []
    found += ["white space"] if re.search(r"\s", bare) else []
    found += [] if text.isascii() else ["not ASCII"]
    message = json.loads(text)
    for name, value in message.items():
        kinds = FIELDS.get(name)
        if kinds is None:
            found.append(f"unknown field {name}")
        elif not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            found.append(f"type of {name}")
        elif name in VALUES and value not in VALUES[name]:
            found.append(f"value of {name}")
    return found + _rules(message)


def _rules(message: dict) -> list[str]:
    pair = (message.get("action"), message.get("sentiment"))
    is_entry, is_exit = pair in ENTRY, pair in FULL_EXIT
    is_limit = message.get("orderType") == "limit"
    rules = {
        "ticker": bool(TICKER.match(message.get("ticker", ""))),
        "time": bool(TIME.match(message.get("time", ""))),
        "action and sentiment": is_entry or is_exit,
        "signalPrice": "signalPrice" in message,
        "orderType": "orderType" in message,
        "entry has a quantity": not is_entry or message.get("quantity", 0) > 0,
        "entry has a quantityType": not is_entry or message.get("quantityType") == "fixed_quantity",
        "entry keeps trading windows": not is_entry or "ignoreTradingWindows" not in message,
        "full exit has no quantity": not is_exit or not {"quantity", "quantityType"} & set(message),
        "full exit is a market order": not is_exit or message.get("orderType") == "market",
        "full exit ignores trading windows": not is_exit or message.get("ignoreTradingWindows") is True,
        "limit has its fields": not is_limit or {"limitPrice", "timeInForce", "cancelAfter"} <= set(message),
        "market has no limit": is_limit or "limitPrice" not in message,
        "extras": len(json.dumps(message.get("extras", {}), separators=(",", ":"))) <= 1024,
    }
    return [name for name, holds in rules.items() if not holds]


def test_the_schema_check_itself_can_fail() -> None:
    good = json.loads(build_payload(request(), opened())[1])
    assert schema_faults(json.dumps(good, separators=(",", ":"))) == []
    for change, expected in (
        ({"ticker": "MESM4"}, "ticker"),
        ({"signalPrice": 5e-07}, "number 5e-07"),
        ({"signalPrice": float("nan")}, "NaN"),
        ({"quantity": True}, "type of quantity"),
        ({"sentiment": "flat"}, "full exit has no quantity"),
        ({"note": 1}, "unknown field note"),
    ):
        assert expected in schema_faults(json.dumps(good | change, separators=(",", ":")))


# ----------------------------------------------------------------------------------------------- builders

DECIDED = to_nanos(dt.datetime(2024, 5, 1, 15, 0, tzinfo=dt.UTC))


def traded(root: str, data: str, order: str, tick: int, order_tick: int | None = None) -> TradedRoot:
    def spec(size: int) -> ContractSpec:
        return ContractSpec(tick_size=Price(size), multiplier=Decimal(5), currency="USD", exchange_calendar="CME")

    return TradedRoot(
        root=root,
        data_product=data,
        order_product=order,
        dataset="GLBX.MDP3",
        product_id=f"{data}.FUT",
        description=f"Micro {root}",
        data_spec=spec(tick),
        order_spec=spec(order_tick or tick),
    )


ROOTS = (
    traded("ES", "MES", "MES", 250_000_000),
    traded("NQ", "NQ", "MNQ", 250_000_000),
    traded("GC", "GC", "GC", 100_000_000),
    traded("6E", "6E", "M6E", 50_000, 100_000),
    traded("6J", "6J", "6J", 500),
    attrs.evolve(traded("PL", "PL", "PL", 100_000_000), is_reference=True),
)


def opened(date: dt.date = dt.date(2024, 5, 1), **changes: object) -> SessionOpened:
    event = SessionOpened(
        session=Session(date=date, start_ns=Nanos(0), open_ns=Nanos(0), end_ns=Nanos(1), hours=()),
        segment=1,
        mode="paper",
        is_demo=False,
        account="paper",
        clock="feed",
        seed=1,
        version="0",
        code_digest="",
        config_digest="",
        libraries={},
        strategy=StrategySettings(),
        risk=RiskSettings(),
        roots=ROOTS,
        contracts=(ResolvedContract(root="ES", rank=0, raw_symbol="MESM4", instrument_id=17),),
        feed_start_ns=Nanos(0),
    )
    return attrs.evolve(event, **changes)


def request(**changes: object) -> OrderRequested:
    event = OrderRequested(
        root="ES",
        signal_id="0" * 32,
        contract="MESM4",
        intent="entry",
        side="buy",
        quantity=2,
        order_type="market",
        limit_price=None,
        reference_price=Price(5_045_250_000_000),
        decided_ns=DECIDED,
        bar_ns=Nanos(60 * MINUTE),
        reason="",
        ibs=0.125,
        probability=0.75,
        threshold=0.5,
    )
    return attrs.evolve(event, **changes)


def exit_request(**changes: object) -> OrderRequested:
    fields: dict[str, object] = {
        "intent": "exit",
        "side": "sell",
        "reason": "target",
        "entry_signal_id": "1" * 32,
        "bars_held": 3,
        "pnl_assumed": Decimal("12.50"),
    }
    return request(**(fields | changes))


def sent(asked: OrderRequested, session: SessionOpened | None = None) -> dict[str, object]:
    return dict(json.loads(build_payload(asked, session or opened())[1], parse_float=Decimal))


# --------------------------------------------------------------------------------------------- whole texts


def test_an_entry_byte_for_byte() -> None:
    assert build_payload(request(), opened()) == (
        "MESM2024",
        '{"ticker":"MESM2024","action":"buy","sentiment":"bullish","quantity":2,"quantityType":"fixed_quantity",'
        '"orderType":"market","signalPrice":5045.25,"time":"2024-05-01T15:00:00Z",'
        f'"extras":{{"signal_id":"{"0" * 32}","session":"2024-05-01","strategy":"ibs","intent":"entry",'
        '"bar_close":"2024-05-01T15:00:00Z","env":"paper","ibs":0.125,"probability":0.75,"threshold":0.5,'
        '"tradovate_symbol":"MES","description":"Micro ES","dataset":"GLBX.MDP3","feed_symbol":"MES",'
        '"product_id":"MES.FUT","instrument_id":17,"optimized":false,"roll_rule":"vendor"}}',
    )


def test_a_full_exit_byte_for_byte() -> None:
    assert build_payload(exit_request(bar_ns=Nanos(0), ibs=None, probability=None, threshold=None), opened()) == (
        "MESM2024",
        '{"ticker":"MESM2024","action":"sell","sentiment":"flat","orderType":"market","signalPrice":5045.25,'
        '"ignoreTradingWindows":true,"time":"2024-05-01T15:00:00Z",'
        f'"extras":{{"signal_id":"{"0" * 32}","session":"2024-05-01","strategy":"ibs","intent":"exit","env":"paper",'
        f'"exit_reason":"target","entry_signal_id":"{"1" * 32}","bars_held":3,"pnl_assumed":12.50,'
        '"tradovate_symbol":"MES","description":"Micro ES","dataset":"GLBX.MDP3","feed_symbol":"MES",'
        '"product_id":"MES.FUT","instrument_id":17,"optimized":false,"roll_rule":"vendor"}}',
    )


@pytest.mark.parametrize(
    ("asked", "action", "sentiment"),
    [
        (request(side="buy"), "buy", "bullish"),
        (request(side="sell"), "sell", "bearish"),
        (exit_request(side="sell"), "sell", "flat"),
        (exit_request(side="buy"), "buy", "flat"),
    ],
)
def test_action_and_sentiment(asked: OrderRequested, action: str, sentiment: str) -> None:
    message = sent(asked)
    assert (message["action"], message["sentiment"]) == (action, sentiment)


# -------------------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("root", "contract", "side", "limit", "expected"),
    [
        ("ES", "MESM4", "buy", 5_045_370_000_000, "5045.25"),
        ("ES", "MESM4", "sell", 5_045_370_000_000, "5045.5"),
        ("ES", "MESM4", "buy", 5_000_000_000_000, "5000"),
        ("ES", "MESM4", "sell", 5_045_250_000_000, "5045.25"),
        # read on 6E's grid of 0.00005, ordered on M6E's of 0.0001
        ("6E", "6EM4", "buy", 1_072_350_000, "1.0723"),
        ("6E", "6EM4", "sell", 1_072_350_000, "1.0724"),
        # ticks of 0.0000005: six and seven decimals, never 5e-07
        ("6J", "6JM4", "buy", 6_426_700, "0.0064265"),
        ("6J", "6JM4", "sell", 6_426_700, "0.006427"),
        ("6J", "6JM4", "buy", 500, "0.0000005"),
        # crude has traded below zero: down and up keep their direction
        ("ES", "MESM4", "buy", -370_000_000, "-0.5"),
        ("ES", "MESM4", "sell", -370_000_000, "-0.25"),
    ],
)
def test_limit_prices_are_on_the_order_products_grid_in_fixed_decimals(
    root: str, contract: str, side: str, limit: int, expected: str
) -> None:
    asked = request(
        root=root, contract=contract, side=side, order_type="limit", limit_price=limit, reference_price=limit
    )
    text = build_payload(asked, opened())[1]
    assert f'"orderType":"limit","limitPrice":{expected},"timeInForce":"day","cancelAfter":60,' in text
    assert f'"signalPrice":{expected},' in text
    assert schema_faults(text) == []


def test_cancel_after_is_the_strategys() -> None:
    session = opened(strategy=StrategySettings(cancel_after_s=45))
    assert sent(request(order_type="limit", limit_price=Price(10**12)), session)["cancelAfter"] == 45


@pytest.mark.parametrize(
    ("value", "text"), [(5e-07, "0.0000005"), (1e-12, "0"), (-1e-12, "0"), (1 / 3, "0.333333333"), (1.0, "1")]
)
def test_ratios_are_fixed_decimals(value: float, text: str) -> None:
    assert f'"ibs":{text},' in build_payload(request(ibs=value), opened())[1]


# ----------------------------------------------------------------------------------------- ticker and time


@pytest.mark.parametrize(
    ("root", "contract", "date", "ticker"),
    [
        ("GC", "GCZ3", dt.date(2013, 10, 9), "GCZ2013"),
        ("GC", "GCZ3", dt.date(2024, 5, 1), "GCZ2023"),
        ("GC", "GCG0", dt.date(2029, 12, 28), "GCG2030"),
        ("NQ", "NQM4", dt.date(2024, 5, 1), "MNQM2024"),
        ("6E", "6EM4", dt.date(2024, 5, 1), "M6EM2024"),
        ("6J", "6JJ4", dt.date(2024, 5, 1), "6JJ2024"),
    ],
)
def test_the_ticker_is_the_order_product_with_a_four_digit_year(
    root: str, contract: str, date: dt.date, ticker: str
) -> None:
    named, text = build_payload(request(root=root, contract=contract), opened(date))
    assert named == ticker
    assert json.loads(text)["ticker"] == ticker


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "2024-05-01T15:00:00Z"), (5_999_999, "2024-05-01T15:00:00.005Z"), (999_999, "2024-05-01T15:00:00Z")],
)
def test_time_is_utc_with_milliseconds_at_most(nanos: int, text: str) -> None:
    assert sent(request(decided_ns=Nanos(DECIDED + nanos)))["time"] == text


@pytest.mark.parametrize(("changes", "env"), [({}, "paper"), ({"is_demo": True}, "demo"), ({"mode": "live"}, "live")])
def test_the_environment_is_named(changes: dict[str, object], env: str) -> None:
    assert sent(request(), opened(**changes))["extras"]["env"] == env  # type: ignore[index]


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "asked",
    [
        request(root="ZB"),
        request(root="PL", contract="PLN4"),
        request(contract="MESM4-MESU4"),
        request(contract="GCM4"),
        request(quantity=0),
        request(quantity=-1),
        request(quantity=True),
        request(quantity=1.0),
        request(order_type="limit", limit_price=None),
        request(reference_price=2**63 - 1),
        request(reference_price=5045.25),
        request(ibs=float("nan")),
        request(probability=float("inf")),
        exit_request(ibs=float("nan")),
        exit_request(order_type="limit", limit_price=Price(10**12)),
        exit_request(pnl_assumed=Decimal("NaN")),
    ],
)
def test_what_cannot_be_said_is_refused(asked: OrderRequested) -> None:
    with pytest.raises(OurError):
        build_payload(asked, opened())


@pytest.mark.parametrize("value", [5e-07, 1.5, None, ["a"], Decimal("Infinity"), {"a": 0.5}])
def test_the_encoder_takes_no_float_and_nothing_without_a_form(value: object) -> None:
    with pytest.raises(OurError):
        encode(value)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- extras


def test_long_texts_of_the_operator_shorten_the_extras_and_never_stop_an_order() -> None:
    wordy = tuple(attrs.evolve(root, description="Ä" * 500, product_id="P" * 400, dataset="D" * 400) for root in ROOTS)
    session = opened(roots=wordy, strategy=StrategySettings(name="ibs" * 40))
    text = build_payload(exit_request(reason="r" * 200), session)[1]
    assert schema_faults(text) == []
    extras = json.loads(text)["extras"]
    assert {"signal_id", "session", "intent", "env", "entry_signal_id", "tradovate_symbol"} <= set(extras)
    assert "description" not in extras


@st.composite
def requests(draw: st.DrawFn) -> OrderRequested:
    """Any request the domain can hold that means something."""
    intent = draw(st.sampled_from(["entry", "exit"]))
    root, contract = draw(st.sampled_from([("ES", "MESM4"), ("NQ", "NQU4"), ("6E", "6EZ4"), ("6J", "6JH5")]))
    is_limit = intent == "entry" and draw(st.booleans())
    price = Price(draw(st.integers(-(10**11), 10**14)))
    ratio = st.none() | st.floats(0, 1)
    return request(
        root=root,
        contract=contract,
        intent=intent,
        side=draw(st.sampled_from(["buy", "sell"])),
        order_type="limit" if is_limit else "market",
        limit_price=price if is_limit else None,
        reference_price=price,
        ibs=draw(ratio),
        probability=draw(ratio),
        threshold=draw(ratio),
        decided_ns=Nanos(draw(st.integers(DECIDED, DECIDED + 10**15))),
        reason=draw(st.text(max_size=40)),
    )


@settings(max_examples=150, deadline=None)
@given(asked=requests())
def test_every_message_passes_the_documentation_and_our_own_lint(asked: OrderRequested) -> None:
    ticker, text = build_payload(asked, opened())
    assert schema_faults(text) == []
    assert (ticker, text) == build_payload(asked, opened())
    parsed = parse(text)
    assert isinstance(parsed, Parsed)
    assert isinstance(validate(parsed), Signal)
    assert lint(parsed) == ()
