"""The manager: which provider answers to a name, and what is recorded of each call."""

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    LLMRequest,
    TextDelta,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolResult,
    ToolSpec,
    ToolStatus,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind, MissingKeyError, UnknownModelError
from app.llmgine.llm import LLMManager, Provider, default_providers
from app.llmgine.llm.providers.scripted import ScriptedProvider
from app.llmgine.observability import MemorySink, Observer, Record
from runtime.llm.fake_openai import Answer, FakeOpenAI, refusal, stream

SECRET_TEXT = "the-prompt-itself"


def ask(model: str, **fields: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(ChatMessage.user(SECRET_TEXT),), **fields)


def scripted(*steps: Any, observer: Observer | None = None) -> LLMManager:
    return LLMManager({"scripted": lambda: ScriptedProvider(steps)}, observer=observer)


# Names.


@pytest.mark.parametrize(
    ("model", "resolved"),
    [
        ("offline", ("offline", "offline")),
        ("offline/any", ("offline", "any")),
        ("openai/gpt-5.1", ("openai", "gpt-5.1")),
        ("openai/org/model:free", ("openai", "org/model:free")),
        ("litellm/anthropic/claude-x", ("litellm", "anthropic/claude-x")),
    ],
)
def test_a_model_is_named_by_its_provider_and_its_own_name(
    model: str, resolved: tuple[str, str]
) -> None:
    assert LLMManager(default_providers()).resolve(model) == resolved


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ("gpt-5.1", "Write openai/gpt-5.1 or litellm/gpt-5.1."),
        ("anthropic/claude-x", "Write litellm/anthropic/claude-x."),
        ("oflline", "Did you mean 'offline'?"),
        ("Offline", "Did you mean 'offline'?"),
        ("opnai/gpt-5.1", "Did you mean 'openai/gpt-5.1'?"),
        ("OpenAI/gpt-5.1", "Did you mean 'openai/gpt-5.1'?"),
        ("openai", "write openai/ and the model's name, as in openai/gpt-5.1"),
        ("openai/", "write openai/ and the model's name"),
        ("litellm", "as in litellm/anthropic/"),
        ("offline/", "write offline"),
        ("", "Models are named offline, openai/<model>, litellm/<model>"),
        ("/gpt", "Models are named offline, openai/<model>, litellm/<model>"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_write(model: str, advice: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        LLMManager(default_providers()).check(model)

    assert str(caught.value).startswith(f"{model!r} is not a model.")
    assert advice in str(caught.value)


def test_advice_names_only_providers_that_are_there() -> None:
    with pytest.raises(UnknownModelError) as caught:
        scripted().check("gpt-5.1")

    assert str(caught.value) == "'gpt-5.1' is not a model. Models are named scripted."


def test_a_missing_key_is_found_without_a_call() -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        LLMManager(default_providers()).check("openai/gpt-5.1")


def test_a_provider_that_is_ready_passes_the_check() -> None:
    manager = LLMManager(default_providers(openai_api_key="sk-x"))

    manager.check("offline")
    manager.check("openai/gpt-5.1")


# Calls.


async def test_a_provider_is_made_once_on_first_use_and_closed_at_the_end() -> None:
    made: list[str] = []

    class Mortal(ScriptedProvider):
        async def aclose(self) -> None:
            made.append("closed")

    def factory() -> Provider:
        made.append("made")
        return Mortal(["one", "two"])

    def never() -> Provider:
        raise AssertionError("nobody asked for it")

    manager = LLMManager({"mortal": factory, "other": never})
    before = list(made)
    await manager.complete(ask("mortal"))
    await manager.complete(ask("mortal"))
    await manager.aclose()

    assert (before, made) == ([], ["made", "closed"])


async def test_the_provider_sees_its_own_name_for_the_model() -> None:
    provider = ScriptedProvider(["one", "two"])
    manager = LLMManager({"scripted": lambda: provider})

    await manager.complete(ask("scripted/a/b"))
    _ = [chunk async for chunk in manager.stream(ask("scripted/a/b"))]

    assert [request.model for request in provider.requests] == ["a/b", "a/b"]


async def test_a_stream_adds_up_to_the_complete_response() -> None:
    response = await scripted("Hello there").complete(ask("scripted"))

    chunks = [chunk async for chunk in scripted("Hello there").stream(ask("scripted"))]

    assert accumulate(chunks) == response


@pytest.mark.parametrize(
    ("chunks", "kind", "words"),
    [
        ([TextDelta(text="Hel")], LLMErrorKind.NETWORK, "cut before its end"),
        (
            [ToolCallArgumentsDelta(index=0, text="{")],
            LLMErrorKind.BAD_RESPONSE,
            "never started",
        ),
    ],
)
async def test_a_stream_that_breaks_the_rules_is_told_with_its_model(
    chunks: list[Chunk], kind: LLMErrorKind, words: str
) -> None:
    with pytest.raises(LLMError) as streaming:
        _ = [chunk async for chunk in scripted(chunks).stream(ask("scripted/m"))]
    with pytest.raises(LLMError) as completing:
        await scripted(chunks).complete(ask("scripted/m"))

    for error in (streaming.value, completing.value):
        assert (error.kind, error.provider, error.model) == (kind, "scripted", "m")
        assert str(error).startswith("scripted/m: ")
        assert words in str(error)


async def test_an_error_reaches_the_caller_as_itself() -> None:
    error = LLMError("No.", kind=LLMErrorKind.SERVER, provider="scripted")

    with pytest.raises(LLMError) as completing:
        await scripted(error).complete(ask("scripted"))
    with pytest.raises(LLMError) as streaming:
        _ = [chunk async for chunk in scripted(error).stream(ask("scripted"))]

    assert completing.value is streaming.value is error


async def test_closing_a_stream_closes_the_providers() -> None:
    closed = asyncio.Event()

    class Endless(ScriptedProvider):
        async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
            try:
                while True:
                    yield TextDelta(text="on and ")
            finally:
                closed.set()

    manager = LLMManager({"endless": Endless})
    async with aclosing(manager.stream(ask("endless"))) as chunks:
        await anext(chunks)

    assert closed.is_set()


# Telemetry.


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
