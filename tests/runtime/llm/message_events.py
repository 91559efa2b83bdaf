"""Answers of Anthropic's Messages API, whole and as events, and what they add up to."""

from collections.abc import Iterable
from typing import Any

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    LLMRequest,
    LLMResponse,
    accumulate,
)
from app.llmgine.llm.providers._failures import Origin
from app.llmgine.llm.providers._messages import Messages

HI = ChatMessage.user("hi")
REQUEST = LLMRequest(model="claude-x", messages=(HI,))
ORIGIN = Origin("anthropic", "claude-x")
USAGE = {"input_tokens": 10, "output_tokens": 7}


def whole(body: Any, request: LLMRequest = REQUEST) -> LLMResponse:
    return accumulate(Messages().decode(body, request, ORIGIN))


def chunks(events: Iterable[Any], *, said_done: bool = False) -> list[Chunk]:
    decoder = Messages().decoder(REQUEST, ORIGIN)
    heard = [chunk for event in events for chunk in decoder.feed(event)]
    return [*heard, *decoder.end(said_done=said_done)]


def streamed(events: Iterable[Any]) -> LLMResponse:
    return accumulate(chunks(events))


def begin(**fields: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x-1", **fields}}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def call_block(index: int, *pieces: str, **fields: Any) -> list[dict[str, Any]]:
    start = {"type": "tool_use", "id": f"toolu_{index}", "name": "find", "input": {}, **fields}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, start, *deltas)


def finish(reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}
    return [delta, {"type": "message_stop"}]


def answer(*content: Any, stop_reason: str = "end_turn", **fields: Any) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1"}
    return {**head, "content": list(content), "stop_reason": stop_reason, "usage": USAGE, **fields}
