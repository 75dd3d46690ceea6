"""Failures that are no exception in a handler: an exit, a start that fails, a connection that fails to close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import attrs
import pytest
from in_this_process import envelopes
from journals import canonical, first_difference, not_decided_again
from test_crash_sweep import Run, quiet, run, undisturbed

from actors.faults import Crash, Faults
from actors.machines import MachineParts
from actors.wiring import MACHINE_PARTS
from domain.ports import FeedConnection, FeedSource, Mapped
from domain.units import Nanos

__all__ = ["quiet", "undisturbed"]

pytestmark = pytest.mark.system


class Exits(Faults):
    """Strategy and execution ask the whole process to exit, each once, in the midst of their work."""

    def __init__(self) -> None:
        super().__init__()
        self._left = {"strategy": 120, "execution": 150}

    def reach(self, actor: str, seq: int, site: Any) -> None:
        if site == "handled" and seq >= self._left.get(actor, seq + 1):
            del self._left[actor]
            raise SystemExit(3)


@attrs.frozen(kw_only=True)
class FailingStarts(MachineParts):
    """The first and the third strategy cannot be made."""

    made: list[int] = attrs.field(factory=list)

    def factories(self) -> dict[str, Callable[[], Any]]:
        factories = super().factories()
        make = factories["strategy"]

        def strategy() -> Any:
            self.made.append(1)
            if len(self.made) in (1, 3):
                raise OSError("no memory for another one")
            return make()

        return factories | {"strategy": strategy}


class FailsToClose:
    """The real source and its connections, the first of which fails when it is closed."""

    def __init__(self) -> None:
        self.failed = 0
        self._source: FeedSource | None = None
        self._connection: FeedConnection | None = None

    def over(self, source: FeedSource) -> FeedSource:
        self._source = source
        return self

    def resolve(self, symbols: Sequence[str]) -> tuple[dict[str, Mapped], Nanos]:
        assert self._source is not None
        return self._source.resolve(symbols)

    def connect(self, raw_symbols: Sequence[str], start_ns: Nanos | None) -> FeedConnection:
        assert self._source is not None
        self._connection = self._source.connect(raw_symbols, start_ns)
        return self

    def take(self, timeout_s: float) -> Any:
        assert self._connection is not None
        return self._connection.take(timeout_s)

    def close(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self.failed += 1
        if self.failed == 1:
            raise OSError("cannot be closed")


def crashes(one: Run) -> list[tuple[str, str]]:
    return [(e.payload.actor, e.payload.error) for e in envelopes(one.journal, "ActorCrashed")]


@pytest.mark.parametrize("what", ["an exit", "a start", "a stop"])
def test_nothing_is_lost_or_decided_otherwise(what: str, undisturbed: Run, replayer: Executor, tmp_path: Path) -> None:
    if what == "an exit":
        failed = run(tmp_path, Exits())
        said = [(actor, f"ActorExitError: {actor} asked the process to exit") for actor in ("strategy", "execution")]
    elif what == "a start":
        parts = FailingStarts(build_engine=MACHINE_PARTS.build_engine, build_payload=MACHINE_PARTS.build_payload)
        failed = run(tmp_path, Faults([Crash("strategy", 120)]), machine_parts=parts)
        said = [
            ("strategy", "InjectedCrash: planned crash of strategy at 120 (before)"),
            ("strategy", "OSError: no memory for another one"),
        ]
    else:
        source = FailsToClose()
        failed = run(tmp_path, Faults(), watch=source.over)
        said = [("feed", "OSError: cannot be closed")]
        assert source.failed > 1, "the next one has come to its end"
    assert Counter(crashes(failed)) == Counter(said)
    assert failed.accepted == undisturbed.accepted
    assert first_difference(canonical(undisturbed.journal), canonical(failed.journal)) == ""
    assert replayer.submit(not_decided_again, failed.journal).result(60) == ""
