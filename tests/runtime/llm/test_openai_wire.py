"""The direct provider on the wire: streams, time and connections."""

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from app.llmgine.contracts import ChatMessage, FinishReason, LLMRequest, TextDelta, accumulate
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm.providers.openai import OpenAIProvider
from runtime.llm.fake_openai import (
    SILENCE,
    Answer,
    FakeOpenAI,
    Raw,
    as_event,
    stream,
    whole,
)
from runtime.llm.openai_calls import REQUEST, fail, fail_to_stream

JSON = {"Content-Type": "application/json"}


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


async def test_a_mark_of_the_byte_order_hides_nothing(server: FakeOpenAI) -> None:
    mark = b"\xef\xbb\xbf"
    text = as_event({"choices": [{"delta": {"content": "Tea. "}}]})
    body = whole(Answer("Hello").body("gpt-x"))
    server.will(stream(mark + text, *EVENTS, "[DONE]"), replace(body, pieces=[mark, *body.pieces]))
    provider = OpenAIProvider(None, server.url)

    streamed = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    answered = await provider.complete(REQUEST)
    await provider.aclose()

    assert (streamed.text, answered.text) == ("Tea. Hello, wörld.", "Hello")


async def test_what_only_keeps_the_connection_alive_is_passed_over(server: FakeOpenAI) -> None:
    idle = b"data:\n\n: OPENROUTER PROCESSING\n\nevent: ping\n\ndata: \n\n"
    server.will(stream(idle, EVENTS[0], idle, *EVENTS[1:], idle, "[DONE]"))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert response.text == "Hello, wörld."


async def test_llama_cpp_may_tell_an_error_in_a_field_of_its_own(server: FakeOpenAI) -> None:
    said = b'error: {"code":400,"message":"the request exceeds the available context size"}\n\n'
    server.will(stream(said, "[DONE]"))

    error = await fail_to_stream(OpenAIProvider(None, server.url))

    assert (error.kind, error.status) == (LLMErrorKind.CONTEXT_LENGTH, 400)


async def test_a_header_may_be_long(server: FakeOpenAI) -> None:
    body = whole(Answer("Hello").body("gpt-x"))
    server.will(replace(body, headers={**body.headers, "X-Policy": "x" * 10_000}))
    provider = OpenAIProvider(None, server.url)

    response = await provider.complete(REQUEST)
    await provider.aclose()

    assert response.text == "Hello"


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


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain", None])
async def test_a_server_that_cannot_stream_may_answer_whole_under_any_label(
    server: FakeOpenAI, label: str | None
) -> None:
    body = whole(Answer("Hello").body("gpt-x"))
    headers = {"Content-Type": label} if label else {}
    server.will(replace(body, pieces=[b" \n", *body.pieces], headers=headers), body)
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    expected = await provider.complete(REQUEST)
    await provider.aclose()

    assert response == expected


@pytest.mark.parametrize("label", ["application/json", "text/html", "text/plain", None])
async def test_a_stream_is_a_stream_under_any_label(server: FakeOpenAI, label: str | None) -> None:
    headers = {"Content-Type": label} if label else {}
    server.will(replace(stream(b"\n", *EVENTS, "[DONE]"), headers=headers))
    provider = OpenAIProvider(None, server.url)

    response = accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert response.text == "Hello, wörld."


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


async def test_a_server_that_takes_no_connection_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy, ExitStack() as waiting:
        address = busy.getsockname()
        for _ in range(3):  # More than wait for `accept`, so the next one is not answered.
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)

        error = await fail_to_stream(
            OpenAIProvider(None, f"http://127.0.0.1:{address[1]}/v1", timeout_s=0.2)
        )

    assert error.kind is LLMErrorKind.NETWORK
    assert "no connection within 0.2 s" in str(error)


# Proxies.


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_environments_proxy_is_used(
    server: FakeOpenAI, no_proxies: None, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, server.root.replace("http://", scheme))
    provider = OpenAIProvider(None, "http://vendor.invalid/v1")

    await provider.complete(REQUEST)
    await provider.aclose()

    assert server.requests[0].path == "http://vendor.invalid/v1/chat/completions"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_this_machine_is_reached_without_a_proxy(
    server: FakeOpenAI, no_proxies: None, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("all_proxy", server.root)

    await fail(OpenAIProvider(None, f"http://{host}:1/v1"))

    assert not server.requests


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://me:canary@127.0.0.1:1", "socks5://127.0.0.1:1 is no HTTP proxy"),
        ("http://me:canary@127.0.0.1:1", "http://127.0.0.1:1 cannot be reached"),
        ("http://me:canary@127.0.0.1:port", "is no HTTP proxy"),
    ],
)
async def test_a_proxy_that_fails_is_named_without_its_password(
    no_proxies: None, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)

    error = await fail(OpenAIProvider(None, "https://vendor.invalid/v1"))

    assert error.kind is LLMErrorKind.NETWORK
    assert words in str(error)
    assert "canary" not in "".join(traceback.format_exception(error))


async def test_a_proxy_that_refuses_is_not_taken_for_the_server(
    no_proxies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://me:canary@127.0.0.1:{port}")
        error = await fail(OpenAIProvider(None, "https://vendor.invalid/v1"))

    assert error.kind is LLMErrorKind.NETWORK
    assert f"http://127.0.0.1:{port} refuses (HTTP 407)" in str(error)
    assert "canary" not in "".join(traceback.format_exception(error))


# Connections.


async def test_closing_a_stream_closes_its_connection_within_a_second(
    server: FakeOpenAI,
) -> None:
    server.will(stream(*EVENTS[:3], then="hang"))
    provider = OpenAIProvider(None, server.url)

    async with aclosing(provider.stream(REQUEST)) as chunks:  # type: ignore[type-var]
        first = await anext(chunks)
    await asyncio.wait_for(server.client_left(), 1)
    await provider.aclose()

    assert first == TextDelta(text="Hello")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "reply",
    [SILENCE, Raw([], then="hang"), Raw([b'{"id":'], headers=JSON, then="hang")],
    ids=["no head", "no byte", "half a body"],
)
async def test_cancelling_a_call_closes_its_connection_within_a_second(
    server: FakeOpenAI, reply: Raw, streaming: bool
) -> None:
    server.will(reply)
    provider = OpenAIProvider(None, server.url)

    async def call() -> None:
        if streaming:
            _ = [chunk async for chunk in provider.stream(REQUEST)]
        else:
            await provider.complete(REQUEST)

    task = asyncio.create_task(call())
    await server.asked()
    task.cancel()
    await asyncio.wait_for(server.client_left(), 1)
    await asyncio.gather(task, return_exceptions=True)
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
    thread = threading.Thread(target=other.run_forever, daemon=True)
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
