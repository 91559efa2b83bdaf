"""What is special about litellm: it is heavy, chatty and optional."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app.llmgine.contracts import (
    BlobPart,
    ChatMessage,
    LLMRequest,
    LLMResponse,
    Money,
    ReasoningPart,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind, MissingExtraError, MissingKeyError
from app.llmgine.llm import Provider
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from runtime.llm.fake_openai import Answer, FakeOpenAI, refusal, stream, whole

INSTALLED = find_spec("litellm") is not None
with_litellm = pytest.mark.skipif(not INSTALLED, reason="litellm is not installed")
# What its own dependencies warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = (ChatMessage.user("hi"),)
QUIET = """
import asyncio, os, sys
from app.llmgine.contracts import ChatMessage, LLMRequest
from app.llmgine.errors import LLMError
from app.llmgine.llm.providers.litellm import LiteLLMProvider

async def main():
    provider = LiteLLMProvider()
    assert "litellm" not in sys.modules
    request = LLMRequest(model=sys.argv[1], messages=(ChatMessage.user("hi"),))
    try:
        await provider.complete(request)
    except LLMError as error:
        print(error.kind)
    await provider.aclose()
    import litellm
    print(os.environ["LITELLM_LOCAL_MODEL_COST_MAP"], litellm.telemetry, os.getenv("FROM_DOTENV"))

asyncio.run(main())
"""


async def ask_both(provider: Provider, request: LLMRequest) -> list[LLMResponse]:
    """What `complete` answers, and what `stream` adds up to."""
    whole = await provider.complete(request)
    return [whole, accumulate([chunk async for chunk in provider.stream(request)])]


@pytest.fixture
def openai_at(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where litellm finds OpenAI."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)


@pytest.fixture
def anthropic_at(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where litellm finds Anthropic."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-none")
    monkeypatch.setenv("ANTHROPIC_API_BASE", server.root)


def test_without_litellm_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)

    with pytest.raises(MissingExtraError, match="uv sync --extra litellm"):
        LiteLLMProvider()


@with_litellm
async def test_a_server_of_ones_own_needs_no_key(
    server: FakeOpenAI, openai_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    provider = LiteLLMProvider()

    answers = await ask_both(provider, LLMRequest(model="openai/gpt-4o", messages=PROMPT))
    await provider.aclose()

    assert [answer.text for answer in answers] == ["You said: hi"] * 2


@with_litellm
@pytest.mark.parametrize(
    ("model", "cost"),
    [("openai/gpt-4o", Money(amount=Decimal("0.00013625"))), ("openai/nobody-knows-it", None)],
)
async def test_the_cost_is_litellms_or_unknown(
    server: FakeOpenAI, openai_at: None, model: str, cost: Money | None
) -> None:
    server.will(Answer("Hello"), Answer("Hello"))
    provider = LiteLLMProvider()

    responses = await ask_both(provider, LLMRequest(model=model, messages=PROMPT))
    await provider.aclose()

    assert [response.cost for response in responses] == [cost, cost]


@with_litellm
async def test_where_the_server_counts_nothing_neither_usage_nor_cost_is_made_up(
    server: FakeOpenAI, openai_at: None
) -> None:
    server.will(Answer("Hello", usage=None), Answer("Hello", usage=None))
    provider = LiteLLMProvider()

    responses = await ask_both(provider, LLMRequest(model="openai/gpt-4o", messages=PROMPT))
    await provider.aclose()

    assert [(response.usage, response.cost) for response in responses] == [(None, None)] * 2


@with_litellm
async def test_a_signed_thought_goes_back_to_the_vendor_that_signed_it_and_to_no_other(
    server: FakeOpenAI, openai_at: None, anthropic_at: None
) -> None:
    thought = Answer("Tea.", reasoning="Hm, hm.", signature="SIGNED")
    server.will(thought, thought)
    provider = LiteLLMProvider()
    request = LLMRequest(model="anthropic/claude-sonnet-4-5", messages=PROMPT)

    responses = await ask_both(provider, request)
    said = (*PROMPT, responses[0].message, *PROMPT)
    await provider.complete(request.model_copy(update={"messages": said}))
    await provider.complete(LLMRequest(model="openai/gpt-4o", messages=said))
    await provider.aclose()

    signed, text = responses[0].message.parts
    assert isinstance(signed, ReasoningPart)
    assert (signed.text, signed.signed_by) == ("Hm, hm.", "litellm")
    assert responses[1].message.parts == (signed, text)
    same, other = (request.body["messages"][1] for request in server.requests[2:])
    assert same["content"][0] == {
        "type": "thinking",
        "thinking": "Hm, hm.",
        "signature": "SIGNED",
    }
    assert other == {"role": "assistant", "content": "Tea."}


@with_litellm
async def test_an_image_is_sent_in_each_vendors_words(
    server: FakeOpenAI, openai_at: None, anthropic_at: None
) -> None:
    image = BlobPart(media_type="image/png", data=b"\x89PNG")
    messages = (ChatMessage.user("What is it?", image),)
    provider = LiteLLMProvider()

    await provider.complete(LLMRequest(model="openai/gpt-4o", messages=messages))
    await provider.complete(LLMRequest(model="anthropic/claude-sonnet-4-5", messages=messages))
    await provider.aclose()

    openai, anthropic = (request.body["messages"][0]["content"][1] for request in server.requests)
    assert openai["image_url"]["url"] == "data:image/png;base64,iVBORw=="
    assert anthropic["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}


@with_litellm
async def test_what_only_the_vendor_knows_reaches_it(
    server: FakeOpenAI, openai_at: None, anthropic_at: None
) -> None:
    provider = LiteLLMProvider()
    extra = {"only_theirs": {"depth": 3}}

    for model in ("openai/gpt-4o", "anthropic/claude-sonnet-4-5"):
        await provider.complete(LLMRequest(model=model, messages=PROMPT, extra_body=extra))
    await provider.aclose()

    assert [request.body["only_theirs"] for request in server.requests] == [{"depth": 3}] * 2


@with_litellm
@pytest.mark.parametrize("events", [0, 3], ids=["before the first chunk", "in the middle"])
async def test_a_cancelled_stream_closes_its_connection(
    server: FakeOpenAI, openai_at: None, events: int
) -> None:
    server.will(stream(*Answer("Hello, wörld.").events("m")[:events], then="hang"))
    provider = LiteLLMProvider()

    async def read() -> None:
        chunks = provider.stream(LLMRequest(model="openai/gpt-4o", messages=PROMPT))
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


def router_to(url: str, *keys: str, **settings: Any) -> Any:
    """A Router with the group `fast`, of one deployment for each key."""
    deployments = [
        {
            "model_name": "fast",
            "litellm_params": {
                "model": "openai/gpt-4o",
                "api_key": key,
                "api_base": url,
                "max_retries": 0,
                "order": order,
            },
        }
        for order, key in enumerate(keys, 1)
    ]
    # As whoever makes a Router does: it is read when litellm is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return import_module("litellm").Router(model_list=deployments, **settings)


FAST = LLMRequest(model="fast", messages=PROMPT)


@with_litellm
async def test_a_router_answers_for_its_group_and_tries_again_as_it_was_told(
    server: FakeOpenAI,
) -> None:
    server.will(refusal(500, "Oops"), Answer("Hello"), Answer("Hello"))
    router = router_to(server.url, "sk-first", num_retries=1, retry_after=0)
    provider = LiteLLMProvider(router=router)

    responses = await ask_both(provider, FAST)
    await provider.aclose()

    assert [(r.text, r.provider) for r in responses] == [("Hello", "litellm")] * 2
    assert len(server.requests) == 3


@with_litellm
async def test_a_router_whose_deployments_rest_says_when_to_come_back(server: FakeOpenAI) -> None:
    keys = ("sk-canary-0123456789", "sk-canary-9876543210")
    server.will(*[refusal(401, f"Incorrect API key provided: {keys[0]}")] * 2)
    router = router_to(server.url, *keys, num_retries=0, allowed_fails=0, cooldown_time=5)
    provider = LiteLLMProvider(router=router)

    with pytest.raises(LLMError) as refused:
        await provider.complete(FAST)
    with pytest.raises(LLMError) as resting:
        await provider.complete(FAST)
    await provider.aclose()

    assert refused.value.kind is LLMErrorKind.AUTHENTICATION
    assert "canary" not in str(refused.value)
    assert resting.value.kind is LLMErrorKind.RATE_LIMIT
    assert resting.value.retry_after_s == 5


@with_litellm
async def test_a_group_that_the_router_does_not_have_is_a_bad_request(server: FakeOpenAI) -> None:
    provider = LiteLLMProvider(router=router_to(server.url, "sk-first"))

    provider.check("anthropic/claude-sonnet-4-5")
    with pytest.raises(LLMError) as caught:
        await provider.complete(LLMRequest(model="slow", messages=PROMPT))
    await provider.aclose()

    assert caught.value.kind is LLMErrorKind.BAD_REQUEST


@with_litellm
async def test_keys_from_elsewhere_are_used_where_the_environment_has_none(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.delenv("OPENAI_BASE_URL")
    elsewhere = {"OPENAI_API_KEY": "sk-of-the-file", "OPENAI_BASE_URL": server.url}
    provider = LiteLLMProvider(elsewhere)

    await provider.complete(LLMRequest(model="openai/gpt-4o", messages=PROMPT))
    await provider.aclose()

    assert server.requests[0].headers["authorization"] == "Bearer sk-of-the-environment"


@with_litellm
async def test_a_vendor_without_a_key_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    provider = LiteLLMProvider()

    with pytest.raises(LLMError, match="ANTHROPIC_API_KEY") as caught:
        await provider.complete(LLMRequest(model="anthropic/claude-x", messages=PROMPT))
    await provider.aclose()

    assert caught.value.kind is LLMErrorKind.AUTHENTICATION


@with_litellm
async def test_what_litellm_stumbles_over_is_told_without_its_traceback(
    server: FakeOpenAI, anthropic_at: None
) -> None:
    server.will(whole({}))
    provider = LiteLLMProvider()

    with pytest.raises(LLMError) as caught:
        await provider.complete(LLMRequest(model="anthropic/claude-x", messages=PROMPT))
    await provider.aclose()

    assert caught.value.kind is LLMErrorKind.BAD_RESPONSE
    assert "content" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Traceback", "line ", "github"))


@with_litellm
async def test_an_unknown_vendor_is_a_bad_request() -> None:
    provider = LiteLLMProvider()

    with pytest.raises(LLMError, match="nonsense") as caught:
        await provider.complete(LLMRequest(model="nonsense", messages=PROMPT))
    await provider.aclose()

    assert caught.value.kind is LLMErrorKind.BAD_REQUEST


@with_litellm
def test_it_is_imported_late_and_quietly_and_keeps_to_itself(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_DOTENV=yes\n")
    environment = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", QUIET, "nonsense"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "bad_request\nTrue False None\n"
    assert done.stderr == ""


@with_litellm
def test_a_vendors_missing_key_is_told_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)

    with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
        LiteLLMProvider().check("anthropic/claude-sonnet-4-5")
    LiteLLMProvider({"ANTHROPIC_API_KEY": "from .env"}).check("anthropic/claude-sonnet-4-5")
    LiteLLMProvider().check("ollama/llama3")
