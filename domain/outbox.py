"""When a message may leave, and what an answer means for the next one: the webhook's limits and the breaker.

Pure values and rules. All time is the journal's, so a replay waits where the session waited.
TradersPost takes 60 messages a minute and 500 an hour per address; both limits here stay below,
and keep room for the first attempts of exits when everything else is being tried again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Literal

import attrs

from domain.units import HOUR, MINUTE, SECOND, Nanos, floor_to

BreakerState = Literal["closed", "open", "hard_open"]
MessageKind = Literal["entry", "exit", "retry", "repeat", "probe"]
"""`exit` is an exit's first attempt, `retry` any later one, `repeat` the second sending of an accepted one."""

ENTRIES_PER_MINUTE = 20
ALL_PER_MINUTE = 50
ALL_PER_HOUR = 450
RESERVED_PER_HOUR = 60
"""Of them for first attempts only: twelve roots retrying every 30 s would use up the hour in 19 minutes."""
FREE_RETRIES = 10
"""Retries of exits in an hour before they share a rate."""
RETRIES_PER_MINUTE = 4

TICKER_GAP = Nanos(15 * SECOND)
"""Between two intents of one ticker: TradersPost promises no order among rapid signals."""
REPEAT_AFTER = Nanos(20 * SECOND)
REPEAT_AFTER_CANCEL = Nanos(130 * SECOND)
"""An accepted exit is sent once more: nobody can read back whether it was executed. A cancel may take 120 s."""
OVERDUE_AFTER = Nanos(300 * SECOND)
"""The operator is told of an exit that nobody has accepted for so long, and again as often."""
PROBE_BODY = '{"extras":{"probe":1}}'
"""Without ticker and action nothing can be traded: TradersPost refuses it as a payload, when it is there.

Not `{}`: that is an empty message, which has a code of its own.
"""

FAILURES_TO_OPEN = 3
FAILURE_WINDOW = Nanos(60 * SECOND)
PROBE_AFTER = Nanos(15 * SECOND)
HARD_PROBE_AFTER = Nanos(60 * SECOND)
"""Between probes, and between an exit's attempts, while the webhook itself is refused."""


@attrs.frozen(kw_only=True)
class OutboxMemory:
    """What the next file goes on with."""

    sent: tuple[tuple[Nanos, MessageKind], ...] = ()
    """Messages of the last hour, oldest first."""
    breaker: BreakerState = "closed"
    probes: int = 0


class Limiter:
    """Counts what was sent in the last hour and says when the next message of a kind may go."""

    def __init__(self, sent: Iterable[tuple[Nanos, MessageKind]] = ()) -> None:
        self._sent: deque[tuple[Nanos, MessageKind]] = deque(sent)

    def note(self, kind: MessageKind, now: Nanos) -> None:
        """A message of `kind` is sent at `now`."""
        # Only here: a question about a later moment must not forget what still counts now.
        while self._sent and self._sent[0][0] <= now - HOUR:
            self._sent.popleft()
        self._sent.append((now, kind))

    def free_at(self, kind: MessageKind, now: Nanos) -> Nanos:
        """The earliest moment, `now` or later, at which a message of `kind` keeps every limit."""
        times = [ts for ts, _ in self._sent]
        is_first = kind in ("entry", "exit")
        moments = [
            now,
            _slot(times, ALL_PER_MINUTE, MINUTE),
            _slot(times, ALL_PER_HOUR - (0 if is_first else RESERVED_PER_HOUR), HOUR),
        ]
        if kind == "entry":
            moments.append(_slot(self._times_of(kind), ENTRIES_PER_MINUTE, MINUTE))
        elif kind == "retry" and self.count_of(kind, now) >= FREE_RETRIES:
            moments.append(_slot(self._times_of(kind), RETRIES_PER_MINUTE, MINUTE))
        return max(moments)

    def count_of(self, kind: MessageKind, now: Nanos) -> int:
        """How many of `kind` were sent in the last hour."""
        return sum(1 for ts in self._times_of(kind) if ts > now - HOUR)

    @property
    def sent(self) -> tuple[tuple[Nanos, MessageKind], ...]:
        """What is remembered, oldest first: at least the last hour."""
        return tuple(self._sent)

    def _times_of(self, kind: MessageKind) -> list[Nanos]:
        return [ts for ts, known in self._sent if known == kind]


def _slot(times: list[Nanos], limit: int, window: Nanos) -> Nanos:
    """When fewer than `limit` of `times` (oldest first) lie within the `window` before."""
    return Nanos(times[-limit] + window) if len(times) >= limit else Nanos(0)


@attrs.frozen(kw_only=True)
class Breaker:
    """Opens after three failures in a row within a minute, at once when the webhook itself is refused.

    While it is not closed a probe is due at `probe_ns` (None while one is on its way). It never
    holds back an exit: an exit that could be delivered must not wait for a probe that cannot.
    """

    state: BreakerState = "closed"
    failures: tuple[Nanos, ...] = ()
    probe_ns: Nanos | None = None

    def failed(self, now: Nanos) -> Breaker:
        """No answer, or none that TradersPost gives."""
        if self.state != "closed":
            return self
        failures = (*(ts for ts in self.failures if ts > now - FAILURE_WINDOW), now)[-FAILURES_TO_OPEN:]
        if len(failures) < FAILURES_TO_OPEN:
            return attrs.evolve(self, failures=failures)
        return Breaker(state="open", probe_ns=Nanos(now + PROBE_AFTER))

    def refused(self, now: Nanos) -> Breaker:
        """The password, the address or this machine is not accepted."""
        if self.state == "hard_open":
            return self
        return Breaker(state="hard_open", probe_ns=Nanos(now + HARD_PROBE_AFTER))

    def passed(self) -> Breaker:
        """TradersPost has answered as itself."""
        return Breaker()

    def probing(self) -> Breaker:
        """A probe is on its way."""
        return attrs.evolve(self, probe_ns=None)

    def probe_failed(self, now: Nanos) -> Breaker:
        """The next probe is due after the usual wait."""
        if self.state == "closed":
            return self
        wait = HARD_PROBE_AFTER if self.state == "hard_open" else PROBE_AFTER
        return attrs.evolve(self, probe_ns=Nanos(now + wait))


WEBHOOK_CODES = frozenset(
    {"invalid-password", "invalid-ip-address", "invalid-ip-address-format", "not-trading-view", "not-trend-spider"}
)
"""Of TradersPost's documented codes those that no other message would mend (`docs/webhook.md` has them all)."""


def is_webhook_refused(http_status: int, code: str) -> bool:
    """True when a rejection is of the webhook (password, address, this machine), not of the message."""
    return http_status in (401, 403, 404) or 300 <= http_status < 400 or code in WEBHOOK_CODES


def throttled_until(signal: str, attempt: int, now: Nanos) -> Nanos:
    """After a 429 that names no time: in the next minute, up to 5 s into it by a hash of the order."""
    digest = hashlib.sha256(f"429:{signal}:{attempt}".encode()).digest()
    return Nanos(floor_to(now, MINUTE) + MINUTE + int.from_bytes(digest[:4], "big") * 5 * SECOND // 2**32)
