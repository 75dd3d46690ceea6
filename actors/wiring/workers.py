"""Where the training's work runs: in processes of this machine, or on the workers of a Dask scheduler."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from actors.wiring import code_digest, library_versions
from domain.errors import OperatorError

TRAINING_CODE = ("actors", "adapters", "domain", "models", "Data/calendar_overrides.yml")
"""Whatever of it differs may change what is found."""
_PATIENCE_S = 20
_WORKER = "dask worker"
_UNREACHABLE = 69


@contextmanager
def workers(address: str | None) -> Iterator[None]:
    """Inside, joblib's work goes to the Dask workers at `address`; without one to processes here, as ever.

    Raises OperatorError: exit 2 without the library, for an address that is none, for a single worker and for
    workers that would not compute the same; 69 for a scheduler or a worker that does not answer or is lost.
    """
    if address is None:
        yield
        return
    place = _place(address)
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        fix = "python -m pip install -e '.[dask]', or leave --dask out"
        raise OperatorError("distributed is not installed", where="--dask", fix=fix, exit_code=2) from error
    from joblib import parallel_config

    try:
        _hear(place)
        client = Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except OSError as error:  # TimeoutError is one
        raise _silent(address, "no scheduler answers") from error
    with client:
        try:
            _check_workers(client, address)
            with parallel_config(backend=_backend(client)):
                yield
        except (OSError, CancelledError, KilledWorker) as error:
            if not _is_loss(error):
                raise
            what = f"the scheduler or its workers were lost during the work ({type(error).__name__}: {address})"
            fix = "see that they run and have enough memory, and train again: what is finished is kept"
            raise OperatorError(what, where="--dask", fix=fix, exit_code=_UNREACHABLE) from error


def _place(address: str) -> tuple[str, int]:
    """Host and port of `tcp://HOST:PORT`. Raises OperatorError (exit 2) for anything else."""
    try:
        place = urlsplit(address if "://" in address else f"tcp://{address}")
        if place.scheme == "tcp" and place.hostname and place.port and place.path in ("", "/"):
            return place.hostname, place.port
    except ValueError:  # a port that is no number
        pass
    fix = "write tcp://HOST:PORT, as the scheduler says when it starts"
    raise OperatorError(f"{address!r} is no scheduler's address", where="--dask", fix=fix, exit_code=2)


def _hear(place: tuple[str, int]) -> None:
    """Wait for the scheduler's greeting, which the client would wait for without end. Raises OSError."""
    with socket.create_connection(place, timeout=_PATIENCE_S) as connection:
        if not connection.recv(1):
            raise ConnectionError("closed at once")


def _backend(client: Any) -> Any:
    """That of joblib, which waits without end for a task that failed with its worker: nobody is called back."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda ended: ended.exception() and callback(ended.exception()))
            return future

    return Backend(client=client)


def _is_loss(error: Exception) -> bool:
    """Whether it says that the scheduler or a worker is gone, and not that the work failed."""
    from distributed import KilledWorker

    if isinstance(error, ConnectionError | TimeoutError | CancelledError | KilledWorker):
        return True
    # distributed raises its OSErrors itself, without a number; a full disk has one.
    return isinstance(error, OSError) and error.errno is None


def _fingerprint() -> tuple[str, dict[str, str]]:
    """Of the process that runs it."""
    return code_digest(TRAINING_CODE), library_versions()


def _check_workers(client: Any, address: str) -> None:
    """Equal data, seed and code give equal bundles: on other code or libraries they would not."""
    with suppress(TimeoutError):
        client.wait_for_workers(2, timeout=_PATIENCE_S)
    threads = client.nthreads()
    if not threads:
        raise _silent(address, "the scheduler has no worker")
    if len(threads) == 1:
        # joblib would do all of the work here, in one process.
        fix = f"start at least two workers: {_WORKER} {address} --nthreads 1 --nworkers 2; or leave --dask out"
        raise _unlike(next(iter(threads)), "is the scheduler's only worker", fix)
    if several := sorted(name for name, count in threads.items() if count != 1):
        fix = f"start workers with --nthreads 1: {_WORKER} {address} --nthreads 1"
        raise _unlike(several[0], "runs several threads, and Backtrader is made for one", fix)
    asked = {name: client.submit(_fingerprint, workers=[name], pure=False) for name in sorted(threads)}
    for name, future in asked.items():
        try:
            found = future.result(timeout=_PATIENCE_S)
        except Exception as error:  # whatever it lacks: it is said, and nothing runs there
            if _is_loss(error):
                raise _silent(name, "the worker does not answer") from error
            raise _unlike(name, f"cannot run this program ({type(error).__name__}: {error})") from error
        if found != _fingerprint():
            raise _unlike(name, "has another version of this program or of its libraries")


def _unlike(worker: str, what: str, fix: str | None = None) -> OperatorError:
    fix = fix or "start it in this checkout's environment and directory, installed from the same requirements.lock"
    return OperatorError(f"{worker} {what}", where="--dask", fix=fix, exit_code=2)


def _silent(address: str, what: str) -> OperatorError:
    fix = "see that scheduler and workers run and can be reached, or leave --dask out"
    return OperatorError(f"{what} within {_PATIENCE_S} s: {address}", where="--dask", fix=fix, exit_code=_UNREACHABLE)
