"""The program in a process that looks at itself: what it holds each time a session has given way to the next."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import attrs

PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK_S = 0.02


@attrs.frozen
class Reading:
    """Of this process, when a session's file has just been sealed and the next is not open yet."""

    file: str
    rss_bytes: int
    threads: int
    descriptors: int


@attrs.frozen
class Lived:
    """A run; `wal_bytes` is the largest that any file's write-ahead log has been."""

    exit_code: int
    readings: list[Reading]
    wal_bytes: int


def live(config: Path, environ: Mapping[str, str]) -> Lived:
    """`live` with a configuration file, to the end of the data. Call it in a process of its own."""
    os.environ.update(environ)
    from actors.wiring.live import LiveRequest, live_command

    readings: list[Reading] = []
    over, wal = threading.Event(), [0]

    def watch() -> None:
        seen: set[str] = set()
        while not over.wait(LOOK_S):
            for log in config.parent.glob("journal/*.db-wal"):
                with contextlib.suppress(FileNotFoundError):  # it is removed when the file is sealed
                    wal[0] = max(wal[0], log.stat().st_size)
            for path in config.parent.glob("journal/*.db"):
                if path.name not in seen and not path.stat().st_mode & 0o222:
                    seen.add(path.name)
                    readings.append(_read(path.name))

    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    request = LiveRequest(
        log_level="error",
        demo=False,
        config=config,
        overlay=(),
        speed=None,
        until=None,
        journal_dir=None,
        seed=1,
        crash=(),
        jitter_ms=0.0,
    )
    try:
        code = live_command(request)
    finally:
        over.set()
        watcher.join()
    return Lived(code, readings, wal[0])


def _read(file: str) -> Reading:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = len(os.listdir("/proc/self/fd"))
    return Reading(file, pages * PAGE, threading.active_count(), descriptors)
