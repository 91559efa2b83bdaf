"""The fake vendors are worth something only if the official packages believe them."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseErrorEvent, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from app.llmgine.contracts import ChatMessage, LLMRequest, ToolSpec
from app.llmgine.llm.providers.openai import OpenAIProvider
from runtime.llm.vendors import (
    FORMATS,
    NOTHING,
    Answer,
    Call,
    Fault,
    Format,
    Sent,
    Tokens,
    VendorServer,
    first_half,
)

ANSWERS = {
    "text": Answer("Hello, wörld."),
    "thoughts": Answer("Yes.", "I think.", signature="sig/1=="),
    "calls": Answer("", "Hm.", [Call("a", "f", "{}"), Call("b", "g", '{"x": [1, 2]}')]),
    "calls in turns": Answer(
        calls=[Call("a", "f", '{"x": 1}'), Call("b", "f", '{"x": 2}')], interleaved=True
    ),
    "cut off": Answer("cut", finish_reason="length"),
    "filtered": Answer("", finish_reason="content_filter"),
    "cached": Answer("Hi.", usage=Tokens(50, 3, 20, 10, 0)),
    "counted late": Answer("Hi.", late_usage=True),
}
MODELS: dict[str, tuple[Any, Any]] = {
    "/chat/completions": (ChatCompletion, ChatCompletionChunk),
    "/responses": (Response, ResponseStreamEvent),
    "/messages": (Message, RawMessageStreamEvent),
}
ASKED = {
    "model": "m-1",
    "stream_options": {"include_usage": True},
    "include": ["reasoning.encrypted_content"],
}
# What others than OpenAI added to its format, and the event that Anthropic's package swallows.
NOT_THEIRS = {"reasoning", "reasoning_content", "reasoning_details"}
PING = {"type": "ping"}

formats = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.PATH)
answers = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)


def unknown(value: Any) -> Iterator[str]:
    """The fields that the official models do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or {}
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from unknown(item)


def events_of(pieces: list[bytes]) -> list[Any]:
    data = re.findall(r"^data: (\{.*)$", b"".join(pieces).decode(), re.MULTILINE)
    return [event for event in map(json.loads, data) if event != PING]


@formats
@answers
def test_a_whole_answer_is_one_to_the_official_types(form: Format, answer: Answer) -> None:
    model = MODELS[form.PATH][0]

    read = model.model_validate(form.body(answer, ASKED), strict=True)

    assert set(unknown(read)) <= NOT_THEIRS


@formats
@answers
def test_each_event_of_a_stream_is_one_to_the_official_types(form: Format, answer: Answer) -> None:
    model = TypeAdapter(MODELS[form.PATH][1])

    read = [model.validate_python(e, strict=True) for e in events_of(form.events(answer, ASKED))]

    assert {name for event in read for name in unknown(event)} <= NOT_THEIRS


class Client:
    """An official client, asked for the same answer whole and streamed."""

    def __init__(self, path: str, server: VendorServer) -> None:
        self._path = path
        self.openai = openai.AsyncOpenAI(api_key="sk-none", base_url=server.url, max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(
            api_key="sk-none", base_url=server.root, max_retries=0
        )

    async def whole(self) -> Any:
        said: Any = [{"role": "user", "content": "hi"}]
        if self._path == "/messages":
            return await self.anthropic.messages.create(model="m-1", max_tokens=99, messages=said)
        if self._path == "/responses":
            return await self.openai.responses.create(model="m-1", input="hi")
        return await self.openai.chat.completions.create(model="m-1", messages=said)

    async def streamed(self) -> Any:
        """What the package itself makes of the stream."""
        said: Any = [{"role": "user", "content": "hi"}]
        if self._path == "/messages":
            async with self.anthropic.messages.stream(
                model="m-1", max_tokens=99, messages=said
            ) as chunks:
                return await chunks.get_final_message()
        if self._path == "/responses":
            async with self.openai.responses.stream(model="m-1", input="hi") as events:
                return await events.get_final_response()
        async with self.openai.chat.completions.stream(
            model="m-1", messages=said, stream_options={"include_usage": True}
        ) as pieces:
            return await pieces.get_final_completion()


@asynccontextmanager
async def client_of(form: Format) -> AsyncIterator[tuple[Client, VendorServer]]:
    async with VendorServer() as server:
        client = Client(form.PATH, server)
        try:
            yield client, server
        finally:
            await client.openai.close()
            await client.anthropic.close()


def essence(answer: Any) -> Any:
    """Without what only one of both ways fills in."""
    if isinstance(answer, BaseModel):
        answer = answer.model_dump(exclude_none=True, warnings=False)
    if isinstance(answer, dict):
        return {
            name: essence(value)
            for name, value in answer.items()
            if name not in ("parsed", "parsed_arguments", "index") and value not in ([], "")
        }
    return [essence(item) for item in answer] if isinstance(answer, list) else answer


@formats
@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"cut off", "filtered"}))
async def test_the_official_client_reads_the_same_whole_and_streamed(
    form: Format, name: str
) -> None:
    async with client_of(form) as (client, server):
        server.will(ANSWERS[name], ANSWERS[name])
        whole, streamed = await client.whole(), await client.streamed()

    assert essence(streamed) == essence(whole)


FAULTS: dict[str, tuple[Fault, str]] = {
    "key": (Fault("key"), "AuthenticationError"),
    "permission": (Fault("permission"), "PermissionDeniedError"),
    "model": (Fault("model"), "NotFoundError"),
    "request": (Fault("request"), "BadRequestError"),
    "context": (Fault("context"), "BadRequestError"),
    "content": (Fault("content"), "BadRequestError"),
    "rate": (Fault("rate", retry_after="7"), "RateLimitError"),
    "server": (Fault("server"), "InternalServerError"),
    "overloaded": (Fault("overloaded"), "(InternalServer|Overloaded)Error"),
}


@formats
@pytest.mark.parametrize(("fault", "error"), FAULTS.values(), ids=FAULTS)
async def test_the_official_client_raises_its_typed_error(
    form: Format, fault: Fault, error: str
) -> None:
    async with client_of(form) as (client, server):
        server.will(fault, fault)
        for ask in (client.whole, client.streamed):
            with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
                await ask()

            raised: Any = caught.value
            assert re.fullmatch(error, type(raised).__name__)
            assert raised.response.headers.get("retry-after") == fault.retry_after


@formats
async def test_the_official_client_cannot_read_what_breaks_off(form: Format) -> None:
    half = Sent(Answer("Hello, wörld."), pieces=first_half, then="cut")
    async with client_of(form) as (client, server):
        server.will(NOTHING, half)
        with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
            await client.whole()
        # Each package breaks with the error of its own HTTP library.
        with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
            await client.streamed()


@formats
async def test_the_official_client_hears_of_a_failure_in_the_stream(form: Format) -> None:
    failing = Sent(Answer("Hello."), pieces=lambda events: events[:4], fault=Fault("overloaded"))
    async with client_of(form) as (client, server):
        server.will(failing)
        if form.PATH == "/responses":
            responses = client.openai.responses
            stream = await responses.create(model="m-1", input="hi", stream=True)
            assert isinstance([event async for event in stream][-1], ResponseErrorEvent)
            return
        with pytest.raises((openai.APIError, anthropic.APIError), match=r"(?i)overloaded"):
            await client.streamed()


# Left alone.


def say(*messages: ChatMessage) -> LLMRequest:
    tool = ToolSpec(name="find_notes", description="", parameters={"type": "object"})
    return LLMRequest(model="fake", messages=messages, tools=(tool,))


@formats
async def test_left_alone_it_repeats_what_it_is_told(form: Format) -> None:
    async with client_of(form) as (client, _):
        assert "You said: hi" in str(await client.whole())


async def test_it_can_be_told_to_call_a_tool(server: VendorServer) -> None:
    provider = OpenAIProvider(None, server.url)

    prompt = ChatMessage.user('call find_notes {"query": "tea"}')
    response = await provider.complete(say(prompt))
    await provider.aclose()

    assert [(c.name, c.arguments) for c in response.tool_calls] == [
        ("find_notes", '{"query": "tea"}')
    ]


async def test_as_a_program_it_prints_its_address_and_serves() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runtime.llm.vendors", "--port", "0"),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
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
