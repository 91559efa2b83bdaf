"""A loopback server that speaks OpenAI's Chat Completions, well or as badly as it is told to.

It needs the standard library alone, so that it runs in any environment:

    python fake_openai.py --port 0        # prints its base URL, serves until it is stopped

Left alone it repeats what it is told. `call NAME {...}` makes it call the tool of that name, and a
tool's result makes it say what the tool said. In a test, `will` scripts the next replies.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

CREATED = 1_760_000_000
USAGE: Mapping[str, Any] = {
    "prompt_tokens": 21,
    "completion_tokens": 9,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@dataclass(frozen=True)
class Call:
    """A tool call of an answer."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A good answer, sent whole or streamed as the request asks."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = field(default_factory=lambda: USAGE)
    id: str = "chatcmpl-fake"

    @property
    def why(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def body(self, model: str) -> dict[str, Any]:
        """The `chat.completion` object."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [{"type": "function"} | spell(call) for call in self.calls]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": CREATED,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.why}],
            **({} if self.usage is None else {"usage": dict(self.usage)}),
        }

    def events(self, model: str, *, usage: bool = True) -> list[dict[str, Any]]:
        """The `chat.completion.chunk` objects."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in cut(self.reasoning)]
        deltas += [{"content": piece} for piece in cut(self.text)]
        for index, call in enumerate(self.calls):
            head = {"index": index, "type": "function"} | spell(Call(call.id, call.name, ""))
            deltas.append({"tool_calls": [head]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in cut(call.arguments)
            ]
        events = [self._event(model, delta) for delta in deltas]
        events.append(self._event(model, {}, self.why))
        if usage and self.usage is not None:
            events.append({**self._event(model, {}), "choices": [], "usage": dict(self.usage)})
        return events

    def _event(self, model: str, delta: dict[str, Any], why: str | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": why}],
        }


@dataclass(frozen=True)
class Raw:
    """Any bytes at all. `then` says what happens to the connection after the pieces:

    `end`: the body ends as it should; `cut`: the connection closes in the middle of it; `hang`:
    nothing more comes until the client leaves.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    then: Literal["end", "cut", "hang"] = "end"
    head: bytes | None = None
    """Sent instead of a status line and headers."""
    pause_s: float = 0.0
    """How much later than the last piece the end is told."""


SILENCE = Raw(head=b"", then="hang")
"""The request is taken, and nothing is ever said."""


def whole(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Raw:
    """One JSON body."""
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    return Raw([json.dumps(body).encode()], status, all_headers)


def refusal(
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Raw:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return whole({"error": error}, status, headers)


def stream(
    *events: dict[str, Any] | str | bytes, then: Literal["end", "cut", "hang"] = "end"
) -> Raw:
    """An event stream of JSON objects, texts (`[DONE]`), and bytes that are sent as they are."""
    pieces = [event if isinstance(event, bytes) else as_event(event) for event in events]
    return Raw(pieces, headers={"Content-Type": "text/event-stream"}, then=then)


def as_event(event: dict[str, Any] | str) -> bytes:
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def cut(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def spell(call: Call) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


@dataclass(frozen=True)
class Recorded:
    """A request as it arrived; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class FakeOpenAI:
    """The server, and what it saw of its clients.

    `requests` holds what it was sent; `open_connections`, `connections_made` and `abandoned` (those
    whose client left a reply that hangs) count connections.
    """

    def __init__(self, *replies: Answer | Raw, port: int = 0) -> None:
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

    def will(self, *replies: Answer | Raw) -> None:
        """Give these replies next, one for each request."""
        self._replies.extend(replies)

    @property
    def url(self) -> str:
        """The base URL, for `OPENAI_BASE_URL`."""
        return f"http://127.0.0.1:{self._port}/v1"

    async def all_left(self) -> None:
        """Wait until no client is connected."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.open_connections == 0)

    async def client_left(self) -> None:
        """Wait until a client has closed the connection of a reply that hangs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.abandoned > 0)

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
            while (request := await _read_request(reader)) is not None:
                async with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                reply = self._reply_to(request)
                await _write(writer, reply)
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
        if not path.endswith("/chat/completions"):
            return refusal(404, f"Invalid URL ({request.method} {request.path})")
        reply = self._replies.popleft() if self._replies else self._echo(request.body)
        if isinstance(reply, Raw):
            return reply
        model = request.body["model"]
        if not request.body.get("stream"):
            return whole(reply.body(model))
        usage = bool((request.body.get("stream_options") or {}).get("include_usage"))
        return stream(*reply.events(model, usage=usage), "[DONE]")

    def _echo(self, body: dict[str, Any]) -> Answer:
        id_ = f"chatcmpl-{next(self._ids)}"
        last = body["messages"][-1]
        content = last.get("content") or ""
        if last["role"] == "tool":
            return Answer(f"The tool said: {content}", id=id_)
        order = re.fullmatch(r"call (\w+) (\{.*\})", content, re.DOTALL)
        tools = {tool["function"]["name"] for tool in body.get("tools", ())}
        if order and order[1] in tools:
            return Answer(calls=[Call(f"call_{id_}", order[1], order[2])], id=id_)
        return Answer(f"You said: {content}", id=id_)


async def _read_request(reader: asyncio.StreamReader) -> Recorded | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    return Recorded(method, path, headers, json.loads(data) if data else None)


_END = b"0\r\n\r\n"


async def _write(writer: asyncio.StreamWriter, reply: Raw) -> None:
    for piece in _on_the_wire(reply):
        if piece == _END:
            await asyncio.sleep(reply.pause_s)
        writer.write(piece)
        await writer.drain()


def _on_the_wire(reply: Raw) -> Iterator[bytes]:
    if reply.head is not None:
        yield reply.head
        return
    headers = {"Transfer-Encoding": "chunked", **reply.headers}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    yield f"HTTP/1.1 {reply.status} Fake\r\n{''.join(lines)}\r\n".encode()
    for piece in reply.pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    if reply.then == "end":
        yield _END


async def _main(port: int) -> None:
    async with FakeOpenAI(port=port) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a fake OpenAI on the loopback interface.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    asyncio.run(_main(parser.parse_args().port))
