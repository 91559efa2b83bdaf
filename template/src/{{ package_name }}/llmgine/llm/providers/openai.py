# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""OpenAI, and every server that speaks its Chat Completions API, straight over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_core import from_json

from ...contracts import Chunk, LLMRequest, LLMResponse
from ...errors import ConfigurationError, LLMError, LLMErrorKind, MissingKeyError
from ._chat_completions import StreamDecoder, complete, decode_response, encode_request
from ._failures import GENERAL_FIXES, Origin, Refusal

if TYPE_CHECKING:
    from ._http import HttpReply, HttpServer


# A carriage return at the end of a piece may be the first half of a line's end: wait for the rest.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class EventTooLargeError(ValueError):
    """One event is larger than the limit."""


class EventReader:
    """Yields the data of each event as soon as its last byte is there.

    Lenient where servers are: a space after `data:` may be missing, an event may end with the
    stream. An unfinished line at the end of the stream is dropped; it was cut.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take the next bytes.

        Raises:
            EventTooLargeError: an event outgrows the limit.
        """
        self._rest += piece
        begin = 0
        for end in _LINE_END.finditer(self._rest, self._searched):
            line = bytes(self._rest[begin : end.start()])
            begin = end.end()
            if line:
                self._take(line)
            elif self._data:
                yield self._event()
        del self._rest[:begin]
        self._searched = max(0, len(self._rest) - 1)
        self._check(len(self._rest))

    def finish(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        if self._rest.endswith(b"\r"):
            self._take(bytes(self._rest[:-1]))
        if self._data:
            yield self._event()

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
            self._check(self._data_bytes)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_event_bytes:
            raise EventTooLargeError(f"an event of more than {self._max_event_bytes} bytes")

    def _event(self) -> str:
        data = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        return data.decode("utf-8", "replace")


DEFAULT_BASE_URL = "https://api.openai.com/v1"
_MAX_BODY_BYTES = 32 * 2**20


class OpenAIProvider:
    """Calls `{base_url}/chat/completions`.

    OpenAI's own host needs a key. Any other (Ollama, vLLM, OpenRouter, a proxy) gets one only if
    it is given. OpenAI and Azure are sent `max_completion_tokens`, which their newer models insist
    on; others are sent `max_tokens`, which some of them insist on.

    `timeout_s` limits each wait: for the connection, for the answer, between two pieces of a
    stream. A request's own `timeout_s` limits the whole call.
    """

    name = "openai"

    def __init__(
        self,
        api_key: SecretStr | str | None,
        base_url: str | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """Check the key and the address; nothing is opened.

        Raises:
            ConfigurationError: the address or the key cannot be one.
            MissingKeyError: OpenAI's own host was given no key.
        """
        self._base_url = (base_url or DEFAULT_BASE_URL).strip()
        self.server_address, self.server_port = _parse_address(self._base_url)
        self._key = _check_key(api_key, self.server_address)
        self._timeout_s = timeout_s
        self._server: HttpServer | None = None

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        origin = self._origin(request)
        async with self._post(request, origin, stream=False) as reply:
            return complete(await _read_json(reply, origin), request, origin)

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        origin = self._origin(request)
        async with self._post(request, origin, stream=True) as reply:
            if reply.content_type in ("application/json", "text/html"):
                # A server that cannot stream answers as if it had not been asked to.
                for chunk in decode_response(await _read_json(reply, origin), request, origin):
                    yield chunk
                return
            decoder = StreamDecoder(request, origin)
            said_done = False
            async with aclosing(_events(reply, origin, decoder)) as events:
                async for event in events:
                    said_done = event.strip() == "[DONE]"
                    if said_done:
                        break
                    for chunk in decoder.feed(_parse(event, origin)):
                        yield chunk
            for chunk in decoder.end(said_done=said_done):
                yield chunk
            await reply.drain()

    async def aclose(self) -> None:
        if self._server is not None:
            await self._server.aclose()

    @asynccontextmanager
    async def _post(
        self, request: LLMRequest, origin: Origin, *, stream: bool
    ) -> AsyncIterator[HttpReply]:
        """A reply that is not a refusal."""
        server = self._server or await self._connect()
        body = encode_request(request, stream=stream, max_tokens_field=self._max_tokens_field)
        whole_s = request.timeout_s or self._timeout_s
        async with server.post(
            json.dumps(body).encode(),
            origin,
            total_s=request.timeout_s if stream else whole_s,
            silence_s=self._timeout_s if stream else whole_s,
        ) as reply:
            if not 200 <= reply.status < 300:
                raise await _refused(reply, origin)
            yield reply

    async def _connect(self) -> HttpServer:
        # Importing aiohttp takes a third of a second: not in the event loop.
        await asyncio.to_thread(import_module, "._http", __package__)
        from ._http import HttpServer

        self._server = server = self._server or HttpServer(*self._endpoint())
        return server

    def _endpoint(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self._base_url)
        url = url._replace(path=f"{url.path.rstrip('/')}/chat/completions")
        headers = {"Content-Type": "application/json", "User-Agent": "llmgine"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return url.geturl(), headers

    @property
    def _max_tokens_field(self) -> Literal["max_tokens", "max_completion_tokens"]:
        theirs = self.server_address.endswith((".openai.com", ".azure.com"))
        return "max_completion_tokens" if theirs else "max_tokens"

    def _origin(self, request: LLMRequest) -> Origin:
        return Origin(
            provider=self.name,
            model=request.model,
            server=urlsplit(self._base_url).netloc,
            fixes=GENERAL_FIXES
            | {
                LLMErrorKind.AUTHENTICATION: "Check OPENAI_API_KEY.",
                LLMErrorKind.NETWORK: (
                    f"Is a server running at {self._base_url}? OPENAI_BASE_URL says where."
                ),
                LLMErrorKind.BAD_RESPONSE: (
                    "Is it an OpenAI-compatible API? OPENAI_BASE_URL usually ends in /v1."
                ),
            },
            secrets=() if self._key is None else (self._key.get_secret_value(),),
        )


def _parse_address(base_url: str) -> tuple[str, int]:
    """Host and port."""
    try:
        url = urlsplit(base_url)
        if url.scheme in ("http", "https") and url.hostname and "@" not in url.netloc:
            return url.hostname, url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        pass
    raise ConfigurationError(
        "OPENAI_BASE_URL is no address that can be called. Write it like "
        "http://localhost:11434/v1, and a key into OPENAI_API_KEY."
    )


def _check_key(key: SecretStr | str | None, host: str) -> SecretStr | None:
    plain = (key.get_secret_value() if isinstance(key, SecretStr) else key or "").strip()
    if not plain.isascii() or not plain.isprintable():
        raise ConfigurationError(
            "OPENAI_API_KEY holds characters that no key has; copy it again from its source."
        )
    if not plain and host.endswith(".openai.com"):
        raise MissingKeyError(
            "OpenAI needs a key. Set OPENAI_API_KEY in the environment or in .env, or set "
            "OPENAI_BASE_URL to a server that needs none."
        )
    return SecretStr(plain) if plain else None


async def _events(
    reply: HttpReply, origin: Origin, decoder: StreamDecoder
) -> AsyncGenerator[str, None]:
    reader = EventReader(_MAX_BODY_BYTES)
    try:
        while piece := await reply.read_piece():
            for event in reader.feed(piece):
                yield event
    except EventTooLargeError as cause:
        raise origin.error(LLMErrorKind.BAD_RESPONSE, f"sent {cause}") from cause
    except LLMError:
        # After the reason to stop, only the token counts can be missing.
        if not decoder.finished:
            raise
    for event in reader.finish():
        yield event


async def _refused(reply: HttpReply, origin: Origin) -> LLMError:
    if reply.status < 400:
        host = urlsplit(reply.headers.get("Location", "")).hostname or "another path"
        return origin.error(
            LLMErrorKind.BAD_RESPONSE,
            f"redirects to {host} (HTTP {reply.status})",
            fix="Set OPENAI_BASE_URL to where it leads.",
            status=reply.status,
        )
    text = (await reply.read(_MAX_BODY_BYTES)).decode("utf-8", "replace")
    try:
        body = from_json(text)
    except ValueError:
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
        body = title[1] if title else "" if "<html" in text.lower() else text
    return origin.refused(Refusal.parse(body, reply.status), reply.headers)


async def _read_json(reply: HttpReply, origin: Origin) -> Any:
    text = (await reply.read(_MAX_BODY_BYTES)).decode("utf-8", "replace")
    if reply.content_type == "text/html":
        raise origin.error(LLMErrorKind.BAD_RESPONSE, "answered with a web page")
    return _parse(text, origin)


def _parse(text: str, origin: Origin) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        where = str(error)
    try:
        # Half of a surrogate pair, which a model can write, is JSON to Python alone.
        repaired = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace")
        return from_json(repaired)
    except (ValueError, RecursionError):
        raise origin.error(LLMErrorKind.BAD_RESPONSE, f"sent invalid JSON ({where})") from None
