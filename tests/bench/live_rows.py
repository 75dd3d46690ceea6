"""The live program: ingest against the bare client, recovery against the session, `--help` against the clock."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from market import KEY, WEBHOOK_PATH, command, environment, gateway, only_journal

from tests.bench.pairs import Benchmark, Facts, Row, Scale, Side, Stopwatch
from tests.bench.replay_rows import bars_on_record, run_process

INGESTED_SHARE = 1.0
"""Of the full day: what a gateway sends in the ingest row."""
INGEST_LIMIT_S = 600.0
NEVER_WARM = 1_000_000
HALF_DAY = "2024-05-01T15:00:00Z"
HELPS = 5
CONNECT_LIMIT_S = 300.0


# ---------------------------------------------------------------- ingest


def prepare_ingest(scale: Scale) -> Facts:
    """What the gateway is asked for, and what the session's roots are."""
    from adapters.config import CONTRACT_MAP_FILE
    from adapters.contract_map import load_contract_map
    from tests.bench.day import asked_for

    traded = load_contract_map(CONTRACT_MAP_FILE).traded
    trades = round(scale.trades * INGESTED_SHARE)
    return {
        "gateway": ["--simulate", "--speed", "max", "--trades", str(asked_for(trades, len(traded)))],
        "roots": [root.root for root in traded],
        "symbols": [f"{root.data_product}.v.{rank}" for root in traded for rank in (0, 1)],
    }


def ingest_work(facts: Facts) -> Side:
    """Gateway, real client, feed, bars, journal; CPU of the live side alone."""
    from in_this_process import live_in_thread

    from adapters.calendar import CmeCalendar
    from adapters.log import configure_logging
    from adapters.traderspost.router import WebhookRouter

    configure_logging("error", stream=sys.stderr)
    with tempfile.TemporaryDirectory() as place, gateway(*facts["gateway"]) as port:
        directory = Path(place)
        with Stopwatch() as watch:
            running = live_in_thread(
                directory,
                port=port,
                key=KEY,
                calendar=CmeCalendar(),
                # Nobody is ever asked: the strategy never warms up.
                make_webhook=lambda: WebhookRouter(f"http://127.0.0.1:9{WEBHOOK_PATH}", is_live=False),
                roots=tuple(facts["roots"]),
                warmup_bars=NEVER_WARM,
            )
            with running as live:
                live.result(INGEST_LIMIT_S)
        trades = bars_on_record(only_journal(directory))["trades"]
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=trades, figures={"trades": trades})


def ingest_reference(facts: Facts) -> Side:
    """The same records into a callback of the bare client that counts them."""
    import databento as db
    from databento_dbn import TradeMsg

    from adapters.databento.gateway_wire import END_OF_DATA

    count = 0
    is_over = threading.Event()

    def on_record(record: Any) -> None:
        nonlocal count
        if type(record) is TradeMsg:
            count += 1
        elif getattr(record, "msg", None) == END_OF_DATA:
            is_over.set()

    with gateway(*facts["gateway"]) as port:
        with Stopwatch() as watch:
            client = db.Live(key=KEY, gateway="127.0.0.1", port=port, reconnect_policy="none")
            client.add_callback(on_record)
            client.subscribe("GLBX.MDP3", "trades", facts["symbols"], stype_in="continuous")
            client.start()
            assert is_over.wait(INGEST_LIMIT_S), "the data did not end"
        client.terminate()
    return Side(cpu_s=watch.cpu_s, wall_s=watch.wall_s, answer=count, figures={"trades": count})


INGEST = Benchmark(
    name="ingest",
    prepare=prepare_ingest,
    work=ingest_work,
    reference=ingest_reference,
    rows=(
        Row(
            name="ingest",
            title="live ingest, gateway to journaled bars, against the bare client's counting callback, trades per CPU",
            figure=lambda work, reference: reference.cpu_s / work.cpu_s,
            unit="x",
            required=0.6,
            goal=0.85,
            is_more_better=True,
        ),
    ),
    note="equal numbers of trades; the gateway is a process of its own and not counted",
)


# ---------------------------------------------------------------- recovery


def prepare_recovery(scale: Scale) -> Facts:
    """A day that was left in its middle."""
    from tests.bench.day import Day

    day = Day(trades=scale.trades, roots=scale.roots, until=HALF_DAY).ensure(lambda text: print(text, file=sys.stderr))
    return {"directory": str(day.directory), "trades": scale.trades, "roots": scale.roots}


def recovery_work(facts: Facts) -> Side:
    """`live` on the unfinished file: CPU of the process from its start until it asks the gateway for more."""
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile

    with tempfile.TemporaryDirectory(dir=Path(facts["directory"]).parent) as place, _listening() as (listener, port):
        directory = Path(place)
        recorded = Path(facts["directory"])
        shutil.copytree(recorded / "journal", directory / "journal")
        shutil.copy(recorded / "contracts.yml", directory)
        config = directory / "live.yml"
        _use_port(config, recorded / "live.yml", port)
        path = only_journal(directory)
        with JournalFile(path, Codec()) as journal:
            before = journal.head()
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command("live", "--config", str(config)),
            env=environment(TRADERSPOST_WEBHOOK_URL=f"http://127.0.0.1:9{WEBHOOK_PATH}", OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
        )
        try:
            listener.accept()[0].close()
            cpu_s, wall_s = _cpu_of(process.pid), time.perf_counter() - started_s
            assert process.poll() is None, "it gave up instead of recovering"
        finally:
            process.kill()
            process.wait()
        with JournalFile(path, Codec()) as journal:
            added = [envelope.type for envelope in journal.envelopes(after=before.seq)]
            assert "SafeStopRequested" not in added, added
        answer = _decisions_until(path, before.seq)
    return Side(cpu_s=cpu_s, wall_s=wall_s, answer=answer)


def recovery_reference(facts: Facts) -> Side:
    """The session itself up to the same moment, recorded anew: CPU of its live process."""
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile
    from tests.bench.day import Day, record

    with tempfile.TemporaryDirectory(dir=Path(facts["directory"]).parent) as place:
        directory = Path(place) / "again"
        used = record(Day(trades=facts["trades"], roots=facts["roots"], until=HALF_DAY), directory)
        path = only_journal(directory)
        with JournalFile(path, Codec()) as journal:
            head = journal.head()
        answer = _decisions_until(path, head.seq)
    return Side(cpu_s=used["cpu_s"], wall_s=used["wall_s"], answer=answer)


@contextlib.contextmanager
def _listening() -> Any:
    """A port that takes one connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(CONNECT_LIMIT_S)
        yield listener, listener.getsockname()[1]


def _use_port(config: Path, recorded: Path, port: int) -> None:
    """The recorded configuration with another gateway; places and ports are no part of the program's identity."""
    lines = recorded.read_text().splitlines()
    feed = f"feed: {{gateway: 127.0.0.1, port: {port}, heartbeat_interval_s: 5}}"
    config.write_text("\n".join(feed if line.startswith("feed:") else line for line in lines) + "\n")


def _cpu_of(pid: int) -> float:
    """User and system time of a running process, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _decisions_until(path: Path, seq: int) -> dict[str, Any]:
    """What the machines have on record up to `seq`."""
    from adapters.sqlite.codec import Codec
    from adapters.sqlite.journal import JournalFile

    digest, count = hashlib.sha256(), 0
    with JournalFile(path, Codec()) as journal:
        for envelope in journal.envelopes(until=seq):
            if envelope.source in ("roll", "bars", "strategy", "execution"):
                digest.update(f"{envelope.source} {envelope.cause} {envelope.idx} {envelope.raw!r}\n".encode())
                count += 1
    return {"decisions": count, "sha256": digest.hexdigest()}


RECOVERY = Benchmark(
    name="recovery",
    prepare=prepare_recovery,
    work=recovery_work,
    reference=recovery_reference,
    rows=(
        Row(
            name="recovery",
            title="recovery of the process in mid-session of the full day against the session's own CPU up to there",
            figure=lambda work, reference: work.cpu_s / reference.cpu_s,
            unit="x",
            required=1 / 5,
            goal=1 / 20,
        ),
    ),
    note="process start to the feed's first connection; what the machines have on record is equal",
)


# ---------------------------------------------------------------- --help


def prepare_help(scale: Scale) -> Facts:
    """Nothing."""
    return {}


def help_work(facts: Facts) -> Side:
    """`--help`, median of some."""
    return _median_run(["-m", "actors.main", "--help"])


def help_reference(facts: Facts) -> Side:
    """An interpreter that does nothing."""
    return _median_run(["-c", "pass"])


def _median_run(arguments: list[str]) -> Side:
    ended = [run_process([sys.executable, *arguments]) for _ in range(HELPS)]
    return Side(
        cpu_s=statistics.median(one.cpu_s for one in ended), wall_s=statistics.median(one.wall_s for one in ended)
    )


HELP = Benchmark(
    name="help",
    prepare=prepare_help,
    work=help_work,
    reference=help_reference,
    rows=(
        Row(
            name="help",
            title="`--help`, CPU of the whole process",
            figure=lambda work, reference: work.cpu_s,
            unit="s",
            required=0.3,
            goal=0.15,
        ),
    ),
    note="reference: `python -c pass`",
    is_equality_checked=False,
)
