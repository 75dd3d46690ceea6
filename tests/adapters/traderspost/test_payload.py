"""The bytes of an order's message, as tables; judged by a checker that shares no code with the builder."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.contract_map import load_contract_map
from adapters.traderspost.payload import build_payload, encode
from adapters.traderspost.schema import Parsed, Refusal, Signal, lint, parse, validate
from domain.errors import OurError
from domain.events import OrderRequested, SessionOpened
from domain.ibs import StrategySettings
from domain.instruments import ContractSpec, ResolvedContract, TradedRoot
from domain.orders import Side
from domain.outbox import PROBE_BODY
from domain.ports import OrderMessage
from domain.risk import RiskSettings
from domain.sessions import Session, to_nanos
from domain.units import MINUTE, UNDEF_PRICE, Nanos, Price, price_to_decimal
from domain.veto import ModelRecord
from tests.adapters.traderspost.webhook_schema import DOCUMENTED, ENUMERATIONS, SENT, TYPES, faults, kind_of, parsed

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


def opened(date: dt.date = dt.date(2024, 5, 1), **changes: Any) -> SessionOpened:
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


def request(**changes: Any) -> OrderRequested:
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


def bracket(root: str, side: str, stop: int, target: int) -> OrderRequested:
    contract, price = {"ES": ("MESM4", 5_045_250_000_000), "6E": ("6EM4", 1_072_350_000), "6J": ("6JM4", 6_426_500)}[
        root
    ]
    return request(root=root, contract=contract, side=side, reference_price=price, stop_price=stop, target_price=target)


def exit_request(**changes: Any) -> OrderRequested:
    fields: dict[str, Any] = {
        "intent": "exit",
        "side": "sell",
        "reason": "target",
        "entry_signal_id": "1" * 32,
        "bars_held": 3,
        "pnl_assumed": Decimal("12.50"),
    }
    return request(**(fields | changes))


def sent(asked: OrderRequested, session: SessionOpened | None = None) -> dict[str, object]:
    return dict(json.loads(build_payload(asked, session or opened()).body, parse_float=Decimal))


# ------------------------------------------------------------------------------------------- the checker itself


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ticker": "MESM4"}, "ticker"),
        ({"ticker": None}, "type of ticker"),
        ({"signalPrice": 5e-07}, "number 5e-07"),
        ({"signalPrice": float("nan")}, "NaN"),
        ({"signalPrice": "5045.25"}, "type of signalPrice"),
        ({"signalPrice": 5045.3}, "tick"),
        ({"quantity": True}, "type of quantity"),
        ({"quantity": 0}, "whole numbers"),
        ({"quantity": 1.5}, "whole numbers"),
        ({"quantityType": "dollar_amount"}, "quantityType is none of ours"),
        ({"orderType": "stop"}, "orderType is none of ours"),
        ({"orderType": "limit"}, "limitPrice is missing"),
        ({"limitPrice": 5045}, "limitPrice without a limit order"),
        ({"sentiment": "flat"}, "quantity is not sent"),
        ({"sentiment": "bearish"}, "sides"),
        ({"action": "exit"}, "sides"),
        ({"action": "hold"}, "value of action"),
        ({"cancel": True}, "cancel is not sent"),
        ({"ignoreTradingWindows": True}, "ignoreTradingWindows is not sent"),
        ({"stopLoss": {"type": "stop"}}, "stopLoss.stopPrice is missing"),
        ({"stopLoss": {"stopPrice": 5000}}, "stopLoss.type is missing"),
        ({"stopLoss": {"type": "stop", "stopPrice": 5045.25}}, "stop on the losing side"),
        ({"takeProfit": {"limitPrice": 5045}}, "target on the winning side"),
        ({"takeProfit": {"percent": 1}}, "unknown takeProfit.percent"),
        ({"time": "2024-05-01T15:00:00.123456Z"}, "time"),
        ({"time": "2024-05-01T15:00:00"}, "time"),
        ({"note": 1}, "unknown note"),
        ({"extras": {}}, "extras.signal_id is missing"),
    ],
)
def test_the_checker_can_fail(change: dict[str, object], expected: str) -> None:
    good = json.loads(build_payload(request(), opened()).body)
    assert faults(json.dumps(good, separators=(",", ":")), tick=Decimal("0.25")) == []
    assert expected in faults(json.dumps(good | change, separators=(",", ":")), tick=Decimal("0.25"))


def test_the_checker_reads_the_text_and_not_a_parsers_view_of_it() -> None:
    good = build_payload(request(), opened()).body
    assert faults(good.replace('"action":"buy"', '"action":"sell","action":"buy"')) == ["doubled key"]
    assert faults(good.replace('":', '": ', 1)) == ["white space"]
    assert faults(good.replace("Micro ES", "Micro Ä")) == ["not ASCII"]
    assert faults(good.replace("Micro ES", "x" * 1024)) == ["extras too long"]


def test_what_is_sent_is_documented() -> None:
    for name, row in SENT.items():
        assert name in TYPES
        assert name in DOCUMENTED or name.startswith("extras.")
        if name in ENUMERATIONS:
            sent_values = {value for kind, cell in row.items() if kind != "field" for value in cell.split("`")[1::2]}
            assert sent_values <= set(ENUMERATIONS[name])


# --------------------------------------------------------------------------------------------- whole texts


def test_an_entry_byte_for_byte() -> None:
    assert build_payload(request(), opened()) == OrderMessage(
        ticker="MESM2024",
        body='{"ticker":"MESM2024","action":"buy","sentiment":"bullish","quantity":2,"quantityType":"fixed_quantity",'
        '"orderType":"market","signalPrice":5045.25,"time":"2024-05-01T15:00:00Z",'
        f'"extras":{{"signal_id":"{"0" * 32}","session":"2024-05-01","strategy":"ibs","intent":"entry",'
        '"bar_close":"2024-05-01T15:00:00Z","env":"paper","ibs":0.125,"probability":0.75,"threshold":0.5,'
        '"tradovate_symbol":"MES","description":"Micro ES","dataset":"GLBX.MDP3","feed_symbol":"MES",'
        '"product_id":"MES.FUT","instrument_id":17,"optimized":false,"roll_rule":"vendor"}}',
    )


def test_a_full_exit_byte_for_byte() -> None:
    asked = exit_request(bar_ns=Nanos(0), ibs=None, probability=None, threshold=None)
    assert build_payload(asked, opened()) == OrderMessage(
        ticker="MESM2024",
        body='{"ticker":"MESM2024","action":"sell","sentiment":"flat","orderType":"market","signalPrice":5045.25,'
        '"ignoreTradingWindows":true,"time":"2024-05-01T15:00:00Z",'
        f'"extras":{{"signal_id":"{"0" * 32}","session":"2024-05-01","strategy":"ibs","intent":"exit","env":"paper",'
        f'"exit_reason":"target","entry_signal_id":"{"1" * 32}","bars_held":3,"pnl_assumed":12.50,'
        '"tradovate_symbol":"MES","description":"Micro ES","dataset":"GLBX.MDP3","feed_symbol":"MES",'
        '"product_id":"MES.FUT","instrument_id":17,"optimized":false,"roll_rule":"vendor"}}',
        fallback='{"ticker":"MESM2024","action":"exit"}',
    )


def test_a_flatten_byte_for_byte() -> None:
    asked = exit_request(
        is_flatten=True,
        bar_ns=Nanos(0),
        ibs=None,
        probability=None,
        threshold=None,
        reason="daily_loss",
        bars_held=None,
    )
    assert build_payload(asked, opened()) == OrderMessage(
        ticker="MESM2024",
        body='{"ticker":"MESM2024","action":"exit","orderType":"market","signalPrice":5045.25,"cancel":true,'
        '"ignoreTradingWindows":true,"time":"2024-05-01T15:00:00Z",'
        f'"extras":{{"signal_id":"{"0" * 32}","session":"2024-05-01","strategy":"ibs","intent":"exit","env":"paper",'
        f'"exit_reason":"daily_loss","entry_signal_id":"{"1" * 32}","pnl_assumed":12.50,'
        '"tradovate_symbol":"MES","description":"Micro ES","dataset":"GLBX.MDP3","feed_symbol":"MES",'
        '"product_id":"MES.FUT","instrument_id":17,"optimized":false,"roll_rule":"vendor"}}',
        fallback='{"ticker":"MESM2024","action":"exit","cancel":true}',
    )


@pytest.mark.parametrize("changes", [{}, {"is_flatten": True}])
def test_an_exit_without_a_known_price_is_sent_without_one(changes: dict[str, object]) -> None:
    message = sent(exit_request(reference_price=Price(0), **changes))
    assert "signalPrice" not in message


@pytest.mark.parametrize("cancels_working", [False, True])
def test_an_exit_cancels_what_may_be_working(cancels_working: bool) -> None:
    message = sent(exit_request(cancels_working=cancels_working))
    assert message.get("cancel", False) is cancels_working
    assert sent(exit_request(is_flatten=True, cancels_working=cancels_working))["cancel"] is True


def test_a_flatten_is_the_same_whichever_side_is_thought_to_be_held() -> None:
    assert build_payload(
        exit_request(is_flatten=True, side="buy", reference_price=Price(0)), opened()
    ) == build_payload(exit_request(is_flatten=True, side="sell", reference_price=Price(0)), opened())


def test_what_is_held_of_a_reference_root_can_be_closed() -> None:
    assert build_payload(exit_request(root="PL", contract="PLN4"), opened()).ticker == "PLN2024"


def test_a_cancel_says_nothing_that_could_trade() -> None:
    asked = exit_request(intent="cancel", reason="safe_stop", cancels_working=True)
    message = build_payload(asked, opened())
    parsed_message = parse(message.body)
    assert isinstance(parsed_message, Parsed)
    assert isinstance(validate(parsed_message), Signal)
    assert lint(parsed_message) == ()
    assert faults(message.body) == []
    assert set(sent(asked)) == {"ticker", "action", "time", "extras"}
    assert sent(asked)["action"] == "cancel"
    assert message.fallback == ""


def test_the_fallback_names_the_contract_held() -> None:
    message = build_payload(exit_request(contract="MESZ3"), opened())
    assert message.fallback == '{"ticker":"MESZ2023","action":"exit"}'
    cancelling = build_payload(exit_request(contract="MESZ3", cancels_working=True), opened())
    assert cancelling.fallback == '{"ticker":"MESZ2023","action":"exit","cancel":true}'
    assert faults(message.fallback) == []
    assert build_payload(request(), opened()).fallback == ""


def test_the_probe_has_neither_ticker_nor_action() -> None:
    assert faults(PROBE_BODY) == []
    assert kind_of(json.loads(PROBE_BODY)) == "probe"
    probe = parse(PROBE_BODY)
    assert isinstance(probe, Parsed)
    refused = validate(probe)
    assert isinstance(refused, Refusal)
    assert refused.code == "invalid-payload"


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
    text = build_payload(asked, opened()).body
    assert f'"orderType":"limit","limitPrice":{expected},"timeInForce":"day","cancelAfter":60,' in text
    assert f'"signalPrice":{expected},' in text
    assert faults(text) == []


@pytest.mark.parametrize(
    ("asked", "stop", "target"),
    [
        (bracket("ES", "buy", 5_044_000_000_000, 5_047_000_000_000), "5044", "5047"),
        (bracket("ES", "sell", 5_047_000_000_000, 5_044_000_000_000), "5047", "5044"),
        # away from the price: a stop and a target off the grid
        (bracket("ES", "buy", 5_044_130_000_000, 5_046_130_000_000), "5044", "5046.25"),
        (bracket("ES", "sell", 5_046_130_000_000, 5_044_130_000_000), "5046.25", "5044"),
        # decided on 6E's grid, resting on M6E's
        (bracket("6E", "buy", 1_070_050_000, 1_080_050_000), "1.07", "1.0801"),
        (bracket("6J", "sell", 6_430_000, 500), "0.00643", "0.0000005"),
    ],
)
def test_a_bracket_is_absolute_and_on_the_grid_away_from_the_price(
    asked: OrderRequested, stop: str, target: str
) -> None:
    text = build_payload(asked, opened()).body
    assert (
        f'"stopLoss":{{"type":"stop","stopPrice":{stop}}},"takeProfit":{{"limitPrice":{target}}},"signalPrice"' in text
    )
    assert faults(text) == []


def test_one_leg_may_be_asked_for_alone_and_an_exit_has_none() -> None:
    assert "takeProfit" not in sent(request(stop_price=Price(5_000_000_000_000)))
    assert "stopLoss" not in sent(request(target_price=Price(5_100_000_000_000)))
    message = sent(exit_request(stop_price=Price(10**12), target_price=Price(10**12)))
    assert not {"stopLoss", "takeProfit"} & set(message)


def test_cancel_after_is_the_strategys() -> None:
    session = opened(strategy=StrategySettings(cancel_after_s=45))
    assert sent(request(order_type="limit", limit_price=Price(10**12)), session)["cancelAfter"] == 45


@pytest.mark.parametrize(
    ("value", "text"), [(5e-07, "0.0000005"), (1e-12, "0"), (-1e-12, "0"), (1 / 3, "0.333333333"), (1.0, "1")]
)
def test_ratios_are_fixed_decimals(value: float, text: str) -> None:
    assert f'"ibs":{text},' in build_payload(request(ibs=value), opened()).body


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
    message = build_payload(request(root=root, contract=contract), opened(date))
    assert message.ticker == ticker
    assert json.loads(message.body)["ticker"] == ticker


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "2024-05-01T15:00:00Z"), (5_999_999, "2024-05-01T15:00:00.005Z"), (999_999, "2024-05-01T15:00:00Z")],
)
def test_time_is_utc_with_milliseconds_at_most(nanos: int, text: str) -> None:
    assert sent(request(decided_ns=Nanos(DECIDED + nanos)))["time"] == text


@pytest.mark.parametrize(("changes", "env"), [({}, "paper"), ({"is_demo": True}, "demo"), ({"mode": "live"}, "live")])
def test_the_environment_is_named(changes: dict[str, Any], env: str) -> None:
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
        request(reference_price=UNDEF_PRICE),
        request(reference_price=0),
        request(stop_price=UNDEF_PRICE),
        request(target_price=5100.0),
        # on the wrong side, at the price, and at it once both are on the grid
        request(stop_price=Price(5_046_000_000_000)),
        request(stop_price=Price(5_045_250_000_000)),
        request(reference_price=Price(5_045_370_000_000), stop_price=Price(5_045_300_000_000)),
        request(target_price=Price(5_045_000_000_000)),
        request(side="sell", stop_price=Price(5_045_000_000_000)),
        request(side="sell", target_price=Price(5_046_000_000_000)),
        # a limit order's legs are measured from its limit
        request(order_type="limit", limit_price=Price(5_040 * 10**9), stop_price=Price(5_042 * 10**9)),
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
    text = build_payload(exit_request(reason="r" * 200), session).body
    assert faults(text) == []
    extras = json.loads(text)["extras"]
    assert {"signal_id", "session", "intent", "env", "entry_signal_id", "tradovate_symbol"} <= set(extras)
    assert "description" not in extras


def test_the_model_is_named_where_it_has_scored() -> None:
    session = opened(
        models=(ModelRecord(root="NQ", digest="f" * 64), ModelRecord(root="ES", digest="0123456789abcdef" * 4))
    )
    assert sent(request(), session)["extras"]["model"] == "0123456789ab"  # type: ignore[index]
    assert "model" not in sent(request(probability=None), session)["extras"]  # type: ignore[operator]
    assert "model" not in sent(request())["extras"]  # type: ignore[operator]


# ---------------------------------------------------------------------------------------------- every message

SHIPPED = load_contract_map(Path(__file__).parents[3] / "Data" / "Databento_contract_map.yml").traded
EVERY_ROOT = opened(
    roots=SHIPPED,
    models=tuple(ModelRecord(root=root.root, digest="0123456789abcdef" * 4) for root in SHIPPED),
    contracts=(),
)
RATIOS = st.none() | st.floats(0, 1) | st.sampled_from([5e-07, 1e-300, 0.1 + 0.2])


@st.composite
def requests(draw: st.DrawFn, root: TradedRoot) -> OrderRequested:
    """Any request for `root` that the domain can hold and that means something."""
    intent = draw(st.sampled_from(["entry", "exit"]))
    is_entry = intent == "entry"
    side: Side = draw(st.sampled_from(["buy", "sell"]))
    is_limit = is_entry and draw(st.booleans())
    is_flatten = not is_entry and draw(st.booleans())
    tick = max(root.data_spec.tick_size, root.order_spec.tick_size)
    price = draw(st.integers(10, 10**6)) * root.data_spec.tick_size
    limit = price + draw(st.integers(-5, 5)) * root.data_spec.tick_size if is_limit else None
    away = st.none() | st.integers(2 * tick, 100 * tick)
    entry_price, direction = limit or price, 1 if side == "buy" else -1
    stop, target = draw(away) if is_entry else None, draw(away) if is_entry else None
    return request(
        root=root.root,
        contract=f"{root.data_product}{draw(st.sampled_from(['H', 'M', 'U', 'Z']))}{draw(st.sampled_from('45'))}",
        intent=intent,
        side=side,
        quantity=draw(st.integers(1, 1000)),
        order_type="limit" if is_limit else "market",
        limit_price=limit,
        reference_price=Price(0) if is_flatten and draw(st.booleans()) else Price(price),
        stop_price=stop and Price(entry_price - direction * stop),
        target_price=target and Price(entry_price + direction * target),
        ibs=draw(RATIOS),
        probability=draw(RATIOS),
        threshold=draw(RATIOS),
        decided_ns=Nanos(draw(st.integers(DECIDED, DECIDED + 10**15))),
        bar_ns=draw(st.sampled_from([Nanos(0), Nanos(60 * MINUTE)])),
        reason=draw(st.text(min_size=1, max_size=40)),
        entry_signal_id=None if is_entry else draw(st.none() | st.just("1" * 32)),
        bars_held=None if is_entry else draw(st.none() | st.integers(0, 500)),
        pnl_assumed=None if is_entry else draw(st.none() | st.decimals(-(10**6), 10**6, places=2)),
        cancels_working=not is_entry and draw(st.booleans()),
        is_flatten=is_flatten,
    )


def expected_kind(asked: OrderRequested) -> str:
    return "entry" if asked.intent == "entry" else "flatten" if asked.is_flatten else "exit"


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.root)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_message_of_every_root_passes_the_documentation_and_our_own_lint(
    root: TradedRoot, data: st.DataObject
) -> None:
    asked = data.draw(requests(root))
    message = build_payload(asked, EVERY_ROOT)
    fields, found = parsed(message.body)
    assert found == []
    assert kind_of(fields) == expected_kind(asked)
    assert faults(message.body, tick=price_to_decimal(root.order_spec.tick_size)) == []
    assert fields["ticker"] == message.ticker
    assert message.ticker.startswith(root.order_product)
    assert message == build_payload(asked, EVERY_ROOT)
    if asked.intent == "exit":
        assert faults(message.fallback) == []
        assert kind_of(json.loads(message.fallback)) == "fallback"
    judged = parse(message.body)
    assert isinstance(judged, Parsed)
    assert isinstance(validate(judged), Signal)
    assert lint(judged) == ()


def test_the_shipped_map_has_every_root() -> None:
    assert len(SHIPPED) >= 12
