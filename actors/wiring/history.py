"""Stored history: what a session's opening takes of it, and the commands that fill it and look at it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import structlog

from actors.carry import fold_history
from actors.veto_models import load_models
from actors.wiring import parse_time
from adapters.calendar import CmeCalendar
from adapters.clock import SystemClock
from adapters.config import CALENDAR_OVERRIDES_FILE, MarketPlaces
from adapters.databento.history_store import HistoryStore
from adapters.databento.hour_files import FileHours, contract_of, read_hours
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, journal_entries
from domain.bars import BarTable, Timeframe
from domain.errors import OperatorError
from domain.events import HistoryLoaded, SessionOpened
from domain.features import required_inputs
from domain.history import (
    MAX_DAYS,
    ContractAt,
    RootHistory,
    Series,
    StoredHours,
    extended,
    missing_sessions,
    series_of,
)
from domain.instruments import ResolvedContract, TradedRoot, pairs_of
from domain.ports import Calendar
from domain.sessions import Session, iso_utc
from domain.units import DAY, Nanos
from domain.veto import ModelRecord

REACH = Nanos(2 * MAX_DAYS * DAY)
"""So many sessions are never as many days apart: older files are not opened."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class StoredHistory:
    """Extends what a journal left by what the store has (`actors.opening.ExtendHistory`)."""

    store: HistoryStore
    roots: Sequence[TradedRoot]
    calendar: Calendar

    def __call__(
        self,
        history: HistoryLoaded,
        session: Session,
        contracts: Sequence[ResolvedContract],
        before: Sequence[ResolvedContract],
    ) -> HistoryLoaded:
        """Never raises for a damaged store: a session opens without what it cannot read, and says so."""
        since = Nanos(session.start_ns - REACH)
        stored = {root.root: read for root in self.roots if (read := self._read(root, since)) is not None}
        if not stored:
            return history
        sessions = sessions_before(self.calendar, session, self.roots, MAX_DAYS)
        labels = {table.root: table.contracts[-1] for table in history.tables if len(table)} | _fronts(before)
        targets = _fronts(contracts)
        found = []
        for root in self.roots:
            if root.root not in stored:
                continue
            of_root = RootHistory(
                root=root.root,
                stored=stored[root.root],
                before=_contract(root, labels.get(root.root), session.date),
                target=_contract(root, targets.get(root.root), session.date),
            )
            series = series_of(of_root, sessions)
            if flaws := flaws_of(of_root, series):
                log.warning("stored history is not used as a whole", root=root.root, why=flaws)
            if series is not None:
                found.append(series)
        more = extended(history, found, session)
        for root in self.roots:
            if lacking := gaps_of(root.root, more.tables, sessions):
                log.warning("history lacks sessions", root=root.root, sessions=lacking, fix="`history fetch`")
        return more

    def _read(self, root: TradedRoot, since: Nanos) -> StoredHours | None:
        try:
            found = self.store.read(root.dataset, root.data_product, since)
        except OperatorError as error:
            log.error("stored history cannot be used", root=root.root, error=str(error))
            return None
        return found if found.contracts else None


def sessions_before(
    calendar: Calendar, session: Session, roots: Sequence[TradedRoot], count: int
) -> tuple[Session, ...]:
    """The `count` sessions before `session`, consecutive, oldest first."""
    found = [session]
    for _ in range(count):
        found.append(calendar.session_of(Nanos(found[-1].start_ns - 1), roots))
    return tuple(found[:0:-1])


def flaws_of(root: RootHistory, series: Series | None) -> str:
    """In words, what of the stored bars cannot be joined; empty when all can."""
    if series is None:
        level = "the journal's contract" if root.before is None else root.before.raw_symbol
        return f"no stored contract has an hour in common with {level}"
    if series.broken is not None:
        old, new = (name.raw_symbol for name in series.broken)
        return f"{old} and {new} have no hour in common before the change: what is stored before it is left out"
    if root.target is not None and root.target.name != series.level.name and series.seam is None:
        return (
            f"{root.target.raw_symbol} has no hour in common with {series.level.raw_symbol}: history ends at the roll"
        )
    return ""


def gaps_of(root: str, tables: Sequence[BarTable], sessions: Sequence[Session]) -> str:
    """In words, the sessions in which a root's history has no bar after its first; empty without a gap."""
    found = {(table.root, table.timeframe): table for table in tables}
    of_timeframe: tuple[Timeframe, ...] = ("1h", "1d")
    dates = {
        session.date
        for timeframe in of_timeframe
        if (table := found.get((root, timeframe)))
        for session in missing_sessions(table, sessions)
    }
    return dates_in_words(sorted(dates), [session.date for session in sessions])


def dates_in_words(dates: Sequence[dt.date], all_dates: Sequence[dt.date]) -> str:
    """`dates` as runs of consecutive ones among `all_dates`: `2024-04-26, 2024-04-29 to 2024-05-01 (3)`."""
    place = {date: number for number, date in enumerate(all_dates)}
    runs: list[list[dt.date]] = []
    for date in dates:
        if runs and place[date] == place[runs[-1][-1]] + 1:
            runs[-1].append(date)
        else:
            runs.append([date])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]} ({len(run)})" for run in runs)


def _fronts(contracts: Sequence[ResolvedContract]) -> dict[str, str]:
    return {c.root: c.raw_symbol for c in contracts if c.rank == 0 and c.raw_symbol is not None}


def _contract(root: TradedRoot, raw_symbol: str | None, date: dt.date) -> ContractAt | None:
    return None if raw_symbol is None else contract_of(raw_symbol, date, (root.data_product,))


# ------------------------------------------------------------------- status


def status_command(places: MarketPlaces, *, at: str | None, as_json: bool) -> int:
    """What the session at a moment would open with, and what its models want; 0 when nothing lacks, else 1."""
    report = history_report(places, SystemClock().now_ns() if at is None else parse_time(at, where="--at"))
    click.echo(json.dumps(report) if as_json else "\n".join(_report_words(report)))
    return 0 if all(model["ready"] for model in report["models"]) else 1


def history_report(places: MarketPlaces, now: Nanos) -> dict[str, Any]:
    """The store and the latest journal as the session at `now` would take them."""
    calendar, store = CmeCalendar(CALENDAR_OVERRIDES_FILE), HistoryStore(places.history_dir)
    session = calendar.session_of(now, places.roots)
    sessions = sessions_before(calendar, session, places.roots, MAX_DAYS)
    journal, fronts = _journal_history(places.journal_dir)
    roots = [
        RootHistory(
            root=root.root,
            stored=store.read(root.dataset, root.data_product, session.start_ns - REACH),
            before=_contract(root, fronts.get(root.root), session.date),
        )
        for root in places.roots
    ]
    series = {root.root: series_of(root, sessions) for root in roots}
    found = extended(journal, [each for each in series.values() if each is not None], session)
    held = {(table.root, table.timeframe): table for table in found.tables}
    scored = [root for root in places.roots if places.strategy.of(root.root).veto]
    models = load_models(scored, places.models_dir, for_money=places.mode == "live", strategy=places.strategy).records
    rows = []
    for root, of_root in zip(places.roots, roots, strict=True):
        chain = series[root.root]
        hours, days = held.get((root.root, "1h")), held.get((root.root, "1d"))
        rows.append(
            {
                "root": root.root,
                "product": root.data_product,
                "hours": _span_of(hours),
                "days": _span_of(days),
                "contracts": [name.raw_symbol for _, name in chain.fronts] if chain else [],
                "stored": [[iso_utc(span.start), iso_utc(span.end)] for span in of_root.stored.covered],
                "sources": list(of_root.stored.sources),
                "gaps": gaps_of(root.root, found.tables, sessions),
                "left_out": flaws_of(of_root, chain) if of_root.stored.contracts else "",
            }
        )
    pairs = pairs_of(places.roots)
    counts: dict[tuple[str, str], int] = {key: len(table) for key, table in held.items()}
    return {
        "session": session.date.isoformat(),
        "begins": iso_utc(session.start_ns),
        "source": found.source,
        "roots": rows,
        "models": [_readiness(model, counts, pairs.get(model.root)) for model in models],
    }


def _journal_history(directory: Path) -> tuple[HistoryLoaded, dict[str, str]]:
    """What the latest file of a directory would leave, and its contracts."""
    entries = journal_entries(directory) if directory.is_dir() else []
    if not entries:
        return HistoryLoaded(tables=()), {}
    with JournalFile(entries[-1].path, Codec()) as journal:
        history = fold_history(journal)
        first = next(iter(journal.envelopes(until=1)), None)
    opened = first.payload if first is not None else None
    return history, _fronts(opened.contracts) if isinstance(opened, SessionOpened) else {}


def _span_of(table: BarTable | None) -> dict[str, Any]:
    if table is None or not len(table):
        return {"bars": 0, "from": None, "to": None}
    return {"bars": len(table), "from": iso_utc(table.data[0, 0]), "to": iso_utc(table.data[-1, 1])}


def _readiness(model: ModelRecord, counts: Mapping[tuple[str, str], int], pair: str | None) -> dict[str, Any]:
    """Of each feature of a model, the bars that it needs and has."""
    features: dict[str, list[dict[str, Any]]] = {}
    for name in model.features if not model.refusal else ():
        features[name] = [
            {
                "root": need.root or model.root,
                "timeframe": need.timeframe,
                "needs": need.bars,
                "has": counts.get((need.root or model.root, need.timeframe), 0),
            }
            for need in required_inputs([name], model.feature_set, pair=pair)
        ]
    lacking = sorted(name for name, needs in features.items() if any(n["has"] < n["needs"] for n in needs))
    return {
        "root": model.root,
        "refusal": model.refusal,
        "ready": not model.refusal and not lacking,
        "lacking": lacking,
        "features": features,
    }


def _report_words(report: Mapping[str, Any]) -> list[str]:
    lines = [f"session {report['session']}, which begins at {report['begins']}; history from: {report['source']}"]
    lines.append(f"{'root':<5} {'product':<8} {'hours':>5} {'from':<17} {'days':>5} {'from':<11} {'to':<17} contracts")
    for row in report["roots"]:
        hours, days, contracts = row["hours"], row["days"], row["contracts"]
        lines.append(
            f"{row['root']:<5} {row['product']:<8} {hours['bars']:>5} {_minute(hours['from']):<17}"
            f" {days['bars']:>5} {_minute(days['from'])[:10]:<11} {_minute(hours['to']):<17}"
            f" {'… ' if len(contracts) > 3 else ''}{' '.join(contracts[-3:])}"
        )
        lines += [f"      {key.replace('_', ' ')}: {row[key]}" for key in ("gaps", "left_out") if row[key]]
    for model in report["models"]:
        count = len(model["features"])
        ready = count - len(model["lacking"])
        lines.append(f"model {model['root']:<4} {model['refusal'] or f'{ready} of {count} features have their bars'}")
        needs = [need for name in model["lacking"] for need in model["features"][name] if need["has"] < need["needs"]]
        # The longest of each root and timeframe: the later one stays.
        short = {(n["root"], n["timeframe"]): n for n in sorted(needs, key=lambda n: n["needs"])}
        lines += [
            f"      {root} {timeframe}: {n['has']} of {n['needs']}" for (root, timeframe), n in sorted(short.items())
        ]
    return lines


def _minute(text: str | None) -> str:
    return "-" if text is None else text[:16] + "Z"


# ------------------------------------------------------------------- import


def import_command(places: MarketPlaces, files: Sequence[Path]) -> int:
    """Take the outrights of the contract map's products out of DBN files into the store."""
    products = {root.data_product: root for root in places.roots}
    store = HistoryStore(places.history_dir)
    with store.locked():
        for path in files:
            found = read_hours(path, products)
            _import_one(store, path, found, products)
    return 0


def _import_one(store: HistoryStore, path: Path, found: FileHours, products: Mapping[str, TradedRoot]) -> None:
    if found.covered.start == found.covered.end:
        raise OperatorError("holds no whole hour", where=str(path), fix="give a longer file", exit_code=2)
    kept = 0
    for product in sorted({contract.name.product for contract in found.hours}):
        if products[product].dataset != found.dataset:
            continue
        hours = {contract: rows for contract, rows in found.hours.items() if contract.name.product == product}
        store.add(found.dataset, product, found.covered, hours)
        bars = sum(map(len, hours.values()))
        kept += 1
        click.echo(
            f"{path.name}: {product} {bars} hours of {len(hours)} contracts,"
            f" {iso_utc(found.covered.start)} to {iso_utc(found.covered.end)}"
        )
    if not kept:
        raise OperatorError(
            f"names no outright of {', '.join(products)} in {found.dataset}",
            where=str(path),
            fix="ask the vendor for raw symbols (MESM4) or a parent (MES.FUT); continuous symbols name no contract",
            exit_code=2,
        )
    if found.foreign:
        click.echo(f"{path.name}: {found.foreign} records of spreads and other instruments left out")
