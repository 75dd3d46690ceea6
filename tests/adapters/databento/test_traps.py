"""Every trap of a live feed, with the real client and our gateway: what is on file afterwards is what was sent.

One row is one trap: what the gateway does to us, and what the feed must have said about it. The trades on file must
be the gateway's, record for record and in its order; `test_what_is_gone_for_good_is_said` has the few exceptions.
"""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from databento_dbn import UNDEF_TIMESTAMP

from actors.feed_memory import ReplayFilter
from adapters.databento.gateway_faults import FaultPlan, parse_faults
from adapters.databento.gateway_source import GatewaySource, rebased_to
from adapters.databento.symbology import MappedSymbol
from domain.market import TradeArray
from domain.sessions import to_nanos
from domain.units import MINUTE, SECOND, Nanos
from tests.adapters.databento.bridge import CONTRACTS, IDS, WAIT_S, Bridge, gateway_of, market, recorded
from tests.builders import CLOSE, OPEN

CLOSED = "closed by the gateway"
SILENT = "the gateway sent nothing for 2 s"

# Trap: (the gateway's faults, why the feed says it had to connect again: a part of each reason, in order).
TRAPS = {
    "nothing at all": ("", []),
    "FIN": ("fin@3000", [CLOSED]),
    "FIN right after the first record": ("fin@1", [CLOSED]),
    "FIN twice, the second within the replay": ("fin@3000,fin@3010", [CLOSED, CLOSED]),
    "RST": ("rst@3000", ["reset"]),
    "RST right after a replay": ("rst@3000,rst@4500", ["reset", "reset"]),
    "gateway down for a second, then begun anew": ("restart@3000:1", [""]),
    "hang after records": ("hang@3000", [SILENT]),
    "hang before the first record of a connection": ("stall@3000", [CLOSED]),
    "mute gateway: accepts and never speaks": ("mute@3000", [CLOSED]),
    "garbage between records": ("garbage@3000", ["record"]),
    "the stream of another dataset": ("metadata@3000", [CLOSED]),
    "error 3, too many connections": ("error3@3000", ["connection limit exceeded"]),
    "error 4, a symbol is unknown: not ours to mend": ("error4@3000", []),
    "error 6, internal": ("error6@3000", ["internal error"]),
    "error 7, records were skipped": ("skip@3000:500", ["skipped records after slow reading"]),
    "slow reader warning": ("slow@3000", []),
    "an error in every session": ("error6@1,error6@2,error6@3,error6@4", ["internal error"]),
    "byte-identical duplicates, a FIN and an RST": ("duplicate:10,fin@4000,rst@7000", [CLOSED, "reset"]),
    "ts_event out of order, and FINs": ("reorder:45,fin@3000,fin@6000,fin@9000", [CLOSED, CLOSED, CLOSED]),
    "every mapping repeated": ("remap@3000", []),
    "a symbol mapped late": ("late@700", []),
    "a symbol mapped late, after an RST": ("rst@300,late@1500", []),
    "all of it": (
        "duplicate:3,reorder:3,fin@900,rst@2000,error6@3000,skip@4000,remap@5000,garbage@6000,restart@7000,rst@8000",
        [CLOSED],
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_is_on_file_is_what_was_sent(trap: str) -> None:
    faults, reasons = TRAPS[trap]
    with gateway_of(faults=faults) as gateway:
        bridge = Bridge(gateway.port)
        finished = bridge.run()
    assert finished is not None
    assert finished.reason == "exhausted"
    assert_same(bridge.trades(), FaultPlan(parse_faults(faults)).disturb(0, market()))
    said = [reason for status, reason in bridge.statuses() if status == "reconnecting"]
    assert all(part in reason for part, reason in zip(reasons, said, strict=False)), said
    assert len(said) >= len(reasons)
    assert bridge.statuses()[-1] == ("live", "subscribed")
    assert "gap" not in dict(bridge.statuses())
    assert sorted(raw for raw, _ in bridge.mappings()) == sorted(CONTRACTS.values()), "an identical mapping is nothing"


def assert_same(found: TradeArray, sent: TradeArray) -> None:
    assert len(found) == len(sent)
    different = np.flatnonzero(found != sent)
    assert not len(different), f"{len(different)} records differ, the first at {different[0]}"


# ---------------------------------------------------------------- data that traps


def with_stamps(*, ts_event: bool, ts_recv: bool) -> TradeArray:
    """The market with undefined stamps in two of a hundred records."""
    trades = market().copy()
    if ts_event:
        trades["ts_event"][7::100] = UNDEF_TIMESTAMP
    if ts_recv:
        trades["ts_recv"][9::100] = UNDEF_TIMESTAMP
    return trades


def test_undefined_stamps_do_not_move_the_resume_point() -> None:
    sent = with_stamps(ts_event=True, ts_recv=False)
    with gateway_of(recorded(sent), faults="rst@2000,fin@4000,error6@6007") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert_same(bridge.trades(), sent)


def test_a_stamp_from_the_future_does_not_move_the_resume_point() -> None:
    sent = market().copy()
    sent["ts_event"][5::50] += np.uint64(3600 * 10**9)
    with gateway_of(recorded(sent), faults="rst@2000,fin@4000,error6@6005") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert_same(bridge.trades(), sent)


def test_a_record_whose_ts_event_lies_before_what_is_on_file_is_not_lost() -> None:
    """The first record of each minute, where a batch ends and a connection goes on, happened before those on file."""
    sent = market().copy()
    minutes = sent["ts_recv"] // np.uint64(MINUTE)
    sent["ts_event"][1:][minutes[1:] > minutes[:-1]] -= np.uint64(3 * SECOND // 2)
    with gateway_of(recorded(sent), faults="fin@3500,fin@6500,fin@9500") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert_same(bridge.trades(), sent)


def test_a_contract_that_gets_another_id_in_mid_session_goes_on() -> None:
    """The file says so by date; the gateway maps again at midnight UTC, and the feed puts it on record."""
    sent, half = market().copy(), len(market()) // 2
    midnight = np.uint64(to_nanos(dt.datetime(2024, 5, 1, tzinfo=dt.UTC)))
    shift = midnight - sent["ts_recv"][half]
    sent["ts_recv"] += shift
    sent["ts_event"] += shift
    old, new = IDS["MESM4"], 77
    sent["instrument_id"][(sent["instrument_id"] == old) & (sent["ts_recv"] >= midnight)] = new
    days = [dt.date(2024, 4, 30) + dt.timedelta(days=number) for number in range(3)]
    mappings = [
        MappedSymbol(symbol=raw, instrument_id=new if day == days[1] and key == old else key, start=day, end=following)
        for day, following in pairwise(days)
        for raw, key in IDS.items()
    ]
    with gateway_of(recorded(sent, mappings), faults=f"rst@{half - 1000},rst@{half + 1500}") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert_same(bridge.trades(), sent)
    assert bridge.mappings()[-1] == ("MESM4", new)
    assert set(bridge.mappings()) == {*IDS.items(), ("MESM4", new)}


def test_a_contract_that_the_gateway_does_not_know_keeps_no_other_one_back() -> None:
    sent = market()[market()["instrument_id"] != IDS["MGCM4"]]
    known = [m for m in recorded(sent).recorded.symbology.mappings if m.symbol != "MGCM4"]
    with gateway_of(recorded(sent, known), faults="rst@3000") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert_same(bridge.trades(), sent)
    assert bridge.statuses()[-1] == ("live", "subscribed")


def test_records_that_come_before_their_mapping_are_held_and_hold_up_nobody() -> None:
    with gateway_of(faults="late@7000", speed=200.0) as gateway:
        bridge = Bridge(gateway.port, next_contracts=("NQ",))
        bridge.run()
    found = bridge.trades()
    is_late, was_sent_late = (trades["instrument_id"] == IDS["MNQM4"] for trades in (found, market()))
    assert_same(found[is_late], market()[was_sent_late])
    assert_same(found[~is_late], market()[~was_sent_late])
    assert np.flatnonzero(is_late)[0] > 1_000, "they did not come late: the test shows nothing"


# ---------------------------------------------------------------- ourselves


def test_a_slow_consumer_stops_the_gateway_and_loses_nothing() -> None:
    with gateway_of(faults="rst@5000") as gateway:
        bridge = Bridge(gateway.port, queue_limit=16)
        bridge.run()
    assert_same(bridge.trades(), market())


@pytest.mark.parametrize("is_gateway_new", [False, True])
def test_a_process_that_is_started_again_goes_on_from_the_journal(is_gateway_new: bool) -> None:
    with gateway_of(faults="rst@1000") as gateway:
        bridge = Bridge(gateway.port)
        for count in (2_000, 4_000):
            bridge.run(until=lambda bridge, count=count: bridge.count() >= count)  # type: ignore[misc]
        assert 4_000 <= bridge.count() < len(market())
        if not is_gateway_new:
            bridge.run()
    if is_gateway_new:
        with gateway_of() as gateway:
            bridge.port = gateway.port
            bridge.run()
    assert_same(bridge.trades(), market())


@pytest.mark.parametrize("down_s", [2, pytest.param(90, marks=pytest.mark.soak)])
def test_a_gateway_that_is_down_is_waited_for(down_s: int) -> None:
    """From the first connection on: there is no gateway at all for seconds, in the soak for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bridge = Bridge(port)
    opening = threading.Timer(down_s, (gateway := gateway_of(port=port)).__enter__)
    opening.start()
    try:
        bridge.run(limit_s=down_s + WAIT_S)
    finally:
        opening.join()
        gateway.stop()
    assert_same(bridge.trades(), market())


# ---------------------------------------------------------------- what cannot be mended


@pytest.mark.parametrize(
    ("code", "words"), [(1, "auth failed"), (2, "api key deactivated"), (5, "invalid subscription")]
)
def test_a_refusal_ends_it_and_tells_the_operator_what_to_do(code: int, words: str) -> None:
    with gateway_of(faults=f"error{code}@3000") as gateway:
        bridge = Bridge(gateway.port)
        finished = bridge.run()
    assert finished is not None
    assert finished.reason == "refused"
    assert finished.error is not None
    assert finished.error.what == f"the gateway refuses us for good: Injected error {code} ({words})"
    assert finished.error.fix
    assert bridge.statuses()[-1] == ("stale", finished.error.what)
    assert finished.error.exit_code == 78


def test_what_is_gone_for_good_is_said() -> None:
    # The second connection's replay ends with error 8 before its end: from then on the feed asks for none.
    with gateway_of(faults="fin@3000,error8@3100") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    assert ("gap", "Injected error 8 (replay data aged out)") in bridge.statuses()
    assert bridge.statuses()[-1][0] == "live"
    found = bridge.trades()
    assert 0 < len(found) < len(market())
    assert_in_order(found)


def test_a_replay_that_leaves_out_what_is_on_file_is_a_gap() -> None:
    with gateway_of(faults="omit@6000") as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    (gap,) = [reason for status, reason in bridge.statuses() if status == "gap"]
    assert "records that are on file: others may be missing too" in gap
    assert bridge.statuses()[-1][0] == "live"
    assert_in_order(bridge.trades())


# ---------------------------------------------------------------- in real time


def now_playing(count: int) -> GatewaySource:
    """The market's first trades, the first one a second from now."""
    return rebased_to(recorded(market()[:count]).recorded, Nanos(time.time_ns()))


def test_a_slow_reader_is_stale_until_it_has_caught_up() -> None:
    with gateway_of(now_playing(2_000), faults="slow@120", is_real_time=True) as gateway:
        bridge = Bridge(gateway.port, is_real_time=True)
        bridge.run(until=lambda bridge: ("live", "caught up") in bridge.statuses())
    assert bridge.statuses() == [
        ("live", "subscribed"),
        ("stale", "The client reads too slowly"),
        ("live", "caught up"),
    ]


@pytest.mark.parametrize("is_weekend_over", [False, True])
def test_what_the_vendor_can_no_longer_replay_is_a_gap_where_there_was_a_market(is_weekend_over: bool) -> None:
    with gateway_of() as gateway:
        bridge = Bridge(gateway.port)
        bridge.run()
    with gateway_of(now_playing(500), is_real_time=True) as gateway:
        bridge.port, bridge.is_real_time, bridge.opens_now = gateway.port, True, is_weekend_over
        before = len(bridge.statuses())
        bridge.run(until=lambda bridge: len(bridge.statuses()) > before and bridge.statuses()[-1][0] == "live")
    gap = ("gap", "the last record is older than the vendor's replay")
    assert (gap in bridge.statuses()[before:]) is not is_weekend_over


def test_what_is_not_subscribed_any_more_is_missed_by_nobody() -> None:
    """After a roll the old contract's last records are on file, and no replay brings them."""
    overlap = market()[:200]
    missed = int((overlap["instrument_id"] == IDS["MESM4"]).sum())
    assert 0 < missed < 200
    assert ReplayFilter(overlap, OPEN).finish({IDS["MESM4"]}) == missed
    assert ReplayFilter(overlap, CLOSE).finish({IDS["MESM4"]}) == 0


def assert_in_order(found: TradeArray) -> None:
    """Nothing twice and nothing out of place: a subsequence of the market."""
    place = -1
    sent = [record.tobytes() for record in market()]
    for record in found:
        place = sent.index(record.tobytes(), place + 1)
