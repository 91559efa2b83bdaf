"""The manager: which provider answers to a name, and what becomes of the call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    LLMRequest,
    TextDelta,
    ToolCallArgumentsDelta,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind, MissingKeyError, UnknownModelError
from app.llmgine.llm import LLMManager, Provider, default_providers
from app.llmgine.llm.providers.scripted import ScriptedProvider
from app.llmgine.observability import Observer

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
