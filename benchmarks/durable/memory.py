"""The process whose memory is measured: `python -m benchmarks.durable.memory COUNT`.

It prints megabytes: after the first `EVENTS` durable events, and after all.
"""

from __future__ import annotations

import asyncio
import sys

from app.llmgine.bus import MessageBus

from ..memory import settled_mb
from .journal import FLIGHT, fresh_journal, publishing
from .subject import in_flight

EVENTS = 100_000


async def main(count: int) -> None:
    with fresh_journal() as journal:
        bus = MessageBus(journal=journal)
        publish = publishing(bus)
        async with bus:
            for some in (EVENTS, count - EVENTS):
                await in_flight(some, FLIGHT, publish)
                await bus.idle()
                print(settled_mb(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
