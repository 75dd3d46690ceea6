"""The service manager's protocol over a real socket, and the unit by systemd's own judgement."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.systemd import WATCHDOG_S, ServiceManager, unit_text


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(20)
        name = str(tmp_path / "notify")
        listening.bind(name)
        yield listening, name


def test_lines_arrive_as_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    ServiceManager({"NOTIFY_SOCKET": name}).notify("READY=1", "STATUS=open")
    assert listening.recv(4096) == b"READY=1\nSTATUS=open"


def test_an_abstract_socket_is_named_by_an_at_sign() -> None:
    name = f"rooney-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(20)
        listening.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).notify("WATCHDOG=1")
        assert listening.recv(4096) == b"WATCHDOG=1"


def test_without_a_manager_or_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).notify("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify("READY=1")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_sign_of_life_is_owed_when_it_is_asked_of_this_process(
    environ: dict[str, str], expected: float | None
) -> None:
    assert ServiceManager(environ).watchdog_s == expected


def unit(place: Path) -> str:
    return unit_text(
        python=Path(sys.executable),
        checkout=place,
        config=place / "live 100%.yml",
        user="root",
        writable=(place / "journal",),
        credentials={"DATABENTO_API_KEY": True, "ALERT_URLS": False},
    )


def test_the_unit_says_what_the_program_means(tmp_path: Path) -> None:
    lines = unit(tmp_path).splitlines()
    for line in (
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=2 78",
        "StartLimitIntervalSec=0",
        f"WatchdogSec={WATCHDOG_S}",
        "LoadCredential=DATABENTO_API_KEY:/etc/rooney/DATABENTO_API_KEY",
        "#LoadCredential=ALERT_URLS:/etc/rooney/ALERT_URLS",
        f"ReadWritePaths={tmp_path / 'journal'}",
    ):
        assert line in lines
    assert f'--config "{tmp_path}/live 100%%.yml"' in unit(tmp_path)


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    file = tmp_path / "rooney.service"
    file.write_text(unit(tmp_path))
    judged = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (judged.returncode, judged.stderr) == (0, "")
