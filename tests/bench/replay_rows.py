"""Replay of the full day: against NautilusTrader on the same ticks, and its input side against bare numpy.

The module imports little: the memory of a process that is started from here would count ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from market import CHECKOUT, environment

from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch

PEER = CHECKOUT / "build" / "peer"
PEER_PYTHON = PEER / ".venv" / "bin" / "python"
FOLD_RECORDS = 65_536
"""Records that the bare fold takes at once."""


# ---------------------------------------------------------------- replay against the peer


def prepare_replay(scale: Scale) -> Facts:
    """The recorded day, its bars, and its ticks as the peer reads them."""
    import numpy as np

    from tests.bench.day import ENTRY_IBS, EXIT_IBS, Day, read_day

    day = Day(trades=scale.trades, roots=scale.roots).ensure(_say)
    ticks = day.directory / "ticks.npz"
    if not ticks.is_file():
        recorded = read_day(day.journal)
        tick_sizes = {root.root: root.data_spec.tick_size for root in recorded.opened.roots}
        contracts = [
            {
                "symbol": symbol.contract,
                "root": symbol.root,
                "instrument_id": symbol.instrument_id,
                "tick_size": _decimal(tick_sizes[symbol.root]),
            }
            for symbol in recorded.mapped
        ]
        facts = {
            "contracts": contracts,
            "traded": [symbol.contract for symbol in recorded.mapped if symbol.rank == 0],
            "entry_ibs": ENTRY_IBS,
            "exit_ibs": EXIT_IBS,
            "end_ns": recorded.opened.session.end_ns,
        }
        unfinished = ticks.with_name("unfinished.npz")
        np.savez(unfinished, records=recorded.joined(), facts=json.dumps(facts))
        unfinished.rename(ticks)
    return {"journal": str(day.journal), "ticks": str(ticks), **bars_on_record(day.journal)}


def replay_work(facts: Facts) -> Side:
    """`replay FILE`, the whole process: start, hash chain, decisions, comparison."""
    ended = run_process([sys.executable, "-m", "actors.main", "replay", facts["journal"], "--json"])
    report = json.loads(ended.out)
    assert report["identical"], report
    return Side(
        cpu_s=ended.cpu_s,
        wall_s=ended.wall_s,
        peak_mb=ended.peak_mb,
        # Identical to the record means: the bars of the record.
        answer={"minutes": facts["minutes"], "hours": facts["hours"]},
        figures={"orders": report["orders"], "trades": facts["trades"]},
    )


def replay_reference(facts: Facts) -> Side:
    """NautilusTrader's `run()` alone: its ticks are made, loaded and sorted before the clock starts."""
    ended = run_process([str(PEER_PYTHON), str(CHECKOUT / "tests" / "bench" / "peer_nautilus.py"), facts["ticks"]])
    report = json.loads(ended.out.splitlines()[-1])
    return Side(
        cpu_s=report["cpu_s"],
        wall_s=report["wall_s"],
        peak_mb=report["peak_mb"],
        answer={"minutes": report["minutes"], "hours": report["hours"]},
        figures={"orders": report["orders"], "trades": report["trades"]},
    )


def peer_missing() -> str | None:
    """Why there is no peer here."""
    return None if PEER_PYTHON.is_file() else "NautilusTrader is not installed: `make bench-peer` does that"


def _peak_share(work: Side, reference: Side) -> float:
    assert work.peak_mb is not None
    assert reference.peak_mb is not None
    return work.peak_mb / reference.peak_mb


REPLAY = Benchmark(
    name="replay",
    prepare=prepare_replay,
    work=replay_work,
    reference=replay_reference,
    skip=peer_missing,
    rows=(
        Row(
            name="replay",
            title="replay of the full day (process start and verify included) against NautilusTrader `run()`, CPU",
            figure=lambda work, reference: reference.cpu_s / work.cpu_s,
            unit="x less",
            required=5,
            goal=10,
            is_more_better=True,
        ),
        Row(
            name="memory",
            title="its peak memory against the peer's",
            figure=_peak_share,
            unit="x",
            required=1 / 5,
            goal=1 / 20,
            is_timed=False,
        ),
    ),
    note="every minute and hour bar of both is equal",
)


# ---------------------------------------------------------------- the input side


def prepare_day(scale: Scale) -> Facts:
    """The recorded day."""
    from tests.bench.day import Day

    return {"journal": str(Day(trades=scale.trades, roots=scale.roots).ensure(_say).journal)}


def input_work(facts: Facts) -> Side:
    """Envelopes of a session file through the bar machine: read, decode, fold, close."""
    from actors.bars import BarAggregator
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile
    from domain.events import SliceClosed

    machine, slices = BarAggregator(), []
    codec = Codec()
    with Stopwatch() as watch, JournalFile(Path(facts["journal"]), codec) as journal:
        for envelope in journal.envelopes(types=machine.kinds):
            slices += machine.handle(envelope)
    minutes = [bar_row(bar) for closed in slices if isinstance(closed, SliceClosed) for bar in closed.minutes]
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=described(minutes))


def input_reference(facts: Facts) -> Side:
    """The least that gives the same bars: SELECT, zstd, one sort and five reductions per 64k records."""
    import sqlite3

    import numpy as np
    import zstandard

    from domain.market import TRADE_DTYPE
    from domain.units import MINUTE

    path = Path(facts["journal"])
    names = _contract_names(path)
    decompress = zstandard.ZstdDecompressor().decompress
    folded: list[Any] = []
    with Stopwatch() as watch:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        rows = connection.execute("SELECT payload FROM events WHERE type = 'TradesReceived' ORDER BY seq")
        waiting: list[bytes] = []
        held = 0
        for (payload,) in rows:
            waiting.append(decompress(payload))
            held += len(waiting[-1]) // TRADE_DTYPE.itemsize
            if held >= FOLD_RECORDS:
                folded.append(_fold(np.frombuffer(b"".join(waiting), TRADE_DTYPE), MINUTE))
                waiting, held = [], 0
        if waiting:
            folded.append(_fold(np.frombuffer(b"".join(waiting), TRADE_DTYPE), MINUTE))
        bars = _merged(folded)
        connection.close()
    minutes = [
        (names[key & 0xFFFFFFFF], ((key >> 32) + 1) * MINUTE, open_, high, low, close, volume)
        for key, open_, high, low, close, volume in zip(*(column.tolist() for column in bars), strict=True)
    ]
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=described(minutes))


def _fold(trades: Any, minute_ns: int) -> tuple[Any, ...]:
    """Bars of a chunk: key (minute << 32 | instrument), open, high, low, close, volume; one entry per bar."""
    import numpy as np

    key = (trades["ts_recv"].astype(np.int64) // minute_ns << 32) | trades["instrument_id"].astype(np.int64)
    order = np.argsort(key, kind="stable")
    key, price, size = key[order], trades["price"][order], trades["size"][order].astype(np.int64)
    return _reduced([key, price, price, price, price, size])


def _reduced(columns: list[Any]) -> tuple[Any, ...]:
    """One entry per run of equal keys."""
    import numpy as np

    key, open_, high, low, close, volume = columns
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    ends = np.append(starts[1:], len(key)) - 1
    return (
        key[starts],
        open_[starts],
        np.maximum.reduceat(high, starts),
        np.minimum.reduceat(low, starts),
        close[ends],
        np.add.reduceat(volume, starts),
    )


def _merged(folded: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Chunks cut through minutes: the parts of a bar put together."""
    import numpy as np

    columns = [np.concatenate(parts) for parts in zip(*folded, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return _reduced([column[order] for column in columns])


INPUT = Benchmark(
    name="input",
    prepare=prepare_day,
    work=input_work,
    reference=input_reference,
    rows=(
        Row(
            name="input",
            title="replay's input side (read, decode, fold) against SELECT, zstd and a bare numpy fold",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=3,
            goal=2,
        ),
    ),
    note="equal minute bars",
)


# ---------------------------------------------------------------- shared


class Ended:
    """A process that was measured from start to end."""

    def __init__(self, out: str, cpu_s: float, wall_s: float, peak_mb: float) -> None:
        self.out, self.cpu_s, self.wall_s, self.peak_mb = out, cpu_s, wall_s, peak_mb


def run_process(command: list[str], *, is_quiet: bool = False) -> Ended:
    """Run to the end; its own CPU and peak memory. Raises RuntimeError when it fails."""
    started_s = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if is_quiet else None,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{command[1:4]} ended with {process.returncode}: {out[-500:]}")
    return Ended(out, used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024)


def bar_row(bar: Any) -> tuple[Any, ...]:
    """A bar as every side writes it: contract, end, prices in 1e-9, contracts traded."""
    return (bar.contract, bar.ts_end, bar.open, bar.high, bar.low, bar.close, bar.volume)


def described(bars: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """How many, and a digest of all values in order of (contract, end)."""
    rows = sorted(bars)
    return {"count": len(rows), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def bars_on_record(path: Path) -> dict[str, Any]:
    """Of a session file: its minutes, its hours, and how many trades made them."""
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile

    minutes, hours, trades = [], [], 0
    with JournalFile(path, Codec()) as journal:
        for envelope in journal.envelopes(types={"SliceClosed"}):
            closed: Any = envelope.payload
            minutes += [bar_row(bar) for bar in closed.minutes]
            hours += [bar_row(bar) for bar in closed.hours]
            trades += sum(bar.trades for bar in closed.minutes)
    return {"minutes": described(minutes), "hours": described(hours), "trades": trades}


def _contract_names(path: Path) -> dict[int, str]:
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile

    with JournalFile(path, Codec()) as journal:
        mapped: list[Any] = [envelope.payload for envelope in journal.envelopes(types={"SymbolMapped"})]
    return {symbol.instrument_id: symbol.contract for symbol in mapped}


def _decimal(price: int) -> str:
    from decimal import Decimal

    return f"{Decimal(price).scaleb(-9).normalize():f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
