# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A model that follows a script: what tests put in the place of a real one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from ...contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    accumulate,
)
from ...errors import ScriptError

Reply: TypeAlias = str | ToolCall | LLMResponse | Exception | Sequence[ToolCall | Chunk | Exception]
Step: TypeAlias = Reply | Callable[[LLMRequest], Reply]


class ScriptedProvider:
    """Answers each call with the next step, first in, first out, and keeps the `requests`.

    A step is a text, one tool call, a whole `LLMResponse`, an error to raise, a sequence (of tool
    calls made at once, or of exact chunks, where an error cuts the stream), or a function of the
    request that returns one of these. Used as `async with`, it fails when steps are left.
    """

    name = "scripted"

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self.requests: list[LLMRequest] = []
        self._steps = list(steps)

    def add(self, *steps: Step) -> None:
        """Append steps to the script."""
        self._steps.extend(steps)

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """All of what `stream` says, at once."""
        return accumulate([chunk async for chunk in self.stream(request)])

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """The next step, chunk by chunk.

        Raises:
            ScriptError: the script is at its end, or the step is none.
        """
        for chunk in self._next(request):
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def _next(self, request: LLMRequest) -> Iterable[Chunk | Exception]:
        self.requests.append(request)
        number = len(self.requests)
        if number > len(self._steps):
            raise ScriptError(
                f"The script has {len(self._steps)} steps, and this is call {number}: "
                f"{_asked(request)}. Add the step, or find out why the model is called once more."
            )
        step = self._steps[number - 1]
        reply = step(request) if callable(step) else step
        return _chunks(reply, request, number)

    def assert_complete(self) -> None:
        """Fail when steps are left.

        Raises:
            ScriptError: the script is longer than what was played.
        """
        left = self._steps[len(self.requests) :]
        if left:
            raise ScriptError(f"{len(left)} steps were never played; the next one is {left[0]!r}.")

    async def aclose(self) -> None:
        """Nothing is held open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.assert_complete()


def _chunks(reply: Reply, request: LLMRequest, number: int) -> list[Chunk | Exception]:
    if isinstance(reply, Exception):
        return [reply]
    if isinstance(reply, LLMResponse):
        return _spell(reply)
    if isinstance(reply, str):
        return _spell(_response(request, number, ChatMessage.assistant(reply)))
    if isinstance(reply, ToolCall):
        reply = [reply]
    calls = [item for item in reply if isinstance(item, ToolCall)]
    chunks = [item for item in reply if not isinstance(item, ToolCall)]
    if calls and chunks:
        raise ScriptError(
            f"Step {number} mixes tool calls with chunks. Write the calls as chunks too, or the "
            "whole as an LLMResponse."
        )
    return (
        _spell(_response(request, number, ChatMessage.assistant("", *calls))) if calls else chunks
    )


def _asked(request: LLMRequest) -> str:
    """The newest message, as its reader would recognise it."""
    if not request.messages:
        return "no message"
    newest = request.messages[-1]
    results = ", ".join(f"{result.name}: {result.content}" for result in newest.tool_results)
    return f"{newest.role} {newest.text or results!r}"


def _response(request: LLMRequest, number: int, message: ChatMessage) -> LLMResponse:
    return LLMResponse(
        id=f"scripted-{number}",
        model=request.model,
        provider="scripted",
        message=message,
        finish_reason=FinishReason.TOOL_CALL if message.tool_calls else FinishReason.STOP,
    )


def _spell(response: LLMResponse) -> list[Chunk | Exception]:
    """The response as a stream; text comes word by word."""
    chunks: list[Chunk | Exception] = []
    calls = 0
    for part in response.message.parts:
        if isinstance(part, TextPart):
            chunks += [TextDelta(text=word) for word in re.findall(r"\s*\S+|\s+$", part.text)]
        elif isinstance(part, ReasoningPart):
            chunks.append(ReasoningDelta(**part.model_dump(exclude={"type"})))
        elif isinstance(part, ToolCall):
            start = part.model_dump(exclude={"type", "arguments"})
            chunks.append(ToolCallStart(index=calls, **start))
            chunks.append(ToolCallArgumentsDelta(index=calls, text=part.arguments))
            calls += 1
    end = StreamEnd(
        id=response.id,
        model=response.model,
        provider=response.provider,
        finish_reason=response.finish_reason,
        usage=response.usage,
        cost=response.cost,
    )
    return [*chunks, end]
