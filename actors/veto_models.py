"""The veto's bundles in one process: loaded or refused before a session opens, and kept beside its journal.

A journal names its models by digest. What it names is copied to `models/<digest>/<ROOT>/` in the
journal's directory, so that the session still replays when its bundle has been replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import structlog

from domain.errors import OperatorError
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot
from domain.veto import ModelRecord, VetoModel
from models.bundle import BUNDLES, ModelBundle, load_model_bundle
from models.manifest import FILES, BundleRefused
from models.parameters import otherwise_than_trained

KEPT = "models"
"""Directory of the kept bundles, inside the journal's."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class LoadedModels:
    """The bundles a session will use, by root, and what its journal says of each traded root."""

    bundles: dict[str, ModelBundle] = attrs.field(factory=dict)
    records: tuple[ModelRecord, ...] = ()


def load_models(
    roots: Iterable[TradedRoot],
    models_dir: Path,
    *,
    for_money: bool,
    strategy: StrategySettings | None = None,
    consequence: str = "no entries of this root: its model is refused",
) -> LoadedModels:
    """The bundle of each traded root. One that must not be used is logged and stands on record with its reason.

    `for_money` (`mode: live`) refuses what was trained on a simulated market. `strategy`: what they are held against.
    """
    bundles: dict[str, ModelBundle] = {}
    records = []
    for root in roots:
        if root.is_reference:
            continue
        try:
            bundle = load_model_bundle(
                root.root,
                models_dir,
                signal_product=root.data_product,
                side=None if strategy is None else strategy.of(root.root).side,
                allow_simulated=not for_money,
            )
        except BundleRefused as error:
            log.warning(consequence, root=root.root, reason=str(error))
            records.append(ModelRecord(root=root.root, refusal=error.reason, detail=error.what))
        else:
            bundles[root.root] = bundle
            own = None if strategy is None else strategy.of(root.root)
            otherwise = () if own is None else otherwise_than_trained(bundle.manifest.description, own)
            if otherwise:
                log.warning("this root's model was trained with other parameters", root=root.root, otherwise=otherwise)
            records.append(attrs.evolve(record_of(bundle), otherwise=otherwise))
    return LoadedModels(bundles=bundles, records=tuple(records))


def load_shadows(roots: Iterable[TradedRoot], shadow_dir: Path, strategy: StrategySettings) -> LoadedModels:
    """The shadow of each traded root that has one there, of a simulated market too: it never acts.

    Features are of hour bars: a root that decides on others has none. One that must not be used is logged and stands
    on record with its reason.
    """
    hourly = (root for root in roots if strategy.of(root.root).decision_timeframe == "1h")
    chosen = [root for root in hourly if (shadow_dir / root.root).is_dir()]
    return load_models(chosen, shadow_dir, for_money=False, consequence="no shadow of this root: its model is refused")


def record_of(model: VetoModel) -> ModelRecord:
    """What a journal says of a model that is used."""
    return ModelRecord(
        root=model.root,
        digest=model.digest,
        feature_set=model.feature_set,
        features=model.features,
        threshold=model.threshold,
    )


def keep(bundles: Iterable[ModelBundle], journal_dir: Path) -> None:
    """Copy bundles beside the journal, each digest once. Raises OperatorError when that cannot be written."""
    for bundle in bundles:
        place = journal_dir / KEPT / bundle.digest / bundle.root
        if _kept(bundle.root, bundle.digest, journal_dir) is not None:
            continue
        unfinished = place.with_name(f"{bundle.root}.tmp")
        try:
            for damaged in (unfinished, place):
                shutil.rmtree(damaged, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for name in ("manifest.yml", *FILES):
                shutil.copyfile(bundle.directory / name, unfinished / name)
            unfinished.rename(place)
            if _kept(bundle.root, bundle.digest, journal_dir) is None:
                raise OSError("it has changed since it was loaded")
        except OSError as error:
            raise OperatorError(
                f"the model of {bundle.root} cannot be kept here: {error.strerror or error}",
                where=str(place),
                fix="see that journal_dir is writable and has space",
            ) from error


def _kept(root: str, digest: str, journal_dir: Path) -> ModelBundle | None:
    """The kept bundle that is what its directory says, or None."""
    try:
        bundle = load_model_bundle(root, journal_dir / KEPT / digest)
    except BundleRefused:
        return None
    return bundle if bundle.digest == digest else None


def find_models(
    records: Sequence[ModelRecord],
    journal_dir: Path,
    models_dir: Path | None = None,
    products: Mapping[str, str] | None = None,
) -> dict[str, ModelBundle]:
    """The bundles that a journal in `journal_dir` names: kept there, or else the program's own, whatever they are.

    With `models_dir` those, and no others. A root whose bundle is not to be had is left out, and so is one in place
    of the recorded that was trained on another product than the root's of `products`.
    """
    found = {}
    for record in records:
        if record.refusal:
            continue
        bundle = _kept(record.root, record.digest, journal_dir) if models_dir is None else None
        if bundle is None:
            with suppress(BundleRefused):
                product = None if products is None else products[record.root]
                bundle = load_model_bundle(record.root, models_dir or BUNDLES, signal_product=product)
        if bundle is not None:
            found[record.root] = bundle
    return found
