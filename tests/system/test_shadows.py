"""Shadow models and required feeds through a whole session: over TCP, with a crash, in two segments, and replayed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from market import environment, gateway, write_config
from programs import Ended, events, run

from tests.bundles import small_bundle

pytestmark = pytest.mark.system

ASKED = ("price_usd", "ibs_pct", "es_hourly_return", "6c_hourly_return")
FEEDS = "required_reference_feeds: []\n"


def start(directory: Path, *arguments: str, until: str, **environ: str) -> Ended:
    ended = run("live", "--until", until, *arguments, cwd=directory, environ=environment(**environ))
    assert ended.code == 0, ended
    return ended


def test_shadows_are_scored_and_entries_wait_for_the_treasury_bonds_day(tmp_path: Path) -> None:
    """The first start by the defaults, with a crash; the second without required feeds and with another shadow."""
    journal = tmp_path / "journal" / "2024-05-01.db"
    shadow = small_bundle(tmp_path / "shadows", "ES", features=ASKED, seed=1, signal_product="MES")
    small_bundle(tmp_path / "shadows", "GC", features=ASKED, seed=1, signal_product="GC")
    with gateway("--simulate", "--speed", "max", "--trades", "20000") as port:
        strategy = "{veto: false, warmup_bars: 0, pivot_gate: false, entry_ibs_high: 1.0}"
        config = write_config(tmp_path, port=port, roots=("ES", "GC"), strategy=strategy, shadow_models_dir="shadows")
        assert FEEDS in config.read_text()
        config.write_text(config.read_text().replace(FEEDS, ""))
        first = start(tmp_path, "--crash", "strategy@400:handled", until="2024-05-01T02:10Z")
        assert first.logged("no shadow of this root: its model is refused")
        assert first.logged("no entries until these feeds have their last completed day")
        found = events(journal, "ShadowScored")
        assert {(event["root"], event["payload"]["digest"]) for event in found} == {("ES", shadow.digest)}
        assert sum(event["payload"]["probability"] is not None for event in found) >= 2
        signals = events(journal, "SignalEvaluated")
        assert "reference_feed_missing:TLT_day" in {signal["payload"]["reason"] for signal in signals}
        assert not events(journal, "OrderRequested")
        (opened,) = events(journal, "SessionOpened")
        refused = {record["root"]: record["refusal"] for record in opened["payload"]["shadows"]}
        assert refused == {"ES": "", "GC": "product_mismatch"}
        other = small_bundle(tmp_path / "shadows", "ES", features=ASKED, seed=2, signal_product="MES")
        second = start(tmp_path, until="2024-05-01T05:10Z", REQUIRED_REFERENCE_FEEDS="[]")
        assert second.logged("program, settings or models changed: new segment")
    assert events(journal, "ShadowScored")[-1]["payload"]["digest"] == other.digest
    assert events(journal, "OrderRequested")
    shutil.rmtree(tmp_path / "shadows")
    ended = run("replay", journal, "--json")  # each segment with the shadow that is kept beside it
    assert (ended.code, ended.lines()[0]["identical"]) == (0, True), ended
    assert ended.lines()[0]["compared"] > len(found)
    explained = run("why", journal, "ES", "2024-05-01T02:00Z")
    assert f"(seq {found[-1]['seq']}, model {shadow.digest[:12]}; it never acts)" in explained.out
