"""What a model answers and how a call of it fails, in no vendor's words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

Then: TypeAlias = Literal["end", "cut", "hang"]
"""After the pieces: the body ends as it should, the connection closes in the middle of it, or
nothing more comes until the client leaves."""


@dataclass(frozen=True)
class Tokens:
    """`input` includes the cached ones, `output` includes the reasoning ones."""

    input: int = 21
    output: int = 9
    cache_read: int = 5
    cache_write: int = 0
    reasoning: int = 2


@dataclass(frozen=True)
class Call:
    """A tool call; an empty `id` is left out."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A good answer, sent whole or streamed as the request asks.

    `finish_reason` is `stop`, `length`, `tool_calls` or `content_filter`. Where `interleaved`, the
    pieces of the calls take turns in a stream. `late_usage`: nothing is counted at its beginning.
    """

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()
    finish_reason: str | None = None
    usage: Tokens | None = field(default_factory=Tokens)
    id: str = "answer-1"
    signature: str | None = None
    interleaved: bool = False
    late_usage: bool = False

    @property
    def why(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")


What: TypeAlias = Literal[
    "key", "permission", "model", "request", "context", "content", "rate", "server", "overloaded"
]


@dataclass(frozen=True)
class Fault:
    """An error in the vendor's form; `message` in place of what it would say."""

    what: What
    message: str | None = None
    retry_after: str | None = None


@dataclass(frozen=True)
class Raw:
    """Any bytes at all."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    then: Then = "end"
    head: bytes | None = None
    """Sent instead of a status line and headers."""
    pause_s: float = 0.0
    """How much later than the last piece the end is told."""
    gate: asyncio.Semaphore | None = None
    """Each piece but the first waits until it is released once more."""


SILENCE = Raw(head=b"", then="hang")
"""The request is taken, and nothing is ever said."""
NOTHING = Raw(head=b"", then="cut")
"""The request is taken, and the connection is closed."""
WEB_PAGE = Raw([b"<html><title>Welcome</title></html>"], headers={"Content-Type": "text/html"})


def as_they_are(pieces: list[bytes]) -> list[bytes]:
    return pieces


@dataclass(frozen=True)
class Sent:
    """A good answer, and what becomes of its bytes on the way.

    The pieces are the events of a stream, or the one body. `fault` follows them in a stream.
    """

    answer: Answer
    pieces: Callable[[list[bytes]], list[bytes]] = as_they_are
    then: Then = "end"
    gate: asyncio.Semaphore | None = None
    fault: Fault | None = None


Reply: TypeAlias = Answer | Fault | Sent | Raw


def recut(cuts: Sequence[float]) -> Callable[[list[bytes]], list[bytes]]:
    """The same bytes in other pieces; each cut is a place between 0 (begin) and 1 (end)."""

    def cut_again(pieces: list[bytes]) -> list[bytes]:
        data = b"".join(pieces)
        ends = sorted({int(cut * len(data)) for cut in cuts} | {len(data)})
        return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    return cut_again


def first_half(pieces: list[bytes]) -> list[bytes]:
    data = b"".join(pieces)
    return [data[: len(data) // 2]]


def broken(pieces: list[bytes]) -> list[bytes]:
    """No JSON any more."""
    data = b"".join(pieces)
    return [data.replace(b'"', b"", 1)]


def cut(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


T = TypeVar("T")


def take_turns(calls: Sequence[list[T]]) -> list[T]:
    """One piece of each call after the other."""
    longest = max(map(len, calls), default=0)
    return [pieces[n] for n in range(longest) for pieces in calls if n < len(pieces)]
