"""The command `features`: what the registry knows, in words. It reads no configuration and no journal."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from domain.errors import OperatorError

if TYPE_CHECKING:
    from domain.features import Band, Feature
    from models.manifest import BundleDescription

COLUMNS = ("name", "key", "output", "form", "parameter", "label")
"""The form in which the predecessor described one filter and feature."""


@click.command()
@click.argument("name", required=False)
@click.option("--bundle", metavar="B", help="A root of --models-dir, a bundle's directory, or a <ROOT>_best.json.")
@click.option("--columns", is_flag=True, help="CSV: key, output, form, parameter and label of each.")
@click.option("--models-dir", type=click.Path(path_type=Path), help="Where bundles are. Default: models/bundles.")
def features(name: str | None, bundle: str | None, models_dir: Path | None, *, columns: bool) -> None:
    """List the features that a bundle or a gate may name; explain NAME; check what a bundle needs.

    With --bundle exit 1 when one of its features, or NAME alone, is not available.
    """
    from domain.features import FEATURES

    if bundle is not None:
        place, described = _described(bundle, models_dir)
        asked = described.features if name is None else (_named_by(place, described, name),)
        chosen = {each: FEATURES[each] for each in asked if each in FEATURES}
        if columns:
            click.echo(_csv(chosen))
        elif name is None:
            click.echo("\n".join(_needs(place, described)))
        else:
            click.echo("\n".join(_explained_to_it(place, described, name)))
        sys.exit(int(len(chosen) < len(asked)))
    listed = FEATURES if name is None else _one(name)
    if columns:
        click.echo(_csv(listed))
    elif name is None:
        click.echo("\n".join(_listed()))
    else:
        click.echo("\n".join(explained(name, _users(name, models_dir))))


def _one(name: str) -> Mapping[str, Feature]:
    """By its name; empty for one that is known and unavailable."""
    from domain.features import FEATURES, UNAVAILABLE, unavailable

    if name in UNAVAILABLE:
        return {}
    if (reason := unavailable(name)) is not None:
        raise OperatorError(f"{name!r} is {reason}", fix="`features` lists them all", exit_code=2)
    return {name: FEATURES[name]}


def _csv(chosen: Mapping[str, Feature]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(feature, column) for column in COLUMNS] for feature in chosen.values())
    return text.getvalue().rstrip("\n")


# ------------------------------------------------------------------ words


def _listed() -> Iterator[str]:
    from domain.features import FEATURES, UNAVAILABLE

    yield f"{'name':<42} {'W':>4}  {'reads':<26} {'unit':<24} what"
    for name, feature in FEATURES.items():
        yield f"{name:<42} {feature.window:>4}  {reads(feature):<26} {feature.unit:<24} {feature.label}"
    for name, reason in sorted(UNAVAILABLE.items()):
        yield f"{name:<42}    -  {'-':<26} {'-':<24} unavailable: {reason}"


def reads(feature: Feature) -> str:
    """Which bars, or which percentiles, in a few words."""
    from domain.features import PAIR, PercentileInput

    words = []
    for source in feature.inputs:
        if isinstance(source, PercentileInput):
            words.append(source.base)
        else:
            root = "own" if source.root is None else "the pair's" if source.root == PAIR else source.root
            words.append(f"{root} {'hours' if source.timeframe == '1h' else 'days'}")
    return (" × " if feature.form == "product" else ", ").join(words)


def band_words(band: Band | None) -> str:
    """`0 ≤ value ≤ 0.2`; empty without a band."""
    if band is None:
        return ""
    low, high = band
    return " ≤ ".join(
        [*([f"{low:g}"] if low is not None else []), "value", *([f"{high:g}"] if high is not None else [])]
    )


def explained(name: str, users: Sequence[str]) -> Iterator[str]:
    """All that the registry says of one name."""
    from domain.features import BASES, FEATURES, LEGACY_VERSION, READ_HOURS, UNAVAILABLE, PercentileInput

    yield f"{'name':<12}{name}"
    if name in UNAVAILABLE:
        yield f"{'unavailable':<12}{UNAVAILABLE[name]}; a bundle that names it is refused"
        return
    feature = FEATURES[name]
    facts = {
        "what": feature.label,
        "formula": feature.formula,
        "reads": reads(feature),
        "W": f"{feature.window} bars",
        "unit": feature.unit,
        "form": feature.form,
        "parameter": feature.parameter,
        "also called": ", ".join(k for k, other in FEATURES.items() if other.output == feature.output and k != name),
        LEGACY_VERSION: f"the same as {READ_HOURS[name]}" if name in READ_HOURS else "",
        "gate": band_words(feature.default_band),
        "used by": ", ".join(users) or "no bundle",
        "source": feature.source,
    }
    yield from (f"{key:<12}{value}" for key, value in facts.items() if value)
    for source in feature.inputs:
        if isinstance(source, PercentileInput):
            base = BASES[source.base]
            unit = "hour" if base.timeframe == "1h" else "day"
            yield f"{'population':<12}{base.name}: {FEATURES[base.name].formula} Of {base.window} bars"
            yield f"{'':<12}one value per completed {unit} of the root, those of the bundle's training first"


# ---------------------------------------------------------------- bundles


def _described(bundle: str, models_dir: Path | None) -> tuple[Path, BundleDescription]:
    """What a bundle, ours or the predecessor's, says of itself, and where."""
    from models.bundle import BUNDLES
    from models.legacy import read_legacy
    from models.manifest import BundleRefused, Manifest

    path = Path(bundle)
    if not path.exists():
        path = (models_dir or BUNDLES) / bundle
    try:
        if path.suffix == ".json":
            return path, read_legacy(path)
        path = path / "manifest.yml" if path.is_dir() else path
        return path, Manifest.of_yaml(path.read_bytes(), path).description
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise OperatorError(what, where=str(path), fix="name a root with a bundle, or a file", exit_code=2) from error
    except BundleRefused as error:
        raise OperatorError(error.what, where=error.where, fix=error.fix, exit_code=2) from error


def _named_by(place: Path, described: BundleDescription, name: str) -> str:
    if name not in described.features:
        what = f"the bundle of {described.root} does not name {name!r}"
        raise OperatorError(what, where=str(place), fix="without NAME all that it names are listed", exit_code=2)
    return name


def _explained_to_it(place: Path, described: BundleDescription, name: str) -> Iterator[str]:
    """One feature as this bundle asks for it."""
    from domain.features import unavailable

    number = described.features.index(name) + 1
    yield f"{place}: feature {number} of {len(described.features)}, of {described.feature_set}"
    if (reason := unavailable(name)) is not None:
        yield f"{name:<12}UNAVAILABLE: {reason}"
    else:
        yield from explained(name, [described.root])


def _users(name: str, models_dir: Path | None) -> list[str]:
    """Roots whose bundle names it; what cannot be read uses nothing."""
    from models.bundle import BUNDLES

    users = []
    for place in sorted((models_dir or BUNDLES).glob("*/manifest.yml")):
        try:
            if name in _described(str(place), None)[1].features:
                users.append(place.parent.name)
        except OperatorError:
            continue
    return users


def _needs(place: Path, described: BundleDescription) -> Iterator[str]:
    from domain.features import features_of, required_bases, required_inputs, unavailable

    version = described.feature_set
    known = features_of(version)
    reasons = {name: unavailable(name) for name in described.features}
    there = [name for name, reason in reasons.items() if reason is None]
    yield f"{place}: {len(described.features)} features of {version}, {len(there)} available"
    for name, reason in reasons.items():
        if reason is None:
            yield f"  {name:<42} {known[name].window:>4}  {reads(known[name])}"
        else:
            yield f"  {name:<42} UNAVAILABLE: {reason}"
    yield "needs, in completed bars:"
    for need in required_inputs(there, version):
        yield f"  {need.root or 'own':<5} {need.timeframe} {need.bars:>5}"
    yield f"populations: {', '.join(required_bases(there, version)) or 'none'}"
