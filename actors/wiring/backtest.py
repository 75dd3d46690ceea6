"""Backtests: minute bars from files, the runners that trade them, and the command."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import click
import numpy as np

from actors.backtest import Listener, RootRunner, market_sessions, run_sessions
from actors.backtest_report import backtest_page, backtest_report, backtest_words
from actors.veto_models import LoadedModels, load_models, record_of
from actors.wiring.backtest_journals import market_of_journals
from actors.wiring.bar_sources import data_files, file_minutes, with_segments
from actors.wiring.outputs import check_file, unwritable
from adapters.backtrader.backtest import RootBacktest
from adapters.calendar import CmeCalendar
from adapters.config import (
    CALENDAR_OVERRIDES_FILE,
    CONFIG_VARIABLE,
    MarketPlaces,
    find_config,
    find_market,
    shipped_market,
)
from adapters.products import PRODUCTS, products_of, roots_on
from domain.backtest import START, BacktestCosts, BacktestResult, ContractMinutes, MarketSession
from domain.errors import OperatorError
from domain.history import ContractAt, Rows
from domain.ibs import StrategySettings
from domain.instruments import TradedRoot
from domain.ports import Calendar
from domain.veto import ModelRecord, VetoModel


@attrs.frozen(kw_only=True)
class BacktestRequest:
    """The options of `backtest`, as given."""

    data: tuple[Path, ...]
    roots: tuple[str, ...]
    fills: Literal["bars", "recorded"]
    slippage: int
    no_veto: bool
    as_json: bool
    report: Path | None
    config: Path | None
    overlay: tuple[Path, ...]
    models_dir: Path | None


def backtest_command(request: BacktestRequest) -> None:
    """Run `backtest` and print what came of it. Raises OperatorError (exit 2) for what cannot be run."""
    request = attrs.evolve(request, data=data_files(request.data))
    journals = [path for path in request.data if path.suffix == ".db"]
    others = [path for path in request.data if path not in journals]
    if journals and others:
        raise _refused(
            f"{journals[0]} is a journal and {others[0]} is none",
            "run them one after the other: a journal brings settings, contracts and models of its own",
        )
    if request.report is not None:
        check_file(request.report, "--report")
    result = _of_journals(request) if journals else _of_files(request)
    conditions = {"fills": request.fills, "slippage_ticks": request.slippage if request.fills == "bars" else None}
    report = backtest_report(result, conditions)
    if request.report is not None:
        try:
            request.report.write_text(backtest_page(result, report), encoding="utf-8")
        except OSError as error:
            raise unwritable(request.report, error, "name another file with --report") from error
    click.echo(json.dumps(report) if request.as_json else "\n".join(backtest_words(report)))


def _of_files(request: BacktestRequest) -> BacktestResult:
    if request.fills == "recorded":
        raise _refused("DBN files have no recorded fills", "give a journal, or leave --fills out")
    places = places_of(request.config, request.overlay)
    settings, wanted = places.strategy, _wanted(request, places.roots)
    data = read_minutes(request.data, places.roots)
    for name, mapped, found in exchanged(places.roots, data):
        click.echo(f"{name}: the files hold {found}, the contract map reads {mapped}: {found} is traded", err=True)
    say_left_out(data)
    if lacking := sorted(wanted - {root.root for root in data.roots}) if request.roots else []:
        raise _refused(f"no bar of {', '.join(lacking)} in the files", "name roots that the files hold")
    if request.no_veto:
        settings = settings.without_veto()
    loaded = LoadedModels(bundles={}, records=())
    if scored := [root for root in data.roots if root.root in wanted and settings.of(root.root).veto]:
        loaded = load_models(scored, request.models_dir or places.models_dir, for_money=False, strategy=settings)
    return run_backtest(
        data.minutes,
        roots=data.roots,
        settings=settings,
        calendar=CmeCalendar(CALENDAR_OVERRIDES_FILE),
        models=loaded.bundles,
        refused=loaded.records,
        required_reference_feeds=required_in(places, data.roots),
        traded=sorted(wanted),
        costs=BacktestCosts(slippage_ticks=request.slippage),
    )


def _of_journals(request: BacktestRequest) -> BacktestResult:
    """Every segment of every session, in order; settings, contracts and models are the recorded ones."""
    if request.config is not None or request.overlay:
        raise _refused("a journal has its own settings", "leave --config and --overlay out")
    sessions = market_of_journals(
        request.data,
        with_fills=request.fills == "recorded",
        with_veto=not request.no_veto,
        models_dir=request.models_dir,
    )
    wanted = _wanted(request, [root for session in sessions for root in session.opened.roots])
    return over_journals(sessions, traded=sorted(wanted), costs=BacktestCosts(slippage_ticks=request.slippage))


def places_of(config: Path | None, overlay: tuple[Path, ...] = ()) -> MarketPlaces:
    """Of the configuration that `live` would use; the shipped settings without any."""
    named = config is not None or overlay or os.environ.get(CONFIG_VARIABLE, "").strip()
    if not named and not (Path.cwd() / "live.yml").is_file():
        return shipped_market(os.environ)
    return find_market(find_config(config, os.environ, Path.cwd()), overlay, os.environ)


def required_in(places: MarketPlaces, roots: Sequence[TradedRoot]) -> tuple[str, ...]:
    """The feeds that entries wait for. A default one is not waited for where `roots`, which the data hold, lack it.

    Raises OperatorError (exit 2) where one that was asked for has no bar: as live, nothing would ever be entered.
    """
    held = {f"{root.root}_day" for root in roots}
    absent = [name for name in places.required_reference_feeds if name not in held]
    if absent and places.are_feeds_stated:
        lacking = ", ".join(name.removesuffix("_day") for name in absent)
        raise OperatorError(
            f"entries wait for {', '.join(absent)}, and the data hold no bar of {lacking}: nothing would be entered",
            where="required_reference_feeds",
            fix=f"give data of {lacking} too, or state the feeds that they hold (none at all is [])",
            exit_code=2,
        )
    if absent:
        click.echo(f"entries do not wait for {', '.join(absent)}, of which the data hold no bar", err=True)
    return tuple(name for name in places.required_reference_feeds if name in held)


def _wanted(request: BacktestRequest, roots: Sequence[TradedRoot]) -> set[str]:
    """The roots to trade. Raises OperatorError for one that is not traded."""
    traded = {root.root for root in roots if not root.is_reference}
    wanted = {root.upper() for root in request.roots} or traded
    if unknown := sorted(wanted - traded):
        raise _refused(f"{', '.join(unknown)} is not traded", f"name some of {', '.join(sorted(traded))}")
    return wanted


def _refused(what: str, fix: str) -> OperatorError:
    return OperatorError(what, where="backtest", fix=fix, exit_code=2)


# ------------------------------------------------------------ for other callers


@attrs.frozen(kw_only=True, eq=False)
class MinuteData:
    """Minute bars of files, and the roots as those files have them."""

    minutes: tuple[ContractMinutes, ...]
    roots: tuple[TradedRoot, ...]
    """Of the roots that were asked for those with bars, each with the product that was found."""
    foreign: int
    """Records of anything else: spreads, other products, ids without a name on their date."""
    is_simulated: bool = False
    """Some are of the demo's market."""
    left_out: tuple[tuple[int, str, str], ...] = ()
    """(bars, their product, the product that is read in its place) of each further product of a root."""


def run_backtest(
    minutes: Sequence[ContractMinutes],
    *,
    roots: Sequence[TradedRoot],
    settings: StrategySettings,
    calendar: Calendar,
    models: Mapping[str, VetoModel],
    refused: Sequence[ModelRecord] = (),
    required_reference_feeds: Sequence[str] = (),
    traded: Sequence[str] | None = None,
    costs: BacktestCosts | None = None,
    on_session: Callable[[dt.date], None] = lambda date: None,
) -> BacktestResult:
    """Trade `minutes` with the live strategy, session by session.

    `roots`: all that have bars, reference roots too. `models` by root judge the entries where `settings.veto` is
    on; a root without one enters nothing, with the reason in `refused` or `missing`. `required_reference_feeds`:
    what entries wait for. `traded`: these roots only, while the others are read for features. A model of
    `models.candidates.PassEverything` lets every entry pass, and the trades then hold what it was asked.
    """
    why = {record.root: record for record in refused}
    chosen = [root for root in roots if not root.is_reference and (traded is None or root.root in traded)]
    records = tuple(
        record_of(models[root.root])
        if root.root in models
        else why.get(root.root, ModelRecord(root=root.root, refusal="missing"))
        for root in chosen
        if settings.of(root.root).veto
    )
    sessions = market_sessions(
        minutes,
        roots=roots,
        settings=settings,
        calendar=calendar,
        records=records,
        models=models,
        required_reference_feeds=tuple(required_reference_feeds),
        roots_on=roots_on,
    )
    return run_sessions(sessions, partial(runners_of, chosen, costs or BacktestCosts()), on_session=on_session)


def over_journals(
    sessions: Sequence[MarketSession],
    *,
    traded: Sequence[str] | None = None,
    costs: BacktestCosts | None = None,
) -> BacktestResult:
    """Trade recorded sessions (`actors.recorded_sessions`) again, with the settings and `models` of each."""
    roots = {root.root: root for session in sessions for root in session.opened.roots if not root.is_reference}
    chosen = [root for name, root in roots.items() if traded is None or name in traded]
    return run_sessions(sessions, partial(runners_of, chosen, costs or BacktestCosts()))


def runners_of(roots: Sequence[TradedRoot], costs: BacktestCosts, listener: Listener) -> dict[str, RootRunner]:
    """A runner for each of `roots`."""
    return {
        root.root: RootBacktest(root, listener=listener, costs=costs)
        for root in sorted(roots, key=lambda root: root.root)
    }


def read_minutes(paths: Sequence[Path], roots: Sequence[TradedRoot]) -> MinuteData:
    """The minutes of `roots` in DBN files of ohlcv-1m or trades and in journals, or directories of these, merged.

    A root whose product is not in the files takes another known product of it (ES where the map says MES), with
    that product's own specification. Of a minute that several files hold, the first one's counts. A session in
    which a journal has lost records of a root gets none of its bars from journals. Raises OperatorError (exit 2) for
    a file that cannot be read, and without a single bar of any of the roots.
    """
    codes = {root.root: {root.data_product, *products_of(root.root)} for root in roots}
    parts, foreign, is_simulated = _parts(paths, codes)
    held = {at.name.product for at in parts}
    chosen = tuple(one for root in roots if (one := _with_data(root, held)) is not None)
    if not chosen:
        raise OperatorError(
            f"no bar of {', '.join(sorted(set().union(*codes.values())))}",
            where=", ".join(map(str, paths)),
            fix="give files of the roots that the contract map names",
            exit_code=2,
        )
    by_product = {root.data_product: root.root for root in chosen}
    minutes = tuple(
        ContractMinutes(
            root=by_product[at.name.product], raw_symbol=at.raw_symbol, name=at.name, rows=_once(parts.pop(at))
        )
        for at in sorted(parts, key=lambda at: (at.name.product, at.name.expiry.year, at.name.expiry.month))
        if at.name.product in by_product
    )
    read = {root.root: root.data_product for root in chosen}
    left_out = tuple(
        (sum(len(rows) for at in parts if at.name.product == code for rows in parts[at]), code, read[root])
        for root in read
        for code in sorted(codes[root] & held - {read[root]})
    )
    return MinuteData(minutes=minutes, roots=chosen, foreign=foreign, is_simulated=is_simulated, left_out=left_out)


def _parts(
    paths: Sequence[Path], codes: Mapping[str, Collection[str]]
) -> tuple[dict[ContractAt, list[Rows]], int, bool]:
    """By contract its rows in each file, where `codes` are each root's products; foreign records; of the demo?"""
    products = sorted(set().union(*codes.values()))
    files = [file_minutes(path, products) for path in with_segments(data_files(paths))]
    # A live session forgets the hours and days that a loss has cut short: none may be made of what is left of it.
    lossy = {(code, one.session) for one in files for root in one.lossy for code in codes.get(root, ())}
    parts: dict[ContractAt, list[Rows]] = {}
    for one in files:
        for at, rows in one.rows.items():
            if len(rows) and (at.name.product, one.session) not in lossy:
                parts.setdefault(at, []).append(rows)
    return parts, sum(one.foreign for one in files), any(one.is_simulated for one in files)


def exchanged(roots: Sequence[TradedRoot], data: MinuteData) -> list[tuple[str, str, str]]:
    """(root, the product that `roots` read, the one that `data` have) of each traded root where these differ."""
    mapped = {root.root: root.data_product for root in roots}
    return [
        (one.root, mapped[one.root], one.data_product)
        for one in data.roots
        if not one.is_reference and one.data_product != mapped[one.root]
    ]


def say_left_out(data: MinuteData) -> None:
    """On stderr, what `data` leave out of a root that has bars of several products."""
    for count, product, read in data.left_out:
        click.echo(f"{count} bars of {product} left out: {read} is read", err=True)


def _with_data(root: TradedRoot, held: set[str]) -> TradedRoot | None:
    if root.data_product in held:
        return root
    other = next((code for code in products_of(root.root) if code in held), None)
    if other is None:
        return None
    spec = PRODUCTS[other].spec
    return attrs.evolve(
        root,
        data_product=other,
        order_product=other,
        product_id=f"{other}.FUT",
        description=PRODUCTS[other].description,
        data_spec=spec,
        order_spec=spec,
    )


def _once(parts: list[Rows]) -> Rows:
    """The rows of all parts by time; of a minute that several hold, the first part's."""
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    starts, first = np.unique(rows[:, START], return_index=True)
    return rows if len(starts) == len(rows) and len(parts) == 1 else rows[first]
