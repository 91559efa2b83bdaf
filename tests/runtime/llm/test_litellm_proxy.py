"""A litellm proxy as the server: every provider of Chat Completions gets along with it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from app.llmgine.contracts import ChatMessage, LLMRequest, Usage, accumulate
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm import Provider
from app.llmgine.llm.providers.litellm import LiteLLMProvider
from app.llmgine.llm.providers.openai import OpenAIProvider
from app.llmgine.llm.providers.openai_sdk import OpenAISDKProvider
from runtime.llm.litellm_proxy import TEXT, LiteLLMProxy

# What litellm's own dependencies warn of is theirs; the first test waits for the start.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(150),
    pytest.mark.skipif(bool(LiteLLMProxy.missing), reason=LiteLLMProxy.missing),
]
MOCK_USAGE = Usage(input_tokens=10, output_tokens=20)


@pytest.fixture(scope="module")
def proxy() -> Iterator[LiteLLMProxy]:
    with LiteLLMProxy() as proxy:
        yield proxy


@dataclass
class Client:
    """A provider that is set up for the proxy."""

    provider: Provider
    prefix: str

    def request(self, model: str) -> LLMRequest:
        return LLMRequest(model=f"{self.prefix}{model}", messages=(ChatMessage.user("Hi"),))

    async def fail(self, model: str) -> list[LLMError]:
        """How `complete` fails, and how `stream` does."""
        with pytest.raises(LLMError) as completing:
            await self.provider.complete(self.request(model))
        with pytest.raises(LLMError) as streaming:
            _ = [chunk async for chunk in self.provider.stream(self.request(model))]
        return [completing.value, streaming.value]


def make(name: str, key: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Client:
    if name == "openai":
        return Client(OpenAIProvider(key, url), "")
    if name == "openai-sdk":
        return Client(OpenAISDKProvider(key, url), "")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    return Client(LiteLLMProvider(), "openai/")


@pytest.fixture(params=["openai", "openai-sdk", "litellm"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(
    name: str, proxy: LiteLLMProxy, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    client = make(name, proxy.key, proxy.url, monkeypatch)
    yield client
    await client.provider.aclose()


async def test_it_answers_whole_and_streamed(client: Client) -> None:
    whole = await client.provider.complete(client.request("mock"))
    streamed = accumulate([chunk async for chunk in client.provider.stream(client.request("mock"))])

    assert whole.text == streamed.text == TEXT
    assert whole.usage == MOCK_USAGE
    assert streamed.usage is not None


async def test_a_tool_call_arrives(client: Client) -> None:
    response = await client.provider.complete(client.request("calling"))

    (call,) = response.tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "find_notes", '{"query": "tea"}')


@pytest.mark.parametrize(
    ("model", "kind", "status"),
    [
        ("limited", LLMErrorKind.RATE_LIMIT, 429),
        ("failing", LLMErrorKind.SERVER, 500),
        ("nobody-knows-it", LLMErrorKind.BAD_REQUEST, 400),
    ],
)
async def test_its_refusals_have_their_kind(
    client: Client, model: str, kind: LLMErrorKind, status: int
) -> None:
    errors = await client.fail(model)

    assert [(error.kind, error.status) for error in errors] == [(kind, status)] * 2


async def test_a_wrong_master_key_is_refused_and_not_quoted(
    name: str, proxy: LiteLLMProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(name, "sk-of-somebody-else", proxy.url, monkeypatch)

    errors = await client.fail("mock")
    await client.provider.aclose()

    # It looks for every key but its own in a database, which it does not have here.
    assert [(error.kind, error.status) for error in errors] == [(LLMErrorKind.BAD_REQUEST, 400)] * 2
    assert all("No connected db" in str(error) for error in errors)
    assert not any("somebody" in str(error) for error in errors)


async def test_it_called_nobody_beyond_this_machine(client: Client, proxy: LiteLLMProxy) -> None:
    await client.provider.complete(client.request("mock"))

    assert not proxy.called_out()
    assert {path.name for path in proxy.folder.iterdir()} == {"config.yaml", "server.log"}
