"""A server on loopback that answers like Databento's Historical API: its paths, parameters and errors.

One product, MES, whose front moves from MESM4 to MESU4 on 2024-06-14 (UTC). Every weekday hour (or minute) has a
bar of each contract and one of their spread; prices follow from the hour, so that a test can tell what it must find.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import attrs
import numpy as np
import zstandard
from databento_dbn import Metadata, Schema, SType

from adapters.databento.hour_files import OHLCV_1H_RTYPE, OHLCV_1M_RTYPE, OHLCV_DTYPE
from domain.units import HOUR, MINUTE

KEY = "db-key-of-the-history-tests-0000"
ROLL = dt.date(2024, 6, 14)
IDS = {"MESM4": 101, "MESU4": 102, "MESM4-MESU4": 900}
UNTIL = dt.datetime(2024, 7, 1, 13, 30, tzinfo=dt.UTC)
"""The end of what there is."""
PRICE_PER_BAR = 0.001
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def close_of(contract: str, ts: int) -> int:
    """The close of the hour that starts at `ts`, in 1e-9: MESU4 is 40 points above MESM4."""
    return (5_000 + ts // HOUR % 100 + (40 if contract == "MESU4" else 0)) * 10**9


def bars_of(contract: str, start: int, end: int, length: int = HOUR) -> np.ndarray[Any, Any]:
    """The vendor's records of [start, end): every hour (or minute) of Monday to Friday but 21:00 to 22:00 UTC."""
    stamps = np.arange(-(-start // length) * length, end, length)
    days = stamps // (24 * HOUR)
    stamps = stamps[((days + 3) % 7 < 5) & (stamps // HOUR % 24 != 21)]
    records = np.zeros(len(stamps), OHLCV_DTYPE)
    records["length"], records["publisher_id"] = 14, 1
    records["rtype"] = OHLCV_1H_RTYPE if length == HOUR else OHLCV_1M_RTYPE
    records["instrument_id"], records["ts_event"] = IDS[contract], stamps
    records["close"] = [close_of(contract, int(ts)) for ts in stamps]
    records["open"] = records["close"]
    records["high"], records["low"] = records["close"] + 5 * 10**9, records["close"] - 5 * 10**9
    is_front = (stamps < _ns(ROLL)) == (contract == "MESM4")
    records["volume"] = np.where(is_front, 90, 10)
    return records


def _ns(date: dt.date) -> int:
    return int((dt.datetime.combine(date, dt.time(), dt.UTC) - _EPOCH).total_seconds()) * 10**9


@attrs.frozen
class Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@attrs.frozen
class Listed:
    raw_symbol: str
    intervals: list[Interval]


Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[["Vendor", "_Handler", str], bool]
"""Answers a request itself (True), or lets it pass; given the vendor, the handler and the method's name."""


class Vendor:
    """What the account may do, what was asked, and the faults to come, one per matching request."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.downloads: list[tuple[str, int, int]] = []
        self.faults: list[tuple[str, Fault]] = []
        self.address = ""

    def next_fault(self, method: str) -> Fault | None:
        for place, (of_method, fault) in enumerate(self.faults):
            if of_method == method:
                del self.faults[place]
                return fault
        return None

    def answer(self, method: str, asked: dict[str, str]) -> Answer:
        match method:
            case "metadata.get_dataset_range":
                end = UNTIL.strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
                span = {"start": "2010-06-06T00:00:00.000000000Z", "end": end}
                return _json({**span, "schema": {"ohlcv-1h": span, "trades": span}})
            case "metadata.get_cost":
                return _json(PRICE_PER_BAR * len(self._records(asked)))
            case "symbology.resolve":
                return _json({"result": _resolved(asked), "partial": [], "not_found": [], "message": "OK", "status": 0})
            case "timeseries.get_range":
                self.downloads.append((asked["symbols"], int(asked["start"]), int(asked["end"])))
                return 200, {"Content-Type": "application/octet-stream"}, self._file(asked)
        return _error(404, "not_found", f"no method {method}")

    def _records(self, asked: dict[str, str]) -> np.ndarray[Any, Any]:
        assert (asked["dataset"], asked["stype_in"]) == ("GLBX.MDP3", "raw_symbol")
        length = {"ohlcv-1h": HOUR, "ohlcv-1m": MINUTE}[asked["schema"]]
        assert int(asked["end"]) <= int((UNTIL - _EPOCH).total_seconds()) * 10**9, "data_end_after_available_end"
        # As a wildcard would: the spread comes along, and has to be left out by who reads it.
        span = int(asked["start"]), int(asked["end"])
        return np.concatenate([bars_of(name, *span, length) for name in _names(asked)])

    def _file(self, asked: dict[str, str]) -> bytes:
        assert (asked["encoding"], asked["compression"], asked["stype_out"]) == ("dbn", "zstd", "instrument_id")
        records = self._records(asked)
        listed: Any = [
            Listed(name, [Interval(dt.date(2024, 1, 1), dt.date(2024, 12, 31), str(IDS[name]))])
            for name in _names(asked)
        ]
        metadata = Metadata(
            dataset=asked["dataset"], start=int(asked["start"]), end=int(asked["end"]), stype_in=SType.RAW_SYMBOL,
            stype_out=SType.INSTRUMENT_ID, schema=Schema.from_str(asked["schema"]),
            symbols=asked["symbols"].split(","), mappings=listed,
        )  # fmt: skip
        body = records[np.argsort(records["ts_event"], kind="stable")].tobytes()
        return zstandard.ZstdCompressor().compress(bytes(metadata.encode()) + body)


def _names(asked: dict[str, str]) -> list[str]:
    return [*asked["symbols"].split(","), "MESM4-MESU4"]


def _resolved(asked: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    first, last = asked["start_date"], asked["end_date"]
    if (asked["stype_in"], asked["stype_out"]) == ("instrument_id", "raw_symbol"):
        names = {str(number): name for name, number in IDS.items()}
        return {each: [{"d0": first, "d1": last, "s": names[each]}] for each in asked["symbols"].split(",")}
    assert (asked["stype_in"], asked["stype_out"]) == ("continuous", "instrument_id")
    fronts = {"MES.v.0": ("MESM4", "MESU4"), "MES.v.1": ("MESU4", "MESM4")}
    spans = [(first, min(last, str(ROLL))), (max(first, str(ROLL)), last)]
    return {
        symbol: [
            {"d0": d0, "d1": d1, "s": str(IDS[name])}
            for (d0, d1), name in zip(spans, fronts[symbol], strict=True)
            if d0 < d1
        ]
        for symbol in asked["symbols"].split(",")
    }


def _json(body: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def _error(status: int, case: str, message: str, **headers: str) -> Answer:
    detail = {"case": case, "message": message, "status_code": status, "docs": "", "payload": None}
    return status, {"Content-Type": "application/json", **headers}, json.dumps({"detail": detail}).encode()


# ---------------------------------------------------------------- faults


def status(code: int, case: str = "trouble", **headers: str) -> Fault:
    """An answer with this status."""

    def fault(vendor: Vendor, handler: _Handler, method: str) -> bool:
        handler.send(_error(code, case, f"{case} in {method}", **{k.replace("_", "-"): v for k, v in headers.items()}))
        return True

    return fault


def cut(share: float, *, is_reset: bool = False) -> Fault:
    """The connection ends after `share` of the body: in order, as if that were all, or by a reset."""

    def fault(vendor: Vendor, handler: _Handler, method: str) -> bool:
        _, headers, body = vendor.answer(method, handler.asked)
        handler.send((200, headers, body[: int(len(body) * share)]), length=len(body) if is_reset else None)
        if is_reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True

    return fault


def stall(reached: threading.Event, until: threading.Event) -> Fault:
    """Half a body, and then nothing until the test lets go."""

    def fault(vendor: Vendor, handler: _Handler, method: str) -> bool:
        _, headers, body = vendor.answer(method, handler.asked)
        handler.send((200, headers, body[: len(body) // 2]), length=len(body))
        reached.set()
        until.wait(60)
        return True

    return fault


# ---------------------------------------------------------------- http


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: dict[str, str]

    def do_GET(self) -> None:
        self._handle(self.path.partition("?")[2])

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _handle(self, form: str) -> None:
        vendor: Vendor = self.server.vendor  # type: ignore[attr-defined]
        method = self.path.partition("?")[0].removeprefix("/v0/")
        self.asked = {name: values[0] for name, values in parse_qs(form).items()}
        vendor.asked[method] += 1
        if self.headers["Authorization"] != f"Basic {base64.b64encode(f'{KEY}:'.encode()).decode()}":
            self.send(_error(401, "auth_authentication_failed", "Authentication failed."))
            return
        fault = vendor.next_fault(method)
        if fault is None or not fault(vendor, self, method):
            self.send(vendor.answer(method, self.asked))

    def send(self, answer: Answer, length: int | None = None) -> None:
        """One answer per connection; its end is the end of a body without a length."""
        code, headers, body = answer
        self.close_connection = True
        self.send_response(code)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def running_vendor() -> Iterator[Vendor]:
    vendor = Vendor()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.vendor = vendor  # type: ignore[attr-defined]
    vendor.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
