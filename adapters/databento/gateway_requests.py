"""What a client may ask of the gateway: its control lines as values, or the words that refuse them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping

import attrs

from domain.units import Nanos

SCHEMA = "trades"
MAPPING_SCHEMA = "ohlcv-1d"
"""Accepted and answered with mappings alone: how a client asks what a symbol means now.
(The vendor sends a day bar at the day's end; this gateway has none to send.)"""
DEFINITION_SCHEMA = "definition"
"""Answered at once with one definition per instrument. (The vendor sends each when it is published: ask it with
`start`, as this gateway may be asked.)"""
STYPES_IN = ("raw_symbol", "instrument_id", "parent", "continuous")
HEARTBEAT_DEFAULT_S = 30
_KEY_SUFFIX = 5


@attrs.frozen(kw_only=True)
class Subscription:
    """One complete subscription request."""

    id: str
    schema: str
    stype_in: str
    symbols: tuple[str, ...]
    start_ns: Nanos | None


class RequestRefused(Exception):
    """A control line that the protocol rules out; the text is for the client."""


def refusal_of(request: Mapping[str, str], challenge: str, keys: Collection[str], dataset: str) -> str | None:
    """Why an authentication is refused, in words for the client; None when it is accepted."""
    # partition, not rpartition: the key's last characters may hold a hyphen, the digest never does.
    response, _, suffix = request.get("auth", "").partition("-")
    is_known = not keys or any(
        suffix == key[-_KEY_SUFFIX:]
        and hmac.compare_digest(response, hashlib.sha256(f"{challenge}|{key}".encode()).hexdigest())
        for key in keys
    )
    if not is_known:
        return "User authentication failed"
    if request.get("dataset") != dataset:
        return f"Dataset {request.get('dataset')} is not served here, only {dataset}"
    if request.get("encoding") != "dbn":
        return "Only the encoding dbn is served"
    if request.get("compression", "none") not in ("none", "zstd"):
        return "Only the compressions none and zstd are served"
    if not _is_positive(request.get("heartbeat_interval_s", str(HEARTBEAT_DEFAULT_S))):
        return "heartbeat_interval_s must be a whole number of seconds above 0"
    return None


def parse_control_line(line: bytes) -> dict[str, str]:
    """The fields of an ASCII control line `k=v|k=v`. Raises ConnectionError for a cut or undecodable one."""
    if not line.endswith(b"\n") or not line.isascii():
        raise ConnectionError("cut or undecodable control line")
    fields = (token.partition("=") for token in line.decode("ascii").strip().split("|"))
    return {key: value for key, _, value in fields}


def subscription_of(request: Mapping[str, str], symbols: tuple[str, ...]) -> Subscription:
    """The request as a value. Raises RequestRefused for what this gateway does not serve."""
    schema, stype_in = request.get("schema", ""), request.get("stype_in", "")
    if schema not in (SCHEMA, MAPPING_SCHEMA, DEFINITION_SCHEMA):
        raise RequestRefused(
            f"this gateway serves the schemas {SCHEMA} and {DEFINITION_SCHEMA}, not {schema or 'none'}"
        )
    if stype_in not in STYPES_IN:
        raise RequestRefused(f"stype_in {stype_in or 'none'} is not one of {', '.join(STYPES_IN)}")
    if not symbols:
        raise RequestRefused("the subscription names no symbol")
    if request.get("snapshot", "0") != "0":
        raise RequestRefused(f"there is no snapshot of {SCHEMA}")
    start = request.get("start")
    if start is not None and not start.isdecimal():
        raise RequestRefused(f"start {start} is not a stamp in nanoseconds")
    start_ns = None if start is None else Nanos(int(start))
    return Subscription(id=request.get("id", "0"), schema=schema, stype_in=stype_in, symbols=symbols, start_ns=start_ns)


def _is_positive(text: str) -> bool:
    return text.isdecimal() and int(text) > 0
