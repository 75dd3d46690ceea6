"""Deliberate trouble: crashes at chosen places and random pauses, for trials and tests.

`--crash ACTOR@SEQ` makes an actor raise once at its first envelope with seq >= SEQ. The
product runs the same code with no fault planned, where every call here does nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from domain.errors import OperatorError

Site = Literal["before", "handled", "published", "catch_up", "wedge"]
"""Before handling an envelope, after handling it, after handing in its outputs, inside a catch-up; or it hangs before
handling it, for ever."""
ACTORS = ("feed", "bars", "strategy", "execution", "roll")


class InjectedCrash(Exception):
    """A crash that was asked for."""


@attrs.frozen
class Crash:
    """One planned crash."""

    actor: str
    seq: int
    site: Site = "before"


def parse_crash(text: str) -> Crash:
    """`strategy@120` or `strategy@120:handled`. Raises OperatorError (exit 2) for anything else."""
    actor, _, place = text.partition("@")
    seq, _, site = place.partition(":")
    if actor not in ACTORS or not seq.isdecimal() or (site and site not in get_args(Site)):
        raise OperatorError(
            f"{text!r} is no planned crash",
            where="--crash",
            fix=f"write ACTOR@SEQ with ACTOR one of {', '.join(ACTORS)}",
            exit_code=2,
        )
    return Crash(actor, int(seq), site or "before")  # type: ignore[arg-type]  # checked above


class Faults:
    """The planned crashes, each once, and a pause of 0 to `jitter_s` wherever `pause` is called."""

    def __init__(self, crashes: Sequence[Crash] = (), *, jitter_s: float = 0.0) -> None:
        self._planned = list(crashes)
        self._jitter_s = jitter_s
        self._lock = threading.Lock()

    def reach(self, actor: str, seq: int, site: Site) -> None:
        """Raise InjectedCrash, or hang, when that is planned for here. It happens once."""
        if not self._planned:
            return
        with self._lock:
            sites = (site, "wedge") if site == "before" else (site,)
            due = (c for c in self._planned if c.actor == actor and c.site in sites and seq >= c.seq)
            crash = next(due, None)
            if crash is None:
                return
            self._planned.remove(crash)
        if crash.site == "wedge":
            threading.Event().wait()
        raise InjectedCrash(f"planned crash of {actor} at {seq} ({site})")

    @property
    def left(self) -> tuple[Crash, ...]:
        """Planned crashes that have not happened."""
        return tuple(self._planned)

    def pause_s(self) -> float:
        """The length of the next pause: random, 0 when none are planned."""
        return random.uniform(0.0, self._jitter_s) if self._jitter_s else 0.0

    def pause(self) -> None:
        """Sleep at random: whatever depends on timing shows itself."""
        if pause_s := self.pause_s():
            time.sleep(pause_s)
