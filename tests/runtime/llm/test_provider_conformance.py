"""What every provider promises, and what those with a server behind them promise besides."""

import asyncio
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    LLMRequest,
    LLMResponse,
    StreamEnd,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolStatus,
    Usage,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm import Provider
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from app.llmgine.llm.providers.offline import OfflineProvider
from app.llmgine.llm.providers.openai import OpenAIProvider
from app.llmgine.llm.providers.scripted import ScriptedProvider
from runtime.llm.fake_openai import (
    SILENCE,
    Answer,
    Call,
    FakeOpenAI,
    Raw,
    refusal,
    stream,
    whole,
)

KEY = "sk-canary-0123456789abcdef"
FIND = ToolSpec(
    name="find_notes",
    description="Find notes.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string"}},
        "required": ["query"],
        "additionalProperties": False,
    },
)
CALL = ToolCall(id="call_1", name="find_notes", arguments='{"query": "tea"}')
ASKED = ChatMessage.user('Find notes about "tea"')
REQUESTS = {
    "a question": (ChatMessage.user("How are you?"),),
    "an order": (ChatMessage.system("Be brief."), ASKED),
    "a result": (
        ASKED,
        ChatMessage.assistant("", CALL),
        ChatMessage.tool(
            ToolResult(call_id=CALL.id, name=CALL.name, status=ToolStatus.OK, content='["tea"]')
        ),
    ),
    "signs": (ChatMessage.user('ünï 🎉 "quoted" \\ \u2028 </s>'),),
}


@dataclass
class Subject:
    """A provider, and how it is asked."""

    name: str
    model: str
    make: Callable[[float], Provider]

    def request(self, *messages: ChatMessage, **fields: Any) -> LLMRequest:
        return LLMRequest(model=self.model, messages=messages or (ASKED,), **fields)


# What litellm's own dependencies warn of is theirs.
LITELLM = pytest.param(
    "litellm",
    marks=[
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed"),
    ],
)


@asynccontextmanager
async def subject_named(name: str, server: FakeOpenAI) -> AsyncIterator[Subject]:
    made: list[Provider] = []

    def make(timeout_s: float) -> Provider:
        provider: Provider
        if name == "offline":
            provider = OfflineProvider()
        elif name == "scripted":
            provider = ScriptedProvider([CALL, "Done."])
        elif name == "openai":
            provider = OpenAIProvider(KEY, server.url, timeout_s=timeout_s)
        else:
            provider = LiteLLMProvider(timeout_s=timeout_s)
        made.append(provider)
        return provider

    yield Subject(name, "openai/gpt-4o" if name == "litellm" else "gpt-4o", make)
    for provider in made:
        await provider.aclose()


@pytest.fixture
def environment(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where litellm finds the server."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)


@pytest.fixture(params=["offline", "scripted", "openai", LITELLM])
async def subject(
    request: pytest.FixtureRequest, server: FakeOpenAI, environment: None
) -> AsyncIterator[Subject]:
    async with subject_named(request.param, server) as subject:
        yield subject


@pytest.fixture(params=["openai", LITELLM])
async def remote(
    request: pytest.FixtureRequest, server: FakeOpenAI, environment: None
) -> AsyncIterator[Subject]:
    """Those with a server behind them, which can be made to fail."""
    async with subject_named(request.param, server) as subject:
        yield subject


async def collect(provider: Provider, request: LLMRequest) -> LLMResponse:
    return accumulate([chunk async for chunk in provider.stream(request)])


async def failures(subject: Subject, timeout_s: float = 30.0) -> list[LLMError]:
    """How `complete` fails, and how `stream` does."""
    provider = subject.make(timeout_s)
    with pytest.raises(LLMError) as completing:
        await provider.complete(subject.request())
    with pytest.raises(LLMError) as streaming:
        await collect(provider, subject.request())
    return [completing.value, streaming.value]


# Every provider.


@pytest.mark.parametrize("messages", REQUESTS.values(), ids=REQUESTS)
async def test_a_stream_adds_up_to_the_complete_response(
    subject: Subject, server: FakeOpenAI, messages: tuple[ChatMessage, ...]
) -> None:
    request = subject.request(*messages, tools=(FIND,))
    answer = Answer("Wörd.", "Hm.", [Call("a", "find_notes", '{"query": "x"}')])
    server.will(answer, answer)

    whole_response = await subject.make(30.0).complete(request)

    assert await collect(subject.make(30.0), request) == whole_response


async def test_a_stream_ends_with_its_only_end(subject: Subject) -> None:
    chunks = [chunk async for chunk in subject.make(30.0).stream(subject.request(tools=(FIND,)))]

    assert [type(chunk) for chunk in chunks].index(StreamEnd) == len(chunks) - 1


async def test_a_response_says_who_gave_it_and_survives_json(subject: Subject) -> None:
    provider = subject.make(30.0)

    response = await provider.complete(subject.request(tools=(FIND,)))

    assert response.provider == provider.name == subject.name
    assert LLMResponse.model_validate_json(response.model_dump_json()) == response


async def test_closing_twice_does_no_harm(subject: Subject) -> None:
    provider = subject.make(30.0)
    await provider.complete(subject.request())
    await provider.aclose()

    await provider.aclose()


# Those with a server.


@pytest.mark.parametrize(
    "answer",
    [
        Answer("Hello, wörld. " * 20),
        Answer("", "First I think."),
        Answer("Wait.", "", [Call("a", "f", '{"x": [1,\n 2]}'), Call("b", "g", "")]),
        Answer("", "", [Call("a", "f", '{"x": '), Call("b", "f", "not json at all")]),
        Answer("cut off", finish_reason="length"),
        Answer("", finish_reason="content_filter"),
    ],
)
async def test_what_the_server_says_arrives_whole_and_exact(
    remote: Subject, server: FakeOpenAI, answer: Answer
) -> None:
    server.will(answer, answer)
    provider = remote.make(30.0)

    responses = [
        await provider.complete(remote.request()),
        await collect(provider, remote.request()),
    ]

    assert responses[0] == responses[1]
    assert responses[0].id == answer.id
    assert responses[0].text == answer.text
    assert [(c.id, c.name, c.arguments) for c in responses[0].tool_calls] == [
        (c.id, c.name, c.arguments) for c in answer.calls
    ]
    assert responses[0].usage == Usage(
        input_tokens=21, output_tokens=9, cache_read_tokens=5, reasoning_tokens=2
    )


async def test_the_server_gets_the_conversation_and_the_tools(
    remote: Subject, server: FakeOpenAI
) -> None:
    await remote.make(30.0).complete(
        remote.request(*REQUESTS["a result"], tools=(FIND,), max_output_tokens=7, stop=("END",))
    )

    (recorded,) = server.requests
    user, assistant, tool = recorded.body["messages"]
    assert user == {"role": "user", "content": 'Find notes about "tea"'}
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "call_1"
    assert tool["content"] == '["tea"]'
    assert recorded.body["tools"][0]["function"] == FIND.model_dump()
    assert (recorded.body["max_tokens"], recorded.body["stop"]) == (7, ["END"])


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        (refusal(401, "Incorrect API key"), LLMErrorKind.AUTHENTICATION, 401),
        (refusal(403, "No access"), LLMErrorKind.AUTHENTICATION, 403),
        (refusal(404, "Model not found", code="model_not_found"), LLMErrorKind.BAD_REQUEST, 404),
        (refusal(400, "Bad temperature"), LLMErrorKind.BAD_REQUEST, 400),
        (refusal(429, "Slow down"), LLMErrorKind.RATE_LIMIT, 429),
        (
            refusal(400, "maximum context length is 8", code="context_length_exceeded"),
            LLMErrorKind.CONTEXT_LENGTH,
            400,
        ),
        (
            refusal(400, "violates our content policy", code="content_policy_violation"),
            LLMErrorKind.CONTENT_FILTER,
            400,
        ),
        (refusal(500, "Oops"), LLMErrorKind.SERVER, 500),
        (refusal(529, "Overloaded"), LLMErrorKind.SERVER, 529),
        (Raw(head=b"", then="cut"), LLMErrorKind.NETWORK, None),
    ],
)
async def test_a_failure_is_told_by_kind_and_asked_for_once(
    remote: Subject, server: FakeOpenAI, reply: Raw, kind: LLMErrorKind, status: int | None
) -> None:
    server.will(reply, reply)

    errors = await failures(remote)

    assert [(error.kind, error.status) for error in errors] == [(kind, status)] * 2
    assert [error.model for error in errors] == [remote.model] * 2
    assert all(f"{remote.name}/{remote.model}" in str(error) for error in errors)
    assert len(server.requests) == 2


async def test_how_long_to_wait_is_passed_on(remote: Subject, server: FakeOpenAI) -> None:
    limited = refusal(429, "Slow down", headers={"Retry-After": "7"})
    server.will(limited, limited)

    assert [error.retry_after_s for error in await failures(remote)] == [7.0, 7.0]


async def test_empty_choices_are_an_error(remote: Subject, server: FakeOpenAI) -> None:
    server.will(whole({"choices": []}))

    with pytest.raises(LLMError) as caught:
        await remote.make(30.0).complete(remote.request())

    assert caught.value.kind in (LLMErrorKind.BAD_RESPONSE, LLMErrorKind.SERVER)


async def test_a_cut_stream_is_a_network_error(remote: Subject, server: FakeOpenAI) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:3], then="cut"))

    with pytest.raises(LLMError) as caught:
        await collect(remote.make(30.0), remote.request())

    assert caught.value.kind is LLMErrorKind.NETWORK


async def test_silence_is_a_timeout(remote: Subject, server: FakeOpenAI) -> None:
    server.will(SILENCE, stream(*Answer("Hello, wörld.").events("m")[:3], then="hang"))

    errors = await failures(remote, timeout_s=0.3)

    assert [error.kind for error in errors] == [LLMErrorKind.TIMEOUT] * 2


async def test_a_stream_that_is_closed_early_closes_the_connection(
    remote: Subject, server: FakeOpenAI
) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:3], then="hang"))
    chunks = remote.make(30.0).stream(remote.request())
    assert isinstance(chunks, AsyncGenerator)

    async with aclosing(chunks):
        await anext(chunks)
    await asyncio.wait_for(server.client_left(), 5)

    assert server.abandoned == 1


async def test_the_key_is_in_no_error(remote: Subject, server: FakeOpenAI) -> None:
    echo = refusal(401, f"Incorrect API key provided: {KEY}. It began with {KEY[:6]}***.")
    server.will(echo, echo)

    for error in await failures(remote):
        assert "canary" not in "".join(traceback.format_exception(error))
