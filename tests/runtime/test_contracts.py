"""Laws of the data contracts: what they hold survives JSON, and a stream spells its response."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.llmgine.contracts import (
    Accumulator,
    Attempt,
    BlobPart,
    ChatMessage,
    Chunk,
    Contract,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Money,
    OutputSpec,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    StreamReset,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolResult,
    ToolSpec,
    ToolStatus,
    UriPart,
    Usage,
    accumulate,
)
from app.llmgine.engine import PromptResult
from app.llmgine.errors import LLMError, LLMErrorKind
from runtime import strategies

MODULES = {Contract.__module__, PromptResult.__module__}
END = StreamEnd(id="r", model="m", provider="p", finish_reason=FinishReason.STOP)
STRATEGIES: dict[type[Contract], st.SearchStrategy[Contract]] = {
    Attempt: strategies.attempts,
    BlobPart: strategies.blob_parts,
    ChatMessage: strategies.chat_messages,
    LLMRequest: strategies.llm_requests,
    LLMResponse: strategies.llm_responses,
    Money: strategies.moneys,
    OutputSpec: strategies.output_specs,
    PromptResult: strategies.prompt_results,
    ReasoningDelta: strategies.reasoning_deltas,
    ReasoningPart: strategies.reasoning_parts,
    StreamEnd: strategies.stream_ends,
    StreamReset: strategies.stream_resets,
    TextDelta: strategies.text_deltas,
    TextPart: strategies.text_parts,
    ToolCall: strategies.tool_calls,
    ToolCallArgumentsDelta: strategies.arguments_deltas,
    ToolCallStart: strategies.call_starts,
    ToolResult: strategies.tool_results,
    ToolSpec: strategies.tool_specs,
    UriPart: strategies.uri_parts,
    Usage: strategies.usages,
}


def test_every_contract_has_its_law_tested() -> None:
    theirs = {one for one in Contract.__subclasses__() if one.__module__ in MODULES}

    assert set(STRATEGIES) == theirs


@pytest.mark.parametrize("contract", STRATEGIES, ids=lambda contract: contract.__name__)
@given(data=st.data())
def test_a_contract_survives_json_unchanged(contract: type[Contract], data: st.DataObject) -> None:
    value = data.draw(STRATEGIES[contract])

    assert contract.model_validate_json(value.model_dump_json()) == value


@given(chunk=strategies.chunks)
def test_a_chunk_survives_json_as_a_member_of_its_union(chunk: Chunk) -> None:
    chunks: TypeAdapter[Chunk] = TypeAdapter(Chunk)

    assert chunks.validate_json(chunks.dump_json(chunk)) == chunk


@pytest.mark.parametrize("contract", STRATEGIES, ids=lambda contract: contract.__name__)
@given(data=st.data())
def test_a_contract_can_neither_change_nor_hold_what_it_does_not_know(
    contract: type[Contract], data: st.DataObject
) -> None:
    value = data.draw(STRATEGIES[contract])
    field = next(iter(contract.model_fields))

    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, getattr(value, field))
    with pytest.raises(ValidationError, match="extra_forbidden"):
        contract.model_validate({**value.model_dump(), "surprise": 1})


@pytest.mark.parametrize(
    ("contract", "values"),
    [
        (LLMRequest, {"model": "m", "messages": (), "temperature": float("inf")}),
        (LLMRequest, {"model": "m", "messages": (), "timeout_s": float("inf")}),
        (ToolSpec, {"name": "n", "description": "", "parameters": {"default": [float("nan")]}}),
        (Money, {"amount": "NaN"}),
    ],
)
def test_a_number_that_json_cannot_spell_is_refused(
    contract: type[Contract], values: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match="finite"):
        contract.model_validate(values)


@given(first=strategies.usages, second=strategies.usages)
def test_usages_add_up_field_by_field(first: Usage, second: Usage) -> None:
    total = first + second

    assert total.model_dump() == {
        name: getattr(first, name) + getattr(second, name) for name in Usage.model_fields
    }


def test_tool_calls_and_results_of_a_message_are_found_in_order() -> None:
    calls = [ToolCall(id=name, name=name, arguments="{}") for name in "ab"]
    results = [
        ToolResult(call_id=name, name=name, status=ToolStatus.OK, content="1") for name in "ab"
    ]

    assert ChatMessage.assistant("hello", *calls).tool_calls == tuple(calls)
    assert ChatMessage.assistant("hello", *calls).text == "hello"
    assert ChatMessage.assistant("", *calls).parts == tuple(calls)
    assert ChatMessage.tool(*results).tool_results == tuple(results)
    assert [result.ok for result in results] == [True, True]


@st.composite
def streams(draw: st.DrawFn) -> tuple[ChatMessage, list[Chunk]]:
    """A message, and chunks that spell it: split anywhere, the calls' arguments interleaved."""
    reasoning = draw(st.none() | strategies.reasoning_parts)
    said = draw(st.text(max_size=30))
    calls = draw(st.lists(strategies.tool_calls, max_size=3))
    chunks: list[Chunk] = []
    if reasoning is not None:
        *pieces, last = _split(draw, reasoning.text)
        chunks += [ReasoningDelta(text=piece) for piece in pieces]
        signed = {"signature": reasoning.signature, "signed_by": reasoning.signed_by}
        chunks.append(ReasoningDelta(text=last, **signed))
    if said:
        chunks += [TextDelta(text=piece) for piece in _split(draw, said)]
    queues: list[list[Chunk]] = [
        [
            ToolCallStart(index=index, **call.model_dump(exclude={"type", "arguments"})),
            *(
                ToolCallArgumentsDelta(index=index, text=piece)
                for piece in _split(draw, call.arguments)
            ),
        ]
        for index, call in enumerate(calls)
    ]
    # The calls begin in order; from then on their arguments may come in any.
    chunks += [queue.pop(0) for queue in queues]
    while queues := [queue for queue in queues if queue]:
        chunks.append(draw(st.sampled_from(queues)).pop(0))
    reasoned = () if reasoning is None else (reasoning,)
    spoken = (TextPart(text=said),) if said else ()
    message = ChatMessage(role="assistant", parts=(*reasoned, *spoken, *calls))
    return message, chunks


def _split(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(min_value=0, max_value=len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(stream=streams(), end=strategies.stream_ends)
def test_a_stream_spells_the_same_response_however_it_is_cut(
    stream: tuple[ChatMessage, list[Chunk]], end: StreamEnd
) -> None:
    message, chunks = stream

    response = accumulate([*chunks, end])

    assert response.message == message
    assert response.model_dump(exclude={"message"}) == end.model_dump(exclude={"type"})


@given(stream=streams())
def test_the_message_so_far_is_valid_after_every_chunk(
    stream: tuple[ChatMessage, list[Chunk]],
) -> None:
    message, chunks = stream
    accumulator = Accumulator()

    for chunk in chunks:
        accumulator.add(chunk)
        assert message.text.startswith(accumulator.message.text)
        assert len(accumulator.message.tool_calls) <= len(message.tool_calls)
    assert accumulator.message == message


def test_what_came_before_a_reset_is_void() -> None:
    void: list[Chunk] = [TextDelta(text="one"), ToolCallStart(index=0, id="a", name="f")]
    again: list[Chunk] = [ToolCallStart(index=0, id="b", name="g"), TextDelta(text="two")]

    response = accumulate([*void, StreamReset(reason="retry after network"), *again, END])

    assert response == accumulate([*again, END])


def test_text_after_reasoning_begins_a_new_part_and_text_after_a_call_does_not() -> None:
    chunks: list[Chunk] = [
        TextDelta(text="one "),
        ToolCallStart(index=0, id="a", name="current_time"),
        TextDelta(text="two"),
        ReasoningDelta(text="hm", signature="s"),
        ReasoningDelta(text="so"),
        TextDelta(text="three"),
    ]

    assert accumulate([*chunks, END]).message.parts == (
        TextPart(text="one two"),
        ToolCall(id="a", name="current_time", arguments=""),
        ReasoningPart(text="hm", signature="s"),
        ReasoningPart(text="so"),
        TextPart(text="three"),
    )


@given(stream=streams())
def test_a_stream_without_its_end_was_cut(stream: tuple[ChatMessage, list[Chunk]]) -> None:
    _, chunks = stream

    with pytest.raises(LLMError, match="cut before its end") as raised:
        accumulate(chunks)
    assert raised.value.kind is LLMErrorKind.NETWORK


@pytest.mark.parametrize(
    ("chunks", "what"),
    [
        ([END, TextDelta(text="more")], "a chunk follows the end"),
        ([END, END], "a chunk follows the end"),
        ([ToolCallArgumentsDelta(index=2, text="{")], "arguments for tool call 2"),
        ([ToolCallStart(index=0, id="a", name="n")] * 2, "tool call 0 starts twice"),
    ],
    ids=["text after the end", "two ends", "arguments of no call", "a call that starts twice"],
)
def test_a_malformed_stream_is_a_bad_response(chunks: Sequence[Chunk], what: str) -> None:
    with pytest.raises(LLMError, match=what) as raised:
        accumulate(chunks)
    assert raised.value.kind is LLMErrorKind.BAD_RESPONSE


@given(chunks=st.lists(strategies.chunks, max_size=8))
def test_any_sequence_of_chunks_is_a_response_or_a_typed_error(chunks: list[Chunk]) -> None:
    try:
        response = accumulate(chunks)
    except LLMError as error:
        assert error.kind in {LLMErrorKind.BAD_RESPONSE, LLMErrorKind.NETWORK}
    else:
        assert response.message.role == "assistant"
