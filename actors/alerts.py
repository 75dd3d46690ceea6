"""Alerts: what the session's events say to the operator, delivered beside the session and never in its way.

The sequencer's observer only looks an event up and puts words on lists; each channel has a list
and a thread of its own. Everything here fails open: a channel that is dead, slow or wrong loses
alerts, counts them and says so with the next one that gets through, and nobody ever waits for it
but the end of the process, for `EXIT_LIMIT_S` at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import structlog

from actors.alert_words import SEVERITIES, Alert, Severity, Teller
from actors.tally import Tally
from domain.envelope import Envelope

MAX_WAITING = 100
"""Messages that wait for one channel."""
MAX_LINES = 10
"""Different texts in one message; more are counted."""
MAX_TEXT = 400
"""Characters of one text."""
ROOM_TEXT = 1_200
"""With so many characters a message takes no other text: it stays below 2,000, which chat services allow."""
SEND_LIMIT_S = 10.0
RETRY_FIRST_S = 1.0
RETRY_CAP_S = 60.0
EXIT_LIMIT_S = 5.0
TICK_FRESH_S = 90.0
"""The clock ticks at least every minute; later than this the session does not go on."""
WRITER_STALLED_S = 2.0

log = structlog.get_logger()


class AlertChannel(Protocol):
    """One way to the operator."""

    kind: str
    """Its service's name, never its address."""
    min_severity: Severity
    """It takes alerts from here on."""

    def send(self, *, title: str, body: str, severity: Severity) -> bool:
        """True when the service took it. May block; never raises."""
        ...


class Sender:
    """Sends with a time limit; an attempt that exceeds it goes on alone and may still arrive."""

    def __init__(self, channel: AlertChannel, *, limit_s: float = SEND_LIMIT_S) -> None:
        self._channel = channel
        self._limit_s = limit_s
        self._thread: threading.Thread | None = None

    def send(self, *, title: str, body: str, severity: Severity) -> bool:
        """True when the channel took the message; False when it did not, or not in time."""
        if self._thread is not None:
            self._thread.join(self._limit_s)
            if self._thread.is_alive():
                return False  # one abandoned attempt a channel: threads cannot be ended
        taken: list[bool] = []
        self._thread = threading.Thread(
            target=lambda: taken.append(self._channel.send(title=title, body=body, severity=severity)),
            name=f"alert to {self._channel.kind}",
            daemon=True,
        )
        self._thread.start()
        self._thread.join(self._limit_s)
        return taken == [True]


@attrs.define(kw_only=True)
class _Message:
    """Alerts of one key that have not been sent."""

    severity: Severity
    due_s: float
    lines: dict[str, tuple[str, str, int]] = attrs.Factory(dict)
    """By text: when it was told first and last, and how often."""
    others: int = 0
    """Alerts that found no line."""
    attempts: int = 0

    def add(self, text: str, first: str, last: str, count: int = 1) -> None:
        if text in self.lines:
            begin, _, before = self.lines[text]
            self.lines[text] = (begin, last, before + count)
        elif len(self.lines) < MAX_LINES and sum(map(len, self.lines)) < ROOM_TEXT:
            self.lines[text] = (first, last, count)
        else:
            self.others += count

    @property
    def count(self) -> int:
        return self.others + sum(count for _, _, count in self.lines.values())

    def body(self) -> str:
        lines = [
            f"{first} {text}" if count == 1 else f"{first} {text} (x{count}, last {last})"
            for text, (first, last, count) in self.lines.items()
        ]
        return "\n".join([*lines, f"and {self.others} more"] if self.others else lines)


class Outlet:
    """One channel's list and thread: bounded, coalescing, the most severe first."""

    def __init__(self, channel: AlertChannel, *, title: str, coalesce_s: float, send_limit_s: float) -> None:
        self._channel = channel
        self._sender = Sender(channel, limit_s=send_limit_s)
        self._title = title
        self._coalesce_s = coalesce_s
        self._changed = threading.Condition()
        self._waiting: dict[str, _Message] = {}
        self._taken_s: dict[str, float] = {}
        self._in_hand = 0
        self._lost = 0
        self._is_stopping = False
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"alerts: {channel.kind}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, alert: Alert) -> None:
        """Put `alert` on the list. The first of a key is due at once, what follows within the window with it."""
        if _rank(alert.severity) < _rank(self._channel.min_severity):
            return
        text = alert.text if len(alert.text) <= MAX_TEXT else f"{alert.text[:MAX_TEXT]} …"
        with self._changed:
            message = self._waiting.get(alert.key)
            if message is None:
                if not self._has_room_for(alert.severity):
                    self._lost += 1
                    return
                now = time.monotonic()
                due = self._taken_s.get(alert.key, now - self._coalesce_s) + self._coalesce_s
                message = self._waiting[alert.key] = _Message(severity=alert.severity, due_s=due)
            when = time.strftime("%H:%M:%SZ", time.gmtime())
            message.add(text, when, when)
            message.severity = max(message.severity, alert.severity, key=_rank)
            self._changed.notify_all()

    def finish(self) -> None:
        """Send what waits without delay, then end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def wait_finished(self, until_s: float) -> None:
        """Wait until all is sent, or for the monotonic moment `until_s`; then give up the rest."""
        self._thread.join(max(0.0, until_s - time.monotonic()))
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            left = self._lost + self._in_hand + sum(message.count for message in self._waiting.values())
        if left:
            log.error("alerts were not delivered", channel=self._channel.kind, count=left)

    # ------------------------------------------------------------- private

    def _has_room_for(self, severity: Severity) -> bool:
        """Make room at the cost of the oldest message of the lowest severity, which may be the new one."""
        if len(self._waiting) < MAX_WAITING:
            return True
        victim = min(self._waiting, key=lambda key: _rank(self._waiting[key].severity))
        if _rank(self._waiting[victim].severity) > _rank(severity):
            return False
        self._lost += self._waiting.pop(victim).count
        return True

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            key, message, lost = taken
            body = message.body() + (f"\n({lost} earlier alerts were dropped or not delivered here)" if lost else "")
            title = f"{self._title}: {message.severity}"
            is_sent = self._sender.send(title=title, body=body, severity=message.severity)
            if not is_sent:
                log.warning("an alert was not delivered", channel=self._channel.kind, attempt=message.attempts + 1)
            with self._changed:
                self._in_hand = 0
                if is_sent:
                    self._lost -= lost
                elif message.severity == "critical":
                    self._put_back(key, message)
                else:
                    self._lost += message.count

    def _take(self) -> tuple[str, _Message, int] | None:
        """The oldest of the most severe messages that are due; None when all is over."""
        with self._changed:
            while not self._is_over:
                now = time.monotonic()
                due = [
                    key
                    for key, message in self._waiting.items()
                    if message.due_s <= now or (self._is_stopping and not message.attempts)
                ]
                if due:
                    key = max(due, key=lambda key: _rank(self._waiting[key].severity))
                    self._taken_s = {k: at for k, at in self._taken_s.items() if now - at < self._coalesce_s}
                    self._taken_s[key] = now
                    message = self._waiting.pop(key)
                    self._in_hand = message.count
                    return key, message, self._lost
                if self._is_stopping and not self._waiting:
                    return None
                next_s = min((message.due_s for message in self._waiting.values()), default=None)
                self._changed.wait(None if next_s is None else next_s - now)
        return None

    def _put_back(self, key: str, message: _Message) -> None:
        """To be tried again, together with what was told of the same meanwhile; the last one out when it is full."""
        message.due_s = time.monotonic() + min(RETRY_CAP_S, RETRY_FIRST_S * 2**message.attempts)
        message.attempts += 1
        newer = self._waiting.pop(key, None)
        if newer is not None:
            message.others += newer.others
            for text, (first, last, count) in newer.lines.items():
                message.add(text, first, last, count)
        if self._has_room_for(message.severity):
            self._waiting[key] = message
        else:
            self._lost += message.count


class Alerts:
    """All channels, and the dead-man ping, of one process."""

    def __init__(
        self,
        channels: Sequence[AlertChannel],
        *,
        title: str,
        coalesce_s: float,
        ping: Callable[[], None] | None = None,
        ping_interval_s: float = 60.0,
        send_limit_s: float = SEND_LIMIT_S,
    ) -> None:
        """`ping` tells a dead-man service that all is well; it may block and never raises."""
        self._outlets = [
            Outlet(channel, title=title, coalesce_s=coalesce_s, send_limit_s=send_limit_s) for channel in channels
        ]
        self._ping = ping
        self._ping_interval_s = ping_interval_s
        self._stopping = threading.Event()
        self._ticked_s: float | None = None
        self._stalled_s: Callable[[], float] = lambda: 0.0

    def start(self) -> None:
        """Start the threads."""
        for outlet in self._outlets:
            outlet.start()
        if self._ping is not None:
            threading.Thread(target=self._ping_while_well, args=(self._ping,), name="dead man", daemon=True).start()

    def watch(self, tally: Tally, *, after: int, stalled_s: Callable[[], float]) -> Callable[[Envelope], None]:
        """The observer of a session file: it tells what comes after seq `after`, which an earlier process has told.

        `tally` must fold each event first; `stalled_s` is the writer's.
        """
        teller = Teller(tally)
        self._stalled_s = stalled_s

        def observe(envelope: Envelope) -> None:
            try:
                alert = teller.tell(envelope)
            except Exception:
                # Under the sequencer's lock: words that cannot be found must not cost the session its event.
                log.exception("an alert could not be worded", seq=envelope.seq)
                return
            if envelope.seq <= after:
                return
            if envelope.type == "ClockTicked":
                self._ticked_s = time.monotonic()
            if alert is not None:
                self.tell(alert)

        return observe

    def tell(self, alert: Alert) -> None:
        """Put `alert` on the list of every channel that takes its severity."""
        for outlet in self._outlets:
            outlet.put(alert)

    def stop(self, limit_s: float = EXIT_LIMIT_S) -> None:
        """Deliver what waits, for `limit_s` at most."""
        self._stopping.set()
        until_s = time.monotonic() + limit_s
        for outlet in self._outlets:
            outlet.finish()
        for outlet in self._outlets:
            outlet.wait_finished(until_s)

    def _ping_while_well(self, ping: Callable[[], None]) -> None:
        while not self._stopping.wait(self._ping_interval_s):
            is_ticking = self._ticked_s is not None and time.monotonic() - self._ticked_s < TICK_FRESH_S
            if is_ticking and self._stalled_s() < WRITER_STALLED_S:
                ping()


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)
