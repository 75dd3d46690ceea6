"""The webhook's address, whose path is the whole credential.

A `WebhookUrl` shows its origin only: its text leaves through `reveal()`, which the
router alone calls. Parsing refuses whatever could send paper orders to the real
service or live orders anywhere else; no message here ever holds the address.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs
from yarl import URL

from domain.errors import OperatorError

WEBHOOK_VARIABLE = "TRADERSPOST_WEBHOOK_URL"
REAL_HOST = "webhooks.traderspost.io"
REAL_DOMAIN = "traderspost.io"

# Narrower than RFC 3986 on purpose: no escapes and no dot segments, so that the text here,
# in the HTTP client and in a redacted answer is one and the same.
_PATH = re.compile(r"/trading/webhook/([A-Za-z0-9_-][A-Za-z0-9._~-]*)/([A-Za-z0-9_-][A-Za-z0-9._~-]*)")
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*|[0-9a-f:.]+")
_SHORTEST_SECRET = 5
"""Shorter parts (the local server's `demo`) are no secrets, and blanking them would garble other words."""


@attrs.frozen(kw_only=True, repr=False)
class WebhookUrl:
    """A checked address; `origin` may be shown, the rest never."""

    origin: str
    _text: str
    _secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WebhookUrl({self.origin}/***)"

    def reveal(self) -> str:
        """The full address: for the HTTP client only."""
        return self._text

    def redact(self, text: str) -> str:
        """`text` with every part of the credential blanked (an answer may echo it)."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def parse_webhook_url(text: str, *, mode: Literal["paper", "live"]) -> WebhookUrl:
    """The address in `text`. Raises OperatorError, which never quotes it.

    `live` accepts the real host over https only; `paper` accepts any other host.
    """
    url = _parsed(text.strip())
    match = _PATH.fullmatch(url.raw_path) if url is not None else None
    if url is None or match is None or url.raw_host is None:
        raise OperatorError(
            "is not a webhook address",
            where=WEBHOOK_VARIABLE,
            fix="copy it from TradersPost: https://HOST/trading/webhook/UUID/PASSWORD",
        )
    # `webhooks.traderspost.io.` is the same host to the resolver.
    host = url.raw_host.rstrip(".").lower()
    is_real = host == REAL_DOMAIN or host.endswith("." + REAL_DOMAIN)
    if mode == "live" and not (url.raw_host == REAL_HOST and url.scheme == "https" and url.port == 443):
        raise OperatorError(
            f"mode: live sends to https://{REAL_HOST} only",
            where=WEBHOOK_VARIABLE,
            fix="copy the webhook's address from TradersPost, or use mode: paper",
        )
    if mode == "paper" and is_real:
        raise OperatorError(
            "mode: paper must not send to the real TradersPost",
            where=WEBHOOK_VARIABLE,
            fix="unset it (a local TradersPost is started), point it to a local one, or use mode: live",
        )
    parts = {url.raw_path, match[1], match[2]}
    secrets = sorted((part for part in parts if len(part) >= _SHORTEST_SECRET), key=len, reverse=True)
    return WebhookUrl(origin=str(url.origin()), text=str(url), secrets=tuple(secrets))


def _parsed(text: str) -> URL | None:
    """The URL, or None: the library's own errors quote their input, so none of them may be chained."""
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return None
    try:
        url = URL(text)
        if url.scheme not in ("http", "https") or url.user is not None or url.password is not None:
            return None
        if url.raw_query_string or url.raw_fragment or "?" in text or "#" in text:
            return None
        if url.raw_host is None or not _HOST.fullmatch(url.raw_host.rstrip(".")) or not url.port:
            return None
    except ValueError:
        return None
    return url
