"""The truncation law, as a gate before training: what a decision was made of must not change with the future.

Everything is computed anew from data that end at a decision bar. Each vector up to that bar has to come out bit
for bit as it did from all data; where one does not, a feature (or the bars it reads: a roll's difference taken too
early, a volume of the whole day) knows what came later, and nothing may be learned from it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from domain.errors import OperatorError
from domain.sessions import iso_utc
from domain.units import Nanos

LEAK = 1
"""Exit code: the training is refused, as for a model that is no better than none."""

Asked = Mapping[int, Sequence[float]]
"""By the end of a decision bar: the vector that the veto was asked."""


def refuse_lookahead(
    root: str,
    features: Sequence[str],
    asked: Asked,
    until: Mapping[int, Asked],
) -> None:
    """Raises OperatorError (exit 1) naming the first feature that changes when the data end earlier.

    `asked`: from all data. `until`: by the moment at which the data ended, the same computation on those.
    """
    for cut, again in until.items():
        known = {ts: vector for ts, vector in asked.items() if ts <= cut}
        for ts in sorted(known.keys() | again.keys()):
            if ts not in again or ts not in known:
                which = "without" if ts in again else "with"
                raise _leak(root, f"a decision at {_time(ts)} is there only {which} the bars after {_time(cut)}")
            for name, value, then in zip(features, known[ts], again[ts], strict=True):
                if _bits(value) != _bits(then):
                    what = f"{value!r} at {_time(ts)} with all data, {then!r} with the data until {_time(cut)}"
                    raise _leak(root, f"feature {name!r} knows the future: {what}")


def spread(decided: Sequence[int], count: int) -> tuple[int, ...]:
    """At most `count` of the decisions, each in the middle of an equal part of them: where to cut."""
    places = {len(decided) * (2 * number + 1) // (2 * count) for number in range(count)}
    return tuple(decided[place] for place in sorted(places) if place < len(decided))


def _leak(root: str, what: str) -> OperatorError:
    fix = "compute it from completed bars alone; nothing was trained (docs/training.md, Honesty)"
    return OperatorError(what, where=root, fix=fix, exit_code=LEAK)


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


def _time(ts: int) -> str:
    return iso_utc(Nanos(ts))
