"""The `gates` of a strategy: which features are held against what."""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from adapters.yaml_source import (
    YamlList,
    YamlMap,
    YamlValue,
    as_decimal,
    as_list,
    as_map,
    as_text,
    did_you_mean,
    refuse,
)
from domain.errors import OperatorError
from domain.features import FEATURE_SET_VERSION, feature_names, features_of, unavailable
from domain.ibs import FeatureGate
from domain.optional_gates import WORDS

_HOW = (
    "write [low, high], {min: low}, {max: high}, {in: [a, b]} for values that come in steps, `default` or `true` "
    "for the usual band, or `false`"
)
_number = partial(as_decimal, low=Decimal(-(10**12)), high=Decimal(10**12))


def read_gates(value: YamlValue) -> tuple[FeatureGate, ...]:
    """The gates that are on, in the order in which they are written. Raises OperatorError with file:line:column."""
    section = as_map(value)
    gates = []
    for name, asked in section.entries.items():
        _check_name(section, name)
        gate = _gate(name, asked)
        if gate is not None:
            gates.append(gate)
    return tuple(gates)


def _check_name(section: YamlMap, name: str) -> None:
    """Raises OperatorError for what is no feature, at the name itself."""
    why = unavailable(name)
    if why is None:
        return
    known = feature_names(FEATURE_SET_VERSION)
    is_unknown = why.startswith("not in")
    raise OperatorError(
        f"{section.path}.{name}: {'is no feature' if is_unknown else why}",
        where=str(section.keys_at[name]),
        fix=did_you_mean(name, known) if is_unknown else "remove it",
    )


def _gate(name: str, asked: YamlValue) -> FeatureGate | None:
    if isinstance(asked, YamlList):
        return _of_list(name, asked)
    if isinstance(asked, YamlMap):
        return _of_map(name, asked)
    is_flag = asked.is_plain and asked.text in ("true", "false")
    if not is_flag and asked.text != "default":
        refuse(asked, "does not say what is allowed", fix=_HOW)
    return None if asked.text == "false" else _by_default(name, asked)


def _by_default(name: str, asked: YamlValue) -> FeatureGate:
    band = features_of(FEATURE_SET_VERSION)[name].default_band
    if band is None:
        refuse(asked, f"{name} has no usual band", fix="write [low, high]")
    low, high = (None if end is None else float(end) for end in band)
    return FeatureGate(name=name, low=low, high=high)


def _of_list(name: str, asked: YamlList) -> FeatureGate:
    if not asked.items:
        refuse(asked, "does not say what is allowed", fix=_HOW)
    if name in WORDS:
        return FeatureGate(name=name, allowed=tuple(_step(name, item) for item in asked.items))
    if len(asked.items) != 2:
        refuse(asked, f"a band has two numbers, this list has {len(asked.items)}", fix=_HOW)
    low, high = (float(_number(item)) for item in asked.items)
    if low > high:
        refuse(asked, f"the band {low} to {high} is empty", fix="write the lower number first")
    return FeatureGate(name=name, low=low, high=high)


def _of_map(name: str, asked: YamlMap) -> FeatureGate:
    asked.refuse_unknown(("min", "max", "in"))
    allowed, low, high = asked.get("in"), asked.get("min"), asked.get("max")
    if allowed is not None and len(asked.entries) == 1 and as_list(allowed):
        return FeatureGate(name=name, allowed=tuple(_step(name, item) for item in as_list(allowed)))
    if allowed is not None or not asked.entries:
        refuse(asked, "does not say what is allowed", fix=_HOW)
    gate = FeatureGate(
        name=name,
        low=None if low is None else float(_number(low)),
        high=None if high is None else float(_number(high)),
    )
    if gate.low is not None and gate.high is not None and gate.low > gate.high:
        refuse(asked, f"the band {gate.low} to {gate.high} is empty", fix="`min` must not exceed `max`")
    return gate


def _step(name: str, value: YamlValue) -> float:
    words = WORDS.get(name)
    if words is None:
        return float(_number(value))
    word = as_text(value).lower()
    if word not in words:
        refuse(value, f"{word!r} is none of {', '.join(words)}", fix=did_you_mean(word, words))
    return words[word]
