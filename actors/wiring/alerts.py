"""Alerts of a live run, and `alerts test`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from actors.alert_words import SEVERITIES, Alert
from actors.alerts import Alerts, Sender
from adapters.config import Config
from adapters.log import configure_logging
from adapters.secret import ALERTS_VARIABLE, secret_from
from domain.errors import OperatorError


@contextmanager
def running_alerts(config: Config) -> Iterator[Alerts | None]:
    """Alerts while the block runs, and of the error that ends it; None when nothing is configured."""
    if config.alert_urls is None and config.dead_man_url is None:
        yield None
        return
    from adapters.alerts import DeadManPing, alert_channels

    urls, dead_man = config.alert_urls, config.dead_man_url
    alerts = Alerts(
        [] if urls is None else alert_channels(urls, min_severity=config.alerts.min_severity),
        title=f"Rooney {config.mode} {config.account}",
        coalesce_s=config.alerts.coalesce_s,
        ping=None if dead_man is None else DeadManPing(dead_man),
        ping_interval_s=config.alerts.dead_man_s,
    )
    alerts.start()
    try:
        yield alerts
    except Exception as error:
        alerts.tell(Alert("critical", "program", f"the program ended with an error: {error}"))
        raise
    finally:
        alerts.stop()


def alerts_test_command(log_level: str) -> int:
    """Send one message of each severity to each channel; 0 when all were taken, else 69."""
    from adapters.alerts import alert_channels

    configure_logging(log_level, stream=sys.stderr)
    urls = secret_from(os.environ, ALERTS_VARIABLE)
    if urls is None:
        raise OperatorError(
            "not set, so nobody is alerted", where=ALERTS_VARIABLE, fix="set it to one or more apprise URLs"
        )
    is_all_sent = True
    for number, channel in enumerate(alert_channels(urls, min_severity="info"), start=1):
        sender = Sender(channel)
        for severity in SEVERITIES:
            is_sent = sender.send(title=f"Rooney test: {severity}", body="A test; nothing happened.", severity=severity)
            is_all_sent = is_all_sent and is_sent
            click.echo(f"{number} {channel.kind:<16} {severity:<9} {'sent' if is_sent else 'NOT SENT'}")
    return 0 if is_all_sent else 69
