"""Every entry of the registry: computed in both versions, and depending on exactly the bars that it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bar_window import Along, BarWindow, Fellows
from domain.bars import BarTable, Timeframe
from domain.feature_book import FeatureBook, FeatureVector
from domain.features import BASES, FEATURES, UNIVERSE, feature_names, required_inputs
from domain.populations import CarriedPercentile
from domain.units import HOUR, Price
from tests.builders import OPEN
from tests.domain.test_feature_book import DAY, HOURS, add, cut, last_of, slices, walk

DAYS, SESSIONS = 520, 66
"""More days than daily windows have, as many sessions as the longest hourly window needs."""
NAMES = feature_names("v2")
PAIRS = {"HG": "SI"}
LAST = 30
"""Hours that are compared."""


@cache
def market() -> dict[tuple[str, Timeframe], BarTable]:
    """Hours and days of the universe; each root but HG lacks a twentieth of its hours, often at other moments."""
    rng = np.random.default_rng(1)
    days = [(OPEN + d * DAY, OPEN + d * DAY + HOURS * HOUR) for d in range(DAYS)]
    hours = [(s + h * HOUR, s + (h + 1) * HOUR) for s, _ in days[-SESSIONS:] for h in range(HOURS)]
    tables: dict[tuple[str, Timeframe], BarTable] = {}
    for root in UNIVERSE:
        kept = [span for span in hours if root == "HG" or rng.random() > 0.05]
        tables[root, "1h"] = walk(root, "1h", kept, 1)
        tables[root, "1d"] = walk(root, "1d", days, 1)
    return tables


def book_of(tables: Iterable[BarTable], carried: Sequence[CarriedPercentile] = ()) -> FeatureBook:
    book = FeatureBook(bases={"HG": tuple(BASES)}, pairs=PAIRS)
    assert book.restore(carried) == ()
    book.load(list(tables))
    return book


def vectors(book: FeatureBook) -> Sequence[FeatureVector]:
    return [book.vector("HG", NAMES, version) for version in ("v2", "legacy-1")]


def test_every_name_is_computed_in_both_versions() -> None:
    for found in stepped()[-1][1]:
        assert dict(zip(found.missing, found.reasons, strict=True)) == {}


State = tuple[CarriedPercentile, ...]


@cache
def stepped() -> tuple[tuple[int, Sequence[FeatureVector], State], ...]:
    """One book fed slice by slice, the roots' bars in varying order: (moment, vectors, state) after the last hours."""
    book, seen = FeatureBook(bases={"HG": tuple(BASES)}, pairs=PAIRS), []
    moments = slices(market().values())
    is_decided = {ts: any(bar.root == "HG" and frame == "1h" for frame, bar in bars) for ts, bars in moments}
    begin = [ts for ts, is_so in is_decided.items() if is_so][-LAST]
    for number, (ts, bars) in enumerate(moments):
        add(book, reversed(bars) if number % 2 else bars)
        if ts >= begin and is_decided[ts]:
            seen.append((ts, vectors(book), book.percentiles()))
    return tuple(seen)


def test_live_is_batch() -> None:
    """Bar by bar, and all at once from nothing: the same bits of every entry, and the same populations."""
    ts, live, state = stepped()[-1]
    book = book_of(cut(table, until=ts) for table in market().values())
    assert vectors(book) == live
    assert book.percentiles() == state


@given(st.integers(0, LAST - 1), st.integers(0, LAST - 1))
@settings(max_examples=12, deadline=None)
def test_truncating_the_future_changes_nothing(at: int, before: int) -> None:
    """What was answered live, with all that came later still to come, is what the cut history answers."""
    ts, live, state = stepped()[at]
    carried = stepped()[min(at, before)][2]
    book = book_of([cut(table, until=ts) for table in market().values()], carried)
    assert vectors(book) == live
    assert book.percentiles() == state


@given(st.integers(0, LAST - 1))
@settings(max_examples=12, deadline=None)
def test_truncating_the_past_beyond_the_windows_changes_nothing(at: int) -> None:
    ts, live, state = stepped()[at]
    longest: dict[tuple[str, Timeframe], int] = {}
    for version in ("v2", "legacy-1"):
        for need in required_inputs(NAMES, version, pair="SI"):
            place = (need.root or "HG", need.timeframe)
            longest[place] = max(longest.get(place, 0), need.bars)
    book = book_of([last_of(cut(market()[place], until=ts), bars) for place, bars in longest.items()], state)
    assert vectors(book) == live
    assert book.percentiles() == state


TOGETHER = ("HG", "SI", "ES", "NQ")


def test_what_roots_are_asked_together_is_what_each_is_asked_alone() -> None:
    """One book of four roots that lack hours at different moments, one of which begins anew; and a book for each."""
    pairs = {"HG": "SI", "SI": "HG", "ES": "NQ"}
    bases = dict.fromkeys(TOGETHER, ("atrz", "ibs", "pair_z", "volz"))
    together = FeatureBook(bases=bases, pairs=pairs)
    alone = {root: FeatureBook(bases={root: bases[root]}, pairs=pairs) for root in TOGETHER}
    books = [together, *alone.values()]
    moments = slices(table for (root, _), table in market().items() if root in TOGETHER)
    split = moments[-LAST][0]
    for book in books:
        book.load([cut(table, until=split) for (root, _), table in market().items() if root in TOGETHER])
    for number, (_, bars) in enumerate(moments[-LAST + 1 :]):
        for book in books:
            # Together, or one by one as a plain backtest may.
            for closing in [bars] if number % 3 else [[bar] for bar in bars]:
                add(book, closing)
            if number == LAST // 2:
                book.forget("NQ")
            if number == LAST // 3:
                book.open_session(0, {"ES": Price(10**10)})
        closed = [bar.root for timeframe, bar in bars if timeframe == "1h"]
        for root in closed if number % 2 else reversed(closed):
            if together.has_hours(root):
                assert together.vector(root, NAMES, "v2") == alone[root].vector(root, NAMES, "v2")
    assert together.percentiles() == tuple(state for root in sorted(TOGETHER) for state in alone[root].percentiles())


def window_of(rows: npt.NDArray[np.int64]) -> BarWindow:
    window = BarWindow("HG", 2_000)
    window.extend(rows)
    return window


ALONE = sorted(
    {
        (feature.window, feature.function.__name__): feature
        for feature in FEATURES.values()
        if feature.form == "value" and len(feature.inputs) == 1
    }.items()
)
"""One feature of each formula and window, of those that read one root."""


@given(st.integers(1, 50), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_every_formula_reads_exactly_its_window(seed: int, later: int) -> None:
    """Whatever lies before it or comes after it changes no bit; with one bar less there is no value."""
    spans = [(OPEN + h * HOUR, OPEN + (h + 1) * HOUR) for h in range(1_410)]
    rows = walk("HG", "1h", spans, seed).data
    past = len(rows) - later
    wild = rows.copy()
    wild[:, 2:] = rows[::-1, 2:]
    for (bars, name), feature in ALONE:
        if bars > past:
            continue
        kept = rows[past - bars : past]
        value = window_of(kept).value(feature, bars)
        assert value is not None or name in ("above_pivot", "spiral_efficiency"), name
        assert window_of(rows).value(feature, past) == value, name
        assert window_of(np.concatenate((wild[: past - bars], rows[past - bars :]))).value(feature, past) == value, name
        assert window_of(kept[1:]).value(feature, bars - 1) is None, name


@given(st.integers(1, 50), st.integers(2, 16))
@settings(max_examples=5, deadline=None)
def test_a_row_among_many_has_the_bits_that_it_has_alone(seed: int, roots: int) -> None:
    fellows, windows = Fellows(), []
    for root in range(roots):
        # The last ones have too few bars for the longest windows.
        spans = [(OPEN + h * HOUR, OPEN + (h + 1) * HOUR) for h in range(100 * (root % 5), 1_410)]
        windows.append(BarWindow(f"R{root}", 2_000, fellows))
        windows[-1].extend(walk(f"R{root}", "1h", spans, seed).data)
    for (bars, name), feature in ALONE:
        if not isinstance(feature.function, Along):
            continue
        for window in windows:
            columns = window.last(bars, window.count)
            alone = None if columns is None else feature.function(columns)
            assert window.value(feature, window.count) == alone, name
