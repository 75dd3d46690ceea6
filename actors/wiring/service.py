"""The program as a service: readiness and watchdog of `live`, and `install-service`."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from actors.alert_words import Alert
from actors.alerts import Alerts
from actors.health import BUSY_LIMIT_S, Health, Watchdog
from adapters.config import CHECKOUT, find_config, find_service
from adapters.secret import ALERTS_VARIABLE, DEAD_MAN_VARIABLE, KEY_VARIABLE, WEBHOOK_VARIABLE
from adapters.systemd import ServiceManager, unit_text

LOOK_S = 15.0
"""Between two looks when nobody waits for a sign of life."""


@attrs.frozen
class Service:
    """What a run tells whoever has started it."""

    health: Health
    on_open: Callable[[], None]
    """To be called when a session is open."""


@contextmanager
def running_service(alerts: Alerts | None) -> Iterator[Service]:
    """Tell the service manager that the program is ready, well, and ending; tell the operator when it is not well."""
    manager = ServiceManager(os.environ)
    # Who wants a sign of life more often than our unit does wants to know sooner that there is none.
    health = Health(busy_limit_s=min(BUSY_LIMIT_S, (manager.watchdog_s or 2 * BUSY_LIMIT_S) / 2))
    ends = "it is ended and started again" if manager.watchdog_s else "nobody ends it: start it again yourself"

    def complain(complaint: str) -> None:
        manager.notify(f"STATUS=not well: {complaint}")
        if alerts is not None:
            alerts.tell(Alert("critical", "watchdog", f"the program hangs, {ends}: {complaint}"))

    watchdog = Watchdog(
        health,
        feed=lambda: manager.notify("WATCHDOG=1"),
        complain=complain,
        interval_s=LOOK_S if manager.watchdog_s is None else min(LOOK_S, manager.watchdog_s / 4),
    )
    watchdog.start()
    try:
        yield Service(health, lambda: manager.notify("READY=1", "STATUS=a session is open"))
    finally:
        watchdog.stop()
        manager.notify("STOPPING=1")


def install_service_command(config: Path | None, user: str | None) -> None:
    """Print the unit for the configuration that `live` would take."""
    path = find_config(config, os.environ, Path.cwd())
    mode, places = find_service(path)
    click.echo(
        unit_text(
            python=Path(sys.executable),
            checkout=CHECKOUT,
            config=path,
            user=user or getpass.getuser(),
            writable=places,
            credentials={
                KEY_VARIABLE: True,
                WEBHOOK_VARIABLE: mode == "live",  # without it paper has a TradersPost of its own
                ALERTS_VARIABLE: False,
                DEAD_MAN_VARIABLE: False,
            },
        ),
        nl=False,
    )
