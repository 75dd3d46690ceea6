"""`train`: candidates, a forest per root that is better than no veto or none at all, and a card that says why."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import click

from actors.wiring import code_digest
from actors.wiring.backtest import places_of
from actors.wiring.outputs import check_directory, check_file
from actors.wiring.workers import TRAINING_CODE, workers
from adapters.config import CONTRACT_MAP_FILE, MODELS_DIR, MarketPlaces
from adapters.contract_map import load_contract_map
from domain.errors import OperatorError
from domain.features import FEATURE_SET_VERSION
from models.bundle import write_bundle
from models.candidates import LABEL, Material
from models.card import card
from models.kept import KeptWork
from models.manifest import BundleDescription
from models.search import Floats, run_trials
from models.study import OptunaProposer, search
from models.training import Trained, judging, train, with_run
from models.validation import GRIDS, TrainingPlan

REFUSED = 1
"""Exit code: at least one root's model was not written."""
KEPT = "kept"
"""Where finished work goes, inside the work directory."""
TRIALS = 40
"""Forests that a search without a grid tries, unless it is told how many."""


@attrs.frozen(kw_only=True)
class TrainRequest:
    """The options of `train`, as given."""

    roots: tuple[str, ...]
    data: tuple[Path, ...]
    demo: bool
    config: Path | None
    features: tuple[str, ...]
    grid: str | None
    """None: `small`."""
    search: str
    trials: int | None
    min_trades: int
    leak_checks: int
    force: bool
    seed: int
    sessions: int
    models_dir: Path | None
    work_dir: Path
    jobs: int | None
    dask: str | None = None
    """A scheduler's address."""


def train_command(request: TrainRequest) -> int:
    """Train and report; the exit code: 0 when a bundle was written for every root, else 1.

    Raises OperatorError (exit 2) without data, or when there is too little to learn from.
    """
    places = None if request.demo else places_of(request.config)
    request = _checked(request, () if places is None else [root.root for root in places.roots])
    # A training on recorded bars replaces no bundle that anybody trades by, unless it is told to.
    models_dir = request.models_dir or (MODELS_DIR if request.demo else request.work_dir / "bundles")
    _check_places(request, models_dir, _roots(request, places))
    jobs = request.jobs or os.cpu_count() or 1
    kept = KeptWork(request.work_dir / KEPT, salt=code_digest(TRAINING_CODE))
    with workers(request.dask):
        if places is None:
            from actors.wiring.training_demo import PLAN, demo_material

            plan = attrs.evolve(PLAN, seed=request.seed)
            material = demo_material(seed=request.seed, sessions=request.sessions, jobs=jobs)
            click.echo("hold-out, simulated market: it shows that the path works, not that anything is earned\n")
        else:
            grid = GRIDS[request.grid or "small"]
            plan = TrainingPlan(seed=request.seed, grid=grid, min_trades=request.min_trades)
            material = _recorded(request, places, kept, jobs)
        trained = _trained(material, plan, kept, jobs, request)
    # Only when every root is trained: a set of bundles of two trainings would be nobody's.
    return _write(material, trained, seed=plan.seed, request=request, models_dir=models_dir)


def _checked(request: TrainRequest, known: Collection[str]) -> TrainRequest:
    """What is between the roots and looks like a file or is a directory is one of the data: `--data a.dbn b.dbn`.

    A directory that is called like one of the roots `known` has to be written as a path.
    """
    files = tuple(
        Path(name)
        for name in request.roots
        if "." in name or os.sep in name or (name.upper() not in known and Path(name).is_dir())
    )
    roots = tuple(name.upper() for name in request.roots if Path(name) not in files)
    checked = attrs.evolve(request, roots=roots, data=(*request.data, *files))
    if checked.demo and (roots or checked.data):
        raise OperatorError(
            "--demo trains every root of the demo, on the simulated market",
            where="train",
            fix="leave out --demo, or the roots and files",
            exit_code=2,
        )
    if checked.demo and (checked.features or checked.config is not None):
        raise OperatorError(
            "--demo has features and settings of its own",
            where="train",
            fix="leave out --features and --config, or --demo",
            exit_code=2,
        )
    _check_search(checked)
    if not checked.demo and not checked.data:
        raise OperatorError(
            "nothing to learn from",
            where="train",
            fix="give --data FILE… (minute bars or trades as DBN, journals, or a directory of them), or --demo",
            exit_code=2,
        )
    return checked


def _check_search(request: TrainRequest) -> None:
    """What cannot be searched is said before minutes of work, not after."""
    if request.search == "grid":
        if request.trials is not None:
            fix = "add --search optuna, or leave it out"
            raise OperatorError("a grid says how many forests it has", where="--trials", fix=fix, exit_code=2)
        return
    if request.demo or request.grid is not None:
        what = "--demo has one forest" if request.demo else "--grid says which forests are tried"
        raise OperatorError(what, where="--search optuna", fix="leave one of the two out", exit_code=2)
    OptunaProposer(request.seed)


def _roots(request: TrainRequest, places: MarketPlaces | None) -> tuple[str, ...]:
    """What may be trained. Raises OperatorError (exit 2) for a root that is not traded."""
    roots = load_contract_map(CONTRACT_MAP_FILE).roots if places is None else places.roots
    traded = tuple(root.root for root in roots if not root.is_reference)
    if unknown := [root for root in request.roots if root not in traded]:
        raise OperatorError(
            f"no traded root {', '.join(unknown)}", where="train", fix=f"known are {', '.join(traded)}", exit_code=2
        )
    return request.roots or traded


def _check_places(request: TrainRequest, models_dir: Path, roots: Sequence[str]) -> None:
    check_directory(models_dir, "--models-dir")
    for directory in (request.work_dir, request.work_dir / KEPT):
        check_directory(directory, "--work-dir")
    for root in roots:
        check_file(_card(request, root), "--work-dir")
        if (models_dir / root).exists():
            check_directory(models_dir / root, "--models-dir")


def _card(request: TrainRequest, root: str) -> Path:
    return request.work_dir / f"{root}.html"


def _recorded(request: TrainRequest, places: MarketPlaces, kept: KeptWork, jobs: int) -> dict[str, Material]:
    from actors.wiring.training_demo import FEATURES
    from actors.wiring.training_files import FileRequest, file_material

    wanted = FileRequest(
        traded=request.roots,
        data=request.data,
        features=request.features,
        default=FEATURES,
        leak_checks=request.leak_checks,
        jobs=jobs,
    )
    return file_material(wanted, places, kept)


def _command(root: str, request: TrainRequest) -> str:
    """What trains the root's bundle again; where files lay and how many processes there were does not matter."""
    words = ["python -m actors.main train"]
    if request.demo:
        return f"{words[0]} --demo --seed {request.seed} --sessions {request.sessions}"
    words += [root, *(f"--data {_written(path)}" for path in request.data)]
    words += [f"--config {request.config.name}"] if request.config is not None else []
    words += [f"--features {','.join(request.features)}"] if request.features else []
    words.append(f"--grid {request.grid or 'small'}" if request.search == "grid" else _searched(request))
    words.append(f"--min-trades {request.min_trades} --seed {request.seed}")
    return " ".join(words)


def _written(path: Path) -> str:
    """As it was given; of an absolute path the name alone: a bundle does not tell where its machine keeps things."""
    return shlex.quote(path.name if path.is_absolute() else path.as_posix())


def _searched(request: TrainRequest) -> str:
    return f"--search {request.search} --trials {request.trials or TRIALS}"


def _trained(
    material: Mapping[str, Material], plan: TrainingPlan, kept: KeptWork, jobs: int, request: TrainRequest
) -> dict[str, Trained]:
    tables = {root: one.table for root, one in material.items()}
    of_each = len(plan.grid) if request.search == "grid" else request.trials or TRIALS
    searched: Mapping[str, tuple[TrainingPlan, list[Floats]]]
    with click.progressbar(length=len(tables) * of_each, label="forests", file=sys.stderr) as bar:
        if request.search == "grid":
            found = run_trials(tables, plan, kept=kept, jobs=jobs, done=lambda root: bar.update(1))
            searched = {root: (plan, trials) for root, trials in found.items()}
        else:
            searched = search(
                tables,
                plan,
                partial(OptunaProposer, plan.seed),
                trials=of_each,
                kept=kept,
                jobs=jobs,
                done=lambda root: bar.update(1),
            )
    return _played(material, {root: train(table, *searched[root]) for root, table in tables.items()}, jobs)


def _played(material: Mapping[str, Material], trained: Mapping[str, Trained], jobs: int) -> dict[str, Trained]:
    """With what the strategy makes of each hold-out when it asks the model."""
    from joblib import Parallel, delayed

    plays = {root: one.play for root, one in material.items() if one.play is not None}
    models = {root: judging(trained[root], material[root].table, material[root].side) for root in plays}
    work = Parallel(n_jobs=jobs, return_as="generator")(delayed(play)(models[root]) for root, play in plays.items())
    found = dict(trained)
    with click.progressbar(length=len(plays), label="hold-outs", file=sys.stderr) as bar:
        for root, rows in zip(plays, work, strict=True):
            found[root] = with_run(trained[root], rows)
            bar.update(1)
    return found


def _write(
    material: Mapping[str, Material],
    trained: Mapping[str, Trained],
    *,
    seed: int,
    request: TrainRequest,
    models_dir: Path,
) -> int:
    click.echo(f"{'root':<5} {'trades':>7} {'threshold':>9}   {'without the veto':>26}   {'with it':>26}")
    refused = 0
    for root, result in trained.items():
        said = _description(material[root], result, seed, _command(root, request))
        # The simulated market is random: its models show the path, and nobody trades real money by them.
        is_forced = bool(result.shortcomings) and (request.force or request.demo)
        is_written = not result.shortcomings or is_forced
        click.echo(_line(root, result))
        if (run := result.metrics["hold_out"].get("run_with_veto")) is not None:
            click.echo(f"      the strategy with it: {run['trades']} trades {run['net_pnl']:+,.2f} USD")
        for shortcoming in () if request.demo else result.shortcomings:
            click.echo(f"      {shortcoming}")
        page = _card(request, root)
        page.write_text(card(said, result, material[root].table, is_forced=is_forced), encoding="utf-8")
        if is_written:
            write_bundle(
                said,
                result.estimator,
                material[root].populations,
                check_rows=material[root].table.values,
                models_dir=models_dir,
                searched_with=None if request.search == "grid" else request.search,
            )
        else:
            refused += 1
            click.echo(f"      no bundle: not better than no veto on the hold-out (--force writes it); see {page}")
    return REFUSED if refused else 0


def _description(material: Material, trained: Trained, seed: int, command: str) -> BundleDescription:
    return BundleDescription(
        root=material.table.root,
        signal_product=material.signal_product,
        market=material.market,
        side=material.side,
        feature_set=FEATURE_SET_VERSION,
        features=material.table.features,
        threshold=trained.threshold,
        params=trained.params,
        training_start=material.training_start,
        training_end=material.training_end,
        data_digest=trained.data_digest,
        label=LABEL,
        metrics={**trained.metrics, "strategy": dict(material.strategy)},
        folds=trained.folds,
        command=command,
        seed=seed,
    )


def _line(root: str, trained: Trained) -> str:
    result = trained.metrics["hold_out"]
    return f"{root:<5} {trained.metrics['rows']:>7} {trained.threshold:>9.4f}   " + "   ".join(
        f"{result[name]['trades']:>4} trades {result[name]['net_pnl']:>+10,.2f} USD"
        for name in ("without_veto", "with_veto")
    )
