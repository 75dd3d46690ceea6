"""Alert channels over apprise, and the dead-man ping. Whatever goes wrong is logged, nothing is raised.

The addresses are credentials (a Discord URL is its webhook's token): they come from the environment,
all their parts are registered as secrets, and every text is redacted before it leaves. apprise is
imported when there is a channel, not before.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import structlog

from adapters.secret import Secret, redact, register_secret
from adapters.settings import Severity
from domain.errors import OperatorError

if TYPE_CHECKING:
    from apprise.plugins.base import NotifyBase

PING_TIMEOUT_S = 5.0

_ADDRESS = re.compile(r"(?i)[\s,]+(?=(?:(?:info|warning|critical)=)?[a-z][a-z0-9+.-]*://)")
"""Between two addresses; a comma inside one (two recipients) is part of it."""
_ROUTE = re.compile(r"(?i)(info|warning|critical)=")
_APPRISE_TYPE = {"info": "info", "warning": "warning", "critical": "failure"}

log = structlog.get_logger()


class AppriseChannel:
    """One address of `ALERT_URLS`."""

    def __init__(self, plugin: NotifyBase, *, min_severity: Severity) -> None:
        self._plugin = plugin
        self.kind = str(plugin.service_name)
        self.min_severity: Severity = min_severity

    def send(self, *, title: str, body: str, severity: Severity) -> bool:
        """True when the service took it. Blocks as long as the service lets it; never raises."""
        try:
            # The plugin itself: Apprise's own dispatch may wait in a pool whose threads hold up the process's end.
            return self._plugin.notify(
                body=redact(body),
                title=redact(title),
                notify_type=_APPRISE_TYPE[severity],
                body_format="text",
                overflow="truncate",
            )
        except Exception:
            # A hundred services' code, in a thread where nobody could catch it: no alert may end in a traceback.
            log.exception("an alert channel failed", channel=self.kind)
            return False


def alert_channels(urls: Secret, *, min_severity: Severity) -> list[AppriseChannel]:
    """The channels that `urls` names, apart by commas or space, each optionally `severity=URL`.

    `min_severity` is of those that name none. Raises OperatorError (78) for what apprise does not know.
    """
    from apprise import Apprise, AppriseAsset

    register_secret(urls)
    asset = AppriseAsset(app_id="Rooney", app_desc="Rooney", async_mode=False)
    channels = []
    for number, text in enumerate(_ADDRESS.split(urls.reveal().strip(" ,")), start=1):
        route = _ROUTE.match(text)
        url = text if route is None else text[route.end() :]
        severity = min_severity if route is None else cast("Severity", route[1].lower())
        plugin = Apprise.instantiate(url, asset=asset)
        if plugin is None:
            raise OperatorError(
                f"address {number} is none that apprise knows (it is not repeated here)",
                where=urls.name,
                fix="see https://github.com/caronc/apprise for the addresses of its services; `alerts test` tries them",
            )
        channels.append(AppriseChannel(plugin, min_severity=severity))
    return channels


class DeadManPing:
    """A GET that tells a dead-man service (such as healthchecks) that all is well."""

    def __init__(self, url: Secret) -> None:
        """Raises OperatorError (78) when `url` is no http address."""
        address = urlsplit(url.reveal())
        if address.scheme not in ("http", "https") or not address.hostname:
            raise OperatorError("no http address", where=url.name, fix="write the https:// address of the check")
        register_secret(url)
        self._url = url

    def __call__(self) -> None:
        """Ask once; a failure is logged."""
        try:
            with urllib.request.urlopen(self._url.reveal(), timeout=PING_TIMEOUT_S):
                pass
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.warning("the dead-man ping failed", error=repr(error))
