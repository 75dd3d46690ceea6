"""Faults that the local TradersPost plays on request: which one, and for which request.

`SPEC` is a comma list of FAULT@TARGET: `hang@3,500-after-accept@5,delay:0.5@MES`.
TARGET is the N-th webhook request (from 1) or an order product.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

import attrs

from domain.errors import OperatorError

FaultKind = Literal[
    "hang",
    "delay",
    "429",
    "500-before-accept",
    "500-after-accept",
    "rst-before-read",
    "rst-after-accept",
    "fin-after-accept",
    "redirect",
    "html-200",
    "truncated-200",
]
"""What happens. After "accept" the signal is in the ledger and executed, only the answer is wrong or missing;
`hang` and `delay` accept too, and `html-200`, `truncated-200`. The others leave no trace of the signal."""

LONGEST_DELAY_S = 600.0
_ITEM = re.compile(r"([a-z0-9-]+?)(?::(\d{1,4}(?:\.\d{1,3})?))?@([A-Z0-9]{1,6})")


@attrs.frozen(kw_only=True)
class Fault:
    """`kind` for the `ordinal`-th request or for every request of `root`; `seconds` of a delay or Retry-After."""

    kind: FaultKind
    ordinal: int | None = None
    root: str | None = None
    seconds: float | None = None


@attrs.frozen
class FaultPlan:
    """The faults of one server, in the order given; the first that matches is played."""

    faults: tuple[Fault, ...] = ()

    def of_ordinal(self, ordinal: int) -> Fault | None:
        """The fault of the `ordinal`-th webhook request."""
        return next((fault for fault in self.faults if fault.ordinal == ordinal), None)

    def of_root(self, root: str) -> Fault | None:
        """The fault of every request for `root`."""
        return next((fault for fault in self.faults if fault.root == root), None)


def parse_faults(spec: str) -> FaultPlan:
    """The plan in `spec` ("" is none). Raises OperatorError for anything it does not understand."""
    return FaultPlan(tuple(_parse_item(item.strip()) for item in spec.split(",")) if spec.strip() else ())


def _parse_item(item: str) -> Fault:
    match = _ITEM.fullmatch(item)
    kind = next((kind for kind in get_args(FaultKind) if match and kind == match[1]), None)
    if match is None or kind is None:
        raise _refused(item, f"write FAULT@N or FAULT@ROOT with a FAULT of: {', '.join(get_args(FaultKind))}")
    seconds = float(match[2]) if match[2] else None
    if kind == "delay" and seconds is None:
        raise _refused(item, "write delay:SECONDS@N")
    if seconds is not None and (kind not in ("delay", "429") or seconds > LONGEST_DELAY_S):
        raise _refused(item, f"only delay and 429 take seconds, {LONGEST_DELAY_S:.0f} at most")
    if match[3].isdecimal():
        if int(match[3]) == 0:
            raise _refused(item, "requests are counted from 1")
        return Fault(kind=kind, ordinal=int(match[3]), seconds=seconds)
    if kind == "rst-before-read":
        raise _refused(item, "a request that is not read has no root: write rst-before-read@N")
    return Fault(kind=kind, root=match[3], seconds=seconds)


def _refused(item: str, fix: str) -> OperatorError:
    return OperatorError(f"{item!r} is not a fault", where="--faults", fix=fix, exit_code=2)
