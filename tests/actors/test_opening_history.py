"""What a session's opening takes of the store: real journals, real store, real calendar."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import structlog

from actors.carry import fresh_state
from actors.machines import MachineParts
from actors.opening import LivePlan, OpenedFile, Opener
from actors.roll_supervisor import RollSupervisor
from actors.strategy import adjusted_tables
from actors.warm_up import without_overtaken
from actors.wiring.history import StoredHistory, sessions_before
from adapters.calendar import CmeCalendar
from adapters.databento.history_store import HistoryStore
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import file_name
from adapters.sqlite.writer import Writer
from domain.bars import BarTable, Timeframe
from domain.events import ContractRolled, HistoryLoaded, SessionClosed, SessionOpened, StateCarried
from domain.history import MAX_DAYS, MAX_HOURS, ContractAt, Rows, Span
from domain.instruments import parse_contract
from domain.populations import CarriedPercentile
from domain.ports import Mapped
from domain.sessions import iso_utc, to_nanos
from domain.units import HOUR, Nanos
from tests.actors.session_file import SessionFile
from tests.builders import CODEC, Record, opened_session, traded_root, write_journal

DATASET = "GLBX.MDP3"
CALENDAR = CmeCalendar()
ROOTS = (traded_root("ES"),)


def moment(text: str) -> Nanos:
    return to_nanos(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def hours_of(first: str, last: str, *, price: int = 5000) -> Rows:
    """A bar in each hour of each session from `first` on that ends before `last`."""
    stamps = []
    for session in sessions_before(CALENDAR, CALENDAR.session_of(moment("2024-05-10"), ROOTS), ROOTS, 60):
        stamps += [ts for ts in range(session.open_ns, session.end_ns, HOUR) if moment(first) <= ts < moment(last)]
    found = np.zeros((len(stamps), 8), np.int64)
    found[:, 0], found[:, 1], found[:, 2:6], found[:, 6] = stamps, np.array(stamps) + HOUR, price * 10**9, 50
    return found


def store_of(place: Path, first: str, last: str, *raw_symbols: str) -> HistoryStore:
    store, hours = HistoryStore(place / "history"), {}
    for number, raw_symbol in enumerate(raw_symbols):
        name = parse_contract(raw_symbol, ("ES",), dt.date(2024, 5, 1))
        assert name is not None
        hours[ContractAt(raw_symbol=raw_symbol, name=name)] = hours_of(first, last, price=5000 + 40 * number)
    store.add(DATASET, "ES", Span(start=moment(first), end=moment(last)), hours)
    return store


@attrs.frozen
class Resolver:
    """A feed that says which contract ES is, and what time it is."""

    contract: str
    now: Nanos

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        found = Mapped(symbol="ES.v.0", raw_symbol=self.contract, instrument_id=1, ts=self.now)
        return {"ES.v.0": found}, self.now

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> Any:
        raise AssertionError("an opening does not connect")


class Desk:
    def __init__(self, place: Path, parts: MachineParts) -> None:
        self.parts = parts
        self.place = place
        self.journals = SqliteJournals(place / "journal", CODEC)

    def open(self, store: HistoryStore, *, contract: str = "ESM4", at: str = "2024-05-01T12:00") -> OpenedFile:
        names = {field.name for field in attrs.fields(LivePlan)} & {field.name for field in attrs.fields(SessionOpened)}
        plan = LivePlan(**{name: getattr(opened_session(roots=ROOTS, clock="system"), name) for name in names})
        return Opener(
            plan=plan,
            journals=self.journals,
            calendar=CALENDAR,
            source=Resolver(contract, moment(at)),
            parts_of=lambda opened: self.parts,
            load_history=lambda session: HistoryLoaded(tables=()),
            now=lambda: moment(at),
            extend_history=StoredHistory(store=store, roots=ROOTS, calendar=CALENDAR),
        ).first()

    def write(self, file: OpenedFile) -> None:
        """What the session would put on disk first."""
        record = Record()
        for event in file.opening:
            record.put(event)
        writer = Writer(file.path, on_failure=lambda error: None)
        writer.append(record.envelopes)
        writer.start()
        writer.stop()


@pytest.fixture
def desk(tmp_path: Path, parts: MachineParts) -> Iterator[Desk]:
    desk = Desk(tmp_path, parts)
    yield desk
    desk.journals.release()


def opening(file: OpenedFile) -> tuple[dict[str, BarTable], HistoryLoaded, StateCarried]:
    _, history, carried = file.opening
    assert isinstance(history, HistoryLoaded)
    assert isinstance(carried, StateCarried)
    return {table.timeframe: table for table in history.tables}, history, carried


def test_a_first_start_in_mid_session_has_history_to_where_its_feed_begins(desk: Desk) -> None:
    """The vendor has hours of the running session too: they are the feed's, which replays it from its start."""
    store = store_of(desk.place, "2024-04-15", "2024-05-01T12:00", "ESM4")
    file = desk.open(store)
    tables, history, _ = opening(file)
    begins = moment("2024-04-30T21:00")
    assert (file.opened.session.start_ns, file.opened.feed_start_ns) == (begins, begins)
    assert iso_utc(Nanos(int(tables["1h"].data[-1, 1]))) == iso_utc(begins)
    assert np.array_equal(tables["1h"].data, hours_of("2024-04-15", "2024-04-30T21:00"))
    # The session of 15 April had begun before the 15th: half of it is no day.
    assert len(tables["1d"]) == 11
    assert iso_utc(Nanos(int(tables["1d"].data[0, 0]))) == "2024-04-15T22:00:00Z"
    assert (history.source, set(tables["1h"].contracts)) == ("dbn", {"ESM4"})


def closed_journal(desk: Desk) -> None:
    """The session of 1 May with one hour, cut off in its first minute; then nobody was there for days."""
    file = SessionFile(desk.parts, roots=ROOTS, clock="system", contracts=opened_session().contracts[:1])
    file.trade(0)
    file.tick(2)
    file.put(SessionClosed(events=1, decisions=0, orders=0, head=""))
    write_journal(desk.place / "journal" / file_name("2024-05-01", 1), file.record.envelopes)


def test_days_without_the_program_are_filled_and_open_bars_of_then_are_over(desk: Desk) -> None:
    closed_journal(desk)
    store = store_of(desk.place, "2024-04-15", "2024-05-10", "ESM4", "ESU4")
    file = desk.open(store, contract="ESU4", at="2024-05-06T12:00")
    tables, history, carried = opening(file)
    assert np.array_equal(tables["1h"].data, hours_of("2024-04-15", "2024-05-03T21:00"))
    assert (carried.open_hours, carried.open_days) == ((), ())
    assert history.source == "dbn"
    (seam,) = history.seams
    assert (seam.from_contract, seam.to_contract, seam.difference) == ("ESM4", "ESU4", 40 * 10**9)
    roll, record = RollSupervisor(), Record()
    events = [event for opened in file.opening for event in roll.handle(record.put(opened))]
    (rolled,) = [event for event in events if isinstance(event, ContractRolled)]
    assert rolled.difference == seam.difference
    (hours, _) = adjusted_tables(history.tables[::-1], [rolled])
    assert set(hours.data[:, 5].tolist()) == {5040 * 10**9}


def test_without_a_store_what_was_open_stays_open(desk: Desk) -> None:
    closed_journal(desk)
    tables, history, carried = opening(desk.open(HistoryStore(desk.place / "none"), at="2024-05-06T12:00"))
    assert (tables, history.source, len(carried.open_hours)) == ({}, "journal", 1)


def test_history_that_comes_late_begins_a_segment_once(desk: Desk) -> None:
    empty = HistoryStore(desk.place / "none")
    first = desk.open(empty)
    desk.write(first)
    assert desk.open(empty).opening == ()
    store = store_of(desk.place, "2024-04-15", "2024-05-01T12:00", "ESM4")
    second = desk.open(store)
    assert second.path.name == file_name("2024-05-01", 2)
    tables, _, _ = opening(second)
    assert np.array_equal(tables["1h"].data, hours_of("2024-04-15", "2024-04-30T21:00"))
    desk.write(second)
    assert desk.open(store).opening == ()


@pytest.mark.parametrize(("taken_in", "is_kept"), [(3, False), (10, True)])
def test_a_percentile_population_that_has_seen_less_than_is_stored_begins_again(taken_in: int, is_kept: bool) -> None:
    hours = hours_of("2024-04-15", "2024-04-30T21:00")
    table = BarTable(root="ES", timeframe="1h", contracts=("ESM4",) * len(hours), data=hours)
    population = CarriedPercentile(
        root="ES",
        base="ibs",
        seed="",
        through_ns=Nanos(int(hours[9, 1])),
        ranked_ns=Nanos(0),
        ranked=None,
        added=base64.b64encode(bytes(8 * taken_in)).decode(),
    )
    carried = attrs.evolve(fresh_state(), percentiles=(population,))
    filled, empty = HistoryLoaded(tables=(table,)), HistoryLoaded(tables=())
    assert bool(without_overtaken(carried, filled, empty).percentiles) is is_kept
    assert without_overtaken(carried, filled, filled) == carried, "nothing was added"


def test_a_damaged_store_keeps_nobody_from_opening(desk: Desk) -> None:
    store = store_of(desk.place, "2024-04-15", "2024-05-01", "ESM4")
    (path,) = (store.directory / DATASET / "ES").iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    with structlog.testing.capture_logs() as logs:
        tables, history, _ = opening(desk.open(store))
    assert (tables, history.source) == ({}, "none")
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (entry["event"], entry["root"]) == ("stored history cannot be used", "ES")


def test_missing_sessions_are_said(desk: Desk) -> None:
    store = store_of(desk.place, "2024-04-15T22:00", "2024-04-18T21:00", "ESM4")
    with structlog.testing.capture_logs() as logs:
        desk.open(store)
    (entry,) = [entry for entry in logs if entry["event"] == "history lacks sessions"]
    assert entry["sessions"] == "2024-04-19 to 2024-04-30 (8)"


def test_nineteen_roots_at_their_bounds_are_less_than_five_megabytes() -> None:
    rng = np.random.default_rng(1)
    tables = []
    for number in range(19):
        bounds: tuple[tuple[Timeframe, int], ...] = (("1h", MAX_HOURS), ("1d", MAX_DAYS))
        for timeframe, count in bounds:
            data = np.zeros((count, 8), np.int64)
            data[:, 0] = np.arange(count) * HOUR
            data[:, 1] = data[:, 0] + HOUR
            close = 5_000 + np.cumsum(rng.integers(-40, 41, count))
            spread = rng.integers(0, 60, (count, 3))
            data[:, 5] = close
            data[:, 2] = np.roll(close, 1) + spread[:, 0] % 3
            data[:, 3] = np.maximum(data[:, 2], close) + spread[:, 1]
            data[:, 4] = np.minimum(data[:, 2], close) - spread[:, 2]
            data[:, 2:6] *= 250_000_000
            data[:, 6:] = rng.integers(1, 2**20, (count, 2))
            tables.append(BarTable(root=f"R{number}", timeframe=timeframe, contracts=("ESM4",) * count, data=data))
    size = len(CODEC.encode(HistoryLoaded(tables=tuple(tables))))
    assert size < 5_000_000, size
