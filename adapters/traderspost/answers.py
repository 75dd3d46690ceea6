"""What the local TradersPost puts on the wire: the documented answers, and the broken ones of its faults."""

from __future__ import annotations

import asyncio
import socket
import struct
import uuid
from hashlib import sha256

import orjson
from aiohttp import web

from adapters.traderspost.faults import Fault
from adapters.traderspost.schema import Refusal


def success(text: str, attempt: int) -> web.Response:
    """The documented 200; ids are digests of the message, so that equal runs give equal journals."""
    digest = sha256(f"{attempt}:{text}".encode()).hexdigest()
    signal_uuid, log_uuid = uuid.UUID(digest[:32]), uuid.UUID(digest[32:])
    return _json(200, f'{{"success":true,"id":"{signal_uuid}","logId":"{log_uuid}","payload":{text}}}'.encode())


def refusal(refused: Refusal, *, status: int = 400) -> web.Response:
    """The documented refusal with its code."""
    return _json(status, orjson.dumps({"success": False, "messageCode": refused.code, "message": refused.message}))


def too_many(retry_after_s: float | None) -> web.Response:
    """The documented 429; TradersPost does not promise a Retry-After."""
    response = refusal(Refusal(code="too-many-requests", message="Too many requests."), status=429)
    if retry_after_s is not None:
        response.headers["Retry-After"] = f"{retry_after_s:.0f}"
    return response


def html(status: int) -> web.Response:
    """An error page of something between us and TradersPost."""
    return web.Response(status=status, text="<html><body>An error page.</body></html>", content_type="text/html")


def reset(request: web.Request) -> web.Response:
    """Close the connection with RST instead of FIN; the response returned goes nowhere."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(status=500)


async def spoil(request: web.Request, fault: Fault, response: web.Response, end: asyncio.Event) -> web.StreamResponse:
    """Answer a message that was read and judged as `fault` wants it; `response` is the right answer."""
    match fault.kind:
        case "hang":
            await end.wait()
            return reset(request)
        case "delay":
            await asyncio.sleep(fault.seconds or 0.0)
        case "500-after-accept":
            return html(500)
        case "rst-after-accept":
            return reset(request)
        case "fin-after-accept":
            if request.transport is not None:
                request.transport.close()
        case "html-200":
            return html(200)
        case "truncated-200":
            return await _truncated(request, response)
        case _:
            # Played before this, or by the broker.
            pass
    return response


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


async def _truncated(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Promise all of `whole`, send half of it, close."""
    body = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
