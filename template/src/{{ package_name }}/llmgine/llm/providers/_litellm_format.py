# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Our contracts to and from litellm, which speaks Chat Completions with objects and additions.

- `thinking_blocks` are the signed reasoning of Anthropic's models. A block's text is the text of a
  reasoning part, all else of it the signature, which goes back to the vendor that gave it.
- Its objects are read field by field: `model_dump` costs more than all the rest of a small chunk.
- Where a server gives no token counts, litellm answers with zeros, or streams what it counted
  itself. Neither is what was used.

Source: https://docs.litellm.ai/docs/reasoning_content
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, JsonValue

from ...contracts import ChatMessage, Chunk, LLMRequest, ReasoningDelta, ReasoningPart
from ...errors import LLMErrorKind
from ._chat_completions import StreamDecoder, decode_response, encode_request
from ._direct import as_list, as_mapping, as_text, read_object
from ._failures import Origin

_NAME = "litellm"


def encode(request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
    """Arguments of `litellm.acompletion`."""
    body = encode_request(request, stream=stream, max_tokens_field="max_tokens", provider=_NAME)
    spoken = [message for message in request.messages if message.role == "assistant"]
    written = [one for one in as_list(body["messages"]) if one.get("role") == "assistant"]
    for message, one in zip(spoken, written, strict=False):
        if blocks := list(_encode_thoughts(message, _vendor(request))):
            one["thinking_blocks"] = blocks
    return body


def _encode_thoughts(message: ChatMessage, vendor: str) -> Iterator[JsonValue]:
    for part in message.parts:
        if isinstance(part, ReasoningPart) and part.signed_by == _NAME:
            # It may also be a signature of Chat Completions' own, which is no object.
            signature = read_object(part.signature or "")
            if signature.pop("vendor", None) == vendor:
                yield signature if "data" in signature else {**signature, "thinking": part.text}


def decode(answer: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
    """The chunks that a complete answer would have been streamed as.

    Raises:
        LLMError: it is not an answer.
    """
    body = _body(answer)
    usage = as_mapping(body.get("usage"))
    if not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        body["usage"] = None
    for choice in body["choices"][:1]:
        yield from _decode_thoughts(choice.get("message", {}), _vendor(request))
    yield from decode_response(body, request, origin)


class Decoder:
    """Turns the objects of one stream into chunks."""

    def __init__(self, request: LLMRequest, origin: Origin) -> None:
        self._decoder = StreamDecoder(request, origin)
        self._vendor = _vendor(request)
        self._origin = origin
        self._heard = False
        self.cost: float | None = None

    def feed(self, piece: Any, pieces: Any) -> Iterator[Chunk]:
        """Take the next object of the stream `pieces`.

        Raises:
            LLMError: the server reports an error in it.
        """
        body = _body(piece)
        if usage := body.get("usage"):
            if _is_said(pieces):
                self._heard = True
                self.cost = usage.get("cost") or self.cost
            else:
                body["usage"] = None
        chunks: list[Chunk] = []
        for choice in body["choices"][:1]:
            chunks += _decode_thoughts(choice.get("delta", {}), self._vendor)
        chunks += self._decoder.feed(body)
        self._heard = self._heard or bool(chunks)
        yield from chunks

    def end(self, pieces: Any) -> Iterator[Chunk]:
        """The end of the stream `pieces`.

        Raises:
            LLMError: it was cut, or held no answer.
        """
        # litellm makes up an end for a stream without an answer in it, such as a web page.
        if not self._heard and getattr(pieces, "received_finish_reason", "") is None:
            raise self._origin.error(LLMErrorKind.BAD_RESPONSE, "answered without any content")
        return self._decoder.end(said_done=False)


def _is_said(pieces: Any) -> bool:
    """Whether a server sent token counts: litellm keeps its chunks as they came."""
    kept = getattr(pieces, "chunks", None)
    return kept is None or any(getattr(one, "usage", None) for one in kept)


def _decode_thoughts(message: dict[str, Any], vendor: str) -> Iterator[Chunk]:
    """The thinking blocks, which are taken out of the message together with their bare text."""
    for block in map(as_mapping, as_list(message.pop("thinking_blocks", None))):
        message.pop("reasoning_content", None)
        proof = {name: block[name] for name in ("type", "signature", "data") if block.get(name)}
        signed = len(proof) > 1
        yield ReasoningDelta(
            text=as_text(block.get("thinking")),
            signature=json.dumps({"vendor": vendor, **proof}) if signed else None,
            signed_by=_NAME if signed else None,
        )


def _vendor(request: LLMRequest) -> str:
    return request.model.partition("/")[0]


def _body(answer: Any) -> dict[str, Any]:
    body = _fields(answer)
    usage = body.get("usage")
    if isinstance(usage, BaseModel):
        body["usage"] = usage.model_dump()
    body["choices"] = [_choice(choice) for choice in body.get("choices") or ()]
    return body


def _choice(choice: Any) -> dict[str, Any]:
    fields = _fields(choice)
    for name in ("message", "delta"):
        if name in fields:
            fields[name] = message = _fields(fields[name])
            if calls := message.get("tool_calls"):
                message["tool_calls"] = [_fields(call, deep=True) for call in calls]
    return fields


def _fields(value: Any, *, deep: bool = False) -> dict[str, Any]:
    """A new dict of what it holds; nothing if it is no object."""
    if isinstance(value, BaseModel):
        return value.model_dump() if deep else {**vars(value), **(value.__pydantic_extra__ or {})}
    return dict(value) if isinstance(value, Mapping) else {}
