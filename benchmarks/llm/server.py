"""A server that says the same to everybody: `python -m benchmarks.llm.server` prints its port.

It does as little as it can, so that it is not what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import cast

import uvloop

from .subjects import MODEL, TEXT, WORDS

_COMMON = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": MODEL}
_USAGE = {
    "prompt_tokens": 25,
    "completion_tokens": 20,
    "total_tokens": 45,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')


def _completion() -> bytes:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    answer = {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _events() -> list[bytes]:
    """The first and the last words, the usage, and what lies between: 23 events, and the end."""

    def event(delta: dict[str, str] | None, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        choices = [] if delta is None else [choice]
        usage = _USAGE if delta is None else None
        body = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
        return f"data: {json.dumps(body)}\n\n".encode()

    deltas = [event({"role": "assistant", "content": ""}), *(event({"content": w}) for w in WORDS)]
    return [*deltas, event({}, "stop"), event(None), b"data: [DONE]\n\n"]


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


COMPLETION = _completion()
EVENTS = [_piece(event) for event in _events()]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = _piece(b"")


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        if _STREAMED.search(body):
            self._say([HEAD, *EVENTS, END])
        else:
            self._transport.write(COMPLETION)

    def _say(self, pieces: list[bytes]) -> None:
        """Each in a turn of its own, so that each travels alone, as a model's words do."""
        self._transport.write(pieces[0])
        if len(pieces) > 1 and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._say, pieces[1:])


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
