# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Our contracts to and from OpenAI's Responses format.

Every call stands alone: the server is told to store nothing, and the whole conversation is sent,
the model's reasoning included. A reasoning item goes back as it came, in the signature of its part.
One that has neither encrypted nor open content does not: the server would look for it by its id.

Of what Chat Completions has, the format lacks `seed`, which promises little and is left out, and
`stop`, without which the answer would be another: a request that has it is refused.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from ...contracts import (
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
    UriPart,
    Usage,
)
from ...errors import LLMErrorKind
from ._chat_completions import encode_output
from ._direct import (
    File,
    as_count,
    as_data_url,
    as_list,
    as_mapping,
    as_text,
    encode_content,
    file_name,
    is_document,
    is_fetched,
    merged,
    read_object,
)
from ._failures import Origin, Refusal
from ._tool_calls import (
    arguments_text,
    encode_name,
    encode_schema,
    id_prefix,
    nameless_call,
    spell_arguments,
)

_BETWEEN_THOUGHTS = "\n\n"
_THINKS = re.compile(r"(^|[^a-z])(o[1-9]|gpt-([5-9]|\d\d)(?!.*-chat)|codex)", re.IGNORECASE)
"""OpenAI's models that think; the others refuse to be asked for what they thought."""


class Responses:
    """The format, as `provider` speaks it.

    Servers that `encrypt` what their models think are asked for it; others may not know the
    question.
    """

    path = "/responses"

    def __init__(self, *, encrypt: bool, provider: str = "openai-responses") -> None:
        self._encrypt = encrypt
        self._provider = provider

    def encode(self, request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
        """The body of the call; what the request leaves open is left to the server.

        `extra_body` is merged in last: its objects at any depth, while all else in it replaces
        what would be sent.

        Raises:
            LLMError: a file is of a kind that the format does not have, or where it has none; or
                the request has texts to stop at.
        """
        origin = Origin(self._provider, request.model)
        if request.stop:
            raise origin.error(
                LLMErrorKind.BAD_REQUEST,
                "was not asked: the Responses API cannot stop at a text",
                fix="Leave out `stop`, or use the same model through Chat Completions.",
            )
        items: list[JsonValue] = []
        for message in request.messages:
            items += _encode_message(message, origin)
        body: dict[str, JsonValue] = {"model": request.model, "input": items, "store": False}
        if self._encrypt and _THINKS.search(request.model):
            body["include"] = ["reasoning.encrypted_content"]
        optional: dict[str, JsonValue] = {
            "tools": [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": encode_schema(tool),
                    "strict": False,
                }
                for tool in request.tools
            ]
            or None,
            "tool_choice": request.tool_choice
            if request.tools and request.tool_choice != "auto"
            else None,
            "text": _encode_output(request),
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "stream": stream or None,
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        return merged(body, request.extra_body)

    def decode(self, body: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
        """The chunks that a complete answer would have been streamed as.

        Raises:
            LLMError: it is not an answer, or says that the call failed.
        """
        decoder = ResponsesDecoder(request, origin)
        yield from decoder.take_whole(as_mapping(body))
        yield from decoder.end(said_done=True)

    def decoder(self, request: LLMRequest, origin: Origin) -> ResponsesDecoder:
        return ResponsesDecoder(request, origin)


def _encode_output(request: LLMRequest) -> JsonValue:
    output = request.output
    if output is None:
        return None
    return {"format": {"type": "json_schema", **encode_output(output)}}


def _encode_message(message: ChatMessage, origin: Origin) -> Iterator[JsonValue]:
    """Messages, calls, results and reasoning are items of their own, in the order of the parts."""
    for result in message.tool_results:
        yield {
            "type": "function_call_output",
            "call_id": result.call_id,
            "output": result.content,
        }
    if message.role != "assistant" or any(isinstance(part, File) for part in message.parts):
        content = encode_content(message, _encode_text, _encode_file, origin)
        if content or not message.tool_results:
            yield {"type": "message", "role": message.role, "content": content}
        return
    thoughts: list[JsonValue] = []
    for part in message.parts:
        match part:
            case TextPart(text=text) if text:
                yield from thoughts
                thoughts.clear()
                yield {"type": "message", "role": "assistant", "content": text}
            case ReasoningPart(signature=str(signature), signed_by=origin.provider):
                # Without what it led to, because the answer was cut off, it may be refused.
                if item := read_object(signature):
                    thoughts.append(item)
            case ToolCall():
                yield from thoughts
                thoughts.clear()
                yield {
                    "type": "function_call",
                    "call_id": part.id,
                    "name": encode_name(part),
                    "arguments": spell_arguments(part),
                }


def _encode_text(text: str) -> JsonValue:
    return {"type": "input_text", "text": text}


def _encode_file(part: File) -> JsonValue | None:
    if part.media_type.startswith("image/"):
        if isinstance(part, UriPart) and not is_fetched(part):
            return {"type": "input_image", "detail": "auto", "file_id": part.uri}
        url = part.uri if isinstance(part, UriPart) else as_data_url(part)
        return {"type": "input_image", "detail": "auto", "image_url": url}
    if isinstance(part, UriPart):
        if not is_fetched(part):
            return {"type": "input_file", "file_id": part.uri}
        return {"type": "input_file", "file_url": part.uri} if is_document(part) else None
    if not is_document(part):
        return None
    return {"type": "input_file", "filename": file_name(part), "file_data": as_data_url(part)}


class _Item:
    """One item of the answer; `begun` is what is known of it at first, `whole` what at last."""

    def __init__(self, begun: Mapping[str, Any], index: Any) -> None:
        self.begun = begun
        self.index = index
        self.held: list[Mapping[str, Any]] = []
        self.whole: Mapping[str, Any] | None = None
        self.sent = ""
        self.thought: tuple[str, Any] | None = None
        self.rank: int | None = None

    @property
    def type(self) -> str:
        return as_text((self.whole or self.begun).get("type"))

    def take_held(self) -> list[Mapping[str, Any]]:
        held, self.held = self.held, []
        return held

    def rest(self, text: str) -> str:
        """What of the whole text the deltas did not bring."""
        return text[len(self.sent) :] if text.startswith(self.sent) else ""


_TYPE_OF_DELTA = {
    "response.output_text.delta": "message",
    "response.refusal.delta": "message",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "function_call",
}
_STATUS_OF_END = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}


class ResponsesDecoder:
    """Turns the events of one stream into chunks, item after item.

    What belongs to an item is held back until the items before it are whole. What the deltas of an
    item left out is taken from the whole of it, so a server may send none at all.
    """

    def __init__(self, request: LLMRequest, origin: Origin) -> None:
        self._origin = origin
        self._request = request
        self._items: list[_Item] = []
        self._told = 0
        self._call_ids: set[str] = set()
        self._refused = False
        self._end: StreamEnd | None = None

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; nothing follows."""
        return self._end is not None

    @property
    def done(self) -> bool:
        return self.finished

    def feed(self, body: Any) -> Iterator[Chunk]:
        """Take the next event.

        Raises:
            LLMError: the server reports an error in it, or it makes no sense.
        """
        event = as_mapping(body)
        type_ = as_text(event.get("type"))
        if type_ == "error" or event.get("error"):
            raise self._origin.refused(Refusal.parse(event))
        if type_ in _TYPE_OF_DELTA:
            self._take_delta(event, _TYPE_OF_DELTA[type_])
        elif type_ == "response.output_item.added":
            self._items.append(_Item(as_mapping(event.get("item")), event.get("output_index")))
        elif type_ == "response.output_item.done":
            self._take_item(as_mapping(event.get("item")), event.get("output_index"))
        elif type_ in _STATUS_OF_END:
            response = {"status": _STATUS_OF_END[type_], **as_mapping(event.get("response"))}
            yield from self.take_whole(response)
            return
        yield from self._go_on()

    def take_whole(self, response: Mapping[str, Any]) -> Iterator[Chunk]:
        """Take the complete answer, of which events may have told a part.

        Raises:
            LLMError: it is none, or says that the call failed.
        """
        status = response.get("status")
        if response.get("error") or status == "failed":
            raise self._origin.refused(Refusal.parse(response))
        output = response.get("output")
        if status not in ("completed", "incomplete", None) or not (
            isinstance(output, list) or self._items
        ):
            raise self._origin.error(
                LLMErrorKind.BAD_RESPONSE,
                "answered without any output",
                fix="Try again, or try another model.",
            )
        for position, whole in enumerate(map(as_mapping, as_list(output))):
            known = self._items[position] if position < len(self._items) else None
            item = self._with_id(whole.get("id")) or known
            if item is None or item.type != whole.get("type"):
                item = _Item(whole, position)
                self._items.append(item)
            item.whole = item.whole or whole
        for item in self._items:
            item.whole = item.whole or item.begun
        yield from self._go_on()
        self._end = self._ending(response)

    def end(self, *, said_done: bool) -> Iterator[Chunk]:
        """The end of the stream, which the server announced or did not: the `StreamEnd` is last.

        Raises:
            LLMError: the stream was cut.
        """
        if self._end is None:
            raise self._origin.error(
                LLMErrorKind.NETWORK, "cut the stream before its end", fix="Try again."
            )
        yield self._end

    def _take_delta(self, event: Mapping[str, Any], type_: str) -> None:
        item = self._find(event.get("output_index"), event.get("item_id"))
        if item is None:
            item = _Item({"type": type_, "id": event.get("item_id")}, event.get("output_index"))
            self._items.append(item)
        if item.whole is None and item.type == type_:
            item.held.append(event)

    def _take_item(self, whole: Mapping[str, Any], index: Any) -> None:
        item = self._find(index, whole.get("id"))
        if item is None or item.whole is not None:
            item = _Item(whole, index)
            self._items.append(item)
        item.whole = whole

    def _find(self, index: Any, id_: Any) -> _Item | None:
        """By index first: some servers encrypt ids, so that an item has a new one each time.

        By id where an index has several: gateways give one to a message and its calls.
        """
        named = self._with_id(id_)
        placed = [item for item in self._items if index is not None and item.index == index]
        return named if named in placed or not placed else placed[-1]

    def _with_id(self, id_: Any) -> _Item | None:
        for item in reversed(self._items):
            if id_ and item.begun.get("id") == id_:
                return item
        return None

    def _go_on(self) -> Iterator[Chunk]:
        while self._told < len(self._items):
            item = self._items[self._told]
            match item.type:
                case "message":
                    yield from self._go_on_with_message(item)
                case "reasoning":
                    yield from self._go_on_with_reasoning(item)
                case "function_call":
                    yield from self._go_on_with_call(item)
            if item.whole is None:
                return
            self._told += 1

    def _go_on_with_message(self, item: _Item) -> Iterator[Chunk]:
        for event in item.take_held():
            self._refused = self._refused or event["type"] == "response.refusal.delta"
            if text := as_text(event.get("delta")):
                item.sent += text
                yield TextDelta(text=text)
        if item.whole is not None:
            parts = list(map(as_mapping, as_list(item.whole.get("content"))))
            self._refused = self._refused or any(part.get("type") == "refusal" for part in parts)
            texts = (as_text(part.get("text")) or as_text(part.get("refusal")) for part in parts)
            if rest := item.rest("".join(texts)):
                yield TextDelta(text=rest)

    def _go_on_with_reasoning(self, item: _Item) -> Iterator[Chunk]:
        for event in item.take_held():
            place = (event["type"], event.get("summary_index", event.get("content_index")))
            if text := as_text(event.get("delta")):
                if item.thought not in (None, place):
                    text = _BETWEEN_THOUGHTS + text
                item.thought = place
                item.sent += text
                yield ReasoningDelta(text=text)
        if item.whole is not None:
            if rest := item.rest(_thoughts(item.whole)):
                yield ReasoningDelta(text=rest)
            if signature := _signature(item.whole):
                yield ReasoningDelta(text="", signature=signature, signed_by=self._origin.provider)

    def _go_on_with_call(self, item: _Item) -> Iterator[Chunk]:
        if item.rank is None:
            yield from self._start_call(item)
        if item.rank is None:
            return
        for event in item.take_held():
            if text := as_text(event.get("delta")):
                item.sent += text
                yield ToolCallArgumentsDelta(index=item.rank, text=text)
        if item.whole is not None and (
            rest := item.rest(arguments_text(item.whole.get("arguments")))
        ):
            yield ToolCallArgumentsDelta(index=item.rank, text=rest)

    def _start_call(self, item: _Item) -> Iterator[Chunk]:
        known = item.whole or item.begun
        id_, name = as_text(known.get("call_id")), as_text(known.get("name"))
        if item.whole is None and not (id_ and name):
            return
        if not name:
            raise nameless_call(self._origin)
        rank = len(self._call_ids)
        if not id_ or id_ in self._call_ids:
            id_ = f"{id_prefix(self._request)}{rank}"
        self._call_ids.add(id_)
        item.rank = rank
        yield ToolCallStart(index=rank, id=id_, name=name)

    def _ending(self, response: Mapping[str, Any]) -> StreamEnd:
        why = FinishReason.TOOL_CALL if self._call_ids else FinishReason.STOP
        if self._refused:
            why = FinishReason.CONTENT_FILTER
        if response.get("status") == "incomplete":
            details = as_mapping(response.get("incomplete_details"))
            filtered = details.get("reason") == "content_filter"
            why = FinishReason.CONTENT_FILTER if filtered else FinishReason.LENGTH
        return StreamEnd(
            id=as_text(response.get("id")),
            model=as_text(response.get("model")) or self._request.model,
            provider=self._origin.provider,
            finish_reason=why,
            usage=_decode_usage(response.get("usage")),
        )


def _thoughts(item: Mapping[str, Any]) -> str:
    parts = [*as_list(item.get("summary")), *as_list(item.get("content"))]
    texts = (as_text(as_mapping(part).get("text")) for part in parts)
    return _BETWEEN_THOUGHTS.join(filter(None, texts))


def _signature(item: Mapping[str, Any]) -> str | None:
    if not item.get("encrypted_content") and not item.get("content"):
        return None
    kept = {name: value for name, value in item.items() if name != "status" and value is not None}
    return json.dumps({"summary": [], **kept}, sort_keys=True)


def _decode_usage(usage: Any) -> Usage | None:
    """The token counts, or `None` where the server gave none."""
    usage = as_mapping(usage)
    input_tokens = as_count(usage.get("input_tokens"))
    output_tokens = as_count(usage.get("output_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    read = as_mapping(usage.get("input_tokens_details"))
    written = as_mapping(usage.get("output_tokens_details"))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=as_count(read.get("cached_tokens")) or 0,
        cache_write_tokens=as_count(read.get("cache_write_tokens")) or 0,
        reasoning_tokens=as_count(written.get("reasoning_tokens")) or 0,
    )
