"""The Responses format: what we send, and what its answers and streams add up to."""

import json
from collections.abc import Sequence
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
    LLMResponse,
    OutputSpec,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
    Usage,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._events import EventReader
from app.llmgine.llm.providers._failures import Origin
from app.llmgine.llm.providers._responses import Responses
from app.llmgine.llm.providers.openai import OpenAIResponsesProvider
from runtime.llm.deltas import REQUEST, draw_pieces
from runtime.llm.fake_openai import as_event

ORIGIN = Origin("openai-responses", "m")
WIRE = Responses(encrypt=True)
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "gAAA",
}


def message(text: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {**item, "content": content, **fields}


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc_{id_}", "status": "completed"}
    return {**item, "call_id": id_, "name": name, "arguments": arguments}


def whole(*output: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m-1",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "output": list(output),
        "usage": USAGE,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        **fields,
    }


def complete(body: Any) -> LLMResponse:
    return accumulate(WIRE.decode(body, REQUEST, ORIGIN))


def streamed(events: Sequence[Any], *, said_done: bool = False) -> LLMResponse:
    decoder = WIRE.decoder(REQUEST, ORIGIN)
    chunks = [chunk for event in events for chunk in decoder.feed(event)]
    return accumulate([*chunks, *decoder.end(said_done=said_done)])


def encode(*messages: ChatMessage, **fields: Any) -> dict[str, Any]:
    request = LLMRequest(model="m", messages=messages, **fields)
    body: dict[str, Any] = WIRE.encode(request, stream=False)
    return body


# What is sent.


def test_a_whole_conversation_is_spelled_as_the_format_wants_it() -> None:
    find = ToolCall(id="c1", name="find", arguments='{"q": "tea"}')
    result = ToolResult(call_id="c1", name="find", status=ToolStatus.OK, content="shelf")
    request = LLMRequest(
        model="gpt-5.1",
        messages=(
            ChatMessage.system("Be brief."),
            ChatMessage.user("Where is tea?"),
            ChatMessage.assistant("Wait.", find),
            ChatMessage.tool(result),
        ),
        tools=(ToolSpec(name="find", description="Find.", parameters={"type": "object"}),),
        tool_choice="required",
        output=OutputSpec(name="place", parameters={"type": "object", "minProperties": 1}),
        max_output_tokens=50,
        temperature=0.0,
        seed=7,
        extra_body={"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, "store": True},
    )

    assert WIRE.encode(request, stream=True) == {
        "model": "gpt-5.1",
        "input": [
            {"type": "message", "role": "system", "content": "Be brief."},
            {"type": "message", "role": "user", "content": "Where is tea?"},
            {"type": "message", "role": "assistant", "content": "Wait."},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "find",
                "arguments": '{"q": "tea"}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "shelf"},
        ],
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "tools": [
            {
                "type": "function",
                "name": "find",
                "description": "Find.",
                "parameters": {"type": "object", "properties": {}},
                "strict": False,
            }
        ],
        "tool_choice": "required",
        "text": {
            "format": {
                "type": "json_schema",
                "name": "place",
                "schema": {"type": "object", "minProperties": 1},
                "strict": False,
            },
            "verbosity": "low",
        },
        "max_output_tokens": 50,
        "temperature": 0.0,
        "reasoning": {"effort": "low"},
        "stream": True,
    }


@pytest.mark.parametrize(
    ("address", "model", "asked"),
    [
        ("https://api.openai.com/v1", "gpt-5.1", True),
        ("https://api.openai.com/v1", "o3-mini", True),
        ("https://api.openai.com/v1", "ft:o4-mini:me", True),
        ("https://mine.openai.azure.com/openai/v1", "our-gpt-5", True),
        # These answer: "Encrypted content is not supported with this model."
        ("https://api.openai.com/v1", "gpt-4o-mini", False),
        ("https://api.openai.com/v1", "gpt-5-chat-latest", False),
        ("https://mine.openai.azure.com/openai/v1", "prod1", False),
        ("http://localhost:11434/v1", "gpt-5.1", False),
    ],
)
def test_nothing_is_stored_and_what_a_model_thought_is_asked_for_where_it_is_encrypted(
    address: str, model: str, asked: bool
) -> None:
    request = REQUEST.model_copy(update={"model": model})
    body = OpenAIResponsesProvider("sk-x", address)._wire.encode(request, stream=False)

    included = ["reasoning.encrypted_content"] if asked else None
    assert (body["store"], body.get("include")) == (False, included)


def test_what_the_model_thought_goes_back_as_it_came_and_where_it_stood() -> None:
    thought = {**THOUGHT, "status": "completed"}
    answer = complete(whole(thought, message("Wait."), call("c1", "find", "{}")))

    sent = encode(answer.message)["input"]

    assert answer.message.parts[0] == ReasoningPart(
        text="Hm.", signature=json.dumps(THOUGHT, sort_keys=True), signed_by="openai-responses"
    )
    assert [item["type"] for item in sent] == ["reasoning", "message", "function_call"]
    assert sent[0] == THOUGHT


def test_thoughts_that_led_to_nothing_do_not_go_back() -> None:
    answer = complete(whole(THOUGHT, status="incomplete")).message

    assert encode(answer, ChatMessage.user("Go on."))["input"] == [
        {"type": "message", "role": "user", "content": "Go on."}
    ]


@pytest.mark.parametrize(
    "part",
    [
        ReasoningPart(text="Hm."),
        ReasoningPart(text="Hm.", signature='{"type": "thinking"}', signed_by="anthropic"),
        ReasoningPart(text="Hm.", signature="no JSON", signed_by="openai-responses"),
    ],
)
def test_thoughts_that_the_server_did_not_sign_stay_here(part: ReasoningPart) -> None:
    sent = encode(ChatMessage(role="assistant", parts=(part, TextPart(text="Yes."))))["input"]

    assert sent == [{"type": "message", "role": "assistant", "content": "Yes."}]


def test_thoughts_that_the_server_would_look_up_are_not_signed() -> None:
    summary_alone = {**THOUGHT, "encrypted_content": None}

    assert complete(whole(summary_alone)).message.parts == (ReasoningPart(text="Hm."),)


@pytest.mark.parametrize(
    ("part", "item"),
    [
        (
            BlobPart(media_type="image/png", data=b"\x00\xff"),
            {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AP8="},
        ),
        (
            UriPart(uri="https://x.example/a.png", media_type="image/png"),
            {"type": "input_image", "detail": "auto", "image_url": "https://x.example/a.png"},
        ),
        (
            UriPart(uri="file-1", media_type="image/png"),
            {"type": "input_image", "detail": "auto", "file_id": "file-1"},
        ),
        (
            BlobPart(media_type="application/pdf", data=b"%", name="a.pdf"),
            {
                "type": "input_file",
                "filename": "a.pdf",
                "file_data": "data:application/pdf;base64,JQ==",
            },
        ),
        (
            UriPart(uri="https://x.example/a.pdf", media_type="application/pdf"),
            {"type": "input_file", "file_url": "https://x.example/a.pdf"},
        ),
        (
            UriPart(uri="file-1", media_type="application/pdf"),
            {"type": "input_file", "file_id": "file-1"},
        ),
    ],
)
def test_files_are_sent_in_their_place(part: BlobPart | UriPart, item: Any) -> None:
    sent = encode(ChatMessage.user("Look:", part))["input"]

    assert sent[0]["content"] == [{"type": "input_text", "text": "Look:"}, item]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (ChatMessage.user("", BlobPart(media_type="audio/wav", data=b"")), "audio/wav"),
        (ChatMessage.user("", UriPart(uri="https://x.example/a", media_type="video/mp4")), "mp4"),
        (
            ChatMessage(role="assistant", parts=(UriPart(uri="x", media_type="image/png"),)),
            "'assistant'",
        ),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_by_name(message: ChatMessage, words: str) -> None:
    with pytest.raises(LLMError, match=words) as caught:
        encode(message)

    assert caught.value.kind is LLMErrorKind.BAD_REQUEST


def test_a_request_to_stop_at_a_text_is_refused_for_the_answer_would_be_another() -> None:
    with pytest.raises(LLMError, match="stop") as caught:
        encode(ChatMessage.user("hi"), stop=("END",))

    assert (caught.value.kind, caught.value.provider) == (
        LLMErrorKind.BAD_REQUEST,
        "openai-responses",
    )


# What comes back.


def test_a_whole_answer_keeps_its_order_and_its_counts() -> None:
    body = whole(THOUGHT, message("Wait."), {"type": "web_search_call"}, call("c1", "f", "{}"))

    response = complete(body)

    assert response.message.parts[1:] == (
        TextPart(text="Wait."),
        ToolCall(id="c1", name="f", arguments="{}"),
    )
    assert (response.id, response.model) == ("resp_1", "m-1")
    assert response.finish_reason is FinishReason.TOOL_CALL
    assert response.usage == Usage(
        input_tokens=10,
        output_tokens=5,
        cache_read_tokens=4,
        cache_write_tokens=3,
        reasoning_tokens=2,
    )


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": True, "output_tokens": 1}, [], "5"])
def test_counts_that_are_none_are_not_made_up(usage: Any) -> None:
    assert complete(whole(usage=usage)).usage is None


REFUSAL = message("", content=[{"type": "refusal", "refusal": "No."}])


@pytest.mark.parametrize(
    ("fields", "output", "ours"),
    [
        ({}, message("a"), FinishReason.STOP),
        ({"status": None}, message("a"), FinishReason.STOP),
        ({}, call("c", "f", "{}"), FinishReason.TOOL_CALL),
        ({}, REFUSAL, FinishReason.CONTENT_FILTER),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            call("c", "f", '{"x": '),
            FinishReason.LENGTH,
        ),
        ({"status": "incomplete"}, message("a"), FinishReason.LENGTH),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            message("a"),
            FinishReason.CONTENT_FILTER,
        ),
    ],
)
def test_every_status_is_a_reason_to_stop(fields: Any, output: Any, ours: FinishReason) -> None:
    response = complete(whole(output, **fields))

    assert response.finish_reason is ours
    assert all(part.arguments == output["arguments"] for part in response.tool_calls)


def test_a_refusal_is_text() -> None:
    assert complete(whole(REFUSAL)).text == "No."


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "x"}, "rate_limit"),
        ({"type": "error", "error": {"type": "invalid_request_error"}}, "bad_request"),
        (
            {
                "type": "response.failed",
                "response": whole(status="failed", error={"code": "server_error", "message": "x"}),
            },
            "server",
        ),
        ({"type": "response.failed", "response": {}}, "server"),
        (
            {
                "type": "response.failed",
                "response": {"error": {"code": "invalid_prompt", "message": "x"}},
            },
            "bad_request",
        ),
        (
            {"type": "response.failed", "response": {"error": {"code": "bio_policy"}}},
            "content_filter",
        ),
        ({"type": "response.completed", "response": {"status": "cancelled"}}, "bad_response"),
        ({"type": "response.completed", "response": {}}, "bad_response"),
        (
            {
                "type": "response.completed",
                "response": whole({**call("c", "f", "{}"), "name": ""}),
            },
            "bad_response",
        ),
    ],
)
def test_an_answer_that_failed_is_an_error(event: Any, kind: str) -> None:
    with pytest.raises(LLMError) as caught:
        streamed([event])

    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (whole(status="failed", error={"code": "rate_limit_exceeded"}), "rate_limit"),
        (whole(status="failed"), "server"),
        (whole(status="in_progress"), "bad_response"),
        (whole(output=None), "bad_response"),
        ({}, "bad_response"),
        ([], "bad_response"),
    ],
)
def test_a_body_that_is_no_answer_is_an_error(body: Any, kind: str) -> None:
    with pytest.raises(LLMError) as caught:
        complete(body)

    assert caught.value.kind == kind


@pytest.mark.parametrize("said_done", [True, False])
def test_a_stream_without_its_last_event_was_cut(said_done: bool) -> None:
    begun = {"type": "response.output_text.delta", "delta": "a"}

    with pytest.raises(LLMError, match="cut the stream") as caught:
        streamed([begun], said_done=said_done)

    assert caught.value.kind is LLMErrorKind.NETWORK


def test_an_answer_whose_ids_change_with_every_event_is_told_once() -> None:
    item, other = {**message("Hi"), "id": "x"}, {**message("Hi"), "id": "y"}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "z", "delta": "Hi"},
        {"type": "response.output_item.done", "output_index": 0, "item": other},
        {"type": "response.completed", "response": whole(message("Hi"))},
    ]

    assert streamed(events).text == "Hi"


def test_items_that_share_an_index_are_told_apart_by_their_ids() -> None:
    text = {**message("Hi"), "id": "m"}
    items = [text, {**call("c1", "f", '{"x": 1}'), "id": "f"}, {**call("c2", "g", "{}"), "id": "g"}]
    kinds = ["output_text", "function_call_arguments", "function_call_arguments"]
    events: list[Any] = []
    for item, kind, told in zip(items, kinds, ["Hi", '{"x": 1}', "{}"], strict=True):
        begun = {**item, "content": [], "arguments": ""}
        events += [
            {"type": "response.output_item.added", "output_index": 0, "item": begun},
            {"type": f"response.{kind}.delta", "output_index": 0}
            | {"item_id": item["id"], "delta": told},
        ]
    for item in items:
        events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": whole(*items)})

    assert streamed(events) == complete(whole(*items))


def test_text_is_told_as_soon_as_it_is_there() -> None:
    decoder = WIRE.decoder(REQUEST, ORIGIN)

    added = {"type": "response.output_item.added", "output_index": 0, "item": message("")}
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"}

    assert [len(list(decoder.feed(event))) for event in (added, delta)] == [0, 1]


# The law.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
messages = st.builds(
    lambda parts: message("", content=parts),
    st.lists(
        st.builds(lambda text: {"type": "output_text", "text": text, "annotations": []}, texts)
        | st.builds(lambda text: {"type": "refusal", "refusal": text}, texts),
        max_size=2,
    ),
)
thoughts = st.builds(
    lambda summary, content, encrypted: {
        "type": "reasoning",
        "id": "rs",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
        "content": [{"type": "reasoning_text", "text": text} for text in content],
        "encrypted_content": encrypted,
    },
    st.lists(texts, max_size=3),
    st.lists(texts, max_size=2),
    st.none() | texts,
)
calls = st.builds(call, st.sampled_from(["", "a", "b"]), st.sampled_from(["f", "g"]), texts)
others = st.just({"type": "web_search_call", "id": "ws", "status": "completed"})
outputs = st.lists(messages | thoughts | calls | others, max_size=5)


def draw_deltas(data: st.DataObject, index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of one item; some servers leave out the deltas."""
    kinds = {
        "output_text": ("response.output_text.delta", "content_index", "text"),
        "refusal": ("response.refusal.delta", "content_index", "refusal"),
        "summary_text": ("response.reasoning_summary_text.delta", "summary_index", "text"),
        "reasoning_text": ("response.reasoning_text.delta", "content_index", "text"),
    }
    deltas = []
    for parts in (item.get("summary", []), item.get("content", [])):
        for place, part in enumerate(parts):
            type_, index_name, field = kinds[part["type"]]
            deltas += [
                {"type": type_, index_name: place, "delta": piece}
                for piece in draw_pieces(data, part[field])
            ]
    deltas += [
        {"type": "response.function_call_arguments.delta", "delta": piece}
        for piece in draw_pieces(data, item.get("arguments", ""))
    ]
    kept = deltas[: data.draw(st.sampled_from([len(deltas), 1, 0]))]
    empty = {**item, "content": [], "summary": [], "arguments": "", "encrypted_content": "half"}
    done = {"type": "response.output_item.done", "item": item}
    return [
        {**event, "output_index": index, "item_id": item["id"]}
        for event in (
            {"type": "response.output_item.added", "item": empty},
            *kept,
            *data.draw(st.sampled_from([[done], []])),
        )
    ]


def draw_events(data: st.DataObject, items: list[Any]) -> list[Any]:
    """The events of all items: each begins after the one before it, and they may overlap."""
    queues = [draw_deltas(data, index, item) for index, item in enumerate(items)]
    events = []
    begun = 0
    while ready := [index for index, queue in enumerate(queues[: begun + 1]) if queue]:
        index = data.draw(st.sampled_from(ready))
        events.append(queues[index].pop(0))
        begun = max(begun, index + 1)
    return events


@given(outputs, st.sampled_from(["completed", "incomplete"]), st.booleans(), st.data())
def test_a_stream_spells_the_whole_answer_however_it_is_cut_and_mixed(
    items: list[Any], status: str, tells_output: bool, data: st.DataObject
) -> None:
    items = [{**item, "id": f"item_{index}"} for index, item in enumerate(items)]
    body = whole(*items, status=status)
    events = draw_events(data, items)
    told = {event["output_index"] for event in events if "item.done" in event["type"]}
    tells_output = tells_output or not items or len(told) < len(items)
    last = {**body, "output": items if tells_output else None}
    ended: dict[str, Any] = {"type": f"response.{status}", "response": last}
    created = {"type": "response.created", "response": {**body, "output": []}}
    sent = b"".join(as_event(event) for event in [created, *events, ended])
    reader = EventReader(100_000)
    received = [e for piece in draw_pieces(data, sent) for e in reader.feed(piece)]

    assert streamed([json.loads(event) for event in received]) == complete(body)


def test_what_is_tested_here_is_what_the_vendor_sends() -> None:
    types = pytest.importorskip("openai.types.responses")

    types.Response.model_validate(whole(THOUGHT, message("a"), REFUSAL, call("c", "f", "{}")))


FIELDS = (
    "arguments call_id code content delta encrypted_content error id incomplete_details item "
    "message name output output_index reason response status summary text type usage"
)
TYPES = (
    "message reasoning function_call output_text refusal error response.completed response.failed "
    "response.output_item.added response.output_item.done response.output_text.delta "
    "response.function_call_arguments.delta response.reasoning_text.delta completed incomplete"
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(TYPES.split()) | st.text(),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS.split()), values, max_size=5)
    ),
    max_leaves=12,
)


@given(json_values, st.lists(json_values, max_size=4))
def test_no_json_whatsoever_makes_it_break_otherwise_than_it_says(
    anything: Any, events: list[Any]
) -> None:
    with suppress(LLMError):
        complete(anything)
    with suppress(LLMError):
        complete(whole(anything))
    with suppress(LLMError):
        streamed([*events, {"type": "response.completed", "response": anything}])
