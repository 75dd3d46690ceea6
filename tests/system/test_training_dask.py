"""`train --dask`: the same bytes as from processes here, and a refusal where they would not be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed
from programs import Ended, run, without_key

from actors.wiring.workers import workers
from adapters.config import CHECKOUT
from domain.errors import OperatorError
from tests.minutes import rebounds, trading_hours, write_minutes
from tests.system.test_training_files import FIRST

pytestmark = pytest.mark.system

HAS_DISTRIBUTED = find_spec("distributed") is not None
needs_distributed = pytest.mark.skipif(
    not HAS_DISTRIBUTED, reason="distributed is not installed: pip install -e '.[dask]'"
)


@contextlib.contextmanager
def cluster(**changes: Any) -> Iterator[str]:
    """The address of a scheduler on loopback with two workers of one thread."""
    from distributed import LocalCluster

    asked = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**asked | changes) as found:
        yield found.scheduler_address


def refusal(address: str, work: Callable[[], object] = lambda: None) -> OperatorError:
    with pytest.raises(OperatorError) as caught, workers(address):
        work()
    assert caught.value.fix
    return caught.value


@pytest.mark.skipif(HAS_DISTRIBUTED, reason="distributed is installed")
def test_without_distributed_it_says_how_to_install_it() -> None:
    error = refusal("tcp://127.0.0.1:1")
    assert (error.exit_code, error.what) == (2, "distributed is not installed")
    assert ".[dask]" in error.fix


@needs_distributed
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_dasks_workers_find_what_processes_here_find(tmp_path: Path) -> None:
    file = write_minutes(tmp_path / "bars.dbn.zst", rebounds(trading_hours(FIRST, 36), strength=0, seed=1))

    def train(name: str, *more: Any) -> Ended:
        return run(
            "train", "ES", "--data", file, "--features", "es_hourly_return,ibs_pct,price_usd", "--min-trades", "5",
            "--leak-checks", "1", "--grid", "one", "--force",
            "--work-dir", tmp_path / name, *more, environ=without_key(), limit_s=600,
        )  # fmt: skip

    here = train("here", "--jobs", "2")
    with cluster() as address:
        there = train("there", "--dask", address, "--jobs", "1")
    assert (here.code, there.code) == (0, 0), there
    assert here.out == there.out
    names = sorted(path.name for path in (tmp_path / "here" / "kept").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "there" / "kept").iterdir()) != []
    for name in ("bundles/ES/manifest.yml", "bundles/ES/forest.npz", "bundles/ES/populations.npz", "ES.html"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name
    for name in names:
        assert (tmp_path / "here/kept" / name).read_bytes() == (tmp_path / "there/kept" / name).read_bytes()


@pytest.mark.parametrize(
    "address", ["foo", "host:notaport", "tls://127.0.0.1:8786", "tcp://:8786", "tcp://host", "tcp://host:99999"]
)
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    error = refusal(address)
    assert (error.exit_code, error.what) == (2, f"{address!r} is no scheduler's address")
    assert "tcp://HOST:PORT" in error.fix


@needs_distributed
@pytest.mark.soak
def test_a_single_worker_which_would_be_left_idle_is_refused() -> None:
    with cluster(n_workers=1) as address:
        error = refusal(address)
    assert (error.exit_code, "is the scheduler's only worker" in error.what) == (2, True)
    assert "at least two workers" in error.fix
    assert "--nworkers 2" in error.fix


@needs_distributed
@pytest.mark.soak
def test_workers_or_a_scheduler_that_are_lost_during_the_work_end_it_with_a_word() -> None:
    from distributed import dask  # with the defaults that are changed

    def killed_by_its_work() -> None:
        Parallel()(delayed(os._exit)(3) for _ in range(2))

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), cluster() as address:
        error = refusal(address, killed_by_its_work)
    assert (error.exit_code, "lost during the work (KilledWorker" in error.what) == (69, True)
    with programs() as (address, scheduler):

        def without_scheduler() -> None:
            for number, _ in enumerate(Parallel(return_as="generator")(delayed(time.sleep)(0.1) for _ in range(600))):
                if number == 0:
                    scheduler.kill()

        error = refusal(address, without_scheduler)
    assert (error.exit_code, "lost during the work (" in error.what) == (69, True)
    with pytest.raises(OSError, match="No space left"), cluster() as address, workers(address):
        raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def programs() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and two workers that it can be taken from."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, started = f"tcp://127.0.0.1:{port}", []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *words, "--no-dashboard"]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    try:
        scheduler = start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
        for _ in range(2):
            start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny")
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield address, scheduler
    finally:
        for one in started:
            one.kill()
            one.wait(30)


@needs_distributed
@pytest.mark.soak
def test_nobody_who_does_not_answer_is_waited_for_longer_than_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refusal(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert (error.exit_code, "no scheduler answers within 20 s" in error.what) == (69, True)
    assert refusal("tcp://127.0.0.1:1").exit_code == 69
    with cluster(n_workers=0) as address:
        error = refusal(address)
    assert (error.exit_code, "the scheduler has no worker within 20 s" in error.what) == (69, True)


@needs_distributed
@pytest.mark.soak
def test_a_worker_that_would_compute_something_else_is_refused(tmp_path: Path) -> None:
    with cluster(threads_per_worker=2) as address:
        error = refusal(address)
        assert (error.exit_code, "several threads" in error.what) == (2, True)
    for name in ("actors", "adapters", "domain", "models", "Data"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "domain" / "units.py").open("a") as file:
        file.write("# another version\n")
    with cluster(n_workers=1) as address:
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            error = refusal(address)
        finally:
            worker.terminate()
            worker.wait(30)
    assert (error.exit_code, "another version of this program" in error.what) == (2, True)
