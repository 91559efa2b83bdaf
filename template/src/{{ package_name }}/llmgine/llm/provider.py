# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""What a model provider is: the one seam between the application and any vendor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

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
