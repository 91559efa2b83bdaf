# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What stands behind a model's name: the one protocol that every provider keeps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..contracts import Chunk, LLMRequest, LLMResponse


class Provider(Protocol):
    """Answers model calls. Law: `accumulate(stream(request)) == await complete(request)`.

    Both raise `LLMError` and nothing else when the call fails. A stream ends with exactly one
    `StreamEnd`; closing it early closes the connection behind it.
    """

    @property
    def name(self) -> str:
        """The first half of a model's name: `openai` in `openai/gpt-5.1`."""
        ...

    async def complete(self, request: LLMRequest) -> LLMResponse: ...

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]: ...

    async def aclose(self) -> None:
        """Give back connections and threads; the provider is not used after it."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A provider that can tell, without a call, what a model of it lacks."""

    def check(self, model: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do. It may claim more than it does: who relies on it looks at the answer."""

    structured_output: bool = True
    """It keeps to the JSON Schema of a request's `output`."""
    tools: bool = True


@runtime_checkable
class Capable(Protocol):
    """A provider that knows what its models can do; of the others, everything is expected."""

    def capabilities(self, model: str) -> Capabilities: ...


@asynccontextmanager
async def closing_stream(chunks: AsyncIterator[Chunk]) -> AsyncIterator[AsyncIterator[Chunk]]:
    """The stream, closed at the end of the block if it is one that can be."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
