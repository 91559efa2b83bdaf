"""What is special about the provider on the package `openai`: it is optional, and may be yours."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from app.llmgine.contracts import ChatMessage, LLMRequest, accumulate
from app.llmgine.errors import LLMError, LLMErrorKind, MissingExtraError, MissingKeyError
from app.llmgine.llm.providers.openai_sdk import OpenAISDKProvider
from runtime.llm.fake_openai import Answer, FakeOpenAI, Raw, refusal, stream

with_openai = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")

REQUEST = LLMRequest(model="gpt-4o", messages=(ChatMessage.user("hi"),))
UNUSED = """
import sys
from importlib.util import find_spec

import app.llmgine
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from app.llmgine.llm.providers.openai_sdk import OpenAISDKProvider

for extra, make in (("openai", lambda: OpenAISDKProvider("sk-x")), ("litellm", LiteLLMProvider)):
    if find_spec(extra) is not None:
        make()
heavy = {"aiohttp", "anthropic", "httpx", "httpx2", "litellm", "openai"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_without_the_package_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(MissingExtraError, match="uv sync --extra openai"):
        OpenAISDKProvider("sk-x")


def test_no_vendors_package_is_imported_before_the_first_call() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNUSED],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


@with_openai
def test_openais_own_host_needs_a_key() -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        OpenAISDKProvider(None)


@with_openai
async def test_what_the_package_does_not_know_is_sent_all_the_same(server: FakeOpenAI) -> None:
    provider = OpenAISDKProvider("sk-x", server.url)
    extra = {"top_k": 7, "metadata": {"team": {"name": "tea"}}}

    await provider.complete(REQUEST.model_copy(update={"extra_body": extra}))
    await provider.aclose()

    body = server.requests[0].body
    assert {name: body[name] for name in extra} == extra


@with_openai
async def test_a_client_of_yours_is_used_without_its_retries_and_left_open(
    server: FakeOpenAI,
) -> None:
    openai: Any = import_module("openai")
    mine = openai.AsyncAzureOpenAI(
        api_key="azure-key-123",
        azure_endpoint=server.url.removesuffix("/v1"),
        api_version="2024-10-21",
        max_retries=5,
    )
    server.will(refusal(500, "Oops"), Answer("Hello"))
    provider = OpenAISDKProvider(client=mine)

    with pytest.raises(LLMError):
        await provider.complete(REQUEST)
    response = await provider.complete(REQUEST)
    await provider.aclose()

    assert response.text == "Hello"
    assert len(server.requests) == 2
    assert server.requests[0].path == (
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    )
    assert server.requests[0].headers["api-key"] == "azure-key-123"
    assert not mine.is_closed()
    await mine.close()


@with_openai
async def test_a_stream_leaves_its_connection_to_the_next_call(server: FakeOpenAI) -> None:
    provider = OpenAISDKProvider("sk-x", server.url)

    for _ in range(3):
        accumulate([chunk async for chunk in provider.stream(REQUEST)])
    await provider.aclose()

    assert server.connections_made == 1


@with_openai
async def test_a_stream_may_not_outlast_the_requests_own_limit(server: FakeOpenAI) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:3], then="hang"))
    provider = OpenAISDKProvider("sk-x", server.url, timeout_s=30)

    with pytest.raises(LLMError) as caught:
        _ = [c async for c in provider.stream(REQUEST.model_copy(update={"timeout_s": 0.3}))]
    await provider.aclose()

    assert caught.value.kind is LLMErrorKind.TIMEOUT


@with_openai
@pytest.mark.parametrize("events", [0, 3], ids=["before the first chunk", "in the middle"])
async def test_a_cancelled_stream_closes_its_connection(server: FakeOpenAI, events: int) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:events], then="hang"))
    provider = OpenAISDKProvider("sk-x", server.url)

    async def read() -> None:
        chunks = provider.stream(REQUEST)
        assert isinstance(chunks, AsyncGenerator)
        async with aclosing(chunks):
            async for _ in chunks:
                pass

    reading = asyncio.create_task(read())
    await server.asked()
    reading.cancel()
    await asyncio.wait_for(server.client_left(), 1)

    with pytest.raises(asyncio.CancelledError):
        await reading
    await provider.aclose()


@with_openai
async def test_a_redirect_is_told_and_not_followed(server: FakeOpenAI) -> None:
    server.will(Raw([b""], 307, {"Location": "http://elsewhere.invalid/v1"}))
    provider = OpenAISDKProvider("sk-x", server.url)

    with pytest.raises(LLMError, match=r"redirects to elsewhere\.invalid"):
        await provider.complete(REQUEST)
    await provider.aclose()
