"""What a simulated process runs in: disk, network, market, inputs and time, and what is to go wrong.

All of it is played and outlives processes; `actors.simulation` has the process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from actors.faults import Faults
from actors.machines import MachineParts
from domain.envelope import Envelope
from domain.errors import JournalWriteFailed
from domain.events import Event, SessionOpened
from domain.ports import Codec, FeedSource, JournalFile, JournalWriter, Webhook
from domain.units import Nanos


class ProcessDied(BaseException):
    """The process is no more. No handler of errors on the way may swallow it."""


class ScenarioBroken(BaseException):
    """A violation after which the scenario cannot go on."""


class Disk(JournalWriter, Protocol):
    """A writer without a thread."""

    failure: JournalWriteFailed | None

    @property
    def has_work(self) -> bool: ...
    @property
    def durable_seq(self) -> int: ...
    def commit(self) -> None: ...
    def fail(self) -> None: ...


class Market(FeedSource, Protocol):
    """A feed that says when it has more."""

    def next_ns(self) -> Nanos: ...


class Place(Protocol):
    """A process, as what it sends through sees it."""

    @property
    def now(self) -> Nanos: ...
    async def pass_time(self, seconds: float) -> None: ...
    def reach(self) -> None: ...


@attrs.frozen(kw_only=True)
class Input:
    """An operator's command or a supervisor's word, at a moment of the session."""

    ts: Nanos
    source: str
    event: Event


@attrs.frozen(kw_only=True)
class Deaths:
    """What ends processes and actors: `processes[n]` is the step at which the n-th process dies."""

    processes: tuple[int, ...] = ()
    failing_commit: int = 0
    """The commit that fails, counted over all processes; 0 for none."""


@attrs.define(kw_only=True)
class World:
    """What outlives a process: the disk's content, TradersPost, the market, time, and what was found wrong."""

    random: random.Random
    opened: SessionOpened
    opening: tuple[Event, ...]
    machine_parts: MachineParts
    codec: Codec
    open_journal: Callable[[Codec | None], JournalFile]
    make_disk: Callable[[Callable[[Sequence[Envelope]], None]], Disk]
    make_webhook: Callable[[Place], Webhook]
    market: Market
    inputs: tuple[Input, ...]
    faults: Faults
    deaths: Deaths
    now: Nanos
    violate: Callable[[str, str], None]
    processes: int = 0
    commits: int = 0

    @property
    def is_simulated(self) -> bool:
        """All time is the feed's."""
        return self.opened.clock == "feed"
