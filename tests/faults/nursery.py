"""Starts copies of the application under test in milliseconds: forks of one that is loaded.

`Nursery` is the side of the test; run as a module, this file is the process that forks. Each child
has its own process group and dies with the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

TESTS = Path(__file__).parents[1]


class Nursery:
    """Runs `faults.workload.main(**settings)` in a new process for each `start`."""

    def __init__(self) -> None:
        self._codes: defaultdict[int, Future[int]] = defaultdict(Future)
        self._born: SimpleQueue[int] = SimpleQueue()
        self._mother = subprocess.Popen(
            [sys.executable, "-m", "faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            start_new_session=True,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def close(self) -> None:
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.close()
        self._mother.wait(10)
        self._listening.join(10)
        self._mother.stdout.close()

    def start(self, log: Path, **settings: Any) -> int:
        """The number of the new process; what it prints goes to the log."""
        assert self._mother.stdin is not None
        self._mother.stdin.write(json.dumps([str(log), settings]).encode() + b"\n")
        self._mother.stdin.flush()
        return self._born.get(timeout=30)

    async def ended(self, pid: int) -> int:
        """Wait until it has ended, and say how; a signal is a negative number."""
        return await asyncio.shield(asyncio.wrap_future(self._codes[pid]))

    def is_running(self, pid: int) -> bool:
        return not self._codes[pid].done()

    async def kill(self, pid: int, sign: signal.Signals = signal.SIGKILL) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, sign)
        return await self.ended(pid)

    def _listen(self) -> None:
        assert self._mother.stdout is not None
        for line in self._mother.stdout:
            what, pid, *code = line.split()
            if what == b"born":
                self._born.put(int(pid))
            else:
                self._codes[int(pid)].set_result(int(code[0]))


def _raise_children() -> None:
    workload = importlib.import_module("faults.workload")
    children: set[int] = set()
    # A signal that comes between two instructions is lost on a blocking read; a pipe keeps it.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    orders = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _bury(children)
        if 0 in ready:
            more = os.read(0, 65536)
            if not more:
                break
            *lines, orders = (orders + more).split(b"\n")
            for line in lines:
                log, settings = json.loads(line)
                pid = os.fork()
                if not pid:
                    _be_born(log)
                    workload.main(**settings)
                    os._exit(0)
                children.add(pid)
                os.write(1, f"born {pid}\n".encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _bury(children: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            children.discard(found[0])
            code = os.waitstatus_to_exitcode(found[1])
            os.write(1, f"died {found[0]} {code}\n".encode())


def _be_born(log: str) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    paper = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(paper, 1)
    os.dup2(paper, 2)


if __name__ == "__main__":
    _raise_children()
