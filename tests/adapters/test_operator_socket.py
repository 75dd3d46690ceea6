"""The operator's socket: lines both ways, bounded, several clients, whatever they do."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.operator_socket import MAX_CLIENTS, NAME, OperatorServer, ask, is_running
from domain.errors import OperatorError


def handle(request: dict[str, Any]) -> Mapping[str, Any]:
    if request.get("command") == "refuse":
        raise OperatorError("no such root", where="ES", fix="did you mean NQ?", exit_code=2)
    if request.get("command") == "wait":
        time.sleep(request["s"])
    return {"said": request}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    running = OperatorServer(tmp_path, handle)
    running.start()
    yield tmp_path
    running.close()
    assert not (tmp_path / NAME).exists()


def raw(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(directory / NAME))
    connection.settimeout(10)
    return connection


def test_a_request_is_answered_and_only_its_owner_may_ask(server: Path) -> None:
    assert (server / NAME).stat().st_mode & 0o777 == 0o600
    assert ask(server, {"command": "hello", "of": "ä"}) == {"said": {"command": "hello", "of": "ä"}}


def test_a_refusal_says_what_where_and_how_to_mend_it(server: Path) -> None:
    with pytest.raises(OperatorError, match="ES: no such root\n  fix: did you mean NQ") as refused:
        ask(server, {"command": "refuse"})
    assert refused.value.exit_code == 2


def test_one_connection_may_ask_again_and_a_slow_answer_delays_nobody_else(server: Path) -> None:
    with raw(server) as slow, raw(server) as quick:
        slow.sendall(b'{"command":"wait","s":0.4}\n')
        for number in range(3):
            quick.sendall(b'{"n":%d}\n' % number)
            assert json.loads(quick.makefile().readline()) == {"said": {"n": number}}
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b"\xff\xfe\n", b"\n"])
def test_what_is_no_request_is_refused_and_the_server_goes_on(server: Path, line: bytes) -> None:
    with raw(server) as connection:
        connection.sendall(line)
        assert json.loads(connection.makefile().readline())["exit_code"] == 2
    assert is_running(server)


@pytest.mark.parametrize("sent", [b"x" * 2_000, b""], ids=["a line without an end", "silence"])
def test_who_does_not_come_to_the_point_is_let_go(tmp_path: Path, sent: bytes) -> None:
    server = OperatorServer(tmp_path, handle, max_line=1_000, idle_s=0.1)
    server.start()
    with raw(tmp_path) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert is_running(tmp_path)
    server.close()


def test_too_many_clients_are_told_so_and_leave_room_again(server: Path) -> None:
    held = [raw(server) for _ in range(MAX_CLIENTS)]
    with raw(server) as one_more:
        assert "too many" in json.loads(one_more.makefile().readline())["error"]
    for connection in held:
        connection.close()
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        try:
            ask(server, {})
            break
        except OperatorError:
            time.sleep(0.05)
    assert ask(server, {}) == {"said": {}}


def test_a_client_that_does_not_wait_for_its_answer_harms_nobody(server: Path) -> None:
    with raw(server) as connection:
        connection.sendall(b'{"command":"wait","s":0.1}\n' * 3)
    time.sleep(0.4)
    assert ask(server, {}) == {"said": {}}


def test_nobody_there_is_told_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no program is running here") as refused:
        ask(tmp_path, {})
    assert refused.value.exit_code == 69
    assert not is_running(tmp_path)


def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / NAME))
    with pytest.raises(OperatorError, match="no program is running"):
        ask(tmp_path, {})
    server = OperatorServer(tmp_path, handle)
    server.start()
    assert ask(tmp_path, {}) == {"said": {}}
    server.close()


def test_a_path_longer_than_an_address_works_all_the_same(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90) / ("e" * 90)
    directory.mkdir(parents=True)
    server = OperatorServer(directory, handle)
    server.start()
    assert (directory / NAME).exists()
    assert ask(directory, {}) == {"said": {}}
    server.close()


def test_a_place_without_sockets_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"operator.sock: the operator's socket cannot be made"):
        OperatorServer(tmp_path / "nowhere", handle).start()


def test_an_answer_that_does_not_come_is_told(server: Path) -> None:
    with pytest.raises(OperatorError, match="no answer within 0 s") as refused:
        ask(server, {"command": "wait", "s": 0.4}, timeout_s=0.1)
    assert refused.value.exit_code == 69


def test_closing_lets_an_answer_out(tmp_path: Path) -> None:
    server = OperatorServer(tmp_path, handle)
    server.start()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(tmp_path, {"command": "wait", "s": 0.3})))
    asking.start()
    time.sleep(0.1)
    server.close()
    asking.join()
    assert answers == [{"said": {"command": "wait", "s": 0.3}}]
