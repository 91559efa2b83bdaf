"""An event loop for which one seed is one interleaving, and whose time jumps instead of passing."""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

# Time jumps only when nothing can run: to sleep for a moment is to let all others come to rest.
MOMENT_S = 1e-6


class DeadlockError(Exception):
    """Nothing can run and no timer is set, but the main coroutine has not ended."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs one ready handle at a time, drawn from the seed among the steps of different tasks.

    What asyncio promises stays: a task's own steps are in order, and plain callbacks run in the
    order in which they were scheduled. Threads and sockets are never looked at.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.unhandled: list[str] = []
        self._now_s = 0.0
        self.set_exception_handler(
            lambda _, context: self.unhandled.append(
                f"{context['message']}: {context.get('exception')!r}"
            )
        )

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        self._jump()
        handle = self._draw()
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        """Move what is due to the ready ones; go to the next timer if nothing is ready."""
        timers: list[Any] = self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False
        if not self._ready:
            if not timers:
                raise DeadlockError(f"Everything waits, at {self._now_s:g} s.")
            self._now_s = max(self._now_s, timers[0].when())
        while timers and timers[0].when() <= self._now_s:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)

    def _draw(self) -> asyncio.Handle:
        # As it is now: whatever the garbage collector ends meanwhile comes behind.
        ready: list[Any] = list(self._ready)
        plain = next((n for n, one in enumerate(ready) if not _is_step(one)), None)
        drawable = [n for n, one in enumerate(ready) if n == plain or _is_step(one)]
        drawn = self.random.choice(drawable)
        handle: asyncio.Handle = ready[drawn]
        del self._ready[drawn]
        return handle


def _is_step(handle: Any) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)


class LoopClock:
    """A bus's clock that goes by the simulated loop's time."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(when, callback)


def simulate(seed: int, scenario: Callable[[random.Random], Awaitable[None]]) -> None:
    """Run the scenario in the seed's interleaving, with the seed's random choices.

    Raises:
        DeadlockError: it never ended.
        AssertionError: the scenario's own, or it left a task or an unhandled error behind.
    """
    loop = SimulatedLoop(seed)

    async def main() -> None:
        await scenario(loop.random)
        await asyncio.sleep(MOMENT_S)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert not loop.unhandled, loop.unhandled
