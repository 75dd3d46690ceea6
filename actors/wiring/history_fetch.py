"""`history fetch`: what the store lacks, what it costs, and then month by month from the vendor."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal

import attrs
import click

from actors.wiring.history import sessions_before
from adapters.calendar import CmeCalendar
from adapters.clock import SystemClock
from adapters.config import CALENDAR_OVERRIDES_FILE, MarketPlaces
from adapters.databento.historical import HistoricalData, contracts_in, months_of
from adapters.databento.history_store import MINUTES, HistoryStore, lacking_spans
from adapters.secret import KEY_VARIABLE, redact, secret_from
from domain.errors import OperatorError
from domain.history import MAX_DAYS, Span
from domain.instruments import TradedRoot
from domain.sessions import iso_utc, to_nanos
from domain.units import DAY, HOUR, MINUTE, SECOND, Nanos, floor_to


@attrs.frozen(kw_only=True)
class FetchRequest:
    """The options of `history fetch`, as given."""

    root: tuple[str, ...]
    since: dt.date | None
    days: int | None
    yes: bool
    max_cost: Decimal | None
    minutes: bool
    gateway: str | None


@attrs.frozen(kw_only=True)
class _Chunk:
    """One product's bars of one month, or of what is lacking in it."""

    root: TradedRoot
    span: Span
    symbols: list[str]


def fetch_command(places: MarketPlaces, request: FetchRequest) -> int:
    """Ask for the cost, ask whether to pay it, fetch. What is there already is neither paid nor fetched again."""
    key = secret_from(os.environ, KEY_VARIABLE)
    if key is None:
        raise OperatorError(
            "no API key", where=KEY_VARIABLE, fix="export it, or name its file in DATABENTO_API_KEY_FILE"
        )
    roots = _chosen(places.roots, request.root)
    now = SystemClock().now_ns()
    since = _since(request, places, now)
    length = MINUTE if request.minutes else HOUR
    store = HistoryStore(places.history_dir / MINUTES if request.minutes else places.history_dir, length)
    vendor = HistoricalData(
        key.reveal(),
        length=length,
        gateway=request.gateway,
        on_wait=lambda why: click.echo(f"\n{redact(why)}", err=True),
    )
    with store.locked():
        chunks = _plan(vendor, store, roots, since, now)
        if not chunks:
            click.echo("nothing to fetch: the store has it all")
            return 0
        total = _show_cost(vendor, chunks)
        _confirm(total, request)
        with click.progressbar(chunks, label="fetching", file=sys.stderr, item_show_func=_label) as bar:
            for chunk in bar:
                _fetch(vendor, store, chunk)
        for root in roots:
            store.join(root.dataset, root.data_product)
    click.echo(f"fetched {len(chunks)} files into {store.directory}")
    return 0


def _plan(
    vendor: HistoricalData, store: HistoryStore, roots: Sequence[TradedRoot], since: Nanos, now: Nanos
) -> list[_Chunk]:
    """What is lacking of each root, cut at the months, with the contracts of each."""
    of_dataset: Mapping[str, list[TradedRoot]] = defaultdict(list)
    for root in roots:
        of_dataset[root.dataset].append(root)
    chunks = []
    for dataset, members in of_dataset.items():
        end = floor_to(min(now, vendor.available_until(dataset)), HOUR)
        if end <= since:
            raise OperatorError(
                f"the vendor's history of {dataset} ends at {iso_utc(end)}",
                where="--since",
                fix="name an earlier day",
                exit_code=2,
            )
        wanted = Span(start=since, end=end)
        dates = _date(since), _date(end) + dt.timedelta(days=1)
        listings = vendor.listings(dataset, [root.data_product for root in members], *dates)
        for root in members:
            lacking = lacking_spans(wanted, store.fetched(dataset, root.data_product))
            for span in (month for each in lacking for month in months_of(each)):
                if symbols := contracts_in(listings[root.data_product], span):
                    chunks.append(_Chunk(root=root, span=span, symbols=symbols))
    return chunks


def _show_cost(vendor: HistoricalData, chunks: Sequence[_Chunk]) -> Decimal:
    costs: dict[str, list[Decimal]] = defaultdict(list)
    with click.progressbar(chunks, label="asking the cost", file=sys.stderr) as bar:
        for chunk in bar:
            costs[chunk.root.root].append(vendor.cost(chunk.root.dataset, chunk.symbols, chunk.span))
    for root, each in costs.items():
        of_root = [chunk for chunk in chunks if chunk.root.root == root]
        span = f"{iso_utc(of_root[0].span.start)} to {iso_utc(of_root[-1].span.end)}"
        click.echo(f"{root:<5} {of_root[0].root.data_product:<6} {len(each):>4} files  {span}  {sum(each):>10.4f} USD")
    total = sum((cost for each in costs.values() for cost in each), Decimal(0))
    click.echo(f"{'in all':<12} {len(chunks):>4} files  {'':<44}  {total:>10.4f} USD")
    return total


def _confirm(total: Decimal, request: FetchRequest) -> None:
    """Nobody pays by accident: a person says yes, or a limit has been written beside --yes."""
    if request.max_cost is not None and total > request.max_cost:
        raise OperatorError(
            f"{total:.4f} USD is more than {request.max_cost} USD; nothing was fetched",
            where="--max-cost",
            fix="raise it, or fetch less with --root, --since or --days",
            exit_code=2,
        )
    if request.yes and (request.max_cost is not None or not total):
        return
    if request.yes or not sys.stdin.isatty():
        raise OperatorError(
            "nobody has confirmed the cost; nothing was fetched",
            where="--yes",
            fix="add --yes and --max-cost USD, or run it on a terminal and answer",
            exit_code=2,
        )
    click.confirm(f"Fetch for {total:.4f} USD?", abort=True)


def _fetch(vendor: HistoricalData, store: HistoryStore, chunk: _Chunk) -> None:
    dataset, product = chunk.root.dataset, chunk.root.data_product
    part = store.part(dataset, product)
    span = vendor.download(dataset, chunk.symbols, chunk.span, part, (product,))
    if span.start == span.end:
        raise OperatorError(
            f"the vendor answered for none of {product} from {iso_utc(chunk.span.start)}",
            where="history fetch",
            fix="try again later",
            exit_code=75,
        )
    store.keep(part, span, "databento")


def _chosen(roots: Sequence[TradedRoot], names: Sequence[str]) -> list[TradedRoot]:
    known = {root.root for root in roots}
    if unknown := sorted(set(names) - known):
        raise OperatorError(
            f"no such root: {', '.join(unknown)}", where="--root", fix=f"one of {', '.join(sorted(known))}", exit_code=2
        )
    return [root for root in roots if not names or root.root in names]


def _since(request: FetchRequest, places: MarketPlaces, now: Nanos) -> Nanos:
    """As asked for, else as far back as history is kept."""
    if request.days is not None:
        return floor_to(Nanos(now - request.days * DAY), HOUR)
    if request.since is not None:
        return to_nanos(dt.datetime.combine(request.since, dt.time(), dt.UTC))
    calendar = CmeCalendar(CALENDAR_OVERRIDES_FILE)
    session = calendar.session_of(now, places.roots)
    return floor_to(sessions_before(calendar, session, places.roots, MAX_DAYS)[0].start_ns, HOUR)


def _date(ts: Nanos) -> dt.date:
    return dt.datetime.fromtimestamp(ts // SECOND, dt.UTC).date()


def _label(chunk: _Chunk | None) -> str:
    return "" if chunk is None else f"{chunk.root.root} {iso_utc(chunk.span.start)[:7]}"
