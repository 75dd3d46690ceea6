"""A bundle's manifest: what was trained, on what, how, with what result, and which bytes belong to it.

YAML of plain data in a fixed order, so that the same description gives the same bytes.
Reading refuses: every way in which a manifest can be wrong has a reason code (`Reason`).
It refuses to know files other than by their digest; `bundle` reads those.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import yaml

from domain.errors import OperatorError, OurError
from domain.ibs import EntrySide
from domain.sessions import to_nanos
from domain.units import Nanos

FORMAT_VERSION = 1
MAX_DEPTH = 20
"""Of nesting: manifests have five levels."""
FILES = ("forest.npz", "model.joblib", "populations.npz")
"""What a bundle holds besides its manifest."""
ROOT_NAME = re.compile(r"[A-Z0-9]{1,8}")
"""What a bundle's directory may be called."""
UNKNOWN = "unknown"
"""Of a model that was not trained here: its training window, its data, the product it was trained on."""
LIBRARIES = ("joblib", "numpy", "scikit-learn")
"""Distributions whose version at training is recorded, besides Python's."""
SEARCHERS = ("optuna",)
"""Distributions that may have proposed the forests: recorded where one has."""

Reason = Literal[
    "missing",  # the bundle or one of its files
    "changed",  # a file is not the one the manifest names
    "malformed",  # the manifest or a file cannot be understood
    "format_version",
    "feature_set_version",
    "library_version",  # load_estimator only
    "root_mismatch",
    "product_mismatch",
    "side",  # the root enters others than it was trained on
    "simulated_market",  # where real money is traded
    "duplicate_feature",
    "unknown_feature",
    "population_missing",  # of a percentile that a feature ranks
    "threshold_unparsable",
    "threshold_out_of_range",
    "estimator_unreadable",  # load_estimator only: unpickling brought a surprise
    "estimator_differs",  # load_estimator only: it is not the forest that is scored
]

_FIX: Mapping[Reason, str] = {
    "missing": "train the root, import its model (`models import`), or switch the veto off",
    "changed": "restore the bundle's files from version control, or train the root again",
    "format_version": f"train the root again; this program reads format {FORMAT_VERSION}",
    "product_mismatch": "train the root on the bars that are read, or read the product that it was trained on",
    "side": "train the root on the side that it enters (`side` in the configuration), or let it enter the model's",
    "library_version": "install the manifest's version to read the estimator; scoring does not need it",
    "threshold_unparsable": "write a plain number between 0 and 1, such as 0.55",
    "threshold_out_of_range": "write a number above 0 and below 1",
}


class BundleRefused(OperatorError):
    """A bundle that must not be used. `reason` is a stable code, for events and tests."""

    def __init__(self, reason: Reason, what: str, *, where: Path) -> None:
        self.reason = reason
        super().__init__(what, where=str(where), fix=_FIX.get(reason, "train the root again"))


@attrs.frozen(kw_only=True)
class BundleDescription:
    """What the trainer says about a bundle, in the manifest's order; numbers, texts, lists and mappings only."""

    root: str
    signal_product: str
    """Product whose bars made the features and labels (ES), whatever is ordered (MES).

    A manifest that does not say is read as UNKNOWN, which no product that is read equals.
    """
    market: Literal["recorded", "simulated"]
    """Where the training data came from. A simulated market proves nothing about a real one."""
    side: EntrySide = "long"
    """Of the entries that it was trained on. A manifest that does not say is read as long."""
    feature_set: str
    """Version of the feature registry the names belong to."""
    features: tuple[str, ...]
    """In the order of a vector."""
    threshold: float
    """Least probability that passes, in (0, 1)."""
    params: Mapping[str, Any]
    """The estimator's parameters."""
    training_start: str
    """ISO 8601, inclusive; or UNKNOWN."""
    training_end: str
    """ISO 8601, exclusive; or UNKNOWN."""
    data_digest: str
    """Hex sha256 of the training data."""
    label: str
    """What class 1 means, in words and numbers."""
    metrics: Mapping[str, Any]
    """Results on the hold-out and overall, with and without the veto."""
    folds: tuple[Mapping[str, Any], ...]
    """Metrics per walk-forward fold, oldest first."""
    command: str
    """What trained it, to be run again."""
    seed: int

    @property
    def trained_until_ns(self) -> Nanos:
        """`training_end` in UTC nanoseconds, 0 when it is UNKNOWN. Raises ValueError for no moment with a zone."""
        if self.training_end == UNKNOWN:
            return Nanos(0)
        end = dt.datetime.fromisoformat(self.training_end)
        if end.tzinfo is None:
            raise ValueError(f"{self.training_end!r} has no zone")
        return to_nanos(end)


def entries_of(side: EntrySide) -> str:
    """In words."""
    return "long and short entries" if side == "both" else f"{side} entries"


@attrs.frozen(kw_only=True)
class Manifest:
    """A description with the digests and versions that belong to it."""

    description: BundleDescription
    files: Mapping[str, str]
    """Hex sha256 by file name; empty where there is a description and no model."""
    libraries: Mapping[str, str]
    """Version at training by distribution, and `python`."""

    def to_yaml(self) -> bytes:
        """The file's bytes. Raises OurError for NaN, infinity and what is no plain data."""
        said = attrs.asdict(self.description, recurse=False)
        window = {"start": said.pop("training_start"), "end": said.pop("training_end")}
        fields = {
            "format_version": FORMAT_VERSION,
            **said,
            "training_window": window,
            "populations": _POPULATIONS,
            "files": self.files,
            "libraries": self.libraries,
        }
        try:
            # Through JSON: fresh lists and dicts (YAML writes shared ones as anchors), numpy's numbers as Python's.
            plain = json.loads(json.dumps(fields, allow_nan=False, default=_plain))
        except (TypeError, ValueError) as error:
            raise OurError(f"a manifest cannot hold this ({error}); write None for a number that is none") from error
        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
        return text.encode()

    @classmethod
    def of_yaml(cls, raw: bytes, path: Path) -> Manifest:
        """The manifest in `raw`, which came from `path`. Raises BundleRefused."""
        fields = _mapping(raw, path)
        window = _typed(fields, "training_window", dict, path)
        features = _texts("features", _typed(fields, "features", list, path), path)
        if len(set(features)) != len(features):
            twice = sorted({name for name in features if features.count(name) > 1})
            raise BundleRefused("duplicate_feature", f"features: twice {', '.join(twice)}", where=path)
        if fields["populations"] != _POPULATIONS:
            raise BundleRefused("malformed", f"populations: expected {_POPULATIONS}", where=path)
        if fields["market"] not in ("recorded", "simulated"):
            raise BundleRefused(
                "malformed", f"market: {fields['market']!r} is neither recorded nor simulated", where=path
            )
        if fields["side"] not in ("long", "short", "both"):
            raise BundleRefused("malformed", f"side: {fields['side']!r} is not long, short or both", where=path)
        try:
            json.dumps([fields[name] for name in ("params", "metrics", "folds")], allow_nan=False)
        except (TypeError, ValueError) as error:  # what YAML makes of an unquoted date
            raise BundleRefused("malformed", f"holds what is no plain data: {error}", where=path) from error
        is_bare = fields["files"] == {} and fields["libraries"] == {}
        start, end = _texts("training_window", [window.get("start"), window.get("end")], path)
        description = BundleDescription(
            **{name: _typed(fields, name, str, path) for name in _TEXTS},
            features=features,
            threshold=_threshold(fields["threshold"], path),
            params=_typed(fields, "params", dict, path),
            training_start=start,
            training_end=end,
            metrics=_typed(fields, "metrics", dict, path),
            folds=tuple(_typed(fields, "folds", list, path)),
            seed=_typed(fields, "seed", int, path),
        )
        try:
            _ = description.trained_until_ns
        except ValueError as error:
            raise BundleRefused("malformed", f"training_window: {error}", where=path) from error
        return cls(
            description=description,
            files={} if is_bare else _named_texts(fields, "files", FILES, path),
            libraries={} if is_bare else _libraries(fields, path),
        )


# ----------------------------------------------------------------- reading

_POPULATIONS = {"file": "populations.npz", "kind": "bars"}
"""Percentile populations of one value per bar; one per trade would be another kind."""
_TEXTS = ("root", "signal_product", "market", "side", "feature_set", "data_digest", "label", "command")
_KEYS = frozenset(
    {
        *_TEXTS,
        *("format_version", "features", "threshold", "params", "training_window", "metrics", "folds", "seed"),
        *("populations", "files", "libraries"),
    }
)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast


class _Loader(_SafeLoader):  # type: ignore[misc]  # chosen at run time
    """A safe loader that refuses a key written twice: PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is written twice", node.start_mark)
        return mapping


def _mapping(raw: bytes, path: Path) -> dict[str, Any]:
    """The file's mapping with exactly the keys of this format."""
    try:
        if _is_too_deep(raw):
            raise BundleRefused("malformed", f"nested deeper than {MAX_DEPTH}", where=path)
        fields = yaml.load(raw, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise BundleRefused("malformed", f"not YAML: {error}", where=path) from error
    if not isinstance(fields, dict) or "format_version" not in fields:
        raise BundleRefused("malformed", "is no manifest: format_version is missing", where=path)
    version = fields["format_version"]  # first: another format may have other keys
    if version != FORMAT_VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise BundleRefused("format_version", f"format version {version!r}", where=path)
    fields.setdefault("signal_product", UNKNOWN)
    fields.setdefault("side", "long")
    if odd := sorted(str(key) for key in fields.keys() ^ _KEYS):
        raise BundleRefused("malformed", f"missing or unknown: {', '.join(odd)}", where=path)
    return fields


def _is_too_deep(raw: bytes) -> bool:
    """Lists and mappings are nested deeper than MAX_DEPTH: found without recursion, the C loader would overflow."""
    depth = 0
    for event in yaml.parse(raw, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return False


def _typed(fields: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    value = fields[key]
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise BundleRefused("malformed", f"{key}: expected {kind.__name__}, got {value!r}", where=path)
    return value


def _texts(key: str, values: list[Any], path: Path) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) and value for value in values):
        raise BundleRefused("malformed", f"{key}: expected texts, got {values!r}", where=path)
    return tuple(values)


def _named_texts(fields: Mapping[str, Any], key: str, names: tuple[str, ...], path: Path) -> dict[str, str]:
    texts = _typed(fields, key, dict, path)
    if sorted(texts, key=str) != sorted(names) or not all(isinstance(text, str) for text in texts.values()):
        raise BundleRefused("malformed", f"{key}: expected a text for each of {', '.join(names)}", where=path)
    return dict(texts)


def _libraries(fields: Mapping[str, Any], path: Path) -> dict[str, str]:
    searchers = [name for name in SEARCHERS if name in _typed(fields, "libraries", dict, path)]
    return _named_texts(fields, "libraries", (*LIBRARIES, "python", *searchers), path)


def _threshold(value: object, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleRefused("threshold_unparsable", f"threshold {value!r} is not a number", where=path)
    if not 0 < value < 1:  # refuses NaN too
        raise BundleRefused("threshold_out_of_range", f"threshold {value!r}", where=path)
    return float(value)


def _plain(value: object) -> object:
    """What JSON does not know: numpy's numbers, and mappings that are no dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is no plain data")
