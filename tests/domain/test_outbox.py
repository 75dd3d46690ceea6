"""When a message may leave: no admitted sequence breaks a limit, exits keep their room, and what opens the breaker."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.outbox import (
    Breaker,
    Limiter,
    MessageKind,
    is_webhook_refused,
    throttled_until,
)
from domain.units import HOUR, MINUTE, SECOND, Nanos
from tests.adapters.traderspost.webhook_schema import codes

T0 = Nanos(1_714_575_600 * SECOND)
"""2024-05-01T15:00:00Z."""
KINDS: tuple[MessageKind, ...] = ("entry", "exit", "retry", "repeat", "probe")
LATER_ATTEMPTS = {"retry", "repeat", "probe"}


def at(seconds: float) -> Nanos:
    return Nanos(T0 + int(seconds * SECOND))


def limiter_of(*sent: tuple[float, MessageKind]) -> Limiter:
    limiter = Limiter()
    for seconds, kind in sent:
        limiter.note(kind, at(seconds))
    return limiter


# ------------------------------------------------------- the limits once more, as execution.md tells them: a judge


def broken_limits(sent: Sequence[tuple[Nanos, MessageKind]]) -> list[str]:
    """Every limit that `sent` (oldest first) breaks, looked at from each message back."""
    found: list[str] = []
    for i, (now, kind) in enumerate(sent):
        until_now = sent[: i + 1]
        minute = [k for ts, k in until_now if ts > now - MINUTE]
        hour = [k for ts, k in until_now if ts > now - HOUR]
        if len(minute) > 50:
            found.append(f"{len(minute)} in a minute")
        if minute.count("entry") > 20:
            found.append(f"{minute.count('entry')} entries in a minute")
        if len(hour) > (390 if kind in LATER_ATTEMPTS else 450):
            found.append(f"{len(hour)} in an hour with a {kind}")
        if kind == "retry" and hour.count("retry") > 10 and minute.count("retry") > 4:
            found.append(f"{minute.count('retry')} retries in a minute")
    return found


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([(at(i), "exit") for i in range(51)], "51 in a minute"),
        ([(at(i), "entry") for i in range(21)], "21 entries in a minute"),
        ([(at(7 * i), "exit") for i in range(451)], "451 in an hour with a exit"),
        ([(at(9 * i), "probe") for i in range(391)], "391 in an hour with a probe"),
        ([(at(i), "retry") for i in range(11)], "11 retries in a minute"),
    ],
)
def test_the_judge_can_fail(sent: list[tuple[Nanos, MessageKind]], words: str) -> None:
    assert words in broken_limits(sent)


# ----------------------------------------------------------------------------------------------------- limiter


def test_an_idle_limiter_lets_everything_go_at_once() -> None:
    assert [Limiter().free_at(kind, T0) for kind in KINDS] == [T0] * 5


@pytest.mark.parametrize(
    ("sent", "kind", "free_s"),
    [
        # twenty entries a minute, and only entries wait for it
        ([(i, "entry") for i in range(19)], "entry", 19),
        ([(i, "entry") for i in range(20)], "entry", 60),
        ([(i, "entry") for i in range(20)], "exit", 20),
        ([(i, "entry") for i in range(20)], "probe", 20),
        # fifty of all kinds a minute
        ([(i, "exit") for i in range(49)], "exit", 49),
        ([(i, "exit") for i in range(50)], "exit", 60),
        ([(i, "exit") for i in range(50)], "probe", 60),
        ([(0, "exit")] * 50, "exit", 60),
        # 450 an hour for first attempts, 390 for all others
        ([(8 * i, "exit") for i in range(389)], "repeat", 8 * 389),
        ([(8 * i, "exit") for i in range(390)], "repeat", 3600),
        ([(8 * i, "exit") for i in range(390)], "probe", 3600),
        ([(8 * i, "exit") for i in range(390)], "retry", 3600),
        ([(8 * i, "exit") for i in range(390)], "entry", 8 * 390),
        ([(8 * i, "exit") for i in range(449)], "exit", 8 * 449),
        ([(7 * i, "exit") for i in range(450)], "exit", 3600),
        ([(7 * i, "exit") for i in range(450)], "entry", 3600),
        # ten retries go freely, then four a minute
        ([(i, "retry") for i in range(9)], "retry", 9),
        ([(i, "retry") for i in range(10)], "retry", 66),
        ([(0, "retry")] * 10, "retry", 60),
        ([(i, "retry") for i in range(10)], "repeat", 10),
        ([(i, "retry") for i in range(10)], "exit", 10),
        ([(20 * i, "retry") for i in range(10)], "retry", 200),
    ],
)
def test_each_limit_to_the_second(sent: list[tuple[float, MessageKind]], kind: MessageKind, free_s: float) -> None:
    step = sent[1][0] - sent[0][0]
    now = at(sent[-1][0] + step)
    assert limiter_of(*sent).free_at(kind, now) == at(free_s)


@st.composite
def demands(draw: st.DrawFn) -> list[tuple[MessageKind, Nanos]]:
    """Messages that want to leave: kind and nanoseconds after the one before; bursts and pauses."""
    pause = st.one_of(
        st.just(0), st.integers(0, SECOND), st.integers(0, 30 * SECOND), st.integers(0, 10 * MINUTE), st.just(MINUTE)
    )
    mix = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    blocks = draw(st.lists(st.tuples(st.sampled_from(mix), pause, st.integers(1, 120)), min_size=1, max_size=12))
    return [(kind, Nanos(gap)) for kind, gap, count in blocks for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(wanted=demands(), is_patient=st.booleans())
def test_no_admitted_sequence_breaks_a_limit(wanted: list[tuple[MessageKind, Nanos]], is_patient: bool) -> None:
    limiter, now = Limiter(), T0
    sent: list[tuple[Nanos, MessageKind]] = []
    for kind, gap in wanted:
        now = Nanos(now + gap)
        free = limiter.free_at(kind, now)
        assert free >= now
        assert limiter.free_at(kind, free) == free  # nothing else having left, its moment is its moment
        if free > now and not is_patient:
            continue
        now = free
        limiter.note(kind, now)
        sent.append((now, kind))
    assert broken_limits(sent) == []


@settings(max_examples=60, deadline=None)
@given(wanted=demands(), cut=st.integers(0, 1440))
def test_a_carried_memory_waits_as_the_one_that_was_carried(wanted: list[tuple[MessageKind, Nanos]], cut: int) -> None:
    first, now = Limiter(), T0
    for kind, gap in wanted[:cut]:
        now = first.free_at(kind, Nanos(now + gap))
        first.note(kind, now)
    second = Limiter(first.sent)
    assert [second.free_at(kind, now) for kind in KINDS] == [first.free_at(kind, now) for kind in KINDS]
    assert [second.count_of(kind, now) for kind in KINDS] == [first.count_of(kind, now) for kind in KINDS]


def test_a_question_about_later_forgets_nothing() -> None:
    limiter = limiter_of(*((i, "exit") for i in range(50)))
    assert limiter.free_at("exit", at(7200)) == at(7200)
    assert limiter.count_of("exit", at(7200)) == 0
    assert limiter.free_at("exit", at(50)) == at(60)
    assert limiter.count_of("exit", at(50)) == 50


def test_what_is_older_than_an_hour_is_forgotten_when_the_next_is_sent() -> None:
    limiter = limiter_of((0, "entry"), (1, "retry"), (3600, "exit"))
    assert limiter.sent == ((at(1), "retry"), (at(3600), "exit"))
    assert limiter.count_of("retry", at(3600)) == 1
    assert limiter.count_of("retry", at(3601)) == 0


def test_twelve_roots_retrying_every_30_s_leave_room_for_first_attempts() -> None:
    """Unheld they would send 1,440 an hour, and the hour's 450 would be gone after 19 minutes."""
    limiter, waits = Limiter(), []
    due = [at(5 * root) for root in range(12)]
    for second in range(0, 5000, 5):
        now = at(second)
        for root in range(12):
            if due[root] <= now and limiter.free_at("retry", now) == now:
                limiter.note("retry", now)
                due[root] = Nanos(now + 30 * SECOND)
        if second % 60 == 0:
            waits.append(limiter.free_at("exit", now) - now)
            limiter.note("exit", now)
        assert limiter.count_of("retry", now) <= 250
    assert set(waits) == {0}
    # the last hour has what the rates give: four retries and one first attempt a minute
    assert limiter.count_of("retry", at(5000)) == 240
    assert limiter.count_of("exit", at(5000)) == 60
    assert broken_limits(limiter.sent) == []


def test_sixty_an_hour_are_kept_for_first_attempts() -> None:
    limiter = limiter_of(*((9 * i, "repeat") for i in range(390)))
    now = at(9 * 390)
    assert limiter.free_at("repeat", now) == at(3600)
    for i in range(60):
        moment = at(9 * 390 + 1.4 * i)
        assert limiter.free_at("exit", moment) == moment
        limiter.note("exit", moment)
    assert limiter.free_at("exit", at(3595)) == at(3600)


# ----------------------------------------------------------------------------------------------------- breaker


def failing(*seconds: float) -> Breaker:
    breaker = Breaker()
    for moment in seconds:
        breaker = breaker.failed(at(moment))
    return breaker


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        ((0,), "closed"),
        ((0, 1), "closed"),
        ((0, 1, 2), "open"),
        ((0, 0, 0), "open"),
        ((0, 30, 59.999), "open"),
        ((0, 30, 60), "closed"),
        ((0, 59, 118), "closed"),
        ((0, 59, 60, 61), "open"),
    ],
)
def test_three_failures_within_a_minute_open_it(seconds: tuple[float, ...], state: str) -> None:
    assert failing(*seconds).state == state


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = failing(0, 1).passed()
    assert breaker == Breaker()
    assert breaker.failed(at(2)).failed(at(3)).state == "closed"


def test_a_refusal_of_the_webhook_opens_it_hard_from_every_state() -> None:
    for before in (Breaker(), failing(0, 1), failing(0, 1, 2), failing(0, 1, 2).probing()):
        assert before.refused(at(10)) == Breaker(state="hard_open", probe_ns=at(70))


@pytest.mark.parametrize(("before", "wait_s"), [(failing(0, 1, 2), 15), (Breaker().refused(at(2)), 60)])
def test_probes_go_on_at_their_pace_until_one_is_answered(before: Breaker, wait_s: float) -> None:
    assert before.probe_ns == at(2 + wait_s)
    asked = before.probing()
    assert (asked.state, asked.probe_ns) == (before.state, None)
    again = asked.probe_failed(at(100))
    assert (again.state, again.probe_ns) == (before.state, at(100 + wait_s))
    assert again.probing().passed() == Breaker()


def test_what_else_fails_while_it_is_not_closed_puts_no_probe_off() -> None:
    for opened in (failing(0, 1, 2), Breaker().refused(T0)):
        assert opened.failed(at(9)) == opened
        assert opened.probing().failed(at(9)) == opened.probing()
    assert Breaker().refused(T0).refused(at(9)) == Breaker().refused(T0)
    assert Breaker().probe_failed(T0) == Breaker()


@given(steps=st.lists(st.sampled_from(["failed", "refused", "passed", "probing", "probe_failed"])))
def test_a_breaker_that_is_not_closed_always_has_a_probe_due_or_on_its_way(steps: list[str]) -> None:
    breaker, is_probing = Breaker(), False
    for second, step in enumerate(steps):
        match step:
            case "probing":
                if breaker.probe_ns is None:
                    continue  # nothing is due
                breaker, is_probing = breaker.probing(), True
            case "probe_failed":
                breaker, is_probing = breaker.probe_failed(at(second)), False
            case "passed":
                breaker, is_probing = breaker.passed(), False
            case "failed":
                breaker = breaker.failed(at(second))
            case _:
                breaker = breaker.refused(at(second))
        assert (breaker.state == "closed") <= (breaker.probe_ns is None)
        assert breaker.state == "closed" or breaker.probe_ns is not None or is_probing


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("code", codes("Codes of the webhook"))
def test_a_code_of_the_webhook_is_known_with_every_status(code: str) -> None:
    assert is_webhook_refused(400, code)
    assert is_webhook_refused(200, code)


@pytest.mark.parametrize("code", [*codes("Codes of the message"), "http-400", "success-false", "too-many-requests", ""])
def test_a_code_of_the_message_is_not(code: str) -> None:
    assert not is_webhook_refused(400, code)
    assert not is_webhook_refused(422, code)


def test_every_documented_code_is_listed_once() -> None:
    listed = [*codes("Codes of the webhook"), *codes("Codes of the message")]
    assert len(listed) == len(set(listed)) == 57


@pytest.mark.parametrize(
    ("status", "is_refused"),
    [
        *((status, False) for status in (200, 299, 400, 405, 413, 422)),
        *((status, True) for status in (300, 302, 307, 399, 401, 403, 404)),
    ],
)
def test_statuses_that_speak_of_the_webhook(status: int, is_refused: bool) -> None:
    assert is_webhook_refused(status, f"http-{status}") is is_refused


# --------------------------------------------------------------------------------------------------------- 429


@given(signal=st.text(max_size=32), attempt=st.integers(1, 10**6), now=st.integers(T0, T0 + 100 * HOUR))
def test_a_throttled_message_waits_for_the_first_seconds_of_the_next_minute(
    signal: str, attempt: int, now: int
) -> None:
    until = throttled_until(signal, attempt, Nanos(now))
    assert until == throttled_until(signal, attempt, Nanos(now))
    assert now < until <= now + 65 * SECOND
    assert until // MINUTE == now // MINUTE + 1
    assert until % MINUTE < 5 * SECOND


def test_throttled_messages_do_not_come_back_together() -> None:
    moments = {throttled_until(f"signal-{i}", 1, T0) for i in range(100)}
    assert len(moments) == 100
    spread_s = (max(moments) - min(moments)) / SECOND
    assert spread_s > 4
    assert throttled_until("signal-0", 1, T0) != throttled_until("signal-0", 2, T0)
