# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A vendor's API straight over HTTP: what all of them have in common, whatever they are sent."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from mimetypes import guess_extension
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit

from pydantic import JsonValue, SecretStr
from pydantic_core import from_json, to_json

from ...contracts import (
    BlobPart,
    ChatMessage,
    Chunk,
    LLMRequest,
    LLMResponse,
    TextPart,
    UriPart,
    accumulate,
)
from ...errors import ConfigurationError, LLMError, LLMErrorKind
from ._events import EventReader, EventTooLargeError
from ._failures import GENERAL_FIXES, Origin, Refusal

if TYPE_CHECKING:
    from ._http import HttpReply, HttpServer

_MAX_BODY_BYTES = 32 * 2**20
File = BlobPart | UriPart


class Reply(Protocol):
    """A reply whose head has arrived; the body is still to be read."""

    status: int
    headers: Mapping[str, str]

    async def read(self, max_bytes: int) -> bytes:
        """The whole body, or the rest of it.

        Raises:
            LLMError: it was cut, is too slow or too large.
        """
        ...

    async def read_piece(self) -> bytes:
        """The next bytes of the body, as they arrive; none at its end.

        Raises:
            LLMError: it was cut, or is too slow.
        """
        ...

    async def drain(self) -> None:
        """Read past the end of the answer, so that the connection can serve the next call."""
        ...


class Decoder(Protocol):
    """Turns the objects of one answer into chunks."""

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; only the usage may follow."""
        ...

    @property
    def done(self) -> bool:
        """Whether the server has said that nothing follows, although it may stay connected."""
        ...

    def feed(self, body: Any) -> Iterable[Chunk]:
        """Take the next object of a stream.

        Raises:
            LLMError: the server reports an error in it, or it makes no sense.
        """
        ...

    def end(self, *, said_done: bool) -> Iterator[Chunk]:
        """The end of the stream, which the server announced or did not: the `StreamEnd` is last.

        Raises:
            LLMError: the stream was cut, or held no answer.
        """
        ...


class WireFormat(Protocol):
    """One API's form of our contracts."""

    path: str
    """Of the calls, below the base URL."""

    def encode(self, request: LLMRequest, *, stream: bool) -> dict[str, JsonValue]:
        """The body of the call; what the request leaves open is left to the server."""
        ...

    def decode(self, body: Any, request: LLMRequest, origin: Origin) -> Iterator[Chunk]:
        """The chunks that a complete answer would have been streamed as.

        Raises:
            LLMError: it is not an answer, or says that the call failed.
        """
        ...

    def decoder(self, request: LLMRequest, origin: Origin) -> Decoder: ...


class DirectProvider:
    """Posts to one server and reads its answer, whole or as it comes.

    `timeout_s` limits each wait: for the connection, for the answer, between two pieces of a
    stream. A request's own `timeout_s` limits the whole call. Nothing is opened before the first.
    """

    name: ClassVar[str]

    def __init__(
        self,
        wire: WireFormat,
        *,
        base_url: str,
        base_url_variable: str,
        headers: Mapping[str, str],
        fixes: Mapping[LLMErrorKind, str],
        secrets: tuple[str, ...] = (),
        timeout_s: float = 60.0,
    ) -> None:
        """`base_url_variable` is what an error about the address tells the user to set.

        Raises:
            ConfigurationError: the address cannot be one.
        """
        self._wire = wire
        self._base_url = base_url
        self.server_address, self.server_port = parse_address(base_url, base_url_variable)
        self._netloc = urlsplit(base_url).netloc
        self._base_url_variable = base_url_variable
        self._headers = {"Content-Type": "application/json", "User-Agent": "llmgine", **headers}
        self._fixes = {**GENERAL_FIXES, **fixes}
        self._secrets = secrets
        self._timeout_s = timeout_s
        self._server: HttpServer | None = None

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and wait for the whole answer.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        origin = self._origin(request)
        async with self._post(request, origin, stream=False) as reply:
            body = await _read_json(reply, origin)
            return accumulate(self._wire.decode(body, request, origin))

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Ask, and take the answer as it comes. Closing the iterator closes the connection.

        Raises:
            LLMError: the call failed; `kind` says how.
        """
        origin = self._origin(request)
        async with self._post(request, origin, stream=True) as reply:
            piece = await _beginning(reply)
            if piece[:1] in (b"{", b"[", b"<"):
                # A server that cannot stream answers as if it had not been asked to. Its bytes
                # say so: many servers label them as what they are not.
                body = await _read_json(reply, origin, piece)
                for chunk in self._wire.decode(body, request, origin):
                    yield chunk
                return
            decoder = self._wire.decoder(request, origin)
            answer = _StreamedAnswer(decoder, origin)
            while piece:
                for chunk in answer.feed(piece):
                    yield chunk
                if answer.said_done:
                    break
                try:
                    piece = await reply.read_piece()
                except LLMError:
                    # After the reason to stop, only the token counts can be missing.
                    if not decoder.finished:
                        raise
                    break
            for chunk in answer.end():
                yield chunk
            await reply.drain()

    async def aclose(self) -> None:
        if self._server is not None:
            await self._server.aclose()

    def _post(
        self, request: LLMRequest, origin: Origin, *, stream: bool
    ) -> AbstractAsyncContextManager[Reply]:
        """A reply that is not a refusal."""
        return _Posting(self._send(request, origin, stream=stream))

    async def _send(self, request: LLMRequest, origin: Origin, *, stream: bool) -> HttpReply:
        server = self._server or await self._connect()
        body = self._wire.encode(request, stream=stream)
        whole_s = request.timeout_s or self._timeout_s
        reply = await server.post(
            _as_bytes(body),
            origin,
            total_s=request.timeout_s if stream else whole_s,
            silence_s=self._timeout_s if stream else whole_s,
        )
        if 200 <= reply.status < 300:
            return reply
        try:
            raise await self._refused(reply, origin)
        finally:
            reply.close()

    async def _connect(self) -> HttpServer:
        # Importing aiohttp takes a third of a second: not in the event loop.
        await asyncio.to_thread(import_module, "._http", __package__)
        from ._http import HttpServer

        self._server = server = self._server or HttpServer(self._endpoint(), self._headers)
        return server

    def _endpoint(self) -> str:
        url = urlsplit(self._base_url)
        return url._replace(path=f"{url.path.rstrip('/')}{self._wire.path}").geturl()

    def _origin(self, request: LLMRequest) -> Origin:
        return Origin(self.name, request.model, self._netloc, self._fixes, self._secrets)

    async def _refused(self, reply: Reply, origin: Origin) -> LLMError:
        if reply.status < 400:
            return origin.error(
                LLMErrorKind.BAD_RESPONSE,
                f"redirects to {_host(reply.headers.get('Location', ''))} (HTTP {reply.status})",
                fix=f"Set {self._base_url_variable} to where it leads.",
                status=reply.status,
            )
        text = (await reply.read(_MAX_BODY_BYTES)).decode("utf-8", "replace")
        try:
            body = from_json(text)
        except ValueError:
            title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
            body = title[1] if title else "" if "<html" in text.lower() else text
        return origin.refused(Refusal.parse(body, reply.status), reply.headers)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "another path"
    except ValueError:
        return "what is no address"


class _Posting:
    """Brings a reply, and closes it: cheaper than a generator, for there is one in each call."""

    def __init__(self, sending: Coroutine[Any, Any, HttpReply]) -> None:
        self._sending = sending

    async def __aenter__(self) -> Reply:
        self._reply = await self._sending
        return self._reply

    async def __aexit__(self, *_: object) -> None:
        self._reply.close()


def parse_address(base_url: str, variable: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigurationError: it is no address; the message names the variable to set.
    """
    try:
        url = urlsplit(base_url)
        host = url.hostname or ""
        # No part of its name may be empty, or longer than this.
        is_host = all(0 < len(part) < 64 for part in host.rstrip(".").split("."))
        is_plain = base_url.isprintable() and not set("@ ") & set(url.netloc)
        if url.scheme in ("http", "https") and is_host and is_plain:
            return host, url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        pass
    raise ConfigurationError(
        f"{variable} is no address that can be called. Write it like "
        f"http://localhost:11434/v1, and a key into {variable.replace('BASE_URL', 'API_KEY')}."
    )


def check_key(key: SecretStr | str | None, variable: str) -> str:
    """The key without the blanks around it; empty if there is none.

    Raises:
        ConfigurationError: it holds what no key does; the message names the variable, not the key.
    """
    plain = (key.get_secret_value() if isinstance(key, SecretStr) else key or "").strip()
    if not plain.isascii() or (plain and not plain.isprintable()):
        raise ConfigurationError(
            f"{variable} holds characters that no key has; copy it again from its source."
        )
    return plain


def merged(body: Mapping[str, JsonValue], extra: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`body` with `extra` in it: objects are merged at any depth, all else in `extra` replaces."""
    result = dict(body)
    for name, value in extra.items():
        there = result.get(name)
        both = isinstance(there, dict) and isinstance(value, dict)
        result[name] = merged(there, value) if both else value  # type: ignore[arg-type]  # `both`
    return result


def encode_content(
    message: ChatMessage,
    encode_text: Callable[[str], JsonValue],
    encode_file: Callable[[File], JsonValue | None],
    origin: Origin,
) -> JsonValue:
    """The text, or a list of it and the files in their order.

    Raises:
        LLMError: `encode_file` has no form for a file, or the message's role has no files.
    """
    if not any(isinstance(part, File) for part in message.parts):
        return message.text
    items: list[JsonValue] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            if part.text:
                items.append(encode_text(part.text))
        elif isinstance(part, File):
            item = encode_file(part) if message.role == "user" else None
            if item is None:
                raise unsendable(part, message.role, origin)
            items.append(item)
    return items


def unsendable(part: File, role: str, origin: Origin) -> LLMError:
    """Of a file that the API has no form for, in a message of this role."""
    what = f"{part.media_type} {part.name!r}" if part.name else part.media_type
    form = "the bytes of a file" if isinstance(part, BlobPart) else "the address of a file"
    return origin.error(
        LLMErrorKind.BAD_REQUEST,
        f"was not asked: it cannot take {form} ({what}) in a message of role {role!r}",
        fix="Say what is in it as text, or send another kind of file in a user's message.",
    )


def is_fetched(part: UriPart) -> bool:
    """Whether it is an address; otherwise it is the id of an uploaded file."""
    return part.uri.partition(":")[0].lower() in ("http", "https", "data")


def is_document(part: File) -> bool:
    return part.media_type.startswith(("application/", "text/"))


def file_name(part: BlobPart) -> str:
    """Its name; servers insist on one, and on its ending."""
    return part.name or f"file{guess_extension(part.media_type) or ''}"


def as_data_url(part: BlobPart) -> str:
    return f"data:{part.media_type};base64,{b64encode(part.data).decode()}"


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The object that should be there; an empty one if anything else is."""
    return value if isinstance(value, dict) else {}


def read_object(text: str) -> dict[str, Any]:
    """The JSON object that a text spells; an empty one if it spells anything else."""
    try:
        return dict(as_mapping(from_json(text)))
    except ValueError:
        return {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: Any) -> int | None:
    """A number of tokens; `None` for anything else, and JSON's `true` is not 1."""
    return value if type(value) is int and value >= 0 else None


def _as_bytes(body: dict[str, JsonValue]) -> bytes:
    try:
        return to_json(body)
    except ValueError:
        # Half of a surrogate pair, in a tool's description say, has no bytes but `\ud83d`.
        return json.dumps(body).encode()


async def _beginning(reply: Reply) -> bytes:
    """The first bytes of the body, without blanks before them; none if it is empty."""
    begin = b""
    while not begin and (piece := await reply.read_piece()):
        begin = piece.removeprefix(BOM_UTF8).lstrip()
    return begin


class _StreamedAnswer:
    """The chunks of an answer, from the bytes of its events."""

    def __init__(self, decoder: Decoder, origin: Origin) -> None:
        self._decoder = decoder
        self._origin = origin
        self._reader = EventReader(_MAX_BODY_BYTES)
        self.said_done = False
        """Nothing follows, although the server may stay connected."""

    def feed(self, piece: bytes) -> Iterator[Chunk]:
        return self._decode(self._reader.feed(piece))

    def end(self) -> Iterator[Chunk]:
        if not self.said_done:
            yield from self._decode(self._reader.finish())
        yield from self._decoder.end(said_done=self.said_done)

    def _decode(self, events: Iterable[str]) -> Iterator[Chunk]:
        try:
            for event in events:
                if event.strip() == "[DONE]":
                    self.said_done = True
                # Some servers keep the connection alive with events of nothing.
                elif event:
                    yield from self._decoder.feed(parse_json(event, self._origin))
                    self.said_done = self._decoder.done
                if self.said_done:
                    return
        except EventTooLargeError as cause:
            raise self._origin.error(LLMErrorKind.BAD_RESPONSE, f"sent {cause}") from cause


async def _read_json(reply: Reply, origin: Origin, begin: bytes = b"") -> Any:
    body = begin + await reply.read(_MAX_BODY_BYTES)
    text = body.removeprefix(BOM_UTF8).decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        raise origin.error(LLMErrorKind.BAD_RESPONSE, "answered with a web page")
    return parse_json(text, origin)


def parse_json(text: str, origin: Origin) -> Any:
    """Raises: LLMError: it is no JSON."""
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
