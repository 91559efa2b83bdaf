"""The process that DBOS runs in: `python -m benchmarks.durable.dbos COUNT FLIGHT`.

A workflow of one step on SQLite, as its documentation begins. It prints the seconds, on the clock
and of the processors, that one took.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile

from dbos import DBOS, DBOSConfig

from .subject import TEXT, Watch, in_flight


@DBOS.step()
async def greet(user: int, text: str) -> str:
    return text


@DBOS.workflow()
async def welcome(user: int, text: str) -> str:
    return await greet(user, text)


async def main(count: int, flight: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "log_level": "ERROR",
        }
        DBOS(config=config)
        DBOS.launch()
        await welcome(0, TEXT)
        with (watch := Watch()):
            await in_flight(count, flight, lambda number: welcome(number, TEXT))
        taken = watch.each(count)
        DBOS.destroy()
    print(taken.wall_s, taken.cpu_s)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
