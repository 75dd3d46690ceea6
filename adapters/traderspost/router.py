"""The way out: one POST of one attempt or probe, and an honest name for what became of it.

TradersPost has no idempotency key and no way to read back, so the only question that
matters is: may the message have been received? "No" needs proof (the connection was
never made, or the headers were never written); everything else that is not an answer
is ambiguous. The router never retries, never follows a redirect and never lets a
library's exception out: their texts carry the address, which is the credential.
"""

from __future__ import annotations

import errno
import re
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp
import attrs
import orjson

from adapters.traderspost.webhook_url import WebhookUrl, parse_webhook_url
from domain.errors import OurError
from domain.events import (
    OrderAccepted,
    OrderAmbiguous,
    OrderNotSent,
    OrderRejected,
    OrderSubmitted,
    Outcome,
    ProbeAnswered,
    ProbeSubmitted,
)
from domain.ports import HeldBackError, MayWrite

ANSWER_LIMIT_BYTES = 65_536
RETRY_AFTER_LIMIT_S = 300.0
MESSAGE_LIMIT_CHARACTERS = 300
ID_LIMIT_CHARACTERS = 128
_CODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SECONDS = re.compile(r"-?\d{1,12}(\.\d{1,9})?")


@attrs.frozen(kw_only=True)
class Timeouts:
    """Limits of one attempt, in seconds: to connect, between two reads, and over all."""

    connect_s: float = 3.0
    read_s: float = 8.0
    total_s: float = 12.0


@attrs.frozen(kw_only=True)
class Answer:
    """What came back. `body` is None when it could not be read to its end."""

    status: int
    retry_after: str | None
    date: str | None
    body: bytes | None


@attrs.frozen
class _Silence:
    """No answer, and why: the errors' names, never their texts."""

    cause: str
    is_sent: bool
    """False when nothing can have been received."""
    is_held_back: bool = False
    """We did not write it."""


@attrs.define(kw_only=True)
class _Proof:
    """What is asked before a byte of this request leaves, and whether one may have left."""

    may_write: MayWrite
    """Awaited when the connection stands."""
    is_headers_sent: bool = False
    """Set just before aiohttp writes the headers."""


class WebhookRouter:
    """ports.Webhook over aiohttp. Belongs to the event loop of its first `post`."""

    def __init__(self, url: str, *, is_live: bool, timeouts: Timeouts | None = None) -> None:
        """Raises OperatorError for an address that does not fit the mode (never quoting it)."""
        self._url = parse_webhook_url(url, mode="live" if is_live else "paper")
        self._timeouts = timeouts or Timeouts()
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"WebhookRouter({self._url!r})"

    async def post(self, submitted: OrderSubmitted, may_write: MayWrite) -> Outcome:
        """Send `submitted.body` once, when `may_write()` is done, and classify what came of it.

        The connection is made meanwhile; waiting counts towards the time limit. Never raises for
        network trouble. A cancelled post raises CancelledError and leaves the attempt without an
        outcome, which recovery reads as ambiguous.
        """
        answer = await self._exchange(submitted.body, may_write)
        if isinstance(answer, Answer):
            return classify(submitted, answer, self._url)
        if answer.is_sent:
            return _ambiguous(submitted, answer.cause)
        return _not_sent(submitted, answer.cause, is_held_back=answer.is_held_back)

    async def probe(self, submitted: ProbeSubmitted, may_write: MayWrite) -> ProbeAnswered:
        """Send `submitted.body`, which cannot trade, once. Never raises for network trouble."""
        answer = await self._exchange(submitted.body, may_write)
        if not isinstance(answer, Answer):
            return ProbeAnswered(ordinal=submitted.ordinal, is_up=False, detail=answer.cause)
        said = _said(answer.body)
        code = _code(said, self._url, default="without a code of TradersPost")
        if 200 <= answer.status < 300 and said.get("success") is True:
            code = "took the probe for an order"
        return ProbeAnswered(
            ordinal=submitted.ordinal,
            is_up=answer.status == 400 and code == "invalid-payload",
            detail=f"HTTP {answer.status} {code}",
        )

    async def close(self) -> None:
        """Release connections. A later `post` is a bug and raises OurError."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, body: str, may_write: MayWrite) -> Answer | _Silence:
        """One POST, and whether it may have been received when nothing comes back."""
        proof = _Proof(may_write=may_write)
        try:
            return await self._send(body.encode(), proof)
        except HeldBackError as reason:
            return _Silence(f"held back: {reason}", is_sent=False, is_held_back=True)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # By the proof and not by the error's class: a reset looks the same before and after the message.
            if proof.is_headers_sent:
                return _Silence(f"no answer after sending ({_kind(error)})", is_sent=True)
            return _Silence(f"no connection ({_kind(error)}): nothing was sent", is_sent=False)

    async def _send(self, body: bytes, proof: _Proof) -> Answer:
        async with self._opened().post(
            self._url.reveal(),
            data=body,
            headers={"Content-Type": "application/json", "User-Agent": "rooney"},
            allow_redirects=False,  # aiohttp posts the order again to the target of a 307
            trace_request_ctx=proof,
        ) as response:
            return Answer(
                status=response.status,
                retry_after=response.headers.get("Retry-After"),
                date=response.headers.get("Date"),
                body=await _read(response),
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise OurError("the webhook router is closed")
        if self._session is None:
            limits = self._timeouts
            self._session = aiohttp.ClientSession(
                # A kept connection may die unseen between two orders: each gets its own.
                connector=aiohttp.TCPConnector(force_close=True),
                timeout=aiohttp.ClientTimeout(
                    total=limits.total_s,
                    sock_connect=limits.connect_s,
                    connect=limits.connect_s,
                    sock_read=limits.read_s,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[_trace()],
            )
        return self._session


def classify(submitted: OrderSubmitted, answer: Answer, url: WebhookUrl) -> Outcome:
    """The outcome that `answer` means; texts from outside are redacted with `url` and cut."""
    status, said = answer.status, _said(answer.body)
    message = url.redact(_text(said, "message"))[:MESSAGE_LIMIT_CHARACTERS]
    match status:
        case _ if 200 <= status < 300:
            if said.get("success") is True:
                return _accepted(submitted, status, url.redact(_text(said, "id"))[:ID_LIMIT_CHARACTERS])
            if said.get("success") is False:
                return _rejected(submitted, status, _code(said, url, default="success-false"), message)
            return _ambiguous(submitted, f"HTTP {status} without the JSON answer of TradersPost")
        case _ if 300 <= status < 400:
            return _rejected(submitted, status, "redirect", f"HTTP {status} redirect, not followed")
        case 408:
            # The server says it did not get all of it; a proxy says so too after passing it on.
            return _ambiguous(submitted, "HTTP 408 after sending")
        case 429:
            cause = "HTTP 429 too many requests: not taken"
            return _not_sent(submitted, cause, retry_after_s=_retry_after_s(answer), is_throttled=True)
        case _ if 400 <= status < 500:
            return _rejected(submitted, status, _code(said, url, default=f"http-{status}"), message)
        case _:
            return _ambiguous(submitted, f"HTTP {status} after sending")


def _accepted(submitted: OrderSubmitted, status: int, external_id: str) -> OrderAccepted:
    return OrderAccepted(
        root=submitted.root,
        signal_id=submitted.signal_id,
        attempt=submitted.attempt,
        http_status=status,
        external_id=external_id,
    )


def _rejected(submitted: OrderSubmitted, status: int, code: str, message: str) -> OrderRejected:
    return OrderRejected(
        root=submitted.root,
        signal_id=submitted.signal_id,
        attempt=submitted.attempt,
        http_status=status,
        code=code,
        message=message,
    )


def _ambiguous(submitted: OrderSubmitted, cause: str) -> OrderAmbiguous:
    return OrderAmbiguous(root=submitted.root, signal_id=submitted.signal_id, attempt=submitted.attempt, cause=cause)


def _not_sent(
    submitted: OrderSubmitted,
    cause: str,
    *,
    retry_after_s: float | None = None,
    is_throttled: bool = False,
    is_held_back: bool = False,
) -> OrderNotSent:
    return OrderNotSent(
        root=submitted.root,
        signal_id=submitted.signal_id,
        attempt=submitted.attempt,
        cause=cause,
        retry_after_s=retry_after_s,
        is_throttled=is_throttled,
        is_held_back=is_held_back,
    )


def _trace() -> aiohttp.TraceConfig:
    async def on_headers_sent(
        session: aiohttp.ClientSession, context: SimpleNamespace, sent: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        # aiohttp calls this before the first byte, and closes the connection when it raises. It does not
        # when `on_connection_create_end` does: every message held back would leave a connection open.
        await context.trace_request_ctx.may_write()
        context.trace_request_ctx.is_headers_sent = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(on_headers_sent)
    return trace


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None when it breaks off or is no answer of a webhook: the status still counts."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_chunked(8192):
            body += chunk
            if len(body) > ANSWER_LIMIT_BYTES:
                return None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return bytes(body)


def _said(body: bytes | None) -> dict[str, object]:
    """The JSON object of an answer; empty for anything else."""
    try:
        value = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(said: dict[str, object], key: str) -> str:
    value = said.get(key)
    return str(value) if isinstance(value, str | int) else ""


def _code(said: dict[str, object], url: WebhookUrl, *, default: str) -> str:
    code = url.redact(_text(said, "messageCode"))
    return code if _CODE.fullmatch(code) else default


def _retry_after_s(answer: Answer) -> float | None:
    """Seconds to wait, 0-300, from either form of Retry-After; None when absent or unreadable.

    A date is measured against the answer's own Date, so that no clock of ours enters an event.
    """
    text = (answer.retry_after or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(answer.date or "")).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_S)


def _kind(error: BaseException) -> str:
    """The class and the errno's name: never the text, which carries the address."""
    number = error.errno if isinstance(error, OSError) else None
    name = errno.errorcode.get(number) if number is not None else None
    return f"{type(error).__name__}, {name}" if name else type(error).__name__
