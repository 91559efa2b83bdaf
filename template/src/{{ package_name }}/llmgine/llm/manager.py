# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""From `provider/model` to the provider that answers, with one span around each call."""

from __future__ import annotations

import contextvars
import difflib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from pydantic import SecretStr

from ..contracts import Accumulator, Chunk, LLMRequest, LLMResponse
from ..errors import LLMError, UnknownModelError
from ..observability import Observer, Span, semconv
from . import _attributes
from .provider import Provider

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
        self._provider(self.resolve(model)[0])

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
        attributes = _attributes.of_request(provider.name, request, stream=stream)
        attributes |= _attributes.of_server(provider)
        if self._observer.capture_content:
            attributes |= _attributes.of_input(request)
        name = semconv.chat_span(request.model)
        return self._observer.span(name, kind="client", attributes=attributes)

    def _record(self, span: Span, response: LLMResponse) -> None:
        attributes = _attributes.of_response(response)
        if self._observer.capture_content:
            attributes |= _attributes.of_output(response)
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
