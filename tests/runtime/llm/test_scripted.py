"""The scripted model plays its steps, and says so when the script does not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    StreamEnd,
    TextDelta,
    ToolCall,
    ToolResult,
    ToolStatus,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind, ScriptError
from app.llmgine.testing import ScriptedProvider
from runtime import strategies

ASKED = LLMRequest(model="scripted", messages=(ChatMessage.user("hello"),))
CALL = ToolCall(id="1", name="save_note", arguments='{"text": "milk"}')
END = StreamEnd(id="r", model="m", provider="p", finish_reason=FinishReason.STOP)
BROKEN = LLMError("overloaded", kind=LLMErrorKind.SERVER, provider="scripted")


async def test_steps_are_played_first_in_first_out_and_requests_are_kept() -> None:
    model = ScriptedProvider(["one", "two"])
    other = ASKED.model_copy(update={"seed": 1})

    answers = [(await model.complete(ASKED)).text, (await model.complete(other)).text]

    assert answers == ["one", "two"]
    assert model.requests == [ASKED, other]


async def test_a_text_is_streamed_word_by_word() -> None:
    model = ScriptedProvider(["The milk is empty."])

    chunks = [chunk async for chunk in model.stream(ASKED)]

    texts = [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)]
    assert texts == ["The", " milk", " is", " empty."]


async def test_tool_calls_are_made_at_once() -> None:
    other = CALL.model_copy(update={"id": "2"})
    model = ScriptedProvider([CALL, [CALL, other]])

    first, second = await model.complete(ASKED), await model.complete(ASKED)

    assert (first.tool_calls, first.finish_reason) == ((CALL,), FinishReason.TOOL_CALL)
    assert second.tool_calls == (CALL, other)


async def test_an_error_is_raised_before_anything_is_said() -> None:
    model = ScriptedProvider([BROKEN])

    with pytest.raises(LLMError, match="overloaded"):
        await model.complete(ASKED)


async def test_an_error_among_chunks_cuts_the_stream_there() -> None:
    model = ScriptedProvider([[TextDelta(text="The mi"), BROKEN]])
    said: list[Chunk] = []

    with pytest.raises(LLMError, match="overloaded"):
        async for chunk in model.stream(ASKED):
            said.append(chunk)

    assert said == [TextDelta(text="The mi")]


async def test_a_function_of_the_request_decides_the_step() -> None:
    model = ScriptedProvider([lambda asked: f"You said {asked.messages[-1].text!r}."])

    response = await model.complete(ASKED)

    assert response.text == "You said 'hello'."


async def test_exact_chunks_are_played_exactly() -> None:
    script = [TextDelta(text=""), TextDelta(text="x"), END]
    model = ScriptedProvider([script])

    assert [chunk async for chunk in model.stream(ASKED)] == script


@given(st.lists(strategies.texts | strategies.tool_calls | strategies.llm_responses, max_size=4))
async def test_a_stream_spells_the_completion(steps: list[str | ToolCall | LLMResponse]) -> None:
    streaming, completing = ScriptedProvider(steps), ScriptedProvider(steps)

    for _ in steps:
        spelled = accumulate([chunk async for chunk in streaming.stream(ASKED)])
        assert spelled == await completing.complete(ASKED)


async def test_a_call_beyond_the_script_says_which_and_what_was_asked() -> None:
    model = ScriptedProvider(["one"])
    await model.complete(ASKED)
    result = ToolResult(call_id="1", name="save_note", status=ToolStatus.OK, content="Saved: milk")
    more = ASKED.model_copy(update={"messages": (ChatMessage.tool(result),)})

    with pytest.raises(ScriptError, match=r"1 steps.*call 2.*save_note: Saved: milk"):
        await model.complete(more)


async def test_calls_mixed_with_chunks_are_refused() -> None:
    model = ScriptedProvider([[CALL, END]])

    with pytest.raises(ScriptError, match="Step 1 mixes"):
        await model.complete(ASKED)


async def test_steps_that_were_never_played_fail() -> None:
    model = ScriptedProvider()
    model.add("one", "two")
    await model.complete(ASKED)

    with pytest.raises(ScriptError, match=r"1 steps were never played.*'two'"):
        model.assert_complete()


async def test_leaving_the_block_fails_for_steps_left() -> None:
    with pytest.raises(ScriptError, match="never played"):
        async with ScriptedProvider(["one"]):
            pass


async def test_leaving_the_block_by_an_error_leaves_the_error_alone() -> None:
    with pytest.raises(ZeroDivisionError):
        async with ScriptedProvider(["one"]):
            raise ZeroDivisionError
