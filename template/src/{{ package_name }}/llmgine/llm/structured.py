# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Answers as values of a type, from any model: the best way it has of keeping to a schema first.

A model is asked in the first of three modes that it can do: `native` (the request's `output`),
`tool` (it must call one tool whose arguments are the answer), `prompted` (the schema stands in the
system prompt). A mode that does not work there, because the request is refused, the answer holds
no JSON or is the schema itself, gives way to the next one. JSON that is there but wrong is asked
for again in the same mode, with what was wrong, `retries` times. So there are at most
`3 * (1 + retries)` calls. Nothing is repaired: only in `prompted` mode is the text around one JSON
object, such as a Markdown fence, left out.

Answers can be private: the message of an error, and the `problem` of a try, name places and types
in the answer, and never what stood there. The model itself is told more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from pydantic import JsonValue
from pydantic_core import from_json

from ..contracts import (
    Accumulator,
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    OutputSpec,
    StreamReset,
    TextDelta,
    TextPart,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
)
from ..errors import (
    CassetteError,
    LLMError,
    LLMErrorKind,
    OutputError,
    OutputTruncatedError,
    ScriptError,
)
from ._answers import BEGIN, ProblemError, as_bytes, only_object, validate
from .provider import Capabilities, Capable, closing_stream
from .schema import OutputType

T = TypeVar("T")
Mode = Literal["native", "tool", "prompted"]


class Model(Protocol):
    """What is asked: an `LLMManager` or a `Provider`."""

    async def complete(self, request: LLMRequest) -> LLMResponse: ...

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]: ...


@dataclass(frozen=True, slots=True)
class Try:
    """One call. `response` is `None` where it was refused, `problem` where the answer was right."""

    mode: Mode
    response: LLMResponse | None = field(repr=False)
    problem: str | None


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """The answer. `usage` and `cost` are of all tries, `None` where one of them did not say."""

    value: T
    response: LLMResponse
    tries: tuple[Try, ...]
    usage: Usage | None
    cost: Money | None


@dataclass(frozen=True, slots=True)
class Partial:
    """The answer as far as it has come: the last text may be cut, what follows is missing.

    `restarted` says that all before it is void.
    """

    value: JsonValue
    restarted: bool = False


@overload
async def parse(
    llm: Model, request: LLMRequest, type_: type[T], *, retries: int = 2
) -> Parsed[T]: ...


@overload
async def parse(
    llm: Model, request: LLMRequest, type_: Any, *, retries: int = 2
) -> Parsed[Any]: ...


async def parse(llm: Model, request: LLMRequest, type_: Any, *, retries: int = 2) -> Parsed[Any]:
    """Ask, and get a value of the type: a pydantic model, or whatever pydantic can validate.

    The request's own tools stay with it, but the model may not call them.

    Raises:
        OutputTruncatedError: an answer was cut off at the limit of output tokens.
        OutputError: no answer was of the type, or it was filtered; `tries` says more.
        LLMError: a call failed.
    """
    ladder: _Ladder[Any] = _Ladder(llm, request, type_, retries)
    while True:
        try:
            response = await llm.complete(ladder.request)
        except LLMError as error:
            ladder.refuse(error)
        else:
            if parsed := ladder.take(response):
                return parsed


@overload
def stream_parse(
    llm: Model, request: LLMRequest, type_: type[T], *, retries: int = 2
) -> AsyncGenerator[Partial | Parsed[T]]: ...


@overload
def stream_parse(
    llm: Model, request: LLMRequest, type_: Any, *, retries: int = 2
) -> AsyncGenerator[Partial | Parsed[Any]]: ...


async def stream_parse(
    llm: Model, request: LLMRequest, type_: Any, *, retries: int = 2
) -> AsyncGenerator[Partial | Parsed[Any]]:
    """As `parse`, with the answer as it grows; the last item is the `Parsed`.

    An answer is read again each time a 32nd of it is new, so that a long one costs no more than
    33 times its length.

    Raises:
        OutputTruncatedError: an answer was cut off at the limit of output tokens.
        OutputError: no answer was of the type, or it was filtered; `tries` says more.
        LLMError: a call failed.
    """
    ladder: _Ladder[Any] = _Ladder(llm, request, type_, retries)
    growing = _Growing(ladder.output)
    while True:
        if void := growing.restart(ladder.mode):
            yield void
        accumulator = Accumulator()
        parsed = None
        try:
            async with closing_stream(llm.stream(ladder.request)) as chunks:
                async for chunk in chunks:
                    accumulator.add(chunk)
                    if partial := growing.take(chunk):
                        yield partial
            parsed = ladder.take(accumulator.response())
        except LLMError as error:
            ladder.refuse(error)
        if parsed:
            yield parsed
            return


class _Ladder(Generic[T]):
    """What to send next, until an answer is taken."""

    def __init__(self, llm: Model, request: LLMRequest, type_: Any, retries: int) -> None:
        self.output: OutputType[T] = OutputType.of(type_)
        self._asked = request
        self._retries = retries
        self._modes = _modes(llm, request.model)
        self._tries: list[Try] = []
        self._begin()

    @property
    def mode(self) -> Mode:
        return self._modes[0]

    def _begin(self) -> None:
        self._left = self._retries
        self.request = _in_mode(self.mode, self._asked, self.output)

    def refuse(self, error: LLMError) -> None:
        """Go down, unless the refusal cannot be about the mode.

        Raises:
            LLMError: the same.
        """
        mistake = isinstance(error, (ScriptError, CassetteError))  # The test's own.
        if mistake or error.kind is not LLMErrorKind.BAD_REQUEST or len(self._modes) == 1:
            raise error
        self._tries.append(Try(self.mode, None, f"refused: {error}"))
        del self._modes[0]
        self._begin()

    def take(self, response: LLMResponse) -> Parsed[T] | None:
        """The answer, or nothing if the next request is to be sent.

        Raises:
            OutputError: that was the last try.
        """
        try:
            self._check_finish(response)
            value = validate(self._text(response), self.output)
        except ProblemError as error:
            self._tries.append(Try(self.mode, response, error.problem))
            if error.unfit and len(self._modes) > 1:
                del self._modes[0]
                self._begin()
            elif self._left > 0:
                self._left -= 1
                self.request = self._again(response, error.told)
            else:
                raise self._failed(response, LLMErrorKind.BAD_RESPONSE, OutputError) from None
            return None
        self._tries.append(Try(self.mode, response, None))
        answered = [one.response for one in self._tries if one.response is not None]
        return Parsed(value, response, tuple(self._tries), _usage(answered), _cost(answered))

    def _text(self, response: LLMResponse) -> str:
        """The JSON of the answer, as the model wrote it."""
        if self.mode == "prompted":
            return only_object(response.text)
        text = response.text
        if self.mode == "tool":
            calls = [call for call in response.tool_calls if call.name == self.output.name]
            if len(calls) > 1:
                raise ProblemError(f"{len(calls)} calls of the tool; call it once")
            text = calls[0].arguments if calls else ""
        if not text.lstrip().startswith("{"):
            raise ProblemError("no JSON object", unfit=True)
        return text

    def _check_finish(self, response: LLMResponse) -> None:
        if response.finish_reason is FinishReason.LENGTH:
            limit = self._asked.max_output_tokens
            self._tries.append(Try(self.mode, response, "cut off at the limit of output tokens"))
            raise self._failed(
                response,
                LLMErrorKind.LENGTH,
                OutputTruncatedError,
                f"Raise max_output_tokens (now {limit or 'left to the provider'}).",
            )
        if response.finish_reason is FinishReason.CONTENT_FILTER:
            self._tries.append(Try(self.mode, response, "filtered or refused for its content"))
            raise self._failed(response, LLMErrorKind.CONTENT_FILTER, OutputError)

    def _failed(
        self,
        response: LLMResponse,
        kind: LLMErrorKind,
        error_type: type[OutputError],
        fix: str = "What each try was stands in the error's `tries`.",
    ) -> OutputError:
        error = error_type(
            f"{response.provider}/{response.model} gave no {self.output.name} in "
            f"{len(self._tries)} tries; the last one: {self._tries[-1].problem}. {fix}",
            kind=kind,
            provider=response.provider,
            model=response.model,
        )
        error.tries = tuple(self._tries)
        error.attempts = response.attempts
        return error

    def _again(self, response: LLMResponse, told: str) -> LLMRequest:
        told = f"This is wrong:\n{told}\nAnswer again, with the whole of the JSON and nothing else."
        said = (response.message,) if response.message.parts else ()
        feedback = ChatMessage.user(told)
        if calls := response.tool_calls:
            feedback = ChatMessage.tool(
                *(
                    ToolResult(
                        call_id=call.id,
                        name=call.name,
                        status=ToolStatus.INVALID_ARGUMENTS,
                        content=told,
                    )
                    for call in calls
                )
            )
        messages = (*self.request.messages, *said, feedback)
        return self.request.model_copy(update={"messages": messages})


def _modes(llm: Model, model: str) -> list[Mode]:
    can = llm.capabilities(model) if isinstance(llm, Capable) else Capabilities()
    native: list[Mode] = ["native"] if can.structured_output else []
    tool: list[Mode] = ["tool"] if can.tools else []
    return [*native, *tool, "prompted"]


def _in_mode(mode: Mode, request: LLMRequest, output: OutputType[Any]) -> LLMRequest:
    changes: dict[str, Any] = {"output": None, "tool_choice": "none" if request.tools else "auto"}
    match mode:
        case "native":
            changes["output"] = OutputSpec(name=output.name, parameters=output.schema)
        case "tool":
            description = "Takes your answer. Call it once, instead of answering in words."
            changes["tools"] = (
                ToolSpec(name=output.name, description=description, parameters=output.schema),
            )
            changes["tool_choice"] = "required"
        case "prompted":
            changes["messages"] = _with_system(
                "Answer with one JSON object and nothing else: no words around it, no Markdown. "
                f"It must fit this JSON Schema:\n{json.dumps(output.schema)}",
                request.messages,
            )
    return request.model_copy(update=changes)


def _with_system(text: str, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """Many local models take one system message alone, and only in the first place."""
    if not messages or messages[0].role != "system":
        return (ChatMessage.system(text), *messages)
    first = messages[0]
    parts = (*first.parts, TextPart(text=f"\n\n{text}"))
    return (first.model_copy(update={"parts": parts}), *messages[1:])


def _usage(responses: list[LLMResponse]) -> Usage | None:
    total = Usage(input_tokens=0, output_tokens=0)
    for response in responses:
        if response.usage is None:
            return None
        total += response.usage
    return total


def _cost(responses: list[LLMResponse]) -> Money | None:
    total: Money | None = None
    for response in responses:
        if response.cost is None or (total and total.currency != response.cost.currency):
            return None
        total = total + response.cost if total else response.cost
    return total


class _Growing:
    """The JSON of an answer while it arrives."""

    def __init__(self, output: OutputType[Any]) -> None:
        self._output = output
        self._shown: list[JsonValue] = []
        self.restart("native")

    def restart(self, mode: Mode) -> Partial | None:
        """Forget everything; says so if something was shown."""
        self._mode: Mode = mode
        self._pieces: list[str] = []
        self._size = 0
        self._read_at = 0
        self._call: int | None = None
        was_shown, self._shown = self._shown, []
        return Partial(None, restarted=True) if was_shown else None

    def take(self, chunk: Chunk) -> Partial | None:
        """Add the chunk; says what has become of the value, if it was read and has changed."""
        match chunk:
            case StreamReset():
                return self.restart(self._mode)
            case TextDelta() if self._mode != "tool":
                self._add(chunk.text)
            case ToolCallStart() if self._mode == "tool" and self._call is None:
                self._call = chunk.index if chunk.name == self._output.name else None
            case ToolCallArgumentsDelta() if chunk.index == self._call:
                self._add(chunk.text)
            case _:
                pass
        if self._size <= self._read_at + self._read_at // 32:
            return None
        found = self._read()
        if not found or found == self._shown:
            return None
        self._shown = found
        return Partial(found[0])

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)

    def _read(self) -> list[JsonValue]:
        """The value, in a list; an empty one where there is none yet."""
        self._read_at = self._size
        text = "".join(self._pieces)
        self._pieces = [text]
        if self._mode == "prompted":
            begin = BEGIN.search(text)
            text = text[begin.start() :] if begin else ""
        # Of a number, nobody knows yet whether it goes on.
        text = text.rstrip("+-.0123456789eE")
        try:
            value = from_json(as_bytes(text), allow_inf_nan=False, allow_partial="trailing-strings")
        except ValueError:
            return []
        if not isinstance(value, dict) or (self._output.wrapped and "value" not in value):
            return []
        return [self._output.unwrap(value)]
