"""The service manager's side of a process: readiness, watchdog, and the unit that starts it.

The protocol is a datagram of `NAME=VALUE` lines to the socket that `$NOTIFY_SOCKET` names
(sd_notify(3)); without that variable nothing is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import structlog

WATCHDOG_S = 120
"""`WatchdogSec` of the unit: twice what a machine may take for one event."""

log = structlog.get_logger()


class ServiceManager:
    """Whoever started this process, if it wants to be told."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else None
        """A sign of life is wanted at least this often; None: nobody waits for one."""

    def notify(self, *lines: str) -> None:
        """Send `lines` (`READY=1`). What goes wrong is logged: the manager's trouble is not the session's."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(1.0)
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager was not told", error=str(error))


def unit_text(
    *,
    python: Path,
    checkout: Path,
    config: Path,
    user: str,
    writable: tuple[Path, ...],
    credentials: Mapping[str, bool],
) -> str:
    """The systemd unit of `live --config CONFIG`.

    `credentials`: secret by name, True when the program cannot do without it; each is read from /etc/rooney/NAME.
    """
    loads = [f"{'' if needed else '#'}LoadCredential={name}:/etc/rooney/{name}" for name, needed in credentials.items()]
    return f"""\
# /etc/systemd/system/rooney.service
[Unit]
Description=Rooney, {config.name}
Wants=network-online.target
After=network-online.target time-sync.target
# While a position may be open it is started again, however often.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
WorkingDirectory={_quoted(checkout)}
ExecStart={_quoted(python)} -m actors.main live --config {_quoted(config)}

# 2 usage and 78 configuration: another start would end the same way.
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2 78
# Fed only while the machines answer, the journal is written and the clock ticks.
WatchdogSec={WATCHDOG_S}
WatchdogSignal=SIGKILL
TimeoutStartSec=900
# A safe stop may take: the barrier, exits and their retries, the actors, the requests under way.
TimeoutStopSec=180
KillMode=mixed

# Files of root, mode 0600; the program sees them in $CREDENTIALS_DIRECTORY. Remove the # of those that exist.
{os.linesep.join(loads)}

UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={" ".join(_quoted(path) for path in writable)}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""


def _quoted(path: Path) -> str:
    """As systemd reads a word: `%` begins a specifier, `$` a variable."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(c.isspace() or c in "\"'\\" for c in text) else text
