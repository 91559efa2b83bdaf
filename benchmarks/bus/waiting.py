"""Events to a handler that waits, as one that calls a model does."""

from __future__ import annotations

import asyncio
import time

from app.llmgine.bus import MessageBus

from ..report import Figure, at_most
from .llmgine import Greeted

EVENTS, WAIT_S = 100, 0.01


async def wall_s() -> float:
    """Seconds on the clock until all are handled; the lane has the concurrency it has."""

    async def wait(event: Greeted) -> None:
        await asyncio.sleep(WAIT_S)

    bus = MessageBus()
    bus.register_event_handler(Greeted, wait)
    async with bus:
        began_s = time.perf_counter()
        for number in range(EVENTS):
            await bus.publish(Greeted(user=number, text="hello"))
        await bus.idle()
        return time.perf_counter() - began_s


def figure(wall_s: float) -> Figure:
    what = f"{EVENTS} events to a handler that waits {WAIT_S * 1e3:g} ms: all handled"
    return Figure(what, wall_s, "s", at_most(0.1))
