"""The journal: what a trade costs on disk, and what writing it costs against bare zstd and INSERT."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.pairs import Benchmark, Facts, Row, Side, Stopwatch
from tests.bench.replay_rows import prepare_day

COMMIT_INTERVAL_S = 0.05
"""As the product's writer: a group of inserts each 50 ms."""


def write_work(facts: Facts) -> Side:
    """The day's frames through codec, sequencer (hash chain) and writer thread, to the last commit."""
    from actors.sequencer import Sequencer
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import create_journal
    from adapters.sqlite.writer import Writer
    from domain.events import TradesReceived
    from domain.units import Nanos

    frames = _frames(facts)
    with tempfile.TemporaryDirectory(dir=Path(facts["journal"]).parents[1]) as directory:
        path = Path(directory) / "2024-05-01.db"
        create_journal(path)
        with Stopwatch() as watch:
            writer = Writer(path, on_failure=_fail)
            sequencer = Sequencer(writer=writer, codec=Codec(), subscribers=(), is_simulated=True, now=lambda: Nanos(0))
            writer.start()
            for frame in frames:
                sequencer.publish(TradesReceived(trades=frame), source="feed", ts=Nanos(int(frame["ts_recv"][-1])))
            writer.stop()
        answer, size = _written(path, "SELECT payload FROM events ORDER BY seq")
    trades = sum(len(frame) for frame in frames)
    figures = {
        "bytes_per_trade": size / trades,
        "file_bytes_per_trade": Path(facts["journal"]).stat().st_size / trades,
        "frames": len(frames),
    }
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=answer, figures=figures)


def write_reference(facts: Facts) -> Side:
    """zstd at the same level and one INSERT per frame, in one thread, committed as often and as hard."""
    import sqlite3

    import zstandard

    from adapters.sqlite.codec import ZSTD_LEVEL

    frames = _frames(facts)
    with tempfile.TemporaryDirectory(dir=Path(facts["journal"]).parents[1]) as directory:
        path = Path(directory) / "bare.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE frames (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        with Stopwatch() as watch:
            compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
            connection.execute("BEGIN")
            begun_s = time.monotonic()
            for number, frame in enumerate(frames, start=1):
                connection.execute("INSERT INTO frames VALUES (?, ?)", (number, compress(frame.tobytes())))
                if time.monotonic() - begun_s >= COMMIT_INTERVAL_S:
                    connection.execute("COMMIT")
                    connection.execute("BEGIN")
                    begun_s = time.monotonic()
            connection.execute("COMMIT")
        connection.close()
        answer, _ = _written(path, "SELECT payload FROM frames ORDER BY seq")
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=answer)


def _frames(facts: Facts) -> tuple[Any, ...]:
    from tests.bench.day import read_day

    return read_day(Path(facts["journal"])).frames


def _written(path: Path, select: str) -> tuple[dict[str, Any], int]:
    """What stands in the file: the records of every frame in order, whatever the bytes around them, and their size."""
    import sqlite3

    import numpy as np

    from adapters.sqlite.codec import Codec

    codec = Codec()
    count, size, digest = 0, 0, hashlib.sha256()
    connection = sqlite3.connect(path)
    for (payload,) in connection.execute(select):
        size += len(payload)
        count += 1
        digest.update(np.ascontiguousarray(_trades_of(codec, payload)).tobytes())
    connection.close()
    return {"frames": count, "sha256": digest.hexdigest()}, size


def _trades_of(codec: Any, payload: bytes) -> Any:
    """The records of a frame, in the product's form or bare."""
    import zstandard

    from domain.errors import JournalUnreadable
    from domain.events import EVENT_VERSIONS
    from domain.market import TRADE_DTYPE, trades_from_bytes

    try:
        return codec.decode("TradesReceived", EVENT_VERSIONS["TradesReceived"], payload).trades
    except JournalUnreadable:
        raw = zstandard.ZstdDecompressor().decompress(payload)
        assert len(raw) % TRADE_DTYPE.itemsize == 0
        return trades_from_bytes(raw)


def _fail(error: Exception) -> None:
    raise error


JOURNAL = Benchmark(
    name="journal",
    prepare=prepare_day,
    work=write_work,
    reference=write_reference,
    rows=(
        Row(
            name="journal-size",
            title="journal: market frames over the day",
            figure=lambda work, reference: work.figures["bytes_per_trade"],
            unit="B/trade",
            required=12,
            goal=9,
            is_timed=False,
        ),
        Row(
            name="journal-write",
            title="journal write (encode, chain, commit) against zstd-3 and one INSERT of the same frames",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=1.5,
            goal=1.2,
        ),
    ),
    note="equal records in equal frames read back",
)
