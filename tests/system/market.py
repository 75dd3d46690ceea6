"""A whole live session over loopback, every part a process of its own: gateway, TradersPost, live."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
MARKET_DATA = CHECKOUT.parent / "shared" / "market"
KEY = "db-loopback-key-of-the-tests-00"
WEBHOOK_PATH = "/trading/webhook/demo/demo"
START_LIMIT_S = 60.0


def command(*arguments: str) -> list[str]:
    """The program with `arguments`."""
    return [sys.executable, "-m", "actors.main", "--log-level", "error", *arguments]


def environment(**more: str) -> dict[str, str]:
    """A clean environment: nothing of the developer's configuration."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "DATABENTO_API_KEY": KEY, **more}


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[str]:
    """A server process; yields its address (its first line) and stops it by its own id."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), f"{arguments} said {address!r}"
        yield address
    finally:
        process.terminate()
        process.wait(START_LIMIT_S)
        process.stdout.close()


@contextlib.contextmanager
def gateway(*arguments: str) -> Iterator[int]:
    """A gateway process; yields its port."""
    with server("gateway", "--key", KEY, *arguments) as address:
        yield int(address.rpartition(":")[2])


@contextlib.contextmanager
def traderspost(*arguments: str) -> Iterator[str]:
    """A local TradersPost process; yields its address."""
    with server("traderspost", *arguments) as address:
        yield address


def ledger(address: str) -> dict[str, Any]:
    """What the local TradersPost has seen."""
    with urllib.request.urlopen(f"http://{address}/__paper/ledger", timeout=10) as answer:
        seen: dict[str, Any] = json.load(answer)
    return seen


def write_config(
    directory: Path, *, port: int, roots: Sequence[str] = (), clock: str = "feed", **sections: str
) -> Path:
    """A paper configuration for the gateway at `port`; `sections` are YAML flow mappings by key."""
    directory.mkdir(parents=True, exist_ok=True)
    # These sessions begin without any history.
    sections = {"required_reference_feeds": "[]", **sections}
    lines = [
        "mode: paper",
        "account: system-test",
        f"clock: {clock}",
        "journal_dir: journal",
        f"feed: {{gateway: 127.0.0.1, port: {port}, heartbeat_interval_s: 5}}",
    ]
    if roots:
        lines.append(f"symbols: [{', '.join(roots)}]")
    lines += [f"{key}: {value}" for key, value in sections.items()]
    path = directory / "live.yml"
    path.write_text("\n".join(lines) + "\n")
    return path


def live(
    config: Path, *arguments: str, webhook: str | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `live` to its end."""
    url = {} if webhook is None else {"TRADERSPOST_WEBHOOK_URL": f"http://{webhook}{WEBHOOK_PATH}"}
    return subprocess.run(
        command("live", "--config", str(config), *arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(**url),
        cwd=config.parent,
        check=False,
    )


def replay(journal: Path) -> subprocess.CompletedProcess[str]:
    """Run `replay` on a file."""
    return subprocess.run(
        command("replay", str(journal), "--json"),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )


def only_journal(directory: Path) -> Path:
    """The one session file of a run."""
    (path,) = sorted((directory / "journal").glob("*.db"))
    return path


def wait_for(path: Path, limit_s: float = START_LIMIT_S) -> None:
    """Wait until a file exists."""
    end = time.monotonic() + limit_s
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def fresh(directory: Path) -> Path:
    """An empty directory in place of `directory`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


# ---------------------------------------------------------------- the trial session

UNTIL = "2024-05-01T02:30:00Z"
STRATEGY = (
    "{veto: false, warmup_bars: 2, pivot_gate: false, entry_ibs_high: 0.4, exit_ibs_low: 0.6, entry_order: limit, "
    "cancel_after_s: 3600}"
)
REJECTED = "MCL"


def trial_session(
    directory: Path, *arguments: str, speed: str = "max", until: str = UNTIL
) -> tuple[Path, dict[str, int]]:
    """One live session on the simulated market; its journal and how often each signal was accepted."""
    with (
        gateway("--simulate", "--speed", speed, "--trades", "120000") as port,
        traderspost("--clock", "request", "--unavailable", REJECTED) as address,
    ):
        config = write_config(directory, port=port, strategy=STRATEGY, risk="{max_positions: 6}")
        ended = live(config, "--until", until, *arguments, webhook=address)
        assert ended.returncode == 0, ended.stderr[-2000:]
        accepted = {signal: record["accepted"] for signal, record in ledger(address)["signals"].items()}
    return only_journal(directory), accepted


def assert_replays(journal: Path) -> None:
    """The file decides again what it records."""
    report = replay(journal)
    assert report.returncode == 0, report.stdout[-2000:] + report.stderr[-2000:]
    assert json.loads(report.stdout)["identical"] is True
