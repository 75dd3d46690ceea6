"""The benchmarks' own machinery, on tiny inputs: pairs, equality checks that can fail, the report. Never a time."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from market import CHECKOUT, environment

from actors.wiring import parse_time
from actors.wiring.in_process import in_process_system
from adapters.contract_map import load_contract_map
from adapters.sqlite.journal import create_journal
from adapters.sqlite.writer import Writer
from domain.market import TRADE_DTYPE
from domain.units import MINUTE, SECOND, Nanos, Price
from tests.bench import decision_rows, engine_rows, growth, journal_rows, replay_rows, report
from tests.bench.day import Day, asked_for, contract_map, day_shape
from tests.bench.pairs import Benchmark, Facts, Measured, Role, Row, Scale, Side, UnequalResultsError, measure

OPEN = parse_time("2024-05-01T13:00:00Z")
RATIO = Row(name="r", title="work against b", figure=lambda w, r: w.cpu_s / r.cpu_s, unit="x", required=2, goal=1)


def benchmark(**changes: Any) -> Benchmark:
    words: dict[str, Any] = {
        "name": "sample",
        "prepare": lambda scale: {},
        "work": lambda facts: side(1),
        "reference": lambda facts: side(1),
        "rows": (RATIO,),
    }
    return Benchmark(**words | changes)


def side(cpu_s: float, answer: Any = "same") -> Side:
    return Side(cpu_s=cpu_s, wall_s=cpu_s, answer=answer)


def scripted(work: Sequence[Side], reference: Sequence[Side]) -> tuple[Callable[[Role], Side], list[Role]]:
    """Sides one after the other, and the order in which they were asked for."""
    left: dict[Role, list[Side]] = {"work": list(work), "reference": list(reference)}
    asked: list[Role] = []

    def run(role: Role) -> Side:
        asked.append(role)
        return left[role].pop(0)

    return run, asked


# ---------------------------------------------------------------- pairs


def test_the_sides_alternate_and_the_figure_is_the_median_of_paired_ratios() -> None:
    run, asked = scripted([side(2), side(20), side(30)], [side(1), side(10), side(10)])
    measured = measure(benchmark(), run, pairs=3, attempts=1)
    assert asked == ["work", "reference"] * 3
    assert measured.value(RATIO) == 2


def test_different_answers_are_refused_before_any_ratio_is_taken() -> None:
    run, asked = scripted([side(1), side(1, "mine")], [side(1), side(1, "theirs")])
    with pytest.raises(UnequalResultsError, match="pair 2: 'mine' is not 'theirs'"):
        measure(benchmark(), run, pairs=2, attempts=1)
    assert len(asked) == 4


def test_a_run_that_is_not_calm_is_discarded_and_made_again() -> None:
    run, asked = scripted([side(1), side(1.2), side(1), side(1.01)], [side(1)] * 4)
    measured = measure(benchmark(), run, pairs=2, attempts=3)
    assert len(asked) == 8
    assert (measured.attempts, round(measured.spread, 2)) == (2, 0.01)


def test_where_no_run_is_calm_the_calmest_is_kept_and_known_for_it() -> None:
    run, _ = scripted([side(1), side(2), side(1), side(1.5), side(1), side(3)], [side(1)] * 6)
    measured = measure(benchmark(), run, pairs=2, attempts=3)
    assert (measured.attempts, measured.spread) == (3, 0.4)
    assert not report.entries(benchmark(), measured, 0.0)["r"]["is_calm"]


def test_the_spread_of_either_side_counts() -> None:
    measured = Measured(pairs=((side(1), side(1)), (side(1), side(2))), attempts=1)
    assert measured.spread == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(("is_more_better", "met"), [(False, [True, True, False]), (True, [False, True, True])])
def test_a_budget_is_met_at_its_limit(is_more_better: bool, met: list[bool]) -> None:
    row = Row(
        name="r",
        title="",
        figure=RATIO.figure,
        unit="x",
        required=2,
        goal=1,
        is_more_better=is_more_better,
    )
    assert [row.meets(value, 2) for value in (1.9, 2.0, 2.1)] == met


# ---------------------------------------------------------------- the equality checks, on a session of minutes


def session_file(path: Path, *, moved: int = 0, roots: Sequence[str] = ("ES", "NQ")) -> Facts:
    """A file as the program writes it: three minutes and some of the next hour. `moved` shifts a price."""
    contracts = {root: f"M{root}M4" for root in roots}
    system = in_process_system(contracts, warmup_bars=0, pivot_gate=False)
    for number in range(40):
        at = Nanos(OPEN + number * 5 * SECOND + (number > 35) * 60 * MINUTE)
        price = Price((5_000_000 + 250 * (number * 7 % 11) + (moved if number == 20 else 0)) * 1_000_000)
        system.trade(contracts[roots[number % len(roots)]], at, price)
    system.advance(Nanos(OPEN + 64 * MINUTE))
    create_journal(path)
    writer = Writer(path, on_failure=lambda error: None)
    writer.append(tuple(system.envelopes()))
    writer.start()
    writer.stop()
    return {"journal": str(path)}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return session_file(tmp_path_factory.mktemp("one") / "2024-05-01.db")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return session_file(tmp_path_factory.mktemp("other") / "2024-05-01.db", moved=100_000)


SIDES = [
    pytest.param(replay_rows.input_work, replay_rows.input_reference, id="input"),
    pytest.param(journal_rows.write_work, journal_rows.write_reference, id="journal"),
    pytest.param(engine_rows.step_work, engine_rows.step_reference, id="step"),
]


@pytest.mark.parametrize(("work", "reference"), SIDES)
def test_both_sides_give_one_answer(
    work: Callable[[Facts], Side], reference: Callable[[Facts], Side], facts: Facts
) -> None:
    assert work(facts).answer == reference(facts).answer


@pytest.mark.parametrize(("work", "reference"), SIDES)
def test_one_price_apart_is_another_answer(
    work: Callable[[Facts], Side], reference: Callable[[Facts], Side], facts: Facts, other: Facts
) -> None:
    assert work(facts).answer != reference(other).answer


def test_a_minute_cut_by_two_chunks_is_folded_into_one_bar() -> None:
    trades = np.zeros(9, TRADE_DTYPE)
    trades["instrument_id"] = [1, 2, 1, 1, 2, 1, 1, 1, 2]
    trades["ts_recv"] = np.arange(9) * 14 * SECOND
    trades["price"], trades["size"] = [5, 9, 7, 3, 8, 4, 6, 1, 2], 1
    whole = replay_rows._merged([replay_rows._fold(trades, MINUTE)])
    cut = replay_rows._merged([replay_rows._fold(part, MINUTE) for part in (trades[:2], trades[2:7], trades[7:])])
    for left, right in zip(whole, cut, strict=True):
        assert left.tolist() == right.tolist()


def test_the_forest_is_compared_by_its_bits(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(3)
    rows = rng.normal(size=(engine_rows.COMPARED_ROWS + 5, 4))
    answers = []
    for seed in (1, 2):
        forest = RandomForestClassifier(5, max_depth=3, random_state=seed).fit(rows, (rows[:, 0] > 0).astype(int))
        path = tmp_path / f"{seed}.pickle"
        path.write_bytes(pickle.dumps((forest, rows)))
        forest_facts = {"forest": str(path), "rows": len(rows)}
        answers.append(engine_rows.forest_reference(forest_facts).answer)
        assert engine_rows.forest_work(forest_facts).answer == answers[-1]
    assert answers[0] != answers[1]


def test_a_decision_is_compared_by_its_scores(tmp_path: Path) -> None:
    """Of every root that the features read, and of those that these are paired with."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, len(decision_rows.NAMES)))
    forest = RandomForestClassifier(5, max_depth=3, random_state=1).fit(rows, (rows[:, 0] > 0).astype(int))
    (tmp_path / "forest.pickle").write_bytes(pickle.dumps((forest, rows)))
    roots = ("ES", "NQ", "GC", "SI", "CL", "NG", "6A", "6B", "6E")
    facts, other = (
        session_file(tmp_path / f"{moved}.db", moved=moved, roots=roots) | {"forest": str(tmp_path / "forest.pickle")}
        for moved in (0, 100_000)
    )
    answer = decision_rows.decision_reference(facts).answer
    assert answer["scores"] == len(roots)
    assert decision_rows.decision_work(facts).answer == answer
    assert decision_rows.decision_reference(other).answer != answer


# ---------------------------------------------------------------- the day


@pytest.mark.parametrize("roots", [1, 6, 12, 18])
def test_a_day_of_any_size_trades_its_roots_and_reads_no_other(tmp_path: Path, roots: int) -> None:
    path = tmp_path / "contracts.yml"
    path.write_text(contract_map(roots))
    found = load_contract_map(path)
    assert (len(found.traded), len(found.references)) == (roots, 0)


def test_fewer_roots_need_a_larger_market_for_as_many_trades() -> None:
    assert asked_for(1_000, 1) > asked_for(1_000, 12) > asked_for(1_000, 18) > 1_000


def test_days_of_different_make_are_kept_apart() -> None:
    days = [Day(), Day(trades=1), Day(roots=1), Day(until="2024-05-01T15:00:00Z")]
    assert len({day.directory for day in days}) == len(days)


def test_the_shape_of_a_day_counts_its_busiest_minute() -> None:
    trades = np.zeros(4, TRADE_DTYPE)
    trades["ts_recv"] = [0, 1, 1, 2 * MINUTE]
    assert day_shape(trades)["busiest_minute"] == 3


# ---------------------------------------------------------------- report and growth


def entries(value: float, name: str = "r") -> dict[str, Any]:
    row = Row(name=name, title=f"{name} against b", figure=RATIO.figure, unit="x", required=2, goal=1)
    measured = Measured(pairs=((side(value), side(1)),), attempts=1)
    return report.entries(benchmark(rows=(row,)), measured, 0.5)


@pytest.mark.parametrize(("value", "verdict"), [(0.5, "goal met"), (1.5, "required met"), (3.0, "**missed**")])
def test_the_table_says_what_was_met(value: float, verdict: str) -> None:
    results = {"machine": report.machine(), "results": entries(value)}
    budget = next(line for line in report.tables(results, ["r"]).splitlines() if line.startswith("| r against b"))
    assert budget.split("|")[-2].strip() == verdict


def test_the_report_replaces_what_stands_between_its_marks_and_nothing_else(tmp_path: Path) -> None:
    text, numbers = tmp_path / "performance.md", tmp_path / "performance.json"
    text.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    results = report.merge(numbers, entries(1.5), report.machine())
    report.write(results, ["r"], json_path=numbers, text_path=text)
    written = text.read_text()
    assert written.startswith(f"before\n{report.BEGIN}\n")
    assert written.endswith(f"{report.END}\nafter\n")
    assert "old" not in written
    assert json.loads(numbers.read_text())["results"]["r"]["value"] == 1.5


def test_a_text_without_marks_is_not_written(tmp_path: Path) -> None:
    text = tmp_path / "performance.md"
    text.write_text("by hand")
    results = {"machine": report.machine(), "results": entries(1.5)}
    with pytest.raises(ValueError, match="has no"):
        report.write(results, ["r"], json_path=tmp_path / "performance.json", text_path=text)
    assert text.read_text() == "by hand"


def test_rows_are_kept_beside_new_ones_unless_they_come_from_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    path.write_text(json.dumps({"machine": {"cores": 2}, "results": {"old": 1}}))
    assert set(report.merge(path, {"new": 2}, {"cores": 2})["results"]) == {"old", "new"}
    assert set(report.merge(path, {"new": 2}, {"cores": 4})["results"]) == {"new"}


def points(*ys: float) -> list[growth.Point]:
    return [growth.Point(x=x, trades=1, cpu_s=y, peak_mb=1.0) for x, y in zip((1, 2, 5, 10), ys, strict=True)]


def test_growth_on_a_line_has_no_residual_and_a_knee_shows() -> None:
    assert growth.worst_residual(points(1.5, 2.5, 5.5, 10.5)) == pytest.approx(0)
    assert growth.line_through(points(1.5, 2.5, 5.5, 10.5)) == pytest.approx((0.5, 1.0))
    assert growth.worst_residual(points(1.5, 2.5, 5.5, 30.0)) > 0.2


def test_the_plot_shows_every_point() -> None:
    drawn = growth.svg({"trades": points(1, 2, 5, 10), "roots": points(3, 3, 4, 4)})
    root = ET.fromstring(drawn)
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 8


# ---------------------------------------------------------------- the command


def test_the_runner_measures_a_row_from_end_to_end() -> None:
    ended = subprocess.run(
        [sys.executable, str(CHECKOUT / "tests" / "bench" / "run.py"), "--quick", "--only", "help", "--pairs", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr  # whether the budget is met is not this test's business
    assert "`--help`, CPU of the whole process" in ended.stderr


def test_without_its_environment_the_peer_is_skipped_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_rows, "PEER_PYTHON", Path("/nowhere/python"))
    assert "make bench-peer" in (replay_rows.peer_missing() or "")


def test_growth_covers_trades_and_roots() -> None:
    full = growth.days(Scale(trades=5_000_000, roots=12))
    assert [(trades, roots) for panel, _, trades, roots in full if panel == "trades"] == [
        (1_000_000, 12),
        (2_000_000, 12),
        (5_000_000, 12),
        (10_000_000, 12),
    ]
    assert [roots for panel, _, trades, roots in full if panel == "roots"] == [1, 6, 12, 18]
