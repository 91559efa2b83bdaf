"""OpenAI's Responses.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._wire import as_event
from .answers import Answer, Call, Fault, Tokens, cut, take_turns
from .chat_completions import refuse, text_of

__all__ = ["PATH", "body", "break_off", "events", "newest", "refuse", "tools"]

PATH = "/responses"
_CREATED = 1_760_000_000
_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}


def break_off(fault: Fault) -> bytes:
    """The event that says in the middle of a stream that the answer failed."""
    error = refuse(fault)[1]["error"]
    named = {name: error[name] for name in ("code", "message", "param")}
    return as_event({"type": "error", **named, "sequence_number": 99}, "error")


def usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {
            "cached_tokens": tokens.cache_read,
            "cache_write_tokens": tokens.cache_write,
        },
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }


def body(answer: Answer, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The `response` object."""
    cut_short = _CUT_SHORT.get(answer.why)
    return {
        "id": answer.id,
        "object": "response",
        "created_at": _CREATED,
        "model": asked["model"],
        "status": "incomplete" if cut_short else "completed",
        "incomplete_details": {"reason": cut_short} if cut_short else None,
        "error": None,
        "output": [item for item, _ in _items(answer, asked)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": answer.usage and usage(answer.usage),
    }


def events(answer: Answer, asked: Mapping[str, Any]) -> list[bytes]:
    spelled = body(answer, asked)
    begun = {
        **spelled,
        **{"status": "in_progress", "output": [], "usage": None, "incomplete_details": None},
    }
    spelled_items = enumerate(_items(answer, asked))
    items = [_item_events(at, item, between) for at, (item, between) in spelled_items]
    first_call = len(items) - len(answer.calls)
    calls = items[first_call:]
    unnumbered = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *(event for item in items[:first_call] for event in item),
        *(take_turns(calls) if answer.interleaved else [e for call in calls for e in call]),
        {"type": f"response.{spelled['status']}", "response": spelled},
    ]
    return [
        as_event({**event, "sequence_number": number}, event["type"])
        for number, event in enumerate(unnumbered)
    ]


def _items(
    answer: Answer, asked: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each item, and the events between its `added` and its `done`."""
    if answer.reasoning or answer.signature:
        yield _reasoning(answer, asked)
    if answer.text:
        yield _message(answer)
    for number, call in enumerate(answer.calls):
        yield _function_call(call, number, _status(answer))


def _status(answer: Answer) -> str:
    return "incomplete" if answer.why in _CUT_SHORT else "completed"


def _reasoning(
    answer: Answer, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    part = {"type": "summary_text", "text": answer.reasoning}
    summary = [part] if answer.reasoning else []
    item: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": summary}
    if "reasoning.encrypted_content" in (asked.get("include") or ()):
        item["encrypted_content"] = answer.signature
    at = {"item_id": "rs_1", "summary_index": 0}
    name = "response.reasoning_summary"
    if not answer.reasoning:
        return item, []
    return item, [
        {"type": f"{name}_part.added", **at, "part": {**part, "text": ""}},
        *({"type": f"{name}_text.delta", **at, "delta": p} for p in cut(answer.reasoning)),
        {"type": f"{name}_text.done", **at, "text": answer.reasoning},
        {"type": f"{name}_part.done", **at, "part": part},
    ]


def _message(answer: Answer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    part = {"type": "output_text", "text": answer.text, "annotations": []}
    item = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": _status(answer),
        "content": [part],
    }
    at = {"item_id": "msg_1", "content_index": 0}
    name = "response.output_text"
    return item, [
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": f"{name}.delta", **at, "delta": p, "logprobs": []} for p in cut(answer.text)),
        {"type": f"{name}.done", **at, "text": answer.text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
    ]


def _function_call(
    call: Call, number: int, status: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    id_ = f"fc_{number}"
    item = {
        "type": "function_call",
        "id": id_,
        **({"call_id": call.id} if call.id else {}),
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }
    name = "response.function_call_arguments"
    deltas = [{"type": f"{name}.delta", "item_id": id_, "delta": p} for p in cut(call.arguments)]
    done = {"type": f"{name}.done", "item_id": id_, "arguments": call.arguments}
    return item, [*deltas, done]


def _item_events(
    at: int, item: dict[str, Any], between: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    nothing = {"summary": [], "content": [], "arguments": "", "status": "in_progress"}
    begun = {name: nothing.get(name, value) for name, value in item.items()}
    events = [
        {"type": "response.output_item.added", "item": begun},
        *between,
        {"type": "response.output_item.done", "item": item},
    ]
    return [{**event, "output_index": at} for event in events]


def newest(asked: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the newest message is a tool's result, and what it says."""
    given = asked["input"]
    if isinstance(given, str):
        return False, given
    last = given[-1]
    if last.get("type") == "function_call_output":
        return True, text_of(last["output"])
    return False, text_of(last.get("content"))


def tools(asked: Mapping[str, Any]) -> set[str]:
    return {tool["name"] for tool in asked.get("tools") or ()}
