"""The journals that a backtest goes over, in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import attrs

from actors.opening import opening_of
from actors.recorded_sessions import READ, confirmed_fills, recorded_session
from actors.veto_models import LoadedModels, find_models, load_models
from actors.wiring.reading import naming
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, segments_of
from domain.backtest import MarketSession
from domain.errors import OperatorError
from domain.events import SessionOpened, StateCarried
from domain.sessions import Session, iso_utc
from domain.units import Price
from domain.veto import ModelRecord
from models.bundle import ModelBundle


def market_of_journals(
    paths: Sequence[Path], *, with_fills: bool, with_veto: bool, models_dir: Path | None
) -> list[MarketSession]:
    """Every segment of every session that `paths` belong to, as recorded, each with its own models if `with_veto`.

    `models_dir`: score with these instead. Raises OperatorError (exit 2) for files that are not one course of
    sessions, JournalUnreadable for what is no journal.
    """
    files = _in_order(paths)
    confirmed: dict[str, Price] = {}
    for path in files if with_fills else ():
        with JournalFile(path, Codec()) as journal, naming(path):
            confirmed |= confirmed_fills(journal.envelopes(types={"FillConfirmed"}))
    found = []
    given: dict[tuple[str, ...], LoadedModels] = {}
    for path in files:
        with JournalFile(path, Codec()) as journal, naming(path):
            market = recorded_session(journal.envelopes(types=set(READ)), with_fills=with_fills, confirmed=confirmed)
        opened = market.opened
        if with_veto and models_dir is not None:
            loaded = _given(opened, models_dir, given)
            market = attrs.evolve(market, opened=attrs.evolve(opened, models=loaded.records), models=loaded.bundles)
        elif with_veto:
            products = {root.root: root.data_product for root in opened.roots}
            market = attrs.evolve(market, models=find_models(opened.models, path.parent, products=products))
        else:
            opened = attrs.evolve(opened, strategy=opened.strategy.without_veto(), models=())
            market = attrs.evolve(market, opened=opened)
        found.append(market)
    return found


def _given(opened: SessionOpened, models_dir: Path, known: dict[tuple[str, ...], LoadedModels]) -> LoadedModels:
    """The bundles of `models_dir`, whatever the session had or lacked; what is `known` is not looked at again."""
    bundles: dict[str, ModelBundle] = {}
    records: list[ModelRecord] = []
    for root in opened.roots:
        own = opened.strategy.of(root.root)
        if own.veto and not root.is_reference:
            place = (root.root, root.data_product, own.side)
            if place not in known:
                known[place] = load_models([root], models_dir, for_money=False, strategy=opened.strategy)
            bundles |= known[place].bundles
            records += known[place].records
    return LoadedModels(bundles=bundles, records=tuple(records))


@attrs.frozen(kw_only=True)
class _File:
    path: Path
    session: Session
    segment: int
    previous: str | None
    """Hex head of the file that it goes on from."""
    head: str


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """By session and segment, wherever they lie."""
    given = {segment.resolve(): segment for path in paths for segment in segments_of(path)}
    files = sorted(map(_look, given.values()), key=lambda file: (file.session.date, file.segment))
    for before, after in pairwise(files):
        if problem := _problem(before, after):
            fix = "give each session once, with all segments of one run"
            raise OperatorError(problem, where=str(after.path), fix=fix, exit_code=2)
    return [file.path for file in files]


def _look(path: Path) -> _File:
    with JournalFile(path, Codec()) as journal, naming(path):
        journal.verify()
        opened = opening_of(journal)
        carried = [each.payload for each in journal.envelopes(until=3, types={"StateCarried"})]
        head = journal.head().hash.hex()
    previous = carried[0].previous_head if carried and isinstance(carried[0], StateCarried) else None
    return _File(path=path, session=opened.session, segment=opened.segment, previous=previous, head=head)


def _problem(before: _File, after: _File) -> str:
    """Why `after` cannot follow; empty when it can. Between two sessions others may be left out."""
    date = after.session.date
    if before.session.date != date:
        if before.session.end_ns <= after.session.open_ns:
            return ""
        end, start = iso_utc(before.session.end_ns), iso_utc(after.session.open_ns)
        return f"session {date} begins at {start}, and {before.path} ends at {end}: they overlap"
    if before.segment == after.segment:
        return f"segment {after.segment} of session {date} is in {before.path} too"
    if before.segment + 1 != after.segment:
        return f"segment {after.segment} of session {date} follows {before.path}: what lies between is not given"
    return "" if after.previous == before.head else f"it does not go on from {before.path}: it is of another run"
