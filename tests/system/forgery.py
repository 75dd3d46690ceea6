"""What a replay must notice: a session file that somebody has rewritten, and a program that is not the one that ran.

Nothing in a journal is signed. Whoever can write the file can make its chain hold again, and
what `journal verify` then finds clean only `replay` can tell from the truth.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import attrs
from market import CHECKOUT

from adapters.sqlite.codec import Codec
from domain.envelope import GENESIS, chain_hash

Row = dict[str, Any]
"""One row of `events`: value by column."""


class Forger:
    """The rows and the head of a session file, open to every change.

    `rechain` makes good what the changes broke, as an attacker who knows the format would;
    without it the file is merely damaged. `save` writes a copy; the file itself stays as it is.

        forger = Forger(journal)
        forger.change(255, price=Price(1))
        forger.rechain()
        forged = forger.save(tmp_path)
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._codec = Codec()
        with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as base:
            base.row_factory = sqlite3.Row
            self.rows: list[Row] = [dict(row) for row in base.execute("SELECT * FROM events ORDER BY seq")]
            self.head: Row = dict(base.execute("SELECT seq, hash, status FROM head").fetchone())

    def of(self, type_: str) -> list[Row]:
        """The rows of one event type, oldest first."""
        return [row for row in self.rows if row["type"] == type_]

    def event(self, row: Row) -> Any:
        """The payload of a row."""
        return self._codec.decode(row["type"], row["version"], row["payload"])

    def change(self, row: Row, **fields: Any) -> None:
        """Give fields of the payload other values, in the bytes that the program itself would have written."""
        row["payload"] = self._codec.encode(attrs.evolve(self.event(row), **fields))

    def swap(self, one: Row, other: Row) -> None:
        """Let two rows change places."""
        here, there = self.rows.index(one), self.rows.index(other)
        self.rows[here], self.rows[there] = other, one

    def rechain(self) -> None:
        """Number the rows anew in their present order, causes and workflows too; hash them all; move the head."""
        number = {row["seq"]: place for place, row in enumerate(self.rows, start=1)}
        digest = GENESIS
        for row in self.rows:
            row |= {link: number.get(row[link]) for link in ("seq", "cause", "corr")}
            columns = {name: value for name, value in row.items() if name not in ("payload", "hash")}
            digest = row["hash"] = chain_hash(digest, raw=row["payload"], **columns)
        self.head |= {"seq": len(self.rows), "hash": digest}

    def save(self, directory: Path) -> Path:
        """A copy of the file in `directory`, with these rows and this head and with its triggers back in place."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in self._journal.parent.glob(f"{self._journal.name}*"):  # the WAL is a part of it
            shutil.copyfile(path, directory / path.name)
        forged = directory / self._journal.name
        with contextlib.closing(sqlite3.connect(forged)) as base:
            triggers = base.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                base.execute(f"DROP TRIGGER {name}")
            base.execute("DELETE FROM events")
            marks = ", ".join("?" * len(self.rows[0]))
            base.executemany(f"INSERT INTO events VALUES ({marks})", [tuple(row.values()) for row in self.rows])
            base.execute("UPDATE head SET seq = :seq, hash = :hash, status = :status", self.head)
            for _, sql in triggers:
                base.execute(sql)
            base.commit()
            base.execute("PRAGMA journal_mode = DELETE")
        return forged


def changed_program(directory: Path, file: str, *changes: tuple[str, str]) -> Path:
    """A copy of the checkout in which `file` says otherwise: (old, new) texts, each old one found exactly once.

    Run it with `PYTHONPATH` set to it and from elsewhere: the working directory goes before `PYTHONPATH`.
    """
    for name in ("actors", "adapters", "domain", "models", "Data"):
        shutil.copytree(CHECKOUT / name, directory / name)
    text = (directory / file).read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        text = text.replace(old, new)
    (directory / file).write_text(text)
    return directory
