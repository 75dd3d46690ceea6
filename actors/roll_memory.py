"""What a session file tells the next one about rolls: volumes, common minutes, and what is due.

A fold of the file, like `FeedMemory`: the roll's machine looks at its result once, at the next open.
"""

from __future__ import annotations

from domain.bars import Bar
from domain.envelope import Envelope
from domain.events import RollDue, SessionOpened, SliceClosed, StateCarried
from domain.rolls import ContractVolume, RollSeam
from domain.units import Price


class RollMemory:
    """Of one file; an earlier segment of the same session is gone on from."""

    def __init__(self) -> None:
        self._session = ""
        self._pairs: dict[str, tuple[str | None, str | None]] = {}
        """Front and next contract by root."""
        self._volumes: dict[str, int] = {}
        self._seams: dict[str, RollSeam] = {}
        self._due: list[RollDue] = []

    def fold(self, envelope: Envelope) -> None:
        """Take in one event."""
        match envelope.payload:
            case SessionOpened(session=session, contracts=contracts):
                self._session = session.date.isoformat()
                ranked = {(c.root, c.rank): c.raw_symbol for c in contracts}
                self._pairs = {c.root: (c.raw_symbol, ranked.get((c.root, 1))) for c in contracts if c.rank == 0}
            case StateCarried() as carried:
                if carried.previous_session == self._session:
                    self._volumes = {item.contract: item.volume for item in carried.volumes}
                # An older common minute is better than none, as long as it is of these two.
                self._seams = {
                    seam.root: seam
                    for seam in carried.seams
                    if self._pairs.get(seam.root) == (seam.from_contract, seam.to_contract)
                }
            case RollDue() as due:
                self._due.append(due)
            case SliceClosed(minutes=minutes):
                self._add(minutes)
            case _:
                pass

    def _add(self, minutes: tuple[Bar, ...]) -> None:
        bars = {bar.contract: bar for bar in minutes}
        for root, (front, following) in self._pairs.items():
            old, new = (None if name is None else bars.get(name) for name in (front, following))
            for bar in (old, new):
                if bar is not None:
                    self._volumes[bar.contract] = self._volumes.get(bar.contract, 0) + bar.volume
            if old is not None and new is not None:
                self._seams[root] = RollSeam(
                    root=root,
                    from_contract=old.contract,
                    to_contract=new.contract,
                    ts=old.ts_end,
                    difference=Price(new.close - old.close),
                )

    @property
    def rolls(self) -> tuple[RollDue, ...]:
        """What was due in this session, in the order of the record."""
        return tuple(self._due)

    @property
    def volumes(self) -> tuple[ContractVolume, ...]:
        """Of the session so far, by contract."""
        return tuple(ContractVolume(contract=name, volume=self._volumes[name]) for name in sorted(self._volumes))

    @property
    def seams(self) -> tuple[RollSeam, ...]:
        """The last common minute of each root's two contracts."""
        return tuple(self._seams[root] for root in sorted(self._seams))
