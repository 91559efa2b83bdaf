# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""From a model's name to its answer, by whichever target gives it; every attempt is recorded."""

from __future__ import annotations

import difflib
import random as dice
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import SecretStr

from ..clock import Clock, SystemClock
from ..contracts import Chunk, LLMRequest, LLMResponse, Money, StreamReset
from ..errors import ConfigurationError, LLMError, UnknownModelError
from ..observability import Observer, semconv
from ._running import Running
from .budget import Ledger
from .limits import Breaker, Circuit, Deadline, Limiter
from .prices import PriceTable, estimated_usage
from .provider import Capabilities, Capable, Checked, Provider, closing_stream
from .router import Candidate, Course, Gate, Latencies, Random, Route, Target, Turn
from .telemetry import Attributes, Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

# Providers that serve many models: their name alone does not say which.
_NEED_A_MODEL = {
    "openai": "gpt-5.1",
    "openai-responses": "gpt-5.1",
    "anthropic": "claude-sonnet-4-5",
    "openai-sdk": "gpt-5.1",
    "litellm": "xai/grok-4",
}


class LLMManager:
    """Finds who answers to a model's name, and records each attempt to have it answered.

    A request's `model` is `provider/model`, or the name of a route; the provider sees only what
    follows its own name. `timeout_s` is for the whole call, retries and waits included. Providers
    are made on first use.

    Args:
        models: routes by name; a list of `provider/model` is tried in its order.
        prices: for the cost of calls whose provider does not tell it; the ledger's if not given.
        ledger: holds every call to its budget.
        meter: for the metrics; that of the global meter provider if not given.
        random: for `weighted` and for the time between tries.

    Raises:
        ConfigurationError: a route's name is a provider's, or cannot be one.
    """

    def __init__(
        self,
        providers: Mapping[str, Callable[[], Provider]],
        *,
        models: Mapping[str, Route | Sequence[str]] | None = None,
        prices: PriceTable | None = None,
        ledger: Ledger | None = None,
        observer: Observer | None = None,
        clock: Clock | None = None,
        meter: Meter | None = None,
        random: Random = dice.random,
    ) -> None:
        self._factories = dict(providers)
        self._providers: dict[str, Provider] = {}
        self._routes = {name: self._named(name, made) for name, made in (models or {}).items()}
        self._clock = clock or SystemClock()
        self.ledger = ledger
        self._prices = prices or (ledger.prices if ledger is not None else None)
        self._telemetry = Telemetry(observer or Observer(), self._clock, meter)
        self._random = random
        self._limiters: dict[tuple[str, float | None, float | None], Limiter] = {}
        self._circuits: dict[tuple[str, Breaker], Circuit] = {}
        self._latencies = Latencies()

    def _named(self, name: str, made: Route | Sequence[str]) -> Route:
        if not name or "/" in name or name in self._factories:
            raise ConfigurationError(
                f"A route cannot be called {name!r}: write a name without '/' that no provider has."
            )
        if isinstance(made, str):
            raise ConfigurationError(f"The route {name!r} needs a list of models: [{made!r}].")
        if not isinstance(made, Route) and not made:
            raise ConfigurationError(f"The route {name!r} needs at least one model.")
        return made if isinstance(made, Route) else Route(tuple(map(Target, made)))

    def resolve(self, model: str) -> tuple[str, str]:
        """The provider's name, and the model's own name there; of a route, its first target's.

        Raises:
            UnknownModelError: no provider answers to it; the message says what would work.
        """
        return self._find(self._route(model).targets[0].model)

    def check(self, model: str) -> None:
        """Whether a call could be made, without making one: of a route, by each of its targets.

        Raises:
            UnknownModelError: no provider answers to it.
            MissingKeyError: its provider needs a key that is not set.
            MissingExtraError: its provider needs a package that is not installed.
            ConfigurationError: some targets of the route cannot be used; all of them are listed.
        """
        if model not in self._routes:
            self._check(model)
            return
        problems: list[ConfigurationError] = []
        for target in self._routes[model].targets:
            try:
                self._check(target.model)
            except ConfigurationError as error:
                problems.append(error)
        if problems:
            number = len(self._routes[model].targets)
            raise ConfigurationError(
                f"{len(problems)} of the {number} targets of {model!r} cannot be used:"
                + "".join(f"\n- {problem}" for problem in problems)
            ) from problems[0]

    def capabilities(self, model: str) -> Capabilities:
        """What the model can do; of a route, what each of its targets can.

        Raises:
            UnknownModelError: no provider answers to it.
        """
        found: list[Capabilities] = []
        for target in self._route(model).targets:
            name, own = self._find(target.model)
            provider = self._provider(name)
            if isinstance(provider, Capable):
                found.append(provider.capabilities(own))
        return Capabilities(
            structured_output=all(one.structured_output for one in found),
            tools=all(one.tools for one in found),
        )

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        Raises:
            UnknownModelError: no provider answers to `request.model`.
            LLMError: the call failed; `kind` says how, `attempts` what was tried.
            StoreError: the ledger of the budget cannot be read or written.
        """
        course = self._course(request, stream=False)
        with closing(course.deadline):
            while True:
                turn = await course.next()
                try:
                    async with await self._begin(course, turn, request, stream=False) as running:
                        with running.deadline:
                            response = await running.provider.complete(running.request)
                        running.answer_is(response)
                except LLMError as error:
                    course.fail(error)
                else:
                    return running.result()

    async def stream(self, request: LLMRequest) -> AsyncGenerator[Chunk, None]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Another try follows only as long as no chunk has come, unless the route restarts streams.

        Raises:
            UnknownModelError: no provider answers to `request.model`.
            LLMError: the call failed, or the stream was cut; `kind` says how.
            StoreError: the ledger of the budget cannot be read or written.
        """
        course = self._course(request, stream=True)
        void = False
        with closing(course.deadline):
            while True:
                turn = await course.next()
                said = False
                try:
                    async with (
                        await self._begin(course, turn, request, stream=True) as running,
                        closing_stream(running.provider.stream(running.request)) as chunks,
                    ):
                        with suppress(StopAsyncIteration):
                            while True:
                                asked_at = self._clock.monotonic()
                                with running.deadline:
                                    chunk = await anext(chunks)
                                if not running.passes_on(chunk, asked_at):
                                    continue  # It may be malformed: more may follow the end.
                                # What was said stays until there is something in its place.
                                if void:
                                    void = False
                                    yield StreamReset(reason=turn.reason)
                                said = True
                                yield chunk
                        running.answer_is(running.answer.response())
                except LLMError as error:
                    course.fail(error, final=said and not course.route.restart_streams)
                    void = void or said
                    continue
                if void:
                    yield StreamReset(reason=turn.reason)
                yield running.end()
                return

    async def aclose(self) -> None:
        """Give back what the providers hold, and write what the ledger knows."""
        providers, self._providers = self._providers, {}
        async with AsyncExitStack() as stack:
            if self.ledger is not None:
                stack.push_async_callback(self.ledger.aclose)
            for provider in providers.values():
                stack.push_async_callback(provider.aclose)

    def _course(self, request: LLMRequest, *, stream: bool) -> Course:
        route = self._route(request.model)
        for target in route.targets:
            self._find(target.model)  # What is named wrongly is heard of now, not on a bad day.
        order, reason = route.order(
            lambda target: Candidate(
                target,
                lambda: self._estimate(target.model, request),
                self._latencies.mean_s(target.model, stream=stream),
            ),
            self._random,
        )
        return Course(
            route,
            [(target, self._gate(target, route)) for target in order],
            reason=reason,
            clock=self._clock,
            random=self._random,
            deadline=Deadline(self._clock, request.timeout_s),
            tokens=lambda: _estimated_tokens(request),
        )

    async def _begin(
        self, course: Course, turn: Turn, request: LLMRequest, *, stream: bool
    ) -> Running:
        target = turn.target.model
        name, own = self._find(target)
        timeout_s = None if request.timeout_s is None else turn.left_s
        patience_s = turn.target.timeout_s
        if patience_s is not None and not stream:
            timeout_s = min(patience_s, turn.left_s)
        elif patience_s is None and stream and turn.share_s < turn.left_s:
            patience_s = turn.share_s
        sent = request.model_copy(update={"model": own, "timeout_s": timeout_s})
        place = None
        try:
            provider = self._provider(name)
            if self.ledger is not None:
                place = await self.ledger.reserve(target, sent)
            record = self._telemetry.begin(provider, sent, self._why(turn, request), stream=stream)
        except BaseException:
            turn.leave()
            if self.ledger is not None and place is not None:
                await self.ledger.release(place)
            raise
        deadline = course.deadline
        # By the time as it is now: the ledger may have taken some.
        if patience_s is not None and self._clock.monotonic() + patience_s < deadline.at:
            deadline = Deadline(self._clock, patience_s)
        return Running(
            course,
            turn,
            provider,
            sent,
            record,
            deadline,
            latencies=self._latencies,
            prices=self._prices,
            ledger=self.ledger,
            place=place,
        )

    def _why(self, turn: Turn, request: LLMRequest) -> Attributes:
        """Nothing of the first call of a model that is no route: there was nothing to decide."""
        why: Attributes = {}
        routed = request.model in self._routes
        if routed or turn.number > 1:
            why = {semconv.LLM_ATTEMPT: turn.number, semconv.LLM_REASON: turn.reason}
        if routed:
            why[semconv.LLM_ROUTE] = request.model
        return why

    def _route(self, model: str) -> Route:
        """The route of that name, or one of this single target."""
        return self._routes.get(model) or _route_to(model)

    def _estimate(self, target: str, request: LLMRequest) -> Money | None:
        return None if self._prices is None else self._prices.estimate(target, request)

    def _gate(self, target: Target, route: Route) -> Gate:
        limits = (target.model, target.requests_per_minute, target.tokens_per_minute)
        limiter = self._limiters.get(limits)
        if limiter is None and limits[1:] != (None, None):
            limiter = self._limiters[limits] = Limiter(self._clock, *limits[1:])
        circuit = None
        if route.breaker is not None:
            key = (target.model, route.breaker)
            circuit = self._circuits.get(key)
            if circuit is None:
                circuit = self._circuits[key] = Circuit(route.breaker, self._clock)
        return Gate(limiter, circuit)

    def _check(self, model: str) -> None:
        name, own = self._find(model)
        provider = self._provider(name)
        if isinstance(provider, Checked):
            provider.check(own)

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            self._providers[name] = self._factories[name]()
        return self._providers[name]

    def _find(self, model: str) -> tuple[str, str]:
        name, slash, rest = model.partition("/")
        if name in self._factories and (rest or (not slash and name not in _NEED_A_MODEL)):
            return name, rest or name
        raise UnknownModelError(f"{model!r} is not a model. {self._what_to_write(name, rest)}")

    def _what_to_write(self, name: str, rest: str) -> str:
        if name in self._routes and not rest:
            return "It is the name of a route; its targets are provider/model each."
        if name in self._factories:
            example = f"{name}/{_NEED_A_MODEL.get(name, 'name')}"
            return f"{name!r} serves many: write {name}/ and the model's name, as in {example}."
        forms = [
            f"{known}/<model>" if known in _NEED_A_MODEL else known for known in self._factories
        ]
        allowed = f"Models are named {', '.join([*self._routes, *forms])}."
        names = [*([] if rest else self._routes), *self._factories]
        close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)
        if close:
            meant = f"{close[0]}/{rest}" if rest else close[0]
            return f"Did you mean {meant!r}? {allowed}"
        if not name:
            return allowed
        # A vendor's name in front is litellm's business; a bare name may be anybody's.
        vendor = "anthropic" if name.startswith("claude") else "openai"
        candidates = ("litellm",) if rest else (vendor, "litellm")
        whole = f"{name}/{rest}" if rest else name
        tries = [f"{known}/{whole}" for known in candidates if known in self._factories]
        return f"Write {' or '.join(tries)}. {allowed}" if tries else allowed


@lru_cache(maxsize=256)
def _route_to(model: str) -> Route:
    return Route((Target(model),), breaker=None)


def _estimated_tokens(request: LLMRequest) -> int:
    usage = estimated_usage(request)
    return usage.input_tokens + usage.output_tokens


def default_providers(
    *,
    openai_api_key: SecretStr | str | None = None,
    openai_base_url: str | None = None,
    anthropic_api_key: SecretStr | str | None = None,
    anthropic_auth_token: SecretStr | str | None = None,
    anthropic_base_url: str | None = None,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Callable[[], Provider]]:
    """The providers that come with the runtime, each made when a model of it is first asked.

    Args:
        openai_api_key: OpenAI's own servers need one.
        openai_base_url: any server that speaks OpenAI's APIs.
        anthropic_api_key: Anthropic's own servers need one.
        anthropic_auth_token: for servers that want a bearer's token instead of a key.
        anthropic_base_url: any server that speaks Anthropic's Messages API.
        timeout_s: for each wait within a call.
        environment: vendors' keys for litellm, where the process's environment lacks them.
    """

    def openai() -> Provider:
        from .providers.openai import OpenAIProvider

        return OpenAIProvider(openai_api_key, openai_base_url, timeout_s=timeout_s)

    def openai_responses() -> Provider:
        from .providers.openai import OpenAIResponsesProvider

        return OpenAIResponsesProvider(openai_api_key, openai_base_url, timeout_s=timeout_s)

    def anthropic() -> Provider:
        from .providers.anthropic import AnthropicProvider

        return AnthropicProvider(
            anthropic_api_key,
            anthropic_base_url,
            auth_token=anthropic_auth_token,
            timeout_s=timeout_s,
        )

    def openai_sdk() -> Provider:
        from .providers.openai_sdk import OpenAISDKProvider

        return OpenAISDKProvider(openai_api_key, openai_base_url, timeout_s=timeout_s)

    def litellm() -> Provider:
        from .providers.litellm import LiteLLMProvider

        return LiteLLMProvider(environment or {}, timeout_s=timeout_s)

    def offline() -> Provider:
        from .providers.offline import OfflineProvider

        return OfflineProvider()

    def schema() -> Provider:
        from .providers.schema_driven import SchemaProvider

        return SchemaProvider()

    return {
        "offline": offline,
        "openai": openai,
        "anthropic": anthropic,
        "openai-responses": openai_responses,
        "openai-sdk": openai_sdk,
        "litellm": litellm,
        "schema": schema,
    }
