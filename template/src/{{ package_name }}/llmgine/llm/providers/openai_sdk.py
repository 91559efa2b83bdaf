# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""OpenAI through its own package `openai`: for Azure's sign-in, or a client that you have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pydantic import SecretStr

from ...contracts import LLMRequest
from ...errors import LLMErrorKind, MissingExtraError
from ._direct import Reply
from ._failures import Origin
from ._limits import Limits
from .openai import OpenAIProvider

_DRAIN_S = 0.25
_NO_KEY = "none"
_NAMED = ("model", "messages", "stream")


class OpenAISDKProvider(OpenAIProvider):
    """Calls Chat Completions with an `AsyncOpenAI`, of version 2 or 3.

    The package sends and authenticates; what comes back is read as `OpenAIProvider` reads it. Its
    retries are off. It belongs to the event loop of its first call.
    """

    name = "openai-sdk"

    def __init__(
        self,
        api_key: SecretStr | str | None = None,
        base_url: str | None = None,
        *,
        timeout_s: float = 60.0,
        client: Any = None,
    ) -> None:
        """Check the key and the address, and that the package is there; it is not imported yet.

        Args:
            api_key: not needed by a server of your own, nor by a `client`.
            base_url: another server than OpenAI's.
            timeout_s: for each wait; a request's own `timeout_s` is for the whole call.
            client: an `AsyncOpenAI` or `AsyncAzureOpenAI` of yours, in place of key and address;
                closing it is yours too.

        Raises:
            ConfigurationError: the address or the key cannot be one.
            MissingExtraError: the package is not installed.
            MissingKeyError: OpenAI's own host was given no key.
        """
        if find_spec("openai") is None:
            raise MissingExtraError("A model named openai-sdk/…", "openai")
        if client is not None:
            api_key, base_url = client.api_key or _NO_KEY, str(client.base_url)
        super().__init__(api_key, base_url, timeout_s=timeout_s)
        self._theirs = client
        self._client: Any = None

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._theirs is None:
            await client.close()

    @asynccontextmanager
    async def _post(
        self, request: LLMRequest, origin: Origin, *, stream: bool
    ) -> AsyncIterator[Reply]:
        client = self._client or await self._import()
        body = self._wire.encode(request, stream=stream)
        named = {name: body.pop(name) for name in _NAMED if name in body}
        whole_s = request.timeout_s or self._timeout_s
        limits = Limits(
            request.timeout_s if stream else whole_s, self._timeout_s if stream else whole_s
        )
        # Its `create` need not know the rest by name.
        call = client.chat.completions.with_streaming_response.create(
            **named, extra_body=body, timeout=None
        )
        async with AsyncExitStack() as stack:
            try:
                with _translated(origin):
                    async with limits.next_wait():
                        response = await stack.enter_async_context(call)
            except sys.modules["openai"].APIStatusError as error:
                refused = _Reply(error.response, _once(error.response.content), origin, limits)
                raise await self._refused(refused, origin) from None
            pieces = await stack.enter_async_context(aclosing(response.iter_bytes()))
            yield _Reply(response, pieces, origin, limits)

    async def _import(self) -> Any:
        """It takes a second: in a thread, so that everything else goes on."""
        client = await asyncio.to_thread(self._make_client)
        self._client = self._client or client
        return self._client

    def _make_client(self) -> Any:
        openai: Any = import_module("openai")
        client = self._theirs
        if client is None:
            # It insists on a key, where a server of your own does not.
            key = self._secrets[0] if self._secrets else _NO_KEY
            http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
            client = openai.AsyncOpenAI(api_key=key, base_url=self._base_url, http_client=http)
        client = client.with_options(max_retries=0)
        client.chat.completions  # noqa: B018 - what it imports late
        return client


class _Reply:
    """The package's reply."""

    def __init__(
        self, response: Any, pieces: AsyncIterator[bytes], origin: Origin, limits: Limits
    ) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._pieces = pieces
        self._origin = origin
        self._limits = limits

    async def read(self, max_bytes: int) -> bytes:
        body = bytearray()
        while piece := await self.read_piece():
            body += piece
            if len(body) > max_bytes:
                raise self._origin.error(
                    LLMErrorKind.BAD_RESPONSE, f"sent more than {max_bytes} bytes"
                )
        return bytes(body)

    async def read_piece(self) -> bytes:
        with _translated(self._origin):
            async with self._limits.next_wait():
                return await anext(self._pieces, b"")

    async def drain(self) -> None:
        """Read past the end of the answer, so that the connection can serve the next call."""
        with suppress(TimeoutError, *_transport_errors()):
            async with asyncio.timeout(_DRAIN_S):
                await anext(self._pieces, b"")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


@contextmanager
def _translated(origin: Origin) -> Iterator[None]:
    """Raise `LLMError` for whatever goes wrong between here and the server; not for a refusal."""
    openai: Any = sys.modules["openai"]
    try:
        yield
    except openai.APIStatusError:
        raise
    except (TimeoutError, openai.APITimeoutError) as cause:
        raise origin.error(LLMErrorKind.TIMEOUT, "did not answer in time") from cause
    except openai.APIConnectionError as cause:
        raise origin.error(LLMErrorKind.NETWORK, "cannot be reached") from cause
    except openai.OpenAIError as cause:
        raise origin.error(
            LLMErrorKind.AUTHENTICATION, f"was not called: {origin.quote(str(cause))}"
        ) from None
    except _transport_errors() as cause:
        raise origin.error(
            LLMErrorKind.NETWORK,
            "broke the connection before its answer was whole",
            fix="Try again.",
        ) from cause


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the package lets through while a body is read: its version 2 uses httpx, 3 httpx2."""
    loaded: list[Any] = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    # AnyIO's is a gap in httpx2: https://github.com/pydantic/httpx2/issues/854.
    return (OSError, sys.modules["anyio"].EndOfStream, *(module.HTTPError for module in loaded))
