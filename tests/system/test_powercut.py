"""Power cuts under the whole program: no order leaves before its intent is on a disk that survives the cut."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from market import CHECKOUT, command, environment

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
