"""How replay grows: CPU over trades at 12 roots, and over roots at a million trades. Linear, or there is a knee.

The plot is written as SVG by hand: two panels, a line through each and the points themselves.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.bench.pairs import Scale
from tests.bench.replay_rows import run_process

MILLION = 1_000_000
TRADES = (1, 2, 5, 10)
ROOTS = (1, 6, 12, 18)
RUNS = 3
WIDTH, HEIGHT, MARGIN = 380, 260, 48


@attrs.frozen(kw_only=True)
class Point:
    """One replayed day."""

    x: float
    trades: int
    cpu_s: float
    peak_mb: float


def days(scale: Scale) -> list[tuple[str, float, int, int]]:
    """(panel, x, trades, roots) of every day that is replayed."""
    unit = MILLION * scale.trades // (5 * MILLION)
    over_trades = [("trades", float(x), x * unit, 12) for x in TRADES]
    return over_trades + [("roots", float(x), unit, x) for x in ROOTS]


def prepare_growth(scale: Scale) -> dict[str, Any]:
    """Record them."""
    from tests.bench.day import Day
    from tests.bench.replay_rows import bars_on_record

    found = []
    for panel, x, trades, roots in days(scale):
        journal = Day(trades=trades, roots=roots).ensure(lambda text: print(text, file=sys.stderr, flush=True)).journal
        found.append({"panel": panel, "x": x, "journal": str(journal), "trades": bars_on_record(journal)["trades"]})
    return {"days": found}


def measure_growth(facts: dict[str, Any], *, runs: int = RUNS) -> dict[str, list[Point]]:
    """The median CPU of replaying each."""
    points: dict[str, list[Point]] = {"trades": [], "roots": []}
    for day in facts["days"]:
        ended = [
            run_process([sys.executable, "-m", "actors.main", "replay", day["journal"], "--json"]) for _ in range(runs)
        ]
        assert all(json.loads(one.out)["identical"] for one in ended), day
        points[day["panel"]].append(
            Point(
                x=day["x"] if day["panel"] == "roots" else day["trades"] / MILLION,
                trades=day["trades"],
                cpu_s=statistics.median(one.cpu_s for one in ended),
                peak_mb=max(one.peak_mb for one in ended),
            )
        )
    return points


def line_through(points: Sequence[Point]) -> tuple[float, float]:
    """(intercept, slope) of the least squares line."""
    xs, ys = [point.x for point in points], [point.cpu_s for point in points]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
    return mean_y - slope * mean_x, slope


def worst_residual(points: Sequence[Point]) -> float:
    """The largest distance of a point from the line, as a share of the point: a knee shows here."""
    intercept, slope = line_through(points)
    return max(abs(point.cpu_s - intercept - slope * point.x) / point.cpu_s for point in points)


def svg(growth: dict[str, list[Point]]) -> str:
    """Both panels side by side."""
    titles = {"trades": "million trades, 12 roots", "roots": "roots, one million trades"}
    panels = [
        _panel(growth[name], title, offset=number * (WIDTH + MARGIN))
        for number, (name, title) in enumerate(titles.items())
    ]
    width, height = 2 * (WIDTH + MARGIN) + MARGIN, HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="{width}" height="{height}" fill="white"/>\n{"".join(panels)}</svg>\n'
    )


def _panel(points: Sequence[Point], title: str, *, offset: int) -> str:
    top_x, top_y = max(p.x for p in points) * 1.1, max(p.cpu_s for p in points) * 1.15
    intercept, slope = line_through(points)

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN + offset + x / top_x * WIDTH, MARGIN + HEIGHT - y / top_y * HEIGHT

    (x0, y0), (x1, y1) = at(0, 0), at(top_x, top_y)
    fx0, fy0 = at(0, max(0.0, intercept))
    fx1, fy1 = at(top_x, min(top_y, intercept + slope * top_x))
    parts = [
        f'<text x="{(x0 + x1) / 2:.0f}" y="{y0 + 36:.0f}" text-anchor="middle">{title}</text>',
        f'<text x="{x0:.0f}" y="{y1 - 10:.0f}">replay, CPU seconds</text>',
        f'<path d="M{x0:.0f},{y1:.0f}V{y0:.0f}H{x1:.0f}" fill="none" stroke="black"/>',
        f'<path d="M{fx0:.1f},{fy0:.1f}L{fx1:.1f},{fy1:.1f}" stroke="#999" stroke-dasharray="5 4"/>',
    ]
    for point in points:
        px, py = at(point.x, point.cpu_s)
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="#1f5fa8"/>',
            f'<text x="{px:.1f}" y="{py - 9:.1f}" text-anchor="middle">{point.cpu_s:.2f}</text>',
            f'<text x="{px:.1f}" y="{y0 + 16:.0f}" text-anchor="middle">{point.x:.3g}</text>',
        ]
    return "".join(f"{part}\n" for part in parts)


def written(growth: dict[str, list[Point]]) -> dict[str, Any]:
    """As JSON values."""
    return {
        name: {
            "points": [attrs.asdict(point) for point in points],
            "intercept_s": line_through(points)[0],
            "slope_s": line_through(points)[1],
            "worst_residual": worst_residual(points),
        }
        for name, points in growth.items()
    }


def write_svg(growth: dict[str, list[Point]], path: Path) -> None:
    """The plot of the docs."""
    path.write_text(svg(growth))
