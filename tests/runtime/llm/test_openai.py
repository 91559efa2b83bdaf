"""The direct provider: keys, addresses, and what is said about every failure."""

import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from app.llmgine.contracts import LLMRequest
from app.llmgine.errors import ConfigurationError, LLMErrorKind, MissingKeyError
from app.llmgine.llm.providers._chat_completions import ChatCompletions
from app.llmgine.llm.providers.openai import OpenAIProvider
from runtime.llm.fake_openai import (
    FakeOpenAI,
    Raw,
    refusal,
    whole,
)
from runtime.llm.openai_calls import KEY, REQUEST, fail, fail_to_stream

JSON = {"Content-Type": "application/json"}


# The key and the address.


@pytest.mark.parametrize("address", [None, "https://eu.api.openai.com/v1"])
def test_openai_without_a_key_is_refused_before_any_call(address: str | None) -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        OpenAIProvider(None, address)


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
    [
        "localhost:11434/v1",
        "ftp://x/v1",
        "http://",
        "http://u:p@host/v1",
        "http://host:port/v1",
        "http://a host/v1",
        "http://a..b/v1",
        f"http://{'a' * 64}.com/v1",
        "http://\u200bhost/v1",
    ],
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
    ("address", "headers"),
    [
        ("https://api.openai.com/v1", {"Authorization": f"Bearer {KEY}"}),
        ("https://mine.openai.azure.com/openai/v1", {"api-key": KEY}),
        ("https://mine.services.ai.azure.com/openai/v1", {"api-key": KEY}),
        ("https://mine.openai.azure.us/openai/v1", {"api-key": KEY}),
        ("https://azure.com.example/v1", {"Authorization": f"Bearer {KEY}"}),
        ("https://mine.azure-api.net/openai/v1", {"api-key": KEY}),
        ("https://gateway.example/azure-openai/a/b?api-version=2024-10-21", {"api-key": KEY}),
        ("https://gateway.example/api-version=1/v1?a=1", {"Authorization": f"Bearer {KEY}"}),
    ],
)
def test_azure_gets_the_key_in_its_own_header(address: str, headers: dict[str, str]) -> None:
    sent = OpenAIProvider(KEY, address)._headers

    assert {name: sent[name] for name in ("Authorization", "api-key") if name in sent} == headers


@pytest.mark.parametrize(
    ("end", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/?api-version=2024-10-21", "/v1/chat/completions?api-version=2024-10-21"),
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
    request = LLMRequest(model="m", messages=(), max_output_tokens=5)

    body = OpenAIProvider(KEY, address)._wire.encode(request, stream=False)

    assert body[field] == 5


NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_com"
NEWER += "pletion_tokens' instead."


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_model_that_insists_on_the_other_name_of_the_limit_is_asked_again(
    server: FakeOpenAI, streaming: bool
) -> None:
    server.will(refusal(400, NEWER, code="unsupported_parameter"))
    provider = OpenAIProvider(None, server.url)
    request = REQUEST.model_copy(update={"max_output_tokens": 5})
    other = request.model_copy(update={"model": "other"})

    for asked in (request, request, other):
        if streaming:
            assert [chunk async for chunk in provider.stream(asked)]
        else:
            await provider.complete(asked)
    await provider.aclose()

    limits = [{n: v for n, v in sent.body.items() if "max" in n} for sent in server.requests]
    newer, older = {"max_completion_tokens": 5}, {"max_tokens": 5}
    assert limits == [older, newer, newer, older]


async def test_an_old_server_of_azure_is_asked_again_too(server: FakeOpenAI) -> None:
    server.will(refusal(400, "Unrecognized request argument supplied: max_completion_tokens"))
    provider = OpenAIProvider(None, server.url)
    provider._wire = ChatCompletions(newer=True)

    await provider.complete(REQUEST.model_copy(update={"max_output_tokens": 5}))
    await provider.aclose()

    assert [sent.body.get("max_tokens") for sent in server.requests] == [None, 5]


@pytest.mark.parametrize(
    ("reply", "limit"),
    [
        (refusal(400, NEWER), None),
        (refusal(400, "max_tokens is too large: 9. This model supports at most 5."), 9),
        (refusal(500, NEWER), 9),
    ],
)
async def test_no_other_refusal_is_asked_again(
    server: FakeOpenAI, reply: Raw, limit: int | None
) -> None:
    server.will(reply)

    await fail(
        OpenAIProvider(None, server.url), REQUEST.model_copy(update={"max_output_tokens": limit})
    )

    assert len(server.requests) == 1


async def test_a_model_is_asked_again_only_once(server: FakeOpenAI) -> None:
    server.will(refusal(400, NEWER), refusal(400, "Unknown parameter: 'max_completion_tokens'."))

    error = await fail(
        OpenAIProvider(None, server.url), REQUEST.model_copy(update={"max_output_tokens": 5})
    )

    assert "Unknown parameter" in str(error)
    assert len(server.requests) == 2


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
        # No wait will help the first; the second is Gemini's, of a minute.
        (
            refusal(429, "You exceeded your current quota", code="insufficient_quota"),
            "authentication",
            "billing",
        ),
        (refusal(429, "Quota exceeded for requests per minute"), "rate_limit", "Wait a little"),
        (refusal(400, "Your credit balance is too low"), "authentication", "billing"),
        (refusal(404, "No endpoints found matching your data policy"), "bad_request", "data pol"),
        (refusal(403, "Denied by the network's policy"), "authentication", "network"),
        (refusal(400, "It may be violating our usage policy"), "content_filter", "other words"),
        *[
            (refusal(400, words), "context_length", "new conversation")
            for words in (
                "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000",
                "The input token count (1200000) exceeds the maximum number of tokens allowed",
                "This model's maximum prompt length is 131072 but the request contains 537812",
                "The decoder prompt (length 5000) is longer than the maximum model length of 4096",
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
                "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
                "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens).",
                "Invalid request: Your request exceeded model token limit: 8192",
                "InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
                "Prompt exceeds max length",
            )
        ],
        # With 400, where others say 401: Gemini, xAI.
        (
            whole(
                [{"error": {"code": 400, "message": "API key not valid. Pass a valid one."}}], 400
            ),
            "authentication",
            "OPENAI_API_KEY",
        ),
        (
            whole({"code": "bad argument", "error": "Incorrect API key provided: a***z."}, 400),
            "authentication",
            "OPENAI_API_KEY",
        ),
        (
            refusal(400, "You have reached your specified API usage limits."),
            "authentication",
            "billing",
        ),
        # DeepSeek, Qwen.
        (refusal(400, "Content Exists Risk"), "content_filter", "other words"),
        (
            refusal(400, "It may contain inappropriate words.", code="data_inspection_failed"),
            "content_filter",
            "other words",
        ),
        # Groq, of what its model wrote.
        (refusal(400, "Failed to call", code="tool_use_failed"), "bad_response", "Try again"),
        (refusal(400, "Failed to write", code="json_validate_failed"), "bad_response", "Try again"),
        (refusal(498, "Flex tier capacity exceeded"), "rate_limit", "Wait a little"),
        # Azure and OpenRouter, of a model.
        (
            refusal(404, "The API deployment for this resource does not exist."),
            "bad_request",
            "Check the model's name",
        ),
        (refusal(400, "gpt-x is not a valid model ID"), "bad_request", "Check the model's name"),
        # Cloudflare.
        (
            whole({"success": False, "error": [{"code": 2009, "message": "Who?"}]}, 401),
            "authentication",
            ": Who?. Check OPENAI_API_KEY",
        ),
        (
            whole({"success": False, "errors": [{"code": 7003, "message": "No route"}]}, 400),
            "bad_request",
            ": No route",
        ),
        (
            whole(
                {
                    "error": {
                        "message": "Provider returned error",
                        "code": 400,
                        "metadata": {"raw": '{"message": "prompt is too long"}'},
                    }
                },
                400,
            ),
            "context_length",
            "prompt is too long",
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
        (Raw([], 307, {"Location": "http://[::1"}), "bad_response", "what is no address"),
        (Raw([b"<html>hello"], 200, {"Content-Type": "text/html"}), "bad_response", "web page"),
        (Raw([b"\n <!DOCTYPE html>"], 200, JSON), "bad_response", "web page"),
        (Raw([b'{"choices": ['], 200, JSON), "bad_response", "invalid JSON"),
        (Raw([b"[" * 100_000], 200, JSON), "bad_response", "invalid JSON"),
        (whole({"choices": []}), "bad_response", "without any choices"),
        (
            refusal(400, "The prompt was filtered", code="content_filter"),
            "content_filter",
            "other words",
        ),
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


async def test_what_an_address_asks_for_is_in_no_error() -> None:
    async with FakeOpenAI() as gone:
        url = gone.url

    error = await fail(OpenAIProvider(None, f"{url}?key={KEY}"))

    assert f"Is a server running at {url}?" in str(error)
    assert KEY not in str(error)


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
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
async def test_how_long_to_wait_is_the_servers_word(
    server: FakeOpenAI, headers: dict[str, str], wait_s: float | None
) -> None:
    server.will(refusal(429, "Slow down", headers=headers))

    assert (await fail(OpenAIProvider(None, server.url))).retry_after_s == wait_s


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Rate limit reached. Please try again in 20s.", 20.0),
        ("Please try again in 120ms. Visit https://x.example", 0.12),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1h2m3.5s.", 3723.5),
        ("Please retry after 6 seconds.", 6.0),
        ("Please retry in 34.07s.", 34.07),
        ("Please try again in a while.", None),
        ("Please try again in 20 days.", None),
        (f"Please try again in {'9' * 400}s.", None),
    ],
)
async def test_how_long_to_wait_may_stand_in_the_message_alone(
    server: FakeOpenAI, words: str, wait_s: float | None
) -> None:
    server.will(refusal(429, words))

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
