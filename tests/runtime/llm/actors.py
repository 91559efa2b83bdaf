"""A provider whose models do as they are told, on a clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from app.llmgine.clock import sleep
from app.llmgine.contracts import (
    ChatMessage,
    Chunk,
    FinishReason,
    LLMRequest,
    LLMResponse,
    StreamEnd,
    TextDelta,
    Usage,
    accumulate,
)
from app.llmgine.errors import LLMError, LLMErrorKind
from app.llmgine.llm import LLMManager
from app.llmgine.testing import FakeClock

T = TypeVar("T")


@dataclass(frozen=True)
class Act:
    """One answer: its words, each after `gap_s`, and then its end or an error."""

    words: Sequence[str] = ("well", "then")
    error: LLMErrorKind | None = None
    retry_after_s: float | None = None
    gap_s: float = 0.0
    usage: Usage | None = None


class Actors:
    """Plays the acts of each model in turn, the last one again and again; `calls` is what came."""

    name = "actors"

    def __init__(self, clock: FakeClock, acts: Mapping[str, Sequence[Act]]) -> None:
        self.calls: list[tuple[float, LLMRequest]] = []
        self.closed = 0
        self._clock = clock
        self._acts = {model: list(them) for model, them in acts.items()}

    @property
    def called(self) -> list[str]:
        return [request.model for _, request in self.calls]

    async def complete(self, request: LLMRequest) -> LLMResponse:
        async with aclosing(self.stream(request)) as chunks:
            return accumulate([chunk async for chunk in chunks])

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        self.calls.append((self._clock.monotonic(), request))
        acts = self._acts[request.model]
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        try:
            for word in act.words:
                await self._wait(act)
                yield TextDelta(text=word)
            await self._wait(act)
        finally:
            self.closed += 1
        if act.error is not None:
            raise LLMError(
                f"{request.model} failed.",
                kind=act.error,
                provider=self.name,
                model=request.model,
                retry_after_s=act.retry_after_s,
            )
        yield StreamEnd(
            id="1",
            model=request.model,
            provider=self.name,
            finish_reason=FinishReason.STOP,
            usage=act.usage,
        )

    async def _wait(self, act: Act) -> None:
        if act.gap_s:
            await sleep(self._clock, act.gap_s)

    async def aclose(self) -> None: ...


class Stage:
    """A manager over actors, and the clock that all of them live by."""

    def __init__(self, acts: Mapping[str, Sequence[Act]] | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.actors = Actors(self.clock, acts or {})
        options.setdefault("random", lambda: 0.5)
        self.manager = LLMManager({"actors": lambda: self.actors}, clock=self.clock, **options)

    async def complete(self, model: str, **fields: Any) -> LLMResponse:
        return await self.play(self.manager.complete(ask(model, **fields)))

    async def stream(self, model: str, **fields: Any) -> list[Chunk]:
        return await self.play(self._all(ask(model, **fields)))

    async def _all(self, request: LLMRequest) -> list[Chunk]:
        return [chunk async for chunk in self.manager.stream(request)]

    async def play(self, work: Coroutine[Any, Any, T], *, step_s: float = 0.125) -> T:
        """Let time pass until the work is done."""
        task = asyncio.create_task(work)
        await self.clock.advance(0)
        while not task.done():
            await self.clock.advance(step_s)
        return await task


def ask(model: str, **fields: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(ChatMessage.user("Hello"),), **fields)


def fails(kind: LLMErrorKind, *words: str, **fields: Any) -> Act:
    return Act(words=words, error=kind, **fields)
