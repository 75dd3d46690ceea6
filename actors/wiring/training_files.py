"""What `train ROOT… --data FILE…` learns from: a backtest of the files in which every entry passes."""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import click
import numpy as np
import numpy.typing as npt

from actors.wiring import library_versions
from actors.wiring.backtest import MinuteData, exchanged, read_minutes, required_in, run_backtest, say_left_out
from adapters.calendar import CmeCalendar
from adapters.config import CALENDAR_OVERRIDES_FILE, MarketPlaces
from domain.backtest import END, BacktestResult, ContractMinutes
from domain.errors import OperatorError
from domain.events import SignalEvaluated, VetoScored
from domain.features import FEATURE_SET_VERSION, required_inputs, unavailable
from domain.ibs import EntrySide, StrategySettings
from domain.instruments import TradedRoot
from domain.optional_gates import gate_inputs, gate_names
from domain.sessions import iso_utc
from domain.units import MINUTE, Nanos
from domain.veto import VetoModel
from models.candidates import SIDE_FEATURE, Candidates, Material, PassEverything, Row
from models.kept import Arrays, KeptWork, key_of
from models.lookahead import refuse_lookahead, spread
from models.parameters import recorded_parameters

Asked = dict[int, tuple[float, ...]]


@attrs.frozen(kw_only=True)
class FileRequest:
    """Which files, and what is made of them."""

    traded: tuple[str, ...]
    """Roots to train; empty: all that have bars."""
    data: tuple[Path, ...]
    features: tuple[str, ...]
    """Empty: `default` less those whose bars are not in the files."""
    default: tuple[str, ...]
    leak_checks: int
    """How many times each root's backtest is run anew on data that end at a decision."""
    jobs: int


@attrs.frozen(kw_only=True, eq=False)
class TrainingRun:
    """One root's backtest, ready to be carried to another process."""

    root: TradedRoot
    features: tuple[str, ...]
    minutes: tuple[ContractMinutes, ...]
    roots: tuple[TradedRoot, ...]
    """Of the minutes: the root, those that its features and gates read, and the required reference feeds'."""
    settings: StrategySettings
    feeds: tuple[str, ...] = ()
    """Entries wait for these, as live."""
    market: Literal["recorded", "simulated"] = "recorded"

    @classmethod
    def of(
        cls,
        root: TradedRoot,
        features: Sequence[str],
        data: MinuteData,
        settings: StrategySettings,
        feeds: Sequence[str] = (),
    ) -> TrainingRun:
        """The run on `data`, with the veto asked whatever `settings` say."""
        own = settings.of(root.root)
        read = _read_by(features, root) | {one.root or root.root for one in gate_inputs(own, pair=root.pair)}
        read |= {name.removesuffix("_day") for name in feeds}
        return cls(
            root=root,
            features=tuple(features),
            minutes=tuple(one for one in data.minutes if one.root in read),
            roots=tuple(one for one in data.roots if one.root in read),
            settings=attrs.evolve(own, veto=True, roots=()),
            feeds=tuple(feeds),
            market="simulated" if data.is_simulated else "recorded",
        )

    def result(self, model: VetoModel | None = None) -> BacktestResult:
        """With `model`, or with one that lets every entry pass."""
        root = self.root.root
        everything = PassEverything(root=root, features=self.features, side=self.settings.side)
        return run_backtest(
            self.minutes,
            roots=self.roots,
            settings=self.settings,
            calendar=CmeCalendar(CALENDAR_OVERRIDES_FILE),
            models={root: model or everything},
            required_reference_feeds=self.feeds,
            traded=[root],
        )

    def candidates(self, result: BacktestResult) -> Candidates:
        """The table of `result`'s trades. Raises OperatorError (exit 2) without any, saying what kept them away."""
        rows = _rows(result)
        if not rows:
            fix = "take more sessions, or other --features"
            raise OperatorError(_why_nothing(result), where=self.root.root, fix=fix, exit_code=2)
        # Sessions before the first entry warm the features up: they are no block of a walk-forward.
        first = min(row.session for row in rows)
        sessions = [date for date in result.sessions if date >= first]
        return Candidates.of(rows, features=self.features, sessions=sessions)

    def play(self, model: VetoModel) -> list[Row]:
        """The trades of the strategy with `model`."""
        return _rows(self.result(model))

    def until(self, end: int) -> TrainingRun:
        """The same on data that end at `end`."""
        minutes = tuple(
            attrs.evolve(one, rows=one.rows[: int(np.searchsorted(one.rows[:, END], end, "right"))])
            for one in self.minutes
        )
        return attrs.evolve(self, minutes=minutes)

    def key(self) -> str:
        """Of all that its result depends on, but the code."""
        rows = hashlib.sha256()
        for one in self.minutes:
            rows.update(f"{one.root}:{one.raw_symbol}:{len(one.rows)}:".encode() + one.rows.tobytes())
        return key_of(
            root=self.root.root,
            features=self.features,
            rows=rows.hexdigest(),
            roots=repr(self.roots),
            settings=repr(self.settings),
            feeds=self.feeds,
            libraries=library_versions(),
        )


def file_material(request: FileRequest, places: MarketPlaces, kept: KeptWork) -> dict[str, Material]:
    """By root: its candidates, which do not change when the future is cut off.

    Raises OperatorError: exit 2 for files, roots or features that will not do and where no entry had all its
    inputs, exit 1 where a feature knows the future (`models.lookahead`).
    """
    roots, settings = places.roots, places.strategy
    data = read_minutes(request.data, roots)
    feeds = required_in(places, data.roots)
    by_root = {root.root: root for root in data.roots}
    traded = request.traded or tuple(root.root for root in data.roots if not root.is_reference)
    if lacking := [root for root in traded if root not in by_root]:
        raise OperatorError(
            f"no bar of {', '.join(lacking)}", where="--data", fix="give files that hold them", exit_code=2
        )
    if by_minutes := [root for root in traded if settings.of(root).decision_timeframe != "1h"]:
        what = f"{', '.join(by_minutes)} decides on minutes, and the veto's features are of hour bars"
        fix = "give a --config with `decision_timeframe: 1h`, or name other roots"
        raise OperatorError(what, where="--config", fix=fix, exit_code=2)
    for root in traded:
        _check_gates(settings.of(root), by_root[root], by_root)
    for name, mapped, found_product in exchanged(roots, data):
        if name in traded:
            what = f"{name}: the files hold {found_product}, the contract map reads {mapped}"
            click.echo(f"{what}: a start takes the bundle where the map reads {found_product}", err=True)
    say_left_out(data)
    features = {root: _features(request, by_root[root], by_root, settings.of(root).side) for root in traded}
    runs = {root: TrainingRun.of(by_root[root], features[root], data, settings, feeds) for root in traded}
    keys = {root: run.key() for root, run in runs.items()}
    found = _found(runs, keys, kept, request.jobs)
    _refuse_lookahead(runs, keys, found, kept, request)
    return {root: _material(run, found[root]) for root, run in runs.items()}


def _check_gates(settings: StrategySettings, root: TradedRoot, held: Collection[str]) -> None:
    """Without the bars of what a gate reads, nothing would ever be entered."""
    if lacking := [name for name in gate_names(settings) if not _read_by([name], root) <= set(held)]:
        raise OperatorError(
            f"nothing to compute the gates {', '.join(lacking)} of {root.root} from",
            where="--data",
            fix="give the roots that they read too, or a --config without these gates",
            exit_code=2,
        )


def _features(request: FileRequest, root: TradedRoot, held: Collection[str], side: EntrySide) -> tuple[str, ...]:
    """The features that were asked for, or the default ones that the files, which hold bars of `held`, can supply.

    One of them tells the sides apart where both are entered: the same bar is good for a long and bad for a short.
    """
    for name in request.features:
        if (reason := unavailable(name)) is not None:
            raise OperatorError(f"{name!r} {reason}", where="--features", fix="`features` lists them all", exit_code=2)
        if request.features.count(name) > 1:
            raise OperatorError(f"{name!r} is named twice", where="--features", fix="keep one of the two", exit_code=2)
    wanted = request.features or request.default
    if side == "both" and SIDE_FEATURE not in wanted:
        if request.features:
            raise OperatorError(
                f"{root.root} enters both sides, and none of these features tells them apart",
                where="--features",
                fix=f"add {SIDE_FEATURE}, or give a --config with one `side`",
                exit_code=2,
            )
        wanted = (*wanted, SIDE_FEATURE)
    left_out = [name for name in wanted if not _read_by([name], root) <= set(held)]
    if left_out and request.features:
        raise OperatorError(
            f"nothing to compute {', '.join(left_out)} from", where="--data", fix="give those roots too", exit_code=2
        )
    if left_out:
        click.echo(f"{root.root}: left out, the files hold no bars of what they read: {', '.join(left_out)}", err=True)
    return tuple(name for name in wanted if name not in left_out)


def _read_by(names: Sequence[str], root: TradedRoot) -> set[str]:
    """The roots whose bars the vector of `names` needs, `root` among them."""
    return {one.root or root.root for one in required_inputs(names, FEATURE_SET_VERSION, pair=root.pair)}


# ------------------------------------------------------------- the backtests


def _found(runs: Mapping[str, TrainingRun], keys: Mapping[str, str], kept: KeptWork, jobs: int) -> dict[str, Arrays]:
    """Each root's candidates in columns; what has been found before is not sought again."""
    from joblib import Parallel, delayed

    found = {root: arrays for root in runs if (arrays := kept.get(keys[root])) is not None}
    due = [root for root in runs if root not in found]
    work = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_candidates)(runs[root]) for root in due)
    with click.progressbar(length=len(runs), label="backtests", file=sys.stderr) as bar:
        bar.update(len(found))
        for root, arrays in work:
            kept.put(keys[root], arrays)
            found[root] = arrays
            bar.update(1)
    return found


def _candidates(run: TrainingRun) -> tuple[str, Arrays]:
    """The table, what was asked at every decision bar, and the populations at the end."""
    root, result = run.root.root, run.result()
    table, asked = run.candidates(result), asked_of(result)
    arrays: dict[str, npt.NDArray[Any]] = {
        name: getattr(table, name) for name in ("days", "values", "pnl", "decided", "exits", "sessions")
    }
    arrays["asked_at"] = np.array(list(asked), np.int64)
    arrays["asked"] = np.array(list(asked.values()), np.float64)
    arrays["run"] = np.array([date.toordinal() for date in (result.sessions[0], result.sessions[-1])], np.int64)
    for state in result.percentiles:
        if state.root == root:
            arrays[f"population {state.base}"] = np.frombuffer(b64decode(state.added), "<f8")
    return root, arrays


def _rows(result: BacktestResult) -> list[Row]:
    return [
        Row(
            root=trade.root,
            session=trade.session,
            decided_ns=trade.decided_ns,
            exit_ns=Nanos(trade.exit_ns + MINUTE),  # the end of the bar that it fell in
            values=trade.values,
            pnl=trade.pnl,
        )
        for trade in result.trades
    ]


def asked_of(result: BacktestResult) -> Asked:
    """By decision bar: the vector, and whether it entered."""
    entered = {
        event.ts for event in result.decisions if isinstance(event, SignalEvaluated) and event.verdict == "enter"
    }
    return {
        event.ts: (*event.values, float(event.ts in entered))
        for event in result.decisions
        if isinstance(event, VetoScored)
    }


def _why_nothing(result: BacktestResult) -> str:
    """In words: what the veto lacked at the end, or what kept most entries away."""
    evaluated = [event for event in result.decisions if isinstance(event, SignalEvaluated)]
    if result.unfilled:
        return f"none of {result.unfilled} entries was filled in {len(result.sessions)} sessions"
    what = f"not a single entry in {len(result.sessions)} sessions"
    for gate in evaluated[-1].gates if evaluated else ():
        if gate.name == "veto" and not gate.is_passed:
            return f"{what}; at the last decision the veto said {gate.reason}: {gate.value}"
    reasons = Counter(event.reason for event in evaluated if event.verdict == "refuse").most_common(3)
    return f"{what}: {', '.join(f'{reason} {count}' for reason, count in reasons) or 'not a decision bar'}"


def _refuse_lookahead(
    runs: Mapping[str, TrainingRun],
    keys: Mapping[str, str],
    found: Mapping[str, Arrays],
    kept: KeptWork,
    request: FileRequest,
) -> None:
    """Every root's backtest anew on data that end at some of its entries' decisions."""
    from joblib import Parallel, delayed

    cuts = [
        (root, cut) for root, arrays in found.items() for cut in spread(arrays["decided"].tolist(), request.leak_checks)
    ]
    due = [(root, cut) for root, cut in cuts if kept.get(f"{keys[root]}-{cut}") is None]
    work = Parallel(n_jobs=request.jobs, return_as="generator_unordered")(
        delayed(_again)(runs[root], cut) for root, cut in due
    )
    with click.progressbar(length=len(cuts), label="look-ahead", file=sys.stderr) as bar:
        bar.update(len(cuts) - len(due))
        for root, cut, again in work:
            asked = dict(zip(found[root]["asked_at"].tolist(), found[root]["asked"].tolist(), strict=True))
            refuse_lookahead(root, (*runs[root].features, "whether it enters"), asked, {cut: again})
            kept.put(f"{keys[root]}-{cut}", {})
            bar.update(1)


def _again(run: TrainingRun, cut: int) -> tuple[str, int, Asked]:
    return run.root.root, cut, asked_of(run.until(cut).result())


# ------------------------------------------------------------ what is learned


def _material(run: TrainingRun, arrays: Arrays) -> Material:
    names = ("days", "values", "pnl", "decided", "exits", "sessions")
    table = Candidates(root=run.root.root, features=run.features, **{name: arrays[name] for name in names})
    calendar = CmeCalendar(CALENDAR_OVERRIDES_FILE)
    first, last = (calendar.session_on(dt.date.fromordinal(int(day)), run.roots) for day in arrays["run"])
    return Material(
        table=table,
        signal_product=run.root.data_product,
        market=run.market,
        side=run.settings.side,
        populations={
            name.removeprefix("population "): values
            for name, values in arrays.items()
            if name.startswith("population ")
        },
        training_start=iso_utc(first.start_ns),
        training_end=iso_utc(last.end_ns),
        strategy=recorded_parameters(run.settings)
        | ({"required_reference_feeds": ", ".join(run.feeds)} if run.feeds else {}),
        play=run.play,
    )
