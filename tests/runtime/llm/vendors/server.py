"""A loopback server that speaks three vendors' APIs, well or as badly as it is told to.

It needs the standard library alone, so that it runs in any environment. Left alone it repeats what
it is told. `call NAME {...}` makes it call the tool of that name, and a tool's result makes it say
what the tool said. In a test, `will` scripts the next replies.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, Self

from . import chat_completions, messages, responses
from ._wire import Recorded, read_request, write
from .answers import Answer, Call, Fault, Raw, Reply, Sent


class Format(Protocol):
    """How one API spells answers and faults; each is a module."""

    PATH: str

    def body(self, answer: Answer, asked: Mapping[str, Any]) -> dict[str, Any]: ...

    def events(self, answer: Answer, asked: Mapping[str, Any]) -> list[bytes]: ...

    def refuse(self, fault: Fault) -> tuple[int, dict[str, Any]]: ...

    def break_off(self, fault: Fault) -> bytes: ...

    def newest(self, asked: Mapping[str, Any]) -> tuple[bool, str]: ...

    def tools(self, asked: Mapping[str, Any]) -> set[str]: ...


FORMATS: tuple[Format, ...] = (chat_completions, responses, messages)
_HEADERS = {"request-id": "req_1"}


def whole(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Raw:
    """One JSON body."""
    all_headers = {"Content-Type": "application/json", **_HEADERS, **(headers or {})}
    return Raw([json.dumps(body).encode()], status, all_headers)


def spell(reply: Reply, form: Format, asked: Mapping[str, Any]) -> Raw:
    """The bytes that one API has for it."""
    if isinstance(reply, Raw):
        return reply
    if isinstance(reply, Fault):
        headers = {} if reply.retry_after is None else {"Retry-After": reply.retry_after}
        status, error = form.refuse(reply)
        return whole(error, status, headers)
    sent = reply if isinstance(reply, Sent) else Sent(reply)
    if asked.get("stream"):
        pieces, type_ = form.events(sent.answer, asked), "text/event-stream"
    else:
        pieces, type_ = [json.dumps(form.body(sent.answer, asked)).encode()], "application/json"
    pieces = sent.pieces(pieces)
    if sent.fault:
        pieces.append(form.break_off(sent.fault))
    headers = {"Content-Type": type_, **_HEADERS}
    return Raw(pieces, headers=headers, then=sent.then, gate=sent.gate)


class VendorServer:
    """The server, and what it saw of its clients.

    `requests` holds what it was sent; `open_connections`, `connections_made` and `abandoned` (those
    whose client left a reply that hangs) count connections.
    """

    def __init__(self, *replies: Reply, port: int = 0) -> None:
        self.requests: list[Recorded] = []
        self.open_connections = 0
        self.connections_made = 0
        self.abandoned = 0
        self._replies = deque(replies)
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._ids = itertools.count(1)

    def will(self, *replies: Reply) -> None:
        """Give these replies next, one for each request."""
        self._replies.extend(replies)

    @property
    def root(self) -> str:
        """The base URL, for `ANTHROPIC_BASE_URL`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The base URL, for `OPENAI_BASE_URL`."""
        return f"{self.root}/v1"

    async def all_left(self) -> None:
        """Wait until no client is connected."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.open_connections == 0)

    async def client_left(self, times: int = 1) -> None:
        """Wait until clients have closed so many connections of replies that hang."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.abandoned >= times)

    async def asked(self, times: int = 1) -> None:
        """Wait until so many requests have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= times)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def serve_forever(self) -> None:
        assert self._server is not None
        await self._server.serve_forever()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(+1)
        try:
            while (request := await read_request(reader)) is not None:
                async with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                reply = self._reply_to(request)
                await write(writer, reply)
                if reply.then == "hang":
                    await self._wait_for_the_end(reader)
                if reply.then != "end":
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            await self._count(-1)

    async def _wait_for_the_end(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            await reader.read()
        async with self._changed:
            self.abandoned += 1
            self._changed.notify_all()

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.open_connections += change
            self.connections_made += max(change, 0)
            self._changed.notify_all()

    def _reply_to(self, request: Recorded) -> Raw:
        path = request.path.partition("?")[0]
        if path.endswith("/models"):
            return whole({"object": "list", "data": [{"id": "fake", "object": "model"}]})
        for form in FORMATS:
            if path.endswith(form.PATH):
                reply = self._replies.popleft() if self._replies else self._echo(form, request.body)
                return spell(reply, form, request.body)
        error = {"message": f"Invalid URL ({request.method} {request.path})", "code": None}
        return whole({"error": error}, 404)

    def _echo(self, form: Format, asked: Mapping[str, Any]) -> Answer:
        id_ = f"answer-{next(self._ids)}"
        is_result, said = form.newest(asked)
        if is_result:
            return Answer(f"The tool said: {said}", id=id_)
        order = re.fullmatch(r"call (\w+) (\{.*\})", said, re.DOTALL)
        if order and order[1] in form.tools(asked):
            return Answer(calls=[Call(f"call_{id_}", order[1], order[2])], id=id_)
        return Answer(f"You said: {said}", id=id_)
