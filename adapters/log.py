"""Logging for operators: structlog, a console on a terminal, JSON lines otherwise.

One chain for our own lines and for the standard library's (databento, pykka, aiohttp, warnings):
UTC stamps, `session` and `seq` on every line (null when unknown), and last of all a processor
that takes secrets out. What someone will query is an event in the journal, not a line here.

`session` is one per process (`set_log_session`); `seq` belongs to the thread that handles an
envelope: `structlog.contextvars.bound_contextvars(seq=...)` or `log.info("...", seq=...)`.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

from adapters.secret import redact
from domain.errors import OperatorError

LEVELS = ("debug", "info", "warning", "error")

EventDict = MutableMapping[str, Any]


LIBRARIES = ("aiohttp", "apprise", "asyncio", "databento", "pykka")


class _State:
    """What is known to the whole process; logging has one process-wide configuration by nature."""

    session: str | None = None


def configure_logging(level: str, *, stream: TextIO) -> None:
    """Log to `stream` from `level` (debug, info, warning, error) on. A second call replaces the first.

    Raises OperatorError for an unknown level.
    """
    import structlog

    if level not in LEVELS:
        raise OperatorError(
            f"unknown log level {level!r}", where="--log-level", fix=f"one of: {', '.join(LEVELS)}", exit_code=2
        )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.StackInfoRenderer(),
        # Before the redaction: a library's exception carries the whole URL.
        structlog.processors.format_exc_info,
        _add_place,
        _redact_values,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A cached logger would keep the processors of an earlier call.
        cache_logger_on_first_use=False,
    )
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if stream.isatty()
        else structlog.processors.JSONRenderer()
    )
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _redact_line],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for library in LIBRARIES:
        # Their everyday lines say what the journal says; with debug they are wanted.
        logging.getLogger(library).setLevel(level.upper() if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)


def set_log_session(session: str | None) -> None:
    """The session that every line names from now on, in all threads; None between sessions."""
    _State.session = session


def redact_tracebacks() -> None:
    """Take secrets out of the tracebacks that Python itself prints: a library's exception may hold a URL."""

    def of_the_program(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        _print_redacted("", error)

    def of_a_thread(died: threading.ExceptHookArgs) -> None:
        name = died.thread.name if died.thread is not None else "?"
        _print_redacted(f"Exception in thread {name}:\n", died.exc_value)

    def of_a_finalizer(ignored: sys.UnraisableHookArgs) -> None:
        _print_redacted(f"{ignored.err_msg or 'Exception ignored'}:\n", ignored.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_the_program, of_a_thread, of_a_finalizer


def _print_redacted(title: str, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        print(redact(title + "".join(traceback.format_exception(error))), end="", file=sys.stderr)


# --------------------------------------------------------------- processors


def _add_place(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    event_dict.setdefault("session", _State.session)
    event_dict.setdefault("seq", None)
    return event_dict


def _redact_values(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    """Redact keys and values as text, before a renderer escapes them; `_` keys are the machinery's own."""
    return {
        key if key.startswith("_") else redact(key): value if key.startswith("_") else _redacted(value)
        for key, value in event_dict.items()
    }


def _redacted(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact(value)
        case bytes():
            return redact(value.decode("utf-8", "replace"))
        case dict():
            return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_redacted(inner) for inner in value]
        case _:
            # Anything else would be printed by the renderer, after this processor.
            return redact(repr(value) if isinstance(value, BaseException) else str(value))


def _redact_line(_logger: Any, _method: str, line: Any) -> Any:
    """The second net, over the finished line: keys, and whatever a renderer added."""
    return redact(line) if isinstance(line, str) else line


class _Handler(logging.StreamHandler[TextIO]):
    """A stream handler whose own failures do not print the record's raw arguments to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.isatty():
            # Over the progress line, which rewrites itself below.
            self.stream.write("\r\x1b[K")
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        kind = sys.exc_info()[0]
        name = kind.__name__ if kind is not None else "error"
        try:
            self.stream.write(f"a line of {record.name} could not be logged ({name})\n")
        except (OSError, ValueError):
            # The stream itself is gone (closed pipe): there is nobody left to tell.
            return
