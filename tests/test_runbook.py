"""The runbook knows every exit code and every kind of alert, and the page of supervision the tree that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import actors.main
from actors.alert_words import TOLD
from actors.live import FOLLOWERS, QUIESCE_S
from actors.machines import SUBSCRIBERS

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
RUNBOOK = (DOCS / "runbook.md").read_text()
CODE = "\n".join(
    path.read_text() for package in ("actors", "adapters", "domain") for path in (CHECKOUT / package).rglob("*.py")
)


def exit_codes() -> set[int]:
    """What stands in the code as one, and what the command line's own docstring promises."""
    said = re.findall(r"\b(\d+) (?:done|diverged|usage|feed|safe|try|configuration)", str(actors.main.__doc__))
    written = re.findall(r"\bexit_code=(\d+)|(?m:^EXIT_(?!ATTEMPTS)\w+ = (\d+)$)", CODE)
    return {int(code) for code in said} | {int(code) for pair in written for code in pair if code}


def alert_kinds() -> set[str]:
    """The events that are told, and every alert with a key of its own: the first word of the key."""
    # An actor's alerts are of its two events.
    return set(TOLD) | set(re.findall(r'\bAlert\(\s*[^,()]+,\s*f?"(\w+)', CODE)) - {"actor"}


def headings(text: str) -> set[str]:
    return set(re.findall(r"(?m)^#{2,3} (.+)$", text))


def anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}


def test_every_exit_code_has_its_entry() -> None:
    codes = exit_codes()
    assert {0, 1, 2, 69, 70, 75, 78} <= codes
    entries = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", RUNBOOK)}
    assert codes - entries == set()


def test_every_kind_of_alert_has_its_entry() -> None:
    kinds = alert_kinds()
    assert {"program", "watchdog", "SafeStopRequested"} <= kinds
    assert kinds - headings(RUNBOOK) == set()


@pytest.mark.parametrize("page", ["runbook", "emergency", "supervision", "deployment"])
def test_every_link_leads_somewhere(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for file, anchor in re.findall(r"\]\(([\w.\-/]*)#?([\w\-]*)\)", text):
        target = DOCS / file if file else DOCS / f"{page}.md"
        assert target.is_file(), file
        assert not anchor or anchor in anchors(target.read_text()), f"{file}#{anchor}"


def test_the_table_of_children_and_the_picture_are_the_tree() -> None:
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| [^|]+ \| (\w+) \| (\d+) s \| ([^|]+) \|", (DOCS / "supervision.md").read_text()
    )
    machines = [name for name, _ in SUBSCRIBERS]
    assert [name for name, *_ in rows] == [*machines, "feed"]
    for name, restart, stops_within, crashed in rows:
        assert (restart == "transient") is (name == "feed")
        assert float(stops_within) == QUIESCE_S
        assert tuple(re.findall(r"then `(\w+)`", crashed)) == FOLLOWERS.get(name, ())
    drawn = re.findall(r">(\w+)<", (DOCS / "supervision.svg").read_text())
    assert [(name, drawn[drawn.index(name) + 1]) for name, *_ in rows] == [
        (name, restart) for name, restart, *_ in rows
    ]
