"""The book's laws: what it answers depends on exactly the bars that the registry says, and on its carried state."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain.bar_window import BarWindow
from domain.bars import BAR_COLUMNS, Bar, BarTable, Timeframe
from domain.errors import OperatorError, OurError
from domain.feature_book import FeatureBook, FeatureVector
from domain.features import BASES, FEATURES, required_bases, required_inputs
from domain.ibs import internal_bar_strength
from domain.populations import CarriedPercentile
from domain.units import HOUR, Nanos, Price, price_to_float
from tests.builders import OPEN, bar_of
from tests.domain.test_features import ES_BUNDLE

DAY = Nanos(24 * HOUR)
DAYS, SESSIONS, HOURS = 375, 31, 23
"""Days of history; how many of the last have hours; hours of a session (then one hour of rest)."""
ROOTS = ("ES", "NQ", "CL", "TLT", "6A", "6B", "6C", "6S")
NAMES = (*ES_BUNDLE, "dvolz_pct", "daily_atr_z_percentile", "es_hourly_return", "gc_hourly_return")
"""The 28, percentiles of daily bases, the root's own cross feature, and a root that is not read."""
BASES_OF_ES = {"ES": required_bases(NAMES, "v2")}


def day_open(day: int) -> int:
    return OPEN + day * DAY


def walk(root: str, timeframe: Timeframe, spans: Sequence[tuple[int, int]], seed: int) -> BarTable:
    """Bars over `spans` that stroll on a tick grid; volume strolls too."""
    rng = np.random.default_rng([seed, *root.encode(), *timeframe.encode()])
    n, tick = len(spans), 500 if root.startswith("6") else 250_000_000
    close = tick * (13_400 + np.cumsum(rng.integers(-9, 10, n)))
    open_ = close + tick * rng.integers(-3, 4, n)
    high = np.maximum(open_, close) + tick * rng.integers(0, 4, n)
    low = np.minimum(open_, close) - tick * rng.integers(0, 4, n)
    volume, trades = rng.integers(1, 9000, n), rng.integers(1, 900, n)
    bounds = np.array(spans, np.int64).reshape(n, 2)
    data = np.column_stack((bounds, open_, high, low, close, volume, trades)).astype(np.int64)
    return BarTable(root=root, timeframe=timeframe, contracts=(f"{root}M4",) * n, data=data)


@cache
def market(seed: int = 1, *, is_gappy: bool = True) -> dict[tuple[str, Timeframe], BarTable]:
    """Hours and days of every root; with gaps, each root but ES lacks a tenth of its hours."""
    rng = np.random.default_rng(seed)
    days = [(day_open(d), day_open(d) + HOURS * HOUR) for d in range(DAYS)]
    hours = [(s + h * HOUR, s + (h + 1) * HOUR) for s, _ in days[-SESSIONS:] for h in range(HOURS)]
    tables: dict[tuple[str, Timeframe], BarTable] = {}
    for root in ROOTS:
        kept = [span for span in hours if not is_gappy or root == "ES" or rng.random() > 0.1]
        tables[root, "1h"] = walk(root, "1h", kept, seed)
        tables[root, "1d"] = walk(root, "1d", days, seed)
    return tables


def cut(table: BarTable, *, after: int = 0, until: int = 2**62) -> BarTable:
    """The bars that end in (after, until]."""
    keep = (table.data[:, 1] > after) & (table.data[:, 1] <= until)
    contracts = tuple(np.array(table.contracts, object)[keep])
    return attrs.evolve(table, contracts=contracts, data=table.data[keep])


def last_of(table: BarTable, bars: int) -> BarTable:
    return attrs.evolve(table, contracts=table.contracts[-bars:], data=table.data[-bars:])


def book_of(tables: Iterable[BarTable]) -> FeatureBook:
    book = FeatureBook(bases=BASES_OF_ES)
    book.load(list(tables))
    return book


def slices(tables: Iterable[BarTable]) -> list[tuple[int, list[tuple[Timeframe, Bar]]]]:
    """The bars by the moment at which they close, as they arrive live."""
    by_end: dict[int, list[tuple[Timeframe, Bar]]] = {}
    for table in tables:
        for bar in table.bars():
            by_end.setdefault(bar.ts_end, []).append((table.timeframe, bar))
    return sorted(by_end.items())


def add(book: FeatureBook, bars: Iterable[tuple[Timeframe, Bar]]) -> None:
    bars = list(bars)
    book.add_hours([bar for timeframe, bar in bars if timeframe == "1h"])
    for timeframe, bar in bars:
        if timeframe == "1d":
            book.add_day(bar)


def vector(book: FeatureBook, version: str = "v2") -> FeatureVector:
    return book.vector("ES", NAMES, version)


def value(book: FeatureBook, name: str, version: str = "v2", root: str = "ES") -> float | None:
    return book.vector(root, (name,), version).values[0]


def reason(book: FeatureBook, name: str, version: str = "v2") -> str:
    found = book.vector("ES", (name,), version)
    assert (found.values, found.missing) == ((None,), (name,))
    return found.reasons[0]


@cache
def stepped(seed: int, sessions: int = 3) -> tuple[tuple[int, FeatureVector, tuple[CarriedPercentile, ...]], ...]:
    """One book fed slice by slice: (moment, vector, state) after each ES hour of the last sessions."""
    book, seen = FeatureBook(bases=BASES_OF_ES), []
    begin = day_open(DAYS - sessions)
    for ts, bars in slices(market(seed).values()):
        add(book, bars)
        if ts > begin and any(bar.root == "ES" and timeframe == "1h" for timeframe, bar in bars):
            seen.append((ts, vector(book), book.percentiles()))
    return tuple(seen)


MOMENTS = st.tuples(st.integers(1, 4), st.integers(0, 3 * HOURS - 1))

# ---------------------------------------------------------------------- laws


def test_the_vector_of_a_full_market_lacks_only_what_is_not_read() -> None:
    found = vector(book_of(market(is_gappy=False).values()))
    assert found.missing == ("gc_hourly_return",)
    assert found.reasons == ("GC 1h: no bars",)
    assert found.carried == ()
    assert found.names == NAMES
    assert found.ts == day_open(DAYS - 1) + HOURS * HOUR


@given(MOMENTS)
@settings(max_examples=25, deadline=None)
def test_truncating_the_future_changes_nothing(moment: tuple[int, int]) -> None:
    """What was answered live, with all that came later still to come, is what the cut history answers."""
    seed, at = moment
    ts, live, state = stepped(seed)[at]
    cut_off = book_of(cut(table, until=ts) for table in market(seed).values())
    assert vector(cut_off) == live
    assert cut_off.percentiles() == state


@given(MOMENTS)
@settings(max_examples=25, deadline=None)
def test_bars_of_other_roots_after_the_decision_bar_change_nothing(moment: tuple[int, int]) -> None:
    seed, at = moment
    ts, live, _ = stepped(seed)[at]
    ahead = [
        cut(table, until=ts if table.root == "ES" else ts + 40 * HOUR if table.timeframe == "1h" else ts + 2 * DAY)
        for table in market(seed).values()
    ]
    assert vector(book_of(ahead)) == live


@given(MOMENTS)
@settings(max_examples=25, deadline=None)
def test_truncating_the_past_beyond_the_window_changes_nothing_given_the_percentiles(moment: tuple[int, int]) -> None:
    seed, at = moment
    ts, live, state = stepped(seed)[at]
    # By bars, so that what the deciding root needs of itself wins over its own cross feature.
    needs = sorted(required_inputs(NAMES, "v2"), key=lambda need: need.bars)
    longest = {(need.root or "ES", need.timeframe): need.bars for need in needs}
    book = FeatureBook(bases=BASES_OF_ES)
    assert book.restore(state) == ()
    tables = market(seed)
    book.load([last_of(cut(tables[key], until=ts), bars) for key, bars in longest.items() if key in tables])
    assert vector(book) == live
    assert book.percentiles() == state


def test_each_feature_reads_exactly_its_window() -> None:
    """One bar less is missing, with the count; whatever lies before the window does not matter."""
    tables = market(is_gappy=False)
    for name in NAMES:
        feature = FEATURES[name]
        source = feature.inputs[0]
        if name == "gc_hourly_return" or not hasattr(source, "timeframe"):
            continue
        root = source.root or "ES"
        others = [table for (held, frame), table in tables.items() if (held, frame) != (root, source.timeframe)]
        own = tables[root, source.timeframe]
        wild = own.data.copy()
        wild[: -feature.window, 2:] = 10**9 * np.arange(7, 13)
        expected = value(book_of(tables.values()), name)
        assert expected is not None
        assert value(book_of([*others, last_of(own, feature.window)]), name) == expected
        assert value(book_of([*others, attrs.evolve(own, data=wild)]), name) == expected
        if feature.window > 1:
            short = book_of([*others, last_of(own, feature.window - 1)])
            assert reason(short, name) == f"{root} {source.timeframe}: {feature.window - 1} of {feature.window} bars"


@given(MOMENTS, st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_a_restored_book_goes_on_as_if_it_had_never_stopped(moment: tuple[int, int], overlap: int) -> None:
    seed, at = moment
    ts, _, state = stepped(seed)[at]
    book = FeatureBook(bases=BASES_OF_ES)
    carried = tuple(CarriedPercentile(**item) for item in json.loads(json.dumps([attrs.asdict(s) for s in state])))
    assert carried == state
    assert book.restore(carried) == ()
    known = {"1h": 700 - overlap, "1d": 362}
    book.load([last_of(cut(table, until=ts), known[table.timeframe]) for table in market(seed).values()])
    for (later, bars), expected in zip(
        ((end, found) for end, found in slices(market(seed).values()) if end > ts),
        stepped(seed)[at + 1 :],
        strict=False,
    ):
        add(book, bars)
        assert (later, vector(book), book.percentiles()) == expected


def test_the_same_bars_in_any_number_of_loads_are_the_same_book() -> None:
    tables = market(2)
    whole = book_of(tables.values())
    pieces = FeatureBook(bases=BASES_OF_ES)
    for day in range(25, DAYS + 1, 25):
        window = [cut(table, after=day_open(day - 25), until=day_open(day)) for table in tables.values()]
        pieces.load(window)
    assert vector(pieces) == vector(whole)
    assert pieces.percentiles() == whole.percentiles()


@given(st.integers(1, 4), st.integers(-(10**12), 10**12))
@example(2, 955_255_516_166)
@settings(max_examples=15, deadline=None)
def test_history_shifted_over_a_roll_keeps_the_bits_of_what_rests_on_differences(seed: int, difference: int) -> None:
    """So the populations of the session before stay true after a roll."""
    tables = market(seed)
    moved = {key: table for key, table in tables.items() if key[0] == "ES"}
    for key, table in moved.items():
        data = table.data.copy()
        data[:, 2:6] += difference
        moved[key] = attrs.evolve(table, data=data)
    before, after = book_of(tables.values()), book_of((tables | moved).values())
    assert [state.added for state in after.percentiles()] == [state.added for state in before.percentiles()]
    levels = {"price_usd", "daily_directional_drift", "es_hourly_return"}
    for name, old, new in zip(NAMES, vector(before).values, vector(after).values, strict=True):
        assert name in levels or new == old
    assert value(after, "price_usd") == price_to_float(Price(int(tables["ES", "1h"].data[-1, 5]) + difference))


def test_a_window_does_not_grow_with_history() -> None:
    window = BarWindow("ES 1h", 10)
    for i in range(1, 1000):
        window.append(i - 1, i, (i, i, i, i, i))
        assert window.count <= 20
        assert window.end_of(window.count) == window.last_end == i
    assert window.value(BASES["ibs"], window.count) == 0.5
    assert window.until(995) == window.count - 4


# ------------------------------------------------------------------ versions


def test_legacy_gives_the_hourly_value_under_the_daily_names() -> None:
    book = book_of(market(is_gappy=False).values())
    spread = value(book, "ma_spread_ribbon_tightness")
    assert value(book, "ma_spread_daily_ribbon_tightness", "legacy-1") == spread
    assert value(book, "ma_spread_daily_ribbon_tightness") not in (None, spread)
    hours = [bar.close / 1e9 for bar in market(is_gappy=False)["ES", "1h"].bars()][-21:]
    changes = np.diff(hours)
    expected = (hours[-1] - np.mean(hours[1:])) / np.std(changes)
    assert value(book, "distance_z_entry_daily", "legacy-1") == pytest.approx(expected, rel=1e-9)
    assert value(book, "distance_z_entry_daily") != pytest.approx(expected, rel=1e-3)
    same = [name for name in NAMES if value(book, name) == value(book, name, "legacy-1")]
    assert set(NAMES) - set(same) == {"ma_spread_daily_ribbon_tightness", "distance_z_entry_daily"}


# ------------------------------------------------------------- what is missing


def test_what_is_not_available_is_missing_with_its_reason() -> None:
    book = book_of(market().values())
    assert reason(book, "vix_hourly_z_score") == "needs VIX, which GLBX.MDP3 does not carry"
    assert reason(book, "volz_pc") == "not in the feature registry; did you mean 'volz_pct'?"
    other = FeatureBook(bases={})
    other.load(list(market().values()))
    assert reason(other, "ibs_pct") == "the book keeps no population ibs of ES"


def test_a_window_without_movement_is_undefined() -> None:
    book = FeatureBook(bases={"ES": ("ibs", "atrz")})
    for hour in range(700):
        book.add_hours([bar_of(start=Nanos(OPEN + hour * HOUR), length=HOUR)])
    for name in ("rsi_len_14", "adx_value", "atrz_pct"):
        assert reason(book, name) == "ES 1h: undefined (a division by nothing)"
    assert value(book, "ma_spread_ribbon_tightness") == 0.0


def test_without_an_hour_bar_there_is_no_vector() -> None:
    with pytest.raises(OurError, match="ES has no completed hour bar"):
        book_of([]).vector("ES", NAMES, "v2")
    with pytest.raises(OperatorError, match="unknown feature set version"):
        vector(book_of(market().values()), "v3")


def test_another_roots_last_close_stands_for_two_hours_and_no_longer() -> None:
    tables = market(is_gappy=False)
    end = day_open(DAYS - 1) + HOURS * HOUR
    for silent, is_there in ((0, True), (1, True), (2, True), (3, False)):
        quiet = cut(tables["CL", "1h"], until=end - silent * HOUR)
        book = book_of((tables | {("CL", "1h"): quiet}).values())
        found = book.vector("ES", ("cl_hourly_return", "cl_hourly_z_score", "nq_daily_return"), "v2")
        if not is_there:
            assert found.missing == ("cl_hourly_return", "cl_hourly_z_score")
            assert found.reasons == ("CL 1h: no trade for 3.0 h",) * 2
            assert found.carried == ()
            continue
        close = [bar.close / 1e9 for bar in quiet.bars()]
        close += [close[-1]] * silent
        assert found.values[0] == pytest.approx(100 * (close[-1] / close[-2] - 1), abs=1e-12)
        assert found.values[1] == pytest.approx((close[-1] - np.mean(close[-20:])) / np.std(close[-252:]), rel=1e-9)
        assert found.carried == (("cl_hourly_return", "cl_hourly_z_score") if silent else ())
        assert found.missing == ()


def test_the_hour_of_rest_between_sessions_is_no_hour_without_a_trade() -> None:
    """CL traded in the session's last hour and not in the next one's first: one hour is carried, not two."""
    tables = market(is_gappy=False)
    morning = day_open(DAYS - 1)
    until_open = {key: cut(table, until=morning + HOUR) for key, table in tables.items()}
    until_open["CL", "1h"] = cut(tables["CL", "1h"], until=morning)
    found = book_of(until_open.values()).vector("ES", ("cl_hourly_return", "cl_hourly_z_score"), "v2")
    close = [bar.close / 1e9 for bar in until_open["CL", "1h"].bars()]
    close.append(close[-1])
    assert found.values[0] == 0.0
    assert found.values[1] == pytest.approx((close[-1] - np.mean(close[-20:])) / np.std(close[-252:]), rel=1e-9)
    assert found.carried == ("cl_hourly_return", "cl_hourly_z_score")


def test_a_day_counts_from_the_moment_it_ends() -> None:
    tables = market(is_gappy=False)
    close = [price_to_float(bar.close) for bar in tables["NQ", "1d"].bars()]
    end = day_open(DAYS - 1) + HOURS * HOUR
    for ts, last in ((end, -1), (end - HOUR, -2)):
        book = book_of(cut(table, until=ts) for table in tables.values())
        expected = 100 * (close[last] - close[last - 1]) / close[last - 1]
        assert value(book, "nq_daily_return") == pytest.approx(expected, rel=1e-12)


def test_a_root_that_lacks_the_last_day_is_missing() -> None:
    tables = market(is_gappy=False)
    behind = {("NQ", "1d"): cut(tables["NQ", "1d"], until=day_open(DAYS - 1))}
    book = book_of((tables | behind).values())
    assert reason(book, "nq_daily_z_score") == "NQ 1d: lacks the last completed day"
    assert value(book, "nq_hourly_return") is not None


def test_a_day_bar_that_is_not_the_last_days_is_stale_for_everyone() -> None:
    tables = market(is_gappy=False)
    behind = {key: cut(table, until=day_open(DAYS - 1)) for key, table in tables.items() if key[1] == "1d"}
    until = day_open(DAYS - 1) + 22 * HOUR
    hours = {key: cut(table, until=until) for key, table in tables.items() if key[1] == "1h"}
    assert vector(book_of((behind | hours).values())).missing == ("gc_hourly_return",)
    older = {key: cut(table, until=day_open(DAYS - 2)) for key, table in behind.items()}
    found = vector(book_of((older | hours).values()))
    reasons = dict(zip(found.missing, found.reasons, strict=True))
    assert reasons.pop("gc_hourly_return") == "GC 1h: no bars"
    assert set(reasons) == {name for name in NAMES if "daily" in name or name == "dvolz_pct"}
    assert set(reasons.values()) == {"ES 1d: 45 hours old"}


WINDOWS = {
    "price_usd": 1, "ibs_pct": 1, "es_hourly_return": 2, "rsi_len_14": FEATURES["rsi_len_14"].window,
    "rsixvolz": BASES["volz"].window, "volz_pct": BASES["volz"].window,
}  # fmt: skip
"""The longest window behind some features of hours and percentiles, short and long."""


@pytest.mark.parametrize(
    ("pause", "is_hole"), [(49 * HOUR, False), (73 * HOUR, False), (98 * HOUR, False), (98 * HOUR + 1, True)]
)
@pytest.mark.parametrize("since", [1, 2, 140, 255, 256])
def test_a_window_with_a_pause_that_no_market_makes_is_missing_and_a_weekend_is_none(
    pause: int, is_hole: bool, since: int
) -> None:
    """49 h are a weekend, 73 h that of Good Friday. However the bars come, `since` hours after the pause."""
    begins = [OPEN + hour * HOUR + (pause if hour >= 300 else 0) for hour in range(300 + since)]
    table = walk("ES", "1h", [(start, start + HOUR) for start in begins], seed=1)
    ends = dict.fromkeys(SEEDED, Nanos(begins[-1] + HOUR))
    single, bulk, pieces, ranked = seeded(ends), seeded(ends), seeded(ends), seeded({})
    for bar in table.bars():
        single.add_hours([bar])
    bulk.load([table])
    pieces.load([cut(table, until=begins[299] + HOUR)])
    pieces.load([cut(table, after=begins[299] + HOUR)])
    ranked.load([table])  # without a seed each bar is ranked
    torn = {name for name, window in WINDOWS.items() if is_hole and window > since}
    for book in (single, bulk, pieces, ranked):
        found = book.vector("ES", tuple(WINDOWS), "v2")
        assert set(found.missing) == torn
        assert set(found.reasons) <= {"ES 1h: days without a bar inside the window"}
    assert bulk.vector("ES", tuple(WINDOWS), "v2") == single.vector("ES", tuple(WINDOWS), "v2")
    assert pieces.vector("ES", tuple(WINDOWS), "v2") == single.vector("ES", tuple(WINDOWS), "v2")


def test_a_last_completed_day_that_ended_too_long_ago_is_missing() -> None:
    """Whatever hours have come since: those that are not there make no day old. Own days and other roots'."""
    tables = {(root, frame): market(is_gappy=False)[root, frame] for root in ("ES", "NQ") for frame in ("1h", "1d")}
    ended = day_open(DAYS - 2) + HOURS * HOUR
    nasdaq = cut(tables["NQ", "1d"], until=ended)
    nasdaq.data[-1, 1] -= 2 * HOUR  # NQ closed earlier that day
    tables |= {("ES", "1d"): cut(tables["ES", "1d"], until=ended), ("NQ", "1d"): nasdaq}
    tables |= {(root, "1h"): cut(tables[root, "1h"], until=day_open(DAYS - 1) + 5 * HOUR) for root in ("ES", "NQ")}
    for since, stale in (
        (ended - 2 * HOUR - 1, ()),
        (ended - 2 * HOUR, ("NQ",)),
        (ended - 1, ("NQ",)),
        (ended, ("ES", "NQ")),
    ):
        book = FeatureBook(bases={}, days_since=since)
        book.load(list(tables.values()))
        found = book.vector("ES", ("es_daily_return", "nq_daily_return", "nq_hourly_return"), "v2")
        assert found.missing == tuple(f"{root.lower()}_daily_return" for root in stale)
        assert all(why.endswith(" 1d: lacks the last completed day") for why in found.reasons)


# ----------------------------------------------------------------- percentiles


@given(st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_a_percentile_is_the_average_rank_among_all_bars_so_far(seed: int) -> None:
    tables = market(seed)
    seen: list[float] = []
    book = FeatureBook(bases={"ES": ("ibs",)})
    for bar in tables["ES", "1h"].bars():
        book.add_hours([bar])
        ibs = internal_bar_strength(high=bar.high, low=bar.low, close=bar.close).value
        seen.append(ibs)
        below, equal = sum(v < ibs for v in seen), seen.count(ibs)
        assert value(book, "ibs_pct") == (below + 1 + below + equal) / 2 / len(seen)


def test_aliases_and_products_share_one_population() -> None:
    found = vector(book_of(market(3).values()))
    values = dict(zip(found.names, found.values, strict=True))
    assert values["volume_z_percentile"] == values["volz_pct"]
    assert values["atr_z_percentile"] == values["atrz_pct"]
    ibs, volume, product = values["ibs_pct"], values["volz_pct"], values["ibsxvolz"]
    assert ibs is not None
    assert volume is not None
    assert product == ibs * volume
    rsi_product = values["rsixvolz"]
    assert rsi_product is not None
    count = SESSIONS * HOURS - 119  # RSI5 has 120 bars from the 120th hour on
    half_ranks = rsi_product / volume * count * 2
    assert half_ranks == pytest.approx(round(half_ranks), abs=1e-6)


def test_daily_bases_take_one_value_a_day() -> None:
    book = book_of(market().values())
    counts = {state.base: len(np.frombuffer(_raw(state.added))) for state in book.percentiles()}
    hours = SESSIONS * HOURS
    assert counts == {
        "atrz": hours - 359,
        "datrz": DAYS - 359,
        "dvolz": DAYS - 255,
        "ibs": hours,
        "rsi": hours - 119,
        "volz": hours - 255,
    }


def _raw(text: str) -> bytes:
    return b64decode(text)


def test_a_population_from_a_bundle_goes_on_where_training_ended() -> None:
    tables = market()
    whole = FeatureBook(bases={"ES": ("ibs",)})
    whole.load([tables["ES", "1h"]])
    split = day_open(DAYS - 5)
    trained = sorted(
        internal_bar_strength(high=bar.high, low=bar.low, close=bar.close).value
        for bar in cut(tables["ES", "1h"], until=split).bars()
    )
    book = FeatureBook(bases={"ES": ("ibs",)})
    book.seed_population("ES", "ibs", trained, seed="bundle-1", through_ns=Nanos(split))
    book.load([cut(tables["ES", "1h"], until=split)])
    at_split = FeatureBook(bases={"ES": ("ibs",)})
    at_split.load([cut(tables["ES", "1h"], until=split)])
    assert value(book, "ibs_pct") == value(at_split, "ibs_pct")
    book.load([cut(tables["ES", "1h"], after=split)])
    assert value(book, "ibs_pct") == value(whole, "ibs_pct")
    (state,) = book.percentiles()
    assert len(_raw(state.added)) == 8 * 5 * HOURS  # only what was added travels


SEEDED = ("ibs", "rsi", "volz")
HISTORY = last_of(market()["ES", "1h"], 300)
LAST = len(HISTORY) - 1


def end_at(place: int, offset: int = 0) -> Nanos:
    """The end of HISTORY's bar at `place`; before and after the table as if it went on."""
    inside = min(max(place, 0), LAST)
    return Nanos(int(HISTORY.data[inside, 1]) + (place - inside) * HOUR + offset)


@st.composite
def seed_ends(draw: st.DrawFn) -> dict[str, Nanos]:
    """Per base, where its seed ends: before HISTORY, at a bar, between two, at the last, after it; or no seed."""
    places = st.sampled_from([-1, 0, 1, LAST - 1, LAST, LAST + 1]) | st.integers(0, LAST)
    ends = st.builds(end_at, places, st.sampled_from([-1, 0, 1]))
    return {base: end for base in SEEDED if (end := draw(st.none() | ends)) is not None}


def seeded(ends: dict[str, Nanos]) -> FeatureBook:
    book = FeatureBook(bases={"ES": SEEDED})
    for base, end in ends.items():
        book.seed_population("ES", base, [-0.5, 0.25, 0.25, 0.5, 55.0], seed="bundle-1", through_ns=end)
    return book


@given(seed_ends(), st.integers(0, len(HISTORY)), st.none() | st.integers(1, len(HISTORY)))
@example(dict.fromkeys(SEEDED, end_at(-1)), 300, None)
@example(dict.fromkeys(SEEDED, end_at(150)), 300, None)
@example(dict.fromkeys(SEEDED, end_at(LAST)), 300, None)
@example(dict.fromkeys(SEEDED, end_at(LAST + 5)), 300, None)
@example({}, 300, LAST)
@settings(max_examples=60, deadline=None)
def test_loading_gives_the_bits_of_adding_every_bar(ends: dict[str, Nanos], loaded: int, carried: int | None) -> None:
    """Bars that a seed or carried state holds are passed over in bulk; whatever was loaded, the book goes on alike."""
    names = ("ibs_pct", "rsixvolz", "volz_pct", "es_hourly_return")
    bulk, single = seeded(ends), seeded(ends)
    if carried is not None:
        before = seeded(ends)
        for bar in islice(HISTORY.bars(), carried):
            before.add_hours([bar])
        for book in (bulk, single):
            assert book.restore(before.percentiles()) == ()
    bulk.load([cut(HISTORY, until=end_at(loaded - 1))])
    for number, bar in enumerate(HISTORY.bars(), 1):
        single.add_hours([bar])
        if number > loaded:
            bulk.add_hours([bar])
        if number == loaded or number == len(HISTORY):
            assert bulk.percentiles() == single.percentiles()
            assert bulk.vector("ES", names, "v2") == single.vector("ES", names, "v2")


def test_carried_state_joins_only_the_seed_it_grew_from() -> None:
    def grown_from(seed: str) -> FeatureBook:
        book = FeatureBook(bases={"ES": ("ibs",)})
        book.seed_population("ES", "ibs", [0.25, 0.5], seed=seed, through_ns=OPEN)
        return book

    first = grown_from("bundle-1")
    first.add_hours([bar_of(start=OPEN, length=HOUR)])
    state = first.percentiles()
    assert grown_from("bundle-2").restore(state) == state
    assert FeatureBook(bases={}).restore(state) == state
    again = grown_from("bundle-1")
    assert again.restore(state) == ()
    assert again.percentiles() == state
    again.add_hours([bar_of(start=OPEN, length=HOUR)])  # history repeats the bar: it is ranked, not inserted twice
    assert again.percentiles() == state
    assert value(again, "ibs_pct") == value(first, "ibs_pct") == 2.5 / 3


@pytest.mark.parametrize("values", [[2.0, 1.0], [float("nan")], [1.0, float("inf")]])
def test_a_population_that_is_not_one_is_refused(values: list[float]) -> None:
    with pytest.raises(OurError, match="finite and ascending"):
        FeatureBook(bases={"ES": ("ibs",)}).seed_population("ES", "ibs", values, seed="s", through_ns=OPEN)


def test_percentile_state_after_the_bars_is_a_bug() -> None:
    book = book_of(market().values())
    with pytest.raises(OurError, match="must come before the bars"):
        book.restore(book.percentiles())
    with pytest.raises(OurError, match="keeps no population ibs of NQ"):
        book.seed_population("NQ", "ibs", [], seed="s", through_ns=OPEN)


# ----------------------------------------------------------------------- order


def test_a_bar_that_is_not_after_the_last_is_a_bug() -> None:
    book = FeatureBook(bases={})
    book.add_hours([bar_of(start=Nanos(OPEN + HOUR), length=HOUR)])
    for start in (OPEN, OPEN + HOUR):
        with pytest.raises(OurError, match="ES 1h: a bar that ends at"):
            book.add_hours([bar_of(start=Nanos(start), length=HOUR)])
    with pytest.raises(OurError, match="ES 1h: the history's bars are not in order"):
        book.load([market()["ES", "1h"], market()["ES", "1h"]])


def test_minutes_are_no_part_of_the_book() -> None:
    minutes = BarTable(root="ES", timeframe="1m", contracts=(), data=np.zeros((0, len(BAR_COLUMNS)), np.int64))
    with pytest.raises(OurError, match="not minutes"):
        FeatureBook(bases={}).load([minutes])
