"""The direct Anthropic provider: keys, addresses, failures, and the law over real connections."""

import asyncio
import time
import traceback
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from app.llmgine.contracts import (
    ChatMessage,
    FinishReason,
    LLMRequest,
    TextDelta,
    ToolCall,
    Usage,
    accumulate,
)
from app.llmgine.errors import ConfigurationError, LLMError, LLMErrorKind, MissingKeyError
from app.llmgine.llm.providers.anthropic import AnthropicProvider
from runtime.llm.vendors import (
    NOTHING,
    SILENCE,
    WEB_PAGE,
    Answer,
    Call,
    Fault,
    Raw,
    Reply,
    Sent,
    VendorServer,
    first_half,
    recut,
    whole,
)
from runtime.llm.vendors import messages as wire
from runtime.llm.vendors.answers import Then

KEY = "sk-ant-canary-0123456789abcdef"
REQUEST = LLMRequest(model="claude-x", messages=(ChatMessage.user("hi"),))
FULL = Answer(
    "Let me see.",
    reasoning="Hm, tea.",
    signature="c2lnbmVk",
    calls=(Call("toolu_1", "find", '{"query":"té"}'), Call("toolu_2", "find", "{}")),
)


def first_events(pieces: list[bytes]) -> list[bytes]:
    return pieces[:4]


async def fail(provider: AnthropicProvider, *, streaming: bool = False) -> LLMError:
    with pytest.raises(LLMError) as caught:
        if streaming:
            _ = [chunk async for chunk in provider.stream(REQUEST)]
        else:
            await provider.complete(REQUEST)
    await provider.aclose()
    return caught.value


# The key and the address.


@pytest.mark.parametrize("key", [None, "", " ", SecretStr("")])
def test_anthropic_without_a_key_is_refused_before_any_call(key: SecretStr | str | None) -> None:
    with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
        AnthropicProvider(key)


@pytest.mark.parametrize("address", ["localhost:1234", "ftp://x", "http://u:p@host/v1"])
def test_an_address_that_cannot_be_called_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="ANTHROPIC_BASE_URL"):
        AnthropicProvider(KEY, address)


async def test_a_token_is_sent_instead_of_the_key_and_shown_in_no_error(
    server: VendorServer,
) -> None:
    provider = AnthropicProvider(KEY, server.root, auth_token=SecretStr("a-token-of-mine"))
    server.will(whole({"error": "no a-token-of-mine here"}, 401))

    error = await fail(provider)

    headers = server.requests[0].headers
    assert headers["authorization"] == "Bearer a-token-of-mine"
    assert "x-api-key" not in headers
    assert "a-token-of-mine" not in str(error)
    assert "ANTHROPIC_AUTH_TOKEN" in str(error)


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY") as caught:
        AnthropicProvider("sk-a\nb")

    assert "sk-a" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("", "/v1/messages"),
        ("/", "/v1/messages"),
        ("/v1", "/v1/messages"),
        ("/v1/", "/v1/messages"),
        ("/api/v1?a=1", "/api/v1/messages?a=1"),
    ],
)
async def test_the_address_may_end_in_the_version_or_not(
    server: VendorServer, end: str, path: str
) -> None:
    provider = AnthropicProvider(None, server.root + end)
    await provider.complete(REQUEST)
    await provider.aclose()

    assert server.requests[0].path == path


async def test_the_key_and_the_version_are_headers(server: VendorServer) -> None:
    provider = AnthropicProvider(SecretStr(f" {KEY}\n"), server.root)
    await provider.complete(REQUEST)
    await provider.aclose()

    headers = server.requests[0].headers
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in headers


async def test_without_a_key_none_is_sent(server: VendorServer) -> None:
    provider = AnthropicProvider(None, server.root)
    await provider.complete(REQUEST)
    await provider.aclose()

    assert "x-api-key" not in server.requests[0].headers


# Answers.


async def test_an_answer_has_all_that_was_sent(server: VendorServer) -> None:
    server.will(FULL)
    provider = AnthropicProvider(None, server.root)

    response = await provider.complete(REQUEST)
    await provider.aclose()

    assert response.text == "Let me see."
    assert response.tool_calls == (
        ToolCall(id="toolu_1", name="find", arguments='{"query":"té"}'),
        ToolCall(id="toolu_2", name="find", arguments="{}"),
    )
    assert response.finish_reason is FinishReason.TOOL_CALL
    assert response.usage == Usage(
        input_tokens=21, output_tokens=9, cache_read_tokens=5, reasoning_tokens=2
    )


async def test_a_complete_answer_too_has_the_arguments_as_far_as_they_came(
    server: VendorServer,
) -> None:
    server.will(Answer(calls=[Call("toolu_1", "find", '{"query": "te')], finish_reason="length"))
    provider = AnthropicProvider(None, server.root)

    response = await provider.complete(REQUEST)
    await provider.aclose()

    assert response.finish_reason is FinishReason.LENGTH
    assert response.tool_calls[0].arguments == '{"query": "te'


async def test_a_server_that_cannot_stream_may_answer_whole(server: VendorServer) -> None:
    server.will(*[whole(wire.body(Answer("Hello"), {"model": "claude-x"}))] * 2)
    provider = AnthropicProvider(None, server.root)

    streamed = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    completed = await provider.complete(REQUEST)
    await provider.aclose()

    assert streamed == completed
    assert streamed.text == "Hello"


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_a_stream_with_a_reason_to_stop_is_whole_without_its_farewell(
    server: VendorServer, then: Then
) -> None:
    server.will(Sent(Answer("Hello"), lambda pieces: pieces[:-1], then=then))
    provider = AnthropicProvider(None, server.root)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert (response.text, response.usage and response.usage.output_tokens) == ("Hello", 9)


answers = st.builds(
    Answer,
    text=st.text(max_size=20),
    reasoning=st.text(max_size=20),
    calls=st.lists(
        st.builds(
            Call,
            id=st.sampled_from(["toolu_1", "toolu_2", ""]),
            name=st.just("find"),
            arguments=st.sampled_from(['{"a" :1}', '{"a": ', "", "{}", "nonsense", '"\\ud83d"']),
        ),
        max_size=3,
    ),
    finish_reason=st.sampled_from([None, "length", "content_filter"]),
    signature=st.none() | st.just("c2ln"),
    interleaved=st.booleans(),
)


@settings(max_examples=50)
@given(answers, st.lists(st.floats(0, 1), max_size=6), st.lists(st.floats(0, 1), max_size=6))
def test_a_stream_adds_up_to_the_complete_answer_however_its_bytes_arrive(
    answer: Answer, some: list[float], other: list[float]
) -> None:
    async def ask() -> None:
        async with VendorServer(Sent(answer, recut(some)), Sent(answer, recut(other))) as server:
            provider = AnthropicProvider(None, server.root)
            try:
                streamed = accumulate([chunk async for chunk in provider.stream(REQUEST)])
                completed = await provider.complete(REQUEST)
            finally:
                await provider.aclose()

        assert streamed == completed

    asyncio.run(ask())


# What fails, and what is said about it.


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Fault("request"), "bad_request", "range"),
        (Fault("key"), "authentication", "ANTHROPIC_API_KEY"),
        (Fault("request", "Your credit balance is too low."), "authentication", "billing"),
        (Fault("permission"), "authentication", "HTTP 403"),
        (Fault("model"), "bad_request", "Check the model's name"),
        (Fault("context"), "context_length", "new conversation"),
        (Fault("content"), "content_filter", "other words"),
        (Fault("rate", retry_after="7"), "rate_limit", "in 7 s"),
        (Fault("server"), "server", "HTTP 500"),
        (Fault("overloaded"), "server", "HTTP 529"),
        (whole({"error": {"type": "request_too_large"}}, 413), "context_length", "HTTP 413"),
        (whole({"completion": "Hello"}), "bad_response", "without any content"),
        (WEB_PAGE, "bad_response", "ANTHROPIC_BASE_URL"),
        (NOTHING, "network", "broke the connection"),
        (Sent(Answer("Hello"), first_half), "network", "cut the stream"),
        (Sent(Answer("Hello"), first_half, then="cut"), "network", "broke the connection"),
        (Sent(Answer("Hello"), first_events, fault=Fault("overloaded")), "server", "529"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_every_failure_names_the_model_the_server_and_the_fix(
    server: VendorServer, reply: Reply, kind: str, words: str, streaming: bool
) -> None:
    server.will(reply)

    error = await fail(AnthropicProvider(KEY, server.root), streaming=streaming)

    assert error.kind == kind
    assert words in str(error)
    assert str(error).startswith(f"anthropic/claude-x at {server.root[7:]} ")


async def test_how_long_to_wait_is_the_servers_word(server: VendorServer) -> None:
    server.will(Fault("rate", retry_after="7"))

    assert (await fail(AnthropicProvider(None, server.root))).retry_after_s == 7.0


async def test_a_server_that_is_not_there_is_asked_for_by_address() -> None:
    async with VendorServer() as gone:
        url = gone.root

    error = await fail(AnthropicProvider(None, f"{url}?key={KEY}"))

    assert error.kind is LLMErrorKind.NETWORK
    assert f"Is a server running at {url}? ANTHROPIC_BASE_URL" in str(error)


@pytest.mark.parametrize(
    "reply",
    [
        Fault("key", f"invalid x-api-key: {KEY}"),
        Sent(Answer("Hello"), first_half, fault=Fault("server", f"Failed for {KEY}.")),
        whole({"error": KEY}, 400, {"x-api-key": KEY}),
        Raw(head=f"HTTP/9 {KEY}\r\n\r\n".encode(), then="cut"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_the_key_is_in_no_error_whatever_the_server_echoes(
    server: VendorServer, reply: Reply, streaming: bool
) -> None:
    server.will(reply)

    error = await fail(AnthropicProvider(KEY, server.root), streaming=streaming)

    told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert KEY[-4:] not in told


# Time and connections.


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_silent_server_is_given_up(server: VendorServer, streaming: bool) -> None:
    server.will(SILENCE)

    error = await fail(AnthropicProvider(None, server.root, timeout_s=0.1), streaming=streaming)

    assert error.kind is LLMErrorKind.TIMEOUT


async def test_a_complete_answer_has_to_come_in_time_even_if_it_keeps_coming() -> None:
    gate = asyncio.Semaphore(0)

    async with VendorServer(Sent(FULL, gate=gate)) as server:
        call = asyncio.create_task(fail(AnthropicProvider(None, server.root, timeout_s=0.3)))
        while not call.done():
            gate.release()
            await asyncio.wait([call], timeout=0.1)

    assert (await call).kind is LLMErrorKind.TIMEOUT


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_a_call_closes_its_connection_within_a_second(
    server: VendorServer, streaming: bool
) -> None:
    server.will(Sent(FULL, first_half, then="hang"))
    provider = AnthropicProvider(None, server.root)

    async def call() -> None:
        if streaming:
            _ = [chunk async for chunk in provider.stream(REQUEST)]
        else:
            await provider.complete(REQUEST)

    task = asyncio.create_task(call())
    await server.asked()
    began = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(server.client_left(), 5)
    took_s = time.perf_counter() - began
    await provider.aclose()

    assert task.cancelled()
    assert took_s < 1


async def test_closing_a_stream_closes_its_connection(server: VendorServer) -> None:
    server.will(Sent(Answer("Hello, you"), first_events, then="hang"))
    provider = AnthropicProvider(None, server.root)

    async with aclosing(provider.stream(REQUEST)) as chunks:  # type: ignore[type-var]
        first = await anext(chunks)
    await asyncio.wait_for(server.client_left(), 5)
    await provider.aclose()

    assert first == TextDelta(text="Hello")


async def test_calls_after_one_another_share_a_connection(server: VendorServer) -> None:
    provider = AnthropicProvider(None, server.root)
    for _ in range(3):
        await provider.complete(REQUEST)
        _ = [chunk async for chunk in provider.stream(REQUEST)]
    await provider.aclose()

    assert (len(server.requests), server.connections_made) == (6, 1)
