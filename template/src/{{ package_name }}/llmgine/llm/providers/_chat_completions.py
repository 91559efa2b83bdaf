# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Our contracts to and from the Chat Completions format, which most vendors and servers speak.

The format keeps text, reasoning and tool calls in separate fields, without an order between them.
A complete answer is read as reasoning, text, calls: the order in which servers stream them.

What a server wants back of its reasoning stands in signatures:

- `reasoning_content` (DeepSeek, Kimi, GLM) goes back as that field: without it DeepSeek refuses
  every request after a tool call. The signature is the field's name, for other servers that think
  aloud refuse the field.
- `reasoning_details` (OpenRouter) is a list that goes back as it came. It may go on after the
  text and the calls, so it is the signature of a reasoning part at the end of the answer.
- `extra_content.google.thought_signature` (Gemini) is the signature of a tool call.

Sources: https://platform.openai.com/docs/api-reference/chat,
https://api-docs.deepseek.com/guides/thinking_mode,
https://openrouter.ai/docs/use-cases/reasoning-tokens,
https://ai.google.dev/gemini-api/docs/thought-signatures
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import JsonValue
from pydantic_core import from_json

from ...contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    OutputSpec,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    TextDelta,
    ToolCall,
    UriPart,
    Usage,
)
from ...errors import LLMErrorKind
from ..schema import strict
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
)
from ._failures import Origin, Refusal
from ._tool_calls import (
    ToolCallAssembler,
    encode_name,
    encode_schema,
    id_prefix,
    nameless_call,
    spell_arguments,
)


class _ReasoningDetails:
    """The list of a whole answer, put together from the lists of its deltas."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []

    def feed(self, details: Any) -> None:
        for item in as_list(details):
            if isinstance(item, dict):
                self._take({name: value for name, value in item.items() if value is not None})

    def _take(self, item: dict[str, Any]) -> None:
        last = self._items[-1] if self._items else {}
        field = _DETAIL_FIELDS.get(as_text(item.get("type")))
        same = all(last.get(name) == item.get(name) for name in ("type", "index"))
        if field and same and not last.get("signature"):
            text = as_text(last.get(field)) + as_text(item.get(field))
            self._items[-1] = last | item | {field: text}
        else:
            self._items.append(item)

    @property
    def signature(self) -> str | None:
        return json.dumps(self._items, sort_keys=True) if self._items else None


_DETAIL_FIELDS = {"reasoning.text": "text", "reasoning.summary": "summary"}
_REASONING_CONTENT = "reasoning_content"
LimitField = Literal["max_tokens", "max_completion_tokens"]
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not supported|unrecognized|unknown|not permitted", re.IGNORECASE
)
_FINISH_REASONS = {
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "repetition_truncation": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "guardrail_intervened": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
}
_BROKEN_OFF = {
    "abort": (LLMErrorKind.SERVER, "broke off its answer"),
    "error": (LLMErrorKind.SERVER, "failed in the middle of its answer"),
    "network_error": (LLMErrorKind.SERVER, "failed in the middle of its answer"),
    # Gemini, and gateways to it, of a call that it could not read itself.
    "function_call_filter": (LLMErrorKind.BAD_RESPONSE, "wrote a tool call that makes no sense"),
    "malformed_function_call": (LLMErrorKind.BAD_RESPONSE, "wrote a tool call that makes no sense"),
    "insufficient_system_resource": (LLMErrorKind.SERVER, "had no room to finish its answer"),
}
_AUDIO_FORMATS = {
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
}


def encode_output(output: OutputSpec) -> dict[str, JsonValue]:
    """The schema as it is enforced, or as it stands where that cannot be."""
    enforced = strict(output.parameters)
    return {
        "name": output.name,
        "schema": enforced or output.parameters,
        "strict": enforced is not None,
    }


def encode_request(
    request: LLMRequest,
    *,
    stream: bool,
    max_tokens_field: LimitField,
    provider: str = "",
    signs: bool = True,
) -> dict[str, JsonValue]:
    """The body of the call; what the request leaves open is left to the server.

    `extra_body` is merged in last: its objects at any depth, while all else in it replaces what
    would be sent. Signatures that `provider` gave go back, if it `signs`.

    Raises:
        LLMError: a file is of a kind that the format does not have, or where it has none.
    """
    signed_by = provider if signs else ""
    messages: list[JsonValue] = []
    for message in request.messages:
        messages += _encode_message(message, signed_by, provider, request.model)
    body: dict[str, JsonValue] = {"model": request.model, "messages": messages}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": encode_schema(tool),
                },
            }
            for tool in request.tools
        ]
        if request.tool_choice != "auto":
            body["tool_choice"] = request.tool_choice
    if request.output is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": encode_output(request.output),
        }
    optional: dict[str, JsonValue] = {
        max_tokens_field: request.max_output_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return merged(body, request.extra_body)


def _encode_message(
    message: ChatMessage, signed_by: str, provider: str, model: str
) -> list[JsonValue]:
    """One message of ours is several of theirs when it carries tool results."""
    # Most messages are text alone: what a message does not hold is not looked for.
    kinds = {part.type for part in message.parts}
    content: JsonValue = message.text
    if "blob" in kinds or "uri" in kinds:
        origin = Origin(provider, model)
        content = encode_content(message, _encode_text, _encode_file, origin)
    fields = _encode_reasoning(message, signed_by) if "reasoning" in kinds else {}
    results = message.tool_results if "tool_result" in kinds else ()
    messages: list[JsonValue] = [
        {"role": "tool", "tool_call_id": result.call_id, "content": result.content}
        for result in results
    ]
    # Mistral refuses an empty answer, such as one that was cut off while the model thought.
    may_be_empty = message.role != "assistant" and not results
    if "tool_call" in kinds:
        calls: list[JsonValue] = [_encode_call(call, signed_by) for call in message.tool_calls]
        content = content or None
        messages.append({"role": message.role, "content": content, "tool_calls": calls, **fields})
    elif content or fields or may_be_empty:
        messages.append({"role": message.role, "content": content, **fields})
    return messages


def _encode_text(text: str) -> JsonValue:
    return {"type": "text", "text": text}


def _encode_file(part: File) -> JsonValue | None:
    if isinstance(part, UriPart):
        if part.media_type.startswith("image/") and is_fetched(part):
            return {"type": "image_url", "image_url": {"url": part.uri}}
        return None if is_fetched(part) else {"type": "file", "file": {"file_id": part.uri}}
    if part.media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": as_data_url(part)}}
    if audio := _AUDIO_FORMATS.get(part.media_type):
        data = b64encode(part.data).decode()
        return {"type": "input_audio", "input_audio": {"data": data, "format": audio}}
    if not is_document(part):
        return None
    return {
        "type": "file",
        "file": {"filename": file_name(part), "file_data": as_data_url(part)},
    }


def _encode_call(call: ToolCall, signed_by: str) -> JsonValue:
    item: dict[str, JsonValue] = {
        "id": call.id,
        "type": "function",
        "function": {"name": encode_name(call), "arguments": spell_arguments(call)},
    }
    if call.signature and signed_by and call.signed_by == signed_by:
        item["extra_content"] = {"google": {"thought_signature": call.signature}}
    return item


def _encode_reasoning(message: ChatMessage, signed_by: str) -> dict[str, JsonValue]:
    content = ""
    details: list[JsonValue] = []
    for part in message.parts:
        if not isinstance(part, ReasoningPart) or not signed_by or part.signed_by != signed_by:
            continue
        if part.signature == _REASONING_CONTENT:
            content += part.text
        else:
            with suppress(ValueError):
                details += as_list(from_json(part.signature or ""))
    fields: dict[str, JsonValue] = {_REASONING_CONTENT: content, "reasoning_details": details}
    return {name: value for name, value in fields.items() if value}


class ChatCompletions:
    """The format, as `provider` speaks it: what it signs goes back to it.

    `newer` servers insist on `max_completion_tokens`, others on `max_tokens`, unless the model is
    another's: see `rename_limit`. Mistral refuses every field that it does not know: it counts
    tokens unasked, and has its own name for the seed.
    """

    path = "/chat/completions"

    def __init__(self, *, newer: bool, mistral: bool = False, provider: str = "openai") -> None:
        self._newer = newer
        self._renamed: dict[str, LimitField] = {}
        self._mistral = mistral
        self._provider = provider

    def encode(self, request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
        body = encode_request(
            request,
            stream=stream,
            max_tokens_field=self.limit_field(request.model),
            provider=self._provider,
            # The newer servers sign nothing here, and refuse fields they do not know.
            signs=not self._newer,
        )
        if self._mistral:
            body.pop("stream_options", None)
            if "seed" in body:
                body["random_seed"] = body.pop("seed")
        return body

    def limit_field(self, model: str) -> LimitField:
        """What the limit on the answer's tokens is called."""
        usual: LimitField = "max_completion_tokens" if self._newer else "max_tokens"
        return self._renamed.get(model, usual)

    def rename_limit(self, model: str, refused: LimitField, said: str) -> bool:
        """Call it otherwise from now on, if what was said of the refused request asks for it.

        Which name a model behind a gateway takes, neither its host tells nor its own name.
        """
        if not (refused in said and _UNKNOWN_FIELD.search(said)):
            return False
        is_newer = refused == "max_completion_tokens"
        self._renamed[model] = "max_tokens" if is_newer else "max_completion_tokens"
        return True

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
    body = as_mapping(body)
    choices = [_as_one_delta(as_mapping(choice)) for choice in as_list(body.get("choices"))]
    yield from decoder.feed({**body, "choices": choices})
    yield from decoder.end(said_done=True)


def _as_one_delta(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = as_mapping(choice.get("message"))
    if calls := _calls_of(message):
        numbered = [{**call, "index": index} for index, call in enumerate(calls)]
        message = {**message, "tool_calls": numbered}
    return {**choice, "delta": message}


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    return [one for one in map(as_mapping, as_list(calls)) if one] if calls else []


class StreamDecoder:
    """Turns the objects of one stream into chunks."""

    done = False
    """Never: an event of its own, `[DONE]`, is the end."""

    def __init__(self, request: LLMRequest, origin: Origin) -> None:
        self._origin = origin
        self._id = ""
        self._model = request.model
        self._finish_reason = ""
        self._usage: Usage | None = None
        self._answered = False
        self._filtered = False
        self._refused = False
        self._thinks_aloud = False
        self._details = _ReasoningDetails()
        self._calls = ToolCallAssembler(lambda: id_prefix(request), origin.provider)

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; only the usage may follow."""
        return self._finish_reason != ""

    def feed(self, body: Any) -> list[Chunk]:
        """Take the next object.

        Raises:
            LLMError: the server reports an error in it.
        """
        body = as_mapping(body)
        if body.get("error") or body.get("object") == "error":
            raise self._origin.refused(Refusal.parse(body))
        self._id = self._id or as_text(body.get("id"))
        self._model = as_text(body.get("model")) or self._model
        if usage := body.get("usage") or as_mapping(body.get("x_groq")).get("usage"):
            self._usage = decode_usage(usage) or self._usage
        if results := body.get("prompt_filter_results"):
            self._filtered = self._filtered or _is_filtered(results)
        chunks: list[Chunk] = []
        for choice in as_list(body.get("choices")):
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                chunks += self._take(choice)
        return chunks

    def _take(self, choice: Mapping[str, Any]) -> list[Chunk]:
        if choice.get("error"):
            raise self._origin.refused(Refusal.parse(choice))
        self._answered = True
        if usage := choice.get("usage"):  # Kimi.
            self._usage = decode_usage(usage) or self._usage
        if why := as_text(choice.get("finish_reason")):
            # Gemini adds its own word: `content_filter: PROHIBITED_CONTENT`.
            self._finish_reason = why.partition(":")[0].lower() or self._finish_reason
        delta = as_mapping(choice.get("delta"))
        chunks: list[Chunk] = []
        if thoughts := as_text(delta.get(_REASONING_CONTENT)):
            self._thinks_aloud = True
        # Vendors have two names for one thing; some send both.
        thoughts = thoughts or as_text(delta.get("reasoning")) or _thoughts(delta.get("content"))
        if thoughts:
            chunks.append(ReasoningDelta(text=thoughts))
        if details := delta.get("reasoning_details"):
            self._details.feed(details)
        text = _content(delta.get("content"))
        if refusal := as_text(delta.get("refusal")):
            self._refused = True
            text += refusal
        calls = _calls_of(delta)
        if self._thinks_aloud and (text or calls):
            chunks.append(self._end_of_thinking())
        if text:
            chunks.append(TextDelta(text=text))
        for call in calls:
            chunks += self._calls.feed(call)
        return chunks

    def _end_of_thinking(self) -> Chunk:
        self._thinks_aloud = False
        return ReasoningDelta(
            text="", signature=_REASONING_CONTENT, signed_by=self._origin.provider
        )

    def end(self, *, said_done: bool) -> Iterator[Chunk]:
        """The end of the stream, which the server announced with `[DONE]` or did not.

        Raises:
            LLMError: the stream was cut, or held no answer.
        """
        self._check(said_done)
        if self._thinks_aloud:
            yield self._end_of_thinking()
        yield from self._calls.finish()
        if signature := self._details.signature:
            yield ReasoningDelta(text="", signature=signature, signed_by=self._origin.provider)
        yield StreamEnd(
            id=self._id,
            model=self._model,
            provider=self._origin.provider,
            finish_reason=self._why(),
            usage=self._usage,
        )

    def _check(self, said_done: bool) -> None:
        if not self._finish_reason and not said_done:
            raise self._origin.error(
                LLMErrorKind.NETWORK, "cut the stream before its end", fix="Try again."
            )
        if not self._answered and self._filtered:
            raise self._origin.error(LLMErrorKind.CONTENT_FILTER, "filtered the prompt")
        if not self._answered:
            raise self._origin.error(
                LLMErrorKind.BAD_RESPONSE,
                "answered without any choices",
                fix="Try again, or try another model.",
            )
        if self._finish_reason in _BROKEN_OFF:
            kind, what = _BROKEN_OFF[self._finish_reason]
            raise self._origin.error(kind, what, fix="Try again.")
        if self._calls.nameless:
            raise nameless_call(self._origin)

    def _why(self) -> FinishReason:
        """Servers disagree on `stop` and `tool_calls`; whether there are calls does not lie."""
        otherwise = FinishReason.TOOL_CALL if self._calls else FinishReason.STOP
        if self._refused:
            otherwise = FinishReason.CONTENT_FILTER
        return _FINISH_REASONS.get(self._finish_reason, otherwise)


def _is_filtered(results: Any) -> bool:
    """Azure's judgement of the prompt.

    Source: https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
    """
    judged = (as_mapping(as_mapping(r).get("content_filter_results")) for r in as_list(results))
    return any(as_mapping(one).get("filtered") is True for all_ in judged for one in all_.values())


def decode_usage(usage: Any) -> Usage | None:
    """The token counts, or `None` where the server gave none."""
    usage = as_mapping(usage)
    input_tokens = as_count(usage.get("prompt_tokens"))
    output_tokens = as_count(usage.get("completion_tokens"))
    total = as_count(usage.get("total_tokens"))
    if output_tokens is None and "completion_tokens" not in usage and total is not None:
        output_tokens = 0  # Gemini leaves it out while the model thinks.
    if input_tokens is None or output_tokens is None:
        return None
    read = as_mapping(usage.get("prompt_tokens_details"))
    written = as_mapping(usage.get("completion_tokens_details"))
    # Gemini and Grok leave the reasoning out of completion_tokens, but count it in the total.
    output_tokens = max(output_tokens, (total or 0) - input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=as_count(read.get("cached_tokens"))
        or as_count(usage.get("prompt_cache_hit_tokens"))
        or as_count(usage.get("cached_tokens"))
        or 0,
        cache_write_tokens=as_count(read.get("cache_write_tokens"))
        or as_count(usage.get("cache_creation_input_tokens"))
        or 0,
        reasoning_tokens=as_count(written.get("reasoning_tokens")) or 0,
    )


def _thoughts(content: Any) -> str:
    """What Mistral's models think: parts of the text, each with parts of its own."""
    if not isinstance(content, list):
        return ""
    return "".join(_content(as_mapping(part).get("thinking")) for part in content)


def _content(value: Any) -> str:
    """Text, which a few servers send as a list of parts."""
    if isinstance(value, str):
        return value
    return "".join(as_text(as_mapping(part).get("text")) for part in as_list(value))
