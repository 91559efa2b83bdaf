"""What is special about litellm: it is heavy, chatty and optional."""

import subprocess
import sys
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.llmgine.contracts import ChatMessage, LLMRequest, Money
from app.llmgine.errors import LLMError, LLMErrorKind, MissingExtraError, MissingKeyError
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from runtime.llm.fake_openai import Answer, FakeOpenAI

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


@pytest.mark.skipif(INSTALLED, reason="litellm is installed")
def test_without_litellm_the_way_to_install_it_is_told() -> None:
    with pytest.raises(MissingExtraError, match="uv sync --extra litellm"):
        LiteLLMProvider()


@with_litellm
@pytest.mark.parametrize(
    ("model", "cost"),
    [("openai/gpt-4o", Money(amount=Decimal("0.00013625"))), ("openai/nobody-knows-it", None)],
)
async def test_the_cost_is_litellms_or_unknown(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, model: str, cost: Money | None
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    server.will(Answer("Hello"), Answer("Hello"))
    provider = LiteLLMProvider()
    request = LLMRequest(model=model, messages=PROMPT)

    whole = await provider.complete(request)
    end = [chunk async for chunk in provider.stream(request)][-1]
    await provider.aclose()

    assert whole.cost == cost
    assert end.type == "stream_end"
    assert end.cost == cost


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
