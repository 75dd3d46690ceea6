"""TradersPost for a simulation: the router without its socket, and the account behind it.

`SimulatedLine` is the product's router; only the exchange of bytes is played, so every outcome is
classified as live. What a fault does to a message depends on the seed, the order and the attempt,
never on what else is sent. `SimulatedAccount` outlives processes and judges: it counts what it took.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import aiohttp
import attrs
import orjson

from adapters.traderspost.ledger import Ledger, LedgerSnapshot
from adapters.traderspost.router import Answer, WebhookRouter, _Proof
from adapters.traderspost.schema import Refusal, lint, parse, validate
from domain.events import OrderSubmitted, Outcome, ProbeAnswered, ProbeSubmitted
from domain.market import TradeArray
from domain.ports import MayWrite
from domain.units import Nanos, Price, price_to_decimal

CANARY = "c4naryc4naryc4naryc4nary"
URL = f"http://127.0.0.1:9/trading/webhook/5ca1ab1e-0000-4000-8000-00000000beef/{CANARY}"
"""Nobody is ever connected to; its path must show nowhere."""

FAULTS: tuple[str, ...] = (
    "refused",
    "no-answer-to-connect",
    "429",
    "429-wait",
    "500-before-accept",
    "500-after-accept",
    "reset-before-read",
    "reset-after-accept",
    "hang",
    "html-200",
    "redirect",
    "password",
    "payload",
    "slow",
    "no-trade",
    "duplicate",
)
READ_TIMEOUT_S = 8.0
CONNECT_TIMEOUT_S = 3.0


@attrs.frozen(kw_only=True)
class FaultWindow:
    """`kinds` happen to this share of the messages between two moments."""

    start: Nanos
    end: Nanos
    rate: float
    kinds: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Sent:
    """A message at the moment its first byte is written."""

    ts: Nanos
    signal_id: str
    attempt: int
    intent: str
    root: str
    body: str
    expires_ns: Nanos | None
    is_durable: bool
    """Its intent was on disk."""


class SimulatedAccount:
    """The webhook's other side, from the first process to the last."""

    def __init__(self, *, seed: int, windows: Sequence[FaultWindow], tape: TradeArray, tickers: Mapping[int, str]):
        """`tape` is the market that it trades in, `tickers` its instruments by id."""
        self.sent: list[Sent] = []
        self.played: list[str] = []
        """The faults that happened, in order."""
        self._seed = seed
        self._windows = windows
        self._tape, self._tickers, self._told = tape, tickers, 0
        self._ledger = Ledger()
        self._now = Nanos(0)

    def fault_of(self, key: str, now: Nanos) -> str:
        """What happens to the message `key` (an order's attempt, a probe), or an empty string."""
        draw = random.Random(f"{self._seed}:{key}")
        for window in self._windows:
            if window.start <= now < window.end and draw.random() < window.rate:
                fault = draw.choice(window.kinds)
                self.played.append(fault)
                return fault
        return ""

    def take(self, text: str, fault: str, now: Nanos, late_ns: int) -> Answer:
        """The server reads a message: what it does and what it says."""
        self.catch_up(now)
        parsed = parse(text)
        judged = parsed if isinstance(parsed, Refusal) else validate(parsed)
        if isinstance(parsed, Refusal) or isinstance(judged, Refusal):
            code = parsed.code if isinstance(parsed, Refusal) else judged.code  # type: ignore[union-attr]
            if not isinstance(parsed, Refusal) and not parsed.is_probe:
                self._note(parsed.signal_id, text, lint(parsed), code)
            return _answer(400, {"success": False, "messageCode": code, "message": f"refused at {URL}"})
        early = _EARLY.get(fault)
        if early is not None:
            self._note(parsed.signal_id, text, lint(parsed), fault)
            return early
        self._note(parsed.signal_id, text, lint(parsed), fault or "accepted")
        dues = [now + late_ns] * (2 if fault == "duplicate" else 1)
        is_unplayed = fault == "no-trade" and judged.intent == "entry"
        self._ledger.accept(parsed.signal_id, judged, dues, now, why_not="nothing: no trade" if is_unplayed else "")
        if fault == "500-after-accept":
            return _answer(500, None)
        if fault == "html-200":
            return _answer(200, None)
        return _answer(200, {"success": True, "id": f"{CANARY[:4]}-{len(self.sent)}", "logId": "1", "payload": {}})

    def catch_up(self, now: Nanos) -> None:
        """Let the market trade and executions happen up to `now`."""
        self._now = max(self._now, now)
        tape = self._tape
        while self._told < len(tape) and tape["ts_recv"][self._told] <= self._now:
            trade = tape[self._told]
            price = price_to_decimal(Price(int(trade["price"])))
            self._ledger.trade_seen(self._tickers[int(trade["instrument_id"])], price, int(trade["ts_recv"]))
            self._told += 1
        self._ledger.advance(self._now)

    def snapshot(self, now: Nanos) -> LedgerSnapshot:
        """The ledger at `now`."""
        self.catch_up(now)
        return self._ledger.snapshot()

    def _note(self, signal_id: str, text: str, lints: tuple[str, ...], answer: str) -> None:
        self._ledger.note_attempt(signal_id, "", text, lints)
        self._ledger.note_answer(signal_id, answer)


def _answer(status: int, said: dict[str, object] | None, **more: str) -> Answer:
    body = b"<html>" if said is None else orjson.dumps(said)
    return Answer(status=status, retry_after=more.get("retry_after"), date=None, body=body)


_EARLY = {
    "429": _answer(429, {"success": False, "messageCode": "too-many-requests", "message": ""}),
    "429-wait": _answer(429, None, retry_after="20"),
    "500-before-accept": _answer(500, None),
    "redirect": _answer(307, None),
    "password": _answer(400, {"success": False, "messageCode": "invalid-password", "message": URL}),
    "payload": _answer(400, {"success": False, "messageCode": "invalid-quantity", "message": URL}),
}


@attrs.frozen(kw_only=True)
class _Asked:
    """`may_write` of one message, and which it is."""

    may_write: MayWrite
    submitted: OrderSubmitted | ProbeSubmitted

    async def __call__(self) -> object:
        return await self.may_write()


class SimulatedLine(WebhookRouter):
    """Implements `domain.ports.Webhook` for one process.

    `pass_time` lets simulated seconds pass, and with `is_waited_for` false none do while a message is on its way.
    `reach` is called where a process may die, `is_durable` says whether an attempt is on disk. An attempt in `told`
    has that outcome, whatever is drawn.
    """

    def __init__(
        self,
        account: SimulatedAccount,
        *,
        now: Callable[[], Nanos],
        pass_time: Callable[[float], Awaitable[None]],
        is_waited_for: bool,
        reach: Callable[[], None],
        is_durable: Callable[[OrderSubmitted], bool],
        told: Mapping[tuple[str, int], Outcome | ProbeAnswered],
    ) -> None:
        super().__init__(URL, is_live=False)
        self._account = account
        self._now, self._pass_time, self._reach, self._is_durable = now, pass_time, reach, is_durable
        self._is_waited_for, self._told = is_waited_for, told

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        told = self._told.get((submitted.signal_id, submitted.attempt))
        outcome = await super().post(submitted, _Asked(may_write=may_write, submitted=submitted))
        return told if isinstance(told, Outcome) else outcome

    async def probe(self, submitted: ProbeSubmitted, may_write: MayWrite) -> ProbeAnswered:
        told = self._told.get(("probe", submitted.ordinal))
        answered = await super().probe(submitted, _Asked(may_write=may_write, submitted=submitted))
        return told if isinstance(told, ProbeAnswered) else answered

    async def _send(self, body: bytes, proof: _Proof) -> Answer:
        asked = proof.may_write
        assert isinstance(asked, _Asked)
        submitted = asked.submitted
        if isinstance(submitted, OrderSubmitted):
            key = f"{submitted.signal_id} {submitted.attempt}"
        else:
            key = f"probe {submitted.ordinal}"
        draw = random.Random(key)
        fault = self._account.fault_of(key, self._now())
        if fault == "refused":
            raise ConnectionRefusedError(errno.ECONNREFUSED, URL)
        if fault == "no-answer-to-connect":
            await self._pass_time(CONNECT_TIMEOUT_S)
            raise aiohttp.ConnectionTimeoutError(URL)
        await self._pass_time(draw.choice((0.0, 0.001, 0.08, 1.0)))
        await proof.may_write()
        proof.is_headers_sent = True
        if isinstance(submitted, OrderSubmitted):
            self._note(submitted)
        self._reach()
        if fault == "reset-before-read":
            raise ConnectionResetError(errno.ECONNRESET, URL)
        # Executed before the client gives up: what is sent after that cannot have been overtaken.
        late_ns = draw.randrange(7_000_000_000) if fault == "hang" and self._is_waited_for else 0
        answer = self._account.take(body.decode(), fault, self._now(), late_ns)
        self._reach()
        if fault == "hang":
            await self._pass_time(READ_TIMEOUT_S)
            raise TimeoutError(URL)
        await self._pass_time(draw.choice((0.0, 0.02, 0.5)) if fault != "slow" else 7.0)
        self._reach()
        if fault == "reset-after-accept":
            raise ConnectionResetError(errno.ECONNRESET, URL)
        return answer

    def _note(self, submitted: OrderSubmitted) -> None:
        self._account.sent.append(
            Sent(
                ts=self._now(),
                signal_id=submitted.signal_id,
                attempt=submitted.attempt,
                intent=submitted.intent,
                root=submitted.root,
                body=submitted.body,
                expires_ns=submitted.expires_ns,
                is_durable=self._is_durable(submitted),
            )
        )
