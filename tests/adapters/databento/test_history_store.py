"""The store gives back what was put in, from files that any DBN tool reads; what is not whole is never there."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import databento as db
import numpy as np
import pytest
from databento_dbn import Metadata, Schema

from actors.bars import BarAggregator
from adapters.databento.dbn_files import read_trades
from adapters.databento.history_store import HistoryStore, lacking_spans
from adapters.databento.hour_files import OHLCV_DTYPE, read_hours
from domain.bars import BarTable
from domain.errors import OperatorError
from domain.events import ClockTicked, SymbolMapped, TradesReceived
from domain.history import ContractAt, ContractHours, RootHistory, Rows, Span, StoredHours, series_of
from domain.instruments import parse_contract
from domain.sessions import Session, SessionHours, to_nanos
from domain.units import HOUR, MINUTE, Nanos
from tests.adapters.databento.test_dbn_files import AT, GOLD, header, shared_market, trades
from tests.builders import Record, opened_session, traded_root

DATASET = "GLBX.MDP3"


def contract(raw_symbol: str) -> ContractAt:
    name = parse_contract(raw_symbol, ("GC",), dt.date(2013, 10, 7))
    assert name is not None
    return ContractAt(raw_symbol=raw_symbol, name=name)


def rows_of(*hours: int, close: int = 100) -> Rows:
    return np.array([[AT + h * HOUR, AT + (h + 1) * HOUR, 100, 105, 95, close, 10, 0] for h in hours], np.int64)


def span(start: int, end: int) -> Span:
    return Span(start=Nanos(AT + start * HOUR), end=Nanos(AT + end * HOUR))


@pytest.fixture
def store(tmp_path: Path) -> HistoryStore:
    return HistoryStore(tmp_path / "history")


def bars_file(path: Path, *, schema: Schema = Schema.OHLCV_1M, minutes: int = 180, step: int = MINUTE) -> Path:
    """Bars of two outrights, a spread and something that is none, for `minutes` from AT on."""
    records = np.zeros(4 * minutes, OHLCV_DTYPE)
    records["length"], records["rtype"] = 14, 33 if schema == Schema.OHLCV_1M else 34
    records["instrument_id"] = np.tile([10, 12, 99, 98], minutes)
    records["ts_event"] = AT + np.repeat(np.arange(minutes), 4) * step
    for column, value in (("open", 100), ("high", 105), ("low", 95), ("close", 101), ("volume", 2)):
        records[column] = value
    path.write_bytes(header(GOLD, schema=schema, end=AT + minutes * step) + records.tobytes())
    return path


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("schema", "step"), [(Schema.OHLCV_1M, MINUTE), (Schema.OHLCV_1H, HOUR)])
def test_bars_become_hours_of_outrights_only(tmp_path: Path, schema: Schema, step: int) -> None:
    count = 180 if step == MINUTE else 3
    found = read_hours(bars_file(tmp_path / "a.dbn", schema=schema, minutes=count, step=step), ("GC",))
    assert {c.raw_symbol: len(rows) for c, rows in found.hours.items() if len(rows)} == {"GCV3": 3, "GCZ3": 3}
    assert found.foreign == 2 * count
    assert found.hours[contract("GCZ3")][0].tolist() == [AT, AT + HOUR, 100, 105, 95, 101, 2 * count // 3, 0]


def test_an_id_counts_on_the_dates_on_which_it_is_the_contracts(tmp_path: Path) -> None:
    """The same id is GCZ3 on the first day and a spread's on the second."""
    symbols = {"GCZ3": [("12", 0, 1)], "GCZ3-GCG4": [("12", 1, 2)]}
    records = trades([1, 24 * HOUR + 1], [12, 12])
    path = tmp_path / "reused.dbn"
    path.write_bytes(header(symbols, end=AT + 48 * HOUR) + records.tobytes())
    found = read_hours(path, ("GC",))
    assert (len(found.hours[contract("GCZ3")]), found.foreign) == (1, 1)


def test_half_an_hour_is_no_hour(tmp_path: Path) -> None:
    found = read_hours(bars_file(tmp_path / "a.dbn", minutes=150), ("GC",))
    assert found.covered == span(0, 2)
    assert len(found.hours[contract("GCZ3")]) == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: raw[:-1], "cut off"),
        (lambda raw: raw[:40], "corrupt DBN metadata"),
        (lambda raw: b"x" + raw, "not a DBN file"),
        (lambda raw: raw[:-56] + b"\x0c" + raw[-55:], "other types"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, spoil: object, words: str) -> None:
    path = bars_file(tmp_path / "a.dbn")
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(OperatorError, match=words):
        read_hours(path, ("GC",))


def test_days_of_the_vendor_are_refused(tmp_path: Path) -> None:
    path = bars_file(tmp_path / "a.dbn", schema=Schema.OHLCV_1D)
    with pytest.raises(OperatorError, match="schema ohlcv-1d"):
        read_hours(path, ("GC",))


# ---------------------------------------------------------------- store


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # the vendor's library, of pandas
def test_what_was_put_in_comes_out_and_the_vendors_own_library_reads_it(store: HistoryStore) -> None:
    path = store.add(DATASET, "GC", span(0, 3), {contract("GCZ3"): rows_of(0, 1), contract("GCG4"): rows_of(1)})
    assert path.name == "dbn-20131007T00-20131007T03.dbn.zst"
    found = store.read(DATASET, "GC")
    assert [(c.contract.raw_symbol, c.data.tolist()) for c in found.contracts] == [
        ("GCZ3", rows_of(0, 1).tolist()),
        ("GCG4", rows_of(1).tolist()),
    ]
    assert (found.covered, found.sources) == ((span(0, 3),), ("dbn",))
    frame = db.DBNStore.from_file(path).to_df()
    assert frame["symbol"].tolist() == ["GCZ3", "GCZ3", "GCG4"]
    assert isinstance(db.DBNStore.from_file(path).metadata, Metadata)


def test_files_of_one_contract_each_stand_side_by_side(store: HistoryStore) -> None:
    store.add(DATASET, "GC", span(0, 3), {contract("GCZ3"): rows_of(0, 1)})
    store.add(DATASET, "GC", span(0, 3), {contract("GCG4"): rows_of(2)})
    store.add(DATASET, "GC", span(0, 3), {contract("GCZ3"): rows_of(1, 2, close=104)})
    found = {c.contract.raw_symbol: c.data for c in store.read(DATASET, "GC").contracts}
    assert found["GCZ3"][:, 5].tolist() == [100, 104, 104]
    assert len(found["GCG4"]) == 1


def test_where_files_overlap_the_vendors_own_counts_and_no_hour_twice(store: HistoryStore) -> None:
    store.add(DATASET, "GC", span(0, 3), {contract("GCZ3"): rows_of(0, 1, 2)})
    fetched(store, span(2, 5), 2, 3, close=104)
    found = store.read(DATASET, "GC")
    (gold,) = found.contracts
    assert gold.data[:, [0, 5]].tolist() == [[AT + h * HOUR, c] for h, c in ((0, 100), (1, 100), (2, 104), (3, 104))]
    assert (found.covered, found.sources) == ((span(0, 5),), ("databento", "dbn"))
    # Imports may be of some contracts only: what is fetched does not depend on them.
    assert store.fetched(DATASET, "GC") == (span(2, 5),)
    assert lacking_spans(span(0, 7), store.fetched(DATASET, "GC")) == [span(0, 2), span(5, 7)]


def fetched(store: HistoryStore, covered: Span, *hours: int, close: int = 100) -> None:
    """As a fetch leaves it."""
    rows = rows_of(*hours, close=close)
    made = HistoryStore(store.directory / "elsewhere").add(DATASET, "GC", covered, {contract("GCZ3"): rows})
    part = store.part(DATASET, "GC")
    part.write_bytes(made.read_bytes())
    store.keep(part, covered, "databento")


def test_parts_of_a_month_become_one_file_and_a_hole_stays_one(store: HistoryStore) -> None:
    """AT is 7 October: 600 hours later it is November."""
    for start, end in ((0, 2), (2, 5), (600, 602), (604, 605)):
        fetched(store, span(start, end), *range(start, end))
    before = store.read(DATASET, "GC")
    store.join(DATASET, "GC")
    assert [path.name for path in sorted((store.directory / DATASET / "GC").iterdir())] == [
        "databento-20131007T00-20131007T05.dbn.zst",
        "databento-20131101T00-20131101T02.dbn.zst",
        "databento-20131101T04-20131101T05.dbn.zst",
    ]
    after = store.read(DATASET, "GC")
    assert np.array_equal(after.contracts[0].data, before.contracts[0].data)
    assert (after.covered, after.sources) == (before.covered, ("databento",))


def test_a_part_is_not_there_and_a_strange_file_is_refused(store: HistoryStore) -> None:
    store.part(DATASET, "GC").write_bytes(b"half")
    assert store.read(DATASET, "GC").contracts == ()
    (store.directory / DATASET / "GC" / "mine.dbn.zst").write_bytes(b"")
    with pytest.raises(OperatorError, match="not a file of the history store"):
        store.read(DATASET, "GC")


def test_two_writers_at_once_are_refused(store: HistoryStore) -> None:
    with store.locked(), pytest.raises(OperatorError, match="another process") as refused, store.locked():
        pass
    assert refused.value.exit_code == 75


# ---------------------------------------------------------------- real markets


def session_of(day: dt.date, close: dt.time) -> Session:
    """A session of October 2013 in UTC; GC traded until 21:15, which the next session's file begins with."""
    opened = to_nanos(dt.datetime.combine(day - dt.timedelta(days=1), dt.time(22), dt.UTC))
    ended = to_nanos(dt.datetime.combine(day, close, dt.UTC))
    hours = SessionHours(root="GC", open_ns=opened, close_ns=ended)
    return Session(date=day, start_ns=Nanos(opened - HOUR), open_ns=opened, end_ns=ended, hours=(hours,))


@pytest.mark.real_data
def test_hours_and_days_are_those_that_the_aggregator_makes_of_the_same_trades() -> None:
    """Real gold, a whole UTC day cut at a session's end: the seam between history and live is one market."""
    path = shared_market("GC.trades.20131007.dbn.zst")
    session = session_of(dt.date(2013, 10, 7), dt.time(21))
    recorded = read_trades([path])
    (gold,) = recorded.symbology.resolve("raw_symbol", "GCZ3", AT)
    ours = recorded.trades[recorded.trades["instrument_id"] == gold.instrument_id]
    bars, record = BarAggregator(), Record()
    opened = opened_session(session=session, roots=(traded_root("GC"),))
    hours, days = [], []
    mapped = SymbolMapped(root="GC", contract="GCZ3", rank=0, instrument_id=gold.instrument_id)
    whole_hours = ours[(ours["ts_recv"] >= AT + HOUR) & (ours["ts_recv"] < session.end_ns)]
    for event in (opened, mapped, *(TradesReceived(trades=batch) for batch in np.array_split(whole_hours, 9))):
        bars.handle(record.put(event))
    for closed in bars.handle(record.put(ClockTicked(ts=session.end_ns, watermark=session.end_ns))):
        hours += closed.hours  # type: ignore[union-attr]
        days += closed.days  # type: ignore[union-attr]
    found = read_hours(path, ("GC",))
    stored = found.hours[contract("GCZ3")]
    stored = stored[stored[:, 0] < session.end_ns]
    assert len(stored) == 20
    assert np.array_equal(stored, BarTable.of_bars("GC", "1h", hours).data)
    held = ContractHours(contract=contract("GCZ3").name, data=stored)
    everything = Span(start=Nanos(0), end=Nanos(2**62))
    series = series_of(RootHistory(root="GC", stored=StoredHours(contracts=(held,), covered=(everything,))), [session])
    assert series is not None
    assert np.array_equal(series.days, BarTable.of_bars("GC", "1d", days).data)


@pytest.mark.real_data
def test_a_real_roll_is_told_by_what_both_contracts_closed_at(tmp_path: Path) -> None:
    """December 2013: a journal ends in ESZ3, the session trades ESH4, and the 19th is missing from the data."""
    found = read_hours(shared_market("ES.ohlcv-1m.20131218-20.roll.dbn.zst"), ("ES",))
    store = HistoryStore(tmp_path)
    store.add(DATASET, "ES", found.covered, found.hours)
    sessions = []
    for day in (dt.date(2013, 12, 18), dt.date(2013, 12, 19)):
        start = to_nanos(dt.datetime.combine(day - dt.timedelta(days=1), dt.time(22), dt.UTC))
        hours = SessionHours(root="ES", open_ns=Nanos(start + HOUR), close_ns=Nanos(start + 24 * HOUR))
        end = Nanos(start + 24 * HOUR)
        sessions.append(Session(date=day, start_ns=start, open_ns=hours.open_ns, end_ns=end, hours=(hours,)))
    names = {c.raw_symbol: c for c in found.hours}
    root = RootHistory(root="ES", stored=store.read(DATASET, "ES"), before=names["ESZ3"], target=names["ESH4"])
    series = series_of(root, sessions)
    assert series is not None
    assert series.seam is not None
    # The last hour in which both traded ended at midnight: 1811.25 and 1805.00.
    assert (series.seam.difference, series.seam.ts) == (-6_250_000_000, sessions[1].start_ns + 2 * HOUR)
    march = found.hours[names["ESH4"]]
    march = march[march[:, 0] < sessions[1].end_ns]
    assert np.array_equal(series.hours[:, 5], march[:, 5] + 6_250_000_000)
