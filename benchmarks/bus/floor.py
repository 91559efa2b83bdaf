"""The least anybody can do: make the message, with identity, and await the handler."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from ..measure import CpuTimer
from .subject import AT_ONCE, Handled, Subject


class Greet(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: uuid4().hex)
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    correlation_id: str
    user: int
    text: str


async def commands(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet(message: Greet) -> str:
        handled.count += 1
        return message.text

    correlation_id = uuid4().hex
    with timer:
        for number in range(count):
            await greet(Greet(correlation_id=correlation_id, user=number, text="hello"))


async def at_once(count: int, timer: CpuTimer, handled: Handled) -> None:
    async def greet(message: Greet) -> str:
        handled.count += 1
        return message.text

    correlation_id = uuid4().hex
    with timer:
        for _ in range(count // AT_ONCE):
            messages = (
                Greet(correlation_id=correlation_id, user=number, text="hello")
                for number in range(AT_ONCE)
            )
            await asyncio.gather(*map(greet, messages))


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    async def note(message: Greet) -> None:
        handled.count += 1

    async def work() -> None:
        while True:
            message = await queue.get()
            for handle in subscribed:
                await handle(message)
            queue.task_done()

    queue: asyncio.Queue[Greet] = asyncio.Queue()
    subscribed = [note] * handlers
    worker = asyncio.create_task(work())
    correlation_id = uuid4().hex
    with timer:
        for number in range(count):
            await queue.put(Greet(correlation_id=correlation_id, user=number, text="hello"))
        await queue.join()
    worker.cancel()


SUBJECT = Subject("floor", commands, events, at_once)
