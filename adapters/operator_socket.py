"""The operator's way into the running process: a Unix socket in the journal directory, JSON lines both ways.

Only who may read and write `operator.sock` (its owner, 0600) can command. The server belongs to the process that
holds the directory's lock: a socket file that is already there was left by a process that has died. It knows no
command: what a request means is its handler's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from domain.errors import OperatorError

NAME = "operator.sock"
EXIT_NOT_RUNNING = 69
MAX_LINE = 4 * 1024 * 1024
"""Bytes of one request or answer; a reconciliation of ten thousand fills fits."""
MAX_CLIENTS = 16
IDLE_S = 10.0
"""A client that says nothing for so long is let go."""
CONNECT_S = 5.0
LONGEST_ADDRESS = 100
"""Bytes; an AF_UNIX address holds 107 on Linux, 103 elsewhere."""
_DRAIN_S = 2.0

Handle = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Request to answer, in the connection's own thread. Raises OperatorError for what it refuses."""

log = structlog.get_logger()


class OperatorServer:
    """Answers requests on `DIRECTORY/operator.sock` from `start` to `close`."""

    def __init__(self, directory: Path, handle: Handle, *, max_line: int = MAX_LINE, idle_s: float = IDLE_S) -> None:
        self._path = directory / NAME
        self._handle = handle
        self._max_line, self._idle_s = max_line, idle_s
        self._is_closing = threading.Event()
        self._clients: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept, name="operator", daemon=True)

    def start(self) -> None:
        """Begin. Raises OperatorError when the socket cannot be made: without it nobody could stop the trading."""
        server = self._socket
        try:
            self._path.unlink(missing_ok=True)
            with _address(self._path) as address:
                server.bind(address)
            # Nobody can connect before listen(), so the permissions are never too wide.
            self._path.chmod(0o600)
            server.listen(MAX_CLIENTS)
        except OSError as error:
            server.close()
            raise OperatorError(
                f"the operator's socket cannot be made: {error.strerror or error}",
                where=str(self._path),
                fix="give journal_dir a shorter path, on a local file system that knows Unix sockets",
            ) from error
        self._thread.start()

    def close(self) -> None:
        """End, letting answers that are being written out."""
        self._is_closing.set()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not everywhere a listening socket can be shut
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        limit = time.monotonic() + _DRAIN_S
        for thread in (self._thread, *self._clients):
            thread.join(max(0.0, limit - time.monotonic()))

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._is_closing.is_set():
                    return
                log.warning("the operator's socket", error=str(error))
                time.sleep(0.1)  # out of file descriptors: trading goes on, and so does this
                continue
            self._clients = [client for client in self._clients if client.is_alive()]
            is_full = len(self._clients) >= MAX_CLIENTS
            client = threading.Thread(
                target=self._serve, args=(connection, is_full), name="operator-client", daemon=True
            )
            client.start()
            self._clients.append(client)

    def _serve(self, connection: socket.socket, is_full: bool) -> None:
        with connection, contextlib.suppress(OSError):  # whoever goes away without the answer may ask again
            connection.settimeout(self._idle_s)
            if is_full:
                connection.sendall(_line(_refusal(OperatorError("too many clients at once", exit_code=69))))
                return
            for line in _lines(connection, self._max_line):
                connection.sendall(_line(self._answer(line)))

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            return self._handle(request)
        except ValueError as error:
            return _refusal(OperatorError(f"not a request: {error}", exit_code=2))
        except OperatorError as error:
            return _refusal(error)


def ask(directory: Path, request: Mapping[str, Any], *, timeout_s: float = 30.0) -> dict[str, Any]:
    """The running process's answer. Raises OperatorError: what it refused, or exit 69 when none is running."""
    with _connected(directory) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.sendall(_line(request))
            line = next(_lines(connection, MAX_LINE), None)
        except OSError as error:
            raise OperatorError(
                f"no answer within {timeout_s:.0f} s: {error}",
                where=str(directory / NAME),
                fix="look with `status` at what has happened before you send it again",
                exit_code=EXIT_NOT_RUNNING,
            ) from error
    if line is None:
        raise OperatorError(
            "the process ended without an answer",
            where=str(directory / NAME),
            fix="look into the journal (`journal events FILE --type CommandReceived`) whether it was taken",
            exit_code=EXIT_NOT_RUNNING,
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise OperatorError(answer["error"], fix=answer["fix"], exit_code=answer["exit_code"])
    return answer


def is_running(directory: Path) -> bool:
    """Whether a process answers here."""
    try:
        with _connected(directory):
            return True
    except OperatorError:
        return False


@contextlib.contextmanager
def _connected(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_S)
        try:
            with _address(directory / NAME) as address:
                connection.connect(address)
        except OSError as error:
            raise OperatorError(
                f"no program is running here ({error.strerror or error})",
                where=str(directory),
                fix="name its --config or --journal-dir, or start it with `live`",
                exit_code=EXIT_NOT_RUNNING,
            ) from error
        yield connection


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """`path` as an AF_UNIX address; one that is too long goes through an open directory (Linux)."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _lines(connection: socket.socket, max_line: int) -> Iterator[bytes]:
    """Whole lines until the other side closes. Raises OSError on silence, and for a line that is too long."""
    buffer = b""
    while chunk := connection.recv(65_536):
        buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            yield line
        if len(buffer) > max_line:
            raise OSError(f"a line of more than {max_line} bytes")


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _refusal(error: OperatorError) -> dict[str, Any]:
    where = f"{error.where}: " if error.where else ""
    return {"error": f"{where}{error.what}", "fix": error.fix, "exit_code": error.exit_code}
