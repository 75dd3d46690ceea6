"""The predecessor's models: `<ROOT>_best.json` and, with trust, the pickle beside it.

A description becomes a manifest of the feature set `legacy-1`. What it does not say (training
window, data) stays UNKNOWN. Percentiles of an imported model rank among the bars of the stored
history alone: the predecessor kept no population.

Unpickling runs whatever the file says. So a pickle is read only from bytes whose sha256 was
given beforehand; what comes out must be a forest of the described features.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import warnings
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from domain.errors import OperatorError
from domain.features import LEGACY_VERSION, required_bases
from models.bundle import write_bundle
from models.forest import ForestRefused
from models.manifest import ROOT_NAME, UNKNOWN, BundleDescription, BundleRefused, Manifest
from models.walk import FloatArray

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

LABEL = "the predecessor's, not recorded"
_LFS = b"version https://git-lfs.github.com/spec/"
_OID = re.compile(rb"oid sha256:([0-9a-f]{64})")
_NAME = re.compile(r"([A-Z0-9]{1,8})_best\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOO_DEEP = "is nested too deeply"
_CHECK_ROWS = 2_000


def read_legacy(path: Path) -> BundleDescription:
    """The description in a `<ROOT>_best.json`; it does not say the signal product.

    Raises OperatorError (exit 2) for anything that is not one, BundleRefused for a threshold or names
    that no bundle may have.
    """
    raw = _real_bytes(path)
    try:
        # The predecessor wrote NaN where it had no number.
        found = json.loads(raw, parse_constant=lambda _: None, parse_float=_finite)
    except ValueError as error:
        raise _refused(path, f"is no JSON: {error}") from error
    except RecursionError as error:
        raise _refused(path, _TOO_DEEP) from error
    named = _NAME.fullmatch(path.name)
    root = found.get("Symbol", named and named[1]) if isinstance(found, dict) else None
    # It becomes a part of a path.
    if not isinstance(root, str) or not ROOT_NAME.fullmatch(root) or (named is not None and named[1] != root):
        raise _refused(path, "is no description of a root's model: `Symbol` and the file's name do not name one root")
    params = found.get("Params", {})
    if "Features" not in found or "Prod_Threshold" not in found or not isinstance(params, dict):
        raise _refused(path, "is no description of a model: Features, Prod_Threshold or Params is missing")
    described = BundleDescription(
        root=root,
        signal_product=UNKNOWN,
        market="recorded",
        feature_set=LEGACY_VERSION,
        features=found["Features"],
        threshold=found["Prod_Threshold"],
        params=params,
        training_start=UNKNOWN,
        training_end=UNKNOWN,
        data_digest=UNKNOWN,
        label=LABEL,
        metrics={"claimed": {key: value for key, value in found.items() if key not in _READ}},
        folds=(),
        command=f"models import {path.name}",
        seed=params.get("random_state") or 0,
    )
    # A manifest's reader knows every way in which these fields can be wrong.
    try:
        return Manifest.of_yaml(Manifest(description=described, files={}, libraries={}).to_yaml(), path).description
    except RecursionError as error:
        raise _refused(path, _TOO_DEEP) from error


def _finite(text: str) -> float | None:
    """1e999 is a number in JSON, and infinite here."""
    return value if math.isfinite(value := float(text)) else None


_READ = frozenset({"Symbol", "Features", "Prod_Threshold", "Params"})


def read_pickle(path: Path, sha256: str, features: int) -> RandomForestClassifier:
    """The forest in the pickle at `path`, whose bytes must have the digest `sha256`. Runs the pickle.

    Raises OperatorError (exit 2): another digest, a git-LFS pointer, no forest of so many features, or one that
    another scikit-learn has written.
    """
    import joblib
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import InconsistentVersionWarning

    if not _SHA256.fullmatch(sha256):
        raise OperatorError(
            f"{sha256!r} is no sha256", where="--sha256", fix="write 64 hexadecimal digits", exit_code=2
        )
    raw = _real_bytes(path)
    if (found := hashlib.sha256(raw).hexdigest()) != sha256:
        raise _refused(path, f"sha256 is {found}, not {sha256}", fix="get the file that the digest was stated for")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            estimator = joblib.load(BytesIO(raw))
    except InconsistentVersionWarning as error:
        raise _refused(
            path,
            f"scikit-learn {error.original_sklearn_version} wrote it, this is {error.current_sklearn_version}",
            fix="write it again with this version: what one version wrote another may read wrongly",
        ) from error
    except (
        pickle.UnpicklingError, ImportError, AttributeError, LookupError, ValueError, TypeError,
        OSError, EOFError, RuntimeError, zlib.error,
    ) as error:  # fmt: skip
        raise _refused(path, f"cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(estimator, RandomForestClassifier):
        raise _refused(path, f"holds a {type(estimator).__name__}, no RandomForestClassifier")
    if getattr(estimator, "n_features_in_", None) != features:
        count = getattr(estimator, "n_features_in_", "none")
        raise _refused(path, f"a forest of {count} features, the description names {features}")
    return estimator


def write_legacy(description: BundleDescription, estimator: RandomForestClassifier | None, directory: Path) -> None:
    """The bundle `<directory>/<ROOT>/`, which must not exist; without an estimator a description alone.

    Raises OperatorError (exit 2) for a forest that cannot be scored, BundleRefused for features that are unknown.
    """
    place = directory / description.root
    if estimator is None:
        place.mkdir(parents=True)
        (place / "manifest.yml").write_bytes(Manifest(description=description, files={}, libraries={}).to_yaml())
        return
    fitted_on = tuple(getattr(estimator, "feature_names_in_", description.features))
    if fitted_on != description.features:
        raise _refused(place, "the forest was fitted on other features than the description names, or in another order")
    try:
        bases = required_bases(description.features, description.feature_set)
    except OperatorError as error:
        raise BundleRefused("unknown_feature", error.what, where=place) from error
    try:
        write_bundle(
            description,
            estimator,
            dict.fromkeys(bases, ()),
            check_rows=_check_rows(estimator, len(description.features)),
            models_dir=directory,
        )
    except ForestRefused as error:
        raise _refused(place, f"the forest cannot be scored: {error.what}") from error


def differing_params(
    description: BundleDescription, estimator: RandomForestClassifier
) -> Mapping[str, tuple[Any, Any]]:
    """(described, of the forest) of each parameter in which the two differ: then the pickle may be another model's."""
    ours = estimator.get_params()
    return {
        name: (value, ours[name])
        for name, value in description.params.items()
        if name in ours and name not in ("n_jobs", "verbose") and ours[name] != value
    }


def _check_rows(estimator: RandomForestClassifier, features: int) -> FloatArray:
    """Rows on both sides of the forest's own split points, where two walks could part."""
    splits: list[list[float]] = [[0.0] for _ in range(features)]
    for tree in estimator.estimators_:
        nodes = tree.tree_
        for feature, threshold in zip(nodes.feature.tolist(), nodes.threshold.tolist(), strict=True):
            if feature >= 0:
                splits[feature].append(threshold)
    rng = np.random.default_rng(0)
    columns = [rng.choice(np.array(values), _CHECK_ROWS) for values in splits]
    rows = np.column_stack(columns)
    sides = rng.integers(-1, 2, rows.shape)
    nudged: FloatArray = np.where(sides < 0, np.nextafter(rows, -np.inf), np.where(sides > 0, rows + 1e-3, rows))
    return nudged


def _real_bytes(path: Path) -> bytes:
    """The file's bytes. Raises OperatorError (exit 2) when they cannot be had, or only a git-LFS pointer is here."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", fix="name a readable file") from error
    if raw.startswith(_LFS):
        oid = _OID.search(raw)
        stands_for = f" for the file with sha256 {oid[1].decode()}" if oid else ""
        raise _refused(
            path,
            f"is a git-LFS pointer{stands_for}, not the file itself",
            fix=f"in the repository that it comes from: `git lfs install`, then `git lfs pull --include '{path.name}'`",
        )
    return raw


def _refused(path: Path, what: str, *, fix: str = "name a description and a model of the predecessor") -> OperatorError:
    return OperatorError(what, where=str(path), fix=fix, exit_code=2)
