"""Faults that the local TradersPost plays on request: which one, and for which request.

`SPEC` is a comma list of FAULT@TARGET: `hang@3,500-after-accept@5-9,delay:0.5@MES,429@exit*2`.
TARGET is the N-th webhook request (from 1) or a span N-M of them, `all`, an order product,
`entry` or `exit`; `*N` leaves it at the first N attempts of a signal. `random:RATE:SEED`
plays one of RANDOM_KINDS (or of those named: `random:0.2:7:hang+429`) on that share of all requests.
"""

from __future__ import annotations

import random
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
    "down",
    "no-trade",
    "broker-reject",
    "duplicate",
]
"""What happens. After "accept" the signal is in the ledger and executed, only the answer is wrong or missing;
`hang` and `delay` accept too, and `html-200`, `truncated-200`. `no-trade`, `broker-reject` and `duplicate` are
answered as if all was well: never executed, refused by the broker, executed twice. `down` is `rst-before-read`,
with SECONDS for every request that comes within them of real time. The others leave no trace of the signal."""

BEFORE_READ = ("rst-before-read", "down")
"""Known by the request's number only: a request that is not read has no root and no intent."""
RANDOM_KINDS: tuple[FaultKind, ...] = (
    "429",
    "500-before-accept",
    "500-after-accept",
    "rst-before-read",
    "rst-after-accept",
    "fin-after-accept",
    "html-200",
    "truncated-200",
)
"""What `random` plays unless told otherwise: quick, and the signal is either taken and executed or not taken."""

LONGEST_DELAY_S = 600.0
_ITEM = re.compile(
    r"(?P<kind>[a-z0-9-]+?)(?::(?P<seconds>\d{1,4}(?:\.\d{1,3})?))?"
    r"@(?:(?P<first>[1-9]\d{0,8})(?:-(?P<last>[1-9]\d{0,8}))?|(?P<name>all)"
    r"|(?P<target>entry|exit|(?=\d*[A-Z])[A-Z0-9]{1,6})(?:\*(?P<attempts>[1-9]\d{0,3}))?)"
)
_RANDOM = re.compile(r"random:(?P<rate>[01](?:\.\d{1,6})?):(?P<seed>\d{1,9})(?::(?P<kinds>[a-z0-9+-]+))?")


@attrs.frozen(kw_only=True)
class Fault:
    """`kind` for the requests numbered `ordinals` (both ends included), or for those of `root` or `intent`.

    `attempts` limits it to the first so many of each signal; `seconds` is a delay, a Retry-After or a time down.
    """

    kind: FaultKind
    ordinals: tuple[int, int | None] | None = None
    root: str | None = None
    intent: str | None = None
    attempts: int | None = None
    seconds: float | None = None


@attrs.frozen(kw_only=True)
class RandomFaults:
    """One of `kinds` on a share `rate` of all requests; a function of the seed and the request's number."""

    rate: float
    seed: int
    kinds: tuple[FaultKind, ...]

    def of_request(self, ordinal: int) -> Fault | None:
        """The fault of the `ordinal`-th request."""
        draw = random.Random(f"{self.seed}:{ordinal}")
        return Fault(kind=draw.choice(self.kinds)) if draw.random() < self.rate else None


@attrs.frozen
class FaultPlan:
    """The faults of one server, in the order given; the first that matches is played."""

    faults: tuple[Fault, ...] = ()
    randoms: tuple[RandomFaults, ...] = ()

    def of_request(self, ordinal: int) -> Fault | None:
        """The fault of the `ordinal`-th webhook request, whatever it says."""
        for fault in self.faults:
            if fault.ordinals is not None:
                first, last = fault.ordinals
                if first <= ordinal and (last is None or ordinal <= last):
                    return fault
        drawn = (plan.of_request(ordinal) for plan in self.randoms)
        return next((fault for fault in drawn if fault is not None), None)

    def of_signal(self, root: str, intent: str, attempt: int) -> Fault | None:
        """The fault of a signal's `attempt`-th request."""
        return next(
            (
                fault
                for fault in self.faults
                if fault.ordinals is None
                and (fault.root in (None, root) and fault.intent in (None, intent))
                and (fault.attempts is None or attempt <= fault.attempts)
            ),
            None,
        )


def parse_faults(spec: str) -> FaultPlan:
    """The plan in `spec` ("" is none). Raises OperatorError for anything it does not understand."""
    items = [item.strip() for item in spec.split(",")] if spec.strip() else []
    return FaultPlan(
        tuple(_parse_item(item) for item in items if not item.startswith("random:")),
        tuple(_parse_random(item) for item in items if item.startswith("random:")),
    )


def _parse_item(item: str) -> Fault:
    match = _ITEM.fullmatch(item)
    kind = match and _kind(match["kind"])
    if match is None or kind is None:
        kinds = ", ".join(get_args(FaultKind))
        raise _refused(item, f"write FAULT@N, @N-M, @all, @ROOT, @entry or @exit with a FAULT of: {kinds}")
    seconds = float(match["seconds"]) if match["seconds"] else None
    if kind == "delay" and seconds is None:
        raise _refused(item, "write delay:SECONDS@N")
    if seconds is not None and (kind not in ("delay", "429", "down") or seconds > LONGEST_DELAY_S):
        raise _refused(item, f"only delay, 429 and down take seconds, {LONGEST_DELAY_S:.0f} at most")
    target = match["target"]
    if target is None:
        first = int(match["first"] or 1)
        last = int(match["last"] or first) if match["first"] else None
        if last is not None and last < first:
            raise _refused(item, "the first request of a span comes first")
        return Fault(kind=kind, ordinals=(first, last), seconds=seconds)
    if kind in BEFORE_READ:
        raise _refused(item, f"a request that is not read has no root and no intent: write {kind}@N or @all")
    is_intent = target in ("entry", "exit")
    return Fault(
        kind=kind,
        root=None if is_intent else target,
        intent=target if is_intent else None,
        attempts=int(match["attempts"]) if match["attempts"] else None,
        seconds=seconds,
    )


def _parse_random(item: str) -> RandomFaults:
    match = _RANDOM.fullmatch(item)
    rate = float(match["rate"]) if match else 2.0
    if match is None or rate > 1:
        raise _refused(item, "write random:RATE:SEED with a RATE from 0 to 1, or random:RATE:SEED:FAULT+FAULT")
    named = match["kinds"].split("+") if match["kinds"] else []
    kinds = tuple(kind for kind in map(_kind, named) if kind is not None)
    if len(kinds) < len(named) or "delay" in kinds:
        raise _refused(item, f"faults, of which delay cannot be drawn, are: {', '.join(get_args(FaultKind))}")
    return RandomFaults(rate=rate, seed=int(match["seed"]), kinds=kinds or RANDOM_KINDS)


def _kind(text: str) -> FaultKind | None:
    return next((kind for kind in get_args(FaultKind) if kind == text), None)


def _refused(item: str, fix: str) -> OperatorError:
    return OperatorError(f"{item!r} is not a fault", where="--faults", fix=fix, exit_code=2)
