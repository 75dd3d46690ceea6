"""What the tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import pytest


@pytest.fixture(scope="session")
def replayer() -> Iterator[Executor]:
    """A process of its own for replays: they forbid sockets and clocks, which everything beside them needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mostly waits begins first: at the end of a run nothing would be left to do beside it."""
    items.sort(key=lambda item: item.path.name != "test_real_time.py")
