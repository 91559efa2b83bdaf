# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Every other vendor, through litellm: `litellm/anthropic/claude-…`, `litellm/gemini/…`."""

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

from ...contracts import Chunk, LLMRequest, LLMResponse, Money, StreamEnd
from ...errors import LLMError, LLMErrorKind, MissingExtraError, MissingKeyError
from ._chat_completions import StreamDecoder, complete, encode_request
from ._failures import GENERAL_FIXES, Origin, Refusal

_FIXES = GENERAL_FIXES | {
    LLMErrorKind.AUTHENTICATION: (
        "Set the vendor's key, such as ANTHROPIC_API_KEY, in the environment or in .env."
    ),
    LLMErrorKind.NETWORK: "Check the connection, and the vendor's address if you set one.",
}
_SECRET_NAME = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Timeout): )*(?:\w+Exception - )?")


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
    """Calls the vendor that the model's name begins with.

    litellm takes its keys from the process's environment. `environment` holds those from elsewhere,
    such as a .env file; they are added to it before the first call, where it lacks them.

    `timeout_s` limits each wait, a request's own `timeout_s` the whole call. litellm's retries are
    off. Parameters that the vendor does not have are left out.
    """

    name = "litellm"

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, timeout_s: float = 60.0
    ) -> None:
        """Check that litellm is there; it is not imported yet.

        Raises:
            MissingExtraError: litellm is not installed.
        """
        if find_spec("litellm") is None:
            raise MissingExtraError("A model named litellm/…", "litellm")
        self._environment = dict(environment or {})
        self._timeout_s = timeout_s
        self._litellm: Any = None

    def check(self, model: str) -> None:
        """Whether the vendor's key is set, as far as we know the vendor.

        Raises:
            MissingKeyError: it is not.
        """
        vendor = model.partition("/")[0]
        known = _KEYS.get(vendor, ())
        if known and not any(os.environ.get(key) or self._environment.get(key) for key in known):
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
        with _translated(origin, litellm):
            async with asyncio.timeout(limit_s):
                answer = await litellm.acompletion(**_arguments(request, limit_s, stream=False))
        cost = answer._hidden_params.get("response_cost")
        response = complete(answer.model_dump(), request, origin)
        return response.model_copy(update={"cost": _money(cost)})

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        litellm, origin = await self._import(), self._origin(request)
        decoder = StreamDecoder(request, origin)
        cost: Any = None
        limits = _Limits(request.timeout_s, self._timeout_s)
        with _translated(origin, litellm):
            async with limits.next_wait():
                arguments = _arguments(request, limits.silence_s, stream=True)
                pieces = await litellm.acompletion(**arguments)
        try:
            while True:
                with _translated(origin, litellm):
                    async with limits.next_wait():
                        piece = await anext(pieces, None)
                if piece is None:
                    break
                body = piece.model_dump()
                cost = (body.get("usage") or {}).get("cost") or cost
                for chunk in decoder.feed(body):
                    yield chunk
        finally:
            await pieces.aclose()
        for chunk in decoder.end(said_done=False):
            if isinstance(chunk, StreamEnd):
                yield chunk.model_copy(update={"cost": _money(cost)})
            else:
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
        return self._litellm

    def _origin(self, request: LLMRequest) -> Origin:
        environment = self._environment | dict(os.environ)
        secrets = (value for name, value in environment.items() if _SECRET_NAME.search(name))
        return Origin(self.name, request.model, fixes=_FIXES, secrets=tuple(secrets))


class _Limits:
    """The end of the whole call, and of each wait within it."""

    def __init__(self, total_s: float | None, silence_s: float) -> None:
        self.silence_s = silence_s
        self._end = None if total_s is None else asyncio.get_running_loop().time() + total_s

    def next_wait(self) -> asyncio.Timeout:
        until = asyncio.get_running_loop().time() + self.silence_s
        return asyncio.timeout_at(until if self._end is None else min(until, self._end))


def _import_quietly() -> Any:
    # Both are read when litellm is imported: it would fetch its price list from the network, and
    # load whatever .env file it finds.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    litellm: Any = import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _arguments(request: LLMRequest, timeout_s: float, *, stream: bool) -> dict[str, Any]:
    body = encode_request(request, stream=stream, max_tokens_field="max_tokens")
    return {
        **body,
        "timeout": timeout_s,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": True,
        # Else a request with tools imports the package `mcp`, which litellm does not depend on.
        "_skip_mcp_handler": True,
    }


@contextmanager
def _translated(origin: Origin, litellm: Any) -> Iterator[None]:
    """Raise `LLMError` for every error of litellm's, which are all OpenAI's at the root."""
    failures: tuple[type[Exception], ...] = (
        import_module("openai").OpenAIError,
        litellm.exceptions.BudgetExceededError,
    )
    try:
        yield
    except TimeoutError as cause:
        raise origin.error(LLMErrorKind.TIMEOUT, "did not answer in time") from cause
    except failures as error:
        # Not from the cause: its message may quote the key.
        raise _failed(error, origin, litellm.exceptions) from None


def _failed(error: Any, origin: Origin, exceptions: Any) -> LLMError:
    while isinstance(error, exceptions.MidStreamFallbackError) and error.original_exception:
        error = error.original_exception
    message = _PREFIX.sub("", str(error))
    status = getattr(error, "status_code", None)
    kind = None
    if isinstance(error, exceptions.ContextWindowExceededError):
        kind = LLMErrorKind.CONTEXT_LENGTH
    elif isinstance(error, exceptions.ContentPolicyViolationError):
        kind = LLMErrorKind.CONTENT_FILTER
    elif _is_connection(error, message, exceptions):
        # litellm gives these a status that no server sent.
        status = None
        late = isinstance(error, exceptions.Timeout) or "timeout" in message.lower()
        kind = LLMErrorKind.TIMEOUT if late else LLMErrorKind.NETWORK
    headers = getattr(error, "litellm_response_headers", None)
    return origin.refused(Refusal(message, status=status), headers, kind=kind)


def _is_connection(error: Any, message: str, exceptions: Any) -> bool:
    kinds = (exceptions.APIConnectionError, exceptions.Timeout)
    return isinstance(error, kinds) or "Connection error" in message


def _money(cost: Any) -> Money | None:
    """litellm's price of the call; it says 0 where it does not know one."""
    return Money(amount=Decimal(str(cost))) if cost else None
