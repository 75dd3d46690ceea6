"""What a replay must not touch: wall clock, randomness, identifiers, environment, sockets.

Inside `outside_world_forbidden()` each of them raises `OutsideWorldError`, so that a decision
that depends on anything but the record is found where it is made, and not by luck years later.
The guard covers the functions that Python code calls; it is no sandbox.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import secrets
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np


class OutsideWorldError(BaseException):
    """Something in a replay asked for what is not in the record. No handler of errors on the way may swallow it."""


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OutsideWorldError(f"{name} was called in a replay")

    return refuse


class _NoClockType(type(datetime.datetime)):  # type: ignore[misc]  # the metaclass of datetime is `type`
    """Instances of the real datetime pass for instances of the guarded one."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL_DATETIME)


_REAL_DATETIME = datetime.datetime


MAY_READ_UTCNOW = {
    "backtrader.cerebro": "Cerebro times how long its feeds made it wait; ours never do and ignore the result",
}
"""Callers that get a constant instead of an error, each with the reason why nothing depends on it."""


class _NoClockDatetime(datetime.datetime, metaclass=_NoClockType):
    """datetime without the present."""

    now = classmethod(_refusal("datetime.now"))
    today = classmethod(_refusal("datetime.today"))

    @classmethod
    def utcnow(cls) -> datetime.datetime:  # type: ignore[override]  # the guarded type has no instances
        if sys._getframe(1).f_globals.get("__name__") in MAY_READ_UTCNOW:
            return _REAL_DATETIME(1970, 1, 1)
        raise OutsideWorldError("datetime.utcnow was called in a replay")


FORBIDDEN: tuple[tuple[Any, str], ...] = (
    *((time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "sleep")),
    *((random, name) for name in ("random", "randint", "randrange", "uniform", "choice", "shuffle", "Random")),
    *((np.random, name) for name in ("default_rng", "rand", "randn", "random", "randint", "seed", "normal")),
    *((uuid, name) for name in ("uuid1", "uuid4")),
    *((secrets, name) for name in ("token_bytes", "token_hex", "token_urlsafe", "randbelow", "choice")),
    *((os, name) for name in ("urandom", "getenv", "getpid")),
    (socket, "socket"),
    (socket, "create_connection"),
)
"""(module, function) pairs that raise inside the guard."""


@contextlib.contextmanager
def outside_world_forbidden() -> Iterator[None]:
    """Make every forbidden function raise until the block ends. Not for use beside running threads."""
    real = [(module, name, getattr(module, name)) for module, name in FORBIDDEN]
    environ = os.environ
    try:
        for module, name in FORBIDDEN:
            setattr(module, name, _refusal(f"{module.__name__}.{name}"))
        datetime.datetime = _NoClockDatetime  # type: ignore[misc]
        os.environ = _NoEnvironment()  # type: ignore[assignment]  # noqa: B003  (swapped, not changed)
        yield
    finally:
        os.environ = environ  # noqa: B003  (the object is swapped back, its content untouched)
        datetime.datetime = _REAL_DATETIME  # type: ignore[misc]
        for module, name, function in real:
            setattr(module, name, function)


class _NoEnvironment:
    """An environment that cannot be read."""

    def __getattr__(self, name: str) -> Any:
        raise OutsideWorldError("os.environ was read in a replay")

    def __getitem__(self, name: str) -> NoReturn:
        raise OutsideWorldError(f"os.environ[{name!r}] was read in a replay")

    def __contains__(self, name: object) -> bool:
        raise OutsideWorldError(f"os.environ was asked for {name!r} in a replay")
