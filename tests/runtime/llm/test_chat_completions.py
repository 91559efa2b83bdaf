"""The Chat Completions format: what we send, and how servers bend what they send."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._chat_completions import (
    complete,
    decode_usage,
    encode_request,
)
from runtime.llm.deltas import ORIGIN, REQUEST, body, call_delta, delta, streamed


def test_a_whole_conversation_is_spelled_as_the_format_wants_it() -> None:
    call = ToolCall(id="c1", name="find", arguments='{"q": "tea"}')
    request = LLMRequest(
        model="m",
        messages=(
            ChatMessage.system("Be brief."),
            ChatMessage.user("Where is tea?"),
            ChatMessage(
                role="assistant", parts=(ReasoningPart(text="Hm."), TextPart(text="Wait."), call)
            ),
            ChatMessage.assistant("", call),
            ChatMessage.tool(
                ToolResult(call_id="c1", name="find", status=ToolStatus.OK, content="shelf"),
                ToolResult(call_id="c2", name="find", status=ToolStatus.FAILED, content="no"),
            ),
        ),
        tools=(ToolSpec(name="find", description="Find.", parameters={"type": "object"}),),
        tool_choice="required",
        max_output_tokens=5,
        temperature=0.0,
        seed=0,
        stop=("END",),
    )
    spelled_call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"q": "tea"}'},
    }

    assert encode_request(request, stream=True, max_tokens_field="max_tokens") == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is tea?"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [spelled_call]},
            {"role": "assistant", "content": None, "tool_calls": [spelled_call]},
            {"role": "tool", "tool_call_id": "c1", "content": "shelf"},
            {"role": "tool", "tool_call_id": "c2", "content": "no"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "find",
                    "description": "Find.",
                    "parameters": {"type": "object"},
                },
            }
        ],
        "tool_choice": "required",
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": 0,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_the_request_leaves_open_is_not_sent() -> None:
    sent = encode_request(REQUEST, stream=False, max_tokens_field="max_tokens")

    assert sent == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("insufficient_system_resource", FinishReason.STOP),
        (None, FinishReason.STOP),
    ],
)
def test_every_reason_to_stop_has_one_of_ours(theirs: str | None, ours: FinishReason) -> None:
    assert streamed([delta(content="a"), delta(theirs)]).finish_reason is ours


@pytest.mark.parametrize("said", ["stop", "tool_calls", "function_call"])
def test_an_answer_with_calls_stopped_for_them_whatever_the_server_says(said: str) -> None:
    response = streamed([call_delta(said, index=0, id="a", function={"name": "f"})])

    assert response.finish_reason is FinishReason.TOOL_CALL


@pytest.mark.parametrize(
    ("usage", "ours"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 1, "completion_tokens": None}, None),
        ({"prompt_tokens": 1, "completion_tokens": -1}, None),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None},
            Usage(input_tokens=1, output_tokens=2),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(
                input_tokens=10,
                output_tokens=5,
                cache_read_tokens=4,
                cache_write_tokens=3,
                reasoning_tokens=2,
            ),
        ),
        (  # DeepSeek.
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4},
            Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4),
        ),
        (  # Grok and Gemini: the reasoning stands beside the completion.
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(input_tokens=32, output_tokens=103, reasoning_tokens=94),
        ),
    ],
)
def test_tokens_are_counted_in_every_dialect(usage: Any, ours: Usage | None) -> None:
    assert decode_usage(usage) == ours


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_apart_from_the_answer(name: str) -> None:
    response = streamed([delta(**{name: "Hm"}), delta(**{name: "."}), delta("stop", content="Yes")])

    assert response.message.parts == (ReasoningPart(text="Hm."), TextPart(text="Yes"))


def test_text_may_come_as_parts_and_a_refusal_is_text() -> None:
    parts = [{"type": "text", "text": "I "}, {"type": "text", "text": "will not: "}, 7]

    response = complete(body(content=parts, refusal="no."), REQUEST, ORIGIN)

    assert response.text == "I will not: no."


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, "text", {"choices": []}, {"choices": None}, {"choices": {}}, {"id": 7}],
)
def test_an_answer_without_choices_is_a_bad_response(answer: Any) -> None:
    with pytest.raises(LLMError, match="without any choices") as caught:
        complete(answer, REQUEST, ORIGIN)

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_a_stream_without_choices_is_a_bad_response() -> None:
    with pytest.raises(LLMError, match="without any choices") as caught:
        streamed([{"id": "x", "choices": []}])

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    assert complete(body(content=None), REQUEST, ORIGIN).message.parts == ()


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"message": "slow", "code": 429}, LLMErrorKind.RATE_LIMIT, 429),
        ({"message": "slow", "type": "rate_limit_exceeded"}, LLMErrorKind.RATE_LIMIT, None),
        ({"message": "oh", "code": "502"}, LLMErrorKind.SERVER, 502),
        ({"message": "bad", "type": "invalid_request_error"}, LLMErrorKind.BAD_REQUEST, None),
        ({"message": "no", "code": "invalid_api_key"}, LLMErrorKind.AUTHENTICATION, None),
        ({"code": "context_length_exceeded"}, LLMErrorKind.CONTEXT_LENGTH, None),
        ("overloaded", LLMErrorKind.SERVER, None),
    ],
)
def test_an_error_inside_a_good_answer_is_an_error(
    error: Any, kind: LLMErrorKind, status: int | None
) -> None:
    with pytest.raises(LLMError) as caught:
        streamed([delta(content="a"), {"error": error}])

    assert (caught.value.kind, caught.value.status) == (kind, status)


def test_a_stream_that_ends_without_a_reason_was_cut() -> None:
    with pytest.raises(LLMError, match="cut the stream") as caught:
        streamed([delta(content="a")], said_done=False)

    assert caught.value.kind is LLMErrorKind.NETWORK


FIELDS = (
    "arguments choices completion_tokens content delta error finish_reason function id index "
    "message name prompt_tokens reasoning tool_calls usage"
)
json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(FIELDS.split()), values),
)


@given(json_values)
def test_no_json_whatsoever_makes_it_break_otherwise_than_it_says(anything: Any) -> None:
    with suppress(LLMError):
        complete(anything, REQUEST, ORIGIN)
    with suppress(LLMError):
        streamed([anything, {"choices": [anything]}, {"choices": [{"delta": anything}]}])
