"""The fake server is worth something only if the real client's types accept what it says."""

import asyncio
import sys
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.llmgine.contracts import ChatMessage, LLMRequest, ToolSpec
from app.llmgine.llm.providers.openai import OpenAIProvider
from runtime.llm.fake_openai import Answer, Call, FakeOpenAI

ANSWERS = [
    Answer("Hello, wörld."),
    Answer("", "I think.", [Call("a", "f", "{}"), Call("b", "g", '{"x": [1, 2]}')]),
    Answer("cut", finish_reason="length", usage=None),
    Answer("", finish_reason="content_filter"),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_whole_answer_is_one_to_the_official_types(answer: Answer) -> None:
    read = ChatCompletion.model_validate(answer.body("gpt-x"), strict=True)

    assert (read.choices[0].message.content or "") == answer.text


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_event_of_a_stream_is_one_to_the_official_types(answer: Answer) -> None:
    read = [ChatCompletionChunk.model_validate(e, strict=True) for e in answer.events("gpt-x")]

    said = [choice.delta.content or "" for event in read for choice in event.choices]
    assert "".join(said) == answer.text


def say(*messages: ChatMessage) -> LLMRequest:
    tool = ToolSpec(name="find_notes", description="", parameters={"type": "object"})
    return LLMRequest(model="fake", messages=messages, tools=(tool,))


async def test_left_alone_it_repeats_what_it_is_told(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)

    response = await provider.complete(say(ChatMessage.user("good morning")))
    await provider.aclose()

    assert response.text == "You said: good morning"


async def test_it_can_be_told_to_call_a_tool(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)

    prompt = ChatMessage.user('call find_notes {"query": "tea"}')
    response = await provider.complete(say(prompt))
    await provider.aclose()

    assert [(c.name, c.arguments) for c in response.tool_calls] == [
        ("find_notes", '{"query": "tea"}')
    ]


async def test_as_a_script_it_prints_its_address_and_serves() -> None:
    script = Path(__file__).with_name("fake_openai.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(script), "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        provider = OpenAIProvider(None, url)
        request = LLMRequest(model="fake", messages=(ChatMessage.user("hi"),))
        response = await provider.complete(request)
        await provider.aclose()
    finally:
        process.kill()
        await process.wait()

    assert response.text == "You said: hi"
