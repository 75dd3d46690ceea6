"""The benchmarks: `python tests/bench/run.py [--only NAME …] [--quick]`.

Every side of every pair is a fresh process of this file with one thread for numerics. The results go
to docs/performance.json and into docs/performance.md; rows that were not asked for stay as they are.
--quick takes a small day and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests" / "system")]

import attrs  # noqa: E402

from tests.bench import growth, report  # noqa: E402
from tests.bench.backtest_rows import BACKTEST  # noqa: E402
from tests.bench.decision_rows import DECISION  # noqa: E402
from tests.bench.engine_rows import FOREST, STEP  # noqa: E402
from tests.bench.journal_rows import JOURNAL  # noqa: E402
from tests.bench.latency_rows import LATENCY  # noqa: E402
from tests.bench.live_rows import HELP, INGEST, RECOVERY  # noqa: E402
from tests.bench.pairs import ATTEMPTS, FULL, QUICK, Benchmark, Role, Scale, Side, UnequalResultsError, measure  # noqa: E402
from tests.bench.replay_rows import INPUT, REPLAY  # noqa: E402

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (REPLAY, INPUT, FOREST, STEP, DECISION, BACKTEST, JOURNAL, INGEST, LATENCY, RECOVERY, HELP)
}
GROWTH = "growth"
ROW_ORDER = tuple(row.name for benchmark in BENCHMARKS.values() for row in benchmark.rows)
DOCS = CHECKOUT / "docs"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> int:
    """Measure what was asked for; 0 when every required budget is met, 1 when not, 2 when results differ."""
    options = _options()
    if options.child:
        return _child(*options.child)
    scale = QUICK if options.quick else FULL
    found: dict[str, Any] = {}
    exit_code = 0
    for name in options.only or [*BENCHMARKS, GROWTH]:
        _say(f"{name}:")
        if name == GROWTH:
            found[GROWTH] = _growth(scale, is_written=not options.quick)
            continue
        benchmark = BENCHMARKS[name]
        reason = benchmark.skip()
        if reason is not None:
            _say(f"  skipped: {reason}")
            continue
        load = os.getloadavg()[0]
        try:
            measured = _measured(benchmark, scale, options)
        except UnequalResultsError as error:
            _say(f"  RESULTS DIFFER, nothing is compared: {error}")
            exit_code = 2
            continue
        rows = report.entries(benchmark, measured, load)
        found |= rows
        for row in rows.values():
            _say(f"  {report.budget_line(row)}\n  {report.sides_line(row)}")
            exit_code = exit_code or int(not row["meets_required"])
        if not options.quick and not options.dry:
            _write(found)
    if found and not options.quick and not options.dry:
        _write(found)
    return exit_code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*BENCHMARKS, GROWTH], help="these, not all")
    parser.add_argument("--quick", action="store_true", help="a small day, two pairs, nothing is written")
    parser.add_argument("--dry", action="store_true", help="the full protocol, but nothing is written")
    parser.add_argument("--pairs", type=int, help="pairs of each run (default 5, or 2 with --quick)")
    parser.add_argument("--attempts", type=int, help="runs at most, while the A-to-A spread is over 10 %%")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(benchmark: Benchmark, scale: Scale, options: argparse.Namespace) -> Any:
    facts = _in_child(benchmark.name, "prepare", attrs.asdict(scale))

    def run(role: Role) -> Side:
        return Side(**_in_child(benchmark.name, role, facts))

    return measure(
        benchmark,
        run,
        pairs=options.pairs or (2 if options.quick else benchmark.pairs),
        attempts=options.attempts or (1 if options.quick else ATTEMPTS),
        say=_say,
    )


def _growth(scale: Scale, *, is_written: bool) -> dict[str, Any]:
    facts = _in_child(GROWTH, "prepare", attrs.asdict(scale))
    points = growth.measure_growth(facts)
    for name, panel in points.items():
        _say(f"  {name}: " + ", ".join(f"{point.x:.3g}: {point.cpu_s:.2f} s" for point in panel))
        _say(f"  no point is further than {growth.worst_residual(panel):.0%} from the line")
    if is_written:
        growth.write_svg(points, DOCS / "performance-growth.svg")
    return growth.written(points)


def _write(found: dict[str, Any]) -> None:
    results = report.merge(DOCS / "performance.json", found, report.machine())
    report.write(results, ROW_ORDER, json_path=DOCS / "performance.json", text_path=DOCS / "performance.md")


# ---------------------------------------------------------------- a side in a process of its own


def _in_child(name: str, role: str, argument: Any) -> dict[str, Any]:
    # The runner itself stays small: what a child starts inherits the child's peak memory, not ours.
    ended = subprocess.run(
        [sys.executable, __file__, "--child", name, role, json.dumps(argument)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(CHECKOUT)},
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{name}, {role}: exit code {ended.returncode}")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def _child(name: str, role: str, argument: str) -> int:
    if name == GROWTH:
        print(json.dumps(growth.prepare_growth(Scale(**json.loads(argument)))))
        return 0
    benchmark = BENCHMARKS[name]
    if role == "prepare":
        print(json.dumps(benchmark.prepare(Scale(**json.loads(argument)))))
        return 0
    side = (benchmark.work if role == "work" else benchmark.reference)(json.loads(argument))
    print(json.dumps(attrs.asdict(attrs.evolve(side, figures=dict(side.figures)))))
    return 0


def _say(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
