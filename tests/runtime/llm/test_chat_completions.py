"""The Chat Completions format: what we send, and how servers bend what they send."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    BlobPart,
    ChatMessage,
    FinishReason,
    LLMRequest,
    OutputSpec,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
    Usage,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._chat_completions import (
    ChatCompletions,
    decode_usage,
    encode_request,
)
from runtime.llm.deltas import REQUEST, body, call_delta, complete, delta, streamed


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
                    "parameters": {"type": "object", "properties": {}},
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
    ("written", "sent"),
    [
        ('{"a":1}', '{"a":1}'),
        ("", "{}"),
        ('{"a": ', '{"invalid_json": "{\\"a\\": "}'),
        ("[1]", '{"invalid_json": "[1]"}'),
        ('{"a": NaN}', '{"invalid_json": "{\\"a\\": NaN}"}'),
    ],
)
def test_arguments_go_back_as_written_if_they_are_an_object(written: str, sent: str) -> None:
    message = ChatMessage.assistant("", ToolCall(id="c1", name="a.b", arguments=written))
    body: Any = ChatCompletions(newer=True).encode(
        LLMRequest(model="m", messages=(message,)), stream=False
    )

    assert body["messages"][0]["tool_calls"][0]["function"] == {"name": "a_b", "arguments": sent}


def test_an_answer_of_nothing_does_not_go_back() -> None:
    messages = (ChatMessage.assistant(), ChatMessage.user(""))
    body = ChatCompletions(newer=False).encode(
        LLMRequest(model="m", messages=messages), stream=False
    )

    assert body["messages"] == [{"role": "user", "content": ""}]


def test_mistral_is_sent_nothing_that_it_does_not_know() -> None:
    request = LLMRequest(model="m", messages=(), seed=7)

    assert ChatCompletions(newer=False, mistral=True).encode(request, stream=True) == {
        "model": "m",
        "messages": [],
        "random_seed": 7,
        "stream": True,
    }


# What goes back to the server that signed it.

DETAILS = [
    {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "index": 0},
    {"type": "reasoning.encrypted", "data": "eA==", "id": "rs_1", "index": 1},
]
THOUGHTFUL_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "find", "arguments": "{}"},
    "extra_content": {"google": {"thought_signature": "c2ln"}},
}


@pytest.mark.parametrize(
    "said",
    [
        {"content": "Wait.", "reasoning_content": "Hm."},
        {"content": "Wait.", "reasoning_details": DETAILS},
        {
            "content": "Wait.",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "a", "signature": "s"},
                {"type": "reasoning.text", "text": "b", "signature": "t"},
            ],
        },
        {"content": None, "tool_calls": [THOUGHTFUL_CALL]},
        {"content": None, "tool_calls": [THOUGHTFUL_CALL], "reasoning_content": "Hm."},
    ],
)
def test_what_the_server_signed_goes_back_to_it_alone(said: dict[str, Any]) -> None:
    answer = complete(body(**said)).message

    def sent_by(wire: ChatCompletions) -> Any:
        messages: Any = wire.encode(LLMRequest(model="m", messages=(answer,)), stream=False)[
            "messages"
        ]
        return messages[0]

    assert sent_by(ChatCompletions(newer=False)) == {"role": "assistant", **said}
    for other in (ChatCompletions(newer=True), ChatCompletions(newer=False, provider="other")):
        fields = {"reasoning_content", "reasoning_details", "extra_content"}
        assert not fields & {*sent_by(other), *sent_by(other).get("tool_calls", [{}])[0]}


def test_details_of_the_reasoning_may_come_in_pieces_and_after_the_text() -> None:
    pieces = [
        delta(reasoning="Hm", reasoning_details=[{**DETAILS[0], "text": "Hm", "signature": None}]),
        delta(reasoning=".", reasoning_details=[{**DETAILS[0], "text": "."}]),
        delta(content="Yes", reasoning_details=[]),
        delta("stop", reasoning_details=[DETAILS[1]]),
    ]

    said = {"reasoning": "Hm.", "content": "Yes", "reasoning_details": DETAILS}
    assert streamed(pieces) == complete(body(**said))


def test_a_signature_that_cannot_be_read_is_not_sent() -> None:
    thought = ReasoningPart(text="Hm.", signature="no JSON", signed_by="openai")
    request = LLMRequest(
        model="m", messages=(ChatMessage(role="assistant", parts=(thought, TextPart(text="a"))),)
    )

    sent = ChatCompletions(newer=False).encode(request, stream=False)["messages"]

    assert sent == [{"role": "assistant", "content": "a"}]


# Files, schemas, and what only one vendor knows.


@pytest.mark.parametrize(
    ("part", "item"),
    [
        (
            BlobPart(media_type="image/png", data=b"\x00\xff"),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AP8="}},
        ),
        (
            UriPart(uri="https://x.example/a.png", media_type="image/png"),
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        ),
        (
            BlobPart(media_type="audio/mpeg", data=b"R"),
            {"type": "input_audio", "input_audio": {"data": "Ug==", "format": "mp3"}},
        ),
        (
            BlobPart(media_type="application/pdf", data=b"%"),
            {
                "type": "file",
                "file": {"filename": "file.pdf", "file_data": "data:application/pdf;base64,JQ=="},
            },
        ),
        (
            UriPart(uri="file-1", media_type="application/pdf"),
            {"type": "file", "file": {"file_id": "file-1"}},
        ),
    ],
)
def test_files_are_sent_in_their_place(part: BlobPart | UriPart, item: Any) -> None:
    message = ChatMessage(role="user", parts=(part, TextPart(text="What is it?")))

    body: Any = ChatCompletions(newer=True).encode(
        LLMRequest(model="m", messages=(message,)), stream=False
    )

    assert body["messages"][0]["content"] == [item, {"type": "text", "text": "What is it?"}]


@pytest.mark.parametrize(
    ("role", "part", "words"),
    [
        ("user", BlobPart(media_type="video/mp4", data=b"", name="a.mp4"), "video/mp4 'a.mp4'"),
        ("user", BlobPart(media_type="audio/ogg", data=b""), "audio/ogg"),
        ("user", UriPart(uri="https://x.example/a.pdf", media_type="application/pdf"), "address"),
        ("system", BlobPart(media_type="image/png", data=b""), "role 'system'"),
        ("assistant", BlobPart(media_type="image/png", data=b""), "role 'assistant'"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_by_name(role: Role, part: Any, words: str) -> None:
    request = LLMRequest(model="m", messages=(ChatMessage(role=role, parts=(part,)),))

    with pytest.raises(LLMError, match=words) as caught:
        ChatCompletions(newer=True).encode(request, stream=False)

    assert (caught.value.kind, caught.value.provider) == (LLMErrorKind.BAD_REQUEST, "openai")


@pytest.mark.parametrize("keys", [["a"], []])
def test_a_schema_is_enforced_where_it_can_be(keys: list[str]) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": keys,
        "additionalProperties": False,
    }
    request = REQUEST.model_copy(update={"output": OutputSpec(name="thing", parameters=schema)})

    assert ChatCompletions(newer=True).encode(request, stream=False)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": schema, "strict": bool(keys)},
    }


def test_what_only_one_vendor_knows_is_merged_into_what_is_sent() -> None:
    extra: dict[str, Any] = {
        "stream_options": {"continuous": True},
        "provider": {"order": ["a"]},
        "temperature": 1,
    }
    request = REQUEST.model_copy(update={"extra_body": extra, "temperature": 0.0})

    body = encode_request(request, stream=True, max_tokens_field="max_tokens")

    assert body["stream_options"] == {"include_usage": True, "continuous": True}
    assert (body["provider"], body["temperature"]) == ({"order": ["a"]}, 1)
    assert extra["stream_options"] == {"continuous": True}


# What comes back.


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("content_filter: PROHIBITED_CONTENT", FinishReason.CONTENT_FILTER),
        ("model_length", FinishReason.LENGTH),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("repetition_truncation", FinishReason.LENGTH),
        ("sensitive", FinishReason.CONTENT_FILTER),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("guardrail_intervened", FinishReason.CONTENT_FILTER),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("eos_token", FinishReason.STOP),
        (None, FinishReason.STOP),
    ],
)
def test_every_reason_to_stop_has_one_of_ours(theirs: str | None, ours: FinishReason) -> None:
    assert streamed([delta(content="a"), delta(theirs)]).finish_reason is ours


@pytest.mark.parametrize(
    ("theirs", "kind"),
    [
        ("error", LLMErrorKind.SERVER),
        ("abort", LLMErrorKind.SERVER),
        ("insufficient_system_resource", LLMErrorKind.SERVER),
        ("network_error", LLMErrorKind.SERVER),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", LLMErrorKind.BAD_RESPONSE),
        ("malformed_function_call", LLMErrorKind.BAD_RESPONSE),
    ],
)
def test_an_answer_that_the_server_broke_off_is_none(theirs: str, kind: LLMErrorKind) -> None:
    with pytest.raises(LLMError) as caught:
        streamed([delta(content="a"), delta(theirs)])

    assert caught.value.kind is kind


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
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": "1", "completion_tokens": 1.0}, None),
        (["prompt_tokens"], None),
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
        (  # Kimi.
            {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4},
            Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4),
        ),
        (  # Gemini, while it thinks.
            {"prompt_tokens": 8, "total_tokens": 73},
            Usage(input_tokens=8, output_tokens=65),
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


COUNTS = {"prompt_tokens": 3, "completion_tokens": 4}


@pytest.mark.parametrize(
    "last",
    [
        {"usage": COUNTS, "choices": []},
        # Groq.
        {**delta("stop"), "x_groq": {"id": "req_1", "usage": COUNTS}},
        # Kimi.
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": COUNTS}]},
    ],
)
def test_tokens_are_counted_wherever_the_server_tells_them(last: Any) -> None:
    answer = streamed([{**delta(content="a"), "x_groq": {"id": "req_1"}}, last])

    assert answer.usage == Usage(input_tokens=3, output_tokens=4)


@pytest.mark.parametrize(
    ("name", "signature"), [("reasoning_content", "reasoning_content"), ("reasoning", None)]
)
def test_reasoning_is_kept_apart_from_the_answer(name: str, signature: str | None) -> None:
    response = streamed([delta(**{name: "Hm"}), delta(**{name: "."}), delta("stop", content="Yes")])

    signed_by = "openai" if signature else None
    assert response.message.parts == (
        ReasoningPart(text="Hm.", signature=signature, signed_by=signed_by),
        TextPart(text="Yes"),
    )


def test_text_may_come_as_parts() -> None:
    parts = [{"type": "text", "text": "I "}, {"type": "text", "text": "will."}, 7]

    assert complete(body(content=parts)).text == "I will."


def test_mistral_thinks_in_parts_of_the_text() -> None:
    thinking = [{"type": "text", "text": "Hm"}, {"type": "text", "text": "."}]
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "Yes."}]

    assert complete(body(content=parts)).message.parts == (
        ReasoningPart(text="Hm."),
        TextPart(text="Yes."),
    )


def test_a_refusal_is_text_and_a_reason_to_stop() -> None:
    response = streamed([delta(refusal="I will"), delta("stop", refusal=" not.")])

    assert response == complete(body(refusal="I will not."))
    assert (response.text, response.finish_reason) == ("I will not.", FinishReason.CONTENT_FILTER)


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, "text", {"choices": []}, {"choices": None}, {"choices": {}}, {"id": 7}],
)
def test_an_answer_without_choices_is_a_bad_response(answer: Any) -> None:
    with pytest.raises(LLMError, match="without any choices") as caught:
        complete(answer)

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_a_stream_without_choices_is_a_bad_response() -> None:
    with pytest.raises(LLMError, match="without any choices") as caught:
        streamed([{"id": "x", "choices": []}])

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_azure_tells_a_filtered_prompt_without_any_choices() -> None:
    hate = {"hate": {"filtered": True, "severity": "high"}}
    results = [{"prompt_index": 0, "content_filter_results": hate}]

    with pytest.raises(LLMError, match="filtered the prompt") as caught:
        streamed([{"choices": [], "prompt_filter_results": results}])

    assert caught.value.kind is LLMErrorKind.CONTENT_FILTER


def test_what_azure_tells_first_of_a_good_prompt_is_no_error() -> None:
    hate = {"hate": {"filtered": False, "severity": "safe"}}
    results = [{"prompt_index": 0, "content_filter_results": hate}]

    answer = streamed(
        [{"choices": [], "prompt_filter_results": results}, delta("stop", content="a")]
    )

    assert answer.text == "a"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    assert complete(body(content=None)).message.parts == ()


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
        # Azure.
        (
            {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
            LLMErrorKind.CONTENT_FILTER,
            None,
        ),
    ],
)
def test_an_error_inside_a_good_answer_is_an_error(
    error: Any, kind: LLMErrorKind, status: int | None
) -> None:
    with pytest.raises(LLMError) as caught:
        streamed([delta(content="a"), {"error": error}])

    assert (caught.value.kind, caught.value.status) == (kind, status)


def test_an_object_may_say_that_it_is_an_error() -> None:
    with pytest.raises(LLMError, match="slow down") as caught:
        streamed([{"object": "error", "message": "slow down", "type": "x", "code": 429}])

    assert caught.value.kind is LLMErrorKind.RATE_LIMIT


def test_a_choice_may_tell_the_error_that_ended_it() -> None:
    failed = {"choices": [{"delta": {}, "error": {"code": 502, "message": "gone"}}]}

    with pytest.raises(LLMError, match="gone") as caught:
        streamed([delta(content="a"), failed])

    assert caught.value.kind is LLMErrorKind.SERVER


def test_a_stream_that_ends_without_a_reason_was_cut() -> None:
    with pytest.raises(LLMError, match="cut the stream") as caught:
        streamed([delta(content="a")], said_done=False)

    assert caught.value.kind is LLMErrorKind.NETWORK


FIELDS = (
    "arguments choices completion_tokens content delta error finish_reason function id index "
    "message name prompt_tokens reasoning reasoning_details tool_calls usage"
)
json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS.split()), values, max_size=5)
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_json_whatsoever_makes_it_break_otherwise_than_it_says(anything: Any) -> None:
    with suppress(LLMError):
        complete(anything)
    with suppress(LLMError):
        streamed([anything, {"choices": [anything]}, {"choices": [{"delta": anything}]}])
