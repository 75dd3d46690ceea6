"""The synthetic day: simulated once, recorded once by the program itself, kept under build/bench.

A day is named by what it is made of, so a changed program or simulator records its own. The
strategy's rule is reduced to IBS alone (no veto, no pivot, no stops), which is what the peer runs.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
from market import CHECKOUT, gateway, live, only_journal, traderspost, write_config

from actors.wiring import code_digest
from adapters.config import CONTRACT_MAP_FILE
from adapters.databento.simulated_products import PRODUCTS
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile
from domain.events import SessionOpened, SymbolMapped, TradesReceived
from domain.market import TradeArray

CACHE = CHECKOUT / "build" / "bench"
SEED = 1
FULL_DAY = 5_000_000
TRADED_ROOTS = 12
ALL_ROOTS = 18
"""The twelve, and as traded roots the six reference futures that are no bond."""
ENTRY_IBS, EXIT_IBS = 0.2, 0.8
IBS_ALONE = (
    "{veto: false, warmup_bars: 0, pivot_gate: false, no_entry_before_auto_close_s: 0, stop_pct: 50, target_pct: 50, "
    'exit_after_bars: 1000, entry_windows: ["00:00-24:00"]}'
)
_ENTRY = "\n  - symbol:"
_SOURCES = ("adapters/databento", "adapters/sqlite", "actors/feed.py", "actors/sequencer.py", "domain/market.py")
RECORDING_LIMIT_S = 1_800.0


@attrs.frozen(kw_only=True)
class Day:
    """One recorded session. `until` cuts it off (it is then unfinished, as a killed process leaves it)."""

    trades: int = FULL_DAY
    roots: int = TRADED_ROOTS
    until: str | None = None

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        words = [f"{self.trades}", f"{self.roots}-roots"]
        if self.until is not None:
            words.append(self.until.replace(":", ""))
        return CACHE / f"day-{'-'.join(words)}-{_program()[:10]}"

    @property
    def journal(self) -> Path:
        """Its session file."""
        return only_journal(self.directory)

    def ensure(self, say: Callable[[str], None] = lambda text: None) -> Day:
        """Record it where it is missing."""
        if (self.directory / "recording.json").is_file():
            return self
        say(f"recording {self.directory.name} (once)")
        for older in CACHE.glob(f"{self.directory.name.rpartition('-')[0]}-*"):
            if len(older.name) == len(self.directory.name):  # the same day, recorded by another program
                shutil.rmtree(older)
        # Under another name until it is complete: an interrupted recording is no day.
        unfinished = self.directory.with_name(f"unfinished-{self.directory.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "recording.json").write_text(json.dumps(record(self, unfinished)))
        unfinished.rename(self.directory)
        return self


def _program() -> str:
    digest = hashlib.sha256(f"{code_digest()} {SEED} {IBS_ALONE}".encode())
    for name in _SOURCES:
        place = CHECKOUT / name
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def record(day: Day, directory: Path) -> dict[str, float]:
    """Run the day's session into `directory`; CPU and wall of its live process."""
    directory.mkdir(parents=True)
    (directory / "contracts.yml").write_text(contract_map(day.roots))
    trades = str(asked_for(day.trades, day.roots))
    with (
        gateway("--simulate", "--speed", "max", "--seed", str(SEED), "--trades", trades) as port,
        traderspost("--clock", "request") as address,
    ):
        config = write_config(
            directory,
            port=port,
            contract_map="contracts.yml",
            strategy=IBS_ALONE,
            risk=f"{{max_positions: {ALL_ROOTS}}}",
        )
        until = () if day.until is None else ("--until", day.until)
        before, started_s = _children_cpu_s(), time.perf_counter()
        ended = live(config, *until, webhook=address, timeout_s=RECORDING_LIMIT_S)
        used = {"cpu_s": _children_cpu_s() - before, "wall_s": time.perf_counter() - started_s}
    if ended.returncode != 0:
        raise RuntimeError(f"the day was not recorded: {ended.stderr[-2000:]}")
    return used


def asked_for(trades: int, roots: int) -> int:
    """The simulator's `--trades` that gives the first `roots` roots of the map about `trades`."""
    # The map lists the simulator's products in the simulator's order.
    share = sum(product.weight for product in PRODUCTS[:roots]) / sum(product.weight for product in PRODUCTS)
    return round(trades / share)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contract_map(roots: int) -> str:
    """The checkout's map with its first `roots` roots, all of them traded, and none that is only read."""
    traded, _, references = CONTRACT_MAP_FILE.read_text().partition("reference_feeds:")
    head, *entries = traded.split(_ENTRY)
    chosen = [*entries, *references.split(_ENTRY)[1:]][:roots]
    names = {entry.split()[0] for entry in chosen}
    lines = _ENTRY.join([head, *chosen]).splitlines()
    # A pair must be in the map; without the veto nothing reads it.
    kept = [line for line in lines if not line.startswith("    pair:") or line.split()[1] in names]
    return "\n".join(kept) + "\n"


# ---------------------------------------------------------------- what is in it


@attrs.frozen(kw_only=True, eq=False)
class Recorded:
    """The records of a day, in the order of its journal."""

    frames: tuple[TradeArray, ...]
    """As they stand in its `TradesReceived`."""
    mapped: tuple[SymbolMapped, ...]
    opened: SessionOpened

    @property
    def count(self) -> int:
        return sum(len(frame) for frame in self.frames)

    def joined(self) -> TradeArray:
        return np.concatenate(self.frames)


def read_day(journal: Path) -> Recorded:
    """Everything of a file that came from the market."""
    frames, mapped, opened = [], [], None
    with JournalFile(journal, Codec()) as file:
        for envelope in file.envelopes(types={"SessionOpened", "SymbolMapped", "TradesReceived"}):
            match envelope.payload:
                case TradesReceived(trades=trades):
                    frames.append(trades)
                case SymbolMapped() as symbol:
                    mapped.append(symbol)
                case SessionOpened() as session:
                    opened = session
                case _:
                    pass
    if opened is None:
        raise RuntimeError(f"{journal} holds no session")
    return Recorded(frames=tuple(frames), mapped=tuple(mapped), opened=opened)


def day_shape(trades: TradeArray) -> dict[str, int]:
    """How bursty it is: trades of the busiest minute and second, and the share that has its stamp to itself."""
    per_second = np.unique(trades["ts_recv"] // 1_000_000_000, return_counts=True)[1]
    per_minute = np.unique(trades["ts_recv"] // 60_000_000_000, return_counts=True)[1]
    return {
        "trades": len(trades),
        "contracts": len(np.unique(trades["instrument_id"])),
        "minutes": len(per_minute),
        "busiest_minute": int(per_minute.max()),
        "median_minute": int(np.median(per_minute)),
        "busiest_second": int(per_second.max()),
        "stamps": len(np.unique(trades["ts_recv"])),
    }
