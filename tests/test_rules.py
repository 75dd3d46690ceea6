"""House rules that a linter does not know: what decides must not touch clock, chance or the machine it runs on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from actors.wiring import DECISION_CODE

CHECKOUT = Path(__file__).resolve().parents[1]
DECIDING = [
    *sorted((CHECKOUT / "domain").rglob("*.py")),
    *sorted((CHECKOUT / "adapters" / "backtrader").glob("*.py")),
    CHECKOUT / "adapters" / "traderspost" / "payload.py",
    *(
        CHECKOUT / "actors" / f"{name}.py"
        for name in (
            *("account", "bars", "closes", "execution", "holdings", "machines"),
            *("outbox", "roll_supervisor", "strategy"),
        )
    ),
    *(CHECKOUT / "models" / f"{name}.py" for name in ("bundle", "compiled_walk", "forest", "manifest", "walk")),
]
"""Everything that a replay runs between an input and a decision."""

FORBIDDEN_MODULES = {"time", "random", "uuid", "secrets", "os", "socket", "threading", "asyncio", "subprocess"}
FORBIDDEN_CALLS = {"now", "utcnow", "today", "default_rng", "urandom", "getenv", "hash", "id", "input", "open"}
ALLOWED = {
    ("adapters/backtrader/engine.py", "open"): "the stepper's open(): it starts the engine, no file",
}
"""(file, call) pairs with the reason why nothing outside the record is touched."""


def touches(tree: ast.AST) -> set[str]:
    """Names of forbidden modules imported and forbidden functions called."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module.partition(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {name} & FORBIDDEN_CALLS
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Set | ast.SetComp):
            found.add("iteration over a set")
    return found


def test_the_code_digest_covers_exactly_what_decides() -> None:
    places = [CHECKOUT / name for name in DECISION_CODE]
    covered = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    assert sorted(covered) == sorted(DECIDING)


@pytest.mark.parametrize("path", DECIDING, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_what_decides_touches_nothing_but_the_record(path: Path) -> None:
    name = path.relative_to(CHECKOUT).as_posix()
    excused = {call for file, call in ALLOWED if file == name}
    assert touches(ast.parse(path.read_text())) - excused == set()


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import choice",
        "import datetime as dt\ndt.datetime.now()",
        "import numpy as np\nnp.random.default_rng()",
        "for x in {1, 2}: pass",
        "hash('x')",
    ],
)
def test_the_rule_can_be_broken(source: str) -> None:
    assert touches(ast.parse(source))


def test_every_exception_is_still_needed() -> None:
    for file, call in ALLOWED:
        assert call in touches(ast.parse((CHECKOUT / file).read_text())), f"{file} no longer calls {call}"
