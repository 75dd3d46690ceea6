"""The webhook message of one order, byte for byte what every attempt sends (`docs/webhook.md`).

`build_payload` is a pure function of the request and the session's opening, so that
replay builds the same bytes. Numbers are written as fixed decimals from integers:
a float's `5e-07` or `NaN` never reaches the wire. It refuses (OurError) what must
not exist: an unknown root, another product's contract, a limit order without a price
(TradersPost would silently make it a market order), a quantity that is no count,
a stop or a target on the wrong side of the price.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal

from domain.errors import OurError
from domain.events import OrderRequested, SessionOpened
from domain.instruments import TradedRoot, parse_contract
from domain.ports import OrderMessage
from domain.sessions import iso_utc
from domain.units import SECOND, UNDEF_PRICE, Nanos, Price, floor_to, price_to_decimal, round_to_tick

JsonValue = str | int | Decimal | bool | Mapping[str, "JsonValue"]

EXTRAS_LIMIT_BYTES = 1024
"""TradersPost keeps `extras` with the signal; we promise at most this much of it."""
DESCRIPTION_LIMIT_CHARACTERS = 80
RATIO_PLACES = Decimal("1e-9")
"""IBS, probability and threshold are sent with at most nine decimals; the journal has them in full."""
SPARE_EXTRAS = ("description", "product_id", "dataset", "exit_reason", "strategy")
"""What is left out, in this order, when an operator's long texts would break the limit."""
MODEL_CHARACTERS = 12
"""Of the model's digest: enough to tell one from another."""


def build_payload(request: OrderRequested, opened: SessionOpened) -> OrderMessage:
    """The message for `request`: ASCII, fixed key order, no spaces.

    The ticker is the order product with the expiry of the contract the request names
    (for an exit: the contract held) and a four-digit year. Raises OurError for a request
    that cannot be said to TradersPost without changing its meaning.
    """
    root = _traded_root(request, opened)
    ticker = _ticker(request, root, opened)
    fields: dict[str, JsonValue]
    match request.intent:
        case "entry":
            fields = _entry_fields(request, root, opened)
        case "exit":
            fields = _exit_fields(request, root)
        case "cancel":
            fields = {"action": "cancel"}
    message: dict[str, JsonValue] = {
        "ticker": ticker,
        **fields,
        "time": _iso_millis(request.decided_ns),
        "extras": _bounded(_extras(request, root, opened)),
    }
    fallback = "" if request.intent != "exit" else encode({"ticker": ticker, "action": "exit"} | _cancel(request))
    return OrderMessage(ticker=ticker, body=encode(message), fallback=fallback)


def encode(value: JsonValue) -> str:
    """`value` as JSON text. Raises OurError for a float or a Decimal that is not finite."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return json.dumps(value)
        case Decimal():
            if not value.is_finite():
                raise OurError(f"{value} cannot be sent: not a finite number")
            return format(value, "f")
        case Mapping():
            return "{" + ",".join(f"{json.dumps(key)}:{encode(item)}" for key, item in value.items()) + "}"
        case _:
            # A float: its shortest form may be 5e-07, which TradersPost does not read as a number.
            raise OurError(f"{value!r} of type {type(value).__name__} cannot be sent: no JSON form of its own")


def _traded_root(request: OrderRequested, opened: SessionOpened) -> TradedRoot:
    root = next((root for root in opened.roots if root.root == request.root), None)
    # What is held is closed, also when its root has become one that is only read.
    if root is None or (root.is_reference and request.intent == "entry"):
        raise OurError(f"order {request.signal_id}: {request.root} is not a traded root of this session")
    return root


def _ticker(request: OrderRequested, root: TradedRoot, opened: SessionOpened) -> str:
    # All products take part in the parse: a contract of another root must be seen as such, not misread.
    products = {known.data_product for known in opened.roots}
    name = parse_contract(request.contract, products, opened.session.date)
    if name is None or name.product != root.data_product:
        raise OurError(f"order {request.signal_id}: {request.contract!r} is no contract of {root.data_product}")
    return f"{root.order_product}{name.expiry.month_code}{name.expiry.year:04d}"


def _entry_fields(request: OrderRequested, root: TradedRoot, opened: SessionOpened) -> dict[str, JsonValue]:
    if type(request.quantity) is not int or request.quantity <= 0:
        raise OurError(f"order {request.signal_id}: quantity {request.quantity!r} is no positive count")
    if not request.reference_price:
        raise OurError(f"order {request.signal_id}: an entry without the last price")
    entry_price = signal_price = _order_price(request.reference_price, request, root)
    fields: dict[str, JsonValue] = {
        "action": request.side,
        "sentiment": "bullish" if request.side == "buy" else "bearish",
        "quantity": request.quantity,
        "quantityType": "fixed_quantity",
        "orderType": request.order_type,
    }
    if request.order_type == "limit":
        if request.limit_price is None:
            raise OurError(f"order {request.signal_id}: a limit order without a price becomes a market order")
        entry_price = _order_price(request.limit_price, request, root)
        fields |= {
            "limitPrice": entry_price,
            "timeInForce": "day",
            "cancelAfter": opened.strategy.of(request.root).cancel_after_s,
        }
    return fields | _bracket_fields(request, root, entry_price) | {"signalPrice": signal_price}


def _bracket_fields(request: OrderRequested, root: TradedRoot, price: Decimal) -> dict[str, JsonValue]:
    is_buy = request.side == "buy"
    fields: dict[str, JsonValue] = {}
    if request.stop_price is not None:
        stop = _leg(request.stop_price, price, request, root, is_above=not is_buy)
        fields["stopLoss"] = {"type": "stop", "stopPrice": stop}
    if request.target_price is not None:
        fields["takeProfit"] = {"limitPrice": _leg(request.target_price, price, request, root, is_above=is_buy)}
    return fields


def _leg(asked: Price, price: Decimal, request: OrderRequested, root: TradedRoot, *, is_above: bool) -> Decimal:
    """`asked` on the grid, rounded away from `price`.

    So it is not reached at the broker before it is in our own book, where being traded through
    ends the position with an exit that cancels what still works.
    """
    leg = _on_tick(asked, request, root, up=is_above)
    if leg <= price if is_above else leg >= price:
        where = "above" if is_above else "below"
        raise OurError(f"order {request.signal_id}: a leg at {leg:f} of a {request.side} is not {where} {price:f}")
    return leg


def _exit_fields(request: OrderRequested, root: TradedRoot) -> dict[str, JsonValue]:
    """sell+flat closes a long only and never opens, `exit` whichever side is held; no quantity closes all of it."""
    if request.order_type != "market":
        raise OurError(f"order {request.signal_id}: a full exit is a market order, not {request.order_type}")
    # TradersPost refuses a sentiment beside `exit`.
    fields: dict[str, JsonValue] = (
        {"action": "exit"} if request.is_flatten else {"action": request.side, "sentiment": "flat"}
    )
    fields["orderType"] = "market"
    if request.reference_price:
        fields["signalPrice"] = _order_price(request.reference_price, request, root)
    return fields | _cancel(request) | {"ignoreTradingWindows": True}


def _cancel(request: OrderRequested) -> dict[str, JsonValue]:
    """A plain exit leaves working orders behind, which would then open a position."""
    return {"cancel": True} if request.is_flatten or request.cancels_working else {}


def _order_price(price: Price, request: OrderRequested, root: TradedRoot) -> Decimal:
    """`price` on the order product's tick grid: buys down, sells up, so never worse than asked."""
    return _on_tick(price, request, root, up=request.side == "sell")


def _on_tick(price: Price, request: OrderRequested, root: TradedRoot, *, up: bool) -> Decimal:
    if type(price) is not int or price == UNDEF_PRICE:
        raise OurError(f"order {request.signal_id}: {price!r} is no price")
    return price_to_decimal(round_to_tick(price, root.order_spec.tick_size, up=up))


def _iso_millis(ts: Nanos) -> str:
    """`ts` in UTC, with milliseconds only where there are any: nine decimals are not everyone's ISO-8601."""
    whole = floor_to(ts, SECOND)
    millis = (ts - whole) // 1_000_000
    text = iso_utc(whole)
    return f"{text[:-1]}.{millis:03d}Z" if millis else text


def _extras(request: OrderRequested, root: TradedRoot, opened: SessionOpened) -> dict[str, JsonValue]:
    """Our own data; a value that is not known has no key."""
    extras: dict[str, JsonValue | None] = {
        "signal_id": request.signal_id,
        "session": opened.session.date.isoformat(),
        "strategy": opened.strategy.of(request.root).name,
        "intent": request.intent,
        # A deadline (the auto-close) decides without a bar.
        "bar_close": _iso_millis(request.decided_ns) if request.bar_ns else None,
        "env": "demo" if opened.is_demo else opened.mode,
        "ibs": _ratio(request.ibs, request),
        "probability": _ratio(request.probability, request),
        "threshold": _ratio(request.threshold, request),
        "model": _model(request, opened),
    }
    if request.intent != "entry":
        extras |= {
            "exit_reason": request.reason,
            "entry_signal_id": request.entry_signal_id,
            "bars_held": request.bars_held,
            "pnl_assumed": request.pnl_assumed,
        }
    extras |= _contract_metadata(request, root, opened)
    return {key: value for key, value in extras.items() if value is not None}


def _model(request: OrderRequested, opened: SessionOpened) -> str | None:
    """The model that gave the probability."""
    if request.probability is None:
        return None
    digests = (model.digest for model in opened.models if model.root == request.root)
    return next(digests, "")[:MODEL_CHARACTERS] or None


def _contract_metadata(request: OrderRequested, root: TradedRoot, opened: SessionOpened) -> dict[str, JsonValue | None]:
    ids = (found.instrument_id for found in opened.contracts if found.raw_symbol == request.contract)
    return {
        "tradovate_symbol": root.order_product,
        "description": root.description[:DESCRIPTION_LIMIT_CHARACTERS],
        "dataset": root.dataset,
        "feed_symbol": root.data_product,
        "product_id": root.product_id,
        "instrument_id": next(ids, None),
        "optimized": root.optimized,
        "roll_rule": root.roll_rule,
    }


def _ratio(value: float | None, request: OrderRequested) -> Decimal | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise OurError(f"order {request.signal_id}: {value} cannot be sent: not a finite number")
    rounded = Decimal(repr(float(value))).quantize(RATIO_PLACES).normalize()
    # Decimal keeps the sign of a rounded-away negative; "-0" says nothing.
    return rounded if rounded else Decimal(0)


def _bounded(extras: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """`extras` within the limit. An exit must never fail for an operator's long description."""
    for key in SPARE_EXTRAS:
        if len(encode(extras)) <= EXTRAS_LIMIT_BYTES:
            return extras
        extras.pop(key, None)
    if len(encode(extras)) > EXTRAS_LIMIT_BYTES:
        raise OurError(f"extras of {extras['signal_id']} do not fit into {EXTRAS_LIMIT_BYTES} bytes")
    return extras
