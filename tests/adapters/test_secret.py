"""Where secrets come from, what is refused, and what of them is kept out of texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters import secret
from adapters.secret import Secret, redact, register_secret, secret_from
from domain.errors import OperatorError

NAME = "TRADERSPOST_WEBHOOK_URL"
CANARY = "c4nary-of-a-file"


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    forms, secret._Registered.forms = secret._Registered.forms, ()
    yield
    secret._Registered.forms = forms


def written(path: Path, text: str = CANARY + "\n", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(environ: dict[str, str]) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        secret_from(environ, NAME)
    assert CANARY not in str(caught.value)
    assert (caught.value.exit_code, bool(caught.value.fix)) == (78, True)
    return caught.value


# ------------------------------------------------------------------ places


def test_each_place_is_found_and_named(tmp_path: Path) -> None:
    file = written(tmp_path / "file")
    written(tmp_path / "credentials" / NAME, mode=0o440)
    for environ, source in (
        ({NAME: f" {CANARY} "}, "environment"),
        ({f"{NAME}_FILE": str(file)}, f"{NAME}_FILE"),
        ({"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, "systemd credential"),
    ):
        found = secret_from(environ, NAME)
        assert found is not None
        assert (found.reveal(), found.source) == (CANARY, source)
        assert redact(f"a {CANARY} b") == "a *** b"
        secret._Registered.forms = ()


def test_nothing_anywhere_is_none(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    environ = {NAME: " ", f"{NAME}_FILE": "", "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert secret_from(environ, NAME) is None


def test_places_that_agree_are_one_and_places_that_differ_are_refused(tmp_path: Path) -> None:
    written(tmp_path / NAME)
    same = {NAME: CANARY, f"{NAME}_FILE": str(tmp_path / NAME), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = secret_from(same, NAME)
    assert found is not None
    assert found.source == "environment"
    for others in ({NAME: "another"}, {f"{NAME}_FILE": str(written(tmp_path / "other", "another"))}):
        error = refusal(same | others)
        assert error.where == NAME
        assert "differs between" in error.what


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    error = refusal({f"{NAME}_FILE": str(written(tmp_path / "file", mode=mode))})
    assert f"open to others (mode {mode:04o})" in error.what
    assert "chmod 600" in error.fix


def test_a_credential_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    written(tmp_path / NAME, mode=0o444)
    assert "open to others" in refusal({"CREDENTIALS_DIRECTORY": str(tmp_path)}).what


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "file")
    try:
        os.chown(file, 12_345, -1)
    except PermissionError:
        pytest.skip("only root gives files away")
    assert "belongs to another user" in refusal({f"{NAME}_FILE": str(file)}).what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (f"{CANARY}\n{CANARY}\n", "more than one line"),
        (CANARY * 400, "more than one line"),
    ],
)
def test_a_file_that_holds_no_one_line_is_refused(tmp_path: Path, text: str, what: str) -> None:
    for environ in ({f"{NAME}_FILE": str(tmp_path / NAME)}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        written(tmp_path / NAME, text)
        assert what in refusal(environ).what


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(written(tmp_path / "file"))
    os.mkfifo(pipe, 0o600)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    for name, what in (
        ("link", "is a symbolic link"),
        ("pipe", "is not a regular file"),
        ("", "is not a regular file"),
        ("absent", "cannot be read: No such file"),
        ("binary", "more than one line of text"),
    ):
        error = refusal({f"{NAME}_FILE": str(tmp_path / name)})
        assert what in error.what
        assert error.where == f"{NAME}_FILE"


# --------------------------------------------------------------- redaction


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tgram://bot-CANARY-1/chat-CANARY-2", "POST https://api.example/bot-CANARY-1 for chat-CANARY-2"),
        ("mailto://someone:pass-CANARY-3@example.org", "login pass-CANARY-3 refused"),
        ("https://user-CANARY:pw-CANARY@host.example/a", "401 for user-CANARY, pw-CANARY"),
        ("https://hooks.example/in?token=q-CANARY-4&x=y", "GET /in?token=q-CANARY-4"),
        (
            "slack://T-CANARY-5/B-CANARY-6/#c-CANARY-7 json://h/p-CANARY-8",
            "T-CANARY-5 B-CANARY-6 c-CANARY-7 p-CANARY-8",
        ),
    ],
)
def test_the_parts_of_an_alerts_url_are_secrets_too(url: str, said: str) -> None:
    register_secret(Secret(url, name="ALERT_URLS"))
    assert "CANARY" not in redact(f"{said} and {url}")


def test_hosts_and_short_parts_are_ordinary_words() -> None:
    register_secret(Secret("http://127.0.0.1:18080/trading/webhook/a/b", name="X"))
    register_secret(Secret("s", name="Y"))
    text = "a bar closed; trading goes on at 127.0.0.1:18080"
    assert redact(text) == text
