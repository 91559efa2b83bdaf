"""Chat Completions bodies and deltas, and what a stream of them adds up to."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    LLMResponse,
    accumulate,
)
from app.llmgine.llm.providers._chat_completions import StreamDecoder, decode_response
from app.llmgine.llm.providers._failures import Origin

REQUEST = LLMRequest(model="m", messages=(ChatMessage.user("hi"),))
ORIGIN = Origin("openai", "m")


def complete(answer: Any, request: LLMRequest = REQUEST) -> LLMResponse:
    return accumulate(decode_response(answer, request, ORIGIN))


def streamed(events: Sequence[Any], *, said_done: bool = True) -> LLMResponse:
    decoder = StreamDecoder(REQUEST, ORIGIN)
    chunks = [chunk for event in events for chunk in decoder.feed(event)]
    return accumulate([*chunks, *decoder.end(said_done=said_done)])


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def call_delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return delta(finish_reason, tool_calls=[fields])


def body(**message: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def draw_pieces(data: st.DataObject, text: Any) -> list[Any]:
    """Text or bytes, cut anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
