"""`golive-test` against the local TradersPost: one entry at most, the exit always, nothing without being asked for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.wiring import parse_time
from actors.wiring.golive import (
    RECORD_NAME,
    Pauses,
    Record,
    plan_trial,
    router_of,
    run_trial,
)
from adapters.clock import SystemClock
from adapters.config import Config, load_config
from adapters.settings import GoLive
from adapters.traderspost.ledger import LedgerSnapshot
from adapters.traderspost.local_server import LocalTradersPost
from adapters.traderspost.payload import build_payload
from adapters.traderspost.router import Timeouts, WebhookRouter
from domain.errors import OperatorError

CANARY = "c4nary-of-golive-0123456789"
TUESDAY = parse_time("2024-05-07T15:00Z")
QUICK = Pauses(before_exit_s=0.01, before_repeat_s=0.01, longest_retry_s=0.01)
SHORT = Timeouts(connect_s=0.5, read_s=0.3, total_s=1.0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "paper.yml"
    path.write_text("account: test\nsymbols: [ES, GC]\nfeed: {gateway: 127.0.0.1, port: 9}\njournal_dir: .\n")
    return load_config(path, [], {}).config


@attrs.frozen(kw_only=True)
class Ran:
    code: int
    out: list[str]
    ledger: LedgerSnapshot
    record: list[dict[str, Any]]


def run(
    config: Config,
    capsys: pytest.CaptureFixture[str],
    faults: str = "",
    pauses: Pauses = QUICK,
    record: type[Record] = Record,
) -> Ran:
    trial = plan_trial(config, "MESM4", "5045.25", TUESDAY, build_payload)
    now = SystemClock().now_ns

    async def all_of_it() -> tuple[int, LedgerSnapshot]:
        server = LocalTradersPost(password=CANARY, faults=faults)
        await server.start()
        try:
            router = WebhookRouter(server.url, is_live=False, timeouts=SHORT)
            file = record(config.journal_dir / RECORD_NAME, now)
            return await run_trial(trial, webhook=router, record=file, now=now, pauses=pauses), server.ledger()
        finally:
            await server.stop()

    code, ledger = asyncio.run(all_of_it())
    lines = (config.journal_dir / RECORD_NAME).read_text().splitlines()
    out = capsys.readouterr().out
    assert CANARY not in out + "".join(lines)
    return Ran(code=code, out=out.splitlines(), ledger=ledger, record=[json.loads(line) for line in lines])


def sent(ran: Ran) -> list[tuple[str, int]]:
    """(intent, attempt) of every attempt on record, in order."""
    return [
        (line["payload"]["intent"], line["payload"]["attempt"])
        for line in ran.record
        if line["type"] == "OrderSubmitted"
    ]


def test_one_contract_is_bought_and_sold_and_the_exit_said_twice(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(config, capsys)
    assert ran.code == 0
    assert sent(ran) == [("entry", 1), ("exit", 1), ("exit", 2)]
    assert [line["type"] for line in ran.record] == ["OrderSubmitted", "OrderAccepted"] * 3
    entry, exit = (json.loads(ran.record[i]["payload"]["body"]) for i in (0, 2))
    assert (entry["ticker"], entry["action"], entry["quantity"], entry["orderType"]) == ("MESM2024", "buy", 1, "market")
    assert (exit["ticker"], exit["action"], exit["sentiment"]) == ("MESM2024", "sell", "flat")
    assert entry["signalPrice"] == exit["signalPrice"] == 5045.25
    assert entry["extras"]["strategy"] == "golive-test"
    assert exit["extras"]["entry_signal_id"] == entry["extras"]["signal_id"]
    assert ran.ledger.positions == {}
    assert all(not record.lint for record in ran.ledger.signals.values())
    assert ran.out[0].startswith("entry 1: accepted, which is no fill (HTTP 200, id ")
    assert ran.out[-1].startswith("Now look at your broker")


@pytest.mark.parametrize(
    ("faults", "exits", "code", "said"),
    [
        ("500-after-accept@1", 2, 1, "AMBIGUOUS"),
        ("hang@1", 2, 1, "AMBIGUOUS"),
        ("rst-before-read@1", 2, 1, "AMBIGUOUS"),
        ("429:0@1", 2, 1, "not taken"),
        ("500-before-accept@2", 3, 0, "AMBIGUOUS"),
        ("429:0@2,html-200@3", 4, 0, "not taken"),
        ("rst-after-accept@3", 2, 0, "exit 2: AMBIGUOUS"),
    ],
)
def test_the_entry_is_sent_once_and_the_exit_until_it_is_accepted(
    config: Config, capsys: pytest.CaptureFixture[str], *, faults: str, exits: int, code: int, said: str
) -> None:
    ran = run(config, capsys, faults)
    assert sent(ran) == [("entry", 1), *(("exit", attempt + 1) for attempt in range(exits))]
    assert (ran.code, ran.ledger.positions) == (code, {})
    assert any(said in line for line in ran.out)
    entry = ran.record[0]["payload"]["signal_id"]
    assert entry not in ran.ledger.signals or ran.ledger.signals[entry].attempts == 1


def test_an_exit_that_is_refused_is_told_as_loudly_as_it_can_be(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(config, capsys, "redirect@2,redirect@3")
    assert ran.code == 1
    assert "THE EXIT WAS NOT ACCEPTED" in ran.out[-1]
    assert "MESM2024 by hand" in ran.out[-1]


def test_what_cannot_be_put_on_record_is_not_sent(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (config.journal_dir / RECORD_NAME).mkdir()
    with pytest.raises(OperatorError, match="nothing was sent"):
        run(config, capsys)
    assert capsys.readouterr().out == ""


def test_an_exit_does_not_wait_for_its_record(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    class FillsUp(Record):
        lines = 0

        def add(self, event: Any) -> None:
            self.lines += 1
            if self.lines > 2:
                raise OSError(28, "No space left on device")
            super().add(event)

    ran = run(config, capsys, record=FillsUp)
    assert (ran.code, sent(ran)) == (0, [("entry", 1)])
    assert "not on record (No space left on device): OrderSubmitted" in ran.out
    assert ran.ledger.positions == {}


def test_a_signal_ends_the_wait_and_not_the_exit(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """With these pauses the run would last for minutes; each signal ends one of its two waits."""

    class Impatient(Record):
        def add(self, event: Any) -> None:
            super().add(event)
            if type(event).__name__ == "OrderAccepted":
                os.kill(os.getpid(), signal.SIGINT)

    ran = run(config, capsys, pauses=Pauses(before_exit_s=200, before_repeat_s=200), record=Impatient)
    assert (ran.code, sent(ran)) == (0, [("entry", 1), ("exit", 1), ("exit", 2)])


# ------------------------------------------------------------------ guards


@pytest.mark.parametrize(
    ("contract", "price", "what"),
    [
        ("MESM2024", "5045", "'MESM2024' is no contract of MES, MGC"),
        ("MNQM4", "5045", "is no contract of MES, MGC"),
        ("MESH4", "5045", "MESH2024 has expired"),
        ("MESM4", "much", "'much' is no price"),
        ("MESM4", "NaN", "'NaN' is no price"),
        ("MESM4", "1e-12", "is no price"),
    ],
)
def test_what_cannot_be_traded_is_refused(config: Config, contract: str, price: str, what: str) -> None:
    with pytest.raises(OperatorError, match=what) as caught:
        plan_trial(config, contract, price, TUESDAY, build_payload)
    assert (caught.value.exit_code, bool(caught.value.fix)) == (2, True)


def test_in_live_mode_it_needs_an_open_market_and_time_for_the_exit(config: Config) -> None:
    live = attrs.evolve(config, mode="live")
    assert plan_trial(live, "MESM4", "5045", TUESDAY, build_payload).entry.ticker == "MESM2024"
    for closed in ("2024-05-04T15:00Z", "2024-05-07T20:55Z", "2024-05-07T21:30Z"):
        with pytest.raises(OperatorError, match="ES trades from"):
            plan_trial(live, "MESM4", "5045", parse_time(closed), build_payload)


def test_in_live_mode_it_sends_only_to_what_is_said_to_be_a_paper_account(tmp_path: Path, config: Config) -> None:
    real = {"TRADERSPOST_WEBHOOK_URL": "https://webhooks.traderspost.io/trading/webhook/1111-2222/" + CANARY}
    secret = load_config(tmp_path / "paper.yml", [], real).config.webhook_url
    live = attrs.evolve(config, mode="live", webhook_url=secret)
    with pytest.raises(OperatorError, match="a paper account"):
        router_of(live)
    said = attrs.evolve(live, golive=GoLive(paper_account=True))
    assert repr(router_of(said)) == "WebhookRouter(WebhookUrl(https://webhooks.traderspost.io/***))"
    with pytest.raises(OperatorError, match="mode: paper must not send to the real TradersPost"):
        router_of(attrs.evolve(said, mode="paper"))
    with pytest.raises(OperatorError, match="nothing to send to"):
        router_of(config)
