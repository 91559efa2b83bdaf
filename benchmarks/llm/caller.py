"""The process that is measured: `python -m benchmarks.llm.caller SUBJECT URL`.

It says what it has loaded before its first call. Then it reads lines, `complete COUNT LIMIT` or
`stream COUNT LIMIT`, makes so many calls, so many at a time, and answers with the seconds on the
clock, those of the processor, and the megabytes that it then has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from ..memory import STATM, settled_mb
from . import subjects

LATE = ("aiohttp", "anthropic", "httpx", "httpx2", "litellm", "openai")
# What a library does after it has answered belongs to the call, too.
SETTLE_S = 0.05


async def main(subject: str, url: str) -> None:
    caller: subjects.Caller = getattr(subjects, subject)(url)
    print(json.dumps([name for name in LATE if name in sys.modules]), flush=True)
    for line in sys.stdin:
        what, count, limit = line.split()
        call = getattr(caller, what)
        if await call() != subjects.TEXT:
            raise RuntimeError(f"{subject} does not get the text that the server sends.")
        print(json.dumps(await _measured(call, int(count), int(limit))), flush=True)


async def _measured(call: Callable[[], Awaitable[str]], count: int, limit: int) -> list[float]:
    # Connections that were idle for long are closed; to open them is not what is compared.
    await subjects.at_once(limit, limit, call)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await subjects.at_once(count, limit, call)
    wall_s = time.perf_counter() - began_s
    await asyncio.sleep(SETTLE_S)
    cpu_s = time.process_time() - cpu_s
    return [wall_s / count, cpu_s / count, settled_mb() if STATM.exists() else 0.0]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
