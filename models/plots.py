"""Plots as inline SVG, for a page that needs nothing else: lines in axes, and bars by name.

Colours come from the page's CSS variables. Every number is written with fixed digits: the same data
give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import attrs
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 40
_ROW = 20


@attrs.frozen(kw_only=True, eq=False)
class Line:
    """A named line through points; `colour` is a CSS variable's name."""

    name: str
    x: Sequence[float] | Floats
    y: Sequence[float] | Floats
    colour: str
    is_dashed: bool = False
    has_dots: bool = False


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_mark: float | None = None,
) -> str:
    """Lines over common axes, with a legend. `x_mark`: a vertical line, as at a chosen threshold."""
    x_low, x_high = _range([line.x for line in lines], [] if x_mark is None else [x_mark])
    y_low, y_high = _range([line.y for line in lines], [])
    across = (WIDTH - _LEFT - _RIGHT) / (x_high - x_low)
    up = (HEIGHT - _TOP - _BOTTOM) / (y_high - y_low)

    def x_of(value: float) -> float:
        return _LEFT + (value - x_low) * across

    def y_of(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y_low) * up

    parts = []
    for value in _ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{_LEFT} {y_of(value):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, y_of(value) + 4, _short(value), "end"))
    for value, name in x_ticks if x_ticks is not None else [(tick, _short(tick)) for tick in _ticks(x_low, x_high)]:
        x = x_of(value)
        anchor = "end" if x + 4 * len(name) > WIDTH else "middle"
        parts.append(_text(x, HEIGHT - _BOTTOM + 16, name, anchor))
    parts.append(_text((WIDTH + _LEFT) / 2, HEIGHT - 6, x_label, "middle"))
    parts.append(
        f'<text transform="translate(12 {(HEIGHT - _BOTTOM) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    if x_mark is not None:
        parts.append(f'<path class="mark" d="M{x_of(x_mark):.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
    for line in lines:
        points = [f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        if points:
            parts.append(f'<path class="line" style="stroke:var(--{line.colour})"{dashes} d="M{"L".join(points)}"/>')
        if line.has_dots:
            for point in points:
                across_at, up_at = point.split()
                parts.append(f'<circle cx="{across_at}" cy="{up_at}" r="3" style="fill:var(--{line.colour})"/>')
    legend = "".join(
        f'<span><i style="border-top:3px {"dashed" if line.is_dashed else "solid"} var(--{line.colour})"></i>'
        f"{escape(line.name)}</span>"
        for line in lines
        if line.name
    )
    return _figure(title, HEIGHT, "".join(parts), legend)


def bars(values: Sequence[tuple[str, float]], *, title: str, unit: str) -> str:
    """Horizontal bars by name, from 0, in the order given."""
    longest = max((value for _, value in values), default=0.0) or 1.0
    left = 210
    parts = []
    for number, (name, value) in enumerate(values):
        y = _TOP + number * _ROW
        width = value / longest * (WIDTH - left - 60)
        parts.append(_text(left - 6, y + 12, name, "end"))
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="{_ROW - 6}" style="fill:var(--one)"/>')
        parts.append(_text(left + width + 5, y + 12, f"{value:.3f}", "start"))
    return _figure(title, _TOP + len(values) * _ROW + 8, "".join(parts), f"<span>{escape(unit)}</span>")


def _figure(title: str, height: int, drawn: str, legend: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{drawn}</svg><div class="legend">{legend}</div></figure>'
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _range(series: Sequence[Sequence[float] | Floats], more: Sequence[float]) -> tuple[float, float]:
    values = [float(value) for each in series for value in each] + list(more)
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers in [low, high]."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
