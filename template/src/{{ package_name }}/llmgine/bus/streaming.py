# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Streamed commands: what the handler yields reaches the caller while it still runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BusError
from ..messages import Command, is_stream
from .handlers import outlet

if TYPE_CHECKING:
    from .bus import MessageBus

T = TypeVar("T")

# How many items of a stream its handler may be ahead of who reads them.
BUFFER = 16


async def stream(
    bus: MessageBus, command: Command[AsyncIterator[T]], session_id: str | None
) -> AsyncIterator[T]:
    """See `MessageBus.stream`."""
    if not is_stream(type(command)):
        raise BusError(f"{type(command).__name__!r} is not streamed: await bus.execute(...)")
    items: asyncio.Queue[Any] = asyncio.Queue()
    room = asyncio.Semaphore(BUFFER)
    end = object()

    async def put(item: Any) -> None:
        await room.acquire()
        items.put_nowait(item)

    context = copy_context()
    context.run(outlet.set, (command, put))
    executed = bus.execute(command, session_id=session_id)
    handler = asyncio.create_task(executed, context=context)
    handler.add_done_callback(lambda _: items.put_nowait(end))
    try:
        while (item := await items.get()) is not end:
            room.release()
            yield item
        await handler
    finally:
        handler.cancel()
        await asyncio.wait([handler])
