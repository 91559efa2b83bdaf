# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""From `provider/model` to the provider that answers, with one span around each call."""

from __future__ import annotations

import contextvars
import difflib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from pydantic import JsonValue, SecretStr

from ..contracts import (
    Accumulator,
    BlobPart,
    ChatMessage,
    Chunk,
    LLMRequest,
    LLMResponse,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
    UriPart,
)
from ..errors import LLMError, UnknownModelError
from ..observability import Observer, Span, semconv
from .provider import Checked, Provider

Attributes = dict[str, str | bool | int | float | Sequence[str]]

# The conventions' names of the vendors that litellm calls otherwise.
_VENDORS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def _request_attributes(provider_name: str, request: LLMRequest, *, stream: bool) -> Attributes:
    """Without content."""
    attributes: Attributes = {
        semconv.OPERATION_NAME: semconv.CHAT,
        semconv.PROVIDER_NAME: _vendor(provider_name, request.model),
        semconv.REQUEST_MODEL: request.model,
    }
    if stream:
        attributes[semconv.REQUEST_STREAM] = True
    if request.stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = request.stop
    optional = {
        semconv.CONVERSATION_ID: request.conversation_id,
        semconv.REQUEST_MAX_TOKENS: request.max_output_tokens,
        semconv.REQUEST_TEMPERATURE: request.temperature,
        semconv.REQUEST_SEED: request.seed,
    }
    attributes |= {name: value for name, value in optional.items() if value is not None}
    return attributes


def _server_attributes(provider: object) -> Attributes:
    """The address and port, where the provider has them: it then calls one server."""
    address = getattr(provider, "server_address", None)
    port = getattr(provider, "server_port", None)
    if not isinstance(address, str) or not isinstance(port, int):
        return {}
    return {semconv.SERVER_ADDRESS: address, semconv.SERVER_PORT: port}


def _response_attributes(response: LLMResponse) -> Attributes:
    """Without content. What nobody said is left out: it is unknown, not zero."""
    attributes: Attributes = {
        semconv.RESPONSE_MODEL: response.model,
        semconv.RESPONSE_FINISH_REASONS: (response.finish_reason.value,),
    }
    if response.id:
        attributes[semconv.RESPONSE_ID] = response.id
    if response.cost is not None and response.cost.currency == "USD":
        attributes[semconv.LLM_COST_USD] = float(response.cost.amount)
    if (usage := response.usage) is not None:
        attributes |= {
            semconv.USAGE_INPUT_TOKENS: usage.input_tokens,
            semconv.USAGE_OUTPUT_TOKENS: usage.output_tokens,
            semconv.USAGE_CACHE_READ_INPUT_TOKENS: usage.cache_read_tokens,
            semconv.USAGE_CACHE_WRITE_INPUT_TOKENS: usage.cache_write_tokens,
            semconv.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
        }
    return attributes


def _input_attributes(request: LLMRequest) -> Attributes:
    """Content: one JSON text for each list, for a span keeps few attributes."""
    attributes: Attributes = {
        semconv.INPUT_MESSAGES: json.dumps([_message(message) for message in request.messages])
    }
    if request.tools:
        tools = [{"type": "function", **tool.model_dump()} for tool in request.tools]
        attributes[semconv.TOOL_DEFINITIONS] = json.dumps(tools)
    return attributes


def _output_attributes(response: LLMResponse) -> Attributes:
    """Content."""
    message = {**_message(response.message), "finish_reason": response.finish_reason.value}
    return {semconv.OUTPUT_MESSAGES: json.dumps([message])}


def _vendor(provider_name: str, model: str) -> str:
    if provider_name != "litellm":
        return provider_name
    vendor, slash, _ = model.partition("/")
    return _VENDORS.get(vendor, vendor) if slash else provider_name


def _message(message: ChatMessage) -> dict[str, JsonValue]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, JsonValue]:
    match part:
        case TextPart():
            return {"type": "text", "content": part.text}
        case ReasoningPart():
            return {"type": "reasoning", "content": part.text}
        case BlobPart():
            return {"type": "blob", "mime_type": part.media_type, "size_bytes": len(part.data)}
        case UriPart():
            return {"type": "uri", "mime_type": part.media_type, "uri": part.uri}
        case ToolCall():
            return {
                "type": "tool_call",
                "id": part.id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            return {"type": "tool_call_response", "id": part.call_id, "response": part.content}


# Providers that serve many models: their name alone does not say which.
_NEED_A_MODEL = {"openai": "gpt-5.1", "litellm": "anthropic/claude-sonnet-4-5"}


class LLMManager:
    """Finds the provider of a model, makes it on first use, and records each call.

    A request's `model` is `provider/model` here; the provider sees only what follows its own name.
    Errors are the provider's, unchanged: nothing is retried.
    """

    def __init__(
        self,
        providers: Mapping[str, Callable[[], Provider]],
        *,
        observer: Observer | None = None,
    ) -> None:
        self._factories = dict(providers)
        self._providers: dict[str, Provider] = {}
        self._observer = observer or Observer()

    def resolve(self, model: str) -> tuple[str, str]:
        """The provider's name, and the model's own name there.

        Raises:
            UnknownModelError: no provider answers to it; the message says what would work.
        """
        name, slash, rest = model.partition("/")
        if name in self._factories and (rest or (not slash and name not in _NEED_A_MODEL)):
            return name, rest or name
        raise UnknownModelError(f"{model!r} is not a model. {self._what_to_write(name, rest)}")

    def _what_to_write(self, name: str, rest: str) -> str:
        if name in self._factories:
            example = f"{name}/{_NEED_A_MODEL.get(name, 'name')}"
            return f"{name!r} serves many: write {name}/ and the model's name, as in {example}."
        forms = [
            f"{known}/<model>" if known in _NEED_A_MODEL else known for known in self._factories
        ]
        allowed = f"Models are named {', '.join(forms)}."
        close = difflib.get_close_matches(name.lower(), self._factories, n=1, cutoff=0.7)
        if close:
            meant = f"{close[0]}/{rest}" if rest else close[0]
            return f"Did you mean {meant!r}? {allowed}"
        if not name:
            return allowed
        # A vendor's name in front is litellm's business; a bare name may be either's.
        candidates = ("litellm",) if rest else ("openai", "litellm")
        whole = f"{name}/{rest}" if rest else name
        tries = [f"{known}/{whole}" for known in candidates if known in self._factories]
        return f"Write {' or '.join(tries)}. {allowed}" if tries else allowed

    def check(self, model: str) -> None:
        """Whether a call could be made, without making one.

        Raises:
            UnknownModelError: no provider answers to it.
            MissingKeyError: its provider needs a key that is not set.
            MissingExtraError: its provider needs a package that is not installed.
        """
        name, rest = self.resolve(model)
        provider = self._provider(name)
        if isinstance(provider, Checked):
            provider.check(rest)

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        Raises:
            UnknownModelError: no provider answers to `request.model`.
            LLMError: the call failed; `kind` says how.
        """
        provider, request = self._route(request)
        with self._span(provider, request, stream=False) as span:
            with _failures_on(span, provider, request.model):
                response = await provider.complete(request)
            self._record(span, response)
            return response

    async def stream(self, request: LLMRequest) -> AsyncGenerator[Chunk, None]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Raises:
            UnknownModelError: no provider answers to `request.model`.
            LLMError: the call failed, or the stream was cut; `kind` says how.
        """
        provider, request = self._route(request)
        answer = Accumulator()
        waiting_since: float | None = time.perf_counter()
        with _detached(self._span(provider, request, stream=True)) as span:
            with _failures_on(span, provider, request.model):
                async with _closing(provider.stream(request)) as chunks:
                    async for chunk in chunks:
                        if waiting_since is not None:
                            waited_s = time.perf_counter() - waiting_since
                            span.set(semconv.RESPONSE_TIME_TO_FIRST_CHUNK, waited_s)
                            waiting_since = None
                        answer.add(chunk)
                        yield chunk
                response = answer.response()
            self._record(span, response)

    async def aclose(self) -> None:
        providers, self._providers = self._providers, {}
        for provider in providers.values():
            await provider.aclose()

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            self._providers[name] = self._factories[name]()
        return self._providers[name]

    def _route(self, request: LLMRequest) -> tuple[Provider, LLMRequest]:
        name, model = self.resolve(request.model)
        return self._provider(name), request.model_copy(update={"model": model})

    def _span(
        self, provider: Provider, request: LLMRequest, *, stream: bool
    ) -> AbstractContextManager[Span]:
        attributes = _request_attributes(provider.name, request, stream=stream)
        attributes |= _server_attributes(provider)
        if self._observer.capture_content:
            attributes |= _input_attributes(request)
        name = semconv.chat_span(request.model)
        return self._observer.span(name, kind="client", attributes=attributes)

    def _record(self, span: Span, response: LLMResponse) -> None:
        attributes = _response_attributes(response)
        if self._observer.capture_content:
            attributes |= _output_attributes(response)
        for name, value in attributes.items():
            span.set(name, value)


def default_providers(
    *,
    openai_api_key: SecretStr | str | None = None,
    openai_base_url: str | None = None,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Callable[[], Provider]]:
    """The providers that come with the runtime, each made when a model of it is first asked.

    Args:
        openai_api_key: OpenAI's own servers need one.
        openai_base_url: any server that speaks OpenAI's Chat Completions API.
        timeout_s: for each wait within a call.
        environment: vendors' keys for litellm, where the process's environment lacks them.
    """

    def openai() -> Provider:
        from .providers.openai import OpenAIProvider

        return OpenAIProvider(openai_api_key, openai_base_url, timeout_s=timeout_s)

    def litellm() -> Provider:
        from .providers.litellm import LiteLLMProvider

        return LiteLLMProvider(environment or {}, timeout_s=timeout_s)

    def offline() -> Provider:
        from .providers.offline import OfflineProvider

        return OfflineProvider()

    return {"offline": offline, "openai": openai, "litellm": litellm}


@contextmanager
def _failures_on(span: Span, provider: Provider, model: str) -> Iterator[None]:
    """Let the span say the kind of an error, and an error about a stream say whose stream."""
    try:
        yield
    except LLMError as error:
        span.fail(error.kind.value, str(error))
        if error.provider != "unknown":
            raise
        raise LLMError(
            f"{provider.name}/{model}: {error}",
            kind=error.kind,
            provider=provider.name,
            model=model,
        ) from error


@asynccontextmanager
async def _closing(chunks: AsyncIterator[Chunk]) -> AsyncIterator[AsyncIterator[Chunk]]:
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


@contextmanager
def _detached(span: AbstractContextManager[Span]) -> Iterator[Span]:
    """Keep the span out of the consumer's context.

    A generator runs in the context of whoever asks for its next item. A span that is current there
    would become the parent of the consumer's own work, and could be closed in another context than
    it was opened in.
    """
    context = contextvars.copy_context()
    entered = context.run(span.__enter__)
    try:
        yield entered
    except BaseException as error:
        context.run(span.__exit__, type(error), error, error.__traceback__)
        raise
    else:
        context.run(span.__exit__, None, None, None)
