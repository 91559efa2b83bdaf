# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Log lines: structlog's and the standard library's take one way, to the sinks and to stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, NoReturn, TextIO

from .observer import Observer
from .records import Record, message_of, stack_of, timestamp

# They tell of every request, some with the key in its address.
_QUIET = ("LiteLLM", "aiohttp", "httpcore", "httpx", "litellm", "openai", "urllib3")
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "taskName"}
_COLORS = {"warning": 33, "error": 31, "critical": 31}


def configure_logging(
    level: str = "INFO",
    observer: Observer | None = None,
    *,
    console: bool = True,
    console_level: str = "WARNING",
    json: bool = False,
    colors: bool | None = None,
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """Send every log line to the observer's sinks, and warnings to the console.

    Lines of the standard library's logging, and of structlog where it has been imported.

    A line on the console is one line: of an exception it shows the message, and the record in the
    sinks has the whole stack.

    Args:
        level: lines below it go nowhere.
        observer: its sinks get all others; without one only the console does.
        console: whether anything goes to the console at all.
        console_level: lines below it stay off the console.
        json: on the console, each line is the record's JSON instead of text.
        colors: by default where the console is a terminal and `NO_COLOR` is not set.
        stream: the console; by default stderr.

    Returns:
        What puts logging back as it was.

    Raises:
        ValueError: a level is none of the standard library's.
    """
    screen = _Console(stream, json=json, colors=colors) if console else None
    router = _Router(observer or Observer(), screen, _level(console_level))
    undo = contextlib.ExitStack()
    _route_standard_logging(router, _level(level), undo)
    _route_structlog(router, _level(level), undo)
    return undo.close


def _level(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise ValueError(f"{name!r} is no log level; use DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    return number


def _route_standard_logging(router: _Router, level: int, undo: contextlib.ExitStack) -> None:
    root = logging.getLogger()
    undo.callback(root.setLevel, root.level)
    undo.callback(setattr, root, "handlers", root.handlers)
    root.setLevel(level)
    root.handlers = [_Handler(router)]
    for name in _QUIET:
        logger = logging.getLogger(name)
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(max(level, logging.WARNING))


def _route_structlog(router: _Router, level: int, undo: contextlib.ExitStack) -> None:
    # Who logs with it has imported it by now; all others need not wait a fifth of a second for it.
    if "structlog" not in sys.modules:
        return
    import structlog

    if structlog.is_configured():
        undo.callback(structlog.configure, **structlog.get_config())
    else:
        undo.callback(structlog.reset_defaults)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, router.from_structlog],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Named,
        cache_logger_on_first_use=False,
    )


class _Named:
    """What structlog calls the logger; all it needs is a name, as the router ends every line."""

    def __init__(self, name: str = "app") -> None:
        self.name = name


class _Handler(logging.Handler):
    """The standard library's way to the router."""

    def __init__(self, router: _Router) -> None:
        super().__init__()
        self._router = router

    def emit(self, record: logging.LogRecord) -> None:
        extra = {
            key: value for key, value in record.__dict__.items() if key not in _STANDARD_FIELDS
        }
        error = record.exc_info[1] if record.exc_info else None
        self._router.write(record.levelno, record.name, _formatted(record), extra, error)


def _formatted(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # Arguments that do not fit, or their `__str__`: the line is still a line.
        return str(record.msg)


class _Router:
    """Where both ways meet."""

    def __init__(self, observer: Observer, console: _Console | None, console_level: int) -> None:
        self._observer = observer
        self._console = console
        self._console_level = console_level

    def from_structlog(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        import structlog

        message = event.pop("event", "")
        error = event.pop("exc_info", None)
        self.write(_level(method), logger.name, str(message), event, _exception(error))
        raise structlog.DropEvent

    def write(
        self,
        level: int,
        name: str,
        message: str,
        extra: Mapping[str, Any],
        error: BaseException | None,
    ) -> None:
        fields: dict[str, Any] = {"level": logging.getLevelName(level).lower(), "message": message}
        if error is not None:
            fields["exception"] = {
                "type": type(error).__qualname__,
                "message": message_of(error),
                "stacktrace": stack_of(error),
            }
        if extra:
            fields = {**extra, **fields}
        self._observer.record(name, fields, kind="log")
        if self._console is not None and level >= self._console_level:
            trace_id = (self._observer.traceparent() or "").split("-")[1:2]
            clean = self._observer.redact.fields(fields)
            self._console.write(
                Record(timestamp(), "log", name, trace_id=next(iter(trace_id), None), fields=clean)
            )


def _exception(given: object) -> BaseException | None:
    """The exception that structlog's `exc_info` means: `True`, the exception, or its triple."""
    if isinstance(given, tuple):
        given = given[1]
    elif given is True:
        given = sys.exc_info()[1]
    return given if isinstance(given, BaseException) else None


class _Console:
    """Shows a record on one line."""

    def __init__(self, stream: TextIO | None, *, json: bool, colors: bool | None) -> None:
        self._stream = stream
        self._json = json
        self._colors = _wants_colors(stream or sys.stderr) if colors is None else colors

    def write(self, record: Record) -> None:
        line = record.to_json() if self._json else self._text(record)
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError, AttributeError):  # Closed, or there is none.
            stream.write(f"{line}\n")
            stream.flush()

    def _text(self, record: Record) -> str:
        fields = dict(record.fields)
        level = str(fields.pop("level"))
        message = _printable(str(fields.pop("message")))
        error = fields.pop("exception", None)
        details = "".join(f" {key}={_printable(str(value))}" for key, value in fields.items())
        if isinstance(error, dict):
            first_line = next(iter(str(error["message"]).splitlines()), "")
            details += f" ({error['type']}: {_printable(first_line)})"
        label = f"\x1b[{_COLORS.get(level, 36)}m{level}\x1b[0m" if self._colors else level
        local = datetime.fromisoformat(record.ts).astimezone()
        return f"{local:%H:%M:%S} {label} {record.name}: {message}{details}"


def _wants_colors(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def _printable(text: str) -> str:
    """No line breaks, and nothing that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
