# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What every command starts from, and how it ends when it fails."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ...errors import (
    BudgetError,
    BusStartError,
    ConfigurationError,
    ContextError,
    ContextTooLargeError,
    DeadlineExceededError,
    HandlerExistsError,
    HandlerMissingError,
    JournalError,
    LLMError,
    LlmgineError,
    MessageUnreadableError,
    RateLimitedError,
    ResultTimeoutError,
    ToolDefinitionError,
    TransportError,
    TurnLimitError,
)
from .render import dim, red

if TYPE_CHECKING:
    from ...application import Application
    from ...settings import RuntimeSettings


class ExitCode(IntEnum):
    """What the process ends with. Scripts depend on the numbers: they never change meaning."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    MODEL = 4
    LIMIT = 5
    STORE = 6
    TOOL = 7
    TRANSPORT = 8
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.UNEXPECTED: "an unexpected error, or a check of `doctor` failed",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.CONFIGURATION: "a setting, a key, an extra or the wiring is wrong",
    ExitCode.MODEL: "the model call failed",
    ExitCode.LIMIT: "the turn reached its limit of steps, time, context or budget",
    ExitCode.STORE: "the store of conversations or messages failed",
    ExitCode.TOOL: "the tool did not answer",
    ExitCode.TRANSPORT: "the message server failed",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.OUTPUT_CLOSED: "nobody reads the output any more",
}

# The first class that fits decides, so a class stands before the one it derives from.
_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (ConfigurationError, ExitCode.CONFIGURATION),
    (ToolDefinitionError, ExitCode.CONFIGURATION),
    (BusStartError, ExitCode.CONFIGURATION),
    (HandlerExistsError, ExitCode.CONFIGURATION),
    (HandlerMissingError, ExitCode.CONFIGURATION),
    (BudgetError, ExitCode.LIMIT),
    (LLMError, ExitCode.MODEL),
    (TurnLimitError, ExitCode.LIMIT),
    (DeadlineExceededError, ExitCode.LIMIT),
    (RateLimitedError, ExitCode.LIMIT),
    (ContextTooLargeError, ExitCode.LIMIT),
    (ResultTimeoutError, ExitCode.LIMIT),
    (ContextError, ExitCode.STORE),
    (JournalError, ExitCode.STORE),
    (MessageUnreadableError, ExitCode.STORE),
    (TransportError, ExitCode.TRANSPORT),
    (BrokenPipeError, ExitCode.OUTPUT_CLOSED),
    (typer.TyperException, ExitCode.USAGE),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that stands for this error."""
    for error_type, code in _CODES:
        if isinstance(error, error_type):
            return code
    return ExitCode.UNEXPECTED


def one_line(error: BaseException) -> str:
    """The error as a user reads it: ours say what to do, others what they are and where."""
    said = " ".join(str(error).split())
    if isinstance(error, LlmgineError | typer.TyperException):
        return said or type(error).__name__
    where = _where(error)
    return f"unexpected {type(error).__name__}" + (f": {said}" if said else "") + where


def _where(error: BaseException) -> str:
    """Where the owner would look first: the innermost of their own lines, or else of any."""
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if not frames:
        return ""
    package = Path(__file__).parents[3]
    theirs = [
        (path, line)
        for path, line in frames
        if path.is_relative_to(package) and not path.is_relative_to(package / "llmgine")
    ]
    path, line = (theirs or frames)[-1]
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" ({shown}:{line})"


def exit_code_table() -> str:
    """The exit codes as `--help` shows them; the backspace keeps typer from joining the lines."""
    lines = [f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()]
    return "\b\n" + "\n".join(["Exit codes:", *lines])


# What these have to say is in their message; the log has nothing to add.
_NOTHING_MORE = {ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.INTERRUPTED}


@dataclass
class Entry:
    """Handed to every command as `context.obj`; gathers what the report of a failure can tell."""

    name: str
    load_settings: Callable[..., RuntimeSettings]
    bootstrap: Callable[[Any], Application]
    trace_id: str | None = None
    _settings: RuntimeSettings | None = None

    def settings(self, **overrides: Any) -> RuntimeSettings:
        """The checked settings; an override that is `None` was not given.

        Raises:
            ConfigurationError: a value is wrong.
        """
        self._settings = self.load_settings(**overrides)
        return self._settings

    @property
    def log_file(self) -> Path | None:
        """Where the application logs, once the settings are known."""
        return None if self._settings is None else self._settings.log_dir / "app.jsonl"

    @asynccontextmanager
    async def application(self, **overrides: Any) -> AsyncIterator[Application]:
        """The application, started; stopped on the way out.

        Raises:
            ConfigurationError: a setting is wrong, or the model cannot be called as things are.
        """
        app = self.bootstrap(self.settings(**overrides))
        app.llm.check(app.settings.model)
        async with app:
            yield app

    @asynccontextmanager
    async def application_without_model(self) -> AsyncIterator[Application]:
        """The application for what calls no model and works on no queue: it needs no key."""
        async with self.bootstrap(self.settings(work=False)) as app:
            yield app

    @contextmanager
    def traced(self, app: Application, name: str) -> Iterator[None]:
        """A span around what the user asked for, by which a report names the trace."""
        with app.observer.span(name):
            traceparent = app.observer.traceparent()
            self.trace_id = traceparent.split("-")[1] if traceparent else None
            yield

    def report(self, error: BaseException) -> ExitCode:
        """Say on stderr what went wrong, and where to read more; the code to exit with."""
        code = exit_code(error)
        if code is ExitCode.INTERRUPTED:
            print(dim("interrupted", sys.stderr), file=sys.stderr)
            return code
        print(red(f"error: {one_line(error)}", sys.stderr), file=sys.stderr)
        if code is ExitCode.UNEXPECTED and not self._log(error):
            traceback.print_exception(error)
        elif code not in _NOTHING_MORE and self.log_file is not None and self.log_file.exists():
            trace = f"; {self.name} logs trace {self.trace_id}" if self.trace_id else ""
            print(dim(f"details: {self.log_file}{trace}", sys.stderr), file=sys.stderr)
        return code

    def _log(self, error: BaseException) -> bool:
        """Write the stack to the log, whatever became of the application; whether that worked."""
        if self._settings is None or self.log_file is None:
            return False
        from ...observability import JsonlSink, Observer, Redactor

        try:
            sink = JsonlSink(self.log_file)
        except ConfigurationError:
            return False
        observer = Observer([sink], redact=Redactor(self._settings.secrets()))
        observer.record(
            __name__,
            {
                "level": "error",
                "message": f"{self.name} failed",
                "exception": {
                    "type": type(error).__name__,
                    "message": str(error),
                    "stacktrace": "".join(traceback.format_exception(error)),
                },
            },
            kind="log",
        )
        observer.close()
        return True
