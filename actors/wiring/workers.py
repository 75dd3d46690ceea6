"""Where the training's work runs: in processes of this machine, or on the workers of a Dask scheduler."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
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

    Raises OperatorError: exit 2 without the library and for workers that would not compute the same, 69 for a
    scheduler or a worker that does not answer.
    """
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        fix = "python -m pip install -e '.[dask]', or leave --dask out"
        raise OperatorError("distributed is not installed", where="--dask", fix=fix, exit_code=2) from error
    from joblib import parallel_config

    try:
        _hear(address)
        client = Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is one of the first
        raise _silent(address, "no scheduler answers") from error
    with client:
        _check_workers(client, address)
        with parallel_config(backend="dask", client=client):
            yield


def _hear(address: str) -> None:
    """Wait for the scheduler's greeting, which the client would wait for without end. Raises OSError or ValueError."""
    place = urlsplit(address if "://" in address else f"tcp://{address}")
    if place.scheme != "tcp" or not place.hostname:
        raise ValueError("not tcp://HOST:PORT")
    with socket.create_connection((place.hostname, place.port or 8786), timeout=_PATIENCE_S) as connection:
        if not connection.recv(1):
            raise ConnectionError("closed at once")


def _fingerprint() -> tuple[str, dict[str, str]]:
    """Of the process that runs it."""
    return code_digest(TRAINING_CODE), library_versions()


def _check_workers(client: Any, address: str) -> None:
    """Equal data, seed and code give equal bundles: on other code or libraries they would not."""
    try:
        client.wait_for_workers(1, timeout=_PATIENCE_S)
    except TimeoutError as error:
        raise _silent(address, "the scheduler has no worker") from error
    threads = client.nthreads()
    if several := sorted(name for name, count in threads.items() if count != 1):
        fix = f"start workers with --nthreads 1: {_WORKER} {address} --nthreads 1"
        raise _unlike(several[0], "runs several threads, and Backtrader is made for one", fix)
    asked = {name: client.submit(_fingerprint, workers=[name], pure=False) for name in sorted(threads)}
    for name, future in asked.items():
        try:
            found = future.result(timeout=_PATIENCE_S)
        except TimeoutError as error:
            raise _silent(name, "the worker does not answer") from error
        except Exception as error:  # whatever it lacks: it is said, and nothing runs there
            raise _unlike(name, f"cannot run this program ({type(error).__name__}: {error})") from error
        if found != _fingerprint():
            raise _unlike(name, "has another version of this program or of its libraries")


def _unlike(worker: str, what: str, fix: str | None = None) -> OperatorError:
    fix = fix or "start it in this checkout's environment and directory, installed from the same requirements.lock"
    return OperatorError(f"{worker} {what}", where="--dask", fix=fix, exit_code=2)


def _silent(address: str, what: str) -> OperatorError:
    fix = "see that scheduler and workers run and can be reached, or leave --dask out"
    return OperatorError(f"{what} within {_PATIENCE_S} s: {address}", where="--dask", fix=fix, exit_code=_UNREACHABLE)
