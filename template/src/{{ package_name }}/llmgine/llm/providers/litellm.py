# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Every other vendor, through litellm: `litellm/gemini/…`, `litellm/bedrock/…`; or its Router."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ...contracts import Chunk, LLMRequest, LLMResponse, Money, StreamEnd, accumulate
from ...errors import LLMError, LLMErrorKind, MissingExtraError, MissingKeyError
from . import _litellm_format
from ._failures import GENERAL_FIXES, Origin, Refusal
from ._limits import Limits

_FIXES = GENERAL_FIXES | {
    LLMErrorKind.AUTHENTICATION: (
        "Set the vendor's key, such as ANTHROPIC_API_KEY, in the environment or in .env."
    ),
    LLMErrorKind.NETWORK: "Check the connection, and the vendor's address if you set one.",
}
_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout): )*(?:\w+(?:Exception|Error) - )?")
_SUFFIX = re.compile(r"\s*(?:Traceback \(most recent call last\):.*|Handle with `.*)$", re.DOTALL)
_NONSENSE = re.compile(
    # What Python's own JSON says, and where litellm stumbled over an answer.
    r"line \d+ column \d+ \(char \d+\)|invalid response from LLM endpoint"
    r"|Stream ended before a finish_reason"
    r"|^(?:Attribute|Index|Key|Type)Error: ",
    re.MULTILINE,
)
"""Of an answer that is none; litellm tells it as a failed server or connection."""

# Vendors that answer nobody without a key, and the variables that litellm takes it from.
_KEYS = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "xai": ("XAI_API_KEY",),
}


class LiteLLMProvider:
    """Calls the vendor that the model's name begins with, or the group of a Router of that name.

    litellm takes its keys from the process's environment. `environment` holds those from elsewhere,
    such as a .env file; they are added to it before the first call, where it lacks them.

    `timeout_s` limits each wait, a request's own `timeout_s` the whole call. litellm's retries are
    off. Parameters that the vendor does not have are left out. A request's `extra_body` becomes
    arguments of litellm's, which hands on what it does not know.
    """

    name = "litellm"

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
        router: Any = None,
    ) -> None:
        """Check that litellm is there; it is not imported yet.

        Args:
            environment: keys that the process's environment may lack.
            timeout_s: for each wait.
            router: a `litellm.Router`, called with the names of its groups. It retries and falls
                back as you set it up: give one owner to the retries, it or the manager's route.
                Set LITELLM_LOCAL_MODEL_COST_MAP=True before you import litellm to make it, or
                the import fetches a price list.

        Raises:
            MissingExtraError: litellm is not installed.
        """
        if find_spec("litellm") is None:
            raise MissingExtraError("A model named litellm/…", "litellm")
        self._environment = dict(environment or {})
        self._timeout_s = timeout_s
        self._router = router
        self._secrets: tuple[str, ...] = ()
        self._litellm: Any = None

    def check(self, model: str) -> None:
        """Whether the vendor's key is set, as far as we know the vendor.

        Raises:
            MissingKeyError: it is not.
        """
        vendor = model.partition("/")[0]
        known = () if self._router else _KEYS.get(vendor, ())
        if known and not self._is_set(*known):
            raise MissingKeyError(
                f"{vendor!r} needs a key. Set {known[0]} in the environment or in .env."
            )

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        litellm, origin = await self._import(), self._origin(request)
        limit_s = request.timeout_s or self._timeout_s
        arguments = self._arguments(request, limit_s, stream=False)
        with _translated(origin, litellm):
            async with asyncio.timeout(limit_s):
                answer = await self._ask(**arguments)
            response = accumulate(_litellm_format.decode(answer, request, origin))
        cost = _money(answer._hidden_params.get("response_cost"))
        return response.model_copy(update={"cost": cost})

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        litellm, origin = await self._import(), self._origin(request)
        limits = Limits(request.timeout_s, self._timeout_s)
        arguments = self._arguments(request, self._timeout_s, stream=True)
        decoder = _litellm_format.Decoder(request, origin)
        with _translated(origin, litellm):
            async with limits.next_wait():
                pieces = await self._ask(**arguments)
            try:
                while (piece := await _next(pieces, limits)) is not None:
                    for chunk in decoder.feed(piece, pieces):
                        yield chunk
            finally:
                await pieces.aclose()
            for chunk in decoder.end(pieces):
                if isinstance(chunk, StreamEnd):
                    chunk = chunk.model_copy(update={"cost": _money(decoder.cost)})
                yield chunk

    async def aclose(self) -> None:
        """Close the connections; litellm has one pool for all providers of the process."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()
            self._litellm.in_memory_llm_clients_cache.flush_cache()

    async def _import(self) -> Any:
        """It takes seconds: in a thread, so that everything else goes on."""
        if self._litellm is None:
            for name, value in self._environment.items():
                os.environ.setdefault(name, value)
            self._litellm = await asyncio.to_thread(_import_quietly)
            self._secrets = (*_secrets(os.environ), *_secrets_of(self._router))
        return self._litellm

    def _is_set(self, *names: str) -> bool:
        return any(os.environ.get(name) or self._environment.get(name) for name in names)

    @property
    def _ask(self) -> Any:
        return (self._router or self._litellm).acompletion

    def _arguments(self, request: LLMRequest, timeout_s: float, *, stream: bool) -> dict[str, Any]:
        arguments = {
            **_litellm_format.encode(request, stream=stream),
            "timeout": timeout_s,
            "drop_params": True,
            # Else a request with tools imports the package `mcp`, which litellm does not depend on.
            "_skip_mcp_handler": True,
        }
        if self._router:
            return arguments
        if request.model.startswith("openai/") and not self._is_set("OPENAI_API_KEY"):
            # litellm insists on one; a server of the user's own may need none.
            arguments["api_key"] = "none"
        return arguments | {"num_retries": 0, "max_retries": 0}

    def _origin(self, request: LLMRequest) -> Origin:
        return Origin(self.name, request.model, fixes=_FIXES, secrets=self._secrets)


async def _next(pieces: Any, limits: Limits) -> Any:
    async with limits.next_wait():
        return await anext(pieces, None)


def _import_quietly() -> Any:
    # Both are read when litellm is imported: it would fetch its price list from the network, and
    # load whatever .env file it finds.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    litellm: Any = import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _secrets(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, str) and _SECRET_NAME.search(name):
            yield value


def _secrets_of(router: Any) -> Iterator[str]:
    for deployment in getattr(router, "model_list", None) or ():
        yield from _secrets(deployment["litellm_params"])


@contextmanager
def _translated(origin: Origin, litellm: Any) -> Iterator[None]:
    """Raise `LLMError` for every error of litellm's, which are nearly all OpenAI's at the root."""
    try:
        yield
    except LLMError:
        raise
    except TimeoutError as cause:
        raise origin.error(LLMErrorKind.TIMEOUT, "did not answer in time") from cause
    except litellm.exceptions.BudgetExceededError as error:
        raise _failed(error, origin, litellm.exceptions) from None
    except ValueError as error:
        raise _refused_by_value(error, origin) from None
    except import_module("openai").OpenAIError as error:
        # Not from the cause: its message may quote the key.
        raise _failed(error, origin, litellm.exceptions) from None


def _refused_by_value(error: ValueError, origin: Origin) -> LLMError:
    """A Router with no deployment left, or what litellm could make nothing of."""
    if wait_s := getattr(error, "cooldown_time", None):
        headers = {"retry-after": str(wait_s)}
        refusal = Refusal("The Router's deployments of this model all rest after failures")
        return origin.refused(refusal, headers, kind=LLMErrorKind.RATE_LIMIT)
    return origin.error(LLMErrorKind.BAD_RESPONSE, f"sent nonsense: {origin.quote(str(error))}")


def _failed(error: Any, origin: Origin, exceptions: Any) -> LLMError:
    while isinstance(error, exceptions.MidStreamFallbackError) and error.original_exception:
        error = error.original_exception
    message = _SUFFIX.sub("", _PREFIX.sub("", str(error)))
    status = getattr(error, "status_code", None)
    kind = None
    if isinstance(error, exceptions.ContextWindowExceededError):
        kind = LLMErrorKind.CONTEXT_LENGTH
    elif isinstance(error, exceptions.ContentPolicyViolationError):
        kind = LLMErrorKind.CONTENT_FILTER
    elif status in (None, 500) and _NONSENSE.search(str(error)):
        kind, status = LLMErrorKind.BAD_RESPONSE, None
    elif _is_connection(error, message, exceptions):
        # litellm gives these a status that no server sent.
        status = None
        late = isinstance(error, exceptions.Timeout) or "timeout" in message.lower()
        kind = LLMErrorKind.TIMEOUT if late else LLMErrorKind.NETWORK
    headers = getattr(error, "litellm_response_headers", None)
    return origin.refused(Refusal(message, status=status), headers, kind=kind)


def _is_connection(error: Any, message: str, exceptions: Any) -> bool:
    kinds = (exceptions.APIConnectionError, exceptions.Timeout)
    return isinstance(error, kinds) or bool(re.search("Connection error|disconnected", message))


def _money(cost: Any) -> Money | None:
    """litellm's price of the call; it says 0 where it does not know one."""
    return Money(amount=Decimal(str(cost))) if cost else None
