"""Secrets: from the environment only, in a type that cannot be printed by accident, refused in files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from adapters.yaml_source import Position, YamlMap, YamlScalar, YamlValue
from domain.errors import OperatorError

KEY_VARIABLE = "DATABENTO_API_KEY"
WEBHOOK_VARIABLE = "TRADERSPOST_WEBHOOK_URL"
REDACTED = "***"

_SECRET_KEY = re.compile(r"(?i)(^|_)(url|key|secret|token|password|webhook)(_|$)|apikey")
_SECRET_VALUE = re.compile(r"://|/trading/webhook/|^db-\w{16,}$")
"""No value of a configuration is a URL, so every URL is taken for the webhook's."""


class Secret:
    """Text from the environment that no repr, str, format, asdict or JSON shows; only `reveal` does.

    Not an attrs class on purpose: attrs.asdict and cattrs would walk into its field.
    """

    __slots__ = ("_text", "name")

    def __init__(self, text: str, *, name: str) -> None:
        """`name`: the variable it came from, for messages."""
        self._text = text
        self.name = name

    def reveal(self) -> str:
        """The text itself. Call it where it is sent, never where it could be kept."""
        return self._text

    def __repr__(self) -> str:
        return f"<{self.name} {REDACTED}>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled or copied")


def secret_from(environ: Mapping[str, str], name: str) -> Secret | None:
    """The variable `name` as a secret; None when it is unset or blank."""
    text = environ.get(name, "").strip()
    return Secret(text, name=name) if text else None


def refuse_secrets(value: YamlValue) -> None:
    """Raises OperatorError where a file holds what is, or looks like, a credential; it is not repeated."""
    match value:
        case YamlMap():
            for key, inner in value.entries.items():
                if _SECRET_KEY.search(key):
                    _refuse(inner.path, value.keys_at[key])
                refuse_secrets(inner)
        case YamlScalar():
            if _SECRET_VALUE.search(value.text):
                _refuse(value.path, value.at)
        case _:
            for item in value.items:
                refuse_secrets(item)


def _refuse(path: str, at: Position) -> NoReturn:
    raise OperatorError(
        f"{path}: a URL, key or password must not stand in a file (the webhook's path alone can place orders)",
        where=str(at),
        fix=f"remove it and set {WEBHOOK_VARIABLE} or {KEY_VARIABLE} in the environment",
    )
