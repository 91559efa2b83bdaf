"""Each model call leaves one span, with the names of the GenAI conventions."""

import asyncio
import contextvars
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
)
from app.llmgine.errors import LLMError
from app.llmgine.llm import LLMManager, default_providers
from app.llmgine.llm.providers.scripted import ScriptedProvider
from app.llmgine.observability import MemorySink, Observer, Record
from runtime.llm.fake_openai import Answer, FakeOpenAI, refusal, stream

SECRET_TEXT = "the-prompt-itself"


def ask(model: str, **fields: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(ChatMessage.user(SECRET_TEXT),), **fields)


def scripted(*steps: Any, observer: Observer | None = None) -> LLMManager:
    return LLMManager({"scripted": lambda: ScriptedProvider(steps)}, observer=observer)


def attributes(span: Record) -> dict[str, Any]:
    found = span.fields["attributes"]
    assert isinstance(found, dict)
    return found


async def spans(
    manager: Callable[[Observer], LLMManager],
    request: LLMRequest,
    *,
    streaming: bool,
    capture_content: bool = False,
) -> list[Record]:
    sink = MemorySink()
    llm = manager(Observer([sink], capture_content=capture_content))
    try:
        if streaming:
            _ = [chunk async for chunk in llm.stream(request)]
        else:
            await llm.complete(request)
    except LLMError:
        pass
    await llm.aclose()
    return sink.records


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_leaves_one_span_with_the_conventions_names(
    server: FakeOpenAI, streaming: bool
) -> None:
    server.will(Answer("Hello", finish_reason="length", id="chatcmpl-7"))
    request = ask(
        "openai/gpt-x",
        conversation_id="c1",
        max_output_tokens=9,
        temperature=0.5,
        seed=3,
        stop=("END",),
    )

    (span,) = await spans(
        lambda observer: LLMManager(
            default_providers(openai_base_url=server.url), observer=observer
        ),
        request,
        streaming=streaming,
    )

    fields = dict(attributes(span))
    time_to_first_chunk = fields.pop("gen_ai.response.time_to_first_chunk", None)
    assert (time_to_first_chunk is not None) is streaming
    assert fields.pop("gen_ai.request.stream", False) is streaming
    assert span.name == "chat gpt-x"
    assert fields == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.conversation.id": "c1",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.response.model": "gpt-x",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_write.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.split(":")[2].split("/")[0]),
    }
    assert span.fields["kind"] == "client"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_failed_call_says_its_kind(server: FakeOpenAI, streaming: bool) -> None:
    server.will(refusal(429, "Slow down"))

    (span,) = await spans(
        lambda observer: LLMManager(
            default_providers(openai_base_url=server.url), observer=observer
        ),
        ask("openai/gpt-x"),
        streaming=streaming,
    )

    assert attributes(span)["error.type"] == "rate_limit"
    assert span.fields["status"] == "error"


async def test_usage_that_nobody_told_is_not_recorded_as_zero() -> None:
    (span,) = await spans(
        lambda observer: scripted("Hello", observer=observer), ask("scripted"), streaming=False
    )

    assert not [name for name in attributes(span) if "usage" in name or "cost" in name]


@pytest.mark.parametrize("streaming", [False, True])
async def test_content_is_recorded_only_when_asked_for(streaming: bool) -> None:
    call = ToolCall(id="c1", name="find", arguments='{"q": "tea"}')
    request = LLMRequest(
        model="scripted",
        messages=(
            ChatMessage.user(SECRET_TEXT),
            ChatMessage.assistant("", call),
            ChatMessage.tool(
                ToolResult(call_id="c1", name="find", status=ToolStatus.OK, content="shelf")
            ),
        ),
        tools=(ToolSpec(name="find", description="Find.", parameters={}),),
    )

    found = [
        await spans(
            lambda observer: scripted("It is there.", observer=observer),
            request,
            streaming=streaming,
            capture_content=capture,
        )
        for capture in (False, True)
    ]

    (silent,), (telling,) = found
    assert SECRET_TEXT not in silent.to_json()
    assert json.loads(str(attributes(telling)["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET_TEXT}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"q": "tea"}'}
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "shelf"}],
        },
    ]
    assert json.loads(str(attributes(telling)["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "It is there."}],
            "finish_reason": "stop",
        }
    ]
    assert json.loads(str(attributes(telling)["gen_ai.tool.definitions"]))[0]["name"] == "find"


async def test_a_streams_span_is_not_the_parent_of_what_its_reader_does() -> None:
    sink = MemorySink()
    observer = Observer([sink])
    manager = scripted("one two", observer=observer)

    with observer.span("turn"):
        async for _ in manager.stream(ask("scripted")):
            with observer.span("reading"):
                pass

    ids = {record.name: record.span_id for record in sink.records}
    parents = {record.name: record.parent_id for record in sink.records}
    assert parents == {"reading": ids["turn"], "chat scripted": ids["turn"], "turn": None}


async def test_a_stream_may_be_closed_by_another_task_than_began_it() -> None:
    sink = MemorySink()
    chunks = scripted("one two", observer=Observer([sink])).stream(ask("scripted"))

    async def begin() -> None:
        await anext(chunks)

    await asyncio.create_task(begin(), context=contextvars.Context())
    await asyncio.create_task(chunks.aclose(), context=contextvars.Context())

    (span,) = sink.records
    assert "error.type" not in attributes(span)


async def test_a_cancelled_stream_ends_its_span(server: FakeOpenAI) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:3], then="hang"))
    sink = MemorySink()
    manager = LLMManager(default_providers(openai_base_url=server.url), observer=Observer([sink]))
    heard = asyncio.Event()

    async def read() -> None:
        async for _ in manager.stream(ask("openai/m")):
            heard.set()

    task = asyncio.create_task(read())
    await heard.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await manager.aclose()

    (span,) = sink.records
    assert attributes(span)["error.type"] == "CancelledError"
