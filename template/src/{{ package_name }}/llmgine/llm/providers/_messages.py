# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Our contracts to and from Anthropic's Messages format.

It has no seed: a request's `seed` is left out, and so is `user_id`, which may name a person. A
`temperature` is sent if there is one, though models since Claude Opus 4.7 refuse it. Citations,
and what servers run by themselves (web search, code execution), are not read.

Source: https://platform.claude.com/docs/en/api/messages
Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from ...contracts import (
    BlobPart,
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolResult,
    ToolSpec,
    UriPart,
    Usage,
)
from ...errors import LLMErrorKind
from ..schema import strict
from ._direct import File, as_count, as_mapping, as_text, is_fetched, merged, unsendable
from ._failures import Origin, Refusal
from ._tool_calls import (
    arguments_text,
    encode_arguments,
    encode_name,
    encode_schema,
    id_prefix,
    nameless_call,
)

NAME = "anthropic"
DEFAULT_MAX_TOKENS = 16_384
"""The API insists on a limit. Every model since Claude 4 can write this much."""

_REDACTED = "redacted:"
"""Begins the `signature` of a thinking block that is nothing but encrypted data."""

_CACHED: dict[str, JsonValue] = {"type": "ephemeral"}

_Block = dict[str, JsonValue]


class Messages:
    """The format."""

    path = "/v1/messages"

    def encode(self, request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
        """The body of the call; what the request leaves open is left to the server.

        `extra_body` is merged in last: its objects at any depth, while all else in it replaces
        what would be sent.

        Raises:
            LLMError: a file is of a kind that the API does not take, or where it takes none.
        """
        body: dict[str, JsonValue] = {
            "model": request.model,
            "max_tokens": request.max_output_tokens or DEFAULT_MAX_TOKENS,
            "messages": _encode_messages(request),
            **_encode_prefix(request),
        }
        if request.tools and request.tool_choice != "auto":
            choice = "any" if request.tool_choice == "required" else "none"
            body["tool_choice"] = {"type": choice}
        if request.output:
            schema = request.output.parameters
            # What is beyond the vendor's part of JSON Schema is sent as it is, and refused.
            format_: _Block = {"type": "json_schema", "schema": strict(schema) or schema}
            body["output_config"] = {"format": format_}
        if request.stop:
            body["stop_sequences"] = list(request.stop)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if stream:
            body["stream"] = True
        return merged(body, request.extra_body)

    def decode(self, body: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
        decoder = MessagesDecoder(request, origin)
        for event in _as_events(as_mapping(body)):
            yield from decoder.feed(event)
        yield from decoder.end(said_done=True)

    def decoder(self, request: LLMRequest, origin: Origin) -> MessagesDecoder:
        return MessagesDecoder(request, origin)


def _encode_prefix(request: LLMRequest) -> dict[str, JsonValue]:
    """Tools and instructions, which come first in the prompt, cached up to their end.

    A prefix that is too short to be cached costs nothing extra. One that is cached costs a quarter
    more once, and a tenth from then on: calls with the same tools and instructions repeat.
    """
    prefix: dict[str, JsonValue] = {}
    tools = [_encode_tool(tool) for tool in request.tools]
    texts = [message.text for message in request.messages if message.role == "system"]
    system: list[_Block] = [{"type": "text", "text": text} for text in texts if text.strip()]
    for last in (system or tools)[-1:]:
        last["cache_control"] = _CACHED
    if tools:
        prefix["tools"] = list(tools)
    if system:
        prefix["system"] = list(system)
    return prefix


def _encode_tool(tool: ToolSpec) -> _Block:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": encode_schema(tool),
    }


def _encode_messages(request: LLMRequest) -> list[JsonValue]:
    """Turns of user and assistant, who alternate; tool results come first in the user's turn."""
    turns: list[tuple[str, list[_Block]]] = []
    for message in request.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = list(_encode_parts(message, Origin(NAME, request.model)))
        if message.role == "system" or not blocks:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    for _, blocks in turns:
        blocks.sort(key=lambda block: block["type"] != "tool_result")
    if turns and request.conversation_id:
        # It will be sent again, one turn longer. Anything else would be written to the cache, at
        # a quarter more, for nobody to read.
        _mark_for_cache(turns[-1][1])
    return [{"role": role, "content": list(blocks)} for role, blocks in turns]


def _mark_for_cache(blocks: list[_Block]) -> None:
    for block in reversed(blocks):
        if block["type"] not in ("thinking", "redacted_thinking"):
            block["cache_control"] = _CACHED
            return


def _encode_parts(message: ChatMessage, origin: Origin) -> Iterator[_Block]:
    """The blocks of a message. An empty text is refused there, and so is unsigned thinking."""
    for part in message.parts:
        match part:
            case TextPart():
                if part.text.strip():
                    yield {"type": "text", "text": part.text}
            case ReasoningPart():
                if part.signature and part.signed_by == NAME:
                    yield _encode_reasoning(part.text, part.signature)
            case ToolCall():
                yield _encode_call(part)
            case ToolResult():
                yield _encode_result(part)
            case BlobPart() | UriPart():
                source = _encode_source(part) if message.role in ("user", "tool") else None
                if source is None:
                    raise unsendable(part, message.role, origin)
                yield _encode_file(part, source)


def _encode_reasoning(text: str, signature: str) -> _Block:
    if signature.startswith(_REDACTED):
        return {"type": "redacted_thinking", "data": signature.removeprefix(_REDACTED)}
    return {"type": "thinking", "thinking": text, "signature": signature}


def _encode_call(call: ToolCall) -> _Block:
    return {
        "type": "tool_use",
        "id": _encode_id(call.id),
        "name": encode_name(call),
        "input": encode_arguments(call),
    }


def _encode_id(id_: str) -> str:
    """Other vendors' ids may hold characters that are refused here."""
    if re.fullmatch(r"[a-zA-Z0-9_-]+", id_):
        return id_
    return f"toolu_{hashlib.sha256(id_.encode(errors='replace')).hexdigest()[:24]}"


def _encode_result(result: ToolResult) -> _Block:
    block: _Block = {"type": "tool_result", "tool_use_id": _encode_id(result.call_id)}
    if result.content.strip():
        block["content"] = result.content
    if not result.ok:
        block["is_error"] = True
    return block


def _encode_source(part: File) -> _Block | None:
    """Where its bytes are; `None` if the API has no form for them."""
    media_type = _media_type(part)
    is_known = media_type.startswith("image/") or media_type == "application/pdf"
    match part:
        case UriPart() if not is_fetched(part):
            return {"type": "file", "file_id": part.uri}
        case UriPart() if is_known and part.uri[:5].lower() == "data:":
            return _encode_data_url(part.uri, media_type)
        case UriPart() if is_known:
            return {"type": "url", "url": part.uri}
        case BlobPart() if is_known:
            data = base64.b64encode(part.data).decode()
            return {"type": "base64", "media_type": media_type, "data": data}
        case BlobPart() if media_type.startswith("text/") or media_type == "application/json":
            text = part.data.decode("utf-8", "replace")
            return {"type": "text", "media_type": "text/plain", "data": text}
    return None


def _encode_data_url(url: str, media_type: str) -> _Block | None:
    """The API takes addresses of the web alone."""
    head, _, data = url.partition(",")
    if not head.lower().endswith(";base64"):
        return None
    return {"type": "base64", "media_type": media_type, "data": data}


def _encode_file(part: File, source: _Block) -> _Block:
    if _media_type(part).startswith("image/"):
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, **({"title": part.name} if part.name else {})}


def _media_type(part: File) -> str:
    return part.media_type.partition(";")[0].strip().lower()


_FINISH_REASONS = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    # Paused in the middle of what the server runs by itself: there would be more to come.
    "pause_turn": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}

# In a stream, the type of an error is all there is.
# Source: https://platform.claude.com/docs/en/api/errors
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def _as_events(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events that a complete answer would have been streamed as."""
    if _is_error(body):
        yield dict(body)
    if not isinstance(body.get("content"), list):
        return
    yield {"type": "message_start", "message": body}
    for index, block in enumerate(body["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": block}
    yield {"type": "message_delta", "delta": body, "usage": body.get("usage")}


@dataclass(frozen=True, slots=True)
class _Begun:
    """What block the deltas of an index belong to; `call` is its place among the tool calls."""

    type: str
    call: int


@dataclass(slots=True)
class _SilentCall:
    """A call without arguments so far. Its first event already holds them, `{}` for none."""

    arguments: str
    is_last_block: bool = True


class MessagesDecoder:
    """Turns the events of one stream into chunks.

    Arguments are passed on as the model wrote them, piece by piece. A complete answer holds them
    parsed, and can tell neither that text nor where it was cut.
    """

    def __init__(self, request: LLMRequest, origin: Origin) -> None:
        self._request = request
        self._origin = origin
        self._id = ""
        self._model = request.model
        self._begun = False
        self._stopped = False
        self._stop_reason = ""
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, _Begun] = {}
        self._silent: dict[int, _SilentCall] = {}
        self._call_ids: set[str] = set()
        self._calls = 0

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; nothing but a farewell follows."""
        return self._stopped or bool(self._stop_reason)

    @property
    def done(self) -> bool:
        return self._stopped

    def feed(self, body: Any) -> Iterator[Chunk]:
        """Take the next event; the unknown ones are passed over.

        Raises:
            LLMError: the server reports an error in it, or it makes no sense.
        """
        event = as_mapping(body)
        if _is_error(event):
            type_ = as_text(as_mapping(event.get("error")).get("type"))
            raise self._origin.refused(Refusal.parse(event, _STATUS_OF_ERROR.get(type_)))
        index = event.get("index")
        index = index if isinstance(index, int) else 0
        match event.get("type"):
            case "message_start":
                self._begin(as_mapping(event.get("message")))
            case "content_block_start":
                yield from self._open(index, as_mapping(event.get("content_block")))
            case "content_block_delta" if index in self._blocks:
                yield from self._take(self._blocks[index], as_mapping(event.get("delta")))
            case "message_delta":
                delta = as_mapping(event.get("delta"))
                self._stop_reason = as_text(delta.get("stop_reason")) or self._stop_reason
                self._count(as_mapping(event.get("usage")))
            case "message_stop":
                self._stopped = True

    def end(self, *, said_done: bool) -> Iterator[Chunk]:
        """The end of the stream.

        Raises:
            LLMError: the stream was cut, or held no answer.
        """
        if not self.finished and not said_done:
            raise self._origin.error(
                LLMErrorKind.NETWORK, "cut the stream before its end", fix="Try again."
            )
        if not self._begun:
            raise self._origin.error(LLMErrorKind.BAD_RESPONSE, "answered without any content")
        yield from self._speak_for_silent_calls()
        yield StreamEnd(
            id=self._id,
            model=self._model,
            provider=self._origin.provider,
            finish_reason=self._why(),
            usage=decode_usage(self._usage),
        )

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._begun = True
        self._id = as_text(message.get("id"))
        self._model = as_text(message.get("model")) or self._model
        usage = as_mapping(message.get("usage"))
        # What was written when the stream began says nothing about what will have been.
        self._count({name: usage[name] for name in usage if name != "output_tokens"})

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Later counts include the earlier ones."""
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _open(self, index: int, block: Mapping[str, Any]) -> Iterator[Chunk]:
        self._begun = True
        self._blocks[index] = begun = _Begun(as_text(block.get("type")), self._calls)
        for silent in self._silent.values():
            silent.is_last_block = False
        match begun.type:
            case "text":
                yield from _said(block.get("text"))
            case "thinking":
                yield from _thought(block.get("thinking"))
                yield from _signed(as_text(block.get("signature")))
            case "redacted_thinking":
                if data := as_text(block.get("data")):
                    yield from _signed(_REDACTED + data)
            case "tool_use":
                self._calls += 1
                self._silent[begun.call] = _SilentCall(arguments_text(block.get("input")))
                if not (name := as_text(block.get("name"))):
                    raise nameless_call(self._origin)
                id_ = self._new_id(as_text(block.get("id")), begun.call)
                yield ToolCallStart(index=begun.call, id=id_, name=name)

    def _take(self, block: _Begun, delta: Mapping[str, Any]) -> Iterator[Chunk]:
        match block.type, delta.get("type"):
            case "text", "text_delta":
                yield from _said(delta.get("text"))
            case "thinking", "thinking_delta":
                yield from _thought(delta.get("thinking"))
            case "thinking", "signature_delta":
                yield from _signed(as_text(delta.get("signature")))
            case "tool_use", "input_json_delta":
                if text := as_text(delta.get("partial_json")):
                    self._silent.pop(block.call, None)
                    yield ToolCallArgumentsDelta(index=block.call, text=text)

    def _speak_for_silent_calls(self) -> Iterator[Chunk]:
        """Give the calls without arguments their `{}`, but not to one that was cut off."""
        cut = self._why() in (FinishReason.LENGTH, FinishReason.CONTENT_FILTER)
        for index, silent in self._silent.items():
            if not (cut and silent.is_last_block and silent.arguments == "{}"):
                yield ToolCallArgumentsDelta(index=index, text=silent.arguments)

    def _new_id(self, id_: str, call: int) -> str:
        """Servers that imitate the API may give no id, or one for all calls."""
        if not id_ or id_ in self._call_ids:
            id_ = f"{id_prefix(self._request)}{call}"
        self._call_ids.add(id_)
        return id_

    def _why(self) -> FinishReason:
        """Whether there are calls does not lie."""
        otherwise = FinishReason.TOOL_CALL if self._calls else FinishReason.STOP
        return _FINISH_REASONS.get(self._stop_reason, otherwise)


def decode_usage(usage: Mapping[str, Any]) -> Usage | None:
    """The token counts, or `None` where the server gave none. Theirs of the input is the rest."""
    fresh, written = as_count(usage.get("input_tokens")), as_count(usage.get("output_tokens"))
    if fresh is None or written is None:
        return None
    cache_read = as_count(usage.get("cache_read_input_tokens")) or 0
    cache_write = as_count(usage.get("cache_creation_input_tokens"))
    if cache_write is None:
        by_age = as_mapping(usage.get("cache_creation"))
        cache_write = sum(as_count(by_age.get(name)) or 0 for name in by_age)
    thinking = as_count(as_mapping(usage.get("output_tokens_details")).get("thinking_tokens"))
    return Usage(
        input_tokens=fresh + cache_read + cache_write,
        output_tokens=written,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        reasoning_tokens=thinking or 0,
    )


def _is_error(body: Mapping[str, Any]) -> bool:
    return body.get("type") == "error" or bool(body.get("error"))


def _said(text: Any) -> Iterator[Chunk]:
    if as_text(text):
        yield TextDelta(text=text)


def _thought(text: Any) -> Iterator[Chunk]:
    if as_text(text):
        yield ReasoningDelta(text=text)


def _signed(signature: str) -> Iterator[Chunk]:
    if signature:
        yield ReasoningDelta(text="", signature=signature, signed_by=NAME)
