"""Anthropic's Messages.

The input of a tool is an object, so a call whose arguments are cut off has none in a whole answer;
only a stream shows how far they got.

Source: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ._wire import as_event
from .answers import Answer, Call, Fault, Tokens, What, cut, take_turns
from .chat_completions import text_of

PATH = "/messages"
_FAULTS: dict[What, tuple[int, str, str]] = {
    "key": (401, "authentication_error", "invalid x-api-key"),
    "permission": (403, "permission_error", "Your API key does not have permission."),
    "model": (404, "not_found_error", "model: claude-nobody"),
    "request": (400, "invalid_request_error", "temperature: range: 0..1"),
    "context": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    "content": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "rate": (429, "rate_limit_error", "This request would exceed your rate limit."),
    "server": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}
_WHY = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def refuse(fault: Fault) -> tuple[int, dict[str, Any]]:
    """The status and the body."""
    status, type_, message = _FAULTS[fault.what]
    error = {"type": type_, "message": fault.message or message}
    return status, {"type": "error", "error": error, "request_id": "req_1"}


def break_off(fault: Fault) -> bytes:
    """The event that says in the middle of a stream that the answer failed."""
    return as_event(refuse(fault)[1], "error")


def usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input - tokens.cache_read - tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation_input_tokens": tokens.cache_write,
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
    }


def body(answer: Answer, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The `message` object."""
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [block for block, _ in _blocks(answer)],
        "stop_reason": _WHY[answer.why],
        "stop_sequence": None,
        **({} if answer.usage is None else {"usage": usage(answer.usage)}),
    }


def events(answer: Answer, asked: Mapping[str, Any]) -> list[bytes]:
    blocks = [
        [_event("content_block_start", index=index, content_block=_empty(block))]
        + [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
        + [_event("content_block_stop", index=index)]
        for index, (block, deltas) in enumerate(_blocks(answer))
    ]
    first_call = len(blocks) - len(answer.calls)
    calls = blocks[first_call:]
    return [
        _begin(answer, asked),
        _event("ping"),
        *(event for block in blocks[:first_call] for event in block),
        *(take_turns(calls) if answer.interleaved else [e for call in calls for e in call]),
        _end(answer),
        _event("message_stop"),
    ]


def _begin(answer: Answer, asked: Mapping[str, Any]) -> bytes:
    message = {**body(answer, asked), "content": [], "stop_reason": None}
    if answer.usage:
        counted = Tokens(0, 0, 0, 0, 0) if answer.late_usage else answer.usage
        message["usage"] = {**usage(counted), "output_tokens": 1, "output_tokens_details": None}
    return _event("message_start", message=message)


def _end(answer: Answer) -> bytes:
    counted = {} if answer.usage is None else {"usage": usage(answer.usage)}
    delta = {"stop_reason": _WHY[answer.why], "stop_sequence": None}
    return _event("message_delta", delta=delta, **counted)


def _event(type_: str, **fields: Any) -> bytes:
    return as_event({"type": type_, **fields}, type_)


def _blocks(answer: Answer) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block, and the deltas that it is streamed as."""
    if answer.reasoning or answer.signature:
        signature = answer.signature or ""
        thought = {"type": "thinking", "thinking": answer.reasoning, "signature": signature}
        deltas = [{"type": "thinking_delta", "thinking": p} for p in cut(answer.reasoning)]
        yield thought, [*deltas, {"type": "signature_delta", "signature": signature}]
    if answer.text:
        text = {"type": "text", "text": answer.text, "citations": None}
        yield text, [{"type": "text_delta", "text": piece} for piece in cut(answer.text)]
    for call in answer.calls:
        deltas = [{"type": "input_json_delta", "partial_json": p} for p in cut(call.arguments)]
        yield _tool_use(call), [{"type": "input_json_delta", "partial_json": ""}, *deltas]


def _tool_use(call: Call) -> dict[str, Any]:
    try:
        given = json.loads(call.arguments or "{}")
    except ValueError:
        given = {}
    id_ = {"id": call.id} if call.id else {}
    return {**id_, "type": "tool_use", "name": call.name, "input": given}


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    nothing = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: nothing.get(name, value) for name, value in block.items()}


def newest(asked: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the newest message is a tool's result, and what it says."""
    content = asked["messages"][-1]["content"]
    for block in content if isinstance(content, list) else ():
        if block["type"] == "tool_result":
            return True, text_of(block.get("content"))
    return False, text_of(content)


def tools(asked: Mapping[str, Any]) -> set[str]:
    return {tool["name"] for tool in asked.get("tools") or ()}
