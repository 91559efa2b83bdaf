"""OpenAI's Chat Completions.

Reasoning is not OpenAI's: `reasoning_content` is what DeepSeek, vLLM and others added. What is
signed has OpenRouter's form, `reasoning` and `reasoning_details`.

Source: https://platform.openai.com/docs/api-reference/chat
Source: https://openrouter.ai/docs/use-cases/reasoning-tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._wire import as_event
from .answers import Answer, Call, Fault, Tokens, What, cut, take_turns

PATH = "/chat/completions"
_CREATED = 1_760_000_000
_FAULTS: dict[What, tuple[int, str, str | None, str]] = {
    "key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "permission": (403, "invalid_request_error", None, "You have no access to this."),
    "model": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "request": (400, "invalid_request_error", None, "Invalid value for 'temperature'."),
    "context": (
        *(400, "invalid_request_error", "context_length_exceeded"),
        "This model's maximum context length is 8192 tokens.",
    ),
    "content": (
        *(400, "invalid_request_error", "content_policy_violation"),
        "Your request was rejected by our safety system.",
    ),
    "rate": (429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "server": (500, "server_error", None, "The server had an error."),
    "overloaded": (529, "server_error", "overloaded", "The server is overloaded."),
}


def refuse(fault: Fault) -> tuple[int, dict[str, Any]]:
    """The status and the body."""
    status, type_, code, message = _FAULTS[fault.what]
    error = {"message": fault.message or message, "type": type_, "param": None, "code": code}
    return status, {"error": error}


def break_off(fault: Fault) -> bytes:
    """The event that says in the middle of a stream that the answer failed."""
    return as_event(refuse(fault)[1])


def usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cache_read,
            **({"cache_write_tokens": tokens.cache_write} if tokens.cache_write else {}),
        },
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def body(answer: Answer, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The `chat.completion` object."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.signature:
        details = _details(text=answer.reasoning, signature=answer.signature)
        message |= {"reasoning": answer.reasoning, "reasoning_details": details}
    elif answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": _CREATED,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": answer.why}],
        **({} if answer.usage is None else {"usage": usage(answer.usage)}),
    }


def chunks(answer: Answer, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `chat.completion.chunk` objects."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    thoughts = cut(answer.reasoning)
    if answer.signature:
        deltas += [{"reasoning": p, "reasoning_details": _details(text=p)} for p in thoughts]
        deltas.append({"reasoning_details": _details(signature=answer.signature)})
    else:
        deltas += [{"reasoning_content": piece} for piece in thoughts]
    deltas += [{"content": piece} for piece in cut(answer.text)]
    deltas += [{"tool_calls": [delta]} for delta in _call_deltas(answer)]
    model = asked["model"]
    events = [_chunk(answer, model, delta) for delta in deltas]
    events.append(_chunk(answer, model, {}, answer.why))
    if answer.usage and (asked.get("stream_options") or {}).get("include_usage"):
        counts = usage(answer.usage)
        events.append({**_chunk(answer, model, {}), "choices": [], "usage": counts})
    return events


def events(answer: Answer, asked: Mapping[str, Any]) -> list[bytes]:
    return [*map(as_event, chunks(answer, asked)), as_event("[DONE]")]


def _call_deltas(answer: Answer) -> list[dict[str, Any]]:
    calls: list[list[dict[str, Any]]] = []
    for index, call in enumerate(answer.calls):
        head = {"index": index, **_call(Call(call.id, call.name, ""))}
        pieces = cut(call.arguments)
        calls.append([head, *({"index": index, "function": {"arguments": p}} for p in pieces)])
    return take_turns(calls) if answer.interleaved else [delta for call in calls for delta in call]


def _details(**fields: str) -> list[dict[str, Any]]:
    return [{"type": "reasoning.text", "index": 0, **fields}]


def _chunk(
    answer: Answer, model: str, delta: dict[str, Any], why: str | None = None
) -> dict[str, Any]:
    return {
        "id": answer.id,
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": why}],
    }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    id_ = {"id": call.id} if call.id else {}
    return {**id_, "type": "function", "function": function}


def newest(asked: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the newest message is a tool's result, and what it says."""
    last = asked["messages"][-1]
    return last["role"] == "tool", text_of(last.get("content"))


def tools(asked: Mapping[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in asked.get("tools") or ()}


def text_of(content: Any) -> str:
    """Text, or the texts of a list of parts."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text", "") for part in content)
