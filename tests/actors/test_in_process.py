"""The system in one thread: what the README shows, and that the seed does not matter."""

from __future__ import annotations

import pytest

from actors.replay import replay
from actors.wiring import MACHINE_PARTS, parse_time
from actors.wiring.in_process import in_process_system
from adapters.sqlite.codec import Codec
from domain.events import OrderNotSent, OrderRejected, OrderSubmitted, Outcome
from domain.units import float_to_price


def test_an_hour_that_closes_on_its_low_is_bought() -> None:
    system = in_process_system({"ES": "MESM4"}, warmup_bars=0, pivot_gate=False)
    system.trade("MESM4", parse_time("2024-05-01T13:00:01Z"), float_to_price(5100.00))
    system.trade("MESM4", parse_time("2024-05-01T13:59:58Z"), float_to_price(5090.00))
    system.advance(parse_time("2024-05-01T14:00:00Z"))
    (request,) = system.events("OrderRequested")
    assert (request.intent, request.side, request.contract) == ("entry", "buy", "MESM4")


def refuse_the_nasdaq_and_lose_every_first_attempt(submitted: OrderSubmitted) -> Outcome:
    common = {"root": submitted.root, "signal_id": submitted.signal_id, "attempt": submitted.attempt}
    if submitted.root == "NQ":
        return OrderRejected(**common, http_status=400, code="ticker-does-not-exist", message="")
    if submitted.attempt == 1:
        return OrderNotSent(**common, cause="connection refused")
    from actors.in_process import accept

    return accept(submitted)


@pytest.mark.parametrize("seed", range(8))
def test_every_seed_gives_the_same_journal_and_it_replays(seed: int) -> None:
    journals = []
    for chosen in (0, seed):
        system = in_process_system(
            {"ES": "MESM4", "NQ": "MNQM4", "RTY": "M2KM4", "YM": "MYMM4"},
            seed=chosen,
            answer=refuse_the_nasdaq_and_lose_every_first_attempt,
            warmup_bars=0,
            pivot_gate=False,
            entry_order="limit",
            cancel_after_s=3600,
        )
        for hour in range(13, 20):
            for minute in range(0, 60, 7):
                for place, contract in enumerate(("MESM4", "MNQM4", "M2KM4", "MYMM4")):
                    ts = parse_time(f"2024-05-01T{hour}:{minute:02d}:{10 + place:02d}Z")
                    # Odd hours close on their low; even ones fall on through the limit and then rise, or
                    # (the Dow) rise at once, so that its limit is never met and expires on a decision bar.
                    points = -minute if hour % 2 else minute if place == 3 else -66 + 2 * max(0, minute - 14)
                    system.trade(contract, ts, float_to_price(5000.0 + 100 * place + points))
        system.advance(parse_time("2024-05-01T20:00:00Z"))
        journals.append([(e.seq, e.cause, e.type, e.raw) for e in system.envelopes() if e.type != "SessionOpened"])
        kinds = {envelope.type for envelope in system.envelopes()}
        assert {"OrderRequested", "OrderRejected", "OrderNotSent", "OrderExpired", "FillAssumed"} <= kinds
        result = replay(system.envelopes(), parts=MACHINE_PARTS, codec=Codec(), is_finished=True)
        assert result.divergence is None
        assert result.compared > 100
    assert journals[0] == journals[1]
