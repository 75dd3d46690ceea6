"""The program as a person runs it: a process of its own, bounded in time, from a clean environment.

What holds for every command is checked here, for every run: no traceback and no secret
ever reaches the user, and what is refused says how to fix it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from market import CHECKOUT, KEY, environment

WEBHOOK_SECRET = "canary-0123456789abcdef"
"""The password of every webhook address in these tests: it must not be seen again."""
LIMIT_S = 60.0
REFUSALS = (2, 69, 70, 78)
"""Exit codes that come with a message."""


@attrs.frozen(kw_only=True)
class Ended:
    """A run that is over."""

    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    def log(self) -> list[dict[str, Any]]:
        """The log's lines on standard error, without progress and messages."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    def logged(self, event: str) -> bool:
        """Whether the log holds this message."""
        return any(line["event"] == event for line in self.log())


def without_key(**more: str) -> dict[str, str]:
    """An environment in which nothing is configured."""
    return {**{name: value for name, value in environment().items() if name != "DATABENTO_API_KEY"}, **more}


def run(
    *arguments: str | Path, cwd: Path | None = None, environ: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
) -> Ended:
    """`python -m actors.main ARGUMENTS`, to its end."""
    ended = subprocess.run(
        _command(arguments),
        capture_output=True,
        text=True,
        timeout=limit_s,
        cwd=cwd,
        env=environment() if environ is None else dict(environ),
        check=False,
    )
    return _checked(ended.returncode, ended.stdout, ended.stderr)


@contextlib.contextmanager
def started(*arguments: str | Path, cwd: Path | None = None) -> Iterator[Running]:
    """The same, while it runs; ended by its own id when the test leaves early."""
    process = subprocess.Popen(
        _command(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment()
    )
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@attrs.frozen
class Running:
    """A run that goes on."""

    process: subprocess.Popen[str]

    def first_line(self) -> str:
        """The first line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def signal(self, number: int) -> Ended:
        """Send a signal, and wait for the end that must follow."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LIMIT_S)
        return _checked(self.process.returncode, out, err)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the run is about to bring forth."""
        limit = time.monotonic() + LIMIT_S
        while not holds():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}"
            assert time.monotonic() < limit, "it did not happen in time"
            time.sleep(0.02)


def script(source: str, *arguments: str | Path) -> Ended:
    """Python `source` in a process of its own, which may import the program."""
    ended = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment(),
        cwd=CHECKOUT,
        check=False,
    )
    return _checked(ended.returncode, ended.stdout, ended.stderr)


def events(journal: Path, type_: str) -> list[dict[str, Any]]:
    """`journal events FILE --type TYPE`."""
    return run("journal", "events", journal, "--type", type_, "--json").lines()


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, by name, without what SQLite keeps beside an open file."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))
    }


def assert_refused(ended: Ended, code: int, *fragments: str) -> None:
    """It refused with this exit code, saying what, where and how to fix it."""
    assert ended.code == code, ended
    missing = [fragment for fragment in fragments if fragment not in ended.err]
    assert not missing, f"{missing} not in {ended.err!r}"
    assert sum(line.startswith("error: ") for line in ended.err.splitlines()) == 1, ended.err
    assert "\n  fix: " in ended.err, ended.err


def _command(arguments: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-m", "actors.main", *map(str, arguments)]


def _checked(code: int, out: str, err: str) -> Ended:
    for text in (out, err):
        assert "Traceback" not in text, text
        assert KEY not in text, "the API key was shown"
        assert WEBHOOK_SECRET not in text, "the webhook's password was shown"
    if code in REFUSALS:
        assert err.strip(), "it failed without a word"
    assert "\r" not in err, "a terminal's line where there is no terminal"
    return Ended(code=code, out=out, err=err)
