"""What TradersPost's webhook accepts: its documented fields as checks, its codes as answers.

A `Refusal` is what the real service answers with 400. A *lint* is what it would take
although we forbid it ourselves: an unknown field, a limit order without a price, a
quantity on a full exit, a leg that is no absolute price. Codes are the documented ones
where there is one; the plain prices' and the booleans' codes are ours. Shares no code
with `payload`: it must be able to disagree.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, Literal

import attrs

ACTIONS = frozenset({"buy", "sell", "exit", "cancel", "add"})
SENTIMENTS = {"bullish": "bullish", "long": "bullish", "bearish": "bearish", "short": "bearish", "flat": "flat"}
QUANTITY_TYPES = frozenset(
    {"fixed_quantity", "dollar_amount", "risk_dollar_amount", "percent_of_equity", "percent_of_position"}
)
ORDER_TYPES = frozenset({"market", "limit", "stop", "stop_limit", "trailing_stop"})
TIMES_IN_FORCE = frozenset({"day", "gtc", "gtd", "opg", "cls", "ioc", "fok"})
STOP_TYPES = frozenset({"stop", "stop_limit", "trailing_stop"})
EXTRAS_LIMIT_BYTES = 1024
COUNT_LIMIT = 1_000_000
PRICE_LIMIT = 1_000_000_000

_TICKER = re.compile(r"([A-Z0-9]{1,4})([FGHJKMNQUVXZ])(20\d\d)")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?")

Fields = Mapping[str, Any]
"""The parsed JSON object; numbers are int or Decimal, never float."""


@attrs.frozen(kw_only=True)
class Refusal:
    """Why a message is answered with 400."""

    code: str
    message: str


@attrs.frozen(kw_only=True)
class Signal:
    """A message that passed: what its execution needs of it. Prices are as said, in price units."""

    ticker: str
    root: str
    action: str
    sentiment: str | None
    quantity: int | None
    """None means all of a position, or one contract of an entry."""
    order_type: str = "market"
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    signal_price: Decimal | None = None
    stop_loss: Decimal | None = None
    """Absolute stop price of the bracket; other forms of a stop are not played."""
    take_profit: Decimal | None = None
    """Absolute limit price of the bracket's target."""
    is_cancelling: bool | None = None
    """The message's `cancel`; None when it does not say."""
    cancel_after_s: int | None = None
    time_ns: int | None = None
    """The message's own `time`: when it was decided."""

    @property
    def intent(self) -> Literal["entry", "exit"]:
        """`entry` for what can open or enlarge a position."""
        is_entry = (self.action, self.sentiment) in (("buy", "bullish"), ("sell", "bearish"))
        is_entry = is_entry or (self.action in ("buy", "sell") and self.sentiment is None)
        return "entry" if is_entry or self.action == "add" else "exit"

    @property
    def resting(self) -> tuple[Literal["limit", "stop"], Decimal] | None:
        """The kind and price of an order that rests; None for a market order, which one without a price becomes."""
        if self.order_type == "limit" and self.limit_price is not None:
            return "limit", self.limit_price
        if self.order_type == "stop" and self.stop_price is not None:
            return "stop", self.stop_price
        return None


@attrs.frozen(kw_only=True)
class Parsed:
    """The JSON object of a body with what its text already says against it."""

    fields: Fields
    lints: tuple[str, ...]

    @property
    def signal_id(self) -> str:
        """`extras.signal_id`, or "" for a message that is not one of ours."""
        extras = self.fields.get("extras")
        value = extras.get("signal_id") if isinstance(extras, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def time_ns(self) -> int | None:
        """The message's own `time` in UTC nanoseconds, or None."""
        return moment_ns(self.fields.get("time"))

    @property
    def is_probe(self) -> bool:
        """Says neither what nor how to trade: a question whether the webhook answers."""
        return "ticker" not in self.fields and "action" not in self.fields


def parse(text: str) -> Parsed | Refusal:
    """The JSON object in `text`, strictly: NaN, Infinity and anything but an object are refused."""
    if not text.strip():
        return Refusal(code="empty-json", message="The request was empty.")
    lints: list[str] = []

    def number(literal: str) -> Decimal:
        if "e" in literal.lower():
            lints.append(f"exponent:{literal}")
        return Decimal(literal)

    def constant(literal: str) -> None:
        raise ValueError(literal)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            lints.append("duplicate-key")
        return fields

    try:
        fields = json.loads(text, parse_float=number, parse_constant=constant, object_pairs_hook=unique)
    except (ValueError, RecursionError, ArithmeticError):
        return Refusal(code="invalid-payload", message="Could not parse JSON payload.")
    if not isinstance(fields, dict):
        return Refusal(code="invalid-payload", message="Invalid payload. action and ticker is required.")
    return Parsed(fields=fields, lints=tuple(lints))


def validate(parsed: Parsed, unavailable_roots: Collection[str] = ()) -> Signal | Refusal:
    """The signal that `parsed` says, or the first refusal in the order of CHECKS.

    `unavailable_roots` are order products whose tickers the broker account does not offer.
    """
    fields = parsed.fields
    if "ticker" not in fields or "action" not in fields:
        return Refusal(code="invalid-payload", message="Invalid payload. action and ticker is required.")
    for code, check in CHECKS:
        fault = check(fields)
        if fault:
            return Refusal(code=code, message=fault)
    ticker = fields["ticker"]
    match = _TICKER.fullmatch(ticker)
    if match is None or match[1] in unavailable_roots:
        return Refusal(code="ticker-does-not-exist", message="Ticker does not exist.")
    sentiment = fields.get("sentiment")
    quantity = fields.get("quantity")
    return Signal(
        ticker=ticker,
        root=match[1],
        action=fields["action"],
        sentiment=None if sentiment is None else SENTIMENTS[sentiment],
        quantity=None if quantity is None else int(Decimal(quantity)),
        order_type=fields.get("orderType", "market"),
        limit_price=_price(fields, "limitPrice"),
        stop_price=_price(fields, "stopPrice"),
        signal_price=_price(fields, "signalPrice"),
        stop_loss=_price(fields.get("stopLoss", {}), "stopPrice"),
        take_profit=_price(fields.get("takeProfit", {}), "limitPrice"),
        is_cancelling=fields.get("cancel"),
        cancel_after_s=int(Decimal(fields["cancelAfter"])) if "cancelAfter" in fields else None,
        time_ns=parsed.time_ns,
    )


def lint(parsed: Parsed) -> tuple[str, ...]:
    """What we forbid ourselves although TradersPost takes it, in a fixed order."""
    fields = parsed.fields
    extras = fields.get("extras")
    faults = [*parsed.lints, *(f"unknown-field:{name}" for name in sorted(set(fields) - DOCUMENTED_FIELDS))]
    tests = {
        "no-signal-id": not parsed.signal_id,
        "no-time": "time" not in fields,
        "no-signal-price": "signalPrice" not in fields and fields.get("action") in ("buy", "sell"),
        "no-sentiment": "sentiment" not in fields and fields.get("action") in ("buy", "sell"),
        "limit-without-price": fields.get("orderType") == "limit" and "limitPrice" not in fields,
        "quantity-on-full-exit": "quantity" in fields and fields.get("sentiment") == "flat",
        "quantity-on-exit": "quantity" in fields and fields.get("action") == "exit",
        "action-not-ours": fields.get("action") not in ("buy", "sell", "exit", "cancel"),
        "order-type-not-ours": fields.get("orderType", "market") not in ("market", "limit"),
        "quantity-type-not-ours": fields.get("quantityType", "fixed_quantity") != "fixed_quantity",
        "leg-not-absolute": not _has_absolute_legs(fields),
        "leg-on-exit": bool({"stopLoss", "takeProfit"} & set(fields))
        and (fields.get("action") == "exit" or fields.get("sentiment") == "flat"),
        "quantity-as-text": isinstance(fields.get("quantity"), str),
        "sentiment-against-action": (fields.get("action"), fields.get("sentiment"))
        in (("buy", "bearish"), ("sell", "bullish")),
        "entry-ignores-windows": fields.get("ignoreTradingWindows") is True
        and fields.get("sentiment") in ("bullish", "bearish"),
        "extras-too-long": extras is not None
        and len(json.dumps(extras, separators=(",", ":"), default=str)) > EXTRAS_LIMIT_BYTES,
    }
    return (*faults, *(name for name, is_broken in tests.items() if is_broken))


def moment_ns(value: object) -> int | None:
    """UTC nanoseconds of an ISO-8601 text with a zone; None for anything else."""
    moment = _moment(value)
    if moment is None:
        return None
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def is_price(value: object) -> bool:
    """A number of a size that prices have. They may be negative: crude oil's was."""
    return isinstance(value, int | Decimal) and _is_number(value) and -PRICE_LIMIT < value < PRICE_LIMIT


def _price(fields: Fields, name: str) -> Decimal | None:
    return Decimal(fields[name]) if name in fields else None


def _has_absolute_legs(fields: Fields) -> bool:
    stop, target = fields.get("stopLoss"), fields.get("takeProfit")
    is_stop_plain = not isinstance(stop, dict) or (set(stop) == {"type", "stopPrice"} and stop["type"] == "stop")
    return is_stop_plain and (not isinstance(target, dict) or set(target) == {"limitPrice"})


def _moment(value: object) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) and "T" in value else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _is_number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or isinstance(value, Decimal)


def _is_positive_count(value: object) -> bool:
    """A whole number above zero; numeric text counts, as in their own templates."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    # The bound comes first: the integer of 1e999999999 would fill the memory.
    return isinstance(value, int | Decimal) and _is_number(value) and 0 < value < COUNT_LIMIT and value == int(value)


def _one_of(field: str, allowed: Collection[str]) -> Callable[[Fields], str]:
    def check(fields: Fields) -> str:
        value = fields.get(field)
        if field not in fields or (isinstance(value, str) and value in allowed):
            return ""
        return f"Invalid {field} provided. Must be one of: {', '.join(sorted(allowed))}."

    return check


def _holds(field: str, test: Callable[[object], bool], what: str) -> Callable[[Fields], str]:
    def check(fields: Fields) -> str:
        return "" if field not in fields or test(fields[field]) else f"Invalid {field} provided. Must be {what}."

    return check


def _sentiment_action(fields: Fields) -> str:
    is_used = "sentiment" in fields and fields["action"] not in ("buy", "sell")
    return "Invalid sentiment action provided. Sentiment can only be used with action buy or sell." if is_used else ""


def _leg(field: str, allowed: Collection[str]) -> Callable[[Fields], str]:
    """A takeProfit or stopLoss object: known keys, numbers as values."""

    def check(fields: Fields) -> str:
        leg = fields.get(field)
        if field not in fields:
            return ""
        if not isinstance(leg, dict) or not leg or set(leg) - set(allowed):
            return f"Invalid {field} provided. Fields are: {', '.join(sorted(allowed))}."
        is_numeric = all(is_price(value) for key, value in leg.items() if key != "type")
        return "" if is_numeric else f"Invalid {field} provided. Prices and amounts are numbers."

    return check


def _stop_type(fields: Fields) -> str:
    stop = fields.get("stopLoss")
    is_known = not isinstance(stop, dict) or stop.get("type", "stop") in tuple(STOP_TYPES)
    return "" if is_known else f"Invalid stop loss type. Must be one of: {', '.join(sorted(STOP_TYPES))}."


def _positive_amount(field: str) -> Callable[[Fields], str]:
    def check(fields: Fields) -> str:
        leg = fields.get(field)
        amount = leg.get("amount", 1) if isinstance(leg, dict) else 1
        return "" if is_price(amount) and amount > 0 else f"Invalid {field} amount. Must be above zero."

    return check


def _trailing_stop(fields: Fields) -> str:
    is_used = fields.get("orderType") == "trailing_stop"
    is_complete = fields["action"] in ("buy", "sell", "exit") and ({"trailAmount", "trailPercent"} & set(fields))
    return (
        "A trailing stop is bought, sold or an exit, with trailAmount or trailPercent."
        if is_used and not is_complete
        else ""
    )


def _quantity_type_action(fields: Fields) -> str:
    is_used = "quantityType" in fields and fields["action"] == "cancel"
    return "Invalid quantityType action provided. Not with action cancel." if is_used else ""


def _percent_of_position(fields: Fields) -> str:
    is_used = fields.get("quantityType") == "percent_of_position" and fields["action"] == "add"
    return "percent_of_position can only be used with action buy, sell or exit." if is_used else ""


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


CHECKS: tuple[tuple[str, Callable[[Fields], str]], ...] = (
    ("empty-ticker-name", lambda fields: "Empty ticker name provided." if fields["ticker"] in ("", None) else ""),
    ("ticker-does-not-exist", _holds("ticker", lambda value: isinstance(value, str), "a string")),
    ("invalid-action", _one_of("action", ACTIONS)),
    ("invalid-sentiment", _one_of("sentiment", SENTIMENTS)),
    ("invalid-sentiment-action", _sentiment_action),
    ("invalid-quantity", _holds("quantity", _is_positive_count, "a whole number above zero")),
    ("invalid-quantity-type", _one_of("quantityType", QUANTITY_TYPES)),
    ("invalid-quantity-type-action", _quantity_type_action),
    ("invalid-percent-of-position-action", _percent_of_position),
    ("invalid-order-type", _one_of("orderType", ORDER_TYPES)),
    ("invalid-trailing-stop", _trailing_stop),
    ("invalid-limit-price", _holds("limitPrice", is_price, "a number")),
    ("invalid-stop-price", _holds("stopPrice", is_price, "a number")),
    ("invalid-signal-price", _holds("signalPrice", is_price, "a number")),
    ("invalid-stop-loss-type", _stop_type),
    ("invalid-stop-loss-amount", _positive_amount("stopLoss")),
    ("invalid-take-profit-amount", _positive_amount("takeProfit")),
    ("invalid-take-profit", _leg("takeProfit", ("limitPrice", "percent", "amount"))),
    (
        "invalid-stop-loss",
        _leg("stopLoss", ("type", "stopPrice", "limitPrice", "percent", "amount", "trailAmount", "trailPercent")),
    ),
    ("invalid-time-in-force", _one_of("timeInForce", TIMES_IN_FORCE)),
    ("invalid-cancel-after", _holds("cancelAfter", _is_positive_count, "whole seconds")),
    ("invalid-time", _holds("time", lambda value: _moment(value) is not None, "ISO-8601 with a zone")),
    ("invalid-cancel", _holds("cancel", _is_bool, "true or false")),
    ("invalid-ignore-trading-windows", _holds("ignoreTradingWindows", _is_bool, "true or false")),
    ("invalid-extended-hours", _holds("extendedHours", _is_bool, "true or false")),
    ("invalid-extras", _holds("extras", lambda value: isinstance(value, dict), "an object")),
)
"""(code, check) in the order of testing; a check returns what is wrong, or ""."""

DOCUMENTED_FIELDS = frozenset(
    {"ticker", "action", "sentiment", "quantity", "quantityType", "orderType", "limitPrice", "stopPrice"}
    | {"price", "signalPrice", "takeProfit", "stopLoss", "timeInForce", "time", "cancel", "cancelAfter"}
    | {"ignoreTradingWindows", "extras", "trailAmount", "trailPercent", "extendedHours"}
)
