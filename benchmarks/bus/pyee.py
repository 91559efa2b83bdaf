"""The package `pyee`: the asyncio emitter; a task for each handler, no results."""

from __future__ import annotations

from pyee.asyncio import AsyncIOEventEmitter

from ..measure import CpuTimer
from .subject import Handled, Subject


async def events(count: int, handlers: int, timer: CpuTimer, handled: Handled) -> None:
    emitter = AsyncIOEventEmitter()
    for _ in range(handlers):

        async def note(event: dict[str, object]) -> None:
            handled.count += 1

        emitter.on("greeted", note)
    with timer:
        for number in range(count):
            emitter.emit("greeted", {"user": number, "text": "hello"})
        await emitter.wait_for_complete()


SUBJECT = Subject("pyee", events=events)
