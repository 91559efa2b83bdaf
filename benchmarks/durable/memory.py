"""The process whose memory is measured: `python -m benchmarks.durable.memory COUNT`.

It prints megabytes: after the first `EVENTS` durable events, and after all.
"""

from __future__ import annotations

import asyncio
import sys

from app.llmgine.bus import MessageBus

from ..memory import settled_mb
from .journal import fresh_journal
from .subject import TEXT, Greeted, in_flight

FLIGHT, EVENTS = 128, 100_000


async def main(count: int) -> None:
    room = asyncio.Semaphore(FLIGHT)

    async def note(event: Greeted) -> None:
        room.release()

    with fresh_journal() as journal:
        bus = MessageBus(journal=journal)
        bus.register_event_handler(Greeted, note, concurrency=FLIGHT)
        async with bus:

            async def publish(number: int) -> None:
                await room.acquire()
                await bus.publish(Greeted(user=number, text=TEXT))

            for some in (EVENTS, count - EVENTS):
                await in_flight(some, FLIGHT, publish)
                await bus.idle()
                print(settled_mb(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
