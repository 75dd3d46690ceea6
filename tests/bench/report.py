"""What was measured, as JSON and as the tables of docs/performance.md, between markers: the rest is written by hand."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench.pairs import SPREAD_LIMIT, Benchmark, Measured, Row, Side

LIBRARIES = ("aiohttp", "attrs", "backtrader", "databento", "numpy", "orjson", "pykka", "scikit-learn", "zstandard")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def machine() -> dict[str, Any]:
    """What the numbers were taken on; nothing that names the machine."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cores": len(_lines("/proc/cpuinfo", "processor")),
        "cpu": model,
        "memory_gb": round(memory / 1024**2),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def _lines(path: str, start: str = "") -> list[str]:
    file = Path(path)
    return [line for line in file.read_text().splitlines() if line.startswith(start)] if file.is_file() else []


def entries(benchmark: Benchmark, measured: Measured, load: float) -> dict[str, Any]:
    """The rows of one benchmark, by name. `load`: processes that wanted a core when it began, beside ours."""
    return {row.name: _entry(benchmark, row, measured, load) for row in benchmark.rows}


def _entry(benchmark: Benchmark, row: Row, measured: Measured, load: float) -> dict[str, Any]:
    value = measured.value(row)
    return {
        "title": row.title,
        "value": value,
        "unit": row.unit,
        "is_more_better": row.is_more_better,
        "required": row.required,
        "goal": row.goal,
        "meets_required": row.meets(value, row.required),
        "meets_goal": row.meets(value, row.goal),
        "work": _side(measured, "work"),
        "reference": _side(measured, "reference"),
        "pairs": [[_run(one) for one in pair] for pair in measured.pairs],
        "spread": measured.spread,
        "is_calm": measured.spread <= SPREAD_LIMIT or not row.is_timed,
        "attempts": measured.attempts,
        "load": load,
        "note": benchmark.note,
    }


def _run(side: Side) -> dict[str, Any]:
    return {"cpu_s": side.cpu_s, "wall_s": side.wall_s, "peak_mb": side.peak_mb, "figures": dict(side.figures)}


def _side(measured: Measured, role: Any) -> dict[str, Any]:
    first: Side = measured.pairs[0][0 if role == "work" else 1]
    of = measured.median
    found: dict[str, Any] = {"cpu_s": of(role, lambda s: s.cpu_s), "wall_s": of(role, lambda s: s.wall_s)}
    if first.peak_mb is not None:
        found["peak_mb"] = of(role, lambda s: s.peak_mb or 0.0)
    found |= {name: of(role, lambda s, name=name: s.figures[name]) for name in first.figures}  # type: ignore[misc]
    return found


def merge(path: Path, found: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The file's results with `found` in place of what it replaces; those of another machine are dropped."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    kept = known.get("results", {}) if known.get("machine") == here else {}
    return {"machine": dict(here), "results": {**kept, **found}}


def tables(results: Mapping[str, Any], order: Sequence[str]) -> str:
    """Markdown: the machine, the budgets, what both sides took, the growth."""
    here, rows = results["machine"], results["results"]
    libraries = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    known = [rows[name] for name in order if name in rows]
    lines = [
        f"{here['cores']} cores of {here['cpu']}, {here['memory_gb']} GB, {here['system']}, Python {here['python']};",
        f"{libraries}.",
        "",
        "| work | measured | required | goal | |",
        "|---|---|---|---|---|",
        *(budget_line(row) for row in known),
        "",
        "What both sides took (medians), and how calm the run was:",
        "",
        "| work | ours: CPU, wall | reference: CPU, wall | more | pairs | A-to-A spread | load beside |",
        "|---|---|---|---|---|---|---|",
        *(sides_line(row) for row in known),
    ]
    if "growth" in rows:
        lines += ["", *_growth_lines(rows["growth"])]
    return "\n".join(lines)


def budget_line(row: Mapping[str, Any]) -> str:
    """A row of the first table."""
    sign = "≥" if row["is_more_better"] else "≤"
    verdict = "goal met" if row["meets_goal"] else "required met" if row["meets_required"] else "**missed**"
    limits = (f"{sign} {_number(row[name])} {row['unit']}" for name in ("required", "goal"))
    calm = "" if row["is_calm"] else " (noisy)"
    return f"| {row['title']} | {_number(row['value'])} {row['unit']} | {' | '.join(limits)} | {verdict}{calm} |"


def sides_line(row: Mapping[str, Any]) -> str:
    """A row of the second table."""
    sides = (f"{_seconds(row[name]['cpu_s'])}, {_seconds(row[name]['wall_s'])}" for name in ("work", "reference"))
    notes = [row["note"], _more("ours", row["work"]), _more("reference", row["reference"])]
    cells = [
        row["title"].partition(" against ")[0].rstrip(","),
        *sides,
        "; ".join(filter(None, notes)),
        f"{len(row['pairs'])}",
        f"{row['spread']:.0%}",
        f"{row['load']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _more(label: str, side: Mapping[str, Any]) -> str:
    named = [f"{name.replace('_', ' ')} {_number(side[name])}" for name in side if name not in ("cpu_s", "wall_s")]
    return f"{label}: {', '.join(named)}" if named else ""


def _growth_lines(growth: Mapping[str, Any]) -> list[str]:
    lines = ["![Replay CPU over trades and over roots](performance-growth.svg)"]
    for name, panel in ((name, growth[name]) for name in ("trades", "roots")):
        unit = "million trades" if name == "trades" else "root"
        peaks = [point["peak_mb"] for point in panel["points"]]
        lines += [
            "",
            f"Over {name}: {panel['intercept_s']:.2f} s and {panel['slope_s']:.3f} s per {unit}; no point is further "
            f"than {panel['worst_residual']:.0%} from the line. Peak memory {min(peaks):.0f} to {max(peaks):.0f} MB.",
        ]
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    if value >= 0.1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def write(results: Mapping[str, Any], order: Sequence[str], *, json_path: Path, text_path: Path) -> None:
    """Both files. Raises ValueError when the text has no place for the tables."""
    json_path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    text = text_path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{text_path.name} has no {BEGIN} … {END}")
    text_path.write_text(f"{before}{BEGIN}\n{tables(results, order)}\n{END}{after}")
