"""The direct provider against a server that is loopback's own: addresses, keys, time, bytes."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import traceback
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr

from app.llmgine.contracts import ChatMessage, FinishReason, LLMRequest, TextDelta, accumulate
from app.llmgine.errors import ConfigurationError, LLMError, LLMErrorKind, MissingKeyError
from app.llmgine.llm.providers.openai import OpenAIProvider
from runtime.llm.fake_openai import (
    SILENCE,
    Answer,
    FakeOpenAI,
    Raw,
    as_event,
    refusal,
    stream,
    whole,
)

KEY = "sk-canary-0123456789abcdef"
REQUEST = LLMRequest(model="gpt-x", messages=(ChatMessage.user("hi"),))
JSON = {"Content-Type": "application/json"}


async def fail(provider: OpenAIProvider, request: LLMRequest = REQUEST) -> LLMError:
    with pytest.raises(LLMError) as caught:
        await provider.complete(request)
    await provider.aclose()
    return caught.value


async def fail_to_stream(provider: OpenAIProvider, request: LLMRequest = REQUEST) -> LLMError:
    with pytest.raises(LLMError) as caught:
        _ = [chunk async for chunk in provider.stream(request)]
    await provider.aclose()
    return caught.value


# The key and the address.


def test_openai_without_a_key_is_refused_before_any_call() -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        OpenAIProvider(None)


@pytest.mark.parametrize("key", ["", "  ", SecretStr("")])
def test_an_empty_key_is_a_missing_one(key: SecretStr | str) -> None:
    with pytest.raises(MissingKeyError):
        OpenAIProvider(key, "https://api.openai.com/v1/")


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-ключ"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY") as caught:
        OpenAIProvider(key)

    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["localhost:11434/v1", "ftp://x/v1", "http://", "http://u:p@host/v1", "http://host:port/v1"],
)
def test_an_address_that_cannot_be_called_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL"):
        OpenAIProvider(None, address)


async def test_without_a_key_none_is_sent(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)
    await provider.complete(REQUEST)
    await provider.aclose()

    assert "authorization" not in server.requests[0].headers


async def test_the_key_is_sent_as_a_bearer_token(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(SecretStr(f" {KEY}\n"), server.url)
    await provider.complete(REQUEST)
    await provider.aclose()

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/?v=1", "/v1/chat/completions?v=1"),
    ],
)
async def test_how_the_address_ends_makes_no_difference(
    server: FakeOpenAI, end: str, path: str
) -> None:
    provider = OpenAIProvider(None, server.url + end)
    await provider.complete(REQUEST)
    await provider.aclose()

    assert server.requests[0].path == path


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://openrouter.ai/api/v1", "max_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_the_host_decides_how_the_limit_on_tokens_is_called(address: str, field: str) -> None:
    assert OpenAIProvider(KEY, address)._max_tokens_field == field


# What fails, and what is said about it.


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (refusal(400, "Unknown parameter: 'x'."), "bad_request", "Unknown parameter"),
        (refusal(401, "Incorrect API key"), "authentication", "OPENAI_API_KEY"),
        (refusal(402, "Insufficient Balance"), "authentication", "billing"),
        (refusal(403, "Country not supported"), "authentication", "Country"),
        (refusal(404, "The model `gpt-x` does not exist"), "bad_request", "Check the model's name"),
        (Raw([b"404 page not found"], 404), "bad_request", "ends in /v1"),
        (refusal(408, "Timeout"), "timeout", "HTTP 408"),
        (refusal(413, "Too large"), "context_length", "new conversation"),
        (refusal(429, "Slow down"), "rate_limit", "Wait a little"),
        (
            refusal(429, "You exceeded your current quota", code="insufficient_quota"),
            "rate_limit",
            "billing",
        ),
        (
            refusal(400, "Too long", code="context_length_exceeded"),
            "context_length",
            "LLMGINE_CONTEXT_BUDGET_TOKENS",
        ),
        (refusal(400, "No", code="content_filter"), "content_filter", "other words"),
        (refusal(500, "Oops"), "server", "HTTP 500"),
        (refusal(529, "Overloaded"), "server", "Overloaded"),
        (Raw([b"<html><title>502 Bad Gateway</title>..."], 502), "server", "502 Bad Gateway"),
        (whole({"error": "model 'gpt-x' not found"}, 404), "bad_request", "model's name"),
        (whole([{"error": {"message": "No key", "code": 401}}], 401), "authentication", "No key"),
        (whole({"detail": "Oh no"}, 422), "bad_request", "Oh no"),
        (Raw([], 500), "server", "HTTP 500"),
        (Raw([b"\xff\xfe"], 500), "server", "HTTP 500"),
        (Raw([], 307, {"Location": "https://other.example/v1"}), "bad_response", "other.example"),
        (Raw([b"<html>hello"], 200, {"Content-Type": "text/html"}), "bad_response", "web page"),
        (Raw([b'{"choices": ['], 200, JSON), "bad_response", "invalid JSON"),
        (Raw([b"[" * 100_000], 200, JSON), "bad_response", "invalid JSON"),
        (whole({"choices": []}), "bad_response", "without any choices"),
        (whole({"error": {"message": "late", "code": 429}}), "rate_limit", "late"),
        (Raw([b'{"id": "x",'], 200, JSON, then="cut"), "network", "broke the connection"),
        (Raw(head=b"SSH-2.0-OpenSSH_9.2\r\n\r\n", then="cut"), "bad_response", "HTTP"),
        (Raw(head=b"", then="cut"), "network", "broke the connection"),
    ],
)
async def test_every_failure_names_the_model_the_server_and_the_fix(
    server: FakeOpenAI, reply: Raw, kind: str, words: str
) -> None:
    server.will(reply, reply)

    errors = [
        await fail(OpenAIProvider(KEY, server.url)),
        await fail_to_stream(OpenAIProvider(KEY, server.url)),
    ]

    for error in errors:
        assert error.kind == kind
        assert words in str(error)
        assert str(error).startswith(f"openai/gpt-x at {server.url[7:-3]} ")
        assert (error.provider, error.model) == ("openai", "gpt-x")
        assert error.status == (reply.status if reply.status >= 300 else error.status)


async def test_a_server_that_is_not_there_is_asked_for_by_address() -> None:
    async with FakeOpenAI() as gone:
        url = gone.url

    error = await fail(OpenAIProvider(None, url))

    assert error.kind is LLMErrorKind.NETWORK
    assert f"Is a server running at {url}? OPENAI_BASE_URL" in str(error)


async def test_a_host_that_is_no_host_is_a_network_error() -> None:
    error = await fail(OpenAIProvider(None, "http://host.invalid/v1", timeout_s=5))

    assert error.kind is LLMErrorKind.NETWORK


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
async def test_how_long_to_wait_is_the_servers_word(
    server: FakeOpenAI, headers: dict[str, str], wait_s: float | None
) -> None:
    server.will(refusal(429, "Slow down", headers=headers))

    assert (await fail(OpenAIProvider(None, server.url))).retry_after_s == wait_s


async def test_how_long_to_wait_may_be_a_date(server: FakeOpenAI) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.will(refusal(503, "Back soon", headers={"Retry-After": date}))

    wait_s = (await fail(OpenAIProvider(None, server.url))).retry_after_s

    assert wait_s is not None
    assert 50 < wait_s <= 60


@pytest.mark.parametrize(
    "reply",
    [
        refusal(401, f"Incorrect API key provided: {KEY}. See https://x.example."),
        refusal(401, f"Incorrect API key provided: {KEY[:6]}*****{KEY[-4:]}."),
        refusal(400, f"Bad header 'Bearer {KEY}'", headers={"X-Key": KEY}),
        whole({"error": {"message": f"no {KEY}", "code": 400}}),
        Raw([f"<html><title>{KEY}</title>".encode()], 500),
        Raw(head=f"HTTP/9 {KEY}\r\n\r\n".encode(), then="cut"),
        Raw(head=f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode(), then="cut"),
        Raw([KEY.encode()], 200, JSON),
    ],
)
async def test_the_key_is_in_no_error_whatever_the_server_echoes(
    server: FakeOpenAI, reply: Raw
) -> None:
    server.will(reply, reply)

    errors = [
        await fail(OpenAIProvider(KEY, server.url)),
        await fail_to_stream(OpenAIProvider(KEY, server.url)),
    ]

    for error in errors:
        told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        assert KEY[-4:] not in told
        cause = error.__cause__
        assert cause is None or KEY not in repr(cause) + repr(cause.args)


async def test_an_excerpt_is_one_short_line(server: FakeOpenAI) -> None:
    server.will(refusal(400, "no\n\x1b[31m" + "x" * 10_000))

    error = await fail(OpenAIProvider(None, server.url))

    assert len(str(error)) < 500
    assert str(error).isprintable()


# Streams.


EVENTS = Answer("Hello, wörld.").events("gpt-x")


async def test_a_stream_in_the_strangest_bytes_is_the_same_stream(server: FakeOpenAI) -> None:
    sent = b"".join(as_event(event) for event in EVENTS) + as_event("[DONE]")
    strange = b": hello\r\n\r\n" + sent.replace(b"data: ", b"data:").replace(b"\n", b"\r\n")
    server.will(stream(sent), stream(*(strange[i : i + 1] for i in range(len(strange)))))
    provider = OpenAIProvider(None, server.url)

    usual, odd = [[chunk async for chunk in provider.stream(REQUEST)] for _ in range(2)]
    await provider.aclose()

    assert odd == usual
    assert accumulate(odd).text == "Hello, wörld."


async def test_a_surrogate_that_lost_its_half_does_not_break_the_stream(
    server: FakeOpenAI,
) -> None:
    broken = as_event({"choices": [{"delta": {"content": "ab"}}]}).replace(b"ab", b"a\\ud83d")
    server.will(stream(broken, *EVENTS, "[DONE]"))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert response.text == "a?Hello, wörld."


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_stream_that_stops_too_early_was_cut(
    server: FakeOpenAI, then: Any, count: int
) -> None:
    server.will(stream(*EVENTS[:count], as_event(EVENTS[3])[:20], then=then))

    error = await fail_to_stream(OpenAIProvider(None, server.url))

    assert error.kind is LLMErrorKind.NETWORK


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_a_stream_with_a_reason_to_stop_is_whole_without_its_marker(
    server: FakeOpenAI, then: Any
) -> None:
    server.will(stream(*EVENTS[:-1], then=then))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert (response.text, response.usage) == ("Hello, wörld.", None)


async def test_a_marker_without_a_reason_to_stop_is_enough(server: FakeOpenAI) -> None:
    server.will(stream(*EVENTS[:-2], "[DONE]"))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert response.finish_reason is FinishReason.STOP


async def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_said(
    server: FakeOpenAI,
) -> None:
    server.will(stream(*EVENTS[:3], {"error": {"message": "Overloaded", "code": 529}}))
    provider = OpenAIProvider(None, server.url)
    heard = []

    with pytest.raises(LLMError, match="Overloaded") as caught:
        async for chunk in provider.stream(REQUEST):
            heard.append(chunk)
    await provider.aclose()

    assert heard == [TextDelta(text="Hello"), TextDelta(text=", wör")]
    assert (caught.value.kind, caught.value.status) == (LLMErrorKind.SERVER, 529)


@pytest.mark.parametrize("event", ["not json", '{"choices": [', "[" * 100_000])
async def test_an_event_that_is_not_json_is_a_bad_response(server: FakeOpenAI, event: str) -> None:
    server.will(stream(EVENTS[0], event))

    error = await fail_to_stream(OpenAIProvider(None, server.url))

    assert error.kind is LLMErrorKind.BAD_RESPONSE


async def test_a_server_that_cannot_stream_may_answer_whole(server: FakeOpenAI) -> None:
    body = whole(Answer("Hello").body("gpt-x"))
    server.will(body, body)
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    expected = await provider.complete(REQUEST)
    await provider.aclose()

    assert response == expected


async def test_a_line_may_be_long_but_not_endless(server: FakeOpenAI) -> None:
    text = "x" * 1_000_000
    server.will(stream({"choices": [{"delta": {"content": text}}]}, *EVENTS, "[DONE]"))
    server.will(stream(*([b"data: " + b"x" * 2**20] * 40), then="hang"))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    error = await fail_to_stream(provider)

    assert response.text == f"{text}Hello, wörld."
    assert error.kind is LLMErrorKind.BAD_RESPONSE


async def test_a_body_may_be_long_but_not_endless(server: FakeOpenAI) -> None:
    server.will(Raw([b"x" * 2**20] * 40, headers=JSON, then="hang"))

    error = await fail(OpenAIProvider(None, server.url))

    assert error.kind is LLMErrorKind.BAD_RESPONSE


async def test_a_request_of_megabytes_is_sent(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)
    prompt = "x" * 3_000_000

    response = await provider.complete(
        LLMRequest(model="gpt-x", messages=(ChatMessage.user(prompt),))
    )
    await provider.aclose()

    assert response.text == f"You said: {prompt}"


# Time.


@pytest.mark.parametrize(
    "reply",
    [SILENCE, Raw([b'{"id":'], headers=JSON, then="hang"), stream(*EVENTS[:3], then="hang")],
    ids=["no answer", "half a body", "half a stream"],
)
async def test_a_server_that_falls_silent_is_given_up(server: FakeOpenAI, reply: Raw) -> None:
    server.will(reply, reply)

    errors = [
        await fail(OpenAIProvider(None, server.url, timeout_s=0.1)),
        await fail_to_stream(OpenAIProvider(None, server.url, timeout_s=0.1)),
    ]

    assert [error.kind for error in errors] == [LLMErrorKind.TIMEOUT] * 2
    assert "0.1 s" in str(errors[0])
    assert "LLMGINE_REQUEST_TIMEOUT_S" in str(errors[1])
    await server.client_left()


async def test_a_request_may_limit_the_whole_call(server: FakeOpenAI) -> None:
    hurried = REQUEST.model_copy(update={"timeout_s": 0.1})
    server.will(SILENCE, stream(*EVENTS[:3], then="hang"))

    errors = [
        await fail(OpenAIProvider(None, server.url), hurried),
        await fail_to_stream(OpenAIProvider(None, server.url), hurried),
    ]

    assert [error.kind for error in errors] == [LLMErrorKind.TIMEOUT] * 2
    assert "0.1 s" in str(errors[1])


async def test_a_request_may_take_longer_than_silence_does(server: FakeOpenAI) -> None:
    patient = REQUEST.model_copy(update={"timeout_s": 30})
    provider = OpenAIProvider(None, server.url, timeout_s=0.05)
    server.will(SILENCE)
    waiting = asyncio.create_task(provider.complete(patient))
    await server.asked()

    done, _ = await asyncio.wait([waiting], timeout=0.3)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await provider.aclose()

    assert not done


# Connections.


async def test_closing_a_stream_closes_its_connection_at_once(server: FakeOpenAI) -> None:
    server.will(stream(*EVENTS[:3], then="hang"))
    provider = OpenAIProvider(None, server.url)

    async with aclosing(provider.stream(REQUEST)) as chunks:  # type: ignore[type-var]
        first = await anext(chunks)
    await asyncio.wait_for(server.client_left(), 5)
    await provider.aclose()

    assert first == TextDelta(text="Hello")


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_a_call_closes_its_connection_at_once(
    server: FakeOpenAI, streaming: bool
) -> None:
    server.will(SILENCE)
    provider = OpenAIProvider(None, server.url)

    async def call() -> None:
        if streaming:
            _ = [chunk async for chunk in provider.stream(REQUEST)]
        else:
            await provider.complete(REQUEST)

    task = asyncio.create_task(call())
    await server.asked()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(server.client_left(), 5)
    await provider.aclose()

    assert task.cancelled()


async def test_calls_after_one_another_share_a_connection(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)
    for _ in range(3):
        await provider.complete(REQUEST)
        _ = [chunk async for chunk in provider.stream(REQUEST)]
    await provider.aclose()

    assert (len(server.requests), server.connections_made) == (6, 1)


async def test_a_connection_is_shared_though_the_stream_ends_after_its_marker(
    server: FakeOpenAI,
) -> None:
    server.will(replace(stream(*EVENTS, "[DONE]"), pause_s=0.02))
    provider = OpenAIProvider(None, server.url)
    _ = [chunk async for chunk in provider.stream(REQUEST)]
    await provider.complete(REQUEST)
    await provider.aclose()

    assert server.connections_made == 1


async def test_the_end_of_a_stream_is_told_though_the_server_stays(server: FakeOpenAI) -> None:
    server.will(stream(*EVENTS, "[DONE]", then="hang"))
    provider = OpenAIProvider(None, server.url)

    began = time.perf_counter()
    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    took_s = time.perf_counter() - began
    await provider.aclose()

    assert response.text == "Hello, wörld."
    assert took_s < 5


async def test_closing_the_provider_leaves_no_connection(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)
    await asyncio.gather(*(provider.complete(REQUEST) for _ in range(20)))
    await provider.aclose()
    await asyncio.wait_for(server.all_left(), 5)
    gc.collect()  # A session left open would warn here, and a warning fails the test.

    assert len(server.requests) == 20


async def test_one_provider_serves_several_event_loops(server: FakeOpenAI) -> None:
    provider = OpenAIProvider(None, server.url)
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    here = await provider.complete(REQUEST)
    there = await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(provider.complete(REQUEST), other)
    )
    await provider.aclose()
    await asyncio.wait_for(server.all_left(), 5)
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join)
    other.close()

    assert here.text == there.text == "You said: hi"


def test_aiohttp_is_not_imported_before_the_first_call() -> None:
    code = (
        "import sys; from app.llmgine.llm.providers.openai import OpenAIProvider; "
        "OpenAIProvider('sk-x'); print('aiohttp' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
