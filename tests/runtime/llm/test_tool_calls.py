"""Tool calls come whole or in deltas, and raggedly: they always add up to the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    ToolCall,
)
from app.llmgine.llm.providers._chat_completions import (
    complete,
)
from app.llmgine.llm.providers._events import EventReader
from runtime.llm.deltas import ORIGIN, REQUEST, body, call_delta, delta, streamed
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
