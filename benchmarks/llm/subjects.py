"""Who calls the server: our providers, and the SDKs by their documented simplest call."""

from __future__ import annotations

import asyncio
import importlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "gpt-5.1"
WORDS = [f"word{number} " for number in range(20)]
TEXT = "".join(WORDS)
PROMPT = "Say twenty words, and nothing else."
KEY = "none"


@dataclass(frozen=True, slots=True)
class Caller:
    """One call each; both return the text."""

    complete: Callable[[], Awaitable[str]]
    stream: Callable[[], Awaitable[str]]


def _ours(asked: Any, model: str) -> Caller:
    """A manager or a provider of ours."""
    from app.llmgine.contracts import ChatMessage, LLMRequest, TextDelta

    def request() -> Any:
        return LLMRequest(model=model, messages=(ChatMessage.user(PROMPT),))

    async def complete() -> str:
        text: str = (await asked.complete(request())).text
        return text

    async def stream() -> str:
        async with aclosing(asked.stream(request())) as chunks:
            return "".join([chunk.text async for chunk in chunks if isinstance(chunk, TextDelta)])

    return Caller(complete, stream)


def managed(url: str) -> Caller:
    """As an application calls: routed, priced, with a span, a line of JSON, and all metrics."""
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from app.llmgine.llm import LLMManager, default_providers
    from app.llmgine.llm.prices import PriceTable
    from app.llmgine.observability import JsonlSink, Observer

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    set_meter_provider(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
    sink = JsonlSink(Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])) / "app.jsonl")
    manager = LLMManager(
        default_providers(openai_api_key=KEY, openai_base_url=url),
        prices=PriceTable.load(),
        observer=Observer([sink], exporters=[Nowhere()]),
    )
    return _ours(manager, f"openai/{MODEL}")


def direct(url: str) -> Caller:
    from app.llmgine.llm.providers.openai import OpenAIProvider

    return _ours(OpenAIProvider(KEY, url), MODEL)


def openai_provider(url: str) -> Caller:
    from app.llmgine.llm.providers.openai_sdk import OpenAISDKProvider

    return _ours(OpenAISDKProvider(KEY, url), MODEL)


def litellm_provider(url: str) -> Caller:
    from app.llmgine.llm.providers.litellm import LiteLLMProvider

    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url}
    return _ours(LiteLLMProvider(environment), f"openai/{MODEL}")


def _theirs(create: Callable[..., Awaitable[Any]], model: str) -> Caller:
    asked = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}

    async def complete() -> str:
        text: str = (await create(**asked)).choices[0].message.content
        return text

    async def stream() -> str:
        options = {"include_usage": True}
        chunks: AsyncIterator[Any] = await create(**asked, stream=True, stream_options=options)
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

    return Caller(complete, stream)


def openai(url: str) -> Caller:
    client = importlib.import_module("openai").AsyncOpenAI(api_key=KEY, base_url=url)
    return _theirs(client.chat.completions.create, MODEL)


def litellm(url: str) -> Caller:
    os.environ |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url}
    return _theirs(importlib.import_module("litellm").acompletion, f"openai/{MODEL}")


async def at_once(count: int, limit: int, call: Callable[[], Awaitable[object]]) -> None:
    """Call that often, so many at a time."""
    left = iter(range(count))

    async def keep_calling() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(keep_calling())
