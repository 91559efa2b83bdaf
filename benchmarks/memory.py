"""The process whose memory is measured: `python -m benchmarks.memory [events|sessions]`.

It prints megabytes. It lies outside `bus`, for it must not load the peers.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

from app.llmgine.bus import MessageBus
from app.llmgine.messages import Command, Event

STATM = Path("/proc/self/statm")
EVENTS, CAPACITY, SESSIONS = 100_000, 10_000, 10_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Greet(Command[str]):
    user: int
    text: str


class Greeted(Event):
    user: int
    text: str


def _resident_mb() -> float:
    return int(STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES / 1e6


def settled_mb() -> float:
    gc.collect()
    return _resident_mb()


async def events() -> list[float]:
    """Peak, and rest when idle, above what there was after the first event."""

    handled = most = 0

    async def note(event: Greeted) -> None:
        nonlocal handled
        handled += 1
        # Slower than who publishes: that one only ever waits for room.
        await asyncio.sleep(0)

    bus = MessageBus()
    bus.register_event_handler(Greeted, note, capacity=CAPACITY)
    async with bus:
        await bus.publish(Greeted(user=0, text="hello"))
        await bus.idle()
        before, handled = settled_mb(), 0
        peak = before
        for number in range(EVENTS):
            await bus.publish(Greeted(user=number, text="hello"))
            most = max(most, number + 1 - handled)
            if number % 100 == 0:
                peak = max(peak, _resident_mb())
        await bus.idle()
        if most < CAPACITY:
            raise RuntimeError(f"{most} events waited; {CAPACITY} are to be measured.")
        return [peak - before, settled_mb() - before]


async def sessions() -> list[float]:
    """What the second thousands add to the first."""

    async def greet(command: Greet) -> str:
        return command.text

    async def note(event: Greeted) -> None:
        pass

    async def live() -> float:
        for number in range(SESSIONS):
            async with bus.session() as session:
                session.register_event_handler(Greeted, note)
                await session.execute(Greet(user=number, text="hello"))
                await session.publish(Greeted(user=number, text="hello"))
        return settled_mb()

    bus = MessageBus()
    bus.register_command_handler(Greet, greet)
    async with bus:
        first = await live()
        return [await live() - first]


if __name__ == "__main__":
    print(*asyncio.run({"events": events, "sessions": sessions}[sys.argv[1]]()))
