"""What is sent, and how it is timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from app.llmgine.messages import Command, Event

TEXT = "hello " * 25


class Greet(Command[str]):
    durable = True

    user: int
    text: str


class Greeted(Event):
    durable = True

    user: int
    text: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What one message took: on the clock, and of the processors where it was this process."""

    wall_s: float
    cpu_s: float | None = None


class Watch:
    """`with watch: ...` takes the time; `each(count)` shares it among the messages."""

    def __enter__(self) -> Self:
        self._began_s, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu_s = time.process_time() - self._cpu_s
        self._wall_s = time.perf_counter() - self._began_s

    def each(self, count: int) -> Taken:
        return Taken(self._wall_s / count, self._cpu_s / count)


async def in_flight(count: int, limit: int, send: Callable[[int], Awaitable[object]]) -> None:
    """Send that many, so many of them at a time."""
    numbers = iter(range(count))

    async def keep_sending() -> None:
        for number in numbers:
            await send(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(keep_sending())
