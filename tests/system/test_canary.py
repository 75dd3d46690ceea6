"""Canaries in place of every secret: whatever goes wrong, they are in no output, no log and no file."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest
from market import environment, ledger, write_config

pytestmark = pytest.mark.system

KEY = "db-Canary7Key5of9the3gateway1x0"
UUID = "5c4na2y0-uuid-4111-8222-93334c4na2y0"
PASSWORD = "c4nary-password.of~the_webhook"
ALERT = "c4nary-token-of-the-alerts"
WRONG_KEY = "db-Canary8Key6of0the4gateway2x1"
CANARIES = (KEY, WRONG_KEY, UUID, PASSWORD, ALERT)

UNTIL = "2024-04-30T22:30:00Z"
STRATEGY = (
    "{veto: false, decision_timeframe: 1m, warmup_bars: 2, pivot_gate: false, entry_windows: ['00:00-24:00'], "
    "no_entry_before_auto_close_s: 0, entry_ibs_high: 0.6, exit_ibs_low: 0.6, exit_after_bars: 2}"
)
FAULTS_SEEN = {"429", "500-before-accept", "500-after-accept", "redirect", "html-200", "truncated-200", "hang"}
FAULTS = (
    "429@1,500-before-accept@3,500-after-accept@5,rst-before-read@7,rst-after-accept@9,fin-after-accept@11,"
    "redirect@13,html-200@15,truncated-200@17,delay:0.1@19,hang@21"
)


def forms(canary: str) -> Iterable[bytes]:
    """The canary as text, as a URL writes it, and what of its base64 does not depend on its neighbours."""
    yield canary.encode()
    yield quote(canary, safe="").encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + canary.encode())
        yield encoded[4 if before else 0 : -4]


def leaks(places: Mapping[str, bytes]) -> list[str]:
    """Where a canary is found."""
    return [
        f"{canary} in {name}: {content[max(0, at - 80) : at + 80]!r}"
        for name, content in places.items()
        for canary in CANARIES
        for form in forms(canary)
        if (at := content.find(form)) >= 0
    ]


def talkative(arguments: Iterable[str | Path]) -> list[str]:
    return [sys.executable, "-m", "actors.main", "--log-level", "debug", *map(str, arguments)]


@attrs.frozen
class Ended:
    code: int
    out: bytes
    err: bytes


def program(environ: Mapping[str, str], *arguments: str | Path) -> Ended:
    """A command to its end."""
    ended = subprocess.run(
        talkative(arguments), capture_output=True, timeout=100, env=environment(**environ), check=False
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@contextlib.contextmanager
def served(place: Path, *arguments: str) -> Iterator[str]:
    """A server whose words are kept in `place`; its address."""
    with (place / f"{arguments[0]}.stderr").open("wb") as log:
        process = subprocess.Popen(
            talkative(arguments), stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
        )
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            (place / f"{arguments[0]}.stdout").write_text(process.communicate(timeout=30)[0])


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for canary in CANARIES:
        for spoken in (canary, f"at {quote(canary, safe='')} it", base64.b64encode(f"x{canary}y".encode()).decode()):
            (tmp_path / "place").write_text(spoken)
            assert leaks(files(tmp_path)), spoken


def test_no_secret_is_found_anywhere_after_a_session_with_every_fault(tmp_path: Path) -> None:
    with (
        served(tmp_path, "gateway", "--key", KEY, "--simulate", "--speed", "max", "--trades", "30000") as gate,
        served(
            tmp_path, "traderspost", "--clock", "request", "--uuid", UUID, "--password", PASSWORD, "--faults", FAULTS
        ) as post,
        ThreadPoolExecutor(2) as pool,
    ):
        config = write_config(
            tmp_path, port=int(gate.rpartition(":")[2]), strategy=STRATEGY, roots=("ES", "NQ", "GC", "CL")
        )
        secrets = {
            "DATABENTO_API_KEY": KEY,
            "TRADERSPOST_WEBHOOK_URL": f"http://{post}/trading/webhook/{UUID}/{PASSWORD}",
            "ALERT_URLS": f"json://127.0.0.1:1/{ALERT}",
        }
        live = ("live", "--config", config, "--until", UNTIL, "--crash", "execution@60")
        elsewhere = ("live", "--config", config, "--journal-dir", tmp_path / "other")
        wrong_url = {"TRADERSPOST_WEBHOOK_URL": secrets["TRADERSPOST_WEBHOOK_URL"].replace("webhook", "hook")}
        session = pool.submit(program, secrets, *live)
        others = [
            pool.submit(program, secrets | {"DATABENTO_API_KEY": WRONG_KEY}, *elsewhere),
            pool.submit(program, secrets | wrong_url, *elsewhere),
            pool.submit(program, secrets, "config", "show", "--config", config, "--sources"),
        ]
        assert session.result().code == 0, session.result()
        answers = {answer for record in ledger(post)["signals"].values() for answer in record["answers"]}
        assert answers >= FAULTS_SEEN
        (journal,) = (tmp_path / "journal").glob("*.db")
        readings = (
            ("replay", journal),
            ("journal", "events", journal),
            ("why", journal, "ES", "2024-04-30T22:10Z"),
            ("positions", journal),
        )
        others += [pool.submit(program, secrets, *reading) for reading in readings]
        ended = [each.result() for each in (session, *others)]
    assert [each.code for each in ended] == [0, 78, 78, 0, 0, 0, 0, 0], ended
    assert b"actor crashed" in ended[0].err
    said = {f"output of run {i}": run.out + run.err for i, run in enumerate(ended)}
    assert leaks(said | files(tmp_path)) == []
