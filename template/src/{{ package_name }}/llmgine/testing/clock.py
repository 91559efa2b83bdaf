# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 1, tzinfo=UTC)
# How often to let the others run on a loop that does not show what it has ready (uvloop).
_ROUNDS = 250


class FakeTimer:
    """One callback that waits for its time."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """A `Clock` for tests: time passes in `advance` only, and nothing really sleeps.

    `monotonic()` begins at 0.
    """

    def __init__(self, start: datetime = _START) -> None:
        """Raises: ValueError: `start` has no timezone."""
        if start.tzinfo is None:
            raise ValueError(f"{start!r} has no timezone; give it one: tzinfo=UTC.")
        self._wall = start.astimezone(UTC)
        self._elapsed_s = 0.0
        self._heap: list[tuple[float, int, FakeTimer]] = []
        self._count = itertools.count()
        self._advancing = asyncio.Lock()

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        return self._elapsed_s

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        timer = FakeTimer(when, callback)
        heapq.heappush(self._heap, (when, next(self._count), timer))
        return timer

    @property
    def timers(self) -> int:
        """How many callbacks still wait for their time."""
        return sum(timer.callback is not None for _, _, timer in self._heap)

    async def advance(self, seconds: float) -> None:
        """Go forward, stopping at each timer that falls due, those set on the way included.

        Timers due at the same moment run in the order in which they were set. Before the first
        and after each, every task that can run does so until it waits again. Threads and sockets
        are not waited for, for their time is not this clock's.
        """
        if seconds < 0:
            raise ValueError(f"Time cannot go back by {-seconds} s; jump() moves the wall clock.")
        async with self._advancing:  # Two at once would each wait for the other to settle.
            until = self._elapsed_s + seconds
            await _settle()
            while self._heap and self._heap[0][0] <= until:
                when, _, timer = heapq.heappop(self._heap)
                if timer.callback is not None:
                    self._elapsed_s = max(self._elapsed_s, when)
                    timer.callback()
                    await _settle()
            self._elapsed_s = until

    def jump(self, delta: timedelta) -> None:
        """Move the wall time only, as a corrected or a suspended machine does."""
        self._wall += delta


async def _settle() -> None:
    """Let every other task run until all of them wait."""
    ready = getattr(asyncio.get_running_loop(), "_ready", None)
    rounds = itertools.count() if ready is not None else range(_ROUNDS)
    for _ in rounds:
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return
