"""Tool calls come whole or in deltas, and raggedly: they always add up to the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import ChatMessage, FinishReason, ToolCall
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers._events import EventReader
from runtime.llm.deltas import (
    REQUEST,
    body,
    call_delta,
    complete,
    delta,
    draw_pieces,
    streamed,
)
from runtime.llm.fake_openai import as_event


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

    one = complete(whole).tool_calls
    other = streamed([call_delta(function=function) for function in functions]).tool_calls
    later = REQUEST.model_copy(update={"messages": (*REQUEST.messages, ChatMessage.user("more"))})
    next_turn = complete(whole, later).tool_calls

    assert one == other
    assert len({call.id for call in (*one, *next_turn)}) == 4


@pytest.mark.parametrize("id_", [{}, {"id": ""}])
@pytest.mark.parametrize("names", ["fg", "ff"])
def test_whole_calls_may_share_an_index_and_lack_an_id(names: str, id_: dict[str, Any]) -> None:
    functions = [
        {"name": name, "arguments": arguments}
        for name, arguments in zip(names, ["{}", '{"x": 1}'], strict=True)
    ]

    response = streamed([call_delta(index=0, **id_, function=one) for one in functions])

    assert [{"name": c.name, "arguments": c.arguments} for c in response.tool_calls] == functions
    assert len({call.id for call in response.tool_calls}) == 2


@pytest.mark.parametrize("pieces", [['{"x":', " 1}"], ['{"x": 1}', ""]])
def test_one_call_without_an_id_may_repeat_its_name(pieces: list[str]) -> None:
    response = streamed(
        [call_delta(index=0, function={"name": "f", "arguments": piece}) for piece in pieces]
    )

    assert [(c.name, c.arguments) for c in response.tool_calls] == [("f", '{"x": 1}')]


def test_two_calls_never_share_an_id() -> None:
    calls = [{"id": "a", "function": {"name": name, "arguments": "{}"}} for name in "fg"]

    first, second = complete(body(tool_calls=calls)).tool_calls

    assert (first.name, second.name, first.id) == ("f", "g", "a")
    assert second.id not in ("", "a")


@pytest.mark.parametrize("arguments", ['{"x": ', "not json", '{"a":1,"a":2}', " \u0000 ", ""])
def test_arguments_are_passed_on_exactly_as_the_model_wrote_them(arguments: str) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}

    assert complete(body(tool_calls=[call])).tool_calls[0].arguments == arguments


@pytest.mark.parametrize("arguments", ['{"x": [1, ', "", '{"x": "'])
def test_a_call_that_was_cut_off_is_passed_on_as_far_as_it_came(arguments: str) -> None:
    function = {"name": "f", "arguments": arguments}

    response = streamed([call_delta(index=0, id="a", function=function), delta("length")])

    assert response.tool_calls == (ToolCall(id="a", name="f", arguments=arguments),)
    assert response.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("function", [None, {}, {"name": ""}, {"name": 7, "arguments": "{}"}])
def test_a_call_without_a_name_is_a_bad_response(function: Any) -> None:
    with pytest.raises(LLMError, match="without its name") as caught:
        complete(body(tool_calls=[{"id": "a", "function": function}]))
    with pytest.raises(LLMError, match="without its name"):
        streamed([call_delta(index=0, id="a", function=function), delta("tool_calls")])

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE


# Ids repeat or are missing, so that both are part of the law.
ids = st.none() | st.sampled_from(["a", "b", "c"])
names = st.sampled_from(["current_time", "save_note"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
calls = st.lists(st.tuples(ids, names, texts), max_size=4)


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


def sign(signature: str | None) -> dict[str, Any]:
    """As Gemini does it."""
    google = {"thought_signature": signature}
    return {"extra_content": {"google": google}} if signature else {}


def draw_details(data: st.DataObject, details: list[dict[str, Any]]) -> list[Any]:
    """The deltas of OpenRouter's details: texts in pieces, the signature with the last."""
    deltas = []
    for item in details:
        if "text" not in item:
            deltas.append(delta(reasoning_details=[item]))
            continue
        rest = {name: value for name, value in item.items() if name != "signature"}
        pieces = [{**rest, "text": piece} for piece in draw_pieces(data, item["text"])]
        pieces[-1] = {**item, "text": pieces[-1]["text"]}
        deltas += [delta(reasoning_details=[piece]) for piece in pieces]
    return deltas


details = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("reasoning.text"), "text": texts},
        optional={"signature": st.sampled_from(["s", "t"]), "format": st.just("v1")},
    )
    | st.fixed_dictionaries({"type": st.just("reasoning.encrypted"), "data": texts}),
    max_size=3,
)


@given(
    calls,
    texts,
    texts,
    st.sampled_from(["reasoning", "reasoning_content"]),
    details,
    st.booleans(),
    st.data(),
)
def test_a_stream_spells_the_whole_answer_however_it_is_cut_and_mixed(
    calls: list[tuple[str | None, str, str]],
    text: str,
    reasoning: str,
    reasoning_field: str,
    details: list[Any],
    usage: bool,
    data: st.DataObject,
) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4} if usage else None
    signatures = [data.draw(st.none() | st.just(f"sig {index}")) for index in range(len(calls))]
    spelled = [
        {"id": i, "function": {"name": n, "arguments": a}, **sign(signature)}
        for (i, n, a), signature in zip(calls, signatures, strict=True)
    ]
    details = [{**item, "index": index} for index, item in enumerate(details)]
    said = {"content": text or None, "tool_calls": spelled, "reasoning_details": details}
    whole = body(**{reasoning_field: reasoning}, **said) | {"usage": counts}

    deltas = [delta(**{reasoning_field: piece}) for piece in draw_pieces(data, reasoning)]
    deltas += [delta(content=piece) for piece in draw_pieces(data, text)]
    queues = [draw_call(data, index, call) for index, call in enumerate(calls)]
    for queue, signature in zip(queues, signatures, strict=True):
        queue[0] |= sign(signature)
    deltas += [delta(tool_calls=[item]) for item in draw_interleaving(data, queues)]
    # OpenRouter's details come beside the rest, to its very end.
    deltas = draw_interleaving(data, [deltas, draw_details(data, details)])
    events = [*deltas, delta("stop"), {"id": "x", "choices": [], "usage": counts}]
    sent = b"".join(as_event(event) for event in events)
    reader = EventReader(100_000)
    received = [e for piece in draw_pieces(data, sent) for e in reader.feed(piece)]

    assert streamed([json.loads(event) for event in received]) == complete(whole)
