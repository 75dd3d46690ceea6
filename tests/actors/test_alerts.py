"""Alerts: what is told of each event, and that no channel ever disturbs the session or another channel."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.alert_words import SEVERITIES, SILENT, TOLD, Alert, Severity, Teller
from actors.alerts import MAX_LINES, MAX_WAITING, Alerts
from actors.carry import fresh_state
from actors.sequencer import Sequencer
from actors.tally import Tally
from adapters.memory import MemoryJournal
from adapters.sqlite.journal import JournalFile
from domain import events
from domain.events import EVENT_TYPES, Event
from domain.positions import Position
from domain.risk import RiskSettings
from domain.units import Nanos
from tests.builders import CODEC, PRICE, Record, at, opened_session, request_of, write_journal

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10.0

ENTRY: dict[str, Any] = {"root": "ES", "signal_id": "entry-1"}
EXIT: dict[str, Any] = {"root": "ES", "signal_id": "exit-1"}
REQUESTS = (request_of("entry-1"), request_of("exit-1", intent="exit", entry_signal_id="entry-1"))
POSITION = Position(root="ES", contract="ESM4", quantity=2, price=PRICE, opened_ns=at(60), entry_signal_id="entry-1")
STATE = fresh_state()


def told(*before: Event, event: Event, **opened: Any) -> Alert | None:
    """What is told of `event` after `before` in a session."""
    record, tally = Record(), Tally()
    teller = Teller(tally)
    alert = None
    for each in (opened_session(**opened), *REQUESTS, *before, event):
        envelope = record.put(each)
        tally.fold(envelope)
        alert = teller.tell(envelope)
    return alert


LIVE = {"mode": "live"}
HOLD = {"risk": RiskSettings(unknown_policy="hold")}
DOWN = events.FeedStatusChanged(status="stale", reason="silence")
STALE = events.RootStatusChanged(root="GC", status="stale", reason="GCM4 is not mapped")
SILENT_MARKET = events.MarketStatusChanged(status="market_silent", since=at(60))
UNWATCHED = events.PositionUnwatched(root="ES", contract="ESM4", quantity=2, since=at(60), reason="feed not live")
OPEN = events.BreakerChanged(state="open", reason="3 failures")
HARD_OPEN = events.BreakerChanged(state="hard_open", reason="invalid-password")
CLOSED = events.EntriesClosed(reason="journal writer stalled")
ACCEPTED_EXIT = events.OrderAccepted(**EXIT, attempt=1, http_status=200, external_id="x")

Words = tuple[str, ...]
# fmt: off
WORDING: tuple[tuple[Event, Severity, Words, tuple[Event, ...], dict[str, Any]], ...] = (
    (events.OrderAccepted(**ENTRY, attempt=1, http_status=200, external_id="x"), "info",
     ("ES entry, buy 1 ESM4", "accepted, not a fill"), (), {}),
    (events.OrderRejected(**ENTRY, attempt=1, http_status=400, code="invalid-ticker", message="no"), "warning",
     ("rejected", "invalid-ticker", "HTTP 400"), (), {}),
    (events.OrderRejected(**EXIT, attempt=1, http_status=400, code="invalid-ticker", message="no"), "critical",
     ("ES exit", "rejected", "held until an exit is accepted"), (), {}),
    (events.OrderAmbiguous(**ENTRY, attempt=1, cause="read timeout"), "critical",
     ("may or may not be live, do not resend", "read timeout", "closes it on its side after 60 s"), (), {}),
    (events.OrderAmbiguous(**ENTRY, attempt=1, cause="read timeout"), "critical",
     ("do not resend", "waits until you resolve it (unknown_policy: hold)"), (), HOLD),
    (events.OrderAmbiguous(**ENTRY, attempt=1, cause="touched"), "critical", ("may or may not be live",),
     (events.OrderAccepted(**ENTRY, attempt=1, http_status=200, external_id="x"),), {}),
    (events.OrderAmbiguous(root="NQ", signal_id="nobody-knows", attempt=1, cause="restart"), "critical",
     ("NQ order nobody-knows", "do not resend"), (), {}),
    (events.OrderAmbiguous(**EXIT, attempt=1, cause="reset"), "warning",
     ("do not resend", "sends an exit again until one is accepted"), (), {}),
    (events.OrderExpired(**ENTRY, reason="time_limit"), "info", ("ended without a fill (time_limit)",), (), {}),
    (events.ExitOverdue(**EXIT, attempts=9, since_ns=at(60)), "critical",
     ("9 attempts since 2024-04-30T23:00:00Z", "look at the broker"), (), {}),
    (OPEN, "warning", ("does not answer", "exits are still tried"), (), {}),
    (HARD_OPEN, "critical", ("refuses the webhook", "invalid-password"), (), {}),
    (events.BreakerChanged(state="closed", reason="probe"), "critical", ("answers again",), (HARD_OPEN,), {}),
    (events.RiskTripped(rule="daily_loss", detail="-500 of -400", action="flatten"), "critical",
     ("daily_loss", "-500 of -400", "closing what is held"), (), {}),
    (events.FillAssumed(**EXIT, contract="ESM4", intent="exit", side="sell", quantity=2, price=PRICE, ts=at(60),
                        rule="next_trade", pnl=Decimal("-12.50")), "info",
     ("sell 2 ESM4 at 5000", "assumed by rule next_trade, not a broker's report", "P&L -12.50"), (), {}),
    (events.PositionResolved(root="ES", contract="ESM4", quantity=-2, price=PRICE, reason="saw it"), "info",
     ("operator says -2 ESM4", "saw it"), (), {}),
    (events.SessionReconciled(session="2024-05-01", source="report.csv", fills=4, differences=1), "warning",
     ("4 fills, 1 differences",), (), {}),
    (attrs.evolve(STATE, positions=(POSITION,), unreconciled=("2024-04-30",)), "warning",
     ("positions carried into this session: +2 ESM4", "2024-04-30"), (), {}),
    (attrs.evolve(STATE, unconfirmed=("ES",)), "critical", ("confirmed by you", "ES"), (), {}),
    (events.RollDue(root="ES", from_contract="ESM4", to_contract="ESU4", rule="volume", evidence="9 to 8",
                    policy="close", close_ns=at(60)), "info",
     ("ES leaves ESM4", "goes on in ESU4", "volume (9 to 8)", "closed at 2024-04-30T23:00:00Z"), (), {}),
    (events.ContractRolled(root="ES", from_contract="ESM4", to_contract="ESU4", rule="vendor", evidence="mapping",
                           difference=None), "info", ("ES rolls from ESM4 to ESU4",), (), {}),
    (DOWN, "warning", ("feed stale (silence)", "no entries"), (), {}),
    (events.FeedStatusChanged(status="gap", reason="aged out"), "warning", ("missing for good",), (), {}),
    (events.FeedStatusChanged(status="live", reason="caught up"), "warning", ("live again",), (DOWN,), {}),
    (STALE, "warning", ("GC is stale (GCM4 is not mapped)", "nothing that reads it is entered"), (), {}),
    (events.RootStatusChanged(root="GC", status="live", reason=""), "warning", ("GC is live again",), (STALE,), {}),
    (SILENT_MARKET, "warning", ("no trade in any root since 2024-04-30T23:00:00Z", "no entries"), (), {}),
    (events.MarketStatusChanged(status="trading", since=at(61)), "warning", ("trades again",), (SILENT_MARKET,), {}),
    (events.RootReset(root="GC", since=at(60), reason="mapping changed"), "warning",
     ("GC", "not whole (mapping changed)", "positions and exits stay"), (), {}),
    (events.RootHalted(root="ES", error="ZeroDivisionError: no such bar"), "critical",
     ("no such bar", "closed", "until `enable ES`", "Other roots go on"), (), {}),
    (events.MessageSkipped(actor="bars", seq=7, type="TradesReceived", error="ValueError: odd"), "critical",
     ("bars", "seq 7 (TradesReceived)", "ValueError: odd", "HALTED until `resume`"), (), {}),
    (UNWATCHED, "critical", ("+2 ESM4", "feed not live", "nothing closes it before the auto-close"), (), {}),
    (UNWATCHED, "critical", ("closed after 120 s",), (), {"risk": RiskSettings(stale_flatten_s=120)}),
    (events.ActorCrashed(actor="feed", at_seq=7, error="OSError: gone"), "warning",
     ("actor feed crashed at seq 7: OSError: gone",), (), {}),
    (events.ActorRestarted(actor="feed", incarnation=2, at_seq=7), "warning", ("incarnation 2",), (), {}),
    (events.ActorRestarted(actor="process", incarnation=2, at_seq=7), "warning",
     ("started again", "may be lost", "Positions: +2 ESM4"), (attrs.evolve(STATE, positions=(POSITION,)),), {}),
    (CLOSED, "warning", ("no entries: journal writer stalled", "Exits still leave"), (), {}),
    (events.EntriesOpened(reason="caught up"), "warning", ("allowed again",), (CLOSED,), {}),
    (events.CommandReceived(command="resolve", argument="ES", quantity=-2, reason="saw it"), "warning",
     ("resolve ES -2 (saw it)",), (), {}),
    (events.SafeStopRequested(reason="disk"), "critical", ("safe stop", "disk"), (), {}),
    (events.SessionStopped(reason="signal", positions=(POSITION,)), "critical",
     ("POSITIONS LEFT OPEN", "+2 ESM4"), (), LIVE),
    (events.SessionStopped(reason="signal", positions=(POSITION,)), "warning", ("POSITIONS LEFT OPEN",), (), {}),
    (events.SessionStopped(reason="signal"), "info", ("no positions open",), (), LIVE),
    (events.SessionClosed(events=9, decisions=3, orders=2, head=""), "info",
     ("session 2024-05-01 closed", "3 decisions, 1 entries, 1 exits", "by assumed fills"), (), {}),
)
# fmt: on


@pytest.mark.parametrize(("event", "severity", "words", "before", "opened"), WORDING)
def test_an_event_is_told_with_its_severity_in_words_that_promise_nothing(
    event: Event, severity: Severity, words: Words, before: tuple[Event, ...], opened: dict[str, Any]
) -> None:
    alert = told(*before, event=event, **opened)
    assert alert is not None
    assert alert.severity == severity
    for word in words:
        assert word in alert.text


def test_each_event_type_is_told_or_silent_for_a_reason_and_each_told_one_is_tried_here() -> None:
    assert set(TOLD) | set(SILENT) == set(EVENT_TYPES)
    assert not set(TOLD) & set(SILENT)
    assert all(SILENT.values())
    assert {type(event).__name__ for event, *_ in WORDING} == set(TOLD)
    table, rest = (CHECKOUT / "docs" / "alerts.md").read_text().split("Not told:")
    assert all(f"`{name}`" in table for name in TOLD)
    assert all(f"`{name}`" in rest for name in SILENT)


@pytest.mark.parametrize(
    ("event", "before"),
    [
        (events.FeedStatusChanged(status="live", reason="subscribed"), ()),
        (events.BreakerChanged(state="closed", reason="x"), ()),
        (events.EntriesOpened(reason="x"), ()),
        (STATE, ()),
        (ACCEPTED_EXIT, (ACCEPTED_EXIT,)),
        (events.OrderAmbiguous(**EXIT, attempt=2, cause="reset"), (ACCEPTED_EXIT,)),
        (events.OrderRejected(**EXIT, attempt=2, http_status=400, code="x", message="y"), (ACCEPTED_EXIT,)),
        (events.OrderNotSent(**ENTRY, attempt=1, cause="refused"), ()),
    ],
)
def test_nothing_is_told_where_nothing_has_changed_for_the_operator(event: Event, before: tuple[Event, ...]) -> None:
    assert told(*before, event=event) is None


# ---------------------------------------------------------------- delivery


class Pigeon:
    """Implements `actors.alerts.AlertChannel`: keeps what it was given, fails and hangs as it is told to."""

    kind = "Pigeon"

    def __init__(self, min_severity: Severity = "info", *, failures: int = 0) -> None:
        self.min_severity: Severity = min_severity
        self.failures = failures
        self.let_go = threading.Event()
        self.let_go.set()
        self.tries = 0
        self.got: list[tuple[str, str, str]] = []
        self._changed = threading.Condition()

    def send(self, *, title: str, body: str, severity: Severity) -> bool:
        with self._changed:
            self.tries += 1
            is_failing = self.tries <= self.failures
            self._changed.notify_all()
        self.let_go.wait(PATIENCE_S)
        with self._changed:
            if not is_failing:
                self.got.append((title, body, severity))
            self._changed.notify_all()
        return not is_failing

    def wait(self, wanted: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(wanted, PATIENCE_S), self.got

    def bodies(self) -> str:
        return "\n".join(body for _, body, _ in self.got)


@contextmanager
def flying(*pigeons: Pigeon, coalesce_s: float = 0.0, **options: Any) -> Iterator[Alerts]:
    alerts = Alerts(pigeons, title="Rooney test", coalesce_s=coalesce_s, **options)
    alerts.start()
    yield alerts
    for pigeon in pigeons:
        pigeon.let_go.set()
    alerts.stop()


def test_the_first_comes_at_once_and_what_follows_within_the_window_as_one_message_with_a_count() -> None:
    pigeon = Pigeon()
    with flying(pigeon, coalesce_s=0.3) as alerts:
        alerts.tell(Alert("warning", "feed", "feed stale"))
        pigeon.wait(lambda: len(pigeon.got) == 1)
        for text in ("feed stale", "feed live", "feed stale"):
            alerts.tell(Alert("warning", "feed", text))
        alerts.tell(Alert("info", "other", "another key does not wait"))
        pigeon.wait(lambda: len(pigeon.got) == 3)
    assert ["another key" in body for _, body, _ in pigeon.got] == [False, True, False]
    first, second = pigeon.got[2][1].splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ feed stale \(x2, last \d\d:\d\d:\d\dZ\)", first)
    assert second.endswith("feed live")
    assert pigeon.got[2][0] == "Rooney test: warning"


@pytest.mark.parametrize(("length", "lines_left"), [(1, MAX_LINES), (5_000, 3)])
def test_a_message_has_a_limit_of_lines_and_of_text_and_counts_the_rest(length: int, lines_left: int) -> None:
    pigeon = Pigeon()
    with flying(pigeon, coalesce_s=0.2) as alerts:
        alerts.tell(Alert("info", "k", "first"))
        pigeon.wait(lambda: len(pigeon.got) == 1)
        for number in range(20):
            alerts.tell(Alert("info", "k", f"{number} {'x' * length}"))
        pigeon.wait(lambda: len(pigeon.got) == 2)
    body = pigeon.got[1][1]
    assert len(body.splitlines()) == lines_left + 1
    assert body.splitlines()[-1] == f"and {20 - lines_left} more"
    assert len(body) < 2_000


def test_each_channel_takes_alerts_from_its_severity_on() -> None:
    pigeons = {severity: Pigeon(severity) for severity in SEVERITIES}
    with flying(*pigeons.values()) as alerts:
        for severity in pigeons:
            alerts.tell(Alert(severity, severity, f"about {severity}"))
    assert [len(pigeon.got) for pigeon in pigeons.values()] == [3, 2, 1]
    assert [title for title, _, _ in pigeons["critical"].got] == ["Rooney test: critical"]
    assert sorted(severity for _, _, severity in pigeons["warning"].got) == ["critical", "warning"]


def test_a_flood_costs_the_oldest_of_the_lowest_severity_and_the_loss_is_said() -> None:
    pigeon = Pigeon()
    with flying(pigeon) as alerts:
        pigeon.let_go.clear()
        alerts.tell(Alert("info", "plug", "plug"))
        pigeon.wait(lambda: pigeon.tries == 1)
        alerts.tell(Alert("critical", "early", "early and critical"))
        for number in range(10 * MAX_WAITING):
            alerts.tell(Alert("info", f"key {number}", f"flood {number}."))
        alerts.tell(Alert("warning", "late", "late and a warning"))
        pigeon.let_go.set()
        pigeon.wait(lambda: len(pigeon.got) == 1 + MAX_WAITING)
    assert [severity for _, _, severity in pigeon.got[1:4]] == ["critical", "warning", "info"]
    lost = 10 * MAX_WAITING + 2 - MAX_WAITING
    assert f"({lost} earlier alerts were dropped" in pigeon.got[1][1]
    assert f"flood {10 * MAX_WAITING - 1}." in pigeon.bodies()
    assert "flood 0." not in pigeon.bodies()
    assert "dropped" not in "".join(body for _, body, _ in pigeon.got[2:])


def test_only_what_is_critical_is_tried_again() -> None:
    pigeon = Pigeon(failures=2)
    with flying(pigeon) as alerts:
        alerts.tell(Alert("warning", "w", "a warning"))
        pigeon.wait(lambda: pigeon.tries == 1)
        alerts.tell(Alert("critical", "c", "a page"))
        pigeon.wait(lambda: len(pigeon.got) == 1)
    assert pigeon.tries == 3
    (_, body, _) = pigeon.got[0]
    assert "a page" in body
    assert "(1 earlier alerts were dropped or not delivered here)" in body


def test_a_hanging_channel_disturbs_no_other_and_is_sent_one_attempt_at_a_time() -> None:
    stuck, well = Pigeon(), Pigeon()
    with flying(stuck, well, send_limit_s=0.1) as alerts:
        stuck.let_go.clear()
        for number in range(20):
            alerts.tell(Alert("critical", f"{number}", f"alert {number}."))
        well.wait(lambda: len(well.got) == 20)
        time.sleep(0.5)
        assert stuck.tries == 1
        started_s = time.monotonic()
        alerts.stop(limit_s=0.3)
        assert time.monotonic() - started_s < PATIENCE_S / 2
    assert threading.active_count() < 20


def test_what_waits_is_delivered_before_the_end_without_its_window() -> None:
    pigeon = Pigeon()
    with flying(pigeon, coalesce_s=600) as alerts:
        for number in range(3):
            alerts.tell(Alert("info", "k", f"{number}."))
    assert [word in pigeon.bodies() for word in ("0.", "1.", "2.")] == [True, True, True]


# ---------------------------------------------------------------- the observer


def sequencer() -> Sequencer:
    return Sequencer(
        writer=MemoryJournal(), codec=CODEC, subscribers=[], is_simulated=False, now=lambda: Nanos(time.time_ns())
    )


def observe(order: Sequencer, alerts: Alerts, *, after: int = 0, stalled_s: float = 0.0) -> None:
    """As `SessionRun` does."""
    tally = Tally()
    order.observe(tally.fold)
    order.observe(alerts.watch(tally, after=after, stalled_s=lambda: stalled_s))


def test_after_a_restart_only_the_new_is_told_and_the_old_is_known(tmp_path: Path) -> None:
    record = Record()
    record.put(opened_session(mode="live", risk=RiskSettings(unknown_policy="hold")))
    record.put(REQUESTS[0])
    record.put(DOWN)
    record.put(events.SafeStopRequested(reason="told by the process before"))
    path = write_journal(tmp_path / "2024-05-01.db", record.envelopes)
    pigeon = Pigeon()
    with flying(pigeon) as alerts, JournalFile(path, CODEC) as journal:
        order = sequencer()
        observe(order, alerts, after=journal.head().seq)
        order.restore(journal)
        order.publish(events.OrderAmbiguous(**ENTRY, attempt=1, cause="the process died"), source="execution.http")
        order.publish(events.FeedStatusChanged(status="live", reason="caught up"), source="feed")
    assert len(pigeon.got) == 2
    assert "told by the process before" not in pigeon.bodies()
    assert "ES entry, buy 1 ESM4: may or may not be live" in pigeon.bodies()
    assert "unknown_policy: hold" in pigeon.bodies()
    assert "feed live again" in pigeon.bodies()


def test_words_that_fail_cost_the_session_nothing() -> None:
    pigeon = Pigeon()
    with flying(pigeon) as alerts:
        observer = alerts.watch(Tally(), after=0, stalled_s=lambda: 0.0)
        envelope = Record().put(events.SafeStopRequested(reason="disk"))
        observer(attrs.evolve(envelope, type="OrderAccepted"))
        observer(envelope)
    assert "disk" in pigeon.bodies()


def test_publishing_does_not_wait_for_a_hanging_channel() -> None:
    pigeon = Pigeon()
    with flying(pigeon) as alerts:
        pigeon.let_go.clear()
        order = sequencer()
        observe(order, alerts)
        for _ in range(1_000):
            order.publish(events.EntriesClosed(reason="x"), source="supervisor")
        assert order.seq == 1_000
        assert not pigeon.got


@pytest.mark.parametrize(("stalled_s", "ticks", "pings"), [(0.0, True, True), (9.0, True, False), (0.0, False, False)])
def test_the_dead_man_is_pinged_while_the_clock_ticks_and_the_writer_writes(
    stalled_s: float, ticks: bool, pings: bool
) -> None:
    pinged = threading.Event()
    with flying(ping=pinged.set, ping_interval_s=0.05) as alerts:
        order = sequencer()
        observe(order, alerts, stalled_s=stalled_s)
        if ticks:
            order.publish(events.ClockTicked(ts=at(1), watermark=at(1)), source="clock")
        assert pinged.wait(PATIENCE_S if pings else 0.3) == pings
