"""Old payloads read as new ones.

A changed payload bumps its event's version (`domain.events.event(version=...)`) and
registers here how the version before becomes the next one. Files are never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from domain.errors import JournalUnreadable

Payload = dict[str, Any]
"""A decoded JSON payload."""
Upcaster = Callable[[Payload], Payload]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(event type, version) to the step from that version to the next. Empty: every type is at version 1."""


def upcast(
    type: str,
    version: int,
    payload: Payload,
    *,
    to: int,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Payload:
    """`payload` of `version` as version `to`.

    Raises JournalUnreadable when the payload is newer than `to` or a step is missing.
    """
    if version > to:
        raise JournalUnreadable(f"{type} is version {version}; this program knows versions up to {to}")
    for step in range(version, to):
        try:
            payload = upcasters[type, step](payload)
        except KeyError as error:
            raise JournalUnreadable(f"{type}: no way from version {step} to {step + 1}") from error
    return payload
