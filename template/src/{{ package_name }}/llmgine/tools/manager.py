# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The tool manager: plain typed functions in, exactly one typed result per call out."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from traceback import format_exception_only
from typing import Any, TypeVar

from ..contracts import ToolCall, ToolResult, ToolSpec, ToolStatus
from ..errors import ConfigurationError, ToolDefinitionError
from ..observability import Observer, semconv
from ..threads import DaemonThreads
from ._values import ArgumentsError, ResultError, cut, parse_arguments, render
from .schema import Definition, define, label_of

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)
_MAX_NAMES = 20
_MAX_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class _Tool:
    definition: Definition
    function: Callable[..., Any]
    is_async: bool
    timeout_s: float


class _NotOkError(Exception):
    """A call that ended without a result; the text is for the model."""

    def __init__(self, status: ToolStatus, text: str, error_type: str | None = None) -> None:
        self.status = status
        self.error_type = error_type or status.value
        super().__init__(text)


class ToolManager:
    """Holds the tools and runs what the model calls.

    Args:
        timeout_s: for one call, unless the tool has its own.
        concurrency: calls that run at once.
        max_threads: threads for functions that are not async. A call that timed out keeps its
            thread until it really ends.
        max_result_bytes: a longer result is cut, with a note that says so.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        concurrency: int = 8,
        max_threads: int = 8,
        max_result_bytes: int = 16_384,
        observer: Observer | None = None,
    ) -> None:
        _check_above_zero(
            timeout_s=timeout_s,
            concurrency=concurrency,
            max_threads=max_threads,
            max_result_bytes=max_result_bytes,
        )
        self._timeout_s = timeout_s
        self._max_result_bytes = max_result_bytes
        self._observer = observer or Observer()
        self._slots = asyncio.Semaphore(concurrency)
        self._threads = DaemonThreads(max_threads, name="llmgine-tool")
        self._tools: dict[str, _Tool] = {}

    def register(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float | None = None,
    ) -> ToolSpec:
        """Offer the function to models; what they will see of it is returned.

        Name, description and parameters come from the function, its types and its docstring. An
        async function runs in the event loop, any other in a thread.

        Raises:
            ToolDefinitionError: the function cannot be a tool, or its name is taken.
        """
        definition = define(function, name=name, description=description)
        spec = definition.spec
        if timeout_s is not None and timeout_s <= 0:
            raise ToolDefinitionError(f"The timeout of tool {spec.name!r} must be above 0.")
        if spec.name in self._tools:
            other = label_of(self._tools[spec.name].function)
            raise ToolDefinitionError(
                f"There already is a tool {spec.name!r} ({other}). "
                f"Register {label_of(function)} under another `name=`."
            )
        self._tools[spec.name] = _Tool(
            definition, function, _is_async(function), timeout_s or self._timeout_s
        )
        return spec

    def tool(self, function: F) -> F:
        """Decorator: register the function and leave it as it is."""
        self.register(function)
        return function

    def specs(self) -> tuple[ToolSpec, ...]:
        """Every tool as a model sees it, in the order of registration."""
        return tuple(tool.definition.spec for tool in self._tools.values())

    async def execute(self, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
        """Run the calls side by side: exactly one result for each, in their order.

        Whatever a tool does is told in its result. Cancelling cancels every call; only a function
        that runs in a thread cannot be stopped, and what it returns is thrown away.
        """
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(self._answer(call)) for call in calls]
        return tuple(
            _cancelled(call) if answer.cancelled() else answer.result()
            for call, answer in zip(calls, answers, strict=True)
        )

    async def aclose(self) -> None:
        """Give back the threads; the manager is not used after it."""
        self._threads.close()

    async def _answer(self, call: ToolCall) -> ToolResult:
        attributes = {
            semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
            semconv.TOOL_NAME: call.name[:_MAX_NAME_CHARS],
            semconv.TOOL_TYPE: "function",
            semconv.TOOL_CALL_ID: call.id,
        }
        if self._observer.capture_content:
            attributes[semconv.TOOL_CALL_ARGUMENTS] = call.arguments
        name = semconv.tool_span(call.name[:_MAX_NAME_CHARS])
        async with self._slots:
            with self._observer.span(name, attributes=attributes) as span:
                status, truncated = ToolStatus.OK, False
                try:
                    content, truncated = await self._run(call)
                except _NotOkError as not_ok:
                    status = not_ok.status
                    content, truncated = cut(str(not_ok), self._max_result_bytes)
                    span.fail(not_ok.error_type, content)
                span.set(semconv.TOOL_STATUS, status.value)
                if self._observer.capture_content:
                    span.set(semconv.TOOL_CALL_RESULT, content)
        return ToolResult(
            call_id=call.id, name=call.name, status=status, content=content, truncated=truncated
        )

    async def _run(self, call: ToolCall) -> tuple[str, bool]:
        tool = self._tools.get(call.name)
        if tool is None:
            raise _NotOkError(ToolStatus.UNKNOWN_TOOL, self._suggest(call.name))
        try:
            arguments = parse_arguments(tool.definition, call.arguments)
            value = await self._invoke(tool, arguments)
            return render(value, self._max_result_bytes)
        except ArgumentsError as error:
            raise _NotOkError(ToolStatus.INVALID_ARGUMENTS, str(error)) from error
        except _NotOkError:
            raise
        except (Exception, SystemExit) as error:
            _log.exception("Tool %r failed.", call.name)
            text = f"The tool {call.name!r} failed: {_say(error)}"
            raise _NotOkError(ToolStatus.FAILED, text, type(error).__name__) from error

    async def _invoke(self, tool: _Tool, arguments: dict[str, Any]) -> Any:
        thread: Future[Any] | None = None
        limit = asyncio.timeout(tool.timeout_s)
        try:
            async with limit:
                if tool.is_async:
                    return await tool.function(**arguments)
                thread = self._threads.submit(partial(tool.function, **arguments))
                value = await asyncio.wrap_future(thread)
                return await value if inspect.isawaitable(value) else value
        except Exception as error:
            if not limit.expired():
                raise
            raise _NotOkError(ToolStatus.TIMEOUT, _overdue(tool, thread)) from error

    def _suggest(self, name: str) -> str:
        name = name[:_MAX_NAME_CHARS]
        if close := difflib.get_close_matches(name, self._tools):
            return f"There is no tool {name!r}. Closest: {', '.join(close)}."
        if not self._tools:
            return f"There is no tool {name!r}, nor any other."
        names = sorted(self._tools)
        more = ", ..." if len(names) > _MAX_NAMES else ""
        return f"There is no tool {name!r}. There are: {', '.join(names[:_MAX_NAMES])}{more}."


def _check_above_zero(**limits: float) -> None:
    for name, limit in limits.items():
        if limit <= 0:
            raise ConfigurationError(f"A tool manager's {name!r} must be above 0, not {limit}.")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _cancelled(call: ToolCall) -> ToolResult:
    """What becomes of a call that was cancelled by itself, and not together with all others."""
    return ToolResult(
        call_id=call.id,
        name=call.name,
        status=ToolStatus.CANCELLED,
        content=f"The tool {call.name!r} was cancelled before it ended.",
    )


def _overdue(tool: _Tool, thread: Future[Any] | None) -> str:
    text = f"The tool {tool.definition.spec.name!r} did not end within {tool.timeout_s:g} s"
    if thread is not None and thread.cancelled():
        return f"{text}: it was never started, for all threads are busy with other calls."
    if thread is not None and thread.running():
        return f"{text}. It could not be stopped and may still be running."
    return f"{text} and was stopped."


def _say(error: BaseException) -> str:
    if isinstance(error, ResultError):
        return str(error)
    # And not `str(error)`, which is the tool's code and may raise.
    return "".join(format_exception_only(error)).strip()
