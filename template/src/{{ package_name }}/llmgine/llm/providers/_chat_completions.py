# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Our contracts to and from the Chat Completions format, which most vendors and servers speak.

The format keeps text, reasoning and tool calls in separate fields, without an order between them.
A complete answer is read as reasoning, text, calls: the order in which servers stream them.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pydantic import JsonValue

from ...contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    ReasoningDelta,
    StreamEnd,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStart,
    Usage,
    accumulate,
)
from ...errors import LLMErrorKind
from ._failures import Origin, Refusal


class _Call:
    """One tool call; `rank` is its place among the calls of the answer."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.id = ""
        self.name = ""
        self.held: list[str] = []


class ToolCallAssembler:
    """Turns `tool_calls` deltas into chunks: calls in the order of their index, each with an id.

    A call starts once its id and name are known and every call before it has started; until then
    its arguments are held back. What is still unknown at the end gets an id from `id_prefix`, or
    an empty name. A call may lack its index (it is then found by its id, or is the newest one),
    repeat its id and name in every delta, or share its index with another call.
    """

    def __init__(self, id_prefix: Callable[[], str]) -> None:
        self._id_prefix = id_prefix
        self._calls: dict[int, _Call] = {}  # by rank
        self._by_index: dict[int, _Call] = {}
        self._newest: _Call | None = None
        self._started = 0
        self._used_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def feed(self, delta: Mapping[str, Any]) -> Iterator[Chunk]:
        """Take one item of a delta's `tool_calls`."""
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        id_, name = _text(delta.get("id")), _text(function.get("name"))
        call = self._find(delta.get("index"), id_, name)
        call.id = call.id or id_
        call.name = call.name or name
        arguments = _arguments(function.get("arguments"))
        if call.rank < self._started:
            if arguments:
                yield ToolCallArgumentsDelta(index=call.rank, text=arguments)
            return
        call.held.append(arguments)
        while (ready := self._calls.get(self._started)) and ready.id and ready.name:
            yield from self._start(ready)

    def finish(self) -> Iterator[Chunk]:
        """Start whatever could not start yet."""
        waiting = sorted(rank for rank in self._calls if rank >= self._started)
        for rank in waiting:
            yield from self._start(self._calls[rank])

    def _find(self, index: Any, id_: str, name: str) -> _Call:
        if isinstance(index, int):
            call = self._by_index.get(index)
            # Gemini's endpoint gives every parallel call, each in one delta, the index 0.
            another = call is not None and bool(name and call.name and id_ not in ("", call.id))
            if call is None or another:
                call = self._new(None if another else index)
                self._by_index[index] = call
            return call
        for call in self._calls.values():
            if id_ and call.id == id_:
                return call
        if self._newest is None or id_ or (name and self._newest.name):
            return self._new(None)
        return self._newest

    def _new(self, index: int | None) -> _Call:
        rank = max(self._calls, default=-1) + 1
        if index is not None and index >= self._started and index not in self._calls:
            rank = index
        self._newest = self._calls[rank] = call = _Call(rank)
        return call

    def _start(self, call: _Call) -> Iterator[Chunk]:
        if not call.id or call.id in self._used_ids:
            call.id = f"{self._id_prefix()}{call.rank}"
        self._used_ids.add(call.id)
        self._started = call.rank + 1
        yield ToolCallStart(index=call.rank, id=call.id, name=call.name)
        arguments = "".join(call.held)
        if arguments:
            yield ToolCallArgumentsDelta(index=call.rank, text=arguments)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """The arguments as JSON text: some servers send the object itself."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


_FINISH_REASONS = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def encode_request(
    request: LLMRequest,
    *,
    stream: bool,
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"],
) -> dict[str, JsonValue]:
    """The body of the call; what the request leaves open is left to the server."""
    body: dict[str, JsonValue] = {
        "model": request.model,
        "messages": [item for message in request.messages for item in _encode_message(message)],
    }
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": tool.model_dump()} for tool in request.tools
        ]
        if request.tool_choice != "auto":
            body["tool_choice"] = request.tool_choice
    optional: dict[str, JsonValue] = {
        max_tokens_field: request.max_output_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _encode_message(message: ChatMessage) -> Iterator[dict[str, JsonValue]]:
    """One message of ours is several of theirs when it carries tool results."""
    for result in message.tool_results:
        yield {"role": "tool", "tool_call_id": result.call_id, "content": result.content}
    calls: list[JsonValue] = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]
    if calls:
        yield {"role": message.role, "content": message.text or None, "tool_calls": calls}
    elif not message.tool_results or message.text:
        yield {"role": message.role, "content": message.text}


class ChatCompletions:
    """The format; `newer` servers insist on `max_completion_tokens`, others on `max_tokens`."""

    path = "/chat/completions"

    def __init__(self, *, newer: bool) -> None:
        self._max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = (
            "max_completion_tokens" if newer else "max_tokens"
        )

    def encode(self, request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
        return encode_request(request, stream=stream, max_tokens_field=self._max_tokens_field)

    def decode(self, body: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
        return decode_response(body, request, origin)

    def decoder(self, request: LLMRequest, origin: Origin) -> StreamDecoder:
        return StreamDecoder(request, origin)


def decode_response(body: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
    """The chunks that a complete answer would have been streamed as.

    Raises:
        LLMError: it is not an answer, or says that the call failed.
    """
    decoder = StreamDecoder(request, origin)
    body = _mapping(body)
    choices = [_as_one_delta(_mapping(choice)) for choice in _sequence(body.get("choices"))]
    yield from decoder.feed({**body, "choices": choices})
    yield from decoder.end(said_done=True)


def _as_one_delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = _mapping(choice.get("message"))
    calls = [
        {**_mapping(call), "index": index}
        for index, call in enumerate(_sequence(message.get("tool_calls")))
    ]
    return {**choice, "delta": {**message, "tool_calls": calls}}


def complete(body: Any, request: LLMRequest, origin: Origin) -> LLMResponse:
    """The response that a complete answer spells.

    Raises:
        LLMError: it is not an answer, or says that the call failed.
    """
    return accumulate(decode_response(body, request, origin))


class StreamDecoder:
    """Turns the objects of one stream into chunks."""

    def __init__(self, request: LLMRequest, origin: Origin) -> None:
        self._origin = origin
        self._id = ""
        self._model = request.model
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._answered = False
        self._calls = ToolCallAssembler(lambda: _id_prefix(request))

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; only the usage may follow."""
        return self._finish_reason is not None

    def feed(self, body: Any) -> Iterator[Chunk]:
        """Take the next object.

        Raises:
            LLMError: the server reports an error in it.
        """
        body = _mapping(body)
        if body.get("error"):
            raise self._origin.refused(Refusal.parse(body))
        self._id = self._id or _text(body.get("id"))
        self._model = _text(body.get("model")) or self._model
        self._usage = decode_usage(body.get("usage")) or self._usage
        for choice in map(_mapping, _sequence(body.get("choices"))):
            if choice.get("index") in (0, None):
                yield from self._take(choice)

    def _take(self, choice: Mapping[str, Any]) -> Iterator[Chunk]:
        if choice.get("error"):
            raise self._origin.refused(Refusal.parse(choice))
        self._answered = True
        delta = _mapping(choice.get("delta"))
        # Vendors have two names for one thing; some send both.
        reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        if reasoning:
            yield ReasoningDelta(text=reasoning)
        for text in (_content(delta.get("content")), _text(delta.get("refusal"))):
            if text:
                yield TextDelta(text=text)
        for call in map(_mapping, _sequence(delta.get("tool_calls"))):
            yield from self._calls.feed(call)
        self._finish_reason = _text(choice.get("finish_reason")) or self._finish_reason

    def end(self, *, said_done: bool) -> Iterator[Chunk]:
        """The end of the stream, which the server announced with `[DONE]` or did not.

        Raises:
            LLMError: the stream was cut, or held no answer.
        """
        if self._finish_reason is None and not said_done:
            raise self._origin.error(
                LLMErrorKind.NETWORK, "cut the stream before its end", fix="Try again."
            )
        if not self._answered:
            raise self._origin.error(
                LLMErrorKind.BAD_RESPONSE,
                "answered without any choices",
                fix="Try again, or try another model.",
            )
        if self._finish_reason == "error":
            raise self._origin.error(LLMErrorKind.SERVER, "failed in the middle of its answer")
        yield from self._calls.finish()
        yield StreamEnd(
            id=self._id,
            model=self._model,
            provider=self._origin.provider,
            finish_reason=self._why(),
            usage=self._usage,
        )

    def _why(self) -> FinishReason:
        """Servers disagree on `stop` and `tool_calls`; whether there are calls does not lie."""
        otherwise = FinishReason.TOOL_CALL if self._calls else FinishReason.STOP
        return _FINISH_REASONS.get(self._finish_reason or "", otherwise)


def decode_usage(usage: Any) -> Usage | None:
    """The token counts, or `None` where the server gave none."""
    usage = _mapping(usage)
    input_tokens = _count(usage.get("prompt_tokens"))
    output_tokens = _count(usage.get("completion_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    read = _mapping(usage.get("prompt_tokens_details"))
    written = _mapping(usage.get("completion_tokens_details"))
    # Gemini and Grok leave the reasoning out of completion_tokens, but count it in the total.
    output_tokens = max(output_tokens, (_count(usage.get("total_tokens")) or 0) - input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=_count(read.get("cached_tokens"))
        or _count(usage.get("prompt_cache_hit_tokens"))
        or 0,
        cache_write_tokens=_count(read.get("cache_write_tokens"))
        or _count(usage.get("cache_creation_input_tokens"))
        or 0,
        reasoning_tokens=_count(written.get("reasoning_tokens")) or 0,
    )


def _id_prefix(request: LLMRequest) -> str:
    """Names calls that came without an id: the same for the same request, new for the next."""
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(message.model_dump_json().encode())
    return f"call_{digest.hexdigest()[:12]}_"


def _content(value: Any) -> str:
    """Text, which a few servers send as a list of parts."""
    return _text(value) or "".join(_text(_mapping(part).get("text")) for part in _sequence(value))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
