"""A trained veto on disk: `models/bundles/<ROOT>/`, format version 1.

| file | what | when it is read |
|---|---|---|
| `manifest.yml` | what was trained on what, how and with what result; the sha256 of the others | first |
| `forest.npz` | the flat forest: the only thing that is scored | at load |
| `populations.npz` | per percentile base its sorted values at the end of training | at load |
| `model.joblib` | scikit-learn's estimator, for audits and retraining | `load_estimator()` only |

Every file's digest is checked on the bytes that are then used, before anything is made of
them. The bundle's own digest is the manifest's sha256, so it names all four files. Whoever
rewrites manifest and files together has made another bundle: its digest differs from the one
in the journal, and scoring it still runs no code (no pickle outside `load_estimator`).
The format and its refusals: docs/models.md.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import io
import pickle
import platform
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import ArrayLike

from domain.errors import OperatorError, OurError
from domain.features import features_of, required_bases, unavailable
from domain.ibs import EntrySide
from domain.units import Nanos
from domain.veto import Flip, Score, VetoModel
from models.forest import FlatForest, ForestRefused
from models.manifest import FILES, LIBRARIES, ROOT_NAME, BundleDescription, BundleRefused, Manifest, entries_of
from models.walk import FloatArray

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

BUNDLES = Path(__file__).parent / "bundles"


@attrs.frozen(kw_only=True, eq=False)
class ModelBundle:
    """A loaded bundle; a `domain.veto.VetoModel`."""

    manifest: Manifest
    directory: Path
    digest: str
    """Hex sha256 of the manifest's bytes."""
    forest: FlatForest
    populations: Mapping[str, FloatArray]
    """Per percentile base its values, one per bar of the training window, ascending; read-only."""

    @property
    def root(self) -> str:
        return self.manifest.description.root

    @property
    def side(self) -> EntrySide:
        return self.manifest.description.side

    @property
    def feature_set(self) -> str:
        return self.manifest.description.feature_set

    @property
    def features(self) -> tuple[str, ...]:
        return self.manifest.description.features

    @property
    def trained_until_ns(self) -> Nanos:
        return self.manifest.description.trained_until_ns

    @property
    def threshold(self) -> float:
        return self.manifest.description.threshold

    def probability(self, vector: ArrayLike) -> float:
        """The score's probability alone, for batches: the same bits in about half the time."""
        return self.forest.probability(vector)

    def score(self, vector: Sequence[float]) -> Score:
        return self.forest.explain(vector)

    def nearest_flip(self, vector: Sequence[float]) -> Flip | None:
        return self.forest.nearest_flip(vector, self.threshold, self.features)

    def load_estimator(self) -> RandomForestClassifier:
        """scikit-learn's own forest, n_jobs forced to 1. Runs its pickle: only after its digest has been checked.

        Raises BundleRefused: missing, changed, library_version (scikit-learn's major.minor differs from
        the manifest's), estimator_unreadable, estimator_differs.
        """
        path = self.directory / "model.joblib"
        raw = _checked_bytes(path, self.manifest.files[path.name])
        trained, installed = self.manifest.libraries["scikit-learn"], importlib.metadata.version("scikit-learn")
        if trained.split(".")[:2] != installed.split(".")[:2]:
            raise BundleRefused("library_version", f"trained with scikit-learn {trained}, not {installed}", where=path)
        estimator = _unpickled(raw, path)
        try:
            is_same = FlatForest.of(estimator) == self.forest
        except ForestRefused as error:
            raise BundleRefused("estimator_differs", error.what, where=path) from error
        if not is_same:
            raise BundleRefused("estimator_differs", "it is not the forest that is scored", where=path)
        estimator.set_params(n_jobs=1)
        return estimator


def strategy_kwargs_from_bundle(bundle: ModelBundle) -> dict[str, Any]:
    """Parameters for `cerebro.addstrategy(IbsStrategy, **strategy_kwargs_from_bundle(bundle))`.

    Exactly: `ml_model` (VetoModel), `ml_features` (tuple of str, the vector's order), `ml_threshold` (float).
    """
    model: VetoModel = bundle
    return {"ml_model": model, "ml_features": bundle.features, "ml_threshold": bundle.threshold}


# ----------------------------------------------------------------- loading


def load_model_bundle(
    root: str,
    models_dir: Path | str | None = None,
    *,
    signal_product: str | None = None,
    side: EntrySide | None = None,
    allow_simulated: bool = True,
) -> ModelBundle:
    """The bundle of `root` below `models_dir` (default: `models/bundles`).

    Its features must be in the registry, and a model must be there: a description alone is `missing`.
    `signal_product`: what the root's bars are made from, compared with the manifest when given; UNKNOWN is none.
    `side`: what the root enters; a model of both sides is none of one, whose entries it has seen among others.
    `allow_simulated`: take one that was trained on a simulated market.
    Raises BundleRefused with the reason.
    """
    directory = _directory(root, models_dir)
    path = directory / "manifest.yml"
    raw = _bytes(path)
    manifest = Manifest.of_yaml(raw, path)
    description = manifest.description
    if description.root != root:
        raise BundleRefused("root_mismatch", f"is a bundle of {description.root}, not {root}", where=path)
    bases = _bases_of(description, path)
    if not manifest.files:
        raise BundleRefused("missing", "only a description was imported, no model", where=path)
    if signal_product is not None and description.signal_product != signal_product:
        what = f"trained on {description.signal_product}, used on {signal_product}"
        raise BundleRefused("product_mismatch", what, where=path)
    if side is not None and description.side != side:
        what = f"trained on {entries_of(description.side)}, and {root} enters {entries_of(side)}"
        raise BundleRefused("side", what, where=path)
    if description.market == "simulated" and not allow_simulated:
        raise BundleRefused("simulated_market", "trained on a simulated market, which proves nothing", where=path)
    contents = {name: _checked_bytes(directory / name, manifest.files[name]) for name in FILES}
    populations = _read_populations(contents["populations.npz"], directory / "populations.npz")
    if lacking := [base for base in bases if base not in populations]:
        raise BundleRefused("population_missing", f"no values of {', '.join(lacking)}", where=path)
    return ModelBundle(
        manifest=manifest,
        directory=directory,
        digest=hashlib.sha256(raw).hexdigest(),
        forest=_read_forest(contents["forest.npz"], len(description.features), directory / "forest.npz"),
        populations=populations,
    )


def _bases_of(description: BundleDescription, path: Path) -> tuple[str, ...]:
    """The percentile bases that the features rank; refuses what the registry cannot compute."""
    try:
        features_of(description.feature_set)
    except OperatorError as error:
        raise BundleRefused("feature_set_version", error.what, where=path) from error
    reasons = [(name, unavailable(name)) for name in description.features]
    if unknown := [f"{name!r} {reason}" for name, reason in reasons if reason is not None]:
        raise BundleRefused("unknown_feature", "; ".join(unknown), where=path)
    return required_bases(description.features, description.feature_set)


def _directory(root: str, models_dir: Path | str | None) -> Path:
    parent = Path(models_dir if models_dir is not None else BUNDLES)
    if not ROOT_NAME.fullmatch(root):  # before it becomes part of a path
        raise BundleRefused("missing", f"{root!r} is not a root", where=parent)
    return parent / root


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleRefused("missing", f"cannot be read: {error.strerror}", where=path) from error


def _checked_bytes(path: Path, sha256: str) -> bytes:
    raw = _bytes(path)
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise BundleRefused("changed", f"sha256 is {found}, the manifest says {sha256}", where=path)
    return raw


def _read_forest(raw: bytes, n_features: int, path: Path) -> FlatForest:
    try:
        forest = FlatForest.from_npz(raw)
    except ForestRefused as error:
        raise BundleRefused("malformed", error.what, where=path) from error
    if forest.n_features != n_features:
        what = f"a forest of {forest.n_features} features under {n_features} names"
        raise BundleRefused("malformed", what, where=path)
    return forest


def _read_populations(raw: bytes, path: Path) -> dict[str, FloatArray]:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            populations = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleRefused("malformed", f"not a populations file: {error}", where=path) from error
    for name, values in populations.items():
        if (
            values.dtype != np.float64
            or values.ndim != 1
            or not np.isfinite(values).all()
            or (np.diff(values) < 0).any()
        ):
            raise BundleRefused("malformed", f"population {name!r} is not a sorted list of numbers", where=path)
        values.setflags(write=False)
    return populations


def _unpickled(raw: bytes, path: Path) -> Any:
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with warnings.catch_warnings():
            # Another patch release only: the caller has compared major.minor, and compares the trees next.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            return joblib.load(io.BytesIO(raw))
    except (
        pickle.UnpicklingError, ImportError, AttributeError, LookupError, ValueError, TypeError,
        OSError, EOFError, RuntimeError, zlib.error,
    ) as error:  # fmt: skip
        raise BundleRefused("estimator_unreadable", f"{type(error).__name__}: {error}", where=path) from error


# ----------------------------------------------------------------- writing


def write_bundle(
    description: BundleDescription,
    estimator: RandomForestClassifier,
    populations: Mapping[str, ArrayLike],
    *,
    check_rows: ArrayLike,
    models_dir: Path | str | None = None,
    searched_with: str | None = None,
) -> ModelBundle:
    """Write the bundle of `description.root` and load it again, with every check.

    `populations`: per percentile base the values of the training window's bars, in any order.
    `check_rows`, shape (n, features): rows on which the flat forest must equal `predict_proba`; the training
    rows will do. `searched_with`: the one of `manifest.SEARCHERS` that proposed the forest.
    The manifest is written last: an interrupted write leaves a bundle that is refused.
    Raises ForestRefused for a forest that cannot be flattened, BundleRefused for a description that could
    not be loaded, OurError when the bits differ or the estimator's columns are others than `features`.
    """
    directory = _directory(description.root, models_dir)
    forest = FlatForest.of(estimator)
    # A copy, so that the caller's own training may go on in parallel.
    single = copy.copy(estimator).set_params(n_jobs=1)
    if tuple(getattr(single, "feature_names_in_", description.features)) != description.features:
        raise OurError("the estimator was fitted on other columns than the description names")
    rows = np.asarray(check_rows, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        expected = single.predict_proba(rows)[:, 1]
    if not np.array_equal(forest.score_many(rows), expected):
        raise OurError("the flat forest does not give predict_proba's bits")
    contents = {
        "forest.npz": forest.to_npz(),
        "model.joblib": _pickled(single),
        "populations.npz": _populations_npz(populations),
    }
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, searched_with) if name}
    manifest = Manifest(
        description=description,
        files={name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()},
        libraries={**versions, "python": platform.python_version()},
    ).to_yaml()
    # Refused now, before it replaces a good one.
    Manifest.of_yaml(manifest, directory / "manifest.yml")
    _read_forest(contents["forest.npz"], len(description.features), directory / "forest.npz")
    _read_populations(contents["populations.npz"], directory / "populations.npz")
    directory.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        _replace(directory / name, raw)
    _replace(directory / "manifest.yml", manifest)
    return load_model_bundle(description.root, directory.parent)


def _populations_npz(populations: Mapping[str, ArrayLike]) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.sort(np.asarray(populations[name], np.float64)) for name in sorted(populations)}
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _pickled(estimator: RandomForestClassifier) -> bytes:
    import joblib

    file = io.BytesIO()
    joblib.dump(estimator, file, compress=3)
    return file.getvalue()


def _replace(path: Path, raw: bytes) -> None:
    written = path.with_name(f"{path.name}.tmp")
    written.write_bytes(raw)
    written.replace(path)
