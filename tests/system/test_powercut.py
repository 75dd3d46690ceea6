"""Power cuts and failing disks under the whole program: no order leaves before its intent is on disk."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import short_session
from journals import sent_otherwise_than_recorded
from market import (
    CHECKOUT,
    WEBHOOK_PATH,
    assert_replays,
    command,
    environment,
    gateway,
    ledger,
    live,
    traderspost,
    write_config,
)

from adapters.sqlite.codec import Codec
from adapters.sqlite.directory import SqliteJournals
from adapters.sqlite.journal import JournalFile
from domain.events import OrderSubmitted
from tests.adapters.sqlite.powercut import cuts, read_trace, shim, under_shim

pytestmark = [pytest.mark.system, pytest.mark.soak]


def test_after_a_power_cut_no_message_was_sent_whose_intent_is_not_there(tmp_path: Path) -> None:
    directory, trace = tmp_path / "journal", tmp_path / "trace"
    directory.mkdir()
    variables = under_shim(shim(tmp_path), directory, trace)
    arguments = ("live", "--demo", "--speed", "max", "--until", "2024-04-30T23:30Z", "--journal-dir", str(directory))
    ended = subprocess.run(
        command(*arguments),
        cwd=CHECKOUT,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    ops, codec = read_trace(trace), Codec()
    with JournalFile(directory / "2024-05-01.db", codec) as journal:
        truth = [bytes(32), *(row[12] for row in journal.proven())]
        bodies = [
            e.payload.body for e in journal.envelopes(types={"OrderSubmitted"}) if isinstance(e.payload, OrderSubmitted)
        ]
    sent = [
        (next(at for at, op in enumerate(ops, start=1) if op.kind == "M" and body.encode() in op.data), body)
        for body in bodies
    ]
    assert len(sent) >= 4
    chance = random.Random(1)
    # Most of them right before and after a message left, where it could be wrong.
    near = [min(len(ops), max(0, at + chance.randint(-5, 30))) for at, _ in sent for _ in range(60)]
    for point, disk in cuts(
        ops, directory, tmp_path / "disks", [*near, *chance.choices(range(len(ops) + 1), k=300)], seed=2
    ):
        SqliteJournals(disk, codec).release()
        recorded: set[str] = set()
        if (path := disk / "2024-05-01.db").exists():
            with JournalFile(path, codec) as journal:
                events = journal.verify()
                assert journal.head().hash == truth[events]
                submitted = (e.payload for e in journal.envelopes(types={"OrderSubmitted"}))
                recorded = {payload.body for payload in submitted if isinstance(payload, OrderSubmitted)}
        missing = [body for at, body in sent if at <= point and body not in recorded]
        assert not missing, f"after {point} operations: {missing}"
    print(f"{len(ops)} operations, {len(sent)} messages, {len(near) + 300} cuts")


# ---------------------------------------------------------------- the disk says no

STRATEGY = json.dumps(
    {"veto": False, "warmup_bars": 0, "pivot_gate": False} | short_session.STRATEGY | {"entry_order": "market"},
    default=float,
)


@pytest.mark.timeout(1800)
def test_at_whichever_sync_the_disk_fails_the_next_start_goes_on_with_what_was_sent(tmp_path: Path) -> None:
    library, chance, told = shim(tmp_path), random.Random(4), Counter[str]()
    syncs = 0
    for number in range(16):
        directory = tmp_path / str(number)
        with (
            gateway("--simulate", "--speed", "max", "--trades", "60000") as port,
            traderspost("--clock", "request") as address,
        ):
            config = write_config(directory, port=port, roots=("ES", "GC"), strategy=STRATEGY)
            failing = chance.randint(1, syncs) if syncs else 0
            variables = under_shim(library, directory / "journal", directory / "trace", CUT_FAIL_SYNC=f"{failing}")
            url = f"http://{address}{WEBHOOK_PATH}"
            ended = subprocess.run(
                command("live", "--config", str(config), "--until", short_session.UNTIL),
                cwd=directory,
                env={**environment(TRADERSPOST_WEBHOOK_URL=url), **variables},
                capture_output=True,
                text=True,
                check=False,
            )
            syncs = syncs or sum(op.kind in "SD" for op in read_trace(directory / "trace"))
            told[f"exit {ended.returncode}"] += 1
            print(f"\nsync {failing}: exit {ended.returncode}", end="")
            assert ended.returncode in (0, 70), ended.stdout + ended.stderr
            assert "Traceback" not in ended.stderr
            again = live(config, "--until", "2024-04-30T22:40Z", webhook=address)
            assert again.returncode == 0, f"after sync {failing} failed: {again.stderr}"
            accepted = {signal_id: seen["accepted"] for signal_id, seen in ledger(address)["signals"].items()}
        journal = directory / "journal" / "2024-05-01.db"
        assert sent_otherwise_than_recorded(journal, accepted) == ""
        assert_replays(journal)
    print(f"\n{syncs} syncs undisturbed; {dict(told)}")
    assert told["exit 70"]


def test_on_a_read_only_directory_the_program_says_what_to_do(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    variables = under_shim(shim(tmp_path), directory, tmp_path / "trace", CUT_READ_ONLY="1")
    ended = subprocess.run(
        command("live", "--demo", "--journal-dir", str(directory)),
        cwd=CHECKOUT,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 78
    assert "cannot write here: Read-only file system\n  fix: give journal_dir a writable directory" in ended.stderr
    assert not list(directory.iterdir())
