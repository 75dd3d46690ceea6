"""What a webhook message may look like, read from the tables of docs/webhook.md.

An independent judge: it shares no code with what builds messages, nor with what the local
server checks them by. It reads text, so that `5e-07`, `NaN` or a doubled key cannot hide
behind a parser.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "webhook.md"

STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
NUMBER_LITERAL = re.compile(r"-?\d[0-9.eE+-]*")
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
TICKER = re.compile(r"[A-Z0-9]{1,4}[FGHJKMNQUVXZ]20[0-9]{2}")
TIME = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{3})?Z")
EXTRAS_LIMIT_BYTES = 1024
SIDES = {
    ("buy", "bullish"),
    ("sell", "bearish"),
    ("sell", "flat"),
    ("buy", "flat"),
    ("exit", None),
    ("cancel", None),
    (None, None),
}


def _tables() -> dict[str, dict[str, dict[str, str]]]:
    """Every table of the document by the head of its first column: row name -> column -> cell."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    heads: list[str] = []
    name = ""
    for before, line in pairwise(["", *DOCUMENT.read_text().splitlines()]):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            continue
        if not before.startswith("|"):
            heads, name = cells, f"{cells[0]}: {cells[1]}"
            tables[name] = {}
        elif not set(line) <= set("|-"):
            tables[name][cells[0]] = dict(zip(heads, cells, strict=True))
    return tables


def _values(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


TABLES = _tables()
DOCUMENTED = TABLES["field: type"]
SENT = TABLES["field: entry"]
TYPES = {name: row["type"] for name, row in {**DOCUMENTED, **TABLES["extra: type"]}.items()}
ENUMERATIONS = {name: values for name, row in DOCUMENTED.items() if (values := _values(row["values"].split(";")[0]))}


def codes(heading: str) -> tuple[str, ...]:
    """The codes listed under `heading` of the document."""
    section = DOCUMENT.read_text().split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return _values(section)


def kind_of(message: dict[str, Any]) -> str:
    """The column that `message` is to be held against."""
    if "ticker" not in message and "action" not in message:
        return "probe"
    if set(message) - {"cancel"} == {"ticker", "action"}:
        return "fallback"
    if message.get("action") == "cancel":
        return "cancel"
    if message.get("action") == "exit":
        return "flatten"
    return "exit" if message.get("sentiment") == "flat" else "entry"


def parsed(text: str) -> tuple[dict[str, Any], list[str]]:
    """The message with numbers as Decimal, and what its text already says against it."""
    bare = STRING_LITERAL.sub('""', text)
    found = [f"number {n}" for n in NUMBER_LITERAL.findall(bare) if not PLAIN_NUMBER.fullmatch(n)]
    found += ["NaN"] if "NaN" in bare or "Infinity" in bare else []
    found += ["white space"] if re.search(r"\s", bare) else []
    found += [] if text.isascii() else ["not ASCII"]

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(["doubled key"] if len({key for key, _ in pairs}) != len(pairs) else [])
        return dict(pairs)

    return json.loads(text, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=unique), found


def faults(text: str, *, tick: Decimal | None = None) -> list[str]:
    """Everything in `text` that the documentation, or our own table, does not allow; prices on `tick` if given."""
    message, found = parsed(text)
    kind = kind_of(message)
    flat = {**message}
    for name in ("extras", "stopLoss", "takeProfit"):
        if isinstance(message.get(name), dict):
            flat |= {f"{name}.{key}": value for key, value in message[name].items()}
    for name, value in flat.items():
        if name not in SENT:
            found.append(f"unknown {name}")
        elif not _is_of_type(value, TYPES[name]):
            found.append(f"type of {name}")
        elif name in ENUMERATIONS and value not in ENUMERATIONS[name]:
            found.append(f"value of {name}")
    for name, row in SENT.items():
        found += _held_against(row[kind], name, flat)
    if "extras" in message:
        start = text.index('"extras":') + len('"extras":')
        _, end = json.JSONDecoder().raw_decode(text, start)
        found += ["extras too long"] if end - start > EXTRAS_LIMIT_BYTES else []
    if any(fault.startswith("type of") for fault in found):
        return found
    return found + [name for name, holds in _relations(flat, kind, tick).items() if not holds]


def _is_of_type(value: object, name: str) -> bool:
    match name:
        case "text":
            return isinstance(value, str) and bool(value)
        case "number":
            return isinstance(value, Decimal)
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict) and bool(value)
        case _:
            raise AssertionError(f"docs/webhook.md: no type {name}")


def _held_against(cell: str, name: str, flat: dict[str, Any]) -> list[str]:
    """What `cell` says against the field `name`: whether it must, may or must not be there, and its values."""
    values = _values(cell)
    word = re.sub(r"`[^`]+`", "", cell).strip()
    parent = name.partition(".")[0] if "." in name else None
    if word == "–":
        return [f"{name} is not sent"] if name in flat else []
    if name not in flat:
        is_due = {"may": False, "limit": flat.get("orderType") == "limit"}.get(word, True)
        return [f"{name} is missing"] if is_due and (parent is None or parent in flat) else []
    if word == "limit" and flat.get("orderType") != "limit":
        return [f"{name} without a limit order"]
    if word not in ("", "always", "may", "limit"):
        raise AssertionError(f"docs/webhook.md: no rule {word!r}")
    said = json.dumps(flat[name]) if isinstance(flat[name], bool) else flat[name]
    return [f"{name} is none of ours"] if values and said not in values else []


def _relations(flat: dict[str, Any], kind: str, tick: Decimal | None) -> dict[str, bool]:
    """What holds between fields."""
    prices = [value for name, value in flat.items() if name.endswith("Price") and isinstance(value, Decimal)]
    rules = {
        "ticker": kind == "probe" or bool(TICKER.fullmatch(flat["ticker"])),
        "sides": (flat.get("action"), flat.get("sentiment")) in SIDES,
        "time": all(TIME.fullmatch(flat[name]) for name in ("time", "extras.bar_close") if name in flat),
        "whole numbers": all(
            flat[name] == int(flat[name]) and flat[name] > 0
            for name in ("quantity", "cancelAfter", "extras.instrument_id")
            if name in flat
        ),
        "cancelAfter": flat.get("cancelAfter", 1) <= 3600,
        "tick": tick is None or all(price % tick == 0 for price in prices),
    }
    if kind == "entry":
        price = flat.get("limitPrice", flat.get("signalPrice"))
        sign = 1 if flat.get("action") == "buy" else -1
        stop, target = flat.get("stopLoss.stopPrice"), flat.get("takeProfit.limitPrice")
        rules["stop on the losing side"] = stop is None or sign * (price - stop) > 0
        rules["target on the winning side"] = target is None or sign * (target - price) > 0
    return rules
