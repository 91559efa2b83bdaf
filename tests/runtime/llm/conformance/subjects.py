"""The providers, each ready to be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    Usage,
    accumulate,
)
from app.llmgine.errors import LLMError
from app.llmgine.llm import Provider
from app.llmgine.llm.providers.anthropic import AnthropicProvider
from app.llmgine.llm.providers.cassette import CassetteProvider
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from app.llmgine.llm.providers.offline import OfflineProvider
from app.llmgine.llm.providers.openai import OpenAIProvider, OpenAIResponsesProvider
from app.llmgine.llm.providers.openai_sdk import OpenAISDKProvider
from app.llmgine.llm.providers.schema_driven import SchemaProvider
from app.llmgine.llm.providers.scripted import ScriptedProvider
from runtime.llm.vendors import Answer, Reply, Tokens, VendorServer

KEY = "sk-canary-0123456789abcdef"
ASKED = ChatMessage.user('Find notes about "tea"')
Speaks: TypeAlias = Literal["chat", "responses", "messages", ""]


@dataclass(frozen=True)
class Kind:
    """A provider of the table's column `column`; `needs` is the package it is made on."""

    name: str
    column: str
    make: Callable[[Subject, float], Provider]
    speaks: Speaks = ""
    model: str = "gpt-x"
    answers_as: str = ""
    needs: str = "app"
    told: bool = True
    """Whether a test can tell it what to answer."""
    own_ids: bool = False
    """Whether it makes up an id for each response, so that no two are equal in it."""

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        if find_spec(self.needs) is None:
            return [pytest.mark.skip(reason=f"{self.needs} is not installed")]
        # What litellm's own dependencies warn of is theirs.
        return [pytest.mark.filterwarnings("ignore")] if self.needs == "litellm" else []


@dataclass
class Subject:
    """One provider, and what stands behind it."""

    kind: Kind
    server: VendorServer
    folder: Path
    answers: list[Answer] = field(default_factory=list)
    made: list[Provider] = field(default_factory=list)

    def request(self, *messages: ChatMessage, **fields: Any) -> LLMRequest:
        return LLMRequest(model=self.kind.model, messages=messages or (ASKED,), **fields)

    def provider(self, timeout_s: float = 30.0) -> Provider:
        self.made.append(provider := self.kind.make(self, timeout_s))
        return provider

    def will(self, *replies: Reply) -> None:
        """What is answered next, as far as anybody can tell this provider."""
        if self.kind.speaks:
            self.server.will(*replies)
        else:
            self.answers += [reply for reply in replies if isinstance(reply, Answer)]

    async def both(
        self, reply: Reply, request: LLMRequest | None = None, *, timeout_s: float = 30.0
    ) -> tuple[LLMResponse, LLMResponse]:
        """What `complete` and `stream` make of it."""
        self.will(reply, reply)
        request = request or self.request()
        provider = self.provider(timeout_s)
        responses = await provider.complete(request), await collect(provider, request)
        if not self.kind.own_ids:
            return responses
        whole, streamed = (r.model_copy(update={"id": "its own"}) for r in responses)
        return whole, streamed

    async def failures(
        self, *replies: Reply, timeout_s: float = 30.0, request: LLMRequest | None = None
    ) -> list[LLMError]:
        """How `complete` fails, and how `stream` does: each is asked for once.

        One reply is for both, two are for one each.
        """
        self.will(replies[0], replies[-1])
        request = request or self.request()
        provider = self.provider(timeout_s)
        with pytest.raises(LLMError) as completing:
            await provider.complete(request)
        with pytest.raises(LLMError) as streaming:
            await collect(provider, request)
        assert len(self.server.requests) == 2
        return [completing.value, streaming.value]


async def collect(provider: Provider, request: LLMRequest) -> LLMResponse:
    return accumulate([chunk async for chunk in provider.stream(request)])


@asynccontextmanager
async def subject_of(kind: Kind, folder: Path) -> AsyncIterator[Subject]:
    async with VendorServer() as server:
        subject = Subject(kind, server, folder)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OPENAI_API_KEY", KEY)
            environment.setenv("OPENAI_BASE_URL", server.url)
            environment.setenv("ANTHROPIC_API_KEY", KEY)
            environment.setenv("ANTHROPIC_API_BASE", server.root)
            try:
                yield subject
            finally:
                for provider in subject.made:
                    await provider.aclose()


def expected(answer: Answer) -> LLMResponse:
    """The answer in our own contract."""
    parts: list[Part] = []
    if answer.reasoning or answer.signature:
        signed_by = "scripted" if answer.signature else None
        parts.append(
            ReasoningPart(text=answer.reasoning, signature=answer.signature, signed_by=signed_by)
        )
    if answer.text:
        parts.append(TextPart(text=answer.text))
    parts += [ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in answer.calls]
    why = {"tool_calls": "tool_call"}.get(answer.why, answer.why)
    tokens = answer.usage
    return LLMResponse(
        id=answer.id,
        model="gpt-x",
        provider="scripted",
        message=ChatMessage(role="assistant", parts=tuple(parts)),
        finish_reason=FinishReason(why),
        usage=None if tokens is None else _usage(tokens),
    )


def _usage(tokens: Tokens) -> Usage:
    return Usage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        reasoning_tokens=tokens.reasoning,
    )


def _scripted(subject: Subject, _: float = 30.0) -> ScriptedProvider:
    """It says what it was told; then it talks on, for those cases that do not care."""
    told = [expected(answer) for answer in subject.answers]
    talk = ToolCall(id="call_1", name="find_notes", arguments='{"query": "tea"}')
    return ScriptedProvider([*told, *[talk, talk][len(told) :]])


def _recording(subject: Subject, _: float) -> Provider:
    return CassetteProvider(subject.folder / "recorded", _scripted(subject), mode="record")


class _Replaying:
    """Records each call, and then answers it from what was recorded."""

    name = "cassette"

    def __init__(self, subject: Subject) -> None:
        self._script = _scripted(subject)
        self._folder = subject.folder
        self._calls = 0

    async def complete(self, request: LLMRequest) -> LLMResponse:
        path = self._next_path()
        recorder = CassetteProvider(path, self._script, mode="record")
        await recorder.complete(request)
        await recorder.aclose()
        return await CassetteProvider(path, mode="replay").complete(request)

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        path = self._next_path()
        recorder = CassetteProvider(path, self._script, mode="record")
        async for _ in recorder.stream(request):
            pass
        await recorder.aclose()
        async for chunk in CassetteProvider(path, mode="replay").stream(request):
            yield chunk

    async def aclose(self) -> None: ...

    def _next_path(self) -> Path:
        self._calls += 1
        return self._folder / f"{id(self)}-{self._calls}.jsonl"


def _litellm_router(subject: Subject, timeout_s: float) -> Provider:
    target = {
        "model_name": "fast",
        "litellm_params": {
            "model": "openai/gpt-4o",
            "api_key": KEY,
            "api_base": subject.server.url,
            "max_retries": 0,
        },
    }
    # One owner of retries: the manager, which decides when a target rests as well.
    router = import_module("litellm").Router(
        model_list=[target], num_retries=0, max_fallbacks=0, disable_cooldowns=True
    )
    return LiteLLMProvider(timeout_s=timeout_s, router=router)


KINDS = (
    Kind("offline", "offline", lambda *_: OfflineProvider(), told=False),
    Kind("schema", "schema", lambda *_: SchemaProvider(), told=False),
    Kind("scripted", "scripted", _scripted),
    Kind("cassette-recording", "cassette", _recording, answers_as="scripted"),
    Kind("cassette-replaying", "cassette", lambda s, _: _Replaying(s), answers_as="scripted"),
    Kind(
        *("openai", "openai"),
        lambda s, timeout_s: OpenAIProvider(KEY, s.server.url, timeout_s=timeout_s),
        speaks="chat",
    ),
    Kind(
        *("openai-responses", "openai-responses"),
        lambda s, timeout_s: OpenAIResponsesProvider(KEY, s.server.url, timeout_s=timeout_s),
        speaks="responses",
    ),
    Kind(
        *("anthropic", "anthropic"),
        lambda s, timeout_s: AnthropicProvider(KEY, s.server.root, timeout_s=timeout_s),
        speaks="messages",
        model="claude-x",
    ),
    Kind(
        *("openai-sdk", "openai-sdk"),
        lambda s, timeout_s: OpenAISDKProvider(KEY, s.server.url, timeout_s=timeout_s),
        speaks="chat",
        needs="openai",
    ),
    Kind(
        *("litellm-openai", "litellm/openai"),
        lambda _, timeout_s: LiteLLMProvider(timeout_s=timeout_s),
        speaks="chat",
        model="openai/gpt-4o",
        needs="litellm",
    ),
    Kind(
        *("litellm-anthropic", "litellm/anthropic"),
        lambda _, timeout_s: LiteLLMProvider(timeout_s=timeout_s),
        speaks="messages",
        model="anthropic/claude-sonnet-4-5",
        own_ids=True,
        needs="litellm",
    ),
    Kind(
        *("litellm-router", "litellm Router"),
        _litellm_router,
        speaks="chat",
        model="fast",
        needs="litellm",
    ),
)
