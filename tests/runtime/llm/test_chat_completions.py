"""The Chat Completions format: what we send, and every way in which servers bend what they send."""

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
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._chat_completions import (
    StreamDecoder,
    complete,
    decode_usage,
    encode_request,
)
from app.llmgine.llm.providers._failures import Origin
from app.llmgine.llm.providers._sse import EventReader
from runtime.llm.fake_openai import as_event

REQUEST = LLMRequest(model="m", messages=(ChatMessage.user("hi"),))
ORIGIN = Origin("openai", "m")


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
    "events",
    [
        # As OpenAI does it: interleaved, with the id and the name in the first delta.
        [
            call_delta(index=0, id="a", function={"name": "f", "arguments": ""}),
            call_delta(index=1, id="b", function={"name": "g", "arguments": ""}),
            call_delta(index=1, function={"arguments": '{"y":'}),
            call_delta(index=0, function={"arguments": '{"x":'}),
            call_delta(index=1, function={"arguments": " 2}"}),
            call_delta(index=0, function={"arguments": " 1}"}),
        ],
        # The second call first.
        [
            call_delta(index=1, id="b", function={"name": "g", "arguments": '{"y": 2}'}),
            call_delta(index=0, id="a", function={"name": "f", "arguments": '{"x": 1}'}),
        ],
        # Counted from one.
        [
            call_delta(index=1, id="a", function={"name": "f", "arguments": '{"x": 1}'}),
            call_delta(index=2, id="b", function={"name": "g", "arguments": '{"y": 2}'}),
        ],
        # The name, then the id, arrive late.
        [
            call_delta(index=0, function={"arguments": '{"x": '}),
            call_delta(index=0, function={"name": "f", "arguments": "1"}),
            call_delta(index=0, id="a", function={"arguments": "}"}),
            call_delta(index=1, id="b", function={"name": "g", "arguments": '{"y": 2}'}),
        ],
        # Everything repeated in each delta, and a new id where none belongs.
        [
            call_delta(index=0, id="a", function={"name": "f", "arguments": '{"x":'}),
            call_delta(index=0, id="a", function={"name": "f", "arguments": " 1}"}),
            call_delta(index=1, id="b", function={"name": "g", "arguments": '{"y":'}),
            call_delta(index=1, id="other", function={"arguments": " 2}"}),
        ],
        # Without an index: by id, or else the newest.
        [
            call_delta(id="a", function={"name": "f", "arguments": '{"x":'}),
            call_delta(function={"arguments": " 1}"}),
            call_delta(id="b", function={"name": "g", "arguments": '{"y":'}),
            call_delta(id="b", function={"arguments": " 2}"}),
        ],
        # Each whole, and all with the same index.
        [
            call_delta(index=0, id="a", function={"name": "f", "arguments": '{"x": 1}'}),
            call_delta(index=0, id="b", function={"name": "g", "arguments": '{"y": 2}'}),
        ],
        # Both in one delta; the arguments as an object; an index of null.
        [
            delta(
                tool_calls=[
                    {"index": None, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
                    {"id": "b", "function": {"name": "g", "arguments": '{"y": 2}'}},
                ]
            ),
        ],
    ],
    ids=["usual", "reversed", "from one", "late", "repeated", "no index", "one index", "at once"],
)
def test_ragged_tool_calls_are_put_together(events: list[Any]) -> None:
    response = streamed([*events, delta("tool_calls")])

    assert response.tool_calls == (
        ToolCall(id="a", name="f", arguments='{"x": 1}'),
        ToolCall(id="b", name="g", arguments='{"y": 2}'),
    )


def test_calls_without_ids_get_some_that_are_the_same_whole_or_streamed() -> None:
    functions = [{"name": "f", "arguments": "{}"}, {"name": "f", "arguments": "{}"}]
    whole = body(tool_calls=[{"function": function} for function in functions])

    one = complete(whole, REQUEST, ORIGIN).tool_calls
    other = streamed([call_delta(function=function) for function in functions]).tool_calls
    later = REQUEST.model_copy(update={"messages": (*REQUEST.messages, ChatMessage.user("more"))})
    next_turn = complete(whole, later, ORIGIN).tool_calls

    assert one == other
    assert len({call.id for call in (*one, *next_turn)}) == 4


def test_two_calls_never_share_an_id() -> None:
    calls = [{"id": "a", "function": {"name": name, "arguments": "{}"}} for name in "fg"]

    first, second = complete(body(tool_calls=calls), REQUEST, ORIGIN).tool_calls

    assert (first.name, second.name, first.id) == ("f", "g", "a")
    assert second.id not in ("", "a")


@pytest.mark.parametrize("arguments", ['{"x": ', "not json", '{"a":1,"a":2}', " \u0000 ", ""])
def test_arguments_are_passed_on_exactly_as_the_model_wrote_them(arguments: str) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}

    assert complete(body(tool_calls=[call]), REQUEST, ORIGIN).tool_calls[0].arguments == arguments


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


# Ids repeat or are missing, so that both are part of the law.
ids = st.none() | st.sampled_from(["a", "b", "c"])
names = st.sampled_from(["current_time", "save_note"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
calls = st.lists(st.tuples(ids, names, texts), max_size=4)


def draw_pieces(data: st.DataObject, text: Any) -> list[Any]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def draw_interleaving(data: st.DataObject, queues: list[list[Any]]) -> list[Any]:
    merged = []
    while queues := [queue for queue in queues if queue]:
        merged.append(data.draw(st.sampled_from(queues)).pop(0))
    return merged


def draw_call(data: st.DataObject, index: int, call: tuple[str | None, str, str]) -> list[Any]:
    """The deltas of one call: its arguments in pieces, its id and name in any of them."""
    id_, name, arguments = call
    deltas: list[Any] = [
        {"index": index, "function": {"arguments": piece}} for piece in draw_pieces(data, arguments)
    ]
    data.draw(st.sampled_from(deltas))["function"]["name"] = name
    if id_ is not None:
        data.draw(st.sampled_from(deltas))["id"] = id_
    return deltas


@given(calls, texts, texts, st.booleans(), st.data())
def test_a_stream_spells_the_whole_answer_however_it_is_cut_and_mixed(
    calls: list[tuple[str | None, str, str]],
    text: str,
    reasoning: str,
    usage: bool,
    data: st.DataObject,
) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4} if usage else None
    spelled = [{"id": i, "function": {"name": n, "arguments": a}} for i, n, a in calls]
    whole = body(content=text or None, reasoning=reasoning, tool_calls=spelled) | {"usage": counts}

    deltas = [delta(reasoning=piece) for piece in draw_pieces(data, reasoning)]
    deltas += [delta(content=piece) for piece in draw_pieces(data, text)]
    queues = [draw_call(data, index, call) for index, call in enumerate(calls)]
    deltas += [delta(tool_calls=[item]) for item in draw_interleaving(data, queues)]
    events = [*deltas, delta("stop"), {"id": "x", "choices": [], "usage": counts}]
    sent = b"".join(as_event(event) for event in events)
    reader = EventReader(100_000)
    received = [e for piece in draw_pieces(data, sent) for e in reader.feed(piece)]

    assert streamed([json.loads(event) for event in received]) == complete(whole, REQUEST, ORIGIN)
