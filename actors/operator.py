"""The operator's desk: commands from outside become events, and the answer is what they have led to.

Every command but `status` is one CommandReceived (a reconciliation: its FillConfirmed and one SessionReconciled). It
is answered once the event is on disk and every machine has handled it. The desk belongs to the process; each session
`attend`s it in turn and leaves it before its last event.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from actors.sequencer import Sequencer
from actors.status import Status
from domain.errors import OperatorError
from domain.events import CommandReceived, Event, FillConfirmed, OrderRequested, SessionReconciled
from domain.orders import OrderState
from domain.units import Price

SOURCE = "operator"
DURABLE_S = 10.0
"""A command that is not on disk by then has failed; the machines' answers to it get as long."""
BETWEEN_SESSIONS_S = 15.0
STOP_LIMIT_S = 240.0
"""How long `stop --flatten` waits: an exit that cancels orders is sent again after 130 s."""
EXIT_TEMPORARY = 75
MAX_FILLS = 10_000
MAX_REASON = 500
_ENTRY_COMMANDS = ("enable", "disable", "halt", "resume", "kill")


@attrs.frozen
class _Attended:
    sequencer: Sequencer
    status: Status
    backlog: Callable[[], int]


class OperatorDesk:
    """Handles requests, as OperatorServer's `handle`. `stop` ends the process in order."""

    def __init__(self, stop: Callable[[], None], *, patience_s: float = BETWEEN_SESSIONS_S) -> None:
        self._stop = stop
        self._patience_s = patience_s
        self._changed = threading.Condition()
        """Held while a command is published: nothing may follow a session's last event."""
        self._session: _Attended | None = None
        self._started_s = time.monotonic()

    def attend(self, sequencer: Sequencer, status: Status, backlog: Callable[[], int]) -> None:
        """From now on commands go to this session. `backlog`: events that are not on disk yet."""
        with self._changed:
            self._session = _Attended(sequencer, status, backlog)
            self._changed.notify_all()

    def leave(self) -> None:
        """The session ends: no command reaches it any more."""
        with self._changed:
            self._session = None
            self._changed.notify_all()

    def handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer: `text` for a person, and what belongs to the command. Raises OperatorError for a refusal."""
        match request.get("command"):
            case "status":
                return {"status": self._status()}
            case "stop":
                return self._stopped(is_flatten=bool(request.get("flatten")))
            case "resolve":
                return self._resolved(request)
            case "flatten":
                return self._flattened(_text(request, "argument"))
            case "reconcile":
                return self._reconciled(request)
            case command if command in _ENTRY_COMMANDS:
                return self._switched(str(command), _text(request, "argument"))
            case command:
                raise OperatorError(
                    f"unknown command {command!r}", fix="client and process differ: restart", exit_code=2
                )

    # ------------------------------------------------------------- commands

    def _status(self) -> dict[str, Any]:
        session = self._attended()
        process = {"uptime_s": round(time.monotonic() - self._started_s, 1), "backlog": session.backlog()}
        return {**session.status.snapshot(), "process": process}

    def _switched(self, command: str, argument: str) -> dict[str, Any]:
        session = self._attended()
        if command in ("enable", "disable") and argument:
            argument = _traded_root(session.status, argument)
        elif argument and (command, argument) != ("kill", "all"):
            raise OperatorError(f"{command} takes no {argument!r}", fix=f"write `{command}`", exit_code=2)
        seq = self._publish(session, CommandReceived(command=command, argument=argument))  # type: ignore[arg-type]
        return self._answer(session, seq, [f"{command} {argument}".rstrip()])

    def _flattened(self, argument: str) -> dict[str, Any]:
        session = self._attended()
        root = _traded_root(session.status, argument) if argument else ""
        held, _ = session.status.open_of(root)
        seq = self._publish(session, CommandReceived(command="flatten", argument=root))
        text = [] if held else [f"nothing is held{f' in {root}' if root else ''}, as far as is known"]
        requests = [asked for asked in session.status.caused_by(seq) if isinstance(asked, OrderRequested)]
        refused = [f"{r.root}: {why}" for r in requests if (why := session.status.refusal_of(r.signal_id))]
        if refused:
            raise OperatorError(
                f"seq {seq}: no exit was sent, {', '.join(refused)}",
                fix="`resume` ends the kill switch; then `flatten` again",
                exit_code=1,
            )
        if held and not requests:
            text = ["an exit was asked for at this very moment already"]
        return self._answer(session, seq, [*text, *(f"{r.root}: exit of {r.contract} asked for" for r in requests)])

    def _resolved(self, request: Mapping[str, Any]) -> dict[str, Any]:
        session = self._attended()
        root, quantity = _traded_root(session.status, _text(request, "argument")), request.get("quantity")
        reason = _text(request, "reason").strip()[:MAX_REASON]
        if type(quantity) is not int or abs(quantity) > 10_000 or not reason:
            raise OperatorError(
                "resolve needs a whole number of contracts and a reason",
                fix='write `resolve ES long 2 --reason "seen at the broker"`',
                exit_code=2,
            )
        _, orders = session.status.open_of(root)
        if any(order.state is OrderState.SUBMITTED for order in orders):
            raise OperatorError(
                f"an attempt of {root} is on its way and may change what is held",
                fix="its outcome comes within 12 s: look at the broker again, then resolve",
                exit_code=EXIT_TEMPORARY,
            )
        command = CommandReceived(command="resolve", argument=root, quantity=quantity, reason=reason)
        seq = self._publish(session, command)
        if not session.status.caused_by(seq):
            raise OperatorError(
                f"seq {seq}: nothing was resolved: no price of {root} is known yet, or an entry has just left",
                fix="wait for its first minute bar (`status` shows the last one), or for the entry's outcome",
                exit_code=1,
            )
        now, _ = session.status.open_of(root)
        if [held.quantity for held in now] != ([quantity] if quantity else []) or any(p.is_unknown for p in now):
            raise OperatorError(f"seq {seq}: {root} is not what was said", fix="see `status`", exit_code=1)
        return self._answer(session, seq, [f"{root}: {f'{quantity:+d}' if quantity else 'flat'} ({reason})"])

    def _reconciled(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            events: list[Event] = [
                FillConfirmed(
                    root=str(fill["root"]),
                    signal_id=str(fill["signal_id"]),
                    quantity=int(fill["quantity"]),
                    price=Price(int(fill["price"])),
                    assumed=None if fill["assumed"] is None else Price(int(fill["assumed"])),
                    source=_text(request, "source")[:MAX_REASON],
                )
                for fill in request["fills"]
            ]
            differences, date = int(request["differences"]), _text(request, "session")
        except (KeyError, TypeError, ValueError) as error:
            raise OperatorError(f"not a reconciliation: {error!r}", exit_code=2) from error
        if len(events) > MAX_FILLS:
            raise OperatorError(f"{len(events)} fills at once", fix="reconcile a session at a time", exit_code=2)
        events.append(
            SessionReconciled(
                session=date, source=_text(request, "source")[:MAX_REASON], fills=len(events), differences=differences
            )
        )
        session = self._attended()
        seq = self._publish(session, *events)
        return self._answer(session, seq, [f"{len(events) - 1} confirmed fills of session {date} are on record"])

    def _stopped(self, *, is_flatten: bool) -> dict[str, Any]:
        session = self._attended()
        if is_flatten and session.status.snapshot()["switches"]["kill"] == "all":
            raise OperatorError(
                "kill all keeps exits back: nothing would be closed", fix="`resume`, or `stop` as it is", exit_code=2
            )
        seq = self._publish(session, CommandReceived(command="stop", argument="flatten" if is_flatten else ""))
        text = self._until_flat(session) if is_flatten else []
        left = list(_left(session.status)) if is_flatten else []
        self._stop()
        return {"seq": seq, "left": left, "text": [f"seq {seq}: stop{' --flatten' if is_flatten else ''}", *text]}

    def _until_flat(self, session: _Attended) -> list[str]:
        """Wait until nothing is held and no order is open, but not for ever: what is left, in words."""
        limit = time.monotonic() + STOP_LIMIT_S
        while (left := list(_left(session.status))) and time.monotonic() < limit:
            with self._changed:
                if self._session is not session:
                    break  # it ends by itself meanwhile
                self._changed.wait(0.1)
        return ["left as it is:", *left] if left else ["nothing is held, no order is open"]

    # ------------------------------------------------------------- events

    def _attended(self) -> _Attended:
        """The session that runs; between two of them the next one is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self._session is not None, self._patience_s)
            if self._session is None:
                raise OperatorError(
                    "no session is open at this moment: the process is starting, between two sessions, or ending",
                    fix="nothing was recorded; try again",
                    exit_code=EXIT_TEMPORARY,
                )
            return self._session

    def _publish(self, session: _Attended, *events: Event) -> int:
        """Put `events` on record and wait until they are durable and handled. The first one's seq."""
        with self._changed:
            if self._session is not session:
                raise OperatorError(
                    "the session has just ended", fix="nothing was recorded; try again", exit_code=EXIT_TEMPORARY
                )
            envelopes = session.sequencer.publish(*events, source=SOURCE)
        is_durable, is_handled = threading.Event(), threading.Event()
        session.sequencer.when_durable(envelopes[-1].seq, is_durable.set)
        session.sequencer.when_idle(is_handled.set)
        for done, what in ((is_durable, "on disk"), (is_handled, "handled by every machine")):
            if not done.wait(DURABLE_S):
                raise OperatorError(
                    f"seq {envelopes[0].seq}: taken, but not {what} after {DURABLE_S:.0f} s",
                    fix="look with `status`, and at the log; the process may be ending itself",
                    exit_code=70,
                )
        return envelopes[0].seq

    def _answer(self, session: _Attended, seq: int, text: list[str]) -> dict[str, Any]:
        blocks = session.status.blocks()
        entries = f"entries are kept away: {', '.join(blocks)}" if blocks else "entries are allowed"
        state = session.status.snapshot()["switches"]
        disabled = state["disabled_roots"]
        lines = [f"seq {seq}: {text[0]}" if text else f"seq {seq}", *text[1:], entries]
        if disabled:
            lines.append(f"roots not enabled: {', '.join(disabled)}")
        return {"seq": seq, "switches": state, "text": lines}


def _text(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key, "")
    if not isinstance(value, str):
        raise OperatorError(f"{key}: {value!r} is no text", exit_code=2)
    return value


def _traded_root(status: Status, text: str) -> str:
    roots = status.roots
    if (root := text.upper()) in roots:
        return root
    close = difflib.get_close_matches(root, roots, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"one of: {', '.join(roots)}"
    raise OperatorError(f"{text!r} is no root of this session", fix=hint, exit_code=2)


def _left(status: Status) -> Iterator[str]:
    positions, orders = status.open_of()
    for held in positions:
        yield f"{held.quantity:+d} {held.contract}{' (UNKNOWN)' if held.is_unknown else ''}"
    for order in orders:
        # An entry that waits is not sent any more and expires by itself; what may be received counts.
        if order.intent == "exit" or order.attempt:
            yield f"{order.intent} of {order.contract}: {'to be repeated' if order.is_filled else order.state.value}"
