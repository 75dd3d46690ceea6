"""What a registry entry is: a function, the bars it reads, and all that describes its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from domain.bar_window import Along, Columns
from domain.bars import Timeframe

DESIGN = "the predecessor's definition"
GATES = "the predecessor's gate"
WILDER = f"{DESIGN}; Wilder 1978"

PAIR = "pair"
"""In place of a root: the one that the pair map gives to the root that decides."""
PAIR_REACH = 2
"""What is joined to W bars is looked for among twice as many of the other's: it may have traded in more hours."""

Band = tuple[float | None, float | None]
"""low <= value <= high; None is no bound."""
Formula = Callable[..., float | None]


@attrs.frozen(kw_only=True, cache_hash=True)
class BarInput:
    """The last W completed bars of one root.

    A second input of the same entry is joined to the first: one bar for each of its bars, as it
    stood at that bar's end (of days, the one of the same session).
    """

    root: str | None
    """None is the root that decides, PAIR its pair."""
    timeframe: Timeframe


@attrs.frozen(kw_only=True)
class PercentileInput:
    """The percentile of the deciding root's last bar in the population of a base."""

    base: str


@attrs.frozen(kw_only=True)
class PercentileBase:
    """What a percentile ranks: one value per completed bar of the root that decides, inserted once."""

    name: str
    function: Formula
    window: int
    inputs: tuple[BarInput, ...]
    unit: str
    timeframe: Timeframe = attrs.field(init=False)
    """Whose bars count: hours, or days."""
    is_own: bool = attrs.field(init=False)
    """Whether it reads nothing but the root that decides."""

    @timeframe.default
    def _first(self) -> Timeframe:
        return self.inputs[0].timeframe

    @is_own.default
    def _reads_own(self) -> bool:
        return all(source.root is None for source in self.inputs)


@attrs.frozen(kw_only=True)
class Feature:
    """One feature: its value is `function` of its inputs, in their order.

    A bar input arrives as `Columns` of `window` bars, a percentile as a float in (0, 1]
    (its window is then the longest of its bases).
    """

    name: str
    function: Formula
    window: int
    inputs: tuple[BarInput | PercentileInput, ...]
    unit: str
    source: str
    key: str
    """The family: features of one key differ in root, timeframe or form."""
    output: str
    """The quantity: features with the same output are aliases, equal in every vector."""
    form: Literal["value", "percentile", "product"]
    parameter: str
    """The lengths inside the formula, for people; empty without any."""
    label: str
    default_band: Band | None = None
    """What the gate of this name asks for unless the configuration says otherwise; None without a default."""

    @property
    def formula(self) -> str:
        """The formula in one line, as its function states it."""
        return (self.function.__doc__ or "").partition("\n")[0]


@attrs.frozen(kw_only=True)
class Requirement:
    """Completed bars without which some feature is missing; `root` None is the root that decides."""

    root: str | None
    timeframe: Timeframe
    bars: int


def entry(
    name: str,
    function: Along | Callable[[Columns], float | None] | Callable[[Columns, Columns], float | None],
    window: int,
    timeframe: Timeframe,
    unit: str,
    *,
    label: str,
    parameter: str = "",
    band: Band | None = None,
    root: str | None = None,
    joined: BarInput | None = None,
    source: str = DESIGN,
) -> Feature:
    """A feature of the form `value`: of the last `window` bars of `root`, and of `joined` with them."""
    inputs = (BarInput(root=root, timeframe=timeframe), *(() if joined is None else (joined,)))
    return Feature(
        name=name,
        function=function,
        window=window,
        inputs=inputs,
        unit=unit,
        source=source,
        key=function.__name__,
        output=f"{(root or 'own').lower()}.{timeframe}.{function.__name__}.{window}",
        form="value",
        parameter=parameter,
        label=label,
        default_band=band,
    )
