"""Secrets: where they come from, a type that cannot be printed by accident, and their removal from text.

Never from a configuration file. `secret_from` looks in three places: the variable itself, the file that
`<variable>_FILE` names, and the systemd credential of the same name. What it has read is
kept out of every text that goes through `redact` from then on.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote

from adapters.yaml_source import Position, YamlMap, YamlScalar, YamlValue
from domain.errors import OperatorError

KEY_VARIABLE = "DATABENTO_API_KEY"
WEBHOOK_VARIABLE = "TRADERSPOST_WEBHOOK_URL"
ALERTS_VARIABLE = "ALERT_URLS"
DEAD_MAN_VARIABLE = "ALERT_DEADMAN_URL"
SECRET_VARIABLES = (KEY_VARIABLE, WEBHOOK_VARIABLE, ALERTS_VARIABLE, DEAD_MAN_VARIABLE)
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Set by systemd for a unit with LoadCredential= or SetCredentialEncrypted=."""
REDACTED = "***"
LENGTH_LIMIT_BYTES = 4096

_SECRET_KEY = re.compile(r"(?i)(^|_)(url|key|secret|token|password|webhook)(_|$)|apikey")
_SECRET_VALUE = re.compile(r"://|/trading/webhook/|^db-\w{16,}$")
"""No value of a configuration is a URL, so every URL is taken for the webhook's."""
# Not past a backslash, which a URL's path cannot hold: in a finished JSON line it escapes what follows.
_WEBHOOK_PATH = re.compile(r"(?i)/trading/webhook/[^\s\"'<>\\]*")
_URL = re.compile(r"(\w+)://(?:([^/@]*)@)?([^/?#]*)(.*)", re.DOTALL)
_URL_SEPARATOR = re.compile(r"[?&][^=&]*=|[/:#&?]")
_PUBLIC_PARTS = ("trading", "webhook", "webhooks", "services")
_SHORTEST_PART = 6
"""Anything below this length is a word or a test's key; redacting it would eat ordinary text."""


class Secret:
    """Text that no repr, str, format, asdict or JSON shows; only `reveal` does.

    Not an attrs class on purpose: attrs.asdict and cattrs would walk into its field.
    """

    __slots__ = ("_text", "name", "source")

    def __init__(self, text: str, *, name: str, source: str = "environment") -> None:
        """`name`: its variable, for messages; `source`: where it was found, for people."""
        self._text = text
        self.name = name
        self.source = source

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
    """The secret `name`; None when no place holds one (a blank variable is none).

    The variable itself comes first, then the file named by `<name>_FILE`, then the systemd credential;
    all that are there must say the same. The file must be a regular one (no symbolic link), owned by us
    and readable by nobody else. Raises OperatorError, which never quotes a secret.
    """
    found = [(source, text) for source, text in _places(environ, name) if text]
    if not found:
        return None
    (source, text), *others = found
    for other, different in others:
        if different != text:
            raise OperatorError(
                f"differs between {source} and {other}", where=name, fix="keep one of the two: it cannot be guessed"
            )
    secret = Secret(text, name=name, source=source)
    register_secret(secret)
    return secret


def register_secret(secret: Secret) -> None:
    """Keep `secret`, its percent-encoded forms and, for a URL, its long parts out of every redacted text."""
    text = secret.reveal()
    forms = {
        form for part in (text, *_url_parts(text)) for form in (part, quote(part), quote(part, safe=""), unquote(part))
    }
    forms = {form for form in forms if len(form) >= _SHORTEST_PART}
    # Longest first, so that a form that holds another one is replaced whole.
    _Registered.forms = tuple(sorted({*_Registered.forms, *forms}, key=lambda form: (-len(form), form)))


def redact(text: str) -> str:
    """`text` without registered secrets and without any webhook's path."""
    for form in _Registered.forms:
        text = text.replace(form, REDACTED)
    return _WEBHOOK_PATH.sub(f"/trading/webhook/{REDACTED}", text)


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


class _Registered:
    """What is known to the whole process: there is one standard error."""

    forms: tuple[str, ...] = ()


def _url_parts(text: str) -> list[str]:
    """What of the URLs in `text` may be a credential: a host without a dot is one in `tgram://TOKEN/CHAT`."""
    parts = []
    for url in re.split(r"[\s,]+(?=[\w=]+://)", text):
        if match := _URL.fullmatch(re.sub(r"^\w+=(?=\w+://)", "", url)):
            scheme, user, host, rest = match.groups(default="")
            is_name = scheme in ("http", "https") or "." in host or host.startswith("localhost")
            parts += _URL_SEPARATOR.split("/".join((user, "" if is_name else host, rest)))
    return [part for part in parts if part not in _PUBLIC_PARTS]


def _places(environ: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    """(source, text) of every place, in the order of precedence; an empty text is none."""
    places = [("environment", environ.get(name, "").strip())]
    if file := environ.get(f"{name}_FILE", "").strip():
        places.append((f"{name}_FILE", _read(Path(file), where=f"{name}_FILE", is_ours=True)))
    if directory := environ.get(CREDENTIALS_VARIABLE, "").strip():
        credential = Path(directory) / name
        if credential.exists():
            # systemd owns it and lets nobody else in; where it uses an ACL the owner is root.
            places.append(("systemd credential", _read(credential, where=f"${CREDENTIALS_VARIABLE}/{name}")))
    return places


def _read(path: Path, *, where: str, is_ours: bool = False) -> str:
    """The one line in `path`. What is checked is the file that is open, so nobody can put another in its place."""
    try:
        # Without O_NONBLOCK a pipe would wait for somebody to write into it.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (os.O_NOFOLLOW if is_ours else 0))
    except OSError as error:
        fault = "is a symbolic link" if is_ours and path.is_symlink() else f"cannot be read: {error.strerror}"
        raise OperatorError(f"{path} {fault}", where=where, fix="name a file of your own with mode 0600") from error
    try:
        _refuse_open_file(path, os.fstat(number), where=where, is_ours=is_ours)
        content = os.read(number, LENGTH_LIMIT_BYTES + 1)
    finally:
        os.close(number)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = "\n"
    if not text:
        raise OperatorError(f"{path} is empty", where=where, fix="write the secret into it, and nothing else")
    if len(content) > LENGTH_LIMIT_BYTES or not text.isprintable():
        raise OperatorError(
            f"{path} holds more than one line of text", where=where, fix="write the secret into it, and nothing else"
        )
    return text


def _refuse_open_file(path: Path, status: os.stat_result, *, where: str, is_ours: bool) -> None:
    """Raises OperatorError for a file that somebody else could have read or written."""
    if not stat.S_ISREG(status.st_mode):
        raise OperatorError(f"{path} is not a regular file", where=where, fix="name a file of one line")
    if is_ours and status.st_uid != os.geteuid():
        raise OperatorError(
            f"{path} belongs to another user", where=where, fix="make it yours (chown), or name a file that is"
        )
    if status.st_mode & (0o077 if is_ours else 0o007):
        raise OperatorError(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            where=where,
            fix=f"chmod 600 {path}, and take the credential for known if others have been on this machine",
        )


def _refuse(path: str, at: Position) -> NoReturn:
    raise OperatorError(
        f"{path}: a URL, key or password must not stand in a file (the webhook's path alone can place orders)",
        where=str(at),
        fix=f"remove it and set one of {', '.join(SECRET_VARIABLES)} in the environment",
    )
