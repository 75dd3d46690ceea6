"""`models …`: bundles listed, shown, verified, imported from the predecessor, and a shadow promoted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import click
import yaml

from actors.model_comparison import TYPES, Comparison
from actors.wiring.reading import naming, open_segments
from adapters.config import ModelPlaces
from adapters.products import products_of
from adapters.sqlite.journal import journal_entries
from domain.errors import OperatorError
from domain.features import unavailable
from domain.ibs import EntrySide
from models.bundle import ModelBundle, load_model_bundle
from models.legacy import differing_params, read_legacy, read_pickle, write_legacy
from models.manifest import ROOT_NAME, UNKNOWN, BundleRefused, Manifest, entries_of
from models.parameters import otherwise_than_trained

PREVIOUS = "previous"
"""Where a replaced bundle goes, inside its directory: `previous/<digest>/<ROOT>`."""


@attrs.frozen(kw_only=True)
class Found:
    """One bundle's directory, and what a start would make of it."""

    root: str
    kind: str
    """`live` or `shadow`."""
    path: Path
    manifest: Manifest | None
    bundle: ModelBundle | None
    refusal: BundleRefused | None
    otherwise: tuple[str, ...]
    """Parameters that the configuration has otherwise than its training, in words."""

    @property
    def state(self) -> str:
        return self.refusal.reason if self.refusal is not None else "used"

    @property
    def digest(self) -> str:
        return _digest_of(self.path)


# ----------------------------------------------------------------- looking


def list_command(places: ModelPlaces, *, as_json: bool) -> None:
    """Print a line per bundle."""
    header = ("root", "kind", "state", "signal", "set", "features", "threshold", "trained until", "market", "digest")
    table: list[tuple[str, ...]] = [header]
    for found in _all(places):
        if as_json:
            click.echo(json.dumps(_as_json(found) | {"features": _count(found)}))
            continue
        row = _as_json(found)
        table.append(
            (
                *(found.root, found.kind, found.state),
                *(str(row.get(name, "")) for name in ("signal_product", "feature_set")),
                str(_count(found)),
                *(str(row.get(name, "")) for name in ("threshold", "training_end", "market")),
                found.digest[:12],
            )
        )
    if not as_json and len(table) == 1:
        click.echo(f"no bundle in {places.models_dir}")
    elif not as_json:
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        for line in table:
            click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show_command(places: ModelPlaces, root: str, *, is_shadow: bool, as_json: bool) -> int:
    """Print all of one bundle; 1 when there is none."""
    directory = places.shadow_models_dir if is_shadow else places.models_dir
    if directory is None:
        raise OperatorError("no shadow_models_dir is configured", where="--shadow", fix="name it in the configuration")
    found = _look(places, root, directory, "shadow" if is_shadow else "live")
    if found.manifest is None:
        click.echo(f"error: {found.refusal}", err=True)
        return 1
    if as_json:
        click.echo(json.dumps(_as_json(found)))
        return 0
    description = found.manifest.description
    click.echo(f"{root} ({found.kind}), {found.path}")
    click.echo(f"  state            {found.state}{f': {found.refusal.what}' if found.refusal else ''}")
    click.echo(f"  signal product   {description.signal_product}; this configuration reads {_product(places, root)}")
    click.echo(f"  trained on       {entries_of(description.side)} of a {description.market} market")
    for words in found.otherwise:
        click.echo(f"  otherwise        {words}")
    click.echo(f"  window           {description.training_start} to {description.training_end}")
    click.echo(f"  data             sha256 {description.data_digest}")
    click.echo(f"  label            {description.label}")
    click.echo(f"  threshold        {description.threshold}")
    click.echo(f"  by               {description.command} (seed {description.seed})")
    click.echo(f"  digest           {found.digest}")
    for name, sha256 in found.manifest.files.items():
        click.echo(f"    {name:<16} {sha256}")
    for name, version in found.manifest.libraries.items():
        click.echo(f"    {name:<16} {version}{_other(name, version)}")
    click.echo(f"  features         {len(description.features)} of {description.feature_set}, in the vector's order")
    for position, name in enumerate(description.features, 1):
        reason = unavailable(name)
        click.echo(f"    {position:>3}  {name}{f'   NOT TO BE HAD: {reason}' if reason else ''}")
    for name, values in (("parameters", description.params), ("metrics", description.metrics)):
        click.echo(f"  {name}")
        for line in yaml.safe_dump(json.loads(json.dumps(dict(values))), sort_keys=False).splitlines():
            click.echo(f"    {line}")
    click.echo(f"  folds            {len(description.folds)}")
    return 0


def verify_command(places: ModelPlaces, roots: Sequence[str], *, with_estimator: bool) -> int:
    """Check bundles; 0 when each may be used, else 1."""
    found = [one for one in _all(places) if not roots or one.root in roots]
    found += [_look(places, root, places.models_dir, "live") for root in roots if root not in {f.root for f in found}]
    if not any(one.kind == "live" for one in found):
        click.echo(f"no bundle in {places.models_dir}")
        return 1
    is_good = True
    for one in found:
        problem = one.refusal
        if with_estimator and one.bundle is not None:
            try:
                one.bundle.load_estimator()
            except BundleRefused as error:
                problem = error
        is_good = is_good and problem is None
        told = "ok" if problem is None else f"REFUSED {problem.reason}: {problem.what}"
        click.echo(f"{one.root:<5} {one.kind:<6} {told}")
        for words in one.otherwise:
            click.echo(f"{'':<12} note: {words}")
        for name, version in one.manifest.libraries.items() if one.manifest is not None else ():
            if note := _other(name, version):
                click.echo(f"{'':<12} note: trained with {name} {version}{note}; scoring does not need it")
    return 0 if is_good else 1


# --------------------------------------------------------------- importing


@attrs.frozen(kw_only=True)
class ImportRequest:
    """The options of `models import`, as given."""

    description: Path
    out: Path
    pickle: Path | None
    trust_pickle: bool
    sha256: str | None
    signal_product: str | None
    replace: bool


def import_command(request: ImportRequest) -> None:
    """Write the bundle. Raises OperatorError (exit 2); then nothing has changed."""
    _check_trust(request)
    try:
        described = read_legacy(request.description)
        known = products_of(described.root)
        product = request.signal_product or next(iter(known), None)
        if request.signal_product is not None and request.signal_product not in known:
            raise OperatorError(
                f"{request.signal_product} is not a product of {described.root}",
                where="--signal-product",
                fix=f"one of: {', '.join(known)}",
                exit_code=2,
            )
        described = attrs.evolve(described, signal_product=product or UNKNOWN)
        target = request.out / described.root
        if target.exists() and not request.replace:
            raise OperatorError(
                "is there already", where=str(target), fix="name another --out, or add --replace", exit_code=2
            )
        estimator = None
        if request.pickle is not None and request.sha256 is not None:
            estimator = read_pickle(request.pickle, request.sha256.lower(), len(described.features))
        unfinished = _unfinished(target)
        try:
            write_legacy(described, estimator, unfinished)
            old = _swap(unfinished / described.root, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except BundleRefused as error:
        raise OperatorError(error.what, where=error.where, fix=error.fix, exit_code=2) from error
    except OSError as error:
        raise _unwritable(request.out, error) from error
    click.echo(
        f"{target}: {len(described.features)} features, threshold {described.threshold}, signal product {product}"
    )
    if old is not None:
        click.echo(f"the one before is in {old}")
    if estimator is None:
        click.echo("a description alone: it is shown, and entries are refused (veto_model_missing)")
    for name, (theirs, ours) in (differing_params(described, estimator) if estimator is not None else {}).items():
        click.echo(f"note: {name} is {theirs!r} in the description and {ours!r} in the forest: are they of one model?")
    for name in described.features:
        if reason := unavailable(name):
            click.echo(f"note: {name}: {reason}; a bundle that names it is refused")


def _check_trust(request: ImportRequest) -> None:
    """A pickle runs what it says: both words are needed before it is even opened."""
    if request.pickle is None:
        if request.trust_pickle or request.sha256 is not None:
            raise OperatorError(
                "there is no pickle to trust", where="--pickle", fix="name the file with --pickle", exit_code=2
            )
        return
    if not request.trust_pickle or request.sha256 is None:
        raise OperatorError(
            "reading a pickle runs whatever it says",
            where=str(request.pickle),
            fix="only if you know where it comes from: add --trust-pickle and --sha256 with the digest that its "
            "author states; without --pickle the description alone is imported",
            exit_code=2,
        )


# --------------------------------------------------------------- promoting


@attrs.frozen(kw_only=True)
class PromoteRequest:
    """The options of `models promote`, as given; `confirm` asks."""

    root: str
    source: Path | None
    journal_dir: Path | None
    dry_run: bool
    force: bool
    confirm: Callable[[str], bool]


def promote_command(places: ModelPlaces, request: PromoteRequest) -> int:
    """Compare, and put the shadow in the live bundle's place; 0 when that was done (or a dry run), else 1.

    Raises OperatorError for a shadow that a start would refuse as the live bundle.
    """
    source = request.source.absolute() if request.source is not None else places.shadow_models_dir
    if source is None:
        raise OperatorError(
            "no shadow_models_dir is configured", where="--from", fix="name the shadow's directory with --from"
        )
    shadow = load_model_bundle(
        request.root,
        source,
        signal_product=_product(places, request.root),
        side=_side(places, request.root),
        allow_simulated=places.mode != "live",
    )
    live = _look(places, request.root, places.models_dir, "live")
    target = places.models_dir / request.root
    if live.digest == shadow.digest:
        raise OperatorError(f"the live bundle of {request.root} is this one already", where=str(target))
    comparison = Comparison(request.root, live=live.digest, shadow=shadow.digest)
    for entry in journal_entries(request.journal_dir or places.journal_dir):
        if entry.segment == 1:
            for segment in open_segments(entry.path):
                with naming(segment.path):
                    for envelope in segment.envelopes(types=set(TYPES)):
                        comparison.fold(envelope)
    click.echo("\n".join(comparison.words()))
    for words in otherwise_than_trained(shadow.manifest.description, places.strategy.of(request.root)):
        click.echo(f"note: {words}")
    if request.dry_run:
        return 0
    if not comparison.count and not request.force:
        click.echo(
            f"not promoted: let it run as a shadow first, or add --force ({request.journal_dir or places.journal_dir})"
        )
        return 1
    if not request.confirm(
        f"{request.root}: put {shadow.digest[:12]} in the place of {live.digest[:12] or 'nothing'}?"
    ):
        return 1
    unfinished = _unfinished(target)
    try:
        shutil.copytree(shadow.directory, unfinished / request.root)
        if load_model_bundle(request.root, unfinished).digest != shadow.digest:
            raise OperatorError("it has changed meanwhile", where=str(shadow.directory), fix="look at it and try again")
        old = _swap(unfinished / request.root, target)
    except OSError as error:
        raise _unwritable(places.models_dir, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(shadow.directory, ignore_errors=True)
    with suppress(OSError):  # `previous/<digest>`, when it was the last there
        shadow.directory.parent.rmdir()
    click.echo(f"promoted: {target} is {shadow.digest}; a running program takes it at its next start")
    if old is not None:
        click.echo(f"the one before is in {old}")
        click.echo(f"back: models promote {request.root} --from {old.parent} --force")
    return 0


# ----------------------------------------------------------------- private


def _all(places: ModelPlaces) -> Iterator[Found]:
    for kind, directory in (("live", places.models_dir), ("shadow", places.shadow_models_dir)):
        for path in sorted(directory.iterdir()) if directory is not None and directory.is_dir() else ():
            if ROOT_NAME.fullmatch(path.name) and path.is_dir():
                assert directory is not None
                yield _look(places, path.name, directory, kind)


def _look(places: ModelPlaces, root: str, directory: Path, kind: str) -> Found:
    """As a start would: a root that the configuration does not read is held against nothing of it."""
    path = directory / root
    manifest: Manifest | None = None
    with suppress(OSError, BundleRefused):
        manifest = Manifest.of_yaml((path / "manifest.yml").read_bytes(), path / "manifest.yml")
    bundle, refusal = None, None
    try:
        bundle = load_model_bundle(
            root,
            directory,
            signal_product=_product(places, root),
            side=None if kind == "shadow" else _side(places, root),
            allow_simulated=kind == "shadow" or places.mode != "live",
        )
    except BundleRefused as error:
        refusal = error
    otherwise: tuple[str, ...] = ()
    if manifest is not None and _product(places, root) is not None:
        otherwise = otherwise_than_trained(manifest.description, places.strategy.of(root))
    return Found(
        root=root, kind=kind, path=path, manifest=manifest, bundle=bundle, refusal=refusal, otherwise=otherwise
    )


def _side(places: ModelPlaces, root: str) -> EntrySide | None:
    """What the root enters, as far as it asks a model."""
    settings = places.strategy.of(root)
    return settings.side if settings.veto and _product(places, root) is not None else None


def _product(places: ModelPlaces, root: str) -> str | None:
    return next((one.data_product for one in places.roots if one.root == root), None)


def _as_json(found: Found) -> dict[str, Any]:
    told: dict[str, Any] = {"root": found.root, "kind": found.kind, "path": str(found.path), "state": found.state}
    told["detail"] = "" if found.refusal is None else found.refusal.what
    told["digest"] = found.digest
    told["otherwise"] = list(found.otherwise)
    if found.manifest is not None:
        fields: Mapping[str, Any] = attrs.asdict(found.manifest.description, recurse=False)
        told |= {name: value for name, value in fields.items() if name != "root"}
        told |= {"files": dict(found.manifest.files), "libraries": dict(found.manifest.libraries)}
        told["unavailable"] = {name: reason for name in fields["features"] if (reason := unavailable(name))}
    return told


def _count(found: Found) -> int:
    return 0 if found.manifest is None else len(found.manifest.description.features)


def _other(name: str, version: str) -> str:
    """A remark when another version is installed, or none; empty when it is the same."""
    try:
        installed = platform.python_version() if name == "python" else importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # of an extra
        return ", not installed"
    return "" if installed == version else f", installed {installed}"


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256((path / "manifest.yml").read_bytes()).hexdigest()
    except OSError:
        return ""


def _unfinished(target: Path) -> Path:
    """An empty directory beside the target: what is written there becomes the target in one rename, or nothing."""
    place = target.with_name(f".{target.name}.new")
    shutil.rmtree(place, ignore_errors=True)
    return place


def _swap(new: Path, target: Path) -> Path | None:
    """Put `new` in the target's place, and what was there under PREVIOUS, which is returned.

    Between the two renames there is no bundle: a start just then enters nothing.
    """
    old = None
    if target.exists():
        old = target.parent / PREVIOUS / (_digest_of(target) or "unreadable") / target.name
        shutil.rmtree(old, ignore_errors=True)
        old.parent.mkdir(parents=True, exist_ok=True)
        target.rename(old)
    new.rename(target)
    return old


def _unwritable(place: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"cannot be written: {error.strerror or error}", where=str(place), fix="name a writable directory", exit_code=2
    )
