# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The data every part of the application agrees on, whatever model or provider stands behind it.

All contracts are frozen, refuse unknown fields and survive a JSON round trip unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .errors import LLMError, LLMErrorKind


class Contract(BaseModel):
    """Base of the data contracts: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Usage(Contract):
    """Tokens of one or more model calls.

    `input_tokens` includes the cached ones, `output_tokens` includes the reasoning ones.
    """

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cache_read_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class Money(Contract):
    """An exact amount. An unknown price is `None` where a `Money` is expected, never zero."""

    amount: Decimal
    currency: str = "USD"

    def __add__(self, other: Money) -> Money:
        if self.currency != other.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be added")
        return Money(amount=self.amount + other.amount, currency=self.currency)


class TextPart(Contract):
    type: Literal["text"] = "text"
    text: str


class BlobPart(Contract):
    """A file in the message itself: an image, a PDF, a sound. Base64 in JSON."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    type: Literal["blob"] = "blob"
    media_type: str
    data: bytes
    name: str | None = None


class UriPart(Contract):
    """A file that the provider fetches: an address, or its own id of an uploaded file."""

    type: Literal["uri"] = "uri"
    uri: str
    media_type: str
    name: str | None = None


class ReasoningPart(Contract):
    """What the model thought.

    `signature` is opaque, in the words of the provider `signed_by`, and goes back to that one
    unchanged; to another one it means nothing, and is not sent.
    """

    type: Literal["reasoning"] = "reasoning"
    text: str
    signature: str | None = None
    signed_by: str | None = None


class ToolCall(Contract):
    """One call the model asked for; `arguments` is the JSON text exactly as the model wrote it.

    `signature`, as of a `ReasoningPart`, goes back unchanged to the provider `signed_by`.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: str
    signature: str | None = None
    signed_by: str | None = None


class ToolStatus(StrEnum):
    """How a tool call ended, in a word that both the model and a program can act on."""

    OK = "ok"
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class ToolResult(Contract):
    """The one answer to one `ToolCall`. `content` is what the model reads: text, or JSON text."""

    type: Literal["tool_result"] = "tool_result"
    call_id: str
    name: str
    status: ToolStatus
    content: str
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.status is ToolStatus.OK


Part = Annotated[
    TextPart | ReasoningPart | BlobPart | UriPart | ToolCall | ToolResult,
    Field(discriminator="type"),
]
Role = Literal["system", "user", "assistant", "tool"]


class ChatMessage(Contract):
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def system(cls, text: str) -> Self:
        return cls(role="system", parts=(TextPart(text=text),))

    @classmethod
    def user(cls, text: str, *files: BlobPart | UriPart) -> Self:
        return cls(role="user", parts=(TextPart(text=text), *files))

    @classmethod
    def assistant(cls, text: str = "", *calls: ToolCall) -> Self:
        said = (TextPart(text=text),) if text else ()
        return cls(role="assistant", parts=(*said, *calls))

    @classmethod
    def tool(cls, *results: ToolResult) -> Self:
        return cls(role="tool", parts=results)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolResult))


class ToolSpec(Contract):
    """A tool as a model sees it; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, JsonValue]


class OutputSpec(Contract):
    """The JSON that the answer must be: a name for it, and its JSON Schema."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    parameters: dict[str, JsonValue]


class LLMRequest(Contract):
    """One model call. `model` is the provider's own name for it, without our `provider/` prefix.

    `timeout_s` is for the whole call, retries and fallbacks included. `extra_body` is merged into
    what is sent, for what only one vendor knows; it is never logged.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    output: OutputSpec | None = None
    max_output_tokens: int | None = Field(default=None, gt=0)
    temperature: float | None = Field(default=None, ge=0)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float | None = Field(default=None, gt=0)
    conversation_id: str | None = None
    user_id: str | None = None
    extra_body: dict[str, JsonValue] = Field(default_factory=dict, repr=False)


class FinishReason(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALL = "tool_call"
    CONTENT_FILTER = "content_filter"


class Attempt(Contract):
    """One call of one target. `error` is `None` where it answered, or its caller left."""

    target: str
    """The model as `provider/model`."""
    reason: str
    """Why it was this one's turn: `only target`, `cheapest`, `retry after rate_limit`."""
    error: LLMErrorKind | None = None
    status: int | None = None
    waited_s: float = 0.0
    """Before it: for the target's limits, or between tries."""
    duration_s: float = 0.0
    time_to_first_chunk_s: float | None = None


class LLMResponse(Contract):
    """What a model call returned. `usage` and `cost` are `None` where nobody said, never zero.

    `attempts` are those of the manager, the one that answered last; a provider leaves them out.
    """

    id: str
    model: str
    provider: str
    message: ChatMessage
    finish_reason: FinishReason
    usage: Usage | None = None
    cost: Money | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls


class TextDelta(Contract):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ReasoningDelta(Contract):
    """`signature` is set on the delta that ends a reasoning part, where the provider signs it."""

    type: Literal["reasoning_delta"] = "reasoning_delta"
    text: str
    signature: str | None = None
    signed_by: str | None = None


class ToolCallStart(Contract):
    """`index` names the call in the deltas that follow; parallel calls may interleave."""

    type: Literal["tool_call_start"] = "tool_call_start"
    index: int
    id: str
    name: str
    signature: str | None = None
    signed_by: str | None = None


class ToolCallArgumentsDelta(Contract):
    type: Literal["tool_call_arguments_delta"] = "tool_call_arguments_delta"
    index: int
    text: str


class StreamReset(Contract):
    """All chunks before this one are void: another target answers from the beginning."""

    type: Literal["stream_reset"] = "stream_reset"
    reason: str


class StreamEnd(Contract):
    """Always the last chunk, exactly once; a stream without it was cut."""

    type: Literal["stream_end"] = "stream_end"
    id: str
    model: str
    provider: str
    finish_reason: FinishReason
    usage: Usage | None = None
    cost: Money | None = None
    attempts: tuple[Attempt, ...] = ()


Chunk = Annotated[
    TextDelta | ReasoningDelta | ToolCallStart | ToolCallArgumentsDelta | StreamReset | StreamEnd,
    Field(discriminator="type"),
]


class _Call:
    """A tool call while its arguments are still arriving."""

    def __init__(self, start: ToolCallStart) -> None:
        self.start = start
        self.arguments: list[str] = []

    def part(self) -> ToolCall:
        start = self.start
        return ToolCall(
            id=start.id,
            name=start.name,
            arguments="".join(self.arguments),
            signature=start.signature,
            signed_by=start.signed_by,
        )


class _Text:
    def __init__(self) -> None:
        self.deltas: list[str] = []

    def part(self) -> TextPart:
        return TextPart(text="".join(self.deltas))


class _Reasoning:
    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.signature: str | None = None
        self.signed_by: str | None = None

    def part(self) -> ReasoningPart:
        return ReasoningPart(
            text="".join(self.deltas), signature=self.signature, signed_by=self.signed_by
        )


class Accumulator:
    """Builds the message of a stream chunk by chunk; `message` is valid at any moment.

    Parts stand in the order in which they began. Text joins the text before it unless reasoning
    came between; reasoning joins reasoning until a signature closes it.
    """

    def __init__(self) -> None:
        self._parts: list[_Text | _Reasoning | _Call] = []
        self._text: _Text | None = None
        self._calls: dict[int, _Call] = {}
        self.end: StreamEnd | None = None

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk.

        Raises:
            LLMError: the chunk cannot follow those before it.
        """
        if self.end is not None:
            raise _malformed("a chunk follows the end of the stream")
        match chunk:
            case TextDelta():
                if self._text is None:
                    self._parts.append(text := _Text())
                    self._text = text
                self._text.deltas.append(chunk.text)
            case ReasoningDelta():
                reasoning = self._open_reasoning()
                reasoning.deltas.append(chunk.text)
                reasoning.signature, reasoning.signed_by = chunk.signature, chunk.signed_by
            case ToolCallStart():
                if chunk.index in self._calls:
                    raise _malformed(f"tool call {chunk.index} starts twice")
                self._calls[chunk.index] = call = _Call(chunk)
                self._parts.append(call)
            case ToolCallArgumentsDelta():
                if chunk.index not in self._calls:
                    raise _malformed(f"arguments for tool call {chunk.index}, which never started")
                self._calls[chunk.index].arguments.append(chunk.text)
            case StreamReset():
                self._parts.clear()
                self._text = None
                self._calls.clear()
            case StreamEnd():
                self.end = chunk

    def _open_reasoning(self) -> _Reasoning:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, _Reasoning) and last.signature is None:
            return last
        self._parts.append(reasoning := _Reasoning())
        self._text = None
        return reasoning

    @property
    def message(self) -> ChatMessage:
        return ChatMessage(role="assistant", parts=tuple(part.part() for part in self._parts))

    def response(self) -> LLMResponse:
        """The whole response.

        Raises:
            LLMError: the stream was cut before its end.
        """
        if self.end is None:
            raise LLMError(
                "The stream was cut before its end.", kind=LLMErrorKind.NETWORK, provider="unknown"
            )
        return LLMResponse(
            id=self.end.id,
            model=self.end.model,
            provider=self.end.provider,
            message=self.message,
            finish_reason=self.end.finish_reason,
            usage=self.end.usage,
            cost=self.end.cost,
            attempts=self.end.attempts,
        )


def _malformed(what: str) -> LLMError:
    return LLMError(
        f"The model's stream is malformed: {what}.",
        kind=LLMErrorKind.BAD_RESPONSE,
        provider="unknown",
    )


def accumulate(chunks: Iterable[Chunk]) -> LLMResponse:
    """The response that a stream spells. Law: `accumulate(stream(r)) == complete(r)`.

    Raises:
        LLMError: the stream was cut or is malformed.
    """
    accumulator = Accumulator()
    for chunk in chunks:
        accumulator.add(chunk)
    return accumulator.response()
