"""Worker processes that share a journal: `python -m benchmarks.durable.workers FILE`.

Such a process does what is kept there once it reads a line, and ends when there is no more. It
prints how many it handled, and the seconds of the processors that took.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.llmgine.bus import MessageBus
from app.llmgine.delivery import SQLiteJournal

from ..measure import ROOT, environment
from .subject import TEXT, Greet, Taken, in_flight

# A few milliseconds for each message.
TURNS = 40_000


def compute(command: Greet) -> str:
    number = command.user
    for turn in range(TURNS):
        number = (number * 31 + turn) % 65_521
    return str(number)


def _bus(file: Path, *, work: bool) -> MessageBus:
    bus = MessageBus(journal=SQLiteJournal(file), work=work)
    bus.register_command_handler(Greet, compute)
    return bus


async def worked(count: int, processes: int) -> Taken:
    """From the word to begin, given to processes that are ready, until all is done."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as workers:
        file = Path(folder) / "app.db"
        async with _bus(file, work=False) as bus:
            await in_flight(count, 128, lambda number: bus.send(Greet(user=number, text=TEXT)))
        started = [workers.enter_context(_worker(file)) for _ in range(processes)]
        await asyncio.gather(*(asyncio.to_thread(_line, one) for one in started))
        began_s = time.perf_counter()
        for one in started:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        answers = await asyncio.gather(*(asyncio.to_thread(_line, one) for one in started))
        wall_s = time.perf_counter() - began_s
    told = [[float(word) for word in answer.split()] for answer in answers]
    handled, cpu_s = map(sum, zip(*told, strict=True))
    if handled != count:
        raise RuntimeError(f"{handled:g} commands were handled instead of {count}")
    return Taken(wall_s / count, cpu_s / count)


def _worker(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(file)],
        cwd=ROOT,
        env=environment({"PYTHONPATH": str(ROOT / "tests")}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


async def _work(file: Path) -> None:
    handled = 0

    def count_and_compute(command: Greet) -> str:
        nonlocal handled
        handled += 1
        return compute(command)

    bus = MessageBus(journal=SQLiteJournal(file))
    bus.register_command_handler(Greet, count_and_compute)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began_s = time.process_time()
    async with bus:
        await bus.idle()
        print(handled, time.process_time() - began_s, flush=True)


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1])))
