# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The entries of the journal that one process has in hand, and how they take turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any

from ..delivery.journal import Entry
from ..messages import Envelope

PREFETCH = 16

Handle = Callable[[Envelope], Awaitable[Any]]
Work = Callable[["Route", Entry], Coroutine[Any, Any, None]]


class Route:
    """Runs the entries of one handler: so many at once, those of one key one after the other."""

    __slots__ = ("_behind", "_limit", "_ready", "_running", "_work", "capacity", "in_hand", "name")

    def __init__(self, name: str, limit: int, work: Work) -> None:
        self.name = name
        self._limit = limit
        # A few more than run, so that the next is at hand; the others are free for any worker.
        self.capacity = limit + PREFETCH
        self.in_hand = 0
        self._work = work
        self._ready: deque[Entry] = deque()
        # The entries that wait for the one of their key that is ready or running.
        self._behind: dict[str, deque[Entry]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def put(self, entry: Entry) -> None:
        if entry.key is not None:
            if entry.key in self._behind:
                self._behind[entry.key].append(entry)
                return
            self._behind[entry.key] = deque()
        self._ready.append(entry)
        self._start()

    def _start(self) -> None:
        while self._ready and len(self._running) < self._limit:
            entry = self._ready.popleft()
            # An empty context: nothing of whoever happened to send it may stick to the handler.
            task = asyncio.get_running_loop().create_task(
                self._work(self, entry), name=self.name, context=Context()
            )
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    def is_busy(self, key: str | None) -> bool:
        return key in self._behind

    def next_of_key(self, entry: Entry) -> None:
        """Let the next entry of the key go."""
        if entry.key is None or entry.key not in self._behind:
            return
        if behind := self._behind[entry.key]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[entry.key]

    def leave_key(self, entry: Entry) -> list[Entry]:
        """Free the key; return those that waited behind the entry, taken out."""
        return [] if entry.key is None else list(self._behind.pop(entry.key, ()))

    def take_waiting(self) -> list[Entry]:
        """Those that did not begin yet, taken out."""
        waiting = [*self._ready, *(one for behind in self._behind.values() for one in behind)]
        self._ready.clear()
        for behind in self._behind.values():
            behind.clear()
        return waiting

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancel what runs, and return it."""
        for task in self._running:
            task.cancel()
        return set(self._running)
