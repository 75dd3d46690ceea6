"""Settings that are not secret and may come from the environment: what each accepts, refused with its name.

A variable that is unset or blank says nothing. A list that is meant to be empty is written: `[]`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path

import attrs

from adapters.yaml_source import as_text, did_you_mean, parse_map
from domain.errors import OperatorError

COMMISSION_VARIABLE = "COMMISSION_PER_SIDE"
"""US dollars per contract and side, for roots that do not state their own."""
DEFAULT_COMMISSION = Decimal("1.25")
PAIR_VARIABLE = "PAIR_MAP"
"""The roots that pair features compare with, instead of the contract map's: `ES:NQ,HG:SI`, or JSON."""
PAIR_PATH_VARIABLE = "PAIR_MAP_PATH"
"""The same in a file; wins over PAIR_MAP."""
FEEDS_VARIABLE = "REQUIRED_REFERENCE_FEEDS"
"""Feeds without whose last completed day bar nothing is entered: `TLT_day,PL_day`, or `[]`."""
DEFAULT_FEEDS = ("TLT_day",)

_AMOUNT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?|\.[0-9]{1,9}")
_FEED = re.compile(r"([A-Z0-9]{1,6})_day")


def commission_from(environ: Mapping[str, str]) -> Decimal | None:
    """COMMISSION_PER_SIDE; None when it says nothing. Raises OperatorError."""
    text = environ.get(COMMISSION_VARIABLE, "").strip()
    if not text:
        return None
    fix = f"set {COMMISSION_VARIABLE} to US dollars per contract and side, such as 1.25, or unset it"
    if not _AMOUNT.fullmatch(text):
        is_negative = text.startswith("-") and _AMOUNT.fullmatch(text[1:])
        what = "out of range: a commission is paid, never received" if is_negative else "not an amount"
        raise OperatorError(f"{text!r} is {what}", where=COMMISSION_VARIABLE, fix=fix)
    if (value := Decimal(text)) > 1000:
        raise OperatorError(f"{text!r} is out of range", where=COMMISSION_VARIABLE, fix=fix)
    return value


@attrs.frozen(kw_only=True)
class Pair:
    """What a pair map says of one root, and where."""

    root: str
    source: str


def pairs_from(environ: Mapping[str, str], *, traded: Collection[str], known: Collection[str]) -> dict[str, Pair]:
    """By traded root the pair, any of the `known` ones, that PAIR_MAP_PATH, else PAIR_MAP, names; empty without either.

    Raises OperatorError.
    """
    path_text = environ.get(PAIR_PATH_VARIABLE, "").strip()
    text = environ.get(PAIR_VARIABLE, "").strip()
    where = PAIR_VARIABLE
    if path_text:
        where = f"{PAIR_PATH_VARIABLE} {path_text}"
        try:
            text = Path(path_text).expanduser().read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(
                f"cannot be read: {error}", where=where, fix=f"name a readable text file, or unset {PAIR_PATH_VARIABLE}"
            ) from error
    pairs = {}
    for root, pair in (_json_pairs(text, where) if text.startswith("{") else _listed_pairs(text, where)).items():
        for name, of in ((root, traded), (pair, known)):
            if name not in of:
                what = "a traded root" if of is traded else "a root"
                raise OperatorError(
                    f"{name!r} is not {what} of the contract map", where=where, fix=did_you_mean(name, of)
                )
        if root == pair:
            raise OperatorError(f"{root} cannot be its own pair", where=where, fix="name another root of the map")
        pairs[root] = Pair(root=pair, source=where)
    return pairs


def _json_pairs(text: str, where: str) -> dict[str, str]:
    return {root: as_text(value) for root, value in parse_map(text, Path(where)).entries.items()}


def _listed_pairs(text: str, where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in (item for line in text.splitlines() if line.strip() for item in line.split(",")):
        root, colon, pair = (part.strip() for part in item.partition(":"))
        if not (root and colon and pair) or ":" in pair:
            raise OperatorError(
                f"{item.strip()!r} is no pair", where=where, fix='write ES:NQ,HG:SI, or JSON: {"ES": "NQ", "HG": "SI"}'
            )
        if root in pairs:
            raise OperatorError(f"{root} stands twice", where=where, fix="keep one of the two")
        pairs[root] = pair
    return pairs


def feeds_from(environ: Mapping[str, str], known: Collection[str]) -> tuple[str, ...] | None:
    """REQUIRED_REFERENCE_FEEDS; None when it says nothing. `known`: the roots that are read. Raises OperatorError."""
    text = environ.get(FEEDS_VARIABLE, "").strip()
    if not text:
        return None
    names = [] if text == "[]" else [name.strip() for name in text.split(",")]
    return checked_feeds(names, known, where=FEEDS_VARIABLE)


def checked_feeds(names: Collection[str], known: Collection[str], *, where: str) -> tuple[str, ...]:
    """The names as they are, each `<ROOT>_day` of a root in `known`, none twice. Raises OperatorError."""
    for name in names:
        if (found := _FEED.fullmatch(name)) is None:
            raise OperatorError(
                f"{name!r} is no reference feed", where=where, fix="write ROOT_day, such as TLT_day; none at all is []"
            )
        if found[1] not in known:
            raise OperatorError(
                f"{name} is required, and {found[1]} is not read",
                where=where,
                fix=f"add {found[1]} to the contract map's reference_feeds; {did_you_mean(found[1], known)}",
            )
    if len(set(names)) != len(names):
        raise OperatorError(f"{', '.join(names)}: a feed stands twice", where=where, fix="keep one of the two")
    return tuple(names)
