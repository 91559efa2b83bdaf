"""The manager: which provider answers to a name, and what becomes of the call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import SettingsConfigDict

from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    LLMRequest,
    LLMResponse,
    TextDelta,
    ToolCallArgumentsDelta,
    accumulate,
)
from app.llmgine.errors import (
    ConfigurationError,
    LLMError,
    LLMErrorKind,
    MissingKeyError,
    StoreError,
    UnknownModelError,
)
from app.llmgine.llm import (
    Capabilities,
    LLMManager,
    Provider,
    RetryPolicy,
    Route,
    Target,
    default_providers,
)
from app.llmgine.llm.budget import Ledger
from app.llmgine.llm.providers.scripted import ScriptedProvider
from app.llmgine.observability import Observer
from app.llmgine.settings import RuntimeSettings

SECRET_TEXT = "the-prompt-itself"


def ask(model: str, **fields: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(ChatMessage.user(SECRET_TEXT),), **fields)


def scripted(*steps: Any, observer: Observer | None = None) -> LLMManager:
    return LLMManager({"scripted": lambda: ScriptedProvider(steps)}, observer=observer)


def once(*steps: Any) -> LLMManager:
    """Its model `once` is not asked again after an error."""
    route = Route((Target("scripted/m"),), retry=RetryPolicy(retries=0))
    return LLMManager({"scripted": lambda: ScriptedProvider(steps)}, models={"once": route})


def timeless(response: LLMResponse) -> LLMResponse:
    return response.model_copy(
        update={"attempts": [(one.target, one.reason, one.error) for one in response.attempts]}
    )


# Names.


@pytest.mark.parametrize(
    ("model", "resolved"),
    [
        ("offline", ("offline", "offline")),
        ("offline/any", ("offline", "any")),
        ("openai/gpt-5.1", ("openai", "gpt-5.1")),
        ("openai/org/model:free", ("openai", "org/model:free")),
        ("openai-responses/gpt-5.1", ("openai-responses", "gpt-5.1")),
        ("openai-sdk/gpt-5.1", ("openai-sdk", "gpt-5.1")),
        ("anthropic/claude-x", ("anthropic", "claude-x")),
        ("schema", ("schema", "schema")),
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
        ("claude-x", "Write anthropic/claude-x or litellm/claude-x."),
        ("xai/grok", "Write litellm/xai/grok."),
        ("fats", "Did you mean 'fast'?"),
        ("anthropic", "write anthropic/ and the model's name"),
        ("oflline", "Did you mean 'offline'?"),
        ("Offline", "Did you mean 'offline'?"),
        ("opnai/gpt-5.1", "Did you mean 'openai/gpt-5.1'?"),
        ("OpenAI/gpt-5.1", "Did you mean 'openai/gpt-5.1'?"),
        ("openai", "write openai/ and the model's name, as in openai/gpt-5.1"),
        ("openai/", "write openai/ and the model's name"),
        ("litellm", "as in litellm/xai/"),
        ("offline/", "write offline"),
        ("", "Models are named fast, offline, openai/<model>, anthropic/<model>"),
        ("/gpt", "Models are named fast, offline, openai/<model>, anthropic/<model>"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_write(model: str, advice: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        LLMManager(default_providers(), models={"fast": ["offline"]}).check(model)

    assert str(caught.value).startswith(f"{model!r} is not a model.")
    assert advice in str(caught.value)


def test_advice_names_only_providers_that_are_there() -> None:
    with pytest.raises(UnknownModelError) as caught:
        scripted().check("gpt-5.1")

    assert str(caught.value) == "'gpt-5.1' is not a model. Models are named scripted."


def test_a_missing_key_is_found_without_a_call() -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        LLMManager(default_providers()).check("openai/gpt-5.1")


@pytest.mark.parametrize("name", ["", "a/b", "offline"])
def test_a_route_must_have_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ConfigurationError, match="A route cannot be called"):
        LLMManager(default_providers(), models={name: ["schema"]})


@pytest.mark.parametrize("models", [[], "offline"])
def test_a_route_needs_a_list_of_targets(models: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs"):
        LLMManager(default_providers(), models={"fast": models})


def test_the_check_of_a_route_lists_every_target_that_cannot_be_used() -> None:
    models = {"fast": ["openai/gpt-5.1", "offline", "nobody/x"], "sure": ["offline", "offline/b"]}
    manager = LLMManager(default_providers(), models=models)

    manager.check("sure")
    with pytest.raises(ConfigurationError) as caught:
        manager.check("fast")

    first, *problems = str(caught.value).split("\n- ")
    assert first == "2 of the 3 targets of 'fast' cannot be used:"
    assert "OPENAI_API_KEY" in problems[0]
    assert problems[1].startswith("'nobody/x' is not a model.")


def test_a_route_can_do_what_each_of_its_targets_can() -> None:
    class Plain(ScriptedProvider):
        def capabilities(self, model: str) -> Capabilities:
            return Capabilities(structured_output=False, tools=model != "plainest")

    providers = {"scripted": ScriptedProvider, "plain": Plain}
    manager = LLMManager(providers, models={"mixed": ["scripted", "plain"]})

    assert manager.capabilities("scripted") == Capabilities()
    assert manager.capabilities("mixed") == Capabilities(structured_output=False)
    assert manager.capabilities("plain/plainest") == Capabilities(False, False)


def test_routes_may_stand_in_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'model = "fast"\n[models]\nfast = ["anthropic/claude-x", "offline"]\n'
    )

    class Settings(RuntimeSettings):
        model_config = SettingsConfigDict(toml_file=tmp_path / "config.toml")

    settings = Settings.load()
    manager = LLMManager(default_providers(), models=settings.models)

    assert manager.resolve(settings.model) == ("anthropic", "claude-x")


def test_a_provider_that_is_ready_passes_the_check() -> None:
    manager = LLMManager(default_providers(openai_api_key="sk-x"))

    manager.check("offline")
    manager.check("openai/gpt-5.1")


# Calls.


async def test_a_route_is_no_target_of_another() -> None:
    models = {"fast": ["scripted/a"], "smart": ["fast"]}
    llm = LLMManager({"scripted": ScriptedProvider}, models=models)

    with pytest.raises(UnknownModelError, match="It is the name of a route"):
        await llm.complete(ask("smart"))


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


async def test_what_cannot_be_closed_keeps_nothing_else_open(tmp_path: Path) -> None:
    closed: list[str] = []

    class Mortal(ScriptedProvider):
        async def aclose(self) -> None:
            closed.append("closed")
            raise OSError("it hangs")

    ledger = Ledger(tmp_path / "app.db")
    manager = LLMManager({name: lambda: Mortal(["one"]) for name in ("a", "b")}, ledger=ledger)
    await manager.complete(ask("a"))
    await manager.complete(ask("b"))

    with pytest.raises(OSError, match="it hangs"):
        await manager.aclose()

    assert closed == ["closed", "closed"]
    with pytest.raises(StoreError, match="closed"):
        await ledger.balance("day")


async def test_the_provider_sees_its_own_name_for_the_model() -> None:
    provider = ScriptedProvider(["one", "two"])
    manager = LLMManager({"scripted": lambda: provider})

    await manager.complete(ask("scripted/a/b"))
    _ = [chunk async for chunk in manager.stream(ask("scripted/a/b"))]

    assert [request.model for request in provider.requests] == ["a/b", "a/b"]


async def test_a_stream_adds_up_to_the_complete_response() -> None:
    response = await scripted("Hello there").complete(ask("scripted"))

    chunks = [chunk async for chunk in scripted("Hello there").stream(ask("scripted"))]

    assert timeless(accumulate(chunks)) == timeless(response)


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
        _ = [chunk async for chunk in once(chunks).stream(ask("once"))]
    with pytest.raises(LLMError) as completing:
        await once(chunks).complete(ask("once"))

    for error in (streaming.value, completing.value):
        assert (error.kind, error.provider, error.model) == (kind, "scripted", "m")
        assert str(error).startswith("scripted/m: ")
        assert words in str(error)


async def test_an_error_reaches_the_caller_as_itself() -> None:
    error = LLMError("No.", kind=LLMErrorKind.BAD_REQUEST, provider="scripted")

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
