from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog

from adapters import log, secret
from adapters.secret import Secret, register_secret
from domain.errors import OperatorError

ROOT = Path(__file__).parents[2]
PASSWORD = 'p"ss wörd-CANARY'
URL = f"https://webhooks.traderspost.io/trading/webhook/11111111-2222/{PASSWORD}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    log._State.session, secret._Registered.forms = None, ()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_utc_stamp_session_and_seq() -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    structlog.get_logger("feed").info("connected", port=5)
    log.set_log_session("2024-05-01")
    with structlog.contextvars.bound_contextvars(seq=7):
        structlog.get_logger("feed").info("mapped")
        structlog.get_logger("feed").info("own seq wins", seq=8)
    first, second, third = lines(stream)
    assert (first["event"], first["port"], first["level"], first["logger"]) == ("connected", 5, "info", "feed")
    assert (first["session"], first["seq"]) == (None, None)
    assert str(first["timestamp"]).endswith("Z")
    assert (second["session"], second["seq"]) == ("2024-05-01", 7)
    assert third["seq"] == 8


def test_the_session_is_known_in_every_thread_and_seq_only_in_its_own() -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    log.set_log_session("2024-05-01")
    structlog.contextvars.bind_contextvars(seq=3)
    thread = threading.Thread(target=lambda: structlog.get_logger("t").info("there"))
    thread.start()
    thread.join()
    (line,) = lines(stream)
    assert (line["session"], line["seq"]) == ("2024-05-01", None)


def test_the_standard_library_goes_the_same_way() -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    log.set_log_session("2024-05-01")
    logging.getLogger("databento.live").warning("lost %d records", 3)
    logging.getLogger("pykka").debug("not at this level")
    warnings.warn("careful", stacklevel=1)
    first, second = lines(stream)
    assert (first["event"], first["logger"], first["level"]) == ("lost 3 records", "databento.live", "warning")
    assert (first["session"], first["seq"]) == ("2024-05-01", None)
    assert "careful" in str(second["event"])


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_ours_and_theirs(level: str, count: int) -> None:
    stream = io.StringIO()
    log.configure_logging(level, stream=stream)
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        for method in ("debug", "info", "warning", "error"):
            getattr(logger, method)("x")
    assert len(lines(stream)) == 2 * count


def test_a_second_configuration_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure_logging("info", stream=first)
    log.configure_logging("info", stream=second)
    structlog.get_logger("x").info("once")
    assert (first.getvalue(), len(lines(second))) == ("", 1)


def test_a_terminal_gets_a_console_line_with_session_and_seq() -> None:
    stream = Terminal()
    log.configure_logging("info", stream=stream)
    structlog.get_logger("x").info("hello", seq=12)
    text = stream.getvalue()
    assert "hello" in text
    assert "seq" in text
    assert "session" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_an_unknown_level_is_an_operators_error() -> None:
    with pytest.raises(OperatorError) as caught:
        log.configure_logging("loud", stream=io.StringIO())
    assert (caught.value.where, caught.value.exit_code) == ("--log-level", 2)
    assert "debug, info" in caught.value.fix


def _fail() -> None:
    url = URL  # a local variable, as a traceback that shows locals would print it
    raise RuntimeError(f"cannot connect to {url}")


def _say_everything() -> None:
    logger = structlog.get_logger("ours")
    logger.info(f"post {URL}", url=URL, nested={"a": [URL, {URL: 1}]}, error=ValueError(URL), password=PASSWORD)
    logger.info("key", **{URL: 1})
    logger.info("quoted", url=URL.replace(" ", "%20").replace('"', "%22").replace("ö", "%C3%B6"))
    logger.info("part", password=quote(PASSWORD))
    logger.info("bytes", body=URL.encode(), secret=Secret(URL, name="X"))
    try:
        _fail()
    except RuntimeError:
        logger.exception("ours died")
        logging.getLogger("aiohttp.client").exception("theirs died at %s", URL)
    warnings.warn(URL, stacklevel=1)


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_a_registered_secret_is_in_no_line(stream_type: type[io.StringIO], capsys) -> None:
    stream = stream_type()
    register_secret(Secret(URL, name="TRADERSPOST_WEBHOOK_URL"))
    log.configure_logging("debug", stream=stream)
    _say_everything()
    captured = capsys.readouterr()
    for text in (stream.getvalue(), captured.out, captured.err):
        assert "CANARY" not in text
        assert "11111111-2222" not in text
    assert stream.getvalue().count("died") >= 2
    assert "RuntimeError" in stream.getvalue()


def test_an_exception_is_a_field_of_its_line() -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    try:
        _fail()
    except RuntimeError:
        structlog.get_logger("ours").exception("died")
        logging.getLogger("theirs").exception("died")
    for line in lines(stream):
        assert "RuntimeError: cannot connect to https://webhooks.traderspost.io/trading/webhook/***" in str(
            line["exception"]
        )


def test_a_line_that_cannot_be_formatted_says_so_without_its_arguments(capsys) -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    record = logging.LogRecord("databento", logging.WARNING, "x.py", 1, "%d lost", (PASSWORD,), None)
    # Given to our handler alone: pytest's own raises instead of reporting.
    (handler,) = [each for each in logging.getLogger().handlers if isinstance(each, log._Handler)]
    handler.handle(record)
    assert stream.getvalue() == "a line of databento could not be logged (TypeError)\n"
    assert "CANARY" not in capsys.readouterr().err


def test_a_webhooks_path_is_redacted_though_nobody_registered_it() -> None:
    stream = io.StringIO()
    log.configure_logging("info", stream=stream)
    structlog.get_logger("x").info("post", url="http://127.0.0.1:1/trading/webhook/uuid/CANARY", status=200)
    (line,) = lines(stream)
    assert line["url"] == "http://127.0.0.1:1/trading/webhook/***"
    assert line["status"] == 200


@pytest.mark.parametrize(
    "died",
    [
        "raise RuntimeError(f'no way to {url}')",
        "import threading; t = threading.Thread(target=connect, args=(url,)); t.start(); t.join()",
        "x = Finalized(url); del x",
    ],
)
def test_a_traceback_that_python_prints_holds_no_secret(died: str) -> None:
    source = f"""
from adapters.log import redact_tracebacks
from adapters.secret import secret_from
url = secret_from({{"ALERT_URLS": "tgram://bot-CANARY-token/777"}}, "ALERT_URLS").reveal()
def connect(url): raise RuntimeError("no way to " + url.partition("//")[2])
class Finalized:
    def __init__(self, url): self.url = url
    def __del__(self): connect(self.url)
redact_tracebacks()
{died}
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "RuntimeError: no way to " in done.stderr
    assert "Traceback" in done.stderr
    assert "***" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


def test_importing_the_module_imports_no_structlog() -> None:
    code = (
        "import sys, adapters.log, adapters.config, adapters.calendar; print({'structlog', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
