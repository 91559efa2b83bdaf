"""HTTP as far as a fake server needs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .answers import Raw

_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Recorded:
    """A request as it arrived; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


async def read_request(reader: asyncio.StreamReader) -> Recorded | None:
    """The next one, or nothing if the client has left."""
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


async def write(writer: asyncio.StreamWriter, reply: Raw) -> None:
    for number, piece in enumerate(_on_the_wire(reply)):
        if piece == _END:
            await asyncio.sleep(reply.pause_s)
        elif reply.gate and number > 1:
            await reply.gate.acquire()
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


def as_event(event: Mapping[str, Any] | str, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()
