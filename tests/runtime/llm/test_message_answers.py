"""What Anthropic's Messages API answers, as our contracts: whole or streamed, the same."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    LLMResponse,
    ReasoningDelta,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    Usage,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._messages import Messages
from runtime import strategies
from runtime.llm.message_events import (
    HI,
    REQUEST,
    USAGE,
    answer,
    begin,
    block,
    call_block,
    chunks,
    finish,
    streamed,
    text_block,
    whole,
)


def test_a_stream_is_heard_piece_by_piece_and_adds_up_to_the_answer() -> None:
    events = [
        begin(usage={"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}),
        {"type": "ping"},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "H"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        *text_block(1, "Let me ", "see."),
        *call_block(2, "", '{"query":', '"tea"}'),
        *call_block(3, '{"query": "milk"}'),
        *finish("tool_use", output_tokens=7),
    ]

    assert streamed(events) == LLMResponse(
        id="msg_1",
        model="claude-x-1",
        provider="anthropic",
        message=ChatMessage(
            role="assistant",
            parts=(
                ReasoningPart(text="Hm", signature="c2ln", signed_by="anthropic"),
                TextPart(text="Let me see."),
                ToolCall(id="toolu_2", name="find", arguments='{"query":"tea"}'),
                ToolCall(id="toolu_3", name="find", arguments='{"query": "milk"}'),
            ),
        ),
        finish_reason=FinishReason.TOOL_CALL,
        usage=Usage(input_tokens=100, output_tokens=7, cache_read_tokens=90),
    )
    assert ReasoningDelta(text="H") in chunks(events)
    assert ToolCallArgumentsDelta(index=0, text='{"query":') in chunks(events)


def test_thinking_goes_back_as_it_came() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "thinking", "thinking": "", "signature": "b3RoZXI="},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "Yes."},
        {"type": "thinking", "thinking": "And", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"query": "tea"}},
    ]

    again = LLMRequest(model="m", messages=(whole(answer(*blocks)).message,))
    body: Any = Messages().encode(again, stream=False)

    assert body["messages"] == [{"role": "assistant", "content": blocks}]


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("pause_turn", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("something_new", FinishReason.STOP),
    ],
)
def test_every_reason_to_stop_is_one_of_ours(reason: str, ours: FinishReason) -> None:
    assert whole(answer(stop_reason=reason)).finish_reason is ours
    assert streamed([begin(), *finish(reason)]).finish_reason is ours


@pytest.mark.parametrize(
    ("usage", "ours"),
    [
        (USAGE, Usage(input_tokens=10, output_tokens=7)),
        (
            {
                **USAGE,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 4},
            },
            Usage(
                input_tokens=15,
                output_tokens=7,
                cache_read_tokens=3,
                cache_write_tokens=2,
                reasoning_tokens=4,
            ),
        ),
        (
            {
                **USAGE,
                "cache_read_input_tokens": None,
                "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            },
            Usage(input_tokens=15, output_tokens=7, cache_write_tokens=5),
        ),
        ({"input_tokens": 10}, None),
        ({"output_tokens": 7}, None),
        (None, None),
        ("many", None),
    ],
)
def test_the_input_counts_what_was_read_from_and_written_to_the_cache(
    usage: Any, ours: Usage | None
) -> None:
    assert whole(answer(usage=usage)).usage == ours


def test_later_counts_include_the_earlier_ones() -> None:
    early: dict[str, Any] = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 4,
        "output_tokens": 1,
    }
    late: dict[str, Any] = {
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_creation_input_tokens": None,
    }

    assert streamed([begin(usage=early), *finish(**late)]).usage == Usage(
        input_tokens=14, output_tokens=7, cache_write_tokens=4
    )


def test_what_had_been_written_at_the_beginning_is_not_what_was_written() -> None:
    assert (
        streamed([begin(usage={"input_tokens": 10, "output_tokens": 1}), *finish()]).usage is None
    )


def test_blocks_and_events_that_are_not_known_are_passed_over() -> None:
    search = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    citation = {"type": "citations_delta", "citation": {"cited_text": "x"}}
    events = [
        begin(),
        *block(0, search, {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
        *block(1, {"type": "hologram"}, {"type": "text_delta", "text": "x"}),
        {"type": "fanfare"},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}},
        *block(2, {"type": "text", "text": ""}, citation, {"type": "text_delta", "text": "Tea."}),
        *finish(),
    ]

    assert streamed(events).message == ChatMessage.assistant("Tea.")
    assert whole(answer(search, {"type": "hologram", "text": "x"}, 7)).message.parts == ()


# The arguments of calls.


@pytest.mark.parametrize(
    "written", ['{"a" : 1.0}', '{"a":1,"a":2}', '{"é": "\\u00e9"}', '{"a": ', "nonsense", " {}"]
)
def test_arguments_are_passed_on_exactly_as_the_model_wrote_them(written: str) -> None:
    events = [begin(), *call_block(0, written[:3], written[3:]), *finish("tool_use")]

    assert streamed(events).tool_calls[0].arguments == written


def test_a_call_that_was_cut_stays_exactly_as_far_as_it_came() -> None:
    response = streamed([begin(), *call_block(0, '{"query": "te'), *finish("max_tokens")])

    assert response.finish_reason is FinishReason.LENGTH
    assert response.tool_calls[0].arguments == '{"query": "te'


@pytest.mark.parametrize("pieces", [(), ("",)])
def test_a_call_without_arguments_has_an_empty_object_unless_it_was_cut(
    pieces: Sequence[str],
) -> None:
    done = streamed([begin(), *call_block(0, *pieces), *finish("tool_use")])
    cut = streamed(
        [begin(), *call_block(0, *pieces), *call_block(1, *pieces), *finish("max_tokens")]
    )

    assert [call.arguments for call in done.tool_calls] == ["{}"]
    assert [call.arguments for call in cut.tool_calls] == ["{}", ""]


def test_a_call_may_begin_with_all_its_arguments() -> None:
    events = [begin(), *call_block(0, input={"query": "tea"}), *finish("tool_use")]

    assert streamed(events).tool_calls[0].arguments == '{"query": "tea"}'


def test_calls_without_an_id_or_with_the_same_get_one_each() -> None:
    call = {"type": "tool_use", "name": "find", "input": {}}
    body = answer(call, call, {**call, "id": "a"}, {**call, "id": "a"})
    later = REQUEST.model_copy(update={"messages": (HI, HI)})

    ids = [call.id for call in (*whole(body).tool_calls, *whole(body, later).tool_calls[:2])]

    assert whole(body) == whole(body)
    assert ids[2] == "a"
    assert len(set(ids)) == 6
    assert all(ids)


@pytest.mark.parametrize("take_turns", [False, True])
def test_the_pieces_of_parallel_calls_may_take_turns(take_turns: bool) -> None:
    first, second = call_block(0, '{"a":', " 1}"), call_block(1, '{"b":', " 2}")
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]

    response = streamed(
        [begin(), *(mixed if take_turns else [*first, *second]), *finish("tool_use")]
    )

    assert [call.arguments for call in response.tool_calls] == ['{"a": 1}', '{"b": 2}']


# Failures.


@pytest.mark.parametrize("body", [{}, [], None, "text", {"content": None}, {"choices": [{}]}])
def test_an_answer_without_content_is_a_bad_response(body: Any) -> None:
    with pytest.raises(LLMError, match="without any content") as caught:
        whole(body)

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_a_call_of_no_tool_is_a_bad_response() -> None:
    with pytest.raises(LLMError, match="without its name") as caught:
        streamed([begin(), *call_block(0, "{}", name=""), *finish("tool_use")])

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    assert whole(answer()).message.parts == ()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_stream_that_stops_before_its_reason_to_stop_was_cut(count: int) -> None:
    events = [begin(), *text_block(0, "Tea."), *finish()]

    with pytest.raises(LLMError, match="cut the stream") as caught:
        chunks(events[:count])

    assert caught.value.kind is LLMErrorKind.NETWORK


@pytest.mark.parametrize(
    ("type_", "kind", "status"),
    [
        ("overloaded_error", LLMErrorKind.SERVER, 529),
        ("api_error", LLMErrorKind.SERVER, 500),
        ("rate_limit_error", LLMErrorKind.RATE_LIMIT, 429),
        ("authentication_error", LLMErrorKind.AUTHENTICATION, 401),
        ("billing_error", LLMErrorKind.AUTHENTICATION, 402),
        ("permission_error", LLMErrorKind.AUTHENTICATION, 403),
        ("not_found_error", LLMErrorKind.BAD_REQUEST, 404),
        ("request_too_large", LLMErrorKind.CONTEXT_LENGTH, 413),
        ("invalid_request_error", LLMErrorKind.BAD_REQUEST, 400),
        ("timeout_error", LLMErrorKind.TIMEOUT, 504),
        ("some_new_error", LLMErrorKind.SERVER, None),
    ],
)
def test_an_error_in_a_stream_has_the_status_of_its_type(
    type_: str, kind: LLMErrorKind, status: int | None
) -> None:
    error = {"type": "error", "error": {"type": type_, "message": "Oh no"}}

    for events in ([error], [begin(), *text_block(0, "a"), error]):
        with pytest.raises(LLMError, match="Oh no") as caught:
            chunks(events)

        assert (caught.value.kind, caught.value.status) == (kind, status)


FIELDS = (
    "cache_creation content content_block delta error id index input input_tokens message model "
    "name output_tokens output_tokens_details partial_json signature stop_reason text thinking "
    "type usage"
)
TYPES = (
    "content_block_delta content_block_start content_block_stop error input_json_delta "
    "message_delta message_start message_stop redacted_thinking signature_delta text text_delta "
    "thinking thinking_delta tool_use"
)
json_values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.sampled_from(TYPES.split()),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(FIELDS.split()), values),
)


@given(json_values, st.sampled_from(TYPES.split()), st.sampled_from(FIELDS.split()))
def test_no_json_whatsoever_makes_it_break_otherwise_than_it_says(
    anything: Any, type_: str, field: str
) -> None:
    named = {"type": type_, field: anything}
    bodies = [anything, answer(anything), answer(named), {**answer(), field: anything}]
    for body in bodies:
        with suppress(LLMError):
            whole(body)
    for events in (
        [anything],
        [begin(), named, *finish()],
        [begin(), *block(0, named, named), *finish()],
        [begin(), *block(0, {"type": "tool_use", field: anything}, named), *finish()],
    ):
        with suppress(LLMError):
            chunks(events, said_done=True)


# The law.

base64_texts = st.text("abcXYZ019+/=", min_size=1, max_size=8)
objects = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3)
blocks = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=20)),
    st.builds(
        lambda text, signature: {"type": "thinking", "thinking": text, "signature": signature},
        st.text(max_size=20),
        st.just("") | base64_texts,
    ),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, base64_texts),
    st.builds(
        lambda id_, input_: {"type": "tool_use", "id": id_, "name": "find", "input": input_},
        st.sampled_from(["toolu_1", "toolu_2", ""]),
        objects,
    ),
    st.builds(lambda input_: {"type": "server_tool_use", "id": "s", "input": input_}, objects),
)
usages = st.fixed_dictionaries(
    {"input_tokens": strategies.counts, "output_tokens": strategies.counts},
    optional={"cache_read_input_tokens": strategies.counts},
)
answers = st.builds(
    lambda content, reason, usage: answer(*content, stop_reason=reason, usage=usage),
    st.lists(blocks, max_size=5),
    st.sampled_from(["end_turn", "tool_use", "max_tokens", "refusal"]),
    st.none() | usages,
)


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def events_of(body: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """What the answer would have been streamed as, in pieces of this many characters."""
    usage = body["usage"]
    begun = {"usage": {**usage, "output_tokens": 1}} if usage else {}
    events = [begin(**begun)]
    for index, sent in enumerate(body["content"]):
        match sent["type"]:
            case "text":
                events += text_block(index, *pieces(sent["text"], size))
            case "thinking":
                thought = pieces(sent["thinking"], size)
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in thought]
                signed = {"type": "signature_delta", "signature": sent["signature"]}
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                events += block(index, empty, *deltas, signed)
            case "redacted_thinking":
                events += block(index, sent)
            case type_:
                written = json.dumps(sent["input"], ensure_ascii=False) if sent["input"] else ""
                fields = {**sent, "type": type_, "input": {}}
                events += call_block(index, "", *pieces(written, size), **fields)
    return [*events, *finish(body["stop_reason"], **(usage or {}))]


@given(answers, st.integers(1, 9))
def test_a_stream_adds_up_to_the_whole_answer(body: dict[str, Any], size: int) -> None:
    assert streamed(events_of(body, size)) == whole(body)
